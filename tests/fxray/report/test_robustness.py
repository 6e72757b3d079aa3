"""Tables and curves of robustness: the paper's numbers stand apart, and nothing is computed from them."""

import csv

from fxray.report.robustness import PAPER, write_robustness


def numbers(accuracy, iou, gain=None):
    def estimate(value):
        return {"value": value, "low": value and value - 0.1, "high": value and value + 0.1}

    gains = {"metrics": {"accuracy": estimate(gain), "iou": estimate(None)}} if gain else None
    overall = {"accuracy": estimate(accuracy), "iou": estimate(iou)}
    return {"overall": overall, "gain": gains, "is_synthetic": True}


def test_every_format_shows_the_same_numbers_with_the_papers_in_grey(tmp_path):
    measured = {
        "original": numbers(0.8, 0.5),
        "jpeg-80": numbers(0.7, 0.4, gain=-0.1),
        "blur-2": numbers(0.6, None, gain=-0.2),
    }
    titles = {"jpeg-80": "JPEG, quality 80", "blur-2": "blur & <more>, 2 px"}
    key, sources = {"seed": 7, "data_sha256": "abc", "commit": "def"}, ["photo 1", "photo 2", "photo 2"]
    report = write_robustness(tmp_path, measured, titles, key, sources)
    text = {ending: (tmp_path / f"robustness.{ending}").read_text() for ending in ("md", "tex", "csv", "html", "svg")}
    assert report.rows[1].cells == ("0.700 [0.600, 0.800]", "0.400 [0.300, 0.500]", "-0.100 [-0.200, +0.000]", "–")
    for ending in ("md", "tex", "csv", "html"):
        assert "0.700 [0.600, 0.800]" in text[ending]
        assert all(fact in text[ending] for fact in ("SYNTHETIC", "seed 7", "data_sha256 abc", "commit def", "Table 5"))
        assert "Test set: 3 images of 2 sources; intervals are about images of these sources" in text[ending]
    assert '<span style="color:#999">0.978</span>' in text["md"]
    assert r"\textcolor{gray}{0.978}" in text["tex"]
    assert r"blur \& " in text["tex"]
    assert '<td class="paper">0.978</td>' in text["html"]
    assert "blur &amp; &lt;more&gt;" in text["html"]
    assert "<svg" in text["html"]
    rows = list(csv.reader(line for line in text["csv"].splitlines() if not line.startswith("#")))
    assert rows[0][-2:] == ["paper: accuracy", "paper: IoU"]
    assert [row[-2:] for row in rows[1:]] == [["0.981", "0.352"], ["0.978", "0.350"], ["", ""]]
    assert (tmp_path / "robustness.png").read_bytes().startswith(b"\x89PNG")
    assert "<text" in text["svg"]


def test_an_interval_of_one_resample_may_lie_beside_its_value(tmp_path):
    beside = numbers(0.8, 0.5)
    beside["overall"]["accuracy"] = {"value": 0.8, "low": 0.85, "high": 0.85}
    write_robustness(tmp_path, {"original": beside, "jpeg-80": beside}, {"jpeg-80": "JPEG"}, {})
    assert (tmp_path / "robustness.png").read_bytes().startswith(b"\x89PNG")


def test_a_bound_that_no_resample_gave_is_left_out(tmp_path):
    measured = numbers(0.8, 0.5)
    measured["overall"]["iou"] = {"value": 0.5, "low": None, "high": None}
    report = write_robustness(tmp_path, {"original": measured, "jpeg-80": measured}, {"jpeg-80": "JPEG"}, {})
    assert report.rows[1].cells[:2] == ("0.800 [0.700, 0.900]", "0.500 [–, –]")
    assert (tmp_path / "robustness.png").read_bytes().startswith(b"\x89PNG")


def test_the_papers_numbers_are_of_changes_that_are_measured():
    from fxray.data.changes import HARDSHIPS

    assert PAPER.keys() - {"original"} <= {change.name for change in HARDSHIPS}
