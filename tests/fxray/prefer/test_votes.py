import sqlite3
from collections import Counter
from concurrent.futures import ThreadPoolExecutor

import pytest

from fxray.errors import DataError
from fxray.prefer import store as store_module
from fxray.prefer.raters import invite, invite_all, join_judge, rater_of
from fxray.prefer.store import open_study
from fxray.prefer.votes import VoteError, cast, open_positions, progress_of, shown, undo

VOTE = "{:032x}".format


@pytest.fixture
def ana(store):
    return rater_of(store, invite(store, "ana"))


def test_each_rater_has_an_order_and_sides_of_its_own_and_checks_among_them(store):
    tokens = [invite(store, name) for name in ("ana", "ben")]
    ana, ben = (rater_of(store, token) for token in tokens)
    rows = store.read("SELECT rater_id, pair_id, is_swapped, is_check FROM assignment JOIN pair USING (pair_id)")
    orders = [[row["pair_id"] for row in rows if row["rater_id"] == rater.rater_id] for rater in (ana, ben)]
    assert orders[0] != orders[1]
    assert [len(order) for order in orders] == [122, 122]
    swapped = sum(row["is_swapped"] for row in rows)
    assert 80 < swapped < 164
    firsts = store.read("SELECT is_check FROM assignment JOIN pair USING (pair_id) WHERE position = 0")
    assert [row["is_check"] for row in firsts] == [0, 0]


def test_raters_share_the_pairs_evenly(store):
    store.facts["pairs_per_rater"] = 7
    for k in range(40):
        invite(store, f"r{k}")
    join_judge(store, "Qwen/Qwen2.5-VL-7B", model="m", question="?")  # a judge sees all, and counts for nobody
    counts = store.read(
        "SELECT is_check, COUNT(*) AS n FROM assignment JOIN pair USING (pair_id) JOIN rater USING (rater_id) "
        "WHERE kind = 'human' GROUP BY pair_id"
    )
    assert Counter(row["n"] for row in counts if not row["is_check"]) == {2: 80, 3: 40}
    assert Counter(row["n"] for row in counts if row["is_check"]) == {10: 8}


def test_a_judge_has_every_pair_and_as_many_checks_as_a_person_and_changes_nobodys(store):
    join_judge(store, "m", model="m", question="?")
    store.facts["pairs_per_rater"] = 7
    for k in range(4):
        invite(store, f"r{k}")
    rows = store.read(
        "SELECT name, SUM(is_check) AS num_checks, COUNT(*) AS n FROM assignment JOIN pair USING (pair_id) "
        "JOIN rater USING (rater_id) GROUP BY rater_id ORDER BY rater_id"
    )
    assert [tuple(row) for row in rows] == [("m", 2, 122), *((f"r{k}", 2, 9) for k in range(4))]
    shared = store.read(
        "SELECT COUNT(*) AS n FROM assignment JOIN pair USING (pair_id) JOIN rater USING (rater_id) "
        "WHERE is_check AND kind = 'human' GROUP BY pair_id"
    )
    assert [row["n"] for row in shared] == [1] * 8


def test_sides_are_the_raters_own(store, ana):
    rows = store.read(
        "SELECT position, is_swapped, x.regions AS a FROM assignment JOIN pair USING (pair_id) "
        "JOIN annotation AS x ON x.annotation_id = a WHERE rater_id = ?",
        ana.rater_id,
    )
    for row in rows[:30]:
        pair = shown(store, ana, row["position"])
        first = pair.right if row["is_swapped"] else pair.left
        assert first.regions[0].caption in row["a"].replace('\\"', '"')


def test_the_same_vote_twice_is_one_and_another_on_the_same_pair_is_refused(store, ana):
    cast(store, ana, VOTE(1), 0, "left", 2.5)
    cast(store, ana, VOTE(1), 0, "left", 2.5)
    with pytest.raises(VoteError, match="judged already"):
        cast(store, ana, VOTE(2), 0, "left", None)
    with pytest.raises(VoteError, match="cast before, otherwise"):
        cast(store, ana, VOTE(1), 0, "right", None)
    with pytest.raises(VoteError, match="no pair has position 500"):
        cast(store, ana, VOTE(3), 500, "left", None)
    progress = progress_of(store, ana)
    assert (progress.num_done, progress.open_positions, progress.last_vote) == (1, (1, 2), VOTE(1))


