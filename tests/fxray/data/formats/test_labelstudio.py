"""Tasks as Label Studio's "Export annotations" and "Import pre-annotated data" pages show them."""

import pytest

from fxray.schema import Annotation, Box, Region, Tag, Verdict

BOX = {
    "id": "Ei0XQ2",
    "type": "rectanglelabels",
    "from_name": "label",
    "to_name": "image",
    "original_width": 200,
    "original_height": 100,
    "image_rotation": 0,
    "value": {"x": 5, "y": 10, "width": 50, "height": 40, "rotation": 0, "rectanglelabels": ["Hand"]},
}
CAPTION = BOX | {"type": "textarea", "from_name": "why", "value": {"x": 5, "y": 10, "text": ["fingers fused", "手"]}}


def choices(*names):
    return {"id": "c", "type": "choices", "from_name": "c", "to_name": "image", "value": {"choices": list(names)}}


def task(number, image, *result, **more):
    annotations = [{"id": 1001, "completed_by": 1, "was_cancelled": False, "result": list(result)}]
    return {"id": number, "data": {"image": image}, "annotations": annotations, "predictions": []} | more


def test_percents_of_the_displayed_image_become_pixels(picture, written, imported):
    picture("images/cat.jpg", orientation=6)  # displayed 100x200
    local = task(
        1, "/data/local-files/?d=images/cat.jpg", BOX, CAPTION, choices("AI-generated"), choices("Texture errors")
    )
    upload = task(2, "/data/upload/3/8fe2ab01-cat.jpg", BOX)
    found = imported("labelstudio", written("export.json", [local]), label=None)
    (sample,) = found.samples.values()
    assert sample.annotation.regions == (Region(Box(5, 20, 55, 100), "fingers fused 手"),)
    assert (sample.annotation.verdict, sample.annotation.tags) == (Verdict.GENERATED, (Tag.TEXTURE,))
    assert sample.annotator == "1"
    again = imported("labelstudio", written("upload.json", [upload]), images=written("images/x.txt", "").parent)
    assert next(iter(again.samples.values())).annotation.regions == (Region(Box(5, 20, 55, 100), "Hand"),)


def test_labels_beside_a_rectangle_are_its_labels(picture, written, imported):
    picture("a.png")
    plain = BOX | {"type": "rectangle", "value": BOX["value"] | {"rectanglelabels": None}}
    labels = BOX | {
        "type": "labels",
        "from_name": "kind",
        "value": BOX["value"] | {"labels": ["Hand", "Texture errors"]},
    }
    lost = labels | {"id": "other"}
    tasks = [task(1, "a.png", labels, plain), task(2, "a.png", plain, labels, CAPTION), task(3, "a.png", plain, lost)]
    found = imported("labelstudio", written("t.json", tasks))
    assert [sample.annotation for sample in found.samples.values()] == [
        Annotation(Verdict.GENERATED, (Region(Box(10, 10, 110, 50), caption),), (Tag.TEXTURE,))
        for caption in ("Hand, Texture errors", "fingers fused 手")
    ]
    assert [(each["field"], each["reason"]) for each in found.findings] == [
        ("annotations[0].result[1].id", "labels of no shape")
    ]


def test_a_choice_of_a_region_is_no_verdict_on_the_image(picture, written, imported):
    picture("a.png")
    of_region = choices("real", "Texture errors") | {"id": BOX["id"]}
    found = imported(
        "labelstudio", written("t.json", [task(1, "a.png", BOX, choices("generated"), of_region)]), label=None
    )
    (sample,) = found.samples.values()
    assert (sample.annotation.verdict, sample.annotation.tags) == (Verdict.GENERATED, (Tag.TEXTURE,))


def test_a_choice_that_is_no_verdict_and_no_tag_is_told_if_it_is_of_the_image(picture, written, imported):
    picture("a.png")
    of_region = choices("severe") | {"id": BOX["id"]}
    found = imported("labelstudio", written("t.json", [task(1, "a.png", BOX, choices("genrated"), of_region)]))
    assert [(each["field"], each["value"], each["is_warning"]) for each in found.findings] == [
        ("choices", "genrated", True)
    ]


