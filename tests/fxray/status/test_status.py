"""What `fxray status` says of run directories in every condition."""

import dataclasses
import json
import os
import platform
import re
import shutil
import subprocess
import sys
import time
import types
from pathlib import Path

import pytest
from typer.testing import CliRunner

from fxray.checkpoints import latest
from fxray.cli.app import app
from fxray.errors import FxrayError
from fxray.metrics import MetricsLog
from fxray.status import summary
from fxray.status.record import Activity, RunError, Saying, StatusRecord, pid_namespace, write_record
from fxray.status.summary import read_remote_status, read_status
from fxray.status.words import as_json, as_lines, duration, size

NOW = 1_800_000_000.0
METRICS = {"reward": 1.5, "reward/iou": 0.25, "parse_rate": 0.5, "policy_version": 3.0, "seconds": 4.0}
SECONDS = {"seconds/generate": 3.0, "seconds/update": 0.9, "seconds/update/forward": 0.5}
SECONDS |= {"seconds/wait": 3.0, "seconds/idle": 1.0}


def record(**changes) -> StatusRecord:
    """A driver elsewhere that is in the middle of alpha."""
    found = StatusRecord(
        outcome="running",
        host="elsewhere",
        pid=1,
        command="fxray train",
        started=NOW - 100,
        time=NOW - 2,
        phase="alpha",
        step=3,
        num_steps=10,
        phases=("alpha", "beta"),
        phase_started=NOW - 20,
    )
    return dataclasses.replace(found, **changes)


def log(folder: Path, num_steps: int, phase: str = "alpha") -> None:
    with (folder / "metrics.jsonl").open("a") as file:
        for step in range(1, num_steps + 1):
            line = {
                "phase": phase,
                "step": step,
                "time": NOW - 1 - 4 * (num_steps - step),
                "metrics": METRICS | SECONDS,
            }
            file.write(json.dumps(line) + "\n")


@pytest.fixture
def run(tmp_path: Path) -> Path:
    (tmp_path / "sft" / "adapter").mkdir(parents=True)
    checkpoint = tmp_path / "grpo" / "alpha" / "step-000002"
    checkpoint.mkdir(parents=True)
    (checkpoint / "state.json").write_text('{"step": 2}')
    os.utime(checkpoint / "state.json", (NOW - 30, NOW - 30))
    os.utime(tmp_path / "sft" / "adapter", (NOW - 60, NOW - 60))
    log(tmp_path, 3)
    return tmp_path


def test_a_running_run_says_where_it_is_and_when_it_will_be_done(run: Path) -> None:
    write_record(
        run,
        record(
            waiting=(Activity("rollout-2", "12 groups from rollout-2", NOW - 77),),
            workers=(Activity("rollout-1", "idle", NOW - 5), Activity("rollout-2", "draw", NOW - 77)),
            counters={"num_rollout_failures": 2.0, "num_corrupt_images": 0.0},
            warnings=(Saying(NOW - 15, "waiting since 60 s for 12 groups from rollout-2"),),
            metrics_url="http://127.0.0.1:8080/metrics",
        ),
    )
    status = read_status(run, NOW)
    assert (status.state, status.step_s, status.left_s, status.num_recent) == ("running", 4.0, 27.0, 3)
    assert status.breakdown_s == {"generate": 3.0, "update": 0.9}
    assert [(phase.name, phase.state) for phase in status.phases] == [
        ("sft", "done"),
        ("alpha", "now"),
        ("beta", "to do"),
    ]
    lines = as_lines(status)
    for words in (
        "running, driver pid 1 on elsewhere for 1 min 38 s, last sign 2 s ago",
        "alpha 3/10 steps, policy version 3, 4.0 s a step, left 27 s",
        "sft done, alpha now, beta to do",
        "generate 3.00 s (75%)  update 0.90 s (22%)",
        "waits      learning 75% of its time for answers, sampling 25% of its time for a policy",
        "last 3     reward +1.500  iou 0.250  parsed 50.0%",
        "rollout-1 idle 3 s, rollout-2 draw 1 min 15 s",
        "waiting    since 1 min 15 s for 12 groups from rollout-2",
        "faults     rollout failures 2",
        "waiting since 60 s for 12 groups from rollout-2",
        "grpo/alpha/step-000002 (step 2), 30 s old",
        "http://127.0.0.1:8080/metrics",
    ):
        assert any(words in line for line in lines), (words, lines)
    numbers = json.loads(json.dumps(as_json(status), allow_nan=False))
    assert (numbers["left_s"], numbers["record"]["waiting"][0]["track"]) == (27.0, "rollout-2")


