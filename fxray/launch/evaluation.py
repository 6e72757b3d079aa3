"""The answers of a policy to a split."""

from collections.abc import Sequence

from fxray.evaluate.predictions import Prediction, from_answer
from fxray.events import OnEvent, PhaseStarted, Step
from fxray.grpo.ports import Generator
from fxray.grpo.types import SamplingSettings
from fxray.launch.prompts import PromptSource
from fxray.schema import Sample


def answer_split(
    generator: Generator,
    prompts: PromptSource,
    rows: Sequence[int],
    sampling: SamplingSettings,
    *,
    batch_size: int,
    phase: str,
    on_event: OnEvent,
) -> list[Prediction]:
    """One greedy answer per row, from whatever policy the generator holds."""
    on_event(PhaseStarted(phase, len(rows)))
    predictions: list[Prediction] = []
    num_right = 0
    for start in range(0, len(rows), batch_size):
        batch = rows[start : start + batch_size]
        groups = generator.generate(prompts.of_rows(batch), sampling)
        for group in groups:
            rollout, prompt = group.rollouts[0], group.prompt
            prediction = from_answer(prompt.sample_id, prompt.frame, rollout.text, is_finished=rollout.is_finished)
            num_right += prediction.verdict is prompt.annotation.verdict
            predictions.append(prediction)
        done = start + len(batch)
        on_event(Step(phase, done, len(rows), {"accuracy": num_right / max(1, len(predictions))}))
    return predictions


def rows_to_answer(samples: Sequence[Sample], num_samples: int) -> list[int]:
    """All rows, or about so many spread evenly over the file."""
    count = min(num_samples or len(samples), len(samples))
    return [index * len(samples) // count for index in range(count)]
