"""The series that a run gives to Prometheus, as data; Ray puts `ray_` before each name."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Series:
    """One metric.

    Attributes:
        name: With its unit, by Prometheus's custom; counters end in `_total`.
        kind: "gauge", "counter" or "histogram".
        meaning: One line.
        labels: Names of its labels; the values of each are few and known.
    """

    name: str
    kind: str
    meaning: str
    labels: tuple[str, ...] = ()


SYNC_BUCKETS_S = (0.01, 0.03, 0.1, 0.3, 1.0, 3.0, 10.0, 30.0, 100.0)

SERIES = (
    Series("fxray_phase_steps", "gauge", "Steps of the phase in all.", ("phase",)),
    Series("fxray_phase_step", "gauge", "Steps of the phase that are done.", ("phase",)),
    Series("fxray_policy_version", "gauge", "Version of the policy that the last step made."),
    Series("fxray_staleness_versions", "gauge", "Versions by which the sampled policy was behind the learner's."),
    Series("fxray_step_seconds", "gauge", "Seconds of the last step: its parts, and `whole`.", ("part",)),
    Series("fxray_tokens_per_second", "gauge", "Tokens of the last step over its seconds."),
    Series("fxray_tokens_total", "counter", "Tokens that were sampled."),
    Series("fxray_groups_in_flight", "gauge", "Groups that rollout workers draw at this moment."),
    Series("fxray_workers", "gauge", "Workers and ranks that are there.", ("role",)),
    Series("fxray_busy_seconds_total", "counter", "Seconds that workers and ranks worked, summed.", ("role",)),
    Series(
        "fxray_wait_seconds_total", "counter", "Seconds that the driver was blocked, by what it waited for.", ("on",)
    ),
    Series("fxray_sync_seconds", "histogram", "From handing an adapter to a rollout worker to its proof."),
    Series("fxray_sync_proofs_total", "counter", "Adapters that a rollout worker proved to sample from."),
    Series("fxray_sent_bytes_total", "counter", "Images and adapters that requests referred to.", ("what",)),
    Series("fxray_reward", "gauge", "Mean reward of the last step's answers."),
    Series("fxray_reward_part", "gauge", "Mean of a part of the reward, unweighted.", ("part",)),
    Series("fxray_parse_ratio", "gauge", "Share of answers that keep to the grammar."),
    Series("fxray_accuracy_ratio", "gauge", "Share of answers with the right verdict."),
    Series("fxray_iou_ratio", "gauge", "Mean IoU of generated images' boxes."),
    Series("fxray_validation_accuracy_ratio", "gauge", "Share of validation images with the right verdict."),
    Series("fxray_validation_iou_ratio", "gauge", "Mean IoU of validation images' boxes."),
    Series("fxray_loss", "gauge", "Loss of the last step."),
    Series("fxray_kl_nats", "gauge", "KL to the reference, a token."),
    Series("fxray_grad_norm", "gauge", "Norm of the gradient before it is clipped."),
    Series("fxray_masked_answers_total", "counter", "Answers that could not be scored."),
    Series("fxray_failures_total", "counter", "What failed and was lived with.", ("role", "kind")),
    Series(
        "fxray_worker_starts_total", "counter", "Workers that came up; more than there are means restarts.", ("role",)
    ),
    Series("fxray_warnings_total", "counter", "Warnings, stalls among them."),
)

GAUGES = {
    "policy_version": "fxray_policy_version",
    "tokens_per_s": "fxray_tokens_per_second",
    "reward": "fxray_reward",
    "parse_rate": "fxray_parse_ratio",
    "accuracy": "fxray_accuracy_ratio",
    "iou": "fxray_iou_ratio",
    "validation/accuracy": "fxray_validation_accuracy_ratio",
    "validation/iou": "fxray_validation_iou_ratio",
    "loss": "fxray_loss",
    "kl": "fxray_kl_nats",
    "grad_norm": "fxray_grad_norm",
}
"""Metrics of a step, and the gauges that show them as they are."""
