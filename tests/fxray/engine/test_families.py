"""vLLM with base models of other families than the tiny one's: a Qwen3-VL and an InternVL with random weights."""

from collections.abc import Callable
from typing import Any

import pytest

from fxray.grpo.types import SamplingSettings
from fxray.versions import versions

FOUR = SamplingSettings(group_size=4, temperature=0.9, max_new_tokens=16)
TOLERANCE_NATS = 1e-3
Call = Callable[..., Any]

pytestmark = [pytest.mark.vllm, pytest.mark.ray]
drives_qwen3 = pytest.mark.skipif(
    versions()["packages"]["vllm"].startswith("0.28."), reason="vLLM 0.28 cannot start a Qwen3-VL on a CPU"
)


@drives_qwen3
def test_base_and_every_adapter_of_a_qwen3_vl_agree_with_peft(qwen3_engine: Call, qwen3_twin: Any) -> None:
    check_base_and_adapters(qwen3_engine, qwen3_twin, num_modules=3 * 7 + 3 * 4 + 3 * 2)


def test_base_and_every_adapter_of_an_internvl_agree_with_peft(internvl_engine: Call, internvl_twin: Any) -> None:
    drawn = check_base_and_adapters(internvl_engine, internvl_twin, num_modules=3 * 7)
    image_id = internvl_twin.image_token_id
    assert [answers.prompt_token_ids.tolist().count(image_id) for answers in drawn] == [20, 20, 16]


@drives_qwen3
@pytest.mark.long
def test_whole_weights_of_a_qwen3_vl_are_proved(whole_qwen3_engine: Call, whole_qwen3_twin: Any) -> None:
    check_whole_weights(whole_qwen3_engine, whole_qwen3_twin)


@pytest.mark.long
def test_whole_weights_of_an_internvl_are_proved(whole_internvl_engine: Call, whole_internvl_twin: Any) -> None:
    check_whole_weights(whole_internvl_engine, whole_internvl_twin)


def check_base_and_adapters(engine: Call, twin: Any, *, num_modules: int) -> Any:
    """Returns what the base model drew."""
    questions = twin.questions(1, 2, 3)
    of_base = engine("generate", questions, FOUR)
    assert twin.gap_nats(questions, of_base, FOUR, with_adapter=False) < TOLERANCE_NATS
    for version in (5, 6):
        twin.randomise(version)
        blob = twin.blob(version)
        assert engine("load_policy", blob).num_bound_modules == blob.num_modules == num_modules
        drawn = engine("generate", questions, FOUR)
        assert twin.gap_nats(questions, drawn, FOUR, with_adapter=True) < TOLERANCE_NATS
        assert twin.gap_nats(questions, drawn, FOUR, with_adapter=False) > 0.1
    return of_base


def check_whole_weights(engine: Call, twin: Any) -> None:
    questions = twin.questions(1, 2, 3)
    twin.randomise(1)
    drawn = engine("generate", questions, FOUR)
    assert twin.gap_nats(questions, drawn, FOUR, with_adapter=True) > 20 * TOLERANCE_NATS
    blob = twin.weights(1)
    assert engine("load_policy", blob).num_bound_modules == blob.num_modules
    drawn = engine("generate", questions, FOUR)
    assert twin.gap_nats(questions, drawn, FOUR, with_adapter=True) < TOLERANCE_NATS
