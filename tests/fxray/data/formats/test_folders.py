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
    picture("set/real/.ipynb_checkpoints/1-checkpoint.png")
    picture("set/real/._1.jpg")
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


def test_links_to_folders_are_followed_each_folder_once(picture, tmp_path, imported):
    picture("set/real/1.png")
    picture("elsewhere/sdxl/deep/2.png")
    (tmp_path / "set/fake").mkdir()
    (tmp_path / "set/fake/sdxl").symlink_to(tmp_path / "elsewhere/sdxl")
    (tmp_path / "set/fake/twin").symlink_to(tmp_path / "elsewhere/sdxl/deep")
    (tmp_path / "elsewhere/sdxl/loop").symlink_to(tmp_path / "elsewhere")
    found = imported("folders", tmp_path / "set", label=None)
    assert {name: sample.generator for name, sample in found.samples.items()} == {
        "real/1.png": "real",
        "fake/sdxl/deep/2.png": "sdxl",
    }
    places = [finding["file"].removeprefix(f"{tmp_path}/set/fake/") for finding in found.findings]
    assert places == ["sdxl/loop/sdxl", "twin"]
    assert all("the same folder as" in finding["reason"] for finding in found.findings)


@pytest.mark.parametrize("target", ["..", "../..", "../real", "../real/deep"])
def test_a_link_takes_no_image_out_of_its_own_label(picture, tmp_path, imported, target):
    for name in ("in/set/real/1.png", "in/set/real/deep/2.png", "in/set/fake/3.png", "in/set/unknown/4.png"):
        picture(name)
    (tmp_path / "in/set/fake/all").symlink_to(target)
    found = imported("folders", tmp_path / "in/set", label=None)
    assert {name: sample.annotation.verdict.value for name, sample in found.samples.items()} == {
        "real/1.png": "real",
        "real/deep/2.png": "real",
        "fake/3.png": "generated",
    }
    assert [finding["file"] for finding in found.findings] == [
        str(tmp_path / "in/set/fake/all"),
        str(tmp_path / "in/set/unknown"),
    ]


def test_a_label_that_is_a_link_to_another_is_left_out(picture, tmp_path, imported):
    picture("set/real/1.png")
    (tmp_path / "set/fake").symlink_to("real")
    found = imported("folders", tmp_path / "set", label=None)
    assert [sample.annotation.verdict for sample in found.samples.values()] == [Verdict.REAL]
    assert [finding["file"] for finding in found.findings] == [str(tmp_path / "set/fake")]


def test_images_beside_the_labels_are_told_once(picture, tmp_path, imported):
    for name in ("set/real/1.png", "set/b.png", "set/a.JPG", "set/._a.png"):
        picture(name)
    (tmp_path / "set/readme.txt").write_text("no image")
    found = imported("folders", tmp_path / "set")
    assert list(found.samples) == ["real/1.png"]
    assert [(each["file"], each["value"], each["reason"][:8]) for each in found.findings] == [
        (str(tmp_path / "set"), "a.JPG", "2 images")
    ]


def test_files_that_are_no_image_by_their_ending_are_told_once_per_folder(picture, tmp_path, imported):
    picture("set/fake/sdxl/1.png")
    for name in ("b", "a.bin", ".DS_Store", "Thumbs.db", "1.txt", "1.json", "all.CSV"):
        (tmp_path / "set/fake/sdxl" / name).write_bytes(b"?")
    (tmp_path / "set/fake/gone").symlink_to(tmp_path / "nowhere")
    found = imported("folders", tmp_path / "set")
    assert list(found.samples) == ["fake/sdxl/1.png"]
    assert [(finding["file"], finding["value"], finding["reason"].split()[0]) for finding in found.findings] == [
        (str(tmp_path / "set/fake"), "gone", "1"),
        (str(tmp_path / "set/fake/sdxl"), "a.bin", "2"),
    ]
    with pytest.raises(DataError, match="2 entries cannot be read, 1 row can"):
        imported("folders", tmp_path / "set", is_strict=True)
