"""The learner of the GRPO loop: DeepSpeed ranks in a placement group, driven as one.

    groups ─► plan of passes (the same for the same lengths) ─► rank 0 ... rank n ─► sums ─► metrics
    folder of the driver ─► bytes ─► object store ─► every rank;  rank 0 ─► bytes ─► folder of the driver

The ranks import the deep-learning libraries; this file does not, so the driver stays light. They see no run directory:
what they begin with and what they leave are bytes. A rank that dies or hangs loses the whole group; its owner starts
another one.
"""

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import ray
from ray.exceptions import RayTaskError
from ray.util.placement_group import placement_group, remove_placement_group
from ray.util.scheduling_strategies import PlacementGroupSchedulingStrategy

from actors.failures import forget_frames
from actors.health import Health
from actors.placement import node_share
from actors.rank_calls import await_ranks, own_faults
from fxray import spans
from fxray.errors import CheckpointError, DeadlineError, LearnerLostError
from fxray.files import read_folder, write_atomically
from fxray.grpo.packing import packed_length, plan_micro_batches
from fxray.grpo.types import PolicyBlob, ProbeGap, RolloutGroup, TrainingGroup, UpdateSettings, WeightsBlob
from fxray.large_imports import large_imports

POLICY_FOLDER, REFERENCE_FOLDER, OPTIMIZER_FILE = "adapter", "reference", "optimizer.safetensors"
PARTS = (POLICY_FOLDER, REFERENCE_FOLDER, OPTIMIZER_FILE)
"""The learner's part of a checkpoint, and where each lies in it."""

MEANS = {"kl": "kl", "clip_frac": "clipped", "importance": "importance", "entropy": "surprisal"}
"""Metrics that are means over tokens, and the sums they come from. The entropy is estimated by the mean surprisal."""


@dataclass(frozen=True, slots=True)
class LearnerSpec:
    """What a learner is made of.

    Attributes:
        model_path: Folder of the base model, or its name.
        dtype: Type of the base weights: "float32" or "bfloat16".
        min_pixels: Smallest area of an image, in square pixels.
        max_pixels: Largest area of an image, in square pixels.
        lora_rank: Rank of the adapters; 0 trains all weights.
        lora_alpha: Their scale is alpha / rank.
        initial_policy: Files of what policy and reference start from (SFT), content by name: an adapter in PEFT's
            layout, or a whole model; None starts at the base. Nobody keeps them: a whole model is tens of GiB.
        seed: Of a fresh adapter's random half.
        weight_decay: Of AdamW.
        max_grad_norm: Gradients are clipped to this norm.
        zero_stage: DeepSpeed ZeRO stage.
        max_tokens_per_micro_batch: Packed tokens of one pass.
        max_groups_per_micro_batch: Groups of one pass; 0: as many as the tokens allow.
        gradient_checkpointing: Recompute activations in the backward pass.
        threads: CPU threads of a rank; 0 takes all processors.
        yields_memory: Memory that is not in use is given back after each call, for an engine on the same GPU.
        memory_remedy: What to do when a pass runs out of memory.
    """

    model_path: str
    dtype: str
    min_pixels: int
    max_pixels: int
    lora_rank: int
    lora_alpha: float
    initial_policy: Mapping[str, bytes] | None
    seed: int
    weight_decay: float
    max_grad_norm: float
    zero_stage: int
    max_tokens_per_micro_batch: int
    max_groups_per_micro_batch: int
    gradient_checkpointing: bool
    threads: int
    yields_memory: bool
    memory_remedy: str


@dataclass(frozen=True, slots=True)
class RankPass:
    """Groups of one pass through the model; a filler only keeps the rank in step with the others."""

    groups: tuple[TrainingGroup, ...]
    is_filler: bool

    @property
    def num_tokens(self) -> int:
        """Packed tokens."""
        return sum(map(_packed_length, self.groups))


