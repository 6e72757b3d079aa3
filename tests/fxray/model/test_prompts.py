import subprocess
import sys

import numpy as np
import pytest
import torch
from PIL import Image

from fxray.data.frame import smart_frame
from fxray.errors import ModelError
from fxray.grammar.prompts import TEMPLATES, Template
from fxray.grpo.types import FORBIDDEN_TOKENS
from fxray.model import images as images_module
from fxray.model.images import count_image_tokens, load_image_processor, preprocess
from fxray.model.prompts import encode_prompt, forbidden_ids, load_chat, load_tokenizer, render_prompt


@pytest.fixture(scope="module")
def tokenizer(random_model_dir):
    return load_tokenizer(random_model_dir)


def test_a_prompt_holds_system_image_query_and_the_start_of_the_answer(tokenizer):
    prompt = render_prompt(tokenizer, Template(0, "Look.", "Real?"))
    assert prompt == (
        "<|im_start|>system\nLook.<|im_end|>\n"
        "<|im_start|>user\n<|vision_start|><|image_pad|><|vision_end|>Real?<|im_end|>\n"
        "<|im_start|>assistant\n"
    )


def test_the_placeholder_is_repeated_for_every_image_token(tokenizer):
    for template in TEMPLATES:
        prompt = render_prompt(tokenizer, template)
        ids = encode_prompt(tokenizer, prompt, 15)
        assert ids.count(tokenizer.convert_tokens_to_ids("<|image_pad|>")) == 15
        assert tokenizer.decode(ids) == prompt.replace("<|image_pad|>", "<|image_pad|>" * 15)


def test_a_text_that_brings_its_own_placeholder_is_refused(tokenizer):
    with pytest.raises(ModelError, match="2 placeholders"):
        render_prompt(tokenizer, Template(0, "Look.", "Is <|image_pad|> real?"))
    with pytest.raises(ModelError, match="0 placeholders"):
        encode_prompt(tokenizer, "no image", 4)


def test_patches_of_several_images_lie_one_after_the_other(random_model_dir):
    processor = load_image_processor(random_model_dir, min_pixels=56 * 56, max_pixels=112 * 112)
    rng = np.random.default_rng(0)
    images = [Image.fromarray(rng.integers(0, 255, (h, w, 3), dtype=np.uint8)) for w, h in ((300, 200), (90, 130))]
    together, grid_thw = preprocess(processor, images)
    alone = [preprocess(processor, [image])[0] for image in images]
    torch.testing.assert_close(together, torch.cat(alone), rtol=0, atol=0)
    for image, (_, rows, columns) in zip(images, grid_thw.tolist(), strict=True):
        frame = smart_frame(*image.size, min_pixels=56 * 56, max_pixels=112 * 112)
        assert (columns * 14, rows * 14) == (frame.model_width_px, frame.model_height_px)
    assert count_image_tokens(grid_thw, 2) == [part.shape[0] // 4 for part in alone]


def test_patches_are_not_made_in_another_way_than_engines_make_them(monkeypatch, random_model_dir):
    monkeypatch.setattr(images_module, "is_torchvision_available", lambda: False)
    with pytest.raises(ModelError, match="torchvision is absent") as told:
        load_image_processor(random_model_dir, min_pixels=56 * 56, max_pixels=112 * 112)
    assert "fxray[cuda]" in told.value.remedy


def test_a_square_of_patches_makes_one_token():
    assert count_image_tokens(torch.tensor([[1, 6, 9], [2, 3, 3]]), 3) == [6, 2]


def test_forbidden_tokens_are_looked_up(tokenizer):
    qwens = [token for token in FORBIDDEN_TOKENS if token.startswith("<|")]
    assert forbidden_ids(tokenizer) == sorted(tokenizer.convert_tokens_to_ids(qwens))
    assert len(qwens) == 5


def test_an_image_of_tiles_lies_between_its_ends_and_none_of_its_tokens_is_sampled(random_internvl_dir):
    tokenizer = load_tokenizer(random_internvl_dir)
    prompt = render_prompt(tokenizer, TEMPLATES[0])
    ids = encode_prompt(tokenizer, prompt, 20)
    assert "<img>" + "<IMG_CONTEXT>" * 20 + "</img>" in tokenizer.decode(ids)
    vocabulary = tokenizer.get_vocab()
    assert {vocabulary[each] for each in ("<img>", "</img>", "<IMG_CONTEXT>", "<video>")} < {*forbidden_ids(tokenizer)}
    with pytest.raises(ModelError, match="2 placeholders"):
        render_prompt(tokenizer, Template(0, "Look.", "Is <IMG_CONTEXT> real?"))


def test_tiles_of_several_images_lie_one_after_the_other(random_internvl_dir):
    processor = load_image_processor(random_internvl_dir, min_pixels=56 * 56, max_pixels=112 * 112)
    rng = np.random.default_rng(0)
    sizes = ((300, 200), (50, 52), (90, 300))
    images = [Image.fromarray(rng.integers(0, 255, (h, w, 3), dtype=np.uint8)) for w, h in sizes]
    together, grid_thw = preprocess(processor, images)
    assert grid_thw.tolist() == [[5, 4, 4], [1, 4, 4], [4, 4, 4]]
    alone = [preprocess(processor, [image])[0] for image in images]
    torch.testing.assert_close(together, torch.cat(alone), rtol=0, atol=0)


def test_a_driver_renders_as_the_models_own_tokenizer_does(random_model_dir, tokenizer):
    for template in TEMPLATES:
        assert render_prompt(load_chat(random_model_dir), template) == render_prompt(tokenizer, template)


def test_a_driver_imports_no_learner():
    """PEFT, and what the class of a model's own tokenizer brings with it, would take seconds of every start."""
    code = (
        "import sys, fxray.launch.phases\n"
        "from fxray.model.folder import resolve_model_path\n"
        "from fxray.model.prompts import load_chat, load_tokenizer\n"
        "load_chat(resolve_model_path('tiny'))\n"
        "heavy = ('peft', 'deepspeed', 'sklearn', 'vllm', 'transformers.generation')\n"
        "print([name for name in heavy if name in sys.modules])\n"
        "load_tokenizer(resolve_model_path('tiny'))\n"
        "print('sklearn' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120, check=True)
    assert done.stdout.split() == ["[]", "False"]