def test_a_malformed_address_is_one_finding(picture, written, imported):
    picture("a.png")
    found = imported("labelstudio", written("e.json", [task(1, "a.png"), task(2, "http://[cdn/b.jpg")]))
    assert [finding["field"] for finding in found.findings] == ["data.image"]
    assert len(found.samples) == 1


def test_an_upload_is_found_by_its_name_in_words(picture, written, imported):
    picture("my photo.png")
    found = imported("labelstudio", written("t.json", [task(1, "/data/upload/1/0a1b2c3d-my%20photo.png", BOX)]))
    assert len(found.samples) == 1


def test_polygons_and_ellipses_become_boxes(picture, written, imported):
    picture("a.png")
    polygon = BOX | {"id": "p", "type": "polygonlabels"}
    polygon["value"] = {"points": [[10, 10], [20, 50], [5, 30]], "polygonlabels": ["Hand"]}
    ellipse = BOX | {"id": "e", "type": "ellipselabels"}
    ellipse["value"] = {"x": 50, "y": 50, "radiusX": 10, "radiusY": 20, "rotation": 0, "ellipselabels": ["Eye"]}
    found = imported("labelstudio", written("export.json", [task(1, "a.png", polygon, ellipse)]))
    assert found.samples["a.png"].annotation.regions == (
        Region(Box(10, 10, 40, 50), "Hand"),
        Region(Box(80, 30, 120, 70), "Eye"),
    )


def test_of_several_annotations_the_last_counts_and_that_is_said(picture, written, imported):
    picture("a.png")
    later = BOX | {"value": BOX["value"] | {"x": 0, "width": 10}}
    three = task(1, "a.png")
    three["annotations"] = [
        {"result": [BOX], "was_cancelled": False},
        {"result": [later], "was_cancelled": False},
        {"result": [], "was_cancelled": True},
    ]
    found = imported("labelstudio", written("export.json", [three]))
    assert found.samples["a.png"].annotation.regions[0].box == Box(0, 10, 20, 50)
    (finding,) = found.findings
    assert finding["is_warning"]
    assert "the last one is read" in finding["reason"]


def test_what_a_person_skipped_is_not_taken_from_a_prediction(picture, written, imported):
    picture("a.png")
    skipped = {"was_cancelled": True, "result": []}
    guessed = task(2, "a.png", annotations=[skipped], predictions=[{"result": [BOX]}])
    unseen = guessed | {"id": 3, "annotations": []}
    found = imported("labelstudio", written("t.json", [guessed, unseen]))
    assert [(each["row"], each["value"]) for each in found.findings] == [("task 0", "cancelled")]
    (sample,) = found.samples.values()
    assert sample.annotation.regions == (Region(Box(10, 10, 110, 50), "Hand"),)
    assert sample.annotator is None


@pytest.mark.parametrize("kind", ["rating", "number", "taxonomy", "relation", "pairwise"])
def test_what_is_no_shape_is_passed_over(picture, written, imported, kind):
    picture("a.png")
    other = {"id": "n", "type": kind, "from_name": "n", "to_name": "image", "value": {kind: 3}}
    found = imported("labelstudio", written("t.json", [task(1, "a.png", BOX, other)]))
    assert found.findings == []
    assert found.samples["a.png"].annotation.regions == (Region(Box(10, 10, 110, 50), "Hand"),)


def test_labels_of_any_region_may_tag_the_image(picture, written, imported):
    picture("a.png")
    flaw = BOX | {"id": "x", "value": BOX["value"] | {"rectanglelabels": ["Texture errors"]}}
    found = imported("labelstudio", written("t.json", [task(1, "a.png", flaw, BOX)]))
    assert found.samples["a.png"].annotation.tags == (Tag.TEXTURE,)


def test_files_of_one_task_each_and_an_image_by_another_name(picture, written, imported):
    picture("t/a.png"), picture("t/b.png")
    one = task(1, "a.png", BOX, data={"photo": "a.png", "text": "hello", "source": "camera"})
    one["annotations"][0]["completed_by"] = {"id": 7, "email": "ana@example.org"}
    other = task(2, "b.png", BOX)
    other["annotations"][0]["completed_by"] = {"id": 7}
    src = written("t/1.json", one).parent
    written("t/2.json", other)
    found = imported("labelstudio", src)
    assert found.findings == []
    assert {name: (sample.annotator, sample.source) for name, sample in found.samples.items()} == {
        "a.png": ("ana@example.org", "camera"),
        "b.png": ("7", "b.png"),
    }


