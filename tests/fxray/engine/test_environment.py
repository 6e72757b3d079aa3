import logging
import os
import sys
from types import ModuleType

import pytest

from fxray.engine import environment
from fxray.engine.environment import is_cpu_build, prepare_environment
from fxray.errors import ResourceError


@pytest.fixture(autouse=True)
def untouched_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "environ", dict(os.environ))


def test_an_engine_is_refused_where_vllm_came_first(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "vllm", ModuleType("vllm"))
    os.environ.pop("HF_HUB_OFFLINE", None)
    with pytest.raises(ResourceError, match="vLLM was imported before HF_HUB_OFFLINE was set"):
        prepare_environment(threads=1)


def test_an_engine_is_refused_in_a_fork_of_a_process_that_had_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(environment, "_prepared", {os.getppid()})
    with pytest.raises(ResourceError, match=f"this process is a fork of {os.getppid()}, which had an engine before"):
        prepare_environment(threads=1)


def test_that_a_narrow_image_is_read_channels_first_is_no_warning(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    import torch
    from transformers.image_utils import infer_channel_dimension_format

    monkeypatch.delitem(sys.modules, "vllm", raising=False)
    prepare_environment(threads=torch.get_num_threads())
    logger = logging.getLogger("transformers.image_utils")
    caplog.set_level(logging.WARNING, logger.name)
    logger.addHandler(caplog.handler)
    try:
        assert infer_channel_dimension_format(torch.zeros(3, 5, 1)).value == "channels_first"
        logger.warning("something else")
    finally:
        logger.removeHandler(caplog.handler)
    assert set(caplog.messages) == {"something else"}  # twice where transformers hands on what it logs


def test_a_second_engine_finds_the_environment_of_the_first(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "vllm", ModuleType("vllm"))
    os.environ |= {
        "VLLM_ENABLE_V1_MULTIPROCESSING": "0",
        "VLLM_USE_V2_MODEL_RUNNER": "0",
        "VLLM_NO_USAGE_STATS": "1",
        "VLLM_LOGGING_LEVEL": "ERROR",
        "HF_HUB_OFFLINE": "1",
        "TOKENIZERS_PARALLELISM": "false",
        "OMP_NUM_THREADS": "7",
    }
    prepare_environment(threads=3)
    if is_cpu_build():
        assert os.environ["OMP_NUM_THREADS"] == "3"
        assert os.environ["VLLM_CPU_OMP_THREADS_BIND"] == "nobind"
