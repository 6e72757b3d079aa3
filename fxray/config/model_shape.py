"""The numbers of a base model that limit a configuration and fill a GPU, read from its config.json alone."""

import json
from pathlib import Path
from typing import Any

from pydantic import AliasChoices, BaseModel, Field, ValidationError

from fxray.config.families import FAMILIES, KNOWN, Family
from fxray.config.problem import Problem
from fxray.files import is_there

_ASSETS = Path(__file__).resolve().parents[1] / "assets"


class VisionShape(BaseModel, frozen=True):
    """The vision tower and the projector behind it."""

    depth: int
    hidden_size: int
    intermediate_size: int
    num_heads: int
    out_hidden_size: int
    patch_size: int = 14
    temporal_patch_size: int = 2
    spatial_merge_size: int = 2
    in_channels: int = Field(3, validation_alias=AliasChoices("in_channels", "in_chans", "num_channels"))
    num_position_embeddings: int = 0
    deepstack_visual_indexes: tuple[int, ...] = ()
    tile_px: int = 0
    """Side of the squares that an image is cut into; 0 where it is seen in one piece."""

    @property
    def token_px(self) -> int:
        """Side of the square of the image that becomes one token of the language model."""
        return self.patch_size * self.spatial_merge_size


class ModelShape(BaseModel, frozen=True):
    """A base model: the language model's numbers, and its vision tower.

    Attributes:
        model_type: Key of its family in `FAMILIES`.
        head_dim: Width of one attention head, where a config.json says it.
    """

    model_type: str = "qwen2_5_vl"
    max_position_embeddings: int
    hidden_size: int
    intermediate_size: int
    num_hidden_layers: int
    num_attention_heads: int
    num_key_value_heads: int
    vocab_size: int
    head_dim: int | None = None
    tie_word_embeddings: bool = False
    vision: VisionShape

    @property
    def family(self) -> Family:
        """What else is known of such models."""
        return FAMILIES[self.model_type]

    @property
    def head_size(self) -> int:
        """Width of one attention head."""
        return self.head_dim or self.hidden_size // self.num_attention_heads

    @property
    def key_size(self) -> int:
        """Width of the keys of a token in one layer, and of its values."""
        return self.num_key_value_heads * self.head_size

    @property
    def cached_numbers_per_token(self) -> int:
        """Keys and values of all layers."""
        return 2 * self.num_hidden_layers * self.key_size


def read_shape(path: str) -> ModelShape | Problem | None:
    """The shape of a base model.

    Args:
        path: As in `model.path`: a folder, "tiny", or a name, whose shape is known where it is one of the published
            sizes.

    Returns:
        The shape; a problem where it is another kind of model, or quantised; None where nothing is known of it here.
    """
    remedy = f"give the folder of a {KNOWN} model, or `tiny`"
    try:
        file = _config_file(path)
        if file is None:
            return None
        config = json.loads(file.read_text(encoding="utf-8"))
        model_type = config.get("model_type") if isinstance(config, dict) else None
        if model_type not in FAMILIES:
            bound = f"must hold a model of type {' or '.join(FAMILIES)} in its config.json"
            return Problem("model.path", path, bound, remedy)
        if config.get("quantization_config"):
            bound = "must hold bfloat16 or float32 weights, its config.json says that they are quantised"
            return Problem("model.path", path, bound, "give the model that it was quantised from")
        if config.get("text_config", config).get("use_sliding_window"):
            return Problem("model.path", path, "must attend to all tokens, its use_sliding_window is true", remedy)
        if FAMILIES[model_type].sees_tiles and (odd := _odd_of_tiles(config)):
            return Problem("model.path", path, f"must have {odd} in its config.json", remedy)
        return ModelShape.model_validate(_flat(config, model_type))
    except ValidationError as error:
        fields = ", ".join(".".join(map(str, each["loc"])) for each in error.errors())
        bound = f"must say a model's numbers in its config.json, where these are missing or wrong: {fields}"
        return Problem("model.path", path, bound, remedy)
    except (OSError, ValueError, TypeError, AttributeError, KeyError) as error:
        return Problem("model.path", path, f"must hold a readable config.json, got {error}", remedy)


