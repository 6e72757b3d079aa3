import asyncio
import json
import os
import threading

from batch_requests import BEN, HEADERS, OWNERS, images, results_of, until_done
from fake_service import MODELS, FakeBackend, png, run, running

from fxray.serve import batch_runner
from fxray.serve.batches import Batch, read_lines
from fxray.serve.problems import unavailable


def test_a_batch_is_worked_off_in_the_order_of_its_images(make_service, backend):
    async def go():
        service = make_service(OWNERS)
        async with running(service) as client:
            added = await client.post("/v1/batches", files=images(png(20, 10), b"none", png(30, 10)), headers=HEADERS)
            url = added.headers["location"]
            state, results = await until_done(client, url), await results_of(client, url)
            kept = [path.name for path in (service.settings.data_dir / "batches").glob("*/images/*")]
            gone = (await client.delete(url, headers=HEADERS)).status_code
            return added, state, results, kept, gone, (await client.get(url, headers=HEADERS)).status_code

    added, state, results, kept, gone, after = run(go())
    assert added.status_code == 202
    assert (state["num_images"], state["num_done"], state["num_failed"]) == (3, 3, 1)
    assert [result.get("width_px") for result in results] == [20, None, 30]
    assert [(result["index"], result["name"]) for result in results] == [(0, "0.png"), (1, "1.png"), (2, "2.png")]
    assert kept == []
    assert (gone, after) == (204, 404)


def test_a_restart_goes_on_where_the_batch_was(make_service, backend):
    async def go():
        backend.seconds = 0.2
        async with running(make_service(OWNERS)) as client:
            added = await client.post("/v1/batches", files=images(*(png(8 + n, 8) for n in range(9))), headers=HEADERS)
            url = added.headers["location"]
            while not await results_of(client, url):
                await asyncio.sleep(0.02)
        num_before = len(backend.names)
        backend.seconds = 0
        async with running(make_service(OWNERS)) as client:
            await until_done(client, url)
            return num_before, await results_of(client, url)

    num_before, results = run(go())
    assert num_before < 9
    assert [result["width_px"] for result in results] == list(range(8, 17))
    assert len(backend.names) <= 9 + 2  # at most those that were with the engine when it stopped are asked again


def test_a_batch_waits_for_engines_that_come_back(make_service, backend):
    backend.error = unavailable("the engine is gone", retry_after_s=0.1)

    async def go():
        async with running(make_service(OWNERS)) as client:
            url = (await client.post("/v1/batches", files=images(png()), headers=HEADERS)).headers["location"]
            await asyncio.sleep(0.15)
            backend.error = None
            return await until_done(client, url)

    assert run(go())["num_failed"] == 0


def test_no_image_of_a_batch_fails_for_engines_that_are_away_for_long(make_service, backend):
    backend.error = unavailable("the engine is gone", retry_after_s=0.01)

    async def go():
        async with running(make_service(OWNERS)) as client:
            added = await client.post("/v1/batches", files=images(*[png()] * 5), headers=HEADERS)
            await asyncio.sleep(0.01 * 10 * batch_runner.MAX_TRIES)
            backend.error = None
            return await until_done(client, added.headers["location"])

    state = run(go())
    assert (state["num_done"], state["num_failed"]) == (5, 0)


def test_an_image_that_ends_every_engine_that_it_meets_is_given_up(make_service, backend, monkeypatch):
    deadly, stream = png(9, 9), FakeBackend.stream

    async def ending(self, upload):
        async for piece in stream(self, upload):
            if upload.content == deadly:
                raise unavailable("the engine is gone", retry_after_s=0.01)
            yield piece

    monkeypatch.setattr(FakeBackend, "stream", ending)

    async def go():
        async with running(make_service(OWNERS)) as client:
            url = (await client.post("/v1/batches", files=images(deadly, png()), headers=HEADERS)).headers["location"]
            return await until_done(client, url), await results_of(client, url)

    state, results = run(go())
    assert state["num_failed"] == 1
    assert results[0]["problem"]["status"] == 503
    assert backend.names.count("0.png") == batch_runner.MAX_TRIES


