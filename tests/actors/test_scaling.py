"""The rule as a table, and what it remembers."""

import sys
import threading

import pytest

from actors.scaling import Growth, Limits, Scaler, StepTimes, busiest_share, decide

ALONE = Limits(1, 8, every_steps=3)


def on_policy(generate_s: float, learn_s: float) -> StepTimes:
    return StepTimes(generate_s + learn_s, generate_s, generate_s, 0.0)


def ahead(generate_s: float, learn_s: float) -> StepTimes:
    step_s = max(generate_s, learn_s)
    return StepTimes(step_s, generate_s, max(0.0, generate_s - learn_s), max(0.0, learn_s - generate_s))


@pytest.mark.parametrize(
    ("num_workers", "step", "expected"),
    [
        # Engines and learner take turns; 32 groups, 4 of which fill an engine.
        (1, on_policy(60, 40), 2),  # halves 60 s of 100 s; no more than twice as many at once
        (2, on_policy(30, 40), 4),  # the third saves 9.4 s of 70 s, the fourth 5.6 s of what is left
        (4, on_policy(15, 40), 4),  # the fifth saves 1.9 s of 55 s, the next three together 7.5 s
        (1, on_policy(10, 90), 1),  # half of generation is 5 s of 100 s
        (2, on_policy(1, 99), 1),  # one more second of 100 s is what it may cost
        (2, on_policy(3, 97), 2),  # three are not
        (4, on_policy(0.2, 100), 1),  # three fewer cost 0.6 s together
        # The sampler runs ahead.
        (1, ahead(60, 40), 2),  # the learner waits 20 s of each 60 s
        (2, ahead(60, 56), 2),  # 4 s of waiting of 60 s are not worth a third
        (2, ahead(60, 54), 3),  # 6 s are
        (2, ahead(60, 20), 4),
        (2, ahead(30, 40), 2),  # nobody waits for rollout, and one alone would need 60 s
        (2, ahead(15, 40), 1),  # one alone draws in 30 s
        (4, ahead(10, 41), 1),  # one alone draws in 40 s
        (4, ahead(10, 35), 2),  # one alone would need 40 s
    ],
)
def test_the_rule(num_workers: int, step: StepTimes, expected: int) -> None:
    decision = decide(num_workers, [step] * 3, ALONE, num_groups=32, fills_engine=4)
    assert decision.num_workers == expected
    assert bool(decision.reason) == (expected != num_workers)
    assert (decision.growth is not None) == (expected > num_workers)


def test_no_size_is_left_for_another_that_is_left_for_it() -> None:
    """What is steady for a known amount of work stays so: no swing, wherever the rule starts."""
    for make in (on_policy, ahead):
        for work_s in (1, 3, 10, 30, 100, 300):
            for start in range(1, 9):
                size, sizes = start, [start]
                for _ in range(12):
                    step = make(work_s * busiest_share(32, size, 4) / 32, 20.0)
                    size = decide(size, [step] * 3, ALONE, num_groups=32, fills_engine=4).num_workers
                    sizes.append(size)
                assert sizes[-1] == sizes[-2], (make.__name__, work_s, sizes)


def test_it_grows_no_further_than_groups_can_be_shared() -> None:
    slow = on_policy(1000, 1)
    for num_workers in (2, 3, 4, 8):  # one group each
        assert decide(num_workers, [slow] * 3, ALONE, num_groups=4, fills_engine=16).num_workers == 4
    assert decide(1, [slow] * 3, ALONE, num_groups=1, fills_engine=16).num_workers == 1
    assert [busiest_share(32, n, 4) for n in range(1, 10)] == [32, 16, 11, 8, 7, 6, 5, 4, 4]
    assert busiest_share(100, 3, 4) == 64  # four leases among three


def test_bounds_hold_and_the_median_of_the_steps_decides() -> None:
    steps = [on_policy(60, 40), on_policy(60, 40), on_policy(6000, 40)]
    assert decide(3, steps, Limits(1, 4, 3), num_groups=32, fills_engine=4).num_workers == 4
    assert decide(4, steps, Limits(1, 4, 3), num_groups=32, fills_engine=4).num_workers == 4
    assert decide(4, [ahead(1, 99)] * 3, Limits(3, 8, 3), num_groups=32, fills_engine=4).num_workers == 3
    decision = decide(1, steps, ALONE, num_groups=32, fills_engine=4)
    assert decision.reason == "the learner waited 60.00 s of a step of 100.00 s, and 2 would save 30.00 s"


def test_a_growth_that_did_not_pay_is_taken_back_and_not_tried_again() -> None:
    scaler = Scaler(1, Limits(1, 8, every_steps=2))
    sizes = []
    for _ in range(30):  # two engines on the processors of one
        scaler.choose(scaler.num_workers, 4)
        sizes.append(scaler.num_workers)
        scaler.observe(on_policy(60, 40), 32)
    assert sizes == [1] * 3 + [2] * 3 + [1] * 24
    kept = decide(2, [on_policy(49, 40)] * 2, ALONE, num_groups=32, fills_engine=4, growth=Growth(1, 60, 30))
    assert kept.num_workers == 4  # 11 s of the 30 s: a third, so it goes on


def test_nothing_is_decided_before_all_workers_are_up_and_stood_as_long_as_one_takes_to_start() -> None:
    scaler = Scaler(2, ALONE)
    scaler.note_start(350)
    for _ in range(20):
        assert not scaler.choose(1, 4).reason
        scaler.observe(on_policy(60, 40), 32)
    num_steps = 0
    while not scaler.choose(2, 4).reason:
        scaler.observe(on_policy(60, 40), 32)
        num_steps += 1
    assert num_steps == 4  # of 100 s each
    assert scaler.num_workers == 4
    fixed = Scaler(2, None)
    for _ in range(50):
        fixed.observe(on_policy(60, 40), 32)
        assert fixed.choose(2, 4).num_workers == 2
    assert not fixed._steps  # of the hundred thousand steps of a long run either


def test_steps_are_observed_while_another_thread_chooses() -> None:
    scaler, interval_s = Scaler(2, Limits(1, 8, every_steps=1)), sys.getswitchinterval()
    scaler.note_start(1e9)  # no decision: all steps are summed up each time
    failures: list[BaseException] = []

    def choose() -> None:
        try:
            for _ in range(300):
                scaler.choose(2, 4)
        except RuntimeError as error:
            failures.append(error)

    sys.setswitchinterval(1e-6)
    try:
        thread = threading.Thread(target=choose)
        thread.start()
        while thread.is_alive():
            scaler.observe(on_policy(1, 1), 32)
        thread.join()
    finally:
        sys.setswitchinterval(interval_s)
    assert not failures
