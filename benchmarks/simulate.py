"""Where more rollout workers stop helping: `python benchmarks/simulate.py [--config NAME] [--figure FILE.png]`.

    python benchmarks/simulate.py                          the tiny model, seconds measured on two processors
    python benchmarks/simulate.py --config qwen2.5-vl-7b   an H100 for each engine and rank, seconds of the plan's model

Three tables of simulated runs (`fxray/capacity/simulation.py`), each with 1 to 1,024 rollout workers:

    grow     groups and learner ranks grow with the workers, as the design could at best be used
    fixed    a step of 1,024 groups and the learner stay as they are, whatever the number of workers
    deaths   as "grow", with workers that die so often an hour

Answers are as long as those of a run (`DEMO_LENGTHS`), scaled to the plan's mean for another model.
"""

import argparse
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from fxray.capacity.activations import Pass
from fxray.capacity.cluster import ClusterCoefficients
from fxray.capacity.devices import GPUS, Gpu
from fxray.capacity.duration import Coefficients, Rows, forward_flops, plan_duration
from fxray.capacity.leases import EngineSpeed, num_shares
from fxray.capacity.memory import cache_bytes_per_token, grpo_pass, plan_memory
from fxray.capacity.plan import known_shape
from fxray.capacity.simulation import Costs, DriverSpeed, Run, Setup, Step, simulate
from fxray.capacity.weights import count_adapter, count_modules, count_weights
from fxray.config.limits import BYTES_PER_NUMBER
from fxray.config.load import load_config

WORKERS = (1, 4, 16, 64, 256, 1024)
FIXED_GROUPS = 1024
DEMO_LENGTHS = (
    8, 12, 12, 12, 12, 12, 12, 12, 12, 12, 12, 12, 12, 12, 12, 12, 12, 23, 23, 23, 23, 23, 26, 26, 26, 26, 26, 26, 26,
    39, 39, 39, 44, 44, 45, 55, 57, 62, 63, 81, 128,
)  # fmt: skip
"""Tokens: 41 quantiles of the 512 greedy answers of a demo's SFT, of which 1 % ran to the limit of 128; mean 28."""
DRIVER = DriverSpeed(
    submit_s=0.0008,
    submit_group_s=0.000014,
    wait_s=0.000008,
    wait_each_s=0.24e-6,
    take_s=0.00007,
    take_group_s=0.0001,
    prompt_group_s=0.002,
)
"""Processor time by benchmarks/driver.py; prompts: of the actor that reads images of 112 px, 1.0 to 2.3 ms a group."""
TINY_ENGINE = EngineSpeed(lease_s=0.02, group_s=0.012, step_s=0.005, token_s=0.00005)
"""0.69 s of a step of 16 groups (docs/benchmarks.md), split up by a guess."""
SCORE_GROUP_S = ClusterCoefficients().score_group_s
TINY_LEARN_GROUP_S = 0.04
"""0.64 s in a step of 16 groups (docs/benchmarks.md)."""
TINY_LOAD_S = 0.026
"""Processor time of an engine's load (benchmarks/sync.py)."""
TINY_START_S = 7.5
"""A guess."""
GROUPS_PER_REWARD_WORKER = 64


@dataclass(frozen=True, slots=True)
class Case:
    """A model and what everything takes with one engine and one share of the learner.

    Attributes:
        costs: Of a run with one worker.
        lengths: Of answers, in tokens.
        groups_per_worker: That one engine draws in a step.
        group_size: G.
        max_num_seqs: Answers that an engine decodes at once.
        workers_per_node: Engines that share an object store.
    """

    costs: Costs
    lengths: NDArray[np.int64]
    groups_per_worker: int
    group_size: int
    max_num_seqs: int
    workers_per_node: int


def main() -> None:
    args = parse_arguments()
    case = tiny_case() if args.config == "tiny" else modelled_case(args.config, GPUS[args.gpu])
    print(f"{args.config}: {case.costs}")
    print(f"answers of {case.lengths.mean():.0f} tokens, at most {case.lengths.max()}; {args.steps} steps a run")
    kinds = {"grow": growing(case, args, 0.0), "fixed": fixed(case, args), "deaths": growing(case, args, args.deaths)}
    found: dict[str, list[Row]] = {}
    for kind, rows in kinds.items():
        print(f"\n{TITLES[kind].format(deaths=args.deaths)}\n{HEADER}")
        found[kind] = []
        for row in rows:
            found[kind].append(row)
            print(row.as_line(found[kind]), flush=True)
    if args.figure:
        draw_figure(found, args.figure, args.config)


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--config", default="tiny", help="tiny, or a shipped configuration of a larger model")
    parser.add_argument("--gpu", default="h100", choices=sorted(GPUS))
    parser.add_argument("--workers", type=int, nargs="+", default=WORKERS)
    parser.add_argument("--staleness", type=int, nargs="+", default=(0, 1, 2))
    parser.add_argument("--steps", type=int, default=8)
    parser.add_argument("--deaths", type=float, default=1.0, help="of one worker, an hour")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--figure", type=Path, help="draws the efficiencies into this PNG")
    return parser.parse_args()


