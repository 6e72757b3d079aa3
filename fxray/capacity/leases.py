"""How a step's groups are cut into leases and shares, by the pools as by a plan, and how long an engine takes for one.

lease   groups that a rollout worker draws answers to
share   groups whose answers a reward worker scores
"""

import heapq
import math
from collections.abc import Sequence
from dataclasses import dataclass

BATCHES_PER_LEASE = 8
"""A lease fills an engine at most this often, so that a death does not cost more."""
SHARE_S = 0.05
"""Seconds that a reward worker is busy with a share, at most: many times what a request costs the driver."""


def groups_at_once(group_size: int, max_num_seqs: int) -> int:
    """Groups that fill an engine: of so many answers each, where it decodes `max_num_seqs` answers at once."""
    return math.ceil(max_num_seqs / group_size)


def lease_size(num_groups: int, num_workers: int, fills_engine: int) -> int:
    """Groups of one lease: a fair share, so that no engine is idle, but at most what fills an engine eight times.

    Args:
        num_groups: Of the step.
        num_workers: Engines.
        fills_engine: Groups that one engine decodes at once.
    """
    return max(1, min(math.ceil(num_groups / num_workers), BATCHES_PER_LEASE * fills_engine))


def share_size(num_waiting: int, num_workers: int, group_s: float, share_s: float = SHARE_S) -> int:
    """Groups of the next share: as many as take `share_s`, and no more than half of a fair share of what is left.

    Args:
        num_waiting: Groups that nobody scores yet.
        num_workers: Reward workers.
        group_s: Of scoring one group; infinite where nobody knows, and then a share is one group.
        share_s: Longest time that a share shall take.
    """
    return max(1, min(int(share_s / max(group_s, 1e-6)), math.ceil(num_waiting / (2 * num_workers))))


def num_shares(num_groups: int, num_workers: int, group_s: float) -> int:
    """Requests to reward workers for the scores of a step."""
    number = 0
    while num_groups > 0:
        num_groups -= share_size(num_groups, num_workers, group_s)
        number += 1
    return number


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
