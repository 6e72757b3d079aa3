import asyncio
import base64
import io
import json

import pytest
from fake_service import HOSTILE_CAPTION, png, post, run, running
from PIL import Image, PngImagePlugin

from fxray.errors import CheckpointError
from fxray.serve.problems import unavailable


def files(*contents: bytes, name: str = "photo.png"):
    return [("images", (name, content, "image/png")) for content in contents]


def events_of(text: str) -> list[tuple[str, dict]]:
    blocks = [block.split("\n") for block in text.strip().split("\n\n")]
    return [(lines[0].removeprefix("event: "), json.loads(lines[1].removeprefix("data: "))) for lines in blocks]


def test_images_come_back_in_order_whichever_way_they_were_sent(make_service):
    async def go():
        async with running(make_service()) as client:
            form = await client.post("/v1/detect", files=files(png(32, 24), png(10, 80)))
            encoded = [base64.b64encode(png(w, h)).decode() for w, h in ((32, 24), (10, 80))]
            body = {"images": [{"name": "a.png", "data": encoded[0]}, {"data": encoded[1]}]}
            return form, await client.post("/v1/detect", json=body)

    form, as_json = run(go())
    assert form.status_code == as_json.status_code == 200
    sizes = [[(d["width_px"], d["height_px"]) for d in r.json()["detections"]] for r in (form, as_json)]
    assert sizes == [[(32, 24), (10, 80)]] * 2
    assert [d["name"] for d in as_json.json()["detections"]] == ["a.png", "image 2"]
    assert form.json()["detections"][0]["regions"] == [{"box": [0, 0, 16, 12], "caption": HOSTILE_CAPTION}]


def test_a_bad_image_never_stops_the_others(make_service):
    async def go():
        async with running(make_service()) as client:
            mixed = await client.post("/v1/detect", files=files(png()[:60], png()))
            alone = await client.post("/v1/detect", files=files(b"no image"))
            return mixed, alone

    mixed, alone = run(go())
    first, second = mixed.json()["detections"]
    assert mixed.status_code == 200
    assert first["problem"]["status"] == 422
    assert "damaged" in first["problem"]["detail"]
    assert (second["verdict"], second["probability_kind"]) == ("generated", "calibrated")
    assert second["calibration"]["num_images"] == 512
    assert alone.status_code == 422
    assert alone.headers["content-type"] == "application/problem+json"
    assert alone.json()["remedy"]


def test_what_a_file_says_of_itself_is_told_apart_from_the_verdict(make_service):
    chunks, buffer = PngImagePlugin.PngInfo(), io.BytesIO()
    chunks.add_text("parameters", "a fox, /home/anna/x Steps: 20, Sampler: Euler, <b>")
    chunks.add_text("Author", "Anna Petrova")
    Image.new("RGB", (32, 24)).save(buffer, "PNG", pnginfo=chunks)

    async def go():
        async with running(make_service()) as client:
            return await client.post("/v1/detect", files=files(buffer.getvalue(), png()))

    marked, plain = (detection["provenance"] for detection in run(go()).json()["detections"])
    assert marked["marks"] == [
        {"by": "Stable Diffusion web UI", "says": "generated", "place": "png:parameters",
         "text": "a fox, [path] Steps: 20, Sampler: Euler, <b>"},
    ]  # fmt: skip
    assert (marked["c2pa"], marked["withheld"]) == ("absent", ["author"])
    assert "Petrova" not in json.dumps(marked)
    assert plain["marks"] == []
    assert "proves nothing" in plain["sentences"][0]


def test_regions_are_streamed_before_the_verdict(make_service):
    async def go():
        async with running(make_service()) as client:
            accept = {"accept": "text/event-stream"}
            return await client.post("/v1/detect", files=files(png(), b"no image"), headers=accept)

    events = events_of(run(go()).text)
    assert [kind for kind, _ in events] == ["image", "region", "detection", "problem", "end"]
    assert [data.get("index") for _, data in events] == [0, 0, 0, 1, None]
    assert events[1][1]["region"] == events[2][1]["detection"]["regions"][0]


