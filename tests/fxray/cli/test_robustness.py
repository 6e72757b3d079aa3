"""`fxray robustness` as a command: what it says of itself."""

from pathlib import Path

from typer.testing import CliRunner

from fxray.cli.app import app
from fxray.data.changes import HARDSHIPS

NUMBERS = {17: "seventeen", 18: "eighteen", 19: "nineteen", 20: "twenty"}


def test_help_and_documentation_say_how_many_changes_there_are():
    told = f"{NUMBERS[len(HARDSHIPS)]} changes"
    shown = CliRunner().invoke(app, ["robustness", "--help"])
    assert f"under {told}" in " ".join(shown.stdout.split())
    assert f"# {told}" in Path("docs/evaluation.md").read_text("utf-8")
