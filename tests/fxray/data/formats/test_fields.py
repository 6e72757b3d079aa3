import pytest

from fxray.data.formats.fields import caption_in, number, one_verdict, size, tags_among, texts
from fxray.data.formats.record import FieldProblem


def test_verdicts_that_contradict_one_another_are_no_verdict():
    assert one_verdict([], "flags") is None
    assert one_verdict(["fake", " Generated"], "flags") == " Generated"
    with pytest.raises(FieldProblem, match="both real and generated"):
        one_verdict(["real", "fake"], "flags")


@pytest.mark.parametrize("value", [True, None, "", "x", [1], float("nan"), "inf", 10**400])
def test_what_is_no_number_is_none(value):
    with pytest.raises(FieldProblem, match="expected a finite number"):
        number(value, "x")
    assert (number(" -1.5 ", "x"), number(2, "x")) == (-1.5, 2)


def test_one_text_is_split_at_semicolons_and_a_list_is_not():
    assert texts(" texture errors;; other anomalies ", "tags") == ("texture errors", "other anomalies")
    assert texts(["a;b"], "tags") == ("a;b",)
    assert texts(float("nan"), "tags") == texts(None, "tags") == ()


def test_a_class_that_is_named_like_a_tag_is_one_in_any_case():
    assert tags_among(["dog", " Texture Errors ", "dog", " Texture Errors "]) == (" Texture Errors ",)


def test_a_size_of_nothing_is_none():
    assert size("20", 10.0) == (20, 10)
    assert [size(0, 10), size(10, 0), size(-1, 10), size(None, 10), size("x", 1)] == [None] * 5


def test_of_several_texts_the_first_name_that_is_filled_is_the_caption():
    texts = {"explanation": "d", "text": "c", "description": "b", "caption": "a"}
    for name, expected in (("caption", "a"), ("description", "b"), ("text", "c"), ("explanation", "d")):
        assert caption_in(texts) == expected
        texts[name] = " "
    assert caption_in(texts) is None
