"""Jobs on a Ray cluster, over the Jobs API of its dashboard: handed in, followed, stopped."""

import asyncio
import math
import os
import posixpath
import shlex
import tempfile
import time
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from actors.placement import NODE_TYPES, node_share
from fxray import __version__
from fxray.config.tree import Config
from fxray.counts import counted
from fxray.errors import ConfigError, FxrayError, ResourceError
from fxray.launch.access import REMEDY
from fxray.launch.demand import missing
from fxray.launch.package import CONFIG_FILE, write_package

ANSWER_DEADLINE_S = 30
"""For the dashboard to answer, and for a job to write something before it is asked whether it still runs."""
RECONNECT_S = 2.0
GIVE_UP_S = 120.0
"""For a cluster that does not answer to come back."""


def connect(address: str) -> Any:
    """A client of the Jobs API.

    Args:
        address: Of the dashboard: "http://127.0.0.1:8265".

    Raises:
        ConfigError: It is no such address.
        ResourceError: Nothing answers there, or the cluster runs another version of Ray.
    """
    if not address.startswith(("http://", "https://")):
        raise ConfigError(
            f"{address!r} is not the address of a Ray dashboard",
            where="--address",
            remedy="give http://HOST:8265; from outside, `ray dashboard cluster.yaml` or `kubectl port-forward` opens "
            "it on 127.0.0.1",
        )
    os.environ["RAY_API_SERVER_ADDRESS"] = address  # or Ray prefers RAY_ADDRESS to what it is given
    import ray
    import requests
    from ray.exceptions import AuthenticationError
    from ray.job_submission import JobSubmissionClient

    class Client(JobSubmissionClient):
        """Ray's own waits for ever, and asks as soon as it is made."""

        def _do_request(self, *request: Any, **options: Any) -> Any:
            try:
                return super()._do_request(*request, timeout=ANSWER_DEADLINE_S, **options)
            except AuthenticationError as error:
                why = "the cluster wants another token than the one here, if any"
                raise ResourceError(why, where=address, remedy=REMEDY) from error

    try:
        client = Client(address)
        theirs = client._do_request("GET", "/api/version").json().get("ray_version")
    except ResourceError:
        raise
    except (ConnectionError, RuntimeError, requests.RequestException) as error:
        raise ResourceError(
            f"no Ray dashboard answers: {_first_line(error)}",
            where=address,
            remedy="check that the head node runs and that its dashboard is reached from here; "
            "`ray dashboard cluster.yaml` or `kubectl port-forward` opens it on 127.0.0.1:8265",
        ) from error
    if theirs != ray.__version__:
        raise ResourceError(
            f"the cluster runs Ray {theirs}, and here is {ray.__version__}",
            where=address,
            remedy=f"install the same on both sides, as here: pip install ray=={theirs}",
        )
    return client


def cluster_nodes(address: str) -> list[dict[str, float]]:
    """What each living node of a cluster offers in all, taken or free: {"CPU": 8, "GPU": 1, ...}.

    Raises:
        ResourceError: The cluster does not tell.
    """
    from ray.util.state import list_nodes
    from ray.util.state.exception import RayStateApiException

    try:
        # All of them: where some are dead, Ray takes what a filter leaves out for an answer that was cut.
        nodes = list_nodes(address=address, limit=10_000, timeout=ANSWER_DEADLINE_S, detail=True)
    except RayStateApiException as error:
        raise ResourceError(
            f"the cluster does not list its nodes: {_first_line(error)}",
            where=address,
            remedy="look at `ray status` on the head node",
        ) from error
    return [dict(node.resources_total) for node in nodes if node.state == "ALIVE"]


def refuse_what_has_no_place(config: Config, nodes: list[dict[str, float]], driver_on: str = "") -> None:
    """Returns when a cluster has a place for every process of a run, its driver on a node of that type.

    Raises:
        ResourceError: It names everything that has none.
    """
    lines = missing(config, nodes, driver_on=driver_on)
    if lines:
        num_cpus, num_gpus = (sum(node.get(name, 0) for node in nodes) for name in ("CPU", "GPU"))
        message = "\n  ".join(["the cluster is too small for this configuration:", *lines])
        found = counted(len(nodes), "node")
        raise ResourceError(
            f"{message}\n  it has {found} with {num_cpus:g} CPU and {num_gpus:g} GPU",
            remedy="lower these fields or add nodes; where an autoscaler brings them, --set ray.autoscales=true waits",
        )


def submit(
    client: Any,
    config: Config,
    run_dir: str,
    *,
    name: str,
    user_folder: Path,
    submission_id: str | None = None,
    driver_on: str = "",
) -> str:
    """Hands a training in.

    Args:
        client: Of `connect`.
        config: A checked one that the cluster has a place for.
        run_dir: On the cluster: an address in object storage, or an absolute path that every node reads and writes.
        name: Of the configuration, for the record.
        user_folder: Where modules of the user's reward functions lie.
        submission_id: Name of the job; by default Ray makes one.
        driver_on: Type of the node that the driver runs on; the head where empty.

    Returns:
        The job's name.

    Raises:
        FxrayError: A job on this run directory is not done, or Ray refuses this one.
        ConfigError: There is no such node type.
        ResourceError: The dashboard does not answer.
    """
    if driver_on not in ("", *NODE_TYPES):
        raise ConfigError(
            f"{driver_on!r} is no node type", where="--driver-on", remedy=f"give one of {', '.join(NODE_TYPES)}"
        )
    for job in list_jobs(client):
        is_same = _plain((job.metadata or {}).get("run_dir", "")) == _plain(run_dir)
        if is_same and not job.status.is_terminal():
            raise FxrayError(
                f"job {job.submission_id} works on this run directory ({job.status.value.lower()})",
                where=run_dir,
                remedy=f"`fxray job logs {job.submission_id}` follows it, `fxray job stop {job.submission_id}` ends it",
            )
    metadata = {"fxray": __version__, "config": name, "run_dir": run_dir}
    command = ["python", "-m", "fxray", "train", "--config", CONFIG_FILE, "--run-dir", run_dir]
    with tempfile.TemporaryDirectory(prefix="fxray-job-") as folder:
        write_package(Path(folder), config, user_folder)
        with _answers():
            try:
                return client.submit_job(
                    entrypoint=shlex.join(command),
                    runtime_env={"working_dir": folder},
                    metadata=metadata,
                    submission_id=submission_id,
                    entrypoint_resources=node_share(driver_on) or None,
                )
            except RuntimeError as error:
                reason = str(error).strip().splitlines()[-1]
                raise FxrayError(f"Ray refuses the job: {reason}", where=submission_id or "") from error


