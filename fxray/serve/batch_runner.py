"""Works off the batches, beside the requests that somebody waits for, and goes on after a restart."""

import asyncio
import logging
from collections.abc import Awaitable, Callable
from typing import Any

from fxray.errors import FxrayError
from fxray.serve.batches import Batch, BatchStore
from fxray.serve.problems import Refusal, problem_of
from fxray.serve.uploads import Upload

MAX_TRIES = 5
"""Per image, where the engines could not be asked; then that is its result."""
_RETRY_S = 1.0
_IDLE_S = 600.0
_LOG = logging.getLogger(__name__)

Examine = Callable[[Upload], Awaitable[dict[str, Any]]]


class BatchRunner:
    """One task that takes the batches in turn, oldest first.

    Args:
        store: Where they lie.
        examine: Gives a `DetectionOut` or a `FailureOut`; a `Refusal` of status 503 means: again later.
        num_at_once: Images that are examined at once.
    """

    def __init__(self, store: BatchStore, examine: Examine, num_at_once: int) -> None:
        self._store, self._examine = store, examine
        self._slots = asyncio.Semaphore(num_at_once)
        self._wakes = asyncio.Event()
        self._task: asyncio.Task[None] | None = None

    def start(self) -> None:
        """Begins with whatever was left over."""
        self._task = asyncio.create_task(self._run(), name="batches")

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
            self._wakes.clear()
            for batch in await asyncio.to_thread(lambda: list(self._store.all())):
                try:
                    await self._work_off(batch)
                except (FxrayError, OSError):
                    # A batch that was deleted meanwhile, a full disk: the next round finds what is left.
                    _LOG.exception("batch %s was left off", batch.batch_id)
            try:
                async with asyncio.timeout(_IDLE_S):
                    await self._wakes.wait()
            except TimeoutError:
                await asyncio.to_thread(self._store.clear_old)

    async def _work_off(self, batch: Batch) -> None:
        async with asyncio.TaskGroup() as tasks:
            for index in batch.missing():
                await self._slots.acquire()
                tasks.create_task(self._answer(batch, index))

    async def _answer(self, batch: Batch, index: int) -> None:
        try:
            try:
                upload = await asyncio.to_thread(batch.read, index)
            except FileNotFoundError:  # deleted by its owner
                return
            result = await self._examine_patiently(upload)
            if batch.folder.is_dir():
                await asyncio.to_thread(batch.write, index, result)
        finally:
            self._slots.release()

    async def _examine_patiently(self, upload: Upload) -> dict[str, Any]:
        for tried in range(MAX_TRIES):
            try:
                return await self._examine(upload)
            except Refusal as refusal:
                if tried == MAX_TRIES - 1:
                    return {"name": upload.name, "problem": problem_of(refusal, refusal.status)}
                await asyncio.sleep(refusal.retry_after_s or _RETRY_S)
        raise AssertionError
