"""`fxray data check`, `split` and `take` as they are typed, rightly and wrongly."""

import json
import re

import pytest
from command_line import run

from fxray.counts import counted
from fxray.data.dataset import Dataset
from fxray.errors import ConfigError, DataError
from fxray.evaluate.fitting import MIN_IMAGES


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    folder = tmp_path_factory.mktemp("data") / "synthetic"
    run("data", "synth", folder, "--num-train", 96, "--num-validation", 8, "--num-test", 16, "--size-px", 84)
    return folder


def test_a_clean_set_exits_with_nothing_worse_than_a_note(data, tmp_path):
    result = run("data", "check", data / "train.parquet", data / "test.parquet", "--report", tmp_path / "check.html")
    assert result.exit_code == 0
    assert "112 rows" in result.stdout
    assert (tmp_path / "check.html").stat().st_size > 10_000


def test_findings_as_json_are_json_alone(data):
    result = run("data", "check", data / "train.parquet", "--json")
    numbers = json.loads(result.stdout)
    assert numbers["num_rows"] == 96
    assert numbers["severities"]["error"] == 0
    assert numbers["leak_probe"][0]["signal"] == "all together"


def test_errors_of_the_data_exit_with_four(data, tmp_path):
    (tmp_path / "cut.parquet").write_bytes((data / "test.parquet").read_bytes()[:-100])
    result = run("data", "check", tmp_path / "cut.parquet")
    assert result.exit_code == 4
    assert "file-unreadable" in result.stdout


def test_a_split_is_taken_fold_by_fold(data, tmp_path):
    shown = run(
        "data", "split", data / "train.parquet", "--folds", 2, "--validation-frac", 0.3, "--out", tmp_path / "s.json"
    )
    assert shown.stdout.endswith(f"{tmp_path / 's.json'}\n")
    assert "k-fold, seed 0" in shown.stdout
    tests = []
    for fold in (0, 1):
        listed = run("data", "take", tmp_path / "s.json", tmp_path / f"f{fold}", "--fold", fold).stdout.split()
        assert listed == [str(tmp_path / f"f{fold}" / f"{part}.parquet") for part in ("train", "validation", "test")]
        parts = [Dataset.open(path).samples for path in (tmp_path / f"f{fold}").iterdir()]
        sources = [{sample.source for sample in samples} for samples in parts]
        assert sum(map(len, sources)) == len(set.union(*sources))
        tests.append({sample.sample_id for sample in Dataset.open(tmp_path / f"f{fold}" / "test.parquet").samples})
    assert not tests[0] & tests[1]


def test_the_default_split_lies_beside_the_data(data):
    run("data", "split", data / "train.parquet", "--scheme", "fixed", "--fractions", "0.6,0.2,0.2")
    assert (data / "split.json").is_file()


@pytest.mark.parametrize(
    ("options", "told"),
    [
        (["--validation-frac", 0.2], "a larger --validation-frac, or more images, would do"),
        (["--scheme", "fixed"], "a larger second of --fractions, or more images, would do"),
        (["--scheme", "fixed", "--fractions", "0.2,0.6,0.2"], ""),
        (["--validation-frac", 0], ""),
    ],
)
def test_a_validation_part_that_is_too_small_to_calibrate_is_noted(data, tmp_path, options, told):
    shown = run("data", "split", data / "train.parquet", "--out", tmp_path / "s.json", *options)
    folds = json.loads((tmp_path / "s.json").read_text())["assignment"].values()
    num_validation = min(sum(row[fold] == "v" for row in folds) for fold in range(len(next(iter(folds)))))
    assert (0 < num_validation < 2 * MIN_IMAGES) == bool(told)
    note = f"{num_validation // 2} real + {counted(num_validation // 2, 'generated image')} for validation are too few"
    assert ("note: " in shown.stderr, told in shown.stderr) == (bool(told), True)
    assert (note in shown.stderr) == bool(told)
    fold = [] if len(next(iter(folds))) == 1 else ["--fold", 0]
    taken = run("data", "take", tmp_path / "s.json", tmp_path / "taken", *fold)
    assert ("for validation are too few to calibrate" in taken.stderr) == bool(told)


def test_groups_come_from_a_file(data, tmp_path):
    names = sorted({s.generator for s in Dataset.open(data / "train.parquet").samples} - {"real"})
    groups = tmp_path / "groups.yaml"
    groups.write_text("".join(f"{name}: {'A' if k % 2 else 'B'}\n" for k, name in enumerate(names)))
    options = ["--scheme", "leave-one-group-out", "--validation-frac", 0, "--groups", groups]
    shown = run("data", "split", data / "train.parquet", "--out", tmp_path / "g.json", *options)
    assert [fold for fold in ("A", "B") if f"│ {fold} " in shown.stdout] == ["A", "B"]
    groups.write_text(f"{names[0]}: A\n")
    with pytest.raises(DataError, match=f"no group for the generators .*{names[1]}"):
        run("data", "split", data / "train.parquet", "--out", tmp_path / "g.json", *options)
    groups.write_text("- a\n")
    with pytest.raises(ConfigError, match="no mapping"):
        run("data", "split", data / "train.parquet", "--out", tmp_path / "g.json", *options)


@pytest.mark.parametrize(
    "arguments",
    [
        ["check"],
        ["split"],
        ["split", "x.parquet", "--scheme", "fixed", "--fractions", "0.5,0.5"],
        ["split", "x.parquet", "--scheme", "fixed", "--fractions", "0.5,0.5,0.5"],
        ["split", "x.parquet", "--scheme", "fixed", "--fractions", "1.2,-0.1,-0.1"],
        ["split", "x.parquet", "--folds", "1"],
        ["split", "x.parquet", "--scheme", "random"],
        ["take", "split.json"],
    ],
)
def test_wrong_arguments_are_refused_with_code_two(arguments):
    assert run("data", *arguments).exit_code == 2


@pytest.mark.parametrize(
    ("scheme", "option", "value", "told"),
    [
        ("k-fold", "--fractions", "0.5,0.2,0.3", "fixed"),
        ("k-fold", "--groups", "nowhere.yaml", "leave-one-group-out"),
        ("k-fold", "--test-frac", "0.9", "leave-one-generator-out or leave-one-group-out"),
        ("fixed", "--folds", "4", "k-fold"),
        ("fixed", "--validation-frac", "0", "k-fold or leave-one-generator-out or leave-one-group-out"),
        ("leave-one-generator-out", "--groups", "nowhere.yaml", "leave-one-group-out"),
        ("leave-one-generator-out", "--folds", "4", "k-fold"),
        ("leave-one-group-out", "--fractions", "0.5,0.2,0.3", "fixed"),
    ],
)
def test_an_option_that_says_nothing_about_the_scheme_is_wrong_usage(scheme, option, value, told):
    result = run("data", "split", "x.parquet", "--scheme", scheme, option, value)
    assert result.exit_code == 2
    words = " ".join(re.sub(r"[│╭╮╰╯─]", " ", result.output).split())
    assert f"{option} goes with --scheme {told}, not with {scheme}" in words


def test_a_file_given_twice_and_an_absent_one(data, tmp_path):
    assert run("data", "check", data / "test.parquet", data / "test.parquet").exit_code == 2
    for command in ("check", "split", "take"):
        with pytest.raises(DataError):
            run("data", command, tmp_path / "absent", *([tmp_path / "out"] if command == "take" else []))
