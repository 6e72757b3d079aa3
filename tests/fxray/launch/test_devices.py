import pytest

from fxray.capacity.devices import GIB
from fxray.config.load import load_config
from fxray.errors import ResourceError
from fxray.launch.devices import FoundGpu, check_gpus, find_placement_problem, look_at_gpu, num_gpus

H100 = FoundGpu("NVIDIA H100", int(79.1 * GIB), has_bfloat16=True)


def config(name: str = "qwen2.5-vl-3b", *overrides: str):
    return load_config(name, overrides)


@pytest.mark.parametrize(
    ("name", "overrides", "expected"),
    [("tiny", [], 0), ("qwen2.5-vl-3b", [], 1), ("qwen2.5-vl-7b", [], 2), ("qwen2.5-vl-32b", [], 8)],
)
def test_the_gpus_of_shipped_configurations(name: str, overrides: list[str], expected: float) -> None:
    assert num_gpus(config(name, *overrides)) == expected


def test_a_configuration_without_gpus_looks_at_none() -> None:
    check_gpus(config("tiny"), 0, look=lambda _: pytest.fail("looked"))


def test_enough_gpus_that_fit_are_accepted() -> None:
    check_gpus(config(), 1, look=lambda _: H100)


def test_behind_other_jobs_a_gpu_is_waited_for_within_the_start_deadline() -> None:
    waits: list[float] = []

    def look(deadline_s: float) -> FoundGpu:
        waits.append(deadline_s)
        return H100

    check_gpus(config("qwen2.5-vl-3b", "rollout.start_deadline_s=7200"), 1, look)
    assert waits == [7200]


@pytest.mark.parametrize(
    ("available", "found", "message", "remedy"),
    [
        (0, H100, "asks for 1 GPU, the cluster has 0", "ray.address"),
        (
            1,
            FoundGpu("", problem="torch 2.13.0 is built for CUDA 13.0: driver too old"),
            "driver too old",
            "nvidia-smi",
        ),
        (1, FoundGpu("NVIDIA T4", 80 * GIB), "does not compute in bfloat16", "float32"),
        (1, FoundGpu("NVIDIA A10", 22 * GIB, has_bfloat16=True), r"of GPU memory by the plan, 22\.0 GiB", "--set"),
    ],
)
def test_what_cannot_work_is_refused_before_anything_is_loaded(
    available: float, found: FoundGpu, message: str, remedy: str
) -> None:
    with pytest.raises(ResourceError, match=message) as caught:
        check_gpus(config(), available, look=lambda _: found)
    assert remedy in caught.value.remedy


def test_ranks_that_take_turns_with_engines_may_not_find_a_node_that_has_none() -> None:
    """Ray packs four ranks of .4 onto two GPUs of a second node, while four engines of .6 are on the first."""
    turns = ["rollout.gpus_per_worker=0.6", "learner.gpus_per_rank=0.4", "rollout.sleep=true"]
    four = config("qwen2.5-vl-7b", *turns, "rollout.num_workers=4", "learner.num_ranks=4")
    (problem,) = find_placement_problem(four, [4, 4])
    assert (problem.field, problem.value) == ("rollout.num_workers", "4")
    assert "must be 8" in problem.bound
    for nodes in ([8], [2, 2]):
        assert find_placement_problem(four, nodes) == []
    assert find_placement_problem(config("qwen2.5-vl-7b", *turns), [4, 4]) == []
    assert find_placement_problem(config("qwen2.5-vl-7b", "rollout.num_workers=4"), [4, 4]) == []


def test_a_process_without_a_gpu_says_what_torch_is_built_for() -> None:
    import torch

    if torch.cuda.is_available():
        assert look_at_gpu().memory_bytes > 0
    else:
        assert "torch" in look_at_gpu().problem
