"""The page of a study: files of this folder, and those that it shares with the page of `fxray serve`."""

from fastapi import FastAPI

import fxray.serve.page
from fxray.serve.page import add_files, static_files

_SHARED = ("dom.js", "stage.js", "words.js", "style.css", "icon.svg")


def add_page(app: FastAPI) -> None:
    """Adds the page and what it loads."""
    shared = static_files(fxray.serve.page.__name__)
    add_files(app, {name: shared[name] for name in _SHARED} | static_files(__name__), {"/": "prefer.html"})
