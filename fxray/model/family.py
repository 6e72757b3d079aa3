"""The families of `fxray.config.families` in transformers: their classes, and what the learner calls differently."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple, TypeAlias

import torch
from transformers import (
    InternVLForConditionalGeneration,
    Qwen2_5_VLForConditionalGeneration,
    Qwen3VLForConditionalGeneration,
)
from transformers.vision_utils import (
    get_vision_cu_seqlens,
    get_vision_interpolation_indices_and_weights,
    get_vision_position_ids,
    get_vision_window_index,
)

from fxray.model import attention

VisionLanguageModel: TypeAlias = (
    Qwen2_5_VLForConditionalGeneration | Qwen3VLForConditionalGeneration | InternVLForConditionalGeneration
)
"""All have `model.language_model` and `lm_head`; what sees lies under other names."""


class Seen(NamedTuple):
    """What a model makes of images.

    Attributes:
        features_ID: One vector for each image token.
        deeper: More such vectors, each of which is added to what one of the first layers gives.
    """

    features_ID: torch.Tensor
    deeper: Sequence[torch.Tensor] = ()


@dataclass(frozen=True, slots=True)
class Driver:
    """How the learner calls the models of a family.

    Attributes:
        model_class: Of transformers.
        measure: What the vision tower wants to know of images' sizes, from the model and their grids [N, 3] on the CPU:
            names and values of its arguments.
        see: Features of images, from the model, `PackedBatch.pixel_values` and what `measure` said.
        place: Position ids of a prompt, [3, P] or [1, P] by the axes of the rotary embedding, from the model, the
            prompt's token ids [P] and its image's grid [3].
        merge_size: Side in patches of the square that becomes one token, from the model's configuration.
        attention: Names of the attention by part of the configuration.
    """

    model_class: type[VisionLanguageModel]
    measure: Callable[[Any, torch.Tensor], Mapping[str, Any]]
    see: Callable[[Any, torch.Tensor, Mapping[str, Any]], Seen]
    place: Callable[[Any, torch.Tensor, torch.Tensor], torch.Tensor]
    merge_size: Callable[[Any], int]
    attention: Mapping[str, str] = field(default_factory=lambda: {"text_config": attention.NAME})


def _measure_windows(core: Any, grid_thw_N3: torch.Tensor) -> dict[str, Any]:
    tower = core.model.visual
    window_index, window_ends = get_vision_window_index(
        grid_thw_N3, tower.spatial_merge_size, tower.window_size, tower.patch_size
    )
    windows = {
        "window_index": window_index,
        "cu_window_seqlens": window_ends,
        "max_window_seqlen": _longest(window_ends),
    }
    return _measure_images(core, grid_thw_N3) | windows


def _measure_grids(core: Any, grid_thw_N3: torch.Tensor) -> dict[str, Any]:
    tower = core.model.visual
    index, weights = get_vision_interpolation_indices_and_weights(
        grid_thw_N3,
        tower.num_grid_per_side,
        tower.interpolation_mode,
        tower.interpolation_align_corners,
        tower.spatial_merge_size,
    )
    return _measure_images(core, grid_thw_N3) | {"interp_indices": index, "interp_weights": weights}


def _measure_images(core: Any, grid_thw_N3: torch.Tensor) -> dict[str, Any]:
    ends = get_vision_cu_seqlens(grid_thw_N3)
    positions = get_vision_position_ids(grid_thw_N3, core.model.visual.spatial_merge_size)
    return {"grid_thw": grid_thw_N3, "position_ids": positions, "cu_seqlens": ends, "max_seqlen": _longest(ends)}


def _longest(ends: torch.Tensor) -> int:
    return int(ends.diff().max())


def _see_patches(core: Any, pixel_values: torch.Tensor, sight: Mapping[str, Any]) -> Seen:
    seen = core.model.visual(pixel_values, **sight)
    return Seen(seen.pooler_output, getattr(seen, "deepstack_features", ()))


def _place_on_three_axes(core: Any, prompt_P: torch.Tensor, grid_thw: torch.Tensor) -> torch.Tensor:
    is_image = (prompt_P == core.config.image_token_id).int()
    rope_index, _ = core.model.get_rope_index(
        prompt_P[None], mm_token_type_ids=is_image[None], image_grid_thw=grid_thw[None]
    )
    placed: torch.Tensor = rope_index[:, 0]
    return placed


def _see_tiles(core: Any, pixel_values: torch.Tensor, sight: Mapping[str, Any]) -> Seen:  # noqa: ARG001
    """All tiles are of one size, so there is nothing to know that the pixels do not say.

    PEFT lets the embeddings of a model that recomputes activations ask for gradients, those of a frozen tower too.
    """
    seeing = (core.model.vision_tower, core.model.multi_modal_projector)
    is_trained = any(parameter.requires_grad for part in seeing for parameter in part.parameters())
    with torch.set_grad_enabled(is_trained and torch.is_grad_enabled()):
        return Seen(core.model.get_image_features(pixel_values=pixel_values).pooler_output.flatten(0, 1))


def _place_in_a_row(core: Any, prompt_P: torch.Tensor, grid_thw: torch.Tensor) -> torch.Tensor:  # noqa: ARG001
    return torch.arange(len(prompt_P))[None]


_QWEN: dict[str, Any] = {
    "see": _see_patches,
    "place": _place_on_three_axes,
    "merge_size": lambda config: config.vision_config.spatial_merge_size,
    "attention": {"text_config": attention.NAME, "vision_config": attention.WINDOWS_NAME},
}
DRIVERS: dict[str, Driver] = {
    "qwen2_5_vl": Driver(Qwen2_5_VLForConditionalGeneration, measure=_measure_windows, **_QWEN),
    "qwen3_vl": Driver(Qwen3VLForConditionalGeneration, measure=_measure_grids, **_QWEN),
    "internvl": Driver(
        InternVLForConditionalGeneration,
        measure=lambda *_: {},
        see=_see_tiles,
        place=_place_in_a_row,
        merge_size=lambda config: round(1 / config.downsample_ratio),
    ),
}
"""By `model_type`."""
