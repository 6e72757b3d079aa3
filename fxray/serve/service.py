"""The parts of one gateway put together, and how an image passes through them."""

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import AsyncExitStack, aclosing, asynccontextmanager
from http import HTTPStatus
from typing import Any

from fxray.counts import counted
from fxray.data.changes import CHANGES, Change
from fxray.draw import plain_text
from fxray.errors import DataError, FxrayError
from fxray.serve.admission import Admission
from fxray.serve.backend import Backend
from fxray.serve.batch_runner import BatchRunner
from fxray.serve.batches import BatchStore
from fxray.serve.keys import WRONG_KEYS_PER_MIN, Doorkeeper, KeyRing
from fxray.serve.metrics import Metrics
from fxray.serve.problems import Refusal, problem_of, unavailable
from fxray.serve.rate import RateLimiter
from fxray.serve.settings import ServiceSettings
from fxray.serve.uploads import Upload, UploadLimits, check_image
from fxray.serve.wire import wire_stability

STABILITY_COST = 1 + len(CHANGES)
"""Images that one question about stability counts as: the image as it is, and what becomes of it."""
_READY_POLL_S = 2.0


class Service:
    """What the routes call. Make it inside the event loop that serves them.

    Args:
        backend: Examines images.
        settings: Keys, limits and places.
    """

    def __init__(self, backend: Backend, settings: ServiceSettings) -> None:
        self.backend, self.settings = backend, settings
        self.doorkeeper = Doorkeeper(
            KeyRing(settings.keys), RateLimiter(WRONG_KEYS_PER_MIN), needs_keys=settings.needs_keys
        )
        self.admission = Admission(settings.max_in_flight, settings.max_waiting)
        self.metrics = Metrics(self.admission)
        self.limits = UploadLimits(settings.max_images, settings.max_image_bytes, settings.max_image_pixels)
        self.batch_limits = UploadLimits(settings.max_batch_images, settings.max_image_bytes, settings.max_image_pixels)
        self.batches = BatchStore(
            settings.data_dir / "batches", max_batches=settings.max_batches, keep_s=settings.keep_batches_s
        )
        self.runner = BatchRunner(
            self.batches,
            self._examine_of_batch,
            max(1, settings.max_in_flight // 2),
            self._until_ready,
            settings.models,
        )
        self._rates = RateLimiter(settings.images_per_min)

    def check_model(self, name: str) -> None:
        """Returns where there is such a model.

        Raises:
            Refusal: 404 with the names that there are.
        """
        if name not in self.settings.models:
            raise Refusal(
                HTTPStatus.NOT_FOUND,
                f"there is no model {plain_text(name, 80)!r}",
                where="query.model",
                remedy=f"ask for one of {', '.join(self.settings.models)}, or for none",
            )

    async def id_of(self, name: str) -> str | None:
        """Id of what answers for a model now: base and adapter; None where no engine can say it."""
        try:
            models = await self.backend.models()
        except FxrayError:
            return None
        return next((model["id"] for model in models if model["name"] == name), None)

    def charge(self, owner: str, num_images: int) -> None:
        """Counts images against the rate of a key.

        Raises:
            Refusal: 429 with the time to wait.
        """
        wait_s = self._rates.take(owner, num_images)
        if wait_s > 0:
            raise Refusal(
                HTTPStatus.TOO_MANY_REQUESTS,
                f"more than {counted(self.settings.images_per_min, 'image')} in a minute",
                where="this API key",
                remedy="wait, or hand the images in as a batch",
                retry_after_s=wait_s,
            )

    @asynccontextmanager
    async def _admitted(self, owner: str, num_images: int) -> AsyncIterator[None]:
        """Holds places for images that were charged; those that find no room are not paid for."""
        async with AsyncExitStack() as places:
            try:
                await places.enter_async_context(self.admission.admitted(num_images))
            except Refusal:
                self._rates.give_back(owner, num_images)
                raise
            yield

    async def detect(self, uploads: list[Upload], owner: str) -> list[dict[str, Any]]:
        """What is found in each image, in order; a bad image never stops the rest.

        Args:
            uploads: The images.
            owner: Of the key, who was charged for them.

        Raises:
            Refusal: 503 where the engines have no room or no time.
        """
        async with self._admitted(owner, len(uploads)):
            try:
                async with asyncio.timeout(self.settings.request_deadline_s), asyncio.TaskGroup() as tasks:
                    asked = [tasks.create_task(self._examine(upload)) for upload in uploads]
            except TimeoutError as error:
                raise self._late() from error
            except ExceptionGroup as group:
                raise _first(group) from group
        return [task.result() for task in asked]

    async def stream(self, uploads: list[Upload], owner: str) -> AsyncGenerator[dict[str, Any]]:
        """The same, piece by piece and image after image; each piece names its image by `index`."""
        try:
            async with (
                self._admitted(owner, len(uploads)),
                asyncio.timeout(self.settings.request_deadline_s),
            ):
                for index, upload in enumerate(uploads):
                    if failure := await asyncio.to_thread(self._failure, upload):
                        self.metrics.count_image(failure)
                        yield {"index": index, **failure}
                        continue
                    async with self.admission.slot(), aclosing(self.backend.stream(upload)) as pieces:
                        async for piece in pieces:
                            if outcome := piece.get("detection") or ("problem" in piece and piece):
                                self.metrics.count_image(outcome)
                            yield {"index": index, **piece}
        except TimeoutError as error:
            raise self._late() from error

    async def try_changes(self, upload: Upload, owner: str) -> dict[str, Any]:
        """What becomes of the answer when the image is changed: a `StabilityOut`, or the `FailureOut` of the image.

        It costs as much as `STABILITY_COST` images.

        Raises:
            Refusal: 503 where the engines have no room or no time.
        """
        async with self._admitted(owner, STABILITY_COST):
            try:
                async with asyncio.timeout(self.settings.request_deadline_s):
                    original = await self._examine(upload)
                    if "problem" in original:
                        return original
                    async with asyncio.TaskGroup() as tasks:
                        asked = [tasks.create_task(self._try(upload, change, original)) for change in CHANGES]
            except TimeoutError as error:
                raise self._late() from error
            except ExceptionGroup as group:
                raise _first(group) from group
        return wire_stability(original, [task.result() for task in asked])

    async def _try(self, upload: Upload, change: Change, original: dict[str, Any]) -> dict[str, Any]:
        async with self.admission.slot():
            outcome = await self.backend.try_change(upload, change, original)
        if "problem" not in outcome:
            self.metrics.count_changed()
        return outcome

    async def _examine(self, upload: Upload) -> dict[str, Any]:
        outcome = await asyncio.to_thread(self._failure, upload)
        if outcome is None:
            async with self.admission.slot():
                outcome = await self.backend.detect(upload)
        self.metrics.count_image(outcome)
        return outcome

    async def _examine_of_batch(self, upload: Upload) -> dict[str, Any]:
        """An image of a batch waits as long as it takes, without a place among those that wait."""
        try:
            async with asyncio.timeout(None) as deadline:
                async with self.admission.slot():
                    deadline.reschedule(asyncio.get_running_loop().time() + self.settings.request_deadline_s)
                    outcome = await asyncio.to_thread(self._failure, upload) or await self.backend.detect(upload)
        except TimeoutError as error:
            raise self._late() from error
        self.metrics.count_image(outcome)
        return outcome

    async def _until_ready(self) -> None:
        """Returns once an engine says what it is."""
        while True:
            try:
                await self.backend.models()
            except Refusal as refusal:
                await asyncio.sleep(refusal.retry_after_s or _READY_POLL_S)
            except FxrayError:  # one is there, and says what is wrong with its adapter
                return
            else:
                return

    def _failure(self, upload: Upload) -> dict[str, Any] | None:
        """Why an image need not be sent to an engine, as a `FailureOut`. A header may take a while: ask in a thread."""
        try:
            check_image(upload, self.limits)
        except DataError as error:
            return {"name": upload.name, "problem": problem_of(error, HTTPStatus.UNPROCESSABLE_ENTITY)}
        return None

    def _late(self) -> Refusal:
        return unavailable(
            f"no answer within {self.settings.request_deadline_s:g} s",
            retry_after_s=self.admission.retry_after_s,
            remedy="send fewer images at once, or hand them in as a batch",
        )


def _first(group: ExceptionGroup[Exception]) -> Exception:
    """One of the errors in a group that may hold groups."""
    found: Exception = group
    while isinstance(found, ExceptionGroup):
        found = found.exceptions[0]
    return found
