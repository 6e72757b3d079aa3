"""What runs on a real GPU, at real widths: the 3B shape with few layers, random bfloat16 weights.

pytest tests/gpu --long                skipped where there is no GPU
pytest tests/gpu --like qwen3-vl-4b    another family's shape
make test-null-gpu                     on a GPU that does nothing, what holds there: see tests/gpu/null
pytest tests/gpu --rehearse            on a CPU with a tiny model in float32, to see that the tests themselves work
"""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

NUM_LAYERS = 4


class Place:
    """Where the tests run.

    Attributes:
        model: Folder of the base model.
        dtype: Of its weights.
        device: "cuda" or "cpu".
        max_pixels: Area of the images.
        tolerance_nats: Largest difference between sampler and learner.
    """

    def __init__(self, model: Path, *, is_gpu: bool) -> None:
        self.model, self.is_gpu = model, is_gpu
        self.dtype, self.device = ("bfloat16", "cuda") if is_gpu else ("float32", "cpu")
        self.side_px = 504 if is_gpu else 112
        self.tolerance_nats = 0.15 if is_gpu else 1e-3

    def overrides(self, *more: str) -> list[str]:
        """The smoke configuration on this place: engine and learner share one GPU."""
        shared = ["rollout.gpus_per_worker=0.5", "learner.gpus_per_rank=0.5", "rollout.gpu_memory_utilization=0.4"]
        return [
            f"model.path={self.model}",
            f"model.dtype={self.dtype}",
            f"model.max_pixels={self.side_px**2}",
            *(["rollout.probe_tolerance_nats=0.1"] if self.is_gpu else []),
            "rollout.max_model_len=1024",
            "sft.num_workers=1",
            "model.gradient_checkpointing=true",
            "model.lora={rank: 8, alpha: 32}",
            *(shared if self.is_gpu else []),
            *more,
        ]


@pytest.fixture(scope="session")
def place(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Place:
    from fxray.model.folder import resolve_model_path

    like = request.config.getoption("--like")
    if request.config.getoption("--rehearse"):
        is_qwen3 = like.startswith("qwen3-vl")
        return Place(
            request.getfixturevalue("random_qwen3_dir") if is_qwen3 else resolve_model_path("tiny"), is_gpu=False
        )
    from fxray.model.random import write_random_model

    folder = tmp_path_factory.mktemp("gpu") / like
    write_random_model(folder, like, num_layers=NUM_LAYERS, seed=0, progress=lambda *_: None)
    return Place(folder, is_gpu=True)


@pytest.fixture
def start_engine(place: Place) -> Iterator[Callable[..., Any]]:
    """Starts an engine in an actor with a GPU, given environment and changed settings; returns how to call it."""
    import ray

    from fxray.config.load import load_config
    from fxray.config.tree import RayConfig
    from fxray.engine.engine import Engine
    from fxray.launch.cluster import ray_cluster
    from fxray.launch.start import engine_settings

    with ray_cluster(RayConfig(num_cpus=2, object_store_mib=512), min_cpus=2):

        def start(
            environment: dict[str, str] | None = None, *overrides: str, kind: type[Engine] = Engine
        ) -> Callable[..., Any]:
            config = load_config("smoke", place.overrides(*overrides))
            options = {"num_gpus": 1 if place.is_gpu else 0, "runtime_env": {"env_vars": environment or {}}}
            actor = ray.remote(kind).options(**options).remote(engine_settings(config, place.model))
            return lambda method, *args: ray.get(getattr(actor, method).remote(*args), timeout=280)

        yield start
