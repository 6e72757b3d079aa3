"""Every rule is in the documentation, as it is in the code."""

from pathlib import Path

from fxray.data.check.findings import Finding, Place, by_rule, exit_code
from fxray.data.check.rules import RULES, Severity

PAGE = Path(__file__).parents[4] / "docs" / "data-quality.md"


def test_the_page_lists_exactly_the_rules() -> None:
    listed = [line for line in PAGE.read_text("utf-8").splitlines() if line.startswith("| `") and line.count("|") == 4]
    rules = [f"| `{rule.name}` | {rule.severity} | {rule.title} |" for rule in RULES.values()]
    assert [line for line in listed if line.split("`")[1] in RULES] == rules


def test_findings_come_worst_first_and_decide_the_exit_code() -> None:
    note, warning, error = (Finding(rule, "", Place("a")) for rule in ("box-tiny", "duplicate", "label"))
    assert list(by_rule([note, warning, error])) == ["label", "duplicate", "box-tiny"]
    assert [exit_code(found) for found in ([], [note], [note, warning], [warning, error])] == [0, 0, 3, 4]
    assert list(Severity) == ["error", "warning", "note"]