@pytest.mark.parametrize(
    ("changes", "state"),
    [
        ({"time": NOW - 61}, "dead"),
        ({"time": NOW - 59}, "running"),
        ({"time": NOW + 500}, "running"),  # a clock that is ahead is not a death
        ({"host": platform.node(), "pid": 2**22 + 1}, "dead"),
        ({"host": platform.node(), "pid": 2**22 + 1, "pid_namespace": pid_namespace()}, "dead"),
        ({"host": platform.node(), "pid": 2**22 + 1, "pid_namespace": "pid:[1]"}, "running"),  # in a container
        ({"host": platform.node(), "pid": os.getpid()}, "running"),
        ({"outcome": "finished", "time": NOW - 9999}, "finished"),
        ({"outcome": "failed"}, "failed"),
    ],
)
def test_whether_a_driver_is_alive(run: Path, changes: dict, state: str) -> None:
    write_record(run, record(**changes))
    status = read_status(run, NOW)
    assert status.state == state
    assert (status.left_s == status.left_s) == (state == "running")


def test_a_failed_run_shows_its_error_and_a_dead_one_since_when(run: Path) -> None:
    error = RunError("SyncError", "holds no module", "policy version 3", "go on", "alpha")
    write_record(run, record(outcome="failed", error=error))
    lines = as_lines(read_status(run, NOW))
    assert lines[-2:] == [
        "error      SyncError: policy version 3: holds no module (in alpha)",
        "remedy     go on",
    ]
    write_record(run, record(time=NOW - 7300))
    assert (
        "dead, driver pid 1 on elsewhere ended without a word; last sign 2 h 01 min ago"
        in as_lines(read_status(run, NOW))[0]
    )


def test_damaged_files_are_said_and_the_rest_is_read(run: Path) -> None:
    lines = (run / "metrics.jsonl").read_text().splitlines()
    (run / "metrics.jsonl").write_text("\n".join([lines[0], '{"phase": "alp\x00', *lines[1:], '{"torn']))
    (run / "status.json").write_text("{")
    status = read_status(run, NOW)
    assert (status.state, status.phase, status.step) == ("unknown", "alpha", 3)
    assert status.notes == (
        "status.json is damaged, so nothing is known of the driver",
        "1 line of metrics.jsonl left out: no record of a step",
    )


@pytest.mark.parametrize(
    "changes",
    [
        {"time": "soon"},
        {"time": float("nan")},
        {"outcome": "weird"},
        {"phases": [1]},
        {"pid": "1"},
        {"counters": []},
        {"counters": {"num_rollout_failures": "many"}},
        {"workers": [{"track": "rollout-1", "name": "idle", "since": None}]},
    ],
)
def test_a_record_with_values_of_other_types_is_damaged(run: Path, changes: dict) -> None:
    (run / "status.json").write_text(json.dumps(dataclasses.asdict(record()) | changes))
    status = read_status(run, NOW)
    assert status.state == "unknown"
    assert status.notes == ("status.json is damaged, so nothing is known of the driver",)


def test_a_process_number_that_no_process_can_have_is_a_dead_driver(run: Path) -> None:
    write_record(run, record(host=platform.node(), pid=2**35))
    assert read_status(run, NOW).state == "dead"


