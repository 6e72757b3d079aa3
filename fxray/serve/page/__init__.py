"""The page and the reference of the interface: files of this folder, sent as they are. Nothing comes from elsewhere."""

from importlib.resources import files

from fastapi import FastAPI, Request, Response

from fxray.errors import FxrayError

_TYPES = {
    ".html": "text/html; charset=utf-8",
    ".css": "text/css; charset=utf-8",
    ".js": "text/javascript; charset=utf-8",
    ".svg": "image/svg+xml",
}
_PAGES = {"/": "index.html", "/docs": "reference.html"}


def add_page(app: FastAPI) -> None:
    """Adds the two pages and what they load. Only files that are there when the application is made are sent."""
    for path, content, media_type in _files():
        _add_file(app, path, content, media_type)


def _files() -> list[tuple[str, bytes, str]]:
    """Path, content and type of each file."""
    folder = files(__name__) / "static"
    found = {entry.name: entry.read_bytes() for entry in folder.iterdir() if entry.is_file()}
    if missing := set(_PAGES.values()) - found.keys():
        raise FxrayError(f"the page lacks {', '.join(sorted(missing))}", remedy="install fxray anew")
    names = {name: f"/static/{name}" for name in found} | {name: path for path, name in _PAGES.items()}
    return [
        (path, found[name], _TYPES[suffix])
        for name, path in names.items()
        if (suffix := "." + name.rpartition(".")[2]) in _TYPES
    ]


def _add_file(app: FastAPI, path: str, content: bytes, media_type: str) -> None:
    @app.get(path, include_in_schema=False)
    async def send(request: Request) -> Response:  # noqa: ARG001
        return Response(content, media_type=media_type, headers={"Cache-Control": "no-cache"})