def test_an_error_in_a_stream_is_an_event(make_service, backend):
    backend.error = unavailable("the engine is gone", retry_after_s=3)

    async def go():
        async with running(make_service()) as client:
            return await client.post("/v1/detect", files=files(png()), headers={"accept": "text/event-stream"})

    events = events_of(run(go()).text)
    assert [kind for kind, _ in events] == ["problem", "end"]
    assert events[0][1]["problem"]["status"] == 503
    assert events[0][1]["problem"]["retry_after_s"] == 3


def test_a_stream_ends_with_the_problem_that_a_plain_request_gets(make_service, backend):
    backend.error = CheckpointError("no adapter", where="/a", remedy="train one")

    async def go():
        async with running(make_service()) as client:
            plain = await client.post("/v1/detect", files=files(png()))
            accept = {"accept": "text/event-stream"}
            return plain, await client.post("/v1/detect", files=files(png()), headers=accept)

    plain, streamed = run(go())
    assert (plain.status_code, plain.json()["detail"]) == (500, "no adapter")
    assert events_of(streamed.text) == [("problem", {"problem": plain.json()}), ("end", {})]


def test_what_becomes_of_an_answer_is_told_change_by_change(make_service, backend):
    async def go():
        async with running(make_service()) as client:
            told = await client.post("/v1/stability", files=files(png(100, 80)))
            two = await client.post("/v1/stability", files=files(png(), png()))
            return told, two, await client.post("/v1/stability", files=files(b"no image"))

    told, two, broken = run(go())
    found = told.json()
    assert (told.status_code, two.status_code, broken.status_code) == (200, 413, 422)
    assert (found["num_changes"], found["num_flips"]) == (9, 1)
    assert found["sentence"] == 'The answer "generated" does not hold under 1 of 9 changes: "real" when resized to 50%.'
    trials = {trial["change"]: trial for trial in found["trials"]}
    assert trials["jpeg-30"]["iou"] == 1
    assert trials["resize-1.5"]["regions"][0]["box"] == [0, 0, 50, 40]  # in pixels of the original
    assert (trials["resize-0.5"]["iou"], trials["resize-0.5"]["regions"]) == (0, [])
    # The left upper quarter of the middle 80 %: 40 x 32 px at (10, 8), of which (0, 0, 50, 40) shows all.
    assert trials["crop"]["regions"][0]["box"] == [10, 8, 50, 40]
    assert trials["crop"]["iou"] == 1


def test_a_question_about_stability_counts_as_the_images_that_it_costs(make_service, backend):
    backend.seconds = 0.1

    async def go():
        service = make_service({"fxray_a": "ana"}, images_per_min=12, max_in_flight=2, max_waiting=9)
        headers = {"authorization": "Bearer fxray_a"}
        async with running(service) as client:
            asked = asyncio.create_task(client.post("/v1/stability", files=files(png()), headers=headers))
            await asyncio.sleep(0.05)
            late = await client.post("/v1/detect", files=files(png(), png()), headers=headers)
            answer = await asked
            return (
                answer.status_code,
                late.status_code,
                await client.post("/v1/stability", files=files(png()), headers=headers),
            )

    answer, late, again = run(go())
    assert (answer, late) == (200, 503)
    assert again.status_code == 429
    assert backend.most_running <= 2


def test_what_finds_no_room_is_refused_with_a_time_to_wait(make_service, backend):
    backend.seconds = 0.3

    async def go():
        async with running(make_service(max_in_flight=2, max_waiting=2)) as client:
            asked = [client.post("/v1/detect", files=files(png(seed=n))) for n in range(7)]
            return await asyncio.gather(*asked)

    answers = run(go())
    codes = sorted(answer.status_code for answer in answers)
    assert codes == [200] * 4 + [503] * 3
    assert all(int(a.headers["retry-after"]) >= 1 for a in answers if a.status_code == 503)
    assert backend.most_running == 2


def test_what_takes_too_long_is_cancelled_in_the_engine(make_service, backend):
    backend.seconds = 5

    async def go():
        service = make_service(request_deadline_s=1.0)
        async with running(service) as client:
            answer = await client.post("/v1/detect", files=files(png(), png()))
            return answer, service.admission.num_admitted

    answer, num_left = run(go())
    assert answer.status_code == 503
    assert "1 s" in answer.json()["detail"]
    assert (backend.num_cancelled, backend.num_running, num_left) == (2, 0, 0)


