"""What both systems are given: the same images, questions and rewards, the same model, the same number of answers.

The parent prepares a folder once; each side reads it and makes its own configuration from the one fxray configuration.
"""

import json
import shutil
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from fxray.config.load import load_config
from fxray.config.tree import Config
from fxray.data.dataset import Dataset
from fxray.data.order import rows_of_step
from fxray.data.synth.write import synthesise
from fxray.grammar.prompts import Template, draw_template

STAGE = "alpha"
SPLITS = ("train", "validation", "test")
GROUP_SIZE = 8
MAX_NEW_TOKENS = 64
LORA_RANK = 8
KL_BETA = 0.04
LEARNING_RATE = 1e-5
"""Real updates, but too small to change how long the answers are."""
WARMUP_STEPS = 2
NEVER_SAMPLED = "<|vision_pad|>"
"""Both systems forbid it, so a model whose end token it is answers until the limit."""


@dataclass(frozen=True, slots=True)
class Workload:
    """One size of step.

    Attributes:
        name: Given on the command line.
        num_prompts: Groups of a step.
        data_px: Side of the square images in the dataset.
        model_px: Side to which the image processor brings them.
        max_new_tokens: Of an answer.
    """

    name: str
    num_prompts: int
    data_px: int
    model_px: int
    max_new_tokens: int = MAX_NEW_TOKENS

    @property
    def num_answers(self) -> int:
        return self.num_prompts * GROUP_SIZE


WORKLOADS = {
    "112": Workload("112", num_prompts=16, data_px=168, model_px=112),
    "448": Workload("448", num_prompts=8, data_px=448, model_px=448),
    "504": Workload("504", num_prompts=16, data_px=504, model_px=504, max_new_tokens=256),
}
ON_GPU = (
    "model.dtype=bfloat16",
    "model.gradient_checkpointing=true",
    "rollout.gpus_per_worker=0.6",
    "learner.gpus_per_rank=0.4",
    "rollout.gpu_memory_utilization=0.45",
    "learner.max_tokens_per_micro_batch=16384",
    "rollout.max_model_len=1024",
    "sft.num_workers=1",
    "rollout.probe_tolerance_nats=0.1",
)
"""One GPU that engine and learner share, each with its own part."""


@dataclass(frozen=True, slots=True)
class Job:
    """A workload made ready in a folder.

    Attributes:
        folder: Where it lies.
        model_path: The prepared model.
        workload: Its size.
        num_steps: That are timed.
        overrides: Of the configuration, for a GPU.
    """

    folder: Path
    model_path: Path
    workload: Workload
    num_steps: int
    overrides: tuple[str, ...] = ()

    @property
    def data_dir(self) -> Path:
        return self.folder / "data"

    def config(self, overrides: Sequence[str] = ()) -> Config:
        """The tiny configuration with the numbers of the workload."""
        work = self.workload
        files = [f"data.{split}={self.data_dir / split}.parquet" for split in SPLITS]
        return load_config(
            "tiny",
            [
                f"model.path={self.model_path}",
                f"model.max_pixels={work.model_px**2}",
                f"model.lora.rank={LORA_RANK}",
                "data.synth=null",
                *files,
                f"grpo.group_size={GROUP_SIZE}",
                f"grpo.prompts_per_step={work.num_prompts}",
                f"grpo.max_new_tokens={work.max_new_tokens}",
                f"grpo.learning_rate={LEARNING_RATE}",
                f"grpo.kl_beta={KL_BETA}",
                "grpo.warmup_steps=0",
                f"rollout.max_num_seqs={work.num_answers}",
                "rollout.probe_every_steps=0",
                *self.overrides,
                *overrides,
            ],
        )

    def write(self) -> Path:
        """Writes the job for the sides to read."""
        path = self.folder / "job.json"
        fields = {"model_path": str(self.model_path), "workload": asdict(self.workload), "num_steps": self.num_steps}
        fields |= {"overrides": self.overrides}
        path.write_text(json.dumps(fields))
        return path

    @classmethod
    def read(cls, path: Path) -> "Job":
        fields = json.loads(path.read_text())
        work, overrides = Workload(**fields["workload"]), tuple(fields["overrides"])
        return cls(path.parent, Path(fields["model_path"]), work, fields["num_steps"], overrides)


def prepare(
    folder: Path,
    workload: Workload,
    model_path: Path,
    adapter: Path | None,
    num_steps: int,
    overrides: Sequence[str] = (),
) -> Job:
    """Writes images enough for every step to see new ones, and a model whose answers are of use for timing.

    The bare base model answers in a few words. With an SFT adapter in it, it gives real answers that end by themselves;
    without one its answers are made to run to the limit, on both sides alike.
    """
    rows = workload.num_prompts * (WARMUP_STEPS + num_steps + 2)
    (folder / "data").mkdir(parents=True)
    synthesise(
        folder / "data",
        num_train=rows,
        num_validation=8,
        num_test=8,
        size_px=workload.data_px,
        seed=0,
        progress=lambda *_: None,
    )
    copy = Path(shutil.copytree(model_path, folder / "model", copy_function=_copy if adapter is None else shutil.copy2))
    if adapter is None:
        never_end(copy)
    else:
        merge(copy, adapter)
    return Job(folder, copy, workload, num_steps, tuple(overrides))


def _copy(source: str, target: str) -> str:
    """Weights can be large, and stay as they are: a link does."""
    if source.endswith(".safetensors"):
        Path(target).symlink_to(Path(source).resolve())
        return target
    return shutil.copy2(source, target)


def never_end(model_path: Path) -> None:
    """Makes the end token one that is never sampled."""
    tokens = json.loads((model_path / "tokenizer.json").read_text())["added_tokens"]
    (end_id,) = (token["id"] for token in tokens if token["content"] == NEVER_SAMPLED)
    for name, value in (
        ("config.json", {"eos_token_id": end_id}),
        ("generation_config.json", {"eos_token_id": [end_id]}),
        ("tokenizer_config.json", {"eos_token": NEVER_SAMPLED}),
    ):
        fields = json.loads((model_path / name).read_text())
        (fields.get("text_config") or fields).update(value)
        (model_path / name).write_text(json.dumps(fields))


def merge(model_path: Path, adapter: Path) -> None:
    """Adds an adapter to the weights for good."""
    from peft import PeftModel

    from fxray.model.load import load_model

    model = PeftModel.from_pretrained(load_model(model_path, dtype="float32"), adapter)
    model.merge_and_unload().save_pretrained(model_path)


def questions(job: Job) -> list[tuple[int, Template]]:
    """Rows and templates in the order in which fxray asks them, all steps one after the other."""
    config, dataset = job.config(), Dataset.open(job.data_dir / "train.parquet")
    asked = []
    for step in range(WARMUP_STEPS + job.num_steps):
        visits = rows_of_step(config.seed, STAGE, num_rows=len(dataset), batch_size=job.workload.num_prompts, step=step)
        for epoch, row in visits:
            sample = dataset.samples[row]
            key = (config.seed, f"{STAGE}/{sample.sample_id}", epoch)
            asked.append((row, draw_template(config.data.templates, sample.annotation.verdict, key)))
    return asked
