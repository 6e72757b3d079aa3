"""The rules of the set as a whole: copies, near copies, shared sources, balance, captions that are everywhere."""

from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Sequence
from statistics import median

import numpy as np
from numpy.typing import NDArray

from fxray.counts import counted
from fxray.data.check.findings import Finding, Place, shown
from fxray.data.check.scan import SeenRow
from fxray.data.near_duplicates import NUM_COEFFICIENTS, components, near_pairs
from fxray.schema import Verdict

MAX_CLASS_RATIO = 1.5
MIN_GENERATOR_IMAGES = 10
MIN_REPEATED_CAPTIONS = 20
REPEATED_CAPTION_FRAC = 0.05
MAX_OTHERS = 20


def whole_findings(
    rows: Sequence[SeenRow], groups: Sequence[Sequence[int]], *, ignores_source: bool = False
) -> Iterator[Finding]:
    """Every breach that no single row shows.

    Args:
        rows: Of all files.
        groups: Of `related_images`.
        ignores_source: Files may share sources.
    """
    yield from _copies(rows, groups)
    if not ignores_source:
        yield from _shared_sources(rows)
    yield from _balance(rows)
    yield from _captions(rows)


def related_images(rows: Sequence[SeenRow]) -> list[list[int]]:
    """Groups of at least two rows whose images are the same file or look alike, in the order of their first rows."""
    first_of: dict[bytes, int] = {}
    links = []
    for i, row in enumerate(rows):
        if row.image is not None and (first := first_of.setdefault(row.image.digest, i)) != i:
            links.append((first, i))
    unique = [i for i in first_of.values() if _fingerprint(rows[i]) is not None]
    prints = np.array([_fingerprint(rows[i]) for i in unique], np.float32).reshape(-1, NUM_COEFFICIENTS)
    pairs = np.array(unique, np.int64)[near_pairs(prints)]
    numbers = components(len(rows), np.concatenate([np.array(links, np.int64).reshape(-1, 2), pairs]))
    members: dict[int, list[int]] = defaultdict(list)
    for i, number in enumerate(numbers.tolist()):
        members[number].append(i)
    return [group for group in members.values() if len(group) > 1]


def clusters(
    rows: Sequence[SeenRow], groups: Sequence[Sequence[int]], *, ignores_source: bool = False
) -> NDArray[np.int64]:
    """Which cluster each row is in: rows that share a source or whose images are related, directly or by others.

    Args:
        rows: N rows.
        groups: Of `related_images`.
        ignores_source: Count only the images, not the sources.

    Returns:
        int64 [N], numbered in the order of their first rows.
    """
    first_of: dict[str, int] = {}
    links = [(group[0], i) for group in groups for i in group[1:]]
    if not ignores_source:
        links += [(first_of.setdefault(row.source, i), i) for i, row in enumerate(rows) if row.source]
    return components(len(rows), np.array(links, np.int64).reshape(-1, 2)).astype(np.int64)


def labels_by_file(rows: Sequence[SeenRow]) -> dict[str, Counter[str]]:
    """How many rows of each file have each label, right or wrong; files in the order of their first rows."""
    counts: dict[str, Counter[str]] = defaultdict(Counter)
    for row in rows:
        counts[row.place.file][row.label] += 1
    return counts


def _fingerprint(row: SeenRow) -> NDArray[np.float32] | None:
    return row.image.fingerprint if row.image is not None else None


def _copies(rows: Sequence[SeenRow], groups: Iterable[Sequence[int]]) -> Iterator[Finding]:
    for group in groups:
        by_digest: dict[bytes, list[SeenRow]] = defaultdict(list)
        for i in group:
            image = rows[i].image
            assert image is not None
            by_digest[image.digest].append(rows[i])
        for copies in by_digest.values():
            if len(copies) > 1:
                yield _copy_finding("duplicate", f"{len(copies)} rows hold the same image file", copies)
        if len(by_digest) > 1:
            members = [rows[i] for i in group]
            yield _copy_finding("near-duplicate", f"{len(by_digest)} images look alike", members)


def _copy_finding(rule: str, message: str, members: Sequence[SeenRow]) -> Finding:
    labels = sorted({row.label for row in members})
    files = sorted({row.place.file for row in members})
    if len(files) > 1:
        rule, message = f"{rule}-across-files", f"{message}, in {' and '.join(files)}"
    if len(labels) > 1:
        message = f"{message}, labelled {' and '.join(labels)}"
        rule = rule if len(files) > 1 else f"{rule}-across-labels"
    return Finding(rule, message, members[0].place, "image", others=tuple(row.place for row in members[1:]))


def _shared_sources(rows: Sequence[SeenRow]) -> Iterator[Finding]:
    places: dict[str, dict[str, Place]] = defaultdict(dict)
    for row in rows:
        if row.source:
            places[row.source].setdefault(row.place.file, row.place)
    for source, by_file in places.items():
        if len(by_file) > 1:
            first, *others = by_file.values()
            message = f"{shown(source)} is in {' and '.join(by_file)}"
            yield Finding("source-across-files", message, first, "source", shown(source), tuple(others))


def _balance(rows: Sequence[SeenRow]) -> Iterator[Finding]:
    for file, counts in labels_by_file(rows).items():
        few, many = sorted(counts[verdict] for verdict in Verdict)
        if many > MAX_CLASS_RATIO * few:
            message = f"{counts[Verdict.REAL]} real and {counted(counts[Verdict.GENERATED], 'generated image')}"
            yield Finding("class-balance", message, Place(file), "label")
    first_of: dict[str, Place] = {}
    for row in rows:
        if row.label == Verdict.GENERATED:
            first_of.setdefault(row.generator, row.place)
    generators = Counter(row.generator for row in rows if row.label == Verdict.GENERATED)
    if not generators:
        return
    usual = median(generators.values())
    for generator, count in sorted(generators.items()):
        if count < min(MIN_GENERATOR_IMAGES, usual / 2) or count < usual / 10:
            message = f"{shown(generator)} has {counted(count, 'image')}, the median generator {usual:g}"
            file = first_of[generator].file
            yield Finding("generator-balance", message, Place(file), "generator", shown(generator))


def _captions(rows: Sequence[SeenRow]) -> Iterator[Finding]:
    counts = Counter(caption for row in rows for caption in row.captions)
    total = sum(counts.values())
    for caption, count in counts.most_common():
        if count < max(MIN_REPEATED_CAPTIONS, REPEATED_CAPTION_FRAC * total):
            break
        places = [row.place for row in rows if caption in row.captions]
        message = f"{shown(caption)} is the caption of {count} of {counted(total, 'region')}"
        yield Finding("caption-everywhere", message, places[0], "regions", shown(caption), tuple(places[1:MAX_OTHERS]))
