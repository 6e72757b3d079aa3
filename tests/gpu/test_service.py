"""The service on a GPU: its engine in a process of its own, and the whole of it over HTTP."""

import io
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
from PIL import Image

from fxray.engine.environment import is_cpu_build
from fxray.engine.streaming import StreamingEngine

pytestmark = [pytest.mark.gpu, pytest.mark.timeout(400)]
IS_NULL = "libcuda.so.1" in os.environ.get("LD_PRELOAD", "")
START_DEADLINE_S = 300


class Served:
    """The engine as a replica of the service starts it."""

    async def __init__(self, settings: Any) -> None:  # type: ignore[misc]  # Ray awaits it
        # vLLM asks how many adapters are in use, and on the null GPU that would be garbage.
        self._engine = StreamingEngine(replace(settings, lora_rank=0) if IS_NULL else settings)
        await self._engine.prepare()

    async def tell(self) -> dict[str, Any]:
        import torch

        await self._engine.check_alive()
        return {"touched": torch.cuda.is_initialized(), "bytes": torch.cuda.memory_allocated()}


@pytest.mark.null
@pytest.mark.long
def test_the_services_engine_starts_in_a_process_of_its_own(start_engine: Any, tmp_path: Path) -> None:
    if is_cpu_build():
        pytest.skip("wants vLLM's CUDA build")
    environment = {"VLLM_CACHE_ROOT": str(tmp_path), "VLLM_USE_FLASHINFER_SAMPLER": "0"}
    told = start_engine(environment, "rollout.enforce_eager=true", kind=Served)("tell")
    assert told == {"touched": False, "bytes": 0}


def test_the_service_answers_every_image_and_ends_when_told(place: Any, tmp_path: Path) -> None:
    with serving(place, tmp_path) as (process, client):
        rng, side = np.random.default_rng(0), place.side_px
        parts = [("images", (f"{n}.png", png(rng.integers(0, 255, (side + n, side, 3), np.uint8)))) for n in range(8)]
        found = client.post("/v1/detect", files=parts).raise_for_status().json()["detections"]
        assert [each["height_px"] for each in found] == list(range(side, side + 8))
        assert all(each["answer"] and each["model"]["adapter"] is None for each in found)
        process.send_signal(signal.SIGTERM)
        assert process.wait(60) == 0


@contextmanager
def serving(place: Any, folder: Path) -> Iterator[tuple[subprocess.Popen[bytes], httpx.Client]]:
    """A service of the base model, ready."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    overrides = place.overrides("rollout.enforce_eager=true", "evaluate.max_new_tokens=24")
    command = [sys.executable, "-m", "fxray", "serve", "--config", "smoke", "--port", str(port)]
    command += ["--data-dir", str(folder / "data"), *(part for each in overrides for part in ("--set", each))]
    with (folder / "log").open("wb") as log:
        process = subprocess.Popen(command, stdout=log, stderr=log, start_new_session=True)
    try:
        with httpx.Client(base_url=f"http://127.0.0.1:{port}", timeout=120) as client:
            wait_until_ready(client, process, folder / "log")
            yield process, client
    finally:
        if process.poll() is None:
            process.terminate()
            process.wait(60)


def wait_until_ready(client: httpx.Client, process: subprocess.Popen[bytes], log: Path) -> None:
    end_s = time.monotonic() + START_DEADLINE_S
    while process.poll() is None and time.monotonic() < end_s:
        with suppress(httpx.TransportError):
            if client.get("/readyz").status_code == httpx.codes.OK:
                return
        time.sleep(0.5)
    raise AssertionError(f"the service is not ready; it ended with {process.poll()}: {log.read_text()[-2000:]}")


def png(pixels_HW3: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(pixels_HW3).save(buffer, "PNG")
    return buffer.getvalue()
