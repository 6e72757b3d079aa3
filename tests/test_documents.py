import re
from pathlib import Path
from typing import get_args

import pytest
import typer
import yaml

from fxray.cli.app import app
from fxray.config.load import load_config
from fxray.config.tree import Config

TOP = Path(__file__).resolve().parents[1]
DOCUMENTS = [*TOP.glob("*.md"), *(TOP / "docs").glob("*.md")]
TODAYS = [path for path in DOCUMENTS if path.name != "CHANGELOG.md"]  # which tells of what there was, too
FILE_ENDINGS = (".py", ".json", ".jsonl", ".yaml", ".parquet")
NO_FIELDS = {"ray.kill", "ray.wait", "model.language_model"}
"""Names of Ray and of transformers that look like fields."""


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.name)
def test_every_file_that_a_document_names_is_there(document):
    text = document.read_text()
    links = [link for link in re.findall(r"\]\(([^)#]+)\)", text) if "://" not in link]
    named = re.findall(r"`((?:fxray|actors|rewards|tests|configs|benchmarks|docs|scripts)/[\w/.]+)`", text)
    missing = [link for link in links if not (document.parent / link).exists()]
    missing += [name for name in named if not (TOP / name).exists()]
    assert missing == []


def test_every_test_that_a_document_names_is_there():
    tests = {name for file in (TOP / "tests").rglob("*.py") for name in re.findall(r"def (test_\w+)", file.read_text())}
    named = {name for path in TODAYS for name in re.findall(r"(?:`|::)(test_\w+)`", path.read_text())}
    assert len(named) > 10
    assert named <= tests


def test_the_two_commands_stand_on_the_first_screen():
    first_screen = (TOP / "README.md").read_text().splitlines()[:15]
    assert [line.split("#")[0].strip() for line in first_screen if line.startswith("make ")] == [
        "make demo",
        "make test",
    ]


def test_every_command_that_a_document_shows_has_its_options():
    root, shown = typer.main.get_command(app), []
    for document in TODAYS:
        for line in re.findall(r"(?:^|`)fxray ([a-z][^`#\n]*)", document.read_text(), re.MULTILINE):
            command, words = root, line.split()
            while words and words[0] in getattr(command, "commands", {}):
                command = command.commands[words.pop(0)]
            if command is not root:
                known = {"--help", *(name for option in command.params for name in option.opts)}
                shown += [f"{document.name}: fxray {line}: {word}" for word in words if _is_option(word) - known]
    assert shown == []


def _is_option(word):
    return {word.partition("=")[0]} if re.fullmatch(r"--?[a-z][\w-]*(=.*)?", word) else set()


def test_every_field_that_a_document_names_or_sets_is_one():
    names = {
        name
        for path in TODAYS
        for name in re.findall(r"(?:`|-s |--set )([a-z_]+(?:\.[a-z_]+)+)(?:[=:] ?[^`\n]*)?(?=[`\s])", path.read_text())
        if name.partition(".")[0] in Config.model_fields and not name.endswith(FILE_ENDINGS)
    }
    assert len(names) > 50
    assert {name for name in names if not _is_field(Config, name.split("."))} == NO_FIELDS


def _is_field(section, names):
    if names[0] not in section.model_fields:
        return False
    kinds = [section.model_fields[names[0]].annotation, *get_args(section.model_fields[names[0]].annotation)]
    inner = [kind for kind in kinds if hasattr(kind, "model_fields")]
    return len(names) == 1 or any(_is_field(kind, names[1:]) for kind in inner)


def test_overrides_in_documents_are_taken():
    given = {found for path in TODAYS for found in re.findall(r"(?:-s|--set) ([a-z_0-9.]+=[^\s`]+)", path.read_text())}
    assert len(given) > 10
    for override in given:
        assert load_config("qwen2.5-vl-7b", [override])


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