def test_only_the_last_vote_is_undone_and_its_pair_is_asked_again(store, ana):
    for k in range(3):
        cast(store, ana, VOTE(k), k, "neutral", None)
    with pytest.raises(VoteError, match="only the last"):
        undo(store, ana, VOTE(0))
    ben = rater_of(store, invite(store, "ben"))
    with pytest.raises(VoteError, match="only the last"):
        undo(store, ben, VOTE(2))
    undo(store, ana, VOTE(2))
    undo(store, ana, VOTE(2))
    assert progress_of(store, ana).open_positions == (2, 3)
    with pytest.raises(VoteError, match="was undone"):  # a late repetition of what was taken back
        cast(store, ana, VOTE(2), 2, "neutral", None)
    cast(store, ana, VOTE(9), 2, "left", None)
    votes = store.read("SELECT vote_id, undone_at IS NULL AS is_live FROM vote WHERE position = 2 ORDER BY number")
    assert [tuple(row) for row in votes] == [(VOTE(2), 0), (VOTE(9), 1)]


def test_threads_that_vote_on_the_same_pairs_leave_one_vote_each(store, ana):
    def vote(k):
        try:
            cast(store, ana, VOTE(k), k % 20, "left", None)
        except VoteError:
            return False
        return True

    with ThreadPoolExecutor(8) as pool:
        accepted = sum(pool.map(vote, range(80)))
    assert accepted == 20
    assert len(open_positions(store, ana)) == 102


def test_a_renewed_link_ends_the_old_one_and_keeps_the_votes(store):
    old = invite(store, "ana")
    cast(store, rater_of(store, old), VOTE(1), 0, "left", None)
    new = invite(store, "ana", renew=True)
    assert rater_of(store, old) is None
    assert progress_of(store, rater_of(store, new)).num_done == 1
    stored = "".join(str(row["token_sha256"]) for row in store.read("SELECT token_sha256 FROM rater"))
    assert new not in stored
    with pytest.raises(DataError, match="no human rater is called 'ben'"):
        invite(store, "ben", renew=True)


@pytest.mark.parametrize("name", ["", "a b", "=1+1", "-x", "a\nb", "x" * 65])
def test_names_that_would_trouble_a_table_are_refused(store, name):
    with pytest.raises(DataError, match="expected letters"):
        invite(store, name)


@pytest.mark.parametrize(("name", "says"), [("cl eo", "expected letters"), ("zoe", "already"), ("ben", "named twice")])
def test_nobody_is_invited_where_one_is_refused(store, name, says):
    invite(store, "zoe")
    with pytest.raises(DataError, match=says):
        invite_all(store, ["ben", "ana", name])
    assert [row["name"] for row in store.read("SELECT name FROM rater")] == ["zoe"]
    old = dict(zip(("ben", "ana"), invite_all(store, ["ben", "ana"]), strict=True))
    with pytest.raises(DataError, match="no human rater is called 'cleo'"):
        invite_all(store, ["ben", "cleo"], renew=True)
    assert rater_of(store, old["ben"]).name == "ben"


def test_a_name_is_one_raters(store):
    invite(store, "ana")
    with pytest.raises(DataError, match="is called 'ana' already"):
        invite(store, "ana")
    with pytest.raises(DataError, match="is called 'ana' already"):
        join_judge(store, "ana", model="m", question="?")
    assert join_judge(store, "m", model="m", question="?") == join_judge(store, "m", model="m", question="?")


def test_a_file_that_another_process_holds_is_one_error_within_the_deadline(study, monkeypatch):
    monkeypatch.setattr(store_module, "LOCK_DEADLINE_S", 0.1)
    other = sqlite3.connect(study, isolation_level=None)
    with open_study(study) as store:
        other.execute("BEGIN IMMEDIATE")
        with pytest.raises(TimeoutError, match=r"held the study file for 0\.1 s"):
            invite(store, "ana")
        other.execute("ROLLBACK")
        invite(store, "ana")
    other.close()
