"""Pretraining batches of grounding scenes: pixels, what each image token covers, and questions as token ids.

Legend: B images, C image tokens (cells) of an image, N questions (`QUESTIONS_PER_IMAGE` for each image), T tokens.
"""

from dataclasses import dataclass

import numpy as np
import torch
from transformers import PreTrainedTokenizerFast

from fxray.model.tiny.architecture import CELL_PX, IMAGE_MEAN, IMAGE_STD, PATCH_PX
from fxray.model.tiny.grounding import FILLS, FORMS, MAX_SHAPES, Scene, draw_scene
from fxray.model.tiny.questions import ask
from fxray.model.tiny.tokenizer import MAX_WHOLE_NUMBER, SPECIAL_TOKENS

QUESTIONS_PER_IMAGE = 2
GRIDS = ((4, 4), (3, 4), (4, 3), (3, 5), (5, 3))
"""Rows and columns of image tokens; the first, of square images, fills five of six batches."""
IGNORED = -100
_MIN_COVER_FRAC = 0.15
_REPEAT_FRAC = 0.12


@dataclass(frozen=True, slots=True)
class Cells:
    """What each image token covers; `is_covered_BC` is where the last three fields mean something.

    Attributes:
        cover_BC: Share of the cell inside some box.
        fill_BC: Index of the fill of the shape that covers most of it.
        form_BC: Index of its form.
        edges_BC4: Its box, relative to the centre of the cell, in units of four cells.
    """

    cover_BC: torch.Tensor
    is_covered_BC: torch.Tensor
    fill_BC: torch.Tensor
    form_BC: torch.Tensor
    edges_BC4: torch.Tensor


@dataclass(frozen=True, slots=True)
class Batch:
    """Scenes of one grid; `labels_NT` holds the answers, elsewhere `IGNORED`; position ids have Qwen's three axes."""

    patches: torch.Tensor
    grid: tuple[int, int]
    cells: Cells
    ids_NT: torch.Tensor
    labels_NT: torch.Tensor
    is_coordinate_NT: torch.Tensor
    positions_3NT: torch.Tensor


class GroundingBatches:
    """Batch `i` of a seed is the same whoever draws it, in whatever order."""

    def __init__(self, tokenizer: PreTrainedTokenizerFast, *, seed: int, images_per_batch: int) -> None:
        self._tokenizer = tokenizer
        self._seed = seed
        self._images_per_batch = images_per_batch
        self._numbers = {int(tokenizer.convert_tokens_to_ids(str(number))) for number in range(MAX_WHOLE_NUMBER + 1)}
        self._specials = {int(tokenizer.convert_tokens_to_ids(token)) for token in SPECIAL_TOKENS}
        self._box_start = int(tokenizer.convert_tokens_to_ids("<|box_start|>"))

    def draw(self, index: int) -> Batch:
        """Batch number `index`."""
        rng = np.random.default_rng((self._seed, index))
        grid = GRIDS[0] if rng.random() < 5 / 6 else GRIDS[int(rng.integers(1, len(GRIDS)))]
        scenes = [draw_scene(rng, grid[1] * CELL_PX, grid[0] * CELL_PX) for _ in range(self._images_per_batch)]
        rows = [self._row(rng, scene, grid) for scene in scenes for _ in range(QUESTIONS_PER_IMAGE)]
        length = max(len(ids) for ids, _, _ in rows)
        ids = np.full((len(rows), length), self._tokenizer.pad_token_id)
        labels = np.full((len(rows), length), IGNORED)
        positions = np.zeros((3, len(rows), length), np.int64)
        for row, (text, num_prompt, image_start) in enumerate(rows):
            ids[row, : len(text)] = text
            labels[row, num_prompt : len(text)] = text[num_prompt:]
            positions[:, row] = position_ids(image_start, grid, length)
        asks_boxes = (labels == self._box_start).any(1, keepdims=True)
        is_coordinate = asks_boxes & np.isin(labels, list(self._numbers))
        pixels = np.stack([scene.pixels for scene in scenes])
        tensors = [torch.from_numpy(array) for array in (ids, labels, is_coordinate, positions)]
        return Batch(patchify(torch.from_numpy(pixels)), grid, _cells(scenes, grid), *tensors)

    def _row(self, rng: np.random.Generator, scene: Scene, grid: tuple[int, int]) -> tuple[list[int], int, int]:
        """Token ids of one question and its answer, how many are prompt, and where the image tokens start."""
        system, question, answer = ask(rng, scene)
        question_ids, answer_ids = self._encode(question), self._encode(answer)
        if rng.random() < _REPEAT_FRAC:
            drawn = rng.integers(0, len(self._tokenizer), int(rng.integers(3, 16)))
            answer_ids = [token for token in drawn.tolist() if token not in self._specials]
            question_ids = self._encode("Repeat: ") + answer_ids
        head = self._encode(f"<|im_start|>system\n{system}<|im_end|>\n<|im_start|>user\n<|vision_start|>")
        image = self._encode("<|image_pad|>" * (grid[0] * grid[1]) + "<|vision_end|>")
        tail = self._encode("<|im_end|>\n<|im_start|>assistant\n")
        prompt = head + image + question_ids + tail
        return prompt + answer_ids + self._encode("<|im_end|>"), len(prompt), len(head)

    def _encode(self, text: str) -> list[int]:
        return list(self._tokenizer(text, add_special_tokens=False).input_ids)


