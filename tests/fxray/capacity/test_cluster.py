"""Traffic, waits and elasticity, against numbers computed by hand."""

import json

import pytest
from typer.testing import CliRunner

from fxray.capacity.cluster import SOURCES, ClusterCoefficients, Size, count_traffic, driver_load, plan_cluster
from fxray.capacity.duration import Duration
from fxray.capacity.plan import known_shape
from fxray.capacity.weights import count_adapter, count_modules, count_weights
from fxray.cli.app import app
from fxray.config.load import load_config
from fxray.errors import ConfigError

GROUPS, ANSWERS, TOKENS = 32, 4, 410  # of the paper's step, answers of 0.4 x 1,024 tokens
KNOWN = ClusterCoefficients(
    link_bytes_per_s=1e6,
    node_bytes_per_s=1e9,
    gpus_per_node=4,
    image_bytes_per_pixel=0.5,
    text_bytes_per_token=3,
    request_s=1,
    request_each_s=0.1,
    request_group_s=0.01,
    actor_start_s=2,
    engine_start_s=30,
    weights_bytes_per_s=1e8,
    adapter_module_s=0.001,
    death_seen_s=0.5,
)


def config(*overrides: str):
    placed = ("rollout.gpus_per_worker=1", "learner.gpus_per_rank=1", *overrides)
    return load_config("qwen2.5-vl-7b", placed)


def traffic(*overrides: str, num_workers: int = 1):
    tree = config(*overrides)
    found = count_traffic(tree, known_shape(tree), num_workers, 0.4, None, KNOWN)
    return {f"{each.what}, {each.route}": each for each in found}


def duration(sampling_s: float, learn_s: float) -> Duration:
    return Duration(sampling_s / 4, sampling_s / 4, learn_s, sampling_s / 2, 1, 1.0, 1, 0.1, 10, overlaps=False)


def test_bytes_of_every_boundary_are_counted_by_hand() -> None:
    found = traffic("rollout.max_num_seqs=64", num_workers=5)
    adapter = 4 * count_adapter(known_shape(config()), 8)
    image = int(0.5 * 1280 * 28 * 28)
    text = GROUPS * ANSWERS * TOKENS * 3
    drawn = GROUPS * (1280 + 96) * 4 + GROUPS * ANSWERS * (TOKENS * 8 + 5) + text
    numbers = {name: (each.num_messages, each.num_bytes) for name, each in found.items()}
    assert numbers == {
        "images, store -> engines": (32, 32 * image),
        "answers, engines -> driver": (5, drawn),  # a lease for each engine
        "texts and scores, driver <-> rewards": (20, text + 128 * 8 * 8),  # ten shares there and back
        "adapter, driver -> engines": (2, 2 * adapter),  # five engines on nodes of four
        "images, store -> ranks": (32, 32 * image),
        "answers, driver -> ranks": (1, drawn),
        "adapter, rank 0 -> driver": (1, adapter),
        "gradients, rank <-> rank": (1, 0),
    }
    assert found["adapter, driver -> engines"].seconds == pytest.approx(2 * adapter / 1e6)
    assert [each.is_learning for each in found.values()] == [False] * 4 + [True] * 4


