"""A rank in the test's own process, and groups of random answers for it."""

import io

import numpy as np
from PIL import Image

from actors.learner import LearnerSpec, RankPass
from actors.learner_rank import LearnerWorker
from fxray.data.frame import Frame
from fxray.grammar.prompts import TEMPLATES
from fxray.grpo.types import ImageRef, PromptGroup, Rollout, RolloutGroup, TrainingGroup, UpdateSettings
from fxray.model.prompts import encode_prompt, load_tokenizer, render_prompt
from fxray.schema import Annotation, Verdict

SETTINGS = UpdateSettings(
    learning_rate=1e-2,
    temperature=0.9,
    clip_low=0.2,
    clip_high=0.2,
    kl_beta=0.04,
    loss_aggregation="answer",
    importance_cap=0.0,
    num_updates=1,
    max_new_tokens=16,
)


def spec(model_dir, **changes):
    values = {
        "model_path": str(model_dir),
        "dtype": "float32",
        "min_pixels": 56 * 56,
        "max_pixels": 112 * 112,
        "lora_rank": 8,
        "lora_alpha": 32.0,
        "initial_policy": None,
        "seed": 0,
        "weight_decay": 0.01,
        "max_grad_norm": 1.0,
        "zero_stage": 0,
        "max_tokens_per_micro_batch": 400,
        "max_groups_per_micro_batch": 0,
        "gradient_checkpointing": False,
        "threads": 1,
        "yields_memory": False,
        "memory_remedy": "use smaller passes",
    }
    return LearnerSpec(**(values | changes))


def make_group(model_dir, index, *, num_image_tokens=16, encoded=None, valid=(True, True, True)):
    """A group of three random answers on a noise image of 112 x 112 px."""
    rng = np.random.default_rng(index)
    tokenizer = load_tokenizer(model_dir)
    prompt = render_prompt(tokenizer, TEMPLATES[index % len(TEMPLATES)])
    if encoded is None:
        buffer = io.BytesIO()
        Image.fromarray(rng.integers(0, 255, (112, 112, 3), dtype=np.uint8)).save(buffer, "PNG")
        encoded = buffer.getvalue()
    answers = [rng.integers(20, 250, length).astype(np.int32) for length in (5, 9, 3)]
    rollouts = tuple(Rollout(ids, np.full(len(ids), -5, np.float32), "", is_finished=True) for ids in answers)
    group = PromptGroup(
        group_id=f"alpha/0/{index}",
        sample_id=f"sample-{index}",
        image=ImageRef(encoded, len(encoded) if isinstance(encoded, bytes) else 0),
        prompt=prompt,
        annotation=Annotation(Verdict.REAL),
        frame=Frame(112, 112, 112, 112),
        seed=index,
    )
    ids = np.array(encode_prompt(tokenizer, prompt, num_image_tokens), np.int32)
    advantages = np.where(valid, rng.normal(size=3), 0).astype(np.float32)
    return TrainingGroup(RolloutGroup(group, ids, rollouts, 0), advantages, np.array(valid))


def one_pass(*groups):
    return [RankPass(tuple(groups), is_filler=False)]


def start(model_dir, **changes):
    worker = LearnerWorker(spec(model_dir, **changes), 0, 1)
    worker.start("", 0, 60)
    return worker
