"""A replica over an engine in this process, beside the detector of the command line over the same one."""

import asyncio
import hashlib
import io
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from fxray.data.changes import CHANGES
from fxray.data.images import decode_image
from fxray.detect.detection import Picture, Versions
from fxray.detect.detector import Detector
from fxray.detect.stability import try_changes
from fxray.engine.engine import Answers, Question
from fxray.engine.settings import EngineSettings
from fxray.engine.streaming import Answer, Draft
from fxray.errors import ConfigError, SyncError, WorkerDiedError
from fxray.grpo.types import AdapterBlob, Rollout, SamplingSettings
from fxray.serve import replica
from fxray.serve.problems import Refusal
from fxray.serve.replica import DetectorReplica, Policy, ReplicaSpec
from fxray.serve.wire import wire_stability

SIDE_PX = 560
PLACE = "<|object_ref_start|>Hand bent<|object_ref_end|><|box_start|>({},{}),({},{})<|box_end|>"
GENERATED = "<think>\n{}\n</think>\n<tag>structure errors</tag>\n<verdict>generated</verdict>"
REAL = "<think>\nNo flaw is visible.\n</think>\n<tag>none</tag>\n<verdict>real</verdict>"


def answer_to(image: Image.Image) -> Rollout:
    """A box around what is red, as the model names it: in pixels of what it sees."""
    from fxray.data.frame import smart_frame

    frame = smart_frame(*image.size, min_pixels=SIDE_PX**2 // 2, max_pixels=SIDE_PX**2)
    is_red = (np.asarray(image, int) @ [1, -1, 0]) > 100
    if not is_red.any():
        text = REAL
    else:
        rows, columns = np.flatnonzero(is_red.any(1)), np.flatnonzero(is_red.any(0))
        x = [edge * frame.model_width_px / image.width for edge in (columns[0], columns[-1] + 1)]
        y = [edge * frame.model_height_px / image.height for edge in (rows[0], rows[-1] + 1)]
        text = GENERATED.format(PLACE.format(round(x[0]), round(y[0]), round(x[1]), round(y[1])))
    return Rollout(np.zeros(0, np.int32), np.zeros(0, np.float32), text, True, 0.9 if text != REAL else 0.2)


class Offline:
    """What the detector of the command line asks."""

    def generate(self, questions: Sequence[Question], sampling: SamplingSettings) -> list[Answers]:
        return [Answers(np.zeros(0, np.int32), (answer_to(question.image),)) for question in questions]


class Streaming:
    """What a replica asks."""

    def __init__(self, settings: EngineSettings) -> None:
        self.versions: dict[str, int] = {}
        self.num_loads = 0

    async def prepare(self) -> None:
        pass

    def encode(self, text: str) -> list[int]:
        return [ord(letter) for letter in text]

    async def check_alive(self) -> None:
        pass

    async def answer(self, prompt, image, name, **more):
        yield Answer(answer_to(image), np.zeros((0, 2), np.float32), self.versions.get(name, -1))

    async def load_policy(self, blob, *, worker, deadline_s, name):
        if blob.version == 99:
            raise SyncError("refused", where=worker)
        self.versions[name] = blob.version
        self.num_loads += 1


def marked(width: int, height: int, box: tuple[int, int, int, int], format_: str, orientation: int = 1) -> bytes:
    """A grey image with a red box; `orientation` is EXIF's, and the box is in the pixels as they are stored."""
    image, buffer, exif = Image.new("RGB", (width, height), "grey"), io.BytesIO(), Image.Exif()
    image.paste((255, 0, 0), box)
    exif[0x0112] = orientation
    image.save(buffer, format_, exif=exif)
    return buffer.getvalue()


@pytest.fixture
def served(monkeypatch):
    monkeypatch.setattr(replica, "StreamingEngine", Streaming)
    engine = EngineSettings(
        model_path=Path("tiny"), dtype="float32", min_pixels=SIDE_PX**2 // 2, max_pixels=SIDE_PX**2, lora_rank=1,
        max_num_seqs=1, max_model_len=1, block_size=1, kv_cache_bytes=1, gpu_memory_utilization=0.1,
        tensor_parallel_size=1, can_sleep=False, enforce_eager=True, threads=1, sync="bytes", seed=0,
    )  # fmt: skip
    spec = ReplicaSpec(engine, "prompt", "full", 40, "tiny", 1.0)

    async def make() -> DetectorReplica:
        made = DetectorReplica.__new__(DetectorReplica)
        await made.__init__(spec)
        return made

    return asyncio.run(make())


@pytest.fixture
def detector() -> Detector:
    return Detector(
        Offline(), "prompt", min_pixels=SIDE_PX**2 // 2, max_pixels=SIDE_PX**2, max_new_tokens=40,
        versions=Versions("0", "tiny", "", ""),
    )  # fmt: skip


NO_ADAPTER = Policy("default", "", 0, 0.0)
IMAGES = {
    "wide": (marked(900, 300, (600, 150, 750, 300), "PNG"), (900, 300), (600, 150, 750, 300)),
    "tall": (marked(150, 700, (0, 0, 75, 350), "PNG"), (150, 700), (0, 0, 75, 350)),
    # Turned a quarter to the right: what is left above comes to the right above.
    "rotated": (marked(800, 600, (0, 0, 200, 120), "PNG", 6), (600, 800), (480, 0, 600, 200)),
    "tiny": (marked(9, 7, (3, 1, 8, 6), "PNG"), (9, 7), (3, 1, 8, 6)),
    "huge": (marked(5600, 2800, (2800, 700, 4200, 2100), "PNG"), (5600, 2800), (2800, 700, 4200, 2100)),
}


@pytest.mark.parametrize("kind", IMAGES)
def test_command_line_and_service_name_the_same_pixels(served, detector, kind):
    content, size, box = IMAGES[kind]
    (found,) = detector.detect([content])
    told = asyncio.run(served.detect("a.png", content, NO_ADAPTER))
    assert (told["width_px"], told["height_px"]) == (found.width_px, found.height_px) == size
    small = ["9x7 px, hardly large enough to show a flaw"] if kind == "tiny" else []
    assert told["notes"] == found.notes == small
    (region,) = told["regions"]
    assert region["box"] == pytest.approx([*found.regions[0].box], abs=0.01)
    # The model names whole pixels of what it sees: half of one, here 1 / 800 of a side at most.
    assert region["box"] == pytest.approx(box, abs=max(1, max(size) / 800 / 2))


@pytest.mark.parametrize("num_drafted", [0, 1, 2])
def test_a_stream_tells_each_region_once_however_many_the_drafts_had(served, monkeypatch, num_drafted):
    found = [PLACE.format(10, 10, 50, 50), PLACE.format(70, 70, 90, 90)]
    text = GENERATED.format("\n".join(found))

    async def answer(prompt, image, **more):
        for number in range(1, num_drafted + 1):
            yield Draft("<think>\n" + "\n".join(found[:number]))
        yield Answer(Rollout(np.zeros(0, np.int32), np.zeros(0, np.float32), text, True), np.zeros((0, 2)), -1)

    monkeypatch.setattr(served._engine, "answer", answer)

    async def go():
        encoded = marked(560, 560, (10, 10, 50, 50), "PNG")
        return [piece async for piece in served.stream("photo", encoded, NO_ADAPTER)]

    pieces = asyncio.run(go())
    assert [key for piece in pieces for key in piece] == ["image", "region", "region", "detection"]
    assert [piece["region"] for piece in pieces[1:3]] == pieces[3]["detection"]["regions"]


@pytest.mark.parametrize(("size", "num_trials"), [((400, 300), 9), ((1000, 5), 3)])
def test_service_and_command_line_call_an_answer_equally_stable(served, detector, monkeypatch, size, num_trials):
    monkeypatch.setattr("fxray.data.changes.MAX_JPEG_SIDE_PX", 950)
    content = marked(*size, (0, 0, 60, 60), "PNG")
    picture = Picture("a.png", decode_image(content, "a.png"))
    expected = try_changes(detector, picture, detector.examine([picture])[0])

    async def go():
        original = await served.detect("a.png", content, NO_ADAPTER)
        trials = [await served.try_change("a.png", content, NO_ADAPTER, change, original) for change in CHANGES]
        return wire_stability(original, trials)

    told = asyncio.run(go())
    assert told["sentence"] == expected.sentence()
    assert told["not_tried"] == list(expected.not_tried)
    assert told["num_changes"] == len(told["trials"]) == num_trials
    assert [trial["is_same"] for trial in told["trials"]] == [trial.is_same for trial in expected.trials]
    ious = [trial.iou for trial in expected.trials]
    assert [trial["iou"] for trial in told["trials"]] == pytest.approx(ious, abs=0.01)
    assert [trial["change"] for trial in told["trials"]] == [trial.name for trial in expected.trials]


def test_an_image_that_is_too_long_for_its_breadth_is_named(served):
    told = asyncio.run(served.detect("line.png", marked(1000, 4, (0, 0, 1, 1), "PNG"), NO_ADAPTER))
    assert (told["name"], told["problem"]["where"]) == ("line.png", "line.png")


def test_answers_of_two_adapters_are_not_compared(served):
    content = marked(40, 30, (0, 0, 10, 10), "PNG")

    async def go():
        original = await served.detect("a.png", content, NO_ADAPTER)
        original["model"]["policy_version"] = 7
        await served.try_change("a.png", content, NO_ADAPTER, CHANGES[0], original)

    with pytest.raises(Refusal, match="swapped") as refusal:
        asyncio.run(go())
    assert (refusal.value.status, refusal.value.retry_after_s) == (503, 1)


def test_an_engine_that_refuses_the_prompt_is_no_fault_of_a_change(served, monkeypatch):
    content = marked(40, 30, (0, 0, 10, 10), "PNG")

    async def refuse(prompt, image, **more):
        raise ConfigError("vLLM refuses a prompt", remedy="raise rollout.max_model_len")
        yield

    async def go():
        original = await served.detect("a.png", content, NO_ADAPTER)
        monkeypatch.setattr(served._engine, "answer", refuse)
        await served.try_change("a.png", content, NO_ADAPTER, CHANGES[0], original)

    with pytest.raises(Refusal, match="refuses a prompt") as refusal:
        asyncio.run(go())
    assert refusal.value.status == 422


def blob_of(folder: Path, version: int) -> AdapterBlob:
    """Stands for `open_adapter`."""
    return AdapterBlob(version, b"", {}, hashlib.sha256(folder.name.encode()).hexdigest(), 1)


def test_a_swap_that_has_begun_is_ended_when_the_request_that_began_it_goes_away(served, monkeypatch):
    monkeypatch.setattr(replica, "open_adapter", blob_of)
    policy, engine = Policy("default", "/a/first", 0, 1.0), served._engine
    begun, ended = [], []

    async def go():
        gate = asyncio.Event()

        async def load_policy(blob, **more):
            begun.append(blob.version)
            await gate.wait()
            ended.append(blob.version)

        monkeypatch.setattr(engine, "load_policy", load_policy)
        first = asyncio.create_task(served.use(policy))
        while not begun:
            await asyncio.sleep(0.01)
        first.cancel()
        second = asyncio.create_task(served.use(policy))
        await asyncio.sleep(0.05)
        gate.set()
        assert (await second)["adapter"] == "first"
        assert first.cancelled()

    asyncio.run(asyncio.wait_for(go(), 30))
    assert (begun, ended) == ([0], [0])


def test_each_model_answers_with_its_own_adapter_and_keeps_it_where_a_new_one_is_refused(served, monkeypatch):
    content = marked(40, 30, (0, 0, 10, 10), "PNG")

    monkeypatch.setattr(replica, "open_adapter", blob_of)
    first, strict = Policy("default", "/a/first", 0, 1.0), Policy("strict", "/a/strict", 0, 1.0)
    newer, refused = Policy("strict", "/a/newer", 1, 2.0), Policy("strict", "/a/bad", 99, 3.0)

    async def adapter_of(policy: Policy) -> tuple[str, str, int]:
        model = (await served.detect("a.png", content, policy))["model"]
        return model["name"], model["adapter"], model["policy_version"]

    async def go():
        found = [await adapter_of(policy) for policy in (NO_ADAPTER, strict, first, newer, strict, first)]
        with pytest.raises(SyncError, match="refused"):
            await served.use(refused)
        return found, await adapter_of(newer)

    found, after = asyncio.run(go())
    assert found == [
        ("default", None, -1), ("strict", "strict", 0), ("default", "first", 0), ("strict", "newer", 1),
        ("strict", "newer", 1), ("default", "first", 0),
    ]  # fmt: skip
    assert after == ("strict", "newer", 1)
    assert served._engine.num_loads == 3


def test_a_replica_whose_engine_is_dead_says_so_to_whoever_asks_what_it_is_and_ends(served, monkeypatch):
    async def is_dead():
        raise WorkerDiedError("the engine is dead")

    async def ask():
        with pytest.raises(WorkerDiedError, match="dead"):
            await served.use(NO_ADAPTER)
        told = list(ended)
        await asyncio.sleep(0.05)
        return told

    ended = []
    monkeypatch.setattr(replica, "_end_process", lambda: ended.append(True))
    monkeypatch.setattr(replica, "_LAST_WORDS_S", 0.01)
    asyncio.run(served.use(NO_ADAPTER))
    asyncio.run(served.check_health())
    assert ended == []
    monkeypatch.setattr(served._engine, "check_alive", is_dead)
    assert asyncio.run(ask()) == []  # its answer is on its way first
    assert ended == [True]
