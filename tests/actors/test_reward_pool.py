import re
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import ray
from ray.exceptions import ObjectLostError

from actors.failures import FailureBudget
from actors.reward_pool import MAX_REASONS, Answers, RewardCounters, RewardPool, RewardWorker, Scored
from fxray.data.frame import Frame
from fxray.errors import ConfigError, DeadlineError, FxrayError, WorkerDiedError
from fxray.events import ignore
from fxray.grpo.types import GroupScore, ImageRef, PromptGroup, Rollout, RolloutGroup
from fxray.schema import Annotation, Box, Region, Tag, Verdict
from rewards.custom import CustomReward
from rewards.score import score
from rewards.stage import RightWrong, StageRewards

FRAME = Frame(100, 200, 112, 196)
TRUTH = Annotation(Verdict.GENERATED, (Region(Box(10, 20, 60, 120), "Hand bent"),), (Tag.STRUCTURE,))
RIGHT = (
    "<think>\n<|object_ref_start|>Hand bent<|object_ref_end|><|box_start|>(11,20),(67,118)<|box_end|>\n</think>\n"
    "<tag>structure errors</tag>\n<verdict>generated</verdict><|im_end|>"
)
NONE = FailureBudget("reward workers", max_restarts=0, window_s=600, remedy="")
ANSWERS = (RIGHT, "<verdict>real</verdict>", "", "bad")


class Unpicklable:
    """Stands for what must stay with the driver."""

    def __reduce__(self) -> str:
        raise AssertionError("an image went to a reward worker")


def make_group(name: str, *texts: str) -> RolloutGroup:
    prompt = PromptGroup(name, "s", ImageRef(Unpicklable(), 9), "?", TRUTH, FRAME, 0)
    rollouts = tuple(Rollout(np.array([1]), np.array([0.0], np.float32), text, is_finished=True) for text in texts)
    return RolloutGroup(prompt, np.array([1]), rollouts, 0)


def make_stage(*functions: str) -> StageRewards:
    custom = tuple(CustomReward(f"reward_functions:{name}", 0.5) for name in functions)
    return StageRewards("alpha", 0.0, 1.0, RightWrong(1, -1), RightWrong(2, -1), w_iou_final=3.0, custom=custom)


def score_without_pool(groups: list[RolloutGroup], workers: tuple[Any, ...], stage: StageRewards) -> None:
    """The least that Ray can do: each worker gets its next group when it has given back the one before."""
    for start in range(0, len(groups), len(workers)):
        asked = [
            worker.score.remote([Answers.of(group)], stage)
            for worker, group in zip(workers, groups[start:], strict=False)
        ]
        ray.get(asked, timeout=10)


def score_alone(stage: StageRewards, *texts: str) -> tuple[GroupScore, list[str]]:
    """What a worker says of one group."""
    scored = RewardWorker().score([Answers("g", texts, TRUTH, FRAME)], stage)
    return scored.scores[0], scored.reasons


@contextmanager
def recorded_shares(pool: RewardPool) -> Iterator[list[tuple[int, ...]]]:
    """The groups of each request, in the order of the requests."""
    shares, submit = list[tuple[int, ...]](), pool._submit

    def record(worker: Any, share: tuple[int, ...], *rest: Any) -> None:
        shares.append(share)
        submit(worker, share, *rest)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(pool, "_submit", record)
        yield shares


@contextmanager
def pool_for(
    stage: StageRewards, *, num_workers: int = 2, deadline_s: float = 10, max_restarts: int = 3, on_event: Any = ignore
) -> Iterator[RewardPool]:
    pool = RewardPool(
        num_workers=num_workers,
        function_paths=[reward.path for reward in stage.custom],
        group_deadline_s=deadline_s,
        start_deadline_s=120,
        failures=FailureBudget("reward workers", max_restarts=max_restarts, window_s=600, remedy=""),
        on_event=on_event,
    )
    try:
        yield pool
    finally:
        pool.close()


@pytest.mark.parametrize(("function", "error"), [("raises_on_bad", "ValueError"), ("exits_on_bad", "SystemExit")])
def test_a_worker_masks_the_answer_whose_function_raises(
    monkeypatch: pytest.MonkeyPatch, function: str, error: str
) -> None:
    monkeypatch.syspath_prepend(str(Path(__file__).parent))
    stage = make_stage(function, "length")

    result, reasons = score_alone(stage, "good", "bad", "fine!")

    assert result.is_valid_G.tolist() == [True, False, True]
    assert result.parts["reward_functions:length"].tolist() == [4.0, 0.0, 5.0]
    assert result.rewards_G.tolist() == [-2 + 0.5 + 2.0, 0.0, -2 + 0.5 + 2.5]
    assert len(reasons) == 1
    assert re.fullmatch(rf"{error}: no such answer \(reward_functions.py:\d+\)", reasons[0])