def test_the_short_export_is_refused_with_the_way_out(picture, written, imported):
    picture("a.png")
    short = {"image": "a.png", "id": 2, "label": [BOX["value"]], "annotator": 1, "annotation_id": 2}
    found = imported("labelstudio", written("export.json", [task(7, "a.png", BOX), short]))
    assert [(finding["row"], finding["field"]) for finding in found.findings] == [("task 1", "data")]
    assert "not as JSON-MIN" in found.findings[0]["reason"]


@pytest.mark.parametrize(
    ("bad", "field"),
    [
        (
            task(1, "a.png", BOX | {"value": BOX["value"] | {"rotation": 12.5}}),
            "annotations[0].result[0].value.rotation",
        ),
        (task(1, "a.png", BOX | {"image_rotation": 90}), "annotations[0].result[0].image_rotation"),
        (task(1, "a.png", BOX | {"type": "brushlabels"}), "annotations[0].result[0].type"),
        (task(1, "a.png", BOX | {"value": BOX["value"] | {"x": None}}), "annotations[0].result[0].value.x"),
        (task(1, "a.png", BOX | {"value": BOX["value"] | {"x": 99, "width": 0}}), "annotations[0].result[0].value"),
        (task(1, "s3://bucket/a.png", BOX), "data.image"),
        (task(1, ["a.png", "b.png"], BOX), "data.image"),
        (task(1, "gone.png", BOX), "data.image"),
        (task(1, "a.png", annotations=[]), "annotations"),
        (task(1, "a.png", annotations=[{"was_cancelled": True, "result": []}]), "annotations"),
        (task(1, "a.png", data={"left": "a.png", "right": "a.png"}), "data"),
        (task(1, "a.png", data={"text": "hello"}), "data"),
        ("a task", "task"),
    ],
)
def test_what_cannot_be_read_is_named(picture, written, imported, bad, field):
    picture("a.png")
    found = imported("labelstudio", written("export.json", [task(7, "a.png", BOX), bad]))
    assert [finding["field"] for finding in found.findings] == [field]
    assert found.findings[0]["row"].startswith("task 1")
    assert len(found.samples) == 1


@pytest.mark.parametrize(("ids", "place"), [({"id": 7}, "task 0 (id 7)"), ({}, "task 0")])
def test_a_finding_names_a_tasks_id_if_it_has_one(picture, written, imported, ids, place):
    picture("a.png")
    outside = BOX | {"value": BOX["value"] | {"x": 150}}
    lost = {"data": {"image": "a.png"}, "annotations": task(1, "", outside)["annotations"]} | ids
    found = imported("labelstudio", written("export.json", [lost, task(1, "a.png", BOX)]))
    assert [finding["row"] for finding in found.findings] == [place]


def noted(control, *texts):
    return BOX | {"type": "textarea", "from_name": control, "value": {"text": list(texts)}}


@pytest.mark.parametrize(
    "texts",
    [
        [noted("caption", "fingers fused"), noted("comment", "ask Ana")],
        [noted("comment", "ask Ana"), noted("Description", "fingers fused"), noted("doubt", "none")],
        [noted("explanation", "ask Ana"), noted("caption", "fingers fused")],  # the first key that is filled
        [noted("why", "fingers fused"), noted("comment")],
        [noted("why", "fingers"), noted("why", "fused")],
    ],
)
def test_of_several_texts_of_a_region_the_one_called_so_is_its_caption(picture, written, imported, texts):
    picture("a.png")
    found = imported("labelstudio", written("export.json", [task(1, "a.png", BOX, *texts)]))
    assert [region.caption for region in found.samples["a.png"].annotation.regions] == ["fingers fused"]


def test_several_texts_of_a_region_without_a_caption_among_them_are_refused(picture, written, imported):
    picture("a.png")
    rows = [task(1, "a.png", BOX), task(2, "a.png", BOX, noted("why", "fingers fused"), noted("comment", "ask Ana"))]
    (finding,) = imported("labelstudio", written("export.json", rows)).findings
    assert (finding["field"], finding["value"]) == ("annotations[0].result[0]", "why, comment")
    assert "expected one of them called caption" in finding["reason"]
