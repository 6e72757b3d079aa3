"""What the gateway says of engines that are busy, new or gone, without Ray."""

import asyncio
import math
from contextlib import asynccontextmanager
from types import SimpleNamespace

import pytest
from ray.exceptions import ActorDiedError

from fxray.errors import FxrayError
from fxray.serve import gateway
from fxray.serve.chosen import ChosenPolicies
from fxray.serve.gateway import HandleBackend
from fxray.serve.problems import Refusal
from fxray.serve.uploads import Upload

UPLOAD = Upload("a.png", b"", "default")
LONG = Upload("long.png", b"", "default")
"""Its answer never comes."""


class Replicas:
    """A handle of replicas that answer at once, until `queue_s` or `error` says otherwise."""

    def __init__(self) -> None:
        self.queue_s, self.error = 0.0, None
        self.num_uses = 0
        self.use = SimpleNamespace(remote=self._use)
        self.detect = SimpleNamespace(remote=lambda name, content, policy: Response(self._detect(name)))

    def options(self, *, stream):
        return SimpleNamespace(stream=SimpleNamespace(remote=lambda *_: Pieces([{"detection": {}}])))

    def _use(self, policy):
        self.num_uses += 1
        return Response(self._say(policy))

    async def _say(self, policy):
        await asyncio.sleep(self.queue_s)
        return {"name": policy.name, "adapter": policy.folder, "policy_version": policy.version}

    async def _detect(self, name):
        if self.error:
            raise self.error
        if name == LONG.name:
            await asyncio.sleep(math.inf)
        return {"name": name}


class Response:
    """Of a handle: awaited once."""

    def __init__(self, coroutine) -> None:
        self._coroutine = coroutine

    def __await__(self):
        return self._coroutine.__await__()

    def cancel(self) -> None:
        self._coroutine.close()


class Pieces:
    """Of a handle: pieces one after the other."""

    def __init__(self, pieces) -> None:
        self._pieces = iter(pieces)

    def __aiter__(self):
        return self

    async def __anext__(self):
        for piece in self._pieces:
            return piece
        raise StopAsyncIteration

    def cancel(self) -> None:
        pass


@pytest.fixture
def replicas(monkeypatch):
    monkeypatch.setattr(gateway, "MODELS_DEADLINE_S", 0.2)
    return Replicas()


@pytest.fixture
def backend(replicas, tmp_path):
    return HandleBackend(replicas, ChosenPolicies(tmp_path / "models.json", "a", {"default": "/first", "beta": "/b"}))


def adapters(models):
    return [model["adapter"] for model in models]


@asynccontextmanager
async def busy_engines(backend):
    """While an image is with the engines."""
    task = asyncio.create_task(backend.detect(LONG))
    await asyncio.sleep(0.01)
    yield
    task.cancel()


async def streamed(backend):
    return [piece async for piece in backend.stream(UPLOAD)]


@pytest.mark.parametrize("answer", [lambda backend: backend.detect(UPLOAD), streamed], ids=["detect", "stream"])
def test_engines_that_answer_images_need_not_say_what_they_are_once_more(replicas, backend, answer):
    async def main():
        first = await backend.models()
        async with busy_engines(backend):
            await answer(backend)
            replicas.queue_s = math.inf  # images stand before the question
            return first, await backend.models()

    first, busy = asyncio.run(main())
    assert adapters(first) == adapters(busy) == ["/first", "/b"]
    assert replicas.num_uses == 2


def test_an_answer_that_comes_while_the_question_waits_counts(replicas, backend):
    async def main():
        await backend.models()
        replicas.queue_s = math.inf
        asked = asyncio.create_task(backend.models())
        await asyncio.sleep(0.05)
        async with busy_engines(backend):
            await backend.detect(UPLOAD)
            return await asked

    assert adapters(asyncio.run(main())) == ["/first", "/b"]


