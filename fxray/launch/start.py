"""How each kind of actor is made from the configuration."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from fxray import spans
from fxray.config.tree import Config
from fxray.counts import counted
from fxray.errors import DataError
from fxray.events import Note, OnEvent
from fxray.files import read_folder
from fxray.grpo.types import SeenImage, Visit
from fxray.launch.cluster import ray_address
from fxray.launch.prompts import Fetch, frame_rule
from fxray.processors import num_processors
from fxray.waiting import waiting_for

if TYPE_CHECKING:
    from actors.failures import FailureBudget
    from actors.learner import LearnerGroup
    from actors.reward_pool import RewardPool
    from actors.rollout import RolloutPool
    from fxray.engine.settings import EngineSettings

IMAGES_DEADLINE_S = 300.0


def engine_settings(config: Config, model_path: Path) -> "EngineSettings":
    """The plain values that an engine is made of."""
    from fxray.engine.settings import EngineSettings

    rollout, model = config.rollout, config.model
    return EngineSettings(
        model_path=model_path,
        dtype=model.dtype,
        min_pixels=model.min_pixels,
        max_pixels=model.max_pixels,
        lora_rank=model.lora_rank,
        max_num_seqs=rollout.max_num_seqs,
        max_model_len=rollout.max_model_len,
        block_size=rollout.block_size,
        kv_cache_bytes=int(rollout.kv_cache_gib * 2**30),
        gpu_memory_utilization=rollout.gpu_memory_utilization,
        tensor_parallel_size=max(1, int(rollout.gpus_per_worker)),
        can_sleep=rollout.sleep,
        enforce_eager=rollout.enforce_eager,
        threads=rollout.threads,
        sync=rollout.sync,
        seed=config.seed,
    )


def threads_of_each(asked: int, num_processes: int, config: Config) -> int:
    """CPU threads of each process of a role; where none are asked for, they share a machine that is theirs alone.

    Returns:
        The threads; 0 for all processors of the process's node, as in a cluster, where each may have a node of its own.
    """
    if asked or num_processes == 1 or ray_address(config.ray):
        return asked
    return max(1, num_processors() // num_processes)


def failure_budget(config: Config, who: str, remedy: str) -> "FailureBudget":
    """How often processes of a role may fail; each role has a budget of its own."""
    from actors.failures import FailureBudget

    failures = config.failures
    return FailureBudget(who, max_restarts=failures.max_restarts, window_s=60 * failures.window_minutes, remedy=remedy)


def rollout_pool(config: Config, model_path: Path, on_event: OnEvent) -> "RolloutPool":
    """The engines; they come up in the background."""
    from actors.errands import Deadlines
    from actors.nodes import cluster_nodes
    from actors.placement import ROLLOUT, actor_options, reserved
    from actors.rollout import RolloutPool
    from actors.rollout_worker import rollout_spawner
    from actors.scaling import Limits, Scaler

    rollout, settings = config.rollout, engine_settings(config, model_path)
    settings = replace(settings, threads=threads_of_each(rollout.threads, rollout.most_workers, config))
    options = actor_options(
        num_cpus=rollout.cpus_per_worker,
        num_gpus=rollout.gpus_per_worker,
        node_type=ROLLOUT if config.ray.use_node_types else "",
    )
    limits = Limits(rollout.min_workers, rollout.max_workers, rollout.scale_every_steps)
    scaler = Scaler(
        rollout.num_workers, limits if rollout.max_workers else None, lag_steps=1 + config.grpo.max_staleness
    )
    return RolloutPool(
        rollout_spawner(settings, options),
        scaler=scaler,
        min_workers=rollout.min_workers,
        max_num_seqs=rollout.max_num_seqs,
        deadlines=Deadlines(rollout.start_deadline_s, rollout.step_deadline_s, rollout.hang_deadline_s),
        failures=failure_budget(
            config, "rollout workers", "often too little memory: lower rollout.max_num_seqs or rollout.kv_cache_gib"
        ),
        nodes=cluster_nodes(reserved(options), autoscales=config.ray.autoscales),
        rests=rollout.sleep,
        on_event=on_event,
    )


def reward_pool(config: Config, on_event: OnEvent) -> "RewardPool":
    """The reward workers, with the user's functions loaded."""
    from actors.placement import REWARD
    from actors.reward_pool import RewardPool

    return RewardPool(
        num_workers=config.reward.num_workers,
        function_paths=[function.path for function in config.reward.functions],
        group_deadline_s=config.reward.group_deadline_s,
        start_deadline_s=config.reward.start_deadline_s,
        failures=failure_budget(
            config,
            "reward workers",
            "run the reward functions on the answers of this step alone; one of them ends its process",
        ),
        node_type=REWARD if config.ray.use_node_types else "",
        on_event=on_event,
    )


