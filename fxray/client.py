"""A thin client of `fxray serve`: images in, detections out, as the plain values that the service sends.

from fxray.client import Client

with Client("http://127.0.0.1:8000") as client:
    for detection in client.detect(["photo.jpg"]):
        print(detection["verdict"], detection["regions"])
"""

import json
import os
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, closing
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from pathlib import Path
from types import TracebackType
from typing import Any, BinaryIO, Self

import httpx

from fxray.counts import counted
from fxray.errors import ConfigError, DataError, DeadlineError, FxrayError

MAX_TRIES = 5
"""Of a request that the service asks to send again later."""
_WAIT_S, _MAX_WAIT_S = 1.0, 30.0
_TRY_AGAIN = (429, 503)


class ServiceError(FxrayError, RuntimeError):
    """A request that the service refuses; `status` is the HTTP status."""

    def __init__(self, message: str, *, where: str = "", remedy: str = "", status: int = 0) -> None:
        super().__init__(message, where=where, remedy=remedy)
        self.status = status


class Client:
    """A connection to a service.

    Args:
        url: Where it listens: http://HOST:PORT.
        key: The API key, where one is needed.
        timeout_s: For an answer to begin.
        transport: In place of the network, for tests.

    Raises:
        ConfigError: The URL is none of HTTP, or the key holds what no HTTP header can.
    """

    def __init__(
        self, url: str, *, key: str = "", timeout_s: float = 180.0, transport: httpx.BaseTransport | None = None
    ) -> None:
        _refuse_what_is_no_address(url)
        headers = key_headers(key, "key")
        self._http = httpx.Client(base_url=url, headers=headers, timeout=timeout_s, transport=transport)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._http.close()

    def models(self) -> list[dict[str, Any]]:
        """What can answer: the fields of a `ModelOut` each.

        Raises:
            ServiceError: The service refuses the request.
        """
        found: list[dict[str, Any]] = _body_of(self._ask("GET", "/v1/models"), "models")["models"]
        return found

    def detect(self, files: Sequence[Path | str], model: str = "") -> list[dict[str, Any]]:
        """Examines images in one request.

        Args:
            files: The images.
            model: Name of the model that is to answer; by default the service's first.

        Returns:
            In their order, the fields of `DetectionOut`; `name` and `problem` for one that cannot be examined. Nothing
            is asked about no images.

        Raises:
            ServiceError: The service refuses the request.
            DataError: A file cannot be read, or `files` is no list.
        """
        _refuse_what_is_no_list(files)
        if not files:
            return []
        response = self._ask("POST", "/v1/detect", files, model, may_be_at_fault=len(files) == 1)
        if response.is_error and "detail" in (problem := _object_of(response)):  # the only image is at fault
            return [{"name": _name_of(files[0]), "problem": problem}]
        detections: list[dict[str, Any]] = _body_of(response, "detections")["detections"]
        return detections

    def stability(self, file: Path | str, model: str = "") -> dict[str, Any]:
        """What becomes of the answer to an image when it is changed: the fields of `StabilityOut`.

        Raises:
            ServiceError: The service refuses the request, or cannot examine the image.
            DataError: The file cannot be read.
        """
        return _body_of(self._ask("POST", "/v1/stability", [file], model))

    def hand_in(self, files: Sequence[Path | str], model: str = "") -> str:
        """Hands in a batch, and returns its id.

        Raises:
            ServiceError: The service refuses the batch.
            DataError: A file cannot be read, or `files` is no list.
        """
        _refuse_what_is_no_list(files)
        return str(_body_of(self._ask("POST", "/v1/batches", files, model), "id")["id"])

    def batch(self, batch_id: str) -> dict[str, Any]:
        """How far a batch is: the fields of `BatchOut`.

        Raises:
            ServiceError: There is no such batch.
        """
        return _body_of(self._ask("GET", f"/v1/batches/{batch_id}"), "state")

    def results(self, batch_id: str) -> Iterator[dict[str, Any]]:
        """The results of a batch that are there, in the order of its images.

        Raises:
            ServiceError: There is no such batch.
        """
        response = self._ask("GET", f"/v1/batches/{batch_id}/results")
        for line in filter(None, response.content.split(b"\n")):  # `splitlines` also cuts at ends of lines within texts
            try:
                yield json.loads(line)
            except (ValueError, RecursionError) as error:
                raise _stranger(response) from error

    def wait(self, batch_id: str, *, deadline_s: float, every_s: float = 1.0) -> None:
        """Returns once a batch is done.

        Raises:
            DeadlineError: It is not within `deadline_s`.
            ServiceError: There is no such batch.
        """
        end_s = time.monotonic() + deadline_s
        while (state := self.batch(batch_id))["state"] != "done":
            if time.monotonic() > end_s:
                done = (
                    f"{state['num_done']} of {counted(state['num_images'], 'image')} examined within {deadline_s:g} s"
                )
                raise DeadlineError(
                    f"{done}, held up: {state['held_up']}" if state.get("held_up") else done,
                    where=f"batch {batch_id}",
                    remedy="wait longer; the batch goes on",
                )
            time.sleep(every_s)

    def _ask(
        self,
        method: str,
        path: str,
        files: Sequence[Path | str] = (),
        model: str = "",
        *,
        may_be_at_fault: bool = False,
    ) -> httpx.Response:
        for tried in range(1, MAX_TRIES + 1):
            with ExitStack() as opened:
                parts: Any = [("images", (_name_of(f), opened.enter_context(closing(_Sent(f))))) for f in files]
                try:
                    response = self._http.request(
                        method, path, files=parts or None, params={"model": model} if model else None
                    )
                except httpx.HTTPError as error:
                    raise ServiceError(
                        f"the service does not answer: {error}",
                        where=path,
                        remedy="check that `fxray serve` runs there",
                    ) from error
            if not _is_to_be_sent_again(response) or tried == MAX_TRIES:
                break
            time.sleep(min(_wait_s(response), _MAX_WAIT_S))
        if response.is_success or (may_be_at_fault and response.status_code == httpx.codes.UNPROCESSABLE_ENTITY):
            return response
        raise _error_of(response)


