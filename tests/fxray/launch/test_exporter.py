"""The series that a run shows: what a step becomes, what Prometheus reads from a real Ray, and what is documented."""

import os
import re
import subprocess
import sys
import time
import urllib.request
from collections import defaultdict
from pathlib import Path

import pytest

from fxray import spans
from fxray.events import Note, PhaseStarted, Step
from fxray.launch import exporter as exporter_module
from fxray.launch.exporter import Exporter
from fxray.launch.series import SERIES
from fxray.waiting import waiting_for

TOP = Path(__file__).parents[3]


class FakeSeries:
    """Keeps what Ray would; as strict as Ray about labels and counters."""

    def __init__(self, labels: tuple[str, ...]) -> None:
        self.labels, self.values = labels, defaultdict(float)

    def _key(self, labels: dict[str, str] | None) -> tuple[str, ...]:
        assert set(labels or {}) == set(self.labels)
        return tuple((labels or {})[name] for name in self.labels)

    def set(self, value: float, labels: dict[str, str] | None = None) -> None:
        self.values[self._key(labels)] = value

    def inc(self, value: float, labels: dict[str, str] | None = None) -> None:
        assert value > 0
        self.values[self._key(labels)] += value

    def observe(self, value: float, labels: dict[str, str] | None = None) -> None:
        self.values[self._key(labels)] += 1


@pytest.fixture
def exporter(monkeypatch: pytest.MonkeyPatch) -> Exporter:
    monkeypatch.setattr(exporter_module, "_of_ray", lambda series: FakeSeries(series.labels))
    return Exporter()


def shown(exporter: Exporter) -> dict[str, dict]:
    return {name: dict(series.values) for name, series in exporter._series.items() if series.values}


def test_a_step_becomes_gauges_and_counters(exporter: Exporter) -> None:
    metrics = {"policy_version": 3.0, "reward": 1.5, "reward/iou": 0.25, "kl": float("nan"), "num_tokens": 64.0}
    metrics |= {"seconds": 4.0, "seconds/generate": 3.0, "seconds/update/forward": 1.0, "num_reward_timeouts": 2.0}
    exporter.on_event(PhaseStarted("alpha", 10, 4))
    exporter.on_event(Step("alpha", 5, 10, metrics))
    later = {"num_reward_timeouts": 5.0, "num_corrupt_images": 1.0, "validation/accuracy": 0.75}
    exporter.on_event(Step("alpha", 6, 10, metrics | later))
    exporter.on_event(Step("evaluate alpha", 8, 32, {"accuracy": 0.5}))
    exporter.on_event(Note("late", is_warning=True))
    assert shown(exporter) == {
        "fxray_phase_steps": {("alpha",): 10, ("evaluate alpha",): 32},
        "fxray_phase_step": {("alpha",): 6, ("evaluate alpha",): 8},
        "fxray_policy_version": {(): 3},
        "fxray_staleness_versions": {(): 0},
        "fxray_reward": {(): 1.5},
        "fxray_reward_part": {("iou",): 0.25},
        "fxray_validation_accuracy_ratio": {(): 0.75},
        "fxray_step_seconds": {("whole",): 4, ("generate",): 3},
        "fxray_tokens_total": {(): 128},
        "fxray_failures_total": {("reward", "timeouts"): 5, ("images", "corrupt"): 1},
        "fxray_warnings_total": {(): 1},
    }


