"""The classes of transformers behind the families of `fxray.config.families`."""

from typing import TypeAlias

from transformers import Qwen2_5_VLForConditionalGeneration, Qwen3VLForConditionalGeneration

VisionLanguageModel: TypeAlias = Qwen2_5_VLForConditionalGeneration | Qwen3VLForConditionalGeneration
"""Both have the same parts under the same names: `model.visual`, `model.language_model`, `lm_head`."""

CLASSES: dict[str, type[VisionLanguageModel]] = {
    "qwen2_5_vl": Qwen2_5_VLForConditionalGeneration,
    "qwen3_vl": Qwen3VLForConditionalGeneration,
}
"""By `model_type`."""
