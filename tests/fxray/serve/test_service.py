"""How an image passes through the gateway: what is asked of the engines, told and counted."""

import asyncio
import gc

import httpx
import pytest
from fake_service import png, run, running

from fxray.serve.api import build_app


def sent(content: bytes) -> dict:
    return {"files": [("images", ("a.png", content, "image/png"))]}


def test_changes_that_an_image_is_too_long_for_are_named_and_the_rest_is_asked(make_service, monkeypatch):
    monkeypatch.setattr("fxray.data.changes.MAX_JPEG_SIDE_PX", 95)

    async def go():
        async with running(make_service()) as client:
            return await client.post("/v1/stability", **sent(png(100, 80)))

    answer = run(go())
    found = answer.json()
    assert answer.status_code == 200
    assert found["not_tried"] == [f"JPEG, quality {quality}" for quality in (90, 70, 50, 30)]
    assert [trial["change"] for trial in found["trials"]] == [
        "resize-0.5", "resize-0.75", "resize-1.5", "crop", "screenshot",
    ]  # fmt: skip
    assert (found["num_changes"], found["num_flips"]) == (5, 1)
    assert found["sentence"] == (
        'The answer "generated" does not hold under 1 of 5 changes: "real" when resized to 50%. Not tried, as the '
        "image is too long: JPEG, quality 90; JPEG, quality 70; JPEG, quality 50; JPEG, quality 30."
    )


def test_changed_copies_are_counted_apart_from_the_images_that_were_sent(make_service, monkeypatch):
    async def go():
        async with running(make_service()) as client:
            await client.post("/v1/stability", **sent(png(100, 80)))
            monkeypatch.setattr("fxray.data.changes.MAX_JPEG_SIDE_PX", 95)
            await client.post("/v1/stability", **sent(png(100, 80)))  # four of its copies are not made
            return (await client.get("/metrics")).text.splitlines()

    counted = dict(line.split() for line in run(go()) if line.startswith("fxray_images_total"))
    assert counted == {
        'fxray_images_total{verdict="generated"}': "2.0",
        'fxray_images_total{verdict="changed"}': "14.0",
    }


@pytest.mark.parametrize("spec_version", ["2.3", "2.4"])
def test_a_stream_that_nobody_reads_leaves_its_engine_at_the_deadline(make_service, backend, spec_version):
    request = httpx.Request(
        "POST", "http://127.0.0.1:8000/v1/detect", headers={"accept": "text/event-stream"}, **sent(png())
    )
    messages = [{"type": "http.request", "body": request.read(), "more_body": False}]
    events = []

    async def receive():
        return messages.pop() if messages else await asyncio.Event().wait()

    async def send(message):
        events.append(message.get("body", b""))
        if b"event: region" in events[-1]:
            await asyncio.Event().wait()

    scope = {
        "type": "http", "asgi": {"version": "3.0", "spec_version": spec_version}, "http_version": "1.1",
        "method": "POST", "scheme": "http", "path": "/v1/detect", "raw_path": b"/v1/detect", "query_string": b"",
        "root_path": "", "headers": [(name.lower(), value) for name, value in request.headers.raw],
        "client": ("127.0.0.1", 1), "server": ("127.0.0.1", 8000),
    }  # fmt: skip

    async def go():
        service = make_service(request_deadline_s=0.3)
        await asyncio.gather(build_app(service)(scope, receive, send), return_exceptions=True)
        return service.admission.num_in_flight, service.admission.num_admitted, backend.num_running

    gc.disable()  # which would close the stream by chance
    try:
        left = run(go())
    finally:
        gc.enable()
    assert b"event: region" in events[-1]
    assert left == (0, 0, 0)
