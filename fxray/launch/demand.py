"""What a configuration asks of a cluster, phase by phase, and what of it a cluster has no place for."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from actors.placement import LEARNER, NODE_TYPES, REWARD, ROLLOUT, node_share
from fxray.config.tree import Config
from fxray.counts import counted
from fxray.errors import ConfigError
from fxray.launch.cluster import ray_address

TOLERANCE = 1e-9
ORDER = ("GPU", "CPU")


@dataclass(frozen=True, slots=True)
class Demand:
    """Processes of one kind, each of which needs a place on one node.

    Attributes:
        what: What one is called.
        field: The configuration field that says how many.
        num: How many.
        resources: What each reserves: CPU, GPU and custom resources.
    """

    what: str
    field: str
    num: int
    resources: Mapping[str, float]


def demands(config: Config) -> dict[str, list[Demand]]:
    """What must be reserved at the same time, for each phase; phases follow each other and share the nodes."""
    rollout, learner, sft = config.rollout, config.learner, config.sft

    def share(node_type: str) -> dict[str, float]:
        return node_share(node_type) if config.ray.use_node_types else {}

    of_sft = {"CPU": 1.0, "GPU": float(math.ceil(learner.gpus_per_rank))} | share(LEARNER)
    of_engine = {"CPU": rollout.cpus_per_worker, "GPU": rollout.gpus_per_worker} | share(ROLLOUT)
    of_rank = {"CPU": max(learner.cpus_per_rank, 0.01), "GPU": learner.gpus_per_rank} | share(LEARNER)
    grpo = [
        Demand("learner rank", "learner.num_ranks", learner.num_ranks, of_rank),
        Demand("rollout worker", _field_of_needed(config), rollout.needed_workers, of_engine),
        Demand("reward worker", "reward.num_workers", config.reward.num_workers, share(REWARD)),
    ]
    return {"SFT": [Demand("SFT worker", "sft.num_workers", sft.num_workers, of_sft)], "GRPO": grpo}


def _field_of_needed(config: Config) -> str:
    return "rollout.min_workers" if config.rollout.max_workers else "rollout.num_workers"


def missing(config: Config, nodes: Sequence[Mapping[str, float]], copies: int = 1, driver_on: str = "") -> list[str]:
    """What nodes have no place for; empty where all fits.

    Each process is put where the least of what it asks for is left over, those that ask for most first; so a cluster
    that is called too small may still hold it in rare mixtures of parts of GPUs.

    Args:
        config: A checked one.
        nodes: What each node offers in all: {"CPU": 8, "GPU": 1, ...}.
        copies: Runs of this configuration at once.
        driver_on: Type of the node that the driver asks for; any will do where empty.

    Returns:
        A line for each kind of process that is left without a place, in each phase.
    """
    lines = []
    if driver_on in NODE_TYPES and not _place(node_share(driver_on), [dict(node) for node in nodes]):
        lines.append(f"the driver asks for {shown(node_share(driver_on))} (--driver-on): there is none")
    for phase, asked in demands(config).items():
        left = [dict(node) for node in nodes]
        for demand in sorted(asked, key=_size, reverse=True):
            num = copies * demand.num
            num_placed = sum(_place(demand.resources, left) for _ in range(num))
            if num_placed < num:
                lines.append(
                    f"{phase} asks for {counted(num, demand.what)} of {shown(demand.resources)} each "
                    f"({demand.field}): there is room for {num_placed}"
                )
    return lines


def refuse_so_many(configs: Mapping[str, Config], at_once: int) -> None:
    """Sees to it that the cluster that this process has joined has room for so many runs of each at the same time.

    Args:
        configs: Of the runs, by name.
        at_once: How many.

    Raises:
        ConfigError: It has not.
    """
    import ray

    nodes = [node["Resources"] for node in ray.nodes() if node["Alive"]]
    for name, config in configs.items():
        if lines := missing(config, nodes, copies=at_once):
            raise ConfigError(
                f"the cluster has no room for {at_once} of {name} at once: {'; '.join(lines)}",
                where="--max-concurrent",
                remedy="lower it, or add nodes",
            )


def refuse_shared_machine(config: Config, at_once: int) -> None:
    """Runs with a Ray of their own each would take the same GPUs, and the same port.

    Raises:
        ConfigError: They would.
    """
    if at_once == 1 or ray_address(config.ray):
        return
    shared = [
        *(["on the same GPUs"] if config.rollout.gpus_per_worker > 0 or config.learner.gpus_per_rank > 0 else []),
        *([f"with ray.metrics_port {config.ray.metrics_port}"] if config.ray.metrics_port else []),
    ]
    if shared:
        raise ConfigError(
            f"{at_once} trainings at once would each start a Ray of their own {' and '.join(shared)}",
            where="--max-concurrent",
            remedy="start one Ray for all (`ray start --head`) and set ray.address=auto, or train one at a time",
        )


def shown(resources: Mapping[str, float]) -> str:
    """Resources in words: "1 GPU, 2 CPU, a node with `rollout`"."""
    words = [f"{resources[name]:g} {name}" for name in ORDER if resources.get(name)]
    words += [f"a node with `{name}`" for name, amount in resources.items() if name not in ORDER and amount]
    return ", ".join(words) or "no CPU"


def _size(demand: Demand) -> tuple[bool, float, float]:
    is_bound = any(name not in ORDER for name in demand.resources)
    return is_bound, demand.resources.get("GPU", 0), demand.resources.get("CPU", 0)


def _place(resources: Mapping[str, float], left: list[dict[str, float]]) -> bool:
    """Takes resources from the fullest node that has them; False where none has."""
    wanted = {name: amount for name, amount in resources.items() if amount}
    fitting = [node for node in left if all(node.get(name, 0) >= amount - TOLERANCE for name, amount in wanted.items())]
    if not fitting:
        return False
    node = min(fitting, key=lambda node: [node.get(name, 0) for name in ORDER])
    for name, amount in wanted.items():
        node[name] -= amount
    return True
