"""A launch that trains nothing: it leaves a run directory as a training does."""

import dataclasses
import json

import pytest

from fxray.baselines.run import Outcome
from fxray.config.load import load_config
from fxray.config.schedule import load_stages
from fxray.data.dataset import Dataset, Row, write_dataset
from fxray.errors import DataError
from fxray.evaluate.predictions import Prediction, write_predictions
from fxray.experiments import reproduce
from fxray.experiments.trainings import Setting
from fxray.experiments.work import Launch
from fxray.launch.data import prepare_data
from fxray.launch.run import open_run
from fxray.metrics import MetricsLog
from fxray.report.robustness import RobustnessReport
from fxray.schema import Verdict


@pytest.fixture
def setting(splits, tmp_path, monkeypatch) -> Setting:
    """Small, and without curves, which have a test of their own."""
    monkeypatch.setattr(reproduce, "draw_trainings", lambda *given: False)
    files = [f"data.{name}={path}" for name, path in splits.items()]
    overrides = [
        "data.synth=null",
        *files,
        "grpo.steps_per_stage=2",
        "grpo.warmup_steps=0",
        "evaluate.num_bootstrap=5",
    ]
    return Setting(lambda more: load_config("tiny", [*overrides, *more]), tmp_path / "out", {})


@pytest.fixture
def two_spellings(setting, splits, tmp_path) -> Setting:
    """Every other image of SD 1.4 says that it is of sd-1.4."""
    files = []
    for name, path in splits.items():
        dataset, rows = Dataset.open(path), []
        for i, sample in enumerate(dataset.samples):
            is_other = sample.generator == "SD 1.4" and i % 16 > 8
            rows.append(
                Row(dataclasses.replace(sample, generator="sd-1.4") if is_other else sample, dataset.image_bytes(i))
            )
        write_dataset(tmp_path / f"{name}.parquet", rows)
        files.append(f"data.{name}={tmp_path / name}.parquet")
    return dataclasses.replace(setting, configure=lambda more: setting.configure([*files, *more]))


def answers(samples, num_wrong):
    """Right answers with the true boxes, but for the first so many."""
    for i, sample in enumerate(samples):
        truth = sample.annotation
        other = Verdict.REAL if truth.verdict is Verdict.GENERATED else Verdict.GENERATED
        verdict = other if i < num_wrong else truth.verdict
        yield Prediction(sample.sample_id, verdict, truth.regions if i >= num_wrong else ())


def numbers_of(change, value):
    """As `fxray robustness` keeps them."""
    estimate = {"value": value, "low": value - 0.1, "high": value + 0.1}
    metrics = {"accuracy": estimate, "iou": estimate}
    gain = None if change == "original" else {"metrics": metrics}
    key = {"commit": "of a test"}
    return {
        "overall": metrics, "num_real": 8, "num_generated": 8, "gain": gain, "is_synthetic": False, "key": key,
    }  # fmt: skip


class FakeLaunch:
    """Keeps what it was asked for. A training of name `fails` does; phases answer with fewer and fewer errors."""

    def __init__(self, fails: str = "", num_wrong: dict[str, int] | None = None) -> None:
        self.fails, self.num_wrong = fails, num_wrong or {}
        self.trained: list[str] = []
        self.answered: list[str] = []
        self.changed: list[str] = []
        self.fitted: list[str] = []
        self.began_with_sft: list[str] = []

    @property
    def port(self) -> Launch:
        return Launch(self.train, self.answer, self.robustness, self.baselines)

    def train(self, config, run_dir, on_event):
        self.trained.append(run_dir.name)
        if (run_dir / "sft" / "adapter" / "weights").is_file():
            self.began_with_sft.append(run_dir.name)
        if run_dir.name == self.fails:
            raise RuntimeError("the engine is gone")
        with open_run(run_dir, config) as run:
            prepare_data(config, run, on_event)
            run.sft_adapter.mkdir(parents=True, exist_ok=True)
            (run.sft_adapter / "weights").write_text("of SFT")
            samples = Dataset.open(config.data.test).samples
            stages = [stage.name for stage in load_stages(config.grpo.schedule)]
            num_wrong = (8, 6, 4, 3, self.num_wrong.get(run_dir.name, 2))
            for num, phase in zip(num_wrong, ["no-ft", "sft", *stages], strict=True):
                if not run.predictions(phase).exists():
                    write_predictions(answers(samples, num), run.predictions(phase))
            validation = Dataset.open(config.data.validation).samples
            write_predictions(answers(validation, 1), run.predictions(stages[-1], "validation"))
            log = MetricsLog(run.root)
            for phase in stages:
                for step in (1, 2):
                    log.log(phase, step, {"reward": step / 2, "accuracy": 0.5, "iou": 0.2, "loss": 1.0})
            log.close()
            (run.root / "report.html").write_text("a page")

    def answer(self, config, adapter, data, out, on_event):
        self.answered.append(f"{out.parents[2].name}.{out.stem}")
        write_predictions(answers(Dataset.open(data).samples, 4), out)

    def robustness(self, run_dir, stage, changes, overrides, on_event):
        self.changed += [change.name for change in changes]
        for name in ("original", *(change.name for change in changes)):
            folder = run_dir / "robustness" / "gamma" / name
            folder.mkdir(parents=True)
            (folder / "numbers.json").write_text(json.dumps(numbers_of(name, 0.5)))
        return RobustnessReport(run_dir, (), False)

    def baselines(self, names, question, setting, config, on_event):
        """Each wrong once more than the one before, and each says where; one of name `fails` does."""
        failures = {}
        for num_wrong, name in enumerate(names, start=1):
            if name == self.fails:
                failures[name] = DataError("no real image", where=str(question.train))
            else:
                write_predictions(answers(Dataset.open(question.test).samples, num_wrong), question.answers(name))
                record = json.dumps({"key": {"size": setting.baseline_size}})
                (question.folder / name / "record.json").write_text(record)
                for change in ["original", *question.changes] if question.changes is not None else []:
                    under = question.folder / name / "under"
                    under.mkdir(exist_ok=True)
                    (under / f"{change}.json").write_text(json.dumps(numbers_of(change, num_wrong / 10)))
        self.fitted += [f"{name} for {question.name}" for name in names]
        return Outcome({}, failures)


@pytest.fixture
def fake_launch():
    return FakeLaunch
