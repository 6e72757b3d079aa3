"""Notices when a stage has little to learn from: no answer can be read, all say the same, or groups earn the same."""

from collections.abc import Mapping

PATIENCE_STEPS = 3
"""Consecutive steps before anything is told."""
MOST_RIGHT, LEAST_RIGHT = 0.97, 0.05
"""Right answers to images of one kind, and of the other, of a policy that gives one verdict whatever it sees."""
MOST_WITHOUT_SPREAD = 0.9
LEAST_PARSED = 0.05


class CollapseWatch:
    """Looks at the numbers of a stage's steps, as `fxray.grpo.loop.reward_metrics` makes them."""

    def __init__(self) -> None:
        self._num_steps: dict[str, int] = {}

    def look(self, metrics: Mapping[str, float]) -> list[str]:
        """What is to be told after a step: each trouble once, and again after it has gone and come back."""
        troubles = _troubles(metrics)
        self._num_steps = {name: self._num_steps.get(name, 0) + 1 for name in troubles}
        return [text for name, text in troubles.items() if self._num_steps[name] == PATIENCE_STEPS]


def _troubles(metrics: Mapping[str, float]) -> dict[str, str]:
    found = {}
    right = {verdict: metrics.get(f"accuracy_{verdict}", float("nan")) for verdict in ("real", "generated")}
    for verdict, other in (("real", "generated"), ("generated", "real")):
        if right[verdict] >= MOST_RIGHT and right[other] <= LEAST_RIGHT:
            found[verdict] = (
                f"nearly all answers of the last {PATIENCE_STEPS} steps say {verdict}: {right[other]:.0%} of those to "
                f"{other} images are right. Before a stage begins most answers should have the right form; where "
                "parse_rate was low at its start, a longer SFT (sft.max_steps, sft.epochs) helps"
            )
    if metrics.get("parse_rate", 1.0) <= LEAST_PARSED:
        found["form"] = (
            f"{metrics['parse_rate']:.0%} of the answers of a step can be read, for {PATIENCE_STEPS} steps now. GRPO "
            "needs a policy that has learnt the form: a longer SFT (sft.max_steps, sft.epochs), in a new run directory "
            "helps"
        )
        return found
    num_without_spread, num_groups = metrics["num_groups_without_spread"], metrics["num_groups"]
    if num_without_spread >= MOST_WITHOUT_SPREAD * num_groups:
        found["spread"] = (
            f"in {num_without_spread:.0f} of the {num_groups:.0f} groups of a step all answers earn the same, for "
            f"{PATIENCE_STEPS} steps now: they teach nothing. A higher grpo.temperature or grpo.group_size tells more "
            "answers apart, unless the policy is as good as it gets"
        )
    return found
