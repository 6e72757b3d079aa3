"""A replica: one engine with one adapter, and how an image passes through it."""

import asyncio
import hashlib
import time
from collections.abc import AsyncGenerator
from contextlib import aclosing
from dataclasses import dataclass
from http import HTTPStatus
from pathlib import Path
from typing import Any

from PIL import Image

from fxray.data.changes import Change
from fxray.data.frame import Frame, smart_frame
from fxray.data.images import decode_image, decoding, open_image, upright_rgb
from fxray.detect.load import open_adapter
from fxray.detect.provenance import read_provenance
from fxray.engine.engine import BASE_VERSION
from fxray.engine.settings import EngineSettings
from fxray.engine.streaming import Answer, Draft, StreamingEngine
from fxray.errors import ConfigError, DataError
from fxray.evaluate.calibration import Calibration, FittedFor, judge, read_calibration
from fxray.evaluate.predictions import Prediction, from_answer
from fxray.grammar.probability import probability_generated, verdict_tokens
from fxray.grammar.views import ViewName
from fxray.serve.problems import problem_of, unavailable
from fxray.serve.wire import (
    CalibrationOut,
    DetectionOut,
    ModelOut,
    ProvenanceOut,
    wire_provenance,
    wire_region,
    wire_trial,
)


@dataclass(frozen=True, slots=True)
class ReplicaSpec:
    """What a replica is made of.

    Attributes:
        engine: The engine.
        prompt: Chat text with one image placeholder.
        view: What answers speak of, as in training.
        max_new_tokens: Longest answer.
        base: Name of the base model.
        swap_deadline_s: For answers that have begun to end before the adapter changes.
    """

    engine: EngineSettings
    prompt: str
    view: ViewName
    max_new_tokens: int
    base: str
    swap_deadline_s: float


@dataclass(frozen=True, slots=True)
class Policy:
    """Which adapter answers.

    Attributes:
        folder: In PEFT layout, on every node that runs replicas; empty for the bare base model.
        version: Grows with every swap.
        order: When it was chosen; a replica with an earlier one swaps before it answers, and never goes back.
    """

    folder: str
    version: int
    order: float


