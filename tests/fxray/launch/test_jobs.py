"""Jobs against a client that plays the cluster; a real one is in test_submission."""

import asyncio
import http.server
import socket
import threading
from contextlib import suppress
from types import SimpleNamespace

import pytest
from ray.job_submission import JobStatus
from ray.util.state.exception import RayStateApiException

from fxray.config.load import load_config
from fxray.errors import ConfigError, FxrayError, ResourceError
from fxray.launch import jobs


class Client:
    """A cluster with one job, whose log connection breaks after each of the given beginnings."""

    def __init__(self, status: JobStatus, *logs: list[str], code: int | None = None, metadata: dict | None = None):
        self.logs, self.status, self.code, self.metadata = list(logs), status, code, metadata
        self.num_silent = 0
        self.handed_in: dict = {}

    def get_job_status(self, job: str) -> JobStatus:
        if job != "a":
            raise RuntimeError("404: job does not exist")
        if self.num_silent > 1:
            self.num_silent -= 1
            raise ConnectionError("no route")
        return JobStatus.RUNNING if self.logs else self.status

    def get_job_info(self, job: str):
        return SimpleNamespace(status=self.status, driver_exit_code=self.code)

    async def tail_job_logs(self, job: str):
        pieces = self.logs.pop(0) if self.logs else []
        for piece in pieces:
            yield piece
        if self.logs:
            raise RuntimeError("WebSocket connection closed unexpectedly")

    def list_jobs(self):
        return [
            SimpleNamespace(submission_id="a", status=self.status, metadata=self.metadata, start_time=1),
            SimpleNamespace(submission_id="b", status=JobStatus.SUCCEEDED, metadata=None, start_time=0),
        ]

    def submit_job(self, **job):
        if job["submission_id"] == "taken":
            raise RuntimeError("Request failed.\nValueError: Job with submission_id taken already exists.")
        self.handed_in = job
        return "a"

    def stop_job(self, job: str) -> bool:
        return not self.status.is_terminal()


@pytest.fixture(autouse=True)
def no_waits(monkeypatch):
    monkeypatch.setattr(jobs, "RECONNECT_S", 0)


def follow(client: Client) -> tuple[int, str]:
    shown: list[str] = []
    return jobs.follow(client, "a", shown.append), "".join(shown)


def test_a_broken_connection_shows_no_line_twice_and_none_too_few():
    logs = (["one\ntw"], ["one\n"], ["one\ntwo\n", "three\n"])
    assert follow(Client(JobStatus.SUCCEEDED, *logs)) == (0, "one\ntwo\nthree\n")


def test_whoever_stops_reading_the_output_ends_following():
    def show(piece: str) -> None:
        raise BrokenPipeError

    client = Client(JobStatus.SUCCEEDED, ["one\n"], ["one\n", "two\n"])
    with pytest.raises(BrokenPipeError):
        jobs.follow(client, "a", show)
    assert len(client.logs) == 1, "the log was fetched once"


@pytest.mark.parametrize(
    ("status", "code", "expected"),
    [
        (JobStatus.SUCCEEDED, 0, 0),
        (JobStatus.FAILED, 2, 2),
        (JobStatus.FAILED, -9, 137),
        (JobStatus.FAILED, None, 1),
        (JobStatus.STOPPED, None, 1),
    ],
)
def test_the_exit_code_is_the_jobs(status, code, expected):
    assert follow(Client(status, code=code)) == (expected, "")


def test_a_cluster_that_stays_silent_is_given_up(monkeypatch):
    client = Client(JobStatus.RUNNING)
    monkeypatch.setattr(jobs, "status_of", lambda client, job: "RUNNING")
    monkeypatch.setattr(jobs, "GIVE_UP_S", 0.1)
    client.num_silent = 10**9
    with pytest.raises(ResourceError, match=r"job a: the cluster has not answered for 0.1 s"):
        jobs.follow(client, "a", print)


def test_a_short_silence_is_waited_out(monkeypatch):
    client = Client(JobStatus.SUCCEEDED, code=0)
    monkeypatch.setattr(jobs, "status_of", lambda client, job: "RUNNING")
    client.num_silent = 30
    assert follow(client) == (0, "")


