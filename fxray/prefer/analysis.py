"""What the votes say: the paper's matrix (Figure 2), scores, agreement, and who was left out by which rule."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations
from statistics import median
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from fxray.counts import counted
from fxray.data.alpha import nominal_alpha
from fxray.errors import DataError
from fxray.evaluate.bootstrap import interval
from fxray.evaluate.estimates import Estimate
from fxray.prefer.ballots import Ballot, RaterRecord
from fxray.prefer.strength import bradley_terry, resampled_wins, score_bounds, wilson

Group = Literal["human", "judge", "all"]


@dataclass(frozen=True, slots=True)
class Cell:
    """Two sources against each other.

    Attributes:
        row: One.
        column: The other.
        share: Of the votes with a preference, those for `row`; its bounds are the outermost of three (Wilson's,
            raters drawn anew, images drawn anew).
        num_won: Votes for `row`.
        num_lost: Votes for `column`.
        num_neutral: Votes without a preference.
    """

    row: str
    column: str
    share: Estimate
    num_won: int
    num_lost: int
    num_neutral: int


@dataclass(frozen=True, slots=True)
class Analysis:
    """What a group of raters prefers.

    Attributes:
        group: Whose votes: of humans, of judges, or of both together.
        sources: In the order of the study.
        cells: Each two sources in both directions, where there are votes.
        scores: Bradley-Terry, in log-odds with mean 0, by source; NaN where sources were never compared. Bounds are the
            outermost of three (of the Fisher information, raters drawn anew, images drawn anew).
        num_votes: Votes that count, without those on attention checks.
        num_neutral: Of them without a preference, which neither matrix nor scores count.
        alpha: Krippendorff's, nominal, over pairs that several raters judged; NaN where that says nothing.
        num_shared_pairs: Such pairs.
        left_frac: Of the votes with a preference, those for the left side: a half where sides do not matter.
        median_s: Seconds to a vote; NaN where nobody measured.
        max_failed_checks: The rule: who failed more attention checks is left out.
        raters: Whose votes count.
        excluded: Raters of the group who are left out by the rule.
        num_bootstrap: Resamples behind the intervals.
        seed: Of the resamples.
    """

    group: Group
    sources: tuple[str, ...]
    cells: tuple[Cell, ...]
    scores: dict[str, Estimate]
    num_votes: int
    num_neutral: int
    alpha: float
    num_shared_pairs: int
    left_frac: float
    median_s: float
    max_failed_checks: int
    raters: tuple[RaterRecord, ...]
    excluded: tuple[RaterRecord, ...]
    num_bootstrap: int
    seed: int

    def to_json(self) -> dict[str, Any]:
        """Everything, ready for `json.dumps`; null for what cannot be said."""
        counts = {"num_won", "num_lost", "num_neutral"}
        return {
            "raters_are": self.group,
            "sources": list(self.sources),
            "matrix": [
                {"row": cell.row, "column": cell.column, "share": cell.share.to_json()}
                | {name: getattr(cell, name) for name in sorted(counts)}
                for cell in self.cells
            ],
            "bradley_terry": {name: score.to_json() for name, score in self.scores.items()},
            "num_votes": self.num_votes,
            "num_neutral": self.num_neutral,
            "krippendorff_alpha": _or_null(self.alpha),
            "num_shared_pairs": self.num_shared_pairs,
            "left_frac": _or_null(self.left_frac),
            "median_seconds": _or_null(self.median_s),
            "max_failed_checks": self.max_failed_checks,
            "raters": [_rater_json(rater, is_excluded=False) for rater in self.raters]
            + [_rater_json(rater, is_excluded=True) for rater in self.excluded],
            "num_bootstrap": self.num_bootstrap,
            "seed": self.seed,
        }


def analyse(
    ballots: Sequence[Ballot],
    raters: Sequence[RaterRecord],
    sources: Sequence[str],
    *,
    group: Group,
    max_failed_checks: int,
    num_bootstrap: int,
    seed: int,
) -> Analysis:
    """Counts the votes of a group of raters.

    Args:
        ballots: All of a study.
        raters: All of a study.
        sources: In the order of the study.
        group: Whose votes count; humans and judges are together only where "all" asks for it.
        max_failed_checks: Raters who failed more are left out.
        num_bootstrap: Resamples behind each interval.
        seed: Of the resamples.

    Raises:
        DataError: No vote with a preference is left.
    """
    asked = [rater for rater in raters if group in (rater.kind, "all")]
    kept = [rater for rater in asked if rater.num_failed_checks <= max_failed_checks]
    names = {rater.name for rater in kept}
    votes = [ballot for ballot in ballots if ballot.rater in names and not ballot.is_check]
    decided = [vote for vote in votes if vote.preferred != "neutral"]
    if not decided:
        raise DataError(
            f"no vote with a preference is left: {counted(len(votes), 'vote')} of {counted(len(kept), 'rater')} "
            f"({group}), "
            f"{counted(len(asked) - len(kept), 'rater')} left out by their attention checks",
            remedy="wait for votes, or choose --raters or --max-failed-checks otherwise",
        )
    wins_KK, draws = _count_wins(decided, sources, num_bootstrap, seed)
    units: dict[int, list[str]] = {}
    for vote in votes:
        units.setdefault(vote.pair_id, []).append(vote.preferred)
    seconds = [vote.seconds for vote in votes if vote.seconds is not None]
    return Analysis(
        group=group,
        sources=tuple(sources),
        cells=tuple(_cells(votes, sources, wins_KK, draws)),
        scores=_scores(sources, wins_KK, draws),
        num_votes=len(votes),
        num_neutral=len(votes) - len(decided),
        alpha=nominal_alpha(units.values()),
        num_shared_pairs=sum(len(unit) > 1 for unit in units.values()),
        left_frac=sum(vote.choice == "left" for vote in decided) / len(decided),
        median_s=median(seconds) if seconds else math.nan,
        max_failed_checks=max_failed_checks,
        raters=tuple(kept),
        excluded=tuple(rater for rater in asked if rater.name not in names),
        num_bootstrap=num_bootstrap,
        seed=seed,
    )


def _count_wins(
    decided: Sequence[Ballot], sources: Sequence[str], num_bootstrap: int, seed: int
) -> tuple[NDArray[np.float64], list[NDArray[np.float64]]]:
    """Wins of row over column, [K, K]; the same in resamples of raters, and of images, [B, K, K] each."""
    index = {name: k for k, name in enumerate(sources)}
    sides = [(v.first, v.second) if v.preferred == "first" else (v.second, v.first) for v in decided]
    winners_V, losers_V = np.array([[index[won], index[lost]] for won, lost in sides]).T
    wins_KK = np.zeros((len(sources), len(sources)))
    np.add.at(wins_KK, (winners_V, losers_V), 1)
    options = {"num_sources": len(sources), "num_bootstrap": num_bootstrap, "seed": seed}
    clusterings = ([vote.rater for vote in decided], [vote.sample_id for vote in decided])
    return wins_KK, [resampled_wins(winners_V, losers_V, clusters, **options) for clusters in clusterings]


def _cells(
    votes: Sequence[Ballot], sources: Sequence[str], wins_KK: NDArray[np.float64], draws: Sequence[NDArray[np.float64]]
) -> list[Cell]:
    neutral = dict.fromkeys(combinations(sources, 2), 0)
    for vote in votes:
        neutral[vote.first, vote.second] += vote.preferred == "neutral"
    lows, highs = _outer_interval([_shares(draws_BKK) for draws_BKK in draws])
    cells = []
    for i, row in enumerate(sources):
        for j, column in enumerate(sources):
            won, lost = int(wins_KK[i, j]), int(wins_KK[j, i])
            if won + lost == 0:
                continue
            low, high = wilson(won, won + lost)
            k = i * len(sources) + j
            share = Estimate(won / (won + lost), float(np.fmin(low, lows[k])), float(np.fmax(high, highs[k])))
            cells.append(Cell(row, column, share, won, lost, neutral[(row, column) if i < j else (column, row)]))
    return cells


def _shares(draws_BKK: NDArray[np.float64]) -> NDArray[np.float64]:
    """Shares of row over column, [B, K * K]; NaN where a resample has no vote between them."""
    games_BKK = draws_BKK + draws_BKK.transpose(0, 2, 1)
    shares_BKK = np.divide(draws_BKK, games_BKK, out=np.full_like(draws_BKK, np.nan), where=games_BKK > 0)
    return shares_BKK.reshape(len(shares_BKK), -1)


def _outer_interval(draws: Sequence[NDArray[np.float64]]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """The lowest lower and the highest upper bound of several sets of draws, [B, M] each."""
    bounds = [interval(draws_BM) for draws_BM in draws]
    return np.fmin.reduce([low for low, _ in bounds]), np.fmax.reduce([high for _, high in bounds])


def _scores(
    sources: Sequence[str], wins_KK: NDArray[np.float64], draws: Sequence[NDArray[np.float64]]
) -> dict[str, Estimate]:
    is_compared_KK = wins_KK + wins_KK.T > 0
    scores_K = bradley_terry(wins_KK[None], is_compared_KK)[0]
    low_K, high_K = score_bounds(scores_K, wins_KK, is_compared_KK)
    lows, highs = _outer_interval([bradley_terry(draws_BKK, is_compared_KK) for draws_BKK in draws])
    bounds = zip(np.fmin(low_K, lows), np.fmax(high_K, highs), strict=True)
    return {
        name: Estimate(float(score), float(low), float(high))
        for name, score, (low, high) in zip(sources, scores_K, bounds, strict=True)
    }


def _rater_json(rater: RaterRecord, *, is_excluded: bool) -> dict[str, Any]:
    return {
        "name": rater.name,
        "kind": rater.kind,
        "num_votes": rater.num_votes,
        "num_pairs": rater.num_pairs,
        "num_checks": rater.num_checks,
        "num_failed_checks": rater.num_failed_checks,
        "num_bad_answers": rater.num_bad_answers,
        "is_excluded": is_excluded,
    }


def _or_null(value: float) -> float | None:
    return value if math.isfinite(value) else None