TITLES = {
    "grow": "grow: groups, learner ranks and reward workers grow with the rollout workers",
    "fixed": f"fixed: {FIXED_GROUPS:,} groups a step, and the learner as fast as for as many",
    "deaths": "deaths: as grow, each worker dies {deaths:g} times an hour",
}
HEADER = (
    f"{'workers':>7}{'stale':>6}{'step, s':>9}{'tokens/s':>12}{'of linear':>10}{'engines busy':>13}{'publish':>9}"
    f"{'generate':>9}{'driver':>8}{'calls/s':>9}{'learner waits':>14}{'sampler waits':>14}{'deaths':>7}  longest part"
)


@dataclass(frozen=True, slots=True)
class Row:
    """A simulated run."""

    setup: Setup
    run: Run

    @property
    def settled(self) -> Sequence[Step]:
        """Steps after the first, which has nothing to overlap with."""
        return self.run.steps[1:] or self.run.steps

    def mean(self, name: str) -> float:
        return float(np.mean([getattr(step, name) for step in self.settled]))

    @property
    def engines_busy_frac(self) -> float:
        return sum(step.engine_s for step in self.run.steps) / (self.setup.num_workers * self.run.seconds)

    @property
    def calls_per_s(self) -> float:
        """Of the driver, over the time in which it draws and scores."""
        shares = num_shares(self.setup.num_groups, self.setup.num_reward_workers, SCORE_GROUP_S)
        requests = self.mean("num_leases") + shares + self.setup.num_workers
        return 3 * requests / self.run.step_s

    @property
    def longest_part(self) -> str:
        """What a step spends most time on, the engines' own work being shared out evenly."""
        engines_s = self.mean("engine_s") / self.setup.num_workers
        parts = {
            "prompts, one by one": self.mean("draw_s"),
            "adapter to the nodes": self.mean("publish_s"),
            "engines": engines_s,
            "uneven leases, deaths": self.mean("generate_s") - engines_s,
            "rewards": self.mean("score_s"),
            "learner": float(np.mean([step.ends_s - step.learns_s for step in self.settled])),
        }
        return max(parts, key=lambda name: parts[name])

    def linear_frac(self, rows: Sequence["Row"]) -> float:
        """Throughput for each worker, of that of the first row with this staleness."""
        first = next(row for row in rows if row.setup.max_staleness == self.setup.max_staleness)
        of_first = first.run.tokens_per_s / first.setup.num_workers
        return self.run.tokens_per_s / self.setup.num_workers / of_first

    def as_line(self, rows: Sequence["Row"]) -> str:
        return (
            f"{self.setup.num_workers:7,}{self.setup.max_staleness:6}{self.run.step_s:9.2f}{self.run.tokens_per_s:12,.0f}"
            f"{self.linear_frac(rows):10.2f}{self.engines_busy_frac:13.2f}"
            f"{self.mean('publish_s'):9.3f}{self.mean('generate_s'):9.2f}{self.mean('driver_s'):8.2f}"
            f"{self.calls_per_s:9,.0f}{self.mean('wait_s'):14.2f}{self.mean('idle_s'):14.2f}{self.run.num_deaths:7}"
            f"  {self.longest_part}"
        )


def growing(case: Case, args: argparse.Namespace, deaths_per_hour: float) -> Iterator[Row]:
    for staleness in args.staleness if not deaths_per_hour else args.staleness[:2]:
        for number in args.workers:
            setup = setup_of(case, args, number, case.groups_per_worker * number, staleness, deaths_per_hour)
            costs = replace(case.costs, learn_group_s=case.costs.learn_group_s / number)
            yield Row(setup, simulate(setup, costs, case.lengths))


def fixed(case: Case, args: argparse.Namespace) -> Iterator[Row]:
    shares = FIXED_GROUPS // case.groups_per_worker
    costs = replace(case.costs, learn_group_s=case.costs.learn_group_s / shares)
    for staleness in args.staleness:
        for number in args.workers:
            setup = setup_of(case, args, number, FIXED_GROUPS, staleness, 0.0)
            yield Row(setup, simulate(setup, costs, case.lengths))


