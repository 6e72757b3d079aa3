"""What comes from strangers: every request gets one clear answer, none a server error."""

import asyncio
import base64
import json
import struct
import threading
import zlib

import pytest
from fake_service import png, running
from pydantic import ValidationError

from fxray.serve.shield import loopback_hosts
from fxray.serve.uploads import harmless_name
from fxray.serve.wire import DetectIn


def ask(service, *requests):
    """The answers to requests, each a dict of arguments of httpx."""

    async def go():
        async with running(service) as client:
            return [await client.request(**({"method": "POST", "url": "/v1/detect"} | request)) for request in requests]

    return asyncio.run(asyncio.wait_for(go(), 60))


MULTIPART = "multipart/form-data; boundary=x"


def multipart(*parts: tuple[str, bytes]) -> dict:
    body = b"".join(b"--x\r\n" + head.encode("latin-1") + b"\r\n\r\n" + content + b"\r\n" for head, content in parts)
    return {"content": body + b"--x--\r\n", "headers": {"content-type": MULTIPART}}


def part(name: str = "images", filename: str = "a.png") -> str:
    return f'Content-Disposition: form-data; name="{name}"; filename="{filename}"\r\nContent-Type: image/png'


def bomb() -> bytes:
    """A PNG of a few bytes that claims 60,000 x 60,000 pixels."""
    header = struct.pack(">IIBBBBB", 60_000, 60_000, 8, 2, 0, 0, 0)
    chunks = [(b"IHDR", header), (b"IDAT", zlib.compress(b"\0" * 1000)), (b"IEND", b"")]
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data)) for kind, data in chunks
    )


@pytest.mark.parametrize(
    ("request_", "status", "says"),
    [
        ({"content": b""}, 415, "content type ''"),
        ({"content": b"x", "headers": {"content-type": "text/html"}}, 415, "text/html"),
        ({"content": png(), "headers": {"content-type": "image/png"}}, 415, "image/png"),
        ({"content": b"{}", "headers": {"content-type": "multipart/form-data; boundary="}}, 400, "multipart"),
        (multipart((part(), png())) | {"headers": {"content-type": "application/json"}}, 422, "JSON"),
        ({"content": b"x", "headers": {"content-type": "multipart/form-data"}}, 400, "boundary"),
        *[
            (multipart((part(), png())) | {"headers": {"content-type": MULTIPART + charset}}, 400, "multipart")
            for charset in ("; charset=undefined", "; charset=\0utf-8")
        ],
        ({"content": b"--x\r\nbroken", "headers": {"content-type": "multipart/form-data; boundary=x"}}, 422, "0 of 0"),
        (multipart((part("other"), png())), 422, "`images`"),
        (multipart(('Content-Disposition: form-data; name="images"', b"text")), 400, "fields"),
        (multipart(*[(part(), b"x")] * 10_000), 413, "files"),
        (multipart((part(), b"x" * (2**20 + 1))), 422, "1048577 bytes"),
        ({"content": b"x" * (4 * 2**20 + 1), "headers": {"content-type": "application/json"}}, 413, "body"),
        ({"content": b"{", "headers": {"content-type": "application/json"}}, 422, "JSON"),
        ({"content": b"[" * 100_000, "headers": {"content-type": "application/json"}}, 422, "JSON"),
        ({"json": {"images": []}}, 422, "at least 1"),
        ({"json": {"images": [{"data": "http://10.0.0.1/a.png"}]}}, 422, "base64"),
        ({"json": {"images": [{"data": "a" * 9}]}}, 422, "base64"),
        ({"json": {"images": [{"url": "http://10.0.0.1/a.png"}]}}, 422, ""),
        ({"json": {"images": [{"data": ""}] * 9}}, 413, "9 images"),
        ({"json": {"images": [{"data": base64.b64encode(bomb()).decode()}]}}, 422, "too many pixels"),
        (multipart((part(), b"<svg xmlns='http://www.w3.org/2000/svg'><script>1</script></svg>")), 422, "SVG"),
        ({"method": "GET", "url": "/v1/batches/..%2f..%2fetc%2fpasswd"}, 404, ""),
        ({"method": "GET", "url": "/v1/batches/" + "A" * 32}, 422, "pattern"),
        ({"method": "GET", "url": "/static/../api.py"}, 404, ""),
        ({"method": "GET", "url": "/static/%2e%2e%2fapi.py"}, 404, ""),
        ({"method": "PUT"}, 405, "use POST"),
        ({"method": "GET", "url": "/v1/nothing"}, 404, "/openapi.json lists"),
        ({"content": b"", "headers": {"content-length": "99999999999999999999999999"}}, 413, "body"),
    ],
)  # fmt: skip
def test_a_bad_request_is_told_what_is_wrong(make_service, request_, status, says):
    (answer,) = ask(make_service(), request_)
    body = answer.json()
    assert answer.status_code == body["status"] == status
    assert answer.headers["content-type"] == "application/problem+json"
    assert says in json.dumps(body)


