"""Sweeps from file to table, over a training that trains nothing and units that run one after the other."""

import csv
import json
import threading
import time
from contextlib import ExitStack
from dataclasses import replace
from functools import partial

import pytest

from fxray.config.load import load_config
from fxray.data.dataset import Dataset, Row, write_dataset
from fxray.errors import ConfigError
from fxray.events import Note, PhaseStarted, Step
from fxray.launch.lease import hold
from fxray.sweep.sweep import plan, sweep

GRID = """
title: Images per step
fields:
  grpo.prompts_per_step: {grid: [8, 16]}
seeds: [0, 1]
metric: accuracy
"""


def in_this_process(rounds, advance, measure, stops=(), **_):
    """Runs units as Ray Tune does, without Ray; `stops`: the unit and phase after which one is stopped."""
    for each in rounds:
        for unit in each.units:
            try:
                for phase in unit.phases:
                    for trial in unit.trials:
                        advance(trial, phase)
                    each.listener.told(unit, phase, measure(unit, phase))
                    if each.halving and (unit.name, phase) in stops:
                        each.listener.done(unit, True)
                        break
                else:
                    each.listener.done(unit, False)
            except RuntimeError as error:
                each.listener.failed(unit, str(error))


def test_settings_are_trained_with_every_seed_and_only_what_failed_is_tried_again(base, sweep_file, fake_train):
    wrong = {"step-8+seed-0": (6, 4, 4, 4), "step-8+seed-1": (6, 4, 4, 3), "step-16": (6, 4, 4, 1)}
    train, calls = fake_train(wrong, fails=["grpo.prompts-per-step-16+seed-1"])
    events = []
    result = sweep(sweep_file(GRID), base, on_event=events.append, train=train, run=in_this_process)
    said = calls()
    assert said[:2] == ["grpo.prompts-per-step-8+seed-0 sft", "grpo.prompts-per-step-8+seed-1 sft"]
    assert said[2:] == [f"grpo.prompts-per-step-{n}+seed-{seed} gamma with SFT" for n in (8, 16) for seed in (0, 1)]
    assert result.undone == {"grpo.prompts-per-step-16+seed-1": "failed: RuntimeError: the engine is gone"}
    assert result.best == "grpo.prompts-per-step-8"  # the other lacks a seed
    assert [e for e in events if isinstance(e, Step)][-1].step == 4
    assert any("accuracy 0.500 after gamma" in e.text for e in events if isinstance(e, Note))

    train, calls_again = fake_train(wrong)
    result = sweep(sweep_file(GRID), base, train=train, run=in_this_process)
    assert calls_again()[len(said) :] == ["grpo.prompts-per-step-16+seed-1 gamma with SFT"]
    assert (result.best, result.undone) == ("grpo.prompts-per-step-16", {})
    content = json.loads((base.out / "sweep.json").read_text())
    eight, sixteen = content["settings"]
    assert eight["metrics"]["accuracy"] == {"value": (4 / 8 + 5 / 8) / 2, "sd": pytest.approx(0.0884, abs=1e-4)}
    assert sixteen["gains"]["accuracy"]["value"] == 5 / 8
    assert sixteen["seconds"] == 40
    assert content["lead"]["value"] == pytest.approx(5 / 16)
    assert content["lead"]["low"] < 0  # two seeds tell little
    for ending in ("md", "tex", "csv", "html"):
        text = (base.out / f"sweep.{ending}").read_text()
        for fact in ("0.562 ± 0.088", "0.875 ± 0.000", "includes 0", "validation_sha256", "commit ", "seed 1"):
            assert fact in text.replace(r"$\pm$", "±").replace(r"\_", "_"), (ending, fact)
        assert "SYNTHETIC" not in text
    rows = list(csv.reader(line for line in (base.out / "sweep.csv").open() if not line.startswith("#")))
    assert [row[0] for row in rows[1:4]] == [
        "grpo.prompts-per-step-8",
        *(f"grpo.prompts-per-step-8+seed-{s}" for s in (0, 1)),
    ]
    assert "<svg" in (base.out / "sweep.html").read_text()
    best = load_config(base.out / "best.yaml")
    assert best == base.configure(["grpo.prompts_per_step=16"], {})
    assert "--set grpo.prompts_per_step=16" in (base.out / "best.yaml").read_text()
    assert not list(base.out.glob("trials/*/evaluation/*/predictions.parquet"))  # the test split was not asked