def learnable_answers(group: TrainingGroup) -> list[int]:
    """Indices of the answers that count: valid, and at least one token long."""
    rollouts = group.rollouts.rollouts
    return [i for i, is_valid in enumerate(group.is_valid_G) if is_valid and len(rollouts[i].token_ids)]


def learnt_groups(groups: Sequence[TrainingGroup], settings: UpdateSettings) -> list[TrainingGroup]:
    """The groups that the policy has something to learn from.

    One whose advantages are all 0 gives no policy gradient; without a KL term the model need not see it at all.
    """
    has_kl = settings.kl_beta > 0 and settings.kl_without_spread
    return [group for group in groups if learnable_answers(group) and (has_kl or group.advantages_G.any())]


def _packed_length(group: TrainingGroup) -> int:
    answers = group.rollouts.rollouts
    return packed_length(
        len(group.rollouts.prompt_token_ids), [len(answers[i].token_ids) for i in learnable_answers(group)]
    )


class RankActor:
    """A rank in its own process: the worker's methods by name, and a thread beside them that says that it lives."""

    def __init__(self, spec: LearnerSpec, rank: int, num_ranks: int) -> None:
        with large_imports():
            from actors.learner_rank import LearnerWorker

        self._worker = LearnerWorker(spec, rank, num_ranks)

    def call(self, method: str, *args: Any) -> Any:
        return getattr(self._worker, method)(*args)

    @ray.method(concurrency_group="health")
    def is_alive(self) -> bool:
        return True


