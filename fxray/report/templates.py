"""HTML templates, each compiled once in a process. Whatever is put into them stands there as text."""

from collections.abc import Callable
from functools import cache
from importlib import resources

from jinja2 import Environment, StrictUndefined, Template
from markupsafe import Markup

from fxray.counts import counted


@cache
def load_template(package: str, name: str, **filters: Callable[..., str]) -> Template:
    """A template that lies in a package; a name in it that nothing is given for is an error.

    Args:
        package: As it is imported.
        name: Of the file.
        filters: What it may call, beside Jinja's own and `counted`.
    """
    environment = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    environment.filters |= {"counted": counted} | filters
    return environment.from_string((resources.files(package) / name).read_text("utf-8"))


@cache
def load_style() -> Markup:
    """The CSS that all pages share."""
    return Markup((resources.files("fxray.report") / "style.css").read_text("utf-8"))  # noqa: S704 - our own file