def position_ids(image_start: int, grid: tuple[int, int], length: int) -> np.ndarray:
    """Qwen2.5-VL's positions (3, length): time, row and column of a row that holds one image at `image_start`."""
    rows, columns = grid
    num_cells = rows * columns
    positions = np.empty((3, length), np.int64)
    positions[:, :image_start] = np.arange(image_start)
    positions[0, image_start : image_start + num_cells] = image_start
    positions[1, image_start : image_start + num_cells] = image_start + np.arange(num_cells) // columns
    positions[2, image_start : image_start + num_cells] = image_start + np.arange(num_cells) % columns
    num_after = length - image_start - num_cells
    positions[:, image_start + num_cells :] = image_start + max(grid) + np.arange(num_after)
    return positions


def patchify(pixels_BHW3: torch.Tensor) -> torch.Tensor:
    """Uint8 images as Qwen2.5-VL's rows of patches (patches of all images, 3 x 2 x 14 x 14), merged cell by cell."""
    count, height, width, _ = pixels_BHW3.shape
    rows, columns = height // CELL_PX, width // CELL_PX
    scaled = (pixels_BHW3.float() / 255 - IMAGE_MEAN) / IMAGE_STD
    split = scaled.view(count, rows, 2, PATCH_PX, columns, 2, PATCH_PX, 3)
    patches = split.permute(0, 1, 4, 2, 5, 7, 3, 6).reshape(-1, 3, 1, PATCH_PX, PATCH_PX)
    return patches.expand(-1, -1, 2, -1, -1).reshape(len(patches), -1)


def _cells(scenes: list[Scene], grid: tuple[int, int]) -> Cells:
    rows, columns = grid
    top, left = (index * CELL_PX for index in np.divmod(np.arange(rows * columns), columns))
    cover = np.zeros((len(scenes), MAX_SHAPES, rows * columns), np.float32)
    edges = np.zeros((len(scenes), MAX_SHAPES, rows * columns, 4), np.float32)
    fill = np.zeros((len(scenes), MAX_SHAPES), np.int64)
    form = np.zeros((len(scenes), MAX_SHAPES), np.int64)
    centre = np.stack([left, top, left, top], axis=1) + CELL_PX / 2
    for image, scene in enumerate(scenes):
        for place, shape in enumerate(scene.shapes):
            x_min, y_min, x_max, y_max = shape.box
            width = (np.minimum(left + CELL_PX, x_max) - np.maximum(left, x_min)).clip(0)
            height = (np.minimum(top + CELL_PX, y_max) - np.maximum(top, y_min)).clip(0)
            cover[image, place] = width * height / CELL_PX**2
            edges[image, place] = (np.array(shape.box) - centre) / (4 * CELL_PX)
            fill[image, place], form[image, place] = FILLS.index(shape.fill), FORMS.index(shape.form)
    chosen = cover.argmax(1)
    covered = np.take_along_axis(cover, chosen[:, None], 1)[:, 0] >= _MIN_COVER_FRAC
    arrays = (
        cover.sum(1),
        covered,
        np.take_along_axis(fill, chosen, 1),
        np.take_along_axis(form, chosen, 1),
        np.take_along_axis(edges, chosen[:, None, :, None], 1)[:, 0],
    )
    return Cells(*(torch.from_numpy(array) for array in arrays))
