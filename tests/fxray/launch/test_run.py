"""A run directory belongs to one configuration and one driver at a time."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from fxray.config.load import load_config
from fxray.config.tree import Config
from fxray.errors import ConfigError, DataError, FxrayError
from fxray.events import ignore
from fxray.launch.contents import DATA_FILE
from fxray.launch.data import prepare_data
from fxray.launch.run import BASE_FILE, finished_phases, open_run
from fxray.metrics import METRICS_FILE

DATA = [f"data.{split}=/data/{split}.parquet" for split in ("train", "validation", "test")]


def begin(root: Path, config: Config) -> None:
    """Leaves a run whose SFT is done."""
    with open_run(root, config) as run:
        run.sft_adapter.mkdir(parents=True)


def test_a_run_is_continued_with_the_same_configuration(tmp_path: Path) -> None:
    config = load_config("tiny", [])
    with open_run(tmp_path, config):
        pass
    with open_run(tmp_path, config) as run:
        assert load_config(run.root / "config.yaml", []) == config
        assert json.loads((run.root / "versions.json").read_text())["packages"]["ray"] == "2.58.1"


def test_another_learning_rate_is_refused_by_name(tmp_path: Path) -> None:
    begin(tmp_path, load_config("tiny", []))
    other = load_config("tiny", ["grpo.learning_rate=0.5", "seed=9"])
    message = r"other values of seed, grpo\.learning_rate"
    with pytest.raises(ConfigError, match=message), open_run(tmp_path, other):
        pass


@pytest.mark.parametrize(
    "override",
    ["evaluate.num_samples=8", "evaluate.max_new_tokens=99", "reward.functions=[{path: 'rewards.label:label_reward'}]"],
)
def test_what_decides_rewards_or_answers_is_part_of_a_run(tmp_path: Path, override: str) -> None:
    begin(tmp_path, load_config("tiny", []))
    other, field = load_config("tiny", [override]), override.partition("=")[0]
    with pytest.raises(ConfigError, match=f"other values of {field}"), open_run(tmp_path, other):
        pass


def test_more_workers_do_not_change_what_a_run_is(tmp_path: Path) -> None:
    begin(tmp_path, load_config("tiny", []))
    with open_run(tmp_path, load_config("tiny", ["rollout.num_workers=3"])) as run:
        assert load_config(run.root / "config.yaml", []).rollout.num_workers == 3


def test_a_run_that_did_not_fit_goes_on_with_less_memory_or_other_machines(tmp_path: Path) -> None:
    begin(tmp_path, load_config("qwen2.5-vl-3b", DATA))
    thrifty = ["model.gradient_checkpointing=true", "sft.num_workers=4", "sft.zero_stage=2"]
    thrifty += ["sft.max_tokens_per_micro_batch=2048"]
    thrifty += ["sft.max_failures=9", "sft.checkpoint_every_steps=7", "learner.max_tokens_per_micro_batch=4096"]
    with open_run(tmp_path, load_config("qwen2.5-vl-3b", [*DATA, *thrifty])) as run:
        assert load_config(run.root / "config.yaml", []).model.gradient_checkpointing
    other = load_config("qwen2.5-vl-3b", [*DATA, *thrifty, "sft.batch_size=64"])
    with pytest.raises(ConfigError, match=r"other values of sft\.batch_size"), open_run(tmp_path, other):
        pass


def test_a_run_that_met_an_image_that_cannot_be_read_goes_on_without_it(tmp_path: Path) -> None:
    begin(tmp_path, load_config("tiny", []))
    with open_run(tmp_path, load_config("tiny", ["data.on_corrupt_image=skip"])) as run:
        assert load_config(run.root / "config.yaml", []).data.on_corrupt_image == "skip"
    with open_run(tmp_path, load_config("tiny", [])):
        pass


@pytest.mark.parametrize("field", ["sft.num_workers=4", "sft.max_tokens_per_micro_batch=1024"])
def test_where_something_drops_out_what_decides_it_stays_as_it_was(tmp_path: Path, field: str) -> None:
    dropout = [*DATA, "model.lora.dropout=0.1"]
    begin(tmp_path, load_config("qwen2.5-vl-3b", [*dropout, "sft.zero_stage=1"]))
    with open_run(tmp_path, load_config("qwen2.5-vl-3b", [*dropout, "sft.zero_stage=2"])):
        pass
    other, name = load_config("qwen2.5-vl-3b", [*dropout, field]), field.partition("=")[0]
    with pytest.raises(ConfigError, match=f"other values of {name}\n"), open_run(tmp_path, other):
        pass


ONE_STAGE = (
    "stages:\n  - name: only\n    rewards: {r_base: %s, w_iou: 1.0, label: {right: 1, wrong: 0}, "
    "format: {right: 1, wrong: 0}}\n"
)


def with_schedule(folder: Path, r_base: float):
    folder.mkdir(exist_ok=True)
    (folder / "mine.yaml").write_text(ONE_STAGE % r_base)
    return load_config("tiny", [f"grpo.schedule={folder / 'mine.yaml'}"])


def test_a_schedule_file_is_kept_in_the_run_and_may_lie_elsewhere_the_next_time(tmp_path: Path) -> None:
    begin(tmp_path / "run", with_schedule(tmp_path / "a", 0.5))
    (tmp_path / "a" / "mine.yaml").unlink()
    with open_run(tmp_path / "run", with_schedule(tmp_path / "b", 0.5)) as run:
        kept = Path(load_config(run.root / "config.yaml", []).grpo.schedule)
        assert (kept.parent, kept.read_text()) == (run.root, ONE_STAGE % 0.5)
    with open_run(tmp_path / "run", load_config(tmp_path / "run" / "config.yaml", [])):
        assert kept.read_text() == ONE_STAGE % 0.5


def test_a_run_with_a_schedule_of_its_own_may_be_moved(tmp_path: Path) -> None:
    with open_run(tmp_path / "run", with_schedule(tmp_path / "a", 0.5)) as run:
        run.sft_adapter.mkdir(parents=True)
    (tmp_path / "run").rename(tmp_path / "moved")
    assert finished_phases(tmp_path / "moved") == {"sft": tmp_path / "moved" / "sft" / "adapter"}
    with open_run(tmp_path / "moved", with_schedule(tmp_path / "a", 0.5)) as run:
        assert load_config(run.root / "config.yaml").grpo.schedule == str(tmp_path / "moved" / "schedule.yaml")


def test_a_schedule_file_with_other_words_is_another_run(tmp_path: Path) -> None:
    begin(tmp_path / "run", with_schedule(tmp_path / "a", 0.5))
    other = with_schedule(tmp_path / "a", 0.25)
    with pytest.raises(ConfigError, match=r"other values of grpo\.schedule"), open_run(tmp_path / "run", other):
        pass
    assert (tmp_path / "run" / "schedule.yaml").read_text() == ONE_STAGE % 0.5


def test_a_schedule_file_that_is_gone_is_named_with_the_presets(tmp_path: Path) -> None:
    config = with_schedule(tmp_path / "a", 0.5)
    (tmp_path / "a" / "mine.yaml").unlink()
    with pytest.raises(ConfigError, match="there is no such schedule") as caught, open_run(tmp_path / "r", config):
        pass
    assert caught.value.where.endswith("mine.yaml")
    assert "fixed-alpha" in caught.value.remedy


def test_a_mistyped_path_does_not_bind_a_run(tmp_path: Path) -> None:
    config = load_config("tiny", ["data.synth=null", *DATA])
    with open_run(tmp_path, config) as run:
        for record in (BASE_FILE, DATA_FILE, "status.json", "timeline.json"):
            (run.root / record).write_text("{}")
        with pytest.raises(DataError, match="no such dataset file"):
            prepare_data(config, run, ignore)
    other = load_config("tiny", ["data.synth=null", *DATA, "data.train=/data/right.parquet", "seed=9"])
    with open_run(tmp_path, other) as run:
        assert load_config(run.root / "config.yaml", []) == other
        assert not (run.root / DATA_FILE).exists()
        assert not (run.root / BASE_FILE).exists()


def test_sft_that_ended_before_its_first_checkpoint_does_not_bind_a_run(tmp_path: Path) -> None:
    with open_run(tmp_path, load_config("tiny", [])) as run:
        for made in (METRICS_FILE, "tensorboard/sft", "sft/attempts/attempt-0/progress.jsonl"):
            (run.root / made).mkdir(parents=True)
    other = load_config("tiny", ["model.max_pixels=50176"])
    with open_run(tmp_path, other) as run:
        assert load_config(run.root / "config.yaml", []) == other


@pytest.mark.parametrize(
    "made", ["sft/attempts/attempt-0/step-000100", "sft/adapter", "grpo/alpha", "evaluation/no-ft", "something"]
)
def test_whatever_a_phase_made_binds_a_run(tmp_path: Path, made: str) -> None:
    with open_run(tmp_path, load_config("tiny", [])) as run:
        (run.root / made).mkdir(parents=True)
    with pytest.raises(ConfigError, match="other values of seed"), open_run(tmp_path, load_config("tiny", ["seed=9"])):
        pass


def test_synthetic_data_bind_a_run_to_what_they_were_made_with_alone(tmp_path: Path) -> None:
    small = "data.synth={num_train: %d, num_validation: 8, num_test: 8, size_px: 56}"
    config = load_config("tiny", [small % 8])
    with open_run(tmp_path, config) as run:
        made = prepare_data(config, run, ignore).train.read_bytes()
    other = load_config("tiny", [small % 8, "sft.max_answer_tokens=300", "seed=9"])
    with open_run(tmp_path, other) as run:
        assert prepare_data(other, run, ignore).train.read_bytes() == made
    more = load_config("tiny", [small % 16, "seed=7"])
    with pytest.raises(ConfigError, match=r"other values of data\.synth\n"), open_run(tmp_path, more):
        pass
    assert load_config(tmp_path / "config.yaml", []) == other


def test_a_schedule_that_was_wrong_is_replaced_before_a_phase_has_begun(tmp_path: Path) -> None:
    with open_run(tmp_path / "run", with_schedule(tmp_path / "a", 0.5)):
        pass
    begin(tmp_path / "run", with_schedule(tmp_path / "a", 0.25))
    assert (tmp_path / "run" / "schedule.yaml").read_text() == ONE_STAGE % 0.25
    assert load_config(tmp_path / "run" / "config.yaml", []).grpo.schedule == str(tmp_path / "run" / "schedule.yaml")
    other = with_schedule(tmp_path / "a", 0.5)
    with pytest.raises(ConfigError, match=r"other values of grpo\.schedule"), open_run(tmp_path / "run", other):
        pass


def test_a_second_driver_does_not_give_a_run_another_configuration_before_its_phases(tmp_path: Path) -> None:
    config = load_config("tiny", [])
    with (
        open_run(tmp_path, config),
        pytest.raises(FxrayError, match="another process"),
        open_run(tmp_path, load_config("tiny", ["seed=9"])),
    ):
        pass
    assert load_config(tmp_path / "config.yaml", []) == config


def test_a_second_driver_is_told_who_holds_the_run(tmp_path: Path) -> None:
    config = load_config("tiny", [])
    code = (
        "import sys; from pathlib import Path; from fxray.launch.run import open_run;"
        "from fxray.config.load import load_config\n"
        "with open_run(Path(sys.argv[1]), load_config('tiny', [])): pass"
    )
    with open_run(tmp_path, config):
        second = subprocess.run(
            [sys.executable, "-c", code, str(tmp_path)], capture_output=True, text=True, check=False
        )
    assert "another process (pid " in second.stderr
    assert "choose another folder" in second.stderr  # of a sweep it is --out, not --run-dir
    with open_run(tmp_path, config):
        pass


def test_leftovers_of_a_killed_driver_are_cleared(tmp_path: Path) -> None:
    config = load_config("tiny", [])
    with open_run(tmp_path, config):
        pass
    half = tmp_path / "grpo" / "alpha" / ".step-000020.123.tmp"
    half.mkdir(parents=True)
    (half / "x").write_text("half")
    with open_run(tmp_path, config):
        assert not half.exists()


def test_a_driver_that_is_killed_before_the_configuration_is_written_leaves_a_folder_to_begin_in(
    tmp_path: Path,
) -> None:
    config, root = with_schedule(tmp_path / "a", 0.5), tmp_path / "run"
    root.mkdir()
    (root / "schedule.yaml").write_text(ONE_STAGE % 0.5)
    (root / ".config.yaml.17.tmp").write_text("gr")
    (root / "..lease.17.tmp").write_text("{")
    with open_run(root, config):
        assert not (root / ".config.yaml.17.tmp").exists()


def test_a_schedule_of_the_users_is_not_taken_for_one_that_a_run_has_kept(tmp_path: Path) -> None:
    config, root = with_schedule(tmp_path / "a", 0.5), tmp_path / "run"
    root.mkdir()
    (root / "schedule.yaml").write_text("stages: []")
    with pytest.raises(ConfigError, match="the folder is not empty"), open_run(root, config):
        pass
    assert (root / "schedule.yaml").read_text() == "stages: []"


def test_a_folder_with_something_else_in_it_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "thesis.tex").write_text("")
    with pytest.raises(FxrayError, match="not a run directory"), open_run(tmp_path, load_config("tiny", [])):
        pass
    assert {p.name for p in tmp_path.iterdir()} == {"thesis.tex"}


@pytest.mark.parametrize("name", ["b\udcffad", "circle"])
def test_a_folder_that_no_training_can_use_is_refused_before_it_is_made(tmp_path: Path, name: str) -> None:
    (tmp_path / "circle").symlink_to(tmp_path / "circle")
    config = load_config("tiny", [])
    with pytest.raises(ConfigError, match=r"no UTF-8|leads nowhere"), open_run(tmp_path / name, config):
        pass
    assert [p.name for p in tmp_path.iterdir()] == ["circle"]
