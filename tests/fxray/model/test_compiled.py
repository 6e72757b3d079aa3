"""What is compiled for a GPU is compiled once for any number of tokens; the compiler's tracing needs no GPU."""

from functools import partial

import pytest
import torch
from torch._dynamo.utils import counters

from fxray.model.compiled import call_compiled
from fxray.model.fused import gated_product
from fxray.model.head import _logprobs, _slopes
from fxray.model.layers import Norm, Projection, after_attention, before_attention

trace = partial(call_compiled, backend="aot_eager")
D, INNER, H, E, R, V = 16, 24, 2, 8, 4, 32


"""Widths: of tokens, of the gate, heads and theirs, rank of adapters, vocabulary."""


def adapted(num_in: int, num_out: int) -> Projection:
    a_RI, b_OR = (torch.nn.Parameter(torch.randn(*each)) for each in ((R, num_in), (num_out, R)))
    return Projection(torch.randn(num_out, num_in), torch.randn(num_out), a_RI, b_OR, 2.0)


def norm(width: int) -> Norm:
    return Norm(torch.ones(width), None, 1e-6)


def leaf(*shape: int) -> torch.Tensor:
    return torch.randn(*shape, requires_grad=True)


THREE, ALL = [adapted(D, H * E) for _ in range(3)], [adapted(D, 3 * H * E)]
GATED, TWO = [adapted(D, INNER), adapted(D, INNER), adapted(INNER, D)], [adapted(D, INNER), adapted(INNER, D)]
OUT, HEAD, EXCLUDED = adapted(H * E, D), torch.randn(V, D), torch.arange(V) < 2
BEFORE, AFTER, OF_HEADS = norm(D), norm(D), [norm(E), norm(E)]

CALLS = {
    "language model before attention": lambda t: (
        before_attention, leaf(t, D), BEFORE, THREE, OF_HEADS, torch.randn(t, E), torch.randn(t, E)
    ),
    "vision tower before attention": lambda t: (
        before_attention, leaf(t, D), BEFORE, ALL, (), torch.randn(t, E), torch.randn(t, E)
    ),
    "gated after attention": lambda t: (after_attention, leaf(t, D), leaf(t, H, E), OUT, AFTER, GATED),
    "not gated after attention": lambda t: (after_attention, leaf(t, D), leaf(t, H, E), OUT, AFTER, TWO),
    "gate": lambda t: (gated_product, leaf(t, INNER), leaf(t, INNER)),
    "logits": lambda t: (_logprobs, leaf(t, V).bfloat16(), torch.randint(V, (t,)), 0.7, EXCLUDED),
    "slopes": lambda t: (_slopes, torch.randn(t, D), HEAD, torch.randint(V, (t,)), 0.7, EXCLUDED),
}  # fmt: skip


def outcome(call, function, x, *args):
    """What it gives, and the gradient of its first argument."""
    x.grad = None
    found = call(function, x, *args)
    found = found if isinstance(found, tuple) else (found,)
    if x.requires_grad:
        sum(each.float().square().sum() for each in found).backward()
    return [*(each.detach() for each in found), x if x.grad is None else x.grad]


@pytest.mark.parametrize("name", CALLS)
def test_one_form_serves_any_number_of_tokens(name: str) -> None:
    torch.manual_seed(0)
    counters.clear()
    for num_tokens in (11, 23, 14, 40, 5):
        call = CALLS[name](num_tokens)
        expected = outcome(lambda function, *args: function(*args), *call)
        for got, as_written in zip(outcome(trace, *call), expected, strict=True):
            assert len(got) == num_tokens
            torch.testing.assert_close(got, as_written)
    assert counters["stats"]["unique_graphs"] == 1
