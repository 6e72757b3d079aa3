"""What stands before every route: sizes and times of bodies, the Host header, foreign pages, headers of answers."""

import asyncio
import json
from collections.abc import Mapping
from http import HTTPStatus
from typing import Any

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from fxray.listening import is_loopback
from fxray.serve.problems import MEDIA_TYPE, Refusal, problem_of, unavailable

CONTENT_SECURITY_POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' blob: data:; connect-src 'self'; "
    "base-uri 'none'; form-action 'none'; frame-ancestors 'none'; require-trusted-types-for 'script'; "
    "trusted-types 'none'"
)
HEADERS = {
    "content-security-policy": CONTENT_SECURITY_POLICY,
    "x-content-type-options": "nosniff",
    "referrer-policy": "no-referrer",
    "cross-origin-opener-policy": "same-origin",
    "cross-origin-resource-policy": "same-origin",
    "permissions-policy": "camera=(self), geolocation=(), microphone=()",
}
_WITH_BODY = ("POST", "PUT", "PATCH")
_RETRY_AFTER_S = 5.0
_LOOPBACK = ("127.0.0.1", "localhost", "[::1]")


class Shield:
    """An ASGI middleware.

    Args:
        app: What it stands before.
        allowed_hosts: Names in the Host header that are answered, ports apart; empty for any. Without this a foreign
            page could have its own name point here, and read the answers.
        max_bytes: Of a body, by path; the entry "" is for all others.
        max_open_bytes: Of the bodies of all requests that are not answered yet, by path likewise: a body is in memory
            before anybody knows how many images it holds.
        upload_deadline_s: For a body to arrive; for one beyond `max_bytes[""]`, so much longer as it is larger.
    """

    def __init__(
        self,
        app: ASGIApp,
        *,
        allowed_hosts: tuple[str, ...],
        max_bytes: Mapping[str, int],
        max_open_bytes: Mapping[str, int],
        upload_deadline_s: float,
    ) -> None:
        self._app, self._max_bytes, self._upload_deadline_s = app, max_bytes, upload_deadline_s
        self._max_open_bytes = max_open_bytes
        self._open_bytes = dict.fromkeys(max_open_bytes, 0)
        self._hosts = frozenset(host.lower() for host in allowed_hosts)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Lets a request through, watched, or refuses it."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        headers = {name.decode("latin-1").lower(): value.decode("latin-1") for name, value in scope["headers"]}
        try:
            self._check_host(headers)
            _check_origin(scope["method"], headers)
            limit = self._check_length(scope["path"], headers)
            num_bytes = int(headers.get("content-length", limit))
            reserved = self._reserve(scope["path"], scope["method"], num_bytes)
        except Refusal as refusal:
            await _refuse(refusal, send)
            return
        try:
            deadline_s = self._upload_deadline_s * max(1.0, num_bytes / self._max_bytes[""])
            await self._app(scope, self._watched(receive, limit, deadline_s), _with_headers(send))
        finally:
            for path, num_reserved in reserved.items():
                self._open_bytes[path] -= num_reserved

    def _check_host(self, headers: Mapping[str, str]) -> None:
        host = headers.get("host", "").lower()
        name = host if host.endswith("]") else host.rpartition(":")[0] or host
        if self._hosts and name not in self._hosts:
            raise Refusal(
                HTTPStatus.MISDIRECTED_REQUEST,
                f"host {name[:80]!r} is not served here",
                where="header Host",
                remedy="name the host in serve.allowed_hosts; that of a study, with --url",
            )

    def _check_length(self, path: str, headers: Mapping[str, str]) -> int:
        limit = self._max_bytes.get(path, self._max_bytes[""])
        length = headers.get("content-length", "0")
        if not length.isascii() or not length.isdigit() or int(length[:18]) > limit:
            raise _too_long(length[:18], limit)
        return limit

    def _reserve(self, path: str, method: str, num_bytes: int) -> Mapping[str, int]:
        """Sets bytes aside for a body that is about to arrive; what was set aside, by path."""
        if method not in _WITH_BODY:
            return {}
        path = path if path in self._max_open_bytes else ""
        if self._open_bytes[path] + num_bytes > self._max_open_bytes[path]:
            raise unavailable(
                f"{self._open_bytes[path]} bytes of other requests are in memory, {num_bytes} more are too many",
                retry_after_s=_RETRY_AFTER_S,
            )
        self._open_bytes[path] += num_bytes
        return {path: num_bytes}

    @staticmethod
    def _watched(receive: Receive, limit: int, deadline_s: float) -> Receive:
        """`receive` that counts bytes and looks at the clock until the body is complete."""
        num_bytes, is_complete = 0, False
        loop = asyncio.get_running_loop()
        deadline = loop.time() + deadline_s

        async def watched() -> Message:
            nonlocal num_bytes, is_complete
            if is_complete:
                return await receive()
            try:
                async with asyncio.timeout_at(deadline):
                    message = await receive()
            except TimeoutError as error:
                raise Refusal(
                    HTTPStatus.REQUEST_TIMEOUT,
                    f"the body did not arrive within {deadline_s:g} s, {num_bytes} bytes of it did",
                    where="body",
                    remedy="send less at once",
                ) from error
            num_bytes += len(message.get("body", b""))
            is_complete = message["type"] != "http.request" or not message.get("more_body", False)
            if num_bytes > limit:
                raise _too_long(str(num_bytes), limit)
            return message

        return watched