def test_whole_weights_go_from_rank_0_to_each_node_of_engines_once() -> None:
    found = traffic("model.lora=null", "learner.num_ranks=4", num_workers=5)
    weights = count_weights(known_shape(config())).total
    to_engines = found["weights, rank 0 -> engines"]
    assert (to_engines.num_messages, to_engines.num_bytes) == (2, 2 * 2 * weights)
    assert not any(name.startswith("adapter") for name in found)
    assert found["gradients, rank <-> rank"].seconds == pytest.approx(2 * 4 * weights * 3 // 4 / 1e9)


def test_ranks_exchange_gradients_over_the_network_once_they_leave_a_node() -> None:
    adapter = 4 * count_adapter(known_shape(config()), 8)
    of_rank = 2 * adapter * 3 // 4
    inside = traffic("learner.num_ranks=4")["gradients, rank <-> rank"]
    assert (inside.num_bytes, inside.seconds) == (0, pytest.approx(of_rank / 1e9))
    outside = traffic("learner.num_ranks=8")["gradients, rank <-> rank"]
    of_rank = 2 * adapter * 7 // 8
    assert (outside.num_bytes, outside.seconds) == (2 * of_rank, pytest.approx(of_rank / 1e6))


@pytest.mark.parametrize(
    ("max_tokens", "max_groups", "num_passes"), [(1, 0, 8), (6031, 0, 8), (6032, 0, 4), (16384, 0, 2), (16384, 3, 3)]
)
def test_zero_3_gathers_the_weights_in_every_pass_of_mean_answers(
    max_tokens: int, max_groups: int, num_passes: int
) -> None:
    shape, bounds = known_shape(config()), {"max_tokens": max_tokens, "max_groups": max_groups}
    passes = [f"learner.{bound}_per_micro_batch={value}" for bound, value in bounds.items()]
    found = traffic("learner.num_ranks=4", "learner.zero_stage=3", *passes)["gradients, weights, rank <-> rank"]
    gathers = num_passes * 3  # of eight groups a rank, 3,016 tokens each; forward, backward, the reference's forward
    num_bytes = 2 * 4 * count_adapter(shape, 8) + gathers * 2 * count_weights(shape).total
    assert found.seconds == pytest.approx(num_bytes * 3 // 4 / 1e9)


def test_a_step_costs_the_driver_three_calls_a_request() -> None:
    tree = config("rollout.num_workers=4", "rollout.max_num_seqs=8", "reward.num_workers=2")
    calls, seconds = driver_load(tree, 4, KNOWN)
    leases, scores, loads = 4, 10, 4  # leases of 8 groups; shares of 8, 6, 5, 4, 3, 2, 1, 1, 1 and 1
    assert calls == 3 * (leases + scores + loads)
    outstanding = leases * 4 + scores * 2 + 4 * 4 / 2
    assert seconds == pytest.approx((leases + scores + loads) * 1 + outstanding * 0.1 + 64 * 0.01)


def test_who_waits_and_what_one_more_worker_gains() -> None:
    size = Size(2, sampling_s=5.0, learning_s=3.0)
    assert (size.in_turn_s, size.overlap_s, size.learner_waits_s, size.engines_wait_s) == (8.0, 5.0, 2.0, 0.0)
    fast = ClusterCoefficients(link_bytes_per_s=1e30, node_bytes_per_s=1e30)
    for staleness, gains in ((0, [12.0, 4.0, 1.2]), (1, [12.0, 4.0, 0.0])):
        tree = config(f"grpo.max_staleness={staleness}")
        plan = plan_cluster(tree, known_shape(tree), lambda n: duration(24.0 / n, 7.0), coefficients=fast)
        assert [each.num_workers for each in plan.sizes] == [1, 2, 4, 8, 16, 32]
        assert plan.enough_workers == 4  # 24 / 4 = 6 s are less than 7
        assert [each.sampling_s for each in plan.sizes[:3]] == pytest.approx([24.0, 12.0, 6.0])
        assert [each.gain_s for each in plan.sizes[:3]] == pytest.approx(gains)
        assert plan.sizes[-1].gain_s == 0.0


def test_what_dies_and_joins_costs_what_is_drawn_again_and_what_is_loaded() -> None:
    adapter, weights = 4 * count_adapter(known_shape(config()), 8), 2 * count_weights(known_shape(config())).total
    join_s = 2 + 30 + weights / 1e8 + adapter / 1e6 + 0.001 * count_modules(known_shape(config()))

    def elasticity(*overrides: str):
        tree = config(*overrides)
        return plan_cluster(tree, known_shape(tree), lambda n: duration(24.0 / n, 7.0), coefficients=KNOWN).elasticity

    alone = elasticity()
    assert (alone.join_s, alone.lease_groups, alone.sampling_without_s) == (pytest.approx(join_s), 32, None)
    moved_s = sum(each.seconds for each in traffic().values() if not each.is_learning)
    assert alone.death_s == pytest.approx(0.5 + (24.0 + moved_s) / 2 + join_s)
    four = elasticity("rollout.num_workers=4", "rollout.max_num_seqs=8")
    moved_s = sum(e.seconds for e in traffic("rollout.max_num_seqs=8", num_workers=4).values() if not e.is_learning)
    assert four.lease_groups == 8
    assert four.death_s == pytest.approx(0.5 + 6.0 + moved_s)
    assert four.sampling_without_s == pytest.approx(8.0 + moved_s)


def test_every_coefficient_says_where_it_is_from() -> None:
    assert all(source == "guess" or source.startswith("measured: ") for source in SOURCES.values())
    assert SOURCES.keys() == ClusterCoefficients.__dataclass_fields__.keys()


class TestCommand:
    def run(self, *arguments: str):
        return CliRunner().invoke(app, ["plan", *arguments])

    def test_a_cluster_is_shown_where_it_is_asked_for_in_120_columns(self) -> None:
        result = self.run("--config", "qwen2.5-vl-32b", "--cluster", "--set", "grpo.max_staleness=1")
        assert result.exit_code == 0
        assert "rollout workers on the learner is what is waited for" in result.stdout
        shown = result.stdout.partition("Over the network in a step")[2]
        assert max(map(len, shown.splitlines())) <= 120
        assert "link_bytes_per_s" in shown
        assert "Over the network" not in self.run("--config", "qwen2.5-vl-32b").stdout

    def test_json_holds_the_cluster_and_a_slower_network_takes_longer(self) -> None:
        def adapter_s(*arguments: str) -> float:
            cluster = json.loads(self.run("--config", "qwen2.5-vl-7b", "--json", *arguments).stdout)["cluster"]
            return next(each["seconds"] for each in cluster["traffic"] if each["route"] == "driver -> engines")

        assert adapter_s("--link-gbit", "1") == pytest.approx(25 * adapter_s("--link-gbit", "25"))

    @pytest.mark.parametrize(("gbit", "bytes_per_s"), [("100", "1.25e+10"), ("25", "3.125e+09")])
    def test_it_says_which_speed_was_given(self, gbit: str, bytes_per_s: str) -> None:
        shown = self.run("--config", "qwen2.5-vl-7b", "--cluster", "--link-gbit", gbit).stdout
        (line,) = (line for line in shown.splitlines() if "link_bytes_per_s" in line)
        assert bytes_per_s in line
        assert "given" in line
        assert "guess" in shown

    def test_a_network_without_the_cluster_is_refused(self) -> None:
        result = self.run("--config", "qwen2.5-vl-7b", "--link-gbit", "1")
        assert isinstance(result.exception, ConfigError)
        assert "remedy: add --cluster or --json" in str(result.exception)

    def test_without_gpus_bytes_are_counted_and_waits_are_not(self) -> None:
        shown = self.run("--config", "tiny", "--cluster").stdout
        assert "no GPU is asked for: waits are not modelled" in shown
        assert "store -> engines" in shown
