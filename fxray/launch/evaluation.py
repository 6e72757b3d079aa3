"""The answers of a policy to a split."""

import time
from collections.abc import Sequence

from fxray.data.order import permutation
from fxray.evaluate.predictions import Prediction, from_answer
from fxray.events import OnEvent, PhaseStarted, Step
from fxray.grammar.views import ViewName
from fxray.grpo.ports import Generator
from fxray.grpo.types import SamplingSettings
from fxray.launch.prompts import PromptSource


def answer_split(
    generator: Generator,
    prompts: PromptSource,
    rows: Sequence[int],
    sampling: SamplingSettings,
    *,
    batch_size: int,
    view: ViewName,
    phase: str,
    on_event: OnEvent,
) -> list[Prediction]:
    """One greedy answer per row, from whatever policy the generator holds."""
    on_event(PhaseStarted(phase, len(rows)))
    predictions: list[Prediction] = []
    num_right = 0
    for start in range(0, len(rows), batch_size):
        batch = rows[start : start + batch_size]
        start_s = time.monotonic()
        groups = generator.generate(prompts.of_rows(batch), sampling)
        seconds = (time.monotonic() - start_s) / max(1, len(groups))
        for group in groups:
            rollout, prompt = group.rollouts[0], group.prompt
            prediction = from_answer(
                prompt.sample_id,
                prompt.frame,
                rollout.text,
                is_finished=rollout.is_finished,
                seconds=seconds,
                probability=rollout.probability,
                view=view,
            )
            num_right += prediction.verdict is prompt.annotation.verdict
            predictions.append(prediction)
        done = start + len(batch)
        on_event(Step(phase, done, len(rows), {"accuracy": num_right / max(1, len(predictions))}))
    return predictions


def rows_to_answer(num_rows: int, num_samples: int) -> list[int]:
    """All rows, or so many drawn once and for all, in the order of the file."""
    count = min(num_samples or num_rows, num_rows)
    return sorted(permutation(0, "evaluation", num_rows, 0)[:count].tolist())
