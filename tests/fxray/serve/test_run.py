"""What the command does between start and end, and leaves on a Ray, without one."""

import asyncio
import errno
import os
import signal
import threading
import time
from contextlib import nullcontext
from types import SimpleNamespace

import pytest
from ray.exceptions import ActorDiedError, RayTaskError
from ray.serve._private.common import DeploymentID
from ray.serve.exceptions import DeploymentUnavailableError

from fxray.config.load import load_config
from fxray.errors import ResourceError
from fxray.events import Note
from fxray.listening import bound_socket
from fxray.serve import run
from fxray.serve.chosen import ChosenPolicies
from fxray.serve.folder_lock import lock_folder
from fxray.serve.gateway import HandleBackend
from fxray.serve.problems import Refusal


class Handle:
    """A gateway that drains at once."""

    def __init__(self) -> None:
        self.drain = SimpleNamespace(remote=lambda deadline_s: SimpleNamespace(result=lambda timeout_s: True))


@pytest.mark.parametrize(
    ("is_joined", "others", "names"),
    [
        (False, {}, ["shutdown"]),
        (True, {}, ["delete fxray", "shutdown"]),
        (True, {"theirs": object()}, ["delete fxray"]),
    ],
)
def test_what_others_serve_on_a_cluster_goes_on(called, is_joined, others, names):
    called.others, told = others, []
    run._stop(Handle(), 1.0, told.append, is_joined=is_joined)
    assert called.names == names
    assert told == [Note("ending what has begun")]


def test_a_cluster_whose_serve_runs_already_is_refused(monkeypatch):
    import ray

    asked = []
    monkeypatch.setattr(ray, "get_actor", lambda name, namespace: asked.append((name, namespace)))
    with pytest.raises(ResourceError, match=r"(?s)runs on this cluster already.*serve deploy"):
        run._refuse_running_serve()
    assert asked == [("SERVE_CONTROLLER_ACTOR", "serve")]

    def none(name, namespace):
        raise ValueError(f"Failed to look up actor with name '{name}'")

    monkeypatch.setattr(ray, "get_actor", none)
    run._refuse_running_serve()


def test_a_folder_of_batches_that_is_taken_is_said_before_anything_starts(monkeypatch, tmp_path):
    built = []
    monkeypatch.setattr(run, "build", lambda *_, **__: built.append("application"))
    with bound_socket("127.0.0.1", 0, "--port") as free:
        port = free.getsockname()[1]
    config = load_config("tiny", [f"serve.port={port}", f"serve.data_dir={tmp_path}"])
    with (
        lock_folder(tmp_path, wait_s=0),
        pytest.raises(ResourceError, match=r"(?s)another service .*--data-dir"),
    ):
        run.serve_until_told(config, None, lambda: None, lambda _: None)
    assert built == []


def test_a_folder_of_batches_that_cannot_be_made_is_said_before_anything_starts(monkeypatch, tmp_path):
    monkeypatch.setattr(run, "build", lambda *_, **__: pytest.fail("it starts"))
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    (tmp_path / "file").write_text("")
    with bound_socket("127.0.0.1", 0, "--port") as free:
        port = free.getsockname()[1]
    config = load_config("tiny", [f"serve.port={port}", f"serve.data_dir={tmp_path / 'file' / 'data'}"])
    with pytest.raises(ResourceError, match="choose another folder"):
        run.serve_until_told(config, None, lambda: None, lambda _: None)


class Answer:
    """Of a handle: an error, when it is awaited."""

    def __init__(self, error: Exception) -> None:
        self._error = error

    def __await__(self):
        yield from asyncio.sleep(0).__await__()
        raise self._error


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (ActorDiedError(), "ActorDiedError"),
        (RayTaskError("swap", "", ActorDiedError()), "ActorDiedError"),
        (DeploymentUnavailableError(DeploymentID("gateway", "fxray")), "DeploymentUnavailableError"),
    ],
)
def test_a_swap_while_an_engine_is_dead_leaves_the_service_as_it_is(error, said):
    told, handle = [], SimpleNamespace(swap=SimpleNamespace(remote=lambda name, folder: Answer(error)))
    asyncio.run(run._swap(handle, "default", "/adapter", told.append, 9.0))
    (note,) = told
    assert note.is_warning
    assert note.text.startswith("model default: the adapter stays as it is: ")
    assert said in note.text


def test_a_swap_that_is_not_over_in_time_is_not_told_as_refused():
    told, in_use = [], []

    async def go():
        async def load():
            await asyncio.sleep(0.2)
            in_use.append("/adapter")

        def remote(name, folder):  # as Ray Serve's: the call goes on when nobody waits for it any more
            return asyncio.shield(calls[0])

        calls = [asyncio.create_task(load())]
        await run._swap(SimpleNamespace(swap=SimpleNamespace(remote=remote)), "default", "/adapter", told.append, 0.1)
        await calls[0]

    asyncio.run(go())
    assert in_use == ["/adapter"]
    assert [note.text for note in told] == [
        "model default: no engine took /adapter within 0.1 s; it may still do so: /v1/models says what answers"
    ]
    assert told[0].is_warning


def test_a_gateway_says_of_a_swap_that_the_engine_is_gone(tmp_path):
    use = SimpleNamespace(remote=lambda policy: Answer(ActorDiedError()))
    chosen = ChosenPolicies(tmp_path / "models.json", "a", {"default": ""})
    backend = HandleBackend(SimpleNamespace(use=use, options=lambda **_: None), chosen)
    with pytest.raises(Refusal, match="is gone"):
        asyncio.run(backend.swap("default", "/adapter"))
    assert chosen.by_model["default"].folder == ""


