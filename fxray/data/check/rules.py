"""The rules of `fxray data check`: what each is called, how bad a breach is, and what to do about it."""

from dataclasses import dataclass
from enum import StrEnum


class Severity(StrEnum):
    """How bad a finding is, worst first."""

    ERROR = "error"
    """Training or evaluation on the data stops, or its numbers are wrong."""
    WARNING = "warning"
    """Likely a fault of the data; training goes on."""
    NOTE = "note"
    """A fact to know."""


@dataclass(frozen=True, slots=True)
class Rule:
    """One rule.

    Attributes:
        name: As it stands in the findings.
        severity: Of a breach.
        title: What is found, in a few words.
        remedy: What to do.
    """

    name: str
    severity: Severity
    title: str
    remedy: str


_E, _W, _N = Severity.ERROR, Severity.WARNING, Severity.NOTE
_REWRITE = "write the file with fxray.data.dataset.write_dataset, or mend the row"
_DECIDE = "look at the images; keep one of them, or give them one `source` so that a split keeps them together"

_ALL = (
    # the file
    Rule("file-unreadable", _E, "no dataset file, or cut short", "write the file again"),
    Rule("schema", _E, "columns or version of another format", "import the file, or write it with write_dataset"),
    Rule(
        "row-group",
        _W,
        "row group from which much is read for one image",
        "write the file again with write_dataset, or in row groups of 16 rows (pyarrow: row_group_size=16)",
    ),
    # a row
    Rule("value", _E, "field null or of a wrong kind", _REWRITE),
    Rule("repeated-id", _E, "sample_id used twice", "import one of the files again with --id-prefix"),
    Rule("label", _E, "label neither real nor generated", _REWRITE),
    Rule("tag", _E, "tag unknown or repeated", _REWRITE),
    Rule("regions-on-real", _E, "regions where the label is real", "drop the regions, or mend the label"),
    Rule("generated-without-regions", _W, "generated image without regions", "annotate it, or train on labels only"),
    Rule("box-outside", _E, "box outside the image", "give pixels of the upright image; were they scaled or turned?"),
    Rule("box-degenerate", _E, "box without an area", "mend the box, or drop the region"),
    Rule("box-covers-image", _W, "box over the whole image", "a flaw has a place: draw a smaller box"),
    Rule("box-in-one-pixel", _W, "box inside the first pixel", "if boxes are parts of sides, import with --boxes-unit"),
    Rule("box-tiny", _N, "box smaller than 4 pixels a side", "look whether the box slipped"),
    Rule("caption-empty", _E, "caption blank", "write one plain line that starts with a noun"),
    Rule("caption-markup", _E, "line break or marker in a caption", "write one plain line that starts with a noun"),
    Rule("caption-without-noun", _W, "caption that starts with no noun", "name the thing first: `hand twisted`"),
    Rule("region-repeated", _W, "same box and caption twice in an image", "drop one of the two"),
    Rule("caption-repeated", _N, "same caption twice in an image", "say what tells the two regions apart"),
    Rule("caption-everywhere", _N, "one caption on many images", "look whether a form was filled in without looking"),
    # an image
    Rule("image-missing", _E, "no image, or its file cannot be read", "put the image there, or mend image_path"),
    Rule("image-damaged", _E, "image that cannot be decoded", "fetch the file again, or leave the row out"),
    Rule("image-size", _E, "width_px, height_px are not the image's", "they are of the upright image (EXIF applied)"),
    Rule("image-shape", _E, "side more than 200 times the other", "crop the image, or leave the row out"),
    Rule("image-tiny", _W, "side below 28 px, one token of the model", "leave the row out"),
    Rule("image-path", _W, "image_path absolute, or out of the folder to nothing", "keep the images beside the file"),
    Rule("image-elsewhere", _N, "images outside the dataset's folder", "move them together with the dataset's file"),
    Rule("image-kind", _N, "read with a loss: frames, alpha, CMYK, 16 bits", "convert it yourself if that matters"),
    # the set
    Rule("duplicate", _W, "same image file more than once", _DECIDE),
    Rule("duplicate-across-labels", _E, "same image file, both labels", "one of the labels is wrong"),
    Rule("duplicate-across-files", _E, "same image in several files", "split again: fxray data split"),
    Rule("near-duplicate", _N, "images that look alike", _DECIDE),
    Rule("near-duplicate-across-labels", _W, "images that look alike, both labels", _DECIDE),
    Rule("near-duplicate-across-files", _E, "images that look alike in several files", "split again: fxray data split"),
    Rule(
        "source-across-files",
        _E,
        "one source in several files",
        "split again: fxray data split; or check with --ignore-source where `source` names a collection",
    ),
    Rule("leak", _E, "the files alone, not their pixels, give the label away", "encode both classes the same way"),
    Rule("leak-weak", _W, "the files alone hint at the label", "encode both classes the same way"),
    Rule("leak-untested", _N, "too few images to look for a leak", "add images, or compare the files yourself"),
    Rule("class-balance", _W, "many more images of one class", "add to the other, or let fxray data split balance"),
    Rule("generator-balance", _N, "a generator with few images", "its row of the evaluation will be uncertain"),
)
RULES = {rule.name: rule for rule in _ALL}
