"""Builds the tiny base model from nothing: tokenizer, architecture, two stages of pretraining, measured ability."""

import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from importlib import resources
from pathlib import Path

import torch
from torch import distributed
from torch import multiprocessing as mp

from fxray.files import atomic_dir
from fxray.model.tiny.ability import Ability, measure_ability
from fxray.model.tiny.architecture import build_model, save_model
from fxray.model.tiny.pretrain import SHARDS_PER_STEP, CellHeads, WeightAverage, pretrain_language, pretrain_vision
from fxray.model.tiny.vocabulary import build_tokenizer

STAGE_1_STEPS = 1500
STAGE_2_STEPS = 7000
_SAVE_EVERY_S = 240

Progress = Callable[[str, int, int, float], None]
"""Called with the stage's name, steps done, steps in all and the loss."""


@dataclass(frozen=True, slots=True)
class Recipe:
    """How long each stage is, and the seed of weights and scenes."""

    seed: int = 0
    stage_1_steps: int = STAGE_1_STEPS
    stage_2_steps: int = STAGE_2_STEPS


def build(out_dir: Path, recipe: Recipe, *, threads: int, progress: Progress) -> Ability:
    """Trains the tiny model and writes it, loadable by transformers and vLLM, to `out_dir`.

    One rank a thread shares out each step's batches; more than `SHARDS_PER_STEP` have nothing to do. Unfinished
    weights are written to `out_dir` every few minutes.

    Returns:
        What the model can do on scenes it was not trained on; also written into its model card.
    """
    world = min(threads, SHARDS_PER_STEP)
    start = time.monotonic()
    with tempfile.TemporaryDirectory() as meeting:
        store = f"file://{meeting}/store"
        others = [
            mp.get_context("spawn").Process(target=_follow, args=(rank, world, store, recipe), daemon=True)
            for rank in range(1, world)
        ]
        for process in others:
            process.start()
        ability = _train(0, world, store, recipe, out_dir, progress, start)
        for process in others:
            process.join()
    return ability


def _follow(rank: int, world: int, store: str, recipe: Recipe) -> None:
    _train(rank, world, store, recipe, None, lambda *_: None, 0.0)


def _train(
    rank: int, world: int, store: str, recipe: Recipe, out_dir: Path | None, progress: Progress, start_s: float
) -> Ability | None:
    torch.set_num_threads(1)
    distributed.init_process_group("gloo", init_method=store, rank=rank, world_size=world)
    tokenizer = build_tokenizer()
    model = build_model(tokenizer, recipe.seed)
    heads = CellHeads()
    saved_s = time.monotonic()

    def save() -> None:
        if out_dir is not None:
            with atomic_dir(out_dir) as folder:
                save_model(folder, model, tokenizer)

    def on_vision(step: int, loss: float) -> None:
        progress("vision", step, recipe.stage_1_steps, loss)

    def on_language(step: int, loss: float) -> None:
        nonlocal saved_s
        progress("language", step, recipe.stage_2_steps, loss)
        if time.monotonic() - saved_s > _SAVE_EVERY_S:
            saved_s = time.monotonic()
            average.swap()
            save()
            average.swap()

    pretrain_vision(
        model, tokenizer, heads, num_steps=recipe.stage_1_steps, seed=2 * recipe.seed, on_step=on_vision
    )
    average = WeightAverage(model)
    pretrain_language(
        model, tokenizer, heads, average, num_steps=recipe.stage_2_steps, seed=2 * recipe.seed + 1, on_step=on_language
    )
    distributed.destroy_process_group()
    if out_dir is None:
        return None
    average.swap()
    save()
    ability = measure_ability(model, tokenizer)
    return ability
