"""A replica: one engine with the adapters of its models, and how an image passes through it."""

import asyncio
import hashlib
import logging
import os
import time
from collections.abc import AsyncGenerator
from contextlib import aclosing
from dataclasses import dataclass
from http import HTTPStatus
from pathlib import Path
from typing import Any

from PIL import Image

from fxray.data.changes import Change
from fxray.data.frame import Frame, sight_of, smart_frame
from fxray.data.images import decode_image, decoding, open_image, upright_rgb
from fxray.data.probe import notes_on_size
from fxray.detect.load import open_adapter
from fxray.detect.provenance import read_provenance
from fxray.engine.engine import BASE_VERSION
from fxray.engine.settings import EngineSettings
from fxray.engine.streaming import Answer, Draft, StreamingEngine
from fxray.errors import ConfigError, DataError, WorkerDiedError
from fxray.evaluate.calibration import Calibration, FittedFor, judge, read_calibration
from fxray.evaluate.predictions import Prediction, from_answer
from fxray.grammar.probability import probability_generated, verdict_tokens
from fxray.grammar.views import ViewName
from fxray.serve.node_address import keep_to_this_node
from fxray.serve.problems import Refusal, problem_of, unavailable
from fxray.serve.wire import (
    CalibrationOut,
    DetectionOut,
    ModelOut,
    ProvenanceOut,
    wire_provenance,
    wire_region,
    wire_trial,
)

