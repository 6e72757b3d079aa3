"""How near the captions of found regions come to the annotators' words, by sacrebleu and rouge-score.

Only captions of matched regions are compared: the pairs of the one-to-one match of boxes with the largest total IoU, as
far as the two boxes overlap. A missed or surplus region has no partner to compare with; the matched IoU and the average
precision count those.
"""

import importlib.util
from collections.abc import Sequence
from functools import cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

Pair = tuple[str, str]
"""Caption that was predicted, caption of the annotator."""

NUM_BLEU_COUNTS = 10
"""Matched and possible n-grams for n of 1 to 4, words predicted, words of the annotator."""


@cache
def can_score_captions() -> bool:
    """Whether both libraries are installed: `pip install 'fxray[captions]'`."""
    return all(importlib.util.find_spec(name) is not None for name in ("sacrebleu", "rouge_score"))


def rouge_l(pairs: Sequence[Pair]) -> float:
    """Mean F-measure of ROUGE-L (Lin 2004), without stemming, in [0, 1]; NaN without pairs."""
    if not pairs:
        return np.nan
    scorer = _rouge_scorer()
    return float(np.mean([scorer.score(truth, said)["rougeL"].fmeasure for said, truth in pairs]))


def bleu_counts(pairs: Sequence[Pair]) -> NDArray[np.int64]:
    """What the BLEU of a corpus is summed from, int64 [10]; zeros without pairs."""
    counts = np.zeros(NUM_BLEU_COUNTS, np.int64)
    if pairs:
        said, truth = zip(*pairs, strict=True)
        score = _bleu().corpus_score(list(said), [list(truth)])
        counts[:] = [*score.counts, *score.totals, score.sys_len, score.ref_len]
    return counts


def bleu(counts_B10: NDArray[np.float64]) -> NDArray[np.float64]:
    """BLEU of corpora with sacrebleu's defaults (Papineni et al. 2002; Post 2018), as a fraction of 1.

    Args:
        counts_B10: Sums of `bleu_counts`, a row per corpus.

    Returns:
        float64 [B]; NaN for a corpus whose predicted captions hold no four words in a row, as without any: it has no
        share of right ones, and a 0 would say that all are wrong.
    """
    from sacrebleu.metrics import BLEU

    return np.array(
        [
            BLEU.compute_bleu(row[:4], row[4:8], row[8], row[9], smooth_method="exp").score / 100 if row[7] else np.nan
            for row in counts_B10.round().astype(int).tolist()
        ]
    )


@cache
def _bleu() -> Any:
    from sacrebleu.metrics import BLEU

    return BLEU()


@cache
def _rouge_scorer() -> Any:
    from rouge_score.rouge_scorer import RougeScorer

    return RougeScorer(["rougeL"], use_stemmer=False)
