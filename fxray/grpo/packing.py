"""Which groups go through the model together, on which rank. Pure planning: lengths in, indices out."""

import heapq
from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class MicroBatch:
    """Groups that go through the model in one pass.

    Attributes:
        groups: Indices of the groups, longest first.
        is_filler: True where the pass only keeps the rank in step with the others: it must carry no weight.
    """

    groups: tuple[int, ...]
    is_filler: bool = False


def packed_length(num_prompt_tokens: int, answer_lengths: Sequence[int]) -> int:
    """Tokens of a packed group: the prompt once, then every answer."""
    return num_prompt_tokens + sum(answer_lengths)


def plan_micro_batches(
    lengths: Sequence[int], *, num_ranks: int, max_tokens: int, max_groups: int = 0
) -> list[list[MicroBatch]]:
    """Spreads groups over ranks and over passes; the same lengths always give the same plan.

    The longest group goes first, each to the rank that has the fewest tokens, and there into the pass with the most
    room (worst-fit decreasing), so that short groups fill what long ones leave. A group above `max_tokens` has a pass
    of its own. All ranks get equally many passes, for their gradient exchange runs in step.

    Args:
        lengths: Packed tokens of each group; at least one group.
        num_ranks: Ranks of the learner.
        max_tokens: Tokens of one pass.
        max_groups: Groups of one pass; 0: as many as the tokens allow.

    Returns:
        The passes of each rank.
    """
    by_length = sorted(range(len(lengths)), key=lambda group: (-lengths[group], group))
    shares: list[list[int]] = [[] for _ in range(num_ranks)]
    load = [0] * num_ranks
    for group in by_length:
        rank = load.index(min(load))
        shares[rank].append(group)
        load[rank] += lengths[group]
    plan = [_fill(share, lengths, max_tokens, max_groups or len(lengths)) for share in shares]
    num_passes = max(map(len, plan))
    filler = MicroBatch((by_length[-1],), is_filler=True)
    return [passes + [filler] * (num_passes - len(passes)) for passes in plan]


def split_into(passes: Sequence[MicroBatch], num_passes: int) -> list[MicroBatch]:
    """More passes of the same groups, as many as another rank has: the one with the most groups is halved each time.

    Args:
        passes: Of a rank.
        num_passes: At least as many as there are, and at most one for each group.
    """
    result = list(passes)
    while len(result) < num_passes:
        index = max(range(len(result)), key=lambda i: len(result[i].groups))
        groups = result[index].groups
        result[index : index + 1] = [MicroBatch(groups[::2]), MicroBatch(groups[1::2])]
    return result


def _fill(share: Sequence[int], lengths: Sequence[int], max_tokens: int, max_groups: int) -> list[MicroBatch]:
    """Each group in the pass with the most room, longest first; in one of its own where that has too little."""
    passes: list[list[int]] = []
    rooms: list[tuple[int, int]] = []  # a heap: minus the tokens left, and which pass, of those that may take more
    for group in share:
        if rooms and lengths[group] <= -rooms[0][0]:
            taken, index = heapq.heappop(rooms)
        else:
            taken, index = -max_tokens, len(passes)
            passes.append([])
        passes[index].append(group)
        if len(passes[index]) < max_groups:
            heapq.heappush(rooms, (taken + lengths[group], index))
    return [MicroBatch(tuple(groups)) for groups in passes]
