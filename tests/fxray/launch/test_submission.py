"""Training as a job on a cluster of its own, in whose Python fxray is not installed, only what it depends on.

The cluster takes calls with its token alone, as those of Ray 2.60 do by default.
"""

import json
import os
import shutil
import socket
import subprocess
import sys
import sysconfig
import tempfile
import time
import urllib.request
import venv
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil
import pytest
from moto.server import ThreadedMotoServer
from pyarrow.fs import FileSelector, FileSystem

from actors.placement import NODE_TYPES
from fxray.errors import FxrayError
from fxray.launch import jobs
from fxray.launch.access import read_again

TOP = Path(__file__).resolve().parents[3]
START_DEADLINE_S = 120
ONE_STAGE = """
stages:
  - name: only
    rewards: {w_iou: 1.0, label: {right: 1.0, wrong: -1.0}, format: {right: 2.0, wrong: -1.0}}
"""
SMALLEST = (
    "ray.use_node_types=true",
    "data.synth={num_train: 4, num_validation: 1, num_test: 2, size_px: 112}",
    *("sft.max_steps=1", "sft.batch_size=2", "sft.num_workers=1"),
    *("grpo.group_size=2", "grpo.prompts_per_step=2", "grpo.steps_per_stage=1", "grpo.max_new_tokens=8"),
    *("evaluate.max_new_tokens=8", "evaluate.num_bootstrap=10", "evaluate.gallery_size=1"),
)


pytestmark = [pytest.mark.ray, pytest.mark.slow, pytest.mark.timeout(540)]


@dataclass(frozen=True)
class Cluster:
    address: str
    python: Path
    folder: Path
    storage: dict[str, str]

    def overrides(self) -> list[str]:
        values = (*SMALLEST, f"grpo.schedule={self.folder / 'one-stage.yaml'}")
        return [word for value in values for word in ("--set", value)]


def free_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return free.getsockname()[1]


def with_token() -> dict[str, str]:
    """The cluster's token: that of a Ray which tests of this process share, where one is up."""
    return {
        "RAY_AUTH_MODE": "token",
        "RAY_AUTH_TOKEN": os.environ.get("RAY_AUTH_TOKEN", "of-the-cluster-0123456789abcdef"),
    }


def environment(**changes: str) -> dict[str, str]:
    kept = {name: value for name, value in os.environ.items() if name not in ("RAY_ADDRESS", "PYTHONPATH")}
    return kept | {"RAY_USAGE_STATS_ENABLED": "0", "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0"} | with_token() | changes


def run(command: list[str | Path], folder: Path, **changes: str) -> subprocess.CompletedProcess[str]:
    options = {"cwd": folder, "env": environment(**changes), "capture_output": True, "text": True, "timeout": 400}
    return subprocess.run(command, check=False, **options)


def python_without_fxray(folder: Path) -> Path:
    """A virtual environment that sees the installed packages, but neither this checkout nor any `.pth` file."""
    venv.create(folder, with_pip=False)
    python = folder / "bin" / "python"
    ask = "import sysconfig; print(sysconfig.get_path('purelib'))"
    site = subprocess.run([python, "-c", ask], capture_output=True, text=True, check=True).stdout.strip()
    (Path(site) / "dependencies.pth").write_text(sysconfig.get_path("purelib") + "\n")
    found = run([python, "-c", "import fxray"], folder)
    assert "No module named 'fxray'" in found.stderr
    return python


@pytest.fixture(scope="module")
def storage() -> Iterator[dict[str, str]]:
    """How a bucket of object storage on loopback is reached."""
    server = ThreadedMotoServer("127.0.0.1", 0)
    server.start()
    host, port = server.get_host_and_port()
    variables = {"AWS_ENDPOINT_URL": f"http://{host}:{port}", "AWS_DEFAULT_REGION": "us-east-1"}
    yield variables | {"AWS_ACCESS_KEY_ID": "test", "AWS_SECRET_ACCESS_KEY": "test"}
    server.stop()


