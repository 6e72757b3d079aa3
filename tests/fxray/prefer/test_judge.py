"""A judge over real HTTP: a small server that looks at the pictures."""

import base64
import io
import json
import threading
import time
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest
from PIL import Image
from study_files import PLAN
from typer.testing import CliRunner

from fxray.cli.app import app
from fxray.client import ServiceError
from fxray.errors import ConfigError, DataError, DeadlineError
from fxray.prefer import judge as judge_module
from fxray.prefer.analysis import analyse
from fxray.prefer.ballots import read_ballots, read_raters
from fxray.prefer.judge import Endpoint, judge_study, read_choice
from fxray.prefer.raters import join_judge
from fxray.prefer.store import open_study
from fxray.prefer.study import create_study
from fxray.prefer.votes import open_positions

OPTIONS = {"group": "judge", "max_failed_checks": 0, "num_bootstrap": 50, "seed": 0}
TRUE_EDGE = 10, 19
"""A pixel on the left edge of the true box, of 96 by 64."""


def marks_the_truth(url: str) -> bool:
    """Whether the first box's line, of the palette's first colour, lies where the truth is."""
    picture = Image.open(io.BytesIO(base64.b64decode(url.partition(",")[2])))
    scale = picture.width / 96
    x, y = (round(value * scale) for value in TRUE_EDGE)
    reds = [picture.getpixel((x + dx, y)) for dx in range(-2, 6)]
    return any(red - blue > 120 for red, _, blue in reds)


class Judge(ThreadingHTTPServer):
    """Prefers the side with the true box. `faults` are taken before: a status, a text, seconds to hang, a barrier."""

    request_queue_size = 128

    def __init__(self):
        super().__init__(("127.0.0.1", 0), Handler)
        self.faults, self.asked, self.lock = [], [], threading.Lock()
        self.url = f"http://127.0.0.1:{self.server_address[1]}/v1"


class Handler(BaseHTTPRequestHandler):
    def do_POST(self):
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        with self.server.lock:
            self.server.asked.append((self.path, self.headers["Authorization"], body))
            fault = self.server.faults.pop(0) if self.server.faults else None
        if isinstance(fault, float):
            time.sleep(fault)
        elif isinstance(fault, threading.Barrier):
            fault.wait(20)
            self.answer(200, b'{"choices": [{"message": {"content": "left"}}]}')
            return
        elif isinstance(fault, int):
            self.answer(fault, b'{"error": "as told"}')
            return
        elif isinstance(fault, bytes):
            self.answer(200, fault)
            return
        elif isinstance(fault, str):
            self.answer(200, json.dumps({"choices": [{"message": {"content": fault}}]}).encode())
            return
        _, left, right = body["messages"][0]["content"]
        sides = marks_the_truth(left["image_url"]["url"]), marks_the_truth(right["image_url"]["url"])
        word = {(True, False): "left", (False, True): " Right\n"}.get(sides, "neutral")
        self.answer(200, json.dumps({"choices": [{"message": {"content": word}}]}).encode())

    def answer(self, status, content):
        try:
            self.send_response(status)
            self.send_header("Content-Length", str(len(content)))
            self.send_header("Retry-After", "0")
            self.end_headers()
            self.wfile.write(content)
        except BrokenPipeError:
            pass  # who asked has given up

    def log_message(self, *arguments):
        pass


@pytest.fixture
def server():
    server = Judge()
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
    thread.start()
    yield server
    server.shutdown()
    server.server_close()
    thread.join(10)


@pytest.fixture(scope="module")
def few(files, sources, tmp_path_factory):
    """A study of 6 images: 18 pairs, 8 checks."""
    path = tmp_path_factory.mktemp("few") / "few.db"
    create_study(path, files / "data.parquet", sources, replace(PLAN, num_images=6), lambda done, total: None)
    return path


@pytest.fixture
def study(few, tmp_path):
    path = tmp_path / "study.db"
    path.write_bytes(few.read_bytes())
    return path


def ask(study, server, *, num_parallel=4, **changes):
    with open_study(study) as store:
        endpoint = Endpoint(
            **({"url": server.url, "model": "m", "key": "", "deadline_s": 60.0, "max_tokens": 16} | changes)
        )
        return judge_study(
            store,
            join_judge(store, "m", model="m", question="?"),
            endpoint,
            num_parallel=num_parallel,
            told=lambda done, total: None,
        )


def test_a_judge_fills_the_study_and_its_votes_are_those_of_what_it_saw(study, server, monkeypatch):
    monkeypatch.setenv("FXRAY_JUDGE_KEY", "secret")
    server.faults = [503, 429, "I think left is better.", "left or right"]
    command = ["prefer", "judge", str(study), "--url", server.url, "--model", "org/m"]
    first = CliRunner().invoke(app, command)
    assert first.exit_code == 0, first.exception
    assert "org/m: 18 votes, 2 answers that are none" in first.output
    assert "org/m: 2 votes, 0 answers that are none" in CliRunner().invoke(app, command).output
    assert len(server.asked) == 20 + 2 + 2
    path, authorization, body = server.asked[-1]
    assert (path, authorization) == ("/v1/chat/completions", "Bearer secret")
    assert (body["model"], body["temperature"], body["max_tokens"]) == ("org/m", 0, 16)
    with open_study(study) as store:
        ballots = read_ballots(store)
        raters = read_raters(store, ballots)
    found = analyse(ballots, raters, ["Humans", "near", "far"], **OPTIONS)
    (rater,) = found.raters
    assert (rater.kind, rater.num_votes, rater.num_checks) == ("judge", 18, PLAN.checks_per_rater)
    assert (rater.num_failed_checks, rater.num_bad_answers) == (0, 2)
    shares = {(cell.row, cell.column): (cell.num_won, cell.num_lost, cell.num_neutral) for cell in found.cells}
    assert shares[("Humans", "far")] == shares[("Humans", "near")] == (6, 0, 0)
    assert found.num_neutral == 6


