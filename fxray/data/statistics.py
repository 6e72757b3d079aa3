"""What a dataset holds, in numbers: regions, boxes, captions, tags, generators and categories. No pixel is read."""

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fxray.schema import Region, Sample, Tag, Verdict

HEAT_CELLS = 64
"""Cells of the heat map along each side of an image."""


@dataclass(frozen=True, slots=True)
class Summary:
    """A distribution in few numbers; NaN where it is empty."""

    count: int
    mean: float
    low: float
    median: float
    p95: float
    high: float

    @classmethod
    def of(cls, values: Sequence[float] | NDArray[np.float64]) -> "Summary":
        """Sums up some values."""
        if not len(values):
            return cls(0, *[math.nan] * 5)
        low, median, p95, high = np.percentile(values, [0, 50, 95, 100])
        return cls(len(values), float(np.mean(values)), float(low), float(median), float(p95), float(high))

    def to_json(self) -> dict[str, float | None]:
        """Numbers by name; null where there are none."""
        numbers = {"mean": self.mean, "low": self.low, "median": self.median, "p95": self.p95, "high": self.high}
        return {"count": self.count} | {name: None if math.isnan(v) else v for name, v in numbers.items()}


@dataclass(frozen=True)
class Statistics:
    """What a dataset holds. Regions and tags are those of generated images.

    Attributes:
        num_real: Real images.
        num_generated: Generated images.
        width_px: Of all images.
        height_px: Of all images.
        regions: Per generated image.
        region_counts: How many generated images have so many regions.
        box_sides_B2: Width and height of each box over those of its image, float64 [boxes, 2].
        heat_map: float64 [HEAT_CELLS, HEAT_CELLS], rows from the top: share of the generated images whose boxes cover
            the cell.
        caption_words: Words of each caption.
        num_distinct_captions: Captions that differ.
        tags: Generated images with each tag.
        tag_counts: How many generated images have so many tags.
        tag_pairs: Generated images with both tags of a pair, each pair once.
        generators: Images of each generator, "real" for photographs, most frequent first.
        categories: Images of each category, most frequent first.
        cells: Images of each generator and category.
        annotators: Images that each annotator marked; None for those without.
    """

    num_real: int
    num_generated: int
    width_px: Summary
    height_px: Summary
    regions: Summary
    region_counts: dict[int, int]
    box_sides_B2: NDArray[np.float64]
    heat_map: NDArray[np.float64]
    caption_words: NDArray[np.float64]
    num_distinct_captions: int
    tags: dict[Tag, int]
    tag_counts: dict[int, int]
    tag_pairs: dict[tuple[Tag, Tag], int]
    generators: dict[str, int]
    categories: dict[str, int]
    cells: dict[tuple[str, str], int]
    annotators: dict[str | None, int]

    @property
    def box_areas(self) -> NDArray[np.float64]:
        """Share of its image that each box covers: float64 [boxes]."""
        return self.box_sides_B2.prod(axis=1)

    def to_json(self) -> dict[str, Any]:
        """Everything, ready for `json.dumps`."""
        return {
            "num_real": self.num_real,
            "num_generated": self.num_generated,
            "width_px": self.width_px.to_json(),
            "height_px": self.height_px.to_json(),
            "regions_per_generated_image": self.regions.to_json()
            | {"counts": {str(number): count for number, count in self.region_counts.items()}},
            "box_width_frac": Summary.of(self.box_sides_B2[:, 0]).to_json(),
            "box_height_frac": Summary.of(self.box_sides_B2[:, 1]).to_json(),
            "box_area_frac": Summary.of(self.box_areas).to_json(),
            "heat_map": np.round(self.heat_map, 6).tolist(),
            "caption_words": Summary.of(self.caption_words).to_json(),
            "num_distinct_captions": self.num_distinct_captions,
            "tags": {tag.value: count for tag, count in self.tags.items()},
            "tags_per_generated_image": {str(number): count for number, count in self.tag_counts.items()},
            "tag_pairs": [[a.value, b.value, count] for (a, b), count in self.tag_pairs.items()],
            "generators": self.generators,
            "categories": self.categories,
            "generators_x_categories": [[*cell, count] for cell, count in sorted(self.cells.items())],
            "annotators": [[name, count] for name, count in self.annotators.items()],
        }


