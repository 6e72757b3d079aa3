"""Stages over in-process ports: whatever is lost on the way, they end where a quiet run ends."""

import errno
import json
import os
import runpy
import shutil
import threading
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import numpy as np
import pytest
from safetensors.numpy import load, save

from actors.failures import FailureBudget
from fxray.config.load import load_config
from fxray.config.schedule import load_stages
from fxray.data.frame import Frame
from fxray.errors import CheckpointError, LearnerLostError, ResourceError, WorkerDiedError
from fxray.events import Event, Note
from fxray.files import write_atomically
from fxray.grpo.collapse import CollapseWatch
from fxray.grpo.loop import Ports
from fxray.grpo.types import AdapterBlob, ImageRef, PromptGroup, TrainingGroup, UpdateSettings
from fxray.launch.fleet import Fleet
from fxray.launch.run import RunDirectory
from fxray.launch.session import Session
from fxray.launch.stages import train_stage
from fxray.schema import Annotation, Verdict

Bandit: Any = runpy.run_path(str(Path(__file__).parents[1] / "grpo" / "bandit.py"))["Bandit"]
WEIGHT = "base.lora_A.weight"
FIRST = 2.0
"""What SFT leaves."""


VALIDATION = Path("validation.parquet")


class Learner(Bandit):
    """A policy of one number with momentum: an optimizer's state that must not get lost; and a reference."""

    def __init__(self, mishap: Callable[[str], None]) -> None:
        super().__init__()
        self.policy, self._momentum, self._mishap = FIRST, 0.0, mishap
        self.reference = FIRST

    def update(self, groups: Sequence[TrainingGroup], settings: UpdateSettings) -> dict[str, float]:
        self._mishap("update")
        before = self.policy
        super().update(groups, settings)
        self._momentum = 0.9 * self._momentum + self.policy - before
        self.policy = before + self._momentum
        return {"loss": self.policy}

    def export_policy(self, version: int) -> AdapterBlob:
        adapter = super().export_policy(version)
        return AdapterBlob(version, save({WEIGHT: np.array([self.policy])}), {"r": 1}, adapter.sha256, 1)

    def reset_optimizer(self) -> None:
        self._momentum = 0.0

    def interpolate(self, liti_eta: float) -> None:
        self.policy = self.reference + liti_eta * (self.policy - self.reference)

    def save(self, path: Path) -> None:
        self._mishap("save")
        write_atomically(path / "learner", json.dumps([self.policy, self._momentum, self.reference]))

    def load(self, path: Path) -> None:
        self.policy, self._momentum, self.reference = json.loads((path / "learner").read_text())

    def set_reference(self, folder: Path | None = None) -> None:
        self.reference = self.policy if folder is None else json.loads((folder / "learner").read_text())[0]


class Engine(Bandit):
    def publish(self, adapter: AdapterBlob) -> list[Any]:
        self.published = (adapter.version, float(load(adapter.safetensors)[WEIGHT][0]))
        return []


class FakeFleet:
    """What `Fleet` is to a stage, with learners that meet mishaps."""

    def __init__(self, mishap: Callable[[str], None]) -> None:
        self._mishap = mishap
        self._failures = FailureBudget("learners", max_restarts=2, window_s=3600, remedy="see the logs")
        self._learner: Learner | None = None
        self.engine = Engine()
        self.training_prompts = self
        self.batch_size = 2
        self.validated = list[list[int]]()

    def __len__(self) -> int:
        """Samples of the training split."""
        return 64

    @property
    def learner(self) -> Learner:
        self._learner = self._learner or Learner(self._mishap)
        return self._learner

    @property
    def ports(self) -> Ports:
        return Ports(self.engine, self.engine, self.learner, self.engine)

    def drop_learner(self, error: LearnerLostError) -> None:
        self._learner = None
        self._failures.record(0.0, str(error))

    def observe(self, metrics: dict[str, float]) -> None:
        assert metrics["seconds"] >= 0

    def counters(self) -> dict[str, float]:
        return {}

    def of_step(self, stage: str, step: int) -> list[PromptGroup]:
        frame, seed = Frame(112, 112, 112, 112), 100 * step + 10_000 * (stage == "beta")
        truth, image = Annotation(Verdict.REAL), ImageRef(b"", 0)
        return [PromptGroup(f"{stage}/{step}/{i}", f"s{i}", image, "?", truth, frame, seed + i) for i in range(2)]

    def prompts_of(self, path: Path) -> "FakeFleet":
        assert path == VALIDATION
        return self

    def of_rows(self, rows: Sequence[int]) -> list[PromptGroup]:
        self.validated.append(list(rows))
        return [self.of_step("beta", row)[0] for row in rows]


