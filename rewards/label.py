"""R_C, the label reward: does the verdict agree with the truth?"""

from fxray.schema import Verdict


def label_reward(verdict: Verdict | None, truth: Verdict, *, right: float, wrong: float) -> float:
    """`right` where the verdict is the true one, else `wrong`; an answer without verdict is wrong."""
    return right if verdict is truth else wrong
