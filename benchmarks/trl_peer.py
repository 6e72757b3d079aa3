"""TRL's side of the comparison: `GRPOTrainer` as its documentation uses it for a vision-language model with PEFT.

It generates with transformers, computes the reference by switching the adapter off, and gets the same images, prompts
and rewards. What could slow it down without need is off: gradient checkpointing, bf16 emulation, saving and reporting.
"""

import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from datasets import Dataset as Rows
from datasets import Features, Image, Value
from peft import LoraConfig
from transformers import AutoProcessor, TrainerCallback
from trl import GRPOConfig, GRPOTrainer
from turns import Turns
from workload import GROUP_SIZE, STAGE, WARMUP_STEPS, Job, questions

from fxray.config.schedule import load_stages
from fxray.config.tree import Config
from fxray.data.dataset import Dataset
from fxray.data.frame import smart_frame
from fxray.launch.plan import stage_rewards
from fxray.model.load import load_model
from fxray.model.prompts import forbidden_ids
from rewards.score import score


def main() -> None:
    turns, job = Turns(), Job.read(Path(sys.argv[1]))
    config = job.config()
    processor = AutoProcessor.from_pretrained(job.model_path, local_files_only=True)
    processor.image_processor.size = {"shortest_edge": config.model.min_pixels, "longest_edge": config.model.max_pixels}
    dataset = Dataset.open(job.data_dir / "train.parquet")
    reporter = Reporter(turns)
    lora = config.model.lora
    assert lora is not None
    trainer = GRPOTrainer(
        model=load_model(job.model_path, dtype=config.model.dtype),
        reward_funcs=reward(config, dataset, processor.tokenizer, reporter),
        args=arguments(job, config, forbidden_ids(processor.tokenizer)),
        train_dataset=rows(job, dataset),
        processing_class=processor,
        callbacks=[reporter],
        peft_config=LoraConfig(r=lora.rank, lora_alpha=lora.alpha, lora_dropout=0.0, target_modules="all-linear"),
    )
    trainer._generate = reporter.timed("generate", trainer._generate)
    trainer.train()


class Reporter(TrainerCallback):
    """Ends each step with a report; waiting and the next batch come after it."""

    def __init__(self, turns: Turns) -> None:
        self._turns = turns
        self.report: dict[str, Any] = {}

    def timed(self, part: str, function: Callable[..., Any]) -> Callable[..., Any]:
        """The function, with its seconds in the report."""

        def run(*args: Any, **kwargs: Any) -> Any:
            start_s = time.perf_counter()
            result = function(*args, **kwargs)
            self.report[part] = time.perf_counter() - start_s
            return result

        return run

    def on_step_end(self, *_args: Any, **_kwargs: Any) -> None:
        self._turns.end_step(self.report)


def arguments(job: Job, config: Config, never_sampled: list[int]) -> GRPOConfig:
    """One batch of all answers, one update."""
    grpo = config.grpo
    return GRPOConfig(
        output_dir=str(job.folder / "trl"),
        max_steps=WARMUP_STEPS + job.num_steps,
        per_device_train_batch_size=job.workload.num_answers,
        gradient_accumulation_steps=1,
        num_generations=GROUP_SIZE,
        max_completion_length=grpo.max_new_tokens,
        temperature=grpo.temperature,
        top_p=1.0,
        **_sampler(config, never_sampled),
        beta=grpo.kl_beta,
        epsilon=grpo.clip_low,
        loss_type="grpo",
        scale_rewards="group",
        learning_rate=grpo.learning_rate,
        lr_scheduler_type="constant",
        max_grad_norm=grpo.max_grad_norm,
        shuffle_dataset=False,
        use_cpu=not torch.cuda.is_available(),
        bf16=config.model.dtype == "bfloat16",
        gradient_checkpointing=config.model.gradient_checkpointing,
        dataloader_pin_memory=False,
        save_strategy="no",
        logging_strategy="no",
        report_to=[],
        disable_tqdm=True,
        seed=config.seed,
    )


def _sampler(config: Config, never_sampled: list[int]) -> dict[str, Any]:
    """On a GPU vLLM in the trainer's own process, with the part of the memory that fxray's engine gets."""
    if not torch.cuda.is_available():
        return {"use_vllm": False, "generation_kwargs": {"suppress_tokens": never_sampled}}
    return {
        "use_vllm": True,
        "vllm_mode": "colocate",
        "vllm_gpu_memory_utilization": config.rollout.gpu_memory_utilization,
        "vllm_max_model_length": config.rollout.max_model_len,
        "generation_kwargs": {"logit_bias": dict.fromkeys(never_sampled, -100.0)},
    }


def rows(job: Job, dataset: Dataset) -> Rows:
    """The questions in fxray's order, the images as they are encoded in the dataset."""
    table = [
        {
            "prompt": [
                {"role": "system", "content": template.system},
                {"role": "user", "content": template.query},
            ],
            "image": {"bytes": dataset.image_bytes(row), "path": None},
            "row": row,
        }
        for row, template in questions(job)
    ]
    message = {"role": Value("string"), "content": Value("string")}
    return Rows.from_list(table, Features({"prompt": [message], "image": Image(), "row": Value("int64")}))


def reward(config: Config, dataset: Dataset, tokenizer: Any, reporter: Reporter) -> Callable[..., list[float]]:
    """The reward that fxray gives in this stage, on the text with its special tokens, as TRL calls rewards."""
    stages = load_stages(config.grpo.schedule)
    weights = stage_rewards(config, next(stage for stage in stages if stage.name == STAGE))
    model = config.model

    def rewards_of(completion_ids: list[list[int]], row: list[int], **_: Any) -> list[float]:
        start_s = time.perf_counter()
        reporter.report["answer_tokens"] = sum(map(len, completion_ids)) / len(completion_ids)
        totals = []
        for ids, index in zip(completion_ids, row, strict=True):
            sample = dataset.samples[index]
            frame = smart_frame(
                sample.width_px, sample.height_px, min_pixels=model.min_pixels, max_pixels=model.max_pixels
            )
            text = tokenizer.decode(ids, skip_special_tokens=False)
            totals.append(score(text, sample.annotation, frame, weights).total)
        reporter.report |= {
            "score": time.perf_counter() - start_s,
            "reward": sum(totals) / len(totals),
            "num_answers": len(completion_ids),
            "num_images": len(set(row)),
        }
        return totals

    return rewards_of


if __name__ == "__main__":
    main()
