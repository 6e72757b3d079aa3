"""Images of the held-out set with truth and prediction: drawn at random within each kind of outcome, not by hand."""

import base64
import io
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from PIL import Image

from fxray.draw import plain_text
from fxray.evaluate.predictions import Prediction
from fxray.evaluate.scores import region_ious
from fxray.geometry import clip
from fxray.schema import Region, Sample, Verdict

LOCATED_IOU = 0.5
"""From here on a flaw counts as located."""

_VIEW_WIDTH, _MAX_VIEW_HEIGHT = 320, 400
_MAX_OVERLAYS = 40
_MAX_IMAGE_PX = 640
_MAX_ANSWER_CHARACTERS = 4000


@dataclass(frozen=True, slots=True)
class Overlay:
    """A region over the picture, in units of the view.

    Attributes:
        label: "1", "2", ... within its side.
        x: Left edge.
        y: Upper edge.
        width: Width.
        height: Height.
        caption: One line.
    """

    label: str
    x: float
    y: float
    width: float
    height: float
    caption: str


@dataclass(frozen=True, slots=True)
class Card:
    """One image of the gallery.

    Attributes:
        sample: The truth.
        prediction: What was said of it; the answer cut to 4,000 characters.
        iou: Of the unions of boxes; None for an image without marked regions, or a detector that was taught no boxes.
        image_uri: JPEG as a data URI; empty where the image cannot be read.
        view_width: Width of the view.
        view_height: Height of the view.
        truth: True regions.
        predicted: Predicted regions.
        answer: Raw answer, cut to 4,000 characters.
    """

    sample: Sample
    prediction: Prediction
    iou: float | None
    image_uri: str
    view_width: int
    view_height: int
    truth: tuple[Overlay, ...]
    predicted: tuple[Overlay, ...]
    answer: str


@dataclass(frozen=True, slots=True)
class Shelf:
    """The cards of one kind of outcome.

    Attributes:
        title: The kind.
        num_samples: How many samples of the held-out set are of this kind.
        cards: Some of them.
    """

    title: str
    num_samples: int
    cards: tuple[Card, ...]


_SHELVES = {
    "Found and located": 1 / 3,
    "Called generated, flaw located poorly or not": 1 / 4,
    "Found, no region marked": 1 / 4,
    "Missed: generated, called real or not read": 1 / 6,
    "False alarm: real, called generated or not read": 1 / 6,
    "Cleared: real, called real": 1 / 12,
}
"""Kinds of outcome and their part of the gallery, which is larger where only some of the images have marked regions."""


def fill_shelves(
    samples: Sequence[Sample],
    predictions: Mapping[str, Prediction],
    load_image: Callable[[int], Image.Image | None],
    *,
    num_cards: int,
    seed: int,
    has_boxes: bool = True,
) -> list[Shelf]:
    """Draws the cards of a gallery.

    Args:
        samples: Held-out samples that were answered.
        predictions: By sample id, one for each sample.
        load_image: Upright image of the i-th of `samples`; None where it cannot be read, its card has no picture.
        num_cards: About how many cards in all.
        seed: Of the draw.
        has_boxes: False for a detector that was taught none: a flaw need not be located, and no card has an IoU.
    """
    members: dict[str, list[int]] = {title: [] for title in _SHELVES}
    for i, sample in enumerate(samples):
        members[_kind_of(sample, predictions[sample.sample_id], has_boxes=has_boxes)].append(i)
    shelves = []
    for k, (title, part) in enumerate(_SHELVES.items()):
        rows = members[title]
        num_drawn = min(len(rows), max(1, round(part * num_cards)))
        drawn = np.random.default_rng((seed, k)).permutation(len(rows))[:num_drawn]
        cards = tuple(
            _card(samples[rows[j]], predictions[samples[rows[j]].sample_id], load_image(rows[j]), has_boxes=has_boxes)
            for j in sorted(drawn)
        )
        shelves.append(Shelf(title if has_boxes else title.removesuffix(" and located"), len(rows), cards))
    return [shelf for shelf in shelves if shelf.cards]


def _kind_of(sample: Sample, prediction: Prediction, *, has_boxes: bool) -> str:
    located, poorly, unmarked, missed, false_alarm, cleared = _SHELVES
    if sample.annotation.verdict is Verdict.REAL:
        return cleared if prediction.verdict is Verdict.REAL else false_alarm
    if prediction.verdict is not Verdict.GENERATED:
        return missed
    if has_boxes and not sample.annotation.regions:
        return unmarked
    return located if not has_boxes or region_ious(prediction.regions, sample)[0] >= LOCATED_IOU else poorly


def _card(sample: Sample, prediction: Prediction, image: Image.Image | None, *, has_boxes: bool) -> Card:
    has_iou = has_boxes and sample.annotation.verdict is Verdict.GENERATED and bool(sample.annotation.regions)
    answer = prediction.answer or ""
    return Card(
        sample=sample,
        prediction=prediction,
        iou=region_ious(prediction.regions, sample)[0] if has_iou else None,
        image_uri=_data_uri(image) if image else "",
        view_width=max(1, round(sample.width_px * _scale(sample))),
        view_height=max(1, round(sample.height_px * _scale(sample))),
        truth=_overlays(sample.annotation.regions, sample),
        predicted=_overlays(prediction.regions, sample),
        answer=answer if len(answer) <= _MAX_ANSWER_CHARACTERS else answer[:_MAX_ANSWER_CHARACTERS] + " […]",
    )


def _overlays(regions: Sequence[Region], sample: Sample) -> tuple[Overlay, ...]:
    scale = _scale(sample)
    clipped = [(region, clip(region.box, sample.width_px, sample.height_px)) for region in regions]
    shown = [(region, box) for region, box in clipped if box is not None]
    return tuple(
        Overlay(
            label=str(number),
            x=round(scale * box.x_min, 1),
            y=round(scale * box.y_min, 1),
            width=round(scale * (box.x_max - box.x_min), 1),
            height=round(scale * (box.y_max - box.y_min), 1),
            caption=plain_text(region.caption) or "(no caption)",
        )
        for number, (region, box) in enumerate(shown[:_MAX_OVERLAYS], start=1)
    )


def _scale(sample: Sample) -> float:
    return min(_VIEW_WIDTH / sample.width_px, _MAX_VIEW_HEIGHT / sample.height_px)


def _data_uri(image: Image.Image) -> str:
    image = image.convert("RGB")
    image.thumbnail((_MAX_IMAGE_PX, _MAX_IMAGE_PX))
    encoded = io.BytesIO()
    image.save(encoded, "JPEG", quality=92, subsampling=0)
    return "data:image/jpeg;base64," + base64.b64encode(encoded.getvalue()).decode("ascii")
