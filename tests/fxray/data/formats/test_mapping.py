"""Layouts nobody foresaw, described in YAML."""

from pathlib import Path

import pytest

from fxray.data.formats.mapping import load_mapping
from fxray.errors import ConfigError, DataError
from fxray.schema import Box, Region, Tag, Verdict

ARCHIVE = {
    "version": 2,
    "data": {
        "items": [
            {
                "file": {"name": "a.jpg"},
                "kind": "ai",
                "model": "sdxl",
                "flaws": [{"at": [10, 20, 30, 40], "what": "hand fused — 手", "why": "hand"}],
            },
            {"file": {"name": "b.png"}, "kind": "photo", "flaws": []},
        ]
    },
}
LAYOUT = """
rows: data.items
fields:
  image: file.name
  label: kind
  generator: model
  regions: 'flaws[*].{box: at, caption: what}'
  tags: flaws[*].why
boxes: xywh
labels: {ai: generated, photo: real}
tags: {hand: structure errors}
"""


def test_an_unknown_layout_needs_no_programming(picture, written, imported):
    picture("a.jpg", orientation=6), picture("b.png")
    found = imported("mapping", written("archive.json", ARCHIVE), mapping=written("layout.yaml", LAYOUT), label=None)
    first, second = found.samples["a.jpg"], found.samples["b.png"]
    assert first.annotation.regions == (Region(Box(10, 20, 40, 60), "hand fused — 手"),)
    assert (first.annotation.verdict, first.annotation.tags, first.generator) == (
        Verdict.GENERATED,
        (Tag.STRUCTURE,),
        "sdxl",
    )
    assert (second.annotation.verdict, second.generator) == (Verdict.REAL, "real")


def test_rows_may_be_the_values_of_an_object(picture, written, imported):
    picture("a.png"), picture("b.png")
    layout = "fields: {image: key, regions: 'value[].{box: p, caption: t}'}\nboxes: points\nunit: percent\n"
    data = {"a.png": [{"p": [[5, 10], [50, 20], [30, 50]], "t": "eye"}], "b.png": []}
    found = imported("mapping", written("a.json", data), mapping=written("layout.yaml", layout))
    assert found.samples["a.png"].annotation.regions == (Region(Box(10, 10, 100, 50), "eye"),)
    assert found.samples["b.png"].annotation.regions == ()


def test_lists_lines_and_folders_of_files_are_rows(picture, written, imported):
    picture("a.png")
    layout = written("layout.yaml", "fields: {image: i}\nframe: stored\n")
    as_list = imported("mapping", written("x/list.json", [{"i": "a.png"}]), mapping=layout, images=layout.parent)
    lines = imported("mapping", written("rows.jsonl", '{"i": "a.png"}\n{"i": 3}\n'), mapping=layout)
    folder = imported("mapping", written("x/more.json", [{"i": "a.png"}]).parent, mapping=layout, images=layout.parent)
    assert [len(found.samples) for found in (as_list, lines, folder)] == [1, 1, 2]
    assert [finding["field"] for finding in lines.findings] == ["image (i)"]


def test_labels_may_be_numbers_and_truth_values(picture, written, imported):
    picture("a.png")
    layout = written(
        "layout.yaml", "fields: {image: i, label: l}\nlabels: {0: real, 1: generated, 'true': generated}\n"
    )
    rows = [{"i": "a.png", "l": label} for label in (0, 1, True, "1")]
    found = imported("mapping", written("a.json", rows), mapping=layout, label=None)
    assert [sample.annotation.verdict for sample in found.samples.values()] == [
        Verdict.REAL,
        Verdict.GENERATED,
        Verdict.GENERATED,
        Verdict.GENERATED,
    ]


