import json

import pytest

from fxray.config.limits import check
from fxray.config.load import load_config
from fxray.config.model_shape import adapter_warning

SHAPE = {
    "max_position_embeddings": 1024,
    "hidden_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "intermediate_size": 96,
    "vocab_size": 700,
}
VISION = {"depth": 2, "hidden_size": 32, "intermediate_size": 48, "num_heads": 4, "out_hidden_size": 64}


ONE_OF_EACH = ["rollout.num_workers=1", "learner.num_ranks=1"]
SHARED = ["rollout.gpus_per_worker=0.5", "learner.gpus_per_rank=0.5"]
TURNS = [*SHARED, "rollout.sleep=true"]


def problems(*overrides):
    return {problem.field: problem for problem in check(load_config("tiny", [*ONE_OF_EACH, *overrides]))}


@pytest.mark.parametrize(
    ("overrides", "field", "bound"),
    [
        (["model.min_pixels=20000"], "model.min_pixels", "at most model.max_pixels = 12600"),
        (["model.max_pixels=700", "model.min_pixels=700"], "model.max_pixels", "at least 784"),
        (["rollout.max_model_len=279"], "rollout.max_model_len", "at least 280: 56 image tokens"),
        (["evaluate.max_new_tokens=361"], "rollout.max_model_len", "at least 513"),
        (["sft.batch_size=33"], "sft.batch_size", "a multiple of sft.num_workers 2"),
        (["sft.num_workers=5"], "sft.batch_size", "a multiple of sft.num_workers 5"),
        (["learner.num_ranks=25"], "learner.num_ranks", "at most grpo.prompts_per_step = 24"),
        (["rollout.num_workers=25"], "rollout.num_workers", "at most grpo.prompts_per_step = 24"),
        (["rollout.max_workers=25"], "rollout.max_workers", "at most grpo.prompts_per_step = 24"),
        (["rollout.min_workers=2"], "rollout.min_workers", "at most rollout.num_workers = 1"),
        (["rollout.num_workers=3", "rollout.max_workers=2"], "rollout.max_workers", "at least rollout.num_workers = 3"),
        ([*SHARED, "rollout.max_workers=2"], "rollout.max_workers", "must be 0 where an engine takes a part of a GPU"),
        (["grpo.steps_per_stage=5", "grpo.warmup_steps=5"], "grpo.warmup_steps", "below the 5 steps of stage alpha"),
        (["data.synth.num_train=31"], "data.synth.num_train", "at least 32"),
        (["evaluate.num_samples=513"], "evaluate.num_samples", "at most data.synth.num_test = 512"),
        (["rollout.block_size=48"], "rollout.block_size", "a multiple of 32 on a CPU"),
        (["rollout.gpus_per_worker=1.5"], "rollout.gpus_per_worker", "a whole number"),
        (["learner.gpus_per_rank=2"], "learner.gpus_per_rank", "at most 1"),
        (["rollout.sleep=true"], "rollout.sleep", "do not share a GPU"),
        (
            [*TURNS, "rollout.gpus_per_worker=0.6", "learner.gpus_per_rank=0.4", "rollout.num_workers=2"],
            "learner.num_ranks",
            "must be rollout.num_workers = 2",
        ),
        ([*TURNS, "rollout.num_workers=2", "learner.num_ranks=2"], "rollout.gpus_per_worker", "above 0.5, and 1"),
        (
            [
                "rollout.gpus_per_worker=0.6",
                "learner.gpus_per_rank=0.4",
                "rollout.num_workers=2",
                "learner.num_ranks=2",
            ],
            "rollout.sleep",
            "must be true where 2 engines share",
        ),
        (
            ["rollout.gpus_per_worker=0.5", "rollout.num_workers=2", "learner.gpus_per_rank=1"],
            "rollout.gpus_per_worker",
            "above 0.5, or two of the 2 engines",
        ),
        (["rollout.gpus_per_worker=0.4", "rollout.num_workers=3"], "rollout.gpus_per_worker", "two of the 3 engines"),
        (
            ["learner.gpus_per_rank=0.5", "learner.num_ranks=2", "rollout.gpus_per_worker=1"],
            "learner.gpus_per_rank",
            "above 0.5, or two of the 2 ranks",
        ),
        (["rollout.probe_tolerance_nats=0.1"], "rollout.probe_tolerance_nats", "at most 0.001"),
        (["model.dtype=bfloat16"], "rollout.probe_tolerance_nats", "at least 0.02"),
        (["model.lora=null", "rollout.sync=file"], "rollout.sync", "must be bytes with model.lora null"),
        (["grpo.importance_cap=0.5"], "grpo.importance_cap", "0 (off) or at least 1"),
        (["grpo.importance_cap=0", "grpo.max_staleness=1"], "grpo.importance_cap", "must not be off"),
        ([*SHARED, "rollout.sleep=true", "grpo.max_staleness=1"], "grpo.max_staleness", "must be 0 with rollout.sleep"),
    ],
)
def test_each_field_that_cannot_stay_is_named_with_bound_and_remedy(overrides, field, bound):
    found = problems(*overrides)
    assert set(found) == {field}
    assert bound in found[field].bound
    assert found[field].remedy
    assert found[field].value in str(found[field])


