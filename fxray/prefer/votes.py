"""What a rater sees next, and the votes. A vote has an id that its page chose, so that sending it twice is one vote."""

import sqlite3
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

from fxray.errors import FxrayError
from fxray.prefer.marking import Marking, read_marking
from fxray.prefer.raters import Rater
from fxray.prefer.store import Store, now

Choice = Literal["left", "right", "neutral"]


class VoteError(FxrayError, ValueError):
    """A vote that does not fit what is there, such as a second one on the same pair."""


@dataclass(frozen=True, slots=True)
class Progress:
    """How far a rater is.

    Attributes:
        num_done: Pairs with a vote.
        num_pairs: Pairs that the rater is asked about.
        open_positions: The next two without a vote.
        last_vote: Id of the vote that may be undone.
    """

    num_done: int
    num_pairs: int
    open_positions: tuple[int, ...]
    last_vote: str | None


@dataclass(frozen=True, slots=True)
class Shown:
    """A pair as a rater sees it."""

    position: int
    width_px: int
    height_px: int
    left: Marking
    right: Marking


def progress_of(store: Store, rater: Rater) -> Progress:
    """How far a rater is."""
    key = rater.rater_id
    num_pairs = store.read("SELECT COUNT(*) AS n FROM assignment WHERE rater_id = ?", key)[0]["n"]
    num_done = store.read("SELECT COUNT(*) AS n FROM vote WHERE rater_id = ? AND undone_at IS NULL", key)[0]["n"]
    last = store.read(
        "SELECT vote_id FROM vote WHERE rater_id = ? AND undone_at IS NULL ORDER BY number DESC LIMIT 1", key
    )
    ahead = tuple(_open_positions(store, rater, limit=2))
    return Progress(num_done, num_pairs, ahead, last[0]["vote_id"] if last else None)


def open_positions(store: Store, rater: Rater) -> list[int]:
    """All positions without a vote, in the rater's order."""
    return list(_open_positions(store, rater, limit=-1))


def _open_positions(store: Store, rater: Rater, *, limit: int) -> Iterator[int]:
    rows = store.read(
        "SELECT position FROM assignment AS asked WHERE rater_id = ? AND NOT EXISTS (SELECT 1 FROM vote WHERE "
        "vote.rater_id = asked.rater_id AND vote.position = asked.position AND undone_at IS NULL) "
        "ORDER BY position LIMIT ?",
        rater.rater_id,
        limit,
    )
    return (row["position"] for row in rows)


def shown(store: Store, rater: Rater, position: int) -> Shown:
    """The pair at a position of a rater's order.

    Raises:
        VoteError: There is none.
    """
    rows = store.read(
        "SELECT width_px, height_px, is_swapped, a.verdict AS a_verdict, a.regions AS a_regions, "
        "b.verdict AS b_verdict, b.regions AS b_regions FROM assignment JOIN pair USING (pair_id) "
        "JOIN image USING (image_id) JOIN annotation AS a ON a.annotation_id = pair.a "
        "JOIN annotation AS b ON b.annotation_id = pair.b WHERE rater_id = ? AND position = ?",
        rater.rater_id,
        position,
    )
    if not rows:
        raise _no_pair(position)
    row = rows[0]
    sides = [read_marking(row[f"{side}_verdict"], row[f"{side}_regions"]) for side in ("a", "b")]
    left, right = reversed(sides) if row["is_swapped"] else sides
    return Shown(position, row["width_px"], row["height_px"], left, right)


def image_of(store: Store, rater: Rater, position: int) -> bytes:
    """The image of that pair, as JPEG.

    Raises:
        VoteError: There is none.
    """
    rows = store.read(
        "SELECT jpeg FROM assignment JOIN pair USING (pair_id) JOIN image USING (image_id) "
        "WHERE rater_id = ? AND position = ?",
        rater.rater_id,
        position,
    )
    if not rows:
        raise _no_pair(position)
    return bytes(rows[0]["jpeg"])


def cast(store: Store, rater: Rater, vote_id: str, position: int, choice: Choice, seconds: float | None) -> None:
    """Notes a vote; it is on the disk when this returns. The same vote again changes nothing.

    Args:
        store: The study.
        rater: Whose.
        vote_id: Chosen by the sender, unlike every other.
        position: In the rater's order.
        choice: The side, as the rater saw them.
        seconds: From the pair being shown to the choice; None where nobody measured.

    Raises:
        VoteError: The pair has a vote already, or the id is that of another vote, or there is no such pair.
    """
    with store.transaction() as connection:
        known = connection.execute("SELECT * FROM vote WHERE vote_id = ?", (vote_id,)).fetchone()
        if known is not None:
            same = (known["rater_id"], known["position"], known["choice"]) == (rater.rater_id, position, choice)
            if same and known["undone_at"] is None:
                return
            raise VoteError("this vote was cast before, otherwise, or was undone", remedy="judge the pair anew")
        try:
            connection.execute(
                "INSERT INTO vote (vote_id, rater_id, position, choice, seconds, cast_at) VALUES (?, ?, ?, ?, ?, ?)",
                (vote_id, rater.rater_id, position, choice, seconds, now()),
            )
        except sqlite3.IntegrityError as error:
            if error.sqlite_errorcode == sqlite3.SQLITE_CONSTRAINT_FOREIGNKEY:
                raise _no_pair(position) from error
            raise VoteError(
                "this pair was judged already, in another window perhaps", remedy="go on with the next one"
            ) from error


def undo(store: Store, rater: Rater, vote_id: str) -> None:
    """Takes the rater's last vote back; its pair is asked again. The same again changes nothing.

    Raises:
        VoteError: It is not the last, or nobody's.
    """
    with store.transaction() as connection:
        known = connection.execute(
            "SELECT undone_at FROM vote WHERE vote_id = ? AND rater_id = ?", (vote_id, rater.rater_id)
        ).fetchone()
        if known is not None and known["undone_at"] is not None:
            return
        changed = connection.execute(
            "UPDATE vote SET undone_at = ? WHERE vote_id = ? AND number = "
            "(SELECT MAX(number) FROM vote WHERE rater_id = ? AND undone_at IS NULL)",
            (now(), vote_id, rater.rater_id),
        )
        if changed.rowcount != 1:
            raise VoteError("only the last vote can be undone", remedy="look at what is shown now")


def note_bad_answer(store: Store, rater: Rater, position: int, answer: str) -> None:
    """Keeps an answer of a judge that is no choice; its pair stays open."""
    kept = answer[:1000].encode("utf-8", "replace").decode()  # JSON may hold half a surrogate pair, SQLite none
    with store.transaction() as connection:
        connection.execute("INSERT INTO bad_answer VALUES (?, ?, ?, ?)", (rater.rater_id, position, kept, now()))


def _no_pair(position: int) -> VoteError:
    return VoteError(f"no pair has position {position}", remedy="look at what is shown now")