def key_headers(key: str, where: str) -> dict[str, str]:
    """The header that brings a key, if there is one.

    Args:
        key: May be empty.
        where: What holds it, for the error; which never holds the key.

    Raises:
        ConfigError: It holds what no HTTP header can.
    """
    if not (key.isascii() and key.isprintable()):
        raise ConfigError(
            "holds other characters than the letters, digits and signs of ASCII",
            where=where,
            remedy="copy the key again: a dash may have become another, or an end of line come with it",
        )
    return {"Authorization": f"Bearer {key}"} if key else {}


def _refuse_what_is_no_address(url: str) -> None:
    try:
        parsed = httpx.URL(url)
    except httpx.InvalidURL:
        parsed = httpx.URL()
    if parsed.scheme not in ("http", "https") or not parsed.host:
        raise ConfigError(f"{url!r} is no address of a service", where="url", remedy="give http://HOST:PORT")


def _refuse_what_is_no_list(files: Sequence[Path | str]) -> None:
    if isinstance(files, str | bytes | Path):
        raise DataError(f"expected a list of files, got one {type(files).__name__}", remedy="give a list of one")


class _Sent:
    """A file as httpx reads it, open only while it is read: a batch holds more files than a process may have open.

    Args:
        file: Its path.

    Raises:
        DataError: It cannot be read.
    """

    def __init__(self, file: Path | str) -> None:
        self._file = file
        self._content: BinaryIO | None = None
        with _opened(file) as content:
            self._num_bytes = os.fstat(content.fileno()).st_size

    def tell(self) -> int:
        """The start: httpx asks before it reads."""
        return 0

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        """The end, for httpx to know the length; or back to the start."""
        if whence == os.SEEK_END:
            return self._num_bytes
        self.close()
        return offset

    def read(self, num_bytes: int) -> bytes:
        """The next bytes, none at the end.

        Raises:
            DataError: It cannot be read any more.
        """
        if self._content is None:
            self._content = _opened(self._file)
        if not (piece := self._content.read(num_bytes)):
            self.close()
        return piece

    def close(self) -> None:
        """The next `read` begins anew."""
        if self._content is not None:
            self._content.close()
            self._content = None


def _opened(file: Path | str) -> BinaryIO:
    try:
        return Path(file).open("rb")
    except OSError as error:
        raise DataError(f"cannot be read: {error.strerror}", where=str(file)) from error


def _name_of(file: Path | str) -> str:
    """The name of a file as Unicode, which a request needs; without backslashes, which the service cuts it at."""
    return Path(file).name.encode("utf-8", "replace").decode()


def _is_to_be_sent_again(response: httpx.Response) -> bool:
    """Also where nobody but Ray Serve's proxy answers, in plain text: while a service on a cluster starts or stops."""
    is_alone = response.status_code == httpx.codes.NOT_FOUND and "json" not in response.headers.get("content-type", "")
    return is_alone or response.status_code in _TRY_AGAIN


def _wait_s(response: httpx.Response) -> float:
    """How long the service asks to wait; a proxy before it may name a time of day (RFC 9110)."""
    told = response.headers.get("Retry-After", "")
    if told.isascii() and told.isdigit():
        return float(told)
    try:
        return max(0.0, (parsedate_to_datetime(told) - datetime.now(UTC)).total_seconds())
    except (ValueError, TypeError):  # no date, or one without a zone
        return _WAIT_S


def _body_of(response: httpx.Response, *fields: str) -> dict[str, Any]:
    """The body of an answer.

    Args:
        response: The answer.
        fields: That it has.

    Raises:
        ServiceError: It is none of the service's: the page of a proxy, for one.
    """
    body = _object_of(response)
    if not body or not body.keys() >= set(fields):
        raise _stranger(response)
    return body


def _object_of(response: httpx.Response) -> dict[str, Any]:
    """What a body says; nothing where it is no JSON object."""
    try:
        body = response.json()
    except (ValueError, RecursionError):
        return {}
    return body if isinstance(body, dict) else {}


def _stranger(response: httpx.Response) -> ServiceError:
    kind = response.headers.get("content-type", "no content type")
    return ServiceError(
        f"status {response.status_code} with a body ({kind}) that is not the service's",
        where=response.url.path,
        remedy="check the URL, and what stands before the service",
        status=response.status_code,
    )


def _error_of(response: httpx.Response) -> ServiceError:
    problem = _object_of(response)
    return ServiceError(
        str(problem.get("detail", f"status {response.status_code}")),
        where=str(problem.get("where", "")),
        remedy=str(problem.get("remedy", "")),
        status=response.status_code,
    )