@pytest.mark.parametrize(
    ("num_sources", "said"), [(8, []), (2, ["Validation split: 8 images of 2 sources; intervals"])]
)
def test_a_table_says_that_validation_images_share_sources(
    base, splits, sweep_file, fake_train, tmp_path, num_sources, said
):
    dataset, path = Dataset.open(splits["validation"]), tmp_path / "validation.parquet"
    rows = [Row(replace(sample, source=f"p{i % num_sources}"), b"-") for i, sample in enumerate(dataset.samples)]
    write_dataset(path, rows)
    own = replace(base, configure=lambda more, above: base.configure([f"data.validation={path}", *more], above))
    train, _ = fake_train({"": (6, 4, 4, 4)})
    table = sweep(sweep_file(GRID), own, train=train, run=in_this_process).table
    assert [note.partition(" are about")[0] for note in table.notes if " images of " in note] == said


def test_every_trial_is_checked_once_and_progress_is_told_from_the_first_on(base, sweep_file, fake_train, monkeypatch):
    train, _ = fake_train({"": (6, 4, 4, 1)})
    checked, events = [], []
    monkeypatch.setattr("fxray.sweep.trials.check", lambda config: checked.append(config) or [])
    sweep(sweep_file(GRID), base, on_event=events.append, train=train, run=in_this_process)
    assert len(checked) == 4
    assert events[0] == PhaseStarted("check", 4)
    for phase in ("check", "write configurations"):
        assert [e.step for e in events if isinstance(e, Step) and e.phase == phase] == [1, 2, 3, 4]

    events.clear()
    plan(sweep_file(GRID), base, events.append)
    assert events == [PhaseStarted("check", 4), *(Step("check", number, 4) for number in (1, 2, 3, 4))]


def test_a_setting_goes_from_phase_to_phase_with_all_its_seeds_and_stays_stopped(base, sweep_file, fake_train):
    file = sweep_file(
        "fields: {grpo.temperature: {grid: [0.9, 0.5, 0.8]}}\nseeds: [0, 1]\nmetric: accuracy\nscheduler: asha\n"
    )
    wrong = {"0.9": (4, 2, 2, 2), "0.5+seed-0": (4, 0, 0, 0), "0.5+seed-1": (4, 6, 6, 6), "0.8": (4, 1, 1, 1)}
    train, calls = fake_train(wrong, fails=["grpo.temperature-0.8+seed-1"])
    told, stops = [], {("grpo.temperature-0.5", "alpha")}
    run = partial(in_this_process, stops=stops)
    result = sweep(file, base, train=train, run=run, on_event=told.append)
    said = [line.removesuffix(" with SFT") for line in calls() if "0.5" in line]
    assert said == [f"grpo.temperature-0.5+seed-{seed} {phase}" for phase in ("sft", "alpha") for seed in (0, 1)]
    mean = (8 / 8 + 2 / 8) / 2
    assert any(f"temperature-0.5: accuracy {mean:.3f} after alpha" in e.text for e in told if isinstance(e, Note))
    states = {row.name: row.cells[0] for row in result.table.rows}
    assert states["grpo.temperature-0.5+seed-0"] == states["grpo.temperature-0.5+seed-1"] == "stopped after alpha"
    assert states["grpo.temperature-0.9"] == "2 of 2 seeds, best"
    assert "the engine is gone" in states["grpo.temperature-0.8+seed-1"]
    assert set(result.undone) == {"grpo.temperature-0.8+seed-0", "grpo.temperature-0.8+seed-1"}
    assert json.loads((base.out / "stopped.json").read_text()) == {"grpo.temperature-0.5": "alpha"}

    num_calls = len(calls())
    train, calls = fake_train(wrong)
    again = sweep(file, base, train=train, run=in_this_process)
    assert {line.split()[0] for line in calls()[num_calls:]} == {f"grpo.temperature-0.8+seed-{seed}" for seed in (0, 1)}
    assert again.undone == {}
    assert again.best == "grpo.temperature-0.8"
    assert {row.name: row.cells[0] for row in again.table.rows}["grpo.temperature-0.5+seed-1"] == "stopped after alpha"


def test_a_seed_that_the_metric_says_nothing_of_keeps_its_setting_from_being_best(
    base, sweep_file, fake_train, monkeypatch
):
    from fxray.sweep import measure

    train, _ = fake_train({"step-8": (6, 4, 4, 4), "step-16+seed-0": (6, 4, 4, 0), "step-16+seed-1": (6, 4, 4, 1)})
    score = measure.score_samples

    def score_with_a_hole(said, samples, **settings):
        scores = score(said, samples, **settings)
        if scores.values["accuracy"].sum() == len(samples) - 1:
            scores.values["accuracy"][:] = float("nan")
        return scores

    monkeypatch.setattr(measure, "score_samples", score_with_a_hole)
    monkeypatch.setattr("fxray.sweep.sweep.metric_after", lambda *asked: 0.0)
    result = sweep(sweep_file(GRID), base, train=train, run=in_this_process)
    states = {row.name: row.cells[0] for row in result.table.rows}
    assert states["grpo.prompts-per-step-16"] == "2 of 2 seeds, 1 without accuracy"
    assert result.best == "grpo.prompts-per-step-8"
    assert json.loads((base.out / "sweep.json").read_text())["lead"] is None


