from hypothesis import given
from hypothesis import strategies as st

from fxray.grpo.packing import MicroBatch, packed_length, plan_micro_batches, split_into


def test_a_packed_group_has_its_prompt_once():
    assert packed_length(100, [10, 20, 30]) == 160


def test_a_group_goes_where_most_room_is():
    # Longest first: 50 (group 2), 40 (0), 30 (3), 10 (1); 50 + 40 fill 90 of 100, the rest goes into a second pass.
    plan = plan_micro_batches([40, 10, 50, 30], num_ranks=1, max_tokens=100)
    assert plan == [[MicroBatch((2, 0)), MicroBatch((3, 1))]]


def test_short_groups_fill_what_long_ones_leave():
    # Two long groups share no pass; neighbours in length would make five passes of these eight groups.
    plan = plan_micro_batches([60, 60, 60, 20, 20, 20, 20, 10], num_ranks=1, max_tokens=100, max_groups=3)
    assert plan == [[MicroBatch((0, 3, 6)), MicroBatch((1, 4, 7)), MicroBatch((2, 5))]]


def test_a_group_above_the_budget_has_a_pass_of_its_own():
    assert plan_micro_batches([500, 20], num_ranks=1, max_tokens=100) == [[MicroBatch((0,)), MicroBatch((1,))]]


def test_a_pass_holds_no_more_groups_than_it_may():
    plan = plan_micro_batches([40, 10, 50, 30, 9], num_ranks=1, max_tokens=200, max_groups=2)
    assert plan == [[MicroBatch((2, 0)), MicroBatch((3, 1)), MicroBatch((4,))]]


def test_ranks_share_the_tokens_and_take_equally_many_passes():
    # 60 to rank 0; 50 to rank 1; 40 to rank 1 (50 < 60); 20 to rank 0 (60 < 90).
    plan = plan_micro_batches([20, 40, 50, 60], num_ranks=2, max_tokens=80)
    assert plan == [[MicroBatch((3, 0)), MicroBatch((0,), is_filler=True)], [MicroBatch((2,)), MicroBatch((1,))]]


def test_a_rank_without_a_group_runs_along():
    assert plan_micro_batches([7], num_ranks=2, max_tokens=80) == [
        [MicroBatch((0,))],
        [MicroBatch((0,), is_filler=True)],
    ]


@given(st.lists(st.integers(1, 100), min_size=1, max_size=30), st.integers(1, 4), st.integers(1, 150))
def test_every_group_is_learnt_exactly_once(lengths, num_ranks, max_tokens):
    plan = plan_micro_batches(lengths, num_ranks=num_ranks, max_tokens=max_tokens)
    learnt = [group for passes in plan for each in passes if not each.is_filler for group in each.groups]
    assert sorted(learnt) == list(range(len(lengths)))
    assert len({len(passes) for passes in plan}) == 1
    for passes in plan:
        for each in passes:
            assert len(each.groups) == 1 or sum(lengths[group] for group in each.groups) <= max_tokens


def test_a_rank_with_fewer_passes_than_another_makes_more_of_the_same_groups():
    passes = [MicroBatch((4, 0, 3)), MicroBatch((1,)), MicroBatch((2, 5))]
    assert split_into(passes, 3) == passes
    assert split_into(passes, 5) == [MicroBatch((4,)), MicroBatch((3,)), MicroBatch((0,)), MicroBatch((1,)), passes[2]]
    assert sorted(group for each in split_into(passes, 6) for group in each.groups) == list(range(6))


def worst_fit(lengths: list[int], max_tokens: int, max_groups: int) -> list[list[int]]:
    """The rule as one would say it: longest first, each into the pass with the most room, the earliest among equals."""
    passes: list[list[int]] = []
    for group in sorted(range(len(lengths)), key=lambda group: -lengths[group]):
        open_passes = [each for each in passes if len(each) < max_groups]
        room = {id(each): max_tokens - sum(lengths[i] for i in each) for each in open_passes}
        widest = max(open_passes, key=lambda each: room[id(each)], default=None)
        if widest is None or room[id(widest)] < lengths[group]:
            passes.append([group])
        else:
            widest.append(group)
    return passes


@given(st.lists(st.integers(1, 100), min_size=1, max_size=30), st.integers(1, 300), st.integers(1, 6))
def test_passes_are_filled_by_the_rule(lengths, max_tokens, max_groups):
    (plan,) = plan_micro_batches(lengths, num_ranks=1, max_tokens=max_tokens, max_groups=max_groups)
    assert plan == [MicroBatch(tuple(groups)) for groups in worst_fit(lengths, max_tokens, max_groups)]


@given(st.lists(st.integers(1, 9), min_size=1, max_size=6), st.data())
def test_however_often_passes_are_split_each_group_stays_once(sizes, data):
    starts = [sum(sizes[:i]) for i in range(len(sizes))]
    passes = [MicroBatch(tuple(range(start, start + size))) for start, size in zip(starts, sizes, strict=True)]
    num_passes = data.draw(st.integers(len(passes), sum(sizes)))
    split = split_into(passes, num_passes)
    assert len(split) == num_passes
    assert sorted(group for each in split for group in each.groups) == list(range(sum(sizes)))
    assert max(len(each.groups) for each in split) <= max(-(-max(sizes) // 2), 1) or num_passes < 2 * len(passes)