def test_nobody_sees_the_batch_of_another_key(make_service):
    async def go():
        async with running(make_service(OWNERS)) as client:
            url = (await client.post("/v1/batches", files=images(png()), headers=HEADERS)).headers["location"]
            answers = [
                await client.get(url, headers=BEN), await client.get(url + "/results", headers=BEN),
                await client.delete(url, headers=BEN), await client.get(url),
            ]  # fmt: skip
            return [answer.status_code for answer in answers], (await client.get(url, headers=HEADERS)).status_code

    assert run(go()) == ([404, 404, 404, 401], 200)


def test_batches_are_limited(make_service, backend):
    backend.seconds = 0.2

    async def go():
        async with running(make_service(OWNERS, max_batches=1, max_batch_images=2)) as client:
            codes = []
            for contents, headers in (([png()] * 3, HEADERS), ([png()], HEADERS), ([png()], HEADERS), ([png()], BEN)):
                answer = await client.post("/v1/batches", files=images(*contents), headers=headers)
                codes.append(answer.status_code)
            return codes

    assert run(go()) == [413, 202, 429, 202]


def test_a_batch_that_was_cut_short_while_it_came_in_is_not_there(make_service, tmp_path):
    folder = tmp_path / "data" / "batches"
    (folder / f".{'0' * 32}.1.tmp" / "images").mkdir(parents=True)
    (folder / ("1" * 32)).mkdir()
    service = make_service()
    assert list(service.batches.all()) == []
    assert [path.name for path in folder.iterdir()] == ["1" * 32]


def test_finished_batches_are_forgotten_after_a_while(make_service, backend):
    async def go():
        service = make_service(OWNERS, keep_batches_s=0.0)
        async with running(service) as client:
            url = (await client.post("/v1/batches", files=images(png()), headers=HEADERS)).headers["location"]
            await until_done(client, url)
            await asyncio.sleep(1.1)
            service.batches.clear_old()
            return (await client.get(url, headers=HEADERS)).status_code

    assert run(go()) == 404


def test_a_batch_is_answered_by_its_model_and_waits_where_that_is_not_offered(make_service, backend):
    async def hand_in(client, query):
        added = await client.post(f"/v1/batches{query}", files=images(png()), headers=HEADERS)
        return added.headers.get("location"), added.status_code

    async def go():
        backend.seconds = 30
        async with running(make_service(OWNERS)) as client:
            handed_in = [await hand_in(client, query) for query in ("", "?model=strict", "?model=none")]
        backend.seconds = 0
        (plain, _), (strict, _), _ = handed_in
        async with running(make_service(OWNERS, models=("default",))) as client:
            await until_done(client, plain)
            later = (await client.post("/v1/batches", files=images(png()), headers=HEADERS)).headers["location"]
            await until_done(client, later)  # the one that waits holds up none behind it
            waiting = (await client.get(strict, headers=HEADERS)).json()
        async with running(make_service(OWNERS)) as client:
            await until_done(client, strict)
            results = [*await results_of(client, plain), *await results_of(client, strict)]
        return handed_in, waiting, results

    handed_in, waiting, results = run(go())
    assert [status for _, status in handed_in] == [202, 202, 404]
    assert (waiting["state"], waiting["num_done"]) == ("waiting", 0)
    assert waiting["held_up"] == "there is no model 'strict' now"
    assert [result["model"]["name"] for result in results] == ["default", "strict"]


def test_a_batch_that_is_deleted_while_it_is_worked_on_stays_deleted_and_holds_up_no_other(make_service, monkeypatch):
    write, deleted = Batch.write, []
    service = make_service(OWNERS)

    def late(batch, index, result):
        if not deleted or batch.batch_id in deleted:  # its owner is quicker
            deleted.append(batch.batch_id)
            service.batches.delete(batch)
        write(batch, index, result)

    monkeypatch.setattr(Batch, "write", late)

    async def go():
        async with running(service) as client:
            first = (await client.post("/v1/batches", files=images(png(), png()), headers=HEADERS)).headers["location"]
            while not deleted:
                await asyncio.sleep(0.02)
            second = (await client.post("/v1/batches", files=images(png()), headers=HEADERS)).headers["location"]
            await until_done(client, second)
            return (await client.get(first, headers=HEADERS)).status_code, second.rpartition("/")[2]

    status, second = run(go())
    assert status == 404
    assert [path.name for path in (service.settings.data_dir / "batches").iterdir()] == [second]


