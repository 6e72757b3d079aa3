import math

import pytest
import torch

from fxray.grpo.loss import grpo_loss, token_weights

NUMBERS = {"clip_low": 0.2, "clip_high": 0.3, "kl_beta": 0.0, "importance_cap": 0.0}


def loss_of(ratios, advantages, *, weights=None, sampler=None, reference=None, **numbers):
    """Loss terms of tokens given by their ratio to an old probability of 1/2."""
    old = torch.full((len(ratios),), math.log(0.5))
    logprobs = (old + torch.tensor(ratios).log()).requires_grad_()
    terms = grpo_loss(
        logprobs,
        old_logprobs_T=old,
        sampler_logprobs_T=old if sampler is None else torch.tensor(sampler).log(),
        reference_logprobs_T=None if reference is None else torch.tensor(reference).log(),
        advantages_T=torch.tensor(advantages),
        weights_T=torch.ones(len(ratios)) if weights is None else torch.tensor(weights),
        **(NUMBERS | numbers),
    )
    terms.loss.backward()
    return terms, logprobs.grad


def test_token_weights_by_hand():
    lengths = [2, 8]
    assert token_weights(lengths, num_groups=5, aggregation="answer", max_new_tokens=16) == [1 / 20, 1 / 80]
    assert token_weights(lengths, num_groups=5, aggregation="token", max_new_tokens=16) == [1 / 50, 1 / 50]
    assert token_weights(lengths, num_groups=5, aggregation="constant", max_new_tokens=16) == [1 / 160, 1 / 160]
    with pytest.raises(ValueError, match="'mean'"):
        token_weights(lengths, num_groups=5, aggregation="mean", max_new_tokens=16)


@pytest.mark.parametrize(
    ("ratio", "advantage", "loss", "gradient", "is_clipped"),
    [
        (1.0, 2.0, -2.0, -2.0, 0),
        (1.1, 2.0, -2.2, -2.2, 0),
        (1.5, 2.0, -2.6, 0.0, 1),  # good and already 30 % likelier: no further
        (1.5, -2.0, 3.0, 3.0, 0),  # bad and likelier: full gradient back
        (0.5, -2.0, 1.6, 0.0, 1),  # bad and already 20 % less likely: no further
        (0.5, 2.0, -1.0, -1.0, 0),
        (0.9, -2.0, 1.8, 1.8, 0),  # inside the clip on either side
        (1.1, -2.0, 2.2, 2.2, 0),
        (1.5, 0.0, 0.0, 0.0, 0),  # neither good nor bad: nothing is held back
        (0.5, 0.0, 0.0, 0.0, 0),
        (1.5, 0.5, -0.65, 0.0, 1),
        (0.5, -0.5, 0.4, 0.0, 1),
    ],
)
def test_the_clip_is_one_sided_and_asymmetric(ratio, advantage, loss, gradient, is_clipped):
    terms, grad = loss_of([ratio], [advantage])
    assert terms.loss.item() == pytest.approx(loss, rel=1e-6)
    assert grad.item() == pytest.approx(gradient, rel=1e-6)
    assert terms.sums["clipped"] == is_clipped
    assert terms.ratio_max.item() == pytest.approx(ratio, rel=1e-6)


def test_the_kl_term_is_k3():
    # Present 1/2, reference 1/4: d = ln 1/2, exp(d) - d - 1 = 1/2 + ln 2 - 1; its derivative is 1 - exp(d) = 1/2.
    terms, grad = loss_of([1.0], [0.0], reference=[0.25], kl_beta=0.1)
    assert terms.loss.item() == pytest.approx(0.1 * (math.log(2) - 0.5), rel=1e-5)
    assert grad.item() == pytest.approx(0.1 * 0.5, rel=1e-5)
    assert terms.sums["kl"].item() == pytest.approx(math.log(2) - 0.5, rel=1e-5)


