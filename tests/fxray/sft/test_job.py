import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import asdict, replace
from pathlib import Path
from types import SimpleNamespace

import psutil
import pytest
import torch
from safetensors.torch import load_file

from fxray.errors import CheckpointError, DataError, DeadlineError, WorkerDiedError
from fxray.events import Event, Note, PhaseStarted, Step
from fxray.files import append_line
from fxray.launch.run import RunDirectory
from fxray.launch.sft import train_sft
from fxray.sft.checkpoint import PROGRESS_FILE, RESTARTS_FILE, SftState, write_state
from fxray.sft.job import _Watch, run_sft
from fxray.sft.settings import SftSettings
from fxray.sft.trainer import TellOfRestart

NUM_STEPS = 30
COMING_UP = Note("1 SFT worker coming up")
WHY = {signal.SIGKILL: "The actor died unexpectedly", signal.SIGSTOP: "health check"}
DRIVER = Path(__file__).parent / "job_driver.py"


def with_ray(test: Callable[..., None]) -> Callable[..., None]:
    """Marks a test that runs whole jobs."""
    return pytest.mark.ray(pytest.mark.slow(pytest.mark.timeout(600)(test)))


@pytest.fixture(scope="module")
def long_settings(settings: SftSettings) -> SftSettings:
    """A job that lasts long enough to be killed in the middle."""
    return replace(settings, max_steps=NUM_STEPS, epochs=9, checkpoint_every_steps=4)


@pytest.fixture(scope="module")
def uninterrupted(
    cluster: None, long_settings: SftSettings, tmp_path_factory: pytest.TempPathFactory
) -> tuple[Path, list[Event]]:
    """Run directory and events of a job to which nothing happens."""
    run_dir = tmp_path_factory.mktemp("uninterrupted")
    events: list[Event] = []
    assert run_sft(long_settings, run_dir=run_dir, on_event=events.append) == run_dir / "sft" / "adapter"
    return run_dir, events


def adapter_bytes(run_dir: Path) -> bytes:
    return (run_dir / "sft" / "adapter" / "adapter_model.safetensors").read_bytes()


def is_rank(process: psutil.Process) -> bool:
    """Whether a living process runs a rank; one that was killed a moment ago may still be listed."""
    try:
        return any("RayTrainWorker" in part for part in process.cmdline())
    except psutil.NoSuchProcess:
        return False


def kill_ranks(sign: signal.Signals = signal.SIGKILL) -> None:
    """Kills, or stops, what runs a rank under this driver's Ray."""
    for process in psutil.Process().children(recursive=True):
        if is_rank(process):
            with suppress(psutil.NoSuchProcess):
                process.send_signal(sign)


def listening_addresses() -> set[str]:
    """Where the ranks under this driver's Ray listen."""
    ranks = [process for process in psutil.Process().children(recursive=True) if is_rank(process)]
    assert ranks
    sockets = [socket for rank in ranks for socket in rank.net_connections("tcp")]
    return {socket.laddr.ip for socket in sockets if socket.status == psutil.CONN_LISTEN}


def test_a_job_that_died_at_its_very_end_is_only_finished(settings: SftSettings, tmp_path: Path) -> None:
    folder = tmp_path / "sft" / "attempts" / "attempt-0" / "step-000006"
    (folder / "adapter").mkdir(parents=True)
    (folder / "adapter" / "adapter_model.safetensors").write_bytes(b"weights")
    write_state(folder, SftState(6, 6, {2: "row 2: cut short"}), settings)
    events: list[Event] = []

    assert run_sft(settings, run_dir=tmp_path, on_event=events.append) == tmp_path / "sft" / "adapter"
    assert run_sft(settings, run_dir=tmp_path, on_event=events.append) == tmp_path / "sft" / "adapter"

    assert events == [Note("left out of SFT: row 2: cut short", is_warning=True)]
    assert adapter_bytes(tmp_path) == b"weights"
    assert [path.name for path in (tmp_path / "sft").iterdir()] == ["adapter"]


def test_training_states_beside_a_finished_adapter_are_deleted(settings: SftSettings, tmp_path: Path) -> None:
    for finish in (
        lambda: run_sft(settings, run_dir=tmp_path, on_event=lambda _: None),
        lambda: train_sft(SimpleNamespace(run=RunDirectory(tmp_path))),
    ):
        (tmp_path / "sft" / "adapter").mkdir(parents=True, exist_ok=True)
        (tmp_path / "sft" / "attempts" / "attempt-0" / "step-000100").mkdir(parents=True)
        finish()
        assert [path.name for path in (tmp_path / "sft").iterdir()] == ["adapter"]


