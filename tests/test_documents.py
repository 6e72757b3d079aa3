import re
from pathlib import Path

import pytest
import yaml

from fxray.config.load import load_config

TOP = Path(__file__).resolve().parents[1]
DOCUMENTS = [*TOP.glob("*.md"), *(TOP / "docs").glob("*.md")]


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.name)
def test_every_file_that_a_document_names_is_there(document):
    text = document.read_text()
    links = [link for link in re.findall(r"\]\(([^)#]+)\)", text) if "://" not in link]
    named = re.findall(r"`((?:fxray|actors|rewards|tests|configs|benchmarks|docs|scripts)/[\w/.]+)`", text)
    missing = [link for link in links if not (document.parent / link).exists()]
    missing += [name for name in named if not (TOP / name).exists()]
    assert missing == []


def test_the_two_commands_stand_on_the_first_screen():
    first_screen = (TOP / "README.md").read_text().splitlines()[:15]
    assert [line.split("#")[0].strip() for line in first_screen if line.startswith("make ")] == [
        "make demo",
        "make test",
    ]


def test_overrides_in_the_readme_are_fields():
    for name, value in re.findall(r"-s ([\w.]+)=(\S+)", (TOP / "README.md").read_text()):
        assert load_config("qwen2.5-vl-7b", [f"{name}={value}"])


def test_the_accuracy_of_todays_demo_is_the_same_in_every_document():
    table = re.search(r"\| GRPO γ \| (\.\d+ \[[^]]+\])", (TOP / "README.md").read_text())
    told = re.search(
        r"Today's detector.*? has accuracy\s+(\.\d+\s+\[[^]]+\])", (TOP / "docs/baselines.md").read_text(), re.DOTALL
    )
    measured = re.search(r"\| GRPO γ \| (\.\d+ \[[^]]+\])", (TOP / "docs/benchmarks.md").read_text())
    assert table[1] == measured[1] == " ".join(told[1].split())


def test_the_cluster_file_is_one_that_ray_accepts():
    from ray.autoscaler._private.util import prepare_config, validate_config

    config = prepare_config(yaml.safe_load((TOP / "cluster.yaml").read_text()))
    validate_config(config)
    assert config["max_workers"] == len(config["provider"]["worker_ips"])


def test_what_takes_back_the_nodes_of_a_killed_driver_joins_the_cluster_and_asks_for_none(monkeypatch):
    import ray
    from ray.autoscaler import sdk

    calls = []
    monkeypatch.setattr(ray, "init", calls.append)
    monkeypatch.setattr(sdk, "request_resources", lambda **asked: calls.append(asked))
    (script,) = re.findall(r'`python -c "(.*request_resources.*)"`', (TOP / "docs" / "cluster.md").read_text())
    exec(script, {})
    assert calls == ["auto", {"bundles": []}]
