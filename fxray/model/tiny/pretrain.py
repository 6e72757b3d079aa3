"""Pretraining of the tiny model in two stages on generic grounding scenes.

Stage 1 trains the vision tower alone, with heads that read from each image token which row and column it is, what
covers it and how far the edges of that shape are. The tower has only relative (rotary) positions, so without this
nothing tells the language model where anything is. Stage 2 trains everything on the language loss and keeps the heads
as a side loss; the heads are thrown away at the end.

Legend: B images, C image tokens of an image, N questions, T tokens, A answer tokens, K numbers.
"""

import math
from collections.abc import Callable, Iterable, Iterator

import torch
from torch import distributed, nn
from torch.nn import functional as F
from transformers import PreTrainedTokenizerFast, Qwen2_5_VLForConditionalGeneration

from fxray.errors import ModelError
from fxray.model.tiny.architecture import HIDDEN
from fxray.model.tiny.batches import IGNORED, QUESTIONS_PER_IMAGE, Batch, GroundingBatches
from fxray.model.tiny.grounding import FILLS, FORMS
from fxray.model.tiny.tokenizer import MAX_WHOLE_NUMBER

SHARDS_PER_STEP = 2
"""A step sums the gradients of so many batches, shared out among the ranks."""
STAGE_1_IMAGES = 24
STAGE_2_IMAGES = 12
"""Images of one shard."""
PEAK_RATE = 1.5e-3
SIDE_LOSS_WEIGHT = 0.3
COORDINATE_SPREAD_PX = 1.2
"""A coordinate's target is a bell of this width over the neighbouring numbers, so that near misses cost little."""
AVERAGE_DECAY = 0.998
_MAX_SIDE_CELLS = 8

OnStep = Callable[[int, float], None]


class CellHeads(nn.Module):
    """Linear readings of the merged image tokens, used in pretraining only."""

    def __init__(self) -> None:
        super().__init__()
        self._sizes = (1, _MAX_SIDE_CELLS, _MAX_SIDE_CELLS, len(FILLS), len(FORMS), 4)
        self._read = nn.Sequential(nn.LayerNorm(HIDDEN), nn.Linear(HIDDEN, sum(self._sizes)))

    def forward(self, features_BCH: torch.Tensor, batch: Batch) -> torch.Tensor:
        """Sum of the losses of row, column, coverage, and, where the batch shows a shape, of fill, form and edges."""
        cover, row, column, fill, form, edges = self._read(features_BCH).split(self._sizes, dim=-1)
        num_rows, num_columns = batch.grid
        true_row, true_column = (
            index.expand(len(cover), -1).reshape(-1)
            for index in (
                torch.arange(num_rows).repeat_interleave(num_columns),
                torch.arange(num_columns).repeat(num_rows),
            )
        )
        cells = batch.cells
        shown = cells.is_covered_BC
        place_loss = F.cross_entropy(row.flatten(0, 1), true_row) + F.cross_entropy(column.flatten(0, 1), true_column)
        cover_loss = F.binary_cross_entropy_with_logits(cover.squeeze(-1), cells.cover_BC.clamp(0, 1))
        loss = 0.2 * place_loss + 2 * cover_loss
        if not shown.any():  # the mean over no cell is NaN
            return loss
        name_loss = F.cross_entropy(fill[shown], cells.fill_BC[shown]) + F.cross_entropy(
            form[shown], cells.form_BC[shown]
        )
        edge_loss = F.smooth_l1_loss(edges[shown], cells.edges_BC4[shown], beta=0.05)
        return loss + 0.3 * name_loss + 10 * edge_loss


