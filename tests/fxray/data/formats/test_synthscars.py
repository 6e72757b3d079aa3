"""Entries as LEGION's loader reads them: `{id: {img_file_name, caption, refs: [{sentence, segmentation}]}}`."""

import os

import pytest

from fxray.schema import Box, Region, Verdict


def entry(name, *refs, number="0"):
    return {number: {"img_file_name": name, "caption": "a hand and an eye", "refs": list(refs)}}


HAND = {"sentence": "hand", "explanation": "hand with six fingers — 手", "segmentation": [[10, 20, 60.5, 30, 40, 80]]}
EYE = {"sentence": "left eye", "explanation": "", "segmentation": [[1, 2, 3, 2, 3, 9], [5, 1, 7, 1, 7, 4]]}


def test_polygons_become_boxes_and_every_image_is_generated(picture, written, imported):
    picture("images/a.png")
    src = written("annotations/train.json", [entry("a.png", HAND, EYE)])
    found = imported("synthscars", src, images=src.parent.parent / "images", label=None)
    annotation = found.samples["a.png"].annotation
    assert annotation.verdict is Verdict.GENERATED
    assert annotation.regions == (
        Region(Box(10, 20, 60.5, 80), "hand with six fingers — 手"),
        Region(Box(1, 1, 7, 9), "left eye"),
    )


def test_twins_of_two_sizes_and_second_annotations_are_joined(picture, written, imported):
    picture("a.jpg", size=(100, 25)), picture("a.png", size=(200, 100)), picture("b.png")
    src = written(
        "train.json",
        [
            entry("a.jpg", HAND | {"segmentation": [[5, 5, 30, 7.5, 20, 20]]}),
            entry("b.png", EYE),
            entry("a.png", EYE),
            entry("b.png", HAND),
        ],
    )
    found = imported("synthscars", src)
    assert {name: [region.box for region in sample.annotation.regions] for name, sample in found.samples.items()} == {
        "a.png": [Box(10, 20, 60, 80), Box(1, 1, 7, 9)],
        "b.png": [Box(1, 1, 7, 9), Box(10, 20, 60.5, 80)],
    }
    assert (found.summary.num_images, found.findings) == (2, [])


def test_names_that_differ_before_the_last_dot_are_no_twins(picture, written, imported):
    picture("v1.0.png"), picture("v1.1.png")
    found = imported("synthscars", written("train.json", [entry("v1.0.png", HAND), entry("v1.1.png", EYE)]))
    assert {name: sample.annotation.regions[0].caption for name, sample in found.samples.items()} == {
        "v1.0.png": "hand with six fingers — 手",
        "v1.1.png": "left eye",
    }


def test_boxes_are_of_the_stored_raster(picture, written, imported):
    picture("a.jpg", orientation=2)  # mirrored
    found = imported("synthscars", written("train.json", [entry("a.jpg", HAND)]))
    assert found.samples["a.jpg"].annotation.regions[0].box == Box(139.5, 20, 190, 80)


def test_what_cannot_be_read_is_named(picture, written, imported):
    picture("a.png"), picture("b.png"), picture("c.png"), picture("d.png")
    collinear = HAND | {"segmentation": [[10, 20, 30, 20, 50, 20]]}
    bad = [
        entry("gone.png", HAND),
        entry("b.png", HAND, collinear),
        entry("c.png", HAND | {"explanation": "", "sentence": None}),
        entry("d.png", HAND | {"segmentation": [[1, 2, 3]]}),
        {},
        {"7": {"caption": "no image"}},
    ]
    found = imported("synthscars", written("train.json", [entry("a.png", HAND), *bad]))
    assert list(found.samples) == ["a.png"]
    assert sorted((finding["row"], finding["field"]) for finding in found.findings) == [
        ("entry 1", "img_file_name"),
        ("entry 2", "refs[1].segmentation"),
        ("entry 3", "refs[0].segmentation"),
        ("entry 4", "refs[0].segmentation[0]"),
        ("entry 5", "entry"),
        ("entry 6", "img_file_name"),
    ]


@pytest.mark.parametrize("kind", ["pipe", "EPS", "PNG of millions of pixels"])
def test_a_twin_that_is_no_image_to_read_is_a_finding(kind, picture, written, imported, tmp_path, monkeypatch):
    picture("a.jpg"), picture("b.png")
    if kind == "pipe":
        os.mkfifo(tmp_path / "a.png")
    elif kind == "EPS":
        picture("a.eps").rename(tmp_path / "a.png")
    else:
        picture("a.png", size=(300, 300))
        monkeypatch.setattr("fxray.data.images.MAX_IMAGE_PIXELS", 200 * 100)
    src = written("train.json", [entry("a.jpg", HAND), entry("a.png", HAND), entry("b.png", HAND)])
    found = imported("synthscars", src)
    assert list(found.samples) == ["b.png"]
    assert [(each["field"], each["value"]) for each in found.findings] == [("img_file_name", "a.png")]