def test_a_torn_progress_line_is_passed_over(settings: SftSettings, tmp_path: Path) -> None:
    folder = tmp_path / "sft" / "attempts" / "attempt-0" / "step-000002"
    (folder / "adapter").mkdir(parents=True)
    write_state(folder, SftState(2, 2, {}), settings)
    lines = [
        '{"first_step": 0, "num_steps": 2}',
        '{"step": 1, "num_steps": 2, "metrics": {"loss": 3.5}}',
        '{"step": 2, "num_ste',
        '{"first_step": 1, "num_steps": 2}',
        '{"step": 2, "num_steps": 2, "metrics": {"loss": 2.5}}',
        '{"step": 3',
    ]
    (folder.parent / "progress.jsonl").write_text("\n".join(lines))
    events: list[Event] = []

    run_sft(settings, run_dir=tmp_path, on_event=events.append)

    assert events == [
        PhaseStarted("sft", 2, 0),
        Step("sft", 1, 2, {"loss": 3.5}),
        Note("SFT goes on from step 1"),
        Step("sft", 2, 2, {"loss": 2.5}),
    ]


def test_workers_that_start_again_have_the_time_of_a_start(settings: SftSettings, tmp_path: Path) -> None:
    progress, told = tmp_path / PROGRESS_FILE, []
    watch = _Watch(progress, replace(settings, start_deadline_s=60, step_deadline_s=0.2), told.append)
    append_line(progress, '{"first_step": 0, "num_steps": 9}')
    append_line(progress, '{"step": 1, "num_steps": 9, "metrics": {}}')
    watch.tell()
    TellOfRestart(tmp_path / RESTARTS_FILE).after_exception(None, {1: WorkerDiedError("died")})
    watch.tell()
    time.sleep(0.3)  # they load the model
    watch.tell()
    append_line(progress, '{"first_step": 1, "num_steps": 9}')
    watch.tell()
    time.sleep(0.3)  # they hang
    with pytest.raises(DeadlineError, match=r"no SFT step was done for 0.2 s"):
        watch.tell()
    assert told[-2:] == [
        Note("an SFT worker failed: rank 1: WorkerDiedError: died", is_warning=True),
        Note("SFT goes on from step 1"),
    ]


def test_a_checkpoint_of_other_settings_is_not_gone_on_from(settings: SftSettings, tmp_path: Path) -> None:
    folder = tmp_path / "sft" / "attempts" / "attempt-0" / "step-000002"
    folder.mkdir(parents=True)
    write_state(folder, SftState(2, 6, {}), settings)

    with pytest.raises(CheckpointError, match="other values of learning_rate"):
        run_sft(replace(settings, learning_rate=1.0), run_dir=tmp_path, on_event=lambda _: None)
    assert folder.is_dir()


@with_ray
@pytest.mark.long
def test_a_job_tells_each_step_and_leaves_nothing_but_the_adapter(uninterrupted: tuple[Path, list[Event]]) -> None:
    run_dir, events = uninterrupted

    assert events[:2] == [COMING_UP, PhaseStarted("sft", NUM_STEPS, 0)]
    assert [event.step for event in events[2:] if isinstance(event, Step)] == list(range(1, NUM_STEPS + 1))
    assert len(events) == NUM_STEPS + 2
    assert {"loss", "learning_rate", "grad_norm", "tokens_per_s", "seconds"} <= set(events[2].metrics)
    assert sorted(str(path.relative_to(run_dir)) for path in run_dir.rglob("*")) == [
        "sft",
        "sft/adapter",
        "sft/adapter/adapter_config.json",
        "sft/adapter/adapter_model.safetensors",
    ]


