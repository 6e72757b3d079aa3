"""What every phase of a run needs: the configuration checked, the run directory locked, the data there."""

import math
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from fxray.capacity.trained import find_store_problem
from fxray.config.limits import check
from fxray.config.problem import refuse
from fxray.config.schedule import Stage, load_stages
from fxray.config.stage_limits import warmup_problems
from fxray.config.tree import Config
from fxray.events import Event, Note, OnEvent, PhaseDone
from fxray.launch.cluster import check_machine, ray_cluster
from fxray.launch.data import Splits, prepare_data
from fxray.launch.devices import check_gpus, find_placement_problem, gpus_of_nodes, largest_store_bytes
from fxray.launch.namesakes import refuse_namesakes
from fxray.launch.run import RunDirectory, open_run
from fxray.launch.user_modules import keep_rewards
from fxray.launch.watch import watch_run


@dataclass(frozen=True)
class Session:
    """A run that a driver works on."""

    config: Config
    run: RunDirectory
    stages: tuple[Stage, ...]
    splits: Splits
    model_path: Path
    on_event: OnEvent

    @contextmanager
    def phase(self, name: str, summary: str = "") -> Iterator[None]:
        """Tells when a phase is done, and how long it took."""
        start_s = time.monotonic()
        yield
        self.on_event(PhaseDone(name, time.monotonic() - start_s, summary))


@contextmanager
def open_session(config: Config, run_dir: Path, on_event: OnEvent) -> Iterator[Session]:
    """Starts or continues a run, up to where Ray is there.

    Raises:
        ConfigError: The configuration cannot run, a reward function cannot be loaded, a module in the current folder
            has the name of one of fxray's, or the directory belongs to another configuration.
        DataError: A dataset is missing or malformed.
        ModelError: The base model cannot be read.
        CheckpointError: The run was begun with another base model.
        ResourceError: Ray cannot be started, or its GPUs are too few or too small.
    """
    from fxray.launch.base_model import keep_base
    from fxray.model.folder import resolve_model_path
    from rewards.custom import load_reward

    refuse(check(config), where="configuration")
    refuse_namesakes()
    stages = load_stages(config.grpo.schedule)
    for function in config.reward.functions:
        load_reward(function.path)
    model_path = resolve_model_path(config.model.path)
    check_machine(config.ray)
    warning_s, names = config.ray.stall_warning_s, [stage.name for stage in stages]
    with (
        open_run(run_dir, config) as run,
        watch_run(run.root, on_event, warning_s=warning_s, phases=names) as watch,
    ):
        keep_base(run, model_path)
        if edited := keep_rewards(run, config):
            watch.on_event(Note(edited, is_warning=True))
        splits = prepare_data(config, run, watch.on_event)
        refuse([*warmup_problems(config, len(splits.open(splits.train)))], where="configuration")
        with ray_cluster(config.ray, min_cpus=num_cpus(config)), watch.exporting():
            nodes = gpus_of_nodes()
            store_problems = find_store_problem(config, largest_store_bytes())
            refuse([*store_problems, *find_placement_problem(config, nodes)], where="Ray")
            # Where nodes come when they are needed, the look asks for a GPU, so that one with it comes.
            check_gpus(config, math.inf if config.ray.autoscales else sum(nodes))
            yield Session(config, run, stages, splits, model_path, partial(_tell, run, watch.on_event))


def _tell(run: RunDirectory, on_event: OnEvent, event: Event) -> None:
    """Tells of an event, if the run is still this driver's: one that was taken over stops at its next step."""
    if run.lease is not None:
        run.lease.check()
    on_event(event)


def num_cpus(config: Config) -> int:
    """Logical processors that the actors of a run ask for at once."""
    rollout = config.rollout.most_workers * config.rollout.cpus_per_worker
    learner = config.learner.num_ranks * config.learner.cpus_per_rank
    return int(max(rollout + learner, config.sft.num_workers) + 1)
