"""Log-probabilities out of what vLLM gives.

Legend: T tokens of an answer, W tokens that are watched, N log-probabilities that were given, place after place.
"""

from typing import Any

import numpy as np
from numpy.typing import NDArray


def read_logprobs(completion: Any, watched_ids: tuple[int, ...]) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Log-probabilities of an answer's own tokens, and of the watched ones beside each.

    Args:
        completion: vLLM's, with flat log-probabilities.
        watched_ids: Of W tokens.

    Returns:
        float32 [T] and [T, W]; NaN where the engine gave none.
    """
    token_ids, flat = list(completion.token_ids), completion.logprobs
    if not token_ids:
        return np.zeros(0, np.float32), np.zeros((0, len(watched_ids)), np.float32)
    if not watched_ids:  # then there is one for each token
        return np.asarray(flat.logprobs, np.float32), np.zeros((len(token_ids), 0), np.float32)
    place_N = np.repeat(np.arange(len(token_ids)), np.subtract(flat.end_indices, flat.start_indices))
    id_N, logprob_N = np.asarray(flat.token_ids), np.asarray(flat.logprobs, np.float32)
    wanted_TW1 = np.full((len(token_ids), 1 + len(watched_ids)), np.nan, np.float32)
    for column, wanted in enumerate((np.asarray(token_ids)[place_N], *watched_ids)):
        is_it_N = id_N == wanted
        wanted_TW1[place_N[is_it_N], column] = logprob_N[is_it_N]
    return wanted_TW1[:, 0], wanted_TW1[:, 1:]
