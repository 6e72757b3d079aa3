"""Requests to a service, good and bad, what each is owed, and how they are sent."""

import base64
import http.client
import json
import random
import re
import threading
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field, replace

PORT = 8795
URL = f"http://127.0.0.1:{PORT}"
START_DEADLINE_S, ANSWER_DEADLINE_S = 900.0, 300.0
AGAIN = (429, 503)


@dataclass(frozen=True, slots=True)
class Ask:
    """A request.

    Attributes:
        kind: For the table.
        method: Of HTTP.
        path: Of the URL.
        body: May be empty.
        headers: Beside those of the connection.
        owed: The status that it must get.
        names: Of the images that the answer must speak of, in order.
    """

    kind: str
    method: str
    path: str
    body: bytes
    headers: dict[str, str]
    owed: int
    names: tuple[str, ...] = ()


@dataclass(slots=True)
class Got:
    """What came of one request; `tries` are status and reason before the last, 0 for a connection that gave none."""

    ask: Ask
    status: int
    text: str
    tries: list[tuple[int, str]] = field(default_factory=list)
    unkind: list[str] = field(default_factory=list)


def form(*parts: tuple[str, bytes], name: str = "images") -> tuple[bytes, dict[str, str]]:
    """A multipart body and its header."""
    head = '--x\r\nContent-Disposition: form-data; name="{}"; filename="{}"\r\n\r\n'
    body = b"".join(head.format(name, file).encode() + content + b"\r\n" for file, content in parts)
    return body + b"--x--\r\n", {"Content-Type": "multipart/form-data; boundary=x"}


LARGE = form(("large.png", bytes(33 * 2**20)))
"""More than the 32 MiB that an image may have; made once."""


def as_json(document: object) -> tuple[bytes, dict[str, str]]:
    return json.dumps(document).encode(), {"Content-Type": "application/json"}


def make_ask(number: int, rng: random.Random, images: Sequence[bytes]) -> Ask:
    """The request of this number: good ones in six of ten cases, else one of the bad ones."""
    good, name, other = rng.choice(images), f"{number}.png", f"{number}b.png"
    encoded = {"name": name, "data": base64.b64encode(good).decode()}
    stream = {"Accept": "text/event-stream"}
    cut = good[: len(good) // 2]
    goods: list[Callable[[], tuple[str, tuple[bytes, dict[str, str]], tuple[str, ...]]]] = [
        lambda: ("form", form((name, good)), (name,)),
        lambda: ("JSON", as_json({"images": [encoded]}), (name,)),
        lambda: ("stream", _with(form((name, good)), stream), (name,)),
        lambda: ("one good, one cut short", form((name, cut), (other, good)), (name, other)),
    ]
    if rng.random() < 0.6:
        kind, (body, headers), names = rng.choice(goods)()
        return Ask(kind, "POST", "/v1/detect", body, headers, 200, names)
    detect = ("POST", "/v1/detect")
    nothing: tuple[bytes, dict[str, str]] = (b"", {})
    kind, (method, path), (body, headers), owed = rng.choice([
        ("no image", detect, form((name, b"no image")), 422),
        ("cut short", detect, form((name, cut)), 422),
        ("nothing", detect, nothing, 415),
        ("wrong field", detect, form((name, good), name="file"), 422),
        ("1,000 parts", detect, form(*[("a", b"x")] * 1000), 413),
        ("no base64", detect, as_json({"images": [{"data": "?" * 9}]}), 422),
        ("no JSON", detect, (b"{", {"Content-Type": "application/json"}), 422),
        ("too large", detect, LARGE, 422),
        ("wrong host", ("GET", "/v1/models"), (b"", {"Host": "evil.example"}), 421),
        ("no batch", ("GET", "/v1/batches/" + "0" * 32), nothing, 404),
        ("no route", ("GET", "/v1/../etc/passwd"), nothing, 404),
        ("wrong method", ("PUT", "/v1/detect"), nothing, 405),
    ])  # fmt: skip
    return Ask(kind, method, path, body, headers, owed)


def _with(sent: tuple[bytes, dict[str, str]], headers: dict[str, str]) -> tuple[bytes, dict[str, str]]:
    return sent[0], sent[1] | headers


def send(ask: Ask, *, is_patient: bool) -> Got:
    """One request over a connection of its own; a patient sender comes back as it is told, or to a new service.

    Where Ray Serve's proxy is alone, its 404 in plain text is one of a service on a cluster that starts or stops.
    """
    end_s = time.monotonic() + START_DEADLINE_S
    got = Got(ask, 0, "")
    while True:
        connection = http.client.HTTPConnection("127.0.0.1", PORT, timeout=ANSWER_DEADLINE_S)
        wait_s, is_alone = 1.0, False
        try:
            connection.connect()
        except OSError:
            got.status, got.text = -1, "nobody listens"
        else:
            try:
                connection.request(ask.method, ask.path, ask.body, ask.headers)
                answer = connection.getresponse()
                got.status, got.text = answer.status, answer.read().decode()
                after = answer.getheader("Retry-After")
                if got.status in AGAIN and after is None:
                    got.unkind.append(got.text[:200])
                wait_s = float(after or 1)
                is_alone = got.status == 404 and "json" not in (answer.getheader("Content-Type") or "")
            except (OSError, http.client.HTTPException) as error:
                got.status, got.text = 0, repr(error)
        finally:
            connection.close()
        is_to_be_sent_again = is_alone or got.status in (-1, 0, *AGAIN)
        if not is_patient or not is_to_be_sent_again or time.monotonic() > end_s:
            return got
        got.tries.append((got.status, reason_of(got)))
        time.sleep(min(wait_s, 5.0))


def reason_of(got: Got) -> str:
    """Why a request is to be sent again, without its numbers."""
    said = json.loads(got.text)["detail"] if got.status in AGAIN else got.text
    return re.sub(r"[\d.]+", "N", said)


def send_all(asks: Iterable[Ask], num_clients: int, *, is_patient: bool, on_answer: Callable[[int], None]) -> list[Got]:
    """All of them by so many senders; `on_answer` is told how many are answered."""
    waiting, lock = iter(asks), threading.Lock()
    gots: list[Got] = []

    def run() -> None:
        while True:
            with lock:
                ask = next(waiting, None)
            if ask is None:
                return
            got = send(ask, is_patient=is_patient)
            got.ask = replace(ask, body=b"")  # thousands of them are kept
            with lock:
                gots.append(got)
                on_answer(len(gots))

    senders = [threading.Thread(target=run) for _ in range(num_clients)]
    for sender in senders:
        sender.start()
    for sender in senders:
        sender.join()
    return gots


def names_in(got: Got) -> tuple[str, ...]:
    """Of the images that an answer speaks of."""
    if got.ask.kind != "stream":
        return tuple(found["name"] for found in json.loads(got.text)["detections"])
    events = [block.split("\ndata: ") for block in got.text.strip().split("\n\n")]
    return tuple(json.loads(data)["detection"]["name"] for kind, data in events if kind == "event: detection")


def faults_of(gots: Sequence[Got]) -> list[str]:
    """What was not as it is owed."""
    faults = [f"{got.ask.kind}: {text}" for got in gots for text in got.unkind]
    for got in gots:
        if got.status in AGAIN and not got.unkind:
            continue
        if got.status != got.ask.owed:
            faults.append(f"{got.ask.kind}: status {got.status}, owed {got.ask.owed}: {got.text[:200]}")
        elif got.ask.names and names_in(got) != got.ask.names:
            faults.append(f"{got.ask.kind}: answer of {names_in(got)}, asked about {got.ask.names}")
    return faults