def quiet(_: str) -> None:
    """Nothing happens."""


def at(what: str, *counts: int, error: Callable[[], Exception]) -> Callable[[str], None]:
    """A mishap at those calls of a method, counted from 1 over all learners."""
    calls = {"update": 0, "save": 0}

    def mishap(method: str) -> None:
        calls[method] += 1
        if method == what and calls[method] in counts:
            raise error()

    return mishap


def lost() -> Exception:
    return LearnerLostError("a learner rank died", where="waiting for the learner's update")


def full() -> Exception:
    return OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


class Run:
    """A run of stages of six steps with a checkpoint every second step."""

    def __init__(
        self,
        root: Path,
        max_staleness: int = 0,
        references: Sequence[str | None] = (None, None),
        liti_eta: float = 1.0,
        settings: Sequence[str] = (),
    ) -> None:
        settings = [*settings, "grpo.steps_per_stage=6", "checkpoint.every_steps=2", "rollout.probe_every_steps=0"]
        settings += ["grpo.learning_rate=0.1", "grpo.warmup_steps=0", f"grpo.max_staleness={max_staleness}"]
        settings.append(f"grpo.liti_eta={liti_eta}")
        self.run = RunDirectory(root / "run")
        self.events: list[Event] = []
        model = root / "model"
        model.mkdir(exist_ok=True)
        (model / "config.json").write_text("{}")
        config = load_config("tiny", settings)
        known = load_stages(config.grpo.schedule)
        stages = [stage.model_copy(update={"reference": held}) for stage, held in zip(known, references, strict=False)]
        write_atomically(self.run.sft_adapter / "learner", json.dumps([FIRST]))
        splits = cast("Any", SimpleNamespace(validation=VALIDATION))
        self.session = Session(config, self.run, stages, splits, model, self.events.append)

    def train(self, mishap: Callable[[str], None] = quiet) -> FakeFleet:
        fleet = FakeFleet(mishap)
        for stage in self.session.stages:
            train_stage(self.session, cast("Fleet", fleet), stage)
        return fleet

    @property
    def end(self) -> list[float]:
        """Policy and optimizer at the end."""
        return json.loads((self.run.stage_dir("beta") / "final" / "learner").read_text())

    @property
    def log(self) -> list[tuple[str, int, float, float]]:
        lines = map(json.loads, (self.run.root / "metrics.jsonl").read_text().splitlines())
        return [(each["phase"], each["step"], each["metrics"]["loss"], each["metrics"]["reward"]) for each in lines]

    @property
    def warnings(self) -> list[str]:
        return [event.text for event in self.events if isinstance(event, Note) and event.is_warning]


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> dict[int, Run]:
    """The quiet run, on-policy and with answers that are two versions old."""
    runs = {k: Run(tmp_path_factory.mktemp(f"quiet-{k}"), k) for k in (0, 2)}
    for run in runs.values():
        run.train()
    return runs


