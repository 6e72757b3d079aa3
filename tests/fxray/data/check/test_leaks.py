"""The leak probe finds planted leaks of every kind and is silent where both classes went the same way."""

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sklearn.metrics import roc_auc_score
from small_datasets import balanced, encoded, write

from fxray.data.check.check import check
from fxray.data.check.images import FileFacts
from fxray.data.check.leaks import auroc, probe

LEAKS = {"leak", "leak-weak"}


def facts(rng: np.random.Generator, **changes: object) -> FileFacts:
    """A file as a camera's folder has them: three sizes, sizes in bytes that vary, one encoder."""
    side = int(rng.choice([512, 768, 1024]))
    usual = {
        "format": "JPEG",
        "num_bytes": int(side * side * rng.uniform(0.1, 0.4)),
        "width_px": side,
        "height_px": int(rng.choice([512, 768])),
        "quantisation": (int(rng.choice([200, 369, 555])), 400),
        "subsampling": 2,
    }
    return FileFacts(**(usual | changes))


def probed(num: int, seed: int, **leak: object):
    rng = np.random.default_rng(seed)
    truth = np.arange(num) % 2 == 1
    files = [facts(rng, **(leak if is_generated else {})) for is_generated in truth]
    return probe(files, truth, np.arange(num), seed=seed)


@pytest.mark.parametrize(
    ("leak", "name"),
    [
        ({"format": "PNG"}, "format"),
        ({"width_px": 513}, "width"),
        ({"quantisation": (90, 100)}, "JPEG quantisation"),
        ({"height_px": 640}, "height"),
        ({"num_bytes": 900_000}, "bytes"),
    ],
)
def test_a_leak_of_each_kind_is_found_and_named(leak: dict[str, object], name: str) -> None:
    together, *alone = probed(120, seed=0, **leak)
    assert together.low > 0.95
    assert name in {signal.name for signal in alone if signal.low > 0.9}
    assert alone == sorted(alone, key=lambda signal: -signal.auroc)


def test_the_probe_is_silent_on_ten_clean_sets() -> None:
    for seed in range(10):
        together = probed(300, seed)[0]
        assert together.low < 0.6
        assert 0.3 < together.auroc < 0.65


def test_too_few_images_or_groups_are_not_probed() -> None:
    assert probed(70, seed=0) is None
    truth = np.arange(200) % 2 == 1
    files = [facts(np.random.default_rng(i)) for i in range(200)]
    assert probe(files, truth, np.arange(200) % 4) is None


def test_rows_of_a_group_are_never_trained_on_and_scored() -> None:
    """Each group has a size of its own and one label: known by heart, it tells nothing of other groups."""
    rng = np.random.default_rng(0)
    groups = np.repeat(np.arange(40), 10)
    truth = rng.permutation(np.arange(40) % 2 == 1)[groups]
    files = [facts(rng, width_px=500 + int(g), num_bytes=50_000) for g in groups]
    assert probe(files, truth, groups)[0].low < 0.6
    assert probe(files, truth, np.arange(400))[0].low > 0.9


def test_sources_that_each_have_a_size_of_their_own_are_no_leak() -> None:
    """20 cameras, half of them of each class: which size goes with which class is chance, however many their images."""
    hints = 0
    for seed in range(10):
        rng = np.random.default_rng(seed)
        cameras = np.repeat(np.arange(20), 20)
        sides = rng.integers(300, 2000, 20)
        files = [facts(rng, width_px=int(side), height_px=int(side), num_bytes=50_000) for side in sides[cameras]]
        hints += probe(files, cameras % 2 == 1, cameras)[0].low > 0.6
    assert hints == 0  # 2 where rows are drawn one by one


@given(st.data())
def test_auroc_is_that_of_scikit_learn(data: st.DataObject) -> None:
    num = data.draw(st.integers(2, 40))
    truth = np.array(data.draw(st.lists(st.booleans(), min_size=num, max_size=num)))
    scores = np.array(data.draw(st.lists(st.integers(0, 5), min_size=num, max_size=num)), float)
    counts = np.array(data.draw(st.lists(st.integers(0, 3), min_size=num, max_size=num)))
    rows = np.repeat(np.arange(num), counts)
    if len(set(truth[rows].tolist())) < 2:
        assert np.isnan(auroc(scores, truth, counts))
    else:
        assert auroc(scores, truth, counts) == pytest.approx(roc_auc_score(truth[rows], scores[rows]))


def test_all_fakes_png_and_all_reals_jpeg_is_an_error_with_its_auroc(tmp_path: Path) -> None:
    rows = balanced(120, lambda image, is_generated: encoded(image, "PNG" if is_generated else "JPEG"))
    found = check([write(tmp_path / "a.parquet", rows)])
    (leak,) = [f for f in found.findings if f.rule in LEAKS]
    assert leak.rule == "leak"
    assert "format" in leak.message
    assert float(leak.value) > 0.98
    assert found.exit_code == 4


def test_a_leak_is_found_where_sources_name_collections(tmp_path: Path) -> None:
    rows = balanced(120, lambda image, is_generated: encoded(image, "PNG" if is_generated else "JPEG"))
    named = [row | {"source": "sdxl" if row["label"] == "generated" else "imagenet"} for row in rows]
    assert "leak" in {f.rule for f in check([write(tmp_path / "a.parquet", named)]).findings}


def test_another_quality_is_a_leak_and_the_same_one_is_none(tmp_path: Path) -> None:
    leaking = balanced(120, lambda image, is_generated: encoded(image, quality=95 if is_generated else 90))
    clean = balanced(120, lambda image, _: encoded(image, quality=90))
    assert "leak" in {f.rule for f in check([write(tmp_path / "a.parquet", leaking)]).findings}
    found = check([write(tmp_path / "b.parquet", clean)])
    assert found.signals is not None
    assert not LEAKS & {f.rule for f in found.findings}
    assert found.findings == ()
    assert found.exit_code == 0
