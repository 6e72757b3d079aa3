"""The commands around annotations: what they print, write and exit with."""

import io
import json
from dataclasses import replace
from functools import partial
from pathlib import Path

import command_line
import pytest
from PIL import Image

from fxray.data.dataset import Dataset, Row, write_dataset
from fxray.errors import ConfigError, DataError
from fxray.schema import Annotation, Box, Region, Sample, Tag, Verdict

run = partial(command_line.run, "data")


def picture(shade: int) -> bytes:
    buffer = io.BytesIO()
    Image.new("RGB", (80, 40), (shade, 0, 0)).save(buffer, "PNG")
    return buffer.getvalue()


def rows(annotator: str | None = None, *, shift: float = 0.0, prefix: str = "s") -> list[Row]:
    """Forty images, every second real; a generated one has a box of 20 x 20 and a tag."""
    made = []
    for k in range(40):
        region = Region(Box(10 + shift, 10, 30 + shift, 30), f"Leg twisted {k % 3}")
        annotation = Annotation(Verdict.GENERATED, (region,), (Tag.TEXTURE,)) if k % 2 else Annotation(Verdict.REAL)
        generator = f"g{k % 4}" if k % 2 else "real"
        sample = Sample(f"{prefix}{k}", 80, 40, annotation, generator, f"c{k % 5}", "web", annotator)
        made.append(Row(sample, picture(k)))
    return made


@pytest.fixture
def data(tmp_path: Path) -> Path:
    write_dataset(tmp_path / "a.parquet", rows("ana"))
    return tmp_path / "a.parquet"


def test_quality_lists_what_to_mark_and_passes_or_fails(data, tmp_path):
    listed = run("quality", data, "--fraction", 0.2).stdout.split()
    assert len(listed) == 4
    write_dataset(tmp_path / "near.parquet", [row for row in rows(shift=5) if row.sample.sample_id in listed])
    write_dataset(tmp_path / "far.parquet", rows(shift=15))  # 5 of 20 px shared: IoU 100 / 700
    passed = run("quality", data, "--reference", tmp_path / "near.parquet", "--fraction", 0.2)
    assert (passed.exit_code, passed.stdout.splitlines()[-1]) == (0, "passed")
    failed = run("quality", data, "--reference", tmp_path / "far.parquet", "--fraction", 0.2)
    assert (failed.exit_code, failed.stdout.splitlines()[-1]) == (1, "failed")
    assert f"{listed[0]} (ana): mean IoU 0.143, tags 1.00" in failed.stdout
    lowered = run("quality", data, "--reference", tmp_path / "far.parquet", "--min-iou", 0.14, "--json")
    numbers = json.loads(lowered.stdout)
    assert lowered.exit_code == 0
    assert numbers["thresholds"] == {"min_iou": 0.14, "min_box_share": 0.5, "min_tag_accuracy": 1 / 3}
    assert numbers["overall"]["mean_iou"] == pytest.approx(1 / 7)
    with pytest.raises(DataError, match="16 of 20 drawn images have no reference"):
        run("quality", data, "--reference", tmp_path / "near.parquet", "--fraction", 1)
    covered = run("quality", data, "--reference", tmp_path / "near.parquet", "--fraction", 1, "--covered", "--json")
    assert sorted(image["sample_id"] for image in json.loads(covered.stdout)["images"]) == sorted(listed)
    assert run("quality", data, "--covered").exit_code == 2


def test_thresholds_of_quality_come_from_a_file_and_options_go_first(data, tmp_path):
    write_dataset(tmp_path / "far.parquet", rows(shift=15))  # IoU 1 / 7
    (tmp_path / "rules.yaml").write_text("fraction: 0.5\nmin_iou: 0.14\nmin_tag_accuracy: 1\n")
    given = ("quality", data, "--reference", tmp_path / "far.parquet", "--thresholds", tmp_path / "rules.yaml")
    passed = run(*given, "--json")
    numbers = json.loads(passed.stdout)
    assert passed.exit_code == 0
    assert numbers["thresholds"] == {"min_iou": 0.14, "min_box_share": 0.5, "min_tag_accuracy": 1}
    assert len(numbers["images"]) == 10
    assert run(*given, "--min-iou", 0.15).exit_code == 1
    with pytest.raises(ConfigError, match=r"min_iou is 1.5; must be less than or equal to 1 \(--min-iou\)"):
        run(*given, "--min-iou", 1.5)
    (tmp_path / "rules.yaml").write_text("min_iuo: 0.14\n")
    with pytest.raises(ConfigError, match=r"rules.yaml:1(.|\n)*did you mean `min_iou`"):
        run(*given)
    (tmp_path / "rules.yaml").write_text("- 1\n")
    with pytest.raises(ConfigError, match="no mapping of keys to values"):
        run(*given)


