"""The lenient reading: what foreign models write in place of the grammar. It serves imports, never the rewards."""

import json
import re
from itertools import islice

from fxray.grammar.answer import Fault, FaultKind, ParsedAnswer
from fxray.grammar.markers import CAPTION_END, CAPTION_START, REGION_MARKER, TAG, TAGS, THINK, VERDICT
from fxray.grammar.views import VIEWS
from fxray.schema import Box, Region, Tag, Verdict

_NUMBER = r"\s*+([-+]?[0-9]{1,9}+(?:\.[0-9]{0,15}+)?)\s*+"
_FOUR_NUMBERS = re.compile(rf"[\[(]{_NUMBER},{_NUMBER}(?:,|\)\s*+,\s*+\(){_NUMBER},{_NUMBER}[\])]")
_JSON_CAPTION = re.compile(r'"(?:label|caption|description)"\s*+:\s*+("(?:[^"\\]|\\.)*+")')
_BRACE = re.compile("[{}]")
_MAX_ITEMS = 5_000  # boxes or tags: far beyond any honest answer; keeps a hostile one cheap
VERDICT_WORDS = {
    "real": Verdict.REAL,
    "authentic": Verdict.REAL,
    "genuine": Verdict.REAL,
    "generated": Verdict.GENERATED,
    "fake": Verdict.GENERATED,
    "ai-generated": Verdict.GENERATED,
    "ai generated": Verdict.GENERATED,
    "synthetic": Verdict.GENERATED,
}
TAG_NAMES = TAGS | {
    "perspective error": Tag.PERSPECTIVE,
    "artistic style": Tag.ARTISTIC,
    "unknown object": Tag.UNKNOWN,
    "structure error": Tag.STRUCTURE,
    "structure/attribute error": Tag.STRUCTURE,
    "structure/attribute errors": Tag.STRUCTURE,
    "texture error": Tag.TEXTURE,
    "other anomaly": Tag.OTHER,
}


def read_leniently(text: str, blocks: dict[str, tuple[int, int]], strict: ParsedAnswer) -> ParsedAnswer:
    """Fills in what the strict reading missed.

    Args:
        text: The answer without its end token.
        blocks: Spans of block contents, as the strict reading found them.
        strict: The strict reading.

    Returns:
        The strict reading itself where nothing more was found; else one with the fault `read-leniently`.
    """
    think_start, think_end = blocks.get(THINK, (0, len(text)))
    think = text[think_start:think_end]
    verdict = strict.verdict
    if verdict is None and VERDICT in blocks:
        verdict = VERDICT_WORDS.get(text[slice(*blocks[VERDICT])].strip().strip(".").lower())
    tags = strict.tags
    tag_text = text[slice(*blocks[TAG])] if TAG in blocks else _nested_tag_block(think)
    view = VIEWS[strict.view]
    lenient_tags = _read_tags(tag_text) if view.has_tags else ()
    if len(lenient_tags) > len(tags):
        tags = lenient_tags
    regions = _read_regions(think) if view.has_regions else ()
    if len(regions) <= len(strict.regions):
        regions = strict.regions
    if (verdict, regions, tags) == (strict.verdict, strict.regions, strict.tags):
        return strict
    faults = (*strict.faults, Fault(FaultKind.READ_LENIENTLY, len(text)))
    return ParsedAnswer(verdict, regions, tags, faults, strict.view)


def _nested_tag_block(think: str) -> str:
    start = think.find("<tag>")
    end = think.find("</tag>", start)
    return think[start + len("<tag>") : end] if 0 <= start < end else ""


def _read_tags(text: str) -> tuple[Tag, ...]:
    written = dict.fromkeys(text.replace(",", ";").split(";", _MAX_ITEMS))
    names = (item.strip().lower() for item in written)
    return tuple(dict.fromkeys(TAG_NAMES[name] for name in names if name in TAG_NAMES))


def _read_regions(think: str) -> tuple[Region, ...]:
    """Every group of four numbers with an area is a box; its caption stands beside it."""
    regions = []
    previous_end = 0
    matches = list(islice(_FOUR_NUMBERS.finditer(think), _MAX_ITEMS))
    for k, match in enumerate(matches):
        next_start = matches[k + 1].start() if k + 1 < len(matches) else len(think)
        before, after = think[previous_end : match.start()], think[match.end() : next_start]
        previous_end = match.end()
        box = Box(*(float(number) for number in match.groups()))
        if box.x_min < box.x_max and box.y_min < box.y_max:
            regions.append(Region(box, _caption_beside(before, after)))
    return tuple(regions)


def _caption_beside(before: str, after: str) -> str:
    """A caption pair before the box, a JSON label in the box's own object, or else the prose before it."""
    marked = before.rpartition(CAPTION_START)[2] if CAPTION_START in before else ""
    if CAPTION_END in marked:
        return marked.partition(CAPTION_END)[0]
    own_before, own_after = _BRACE.split(before)[-1], _BRACE.split(after, 1)[0]
    for own in (own_before, own_after):
        label = _JSON_CAPTION.search(own)
        if label is not None:
            try:
                return str(json.loads(label[1]))
            except ValueError:  # an escape that JSON does not know
                return label[1][1:-1]
    if own_before != before:  # keys of JSON are no caption
        return ""
    lines = REGION_MARKER.sub("", before).splitlines()
    caption = lines[-1].strip(" \t:;,-*") if lines else ""
    return caption if any(map(str.isalnum, caption)) else ""
