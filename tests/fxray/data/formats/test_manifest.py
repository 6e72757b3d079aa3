import json

import pytest

from fxray.errors import DataError
from fxray.schema import Box, Region, Tag, Verdict


def test_csv_is_read(picture, written, imported):
    picture("a, b.png"), picture("c.png")
    regions = json.dumps([{"box": [1, 2, 3.5, 4], "caption": "Auge, doppelt — 目"}], ensure_ascii=False)
    cell = regions.replace('"', '""')
    text = (
        "\ufeffimage,label,tags,regions,generator,source,sample_id\n"
        f'"a, b.png",generated,texture errors; Unknown Objects,"{cell}",sdxl,web,one\n'
        "c.png,real,,,,,\n"
    )
    found = imported("manifest", written("list.csv", text), label=None)
    one = found.samples["one"]
    assert one.annotation.regions == (Region(Box(1, 2, 3.5, 4), "Auge, doppelt — 目"),)
    assert one.annotation.tags == (Tag.TEXTURE, Tag.UNKNOWN)
    assert (one.generator, one.source, one.category) == ("sdxl", "web", "unknown")
    real = found.samples["c.png"]
    assert (real.annotation.verdict, real.generator, real.source) == (Verdict.REAL, "real", "c.png")


def test_a_backslash_may_be_part_of_a_name_or_stand_between_folders(picture, written, imported):
    picture("a\\b.png"), picture("c/d.png")
    found = imported("manifest", written("list.csv", "image\na\\b.png\nc\\d.png\n"))
    assert (sorted(found.samples), found.findings) == (["a\\b.png", "c\\d.png"], [])


def test_json_lines_are_read_and_a_photograph_is_turned(picture, written, imported):
    picture("a.jpg", orientation=8)
    row = {"image": "a.jpg", "regions": [{"box": [0, 150, 100, 200], "caption": "foot cut"}]}
    found = imported("manifest", written("list.jsonl", json.dumps(row)), generator="dalle", category="cat")
    sample = found.samples["a.jpg"]
    assert (sample.width_px, sample.height_px, sample.generator, sample.category) == (100, 200, "dalle", "cat")
    assert sample.annotation.regions == (Region(Box(0, 150, 100, 200), "foot cut"),)


@pytest.mark.parametrize(
    ("box", "kept", "is_told"),
    [
        ([-1, 0, 20, 101], Box(0, 0, 20, 100), False),  # tools round
        ([-1.5, 0, 20, 30], Box(0, 0, 20, 30), True),
        ([0, 90, 20, 102], Box(0, 90, 20, 100), True),
        ([-1e300, -1e300, 1e300, 1e300], Box(0, 0, 200, 100), True),
    ],
)
def test_a_box_over_the_border_is_cut_there_and_told(picture, written, imported, box, kept, is_told):
    picture("a.png")
    row = {"image": "a.png", "regions": [{"box": box, "caption": "x"}]}
    found = imported("manifest", written("list.jsonl", json.dumps(row)))
    assert [region.box for region in found.samples["a.png"].annotation.regions] == [kept]
    assert [(each["field"], each["is_warning"]) for each in found.findings] == [("regions[0].box", True)] * is_told


@pytest.mark.parametrize(
    ("unit", "box"),
    [("percent", [5, 10, 30, 40]), ("permille", [50, 100, 300, 400]), ("fraction", [0.05, 0.1, 0.3, 0.4])],
)
@pytest.mark.parametrize(("frame", "expected"), [("displayed", [5, 20, 30, 80]), ("stored", [60, 10, 90, 60])])
def test_parts_of_the_sides_are_of_the_raster_that_is_said(picture, written, imported, unit, box, frame, expected):
    picture("a.jpg", orientation=6)  # 200x100 as stored, 100x200 upright: what is left as stored is on top
    row = {"image": "a.jpg", "regions": [{"box": box, "caption": "x"}]}
    found = imported("manifest", written("list.jsonl", json.dumps(row)), unit=unit, frame=frame)
    assert [*found.samples["a.jpg"].annotation.regions[0].box] == pytest.approx(expected, abs=1e-4)


def test_what_a_row_says_comes_before_what_is_said_of_all_rows(picture, written, imported):
    picture("a.png"), picture("b.png")
    told = {"label": "real", "generator": "camera", "category": "cat", "source": "home"}
    rows = [{"image": "a.png"} | told, {"image": "b.png"}]
    of_all = {"label": Verdict.GENERATED, "generator": "sdxl", "category": "dog", "source": "web", "id_prefix": "x/"}
    found = imported("manifest", written("list.jsonl", "\n".join(map(json.dumps, rows))), **of_all)
    assert {
        name: (each.annotation.verdict, each.generator, each.category, each.source)
        for name, each in found.samples.items()
    } == {"x/a.png": (Verdict.REAL, "camera", "cat", "home"), "x/b.png": (Verdict.GENERATED, "sdxl", "dog", "web")}


def test_nan_is_what_a_row_lacks(picture, written, imported):
    """As pandas has it, and Python's json writes it; as a text it would be one source for all rows."""
    names = ("sample_id", "generator", "category", "source", "annotator", "tags", "regions")
    rows = [
        {"image": picture(name).name, "label": "fake"} | dict.fromkeys(names, float("nan"))
        for name in ("a.png", "b.png")
    ]
    found = imported("manifest", written("list.jsonl", "\n".join(map(json.dumps, rows))))
    assert {sample.source for sample in found.samples.values()} == set(found.samples) == {"a.png", "b.png"}
    one = found.samples["a.png"]
    assert (one.generator, one.category, one.annotator) == ("unknown", "unknown", None)
    assert (one.annotation.tags, one.annotation.regions) == ((), ())


