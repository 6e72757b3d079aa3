import csv
import json
import math
import os
import secrets
import sqlite3
import warnings
import xml.etree.ElementTree as ET
from dataclasses import replace
from itertools import combinations
from pathlib import Path

import matplotlib as mpl
import numpy as np
import pytest
from PIL import Image
from typer.testing import CliRunner

from fxray import draw as draw_module
from fxray.cli.app import app
from fxray.errors import DataError, ResourceError
from fxray.prefer import store as store_module
from fxray.prefer.analysis import analyse
from fxray.prefer.ballots import Ballot, RaterRecord, read_ballots, read_raters
from fxray.prefer.raters import invite, join_judge, rater_of
from fxray.prefer.report import notes, write_analysis
from fxray.prefer.store import open_study
from fxray.prefer.strength import PRIOR_VOTES, bradley_terry, score_bounds, wilson
from fxray.prefer.votes import cast, open_positions, undo

SOURCES = ["Humans", "near", "far"]
TRUE_SCORES = {"Humans": 0.6, "near": 0.3, "far": -0.9}
NEUTRAL_FRAC = 0.15
FACTS = {"num_identical": 0, "data": "d", "data_sha256": "ab", "fxray": "0", "is_synthetic": False}
OPTIONS = {"group": "human", "max_failed_checks": 1, "num_bootstrap": 300, "seed": 0}


def won_frac(first, second):
    return 1 / (1 + math.exp(TRUE_SCORES[second] - TRUE_SCORES[first]))


def sides_of(store, rater):
    """By position: names of both sources, None on a check, and whether the first stands on the right."""
    rows = store.read(
        "SELECT position, is_swapped, one.name AS a, other.name AS b FROM assignment JOIN pair USING (pair_id) "
        "JOIN annotation AS x ON x.annotation_id = a JOIN annotation AS y ON y.annotation_id = b "
        "LEFT JOIN source AS one ON one.source_id = x.source_id "
        "LEFT JOIN source AS other ON other.source_id = y.source_id WHERE rater_id = ?",
        rater.rater_id,
    )
    return {row["position"]: (row["a"], row["b"], bool(row["is_swapped"])) for row in rows}


def vote_as_told(store, rater, rng, *, is_careless=False):
    sides = sides_of(store, rater)
    for position in open_positions(store, rater):
        first, second, is_swapped = sides[position]
        wants_first = rng.random() < (0.5 if is_careless else 1 if first is None else won_frac(first, second))
        is_neutral = first is not None and rng.random() < NEUTRAL_FRAC
        choice = "neutral" if is_neutral else "left" if wants_first != is_swapped else "right"
        cast(store, rater, secrets.token_hex(16), position, choice, float(rng.gamma(2, 4)))


@pytest.fixture(scope="module")
def voted(made, tmp_path_factory):
    """200 raters of a known preference, ten careless ones, and a judge who wants it the other way round."""
    path = tmp_path_factory.mktemp("voted") / "study.db"
    path.write_bytes(made.read_bytes())
    rng = np.random.default_rng(0)
    with open_study(path) as store:
        store._connection.execute("PRAGMA synchronous = OFF")  # four thousand votes need not reach this disk
        for k in range(210):
            store.facts |= {"pairs_per_rater": 18, "checks_per_rater": 4 if k >= 200 else 1}
            vote_as_told(store, rater_of(store, invite(store, f"r{k}")), rng, is_careless=k >= 200)
        judge = join_judge(store, "contrary", model="m", question="?")
        for position, (first, _, is_swapped) in sides_of(store, judge).items():
            cast(
                store,
                judge,
                secrets.token_hex(16),
                position,
                "right" if is_swapped == (first is None) else "left",
                None,
            )
    return path


@pytest.fixture(scope="module")
def counted(voted):
    with open_study(voted) as store:
        ballots = read_ballots(store)
        return ballots, read_raters(store, ballots)


