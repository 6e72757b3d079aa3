"""The clipped objective with a KL term, as a weighted sum over the tokens of all answers.

Legend: B groups, A answers, T answer tokens of a pass, one after the other. A masked answer is in none of them.

A step's loss is the mean over groups; `token_weights` fixes what a token counts in it, so the sum over any division
of the tokens into passes and ranks is the same loss and has the same gradients.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch


def token_weights(
    answer_lengths: Sequence[int], *, num_groups: int, aggregation: str, max_new_tokens: int
) -> list[float]:
    """What one token of each answer of a group counts in the loss of the step.

    Args:
        answer_lengths: Tokens of the group's valid answers, all positive; at least one answer.
        num_groups: Groups of the step that have a valid answer.
        aggregation: "answer": mean over an answer, then over answers (GRPO; DeepSeekMath, equation 3). "token": mean
            over the tokens of the group (DAPO, equation 8). "constant": sum over an answer divided by
            `max_new_tokens`, then mean over answers (Dr. GRPO).
        max_new_tokens: Longest answer that could be drawn.

    Returns:
        The weight of a token of each answer.

    Raises:
        ValueError: Another aggregation.
    """
    num_answers = len(answer_lengths)
    match aggregation:
        case "answer":
            return [1 / (num_groups * num_answers * length) for length in answer_lengths]
        case "token":
            return [1 / (num_groups * sum(answer_lengths))] * num_answers
        case "constant":
            return [1 / (num_groups * num_answers * max_new_tokens)] * num_answers
    raise ValueError(f"aggregation is {aggregation!r}, expected 'answer', 'token' or 'constant'")


@dataclass(frozen=True, slots=True)
class LossTerms:
    """The loss of a pass, and sums over its tokens that become metrics when all passes are added up.

    Attributes:
        loss: Scalar with gradient.
        sums: "kl", "clipped", "importance", "surprisal": float32 sums over tokens.
        ratio_max: Largest ratio of the present to the old policy.
    """

    loss: torch.Tensor
    sums: dict[str, torch.Tensor]
    ratio_max: torch.Tensor


def grpo_loss(
    logprobs_T: torch.Tensor,
    *,
    old_logprobs_T: torch.Tensor,
    sampler_logprobs_T: torch.Tensor,
    reference_logprobs_T: torch.Tensor | None,
    advantages_T: torch.Tensor,
    weights_T: torch.Tensor,
    clip_low: float,
    clip_high: float,
    kl_beta: float,
    importance_cap: float,
) -> LossTerms:
    """Sum over tokens of weight x (-importance x min(ratio A, clip(ratio) A) + beta KL).

    The KL term is the k3 estimate exp(d) - d - 1 with d = reference - present (DeepSeekMath, equation 4). It does not
    carry the importance weight, as in TRL.

    Args:
        logprobs_T: float32 [T], of the sampled tokens under the present policy, with gradient.
        old_logprobs_T: float32 [T], under the learner's policy before the first update on this batch.
        sampler_logprobs_T: float32 [T], as the sampler reported them.
        reference_logprobs_T: float32 [T], under the reference; None where beta is 0.
        advantages_T: float32 [T], of the token's answer.
        weights_T: float32 [T], as `token_weights` gives them.
        clip_low: The ratio is clipped to [1 - clip_low, 1 + clip_high].
        clip_high: See clip_low.
        kl_beta: Weight of the KL term.
        importance_cap: The weight min(exp(old - sampler), cap) corrects for a sampler that differs from the learner;
            0 switches it off.
    """
    ratio_T = torch.exp(logprobs_T - old_logprobs_T)
    clipped_T = ratio_T.clamp(1 - clip_low, 1 + clip_high)
    surrogate_T = torch.minimum(ratio_T * advantages_T, clipped_T * advantages_T)
    importance_T = torch.ones_like(old_logprobs_T)
    if importance_cap > 0:
        importance_T = torch.exp(old_logprobs_T - sampler_logprobs_T).clamp(max=importance_cap)
    token_loss_T = -importance_T * surrogate_T
    kl_T = torch.zeros_like(old_logprobs_T)
    if reference_logprobs_T is not None:
        difference_T = reference_logprobs_T - logprobs_T
        kl_T = torch.exp(difference_T) - difference_T - 1
        token_loss_T = token_loss_T + kl_beta * kl_T
    with torch.no_grad():
        too_high_T = (ratio_T > 1 + clip_high) & (advantages_T > 0)
        too_low_T = (ratio_T < 1 - clip_low) & (advantages_T < 0)
        sums = {
            "kl": kl_T.sum(),
            "clipped": (too_high_T | too_low_T).float().sum(),
            "importance": importance_T.sum(),
            "surprisal": -logprobs_T.sum(),
        }
        ratio_max = ratio_T.max()
    return LossTerms((token_loss_T * weights_T).sum(), sums, ratio_max)
