"""What a request may hold, image by image."""

import asyncio
import base64
import errno
import os
import tempfile

import pytest
from fake_service import png, run, running

LARGE = b"x" * (2**20 + 1000)


def form(*contents: bytes) -> dict:
    return {"files": [("images", (f"{n}.png", content, "image/png")) for n, content in enumerate(contents)]}


def as_json(*contents: bytes) -> dict:
    return {
        "json": {"images": [{"name": f"{n}.png", "data": base64.b64encode(c).decode()} for n, c in enumerate(contents)]}
    }


@pytest.mark.parametrize("body", [form, as_json])
def test_an_image_of_too_many_bytes_never_stops_the_others(make_service, backend, body):
    async def go():
        async with running(make_service()) as client:
            return [await client.post("/v1/detect", **body(*contents)) for contents in ((png(), LARGE), (LARGE,))]

    mixed, alone = run(go())
    good, bad = mixed.json()["detections"]
    assert (mixed.status_code, good["verdict"], bad["name"]) == (200, "generated", "1.png")
    assert bad["problem"]["detail"] == "image of 1049576 bytes, expected at most 1048576"
    assert (alone.status_code, alone.json()["detail"]) == (422, bad["problem"]["detail"])
    assert backend.names == ["0.png"]


def test_an_image_of_too_many_bytes_never_stops_its_batch_and_is_not_kept(make_service, tmp_path):
    async def go():
        service = make_service()
        service.runner.wake = lambda: None  # so that nothing is examined before the next look
        async with running(service) as client:
            await asyncio.sleep(0.1)
            added = await client.post("/v1/batches", **form(png(), LARGE))
            kept = [path.name for path in tmp_path.rglob("images/*")]
        async with running(make_service()) as client:
            url = added.headers["location"]
            while (state := (await client.get(url)).json())["state"] != "done":
                await asyncio.sleep(0.02)
            return added, kept, state, (await client.get(f"{url}/results")).text

    added, kept, state, results = run(go())
    assert (added.status_code, added.json()["num_failed"], kept) == (202, 1, ["000000"])
    assert (state["num_done"], state["num_failed"]) == (2, 1)
    assert '"verdict": "generated"' in results.splitlines()[0]
    assert "image of 1049576 bytes, expected at most 1048576" in results.splitlines()[1]


@pytest.mark.parametrize("path", ["/v1/detect", "/v1/batches"])
@pytest.mark.parametrize(
    ("number", "status", "says"), [(errno.ENOSPC, 507, "No space left"), (errno.EMFILE, 503, "too many files are open")]
)
def test_a_temporary_folder_that_takes_no_more_is_told(make_service, monkeypatch, path, number, status, says):
    class Full(tempfile.SpooledTemporaryFile):
        def rollover(self):
            raise OSError(number, os.strerror(number))

    monkeypatch.setattr("starlette.formparsers.SpooledTemporaryFile", Full)

    async def go():
        async with running(make_service()) as client:
            return await client.post(path, **form(png(), LARGE)), await client.post(path, **form(png()))

    refused, small = run(go())
    assert (refused.status_code, refused.headers["content-type"]) == (status, "application/problem+json")
    assert says in refused.json()["detail"]
    assert ("retry-after" in refused.headers) == (status == 503)
    assert small.is_success


def test_a_refused_content_type_is_told_what_its_route_accepts(make_service):
    async def go():
        async with running(make_service()) as client:
            sent = {"content": png(), "headers": {"content-type": "image/png"}}
            return await client.post("/v1/detect", **sent), await client.post("/v1/batches", **as_json(png()))

    detect, batch = run(go())
    assert (detect.status_code, batch.status_code) == (415, 415)
    assert "or application/json" in detect.json()["detail"]
    assert batch.json()["detail"].endswith("expected multipart/form-data with fields `images`")
    assert batch.json()["remedy"] == "send each image as a file in a field named `images`"
