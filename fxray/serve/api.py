"""The routes. Each checks the key, reads the body within its limits, and asks the service."""

import asyncio
import json
import logging
from collections.abc import AsyncGenerator, AsyncIterator, Coroutine
from contextlib import aclosing, asynccontextmanager
from dataclasses import replace
from http import HTTPStatus
from typing import Annotated, Any, TypeVar

from fastapi import Depends, FastAPI, Header, Path, Query, Request, Response
from fastapi.responses import JSONResponse, StreamingResponse
from starlette.types import ASGIApp, Receive, Scope, Send

from fxray import __version__
from fxray.config.tree import DEFAULT_MODEL
from fxray.errors import FxrayError
from fxray.serve.batches import read_lines
from fxray.serve.failures import add_failures, as_response, told_failure
from fxray.serve.metrics import Counted
from fxray.serve.page import add_page
from fxray.serve.parameters import refuse_unknown_parameters
from fxray.serve.problems import CLIENT_GONE, Refusal, problem_of, unavailable
from fxray.serve.service import STABILITY_COST, Service
from fxray.serve.shield import Shield
from fxray.serve.uploads import FIELD, FORM, read_uploads, uploaded_files
from fxray.serve.wire import BATCH_ID, BatchOut, DetectIn, DetectOut, ModelsOut, StabilityOut, problem_responses

BATCHES = "/v1/batches"
EVENTS = "text/event-stream"
NDJSON = "application/x-ndjson"
_T = TypeVar("_T")
_LOG = logging.getLogger(__name__)
_REFUSALS = (400, 401, 403, 404, 408, 413, 415, 421, 422, 429, 503, 507)

BatchId = Annotated[str, Path(pattern=BATCH_ID)]


def build_app(service: Service) -> ASGIApp:
    """The ASGI application: the routes, behind what checks and counts every request."""
    settings = service.settings
    guarded = Shield(
        build_routes(service),
        allowed_hosts=settings.allowed_hosts,
        max_bytes={"": settings.max_request_bytes, BATCHES: settings.max_batch_bytes},
        max_open_bytes={
            "": settings.max_upload_bytes,
            BATCHES: max(settings.max_upload_bytes, settings.max_batch_bytes),
        },
        upload_deadline_s=settings.upload_deadline_s,
    )
    return Counted(guarded, service.metrics)


def build_routes(service: Service) -> FastAPI:
    """The routes alone."""

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:  # noqa: ARG001
        service.runner.start()
        yield
        await service.runner.stop()

    app = FastAPI(
        title="fxray",
        version=__version__,
        summary="Says whether, where and why an image looks generated. A verdict is evidence, never proof.",
        lifespan=lifespan,
        docs_url=None,
        redoc_url=None,
        dependencies=[Depends(refuse_unknown_parameters)],
        responses=problem_responses(422),
    )
    app.state.service = service
    _add_detection(app)
    _add_stability(app)
    _add_batches(app)
    _add_state(app)
    add_page(app)
    add_failures(app)
    return app


def service_of(request: Request) -> Service:
    """The service that the application was started with."""
    service: Service = request.app.state.service
    return service


async def owner_of(
    request: Request, authorization: Annotated[str | None, Header(description="Bearer and an API key")] = None
) -> str:
    """Whose key came with the request."""
    address = request.client.host if request.client else ""
    return service_of(request).doorkeeper.admit(authorization, address)


Owner = Annotated[str, Depends(owner_of)]


async def model_of(
    request: Request,
    model: Annotated[str, Query(description="Name of what is to answer, one of those at /v1/models")] = DEFAULT_MODEL,
) -> str:
    """Name of the model that is to answer; that there is none such is said before the body is read.

    Raises:
        Refusal: There is no such model (404).
    """
    service_of(request).check_model(model)
    return model


Model = Annotated[str, Depends(model_of)]


def _form_body(**limits: int) -> dict[str, Any]:
    """The OpenAPI description of a form of images; `limits` are JSON Schema's, of their list."""
    images = {"type": "array", "minItems": 1, "items": {"type": "string", "format": "binary"}, **limits}
    form = {"type": "object", "required": [FIELD], "additionalProperties": False, "properties": {FIELD: images}}
    return {"requestBody": {"required": True, "content": {"multipart/form-data": {"schema": form}}}}


