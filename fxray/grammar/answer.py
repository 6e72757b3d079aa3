"""What the parser found in an answer: its parts, and what is wrong with its form."""

from dataclasses import dataclass, replace
from enum import StrEnum

from fxray.geometry import clip
from fxray.grammar.views import VIEWS, ViewName
from fxray.schema import Region, Tag, Verdict


class FaultKind(StrEnum):
    """Everything that can be wrong with the form of an answer."""

    MISSING_BLOCK = "missing-block"
    UNCLOSED_BLOCK = "unclosed-block"
    REPEATED_BLOCK = "repeated-block"
    MISORDERED_BLOCK = "misordered-block"
    NESTED_BLOCK = "nested-block"
    UNEXPECTED_BLOCK = "unexpected-block"
    """A block that the view leaves out."""
    TEXT_OUTSIDE = "text-outside"
    """Something other than blank space before, between or after the blocks."""
    UNPAIRED_MARKER = "unpaired-marker"
    """A caption or box marker without its counterpart."""
    CAPTION_WITHOUT_BOX = "caption-without-box"
    BOX_WITHOUT_CAPTION = "box-without-caption"
    EMPTY_CAPTION = "empty-caption"
    UNEXPECTED_CAPTION = "unexpected-caption"
    """A caption where the view has none."""
    BROKEN_CAPTION = "broken-caption"
    """A line break or a block marker inside a caption."""
    MALFORMED_BOX = "malformed-box"
    """Something other than two corners of ASCII decimal integers between the box markers."""
    DEGENERATE_BOX = "degenerate-box"
    """Swapped corners, or no area."""
    UNKNOWN_TAG = "unknown-tag"
    EMPTY_TAG = "empty-tag"
    NONE_BESIDE_TAGS = "none-beside-tags"
    UNKNOWN_VERDICT = "unknown-verdict"
    GENERATED_WITHOUT_REGION = "generated-without-region"
    REAL_WITH_REGION = "real-with-region"
    READ_LENIENTLY = "read-leniently"
    """Only the lenient reading found some part."""


@dataclass(frozen=True, slots=True)
class Fault:
    """The first fault of its kind in an answer.

    Attributes:
        kind: What is wrong.
        position: Index of the character where it shows; the length of the text where something is missing, 0 where
            the whole answer contradicts itself.
        detail: Which block or marker it concerns.
    """

    kind: FaultKind
    position: int
    detail: str = ""


@dataclass(frozen=True, slots=True)
class ParsedAnswer:
    """The parts of an answer, found even where its form is broken.

    Attributes:
        verdict: The last closed verdict block outside the other blocks; None where there is none or it says neither
            word.
        regions: In the model's frame as written: whole but not clipped; swapped and empty boxes are left out.
        tags: Known names of the first tag block, in the order written, each once.
        faults: At most one per kind and detail, in order of position.
        view: The view in which it was read.
    """

    verdict: Verdict | None
    regions: tuple[Region, ...] = ()
    tags: tuple[Tag, ...] = ()
    faults: tuple[Fault, ...] = ()
    view: ViewName = "full"

    @property
    def is_strict(self) -> bool:
        """True where the answer keeps to the grammar in every point; this is what the format reward sees."""
        return not self.faults

    def clipped(self, width: int, height: int) -> "ParsedAnswer":
        """The same answer with its boxes cut to the model's frame.

        A region of which nothing is left is dropped without a fault of its own; then it is judged anew whether the
        verdict agrees with having regions or not.
        """
        kept = []
        for region in self.regions:
            box = clip(region.box, width, height)
            if box is not None:
                kept.append(Region(box, region.caption))
        return replace(self, regions=tuple(kept)).judged()

    def judged(self) -> "ParsedAnswer":
        """The same answer with the faults of contradiction between verdict and regions as they now stand.

        A view without regions knows no such contradiction.
        """
        if not VIEWS[self.view].has_regions:
            return self
        faults = [fault for fault in self.faults if fault.kind not in _CONTRADICTIONS]
        if self.verdict is Verdict.GENERATED and not self.regions:
            faults.insert(0, Fault(FaultKind.GENERATED_WITHOUT_REGION, 0))
        if self.verdict is Verdict.REAL and self.regions:
            faults.insert(0, Fault(FaultKind.REAL_WITH_REGION, 0))
        return replace(self, faults=tuple(faults))


_CONTRADICTIONS = (FaultKind.GENERATED_WITHOUT_REGION, FaultKind.REAL_WITH_REGION)