@pytest.mark.parametrize("max_staleness", [0, 2])
@pytest.mark.parametrize("mishap", ["update 1", "update 4", "update 8", "update 12", "save 2", "save 4", "save 6"])
def test_a_lost_learner_goes_on_from_its_last_checkpoint_to_the_same_end(
    undisturbed: dict[int, Run], tmp_path: Path, mishap: str, max_staleness: int
) -> None:
    what, count = mishap.split()
    run = Run(tmp_path, max_staleness)
    fleet = run.train(at(what, int(count), error=lost))
    assert run.end == undisturbed[max_staleness].end
    assert run.log == undisturbed[max_staleness].log
    assert len(run.warnings) == fleet._failures.num_failures == 1
    assert run.warnings[0].startswith("the learner is started again: waiting for the learner's update")


@pytest.mark.parametrize(("lora", "left"), [("null", []), ("{rank: 8}", ["step-000004"])])
def test_checkpoints_of_whole_weights_that_a_killed_driver_left_behind_a_stage_are_deleted(
    tmp_path: Path, lora: str, left: list[str]
) -> None:
    run = Run(tmp_path)
    run.train()
    stage_dir, settings = run.run.stage_dir("alpha"), [f"model.lora={lora}"]
    for folder in stage_dir.glob("step-*"):
        shutil.rmtree(folder)
    shutil.copytree(stage_dir / "final", stage_dir / "step-000004")
    run.session = replace(run.session, config=load_config("tiny", settings))
    run.train()
    assert sorted(folder.name for folder in stage_dir.iterdir()) == ["final", *left]


