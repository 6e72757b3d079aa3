from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import PeftModel
from PIL import Image

from fxray.data.dataset import Dataset, Row, write_dataset
from fxray.data.frame import Sight, sight_of, smart_frame
from fxray.data.order import rows_of_step
from fxray.errors import DataError
from fxray.grammar.parse import parse
from fxray.model.adapter import attach_adapter
from fxray.model.batch import pack
from fxray.model.images import load_image_processor
from fxray.model.load import load_model
from fxray.model.packed import PackedPolicy
from fxray.model.prompts import load_tokenizer
from fxray.sft import batches
from fxray.sft.batches import Example, ExampleReader, late, token_weights
from fxray.sft.settings import SftSettings


def make_reader(settings: SftSettings, *, rank: int = 0, num_ranks: int = 1) -> ExampleReader:
    path = Path(settings.model_path)
    processor = load_image_processor(path, min_pixels=settings.min_pixels, max_pixels=settings.max_pixels)
    dataset = Dataset.open(Path(settings.dataset_path))
    return ExampleReader(
        settings, dataset, load_tokenizer(path), processor, sight_of(path), rank=rank, num_ranks=num_ranks
    )


def plain_loss(model: PeftModel, reader: ExampleReader, step: int, pad_token_id: int) -> tuple[torch.Tensor, list[int]]:
    """The textbook form: padded rows, -100 on everything but the answer. Also the number of learnt tokens a row."""
    base = model.get_base_model()
    examples = reader.read(step)
    sequences = [torch.tensor([*e.row.prompt_token_ids.tolist(), *e.row.answers[0].tolist()]) for e in examples]
    input_ids = torch.nn.utils.rnn.pad_sequence(sequences, batch_first=True, padding_value=pad_token_id)
    labels = torch.full_like(input_ids, -100)
    for row, example in enumerate(examples):
        start, end = len(example.row.prompt_token_ids), len(sequences[row])
        labels[row, start:end] = input_ids[row, start:end]
    is_token = torch.stack([torch.arange(input_ids.shape[1]) < len(sequence) for sequence in sequences])
    logits = base(
        input_ids=input_ids,
        attention_mask=is_token.long(),
        mm_token_type_ids=(input_ids == base.config.image_token_id).long(),
        pixel_values=torch.cat([e.row.pixel_values for e in examples]),
        image_grid_thw=torch.stack([e.row.grid_thw for e in examples]),
    ).logits
    loss = torch.nn.functional.cross_entropy(
        logits[:, :-1].flatten(0, 1), labels[:, 1:].flatten(), ignore_index=-100, reduction="sum"
    )
    return loss, (labels != -100).sum(1).tolist()


def test_loss_is_on_the_answers_tokens_alone(settings: SftSettings) -> None:
    reader = make_reader(settings)
    tokenizer = load_tokenizer(Path(settings.model_path))

    examples = reader.read(0)
    base = load_model(Path(settings.model_path), dtype="float32")
    packed = pack(base, [example.row for example in examples])

    texts = [tokenizer.decode(example.row.answers[0]) for example in examples]
    assert all(text.startswith("<think>\n") and text.endswith("</verdict><|im_end|>") for text in texts)
    assert tokenizer.decode(packed.target_R) == "".join(texts)
    # Each target is predicted from the token before it, the first one from the end of the prompt.
    assert torch.equal(packed.input_ids_T[packed.predictor_R + 1], packed.target_R)
    for example in examples:
        prompt = tokenizer.decode(example.row.prompt_token_ids)
        assert prompt.endswith("<|im_start|>assistant\n")
        assert "<think>" not in prompt


def test_loss_and_gradient_equal_the_textbook_form(settings: SftSettings) -> None:
    reader = make_reader(settings)
    base = load_model(Path(settings.model_path), dtype="float32")
    model = attach_adapter(base, rank=8, alpha=32, dropout=0.0, seed=1)
    adapter = [parameter for parameter in model.parameters() if parameter.requires_grad]
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in adapter:
            parameter.add_(0.02 * torch.randn(parameter.shape, generator=generator))
    pad_token_id = int(load_tokenizer(Path(settings.model_path)).pad_token_id)

    expected, num_learnt = plain_loss(model, reader, 0, pad_token_id)
    expected_gradient = torch.autograd.grad(expected, adapter)
    examples = reader.read(0)
    logprobs_R = PackedPolicy(model)(pack(base, [example.row for example in examples]), 1.0)
    loss = -(logprobs_R * token_weights(examples)).sum()
    gradient = torch.autograd.grad(loss, adapter)

    assert [len(example.row.answers[0]) for example in examples] == num_learnt
    # The policy leaves the two vision placeholders out of its vocabulary: ~ln(1 + 2 / 900) a token untrained.
    assert loss.item() == pytest.approx(expected.item(), rel=2e-3)
    for got, wanted in zip(gradient, expected_gradient, strict=True):
        torch.testing.assert_close(got, wanted, rtol=0.05, atol=0.02 * float(wanted.abs().max()))


