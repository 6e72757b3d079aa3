"""A training on machines of its own: their Ray, the job, what it wrote."""

import hashlib
import json
import os
import shutil
import subprocess
import sys
import sysconfig
import tempfile
import time
import venv
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import psutil
from machines import Machine, Machines, await_that

FXRAY = ("env", f"PYTHONPATH={Path(__file__).parents[2]}", sys.executable, "-m", "fxray")
RAY_DEADLINE_S = 400.0
RAY_TRIES = 8
RAYS_AT_ONCE = 2
STEP_DEADLINE_S = 900.0
TRAINING_DEADLINE_S = 3600.0
STORE_BYTES = 160 * 2**20
STAGE = "only"
SCHEDULE = f"""
stages:
  - name: {STAGE}
    rewards: {{w_iou: 1.0, label: {{right: 1.0, wrong: -1.0}}, format: {{right: 2.0, wrong: -1.0}}}}
"""
REWARD = """
import time
from pathlib import Path

def vowels(answer_text, annotation, frame):
    while Path({hold!r}).exists():
        time.sleep(0.1)
    return float(sum(letter in "aeiou" for letter in answer_text))
"""
"""Differs between the answers of a group, so that every step moves the weights, whatever the model says; and takes as
long as the test wants, so that a stage of few steps is long enough, however fast the machine is."""
SINCE_THE_STAGE = ("grpo", STAGE, "metrics.*", "report.html", "status.json", "timeline.json", "tensorboard")
SETTINGS = (
    "reward.functions=[{path: 'of_vowels:vowels', weight: 0.1}]",
    *("reward.group_deadline_s=1800", "reward.start_deadline_s=900"),
    "data.synth={num_train: 64, num_validation: 4, num_test: 8, size_px: 224}",
    *("sft.max_steps=2", "sft.batch_size=4", "sft.num_workers=1"),
    *("grpo.group_size=4", "grpo.prompts_per_step=4", "grpo.max_new_tokens=32"),
    *("rollout.max_num_seqs=8", "rollout.threads=1", "learner.threads=1"),
    *("evaluate.max_new_tokens=16", "evaluate.num_bootstrap=10", "evaluate.gallery_size=1"),
    *("checkpoint.every_steps=4", "rollout.probe_every_steps=4", "failures.max_restarts=20"),
)
HEAD, LEARNER, REWARDS, ROLLOUTS = "head", "learner", "rewards", ("rollout-1", "rollout-2")
ENGINES = f"rollout.num_workers={len(ROLLOUTS)}"
OFFERS = {LEARNER: {"learner": 1}, REWARDS: {"reward": 1}} | {name: {"rollout": 1} for name in ROLLOUTS}


def environment() -> dict[str, str]:
    alone = ("RAY_ADDRESS", "PYTHONPATH", "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER")  # the last keeps a Ray on loopback
    kept = {name: value for name, value in os.environ.items() if name not in alone}
    kept |= {"RAY_DASHBOARD_STARTUP_TIMEOUT_S": "240", "RAY_prestart_worker_first_driver": "0"}
    return kept | {"RAY_USAGE_STATS_ENABLED": "0", "OMP_NUM_THREADS": "1", "RAY_worker_niceness": "0"}


def python_without_fxray(folder: Path) -> Path:
    """A virtual environment that sees the installed packages, but no checkout: fxray travels with the job."""
    venv.create(folder, with_pip=False)
    (site,) = folder.glob("lib/python*/site-packages")
    (site / "dependencies.pth").write_text(sysconfig.get_path("purelib") + "\n")
    return folder / "bin" / "python"


@dataclass(frozen=True)
class Run:
    """A run directory, and the command that trains in it."""

    folder: Path
    command: subprocess.Popen[bytes]
    log: Path

    def told(self) -> str:
        return self.log.read_text()

    def steps(self) -> list[dict[str, float]]:
        """The metrics of the stage's steps."""
        file = self.folder / "metrics.jsonl"
        lines = (
            [json.loads(each) for each in file.read_text().splitlines() if each[-1:] == "}"] if file.exists() else []
        )
        return [{"step": line["step"]} | line["metrics"] for line in lines if line["phase"] == STAGE]

    def await_step(self, step: int) -> None:
        def has_come() -> bool:
            assert self.command.poll() is None, self.told()[-3000:]
            return len(self.steps()) >= step

        await_that(has_come, STEP_DEADLINE_S, f"step {step} of {self.folder.name}")

    def await_end(self, exit_code: int = 0) -> None:
        assert self.command.wait(TRAINING_DEADLINE_S) == exit_code, self.told()[-3000:]

    def weights(self) -> dict[str, str]:
        """SHA-256 of the adapters that SFT and the stage ended with."""
        files = {
            name: self.folder / name / "adapter" / "adapter_model.safetensors"
            for name in ("sft", f"grpo/{STAGE}/final")
        }
        return {name: hashlib.sha256(file.read_bytes()).hexdigest() for name, file in files.items()}


