"""Prompts as vLLM takes them, without the work that it would do again for each."""

from functools import lru_cache
from itertools import count
from typing import Any

from PIL import Image


class Prompts:
    """Writes the prompts of one engine.

    vLLM would encode the same few texts for every image, and read each image's pixels for a hash that tells it from
    others. Here a text is encoded once, and an image is told apart by its number: what was computed for one is found
    again by the answers to its question, and by no other question.

    Args:
        tokenizer: The model's.
    """

    def __init__(self, tokenizer: Any) -> None:
        self._encode = lru_cache(maxsize=256)(lambda text: tokenizer.encode(text, add_special_tokens=False))
        self._numbers = count(1)

    def write(self, prompt: str, image: Image.Image) -> dict[str, Any]:
        """A prompt with its image.

        Args:
            prompt: Chat text with one image placeholder.
            image: Upright RGB image.
        """
        return {
            "prompt_token_ids": list(self._encode(prompt)),
            "multi_modal_data": {"image": image},
            "multi_modal_uuids": {"image": [f"image-{next(self._numbers)}"]},
        }
