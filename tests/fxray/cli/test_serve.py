"""What the options of `fxray serve` become."""

from pathlib import Path

import pytest
from typer.testing import CliRunner

from fxray.cli.app import app


@pytest.fixture
def served(monkeypatch):
    """The configurations that would be served."""
    served = []
    monkeypatch.setattr("fxray.serve.run.serve_until_told", lambda config, *_: served.append(config.serve))
    return served


@pytest.mark.parametrize(
    ("option", "value", "field"),
    [
        ("--host", "::", "host"),
        ("--host", "localhost", "host"),
        ("--keys", "#1.txt", "keys"),
        ("--keys", "a: b", "keys"),
        ("--keys", "{keys}.txt", "keys"),
        ("--data-dir", "on", "data_dir"),
        ("--data-dir", "2026", "data_dir"),
        ("--data-dir", "Bilder 🖼 é", "data_dir"),
        ("--port", "8080", "port"),
        ("--replicas", "3", "replicas"),
    ],
)
def test_an_option_says_what_it_says_and_no_yaml(served, option, value, field):
    done = CliRunner().invoke(app, ["serve", "--config", "tiny", option, value])
    assert done.exit_code == 0, done.output
    (serve,) = served
    assert str(getattr(serve, field)) == (str(Path(value).absolute()) if field == "keys" else value)


def test_more_adapters_go_by_their_names(served, tmp_path):
    done = CliRunner().invoke(
        app, ["serve", "--config", "tiny", "--also", f"beta={tmp_path}/a: b", "--also", f"on={tmp_path}"]
    )
    assert done.exit_code == 0, done.output
    assert served[0].adapters == {"beta": tmp_path / "a: b", "on": Path(tmp_path)}


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["beta"], "'beta', expected NAME=DIR"),
        (["=/a"], "'=/a', expected NAME=DIR"),
        (["default=/a"], "'default' is what answers where a request names none"),
        (["beta=/a", "beta=/b"], "'beta' is given twice"),
    ],
)
def test_an_adapter_that_cannot_be_asked_for_is_wrong_usage(served, options, said):
    words = [word for option in options for word in ("--also", option)]
    done = CliRunner().invoke(app, ["serve", "--config", "tiny", *words])
    assert done.exit_code == 2
    assert said in " ".join(done.output.replace("│", " ").split())
    assert served == []