def test_a_name_is_one_models_and_the_results_name_it(study, server):
    server.faults = ["left", "no word"]
    command = ["prefer", "judge", str(study), "--url", server.url, "--name", "gpt", "--model"]
    assert CliRunner().invoke(app, [*command, "a"]).exit_code == 0
    before = len(server.asked)
    other = CliRunner().invoke(app, [*command, "b"])
    assert isinstance(other.exception, DataError)
    assert other.exception.message == "judge 'gpt' is the model 'a', got 'b'"
    assert len(server.asked) == before
    counted = CliRunner().invoke(app, ["prefer", "analyse", str(study), "--raters", "judge", "--json"])
    assert json.loads(counted.stdout)["study"]["judges"]["gpt"]["model"] == "a"
    with open_study(study) as store, pytest.raises(DataError, match="'gpt' was asked another question"):
        join_judge(store, "gpt", model="a", question="Which?")


def test_a_judge_of_an_earlier_study_whose_model_nobody_kept_is_refused(study):
    with open_study(study) as store:
        join_judge(store, "m", model="m", question="?")
        with store.transaction() as connection:
            connection.execute("UPDATE study SET facts = ?", (json.dumps(store.facts),))
        with pytest.raises(DataError, match="joined under an earlier fxray"):
            join_judge(store, "m", model="m", question="?")
        assert join_judge(store, "new", model="m", question="?").name == "new"


def test_an_answer_cut_inside_an_emoji_is_counted_as_none(study, server):
    server.faults = ["\ud83d"]
    assert ask(study, server).num_bad_answers == 1
    with open_study(study) as store:
        assert [row["answer"] for row in store.read("SELECT answer FROM bad_answer")] == ["?"]


def test_as_many_questions_are_under_way_as_were_asked_for(made, tmp_path, server, monkeypatch):
    study = tmp_path / "study.db"
    study.write_bytes(made.read_bytes())
    monkeypatch.setattr(judge_module, "_drawn", lambda *_: "")
    num_parallel = 120
    with open_study(study) as store:
        num_questions = len(open_positions(store, join_judge(store, "m", model="m", question="?")))
    server.faults = [threading.Barrier(num_parallel)] * num_parallel + ["left"] * (num_questions - num_parallel)
    judged = ask(study, server, num_parallel=num_parallel)
    assert (judged.num_votes, len(server.asked)) == (num_questions, num_questions)


def test_an_answer_that_does_not_come_is_asked_for_again_and_then_is_one_error(study, server, monkeypatch):
    monkeypatch.setattr(judge_module, "_MAX_PAUSE_S", 0.01)
    server.faults = [2.0]
    assert ask(study, server, deadline_s=1.5).num_votes == 20
    server.faults = [1.0] * 100
    with open_study(study) as store, store.transaction() as connection:
        connection.execute("UPDATE vote SET undone_at = 'then' WHERE position = 3")
    with pytest.raises(DeadlineError, match=r"no answer within 0\.1 s, 4 times"):
        ask(study, server, deadline_s=0.1)


@pytest.mark.parametrize(
    ("fault", "said"),
    [
        (404, "status 404: .*as told"),
        (500, "status 500: .*as told"),
        (b"<html>", "no chat completion: '<html>'"),
        (b'{"choices": []}', "no chat completion"),
        (b"[" * 100_000, r"no chat completion: '\[\["),
        (b"9" * 5_000, "no chat completion: '99"),
    ],
)
def test_an_address_that_refuses_or_speaks_otherwise_is_one_error(study, server, fault, said):
    server.faults = [fault] * 100
    with pytest.raises(ServiceError, match=said):
        ask(study, server)


def test_an_address_that_is_none_or_silent_is_one_error(study, server, monkeypatch):
    monkeypatch.setattr(judge_module, "_MAX_PAUSE_S", 0.01)
    with pytest.raises(ConfigError, match="is no http address"):
        ask(study, server, url="127.0.0.1:8000")
    with pytest.raises(ServiceError, match="does not answer"):
        ask(study, server, url="http://127.0.0.1:9/v1")


def test_a_key_that_no_header_can_hold_is_one_error_that_names_its_variable(study, server):
    with pytest.raises(ConfigError, match=r"^FXRAY_JUDGE_KEY: holds other characters") as raised:
        ask(study, server, key="ключ")
    assert "ключ" not in str(raised.value)
    assert server.asked == []


@pytest.mark.parametrize(
    "answer", ["", "left.", "**left**", "left right", "A", "neither", '{"choice": "left"}', "leftt"]
)
def test_what_is_not_one_of_the_three_words_is_no_choice(answer):
    assert read_choice(answer) is None
    assert read_choice(" LEFT\n") == "left"
