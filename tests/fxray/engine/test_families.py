"""vLLM with base models of another family than the tiny one's: a Qwen3-VL with random weights."""

from collections.abc import Callable
from typing import Any

import pytest

from fxray.grpo.types import SamplingSettings

FOUR = SamplingSettings(group_size=4, temperature=0.9, max_new_tokens=16)
TOLERANCE_NATS = 1e-3
Call = Callable[..., Any]

pytestmark = [pytest.mark.vllm, pytest.mark.ray]


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
