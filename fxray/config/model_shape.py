"""The numbers of a base model that limit a configuration, read from its config.json alone."""

import json
from pathlib import Path

from pydantic import BaseModel

from fxray.config.problem import Problem

MODEL_TYPE = "qwen2_5_vl"


class ModelShape(BaseModel, frozen=True):
    """The language model's part of a Qwen2.5-VL configuration."""

    max_position_embeddings: int
    hidden_size: int
    num_hidden_layers: int
    num_attention_heads: int
    num_key_value_heads: int

    @property
    def cached_numbers_per_token(self) -> int:
        """Keys and values of all layers."""
        return 2 * self.num_hidden_layers * self.num_key_value_heads * self.hidden_size // self.num_attention_heads


def read_shape(path: str) -> ModelShape | Problem | None:
    """The shape of a base model.

    Args:
        path: As in `model.path`: a folder, "tiny", or a name, which no folder of this machine may stand for.

    Returns:
        The shape; a problem where it is another kind of model; None where its folder is not known here.
    """
    folder = Path(__file__).resolve().parents[1] / "assets" / "tiny" if path == "tiny" else Path(path).expanduser()
    file = folder / "config.json"
    if not file.is_file():
        return None
    remedy = "give the folder of a Qwen2.5-VL model, or `tiny`"
    try:
        config = json.loads(file.read_text(encoding="utf-8"))
        if not isinstance(config, dict) or config.get("model_type") != MODEL_TYPE:
            return Problem("model.path", path, f"must hold a model of type {MODEL_TYPE} in its config.json", remedy)
        return ModelShape.model_validate(config.get("text_config", config))
    except (OSError, ValueError) as error:
        return Problem("model.path", path, f"must hold a readable config.json, got {error}", remedy)
