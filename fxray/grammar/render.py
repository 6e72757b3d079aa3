"""Writes an annotation as the answer that the model shall give. `parse` reads back exactly what was written."""

from fxray.counts import counted
from fxray.errors import DataError
from fxray.grammar.markers import (
    BOX_END,
    BOX_START,
    CAPTION_END,
    CAPTION_START,
    COORDINATE_LIMIT,
    LINE_BREAK,
    NO_TAG,
    SPECIAL_MARKER,
    TAG,
    THINK,
    VERDICT,
)
from fxray.grammar.views import VIEWS, ViewName
from fxray.schema import Annotation, Region, Verdict

REAL_SENTENCE = "No flaw is visible."


def render(annotation: Annotation, view: ViewName = "full") -> str:
    """The answer text of an annotation.

    Args:
        annotation: Boxes in the model's frame, whole pixels (`Frame.to_model` gives such).
        view: Which parts of it the answer speaks of.

    Raises:
        DataError: The annotation cannot be said in the grammar: a caption that is empty, has a line break or a marker;
            a box that is not whole, has no area or a negative corner; a repeated tag; a generated image without
            region, or a real one with regions. Only the parts that the view speaks of count.
    """
    parts = VIEWS[view]
    written = {VERDICT: annotation.verdict.value}
    if parts.has_regions:
        written[THINK] = f"\n{_render_regions(annotation, has_captions=parts.has_captions)}\n"
    if parts.has_tags:
        written[TAG] = _render_tags(annotation)
    return "\n".join(f"<{block}>{written[block]}</{block}>" for block in parts.blocks)


def check_caption(caption: str) -> None:
    """Refuses a caption that an answer cannot carry.

    Raises:
        DataError: It is blank, or holds a line break, a block marker or a special token.
    """
    if not caption.strip():
        problem = "is blank"
    elif LINE_BREAK.search(caption):
        problem = "holds a line break"
    elif (marker := SPECIAL_MARKER.search(caption)) is not None:
        problem = f"holds the marker {marker[0]!r}"
    else:
        return
    raise DataError(f"caption {caption[:80]!r} {problem}", remedy="write one plain line that starts with a noun")


def _render_regions(annotation: Annotation, *, has_captions: bool) -> str:
    is_generated = annotation.verdict is Verdict.GENERATED
    if is_generated != bool(annotation.regions):
        raise DataError(
            f"an annotation of verdict {annotation.verdict.value!r} with {counted(len(annotation.regions), 'region')}",
            remedy="a generated image needs at least one region, a real one has none",
        )
    lines = [_render_region(region, has_captions=has_captions) for region in annotation.regions]
    return "\n".join(lines or [REAL_SENTENCE])


def _render_tags(annotation: Annotation) -> str:
    if len(set(annotation.tags)) < len(annotation.tags):
        raise DataError(f"tags repeat: {[tag.value for tag in annotation.tags]}", remedy="name each tag once")
    return "; ".join(tag.value for tag in annotation.tags) or NO_TAG


def _render_region(region: Region, *, has_captions: bool) -> str:
    x_min, y_min, x_max, y_max = region.box
    is_whole = all(float(value).is_integer() for value in region.box)
    if not (is_whole and 0 <= x_min < x_max < COORDINATE_LIMIT and 0 <= y_min < y_max < COORDINATE_LIMIT):
        raise DataError(
            f"box {tuple(region.box)} is no box of whole pixels in the model's frame",
            remedy="convert it with Frame.to_model first",
        )
    box = f"{BOX_START}({int(x_min)},{int(y_min)}),({int(x_max)},{int(y_max)}){BOX_END}"
    if not has_captions:
        return box
    check_caption(region.caption)
    return f"{CAPTION_START}{region.caption}{CAPTION_END}{box}"