def test_a_worker_masks_an_answer_that_is_worth_no_finite_number(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(Path(__file__).parent))

    result, reasons = score_alone(make_stage("not_finite_on_bad"), "bad", "ok")

    assert result.is_valid_G.tolist() == [False, True]
    assert reasons[0].startswith("ConfigError: reward_functions:not_finite_on_bad: returned nan")


@pytest.mark.ray
def test_scores_equal_direct_calls_and_keep_the_order(cluster: None) -> None:
    stage = make_stage("slow_on_first", "length")
    groups = [make_group("first", *ANSWERS[:2], "first"), *(make_group(f"g{i}", *ANSWERS, "x" * i) for i in range(9))]

    with pool_for(stage) as pool:
        results = pool.score(groups, stage, progress_frac=0.5)

    present = StageRewards("alpha", 0.0, 2.0, RightWrong(1, -1), RightWrong(2, -1))
    assert [result.group_id for result in results] == ["first", *(f"g{i}" for i in range(9))]
    for group, result in zip(groups, results, strict=True):
        texts = [rollout.text for rollout in group.rollouts]
        direct = [score(text, TRUTH, FRAME, present) for text in texts]
        custom = [0.5 + 0.5 * len(text) for text in texts]
        assert result.is_valid_G.all()
        assert result.rewards_G.tolist() == [d.total + c for d, c in zip(direct, custom, strict=True)]
        assert result.parts["iou"].tolist() == [d.iou for d in direct]
        assert result.parts["label"].tolist() == [d.label for d in direct]
        assert result.parts["format"].tolist() == [d.format for d in direct]
        assert result.facts["is_strict"].tolist() == [float(d.is_strict) for d in direct]
        assert result.facts["num_boxes"].tolist() == [d.num_boxes for d in direct]
    assert results[0].parts["iou"][0] == 1.0
    assert results[0].facts["union_iou"][0] == pytest.approx(1.0, abs=0.05)
    assert pool.counters.failures == 0


@pytest.mark.ray
@pytest.mark.parametrize("function", ["loops_on_bad", "holds_the_interpreter_on_bad"])
def test_a_worker_that_hangs_is_killed_and_its_group_alone_is_masked(cluster: None, function: str) -> None:
    stage = make_stage(function)
    groups = [make_group(str(i), "good", "bad" if i == 1 else "good") for i in range(6)]

    with pool_for(stage, deadline_s=1.0) as pool:
        start_s = time.monotonic()
        results = pool.score(groups, stage, 0.0)
        took_s = time.monotonic() - start_s
        again = pool.score(groups[2:], stage, 0.0)

    assert [result.is_valid_G.tolist() for result in results] == [[True] * 2, [False] * 2, *([[True] * 2] * 4)]
    assert results[1].rewards_G.tolist() == [0.0, 0.0]
    assert results[1].parts.keys() == results[0].parts.keys()
    assert results[1].facts.keys() == results[0].facts.keys()
    assert all(result.is_valid_G.all() for result in again)
    assert (pool.counters.timeouts, pool.counters.deaths, pool.counters.failures) == (1, 0, 2)
    assert pool.counters.reasons == {"scoring took more than 1 s": 2}
    assert took_s < 10


@pytest.mark.ray
def test_a_group_outlives_the_worker_that_scored_it(cluster: None, tmp_path: Path) -> None:
    stage = make_stage("dies_once_on_bad")
    groups = [make_group("0", "good"), make_group("1", f"bad {tmp_path / 'died'}"), make_group("2", "good")]

    with pool_for(stage) as pool:
        results = pool.score(groups, stage, 0.0)

    assert all(result.is_valid_G.all() for result in results)
    assert (pool.counters.deaths, pool.counters.failures) == (1, 0)