class DetectorReplica:
    """Examines images; Ray Serve runs as many of these as are needed."""

    async def __init__(self, spec: ReplicaSpec) -> None:  # type: ignore[misc]  # Ray Serve awaits it
        self._spec = spec
        self._engine = StreamingEngine(spec.engine)
        await self._engine.prepare()
        self._swap = asyncio.Lock()
        self._tokens = verdict_tokens(self._engine.encode)
        self._model = ModelOut(
            id=spec.base, base=spec.base, adapter=None, adapter_sha256=None, policy_version=BASE_VERSION, view=spec.view
        )
        self._answering: dict[int, tuple[ModelOut, Calibration | None]] = {BASE_VERSION: (self._model, None)}
        self._order = 0.0

    async def use(self, policy: Policy) -> dict[str, Any]:
        """Swaps the adapter where another one is in use; answers that have begun end with the one before.

        Returns:
            A `ModelOut`.

        Raises:
            CheckpointError: There is no adapter in the folder, or the calibration beside it is not of it.
            SyncError: The adapter is not in use; the one before goes on answering.
            DeadlineError: Answers that had begun did not end in time.
        """
        async with self._swap:
            if policy.order > self._order and policy.folder:
                await self._load(policy)
                self._order = policy.order
        return self._model.model_dump(mode="json")

    async def _load(self, policy: Policy) -> None:
        folder = Path(policy.folder)
        blob = await asyncio.to_thread(open_adapter, folder, policy.version)
        calibration = read_calibration(folder, self._fitted_for(blob.sha256))
        model = ModelOut(
            id=f"{self._spec.base}+{blob.sha256[:12]}",
            base=self._spec.base,
            adapter=folder.name,
            adapter_sha256=blob.sha256,
            policy_version=policy.version,
            view=self._spec.view,
        )
        # Known before the first answer that comes from it.
        before = self._model.policy_version
        self._answering = {before: self._answering[before], policy.version: (model, calibration)}
        await self._engine.load_policy(blob, worker="replica", deadline_s=self._spec.swap_deadline_s)
        self._model = model

    def _fitted_for(self, adapter_sha256: str) -> FittedFor:
        engine = self._spec.engine
        return FittedFor(
            adapter_sha256=adapter_sha256,
            base=self._spec.base,
            view=self._spec.view,
            min_pixels=engine.min_pixels,
            max_pixels=engine.max_pixels,
        )

    async def check_health(self) -> None:
        """Lets Ray Serve replace a replica whose engine is dead."""
        await self._engine.check_alive()

    async def detect(self, name: str, content: bytes, policy: Policy) -> dict[str, Any]:
        """A `DetectionOut`, or a `FailureOut` where the image cannot be examined."""
        await self.use(policy)
        outcome: dict[str, Any] = {}
        async with aclosing(self._pieces(name, content, with_drafts=False)) as pieces:
            async for piece in pieces:
                outcome = piece.get("detection", piece)
        return outcome

    async def stream(self, name: str, content: bytes, policy: Policy) -> AsyncGenerator[dict[str, Any]]:
        """What `fxray.serve.backend.Backend.stream` gives."""
        await self.use(policy)
        async with aclosing(self._pieces(name, content, with_drafts=True)) as pieces:
            async for piece in pieces:
                yield piece

    async def try_change(
        self, name: str, content: bytes, policy: Policy, change: Change, original: dict[str, Any]
    ) -> dict[str, Any]:
        """What `fxray.serve.backend.Backend.try_change` gives.

        Raises:
            Refusal: 503: the adapter was swapped since the original was examined.
        """
        await self.use(policy)
        start_s = time.monotonic()
        try:
            view = await asyncio.to_thread(lambda: change.apply(decode_image(content, name)))
            frame = self._frame_of(view.image)
            async with aclosing(self._answers(name, view.image, with_drafts=False)) as answers:
                answer = [piece async for piece in answers if isinstance(piece, Answer)][-1]
        except (DataError, ConfigError) as error:
            return {"name": name, "problem": problem_of(error, HTTPStatus.UNPROCESSABLE_ENTITY)}
        if answer.policy_version != original["model"]["policy_version"]:
            raise unavailable("the adapter was swapped meanwhile", retry_after_s=1)
        found = self._detection(name, content, frame, answer, time.monotonic() - start_s)
        return wire_trial(change, view, found, original).model_dump(mode="json")

    async def _pieces(self, name: str, content: bytes, *, with_drafts: bool) -> AsyncGenerator[dict[str, Any]]:
        start_s = time.monotonic()
        try:
            image, frame, provenance = await asyncio.to_thread(self._decode, name, content)
            if with_drafts:
                yield {"image": {"width_px": frame.width_px, "height_px": frame.height_px}}
            num_told = 0
            async with aclosing(self._answers(name, image, with_drafts=with_drafts)) as answers:
                async for answer in answers:
                    if isinstance(answer, Answer):
                        detection = self._detection(name, content, frame, answer, time.monotonic() - start_s)
                        told = detection.model_copy(update={"provenance": provenance})
                        yield {"detection": told.model_dump(mode="json")}
                        return
                    regions = from_answer(name, frame, answer.text, view=self._spec.view).regions
                    for region in regions[num_told:]:
                        yield {"region": wire_region(region).model_dump(mode="json")}
                    num_told = len(regions)
        except (DataError, ConfigError) as error:
            yield {"name": name, "problem": problem_of(error, HTTPStatus.UNPROCESSABLE_ENTITY)}

    def _answers(self, name: str, image: Image.Image, *, with_drafts: bool) -> AsyncGenerator[Draft | Answer]:
        return self._engine.answer(
            self._spec.prompt,
            image,
            where=name,
            max_new_tokens=self._spec.max_new_tokens,
            watched_ids=self._tokens.watched,
            with_drafts=with_drafts,
        )

    def _decode(self, name: str, content: bytes) -> tuple[Image.Image, Frame, ProvenanceOut]:
        opened = open_image(content, name)
        with decoding(content, name):
            image = upright_rgb(opened)
        return image, self._frame_of(image), wire_provenance(read_provenance(content, opened))

    def _frame_of(self, image: Image.Image) -> Frame:
        engine = self._spec.engine
        return smart_frame(image.width, image.height, min_pixels=engine.min_pixels, max_pixels=engine.max_pixels)

    def _detection(self, name: str, content: bytes, frame: Frame, answer: Answer, seconds: float) -> DetectionOut:
        rollout = answer.rollout
        said: Prediction = from_answer(
            name,
            frame,
            rollout.text,
            is_finished=rollout.is_finished,
            probability=probability_generated(rollout.token_ids.tolist(), answer.watched_logprobs_TW, self._tokens),
            view=self._spec.view,
        )
        model, calibration = self._answering[answer.policy_version]
        probability, assessment = judge(said, calibration)
        used = calibration if said.probability is not None else None
        return DetectionOut(
            name=name,
            sha256=hashlib.sha256(content).hexdigest(),
            width_px=frame.width_px,
            height_px=frame.height_px,
            verdict=said.verdict,
            probability=probability,
            probability_kind="calibrated" if used else "uncalibrated",
            raw_probability=said.probability,
            assessment=assessment,
            calibration=CalibrationOut.model_validate(used.summary()) if used else None,
            regions=[wire_region(region) for region in said.regions],
            tags=list(said.tags),
            answer=rollout.text,
            faults=list(said.faults),
            is_strict=bool(said.is_strict),
            seconds=round(seconds, 4),
            model=model,
        )