def test_a_client_that_goes_away_frees_the_engine(make_service, backend):
    backend.seconds = 5
    service = make_service()

    async def go():
        body = base64.b64encode(png()).decode()
        content = json.dumps({"images": [{"data": body}]}).encode()
        messages = [{"type": "http.request", "body": content, "more_body": False}]

        async def receive():
            if messages:
                return messages.pop()
            while not backend.num_running:
                await asyncio.sleep(0.01)
            return {"type": "http.disconnect"}

        await post(service, "application/json", len(content), receive)

    run(go())
    assert (backend.num_cancelled, backend.num_running, service.admission.num_admitted) == (1, 0, 0)


def test_a_client_that_goes_away_while_it_sends_is_no_fault_of_the_service(make_service):
    service = make_service()
    head = b'--x\r\nContent-Disposition: form-data; name="images"; filename="a.png"\r\n\r\n'
    messages = [{"type": "http.request", "body": head, "more_body": True}, {"type": "http.disconnect"}]

    async def receive():
        return messages.pop(0)

    assert run(post(service, "multipart/form-data; boundary=x", 5000, receive)) == 499
    assert 'route="/v1/detect",status="499"} 1.0' in service.metrics.text().decode()


def test_an_engine_that_is_gone_can_be_asked_again(make_service, backend):
    backend.error = unavailable("the engine is gone", retry_after_s=2)

    async def go():
        async with running(make_service()) as client:
            detected = await client.post("/v1/detect", files=files(png()))
            heads = [await client.head(path) for path in ("/readyz", "/healthz")]
            return detected, await client.get("/readyz"), await client.get("/healthz"), heads

    detected, ready, healthy, heads = run(go())
    assert [head.status_code for head in heads] == [503, 200]
    assert detected.status_code == ready.status_code == 503
    assert detected.headers["retry-after"] == "2"
    assert healthy.status_code == 200


def test_a_key_has_its_own_rate(make_service):
    async def go():
        service = make_service({"fxray_a": "ana", "fxray_b": "ben"}, images_per_min=3)
        async with running(service) as client:
            ana, ben = ({"authorization": f"Bearer fxray_{name}"} for name in "ab")
            return [
                (await client.post("/v1/detect", files=files(png(), png()), headers=headers)).status_code
                for headers in (ana, ana, ben)
            ]

    assert run(go()) == [200, 429, 200]


@pytest.mark.parametrize("accept", ["application/json", "text/event-stream"])
def test_what_finds_no_room_is_not_paid_for(make_service, backend, accept):
    backend.seconds = 0.3

    async def go():
        service = make_service({"fxray_a": "ana", "fxray_b": "ben"}, images_per_min=3, max_in_flight=1, max_waiting=2)
        ana, ben = ({"authorization": f"Bearer fxray_{name}"} for name in "ab")
        async with running(service) as client:
            begun = asyncio.create_task(client.post("/v1/detect", files=files(png()), headers=ben))
            while not backend.num_running:
                await asyncio.sleep(0.01)
            three = {"files": files(png(), png(), png())}
            refused = await client.post("/v1/detect", **three, headers=ana | {"accept": accept})
            await begun
            let_in = [(await client.post("/v1/detect", **three, headers=ana)).status_code for _ in range(2)]
            return refused.text, let_in

    refused, let_in = run(go())
    assert "are too many" in refused
    assert let_in == [200, 429]


def test_images_that_wait_are_counted_those_of_batches_too(make_service, backend):
    backend.seconds = 0.5

    async def numbers(client):
        lines = (await client.get("/metrics")).text.splitlines()
        return [float(line.split()[1]) for line in lines if line.startswith(("fxray_images_in_f", "fxray_images_w"))]

    async def go():
        async with running(make_service(max_in_flight=2)) as client:
            await client.post("/v1/batches", files=files(png(), png()))
            while not backend.num_running:
                await asyncio.sleep(0.01)
            alone = await numbers(client)
            asked = asyncio.create_task(client.post("/v1/detect", files=files(png(), png(), png())))
            while sum(beside := await numbers(client)) < 4:
                await asyncio.sleep(0.01)
            await asked
            return alone, beside

    assert run(go()) == ([1, 0], [2, 2])


