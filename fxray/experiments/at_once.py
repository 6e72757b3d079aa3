"""Trainings at the same time, each by `fxray trial` in a process of its own: a job of its own to Ray.

Of trainings that come to the same SFT, one does it; the others wait for its answers before GRPO and take them over.

    OUT/configs/<training>.yaml   the whole configuration of a training
    OUT/logs/<training>.log       what it says while it works
"""

from collections.abc import Callable, Mapping
from concurrent.futures import Future, ThreadPoolExecutor, as_completed
from dataclasses import dataclass
from pathlib import Path
from threading import Event

from fxray.config.load import dump_config
from fxray.config.tree import Config, RayConfig
from fxray.events import ignore
from fxray.experiments.trainings import are_equal_before_grpo
from fxray.experiments.work import Apart, take_over_sft
from fxray.files import write_atomically
from fxray.launch.apart import LOOK_EVERY_S, Surroundings
from fxray.launch.cluster import ray_address, ray_cluster
from fxray.launch.demand import refuse_shared_machine, refuse_so_many
from fxray.launch.phases import NO_FT, SFT
from fxray.launch.run import RunDirectory


@dataclass(frozen=True, slots=True)
class _Job:
    name: str
    config: Config
    out: Path

    @property
    def run(self) -> RunDirectory:
        return RunDirectory(self.out / "runs" / self.name)

    @property
    def has_answers_of_sft(self) -> bool:
        return self.run.sft_adapter.is_dir() and all(self.run.predictions(phase).exists() for phase in (NO_FT, SFT))


def train_at_once(
    configs: Mapping[str, Config],
    out: Path,
    max_concurrent: int,
    done: Callable[[str, BaseException | None], None],
    apart: Apart,
) -> None:
    """Brings trainings to their ends, so many at the same time; what one leaves undone stops no other.

    Args:
        configs: Of the trainings, by name.
        out: Folder of the experiments; no other driver works in it.
        max_concurrent: How many at once.
        done: Told, in this thread, of the end of each, and of its error if it failed.
        apart: What trains.
    """
    around, stop, futures = Surroundings(), Event(), dict[str, Future[None]]()
    jobs = [_Job(name, config, out) for name, config in configs.items()]
    donors = {job.name: _donor_of(job, jobs) for job in jobs}
    with ThreadPoolExecutor(max_concurrent, "training") as pool:
        try:
            for job in sorted(jobs, key=lambda job: donors[job.name] is not job):  # a donor never waits behind others
                donor = donors[job.name]
                futures[job.name] = pool.submit(_train, job, donor, futures.get(donor.name), apart, around, stop)
            names = {future: name for name, future in futures.items()}
            for future in as_completed(names):
                done(names[future], future.exception())
        finally:
            stop.set()
            pool.shutdown(cancel_futures=True)


def refuse_no_room(configs: Mapping[str, Config], ray: RayConfig, max_concurrent: int) -> None:
    """Sees to it that trainings get in no other's way.

    Raises:
        ConfigError: The cluster has no room for so many, or they would share GPUs, or a port, of this machine.
        ResourceError: The cluster cannot be reached.
    """
    at_once = min(max_concurrent, len(configs))
    for config in configs.values():
        refuse_shared_machine(config, at_once)
    if ray_address(ray) and not ray.autoscales:
        with ray_cluster(ray, min_cpus=1):
            refuse_so_many(configs, at_once)


def _donor_of(job: _Job, jobs: list[_Job]) -> _Job:
    """The training whose SFT an undone one takes over: the one that is furthest, or itself."""
    equal = [other for other in jobs if are_equal_before_grpo(other.config, job.config)]
    return max(equal, key=lambda other: (other.has_answers_of_sft, other.run.sft_adapter.is_dir()))


def _train(
    job: _Job, donor: _Job, donors_end: Future[None] | None, apart: Apart, around: Surroundings, stop: Event
) -> None:
    while donors_end is not None and not donors_end.done() and not donor.has_answers_of_sft:
        if stop.wait(LOOK_EVERY_S):
            return
    run_dir, file = job.run.root, job.out / "configs" / f"{job.name}.yaml"
    write_atomically(file, dump_config(job.config))
    take_over_sft(run_dir, job.config, ignore)
    command = ["trial", str(file.resolve()), str(run_dir.resolve())]
    apart(command, run_dir, job.out / "logs" / f"{job.name}.log", around, stop)
