"""A detector in this process that answers at once, and the application before it."""

import asyncio
import hashlib
import io
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
from PIL import Image
from starlette.types import Message, Receive

from fxray.data.changes import Change
from fxray.data.images import decode_image, open_image
from fxray.data.probe import notes_on_size
from fxray.detect.provenance import read_provenance
from fxray.errors import DataError
from fxray.serve.api import build_app
from fxray.serve.problems import problem_of
from fxray.serve.service import Service
from fxray.serve.settings import ServiceSettings
from fxray.serve.uploads import Upload
from fxray.serve.wire import DetectionOut, wire_provenance, wire_trial

MODELS = {
    name: {
        "name": name, "id": f"fake+{number}", "base": "fake", "adapter": f"adapter-{number}",
        "adapter_sha256": f"{number}" * 64, "policy_version": 0, "view": "full",
    }
    for number, name in enumerate(("default", "strict"))
}  # fmt: skip
CALIBRATION = {
    "method": "platt", "num_images": 512, "num_sources": 40, "data": "validation.parquet", "data_sha256": "ab" * 32,
    "is_synthetic": True,
    "max_fpr": 0.05, "threshold": 0.7, "max_error": 0.1, "unsure": [0.3, 0.8],
}  # fmt: skip
HOSTILE_CAPTION = 'hand <img src=x onerror="document.title=1"> of six fingers'


class FakeBackend:
    """Finds one region in the upper left quarter of every image; each answer takes `seconds`."""

    def __init__(self) -> None:
        self.seconds = 0.0
        self.error: Exception | None = None
        self.num_running = self.most_running = self.num_cancelled = 0
        self.names: list[str] = []

    async def detect(self, upload: Upload) -> dict[str, Any]:
        outcome: dict[str, Any] = {}
        async for piece in self.stream(upload):
            outcome = piece.get("detection", piece)
        return outcome

    async def stream(self, upload: Upload) -> AsyncIterator[dict[str, Any]]:
        self.names.append(upload.name)
        self.num_running += 1
        self.most_running = max(self.most_running, self.num_running)
        try:
            await asyncio.sleep(self.seconds)
            if self.error is not None:
                raise self.error
            try:
                image = decode_image(upload.content, upload.name)
            except DataError as error:
                yield {"name": upload.name, "problem": problem_of(error, 422)}
                return
            region = {"box": [0.0, 0.0, image.width / 2, image.height / 2], "caption": HOSTILE_CAPTION}
            yield {"image": {"width_px": image.width, "height_px": image.height}}
            yield {"region": region}
            yield {"detection": _detection(upload, image, region)}
        except asyncio.CancelledError:
            self.num_cancelled += 1
            raise
        finally:
            self.num_running -= 1

    async def try_change(self, upload: Upload, change: Change, original: dict[str, Any]) -> dict[str, Any]:
        """Small images become real, and nothing is found in them."""
        self.names.append(change.name)
        await asyncio.sleep(self.seconds)
        if self.error is not None:
            raise self.error
        image = decode_image(upload.content, upload.name)
        try:
            view = change.apply(image)
        except DataError as error:
            return {"name": upload.name, "problem": problem_of(error, 422)}
        changed = Upload(upload.name, as_png(view.image), upload.model)
        found = DetectionOut.model_validate(await self.detect(changed))
        if view.image.width < image.width / 2 + 1:
            found = found.model_copy(update={"assessment": "real", "regions": [], "probability": 0.2})
        return wire_trial(change, view, found, original).model_dump(mode="json")

    async def models(self) -> list[dict[str, Any]]:
        if self.error is not None:
            raise self.error
        return list(MODELS.values())


def run(coroutine: Coroutine[Any, Any, Any]) -> Any:
    """What it comes to, within half a minute."""
    return asyncio.run(asyncio.wait_for(coroutine, 30))


