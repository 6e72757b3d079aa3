"""Modules of the user's that have the name of one of fxray's."""

from pathlib import Path

from fxray.errors import ConfigError

_NAMES = ("actors", "rewards")


def refuse_namesakes() -> None:
    """Sees to it that Ray's processes, which look for modules in the current folder first, find fxray's.

    Raises:
        ConfigError: A module there has the name of one.
    """
    here = Path.cwd()
    if (here / "fxray/__init__.py").exists():  # a clone, whose modules they are
        return
    for path in (here / place for name in _NAMES for place in (f"{name}.py", f"{name}/__init__.py")):
        if path.exists():
            raise ConfigError(
                "has the name of a module of fxray's, in whose place Ray's processes would find it",
                where=str(path),
                remedy="give it another name, or give the command in another folder",
            )
