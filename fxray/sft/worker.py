"""What each rank of the SFT job does: load, resume, and for each step read, learn, report.

    read ahead (thread) ─► pack (thread) ─► forward, backward (DeepSpeed) ─► step ─► progress line, checkpoint

A step depends on the checkpoint before it and its own number alone, so a job that dies anywhere ends with the same
weights as one that never did.
"""

import json
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path

import ray.train
import torch
import torch.distributed as dist
from ray.train import Checkpoint, CheckpointUploadMode
from ray.train.torch import get_device
from safetensors.torch import save

from fxray.ahead import read_ahead
from fxray.counts import counted
from fxray.data.dataset import Dataset
from fxray.data.frame import sight_of
from fxray.data.order import derived_seed
from fxray.errors import CheckpointError, DeadlineError
from fxray.files import append_line, atomic_dir, read_folder, write_atomically
from fxray.grpo.packing import packed_length, plan_micro_batches, split_into
from fxray.model.batch import PackedBatch, pack
from fxray.model.family import VisionLanguageModel
from fxray.model.folder import resolve_model_path
from fxray.model.images import load_image_processor
from fxray.model.load import DTYPES, load_model
from fxray.model.memory import let_segments_grow, memory_told
from fxray.model.packed import PackedPolicy
from fxray.model.policy import make_policy
from fxray.model.prompts import load_tokenizer
from fxray.model.tensors import moved, opened_tensors
from fxray.model.zero import ZeroEngine, sharded_loading
from fxray.processors import num_processors
from fxray.sft import checkpoint
from fxray.sft.batches import READ_DEADLINE_S, Example, ExampleReader, late, token_weights
from fxray.sft.checkpoint import PROGRESS_FILE, SftState
from fxray.sft.settings import SftSettings

MEMORY_REMEDY = (
    "lower sft.max_tokens_per_micro_batch or model.max_pixels, set model.gradient_checkpointing, or raise "
    "sft.zero_stage with more sft.num_workers; `fxray plan` says what fits"
)
LOAD_REMEDY = (
    "see with `nvidia-smi` whether something else takes the GPU's memory, or raise sft.zero_stage with more "
    "sft.num_workers; `fxray plan` says what fits"
)


