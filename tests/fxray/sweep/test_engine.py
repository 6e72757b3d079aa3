"""Ray Tune itself, over work that only counts."""

import signal
import subprocess
import sys
import time
from contextlib import nullcontext

import pytest

from fxray.config.tree import RayConfig
from fxray.launch.cluster import ray_cluster
from fxray.sweep.engine import run_rounds
from fxray.sweep.units import Halving, Listener, Round, Unit

SWEEP = """
import signal, subprocess, sys
from pathlib import Path

from fxray.cli.app import _leave
from fxray.config.tree import RayConfig
from fxray.sweep.engine import run_rounds
from fxray.sweep.units import Listener, Round, Unit

folder, code, address = sys.argv[1:]

def advance(trial, phase):
    with subprocess.Popen([sys.executable, "-c", code, folder], stdin=-1, start_new_session=True) as process:
        process.wait()

signal.signal(signal.SIGTERM, _leave)
rounds = iter([Round((Unit("a", ("a",), ("sft",)),), Listener(*3 * [lambda *said: None]))])
tune = Path(folder, ".tune")
ray = RayConfig(address=address or None, autoscales=bool(address))
run_rounds(rounds, advance, lambda unit, phase: 1.0, max_concurrent=1, ray_config=ray, folder=tune)
"""
TRIAL = """
import signal, sys, time
from pathlib import Path

from fxray.cli.app import _leave
from fxray.launch.apart import end_with_parent

signal.signal(signal.SIGTERM, _leave)
end_with_parent()
Path(sys.argv[1], "up").touch()
try:
    time.sleep(60)
except SystemExit as error:
    Path(sys.argv[1], "left").write_text(str(error.code))
"""
VALUES = {"good": 0.9, "bad": 0.1, "best": 1.0}


@pytest.mark.ray
@pytest.mark.long
def test_what_falls_behind_is_stopped_what_fails_stops_nothing_and_all_is_told(tmp_path, monkeypatch):
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    said, values = [], VALUES

    def advance(trial, phase):
        if trial == "broken" and phase == "beta":
            raise RuntimeError("the engine is gone")
        with (tmp_path / "calls").open("a") as file:
            file.write(f"{trial} {phase}\n")

    def measure(unit, phase):
        return values.get(unit.name, 0.95)

    units = [Unit(name, (f"{name}",), ("sft", "alpha", "beta")) for name in ("good", "bad", "broken", "best")]
    listener = Listener(
        lambda unit, phase, value: said.append(("told", unit.name, phase, value)),
        lambda unit, is_stopped: said.append(("stopped" if is_stopped else "done", unit.name)),
        lambda unit, reason: said.append(("failed", unit.name, "the engine is gone" in reason)),
    )
    rounds = [
        Round((), listener),
        Round(tuple(units), listener, Halving("max", num_phases=3, min_phases=2, reduction_factor=2)),
    ]
    run_rounds(
        iter(rounds), advance, measure, max_concurrent=1, ray_config=RayConfig(), folder=tmp_path / "out" / ".tune"
    )
    calls = (tmp_path / "calls").read_text().splitlines()
    assert calls == [
        *(f"good {phase}" for phase in ("sft", "alpha", "beta")),
        *(f"bad {phase}" for phase in ("sft", "alpha")),
        *(f"broken {phase}" for phase in ("sft", "alpha")),
        *(f"best {phase}" for phase in ("sft", "alpha", "beta")),
    ]
    assert [what for what in said if what[0] != "told"] == [
        ("done", "good"),
        ("stopped", "bad"),
        ("failed", "broken", True),
        ("done", "best"),
    ]
    assert ("told", "best", "beta", 1.0) in said
    assert not (tmp_path / "out" / ".tune").exists()


@pytest.mark.ray
@pytest.mark.long
@pytest.mark.parametrize("is_joined", [False, True])
def test_a_trial_leaves_by_itself_when_its_sweep_is_ended(tmp_path, monkeypatch, is_joined):
    import ray

    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    with ray_cluster(RayConfig(), min_cpus=1) if is_joined else nullcontext():
        address = ray.get_runtime_context().gcs_address if is_joined else ""
        with subprocess.Popen([sys.executable, "-c", SWEEP, str(tmp_path), TRIAL, address]) as process:
            _wait_for(tmp_path / "up")
            process.terminate()
            assert process.wait(60) == 128 + signal.SIGTERM
        _wait_for(tmp_path / "left")
    assert (tmp_path / "left").read_text() == str(128 + signal.SIGTERM)


def _wait_for(file, deadline_s=60.0):
    end_s = time.monotonic() + deadline_s
    while not file.exists():
        assert time.monotonic() < end_s, f"{file.name} is not there after {deadline_s} s"
        time.sleep(0.1)
