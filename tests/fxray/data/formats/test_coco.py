"""Files as the COCO "Data format" page describes them, and as CVAT and Label Studio write theirs."""

import json
import sqlite3

import pytest

from fxray.errors import DataError, ResourceError
from fxray.schema import Box, Region, Tag, Verdict

IMAGE = {"id": 1, "width": 200, "height": 100, "file_name": "a.png", "license": 4, "coco_url": ""}
CATEGORIES = [{"id": 18, "name": "dog", "supercategory": "animal"}, {"id": 3, "name": "texture errors"}]


def annotation(number, image, bbox, **more):
    plain = {"id": number, "image_id": image, "category_id": 18, "bbox": bbox, "area": 1.0, "iscrowd": 0}
    return plain | more


def test_boxes_take_captions_or_their_category(picture, written, imported):
    picture("a.png"), picture("b.png")
    src = written(
        "instances.json",
        {
            "info": {"year": 2017},
            "annotations": [  # before the images: the order of lists is free
                annotation(7, 1, [10, 20, 30.5, 40]),
                annotation(8, 1, [0, 0, 200, 100], caption="fur smeared — 毛"),
                annotation(9, 1, [5, 5, 5, 5], attributes={"description": "paw doubled", "occluded": False}),
            ],
            "images": [IMAGE, {"id": 2, "file_name": "b.png", "label": "real", "generator": "camera"}],
            "categories": CATEGORIES,
        },
    )
    found = imported("coco", src)
    assert found.findings == []
    assert found.samples["a.png"].annotation.regions == (
        Region(Box(10, 20, 40.5, 60), "dog"),
        Region(Box(0, 0, 200, 100), "fur smeared — 毛"),
        Region(Box(5, 5, 10, 10), "paw doubled"),
    )
    assert found.samples["b.png"].annotation.verdict is Verdict.REAL
    assert found.samples["b.png"].generator == "camera"


@pytest.mark.parametrize("more", [{"caption": "   "}, {"description": ""}])
def test_a_caption_that_is_there_and_blank_refuses_its_row(picture, written, imported, more):
    picture("a.png"), picture("b.png")
    images = [IMAGE, IMAGE | {"id": 2, "file_name": "b.png"}]
    filled = {"caption": "", "description": "fur smeared"}
    rows = [annotation(1, 1, [1, 2, 3, 4], **more), annotation(2, 2, [1, 2, 3, 4], **filled)]
    found = imported("coco", written("c.json", {"images": images, "annotations": rows, "categories": CATEGORIES}))
    assert found.samples["b.png"].annotation.regions == (Region(Box(1, 2, 4, 6), "fur smeared"),)
    assert list(found.samples) == ["b.png"]
    (finding,) = found.findings
    ((key, value),) = more.items()
    assert (finding["field"], finding["value"]) == (f"annotations[0].{key}", value)
    assert "a blank caption" in finding["reason"]


def test_a_category_that_is_not_listed_refuses_a_row_without_a_caption(picture, written, imported):
    picture("a.png"), picture("b.png")
    images = [IMAGE, IMAGE | {"id": 2, "file_name": "b.png"}]
    rows = [annotation(1, 1, [1, 2, 3, 4], category_id=9)]
    rows.append(annotation(2, 2, [1, 2, 3, 4], category_id=9, caption="fur smeared"))
    found = imported("coco", written("c.json", {"images": images, "annotations": rows, "categories": CATEGORIES}))
    assert list(found.samples) == ["b.png"]
    (finding,) = found.findings
    assert (finding["field"], finding["value"]) == ("annotations[0].category_id", "9")


@pytest.mark.parametrize("more", [{"caption": None}, {"attributes": {"caption": ""}}])
def test_a_caption_that_is_null_or_a_blank_attribute_is_none(picture, written, imported, more):
    picture("a.png")
    rows = [annotation(1, 1, [1, 2, 3, 4], **more)]
    found = imported("coco", written("c.json", {"images": [IMAGE], "annotations": rows, "categories": CATEGORIES}))
    assert found.samples["a.png"].annotation.regions == (Region(Box(1, 2, 4, 6), "dog"),)


def test_ids_that_are_equal_numbers_are_one(picture, written, imported):
    picture("a.png")
    row = annotation(7, 1.0, [10, 20, 30.5, 40], category_id=18.0)
    src = written("i.json", {"annotations": [row], "images": [IMAGE], "categories": CATEGORIES})
    found = imported("coco", src)
    assert found.findings == []
    assert found.samples["a.png"].annotation.regions == (Region(Box(10, 20, 40.5, 60), "dog"),)