def published_families() -> str:
    """The families of which published sizes are known by name."""
    files = sorted((_ASSETS / "shapes").glob("*.json"))
    types = [json.loads(file.read_text(encoding="utf-8"))["model_type"] for file in files]
    return " or ".join(dict.fromkeys(FAMILIES[each].title for each in types))


def adapter_warning(path: str) -> str | None:
    """What an adapter on a base model lacks of the paper's; None where it lacks nothing, or nothing is known.

    Args:
        path: As for `read_shape`.
    """
    shape = read_shape(path)
    if not isinstance(shape, ModelShape) or shape.family.adapts_vision:
        return None
    return (
        f"model.lora: an adapter of an {shape.family.title} sits on its language model alone, for vLLM takes none on "
        "its vision tower and projector, and leaving these out spoils the result (the paper's section 4). "
        "Set model.lora=null to train all weights"
    )


def _config_file(path: str) -> Path | None:
    folder = _ASSETS / "tiny" if path == "tiny" else Path(path).expanduser()
    published = _ASSETS / "shapes" / f"{path.rpartition('/')[2].lower().removesuffix('-instruct')}.json"
    return next((file for file in (folder / "config.json", published) if is_there(file)), None)


def _flat(config: dict[str, Any], model_type: str) -> dict[str, Any]:
    """Published files have the language model's numbers on top, newer ones in a part of their own."""
    text = config.get("text_config", config)
    tied = config.get("tie_word_embeddings", text.get("tie_word_embeddings", False))
    vision = {"patch_size": FAMILIES[model_type].patch_px} | (config.get("vision_config") or {})
    if FAMILIES[model_type].sees_tiles:
        vision = _tower_of_tiles(config, vision)
    return text | {"vision": vision, "tie_word_embeddings": tied, "model_type": model_type}


_OF_TILES: dict[str, dict[str, tuple[object, object]]] = {
    "": {"vision_feature_layer": (-1, -1), "vision_feature_select_strategy": ("default", "default")},
    "text_config": {"model_type": ("qwen2", "qwen2")},
    "vision_config": {
        "attention_bias": (True, False),
        "use_qk_norm": (False, False),
        "norm_type": ("layer_norm", "layer_norm"),
        "use_mean_pooling": (True, True),
        "use_absolute_position_embeddings": (True, True),
        "use_mask_token": (False, False),
    },
}
"""By part of an InternVL's config.json: what a key must hold, and what it means that it is not there."""


def _odd_of_tiles(config: dict[str, Any]) -> str:
    """What an InternVL lacks to be driven, or ""."""
    for part, needed in _OF_TILES.items():
        content = (config.get(part) or {}) if part else config
        for key, (expected, default) in needed.items():
            if (got := content.get(key, default)) != expected:
                return f"{part}{'.' if part else ''}{key} = {expected!r}, not {got!r},"
    return ""


def _tower_of_tiles(config: dict[str, Any], vision: dict[str, Any]) -> dict[str, Any]:
    """The vision tower of an InternVL under the names of the others."""
    tile_px, patch_px = _side(vision, "image_size"), _side(vision, "patch_size")
    return vision | {
        "depth": vision["num_hidden_layers"],
        "num_heads": vision["num_attention_heads"],
        "out_hidden_size": config["text_config"]["hidden_size"],
        "patch_size": patch_px,
        "temporal_patch_size": 1,
        "spatial_merge_size": round(1 / config.get("downsample_ratio", 0.5)),
        "num_position_embeddings": (tile_px // patch_px) ** 2 + 1,
        "tile_px": tile_px,
    }


def _side(vision: dict[str, Any], key: str) -> int:
    """The side of a square, which may be given as two equal ones."""
    sides = vision[key] if isinstance(vision[key], list) else [vision[key]]
    if len({*sides}) != 1:
        raise ValueError(f"{key} {sides}, where both sides must be equal")
    return int(sides[0])
