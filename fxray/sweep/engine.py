"""Ray Tune runs the units of a sweep: so many at once, each apart from the others, stopped early where ASHA says so.

A unit is a trial; with ASHA it is a setting, whose seeds go from phase to phase together, so that what is compared is
their mean. Between two phases nothing of a unit runs, so whatever ASHA stops loses no work. Tune keeps nothing that a
later call needs: what is done is read from the run directories and told again.
"""

import logging
import os
import shutil
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

from fxray.config.tree import RayConfig
from fxray.launch.cluster import ray_address, ray_cluster
from fxray.launch.demand import refuse_so_many
from fxray.sweep.trials import Trial
from fxray.sweep.units import Halving, Listener, Round, Unit

VALUE = "value"
OBJECT_STORE_MIB = 80
SHARE_OF_NODE = 0.001
"""What a unit takes of this machine: nothing, but its driver runs here, beside the folder of the sweep."""
SWITCHES = {
    "TUNE_DISABLE_AUTO_CALLBACK_LOGGERS": "1",
    "TUNE_DISABLE_SIGINT_HANDLER": "1",
    "TUNE_FUNCTION_THREAD_TIMEOUT_S": "60",
    "RAY_CHDIR_TO_TRIAL_DIR": "0",
    "RAY_AIR_NEW_OUTPUT": "0",
    "RAY_worker_niceness": "0",
}
"""Tune's own logs, handler of Ctrl-C, haste when a process of its is used again, folder and output; and that trials,
which such a process starts, yield to others no more than `fxray train` does."""
LEAVE_BY_THEMSELVES = {"RAY_kill_child_processes_on_worker_exit": "0"}
"""Trials, when such a process ends: without it Ray kills them. A cluster's own processes must be told it, too."""


def run_rounds(
    rounds: Iterable[Round],
    advance: Callable[[Trial, str], None],
    measure: Callable[[Unit, str], float],
    *,
    max_concurrent: int,
    ray_config: RayConfig,
    folder: Path,
) -> None:
    """Brings every unit to its last phase, or to where it is stopped or fails; the others go on.

    Args:
        rounds: One after the other; a round is asked for when the one before it is over.
        advance: Brings a trial to a phase; called in a process of Ray's on this machine.
        measure: Value of a unit after a phase; called there too.
        max_concurrent: Units at once.
        ray_config: Cluster to join, if any; nothing is joined or started where there is no unit.
        folder: For what Tune writes; it is deleted.

    Raises:
        ResourceError: Ray cannot be joined or started.
        ConfigError: The cluster has no room for so many at once.
    """
    own = {"num_cpus": max_concurrent, "object_store_mib": OBJECT_STORE_MIB, "metrics_port": 0, "use_node_types": False}
    with ExitStack() as closing:
        is_up = False
        for each in rounds:
            if not each.units:
                continue
            if not is_up:
                closing.enter_context(_tune_settings(folder))
                ray = ray_config.model_copy(update=own)
                closing.enter_context(ray_cluster(ray, min_cpus=1, environment=LEAVE_BY_THEMSELVES))
                is_up = True
            if ray_address(ray_config) and not ray_config.autoscales:
                configs = {unit.name: unit.trials[0].config for unit in each.units}
                refuse_so_many(configs, min(max_concurrent, len(configs)))
            _run(each, advance, measure, max_concurrent, folder)


def _run(
    given: Round,
    advance: Callable[[Trial, str], None],
    measure: Callable[[Unit, str], float],
    max_concurrent: int,
    folder: Path,
) -> None:
    from ray import tune

    by_name = {unit.name: unit for unit in given.units}

    def work(config: dict[str, Any]) -> None:
        unit = by_name[config["unit"]]
        for phase in unit.phases:
            for trial in unit.trials:
                advance(trial, phase)
            tune.report({VALUE: measure(unit, phase), "phase": phase})

    tuner = tune.Tuner(
        tune.with_resources(work, tune.PlacementGroupFactory([{_this_node(): SHARE_OF_NODE}])),
        param_space={"unit": tune.grid_search(list(by_name))},
        tune_config=tune.TuneConfig(
            scheduler=_scheduler(given.halving),
            max_concurrent_trials=max_concurrent,
            reuse_actors=True,
            trial_dirname_creator=lambda trial: trial.trial_id,
        ),
        run_config=tune.RunConfig(
            name="units", storage_path=str(folder.resolve()), verbose=0, callbacks=[_callback(by_name, given.listener)]
        ),
    )
    tuner.fit()


def _scheduler(halving: Halving | None) -> Any:
    from ray.tune.schedulers import ASHAScheduler, FIFOScheduler

    if halving is None:
        return FIFOScheduler()
    return ASHAScheduler(
        metric=VALUE,
        mode=halving.mode,
        max_t=halving.num_phases,
        grace_period=min(halving.min_phases, halving.num_phases),
        reduction_factor=halving.reduction_factor,
    )


def _callback(by_name: Mapping[str, Unit], listener: Listener) -> Any:
    from ray import tune

    class Teller(tune.Callback):
        """Passes on what happens, in this process; Tune writes its callbacks down, and this one stays out of it."""

        def __reduce__(self) -> Any:
            return tune.Callback, ()

        def on_trial_result(self, iteration: int, trials: Any, trial: Any, result: Any, **info: Any) -> None:  # noqa: ARG002
            listener.told(by_name[trial.config["unit"]], result["phase"], result[VALUE])

        def on_trial_complete(self, iteration: int, trials: Any, trial: Any, **info: Any) -> None:  # noqa: ARG002
            unit = by_name[trial.config["unit"]]
            listener.done(unit, trial.last_result.get("phase") != unit.phases[-1])

        def on_trial_error(self, iteration: int, trials: Any, trial: Any, **info: Any) -> None:  # noqa: ARG002
            file = Path(trial.error_file or "")
            lines = file.read_text("utf-8").split("\n") if file.is_file() else ["its process in Ray ended"]
            listener.failed(by_name[trial.config["unit"]], next(line for line in reversed(lines) if line.strip()))

    return Teller()


def _this_node() -> str:
    """The resource that stands for the machine that this process runs on."""
    import ray

    own = ray.get_runtime_context().get_node_id()
    node = next(node for node in ray.nodes() if node["NodeID"] == own)
    return next(name for name in node["Resources"] if name.startswith("node:") and "__" not in name)


@contextmanager
def _tune_settings(folder: Path) -> Iterator[None]:
    """Keeps Tune from writing and saying what nobody reads, and clears away what it must write."""
    before = {name: os.environ.get(name) for name in SWITCHES}
    os.environ.update(SWITCHES)
    loggers = [logging.getLogger(name) for name in ("ray.tune", "ray.train", "ray.air")]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.CRITICAL)  # failures are told in one line
    shutil.rmtree(folder, ignore_errors=True)
    try:
        yield
    finally:
        shutil.rmtree(folder, ignore_errors=True)
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)
