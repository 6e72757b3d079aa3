"""A rank of SFT at passes of the largest images: what it keeps, and how often it waits for the GPU."""

import gc
import io
import runpy
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image

from fxray.data.dataset import Row, write_dataset
from fxray.launch.sft import sft_settings
from fxray.model.zero import join_ranks
from fxray.schema import Annotation, Sample, Verdict
from fxray.sft.worker import Trainer

BENCHMARK = runpy.run_path(str(Path(__file__).parents[2] / "benchmarks" / "gpu_memory.py"))
GIB = BENCHMARK["GIB"]
SIDE_PX = 1001
NUM_SAMPLES = 4
pytestmark = [pytest.mark.gpu, pytest.mark.null, pytest.mark.timeout(420)]


@pytest.fixture
def alone(place: Any) -> None:
    """A job of one rank, which stays for the rest of the process: DeepSpeed holds on to it."""
    if not place.is_gpu:
        pytest.skip("a CPU counts no memory, and nothing waits for it")
    join_ranks(rank=0, world_size=1, address="", port=0, listener=None, timeout_s=60)


def start(place: Any, folder: Path, *changes: str) -> tuple[Trainer, int]:
    """A rank whose steps are one image as large as may be, four times over; and its bytes by the plan."""
    content = io.BytesIO()
    Image.new("RGB", (SIDE_PX, SIDE_PX)).save(content, "PNG")
    data = folder / "train.parquet"
    samples = [Sample(f"{n}", SIDE_PX, SIDE_PX, Annotation(Verdict.REAL), "", "", f"{n}") for n in range(NUM_SAMPLES)]
    write_dataset(data, [Row(sample, content.getvalue()) for sample in samples])
    sizes = [f"sft.batch_size={NUM_SAMPLES}", "sft.max_tokens_per_micro_batch=3000", "sft.max_answer_tokens=32"]
    config = BENCHMARK["configured"]("qwen2.5-vl-3b", place.model, *sizes, *changes)
    settings = sft_settings(config, place.model, data)
    rank = Trainer(settings, folder, rank=0, device=torch.device("cuda"), report=lambda *_: None)
    if BENCHMARK["NULL"] in torch.cuda.get_device_name():  # where gradients are no numbers, which a step refuses
        rank._engine.step = lambda *_: 0.0
    return rank, BENCHMARK["planned_bytes"](config, "SFT worker")


@pytest.mark.parametrize("dropout", [0.0, 0.05])
def test_a_rank_of_sft_keeps_what_the_plan_says(place: Any, alone: None, tmp_path: Path, dropout: float) -> None:
    gc.collect()
    torch.cuda.empty_cache()
    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated()
    rank, planned = start(place, tmp_path, f"model.lora.dropout={dropout}")
    for step in range(2):
        rank._learn(step, rank._reader.read(step))
    used = torch.cuda.max_memory_allocated() - before
    print(f"used {used / GIB:.2f} GiB, planned {planned / GIB:.2f}")
    assert 0.85 * planned < used < planned


@pytest.mark.filterwarnings("ignore:Synchronization debug mode")
def test_a_step_of_sft_waits_for_the_gpu_once_for_each_exchange_of_numbers(
    place: Any, alone: None, tmp_path: Path
) -> None:
    rank, _ = start(place, tmp_path)
    rank._learn(0, rank._reader.read(0))  # compiles
    rank._engine.step = lambda *_: 0.0  # its own waits are DeepSpeed's
    examples = rank._reader.read(1)
    torch.cuda.set_sync_debug_mode("warn")
    try:
        with pytest.warns(UserWarning, match="synchronizing CUDA operation") as warned:
            rank._learn(1, examples)
    finally:
        torch.cuda.set_sync_debug_mode("default")
    # Numbers there and back for the counts, and for the loss; and the losses of the passes.
    assert sum("synchronizing CUDA operation" in str(each.message) for each in warned) == 5
