"""The gateway: the one process that knows keys, rates, batches and the policy version, before the replicas."""

import asyncio
import logging
import math
import time
from collections.abc import AsyncGenerator, Awaitable
from typing import Any, TypeVar

from ray.exceptions import RayError, RayTaskError
from ray.serve.exceptions import RayServeException
from starlette.types import ASGIApp

from fxray.data.changes import Change
from fxray.errors import FxrayError, ResourceError
from fxray.serve.api import build_app
from fxray.serve.chosen import ChosenPolicies
from fxray.serve.folder_lock import lock_folder
from fxray.serve.listener import Listening
from fxray.serve.node_address import keep_to_this_node
from fxray.serve.problems import Refusal, unavailable
from fxray.serve.replica import Policy
from fxray.serve.service import Service
from fxray.serve.settings import ServiceSettings
from fxray.serve.uploads import Upload

RETRY_AFTER_S = 2.0
MODELS_DEADLINE_S = 10.0
ANSWER_COUNTS_S = 30.0
"""So long after an answer, busy engines need not be asked what they are: the question would wait behind images."""
_LOG = logging.getLogger(__name__)
_T = TypeVar("_T")


class HandleBackend:
    """Replicas behind a handle of Ray Serve.

    Args:
        handle: Of the deployment of `DetectorReplica`.
        chosen: What each model is to answer with.
    """

    def __init__(self, handle: Any, chosen: ChosenPolicies) -> None:
        self._handle = handle
        self._streams = handle.options(stream=True)
        self._chosen, self._policies = chosen, chosen.by_model
        self._asked: dict[str, Policy] = {}  # last for each model; a swap that nobody waits for any more may still come
        self._told: dict[Policy, dict[str, Any]] = {}
        self._answered_s = -math.inf  # when an engine answered last, as none has failed since
        self._num_running = 0  # images that engines have, or that wait for them

    async def detect(self, upload: Upload) -> dict[str, Any]:
        """See `fxray.serve.backend.Backend`."""
        return await self._heard(self._handle.detect.remote(upload.name, upload.content, self._policies[upload.model]))

    async def stream(self, upload: Upload) -> AsyncGenerator[dict[str, Any]]:
        """See `fxray.serve.backend.Backend`."""
        pieces = self._streams.stream.remote(upload.name, upload.content, self._policies[upload.model])
        self._num_running += 1
        try:
            async for piece in pieces:
                self._answered_s = time.monotonic()
                yield piece
        except (RayError, RayServeException) as error:
            self._answered_s = -math.inf
            raise _refusal(error) from error
        finally:
            self._num_running -= 1
            pieces.cancel()

    async def try_change(self, upload: Upload, change: Change, original: dict[str, Any]) -> dict[str, Any]:
        """See `fxray.serve.backend.Backend`."""
        policy = self._policies[upload.model]
        return await self._heard(self._handle.try_change.remote(upload.name, upload.content, policy, change, original))

    async def models(self) -> list[dict[str, Any]]:
        """See `fxray.serve.backend.Backend`. While images are answered, it is what the engines said last."""
        if told := self._told_lately():
            return told
        try:
            async with asyncio.timeout(MODELS_DEADLINE_S):
                asked = [*self._policies.values()]
                models = [await _answer(self._handle.use.remote(policy)) for policy in asked]
        except TimeoutError as error:
            if told := self._told_lately():
                return told
            raise unavailable(
                f"no engine said within {MODELS_DEADLINE_S:g} s what it is", retry_after_s=RETRY_AFTER_S
            ) from error
        self._told.update(zip(asked, models, strict=True))
        return models

    def _told_lately(self) -> list[dict[str, Any]]:
        """What the engines are; empty where one has not said it yet, none has answered for a while, or none is busy."""
        told = [self._told[policy] for policy in self._policies.values() if policy in self._told]
        is_heard = self._num_running > 0 and time.monotonic() - self._answered_s < ANSWER_COUNTS_S
        return told if is_heard and len(told) == len(self._policies) else []

    async def _heard(self, response: Awaitable[_T]) -> _T:
        """`_answer`, which shows that images are answered."""
        self._num_running += 1
        try:
            answer = await _answer(response)
        except FxrayError:
            self._answered_s = -math.inf
            raise
        finally:
            self._num_running -= 1
        self._answered_s = time.monotonic()
        return answer

    async def swap(self, name: str, folder: str) -> dict[str, Any]:
        """Has all answers of a model from now on come from another adapter; the one before stays where it is refused.

        Args:
            name: Of the model.
            folder: In PEFT layout, on every node that runs replicas.

        Returns:
            A `ModelOut`, of the replica that proved the adapter first; the others do before their next answer.

        Raises:
            FxrayError: Why a replica refuses the adapter, or that it goes on with another one.
        """
        before = self._asked.get(name, self._policies[name])
        policy = Policy(name, folder, before.version + 1, max(time.time(), before.order + 1e-3))  # clocks go back
        self._asked[name] = policy
        try:
            model: dict[str, Any] = await self._handle.use.remote(policy)
        except RayTaskError as error:
            if isinstance(error.cause, FxrayError):
                raise error.cause from error
            raise FxrayError(f"a replica refuses the adapter: {error.cause}", where=folder) from error
        except (RayError, RayServeException) as error:
            raise _refusal(error) from error
        if model["policy_version"] != policy.version:  # of a gateway before this one, whose node's clock was ahead
            raise FxrayError(
                f"a replica goes on with policy version {model['policy_version']}, expected {policy.version}",
                where=folder,
                remedy="set the clocks of the nodes right and swap again, or start the service anew",
            )
        if self._policies[name].order > policy.order:
            raise FxrayError(f"policy version {self._policies[name].version} was swapped in meanwhile", where=folder)
        self._told[policy] = model
        try:
            self._chosen.choose(policy)
        except ResourceError:
            _LOG.exception("a gateway that is replaced will not know the adapter of model %s", name)
        return model


