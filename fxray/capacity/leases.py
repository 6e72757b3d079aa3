"""How a step's groups are cut into leases, by the rule of the rollout pool, and how long an engine takes for one.

A test holds the rule to what a real pool does.
"""

import heapq
import math
from collections.abc import Sequence
from dataclasses import dataclass

BATCHES_PER_LEASE = 8
"""A lease fills an engine at most this often."""


def lease_size(num_groups: int, num_workers: int, group_size: int, max_num_seqs: int) -> int:
    """Groups of one lease: a fair share, but at least what fills an engine once, and at most what fills it eight times.

    Args:
        num_groups: Of the step.
        num_workers: Engines.
        group_size: Answers of a group.
        max_num_seqs: Answers that one engine decodes at once.
    """
    fills_engine = math.ceil(max_num_seqs / group_size)
    fair_share = math.ceil(num_groups / num_workers)
    return max(fills_engine, min(fair_share, BATCHES_PER_LEASE * fills_engine))


@dataclass(frozen=True, slots=True)
class EngineSpeed:
    """Seconds of an engine.

    Attributes:
        lease_s: Of a lease, whatever is in it.
        group_s: Of reading one prompt with its image.
        step_s: Of one decoding step, whatever the batch.
        token_s: More for each answer in the batch, which is for each token.
    """

    lease_s: float
    group_s: float
    step_s: float
    token_s: float


def engine_seconds(lengths: Sequence[int], num_groups: int, max_num_seqs: int, speed: EngineSpeed) -> float:
    """Seconds of an engine for one lease, with continuous batching: an answer that ends gives its place to the next.

    Args:
        lengths: Tokens of each answer, in the order in which they are begun.
        num_groups: Prompts that are read for them.
        max_num_seqs: Answers decoded at once.
        speed: Of the engine.
    """
    num_tokens = sum(lengths)
    steps = decoding_steps(lengths, max_num_seqs)
    return speed.lease_s + speed.group_s * num_groups + speed.step_s * steps + speed.token_s * num_tokens


def decoding_steps(lengths: Sequence[int], max_num_seqs: int) -> int:
    """Steps until the last of these answers is written, when at most `max_num_seqs` are written at once."""
    if len(lengths) <= max_num_seqs:
        return max(lengths, default=0)
    ends = list(lengths[:max_num_seqs])
    heapq.heapify(ends)
    for length in lengths[max_num_seqs:]:
        heapq.heapreplace(ends, ends[0] + length)
    return max(ends)
