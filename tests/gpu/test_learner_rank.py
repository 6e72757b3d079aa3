"""A rank of the learner at the passes of a shipped configuration: what it keeps, and how often it compiles."""

import gc
import re
import runpy
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from torch._dynamo.utils import counters

from fxray.capacity.memory import largest_passes

TOP = Path(__file__).parents[2]
BENCHMARK = runpy.run_path(str(TOP / "benchmarks" / "gpu_memory.py"))
GIB = BENCHMARK["GIB"]
pytestmark = [pytest.mark.gpu, pytest.mark.null, pytest.mark.timeout(420)]


@pytest.fixture(params=[(), pytest.param(("model.lora=null",), marks=pytest.mark.long)], ids=["adapter", "all-weights"])
def rank(place: Any, request: pytest.FixtureRequest) -> Any:
    if not place.is_gpu:
        pytest.skip("a CPU compiles nothing, and counts no memory")
    gc.collect()
    torch.cuda.empty_cache()
    return BENCHMARK["Rank"](BENCHMARK["configured"]("qwen2.5-vl-3b", place.model, *request.param), place.model)


def test_a_rank_keeps_what_the_plan_says_and_compiles_for_no_new_length(rank: Any) -> None:
    before, kept_before = torch.cuda.memory_allocated(), torch.cuda.memory_reserved()
    rank.start()
    for size in largest_passes(rank.config):
        rank.learn([[size.answer_tokens] * size.num_answers] * size.num_groups)
    forms = counters["stats"]["unique_graphs"]
    for seed in range(3):
        rank.learn(*rank.mixed(4, seed))
    assert counters["stats"]["unique_graphs"] == forms

    planned = BENCHMARK["planned_bytes"](rank.config)
    used = torch.cuda.max_memory_allocated() - before
    kept = torch.cuda.max_memory_reserved() - kept_before
    print(f"used {used / GIB:.2f} GiB, kept {kept / GIB:.2f}, planned {planned / GIB:.2f}")
    assert kept <= 1.05 * used
    assert 0.85 * planned < used < planned


@pytest.mark.long
def test_one_of_four_ranks_that_spread_the_weights_keeps_about_what_the_plan_says(place: Any) -> None:
    if not place.is_gpu or BENCHMARK["NULL"] not in torch.cuda.get_device_name():
        pytest.skip("the null GPU pretends the other ranks")
    spread = ("learner.num_ranks=4", "learner.zero_stage=3", "model.gradient_checkpointing=true")
    command = ["tests/gpu/null/launch.py", "benchmarks/gpu_memory.py", "--model", str(place.model), "--set", *spread]
    done = subprocess.run([sys.executable, *command], cwd=TOP, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    used = max(float(line.split()[-3]) for line in done.stdout.splitlines() if line.startswith("groups"))
    planned = float(re.search(r"the plan ([\d.]+) GiB", done.stdout)[1])  # type: ignore[index]
    print(f"used {used:.2f} GiB, planned {planned:.2f}")
    assert used == pytest.approx(planned, rel=0.15)