def _form_or_json_body(**limits: int) -> dict[str, Any]:
    """The same, or as JSON."""
    body = _form_body(**limits)
    schema = DetectIn.model_json_schema(ref_template="#/components/schemas/{model}")
    image = schema.pop("$defs")["ImageIn"]
    schema["properties"]["images"] |= {"items": image, **limits}
    body["requestBody"]["content"]["application/json"] = {"schema": schema}
    return body


def _add_detection(app: FastAPI) -> None:
    limits = app.state.service.limits
    responses = problem_responses(*_REFUSALS) | {200: {"content": {EVENTS: {}}}}
    responses[422]["content"]["application/json"] = {"schema": {"$ref": "#/components/schemas/DetectOut"}}

    @app.post(
        "/v1/detect",
        response_model=DetectOut,
        responses=responses,
        openapi_extra=_form_or_json_body(maxItems=limits.max_images),
        summary="Examine images",
        tags=["detection"],
    )
    async def detect(request: Request, owner: Owner, model: Model) -> Response:
        """Images as files of a form or as base64 in JSON.

        With `Accept: text/event-stream` the regions come as they are found, one event each: `image`, `region`,
        `detection` or `problem`, at last `end`. An image that cannot be examined never stops the others; where none
        can, the status is 422: of one image its problem, of several a list as ever. A body that cannot be taken apart,
        as where an image of it is no base64, is refused whole.
        """
        service = service_of(request)
        service.admission.check_room(1)  # before a body is read that finds none
        uploads = await read_uploads(request, service.limits, model)
        service.charge(owner, len(uploads))
        if EVENTS in request.headers.get("accept", ""):
            return _EventResponse(_events(service.stream(uploads, owner), request))
        detections = await _unless_gone(request, service.detect(uploads, owner))
        is_useless = all("problem" in detection for detection in detections)
        if is_useless and len(detections) == 1:
            return as_response(detections[0]["problem"])
        return JSONResponse({"detections": detections}, 422 if is_useless else 200)


def _add_stability(app: FastAPI) -> None:
    @app.post(
        "/v1/stability",
        response_model=StabilityOut,
        responses=problem_responses(*_REFUSALS),
        openapi_extra=_form_or_json_body(maxItems=1),
        summary="What becomes of an answer when the image is changed",
        tags=["detection"],
    )
    async def stability(request: Request, owner: Owner, model: Model) -> Response:
        """One image, examined as it is and saved as JPEG again, resized, cropped, and as a screenshot.

        Changes that an image is too long for are named in `not_tried`.

        It costs as much as ten images, against the rate of a key too.
        """
        service = service_of(request)
        service.admission.check_room(STABILITY_COST)
        (upload,) = await read_uploads(request, replace(service.limits, max_images=1), model)
        service.charge(owner, STABILITY_COST)
        found = await _unless_gone(request, service.try_changes(upload, owner))
        return as_response(found["problem"]) if "problem" in found else JSONResponse(found)


async def _unless_gone(request: Request, answer: Coroutine[Any, Any, _T]) -> _T:
    """What is awaited, which is cancelled when the client goes away.

    Raises:
        Refusal: 499, which nobody reads.
    """
    asked, gone = asyncio.create_task(answer), asyncio.create_task(_until_gone(request))
    try:
        await asyncio.wait({asked, gone}, return_when=asyncio.FIRST_COMPLETED)
        if not asked.done():
            raise Refusal(CLIENT_GONE, "the client went away")
        return asked.result()
    finally:
        gone.cancel()
        asked.cancel()
        await asyncio.gather(asked, gone, return_exceptions=True)


async def _until_gone(request: Request) -> None:
    while (await request.receive())["type"] != "http.disconnect":
        pass


