"""The detector: an engine, and how it is asked about an image."""

import hashlib
import time
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path
from typing import Any, Protocol

from PIL import Image

from fxray.data.frame import AS_QWEN2_5_VL, Frame, Sight, smart_frame
from fxray.detect.detection import Detection, ImageSource, Picture, Timings, Versions, open_picture
from fxray.engine.engine import Answers, Question, Questions
from fxray.errors import ConfigError, DataError
from fxray.evaluate.calibration import Calibration, judge
from fxray.evaluate.predictions import from_answer
from fxray.grammar.views import ViewName
from fxray.grpo.types import Rollout, SamplingSettings

BATCH_SIZE = 64
"""Images that are held decoded and asked about at once."""
_NO_PIXELS = Image.new("RGB", (1, 1))


class AnswerSource(Protocol):
    """Whatever answers questions about images: an `Engine`, an actor that holds one, a fake."""

    def generate(self, questions: Sequence[Question], sampling: SamplingSettings) -> list[Answers]:
        """Returns the answers in the order of `questions`."""
        ...

    def stream(self, questions: Questions, sampling: SamplingSettings) -> Iterator[tuple[str, Answers | ConfigError]]:
        """Gives `where` of a question and its answers, or why it is refused, in whatever order."""
        ...


class Pictures(Protocol):
    """Images that become ready one after the other; no two have one name."""

    def take(self, *, wait: bool) -> Picture | None:
        """The next one that is ready. None means that none is, or, with `wait`, that no more will come."""
        ...


@dataclass(frozen=True, slots=True)
class _Asked:
    """What is remembered of a picture while the engine has it; the pixels are not."""

    picture: Picture
    frame: Frame
    start_s: float


