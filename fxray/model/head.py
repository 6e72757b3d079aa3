"""From hidden states to log-probabilities of chosen tokens, without ever holding all logits.

hidden states ─► some thousand logits each, a chunk at a time ─► log-probabilities, and where the head is frozen
their slopes too, which the backward pass only multiplies

Legend: R answer tokens, D width, V vocabulary.
"""

from typing import Any

import torch
from torch.nn.functional import cross_entropy, linear
from torch.utils.checkpoint import checkpoint

from fxray.model.compiled import run_compiled

LOGITS_BUDGET = 2**27
"""Logits that are held at once: 512 MiB of float32."""


class AnswerHead(torch.nn.Module):
    """`chosen_logprobs` under a model's head, called once a pass, however many tokens there are.

    Under ZeRO-3 each call of a module gathers its weights from all ranks. Were the head called for some tokens at a
    time, ranks with other numbers of tokens would take part in other numbers of exchanges, and wait for ever.

    Args:
        lm_head: Its weight is shared, not copied.
        excluded_ids: Tokens that the sampler leaves out of its vocabulary, and so must the learner.
    """

    is_excluded_V: torch.Tensor

    def __init__(self, lm_head: torch.nn.Linear, excluded_ids: list[int]) -> None:
        super().__init__()
        self.weight = lm_head.weight
        # Weights that ZeRO-3 has spread lie on their device already, and DeepSpeed then moves no buffer after them.
        is_excluded_V = torch.zeros(lm_head.out_features, dtype=torch.bool, device=lm_head.weight.device)
        is_excluded_V[excluded_ids] = True
        self.register_buffer("is_excluded_V", is_excluded_V, persistent=False)

    def forward(self, hidden_RD: torch.Tensor, target_R: torch.Tensor, temperature: float) -> torch.Tensor:
        """As `chosen_logprobs`."""
        return chosen_logprobs(self.weight, hidden_RD, target_R, temperature, self.is_excluded_V)


def chosen_logprobs(
    weight_VD: torch.Tensor,
    hidden_RD: torch.Tensor,
    target_R: torch.Tensor,
    temperature: float,
    is_excluded_V: torch.Tensor,
) -> torch.Tensor:
    """Log-probabilities of chosen tokens, float32 [R], without ever holding more than `LOGITS_BUDGET` logits.

    Args:
        weight_VD: From hidden states to logits.
        hidden_RD: Final hidden states.
        target_R: The chosen tokens.
        temperature: Divides the logits.
        is_excluded_V: Tokens whose logit is minus infinity.
    """

    def logprobs(hidden: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
        found: torch.Tensor = run_compiled(_logprobs, linear(hidden, weight_VD), target, temperature, is_excluded_V)
        return found

    chunk = max(1, LOGITS_BUDGET // len(weight_VD))
    if len(hidden_RD) <= chunk:
        return logprobs(hidden_RD, target_R)
    if hidden_RD.requires_grad and not weight_VD.requires_grad:
        ready: torch.Tensor = _ChunkedLogprobs.apply(hidden_RD, target_R, weight_VD, temperature, is_excluded_V, chunk)
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
        weight_VD: torch.Tensor,
        temperature: float,
        is_excluded_V: torch.Tensor,
        chunk: int,
    ) -> torch.Tensor:
        chosen_R = torch.empty(len(hidden_RD), dtype=torch.float32, device=hidden_RD.device)
        slope_RD = torch.empty_like(hidden_RD)
        for start in range(0, len(hidden_RD), chunk):
            part = slice(start, start + chunk)
            chosen_R[part], slope_RD[part] = run_compiled(
                _slopes, hidden_RD[part], weight_VD.detach(), target_R[part], temperature, is_excluded_V
            )
        ctx.save_for_backward(slope_RD)
        return chosen_R

    @staticmethod
    def backward(ctx: Any, *gradients: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        (slope_RD,) = ctx.saved_tensors
        return (slope_RD * gradients[0][:, None]).to(slope_RD.dtype), None, None, None, None, None


def _scaled(logits_RV: torch.Tensor, temperature: float, is_excluded_V: torch.Tensor) -> torch.Tensor:
    return logits_RV.float().div_(temperature).masked_fill_(is_excluded_V, -torch.inf)


def _logprobs(
    logits_RV: torch.Tensor, target_R: torch.Tensor, temperature: float, is_excluded_V: torch.Tensor
) -> torch.Tensor:
    return -cross_entropy(_scaled(logits_RV, temperature, is_excluded_V), target_R, reduction="none")


def _slopes(
    hidden_RD: torch.Tensor,
    weight_VD: torch.Tensor,
    target_R: torch.Tensor,
    temperature: float,
    is_excluded_V: torch.Tensor,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Log-probabilities of the chosen, float32 [R], and their slopes by the hidden states [R, D].

    Nothing between the two products scatters, so that compiled it reads the logits twice and writes their slopes.
    """
    hidden_RD = hidden_RD.to(weight_VD.dtype)
    logprobs_RV = _scaled(linear(hidden_RD, weight_VD), temperature, is_excluded_V).log_softmax(-1)
    chosen_R = logprobs_RV.gather(-1, target_R[:, None])[:, 0]
    is_chosen_RV = torch.arange(len(weight_VD), device=target_R.device) == target_R[:, None]
    slope_RV = logprobs_RV.exp_().neg_().add_(is_chosen_RV).div_(temperature)
    return chosen_R, slope_RV.to(weight_VD.dtype) @ weight_VD
