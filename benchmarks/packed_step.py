"""Packed groups against the plain form, side by side: speed of a learner step, and difference in loss and gradients.

    python benchmarks/packed_step.py --model tiny

The plain form gives every answer its own copy of prompt and image, as `transformers` would be used.
"""

import argparse
import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

import numpy as np
import torch
from peft import PeftModel
from PIL import Image

from fxray.grammar.prompts import TEMPLATES
from fxray.model.adapter import POLICY, adapter_parameters, attach_adapter
from fxray.model.batch import PackedRow, pack
from fxray.model.folder import resolve_model_path
from fxray.model.images import count_image_tokens, load_image_processor, preprocess
from fxray.model.load import load_model
from fxray.model.packed import PackedPolicy
from fxray.model.prompts import encode_prompt, load_tokenizer, render_prompt

SHORTEST, LONGEST = 25, 45


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="tiny", help="folder or name of the base model")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--group-size", type=int, default=8)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    path = resolve_model_path(args.model)
    policy = PackedPolicy(attach_adapter(load_model(path, dtype="float32"), rank=8, alpha=32, dropout=0.0, seed=0))
    stir(policy.model)
    for side_px, num_groups in ((448, 1), (112, 1), (112, 8)):
        rows = make_rows(path, side_px, num_groups, args.group_size)
        plain_s, plain = measure(policy, partial(plain_logprobs, policy.model, rows), args.repeats)
        packed_s, packed = measure(policy, partial(packed_logprobs, policy, rows), args.repeats)
        loss = abs(packed[0] - plain[0]) / abs(plain[0])
        gradient = float((packed[1] - plain[1]).norm() / plain[1].norm())
        print(
            f"{num_groups} x {args.group_size} answers at {side_px} px: plain {plain_s:.3f} s, "
            f"packed {packed_s:.3f} s, {plain_s / packed_s:.1f} x; "
            f"relative difference of loss {loss:.1e}, gradient {gradient:.1e}"
        )


def core(policy: PackedPolicy) -> torch.nn.Module:
    return policy.model.get_base_model()


def stir(model: PeftModel) -> None:
    """A fresh adapter's second half is zero, and so are the gradients of its first; give it random values."""
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for name, parameter in adapter_parameters(model, POLICY).items():
            if "lora_B" in name:
                parameter.copy_(0.02 * torch.randn(parameter.shape, generator=generator))


def make_rows(path: Path, side_px: int, num_groups: int, group_size: int) -> list[PackedRow]:
    """Groups of noise images and random answers of 25 to 45 tokens."""
    rng = np.random.default_rng(0)
    processor = load_image_processor(path, min_pixels=56 * 56, max_pixels=side_px**2)
    tokenizer = load_tokenizer(path)
    rows = []
    for group in range(num_groups):
        noise = rng.integers(0, 255, (side_px, side_px, 3), dtype=np.uint8)
        pixel_values, grid_thw = preprocess(processor, [Image.fromarray(noise)])
        prompt = render_prompt(tokenizer, TEMPLATES[group % len(TEMPLATES)])
        ids = encode_prompt(tokenizer, prompt, count_image_tokens(grid_thw, 2)[0])
        lengths = rng.integers(SHORTEST, LONGEST + 1, group_size)
        answers = tuple(rng.integers(20, 500, length).astype(np.int32) for length in lengths)
        rows.append(PackedRow(f"noise-{group}", np.array(ids, np.int32), answers, pixel_values, grid_thw[0]))
    return rows


def plain_logprobs(model: PeftModel, rows: list[PackedRow]) -> torch.Tensor:
    """Every answer behind its own copy of prompt and image, padded to the longest."""
    base = model.get_base_model()
    pairs = [(row, answer) for row in rows for answer in row.answers]
    longest = max(len(row.prompt_token_ids) + len(answer) for row, answer in pairs)
    ids = torch.zeros(len(pairs), longest, dtype=torch.long)
    is_real = torch.zeros_like(ids)
    for index, (row, answer) in enumerate(pairs):
        tokens = np.concatenate([row.prompt_token_ids, answer])
        ids[index, : len(tokens)] = torch.from_numpy(tokens.astype(np.int64))
        is_real[index, : len(tokens)] = 1
    logits = base(
        input_ids=ids,
        attention_mask=is_real,
        pixel_values=torch.cat([row.pixel_values for row, _ in pairs]),
        image_grid_thw=torch.stack([row.grid_thw for row, _ in pairs]),
        mm_token_type_ids=(ids == base.config.image_token_id).int(),
    ).logits
    logprobs = torch.log_softmax(logits.float(), -1)
    chosen = []
    for index, (row, answer) in enumerate(pairs):
        first = len(row.prompt_token_ids) - 1
        at = logprobs[index, first : first + len(answer)]
        chosen.append(at.gather(-1, torch.from_numpy(answer.astype(np.int64))[:, None])[:, 0])
    return torch.cat(chosen)


def packed_logprobs(policy: PackedPolicy, rows: Sequence[PackedRow]) -> torch.Tensor:
    return policy(pack(core(policy), rows), 1.0)


def measure(
    policy: PackedPolicy, logprobs: Callable[[], torch.Tensor], repeats: int
) -> tuple[float, tuple[float, torch.Tensor]]:
    """Fewest seconds of forward and backward (the machine may have other work), and the loss and gradient."""
    parameters = list(adapter_parameters(policy.model, POLICY).values())
    seconds = []
    for _ in range(repeats + 1):
        policy.zero_grad()
        start = time.perf_counter()
        values = logprobs()
        loss = (values * torch.linspace(-1, 1, values.numel())).sum()
        loss.backward()
        seconds.append(time.perf_counter() - start)
    gradient = torch.cat([parameter.grad.flatten() for parameter in parameters if parameter.grad is not None])
    return min(seconds[1:]), (loss.item(), gradient)


if __name__ == "__main__":
    main()
