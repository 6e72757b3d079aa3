"""What goes over the wire, as the OpenAPI page shows it. Boxes are in pixels of the upright original image."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from enum import StrEnum
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from fxray.data.changes import CHANGES, Change, Changed
from fxray.detect.credentials import CredentialState
from fxray.detect.provenance import Provenance, words_of
from fxray.detect.stability import in_words, iou_in_view
from fxray.evaluate.calibration import Assessment
from fxray.schema import Box, Region, Tag, Verdict

Fraction = Annotated[float, Field(ge=0, le=1)]
BATCH_ID = r"^[0-9a-f]{32}$"


class _Wire(BaseModel):
    model_config = ConfigDict(extra="forbid", use_attribute_docstrings=True)


class ImageIn(_Wire):
    data: Annotated[str, Field(json_schema_extra={"contentEncoding": "base64"})]
    """The image file in base64."""
    name: str = ""
    """Comes back with the answer; it is never used as a path."""


class DetectIn(_Wire):
    images: Annotated[list[ImageIn], Field(min_length=1, fail_fast=True)]


class RegionOut(_Wire):
    box: tuple[float, float, float, float]
    """x_min, y_min, x_max, y_max in pixels."""
    caption: str


class ModelOut(_Wire):
    name: str
    """What a request asks for with `model`."""
    id: str
    """What answers: base model and adapter."""
    base: str
    adapter: str | None
    """Folder name of the adapter; null for the bare base model."""
    adapter_sha256: str | None
    policy_version: int
    """Grows with every swap of the adapter; -1 for the bare base model."""
    view: str
    """What its answers speak of."""


class CalibrationOut(_Wire):
    method: str
    num_images: int
    """That it was fitted on."""
    num_sources: int
    """That these are of."""
    data: str
    """Name of the dataset that these are of."""
    data_sha256: str
    is_synthetic: bool
    """True where they were photographs with planted defects."""
    max_fpr: Fraction
    """Share of their real images that may count as generated: what the threshold was chosen for."""
    threshold: float
    """Probability from which an image counts as generated."""
    max_error: Fraction
    """Share of wrong verdicts on either side of the unsure band: what the band was chosen for."""
    unsure: tuple[float, float]
    """Probability from which an image is unsure, and from which it is no longer."""


class MarkOut(_Wire):
    by: str
    """Who leaves such a trace."""
    says: Literal["generated", "edited", "camera"]
    place: str
    """Where in the file it stands: "xmp:CreatorTool", "png:parameters", "exif:Software", "c2pa"."""
    text: str
    """What stands there, without paths and addresses; empty where it is not worth showing."""


class ProvenanceOut(_Wire):
    sentences: list[str]
    """The same in words, most telling first."""
    c2pa: CredentialState
    """Of the signed manifest: intact, not, absent, or there and not checked."""
    c2pa_signer: str
    """Who signed it; nobody vouches for them."""
    marks: list[MarkOut]
    """Traces of generators and cameras. That there is none proves nothing."""
    withheld: list[str]
    """Kinds of what is in the file about people; it is not told."""
    has_more_frames: bool = False
    """Whether there are frames or pages beyond the first, which alone is examined."""


class DetectionOut(_Wire):
    name: str
    sha256: str
    """Of the image file."""
    width_px: int
    height_px: int
    verdict: Verdict | None
    """Null where the model's answer holds none."""
    probability: Fraction | None
    """That the image is generated."""
    probability_kind: Literal["calibrated", "uncalibrated"]
    """Uncalibrated: as the model spreads it over the two verdicts, which promises no share of right ones."""
    raw_probability: Fraction | None
    """As the model spreads it, whether calibrated or not."""
    assessment: Assessment | None
    """What follows from the probability; the verdict where that is uncalibrated."""
    calibration: CalibrationOut | None
    """What the probability rests on."""
    regions: list[RegionOut]
    tags: list[Tag]
    answer: str
    """The model's own words."""
    faults: list[str]
    """What is wrong with the form of the answer."""
    is_strict: bool
    notes: list[str] = []
    """What speaks against giving weight to the answer, whatever it is: a size that hardly shows a flaw."""
    seconds: Annotated[float, Field(ge=0)]
    """From when an engine took the image until it was answered."""
    model: ModelOut
    provenance: ProvenanceOut | None = None
    """What the file says of itself, apart from what its pixels show."""


class ProblemOut(_Wire):
    title: str
    status: int
    detail: str
    where: str = ""
    remedy: str = ""


class FailureOut(_Wire):
    name: str
    problem: ProblemOut


