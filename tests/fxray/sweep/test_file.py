"""Sweep files: what they say, what is drawn, and what is refused before anything begins."""

import math

import pytest

from fxray.config.load import load_config
from fxray.config.tree import SftConfig
from fxray.errors import CheckpointError, ConfigError
from fxray.events import Note
from fxray.experiments.data import split_overrides
from fxray.sweep.file import Values, load_sweep, settings_of, takes_whole_numbers
from fxray.sweep.measure import SettingResult, TrialResult, ranked
from fxray.sweep.sweep import plan, sweep
from fxray.sweep.trials import STOPPED, read_stopped, reading, shared_sfts, trials_of


def test_grids_cross_and_a_sample_is_the_same_at_every_point(sweep_file):
    text = """
fields:
  grpo.prompts_per_step: {grid: [16, 32]}
  grpo.learning_rate: {loguniform: [1e-4, 1e-3]}
  sft.learning_rate: {choice: [0.001, 0.002]}
  grpo.group_size: {uniform: [2, 9]}
num_samples: 5
"""
    settings = settings_of(sweep_file(text))
    assert len(settings) == len({setting.name for setting in settings}) == 10
    drawn = [{k: v for k, v in setting.values.items() if k != "grpo.prompts_per_step"} for setting in settings]
    assert drawn[:5] == drawn[5:]
    rates = [values["grpo.learning_rate"] for values in drawn]
    assert len(set(rates)) == 5
    assert all(1e-4 <= rate <= 1e-3 for rate in rates)
    assert {values["sft.learning_rate"] for values in drawn} == {0.001, 0.002}
    assert all(isinstance(values["grpo.group_size"], int) and 2 <= values["grpo.group_size"] <= 9 for values in drawn)
    assert settings_of(sweep_file(text)) == settings
    more = settings_of(sweep_file(text.replace("num_samples: 5", "num_samples: 6")))
    assert [setting.values for setting in more[:5]] == [setting.values for setting in settings[:5]]


def test_logarithmic_draws_take_each_power_of_ten_as_often(sweep_file):
    text = "fields: {grpo.learning_rate: {loguniform: [1.0e-5, 1.0e-3]}}\nnum_samples: 400\n"
    rates = [setting.values["grpo.learning_rate"] for setting in settings_of(sweep_file(text))]
    assert sum(rate < 1e-4 for rate in rates) == pytest.approx(200, abs=40)
    assert math.log10(max(rates) / min(rates)) > 1.9


def test_paths_are_relative_to_the_file(sweep_file, tmp_path):
    (tmp_path / "mine").mkdir()
    (setting,) = settings_of(sweep_file("fields: {grpo.schedule: {grid: [mine/slow.yaml]}}"))
    assert setting.document[("grpo", "schedule")].value == str(tmp_path / "mine" / "slow.yaml")
    assert setting.name.startswith("grpo.schedule-slow.yaml-")


@pytest.mark.parametrize(
    ("field", "is_whole"),
    [("grpo.group_size", True), ("grpo.learning_rate", False), ("data.synth.size_px", True), ("grpo.none", False)],
)
def test_fields_that_take_whole_numbers_are_known(field, is_whole):
    assert takes_whole_numbers(field) is is_whole


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("fields: {grpo.kl_beta: {grid: []}}", "`grid` is empty"),
        ("fields: {grpo.kl_beta: {}}", "got none"),
        ("fields: {grpo.kl_beta: {grid: [0.1], choice: [0.2]}}", "give one of grid, choice"),
        ("fields: {grpo.kl_beta: {grid: [0.1, 0.1]}}", "a value twice"),
        ("fields: {grpo.kl_beta: {uniform: [0.2, 0.1]}}", "low < high"),
        ("fields: {grpo.kl_beta: {loguniform: [0, 0.1]}}", "bounds above 0"),
        ("fields: {grpo.kl_beta: {normal: [0, 1]}}", "is not a field"),
        ("fields: {seed: {grid: [0, 1]}}", "write the seeds under `seeds`"),
        ("fields: {data.test: {grid: [a.parquet]}}", "the test split stays unasked"),
        ("fields: {data.synth.num_train: {grid: [64]}}", "made once"),
        ("fields: {data: {grid: [{validation: a.parquet}]}}", "compared on one validation split"),
        ("fields: {evaluate.max_new_tokens: {grid: [32, 64]}}", "settings are measured alike"),
        ("fields: {evaluate: {grid: [{num_samples: 8}]}}", "settings are measured alike"),
        ("fields: {grpo.kl_beta: {grid: [0.1]}}\nnum_samples: 3", "no field is drawn"),
        ("", "a sweep of one trial"),
        ("fields: {}\nseeds: [3]", "a sweep of one trial"),
        ("seeds: [1, 1]", "one twice"),
        ("seeds: []", "at least 1 item"),
        ("metric: iuo", "`metric` 'iuo' is none"),
        ("metric: test.iou", "those of the validation split"),
        ("metric: boxes_per_image", "`mode` is missing"),
        ("split: test", "flattered by the images"),
        ("scheduler: pbt", "no run would have one configuration"),
        ("seed: [0]", "did you mean `seeds`"),
        ("phase: sft\nfields: {grpo.lr: {grid: [1.0e-4]}}", "which grpo.lr changes nothing of"),
    ],
)
def test_what_is_no_sweep_is_refused_with_its_place(sweep_file, tmp_path, text, said):
    with pytest.raises(ConfigError) as caught:
        sweep_file(text)
    assert said in str(caught.value)
    assert str(tmp_path / "mine.yaml") in str(caught.value)
    assert caught.value.remedy
    assert "parent" not in caught.value.remedy + str(caught.value)
    assert caught.value.exit_code == 2


