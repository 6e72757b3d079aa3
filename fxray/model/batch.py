"""Groups as one flat sequence: what the forward pass of `fxray.model.packed` takes.

rows ─► pack, on the CPU, by any thread ─► to(device) ─► PackedPolicy

Everything that a pass wants to know of its sizes is told here, on the CPU. A model that asks its GPU for a number waits
until the GPU has done all it was given before, and the GPU then waits for the host.

Legend: N groups, P prompt tokens, G answers, T tokens of the flat sequence, R answer tokens, A axes.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Self

import numpy as np
import torch
from numpy.typing import NDArray

from fxray.counts import counted
from fxray.errors import ModelError
from fxray.model import attention
from fxray.model.family import DRIVERS, VisionLanguageModel
from fxray.model.images import count_image_tokens
from fxray.model.load import placeholder_ids
from fxray.model.tensors import moved


@dataclass(frozen=True, slots=True)
class PackedRow:
    """A prompt, its answers and its image.

    Attributes:
        sample_id: Named in errors.
        prompt_token_ids: int32 [P], the image's placeholders included.
        answers: int32 [R] each, none empty.
        pixel_values: float32 [patches, values of a patch], or [tiles, 3, height, width].
        grid_thw: int64 [3], frames or tiles, rows and columns of patches.
    """

    sample_id: str
    prompt_token_ids: NDArray[np.int32]
    answers: tuple[NDArray[np.int32], ...]
    pixel_values: torch.Tensor
    grid_thw: torch.Tensor


@dataclass(frozen=True, slots=True)
class PackedBatch:
    """Groups as the model takes them.

    Attributes:
        input_ids_T: int64 [T], prompt, answers, next prompt, ...
        position_ids: int64 [3, 1, T], for frame, row and column, or [1, T] where the rotary embedding has one axis.
        image_position_I: int64 [I], where the image tokens lie.
        pixel_values: float32, patches or tiles of all images.
        sight: What the vision tower wants to know of their sizes (`fxray.model.family.Driver.measure`).
        predictor_R: int64 [R], position whose hidden state predicts each answer token.
        target_R: int64 [R], the answer tokens, all answers one after the other.
        layout: Who sees whom.
    """

    input_ids_T: torch.Tensor
    position_ids: torch.Tensor
    image_position_I: torch.Tensor
    pixel_values: torch.Tensor
    sight: Mapping[str, Any]
    predictor_R: torch.Tensor
    target_R: torch.Tensor
    layout: attention.Layout

    def to(self, device: torch.device) -> Self:
        """The same on a device (`fxray.model.tensors.moved`)."""
        return moved(self, device)


def pack(
    model: VisionLanguageModel,
    rows: Sequence[PackedRow],
    forbidden_ids: Sequence[int] = (),
    *,
    dtype: torch.dtype | None = None,
) -> PackedBatch:
    """Puts groups together into one flat sequence, on the CPU; it may run in any thread.

    Args:
        model: The base, whose device decides on the layout.
        rows: The groups.
        forbidden_ids: Tokens that no answer may contain, besides those that stand for pixels.
        dtype: As `PackedPolicy` got it.

    Raises:
        ModelError: A prompt's placeholders do not match its image, or an answer contains a forbidden token.
    """
    forbidden = [*placeholder_ids(model.config), *forbidden_ids]
    for row in rows:
        _check_row(model, row, forbidden)
    driver = DRIVERS[model.config.model_type]
    grid_thw_N3 = torch.stack([row.grid_thw for row in rows])
    prompts = [torch.from_numpy(row.prompt_token_ids.astype(np.int64)) for row in rows]
    ids, position_ids, predictors, start = [], [], [], 0
    for row, prompt in zip(rows, prompts, strict=True):
        position = driver.place(model, prompt, row.grid_thw)
        last_of_prompt = start + len(prompt) - 1
        following = int(position.max()) + 1
        ids.append(prompt)
        position_ids.append(position)
        start += len(prompt)
        for answer in row.answers:
            ids.append(torch.from_numpy(answer.astype(np.int64)))
            position_ids.append(torch.arange(following, following + len(answer)).expand(len(position), -1))
            predictors += [torch.tensor([last_of_prompt]), torch.arange(start, start + len(answer) - 1)]
            start += len(answer)
    input_ids_T, positions_AT = torch.cat(ids), torch.cat(position_ids, 1)
    return PackedBatch(
        input_ids_T=input_ids_T,
        position_ids=positions_AT if len(positions_AT) == 1 else positions_AT[:, None],
        image_position_I=(input_ids_T == model.config.image_token_id).nonzero()[:, 0],
        pixel_values=torch.cat([row.pixel_values for row in rows]),
        sight=driver.measure(model, grid_thw_N3),
        predictor_R=torch.cat(predictors),
        target_R=torch.from_numpy(np.concatenate([a for row in rows for a in row.answers]).astype(np.int64)),
        layout=attention.make_layout(
            [len(prompt) for prompt in prompts],
            [[len(answer) for answer in row.answers] for row in rows],
            model.device,
            dtype or model.dtype,
        ),
    )


def _check_row(model: VisionLanguageModel, row: PackedRow, forbidden: Sequence[int]) -> None:
    num_placeholders = int((row.prompt_token_ids == model.config.image_token_id).sum())
    (num_tokens,) = count_image_tokens(row.grid_thw[None], DRIVERS[model.config.model_type].merge_size(model.config))
    if num_placeholders != num_tokens:
        raise ModelError(
            f"the prompt has {counted(num_placeholders, 'image placeholder')}, "
            f"but the image makes {counted(num_tokens, 'token')}",
            where=f"sample {row.sample_id}",
            remedy="give sampler and learner the same model, min_pixels and max_pixels",
        )
    if np.isin(np.concatenate(row.answers), forbidden).any():
        index = next(i for i, answer in enumerate(row.answers) if np.isin(answer, forbidden).any())
        raise ModelError(
            f"answer {index} contains a vision token",
            where=f"sample {row.sample_id}",
            remedy="forbid these tokens when sampling",
        )