def test_a_policy_that_gives_up_is_told_with_stage_and_step(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def look(_: CollapseWatch, metrics: dict[str, float]) -> list[str]:
        return ["gives up"] if metrics["policy_version"] == 9 else []

    monkeypatch.setattr(CollapseWatch, "look", look)
    run = Run(tmp_path)
    run.train()
    assert run.warnings == ["beta, step 3: gives up"]


def test_stages_that_are_done_or_fail_leave_no_one_writing_their_metrics(tmp_path: Path) -> None:
    before = set(threading.enumerate())
    run = Run(tmp_path)
    with pytest.raises(ResourceError):
        run.train(at("save", 5, error=full))
    assert set(threading.enumerate()) <= before
    run.train()
    assert set(threading.enumerate()) <= before


def test_learners_that_keep_dying_stop_the_run_which_can_be_continued(
    undisturbed: dict[int, Run], tmp_path: Path
) -> None:
    run = Run(tmp_path)
    with pytest.raises(WorkerDiedError, match=r"learners failed 3 times within 60 min, 2 restarts are allowed"):
        run.train(at("update", 8, 9, 10, error=lost))
    run.train()
    assert run.end == undisturbed[0].end
    assert run.log == undisturbed[0].log


def test_a_full_disk_stops_the_run_and_room_lets_it_go_on(undisturbed: dict[int, Run], tmp_path: Path) -> None:
    run = Run(tmp_path)
    with pytest.raises(ResourceError, match=r"step-000004: cannot be written: No space left on device .*\n.*free some"):
        run.train(at("save", 5, error=full))
    assert [path.name for path in run.run.stage_dir("beta").iterdir()] == ["step-000002"]
    run.train()
    assert run.end == undisturbed[0].end
    assert run.log == undisturbed[0].log


@pytest.mark.parametrize("damaged", ["alpha/final", "beta/step-000004"])
def test_a_damaged_checkpoint_costs_steps_but_changes_nothing(
    undisturbed: dict[int, Run], tmp_path: Path, damaged: str
) -> None:
    run = Run(tmp_path)
    with pytest.raises(WorkerDiedError):
        run.train(at("update", 11, 12, 13, error=lost))
    folder = run.run.root / "grpo" / damaged
    answers = [run.run.predictions("alpha", "test"), run.run.predictions("alpha", "validation")]
    for file in answers:
        write_atomically(file, "of the policy that is damaged now")
    (folder / "learner").write_text("[1.0, 1.0, 1.0]")
    run.events.clear()
    run.train()
    assert run.end == undisturbed[0].end
    assert sorted(run.log) == sorted(undisturbed[0].log)
    assert len(run.warnings) == 1
    assert "learner is not what was written" in run.warnings[0]
    assert (folder.parent / f"damaged-{folder.name}").is_dir()
    assert [file.exists() for file in answers] == [damaged != "alpha/final"] * 2


def test_where_every_checkpoint_is_damaged_the_run_says_so_once(undisturbed: dict[int, Run], tmp_path: Path) -> None:
    run = Run(tmp_path)
    with pytest.raises(WorkerDiedError):
        run.train(at("update", 11, 12, 13, error=lost))
    for folder in run.run.stage_dir("beta").iterdir():
        (folder / "state.json").unlink()
    with pytest.raises(CheckpointError, match="no checkpoint is whole, 2 are damaged"):
        run.train()
    run.train()
    assert run.end == undisturbed[0].end


@pytest.mark.parametrize("mishap", ["update 1", "update 9", "update 15", "save 5", "save 8"])
def test_each_stage_holds_on_to_the_reference_that_it_names_also_after_a_loss(tmp_path: Path, mishap: str) -> None:
    what, count = mishap.split()
    run = Run(tmp_path, references=("sft", "previous-stage", "sft"))
    run.train(at(what, int(count), error=lost))
    ends = {}
    for stage in run.session.stages:
        policy, _, reference = json.loads((run.run.stage_dir(stage.name) / "final" / "learner").read_text())
        ends[stage.name] = (policy, reference)
    assert ends["alpha"][0] not in (FIRST, ends["beta"][0])
    assert [reference for _, reference in ends.values()] == [FIRST, ends["alpha"][0], FIRST]


@pytest.mark.parametrize("mishap", ["update 1", "update 9", "save 3", "save 4"])
def test_a_stage_ends_part_of_the_way_from_its_reference_and_the_next_starts_there_also_after_a_loss(
    undisturbed: dict[int, Run], tmp_path: Path, mishap: str
) -> None:
    what, count = mishap.split()
    (tmp_path / "quiet").mkdir()
    quiet_run, run = Run(tmp_path / "quiet", liti_eta=0.25), Run(tmp_path, liti_eta=0.25)
    quiet_run.train()
    run.train(at(what, int(count), error=lost))
    assert run.end == quiet_run.end != undisturbed[0].end
    assert run.log == quiet_run.log
    whole, _, _ = json.loads((undisturbed[0].run.stage_dir("alpha") / "final" / "learner").read_text())
    ends = []
    for name in ("alpha", "beta"):
        folder = run.run.stage_dir(name) / "final"
        policy, _, reference = json.loads((folder / "learner").read_text())
        ends.append((policy, reference, json.loads((folder / "state.json").read_text())["policy_version"]))
    after_alpha = FIRST + 0.25 * (whole - FIRST)
    assert ends[0] == (pytest.approx(after_alpha), FIRST, 7)  # six updates and the way back are seven policies
    assert ends[1][1:] == (pytest.approx(after_alpha), 14)


def test_stages_answer_the_same_images_of_the_validation_split_on_their_way(
    undisturbed: dict[int, Run], tmp_path: Path
) -> None:
    run = Run(tmp_path, settings=["evaluate.validate_every_steps=3", "evaluate.validation_samples=5"])
    fleet = run.train()
    assert run.end == undisturbed[0].end
    once = fleet.validated[:3]
    assert [len(rows) for rows in once] == [2, 2, 1]
    assert fleet.validated == once * 4
    lines = map(json.loads, (run.run.root / "metrics.jsonl").read_text().splitlines())
    steps = [(each["phase"], each["step"]) for each in lines if "validation/reward" in each["metrics"]]
    assert steps == [("alpha", 3), ("alpha", 6), ("beta", 3), ("beta", 6)]
