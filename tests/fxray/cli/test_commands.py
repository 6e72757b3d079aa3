import json
import shutil

import pytest
from command_line import run

from fxray.cli.arguments import within
from fxray.errors import CheckpointError, ConfigError, DataError, FxrayError, ModelError
from fxray.evaluate.comparison import Comparison
from fxray.events import Note
from fxray.launch import phases
from fxray.model.folder import resolve_model_path
from fxray.report.page import Report


@pytest.fixture(scope="module")
def datasets(tmp_path_factory):
    folder = tmp_path_factory.mktemp("data") / "synthetic"
    rows = ["--num-train", 4, "--num-validation", 2, "--num-test", 8]
    result = run("data", "synth", folder, *rows, "--size-px", 112, "--seed", 3)
    assert result.stdout == f"{folder}\n"
    return folder


def perfect_answers(data, path):
    from fxray.data.dataset import Dataset

    with path.open("w") as file:
        for sample in Dataset.open(data).samples:
            truth = sample.annotation
            regions = [{"box": list(region.box), "caption": region.caption} for region in truth.regions]
            row = {
                "sample_id": sample.sample_id,
                "verdict": truth.verdict,
                "regions": regions,
                "tags": list(truth.tags),
            }
            file.write(json.dumps(row) + "\n")


def test_synthetic_data_comes_in_three_splits(datasets):
    assert {path.name for path in datasets.glob("*.parquet")} == {"train.parquet", "validation.parquet", "test.parquet"}


def test_data_that_are_there_are_not_made_over(datasets):
    before = (datasets / "train.parquet").read_bytes()
    with pytest.raises(DataError, match=r"synthetic: holds train\.parquet already"):
        run("data", "synth", datasets)
    assert (datasets / "train.parquet").read_bytes() == before


def test_foreign_predictions_are_scored_by_the_same_code(datasets, tmp_path):
    predictions = tmp_path / "theirs.jsonl"
    perfect_answers(datasets / "test.parquet", predictions)
    shown = run("evaluate", "--predictions", predictions, "--data", datasets / "test.parquet")
    assert "1.000" in shown.stdout
    assert "synthetic" in shown.stdout.lower()
    numbers = json.loads(
        run("evaluate", "--predictions", predictions, "--data", datasets / "test.parquet", "--json").stdout
    )
    assert (numbers["num_real"], numbers["num_generated"], numbers["is_synthetic"]) == (4, 4, True)
    assert numbers["overall"]["accuracy"]["value"] == 1
    assert numbers["overall"]["iou"]["value"] == 1
    given = ("evaluate", "--predictions", predictions, "--data", datasets / "test.parquet", "--json", "--view")
    without_boxes = json.loads(run(*given, "label-only").stdout)["overall"]
    assert without_boxes["accuracy"]["value"] == 1
    assert without_boxes["iou"]["value"] is None
    assert json.loads(run(*given, "no-caption").stdout)["overall"]["iou"]["value"] == 1


def test_two_files_are_compared_image_by_image(datasets, tmp_path):
    from fxray.data.dataset import Dataset

    perfect, labels = tmp_path / "perfect.jsonl", tmp_path / "labels.csv"
    perfect_answers(datasets / "test.parquet", perfect)
    samples = Dataset.open(datasets / "test.parquet").samples
    labels.write_text("sample_id,label\n" + "".join(f"{sample.sample_id},real\n" for sample in samples))
    given = ("evaluate", "--predictions", perfect, "--against", labels, "--data", datasets / "test.parquet")
    numbers = json.loads(run(*given, "--json").stdout)
    assert numbers["gain"]["metrics"]["accuracy"]["value"] == 0.5
    assert numbers["gain"]["metrics"]["accuracy"]["excludes_zero"]
    assert numbers["gain"]["metrics"]["iou"]["value"] is None
    assert numbers["overall"]["box_ap"]["value"] == pytest.approx(1)
    assert numbers["overall"]["tag_f1"]["value"] == 1
    assert sum(part["num_samples"] for part in numbers["by_size"].values()) == 4
    shown = run(*given).stdout
    assert "From labels to perfect" in shown
    assert "recall" in shown
    labels.write_text(f"sample_id,label\n{samples[0].sample_id},real\n")
    with pytest.raises(DataError, match=r"labels\.csv: 7 samples have no prediction"):
        run(*given)


