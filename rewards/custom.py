"""The user's own reward functions, named in the configuration by import path."""

import importlib
import inspect
import math
import numbers
import sys
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import numpy as np

from fxray.data.frame import Frame
from fxray.errors import ConfigError
from fxray.schema import Annotation

RewardFunction = Callable[[str, Annotation, Frame], float]


@dataclass(frozen=True, slots=True)
class CustomReward:
    """A user's reward and its weight in the sum.

    Attributes:
        path: `package.module:function`, called as `function(answer_text, annotation, frame)`; also the name under
            which its value is logged. Whatever can be called will do: `functools.partial` gives one its parameters.
        weight: Factor in the weighted sum.
    """

    path: str
    weight: float

    def value(self, answer_text: str, annotation: Annotation, frame: Frame) -> float:
        """What the function says of an answer, unweighted. What it raises passes through.

        Raises:
            ConfigError: The function cannot be loaded, or returned something other than a finite number.
        """
        value = load_reward(self.path)(answer_text, annotation, frame)
        if not isinstance(value, numbers.Real | np.bool_) or not math.isfinite(value):
            raise ConfigError(
                f"returned {value!r}, expected a finite number",
                where=self.path,
                remedy="let the reward function return a float for every answer, also for an empty or broken one",
            )
        return float(value)


@cache
def load_reward(path: str) -> RewardFunction:
    """The function that an import path names; its module lies in the current folder, or where Python finds modules.

    Args:
        path: `package.module:function`.

    Raises:
        ConfigError: The path has another form, its module cannot be imported or fails at that, or it names nothing that
            can be called with three arguments.
    """
    module_name, separator, name = path.partition(":")
    if not (module_name and separator and name):
        raise ConfigError(f"{path!r} is no import path", remedy="write `package.module:function`")
    if (here := str(Path.cwd())) not in sys.path:  # workers of a Ray on this machine have it
        sys.path.append(here)
    try:
        module = importlib.import_module(module_name)
    except ImportError as error:
        raise ConfigError(
            f"module {module_name!r} cannot be imported: {error}",
            where=path,
            remedy="put it into the current folder, or its folder on PYTHONPATH",
        ) from error
    except SystemExit as error:  # a script: unheard, it would end this command without a word, and with its exit code
        raise ConfigError(
            f"module {module_name!r} ends Python when it is imported",
            where=path,
            remedy='put what it does as a script below `if __name__ == "__main__":`',
        ) from error
    except Exception as error:  # the module is the user's: whatever its own code raises
        raise ConfigError(
            f"module {module_name!r} fails when it is imported: {type(error).__name__}: {error}",
            where=path,
            remedy=f"mend it until `python -c 'import {module_name}'` works",
        ) from error
    function = getattr(module, name, None)
    if function is None:
        raise ConfigError(f"module {module_name!r} has no {name!r}", where=path, remedy="check the spelling")
    if not callable(function):
        raise ConfigError(f"{name!r} is a {type(function).__name__}, not a function", where=path)
    if inspect.iscoroutinefunction(function):
        raise ConfigError(f"{name!r} is an async function", where=path, remedy="write it with `def`, without `async`")
    _refuse_other_arguments(function, path)
    return function


def _refuse_other_arguments(function: RewardFunction, path: str) -> None:
    try:
        signature = inspect.signature(function)
    except ValueError:  # as of some that are written in C
        return
    try:
        signature.bind("", None, None)
    except TypeError as error:
        raise ConfigError(
            f"takes {signature}: {error}",
            where=path,
            remedy="a reward is called as function(answer_text, annotation, frame)",
        ) from error
