"""Every breach in a row is listed, and an opened dataset refuses exactly the rows that have an error."""

from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fxray.data.check.rows import row_faults
from fxray.data.check.rules import RULES, Severity
from fxray.data.dataset import SCHEMA, Dataset
from fxray.errors import DataError
from fxray.schema import Tag

REGION = {"x_min": 10.0, "y_min": 10.0, "x_max": 50.0, "y_max": 30.0, "caption": "hand fused"}
GOOD = {
    "sample_id": "a",
    "image": b"x",
    "image_path": None,
    "width_px": 100,
    "height_px": 80,
    "label": "generated",
    "regions": [REGION],
    "tags": ["texture errors"],
    "generator": "sdxl",
    "category": "dog",
    "source": "web",
}


def rules(**changes: Any) -> list[str]:
    return [fault.rule for fault in row_faults(GOOD | changes)]


def test_a_good_row_has_no_fault() -> None:
    assert rules() == []
    assert rules(label="real", regions=[], tags=[]) == []


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"sample_id": ""}, ["value"]),
        ({"sample_id": None}, ["value"]),
        ({"generator": None, "source": None}, ["value", "value"]),
        ({"annotator": ""}, ["value"]),
        ({"annotator": None}, []),
        ({"width_px": 0}, ["value"]),
        ({"height_px": -3}, ["value"]),
        ({"width_px": None}, ["value"]),
        ({"width_px": "100"}, ["value"]),
        ({"label": "fake"}, ["label"]),
        ({"label": None}, ["value"]),
        ({"tags": ["fingers"]}, ["tag"]),
        ({"tags": ["texture errors", "texture errors"]}, ["tag"]),
        ({"tags": [None]}, ["tag"]),
        ({"tags": [{}]}, ["tag"]),
        ({"tags": None}, ["value"]),
        ({"label": "real"}, ["regions-on-real"]),
        ({"regions": []}, ["generated-without-regions"]),
        ({"regions": None}, ["value"]),
        ({"regions": [None]}, ["value"]),
        ({"regions": [REGION | {"caption": None}]}, ["value"]),
        ({"regions": [REGION | {"x_min": None}]}, ["value"]),
        ({"regions": [REGION | {"x_min": "10"}]}, ["value"]),
        ({"regions": [REGION | {"x_max": 100.5}]}, ["box-outside"]),
        ({"regions": [REGION | {"y_min": -0.5}]}, ["box-outside"]),
        ({"regions": [REGION | {"y_max": float("inf")}]}, ["box-outside"]),
        ({"regions": [REGION | {"x_max": 10.0}]}, ["box-degenerate"]),
        ({"regions": [REGION | {"x_max": 5.0}]}, ["box-degenerate"]),
        ({"regions": [REGION | {"x_max": float("nan")}]}, ["box-degenerate"]),
        ({"regions": [REGION | {"x_min": 0.0, "y_min": 0.0, "x_max": 100.0, "y_max": 80.0}]}, ["box-covers-image"]),
        ({"regions": [REGION | {"x_min": 0.0, "y_min": 0.0, "x_max": 100.0, "y_max": 75.0}]}, []),
        ({"regions": [REGION | {"x_max": 13.9}]}, ["box-tiny"]),
        ({"regions": [REGION | {"x_min": 0.0, "y_min": 0.2, "x_max": 1.0, "y_max": 0.9}]}, ["box-in-one-pixel"]),
        ({"regions": [REGION | {"x_min": 0.0, "y_min": 0.2, "x_max": 1.1, "y_max": 0.9}]}, ["box-tiny"]),
        ({"regions": [REGION | {"caption": " "}]}, ["caption-empty"]),
        ({"regions": [REGION | {"caption": "hand\nfused"}]}, ["caption-markup"]),
        ({"regions": [REGION | {"caption": "hand <|box_start|>"}]}, ["caption-markup"]),
        ({"regions": [REGION | {"caption": "is fused"}]}, ["caption-without-noun"]),
        ({"regions": [REGION, REGION]}, ["region-repeated"]),
        ({"regions": [REGION, REGION | {"x_min": 20.0}]}, ["caption-repeated"]),
    ],
)
def test_each_breach_has_its_rule(changes: dict[str, Any], expected: list[str]) -> None:
    assert rules(**changes) == expected


def test_all_breaches_of_a_row_are_listed() -> None:
    bad = [REGION | {"x_max": 500.0, "caption": "is odd"}, REGION | {"y_max": 1.0}]
    expected = ["value", "label", "tag", "box-outside", "caption-without-noun", "box-degenerate"]
    assert rules(sample_id="", label="fake", tags=["x"], regions=bad) == expected


def test_a_message_gives_field_value_and_expectation() -> None:
    (fault,) = row_faults(GOOD | {"regions": [REGION | {"x_max": 140.0}]})
    assert fault.field == "regions"
    assert fault.message == "(10.0, 10.0, 140.0, 30.0), expected boxes with an area inside the 100x80 px image"


def test_a_missing_column_is_not_the_row_s_fault() -> None:
    assert list(row_faults({"sample_id": "a"})) == []


NUMBERS = st.sampled_from([-1.0, 0.0, 3.0, 10.0, 50.0, 80.0, 100.0, 101.0, float("nan"), float("inf")])
TEXTS = st.sampled_from(["", " ", "real", "generated", "fake", "hand fused", "is odd", "a\nb", None])
ROWS = st.fixed_dictionaries(
    {
        "sample_id": TEXTS,
        "width_px": st.sampled_from([None, -1, 0, 100]),
        "height_px": st.sampled_from([None, 0, 80]),
        "label": TEXTS,
        "generator": TEXTS,
        "category": TEXTS,
        "source": TEXTS,
        "tags": st.none() | st.lists(st.sampled_from([*Tag, "x", None]), max_size=3),
        "regions": st.none()
        | st.lists(
            st.none()
            | st.fixed_dictionaries(
                {name: st.none() | NUMBERS for name in ("x_min", "y_min", "x_max", "y_max")} | {"caption": TEXTS}
            ),
            max_size=2,
        ),
    }
)


@settings(max_examples=200)
@given(changes=ROWS, kept=st.sets(st.sampled_from(sorted(GOOD))))
def test_a_dataset_opens_exactly_where_no_error_is_found(
    tmp_path_factory: pytest.TempPathFactory, changes: dict[str, Any], kept: set[str]
) -> None:
    row = GOOD | {name: value for name, value in changes.items() if name not in kept}
    path = tmp_path_factory.mktemp("row") / "a.parquet"
    pq.write_table(pa.Table.from_pylist([row], schema=SCHEMA), path)
    errors = [f for f in row_faults(pq.read_table(path).to_pylist()[0]) if RULES[f.rule].severity is Severity.ERROR]
    if not errors:
        assert len(Dataset.open(path)) == 1
        return
    with pytest.raises(DataError) as caught:
        Dataset.open(path)
    assert caught.value.message == f"field {errors[0].field}: {errors[0].message}"
