"""A process apart: its words are kept, its failure is told, silence is not waited for, and nobody is left behind."""

import signal
import subprocess
import sys
import time
import types

import pytest

from fxray.errors import DeadlineError, WorkerDiedError
from fxray.launch import apart
from fxray.launch.apart import Surroundings, run_process


def test_output_goes_to_the_log_and_a_failure_says_what_the_command_said(tmp_path):
    log = tmp_path / "logs" / "a.log"
    run_process(["config", "show", "--config", "tiny"], tmp_path, log, Surroundings())
    assert "prompts_per_step: 24" in log.read_text()
    with pytest.raises(WorkerDiedError, match=r"nowhere: there is no such configuration \(exit code 2\)") as caught:
        run_process(["config", "show", "--config", "nowhere"], tmp_path, log, Surroundings())
    assert caught.value.where == str(log)
    assert "prompts_per_step: 24" in log.read_text()


def test_a_process_that_says_nothing_for_too_long_is_ended(tmp_path, monkeypatch):
    monkeypatch.setattr(apart, "SILENCE_S", 0.1)
    monkeypatch.setattr(apart, "LOOK_EVERY_S", 0.01)
    started = []
    real = subprocess.Popen
    monkeypatch.setattr(apart.subprocess, "Popen", lambda *a, **k: started.append(real(*a, **k)) or started[0])
    with pytest.raises(DeadlineError, match="no sign of life"):
        run_process(["config", "show", "--config", "tiny"], tmp_path, tmp_path / "a.log", Surroundings())
    # By the signal, or by fxray's own handler of it where that is there already.
    assert started[0].returncode in {-signal.SIGTERM, 128 + signal.SIGTERM}


def test_a_machine_that_slept_ends_no_trial(tmp_path, monkeypatch):
    monkeypatch.setattr(apart, "LOOK_EVERY_S", 0.01)
    start_s, later_s = time.time(), iter(range(3600, 10**9, 3600))
    clocks = {name: getattr(time, name) for name in ("monotonic", "sleep")}
    monkeypatch.setattr(apart, "time", types.SimpleNamespace(time=lambda: start_s + next(later_s), **clocks))
    run_process(["config", "show", "--config", "tiny"], tmp_path, tmp_path / "a.log", Surroundings())
    assert "prompts_per_step: 24" in (tmp_path / "a.log").read_text()


def test_a_trial_on_a_file_server_whose_clock_is_behind_is_heard(tmp_path, monkeypatch):
    """Its status says with every renewal that it is of an hour ago."""
    monkeypatch.setattr(apart, "SILENCE_S", 2)
    monkeypatch.setattr(apart, "LOOK_EVERY_S", 0.1)
    renew = "open('status.json', 'w').write(str(i)); os.utime('status.json', (1e9 + i, 1e9 + i)); time.sleep(0.1)"
    code = f"import os, time\nfor i in range(40):\n    {renew}"
    real = subprocess.Popen
    monkeypatch.setattr(apart.subprocess, "Popen", lambda asked, **k: real([sys.executable, "-c", code], **k))
    run_process([], tmp_path, tmp_path / "a.log", Surroundings(folder=tmp_path))
    assert (tmp_path / "status.json").read_text() == "39"


@pytest.mark.parametrize("is_left", [True, False])
def test_a_process_ends_by_itself_or_when_the_one_that_started_it_is_gone(is_left):
    code = "import time; from fxray.launch.apart import end_with_parent; end_with_parent(); print('up', flush=True)"
    code = f"{code}; time.sleep({60 if is_left else 0.1})"
    with subprocess.Popen([sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as child:
        assert child.stdout.readline() == b"up\n"
        if is_left:
            child.stdin.close()  # as the kernel does when a process dies
        assert child.wait(20) == (-signal.SIGTERM if is_left else 0)


def test_what_ray_adds_to_the_environment_is_left_out(monkeypatch):
    monkeypatch.setenv("RAY_ADDRESS", "10.0.0.1:6379")
    monkeypatch.setenv("MINE", "1")
    surroundings = Surroundings()
    monkeypatch.setenv("OMP_NUM_THREADS_OF_RAY", "1")
    monkeypatch.delenv("RAY_ADDRESS")
    assert "OMP_NUM_THREADS_OF_RAY" not in surroundings.environment
    assert surroundings.environment["MINE"] == "1"
    assert surroundings.environment["RAY_ADDRESS"] == "10.0.0.1:6379"
