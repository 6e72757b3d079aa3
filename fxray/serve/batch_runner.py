"""Works off the batches, beside the requests that somebody waits for, and goes on after a restart."""

import asyncio
import logging
from collections.abc import Awaitable, Callable, Collection
from http import HTTPStatus
from typing import Any

from fxray.errors import DataError, FxrayError
from fxray.serve.batches import Batch, BatchStore
from fxray.serve.problems import Refusal, problem_of
from fxray.serve.turns import Turns
from fxray.serve.uploads import Upload

MAX_TRIES = 5
"""Per image, of engines that were there; then that is its result."""
_RETRY_S = 1.0
_PAUSE_S = 5.0
"""Before the next round, where one left something over: a disk is not free again at once."""
_IDLE_S = 600.0
_LOG = logging.getLogger(__name__)

Examine = Callable[[Upload], Awaitable[dict[str, Any]]]


class BatchRunner:
    """One task that works off the batches: of each key the oldest first, the keys in turn.

    Args:
        store: Where they lie.
        examine: Gives a `DetectionOut` or a `FailureOut`; a `Refusal` of status 503 means: again later.
        num_at_once: Images that are examined at once.
        until_ready: Returns once an engine is there. An image that was refused waits for it: so no time without one
            makes it fail, and one that ends every engine that it meets does fail.
        models: Names of those that can answer; a batch for another one waits for a start that offers it.
    """

    def __init__(
        self,
        store: BatchStore,
        examine: Examine,
        num_at_once: int,
        until_ready: Callable[[], Awaitable[None]],
        models: Collection[str],
    ) -> None:
        self._store, self._examine, self._until_ready, self._models = store, examine, until_ready, models
        self._held_up: dict[str, str] = {}
        self._done: set[str] = set()
        self._slots = asyncio.Semaphore(num_at_once)
        self._wakes = asyncio.Event()
        self._task: asyncio.Task[None] | None = None

    @property
    def is_dead(self) -> bool:
        """Whether it has ended, told to or not: no batch goes on before the next start."""
        return self._task is not None and self._task.done()

    def held_up(self, batch_id: str) -> str | None:
        """Why a batch does not go on now; None where it does."""
        return self._held_up.get(batch_id)

    def start(self) -> None:
        """Begins with whatever was left over."""
        self._task = asyncio.create_task(self._run(), name="batches")
        self._task.add_done_callback(_tell_death)

    def wake(self) -> None:
        """Tells that there is a new batch."""
        self._wakes.set()

    async def stop(self) -> None:
        """Leaves off; images without result are examined after the next start."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)

    async def _run(self) -> None:
        while True:
            if not await self._work_off_all():
                await asyncio.sleep(_PAUSE_S)
                continue
            try:
                async with asyncio.timeout(_IDLE_S):
                    await self._wakes.wait()
            except TimeoutError:
                await self._clear_old()

    async def _clear_old(self) -> None:
        try:
            await asyncio.to_thread(self._store.clear_old)
        except (FxrayError, OSError):
            _LOG.exception("old batches stay where they are")

    async def _work_off_all(self) -> bool:
        """One round, with what comes in meanwhile; False where something was left for the next one."""
        turns, looked_at, is_whole = Turns[tuple[Batch, int]](), set[str](), True

        async def answer(batch: Batch, index: int) -> None:
            nonlocal is_whole
            if not await self._answer(batch, index):
                is_whole = False

        self._wakes.set()
        async with asyncio.TaskGroup() as tasks:
            while True:
                await self._slots.acquire()
                if self._wakes.is_set():
                    self._wakes.clear()
                    if not await self._look_for_more(turns, looked_at):
                        is_whole = False
                turn = turns.take()
                if turn is None:
                    self._slots.release()
                    break
                tasks.create_task(answer(*turn)).add_done_callback(lambda _: self._slots.release())
        return is_whole

    async def _look_for_more(self, turns: Turns[tuple[Batch, int]], looked_at: set[str]) -> bool:
        """Adds the images without result of batches that were not looked at; False where they cannot be read."""
        try:
            batches = await asyncio.to_thread(lambda: list(self._store.all()))
            ids = {batch.batch_id for batch in batches}
            self._done &= ids
            self._held_up = {batch_id: reason for batch_id, reason in self._held_up.items() if batch_id in ids}
            for batch in batches:
                if batch.batch_id in self._done | looked_at:  # results stay: they need not be looked for again
                    continue
                missing = await asyncio.to_thread(batch.missing)
                looked_at.add(batch.batch_id)
                if not missing:
                    self._done.add(batch.batch_id)
                elif batch.model not in self._models:
                    self._tell_waiting(batch)
                else:
                    turns.add(batch.owner, [(batch, index) for index in missing])
        except (FxrayError, OSError):
            _LOG.exception("the batches cannot be read")
            return False
        return True

    def _tell_waiting(self, batch: Batch) -> None:
        if batch.batch_id not in self._held_up:
            self._held_up[batch.batch_id] = f"there is no model {batch.model!r} now"
            _LOG.warning("batch %s waits: there is no model %r now", batch.batch_id, batch.model)

    async def _answer(self, batch: Batch, index: int) -> bool:
        """Examines one image; False where that is to be tried again. Nothing is left to do of a deleted batch."""
        try:
            result = await self._result_of(batch, index)
            await asyncio.to_thread(batch.write, index, result)
        except (FxrayError, OSError) as error:
            if not batch.image(index).is_file():
                return True
            told = error.message if isinstance(error, FxrayError) else error.strerror or type(error).__name__
            self._held_up[batch.batch_id] = told
            _LOG.exception("batch %s: image %d is left for the next round", batch.batch_id, index)
            return False
        self._held_up.pop(batch.batch_id, None)
        return True

    async def _result_of(self, batch: Batch, index: int) -> dict[str, Any]:
        try:
            upload = await asyncio.to_thread(batch.read, index)
        except FileNotFoundError:  # somebody cleared it away, or the whole batch, which then takes no result
            error = DataError("its file is gone", where="the service's own folder", remedy="hand it in again")
            return {"name": batch.names[index], "problem": problem_of(error, HTTPStatus.GONE)}
        return await self._examine_patiently(upload)

    async def _examine_patiently(self, upload: Upload) -> dict[str, Any]:
        for tried in range(MAX_TRIES):
            try:
                return await self._examine(upload)
            except FxrayError as error:
                status, wait_s = HTTPStatus.INTERNAL_SERVER_ERROR.value, _RETRY_S
                if isinstance(error, Refusal):
                    status, wait_s = error.status, error.retry_after_s or _RETRY_S
                if tried == MAX_TRIES - 1:
                    return {"name": upload.name, "problem": problem_of(error, status)}
                await asyncio.sleep(wait_s)
                if status == HTTPStatus.SERVICE_UNAVAILABLE:
                    await self._until_ready()
        raise AssertionError


def _tell_death(task: asyncio.Task[None]) -> None:
    if not task.cancelled() and (error := task.exception()):
        _LOG.critical("no batch goes on any more", exc_info=error)
