"""Commands as they are typed, in this process."""

from typer.testing import CliRunner, Result

from fxray.cli.app import app
from fxray.errors import FxrayError


def run(*words: object) -> Result:
    """What the command printed, and its exit code; an error of fxray's is raised as it is."""
    result = CliRunner().invoke(app, [str(word) for word in words])
    if isinstance(result.exception, FxrayError):
        raise result.exception
    assert result.exception is None or isinstance(result.exception, SystemExit), result.exception
    return result
