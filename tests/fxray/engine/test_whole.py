"""Whole weights in a real engine, held against transformers with the same weights."""

from collections.abc import Callable
from typing import Any

import pytest

from fxray.errors import SyncError
from fxray.grpo.types import SamplingSettings

FOUR = SamplingSettings(group_size=4, temperature=0.9, max_new_tokens=24)
TOLERANCE_NATS = 1e-3
Call = Callable[..., Any]

pytestmark = [pytest.mark.vllm, pytest.mark.ray]


def gap_nats(engine: Call, twin: Any) -> float:
    """How far the engine's log-probabilities are from those of the twin's present weights."""
    questions = twin.questions(1, 2, 3)
    return twin.gap_nats(questions, engine("generate", questions, FOUR), FOUR, with_adapter=True)


def test_all_weights_are_replaced_proved_and_answered_from(whole_engine: Call, whole_twin: Any) -> None:
    assert gap_nats(whole_engine, whole_twin) < TOLERANCE_NATS
    for version in (1, 2):
        whole_twin.randomise(version)
        assert gap_nats(whole_engine, whole_twin) > 20 * TOLERANCE_NATS
        blob = whole_twin.weights(version)
        proof = whole_engine("load_policy", blob, "rollout-1")
        assert (proof.worker, proof.version, proof.sha256) == ("rollout-1", version, blob.sha256)
        assert proof.num_bound_modules == blob.num_modules == len(whole_twin.policy.parameters)
        assert gap_nats(whole_engine, whole_twin) < TOLERANCE_NATS
    whole_engine("use_base_model")
    assert whole_engine("generate", whole_twin.questions(1), FOUR)
    assert gap_nats(whole_engine, type(whole_twin)(whole_twin.settings)) < TOLERANCE_NATS


def drop(tensors: dict[str, Any]) -> None:
    del tensors[NORM]


def add(tensors: dict[str, Any]) -> None:
    tensors["model.visual.extra.weight"] = tensors[NORM].clone()


def cut(tensors: dict[str, Any]) -> None:
    tensors[NORM] = tensors[NORM][:-1]


def spoil(tensors: dict[str, Any]) -> None:
    tensors[NORM][3] = float("nan")


NORM = "model.language_model.layers.2.input_layernorm.weight"
ENGINE_NORM = NORM.replace("model.language_model.", "language_model.model.")


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (drop, f"lack 1 tensor of the model, {ENGINE_NORM} for one"),
        (add, "hold 1 tensor that binds to nothing in the engine, visual.extra.weight for one"),
        (cut, f"hold {ENGINE_NORM} with shape \\(127,\\), the engine needs \\(128,\\)"),
        (spoil, f"hold values that are not finite, in {NORM} for one"),
    ],
)
def test_other_weights_are_refused_and_those_before_answer_on(
    whole_engine: Call, whole_twin: Any, change: Any, says: str
) -> None:
    whole_twin.randomise(5)
    whole_engine("load_policy", whole_twin.weights(5))
    with pytest.raises(SyncError, match=says):
        whole_engine("load_policy", whole_twin.weights(6, change))
    assert gap_nats(whole_engine, whole_twin) < TOLERANCE_NATS


def test_an_engine_that_acknowledges_and_does_not_load_is_found_out(whole_engine: Call, whole_twin: Any) -> None:
    whole_engine("load_policy", whole_twin.weights(7))
    whole_engine("pass_over", "load_pieces")
    assert whole_engine("load_policy", whole_twin.weights(8)).version == 8  # the same weights
    whole_twin.randomise(9)
    blob = whole_twin.weights(9)
    with pytest.raises(SyncError, match=f"computes with 0 of the {blob.num_modules} tensors"):
        whole_engine("load_policy", blob)


@pytest.mark.long
def test_each_rank_of_a_parallel_engine_computes_with_its_share(parallel_whole_engine: Call, whole_twin: Any) -> None:
    whole_twin.randomise(1)
    blob = whole_twin.weights(1)
    assert parallel_whole_engine("load_policy", blob).num_bound_modules == blob.num_modules
    assert gap_nats(parallel_whole_engine, whole_twin) < TOLERANCE_NATS