def learner_group(config: Config, model_path: Path, adapter: Path) -> "LearnerGroup":
    """DeepSpeed ranks, not started yet, for the policy in a folder of this machine, and as its reference."""
    from actors.learner import LearnerGroup, LearnerSpec
    from actors.placement import LEARNER

    learner, model = config.learner, config.model
    spec = LearnerSpec(
        model_path=str(model_path),
        dtype=model.dtype,
        min_pixels=model.min_pixels,
        max_pixels=model.max_pixels,
        lora_rank=model.lora_rank,
        lora_alpha=model.lora.alpha if model.lora else 0.0,
        initial_policy=read_folder(adapter),
        seed=config.seed,
        weight_decay=config.grpo.weight_decay,
        max_grad_norm=config.grpo.max_grad_norm,
        zero_stage=learner.zero_stage,
        max_tokens_per_micro_batch=learner.max_tokens_per_micro_batch,
        max_groups_per_micro_batch=learner.max_groups_per_micro_batch,
        gradient_checkpointing=model.gradient_checkpointing,
        threads=threads_of_each(learner.threads, learner.num_ranks, config),
        yields_memory=config.rollout.sleep,
        memory_remedy=_memory_remedy(config),
    )
    return LearnerGroup(
        spec,
        num_ranks=learner.num_ranks,
        cpus_per_rank=learner.cpus_per_rank,
        gpus_per_rank=learner.gpus_per_rank,
        start_deadline_s=learner.start_deadline_s,
        step_deadline_s=learner.step_deadline_s,
        hang_deadline_s=learner.hang_deadline_s,
        node_type=LEARNER if config.ray.use_node_types else "",
    )


def _memory_remedy(config: Config) -> str:
    """What to change when a learner runs out of memory although the plan says that it fits."""
    if config.learner.gpus_per_rank == 0:
        return "lower learner.max_tokens_per_micro_batch or model.max_pixels"
    tokens = max(1, config.learner.max_tokens_per_micro_batch // 2)
    changes = [] if config.model.gradient_checkpointing else ["--set model.gradient_checkpointing=true"]
    changes.append(f"--set learner.max_tokens_per_micro_batch={tokens}")
    if 0 < config.rollout.gpus_per_worker < 1 and not config.rollout.sleep:
        changes.append("--set rollout.sleep=true")
    return f"{', or '.join(changes)}; `fxray plan` shows who needs what"


def leave_out(error: DataError, *, config: Config, on_event: OnEvent) -> None:
    """Tells of an image that cannot be read and is left out.

    Raises:
        DataError: The configuration lets none be left out.
    """
    if config.data.on_corrupt_image != "skip":
        remedy = f"{error.remedy}, or set data.on_corrupt_image=skip to leave such images out"
        raise DataError(error.message, where=error.where, remedy=remedy)
    on_event(Note(f"left out: {error.where}: {error.message}", is_warning=True))


def image_fetcher(
    config: Config, path: Path, model_path: Path, on_bad: Callable[[DataError], None], on_event: OnEvent
) -> Fetch:
    """Images of a dataset through an image store on the driver's node.

    Args:
        config: For the failure budget and the pixel bounds.
        path: The Parquet file.
        model_path: Folder of the base model.
        on_bad: Called with the error of each unreadable image; raises, or lets it be left out.
        on_event: Told when the store is started again.

    Returns:
        A function from visits to images, None for one that is left out.
    """
    from actors.image_store import ImageSource

    source = ImageSource(
        path,
        frame_rule(config, model_path),
        failures=failure_budget(config, "image stores", "check the disk that the dataset lies on"),
        deadline_s=IMAGES_DEADLINE_S,
        on_restart=lambda text: on_event(Note(text, is_warning=True)),
    )

    def fetch(visits: Sequence[Visit]) -> list[SeenImage | None]:
        what = f"{counted(len(visits), 'image')} of {path.name}"
        with spans.span("images", "read", what) as span, waiting_for([span]):
            images, bad = source.fetch(visits)
        for image in bad:
            on_bad(image.error)
        return [images.get(visit) for visit in visits]

    return fetch