def test_tags_may_be_numbers_and_truth_values(picture, written, imported):
    picture("a.png")
    layout = written(
        "layout.yaml",
        "fields: {image: i, tags: t}\ntags: {3: structure errors, true: other anomalies, 0.5: texture errors}\n",
    )
    rows = [{"i": "a.png", "t": tags} for tags in (3, [3], "3", [True, "3"], 0.5, None, "3; 0.5", [[3]], {})]
    found = imported("mapping", written("a.json", rows), mapping=layout)
    assert [sample.annotation.tags for sample in found.samples.values()] == [
        (Tag.STRUCTURE,),
        (Tag.STRUCTURE,),
        (Tag.STRUCTURE,),
        (Tag.OTHER, Tag.STRUCTURE),
        (Tag.TEXTURE,),
        (),
        (Tag.STRUCTURE, Tag.TEXTURE),
    ]
    assert [(finding["row"], finding["field"]) for finding in found.findings] == [
        ("row 7", "tags[0]"),
        ("row 8", "tags"),
    ]


def test_rows_that_do_not_fit_are_named(picture, written, imported):
    picture("b.png")
    rows = [
        ARCHIVE["data"]["items"][1],
        {"file": "no object"},
        {"file": {"name": "b.png"}, "kind": "ai", "flaws": [{"at": [1, 2, 3], "what": "x", "why": "hand"}]},
        {"file": {"name": "b.png"}, "kind": "ai", "flaws": [{"at": [1, 2, 3, 4], "what": None, "why": "hand"}]},
        {"file": {"name": "b.png"}, "kind": "ai", "flaws": [{"at": [1, 2, 3, 4], "what": "x", "why": "taste"}]},
        {"file": {"name": "b.png"}, "kind": "drawing", "flaws": []},
    ]
    found = imported("mapping", written("a.json", {"data": {"items": rows}}), mapping=written("layout.yaml", LAYOUT))
    assert [(finding["row"], finding["field"]) for finding in found.findings] == [
        ("row 1", "image (file.name)"),
        ("row 2", "regions[0].box"),
        ("row 3", "regions[0].box"),
        ("row 4", "tags"),
        ("row 5", "label"),
    ]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("fields: {label: kind}", "fields.image"),
        ("fields: {image: 'a['}", "fields.image"),
        ("fields: {image: a, caption: b}", "fields.caption"),
        ("fields: {image: a}\nunit: inches", "unit"),
        ("fields: {image: a}\nlabels: {x: maybe}", "labels.x"),
        ("- a", "file"),
        ("fields: [", "no YAML"),
        (None, "cannot be read"),
    ],
)
def test_a_bad_mapping_is_refused_with_its_field(written, tmp_path, text, message):
    path = written("layout.yaml", text) if text is not None else tmp_path / "none.yaml"
    with pytest.raises(ConfigError, match=message) as caught:
        load_mapping(path)
    assert caught.value.where == str(path)


def test_rows_that_are_not_there_are_refused(written, imported):
    with pytest.raises(DataError, match=r"nothing at 'data\.items'"):
        imported("mapping", written("a.json", {"data": {}}), mapping=written("layout.yaml", LAYOUT))


def test_the_examples_in_the_documentation_are_mappings(written):
    from fxray.data.formats import mapping

    page = Path(__file__).parents[4] / "docs" / "data-formats.md"
    told = page.read_text().split("```yaml\n")[1].split("```")[0]
    assert load_mapping(written("page.yaml", told)).boxes == "xywh"
    lines = [line[4:].split("   ")[0] for line in mapping.__doc__.split("\n\n")[1].splitlines()]
    assert load_mapping(written("docstring.yaml", "\n".join(lines))).rows == "images"


def test_yes_and_no_are_words(picture, written, imported):
    picture("a.png")
    words = "{yes: generated, no: real, true: generated, falsely: real}"
    layout = written("layout.yaml", f"fields: {{image: im, label: fake}}\nlabels: {words}\n")
    rows = [{"im": "a.png", "fake": fake} for fake in ("yes", "no", True, "falsely")]
    found = imported("mapping", written("m.json", rows), mapping=layout, label=None)
    verdicts = [str(sample.annotation.verdict) for sample in found.samples.values()]
    assert verdicts == ["generated", "real", "generated", "real"]