@pytest.mark.ray
def test_scores_that_were_lost_with_the_node_where_they_lay_are_made_again(
    cluster: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    get, lost = ray.get, []

    def lose_one(reference: Any, **options: Any) -> Any:
        result = get(reference, **options)
        if not lost and isinstance(result, Scored):
            lost.append(result)
            raise ObjectLostError(reference.hex(), None, "")
        return result

    stage = make_stage()
    with pool_for(stage) as pool:
        monkeypatch.setattr(ray, "get", lose_one)
        results = pool.score([make_group(str(i), *ANSWERS) for i in range(3)], stage, 0.0)

    assert all(result.is_valid_G.all() for result in results)
    assert (len(lost), pool.counters.deaths, pool.counters.failures) == (1, 1, 0)


@pytest.mark.ray
def test_an_answer_that_kills_every_worker_is_masked_and_the_budget_is_kept(cluster: None) -> None:
    stage = make_stage("dies_on_bad")
    groups = [make_group("0", "good"), make_group("1", "bad")]

    with pool_for(stage, num_workers=1, max_restarts=3) as pool:
        results = pool.score(groups, stage, 0.0)
        assert [result.is_valid_G.tolist() for result in results] == [[True], [False]]
        assert pool.counters.reasons == {"the worker that scored it died": 1}
        with pytest.raises(WorkerDiedError, match="failed 4 times within 10 min, 3 restarts"):
            pool.score(groups, stage, 0.0)


@pytest.mark.ray
def test_quick_groups_are_scored_many_at_once_and_slow_ones_one_by_one(cluster: None) -> None:
    quick, slow = make_stage(), make_stage("slow_on_first")
    groups = [make_group(str(i), *ANSWERS, "x" * i) for i in range(64)]

    with pool_for(slow, num_workers=1) as pool:
        pool.score(groups[:1], quick, 0.0)
        with recorded_shares(pool) as shares:
            results = pool.score(groups, quick, 0.0)
        pool.score([make_group("slow", "first")], slow, 0.0)
        with recorded_shares(pool) as shares_after_slow:
            pool.score(groups[:4], quick, 0.0)

    assert [result.group_id for result in results] == [str(i) for i in range(64)]
    one_by_one, _ = score_alone(quick, *ANSWERS, "x" * 63)
    assert results[63].rewards_G.tolist() == one_by_one.rewards_G.tolist()
    assert sorted(index for share in shares for index in share) == list(range(64))
    assert len(shares) <= 20
    assert shares_after_slow[0] == (0,)


@pytest.mark.ray
@pytest.mark.parametrize("function", ["loops_on_bad", "dies_on_bad"])
def test_of_a_share_only_the_group_that_is_to_blame_is_masked(cluster: None, function: str) -> None:
    stage = make_stage(function)
    groups = [make_group(str(i), "bad" if i == 2 else "good") for i in range(8)]

    with pool_for(stage, num_workers=1, deadline_s=1.0) as pool:
        pool._group_s = 0.001
        with recorded_shares(pool) as shares:
            results = pool.score(groups, stage, 0.0)
        with recorded_shares(pool) as later_shares:
            pool.score(groups[3:], stage, 0.0)

    assert 2 in shares[0]
    assert len(shares[0]) == 4
    assert [result.is_valid_G.all() for result in results] == [i != 2 for i in range(8)]
    hangs = function == "loops_on_bad"
    assert (pool.counters.timeouts, pool.counters.deaths, pool.counters.failures) == (hangs, 0 if hangs else 2, 1)
    assert shares.count((2,)) == 1
    assert any(len(share) > 1 for share in later_shares) is not hangs


@pytest.mark.ray
def test_shares_come_back_where_none_of_those_that_were_late_is_to_blame(cluster: None, tmp_path: Path) -> None:
    stage = make_stage("hangs_once_on_bad")
    groups = [make_group(str(i), f"bad {tmp_path / 'hung'}" if i == 2 else "good") for i in range(8)]

    with pool_for(stage, num_workers=1, deadline_s=1.0) as pool:
        pool._group_s = 0.001
        with recorded_shares(pool) as shares:
            results = pool.score(groups, stage, 0.0)
        with recorded_shares(pool) as later_shares:
            pool.score(groups, stage, 0.0)

    assert all(result.is_valid_G.all() for result in results)
    assert pool.counters == RewardCounters()
    assert [len(share) for share in shares] == [4] + [1] * 8
    assert any(len(share) > 1 for share in later_shares)


@pytest.mark.ray
def test_a_function_that_always_raises_is_told_once_and_ends_the_run(cluster: None) -> None:
    stage, told = make_stage("raises_on_bad"), []
    with pool_for(stage, num_workers=1, on_event=told.append) as pool:
        for texts in (["bad"], ["bad"], ["good"], ["bad", "bad"], ["bad"]):
            pool.score([make_group("0", *texts)], stage, 0.0)
        assert len(told) == 1
        assert told[0].is_warning
        assert "left out of learning, and so are others like it: ValueError: no such answer (reward_fun" in told[0].text
        with pytest.raises(FxrayError, match=r"no answer of 3 steps in a row could be scored, .* since ValueErr"):
            pool.score([make_group("0", "bad")], stage, 0.0)


def test_reasons_do_not_grow_without_bound() -> None:
    told: list[Any] = []
    pool = RewardPool.__new__(RewardPool)
    pool.counters, pool._reasons_of_late = RewardCounters(), Counter()
    pool._places, pool._on_event = set(), told.append
    pool._count([f"ValueError: not {i} (mine.py:{i % 200})" for i in range(1000)])
    assert sum(pool.counters.reasons.values()) == 1000
    assert len(pool.counters.reasons) == MAX_REASONS + 1
    assert len(told) == MAX_REASONS


@pytest.mark.ray
def test_a_function_that_cannot_be_imported_is_refused_at_the_start(cluster: None) -> None:
    with pytest.raises(ConfigError, match="module 'nowhere' cannot be imported"):
        RewardPool(
            num_workers=1, function_paths=["nowhere:reward"], group_deadline_s=1, start_deadline_s=120, failures=NONE
        )


@pytest.mark.ray
@pytest.mark.alone
def test_a_step_of_answers_is_scored_in_milliseconds(cluster: None) -> None:
    """Within 0.1 s; on a slower processor, within twice what the workers take without the pool."""
    stage = make_stage()
    groups = [make_group(str(i), *([RIGHT] * 8)) for i in range(16)]

    with pool_for(stage) as pool:
        while len(pool._idle) < 2:  # scoring begins with the first worker
            pool.score(groups, stage, 0.0)
        workers = tuple(pool._idle)
        took_s, bare_s = [], []
        for _ in range(5):
            start_s = time.monotonic()
            pool.score(groups, stage, 0.0)
            took_s.append(time.monotonic() - start_s)
            start_s = time.monotonic()
            score_without_pool(groups, workers, stage)
            bare_s.append(time.monotonic() - start_s)

    print(f"16 groups x 8 answers: {1e3 * min(took_s):.1f} ms, without the pool {1e3 * min(bare_s):.1f} ms")
    assert min(took_s) < max(0.1, 2 * min(bare_s))  # 30 ms on an idle machine


@pytest.mark.ray
def test_a_worker_without_a_node_is_asked_for_again_while_others_score(cluster: None) -> None:
    stage = make_stage()
    groups = [make_group(str(i), "good") for i in range(3)]
    with pool_for(stage, num_workers=1, max_restarts=0) as pool:
        pool._start_deadline_s, pool._node_share = 0.0, {"nowhere": 0.001}
        pool._start_worker()
        (first,) = [lease.worker for lease in pool._leases.values() if not lease.groups]
        assert all(result.is_valid_G.all() for result in pool.score(groups, stage, 0.0))
        pool._settle()
        (second,) = [lease.worker for lease in pool._leases.values() if not lease.groups]
        assert second is not first
        assert pool.counters.deaths == 0


@pytest.mark.ray
@pytest.mark.parametrize("comes_up", [True, False])
def test_a_load_that_is_late_ends_no_run_while_another_is_on_its_way(cluster: None, comes_up: bool) -> None:
    with pool_for(make_stage(), num_workers=1, max_restarts=0) as pool:
        ray.kill(pool._idle.pop())
        node_share, pool._node_share = pool._node_share, {"nowhere": 0.001}
        pool._start_deadline_s = 0.0
        pool._start_worker()
        pool._start_deadline_s = 60.0 if comes_up else 1.0
        pool._node_share = node_share if comes_up else pool._node_share
        pool._start_worker()
        pool._node_share = {"nowhere": 0.001}
        pool._settle()
        assert len(pool._leases) == 2
        if comes_up:
            assert all(result.is_valid_G.all() for result in pool.score([make_group("0", "good")], make_stage(), 0.0))
        else:
            start_s = time.monotonic()
            with pytest.raises(DeadlineError, match="a reward worker did not come up within 1 s"):
                pool.score([make_group("0", "good")], make_stage(), 0.0)
            assert time.monotonic() - start_s < 1.9  # who was asked for again is not waited for