@pytest.fixture(scope="module")
def cluster(storage: dict[str, str]) -> Iterator[Cluster]:
    """One node that offers everything; two on one machine share the folder into which each unpacks a job."""
    folder = Path(tempfile.mkdtemp(prefix="fxj-", dir="/tmp"))  # unix sockets below it allow 107 characters
    python = python_without_fxray(folder / "env")
    (folder / "one-stage.yaml").write_text(ONE_STAGE)
    port, dashboard = free_port(), free_port()
    path = f"{python.parent}{os.pathsep}{os.environ['PATH']}"  # as activating the environment does
    variables = environment(PATH=path, XDG_CACHE_HOME=str(folder / "cache"), **storage)
    options = [
        "--head",
        f"--port={port}",
        "--dashboard-host=127.0.0.1",
        f"--dashboard-port={dashboard}",
        "--num-cpus=2",
    ]
    options += [
        "--node-ip-address=127.0.0.1",
        f"--ray-client-server-port={free_port()}",
        f"--temp-dir={folder / 'ray'}",
    ]
    options += [f"--resources={json.dumps(dict.fromkeys(NODE_TYPES, 1))}"]
    head = start_node(python, options, folder, "head", variables)
    address = f"http://127.0.0.1:{dashboard}"
    try:
        await_dashboard(address, folder / "head.log")
        yield Cluster(address, python, folder, storage)
    finally:
        end_family(head)
        shutil.rmtree(folder, ignore_errors=True)


def start_node(
    python: Path, options: list[str], folder: Path, name: str, variables: dict[str, str]
) -> subprocess.Popen[bytes]:
    agent = (
        "dashboard-agent-listen-port",
        "dashboard-agent-grpc-port",
        "runtime-env-agent-port",
        "metrics-export-port",
    )
    command = [python, "-m", "ray.scripts.scripts", "start", "--block", f"--object-store-memory={2**27}", *options]
    command += [f"--{port}={free_port()}" for port in agent]
    with (folder / f"{name}.log").open("w") as log:
        return subprocess.Popen(command, cwd=folder, env=variables, stdout=log, stderr=log)


def end_family(node: subprocess.Popen[bytes]) -> None:
    processes = [*psutil.Process(node.pid).children(recursive=True), psutil.Process(node.pid)]
    for process in reversed(processes):
        try:
            process.kill()
        except psutil.NoSuchProcess:
            continue
    node.wait(30)
    psutil.wait_procs(processes, timeout=30)


@pytest.fixture
def client(cluster, monkeypatch) -> Iterator[Any]:
    monkeypatch.setenv("RAY_API_SERVER_ADDRESS", cluster.address)
    for name, value in with_token().items():
        monkeypatch.setenv(name, value)
    read_again()
    yield jobs.connect(cluster.address)
    monkeypatch.undo()
    read_again()


def await_dashboard(address: str, log: Path) -> None:
    end = time.monotonic() + START_DEADLINE_S
    while time.monotonic() < end:
        try:
            headers = {"Authorization": f"Bearer {with_token()['RAY_AUTH_TOKEN']}"}
            with urllib.request.urlopen(
                urllib.request.Request(f"{address}/api/v0/nodes", headers=headers), timeout=5
            ) as answer:
                if b'"ALIVE"' in answer.read():
                    return
        except OSError:
            pass
        time.sleep(0.5)
    pytest.fail(f"no dashboard within {START_DEADLINE_S} s: {log.read_text()[-2000:]}")


def fxray(cluster: Cluster, *words: str, **changes: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "fxray", *words, "--address", cluster.address]
    return run(command, cluster.folder, **changes)


def submit(cluster: Cluster, run_dir: Path | str, *words: str) -> subprocess.CompletedProcess[str]:
    return fxray(cluster, "submit", "-c", "smoke", "-d", str(run_dir), *cluster.overrides(), *words)