def test_two_hundred_raters_give_the_known_matrix_within_its_intervals(counted):
    found = analyse(*counted, SOURCES, **OPTIONS)
    assert [(cell.row, cell.column) for cell in found.cells] == [
        (row, column) for row in SOURCES for column in SOURCES if row != column
    ]
    for cell in found.cells:
        truth = won_frac(cell.row, cell.column)
        assert cell.share.low < truth < cell.share.high
        assert cell.share.high - cell.share.low < 0.15
        assert cell.num_won + cell.num_lost > 900
    for name, score in found.scores.items():
        assert score.low < TRUE_SCORES[name] < score.high
    assert found.num_neutral / found.num_votes == pytest.approx(NEUTRAL_FRAC, abs=0.02)
    assert found.left_frac == pytest.approx(0.5, abs=0.03)
    assert found.num_shared_pairs == 120
    assert 0.02 < found.alpha < 0.2  # raters are noisy, not idle


def test_careless_raters_fail_checks_and_are_left_out_by_the_stated_rule(counted):
    found = analyse(*counted, SOURCES, **OPTIONS)
    careless = {f"r{k}" for k in range(200, 210)}
    assert {rater.name for rater in found.excluded} <= careless
    assert len(found.excluded) >= 5  # of ten who guess, with four checks
    assert all(rater.num_failed_checks > 1 for rater in found.excluded)
    everybody = analyse(*counted, SOURCES, **(OPTIONS | {"max_failed_checks": 4}))
    assert everybody.excluded == ()
    assert everybody.num_votes - found.num_votes == 18 * len(found.excluded)


def test_judges_are_never_counted_with_people_unless_it_is_asked_for(counted):
    people, judges, both = (
        analyse(*counted, SOURCES, **(OPTIONS | {"group": g, "max_failed_checks": 8}))
        for g in ("human", "judge", "all")
    )
    assert "contrary" not in {rater.name for rater in people.raters}
    assert [rater.name for rater in (*judges.raters, *judges.excluded)] == ["contrary"]
    assert both.num_votes == people.num_votes + judges.num_votes == people.num_votes + 120
    assert "Raters: models, no people; 1 of 1 have voted." in notes(judges, FACTS)


def test_a_matrix_by_hand(store):
    ana = rater_of(store, invite(store, "ana"))
    sides = sides_of(store, ana)
    of_pair = [p for p, (a, b, _) in sides.items() if (a, b) == ("Humans", "far")][:5]
    wanted = ["first", "first", "first", "second", "neutral"]
    for k, (position, preferred) in enumerate(zip(of_pair, wanted, strict=True)):
        side = (
            "neutral" if preferred == "neutral" else "left" if (preferred == "first") != sides[position][2] else "right"
        )
        cast(store, ana, f"{k:032x}", position, side, None)
    other = next(p for p, (a, _, _) in sides.items() if a == "near")
    cast(store, ana, "f" * 32, other, "left", None)
    undo(store, ana, "f" * 32)
    ballots = read_ballots(store)
    found = analyse(ballots, read_raters(store, ballots), SOURCES, **OPTIONS)
    (there, back) = found.cells
    assert (there.row, there.column, there.num_won, there.num_lost, there.num_neutral) == ("Humans", "far", 3, 1, 1)
    assert (back.row, back.share.value, there.share.value) == ("far", 0.25, 0.75)
    assert there.share.low <= wilson(3, 4)[0]
    assert math.isnan(found.scores["near"].value)  # never compared: nothing links it to the others
    assert math.isnan(found.median_s)
    assert found.to_json()["bradley_terry"]["near"] == {"value": None, "low": None, "high": None}


def test_wilson_is_that_of_the_textbook():
    assert wilson(81, 263) == pytest.approx((0.2553, 0.3662), abs=5e-5)  # Newcombe 1998, table I
    assert wilson(0, 20) == pytest.approx((0.0, 0.1611), abs=5e-5)
    assert all(math.isnan(bound) for bound in wilson(0, 0))


