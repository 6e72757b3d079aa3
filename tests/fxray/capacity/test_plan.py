"""Who needs how much, whether it fits, and what helps where it does not."""

import json
import random
import re
from itertools import chain
from pathlib import Path
from types import SimpleNamespace

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from typer.testing import CliRunner

from fxray.capacity.activations import count_activations
from fxray.capacity.advice import apply, as_options, find_change
from fxray.capacity.devices import GIB, GPUS
from fxray.capacity.duration import Rows
from fxray.capacity.memory import MAX_LOGITS, grpo_pass, plan_memory, sft_passes
from fxray.capacity.plan import draw_plan, known_shape, refuse_what_does_not_fit
from fxray.capacity.trained import count_trained, find_store_problem
from fxray.capacity.weights import count_adapter, count_weights
from fxray.cli.app import app
from fxray.config import model_shape
from fxray.config.limits import PROMPT_TOKENS, check, image_tokens
from fxray.config.load import load_config, shipped_folder
from fxray.config.tree import Config
from fxray.errors import ConfigError, DataError, ResourceError
from fxray.grpo.packing import packed_length, plan_micro_batches
from fxray.model.head import LOGITS_BUDGET

H100 = GPUS["h100"]
ROWS = Rows(13158, 1000, 1000)


def config(name: str = "qwen2.5-vl-3b", *overrides: str):
    return load_config(name, overrides)


def part(plan, role: str, name: str) -> int:
    (found,) = [part.num_bytes for each in plan.roles if each.name == role for part in each.parts if part.name == name]
    return found


def placements():
    """The shipped files as they are, and with every placement that their first lines propose."""
    for name in ("qwen2.5-vl-3b", "qwen2.5-vl-7b", "qwen2.5-vl-32b", "qwen3-vl-8b"):
        lines = (shipped_folder() / f"{name}.yaml").read_text().splitlines()
        yield name, ()
        yield from ((name, tuple(re.findall(r"--set (\S+)", line))) for line in lines if line.startswith("#   --set "))


@pytest.mark.parametrize(("name", "overrides"), placements())
def test_the_shipped_configurations_fit_on_80_gb(name: str, overrides: tuple[str, ...]) -> None:
    tree = config(name, *overrides)
    plan = draw_plan(tree, H100, H100.memory_bytes, ROWS)
    assert plan.memory.fits
    assert plan.change == ()
    assert plan.memory.cached_tokens > 4 * tree.rollout.max_model_len


def test_the_remedy_for_an_unknown_shape_names_every_family_that_has_known_ones() -> None:
    with pytest.raises(ConfigError) as told:
        known_shape(config("qwen2.5-vl-7b", "model.path=nobody/qwen9"))
    shapes = sorted((Path(model_shape.__file__).parents[1] / "assets" / "shapes").glob("*.json"))
    assert shapes
    assert all(re.match(r"(.*)-\d+b", shape.name)[1] in told.value.remedy.lower() for shape in shapes)


def test_weights_adapters_and_optimizer_are_exact() -> None:
    tree = config()
    shape = known_shape(tree)
    plan, adapter = plan_memory(tree, shape, H100.memory_bytes), count_adapter(shape, 8)
    for role in ("engine", "learner rank", "SFT worker"):
        assert part(plan, role, "base weights") == 2 * count_weights(shape).total
    assert part(plan, "learner rank", "adapter") == part(plan, "learner rank", "reference") == 4 * adapter
    assert part(plan, "learner rank", "optimizer") == 2 * 4 * adapter
    assert part(plan, "SFT worker", "adapter") == 4 * adapter
    assert LOGITS_BUDGET == MAX_LOGITS


