"""Several baselines at once: resumed, failing alone, refused where the input is bad."""

import csv
import json
import os

import numpy as np
import pytest
from typer.testing import CliRunner

from fxray.baselines import run as runs
from fxray.baselines.ports import Settings
from fxray.baselines.registry import Entry, find
from fxray.baselines.run import run_baselines
from fxray.baselines.split import hold_out, is_generated
from fxray.baselines.table import write_baselines
from fxray.cli.app import app
from fxray.data.dataset import Dataset
from fxray.errors import ConfigError, DataError, DeadlineError, WorkerDiedError
from fxray.events import ignore
from fxray.report.paper_table import SYNTHETIC

FLOOR, FREQUENCY = find(["leak-probe", "frequency"])


class Dying(Entry):
    """Its process is gone as soon as it hears of it."""

    def __reduce__(self):
        return os._exit, (9,)


GONE = Dying("vit", "nowhere:Gone", "none", "nothing")


@pytest.fixture(scope="module")
def finished(toy_sets, tmp_path_factory):
    """Folder and outcome of one baseline whose process dies, and two that end well."""
    out = tmp_path_factory.mktemp("baselines")
    return out, run(toy_sets, out, GONE, FLOOR, FREQUENCY)


def run(toy_sets, out, *entries, on_event=ignore, **options):
    train, test = toy_sets
    return run_baselines(
        entries, Settings(0), {}, train=train, test=test, out=out, versions={}, on_event=on_event, **options
    )


def test_one_that_dies_does_not_stop_the_others(toy_sets, finished):
    _, outcome = finished
    assert list(outcome.records) == ["leak-probe", "frequency"]
    assert isinstance(outcome.failures["vit"], WorkerDiedError)
    assert "exit code 9" in str(outcome.failures["vit"])
    record = outcome.records["leak-probe"]
    assert record["peak_memory_mib"] > 20
    assert record["fit"]["seconds"] > 0
    assert not set(record["held_out_sources"]) & {sample.source for sample in Dataset.open(toy_sets[1]).samples}


def test_what_is_done_is_not_done_again_unless_a_setting_differs(toy_sets, finished, monkeypatch):
    out, outcome = finished
    notes, begun = [], []
    monkeypatch.setattr(runs, "_run_apart", lambda job, *_: begun.append(job.entry.name))
    again = run(toy_sets, out, FLOOR, FREQUENCY, on_event=notes.append)
    assert begun == []
    assert [note.text for note in notes] == ["leak-probe is measured already", "frequency is measured already"]
    assert again.records == outcome.records
    train, test = toy_sets
    run_baselines([FLOOR], Settings(1), {}, train=train, test=test, out=out, versions={})
    assert begun == ["leak-probe"]


def test_what_else_lies_in_its_folder_is_never_deleted(toy_sets, finished, monkeypatch):
    out, outcome = finished
    notes = out / "leak-probe" / "notes.txt"
    notes.write_text("mine")
    monkeypatch.setattr(runs, "_run_apart", lambda *_: pytest.fail("nothing is measured"))
    assert run(toy_sets, out, FLOOR).records == outcome.records  # nothing is replaced
    train, test = toy_sets
    with pytest.raises(ConfigError, match=r"leak-probe.*holds notes\.txt"):
        run_baselines([FLOOR], Settings(1), {}, train=train, test=test, out=out, versions={})
    notes.unlink()


def test_a_baseline_without_a_word_is_given_up(toy_sets, tmp_path):
    outcome = run(toy_sets, tmp_path, FLOOR, silence_s=0.001)
    assert isinstance(outcome.failures["leak-probe"], DeadlineError)
    assert not (tmp_path / "leak-probe").exists()


def test_what_a_baseline_raises_is_told_whatever_it_is(toy_sets, tmp_path):
    outcome = run(toy_sets, tmp_path, Entry("vit", "nowhere:Gone", "none", "nothing"))
    assert str(outcome.failures["vit"]).startswith("ModuleNotFoundError: No module named 'fxray.baselines.nowhere'\n")


