"""The forward pass over packed groups: image and prompt once, then every answer, all in one flat sequence.

A group costs P + G R tokens instead of G (P + R). Position ids of each answer continue after the prompt on all axes of
the rotary embedding, and each answer sees the prompt and itself alone, so log-probabilities and gradients are
those of the plain form, in which each answer comes with its own copy of prompt and image.

Legend: N groups, P prompt tokens, G answers, T tokens of the flat sequence, R answer tokens, V vocabulary, A axes.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch.nn.functional import cross_entropy, linear
from torch.utils.checkpoint import checkpoint

from fxray.errors import ModelError
from fxray.model import attention
from fxray.model.adapter import lora_layers
from fxray.model.family import DRIVERS, VisionLanguageModel
from fxray.model.fused import use_fused
from fxray.model.images import count_image_tokens
from fxray.model.layers import use_layers
from fxray.model.load import placeholder_ids

LOGITS_BUDGET = 2**27
"""Logits that are held at once: 512 MiB of float32."""


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
    """Groups as the model takes them; everything lies on the model's device.

    Attributes:
        input_ids_T: int64 [T], prompt, answers, next prompt, ...
        position_ids: int64 [3, 1, T], for frame, row and column, or [1, T] where the rotary embedding has one axis.
        image_position_I: int64 [I], where the image tokens lie.
        pixel_values: float32, patches or tiles of all images.
        grid_thw_N3: int64 [N, 3].
        predictor_R: int64 [R], position whose hidden state predicts each answer token.
        target_R: int64 [R], the answer tokens, all answers one after the other.
        layout: Who sees whom.
    """

    input_ids_T: torch.Tensor
    position_ids: torch.Tensor
    image_position_I: torch.Tensor
    pixel_values: torch.Tensor
    grid_thw_N3: torch.Tensor
    predictor_R: torch.Tensor
    target_R: torch.Tensor
    layout: attention.Layout


class PackedPolicy(torch.nn.Module):
    """The model as a function from packed groups to log-probabilities of their answers.

    Args:
        model: A base model with adapters, or a `fxray.model.policy.TwoModels`.
        excluded_ids: Tokens that the sampler leaves out of its vocabulary, and so must the learner.
        dtype: Type in which it multiplies; None for that of the base's weights.
    """

    _excluded: torch.Tensor

    def __init__(self, model: Any, excluded_ids: Sequence[int] = (), *, dtype: torch.dtype | None = None) -> None:
        super().__init__()
        self.model = model
        self.register_buffer("_excluded", torch.tensor(sorted(excluded_ids), dtype=torch.long), persistent=False)
        cores = [module for module in model.modules() if isinstance(module, VisionLanguageModel)]
        for core in cores:
            if odd := set(getattr(core.config.text_config, "layer_types", ())) - {"full_attention"}:
                raise ModelError(f"attention layers of type {sorted(odd)}, expected only full attention")
            core.set_attn_implementation(dict(DRIVERS[core.config.model_type].attention))
        self._cores, self._heads = cores, torch.nn.ModuleList(AnswerHead(core.lm_head) for core in cores)
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
        with torch.autocast(batch.input_ids_T.device.type, torch.bfloat16, enabled=self._is_bfloat16):
            return self._logprobs(batch, temperature)

    def _logprobs(self, batch: PackedBatch, temperature: float) -> torch.Tensor:
        core: VisionLanguageModel = self.model.get_base_model()
        hidden_TD = _hidden_states(core, batch)
        answers = hidden_TD.index_select(0, batch.predictor_R)
        head: torch.nn.Module = self._heads[self._cores.index(core)]
        chosen: torch.Tensor = head(answers, batch.target_R, temperature, self._excluded)
        return chosen


def _hidden_states(core: VisionLanguageModel, batch: PackedBatch) -> torch.Tensor:
    """The language model's last hidden states [T, D].

    Its layers are called here, one after the other: a model of the Qwen3 family adds features of an image to what the
    first of them give (DeepStack), and transformers would make a mask over the whole sequence for it.
    """
    language = core.model.language_model
    seen = DRIVERS[core.config.model_type].see(core, batch.pixel_values, batch.grid_thw_N3)
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


class AnswerHead(torch.nn.Module):
    """`chosen_logprobs` under a model's head, called once a pass, however many tokens there are.

    Under ZeRO-3 each call of a module gathers its weights from all ranks. Were the head called for some tokens at a
    time, ranks with other numbers of tokens would take part in other numbers of exchanges, and wait for ever.

    Args:
        lm_head: Its weight is shared, not copied.
    """

    def __init__(self, lm_head: torch.nn.Linear) -> None:
        super().__init__()
        self.weight = lm_head.weight

    def forward(
        self, hidden_RD: torch.Tensor, target_R: torch.Tensor, temperature: float, excluded_X: torch.Tensor
    ) -> torch.Tensor:
        """As `chosen_logprobs`."""
        return chosen_logprobs(self.weight, hidden_RD, target_R, temperature, excluded_X)


def chosen_logprobs(
    weight_VD: torch.Tensor,
    hidden_RD: torch.Tensor,
    target_R: torch.Tensor,
    temperature: float,
    excluded_X: torch.Tensor,
) -> torch.Tensor:
    """Log-probabilities of chosen tokens, float32 [R], without ever holding more than `LOGITS_BUDGET` logits.

    Args:
        weight_VD: From hidden states to logits.
        hidden_RD: Final hidden states.
        target_R: The chosen tokens.
        temperature: Divides the logits.
        excluded_X: Tokens whose logit is minus infinity.
    """

    def logits(hidden: torch.Tensor) -> torch.Tensor:
        return linear(hidden, weight_VD).float().div_(temperature).index_fill_(-1, excluded_X, -torch.inf)

    def logprobs(hidden: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
        return -cross_entropy(logits(hidden), target, reduction="none")

    chunk = max(1, LOGITS_BUDGET // len(weight_VD))
    if len(hidden_RD) <= chunk:
        return logprobs(hidden_RD, target_R)
    if hidden_RD.requires_grad and not weight_VD.requires_grad:
        ready: torch.Tensor = _ChunkedLogprobs.apply(hidden_RD, target_R, logits, weight_VD, temperature, chunk)
        return ready
    parts = zip(hidden_RD.split(chunk), target_R.split(chunk), strict=True)
    return torch.cat([checkpoint(logprobs, hidden, target, use_reentrant=False) for hidden, target in parts])


class _ChunkedLogprobs(torch.autograd.Function):
    """`chosen_logprobs` under a frozen head: the backward pass finds its work done, and makes no logits again.

    A token's log-probability depends on its own hidden state alone, so its gradient, (onehot - p) W / temperature, is
    made while the logits are there and only waits for its factor.
    """

    @staticmethod
    def forward(
        ctx: Any,
        hidden_RD: torch.Tensor,
        target_R: torch.Tensor,
        logits: Callable[[torch.Tensor], torch.Tensor],
        weight_VD: torch.Tensor,
        temperature: float,
        chunk: int,
    ) -> torch.Tensor:
        chosen_R = torch.empty(len(hidden_RD), dtype=torch.float32, device=hidden_RD.device)
        slope_RD = torch.empty_like(hidden_RD)
        for start in range(0, len(hidden_RD), chunk):
            part = slice(start, start + chunk)
            target = target_R[part, None]
            logprobs = logits(hidden_RD[part]).log_softmax(-1)
            chosen_R[part] = logprobs.gather(-1, target)[:, 0]
            slope = logprobs.exp_().neg_().scatter_add_(-1, target, torch.ones_like(target, dtype=torch.float32))
            slope_RD[part] = slope.div_(temperature).to(weight_VD.dtype) @ weight_VD
            del logprobs, slope  # before the next logits are made
        ctx.save_for_backward(slope_RD)
        return chosen_R

    @staticmethod
    def backward(ctx: Any, *gradients: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        (slope_RD,) = ctx.saved_tensors
        return (slope_RD * gradients[0][:, None]).to(slope_RD.dtype), None, None, None, None, None


def pack(
    model: VisionLanguageModel,
    rows: Sequence[PackedRow],
    forbidden_ids: Sequence[int] = (),
    *,
    dtype: torch.dtype | None = None,
) -> PackedBatch:
    """Puts groups together into one flat sequence on the model's device.

    Args:
        model: The base.
        rows: The groups.
        forbidden_ids: Tokens that no answer may contain, besides those that stand for pixels.
        dtype: As `PackedPolicy` got it.

    Raises:
        ModelError: A prompt's placeholders do not match its image, or an answer contains a forbidden token.
    """
    forbidden = [*placeholder_ids(model.config), *forbidden_ids]
    for row in rows:
        _check_row(model, row, forbidden)
    grid_thw = torch.stack([row.grid_thw for row in rows])
    answer_lengths = [[len(answer) for answer in row.answers] for row in rows]
    prompts = [torch.from_numpy(row.prompt_token_ids.astype(np.int64)) for row in rows]
    place = DRIVERS[model.config.model_type].place
    positions = [place(model, prompt, grid) for prompt, grid in zip(prompts, grid_thw, strict=True)]

    ids, position_ids, predictors, start = [], [], [], 0
    for row, prompt, position in zip(rows, prompts, positions, strict=True):
        last_of_prompt = start + len(prompt) - 1
        following = int(position.max()) + 1
        ids.append(prompt)
        position_ids.append(position)
        start += len(prompt)
        for answer in row.answers:
            ids.append(torch.from_numpy(answer.astype(np.int64)))
            position_ids.append(torch.arange(following, following + len(answer)).expand(len(position), -1))
            predictors += [last_of_prompt, *range(start, start + len(answer) - 1)]
            start += len(answer)
    input_ids_T, positions_AT = torch.cat(ids), torch.cat(position_ids, 1)
    device = model.device
    return PackedBatch(
        input_ids_T=input_ids_T.to(device),
        position_ids=(positions_AT if len(positions_AT) == 1 else positions_AT[:, None]).to(device),
        image_position_I=(input_ids_T == model.config.image_token_id).nonzero()[:, 0].to(device),
        pixel_values=torch.cat([row.pixel_values for row in rows]).to(device),
        grid_thw_N3=grid_thw.to(device),
        predictor_R=torch.tensor(predictors, dtype=torch.long, device=device),
        target_R=torch.cat([torch.from_numpy(a.astype(np.int64)) for row in rows for a in row.answers]).to(device),
        layout=attention.make_layout([len(prompt) for prompt in prompts], answer_lengths, device, dtype or model.dtype),
    )


def _check_row(model: VisionLanguageModel, row: PackedRow, forbidden: Sequence[int]) -> None:
    num_placeholders = int((row.prompt_token_ids == model.config.image_token_id).sum())
    (num_tokens,) = count_image_tokens(row.grid_thw[None], DRIVERS[model.config.model_type].merge_size(model.config))
    if num_placeholders != num_tokens:
        raise ModelError(
            f"the prompt has {num_placeholders} image placeholders, but the image makes {num_tokens} tokens",
            where=f"sample {row.sample_id}",
            remedy="give sampler and learner the same model, min_pixels and max_pixels",
        )
    for index, answer in enumerate(row.answers):
        if np.isin(answer, forbidden).any():
            raise ModelError(
                f"answer {index} contains a vision token",
                where=f"sample {row.sample_id}",
                remedy="forbid these tokens when sampling",
            )
