"""`fxray doctor`."""

import typer


def doctor() -> None:
    """Find what is wrong with this machine.

    Versions, devices, libraries, Ray, memory, disk; with a remedy for each. Exit code 1 where something must be mended.

    \b
    Example:
      fxray doctor
    """
    from rich.console import Console
    from rich.table import Table

    from fxray.doctor import Level, examine

    styles = {Level.OK: "green", Level.WARN: "yellow", Level.FAIL: "red"}
    table = Table(show_edge=False, pad_edge=False)
    for column in ("", "what", "found", "remedy"):
        table.add_column(column, overflow="fold")
    findings = examine()
    for finding in findings:
        level = f"[{styles[finding.level]}]{finding.level}[/]"
        table.add_row(level, finding.subject, finding.found, finding.remedy)
    Console().print(table)
    if any(finding.level is Level.FAIL for finding in findings):
        raise typer.Exit(1)
