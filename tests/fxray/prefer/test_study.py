import io
import json
import os
import sqlite3
from collections import Counter
from dataclasses import replace

import pytest
from PIL import Image
from study_files import HEIGHT_PX, NUM_IMAGES, PLAN, WIDTH_PX, encoded, sample, write_source

from fxray.data.dataset import Row, write_dataset
from fxray.errors import DataError, ResourceError
from fxray.geometry import union_iou
from fxray.prefer.checks import spoil
from fxray.prefer.marking import read_marking
from fxray.prefer.sources import Source
from fxray.prefer.store import open_study
from fxray.prefer.study import CHECK_POOL, create_study
from fxray.schema import Annotation, Box, Region, Verdict


def create(path, files, sources, **changes):
    return create_study(path, files / "data.parquet", sources, replace(PLAN, **changes), lambda done, total: None)


def test_a_study_has_every_two_annotations_of_each_generated_image(store):
    pairs = store.read("SELECT * FROM pair WHERE is_check = 0")
    assert len(pairs) == NUM_IMAGES * 3
    names = store.read(
        "SELECT one.name AS a, other.name AS b, sample_id FROM pair JOIN image USING (image_id) "
        "JOIN annotation AS x ON x.annotation_id = a JOIN source AS one ON one.source_id = x.source_id "
        "JOIN annotation AS y ON y.annotation_id = b JOIN source AS other ON other.source_id = y.source_id"
    )
    expected = Counter({("Humans", "near"): NUM_IMAGES, ("Humans", "far"): NUM_IMAGES, ("near", "far"): NUM_IMAGES})
    assert Counter((row["a"], row["b"]) for row in names) == expected
    assert "image/real" not in {row["sample_id"] for row in names}
    assert "structure errors" not in json.dumps([dict(row) for row in store.read("SELECT * FROM annotation")])


def test_an_attention_check_sets_the_truth_against_boxes_elsewhere_and_another_images_captions(store):
    checks = store.read(
        "SELECT sample_id, x.verdict AS v, x.regions AS truth, y.regions AS wrong "
        "FROM pair JOIN image USING (image_id) "
        "JOIN annotation AS x ON x.annotation_id = a JOIN annotation AS y ON y.annotation_id = b WHERE is_check"
    )
    assert len(checks) == CHECK_POOL * PLAN.checks_per_rater
    for row in checks:
        truth, wrong = read_marking(row["v"], row["truth"]), read_marking(row["v"], row["wrong"])
        assert truth.regions == sample(int(row["sample_id"].split("/")[1])).annotation.regions
        assert union_iou([r.box for r in truth.regions], [r.box for r in wrong.regions]) == 0
        assert truth.regions[0].caption != wrong.regions[0].caption


def test_no_check_is_made_where_the_wrong_side_could_be_right():
    marked = sample(0)
    assert spoil(marked, [marked.annotation.regions[0].caption.upper()]) == ()
    everywhere = Annotation(Verdict.GENERATED, (Region(Box(0, 0, WIDTH_PX, HEIGHT_PX), "all"),))
    assert spoil(replace(marked, annotation=everywhere), ["other"]) == ()


@pytest.mark.parametrize(
    ("box", "wrong"),
    [
        (Box(0, 0, 12, 5), Box(WIDTH_PX - 12, HEIGHT_PX - 5, WIDTH_PX, HEIGHT_PX)),
        (Box(WIDTH_PX - 4, HEIGHT_PX - 5, WIDTH_PX, HEIGHT_PX), Box(0, 0, 4, 5)),
        (Box(8, 4, 14, 7), Box(WIDTH_PX - 6, HEIGHT_PX - 3, WIDTH_PX, HEIGHT_PX)),
        (Box(0, HEIGHT_PX - 12, WIDTH_PX, HEIGHT_PX - 2), Box(0, 0, WIDTH_PX, 10)),
    ],
)
def test_a_spoiled_box_keeps_its_size_and_lies_as_far_off_as_there_is_room(box, wrong):
    marked = replace(sample(0), annotation=Annotation(Verdict.GENERATED, (Region(box, "Hand fused"),)))
    assert spoil(marked, ["Sky torn", "Wall bent"]) == (Region(wrong, "Sky torn"),)


def test_equal_annotations_are_left_out_and_counted(files, tmp_path):
    sources = [Source("near", files / "near.parquet"), Source("again", files / "near.parquet"), Source("Humans", None)]
    made = create(tmp_path / "s.db", files, sources)
    assert (made.num_pairs, made.num_identical) == (2 * NUM_IMAGES, NUM_IMAGES)
    with pytest.raises(DataError, match="say the same of all 40 images"):
        create(tmp_path / "t.db", files, sources[:2])
    assert list(tmp_path.glob("*t.db*")) == []