@pytest.mark.parametrize(
    ("row", "field"),
    [
        ({"image": "gone.png"}, "image"),
        ({"label": "real"}, "image"),
        ({"image": "a.png", "lable": "real"}, "lable"),
        ({"image": "a.png", "label": "perhaps"}, "label"),
        ({"image": "a.png", "label": "real", "regions": [{"box": [1, 2, 3, 4], "caption": "x"}]}, "regions[0].box"),
        ({"image": "a.png", "regions": [{"box": [1, 2, 3, 4]}]}, "regions[0].caption"),
        ({"image": "a.png", "regions": [{"box": [1, 2, 3, 4], "caption": "<|box_start|>"}]}, "regions[0].box"),
        ({"image": "a.png", "regions": [{"box": [1, 2, True, 4], "caption": "x"}]}, "regions[0].box"),
        ({"image": "a.png", "regions": [{"box": [500, 2, 600, 4], "caption": "x"}]}, "regions[0].box"),
        ({"image": "a.png", "regions": "all"}, "regions"),
        ({"image": "a.png", "tags": ["bad taste"]}, "tags"),
        ({"image": "a.png", "tags": [1]}, "tags[0]"),
        ({"image": "a.png", "generator": "half of a pair: \ud800"}, "generator"),
        ({"image": "a.png\0"}, "image"),
        ({"image": "x" * 5000}, "image"),
        ([], "row"),
    ],
)
def test_what_cannot_be_read_is_named(picture, written, imported, row, field):
    picture("a.png")
    src = written("list.jsonl", json.dumps({"image": "a.png"}) + "\n\n" + json.dumps(row) + "\n")
    found = imported("manifest", src)
    assert [(finding["row"], finding["field"]) for finding in found.findings] == [("line 3", field)]
    assert all(len(finding["value"]) <= 120 for finding in found.findings)


def test_who_labels_with_words_of_their_own_hears_of_mappings(picture, written, imported):
    picture("a.png")
    (finding,) = imported("manifest", written("list.csv", "image,label\na.png,real\na.png,1\n")).findings
    assert "a mapping file says by `labels` what others mean" in finding["reason"]


def test_an_import_without_a_row_shows_each_reason(picture, written, imported):
    picture("a.png")
    gone, odd = "".join(f"{name}.png,real\n" for name in "bcde"), "a.png,perhaps\n" * 9
    with pytest.raises(DataError, match=r"(?s)13 entries.*b\.png.*perhaps.*c\.png.*and 10 more"):
        imported("manifest", written("list.csv", f"image,label\n{gone}{odd}"))


def test_a_list_that_is_no_utf_8_is_called_so(written, imported):
    src = written("list.csv", "")
    src.write_text("image\nBär.png\n", encoding="latin-1")
    with pytest.raises(DataError, match="no UTF-8, as which it has to be saved"):
        imported("manifest", src)


def test_a_box_over_the_border_is_cut_there_and_that_is_said(picture, written, imported):
    picture("a.png")
    far = {
        "image": "a.png",
        "regions": [{"box": [-5, 10, 250, 90], "caption": "x"}, {"box": [-0.4, 0, 200.4, 9], "caption": "y"}],
    }
    found = imported("manifest", written("list.jsonl", json.dumps(far)))
    assert [region.box for region in found.samples["a.png"].annotation.regions] == [
        Box(0, 10, 200, 90),
        Box(0, 0, 200, 9),
    ]
    assert [(finding["field"], finding["is_warning"]) for finding in found.findings] == [("regions[0].box", True)]


def test_line_breaks_in_captions_become_spaces(picture, written, imported):
    picture("a.png")
    row = {"image": "a.png", "regions": [{"box": [1, 2, 3, 4], "caption": "hand  fused\r\nthumb\u2028gone"}]}
    found = imported("manifest", written("list.jsonl", json.dumps(row)))
    assert found.samples["a.png"].annotation.regions[0].caption == "hand  fused thumb gone"


def test_a_list_without_its_column_is_refused(written, imported):
    with pytest.raises(DataError, match="expected one named image"):
        imported("manifest", written("list.csv", "path,label\na.png,real\n"))


def test_a_column_that_stands_twice_is_refused(written, imported):
    with pytest.raises(DataError, match="several columns label"):
        imported("manifest", written("list.csv", "image,label,label\na.png,real,generated\n"))


def test_cells_that_do_not_fit_are_named(picture, written, imported):
    picture("a.png")
    text = 'image,regions\na.png,\na.png,,extra\na.png,"[{"\na.png,"never closed\n'
    found = imported("manifest", written("list.csv", text))
    assert [finding["field"] for finding in found.findings] == ["row", "regions", "file"]
    assert len(found.samples) == 1


def test_a_row_that_is_cut_short_is_refused(picture, written, imported):
    for name in ("a.png", "b.png", "c.png"):
        picture(name)
    found = imported("manifest", written("list.csv", "image,label,source\na.png,real,\nb.png\n\nc.png,real"))
    assert list(found.samples) == ["a.png"]
    assert [(each["row"], each["reason"]) for each in found.findings] == [
        ("line 3", "fewer cells than columns"),
        ("line 5", "fewer cells than columns"),
    ]