@pytest.mark.parametrize(
    "overrides",
    [
        ["rollout.max_model_len=280"],
        ["sft.batch_size=64", "sft.num_workers=2"],
        ["rollout.block_size=16", "rollout.gpus_per_worker=1"],
        ["rollout.gpus_per_worker=0.6", "rollout.num_workers=2", "learner.gpus_per_rank=1"],
        ["rollout.gpus_per_worker=0.5", "learner.gpus_per_rank=1", "learner.num_ranks=2"],
        ["grpo.importance_cap=0"],
        ["model.dtype=bfloat16", "rollout.probe_tolerance_nats=0.1"],
    ],
)
def test_what_just_fits_is_no_problem(overrides):
    assert problems(*overrides) == {}


def test_the_longest_answer_of_any_stage_counts(tmp_path):
    rewards = "rewards: {w_iou: 1, label: {right: 1, wrong: 0}, format: {right: 1, wrong: 0}}"
    schedule = tmp_path / "long.yaml"
    schedule.write_text(f"stages:\n- {{name: a, {rewards}}}\n- {{name: b, max_new_tokens: 500, {rewards}}}\n")
    assert "500 of the answer" in problems(f"grpo.schedule={schedule}")["rollout.max_model_len"].bound


def model(folder, **changes):
    content = {"model_type": "qwen2_5_vl", "text_config": SHAPE | changes, "vision_config": VISION}
    (folder / "config.json").write_text(json.dumps(content))
    return f"model.path={folder}"


@pytest.mark.parametrize(
    ("changes", "overrides", "field", "bound"),
    [
        ({"max_position_embeddings": 410}, [], "rollout.max_model_len", "at most 410"),
        ({"max_position_embeddings": 512}, ["sft.max_answer_tokens=361"], "sft.max_answer_tokens", "513 tokens"),
        ({"hidden_size": 8}, [], "model.lora.rank", "at most 8"),
        ({}, ["rollout.gpus_per_worker=3"], "rollout.gpus_per_worker", "4 attention heads of the model and the 4"),
        ({}, ["rollout.kv_cache_gib=1e-4"], "rollout.kv_cache_gib", "at least 0.000244"),
    ],
)
def test_the_models_own_limits_are_read_from_its_folder(tmp_path, changes, overrides, field, bound):
    found = problems(model(tmp_path, **changes), *overrides)
    assert set(found) == {field}
    assert bound in found[field].bound


def test_the_cache_of_one_sequence_is_layers_times_heads_times_tokens(tmp_path):
    # 2 (keys, values) x 2 layers x 2 heads x 16 numbers x 4 bytes x 512 tokens = 262,144 bytes
    assert problems(model(tmp_path), f"rollout.kv_cache_gib={262144 / 2**30}") == {}
    assert set(problems(model(tmp_path), f"rollout.kv_cache_gib={262143 / 2**30}")) == {"rollout.kv_cache_gib"}


@pytest.mark.parametrize(
    "content",
    [
        "{",
        "[]",
        '{"model_type": "llama"}',
        '{"model_type": "qwen2_5_vl"}',
        '{"model_type": "qwen2_5_vl", "text_config": null}',
        '{"model_type": "qwen2_5_vl", "text_config": "x", "tie_word_embeddings": true}',
        "\x00",
    ],
)
def test_another_model_or_a_broken_config_is_a_problem_not_a_crash(tmp_path, content):
    (tmp_path / "config.json").write_text(content)
    assert "config.json" in problems(f"model.path={tmp_path}")["model.path"].bound