def test_large_images_are_reduced_with_their_boxes_and_lose_their_metadata(tmp_path):
    image, out = Image.open(io.BytesIO(encoded(1))), io.BytesIO()
    exif = Image.Exif()
    exif[0x0131] = "a generator"
    image.save(out, "JPEG", exif=exif)
    write_dataset(tmp_path / "data.parquet", [Row(sample(0), out.getvalue())])
    sources = [Source("Humans", None), Source("near", write_source(tmp_path / "n.parquet", 4, range(1)))]
    create(tmp_path / "s.db", tmp_path, sources, checks_per_rater=0, max_side_px=WIDTH_PX // 2)
    with open_study(tmp_path / "s.db") as store:
        jpeg = store.read("SELECT jpeg FROM image")[0]["jpeg"]
        boxes = [json.loads(row["regions"])[0]["box"] for row in store.read("SELECT regions FROM annotation")]
    assert Image.open(io.BytesIO(jpeg)).size == (WIDTH_PX // 2, HEIGHT_PX // 2)
    assert b"a generator" not in jpeg
    assert boxes == [[5, 4, 17, 15], [7, 4, 19, 15]]


def test_a_name_and_captions_that_are_no_unicode_make_a_study(files, tmp_path):
    study = tmp_path / os.fsdecode(b"s\xff.db")
    rows = [
        {
            "sample_id": f"image/{k}",
            "verdict": "generated",
            "regions": [{"box": [1, 2, 30, 40], "caption": "hand \ud83d"}],
        }
        for k in range(NUM_IMAGES)
    ]
    (tmp_path / "cut.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    sources = [Source("Humans", None), Source("cut", tmp_path / "cut.jsonl")]
    create(study, files, sources)
    with open_study(study) as store:
        found = store.read("SELECT regions FROM annotation WHERE source_id = 1")
        assert [json.loads(row["regions"])[0]["caption"] for row in found] == ["hand ?"] * NUM_IMAGES
        assert store.facts["name"] == r"s\udcff"


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda s: s[:1], "1 source, expected two or more"),
        (lambda s: [*s, s[1]], "two sources are called 'near'"),
        (lambda s: [s[0], replace(s[1], name="a=b")], "source 'a=b', expected 1 to 64"),
        (lambda s: [s[0], replace(s[1], file=s[1].file.with_name("none.parquet"))], "no such predictions file"),
    ],
)
def test_sources_that_cannot_be_compared_are_one_error(change, said, files, sources, tmp_path):
    with pytest.raises(DataError, match=said):
        create(tmp_path / "s.db", files, change(sources))
    assert list(tmp_path.iterdir()) == []


def test_predictions_must_be_of_the_studys_images(files, sources, tmp_path):
    few = Source("few", write_source(tmp_path / "few.jsonl", 1, range(3, NUM_IMAGES)))
    with pytest.raises(DataError, match=r"source few: lacks 3 of the study's 40 images: image/0, image/1, image/2"):
        create(tmp_path / "s.db", files, [sources[0], few])
    more = Source("more", write_source(tmp_path / "more.jsonl", 1, range(NUM_IMAGES + 1)))
    with pytest.raises(DataError, match=r"1 sample is not in the dataset: image/40"):
        create(tmp_path / "s.db", files, [sources[0], more])
    labels = tmp_path / "labels.csv"
    labels.write_text("sample_id,label\nimage/0,generated\n")
    with pytest.raises(DataError, match="holds no boxes"):
        create(tmp_path / "s.db", files, [sources[0], Source("labels", labels)])
    with pytest.raises(DataError, match="40 images give an attention check, expected 50"):
        create(tmp_path / "s.db", files, sources, checks_per_rater=50)


def test_a_file_that_is_no_study_of_this_version_is_one_error(study, files, tmp_path):
    with pytest.raises(DataError, match="no such study file"):
        open_study(tmp_path / "none.db")
    with pytest.raises(DataError, match="no such study file"):
        open_study(tmp_path / f"{'x' * 300}.db")
    with pytest.raises(DataError, match="is no study file"):
        open_study(files / "data.parquet")
    other = sqlite3.connect(tmp_path / "other.db")
    other.execute("CREATE TABLE t (x)")
    other.close()
    with pytest.raises(DataError, match="is no study file"):
        open_study(tmp_path / "other.db")
    newer = sqlite3.connect(study)
    newer.execute("PRAGMA user_version = 2")
    newer.close()
    with pytest.raises(DataError, match="a study of version 2, this fxray reads version 1"):
        open_study(study)


def test_a_file_that_sqlite_may_not_open_is_one_error(study, files, sources, tmp_path, monkeypatch):
    connect = sqlite3.connect
    # Root may open every file, but nobody one below what is no folder.
    monkeypatch.setattr(sqlite3, "connect", lambda path, **options: connect(tmp_path / "study.db" / "below", **options))
    with pytest.raises(ResourceError, match="cannot be opened: unable to open database file"):
        open_study(study)
    with pytest.raises(ResourceError, match="cannot be opened: unable to open database file"):
        create(tmp_path / "new.db", files, sources)


def test_a_study_that_is_there_is_never_replaced(study, files, sources):
    before = study.read_bytes()
    with pytest.raises(DataError, match="is there already"):
        create(study, files, sources)
    assert study.read_bytes() == before


def test_votes_of_a_study_that_was_not_closed_do_not_come_into_a_new_one(study, files, sources):
    study.with_name(f"{study.name}-wal").write_bytes(b"votes")
    study.unlink()
    with pytest.raises(DataError, match=r"-wal: is of a study that was not closed"):
        create(study, files, sources)
    assert not study.exists()
