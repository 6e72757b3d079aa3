"""A calibration is fitted on the validation split of a run, never on its test split, and lies beside the adapter."""

import json
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from safetensors.numpy import save_file

from fxray.checkpoints import verify, write_manifest
from fxray.config.load import dump_config, load_config
from fxray.data.dataset import Row, write_dataset
from fxray.errors import CheckpointError, ConfigError, DataError
from fxray.evaluate.calibration import open_calibration, read_calibration
from fxray.evaluate.predictions import Prediction, write_predictions
from fxray.events import Note
from fxray.launch.calibration import fitted_for, recorded_splits
from fxray.launch.phases import _calibrate, calibrate
from fxray.launch.robustness import measure_robustness
from fxray.launch.run import RunDirectory
from fxray.model.folder import resolve_model_path, weights_fingerprint
from fxray.schema import Annotation, Box, Region, Sample, Verdict

FLAW = (Region(Box(1, 1, 5, 5), "Hand bent"),)
PIXELS = b"P6 10 10 255\n" + bytes(300)


def write_split(run: RunDirectory, name: str, size: int, seed: int, prefix: str, *, upside_down: bool = False) -> None:
    """Images, and answers that are too sure of themselves by a factor of three in their log-odds, or that are wrong."""
    rng = np.random.default_rng(seed)
    odds = rng.normal(0, 1.5, size)
    truth = rng.random(size) < 1 / (1 + np.exp(-odds))
    samples = [
        Sample(
            f"{prefix}/{i}", 10, 10, Annotation(Verdict.GENERATED, FLAW) if t else Annotation(Verdict.REAL),
            "blur patch" if t else "real", "photograph", f"p{prefix}{i}",
        )
        for i, t in enumerate(truth)
    ]  # fmt: skip
    write_dataset(run.data_file(name), [Row(sample, image=PIXELS) for sample in samples])
    said = 1 / (1 + np.exp((3 if upside_down else -3) * odds))
    answers = [
        Prediction(s.sample_id, Verdict.GENERATED if p > 0.5 else Verdict.REAL, probability=p)
        for s, p in zip(samples, said.tolist(), strict=True)
    ]
    for phase in ("sft", "alpha"):
        write_predictions(answers, run.predictions(phase, "validation" if name == "validation" else "test"))


@pytest.fixture
def run(tmp_path: Path) -> RunDirectory:
    run = RunDirectory(tmp_path / "run")
    write_split(run, "validation", 300, 0, "validation")
    write_split(run, "test", 400, 1, "test")
    (run.root / "config.yaml").write_text(dump_config(load_config("tiny", ["evaluate.num_bootstrap=50"])))
    splits = {name: f"data/{name}.parquet" for name in ("train", "validation", "test")}
    (run.root / "data.json").write_text(json.dumps(splits | {"is_synthetic": True}))
    for phase in ("sft", "alpha"):
        folder = run.adapter(phase)
        folder.mkdir(parents=True)
        save_file({"a.lora_A.weight": np.full((1, 1), len(phase), np.float32)}, folder / "adapter_model.safetensors")
        (folder / "adapter_config.json").write_text('{"r": 1}')
    write_manifest(run.stage_dir("alpha") / "final")
    return run


def of_run(run: RunDirectory, stage=None, max_fpr=None, max_error=None):
    return calibrate(run.root, stage, (), max_fpr=max_fpr, max_error=max_error)


def test_the_last_phase_is_calibrated_and_reported_on_the_test_split(run: RunDirectory) -> None:
    name, calibration, report = of_run(run)
    assert name == "alpha"
    assert calibration.slope == pytest.approx(1 / 3, rel=0.25)
    assert (calibration.num_images, calibration.num_sources) == (300, 300)
    assert (calibration.data, calibration.is_synthetic) == ("validation.parquet", True)
    assert open_calibration(run.adapter("alpha")) == calibration
    assert open_calibration(run.adapter("sft")) is None
    verify(run.stage_dir("alpha") / "final")  # a checkpoint is as whole with it as without
    found = {evaluation.name: evaluation for evaluation in report.comparison.evaluations}
    assert found["sft"].calibrated is None
    own, calibrated = found["alpha"].probabilities, found["alpha"].calibrated.probabilities
    assert (own.num_images, calibrated.num_images) == (400, 400)
    assert calibrated.metrics["ece"].value < own.metrics["ece"].value
    assert found["alpha"].calibrated.decisions["fpr"].value == pytest.approx(0.05, abs=0.04)


def test_a_run_is_calibrated_for_the_weights_of_its_base_or_without_them_where_the_base_is_elsewhere(
    run: RunDirectory,
) -> None:
    tiny = weights_fingerprint(resolve_model_path("tiny"))
    assert of_run(run)[1].fitted_for.base_fingerprint == tiny
    elsewhere = load_config("tiny", ["model.path=/models/elsewhere"])
    assert fitted_for(elsewhere, "ab" * 32).base_fingerprint == ""


def test_another_threshold_and_phase_need_no_engine(run: RunDirectory) -> None:
    name, strict, _ = of_run(run, "sft", max_fpr=0.02)
    _, mild, _ = of_run(run, "sft", max_fpr=0.2, max_error=0.3)
    assert name == "sft"
    assert strict.threshold > mild.threshold
    assert strict.unsure_high - strict.unsure_low > mild.unsure_high - mild.unsure_low
    with pytest.raises(CheckpointError, match="gamma is not finished"):
        of_run(run, "gamma")


