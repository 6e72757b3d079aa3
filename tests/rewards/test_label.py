import pytest

from fxray.schema import Verdict
from rewards.label import label_reward


@pytest.mark.parametrize(
    ("verdict", "truth", "expected"),
    [
        (Verdict.REAL, Verdict.REAL, 0.5),
        (Verdict.GENERATED, Verdict.GENERATED, 0.5),
        (Verdict.GENERATED, Verdict.REAL, -1.0),
        (Verdict.REAL, Verdict.GENERATED, -1.0),
        (None, Verdict.REAL, -1.0),
        (None, Verdict.GENERATED, -1.0),
    ],
)
def test_label_reward(verdict, truth, expected):
    assert label_reward(verdict, truth, right=0.5, wrong=-1.0) == expected
