"""A GRPO stage on a cluster that autoscales, for test_elastic.py: `python elastic_stage.py ADDRESS MODEL FOLDER`.

The same eight steps twice, from the same learner: by a pool that grows from one engine to three and shrinks again, each
on a node of its own, and by one engine, whose node is drained after half of them, as a spot notice does. What the rule
is told of the steps' times is made up; everything else is real.
"""

import io
import json
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import ray
from PIL import Image
from small_engine import small_engine

from actors.errands import Deadlines
from actors.failures import FailureBudget
from actors.learner import LearnerGroup, LearnerSpec
from actors.nodes import cluster_nodes
from actors.placement import ROLLOUT, actor_options, reserved
from actors.rollout import RolloutPool
from actors.rollout_worker import rollout_spawner
from actors.scaling import Limits, Scaler, StepTimes
from actors.weight_sync import PolicyPublisher
from fxray.data.frame import Frame
from fxray.grammar.prompts import TEMPLATES
from fxray.grpo.loop import Cursor, Ports, StagePlan, run_stage
from fxray.grpo.types import GroupScore, ImageRef, PromptGroup, RolloutGroup, SamplingSettings, UpdateSettings
from fxray.model.prompts import load_tokenizer, render_prompt
from fxray.schema import Annotation, Verdict
from rewards.stage import RightWrong, StageRewards

NUM_STEPS, NUM_GROUPS, DEADLINE_S = 8, 6, 900
SLOW = {1: StepTimes(1000, 900, 900, 0), 2: StepTimes(600, 500, 500, 0), 3: StepTimes(1000, 10, 0, 990)}
"""What the rule is told, for each size: three are more than the learner needs."""
PLAN = StagePlan(
    name="alpha",
    rewards=StageRewards("alpha", 0.0, 1.0, RightWrong(1, -1), RightWrong(1, -1)),
    num_steps=NUM_STEPS,
    sampling=SamplingSettings(group_size=4, temperature=1.0, max_new_tokens=16),
    update=UpdateSettings(1e-3, 1.0, 0.2, 0.2, 0.04, "answer", 2.0, 1, 16),
    warmup_steps=0,
    rate_decay="none",
    normalisation="group-std",
    probe_every_steps=1,
    probe_tolerance_nats=1e-4,
    max_staleness=0,
)


class Scorer:
    """Longer texts are worth more; remembers whose groups it saw, and what they were."""

    def __init__(self) -> None:
        self.steps: list[dict[str, list[int]]] = []

    def score(self, groups: Sequence[RolloutGroup], stage: StageRewards, progress_frac: float) -> list[GroupScore]:
        drawn = {each.prompt.group_id: np.concatenate([r.token_ids for r in each.rollouts]).tolist() for each in groups}
        self.steps.append(drawn)
        lengths = [np.array([float(len(r.text)) for r in each.rollouts]) for each in groups]
        return [
            GroupScore(each.prompt.group_id, rewards_G, {"length": rewards_G}, np.ones(len(rewards_G), np.bool_))
            for each, rewards_G in zip(groups, lengths, strict=True)
        ]


def prompts(model: Path, step: int) -> list[PromptGroup]:
    tokenizer, groups = load_tokenizer(model), []
    for i in range(NUM_GROUPS):
        buffer = io.BytesIO()
        rng = np.random.default_rng([step, i])
        Image.fromarray(rng.integers(0, 255, (112, 112, 3), dtype=np.uint8)).save(buffer, "PNG")
        image = ImageRef(ray.put(buffer.getvalue()), len(buffer.getvalue()))
        prompt, frame = render_prompt(tokenizer, TEMPLATES[i % 9]), Frame(112, 112, 112, 112)
        groups.append(
            PromptGroup(f"alpha/{step}/{i}", f"s{i}", image, prompt, Annotation(Verdict.REAL), frame, 100 * step + i)
        )
    return groups


def make_pool(model: Path, notes: list[str]) -> RolloutPool:
    settings = small_engine(model, max_num_seqs=4)
    options = actor_options(num_cpus=1, num_gpus=0, node_type=ROLLOUT)
    return RolloutPool(
        rollout_spawner(settings, options),
        scaler=Scaler(1, Limits(1, 3, every_steps=1)),
        min_workers=1,
        max_num_seqs=4,
        deadlines=Deadlines(DEADLINE_S, DEADLINE_S, 120),
        failures=FailureBudget("rollout workers", max_restarts=0, window_s=3600, remedy=""),
        nodes=cluster_nodes(reserved(options), autoscales=True),
        on_event=lambda event: notes.append(str(getattr(event, "text", event))),
    )


