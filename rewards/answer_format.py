"""R_F, the format reward: does the answer keep to the grammar in every point?"""

from fxray.grammar import ParsedAnswer


def format_reward(answer: ParsedAnswer, *, right: float, wrong: float) -> float:
    """`right` for an answer without fault, else `wrong`.

    Args:
        answer: The strict reading, clipped to the model's frame.
        right: Reward of a well-formed answer.
        wrong: Reward of any other.
    """
    return right if answer.is_strict else wrong
