"""How often an image with such a score was generated: the small file beside an adapter that says so.

    calibrated = sigmoid(slope * logit(raw) + intercept)            Platt (1999), on the model's own log-odds

It is fitted on the validation split, for one adapter on one base model, and holds for images like those and for their
share of generated ones.
"""

import hashlib
import math
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from fxray.checkpoints import CALIBRATION_FILE
from fxray.counts import counted
from fxray.errors import CheckpointError
from fxray.evaluate.predictions import Prediction
from fxray.files import write_atomically
from fxray.schema import Verdict

FORMAT: Literal[1] = 1

Assessment = Literal["generated", "real", "unsure"]
Share = Annotated[float, Field(ge=0, le=1)]
_MAX_LOGIT = 30.0
"""Log-odds beyond it are taken as it: a probability of 1 has none."""
_REMEDY = "fit it anew with `fxray calibrate`, or delete the file"


class _Frozen(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, use_attribute_docstrings=True, allow_inf_nan=False)


class FittedFor(_Frozen):
    """What else must be the same where a calibration is used."""

    adapter_sha256: str
    """Of the adapter's weights; empty for the bare base model."""
    base: str
    base_fingerprint: str = Field(default="", exclude_if=lambda value: not value)
    """Of the base model's weights; empty where it is not known, as in files of earlier versions."""
    view: str
    min_pixels: int
    max_pixels: int


class Calibration(_Frozen):
    """From the model's own probability of "generated" to one that was held against the truth."""

    format: Literal[1] = FORMAT
    method: Literal["platt"] = "platt"
    slope: Annotated[float, Field(ge=0)]
    intercept: float
    max_fpr: Share
    """Largest share of real images that may count as generated: what the threshold was chosen for."""
    threshold: Annotated[float, Field(ge=0)]
    """Calibrated probability from which an image counts as generated; above 1 where none may."""
    max_error: Share
    """Largest share of wrong ones on either side of the unsure band."""
    unsure_low: Annotated[float, Field(ge=0)]
    """Calibrated probability from which an image is unsure; below, it counts as real."""
    unsure_high: Annotated[float, Field(ge=0)]
    """Calibrated probability from which an image is no longer unsure and counts as generated."""
    num_real: Annotated[int, Field(ge=1)]
    num_generated: Annotated[int, Field(ge=1)]
    num_sources: Annotated[int, Field(ge=1)]
    """Sources that these images are of; few say little of images from elsewhere, however many images they are."""
    data: str
    """Name of the dataset that it was fitted on."""
    data_sha256: str
    is_synthetic: bool
    """True where these were photographs with planted defects."""
    fitted_for: FittedFor
    fxray: str
    """Version that fitted it."""

    @property
    def num_images(self) -> int:
        """Images that it was fitted on."""
        return self.num_real + self.num_generated

    @property
    def sha256(self) -> str:
        """Of all that it says, in hex."""
        return hashlib.sha256(self.model_dump_json().encode()).hexdigest()

    def probability(self, raw: float) -> float:
        """The calibrated probability of "generated".

        Args:
            raw: The model's own.
        """
        return sigmoid(self.slope * logit(raw) + self.intercept)

    def assess(self, probability: float) -> Assessment:
        """What follows from a calibrated probability."""
        if probability >= self.unsure_high:
            return "generated"
        return "real" if probability < self.unsure_low else "unsure"

    @property
    def never_said(self) -> list[str]:
        """The verdicts that it gives no image, each with the reason, in words."""
        error, fpr = f"{100 * self.max_error:g} %", f"{100 * self.max_fpr:g} %"
        said = list[str]()
        if self.threshold <= 0:
            said.append(f"no image is called real: {fpr} of the real ones may count as generated")
        elif self.unsure_low <= 0:
            said.append(f"no image is called real: of those with the lowest probabilities over {error} were generated")
        if self.threshold > 1:
            said.append(f"no image is called generated: over {fpr} of the real ones share the highest probability")
        elif self.unsure_high > 1:
            said.append(f"no image is called generated: of those with the highest probabilities over {error} were real")
        return said

    def sentence(self) -> str:
        """What the probability rests on, in words."""
        sources = counted(self.num_sources, "source")
        kind = ", photographs with planted defects" if self.is_synthetic else ""
        return f"calibrated on {self.num_images} images of {self.data} ({sources}{kind})"

    def summary(self) -> dict[str, Any]:
        """What a reader of an answer needs of it, as plain values."""
        return {
            "method": self.method,
            "num_images": self.num_images,
            "num_sources": self.num_sources,
            "data": self.data,
            "data_sha256": self.data_sha256,
            "is_synthetic": self.is_synthetic,
            "max_fpr": self.max_fpr,
            "threshold": self.threshold,
            "max_error": self.max_error,
            "unsure": [self.unsure_low, self.unsure_high],
        }


