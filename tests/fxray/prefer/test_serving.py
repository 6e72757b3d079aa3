"""The real server over HTTP: votes survive two windows, a reload and a kill -9."""

import json
import secrets
import signal
import socket
import sqlite3
import subprocess
import sys
import threading
import time

import httpx
import pytest

from fxray.prefer.raters import invite
from fxray.prefer.store import open_study


class Served:
    """`fxray prefer serve` in a process of its own."""

    def __init__(self, study, port=0):
        command = [sys.executable, "-m", "fxray", "prefer", "serve", str(study), "--port", str(port)]
        self.process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
        self.said = self.process.stderr.readline()
        self.url = self.said.split()[0]

    @property
    def port(self):
        return int(self.url.rstrip("/").rpartition(":")[2])

    def end(self, number=signal.SIGTERM):
        self.process.send_signal(number)
        self.process.wait(60)
        return self.process.returncode, self.process.stderr.read()


@pytest.fixture
def token(study):
    with open_study(study) as store:
        store.facts["pairs_per_rater"] = 30
        return invite(store, "ana")


def test_two_windows_and_a_kill_lose_no_vote_and_double_none(study, token):
    served = Served(study)
    saved, refused, lock = {}, [], threading.Lock()

    def window(name):
        """Judges until nothing is left, as the page does: a vote keeps its id until the server has answered."""
        with httpx.Client(headers={"Authorization": f"Bearer {token}"}, base_url=served.url, timeout=60) as client:

            def ask(method, path, **options):
                end = time.monotonic() + 120
                while time.monotonic() < end:
                    try:
                        return client.request(method, path, **options)
                    except httpx.TransportError:
                        time.sleep(0.05)
                raise AssertionError("the server did not come back")

            while pair := ask("GET", "/v1/pair").json()["pair"]:
                vote_id, choice = secrets.token_hex(16), ("left", "right", "neutral")[len(saved) % 3]
                answer = ask("PUT", f"/v1/votes/{vote_id}", json={"position": pair["position"], "choice": choice})
                with lock:
                    if answer.status_code == 200:
                        saved[vote_id] = (pair["position"], choice)
                    else:
                        refused.append(answer.status_code)

    windows = [threading.Thread(target=window, args=(k,)) for k in range(2)]
    for thread in windows:
        thread.start()
    while len(saved) < 12:
        time.sleep(0.005)
        assert any(thread.is_alive() for thread in windows)
    port = served.port
    served.end(signal.SIGKILL)
    served = Served(study, port)
    for thread in windows:
        thread.join(120)
    state = httpx.get(served.url + "v1/pair", headers={"Authorization": f"Bearer {token}"}, timeout=60).json()
    assert (state["num_done"], state["num_pairs"], state["pair"]) == (32, 32, None)
    assert served.end() == (0, "")
    connection = sqlite3.connect(study)
    rows = connection.execute("SELECT vote_id, position, choice FROM vote WHERE undone_at IS NULL").fetchall()
    connection.close()
    assert {vote_id: (position, choice) for vote_id, position, choice in rows} == saved
    assert sorted(position for _, position, _ in rows) == list(range(32))
    assert set(refused) <= {409}


def test_what_the_page_gets_names_nobody_and_what_it_sends_is_checked(study, token):
    served = Served(study)
    client = httpx.Client(timeout=60, base_url=served.url, headers={"Authorization": f"Bearer {token}"})
    answer = client.get("/v1/pair")
    assert answer.headers["content-security-policy"].startswith("default-src 'none'; script-src 'self'")
    assert not [word for word in ("Humans", "near", "far", "image/", "structure", "check") if word in answer.text]
    image = client.get("/v1/pairs/0/image")
    assert (image.headers["content-type"], image.content[:2]) == ("image/jpeg", b"\xff\xd8")
    vote = f"/v1/votes/{'a' * 32}"
    good = {"position": 0, "choice": "left"}
    refusals = [
        client.get("/v1/pair", headers={"Authorization": "Bearer wrong"}),
        client.get("/v1/pair", headers={"Authorization": ""}),
        client.get("/v1/pair", headers={"Host": "evil.example"}),
        client.put(vote, json=good, headers={"Sec-Fetch-Site": "cross-site"}),
        client.put(vote, json=good | {"choice": "both"}),
        client.put(vote, json=good | {"seconds": -1}),
        client.put(vote, json=good | {"rater": 2}),
        client.put(vote, json=good | {"position": 32}),
        client.put("/v1/votes/short", json=good),
        client.put(vote, content=b"x" * 5000),
        client.get("/v1/pairs/77/image"),
        client.delete(vote),
    ]
    assert [r.status_code for r in refusals] == [401, 401, 421, 403, 422, 422, 422, 409, 422, 413, 409, 409]
    assert all(r.headers["content-type"] == "application/problem+json" for r in refusals)
    unknown = client.get("/openapi.json")
    assert (unknown.status_code, "None" in unknown.text) == (404, False)
    assert client.get("/v1/pair").json()["num_done"] == 0
    assert "prefer.js" in client.get("/").text
    client.close()
    assert served.end(signal.SIGINT)[0] == 0


def test_a_taken_port_and_a_wrong_address_are_one_error(study):
    command = [sys.executable, "-m", "fxray", "prefer", "serve", str(study)]
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        done = subprocess.run([*command, "--port", str(port)], capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 1
    assert done.stderr.startswith(
        f"error: 127.0.0.1:{port}: port {port} cannot be listened on: Address already in use\n"
    )
    done = subprocess.run([*command, "--url", "ftp://x"], capture_output=True, text=True, timeout=120, check=False)
    assert (done.returncode, "no address of a page" in done.stderr) == (2, True)


def test_a_proxys_name_is_answered_where_it_is_told(study, token):
    from starlette.testclient import TestClient

    from fxray.prefer.application import build_app

    with open_study(study) as store:
        client = TestClient(build_app(store, ("127.0.0.1", "study.example.org")), base_url="https://study.example.org")
        answer = client.get("/v1/pair", headers={"Authorization": f"Bearer {token}"})
        assert json.loads(answer.text)["num_pairs"] == 32
        assert study.name not in answer.text


def test_no_route_takes_a_query_parameter(study, token):
    from starlette.testclient import TestClient

    from fxray.prefer.application import build_app

    with open_study(study) as store:
        client = TestClient(build_app(store, ("127.0.0.1",)), base_url="http://127.0.0.1")
        vote = f"/v1/votes/{'0' * 32}"
        asked = [("GET", "/v1/pair"), ("GET", "/v1/pairs/0/image"), ("PUT", vote), ("DELETE", vote)]
        for method, path in asked:
            answer = client.request(method, f"{path}?rater=ben", headers={"Authorization": f"Bearer {token}"})
            assert (answer.status_code, answer.json()["detail"]) == (422, "unknown query parameter 'rater'"), path
            assert answer.json()["remedy"] == "leave it out; there is none here"
        assert client.get("/v1/pair", headers={"Authorization": f"Bearer {token}"}).json()["num_done"] == 0
        assert [client.get(f"{path}?rater=ben").status_code for path in ("/", "/static/prefer.js")] == [200, 200]
