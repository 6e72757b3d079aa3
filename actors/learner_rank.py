"""One DeepSpeed rank of the learner: policy and reference, two adapters on one base or two models, and the optimizer.

groups of the rank ─► images to patches, packed (a thread, ahead) ─► per pass: reference (no gradient), policy, loss,
backward ─► step
"""

import socket
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import numpy as np
import ray
import torch
from numpy.typing import NDArray
from safetensors import SafetensorError
from safetensors.torch import load, save

from actors.encoded_images import fetch_images
from actors.learner import (
    OPTIMIZER_FILE,
    POLICY_FOLDER,
    LearnerSpec,
    RankPass,
    learnable_answers,
)
from fxray.ahead import read_ahead
from fxray.data.decoding import by_threads
from fxray.data.images import decode_image
from fxray.errors import CheckpointError, FxrayError, LearnerLostError
from fxray.grpo.loss import grpo_loss, token_weights
from fxray.grpo.types import PolicyBlob, UpdateSettings
from fxray.model.batch import PackedBatch, PackedRow, pack
from fxray.model.family import VisionLanguageModel
from fxray.model.folder import resolve_model_path
from fxray.model.images import load_image_processor, preprocess
from fxray.model.load import DTYPES, load_model
from fxray.model.memory import let_segments_grow, memory_told
from fxray.model.packed import PackedPolicy
from fxray.model.phases import PhaseClock
from fxray.model.policy import make_policy
from fxray.model.prompts import forbidden_ids, load_tokenizer
from fxray.model.ranks import open_meeting
from fxray.model.tensors import moved
from fxray.model.zero import ZeroEngine, join_ranks, sharded_loading
from fxray.processors import num_processors

LOAD_REMEDY = (
    "see with `nvidia-smi` whether something else takes the GPU's memory, lower rollout.gpu_memory_utilization if an "
    "engine shares it, or raise learner.zero_stage with more learner.num_ranks; `fxray plan` says what fits"
)
PREPARE_DEADLINE_S = 600.0
"""For the images of a pass to arrive, and to be decoded, cut into patches and packed."""


@dataclass(slots=True)
class _Prepared:
    """A packed pass, with per-token values of its answers, one answer after the other."""

    batch: PackedBatch
    sampler_T: torch.Tensor
    advantages_T: torch.Tensor
    weights_T: torch.Tensor
    is_filler: bool
    old_T: torch.Tensor | None = None
    reference_T: torch.Tensor | None = None


