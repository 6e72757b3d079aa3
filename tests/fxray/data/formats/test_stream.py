"""Files that break, nest or lie."""

import json

import pytest

from fxray.errors import DataError

TASK = {"data": {"image": "a.png"}, "annotations": [{"result": []}]}
DEEP = '{"images": [' + "[" * 300_000 + "]" * 300_000 + "]}"


@pytest.mark.parametrize("form", ["coco", "labelstudio", "via", "synthscars"])
def test_half_a_megabyte_of_brackets_is_refused_in_little_memory(written, imported, peak_kib, form):
    src = written("deep.json", DEEP if form in ("coco", "via") else f"[{DEEP}]")
    before_kib = peak_kib()
    with pytest.raises(DataError, match="nested more than 200 deep"):
        imported(form, src)
    assert peak_kib() - before_kib < 50 * 1024


@pytest.mark.parametrize("is_last", [True, False])
def test_lines_beside_one_that_is_too_long_are_read(picture, written, imported, monkeypatch, is_last):
    monkeypatch.setattr("fxray.data.formats.stream.MAX_LINE_BYTES", 100)
    for name in ("a.png", "b.png"):
        picture(name)
    lines = ['{"image": "a.png"}', f'{{"x": "{"y" * 333}"}}', '{"image": "b.png"}']
    if is_last:
        lines[1:] = lines[:0:-1]
    found = imported("manifest", written("rows.jsonl", "\n".join(lines)))
    assert list(found.samples) == ["a.png", "b.png"]
    assert [(each["row"], each["reason"]) for each in found.findings] == [
        (f"line {3 if is_last else 2}", "longer than 64 MiB")
    ]


def test_an_ending_in_capitals_is_read(picture, written, imported):
    for name in ("set/a.png", "set/b.png"):
        picture(name)
    written("set/a.json", {"imagePath": "a.png", "shapes": []})
    written("set/B.JSON", {"imagePath": "b.png", "shapes": []})
    found = imported("labelme", written("set/x.txt", "").parent)
    assert sorted(found.samples) == ["a.png", "b.png"]
    assert found.findings == []


@pytest.mark.parametrize(
    ("form", "name"), [("labelme", "gone.json"), ("cvat", "gone.xml"), ("huggingface", "g.parquet")]
)
def test_a_link_that_leads_nowhere_is_a_finding(tmp_path, imported, form, name):
    (tmp_path / "set").mkdir()
    (tmp_path / "set" / name).symlink_to("nowhere")
    with pytest.raises(DataError, match=rf"1 entry cannot be read, 0 rows can:\n.*{name}"):
        imported(form, tmp_path / "set")


NINES = "9" * 5000


@pytest.mark.parametrize(
    ("form", "content"),
    [
        ("coco", '{"images": [{"id": 1, "file_name": "a.png"}, {"id": NINES}], "annotations": [], "categories": []}'),
        ("coco", '{"info": NINES, "images": [{"id": 1, "file_name": "a.png"}]}'),
        ("via", '{"a.png": {"filename": "a.png", "regions": [], "size": NINES}}'),
        ("labelstudio", '[{"data": {"image": "a.png"}, "id": NINES}]'),
        ("synthscars", '[{"img_file_name": "a.png", "refs": [], "id": NINES}]'),
        ("mapping", '{"data": {"image": "a.png"}, "id": NINES}'),
    ],
)
def test_an_integer_of_thousands_of_digits_is_a_finding(picture, written, imported, form, content):
    picture("a.png")
    layout = written("layout.yaml", "fields: {image: value.image}\n") if form == "mapping" else None
    with pytest.raises(DataError, match=r"no JSON|JSON breaks after"):
        imported(form, written("big.json", content.replace("NINES", NINES)), mapping=layout, is_strict=True)


@pytest.mark.parametrize("form", ["labelme", "manifest", "swift"])
def test_a_row_of_brackets_is_a_finding(picture, written, imported, form):
    written("set/deep.json" if form == "labelme" else "set/rows.jsonl", DEEP.replace("images", "image"))
    with pytest.raises(DataError, match="1 entry cannot be read"):
        imported(
            form,
            written("set/x.txt", "").parent if form == "labelme" else written("set/x.txt", "").with_name("rows.jsonl"),
        )


def test_a_torn_file_in_a_folder_is_a_finding(picture, written, imported):
    picture("set/a.png")
    written("set/deep.json", DEEP)
    written("set/torn.json", '{"data": ')
    written("set/words.json", "no JSON at all")
    written("set/latin.json", "[1]")
    (written("set/latin.json", "").parent / "latin.json").write_bytes(b'[{"data": "\xe9"}]')
    folder = written("set/good.json", json.dumps([TASK])).parent
    found = imported("labelstudio", folder)
    assert list(found.samples) == ["a.png"]
    assert sorted(finding["file"].rsplit("/", 1)[1] for finding in found.findings) == [
        "deep.json",
        "latin.json",
        "torn.json",
        "words.json",
    ]
    layout = written("layout.yaml", "fields: {image: data.image}\n")
    again = imported("mapping", folder, mapping=layout)
    assert {finding["file"].rsplit("/", 1)[1] for finding in again.findings} >= {"deep.json", "torn.json", "words.json"}


@pytest.mark.parametrize(
    ("form", "content"),
    [
        ("coco", {"images": [{"id": 1, "file_name": "a.png"}], "annotations": [], "categories": []}),
        ("via", {"a.png": {"filename": "a.png", "regions": []}}),
        ("labelstudio", [TASK]),
        ("labelme", {"imagePath": "a.png", "shapes": []}),
        ("qwen", [{"image": "a.png"}]),
        ("manifest", {"image": "a.png"}),
    ],
)
def test_a_byte_order_mark_is_passed_over(picture, written, imported, form, content):
    picture("a.png")
    src = written("b.jsonl" if form == "manifest" else "b.json", "\ufeff" + json.dumps(content))
    found = imported(form, src)
    assert (list(found.samples), found.findings) == (["a.png"], [])


@pytest.mark.parametrize("name", ["rows.json", "rows.jsonl"])
@pytest.mark.parametrize("is_list", [True, False])
@pytest.mark.parametrize("form", ["manifest", "qwen", "swift"])
def test_a_list_and_json_lines_are_told_apart_by_what_they_hold(picture, written, imported, form, is_list, name):
    picture("a.png"), picture("b.png")
    said = {"messages": [{"role": "assistant", "content": "real"}]} if form != "manifest" else {}
    rows = [{"image": image} | said for image in ("a.png", "b.png")]
    text = json.dumps(rows, indent=1) if is_list else "\n".join(map(json.dumps, rows))
    assert list(imported(form, written(name, "\ufeff\n " + text)).samples) == ["a.png", "b.png"]
