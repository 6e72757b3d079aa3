"""Seconds of a step and hours of a run follow work and speed."""

from pathlib import Path

import pytest

from fxray.capacity.activations import Pass
from fxray.capacity.devices import GPUS
from fxray.capacity.duration import Coefficients, Rows, forward_flops, plan_duration
from fxray.capacity.plan import known_shape
from fxray.capacity.weights import count_weights
from fxray.config.load import load_config
from fxray.launch.sft import sft_settings

H100 = GPUS["h100"]


def config(name: str = "qwen2.5-vl-3b", *overrides: str):
    return load_config(name, overrides)


def test_the_products_of_a_pass_are_counted_by_hand() -> None:
    shape = known_shape(config())
    weights = count_weights(shape)
    size = Pass(prompt_tokens=100, patches=320, answer_tokens=10, num_answers=4, num_groups=3)
    products = 2 * 3 * (140 * weights.language + 320 * weights.vision + 40 * 151936 * 2048)
    seen = 3 * (100 * 100 / 2 + 4 * 10 * (100 + 5))
    assert forward_flops(shape, size) == pytest.approx(products + 4 * 36 * 2048 * seen)


def duration(tree, gpu=H100, **coefficients):
    return plan_duration(
        tree,
        known_shape(tree),
        gpu,
        cached_tokens=10**6,
        rows=Rows(6400, 100, 800),
        coefficients=Coefficients(**coefficients),
    )


def test_time_follows_work_and_speed() -> None:
    tree = config()
    plain = duration(tree)
    assert plain.num_grpo_steps == 3 * 200
    assert plain.num_sft_steps == 600
    assert duration(tree, learner_mfu=0.54).learn_s == pytest.approx(plain.learn_s / 2)
    assert duration(config("qwen2.5-vl-3b", "learner.num_ranks=2")).learn_s == pytest.approx(plain.learn_s / 2)
    assert duration(config("qwen2.5-vl-3b", "grpo.kl_beta=0")).learn_s == pytest.approx(plain.learn_s * 2 / 3)
    assert duration(tree, GPUS["h200"]).decode_s < plain.decode_s
    assert duration(tree, GPUS["h200"]).learn_s == plain.learn_s
    assert plain.hours == pytest.approx((600 * plain.step_s + 600 * plain.sft_step_s) / 3600)


def test_every_answer_that_is_not_learnt_from_is_counted() -> None:
    plain = duration(config())
    assert plain.num_answers == 5 * 800 + 100
    assert plain.evaluation_hours == pytest.approx(4100 * plain.answer_s / 3600)
    looks = ("evaluate.validate_every_steps=30", "evaluate.validation_samples=64")
    looking = duration(config("qwen2.5-vl-3b", *looks))
    assert looking.num_answers == 4100 + 3 * 6 * 64  # of 200 steps each sixth time
    assert looking.hours == plain.hours
    assert duration(config("qwen2.5-vl-3b", "evaluate.num_samples=50")).num_answers == 5 * 50 + 50
    assert duration(config("qwen2.5-vl-3b", *looks[:1])).num_answers == 4100 + 3 * 6 * 100  # all there are


def test_an_image_is_answered_sooner_by_more_engines_and_with_shorter_answers() -> None:
    one, two, short = (
        duration(config("qwen2.5-vl-3b", *more)).answer_s
        for more in ((), ("rollout.num_workers=2",), ("evaluate.max_new_tokens=256",))
    )
    assert two == pytest.approx(one / 2)
    assert short < 0.7 * one  # reading the prompt takes as long as before


def test_a_step_of_learning_lasts_as_long_as_its_fullest_rank() -> None:
    learn_s = {
        ranks: duration(config("qwen2.5-vl-3b", f"learner.num_ranks={ranks}")).learn_s for ranks in (1, 3, 16, 31)
    }
    shares = {ranks: of_ranks / learn_s[1] for ranks, of_ranks in learn_s.items()}
    assert shares == pytest.approx({1: 1, 3: 11 / 32, 16: 2 / 32, 31: 2 / 32})  # of 32 groups


def test_an_engine_that_decodes_more_answers_at_once_never_takes_longer() -> None:
    decode_s = [
        duration(config("qwen2.5-vl-3b", f"rollout.max_num_seqs={number}")).decode_s for number in range(1, 140)
    ]
    assert decode_s == sorted(decode_s, reverse=True)
    assert decode_s[63] == decode_s[64]  # two batches of 64, of 128 answers
    assert decode_s[127] == decode_s[138] < decode_s[126]


@pytest.mark.parametrize(("max_steps", "num_steps"), [(0, 600), (7, 7), (600, 600), (100_000, 600)])
def test_a_plan_counts_the_steps_that_sft_takes(max_steps: int, num_steps: int) -> None:
    tree = config("qwen2.5-vl-3b", f"sft.max_steps={max_steps}")
    assert duration(tree).num_sft_steps == sft_settings(tree, Path("m"), Path("t")).num_steps(6400) == num_steps


def test_a_step_whose_halves_overlap_takes_as_long_as_the_longer_one() -> None:
    in_turn, overlapped = (duration(config("qwen2.5-vl-7b", f"grpo.max_staleness={each}")) for each in (0, 1))
    rollout_s = in_turn.prefill_s + in_turn.decode_s + in_turn.overhead_s
    assert in_turn.step_s == rollout_s + in_turn.learn_s
    assert overlapped.step_s == max(rollout_s, in_turn.learn_s)
    saved_h = in_turn.num_grpo_steps * min(rollout_s, in_turn.learn_s) / 3600
    assert in_turn.hours - overlapped.hours == pytest.approx(saved_h)


def test_whole_weights_cost_the_backward_pass_of_every_weight() -> None:
    adapter, whole = (duration(config("qwen2.5-vl-3b", *more)) for more in ((), ("model.lora=null",)))
    # Forward, backward and the reference: three passes, and one more where weights have gradients.
    assert whole.learn_s / adapter.learn_s == pytest.approx(4 / 3)
    assert whole.sft_step_s / adapter.sft_step_s == pytest.approx(3 / 2)
    recomputing = duration(config("qwen2.5-vl-3b", "model.gradient_checkpointing=true"))
    assert recomputing.learn_s / adapter.learn_s == pytest.approx(4 / 3)
