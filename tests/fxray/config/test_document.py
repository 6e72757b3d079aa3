import pytest
from hypothesis import given
from hypothesis import strategies as st

from fxray.config.document import Entry, merge, nest, parse_document
from fxray.errors import ConfigError

KEYS = st.text("abc", min_size=1, max_size=2)
TREES = st.recursive(
    st.dictionaries(KEYS, st.integers(0, 9), max_size=3),
    lambda inner: st.dictionaries(KEYS, inner | st.integers(0, 9), max_size=3),
    max_leaves=8,
)


def flat(tree, origin="x", above=()):
    document = {}
    for key, value in tree.items():
        if isinstance(value, dict) and value:
            document |= flat(value, origin, (*above, key))
        else:
            document[(*above, key)] = Entry(value, origin)
    return document


def laid_over(below, above):
    merged = dict(below)
    for key, value in above.items():
        inner = merged.get(key)
        merged[key] = laid_over(inner, value) if isinstance(value, dict) and isinstance(inner, dict) else value
    return merged


@given(TREES)
def test_nest_undoes_flattening(tree):
    assert nest(flat(tree)) == tree


@given(TREES, TREES)
def test_merging_flat_documents_is_merging_trees(below, above):
    assert nest(merge(flat(below), flat(above))) == laid_over(below, above)


def test_entries_remember_their_lines():
    document = parse_document("a:\n  b: 1\n  c: [1,\n    2]\nd: {}\n", "f.yaml")
    assert document == {
        ("a", "b"): Entry(1, "f.yaml:2"),
        ("a", "c"): Entry([1, 2], "f.yaml:3"),
        ("d",): Entry({}, "f.yaml:5"),
    }


def test_what_is_done_to_a_document_stays_out_of_the_next_one_of_the_same_text():
    parse_document("a: 1\nb: 2\n", "f.yaml").pop(("a",))
    assert nest(parse_document("a: 1\nb: 2\n", "f.yaml")) == {"a": 1, "b": 2}
    assert parse_document("a: 1\nb: 2\n", "g.yaml")[("a",)].origin == "g.yaml:1"


def test_merging_keeps_the_origin_of_each_value():
    merged = merge(flat({"a": {"b": 1, "c": 2}}, "parent"), flat({"a": {"b": 3}}, "child"))
    assert merged == {("a", "b"): Entry(3, "child"), ("a", "c"): Entry(2, "parent")}


@pytest.mark.parametrize("text", ["- a\n", "a\n"])
def test_what_is_no_mapping_is_one_error_with_one_remedy(text):
    with pytest.raises(ConfigError) as caught:
        parse_document(text, "list.yaml")
    assert caught.value.message == "holds no mapping of keys to values"
    assert str(caught.value).count("remedy") == 1
