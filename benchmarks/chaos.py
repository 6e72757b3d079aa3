"""Kills and stops the processes of a whole run at random, and compares what comes out with a quiet run.

    python benchmarks/chaos.py [--kills 200] [--gap-s 4] [--seed 0] [--victims rollout learner ...] [--folder DIR]

Two runs from the same configuration: one is left alone; the other is attacked again and again, each time after it has
made a step since the last attack. A victim dies (SIGKILL); a rollout worker or the learner may hang as well (SIGSTOP).
Others only die: a reward worker that hangs costs the scores of a group by design, an image store has minutes. A driver
that is gone is started again with the same command, as a user would. At the end: the same adapter to the last bit, no
step skipped or recorded twice, no process of the run left. The exit code says whether it held.

`--folder` keeps both runs, and goes on with a quiet run that is there already.
"""

import argparse
import hashlib
import json
import os
import random
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path

import psutil

TITLES = {
    "rollout": "ray::RolloutWorker",
    "reward": "ray::RewardWorker",
    "learner": "ray::RankActor",
    "images": "ray::ImageStore",
    "sft": "ray::RayTrainWorker",
}
"""What Ray calls the process of each role."""
VICTIMS = (*TITLES, "driver")
HANGING = ("rollout", "learner")
SIGNALS = {"SIGKILL": signal.SIGKILL, "SIGSTOP": signal.SIGSTOP}
STAGES = ("alpha", "beta", "gamma")
DEADLINE_S = 240.0
"""For a run to make its next step after an attack."""
SETTINGS = (
    "data.synth.num_train=256",
    "data.synth.num_validation=8",
    "data.synth.num_test=16",
    "sft.max_steps=10",
    "sft.batch_size=8",
    "sft.checkpoint_every_steps=2",
    "sft.max_failures=1000",
    "grpo.prompts_per_step=4",
    "grpo.max_new_tokens=32",
    "evaluate.max_new_tokens=32",
    "evaluate.num_bootstrap=50",
    "rollout.num_workers=2",
    "rollout.threads=1",
    "learner.threads=1",
    "checkpoint.every_steps=5",
    "ray.object_store_mib=128",
    "failures.max_restarts=100000",
    "rollout.hang_deadline_s=10",
    "learner.hang_deadline_s=10",
)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=200, help="attacks after which the run is left alone")
    parser.add_argument("--gap-s", type=float, default=4.0, help="mean seconds from a step to the next attack")
    parser.add_argument("--steps", type=int, default=60, help="GRPO steps of each of the three stages")
    parser.add_argument("--seed", type=int, default=0, help="of the attacks")
    parser.add_argument("--victims", nargs="+", choices=VICTIMS, default=list(VICTIMS))
    parser.add_argument("--signals", nargs="+", choices=list(SIGNALS), default=list(SIGNALS))
    parser.add_argument(
        "--set", action="append", default=[], metavar="A.B=C", help="of the configuration, for both runs"
    )
    parser.add_argument("--folder", type=Path, help="where both runs are kept; a temporary folder by default")
    args = parser.parse_args()
    settings = [*SETTINGS, f"grpo.steps_per_stage={args.steps}", *args.set]
    with tempfile.TemporaryDirectory(prefix="fxray-chaos-") as folder:
        root = args.folder or Path(folder)
        root.mkdir(parents=True, exist_ok=True)
        quiet, attacked = Run(root / "quiet", settings), Run(root / "attacked", settings)
        start_s = time.monotonic()
        quiet.start()
        quiet.wait()
        quiet_s = time.monotonic() - start_s
        attacks = list(attack(attacked, args))
        print_attacks(attacks)
        attacked_s = attacks[-1].at_s if attacks else 0.0
        print(f"\nquiet run {quiet_s:.0f} s, attacked run {attacked_s:.0f} s, {attacked.num_starts} starts")
        sys.exit(compare(quiet, attacked))


class Run:
    """A training in a process of its own.

    Args:
        folder: Its run directory.
        settings: Overrides of the smoke configuration.
    """

    def __init__(self, folder: Path, settings: list[str]) -> None:
        self.folder, self._settings = folder, settings
        self._log = folder.with_suffix(".log")
        self.num_starts = 0
        self.seen: dict[int, float] = {}
        """Every process that ever belonged to the run, by id, with the time at which it was created."""

    def start(self) -> None:
        command = [sys.executable, "-m", "fxray", "train", "--config", "smoke", "--run-dir", str(self.folder)]
        for setting in self._settings:
            command += ["--set", setting]
        self.driver = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=self._log.open("ab"))
        self.num_starts += 1

    def wait(self) -> None:
        """Waits for the end.

        Raises:
            SystemExit: The run failed; the end of its output says why.
        """
        if self.driver.wait() != 0:
            raise SystemExit(f"{self.folder.name} run failed:\n{self._log.read_text()[-3000:]}")

    def processes(self) -> list[psutil.Process]:
        """The driver and everything below it."""
        try:
            driver = psutil.Process(self.driver.pid)
            family = [driver, *driver.children(recursive=True)]
        except psutil.NoSuchProcess:
            return []
        for process in family:
            try:
                self.seen[process.pid] = process.create_time()
            except psutil.NoSuchProcess:
                continue
        return family

    def find(self, role: str) -> list[psutil.Process]:
        """Living processes of a role."""
        if role == "driver":
            return [psutil.Process(self.driver.pid)] if self.driver.poll() is None else []
        found = []
        for process in self.processes():
            try:
                if process.cmdline()[:1] and process.cmdline()[0].startswith(TITLES[role]):
                    found.append(process)
            except psutil.Error:
                continue
        return found

    def records(self) -> list[tuple[str, int]]:
        """Phase and step of every line of the log."""
        file = self.folder / "metrics.jsonl"
        lines = file.read_text().splitlines() if file.exists() else []
        keys = []
        for line in lines:
            try:
                fields = json.loads(line)
            except ValueError:  # being written
                continue
            keys.append((fields["phase"], fields["step"]))
        return keys

    def leftovers(self) -> list[str]:
        """Processes of the run that are still there, whatever their parent is now."""
        alive = []
        for pid, created in self.seen.items():
            try:
                process = psutil.Process(pid)
                if process.create_time() == created and process.status() != psutil.STATUS_ZOMBIE:
                    alive.append(f"{pid} {' '.join(process.cmdline())[:60]}")
            except psutil.NoSuchProcess:
                continue
        return alive


