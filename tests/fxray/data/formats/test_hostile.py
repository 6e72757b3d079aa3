"""Whatever stands in a field, a reader gives a record or a finding, and a record a row or a finding."""

import copy
import json

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

from fxray.data.formats.catalogue import find, reader
from fxray.data.formats.location import Images
from fxray.data.formats.mapping import load_mapping, read_mapped
from fxray.data.formats.record import Finding, Record
from fxray.data.image_store import ImageStore
from fxray.data.rows import Reading, read_record
from fxray.errors import DataError
from fxray.schema import Verdict

BOX = [1, 2, 30, 40]
VALUE = {"x": 1, "y": 2, "width": 30, "height": 40, "rotation": 0}
DOCUMENTS = {
    "swift": [
        {
            "messages": [
                {"role": "user", "content": "<image>"},
                {"role": "assistant", "content": "<ref-object><bbox>"},
            ],
            "images": ["a.png"],
            "objects": {"ref": ["hand"], "bbox": [BOX], "bbox_type": "real"},
            "label": "fake",
        }
    ],
    "coco": {
        "images": [{"id": 1, "file_name": "a.png", "width": 60, "height": 50, "tags": ["texture errors"]}],
        "annotations": [{"id": 1, "image_id": 1, "category_id": 1, "bbox": BOX, "segmentation": [[1, 2, 3, 4, 5, 6]]}],
        "categories": [{"id": 1, "name": "flaw"}],
    },
    "labelstudio": [
        {
            "id": 1,
            "data": {"image": "a.png", "source": "x"},
            "annotations": [
                {
                    "was_cancelled": False,
                    "result": [
                        {"id": "r", "type": "rectanglelabels", "value": VALUE | {"rectanglelabels": ["hand"]}},
                        {"id": "r", "type": "textarea", "value": {"text": ["hand fused"]}},
                        {
                            "id": "p",
                            "type": "polygonlabels",
                            "value": {"points": [[1, 2], [3, 4]], "polygonlabels": ["x"]},
                        },
                        {"id": "c", "type": "choices", "value": {"choices": ["fake"]}},
                    ],
                }
            ],
            "predictions": [{"result": []}],
        }
    ],
    "labelme": {
        "imagePath": "a.png",
        "imageData": "aGVsbG8=",
        "imageWidth": 60,
        "imageHeight": 50,
        "flags": {"fake": True},
        "shapes": [
            {"label": "hand", "shape_type": "rectangle", "points": [[1, 2], [30, 40]], "description": "hand fused"},
            {"label": "eye", "shape_type": "circle", "points": [[20, 20], [23, 24]]},
        ],
    },
    "via": {
        "a.png1": {
            "filename": "a.png",
            "regions": [
                {"shape_attributes": {"name": "rect", **VALUE}, "region_attributes": {"caption": "hand"}},
                {
                    "shape_attributes": {"name": "polygon", "all_points_x": [1, 9], "all_points_y": [2, 9]},
                    "region_attributes": {"caption": "hand"},
                },
            ],
            "file_attributes": {"label": "fake", "tags": {"texture errors": True}},
        }
    },
    "qwen": [
        {
            "image": "a.png",
            "conversations": [{"from": "gpt", "value": json.dumps([{"bbox_2d": BOX, "label": "hand"}])}],
        },
        {"image": "a.png", "objects": [{"bbox_2d": BOX, "label": "hand"}], "tags": ["texture errors"]},
    ],
    "synthscars": [
        {
            "0": {
                "img_file_name": "a.png",
                "refs": [{"sentence": "hand", "explanation": "hand fused", "segmentation": [[1, 2, 30, 40, 3, 4]]}],
            }
        }
    ],
    "manifest": [
        {"image": "a.png", "label": "fake", "tags": ["texture errors"], "regions": [{"box": BOX, "caption": "x"}]}
    ],
    "mapping": [{"f": "a.png", "l": "fake", "t": ["texture errors"], "r": [{"box": BOX, "caption": "x"}]}],
}
LAYOUT = "fields: {image: f, label: l, tags: t, regions: r, source: 's.t[0]'}"
SCALAR = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-(10**20), 10**20),
    st.floats(allow_nan=False, allow_infinity=False),
    st.sampled_from(
        ["", " ", "x", "a.png", "../a.png", "\0", "1e999", "NaN", "\ud800", "真", "<bbox>", "a" * 300, "fake"]
    ),
)
ANYTHING = st.one_of(
    SCALAR, st.lists(SCALAR, max_size=5), st.dictionaries(st.sampled_from(["a", "id", "name"]), SCALAR)
)


def places(value, here=()):
    yield here
    pairs = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, inner in pairs:
        yield from places(inner, (*here, key))


def changed(document, place, value):
    if not place:
        return value
    whole = copy.deepcopy(document)
    inner = whole
    for key in place[:-1]:
        inner = inner[key]
    inner[place[-1]] = value
    return whole


def rows_of(form, src):
    images = Images(src.parent)
    if form == "mapping":
        layout = src.with_name("layout.yaml")
        layout.write_text(LAYOUT)
        return list(read_mapped(src, images, load_mapping(layout)))
    return list(reader(find(form))(src, images))


def write(form, document, folder):
    if form in ("swift", "qwen", "manifest"):
        rows = document if isinstance(document, list) else [document]
        text, name = "\n".join(map(json.dumps, rows)), "rows.jsonl"
    else:
        text, name = json.dumps(document), "rows.json"
    (folder / name).write_text(text)
    return folder / name


@pytest.mark.parametrize("form", DOCUMENTS)
@given(data=st.data())
@settings(max_examples=80, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_any_value_anywhere_is_a_record_or_a_finding(form, data, tmp_path):
    Image.new("RGB", (60, 50)).save(tmp_path / "a.png")
    document = DOCUMENTS[form]
    place = data.draw(st.sampled_from(list(places(document))))
    src = write(form, changed(document, place, data.draw(ANYTHING)), tmp_path)
    reading, store = Reading(find(form).frame, label=Verdict.GENERATED), ImageStore(tmp_path / "out")
    try:
        rows = rows_of(form, src)
    except DataError:
        return
    for row in rows:
        if isinstance(row, Record):
            assert Record.from_json(row.to_json()) == row
            made, findings = read_record(row, reading, store)
            assert made is not None or [finding.is_warning for finding in findings] == [False]
        else:
            assert isinstance(row, Finding)


@pytest.mark.parametrize("form", DOCUMENTS)
def test_the_documents_themselves_are_read(form, tmp_path):
    Image.new("RGB", (60, 50)).save(tmp_path / "a.png")
    rows = rows_of(form, write(form, DOCUMENTS[form], tmp_path))
    made = [read_record(row, Reading("stored", label=Verdict.GENERATED), ImageStore(tmp_path)) for row in rows]
    assert all(row is not None and not findings for row, findings in made)
