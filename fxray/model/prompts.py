"""From a chat template to token ids, and from images to patches."""

from collections.abc import Sequence

import torch
from PIL import Image
from transformers import PreTrainedTokenizerFast, Qwen2VLImageProcessor

from fxray.errors import ModelError
from fxray.grammar.prompts import Template
from fxray.grpo.types import FORBIDDEN_TOKENS

IMAGE_PLACEHOLDER = "<|image_pad|>"


def render_prompt(tokenizer: PreTrainedTokenizerFast, template: Template) -> str:
    """The chat text up to where the answer starts, with one placeholder for the image.

    Raises:
        ModelError: The tokenizer's chat template does not put exactly one image placeholder.
    """
    messages = [
        {"role": "system", "content": template.system},
        {"role": "user", "content": [{"type": "image"}, {"type": "text", "text": template.query}]},
    ]
    prompt = tokenizer.apply_chat_template(messages, add_generation_prompt=True, tokenize=False)
    _check_one_placeholder(prompt)
    return prompt


def encode_prompt(tokenizer: PreTrainedTokenizerFast, prompt: str, num_image_tokens: int) -> list[int]:
    """Token ids of a prompt whose single placeholder is repeated for every image token.

    Args:
        tokenizer: The model's tokenizer.
        prompt: As `render_prompt` gives it.
        num_image_tokens: How many tokens the image makes.

    Raises:
        ModelError: The prompt has not exactly one image placeholder.
    """
    _check_one_placeholder(prompt)
    expanded = prompt.replace(IMAGE_PLACEHOLDER, IMAGE_PLACEHOLDER * num_image_tokens)
    return tokenizer(expanded, add_special_tokens=False).input_ids


def _check_one_placeholder(prompt: str) -> None:
    if (count := prompt.count(IMAGE_PLACEHOLDER)) != 1:
        raise ModelError(
            f"the prompt has {count} placeholders {IMAGE_PLACEHOLDER}, expected 1",
            remedy="check the tokenizer's chat template, and the texts of the prompt for special tokens",
        )


def preprocess(
    image_processor: Qwen2VLImageProcessor, images: Sequence[Image.Image]
) -> tuple[torch.Tensor, torch.Tensor]:
    """Patches of images, one image after the other.

    Args:
        image_processor: The model's image processor.
        images: Upright RGB images.

    Returns:
        pixel_values: float32 [patches, channels x 2 x patch x patch].
        image_grid_thw: int64 [images, 3], frames, rows and columns of patches; their product is the image's patches.
    """
    patches = image_processor(images=list(images), return_tensors="pt")
    return patches["pixel_values"], patches["image_grid_thw"]


def count_image_tokens(image_grid_thw: torch.Tensor, merge_size: int) -> list[int]:
    """How many tokens each image makes, from its grid of patches and the side of the square that is merged into one."""
    return (image_grid_thw.prod(-1) // merge_size**2).tolist()


def forbidden_ids(tokenizer: PreTrainedTokenizerFast) -> list[int]:
    """Ids of the tokens that are never sampled, as far as the vocabulary has them."""
    vocabulary = tokenizer.get_vocab()
    return sorted(vocabulary[token] for token in FORBIDDEN_TOKENS if token in vocabulary)
