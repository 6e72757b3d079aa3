"""Machines that are namespaces of this one: each with an address, processes, shared memory and a Ray folder of its own.

switch (bridge, 10.77.0.254) ─┬─ eth0 head       10.77.0.1
                              ├─ eth0 learner-1  10.77.0.2
                              └─ eth0 ...                    everything ends with the machines, nothing of the host
                                                             is changed
"""

import os
import subprocess
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import psutil

NETWORK = "10.77.0"
SWITCH = 254
START_DEADLINE_S = 120.0
STOP_DEADLINE_S = 30.0
BOOT = """
set -e
mount --bind "$1" "$2"
mount -t tmpfs -o size=1g tmpfs /dev/shm
hostname "$3"
ip link set lo up
until ip link set eth0 up 2>/dev/null; do sleep 0.05; done
ip address add "$4" dev eth0
echo up >"$1/booted"
while :; do sleep 86400 & wait $!; done
"""
"""What a machine's first process does; it also reaps orphans."""


SPACES = ("--net", "--mount", "--pid", "--uts", "--fork", "--kill-child", "--mount-proc")
UNSHARE = ("setpriv", "--pdeathsig=KILL", "unshare")
"""Namespaces that end with the thread that makes them: call it from the main one."""


def why_not() -> str:
    """Why machines cannot be made here; empty where they can."""
    command = [*UNSHARE, *SPACES, "ip", "link", "add"]
    try:
        done = subprocess.run([*command, "br0", "type", "bridge"], capture_output=True, text=True, check=False)
    except OSError as error:
        return str(error)
    return done.stderr.strip() if done.returncode else ""


def await_that(is_so: Callable[[], object], deadline_s: float, what: str) -> float:
    """Waits until something is so; returns the seconds it took."""
    start_s = time.monotonic()
    while not is_so():
        assert time.monotonic() - start_s < deadline_s, f"not within {deadline_s:g} s: {what}"
        time.sleep(0.1)
    return time.monotonic() - start_s


def _space(pid: int, kind: str) -> Path:
    """The namespace of a process: "net" or "pid"."""
    return Path(f"/proc/{pid}/ns/{kind}").readlink()


@dataclass
class Machine:
    """A machine.

    Attributes:
        name: Its host name.
        number: Last part of its address.
        folder: What it alone sees as Ray's folder; here for whoever looks at its logs.
        init: Its first process.
    """

    name: str
    number: int
    folder: Path
    init: psutil.Process

    @property
    def address(self) -> str:
        return f"{NETWORK}.{self.number}"

    def processes(self) -> list[psutil.Process]:
        """Everything that runs on it, but for its first process and that one's sleep."""
        if not self.init.is_running():
            return []
        space, found = _space(self.init.pid, "pid"), []
        for process in psutil.process_iter():
            try:
                is_here = _space(process.pid, "pid") == space and process.pid != self.init.pid
                if is_here and process.name() != "sleep" and process.status() != psutil.STATUS_ZOMBIE:
                    found.append(process)
            except (OSError, psutil.Error):
                continue
        return found

    def end(self) -> None:
        """Ends everything on it at once, as a power cut does; the kernel takes its network away with it."""
        processes = [self.init, *self.processes()]
        self.init.kill()
        psutil.wait_procs(processes, timeout=STOP_DEADLINE_S)


@dataclass
class Machines:
    """Machines on one network.

    Attributes:
        folder: Where each keeps what is its own.
        ray_folder: Where each sees its own Ray's folder.
        environment: Of whatever runs on them.
    """

    folder: Path
    ray_folder: Path
    environment: dict[str, str]
    members: dict[str, Machine] = field(default_factory=dict)
    num_booted: int = 0
    _processes: list[subprocess.Popen[bytes]] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.ray_folder.mkdir(parents=True)
        self._switch = self._unshare(["sleep", "infinity"], "--net")
        for words in (
            "link set lo up",
            "link add br0 type bridge",
            f"address add {NETWORK}.{SWITCH}/24 dev br0",
            "link set br0 up",
        ):
            self._ip(words)

    def boot(self, name: str) -> Machine:
        """Starts a machine with nothing on it."""
        self.num_booted += 1
        own = self.folder / f"{name}.{self.num_booted}"
        own.mkdir()
        arguments = [str(own), str(self.ray_folder), name, f"{NETWORK}.{self.num_booted}/24"]
        outer = self._unshare(["bash", "-c", BOOT, "boot", *arguments], *SPACES)
        self._ip(f"link add port{self.num_booted} type veth peer name eth0 netns {outer.pid}")
        self._ip(f"link set port{self.num_booted} master br0 up")
        await_that((own / "booted").exists, START_DEADLINE_S, f"{name} to boot")
        (init,) = outer.children()
        self.members[name] = machine = Machine(name, self.num_booted, own, init)
        return machine

    def run(self, machine: Machine, command: Sequence[str | Path], log: Path) -> subprocess.Popen[bytes]:
        """Starts a command on a machine."""
        enter = ["nsenter", f"--target={machine.init.pid}", "--net", "--mount", "--pid", "--uts"]
        return self._popen([*enter, *command], log)

    def beside(self, command: Sequence[str | Path], log: Path) -> subprocess.Popen[bytes]:
        """Starts a command on the network, but on no machine of it: that of a user."""
        return self._popen(["nsenter", f"--target={self._switch.pid}", "--net", *command], log)

    def unplug(self, machine: Machine) -> None:
        """Pulls the cable: nobody is told, packets go nowhere."""
        self._ip(f"link set port{machine.number} down")

    def plug_in(self, machine: Machine) -> None:
        self._ip(f"link set port{machine.number} up")

    def remove(self, machine: Machine) -> None:
        """Ends a machine for good."""
        machine.end()
        del self.members[machine.name]

    def close(self) -> None:
        """Ends everything."""
        for machine in list(self.members.values()):
            self.remove(machine)
        for process in reversed(self._processes):
            process.kill()
            process.wait(STOP_DEADLINE_S)

    def _popen(self, command: Sequence[str | Path], log: Path) -> subprocess.Popen[bytes]:
        with log.open("ab") as output:
            process = subprocess.Popen(command, cwd=self.folder, env=self.environment, stdout=output, stderr=output)
        self._processes.append(process)
        return process

    def _unshare(self, command: Sequence[str], *spaces: str) -> psutil.Process:
        process = self._popen([*UNSHARE, *spaces, *command], self.folder / "unshare.log")
        ours = _space(os.getpid(), "net")
        await_that(lambda: _space(process.pid, "net") != ours, STOP_DEADLINE_S, "a network namespace")
        return psutil.Process(process.pid)

    def _ip(self, words: str) -> None:
        command = ["nsenter", f"--target={self._switch.pid}", "--net", "ip", *words.split()]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        assert done.returncode == 0, f"{words}: {done.stderr}"
