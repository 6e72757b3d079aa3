"""Five stages side by side; a gain is claimed only where its interval excludes 0."""

import json
import math
from dataclasses import replace

import numpy as np
import pytest
from rich.console import Console

from fxray.errors import DataError
from fxray.evaluate.captions import can_score_captions
from fxray.evaluate.comparison import compare
from fxray.evaluate.estimates import estimate_gains, estimate_mean_gains
from fxray.evaluate.evaluation import Evaluation, evaluate
from fxray.evaluate.predictions import Prediction
from fxray.evaluate.scores import SampleScores, score_samples
from fxray.evaluate.table import generator_table, stage_table
from fxray.events import Event, Step
from fxray.schema import Annotation, Box, Region, Sample, Tag, Verdict

TRUTH = Box(0, 0, 50, 100)


def samples(num: int = 80) -> list[Sample]:
    made = []
    for i in range(num):
        is_generated = i % 2 == 0
        regions = (Region(TRUTH, "Flaw"),) if is_generated else ()
        verdict = Verdict.GENERATED if is_generated else Verdict.REAL
        generator = ("blur", "bend")[i // 2 % 2] if is_generated else "real"
        made.append(Sample(f"s{i}", 100, 100, Annotation(verdict, regions), generator, "thing", f"photograph {i}"))
    return made


def stage(name: str, overlap_px: float, num_wrong: int = 0, **settings: object) -> Evaluation:
    """Each prediction covers `overlap_px` of the 50 columns of the truth; the first `num_wrong` have no verdict."""
    predictions = []
    for i, sample in enumerate(samples()):
        is_generated = sample.annotation.verdict is Verdict.GENERATED
        regions = (Region(Box(0, 0, overlap_px, 100), "Flaw"),) if is_generated and overlap_px else ()
        verdict = None if i < num_wrong else sample.annotation.verdict
        predictions.append(
            Prediction(sample.sample_id, verdict, regions, faults=("unfinished",) if i < num_wrong else ())
        )
    return evaluate(predictions, samples(), num_bootstrap=200, seed=0, name=name, **settings)


def test_an_evaluation_by_hand() -> None:
    evaluation = stage("sft", 10, num_wrong=9)  # 5 generated and 4 real of 40 each
    overall = {name: estimate.value for name, estimate in evaluation.overall.metrics.items()}
    assert overall == pytest.approx(
        {
            "accuracy": 71 / 80,
            "balanced_accuracy": (35 / 40 + 36 / 40) / 2,
            "accuracy_real": 36 / 40,
            "accuracy_generated": 35 / 40,
            "precision": 1,
            "f1": 2 * 35 / (2 * 35 + 5),
            "iou": 0.2,
            "matched_iou": 0.2,
            "parse_rate": 71 / 80,
            "boxes_per_image": 1,
            "hallucination": 0,
            "boxes_per_real_image": 0,
            "box_ap": 2 / 5,
            "box_ap_10": 1,
            "box_ap_20": 1,
            "box_ap_30": 0,
            "box_ap_40": 0,
            "box_ap_50": 0,
            "bleu": math.nan,  # a word has no four in a row
            "rouge_l": 1 if can_score_captions() else math.nan,
            "tag_f1": math.nan,
        },
        nan_ok=True,
    )
    assert (evaluation.num_real, evaluation.num_generated, evaluation.num_unread) == (40, 40, 9)
    assert evaluation.fault_counts == {"unfinished": 9}
    assert {name: part.num_samples for name, part in evaluation.by_generator.items()} == {
        "bend": 20,
        "blur": 20,
        "real": 40,
    }
    assert evaluation.by_generator["blur"].metrics["accuracy"].value == 17 / 20
    assert evaluation.by_generator["bend"].metrics["accuracy"].value == 18 / 20
    accuracy = evaluation.overall.metrics["accuracy"]
    assert 0.78 < accuracy.low < accuracy.value < accuracy.high < 0.97
    iou = evaluation.overall.metrics["iou"]
    assert (iou.low, iou.high) == (pytest.approx(0.2), pytest.approx(0.2))


def test_the_parts_of_an_evaluation_by_hand(monkeypatch: pytest.MonkeyPatch) -> None:
    def row(name: str, category: str, *boxes: Box, tags: tuple[Tag, ...] = ()) -> Sample:
        verdict = Verdict.REAL if name.startswith("r") else Verdict.GENERATED
        regions = tuple(Region(box, "Flaw") for box in boxes)
        return Sample(
            name, 20, 10, Annotation(verdict, regions, tags), "real" if name[0] == "r" else "SD1.5", category, "s"
        )

    truth = [
        row("r1", "cat"),
        row("g1", "cat", Box(0, 0, 10, 1), tags=(Tag.STRUCTURE, Tag.OTHER)),  # 10 of 200 px
        row("g2", "dog", Box(0, 0, 10, 2), Box(0, 0, 10, 3), tags=(Tag.OTHER,)),  # 30: one lies in the other
        row("g3", "dog", Box(0, 0, 10, 2), Box(10, 0, 20, 2), Box(0, 8, 1, 9)),  # 41
        row("g4", "dog"),
    ]
    said = [
        Prediction(name, verdict, seconds=seconds, probability=probability)
        for name, verdict, seconds, probability in (
            ("g4", Verdict.GENERATED, 3.0, 0.9),
            ("g3", Verdict.REAL, None, 0.4),
            ("g2", None, 1.0, None),
            ("g1", Verdict.GENERATED, None, 0.8),
            ("r1", Verdict.REAL, None, 0.1),
        )
    ]
    found = evaluate(said, truth, num_bootstrap=10, seed=0)
    assert (found.num_real, found.num_generated, found.num_sources, found.num_unread) == (1, 4, 1, 1)
    assert found.seconds_per_image == 2
    assert found.scores.probabilities_N.tolist()[:2] == [0.1, 0.8]  # in the order of the samples
    assert found.probabilities is not None
    assert (found.probabilities.metrics["auroc"].value, found.probabilities.num_without) == (1, 1)
    shares = {
        name: (part.num_samples, part.metrics["accuracy"].value)
        for parts in (found.by_generator, found.by_group, found.by_category, found.by_tag, found.by_size)
        for name, part in parts.items()
    }
    assert shares == {
        "SD1.5": (4, 1 / 2), "real": (1, 1), "Diffusion": (4, 1 / 2), "Real": (1, 1), "cat": (2, 1), "dog": (3, 1 / 3),
        "structure errors": (1, 1), "other anomalies": (2, 1 / 2),
        "flaws up to 5 %": (1, 1), "flaws of 5 to 20 %": (1, 0), "flaws over 20 %": (1, 0),
    }  # fmt: skip
    written = found.to_json()
    assert written["by_size"]["flaws up to 5 %"]["num_samples"] == 1
    assert written["probabilities"]["auroc"]["value"] == 1
    told = list[Event]()
    assert evaluate(said, truth, num_bootstrap=10, seed=0, on_event=told.append).to_json() == written
    assert told == []
    monkeypatch.setattr("fxray.evaluate.evaluation.SILENT_S", -1.0)
    evaluate(said, truth, num_bootstrap=10, seed=0, on_event=told.append)
    assert told == [Step("scoring", done, 12) for done in range(1, 13)]  # the 11 parts above, and all
    without = evaluate(said, truth, num_bootstrap=10, seed=0, has_boxes=False).overall.metrics
    assert all(math.isnan(without[name].value) for name in ("box_ap", "box_ap_10", "iou", "hallucination"))
    assert without["accuracy"].value == 3 / 5


def test_a_detector_that_flags_nothing_has_an_f1_of_0() -> None:
    said = [Prediction(sample.sample_id, Verdict.REAL) for sample in samples(4)]
    found = evaluate(said, samples(4), num_bootstrap=50, seed=0).overall.metrics
    assert (found["f1"].value, found["f1"].low, found["f1"].high) == (0, 0, 0)
    assert math.isnan(found["precision"].value)


def test_groups_are_the_papers_or_planted() -> None:
    assert list(stage("sft", 10).by_group) == ["Others", "Real"]
    assert list(stage("sft", 10, is_synthetic=True).by_group) == ["Planted defects", "Real"]


def test_planted_defects_are_synthetic_without_being_told() -> None:
    verdict = Annotation(Verdict.GENERATED, (Region(TRUTH, "Flaw"),))
    sample = Sample("a", 100, 100, verdict, "blur-patch", "thing", "photograph")
    evaluation = evaluate([Prediction("a", None)], [sample], num_bootstrap=10, seed=0)
    assert evaluation.is_synthetic
    assert list(evaluation.by_group) == ["Planted defects"]


def test_stages_come_in_the_order_of_training_with_the_gain_from_sft_to_the_last() -> None:
    comparison = compare([stage("alpha", 20), stage("sft", 10), stage("gamma", 30), stage("no-ft", 0, num_wrong=80)])
    assert [evaluation.name for evaluation in comparison.evaluations] == ["no-ft", "sft", "alpha", "gamma"]
    assert comparison.gain is not None
    assert (comparison.gain.before, comparison.gain.after) == ("sft", "gamma")
    gain = comparison.gain.metrics["iou"]
    assert gain.value == pytest.approx(0.4)
    assert gain.excludes_zero
    assert not comparison.gain.metrics["accuracy"].excludes_zero
    sentence = comparison.gain.sentence()
    assert "IoU +0.400" in sentence
    assert "accuracy +0.000 (95 % interval +0.000 to +0.000, which includes 0: no change is shown)" in sentence


def test_a_schedule_may_train_the_stages_of_the_paper_in_another_order() -> None:
    comparison = compare([stage("sft", 10), stage("gamma", 30), stage("warm-up", 20), stage("alpha", 20)])
    assert [evaluation.name for evaluation in comparison.evaluations] == ["sft", "gamma", "warm-up", "alpha"]
    assert comparison.gain is not None
    assert comparison.gain.after == "alpha"


def test_a_loss_is_said_as_a_loss() -> None:
    gain = compare([stage("sft", 30), stage("gamma", 10)]).gain
    assert gain is not None
    assert gain.metrics["iou"].value == pytest.approx(-0.4)
    assert gain.metrics["iou"].excludes_zero
    assert "IoU -0.400" in gain.sentence()


def test_without_sft_or_a_stage_after_it_there_is_no_gain() -> None:
    assert compare([]).gain is None
    assert compare([stage("sft", 10)]).gain is None
    assert compare([stage("no-ft", 0), stage("sft", 10)]).gain is None
    assert compare([stage("no-ft", 0), stage("gamma", 10)]).gain is None
    delta = compare([stage("delta", 20), stage("sft", 10)]).gain
    assert delta is not None
    assert delta.after == "delta"


def test_gains_are_paired() -> None:
    rng = np.random.default_rng(0)
    right = rng.random(80) < 0.6
    better = right | (rng.random(80) < 0.1)

    def run(name: str, is_right: np.ndarray) -> Evaluation:
        predictions = [
            Prediction(s.sample_id, s.annotation.verdict if ok else None)
            for s, ok in zip(samples(), is_right, strict=True)
        ]
        return evaluate(predictions, samples(), num_bootstrap=500, seed=0, name=name)

    before, after = run("sft", right), run("gamma", better)
    gain = compare([before, after]).gain
    assert gain is not None
    paired = gain.metrics["accuracy"].high - gain.metrics["accuracy"].low
    single = after.overall.metrics["accuracy"].high - after.overall.metrics["accuracy"].low
    assert paired < 0.7 * single


def test_the_mean_gain_of_several_detectors_holds_the_same_images_against_all() -> None:
    sft, one, other = (stage(name, 0, num_wrong=num).scores for name, num in (("sft", 40), ("a", 20), ("b", 8)))
    both = estimate_mean_gains([(sft, one), (sft, other)], num_bootstrap=200, seed=0)["accuracy"]
    alone = [estimate_gains(sft, after, num_bootstrap=200, seed=0)["accuracy"] for after in (one, other)]
    assert both.value == pytest.approx((20 / 80 + 32 / 80) / 2)
    assert both.value == pytest.approx((alone[0].value + alone[1].value) / 2)
    # Both are right on the same images, so their mean is no surer than each alone; independent draws would be.
    assert both.high - both.low > 0.9 * min(gain.high - gain.low for gain in alone)


def scores_of(truth: list[tuple[Region, ...]], said: list[tuple[Region, ...]]) -> SampleScores:
    marked = [Annotation(Verdict.GENERATED, regions) for regions in truth]
    rows = [Sample(f"s{i}", 100, 100, each, "x", "y", "z") for i, each in enumerate(marked)]
    return score_samples([Prediction(f"s{i}", Verdict.GENERATED, regions) for i, regions in enumerate(said)], rows)


def test_a_mean_is_compared_on_the_images_that_it_applies_to_on_both_sides() -> None:
    flaw, fifth, most = ((Region(Box(0, 0, width, 100), "Flaw"),) for width in (50, 10, 40))
    before = scores_of([flaw, flaw], [flaw, fifth])
    after = scores_of([flaw, ()], [most, ()])  # a crop has cut off all that was wrong with the second
    for gains in (
        estimate_gains(before, after, num_bootstrap=50, seed=0),
        estimate_mean_gains([(before, after)] * 2, num_bootstrap=50, seed=0),
    ):
        assert gains["iou"].value == pytest.approx(0.8 - 1)
        assert (gains["iou"].low, gains["iou"].high) == (pytest.approx(-0.2), pytest.approx(-0.2))
        assert gains["boxes_per_image"].value == pytest.approx(1 / 2 - 1)
    back = estimate_gains(after, before, num_bootstrap=50, seed=0)["matched_iou"]
    assert back.value == pytest.approx(0.2)


def test_the_gain_of_a_precision_is_that_of_what_each_side_flags() -> None:
    real = [Sample(f"s{i}", 100, 100, Annotation(Verdict.REAL), "x", "y", "z") for i in range(2)]
    fake = [Sample(f"s{i}", 100, 100, Annotation(Verdict.GENERATED), "x", "y", "z") for i in (2, 3)]

    def scored(flagged: set[str]) -> SampleScores:
        rows = [*real, *fake]
        said = [Verdict.GENERATED if row.sample_id in flagged else Verdict.REAL for row in rows]
        return score_samples([Prediction(row.sample_id, v) for row, v in zip(rows, said, strict=True)], rows)

    gains = estimate_gains(scored({"s0", "s1", "s2"}), scored({"s2", "s3"}), num_bootstrap=50, seed=0)
    assert gains["precision"].value == pytest.approx(1 - 1 / 3)
    assert gains["f1"].value == pytest.approx(1 - 2 / 5)


def test_images_of_one_class_have_neither_precision_nor_f1() -> None:
    evaluation = stage("sft", 10, num_wrong=9)
    parts = {"all": evaluation.overall, **evaluation.by_generator}
    assert parts.keys() >= {"bend", "real"}
    for name, part in parts.items():
        for metric in ("balanced_accuracy", "precision", "f1"):
            found = part.metrics[metric]
            assert np.isnan([found.value, found.low, found.high]).tolist() == [name != "all"] * 3, (name, metric)


def test_different_samples_are_not_compared() -> None:
    few = evaluate([Prediction("s0", None)], samples()[:1], num_bootstrap=10, seed=0, name="sft")
    with pytest.raises(DataError, match="same samples"):
        compare([few, stage("gamma", 10)])


def test_json_is_standard_json() -> None:
    only_real = [s for s in samples() if s.annotation.verdict is Verdict.REAL]
    predictions = [Prediction(s.sample_id, Verdict.REAL) for s in only_real]
    evaluation = evaluate(predictions, only_real, num_bootstrap=10, seed=0, name="sft")
    text = json.dumps(compare([evaluation]).to_json(), allow_nan=False)
    overall = json.loads(text)["evaluations"]["sft"]["overall"]
    assert overall["iou"] == {"value": None, "low": None, "high": None}
    assert overall["accuracy"] == {"value": 1.0, "low": 1.0, "high": 1.0}


def rendered(table: object) -> str:
    console = Console(width=200, record=True, file=None, quiet=False)
    with console.capture() as capture:
        console.print(table)
    return capture.get()


def test_tables_say_that_images_share_sources_where_they_do() -> None:
    truth = samples()
    crops = [replace(sample, source=f"photograph {i % 5}") for i, sample in enumerate(truth)]
    predictions = [Prediction(sample.sample_id, Verdict.REAL) for sample in truth]
    for made, num_sources in ((truth, 80), (crops, 5)):
        evaluation = evaluate(predictions, made, num_bootstrap=10, seed=0, name="sft")
        assert evaluation.to_json()["num_sources"] == num_sources
        note = "80 images of 5 sources; intervals are about images of these sources, and too narrow for others"
        for table in (generator_table(evaluation), stage_table(compare([evaluation]))):
            assert (note in rendered(table)) == (num_sources == 5)


def test_tables_say_synthetic_where_it_is_and_only_there() -> None:
    planted = compare([stage("sft", 10, is_synthetic=True), stage("gamma", 30, is_synthetic=True)])
    assert "SYNTHETIC" in rendered(stage_table(planted))
    assert "SYNTHETIC" in rendered(generator_table(planted.evaluations[0]))
    mixed = compare([stage("sft", 10), stage("gamma", 30, is_synthetic=True)])
    assert "SYNTHETIC" in rendered(stage_table(mixed))
    foreign = compare([stage("sft", 10), stage("gamma", 30)])
    text = rendered(stage_table(foreign))
    assert "SYNTHETIC" not in text
    assert "GRPO γ" in text
    assert "0.600 [0.600, 0.600]" in text