def test_a_second_signal_ends_the_wait_and_the_service(called):
    def interrupted(timeout_s):
        raise KeyboardInterrupt

    handle = SimpleNamespace(drain=SimpleNamespace(remote=lambda deadline_s: SimpleNamespace(result=interrupted)))
    with pytest.raises(KeyboardInterrupt):
        run._stop(handle, 60.0, lambda _: None, is_joined=True)
    assert called.names == ["delete fxray", "shutdown"]


def test_signals_are_heard_while_the_service_answers_and_end_no_process_after_it(monkeypatch):
    def raising(number, frame):
        raise SystemExit(number)

    numbers = (signal.SIGHUP, signal.SIGTERM)
    before = {number: signal.signal(number, raising) for number in numbers}
    told, sent = [], iter(numbers)

    async def swap(handle, name, folder, *_):
        told.append((name, folder))
        os.kill(os.getpid(), next(sent))

    monkeypatch.setattr(run, "_swap", swap)
    monkeypatch.setattr(run, "adapters_of", lambda *_: {"default": "/adapter"})
    try:
        threading.Timer(0.2, os.kill, (os.getpid(), next(sent))).start()
        asyncio.run(run._wait(None, lambda: None, lambda _: None, load_config("tiny")))
        assert told == [("default", "/adapter")]
        assert [signal.getsignal(number) for number in numbers] == [raising] * 2
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def test_a_swap_that_hangs_does_not_hold_the_stop_up(monkeypatch):
    async def swap(*_):
        os.kill(os.getpid(), signal.SIGTERM)
        await asyncio.sleep(60)

    monkeypatch.setattr(run, "_swap", swap)
    monkeypatch.setattr(run, "adapters_of", lambda *_: {"default": "/adapter"})
    threading.Timer(0.2, os.kill, (os.getpid(), signal.SIGHUP)).start()
    start_s = time.monotonic()
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        asyncio.run(run._wait(None, lambda: None, lambda _: None, load_config("tiny")))
    finally:
        signal.signal(signal.SIGHUP, before)
    assert time.monotonic() - start_s < 30


def test_an_adapter_that_is_copied_for_long_does_not_hold_the_stop_up():
    told, is_released = [], threading.Event()

    def copy():
        os.kill(os.getpid(), signal.SIGTERM)
        is_released.wait(60)

    threading.Timer(0.2, os.kill, (os.getpid(), signal.SIGHUP)).start()
    start_s = time.monotonic()
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        asyncio.run(run._wait(None, copy, told.append, load_config("tiny")))
    finally:
        signal.signal(signal.SIGHUP, before)
        is_released.set()
    assert time.monotonic() - start_s < 30
    assert not told


def test_an_adapter_that_cannot_be_found_is_told():
    told, before = [], signal.signal(signal.SIGHUP, signal.SIG_IGN)

    def find():
        threading.Timer(0.2, os.kill, (os.getpid(), signal.SIGTERM)).start()
        raise ResourceError("no storage answers")

    threading.Timer(0.2, os.kill, (os.getpid(), signal.SIGHUP)).start()
    try:
        asyncio.run(run._wait(None, find, told.append, load_config("tiny")))
    finally:
        signal.signal(signal.SIGHUP, before)
    assert [note.text for note in told] == ["the adapters stay as they are: no storage answers"]


@pytest.mark.parametrize(
    "error",
    [
        OSError(errno.ESTALE, "Stale file handle", "/shared/adapter"),
        RuntimeError("Symlink loop from '/shared/adapter'"),
    ],
)
def test_a_shared_disk_that_fails_is_told_at_every_hangup(error):
    told = []

    def find():
        raise error

    async def go():
        hangups = asyncio.Queue()
        hangups.put_nowait(signal.SIGHUP)
        hangups.put_nowait(signal.SIGHUP)
        swapping = asyncio.create_task(run._swap_when_told(hangups, None, find, told.append, load_config("tiny")))
        while len(told) < 2 and not swapping.done():
            await asyncio.sleep(0.01)
        swapping.cancel()
        await asyncio.gather(swapping, return_exceptions=True)
        assert swapping.cancelled()

    asyncio.run(asyncio.wait_for(go(), 30))
    assert [note.text for note in told] == [f"the adapters stay as they are: {error}"] * 2


def test_a_hangup_while_the_service_starts_or_ends_is_passed_over(called, monkeypatch, tmp_path):
    reached, told = [], []
    before = signal.signal(signal.SIGHUP, lambda *_: reached.append("the default, which ends the process"))

    def hang_up(*_, **__):
        os.kill(os.getpid(), signal.SIGHUP)
        return Handle()

    async def wait(*_):
        pass

    monkeypatch.setattr(run, "build", lambda *_, **__: None)
    monkeypatch.setattr(run, "ray_cluster", lambda *_, **__: nullcontext())
    monkeypatch.setattr(run, "_start", hang_up)
    monkeypatch.setattr(run, "_wait", wait)
    monkeypatch.setattr(run, "_end", hang_up)
    try:
        with bound_socket("127.0.0.1", 0, "--port") as free:
            port = free.getsockname()[1]
        config = load_config("tiny", [f"serve.port={port}", f"serve.data_dir={tmp_path}"])
        run.serve_until_told(config, None, lambda: None, told.append)
    finally:
        signal.signal(signal.SIGHUP, before)
    assert reached == []
    assert told[-2:] == [Note("ending what has begun"), Note("ended")]