def test_bradley_terry_of_two_is_the_log_odds_and_of_agrestis_teams_what_he_prints():
    two = bradley_terry(np.array([[[0, 7.0], [3.0, 0]]]), np.array([[False, True], [True, False]]))[0]
    assert two[0] - two[1] == pytest.approx(math.log((7 + PRIOR_VOTES) / (3 + PRIOR_VOTES)), abs=1e-6)
    # American League 1987, Agresti, Categorical Data Analysis, section 10.6: Milwaukee to Baltimore, row beat column.
    wins = np.array(
        [[0, 7, 9, 7, 7, 9, 11], [6, 0, 7, 5, 11, 9, 9], [4, 6, 0, 7, 7, 8, 12], [6, 8, 6, 0, 6, 7, 10],
         [6, 2, 6, 7, 0, 7, 12], [4, 4, 5, 6, 6, 0, 6], [2, 4, 1, 3, 1, 7, 0]]
    )  # fmt: skip
    is_compared = ~np.eye(7, dtype=bool)
    scores = bradley_terry(wins[None] - PRIOR_VOTES * is_compared, is_compared)[0]
    assert scores - scores[-1] == pytest.approx([1.581, 1.436, 1.294, 1.248, 1.108, 0.684, 0], abs=2e-3)


def unanimous(num_raters, num_images):
    """All votes for the first source."""
    ballots = [
        Ballot(f"r{r}", "human", f"image/{k}", k, False, "Humans", "far", "first", "left", None, "now")
        for r in range(num_raters) for k in range(num_images)
    ]  # fmt: skip
    return ballots, [RaterRecord(f"r{r}", "human", num_images, num_images, 0, 0, 0) for r in range(num_raters)]


@pytest.mark.parametrize(("num_raters", "num_images", "half"), [(1, 1, 1.600), (5, 10, 1.393)])
def test_scores_of_sources_of_which_one_won_every_vote_are_uncertain(num_raters, num_images, half):
    found = analyse(*unanimous(num_raters, num_images), ["Humans", "far"], **OPTIONS)
    num_votes = num_raters * num_images
    score = math.log((num_votes + PRIOR_VOTES) / PRIOR_VOTES) / 2
    # Half the log-odds; of these the variance is 1 / (won + 1/2) + 1 / (lost + 1/2).
    assert half == pytest.approx(1.959964 * math.sqrt(1 / (num_votes + 0.5) + 1 / 0.5) / 2, abs=1e-3)
    for name, sign in (("Humans", 1), ("far", -1)):
        estimate = found.scores[name]
        assert (estimate.low, estimate.value, estimate.high) == pytest.approx(
            (sign * score - half, sign * score, sign * score + half), abs=1e-3
        )


def test_bounds_of_scores_narrow_with_the_root_of_the_votes():
    is_compared = ~np.eye(3, dtype=bool)
    wins = np.array([[0, 300.0, 400.0], [100.0, 0, 300.0], [50.0, 200.0, 0]])
    widths = []
    for votes in (wins, 100 * wins):
        scores = bradley_terry(votes[None], is_compared)[0]
        low, high = score_bounds(scores, votes, is_compared)
        widths.append(high - low)
    assert widths[0] / widths[1] == pytest.approx([10, 10, 10], rel=0.01)


def test_bounds_of_a_chain_of_sources_come_from_what_was_compared_alone():
    wins = np.array([[0, 5.0, 0], [5.0, 0, 5.0], [0, 5.0, 0]])  # the outer two were never compared
    scores = bradley_terry(wins[None], wins > 0)[0]
    low, high = score_bounds(scores, wins, wins > 0)
    # Eleven votes a pair with the prior, each of weight 1/4; of a path of three the pseudo-inverse has 5, 2, 5 ninths.
    half = 1.959964 * np.sqrt(np.array([5, 2, 5]) / 9 / (11 / 4))
    assert scores == pytest.approx([0, 0, 0], abs=1e-9)
    assert (high, low) == (pytest.approx(half), pytest.approx(-half))
    wins = np.array([[0, 7.0, 0], [3.0, 0, 7.0], [0, 3.0, 0]])  # of a chain each step is the log-odds of its pair
    step = math.log((7 + PRIOR_VOTES) / (3 + PRIOR_VOTES))
    assert bradley_terry(wins[None], wins > 0)[0] == pytest.approx([step, 0, -step], abs=1e-6)


