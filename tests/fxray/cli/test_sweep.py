"""`fxray sweep` as a command: what it says, and how it ends."""

import pytest
from typer.testing import CliRunner

from fxray.cli.app import app
from fxray.errors import ConfigError
from fxray.report.paper_table import SYNTHETIC, PaperRow, PaperTable
from fxray.sweep import sweep as sweeping
from fxray.sweep.results import Result

EXAMPLE = "configs/sweeps/tiny.yaml"


def run(*arguments):
    return CliRunner().invoke(app, ["sweep", *map(str, arguments)])


def test_a_dry_run_lists_every_trial_and_writes_nothing(tmp_path):
    shown = run(EXAMPLE, "--config", "tiny", "--out", tmp_path / "out", "--dry-run")
    assert shown.exit_code == 0, shown.output
    for seed in (0, 1, 2):
        assert f"grpo.prompts-per-step-24+seed-{seed}" in shown.stdout
    assert "108" in shown.stdout
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("undone", [{}, {"a+seed-0": "failed: no memory"}])
def test_the_exit_code_tells_whether_a_trial_failed(tmp_path, monkeypatch, undone):
    rows = (PaperRow("a", "grpo.kl_beta=0.1", ("1 of 1 seeds, best", "0.571 ± 0.012"), ()),)
    table = PaperTable("Mine", ("setting", "state", "IoU"), (), rows, (SYNTHETIC,))
    asked = []

    def work(file, base, *, max_concurrent, on_event):
        asked.append((max_concurrent, base.configure([], {}).grpo.kl_beta))
        return Result(table, "a", undone)

    monkeypatch.setattr(sweeping, "sweep", work)
    shown = run(EXAMPLE, "--config", "tiny", "--out", tmp_path, "--max-concurrent", 3, "--set", "grpo.kl_beta=0.5")
    assert shown.exit_code == (1 if undone else 0), shown.output
    assert asked == [(3, 0.5)]
    assert "0.571 ± 0.012" in shown.stdout
    assert "SYNTHETIC" in shown.stdout


def test_a_sweep_that_is_stopped_says_that_it_goes_on(tmp_path, monkeypatch):
    def work(*_, **__):
        raise KeyboardInterrupt

    monkeypatch.setattr(sweeping, "sweep", work)
    assert "stopped; the same command goes on\n" in run(EXAMPLE, "--config", "tiny", "--out", tmp_path).stderr


def test_what_cannot_be_swept_is_refused(tmp_path):
    (tmp_path / "test.yaml").write_text("split: test")
    refused = run(tmp_path / "test.yaml", "--config", "tiny", "--out", tmp_path / "out")
    assert isinstance(refused.exception, ConfigError)
    assert refused.exception.exit_code == 2
    assert run(EXAMPLE, "--config", "tiny", "--out", tmp_path / "out", "--max-concurrent", 0).exit_code == 2
    assert not (tmp_path / "out").exists()
