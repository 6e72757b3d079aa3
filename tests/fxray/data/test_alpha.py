import math

import pytest

from fxray.data.alpha import nominal_alpha


def test_three_coders_and_fifteen_units():
    """The example of Krippendorff's alpha on Wikipedia; its nominal alpha is 0.691."""
    a = "*****34121133*3"
    b = "1*213343*******"
    c = "**21344*21133*4"
    units = [[value for value in unit if value != "*"] for unit in zip(a, b, c, strict=True)]
    assert nominal_alpha(units) == pytest.approx(0.691, abs=5e-4)


def test_two_coders_and_ten_units():
    """Krippendorff (2011), "Computing Krippendorff's Alpha-Reliability", example B: binary data, alpha = 0.095."""
    meg = [0, 1, 0, 0, 0, 0, 0, 0, 1, 0]
    owen = [1, 1, 1, 0, 0, 1, 0, 0, 0, 0]
    assert nominal_alpha(zip(meg, owen, strict=True)) == pytest.approx(0.095, abs=5e-4)


def test_by_hand():
    # Units aa, ab: n = 4 (3 a, 1 b); observed 2 of them in disagreement, expected (16 - 9 - 1) / 3 = 2: alpha 0.
    assert nominal_alpha([["a", "a"], ["a", "b"]]) == pytest.approx(0)
    # Units ab, ba: observed 4, expected (16 - 4 - 4) / 3 = 8/3: alpha 1 - 3/2.
    assert nominal_alpha([["a", "b"], ["b", "a"]]) == pytest.approx(-0.5)
    assert nominal_alpha([["a", "a"], ["b", "b", "b"], ["c"]]) == 1


@pytest.mark.parametrize("units", [[], [["a"], ["b"]], [["a", "a"], ["a", "a"]]])
def test_what_does_not_vary_has_no_alpha(units):
    assert math.isnan(nominal_alpha(units))