def test_an_image_of_more_pixels_than_allowed_is_refused_unread(make_service, backend):
    (answer,) = ask(make_service(max_image_pixels=700), {"files": [("images", ("a.png", png(32, 24), "image/png"))]})
    assert answer.status_code == 422
    assert "32x24" in answer.json()["detail"]
    assert backend.names == []


def test_headers_are_read_beside_the_event_loop(make_service, monkeypatch):
    threads = []

    def check(upload, limits):
        threads.append(threading.current_thread())

    monkeypatch.setattr("fxray.serve.service.check_image", check)
    sent = {"files": [("images", ("a.png", png()))]}
    ask(make_service(), sent, sent | {"headers": {"accept": "text/event-stream"}}, sent | {"url": "/v1/stability"})
    assert len(threads) == 3
    assert threading.main_thread() not in threads


@pytest.mark.parametrize(
    ("sent", "kept"),
    [
        ("photo.jpg", "photo.jpg"),
        ("../../etc/passwd", "passwd"),
        ("C:\\Users\\me\\a.png", "a.png"),
        ("a\x00b\r\nSet-Cookie: x\x1b[31m.png", "a b Set-Cookie: x [31m.png"),
        ("<img src=x onerror=alert(1)>.png", "<img src=x onerror=alert(1)>.png"),
        ("a\u202egnp.exe", "a gnp.exe"),
        ("..", "image 3"),
        ("", "image 3"),
        ("é" * 500, "é" * 199 + "…"),
    ],
)
def test_a_name_is_one_harmless_line(sent, kept):
    assert harmless_name(sent, 3) == kept


NAMES = ("../../../../tmp/evil.png", "..\\..\\evil.png", "/etc/cron.d/evil.png", "a\u202egnp.exe", "a\tb\x1b[2J.png")


def test_names_that_are_sent_lead_nowhere(make_service, tmp_path):
    """They come back as one line, as a form, as JSON and of a batch, and no file is called by them."""
    data = base64.b64encode(png()).decode()
    service = make_service()
    parts = multipart(*[(part(filename=name.encode().decode("latin-1")), png()) for name in NAMES])

    async def go():
        async with running(service) as client:
            as_json = await client.post("/v1/detect", json={"images": [{"data": data, "name": name} for name in NAMES]})
            form = await client.post("/v1/detect", **parts)
            batch = (await client.post("/v1/batches", **parts)).json()
            while (await client.get(f"/v1/batches/{batch['id']}")).json()["state"] != "done":
                await asyncio.sleep(0.02)
            lines = (await client.get(batch["results"])).text.splitlines()
            answers = [as_json.json()["detections"], form.json()["detections"], [json.loads(line) for line in lines]]
            return [[found["name"] for found in answer] for answer in answers]

    assert (
        asyncio.run(asyncio.wait_for(go(), 60))
        == [["evil.png", "evil.png", "evil.png", "a gnp.exe", "a b [2J.png"]] * 3
    )
    kept = {path.name for path in tmp_path.rglob("*") if path.is_file()}
    assert kept == {"batch.json", *(f"{number:06}.json" for number in range(len(NAMES)))}


@pytest.mark.parametrize(
    "authorization",
    [
        "Bearer",
        "Bearer ",
        "Basic fxray_right",
        "fxray_right",
        "Bearer fxray_right2",
        "Bearer fxray_righ",
        "Bearer \xe9",
    ],
)
def test_what_is_almost_a_key_is_none(make_service, backend, authorization):
    sent = {"headers": {"authorization": authorization.encode("latin-1")}, "files": [("images", ("a.png", png()))]}
    refused, let_in = ask(
        make_service({"fxray_right": "ana"}), sent, sent | {"headers": {"authorization": "bearer fxray_right"}}
    )
    assert (refused.status_code, let_in.status_code) == (401, 200)
    assert "fxray_right" not in refused.text
    assert len(backend.names) == 1  # the refused one came to no engine


