"""The gateway's own port: without Ray Serve's proxy, which takes more of a processor than all that the gateway does."""

import asyncio
from contextlib import suppress
from typing import Any

import uvicorn
from starlette.types import ASGIApp, Message, Receive, Scope, Send
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from fxray.listening import bound_socket

KEEP_ALIVE_S = 75
LINGER_S = 30.0
"""For the rest of a body that was answered before it was read: closed at once, its sender would lose the answer."""
MAX_HEAD_BYTES = 2**16
_BACKLOG = 2048
_POLL_S = 0.02


class Listening:
    """An ASGI application that is also answered for on a port, from its start until its end.

    Args:
        app: What answers.
        host: Address to listen on.
        port: The port.
        end_deadline_s: At its end, for answers that are being sent.
    """

    def __init__(self, app: ASGIApp, host: str, port: int, end_deadline_s: float) -> None:
        self._app, self._address, self._end_deadline_s = app, (host, port), end_deadline_s
        self._server: Any = None
        self._serving: asyncio.Task[None] | None = None

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Listens once the application says that it has started, and no longer when it is told to end."""
        if scope["type"] != "lifespan":
            await self._app(scope, receive, send)
            return

        async def receiving() -> Message:
            message = await receive()
            if message["type"] == "lifespan.shutdown":
                await self._close()
            return message

        async def sending(message: Message) -> None:
            if message["type"] == "lifespan.startup.complete":
                await self._listen()
            await send(message)

        await self._app(scope, receiving, sending)

    async def _listen(self) -> None:
        """Returns once connections are taken.

        Raises:
            ResourceError: The port is taken.
        """
        bound = bound_socket(*self._address, "--port")
        bound.listen(_BACKLOG)
        self._server = uvicorn.Server(
            uvicorn.Config(
                Lingering(self._app),
                lifespan="off",
                http=BoundedProtocol,
                ws="none",
                log_level=None,
                log_config=None,
                access_log=False,
                server_header=False,
                proxy_headers=False,  # whoever sends one could be any address, and guess keys without end
                timeout_keep_alive=KEEP_ALIVE_S,
                timeout_graceful_shutdown=int(self._end_deadline_s),
            )
        )
        self._serving = asyncio.create_task(self._server.serve(sockets=[bound]))
        while not (self._server.started or self._serving.done()):
            await asyncio.sleep(_POLL_S)

    async def _close(self) -> None:
        if self._serving:
            self._server.should_exit = True
            await self._serving


class BoundedProtocol(HttpToolsProtocol):
    """HTTP/1.1 whose requests have little beside their bodies: headers are in memory before anybody sees them."""

    _num_head_bytes = 0
    """That came since the request began, or since the last piece of its body."""

    def on_message_begin(self) -> None:
        """A request begins."""
        self._num_head_bytes = 0
        super().on_message_begin()

    def on_body(self, body: bytes) -> None:
        """A piece of its body has come."""
        self._num_head_bytes = 0
        super().on_body(body)

    def data_received(self, data: bytes) -> None:
        """Something has come; refuses the request where its headers, trailers or signs between chunks are too much."""
        self._num_head_bytes += len(data)
        super().data_received(data)
        if self._num_head_bytes > MAX_HEAD_BYTES and not self.transport.is_closing():
            self.send_400_response("The headers of the request are too large.")


class Lingering:
    """An ASGI application whose answers end once the request's body has arrived, read or thrown away.

    Args:
        app: What answers.
    """

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answers, and throws away what the application did not read."""
        headers = dict(scope["headers"])
        is_asked_for = b"expect" not in headers  # a client that waits to be asked for its body has sent none of it
        is_read = not (b"content-length" in headers or b"transfer-encoding" in headers)
        is_held = False

        async def receiving() -> Message:
            nonlocal is_asked_for, is_read
            is_asked_for = True
            message = await receive()
            is_read = message["type"] != "http.request" or not message.get("more_body", False)
            return message

        async def sending(message: Message) -> None:
            nonlocal is_held
            is_last = message["type"] == "http.response.body" and not message.get("more_body", False)
            if is_held := is_last and is_asked_for and not is_read:
                message = {**message, "more_body": True}
            await send(message)

        await self._app(scope, receiving, sending)
        if not is_held:
            return
        with suppress(TimeoutError):
            async with asyncio.timeout(LINGER_S):
                while not is_read:
                    await receiving()
        await send({"type": "http.response.body", "body": b"", "more_body": False})