def test_dropout_of_adapters_takes_memory_of_sft_alone() -> None:
    """A layer of 3B: inputs of q, k, v, of gate and up instead of two, and a byte for each number of all seven."""
    tree, dropping = config(), config("qwen2.5-vl-3b", "model.lora.dropout=0.1")
    plan, of_dropping = (plan_memory(each, known_shape(each), H100.memory_bytes) for each in (tree, dropping))
    more = {
        role: part(of_dropping, role, "activations") - part(plan, role, "activations")
        for role in ("learner rank", "SFT worker")
    }
    of_layer = 3 * 2048 * 2 + 6 * 2048 + 11008
    of_block = 1280 * 2 + 4 * 1280 + 3420
    of_patch = 32 * of_block + 2 * 1280
    most = max(36 * size.tokens * of_layer + size.num_groups * size.patches * of_patch for size in sft_passes(tree))
    assert more == {"learner rank": 0, "SFT worker": most}


def test_whole_weights_take_five_times_their_bytes_and_a_narrow_copy() -> None:
    tree = config("qwen2.5-vl-3b", "model.lora=null")
    shape = known_shape(tree)
    plan, weights = plan_memory(tree, shape, H100.memory_bytes), count_weights(shape).total
    float32 = dict.fromkeys(("trained weights", "reference", "gradients"), 4 * weights)
    expected = float32 | {"optimizer": 8 * weights, "weights cast for a pass": 2 * weights}
    assert {name: part(plan, "learner rank", name) for name in expected} == expected
    names = {each.name for role in plan.roles for each in role.parts}
    assert not names & {"adapter", "adapter in use"}
    assert part(plan, "engine", "base weights") == 2 * weights

    trained = count_trained(tree, shape)
    assert (trained.num_trained, trained.published_bytes) == (weights, 2 * weights)
    assert trained.checkpoint_bytes == 2 * 4 * weights + 8 * weights
    assert trained.store_bytes == 2 * trained.published_bytes + 8 * weights
    assert find_store_problem(tree, trained.store_bytes) == []
    (problem,) = find_store_problem(tree, trained.store_bytes - 2**20)
    assert (problem.field, problem.value) == ("ray.object_store_mib", str((trained.store_bytes - 2**20) // 2**20))
    assert find_store_problem(config("qwen2.5-vl-3b"), 0) == []


def test_zero_shares_what_its_stage_says() -> None:
    eight = [config("qwen2.5-vl-32b", "learner.num_ranks=8", f"learner.zero_stage={stage}") for stage in range(4)]
    plans = [plan_memory(tree, known_shape(tree), H100.memory_bytes) for tree in eight]
    parts = [
        [part(plan, "learner rank", name) for plan in plans] for name in ("base weights", "gradients", "optimizer")
    ]
    weights, gradients, optimizer = parts
    assert [weights[0] // each for each in weights] == [1, 1, 1, 8]
    assert [gradients[0] // each for each in gradients] == [1, 1, 8, 8]
    assert [round(optimizer[0] * 1.5 / each) for each in optimizer[1:]] == [8, 8, 8]


def test_frozen_weights_that_ranks_spread_are_whole_twice_at_a_time() -> None:
    """Of 3B over four ranks the allocator of a GPU whose kernels do nothing counted 9.36 GiB."""
    four = ("learner.num_ranks=4", "learner.zero_stage=3", "model.gradient_checkpointing=true")
    tree = config("qwen2.5-vl-3b", *four)
    (learner,) = [role for role in plan_memory(tree, known_shape(tree), 0).roles if role.name == "learner rank"]
    counted = sum(each.num_bytes for each in learner.parts if "CUDA" not in each.name)
    assert counted == pytest.approx(9.36 * GIB, rel=0.1)


def test_ranks_of_an_engine_share_weights_and_keys_until_the_key_heads_run_out() -> None:
    per_ranks = {}
    for ranks in (1, 2, 4):
        tree = config("qwen2.5-vl-3b", f"rollout.gpus_per_worker={ranks}", "learner.gpus_per_rank=1")
        plan = plan_memory(tree, known_shape(tree), H100.memory_bytes)
        per_ranks[ranks] = part(plan, "engine", "base weights"), plan.cached_tokens
    assert per_ranks[1][0] == 2 * per_ranks[2][0] == 4 * per_ranks[4][0]
    assert per_ranks[2][1] > 1.9 * per_ranks[1][1]
    assert per_ranks[4][1] < 1.5 * per_ranks[2][1]  # two key heads on four ranks: each is held twice


@pytest.mark.parametrize(
    ("overrides", "memory_gib", "expected"),
    [
        (["model.gradient_checkpointing=true"], 24, "--set rollout.gpu_memory_utilization=0.4"),
        (["learner.max_groups_per_micro_batch=0"], 79, "--set learner.max_groups_per_micro_batch=2"),
        ([], 64, "--set learner.max_tokens_per_micro_batch=4096"),
        (
            [],
            24,
            "--set model.gradient_checkpointing=true --set rollout.gpu_memory_utilization=0.4",
        ),
        (
            ["model.gradient_checkpointing=true"],
            20,
            "--set rollout.sleep=true --set rollout.gpu_memory_utilization=0.5",
        ),
    ],
)
def test_the_smallest_change_is_found_and_fits(overrides: list[str], memory_gib: float, expected: str) -> None:
    tree = config("qwen2.5-vl-3b", *overrides)
    shape, memory = known_shape(tree), int(memory_gib * GIB)
    assert not plan_memory(tree, shape, memory).fits
    change = find_change(tree, shape, memory)
    assert change is not None
    assert as_options(change) == expected
    changed = apply(tree, change)
    assert plan_memory(changed, shape, memory).fits
    assert check(changed) == []


def test_more_ranks_are_advised_together_with_sharing_the_weights() -> None:
    """All weights of 7B take 154 GiB, five times in float32; ranks that share nothing would take as much each."""
    tree = config("qwen2.5-vl-7b", "model.lora=null")
    change = find_change(tree, known_shape(tree), H100.memory_bytes)
    assert change is not None
    shared = {"learner.num_ranks": 4, "learner.zero_stage": 3, "sft.num_workers": 4, "sft.zero_stage": 3}
    assert dict(change) == {"model.gradient_checkpointing": True} | shared
    assert plan_memory(apply(tree, change), known_shape(tree), H100.memory_bytes).fits
    fuller = apply(tree, tuple((field, value) for field, value in change if field != "learner.zero_stage"))
    assert not plan_memory(fuller, known_shape(tree), H100.memory_bytes).fits


@pytest.mark.parametrize("used", [0.35, 0.75])
def test_who_rests_on_a_gpu_still_holds_what_it_cannot_give_away(used: float) -> None:
    """An engine asleep keeps what is neither weights nor cache; a learner everything but what a pass takes."""
    part_of_gpu = f"rollout.gpu_memory_utilization={used}"
    awake, asleep = (config("qwen2.5-vl-3b", part_of_gpu, f"rollout.sleep={value}") for value in ("false", "true"))
    plans = [plan_memory(tree, known_shape(tree), H100.memory_bytes) for tree in (awake, asleep)]
    engine, learner, _ = plans[0].roles
    passing = sum(part(plans[0], learner.name, name) for name in ("activations", "logits"))
    assert plans[0].cards[1].num_bytes == engine.num_bytes + learner.num_bytes
    samples, learns = engine.num_bytes + learner.num_bytes - passing, 2 * GIB + learner.num_bytes
    assert plans[1].cards[1].num_bytes == max(samples, learns) == (learns if used == 0.35 else samples)


def test_an_engine_beside_a_resting_learner_of_7b_cannot_have_85_percent_of_an_h100() -> None:
    shared = ("rollout.gpus_per_worker=0.6", "learner.gpus_per_rank=0.4", "rollout.sleep=true", "sft.num_workers=1")
    plan = draw_plan(config("qwen2.5-vl-7b", *shared), H100, H100.memory_bytes, ROWS)
    assert not plan.memory.fits
    assert plan.change == (("rollout.gpu_memory_utilization", 0.75),)


def test_sft_takes_as_many_tokens_at_once_as_fit() -> None:
    many = config("qwen2.5-vl-3b", "sft.max_tokens_per_micro_batch=28672")
    plan = draw_plan(many, H100, H100.memory_bytes, ROWS)
    assert plan.change == (("sft.max_tokens_per_micro_batch", 7168),)
    assert plan.as_json()["hours"] is None  # it cannot run


def test_too_small_a_gpu_is_refused_with_who_needs_what_and_the_remedy() -> None:
    with pytest.raises(ResourceError, match=r"engine needs 9\.2 GiB of GPU memory by the plan") as caught:
        refuse_what_does_not_fit(config(), 24 * GIB, "NVIDIA X on node 1")
    assert "--set rollout.gpu_memory_utilization=0.4" in caught.value.remedy
    assert "NVIDIA X on node 1" in str(caught.value)
    refuse_what_does_not_fit(config(), H100.memory_bytes, "")
    refuse_what_does_not_fit(config("qwen2.5-vl-3b", "model.path=unknown/model"), 1, "")


def test_a_pass_holds_as_many_whole_groups_as_its_tokens_allow() -> None:
    of_group = 1280 + 96 + 4 * 1024
    assert grpo_pass(config("qwen2.5-vl-3b", f"learner.max_tokens_per_micro_batch={2 * of_group}")).num_groups == 2
    assert grpo_pass(config("qwen2.5-vl-3b", "learner.max_tokens_per_micro_batch=1")).num_groups == 1


@pytest.mark.parametrize("name", ["qwen2.5-vl-3b", "qwen2.5-vl-32b"])
@pytest.mark.parametrize("seed", range(4))
def test_no_pass_of_any_answers_takes_more_than_the_plan_says(name: str, seed: int) -> None:
    """Half of the answers are those of real images, a few tokens each, so that many groups share a pass."""
    most, most_groups = ((4096, 0), (8192, 2), (20000, 0), (1000, 3))[seed]
    bounds = {"max_tokens_per_micro_batch": most, "max_groups_per_micro_batch": most_groups, "num_ranks": 2}
    tree = config(name, *(f"learner.{field}={value}" for field, value in bounds.items()))
    draw, size, largest = random.Random(seed), tree.grpo.group_size, image_tokens(tree)
    planned = part(plan_memory(tree, known_shape(tree), H100.memory_bytes), "learner rank", "activations")
    for _ in range(200):
        mean = draw.choice((2, 20, 200, 1024))
        images = [largest - draw.randrange(draw.choice((1, 100, 1200))) for _ in range(32)]
        answers = [[min(1024, 1 + int(draw.expovariate(1 / mean))) for _ in range(size)] for _ in images]
        lengths = [packed_length(image + PROMPT_TOKENS, each) for image, each in zip(images, answers, strict=True)]
        for each in chain(*plan_micro_batches(lengths, num_ranks=2, max_tokens=most, max_groups=most_groups)):
            of_pass = [images[group] for group in each.groups], [answers[group] for group in each.groups]
            assert bytes_of_pass(tree, *of_pass) <= planned


@pytest.mark.parametrize("most", [1000, 4096, 20000])
def test_no_pass_of_sft_takes_more_than_the_plan_says(most: int) -> None:
    tree, draw = config("qwen2.5-vl-3b", f"sft.max_tokens_per_micro_batch={most}"), random.Random(most)
    largest = image_tokens(tree)
    planned = part(plan_memory(tree, known_shape(tree), H100.memory_bytes), "SFT worker", "activations")
    for _ in range(200):
        mean = draw.choice((2, 20, 200, 1024))
        images = [largest - draw.randrange(draw.choice((1, 100, 1200))) for _ in range(32)]
        answers = [[min(1024, 1 + int(draw.expovariate(1 / mean)))] for _ in images]
        lengths = [packed_length(image + PROMPT_TOKENS, each) for image, each in zip(images, answers, strict=True)]
        for each in chain(*plan_micro_batches(lengths, num_ranks=1, max_tokens=most)):
            of_pass = [images[sample] for sample in each.groups], [answers[sample] for sample in each.groups]
            assert bytes_of_pass(tree, *of_pass) <= planned


def bytes_of_pass(tree: Config, images: list[int], answers: list[list[int]]) -> int:
    """Activations of images of so many tokens, and of the answers to each."""
    prompts, learnt = [image + PROMPT_TOKENS for image in images], sum(map(sum, answers))
    shared = SimpleNamespace(
        num_groups=1,
        patches=4 * sum(images),
        tokens=sum(prompts) + learnt,
        learnt_tokens=learnt,
        gathered_keys=(1 + len(answers[0])) * sum(prompts) + learnt,
    )
    counted = count_activations(
        known_shape(tree),
        shared,  # type: ignore[arg-type]
        rank=8,
        bytes_per_number=2,
        is_checkpointed=tree.model.gradient_checkpointing,
        is_on_gpu=True,
        max_logits=MAX_LOGITS,
    )
    return counted.kept + counted.recomputed


class TestCommand:
    def run(self, *arguments: str):
        return CliRunner().invoke(app, ["plan", *arguments])

    def test_it_prints_bytes_verdict_and_hours(self) -> None:
        result = self.run("--config", "qwen2.5-vl-3b", "--set", "data.train=/nowhere/a.parquet")
        assert result.exit_code == 0
        assert result.stderr == "note: data.train /nowhere/a.parquet is not on this machine: 13,158 rows are assumed\n"
        assert "engine and learner rank on one GPU: 75.0 of 79.1 GiB, fits" in result.stdout
        assert "not measured" in result.stdout

    def test_what_does_not_fit_gets_exit_code_1_the_change_and_no_times(self) -> None:
        result = self.run("--config", "qwen2.5-vl-3b", "--memory-gib", "24")
        assert result.exit_code == 1
        assert "fits: --set model.gradient_checkpointing=true --set rollout.gpu_memory_utilization=0.4" in result.stdout
        assert "GRPO step" not in result.stdout

    @pytest.mark.parametrize("memory", ["inf", "nan", "1e300"])
    def test_an_amount_of_memory_that_no_gpu_has_is_refused(self, memory: str) -> None:
        result = self.run("--config", "qwen2.5-vl-3b", "--memory-gib", memory)
        assert result.exit_code == 2
        assert "--memory-gib" in result.output

    def test_json_holds_the_same(self) -> None:
        content = json.loads(self.run("--config", "qwen2.5-vl-3b", "--json").stdout)
        assert content["fits"] is True
        assert content["role_bytes"]["learner rank"] == pytest.approx(51.3 * GIB, rel=0.01)
        assert content["hours"] > 0

    def test_rows_that_are_held_out_are_counted_or_assumed(self, tmp_path: Path) -> None:
        pq.write_table(pa.table({"id": [f"{i}" for i in range(37)]}), tmp_path / "test.parquet")
        (tmp_path / "validation.parquet").touch()
        assumed = self.run("--config", "qwen2.5-vl-3b", "--num-samples", "800").stdout
        assert "100 images in the test split and 100 in that of validation" in assumed
        held_out = ("--num-samples", "800", "--set", f"data.test={tmp_path / 'test.parquet'}")
        content = json.loads(self.run("--config", "qwen2.5-vl-3b", *held_out, "--json").stdout)
        assert content["rows"] == {"train": 800, "validation": 100, "test": 37}
        assert content["duration"]["num_answers"] == 5 * 37 + 100
        assert content["evaluation_hours"] > 0
        damaged = (*held_out, "--set", f"data.validation={tmp_path / 'validation.parquet'}")
        result = self.run("--config", "qwen2.5-vl-3b", *damaged)
        assert str(result.exception).startswith(f"{tmp_path / 'validation.parquet'}: is no readable Parquet file")

    def test_rows_that_are_no_parquet_file_are_one_error_with_its_place(self, tmp_path: Path) -> None:
        (tmp_path / "train.jsonl").write_text("{}")
        result = self.run("--config", "qwen2.5-vl-7b", "--set", f"data.train={tmp_path / 'train.jsonl'}")
        assert isinstance(result.exception, DataError)
        assert str(result.exception).startswith(f"{tmp_path / 'train.jsonl'}: is no readable Parquet file")

    def test_without_gpus_it_counts_the_hosts_memory(self) -> None:
        assert "no GPU is asked for" in self.run("--config", "tiny").stdout
