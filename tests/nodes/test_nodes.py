"""What the faults of nodes and of their network cost, on machines with addresses of their own: `make test-long`.

A head, a node for driver and learner, one for rewards and two for rollouts are namespaces of this machine
(machines.py). The driver is a job that is handed in through the Jobs API, and runs on the learner's node. Whatever is
done to the machines, the weights at the end are those of one quiet run on one machine, to the last bit. They begin
where that run's stage began.
"""

import signal
import time
from collections.abc import Callable, Iterator

import machines
import psutil
import pytest
from machines import await_that
from training import (
    HEAD,
    LEARNER,
    REWARDS,
    ROLLOUTS,
    STEP_DEADLINE_S,
    Cluster,
    Run,
    drivers,
    has_ray,
    last_words,
    seconds_since,
)

pytestmark = [pytest.mark.long, pytest.mark.ray, pytest.mark.vllm, pytest.mark.slow, pytest.mark.timeout(7200)]

Record = Callable[[str, float], None]
NUM_STEPS = 48
STEPS = f"grpo.steps_per_stage={NUM_STEPS}"
STEPS_BEFORE_HEAD_DIES = 6
HANG_S, CUT_S = 20, 30.0
LOOK_S = 8.0
"""Before the first step of a run that waits for an engine; each later one waits twice as long."""


@pytest.fixture(scope="module")
def cluster() -> Iterator[Cluster]:
    if reason := machines.why_not():
        pytest.skip(f"no namespaces here: {reason}")
    cluster = Cluster()
    try:
        yield cluster
    finally:
        cluster.close()


@pytest.fixture(scope="module")
def quiet(cluster: Cluster) -> Run:
    """The run on one machine."""
    run = cluster.train_here("quiet", STEPS)
    assert len(set(run.weights().values())) == len(run.weights()), "the stage learnt nothing"
    return run


def await_both(cluster: Cluster, run: Run) -> None:
    """Returns with the run held, when a step was drawn with an engine on each rollout node."""
    cluster.take_a_step(run)
    look_s = LOOK_S
    while run.steps()[-1]["num_rollout_workers"] < len(ROLLOUTS):
        for name in ROLLOUTS:
            if not has_ray(cluster[name]):
                cluster.replace(name)
        time.sleep(look_s)
        look_s *= 2
        cluster.take_a_step(run)


def strike(cluster: Cluster, run: Run, strike: Callable[[], None], words: str, what: str, record: Record) -> float:
    """Does something to a rollout node while a step is on its way; returns the time at which it was done.

    Returns with the run held, when it has noticed and has taken two more steps.
    """
    cluster.take_a_step(run)
    cluster.release()
    num_told, num_steps, start_s = len(run.told()), len(run.steps()), time.monotonic()
    strike()
    await_that(lambda: words in run.told()[num_told:], STEP_DEADLINE_S, f"{words!r} after {what}")
    record(f"{what}: noticed", seconds_since(start_s))
    run.await_step(num_steps + 2)
    record(f"{what}: the next step but one", seconds_since(start_s))
    cluster.hold()
    return start_s


def check_same(run: Run, quiet: Run) -> None:
    """Nothing that was done to a run shows in what it learnt."""
    steps = run.steps()
    assert [each["step"] for each in steps] == list(range(1, NUM_STEPS + 1))
    assert {each["num_masked"] for each in steps} == {0}
    assert [each["reward"] for each in steps] == [each["reward"] for each in quiet.steps()]
    assert run.weights() == quiet.weights()


def test_a_job_ends_as_on_one_machine_whatever_is_done_to_its_nodes(
    cluster: Cluster, quiet: Run, record: Record
) -> None:
    first, second = ROLLOUTS
    start_s = time.monotonic()
    cluster.start()
    record("cluster of five nodes: up", seconds_since(start_s))
    cluster.begin_like(quiet, "disturbed")
    run = cluster.submit("disturbed", STEPS, f"rollout.hang_deadline_s={HANG_S}")
    await_both(cluster, run)
    record("cluster of five nodes: job has taken a step", seconds_since(start_s))
    assert drivers(cluster[LEARNER])

    start_s = time.monotonic()
    cluster.machines.unplug(cluster[REWARDS])
    cluster.replace(REWARDS)
    record("node of the only reward worker without power: another node is there", seconds_since(start_s))
    cluster.take_a_step(run)
    record("node of the only reward worker without power: the next step", seconds_since(start_s))
    assert run.steps()[-1]["num_reward_deaths"] >= 1

    hung = f"did not answer for {HANG_S} s"
    start_s = strike(
        cluster, run, lambda: cluster.machines.unplug(cluster[first]), hung, "network of a rollout node cut", record
    )
    time.sleep(max(0.0, CUT_S - seconds_since(start_s)))
    cluster.machines.plug_in(cluster[first])
    await_both(cluster, run)
    record("network of a rollout node cut for 30 s: both engines draw again", seconds_since(start_s))

    for name, signum, words in ((second, signal.SIGSTOP, hung), (first, signal.SIGKILL, "died")):

        def send(name: str = name, signum: int = signum) -> None:
            for process in cluster[name].processes():
                process.send_signal(signum)

        strike(cluster, run, send, words, f"all of a rollout node, {signum.name}", record)
        start_s = time.monotonic()
        cluster.replace(name)
        await_both(cluster, run)
        record(f"all of a rollout node, {signum.name}: a new node draws", seconds_since(start_s))
    cluster.release()
    run.await_end()
    print({name: value for name, value in run.steps()[-1].items() if name.startswith("num_")})
    check_same(run, quiet)


def test_a_dead_head_ends_the_run_with_one_error_and_a_new_cluster_goes_on(
    cluster: Cluster, quiet: Run, record: Record
) -> None:
    if HEAD not in cluster.machines.members:
        cluster.start()
    cluster.release()
    cluster.begin_like(quiet, "headless")
    run, learner = cluster.submit("headless", STEPS), cluster[LEARNER]
    run.await_step(STEPS_BEFORE_HEAD_DIES)
    cluster.hold()
    (driver,), head = drivers(learner), cluster[HEAD].address
    start_s = time.monotonic()
    cluster.machines.unplug(cluster[HEAD])
    cluster.machines.remove(cluster[HEAD])

    psutil.wait_procs([driver], timeout=STEP_DEADLINE_S)
    record("head without power: driver ended", seconds_since(start_s))
    told = last_words(learner)
    assert told.count("error:") == 1
    assert f"{head}:6379: the head of the cluster has not answered for 40 s (ray.head_deadline_s)" in told
    await_that(lambda: not cluster.processes(), STEP_DEADLINE_S, "every process of Ray to end")
    record("head without power: last process ended", seconds_since(start_s))
    run.await_end(exit_code=1)
    record("head without power: whoever followed the job was told", seconds_since(start_s))
    assert "the cluster has not answered for 120 s" in run.told()

    num_done = len(run.steps())
    assert STEPS_BEFORE_HEAD_DIES <= num_done < NUM_STEPS
    cluster.start()
    cluster.release()
    run = cluster.submit("headless", STEPS)
    run.await_end()
    check_same(run, quiet)
