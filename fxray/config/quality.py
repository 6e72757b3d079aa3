"""What quality control asks of annotations, by default as in the paper (3.2), or as a file of its own says."""

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated

from pydantic import Field

from fxray.config.document import Document, Entry, merge, read_document
from fxray.config.section import Fraction, Section
from fxray.config.validate import validate


class QualityConfig(Section):
    """Quality control of annotations."""

    fraction: Annotated[float, Field(gt=0, le=1)] = 0.05
    """Part of the generated images to draw."""
    min_iou: Fraction = 0.2
    """IoU from which on a box agrees with the reference."""
    min_box_share: Fraction = 0.5
    """Share of boxes that must agree."""
    min_tag_accuracy: Fraction = 1 / 3
    """Mean accuracy of an image's tags, |both| / |either|, to reach."""


def load_quality(path: Path | None, options: Mapping[str, float | None]) -> QualityConfig:
    """The defaults, changed by a YAML file, then by options.

    Args:
        path: A mapping of the fields above; may be None.
        options: Field by field; None where it is not given.

    Raises:
        ConfigError: The file cannot be read, or a field is unknown or out of bounds.
    """
    document: Document = {} if path is None else read_document(path)
    for name, value in options.items():
        if value is not None:
            document = merge(document, {(name,): Entry(value, f"--{name.replace('_', '-')}")})
    return validate(QualityConfig, document, where=str(path or "options"))
