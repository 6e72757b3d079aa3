import pytest
from hypothesis import given
from hypothesis import strategies as st

from fxray.config.load import load_config
from fxray.launch.demand import Demand, missing, shown


def config(*overrides: str):
    return load_config("smoke", ["sft.num_workers=1", *overrides])


def test_a_machine_with_a_processor_for_engine_and_rank_is_enough():
    assert missing(config(), [{"CPU": 2}]) == []


def test_phases_share_the_nodes():
    assert missing(config("sft.num_workers=2"), [{"CPU": 2}]) == []


def test_everything_that_is_missing_is_named_with_its_field():
    lines = missing(config("sft.num_workers=2", "learner.gpus_per_rank=1", "rollout.num_workers=3"), [{"CPU": 3}])
    assert lines == [
        "SFT asks for 2 SFT workers of 1 GPU, 1 CPU each (sft.num_workers): there is room for 0",
        "GRPO asks for 1 learner rank of 1 GPU, 1 CPU each (learner.num_ranks): there is room for 0",
    ]


def test_a_driver_that_asks_for_a_type_of_node_needs_one():
    assert missing(config(), [{"CPU": 2}, {"reward": 1}], driver_on="reward") == []
    (line,) = missing(config(), [{"CPU": 2, "learner": 1}], driver_on="reward")
    assert line == "the driver asks for a node with `reward` (--driver-on): there is none"


def test_several_runs_at_once_need_room_for_each():
    assert missing(config(), [{"CPU": 2}, {"CPU": 2}], copies=2) == []
    lines = missing(config(), [{"CPU": 3}], copies=2)
    assert lines == ["GRPO asks for 2 rollout workers of 1 CPU each (rollout.num_workers): there is room for 1"]


def test_an_elastic_pool_needs_room_for_its_fewest_workers():
    elastic = ["rollout.num_workers=3", "rollout.min_workers=2", "rollout.max_workers=4"]
    assert missing(config(*elastic), [{"CPU": 3}]) == []
    (line,) = missing(config(*elastic), [{"CPU": 2}])
    assert line == "GRPO asks for 2 rollout workers of 1 CPU each (rollout.min_workers): there is room for 1"


def test_a_process_must_fit_on_one_node():
    wide = config("rollout.cpus_per_worker=3")
    (line,) = missing(wide, [{"CPU": 2}, {"CPU": 2}])
    assert line.startswith("GRPO asks for 1 rollout worker of 3 CPU each")
    assert missing(wide, [{"CPU": 2}, {"CPU": 3}]) == []


def test_processes_without_a_gpu_leave_the_gpu_nodes_to_others():
    asked = config("learner.gpus_per_rank=1", "rollout.num_workers=2")
    assert missing(asked, [{"CPU": 1, "GPU": 1}, {"CPU": 2}]) == []


def test_parts_of_a_gpu_share_it():
    shared = config("learner.gpus_per_rank=0.4", "rollout.gpus_per_worker=0.6")
    assert missing(shared, [{"CPU": 2, "GPU": 1}]) == []
    assert len(missing(config("learner.gpus_per_rank=0.5", "rollout.gpus_per_worker=0.6"), [{"CPU": 2, "GPU": 1}])) == 1


def test_node_types_bind_only_where_they_are_asked_for():
    nodes = [{"CPU": 4, "rollout": 1}, {"CPU": 4, "learner": 1}]
    assert missing(config(), nodes) == []
    (line,) = missing(config("ray.use_node_types=true"), nodes)
    assert "1 reward worker of a node with `reward` each" in line
    assert missing(config("ray.use_node_types=true"), [*nodes, {"CPU": 0, "reward": 1}]) == []


@pytest.mark.parametrize(
    ("resources", "words"),
    [
        ({"CPU": 2.0, "GPU": 0.5, "learner": 0.001}, "0.5 GPU, 2 CPU, a node with `learner`"),
        ({"CPU": 1.0, "GPU": 0}, "1 CPU"),
        ({}, "no CPU"),
    ],
)
def test_resources_in_words(resources, words):
    assert shown(Demand("worker", "field", 1, resources).resources) == words


@given(
    st.lists(st.fixed_dictionaries({"CPU": st.integers(0, 8), "GPU": st.integers(0, 2)}), max_size=4),
    st.integers(1, 3),
    st.sampled_from([0, 0.5, 1]),
)
def test_what_is_said_to_fit_never_takes_more_than_there_is(nodes, num_workers, gpus):
    asked = config(f"rollout.num_workers={num_workers}", f"rollout.gpus_per_worker={gpus}")
    before = [dict(node) for node in nodes]
    fits = not missing(asked, nodes)
    assert nodes == before
    if fits:
        assert sum(node["CPU"] for node in nodes) >= num_workers + 1
        assert sum(node["GPU"] for node in nodes) >= num_workers * gpus
