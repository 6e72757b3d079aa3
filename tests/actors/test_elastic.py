"""Ray's own autoscaler, with nodes that are processes of this machine."""

import json
import os
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import psutil
import pytest
import yaml

pytestmark = [pytest.mark.long, pytest.mark.ray, pytest.mark.vllm, pytest.mark.slow, pytest.mark.timeout(3000)]

HEAD = "f" * 51 + "00000"
STORE_BYTES = 80 * 2**20
START_DEADLINE_S = 120


def free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])


def cluster_file(address: str) -> dict[str, object]:
    """The fake provider, as it works from the wheel: up to three rollout nodes, each gone six seconds after its use."""
    provider = "ray.autoscaler._private.fake_multi_node.node_provider.FakeMultiNodeProvider"
    empty = ("auth", "docker", "file_mounts")
    none = ("initialization_commands", "setup_commands", "head_setup_commands", "worker_setup_commands")
    none += ("head_start_ray_commands", "worker_start_ray_commands", "cluster_synced_files")
    return {
        "cluster_name": "elastic",
        "max_workers": 3,
        "provider": {"type": "external", "module": provider, "gcs_address": address, "head_node_id": HEAD}
        | dict.fromkeys(("use_node_id_as_ip", "disable_node_updaters", "disable_launch_config_check"), True)
        | {"launch_multiple": True},
        "available_node_types": {
            "ray.head.default": {"resources": {"CPU": 1, "learner": 1}, "node_config": {}, "max_workers": 0},
            "rollout": {
                "resources": {"CPU": 1, "rollout": 1, "object_store_memory": STORE_BYTES},
                "node_config": {},
                "min_workers": 0,
                "max_workers": 3,
            },
        },
        "head_node_type": "ray.head.default",
        "idle_timeout_minutes": 0.1,
        "upscaling_speed": 1.0,
        "file_mounts_sync_continuously": False,
        **{name: {} for name in empty},
        **{name: [] for name in none},
    }


def processes_of(folder: Path) -> list[psutil.Process]:
    """Whoever names the cluster's folder in its command line."""
    return [each for each in psutil.process_iter(["cmdline"]) if str(folder) in " ".join(each.info["cmdline"] or [])]


def end(process: psutil.Process) -> psutil.Process:
    with suppress(psutil.NoSuchProcess):
        process.kill()
    return process


@pytest.fixture
def cluster() -> Iterator[tuple[str, dict[str, str]]]:
    """Address of a head whose autoscaler looks every second, and the environment of its processes."""
    folder = Path(tempfile.mkdtemp(prefix="fxe-", dir="/tmp"))  # unix sockets below it allow 107 characters
    names = ("port", "dashboard-agent-listen-port", "dashboard-agent-grpc-port", "runtime-env-agent-port")
    ports = {name: free_port() for name in (*names, "metrics-export-port", "ray-client-server-port")}
    address = f"127.0.0.1:{ports['port']}"
    (folder / "cluster.yaml").write_text(yaml.safe_dump(cluster_file(address)))
    kept = {name: value for name, value in os.environ.items() if name != "RAY_ADDRESS"}
    environment = kept | {
        "PYTHONPATH": str(Path(__file__).parents[2]),
        "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0",  # stay on loopback
        "RAY_USAGE_STATS_ENABLED": "0",
        "OMP_NUM_THREADS": "1",
        "RAY_worker_niceness": "0",  # as its driver: the machine has few processors
    }
    of_autoscaler = {
        "RAY_FAKE_CLUSTER": "1",
        "RAY_enable_autoscaler_v2": "1",
        "RAY_CLOUD_INSTANCE_ID": HEAD,
        "RAY_OVERRIDE_NODE_ID_FOR_TESTING": HEAD,
        "AUTOSCALER_UPDATE_INTERVAL_S": "1",
    }
    command = [sys.executable, "-m", "ray.scripts.scripts", "start", "--head", "--block", "--include-dashboard=false"]
    command += ["--node-ip-address=127.0.0.1", "--num-cpus=1", f"--object-store-memory={STORE_BYTES}"]
    command += [f"--autoscaling-config={folder / 'cluster.yaml'}", '--resources={"learner": 1}']
    command += [f"--temp-dir={folder / 'ray'}", *(f"--{name}={port}" for name, port in ports.items())]
    with (folder / "head.log").open("w") as log:
        head = subprocess.Popen(command, env=environment | of_autoscaler, stdout=log, stderr=log)
    try:
        end_s = time.monotonic() + START_DEADLINE_S
        while "Ray runtime started" not in (folder / "head.log").read_text():
            assert time.monotonic() < end_s, (folder / "head.log").read_text()
            time.sleep(0.5)
        yield address, environment
    finally:
        head.kill()
        head.wait(30)
        for _ in range(2):  # nodes outlive the autoscaler that started them; workers end with their node
            psutil.wait_procs([end(process) for process in processes_of(folder)], timeout=30)
        shutil.rmtree(folder, ignore_errors=True)


def test_a_pool_goes_from_one_node_to_three_and_back_within_a_stage_and_trains_the_same(
    cluster: tuple[str, dict[str, str]], random_model_dir: Path, tmp_path: Path
) -> None:
    address, environment = cluster
    script = Path(__file__).with_name("elastic_stage.py")
    command = [sys.executable, str(script), address, str(random_model_dir), str(tmp_path)]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=2800, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    results = json.loads((tmp_path / "results.json").read_text())
    print({name: results[name] for name in ("seconds", "elastic_s", "notes", "nodes_at_end")})
    print({name: results["elastic"][name] for name in ("up", "nodes", "losses")})
    elastic, fixed = results["elastic"], results["fixed"]
    assert elastic["up"] == [1, 1, 1, 2, 2, 3, 3, 1, 1]  # the last draw is the stage's last probe
    assert max(elastic["nodes"]) == 3
    assert results["nodes_at_end"] == 1
    assert (results["departures"], results["failures"]) == (1, 0)
    assert [note.partition(":")[0] for note in results["notes"]] == [
        "from 1 to 2 rollout workers",
        "from 2 to 3 rollout workers",
        "from 3 to 1 rollout workers",
        "rollout-1 gets no more groups",
    ]
    asked = [f"alpha/{step}/{i}" for step in range(8) for i in range(6)]
    assert [name for step in elastic["drawn"] for name in step] == asked
    assert elastic["drawn"] == fixed["drawn"]
    assert elastic["losses"] == pytest.approx(fixed["losses"], rel=1e-3, abs=1e-6)
    assert len({tuple(step[f"alpha/{i}/0"]) for i, step in enumerate(elastic["drawn"])}) > 1
