"""Every rule is in the documentation, as it is in the code."""

import time
from pathlib import Path

from fxray.data.check.findings import Finding, Place, by_rule, exit_code
from fxray.data.check.rules import RULES, Severity
from fxray.data.check.scan import SeenRow
from fxray.data.check.whole import whole_findings

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


def test_the_balance_of_two_thousand_files_takes_seconds() -> None:
    """Counted file by file, over all rows each time, it takes a hundred times as long."""
    rows = []
    for i in range(100_000):
        label = "real" if i % 2000 == 7 or i % 4 > 1 else "generated"
        generator = "rare" if i == 5 else "usual"
        rows.append(SeenRow(Place(f"{i % 2000}.parquet", i), label, generator, "", (), None))
    began = time.process_time()
    found = list(whole_findings(rows, []))
    assert time.process_time() - began < 3
    balance = [finding for finding in found if finding.rule == "class-balance"]
    assert len(balance) == 2000
    assert str(balance[7]) == "7.parquet label: 50 real and 0 generated images"
    (rare,) = (finding for finding in found if finding.rule == "generator-balance")
    assert (rare.place.file, rare.value) == ("5.parquet", "'rare'")