def test_a_folder_in_place_of_a_dataset_is_told_its_files(data):
    for command in ("check", "stats", "show", "split"):
        with pytest.raises(DataError, match=r"is a folder, expected a dataset file\n.*name a file in it: a.parquet"):
            run(command, data.parent)


def test_annotations_in_place_of_a_dataset_are_told_the_import(tmp_path):
    (tmp_path / "ann.json").write_text("{}")
    for command in ("check", "stats", "show", "split"):
        with pytest.raises(DataError, match=r"a JSON file, expected a dataset (.|\n)*remedy: fxray data import makes"):
            run(command, tmp_path / "ann.json")


def test_agreement_goes_by_id_or_by_image(data, tmp_path):
    write_dataset(tmp_path / "ben.parquet", rows(shift=10))  # no annotator: the file's name; half shared: 1 / 3
    numbers = json.loads(run("agreement", data, tmp_path / "ben.parquet", "--json").stdout)
    assert (numbers["num_images"], numbers["box_iou"]) == (40, pytest.approx(1 / 3))
    assert [pair["annotators"] for pair in numbers["pairs"]] == [["ana", "ben"]]
    write_dataset(tmp_path / "other-ids.parquet", rows("cleo", prefix="t"))
    with pytest.raises(DataError, match="none of 80 images"):
        run("agreement", data, tmp_path / "other-ids.parquet")
    shown = run("agreement", data, tmp_path / "other-ids.parquet", "--by-image").stdout
    assert "ana and cleo" in shown
    assert "box IoU 1.000" in shown


def test_two_imports_are_compared_though_their_files_have_one_name(tmp_path):
    for folder, shift in (("ana", 0), ("ben", 10)):
        (tmp_path / folder).mkdir()
        write_dataset(tmp_path / folder / "dataset.parquet", rows(shift=shift))
    write_dataset(tmp_path / "cleo.parquet", rows(shift=10))
    files = [tmp_path / name for name in ("ana/dataset.parquet", "ben/dataset.parquet", "cleo.parquet")]
    pairs = json.loads(run("agreement", *files, "--json").stdout)["pairs"]
    assert [pair["annotators"] for pair in pairs] == [
        ["ana/dataset", "ben/dataset"],
        ["ana/dataset", "cleo"],
        ["ben/dataset", "cleo"],
    ]
    with pytest.raises(DataError, match="marked image 's0' before"):
        run("agreement", files[0], files[0])


def test_select_keeps_the_best_and_their_images(data, tmp_path):
    ratings = "".join(f"s{k},r{r},{k}\n" for k in range(1, 40, 2) for r in range(3))
    (tmp_path / "ratings.csv").write_text("sample_id,rater,rating\n" + ratings)
    result = run("select", data, tmp_path / "ratings.csv", tmp_path / "out" / "b.parquet", "--top", 1)
    assert result.stdout.splitlines()[-1].startswith("10 of 20 rated images kept, 20 real ones with them")
    kept = Dataset.open(tmp_path / "out" / "b.parquet")
    # Ten cells of two images, k and k + 20: the later one is rated higher.
    assert [s.sample_id for s in kept.samples if s.generator != "real"] == [f"s{k}" for k in range(21, 40, 2)]
    assert kept.samples[-1].annotator == "ana"
    assert kept.image_bytes(len(kept) - 1) == picture(39)
    assert run("select", data, tmp_path / "ratings.csv", data, "--top", 1).exit_code == 2
    with pytest.raises(DataError, match="line 2, field rating: 1, expected 2 to 50"):
        run("select", data, tmp_path / "ratings.csv", tmp_path / "c.parquet", "--top", 1, "--scale", 2, 50)
    assert not (tmp_path / "c.parquet").exists()


