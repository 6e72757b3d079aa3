"""The whole way of a run, and its parts one by one; every part finds out what is done already.

data ─► SFT ─► [No-FT, SFT answer] ─► alpha ─► [answers] ─► beta ─► [answers] ─► gamma ─► [answers] ─► report
"""

from pathlib import Path

from fxray.config.limits import check
from fxray.config.problem import refuse
from fxray.config.tree import Config
from fxray.data.dataset import Dataset
from fxray.errors import CheckpointError, ConfigError, DataError
from fxray.evaluate.predictions import write_predictions
from fxray.events import OnEvent, ignore
from fxray.launch.cluster import ray_cluster
from fxray.launch.evaluation import answer_split, rows_to_answer
from fxray.launch.fleet import Fleet, open_fleet, open_policies
from fxray.launch.plan import greedy
from fxray.launch.prompts import PromptSource
from fxray.launch.session import Session, num_cpus, open_session
from fxray.launch.sft import train_sft
from fxray.launch.stages import stage_version, train_stage
from fxray.launch.start import image_fetcher
from fxray.model.load import resolve_model_path
from fxray.report import Report, write_report

NO_FT, SFT = "no-ft", "sft"


def train(config: Config, run_dir: Path, on_event: OnEvent = ignore) -> Report:
    """Trains, evaluates and reports; on an existing run directory, what is missing of it.

    Raises:
        FxrayError: What stopped it; the same call goes on from the last checkpoint.
    """
    with open_session(config, run_dir, on_event) as session:
        train_sft(session)
        if not _is_done(session):
            with open_fleet(session) as fleet:
                _answer(session, fleet, NO_FT)
                _answer(session, fleet, SFT)
                for stage in session.stages:
                    train_stage(session, fleet, stage)
                    _answer(session, fleet, stage.name)
        return write_report(session.run.root)


def run_sft_phase(config: Config, run_dir: Path, on_event: OnEvent = ignore) -> Path:
    """SFT alone.

    Returns:
        Folder of the adapter, in PEFT layout.
    """
    with open_session(config, run_dir, on_event) as session:
        train_sft(session)
        return session.run.sft_adapter


def run_grpo_stage(config: Config, run_dir: Path, stage_name: str, on_event: OnEvent = ignore) -> Path:
    """One GRPO stage alone, and the answers of the policy that it ends with.

    Returns:
        Folder of the adapter, in PEFT layout.

    Raises:
        ConfigError: The schedule has no such stage.
        CheckpointError: The phase before it is not done.
    """
    with open_session(config, run_dir, on_event) as session:
        stages = {stage.name: stage for stage in session.stages}
        if stage_name not in stages:
            raise ConfigError(
                f"the schedule has no stage {stage_name!r}",
                where="--stage",
                remedy=f"choose one of {', '.join(stages)}",
            )
        if not session.run.sft_adapter.is_dir():
            raise CheckpointError("SFT is not done", where=str(session.run.sft_dir), remedy="run `fxray sft` first")
        with open_fleet(session) as fleet:
            train_stage(session, fleet, stages[stage_name])
            _answer(session, fleet, stage_name)
        return session.run.stage_adapter(stage_name)


def evaluate_adapter(config: Config, adapter: Path | None, data: Path, out: Path, on_event: OnEvent = ignore) -> Path:
    """Lets the base model, or an adapter on it, answer a dataset. Needs no run directory.

    Args:
        config: For model, engine and evaluation.
        adapter: Folder in PEFT layout; None for the base model.
        data: Parquet file with the samples.
        out: Predictions file to write.
        on_event: Told of the progress.

    Returns:
        `out`.
    """
    refuse(check(config), where="configuration")
    dataset, model_path = Dataset.open(data), resolve_model_path(config.model.path)

    def refuse_image(reason: str) -> None:
        raise DataError(reason, remedy="mend or remove the row")

    with (
        ray_cluster(config.ray, min_cpus=num_cpus(config)),
        open_policies(config, model_path, on_event) as policies,
    ):
        if adapter is not None:
            policies.use_adapter(adapter, 0)
        prompts = PromptSource(dataset, image_fetcher(config, data, refuse_image, on_event), config, model_path)
        rows = rows_to_answer(len(dataset), config.evaluate.num_samples)
        predictions = answer_split(
            policies.generator,
            prompts,
            rows,
            greedy(config),
            batch_size=policies.batch_size,
            view=config.data.view,
            phase="evaluate",
            on_event=on_event,
        )
    write_predictions(predictions, out)
    return out


def _is_done(session: Session) -> bool:
    names = [NO_FT, SFT, *(stage.name for stage in session.stages)]
    return all(session.run.predictions(name).exists() for name in names)


def _answer(session: Session, fleet: Fleet, name: str) -> None:
    """Lets the policy of a phase answer the test split, unless it has."""
    path = session.run.predictions(name)
    if path.exists():
        return
    if name == NO_FT:
        fleet.use_base_model()
    elif name == SFT:
        fleet.use_adapter(session.run.sft_adapter, 0)
    else:
        fleet.use_adapter(session.run.stage_adapter(name), stage_version(session, name))
    phase = f"evaluate {name}"
    with session.phase(phase, str(path)):
        predictions = answer_split(
            fleet.generator,
            fleet.test_prompts,
            rows_to_answer(len(fleet.test), session.config.evaluate.num_samples),
            greedy(session.config),
            batch_size=fleet.batch_size,
            view=session.config.data.view,
            phase=phase,
            on_event=session.on_event,
        )
        write_predictions(predictions, path)