def test_the_newest_checkpoint_of_a_copy_is_that_of_the_run_and_so_is_its_age(run: Path) -> None:
    for stage, version in (("gamma", 210), ("beta", 140), ("alpha", 70)):  # in the order in which they were copied
        final = run / "grpo" / stage / "final"
        final.mkdir(parents=True)
        (final / "state.json").write_text(json.dumps({"step": 70, "policy_version": version}))
        os.utime(final / "state.json", (NOW - version, NOW - version))
    (run / "sft" / "adapter" / "adapter_config.json").write_text("{}")
    write_record(run, record(outcome="finished", time=NOW - 9000))
    assert "grpo/gamma/final (step 70), 2 h 30 min old" in "\n".join(as_lines(read_status(run, NOW)))
    line = {"phase": "gamma", "step": 70, "time": NOW - 9060, "metrics": {}}
    (run / "metrics.jsonl").write_text(json.dumps(line) + "\n")
    assert read_status(run, NOW).checkpoint.age_s == 9060


def test_only_the_end_of_a_long_log_is_read(run: Path) -> None:
    with (run / "metrics.jsonl").open("a") as file:
        file.write("damaged\n")
    log(run, 3000)
    write_record(run, record(step=3000, num_steps=4000))
    status = read_status(run, NOW)
    assert (status.num_recent, status.left_s, status.notes) == (10, 3999.0, ())


def test_steps_that_are_told_again_at_once_are_timed_by_their_own_seconds(run: Path) -> None:
    steps = MetricsLog(run)
    for step in range(1, 12):  # as when SFT is started again
        steps.log("sft", step, {"seconds": 60.0})
    steps.close()
    write_record(run, record(phase="sft", step=11, num_steps=21, time=time.time()))
    status = read_status(run)
    assert (status.step_s, status.left_s) == (60.0, pytest.approx(600, abs=60))


def test_a_pause_between_two_drivers_is_no_step(run: Path) -> None:
    with (run / "metrics.jsonl").open("a") as file:
        for step, age_s in ((1, 30_000), (2, 20)):
            line = {"phase": "sft", "step": step, "time": NOW - age_s, "metrics": {"seconds": 10.0}}
            file.write(json.dumps(line) + "\n")
    write_record(run, record(phase="sft", step=2, first_step=1, num_steps=102, started=NOW - 60))
    status = read_status(run, NOW)
    assert (status.step_s, status.left_s) == (10.0, 990.0)


def test_what_is_counted_over_the_run_is_shown_as_it_is_now(run: Path) -> None:
    steps = MetricsLog(run)
    for step, num_failures in enumerate([0, 0, 0, 3], start=4):
        now = {"num_rollout_failures": num_failures, "num_rollout_workers": 4 - num_failures, "num_tokens": step}
        steps.log("alpha", step, now)
    steps.close()
    recent = read_status(run, NOW).recent
    assert (recent["num_rollout_failures"], recent["num_rollout_workers"], recent["num_tokens"]) == (3, 1, 5.5)


