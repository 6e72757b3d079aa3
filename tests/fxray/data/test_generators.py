"""Names of generators in one spelling."""

from fxray.data.generators import one_spelling, plain_name


def test_case_spaces_and_punctuation_make_no_other_generator():
    names = ["sd-1.5", "SD 1.5", "SD 1.4", "PixArt-α", "PixArt-Σ", "?", "!"]
    assert one_spelling(names) == {name: name for name in names} | {"sd-1.5": "SD 1.5"}
    assert plain_name("FLUX.1-dev") == plain_name("flux 1 Dev")
