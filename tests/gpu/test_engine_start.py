"""An engine of CUDA as rollout workers start one, on a real GPU or on the null GPU, whose kernels compute nothing."""

import os
import sys
from pathlib import Path
from typing import Any

import pytest

from fxray.engine.engine import Engine
from fxray.engine.environment import is_cpu_build, prepare_environment
from fxray.engine.start import register_class
from fxray.large_imports import large_imports

IS_NULL = "libcuda.so.1" in os.environ.get("LD_PRELOAD", "")


class Started(Engine):
    """Starts, and says what came of it."""

    def __init__(self, settings: Any) -> None:
        import torch

        if IS_NULL:  # vLLM asks how many adapters are in use, and that would be garbage
            torch.unique = lambda found, **_: (found[:1], found.new_ones(1, dtype=torch.int64))
        prepare_environment(threads=settings.threads)
        with large_imports():
            register_class(settings.model_path)
            self.has_touched_cuda = torch.cuda.is_initialized()
            super().__init__(settings)

    def tell(self) -> dict[str, Any]:
        import torch

        imported = {name for name in ("scipy", "sklearn", "boto3") if name in sys.modules}
        return {
            "can_sleep": self._settings.can_sleep,
            "touched": self.has_touched_cuda,
            "imported": imported,
            "bytes": torch.cuda.memory_allocated(),
        }


@pytest.mark.null
@pytest.mark.long
@pytest.mark.skipif(is_cpu_build(), reason="wants vLLM's CUDA build")
def test_an_engine_starts_without_a_second_process_and_without_scipy(
    place: Any, start_engine: Any, tmp_path: Path
) -> None:
    environment = {"VLLM_CACHE_ROOT": str(tmp_path), "VLLM_USE_FLASHINFER_SAMPLER": "0"}
    told = start_engine(environment, "rollout.enforce_eager=true", "rollout.sleep=true", kind=Started)("tell")
    assert told["can_sleep"]
    assert told["touched"] is False
    assert told["imported"] == set()
    assert told["bytes"] > sum(file.stat().st_size for file in place.model.glob("*.safetensors"))
    assert not list(tmp_path.glob("modelinfos/*"))  # what a process that looked would have left
