from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fxray.data.ratings import Cell, choose, read_ratings
from fxray.errors import DataError
from fxray.schema import Annotation, Sample, Verdict

HEADER = "sample_id,rater,rating\n"
KNOWN = frozenset({"a", "b", "é"})


def image(sample_id, category="dog", generator="sdxl", verdict=Verdict.GENERATED):
    return Sample(sample_id, 9, 9, Annotation(verdict), generator, category, "web")


def read(tmp_path: Path, text: str | bytes, **options):
    path = tmp_path / "ratings.csv"
    path.write_bytes(text.encode() if isinstance(text, str) else text)
    return read_ratings(path, KNOWN, **({"per_image": 3, "scale": None} | options))


def rows(sample_id, *ratings):
    return "".join(f"{sample_id},r{k},{rating}\n" for k, rating in enumerate(ratings))


def test_ratings_are_read_whatever_their_order_and_further_columns(tmp_path):
    text = '\ufeffrating, rater ,note,sample_id\n4,r1,"good, sharp",a\n 2.5 ,r2,,é\n\n5,r2,x,a\n3,r3,,a\n'
    text += "1,r1,,é\n2,r3,,é\n"
    assert read(tmp_path, text) == {"a": (4, 5, 3), "é": (2.5, 1, 2)}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (rows("a", 1, 2, "x"), r"line 4, field rating: 'x', expected a number"),
        (rows("a", 1, 2, "nan"), r"field rating: 'nan', expected a number"),
        (rows("a", 1, 2, "inf"), r"field rating: 'inf', expected a number"),
        (rows("a", 1, 2, ""), r"line 4, field rating: empty, expected a value"),
        ("a,r0\n", r"line 2, field rating: empty"),
        (",r0,3\n", r"line 2, field sample_id: empty"),
        (rows("z", 1, 2, 3), r"line 2, field sample_id: 'z' is not in the dataset"),
        (rows("a", 1, 2, 6), r"line 4, field rating: 6, expected 1 to 5"),
        (rows("a", 1, 2) + "a,r1,3\n", r"line 4, field rater: 'r1' rated 'a' before, on line 3"),
        (rows("a", 1), r"line 2: 'a' has 1 rating, expected 3"),
        (rows("a", 1, 2), r"lines 2, 3: 'a' has 2 ratings, expected 3"),
        (rows("a", 1, 2, 3, 4), r"lines 2, 3, 4, 5: 'a' has 4 ratings, expected 3"),
    ],
)  # fmt: skip
def test_a_bad_row_is_named(tmp_path, text, message):
    with pytest.raises(DataError, match=message):
        read(tmp_path, HEADER + text, scale=(1, 5))


def test_every_bad_row_is_counted_and_the_first_twenty_are_named(tmp_path):
    with pytest.raises(DataError) as caught:
        read(tmp_path, HEADER + "a,r,x\n" * 30)
    assert caught.value.message.startswith("30 problems with ratings:\n  line 2, field rating")
    assert caught.value.message.count("line ") == 20
    assert caught.value.message.endswith("and 10 more")
    with pytest.raises(DataError, match="2 problems"):
        read(tmp_path, HEADER + rows("a", 1) + rows("b", 1))


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("id;rater;rating\n", r"no column sample_id, rater, rating in the header \['id;rater;rating'\]"),
        ("", "no column sample_id, rater, rating"),
        ("sample_id,rater,rating, rating\na,r1,3,4\n", "several columns rating in the header"),
        (HEADER.encode() + b"a,\xff,3\n", "is not UTF-8"),
        (HEADER + 'a,"r1,3\n', "is not CSV: unexpected end of data"),
    ],
)
def test_what_is_no_table_of_ratings_is_refused(tmp_path, content, message):
    with pytest.raises(DataError, match=message):
        read(tmp_path, content)
    with pytest.raises(DataError, match="cannot be read: No such file"):
        read_ratings(tmp_path / "none.csv", KNOWN, per_image=3, scale=None)


def test_the_best_of_each_category_and_generator_stay():
    samples = [
        image("low"), image("high"), image("middle"), image("photo", verdict=Verdict.REAL),
        image("cat", category="cat"), image("flux", generator="flux"),
    ]  # fmt: skip
    ratings = {"low": (1, 1, 2), "high": (5, 5, 5), "middle": (3, 3, 4), "cat": (1, 1, 1), "flux": (2, 2, 2)}
    kept, cells = choose(samples, ratings, top=2, seed=0)
    assert [samples[row].sample_id for row in kept] == ["high", "middle", "photo", "cat", "flux"]
    assert cells == [
        Cell("cat", "sdxl", 1, 1, 1.0),
        Cell("dog", "flux", 1, 1, 2.0),
        Cell("dog", "sdxl", 3, 2, pytest.approx(10 / 3)),
    ]
    with pytest.raises(DataError, match="1 generated image has no rating, such as 'flux'"):
        choose(samples, {name: given for name, given in ratings.items() if name != "flux"}, top=2, seed=0)


def test_equal_means_are_settled_by_the_lowest_rating():
    samples = [image("torn"), image("even")]
    for seed in range(8):
        assert choose(samples, {"torn": (1, 3, 5), "even": (3, 3, 3)}, top=1, seed=seed)[0] == [1]
    # The same three ratings in another order are the same mean to the bit.
    samples = [image("x"), image("y")]
    for seed in range(8):
        one = choose(samples, {"x": (0.1, 0.2, 0.3), "y": (0.3, 0.2, 0.1)}, top=1, seed=seed)
        assert one == choose(samples, {"x": (0.3, 0.1, 0.2), "y": (0.1, 0.2, 0.3)}, top=1, seed=seed)


@given(st.permutations([f"s{k}" for k in range(12)]), st.integers(0, 3))
def test_the_lot_depends_on_seed_and_id_alone(names, seed):
    samples = [image(name) for name in names]
    ratings = dict.fromkeys(names, (3.0, 3.0, 3.0))
    kept = {samples[row].sample_id for row in choose(samples, ratings, top=4, seed=seed)[0]}
    again = [image(f"s{k}") for k in range(12)]
    assert kept == {again[row].sample_id for row in choose(again, ratings, top=4, seed=seed)[0]}
    assert len(kept) == 4


def test_the_lot_is_another_with_another_seed():
    samples = [image(f"s{k}") for k in range(4)]
    ratings = {sample.sample_id: (3.0, 3.0, 3.0) for sample in samples}
    assert {choose(samples, ratings, top=1, seed=seed)[0][0] for seed in range(30)} == {0, 1, 2, 3}