def test_a_calibration_for_other_bounds_than_the_configurations_stays_and_is_told(run: RunDirectory) -> None:
    _, calibration, _ = of_run(run)
    told: list[Note] = []
    for bound in ("0.05", "0.01"):
        config = load_config("tiny", [f"evaluate.max_fpr={bound}"])
        _calibrate(SimpleNamespace(run=run, config=config, on_event=told.append), "alpha")
    assert open_calibration(run.adapter("alpha")) == calibration
    assert [note.is_warning for note in told] == [True]
    assert "alpha stays calibrated for max_fpr 0.05" in told[0].text
    assert "the configuration says 0.01 and 0.1" in told[0].text


def test_training_warns_of_a_verdict_that_its_detector_will_never_give(run: RunDirectory) -> None:
    write_split(run, "validation", 300, 0, "validation", upside_down=True)
    told: list[Note] = []
    config = load_config("tiny")
    session = SimpleNamespace(run=run, config=config, on_event=told.append, splits=recorded_splits(run.root))
    _calibrate(session, "alpha")
    calibration = open_calibration(run.adapter("alpha"))
    assert calibration is not None
    assert len(calibration.never_said) == len(told) >= 1
    assert all(note.is_warning for note in told)
    assert told[0].text.startswith("no image is called")
    assert told[0].text.endswith("or set other bounds with `fxray calibrate`")


@pytest.mark.parametrize(("num_samples", "said"), [(0, 0), (300, 0), (200, 1)])
def test_a_calibration_on_a_part_of_the_split_is_told_by_training_and_by_the_command(
    run: RunDirectory, num_samples: int, said: int
) -> None:
    config = load_config("tiny", ["evaluate.num_bootstrap=50", f"evaluate.num_samples={num_samples}"])
    (run.root / "config.yaml").write_text(dump_config(config))
    told: list[Note] = []
    _calibrate(SimpleNamespace(run=run, config=config, on_event=told.append, splits=recorded_splits(run.root)), "alpha")
    calibrate(run.root, "alpha", (), max_fpr=0.2, max_error=None, on_event=told.append)
    text = (
        "calibration sees 200 of the 300 images of the validation split: evaluate.num_samples is 200; a run with 0 "
        "calibrates on all"
    )
    assert [(note.text, note.is_warning) for note in told] == [(text, True)] * 2 * said


def test_settings_that_change_answers_are_refused(run: RunDirectory) -> None:
    with pytest.raises(ConfigError, match=r"other values of model\.max_pixels"):
        calibrate(run.root, None, ["model.max_pixels=50176"], max_fpr=None, max_error=None)
    assert open_calibration(run.adapter("alpha")) is None


def test_the_test_split_is_refused(run: RunDirectory) -> None:
    run.data_file("validation").write_bytes(run.data_file("test").read_bytes())
    with pytest.raises(DataError, match=r"400 of 400 samples are in the test split .* too, such as 'test/0'"):
        of_run(run)
    assert open_calibration(run.adapter("alpha")) is None


def test_answers_to_other_images_are_refused(run: RunDirectory) -> None:
    run.predictions("alpha", "validation").write_bytes(run.predictions("alpha").read_bytes())
    with pytest.raises(DataError, match=r"400 samples are not in .*validation.parquet, such as 'test/0'"):
        of_run(run)


def test_answers_without_probabilities_are_too_few(run: RunDirectory) -> None:
    mute = [Prediction(f"validation/{i}", None) for i in range(300)]
    write_predictions(mute, run.predictions("alpha", "validation"))
    with pytest.raises(DataError, match=r"; 300 answers have none, as those without a verdict\n.*train longer"):
        of_run(run)


def test_too_few_images_are_refused_before_any_is_answered(run: RunDirectory) -> None:
    run.predictions("alpha", "validation").unlink()
    with pytest.raises(
        DataError, match=r"\d+ generated images, expected at least 10000 and 20 .*\n.*a larger --max-fpr"
    ):
        of_run(run, max_fpr=1e-4)


def test_another_adapter_does_not_take_it_over(run: RunDirectory) -> None:
    of_run(run)
    config = load_config(run.root / "config.yaml")
    with pytest.raises(CheckpointError, match="was fitted for adapter_sha256"):
        read_calibration(run.adapter("alpha"), fitted_for(config, "00" * 32))


def test_a_detector_without_its_run_is_refused_and_keeps_no_lock_file(run: RunDirectory) -> None:
    (run.root / "data.json").unlink()
    before = sorted(run.root.iterdir())
    with pytest.raises(CheckpointError, match="an adapter alone is enough for detect and serve only"):
        of_run(run)
    with pytest.raises(CheckpointError, match="an adapter alone is enough for detect and serve only"):
        measure_robustness(run.root, None, (), ())
    assert sorted(run.root.iterdir()) == before


def test_data_that_are_not_where_the_run_knows_them_are_told_with_what_to_do(run: RunDirectory) -> None:
    for name in ("test", "validation"):
        run.data_file(name).rename(run.root / f"{name}.parquet")
        with pytest.raises(DataError, match=f"data.{name} of this run is not there") as caught:
            of_run(run)
        assert "`fxray train` with this run directory" in caught.value.remedy
