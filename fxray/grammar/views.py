"""Views: what an answer speaks of. The full one is the paper's method, the others its ablations (section 5.3).

A part that a view leaves out is in none of its answers: SFT does not teach it, the prompt does not ask for it, and the
strict reading takes it as a fault.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal

from fxray.grammar.markers import BLOCKS, TAG, THINK, VERDICT
from fxray.schema import Region

ViewName = Literal["full", "no-bbox", "no-caption", "no-tags", "label-only"]
RegionOrder = Literal["annotation", "position"]


@dataclass(frozen=True, slots=True)
class View:
    """The parts of an answer.

    Attributes:
        blocks: Names of its blocks, in order.
        has_captions: Whether a region has a caption before its box.
    """

    blocks: tuple[str, ...]
    has_captions: bool = True

    @property
    def has_regions(self) -> bool:
        """Whether answers point at places; without, there is no IoU, neither as reward nor as measure."""
        return THINK in self.blocks

    @property
    def has_tags(self) -> bool:
        return TAG in self.blocks


VIEWS: dict[ViewName, View] = {
    "full": View(BLOCKS),
    "no-bbox": View((TAG, VERDICT)),
    "no-caption": View(BLOCKS, has_captions=False),
    "no-tags": View((THINK, VERDICT)),
    "label-only": View((VERDICT,)),
}
"""The paper's no-bbox goes without boxes and without "the corresponding captions"."""


def in_order(regions: Iterable[Region], order: RegionOrder) -> tuple[Region, ...]:
    """The regions as an answer names them: as annotated, or by upper edge, then by left edge."""
    if order == "annotation":
        return tuple(regions)
    return tuple(sorted(regions, key=lambda region: (region.box.y_min, region.box.x_min)))