@pytest.mark.parametrize("mode", ["max", "min"])
def test_settings_that_tie_are_told_as_such_and_none_is_the_best(base, sweep_file, fake_train, mode):
    train, _ = fake_train({"0.8": (6, 4, 4, 8 if mode == "max" else 0), "seed-0": (6, 4, 4, 1), "seed-1": (6, 4, 4, 3)})
    text = "fields: {grpo.temperature: {grid: [0.8, 0.9, 0.5]}}\nseeds: [0, 1]\nmetric: accuracy\nmode: MODE\n"
    result = sweep(sweep_file(text.replace("MODE", mode)), base, train=train, run=in_this_process)
    said = "2 settings tie in accuracy, and none is better: grpo.temperature=0.9; grpo.temperature=0.5. best.yaml is of"
    for ending in ("md", "csv", "html"):
        content = (base.out / f"sweep.{ending}").read_text()
        assert said in content, ending
        assert "Best in accuracy" not in content
    assert {row.name: row.cells[0] for row in result.table.rows if "+" not in row.name} == {
        "grpo.temperature-0.8": "2 of 2 seeds",
        "grpo.temperature-0.9": "2 of 2 seeds, tied as best",
        "grpo.temperature-0.5": "2 of 2 seeds, tied as best",
    }
    content = json.loads((base.out / "sweep.json").read_text())
    assert (content["best"], content["tied"], content["lead"]) == (result.best, ["grpo.temperature-0.5"], None)
    assert result.best == "grpo.temperature-0.9"
    best = (base.out / "best.yaml").read_text()
    assert best.startswith("# First of 2 settings that tie as the best of ")
    assert load_config(base.out / "best.yaml").grpo.temperature == 0.9


def test_what_an_earlier_sweep_found_best_does_not_outlive_it(base, sweep_file, fake_train):
    train, _ = fake_train({"": (6, 4, 4, 1)})
    found = [base.out / name for name in ("best.yaml", "fields.png", "fields.svg")]
    sweep(sweep_file(GRID.replace("[0, 1]", "[0]")), base, train=train, run=in_this_process)
    assert all(file.exists() for file in found)
    train, _ = fake_train({"": (6, 4, 4, 1)}, fails=[f"grpo.prompts-per-step-{n}+seed-1" for n in (8, 16)])
    seen = []

    def run(*given, **named):
        seen.extend(file.exists() for file in found)
        in_this_process(*given, **named)

    result = sweep(sweep_file(GRID), base, train=train, run=run)
    assert result.best == ""
    assert seen == [False, False, False]
    assert not (base.out / "best.yaml").exists()


def test_trials_that_were_trained_with_other_rewards_are_not_told_as_these(
    base, sweep_file, fake_train, tmp_path, monkeypatch
):
    (tmp_path / "brief_rewards.py").write_text("def brevity(answer_text, annotation, frame): return -len(answer_text)")
    monkeypatch.syspath_prepend(tmp_path)
    train, calls = fake_train({"": (6, 4, 4, 4)})
    sweep(sweep_file(GRID), base, train=train, run=in_this_process)
    num_calls = len(calls())
    rewards = "reward.functions=[{path: 'brief_rewards:brevity'}]"
    other = replace(base, configure=lambda more, above: base.configure([rewards, *more], above))
    with pytest.raises(ConfigError, match=r"other values of reward\.functions"):
        sweep(sweep_file(GRID), other, train=train, run=in_this_process)
    with pytest.raises(ConfigError, match=r"other values of reward\.functions"):
        plan(sweep_file(GRID), other)
    assert len(calls()) == num_calls


def test_many_trials_do_not_share_gpus_without_knowing(base, sweep_file):
    setting = replace(base, configure=lambda more, above: base.configure(["rollout.gpus_per_worker=1", *more], above))
    with pytest.raises(ConfigError, match="same GPUs"):
        sweep(sweep_file(GRID), setting, max_concurrent=2)


def test_a_sweep_that_is_ended_waits_until_its_trials_have_left(base, sweep_file, fake_train):
    train, _ = fake_train({"": (6, 4, 4, 4)})
    root = base.out / "trials" / "grpo.prompts-per-step-8+seed-0"
    is_left = threading.Event()

    def leave(lease):
        time.sleep(0.5)
        is_left.set()
        lease.close()

    def run(*_, **__):
        root.mkdir(parents=True)
        held = ExitStack()
        held.enter_context(hold(root))
        threading.Thread(target=leave, args=(held,)).start()
        raise SystemExit(143)

    with pytest.raises(SystemExit):
        sweep(sweep_file(GRID), base, train=train, run=run)
    assert is_left.is_set()
    with hold(root):
        pass