def test_sources_in_two_groups_that_were_never_compared_have_no_scores():
    wins = np.kron(np.eye(2), np.array([[0, 7.0], [3.0, 0]]))
    assert np.isnan(bradley_terry(wins[None], wins > 0)).all()
    assert np.isfinite(bradley_terry(wins[None, :2, :2], wins[:2, :2] > 0)).all()


def test_sources_that_won_as_often_as_they_lost_stand_in_the_matrix():
    ballots, raters = unanimous(2, 3)
    ballots = [replace(b, preferred="first" if k % 2 else "second") for k, b in enumerate(ballots)]
    found = analyse(ballots, raters, ["Humans", "far"], **OPTIONS)
    assert [(cell.row, cell.share.value, cell.num_won, cell.num_lost) for cell in found.cells] == [
        ("Humans", 0.5, 3, 3),
        ("far", 0.5, 3, 3),
    ]
    low, high = wilson(3, 6)
    assert all(cell.share.low <= low < high <= cell.share.high for cell in found.cells)


def test_nothing_to_count_is_one_error(store):
    invite(store, "ana")
    with pytest.raises(DataError, match=r"0 votes of 1 rater \(human\)"):
        analyse([], read_raters(store, []), SOURCES, **OPTIONS)


def test_the_command_writes_table_numbers_and_figure(voted, tmp_path):
    out = tmp_path / "results"
    shown = CliRunner().invoke(app, ["prefer", "analyse", str(voted), "--out", str(out), "--num-bootstrap", "200"])
    assert shown.exit_code == 0, shown.exception
    numbers = json.loads((out / "preference.json").read_text())
    cell = next(c for c in numbers["matrix"] if (c["row"], c["column"]) == ("Humans", "far"))
    text = f"{cell['share']['value']:.1%} [{cell['share']['low']:.1%}, {cell['share']['high']:.1%}]"
    markdown = (out / "preference.md").read_text()
    assert text in shown.stdout
    assert text in markdown
    assert "Raters: people; " in markdown
    assert "raters who failed more than 1 are left out" in markdown
    lines = [line for line in (out / "preference.csv").read_text().splitlines() if not line.startswith("#")]
    rows = list(csv.DictReader(lines))
    assert len(rows) == 6
    assert float(rows[1]["share"]) == pytest.approx(cell["share"]["value"], abs=1e-6)
    assert Image.open(out / "preference.png").size[0] > 900
    words = "".join(ET.parse(out / "preference.svg").getroot().itertext())
    assert f"{cell['share']['value']:.1%}" in words


def test_votes_are_exported_with_what_they_compare(voted, tmp_path, counted):
    for name in ("votes.csv", "votes.jsonl"):
        assert CliRunner().invoke(app, ["prefer", "export", str(voted), str(tmp_path / name)]).exit_code == 0
    rows = list(csv.DictReader((tmp_path / "votes.csv").read_text().splitlines()))
    objects = [json.loads(line) for line in (tmp_path / "votes.jsonl").read_text().splitlines()]
    ballots, _ = counted
    assert len(rows) == len(objects) == len(ballots)
    assert rows[5]["sample_id"] == objects[5]["sample_id"] == ballots[5].sample_id
    assert {(o["first"], o["second"]) for o in objects if o["is_check"]} == {("truth", "wrong")}
    assert int(rows[5]["pair_id"]) == ballots[5].pair_id


def may_read(path, mode):
    return mode != os.W_OK


def told(command, *arguments):
    shown = CliRunner().invoke(app, ["prefer", command, *map(str, arguments)])
    assert shown.exit_code == 0, shown.exception
    return shown.stdout