class AnswerLoss:
    """Cross-entropy of the answers; coordinates have soft targets."""

    def __init__(self, model: Qwen2_5_VLForConditionalGeneration, tokenizer: PreTrainedTokenizerFast) -> None:
        self._model = model
        numbers = range(MAX_WHOLE_NUMBER + 1)
        self._number_ids_K = torch.tensor([tokenizer.convert_tokens_to_ids(str(number)) for number in numbers])
        self._number_of_id = torch.zeros(model.config.text_config.vocab_size, dtype=torch.long)
        self._number_of_id[self._number_ids_K] = torch.arange(len(self._number_ids_K))

    def __call__(self, features_BCH: torch.Tensor, batch: Batch) -> torch.Tensor:
        """Mean over answer tokens, given the image tokens' features; short and long rows go apart to save padding."""
        features_NCH = features_BCH.repeat_interleave(QUESTIONS_PER_IMAGE, 0)
        num_tokens_N = (batch.ids_NT != self._model.config.text_config.pad_token_id).sum(1)
        parts = [self._sum_losses(features_NCH, batch, rows) for rows in num_tokens_N.argsort(stable=True).chunk(2)]
        return torch.stack(parts).sum() / (batch.labels_NT != IGNORED).sum()

    def _sum_losses(self, features_NCH: torch.Tensor, batch: Batch, rows: torch.Tensor) -> torch.Tensor:
        model = self._model
        labels_NT = batch.labels_NT[rows]
        length = int((labels_NT != IGNORED).any(0).nonzero().max()) + 1
        ids_NT, labels_NT = batch.ids_NT[rows, :length], labels_NT[:, 1:length]
        embeds_NTH = model.get_input_embeddings()(ids_NT)
        embeds_NTH[ids_NT == model.config.image_token_id] = features_NCH[rows].flatten(0, 1)
        positions_3NT = batch.positions_3NT[:, rows, :length]
        language = model.model.language_model
        hidden_NTH = language(inputs_embeds=embeds_NTH, position_ids=positions_3NT, use_cache=False).last_hidden_state
        is_answer_NT = labels_NT != IGNORED
        logprobs_AV = model.lm_head(hidden_NTH[:, :-1][is_answer_NT]).log_softmax(-1)
        targets_A = labels_NT[is_answer_NT]
        losses_A = -logprobs_AV.gather(1, targets_A[:, None]).squeeze(1)
        is_coordinate_A = batch.is_coordinate_NT[rows, 1:length][is_answer_NT]
        true_number = self._number_of_id[targets_A[is_coordinate_A]]
        distance_AK = torch.arange(len(self._number_ids_K)) - true_number[:, None]
        weights_AK = (-0.5 * (distance_AK / COORDINATE_SPREAD_PX) ** 2).softmax(-1)
        soft = -(weights_AK * logprobs_AV[is_coordinate_A][:, self._number_ids_K]).sum(-1)
        return losses_A[~is_coordinate_A].sum() + soft.sum()


class WeightAverage:
    """A running mean of a model's weights; it serves better than the last weights while the rate is high."""

    def __init__(self, model: nn.Module) -> None:
        self._live = list(model.parameters())
        self._mean = [parameter.detach().clone() for parameter in self._live]

    def update(self, step: int) -> None:
        """Moves the mean towards the weights of now."""
        decay = min(AVERAGE_DECAY, step / (step + 9))
        torch._foreach_lerp_(self._mean, [parameter.detach() for parameter in self._live], 1 - decay)

    def swap(self) -> None:
        """Exchanges the weights and their mean."""
        with torch.no_grad():
            for live, mean in zip(self._live, self._mean, strict=True):
                kept = live.detach().clone()
                live.copy_(mean)
                mean.copy_(kept)


def encode_images(model: Qwen2_5_VLForConditionalGeneration, batch: Batch) -> torch.Tensor:
    """Features of the merged image tokens (B, C, hidden)."""
    rows, columns = batch.grid
    num_images = len(batch.patches) // (rows * columns * 4)
    grid_thw = torch.tensor([[1, 2 * rows, 2 * columns]] * num_images)
    return model.model.visual(batch.patches, grid_thw=grid_thw).pooler_output.view(num_images, rows * columns, HIDDEN)


