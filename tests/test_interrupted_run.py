"""The whole way for real, on the smallest scale: a run that loses a worker in SFT, its learner in alpha, its engine and
then its driver in beta ends as a quiet one does, and leaves nothing behind.
"""

import json
import os
import re
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import psutil
import pytest

pytestmark = [pytest.mark.ray, pytest.mark.vllm, pytest.mark.slow, pytest.mark.timeout(2400)]

DEADLINE_S = 800
SCHEDULE = """
stages:
  - name: alpha
    rewards: {w_iou: 1.0, label: {right: 1.0, wrong: -1.0}, format: {right: 2.0, wrong: -1.0}}
  - name: beta
    rewards: {w_iou: 1.5, label: {right: 2.0, wrong: -2.0}, format: {right: 1.0, wrong: -1.5}}
"""
SETTINGS = (
    "data.synth.num_train=64",
    "data.synth.num_validation=8",
    "data.synth.num_test=16",
    "sft.max_steps=6",
    "sft.batch_size=8",
    "sft.checkpoint_every_steps=2",
    "sft.augment_share=0.5",
    "grpo.steps_per_stage=3",
    "grpo.prompts_per_step=4",
    "grpo.group_size=4",
    "grpo.max_new_tokens=32",
    "grpo.augment_share=0.5",
    "evaluate.max_new_tokens=32",
    "evaluate.num_bootstrap=50",
    "evaluate.validate_every_steps=3",
    "evaluate.validation_samples=4",
    "checkpoint.every_steps=2",
    "ray.object_store_mib=128",
    "reward.functions=[{path: 'reward_functions:length', weight: 0.1}]",  # answers so short are all equally bad
)
WHOLE = ("model.lora=null", "sft.learning_rate=1e-4", "grpo.learning_rate=1e-4")
"""All weights in place of an adapter."""


LEFT_FOLDERS: list[Path] = []
"""Ray's folders of the drivers that were killed."""
RAY_AGENTS: list[psutil.Process] = []
"""Two processes of Ray's own per killed driver, which try for a minute to tell it of the end (a constant in Ray)."""


def start(run_dir: Path, schedule: Path) -> subprocess.Popen[bytes]:
    command = [sys.executable, "-m", "fxray", "train", "--config", "smoke", "--run-dir", str(run_dir)]
    whole = WHOLE if run_dir.parent.name.startswith("whole") else ()
    for setting in [*SETTINGS, *whole, f"grpo.schedule={schedule}"]:
        command += ["--set", setting]
    paths = [str(Path(__file__).parent / "actors"), *filter(None, [os.environ.get("PYTHONPATH")])]
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(paths)}
    stderr = (run_dir.parent / "stderr").open("ab")
    return subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=stderr, env=environment)


def finish(run_dir: Path, schedule: Path) -> None:
    assert start(run_dir, schedule).wait(DEADLINE_S) == 0, (run_dir.parent / "stderr").read_text()[-3000:]


Event = tuple[Callable[[], bool], Callable[[subprocess.Popen[bytes]], None]]


def disturb(run_dir: Path, schedule: Path, *events: Event) -> None:
    """Starts the run, and at points in its way does something to it; the last one ends it."""
    driver = start(run_dir, schedule)
    deadline_s = time.monotonic() + DEADLINE_S
    for is_time, act in events:
        while not is_time():
            assert driver.poll() is None, (run_dir.parent / "stderr").read_text()[-3000:]
            assert time.monotonic() < deadline_s, "the run did not come to the point where it should be disturbed"
            time.sleep(0.05)
        act(driver)


def folder_of(driver: subprocess.Popen[bytes]) -> Path:
    """The folder of Ray's files that a driver has locked."""
    for file in Path("/tmp").glob("fxray-*/owner"):
        with suppress(FileNotFoundError):  # another test's run has just ended
            if f"pid {driver.pid} " in file.read_text():
                return file.parent
    raise AssertionError(f"no folder of driver {driver.pid}")


def kill_driver(driver: subprocess.Popen[bytes]) -> None:
    """Sends kill -9 to the driver; nothing that it started may outlive it for long, but for two agents of Ray's."""
    family = psutil.Process(driver.pid).children(recursive=True)
    agents = [process for process in family if process.name() in ("ray::DashboardAgent", "ray::RuntimeEnvAgent")]
    assert len(family) > len(agents) == 2
    LEFT_FOLDERS.append(folder_of(driver))  # while it lives: any run beside this one clears away what a dead one left
    driver.kill()
    driver.wait(30)
    _, alive = psutil.wait_procs([process for process in family if process not in agents], timeout=30)
    assert not alive
    RAY_AGENTS.extend(agents)


def killer_of(title: str) -> Callable[[subprocess.Popen[bytes]], None]:
    """Sends kill -9 to a process of a role."""

    def kill(driver: subprocess.Popen[bytes]) -> None:
        family = psutil.Process(driver.pid).children(recursive=True)
        next(process for process in family if process.cmdline()[:1] and title in process.cmdline()[0]).kill()

    return kill


