"""The service under thousands of good and bad requests, a killed replica and a drained restart.

    python benchmarks/serve_mixed.py --run-dir runs/demo [--requests 3000] [--clients 8]

Three parts, each over HTTP and real engines:

mixed      Requests of sixteen kinds in random order. Each must get the status that its kind is owed (or a 503 or 429
           that says when to come back), answers must name the images that were sent, and the service must have counted
           as many answers as there were requests. Memory of gateway, replica and engine is looked at every two
           seconds: its mean over the last third of the part is held against the middle third's.
killed     SIGKILL for the replica while images are with it and others wait. Who was with it gets a 503 with
           Retry-After, who waited is answered late, and whoever asks again as told is answered.
restarted  SIGTERM while requests have begun, then a new start. What had begun is answered, nothing hangs.

The exit code says whether all of it held.
"""

import argparse
import os
import random
import signal
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import httpx
import psutil
from serve import make_images
from traffic import PORT, START_DEADLINE_S, URL, Ask, Got, faults_of, form, make_ask, send_all

STOP_DEADLINE_S = 240.0
SAMPLE_S = 2.0
TOLERANCE = 0.05
TITLES = {
    "gateway": "ray::ServeReplica:fxray:gateway",
    "replica": "ray::ServeReplica:fxray:detector",
    "engine": "VLLM::EngineCor",
}
"""What the processes call themselves."""


def members() -> dict[str, list[psutil.Process]]:
    """The processes of the service by role: those below this one."""
    found: dict[str, list[psutil.Process]] = defaultdict(list)
    for process in psutil.Process().children(recursive=True):
        try:
            title = " ".join(process.cmdline())
        except psutil.Error:
            continue
        for role, start in TITLES.items():
            if title.startswith(start):
                found[role].append(process)
    return found


@contextmanager
def watched_memory() -> Iterator[dict[str, list[tuple[float, float]]]]:
    """Second and MiB of each role, looked at until the block ends."""
    seen: dict[str, list[tuple[float, float]]] = defaultdict(list)
    done = threading.Event()

    def look() -> None:
        roles = members()
        while not done.wait(SAMPLE_S):
            for role, processes in roles.items():
                seen[role].append((time.monotonic(), sum(p.memory_info().rss for p in processes) / 2**20))

    looking = threading.Thread(target=look)
    looking.start()
    try:
        yield seen
    finally:
        done.set()
        looking.join()


def flatness(samples: Sequence[tuple[float, float]]) -> tuple[float, float]:
    """MiB of the middle third of the time, and of the last."""
    third = len(samples) // 3
    values = [mib for _, mib in samples]
    return statistics.mean(values[third : 2 * third]), statistics.mean(values[2 * third :])


def counted() -> float:
    """Requests that the service says it answered, but for those about its numbers."""
    lines = httpx.get(f"{URL}/metrics", timeout=60).text.splitlines()
    return sum(float(line.rsplit(" ", 1)[1]) for line in lines
               if line.startswith("fxray_requests_total") and 'route="/metrics"' not in line)  # fmt: skip


def gauge(name: str) -> int:
    lines = httpx.get(f"{URL}/metrics", timeout=60).text.splitlines()
    return int(next(float(line.split()[1]) for line in lines if line.startswith(f"{name} ")))


def start(arguments: argparse.Namespace, folder: str) -> subprocess.Popen[bytes]:
    """A service that is ready."""
    command = [
        sys.executable, "-m", "fxray", "serve", "--run-dir", str(arguments.run_dir), "--port", str(PORT),
        "--data-dir", folder, *(f"--set={change}" for change in arguments.set),
    ]  # fmt: skip
    process = subprocess.Popen(command, stderr=subprocess.DEVNULL, env=os.environ | {"RAY_worker_niceness": "0"})
    end_s = time.monotonic() + START_DEADLINE_S
    while process.poll() is None and time.monotonic() < end_s:
        try:
            if httpx.get(f"{URL}/readyz", timeout=30).status_code == 200:
                return process
        except httpx.HTTPError:
            pass
        time.sleep(0.5)
    raise SystemExit(f"the service did not come up within {START_DEADLINE_S:g} s")