def test_the_ranks_share_every_step_without_overlap(settings: SftSettings) -> None:
    whole, first, second = (
        make_reader(settings),
        make_reader(settings, rank=0, num_ranks=2),
        make_reader(settings, rank=1, num_ranks=2),
    )

    for step in (0, 5, 6):
        ids = [[example.row.sample_id for example in reader.read(step)] for reader in (whole, first, second)]
        rows = rows_of_step(settings.seed, "sft", num_rows=24, batch_size=4, step=step)
        expected = [f"sample-{row}" for _, row in rows]
        assert [set(share) for share in ids] == [set(expected), set(expected[:2]), set(expected[2:])]
        lengths = [len(example.row.answers[0]) for example in whole.read(step)]
        assert lengths == sorted(lengths)


def test_templates_change_from_epoch_to_epoch_and_are_the_same_on_every_reader(settings: SftSettings) -> None:
    def prompts(reader: ExampleReader, steps: range) -> dict[str, tuple[int, ...]]:
        examples = [example for step in steps for example in reader.read(step)]
        return {example.row.sample_id: tuple(example.row.prompt_token_ids.tolist()) for example in examples}

    reader = make_reader(settings)
    first_epoch, second_epoch = prompts(reader, range(6)), prompts(reader, range(6, 12))

    assert first_epoch.keys() == second_epoch.keys()
    assert len(first_epoch) == 24
    assert first_epoch == prompts(make_reader(settings), range(6))
    assert sum(first_epoch[name] != second_epoch[name] for name in first_epoch) > 12


def test_questions_and_answers_keep_to_the_view(settings: SftSettings) -> None:
    tokenizer = load_tokenizer(Path(settings.model_path))
    rows = [example.row for example in make_reader(replace(settings, view="label-only")).read(0)]

    answers = {tokenizer.decode(row.answers[0]) for row in rows}
    assert answers == {"<verdict>real</verdict><|im_end|>", "<verdict>generated</verdict><|im_end|>"}
    asked = [tokenizer.decode(row.prompt_token_ids) for row in rows]
    assert not any("box" in question or "tag" in question for question in asked)


def test_answers_name_regions_in_the_order_of_the_job(settings: SftSettings) -> None:
    tokenizer = load_tokenizer(Path(settings.model_path))
    corners = {}
    for order in ("annotation", "position"):
        reader = make_reader(replace(settings, region_order=order))
        corners[order] = {
            example.row.sample_id: [
                (region.box.y_min, region.box.x_min)
                for region in parse(tokenizer.decode(example.row.answers[0])).regions
            ]
            for step in range(6)
            for example in reader.read(step)
        }
    assert corners["annotation"] != corners["position"]
    assert corners["position"] == {name: sorted(boxes) for name, boxes in corners["annotation"].items()}


