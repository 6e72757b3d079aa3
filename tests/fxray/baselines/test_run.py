"""Several baselines at once: resumed, failing alone, refused where the input is bad."""

import csv
import json

import numpy as np
import pytest
from typer.testing import CliRunner

from fxray.baselines.ports import Settings
from fxray.baselines.registry import Entry, find
from fxray.baselines.run import run_baselines
from fxray.baselines.split import hold_out, is_generated
from fxray.cli.app import app
from fxray.data.dataset import Dataset
from fxray.errors import ConfigError, DataError, DeadlineError, WorkerDiedError
from fxray.events import Note
from fxray.report.paper_table import SYNTHETIC


def test_baselines_run_apart_and_are_not_run_twice(toy_sets, tmp_path):
    train, test = toy_sets
    gone = Entry("vit", "nowhere:Gone", "none", "nothing")
    notes = []

    def run(*entries):
        settings = Settings(seed=0)
        on_event = lambda event: notes.append(event.text) if isinstance(event, Note) else None  # noqa: E731
        return run_baselines(
            entries, settings, {}, train=train, test=test, out=tmp_path, versions={}, on_event=on_event
        )

    floor = find(["leak-probe"])[0]
    outcome = run(gone, floor)
    assert list(outcome.records) == ["leak-probe"]
    assert isinstance(outcome.failures["vit"], WorkerDiedError)
    assert "exit code 1" in str(outcome.failures["vit"])
    record = outcome.records["leak-probe"]
    assert record["peak_memory_mib"] > 20
    assert record["fit"]["seconds"] > 0
    assert not set(record["held_out_sources"]) & {s.source for s in Dataset.open(test).samples}
    written = (tmp_path / "leak-probe" / "record.json").stat().st_mtime_ns
    assert run(floor).records == outcome.records
    assert notes[-1] == "leak-probe is measured already"
    assert (tmp_path / "leak-probe" / "record.json").stat().st_mtime_ns == written


def test_a_baseline_without_a_word_is_given_up(toy_sets, tmp_path):
    train, test = toy_sets
    outcome = run_baselines(
        find(["leak-probe"]), Settings(0), {}, train=train, test=test, out=tmp_path, versions={}, silence_s=0.001
    )
    assert isinstance(outcome.failures["leak-probe"], DeadlineError)
    assert not (tmp_path / "leak-probe").exists()


def test_the_command_writes_one_table_three_ways(toy_sets, tmp_path):
    train, test = toy_sets
    arguments = ["baseline", "run", "leak-probe", "frequency", "--train", train, "--test", test, "--out", tmp_path]
    result = CliRunner().invoke(app, [*map(str, arguments), "--num-bootstrap", "50"])
    assert result.exit_code == 0, result.output
    text = (tmp_path / "baselines.md").read_text()
    assert SYNTHETIC in text
    assert "| frequency | 1.000 [1.000, 1.000] |" in text
    lines = [line for line in (tmp_path / "baselines.csv").read_text().splitlines() if not line.startswith("#")]
    rows = list(csv.DictReader(lines))
    assert [row["baseline"] for row in rows] == ["leak-probe", "frequency"]
    assert rows[0]["beats chance"] == "yes"  # checks do not compress
    numbers = json.loads((tmp_path / "baselines.json").read_text())["baselines"]
    assert numbers["frequency"]["evaluation"]["overall"]["accuracy"]["value"] == 1.0
    assert numbers["frequency"]["gain_of_balanced_accuracy"]["value"] >= 0


def test_what_is_held_out_shares_no_source_and_has_both_classes(toy_sets):
    samples = Dataset.open(toy_sets[0]).samples
    is_held_N = hold_out(samples, "train", seed=3)
    sources = np.array([sample.source for sample in samples])
    assert not set(sources[is_held_N]) & set(sources[~is_held_N])
    assert is_held_N.mean() == pytest.approx(0.2)
    assert is_generated(samples)[is_held_N].mean() == pytest.approx(0.5)


def test_bad_input_is_one_clear_error(toy_sets, tmp_path):
    train, test = toy_sets
    samples = Dataset.open(train).samples
    one_class = [sample for sample in samples if sample.generator == "real"]
    with pytest.raises(DataError, match="none of 80 images is generated"):
        hold_out(one_class, "train", 0)
    with pytest.raises(DataError, match="of 1 sources, which are not cut"):
        hold_out([sample for sample in samples if sample.source == "photo-0-1"], "train", 0)
    with pytest.raises(ConfigError, match=r"'nrp' is no baseline\n  remedy: name some of leak-probe, frequency"):
        find(["npr", "nrp"])
    with pytest.raises(ConfigError, match=r"'dire' is not here: .* diffusers is no dependency"):
        find(["dire"])
    common = {"out": tmp_path, "versions": {}}
    floor = find(["leak-probe"])
    with pytest.raises(DataError, match="would answer what it was fitted on"):
        run_baselines(floor, Settings(0), {}, train=train, test=train, **common)
    with pytest.raises(DataError, match="no such dataset file"):
        run_baselines(floor, Settings(0), {}, train=train, test=tmp_path / "none.parquet", **common)
    with pytest.raises(ConfigError, match="leak-probe takes no weights"):
        run_baselines(floor, Settings(0), {"leak-probe": train}, train=train, test=test, **common)
    with pytest.raises(ConfigError, match="nothing is downloaded"):
        run_baselines(find(["vit"]), Settings(0), {"vit": train}, train=train, test=test, **common)
