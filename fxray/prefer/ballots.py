"""The votes of a study with what they compare, and the raters with what they failed."""

import csv
import io
import json
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import Literal

from fxray.prefer.raters import Kind
from fxray.prefer.store import Store
from fxray.prefer.votes import Choice

CHECK_SIDES = ("truth", "wrong")
"""What stands in the place of sources in a vote on an attention check."""


@dataclass(frozen=True, slots=True)
class Ballot:
    """A vote that was not undone.

    Attributes:
        rater: Who.
        kind: Whether a human or a judge.
        sample_id: The image.
        pair_id: The pair, the same for all raters.
        is_check: Whether it is an attention check.
        first: One side's source: the one that was named first when the study was made.
        second: The other's.
        preferred: Which of them; "neutral" for no preference.
        choice: The same as the rater saw it.
        seconds: From the pair being shown to the choice; None where nobody measured.
        cast_at: When, in UTC.
    """

    rater: str
    kind: Kind
    sample_id: str
    pair_id: int
    is_check: bool
    first: str
    second: str
    preferred: Literal["first", "second", "neutral"]
    choice: Choice
    seconds: float | None
    cast_at: str

    @property
    def is_failed_check(self) -> bool:
        """True for anything but the truth on an attention check."""
        return self.is_check and self.preferred != "first"


_COLUMNS = tuple(field.name for field in fields(Ballot))


@dataclass(frozen=True, slots=True)
class RaterRecord:
    """What a rater did: votes on pairs, of how many; checks that were answered and failed; answers that are none."""

    name: str
    kind: Kind
    num_votes: int
    num_pairs: int
    num_checks: int
    num_failed_checks: int
    num_bad_answers: int


def read_ballots(store: Store) -> list[Ballot]:
    """All votes of a study that were not undone, in the order in which they were cast."""
    rows = store.read(
        "SELECT rater.name AS rater, kind, sample_id, pair_id, is_check, is_swapped, choice, seconds, cast_at, "
        "one.name AS first, other.name AS second "
        "FROM vote JOIN rater USING (rater_id) JOIN assignment USING (rater_id, position) JOIN pair USING (pair_id) "
        "JOIN image ON image.image_id = pair.image_id JOIN annotation AS x ON x.annotation_id = pair.a "
        "JOIN annotation AS y ON y.annotation_id = pair.b LEFT JOIN source AS one ON one.source_id = x.source_id "
        "LEFT JOIN source AS other ON other.source_id = y.source_id WHERE undone_at IS NULL ORDER BY number"
    )
    ballots = []
    for row in rows:
        first, second = CHECK_SIDES if row["is_check"] else (row["first"], row["second"])
        chosen = row["choice"]
        is_first = (chosen == "right") == bool(row["is_swapped"])
        preferred: Literal["first", "second", "neutral"] = (
            "neutral" if chosen == "neutral" else "first" if is_first else "second"
        )
        ballots.append(
            Ballot(
                rater=row["rater"],
                kind=row["kind"],
                sample_id=row["sample_id"],
                pair_id=row["pair_id"],
                is_check=bool(row["is_check"]),
                first=first,
                second=second,
                preferred=preferred,
                choice=chosen,
                seconds=row["seconds"],
                cast_at=row["cast_at"],
            )
        )
    return ballots


def read_raters(store: Store, ballots: Sequence[Ballot]) -> list[RaterRecord]:
    """All raters of a study in the order in which they joined, those without a vote too."""
    votes = Counter(ballot.rater for ballot in ballots if not ballot.is_check)
    checks = Counter(ballot.rater for ballot in ballots if ballot.is_check)
    failed = Counter(ballot.rater for ballot in ballots if ballot.is_failed_check)
    rows = store.read(
        "SELECT name, kind, (SELECT COUNT(*) FROM assignment JOIN pair USING (pair_id) "
        "WHERE assignment.rater_id = rater.rater_id AND NOT is_check) AS num_pairs, "
        "(SELECT COUNT(*) FROM bad_answer WHERE bad_answer.rater_id = rater.rater_id) AS num_bad "
        "FROM rater ORDER BY rater_id"
    )
    return [
        RaterRecord(
            r["name"], r["kind"], votes[r["name"]], r["num_pairs"], checks[r["name"]], failed[r["name"]], r["num_bad"]
        )
        for r in rows
    ]


def ballots_as_csv(ballots: Sequence[Ballot]) -> str:
    """One line per vote, after a line with the names of the columns."""
    out = io.StringIO()
    writer = csv.DictWriter(out, _COLUMNS, lineterminator="\n")
    writer.writeheader()
    writer.writerows(map(_as_record, ballots))
    return out.getvalue()


def ballots_as_jsonl(ballots: Sequence[Ballot]) -> str:
    """One JSON object per vote and line."""
    return "".join(json.dumps(_as_record(ballot), ensure_ascii=False) + "\n" for ballot in ballots)


def _as_record(ballot: Ballot) -> dict[str, object]:
    return {name: getattr(ballot, name) for name in _COLUMNS}