class TrialOut(_Wire):
    change: str
    """What was done to the image: "jpeg-70"."""
    title: str
    """The same in words."""
    assessment: Assessment | None
    """Of the changed image."""
    is_same: bool
    """Whether that is what it is for the image as it is."""
    probability: Fraction | None
    """That the changed image is generated; of the same kind as the original's."""
    iou: Fraction
    """Of its regions and the original's, both as far as the changed image shows them; 1 where neither has any."""
    regions: list[RegionOut]
    """Brought back into pixels of the upright original; what is out of view is left out."""


class StabilityOut(_Wire):
    original: DetectionOut
    """The image as it is."""
    sentence: str
    """What came out."""
    num_changes: int
    """That were tried."""
    num_flips: int
    """Changes under which the assessment becomes another."""
    not_tried: list[str]
    """Titles of the changes that the image is too long, or too long for its breadth, to be examined under."""
    trials: list[TrialOut]
    """One for each change that was tried."""


class DetectOut(_Wire):
    detections: list[DetectionOut | FailureOut]
    """One for each image, in the order in which they were sent."""


class ModelsOut(_Wire):
    models: list[ModelOut]


class BatchState(StrEnum):
    WAITING = "waiting"
    RUNNING = "running"
    DONE = "done"


class BatchOut(_Wire):
    id: Annotated[str, Field(pattern=BATCH_ID)]
    state: BatchState
    num_images: int
    num_done: int
    num_failed: int
    """Of those done."""
    created: str
    """UTC, ISO 8601."""
    results: str
    """Path of the results as JSON lines, in the order of the images; those that are there can be read at any time."""
    asked_of: str | None
    """Id of the model that it was handed in for; null where no engine could say it then."""
    answered_by: list[str]
    """Ids of the models that answered: another one after a swap of the adapter, or a start with another one."""
    held_up: str | None = None
    """Why it does not go on now: a full disk, a model that this start does not offer; null where it does."""


def wire_provenance(found: Provenance) -> ProvenanceOut:
    """What a file says of itself, as it is sent."""
    return ProvenanceOut(
        sentences=words_of(found.as_json()),
        c2pa=found.credentials.state,
        c2pa_signer=found.credentials.signer,
        marks=[MarkOut.model_validate(asdict(mark)) for mark in found.marks],
        withheld=list(found.withheld),
        has_more_frames=found.has_more_frames,
    )


def wire_region(region: Region) -> RegionOut:
    """A region, as it is sent."""
    x_min, y_min, x_max, y_max = (round(value, 2) for value in region.box)
    return RegionOut(box=(x_min, y_min, x_max, y_max), caption=region.caption)


def wire_trial(change: Change, view: Changed, found: DetectionOut, original: Mapping[str, Any]) -> TrialOut:
    """The answer to a changed image, held against the original's.

    Args:
        change: What was done to the image.
        view: What became of it.
        found: What was found in that, in its pixels.
        original: The `DetectionOut` of the image as it is.
    """
    before = [Box(*region["box"]) for region in original["regions"]]
    after = [Region(Box(*region.box), region.caption) for region in found.regions]
    moved = [(view.to_original(region.box), region.caption) for region in after]
    return TrialOut(
        change=change.name,
        title=change.title,
        assessment=found.assessment,
        is_same=found.assessment == original["assessment"],
        probability=found.probability,
        iou=iou_in_view(before, after, view),
        regions=[wire_region(Region(box, caption)) for box, caption in moved if box],
    )


def wire_stability(original: dict[str, Any], outcomes: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """A `StabilityOut`.

    Args:
        original: The `DetectionOut` of the image as it is.
        outcomes: Of each of `CHANGES`, a `TrialOut`, or a `FailureOut` where the image cannot be changed so.
    """
    trials = [outcome for outcome in outcomes if "problem" not in outcome]
    not_tried = [change.title for change, each in zip(CHANGES, outcomes, strict=True) if "problem" in each]
    answers = [(trial["title"], trial["assessment"]) for trial in trials]
    return {
        "original": original,
        "sentence": in_words(original["assessment"], answers, not_tried),
        "num_changes": len(trials),
        "num_flips": sum(not trial["is_same"] for trial in trials),
        "not_tried": not_tried,
        "trials": trials,
    }


def problem_responses(*statuses: int) -> dict[int | str, dict[str, Any]]:
    """The errors of a route, for the OpenAPI description."""
    return {
        status: {
            "content": {"application/problem+json": {"schema": ProblemOut.model_json_schema()}},
            "description": "what is wrong, where, and what to do",
        }
        for status in statuses
    }
