"""The page of a dataset's facts: whole, safe to open, and there for any dataset."""

import json
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from fxray.data.statistics import summarise
from fxray.errors import ConfigError
from fxray.report import dataset_charts
from fxray.report.dataset_charts import MAX_NAMES, draw_charts
from fxray.report.dataset_page import facts_of, write_statistics
from fxray.schema import Annotation, Box, Region, Sample, Tag, Verdict

NASTY = "<script>alert(1)</script> $x_1$ \n é漢"


def sample(number, name="sdxl", category="dog", caption="hand fused"):
    annotation = Annotation(Verdict.GENERATED, (Region(Box(0, 0, 5, 5 + number % 5), caption),), (Tag.TEXTURE,))
    return Sample(f"s{number}", 10, 10, annotation, name, category, "web", name)


class Tags(HTMLParser):
    def __init__(self):
        super().__init__()
        self.found = []

    def handle_starttag(self, tag, attrs):
        self.found.append((tag, dict(attrs)))


def test_page_pictures_and_numbers(tmp_path):
    statistics = summarise([sample(k) for k in range(8)])
    page = write_statistics(statistics, tmp_path / "out", name="a.parquet", is_synthetic=True)
    parser = Tags()
    parser.feed(page.read_text())
    sources = [attrs["src"] for tag, attrs in parser.found if tag == "img"]
    assert len(sources) == 7
    assert all(source.startswith("data:image/png;base64,") for source in sources)
    assert "SYNTHETIC" in page.read_text()
    assert json.loads((tmp_path / "out" / "statistics.json").read_text()) == statistics.to_json()
    for picture in (tmp_path / "out").glob("*.png"):
        pixels = np.asarray(Image.open(picture).convert("L"))
        assert pixels.min() < 100 < 250 < pixels.max()  # something is drawn on white


def test_a_photograph_counts_for_no_generator():
    photograph = Sample("r", 10, 10, Annotation(Verdict.REAL), "real", "dog", "web", "r")
    assert dict(facts_of(summarise([photograph, sample(1), sample(2, "flux")])))["generators, categories"] == "2, 1"


@pytest.mark.filterwarnings("error")  # matplotlib's, of a letter that its font lacks
def test_nasty_names_are_text(tmp_path):
    statistics = summarise([sample(k, name=NASTY, category=NASTY, caption="w " * 300) for k in range(3)])
    page = write_statistics(statistics, tmp_path / "out", name=NASTY, is_synthetic=False)
    parser = Tags()
    parser.feed(page.read_text())
    assert "script" not in {tag for tag, _ in parser.found}
    assert "&lt;script&gt;" in page.read_text()


@pytest.mark.parametrize("verdict", list(Verdict))
def test_a_dataset_without_marks_has_a_page(tmp_path, verdict):
    samples = [Sample("a", 5, 5, Annotation(verdict), "", "", "web")]
    page = write_statistics(summarise(samples), tmp_path / "out", name="a", is_synthetic=False)
    names = {path.name for path in page.parent.glob("*.png")}
    assert "generators.png" in names
    assert "heat-map.png" not in names
    assert dict(facts_of(summarise(samples)))["words per caption"] == "–"


def test_many_generators_are_put_together(tmp_path):
    samples = [sample(k, name=f"generator {k}", category=f"c{k % 90}") for k in range(300)]
    write_statistics(summarise(samples), tmp_path / "out", name="a", is_synthetic=False)
    with Image.open(tmp_path / "out" / "generators.png") as picture:
        assert max(picture.size) < 40 * (MAX_NAMES + 40)
    numbers = json.loads((tmp_path / "out" / "statistics.json").read_text())
    assert len(numbers["generators"]) == 300


@pytest.mark.parametrize("longest", [1, 60, 119, 120, 121, 125, 179, 200])
def test_the_picture_of_captions_holds_the_longest_one(tmp_path, monkeypatch, longest):
    figures = []
    monkeypatch.setattr(dataset_charts, "FigureCanvasAgg", figures.append)
    monkeypatch.setattr(dataset_charts.Figure, "savefig", lambda *_, **__: None)
    statistics = summarise([sample(k, caption="w " * words) for k, words in enumerate((1, longest, longest))])
    draw_charts(statistics, tmp_path)
    (axes,) = [f.axes[0] for f in figures if f.axes[0].get_title(loc="left") == "Words per caption"]
    assert sum(bar.get_height() for bar in axes.patches) == 3


def test_a_foreign_folder_is_left_alone(tmp_path):
    (tmp_path / "mine.txt").write_text("mine")
    with pytest.raises(ConfigError):
        write_statistics(summarise([sample(0)]), tmp_path, name="a", is_synthetic=False)
    assert [path.name for path in tmp_path.iterdir()] == ["mine.txt"]


def test_what_else_lies_beside_the_numbers_is_never_deleted(tmp_path):
    statistics = summarise([Sample("a", 5, 5, Annotation(Verdict.REAL), "", "", "web")])  # of which one picture tells
    for _ in range(2):  # its own page is replaced
        write_statistics(statistics, tmp_path / "out", name="a", is_synthetic=False)
    (tmp_path / "out" / "data.parquet").write_bytes(b"mine")
    with pytest.raises(ConfigError, match=r"holds data\.parquet"):
        write_statistics(statistics, tmp_path / "out", name="a", is_synthetic=False)
    assert (tmp_path / "out" / "data.parquet").read_bytes() == b"mine"


def test_the_folder_that_one_is_in_is_refused_in_words(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ConfigError, match="in which the command runs"):
        write_statistics(summarise([sample(0)]), Path(), name="a", is_synthetic=False)
