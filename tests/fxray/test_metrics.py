"""The log of a run survives kills and resumes without a step lost or doubled."""

import json
import math
from pathlib import Path

import pytest

from fxray.errors import DataError
from fxray.metrics import MetricsLog, StepMetrics, read_last_metrics, read_metrics, wait_fracs


def steps_of(run_dir: Path) -> list[tuple[str, int]]:
    return [(s.phase, s.step) for s in read_metrics(run_dir)]


def filled(run_dir: Path) -> MetricsLog:
    log = MetricsLog(run_dir)
    for phase, num_steps in (("sft", 3), ("alpha", 4), ("beta", 2)):
        for step in range(1, num_steps + 1):
            log.log(phase, step, {"loss": step / 2})
    return log


def test_reads_what_was_logged(tmp_path: Path) -> None:
    log = MetricsLog(tmp_path)
    log.log("sft", 1, {"loss": 2.5, "learning_rate": 1e-4})
    log.log("alpha", 1, {"reward": -1.0, "kl": math.inf})
    log.close()
    first, second = read_metrics(tmp_path)
    assert first == StepMetrics("sft", 1, first.time, {"loss": 2.5, "learning_rate": 1e-4})
    assert first.time <= second.time
    assert second.metrics["reward"] == -1.0
    assert math.isnan(second.metrics["kl"])


def test_every_line_is_standard_json(tmp_path: Path) -> None:
    MetricsLog(tmp_path).log("alpha", 1, {"kl": math.nan, "loss": 1.0})
    line = (tmp_path / "metrics.jsonl").read_text()
    assert json.loads(line, parse_constant=pytest.fail)["metrics"] == {"kl": None, "loss": 1.0}


def test_no_log_is_no_steps(tmp_path: Path) -> None:
    assert read_metrics(tmp_path) == []


def test_rewind_takes_back_later_steps_of_its_phase_alone(tmp_path: Path) -> None:
    log = filled(tmp_path)
    log.rewind("alpha", 2)
    sft, beta = [("sft", 1), ("sft", 2), ("sft", 3)], [("beta", 1), ("beta", 2)]
    assert steps_of(tmp_path) == [*sft, ("alpha", 1), ("alpha", 2), *beta]
    log.log("alpha", 3, {"loss": 9.0})
    assert read_metrics(tmp_path)[-1].metrics == {"loss": 9.0}
    assert steps_of(tmp_path)[-1] == ("alpha", 3)


def test_rewind_leaves_the_numbers_that_it_keeps_as_they_were(tmp_path: Path) -> None:
    log = MetricsLog(tmp_path)
    log.log("sft", 1, {"loss": 0.1, "kl": math.nan})
    log.log("sft", 2, {"loss": 3.0})
    kept = (tmp_path / "metrics.jsonl").read_bytes().splitlines(keepends=True)[0]
    log.rewind("sft", 1)
    assert (tmp_path / "metrics.jsonl").read_bytes() == kept


def test_the_end_of_a_log_is_read_without_the_rest_or_half_a_line(tmp_path: Path) -> None:
    filled(tmp_path).close()
    path = tmp_path / "metrics.jsonl"
    steps, sizes = read_metrics(tmp_path), [len(line) for line in path.read_bytes().splitlines(keepends=True)]
    assert read_last_metrics(tmp_path, 10**6) == (steps, 0)
    assert read_last_metrics(tmp_path, sum(sizes[-3:]) + 5) == (steps[-3:], 0)
    path.write_bytes(path.read_bytes() + b"nonsense\n" + b'{"phase": "beta", "st')
    assert read_last_metrics(tmp_path, 10**6) == (steps, 1)
    assert read_last_metrics(tmp_path / "nowhere", 10**6) == ([], 0)


def test_shares_of_a_step_that_were_waits() -> None:
    both = {"seconds": 4.0, "seconds/wait": 1.0, "seconds/idle": 3.0, "seconds/generate": 0.75, "seconds/draw": 0.25}
    assert wait_fracs(both) == {"learning": 0.25, "sampling": 0.75}
    after_a_long_step = both | {"seconds/idle": 99.0}
    assert wait_fracs(after_a_long_step)["sampling"] == 0.99
    assert wait_fracs({"seconds": 4.0, "seconds/wait": 1.0}) == {"learning": 0.25}
    assert wait_fracs({"seconds": 0.0, "seconds/wait": 0.0}) == wait_fracs({"seconds/wait": 1.0}) == {}


def test_rewind_to_the_start_of_a_phase(tmp_path: Path) -> None:
    filled(tmp_path).rewind("beta", 0)
    assert steps_of(tmp_path)[-1] == ("alpha", 4)


def test_rewind_beyond_the_end_or_into_a_new_phase_changes_nothing(tmp_path: Path) -> None:
    log = filled(tmp_path)
    before = (tmp_path / "metrics.jsonl").read_bytes()
    log.rewind("beta", 2)
    log.rewind("gamma", 0)
    assert (tmp_path / "metrics.jsonl").read_bytes() == before


def test_a_torn_last_line_is_cut_when_the_log_goes_on(tmp_path: Path) -> None:
    filled(tmp_path).close()
    path = tmp_path / "metrics.jsonl"
    path.write_bytes(path.read_bytes() + b'{"phase": "beta", "st')
    assert steps_of(tmp_path)[-1] == ("beta", 2)
    MetricsLog(tmp_path).log("beta", 3, {"loss": 1.0})
    assert steps_of(tmp_path)[-2:] == [("beta", 2), ("beta", 3)]


@pytest.mark.parametrize(
    "line",
    [
        b"{}",
        b"[]",
        b"nonsense",
        b'{"phase":"a","step":"x","time":0,"metrics":{}}',
        b'{"phase":"a","step":1,"time":0,"metrics":{"loss":%s}}' % (b"9" * 400),
    ],
)
def test_a_damaged_line_is_named(tmp_path: Path, line: bytes) -> None:
    filled(tmp_path).close()
    path = tmp_path / "metrics.jsonl"
    lines = path.read_bytes().splitlines()
    lines[4] = line
    path.write_bytes(b"\n".join(lines) + b"\n")
    with pytest.raises(DataError, match="line 5") as caught:
        read_metrics(tmp_path)
    assert caught.value.remedy


def test_tensorboard_shows_only_the_steps_that_count(tmp_path: Path) -> None:
    log = filled(tmp_path)
    log.close()
    resumed = MetricsLog(tmp_path)
    resumed.rewind("alpha", 2)
    resumed.log("alpha", 3, {"loss": 30.0})
    resumed.close()
    event_accumulator = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    events = event_accumulator.EventAccumulator(str(tmp_path / "tensorboard" / "alpha"))
    events.Reload()
    assert [(e.step, e.value) for e in events.Scalars("loss")] == [(1, 0.5), (2, 1.0), (3, 30.0)]