class LearnerGroup:
    """Implements the `Learner` port of `fxray.grpo.ports` over Ray actors.

    Its processes are asked for at once, and import what they need beside whatever else starts; `start` waits for them
    and lets them load the model. Nothing else may be called before.

    Args:
        spec: What the learner is made of.
        num_ranks: DeepSpeed ranks.
        cpus_per_rank: Processors that Ray reserves for a rank.
        gpus_per_rank: GPUs that Ray reserves for a rank.
        node_type: Custom resource that a rank's node must offer; any node where empty.
        start_deadline_s: For all ranks to be placed and ready.
        step_deadline_s: For any other call.
        hang_deadline_s: For a rank to say that it lives, asked in a thread of its own.
    """

    def __init__(
        self,
        spec: LearnerSpec,
        *,
        num_ranks: int,
        cpus_per_rank: float,
        gpus_per_rank: float,
        start_deadline_s: float,
        step_deadline_s: float,
        hang_deadline_s: float,
        node_type: str = "",
    ) -> None:
        self._spec = replace(spec, initial_policy=None)
        self._num_ranks = num_ranks
        self._start_deadline_s, self._deadline_s = start_deadline_s, step_deadline_s
        self._health = Health({}, hang_deadline_s)
        self._bundle = {"CPU": max(cpus_per_rank, 0.01)} | ({"GPU": gpus_per_rank} if gpus_per_rank else {})
        share = node_share(node_type)
        self._placement = placement_group([self._bundle | share] * num_ranks, strategy="PACK")
        actor = ray.remote(concurrency_groups={"health": 1})(RankActor)
        options = {"num_cpus": self._bundle["CPU"], "num_gpus": self._bundle.get("GPU", 0), "resources": share}
        spec_reference = ray.put(spec)
        self._ranks: list[Any] = []
        for rank in range(num_ranks):
            strategy = PlacementGroupSchedulingStrategy(self._placement, placement_group_bundle_index=rank)
            placed = actor.options(**options, scheduling_strategy=strategy)
            self._ranks.append(placed.remote(spec_reference, rank, num_ranks))

    def start(self) -> None:
        """Waits for the ranks, which load model and adapter.

        Raises:
            DeadlineError: They are not ready in time.
            LearnerLostError: A rank died, hangs, or failed by a fault of its own.
            FxrayError: What a rank refuses: model, adapter.
        """
        try:
            self._start(time.monotonic() + self._start_deadline_s)
        except DeadlineError as error:  # it knows what was left of the deadline alone
            raise DeadlineError(
                f"the learner was not up within {self._start_deadline_s:g} s",
                where=error.where,
                remedy="look at the Ray logs, or raise learner.start_deadline_s",
            ) from error

    def _start(self, end: float) -> None:
        room = f"room for {self._num_ranks} learner ranks of {self._bundle}"
        await_ranks([self._placement.ready()], end - time.monotonic(), room, "place")
        self._answers(
            [rank.is_alive.remote() for rank in self._ranks], end, "the learner's ranks to come up", "come up"
        )
        ranks = {f"learner rank {i}": rank for i, rank in enumerate(self._ranks)}
        self._health = Health(ranks, self._health.deadline_s)
        address, port = "", 0
        if self._num_ranks > 1:
            where = [self._ranks[0].call.remote("open_meeting")]
            ((address, port),) = self._answers(where, end, "learner rank 0 to open a meeting", "meet")
        ready = [rank.call.remote("start", address, port, self._deadline_s) for rank in self._ranks]
        with own_faults("the learner's ranks to load the model"):
            self._answers(ready, end, "the learner's ranks to load the model", "start", moves_files=True)

    def update(self, groups: Sequence[TrainingGroup], settings: UpdateSettings) -> dict[str, float]:
        """Applies `settings.num_updates` optimizer steps; returns metrics by name.

        A batch without anything to learn from changes nothing. The loss is a mean over all groups with a learnable
        answer, also over those that are left out.
        """
        num_learnable = sum(bool(learnable_answers(group)) for group in groups)
        learnt = learnt_groups(groups, settings)
        if not learnt:
            return {"loss": 0.0, "grad_norm": 0.0, "ratio_max": 1.0, "tokens": 0.0} | dict.fromkeys(MEANS, 0.0)
        shares = self._share(learnt)
        calls = [
            rank.call.remote("update", share, settings, num_learnable)
            for rank, share in zip(self._ranks, shares, strict=True)
        ]
        return _join(self._in_time(calls, "the learner's update"), settings.num_updates)

    def probe(self, groups: Sequence[RolloutGroup], temperature: float) -> ProbeGap:
        """How far the sampler's log-probabilities in `groups` lie from the learner's."""
        as_training = [
            TrainingGroup(group, np.zeros(len(group.rollouts), np.float32), np.ones(len(group.rollouts), np.bool_))
            for group in groups
        ]
        shares = self._share([group for group in as_training if learnable_answers(group)])
        calls = [rank.call.remote("probe", share, temperature) for rank, share in zip(self._ranks, shares, strict=True)]
        found = self._in_time(calls, "the learner's log-probabilities of a probe", "probe")
        differences = np.concatenate(found)
        return ProbeGap(float(differences.mean(dtype=np.float64)), float(differences.max()))

    def export_policy(self, version: int) -> PolicyBlob:
        """What is trained of the policy. The pieces of whole weights stay where rank 0 has put them, once, for all."""
        first, *others = self._ranks
        blob, pieces = first.call.options(num_returns=2).remote("export_policy", version)
        calls = [blob, *(rank.call.remote("export_policy", version) for rank in others)]
        policy: PolicyBlob = self._in_time(calls, "the learner's export_policy")[0]
        return replace(policy, pieces=pieces) if isinstance(policy, WeightsBlob) else policy

    def set_reference(self, folder: Path | None = None) -> None:
        """Makes the present policy the reference of the KL term, or the one in a folder.

        Raises:
            CheckpointError: There is none in the folder, or it is damaged or of another model.
        """
        if folder is None:
            self._all("set_reference")
        else:
            self._all("restore", REFERENCE_FOLDER, ray.put(read_folder(folder)), str(folder), moves_files=True)

    def interpolate(self, liti_eta: float) -> None:
        """Keeps that share of the policy's way from the reference, weight by weight."""
        self._all("interpolate", liti_eta)

    def reset_optimizer(self) -> None:
        """Forgets the optimizer's moments, as at the start of a stage."""
        self._all("reset_optimizer")

    def save(self, path: Path) -> None:
        """Writes policy (in `path/adapter`), reference and optimizer below `path`, on the driver's node.

        One part after the other, for those of whole weights are large.

        Raises:
            ResourceError: The disk is full or not writable.
        """
        for part in PARTS:
            for name, content in self._all("state", part, moves_files=True)[0].items():
                write_atomically(path / name, content)

    def load(self, path: Path) -> None:
        """Restores what `save` wrote, bit for bit, whatever number of ranks and ZeRO stage wrote it.

        Raises:
            CheckpointError: A part is missing, damaged, or of another model.
        """
        for part in PARTS:
            try:
                is_file = part == OPTIMIZER_FILE
                files = {part: (path / part).read_bytes()} if is_file else read_folder(path / part)
            except OSError as error:
                raise CheckpointError(f"cannot be read: {error.strerror}", where=str(error.filename)) from error
            self._all("restore", part, ray.put(files), str(path / part), moves_files=True)

    def close(self) -> None:
        """Ends the ranks and gives their place back."""
        for number, rank in enumerate(self._ranks):
            ray.kill(rank)
            spans.retire(f"learner-{number}")
        self._ranks = []
        remove_placement_group(self._placement)

    def _all(self, method: str, *args: object, moves_files: bool = False) -> list[Any]:
        calls = [rank.call.remote(method, *args) for rank in self._ranks]
        return self._in_time(calls, f"the learner's {method}", moves_files=moves_files)

    def _in_time(self, calls: Sequence[Any], what: str, name: str = "", *, moves_files: bool = False) -> list[Any]:
        """Results of calls to all ranks.

        Raises:
            LearnerLostError: A rank died, hangs, failed by a fault of its own, or does not answer in time.
        """
        try:
            with own_faults(what):
                return self._answers(calls, time.monotonic() + self._deadline_s, what, name, moves_files=moves_files)
        except DeadlineError as error:
            raise LearnerLostError(error.message, where=error.where, remedy=error.remedy) from error

    def _answers(
        self, calls: Sequence[Any], end_s: float, what: str, name: str = "", *, moves_files: bool = False
    ) -> list[Any]:
        """Results of calls to all ranks until a time.

        Files of a whole model are packed and read in one go, minutes in which no other thread of a rank gets a turn:
        while they move, its silence says nothing.
        """
        may_be_silent = moves_files and self._spec.lora_rank == 0
        try:
            return await_ranks(calls, end_s - time.monotonic(), what, name, None if may_be_silent else self._health)
        except RayTaskError as error:  # of a rank whose exchange with another one broke, or of a fault of its own
            if lost := self._health.find_dead():
                forget_frames(error)
                raise LearnerLostError(f"{lost} died: {error.cause}", where=f"waiting for {what}") from error
            raise
        finally:
            if may_be_silent:
                self._health.forget()

    def _share(self, groups: Sequence[TrainingGroup]) -> list[list[RankPass]]:
        plan = plan_micro_batches(
            [_packed_length(group) for group in groups],
            num_ranks=self._num_ranks,
            max_tokens=self._spec.max_tokens_per_micro_batch,
            max_groups=self._spec.max_groups_per_micro_batch,
        )
        return [[RankPass(tuple(groups[i] for i in each.groups), each.is_filler) for each in passes] for passes in plan]


def _join(of_ranks: Sequence[dict[str, float]], num_updates: int) -> dict[str, float]:
    """Metrics of a step from the sums of its ranks."""
    total = {name: sum(each.get(name, 0.0) for each in of_ranks) for name in ("loss", "tokens", *MEANS.values())}
    slowest = {name: max(each[name] for each in of_ranks) for name in of_ranks[0] if name.startswith("seconds/")}
    return {
        "loss": total["loss"] / num_updates,
        "grad_norm": of_ranks[0]["grad_norm"] / num_updates,
        "ratio_max": max(each.get("ratio_max", 0.0) for each in of_ranks),
        "tokens": total["tokens"] / num_updates,
        **{name: total[source] / total["tokens"] for name, source in MEANS.items()},
        **{name.replace("seconds/", "seconds/update/"): value for name, value in slowest.items()},
    }
