import re
from pathlib import Path

import pytest

from fxray.config.limits import check
from fxray.config.load import dump_config, load_config, shipped_folder
from fxray.config.schedule import load_stages
from fxray.data.frame import smart_frame

NAMES = sorted(path.stem for path in shipped_folder().glob("*.yaml"))


def placements():
    """Every placement that a shipped file proposes in its header, and the file as it is."""
    for name in NAMES:
        yield name, []
        for line in (shipped_folder() / f"{name}.yaml").read_text().splitlines():
            if line.startswith("#   --set "):
                yield name, re.findall(r"--set (\S+)", line)


@pytest.mark.parametrize(("name", "overrides"), placements())
def test_every_shipped_configuration_has_no_problem(name, overrides):
    assert check(load_config(name, overrides)) == []


@pytest.mark.parametrize("name", NAMES)
def test_a_dumped_configuration_reads_back_equal(name, tmp_path):
    config = load_config(name)
    dumped = tmp_path / "elsewhere" / "config.yaml"
    dumped.parent.mkdir()
    dumped.write_text(dump_config(config))
    assert load_config(dumped) == config


@pytest.mark.parametrize("name", ["qwen2.5-vl-3b", "qwen2.5-vl-7b", "qwen2.5-vl-32b", "qwen3-vl-8b"])
def test_the_big_configurations_hold_the_papers_settings(name):
    config = load_config(name)
    assert (config.sft.learning_rate, config.sft.epochs, config.sft.warmup_frac) == (1e-4, 3, 0.05)
    assert (config.model.lora.rank, config.model.lora.alpha, config.model.dtype) == (8, 32, "bfloat16")
    assert config.grpo.group_size * config.grpo.prompts_per_step == 128
    assert (config.grpo.group_size, config.grpo.learning_rate, config.grpo.max_new_tokens) == (4, 1e-5, 1024)
    assert [stage.name for stage in load_stages(config.grpo.schedule)] == ["alpha", "beta", "gamma"]


def test_every_shipped_schedule_loads():
    presets = {path.stem: load_stages(path.stem) for path in (shipped_folder() / "schedules").glob("*.yaml")}
    assert {"paper", "linear", "fixed-alpha", "fixed-beta", "fixed-gamma"} <= presets.keys()
    assert {name: len(stages) for name, stages in presets.items() if name != "linear"} == dict.fromkeys(
        presets.keys() - {"linear"}, 3
    )


def test_the_paper_schedule_is_table_1():
    alpha, beta, gamma = (stage.rewards for stage in load_stages("paper"))
    rows = [
        (r.r_base, r.w_iou, r.label.right, r.label.wrong, r.format.right, r.format.wrong) for r in (alpha, beta, gamma)
    ]
    assert rows == [(0, 1, 1, -1, 2, -1), (-0.5, 1.5, 2, -2, 1, -1.5), (-1, 2, 0.5, -1, 0.5, -1)]


def test_shipped_configurations_lie_beside_the_sources_of_a_checkout():
    assert shipped_folder() == Path(__file__).resolve().parents[3] / "configs"


@pytest.mark.parametrize("name", ["tiny", "tiny-long"])
def test_the_tiny_model_sees_squares_of_every_size_as_those_that_it_learns_from(name: str) -> None:
    model = load_config(name).model
    sides = {
        smart_frame(side, side, min_pixels=model.min_pixels, max_pixels=model.max_pixels).model_width_px
        for side in range(1, 2000)
    }
    assert sides == {112}
