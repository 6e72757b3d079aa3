"""The engine of the service over a vLLM that computes nothing; tests/fxray/serve asks a real one."""

import asyncio
from types import SimpleNamespace

import pytest

from fxray.engine import streaming
from fxray.engine.binding import MixedWeightsError
from fxray.engine.streaming import StreamingEngine
from fxray.grpo.types import SyncProof, WeightsBlob


class Vllm:
    """Notes what is asked; its cache of prefixes is emptied or not."""

    def __init__(self, is_emptied):
        self.is_emptied, self.asked = is_emptied, []

    async def reset_mm_cache(self):
        self.asked.append("images")

    async def reset_encoder_cache(self):
        self.asked.append("encoder")

    async def reset_prefix_cache(self):
        self.asked.append("prefixes")
        return self.is_emptied

    def shutdown(self):
        self.asked.append("end")


def proved_at_once(blob, **more):
    return SyncProof("engine", blob.version, blob.sha256, 1)
    yield


@pytest.mark.parametrize("is_emptied", [True, False])
def test_whole_weights_answer_only_once_nothing_that_others_computed_is_left(monkeypatch, is_emptied):
    monkeypatch.setattr(streaming, "bind_policy", proved_at_once)
    engine, vllm = object.__new__(StreamingEngine), Vllm(is_emptied)
    vars(engine).update(
        _llm=vllm,
        _settings=SimpleNamespace(lora_rank=0, max_adapters=1),
        _num_loads=0,
        _num_running=0,
        _policies={},
        _is_swapping=False,
        _changed=asyncio.Condition(),
    )
    load = engine.load_policy(WeightsBlob(7, (), "abc", 1, 0), worker="engine", deadline_s=5)
    if is_emptied:
        assert asyncio.run(load).version == 7
        assert vllm.asked == ["images", "encoder", "prefixes"]
    else:
        with pytest.raises(MixedWeightsError, match="cache of prefixes"):
            asyncio.run(load)
        assert vllm.asked[-1] == "end"
        assert engine._policies == {}
