"""What the service refuses, as `application/problem+json` (RFC 9457) with the place and the remedy of every error."""

import math
from http import HTTPStatus
from typing import Any

from fxray.errors import FxrayError

MEDIA_TYPE = "application/problem+json"
CLIENT_GONE = 499
"""Status of what nobody reads."""


class Refusal(FxrayError):  # noqa: N818  not every refusal is an error
    """A request that is not answered as it was meant.

    Args:
        status: HTTP status.
        message: What is wrong.
        where: The part of the request.
        remedy: What the caller can do.
        retry_after_s: When it is worth to try again; None where it is not.
    """

    def __init__(
        self, status: int, message: str, *, where: str = "", remedy: str = "", retry_after_s: float | None = None
    ) -> None:
        super().__init__(message, where=where, remedy=remedy)
        self.status = status
        self.retry_after_s = retry_after_s

    def __reduce__(self) -> tuple[object, ...]:
        return (_rebuild, (self.status, self.message, self.where, self.remedy, self.retry_after_s))

    @property
    def headers(self) -> dict[str, str]:
        """Headers that go with the answer."""
        headers = {"WWW-Authenticate": "Bearer"} if self.status == HTTPStatus.UNAUTHORIZED else {}
        if self.retry_after_s is not None:
            headers["Retry-After"] = str(max(1, math.ceil(self.retry_after_s)))
        return headers


def _rebuild(status: int, message: str, where: str, remedy: str, retry_after_s: float | None) -> Refusal:
    return Refusal(status, message, where=where, remedy=remedy, retry_after_s=retry_after_s)


def unavailable(message: str, *, retry_after_s: float, remedy: str = "send the request again later") -> Refusal:
    """The refusal of what may be tried again."""
    return Refusal(HTTPStatus.SERVICE_UNAVAILABLE, message, remedy=remedy, retry_after_s=retry_after_s)


def problem(status: int, detail: str, *, where: str = "", remedy: str = "") -> dict[str, Any]:
    """The body of an error; empty parts are left out."""
    title = HTTPStatus(status).phrase if status in set(HTTPStatus) else "Not answered"
    body: dict[str, Any] = {"title": title, "status": int(status), "detail": detail}
    return body | {name: text for name, text in (("where", where), ("remedy", remedy)) if text}


def problem_of(error: FxrayError, status: int) -> dict[str, Any]:
    """The body that tells of one of fxray's own errors."""
    return problem(status, error.message, where=error.where, remedy=error.remedy)
