"""From a chat template to token ids."""

from pathlib import Path
from typing import TYPE_CHECKING

from fxray.config.families import FAMILIES
from fxray.errors import ModelError
from fxray.grammar.prompts import Template
from fxray.grpo.types import FORBIDDEN_TOKENS
from fxray.large_imports import large_imports

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast

PLACEHOLDERS = {family.placeholder: family for family in FAMILIES.values()}
"""What stands for an image in a chat template."""


def load_tokenizer(path: Path) -> "PreTrainedTokenizerFast":
    """The model's tokenizer."""
    with large_imports():
        from transformers import AutoTokenizer

    return AutoTokenizer.from_pretrained(path, local_files_only=True)


def load_chat(path: Path) -> "PreTrainedTokenizerFast":
    """The model's chat template, for `render_prompt`.

    Whoever needs no token ids is spared the import of all that the class of the model's own tokenizer brings with it,
    which takes a driver seconds.
    """
    from transformers import PreTrainedTokenizerFast

    return PreTrainedTokenizerFast.from_pretrained(path, local_files_only=True)


def render_prompt(tokenizer: "PreTrainedTokenizerFast", template: Template) -> str:
    """The chat text up to where the answer starts, with one placeholder for the image.

    Raises:
        ModelError: The tokenizer's chat template does not put exactly one image placeholder.
    """
    messages = [
        {"role": "system", "content": template.system},
        {"role": "user", "content": [{"type": "image"}, {"type": "text", "text": template.query}]},
    ]
    prompt = tokenizer.apply_chat_template(messages, add_generation_prompt=True, tokenize=False)
    _placeholder(prompt)
    return prompt


def encode_prompt(tokenizer: "PreTrainedTokenizerFast", prompt: str, num_image_tokens: int) -> list[int]:
    """Token ids of a prompt whose single placeholder is repeated for every image token.

    Args:
        tokenizer: The model's tokenizer.
        prompt: As `render_prompt` gives it.
        num_image_tokens: How many tokens the image makes; without those before and after it, which are the prompt's.

    Raises:
        ModelError: The prompt has not exactly one image placeholder.
    """
    placeholder = _placeholder(prompt)
    family = PLACEHOLDERS[placeholder]
    expanded = prompt.replace(placeholder, family.image_start + placeholder * num_image_tokens + family.image_end)
    return tokenizer(expanded, add_special_tokens=False).input_ids


def _placeholder(prompt: str) -> str:
    found = [placeholder for placeholder in PLACEHOLDERS for _ in range(prompt.count(placeholder))]
    if len(found) != 1:
        raise ModelError(
            f"the prompt has {len(found)} placeholders {' or '.join(PLACEHOLDERS)}, expected 1",
            remedy="check the tokenizer's chat template, and the texts of the prompt for special tokens",
        )
    return found[0]


def forbidden_ids(tokenizer: "PreTrainedTokenizerFast") -> list[int]:
    """Ids of the tokens that are never sampled, as far as the vocabulary has them."""
    vocabulary = tokenizer.get_vocab()
    return sorted(vocabulary[token] for token in FORBIDDEN_TOKENS if token in vocabulary)
