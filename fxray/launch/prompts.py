"""From rows of a dataset to the prompts of a step. Images are asked of the image store and stay references.

The store also changes those that are learnt from as they may reach a detector: the driver never reads pixels.
"""

from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

from fxray.config.tree import Config
from fxray.data.augment import drawn
from fxray.data.dataset import Dataset
from fxray.data.frame import Frame, frame_of, sight_of
from fxray.data.order import derived_seed, rows_of_step
from fxray.grammar.prompts import EVALUATION_TEMPLATE, Template, draw_template, templates_of
from fxray.grpo.types import PromptGroup, SeenImage, Visit
from fxray.schema import Sample

Fetch = Callable[[Sequence[Visit]], list[SeenImage | None]]
"""Gives the images of visits; None for one that cannot be read and is to be left out."""
MOST_BATCHES = 10
"""Where none of so many batches has an image that can be read, it is the disk, and no image."""


def frame_rule(config: Config, model_path: Path) -> Callable[[Sample], Frame]:
    """The frame in which the base model of a configuration sees a sample."""
    model = config.model
    return partial(frame_of, min_pixels=model.min_pixels, max_pixels=model.max_pixels, sight=sight_of(model_path))


class PromptSource:
    """The prompts of one dataset.

    Args:
        dataset: The samples, without pixels.
        fetch: Gives images.
        config: For seed, templates, view, pixel bounds and batch size.
        model_path: Folder of the base model, whose tokenizer knows the chat format.
    """

    def __init__(self, dataset: Dataset, fetch: Fetch, config: Config, model_path: Path) -> None:
        from fxray.model.prompts import load_chat, render_prompt

        tokenizer = load_chat(model_path)
        self._prompts = [render_prompt(tokenizer, template) for template in templates_of(config.data.view)]
        self._dataset = dataset
        self._fetch = fetch
        self._config = config
        self._frame_of = frame_rule(config, model_path)

    def __len__(self) -> int:
        """Rows of the dataset."""
        return len(self._dataset)

    def of_step(self, stage: str, step: int) -> list[PromptGroup]:
        """Prompts of a training step: a function of seed, stage and step alone.

        Returns:
            `grpo.prompts_per_step` prompts, fewer where an image cannot be read and the configuration lets it be. Of a
            step without any that can, a small one, the rows of the next that has some; none where that is far.
        """
        tries = (self._of_batch(stage, step, batch) for batch in range(step, step + MOST_BATCHES))
        return next(filter(None, tries), [])

    def _of_batch(self, stage: str, step: int, batch: int) -> list[PromptGroup]:
        """Prompts of a step with the rows of a batch."""
        config = self._config
        rows = rows_of_step(
            config.seed,
            stage,
            num_rows=len(self._dataset.samples),
            batch_size=config.grpo.prompts_per_step,
            step=batch,
        )
        keys = [(config.seed, f"{stage}/{self._dataset.samples[row].sample_id}", epoch) for epoch, row in rows]
        share = config.grpo.augment_share
        visits = [Visit(row, key if drawn(share, *key) else None) for (_, row), key in zip(rows, keys, strict=True)]
        groups = []
        for position, (visit, key, image) in enumerate(zip(visits, keys, self._fetch(visits), strict=True)):
            if image is not None:
                verdict = self._dataset.samples[visit.row].annotation.verdict
                template = draw_template(config.data.templates, verdict, key)
                groups.append(self._group(f"{stage}/{step}/{position}", visit.row, image, template))
        return groups

    def of_rows(self, rows: Sequence[int]) -> list[PromptGroup]:
        """Prompts of an evaluation, all with the one template that evaluation uses."""
        images = self._fetch([Visit(row) for row in rows])
        return [
            self._group(f"evaluation/{row}", row, image, EVALUATION_TEMPLATE)
            for row, image in zip(rows, images, strict=True)
            if image is not None
        ]

    def _group(self, group_id: str, row: int, image: SeenImage, template: Template) -> PromptGroup:
        sample = image.moved or self._dataset.samples[row]
        return PromptGroup(
            group_id=group_id,
            sample_id=sample.sample_id,
            image=image.ref,
            prompt=self._prompts[template.index],
            annotation=sample.annotation,
            frame=self._frame_of(sample),
            seed=derived_seed(self._config.seed, group_id),
        )
