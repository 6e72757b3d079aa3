"""Writes `fxray.json` beside it, the Grafana dashboard of a run. The panels are data."""

import json
import sys
from pathlib import Path
from typing import Any

RUN = '{SessionName=~"$session"}'
RATE = f"{RUN}[$__rate_interval]"
PRESENT = f"sum by (role) (ray_fxray_workers{RUN})"

# Title, what it tells, unit, whether areas are stacked, queries: (expression, legend).
PANELS: tuple[tuple[str, str, str, bool, tuple[tuple[str, str], ...]], ...] = (
    (
        "Progress",
        "Share of each phase's steps that are done.",
        "percentunit",
        False,
        (
            (
                f"max by (phase) (ray_fxray_phase_step{RUN}) / (max by (phase) (ray_fxray_phase_steps{RUN}) > 0)",
                "{{phase}}",
            ),
        ),
    ),
    (
        "Seconds of a step",
        "Parts of the last step; parts that overlap add up to more than the whole.",
        "s",
        False,
        ((f"max by (part) (ray_fxray_step_seconds{RUN})", "{{part}}"),),
    ),
    (
        "What the driver waits for",
        "Share of the time that it is blocked, by what blocks it.",
        "percentunit",
        True,
        ((f"sum by (on) (rate(ray_fxray_wait_seconds_total{RATE}))", "{{on}}"),),
    ),
    (
        "How busy the workers are",
        "Share of the time that workers and ranks of a role work; the rest they wait for somebody.",
        "percentunit",
        False,
        (
            (
                f"sum by (role) (rate(ray_fxray_busy_seconds_total{RATE})) / ({PRESENT} > 0)",
                "{{role}}",
            ),
        ),
    ),
    (
        "Groups in flight and workers",
        "Groups that are being drawn, and who is there.",
        "short",
        False,
        (
            (f"sum(ray_fxray_groups_in_flight{RUN})", "groups in flight"),
            (PRESENT, "{{role}}"),
        ),
    ),
    (
        "Tokens a second",
        "Of the last step, and sampled on average.",
        "short",
        False,
        (
            (f"max(ray_fxray_tokens_per_second{RUN})", "last step"),
            (f"sum(rate(ray_fxray_tokens_total{RATE}))", "average"),
        ),
    ),
    ("Reward", "Mean of the step's answers.", "short", False, ((f"max(ray_fxray_reward{RUN})", "reward"),)),
    (
        "Parts of the reward",
        "Unweighted means.",
        "short",
        False,
        ((f"max by (part) (ray_fxray_reward_part{RUN})", "{{part}}"),),
    ),
    (
        "Answers",
        "Of the step's answers, and of those to the validation split where a stage gives such.",
        "percentunit",
        False,
        (
            (f"max(ray_fxray_parse_ratio{RUN})", "parsed"),
            (f"max(ray_fxray_accuracy_ratio{RUN})", "right"),
            (f"max(ray_fxray_iou_ratio{RUN})", "IoU"),
            (f"max(ray_fxray_validation_accuracy_ratio{RUN})", "right, validation"),
            (f"max(ray_fxray_validation_iou_ratio{RUN})", "IoU, validation"),
        ),
    ),
    (
        "Learning",
        "Loss, KL to the reference, norm of the gradient.",
        "short",
        False,
        (
            (f"max(ray_fxray_loss{RUN})", "loss"),
            (f"max(ray_fxray_kl_nats{RUN})", "KL, nats a token"),
            (f"max(ray_fxray_grad_norm{RUN})", "gradient norm"),
        ),
    ),
    (
        "Policy version and staleness",
        "Versions published, and by how many the sampled policy was behind.",
        "short",
        False,
        (
            (f"max(ray_fxray_policy_version{RUN})", "version"),
            (f"max(ray_fxray_staleness_versions{RUN})", "staleness"),
        ),
    ),
    (
        "Adapter sync",
        "From handing an adapter over to its proof.",
        "s",
        False,
        (
            (f"histogram_quantile(0.5, sum by (le) (rate(ray_fxray_sync_seconds_bucket{RATE})))", "median"),
            (f"histogram_quantile(0.95, sum by (le) (rate(ray_fxray_sync_seconds_bucket{RATE})))", "95 %"),
        ),
    ),
    (
        "Proofs",
        "Adapters that workers proved to sample from, a second.",
        "short",
        False,
        ((f"sum(rate(ray_fxray_sync_proofs_total{RATE}))", "proofs"),),
    ),
    (
        "Failures",
        "What failed and was lived with; warnings, stalls among them; answers that could not be scored.",
        "short",
        False,
        (
            (f"sum by (role, kind) (ray_fxray_failures_total{RUN})", "{{role}} {{kind}}"),
            (f"sum(ray_fxray_warnings_total{RUN})", "warnings"),
            (f"sum(ray_fxray_masked_answers_total{RUN})", "masked answers"),
            (f"sum by (role) (ray_fxray_worker_starts_total{RUN})", "{{role}} starts"),
        ),
    ),
    (
        "Bytes in the object store",
        "What Ray holds, and what requests refer to a second.",
        "bytes",
        False,
        (
            (f"sum(ray_object_store_used_memory{RUN})", "held"),
            (f"sum by (what) (rate(ray_fxray_sent_bytes_total{RATE}))", "{{what}} a second"),
        ),
    ),
)
DATASOURCE = {"type": "prometheus", "uid": "${datasource}"}


