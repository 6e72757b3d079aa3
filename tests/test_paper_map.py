import ast
import re
from pathlib import Path

import pytest

TOP = Path(__file__).resolve().parents[1]
TEXT = (TOP / "docs" / "paper-map.md").read_text()
SYMBOLS = sorted(set(re.findall(r"`([\w.]+):(\w+)`", TEXT)))
TESTS = sorted(set(re.findall(r"`(tests/[\w/]+\.py)`", TEXT)))


@pytest.mark.parametrize(("module", "name"), SYMBOLS)
def test_every_symbol_of_the_map_is_defined_where_it_says(module, name):
    tree = ast.parse((TOP / module.replace(".", "/")).with_suffix(".py").read_text())
    defined = {node.name for node in tree.body if isinstance(node, ast.FunctionDef | ast.ClassDef)}
    assert name in defined


@pytest.mark.parametrize("path", TESTS)
def test_every_test_of_the_map_is_there_and_tests_something(path):
    tree = ast.parse((TOP / path).read_text())
    assert [node for node in ast.walk(tree) if isinstance(node, ast.FunctionDef) and node.name.startswith("test_")]


def test_the_map_is_not_empty():
    assert len(SYMBOLS) > 20
    assert len(TESTS) > 15
