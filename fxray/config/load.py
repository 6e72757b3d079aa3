"""From a YAML file, or the name of one that ships with fxray, to the frozen configuration.

A file holds only what differs from the defaults, or from one parent (`extends: NAME or PATH`). A parent of one's own
has none itself; one that ships may. Relative paths in a file are relative to that file's folder, but for where a
service writes; relative paths in an override are relative to the current folder.
"""

import difflib
import json
import os
from collections.abc import Sequence
from pathlib import Path

import yaml

from fxray.config.document import Document, Entry, Keys, merge, nest, parse_document, read_document
from fxray.config.tree import Config
from fxray.config.validate import validate
from fxray.errors import ConfigError

DATA_FILES: tuple[Keys, ...] = (("data", "train"), ("data", "validation"), ("data", "test"))
_OTHER_KINDS = {
    "stages": ("a schedule of rewards", "give a configuration, and the schedule by --set grpo.schedule={path}"),
    "fields": ("a sweep", "give it to `fxray sweep`"),
    "kind": ("an experiment", "give it to `fxray reproduce`"),
}
"""Fields that files of other kinds have and no configuration has: what they are, and where they go."""


def shipped_folder() -> Path:
    """The folder of the configurations that ship with fxray: in the wheel, or at the top of a checkout."""
    package = Path(__file__).resolve().parents[1]
    inside = package / "configs"
    return inside if inside.is_dir() else package.parent / "configs"


def name_of(path_or_name: str | Path) -> str:
    """A configuration's name; a dot in it, as in "qwen2.5-vl-7b", begins no ending."""
    return Path(path_or_name).name.removesuffix(".yaml").removesuffix(".yml")


def find_yaml(path_or_name: str | Path, folder: Path | None = None, kind: str = "configuration") -> Path:
    """The YAML file that a path or the name of a shipped one stands for.

    Args:
        path_or_name: A path, or a file name in `folder` without ".yaml".
        folder: Where the named ones lie; by default the shipped configurations.
        kind: What to call it in the error.

    Raises:
        ConfigError: There is no such file; it names the nearest shipped one.
    """
    if (path := _file_at(path_or_name)) is not None:
        return path
    folder = folder or shipped_folder()
    if (named := _file_at(folder / f"{path_or_name}.yaml")) is not None:
        return named
    names = sorted(file.stem for file in folder.glob("*.yaml"))
    nearest = difflib.get_close_matches(name_of(path_or_name), names, n=1)
    hint = f"did you mean `{nearest[0]}`? " if nearest else ""
    remedy = f"{hint}give a path, or one of {', '.join(names)}"
    raise ConfigError(f"there is no such {kind}", where=str(path_or_name), remedy=remedy)


def _file_at(path: str | Path) -> Path | None:
    try:
        path = Path(path).expanduser()
        return path if path.is_file() else None
    except (OSError, RuntimeError):  # a name that is too long, the home of nobody
        return None


def load_config(path_or_name: str | Path, overrides: Sequence[str] = (), above: Document | None = None) -> Config:
    """Reads a configuration, its parent and the overrides, and validates the whole.

    Args:
        path_or_name: A YAML file, or the name of a shipped configuration: "tiny".
        overrides: "section.key=value" each, the value in YAML; later ones win.
        above: Fields of another file, which win over all else; their paths are absolute.

    Returns:
        The frozen tree, with paths made absolute.

    Raises:
        ConfigError: A file that cannot be read, an unknown key, a wrong type or a value out of bounds. It names field,
            value, bound, place and remedy.
    """
    path = find_yaml(path_or_name)
    document = _with_parent(path)
    _refuse_other_kind(document, path)
    document = _override(document, overrides, above or {})
    return validate(Config, document, where=str(path))


def dump_config(config: Config) -> str:
    """The whole tree, defaults included, as YAML that `load_config` reads back to an equal tree."""
    return yaml.safe_dump(config.model_dump(mode="json"), sort_keys=False, allow_unicode=True)


def dump_differences(path_or_name: str | Path, overrides: Sequence[str], above: Document) -> str:
    """What `load_config` is given, as the YAML of one file that extends the parent, or the configuration itself."""
    path = find_yaml(path_or_name)
    document = anchor(read_document(path), path.parent)
    extends = document.pop(("extends",), None)
    if extends is None:
        document, parent = {}, path if Path(path_or_name).expanduser().is_file() else None
    else:
        beside = path.parent / str(extends.value)
        parent = beside if beside.is_file() else None
    name = str(path_or_name if extends is None else extends.value) if parent is None else str(parent.resolve())
    differences = _override(document, overrides, above)
    return yaml.safe_dump({"extends": name, **nest(differences)}, sort_keys=False, allow_unicode=True)