def judge(said: Prediction, calibration: Calibration | None) -> tuple[float | None, Assessment | None]:
    """Probability and assessment that an answer comes to.

    Args:
        said: The answer; its probability is the model's own.
        calibration: None leaves the probability as it is, and the assessment is the verdict.
    """
    if said.verdict is None:
        return None, None
    if said.probability is None or calibration is None:
        return said.probability, "generated" if said.verdict is Verdict.GENERATED else "real"
    probability = calibration.probability(said.probability)
    return probability, calibration.assess(probability)


def logit(probability: float) -> float:
    """Log-odds, between -30 and 30."""
    if probability <= 0 or probability >= 1:
        return math.copysign(_MAX_LOGIT, probability - 0.5)
    odds = math.log(probability) - math.log1p(-probability)
    return min(max(odds, -_MAX_LOGIT), _MAX_LOGIT)


def sigmoid(odds: float) -> float:
    """Probability of log-odds."""
    return 1 / (1 + math.exp(-odds)) if odds >= 0 else math.exp(odds) / (1 + math.exp(odds))


def write_calibration(calibration: Calibration, adapter: Path) -> Path:
    """Puts it beside an adapter's weights, whole or not at all.

    Returns:
        The file.

    Raises:
        ResourceError: The disk is full or not writable.
    """
    write_atomically(adapter / CALIBRATION_FILE, calibration.model_dump_json(indent=2) + "\n")
    return adapter / CALIBRATION_FILE


def read_calibration(adapter: Path, used_for: FittedFor) -> Calibration | None:
    """The calibration beside an adapter.

    Args:
        adapter: Folder of the adapter.
        used_for: What it is to be used for.

    Returns:
        None where there is none.

    Raises:
        CheckpointError: It cannot be read, or was fitted for something else.
    """
    found = open_calibration(adapter)
    if found is None:
        return None
    wanted, fitted = used_for.model_dump(), found.fitted_for.model_dump()
    if fitted.get("base_fingerprint", "") == wanted.get("base_fingerprint"):
        del fitted["base"]  # only its folder has another name
    for name, value in fitted.items():
        if value != wanted.get(name, value):  # a fingerprint that either does not know is in one of them alone
            raise CheckpointError(
                f"was fitted for {name} {value!r}, and is to be used with {wanted[name]!r}",
                where=str(adapter / CALIBRATION_FILE),
                remedy=_REMEDY,
            )
    return found


def open_calibration(adapter: Path) -> Calibration | None:
    """The calibration beside an adapter, whatever it was fitted for; None where there is none.

    Raises:
        CheckpointError: It cannot be read.
    """
    file = adapter / CALIBRATION_FILE
    if not file.is_file():
        return None
    try:
        return Calibration.model_validate_json(file.read_bytes())
    except (OSError, ValidationError) as error:
        problem = error.errors()[0] if isinstance(error, ValidationError) else {"loc": (), "msg": str(error)}
        field = ".".join(map(str, problem["loc"]))
        message = f"field {field}: {problem['msg']}" if field else problem["msg"]
        raise CheckpointError(f"is no calibration: {message}", where=str(file), remedy=_REMEDY) from error
