import math

import numpy as np
import pytest

from fxray.grammar.probability import VerdictTokens, probability_generated, verdict_tokens

TOKENS = VerdictTokens(real=(7, 9), generated=(8, 9))


def encode(text: str) -> list[int]:
    """A tokenizer that puts two characters together where the first is ">"."""
    ids = []
    while text:
        length = 2 if text[0] == ">" and len(text) > 1 else 1
        ids.append(hash(text[:length]))
        text = text[length:]
    return ids


def test_the_verdicts_part_at_their_first_token_that_differs():
    found = verdict_tokens(encode)
    assert found.watched == (hash(">r"), hash(">g"))
    assert found.real[1:] == tuple(encode("eal</verdict>"))


@pytest.mark.parametrize(
    ("real", "generated", "expected"),
    [
        (math.log(0.2), math.log(0.6), 0.75),  # over the two words alone
        (math.log(0.5), math.log(0.5), 0.5),
        (-math.inf, math.log(0.1), 1.0),
        (math.log(0.1), -math.inf, 0.0),
        (-800.0, 0.0, 1.0),
    ],
)
def test_the_two_words_share_all_of_the_weight(real, generated, expected):
    logprobs = np.array([[0, 0], [real, generated], [0, 0]], np.float32)
    assert probability_generated([1, 8, 9], logprobs, TOKENS) == pytest.approx(expected, abs=1e-6)


def test_the_last_verdict_counts():
    logprobs = np.log(np.array([[0.9, 0.1], [1, 1], [0.3, 0.7], [1, 1]], np.float32))
    assert probability_generated([7, 9, 8, 9], logprobs, TOKENS) == pytest.approx(0.7)


@pytest.mark.parametrize("token_ids", [[], [8], [8, 5], [1, 2]])
def test_without_a_whole_verdict_there_is_no_probability(token_ids):
    assert probability_generated(token_ids, np.zeros((len(token_ids), 2), np.float32), TOKENS) is None


def test_what_the_engine_did_not_tell_is_not_made_up():
    assert probability_generated([7, 9], np.full((2, 2), np.nan, np.float32), TOKENS) is None


@pytest.mark.parametrize(
    ("token_ids", "place", "tokens"),
    [
        ([8, 9, 5], 0, TOKENS),  # at the very start, and an end token after it
        ([1, 7, 9, 5, 5], 1, TOKENS),
        ([1, 2, 8], 2, VerdictTokens(real=(7,), generated=(8,))),  # the rest of the block in the token itself
    ],
)
def test_the_verdict_is_found_wherever_it_stands(token_ids, place, tokens):
    logprobs = np.full((len(token_ids), 2), math.log(0.5), np.float32)
    logprobs[place] = math.log(0.2), math.log(0.6)
    assert probability_generated(token_ids, logprobs, tokens) == pytest.approx(0.75)


@pytest.mark.parametrize("told", [(math.nan, -1.0), (-1.0, math.nan), (-math.inf, -math.inf)])
def test_half_of_a_comparison_is_none(told):
    assert probability_generated([7, 9], np.array([told, (0, 0)], np.float32), TOKENS) is None
