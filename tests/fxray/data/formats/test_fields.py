import pytest

from fxray.data.formats.fields import one_verdict
from fxray.data.formats.record import FieldProblem


def test_verdicts_that_contradict_one_another_are_no_verdict():
    assert one_verdict([], "flags") is None
    assert one_verdict(["fake", " Generated"], "flags") == " Generated"
    with pytest.raises(FieldProblem, match="both real and generated"):
        one_verdict(["real", "fake"], "flags")