def test_a_sweep_that_is_not_there_is_no_configuration(tmp_path):
    with pytest.raises(ConfigError, match="cannot be read: No such file") as caught:
        load_sweep(tmp_path / "tiny")
    assert caught.value.remedy == "give a YAML file"


def test_the_best_of_a_metric_of_faults_has_the_fewest(sweep_file):
    def result(name, value):
        return SettingResult(name, name, {}, (TrialResult(name, 0, "", {"hallucination": {"value": value}}),))

    both = [result("sees ghosts", 0.9), result("careful", 0.02)]
    for text, best in (("", "careful"), ("\nmode: max", "sees ghosts")):
        sweep = sweep_file(f"seeds: [0, 1]\nmetric: hallucination{text}").sweep
        assert ranked(both, sweep.metric, sweep.mode)[0].setting == best
    assert sweep_file("seeds: [0, 1]\nmetric: iou").sweep.mode == "max"
    assert sweep_file("seeds: [0, 1]\nmetric: boxes_per_image\nmode: min").sweep.mode == "min"


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("fields: {grpo.group_siz: {grid: [4]}}", "did you mean `grpo.group_size`"),
        ("fields: {grpo.group_size: {grid: [4, 1]}}", "mine.yaml:1"),
        ("fields: {grpo.warmup_steps: {grid: [0, 5]}}", "below the 2 steps of stage alpha"),
        ("fields: {grpo.schedule: {grid: [paper, nope.yaml]}}", "nope.yaml: there is no such schedule"),
        ("fields: {data.view: {grid: [full, label-only]}}", "answers have no boxes"),
        ("fields: {grpo.group_size: {grid: [4, 4.0]}}", "comes to the same as grpo.group-size-4+seed-0"),
        ("fields: {grpo.schedule: {grid: [paper, fixed-gamma]}}\nphase: gamma", "has none of that name"),
        ("fields: {model.path: {grid: [tiny, empty]}}", "empty: config.json cannot be read"),
    ],
)
def test_every_trial_is_checked_before_the_first_begins(base, sweep_file, text, said, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "empty").mkdir()

    def run(*given, **named):
        raise AssertionError("nothing may begin")

    with pytest.raises(ConfigError) as caught:
        sweep(sweep_file(text), base, run=run)
    assert said in str(caught.value)
    assert "trial " in caught.value.where
    assert caught.value.remedy
    assert not base.out.exists()


def test_a_model_that_is_elsewhere_is_told_once(base, sweep_file):
    events = []
    file = sweep_file("fields: {model.path: {grid: [tiny, nowhere]}}\nseeds: [0, 1]")
    assert len(plan(file, base, events.append)) == 4
    assert [event.text for event in events if isinstance(event, Note)] == ["model.path nowhere is not on this machine"]


def test_values_without_a_name_are_told_which_they_may_stand_under(sweep_file):
    with pytest.raises(ConfigError, match=r'such as \{grid: \[4, "x"\]\} .*mine.yaml:1'):
        sweep_file("fields: {grpo.group_size: [4, x]}")