def test_stats_as_table_json_and_page(data, tmp_path):
    assert "mean 1.00, 1.00 to 1.00" in run("stats", data).stdout
    assert json.loads(run("stats", data, "--json").stdout)["num_generated"] == 20
    page = run("stats", data, "--out", tmp_path / "facts").stdout.splitlines()[-1]
    text = Path(page).read_text()
    assert "SYNTHETIC" not in text
    assert text.count("data:image/png;base64,") == 7 == len(list((tmp_path / "facts").glob("*.png")))
    assert run("stats", data, "--out", tmp_path / "facts").exit_code == 0
    with pytest.raises(ConfigError, match=r"is there already, and holds a\.parquet"):
        run("stats", data, "--out", tmp_path)


def test_tokens_say_what_training_would_refuse(data, tmp_path):
    result = run("tokens", data, "-c", "tiny", "--json")
    counts = json.loads(result.stdout)
    assert (result.exit_code, counts["num_too_long"], counts["answer_tokens"]["count"]) == (0, 0, 40)
    longest = int(counts["answer_tokens"]["high"])
    tight = ["-s", f"sft.max_answer_tokens={longest - 1}"]
    refused = run("tokens", data, "-c", "tiny", *tight)
    assert refused.exit_code == 1
    few = f"answers have more than {longest - 1} tokens and are refused (sft.max_answer_tokens, sft.on_long_answer)"
    assert few in refused.stdout
    cut = run("tokens", data, "-c", "tiny", *tight, "-s", "sft.on_long_answer=drop-regions")
    assert (cut.exit_code, few.replace("are refused", "lose their last regions") in cut.stdout) == (0, True)
    write_dataset(tmp_path / "one.parquet", rows()[1:2])
    assert (
        "\n1 answer has more than 9 tokens and is refused (sft"
        in run("tokens", tmp_path / "one.parquet", "-c", "tiny", "-s", "sft.max_answer_tokens=9").stdout
    )
    plain = json.loads(run("tokens", data, "-c", "tiny", "-s", "data.view=label-only", "--json").stdout)
    assert plain["answer_tokens"]["high"] < 10
    assert all(
        short["prompt_tokens"] < full["prompt_tokens"]
        for short, full in zip(plain["templates"], counts["templates"], strict=True)
    )
    unmarked = [replace(row, sample=replace(row.sample, annotation=Annotation(Verdict.GENERATED))) for row in rows()]
    write_dataset(tmp_path / "unmarked.parquet", unmarked)
    result = run("tokens", tmp_path / "unmarked.parquet", "-c", "tiny")
    assert result.exit_code == 1
    assert "cannot be written: sample s0: an annotation of verdict 'generated' with 0 regions" in result.stdout
    assert run("tokens", tmp_path / "unmarked.parquet", "-c", "tiny", "-s", "data.view=no-bbox").exit_code == 0


def test_show_draws_a_sheet_or_single_images(data, tmp_path):
    sheet = tmp_path / "sheet.png"
    assert run("show", data, "--out", sheet, "--num", 7, "--columns", 3).stdout == f"{sheet}\n"
    first = Image.open(sheet).convert("RGB")
    assert first.width == 16 + 3 * (448 + 16)
    run("show", data, "--out", tmp_path / "again.png", "--num", 7, "--columns", 3)
    run("show", data, "--out", tmp_path / "other.png", "--num", 7, "--columns", 3, "--seed", 1)
    assert first.tobytes() == Image.open(tmp_path / "again.png").tobytes()
    assert first.tobytes() != Image.open(tmp_path / "other.png").tobytes()
    single = run("show", data, "--id", "s3", "--id", "s2", "--out", tmp_path / "drawn").stdout.split()
    assert [Path(path).name for path in single] == ["000003-s3.png", "000002-s2.png"]
    assert Image.open(single[0]).width == 448
    assert run("show", data, "--id", "s3", "--out", tmp_path / "one.png").stdout == f"{tmp_path / 'one.png'}\n"
    assert Image.open(tmp_path / "one.png").tobytes() == Image.open(single[0]).tobytes()
    with pytest.raises(DataError, match=r"no sample 's33x'"):
        run("show", data, "--id", "s33x")
    with pytest.raises(DataError, match="no image of generator flux and annotator any"):
        run("show", data, "--generator", "flux")
    run("show", data, "--annotator", "ana", "--num", 1, "--out", sheet)
    assert Image.open(sheet).width == 16 + 448 + 16


