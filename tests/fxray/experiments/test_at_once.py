"""Trainings at the same time, over processes that train nothing."""

import threading
from functools import partial

import pytest

from fxray.config.load import load_config
from fxray.errors import ConfigError, WorkerDiedError
from fxray.events import ignore
from fxray.experiments.at_once import refuse_no_room, train_at_once
from fxray.experiments.experiment import load_experiment
from fxray.experiments.reproduce import reproduce

WAIT_S = 20.0

MINE = """
title: Trainings
source: Table 4
kind: trainings
rows:
  - {title: Best}
  - {title: alpha, set: [grpo.schedule=fixed-alpha]}
  - {title: fixed, set: [grpo.schedule=fixed-gamma]}
  - {title: label-only, set: [data.view=label-only]}
"""
NAMES = ["base", "grpo.schedule-fixed-alpha", "grpo.schedule-fixed-gamma", "data.view-label-only"]


@pytest.fixture
def mine(tmp_path):
    file = tmp_path / "mine.yaml"
    file.write_text(MINE)
    return {"mine": load_experiment(str(file))}


class Processes:
    """Stands for `fxray trial`: trains by the fake launch, and may wait for another training before or after it."""

    def __init__(self, launch, wait_before=(), wait_after=(), fails=""):
        self.launch, self.fails = launch, fails
        self.wait_before, self.wait_after = dict(wait_before), dict(wait_after)
        self.begun = {name: threading.Event() for name in NAMES}
        self.stopped = []

    def __call__(self, arguments, run_dir, log, around, stop):
        command, file, folder = arguments
        assert (command, folder) == ("trial", str(run_dir.resolve()))
        assert log.name == f"{run_dir.name}.log"
        self.begun[run_dir.name].set()
        self._wait(self.wait_before.get(run_dir.name), run_dir, stop)
        if run_dir.name == self.fails:
            raise WorkerDiedError("the engine is gone (exit code 1)", where=str(log), remedy="")
        self.launch.train(load_config(file), run_dir, ignore)
        self._wait(self.wait_after.get(run_dir.name), run_dir, stop)

    def _wait(self, other, run_dir, stop):
        if other == "stop":
            assert stop.wait(WAIT_S)
            self.stopped.append(run_dir.name)
        elif other:
            assert self.begun[other].wait(WAIT_S), f"{run_dir.name} runs, and {other} does not at the same time"


def port_of(launch, processes):
    return type(launch.port)(launch.train, launch.answer, launch.robustness, launch.baselines, processes)


def test_they_run_beside_each_other_and_the_table_is_that_of_one_after_the_other(mine, setting, fake_launch, tmp_path):
    alone = reproduce(mine, setting, launch=fake_launch().port)["mine"]
    before = (alone.folder / "mine.csv").read_text()
    launch = fake_launch()
    crossed = {"base": "data.view-label-only", "data.view-label-only": "base"}
    processes = Processes(launch, wait_before=crossed)
    elsewhere = type(setting)(setting.configure, tmp_path / "elsewhere", {})
    result = reproduce(mine, elsewhere, launch=port_of(launch, processes), max_concurrent=2)["mine"]
    assert sorted(launch.trained) == sorted(NAMES)
    assert sorted(launch.began_with_sft) == sorted(NAMES[1:3])
    assert (result.folder / "mine.csv").read_text() == before
    again = fake_launch()
    reproduce(mine, elsewhere, launch=port_of(again, Processes(again)), max_concurrent=2)
    assert again.trained == []


def test_the_sft_of_one_is_waited_for_and_not_its_end(mine, setting, fake_launch):
    launch = fake_launch()
    processes = Processes(launch, wait_after={"base": "grpo.schedule-fixed-gamma"})
    reproduce(mine, setting, launch=port_of(launch, processes), max_concurrent=4)
    assert sorted(launch.began_with_sft) == sorted(NAMES[1:3])


def test_one_that_fails_is_told_in_its_row_and_the_others_go_on_without_its_sft(mine, setting, fake_launch):
    launch = fake_launch()
    processes = Processes(launch, fails="base")
    result = reproduce(mine, setting, launch=port_of(launch, processes), max_concurrent=4)["mine"]
    assert list(result.failures) == ["base"]
    assert "the engine is gone" in result.failures["base"]
    assert "base.log" in result.failures["base"]
    assert sorted(launch.trained) == sorted(NAMES[1:])
    assert "the engine is gone" in (result.folder / "mine.md").read_text()


def test_an_end_of_the_call_ends_those_that_run_and_begins_no_other(setting, fake_launch):
    launch = fake_launch()
    processes = Processes(launch, wait_before={"data.view-label-only": "stop"})
    configs = {
        "base": setting.configure(()),
        "data.view-label-only": setting.configure(["data.view=label-only"]),
        "grpo.schedule-fixed-gamma": setting.configure(["data.view=no-caption"]),
    }

    def interrupted(name, error):
        raise KeyboardInterrupt

    processes.wait_after["grpo.schedule-fixed-gamma"] = "stop"
    with pytest.raises(KeyboardInterrupt):
        train_at_once(configs, setting.out, 2, interrupted, processes)
    assert "data.view-label-only" in processes.stopped


def test_so_many_with_a_ray_of_their_own_share_no_gpus_and_no_port(setting, monkeypatch):
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    refuse = partial(refuse_no_room, max_concurrent=4)
    for override, what in (
        ("rollout.gpus_per_worker=1", "on the same GPUs"),
        ("ray.metrics_port=9100", "metrics_port 9100"),
    ):
        config = setting.configure([override])
        refuse({"a": config}, config.ray)
        with pytest.raises(ConfigError, match=f"2 trainings at once .*{what}"):
            refuse({"a": config, "b": config}, config.ray)