def setup_of(
    case: Case, args: argparse.Namespace, num_workers: int, num_groups: int, staleness: int, deaths_per_hour: float
) -> Setup:
    return Setup(
        num_workers=num_workers,
        num_groups=num_groups,
        group_size=case.group_size,
        max_num_seqs=case.max_num_seqs,
        num_steps=args.steps,
        max_staleness=staleness,
        num_reward_workers=max(1, num_groups // GROUPS_PER_REWARD_WORKER),
        workers_per_node=case.workers_per_node,
        deaths_per_hour=deaths_per_hour,
        seed=args.seed,
    )


def tiny_case() -> Case:
    """The tiny model on two processors, as measured."""
    known = ClusterCoefficients()
    costs = Costs(
        engine=TINY_ENGINE,
        driver=DRIVER,
        adapter_bytes=1.28e6,
        link_bytes_per_s=known.link_bytes_per_s,
        load_s=TINY_LOAD_S,
        start_s=TINY_START_S,
        death_seen_s=known.death_seen_s,
        score_group_s=SCORE_GROUP_S,
        learn_group_s=TINY_LEARN_GROUP_S,
        learn_s=0.0,
    )
    return Case(costs, np.array(DEMO_LENGTHS), 16, 8, 128, workers_per_node=8)


def modelled_case(name: str, gpu: Gpu) -> Case:
    """A larger model, each engine with the GPUs that the configuration gives it and one learner rank for each engine.

    Seconds are those of the plan, its guesses included; of a worker's batch on one learner rank.
    """
    known, assumed = ClusterCoefficients(), Coefficients()
    config = load_config(name, ["rollout.num_workers=1", "learner.num_ranks=1"])
    shape, longest = known_shape(config), grpo_pass(config)
    memory = plan_memory(config, shape, gpu.memory_bytes)
    duration = plan_duration(
        config, shape, gpu, cached_tokens=memory.cached_tokens, rows=Rows(1, 1, 1), coefficients=assumed
    )
    ranks, groups = max(1, int(config.rollout.gpus_per_worker)), config.grpo.prompts_per_step
    mean_tokens = longest.answer_tokens * assumed.answer_frac
    lengths = np.array(DEMO_LENGTHS) * mean_tokens / np.mean(DEMO_LENGTHS)
    weights_bytes = count_weights(shape).total * BYTES_PER_NUMBER[config.model.dtype]
    read_s = 1 / (gpu.bandwidth * assumed.decode_bandwidth)
    prompt = Pass(longest.prompt_tokens, longest.patches, 0, 0, 1)
    engine = EngineSpeed(
        lease_s=0.0,
        group_s=forward_flops(shape, prompt) / (gpu.flops * assumed.prefill_mfu * ranks),
        step_s=weights_bytes / ranks * read_s + assumed.decode_overhead_s,
        token_s=(longest.prompt_tokens + mean_tokens / 2) * cache_bytes_per_token(config, shape) * read_s,
    )
    adapter_bytes = 4 * count_adapter(shape, config.model.lora_rank)
    load_s = count_modules(shape) * known.adapter_module_s
    costs = Costs(
        engine=engine,
        driver=DRIVER,
        adapter_bytes=adapter_bytes,
        link_bytes_per_s=known.link_bytes_per_s,
        load_s=load_s,
        start_s=known.actor_start_s + known.engine_start_s + weights_bytes / known.weights_bytes_per_s,
        death_seen_s=known.death_seen_s,
        score_group_s=SCORE_GROUP_S,
        learn_group_s=duration.learn_s / groups,
        learn_s=2 * adapter_bytes / known.link_bytes_per_s,
    )
    lengths = np.minimum(np.maximum(1, lengths.round()), longest.answer_tokens).astype(np.int64)
    seqs = min(config.rollout.max_num_seqs, int(memory.cached_tokens / (longest.prompt_tokens / 4 + mean_tokens)))
    per_node = known.gpus_per_node // ranks
    return Case(costs, lengths, groups, config.grpo.group_size, seqs, per_node)


def draw_figure(found: dict[str, list[Row]], path: Path, name: str) -> None:
    """Throughput for each worker beside the first row's, and where a worker's time goes."""
    import matplotlib as mpl

    mpl.use("Agg")
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(1, len(found), figsize=(11, 3.6), sharey=True)
    for axis, (kind, rows) in zip(axes, found.items(), strict=True):
        for staleness in sorted({row.setup.max_staleness for row in rows}):
            some = [row for row in rows if row.setup.max_staleness == staleness]
            numbers = [row.setup.num_workers for row in some]
            axis.plot(numbers, [row.linear_frac(rows) for row in some], "o-", label=f"max_staleness {staleness}")
            if not staleness:
                axis.plot(numbers, [row.engines_busy_frac for row in some], "k:", label="engines busy, 0")
        axis.set(xscale="log", xlabel="rollout workers", title=kind, xticks=numbers, ylim=(0, 1.05))
        axis.set_xticks(numbers, [f"{number:,}" for number in numbers])
        axis.minorticks_off()
        axis.grid(alpha=0.3)
    axes[0].set_ylabel("throughput of linear")
    axes[0].legend(fontsize=8)
    figure.suptitle(f"{name}, simulated")
    figure.tight_layout()
    figure.savefig(path, dpi=110)


if __name__ == "__main__":
    main()