def _refuse_other_kind(document: Document, path: Path) -> None:
    """Tells a file of another command, by what it has and what it has not, in place of all that it lacks.

    Raises:
        ConfigError: It is one.
    """
    fields = {keys[0] for keys in document}
    if fields & Config.model_fields.keys():
        return
    for field, (kind, remedy) in _OTHER_KINDS.items():
        if field in fields:
            raise ConfigError(f"is {kind}, expected a configuration", where=str(path), remedy=remedy.format(path=path))


def _override(document: Document, overrides: Sequence[str], above: Document) -> Document:
    for override in overrides:
        document = merge(document, _override_here(override))
    return merge(document, above)


def _with_parent(path: Path) -> Document:
    document = anchor(read_document(path), path.parent)
    extends = document.pop(("extends",), None)
    if extends is None:
        return document
    if not isinstance(extends.value, str):
        remedy = "write `extends: tiny` or `extends: other.yaml`"
        raise ConfigError(f"extends is {extends.value!r}; must be a name or path", where=extends.origin, remedy=remedy)
    beside = path.parent / extends.value
    parent_path = beside if beside.is_file() else find_yaml(extends.value)
    if parent_path.resolve().parent == shipped_folder():
        return merge(_with_parent(parent_path), document)
    parent = anchor(read_document(parent_path), parent_path.parent)
    if ("extends",) in parent:
        remedy = f"write the differences from {parent[('extends',)].value} into one file"
        raise ConfigError(
            f"{parent_path} itself extends another, as only what ships may", where=extends.origin, remedy=remedy
        )
    return merge(parent, document)


def anchor_override(override: str, folder: Path) -> list[str]:
    """An override that stands in a file, as overrides that mean the same in every folder.

    Args:
        override: "section.key=value"; a relative path in it is relative to the file's folder.
        folder: That folder.

    Raises:
        ConfigError: It is no override, or a path begins with the home of a user that there is not.
    """
    written = _parse_override(override)
    anchored = anchor(written, folder)
    if anchored == written:
        return [override]
    return [f"{'.'.join(keys)}={json.dumps(entry.value, default=str)}" for keys, entry in anchored.items()]


def _override_here(override: str) -> Document:
    return anchor(_parse_override(override), Path.cwd())


def _parse_override(override: str) -> Document:
    origin = f"--set {override}"
    name, equals, text = override.partition("=")
    keys = tuple(name.strip().split("."))
    if not equals or not all(keys):
        remedy = "write section.key=value, for example --set grpo.group_size=8"
        raise ConfigError("is not of the form section.key=value", where=origin, remedy=remedy)
    value = parse_document(f"value: {text}", origin)
    if any(inner[0] != "value" for inner in value):
        raise ConfigError("holds several values", where=origin, remedy="give each a --set of its own")
    return {(*keys, *inner[1:]): Entry(entry.value, origin) for inner, entry in value.items()}


def anchor(document: Document, folder: Path) -> Document:
    """Makes the relative paths of a document absolute; a file of data that is a link stays one, beside its images.

    Raises:
        ConfigError: A path begins with the home of a user that there is not.
    """
    anchored = dict(document)
    for keys, entry in document.items():
        if isinstance(entry.value, str) and _is_path(keys, entry.value, folder):
            try:
                path = folder / Path(entry.value).expanduser()
            except RuntimeError as error:
                where, remedy = f"{entry.origin}: {'.'.join(keys)}", "name the whole path"
                raise ConfigError(f"{entry.value!r} has no home folder", where=where, remedy=remedy) from error
            place = Path(os.path.realpath(path.parent), path.name) if keys in DATA_FILES else os.path.realpath(path)
            anchored[keys] = Entry(str(place), entry.origin)
    return anchored


def _is_folder(path: Path) -> bool:
    try:
        return path.is_dir()
    except OSError:  # a name that is too long
        return False


def _is_path(keys: Keys, value: str, folder: Path) -> bool:
    if keys == ("model", "path"):  # or the name of a model
        return value.startswith((".", "~")) or (value != "tiny" and _is_folder(folder / value))
    if keys == ("grpo", "schedule"):
        return value.endswith((".yaml", ".yml"))
    return keys in DATA_FILES or keys == ("serve", "keys") or keys[:2] == ("serve", "adapters")
