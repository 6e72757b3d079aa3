"""What a rank of the learner keeps at the passes that the plan takes for the largest, and at passes of many lengths.

    python benchmarks/gpu_memory.py --model DIR [--config qwen2.5-vl-3b] [--set KEY=VALUE ...]

"Used" is what PyTorch's allocator counts at most, "kept" what it holds of the GPU for that; the plan's CUDA context is
left out, which neither counts. Seconds are those of the second time, after compiling. Where there is no GPU it runs on
the null GPU, whose bytes are real and whose seconds are the host's alone:

    PYTHONPATH=.venv/cuda:. .venv/bin/python tests/gpu/null/launch.py benchmarks/gpu_memory.py --model DIR
"""

import argparse
import io
import socket
import time
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch._C._distributed_c10d import HashStore
from torch._dynamo.utils import counters

from actors.learner import LearnerSpec, RankPass
from actors.learner_rank import LearnerWorker
from fxray.capacity.memory import CONTEXT_BYTES, largest_passes, plan_memory
from fxray.config.load import load_config
from fxray.config.model_shape import ModelShape, read_shape
from fxray.config.tree import Config
from fxray.data.frame import Frame
from fxray.grammar.prompts import TEMPLATES
from fxray.grpo.types import ImageRef, PromptGroup, Rollout, RolloutGroup, TrainingGroup, UpdateSettings
from fxray.model import ranks
from fxray.model.folder import resolve_model_path
from fxray.model.images import count_image_tokens, load_image_processor, preprocess
from fxray.model.prompts import encode_prompt, load_tokenizer, render_prompt
from fxray.schema import Annotation, Verdict