def test_where_keys_are_needed_and_none_is_known_nobody_is_let_in(make_service, backend):
    sent = {"files": [("images", ("a.png", png()))]}
    answers = ask(make_service(needs_keys=True), sent, sent | {"headers": {"authorization": "Bearer fxray_any"}})
    assert [answer.status_code for answer in answers] == [401, 401]
    assert backend.names == []


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({}, 200),
        ({"host": "localhost:8000"}, 200),
        ({"host": "evil.example"}, 421),
        ({"host": "127.0.0.1.evil.example:8000"}, 421),
        ({"sec-fetch-site": "cross-site", "sec-fetch-mode": "cors"}, 403),
        ({"sec-fetch-site": "cross-site", "sec-fetch-mode": "navigate"}, 200),
    ],
)
def test_foreign_pages_get_no_answer(make_service, headers, status):
    service = make_service(allowed_hosts=("127.0.0.1", "localhost"))
    (answer,) = ask(service, {"method": "GET", "url": "/v1/models", "headers": headers})
    assert answer.status_code == status


FORM = {"sec-fetch-site": "cross-site", "sec-fetch-mode": "navigate"}


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({}, 200),
        (FORM | {"origin": "https://evil.example"}, 403),
        (FORM, 403),
        ({"origin": "http://evil.example"}, 403),
        ({"origin": "null"}, 403),
        ({"origin": "http://127.0.0.1:3000", "sec-fetch-site": "same-site"}, 403),
        ({"origin": "http://127.0.0.1:8000"}, 200),
        ({"origin": "http://127.0.0.1:8000", "sec-fetch-site": "same-origin"}, 200),
        ({"origin": "https://fxray.example", "sec-fetch-site": "same-origin"}, 200),  # a proxy changed the Host
    ],
)
def test_foreign_pages_send_no_form(make_service, backend, headers, status):
    (answer,) = ask(make_service(), multipart((part(), png())) | {"headers": multipart()["headers"] | headers})
    assert answer.status_code == status
    assert len(backend.names) == (status == 200)


@pytest.mark.parametrize(
    ("host", "named"),
    [("127.0.0.1", "127.0.0.1"), ("localhost", "localhost"), ("::1", "[::1]"), ("127.0.0.2", "127.0.0.2")],
)
def test_a_service_on_a_loopback_address_answers_its_own_name_and_no_foreign_one(make_service, host, named):
    service = make_service(allowed_hosts=loopback_hosts(host))
    model = {"method": "GET", "url": "/v1/models"}
    answers = ask(service, *(model | {"headers": {"host": f"{name}:8000"}} for name in (named, "a.example")))
    assert [answer.status_code for answer in answers] == [200, 421]
    assert loopback_hosts("192.0.2.1") == ()


def test_every_answer_forbids_foreign_content_and_scripts(make_service):
    pages = ask(
        make_service(),
        *({"method": "GET", "url": url} for url in ("/", "/docs", "/static/app.js", "/nothing", "/v1/models")),
    )
    for answer in pages:
        policy = answer.headers["content-security-policy"]
        assert "default-src 'none'" in policy
        assert "unsafe" not in policy
        assert answer.headers["x-content-type-options"] == "nosniff"


def test_a_slow_body_is_given_up(make_service, backend):
    from fxray.serve.api import build_app

    sent = []

    async def receive():
        await asyncio.sleep(0.05)
        return {"type": "http.request", "body": b"-", "more_body": True}

    async def send(message):
        sent.append(message)

    scope = {
        "type": "http", "asgi": {"version": "3.0"}, "http_version": "1.1", "method": "POST", "scheme": "http",
        "path": "/v1/detect", "raw_path": b"/v1/detect", "query_string": b"", "root_path": "",
        "headers": [(b"content-type", b"application/json")], "client": ("127.0.0.1", 1),
        "server": ("127.0.0.1", 8000),
    }  # fmt: skip

    asyncio.run(build_app(make_service(upload_deadline_s=0.3))(scope, receive, send))
    assert sent[0]["status"] == 408


