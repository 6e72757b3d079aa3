"""Prompts as vLLM takes them, without the work that it would do again for each."""

from collections.abc import Callable
from concurrent.futures import Executor, Future, ThreadPoolExecutor
from functools import lru_cache
from itertools import count
from typing import Any

from PIL import Image

from fxray.data.decoding import MOST_THREADS
from fxray.engine.environment import is_cpu_build
from fxray.errors import FxrayError
from fxray.processors import num_processors


class AtOnce(Executor):
    """Does what is submitted in the thread that submits it, before it goes on."""

    def submit(self, work: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Future[Any]:
        """The result, or the error."""
        done: Future[Any] = Future()
        try:
            done.set_result(work(*args, **kwargs))
        except FxrayError as error:
            done.set_exception(error)
        return done


def eyes(threads: int) -> Executor:
    """What scales images and cuts them into patches: threads beside a GPU, so that it need not wait for that.

    On a CPU the engine computes with all threads there are; any beside them would hold each other up.

    Args:
        threads: That the engine may compute with; 0 takes all processors that the process may use.
    """
    return AtOnce() if is_cpu_build() else ThreadPoolExecutor(min(MOST_THREADS, threads or num_processors()), "seeing")


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
