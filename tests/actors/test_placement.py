from actors.placement import LEARNER, NODE_TYPES, REWARD, ROLLOUT, actor_options, node_share, reserved
from fxray.config.load import load_config
from fxray.launch.sft import sft_settings


def test_an_actor_of_a_role_asks_for_so_little_that_a_thousand_share_a_node():
    assert actor_options(num_cpus=1, num_gpus=0.5, node_type=ROLLOUT) == {
        "num_cpus": 1,
        "num_gpus": 0.5,
        "resources": {"rollout": 0.001},
        "max_restarts": 0,
        "max_task_retries": 0,
    }
    assert actor_options(num_cpus=1, num_gpus=0)["resources"] == {}
    assert reserved(actor_options(num_cpus=2, num_gpus=1, node_type=ROLLOUT)) == {"CPU": 2, "GPU": 1, "rollout": 0.001}


def test_the_roles_have_resources_of_their_own():
    assert NODE_TYPES == (LEARNER, ROLLOUT, REWARD) == ("learner", "rollout", "reward")
    assert node_share("") == {}


def test_sft_runs_where_the_learner_does_if_node_types_are_used(tmp_path):
    for is_used, expected in (("true", {"learner": 0.001}), ("false", {})):
        config = load_config("smoke", [f"ray.use_node_types={is_used}"])
        assert sft_settings(config, tmp_path, tmp_path).node_resources == expected
