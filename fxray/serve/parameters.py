"""Parameters of a query: those that the description of a route names, and no other."""

from http import HTTPStatus

from fastapi import Request

from fxray.draw import plain_text
from fxray.serve.problems import Refusal

PROBED = ("/healthz", "/readyz", "/metrics")


async def refuse_unknown_parameters(request: Request) -> None:
    """Lets a request pass whose query holds what the description of its route names, once; the page's files take any.

    So do the routes that probes and monitors ask, who add what they like.

    Raises:
        Refusal: It holds anything else, such as `modle`, or one of them twice (422).
    """
    path = request.scope["route"].path
    if not request.query_params or path in PROBED:
        return
    described = request.app.openapi()["paths"].get(path)
    if described is None:
        return
    parameters = described[request.method.lower()].get("parameters", [])
    known = sorted(each["name"] for each in parameters if each["in"] == "query")
    if others := sorted(set(request.query_params) - set(known)):
        raise Refusal(
            HTTPStatus.UNPROCESSABLE_ENTITY,
            f"unknown query parameter {plain_text(others[0], 40)!r}",
            where="query",
            remedy=f"leave it out; there is {', '.join(f'`{name}`' for name in known) or 'none'} here",
        )
    if twice := [name for name in known if len(request.query_params.getlist(name)) > 1]:
        raise Refusal(
            HTTPStatus.UNPROCESSABLE_ENTITY,
            f"query parameter {twice[0]!r} is given more than once",
            where="query",
            remedy="give it once",
        )