def test_polygons_become_their_boxes(picture, written, imported):
    picture("a.png")
    polygons = [[12.5, 30, 60, 33, 40, 80], [100, 10, 120, 10, 110, 20]]
    rows = [annotation(1, 1, None, segmentation=polygons, category_id=3)]
    found = imported("coco", written("c.json", {"images": [IMAGE], "annotations": rows, "categories": CATEGORIES}))
    only = found.samples["a.png"].annotation
    assert only.regions == (Region(Box(12.5, 10, 120, 80), "texture errors"),)
    assert only.tags == (Tag.TEXTURE,)


def test_a_photograph_with_orientation_keeps_displayed_boxes_whatever_size_is_noted(picture, written, imported):
    picture("a.jpg", orientation=8)
    stored = IMAGE | {"file_name": "a.jpg"}  # as Label Studio notes it: the raster's size, the viewer's boxes
    upright = stored | {"id": 2, "width": 100, "height": 200}
    rows = [annotation(1, 1, [10, 20, 50, 60]), annotation(2, 2, [10, 20, 50, 60])]
    src = written("c.json", {"images": [stored, upright], "annotations": rows, "categories": CATEGORIES})
    found = imported("coco", src)
    assert [s.annotation.regions[0].box for s in found.samples.values()] == [Box(10, 20, 60, 80)] * 2
    (finding,) = found.findings
    assert (finding["is_warning"], finding["field"], finding["value"]) == (True, "width, height", "200x100")
    assert "--boxes-frame stored" in finding["reason"]
    other = imported("coco", src, frame="stored")
    assert [s.annotation.regions for s in other.samples.values()] != [
        s.annotation.regions for s in found.samples.values()
    ]


def test_paths_of_another_machine_are_found_by_name(picture, written, imported):
    picture("images/é.png")
    names = ["..\\..\\media\\upload\\4\\é.png", "C:\\data\\é.png", "/mnt/x/é.png", "file:///mnt/%C3%A9.png"]
    images = [{"id": number, "file_name": name} for number, name in enumerate(names)]
    src = written("c.json", {"images": images, "annotations": [], "categories": []})
    found = imported("coco", src, images=src.parent / "images")
    assert (len(found.samples), found.summary.num_images, found.findings) == (4, 1, [])


def test_what_cannot_be_read_is_named(picture, written, imported):
    picture("a.png")
    images = [
        IMAGE,
        {"id": "two", "file_name": "gone.png"},
        {"id": 3, "file_name": "a.png", "width": 640, "height": 480},
        {"id": 4, "file_name": "a.png"},
        {"id": 5, "file_name": "a.png"},
        {"id": 6, "file_name": "https://example.org/a.png"},
        {"id": 7},
    ]
    rows = [
        annotation(1, 1, [1, 2, 3, 4]),
        annotation(2, 4, [1, 2, 0, 4]),
        annotation(3, 5, None, segmentation={"counts": "abc", "size": [100, 200]}),
        annotation(4, 99, [1, 2, 3, 4]),
        {"id": 5, "caption": "an image caption"},
        annotation(6, 1, [5, 6, 7, 8]),
    ]
    found = imported("coco", written("c.json", {"images": images, "annotations": rows, "categories": CATEGORIES}))
    assert list(found.samples) == ["a.png"]
    assert [region.box for region in found.samples["a.png"].annotation.regions] == [Box(1, 2, 4, 6), Box(5, 6, 12, 14)]
    assert [(finding["row"], finding["field"]) for finding in found.findings] == [
        ("annotation 4 (id 5)", "image_id"),
        ("image 1 (id two)", "file_name"),
        ("image 4 (id 5)", "annotations[2].bbox"),
        ("image 5 (id 6)", "file_name"),
        ("image 6 (id 7)", "file_name"),
        ("annotation 3 (id 4)", "image_id"),
        ("image 2 (id 3)", "width, height"),
        ("image 3 (id 4)", "annotations[1].bbox"),
    ]


def test_images_that_share_an_id_are_refused(picture, written, imported):
    picture("a.png"), picture("b.png"), picture("c.png")
    images = [IMAGE, IMAGE | {"file_name": "b.png"}, IMAGE | {"id": 2, "file_name": "c.png"}]
    rows = [annotation(1, 1, [1, 2, 30, 40]), annotation(2, 1, [5, 6, 50, 60]), annotation(3, 2, [1, 2, 3, 4])]
    found = imported("coco", written("c.json", {"images": images, "annotations": rows, "categories": CATEGORIES}))
    assert list(found.samples) == ["c.png"]
    assert [(finding["row"], finding["field"]) for finding in found.findings] == [
        ("image 0 (id 1)", "id"),
        ("image 1 (id 1)", "id"),
        ("annotation 0 (id 1)", "image_id"),
    ]
    assert "the id of 2 images" in found.findings[0]["reason"]


