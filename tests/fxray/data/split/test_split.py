"""Splits of random datasets: no source, copy or look-alike on two sides, as many real as generated, one per seed."""

import dataclasses
import io
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from small_datasets import balanced, encoded, picture, row, write
from split_settings import USUAL

from fxray.data.check.check import check
from fxray.data.dataset import Dataset
from fxray.data.split.plan import read_plan, write_plan
from fxray.data.split.schemes import LEFT_OUT, PART_NAMES, TEST, TRAIN, VALIDATION
from fxray.data.split.settings import Scheme
from fxray.data.split.split import Split, split
from fxray.errors import DataError

GENERATORS = ("sdxl", "biggan", "dit", "flux")
USED = (TRAIN, VALIDATION, TEST)


@pytest.fixture(scope="module")
def pictures() -> list[tuple[bytes, list[bytes]]]:
    """Sixty pictures that look like nothing else, each as a file and as near copies of it in other clothes."""
    found = []
    for seed in range(60):
        image = picture(seed, side=48)
        smaller = image.resize((40, 40)).resize((48, 48))
        found.append((encoded(image), [encoded(image, quality=50), encoded(smaller, "PNG")]))
    return found


def random_rows(rng: np.random.Generator, pictures: list[tuple[bytes, list[bytes]]]) -> list[dict]:
    """Rows of both classes, some of shared sources, some look-alikes, some plain copies, across labels too."""
    num = int(rng.integers(40, 61))
    rows = []
    for i in range(num):
        is_generated = bool(rng.random() < 0.5)
        rows.append(
            row(i, is_generated=is_generated, image=pictures[i][0], width_px=48, height_px=48)
            | {"generator": str(rng.choice(GENERATORS)) if is_generated else "real"}
        )
    for _ in range(int(rng.integers(0, 8))):
        i, j = rng.integers(num, size=2)
        rows[i]["source"] = rows[j]["source"]
    for _ in range(int(rng.integers(0, 6))):
        i, j = rng.integers(num, size=2)
        rows[i]["image"] = pictures[j][1][rng.integers(2)] if rng.random() < 0.7 else pictures[j][0]
        rows[i]["looks like"] = rows[j]["looks like"] = j
    return rows


def looks(rows: list[dict], pictures: list[tuple[bytes, list[bytes]]]) -> list[int]:
    """Which picture each row shows, whatever its clothes."""
    shown = {content: k for k, (plain, copies) in enumerate(pictures) for content in (plain, *copies)}
    return [shown[r["image"]] for r in rows]


@pytest.mark.parametrize("part", range(8))
def test_nothing_crosses_parts_in_two_hundred_random_datasets(
    tmp_path: Path, pictures: list[tuple[bytes, list[bytes]]], part: int
) -> None:
    refusals: list[str] = []
    for seed in range(25 * part, 25 * part + 25):
        rng = np.random.default_rng(seed)
        rows = random_rows(rng, pictures)
        shown = looks(rows, pictures)
        path = write(tmp_path / "a.parquet", [{k: v for k, v in r.items() if k != "looks like"} for r in rows])
        scheme = list(Scheme)[seed % 4]
        settings = dataclasses.replace(USUAL, scheme=scheme, seed=seed)
        try:
            result = split([path], settings)
        except DataError as error:
            refusals.append(error.message)
            continue
        for fold in result.plan.folds:
            parts = fold.parts_N.tolist()
            for key in ([r["source"] for r in rows], shown):
                sides: dict = {}
                for value, side in zip(key, parts, strict=True):
                    if side != LEFT_OUT:
                        assert sides.setdefault(value, side) == side, (seed, fold.name, value)
            for side in USED:
                labels = Counter(r["label"] for r, p in zip(rows, parts, strict=True) if p == side)
                assert labels["real"] == labels["generated"]
            if scheme in (Scheme.GENERATOR, Scheme.GROUP):
                by_key = {
                    (USUAL.groups[r["generator"]] if scheme is Scheme.GROUP else r["generator"], p)
                    for r, p in zip(rows, parts, strict=True)
                    if r["label"] == "generated" and p != LEFT_OUT
                }
                assert all((key == fold.name) == (p == TEST) for key, p in by_key)
    assert len(refusals) <= 5
    assert [refusal for refusal in refusals if "clusters that must not be cut" not in refusal] == []


def make(tmp_path: Path, rows: list[dict], **changes: object) -> Split:
    return split([write(tmp_path / "a.parquet", rows)], dataclasses.replace(USUAL, **changes))


def part_counts(result: Split, fold: int = 0) -> dict[str, int]:
    return {PART_NAMES[p]: c for p, c in Counter(result.plan.folds[fold].parts_N.tolist()).items()}


def test_each_row_is_tested_once_in_k_fold(tmp_path: Path) -> None:
    result = make(tmp_path, balanced(80))
    tests = np.array([fold.parts_N == TEST for fold in result.plan.folds])
    assert tests.sum(axis=0).tolist() == [1] * 80
    assert tests.sum(axis=1).tolist() == [20] * 4


