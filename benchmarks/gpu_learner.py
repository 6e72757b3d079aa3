"""The learner's passes alone: packed groups beside the plain form, speed, share of the GPU's arithmetic, memory.

    python benchmarks/gpu_learner.py --model DIR [--px 504] [--answers 8] [--answer-tokens 256] [--groups 4]

"Useful" counts each prompt once per group, however often a form computes it, and no recomputation; MFU is useful
arithmetic of forward and backward pass over what the data sheet promises. As in an update, passes follow each other
while a thread packs the next ones. In "mixed lengths" answers have half to one and a half times the tokens, and passes
.8 to 1.2 times, so that none is like another. Without a GPU it runs on the CPU.
"""

import argparse
import statistics
import time
from collections.abc import Callable
from dataclasses import replace

import numpy as np
import torch
from PIL import Image

from fxray.ahead import read_ahead
from fxray.capacity.activations import Pass, count_activations
from fxray.capacity.devices import GPUS
from fxray.capacity.duration import forward_flops
from fxray.config.model_shape import ModelShape, read_shape
from fxray.errors import FxrayError
from fxray.grammar.prompts import TEMPLATES
from fxray.model.adapter import attach_adapter
from fxray.model.batch import PackedRow, pack
from fxray.model.folder import resolve_model_path
from fxray.model.footprint import footprint
from fxray.model.head import LOGITS_BUDGET
from fxray.model.images import count_image_tokens, load_image_processor, preprocess
from fxray.model.load import load_model
from fxray.model.packed import PackedPolicy
from fxray.model.prompts import encode_prompt, load_tokenizer, render_prompt


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="tiny", help="folder of a Qwen2.5-VL")
    parser.add_argument("--px", type=int, default=504)
    parser.add_argument("--groups", type=int, default=4)
    parser.add_argument("--answers", type=int, default=8)
    parser.add_argument("--answer-tokens", type=int, default=256)
    parser.add_argument("--passes", type=int, default=4, help="of an update")
    parser.add_argument("--repeats", type=int, default=5, help="updates that are timed")
    args = parser.parse_args()
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    name = torch.cuda.get_device_name() if device.type == "cuda" else "CPU"
    known = [gpu.flops for key, gpu in GPUS.items() if key.upper() in name and "null" not in name]
    flops = known[0] if known else float("nan")
    print(
        f"{name}, torch {torch.__version__}; {args.model}: {args.groups} groups of {args.answers} answers of "
        f"{args.answer_tokens} tokens, images of {args.px} px; of a pass, medians of {args.repeats} updates of "
        f"{args.passes} passes after one to warm up\n"
    )
    print(f"{'':28}{'s':>8}{'useful tokens/s':>17}{'MFU':>7}{'peak GiB':>10}{'the plan':>10}")
    seconds = {}
    for is_checkpointed in (False, True):
        policy = load(args.model, device, is_checkpointed=is_checkpointed)
        rows = make_rows(args)
        size = Pass(
            len(rows[0].prompt_token_ids), len(rows[0].pixel_values), args.answer_tokens, args.answers, args.groups
        )
        alone = [
            PackedRow(r.sample_id, r.prompt_token_ids, (a,), r.pixel_values, r.grid_thw)
            for r in rows
            for a in r.answers
        ]
        mixed = [resized(rows, each) for each in np.linspace(0.8, 1.2, args.passes)]
        for form, passes in (
            ("packed", [rows] * args.passes),
            ("mixed lengths", mixed),
            ("plain", [alone] * args.passes),
        ):
            label = f"{form}{', recomputing' if is_checkpointed else ''}"
            try:
                took_s, peak = measure(policy, passes, args.repeats)
            except torch.OutOfMemoryError:
                print(f"{label:28}  out of memory")
                continue
            seconds[label] = took_s
            useful = 2 * forward_flops(shape_of(args.model), size)
            planned = plan(args.model, size, policy, is_checkpointed) if form == "packed" else float("nan")
            print(
                f"{label:28}{took_s:8.3f}{size.tokens / took_s:17,.0f}{useful / took_s / flops:7.1%}"
                f"{peak / 2**30:10.2f}{planned / 2**30:10.2f}",
                flush=True,
            )
        del policy
    for suffix in ("", ", recomputing"):
        if {"packed" + suffix, "plain" + suffix} <= seconds.keys():
            ratio = seconds["plain" + suffix] / seconds["packed" + suffix]
            print(f"\npacked{suffix}: {ratio:.1f} times as fast as the plain form")


