"""From rows of a dataset to the prompts of a step. Images are asked of the image store and stay references."""

from collections.abc import Callable, Sequence
from pathlib import Path

from fxray.config.tree import Config
from fxray.data.dataset import Dataset
from fxray.data.frame import sight_of, smart_frame
from fxray.data.order import derived_seed, rows_of_step
from fxray.grammar.prompts import EVALUATION_TEMPLATE, Template, draw_template, templates_of
from fxray.grpo.types import ImageRef, PromptGroup

Fetch = Callable[[Sequence[int]], list[ImageRef | None]]
"""Gives the images of rows; None for one that cannot be read and is to be left out."""
MOST_BATCHES = 10
"""Where none of so many batches has an image that can be read, it is the disk, and no image."""


class PromptSource:
    """The prompts of one dataset.

    Args:
        dataset: The samples, without pixels.
        fetch: Gives images by row.
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
        self._sight = sight_of(model_path)

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
        visits = rows_of_step(
            config.seed,
            stage,
            num_rows=len(self._dataset.samples),
            batch_size=config.grpo.prompts_per_step,
            step=batch,
        )
        images = self._fetch([row for _, row in visits])
        groups = []
        for position, ((epoch, row), image) in enumerate(zip(visits, images, strict=True)):
            if image is not None:
                sample = self._dataset.samples[row]
                key = (config.seed, f"{stage}/{sample.sample_id}", epoch)
                template = draw_template(config.data.templates, sample.annotation.verdict, key)
                groups.append(self._group(f"{stage}/{step}/{position}", row, image, template))
        return groups

    def of_rows(self, rows: Sequence[int]) -> list[PromptGroup]:
        """Prompts of an evaluation, all with the one template that evaluation uses."""
        images = self._fetch(rows)
        return [
            self._group(f"evaluation/{row}", row, image, EVALUATION_TEMPLATE)
            for row, image in zip(rows, images, strict=True)
            if image is not None
        ]

    def _group(self, group_id: str, row: int, image: ImageRef, template: Template) -> PromptGroup:
        sample, model = self._dataset.samples[row], self._config.model
        return PromptGroup(
            group_id=group_id,
            sample_id=sample.sample_id,
            image=image,
            prompt=self._prompts[template.index],
            annotation=sample.annotation,
            frame=smart_frame(
                sample.width_px,
                sample.height_px,
                min_pixels=model.min_pixels,
                max_pixels=model.max_pixels,
                sight=self._sight,
            ),
            seed=derived_seed(self._config.seed, group_id),
        )
