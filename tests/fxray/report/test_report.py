"""The report stands by itself, tells the truth about what is missing, and cannot be made to run foreign code."""

import html.parser
import json
import math
import os
import re
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import yaml

from fxray.data.dataset import Dataset, Row, write_dataset
from fxray.errors import FxrayError
from fxray.evaluate.calibration import FittedFor, write_calibration
from fxray.evaluate.evaluation import evaluate
from fxray.evaluate.fitting import fit_calibration
from fxray.evaluate.predictions import Prediction, read_predictions, write_predictions
from fxray.metrics import MetricsLog
from fxray.report.page import write_report
from fxray.schema import Box, Region, Verdict
from fxray.spans import Span
from fxray.timeline import TimelineFile

MakeRun = Callable[..., Path]
HOSTILE = "<script>alert(1)</script><img src=x onerror='alert(2)'>\"&</pre></details>"


class Page(html.parser.HTMLParser):
    """What a browser would see: elements, their attributes, and the text in view."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.open: list[str] = []
        self.text = ""
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag not in {"meta", "link", "img", "br", "hr", "input"}:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag, f"</{tag}> closes nothing"

    def handle_data(self, data: str) -> None:
        if "style" not in self.open:
            self.text += data


@pytest.fixture(scope="module")
def run_dir(make_run: MakeRun) -> Path:
    run_dir = make_run()
    write_report(run_dir)
    return run_dir


def test_the_report_says_how_long_each_worker_worked(make_run: MakeRun, tmp_path: Path) -> None:
    folder = tmp_path / "run"
    shutil.copytree(make_run(), folder)
    file = TimelineFile(folder / "timeline.json")
    for track in ("rollout-1", "rollout-2", "generate"):
        file.add(Span(track, "draw", "", 100.0, 175.0))
    file.write()
    write_report(folder)
    text = Page((folder / "report.html").read_text("utf-8")).text
    assert re.findall(r"(rollout-\d) worked\s*([\d min]+ s)", text) == [
        ("rollout-1", "1 min 15 s"),
        ("rollout-2", "1 min 15 s"),
    ]


def test_the_work_of_a_run_longer_than_its_timeline_is_said_to_be_of_its_end(make_run: MakeRun) -> None:
    run_dir = make_run(num_samples=8)
    file = TimelineFile(run_dir / "timeline.json", max_bytes=2000)
    for number in range(60):
        file.add(Span("rollout-1", "draw", "", 100.0 * number, 100.0 * number + 50))
        file.write()
    text = Page(write_report(run_dir).page.read_text("utf-8")).text
    events = [e for n in ("timeline.old.json", "timeline.json") for e in json.loads((run_dir / n).read_text())]
    num_kept = sum(event["ph"] == "X" for event in events)
    assert 5 < num_kept < 30
    (said,) = re.findall(r"rollout-1 worked, of the run's last (\d+) min (\d+) s\s*(\d+) min (\d+) s", text)
    length_min, length_s, busy_min, busy_s = map(int, said)
    assert (60 * length_min + length_s, 60 * busy_min + busy_s) == (100 * num_kept - 50, 50 * num_kept)


@pytest.fixture(scope="module")
def page(run_dir: Path) -> Page:
    return Page((run_dir / "report.html").read_text("utf-8"))


def test_every_element_is_closed(page: Page) -> None:
    assert page.open == []


def test_the_five_stages_and_the_gain_are_told(page: Page, run_dir: Path) -> None:
    for title in ("No-FT", "SFT", "GRPO α", "GRPO β", "GRPO γ"):
        assert title in page.text
    assert "From SFT to GRPO γ: IoU +" in page.text
    dataset = Dataset.open(run_dir / "data" / "test.parquet")
    predictions = read_predictions(run_dir / "evaluation" / "gamma" / "predictions.parquet")
    evaluation = evaluate(predictions, dataset.samples, num_bootstrap=50, seed=7)
    accuracy, iou = (evaluation.overall.metrics[name] for name in ("accuracy", "iou"))
    for number in (accuracy.value, accuracy.low, accuracy.high, iou.value, iou.low, iou.high):
        assert f"{number:.3f}" in page.text


def test_the_curves_of_figure_3_are_there(page: Page) -> None:
    charts = {attributes["aria-label"] for tag, attributes in page.tags if tag == "svg"}
    assert {"Accuracy and IoU", "Reward", "Parts of the reward", "SFT loss", "GRPO loss"} <= charts
    assert {"KL to the reference", "Parse rate", "Speed", "Reward mine:brevity"} <= charts


def test_synthetic_data_is_called_so_on_the_face(page: Page, make_run: MakeRun) -> None:
    assert "SYNTHETIC" in page.text[: page.text.index("Stages")]
    other = write_report(make_run(num_samples=8, is_synthetic=False)).page.read_text("utf-8")
    assert "SYNTHETIC" not in other


def test_nothing_outside_the_file_is_needed(run_dir: Path, page: Page) -> None:
    text = (run_dir / "report.html").read_text("utf-8")
    assert not re.search(r"(?:https?:)?//\w", re.sub(r"base64,[^\"]*", "", text))
    assert not re.search(r"@import|url\(", text)
    assert not {tag for tag, _ in page.tags} & {"script", "link", "iframe", "object", "base"}
    for _, attributes in page.tags:
        assert not any(name.startswith("on") for name in attributes)
        for name in ("src", "href"):
            value = attributes.get(name)
            assert value is None or value.startswith("data:image/jpeg;base64,") or (run_dir / value).exists()
    assert ("meta", "default-src 'none'; img-src data:; style-src 'unsafe-inline'") in [
        (tag, attributes.get("content")) for tag, attributes in page.tags
    ]


def test_hostile_captions_stay_text(make_run: MakeRun) -> None:
    run_dir = make_run(num_samples=8, stages={"gamma": (1.0, 0.5)})
    path = run_dir / "evaluation" / "gamma" / "predictions.parquet"
    hostile = [
        Prediction(
            p.sample_id, Verdict.GENERATED, (Region(Box(1, 1, 99, 99), HOSTILE),), answer=HOSTILE, faults=(HOSTILE,)
        )
        for p in read_predictions(path)
    ]
    write_predictions(hostile, path)
    (run_dir / "config.yaml").write_text(f"seed: 1\n# {HOSTILE}\n")
    (run_dir / "versions.json").write_text(json.dumps({"packages": {HOSTILE: HOSTILE}, "machine": HOSTILE}))
    page = Page(write_report(run_dir).page.read_text("utf-8"))
    assert not {tag for tag, _ in page.tags} & {"script", "img"}
    assert not [name for _, attributes in page.tags for name in attributes if name.startswith("on")]
    assert page.open == []
    assert page.text.count(HOSTILE) > 8


def test_stages_that_the_schedule_does_not_have_are_not_missed(make_run: MakeRun) -> None:
    run_dir = make_run(num_samples=8, stages={"no-ft": (0.5, 0.1), "sft": (0.8, 0.3)})
    stage = "rewards: {w_iou: 1.0, label: {right: 1.0, wrong: -1.0}, format: {right: 2.0, wrong: -1.0}}"
    (run_dir / "schedule.yaml").write_text(f"stages:\n  - name: boxes\n    {stage}\n")
    config = "model: {path: tiny}\ndata: {synth: {}}\ngrpo: {schedule: schedule.yaml}\nevaluate: {num_bootstrap: 50}\n"
    (run_dir / "config.yaml").write_text(config)
    (run_dir / "metrics.jsonl").unlink(missing_ok=True)
    page = Page(write_report(run_dir).page.read_text("utf-8"))
    assert page.text.count("not evaluated") == 1
    assert "GRPO γ" not in page.text


def test_the_numbers_are_there_as_json(run_dir: Path) -> None:
    numbers = json.loads((run_dir / "metrics.json").read_text(), parse_constant=pytest.fail)
    assert list(numbers["evaluations"]) == ["no-ft", "sft", "alpha", "beta", "gamma"]
    assert numbers["is_synthetic"] is True
    assert numbers["gain"]["before"] == "sft"
    assert numbers["gain"]["metrics"]["iou"]["excludes_zero"] is True
    assert numbers["training"]["sft"]["num_steps"] == 200
    assert 60 * 1.4 < numbers["training"]["beta"]["seconds"] < 60 * 1.8
    assert numbers["versions"]["git_revision"] == "0123456789ab"
    assert numbers["notes"] == []


def test_a_stage_that_is_missing_is_said(make_run: MakeRun) -> None:
    run_dir = make_run(num_samples=8, stages={"no-ft": (0.5, 0.1), "sft": (0.8, 0.3)})
    text = Page(write_report(run_dir).page.read_text("utf-8")).text
    assert text.count("not evaluated") == 3
    assert "The gain from SFT to the last stage is not measured" in text


SCHEDULE = "stages:\n" + "".join(
    f"- {{name: {name}, rewards: {{w_iou: 1, label: {{right: 1, wrong: -1}}, format: {{right: 2, wrong: -1}}}}}}\n"
    for name in ("form", "boxes")
)


@pytest.mark.parametrize("said_by", ["schedule", "metrics"])
def test_the_last_stage_is_the_one_that_was_trained_last(make_run: MakeRun, said_by: str) -> None:
    run_dir = make_run(num_samples=20, stages={"sft": (0.5, 0.3), "boxes": (1.0, 0.9), "form": (0.3, 0.2)})
    (run_dir / "metrics.jsonl").unlink()
    if said_by == "schedule":
        (run_dir / "schedule.yaml").write_text(SCHEDULE)
        (run_dir / "config.yaml").write_text(
            "model: {path: tiny}\ndata: {synth: {}}\ngrpo: {schedule: schedule.yaml}\n"
        )
    else:
        log = MetricsLog(run_dir)
        for name in ("sft", "form", "boxes"):
            log.log(name, 1, {"loss": 1.0})
        log.close()
    report = write_report(run_dir)
    assert [evaluation.name for evaluation in report.comparison.evaluations] == ["sft", "form", "boxes"]
    assert report.comparison.gain.after == "boxes"
    page = report.page.read_text("utf-8")
    assert "From SFT to boxes: IoU +" in page
    assert "is not known" not in page


def test_a_stage_whose_place_nothing_tells_is_said(make_run: MakeRun) -> None:
    run_dir = make_run(num_samples=8, stages={"sft": (0.8, 0.3), "warm-up": (0.8, 0.3)})
    assert "when warm-up was trained is not known" in Page(write_report(run_dir).page.read_text("utf-8")).text


def test_a_run_that_has_just_begun_has_a_report(tmp_path: Path) -> None:
    (tmp_path / "config.yaml").write_text("seed: 3\n")
    page = Page(write_report(tmp_path).page.read_text("utf-8"))
    assert "Nothing has been evaluated yet." in page.text
    assert "No step is recorded." in page.text
    assert "data.json is missing or unreadable" in page.text
    assert page.open == []


def test_damaged_parts_are_said_and_the_rest_is_shown(make_run: MakeRun) -> None:
    run_dir = make_run(num_samples=8)
    (run_dir / "evaluation" / "alpha" / "predictions.parquet").write_bytes(b"PAR1 torn")
    (run_dir / "metrics.jsonl").write_text("nonsense\n")
    (run_dir / "versions.json").write_text("[]")
    text = Page(write_report(run_dir).page.read_text("utf-8")).text
    assert "alpha: not readable as Parquet" in text
    assert "is not a record of a step" in text
    assert "versions.json is no JSON object" in text
    assert "From SFT to GRPO γ" in text


@pytest.mark.parametrize(
    ("file", "content", "said"),
    [
        ("timeline.json", '[\n{"ph":"X","name":"a"}\n]\n', ""),
        ("timeline.json", '[\n{"ph":"M","name":"thread_name","pid":1,"tid":1,"args":{"name":7}}\n]\n', ""),
        ("metrics.jsonl", '{"phase":"alpha","step":5,"time":5.0,"metrics":{"seconds":null}}\n', "1 step–"),
        ("config.yaml", "seed: .inf\n", "config.yaml cannot be read: cannot convert float infinity to integer"),
        (
            "metrics.jsonl",
            "".join(
                f'{{"phase":"alpha","step":{step},"time":5.0,"metrics":{{"reward":{"-" * (step % 2)}1e308}}}}\n'
                for step in range(1, 4)
            ),
            "GRPO α",
        ),
    ],
)
def test_events_that_lack_something_and_numbers_out_of_range_end_no_report(
    make_run: MakeRun, file: str, content: str, said: str
) -> None:
    run_dir = make_run(num_samples=8)
    (run_dir / file).write_text(content)
    page = Page(write_report(run_dir).page.read_text("utf-8"))
    assert said in page.text
    assert page.open == []
    json.loads((run_dir / "metrics.json").read_text(), parse_constant=pytest.fail)


def test_images_that_are_gone_are_said_and_the_rest_is_shown(make_run: MakeRun) -> None:
    run_dir = make_run(num_samples=8)
    data = run_dir / "data" / "test.parquet"
    dataset = Dataset.open(data)
    for row in range(len(dataset)):
        (data.parent / f"{row}.png").write_bytes(dataset.image_bytes(row))
    write_dataset(data, [Row(sample, image_path=f"{row}.png") for row, sample in enumerate(dataset.samples)])
    (run_dir / "config.yaml").write_text("evaluate:\n  gallery_size: 100\n  num_bootstrap: 20\n")
    (data.parent / "0.png").unlink()
    (data.parent / "1.png").write_bytes(b"torn")
    page = Page(write_report(run_dir).page.read_text("utf-8"))
    assert "images of the gallery that cannot be read: 2, the first: " in page.text
    assert page.text.count("no picture") == 2
    assert len([attributes for tag, attributes in page.tags if tag == "image"]) == 6
    (note,) = [n for n in json.loads((run_dir / "metrics.json").read_text())["notes"] if "gallery" in n]
    assert note in page.text


def test_a_run_in_a_view_without_boxes_reports_no_iou(make_run: MakeRun) -> None:
    run_dir = make_run()
    config = yaml.safe_load((run_dir / "config.yaml").read_text())
    config["data"] = config.get("data", {}) | {"view": "no-bbox"}
    (run_dir / "config.yaml").write_text(yaml.safe_dump(config))
    comparison = write_report(run_dir).comparison
    last = comparison.evaluations[-1].overall.metrics
    assert math.isnan(last["iou"].value)
    assert last["accuracy"].value > 0.5
    assert "IoU not measured" in comparison.gain.sentence()
    page = Page((run_dir / "report.html").read_text("utf-8"))
    assert not [attrs for _, attrs in page.tags if attrs.get("class") == "iou"]
    assert "Found" in page.text
    assert "located" not in page.text


def test_images_that_share_sources_are_said(make_run: MakeRun) -> None:
    data = Dataset.open((run_dir := make_run(num_samples=8)) / "data" / "test.parquet")
    write_dataset(data.path, [Row(replace(s, source="web"), data.image_bytes(r)) for r, s in enumerate(data.samples)])
    assert "8 images of 1 source; intervals are about" in Page(write_report(run_dir).page.read_text("utf-8")).text


def test_a_lost_test_set_is_said(make_run: MakeRun) -> None:
    run_dir = make_run(num_samples=8)
    shutil.rmtree(run_dir / "data")
    said = "the held-out images cannot be read, so nothing is scored"
    assert said in Page(write_report(run_dir).page.read_text("utf-8")).text


def test_answers_to_other_samples_are_no_gain(make_run: MakeRun) -> None:
    run_dir = make_run(num_samples=8)
    path = run_dir / "evaluation" / "sft" / "predictions.parquet"
    write_predictions(read_predictions(path)[:4], path)
    text = Page(write_report(run_dir).page.read_text("utf-8")).text
    assert "were not scored on the same samples" in text
    assert "The gain from SFT to the last stage is not measured" in text
    assert "GRPO γ" in text


def test_a_folder_whose_name_is_no_utf_8_has_a_report(tmp_path: Path) -> None:
    run_dir = Path(os.fsdecode(bytes(tmp_path) + b"/caf\xe9"))
    try:
        run_dir.mkdir()
    except OSError:
        pytest.skip("this file system has UTF-8 names alone")
    (run_dir / "config.yaml").write_text("seed: 3\n")
    assert "<h1>caf\\udce9</h1>" in write_report(run_dir).page.read_text("utf-8")


def test_what_is_no_run_is_refused(tmp_path: Path) -> None:
    with pytest.raises(FxrayError, match="not a run directory"):
        write_report(tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_the_report_of_a_run_is_the_same_twice_but_for_its_date(run_dir: Path) -> None:
    def undated() -> str:
        text = write_report(run_dir).page.read_text("utf-8")
        return re.sub(r"\d{4}-\d\d-\d\d \d\d:\d\d UTC", "", text)

    assert undated() == undated()


def test_probabilities_are_told_where_they_exist_and_calibrated_ones_beside_them(
    make_run: MakeRun, tmp_path: Path
) -> None:
    folder = tmp_path / "run"
    shutil.copytree(make_run(), folder)
    assert "Probabilities" not in Page(write_report(folder).page.read_text("utf-8")).text  # an older run
    file = folder / "evaluation" / "gamma" / "predictions.parquet"
    said = [
        replace(p, probability=None if p.verdict is None else 0.98 if p.verdict is Verdict.GENERATED else 0.02)
        for p in read_predictions(file)
    ]
    write_predictions(said, file)
    truth = np.array(
        [s.annotation.verdict is Verdict.GENERATED for s in Dataset.open(folder / "data/test.parquet").samples]
    )
    answered = np.array([p.probability is not None for p in said])
    calibration = fit_calibration(
        np.array([p.probability for p in said if p.probability is not None]), truth[answered], max_fpr=0.125,
        max_error=0.1, num_sources=3, data="validation.parquet", data_sha256="", is_synthetic=True,
        fitted_for=FittedFor(adapter_sha256="", base="tiny", view="full", min_pixels=1, max_pixels=2),
    )  # fmt: skip
    write_calibration(calibration, make_folder_of(folder / "grpo/gamma/final/adapter"))
    report = write_report(folder)
    page = Page(report.page.read_text("utf-8"))
    assert page.open == []
    assert "Reliability, GRPO γ" in {attributes.get("aria-label") for tag, attributes in page.tags if tag == "svg"}
    evaluation = report.comparison.evaluations[-1]
    own, calibrated = evaluation.probabilities, evaluation.calibrated.probabilities
    assert own.num_images == calibrated.num_images == answered.sum() < len(said) == own.num_images + own.num_without
    assert calibrated.metrics["auroc"] == own.metrics["auroc"]
    assert calibrated.metrics["ece"].value < own.metrics["ece"].value
    for scores in (own, calibrated):
        for metric in scores.metrics.values():
            assert f"{metric.value:.3f}" in page.text
    assert "chosen for at most 12.5 % false alarms" in page.text
    assert f"GRPO γ is calibrated on {answered.sum()} images of validation.parquet" in page.text
    numbers = json.loads((folder / "metrics.json").read_text())["evaluations"]["gamma"]
    assert numbers["probabilities"]["ece"]["value"] == own.metrics["ece"].value
    assert numbers["calibrated"]["decisions"]["fpr"]["value"] == evaluation.calibrated.decisions["fpr"].value


def make_folder_of(path: Path) -> Path:
    path.mkdir(parents=True)
    return path
