"""`fxray data check`: the faults of a dataset as a table, JSON and a page."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from fxray.cli.all_cores import on_all_cores
from fxray.counts import counted

if TYPE_CHECKING:
    from collections.abc import Sequence

    from fxray.data.check.check import Check
    from fxray.data.check.findings import Finding


def check(
    files: Annotated[list[Path], typer.Argument(metavar="FILE...", help="Parquet files; several are splits of a set.")],
    as_json: Annotated[bool, typer.Option("--json", help="Print every finding as JSON in place of tables.")] = False,
    report: Annotated[
        Path | None,
        typer.Option(metavar="FILE", dir_okay=False, help="Write an HTML page with the images of the findings."),
    ] = None,
    ignore_source: Annotated[
        bool, typer.Option("--ignore-source", help="`source` names collections, which files may share.")
    ] = False,
) -> None:
    """Find what is wrong with a dataset: rows, images, copies, leaks, balance.

    Reads every image. Bad rows are listed, all of them, and no data are changed. What each rule means is in
    docs/data-quality.md. What is seen of the images is kept in a hidden folder beside each file, so that a check that
    was interrupted, or is run again, decodes only what is new. Many images are looked at on all cores by Ray.

    Exit codes: 0 nothing worse than a note, 3 warnings, 4 errors (1 and 2: the check itself did not run).

    \b
    Examples:
      fxray data check dataset.parquet
      fxray data check train.parquet validation.parquet test.parquet --report check.html
      fxray data check dataset.parquet --json > findings.json
    """
    from fxray.cli.progress import show_progress
    from fxray.data.check.check import check as check_files
    from fxray.data.dataset import refuse_no_file

    for file in files:
        refuse_no_file(file)
    if len({file.resolve() for file in files}) < len(files):
        raise typer.BadParameter("a file is given twice; give each split once")
    with show_progress() as on_event:
        result = check_files(files, on_event, ignores_source=ignore_source, all_cores=on_all_cores)
    if as_json:
        import json

        typer.echo(json.dumps(result.to_json(), indent=2))
    else:
        _print(result)
    if report is not None:
        from fxray.report.check_page import write_check_page

        write_check_page(report, result)
        typer.echo(report, err=as_json)
    raise typer.Exit(result.exit_code)


def _print(result: Check) -> None:
    from rich.table import Table

    from fxray.cli.tables import print_table
    from fxray.data.check.findings import by_rule

    images = Table("file", "real", "generated", title=counted(result.num_rows, "row"), title_justify="left")
    for file, labels in result.counts.items():
        images.add_row(file, str(labels.get("real", 0)), str(labels.get("generated", 0)))
    print_table(images)
    if result.signals is not None:
        typer.echo(f"told apart by the files alone, AUROC: {result.signals[0]}; 0.5 is chance")
    if not result.findings:
        typer.echo("no findings")
        return
    table = Table("severity", "rule", "findings", "first of them, and the remedy", show_lines=True)
    for rule, found in by_rule(result.findings).items():
        kind = found[0].kind
        table.add_row(kind.severity.value, rule, str(len(found)), f"{_examples(found)}\nremedy: {kind.remedy}")
    print_table(table)
    counts = result.severities()
    typer.echo(", ".join(counted(count, severity) for severity, count in counts.items()))


def _examples(found: Sequence[Finding]) -> str:
    from fxray.draw import plain_text

    return "\n".join(plain_text(str(finding)) for finding in found[:2])