class Gateway:
    """The deployment that requests come to; Ray Serve runs exactly one.

    Args:
        replicas: Handle of the replicas.
        settings: Keys, limits and places.
        adapters: Folder of the adapter that each model starts with, by its name; "" for the bare base model.
        service_id: Of this start of the service.
        takeover_deadline_s: For a gateway to end what it has begun, when another one replaces it.
        listens: Address and port to listen on; None where Ray Serve's proxies do.

    Raises:
        ResourceError: Another service keeps its batches in the same folder.
    """

    def __init__(
        self,
        replicas: Any,
        settings: ServiceSettings,
        adapters: dict[str, str],
        service_id: str,
        takeover_deadline_s: float,
        listens: tuple[str, int] | None = None,
    ) -> None:
        keep_to_this_node()
        self._listens, self._end_deadline_s = listens, takeover_deadline_s
        self._lock = lock_folder(settings.data_dir, wait_s=takeover_deadline_s)
        chosen = ChosenPolicies(settings.data_dir / "models.json", service_id, adapters)
        self._backend = HandleBackend(replicas, chosen)
        self._service = Service(self._backend, settings)

    def __serve_build_asgi_app__(self) -> ASGIApp:
        """Called by Ray Serve once this object is made."""
        app = build_app(self._service)
        return Listening(app, *self._listens, self._end_deadline_s) if self._listens else app

    async def models(self) -> list[dict[str, Any]]:
        """What answers, a `ModelOut` each."""
        return await self._backend.models()

    async def swap(self, name: str, folder: str) -> dict[str, Any]:
        """See `HandleBackend.swap`."""
        return await self._backend.swap(name, folder)

    async def check_health(self) -> None:
        """Lets Ray Serve replace a gateway that works no batches off any more.

        Raises:
            RuntimeError: Their task is dead.
        """
        if self._service.runner.is_dead and not self._service.admission.is_draining:
            raise RuntimeError("batches are not worked off any more")

    async def drain(self, deadline_s: float) -> bool:
        """Lets no request in any more, and waits for those that have begun; False where that took too long."""
        self._service.admission.is_draining = True
        await self._service.runner.stop()
        return await self._service.admission.drain(deadline_s)


async def _answer(response: Awaitable[_T]) -> _T:
    """What a replica says; when the waiting is cancelled, so is the replica's work."""
    try:
        return await response
    except asyncio.CancelledError:
        response.cancel()  # type: ignore[attr-defined]
        raise
    except (RayError, RayServeException) as error:
        raise _refusal(error) from error


def _refusal(error: Exception) -> FxrayError:
    """What to tell of a failed call: a request may be sent again where a replica died or is overrun."""
    if isinstance(error, RayTaskError) and isinstance(error.cause, FxrayError):
        cause = error.cause
        if not isinstance(cause, Refusal) and isinstance(cause, OSError | RuntimeError | TimeoutError):
            _LOG.error("a replica failed: %s", cause)
            return unavailable(f"the engine gave no answer: {cause.message}", retry_after_s=RETRY_AFTER_S)
        return cause
    _LOG.error("a replica failed: %s: %s", type(error).__name__, error)
    return unavailable("the engine that examined this image is gone", retry_after_s=RETRY_AFTER_S)