def _detection(upload: Upload, image: Image.Image, region: dict[str, Any]) -> dict[str, Any]:
    is_calibrated = not upload.name.startswith("uncalibrated")
    return {
        "name": upload.name,
        "sha256": hashlib.sha256(upload.content).hexdigest(),
        "width_px": image.width,
        "height_px": image.height,
        "verdict": "generated",
        "probability": 0.87,
        "probability_kind": "calibrated" if is_calibrated else "uncalibrated",
        "raw_probability": 0.97,
        "assessment": next((said for said in ("unsure", "real") if upload.name.startswith(said)), "generated"),
        "calibration": CALIBRATION if is_calibrated else None,
        "regions": [region],
        "tags": ["structure errors"],
        "answer": f"<think>\n{HOSTILE_CAPTION}\n</think>",
        "faults": [],
        "is_strict": True,
        "notes": notes_on_size(*image.size),
        "seconds": 0.1,
        "model": MODELS[upload.model],
        "provenance": wire_provenance(
            read_provenance(upload.content, open_image(upload.content, upload.name))
        ).model_dump(mode="json"),
    }


def png(width: int = 32, height: int = 24, seed: int = 0) -> bytes:
    pixels = np.random.default_rng(seed).integers(0, 255, (height, width, 3), np.uint8)
    return as_png(Image.fromarray(pixels))


def as_png(image: Image.Image) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, "PNG")
    return buffer.getvalue()


def settings_of(tmp_path: Path, **changes: Any) -> ServiceSettings:
    values: dict[str, Any] = {
        "models": tuple(MODELS), "allowed_hosts": (), "keys": {}, "needs_keys": False,
        "max_images": 8, "max_image_bytes": 2**20,
        "max_request_bytes": 4 * 2**20, "max_upload_bytes": 32 * 2**20, "max_image_pixels": 10**6,
        "max_in_flight": 4, "max_waiting": 8,
        "request_deadline_s": 5.0, "upload_deadline_s": 1.0, "images_per_min": 0, "data_dir": tmp_path / "data",
        "max_batch_images": 50, "max_batch_bytes": 8 * 2**20, "max_batches": 3, "keep_batches_s": 3600.0,
    }  # fmt: skip
    return ServiceSettings(**(values | changes))


@asynccontextmanager
async def running(service: Service) -> AsyncIterator[httpx.AsyncClient]:
    """A client of the application, its batches running."""
    transport = httpx.ASGITransport(build_app(service), raise_app_exceptions=False)
    service.runner.start()
    try:
        async with httpx.AsyncClient(transport=transport, base_url="http://127.0.0.1:8000") as client:
            yield client
    finally:
        await service.runner.stop()


async def post(service: Service, content_type: str, num_bytes: int, receive: Receive) -> int:
    """The status that is sent to a client whose messages `receive` gives."""
    sent: list[Message] = []

    async def send(message: Message) -> None:
        sent.append(message)

    headers = [(b"content-type", content_type.encode()), (b"content-length", str(num_bytes).encode())]
    scope = {
        "type": "http", "asgi": {"version": "3.0"}, "http_version": "1.1", "method": "POST", "scheme": "http",
        "path": "/v1/detect", "raw_path": b"/v1/detect", "query_string": b"", "root_path": "",
        "headers": headers, "client": ("127.0.0.1", 1), "server": ("127.0.0.1", 8000),
    }  # fmt: skip
    await build_app(service)(scope, receive, send)
    return int(sent[0]["status"])


@pytest.fixture
def backend() -> FakeBackend:
    return FakeBackend()


@pytest.fixture
def make_service(backend: FakeBackend, tmp_path: Path) -> Callable[..., Service]:
    """Makes a service with some settings changed, and API keys by owner."""

    def make(owners: dict[str, str] | None = None, **changes: Any) -> Service:
        keys = {hashlib.sha256(key.encode()).hexdigest(): owner for key, owner in (owners or {}).items()}
        return Service(backend, settings_of(tmp_path, **({"keys": keys, "needs_keys": bool(keys)} | changes)))

    return make
