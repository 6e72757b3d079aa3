"""Advantages within a group (paper, section 4.2; DeepSeekMath, equation 3).

Legend: B groups, G rollouts of a group.
"""

import numpy as np
from numpy.typing import NDArray

STD_FLOOR = 1e-4
"""Added to the standard deviation, so that a hair's breadth of spread does not become a large advantage."""


def group_advantages(
    rewards_BG: NDArray[np.float64], is_valid_BG: NDArray[np.bool_], *, normalisation: str
) -> tuple[NDArray[np.float32], NDArray[np.bool_]]:
    """How much better than its group each rollout was.

    Args:
        rewards_BG: float64 [B, G], weighted sums; what a masked rollout holds does not matter.
        is_valid_BG: bool [B, G], True where the rollout was scored.
        normalisation: "group-std": (r - mean) / (std + 1e-4) with the sample standard deviation (ddof 1);
            "none": r - mean.

    Returns:
        advantages_BG: float32 [B, G]; 0 for masked rollouts and throughout groups without spread.
        has_spread_B: bool [B], True where at least two valid rollouts differ in their reward.

    Raises:
        ValueError: Another normalisation.
    """
    if normalisation not in {"group-std", "none"}:
        raise ValueError(f"normalisation is {normalisation!r}, expected 'group-std' or 'none'")
    num_valid_B1 = is_valid_BG.sum(1, keepdims=True)
    valid_BG = np.where(is_valid_BG, rewards_BG, 0.0)
    mean_B1 = valid_BG.sum(1, keepdims=True) / np.maximum(num_valid_B1, 1)
    centred_BG = np.where(is_valid_BG, rewards_BG - mean_B1, 0.0)
    highest_B = np.where(is_valid_BG, rewards_BG, -np.inf).max(1)
    lowest_B = np.where(is_valid_BG, rewards_BG, np.inf).min(1)
    has_spread_B: NDArray[np.bool_] = highest_B > lowest_B
    if normalisation == "group-std":
        variance_B1 = (centred_BG**2).sum(1, keepdims=True) / np.maximum(num_valid_B1 - 1, 1)
        centred_BG = centred_BG / (np.sqrt(variance_B1) + STD_FLOOR)
    return np.where(has_spread_B[:, None], centred_BG, 0.0).astype(np.float32), has_spread_B