class _EventResponse(StreamingResponse):
    """Events that end with their request: left where one of them was being sent, they would hold their engine."""

    def __init__(self, events: AsyncGenerator[str]) -> None:
        super().__init__(events, media_type=EVENTS, headers={"X-Accel-Buffering": "no"})
        self._events = events

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Sends them."""
        async with aclosing(self._events):
            await super().__call__(scope, receive, send)


async def _events(pieces: AsyncGenerator[dict[str, Any]], request: Request) -> AsyncGenerator[str]:
    """Server-sent events; an error ends the stream as an event, since the status is sent long before."""
    try:
        async with aclosing(pieces):
            async for piece in pieces:
                kind = next(kind for kind in ("image", "region", "detection", "problem") if kind in piece)
                yield f"event: {kind}\ndata: {json.dumps(piece)}\n\n"
    except Refusal as refusal:
        body = problem_of(refusal, refusal.status)
        if refusal.retry_after_s is not None:
            body["retry_after_s"] = round(refusal.retry_after_s, 1)
        yield f"event: problem\ndata: {json.dumps({'problem': body})}\n\n"
    except FxrayError as error:
        yield f"event: problem\ndata: {json.dumps({'problem': told_failure(error, request)})}\n\n"
    yield "event: end\ndata: {}\n\n"


def _add_batches(app: FastAPI) -> None:
    limits = app.state.service.batch_limits

    @app.post(
        BATCHES,
        status_code=HTTPStatus.ACCEPTED,
        response_model=BatchOut,
        responses=problem_responses(*_REFUSALS),
        openapi_extra=_form_body(maxItems=limits.max_images),
        summary="Hand in many images",
        tags=["batches"],
    )
    async def add(request: Request, owner: Owner, model: Model) -> Response:
        """The images are kept until they are examined, beside other requests and after a restart too."""
        service = service_of(request)
        service.admission.check_open()
        async with uploaded_files(request, service.batch_limits, FORM) as files:
            asked_of = await service.id_of(model)
            batch = await asyncio.to_thread(service.batches.add, files, owner, model, asked_of, service.batch_limits)
        service.runner.wake()
        state = await asyncio.to_thread(batch.state)
        return JSONResponse(
            state.model_dump(mode="json"), HTTPStatus.ACCEPTED, {"Location": f"{BATCHES}/{batch.batch_id}"}
        )

    @app.get(
        BATCHES + "/{batch_id}",
        response_model=BatchOut,
        responses=problem_responses(401, 404, 429),
        summary="How far a batch is",
        tags=["batches"],
    )
    def state(request: Request, owner: Owner, batch_id: BatchId) -> BatchOut:
        service = service_of(request)
        return service.batches.find(batch_id, owner).state(service.runner.held_up(batch_id))

    @app.get(
        BATCHES + "/{batch_id}/results",
        response_class=StreamingResponse,
        responses=problem_responses(401, 404, 429) | {200: {"content": {NDJSON: {}}}},
        summary="Results so far, as JSON lines",
        tags=["batches"],
    )
    async def results(request: Request, owner: Owner, batch_id: BatchId) -> Response:
        """One `DetectionOut` or `FailureOut` per line, in the order of the images, with its `index` from 0."""
        batch = service_of(request).batches.find(batch_id, owner)
        return StreamingResponse(read_lines(batch), media_type=NDJSON)

    @app.delete(
        BATCHES + "/{batch_id}",
        status_code=HTTPStatus.NO_CONTENT,
        response_class=Response,
        responses=problem_responses(401, 404, 429),
        summary="Stop and forget a batch",
        tags=["batches"],
    )
    def delete(request: Request, owner: Owner, batch_id: BatchId) -> Response:
        batches = service_of(request).batches
        batches.delete(batches.find(batch_id, owner))
        return Response(status_code=HTTPStatus.NO_CONTENT)


def _add_state(app: FastAPI) -> None:
    @app.get(
        "/v1/models",
        response_model=ModelsOut,
        responses=problem_responses(401, 429, 503),
        summary="What answers",
        tags=["service"],
    )
    async def models(request: Request, owner: Owner) -> Response:  # noqa: ARG001
        return JSONResponse({"models": await service_of(request).backend.models()})

    @app.head("/healthz", include_in_schema=False)  # many monitors ask so
    @app.get("/healthz", summary="The gateway lives", tags=["service"])
    async def healthy() -> dict[str, str]:
        return {"status": "alive"}

    @app.head("/readyz", include_in_schema=False)
    @app.get("/readyz", responses=problem_responses(503), summary="Requests will be answered", tags=["service"])
    async def ready(request: Request) -> dict[str, str]:
        service = service_of(request)
        service.admission.check_open()
        if service.runner.is_dead:
            raise unavailable("batches are not worked off any more", retry_after_s=60, remedy="start the service again")
        await service.backend.models()
        return {"status": "ready"}

    @app.get("/metrics", response_class=Response, summary="Numbers for Prometheus", tags=["service"])
    async def metrics(request: Request) -> Response:
        return Response(service_of(request).metrics.text(), media_type="text/plain; version=0.0.4; charset=utf-8")
