"""A driver's numbers as Ray metrics, which Ray's agent on each node offers to Prometheus."""

import math
import re
from collections import Counter, defaultdict
from collections.abc import Mapping
from typing import Any

import ray
from ray.util import metrics as ray_metrics

from fxray import spans
from fxray.events import Event, Note, PhaseStarted, Step
from fxray.launch.series import GAUGES, SERIES, SYNC_BUCKETS_S, Series
from fxray.spans import Span
from fxray.waiting import waited_s

FAULT = re.compile(r"num_([a-z]+)_(deaths|departures|restarts|timeouts|failures)")
"""Counts so far that a step's metrics hold: role and kind."""
SENT = {"draw": "images", "load adapter": "adapters"}
"""Requests that refer to bytes in the object store, and what these are."""


class Exporter:
    """Turns events and spans into series. Ray must be up from its first to its last call."""

    def __init__(self) -> None:
        self._series = {series.name: _of_ray(series) for series in SERIES}
        self._so_far: defaultdict[tuple[str, ...], float] = defaultdict(float)
        self._roles: set[str] = set()
        self._gauges: dict[tuple[str, tuple[tuple[str, str], ...]], float] = {}

    def on_event(self, event: Event) -> None:
        """Shows a step's metrics."""
        match event:
            case PhaseStarted():
                self._set("fxray_phase_steps", event.num_steps, phase=event.phase)
                self._set("fxray_phase_step", event.first_step, phase=event.phase)
            case Step():
                self._set("fxray_phase_steps", event.num_steps, phase=event.phase)
                self._set("fxray_phase_step", event.step, phase=event.phase)
                if "policy_version" in event.metrics:
                    self._show(event.metrics)
            case Note() if event.is_warning:
                self._add("fxray_warnings_total", 1)

    def on_span(self, span: Span) -> None:
        """Counts what a worker did."""
        seconds = (span.end_s or span.start_s) - span.start_s
        if seconds <= 0 or span.is_part or span.role == span.track:
            return
        self._add("fxray_busy_seconds_total", seconds, role=span.role)
        if span.name in SENT:
            self._add("fxray_sent_bytes_total", float(span.facts["bytes"]), what=SENT[span.name])
        if "failed" in span.facts:
            return
        if span.name == "start":
            self._add("fxray_worker_starts_total", 1, role=span.role)
        if span.name == "load adapter":
            self._series["fxray_sync_seconds"].observe(seconds)
            self._add("fxray_sync_proofs_total", 1)

    def beat(self) -> None:
        """Shows what goes on at this moment, and every gauge again, for the agent of Ray drops one that is silent."""
        for (name, labels), value in self._gauges.items():
            self._series[name].set(value, dict(labels))
        draws = [span for span in spans.open_spans() if span.name == "draw"]
        self._set("fxray_groups_in_flight", sum(float(span.facts["groups"]) for span in draws))
        present = Counter(spans.role_of(doing.track) for doing in spans.present() if doing.is_worker)
        self._roles |= set(present)
        for role in self._roles:
            self._set("fxray_workers", present[role], role=role)
        for on, seconds in waited_s().items():
            self._up_to("fxray_wait_seconds_total", seconds, on=on)

    def _show(self, metrics: Mapping[str, float]) -> None:
        for source, name in GAUGES.items():
            if source in metrics:
                self._set(name, metrics[source])
        self._set("fxray_staleness_versions", metrics.get("staleness", 0.0))
        self._add("fxray_tokens_total", metrics.get("num_tokens", 0.0))
        self._add("fxray_masked_answers_total", metrics.get("num_masked", 0.0))
        for name, value in metrics.items():
            first, _, part = name.partition("/")
            if first == "reward" and part:
                self._set("fxray_reward_part", value, part=part)
            elif first == "seconds" and "/" not in part:
                self._set("fxray_step_seconds", value, part=part or "whole")
            elif (fault := FAULT.fullmatch(name)) is not None:
                self._up_to("fxray_failures_total", value, role=fault[1], kind=fault[2])
            elif name == "num_corrupt_images":
                self._up_to("fxray_failures_total", value, role="images", kind="corrupt")

    def _set(self, name: str, value: float, **labels: str) -> None:
        if math.isfinite(value):
            self._gauges[name, tuple(labels.items())] = value
            self._series[name].set(value, labels)

    def _add(self, name: str, amount: float, **labels: str) -> None:
        if amount > 0:  # Ray refuses 0
            self._series[name].inc(amount, labels)

    def _up_to(self, name: str, total: float, **labels: str) -> None:
        """Brings a counter to a total that somebody else counts."""
        key = (name, *labels.values())
        self._add(name, total - self._so_far[key], **labels)
        self._so_far[key] = max(total, self._so_far[key])


def metrics_url() -> str:
    """Where Prometheus finds the metrics of this process's node; empty where Ray does not say."""
    me = ray.get_runtime_context().get_node_id()
    found = [node for node in ray.nodes() if node["NodeID"] == me and node["MetricsExportPort"] > 0]
    return f"http://{found[0]['NodeManagerAddress']}:{found[0]['MetricsExportPort']}/metrics" if found else ""


def _of_ray(series: Series) -> Any:
    if series.kind == "histogram":
        return ray_metrics.Histogram(series.name, series.meaning, list(SYNC_BUCKETS_S), series.labels)
    of_kind = {"gauge": ray_metrics.Gauge, "counter": ray_metrics.Counter}[series.kind]
    return of_kind(series.name, series.meaning, series.labels)