@pytest.mark.parametrize("model", ["random_qwen3_dir", "random_internvl_dir"])
def test_other_families_are_taught_boxes_as_they_name_them(
    settings: SftSettings, model: str, request: pytest.FixtureRequest
) -> None:
    folder: Path = request.getfixturevalue(model)
    tokenizer, sight = load_tokenizer(folder), sight_of(folder)
    assert sight == (Sight(32, 1000) if model == "random_qwen3_dir" else Sight(28, 1000, tile_px=56))
    samples = {each.sample_id: each for each in Dataset.open(Path(settings.dataset_path)).samples}
    num_boxes = 0
    for example in make_reader(replace(settings, model_path=str(folder))).read(0):
        sample = samples[example.row.sample_id]
        frame = smart_frame(
            sample.width_px,
            sample.height_px,
            min_pixels=settings.min_pixels,
            max_pixels=settings.max_pixels,
            sight=sight,
        )
        if sight.tile_px:
            num_tiles = frame.num_tokens // 4
            assert example.row.grid_thw.tolist() == [num_tiles, 4, 4]
            assert example.row.pixel_values.shape == (num_tiles, 3, 56, 56)
        else:
            assert example.row.grid_thw.tolist() == [1, frame.model_height_px // 16, frame.model_width_px // 16]
        taught = [region.box for region in parse(tokenizer.decode(example.row.answers[0])).regions]
        assert taught == [frame.to_model(region.box) for region in sample.annotation.regions]
        num_boxes += len(taught)
    assert num_boxes


def test_dropped_regions_are_counted(settings: SftSettings) -> None:
    longest = max(len(e.row.answers[0]) for step in range(6) for e in make_reader(settings).read(step))
    refusing = make_reader(replace(settings, max_answer_tokens=longest - 1))
    with pytest.raises(DataError, match="on_long_answer=drop-regions"):
        [refusing.read(step) for step in range(6)]

    reader = make_reader(replace(settings, max_answer_tokens=longest - 1, on_long_answer="drop-regions"))
    examples = [example for step in range(6) for example in reader.read(step)]
    # One to three squares, all captions alike: only the answers with three lose one.
    assert {example.num_dropped_regions for example in examples} == {0, 1}
    assert sum(e.num_dropped_regions for e in examples) == sum(1 + k % 3 == 3 for k in range(1, 24, 2))


def test_a_corrupt_image_stops_the_job_and_names_its_row(settings: SftSettings, corrupt_dataset_path: Path) -> None:
    reader = make_reader(replace(settings, dataset_path=str(corrupt_dataset_path), batch_size=8))

    with pytest.raises(DataError, match=r"row 2 \(sample 'sample-2'\)") as caught:
        reader.read(0)

    assert caught.value.remedy.endswith(", or set data.on_corrupt_image=skip to leave such images out")


def test_a_skipped_image_is_counted_and_weighs_nothing(settings: SftSettings, corrupt_dataset_path: Path) -> None:
    settings = replace(settings, dataset_path=str(corrupt_dataset_path), batch_size=8, on_corrupt_image="skip")
    reader = make_reader(settings)

    examples = reader.read(0)

    assert [example.row.sample_id for example in examples if not example.is_learnt] == ["sample-2"]
    assert list(reader.corrupt_rows) == [2]
    assert "sample-2" in reader.corrupt_rows[2]
    assert "remedy" not in reader.corrupt_rows[2]
    expected = [
        weight
        for example in examples
        for weight in [0.0 if example.row.sample_id == "sample-2" else 1.0] * len(example.row.answers[0])
    ]
    assert token_weights(examples).tolist() == expected


def test_a_cached_image_is_the_image(settings: SftSettings, monkeypatch: pytest.MonkeyPatch) -> None:
    cached, again = make_reader(settings), make_reader(settings)
    first = cached.read(0)
    monkeypatch.setattr(again, "_dataset", None)  # nothing can be read any more
    monkeypatch.setattr(cached._dataset, "image_bytes", None)

    for before, after in zip(first, cached.read(0), strict=True):
        assert torch.equal(before.row.pixel_values, after.row.pixel_values)
        assert torch.equal(before.row.grid_thw, after.row.grid_thw)


def test_images_are_kept_as_long_as_they_fit(settings: SftSettings, monkeypatch: pytest.MonkeyPatch) -> None:
    sizes = [4 * e.row.pixel_values.numel() for step in range(6) for e in make_reader(settings).read(step)]
    bound = sum(sizes) // 2
    monkeypatch.setattr(batches, "CACHE_BYTES", bound)
    reader = make_reader(settings)
    for step in range(12):
        reader.read(step)
    kept = sum(4 * pixels.numel() for pixels, _ in reader._patches.values())
    assert bound - max(sizes) < kept <= bound


@pytest.mark.parametrize("odd", [{"width_px": 85}, {"height_px": 57}])
def test_an_image_of_another_size_than_its_row_says_is_not_learnt(
    settings: SftSettings, tmp_path: Path, odd: dict[str, int]
) -> None:
    dataset = Dataset.open(Path(settings.dataset_path))
    rows = [Row(sample, dataset.image_bytes(k)) for k, sample in enumerate(dataset.samples[:8])]
    rows[0] = replace(rows[0], sample=replace(rows[0].sample, **odd))
    write_dataset(tmp_path / "odd.parquet", rows)
    settings = replace(settings, dataset_path=str(tmp_path / "odd.parquet"), batch_size=8)

    with pytest.raises(DataError, match="image is 84x56 px upright, expected 8"):
        make_reader(settings).read(0)
    reader = make_reader(replace(settings, on_corrupt_image="skip"))
    examples = reader.read(0)
    assert [example.row.sample_id for example in examples if not example.is_learnt] == ["sample-0"]
    base = load_model(Path(settings.model_path), dtype="float32")
    assert len(pack(base, [example.row for example in examples]).target_R) == len(token_weights(examples))


def test_a_step_that_takes_too_long_to_read_is_named() -> None:
    assert "samples of step 7 took more than 600 s" in str(late(7))


def test_changed_images_are_the_same_on_every_reader_and_never_longer(settings: SftSettings) -> None:
    changing = replace(settings, augment_share=1.0)
    plain = {e.row.sample_id: e.row for step in range(12) for e in make_reader(settings).read(step)}
    reader, again = make_reader(changing), make_reader(changing)
    pixels: dict[str, list[torch.Tensor]] = {}
    for step in range(12):  # two epochs
        for example, other in zip(reader.read(step), again.read(step), strict=True):
            row = example.row
            assert torch.equal(row.pixel_values, other.row.pixel_values)
            assert row.answers[0].tolist() == other.row.answers[0].tolist()
            assert row.grid_thw.prod() <= plain[row.sample_id].grid_thw.prod()
            pixels.setdefault(row.sample_id, []).append(row.pixel_values)
    differ = [first.shape != second.shape or not torch.equal(first, second) for first, second in pixels.values()]
    assert len(differ) == 24
    assert sum(differ) > 16  # a sixteenth keeps its pixels, and so does what would be longer


def test_answers_of_changed_images_name_the_squares_where_they_are_now(settings: SftSettings) -> None:
    path = Path(settings.model_path)
    tokenizer, samples = load_tokenizer(path), Dataset.open(Path(settings.dataset_path)).samples
    captions = {sample.sample_id: [region.caption for region in sample.annotation.regions] for sample in samples}
    moved = 0
    plain, changed = make_reader(settings), make_reader(replace(settings, augment_share=1.0))
    for step in range(6):
        answers = {e.row.sample_id: tokenizer.decode(e.row.answers[0]) for e in plain.read(step)}
        for example in changed.read(step):
            text = tokenizer.decode(example.row.answers[0])
            said = parse(text)
            assert said.faults == ()
            assert [region.caption for region in said.regions] == captions[example.row.sample_id]
            _, rows, columns = example.row.grid_thw.tolist()
            assert all(r.box.x_max <= 14 * columns and r.box.y_max <= 14 * rows for r in said.regions)
            moved += text != answers[example.row.sample_id]
    assert moved >= 6


def test_a_corrupt_image_that_would_be_changed_is_left_out(settings: SftSettings, corrupt_dataset_path: Path) -> None:
    skipping = replace(
        settings, dataset_path=str(corrupt_dataset_path), augment_share=1.0, on_corrupt_image="skip", batch_size=8
    )
    reader = make_reader(skipping)
    assert [e.row.sample_id for e in reader.read(0) if not e.is_learnt] == ["sample-2"]
    assert list(reader.corrupt_rows) == [2]
    with pytest.raises(DataError, match="sample-2"):
        make_reader(replace(skipping, on_corrupt_image="error")).read(0)


def test_several_threads_read_the_same_as_one(
    settings: SftSettings, monkeypatch: pytest.MonkeyPatch, overlap: Any
) -> None:
    changing, decode = replace(settings, augment_share=0.5), Dataset.decode

    def slow(dataset: Dataset, row: int, encoded: bytes) -> Image.Image:
        overlap.stay(0.02)
        return decode(dataset, row, encoded)

    monkeypatch.setattr(Dataset, "decode", slow)
    read: list[list[Example]] = []
    for num_threads in (1, 4):
        monkeypatch.setattr(torch, "get_num_threads", lambda count=num_threads: count)
        reader, overlap.most = make_reader(changing), 0
        read.append([example for step in (0, 1, 7) for example in reader.read(step)])
        assert min(num_threads, 2) <= overlap.most <= num_threads
    for expected, got in zip(*read, strict=True):
        assert expected.row.sample_id == got.row.sample_id
        assert torch.equal(expected.row.pixel_values, got.row.pixel_values)
        assert expected.row.answers[0].tolist() == got.row.answers[0].tolist()


def test_a_row_that_two_threads_read_at_once_is_counted_once(
    settings: SftSettings, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch, "get_num_threads", lambda: 8)
    reader = make_reader(replace(settings, batch_size=96))  # each of the 24 rows four times
    reader.read(0)
    assert reader._cached_bytes == sum(pixels.numel() * pixels.element_size() for pixels, _ in reader._patches.values())
