"""`fxray data quality`: whether annotations hold against a reference set."""

import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from fxray.cli.arguments import JsonOption
from fxray.cli.tables import number, print_table
from fxray.counts import counted

if TYPE_CHECKING:
    from fxray.data.quality import ImageQuality, Quality, Thresholds
    from fxray.schema import Sample

NUM_WORST = 10
"""Images that fall short, listed below the table."""


def quality(
    annotations: Annotated[Path, typer.Argument(help="Dataset file with the annotations.")],
    reference: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="Dataset file with reference annotations; without it, list what to mark."),
    ] = None,
    thresholds: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="YAML file with fraction, min_iou, ...: the options below, written down."),
    ] = None,
    fraction: Annotated[
        float | None, typer.Option(help="Part of the generated images to draw; by default 0.05.")
    ] = None,
    seed: Annotated[int, typer.Option(min=0, help="Of the draw.")] = 0,
    covered: Annotated[
        bool, typer.Option("--covered", help="Draw only among images that the reference holds.")
    ] = False,
    min_iou: Annotated[float | None, typer.Option(help="IoU from which on a box agrees; by default 0.2.")] = None,
    min_box_share: Annotated[float | None, typer.Option(help="Share of boxes that must agree; by default 0.5.")] = None,
    min_tag_accuracy: Annotated[
        float | None,
        typer.Option(help="Mean accuracy of tags (|both| / |either|) to reach; by default 1/3."),
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Compare a drawn part of the annotations with a reference set, annotator by annotator.

    Draws 5 % of the generated images, by annotator and generator. Boxes are matched one to one; one without partner
    has IoU 0. Exit code 0 when every annotator passes, 1 when one does not.

    \b
    Examples:
      fxray data quality annotated.parquet > ids-to-mark.txt
      fxray data quality annotated.parquet --reference reference.parquet
      fxray data quality annotated.parquet --reference reference.parquet --covered --min-iou 0.3 --json
      fxray data quality annotated.parquet --reference reference.parquet --thresholds our-rules.yaml
    """
    from fxray.config.quality import load_quality
    from fxray.data.dataset import Dataset
    from fxray.data.quality import Thresholds, compare, draw_for_control, judge

    if covered and reference is None:
        raise typer.BadParameter("--covered needs --reference")
    options = {"min_iou": min_iou, "min_box_share": min_box_share, "min_tag_accuracy": min_tag_accuracy}
    rules = load_quality(thresholds, options | {"fraction": fraction})
    samples = Dataset.open(annotations).samples
    if reference is None:
        rows = draw_for_control(samples, fraction=rules.fraction, seed=seed)
        typer.echo("\n".join(samples[row].sample_id for row in rows))
        return
    references = {sample.sample_id: sample for sample in Dataset.open(reference).samples}
    if covered:
        samples = _covered(samples, references, annotations, reference)
    rows = draw_for_control(samples, fraction=rules.fraction, seed=seed)
    images = compare([samples[row] for row in rows], references)
    asked = Thresholds(rules.min_iou, rules.min_box_share, rules.min_tag_accuracy)
    overall, annotators = judge(images, asked)
    is_passed = overall.is_passed and all(annotator.is_passed for annotator in annotators)
    if as_json:
        typer.echo(json.dumps(_quality_json(overall, annotators, images, asked, is_passed=is_passed), indent=2))
    else:
        _show_quality(overall, annotators, images, asked, is_passed=is_passed)
    raise typer.Exit(0 if is_passed else 1)


def _covered(
    samples: "Sequence[Sample]", references: "Mapping[str, Sample]", annotations: Path, reference: Path
) -> "list[Sample]":
    from fxray.errors import DataError

    found = [sample for sample in samples if sample.sample_id in references]
    if not found:
        raise DataError(
            f"shares no sample_id with {annotations}", where=str(reference), remedy="keep the ids of the annotations"
        )
    return found


def _quality_json(
    overall: "Quality",
    annotators: "Sequence[Quality]",
    images: "Sequence[ImageQuality]",
    thresholds: "Thresholds",
    *,
    is_passed: bool,
) -> dict[str, object]:
    return {
        "is_passed": is_passed,
        "thresholds": {
            "min_iou": thresholds.min_iou,
            "min_box_share": thresholds.min_box_share,
            "min_tag_accuracy": thresholds.min_tag_accuracy,
        },
        "overall": overall.to_json(),
        "annotators": [annotator.to_json() for annotator in annotators],
        "images": [
            {
                "sample_id": image.sample_id,
                "annotator": image.annotator,
                "ious": list(image.ious),
                "tag_accuracy": image.tag_accuracy,
            }
            for image in images
        ],
    }


def _show_quality(
    overall: "Quality",
    annotators: "Sequence[Quality]",
    images: "Sequence[ImageQuality]",
    thresholds: "Thresholds",
    *,
    is_passed: bool,
) -> None:
    from rich.table import Table

    table = Table(
        title=f"Quality of {counted(overall.num_images, 'drawn image')}",
        caption=f"a box agrees from IoU {thresholds.min_iou:g} on; to reach: {thresholds.min_box_share:.0%} of the "
        f"boxes, tag accuracy {thresholds.min_tag_accuracy:.3f}",
        title_justify="left",
        caption_justify="left",
    )
    table.add_column("annotator")
    for label in ("images", "boxes", "reference", "mean IoU", "agreeing", "tag accuracy"):
        table.add_column(label, justify="right")
    table.add_column("result")
    for row in (*annotators, overall):
        table.add_row(
            row.annotator,
            str(row.num_images),
            str(row.num_boxes),
            str(row.num_reference_boxes),
            number(row.mean_iou),
            "–" if math.isnan(row.box_share) else f"{row.box_share:.1%}",
            number(row.tag_accuracy),
            "passed" if row.is_passed else f"failed: {', '.join(row.failures)}",
        )
    print_table(table)
    worst = sorted((image for image in images if image.ious), key=lambda image: sum(image.ious) / len(image.ious))
    listed = [image for image in worst if sum(image.ious) / len(image.ious) < thresholds.min_iou][:NUM_WORST]
    for image in listed:
        mean = sum(image.ious) / len(image.ious)
        typer.echo(f"  {image.sample_id} ({image.annotator}): mean IoU {mean:.3f}, tags {image.tag_accuracy:.2f}")
    typer.echo("passed" if is_passed else "failed")
