"""Files as LabelMe 5 writes them."""

import base64

import pytest

from fxray.schema import Annotation, Box, Region, Tag, Verdict

RECTANGLE = {
    "label": "hand",
    "points": [[60.5, 80.0], [10.0, 20.25]],  # drawn from the lower right
    "group_id": None,
    "description": "",
    "shape_type": "rectangle",
    "flags": {},
}


def document(image, *shapes, **more):
    plain = {"version": "5.5.0", "flags": {}, "shapes": list(shapes), "imagePath": image, "imageData": None}
    return plain | {"imageHeight": 100, "imageWidth": 200} | more


def test_shapes_become_boxes(picture, written, imported):
    picture("set/a.png")
    polygon = RECTANGLE | {
        "shape_type": "polygon",
        "points": [[1, 2], [30, 4], [9, 40]],
        "description": "ear torn — 耳",
    }
    circle = RECTANGLE | {"shape_type": "circle", "points": [[100, 50], [103, 54]], "label": "eye"}
    flags = {"generated": True, "structure errors": True, "texture errors": False}
    src = written("set/a.json", document("a.png", RECTANGLE, polygon, circle, flags=flags)).parent
    found = imported("labelme", src, label=None)
    annotation = found.samples["a.png"].annotation
    assert annotation.regions == (
        Region(Box(10, 20.25, 60.5, 80), "hand"),
        Region(Box(1, 2, 30, 40), "ear torn — 耳"),
        Region(Box(95, 45, 105, 55), "eye"),
    )
    assert (annotation.verdict, annotation.tags) == (Verdict.GENERATED, (Tag.STRUCTURE,))
    assert found.findings == []


def test_boxes_are_of_the_displayed_image_and_names_of_another_system(picture, written, imported):
    picture("set/pics/a.jpg", orientation=5)
    src = written("set/labels/a.json", document("..\\pics\\a.jpg", RECTANGLE, imageWidth=100, imageHeight=200))
    found = imported("labelme", src)
    (sample,) = found.samples.values()
    assert (sample.width_px, sample.height_px) == (100, 200)
    assert sample.annotation.regions == (Region(Box(10, 20.25, 60.5, 80), "hand"),)


def test_images_of_one_name_in_two_folders_are_told_apart_by_their_folders(picture, written, imported):
    for folder in ("flux", "sd"):
        picture(f"set/{folder}/001.png")
        written(f"set/{folder}/001.json", document("001.png", RECTANGLE))
    encoded = base64.b64encode(picture("elsewhere.png").read_bytes()).decode()
    src = written("set/sd/002.json", document("gone.png", RECTANGLE, imageData=encoded)).parent.parent
    found = imported("labelme", src)
    assert sorted(found.samples) == ["flux/001.png", "sd/001.png", "sd/gone.png"]
    assert {sample.source for sample in found.samples.values()} == set(found.samples)


def test_the_image_inside_the_file_serves_where_the_other_is_gone(picture, written, imported):
    encoded = picture("elsewhere.png").read_bytes()
    src = written("a.json", document("gone.png", RECTANGLE, imageData=base64.b64encode(encoded).decode()))
    found = imported("labelme", src)
    assert found.dataset.image_bytes(0) == encoded
    assert list(found.samples) == ["gone.png"]


@pytest.mark.parametrize(
    ("bad", "field"),
    [
        (document("gone.png", RECTANGLE), "imagePath"),
        (document("gone.png", RECTANGLE, imageData="no base64!"), "imageData"),
        (document("a.png", RECTANGLE | {"shape_type": "point", "points": [[1, 2]]}), "shapes[0].shape_type"),
        (document("a.png", RECTANGLE | {"points": [[1, 2]]}), "shapes[0].points"),
        (document("a.png", RECTANGLE | {"points": [[1, 2, 3], [4, 5]]}), "shapes[0].points"),
        (document("a.png", RECTANGLE | {"label": ""}), "shapes[0].points"),
        (document("a.png", RECTANGLE, imageWidth=640), "width, height"),
        ('{"shapes": [', "file"),
        ("[]", "file"),
    ],
)
def test_what_cannot_be_read_is_named(picture, written, imported, bad, field):
    picture("a.png")
    written("z.json", bad)
    found = imported("labelme", written("good.json", document("a.png", RECTANGLE)).parent)
    assert [(finding["field"], finding["file"].endswith("z.json")) for finding in found.findings] == [(field, True)]
    assert list(found.samples) == ["a.png"]


def test_an_image_that_is_flagged_as_both_is_refused(picture, written, imported):
    picture("set/a.png"), picture("set/b.png")
    src = written("set/a.json", document("a.png", flags={"real": True, "fake": True})).parent
    written("set/b.json", document("b.png", flags={"real": True, "fake": False}))
    found = imported("labelme", src)
    assert [finding["field"] for finding in found.findings] == ["flags"]
    assert [sample.annotation.verdict.value for sample in found.samples.values()] == ["real"]


def test_blanks_around_a_flag_do_not_matter(picture, written, imported):
    picture("a.png")
    flags = {" Fake ": True, "Texture errors ": True}
    found = imported("labelme", written("a.json", document("a.png", flags=flags)), label=None)
    assert found.samples["a.png"].annotation == Annotation(Verdict.GENERATED, (), (Tag.TEXTURE,))


@pytest.mark.parametrize("flag", ["genrated", "textur errors"])
def test_a_flag_that_is_no_verdict_and_no_tag_is_told(picture, written, imported, flag):
    picture("set/a.png"), picture("set/b.png")
    src = written("set/a.json", document("a.png", RECTANGLE, flags={flag: True, "blurred": False})).parent
    written("set/b.json", document("b.png", RECTANGLE, flags={"generated": True}))
    (refused,) = imported("labelme", src, label=None).findings
    assert (refused["field"], refused["is_warning"]) == ("label", False)
    assert f"; flags {flag!r}: neither a verdict (real, authentic, " in refused["reason"]
    assert refused["reason"].endswith("; mend it, or give a label for such rows with --label")
    found = imported("labelme", src)
    assert len(found.samples) == 2
    assert [(each["field"], each["value"], each["is_warning"]) for each in found.findings] == [("flags", flag, True)]
