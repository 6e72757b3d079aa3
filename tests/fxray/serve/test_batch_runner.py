"""What of a batch goes wrong, and what then becomes of the rest of it."""

import asyncio

from batch_requests import BEN, HEADERS, OWNERS, images, results_of, until_done
from fake_service import png, run, running

from fxray.errors import CheckpointError, ResourceError
from fxray.serve import batch_runner
from fxray.serve.batches import Batch


def test_an_image_that_somebody_cleared_away_fails_and_its_batch_ends(make_service, backend):
    async def go():
        backend.seconds = 30
        async with running(make_service(OWNERS)) as client:
            added = await client.post("/v1/batches", files=images(png(8, 8), png(9, 8)), headers=HEADERS)
        backend.seconds = 0
        service = make_service(OWNERS)
        next((service.settings.data_dir / "batches").glob("*/images/000000")).unlink()
        async with running(service) as client:
            url = added.headers["location"]
            return await until_done(client, url), await results_of(client, url)

    state, (gone, kept) = run(go())
    assert (state["num_done"], state["num_failed"]) == (2, 1)
    assert (gone["name"], gone["problem"]["status"], gone["problem"]["detail"]) == ("0.png", 410, "its file is gone")
    assert kept["width_px"] == 9


def test_who_hands_in_much_holds_nobody_up(make_service, backend):
    backend.seconds = 0.05

    async def go():
        async with running(make_service(OWNERS)) as client:
            much = (await client.post("/v1/batches", files=images(*[png()] * 40), headers=HEADERS)).headers["location"]
            more = (await client.post("/v1/batches", files=images(png()), headers=HEADERS)).headers["location"]
            while not await results_of(client, much):
                await asyncio.sleep(0.02)
            little = (await client.post("/v1/batches", files=images(png()), headers=BEN)).headers["location"]
            await until_done(client, little, BEN)
            num_done = [(await client.get(url, headers=HEADERS)).json()["num_done"] for url in (much, more)]
            await until_done(client, more)
            return num_done, await until_done(client, much)

    (num_much, num_more), state = run(go())
    assert 0 < num_much < 30
    assert num_more == 0
    assert (state["num_done"], state["num_failed"]) == (40, 0)


def test_a_write_that_fails_leaves_its_image_for_the_next_round(make_service, monkeypatch):
    num_refused, write = 0, Batch.write

    def refusing(batch, index, result):
        nonlocal num_refused
        num_refused += 1
        if num_refused <= 5:
            raise ResourceError("cannot be written: No space left on device")
        write(batch, index, result)

    monkeypatch.setattr(Batch, "write", refusing)
    monkeypatch.setattr(batch_runner, "_PAUSE_S", 0.02)

    async def go():
        async with running(make_service(OWNERS)) as client:
            url = (await client.post("/v1/batches", files=images(*[png()] * 4), headers=HEADERS)).headers["location"]
            return await until_done(client, url), (await client.get("/readyz")).status_code

    state, ready = run(go())
    assert (state["num_failed"], state["held_up"], ready) == (0, None, 200)
    assert num_refused == 5 + 4


def test_a_failed_round_is_told_and_followed_by_a_pause(make_service, backend, monkeypatch):
    def full(batch, index, result):
        raise ResourceError("cannot be written: No space left on device")

    monkeypatch.setattr(Batch, "write", full)
    monkeypatch.setattr(batch_runner, "_PAUSE_S", 30.0)

    async def go():
        async with running(make_service(OWNERS)) as client:
            added = await client.post("/v1/batches", files=images(png(), png()), headers=HEADERS)
            await asyncio.sleep(0.3)
            return (await client.get(added.headers["location"], headers=HEADERS)).json()

    state = run(go())
    assert len(backend.names) == 2
    assert (state["state"], state["num_done"]) == ("waiting", 0)
    assert state["held_up"] == "cannot be written: No space left on device"


def test_an_error_that_stays_is_the_result_of_its_image(make_service, backend, monkeypatch):
    monkeypatch.setattr(batch_runner, "_RETRY_S", 0.01)
    backend.error = CheckpointError("no adapter", where="/a", remedy="train one")

    async def go():
        async with running(make_service(OWNERS)) as client:
            url = (await client.post("/v1/batches", files=images(png()), headers=HEADERS)).headers["location"]
            await until_done(client, url)
            return await results_of(client, url)

    (result,) = run(go())
    assert result["problem"]["status"] == 500
    assert (result["problem"]["detail"], result["problem"]["where"]) == ("no adapter", "/a")
    assert len(backend.names) == batch_runner.MAX_TRIES


def test_a_service_whose_batches_go_on_no_more_is_not_ready(make_service, backend):
    async def go():
        service = make_service(OWNERS)
        async with running(service) as client:
            before = await client.get("/readyz")
            backend.seconds = 0.2
            await client.post("/v1/batches", files=images(png()), headers=HEADERS)
            backend.error = ZeroDivisionError("a defect")
            while not service.runner.is_dead:
                await asyncio.sleep(0.02)
            backend.error = None
            return before.status_code, await client.get("/readyz")

    before, after = run(go())
    assert (before, after.status_code) == (200, 503)
    assert "batches" in after.json()["detail"]


def test_what_the_disk_has_damaged_disturbs_no_other_batch(make_service, backend):
    async def go():
        service = make_service(OWNERS)
        async with running(service) as client:
            added = await client.post("/v1/batches", files=images(png(8, 8), png(9, 8)), headers=HEADERS)
            url = added.headers["location"]
            await until_done(client, url)
            batches = service.settings.data_dir / "batches"
            for number, created in enumerate(('"not a date"', '"2026-11-29T06:48:03"', "5")):
                (batches / (str(number) * 32)).mkdir()
                written = f'{{"owner": "ana", "created": {created}, "names": ["a"]}}'
                (batches / (str(number) * 32) / "batch.json").write_text(written)
            next(batches.glob("*/results/000000.json")).write_bytes(b'{"na')
            after = await client.post("/v1/batches", files=images(png()), headers=HEADERS)
            unknown = await client.get("/v1/batches/" + "0" * 32, headers=HEADERS)
            return await until_done(client, url), await results_of(client, url), after.status_code, unknown.status_code

    state, (damaged, kept), after, unknown = run(go())
    assert (state["num_done"], state["num_failed"], after, unknown) == (2, 1, 202, 404)
    assert (damaged["name"], damaged["problem"]["detail"]) == ("0.png", "its result is damaged")
    assert kept["width_px"] == 9


def test_a_fault_of_the_service_is_a_problem_as_any(make_service, monkeypatch):
    def fail(batch, *given):
        raise RuntimeError("a secret of the service")

    monkeypatch.setattr(Batch, "state", fail)

    async def go():
        async with running(make_service(OWNERS)) as client:
            return await client.post("/v1/batches", files=images(png()), headers=HEADERS)

    answer = run(go())
    assert (answer.status_code, answer.headers["content-type"]) == (500, "application/problem+json")
    assert answer.json()["remedy"]
    assert "secret" not in answer.text
