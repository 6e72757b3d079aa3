"""The page of a study and its routes. A rater is known by the token of the link; it comes as `Authorization: Bearer`.

The token stands behind the # of the link, so it is in no request line and no log.
"""

from http import HTTPStatus
from typing import Annotated, Any

from fastapi import Depends, FastAPI, Header, Path, Request, Response
from pydantic import BaseModel, ConfigDict, Field
from starlette.types import ASGIApp

from fxray.errors import DeadlineError
from fxray.prefer.marking import to_wire
from fxray.prefer.page import add_page
from fxray.prefer.raters import Rater, rater_of
from fxray.prefer.store import Store
from fxray.prefer.votes import Choice, VoteError, cast, image_of, progress_of, shown, undo
from fxray.serve.failures import add_failures, as_response
from fxray.serve.parameters import refuse_unknown_parameters
from fxray.serve.problems import Refusal, problem_of, unavailable
from fxray.serve.shield import Shield

MAX_BODY_BYTES = 4096
MAX_OPEN_BYTES = 4 * 2**20
"""Of all votes that are on their way."""
UPLOAD_DEADLINE_S = 10.0
RETRY_AFTER_S = 1.0
VoteId = Annotated[str, Path(pattern="^[0-9a-f]{32}$")]


class VoteIn(BaseModel):
    """A vote as the page sends it."""

    model_config = ConfigDict(extra="forbid")

    position: Annotated[int, Field(ge=0, lt=2**31)]
    """In the rater's order."""
    choice: Choice
    """The side, as the rater saw them."""
    seconds: Annotated[float, Field(ge=0, le=86_400)] | None = None
    """From the pair being shown to the choice."""


def build_app(store: Store, allowed_hosts: tuple[str, ...]) -> ASGIApp:
    """The ASGI application: the routes, behind the same shield as those of `fxray serve`.

    Args:
        store: The study.
        allowed_hosts: Names in the Host header that are answered; empty for any.
    """
    return Shield(
        build_routes(store),
        allowed_hosts=allowed_hosts,
        max_bytes={"": MAX_BODY_BYTES},
        max_open_bytes={"": MAX_OPEN_BYTES},
        upload_deadline_s=UPLOAD_DEADLINE_S,
    )


def build_routes(store: Store) -> FastAPI:
    """The routes alone."""
    app = FastAPI(
        title="fxray prefer",
        docs_url=None,
        redoc_url=None,
        openapi_url=None,
        dependencies=[Depends(refuse_unknown_parameters)],
    )

    def rater(authorization: Annotated[str | None, Header()] = None) -> Rater:
        scheme, _, token = (authorization or "").partition(" ")
        found = rater_of(store, token.strip()) if scheme.lower() == "bearer" and token else None
        if found is None:
            raise Refusal(
                HTTPStatus.UNAUTHORIZED, "this link is not known", remedy="open the whole link that you were given"
            )
        return found

    Known = Annotated[Rater, Depends(rater)]

    @app.get("/v1/pair")
    def pair(rater: Known) -> dict[str, Any]:
        return state_of(store, rater)

    @app.get("/v1/pairs/{position}/image")
    def image(rater: Known, position: Annotated[int, Path(ge=0, lt=2**31)]) -> Response:
        return Response(image_of(store, rater, position), media_type="image/jpeg")

    @app.put("/v1/votes/{vote_id}")
    def vote(rater: Known, vote_id: VoteId, given: VoteIn) -> dict[str, Any]:
        cast(store, rater, vote_id, given.position, given.choice, given.seconds)
        return state_of(store, rater)

    @app.delete("/v1/votes/{vote_id}")
    def take_back(rater: Known, vote_id: VoteId) -> dict[str, Any]:
        undo(store, rater, vote_id)
        return state_of(store, rater)

    @app.exception_handler(VoteError)
    def conflict(request: Request, error: VoteError) -> Response:  # noqa: ARG001
        return as_response(problem_of(error, HTTPStatus.CONFLICT))

    @app.exception_handler(DeadlineError)
    def busy(request: Request, error: DeadlineError) -> Response:  # noqa: ARG001
        refusal = unavailable(error.message, retry_after_s=RETRY_AFTER_S)
        return as_response(problem_of(refusal, refusal.status), refusal.headers)

    add_page(app)
    add_failures(app)
    return app


def state_of(store: Store, rater: Rater) -> dict[str, Any]:
    """What the page shows a rater: progress, the next pair, the position after it. No source is named."""
    progress = progress_of(store, rater)
    ahead = progress.open_positions
    state: dict[str, Any] = {
        "num_done": progress.num_done,
        "num_pairs": progress.num_pairs,
        "last_vote": progress.last_vote,
        "pair": None,
        "next_position": ahead[1] if len(ahead) > 1 else None,
    }
    if ahead:
        now = shown(store, rater, ahead[0])
        state["pair"] = {
            "position": now.position,
            "width_px": now.width_px,
            "height_px": now.height_px,
            "left": to_wire(now.left),
            "right": to_wire(now.right),
        }
    return state