class LearnerWorker:
    """One rank. Every method but `open_meeting` is collective: all ranks must call it together.

    Args:
        spec: What the learner is made of.
        rank: Of this worker.
        num_ranks: In all.
    """

    def __init__(self, spec: LearnerSpec, rank: int, num_ranks: int) -> None:
        self._initial_policy = spec.initial_policy
        self._spec, self._rank, self._num_ranks = replace(spec, initial_policy=None), rank, num_ranks
        self._listener: socket.socket | None = None

    def open_meeting(self) -> tuple[str, int]:
        """Starts to listen on this node's own address, for rank 0; returns address and port."""
        address = ray.util.get_node_ip_address()
        self._listener = open_meeting(address)
        return address, self._listener.getsockname()[1]

    def start(self, address: str, port: int, exchange_deadline_s: float) -> None:
        """Loads the model and joins the other ranks at rank 0's address.

        Raises:
            ModelError: The base cannot be loaded.
            CheckpointError: The initial policy does not fit.
            ResourceError: The GPU has no room for it all.
        """
        with self._memory("loading the model", LOAD_REMEDY):
            self._start(address, port, exchange_deadline_s)

    def _start(self, address: str, port: int, exchange_deadline_s: float) -> None:
        spec = self._spec
        torch.set_num_threads(spec.threads or num_processors())
        let_segments_grow()
        path = resolve_model_path(spec.model_path)
        self._image_processor = load_image_processor(path, min_pixels=spec.min_pixels, max_pixels=spec.max_pixels)
        self._forbidden_ids = forbidden_ids(load_tokenizer(path))
        join_ranks(
            rank=self._rank,
            world_size=self._num_ranks,
            address=address,
            port=port,
            listener=self._listener,
            timeout_s=exchange_deadline_s,
        )
        self._dtype = DTYPES[spec.dtype]
        self._policy = make_policy(
            partial(self._load_model, path),
            path,
            dtype=spec.dtype,
            lora_rank=spec.lora_rank,
            lora_alpha=spec.lora_alpha,
            lora_dropout=0.0,
            seed=spec.seed,
        )
        self._policy.add_reference()
        self._base = self._policy.base
        self._engine = ZeroEngine(
            PackedPolicy(self._policy.model, self._forbidden_ids, dtype=self._dtype),
            self._policy.parameters,
            stage=spec.zero_stage,
            weight_decay=spec.weight_decay,
            max_grad_norm=spec.max_grad_norm,
        )
        initial_policy, self._initial_policy = self._initial_policy, None
        if initial_policy is not None:
            self._write(self._policy.parameters, initial_policy, where="initial policy")
        self.set_reference()

    def _load_model(self, path: Path, dtype: str) -> VisionLanguageModel:
        with sharded_loading(self._spec.zero_stage):
            model = load_model(path, dtype=dtype)
        if self._spec.gradient_checkpointing:
            model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
        return model

    def update(self, passes: Sequence[RankPass], settings: UpdateSettings, num_groups: int) -> dict[str, float]:
        """Takes `settings.num_updates` steps on this rank's share of the groups.

        Args:
            passes: This rank's share; every rank has equally many.
            settings: Numbers of the update.
            num_groups: Groups with a learnable answer over all ranks.

        Returns:
            Sums over this rank's tokens and updates (see `fxray.grpo.loss.LossTerms`), "tokens", their number, "loss",
            "ratio_max" and "grad_norm", and the seconds of each phase.
        """
        with self._memory(f"a pass of {max(each.num_tokens for each in passes):,} tokens"):
            return self._update(passes, settings, num_groups)

    def _update(self, passes: Sequence[RankPass], settings: UpdateSettings, num_groups: int) -> dict[str, float]:
        clock = PhaseClock(self._base.device)
        prepared: list[_Prepared] = []
        told: list[dict[str, torch.Tensor]] = []
        num_tokens = 0
        grad_norms = []
        for update in range(settings.num_updates):
            arriving = iter(prepared) if update else self._prepare_ahead(passes, settings, num_groups)
            for index in range(len(passes)):
                with clock.timed("preprocess"):
                    each = next(arriving)
                if settings.num_updates > 1 and not update:
                    prepared.append(each)
                sums = self._learn(each, settings, clock, is_last=index == len(passes) - 1)
                if not each.is_filler:
                    told.append(sums)
                    num_tokens += len(each.sampler_T)
            with clock.timed("step"):
                grad_norms.append(self._engine.step(settings.learning_rate))
        totals: defaultdict[str, float] = defaultdict(float, grad_norm=sum(grad_norms), tokens=float(num_tokens))
        for sums in told:
            for name, value in zip(sums, torch.stack(list(sums.values())).tolist(), strict=True):
                totals[name] = max(totals[name], value) if name == "ratio_max" else totals[name] + value
        return {**totals, **{f"seconds/{phase}": seconds for phase, seconds in clock.seconds().items()}}

    def _learn(
        self, each: _Prepared, settings: UpdateSettings, clock: PhaseClock, *, is_last: bool
    ) -> dict[str, torch.Tensor]:
        """One pass: gradients are added up; returns sums over its tokens, which nobody has waited for yet."""
        values = (each.batch, each.sampler_T, each.advantages_T, each.weights_T)
        batch, sampler_T, advantages_T, weights_T = moved(values, self._base.device)
        if settings.kl_beta > 0 and each.reference_T is None:
            with clock.timed("reference"), torch.no_grad(), self._policy.as_reference():
                each.reference_T = self._engine(batch, settings.temperature)
        with clock.timed("forward"):
            logprobs_T = self._engine(batch, settings.temperature)
            if each.old_T is None:
                each.old_T = logprobs_T.detach()
            terms = grpo_loss(
                logprobs_T,
                old_logprobs_T=each.old_T,
                sampler_logprobs_T=sampler_T,
                reference_logprobs_T=each.reference_T,
                advantages_T=advantages_T,
                weights_T=weights_T,
                clip_low=settings.clip_low,
                clip_high=settings.clip_high,
                kl_beta=settings.kl_beta,
                importance_cap=settings.importance_cap,
            )
        with clock.timed("backward"):
            self._engine.backward(terms.loss, is_last=is_last)
        return {"loss": terms.loss.detach(), "ratio_max": terms.ratio_max, **terms.sums}

    def probe(self, passes: Sequence[RankPass], temperature: float) -> NDArray[np.float32]:
        """|Difference| in nats between the sampler's and the policy's log-probability of each token, [T]."""
        with self._memory("a probe"):
            found = [self._probe(each, temperature)[: 0 if each.is_filler else None] for each in passes]
        return torch.cat(found).numpy(force=True)

    def _probe(self, each: RankPass, temperature: float) -> torch.Tensor:
        batch, sampler_T = moved((self._pack(each), self._sampler_logprobs(each)), self._base.device)
        with torch.no_grad():
            logprobs_T = self._engine(batch, temperature)
        return (logprobs_T - sampler_T).abs()

    def _prepare_ahead(
        self, passes: Sequence[RankPass], settings: UpdateSettings, num_groups: int
    ) -> Iterator[_Prepared]:
        return read_ahead(
            partial(self._prepare, settings=settings, num_groups=num_groups),
            passes,
            deadline_s=PREPARE_DEADLINE_S,
            late=lambda each: LearnerLostError(
                f"a pass was not prepared within {PREPARE_DEADLINE_S:g} s",
                where=self._name_of(each),
                remedy="see whether something else takes this node's processors or memory",
            ),
        )

    def _prepare(self, each: RankPass, settings: UpdateSettings, num_groups: int) -> _Prepared:
        weights: list[float] = []
        advantages: list[float] = []
        lengths: list[int] = []
        for group in each.groups:
            answers = learnable_answers(group)
            of_group = [len(group.rollouts.rollouts[i].token_ids) for i in answers]
            weights += token_weights(
                of_group,
                num_groups=num_groups,
                aggregation=settings.loss_aggregation,
                max_new_tokens=settings.max_new_tokens,
            )
            advantages += [float(group.advantages_G[i]) for i in answers]
            lengths += of_group
        scale = 0.0 if each.is_filler else 1.0
        values = torch.tensor([advantages, weights], dtype=torch.float32).repeat_interleave(torch.tensor(lengths), 1)
        advantages_T, weights_T = values
        return _Prepared(
            self._pack(each), self._sampler_logprobs(each), advantages_T, weights_T * scale, each.is_filler
        )

    def _pack(self, each: RankPass) -> PackedBatch:
        return pack(self._base, self._rows(each), self._forbidden_ids, dtype=self._dtype)

    def _sampler_logprobs(self, each: RankPass) -> torch.Tensor:
        of_answers = [group.rollouts.rollouts[i].logprobs for group in each.groups for i in learnable_answers(group)]
        return torch.from_numpy(np.concatenate(of_answers).astype(np.float32))

    def _name_of(self, each: RankPass) -> str:
        first, last = (group.rollouts.prompt.group_id for group in (each.groups[0], each.groups[-1]))
        return f"learner rank {self._rank}, groups {first} to {last}"

    def _rows(self, each: RankPass) -> list[PackedRow]:
        """Fetches and decodes the images, and cuts them into patches.

        Raises:
            LearnerLostError: Images do not arrive, or are lost; a learner that starts again is given others.
        """
        prompts = [group.rollouts.prompt for group in each.groups]
        try:
            encoded = fetch_images([prompt.image.handle for prompt in prompts], self._name_of(each))
        except FxrayError as error:
            raise LearnerLostError(error.message, where=error.where, remedy=error.remedy) from error
        names = [f"sample {prompt.sample_id}" for prompt in prompts]
        seen = by_threads(self._see, torch.get_num_threads(), encoded, names)
        return [
            PackedRow(
                group.rollouts.prompt.sample_id,
                group.rollouts.prompt_token_ids,
                tuple(group.rollouts.rollouts[i].token_ids for i in learnable_answers(group)),
                pixels,
                grid,
            )
            for group, (pixels, grid) in zip(each.groups, seen, strict=True)
        ]

    def _see(self, encoded: bytes, name: str) -> tuple[torch.Tensor, torch.Tensor]:
        """Pixel values and grid of an image."""
        pixel_values, grid_thw = preprocess(self._image_processor, [decode_image(encoded, name)])
        return pixel_values, grid_thw[0]

    def export_policy(self, version: int) -> tuple[PolicyBlob | None, object]:
        """The policy ready to travel, and apart from it the pieces of whole weights; only rank 0 gives them."""
        tensors = self._engine.read(self._policy.parameters)
        return self._policy.publish(tensors, version) if self._rank == 0 else (None, None)

    def set_reference(self) -> None:
        """Copies the policy into the reference."""
        self._engine.copy(self._policy.parameters, self._policy.reference)

    def interpolate(self, liti_eta: float) -> None:
        """Keeps that share of the policy's way from the reference."""
        self._engine.lerp(self._policy.parameters, self._policy.reference, 1 - liti_eta)

    def reset_optimizer(self) -> None:
        """Forgets the optimizer's moments."""
        self._engine.reset_optimizer()

    def state(self, part: str) -> dict[str, bytes]:
        """Policy, reference or optimizer as the files of a checkpoint, content by path; only rank 0 gives them.

        Args:
            part: One of `actors.learner.PARTS`.
        """
        with self._memory(f"saving {part}", LOAD_REMEDY):
            return self._state(part)

    def _state(self, part: str) -> dict[str, bytes]:
        if part == OPTIMIZER_FILE:
            optimizer = self._engine.optimizer_state()
            return {part: save(optimizer)} if self._rank == 0 else {}
        tensors = self._engine.read(self._parameters_of(part))
        if self._rank != 0:
            return {}
        return {f"{part}/{name}": content for name, content in self._policy.to_files(tensors).items()}

    def restore(self, part: str, files: Mapping[str, bytes], where: str) -> None:
        """Goes back to what `state` gave, bit for bit, whatever the number of ranks and the ZeRO stage were.

        Args:
            part: One of `actors.learner.PARTS`.
            files: Of the part, content by path within it.
            where: Named in errors: the folder or file that they were read from.

        Raises:
            CheckpointError: The part is missing, damaged, or of another model.
        """
        with self._memory(f"restoring {part}", LOAD_REMEDY):
            self._restore(part, files, where)

    def _restore(self, part: str, files: Mapping[str, bytes], where: str) -> None:
        if part != OPTIMIZER_FILE:
            self._write(self._parameters_of(part), files, where=where)
            return
        try:
            state = load(files[part])
        except SafetensorError as error:
            raise CheckpointError(f"cannot be read: {error}", where=where) from error
        self._engine.load_optimizer_state(state, where=where)

    def _parameters_of(self, part: str) -> dict[str, torch.nn.Parameter]:
        return self._policy.parameters if part == POLICY_FOLDER else self._policy.reference

    def _write(self, parameters: Mapping[str, torch.nn.Parameter], files: Mapping[str, bytes], *, where: str) -> None:
        self._engine.write(parameters, self._policy.from_files(files, where=where), where=where)

    @contextmanager
    def _memory(self, what: str, remedy: str = "") -> Iterator[None]:
        """Tells who ran out of GPU memory, and gives back what others may use."""
        try:
            with memory_told(what, where=f"learner rank {self._rank}", remedy=remedy or self._spec.memory_remedy):
                yield
        finally:
            if self._spec.yields_memory:
                torch.cuda.empty_cache()
