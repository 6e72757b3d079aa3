"""The tiny base model: what ships with fxray, and the code that builds it."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import AutoProcessor, AutoTokenizer, PreTrainedTokenizerFast, Qwen2_5_VLForConditionalGeneration

import fxray
from fxray.data.synth.families import FAMILIES
from fxray.errors import ModelError
from fxray.grammar import render
from fxray.grammar.prompts import TEMPLATES
from fxray.model.tiny.architecture import CELL_PX, HIDDEN, build_model, build_processor
from fxray.model.tiny.batches import QUESTIONS_PER_IMAGE, Batch, GroundingBatches, patchify
from fxray.model.tiny.grounding import FILLS, FORMS, draw_scene
from fxray.model.tiny.pretrain import CellHeads, encode_images, pretrain_vision
from fxray.model.tiny.questions import NOTHING, ask
from fxray.model.tiny.tokenizer import SPECIAL_TOKENS
from fxray.model.tiny.vocabulary import build_tokenizer
from fxray.schema import Annotation, Box, Region, Verdict

ASSETS = Path(fxray.__file__).parent / "assets" / "tiny"


@pytest.fixture(scope="module")
def tokenizer() -> PreTrainedTokenizerFast:
    return build_tokenizer()


def test_every_number_survives_and_the_small_ones_are_one_token(tokenizer: PreTrainedTokenizerFast) -> None:
    for number in range(10_000):
        ids = tokenizer(f"({number},{number})").input_ids
        assert tokenizer.decode(ids) == f"({number},{number})"
        assert len(ids) == 5 or number > 255


def test_answers_are_short(tokenizer: PreTrainedTokenizerFast) -> None:
    assert len(tokenizer(render(Annotation(Verdict.REAL))).input_ids) <= 12
    for family in FAMILIES:
        one, two = (
            len(tokenizer(render(Annotation(Verdict.GENERATED, regions, family.tags))).input_ids)
            for regions in (
                (Region(Box(10, 20, 110, 99), family.caption),),
                (Region(Box(10, 20, 110, 99), family.caption),) * 2,
            )
        )
        assert two - one <= 20
        assert one <= 30
    for template in TEMPLATES:
        assert len(tokenizer(template.system + template.query).input_ids) <= 40


@pytest.mark.parametrize(
    "text", ["", "Ünïcödé 漢字 🦉\t\n\n", "<think>\n\n</think>\n<tag>", "</verdict><tag></think>", "007 1e9"]
)
def test_any_text_survives(tokenizer: PreTrainedTokenizerFast, text: str) -> None:
    assert tokenizer.decode(tokenizer(text).input_ids) == text


def test_special_tokens_are_special(tokenizer: PreTrainedTokenizerFast) -> None:
    for token in SPECIAL_TOKENS:
        assert len(tokenizer(token).input_ids) == 1
    assert set(SPECIAL_TOKENS) <= set(tokenizer.all_special_tokens)


def test_scenes_hold_what_they_say() -> None:
    rng = np.random.default_rng(3)
    counts = set()
    for _ in range(60):
        scene = draw_scene(rng, 140, 84)
        counts.add(len(scene.shapes))
        assert scene.pixels.shape == (84, 140, 3)
        for shape in scene.shapes:
            assert shape.fill in FILLS
            assert shape.form in FORMS
            assert 0 <= shape.box[0] < shape.box[2] <= 140
            assert 0 <= shape.box[1] < shape.box[3] <= 84
    assert counts == {0, 1, 2, 3, 4}


def test_pretraining_knows_no_answer_of_the_detection_task() -> None:
    rng = np.random.default_rng(0)
    said = set()
    for _ in range(300):
        said.add(ask(rng, draw_scene(rng, 112, 112))[2])
    captions = [family.caption for family in FAMILIES]
    assert NOTHING in said
    assert not [
        answer for answer in said if any(word in answer for word in ("<think>", "<tag>", "<verdict>", *captions))
    ]


def test_patches_equal_the_processors(tokenizer: PreTrainedTokenizerFast) -> None:
    pixels = np.random.default_rng(0).integers(0, 255, (2, 84, 140, 3), dtype=np.uint8)
    theirs = build_processor(tokenizer).image_processor(list(pixels), return_tensors="pt")
    assert theirs["image_grid_thw"].tolist() == [[1, 6, 10]] * 2
    torch.testing.assert_close(patchify(torch.from_numpy(pixels)), theirs["pixel_values"])


def test_a_batch_goes_through_the_model_as_transformers_would_send_it(tokenizer: PreTrainedTokenizerFast) -> None:
    model = build_model(tokenizer, seed=0).eval()
    batches = GroundingBatches(tokenizer, seed=1, images_per_batch=2)
    for batch in (batches.draw(index) for index in range(6)):
        ids, rows = batch.ids_NT, len(batch.ids_NT)
        with torch.no_grad():
            features = encode_images(model, batch)
            embeds = model.get_input_embeddings()(ids)
            embeds[ids == model.config.image_token_id] = features.repeat_interleave(QUESTIONS_PER_IMAGE, 0).flatten(
                0, 1
            )
            ours = model.model.language_model(inputs_embeds=embeds, position_ids=batch.positions_3NT).last_hidden_state
            theirs = _hidden_by_transformers(model, batch, rows, tokenizer.pad_token_id)
        is_text = ids != tokenizer.pad_token_id
        torch.testing.assert_close(ours[is_text], theirs[is_text], atol=1e-5, rtol=1e-4)


def _hidden_by_transformers(
    model: Qwen2_5_VLForConditionalGeneration, batch: Batch, rows: int, pad: int
) -> torch.Tensor:
    height, width = batch.grid
    per_image = batch.patches.view(rows // QUESTIONS_PER_IMAGE, 4 * height * width, -1)
    is_pad = batch.ids_NT == pad
    return model.model(
        input_ids=batch.ids_NT,
        attention_mask=(~is_pad).long(),
        pixel_values=per_image.repeat_interleave(QUESTIONS_PER_IMAGE, 0).flatten(0, 1),
        image_grid_thw=torch.tensor([[1, 2 * height, 2 * width]] * rows),
        mm_token_type_ids=(batch.ids_NT == model.config.image_token_id).int(),
    ).last_hidden_state


def test_cells_say_what_covers_them(tokenizer: PreTrainedTokenizerFast) -> None:
    batch = GroundingBatches(tokenizer, seed=3, images_per_batch=8).draw(0)
    rng = np.random.default_rng((3, 0))
    assert rng.random() < 0.75
    assert batch.grid == (4, 4)
    scene = draw_scene(rng, 4 * CELL_PX, 4 * CELL_PX)
    covered = np.zeros((112, 112), np.float32)
    for shape in scene.shapes:
        covered[shape.box[1] : shape.box[3], shape.box[0] : shape.box[2]] = 1
    expected = covered.reshape(4, CELL_PX, 4, CELL_PX).mean((1, 3)).reshape(-1)
    np.testing.assert_allclose(batch.cells.cover_BC[0].numpy(), expected, atol=1e-6)


@pytest.fixture(scope="module")
def batch_without_shapes(tokenizer: PreTrainedTokenizerFast) -> Batch:
    batches = GroundingBatches(tokenizer, seed=0, images_per_batch=1)
    return next(batch for batch in map(batches.draw, range(50)) if not batch.cells.is_covered_BC.any())


def test_a_batch_without_shapes_has_the_loss_of_place_and_coverage(batch_without_shapes: Batch) -> None:
    torch.manual_seed(0)
    heads = CellHeads()
    num_rows, num_columns = batch_without_shapes.grid
    loss = heads(torch.zeros(1, num_rows * num_columns, HIDDEN), batch_without_shapes)
    loss.backward()
    assert 0.2 < loss.item() < 10
    assert all(parameter.grad.isfinite().all() for parameter in heads.parameters())


def test_pretraining_ends_at_a_loss_that_is_not_finite(tokenizer: PreTrainedTokenizerFast) -> None:
    model = build_model(tokenizer, seed=0)
    heads = CellHeads()
    with torch.no_grad():
        next(heads.parameters()).fill_(torch.nan)
    before = next(model.parameters()).clone()
    with pytest.raises(ModelError, match="loss is nan"):
        pretrain_vision(model, tokenizer, heads, num_steps=1, seed=0, on_step=lambda step, loss: None)
    assert next(model.parameters()).equal(before)


@pytest.mark.slow
@pytest.mark.long
def test_a_short_build_is_the_same_twice(tmp_path: Path) -> None:
    code = (
        "import sys; from pathlib import Path; from fxray.model.tiny.build import Recipe, build\n"
        "tell = lambda stage, step, num_steps, loss: print('loss', step, loss)\n"
        "for name in 'ab':\n"
        "    recipe = Recipe(seed=3, stage_1_steps=2, stage_2_steps=2)\n"
        "    build(Path(sys.argv[1]) / name, recipe, threads=1, progress=tell)"
    )
    # in a process of its own, since a build makes and ends process groups
    command = [sys.executable, "-c", code, str(tmp_path)]
    output = subprocess.run(command, capture_output=True, text=True, timeout=250, check=True).stdout
    losses = [line for line in output.splitlines() if line.startswith("loss")]
    assert len(losses) == 8
    assert losses[:4] == losses[4:]
    for file in ("model.safetensors", "tokenizer.json", "config.json"):
        assert (tmp_path / "a" / file).read_bytes() == (tmp_path / "b" / file).read_bytes()
    assert "seed 3" in (tmp_path / "a" / "README.md").read_text()


def test_the_shipped_model_is_small_and_loads(tokenizer: PreTrainedTokenizerFast) -> None:
    assert sum(file.stat().st_size for file in ASSETS.iterdir()) <= 10_000_000
    model = Qwen2_5_VLForConditionalGeneration.from_pretrained(ASSETS, dtype=torch.float32)
    assert 1e6 <= model.num_parameters() <= 4e6
    assert all(parameter.isfinite().all() for parameter in model.parameters())
    shipped = AutoTokenizer.from_pretrained(ASSETS)
    assert shipped.get_vocab() == tokenizer.get_vocab()
    processor = AutoProcessor.from_pretrained(ASSETS)
    assert type(processor).__name__ == "Qwen2_5_VLProcessor"
    chat = [{"role": "user", "content": [{"type": "image"}, {"type": "text", "text": "Look."}]}]
    text = processor.apply_chat_template(chat, add_generation_prompt=True, tokenize=False)
    inputs = processor(images=[np.zeros((168, 168, 3), np.uint8)], text=[text], return_tensors="pt")
    assert (inputs["input_ids"] == model.config.image_token_id).sum() == 16
    assert inputs["image_grid_thw"].tolist() == [[1, 8, 8]]