def load(model: str, device: torch.device, *, is_checkpointed: bool) -> PackedPolicy:
    base = load_model(resolve_model_path(model), dtype="bfloat16" if device.type == "cuda" else "float32").to(device)
    if is_checkpointed:
        base.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
    return PackedPolicy(attach_adapter(base, rank=8, alpha=32, dropout=0.0, seed=0).to(device).train()).to(device)


def make_rows(args: argparse.Namespace) -> list[PackedRow]:
    path, rng = resolve_model_path(args.model), np.random.default_rng(0)
    processor = load_image_processor(path, min_pixels=56 * 56, max_pixels=args.px**2)
    tokenizer = load_tokenizer(path)
    rows = []
    for group in range(args.groups):
        noise = Image.fromarray(rng.integers(0, 255, (args.px, args.px, 3), dtype=np.uint8))
        pixel_values, grid_thw = preprocess(processor, [noise])
        prompt = render_prompt(tokenizer, TEMPLATES[0])
        ids = np.array(encode_prompt(tokenizer, prompt, count_image_tokens(grid_thw, 2)[0]), np.int32)
        answers = tuple(rng.integers(20, 500, args.answer_tokens).astype(np.int32) for _ in range(args.answers))
        rows.append(PackedRow(f"noise-{group}", ids, answers, pixel_values, grid_thw[0]))
    return rows


def resized(rows: list[PackedRow], factor: float) -> list[PackedRow]:
    """The same groups with answers of other lengths: half to one and a half times as long, and that by a factor."""
    found = []
    for row in rows:
        sizes = np.linspace(0.5, 1.5, len(row.answers)) * factor * len(row.answers[0])
        answers = tuple(np.resize(a, max(1, round(size))) for a, size in zip(row.answers, sizes, strict=True))
        found.append(replace(row, answers=answers))
    return found


def measure(policy: PackedPolicy, passes: list[list[PackedRow]], repeats: int) -> tuple[float, int]:
    """Median seconds of forward and backward pass, and the peak of memory beyond weights."""
    base = policy.model.get_base_model()

    def update(chosen: list[list[PackedRow]]) -> None:
        policy.zero_grad()
        for batch in read_ahead(lambda rows: pack(base, rows), chosen, deadline_s=60, late=late):
            policy(batch.to(base.device), 1.0).sum().backward()

    update(passes)
    seconds = [timed(lambda: update(passes), base.device) / len(passes) for _ in range(repeats)]
    with footprint(base.device) as memory:
        update(passes[-1:])
    return statistics.median(seconds), memory.peak_bytes


def late(rows: list[PackedRow]) -> FxrayError:
    return FxrayError(f"a pass of {len(rows)} groups was not packed within a minute")


def timed(step: Callable[[], None], device: torch.device) -> float:
    start_s = time.perf_counter()
    step()
    if device.type == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter() - start_s


def shape_of(model: str) -> ModelShape:
    shape = read_shape(str(resolve_model_path(model)))
    assert isinstance(shape, ModelShape), shape
    return shape


def plan(model: str, size: Pass, policy: PackedPolicy, is_checkpointed: bool) -> int:
    return count_activations(
        shape_of(model),
        size,
        rank=8,
        bytes_per_number=policy.model.get_base_model().dtype.itemsize,
        is_checkpointed=is_checkpointed,
        is_on_gpu=torch.cuda.is_available(),
        max_logits=LOGITS_BUDGET,
    ).peak


if __name__ == "__main__":
    main()
