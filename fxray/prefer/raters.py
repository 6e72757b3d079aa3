"""Who takes part: humans by link, and judges. Each has pairs, sides and an order of its own, fixed when it joins."""

import hashlib
import json
import random
import re
import secrets
import sqlite3
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from fxray.errors import DataError
from fxray.prefer.store import Store, now

Kind = Literal["human", "judge"]
_NAMES = {"human": r"\w[\w.-]{0,63}", "judge": r"\w[\w.:/@+-]{0,127}"}


@dataclass(frozen=True, slots=True)
class Rater:
    """Somebody, or something, that votes."""

    rater_id: int
    name: str
    kind: Kind


def invite(store: Store, name: str, *, renew: bool = False) -> str:
    """Adds a human rater; see `invite_all`."""
    return invite_all(store, [name], renew=renew)[0]


def invite_all(store: Store, names: Sequence[str], *, renew: bool = False) -> list[str]:
    """Adds human raters, or none where one of them is refused.

    Args:
        store: The study.
        names: How the raters are called in the results: 1 to 64 letters, digits, `.`, `_` or `-`.
        renew: Give raters who are there a new link in place of the old one; pairs and votes stay.

    Returns:
        The tokens of the raters' links; the study file holds only their SHA-256.

    Raises:
        DataError: A name is malformed, given twice, or another rater's, or `renew` names nobody.
    """
    if twice := [name for name, count in Counter(names).items() if count > 1]:
        raise DataError(f"{twice[0]!r} is named twice", remedy="name each rater once")
    tokens = [secrets.token_urlsafe(24) for _ in names]
    with store.transaction() as connection:
        for name, token in zip(names, tokens, strict=True):
            if renew:
                _renew(connection, store, name, _digest(token))
            else:
                _add(connection, store, name, "human", _digest(token))
    return tokens


def join_judge(store: Store, name: str, *, model: str, question: str) -> Rater:
    """The judge of a name, with every pair of the study and as many checks as a human; added where it is not there.

    Args:
        store: The study, whose facts keep model and question of each judge.
        name: How the results call it.
        model: As its interface calls it.
        question: What it is asked about each pair.

    Raises:
        DataError: The name is malformed, or that of a human, or of a judge of another model or question.
    """
    asked = {"model": model, "question_sha256": _digest(question)}
    with store.transaction() as connection:
        found = connection.execute("SELECT rater_id, name, kind FROM rater WHERE name = ?", (name,)).fetchone()
        facts = json.loads(connection.execute("SELECT facts FROM study").fetchone()["facts"])
        judges = facts.setdefault("judges", {})
        if found and found["kind"] == "judge":
            if judges.get(name) != asked:
                raise _other_judge(store, name, judges.get(name), model)
            return Rater(*found)
        added = _add(connection, store, name, "judge", None)
        judges[name] = asked
        connection.execute("UPDATE study SET facts = ?", (json.dumps(facts, ensure_ascii=False),))
    return added


def _other_judge(store: Store, name: str, known: dict[str, str] | None, model: str) -> DataError:
    if known is None:
        said = "joined under an earlier fxray, which did not keep its model"
    elif known["model"] != model:
        said = f"is the model {known['model']!r}, got {model!r}"
    else:
        said = "was asked another question, by another fxray"
    return DataError(f"judge {name!r} {said}", where=str(store.path), remedy="choose another --name")


def rater_of(store: Store, token: str) -> Rater | None:
    """Whose link a token is of."""
    found = store.read("SELECT rater_id, name, kind FROM rater WHERE token_sha256 = ?", _digest(token))
    return Rater(*found[0]) if found else None


def _renew(connection: sqlite3.Connection, store: Store, name: str, token_sha256: str) -> None:
    changed = connection.execute(
        "UPDATE rater SET token_sha256 = ? WHERE name = ? AND kind = 'human'", (token_sha256, name)
    )
    if changed.rowcount != 1:
        raise DataError(f"no human rater is called {name!r}", where=str(store.path), remedy="leave --renew away")


def _add(connection: sqlite3.Connection, store: Store, name: str, kind: Kind, token_sha256: str | None) -> Rater:
    if not re.fullmatch(_NAMES[kind], name):
        allowed = "letters, digits, `.`, `_`, `-`" + (", `:`, `/`, `@`, `+`" if kind == "judge" else "")
        raise DataError(f"rater {name!r}, expected {allowed}, a letter or digit first", remedy="choose another name")
    try:
        added = connection.execute(
            "INSERT INTO rater (name, kind, token_sha256, added_at) VALUES (?, ?, ?, ?)",
            (name, kind, token_sha256, now()),
        )
    except sqlite3.IntegrityError as error:
        raise DataError(
            f"a rater is called {name!r} already", where=str(store.path), remedy="choose another name, or --renew"
        ) from error
    rater_id = added.lastrowid or 0
    rows = _drawn(connection, store.facts, name, kind)
    connection.executemany(
        "INSERT INTO assignment VALUES (?, ?, ?, ?)",
        [(rater_id, position, pair_id, is_swapped) for position, (pair_id, is_swapped) in enumerate(rows)],
    )
    return Rater(rater_id, name, kind)


def _drawn(connection: sqlite3.Connection, facts: dict[str, object], name: str, kind: Kind) -> list[tuple[int, bool]]:
    """Pairs in a rater's order, and whether a stands on the right.

    Humans get the pairs that fewest others have, a judge gets all; checks are as many for both, and never come first.
    """
    rng = random.Random(f"{facts['seed']} {kind} {name}")
    order = _least_seen(connection, rng, is_check=False)
    checks = _least_seen(connection, rng, is_check=True)[: _count(facts["checks_per_rater"])]
    if kind == "human":
        order = order[: _count(facts["pairs_per_rater"])]
    rng.shuffle(order)
    for pair_id in checks:
        order.insert(rng.randint(1, len(order)), pair_id)
    return [(pair_id, rng.random() < 0.5) for pair_id in order]


def _count(limit: object) -> int | None:
    return limit if isinstance(limit, int) else None


def _least_seen(connection: sqlite3.Connection, rng: random.Random, *, is_check: bool) -> list[int]:
    """Pairs by the number of humans who have them, ties in random order."""
    rows = connection.execute(
        "SELECT pair_id, COUNT(rater.rater_id) FROM pair LEFT JOIN assignment USING (pair_id) "
        "LEFT JOIN rater ON rater.rater_id = assignment.rater_id AND kind = 'human' "
        "WHERE is_check = ? GROUP BY pair_id ORDER BY pair_id",
        (is_check,),
    ).fetchall()
    rng.shuffle(rows)
    return [pair_id for pair_id, _ in sorted(rows, key=lambda row: row[1])]


def _digest(token: str) -> str:
    return hashlib.sha256(token.encode("utf-8", "surrogateescape")).hexdigest()