@pytest.mark.parametrize(
    ("metric", "view", "said"),
    [
        ("tag_f1", "no-tags", "answers have no tags with data.view = no-tags"),
        ("tag_f1", "label-only", "answers have no tags"),
        ("rouge_l", "label-only", "answers have no captions"),
        ("bleu", "no-caption", "answers have no captions"),
        ("bleu", "full", r"fxray\[captions\]"),
    ],
)
def test_a_metric_that_answers_cannot_have_is_refused_and_none_is_advised(
    base, sweep_file, monkeypatch, metric, view, said
):
    monkeypatch.setattr("fxray.sweep.trials.can_score_captions", lambda: view != "full")
    file = sweep_file(f"fields: {{data.view: {{grid: [{view}]}}}}\nmetric: {metric}")
    with pytest.raises(ConfigError, match=said) as caught:
        trials_of(file, base.configure)
    assert metric not in caught.value.remedy
    assert ("iou" in caught.value.remedy) is (view != "label-only")
    assert "accuracy" in caught.value.remedy


def test_trials_with_equal_settings_before_grpo_share_an_sft(base, sweep_file):
    text = "fields: {grpo.kl_beta: {grid: [0.1, 0.2]}, sft.learning_rate: {grid: [0.001, 0.002]}}\nseeds: [0, 1]"
    file = sweep_file(text)
    trials = trials_of(file, base.configure)
    assert len(trials) == 8
    assert [trial.name for trial in shared_sfts(trials, base.out)] == [
        f"grpo.kl-beta-0.1+sft.learning-rate-{rate}+seed-{seed}" for rate in (0.001, 0.002) for seed in (0, 1)
    ]
    assert {row.state for row in plan(file, base)} == {"not begun"}
    assert {row.num_steps for row in plan(file, base)} == {6}


def test_groups_of_equal_sfts_are_found_without_comparing_every_trial_with_every_other(base, sweep_file, monkeypatch):
    file = sweep_file("fields: {sft.learning_rate: {loguniform: [0.001, 0.1]}}\nnum_samples: 30\nseeds: [0, 1]")
    trials = trials_of(file, base.configure)
    assert len(trials) == 60
    compared, equal = [], SftConfig.__eq__

    def counting(one, other):
        compared.append(one)
        return equal(one, other)

    monkeypatch.setattr(SftConfig, "__eq__", counting)
    assert shared_sfts(trials, base.out) == []
    assert len(compared) < 60


def test_trials_read_the_shared_files_and_keep_their_own_settings_of_the_data(tmp_path, sweep_file):
    file = sweep_file("fields: {data.view: {grid: [full, no-tags]}, grpo.kl_beta: {grid: [0.1, 0.2]}}")
    config = load_config("tiny")
    assert config.data.synth is not None
    shared = split_overrides(config, tmp_path)
    trials = trials_of(file, lambda more, above: load_config("tiny", more, above))
    read = reading(trials, load_config("tiny", shared).data)
    assert [t.config.data.view for t in read] == ["full", "full", "no-tags", "no-tags"]
    assert {t.config.data.test for t in read} == {tmp_path.resolve() / "data" / "test.parquet"}
    for trial in read:
        assert trial.config == load_config("tiny", [*shared, f"seed={trial.seed}"], trial.setting.document)


def test_the_example_names_what_is_to_be_answered():
    from fxray.config.load import shipped_folder

    file = load_sweep(shipped_folder() / "sweeps" / "tiny.yaml")
    trials = trials_of(file, lambda more, above: load_config("tiny", more, above))
    assert len(trials) == 9
    assert {trial.config.grpo.prompts_per_step for trial in trials} == {16, 24, 32}


def test_one_kind_of_values_is_needed():
    with pytest.raises(ValueError, match="got none"):
        Values()


@pytest.mark.parametrize("text", ["{", "[]", "\x80"])
def test_decisions_that_are_damaged_are_told_with_what_to_do(tmp_path, text):
    (tmp_path / STOPPED).write_bytes(text.encode("latin-1"))
    with pytest.raises(CheckpointError, match=r"stopped\.json: is damaged") as caught:
        read_stopped(tmp_path, [])
    assert "delete it" in caught.value.remedy