_LAST_WORDS_S = 0.5
"""For what a dead engine leaves unanswered to be told, before its replica ends."""
_LOG = logging.getLogger(__name__)


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
        base_fingerprint: Of the base model's weights; empty where it is not known.
    """

    engine: EngineSettings
    prompt: str
    view: ViewName
    max_new_tokens: int
    base: str
    swap_deadline_s: float
    base_fingerprint: str = ""


@dataclass(frozen=True, slots=True)
class Policy:
    """Which adapter answers for a model.

    Attributes:
        name: Of the model.
        folder: In PEFT layout, on every node that runs replicas; empty for the bare base model.
        version: Grows with every swap.
        order: When it was chosen; a replica with an earlier one swaps before it answers, and never goes back.
    """

    name: str
    folder: str
    version: int
    order: float


@dataclass(frozen=True, slots=True)
class _Answering:
    """What is told of an answer: its model, what makes its probability, and when the model was chosen."""

    model: ModelOut
    calibration: Calibration | None
    order: float


def _end_process() -> None:
    os._exit(1)


class DetectorReplica:
    """Examines images; Ray Serve runs as many of these as are needed."""

    async def __init__(self, spec: ReplicaSpec) -> None:  # type: ignore[misc]  # Ray Serve awaits it
        keep_to_this_node()
        self._spec, self._sight = spec, sight_of(spec.engine.model_path)
        self._engine = StreamingEngine(spec.engine)
        await self._engine.prepare()
        self._swap = asyncio.Lock()
        self._swaps: dict[Policy, asyncio.Task[None]] = {}  # that have begun, for all who wait for them
        self._tokens = verdict_tokens(self._engine.encode)
        self._current: dict[str, _Answering] = {}  # by the name of the model
        self._answering: dict[tuple[str, int], _Answering] = {}  # by name and policy version, the one before too

    async def use(self, policy: Policy) -> dict[str, Any]:
        """Swaps the adapter where another one is in use; answers that have begun end with the one before.

        Returns:
            A `ModelOut`.

        Raises:
            CheckpointError: There is no adapter in the folder, or the calibration beside it is not of it.
            SyncError: The adapter is not in use; the one before goes on answering.
            DeadlineError: Answers that had begun did not end in time.
            WorkerDiedError: The engine is dead, which Ray Serve may not have noticed yet.
        """
        await self.check_health()
        if policy.name not in self._current:
            self._current[policy.name] = self._base_model(policy.name)
        if self._is_newer(policy):
            if policy not in self._swaps:
                swap = self._swaps[policy] = asyncio.create_task(self._swap_to(policy))
                swap.add_done_callback(lambda _: self._swaps.pop(policy))
            # Shielded from a request that is cancelled: half of a load would stay in the engine.
            await asyncio.shield(self._swaps[policy])
        return self._current[policy.name].model.model_dump(mode="json")

    def _is_newer(self, policy: Policy) -> bool:
        return bool(policy.folder) and policy.order > self._current[policy.name].order

    async def _swap_to(self, policy: Policy) -> None:
        async with self._swap:
            if self._is_newer(policy):
                self._current[policy.name] = await self._load(policy)

    def _base_model(self, name: str) -> "_Answering":
        base = self._spec.base
        model = ModelOut(
            name=name,
            id=base,
            base=base,
            adapter=None,
            adapter_sha256=None,
            policy_version=BASE_VERSION,
            view=self._spec.view,
        )
        self._answering[name, BASE_VERSION] = alone = _Answering(model, None, 0.0)
        return alone

    async def _load(self, policy: Policy) -> "_Answering":
        folder = Path(policy.folder)
        blob = await asyncio.to_thread(open_adapter, folder, policy.version)
        calibration = read_calibration(folder, self._fitted_for(blob.sha256))
        model = ModelOut(
            name=policy.name,
            id=f"{self._spec.base}+{blob.sha256[:12]}",
            base=self._spec.base,
            adapter=folder.name,
            adapter_sha256=blob.sha256,
            policy_version=policy.version,
            view=self._spec.view,
        )
        # Known before the first answer that comes from it.
        before = self._current[policy.name]
        kept = {key: each for key, each in self._answering.items() if key[0] != policy.name or each is before}
        coming = _Answering(model, calibration, policy.order)
        self._answering = kept | {(policy.name, policy.version): coming}
        await self._engine.load_policy(blob, worker="replica", deadline_s=self._spec.swap_deadline_s, name=policy.name)
        return coming

    def _fitted_for(self, adapter_sha256: str) -> FittedFor:
        engine = self._spec.engine
        return FittedFor(
            adapter_sha256=adapter_sha256,
            base=self._spec.base,
            base_fingerprint=self._spec.base_fingerprint,
            view=self._spec.view,
            min_pixels=engine.min_pixels,
            max_pixels=engine.max_pixels,
        )

    async def check_health(self) -> None:
        """Has a replica whose engine is dead replaced.

        It ends itself: by refusals alone Ray Serve takes it for dead after three checks, and prefers it until then, for
        it is never busy.

        Raises:
            WorkerDiedError: The engine is dead.
        """
        try:
            await self._engine.check_alive()
        except WorkerDiedError as error:
            _LOG.critical("this replica ends: %s", error.message)
            asyncio.get_running_loop().call_later(_LAST_WORDS_S, _end_process)
            raise

    async def detect(self, name: str, content: bytes, policy: Policy) -> dict[str, Any]:
        """A `DetectionOut`, or a `FailureOut` where the image cannot be examined."""
        await self.use(policy)
        outcome: dict[str, Any] = {}
        async with aclosing(self._pieces(name, content, policy.name, with_drafts=False)) as pieces:
            async for piece in pieces:
                outcome = piece.get("detection", piece)
        return outcome

    async def stream(self, name: str, content: bytes, policy: Policy) -> AsyncGenerator[dict[str, Any]]:
        """What `fxray.serve.backend.Backend.stream` gives."""
        await self.use(policy)
        async with aclosing(self._pieces(name, content, policy.name, with_drafts=True)) as pieces:
            async for piece in pieces:
                yield piece

    async def try_change(
        self, name: str, content: bytes, policy: Policy, change: Change, original: dict[str, Any]
    ) -> dict[str, Any]:
        """What `fxray.serve.backend.Backend.try_change` gives.

        Raises:
            Refusal: 503: the adapter was swapped since the original was examined. 422: the engine is not made for the
                prompt, whatever the change.
        """
        await self.use(policy)
        start_s = time.monotonic()
        try:
            view = await asyncio.to_thread(lambda: change.apply(decode_image(content, name)))
            frame = self._frame_of(name, view.image)
            async with aclosing(self._answers(name, view.image, policy.name, with_drafts=False)) as answers:
                answer = [piece async for piece in answers if isinstance(piece, Answer)][-1]
        except DataError as error:
            return {"name": name, "problem": problem_of(error, HTTPStatus.UNPROCESSABLE_ENTITY)}
        except ConfigError as error:
            raise Refusal(
                HTTPStatus.UNPROCESSABLE_ENTITY, error.message, where=error.where, remedy=error.remedy
            ) from error
        if answer.policy_version != original["model"]["policy_version"]:
            raise unavailable("the adapter was swapped meanwhile", retry_after_s=1)
        found = self._detection(name, content, frame, (policy.name, answer), time.monotonic() - start_s)
        return wire_trial(change, view, found, original).model_dump(mode="json")

    async def _pieces(
        self, name: str, content: bytes, model: str, *, with_drafts: bool
    ) -> AsyncGenerator[dict[str, Any]]:
        start_s = time.monotonic()
        try:
            image, frame, provenance = await asyncio.to_thread(self._decode, name, content)
            if with_drafts:
                yield {"image": {"width_px": frame.width_px, "height_px": frame.height_px}}
            num_told = 0
            async with aclosing(self._answers(name, image, model, with_drafts=with_drafts)) as answers:
                async for answer in answers:
                    if isinstance(answer, Answer):
                        detection = self._detection(name, content, frame, (model, answer), time.monotonic() - start_s)
                        for late in detection.regions[num_told:] if with_drafts else ():  # since the last draft
                            yield {"region": late.model_dump(mode="json")}
                        told = detection.model_copy(update={"provenance": provenance})
                        yield {"detection": told.model_dump(mode="json")}
                        return
                    regions = from_answer(name, frame, answer.text, view=self._spec.view).regions
                    for region in regions[num_told:]:
                        yield {"region": wire_region(region).model_dump(mode="json")}
                    num_told = len(regions)
        except (DataError, ConfigError) as error:
            yield {"name": name, "problem": problem_of(error, HTTPStatus.UNPROCESSABLE_ENTITY)}

    def _answers(
        self, name: str, image: Image.Image, model: str, *, with_drafts: bool
    ) -> AsyncGenerator[Draft | Answer]:
        return self._engine.answer(
            self._spec.prompt,
            image,
            where=name,
            name=model,
            max_new_tokens=self._spec.max_new_tokens,
            watched_ids=self._tokens.watched,
            with_drafts=with_drafts,
        )

    def _decode(self, name: str, content: bytes) -> tuple[Image.Image, Frame, ProvenanceOut]:
        opened = open_image(content, name)
        with decoding(content, name):
            image = upright_rgb(opened)
        return image, self._frame_of(name, image), wire_provenance(read_provenance(content, opened))

    def _frame_of(self, name: str, image: Image.Image) -> Frame:
        engine = self._spec.engine
        return smart_frame(
            image.width,
            image.height,
            min_pixels=engine.min_pixels,
            max_pixels=engine.max_pixels,
            sight=self._sight,
            where=name,
        )

    def _detection(
        self, name: str, content: bytes, frame: Frame, answered: tuple[str, Answer], seconds: float
    ) -> DetectionOut:
        model, answer = answered
        rollout = answer.rollout
        said: Prediction = from_answer(
            name,
            frame,
            rollout.text,
            is_finished=rollout.is_finished,
            probability=probability_generated(rollout.token_ids.tolist(), answer.watched_logprobs_TW, self._tokens),
            view=self._spec.view,
        )
        known = self._answering[model, answer.policy_version]
        calibration = known.calibration
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
            notes=notes_on_size(frame.width_px, frame.height_px),
            seconds=round(seconds, 4),
            model=known.model,
        )
