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
    from rich.text import Text

    from fxray.doctor import Level, examine

    styles = {Level.OK: "green", Level.WARN: "yellow", Level.FAIL: "bold red"}
    table = Table.grid(padding=(0, 2))
    table.add_column(no_wrap=True)
    table.add_column(no_wrap=True)
    console = Console(highlight=False)
    with console.status("looking at this machine; starting Ray takes a while"):
        findings = examine()
    for finding in findings:
        found = Text(finding.found)
        if finding.remedy:
            found.append(f"\nremedy: {finding.remedy}", style="italic")
        table.add_row(Text(finding.level, styles[finding.level]), finding.subject, found)
    console.print(table)
    num_failed = sum(finding.level is Level.FAIL for finding in findings)
    console.print(f"{num_failed} to be mended" if num_failed else "nothing to be mended")
    if num_failed:
        raise typer.Exit(1)
