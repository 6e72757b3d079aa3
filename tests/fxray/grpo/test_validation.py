"""Held-out images that a policy answers while it is trained: which policy does, and that nothing else changes."""

from collections.abc import Iterator

import pytest
from bandit import FRAME, Bandit, run

from fxray.errors import SyncError
from fxray.grpo.types import ImageRef, PromptGroup, SamplingSettings, Validation
from fxray.schema import Annotation, Verdict


def held_out(*seeds: int) -> list[PromptGroup]:
    return [
        PromptGroup(f"evaluation/{seed}", f"v{seed}", ImageRef(b"", 0), "?", Annotation(Verdict.REAL), FRAME, seed)
        for seed in seeds
    ]


def every(steps: int, *batches: list[PromptGroup]) -> Validation:
    return Validation(steps, SamplingSettings(1, 0.0, 8), lambda: iter(batches))


def test_the_policy_after_a_step_answers_all_batches() -> None:
    bandit = Bandit()
    _, history = run(bandit, num_steps=4, validation=every(2, held_out(1, 2), held_out(3)))
    assert bandit.calls[bandit.calls.index("save 1") : bandit.calls.index("save 2")] == [
        *("save 1", "publish v1", "generate v1", "score 0.25", "update"),
        *("publish v2", "generate v2", "score 0.25", "generate v2", "score 0.25"),
    ]
    assert ["validation/reward" in metrics for _, metrics in history] == [False, True, False, True]
    draws = [float(bandit._group(each, 1, 0, bandit.policy).rollouts[0].text) for each in held_out(1, 2, 3)]
    last = history[-1][1]
    assert last["validation/reward"] == pytest.approx(sum(draws) / 3)
    assert last["validation/answer_tokens"] == 2
    assert last["validation/seconds"] >= 0


@pytest.mark.parametrize("max_staleness", [0, 1, 3])
def test_what_is_learnt_and_from_which_policies_stays_the_same(max_staleness: int) -> None:
    plain, validated = Bandit(), Bandit()
    _, expected = run(plain, num_steps=8, max_staleness=max_staleness)
    _, history = run(validated, num_steps=8, max_staleness=max_staleness, validation=every(3, held_out(1)))
    assert validated.policy == plain.policy
    for name in ("reward", "staleness", "policy_version"):
        assert [metrics[name] for _, metrics in history] == [metrics[name] for _, metrics in expected]
    publishes = [call for call in validated.calls if call.startswith("publish")]
    assert publishes == list(dict.fromkeys(publishes))  # each policy goes out once, in order


def test_the_time_of_it_is_none_that_sampling_waited() -> None:
    clock_s = [0.0]

    class Timed(Bandit):
        def generate(self, prompts, sampling):
            clock_s[0] += 100.0 if sampling.group_size == 1 else 1.0
            return super().generate(prompts, sampling)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("time.monotonic", lambda: clock_s[0])
        _, history = run(Timed(), num_steps=3, validation=every(1, held_out(1)))
    assert [metrics["validation/seconds"] for _, metrics in history] == [100.0] * 3
    assert [metrics["seconds/idle"] for _, metrics in history] == [0.0] * 3
    assert [metrics["seconds"] for _, metrics in history] == [1.0] * 3


def test_where_no_image_can_be_read_there_is_nothing_to_tell() -> None:
    _, history = run(Bandit(), num_steps=2, validation=every(1, [], []))
    said = {name for _, metrics in history for name in metrics if name.startswith("validation/")}
    assert said == {"validation/seconds"}


def test_answers_of_another_policy_stop_the_stage() -> None:
    class Late(Bandit):
        def generate(self, prompts, sampling):
            if sampling.group_size == 1:
                self.published = (0, 2.0)
            return super().generate(prompts, sampling)

    with pytest.raises(SyncError, match="was drawn from policy version 0, expected 1"):
        run(Late(), num_steps=2, validation=every(1, held_out(1)))


def test_batches_are_read_when_their_turn_comes() -> None:
    bandit = Bandit()

    def batches() -> Iterator[list[PromptGroup]]:
        for seed in (1, 2):
            bandit.calls.append(f"read {seed}")
            yield held_out(seed)

    run(bandit, num_steps=1, validation=Validation(1, SamplingSettings(1, 0.0, 8), batches))
    start = bandit.calls.index("read 1")
    assert bandit.calls[start : start + 6] == ["read 1", "generate v1", "score 0", "read 2", "generate v1", "score 0"]
