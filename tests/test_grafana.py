"""The dashboard asks for series that exist, with labels that they have, and is what its script writes."""

import importlib.util
import json
import re
from pathlib import Path

from fxray.launch.series import SERIES

FOLDER = Path(__file__).parents[1] / "deploy" / "grafana"
OF_RAY = {"ray_object_store_used_memory"}
"""Series of Ray itself; tests/fxray/launch/test_exporter.py finds them in a real Ray."""


def names() -> set[str]:
    suffixes = {"histogram": ("_bucket", "_count", "_sum")}
    return OF_RAY | {f"ray_{s.name}{end}" for s in SERIES for end in suffixes.get(s.kind, ("",))}


def queries() -> list[str]:
    board = json.loads((FOLDER / "fxray.json").read_text())
    return [target["expr"] for panel in board["panels"] for target in panel["targets"]]


def test_every_query_asks_for_a_series_that_exists_and_every_series_is_shown():
    asked = {name for query in queries() for name in re.findall(r"\bray_\w+", query)}
    assert asked - names() == set()
    missing = {s.name for s in SERIES} - {re.sub("_bucket$", "", name.removeprefix("ray_")) for name in asked}
    assert missing == set()


def test_queries_group_by_labels_that_the_series_have_and_are_balanced():
    labels = {f"ray_{s.name}": {*s.labels, "le"} for s in SERIES}
    for query in queries():
        assert query.count("(") == query.count(")")
        grouped = {label for group in re.findall(r"by \(([^)]*)\)", query) for label in group.split(", ")}
        for name in re.findall(r"\bray_\w+", query):
            if name not in OF_RAY:
                assert grouped <= labels[re.sub("_bucket$", "", name)], query
        for name in re.findall(r"\brate\((ray_\w+)", query):
            assert name.endswith(("_total", "_bucket")), query


def test_the_file_is_what_its_script_writes_and_no_panel_covers_another():
    spec = importlib.util.spec_from_file_location("dashboard", FOLDER / "dashboard.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    board = module.dashboard()
    assert json.loads((FOLDER / "fxray.json").read_text()) == board
    places = {(panel["gridPos"]["x"], panel["gridPos"]["y"]) for panel in board["panels"]}
    assert len(places) == len(board["panels"]) == len({panel["id"] for panel in board["panels"]})