def test_a_stray_annotation_is_counted_as_no_row(picture, written, imported):
    picture("a.png")
    rows = [annotation(1, 1, [1, 2, 30, 40]), annotation(2, 9, [1, 2, 3, 4])]
    src = written("c.json", {"images": [IMAGE], "annotations": rows, "categories": CATEGORIES})
    with pytest.raises(DataError, match=r"1 entry cannot be read, 1 row can:\n.*annotation 1 \(id 2\)"):
        imported("coco", src, is_strict=True)


def test_images_without_an_id_have_no_boxes_and_are_read(picture, written, imported):
    picture("a.png"), picture("b.png")
    images = [{"file_name": "a.png"}, {"file_name": "b.png"}]
    found = imported("coco", written("c.json", {"images": images, "annotations": [], "categories": []}))
    assert (list(found.samples), found.findings) == (["a.png", "b.png"], [])


def test_a_file_without_annotations_says_that_its_images_have_no_boxes(picture, written, imported):
    picture("a.png")
    found = imported("coco", written("c.json", {"images": [IMAGE], "annotation": [annotation(1, 1, [1, 2, 3, 4])]}))
    assert list(found.samples) == ["a.png"]
    assert [(finding["field"], finding["is_warning"]) for finding in found.findings] == [("annotations", True)]


def test_a_file_that_breaks_off_gives_what_came_before(picture, written, imported):
    picture("a.png")
    whole = json.dumps(
        {"categories": CATEGORIES, "annotations": [annotation(1, 1, [1, 2, 3, 4])], "images": [IMAGE, IMAGE]}
    )
    found = imported("coco", written("c.json", whole[: whole.rindex("file_name")]))
    assert found.samples["a.png"].annotation.regions == (Region(Box(1, 2, 4, 6), "dog"),)
    assert found.findings[0]["field"] == "file"
    assert "the rest is unread" in found.findings[0]["reason"]


@pytest.mark.parametrize("order", [("images", "categories", "annotations"), ("images", "annotations", "categories")])
@pytest.mark.parametrize("broken", ["annotations", "categories"])
def test_a_file_that_breaks_before_all_boxes_are_read_gives_no_image(picture, written, imported, order, broken):
    picture("a.png"), picture("b.png")
    lists = {
        "images": [IMAGE, IMAGE | {"id": 2, "file_name": "b.png"}],
        "categories": CATEGORIES,
        "annotations": [annotation(number, number, [1, 2, 3, 4]) for number in (1, 2)],
    }
    whole = json.dumps({name: lists[name] for name in order})
    src = written("c.json", whole[: whole.index("[", whole.index(f'"{broken}"')) + 80])
    with pytest.raises(DataError, match="any could lack boxes"):
        imported("coco", src)
    assert imported("coco", written("whole.json", whole)).findings == []


def test_a_number_that_json_does_not_have_among_the_boxes_gives_no_image(picture, written, imported):
    picture("a.png")
    rows = [annotation(1, 1, [1, 2, 3, 4]), annotation(2, 1, [float("nan"), 2, 3, 4])]
    src = written("c.json", {"images": [IMAGE], "categories": CATEGORIES, "annotations": rows})
    with pytest.raises(DataError, match="breaks after annotation 0"):
        imported("coco", src)


def test_a_join_that_has_no_room_says_where_it_lies(picture, written, imported, monkeypatch):
    picture("a.png")
    rows = [annotation(number, 1, [1, 2, 3, 4], caption="x" * 5000) for number in range(9)]
    src = written("c.json", {"images": [IMAGE], "categories": CATEGORIES, "annotations": rows})
    connect = sqlite3.connect

    def full_disk(path):
        joined = connect(path)
        joined.execute("PRAGMA max_page_count = 5")
        return joined

    with monkeypatch.context() as patch:
        patch.setattr(sqlite3, "connect", full_disk)
        with pytest.raises(ResourceError, match=r"fxray-(.|\n)*disk is full\n(.|\n)*set TMPDIR(.|\n)*c\.json"):
            imported("coco", src)
    assert len(imported("coco", src).samples["a.png"].annotation.regions) == 9
