"""A local Ray of a run, in a process of its own because Ray reads its settings once."""

import json
import os
import socket
import subprocess
import sys

import pytest
import ray

from fxray.config.tree import RayConfig
from fxray.errors import ResourceError
from fxray.launch.cluster import _init, _let_threads_sleep, check_machine, ray_cluster

FROM_INSIDE = """
import json, os, psutil
from fxray.config.tree import RayConfig
from fxray.launch.cluster import check_machine, ray_cluster

with ray_cluster(RayConfig(object_store_mib=128), min_cpus=2):
    import ray

    class Worker:
        def wait_policy(self):
            return os.environ.get("OMP_WAIT_POLICY")

    wait_policy = ray.get(ray.remote(Worker).remote().wait_policy.remote(), timeout=120)
    processes = [psutil.Process(), *psutil.Process().children(recursive=True)]
    sockets = [socket for process in processes for socket in process.net_connections("tcp")]
    addresses = [socket.laddr.ip for socket in sockets if socket.status == psutil.CONN_LISTEN]
    print(json.dumps({"addresses": addresses, "wait_policy": wait_policy}))
"""

LEAVES = """
import os, signal, sys, time
from fxray.config.tree import RayConfig
from fxray.launch.cluster import ray_cluster

signal.signal(signal.SIGTERM, lambda number, frame: sys.exit(7))
with ray_cluster(RayConfig(object_store_mib=128), min_cpus=1):
    try:
        os.kill(os.getpid(), signal.SIGTERM)
        time.sleep(60)
    finally:
        time.sleep(4)
        print("all is written")
"""


def test_too_little_shared_memory_is_said_with_its_own_remedy(monkeypatch):
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    monkeypatch.setenv("RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER", "0")
    with (
        pytest.raises(ResourceError, match=r"^/dev/shm: \d+ MiB of shared memory are free.*\n.*ray.object_store_mib"),
        ray_cluster(RayConfig(object_store_mib=2**30), min_cpus=1),
    ):
        pytest.fail("Ray was started")


@pytest.mark.usefixtures("pinned")
def test_a_local_ray_counts_the_processors_that_the_driver_may_use(monkeypatch, tmp_path):
    taken = []
    monkeypatch.setattr(ray, "init", lambda **options: taken.append(options["num_cpus"]))
    _init(RayConfig(), None, tmp_path, min_cpus=1)
    assert taken == [1]


def test_a_port_in_use_is_said_before_anything_starts(monkeypatch):
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    with socket.create_server(("127.0.0.1", 0)) as taken:
        config = RayConfig(object_store_mib=128, metrics_port=taken.getsockname()[1])
        with pytest.raises(ResourceError, match=r"cannot be listened on: Address already in use.*\n.*ray.metrics_port"):
            check_machine(config)
    check_machine(config)


def test_how_threads_wait_is_the_users_choice_where_there_is_one(monkeypatch):
    monkeypatch.setenv("OMP_WAIT_POLICY", "ACTIVE")
    _let_threads_sleep()
    assert os.environ["OMP_WAIT_POLICY"] == "ACTIVE"


@pytest.fixture(scope="module")
def from_inside():
    """Where the processes of a local Ray listen, and how the threads of a worker wait."""
    environment = {name: value for name, value in os.environ.items() if name != "OMP_WAIT_POLICY"}
    command = [sys.executable, "-c", FROM_INSIDE]
    done = subprocess.run(command, capture_output=True, text=True, timeout=240, check=True, env=environment)
    return json.loads(done.stdout.splitlines()[-1])


@pytest.mark.ray
@pytest.mark.timeout(300)
def test_threads_of_a_local_rays_workers_wait_asleep(from_inside):
    assert from_inside["wait_policy"] == "PASSIVE"


@pytest.mark.ray
@pytest.mark.timeout(300)
def test_a_local_ray_listens_on_loopback_only(from_inside):
    addresses = set(from_inside["addresses"])
    assert addresses
    assert addresses <= {"127.0.0.1", "::1", "::ffff:127.0.0.1"}


@pytest.mark.ray
@pytest.mark.timeout(300)
def test_a_terminated_driver_has_the_time_that_it_takes_and_leaves_in_its_own_way():
    done = subprocess.run([sys.executable, "-c", LEAVES], capture_output=True, text=True, timeout=240, check=False)
    assert (done.returncode, done.stdout) == (7, "all is written\n")
    assert "SIGTERM" not in done.stderr
