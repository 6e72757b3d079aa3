"""The modules of the user's reward functions: which files they are, and whether a run goes on with what it began with.

Their source is the run's like its configuration, but an edit of it is what a failure of one asks for. So a run goes on,
and says it.
"""

import ast
import hashlib
import json
import os
import shutil
import sys
import sysconfig
from collections.abc import Iterator
from importlib.machinery import PathFinder
from pathlib import Path

from fxray.checkpoints import checkpoints
from fxray.config.schedule import load_stages
from fxray.config.tree import Config
from fxray.files import write_atomically
from fxray.launch.run import REWARDS_FILE, RunDirectory

START_FILE = "sitecustomize.py"
_NO_SOURCE = shutil.ignore_patterns("__pycache__", "*.pyc", ".*")
_BULKY = {"runs", "datasets"}
"""Folders that are left out unless they hold modules."""
_NOT_THEIRS = {"fxray", "actors", "rewards", Path(START_FILE).stem}


def keep_rewards(run: RunDirectory, config: Config) -> str:
    """Writes down what the modules of a run's reward functions hold, which must have been imported.

    Args:
        run: The run.
        config: For the functions and the stages.

    Returns:
        That the answers of its stages are scored by other modules from now on, as a note; empty where they are not.

    Raises:
        FxrayError: Another driver took the run over meanwhile.
    """
    found, before = _sources(config), _recorded(run.root)
    stages = [stage.name for stage in load_stages(config.grpo.schedule)]
    if found == before or all(run.stage_adapter(stage).is_dir() for stage in stages):
        return ""
    if run.lease is not None:
        run.lease.check()
    write_atomically(run.root / REWARDS_FILE, json.dumps(found, indent=2) + "\n")
    edited = [name for name in before if found.get(name) != before[name]]
    if not edited or not any(checkpoints(run.stage_dir(stage)) for stage in stages):
        return ""
    names = f"{', '.join(edited)} {'has' if len(edited) == 1 else 'have'}"
    return f"{names} been edited since GRPO began: its steps from here on are scored by the functions as they are now"


def user_modules(config: Config, folder: Path) -> list[Path]:
    """Files and folders of the modules of the reward functions in a folder, and of all that these import from it."""
    names, found = {_first_name(function.path) for function in config.reward.functions}, dict[str, Path]()
    while names := names - found.keys() - _NOT_THEIRS:
        name = names.pop()
        module = _module_in(folder, name)
        if module is None:
            continue
        found[name] = module
        names |= {name for name in _imported(module) if _has_modules(folder / name)}
    return list(found.values())


def left_out(folder: str, names: list[str]) -> set[str]:
    """Of the names in a folder of a user's module those that are none of its source, as `shutil.copytree` asks for."""
    bulky = {name for name in _BULKY.intersection(names) if not any(Path(folder, name).glob("*.py"))}
    return bulky | set(_NO_SOURCE(folder, names))


def _sources(config: Config) -> dict[str, str]:
    """SHA-256 of each file of the user's modules, by its path below the folder that Python finds it in.

    Of libraries, which are installed, `versions.json` is to tell.
    """
    libraries = {Path(sysconfig.get_path(name)).resolve() for name in ("stdlib", "platlib", "purelib")}
    folders = {_folder_of(function.path) for function in config.reward.functions} - libraries - {None}
    return {
        str(file.relative_to(module.parent)): hashlib.sha256(file.read_bytes()).hexdigest()
        for folder in sorted(filter(None, folders))
        for module in sorted(user_modules(config, folder))
        for file in _source_files(module)
    }


def _source_files(module: Path) -> Iterator[Path]:
    if module.is_file():
        yield module
    for folder, folders, names in os.walk(module):
        folders[:] = sorted(set(folders) - left_out(folder, folders))
        files = (Path(folder, name) for name in sorted(set(names) - left_out(folder, names)))
        yield from (file for file in files if file.suffix == ".py" and file.is_file())


def _folder_of(path: str) -> Path | None:
    """Where Python found the module that the import path of a function begins with; None for what has no file."""
    module = sys.modules.get(_first_name(path))
    places = [*getattr(module, "__path__", ()), getattr(module, "__file__", None)]
    return next((Path(place).resolve().parent for place in places if place), None)


def _first_name(path: str) -> str:
    return path.partition(":")[0].partition(".")[0]


def _recorded(root: Path) -> dict[str, str]:
    """What was written down; nothing where an earlier version began the run."""
    try:
        return {str(name): str(value) for name, value in json.loads((root / REWARDS_FILE).read_bytes()).items()}
    except (OSError, ValueError, AttributeError):
        return {}


def _module_in(folder: Path, name: str) -> Path | None:
    """The file or folder of a module that Python finds in a folder; what is installed comes before it, as it does here.

    On the cluster the copy would come first, and take the place of a library, or of a part of Python, with its name.
    """
    spec = None if name in sys.builtin_module_names else PathFinder.find_spec(name, [*sys.path, str(folder)])
    places = [] if spec is None else spec.submodule_search_locations or [spec.origin or ""]
    return next((Path(place) for place in places if Path(place).parent.resolve() == folder.resolve()), None)


def _imported(module: Path) -> Iterator[str]:
    """The first name of whatever a module, or the modules in a folder, import, wherever in them."""
    for file in _source_files(module):
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