@pytest.mark.parametrize(
    ("before", "after", "said"),
    [
        ("run/evaluation/sft/predictions.parquet", "run/evaluation/gamma/predictions.parquet", "SFT to GRPO γ"),
        ("one/evaluation/gamma/predictions.parquet", "two/evaluation/gamma/predictions.parquet", "one to two"),
        ("theirs.jsonl", "run/evaluation/gamma/predictions.parquet", "theirs to GRPO γ"),
        ("run/evaluation/sft/predictions.parquet", "predictions.parquet", "SFT to predictions"),
        ("old/mine.jsonl", "new/mine.parquet", "old to new"),
        ("mine.jsonl", "mine.parquet", "mine.jsonl to mine.parquet"),
    ],
)
def test_two_compared_files_are_called_by_what_they_differ_in(datasets, tmp_path, monkeypatch, before, after, said):
    from fxray.evaluate.predictions import read_predictions, write_predictions

    monkeypatch.chdir(tmp_path)
    perfect_answers(datasets / "test.parquet", tmp_path / "perfect.jsonl")
    for file in (before, after):
        write_predictions(read_predictions(tmp_path / "perfect.jsonl"), tmp_path / file)
    given = ("--predictions", after, "--against", before, "--data", datasets / "test.parquet", "--num-bootstrap", 2)
    assert f"From {said}" in run("evaluate", *given).stdout


@pytest.fixture
def model(monkeypatch):
    """A model that answers what it is asked, and is always right; and how many samples each call asked."""
    from fxray.data.dataset import Dataset
    from fxray.evaluate.predictions import Prediction, write_predictions
    from fxray.launch.evaluation import rows_to_answer

    asked = []

    def answer(config, adapter, data, out, on_event):
        samples = Dataset.open(data).samples
        rows = rows_to_answer(len(samples), config.evaluate.num_samples)
        truth = [(samples[row].sample_id, samples[row].annotation.verdict) for row in rows]
        write_predictions([Prediction(*answered) for answered in truth], out)
        asked.append(len(rows))
        return out

    monkeypatch.setattr(phases, "evaluate_adapter", answer)
    return asked


def test_a_model_is_scored_on_the_samples_that_it_was_asked(datasets, tmp_path, model):
    theirs = tmp_path / "theirs.jsonl"
    perfect_answers(datasets / "test.parquet", theirs)
    given = (
        "evaluate",
        "-c",
        "tiny",
        "--data",
        datasets / "test.parquet",
        "--out",
        tmp_path / "ours.parquet",
        "--json",
    )
    numbers = json.loads(run(*given, "--set", "evaluate.num_samples=3", "--against", theirs).stdout)
    assert numbers["overall"]["num_samples"] == 3
    assert numbers["gain"]["metrics"]["accuracy"]["value"] == 0
    perfect_answers(datasets / "train.parquet", theirs)
    with pytest.raises(DataError):
        run(*given, "--set", "evaluate.num_samples=3", "--against", theirs)
    assert model == [3]


def test_the_configuration_decides_the_resamples_where_no_option_does(datasets, tmp_path, model, monkeypatch):
    from fxray.evaluate import evaluation

    got, score = [], evaluation.evaluate

    def listen(*arguments, num_bootstrap, seed, **rest):
        got.append((num_bootstrap, seed))
        return score(*arguments, num_bootstrap=num_bootstrap, seed=seed, **rest)

    monkeypatch.setattr(evaluation, "evaluate", listen)
    ours = tmp_path / "ours.jsonl"
    asked = ("evaluate", "-c", "tiny", "--data", datasets / "test.parquet", "--out", ours)
    settings = ("-s", "evaluate.num_bootstrap=7", "-s", "seed=5")
    run(*asked, *settings)
    run(*asked, *settings, "--num-bootstrap", 3, "--seed", 0)
    run("evaluate", "--predictions", ours, "--data", datasets / "test.parquet")
    assert got == [(7, 5), (3, 0), (1000, 0)]


@pytest.mark.parametrize("out", ["answers.csv", "answers.json", "folder.parquet"])
def test_a_file_that_answers_cannot_go_to_is_wrong_usage_before_the_model_answers(datasets, tmp_path, model, out):
    (tmp_path / "folder.parquet").mkdir()
    given = ("evaluate", "-c", "tiny", "--data", datasets / "test.parquet", "--out", tmp_path / out)
    assert run(*given).exit_code == 2
    assert model == []


