"""The whole plan of a configuration: memory, time, and what to change where it does not fit."""

from dataclasses import asdict, dataclass
from typing import Any

from fxray.capacity.advice import Change, apply, as_options, find_change
from fxray.capacity.cluster import ClusterCoefficients, ClusterPlan, plan_cluster
from fxray.capacity.devices import GIB, Gpu
from fxray.capacity.duration import Coefficients, Duration, Rows, plan_duration
from fxray.capacity.memory import MemoryPlan, plan_memory
from fxray.capacity.trained import Trained, count_trained
from fxray.config.model_shape import ModelShape, published_families, read_shape
from fxray.config.problem import Problem
from fxray.config.tree import Config
from fxray.errors import ConfigError, ResourceError


@dataclass(frozen=True, slots=True)
class Plan:
    """What a configuration needs.

    Attributes:
        memory: Of every role.
        trained: What is trained, published and kept.
        duration: Of steps and run; None where the roles have no GPUs, or do not fit on them.
        change: The smallest that makes it fit: empty where it fits, None where none is known.
        rows: Of the splits that the hours are for.
        coefficients: That the times rest on.
        cluster: What moves between nodes, and who waits for whom.
    """

    memory: MemoryPlan
    trained: Trained
    duration: Duration | None
    change: tuple[Change, ...] | None
    rows: Rows
    coefficients: Coefficients
    cluster: ClusterPlan

    def as_json(self) -> dict[str, Any]:
        """Plain values; bytes and seconds."""
        totals = {role.name: role.num_bytes for role in self.memory.roles}
        duration = self.duration
        return asdict(self) | {
            "fits": self.memory.fits,
            "role_bytes": totals,
            "step_s": duration.step_s if duration else None,
            "hours": duration.hours if duration else None,
            "evaluation_hours": duration.evaluation_hours if duration else None,
            "change": as_options(self.change) if self.change is not None else None,
        }


def draw_plan(
    config: Config,
    gpu: Gpu,
    memory_bytes: int,
    rows: Rows,
    *,
    image_bytes: int | None = None,
    network: ClusterCoefficients | None = None,
) -> Plan:
    """Plans a configuration.

    Args:
        config: A checked one.
        gpu: Each GPU of the run.
        memory_bytes: Of one GPU.
        rows: Of the splits.
        image_bytes: Of a mean encoded image; by default assumed.
        network: What is assumed of nodes and network.

    Raises:
        ConfigError: Nothing is known of the base model.
    """
    shape = known_shape(config)
    memory = plan_memory(config, shape, memory_bytes)
    coefficients = Coefficients()

    def duration_of(num_workers: int) -> Duration:
        return plan_duration(
            apply(config, (("rollout.num_workers", num_workers),)),
            shape,
            gpu,
            cached_tokens=memory.cached_tokens,
            rows=rows,
            coefficients=coefficients,
        )

    is_timed = config.rollout.gpus_per_worker > 0 and config.learner.gpus_per_rank > 0
    cluster = plan_cluster(
        config,
        shape,
        duration_of if is_timed else None,
        answer_frac=coefficients.answer_frac,
        image_bytes=image_bytes,
        coefficients=network,
    )
    duration = duration_of(config.rollout.num_workers) if is_timed and memory.fits else None
    change = find_change(config, shape, memory_bytes)
    return Plan(memory, count_trained(config, shape), duration, change, rows, coefficients, cluster)


def known_shape(config: Config) -> ModelShape:
    """The shape of a configuration's base model.

    Raises:
        ConfigError: It is of another kind, or nothing is known of it here.
    """
    shape = read_shape(config.model.path)
    if isinstance(shape, Problem):
        raise ConfigError(str(shape), where="model.path", remedy=shape.remedy)
    if shape is None:
        raise ConfigError(
            f"the shape of {config.model.path} is not known here",
            where="model.path",
            remedy=f"give a folder with its config.json, or the name of a published {published_families()}",
        )
    return shape


def refuse_what_does_not_fit(config: Config, memory_bytes: int, where: str) -> None:
    """Returns when the plan fits, or nothing is known of the model.

    Args:
        config: A checked one.
        memory_bytes: Of the GPU that was found.
        where: That GPU, for the error.

    Raises:
        ResourceError: It names who needs how much, and the smallest change that fits.
    """
    shape = read_shape(config.model.path)
    if not isinstance(shape, ModelShape):
        return
    too_large = [card for card in plan_memory(config, shape, memory_bytes).cards if not card.fits]
    if too_large:
        card = too_large[0]
        raise ResourceError(
            f"{' and '.join(card.roles)} {'need' if card.roles[1:] else 'needs'} {card.num_bytes / GIB:.1f} GiB of GPU "
            f"memory by the plan, "
            f"{memory_bytes / GIB:.1f} GiB are there",
            where=where,
            remedy=remedy(config, shape, memory_bytes),
        )


def remedy(config: Config, shape: ModelShape, memory_bytes: int) -> str:
    """What to do where it does not fit."""
    change = find_change(config, shape, memory_bytes)
    if not change:
        return "use GPUs with more memory, a smaller model, or more of them; `fxray plan` shows who needs what"
    return f"{as_options(change)}; `fxray plan` shows who needs what"
