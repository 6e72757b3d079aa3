"""Exports and projects as VIA 2.0 writes them."""

import pytest

from fxray.schema import Box, Region, Tag, Verdict

RECT = {"name": "rect", "x": 10, "y": 20, "width": 50, "height": 60}


def region(shape, **attributes):
    return {"shape_attributes": shape, "region_attributes": attributes}


def entry(name, *regions, **attributes):
    return {"filename": name, "size": 59721, "regions": list(regions), "file_attributes": attributes}


def test_shapes_become_boxes(picture, written, imported):
    picture("a.png"), picture("b.png")
    polygon = {"name": "polygon", "all_points_x": [1, 30, 9.5], "all_points_y": [2, 4, 40]}
    circle = {"name": "circle", "cx": 100, "cy": 50, "r": 5.5}
    ellipse = {"name": "ellipse", "cx": 100, "cy": 50, "rx": 10, "ry": 5.5, "theta": 0}
    first = entry(
        "a.png",
        region(RECT, kind="", caption="hand merged — 手"),
        region(polygon, type="ear"),
        region(circle, type="eye"),
        region(ellipse, type="mouth"),
        label="fake",
        tags={"texture errors": True, "other anomalies": False},
    )
    old = entry("b.png") | {"regions": {"0": region(RECT, type="nose")}}  # VIA 1 numbered regions in an object
    found = imported("via", written("via.json", {"a.png59721": first, "b.png1": old}))
    annotation = found.samples["a.png"].annotation
    assert annotation.regions == (
        Region(Box(10, 20, 60, 80), "hand merged — 手"),
        Region(Box(1, 2, 30, 40), "ear"),
        Region(Box(94.5, 44.5, 105.5, 55.5), "eye"),
        Region(Box(90, 44.5, 110, 55.5), "mouth"),
    )
    assert (annotation.verdict, annotation.tags) == (Verdict.GENERATED, (Tag.TEXTURE,))
    assert found.samples["b.png"].annotation.regions == (Region(Box(10, 20, 60, 80), "nose"),)
    assert found.findings == []


def test_a_project_is_read_and_boxes_are_of_the_displayed_image(picture, written, imported):
    picture("a.jpg", orientation=6)
    project = {
        "_via_settings": {"ui": {}, "project": {"name": "x"}},
        "_via_img_metadata": {"a.jpg1": entry("a.jpg", region(RECT, type="nose"))},
        "_via_attributes": {"region": {}, "file": {}},
    }
    found = imported("via", written("project.json", project))
    assert found.samples["a.jpg"].annotation.regions == (Region(Box(10, 20, 60, 80), "nose"),)


@pytest.mark.parametrize(
    ("bad", "field"),
    [
        (entry("gone.png"), "filename"),
        (entry("a.png", region({"name": "point", "cx": 1, "cy": 2}, t="x")), "regions[0].shape_attributes.name"),
        (entry("a.png", region({"name": "ellipse", "theta": 0.5}, t="x")), "regions[0].shape_attributes.name"),
        (entry("a.png", region(RECT | {"x": "left"}, t="x")), "regions[0].shape_attributes.x"),
        (entry("a.png", region(RECT)), "regions[0].shape_attributes"),
        (
            entry("a.png", region({"name": "polygon", "all_points_x": [1], "all_points_y": []}, t="x")),
            "regions[0].shape_attributes",
        ),
        (entry("a.png", tags="no such tag"), "tags"),
        (entry("a.png", label="maybe"), "label"),
        ([], "image"),
    ],
)
def test_what_cannot_be_read_is_named(picture, written, imported, bad, field):
    picture("a.png")
    found = imported("via", written("via.json", {"good": entry("a.png", region(RECT, t="x")), "bad": bad}))
    assert [(finding["row"], finding["field"]) for finding in found.findings] == [("bad", field)]
    assert list(found.samples) == ["a.png"]
