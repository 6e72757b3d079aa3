"""What travels to a cluster with a job: fxray, the configuration in one file, the user's reward functions."""

import ast
import shutil
import sys
from collections.abc import Iterator
from functools import partial
from importlib.machinery import PathFinder
from pathlib import Path

import yaml

import actors
import fxray
import rewards
from fxray.config.load import dump_config, shipped_folder
from fxray.config.tree import Config

CONFIG_FILE = "config.yaml"
SCHEDULE_FILE = "schedule.yaml"
START_FILE = "sitecustomize.py"
START_HOOK = "import fxray.torchvision_hook\n"
"""Python reads it in every process of the job: the hook acts without being installed."""

_NO_SOURCE = shutil.ignore_patterns("__pycache__", "*.pyc", ".*")
_BULKY = {"runs", "datasets"}
"""Folders that are left out unless they hold modules."""


def write_package(folder: Path, config: Config, user_folder: Path) -> None:
    """Fills a folder with all that a job needs on a cluster that has fxray's dependencies.

    The address of the configuration is left out: a job runs on the cluster that it was handed to.

    Args:
        folder: An empty one.
        config: A checked one.
        user_folder: Where modules of the user's reward functions, and what these import, are looked for; those
            elsewhere must be installed on the cluster.
    """
    for package in (fxray, actors, rewards):
        name = package.__name__
        shutil.copytree(Path(package.__path__[0]), folder / name, ignore=_left_out)
    shutil.copytree(shipped_folder(), folder / "fxray" / "configs", dirs_exist_ok=True)
    (folder / START_FILE).write_text(START_HOOK)
    document = yaml.safe_load(dump_config(config))
    document["ray"]["address"] = None
    if config.grpo.schedule.endswith((".yaml", ".yml")):
        shutil.copyfile(config.grpo.schedule, folder / SCHEDULE_FILE)
        document["grpo"]["schedule"] = SCHEDULE_FILE
    (folder / CONFIG_FILE).write_text(yaml.safe_dump(document, sort_keys=False, allow_unicode=True))
    names = {function.path.partition(":")[0].partition(".")[0] for function in config.reward.functions}
    while names:
        module = _module_in(user_folder, names.pop())
        if module is None or (folder / module.name).exists() or (folder / module.stem).exists():
            continue
        copy_of = partial(shutil.copytree, ignore=_left_out) if module.is_dir() else shutil.copyfile
        names |= {name for name in _imported(copy_of(module, folder / module.name)) if _has_modules(user_folder / name)}


def _module_in(folder: Path, name: str) -> Path | None:
    """The file or folder of a module that Python finds in a folder; what is installed comes before it, as it does here.

    On the cluster the copy would come first, and take the place of a library, or of a part of Python, with its name.
    """
    spec = None if name in sys.builtin_module_names else PathFinder.find_spec(name, [*sys.path, str(folder)])
    places = [] if spec is None else spec.submodule_search_locations or [spec.origin or ""]
    return next((Path(place) for place in places if Path(place).parent.resolve() == folder.resolve()), None)


def _imported(copy: Path) -> Iterator[str]:
    """The first name of whatever the modules of a copy import, wherever in them."""
    for file in [copy] if copy.is_file() else copy.rglob("*.py"):
        try:
            nodes = list(ast.walk(ast.parse(file.read_bytes())))
        except (SyntaxError, ValueError):  # whoever imports it is told
            continue
        for node in nodes:
            if isinstance(node, ast.Import):
                yield from (alias.name.partition(".")[0] for alias in node.names)
            elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
                yield node.module.partition(".")[0]


def _has_modules(place: Path) -> bool:
    """Whether it is a module; of a library's name there may also be a folder of what it wrote, as of wandb."""
    return place.with_name(f"{place.name}.py").is_file() or any(place.glob("*.py"))


def _left_out(folder: str, names: list[str]) -> set[str]:
    bulky = {name for name in _BULKY.intersection(names) if not any(Path(folder, name).glob("*.py"))}
    return bulky | set(_NO_SOURCE(folder, names))
