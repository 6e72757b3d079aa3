"""A driver whose cluster's head is silent ends with one error, also where its own waits never end."""

import socket
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import grpc
import pytest

from fxray.errors import HeadLostError
from fxray.launch import head

STUCK = """
import sys, time
from fxray.launch import head

head.ASK_EVERY_S, head.LEAVING_DEADLINE_S = 0.1, 0.5
with head.watched_head(sys.argv[1], 0.3):
    try:
        time.sleep(60)
    finally:
        time.sleep(60)
"""

LEFT = """
import time
from fxray.launch import head

def asker(address):
    def answers():
        time.sleep(1.5)
        return False
    return answers

head.asker, head.ASK_EVERY_S = asker, 0.05
try:
    with head.watched_head("10.0.0.1:6379", 0.3):
        time.sleep(0.5)
        raise RuntimeError("a worker died")
except RuntimeError as error:
    time.sleep(2)
    print("left in order:", error)
"""


def closed_address() -> str:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        return f"127.0.0.1:{taken.getsockname()[1]}"


@pytest.fixture(autouse=True)
def asked_often(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(head, "ASK_EVERY_S", 0.05)


def test_a_silent_head_ends_the_block_with_an_error_that_says_what_to_do() -> None:
    address = closed_address()
    with (
        pytest.raises(HeadLostError, match=rf"^{address}: the head .* not answered for 0.2 s.*\n.*start the cluster"),
        head.watched_head(address, 0.2),
    ):
        time.sleep(60)


def test_an_interrupt_of_the_users_stays_one() -> None:
    with pytest.raises(KeyboardInterrupt), head.watched_head(closed_address(), 60):
        raise KeyboardInterrupt


def test_only_a_silence_longer_than_the_deadline_counts() -> None:
    answers, lost, left = iter([False] * 5 + [True] + [False] * 5 + [True] * 3), [], threading.Event()

    def answer() -> bool:
        try:
            return next(answers)
        except StopIteration:
            left.set()
            return True

    head.watch(answer, 60.0, left, lambda: lost.append(1))
    assert not lost
    head.watch(lambda: False, 0.1, threading.Event(), lambda: lost.append(2))
    assert lost == [2]


def test_a_head_that_answers_is_told_from_one_that_hangs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(head, "ANSWER_DEADLINE_S", 0.5)
    asked = []

    class Health(grpc.GenericRpcHandler):
        def service(self, call: grpc.HandlerCallDetails) -> grpc.RpcMethodHandler | None:
            asked.append(call.method)
            return grpc.unary_unary_rpc_method_handler(lambda *_: time.sleep(len(asked) - 1) or b"")

    server = grpc.server(ThreadPoolExecutor(2), handlers=[Health()])
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    answers = head.asker(f"127.0.0.1:{port}")
    assert [answers(), answers()] == [True, False]
    assert asked == ["/grpc.health.v1.Health/Check"] * 2
    server.stop(0)
    assert not answers()


def test_a_driver_that_cannot_leave_is_ended_after_the_same_words() -> None:
    command = [sys.executable, "-c", STUCK, closed_address()]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 1
    assert done.stderr.count("error: 127.0.0.1:") == 1
    assert "the head of the cluster has not answered" in done.stderr


def test_a_block_that_ends_while_the_head_is_asked_is_left_in_order() -> None:
    done = subprocess.run([sys.executable, "-c", LEFT], capture_output=True, text=True, timeout=120, check=False)
    assert (done.returncode, done.stdout) == (0, "left in order: a worker died\n")