def test_a_machine_that_is_gone_without_closing_its_connection_is_asked_again(monkeypatch):
    monkeypatch.setattr(jobs, "ANSWER_DEADLINE_S", 0.1)
    client = Client(JobStatus.SUCCEEDED, ["one\n"], ["one\n", "two\n"], code=0)
    tail, num_tails = client.tail_job_logs, 0

    async def hangs_once(job: str):
        nonlocal num_tails
        num_tails += 1
        with suppress(RuntimeError):
            async for piece in tail(job):
                yield piece
        if num_tails == 1:
            await asyncio.sleep(60)

    client.tail_job_logs = hangs_once
    assert follow(client) == (0, "one\ntwo\n")
    assert num_tails == 2


def hand_in(client: Client, tmp_path, **changes) -> str:
    arguments = {"name": "smoke", "user_folder": tmp_path, "submission_id": None} | changes
    return jobs.submit(client, load_config("smoke"), str(tmp_path / "my run"), **arguments)


def test_a_job_carries_its_record_and_a_command_that_needs_no_shell_tricks(tmp_path):
    client = Client(JobStatus.SUCCEEDED)
    assert hand_in(client, tmp_path) == "a"
    job = client.handed_in
    assert job["entrypoint"] == f"python -m fxray train --config config.yaml --run-dir '{tmp_path}/my run'"
    assert job["metadata"]["config"] == "smoke"
    assert job["metadata"]["run_dir"] == f"{tmp_path}/my run"


def test_a_run_that_is_worked_on_is_not_handed_in_again(tmp_path):
    metadata = {"run_dir": f"{tmp_path}/my run"}
    with pytest.raises(FxrayError, match=r"job a works on this run directory \(running\)"):
        hand_in(Client(JobStatus.RUNNING, metadata=metadata), tmp_path)
    assert hand_in(Client(JobStatus.FAILED, metadata=metadata), tmp_path) == "a"


@pytest.mark.parametrize(
    ("theirs", "ours"),
    [
        ("/shared/7b", "/shared/7b/"),
        ("/shared/7b", "/shared//x/../7b"),
        ("s3://bucket/runs/7b", "s3://bucket/runs/7b/"),
    ],
)
def test_two_spellings_of_a_run_directory_are_one(tmp_path, theirs, ours):
    client = Client(JobStatus.RUNNING, metadata={"run_dir": theirs})
    with pytest.raises(FxrayError, match="job a works on this run directory"):
        jobs.submit(client, load_config("smoke"), ours, name="smoke", user_folder=tmp_path)


@pytest.mark.parametrize("fault", [RuntimeError("status code 500: Traceback"), ConnectionError("reset by peer")])
def test_a_dashboard_that_falters_is_one_error(tmp_path, monkeypatch, fault):
    client = Client(JobStatus.RUNNING)

    def falters(*_, **__):
        raise fault

    def ask_for_a_job_that_is_there():
        monkeypatch.setattr(client, "get_job_status", Client(JobStatus.RUNNING).get_job_status)
        jobs.stop(client, "a")

    for name in ("get_job_status", "list_jobs", "stop_job"):
        monkeypatch.setattr(client, name, falters)
    asks = [
        lambda: jobs.status_of(client, "a"),
        lambda: jobs.follow(client, "a", print),
        lambda: jobs.stop(client, "a"),
        lambda: jobs.list_jobs(client),
        lambda: hand_in(client, tmp_path),
        ask_for_a_job_that_is_there,
    ]
    for ask in asks:
        with pytest.raises(ResourceError, match=rf"the dashboard does not answer as it should: {fault}"):
            ask()


def test_a_connection_that_breaks_while_a_job_is_handed_in_is_one_error(tmp_path, monkeypatch):
    client = Client(JobStatus.SUCCEEDED)

    def breaks(**_):
        raise ConnectionError("reset by peer")

    monkeypatch.setattr(client, "submit_job", breaks)
    with pytest.raises(ResourceError, match="does not answer as it should: reset by peer"):
        hand_in(client, tmp_path)


