"""Our loss against an independent implementation: TRL's own GRPO loss on the same numbers."""

from collections import defaultdict
from types import SimpleNamespace

import pytest
import torch

from fxray.grpo.loss import grpo_loss, token_weights

LENGTHS = (5, 2, 7, 3)
MAX_NEW_TOKENS = 9
TRL_NAMES = {"answer": "grpo", "token": "dapo", "constant": "dr_grpo"}


@pytest.fixture(scope="module")
def trl_loss():
    grpo_trainer = pytest.importorskip("trl.trainer.grpo_trainer", reason="trl is in the dev extra only")
    return grpo_trainer.GRPOTrainer._compute_loss


def rows(values):
    """[A, T] padded from one value per token."""
    return torch.nn.utils.rnn.pad_sequence(values.split(LENGTHS), batch_first=True)


def fake_trainer(logprobs, aggregation, numbers):
    return SimpleNamespace(
        _get_per_token_logps_and_entropies=lambda *_, **__: (rows(logprobs), torch.zeros(rows(logprobs).shape), None),
        aux_loss_enabled=False,
        top_entropy_quantile=1.0,
        off_policy_mask_threshold=None,
        importance_sampling_level="token",
        beta=numbers["kl_beta"],
        loss_type=TRL_NAMES[aggregation],
        epsilon_low=numbers["clip_low"],
        epsilon_high=numbers["clip_high"],
        args=SimpleNamespace(use_bias_correction_kl=False, delta=None, steps_per_generation=1),
        use_vllm=True,
        vllm_importance_sampling_correction=True,
        model=SimpleNamespace(training=True),
        current_gradient_accumulation_steps=1,
        max_completion_length=MAX_NEW_TOKENS,
        accelerator=SimpleNamespace(num_processes=1, gather=lambda x: x, reduce=lambda x, reduction: x),
        _entropy_bonus_enabled=False,
        _metrics={"train": defaultdict(list)},
    )


@pytest.mark.parametrize("aggregation", ["answer", "token", "constant"])
@pytest.mark.parametrize("kl_beta", [0.0, 0.04])
def test_loss_and_gradient_are_those_of_trl(trl_loss, aggregation, kl_beta):
    torch.manual_seed(0)
    num_tokens = sum(LENGTHS)
    numbers = {"clip_low": 0.2, "clip_high": 0.28, "kl_beta": kl_beta}
    old, sampler, reference = (-2 * torch.rand(num_tokens) - 0.1 for _ in range(3))
    start = old + 0.4 * torch.randn(num_tokens)
    advantages_A = torch.tensor([1.3, -0.7, 0.4, -1.0])
    per_token = torch.repeat_interleave(advantages_A, torch.tensor(LENGTHS))
    importance = torch.exp(old - sampler).clamp(max=2.0)

    theirs = start.clone().requires_grad_()
    inputs = {
        "prompt_ids": torch.zeros(4, 1, dtype=torch.long),
        "prompt_mask": torch.ones(4, 1, dtype=torch.long),
        "completion_ids": rows(torch.zeros(num_tokens, dtype=torch.long)),
        "completion_mask": rows(torch.ones(num_tokens, dtype=torch.long)),
        "advantages": advantages_A,
        "old_per_token_logps": rows(old),
        "ref_per_token_logps": rows(reference),
        "importance_sampling_ratio": rows(importance),
        "num_items_in_batch": torch.tensor(float(num_tokens)),
    }
    their_loss = trl_loss(fake_trainer(theirs, aggregation, numbers), None, inputs)
    their_loss.backward()

    ours = start.clone().requires_grad_()
    weights_A = token_weights(LENGTHS, num_groups=1, aggregation=aggregation, max_new_tokens=MAX_NEW_TOKENS)
    our_terms = grpo_loss(
        ours,
        old_logprobs_T=old,
        sampler_logprobs_T=sampler,
        reference_logprobs_T=reference if kl_beta else None,
        advantages_T=per_token,
        weights_T=torch.tensor(weights_A).repeat_interleave(torch.tensor(LENGTHS)),
        importance_cap=2.0,
        **numbers,
    )
    our_terms.loss.backward()
    assert our_terms.sums["clipped"] > 0
    torch.testing.assert_close(our_terms.loss, their_loss, rtol=1e-6, atol=1e-7)
    torch.testing.assert_close(ours.grad, theirs.grad, rtol=1e-6, atol=1e-8)