def mixed(arguments: argparse.Namespace, images: Sequence[bytes]) -> list[str]:
    """The first part; returns what did not hold."""
    rng = random.Random(arguments.seed)
    asks = (make_ask(number, rng, images) for number in range(arguments.requests))
    warm = loaded(4 * arguments.clients, images, "warm")
    send_all(warm, arguments.clients, is_patient=False, on_answer=lambda _: None)
    before, start_s = counted(), time.monotonic()
    with watched_memory() as seen:
        gots = send_all(asks, arguments.clients, is_patient=False, on_answer=lambda _: None)
    seconds, num_counted = time.monotonic() - start_s, counted() - before
    faults = faults_of(gots)
    if len(gots) != arguments.requests:
        faults.append(f"{len(gots)} answers to {arguments.requests} requests")
    print(f"mixed: {len(gots)} requests in {seconds:.0f} s, counted by the service: {num_counted:.0f}", flush=True)
    for kind, number in sorted(Counter(got.ask.kind for got in gots).items()):
        codes = Counter(got.status for got in gots if got.ask.kind == kind)
        print(f"  {kind:24} {number:5}  " + ", ".join(f"{code}: {n}" for code, n in sorted(codes.items())))
    if num_counted != len(gots):
        faults.append(f"{num_counted:.0f} answers counted for {len(gots)} requests")
    for role in TITLES:
        middle, last = flatness(seen[role])
        tenth = max(1, len(seen[role]) // 10)
        print(f"  {role:8} MiB at each tenth: " + " ".join(f"{mib:.0f}" for _, mib in seen[role][::tenth]))
        print(f"  {role:8} {middle:7.1f} MiB in the middle third, {last:7.1f} in the last: {last / middle - 1:+.1%}")
        if abs(last / middle - 1) > TOLERANCE:
            faults.append(f"the memory of the {role} went from {middle:.0f} to {last:.0f} MiB")
    return faults


def loaded(number: int, images: Sequence[bytes], part: str) -> list[Ask]:
    """Good requests alone."""
    asks = []
    for index in range(number):
        body, headers = form((f"{part}-{index}.png", images[index % len(images)]))
        asks.append(Ask(part, "POST", "/v1/detect", body, headers, 200, (f"{part}-{index}.png",)))
    return asks


def once_at(number: int, act: Callable[[], None]) -> Callable[[int], None]:
    """Calls `act` in a thread of its own when so many are answered."""
    return lambda answered: threading.Thread(target=act).start() if answered == number else None


def killed(arguments: argparse.Namespace, images: Sequence[bytes]) -> list[str]:
    """The second part."""
    at_kill: list[int] = []

    def kill() -> None:
        at_kill.append(gauge("fxray_images_in_flight"))
        at_kill.append(gauge("fxray_images_waiting"))
        for process in members()["replica"]:
            process.kill()

    asks = loaded(arguments.load, images, "killed")
    gots = send_all(asks, arguments.load_clients, is_patient=True, on_answer=once_at(arguments.load // 4, kill))
    faults = _told("killed", gots, at_kill)
    num_gone = sum("is gone" in reason for got in gots for _, reason in got.tries)
    if num_gone > at_kill[0]:
        faults.append(f"killed: {num_gone} images were lost, {at_kill[0]} were with the replica")
    return faults


def restarted(arguments: argparse.Namespace, images: Sequence[bytes], process: subprocess.Popen[bytes],
              folder: str) -> tuple[list[str], subprocess.Popen[bytes]]:  # fmt: skip
    """The third part; returns the new service too."""
    at_stop: list[int] = []
    services = [process]

    def restart() -> None:
        at_stop.append(gauge("fxray_images_in_flight"))
        at_stop.append(gauge("fxray_images_waiting"))
        process.send_signal(signal.SIGTERM)
        process.wait(STOP_DEADLINE_S)
        services.append(start(arguments, folder))

    asks = loaded(arguments.load, images, "restarted")
    gots = send_all(asks, arguments.load_clients, is_patient=True, on_answer=once_at(arguments.load // 4, restart))
    faults = _told("restarted", gots, at_stop)
    if process.returncode != 0:
        faults.append(f"the service that was told to stop ended with {process.returncode}")
    return faults, services[-1]


def _told(part: str, gots: Sequence[Got], at_event: Sequence[int]) -> list[str]:
    tries = Counter(tried for got in gots for tried in got.tries)
    print(f"{part}: {at_event[0]} images were with the engine, {at_event[1]} waited; {len(gots)} requests")
    for (status, reason), number in tries.most_common():
        print(f"  {number:5} times to be sent again: {status if status > 0 else ''} {reason}")
    print(f"  all answered in the end: {all(got.status == 200 for got in gots)}", flush=True)
    faults = faults_of(gots)
    if num_lost := sum(number for (status, _), number in tries.items() if status == 0):
        faults.append(f"{part}: {num_lost} requests got no answer, expected one each")
    return faults


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--run-dir", type=Path, required=True)
    parser.add_argument("--requests", type=int, default=3000)
    parser.add_argument("--clients", type=int, default=8)
    parser.add_argument("--load", type=int, default=160, help="requests of each of the other two parts")
    parser.add_argument("--load-clients", type=int, default=24)
    parser.add_argument("--parts", nargs="+", default=["mixed", "killed", "restarted"])
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--set", action="append", default=["rollout.max_num_seqs=8"], help="override a field")
    arguments = parser.parse_args()
    images = make_images(32)
    faults: list[str] = []
    with tempfile.TemporaryDirectory() as folder:
        process = start(arguments, folder)
        try:
            if "mixed" in arguments.parts:
                faults += mixed(arguments, images)
            if "killed" in arguments.parts:
                faults += killed(arguments, images)
            if "restarted" in arguments.parts:
                found, process = restarted(arguments, images, process, folder)
                faults += found
        finally:
            process.send_signal(signal.SIGTERM)
            process.wait(STOP_DEADLINE_S)
    print("\n".join(faults[:20]) or "all of it held")
    sys.exit(bool(faults))


if __name__ == "__main__":
    main()