def make_learner(model: Path) -> LearnerGroup:
    spec = LearnerSpec(
        model_path=str(model),
        dtype="float32",
        min_pixels=56 * 56,
        max_pixels=112 * 112,
        lora_rank=8,
        lora_alpha=32.0,
        initial_policy=None,
        seed=0,
        weight_decay=0.0,
        max_grad_norm=1.0,
        zero_stage=0,
        max_tokens_per_micro_batch=800,
        max_groups_per_micro_batch=0,
        gradient_checkpointing=False,
        threads=1,
        yields_memory=False,
        memory_remedy="",
    )
    learner = LearnerGroup(
        spec,
        num_ranks=1,
        cpus_per_rank=1,
        gpus_per_rank=0,
        start_deadline_s=DEADLINE_S,
        step_deadline_s=DEADLINE_S,
        hang_deadline_s=DEADLINE_S,
        node_type="learner",
    )
    learner.start()
    return learner


def num_nodes() -> int:
    return sum(node["Alive"] and ROLLOUT in node["Resources"] for node in ray.nodes())


def drain(node: str) -> None:
    from ray._raylet import GcsClient
    from ray.core.generated import autoscaler_pb2

    reason = autoscaler_pb2.DrainNodeReason.Value("DRAIN_NODE_REASON_PREEMPTION")
    end_ms = int((time.time() + DEADLINE_S) * 1000)
    GcsClient(address=ray.get_runtime_context().gcs_address).drain_node(node, reason, "spot notice", end_ms)


class Patient:
    """Draws from the pool when as many workers are up as there should be; so that it is known who draws what."""

    def __init__(self, pool: RolloutPool, drained_step: int | None) -> None:
        self._pool, self._drained_step = pool, drained_step
        self.up: list[int] = []
        self.nodes: list[int] = []

    def generate(self, prompts: Sequence[PromptGroup], sampling: SamplingSettings) -> list[RolloutGroup]:
        pool, step, end_s = self._pool, len(self.up), time.monotonic() + DEADLINE_S
        if step == self._drained_step:
            drain(pool._crew.members[0].node)
        is_drained = self._drained_step is not None and step >= self._drained_step
        while pool.num_up < pool.scaler.num_workers or (is_drained and not pool.num_departures):
            pool._settle(end_s, "engines on new nodes")
        self.up.append(pool.num_up)
        self.nodes.append(num_nodes())
        return pool.generate(prompts, sampling)


def train(model: Path, pool: RolloutPool, learner: LearnerGroup, drained_step: int | None = None) -> dict[str, Any]:
    generator, scorer, losses = Patient(pool, drained_step), Scorer(), []

    def observe(cursor: Cursor, metrics: dict[str, float]) -> None:
        losses.append(metrics["loss"])
        if cursor.step < NUM_STEPS:  # what the last step said would be acted on after it
            pool.scaler.observe(SLOW[pool.scaler.num_workers], NUM_GROUPS)

    def draw(step: int) -> list[PromptGroup]:
        return prompts(model, step)

    ports = Ports(generator, scorer, learner, PolicyPublisher(pool))
    run_stage(PLAN, Cursor("alpha", 0, 0), ports, draw=draw, observe=observe, save=lambda *_: None)
    return {"losses": losses, "up": generator.up, "nodes": generator.nodes, "drawn": scorer.steps}


def main(address: str, model: Path, folder: Path) -> None:
    ray.init(address=address, namespace="fxray", log_to_driver=False)
    notes: list[str] = []
    start_s = time.monotonic()
    pool, learner = make_pool(model, notes), make_learner(model)
    (folder / "start").mkdir()
    learner.save(folder / "start")
    results = {"elastic": train(model, pool, learner), "elastic_s": time.monotonic() - start_s}
    learner.load(folder / "start")
    learner.reset_optimizer()
    pool.scaler = Scaler(1, None)
    results["fixed"] = train(model, pool, learner, drained_step=4)
    end_s = time.monotonic() + 120
    while num_nodes() > 1 and time.monotonic() < end_s:
        time.sleep(0.5)
    results |= {"departures": pool.num_departures, "failures": pool.num_deaths}
    results |= {"nodes_at_end": num_nodes(), "seconds": time.monotonic() - start_s, "notes": notes}
    (folder / "results.json").write_text(json.dumps(results))
    learner.close()
    pool.close()


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]), Path(sys.argv[3]))
