"""The page and the reference of the interface: files of this folder, sent as they are. Nothing comes from elsewhere."""

from collections.abc import Mapping
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
    add_files(app, static_files(__name__), _PAGES)


def static_files(package: str) -> dict[str, bytes]:
    """Content of the files in a package's folder `static`, by name."""
    return {entry.name: entry.read_bytes() for entry in (files(package) / "static").iterdir() if entry.is_file()}


def add_files(app: FastAPI, content: Mapping[str, bytes], pages: Mapping[str, str]) -> None:
    """Adds files below /static, and pages at their paths.

    Args:
        app: Where to.
        content: Of each file, by name.
        pages: Name of the file of each path.

    Raises:
        FxrayError: A page is missing.
    """
    if missing := set(pages.values()) - content.keys():
        raise FxrayError(f"the page lacks {', '.join(sorted(missing))}", remedy="install fxray anew")
    names = {f"/static/{name}": name for name in content} | dict(pages)
    for path, name in names.items():
        if (suffix := "." + name.rpartition(".")[2]) in _TYPES:
            _add_file(app, path, content[name], _TYPES[suffix])


def _add_file(app: FastAPI, path: str, content: bytes, media_type: str) -> None:
    @app.head(path, include_in_schema=False)
    @app.get(path, include_in_schema=False)
    async def send(request: Request) -> Response:  # noqa: ARG001
        return Response(content, media_type=media_type, headers={"Cache-Control": "no-cache"})
