"""The rules of the set at their limits, on rows without images."""

from itertools import count

import numpy as np
import pytest

from fxray.data.check.findings import Place
from fxray.data.check.images import FileFacts
from fxray.data.check.leaks import file_features
from fxray.data.check.scan import SeenRow
from fxray.data.check.whole import clusters, whole_findings
from fxray.schema import Verdict


def rows(captions: int = 0, **generators: int) -> list[SeenRow]:
    """So many images of each generator, "real" among them; the first so many have one caption, the others their own."""
    number, found = count(), []
    for generator, num in generators.items():
        label = Verdict.REAL if generator == "real" else Verdict.GENERATED
        for _ in range(num):
            i = next(number)
            said = ("hand odd",) if i < captions else (f"flaw {i}",)
            found.append(SeenRow(Place("a", i), label, generator, f"photo {i}", said, None))
    return found


def broken(found: list[SeenRow]) -> list[tuple[str, str]]:
    return [(finding.rule, finding.value) for finding in whole_findings(found, [])]


@pytest.mark.parametrize(
    ("generators", "few"),
    [
        ({"a": 100, "b": 100, "c": 10}, []),  # a tenth of the median, and ten
        ({"a": 100, "b": 100, "c": 9}, ["'c'"]),
        ({"a": 1000, "b": 1000, "c": 99}, ["'c'"]),  # less than a tenth
        ({"a": 12, "b": 12, "c": 6}, []),  # half of what is usual
        ({"a": 12, "b": 12, "c": 5}, ["'c'"]),
    ],
)
def test_a_generator_with_few_images_is_told_from_half_the_median_up_to_ten(generators, few) -> None:
    found = broken(rows(real=sum(generators.values()), **generators))
    assert found == [("generator-balance", name) for name in few]


@pytest.mark.parametrize(("num_real", "is_told"), [(40, False), (39, True), (90, False), (91, True)])
def test_classes_may_differ_by_half(num_real: int, is_told: bool) -> None:
    assert [rule for rule, _ in broken(rows(real=num_real, a=60))] == ["class-balance"] * is_told


@pytest.mark.parametrize(
    ("repeated", "total", "is_told"), [(19, 40, False), (20, 40, True), (49, 1000, False), (50, 1000, True)]
)
def test_a_caption_is_everywhere_from_twenty_and_a_twentieth(repeated: int, total: int, is_told: bool) -> None:
    found = broken(rows(repeated, a=total // 2, real=total // 2))
    assert found == [("caption-everywhere", "'hand odd'")] * is_told


def test_rows_hang_together_by_source_and_by_look() -> None:
    found = rows(a=6)
    found[3] = SeenRow(Place("a", 3), Verdict.REAL, "real", "photo 1", (), None)
    found[4] = SeenRow(Place("a", 4), Verdict.REAL, "real", "", (), None)  # two rows without a source share none
    found[5] = SeenRow(Place("a", 5), Verdict.REAL, "real", "", (), None)
    assert clusters(found, []).tolist() == [0, 1, 2, 1, 3, 4]
    assert clusters(found, [[0, 3], [2, 5]]).tolist() == [0, 0, 1, 0, 2, 1]
    assert clusters(found, [[0, 3], [2, 5]], ignores_source=True).tolist() == [0, 1, 2, 0, 3, 2]


def test_the_features_of_a_file_by_hand() -> None:
    (row,) = file_features([FileFacts("JPEG", 1024, 32, 16, (7, 9), 2)])
    assert row[1:].tolist() == [10, 16, 32, 16, 2, 7, 9, 2]  # log2 of bytes, bits a pixel, sides, aspect, tables
    other, unknown = file_features([FileFacts(form, 1024, 32, 16, (0, 0), -1) for form in ("PNG", "?")])
    assert len({row[0], other[0], unknown[0]}) == 3
    assert np.isfinite(other).all()