def pretrain_vision(
    model: Qwen2_5_VLForConditionalGeneration,
    tokenizer: PreTrainedTokenizerFast,
    heads: CellHeads,
    *,
    num_steps: int,
    seed: int,
    on_step: OnStep,
) -> None:
    """Stage 1: the vision tower and `heads` alone."""
    batches = GroundingBatches(tokenizer, seed=seed, images_per_batch=STAGE_1_IMAGES)
    descent = _Descent([*model.model.visual.parameters(), *heads.parameters()], num_steps)
    for step in range(num_steps):
        loss = descent.step(heads(encode_images(model, batch), batch) for batch in _shards(batches, step))
        on_step(step + 1, loss)


def pretrain_language(
    model: Qwen2_5_VLForConditionalGeneration,
    tokenizer: PreTrainedTokenizerFast,
    heads: CellHeads,
    average: WeightAverage,
    *,
    num_steps: int,
    seed: int,
    on_step: OnStep,
) -> None:
    """Stage 2: everything; `average` follows the model's weights, and is what shall be kept."""
    batches = GroundingBatches(tokenizer, seed=seed, images_per_batch=STAGE_2_IMAGES)
    answer_loss = AnswerLoss(model, tokenizer)
    descent = _Descent([*model.parameters(), *heads.parameters()], num_steps)

    def shard_loss(batch: Batch) -> torch.Tensor:
        features = encode_images(model, batch)
        return answer_loss(features, batch) + SIDE_LOSS_WEIGHT * heads(features, batch)

    for step in range(num_steps):
        loss = descent.step(shard_loss(batch) for batch in _shards(batches, step))
        average.update(step)
        on_step(step + 1, loss)


def _shards(batches: GroundingBatches, step: int) -> Iterator[Batch]:
    """This rank's part of a step's batches."""
    rank, world = (distributed.get_rank(), distributed.get_world_size()) if distributed.is_initialized() else (0, 1)
    return (batches.draw(step * SHARDS_PER_STEP + shard) for shard in range(rank, SHARDS_PER_STEP, world))


class _Descent:
    """AdamW on a one-cycle rate; gradients are averaged over all ranks' shards and clipped."""

    def __init__(self, parameters: list[nn.Parameter], num_steps: int) -> None:
        self._parameters = parameters
        self._optimizer = torch.optim.AdamW(parameters, lr=PEAK_RATE, betas=(0.9, 0.98), weight_decay=0.02)
        self._schedule = torch.optim.lr_scheduler.OneCycleLR(
            self._optimizer, PEAK_RATE, total_steps=num_steps, pct_start=0.05
        )

    def step(self, losses: Iterable[torch.Tensor]) -> float:
        """One update; returns the mean loss of this rank's shards.

        Raises:
            ModelError: The loss or the gradient is not finite; a model of such an update would answer nothing.
        """
        total, num_shards = 0.0, 0
        for loss in losses:
            (loss / SHARDS_PER_STEP).backward()
            total, num_shards = total + loss.item(), num_shards + 1
        if distributed.is_initialized():
            for parameter in self._parameters:
                if parameter.grad is None:
                    parameter.grad = torch.zeros_like(parameter)
            flat = torch.cat([parameter.grad.flatten() for parameter in self._parameters if parameter.grad is not None])
            distributed.all_reduce(flat)
            for parameter, grad in zip(
                self._parameters, flat.split([parameter.numel() for parameter in self._parameters]), strict=True
            ):
                parameter.grad = grad.view_as(parameter)
        norm = nn.utils.clip_grad_norm_(self._parameters, 1.0).item()
        if not (math.isfinite(total) and math.isfinite(norm)):
            raise ModelError(
                f"the pretraining's loss is {total / num_shards}, its gradient's norm {norm}, expected finite numbers",
                remedy="build again with another --seed; nothing was written",
            )
        self._optimizer.step()
        self._schedule.step()
        self._optimizer.zero_grad(set_to_none=True)
        return total / num_shards