def test_guessing_keys_is_stopped(make_service):
    async def go():
        async with running(make_service({"fxray_right": "ana"})) as client:
            codes = [
                (await client.get("/v1/models", headers={"authorization": f"Bearer guess{n}"})).status_code
                for n in range(12)
            ]
            right = await client.get("/v1/models", headers={"authorization": "Bearer fxray_right"})
            return codes, right.status_code, (await client.get("/healthz")).status_code

    codes, right, healthy = run(go())
    assert codes == [401] * 10 + [429] * 2
    assert right == 429  # of the same address
    assert healthy == 200


def test_numbers_for_prometheus_count_what_happened(make_service):
    async def go():
        async with running(make_service()) as client:
            await client.post("/v1/detect", files=files(png(), b"no image"))
            await client.get("/v1/batches/" + "0" * 32)
            return (await client.get("/metrics")).text

    text = run(go())
    assert 'fxray_images_total{verdict="generated"} 1.0' in text
    assert 'fxray_images_total{verdict="failed"} 1.0' in text
    assert 'fxray_requests_total{method="POST",route="/v1/detect",status="200"} 1.0' in text
    assert 'route="/v1/batches/{batch_id}",status="404"' in text


def test_a_draining_service_ends_what_has_begun_and_refuses_the_rest(make_service, backend):
    backend.seconds = 0.3

    async def go():
        service = make_service()
        async with running(service) as client:
            begun = asyncio.create_task(client.post("/v1/detect", files=files(png())))
            while not backend.num_running:
                await asyncio.sleep(0.01)
            drained = asyncio.create_task(service.admission.drain(5))
            await asyncio.sleep(0)
            late, ready = await client.post("/v1/detect", files=files(png())), await client.get("/readyz")
            return (await begun).status_code, await drained, late.status_code, ready.status_code

    assert run(go()) == (200, True, 503, 503)


def test_the_description_names_every_route_and_no_other_host(make_service):
    async def go():
        async with running(make_service()) as client:
            spec = (await client.get("/openapi.json")).json()
            return spec, [(await client.get(path)).status_code for path in ("/", "/docs", "/static/app.js")]

    spec, codes = run(go())
    assert codes == [200, 200, 200]
    assert set(spec["paths"]) == {
        "/v1/detect", "/v1/stability", "/v1/batches", "/v1/batches/{batch_id}", "/v1/batches/{batch_id}/results",
        "/v1/models", "/healthz", "/readyz", "/metrics",
    }  # fmt: skip
    assert set(spec["paths"]["/v1/detect"]["post"]["requestBody"]["content"]) == {
        "multipart/form-data", "application/json",
    }  # fmt: skip


def test_a_request_names_the_model_that_answers(make_service):
    async def go():
        async with running(make_service()) as client:
            named = await client.get("/v1/models")
            asked = [
                await client.post(f"/v1/{route}{query}", files=files(png()))
                for route in ("detect", "stability")
                for query in ("", "?model=default", "?model=strict")
            ]
            accept = {"accept": "text/event-stream"}
            streamed = await client.post("/v1/detect?model=strict", files=files(png()), headers=accept)
            # Nobody waits for this body.
            unknown = await client.post("/v1/detect?model=%1b[31mnone", content=b"x" * 10**6)
            misspelt = await client.post("/v1/detect?modle=strict", files=files(png()))
            return named, asked, streamed, unknown, misspelt

    named, asked, streamed, unknown, misspelt = run(go())
    assert (misspelt.status_code, misspelt.json()["detail"]) == (422, "unknown query parameter 'modle'")
    assert [model["name"] for model in named.json()["models"]] == ["default", "strict"]
    answered = [answer.json().get("detections", [answer.json().get("original")])[0] for answer in asked]
    assert [found["model"]["name"] for found in answered] == ["default", "default", "strict"] * 2
    assert dict(events_of(streamed.text))["detection"]["detection"]["model"]["name"] == "strict"
    assert (unknown.status_code, unknown.json()["where"]) == (404, "query.model")
    assert "\x1b" not in unknown.text
    assert unknown.json()["remedy"] == "ask for one of default, strict, or for none"