def test_importance_weights_are_truncated_and_spare_the_kl_term():
    # Old 1/2; sampler 0.4 gives weight 1.25, sampler 0.1 gives 5, truncated to 2.
    terms, _ = loss_of([1.0, 1.0], [1.0, 1.0], sampler=[0.4, 0.1], importance_cap=2.0)
    assert terms.loss.item() == pytest.approx(-(1.25 + 2.0), rel=1e-6)
    assert terms.sums["importance"].item() == pytest.approx(3.25, rel=1e-6)
    terms, _ = loss_of([1.0], [0.0], sampler=[0.1], reference=[0.25], kl_beta=1.0, importance_cap=2.0)
    assert terms.loss.item() == pytest.approx(math.log(2) - 0.5, rel=1e-5)


def test_an_importance_cap_may_be_one_or_less():
    # Old 1/2; sampler 0.4 gives weight 1.25, sampler 0.8 gives 0.625.
    for cap, expected in ((1.0, 1.0 + 0.625), (0.5, 0.5 + 0.5)):
        terms, _ = loss_of([1.0, 1.0], [1.0, 1.0], sampler=[0.4, 0.8], importance_cap=cap)
        assert terms.loss.item() == pytest.approx(-expected, rel=1e-6)


def test_what_is_recorded_of_a_pass_is_summed_over_its_tokens():
    # Present probabilities 0.75, 0.25, 0.5; the reference's 0.75, 0.25, 0.25 differ in the last alone, as above.
    terms, _ = loss_of([1.5, 0.5, 1.0], [1.0, -1.0, 1.0], reference=[0.75, 0.25, 0.25], kl_beta=0.1)
    sums = {name: value.item() for name, value in terms.sums.items()}
    assert sums == {
        "kl": pytest.approx(math.log(2) - 0.5, rel=1e-5),
        "clipped": 2.0,
        "importance": 3.0,
        "surprisal": pytest.approx(-math.log(0.75 * 0.25 * 0.5), rel=1e-6),
    }
    assert terms.ratio_max.item() == pytest.approx(1.5, rel=1e-6)
    terms, _ = loss_of([1.5, 0.5], [1.0, -1.0])
    assert terms.sums["kl"] == 0


def test_the_old_policy_carries_no_gradient_through_the_importance_weight():
    logprobs = torch.tensor([math.log(0.5)], requires_grad=True)
    terms = grpo_loss(
        logprobs,
        old_logprobs_T=logprobs.detach(),
        sampler_logprobs_T=torch.tensor([math.log(0.4)]),
        reference_logprobs_T=None,
        advantages_T=torch.tensor([3.0]),
        weights_T=torch.tensor([1.0]),
        **(NUMBERS | {"importance_cap": 2.0}),
    )
    terms.loss.backward()
    assert logprobs.grad.item() == pytest.approx(-3.0 * 1.25, rel=1e-6)


def test_a_weight_of_zero_removes_a_token():
    full, _ = loss_of([1.1, 0.7], [1.0, -1.0], weights=[0.5, 0.0])
    alone, _ = loss_of([1.1], [1.0], weights=[0.5])
    assert full.loss.item() == alone.loss.item()


def test_the_loss_does_not_depend_on_how_tokens_are_divided():
    ratios, advantages, weights = [0.6, 0.9, 1.0, 1.2, 1.4], [1.0, -1.0, 0.5, -0.5, 2.0], [0.1, 0.2, 0.3, 0.4, 0.5]
    reference, numbers = [0.3, 0.4, 0.5, 0.6, 0.7], {"kl_beta": 0.04, "importance_cap": 2.0}
    whole, whole_grad = loss_of(ratios, advantages, weights=weights, reference=reference, **numbers)
    parts = [
        loss_of(ratios[s], advantages[s], weights=weights[s], reference=reference[s], **numbers)
        for s in (slice(0, 2), slice(2, 5))
    ]
    assert sum(terms.loss.item() for terms, _ in parts) == pytest.approx(whole.loss.item(), rel=1e-6)
    torch.testing.assert_close(torch.cat([grad for _, grad in parts]), whole_grad, rtol=0, atol=0)