def test_a_study_that_may_not_be_written_is_analysed_and_exported_and_nothing_is_written(voted, tmp_path, monkeypatch):
    options = ("--json", "--num-bootstrap", "20")
    expected = told("analyse", voted, *options)
    told("export", voted, tmp_path / "expected.csv")
    folder = tmp_path / "archive #1?"
    folder.mkdir()
    study = folder / "study.db"
    study.write_bytes(voted.read_bytes())
    connection = sqlite3.connect(study)
    connection.execute("PRAGMA journal_mode = DELETE")  # opening it to write would change the file
    connection.close()
    before = study.read_bytes()
    study.chmod(0o444)
    folder.chmod(0o555)
    monkeypatch.setattr(store_module.os, "access", may_read)  # root may write everywhere
    assert told("analyse", study, *options) == expected
    told("export", study, tmp_path / "votes.csv")
    assert (tmp_path / "votes.csv").read_bytes() == (tmp_path / "expected.csv").read_bytes()
    assert study.read_bytes() == before
    assert list(folder.iterdir()) == [study]


def test_votes_of_a_study_that_another_serves_are_read_where_nothing_may_be_written(store, tmp_path, monkeypatch):
    cast(store, rater_of(store, invite(store, "ana")), "f" * 32, 0, "left", None)
    assert store.path.with_name("study.db-wal").stat().st_size > 0
    monkeypatch.setattr(store_module.os, "access", may_read)
    assert ": 1 vote\n" in told("export", store.path, tmp_path / "votes.csv")


def test_a_study_on_a_full_disk_is_read_where_all_its_votes_are_in_it(voted, tmp_path, no_room):
    expected = told("analyse", voted, "--json", "--num-bootstrap", "20")
    study = tmp_path / "study.db"
    study.write_bytes(voted.read_bytes())
    for _ in range(2):  # what SQLite tried to write beside it is no vote
        with no_room():
            assert told("analyse", study, "--json", "--num-bootstrap", "20") == expected
    assert study.read_bytes() == voted.read_bytes()


def test_votes_beside_a_study_on_a_full_disk_are_one_error_and_are_not_left_out(store, tmp_path, no_room):
    cast(store, rater_of(store, invite(store, "ana")), "f" * 32, 0, "left", None)
    study = tmp_path / "copy" / "study.db"
    study.parent.mkdir()
    for name in ("study.db", "study.db-wal"):  # as after the loss of power
        study.with_name(name).write_bytes(store.path.with_name(name).read_bytes())
    with (
        no_room(),
        pytest.raises(ResourceError, match=r"study.db: cannot be read here: disk .*\n.*copy it and study.db-wal"),
    ):
        open_study(study, only_read=True)
    with open_study(study, only_read=True) as opened:
        assert opened.read("SELECT count(*) FROM vote")[0][0] == 1


def test_names_in_any_script_are_drawn_in_a_font_that_has_them(tmp_path, monkeypatch):
    shipped = Path(mpl.get_data_path()) / "fonts" / "ttf"
    fonts = str(shipped / "DejaVuSans.ttf"), str(shipped / "STIXGeneral.ttf")  # of the two the latter alone has "の"
    monkeypatch.setattr(draw_module, "_font_files", lambda *, bold: fonts)
    names = ["の", "模型", "Humans"]
    ballots = [
        replace(ballot, first=first, second=second)
        for first, second in combinations(names, 2)
        for ballot in unanimous(2, 3)[0]
    ]
    found = analyse(ballots, unanimous(2, 3)[1], names, **OPTIONS)
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # matplotlib warns of a glyph that its font lacks
        write_analysis(tmp_path, found, FACTS | {"name": "study"})
    words = "".join(ET.parse(tmp_path / "preference.svg").getroot().itertext())
    assert [words.count(name) for name in ("の", draw_module.NO_FONT, "Humans")] == [3, 3, 3]
