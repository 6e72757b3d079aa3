"""What lies in Ray's object store does not grow from step to step, whoever dies on the way."""

import gc
import io
import os
import signal
import time
from functools import partial
from pathlib import Path

import numpy as np
import psutil
import pytest
import ray
from numpy.typing import NDArray
from PIL import Image
from ray._private.internal_api import get_memory_info_reply
from ray._private.state import state

from actors.errands import Deadlines
from actors.failures import FailureBudget
from actors.image_store import ImageSource
from actors.nodes import STEADY
from actors.rollout import RolloutPool
from actors.rollout_worker import HEALTH, Draw, Job
from actors.scaling import Scaler
from fxray.data.dataset import Row, write_dataset
from fxray.data.frame import AS_QWEN2_5_VL, Frame, frame_of
from fxray.grpo.types import AdapterBlob, PromptGroup, SamplingSettings, SyncProof, Visit
from fxray.schema import Annotation, Sample, Verdict

pytestmark = [pytest.mark.ray, pytest.mark.usefixtures("cluster")]

NUM_IMAGES, IMAGE_BYTES, ADAPTER_BYTES = 4, 300_000, 500_000
FRAME_OF = partial(frame_of, min_pixels=784, max_pixels=784, sight=AS_QWEN2_5_VL)
ONE_ANSWER = SamplingSettings(group_size=1, temperature=1.0, max_new_tokens=8)
SETTLING_S, AT_REST_S = 20.0, 1.0


@ray.remote(num_cpus=0, concurrency_groups={HEALTH: 1})
class Reader:
    """Fetches the images of its groups; dies with them where it is told to."""

    def __init__(self, name: str) -> None:
        self.name = name

    @ray.method(concurrency_group=HEALTH)
    def health(self) -> str:
        return "a node"

    def start(self) -> None:
        pass

    def load_policy(self, adapter: AdapterBlob) -> SyncProof:
        return SyncProof(self.name, adapter.version, adapter.sha256, adapter.num_modules)

    def generate(self, jobs: list[Job], sampling: SamplingSettings) -> list[Draw]:
        images = ray.get([job.image for job in jobs])
        for job in jobs:
            mark = Path(job.sample_id)
            if mark.exists():
                mark.unlink()
                os.kill(os.getpid(), signal.SIGKILL)
        return [
            Draw(
                group_id=job.group_id,
                policy_version=0,
                prompt_token_ids=np.array([1], np.int32),
                token_ids=np.array([len(image) % 1000], np.int32),
                logprobs=np.zeros(1, np.float32),
                lengths_G=np.ones(1, np.int32),
                is_finished_G=np.ones(1, np.bool_),
                probabilities_G=np.full(1, np.nan),
                texts=("real",),
            )
            for job, image in zip(jobs, images, strict=True)
        ]


def stored_bytes() -> int:
    """Bytes in the object stores of all nodes, as `ray memory --stats-only` counts them."""
    return int(get_memory_info_reply(state).store_stats.object_store_bytes_used)


def bytes_at_rest() -> int:
    """Bytes in the object stores once they stay as they are: Ray frees what earlier tests left when it comes to it."""
    gc.collect()
    end_s, found, since_s = time.monotonic() + SETTLING_S, stored_bytes(), time.monotonic()
    while time.monotonic() < min(end_s, since_s + AT_REST_S):
        time.sleep(0.05)
        if (now := stored_bytes()) != found:
            found, since_s = now, time.monotonic()
    return found


def settled_bytes(at_most: float) -> int:
    """Bytes in the object stores once Ray has freed what nobody refers to; the last count where it does not."""
    end_s = time.monotonic() + SETTLING_S
    while (found := stored_bytes()) > at_most and time.monotonic() < end_s:
        time.sleep(0.05)
    return found


@pytest.fixture
def dataset(tmp_path: Path) -> Path:
    truth = Annotation(Verdict.REAL)
    noise = np.random.default_rng(0).integers(0, 255, (NUM_IMAGES, 10 * IMAGE_BYTES // 3000, 100, 3), np.uint8)
    samples = [Sample(f"s{i}", 100, noise.shape[1], truth, "real", "cat", f"photo{i}") for i in range(NUM_IMAGES)]
    rows = [Row(sample, encoded(pixels)) for sample, pixels in zip(samples, noise, strict=True)]
    write_dataset(tmp_path / "train.parquet", rows)
    return tmp_path / "train.parquet"


def encoded(pixels: NDArray[np.uint8]) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "PNG")
    return buffer.getvalue()


def test_it_holds_no_more_after_any_step_than_after_the_first(dataset: Path, tmp_path: Path) -> None:
    before = bytes_at_rest()
    budget = FailureBudget("all", max_restarts=100, window_s=600, remedy="")
    source = ImageSource(dataset, FRAME_OF, failures=budget, deadline_s=200, on_restart=print)
    pool = RolloutPool(
        Reader.remote,
        scaler=Scaler(2, None),
        min_workers=2,
        max_num_seqs=2,
        deadlines=Deadlines(200, 200, 200),
        failures=budget,
        nodes=STEADY,
    )
    mark, frame, after = tmp_path / "die", Frame(28, 28, 28, 28), []
    for step in range(6):
        if step in (2, 3):
            mark.touch()
        if step == 4:
            (images,) = [each for each in psutil.Process().children(recursive=True) if "ImageStore" in each.name()]
            images.kill()
        seen, bad = source.fetch([Visit(row) for row in range(NUM_IMAGES)])
        images_by_row = {visit.row: image.ref for visit, image in seen.items()}
        assert (len(images_by_row), bad) == (NUM_IMAGES, [])
        prompts = [
            PromptGroup(f"{step}/{i}", str(mark) if i == 1 else "none", image, "?", Annotation(Verdict.REAL), frame, i)
            for i, image in images_by_row.items()
        ]
        assert [len(group.rollouts) for group in pool.generate(prompts, ONE_ANSWER)] == [1] * NUM_IMAGES
        assert stored_bytes() >= before + NUM_IMAGES * IMAGE_BYTES  # the images of the step do lie there
        del seen, images_by_row, prompts
        pool.adopt(AdapterBlob(step, bytes(ADAPTER_BYTES), {}, "checksum", 2))
        after.append(settled_bytes(before + 1.2 * ADAPTER_BYTES))
    pool.close()
    assert budget.num_failures == 3
    assert max(after) <= before + 1.2 * ADAPTER_BYTES, (before, after)  # the newest adapter alone
