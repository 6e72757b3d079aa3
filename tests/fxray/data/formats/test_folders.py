import pytest

from fxray.errors import DataError
from fxray.schema import Verdict


def test_folders_name_labels_and_generators(picture, tmp_path, imported):
    for name in (
        "set/real/1.jpg",
        "set/real/deep/2.png",
        "set/Fake/sdxl/1.png",
        "set/Fake/3.png",
        "set/Fake/gan/x/4.webp",
    ):
        picture(name)
    (tmp_path / "set/Fake/notes.txt").write_text("no image")
    found = imported("folders", tmp_path / "set", label=None)
    assert {name: (sample.annotation.verdict, sample.generator) for name, sample in found.samples.items()} == {
        "Fake/3.png": (Verdict.GENERATED, "unknown"),
        "Fake/gan/x/4.webp": (Verdict.GENERATED, "gan"),
        "Fake/sdxl/1.png": (Verdict.GENERATED, "sdxl"),
        "real/1.jpg": (Verdict.REAL, "real"),
        "real/deep/2.png": (Verdict.REAL, "real"),
    }
    assert found.findings == []


def test_a_turned_photograph_and_names_in_any_script(picture, tmp_path, imported):
    picture("set/真/é.jpg", orientation=6)
    picture("set/real/é ü.jpg", orientation=6)
    found = imported("folders", tmp_path / "set")
    (sample,) = found.samples.values()
    assert (sample.sample_id, sample.width_px, sample.height_px) == ("real/é ü.jpg", 100, 200)
    assert [finding["field"] for finding in found.findings] == ["folder"]


def test_one_image_in_two_places_is_kept_once(picture, tmp_path, imported):
    copy = picture("set/real/1.png")
    for name in ("2.png", "3.png"):
        (copy.parent / name).write_bytes(copy.read_bytes())
    found = imported("folders", tmp_path / "set")
    assert (found.summary.num_rows, found.summary.num_images) == (3, 1)


def test_other_folders_are_refused(picture, tmp_path, imported):
    picture("set/train/1.png")
    with pytest.raises(DataError, match="no folder named after a label"):
        imported("folders", tmp_path / "set")
