"""What the driver's calls cost with many requests outstanding: `python benchmarks/driver.py`.

    submit   actor.generate.remote(jobs): a request that hands out 1 or 16 groups
    wait     ray.wait on N references of which one is ready
    take     ray.get of the answers to 1 or 16 groups, each put beside its prompt
    score    a group of a step of 16 or 1,024, by two reward workers: requests, waits and scores together

Wall-clock and processor time of the driver's thread, in microseconds, medians of `--rounds`. On a busy machine the
processor time says what the call costs, the wall-clock what it costs there.
"""

import argparse
import asyncio
import os
import statistics
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import numpy as np
import ray
from numpy.typing import NDArray

from actors.failures import FailureBudget
from actors.reward_pool import RewardPool
from actors.rollout_worker import Draw, Job
from fxray.capacity.simulation import DriverSpeed, Setup
from fxray.config.load import load_config
from fxray.config.schedule import load_stages
from fxray.data.frame import Frame
from fxray.grpo.types import ImageRef, PromptGroup, SamplingSettings
from fxray.launch.plan import plan_stage
from fxray.schema import Annotation, Verdict

OUTSTANDING = (1, 4, 16, 64, 256, 1024)
GROUP_SIZE = 8
ANSWER_TOKENS = 24
DEADLINE_S = 1800.0
IMAGE_BYTES = 17_943
"""Of a mean image of the demo: 287,082 bytes in a step of 16."""
PROMPT_TOKENS = 80
ANSWER = (
    "<think>\n<|object_ref_start|>patch noisy<|object_ref_end|><|box_start|>(60,34),(89,66)<|box_end|>\n</think>\n"
    "<tag>structure errors</tag>\n<verdict>generated</verdict><|im_end|>"
)
SAMPLING = SamplingSettings(GROUP_SIZE, 1.0, 128)
GROUPS = (1, 16)
SCORED = (16, 1024)
SCORE_ROUNDS = 9


@dataclass(frozen=True, slots=True)
class Cost:
    """Median seconds of a call."""

    wall_s: float
    processor_s: float


class Bystander:
    """Answers at once, or never."""

    async def generate(self, jobs: list[Job], _: SamplingSettings) -> list[Draw]:
        lengths_G = np.full(GROUP_SIZE, ANSWER_TOKENS)
        return [draw_of(job.group_id, lengths_G, 0) for job in jobs]

    async def never(self) -> None:
        await asyncio.Event().wait()


def draw_of(group_id: str, lengths_G: NDArray[np.int64], version: int) -> Draw:
    """Answers of so many tokens each that say the same."""
    num_tokens = int(lengths_G.sum())
    return Draw(
        group_id=group_id,
        policy_version=version,
        prompt_token_ids=np.zeros(PROMPT_TOKENS, np.int32),
        token_ids=np.zeros(num_tokens, np.int32),
        logprobs=np.zeros(num_tokens, np.float32),
        lengths_G=lengths_G.astype(np.int32),
        is_finished_G=np.ones(GROUP_SIZE, np.bool_),
        probabilities_G=np.full(GROUP_SIZE, np.nan),
        texts=tuple(f"{ANSWER}{index}" for index in range(GROUP_SIZE)),
    )


def make_prompts(setup: Setup, step: int) -> list[PromptGroup]:
    """The groups of a step, each with an image in the object store."""
    truth, frame = Annotation(Verdict.REAL), Frame(112, 112, 112, 112)
    seeds = range(step * setup.num_groups, (step + 1) * setup.num_groups)
    images = [ImageRef(ray.put(os.urandom(IMAGE_BYTES)), IMAGE_BYTES) for _ in seeds]
    return [
        PromptGroup(f"alpha/{step}/{seed}", f"s{seed}", image, "?", truth, frame, seed)
        for seed, image in zip(seeds, images, strict=True)
    ]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=200)
    rounds = parser.parse_args().rounds
    with local_ray():
        requests, waits, scores = measure_calls(rounds), measure_waits(rounds), measure_scores()
    print(f"{'call':28}{'wall-clock, us':>16}{'processor, us':>16}")
    named = requests | {f"wait, {number} outstanding": cost for number, cost in waits.items()} | scores
    for name, cost in named.items():
        print(f"{name:28}{cost.wall_s * 1e6:16.0f}{cost.processor_s * 1e6:16.0f}")
    for kind in ("wall_s", "processor_s"):
        print(f"{kind}: {driver_speed(requests, waits, kind)}")


def local_ray() -> "ray.runtime_context.RuntimeContext":
    """A Ray of this process's own, in a folder that goes with the process."""
    folder = tempfile.mkdtemp(prefix="fx-")
    os.environ |= {"RAY_worker_niceness": "0", "RAY_prestart_worker_first_driver": "0"}  # no process beside the actors
    return ray.init(
        address="local",
        num_cpus=2,
        include_dashboard=False,
        log_to_driver=False,
        object_store_memory=200 * 2**20,
        _temp_dir=folder,
    )


