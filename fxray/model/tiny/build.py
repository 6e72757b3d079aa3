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
from transformers import PreTrainedTokenizerFast, Qwen2_5_VLForConditionalGeneration

from fxray.files import atomic_dir
from fxray.model.folder import refuse_unless_model
from fxray.model.tiny.ability import Ability, measure_ability
from fxray.model.tiny.architecture import build_model, save_model, sharpen
from fxray.model.tiny.pretrain import SHARDS_PER_STEP, CellHeads, WeightAverage, pretrain_language, pretrain_vision
from fxray.model.tiny.vocabulary import build_tokenizer

Progress = Callable[[str, int, int, float], None]
"""Called with the stage's name, steps done, steps in all and the loss."""


@dataclass(frozen=True, slots=True)
class Recipe:
    """How long each stage is, and the seed of weights and scenes."""

    seed: int = 0
    stage_1_steps: int = 2000
    stage_2_steps: int = 4500


def build(out_dir: Path, recipe: Recipe, *, threads: int, progress: Progress) -> Ability:
    """Trains the tiny model and writes it with its model card, loadable by transformers and vLLM, to `out_dir`.

    Args:
        out_dir: Appears as a whole at the end, in place of a model that is there.
        recipe: Seed and steps.
        threads: Processes that share out each step's shards, one thread each; there is work for two. How many there
            are changes the result by rounding only.
        progress: Told about each step.

    Returns:
        What the model can do on photographs it was not trained on.

    Raises:
        ConfigError: Something that is no model lies at `out_dir`.
        ModelError: A loss or gradient is not finite; a model that is at `out_dir` is untouched.
    """
    refuse_unless_model(out_dir)
    start_s = time.monotonic()
    world = min(threads, SHARDS_PER_STEP)
    with tempfile.TemporaryDirectory() as meeting:
        store = f"file://{meeting}/store"
        context = mp.get_context("spawn")
        others = [
            context.Process(target=_train, args=(rank, world, store, recipe, _stay_silent), daemon=True)
            for rank in range(1, world)
        ]
        for process in others:
            process.start()
        model, tokenizer = _train(0, world, store, recipe, progress)
        for process in others:
            process.join()
    ability = measure_ability(model, tokenizer)
    with atomic_dir(out_dir) as folder:
        save_model(folder, model, tokenizer)
        card = _write_card(recipe, ability, model.num_parameters(), time.monotonic() - start_s)
        (folder / "README.md").write_text(card)
    return ability


def _stay_silent(stage: str, step: int, num_steps: int, loss: float) -> None:
    pass


def _train(
    rank: int, world: int, store: str, recipe: Recipe, progress: Progress
) -> tuple[Qwen2_5_VLForConditionalGeneration, PreTrainedTokenizerFast]:
    """Both stages as one of `world` ranks that meet at `store`; all ranks end with the same weights."""
    torch.set_num_threads(1)
    distributed.init_process_group("gloo", init_method=store, rank=rank, world_size=world)
    tokenizer = build_tokenizer()
    model = build_model(tokenizer, recipe.seed)
    heads = CellHeads()
    pretrain_vision(
        model,
        tokenizer,
        heads,
        num_steps=recipe.stage_1_steps,
        seed=2 * recipe.seed,
        on_step=lambda step, loss: progress("vision", step, recipe.stage_1_steps, loss),
    )
    average = WeightAverage(model)
    pretrain_language(
        model,
        tokenizer,
        heads,
        average,
        num_steps=recipe.stage_2_steps,
        seed=2 * recipe.seed + 1,
        on_step=lambda step, loss: progress("language", step, recipe.stage_2_steps, loss),
    )
    average.swap()
    sharpen(model)
    distributed.destroy_process_group()
    return model, tokenizer


def _write_card(recipe: Recipe, ability: Ability, num_parameters: int, seconds: float) -> str:
    template = resources.files(__package__).joinpath("card.md").read_text()
    return template.format(
        recipe=recipe, ability=ability, millions=num_parameters / 1e6, minutes=seconds / 60, torch=torch.__version__
    )