@pytest.mark.parametrize("last", ["no answer", "a failure", "an old answer", "an answer, and none to come"])
def test_engines_that_answer_nothing_are_not_said_to(replicas, backend, monkeypatch, last):
    async def main():
        await backend.models()
        if last == "an answer, and none to come":
            await backend.detect(UPLOAD)
            replicas.queue_s = math.inf
            return await backend.models()
        async with busy_engines(backend):
            return await ask_busy()

    async def ask_busy():
        if last != "no answer":
            await backend.detect(UPLOAD)
        if last == "a failure":
            replicas.error = ActorDiedError()
            with pytest.raises(Refusal, match="is gone"):
                await backend.detect(UPLOAD)
        if last == "an old answer":
            monkeypatch.setattr(gateway, "ANSWER_COUNTS_S", 0.0)
        replicas.queue_s = math.inf
        await backend.models()

    with pytest.raises(Refusal, match="no engine said within"):
        asyncio.run(main())


def test_an_adapter_that_was_swapped_in_is_told_while_engines_are_busy(replicas, backend):
    async def main():
        await backend.models()
        async with busy_engines(backend):
            await backend.detect(UPLOAD)
            await backend.swap("default", "/second")
            replicas.queue_s = math.inf
            return await backend.models()

    assert adapters(asyncio.run(main())) == ["/second", "/b"]


def test_a_model_that_no_engine_has_named_yet_is_asked_for(replicas, backend):
    async def main():
        await backend.detect(UPLOAD)
        return await backend.models()

    assert adapters(asyncio.run(main())) == ["/first", "/b"]
    assert replicas.num_uses == 2


def test_a_swap_counts_after_the_clock_went_back(tmp_path, monkeypatch):
    used = []

    async def use(policy):
        used.append(policy)
        return {"policy_version": policy.version}

    chosen = ChosenPolicies(tmp_path / "models.json", "a", {"default": ""})
    handle = SimpleNamespace(use=SimpleNamespace(remote=use), options=lambda **_: None)
    backend = HandleBackend(handle, chosen)
    for now in (1000.0, 940.0):
        monkeypatch.setattr("fxray.serve.gateway.time.time", lambda now=now: now)
        asyncio.run(backend.swap("default", f"/adapter-{now}"))
    assert used[1].order > used[0].order
    assert used[1].version == used[0].version + 1


def test_a_swap_after_one_that_nobody_waits_for_any_more_has_a_version_of_its_own(tmp_path):
    used, may_end = [], asyncio.Event()

    async def use(policy):
        used.append(policy)
        if policy.folder == "/slow":
            await may_end.wait()
        return {"policy_version": policy.version}

    chosen = ChosenPolicies(tmp_path / "models.json", "a", {"default": "/first"})
    backend = HandleBackend(SimpleNamespace(use=SimpleNamespace(remote=use), options=lambda **_: None), chosen)

    async def go():
        slow = asyncio.create_task(backend.swap("default", "/slow"))
        await asyncio.sleep(0)
        await backend.swap("default", "/second")
        may_end.set()
        with pytest.raises(FxrayError, match="policy version 2 was swapped in meanwhile"):
            await slow

    asyncio.run(go())
    assert [(policy.folder, policy.version) for policy in used] == [("/slow", 1), ("/second", 2)]
    assert used[1].order > used[0].order
    assert chosen.by_model["default"] == used[1]


def test_a_swap_that_a_replica_passes_over_is_told_so(tmp_path):
    async def use(policy):
        return {"policy_version": 7}

    chosen = ChosenPolicies(tmp_path / "models.json", "a", {"default": "/first"})
    backend = HandleBackend(SimpleNamespace(use=SimpleNamespace(remote=use), options=lambda **_: None), chosen)
    with pytest.raises(FxrayError, match="goes on with policy version 7"):
        asyncio.run(backend.swap("default", "/adapter"))
    assert chosen.by_model["default"].folder == "/first"