GIB = 2**30
NULL = "(null)"
"""In the name of the GPU that does nothing."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", required=True, help="folder of a base model, as `fxray model random` writes it")
    parser.add_argument("--config", default="qwen2.5-vl-3b")
    parser.add_argument("--set", nargs="*", default=[], metavar="KEY=VALUE", help="changes of the configuration")
    args = parser.parse_args()
    if not torch.cuda.is_available():
        parser.error("there is no GPU; the last line of --help runs it on one that does nothing")
    model = resolve_model_path(args.model)
    config = configured(args.config, model, *args.set)
    if config.learner.num_ranks > 1 and NULL not in torch.cuda.get_device_name():
        parser.error("learner.num_ranks: one rank of several runs on the null GPU alone, which pretends the others")
    rank = Rank(config, model)
    rank.start()
    changes = " ".join([args.config, *args.set])
    print(f"{torch.cuda.get_device_name()}, torch {torch.__version__}; {args.model}, {changes}\n")
    print(f"{'':44}{'used, GiB':>11}{'kept, GiB':>11}{'s':>9}")
    for size in largest_passes(config):
        groups = [[size.answer_tokens] * size.num_answers] * size.num_groups
        name = f"groups {size.num_groups}, answers {size.num_answers} of {size.answer_tokens}, patches {size.patches}"
        for _ in range(2):
            torch.cuda.reset_peak_memory_stats()
            took_s = timed(rank, [groups])
        print(f"{name:44}{used():11.2f}{kept():11.2f}{took_s:9.2f}", flush=True)
    forms = counters["stats"]["unique_graphs"]
    took_s = timed(rank, rank.mixed(num_passes=8))
    print(f"{'8 passes of mixed lengths':44}{used():11.2f}{kept():11.2f}{took_s:9.2f}")
    print(f"\ncompiled forms {forms}, {counters['stats']['unique_graphs'] - forms} more for mixed lengths")
    print(f"the plan {planned_bytes(config) / GIB:.2f} GiB")


def configured(name: str, model: Path, *overrides: str) -> Config:
    """A shipped configuration on a model; its data are never read."""
    data = [f"data.{split}=unread.parquet" for split in ("train", "validation", "test")]
    return load_config(name, [f"model.path={model}", *data, *overrides])


def planned_bytes(config: Config, role: str = "learner rank") -> int:
    """What the plan gives a process, without the CUDA context."""
    shape = read_shape(config.model.path)
    assert isinstance(shape, ModelShape), shape
    (rank,) = (each for each in plan_memory(config, shape, 80 * GIB).roles if each.name == role)
    return rank.num_bytes - CONTEXT_BYTES


def used() -> float:
    return torch.cuda.max_memory_allocated() / GIB


def kept() -> float:
    return torch.cuda.max_memory_reserved() / GIB


def timed(rank: "Rank", passes: list[list[list[int]]]) -> float:
    start_s = time.perf_counter()
    rank.learn(*passes)
    torch.cuda.synchronize()
    return time.perf_counter() - start_s


class Rank:
    """A rank of one, and groups for it whose images are as large as they may be."""

    def __init__(self, config: Config, model: Path) -> None:
        learner, settings = config.learner, config.model
        self.config, side_px = config, int(settings.max_pixels**0.5)
        image, encoded = Image.new("RGB", (side_px, side_px)), io.BytesIO()
        image.save(encoded, "PNG")
        self.image = encoded.getvalue()
        processor = load_image_processor(model, min_pixels=settings.min_pixels, max_pixels=settings.max_pixels)
        tokenizer = load_tokenizer(model)
        (num_tokens,) = count_image_tokens(preprocess(processor, [image])[1], 2)
        self.prompt = encode_prompt(tokenizer, render_prompt(tokenizer, TEMPLATES[0]), num_tokens)
        self.worker = LearnerWorker(
            LearnerSpec(
                model_path=str(model),
                dtype=settings.dtype,
                min_pixels=settings.min_pixels,
                max_pixels=settings.max_pixels,
                lora_rank=settings.lora_rank,
                lora_alpha=32.0,
                initial_policy=None,
                seed=0,
                weight_decay=0.0,
                max_grad_norm=1.0,
                zero_stage=learner.zero_stage,
                max_tokens_per_micro_batch=learner.max_tokens_per_micro_batch,
                max_groups_per_micro_batch=learner.max_groups_per_micro_batch,
                gradient_checkpointing=settings.gradient_checkpointing,
                threads=2,
                yields_memory=False,
                memory_remedy="",
            ),
            0,
            learner.num_ranks,
        )

    def start(self) -> None:
        if self.config.learner.num_ranks > 1:  # nobody answers, and no exchange does anything
            ranks.TCPStore = lambda *_, **__: HashStore()  # type: ignore[attr-defined, assignment]
        with socket.create_server(("127.0.0.1", 0)) as unused:
            self.worker.start("127.0.0.1", unused.getsockname()[1], 60.0)
        if NULL in torch.cuda.get_device_name():  # where gradients are no numbers, which a step refuses
            self.worker._engine.step = lambda *_: 0.0  # type: ignore[method-assign]

    def learn(self, *passes: list[list[int]]) -> None:
        """An update of passes of groups of answers, each so many tokens long."""
        settings = UpdateSettings(
            learning_rate=1e-5,
            temperature=1.0,
            clip_low=0.2,
            clip_high=0.2,
            kl_beta=0.04,
            loss_aggregation="answer",
            importance_cap=2.0,
            num_updates=1,
            max_new_tokens=self.config.grpo.max_new_tokens,
        )
        of_rank = [RankPass(tuple(self._group(each) for each in groups), is_filler=False) for groups in passes]
        self.worker.update(of_rank, settings, sum(map(len, passes)))

    def mixed(self, num_passes: int, seed: int = 0) -> list[list[list[int]]]:
        """Passes of two groups whose answers have lengths as a model's have."""
        shape = (num_passes, 2, self.config.grpo.group_size)
        lengths: list[list[list[int]]] = (
            np.random.default_rng(seed).lognormal(5.5, 0.6, shape).clip(16, 680).astype(int).tolist()
        )
        return lengths

    def _group(self, lengths: list[int]) -> TrainingGroup:
        drawn = [np.full(each, 40, np.int32) for each in lengths]
        rollouts = tuple(Rollout(ids, np.full(len(ids), -5, np.float32), "", is_finished=True) for ids in drawn)
        prompt = PromptGroup(
            group_id="alpha/0/0",
            sample_id="sample",
            image=ImageRef(self.image, len(self.image)),
            prompt="",
            annotation=Annotation(Verdict.REAL),
            frame=Frame(1, 1, 1, 1),
            seed=0,
        )
        group = RolloutGroup(prompt, np.array(self.prompt, np.int32), rollouts, 0)
        return TrainingGroup(group, np.linspace(-1, 1, len(lengths), dtype=np.float32), np.ones(len(lengths), bool))


if __name__ == "__main__":
    main()
