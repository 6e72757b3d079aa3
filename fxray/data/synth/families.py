"""The families of planted flaws: what each is called, how captions name it, and which of the six tags it carries."""

from dataclasses import dataclass

from fxray.schema import Tag


@dataclass(frozen=True, slots=True)
class Family:
    """One kind of flaw; an image's flaws are all of one family, which counts as its generator."""

    name: str
    tags: tuple[Tag, ...]
    captions: tuple[str, ...]


FAMILIES = (
    Family(
        "texture-tiling",
        (Tag.TEXTURE,),
        ("texture repeated in tiles", "pattern repeated like wallpaper", "surface copied tile by tile"),
    ),
    Family("blur-patch", (Tag.TEXTURE,), ("detail smeared away", "surface melted into blur", "texture lost in blur")),
    Family(
        "duplicated-part",
        (Tag.STRUCTURE,),
        ("part duplicated", "copy of another part", "shape repeated where it cannot be"),
    ),
    Family(
        "broken-text",
        (Tag.UNKNOWN, Tag.STRUCTURE),
        ("letters broken", "text unreadable", "script without meaning"),
    ),
    Family("colour-error", (Tag.ARTISTIC,), ("colour unnatural", "hue shifted", "paint of a wrong colour")),
    Family(
        "geometry-bend",
        (Tag.PERSPECTIVE, Tag.STRUCTURE),
        ("lines bent", "outline twisted", "geometry warped like rubber"),
    ),
    Family(
        "checker-artefact",
        (Tag.TEXTURE, Tag.OTHER),
        ("grid laid over the surface", "checker artefact", "seams crossing the surface"),
    ),
    Family(
        "shadow-error",
        (Tag.PERSPECTIVE,),
        ("shadow without an object", "shadow cast wrongly", "darkness without a cause"),
    ),
    Family("noise-burst", (Tag.OTHER,), ("grain too coarse", "noise gathered in one place", "speckles unexplained")),
    Family(
        "unknown-object",
        (Tag.UNKNOWN,),
        ("object of no known kind", "blob without meaning", "thing that fits nowhere"),
    ),
)