def test_a_file_to_compare_with_that_is_not_there_is_refused_before_the_model_answers(datasets, tmp_path, model):
    given = ("evaluate", "-c", "tiny", "--data", datasets / "test.parquet", "--out", tmp_path / "ours.parquet")
    with pytest.raises(DataError, match="no such predictions file"):
        run(*given, "--against", tmp_path / "none.jsonl")
    assert model == []


def test_predictions_of_other_samples_are_refused(datasets, tmp_path):
    predictions = tmp_path / "theirs.jsonl"
    perfect_answers(datasets / "train.parquet", predictions)
    with pytest.raises(DataError):
        run("evaluate", "--predictions", predictions, "--data", datasets / "test.parquet")


@pytest.mark.parametrize(
    "arguments",
    [
        ["evaluate", "--data", "x.parquet"],
        ["evaluate", "--data", "x.parquet", "--config", "tiny", "--predictions", "y.jsonl"],
        ["evaluate", "--predictions", "y.jsonl"],
        ["evaluate", "--data", "x.parquet", "--predictions", "y.jsonl", "--view", "boxes"],
        ["evaluate", "--data", "x.parquet", "--config", "tiny", "--view", "full"],
        ["evaluate", "--data", "x.parquet", "--predictions", "y.jsonl", "--adapter", "adapter"],
        ["evaluate", "--data", "x.parquet", "--predictions", "y.jsonl", "--out", "z.parquet"],
        ["evaluate", "--data", "x.parquet", "--predictions", "y.jsonl", "--set", "seed=1"],
        ["evaluate", "--data", "x.parquet", "--predictions", "y.csv", "--threshold", "nan"],
        ["evaluate", "--data", "x.parquet", "--predictions", "y.jsonl", "--threshold", "0.3"],
        ["prefer", "create", "s.db", "--data", "x.parquet", "--source", "a=truth", "--threshold", "nan"],
        ["detect", "x.png"],
        ["detect", "x.png", "--config", "tiny", "--run-dir", "runs/demo"],
        ["data", "synth", "out", "--size-px", "3"],
        ["model", "random", "out", "--like", "qwen2.5-vl-3b", "--seed", 2**64],
        ["tiny", "build", "out", "--seed", 2**64],
        ["baseline", "run", "classifier", "--data", "d", "--out", "out", "--seed", 2**64],
    ],
)
def test_arguments_that_do_not_go_together_are_wrong_usage(arguments):
    assert run(*arguments).exit_code == 2


def test_a_random_model_tells_its_end_once_and_nothing_before_it_begins(monkeypatch):
    def write(*_, progress, **__):
        for num_bytes in (0, 2 * 2**20, 2**21 + 9, 2**21 + 10):
            progress(num_bytes, 2**21 + 10)

    monkeypatch.setattr("fxray.model.random.write_random_model", write)
    told = run("model", "random", "out", "--like", "qwen2.5-vl-3b").stderr
    assert told.splitlines() == ["MiB of weights", "MiB of weights  3/3"]


def test_a_folder_that_is_no_run_is_refused(tmp_path):
    with pytest.raises(CheckpointError, match="not a run directory"):
        run("detect", "x.png", "--run-dir", tmp_path)
    with pytest.raises(FxrayError):
        run("report", tmp_path)


def test_a_users_reward_that_cannot_be_imported_is_found_before_the_run():
    with pytest.raises(ConfigError, match="no_such_module"):
        run("config", "check", "-c", "tiny", "-s", "reward.functions=[{path: 'no_such_module:f'}]")


def test_data_that_are_not_on_this_machine_are_told(tmp_path):
    (tmp_path / "there.parquet").touch()
    names = {"train": "there", "validation": "gone", "test": "lost"}
    settings = ["data.synth=null", *(f"data.{split}={tmp_path}/{name}.parquet" for split, name in names.items())]
    result = run("config", "check", "-c", "tiny", *(part for setting in settings for part in ("-s", setting)))
    assert result.exit_code == 0
    assert result.stderr.splitlines() == [
        f"note: data.validation {tmp_path / 'gone.parquet'} is not on this machine",
        f"note: data.test {tmp_path / 'lost.parquet'} is not on this machine",
    ]


def test_a_model_that_is_here_is_looked_into_and_one_that_is_not_is_told(tmp_path):
    model = shutil.copytree(resolve_model_path("tiny"), tmp_path / "model")
    settings = ["-c", "tiny", "-s", f"model.path={model}"]
    result = run("config", "check", *settings)
    assert (result.exit_code, result.stderr) == (0, "")
    (model / "tokenizer.json").unlink()
    with pytest.raises(ModelError, match=r"lacks tokenizer\.json"):
        run("config", "check", *settings)
    model.rename(tmp_path / "elsewhere")
    result = run("config", "check", *settings)
    assert result.exit_code == 0
    assert result.stderr == f"note: model.path {model} is not on this machine\n"


