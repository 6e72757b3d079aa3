"""What a route raises, as the answer that tells of it."""

import logging
from http import HTTPStatus
from typing import Any

from fastapi import FastAPI, Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect
from starlette.routing import Route

from fxray.errors import FxrayError, ResourceError
from fxray.serve.problems import CLIENT_GONE, MEDIA_TYPE, Refusal, problem, problem_of

_LOG = logging.getLogger(__name__)


def add_failures(app: FastAPI) -> None:
    """Adds the answers: to a `Refusal` its status, to a full disk 507, to a client that left 499, to others 500."""

    @app.exception_handler(Refusal)
    async def refused(request: Request, error: Refusal) -> Response:  # noqa: ARG001
        return as_response(problem_of(error, error.status), error.headers)

    @app.exception_handler(FxrayError)
    async def failed(request: Request, error: FxrayError) -> Response:
        return as_response(told_failure(error, request))

    @app.exception_handler(ClientDisconnect)
    async def gone(request: Request, error: ClientDisconnect) -> Response:  # noqa: ARG001
        return as_response(problem(CLIENT_GONE, "the client went away while it sent"))

    @app.exception_handler(RequestValidationError)
    async def invalid(request: Request, error: RequestValidationError) -> Response:  # noqa: ARG001
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"])
        return as_response(problem(HTTPStatus.UNPROCESSABLE_ENTITY, first["msg"], where=where))

    @app.exception_handler(HTTPException)
    async def unknown(request: Request, error: HTTPException) -> Response:
        headers, remedy = dict(error.headers or {}), ""
        if error.status_code == HTTPStatus.METHOD_NOT_ALLOWED:
            headers["Allow"] = ", ".join(_methods(request))
            remedy = f"use {headers['Allow']}"
        elif error.status_code == HTTPStatus.NOT_FOUND and request.app.openapi_url:
            remedy = f"{request.app.openapi_url} lists what there is"
        where = f"{request.method} {request.url.path}"
        return as_response(problem(error.status_code, str(error.detail), where=where, remedy=remedy), headers)

    @app.exception_handler(Exception)
    async def broken(request: Request, error: Exception) -> Response:  # noqa: ARG001 - who raised it logs it
        remedy = "send it again; where that fails too, the service's log says more"
        return as_response(problem(HTTPStatus.INTERNAL_SERVER_ERROR, "the service failed", remedy=remedy))


def told_failure(error: FxrayError, request: Request) -> dict[str, Any]:
    """The problem of an error that is no refusal, which the log is told too."""
    _LOG.error("%s %s: %s", request.method, request.url.path, error)
    is_full = isinstance(error, ResourceError)
    return problem_of(error, HTTPStatus.INSUFFICIENT_STORAGE if is_full else HTTPStatus.INTERNAL_SERVER_ERROR)


def _methods(request: Request) -> list[str]:
    """What can be done with a path: a path may have several routes, and one alone does not know the others."""
    routes = (route for route in request.app.routes if isinstance(route, Route))
    found = (route.methods or set() for route in routes if route.path_regex.match(request.url.path))
    return sorted(set().union(*found))


def as_response(body: dict[str, Any], headers: dict[str, str] | None = None) -> Response:
    """A problem as `fxray.serve.problems` writes it, with its own status."""
    return JSONResponse(body, body["status"], headers, media_type=MEDIA_TYPE)