@dataclass(frozen=True, slots=True)
class Detector:
    """A trained model that says of an image whether, where and why it looks generated.

        from fxray import Detector
        detector = Detector.load("runs/demo")
        for detection in detector.detect(["photo.jpg"]):
            print(detection.as_text())
            detection.draw("photo.jpg").save("drawn.png")

    Attributes:
        source: Answers from the adapter that the detector is to use.
        prompt: Chat text with one image placeholder: `render_prompt(tokenizer, EVALUATION_TEMPLATE)`.
        min_pixels: Smallest area of an image after resizing, in square pixels, as in training.
        max_pixels: Largest area of an image after resizing, in square pixels, as in training.
        max_new_tokens: Longest answer.
        versions: What answers.
        view: What the answers speak of, as in training.
        calibration: From the model's own probability to one that was held against the truth; None if there is none.
        sight: How the base model sees images.
    """

    source: AnswerSource
    prompt: str
    min_pixels: int
    max_pixels: int
    max_new_tokens: int
    versions: Versions
    view: ViewName = "full"
    calibration: Calibration | None = None
    sight: Sight = AS_QWEN2_5_VL

    @classmethod
    def load(
        cls, run_dir: str | Path, *, adapter: str | Path | None = None, overrides: Sequence[str] = ()
    ) -> "Detector":
        """Starts the engine of a run in this process; it lives as long as the process, which must not train.

        Args:
            run_dir: Of `fxray train`, here or in object storage (s3://...); its last finished phase answers.
            adapter: Folder in PEFT layout, in place of the run's last.
            overrides: Fields of the configuration, as `--set` of the command line: "rollout.max_num_seqs=8".

        Raises:
            CheckpointError: It is no run directory, nothing is finished in it, or the calibration beside the adapter
                is not of it.
            ConfigError: A field cannot stay as it is.
            ModelError: The engine cannot be started.
        """
        from fxray.detect.load import load_detector

        return load_detector(str(run_dir), Path(adapter) if adapter else None, overrides)

    def summary(self) -> dict[str, Any]:
        """What answers and how it is asked, as plain values: findings with the same are comparable."""
        calibration = self.calibration
        return {
            "fxray": self.versions.fxray,
            "base_model": self.versions.base,
            "base_fingerprint": self.versions.base_fingerprint or None,
            "dtype": self.versions.dtype or None,
            "adapter": self.versions.adapter or None,
            "adapter_sha256": self.versions.adapter_sha256 or None,
            "view": self.view,
            "prompt_sha256": hashlib.sha256(self.prompt.encode()).hexdigest(),
            "min_pixels": self.min_pixels,
            "max_pixels": self.max_pixels,
            "max_new_tokens": self.max_new_tokens,
            "sampling": "greedy, one answer",
            "calibration": calibration.sentence() if calibration else None,
            "calibration_sha256": calibration.sha256 if calibration else None,
        }

    def detect(self, images: Iterable[ImageSource]) -> list[Detection]:
        """One greedy answer per image, in batches so that few images are held decoded at once.

        Calls of several threads wait for each other.

        Args:
            images: Paths, encoded images or pixels (`PIL.Image.Image`), in a list or one by one.

        Returns:
            One detection per image, in order; boxes are in pixels of the upright original.

        Raises:
            DataError: An image cannot be read, or is more than 200 times longer than broad, and none of the list has a
                detection; or it is no list.
            ConfigError: Prompt, image and answer exceed what the engine was made for.
            ResourceError: The detector was loaded before this process was forked off another.
        """
        if isinstance(images, ImageSource) or hasattr(images, "read") or not isinstance(images, Iterable):
            raise DataError(f"expected a list of images, got one {type(images).__name__}", remedy="give a list of one")
        left = enumerate(images, start=1)
        batches = iter(lambda: list(islice(left, BATCH_SIZE)), [])
        return [found for batch in batches for found in self.examine([self._open(*each) for each in batch])]

    def _open(self, number: int, source: ImageSource) -> Picture:
        """An image of a list; one without a path is named by its number where it cannot be examined."""
        try:
            picture = open_picture(source)
            self.frame_of(picture)
        except DataError as error:
            if isinstance(source, str | Path):
                raise
            raise DataError(error.message, where=f"image {number} of the list", remedy=error.remedy) from error
        return picture

    def frame_of(self, picture: Picture) -> Frame:
        """What the model sees of an image.

        Raises:
            DataError: The image is more than 200 times longer than broad.
        """
        image = picture.image
        return smart_frame(
            image.width,
            image.height,
            min_pixels=self.min_pixels,
            max_pixels=self.max_pixels,
            sight=self.sight,
            where=picture.name,
        )

    def examine(self, pictures: Sequence[Picture]) -> list[Detection]:
        """One greedy answer per image, all in one batch.

        Args:
            pictures: Opened images.

        Returns:
            In the order of `pictures`.

        Raises:
            DataError: An image is more than 200 times longer than broad.
            ConfigError: Prompt, image and answer exceed what the engine was made for.
        """
        frames = [self.frame_of(picture) for picture in pictures]
        questions = [Question(self.prompt, picture.image, seed=0, where=picture.name) for picture in pictures]
        start_s = time.monotonic()
        answers = self.source.generate(questions, self._sampling)
        answer_s = (time.monotonic() - start_s) / max(1, len(pictures))
        return [
            self._detection(picture, frame, answer.rollouts[0], answer_s)
            for picture, frame, answer in zip(pictures, frames, answers, strict=True)
        ]

    def stream(self, pictures: Pictures) -> Iterator[tuple[str, Detection | ConfigError]]:
        """One greedy answer per image, given as soon as it is there; the engine never waits for a batch to be full.

        Args:
            pictures: Opened images whose `frame_of` exists; taken as the engine has room.

        Yields:
            The name of a picture, and what was found in it, or why the engine refuses it.
        """
        asked: dict[str, _Asked] = {}
        for name, answer in self.source.stream(_Asking(pictures, self, asked), self._sampling):
            said = asked.pop(name)
            if isinstance(answer, ConfigError):
                yield name, answer
            else:
                seconds = time.monotonic() - said.start_s
                yield name, self._detection(said.picture, said.frame, answer.rollouts[0], seconds)

    @property
    def _sampling(self) -> SamplingSettings:
        return SamplingSettings(1, 0.0, self.max_new_tokens, asks_probability=True)

    def _detection(self, picture: Picture, frame: Frame, rollout: Rollout, answer_s: float) -> Detection:
        said = from_answer(
            picture.name,
            frame,
            rollout.text,
            is_finished=rollout.is_finished,
            probability=rollout.probability,
            view=self.view,
        )
        probability, assessment = judge(said, self.calibration)
        return Detection(
            name=picture.name,
            sha256=picture.sha256,
            width_px=frame.width_px,
            height_px=frame.height_px,
            verdict=said.verdict,
            probability=probability,
            raw_probability=said.probability,
            assessment=assessment,
            calibration=self.calibration if probability is not None else None,
            regions=said.regions,
            tags=said.tags,
            answer=rollout.text,
            faults=said.faults,
            is_strict=bool(said.is_strict),
            timings=Timings(picture.read_s, answer_s),
            versions=self.versions,
        )


@dataclass(frozen=True, slots=True)
class _Asking:
    """Turns pictures into questions as they are taken."""

    pictures: Pictures
    detector: Detector
    asked: dict[str, _Asked]

    def take(self, *, wait: bool) -> Question | None:
        picture = self.pictures.take(wait=wait)
        if picture is None:
            return None
        frame = self.detector.frame_of(picture)
        self.asked[picture.name] = _Asked(replace(picture, image=_NO_PIXELS), frame, time.monotonic())
        return Question(self.detector.prompt, picture.image, seed=0, where=picture.name)