def measure_calls(rounds: int) -> dict[str, Cost]:
    """Handing out and taking, by name."""
    actor = ray.remote(num_cpus=0, max_concurrency=2)(Bystander).remote()
    found = {}
    for number in GROUPS:
        groups = make_prompts(Setup(1, number, GROUP_SIZE, 128, 1), 0)
        jobs = [Job.of(group) for group in groups]
        references: list[ray.ObjectRef] = []

        def submit(jobs: list[Job] = jobs, references: list[ray.ObjectRef] = references) -> None:
            references.append(actor.generate.remote(jobs, SAMPLING))

        def settle(references: list[ray.ObjectRef] = references) -> None:
            ray.wait(references[-1:], timeout=DEADLINE_S)

        found[f"submit, {number} groups"] = _median(submit, rounds, after=settle)

        def take(references: list[ray.ObjectRef] = references, groups: list[PromptGroup] = groups) -> None:
            draws = ray.get(references.pop(), timeout=DEADLINE_S)
            for draw, group in zip(draws, groups, strict=True):
                draw.to_group(group)

        found[f"take, {number} groups"] = _median(take, rounds)
    ray.kill(actor)
    return found


def measure_waits(rounds: int) -> dict[int, Cost]:
    """Waiting, by the number of outstanding requests."""
    actor = ray.remote(num_cpus=0, max_concurrency=4096)(Bystander).remote()
    ready = actor.generate.remote([], SAMPLING)
    ray.get(ready)
    others: list[ray.ObjectRef] = []
    found = {}
    for number in OUTSTANDING:
        others += [actor.never.remote() for _ in range(number - 1 - len(others))]
        time.sleep(1)
        asked = [*others, ready]
        found[number] = _median(partial(ray.wait, asked, num_returns=1, timeout=DEADLINE_S), rounds)
    ray.kill(actor)
    return found


def reward_pool(num_workers: int) -> RewardPool:
    """A pool without functions of a user's own."""
    return RewardPool(
        num_workers=num_workers,
        function_paths=[],
        group_deadline_s=DEADLINE_S,
        start_deadline_s=DEADLINE_S,
        failures=FailureBudget("reward workers", max_restarts=0, window_s=3600, remedy=""),
        node_type="",
    )


def measure_scores() -> dict[str, Cost]:
    """Of one group, by name; the first step lets the workers come up."""
    stage = plan_stage(load_config("tiny"), load_stages("paper")[0], num_samples=1).rewards
    pool, found = reward_pool(2), {}
    for number in SCORED:
        prompts = make_prompts(Setup(1, number, GROUP_SIZE, 128, 1), 0)
        groups = [draw_of(each.group_id, np.full(GROUP_SIZE, ANSWER_TOKENS), 0).to_group(each) for each in prompts]
        pool.score(groups, stage, 0.0)
        whole = _median(partial(pool.score, groups, stage, 0.0), SCORE_ROUNDS)
        found[f"score, of {number:,} groups"] = Cost(whole.wall_s / number, whole.processor_s / number)
    pool.close()
    return found


def driver_speed(requests: dict[str, Cost], waits: dict[int, Cost], kind: str) -> DriverSpeed:
    """What `simulate` wants, by wall-clock ("wall_s") or processor time ("processor_s")."""
    few, many = GROUPS
    submit, take = ([getattr(requests[f"{name}, {n} groups"], kind) for n in GROUPS] for name in ("submit", "take"))
    per_submit, per_take = ((each[1] - each[0]) / (many - few) for each in (submit, take))
    numbers = np.array(list(waits))
    slope, start = np.polyfit(numbers, [getattr(cost, kind) for cost in waits.values()], 1)
    return DriverSpeed(
        submit_s=max(0.0, submit[0] - few * max(0.0, per_submit)),
        submit_group_s=max(0.0, per_submit),
        wait_s=max(0.0, float(start)),
        wait_each_s=max(0.0, float(slope)),
        take_s=max(0.0, take[0] - few * max(0.0, per_take)),
        take_group_s=max(0.0, per_take),
        prompt_group_s=0.0,
    )


def _median(call: Callable[[], object], rounds: int, after: Callable[[], object] = lambda: None) -> Cost:
    wall_s, processor_s = [], []
    for _ in range(rounds):
        start = time.perf_counter(), time.thread_time()
        call()
        wall_s.append(time.perf_counter() - start[0])
        processor_s.append(time.thread_time() - start[1])
        after()
    return Cost(statistics.median(wall_s), statistics.median(processor_s))


if __name__ == "__main__":
    main()