@pytest.mark.parametrize(
    ("command", "function", "extra"),
    [("train", "train", []), ("sft", "run_sft_phase", []), ("grpo", "run_grpo_stage", ["--stage", "beta"])],
)
def test_training_commands_hand_configuration_folder_and_listener_on(command, function, extra, monkeypatch, tmp_path):
    got = []

    def stand_in(config, run_dir, *rest):
        got.extend([config.seed, run_dir, *rest[:-1]])
        rest[-1](Note("under way"))
        page = run_dir / "result"
        return Report(page, Comparison((), None)) if command == "train" else page

    monkeypatch.setattr(phases, function, stand_in)
    result = run(command, "-c", "tiny", "-s", "seed=5", "-d", tmp_path, *extra)
    assert got == [5, tmp_path, *extra[1:]]
    assert result.stdout == f"{tmp_path / 'result'}\n"
    assert "under way" in result.stderr


def test_what_a_report_leaves_out_is_told_in_the_terminal_too(tmp_path):
    """Without it, a stage whose answers are damaged is missing in the table as if it had never been trained."""
    answers = tmp_path / "evaluation" / "gamma" / "predictions.parquet"
    answers.parent.mkdir(parents=True)
    answers.write_bytes(b"PAR1 and no more")
    (tmp_path / "config.yaml").write_text("seed: 0\n")
    result = run("report", tmp_path)
    assert "note: gamma: not readable as Parquet: " in result.stderr
    assert result.stdout == f"{tmp_path / 'report.html'}\n"


@pytest.mark.parametrize("stop", [KeyboardInterrupt(), SystemExit(143)])
def test_a_training_that_is_stopped_says_that_it_goes_on(stop, monkeypatch, tmp_path):
    def stand_in(*_):
        raise stop

    monkeypatch.setattr(phases, "train", stand_in)
    result = run("train", "-c", "tiny", "-d", tmp_path)
    assert result.exit_code in (130, 143)
    assert f"stopped; the same command goes on, `fxray status {tmp_path}` says from where" in result.stderr


def test_the_run_folder_is_named_after_the_configuration(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(
        phases, "train", lambda config, run_dir, on_event: Report(run_dir / "page", Comparison((), None))
    )
    (tmp_path / "mine.yaml").write_text("extends: tiny\n")
    assert run("train", "-c", "mine.yaml").stdout.strip() == "runs/mine/page"


def test_a_configuration_is_checked_with_the_data_that_are_here(datasets, tmp_path):
    names = ("train", "validation", "test")
    files = {name: f"data.{name}={datasets / name}.parquet" for name in names}

    def check(**others):
        settings = [word for item in ("data.synth=null", *(files | others).values()) for word in ("-s", item)]
        return run("config", "check", "-c", "tiny", *settings)

    assert "note: 1 real + 1 generated image for validation are too few" in check().stderr
    with pytest.raises(DataError, match=r"train.parquet row 0: field sample_id: 4 samples are in .*train.parquet too"):
        check(test=f"data.test={datasets / 'train.parquet'}")
    (tmp_path / "cut.parquet").write_bytes((datasets / "test.parquet").read_bytes()[:-9])
    with pytest.raises(DataError, match=r"cut.parquet"):
        check(test=f"data.test={tmp_path / 'cut.parquet'}")
    assert "nowhere.parquet is not on this machine\n" in check(test="data.test=nowhere.parquet").stderr
    with pytest.raises(DataError, match="is a folder, expected a dataset file"):
        check(test=f"data.test={datasets}")


def test_weights_in_the_home_of_nobody_are_not_there(datasets, tmp_path):
    files = ("--train", datasets / "train.parquet", "--test", datasets / "test.parquet", "--out", tmp_path / "out")
    with pytest.raises(ConfigError, match=r"~nobody-at-all/x is not there"):
        run("baseline", "run", "linear-probe", "--weights", "linear-probe=~nobody-at-all/x", *files)


def test_a_file_of_a_run_is_named_below_the_run_as_it_was_given(tmp_path):
    page = tmp_path / "report.html"
    assert within("runs/why?", page, tmp_path) == "runs/why?/report.html"
    assert within("s3://bucket/run?region=eu", page, tmp_path) == "s3://bucket/run/report.html?region=eu"