def steps(run_dir: Path) -> dict[tuple[str, int], list[float]]:
    """Reward or loss, and what held-out images say, by phase and step; a step that is recorded twice fails."""
    lines = [json.loads(line) for line in (run_dir / "metrics.jsonl").read_text().splitlines()]
    keys = [(line["phase"], line["step"]) for line in lines]
    assert len(keys) == len(set(keys)), "a step is recorded twice"
    return {key: _numbers(line["metrics"]) for key, line in zip(keys, lines, strict=True)}


def _numbers(metrics: dict[str, float]) -> list[float]:
    held_out = [name for name in metrics if name.startswith("validation/") and name != "validation/seconds"]
    return [metrics.get("reward", metrics["loss"]), *(metrics[name] for name in sorted(held_out))]


def has_reached(run_dir: Path, phase: str, step: int) -> Callable[[], bool]:
    log = run_dir / "metrics.jsonl"
    return lambda: log.exists() and f'"phase": "{phase}", "step": {step}' in log.read_text()


@pytest.fixture(scope="module", params=["adapter", pytest.param("whole", marks=pytest.mark.long)])
def runs(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A quiet run, and one that lost a worker in SFT, its learner in alpha, its engine and then its driver in beta."""
    root = tmp_path_factory.mktemp(request.param)
    schedule = root / "schedule.yaml"
    schedule.write_text(SCHEDULE)
    quiet, killed = root / "quiet", root / "killed"
    finish(quiet, schedule)
    disturb(
        killed,
        schedule,
        (has_reached(killed, "sft", 3), killer_of("RayTrainWorker")),
        (has_reached(killed, "alpha", 1), killer_of("RankActor")),
        (has_reached(killed, "beta", 1), killer_of("RolloutWorker")),
        (has_reached(killed, "beta", 2), kill_driver),
    )
    finish(killed, schedule)
    return quiet, killed


def weights(folder: Path) -> bytes:
    (file,) = folder.glob("*model.safetensors")
    return file.read_bytes()


@pytest.mark.parametrize("adapter", ["sft/adapter", "grpo/alpha/final/adapter", "grpo/beta/final/adapter"])
def test_the_weights_are_the_same_to_the_last_bit(runs: tuple[Path, Path], adapter: str) -> None:
    quiet, killed = (weights(run / adapter) for run in runs)
    assert quiet == killed
    assert adapter == "sft/adapter" or quiet != weights(runs[0] / "sft/adapter")


def test_no_step_is_skipped_or_repeated_and_each_draws_the_same(runs: tuple[Path, Path]) -> None:
    quiet, killed = map(steps, runs)
    assert [key for key in quiet if key[0] != "sft"] == [(s, i) for s in ("alpha", "beta") for i in (1, 2, 3)]
    assert killed == quiet
    assert [key for key, numbers in quiet.items() if len(numbers) > 1] == [
        *(("sft", step) for step in (3, 6)),
        *((stage, 3) for stage in ("alpha", "beta")),
    ]


def test_what_a_killed_driver_left_is_gone(runs: tuple[Path, Path]) -> None:
    assert LEFT_FOLDERS
    assert not any(folder.exists() for folder in LEFT_FOLDERS)


@pytest.mark.long
def test_rays_agents_of_a_killed_driver_end(runs: tuple[Path, Path]) -> None:
    assert RAY_AGENTS
    _, alive = psutil.wait_procs(RAY_AGENTS, timeout=90)
    assert not alive


def test_the_learner_was_started_again_once(runs: tuple[Path, Path]) -> None:
    lines = map(json.loads, (runs[1] / "metrics.jsonl").read_text().splitlines())
    assert {line["metrics"]["num_learner_restarts"] for line in lines if line["phase"] == "alpha"} == {1.0}


def test_each_number_of_a_step_is_explained(runs: tuple[Path, Path]) -> None:
    explained = set(re.findall(r"`([\w/…]+)`", Path("docs/observability.md").read_text("utf-8")))
    lines = map(json.loads, (runs[1] / "metrics.jsonl").read_text().splitlines())
    recorded = {name.removeprefix("validation/") for line in lines for name in line["metrics"]}
    own_rewards = {name for name in recorded if name.startswith("reward/") and ":" in name}
    assert own_rewards == {"reward/reward_functions:length"}
    assert recorded - own_rewards | {"reward/…"} <= explained


def test_both_reports_tell_the_same_numbers(runs: tuple[Path, Path]) -> None:
    quiet, killed = (json.loads((run / "metrics.json").read_text())["evaluations"] for run in runs)
    for evaluation in [*quiet.values(), *killed.values()]:
        del evaluation["seconds_per_image"]
    assert quiet == killed
    assert (runs[1] / "report.html").stat().st_size > 10_000


def test_the_run_says_that_its_data_is_synthetic(runs: tuple[Path, Path]) -> None:
    assert "synthetic" in (runs[0] / "report.html").read_text().lower()