def test_a_batch_that_is_deleted_while_it_is_read_is_read_as_far_as_it_is_there(make_service, backend, monkeypatch):
    async def go():
        service = make_service()
        async with running(service) as client:
            added = await client.post("/v1/batches", files=images(png(), png(9, 9)))
            await until_done(client, added.headers["location"])
            (batch,) = service.batches.all()
            lines, pieces = batch.lines(), read_lines(batch)
            first = [next(lines), await anext(pieces)]
            batch.result(0).rename(batch.result(0).with_suffix(".aside"))  # as if it were not there yet
            assert [json.loads(line)["index"] for line in batch.lines()] == [1]
            service.batches.delete(batch)
            return first, list(lines), [line async for line in pieces]

    first, lines, pieces = run(go())
    assert first[0] == first[1]
    assert lines == pieces == []


def test_a_batch_says_what_it_was_asked_of_and_what_answered(make_service, backend, monkeypatch):
    async def hand_in(client):
        return (await client.post("/v1/batches", files=images(png(), b"none"), headers=HEADERS)).headers["location"]

    async def go():
        async with running(make_service(OWNERS)) as client:
            same = await until_done(client, await hand_in(client))
            backend.seconds = 30
            left_over = await hand_in(client)
            backend.error = unavailable("the engine is gone", retry_after_s=1)
            unknown = (await client.get(await hand_in(client), headers=HEADERS)).json()
        backend.seconds, backend.error = 0, None
        monkeypatch.setitem(MODELS, "default", MODELS["default"] | {"id": "fake+another run"})
        async with running(make_service(OWNERS)) as client:
            return same, await until_done(client, left_over), unknown

    same, left_over, unknown = run(go())
    assert (same["asked_of"], same["answered_by"]) == ("fake+0", ["fake+0"])
    assert (left_over["asked_of"], left_over["answered_by"]) == ("fake+0", ["fake+another run"])
    assert (unknown["asked_of"], unknown["answered_by"]) == (None, [])


def test_a_batch_of_an_earlier_release_goes_on(make_service, tmp_path):
    folder = tmp_path / "data" / "batches" / ("1" * 32)
    (folder / "images").mkdir(parents=True)
    (folder / "results").mkdir()
    (folder / "images" / "000000").write_bytes(png())
    document = {"owner": "ana", "model": "default", "created": "2026-01-01T00:00:00+00:00", "names": ["a.png"]}
    (folder / "batch.json").write_text(json.dumps(document))

    async def go():
        async with running(make_service(OWNERS)) as client:
            return await until_done(client, f"/v1/batches/{'1' * 32}")

    state = run(go())
    assert (state["asked_of"], state["answered_by"]) == (None, ["fake+0"])


def test_no_file_of_a_batch_is_looked_for_or_flushed_on_the_event_loop(make_service, monkeypatch):
    threads, fsync, missing = [], os.fsync, Batch.missing

    def noted(ask):
        def ask_and_note(of):
            threads.append((ask.__name__, threading.current_thread() is threading.main_thread()))
            return ask(of)

        return ask_and_note

    monkeypatch.setattr(os, "fsync", noted(fsync))
    monkeypatch.setattr(Batch, "missing", noted(missing))

    async def go():
        async with running(make_service(OWNERS)) as client:
            added = await client.post("/v1/batches", files=images(png(), b"none"), headers=HEADERS)
            await until_done(client, added.headers["location"])

    run(go())
    assert set(threads) == {("fsync", False), ("missing", False)}


def test_a_finished_batch_is_not_gone_through_again(make_service, monkeypatch):
    asked, missing = [], Batch.missing
    monkeypatch.setattr(Batch, "missing", lambda batch: asked.append(batch.batch_id) or missing(batch))

    async def go():
        service = make_service(OWNERS, max_batches=9)
        async with running(service) as client:
            ids = []
            for _ in range(6):
                url = (await client.post("/v1/batches", files=images(png()), headers=HEADERS)).headers["location"]
                await until_done(client, url)
                ids.append(url.rpartition("/")[2])
            return ids

    ids = run(go())
    assert max(asked.count(batch_id) for batch_id in ids) <= 3  # with work to do, and once to see that it is done
