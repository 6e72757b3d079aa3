"""A sweep over tiny images, and a training that trains nothing: it leaves a run directory as `fxray trial` does."""

import pytest

from fxray.config.load import load_config
from fxray.sweep.file import load_sweep
from fxray.sweep.results import Base


@pytest.fixture
def base(splits, tmp_path):
    files = [f"data.{name}={path}" for name, path in splits.items()]
    given = ("data.synth=null", *files, "grpo.steps_per_stage=2", "grpo.warmup_steps=0", "evaluate.num_bootstrap=5")
    return Base("tiny", given, lambda more, above: load_config("tiny", [*given, *more], above), tmp_path / "out")


@pytest.fixture
def sweep_file(tmp_path):
    def write(text):
        file = tmp_path / "mine.yaml"
        file.write_text(text)
        return load_sweep(file)

    return write


@pytest.fixture
def fake_train(tmp_path):
    """Makes a training. Calls are lines of a file, for they are made in other processes; so is all that it needs."""

    def make(wrong, fails=()):
        """`wrong`: by part of a trial's name the wrong answers after each phase; `fails`: names of trials."""
        calls = tmp_path / "calls"

        def train(trial, phase, out):
            from fxray.data.dataset import Dataset
            from fxray.evaluate.predictions import Prediction, write_predictions
            from fxray.events import ignore
            from fxray.experiments.work import take_over_sft
            from fxray.launch.data import prepare_data
            from fxray.launch.run import open_run
            from fxray.metrics import MetricsLog
            from fxray.schema import Verdict

            folder = trial.run(out).root
            take_over_sft(folder, trial.config, ignore)
            with calls.open("a") as file:
                file.write(f"{trial.name} {phase}{' with SFT' if (folder / 'sft/adapter').is_dir() else ''}\n")
            if trial.name in fails and phase != "sft":
                raise RuntimeError("the engine is gone")
            num_wrong = next(numbers for part, numbers in wrong.items() if part in trial.name)
            with open_run(folder, trial.config) as run:
                prepare_data(trial.config, run, ignore)
                run.sft_adapter.mkdir(parents=True, exist_ok=True)
                log = MetricsLog(run.root)
                samples = Dataset.open(trial.config.data.validation).samples
                for name, num in zip(trial.phases[: trial.phases.index(phase) + 1], num_wrong, strict=False):
                    if run.predictions(name, "validation").exists():
                        continue
                    said = []
                    for i, sample in enumerate(samples):
                        truth = sample.annotation
                        other = Verdict.REAL if truth.verdict is Verdict.GENERATED else Verdict.GENERATED
                        verdict, regions = (other, ()) if i < num else (truth.verdict, truth.regions)
                        said.append(Prediction(sample.sample_id, verdict, regions))
                    log.log(name, 1, {"seconds": 10.0})
                    write_predictions(said, run.predictions(name, "validation"))
                log.close()

        return train, lambda: calls.read_text().splitlines() if calls.exists() else []

    return make