def test_a_checkpoint_that_another_replaces_meanwhile_is_passed_over(
    run: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def find_and_replace(stage: Path) -> Path | None:
        found = latest(stage)
        shutil.rmtree(stage)
        return found

    monkeypatch.setattr(summary, "latest", find_and_replace)
    checkpoint = read_status(run, NOW).checkpoint
    assert checkpoint is not None
    assert checkpoint.path == "sft/adapter"


def test_a_phase_without_a_log_is_timed_by_its_driver(run: Path) -> None:
    write_record(run, record(phase="evaluate alpha", step=8, num_steps=32, phase_started=NOW - 18))
    status = read_status(run, NOW)
    assert (status.step_s, status.left_s) == (2.0, 48.0)
    write_record(run, record(phase="evaluate alpha", step=0, num_steps=32, phase_started=NOW - 18))
    assert "left" not in as_lines(read_status(run, NOW))[1]


@pytest.mark.parametrize("name", ["trials", "runs"])
def test_a_folder_of_runs_is_none_and_names_one(tmp_path: Path, name: str) -> None:
    (tmp_path / "config.yaml").write_text("seed: 0\n")
    for run in ("a", "b"):
        (tmp_path / name / run).mkdir(parents=True)
    with pytest.raises(FxrayError, match=r"is the folder of several runs \(2 so far\)") as caught:
        read_status(tmp_path, NOW)
    assert caught.value.remedy.endswith(str(tmp_path / name / "b"))


@pytest.mark.parametrize("name", ["trials", "runs"])
def test_the_folder_of_several_runs_over_there_is_none_and_names_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    address, copied = "s3://bucket/sweep", tmp_path / "copied"

    def copy(_: str, names: re.Pattern[str]) -> Path:
        listed = ("config.yaml", *(f"{name}/{run}/{file}" for run in "ab" for file in ("config.yaml", "model.bin")))
        for file in filter(names.fullmatch, listed):
            (copied / file).parent.mkdir(parents=True, exist_ok=True)
            (copied / file).touch()
        return copied

    monkeypatch.setattr("fxray.remote.local_copy", copy)
    monkeypatch.setattr("fxray.remote.Mirror", lambda *_: types.SimpleNamespace(is_led=lambda: False))
    with pytest.raises(FxrayError, match=r"is the folder of several runs \(2 so far\)") as caught:
        read_remote_status(address)
    assert caught.value.where == address
    assert caught.value.remedy.endswith(f"fxray status {address}/{name}/b")
    assert not list(copied.rglob("model.bin"))


def test_what_is_no_run_is_refused_by_name(tmp_path: Path) -> None:
    with pytest.raises(FxrayError, match="is empty: no run was started in it"):
        read_status(tmp_path)
    with pytest.raises(FxrayError, match="is not there"):
        read_status(tmp_path / "absent")
    (tmp_path / "photo.jpg").touch()
    with pytest.raises(FxrayError, match=r"holds neither status\.json nor config\.yaml"):
        read_status(tmp_path)
    with pytest.raises(FxrayError, match="is no folder"):
        read_status(tmp_path / "photo.jpg")


@pytest.mark.parametrize(
    ("changes", "code"),
    [({"outcome": "finished"}, 0), ({"outcome": "failed"}, 3), ({"outcome": "stopped"}, 3), ({}, 4)],
)
def test_exit_codes(run: Path, changes: dict, code: int) -> None:
    write_record(run, record(time=1.0, **changes))
    found = CliRunner().invoke(app, ["status", str(run), "--json", "--watch"])
    assert found.exit_code == code
    assert json.loads(found.stdout)["step"] == 3


WATCH = """
import sys
from fxray.checkpoints import latest
from fxray.cli.app import app
try:
    app()
finally:
    print([name for name in ("torch", "ray", "numpy", "pyarrow", "transformers") if name in sys.modules])
"""


def test_watching_ends_with_the_run_and_needs_no_heavy_library(run: Path) -> None:
    write_record(run, record(time=time.time(), host=platform.node(), pid=os.getpid()))
    command = [sys.executable, "-c", WATCH, "status", str(run), "--watch", "--json", "--every", "0.2"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert json.loads(process.stdout.readline())["state"] == "running"
        write_record(run, record(outcome="finished"))
        *_, last, modules = process.stdout.readlines()
    assert json.loads(last)["state"] == "finished"
    assert modules == "[]\n"
    assert process.returncode == 0


def test_durations_and_sizes() -> None:
    assert [duration(s) for s in (0.4, 75, 7300, 200_000)] == ["0 s", "1 min 15 s", "2 h 01 min", "2 d 7 h"]
    assert [size(b) for b in (5, 5000, 28 * 2**20, 3 * 2**40)] == ["5 B", "4.9 KiB", "28 MiB", "3.0 TiB"]