class Attack:
    """What was done, and how long the run took to make another step."""

    def __init__(self, role: str, kind: str, phase: str, at_s: float, pid: int) -> None:
        self.role, self.kind, self.phase, self.at_s, self.pid = role, kind, phase, at_s, pid
        self.recovery_s = float("nan")

    def __str__(self) -> str:
        return f"{self.kind} of {self.role} in {self.phase}, the next step after {self.recovery_s:.1f} s"


def attack(run: Run, args: argparse.Namespace) -> Iterator[Attack]:
    """Runs to the end, with attacks on the way; yields each when the run goes on."""
    dice, began_s, pending, num_attacks = random.Random(args.seed), time.monotonic(), None, 0
    run.start()
    known, progress_s, next_s = run.records(), time.monotonic(), 0.0
    while True:
        time.sleep(0.02)
        now_s = time.monotonic()
        if run.driver.poll() is not None:
            if run.driver.returncode == 0:
                return
            if pending is None or pending.pid != run.driver.pid:
                raise SystemExit(f"the run gave up ({run.driver.returncode}):\n{run._log.read_text()[-3000:]}")
            run.start()
        records = run.records()
        if records != known and len(records) >= len(known):
            known, progress_s = records, now_s
            if pending is not None and pending.pid != run.driver.pid:  # a dying driver's last step is no recovery
                pending.recovery_s = now_s - began_s - pending.at_s
                print(f"{pending.at_s:6.0f} s  {pending}", flush=True)
                yield pending
                pending = None
            next_s = now_s + dice.expovariate(1 / args.gap_s)
        elif records != known:
            known = records  # rewound to a checkpoint
        if now_s - progress_s > DEADLINE_S:
            raise SystemExit(f"no step for {DEADLINE_S:.0f} s after {vars(pending) if pending else 'no attack'}")
        if pending is None and known and now_s >= next_s and num_attacks < args.kills:
            pending = strike(run, dice, args, known[-1][0], now_s - began_s)
            num_attacks += pending is not None
            progress_s = now_s


def strike(run: Run, dice: random.Random, args: argparse.Namespace, phase: str, at_s: float) -> Attack | None:
    """Picks a victim among those alive, and a signal."""
    roles = [role for role in args.victims if run.find(role)]
    if not roles:
        return None
    role = dice.choice(roles)
    kinds = [kind for kind in args.signals if kind != "SIGSTOP" or role in HANGING]
    victims = run.find(role)
    if not kinds or not victims:
        return None
    kind = dice.choice(kinds)
    pid = dice.choice(victims).pid
    try:
        os.kill(pid, SIGNALS[kind])
    except ProcessLookupError:
        return None
    return Attack(role, kind, phase, at_s, pid)


def print_attacks(attacks: list[Attack]) -> None:
    table: dict[tuple[str, str], list[float]] = defaultdict(list)
    for each in attacks:
        table[each.role, each.kind].append(each.recovery_s)
    print(f"{len(attacks)} attacks; seconds until the run has made another step\n")
    print(f"{'victim':10}{'signal':10}{'times':>6}{'median':>8}{'longest':>9}")
    for (role, kind), seconds in sorted(table.items()):
        print(f"{role:10}{kind:10}{len(seconds):6}{statistics.median(seconds):8.1f}{max(seconds):9.1f}")
    phases = {phase: sum(each.phase == phase for each in attacks) for phase in ("sft", *STAGES)}
    print("in " + ", ".join(f"{phase} {number}" for phase, number in phases.items()))


def compare(quiet: Run, attacked: Run) -> int:
    """Prints what held; returns the exit code."""
    verdicts = {
        "no step is missing or twice": sorted(quiet.records()) == sorted(attacked.records()),
        "no process is left": not wait_for_the_last(attacked),
    }
    for name in ("sft", *(f"grpo/{stage}/final" for stage in STAGES)):
        adapters = [run.folder / name / "adapter" / "adapter_model.safetensors" for run in (quiet, attacked)]
        digests = {hashlib.sha256(file.read_bytes()).hexdigest() for file in adapters}
        verdicts[f"{name}: the same adapter to the last bit"] = len(digests) == 1
    for what, holds in verdicts.items():
        print(f"{'yes' if holds else 'NO ':4}{what}")
    return int(not all(verdicts.values()))


def wait_for_the_last(run: Run) -> list[str]:
    """Gives what ends a moment after its driver the time to; returns what stays."""
    deadline_s = time.monotonic() + 30
    while (alive := run.leftovers()) and time.monotonic() < deadline_s:
        time.sleep(0.5)
    for line in alive:
        print(f"left: {line}")
    return alive


if __name__ == "__main__":
    main()