class Cluster:
    """A Ray cluster on machines: a head without processors, nodes for driver and learner, for rewards, for rollouts."""

    def __init__(self) -> None:
        self.folder = Path(tempfile.mkdtemp(prefix="fxn-", dir="/tmp"))  # unix sockets below it allow 107 characters
        self.python = python_without_fxray(self.folder / "env")
        self._hold = self.folder / "hold"
        (self.folder / "schedule.yaml").write_text(SCHEDULE)
        (self.folder / "of_vowels.py").write_text(REWARD.format(hold=str(self._hold)))
        path = f"{self.python.parent}{os.pathsep}{os.environ['PATH']}"
        variables = environment() | {"PATH": path, "XDG_CACHE_HOME": str(self.folder / "cache")}
        self.machines = Machines(self.folder, self.folder / "ray", variables)
        self.runs = self.folder / "runs"
        self.runs.mkdir()

    def __getitem__(self, name: str) -> Machine:
        return self.machines.members[name]

    def close(self) -> None:
        """Ends the machines, and deletes what they wrote."""
        self.machines.close()
        shutil.rmtree(self.folder)

    def start(self) -> None:
        """Boots machines, in the place of those that there are, and starts Ray on them."""
        for machine in list(self.machines.members.values()):
            self.machines.remove(machine)
        head = self.machines.boot(HEAD)
        options = ["--head", "--port=6379", f"--dashboard-host={head.address}", "--dashboard-port=8265"]
        self._ray(head, [*options, "--num-cpus=0", f"--temp-dir={self.machines.ray_folder}"])
        booted = [self.machines.boot(name) for name in OFFERS]
        with ThreadPoolExecutor(RAYS_AT_ONCE) as pool:
            list(pool.map(self._join, booted))

    def replace(self, name: str) -> None:
        """A new machine in the place of another, as whoever keeps nodes running brings it."""
        self.machines.remove(self[name])
        self._join(self.machines.boot(name))

    def processes(self) -> list[psutil.Process]:
        return [process for machine in self.machines.members.values() for process in machine.processes()]

    def _join(self, machine: Machine) -> None:
        offers = f"--resources={json.dumps(OFFERS[machine.name])}"
        num_cpus = 2 if machine.name == LEARNER else 1
        self._ray(machine, [f"--address={self[HEAD].address}:6379", f"--num-cpus={num_cpus}", offers])

    def _ray(self, machine: Machine, options: Sequence[str]) -> None:
        command = [self.python, "-m", "ray.scripts.scripts", "start", f"--node-ip-address={machine.address}", *options]
        command += ["--no-monitor", "--include-log-monitor=False"]  # nothing here needs them
        log = machine.folder / "ray.log"
        for _ in range(RAY_TRIES):  # Ray's own patience with its parts is half a minute, which a busy machine outlasts
            ray = self.machines.run(machine, [*command, f"--object-store-memory={STORE_BYTES}"], log)
            if ray.wait(RAY_DEADLINE_S) == 0:
                return
            for process in machine.processes():
                process.kill()
        raise AssertionError(log.read_text()[-3000:])

    def hold(self) -> None:
        """Lets no step end from now on; what a run does otherwise, it goes on to do."""
        self._hold.touch()

    def release(self) -> None:
        self._hold.unlink(missing_ok=True)

    def take_a_step(self, run: Run) -> None:
        """Lets a run that is held take a step or two."""
        self.release()
        run.await_step(len(run.steps()) + 1)
        self.hold()

    def begin_like(self, run: Run, name: str) -> None:
        """A run that is where another one was when its stage began."""
        copy = shutil.copytree(run.folder, self.runs / name, ignore=shutil.ignore_patterns(*SINCE_THE_STAGE))
        config = Path(copy) / "config.yaml"
        config.write_text(config.read_text().replace(str(run.folder), str(copy)))

    def submit(self, name: str, *settings: str) -> Run:
        """Hands a training in from beside the cluster, with its driver on the learner's node, and follows it."""
        run_dir = self.runs / name
        command = [*FXRAY, "submit", "-c", "smoke", "-d", str(run_dir)]
        command += ["--address", f"http://{self[HEAD].address}:8265", "--driver-on", LEARNER]
        command += self._overrides("ray.use_node_types=true", ENGINES, *settings)
        log = self.folder / f"{name}.log"
        return Run(run_dir, self.machines.beside(command, log), log)

    def train_here(self, name: str, *settings: str) -> Run:
        """The same training on one machine, in a Ray of its own; returns when it is done.

        It has as many engines: a step is cut into as many leases, so that each answer is drawn beside the same others.
        """
        run_dir, log = self.runs / name, self.folder / f"{name}.log"
        command = [*FXRAY, "train", "-c", "smoke", "-d", str(run_dir)]
        command += self._overrides("ray.object_store_mib=128", ENGINES, *settings)
        with log.open("ab") as output:
            here = {"env": environment(), "cwd": self.folder, "stdout": output, "stderr": output}
            run = Run(run_dir, subprocess.Popen(command, **here), log)
        try:
            run.await_end()
        finally:
            run.command.terminate()
        return run

    def _overrides(self, *more: str) -> list[str]:
        values = (*SETTINGS, f"grpo.schedule={self.folder / 'schedule.yaml'}", *more)
        return [word for value in values for word in ("--set", value)]


def last_words(machine: Machine) -> str:
    """What the newest driver on a machine told, which a lost head keeps from whoever follows the job."""
    logs = machine.folder.glob("session_*/logs/job-driver-*.log")
    return max(logs, key=lambda file: file.stat().st_mtime).read_text()


def drivers(machine: Machine) -> list[psutil.Process]:
    found = []
    for process in machine.processes():
        with suppress(psutil.Error):
            found += [process] if process.cmdline()[1:4] == ["-m", "fxray", "train"] else []
    return found


def has_ray(machine: Machine) -> bool:
    return any(process.name() == "raylet" for process in machine.processes())


def seconds_since(start_s: float) -> float:
    return time.monotonic() - start_s
