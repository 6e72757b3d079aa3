"""What the learner's compiled functions read and write, counted by PyTorch's compiler; no GPU is needed.

    python benchmarks/compiled_bytes.py [--like MODEL] [--tokens 64]

Weights are left out. The floor of a function is its inputs, outputs and their gradients, read or written once each;
what its products take and give comes on top. On a GPU, where all but products is bound by memory, bytes are time. Its
kernels are cut otherwise than those of a CPU; the null GPU counts them (tests/gpu/null/launch.py, with more tokens).
"""

import argparse
import logging
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch._inductor import metrics

from fxray.config.model_shape import ModelShape, read_shape
from fxray.model.head import _slopes as slopes
from fxray.model.layers import Norm, Projection, after_attention, before_attention, rotate

RANK = 8
NUMBER = 2  # bytes of bfloat16


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--like", default="Qwen/Qwen2.5-VL-3B-Instruct", help="a model whose shape is known")
    parser.add_argument("--tokens", type=int, default=64)
    args = parser.parse_args()
    shape = read_shape(args.like)
    assert isinstance(shape, ModelShape), shape
    torch._dynamo.config.specialize_float = True
    if torch.cuda.is_available():
        torch.set_default_device("cuda")
    place = f"torch {torch.__version__}, {torch.get_default_device().type}"
    print(f"{args.like}, {args.tokens} tokens, {place}; KiB a token, there and back, without weights\n")
    print(f"{'':20}{'counted':>10}{'floor':>10}")
    counts = logging.getLogger("torch._inductor.compile_fx.__inductor_metrics")
    counts.setLevel(logging.INFO)  # PyTorch counts only where it may log it
    counts.propagate = False
    for name, function, arguments, weights, floor in functions(shape, args.tokens):
        told = count(function, arguments) - 2 * weights
        print(f"{name:20}{told / args.tokens / 2**10:10.1f}{floor / args.tokens / 2**10:10.1f}", flush=True)
    with torch.no_grad():
        told_by_logit(shape.hidden_size)


def functions(shape: ModelShape, tokens: int) -> Iterator[tuple[str, Callable[..., Any], tuple[Any, ...], int, int]]:
    """Name, function, arguments, bytes of its weights, and bytes of what goes in and out."""
    width, inner, head = shape.hidden_size, shape.intermediate_size, shape.head_size
    of_queries, of_keys = shape.num_attention_heads * head, shape.key_size
    turns = (torch.randn(tokens, head), torch.randn(tokens, head))
    norm = Norm(torch.ones(width, dtype=torch.bfloat16), None, 1e-6)
    ins = [projection(width, each) for each in (of_queries, of_keys, of_keys)]
    out, mlp = (
        projection(of_queries, width),
        [projection(*each) for each in ((width, inner), (width, inner), (inner, width))],
    )
    heads, hidden = leaf(tokens, shape.num_attention_heads, head), leaf(tokens, width)
    yield "rotate queries", rotate, (heads, *turns), 0, 4 * tokens * of_queries * NUMBER
    before = (hidden, norm, ins, (), *turns)
    yield (
        "before attention",
        before_attention,
        before,
        size(ins),
        2 * tokens * (width + of_queries + 2 * of_keys) * NUMBER,
    )
    after = (hidden, heads, out, norm, mlp)
    yield "after attention", after_attention, after, size([out, *mlp]), 2 * tokens * (2 * width + of_queries) * NUMBER


def told_by_logit(width: int, tokens: int = 32, vocabulary: int = 2**15) -> None:
    """The head's bytes, of which those by logit count: its vocabulary is large."""
    metrics.reset()
    target = torch.randint(vocabulary, (tokens,))
    weight = torch.randn(vocabulary, width).bfloat16()
    hidden = torch.randn(tokens, width).bfloat16()
    torch.compile(slopes)(hidden, weight, target, 0.8, torch.zeros(vocabulary, dtype=torch.bool))
    logits = tokens * vocabulary
    print(
        f"\nlogits to slopes: {(metrics.num_bytes_accessed - 2 * weight.numel() * NUMBER) / logits:.1f} bytes a logit"
    )


def leaf(*shape: int) -> torch.Tensor:
    return torch.randn(*shape).bfloat16().requires_grad_()


def projection(num_in: int, num_out: int) -> Projection:
    a_RI, b_OR = (torch.nn.Parameter(torch.randn(*each)) for each in ((RANK, num_in), (num_out, RANK)))
    return Projection(torch.randn(num_out, num_in).bfloat16(), None, a_RI, b_OR, 4.0)


def size(projections: list[Projection]) -> int:
    return sum(each.weight_OI.numel() * NUMBER for each in projections)


def count(function: Callable[..., Any], arguments: tuple[Any, ...]) -> int:
    """Bytes that a function's compiled forward and backward pass read and write together."""
    torch._dynamo.reset()
    metrics.reset()
    results = torch.compile(function)(*arguments)
    sum(each.float().sum() for each in (results if isinstance(results, tuple) else (results,))).backward()
    return metrics.num_bytes_accessed


if __name__ == "__main__":
    main()
