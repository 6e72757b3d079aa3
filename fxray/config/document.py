"""YAML documents as flat mappings that remember where each value was written."""

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import yaml

from fxray.errors import ConfigError

Keys = tuple[str, ...]
_MERGE = "tag:yaml.org,2002:merge"
_MAX_NODES = 100_000
"""Of a document, a part counted as often as it is named: thirty short lines can stand for a billion values."""


@dataclass(frozen=True, slots=True)
class Entry:
    """A leaf: a scalar, a list or an empty mapping.

    Attributes:
        value: As YAML reads it.
        origin: "file:line" or the override that wrote it.
    """

    value: object
    origin: str


Document = dict[Keys, Entry]


class _Loader(yaml.SafeLoader):
    """YAML 1.1 as SafeLoader reads it, but duplicate keys are refused wherever they stand, and numbers are decimal.

    In YAML 1.1 `010` is eight and `1:30` is ninety; here they are text, as in YAML 1.2. Text that can name no file and
    whole numbers that Python would not write out again are refused.
    """

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[object, object]:
        refuse_duplicates(node)
        return super().construct_mapping(node, deep=deep)

    def construct_yaml_str(self, node: yaml.ScalarNode) -> str:
        text = self.construct_scalar(node)
        if any(letter == "\0" or "\ud800" <= letter <= "\udfff" for letter in text):
            reason = "text holds a character that no file name can have (\\0, or half of a pair)"
            raise yaml.constructor.ConstructorError(None, None, reason, node.start_mark)
        return text

    def construct_yaml_int(self, node: yaml.ScalarNode) -> int:
        try:
            number = super().construct_yaml_int(node)
            str(number)
        except ValueError as error:
            raise yaml.constructor.ConstructorError(None, None, str(error), node.start_mark) from error
        return number


_Loader.add_constructor("tag:yaml.org,2002:str", _Loader.construct_yaml_str)
_Loader.add_constructor("tag:yaml.org,2002:int", _Loader.construct_yaml_int)

_NUMBERS = ("tag:yaml.org,2002:int", "tag:yaml.org,2002:float")
_Loader.yaml_implicit_resolvers = {
    start: [(tag, pattern) for tag, pattern in resolvers if tag not in _NUMBERS]
    for start, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
}
_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:int",
    re.compile(r"^[-+]?(?:0|[1-9][0-9_]*|0b[01_]+|0x[0-9a-fA-F_]+)$"),
    list("-+0123456789"),
)
_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:float",
    re.compile(
        r"^(?:[-+]?[0-9][0-9_]*\.[0-9_]*(?:[eE][-+][0-9]+)?|\.[0-9][0-9_]*(?:[eE][-+][0-9]+)?"
        r"|[-+]?\.(?:inf|Inf|INF)|\.(?:nan|NaN|NAN))$"
    ),
    list("-+0123456789."),
)


def refuse_duplicates(node: yaml.MappingNode) -> None:
    """Raises yaml's own error where a key stands twice in one mapping."""
    seen = set()
    for key, _ in node.value:
        name = str(key.value)
        if name in seen:
            raise yaml.constructor.ConstructorError(None, None, f"the key `{name}` stands twice", key.start_mark)
        seen.add(name)


def read_document(path: Path) -> Document:
    """Reads a YAML mapping.

    Raises:
        ConfigError: The file is missing, is not UTF-8, is not YAML, holds a key twice, or is not a mapping.
    """
    try:
        return parse_document(path.read_text(encoding="utf-8"), str(path))
    except OSError as error:
        raise ConfigError(f"cannot be read: {error.strerror}", where=str(path), remedy="give a YAML file") from error
    except UnicodeDecodeError as error:
        raise ConfigError("is not text in UTF-8", where=str(path), remedy="save it as UTF-8 text") from error


def parse_document(text: str, name: str) -> Document:
    """Reads the text of a YAML mapping; `name` is what its origins say.

    Raises:
        ConfigError: It is not YAML, holds a key twice, or is not a mapping.
    """
    return dict(_entries(text, name))


@lru_cache(maxsize=1024)
def _entries(text: str, name: str) -> tuple[tuple[Keys, Entry], ...]:
    """Read once: tables and sweeps make a hundred configurations of the same few texts."""
    try:
        loader = _Loader(text)
        root = loader.get_single_node()
        if root is None:
            return ()
        if not isinstance(root, yaml.MappingNode):
            raise ConfigError(
                "holds no mapping of keys to values", where=name, remedy="write lines `section:`, `key: value`"
            )
        if _num_nodes(root, {}) > _MAX_NODES:
            raise ConfigError(
                f"stands for more than {_MAX_NODES:,} values",
                where=name,
                remedy="name no part (`&`) that names others which name others",
            )
        return tuple(_leaves(loader, root, (), name))
    except ConfigError:
        raise
    except yaml.MarkedYAMLError as error:
        line = f":{error.problem_mark.line + 1}" if error.problem_mark else ""
        raise ConfigError(
            f"is not valid YAML: {error.problem}", where=f"{name}{line}", remedy="mend that line"
        ) from error
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        raise ConfigError(f"is not valid YAML: {error}", where=name, remedy="mend the file") from error


def _num_nodes(node: yaml.Node, known: dict[int, int]) -> int:
    """How many nodes a node stands for, each as often as it is named; those that were counted are known by identity."""
    if id(node) not in known:
        inner = [each for pair in node.value for each in pair] if isinstance(node, yaml.MappingNode) else node.value
        known[id(node)] = 1 + (0 if isinstance(inner, str) else sum(_num_nodes(each, known) for each in inner))
    return known[id(node)]


def _leaves(loader: _Loader, node: yaml.MappingNode, above: Keys, name: str) -> Iterator[tuple[Keys, Entry]]:
    refuse_duplicates(node)
    for key, value in node.value:
        if key.tag == _MERGE:
            raise ConfigError(
                "`<<` stands for the keys of another section, which is not read",
                where=f"{name}:{key.start_mark.line + 1}",
                remedy="write the keys themselves; a whole file is taken over with `extends:`",
            )
        keys = (*above, str(key.value))
        if isinstance(value, yaml.MappingNode) and value.value:
            yield from _leaves(loader, value, keys, name)
        else:
            yield keys, Entry(loader.construct_object(value, deep=True), f"{name}:{key.start_mark.line + 1}")


def merge(below: Document, above: Document) -> Document:
    """Lays `above` over `below`: sections merge, everything else replaces."""
    merged = dict(below)
    for keys, entry in above.items():
        inside = [other for other in merged if other[: len(keys)] == keys]
        if entry.value == {} and any(other != keys for other in inside):
            continue
        around = [keys[:length] for length in range(1, len(keys)) if keys[:length] in merged]
        for other in (*inside, *around):
            del merged[other]
        merged[keys] = entry
    return merged


def nest(document: Mapping[Keys, Entry]) -> dict[str, object]:
    """The document as nested dictionaries."""
    tree: dict[str, object] = {}
    for keys, entry in document.items():
        section = tree
        for key in keys[:-1]:
            inner = section.setdefault(key, {})
            assert isinstance(inner, dict), "leaves never stand above other leaves"
            section = inner
        section[keys[-1]] = entry.value
    return tree
