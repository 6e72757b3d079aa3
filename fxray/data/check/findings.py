"""A finding: which rule is broken, where, and by what value."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from fxray.data.check.rules import RULES, Rule, Severity

EXIT_CODES = {Severity.NOTE: 0, Severity.WARNING: 3, Severity.ERROR: 4}
_MAX_VALUE_CHARACTERS = 120


@dataclass(frozen=True, slots=True)
class Place:
    """A row of a file.

    Attributes:
        file: Path as it was given.
        row: Counted from 0; None where the finding is of the whole file or set.
        sample_id: Empty where it is not known.
    """

    file: str
    row: int | None = None
    sample_id: str = ""

    def __str__(self) -> str:
        row = "" if self.row is None else f" row {self.row}"
        return f"{self.file}{row}{f' ({self.sample_id})' if self.sample_id else ''}"


@dataclass(frozen=True, slots=True)
class Finding:
    """A breach of a rule.

    Attributes:
        rule: Name of the rule.
        message: What is wrong: the value and what was expected.
        place: Where.
        field: The column, where it is one; empty otherwise.
        value: The value as text, cut to 120 characters.
        others: Further rows that take part, such as the other copies of an image.
    """

    rule: str
    message: str
    place: Place
    field: str = ""
    value: str = ""
    others: tuple[Place, ...] = ()

    @property
    def kind(self) -> Rule:
        """The rule itself."""
        return RULES[self.rule]

    def __str__(self) -> str:
        return f"{self.place}{f' {self.field}' if self.field else ''}: {self.message}"

    def to_json(self) -> dict[str, Any]:
        """The finding with severity and remedy, ready for `json.dumps`."""
        return {
            "severity": self.kind.severity.value,
            "rule": self.rule,
            "file": self.place.file,
            "row": self.place.row,
            "sample_id": self.place.sample_id,
            "field": self.field,
            "value": self.value,
            "message": self.message,
            "remedy": self.kind.remedy,
            "others": [{"file": o.file, "row": o.row, "sample_id": o.sample_id} for o in self.others],
        }


def shown(value: object) -> str:
    """A value as text that fits a line: bytes by their number, long text cut."""
    if isinstance(value, bytes):
        return f"{len(value)} bytes"
    text = repr(value)
    return text if len(text) <= _MAX_VALUE_CHARACTERS else text[: _MAX_VALUE_CHARACTERS - 1] + "…"


def by_rule(findings: Iterable[Finding]) -> dict[str, list[Finding]]:
    """Findings by rule, worst severity first, within one severity in the order of the rules."""
    groups: dict[str, list[Finding]] = {name: [] for name in RULES}
    for finding in findings:
        groups[finding.rule].append(finding)
    worst_first = list(Severity)
    names = sorted(RULES, key=lambda name: worst_first.index(RULES[name].severity))
    return {name: groups[name] for name in names if groups[name]}


def exit_code(findings: Sequence[Finding]) -> int:
    """0 where nothing is worse than a note, 3 for warnings, 4 for errors."""
    return max((EXIT_CODES[finding.kind.severity] for finding in findings), default=0)
