"""Reads an answer of the model: total (any string, never an exception) and linear in time.

Settled readings where the paper is silent. A block closes at the next closing marker of its name; an unclosed one
reaches to the next opening marker of any block, so that one forgotten marker does not swallow the verdict. Regions come
from the first think block, tags from the first tag block, the verdict from the last closed verdict block; what is
nested in another block counts for nothing.
"""

import re

from fxray.grammar.answer import Fault, FaultKind, ParsedAnswer
from fxray.grammar.lenient import read_leniently
from fxray.grammar.markers import (
    BLOCK_MARKER,
    BLOCK_OPENING,
    BLOCKS,
    BOX_END,
    BOX_START,
    CAPTION_END,
    CAPTION_START,
    COORDINATE_LIMIT,
    END_TOKENS,
    LINE_BREAK,
    NO_TAG,
    REGION_MARKER,
    TAG,
    TAGS,
    THINK,
    VERDICT,
)
from fxray.grammar.views import VIEWS, View, ViewName
from fxray.schema import Box, Region, Tag, Verdict

_INTEGER = r"\s*+(-?[0-9]++)\s*+"
_CORNERS = re.compile(rf"\s*+\({_INTEGER},{_INTEGER}\)\s*+,\s*+\({_INTEGER},{_INTEGER}\)\s*+")
_VERDICTS = {verdict.value: verdict for verdict in Verdict}


def parse(text: str, *, lenient: bool = False, view: ViewName = "full") -> ParsedAnswer:
    """Finds verdict, regions and tags in an answer, and everything that is wrong with its form.

    Args:
        text: The decoded answer, special tokens kept; one trailing end token is ignored.
        lenient: Also read what foreign models write: `bbox_2d` JSON, `[x1, y1, x2, y2]` lists, decimals, a tag block
            nested in the think block, near names of tags and verdicts. Whatever was found only so adds the fault
            `read-leniently`; an answer without fault is read the same either way.
        view: What the answer was to speak of; a part that the view leaves out is a fault and counts for nothing.

    Returns:
        The parts, boxes in the model's frame as written. Call `clipped` before judging the form: contradictions
        between verdict and regions are settled after clipping.
    """
    text = _without_end_token(text)
    faults = _Faults()
    parts = VIEWS[view]
    blocks = _find_blocks(text, parts, faults)
    regions = _read_regions(text, *blocks[THINK], parts, faults) if THINK in blocks else ()
    tags = _read_tags(text, *blocks[TAG], faults) if TAG in blocks else ()
    verdict = _read_verdict(text, *blocks[VERDICT], faults) if VERDICT in blocks else None
    answer = ParsedAnswer(verdict, regions, tags, faults.in_order(), view).judged()
    if lenient and not answer.is_strict:
        answer = read_leniently(text, blocks, answer).judged()
    return answer


class _Faults:
    """Collects the first fault of each kind and detail, so that a hostile text cannot make millions."""

    def __init__(self) -> None:
        self._first: dict[tuple[FaultKind, str], int] = {}

    def add(self, kind: FaultKind, position: int, detail: str = "") -> None:
        self._first.setdefault((kind, detail), position)

    def in_order(self) -> tuple[Fault, ...]:
        faults = [Fault(kind, position, detail) for (kind, detail), position in self._first.items()]
        return tuple(sorted(faults, key=lambda fault: fault.position))


def _without_end_token(text: str) -> str:
    text = text.rstrip()
    for token in END_TOKENS:
        if text.endswith(token):
            return text[: -len(token)]
    return text


def _find_blocks(text: str, view: View, faults: _Faults) -> dict[str, tuple[int, int]]:
    """Spans of the contents of the first think block, the first tag block and the last closed verdict block."""
    blocks: dict[str, tuple[int, int]] = {}
    first_at: dict[str, int] = {}
    repeated_at: dict[str, int] = {}
    last_close = {name: text.rfind(f"</{name}>") for name in BLOCKS}  # so that no search for a closing marker fails
    end, is_closed = 0, True  # of the block before
    for opening in BLOCK_OPENING.finditer(text):
        at, start = opening.span()
        if at < end:
            continue  # nested
        if is_closed and at > end and not text[end:at].isspace():
            faults.add(FaultKind.TEXT_OUTSIDE, end)
        name = opening[1]
        is_closed = last_close[name] >= start
        close = text.find(f"</{name}>", start) if is_closed else start
        end = close + len(name) + len("</>") if is_closed else start
        if name in first_at:
            repeated_at.setdefault(name, at)
        else:
            first_at[name] = at
            if not is_closed:
                faults.add(FaultKind.UNCLOSED_BLOCK, at, name)
                following = BLOCK_OPENING.search(text, start)
                close = following.start() if following else len(text)
            if nested := BLOCK_MARKER.search(text, start, close):
                faults.add(FaultKind.NESTED_BLOCK, nested.start(), name)
            if name != VERDICT:
                blocks[name] = (start, close)
        if name == VERDICT and is_closed:
            blocks[name] = (start, close)
    if is_closed and text[end:].strip():
        faults.add(FaultKind.TEXT_OUTSIDE, end)
    for name, at in repeated_at.items():
        faults.add(FaultKind.REPEATED_BLOCK, at, name)
    _check_presence(first_at, view, len(text), faults)
    return {name: span for name, span in blocks.items() if name in view.blocks}


