"""The detector: an engine, and how it is asked about an image."""

import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from PIL import Image

from fxray.data.frame import Frame, smart_frame
from fxray.engine.engine import Answers, Question
from fxray.evaluate.predictions import Prediction, from_answer
from fxray.grammar.views import ViewName
from fxray.grpo.types import SamplingSettings


class AnswerSource(Protocol):
    """Whatever answers questions about images: an `Engine`, an actor that holds one, a fake."""

    def generate(self, questions: Sequence[Question], sampling: SamplingSettings) -> list[Answers]:
        """Returns the answers in the order of `questions`."""
        ...


@dataclass(frozen=True, slots=True)
class Detector:
    """A trained model that says of an image whether, where and why it looks generated.

    Attributes:
        source: Answers from the adapter that the detector is to use.
        prompt: Chat text with one image placeholder: `render_prompt(tokenizer, EVALUATION_TEMPLATE)`.
        min_pixels: Smallest area of an image after resizing, in square pixels, as in training.
        max_pixels: Largest area of an image after resizing, in square pixels, as in training.
        max_new_tokens: Longest answer.
        view: What the answers speak of, as in training.
    """

    source: AnswerSource
    prompt: str
    min_pixels: int
    max_pixels: int
    max_new_tokens: int
    view: ViewName = "full"

    def frame_of(self, image: Image.Image) -> Frame:
        """What the model sees of an image.

        Raises:
            DataError: The image is more than 200 times longer than broad.
        """
        return smart_frame(image.width, image.height, min_pixels=self.min_pixels, max_pixels=self.max_pixels)

    def predict(self, images: Sequence[tuple[str, Image.Image]]) -> list[Prediction]:
        """One greedy answer per image, all in one batch.

        Args:
            images: Name and upright RGB pixels of each.

        Returns:
            In the order of `images`; `sample_id` is the name, boxes are in pixels of the image, `seconds` is the
            batch's time shared out evenly.

        Raises:
            DataError: An image is more than 200 times longer than broad.
            ConfigError: Prompt, image and answer exceed what the engine was made for.
        """
        frames = [self.frame_of(image) for _, image in images]
        questions = [Question(self.prompt, image, seed=0, where=name) for name, image in images]
        start_s = time.monotonic()
        answers = self.source.generate(questions, SamplingSettings(1, 0.0, 1.0, self.max_new_tokens))
        seconds = (time.monotonic() - start_s) / max(1, len(images))
        return [
            from_answer(
                name,
                frame,
                answer.rollouts[0].text,
                is_finished=answer.rollouts[0].is_finished,
                seconds=seconds,
                view=self.view,
            )
            for (name, _), frame, answer in zip(images, frames, answers, strict=True)
        ]