def test_spans_become_work_starts_syncs_and_what_is_in_flight(exporter: Exporter) -> None:
    with spans.listening(exporter.on_span):
        spans.begin("rollout-1", "start").end()
        spans.begin("rollout-1", "load adapter", facts={"bytes": 1000}).end()
        spans.begin("rollout-2", "load adapter", facts={"bytes": 1000}).end(failed="died")
        spans.retire("rollout-2", "died")
        spans.record("learner-0", "forward", 1.0, 2.0, is_part=True)
        spans.record("learner-0", "update", 1.0, 4.0)
        spans.record("generate", "generate", 1.0, 4.0)
        draw = spans.begin("rollout-1", "draw", facts={"groups": 12, "bytes": 7})
        with waiting_for([draw]):
            time.sleep(0.01)
        exporter.beat()
        draw.end()
        exporter.beat()
    found = shown(exporter)
    assert found["fxray_worker_starts_total"] == {("rollout",): 1}
    assert found["fxray_sync_seconds"] == found["fxray_sync_proofs_total"] == {(): 1}
    assert found["fxray_sent_bytes_total"] == {("adapters",): 2000, ("images",): 7}
    assert found["fxray_workers"] == {("rollout",): 1}
    assert found["fxray_groups_in_flight"] == {(): 0}
    assert found["fxray_busy_seconds_total"][("learner",)] == 3
    assert found["fxray_wait_seconds_total"][("rollout draw",)] >= 0.01


def test_every_series_is_named_by_prometheus_custom_and_documented() -> None:
    documented = re.findall(r"^\| `(fxray_\w+)`", (TOP / "docs" / "observability.md").read_text(), re.MULTILINE)
    assert documented == [series.name for series in SERIES]
    for series in SERIES:
        assert re.fullmatch(r"fxray_[a-z]+(_[a-z]+)*", series.name)
        assert series.name.endswith("_total") == (series.kind == "counter")


def scraped(text: str) -> dict[str, float]:
    """Samples of fxray's series by name and own labels, without those that Ray adds to each."""
    samples = {}
    for name, labels, value in re.findall(r"^ray_(fxray_\w+){(.*)} (\S+)$", text, re.MULTILINE):
        own = [f'{key}="{val}"' for key, val in re.findall(r'(\w+)="([^"]*)"', labels) if key in OWN_LABELS]
        samples[name + ("{" + ",".join(own) + "}" if own else "")] = float(value)
    return samples


def page_of(url: str) -> str:
    """What is there to scrape; nothing where Ray's agent is too busy to answer."""
    try:
        with urllib.request.urlopen(url, timeout=20) as page:
            return page.read().decode()
    except OSError:
        return ""


OWN_LABELS = {label for series in SERIES for label in series.labels}


@pytest.mark.ray
@pytest.mark.timeout(300)
@pytest.mark.long
def test_prometheus_reads_the_series_from_a_real_ray(tmp_path: Path) -> None:
    script = Path(__file__).with_name("metrics_of_a_small_run.py")
    environment = os.environ | {"RAY_metrics_report_interval_ms": "500"}
    environment.pop("RAY_ADDRESS", None)
    wanted = {
        'fxray_phase_step{phase="alpha"}': 1,
        'fxray_phase_steps{phase="alpha"}': 10,
        "fxray_policy_version": 3,
        "fxray_reward": 1.5,
        'fxray_reward_part{part="iou"}': 0.25,
        'fxray_step_seconds{part="generate"}': 3,
        "fxray_tokens_total": 64,
        "fxray_parse_ratio": 0.5,
        'fxray_failures_total{kind="failures",role="rollout"}': 2,
        "fxray_groups_in_flight": 12,
        'fxray_workers{role="reward"}': 1,
        'fxray_worker_starts_total{role="reward"}': 1,
        "fxray_sync_seconds_count": 1,
        "fxray_sync_proofs_total": 1,
        "fxray_warnings_total": 1,
    }
    command = [sys.executable, str(script), str(tmp_path)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment) as driver:
        url = driver.stdout.readline().strip()
        assert url.startswith("http://127.0.0.1:")
        found: dict[str, float] = {}
        deadline_s = time.monotonic() + 120
        while not wanted.keys() <= found.keys() and time.monotonic() < deadline_s:
            time.sleep(0.5)
            text = page_of(url)
            found = scraped(text)
        time.sleep(2.5)  # longer than Ray's agent keeps a gauge that is not shown again
        found = scraped(page_of(url))
        driver.communicate("\n", timeout=60)
    assert {name: found.get(name) for name in wanted} == wanted
    assert "ray_object_store_used_memory{" in text  # the dashboard asks for it
    assert found['fxray_wait_seconds_total{on="reward score"}'] > 0
    assert driver.returncode == 0