def summarise(samples: Sequence[Sample]) -> Statistics:
    """Counts everything once."""
    generated = [sample for sample in samples if sample.annotation.verdict is Verdict.GENERATED]
    regions = [(sample, region) for sample in generated for region in sample.annotation.regions]
    sides = [_sides(sample, region) for sample, region in regions]
    pairs = Counter(pair for sample in generated for pair in _tag_pairs(sample))
    tags = Counter(tag for sample in generated for tag in sample.annotation.tags)
    return Statistics(
        num_real=len(samples) - len(generated),
        num_generated=len(generated),
        width_px=Summary.of([sample.width_px for sample in samples]),
        height_px=Summary.of([sample.height_px for sample in samples]),
        regions=Summary.of([len(sample.annotation.regions) for sample in generated]),
        region_counts=_sorted_counts(len(sample.annotation.regions) for sample in generated),
        box_sides_B2=np.array(sides, dtype=np.float64).reshape(-1, 2),
        heat_map=_heat_map(generated),
        caption_words=np.array([len(region.caption.split()) for _, region in regions], dtype=np.float64),
        num_distinct_captions=len({region.caption for _, region in regions}),
        tags={tag: tags[tag] for tag in Tag},
        tag_counts=_sorted_counts(len(sample.annotation.tags) for sample in generated),
        tag_pairs=dict(pairs.most_common()),
        generators=dict(Counter(sample.generator for sample in samples).most_common()),
        categories=dict(Counter(sample.category for sample in samples).most_common()),
        cells=dict(Counter((sample.generator, sample.category) for sample in samples)),
        annotators=dict(Counter(sample.annotator for sample in samples).most_common()),
    )


def _sides(sample: Sample, region: Region) -> tuple[float, float]:
    box = region.box
    return (box.x_max - box.x_min) / sample.width_px, (box.y_max - box.y_min) / sample.height_px


def _tag_pairs(sample: Sample) -> list[tuple[Tag, Tag]]:
    present = [tag for tag in Tag if tag in sample.annotation.tags]
    return [(a, b) for k, a in enumerate(present) for b in present[k + 1 :]]


def _sorted_counts(numbers: Any) -> dict[int, int]:
    return dict(sorted(Counter(numbers).items()))


def _heat_map(samples: Sequence[Sample]) -> NDArray[np.float64]:
    """Mean over the images of how much of each cell their boxes cover; what several of them cover counts once."""
    total = np.zeros((HEAT_CELLS, HEAT_CELLS))
    for sample in samples:
        if sample.annotation.regions:
            size = sample.width_px, sample.height_px, sample.width_px, sample.height_px
            boxes_B4 = np.array([region.box for region in sample.annotation.regions]) / size * HEAT_CELLS
            total += _covered(np.clip(boxes_B4, 0, HEAT_CELLS))
    return total / max(1, len(samples))


def _covered(boxes_B4: NDArray[np.float64]) -> NDArray[np.float64]:
    """How much of each cell some boxes cover together: float64 [HEAT_CELLS, HEAT_CELLS] in [0, 1].

    Args:
        boxes_B4: x_min, y_min, x_max, y_max, counted in cells.
    """
    cells = np.arange(HEAT_CELLS)
    xs, ys = (np.unique(np.r_[cells, HEAT_CELLS, boxes_B4[:, k], boxes_B4[:, k + 2]]) for k in (0, 1))
    covered_YX = np.zeros((len(ys) - 1, len(xs) - 1))  # no edge runs through a rectangle of this grid
    columns_B2, rows_B2 = np.searchsorted(xs, boxes_B4[:, [0, 2]]), np.searchsorted(ys, boxes_B4[:, [1, 3]])
    for (left, right), (top, bottom) in zip(columns_B2, rows_B2, strict=True):
        covered_YX[top:bottom, left:right] = 1
    covered_YX *= np.diff(ys)[:, None]
    covered_YX *= np.diff(xs)
    by_row = np.add.reduceat(covered_YX, np.searchsorted(ys, cells), axis=0)
    found: NDArray[np.float64] = np.add.reduceat(by_row, np.searchsorted(xs, cells), axis=1)
    return found