def test_a_name_that_is_taken_is_said_in_one_line(tmp_path):
    with pytest.raises(FxrayError, match=r"^taken: Ray refuses the job: ValueError: Job with submission_id taken"):
        hand_in(Client(JobStatus.SUCCEEDED), tmp_path, submission_id="taken")


def test_an_unknown_job_is_said():
    for ask in (jobs.stop, jobs.status_of):
        with pytest.raises(FxrayError, match="nope: the cluster has no such job"):
            ask(Client(JobStatus.RUNNING), "nope")


def test_stopping_says_whether_there_was_something_to_stop():
    assert jobs.stop(Client(JobStatus.RUNNING), "a")
    assert not jobs.stop(Client(JobStatus.FAILED), "a")


def test_only_training_jobs_are_listed():
    metadata = {"run_dir": "/shared/a", "config": "7b"}
    assert jobs.described(jobs.list_jobs(Client(JobStatus.RUNNING, metadata=metadata))) == [
        {"job": "a", "status": "RUNNING", "config": "7b", "run_dir": "/shared/a"}
    ]


@pytest.mark.parametrize("address", ["auto", "ray://10.0.0.1:10001", "10.0.0.1:8265", ""])
def test_an_address_that_is_no_dashboards_is_refused(address):
    with pytest.raises(ConfigError, match=r"--address.*\n.*http://HOST:8265"):
        jobs.connect(address)


def test_all_that_is_missing_is_one_error():
    with pytest.raises(ResourceError) as caught:
        jobs.refuse_what_has_no_place(load_config("smoke", ["learner.gpus_per_rank=1"]), [{"CPU": 4}, {"CPU": 2}])
    assert caught.value.message.count("there is room for 0") == 2
    assert "it has 2 nodes with 6 CPU and 0 GPU" in caught.value.message
    with pytest.raises(ResourceError, match="it has 1 node with 4 CPU and 0 GPU"):
        jobs.refuse_what_has_no_place(load_config("smoke", ["learner.gpus_per_rank=1"]), [{"CPU": 4}])


@pytest.fixture
def not_a_cluster():
    """Address of a web server that is no Ray dashboard."""

    class Page(http.server.BaseHTTPRequestHandler):
        def do_GET(self):
            self.send_error(404)

        def log_message(self, *words):
            pass

    server = http.server.HTTPServer(("127.0.0.1", 0), Page)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    server.server_close()


def test_another_web_server_is_not_taken_for_a_cluster(not_a_cluster, monkeypatch):
    monkeypatch.setenv("RAY_API_SERVER_ADDRESS", not_a_cluster)
    with pytest.raises(ResourceError, match="no Ray dashboard answers"):
        jobs.connect(not_a_cluster)
    with pytest.raises(ResourceError, match="the cluster does not list its nodes"):
        jobs.cluster_nodes(not_a_cluster)


def test_what_dead_nodes_offered_is_not_counted(monkeypatch):
    nodes = [SimpleNamespace(state=state, resources_total={"CPU": cpus}) for state, cpus in (("ALIVE", 2), ("DEAD", 8))]

    def list_nodes(*, filters=None, **_):
        if filters and any(node.state == "DEAD" for node in nodes):
            raise RayStateApiException("not reachable due to data truncation")  # as Ray has it
        return nodes

    monkeypatch.setattr("ray.util.state.list_nodes", list_nodes)
    assert jobs.cluster_nodes("http://head:8265") == [{"CPU": 2}]


def test_a_dashboard_that_takes_the_connection_and_says_nothing_is_given_up(monkeypatch):
    monkeypatch.setattr(jobs, "ANSWER_DEADLINE_S", 0.5)
    raised: list[Exception] = []

    def connect(address: str) -> None:
        try:
            jobs.connect(address)
        except ResourceError as error:
            raised.append(error)

    with socket.create_server(("127.0.0.1", 0)) as silent:
        address = f"http://127.0.0.1:{silent.getsockname()[1]}"
        asking = threading.Thread(target=connect, args=(address,), daemon=True)
        asking.start()
        asking.join(20)
    assert [str(error).partition(": ")[0] for error in raised] == [address]
    assert "no Ray dashboard answers" in str(raised[0])
