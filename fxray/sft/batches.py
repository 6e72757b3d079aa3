"""What each worker reads: its own rows of each step, straight from the dataset file, ahead of the training."""

import threading
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import lru_cache
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from transformers import BaseImageProcessor, PreTrainedTokenizerFast

from fxray.data.augment import arriving, drawn
from fxray.data.dataset import Dataset
from fxray.data.decoding import MOST_THREADS, PixelRoom
from fxray.data.frame import Frame, Sight, frame_of
from fxray.data.order import rows_of_step
from fxray.errors import DataError, DeadlineError
from fxray.grammar.prompts import draw_template, templates_of
from fxray.model.batch import PackedRow
from fxray.model.images import preprocess
from fxray.model.prompts import encode_prompt, render_prompt
from fxray.schema import Sample
from fxray.sft.encode import taught_answer
from fxray.sft.settings import SftSettings

Patches = tuple[torch.Tensor, torch.Tensor]
"""Pixel values and grid of one image, as the model takes them."""

READ_DEADLINE_S = 600
CACHE_BYTES = 2**30


@dataclass(frozen=True, slots=True)
class Example:
    """One encoded sample: prompt, image and the one answer.

    Attributes:
        row: As the model takes it.
        is_learnt: False where the image cannot be read: the example fills its place and adds nothing to the loss.
        num_dropped_regions: Regions that its answer leaves out to keep to its bound.
    """

    row: PackedRow
    is_learnt: bool
    num_dropped_regions: int = 0


class _Seen(NamedTuple):
    """An image, and the sample that it is now."""

    sample: Sample
    frame: Frame
    patches: Patches


