"""A local Ray of a run, in a process of its own because Ray reads its settings once."""

import json
import os
import shutil
import socket
import subprocess
import sys
from types import SimpleNamespace

import pytest
import ray

from fxray.config.tree import RayConfig
from fxray.errors import ResourceError
from fxray.launch.cluster import _init, _quieten, check_machine, ray_cluster
from fxray.launch.leftovers import PARENT

LISTENERS = """
import json, os, psutil, subprocess, sys
from fxray.config.tree import RayConfig
from fxray.launch.cluster import check_machine, ray_cluster

STRANGER = "import sys; from fxray.launch.head import await_head; await_head(sys.argv[1])"
with ray_cluster(RayConfig(object_store_mib=128), min_cpus=2):
    import ray

    class Worker:
        def pid(self):
            return os.getpid()

    ray.get(ray.remote(Worker).remote().pid.remote(), timeout=120)
    processes = [psutil.Process(), *psutil.Process().children(recursive=True)]
    sockets = [socket for process in processes for socket in process.net_connections("tcp")]
    listening = [socket.laddr.ip for socket in sockets if socket.status == psutil.CONN_LISTEN]
    token = os.environ["RAY_AUTH_TOKEN"]
    is_shown = any(token in word for process in processes for word in process.cmdline())
    stranger = {name: value for name, value in os.environ.items() if not name.startswith("RAY_AUTH")}
    command = [sys.executable, "-c", STRANGER, ray.get_runtime_context().gcs_address]
    refused = subprocess.run(command, env=stranger, capture_output=True, text=True).stderr
after = [name for name in os.environ if name.startswith("RAY_AUTH")]
print(json.dumps([listening, is_shown, refused, after]))
"""

LEAVES = """
import os, signal, sys, threading, time
from fxray.config.tree import RayConfig
from fxray.launch.cluster import ray_cluster

signal.signal(signal.SIGTERM, lambda number, frame: sys.exit(7))
with ray_cluster(RayConfig(object_store_mib=128), min_cpus=1):
    import ray

    try:
        if {in_ray}:
            threading.Timer(1, os.killpg, (0, signal.SIGTERM)).start()
            ray.wait([ray.remote(lambda: time.sleep(60)).remote()], timeout=60)
        else:
            os.killpg(0, signal.SIGTERM)
        time.sleep(60)
    finally:
        time.sleep(4)
        print(ray.get(ray.remote(num_cpus=0)(lambda: "all is written").remote(), timeout=30))
"""


DEATH = """
import os, time
from fxray.cli import app
from fxray.config.tree import RayConfig
from fxray.launch.cluster import ray_cluster

def command():
    with ray_cluster(RayConfig(object_store_mib=128), min_cpus=1):
        import ray

        class Worker:
            def die(self):
                os._exit(1)

        ray.wait([ray.remote(Worker).remote().die.remote()], timeout=120)
        time.sleep(5)
        print("{}")

app.app = command
app.main()
"""


def test_too_little_shared_memory_is_said_with_its_own_remedy(monkeypatch):
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    monkeypatch.setenv("RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER", "0")
    with (
        pytest.raises(ResourceError, match=r"^/dev/shm: \d+ MiB of shared memory are free.*\n.*ray.object_store_mib"),
        ray_cluster(RayConfig(object_store_mib=2**30), min_cpus=1),
    ):
        pytest.fail("Ray was started")


def test_too_little_room_for_rays_own_files_is_said_before_it_starts(monkeypatch):
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    monkeypatch.setenv("RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER", "0")
    monkeypatch.setattr(shutil, "disk_usage", lambda path: SimpleNamespace(free=2**20 if path == PARENT else 2**40))
    with (
        pytest.raises(ResourceError, match=r"^/tmp: 1 MiB are free, Ray's own files need .*\n.*same command again"),
        ray_cluster(RayConfig(), min_cpus=1),
    ):
        pytest.fail("Ray was started")


@pytest.mark.usefixtures("pinned")
def test_a_local_ray_counts_the_processors_that_the_driver_may_use(monkeypatch, tmp_path):
    taken = []
    monkeypatch.setattr(ray, "init", lambda **options: taken.append(options["num_cpus"]))
    _init(RayConfig(), None, tmp_path, min_cpus=1, environment=None)
    assert taken == [1]


def test_a_user_that_is_no_more_than_a_number_has_a_home_for_ray(monkeypatch):
    monkeypatch.delenv("HOME")
    monkeypatch.setattr("pwd.getpwuid", {}.__getitem__)
    _quieten()
    assert os.environ["HOME"] == "/"


def test_a_port_in_use_is_said_before_anything_starts(monkeypatch):
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    with socket.create_server(("127.0.0.1", 0)) as taken:
        config = RayConfig(object_store_mib=128, metrics_port=taken.getsockname()[1])
        with pytest.raises(ResourceError, match=r"cannot be listened on: Address already in use.*\n.*ray.metrics_port"):
            check_machine(config)
    check_machine(config)


@pytest.mark.ray
@pytest.mark.timeout(300)
def test_a_local_ray_listens_on_loopback_only_and_to_nobody_else():
    # The token of a Ray that tests of this process share would stay.
    untold = {name: value for name, value in os.environ.items() if not name.startswith("RAY_AUTH")}
    command = [sys.executable, "-c", LISTENERS]
    done = subprocess.run(command, env=untold, capture_output=True, text=True, timeout=240, check=True)
    addresses, is_token_shown, refused, after = json.loads(done.stdout.splitlines()[-1])
    assert addresses
    assert set(addresses) <= {"127.0.0.1", "::1", "::ffff:127.0.0.1"}
    assert "Ray cannot be joined: it wants another token than the one here" in refused
    assert not is_token_shown
    assert after == []


def test_a_head_that_does_not_answer_is_named_within_its_deadline(monkeypatch):
    monkeypatch.setattr("fxray.launch.head.JOIN_DEADLINE_S", 0.1)
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))  # nobody else may take it, and nobody listens
        address = f"127.0.0.1:{taken.getsockname()[1]}"
        said = r"Ray cannot be joined: its head has not answered at .* for 0.1 s"
        with pytest.raises(ResourceError, match=said) as told, ray_cluster(RayConfig(address=address), min_cpus=1):
            raise AssertionError
    assert told.value.where == f"ray.address {address}"
    said = "Ray cannot be joined: Invalid address format: nowhere"
    with pytest.raises(ResourceError, match=said) as told, ray_cluster(RayConfig(address="nowhere"), min_cpus=1):
        raise AssertionError
    assert "HOST:PORT" in told.value.remedy


@pytest.mark.ray
@pytest.mark.long
@pytest.mark.timeout(300)
def test_a_worker_that_dies_puts_no_line_of_rays_into_what_a_command_prints():
    done = subprocess.run([sys.executable, "-c", DEATH], capture_output=True, text=True, timeout=280, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (0, "{}\n", "")


@pytest.mark.ray
@pytest.mark.timeout(300)
@pytest.mark.parametrize(
    "in_ray", [pytest.param(False, marks=pytest.mark.long), True], ids=["at-work", "waiting-in-ray"]
)
def test_a_driver_whose_group_is_terminated_has_the_time_that_it_takes_and_its_ray(in_ray):
    command = [sys.executable, "-c", LEAVES.format(in_ray=in_ray)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=240, check=False, start_new_session=True)
    assert (done.returncode, done.stdout) == (7, "all is written\n")
    assert "SIGTERM" not in done.stderr