def _check_presence(first_at: dict[str, int], view: View, text_length: int, faults: _Faults) -> None:
    for name in BLOCKS:
        if name in view.blocks and name not in first_at:
            faults.add(FaultKind.MISSING_BLOCK, text_length, name)
        if name in first_at and name not in view.blocks:
            faults.add(FaultKind.UNEXPECTED_BLOCK, first_at[name], name)
    if [name for name in BLOCKS if name in first_at] != list(first_at):
        faults.add(FaultKind.MISORDERED_BLOCK, min(first_at.values()))


def _read_regions(text: str, start: int, end: int, view: View, faults: _Faults) -> tuple[Region, ...]:
    """Regions between `start` and `end`: a caption pair directly followed, blank space apart, by a box pair.

    Where the view has no captions, a box pair alone is a region.
    """
    regions = []
    pieces = REGION_MARKER.split(text[start:end])  # text, marker, text, ..., marker, text
    markers = [*pieces[1::2], "", "", ""]
    position, i = start + len(pieces[0]), 0
    has_block_markers = BLOCK_MARKER.search(text, start, end) is not None
    while markers[i]:
        step = 1
        if markers[i] == CAPTION_START and markers[i + 1] == CAPTION_END and not view.has_captions:
            faults.add(FaultKind.UNEXPECTED_CAPTION, position)
            step = 2
        elif markers[i] == CAPTION_START and markers[i + 1] == CAPTION_END:
            caption = pieces[2 * i + 2]
            _check_caption(caption, position, has_block_markers, faults)
            step = 2
            is_followed = markers[i + 2] == BOX_START and not pieces[2 * i + 4].strip()
            if is_followed and markers[i + 3] == BOX_END:
                box = _read_box(pieces[2 * i + 6], position, faults)
                if box is not None:
                    regions.append(Region(box, caption))
                step = 4
            else:
                faults.add(FaultKind.CAPTION_WITHOUT_BOX, position)
        elif markers[i] == BOX_START and markers[i + 1] == BOX_END and not view.has_captions:
            box = _read_box(pieces[2 * i + 2], position, faults)
            if box is not None:
                regions.append(Region(box, ""))
            step = 2
        elif markers[i] == BOX_START and markers[i + 1] == BOX_END:
            faults.add(FaultKind.BOX_WITHOUT_CAPTION, position)
            step = 2
        else:
            faults.add(FaultKind.UNPAIRED_MARKER, position, markers[i])
        for piece in pieces[2 * i + 1 : 2 * (i + step) + 1]:
            position += len(piece)
        i += step
    return tuple(regions)


def _check_caption(caption: str, position: int, may_hold_markers: bool, faults: _Faults) -> None:
    if not caption.strip():
        faults.add(FaultKind.EMPTY_CAPTION, position)
    if LINE_BREAK.search(caption):
        faults.add(FaultKind.BROKEN_CAPTION, position, "line break")
    if may_hold_markers and BLOCK_MARKER.search(caption):
        faults.add(FaultKind.BROKEN_CAPTION, position, "block marker")


def _read_box(corners: str, position: int, faults: _Faults) -> Box | None:
    match = _CORNERS.fullmatch(corners)
    if match is None:
        faults.add(FaultKind.MALFORMED_BOX, position)
        return None
    box = Box(*(_to_int(digits) for digits in match.groups()))
    if box.x_min >= box.x_max or box.y_min >= box.y_max:
        faults.add(FaultKind.DEGENERATE_BOX, position)
        return None
    return box


def _to_int(digits: str) -> int:
    """The number, held to +-COORDINATE_LIMIT: Python refuses to convert thousands of digits."""
    if len(digits) < 10:
        return int(digits)
    magnitude = digits.lstrip("-").lstrip("0")
    value = COORDINATE_LIMIT if len(magnitude) > 9 else int(magnitude or "0")
    return -value if digits[0] == "-" else value


def _read_tags(text: str, start: int, end: int, faults: _Faults) -> tuple[Tag, ...]:
    written = dict.fromkeys(text[start:end].split(";"))  # each once, before any work in Python
    names = dict.fromkeys(item.strip().lower() for item in written)
    tags = tuple(TAGS[name] for name in names if name in TAGS)
    has_none, has_empty = NO_TAG in names, "" in names
    if has_empty:
        faults.add(FaultKind.EMPTY_TAG, start)
    if has_none and len(names) > 1:
        faults.add(FaultKind.NONE_BESIDE_TAGS, start)
    if len(names) > len(tags) + has_none + has_empty:
        faults.add(FaultKind.UNKNOWN_TAG, start)
    return tags


def _read_verdict(text: str, start: int, end: int, faults: _Faults) -> Verdict | None:
    verdict = _VERDICTS.get(text[start:end].strip().lower())
    if verdict is None:
        faults.add(FaultKind.UNKNOWN_VERDICT, start)
    return verdict
