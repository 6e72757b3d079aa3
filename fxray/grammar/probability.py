"""The probability behind a verdict, as the model itself spreads it over the two words. It is not calibrated.

Legend: T tokens of an answer.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from fxray.grammar.markers import VERDICT
from fxray.schema import Verdict


@dataclass(frozen=True, slots=True)
class VerdictTokens:
    """How the two verdict blocks end, from the first token in which they differ.

    What leads up to it is left out: its tokens depend on what stands before the block.
    """

    real: tuple[int, ...]
    generated: tuple[int, ...]

    @property
    def watched(self) -> tuple[int, int]:
        """The tokens between which an answer chooses: real, generated."""
        return self.real[0], self.generated[0]


def verdict_tokens(encode: Callable[[str], Sequence[int]]) -> VerdictTokens:
    """Finds the first token in which the two verdict blocks differ.

    Args:
        encode: Token ids of a text, without special tokens around it.
    """
    real, generated = (encode(f"<{VERDICT}>{verdict}</{VERDICT}>") for verdict in (Verdict.REAL, Verdict.GENERATED))
    place = next(i for i, (a, b) in enumerate(zip(real, generated, strict=False)) if a != b)
    return VerdictTokens(tuple(real[place:]), tuple(generated[place:]))


def probability_generated(
    token_ids: Sequence[int], logprobs_T2: NDArray[np.float32], tokens: VerdictTokens
) -> float | None:
    """Probability of "generated" where the answer chose its verdict, over the two words alone.

    Args:
        token_ids: The answer, T of them.
        logprobs_T2: [T, 2] log-probabilities of `tokens.watched` at each place.
        tokens: Where the verdicts part.

    Returns:
        A number in [0, 1], of the last verdict block, as it is the last that counts; None where there is none.
    """
    ids = tuple(token_ids)
    for place in range(len(ids) - 1, -1, -1):
        if any(ids[place : place + len(tail)] == tail for tail in (tokens.real, tokens.generated)):
            real, generated = (float(value) for value in logprobs_T2[place])
            if math.isnan(real) or math.isnan(generated) or max(real, generated) == -math.inf:
                return None
            return 1 / (1 + math.exp(min(real - generated, 700.0)))
    return None
