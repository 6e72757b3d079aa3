"""What is wrong with a configuration, field by field."""

from collections.abc import Sequence
from dataclasses import dataclass

from fxray.errors import ConfigError


@dataclass(frozen=True, slots=True)
class Problem:
    """One field that cannot stay as it is.

    Attributes:
        field: Dotted path of the field, "grpo.group_size".
        value: What it is, as written.
        bound: What it must be, as a phrase: "must be at least 2".
        remedy: What to change.
        origin: Where the value was written: file and line, or an override; empty for a default.
    """

    field: str
    value: str
    bound: str
    remedy: str
    origin: str = ""

    def __str__(self) -> str:
        origin = f" ({self.origin})" if self.origin else ""
        value = f" is {self.value};" if self.value else ""
        return f"{self.field}{value} {self.bound}{origin}"


def refuse(problems: Sequence[Problem], where: str) -> None:
    """Returns when there is no problem.

    Args:
        problems: What was found.
        where: The configuration they are in.

    Raises:
        ConfigError: It names every problem with its remedy.
    """
    if not problems:
        return
    if len(problems) == 1:
        raise ConfigError(str(problems[0]), where=where, remedy=problems[0].remedy)
    lines = [f"{len(problems)} problems"]
    lines += [f"  {number}. {problem}\n     remedy: {problem.remedy}" for number, problem in enumerate(problems, 1)]
    raise ConfigError("\n".join(lines), where=where, remedy="mend each as said above")
