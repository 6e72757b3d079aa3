"""The actors of a run: image stores, rollout pool, reward pool, learner group. Started when needed, ended together."""

import hashlib
import json
import time
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from fxray.checkpoints import ADAPTER_CONFIG_FILE, ADAPTER_WEIGHTS_FILE, MODEL_WEIGHTS_FILE
from fxray.config.tree import Config
from fxray.counts import counted
from fxray.engine.binding import read_weights
from fxray.errors import CheckpointError, DataError, LearnerLostError, WorkerDiedError
from fxray.events import OnEvent
from fxray.grpo.loop import Ports
from fxray.grpo.ports import Generator, Learner
from fxray.grpo.types import AdapterBlob, PolicyBlob
from fxray.launch import start
from fxray.launch.prompts import PromptSource
from fxray.launch.session import Session
from fxray.launch.traced import traced

if TYPE_CHECKING:
    from actors.learner import LearnerGroup
    from actors.reward_pool import RewardPool

PLAIN_LORA = {
    "peft_type": "LORA",
    "bias": "none",
    **dict.fromkeys(("rank_pattern", "alpha_pattern", "modules_to_save", "layer_replication", "target_parameters")),
    **dict.fromkeys(("trainable_token_indices", "alora_invocation_tokens", "arrow_config", "use_bdlora")),
    **dict.fromkeys(("use_dora", "use_qalora", "lora_bias"), False),
}
"""Fields of PEFT's adapter_config.json that change what the weights mean, and the value at which they do not."""


class Policies:
    """The rollout pool and what its workers sample from: the base model, or a policy in a folder."""

    def __init__(self, config: Config, model_path: Path, on_event: OnEvent) -> None:
        from actors.weight_sync import PolicyPublisher

        self.pool = start.rollout_pool(config, model_path, on_event)
        self.publisher = PolicyPublisher(self.pool)
        self.batch_size = 4 * config.rollout.max_num_seqs * config.rollout.most_workers

    @property
    def generator(self) -> Generator:
        return self.pool

    def use_base_model(self) -> None:
        """Answers come from the bare base model until the next policy."""
        self.pool.use_base_model()

    def use_policy(self, folder: Path, version: int) -> None:
        """Answers come from an adapter in PEFT layout, or from the whole model in a folder.

        Raises:
            SyncError: A worker does not sample from it.
        """
        self.publisher.publish(read_policy(folder, version))


class Fleet(Policies):
    """All actors of a training run; learner and rewards start on the first stage.

    Args:
        session: The run.
        closing: Ends what was started.
        answered: Split that phases will answer: its image store comes up while the engines do.
    """

    def __init__(self, session: Session, closing: ExitStack, answered: Path) -> None:
        config = session.config
        super().__init__(config, session.model_path, session.on_event)
        closing.callback(self.pool.close)
        self._session, self._closing = session, closing
        self._learner: LearnerGroup | None = None
        self._has_learner_started = False
        self._newest_version = self._num_lost_here = 0
        self._learner_failures = start.failure_budget(
            config, "learners", "often too little memory: lower learner.max_tokens_per_micro_batch"
        )
        closing.callback(self._end_learner)
        self._rewards: RewardPool | None = None
        self.num_corrupt_images = 0
        self._prompts: dict[Path, PromptSource] = {}
        self.training_prompts = self.prompts_of(session.splits.train)
        self.prompts_of(answered)

    def prompts_of(self, path: Path) -> PromptSource:
        """The prompts of a split; its images lie in a store of their own, which is started on the first call."""
        if path not in self._prompts:
            config, model_path = self._session.config, self._session.model_path
            fetch = start.image_fetcher(config, path, model_path, self._skip, self._session.on_event)
            self._prompts[path] = PromptSource(self._session.splits.open(path), fetch, config, model_path)
        return self._prompts[path]

    @property
    def learner(self) -> Learner:
        """The learner group, holding the SFT policy as policy and reference when it comes up.

        Raises:
            LearnerLostError: A rank died or hung while it came up.
        """
        if not self._has_learner_started:
            if self._session.config.rollout.sleep:  # an engine that starts counts the memory that it finds
                self.pool.rest()
            self._hire().start()
            self._has_learner_started = True
        return self._hire()

    def hire_learner(self) -> None:
        """Asks for the learner's processes early: they import what they need while engines start.

        Several engines that share their GPUs with ranks must have their places first. Of ranks that want a part of a
        GPU each, Ray puts two on one that is free, and there is no room left for an engine.
        """
        rollout = self._session.config.rollout
        if not (rollout.sleep and rollout.num_workers > 1):
            self._hire()

    def _hire(self) -> "LearnerGroup":
        if self._learner is None:
            session = self._session
            self._learner = start.learner_group(session.config, session.model_path, session.run.sft_adapter)
        return self._learner

    def drop_learner(self, error: LearnerLostError) -> None:
        """Ends the ranks that are left, so that the next use of `learner` starts all of them; engines go on.

        Raises:
            WorkerDiedError: The learner was lost more often than the failure budget allows, or as often at one place,
                however long each time took: what hangs for its whole deadline would hang for ever.
        """
        self._end_learner()
        reason = f"{error.where}: {error.message}"
        self._learner_failures.record(time.monotonic(), reason)
        self._num_lost_here += 1
        if self._num_lost_here > (most := self._session.config.failures.max_restarts):
            raise WorkerDiedError(
                f"the learner was lost {counted(self._num_lost_here, 'time')} without a step beyond policy version "
                f"{self._newest_version}, {counted(most, 'restart is', 'restarts are')} allowed; the last time: "
                f"{reason}",
                where="failures.max_restarts",
                remedy=error.remedy or "it fails at the same place each time: see what it says there",
            )

    def _end_learner(self) -> None:
        if self._learner is not None:
            self._learner.close()
            self._learner, self._has_learner_started = None, False

    @property
    def ports(self) -> Ports:
        """What the GRPO loop drives."""
        if self._rewards is None:
            self._rewards = start.reward_pool(self._session.config, self._session.on_event)
            self._closing.callback(self._rewards.close)
        return traced(Ports(self.pool, self._rewards, self.learner, self.publisher))

    def counters(self) -> dict[str, float]:
        """What went wrong so far and was lived with."""
        counters = {
            "num_corrupt_images": float(self.num_corrupt_images),
            "num_rollout_workers": float(self.pool.num_up),
            "num_rollout_failures": float(self.pool.num_deaths),
            "num_rollout_departures": float(self.pool.num_departures),
            "num_learner_restarts": float(self._learner_failures.num_failures),
        }
        if self._rewards is not None:
            counters |= {
                "num_reward_timeouts": float(self._rewards.counters.timeouts),
                "num_reward_failures": float(self._rewards.counters.failures),
                "num_reward_deaths": float(self._rewards.counters.deaths),
            }
        return counters

    def observe(self, metrics: Mapping[str, float]) -> None:
        """Takes note of a step: how far training is, and, for an elastic pool, where the time went."""
        from actors.scaling import StepTimes

        if metrics["policy_version"] > self._newest_version:
            self._newest_version, self._num_lost_here = int(metrics["policy_version"]), 0
        is_ahead = self._session.config.grpo.max_staleness > 0
        step = StepTimes(
            step_s=metrics["seconds"],
            generate_s=metrics["seconds/generate"],
            learner_waited_s=metrics["seconds/wait"],
            rollout_waited_s=metrics["seconds/idle"] if is_ahead else 0.0,
        )
        self.pool.scaler.observe(step, int(metrics["num_groups"]))

    def _skip(self, error: DataError) -> None:
        start.leave_out(error, config=self._session.config, on_event=self._session.on_event)
        self.num_corrupt_images += 1


