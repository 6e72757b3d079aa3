"""A stage without LoRA for real: DeepSpeed changes all weights, vLLM samples from them, and each sync is proved."""

import io
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import ray
from PIL import Image
from small_engine import small_engine

from actors.errands import Deadlines
from actors.failures import FailureBudget
from actors.learner import LearnerGroup, LearnerSpec
from actors.nodes import STEADY
from actors.rollout import RolloutPool
from actors.rollout_worker import fetch_pieces, rollout_spawner
from actors.scaling import Scaler
from actors.weight_sync import PolicyPublisher
from fxray.data.frame import Frame
from fxray.errors import SyncError
from fxray.grammar.prompts import TEMPLATES
from fxray.grpo.loop import LARGEST_GAP, Cursor, Ports, StagePlan, prove_policy, run_stage
from fxray.grpo.types import (
    GroupScore,
    ImageRef,
    PromptGroup,
    RolloutGroup,
    SamplingSettings,
    UpdateSettings,
    WeightsBlob,
)
from fxray.launch.fleet import read_policy, write_policy
from fxray.schema import Annotation, Verdict
from fxray.tensor_file import pieces_sha256
from rewards.stage import RightWrong, StageRewards

pytestmark = [pytest.mark.ray, pytest.mark.vllm, pytest.mark.slow, pytest.mark.long, pytest.mark.timeout(1200)]

TOLERANCE_NATS, DEADLINE_S = 1e-4, 580.0
PLAN = StagePlan(
    name="alpha",
    rewards=StageRewards("alpha", 0.0, 1.0, RightWrong(1.0, 0.0), RightWrong(1.0, 0.0), custom=(), view="full"),
    num_steps=2,
    sampling=SamplingSettings(group_size=4, temperature=1.0, max_new_tokens=12),
    update=UpdateSettings(
        learning_rate=1e-3,
        temperature=1.0,
        clip_low=0.2,
        clip_high=0.2,
        kl_beta=0.04,
        loss_aggregation="answer",
        importance_cap=2.0,
        num_updates=1,
        max_new_tokens=12,
    ),
    warmup_steps=0,
    rate_decay="none",
    normalisation="group-std",
    probe_every_steps=1,
    probe_tolerance_nats=TOLERANCE_NATS,
    max_staleness=0,
)


class Scorer:
    """Likes answers by their first token, so that every group has spread."""

    def score(self, groups: Sequence[RolloutGroup], stage: StageRewards, progress_frac: float) -> list[GroupScore]:
        first = [np.array([float(each.token_ids[0]) for each in group.rollouts]) for group in groups]
        return [
            GroupScore(group.prompt.group_id, rewards_G, {}, np.ones(len(rewards_G), np.bool_))
            for group, rewards_G in zip(groups, first, strict=True)
        ]


@pytest.fixture(scope="module")
def running(cluster: None, random_model_dir: Path) -> Iterator[SimpleNamespace]:
    """A learner and an engine of one thread each."""
    shared = {"dtype": "float32", "min_pixels": 56 * 56, "max_pixels": 112 * 112, "lora_rank": 0, "threads": 1}
    settings = small_engine(random_model_dir, **shared)
    pool = RolloutPool(
        rollout_spawner(settings, {"num_cpus": 0}),
        scaler=Scaler(1, None),
        min_workers=1,
        max_num_seqs=16,
        deadlines=Deadlines(DEADLINE_S, DEADLINE_S, DEADLINE_S),
        failures=FailureBudget("rollout workers", max_restarts=1, window_s=600, remedy=""),
        nodes=STEADY,
    )
    spec = LearnerSpec(
        model_path=str(random_model_dir),
        lora_alpha=0.0,
        initial_policy=None,
        seed=0,
        weight_decay=0.0,
        max_grad_norm=1.0,
        zero_stage=0,
        max_tokens_per_micro_batch=800,
        max_groups_per_micro_batch=0,
        gradient_checkpointing=False,
        yields_memory=False,
        memory_remedy="",
        **shared,
    )
    deadlines = {"start_deadline_s": DEADLINE_S, "step_deadline_s": DEADLINE_S, "hang_deadline_s": DEADLINE_S}
    learner = LearnerGroup(spec, num_ranks=1, cpus_per_rank=0, gpus_per_rank=0, **deadlines)
    learner.start()
    yield SimpleNamespace(pool=pool, learner=learner, publisher=PolicyPublisher(pool), model=random_model_dir)
    learner.close()
    pool.close()