def _check_origin(method: str, headers: Mapping[str, str]) -> None:
    """Refuses what a foreign page asks for; a link from one may be followed, a form of one may not be sent.

    Browsers leave Sec-Fetch-Site out where there is no TLS, beyond loopback; they send Origin with forms there too.
    """
    site, origin = headers.get("sec-fetch-site"), headers.get("origin")
    is_link = method in ("GET", "HEAD") and headers.get("sec-fetch-mode") == "navigate"
    if site == "cross-site" and not is_link:
        raise _foreign("a page of another site asked", "header Sec-Fetch-Site")
    if method in ("GET", "HEAD") or origin is None or site == "same-origin":
        return
    if origin.lower().partition("://")[2] != headers.get("host", "").lower():
        raise _foreign(f"a page of {origin[:80]!r} asked", "header Origin")


def _foreign(message: str, where: str) -> Refusal:
    return Refusal(
        HTTPStatus.FORBIDDEN,
        message,
        where=where,
        remedy="ask from the service's own page, or from a program; a proxy before it has to pass Host on",
    )


def loopback_hosts(host: str) -> tuple[str, ...]:
    """The Host headers that a service on a loopback address answers; none are checked on any other address."""
    if not is_loopback(host):
        return ()
    return tuple(dict.fromkeys((*_LOOPBACK, f"[{host}]" if ":" in host else host)))


def _too_long(num_bytes: str, limit: int) -> Refusal:
    return Refusal(
        HTTPStatus.REQUEST_ENTITY_TOO_LARGE,
        f"a body of {num_bytes} bytes, expected at most {limit}",
        where="body",
        remedy="send fewer images at once, or scale them down",
    )


def _with_headers(send: Send) -> Send:
    async def sending(message: Message) -> None:
        if message["type"] == "http.response.start":
            present = {name.lower() for name, _ in message["headers"]}
            extra = [(name.encode(), value.encode()) for name, value in HEADERS.items() if name.encode() not in present]
            if b"cache-control" not in present:
                extra.append((b"cache-control", b"no-store"))
            message = {**message, "headers": [*message["headers"], *extra]}
        await send(message)

    return sending


async def _refuse(refusal: Refusal, send: Send) -> None:
    body = json.dumps(problem_of(refusal, refusal.status)).encode()
    headers: list[tuple[bytes, bytes]] = [
        (b"content-type", MEDIA_TYPE.encode()),
        (b"content-length", str(len(body)).encode()),
        (b"connection", b"close"),
        *((name.lower().encode(), value.encode()) for name, value in refusal.headers.items()),
    ]
    start: dict[str, Any] = {"type": "http.response.start", "status": refusal.status, "headers": headers}
    await _with_headers(send)(start)
    await send({"type": "http.response.body", "body": body})
