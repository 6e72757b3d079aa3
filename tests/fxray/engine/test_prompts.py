"""Prompts and log-probabilities, as they pass between fxray and vLLM."""

from types import SimpleNamespace
from typing import Any

import numpy as np
from PIL import Image

from fxray.engine.logprobs import read_logprobs
from fxray.engine.prompts import Prompts


class Words:
    """A tokenizer that counts what it is asked."""

    def __init__(self) -> None:
        self.asked: list[str] = []

    def encode(self, text: str, *, add_special_tokens: bool) -> list[int]:
        assert not add_special_tokens
        self.asked.append(text)
        return [len(word) for word in text.split()]


def test_a_text_is_encoded_once_and_no_two_images_pass_for_one() -> None:
    tokenizer, image = Words(), Image.new("RGB", (8, 8))
    prompts = Prompts(tokenizer)
    first, second = prompts.write("what is it", image), prompts.write("what is it", image)
    first["prompt_token_ids"].append(0)
    assert prompts.write("what is it", image)["prompt_token_ids"] == second["prompt_token_ids"] == [4, 2, 2]
    assert tokenizer.asked == ["what is it"]
    assert first["multi_modal_uuids"] != second["multi_modal_uuids"]
    assert first["multi_modal_data"]["image"] is image


def given(*places: dict[int, float]) -> Any:
    ends = np.cumsum([len(place) for place in places]).tolist()
    return SimpleNamespace(
        token_ids=[token for place in places for token in place],
        logprobs=[logprob for place in places for logprob in place.values()],
        start_indices=[0, *ends[:-1]],
        end_indices=ends,
    )


def test_watched_tokens_are_found_at_each_place_in_whatever_order() -> None:
    flat = given({7: -0.5, 1: -2.0, 2: -3.0}, {2: -0.25, 1: -1.5}, {}, {8: -0.125, 2: -4.0})
    own_T, watched_T2 = read_logprobs(SimpleNamespace(token_ids=[7, 2, 9, 8], logprobs=flat), (1, 2))
    np.testing.assert_array_equal(own_T, np.float32([-0.5, -0.25, np.nan, -0.125]))
    np.testing.assert_array_equal(
        watched_T2, np.float32([[-2.0, -3.0], [-1.5, -0.25], [np.nan, np.nan], [np.nan, -4.0]])
    )


def test_an_empty_answer_has_no_log_probabilities() -> None:
    own_T, watched_T2 = read_logprobs(SimpleNamespace(token_ids=[], logprobs=given()), (1, 2))
    assert own_T.shape == (0,)
    assert watched_T2.shape == (0, 2)