@with_ray
@pytest.mark.long
@pytest.mark.parametrize("sign", [signal.SIGKILL, signal.SIGSTOP])
def test_a_job_whose_worker_dies_or_hangs_ends_with_the_same_weights(
    uninterrupted: tuple[Path, list[Event]],
    long_settings: SftSettings,
    tmp_path: Path,
    sign: signal.Signals,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("RAY_TRAIN_WORKER_HEALTH_CHECK_TIMEOUT_S", "5")
    events: list[Event] = []

    def kill_on_the_way(event: Event) -> None:
        events.append(event)
        if isinstance(event, Step) and event.step == 6:
            kill_ranks(sign)

    run_sft(long_settings, run_dir=tmp_path, on_event=kill_on_the_way)

    assert [event.step for event in events if isinstance(event, Step)] == list(range(1, NUM_STEPS + 1))
    coming_up, failed, goes_on = [event for event in events if isinstance(event, Note)]
    assert coming_up == COMING_UP
    assert failed.text.startswith("an SFT worker failed: rank ")
    assert WHY[sign] in failed.text
    assert goes_on.text.startswith("SFT goes on from step ")
    assert adapter_bytes(tmp_path) == adapter_bytes(uninterrupted[0])


@with_ray
@pytest.mark.long
def test_a_job_whose_workers_keep_dying_gives_up(cluster: None, long_settings: SftSettings, tmp_path: Path) -> None:
    def kill(event: Event) -> None:
        if isinstance(event, Step | PhaseStarted | Note):
            kill_ranks()

    with pytest.raises(WorkerDiedError, match="the job failed"):
        run_sft(replace(long_settings, max_failures=1), run_dir=tmp_path, on_event=kill)


@with_ray
@pytest.mark.long
def test_what_a_worker_refuses_ends_the_job_at_once(
    cluster: None, settings: SftSettings, corrupt_dataset_path: Path, tmp_path: Path
) -> None:
    settings = replace(settings, dataset_path=str(corrupt_dataset_path), batch_size=8)
    events: list[Event] = []

    with pytest.raises(DataError, match="row 2 \\(sample 'sample-2'\\)"):
        run_sft(settings, run_dir=tmp_path, on_event=events.append)

    assert events == [COMING_UP, PhaseStarted("sft", 1, 0)]
    assert not (tmp_path / "sft" / "adapter").exists()


@with_ray
@pytest.mark.long
def test_two_ranks_under_zero_3_learn_what_one_rank_learns(
    cluster: None, settings: SftSettings, tmp_path: Path
) -> None:
    """In each step the tokens of one rank want two passes, those of the other one."""
    settings = replace(settings, lora_dropout=0.0, max_steps=3)
    settings = replace(settings, validation_path=settings.dataset_path, validation_rows=(3, 1, 4, 0, 5))
    settings = replace(settings, validate_every_steps=1)
    addresses: set[str] = set()
    losses: list[float] = []

    def look_around(event: Event) -> None:
        if isinstance(event, Step):
            losses.append(event.metrics["validation/loss"])
            addresses.update(listening_addresses())

    run_sft(settings, run_dir=tmp_path / "one", on_event=look_around)
    addresses.clear()
    run_sft(replace(settings, num_workers=2, zero_stage=3), run_dir=tmp_path / "two", on_event=look_around)

    assert addresses
    assert addresses <= {"127.0.0.1", "::1", "::ffff:127.0.0.1"}
    one, two = (load_file(tmp_path / name / "sft" / "adapter" / "adapter_model.safetensors") for name in ("one", "two"))
    assert one.keys() == two.keys()
    for name in one:
        torch.testing.assert_close(two[name], one[name], rtol=1e-3, atol=2e-4)
    assert losses[3:] == pytest.approx(losses[:3], rel=1e-3)  # of five samples, three and two of which go to a rank


@with_ray
@pytest.mark.long
def test_a_job_whose_driver_is_killed_goes_on_and_ends_with_the_same_weights(
    uninterrupted: tuple[Path, list[Event]], long_settings: SftSettings, tmp_path: Path
) -> None:
    command = [sys.executable, str(DRIVER), str(tmp_path), json.dumps(asdict(long_settings))]
    environment = os.environ | {"PYTHONPATH": str(Path(__file__).parents[3])}
    driver = subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True)
    assert driver.stdout is not None
    for line in driver.stdout:
        if line == "step 6\n":
            break
    family = psutil.Process(driver.pid).children(recursive=True)
    ranks = [process for process in family if is_rank(process)]
    driver.kill()
    driver.wait(timeout=30)
    _, alive = psutil.wait_procs(ranks, timeout=60)
    assert len(ranks) == 1
    assert alive == []
    for process in family:  # Ray's agents look for their parent only now and then
        with suppress(psutil.NoSuchProcess):
            process.kill()

    start_s = time.monotonic()
    second = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=400, check=True)

    told = second.stdout.splitlines()
    # First what the first driver did not live to tell, or not for sure, then what is new.
    assert [line for line in told if line.startswith("step")] == [f"step {step}" for step in range(1, NUM_STEPS + 1)]
    first_step = int([line for line in told if line.startswith("started")][-1].removeprefix("started "))
    assert first_step in range(4, NUM_STEPS, 4)
    assert told.index(f"started {first_step}") == told.index(f"step {first_step + 1}") - 1
    assert adapter_bytes(tmp_path) == adapter_bytes(uninterrupted[0])
    print(f"went on in {time.monotonic() - start_s:.1f} s")
