import pytest

from fxray.grammar import parse
from rewards.answer_format import format_reward

STRICT = "<think></think><tag>none</tag><verdict>real</verdict>"


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (STRICT, 2.0),
        (STRICT + "<|im_end|>", 2.0),
        (STRICT.replace("real", "generated"), -1.0),
        (STRICT.replace("none", ""), -1.0),
        (STRICT + "!", -1.0),
        ("", -1.0),
    ],
)
def test_format_reward(text, expected):
    assert format_reward(parse(text), right=2.0, wrong=-1.0) == expected