def prompts(model: Path, step: int) -> list[PromptGroup]:
    from fxray.model.prompts import load_tokenizer, render_prompt

    tokenizer, rng = load_tokenizer(model), np.random.default_rng(step)
    groups = []
    for i in range(2):
        buffer = io.BytesIO()
        Image.fromarray(rng.integers(0, 255, (112, 112, 3), dtype=np.uint8)).save(buffer, "PNG")
        image = ImageRef(buffer.getvalue(), buffer.tell())
        prompt, frame = render_prompt(tokenizer, TEMPLATES[i]), Frame(112, 112, 112, 112)
        groups.append(PromptGroup(f"{step}/{i}", f"s{i}", image, prompt, Annotation(Verdict.REAL), frame, 9 * step + i))
    return groups


def tensors(blob: WeightsBlob) -> dict[str, np.ndarray]:
    from safetensors.numpy import load

    return load(b"".join(piece.tobytes() for piece in fetch_pieces(blob)))


def train(running: SimpleNamespace) -> list[dict[str, float]]:
    """Two steps; the metrics of each."""
    steps: list[dict[str, float]] = []
    ports = Ports(running.pool, Scorer(), running.learner, running.publisher)
    run_stage(
        PLAN,
        Cursor("alpha", 0, 0),
        ports,
        draw=lambda step: prompts(running.model, step),
        observe=lambda cursor, metrics: steps.append(metrics),
        save=lambda *_: None,
    )
    return steps


def test_a_stage_changes_all_weights_and_every_sync_is_proved(running: SimpleNamespace) -> None:
    before = tensors(running.learner.export_policy(0))
    steps = train(running)  # probes the policies of both steps and of the end
    after = tensors(running.learner.export_policy(2))
    assert [name for name in before if np.array_equal(before[name], after[name])] == []
    assert all(step["probe_mean_nats"] < TOLERANCE_NATS for step in steps)
    assert all(step["probe_gap_nats"] < LARGEST_GAP * TOLERANCE_NATS for step in steps)
    assert all(step["grad_norm"] > 0 for step in steps)
    assert (steps[0]["kl"], steps[0]["ratio_max"]) == (pytest.approx(0, abs=1e-6), 1)
    assert steps[1]["kl"] > 0


def test_an_engine_that_takes_the_place_of_a_dead_one_proves_the_newest_weights(running: SimpleNamespace) -> None:
    newest = running.learner.export_policy(7)
    (proof,) = running.publisher.publish(newest)
    ray.kill(running.pool._crew.members[0].actor)
    drawn = running.pool.generate(prompts(running.model, 0), PLAN.sampling)
    assert {group.policy_version for group in drawn} == {7}
    (heir,) = [worker.proof for worker in running.pool._crew.members]
    assert (heir.sha256, heir.num_bound_modules) == (proof.sha256, newest.num_modules)
    assert heir.worker != proof.worker
    assert prove_policy(running.learner, drawn, PLAN)["probe_mean_nats"] < TOLERANCE_NATS


def test_weights_are_kept_for_steps_to_come_and_are_the_same_when_read(
    running: SimpleNamespace, tmp_path: Path
) -> None:
    newest = running.learner.export_policy(8)
    write_policy(newest, tmp_path / "8")
    read = read_policy(tmp_path / "8", 8)
    assert (read.sha256, read.num_modules, read.num_bytes) == (newest.sha256, newest.num_modules, newest.num_bytes)
    running.learner.save(tmp_path / "kept")
    weights = tensors(newest)
    running.learner.load(tmp_path / "kept")
    assert all(np.array_equal(each, weights[name]) for name, each in tensors(running.learner.export_policy(9)).items())
    assert read_policy(tmp_path / "kept" / "adapter", 1).sha256 == newest.sha256  # float32 is what is published


def test_weights_that_are_stale_cut_or_damaged_stop_the_run(running: SimpleNamespace) -> None:
    newest = running.learner.export_policy(10)
    header, content = fetch_pieces(newest)
    zeroed = (header, np.zeros_like(content))  # whole and sound, and not the learner's
    running.publisher.publish(replace(newest, version=11, pieces=zeroed, sha256=pieces_sha256(zeroed)))
    drawn = running.pool.generate(prompts(running.model, 0), PLAN.sampling)
    with pytest.raises(SyncError, match="log-probabilities differ from the learner's"):
        prove_policy(running.learner, drawn, PLAN)

    worker = running.pool._crew.members[0].actor
    with pytest.raises(SyncError, match="was published"):
        ray.get(worker.load_policy.remote(replace(newest, pieces=(header, content[:-8]))), timeout=DEADLINE_S)
    damaged = content.copy()
    damaged[1000] ^= 0x40
    with pytest.raises(SyncError, match="bytes of weights with sha256"):
        running.publisher.publish(replace(newest, version=12, pieces=(header, damaged)))
