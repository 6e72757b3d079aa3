"""Which workers are lost, how that counts, and what time their successors have; over stubs of Ray's calls."""

import math

import pytest
from plain_pool import TWO, adapter, check_groups, drawn_by, prompts
from ray.exceptions import RuntimeEnvSetupError
from stub_pool import Ray, stub_pool

from actors.errands import Deadlines
from fxray.errors import DataError, DeadlineError, FxrayError, WorkerDiedError

LONG, SHORTER = Deadlines(600, 1800, 60), Deadlines(400, 1000, 60)
NOWHERE = {"place_s": math.inf, "start_s": math.inf}


@pytest.fixture
def stub(monkeypatch: pytest.MonkeyPatch) -> Ray:
    return Ray(monkeypatch)


def test_a_worker_whose_node_cannot_make_the_job_ready_is_lost_while_another_draws(stub: Ray) -> None:
    error = RuntimeEnvSetupError("Failed to download gcs://package.zip: No space left on device")
    workers = {1: {"draw_s": 3.0}, 2: {"start_error": error}}
    pool = stub_pool(stub, workers, num_workers=2, deadlines=LONG, max_restarts=1)
    check_groups(pool.generate(prompts(8), TWO), prompts(8))
    assert pool.num_deaths == 1


def test_a_node_that_dies_with_more_engines_than_may_be_restarted_is_one_failure(stub: Ray) -> None:
    dying = {number: {"node": "one", "dies_s": 1.5, "draw_s": 9.0} for number in range(1, 9)}
    sound = {number: {"node": "other"} for number in range(9, 25)}
    pool = stub_pool(stub, dying | sound, num_workers=16, deadlines=LONG, max_restarts=1)
    check_groups(pool.generate(prompts(32), TWO), prompts(32))
    assert pool.num_deaths == 8


def test_engines_that_die_one_after_another_on_one_node_are_counted_each(stub: Ray) -> None:
    dying = {number: {"node": "one", "draw_s": 9.0, "dies_s": 2.0 * number} for number in range(1, 9)}
    pool = stub_pool(stub, dying, num_workers=1, deadlines=LONG, max_restarts=3)
    with pytest.raises(WorkerDiedError, match="failed 4 times"):
        pool.generate(prompts(4), TWO)


TROUBLES = (
    DeadlineError("2 images did not arrive within 120 s", where="g0"),
    FxrayError("an image is lost", where="groups g0 to g3"),
    FxrayError("vLLM ended an answer with 'error'"),
)


@pytest.mark.parametrize("trouble", TROUBLES)
def test_what_goes_wrong_on_one_machine_loses_its_worker_while_another_draws(stub: Ray, trouble: FxrayError) -> None:
    workers = {1: {"draw_s": 3.0}, 2: {"draw_error": trouble}}
    pool = stub_pool(stub, workers, num_workers=2, deadlines=LONG, max_restarts=1)
    groups = pool.generate(prompts(8), TWO)
    check_groups(groups, prompts(8))
    assert drawn_by(groups) <= {"rollout-1", "rollout-3"}
    assert pool.num_deaths == 1


@pytest.mark.parametrize("trouble", TROUBLES)
def test_what_goes_wrong_on_the_only_machine_is_raised(stub: Ray, trouble: FxrayError) -> None:
    pool = stub_pool(stub, {1: {"draw_error": trouble}}, num_workers=1, deadlines=LONG, max_restarts=1)
    with pytest.raises(type(trouble), match=trouble.message):
        pool.generate(prompts(8), TWO)


def test_a_prompt_that_is_refused_is_raised_whoever_else_is_up(stub: Ray) -> None:
    workers = {1: {"draw_s": 3.0}, 2: {"draw_error": DataError("is damaged", where="s2")}}
    pool = stub_pool(stub, workers, num_workers=2, deadlines=LONG, max_restarts=1)
    with pytest.raises(DataError, match="is damaged"):
        pool.generate(prompts(8), TWO)


def test_the_successor_of_the_only_engine_has_as_long_to_start_as_the_first(stub: Ray) -> None:
    workers = {1: {"draw_s": 9.0, "dies_s": 1.5}, 2: {"start_s": 30.0}}
    pool = stub_pool(stub, workers, num_workers=1, deadlines=Deadlines(60, 2, 60), max_restarts=1)
    check_groups(pool.generate(prompts(8), TWO), prompts(8))
    assert 31.0 < stub.now_s - 1000.0 < 34.0