@pytest.mark.parametrize(
    ("path", "num_images", "is_length_told", "status"),
    [
        ("/v1/detect", 1, True, 408),
        ("/v1/detect", 1, False, 408),
        ("/v1/batches", 1, True, 408),
        ("/v1/batches", 8, True, 202),
        ("/v1/batches", 1, False, 202),  # it may become as long as any
    ],
)
def test_a_body_larger_than_a_request_has_longer_to_arrive(make_service, path, num_images, is_length_told, status):
    """0.4 s for up to 0.5 MiB; eight images of 0.5 MiB have eight times that."""
    image = png(400, 400)
    body = multipart(*((part(filename=f"{n}.png"), image) for n in range(num_images)))["content"]
    limits = {"upload_deadline_s": 0.4, "max_request_bytes": 2**19, "max_batch_bytes": 8 * 2**20}
    headers = {"content-type": MULTIPART} | ({"content-length": str(len(body))} if is_length_told else {})

    async def go():
        async def late():
            yield body[:100]
            await asyncio.sleep(0.8)
            yield body[100:]

        async with running(make_service(**limits)) as client:
            return await client.post(path, content=late(), headers=headers)

    answer = asyncio.run(asyncio.wait_for(go(), 30))
    assert answer.status_code == status
    assert status != 408 or "within 0.4 s, 100 bytes" in answer.json()["detail"]


def test_memory_of_a_request_is_bounded_by_its_limit_and_not_by_its_sender(make_service, peak_kib):
    """A sender without Content-Length is cut off at the limit of 4 MiB, of the 400 MiB it would send."""

    async def go():
        async def endless():
            for _ in range(400):
                yield b"x" * 2**20

        async with running(make_service()) as client:
            return await client.post("/v1/detect", content=endless(), headers={"content-type": "application/json"})

    before = peak_kib()
    assert asyncio.run(go()).status_code == 413
    assert peak_kib() - before < 64 * 1024


@pytest.mark.parametrize("item", [b"1", b"{}", b"[]", b'{"data":""}'])
@pytest.mark.parametrize("field", [b"images", b"others"])
def test_json_of_a_million_values_is_refused_before_it_is_taken_apart(make_service, peak_kib, field, item):
    num_items = 3 * 2**20 // (len(item) + 1)
    body = b'{"%s":[%s]}' % (field, b",".join([item] * num_items))
    request = {"content": body, "headers": {"content-type": "application/json"}}
    before = peak_kib()
    (answer,) = ask(make_service(), request)
    assert peak_kib() - before < 32 * 1024
    assert answer.status_code == 422
    assert "send at most 8 images" in answer.json()["remedy"]


def test_of_many_bad_items_the_first_alone_is_looked_at(make_service):
    (answer,) = ask(make_service(), {"json": {"images": [1] * 1000}})
    assert (answer.status_code, answer.json()["where"]) == (422, "body.images.0")
    with pytest.raises(ValidationError) as raised:
        DetectIn.model_validate({"images": [1] * 1000})
    assert raised.value.error_count() == 1


def test_bodies_that_are_on_their_way_share_a_budget(make_service):
    """8 MiB are let in: two of 3 MiB, no third, none of unknown length, but what has no body; a batch has its own."""
    content = multipart((part(), png()))["content"]
    form = {"content-type": "multipart/form-data; boundary=x"}

    async def go():
        gate = asyncio.Event()

        async def waiting():
            await gate.wait()
            yield content

        async def asked(path="/v1/detect", content=waiting, **headers):
            return await client.post(path, content=content() if callable(content) else content, headers=form | headers)

        large = {"content-length": str(3 * 2**20)}
        async with running(make_service(max_upload_bytes=8 * 2**20)) as client:
            begun = [asyncio.create_task(asked(**large)) for _ in range(2)]
            await asyncio.sleep(0.1)
            late = [await asked(**large), await asked(), await asked(content=content), await client.get("/v1/models")]
            late.append(await asked("/v1/batches", content))
            gate.set()
            return [(await task).status_code for task in begun], late, await asked(**large)

    begun, late, after = asyncio.run(asyncio.wait_for(go(), 30))
    assert begun == [200, 200]
    assert [answer.status_code for answer in late] == [503, 503, 200, 200, 202]
    assert late[0].headers["retry-after"] == "5"
    assert "6291456 bytes" in late[0].json()["detail"]
    assert after.status_code == 200


@pytest.mark.parametrize("state", ["full", "draining"])
@pytest.mark.parametrize("path", ["/v1/detect", "/v1/stability"])
def test_a_body_that_would_be_refused_is_not_read(make_service, path, state):
    num_read = 0

    async def go():
        async def body():
            nonlocal num_read
            num_read += 1
            yield b"x"

        service = make_service(max_in_flight=1, max_waiting=0)
        async with running(service) as client, service.admission.admitted(1):
            service.admission.is_draining = state == "draining"
            return await client.post(path, content=body(), headers={"content-type": "application/json"})

    answer = asyncio.run(asyncio.wait_for(go(), 30))
    assert (answer.status_code, num_read) == (503, 0)
    assert ("stop" if state == "draining" else "too many") in answer.json()["detail"]
