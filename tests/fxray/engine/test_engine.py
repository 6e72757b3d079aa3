import math
import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from PIL import Image

from fxray.engine.engine import BASE_VERSION, Engine, Question, answer_seed
from fxray.errors import ConfigError, ResourceError, SyncError
from fxray.grammar.probability import VerdictTokens
from fxray.grpo.types import SamplingSettings

FOUR = SamplingSettings(group_size=4, temperature=0.9, max_new_tokens=24)
GREEDY = SamplingSettings(group_size=1, temperature=0.0, max_new_tokens=24)
TOLERANCE_NATS = 1e-3
Call = Callable[..., Any]


def test_answer_seeds_are_a_function_of_group_and_index_and_never_meet() -> None:
    seeds = [answer_seed(group, index) for group in range(-1000, 1000) for index in range(64)]
    assert len(set(seeds)) == len(seeds)
    assert all(0 <= seed < 2**63 for seed in seeds)
    assert answer_seed(0, 0) == 0xE220A8397B1DCDAF % 2**62  # the first output of SplitMix64 from state 0
    assert answer_seed(7, 3) == answer_seed(7, 0) + 3


@pytest.mark.vllm
@pytest.mark.ray
class TestOneEngine:
    """One engine and its twin in PEFT; every test leaves the base model in use."""

    @pytest.fixture(autouse=True)
    def clean(self, engine: Call) -> None:
        engine("use_base_model")
        engine("sync_by", "bytes")

    def test_base_and_every_adapter_agree_with_peft(self, engine: Call, twin: Any) -> None:
        questions = twin.questions(1, 2, 3)
        drawn = engine("generate", questions, FOUR)
        assert twin.gap_nats(questions, drawn, FOUR, with_adapter=False) < TOLERANCE_NATS
        for version in (5, 6):
            twin.randomise(version)
            blob = twin.blob(version)
            proof = engine("load_policy", blob, "rollout-1")
            assert (proof.worker, proof.version, proof.sha256) == ("rollout-1", version, blob.sha256)
            assert proof.num_bound_modules == blob.num_modules == 4 * 7 + 4 * 5 + 2
            drawn = engine("generate", questions, FOUR)
            assert twin.gap_nats(questions, drawn, FOUR, with_adapter=True) < TOLERANCE_NATS
            assert twin.gap_nats(questions, drawn, FOUR, with_adapter=False) > 0.1
        engine("use_base_model")
        drawn = engine("generate", questions, FOUR)
        assert twin.gap_nats(questions, drawn, FOUR, with_adapter=False) < TOLERANCE_NATS

    def test_no_other_process_has_looked_at_the_models_class(self, engine: Call, vllms_cache: Path) -> None:
        """It would have imported all of vLLM once more, and left its finding here."""
        assert not list(vllms_cache.rglob("*.json"))

    def test_the_probability_of_a_verdict_is_the_models_own(self, engine: Call, twin: Any) -> None:
        questions, asking = twin.questions(1, 2, 3), replace(GREEDY, asks_probability=True)
        plain = [answers.rollouts[0] for answers in engine("generate", questions, GREEDY)]
        assert {rollout.probability for rollout in plain} == {None}
        said, other = int(plain[0].token_ids[7]), int(plain[1].token_ids[7])
        engine("take_as_verdicts", VerdictTokens(real=(other,), generated=(said,)))
        asked = engine("generate", questions, asking)
        for answers, before in zip(asked, plain, strict=True):
            assert answers.rollouts[0].token_ids.tolist() == before.token_ids.tolist()
            assert answers.rollouts[0].logprobs == pytest.approx(before.logprobs, abs=1e-5)
        place = max(i for i, token_id in enumerate(plain[0].token_ids) if token_id in (said, other))
        logits = twin.logits(questions[0], asked[0], 0, with_adapter=False)[place]
        expected = 1 / (1 + math.exp(logits[other] - logits[said]))
        assert asked[0].rollouts[0].probability == pytest.approx(expected, abs=1e-4)

    def test_the_stock_loader_gives_the_same_policy(self, engine: Call, twin: Any) -> None:
        questions = twin.questions(1, 2)
        twin.randomise(7)
        engine("load_policy", twin.blob(1))
        from_bytes = engine("generate", questions, FOUR)
        engine("sync_by", "file")
        proof = engine("load_policy", twin.blob(2))
        assert proof.num_bound_modules == 50
        from_file = engine("generate", questions, FOUR)
        for one, other in zip(from_bytes, from_file, strict=True):
            for a, b in zip(one.rollouts, other.rollouts, strict=True):
                assert a.token_ids.tolist() == b.token_ids.tolist()
                np.testing.assert_allclose(a.logprobs, b.logprobs, atol=1e-5)

    @pytest.mark.parametrize(
        ("kind", "reason"),
        [
            ("corrupted", "was published"),
            ("cut_on_the_way", "was published"),
            ("cut_by_the_learner", "not a safetensors file"),
            ("empty", "holds no weights"),
            ("misnamed", "binds to nothing"),
            ("halved", "lacks its lora_B weight"),
            ("thinner", "the engine needs"),
            ("not_finite", "not finite"),
            ("fewer", "28 LoRA modules are bound, 50 were published"),
            ("full_weights", "no LoRA weight"),
        ],
    )
    def test_a_damaged_adapter_is_refused_with_the_reason(
        self, engine: Call, twin: Any, damage: SimpleNamespace, kind: str, reason: str
    ) -> None:
        twin.randomise(8)
        with pytest.raises(SyncError, match=reason) as caught:
            engine("load_policy", getattr(damage, kind), "rollout-3")
        assert "rollout-3, policy version 9" in str(caught.value)

    def test_the_policy_in_use_survives_a_refused_one(self, engine: Call, twin: Any, damage: SimpleNamespace) -> None:
        questions = twin.questions(1)
        twin.randomise(9)
        engine("load_policy", twin.blob(3))
        for refused in (damage.misnamed, damage.fewer):
            with pytest.raises(SyncError):
                engine("load_policy", refused)
        drawn = engine("generate", questions, FOUR)
        assert twin.gap_nats(questions, drawn, FOUR, with_adapter=True) < TOLERANCE_NATS

    def test_an_engine_that_acknowledges_and_samples_from_the_base_shows_in_its_logprobs(
        self, engine: Call, twin: Any
    ) -> None:
        questions = twin.questions(1)
        twin.randomise(10)
        blob = twin.blob(4)
        assert engine("acknowledge_only", blob).num_bound_modules == blob.num_modules
        drawn = engine("generate", questions, FOUR)
        assert twin.gap_nats(questions, drawn, FOUR, with_adapter=True) > 0.1

    def test_forbidden_tokens_are_never_sampled_however_likely(self, engine: Call, twin: Any) -> None:
        questions = twin.questions(*range(12))
        drawn = engine("generate", questions, FOUR)
        chance_by_luck = 1.0
        for question, answers in zip(questions, drawn, strict=True):
            forbidden_R = twin.logits(question, answers, 0, with_adapter=False).softmax(-1)[:, twin.forbidden].sum(-1)
            chance_by_luck *= float((1 - forbidden_R).prod())
        assert chance_by_luck < 1e-12
        sampled = {token for answers in drawn for rollout in answers.rollouts for token in rollout.token_ids.tolist()}
        assert not sampled & set(twin.forbidden)
        greedy = engine("generate", questions, GREEDY)
        assert not {token for answers in greedy for token in answers.rollouts[0].token_ids.tolist()} & set(
            twin.forbidden
        )

    def test_greedy_answers_follow_the_most_likely_allowed_token(self, engine: Call, twin: Any) -> None:
        questions = twin.questions(1, 2)
        for question, answers in zip(questions, engine("generate", questions, GREEDY), strict=True):
            logits = twin.logits(question, answers, 0, with_adapter=False)
            logits[:, twin.forbidden] = -np.inf
            assert answers.rollouts[0].token_ids.tolist() == logits.argmax(-1).tolist()

    def test_a_group_does_not_depend_on_its_batch(self, engine: Call, twin: Any) -> None:
        questions = twin.questions(*range(9))
        together = engine("generate", questions, FOUR)
        alone = engine("generate", questions[4:5], FOUR)[0]
        assert [r.text for r in alone.rollouts] == [r.text for r in together[4].rollouts]
        assert len({r.text for r in alone.rollouts}) == 4
        one = engine("generate", questions[4:5], SamplingSettings(1, 0.9, 24))[0]
        assert one.rollouts[0].text == alone.rollouts[0].text

    def test_answers_keep_special_tokens_and_say_whether_they_ended(self, engine: Call, twin: Any) -> None:
        drawn = engine("generate", twin.questions(*range(40)), SamplingSettings(4, 2.0, 40))
        rollouts = [rollout for answers in drawn for rollout in answers.rollouts]
        assert {rollout.is_finished for rollout in rollouts} == {True, False}
        for rollout in rollouts:
            assert rollout.text == twin.tokenizer.decode(rollout.token_ids, skip_special_tokens=False)
            assert rollout.is_finished == rollout.text.endswith(("<|im_end|>", "<|endoftext|>"))
            assert rollout.is_finished or len(rollout.token_ids) == 40
            assert len(rollout.logprobs) == len(rollout.token_ids)
            assert (rollout.logprobs <= 0).all()

    def test_a_prompt_that_is_too_long_is_refused_and_the_engine_goes_on(self, engine: Call, twin: Any) -> None:
        good, bad = twin.questions(1, 2)
        bad = type(bad)(bad.prompt.replace("<|im_end|>", "x 1" * 400 + "<|im_end|>", 1), bad.image, 2, "row 17")
        with pytest.raises(ConfigError, match="row 17") as caught:
            engine("generate", [good, bad], FOUR)
        assert "rollout.max_model_len (now 256)" in str(caught.value)
        assert len(engine("generate", [good], FOUR)) == 1

    def test_a_stream_gives_the_same_answers_and_a_refusal_stops_nothing(self, engine: Call, twin: Any) -> None:
        questions = twin.questions(1, 2, 3)
        drawn = dict(
            zip([question.where for question in questions], engine("generate", questions, GREEDY), strict=True)
        )
        too_long = replace(questions[0], prompt=questions[0].prompt + "long " * 300, where="too long")
        streamed = engine("stream_all", [questions[0], too_long, *questions[1:]], GREEDY)
        assert "vLLM refuses a prompt" in str(streamed.pop("too long"))
        assert {where: answers.rollouts[0].text for where, answers in streamed.items()} == {
            where: answers.rollouts[0].text for where, answers in drawn.items()
        }

    def test_nothing_is_drawn_for_no_questions(self, engine: Call) -> None:
        assert engine("generate", [], FOUR) == []
        assert BASE_VERSION < 0

    def test_calls_of_several_threads_get_the_same_answers(self, engine: Call, twin: Any) -> None:
        questions = twin.questions(1, 2, 3)
        alone = [answers.rollouts[0].text for answers in engine("generate", questions, GREEDY)]
        for drawn in engine("generate_in_threads", questions, GREEDY):
            assert [answers.rollouts[0].text for answers in drawn] == alone

    def test_an_engine_answers_on_when_another_of_its_process_goes(self, engine: Call, twin: Any) -> None:
        questions = twin.questions(1, 2, 3)
        before = [answers.rollouts[0].text for answers in engine("generate", questions, GREEDY)]
        engine("see_another_off")
        assert [answers.rollouts[0].text for answers in engine("generate", questions, GREEDY)] == before


def test_an_engine_is_not_asked_in_a_fork_of_its_process() -> None:
    engine = object.__new__(Engine)
    engine._process_id = os.getppid()
    question = Question("?", Image.new("RGB", (56, 56)), 0, "sample-0")
    with pytest.raises(ResourceError, match=f"the engine is of process {os.getppid()}, of which this one is a fork"):
        engine.generate([question], GREEDY)


@pytest.mark.vllm
@pytest.mark.ray
@pytest.mark.long
def test_each_rank_of_a_parallel_engine_holds_its_share_of_the_adapter(
    parallel_engine: Call, twin: Any, damage: SimpleNamespace
) -> None:
    questions = twin.questions(1, 2)
    twin.randomise(11)
    blob = twin.blob(3)
    assert parallel_engine("load_policy", blob).num_bound_modules == blob.num_modules
    for refused in (damage.thinner, damage.fewer, damage.misnamed):
        with pytest.raises(SyncError):
            parallel_engine("load_policy", refused)
    drawn = parallel_engine("generate", questions, FOUR)
    assert twin.gap_nats(questions, drawn, FOUR, with_adapter=True) < TOLERANCE_NATS
    assert twin.gap_nats(questions, drawn, FOUR, with_adapter=False) > 0.1
