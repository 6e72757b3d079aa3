"""The families of planted flaws: what each is called, how captions name it, and which of the six tags it carries.

A caption is a noun and what is wrong with it. Where the tiny base model has a word for a fill that looks like the flaw
("blurred", "tiled"), the caption uses that word, as a large model brings its words along.
"""

from dataclasses import dataclass

from fxray.schema import Tag


@dataclass(frozen=True, slots=True)
class Family:
    """One kind of flaw; an image's flaws are all of one family, which counts as its generator."""

    name: str
    tags: tuple[Tag, ...]
    caption: str


FAMILIES = (
    Family("texture-tiling", (Tag.TEXTURE,), "patch tiled"),
    Family("blur-patch", (Tag.TEXTURE,), "patch blurred"),
    Family("duplicated-part", (Tag.STRUCTURE,), "patch duplicated"),
    Family("broken-text", (Tag.UNKNOWN, Tag.STRUCTURE), "patch of broken letters"),
    Family("colour-error", (Tag.ARTISTIC,), "patch tinted"),
    Family("geometry-bend", (Tag.PERSPECTIVE, Tag.STRUCTURE), "patch wavy"),
    Family("checker-artefact", (Tag.TEXTURE, Tag.OTHER), "patch checkered"),
    Family("shadow-error", (Tag.PERSPECTIVE,), "patch dark"),
    Family("noise-burst", (Tag.OTHER,), "patch noisy"),
    Family("unknown-object", (Tag.UNKNOWN,), "patch of no known kind"),
)
