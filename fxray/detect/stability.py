"""How stable an answer is: the same image, saved again, resized, cropped, off a screen."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from fxray.counts import counted
from fxray.data.changes import CHANGES, Change, Changed
from fxray.detect.detection import Detection, Picture, percent
from fxray.detect.detector import Detector
from fxray.errors import DataError
from fxray.evaluate.calibration import Assessment
from fxray.geometry import union_iou
from fxray.schema import Box, Region

_NO_ANSWER = "no verdict"


@dataclass(frozen=True, slots=True)
class Trial:
    """An answer to a changed image.

    Attributes:
        name: Of the change, for files.
        title: Of the change, for people.
        detection: The answer; its boxes are in pixels of the changed image.
        iou: Of its boxes, brought back into the original image, and the original's, both as far as the changed image
            shows them; 1 where neither has any.
        is_same: Whether the answer is what it was for the original image.
    """

    name: str
    title: str
    detection: Detection
    iou: float
    is_same: bool


@dataclass(frozen=True, slots=True)
class Stability:
    """Answers to one image and to what became of it.

    Attributes:
        original: The answer to the image as it is.
        trials: To the changed ones, in the order of the changes.
        not_tried: Titles of the changes that the image is too long, or too long for its breadth, to be examined under.
    """

    original: Detection
    trials: tuple[Trial, ...]
    not_tried: tuple[str, ...] = ()

    @property
    def flips(self) -> tuple[Trial, ...]:
        """The changes under which the answer becomes another."""
        return tuple(trial for trial in self.trials if not trial.is_same)

    def as_text(self) -> str:
        """A table in words."""
        width = max(len(trial.title) for trial in self.trials)
        rows = [f"  {'under this change':{width}}  answer      probability  boxes  IoU with the original's"]
        rows.append(_row("as it is", width, self.original, ""))
        rows += [_row(trial.title, width, trial.detection, f"{trial.iou:.2f}") for trial in self.trials]
        return "\n".join([*rows, f"  {self.sentence()}"])

    def sentence(self) -> str:
        """What came out."""
        answers = [(trial.title, trial.detection.assessment) for trial in self.trials]
        return in_words(self.original.assessment, answers, self.not_tried)

    def as_record(self) -> dict[str, Any]:
        """Everything as plain values, ready for `json.dumps`; boxes of a trial are in its changed image's pixels."""
        return {
            "sentence": self.sentence(),
            "num_changes": len(self.trials),
            "num_flips": len(self.flips),
            "not_tried": list(self.not_tried),
            "trials": [
                {"change": t.name, "title": t.title, "is_same": t.is_same, "iou": t.iou, **t.detection.as_record()}
                for t in self.trials
            ],
        }


def try_changes(detector: Detector, picture: Picture, original: Detection) -> Stability:
    """Asks about an image under every change of `CHANGES`, all in one batch.

    Args:
        detector: The model.
        picture: The image.
        original: The answer to it as it is.
    """
    tried, not_tried = list[tuple[Change, Changed, Picture]](), list[str]()
    for change in CHANGES:
        try:
            view = change.apply(picture.image)
            changed = Picture(f"{picture.name} ({change.title})", view.image)
            detector.frame_of(changed)
        except DataError:
            not_tried.append(change.title)
        else:
            tried.append((change, view, changed))
    answers = detector.examine([changed for _, _, changed in tried])
    return Stability(
        original,
        tuple(
            Trial(
                change.name,
                change.title,
                answer,
                iou=iou_in_view([region.box for region in original.regions], answer.regions, view),
                is_same=answer.assessment == original.assessment,
            )
            for (change, view, _), answer in zip(tried, answers, strict=True)
        ),
        tuple(not_tried),
    )


def in_words(
    original: Assessment | None, trials: Sequence[tuple[str, Assessment | None]], not_tried: Sequence[str]
) -> str:
    """What came out, in a sentence or three.

    Args:
        original: What the image as it is was called; None without a verdict.
        trials: The title of each change that was tried, and what the image was called under it.
        not_tried: Titles of the other changes.
    """
    left_out = f" Not tried, as the image is too long: {'; '.join(not_tried)}." if not_tried else ""
    tried = counted(len(trials), "change")
    flips = [(title, answer) for title, answer in trials if answer != original]
    if not flips:
        stays = original or _NO_ANSWER
        told = f'The answer stays "{stays}" under all of {tried}.'
        return f"{told} A stable answer can still be wrong.{left_out}"
    becomes = "; ".join(f'"{answer or _NO_ANSWER}" when {title}' for title, answer in flips)
    holds = f'The answer "{original or _NO_ANSWER}" does not hold under {len(flips)} of {tried}'
    return f"{holds}: {becomes}.{left_out}"


def iou_in_view(before: Sequence[Box], found: Sequence[Region], view: Changed) -> float:
    """How far the regions of a changed image lie where those of the original lay.

    Args:
        before: Boxes in the original, in its pixels.
        found: Regions in the changed image, in its pixels.
        view: The changed image.

    Returns:
        IoU of the two unions, both as far as the changed image shows them, in [0, 1]; 1 where both are empty.
    """
    return union_iou(
        [box for region in found if (box := view.to_original(region.box))],
        [seen for box in before if (seen := view.in_view(box))],
    )


def _row(title: str, width: int, found: Detection, iou: str) -> str:
    number = "–" if found.probability is None else percent(found.probability)
    answer = found.assessment or _NO_ANSWER
    return f"  {title:{width}}  {answer:10}  {number:>11}  {len(found.regions):>5}  {iou:>4}".rstrip()