class ExampleReader:
    """Reads and encodes the rows of one rank.

    Images are kept preprocessed in memory as long as they fit into `CACHE_BYTES`; on small data that saves the work of
    every epoch but the first. An image that is changed (`augment_share`) is read anew. Several threads work on
    images, as many as the process computes with.

    Args:
        settings: The job.
        dataset: The training split.
        tokenizer: The model's tokenizer.
        image_processor: The model's image processor, with the bounds of `settings`.
        sight: Of the model.
        rank: Of this worker.
        num_ranks: Workers in all; each reads an equal share of every step.
    """

    def __init__(
        self,
        settings: SftSettings,
        dataset: Dataset,
        tokenizer: PreTrainedTokenizerFast,
        image_processor: BaseImageProcessor,
        sight: Sight,
        *,
        rank: int,
        num_ranks: int,
    ) -> None:
        self._settings = settings
        self._dataset = dataset
        self._tokenizer = tokenizer
        self._image_processor, self._sight = image_processor, sight
        self._rank, self._num_ranks = rank, num_ranks
        self._prompts = [render_prompt(tokenizer, template) for template in templates_of(settings.view)]
        self._encode_prompt = lru_cache(maxsize=4096)(self._encode_prompt_anew)
        self._patches: dict[int, Patches] = {}
        self._cached_bytes, self._caching = 0, threading.Lock()
        self._threads = ThreadPoolExecutor(max(1, min(MOST_THREADS, torch.get_num_threads())), "seeing")
        self._room = PixelRoom()
        self.corrupt_rows: dict[int, str] = {}

    def read(self, step: int) -> list[Example]:
        """The examples of this rank in a step, shortest answer first.

        A step's gradient is a sum, which does not know their order but for rounding.

        Raises:
            DataError: A row that cannot be learnt; or a corrupt image, unless the settings skip such.
        """
        s = self._settings
        rows = rows_of_step(s.seed, "sft", num_rows=len(self._dataset.samples), batch_size=s.batch_size, step=step)
        share = s.batch_size // self._num_ranks
        examples = self._read(rows[self._rank * share : (self._rank + 1) * share])
        return sorted(examples, key=lambda example: len(example.row.answers[0]))

    def read_rows(self, rows: Sequence[int]) -> list[Example]:
        """The examples of rows, in their order, as the first epoch asks about them; as `read`."""
        return self._read([(0, row) for row in rows])

    def _read(self, visits: Sequence[tuple[int, int]]) -> list[Example]:
        seen = self._threads.map(self._see, visits)
        return [self._example(epoch, row, each) for (epoch, row), each in zip(visits, seen, strict=True)]

    def _example(self, epoch: int, row: int, seen: _Seen) -> Example:
        """A visit with its answer and prompt; by one thread, for a tokenizer is not for several."""
        s, sample = self._settings, self._dataset.samples[row]
        template = draw_template(s.templates, sample.annotation.verdict, (s.seed, sample.sample_id, epoch))
        try:
            answer = taught_answer(self._tokenizer, seen.sample, seen.frame, s)
        except DataError:
            if seen.sample is sample:
                raise
            seen = self._as_it_is(row)  # whose answer is known to be short enough
            answer = taught_answer(self._tokenizer, seen.sample, seen.frame, s)
        prompt = self._encode_prompt(template.index, seen.frame.num_tokens)
        token_ids = np.array(answer.token_ids, dtype=np.int32)
        packed = PackedRow(sample.sample_id, prompt, (token_ids,), *seen.patches)
        return Example(packed, row not in self.corrupt_rows, answer.num_dropped_regions)

    def _see(self, visit: tuple[int, int]) -> _Seen:
        """The image of a visit, by one of several threads."""
        epoch, row = visit
        sample = self._dataset.samples[row]
        with self._room.taken(sample.width_px * sample.height_px):
            rng = drawn(self._settings.augment_share, self._settings.seed, sample.sample_id, epoch)
            return (self._changed(row, rng) if rng else None) or self._as_it_is(row)

    def _changed(self, row: int, rng: np.random.Generator) -> _Seen | None:
        """An image as it might arrive; None where it cannot be read, or where it would make more tokens."""
        sample = self._dataset.samples[row]
        try:
            image = self._dataset.decode(row, self._dataset.image_bytes(row))
        except DataError:
            return None
        if (changed := arriving(image, sample, rng, self._frame_of)) is None:
            return None
        image, moved = changed
        return _Seen(moved, self._frame_of(moved), self._preprocess(image))

    def _as_it_is(self, row: int) -> _Seen:
        sample = self._dataset.samples[row]
        frame = self._frame_of(sample)
        if row in self._patches:
            return _Seen(sample, frame, self._patches[row])
        try:
            patches = self._preprocess(self._dataset.decode(row, self._dataset.image_bytes(row)))
        except DataError as error:
            if self._settings.on_corrupt_image == "error":
                remedy = f"{error.remedy}, or set data.on_corrupt_image=skip to leave such images out"
                raise DataError(error.message, where=error.where, remedy=remedy) from error
            self.corrupt_rows[row] = f"{error.where}: {error.message}"
            patches = self._blank(frame)
        num_bytes = patches[0].numel() * patches[0].element_size()
        with self._caching:
            if row not in self._patches and self._cached_bytes + num_bytes <= CACHE_BYTES:
                self._patches[row] = patches
                self._cached_bytes += num_bytes
        return _Seen(sample, frame, patches)

    def _frame_of(self, sample: Sample) -> Frame:
        s = self._settings
        return frame_of(sample, min_pixels=s.min_pixels, max_pixels=s.max_pixels, sight=self._sight)

    def _preprocess(self, image: Image.Image) -> Patches:
        pixel_values, grid_thw = preprocess(self._image_processor, [image])
        return pixel_values, grid_thw[0]

    def _blank(self, frame: Frame) -> Patches:
        pixel_values, grid_thw = self._preprocess(Image.new("RGB", (frame.width_px, frame.height_px)))
        return torch.zeros_like(pixel_values), grid_thw

    def _encode_prompt_anew(self, template_index: int, num_image_tokens: int) -> NDArray[np.int32]:
        token_ids = encode_prompt(self._tokenizer, self._prompts[template_index], num_image_tokens)
        return np.array(token_ids, dtype=np.int32)


def token_weights(examples: Sequence[Example]) -> torch.Tensor:
    """Weight of each answer token in the loss, 1 or 0, in the order of the examples: float32 [R]."""
    lengths = torch.tensor([len(example.row.answers[0]) for example in examples])
    return torch.tensor([float(example.is_learnt) for example in examples]).repeat_interleave(lengths)


def late(step: int) -> DeadlineError:
    """What reading too long is told by."""
    return DeadlineError(
        f"reading the samples of step {step} took more than {READ_DEADLINE_S} s",
        where="SFT data",
        remedy="check the storage of the dataset",
    )
