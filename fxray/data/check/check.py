"""The whole check: one pass over the files, then the rules of the set, then the probe for leaks."""

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from fxray.data.check import leaks
from fxray.data.check.findings import Finding, Place, by_rule, exit_code
from fxray.data.check.leaks import Signal, probe
from fxray.data.check.rules import Severity
from fxray.data.check.scan import SeenRow, scan
from fxray.data.check.whole import clusters, labels_by_file, related_images, whole_findings
from fxray.data.parts import AllCores
from fxray.events import OnEvent, PhaseStarted, ignore
from fxray.schema import Verdict


@dataclass(frozen=True, slots=True)
class Check:
    """What came out of a check.

    Attributes:
        files: Paths as they were given.
        num_rows: Over all files.
        counts: Images by file and label.
        generators: Generated images by generator.
        signals: How well the files alone tell the classes apart; None where that could not be tried.
        findings: In the order of files and rows, those of the whole set last.
    """

    files: tuple[str, ...]
    num_rows: int
    counts: dict[str, dict[str, int]]
    generators: dict[str, int]
    signals: tuple[Signal, ...] | None
    findings: tuple[Finding, ...]

    @property
    def exit_code(self) -> int:
        """0 where nothing is worse than a note, 3 for warnings, 4 for errors."""
        return exit_code(self.findings)

    def severities(self) -> dict[Severity, int]:
        """Number of findings by severity, worst first."""
        counts = Counter(finding.kind.severity for finding in self.findings)
        return {severity: counts[severity] for severity in Severity}

    def to_json(self) -> dict[str, Any]:
        """Everything, ready for `json.dumps`."""
        return {
            "files": list(self.files),
            "num_rows": self.num_rows,
            "counts": self.counts,
            "generators": self.generators,
            "severities": {severity.value: count for severity, count in self.severities().items()},
            "leak_probe": None
            if self.signals is None
            else [{"signal": s.name, "auroc": s.auroc, "low": s.low, "high": s.high} for s in self.signals],
            "findings": [finding.to_json() for group in by_rule(self.findings).values() for finding in group],
        }


def check(
    paths: Sequence[Path],
    on_event: OnEvent = ignore,
    *,
    ignores_source: bool = False,
    all_cores: AllCores | None = None,
) -> Check:
    """Checks dataset files, however faulty; never raises for what is in them.

    Args:
        paths: Parquet files, which may be the splits of one set.
        on_event: Is told of rows done, and of what is looked for then.
        ignores_source: Files may share sources, which name collections.
        all_cores: What looks at the images where this process alone would be slow.
    """
    seen = scan(paths, on_event, all_cores=all_cores)
    on_event(PhaseStarted("look-alikes"))
    groups = related_images(seen.rows)
    on_event(PhaseStarted("leak probe"))
    signals = _signals(seen.rows, groups, ignores_source=ignores_source)
    whole = whole_findings(seen.rows, groups, ignores_source=ignores_source)
    findings = [*seen.findings, *whole, *_leak_findings(signals, seen.rows)]
    counts = labels_by_file(seen.rows)
    generators = Counter(row.generator for row in seen.rows if row.label == Verdict.GENERATED)
    return Check(
        tuple(map(str, paths)),
        len(seen.rows),
        {str(path): dict(sorted(counts[str(path)].items())) for path in paths},
        dict(sorted(generators.items())),
        None if signals is None else tuple(signals),
        tuple(findings),
    )


def _signals(rows: Sequence[SeenRow], groups: Sequence[Sequence[int]], *, ignores_source: bool) -> list[Signal] | None:
    """The probe's answer. Where sources are too few to be kept apart (they name collections), look-alikes are."""
    is_usable = np.array([row.image is not None and row.label in set(Verdict) for row in rows], bool)
    files = [row.image.file for row, is_in in zip(rows, is_usable, strict=True) if is_in and row.image is not None]
    truth = np.array([row.label == Verdict.GENERATED for row in rows], bool)[is_usable]
    return probe(files, truth, clusters(rows, groups, ignores_source=ignores_source)[is_usable]) or probe(
        files, truth, clusters(rows, groups, ignores_source=True)[is_usable]
    )


def _leak_findings(signals: Sequence[Signal] | None, rows: Sequence[SeenRow]) -> Iterator[Finding]:
    if not rows:
        return
    place = Place(rows[0].place.file)
    if signals is None:
        expected = f"expected {leaks.MIN_IMAGES} readable images of each class"
        yield Finding("leak-untested", f"too few images, {expected}", place)
        return
    together, *alone = signals
    if together.low > leaks.HINT_AUROC:
        strongest = "; ".join(str(signal) for signal in alone[:3])
        rule = "leak" if together.low > leaks.LEAK_AUROC else "leak-weak"
        message = f"AUROC of {together}, expected about 0.5; the strongest alone: {strongest}"
        yield Finding(rule, message, place, "image", f"{together.auroc:.3f}")
