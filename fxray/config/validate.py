"""From a document to a frozen model, with errors that a person can act on."""

import difflib
from collections.abc import Iterator
from typing import TypeVar

from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails

from fxray.config.document import Document, Keys, nest
from fxray.config.problem import Problem, refuse
from fxray.config.tree import Config

MAX_SHOWN_CHARACTERS = 80
Model = TypeVar("Model", bound=BaseModel)


def validate(schema: type[Model], document: Document, where: str) -> Model:
    """The document as an instance of `schema`.

    Args:
        schema: A pydantic model that is closed to unknown keys.
        document: What was read.
        where: The file, for the error.

    Raises:
        ConfigError: It names each field that does not fit, its value, bound and origin, and a remedy.
    """
    try:
        return schema.model_validate(nest(document))
    except ValidationError as error:
        refuse([_problem(schema, details, document) for details in error.errors()], where=where)
        raise


def _problem(schema: type[BaseModel], details: ErrorDetails, document: Document) -> Problem:
    location = tuple(str(part) for part in details["loc"])
    field = ".".join(location) or ("configuration" if schema is Config else "this file")
    origin = _origin(location, document)
    kind = details["type"]
    if kind == "extra_forbidden":
        return Problem(field, "", "is not a field", _suggestion(schema, location), origin)
    if kind == "missing":
        return Problem(field, "", "is missing", f"write it there{_meaning(schema, location)}", origin)
    bound = details["msg"].removeprefix("Value error, ").replace("Input should be", "must be")
    if kind == "value_error":
        remedy = f"do as it says; --set {field}.NAME=null takes back what a parent set"
        has_parents = schema is Config and location  # which other files have not
        return Problem(field, "", f"cannot stay so: {bound}", remedy if has_parents else "do as it says", origin)
    if kind == "model_type":
        bound = "must be a section with keys of its own"
    return Problem(field, _shown(details["input"]), bound, f"change it{_meaning(schema, location)}", origin)


def _shown(value: object) -> str:
    text = repr(value)
    return text if len(text) <= MAX_SHOWN_CHARACTERS else f"{text[:MAX_SHOWN_CHARACTERS]}..."


def _origin(location: Keys, document: Document) -> str:
    """Where the value, or the nearest section around it, was written."""
    for length in range(len(location), 0, -1):
        for keys, entry in document.items():
            if keys[:length] == location[:length]:
                return entry.origin
    return ""


def _suggestion(schema: type[BaseModel], location: Keys) -> str:
    """What the author of an unknown key may have meant."""
    key = location[-1]
    fields = [keys for keys, _ in _fields(schema)]
    section = tuple(part for part in location[:-1] if not part.isdigit())
    siblings = [keys[-1] for keys in fields if keys[:-1] == section]
    nearest = difflib.get_close_matches(key, siblings, n=1)
    if nearest:
        return f"did you mean `{'.'.join((*location[:-1], nearest[0]))}`?"
    elsewhere = [".".join(keys) for keys in fields if keys[-1] == key]
    if elsewhere:
        return f"did you mean `{'` or `'.join(elsewhere)}`?"
    others = [".".join(keys) for keys in fields if keys != section]
    far = difflib.get_close_matches(".".join(location), others, n=1)
    if far:
        return f"did you mean `{far[0]}`?"
    return f"remove it; the fields here are {', '.join(siblings)}" if siblings else "remove it"


def _meaning(schema: type[BaseModel], location: Keys) -> str:
    """The field's own docstring, to tell what the number is for."""
    for keys, description in _fields(schema):
        if keys == tuple(part for part in location if not part.isdigit()) and description:
            return f"; what it means: {' '.join(description.split())}"
    return ""


def _fields(section: type[BaseModel], above: Keys = ()) -> Iterator[tuple[Keys, str]]:
    for name, info in section.model_fields.items():
        keys = (*above, name)
        yield keys, info.description or ""
        for inner in (info.annotation, *getattr(info.annotation, "__args__", ())):
            if isinstance(inner, type) and issubclass(inner, BaseModel):
                yield from _fields(inner, keys)