@contextmanager
def open_policies(config: Config, model_path: Path, on_event: OnEvent) -> Iterator[Policies]:
    """Starts engines alone, and ends them afterwards."""
    policies = Policies(config, model_path, on_event)
    try:
        yield policies
    finally:
        policies.pool.close()


@contextmanager
def open_fleet(session: Session, answered: Path) -> Iterator[Fleet]:
    """Starts the engines, and ends every actor afterwards; `answered` is the split that phases will answer."""
    with ExitStack() as closing:
        yield Fleet(session, closing, answered)


def read_policy(folder: Path, version: int) -> PolicyBlob:
    """What a folder holds, ready to publish: an adapter in PEFT layout, or the weights of a whole model.

    Raises:
        CheckpointError: A file of it is missing or damaged, or the adapter is more than plain LoRA.
    """
    from safetensors import SafetensorError

    try:
        is_whole = any(folder.glob("model*.safetensors"))
        return read_weights(folder, version) if is_whole else _read_adapter(folder, version)
    except CheckpointError:
        raise
    except (OSError, ValueError, SafetensorError) as error:
        raise CheckpointError(
            f"the policy cannot be read: {error}",
            where=str(folder),
            remedy="give a folder with an adapter or a whole model; one that fxray made can be deleted: the same "
            "command makes it again",
        ) from error


def _read_adapter(folder: Path, version: int) -> AdapterBlob:
    from safetensors import safe_open

    content = (folder / ADAPTER_WEIGHTS_FILE).read_bytes()
    with safe_open(folder / ADAPTER_WEIGHTS_FILE, framework="np") as tensors:
        modules = {name.partition(".lora_")[0] for name in tensors.keys()}  # noqa: SIM118  not a mapping
    config = json.loads((folder / ADAPTER_CONFIG_FILE).read_text())
    if not isinstance(config, dict) or type(config.get("r")) is not int:
        raise ValueError(f"{ADAPTER_CONFIG_FILE} is no adapter's: expected an object with the rank r as a whole number")
    for name, plain in PLAIN_LORA.items():
        if config.get(name, plain) not in (plain, None, False, {}, []):
            raise CheckpointError(
                f"an adapter with {name} = {json.dumps(config[name])[:60]} is not supported: LoRA with one rank and "
                "alpha for all modules, on weights alone, is",
                where=str(folder / ADAPTER_CONFIG_FILE),
                remedy=f"train it without {name}; or merge it into its base (PEFT: merge_and_unload), save that, and "
                "give the folder of the whole model",
            )
    return AdapterBlob(version, content, config, hashlib.sha256(content).hexdigest(), len(modules))


def write_policy(policy: PolicyBlob, folder: Path) -> None:
    """Writes what `read_policy` reads of a policy that is only published again.

    Raises:
        DeadlineError: The pieces of whole weights do not arrive.
    """
    folder.mkdir(parents=True)
    if isinstance(policy, AdapterBlob):
        (folder / ADAPTER_WEIGHTS_FILE).write_bytes(policy.safetensors)
        (folder / ADAPTER_CONFIG_FILE).write_text(json.dumps(policy.peft_config))
        return
    from actors.rollout_worker import fetch_pieces

    with (folder / MODEL_WEIGHTS_FILE).open("wb") as file:
        for piece in fetch_pieces(policy):
            file.write(piece.data)
