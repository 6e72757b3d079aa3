"""The GPUs of a cluster, looked at before anything is loaded onto them."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from fxray.capacity.plan import refuse_what_does_not_fit
from fxray.config.problem import Problem
from fxray.config.tree import Config
from fxray.errors import DeadlineError, ResourceError


@dataclass(frozen=True, slots=True)
class FoundGpu:
    """What a process that Ray gave a GPU sees.

    Attributes:
        name: As the driver tells it; empty where torch cannot use the GPU.
        memory_bytes: Of it.
        has_bfloat16: Whether it computes in bfloat16.
        problem: Why torch cannot use it.
    """

    name: str
    memory_bytes: int = 0
    has_bfloat16: bool = False
    problem: str = ""


def num_gpus(config: Config) -> float:
    """GPUs that a configuration cannot do without."""
    rollout, learner = config.rollout, config.learner
    grpo = rollout.needed_workers * rollout.gpus_per_worker + learner.num_ranks * learner.gpus_per_rank
    return max(grpo, config.sft.num_workers * math.ceil(learner.gpus_per_rank))


def gpus_of_nodes() -> list[float]:
    """GPUs of each node that has any, of the cluster that this process has joined."""
    import ray

    found = (node["Resources"].get("GPU", 0) for node in ray.nodes() if node["Alive"])
    return [float(num_gpus) for num_gpus in found if num_gpus]


def find_placement_problem(config: Config, nodes: Sequence[float]) -> list[Problem]:
    """Why Ray could put two ranks on one GPU: they share those of several engines, and other nodes have GPUs too.

    Args:
        config: A checked one.
        nodes: GPUs of each node that has any.
    """
    num_engines = config.rollout.num_workers
    if not config.rollout.sleep or num_engines == 1 or len(nodes) < 2 or sum(nodes) <= num_engines:
        return []
    return [
        Problem(
            "rollout.num_workers",
            str(num_engines),
            f"must be {sum(nodes):g}, all GPUs of the {len(nodes)} nodes, where engines and ranks take turns, or two "
            "ranks may get the same GPU of a node that has no engine",
            "set rollout.num_workers and learner.num_ranks to it, give engines and ranks GPUs of their own, or join a "
            "single node",
        )
    ]


def largest_store_bytes() -> int:
    """Object store of the node that has most of it, of the cluster that this process has joined."""
    import ray

    return max(int(node["Resources"].get("object_store_memory", 0)) for node in ray.nodes() if node["Alive"])


def look_at_gpu() -> FoundGpu:
    """Looks at the first GPU of this process."""
    import torch

    if not torch.cuda.is_available():
        built = (
            f"torch {torch.__version__} is built for {'CUDA ' + torch.version.cuda if torch.version.cuda else 'CPUs'}"
        )
        try:
            torch.cuda.init()
        except (RuntimeError, AssertionError) as error:
            return FoundGpu("", problem=f"{built}: {str(error).splitlines()[0]}")
        return FoundGpu("", problem=built)
    properties = torch.cuda.get_device_properties(0)
    return FoundGpu(properties.name, properties.total_memory, torch.cuda.is_bf16_supported(including_emulation=False))


def look_in_cluster(deadline_s: float) -> FoundGpu:
    """Looks at one GPU of the cluster, in a process that Ray gives it."""
    import ray
    from ray.exceptions import GetTimeoutError

    try:
        return ray.get(ray.remote(num_gpus=0.01, num_cpus=0)(look_at_gpu).remote(), timeout=deadline_s)
    except GetTimeoutError as error:
        raise DeadlineError(
            f"no GPU could be looked at within {deadline_s:g} s",
            where="Ray cluster",
            remedy="check with `ray status` that a GPU is free, or raise rollout.start_deadline_s",
        ) from error


def check_gpus(config: Config, available: float, look: Callable[[float], FoundGpu] = look_in_cluster) -> None:
    """Returns when the cluster's GPUs can do what a configuration asks of them, or it asks for none.

    Args:
        config: A checked one.
        available: GPUs that the cluster has.
        look: Looks at one of them, within so many seconds: other jobs may hold all of them.

    Raises:
        ResourceError: There are too few, torch cannot use them, or a role does not fit by the plan.
    """
    wanted = num_gpus(config)
    if wanted == 0:
        return
    if wanted > available:
        raise ResourceError(
            f"the configuration asks for {wanted:g} GPU, the cluster has {available:g}",
            where="rollout, learner and sft",
            remedy="lower rollout.num_workers, learner.num_ranks and sft.num_workers, or join a larger cluster with "
            "ray.address; a shipped file's first lines show other placements",
        )
    found = look(config.rollout.start_deadline_s)
    if found.problem:
        raise ResourceError(
            f"torch cannot use the GPU: {found.problem}",
            where="Ray cluster",
            remedy="install fxray[cuda] in an environment of its own, and compare its CUDA with the driver's "
            "(`nvidia-smi`); `fxray doctor` shows both",
        )
    if config.model.dtype == "bfloat16" and not found.has_bfloat16:
        raise ResourceError(
            "the GPU does not compute in bfloat16", where=found.name, remedy="use another GPU, or model.dtype=float32"
        )
    refuse_what_does_not_fit(config, found.memory_bytes, where=found.name)