def test_the_command_writes_one_table(toy_sets, finished):
    (train, test), (out, _) = toy_sets, finished
    arguments = ["baseline", "run", "leak-probe", "frequency", "--train", train, "--test", test, "--out", out]
    result = CliRunner().invoke(app, [*map(str, arguments), "--num-bootstrap", "50"])
    assert result.exit_code == 0, result.output
    text = (out / "baselines.md").read_text()
    assert SYNTHETIC in text
    assert "Test set: 40 images of 4 sources; intervals are about images of these sources, and too narrow" in text
    assert "| frequency |  | 1.000 [1.000, 1.000] |" in text
    lines = [line for line in (out / "baselines.csv").read_text().splitlines() if not line.startswith("#")]
    rows = list(csv.DictReader(lines))
    assert [row["baseline"] for row in rows] == ["leak-probe", "frequency"]
    assert rows[0]["beats chance"] == "yes"  # checks do not compress
    numbers = json.loads((out / "baselines.json").read_text())["baselines"]
    assert numbers["frequency"]["evaluation"]["overall"]["accuracy"]["value"] == 1.0
    assert numbers["frequency"]["gain_of_balanced_accuracy"]["value"] >= 0


def test_a_baseline_that_points_at_no_place_is_not_scored_for_boxes(toy_sets, finished):
    given = ["evaluate", "--predictions", finished[0] / "frequency" / "predictions.parquet", "--data", toy_sets[1]]
    result = CliRunner().invoke(app, [*map(str, given), "--json", "--num-bootstrap", "5"])
    overall = json.loads(result.stdout)["overall"]
    assert (overall["accuracy"]["value"], overall["iou"]["value"]) == (1.0, None)


def test_settings_that_a_baseline_has_not_are_neither_told_of_it_nor_a_reason_to_fit_it_anew(
    toy_sets, finished, monkeypatch
):
    (train, test), (out, _) = toy_sets, finished
    monkeypatch.setattr(runs, "_run_apart", lambda *_: pytest.fail("nothing is measured"))
    own = Settings(0, epochs=60, size="published")
    records = run_baselines([FLOOR, FREQUENCY], own, {}, train=train, test=test, out=out, versions={}).records
    assert {record["key"][option] for record in records.values() for option in ("size", "epochs", "device")} == {None}
    records["leak-probe"]["key"] |= {"size": "small", "device": "cpu"}  # as earlier versions told it
    table = write_baselines(out, records, test, num_bootstrap=5, seed=0)
    assert [row.cells[0] for row in table.rows] == ["", ""]


@pytest.mark.parametrize("option", [("--epochs", "5"), ("--size", "published"), ("--device", "cuda:0")])
def test_an_option_that_no_baseline_takes_is_wrong_usage(toy_sets, tmp_path, option):
    train, test = map(str, toy_sets)
    given = ["baseline", "run", "leak-probe", "frequency", *option, "--train", train, "--test", test]
    result = CliRunner().invoke(app, [*given, "--out", str(tmp_path)])
    assert result.exit_code == 2
    assert "makes no difference to leak-probe, frequency" in " ".join(result.stderr.replace("│", "").split())


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
    with pytest.raises(DataError, match="of 1 source, and none is cut"):
        hold_out([sample for sample in samples if sample.source == "photo-0-1"], "train", 0)
    with pytest.raises(ConfigError, match=r"'nrp' is no baseline\n  remedy: name some of leak-probe, frequency"):
        find(["npr", "nrp"])
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
    with pytest.raises(ConfigError, match="vit is not among the baselines"):
        run_baselines(floor, Settings(0), {"vit": tmp_path}, train=train, test=test, **common)
    for device in ("cuda:77", "cudda"):
        with pytest.raises(ConfigError, match=f"'{device}' cannot be used"):
            run_baselines(floor, Settings(0, device), {}, train=train, test=test, **common)


def test_weights_that_are_given_twice_are_wrong_usage(toy_sets, tmp_path):
    train, test = map(str, toy_sets)
    twice = ["--weights", "npr=a.safetensors", "--weights", "npr=b.safetensors"]
    given = ["baseline", "run", "npr", *twice, "--train", train, "--test", test, "--out", str(tmp_path)]
    result = CliRunner().invoke(app, given)
    assert result.exit_code == 2
    assert "is given twice" in " ".join(result.stderr.split())