def run_rank(settings: SftSettings, attempt_dir: Path, start_from: Path | None, mark: str) -> None:
    """Runs one rank from the newest checkpoint to the end of the job.

    Args:
        settings: The job.
        attempt_dir: Folder for checkpoints and progress.
        start_from: Checkpoint that an earlier attempt left; one that this attempt has reported goes before it.
        mark: What the driver left in `attempt_dir`.

    Raises:
        ResourceError: This node does not see the driver's folders, or the GPU's memory does not suffice.
    """
    checkpoint.check_mark(attempt_dir, mark, Path(settings.dataset_path))
    context = ray.train.get_context()
    torch.set_num_threads(settings.threads or max(1, num_processors() // context.get_local_world_size()))
    let_segments_grow()
    rank, reported = context.get_world_rank(), ray.train.get_checkpoint()
    with memory_told("loading the model", where=f"SFT rank {rank}", remedy=LOAD_REMEDY):
        trainer = Trainer(settings, attempt_dir, rank=rank, device=get_device(), report=_report)
        if newest := Path(reported.path) if reported else start_from:
            trainer.restore(newest)
    trainer.run()


def _report(state: SftState, folder: Path) -> None:
    mode = CheckpointUploadMode.NO_UPLOAD
    ray.train.report({"step": state.step}, checkpoint=Checkpoint(str(folder)), checkpoint_upload_mode=mode)


@contextmanager
def evaluating(model: torch.nn.Module) -> Iterator[None]:
    """Nothing of a model drops out meanwhile."""
    modes = {module: module.training for module in model.modules()}
    model.eval()
    try:
        yield
    finally:
        for module, mode in modes.items():
            module.training = mode


def _load_model(path: Path, settings: SftSettings, device: torch.device, dtype: str) -> VisionLanguageModel:
    with sharded_loading(settings.zero_stage):
        model = load_model(path, dtype=dtype).to(device)
    if settings.gradient_checkpointing:
        model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
    return model


class Trainer:
    """One rank's model, optimizer and data; the ranks have found each other through `torch.distributed`.

    Args:
        settings: The job.
        attempt_dir: Folder for checkpoints and progress.
        rank: Of this worker.
        device: Where it computes.
        report: Told of each checkpoint, on every rank.
    """

    def __init__(
        self,
        settings: SftSettings,
        attempt_dir: Path,
        *,
        rank: int,
        device: torch.device,
        report: Callable[[SftState, Path], None],
    ) -> None:
        self._settings, self._attempt_dir, self._rank, self._report = settings, attempt_dir, rank, report
        num_ranks = dist.get_world_size()
        path = resolve_model_path(settings.model_path)
        dataset = Dataset.open(Path(settings.dataset_path))
        processor = load_image_processor(path, min_pixels=settings.min_pixels, max_pixels=settings.max_pixels)
        reader = partial(
            ExampleReader,
            tokenizer=load_tokenizer(path),
            image_processor=processor,
            sight=sight_of(path),
            rank=rank,
            num_ranks=num_ranks,
        )
        self._reader = reader(settings, dataset)
        if settings.validation_rows:
            as_they_are = replace(settings, augment_share=0.0, on_corrupt_image="skip")
            self._held_out = reader(as_they_are, Dataset.open(Path(settings.validation_path)))
        self._dtype = DTYPES[settings.dtype]
        self._policy = make_policy(
            partial(_load_model, path, settings, device),
            path,
            dtype=settings.dtype,
            lora_rank=settings.lora_rank,
            lora_alpha=settings.lora_alpha,
            lora_dropout=settings.lora_dropout,
            seed=derived_seed(settings.seed, "sft-adapter"),
        )
        self._base = self._policy.base
        self._engine = ZeroEngine(
            PackedPolicy(self._policy.model, dtype=self._dtype),
            self._policy.parameters,
            stage=settings.zero_stage,
            weight_decay=settings.weight_decay,
            max_grad_norm=settings.max_grad_norm,
        )
        self._num_steps = settings.num_steps(len(dataset.samples))
        self._first_step = 0

    def restore(self, folder: Path) -> None:
        """Goes back to a checkpoint.

        Raises:
            CheckpointError: It is of other settings, of a training split of another length, or damaged.
        """
        state = checkpoint.read_state(folder, self._settings)
        if state.num_steps != self._num_steps:  # rates, and the end, hang on it
            raise CheckpointError(
                f"belongs to an SFT of {counted(state.num_steps, 'step')}, this training split makes {self._num_steps}",
                where=str(folder),
                remedy="put the training split back as it was, or choose another run directory",
            )
        policy = folder / checkpoint.POLICY_DIR
        tensors = self._policy.from_files(read_folder(policy), where=str(policy))
        self._engine.write(self._policy.parameters, tensors, where=str(policy))
        optimizer_file = folder / checkpoint.OPTIMIZER_FILE
        with opened_tensors(optimizer_file) as moments:  # one at a time: all ranks of a node read
            self._engine.load_optimizer_state(moments, where=str(optimizer_file))
        self._reader.corrupt_rows.update(state.corrupt_rows)
        self._first_step = state.step

    def run(self) -> None:
        """Takes the steps that are left."""
        self._tell(first_step=self._first_step, num_steps=self._num_steps)
        steps = range(self._first_step, self._num_steps)
        every = self._settings.checkpoint_every_steps
        arriving = read_ahead(self._reader.read, steps, deadline_s=READ_DEADLINE_S, late=late)
        for step, examples in zip(steps, arriving, strict=True):
            start_s = time.monotonic()
            what = f"a pass of {self._settings.max_tokens_per_micro_batch:,} tokens"
            with memory_told(what, where=f"SFT rank {self._rank}", remedy=MEMORY_REMEDY):
                metrics = self._learn(step, examples)
                seconds = time.monotonic() - start_s
                metrics |= {"seconds": seconds, "tokens_per_s": metrics["num_tokens"] / seconds}
                if self._settings.validation_rows and (step + 1) % self._settings.validate_every_steps == 0:
                    metrics |= self._validate()
            self._tell(step=step + 1, num_steps=self._num_steps, metrics=metrics)  # a saved step has been told
            if step + 1 == self._num_steps or (step + 1) % every == 0:
                with memory_told("saving a checkpoint", where=f"SFT rank {self._rank}", remedy=LOAD_REMEDY):
                    self._save(step + 1)

    def _learn(self, step: int, examples: Sequence[Example]) -> dict[str, float]:
        """One update on the mean over the answer tokens of the whole batch."""
        torch.manual_seed(derived_seed(self._settings.seed, "sft-dropout", step, self._rank))
        rate = self._settings.rate(step, self._num_steps)
        chunks, (num_learnt, num_tokens, num_skipped, num_dropped) = self._in_passes(examples)
        shares: list[torch.Tensor] = []
        for packed in self._pack_ahead(chunks):
            batch, factor_R = moved(packed, self._base.device)
            share = -(self._engine(batch, 1.0) * factor_R).sum() / max(1.0, num_learnt)
            self._engine.backward(share, is_last=len(shares) == len(chunks) - 1)
            shares.append(share.detach())
        norm = self._engine.step(rate)
        loss = sum(value for (value,) in self._of_ranks(sum(torch.stack(shares).tolist())))
        return {
            "loss": loss,
            "learning_rate": rate,
            "grad_norm": norm,
            "num_tokens": num_tokens,
            "num_skipped": num_skipped,
            "num_dropped_regions": num_dropped,
        }

    def _in_passes(self, examples: Sequence[Example]) -> tuple[list[list[Example]], list[float]]:
        """This rank's examples in as many passes as the other ranks have.

        Returns:
            The passes; and over all ranks the answers' tokens that count, tokens, samples and regions left out.
        """
        lengths = [packed_length(len(e.row.prompt_token_ids), [len(e.row.answers[0])]) for e in examples]
        most_tokens = self._settings.max_tokens_per_micro_batch
        (passes,) = plan_micro_batches(lengths, num_ranks=1, max_tokens=most_tokens)
        of_ranks = self._of_ranks(
            float(token_weights(examples).sum()),
            sum(lengths),
            sum(not e.is_learnt for e in examples),
            sum(e.num_dropped_regions for e in examples),
            len(passes),
        )
        passes = split_into(passes, max(int(num_passes) for *_, num_passes in of_ranks))  # ranks exchange in step
        chunks = [[examples[index] for index in sorted(each.groups)] for each in passes]
        return chunks, [sum(values) for values in zip(*of_ranks, strict=True)][:-1]

    def _validate(self) -> dict[str, float]:
        """Mean loss of the tokens of held-out answers, nothing dropped out; all ranks together."""
        start_s, rows, size = time.monotonic(), self._settings.validation_rows, self._settings.batch_size
        loss = num_learnt = num_skipped = 0.0
        with evaluating(self._policy.model), torch.no_grad():
            for start in range(0, len(rows), size):
                batch = rows[start : start + size]
                for_all = [*batch, *batch[:1] * (-len(batch) % dist.get_world_size())]  # ranks have equally many
                places = range(self._rank, len(for_all), dist.get_world_size())
                read = self._held_out.read_rows([for_all[place] for place in places])
                own = [
                    replace(e, is_learnt=e.is_learnt and place < len(batch))
                    for e, place in zip(read, places, strict=True)
                ]
                num_skipped += sum(not e.is_learnt for e, place in zip(own, places, strict=True) if place < len(batch))
                chunks, (num_counted, *_) = self._in_passes(own)
                for packed in self._pack_ahead(chunks):
                    passed, factor_R = moved(packed, self._base.device)
                    loss -= float((self._engine(passed, 1.0) * factor_R).sum())
                num_learnt += num_counted
        loss, num_skipped = map(sum, zip(*self._of_ranks(loss, num_skipped), strict=True))
        return {
            "validation/loss": loss / max(1.0, num_learnt),
            "validation/num_skipped": num_skipped,
            "validation/seconds": time.monotonic() - start_s,
        }

    def _pack_ahead(self, chunks: Sequence[Sequence[Example]]) -> Iterator[tuple[PackedBatch, torch.Tensor]]:
        """Each pass, and the weights of its answer tokens, packed while the one before it is learnt."""
        return read_ahead(
            lambda chunk: (pack(self._base, [each.row for each in chunk], dtype=self._dtype), token_weights(chunk)),
            chunks,
            deadline_s=READ_DEADLINE_S,
            late=lambda _: DeadlineError(
                f"a pass was not packed within {READ_DEADLINE_S} s",
                where=f"SFT rank {self._rank}",
                remedy="see whether something else takes this node's processors or memory",
            ),
        )

    def _of_ranks(self, *values: float) -> list[list[float]]:
        """The values of each rank, in the order of the ranks."""
        own = torch.tensor(values, dtype=torch.float64, device=self._base.device)
        every = own.new_empty(dist.get_world_size() * len(values))
        dist.all_gather_into_tensor(every, own)
        rows: list[list[float]] = every.view(-1, len(values)).tolist()  # one by one, each would wait for the GPU
        return rows

    def _tell(self, **record: object) -> None:
        path = self._attempt_dir / PROGRESS_FILE
        if self._rank == 0:
            ends_what_was_torn = "\n" if "first_step" in record and path.exists() else ""
            append_line(path, f"{ends_what_was_torn}{json.dumps(record)}")

    def _save(self, step: int) -> None:
        """Writes a checkpoint aside, renames and reports it; all ranks together."""
        folder = self._attempt_dir / f"step-{step:06d}"
        optimizer_state = self._engine.optimizer_state()
        state = SftState(step, self._num_steps, self._gather_corrupt_rows())
        tensors = self._engine.read(self._policy.parameters)
        if self._rank == 0:
            with atomic_dir(folder) as aside:
                for name, content in self._policy.to_files(tensors).items():
                    write_atomically(aside / checkpoint.POLICY_DIR / name, content)
                write_atomically(aside / checkpoint.OPTIMIZER_FILE, save(optimizer_state))
                checkpoint.write_state(aside, state, self._settings)
        dist.barrier()
        self._report(state, folder)

    def _gather_corrupt_rows(self) -> dict[int, str]:
        per_rank: list[dict[int, str]] = [{} for _ in range(dist.get_world_size())]
        dist.all_gather_object(per_rank, self._reader.corrupt_rows)
        return {row: problem for corrupt_rows in per_rank for row, problem in sorted(corrupt_rows.items())}