def test_numbers_that_a_config_json_lacks_are_named_in_one_line(tmp_path):
    override = model(tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    del config["vision_config"]["depth"]
    config["text_config"]["vocab_size"] = "many"
    (tmp_path / "config.json").write_text(json.dumps(config))
    bound = "must say a model's numbers in its config.json, where these are missing or wrong: vocab_size, vision.depth"
    assert problems(override)["model.path"].bound == bound


def test_quantised_weights_are_a_problem(tmp_path):
    overrides = [model(tmp_path)]
    assert problems(*overrides) == {}
    config = json.loads((tmp_path / "config.json").read_text()) | {"quantization_config": {"quant_method": "gptq"}}
    (tmp_path / "config.json").write_text(json.dumps(config))
    assert "quantised" in problems(*overrides)["model.path"].bound


@pytest.mark.parametrize("part", ["text_config", ""])
def test_a_model_that_attends_to_near_tokens_alone_is_a_problem_before_it_is_loaded(tmp_path, part):
    overrides = [model(tmp_path)]
    config = json.loads((tmp_path / "config.json").read_text())
    config = config if part else config | config.pop("text_config")  # as published, before transformers 5 wrote it
    (config[part] if part else config)["use_sliding_window"] = True
    (tmp_path / "config.json").write_text(json.dumps(config))
    assert "sliding" in problems(*overrides)["model.path"].bound


INTERNVL_VISION = {
    "num_hidden_layers": 2,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_attention_heads": 4,
    "image_size": [448, 448],
    "patch_size": [14, 14],
    "attention_bias": True,
}


def internvl(folder, text=(), vision=(), **changes):
    content = {"text_config": SHAPE | dict(text), "vision_config": INTERNVL_VISION | dict(vision)}
    (folder / "config.json").write_text(json.dumps({"model_type": "internvl"} | content | changes))
    return f"model.path={folder}"


def test_an_internvl_needs_room_for_a_tile_and_is_counted_in_tiles(tmp_path):
    found = problems(internvl(tmp_path))
    assert set(found) == {"model.max_pixels"}
    assert "at least 200704, the pixels of one tile" in found["model.max_pixels"].bound
    assert found["model.max_pixels"].remedy == "set model.max_pixels to a multiple of 200704"
    for num_tiles, num_tokens in ((1, 256), (2, 768), (5, 1536)):
        pixels = f"model.max_pixels={num_tiles * 448 * 448}"
        found = problems(internvl(tmp_path), pixels, "rollout.max_model_len=320")
        assert f"{num_tokens} image tokens" in found["rollout.max_model_len"].bound


def test_what_an_adapter_of_an_internvl_lacks_is_said(tmp_path):
    internvl(tmp_path)
    assert "sits on its language model alone" in adapter_warning(str(tmp_path))
    assert "model.lora=null" in adapter_warning(str(tmp_path))
    assert adapter_warning("tiny") is None
    assert adapter_warning("somebody/elses-model") is None


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"text": {"model_type": "qwen3"}}, "text_config.model_type = 'qwen2', not 'qwen3'"),
        ({"vision": {"use_qk_norm": True}}, "vision_config.use_qk_norm = False, not True"),
        ({"vision": {"attention_bias": False}}, "vision_config.attention_bias = True, not False"),
        ({"vision_feature_layer": -2}, "must have vision_feature_layer = -1, not -2"),
        ({"vision": {"image_size": [448, 224]}}, "image_size [448, 224], where both sides must be equal"),
    ],
)
def test_an_internvl_of_another_make_is_refused_in_words(tmp_path, changes, words):
    assert words in problems(internvl(tmp_path, **changes))["model.path"].bound


def test_a_model_that_is_not_here_is_judged_by_its_published_shape_alone():
    assert problems("model.path=somebody/elses-model", "rollout.gpus_per_worker=3") == {}
    found = problems("model.path=Qwen/Qwen2.5-VL-3B-Instruct", "rollout.gpus_per_worker=3")
    assert "the 16 attention heads" in found["rollout.gpus_per_worker"].bound


def test_engines_of_several_gpus_divide_the_intermediate_size_of_the_vision_tower():
    found = problems("model.path=Qwen/Qwen2.5-VL-3B-Instruct", "rollout.gpus_per_worker=8")["rollout.gpus_per_worker"]
    assert "intermediate sizes 11008 and 3420" in found.bound
    assert "rollout.gpus_per_worker to 4," in found.remedy
    found = problems("model.path=Qwen/Qwen2.5-VL-3B-Instruct", "rollout.gpus_per_worker=4")
    assert "rollout.gpus_per_worker" not in found
