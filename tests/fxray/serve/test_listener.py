"""The gateway's own port."""

import asyncio
import http.client
import socket
import time
from concurrent.futures import ThreadPoolExecutor

import pytest

from fxray.errors import ResourceError
from fxray.listening import bound_socket
from fxray.serve import listener
from fxray.serve.listener import Listening

BODY = bytes(8 * 2**20)
"""More than the kernel keeps for either side."""


async def app(scope, receive, send):
    """Answers GET at once, `/slow` late, and POST without reading; notes who went away at `/gone`."""
    if scope["type"] == "lifespan":
        for kind in ("startup", "shutdown"):
            assert (await receive())["type"] == f"lifespan.{kind}"
            await send({"type": f"lifespan.{kind}.complete"})
        return
    if scope["path"] == "/slow":
        await asyncio.sleep(0.5)
    if scope["path"] == "/gone":
        while (await receive())["type"] != "http.disconnect":
            pass
        scope["app"].append("gone")
        return
    status = 413 if scope["method"] == "POST" else 200
    headers = [(b"content-length", b"4"), (b"connection", b"close")]
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": b"said"})


def listen(inside, app=app):
    """What `inside(port, in_thread, end)` returns while the application listens."""
    with bound_socket("127.0.0.1", 0, "--port") as free:
        port = free.getsockname()[1]

    async def go():
        told, asked = asyncio.Queue(), asyncio.Queue()
        serving = asyncio.create_task(Listening(app, "127.0.0.1", port, 5.0)({"type": "lifespan"}, asked.get, told.put))
        asked.put_nowait({"type": "lifespan.startup"})
        told_start = asyncio.create_task(told.get())
        await asyncio.wait({told_start, serving}, return_when=asyncio.FIRST_COMPLETED)
        if serving.done():
            told_start.cancel()
            await serving
        assert told_start.result()["type"] == "lifespan.startup.complete"

        async def end():
            asked.put_nowait({"type": "lifespan.shutdown"})
            assert (await told.get())["type"] == "lifespan.shutdown.complete"
            await serving

        with ThreadPoolExecutor() as pool:

            def in_thread(function, *given):
                return asyncio.get_running_loop().run_in_executor(pool, function, *given)

            return await inside(port, in_thread, end)

    return asyncio.run(asyncio.wait_for(go(), 60))


def get(port, path, method="GET", body=None, headers=None):
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=30)
    connection.request(method, path, body, headers or {})
    answer = connection.getresponse()
    return answer.status, answer.read()


def test_an_answer_that_has_begun_is_sent_after_the_end_and_then_nobody_listens():
    async def inside(port, in_thread, end):
        assert await in_thread(get, port, "/") == (200, b"said")
        begun = in_thread(get, port, "/slow")
        await asyncio.sleep(0.2)
        await end()
        assert await begun == (200, b"said")
        with pytest.raises(ConnectionRefusedError):
            get(port, "/")

    listen(inside)


def test_who_sends_more_than_is_read_gets_the_answer():
    async def inside(port, in_thread, end):
        for body in (BODY, iter([BODY])):  # of a length that is said, and in chunks
            assert await in_thread(get, port, "/", "POST", body) == (413, b"said")
        await end()

    listen(inside)


def test_who_waits_to_be_asked_for_a_body_is_answered_without():
    def ask(port):
        with socket.create_connection(("127.0.0.1", port), timeout=10) as sent:
            sent.sendall(b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 9\r\nExpect: 100-continue\r\n\r\n")
            said = b""
            while piece := sent.recv(4096):
                said += piece
            return said

    async def inside(port, in_thread, end):
        said = await in_thread(ask, port)
        await end()
        assert said.startswith(b"HTTP/1.1 413 ")
        assert b" 100 " not in said

    listen(inside)


@pytest.mark.parametrize(
    "start",
    [
        b"GET / HTTP/1.1\r\nHost: a\r\nX: ",
        b"GET /",
        b"POST /gone HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n1\r\nx\r\n0\r\nX: ",
    ],
    ids=["header", "path", "trailer"],
)
def test_a_request_of_nothing_but_headers_is_refused_before_it_is_all_in_memory(start):
    def ask(port):
        with socket.create_connection(("127.0.0.1", port), timeout=10) as sent:
            sent.sendall(start)
            num_sent = 0
            try:
                while num_sent < 64 * 2**20:
                    sent.sendall(bytes(2**16).replace(b"\0", b"a"))
                    num_sent += 2**16
            except OSError:
                pass
            return num_sent

    async def inside(port, in_thread, end):
        assert await in_thread(get, port, "/" + 60_000 * "a") == (200, b"said")
        assert await in_thread(ask, port) < 32 * 2**20
        assert await in_thread(get, port, "/", "POST", iter(bytes([1]) for _ in range(50_000))) == (413, b"said")
        await end()

    listen(inside, lambda scope, receive, send: app({**scope, "app": []}, receive, send))


def test_who_never_sends_the_rest_is_not_waited_for_for_ever(monkeypatch):
    monkeypatch.setattr(listener, "LINGER_S", 0.2)

    def ask(port):
        with socket.create_connection(("127.0.0.1", port), timeout=10) as sent:
            sent.sendall(b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 9\r\n\r\n")
            said = b""
            while piece := sent.recv(4096):
                said += piece
            return said

    async def inside(port, in_thread, end):
        start_s = time.monotonic()
        assert (await in_thread(ask, port)).startswith(b"HTTP/1.1 413 ")
        assert time.monotonic() - start_s < 10
        await end()

    listen(inside)


def test_an_address_is_that_of_the_connection_whatever_a_header_says():
    addresses = []

    async def noting(scope, receive, send):
        if scope["type"] == "http":
            addresses.append(scope["client"][0])
        await app(scope, receive, send)

    async def inside(port, in_thread, end):
        await in_thread(get, port, "/", "GET", None, {"X-Forwarded-For": "203.0.113.9"})
        await end()

    listen(inside, noting)
    assert addresses == ["127.0.0.1"]


def test_an_application_hears_that_its_client_went_away():
    heard = []

    async def noting(scope, receive, send):
        await app({**scope, "app": heard}, receive, send)

    async def inside(port, in_thread, end):
        with socket.create_connection(("127.0.0.1", port)) as sent:
            sent.sendall(b"GET /gone HTTP/1.1\r\nHost: a\r\n\r\n")
            await asyncio.sleep(0.2)
            assert not heard
        while not heard:
            await asyncio.sleep(0.01)
        await end()

    listen(inside, noting)


def test_a_port_that_is_taken_is_said(monkeypatch):
    def taken(*_):
        raise ResourceError("port 1 cannot be listened on")

    monkeypatch.setattr(listener, "bound_socket", taken)
    with pytest.raises(ResourceError, match="cannot be listened on"):
        listen(None)
