"""What a view in the configuration reaches: prompts, rewards, SFT."""

from collections.abc import Sequence
from pathlib import Path

import pytest
from typer.testing import CliRunner

from fxray.cli.app import app
from fxray.config.limits import PROMPT_TOKENS
from fxray.config.load import load_config
from fxray.config.schedule import load_stages
from fxray.data.dataset import Dataset, Row, write_dataset
from fxray.grammar.prompts import templates_of
from fxray.grammar.views import VIEWS, ViewName
from fxray.grpo.types import ImageRef, SeenImage, Visit
from fxray.launch.plan import stage_rewards
from fxray.launch.prompts import PromptSource
from fxray.launch.sft import sft_settings
from fxray.model.folder import resolve_model_path
from fxray.model.prompts import load_tokenizer, render_prompt
from fxray.schema import Annotation, Sample, Verdict


@pytest.fixture
def dataset(tmp_path: Path) -> Dataset:
    rows = [Row(Sample(f"s{i}", 56, 56, Annotation(Verdict.REAL), "real", "cat", f"p{i}"), b"-") for i in range(16)]
    write_dataset(tmp_path / "a.parquet", rows)
    return Dataset.open(tmp_path / "a.parquet")


def prompts_of(dataset: Dataset, model_dir: Path, *overrides: str) -> tuple[list[str], list[str]]:
    def fetch(visits: Sequence[Visit]) -> list[SeenImage | None]:
        return [SeenImage(ImageRef(b"-", 1)) for _ in visits]

    source = PromptSource(dataset, fetch, load_config("tiny", overrides), model_dir)
    return [group.prompt for group in source.of_step("alpha", 0)], [group.prompt for group in source.of_rows([0, 1])]


def test_prompts_ask_the_same_question_in_the_words_of_the_view(dataset: Dataset, random_model_dir: Path) -> None:
    full, evaluation = prompts_of(dataset, random_model_dir)
    assert (full, evaluation) == prompts_of(dataset, random_model_dir, "data.view=full")
    assert evaluation[0].startswith("<|im_start|>system\nYou check images. In think list each flaw and its box, then")
    plain, evaluation = prompts_of(dataset, random_model_dir, "data.view=label-only")
    assert evaluation[0].startswith("<|im_start|>system\nYou check images. Give the verdict.<|im_end|>")
    assert not any("box" in prompt or "tag" in prompt for prompt in plain)
    assert [full.index(prompt) for prompt in full] == [plain.index(prompt) for prompt in plain]


@pytest.mark.parametrize("view", ["full", "no-caption", "label-only"])
def test_rewards_and_sft_are_told_the_view(view: str) -> None:
    config = load_config("tiny", [f"data.view={view}", "data.region_order=position"])
    assert {stage_rewards(config, stage).view for stage in load_stages("paper")} == {view}
    settings = sft_settings(config, Path("model"), Path("train.parquet"))
    assert (settings.view, settings.region_order, settings.on_long_answer) == (view, "position", "error")


@pytest.mark.parametrize("view", VIEWS)
def test_questions_fit_into_the_room_that_the_configuration_leaves_for_them(view: ViewName) -> None:
    tokenizer = load_tokenizer(resolve_model_path("tiny"))
    longest = max(len(tokenizer(render_prompt(tokenizer, template)).input_ids) for template in templates_of(view))
    assert longest - 1 <= PROMPT_TOKENS  # without the one placeholder


def test_config_check_says_which_reward_parts_a_view_switches_off() -> None:
    def said(view: str) -> str:
        return CliRunner().invoke(app, ["config", "check", "-c", "tiny", "-s", f"data.view={view}"]).stdout

    assert said("no-bbox").endswith("view no-bbox, reward parts switched off: iou\n")
    assert said("full").endswith("view full, reward parts switched off: none\n")
