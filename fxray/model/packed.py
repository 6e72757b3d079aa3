"""The forward pass over packed groups: image and prompt once, then every answer, all in one flat sequence.

A group costs P + G R tokens instead of G (P + R). Position ids of each answer continue after the prompt on all axes of
the rotary embedding, and each answer sees the prompt and itself alone, so log-probabilities and gradients are
those of the plain form, in which each answer comes with its own copy of prompt and image.

Legend: P prompt tokens, G answers, T tokens of the flat sequence, R answer tokens, D width.
"""

from collections.abc import Sequence
from functools import partial
from typing import Any

import torch

from fxray.errors import ModelError
from fxray.model.adapter import lora_layers
from fxray.model.batch import PackedBatch
from fxray.model.family import DRIVERS, VisionLanguageModel
from fxray.model.fused import use_fused
from fxray.model.head import AnswerHead
from fxray.model.layers import use_layers


class PackedPolicy(torch.nn.Module):
    """The model as a function from packed groups to log-probabilities of their answers.

    Args:
        model: A base model with adapters, or a `fxray.model.policy.TwoModels`.
        excluded_ids: Tokens that the sampler leaves out of its vocabulary, and so must the learner.
        dtype: Type in which it multiplies; None for that of the base's weights.
    """

    def __init__(self, model: Any, excluded_ids: Sequence[int] = (), *, dtype: torch.dtype | None = None) -> None:
        super().__init__()
        self.model = model
        cores = [module for module in model.modules() if isinstance(module, VisionLanguageModel)]
        for core in cores:
            if odd := set(getattr(core.config.text_config, "layer_types", ())) - {"full_attention"}:
                raise ModelError(f"attention layers of type {sorted(odd)}, expected only full attention")
            core.set_attn_implementation(dict(DRIVERS[core.config.model_type].attention))
        self._cores = cores
        self._heads = torch.nn.ModuleList(AnswerHead(core.lm_head, list(excluded_ids)) for core in cores)
        self._is_bfloat16 = (dtype or cores[0].dtype) == torch.bfloat16
        for layer in lora_layers(model):
            # Autocast brings the adapter to the input's type; PEFT would copy the input in float32, once per layer.
            layer.cast_input_dtype_enabled = False
        use_fused(model)
        use_layers(model)

    def forward(self, batch: PackedBatch, temperature: float) -> torch.Tensor:
        """Log-probabilities of the answer tokens at a temperature, float32 [R].

        A bfloat16 base multiplies in bfloat16, adapters included, as the sampler does; norms, softmax and all
        log-probabilities are float32.
        """
        core: VisionLanguageModel = self.model.get_base_model()
        head: torch.nn.Module = self._heads[self._cores.index(core)]
        narrow = partial(torch.autocast, batch.input_ids_T.device.type, torch.bfloat16, enabled=self._is_bfloat16)
        # Autocast would keep a copy of all weights that are trained until the pass is over, though each multiplies
        # once; where layers are made again, nothing else does. The head multiplies once for each chunk.
        with narrow(cache_enabled=False):
            answers = _hidden_states(core, batch).index_select(0, batch.predictor_R)
        with narrow():
            chosen: torch.Tensor = head(answers, batch.target_R, temperature)
        return chosen


def _hidden_states(core: VisionLanguageModel, batch: PackedBatch) -> torch.Tensor:
    """The language model's last hidden states [T, D].

    Its layers are called here, one after the other: a model of the Qwen3 family adds features of an image to what the
    first of them give (DeepStack), and transformers would make a mask over the whole sequence for it.
    """
    language = core.model.language_model
    seen = DRIVERS[core.config.model_type].see(core, batch.pixel_values, batch.sight)
    embeds_TD = core.get_input_embeddings()(batch.input_ids_T)
    hidden = embeds_TD.index_copy(0, batch.image_position_I, seen.features_ID.to(embeds_TD.dtype))[None]
    rotations = language.rotary_emb(hidden, batch.position_ids)
    deeper = iter(seen.deeper)
    for layer in language.layers:
        hidden = layer(hidden, attention_mask=batch.layout, position_embeddings=rotations)
        if (features := next(deeper, None)) is not None:
            hidden = hidden.index_add(1, batch.image_position_I, features.to(hidden.dtype)[None])
    normed: torch.Tensor = language.norm(hidden)
    return normed[0]
