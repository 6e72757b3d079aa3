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
    questions = qwen3_twin.questions(1, 2, 3)
    drawn = qwen3_engine("generate", questions, FOUR)
    assert qwen3_twin.gap_nats(questions, drawn, FOUR, with_adapter=False) < TOLERANCE_NATS
    for version in (5, 6):
        qwen3_twin.randomise(version)
        blob = qwen3_twin.blob(version)
        proof = qwen3_engine("load_policy", blob)
        assert proof.num_bound_modules == blob.num_modules == 3 * 7 + 3 * 4 + 3 * 2
        drawn = qwen3_engine("generate", questions, FOUR)
        assert qwen3_twin.gap_nats(questions, drawn, FOUR, with_adapter=True) < TOLERANCE_NATS
        assert qwen3_twin.gap_nats(questions, drawn, FOUR, with_adapter=False) > 0.1


@drives_qwen3
@pytest.mark.long
def test_whole_weights_of_a_qwen3_vl_are_proved(whole_qwen3_engine: Call, whole_qwen3_twin: Any) -> None:
    questions = whole_qwen3_twin.questions(1, 2, 3)
    whole_qwen3_twin.randomise(1)
    drawn = whole_qwen3_engine("generate", questions, FOUR)
    assert whole_qwen3_twin.gap_nats(questions, drawn, FOUR, with_adapter=True) > 20 * TOLERANCE_NATS
    blob = whole_qwen3_twin.weights(1)
    assert whole_qwen3_engine("load_policy", blob).num_bound_modules == blob.num_modules
    drawn = whole_qwen3_engine("generate", questions, FOUR)
    assert whole_qwen3_twin.gap_nats(questions, drawn, FOUR, with_adapter=True) < TOLERANCE_NATS


def test_base_and_every_adapter_of_an_internvl_agree_with_peft(internvl_engine: Call, internvl_twin: Any) -> None:
    questions = internvl_twin.questions(1, 2, 3)
    drawn = internvl_engine("generate", questions, FOUR)
    image_id = internvl_twin.image_token_id
    assert [answers.prompt_token_ids.tolist().count(image_id) for answers in drawn] == [20, 20, 16]
    assert internvl_twin.gap_nats(questions, drawn, FOUR, with_adapter=False) < TOLERANCE_NATS
    for version in (5, 6):
        internvl_twin.randomise(version)
        blob = internvl_twin.blob(version)
        proof = internvl_engine("load_policy", blob)
        assert proof.num_bound_modules == blob.num_modules == 3 * 7
        drawn = internvl_engine("generate", questions, FOUR)
        assert internvl_twin.gap_nats(questions, drawn, FOUR, with_adapter=True) < TOLERANCE_NATS
        assert internvl_twin.gap_nats(questions, drawn, FOUR, with_adapter=False) > 0.1


@pytest.mark.long
def test_whole_weights_of_an_internvl_are_proved(whole_internvl_engine: Call, whole_internvl_twin: Any) -> None:
    questions = whole_internvl_twin.questions(1, 2, 3)
    whole_internvl_twin.randomise(1)
    drawn = whole_internvl_engine("generate", questions, FOUR)
    assert whole_internvl_twin.gap_nats(questions, drawn, FOUR, with_adapter=True) > 20 * TOLERANCE_NATS
    blob = whole_internvl_twin.weights(1)
    assert whole_internvl_engine("load_policy", blob).num_bound_modules == blob.num_modules
    drawn = whole_internvl_engine("generate", questions, FOUR)
    assert whole_internvl_twin.gap_nats(questions, drawn, FOUR, with_adapter=True) < TOLERANCE_NATS