def follow(client: Any, job: str, show: Callable[[str], None]) -> int:
    """Shows what a job writes until it ends; joins it again where the connection is lost.

    Args:
        client: Of `connect`.
        job: Its name.
        show: Called with each piece of its output, once.

    Returns:
        The exit code of its driver, 1 where it has none.

    Raises:
        FxrayError: There is no such job.
        ResourceError: The cluster cannot be reached, or cannot be any more.
        OSError: Of `show`: the reader of the output is gone, say.
    """
    import aiohttp

    status_of(client, job)
    num_shown, lost_s = 0, math.inf

    async def next_of(pieces: AsyncIterator[str]) -> str | None:
        """None at the end of the log, or of the connection."""
        with suppress(OSError, RuntimeError, aiohttp.ClientError):
            # A machine that is gone closes no connection: whoever only listens to it never hears of that.
            return await asyncio.wait_for(anext(pieces, None), ANSWER_DEADLINE_S)
        return None

    async def tail() -> None:
        """Shows what comes after the characters that were shown; Ray tells from the start each time."""
        nonlocal num_shown
        position, pieces = 0, client.tail_job_logs(job)
        while (piece := await next_of(pieces)) is not None:
            news = piece[max(0, num_shown - position) :]
            position += len(piece)
            if news:
                show(news)
                num_shown = position

    while True:
        asyncio.run(tail())
        try:
            if client.get_job_status(job).is_terminal():
                return _exit_code(client.get_job_info(job))
            lost_s = math.inf
        except (OSError, RuntimeError) as error:
            lost_s = min(lost_s, time.monotonic())
            if time.monotonic() - lost_s >= GIVE_UP_S:
                raise ResourceError(
                    f"the cluster has not answered for {GIVE_UP_S:g} s",
                    where=f"job {job}",
                    remedy=f"the job may go on; `fxray job logs {job}` looks again",
                ) from error
        time.sleep(RECONNECT_S)


def stop(client: Any, job: str) -> bool:
    """Asks a job to end; its driver may clean up first.

    Returns:
        False where it had ended already.

    Raises:
        FxrayError: There is no such job.
        ResourceError: The dashboard does not answer.
    """
    status_of(client, job)
    with _answers():
        return bool(client.stop_job(job))


def status_of(client: Any, job: str) -> str:
    """PENDING, RUNNING, STOPPED, SUCCEEDED or FAILED.

    Raises:
        FxrayError: There is no such job.
        ResourceError: The dashboard does not answer.
    """
    with _answers():
        try:
            return str(client.get_job_status(job).value)
        except RuntimeError as error:
            if "does not exist" not in str(error):
                raise
            raise FxrayError(
                "the cluster has no such job", where=job, remedy="`fxray job list` shows those that there are"
            ) from error


def list_jobs(client: Any) -> list[Any]:
    """All jobs of a cluster, those of others too.

    Raises:
        ResourceError: The dashboard does not answer.
    """
    with _answers():
        return list(client.list_jobs())


@contextmanager
def _answers() -> Iterator[None]:
    """Turns a question that a dashboard does not answer, or answers with a fault of its own, into one error."""
    try:
        yield
    except ResourceError:
        raise
    except (OSError, RuntimeError) as error:
        raise ResourceError(
            f"the dashboard does not answer as it should: {_first_line(error)}",
            where=os.environ.get("RAY_API_SERVER_ADDRESS", ""),
            remedy="try again; if it stays so, look at dashboard.log in /tmp/ray/session_latest/logs on the head node",
        ) from error


def _plain(run_dir: str) -> str:
    """A run directory in one spelling, so that two of it are seen to be the same."""
    scheme, mark, path = run_dir.rpartition("://")
    return scheme + mark + (path.rstrip("/") if mark else posixpath.normpath(path))


def _first_line(error: Exception) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0]


def _exit_code(info: Any) -> int:
    if info.status.value == "SUCCEEDED":
        return 0
    code = info.driver_exit_code
    return 1 if not code else code if code > 0 else 128 - code


def described(jobs: list[Any]) -> list[Mapping[str, str]]:
    """Name, state, configuration and run directory of fxray's jobs, the newest last."""
    ours = [job for job in jobs if "run_dir" in (job.metadata or {})]
    return [
        {
            "job": job.submission_id or "",
            "status": job.status.value,
            "config": job.metadata.get("config", ""),
            "run_dir": job.metadata["run_dir"],
        }
        for job in sorted(ours, key=lambda job: job.start_time or 0)
    ]