def test_rays_own_command_trains_and_fxrays_goes_on_with_the_run(cluster, client):
    run_dir = cluster.folder / "run"
    ray_job = [cluster.python, "-m", "ray.scripts.scripts", "job", "submit", "--address", cluster.address]
    ray_job += ["--working-dir", ".", "--", "python", "-m", "fxray", "train"]
    options = ["--config", "smoke", "--run-dir", str(run_dir), *cluster.overrides()]
    done = run([*ray_job, *options], TOP)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    assert (run_dir / "report.html").is_file()
    assert (run_dir / "grpo" / "only" / "final" / "adapter" / "adapter_model.safetensors").is_file()

    report, made_s = run_dir / "report.html", (run_dir / "sft" / "adapter").stat().st_mtime
    report.unlink()
    again = submit(cluster, run_dir)
    assert again.returncode == 0, again.stdout[-3000:] + again.stderr[-3000:]
    assert again.stdout.rstrip().endswith(str(report))
    assert report.is_file()
    assert (run_dir / "sft" / "adapter").stat().st_mtime == made_s

    other = submit(cluster, run_dir, "--set", "seed=1")
    assert other.returncode == 2
    assert "what is here was made with other values of seed" in other.stdout
    described = jobs.described(client.list_jobs())
    assert [(job["status"], job["config"], job["run_dir"]) for job in described] == [
        ("SUCCEEDED", "smoke", str(run_dir)),
        ("FAILED", "smoke", str(run_dir)),
    ]


def test_what_cannot_run_is_refused_before_it_is_queued(cluster, client):
    num_jobs = len(client.list_jobs())
    too_much = submit(cluster, cluster.folder / "b", "--set", "learner.gpus_per_rank=1", "--set", "sft.num_workers=1")
    assert too_much.returncode == 1
    assert "SFT asks for 1 SFT worker of 1 GPU, 1 CPU, a node with `learner` each" in too_much.stderr
    assert "GRPO asks for 1 learner rank of 1 GPU" in too_much.stderr
    assert too_much.stderr.count("error:") == 1
    assert len(client.list_jobs()) == num_jobs


def test_a_job_that_was_stopped_is_reported_so(cluster, client):
    handed_in = submit(cluster, cluster.folder / "c", "--no-follow", "--submission-id", "to-stop")
    assert handed_in.stdout.strip() == "to-stop"
    assert jobs.stop(client, "to-stop")
    followed = fxray(cluster, "job", "logs", "to-stop")
    assert (followed.returncode, followed.stderr.splitlines()[-1]) == (1, "to-stop stopped")
    with pytest.raises(FxrayError, match="nope: the cluster has no such job"):
        jobs.stop(client, "nope")


@pytest.mark.parametrize("changes", [{"RAY_AUTH_MODE": "disabled"}, {"RAY_AUTH_TOKEN": "another-0123456789abcdef"}])
def test_a_cluster_that_wants_another_token_says_so(cluster, changes):
    refused = fxray(cluster, "job", "list", **changes)
    assert refused.returncode == 1
    assert refused.stderr.startswith(f"error: {cluster.address}: the cluster wants another token than the one here")
    assert "ray get-auth-token" in refused.stderr
    assert "Traceback" not in refused.stderr


@pytest.mark.long
def test_a_job_may_keep_its_run_in_object_storage_and_say_where_its_driver_runs(cluster, client, monkeypatch):
    for name, value in cluster.storage.items():
        monkeypatch.setenv(name, value)
    bucket, base = FileSystem.from_uri("s3://bucket?allow_bucket_creation=true")
    bucket.create_dir(base)
    done = submit(cluster, "s3://bucket/runs/a", "--driver-on", "reward", "--submission-id", "remote")
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    assert done.stdout.rstrip().endswith("s3://bucket/runs/a/report.html")
    kept = {info.path for info in bucket.get_file_info(FileSelector(f"{base}/runs/a", recursive=True))}
    for name in ("report.html", "grpo/only/final/adapter/adapter_model.safetensors", ".mirror.json"):
        assert f"{base}/runs/a/{name}" in kept
    assert f"{base}/runs/a/.lease.json" not in kept