def test_generators_are_spread_over_the_folds(tmp_path: Path) -> None:
    rows = balanced(160)
    for i, r in enumerate(rows):
        if r["label"] == "generated":
            r["generator"] = GENERATORS[i // 2 % 4]
    for fold in make(tmp_path, rows).plan.folds:
        tested = Counter(r["generator"] for r, p in zip(rows, fold.parts_N, strict=True) if p == TEST)
        assert tested == {"real": 20, "sdxl": 5, "biggan": 5, "dit": 5, "flux": 5}


def test_fixed_parts_have_their_shares(tmp_path: Path) -> None:
    result = make(tmp_path, balanced(100), scheme=Scheme.FIXED)
    assert part_counts(result) == {"train": 60, "validation": 20, "test": 20}
    two = {
        "scheme": Scheme.FIXED,
        "fractions": (0.8, 0.0, 0.2),
        "validation_frac": 0.1,
    }  # the latter is of other schemes
    assert part_counts(make(tmp_path, balanced(100), **two)) == {"train": 80, "test": 20}


def test_validation_is_a_share_of_the_training_rows(tmp_path: Path) -> None:
    result = make(tmp_path, balanced(160), validation_frac=0.1)
    assert part_counts(result) == {"train": 108, "validation": 12, "test": 40}


def test_the_surplus_of_a_class_is_left_out_or_kept(tmp_path: Path) -> None:
    rows = [row(i, is_generated=i % 4 > 0) for i in range(80)]
    assert part_counts(make(tmp_path, rows)) == {"train": 30, "test": 10, "left out": 40}
    assert part_counts(make(tmp_path, rows, keeps_all=True)) == {"train": 60, "test": 20}


def test_what_is_left_out_keeps_the_generators_in_proportion(tmp_path: Path) -> None:
    rows = [row(i, is_generated=i >= 40, generator="real" if i < 40 else GENERATORS[i % 4]) for i in range(200)]
    parts = make(tmp_path, rows).plan.folds[0].parts_N
    kept = Counter(r["generator"] for r, p in zip(rows, parts, strict=True) if p == TRAIN)
    assert kept["real"] == 30
    assert all(7 <= kept[name] <= 8 for name in GENERATORS)


def test_a_generator_that_shares_sources_with_others_is_held_out_by_source(tmp_path: Path) -> None:
    """Twelve photographs, each real, and redone by four generators: held-out sources are seen by no training row."""
    rows = [
        row(5 * s + k, is_generated=k > 0, source=f"photo {s}", generator=GENERATORS[k - 1] if k else "real")
        for s in range(12)
        for k in range(5)
    ]
    result = make(tmp_path, rows, scheme=Scheme.GENERATOR, test_frac=0.25)
    assert [fold.name for fold in result.plan.folds] == sorted(GENERATORS)
    for fold in result.plan.folds:
        tested = [r for r, p in zip(rows, fold.parts_N, strict=True) if p == TEST]
        trained = [r for r, p in zip(rows, fold.parts_N, strict=True) if p == TRAIN]
        assert Counter(r["generator"] for r in tested) == {fold.name: 3, "real": 3}
        assert not {r["source"] for r in tested} & {r["source"] for r in trained}
        assert fold.name not in {r["generator"] for r in trained}


def test_a_generator_that_is_spelled_in_two_ways_is_held_out_as_one(tmp_path: Path) -> None:
    rows = balanced(40)
    for i, r in enumerate(r for r in rows if r["label"] == "generated"):
        r["generator"] = ("SD 1.5", "dit", "sd-1.5", "GAN")[i % 4]
    told: list[str] = []
    settings = dataclasses.replace(USUAL, scheme=Scheme.GENERATOR)
    result = split([write(tmp_path / "a.parquet", rows)], settings, lambda e: told.append(getattr(e, "text", "")))
    folds = {fold.name: fold.parts_N for fold in result.plan.folds}
    assert list(folds) == ["GAN", "SD 1.5", "dit"]
    tested = {r["generator"] for r, p in zip(rows, folds["SD 1.5"], strict=True) if p == TEST}
    trained = {r["generator"] for r, p in zip(rows, folds["SD 1.5"], strict=True) if p == TRAIN}
    assert (tested, trained) == ({"SD 1.5", "sd-1.5", "real"}, {"GAN", "dit", "real"})
    assert "'sd-1.5' is held out with 'SD 1.5': one generator, spelled in two ways" in told


def test_sources_that_name_collections_can_be_ignored(tmp_path: Path) -> None:
    rows = [r | {"source": r["label"]} for r in balanced(80)]
    with pytest.raises(DataError, match="form 1 cluster that must not be cut") as caught:
        make(tmp_path, rows)
    assert "--ignore-source" in caught.value.remedy
    assert part_counts(make(tmp_path, rows, ignores_source=True)) == {"train": 60, "test": 20}


def test_many_generators_with_few_images_each_are_split_as_usual(tmp_path: Path) -> None:
    rows = balanced(160)
    for i, r in enumerate(rows):
        if r["label"] == "generated":
            r["generator"] = f"generator {i // 2 % 10}"
    for fold in make(tmp_path, rows, validation_frac=0.05).plan.folds:
        counts = Counter((r["label"], int(p)) for r, p in zip(rows, fold.parts_N, strict=True))
        assert counts["real", TEST] == counts["generated", TEST] == 20
        assert counts["real", VALIDATION] == counts["generated", VALIDATION] == 3


def test_a_refusal_names_the_class_that_lacks_and_no_option_that_was_given(tmp_path: Path) -> None:
    rows = [r | {"source": "one"} if r["label"] == "generated" else r for r in balanced(80)]
    with pytest.raises(DataError, match="no generated image in its train part: the generated images form 1 cluster"):
        make(tmp_path, rows, num_folds=2)
    with pytest.raises(DataError, match=r"must not be cut \(look-alikes\)") as caught:
        make(tmp_path, balanced(80), num_folds=60, ignores_source=True)
    assert "--ignore-source" not in caught.value.remedy
    with pytest.raises(DataError, match="there is no real image"):
        make(tmp_path, [r for r in balanced(80) if r["label"] == "generated"])


def test_the_same_seed_gives_the_same_split_and_another_another(tmp_path: Path) -> None:
    rows = balanced(80)
    first, again, other = (make(tmp_path, rows, seed=seed).plan for seed in (3, 3, 4))
    for name, plan in (("first", first), ("again", again), ("other", other)):
        write_plan(tmp_path / f"{name}.json", plan)
    assert (tmp_path / "first.json").read_bytes() == (tmp_path / "again.json").read_bytes()
    assert first.folds[0].parts_N.tolist() != other.folds[0].parts_N.tolist()
    back = read_plan(tmp_path / "first.json")
    assert [fold.parts_N.tolist() for fold in back.folds] == [fold.parts_N.tolist() for fold in first.folds]
    assert (back.sample_ids, back.checksum, back.seed) == (first.sample_ids, first.checksum, 3)
    assert back.files == (tmp_path / "a.parquet",)


def test_images_that_cannot_be_read_and_generators_without_group_are_refused(tmp_path: Path) -> None:
    rows = balanced(20)
    rows[7]["image"] = rows[7]["image"][:300]
    with pytest.raises(DataError, match=r"row 7 \(s7\)"):
        make(tmp_path, rows)
    rows = balanced(20)
    rows[3]["generator"] = "unheard of"
    with pytest.raises(DataError, match="no group for the generators 'unheard of'"):
        make(tmp_path, rows, scheme=Scheme.GROUP)
    with pytest.raises(DataError, match="so none can be held out"):
        make(tmp_path, balanced(20), scheme=Scheme.GENERATOR)


def test_one_id_in_two_files_is_refused(tmp_path: Path) -> None:
    paths = [write(tmp_path / name, balanced(20)) for name in ("a.parquet", "b.parquet")]
    with pytest.raises(DataError, match="'s0' also names"):
        split(paths, USUAL)


def test_a_file_that_is_given_twice_is_refused_before_its_images_are_looked_at(tmp_path: Path) -> None:
    path = write(tmp_path / "a.parquet", balanced(8))
    (tmp_path / "link.parquet").symlink_to(path)
    with pytest.raises(DataError, match="a file is given twice"):
        split([path, tmp_path / "link.parquet"], USUAL)
    assert not list(tmp_path.glob(".*"))


def test_the_parts_of_a_split_pass_the_check_and_a_careless_split_does_not(
    tmp_path: Path, pictures: list[tuple[bytes, list[bytes]]]
) -> None:
    """Look-alikes planted under other sources: cut by the order of rows they leak, dealt by the split they do not."""
    rows = [row(i, is_generated=i % 2 == 1, image=pictures[i][0], width_px=48, height_px=48) for i in range(60)]
    for i in range(10):
        rows[59 - i]["image"] = pictures[i * 2][1][i % 2]
    careless = [write(tmp_path / "x.parquet", rows[:45]), write(tmp_path / "y.parquet", rows[45:])]
    assert "near-duplicate-across-files" in {f.rule for f in check(careless).findings}
    parts = make(tmp_path, rows).plan.folds[0].parts_N
    careful = [
        write(tmp_path / f"{p}.parquet", [r for r, q in zip(rows, parts, strict=True) if q == p]) for p in (TRAIN, TEST)
    ]
    assert not [f for f in check(careful).findings if f.rule.endswith("-across-files")]
    assert len(Dataset.open(careful[1])) == 14 or len(Dataset.open(careful[1])) == 16
    assert Image.open(io.BytesIO(rows[0]["image"])).size == (48, 48)