def test_a_policy_waits_for_the_successor_of_the_only_engine(stub: Ray) -> None:
    workers = {1: {"dies_s": 1.0, "start_s": 0.5}, 2: {"start_s": 30.0}}
    pool = stub_pool(stub, workers, num_workers=1, deadlines=Deadlines(60, 2, 60), max_restarts=1)
    pool.generate(prompts(0), TWO)
    stub.now_s += 1.0
    assert [proof.worker for proof in pool.adopt(adapter(1))] == ["rollout-2"]


def test_a_successor_that_does_not_start_in_time_is_named(stub: Ray) -> None:
    workers = {1: {"draw_s": 9.0, "dies_s": 1.5}, 2: {"start_s": 90.0}}
    pool = stub_pool(stub, workers, num_workers=1, deadlines=Deadlines(60, 2, 60), max_restarts=1)
    with pytest.raises(DeadlineError, match="rollout-2 to start"):
        pool.generate(prompts(8), TWO)
    assert 61.0 < stub.now_s - 1000.0 < 64.0


def test_a_worker_without_a_node_ends_nothing_while_one_with_a_node_starts(stub: Ray) -> None:
    workers = {1: {"draw_s": 200.0, "dies_s": 100.0}, 2: NOWHERE, 3: {"start_s": 300.0, "dies_s": 350.0}}
    pool = stub_pool(stub, workers | {4: {"start_s": 300.0}}, num_workers=2, deadlines=SHORTER, max_restarts=2)
    check_groups(pool.generate(prompts(8), TWO), prompts(8))
    assert pool.num_deaths == 2
    assert stub.now_s - 1000.0 > 100 + 400  # later than the one without a node could have waited since the death


def test_a_worker_that_is_late_to_start_is_replaced_while_another_starts(stub: Ray) -> None:
    workers = {1: {"start_s": math.inf}, 2: {"place_s": 50.0, "start_s": 420.0}, 3: {"start_s": math.inf}}
    pool = stub_pool(stub, workers, num_workers=2, deadlines=SHORTER, max_restarts=1)
    check_groups(pool.generate(prompts(8), TWO), prompts(8))
    assert (drawn_by(pool.generate(prompts(8), TWO)), pool.num_deaths) == ({"rollout-2"}, 1)


def test_workers_that_are_all_late_to_start_end_the_run_at_their_deadline(stub: Ray) -> None:
    hanging = {number: {"start_s": math.inf} for number in range(1, 9)}
    workers = hanging | {2: {"place_s": 50.0, "start_s": math.inf}}
    pool = stub_pool(stub, workers, num_workers=2, deadlines=SHORTER, max_restarts=9)
    with pytest.raises(DeadlineError, match="rollout-2 to start"):
        pool.generate(prompts(8), TWO)
    assert stub.now_s - 1000.0 == pytest.approx(450.0, abs=3.0)


def test_groups_of_an_engine_that_is_up_have_the_time_of_a_step(stub: Ray) -> None:
    pool = stub_pool(stub, {1: {"draw_s": 9.0}}, num_workers=1, deadlines=Deadlines(60, 2, 60), max_restarts=1)
    with pytest.raises(DeadlineError, match="4 groups from rollout-1"):
        pool.generate(prompts(4), TWO)
    assert stub.now_s - 1000.0 == pytest.approx(3.0)


def test_a_pool_that_rests_lets_go_of_who_waits_for_a_node_and_hires_again(stub: Ray) -> None:
    workers = {1: {"draw_s": 3.0}, 2: NOWHERE, 3: NOWHERE, 4: {"place_s": 5.0, "start_s": 50.0}}
    pool = stub_pool(stub, workers, num_workers=2, deadlines=LONG, max_restarts=0, rests=True)
    begun_s = stub.now_s
    for _ in range(2):
        check_groups(pool.generate(prompts(8), TWO), prompts(8))
        assert [worker.name for worker in pool._crew.members] == ["rollout-1"]
    assert stub.now_s - begun_s < 90
    check_groups(pool.generate(prompts(8), TWO), prompts(8))
    assert [(worker.name, worker.is_resting) for worker in pool._crew.members] == [
        ("rollout-1", True),
        ("rollout-4", True),
    ]


def test_a_pool_that_rests_waits_for_its_first_worker(stub: Ray) -> None:
    pool = stub_pool(
        stub, {1: {"place_s": 300.0, "start_s": 310.0}}, num_workers=1, deadlines=LONG, max_restarts=0, rests=True
    )
    pool.rest()
    assert (pool.num_up, stub.now_s) == (1, 1310.0)