def dashboard() -> dict[str, Any]:
    """The dashboard as Grafana imports it."""
    variables = [
        {"name": "datasource", "type": "datasource", "query": "prometheus", "label": "Prometheus"},
        {
            "name": "session",
            "type": "query",
            "label": "Ray session",
            "datasource": DATASOURCE,
            "query": {"query": "label_values(ray_fxray_phase_step, SessionName)", "refId": "session"},
            "definition": "label_values(ray_fxray_phase_step, SessionName)",
            "refresh": 2,
            "includeAll": True,
            "allValue": ".*",
            "current": {"text": "All", "value": "$__all"},
            "sort": 2,
        },
    ]
    return {
        "uid": "fxray",
        "title": "fxray",
        "description": "A training run: progress, who waits for whom, rewards, failures.",
        "tags": ["fxray", "ray"],
        "schemaVersion": 39,
        "version": 1,
        "editable": True,
        "refresh": "10s",
        "time": {"from": "now-1h", "to": "now"},
        "timezone": "browser",
        "templating": {"list": variables},
        "annotations": {"list": []},
        "panels": [_panel(number, *panel) for number, panel in enumerate(PANELS)],
    }


def _panel(
    number: int, title: str, tells: str, unit: str, is_stacked: bool, queries: tuple[tuple[str, str], ...]
) -> dict[str, Any]:
    custom = {"drawStyle": "line", "fillOpacity": 30 if is_stacked else 0, "showPoints": "never", "lineWidth": 1}
    custom |= {"stacking": {"mode": "normal" if is_stacked else "none", "group": "A"}}
    return {
        "id": number + 1,
        "type": "timeseries",
        "title": title,
        "description": tells,
        "datasource": DATASOURCE,
        "gridPos": {"h": 8, "w": 8, "x": 8 * (number % 3), "y": 8 * (number // 3)},
        "fieldConfig": {"defaults": {"unit": unit, "custom": custom}, "overrides": []},
        "options": {
            "legend": {"displayMode": "list", "placement": "bottom", "showLegend": True},
            "tooltip": {"mode": "multi", "sort": "desc"},
        },
        "targets": [
            {"refId": chr(ord("A") + i), "datasource": DATASOURCE, "expr": expression, "legendFormat": legend}
            for i, (expression, legend) in enumerate(queries)
        ],
    }


if __name__ == "__main__":
    target = Path(__file__).with_name("fxray.json")
    target.write_text(json.dumps(dashboard(), indent=1) + "\n", encoding="utf-8")
    sys.stdout.write(f"{target}\n")