def test_a_sheet_of_another_kind_of_picture_is_refused_at_the_start(data, tmp_path):
    shown = run("show", data, "--out", tmp_path / "sheet.jpg")
    assert shown.exit_code == 2
    assert "the sheet is a PNG" in " ".join(shown.stderr.split())
    assert not list(tmp_path.glob("sheet*"))


def test_show_names_what_there_is_in_place_of_what_is_not(data):
    with pytest.raises(DataError, match=r"no image of (.|\n)*annotators here are ana"):
        run("show", data, "--annotator", "bob")
    with pytest.raises(DataError, match=r"no image of (.|\n)*generators here are .*real"):
        run("show", data, "--annotator", "bob", "--generator", "nobodys")


@pytest.mark.parametrize("more", [[], ["--generator", "nobodys"]])
def test_show_says_so_where_no_row_has_an_annotator(tmp_path, more):
    write_dataset(tmp_path / "a.parquet", rows())
    with pytest.raises(DataError, match=r"remedy: no row says who marked it; leave --annotator out$"):
        run("show", tmp_path / "a.parquet", "--annotator", "ana", *more)


def test_show_says_which_image_it_could_not_draw(tmp_path):
    broken = rows()[:2]
    broken[1] = replace(broken[1], image=picture(1)[:50])
    sample = replace(broken[0].sample, sample_id="../../x y", width_px=81)
    write_dataset(tmp_path / "a.parquet", [*broken, Row(sample, picture(2))])
    result = run("show", tmp_path / "a.parquet", "--out", tmp_path / "sheet.png")
    assert result.exit_code == 1
    assert "row 1 (sample 's1'): image of 50 bytes is damaged" in result.stderr
    assert "image is 80x40 px, its row says 81x40" in result.stderr
    single = run("show", tmp_path / "a.parquet", "--id", "../../x y", "--out", tmp_path / "drawn")
    assert single.exit_code == 1
    assert [path.name for path in (tmp_path / "drawn").iterdir()] == ["000002-_.._x_y.png"]


@pytest.mark.parametrize("command", ["quality", "agreement", "select", "stats", "tokens", "show"])
def test_each_command_shows_an_example(command):
    shown = run(command, "--help").stdout
    assert f"  fxray data {command} " in shown


def test_names_are_text_and_never_markup(tmp_path):
    odd = [replace(row, sample=replace(row.sample, annotator="[/red] :smile:")) for row in rows()]
    write_dataset(tmp_path / "a.parquet", odd)
    shown = run("quality", tmp_path / "a.parquet", "--reference", tmp_path / "a.parquet").stdout
    assert "│ [/red] :smile: │" in shown
    bare = replace(rows()[1].sample, sample_id="[b]1[/b]", annotation=Annotation(Verdict.GENERATED))
    write_dataset(tmp_path / "b.parquet", [Row(bare, picture(1))])
    assert "([b]1[/b])" in run("check", tmp_path / "b.parquet").stdout


def test_a_place_of_the_wrong_kind_is_wrong_usage(data, tmp_path):
    assert run("show", data, "--out", tmp_path).exit_code == 2
    assert run("show", data, "--id", "s1", "--out", data).exit_code == 2
    assert run("show", data, "--id", "s1", "--id", "s2", "--out", tmp_path / "both.png").exit_code == 2
    assert run("show", data, "--id", "s1", "--out", tmp_path / "one.jpg").exit_code == 2
    assert not list(tmp_path.glob("*.png")) + list(tmp_path.glob("*.jpg"))
    (tmp_path / "ratings.csv").write_text("sample_id,rater,rating\n")
    assert run("select", data, tmp_path / "ratings.csv", tmp_path, "--top", 1).exit_code == 2
    reversed_scale = ["--top", 1, "--scale", 5, 1]
    assert run("select", data, tmp_path / "ratings.csv", tmp_path / "b", *reversed_scale).exit_code == 2
    with pytest.raises(DataError, match="is a folder, expected a dataset file"):
        run("stats", tmp_path)
