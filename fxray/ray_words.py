"""What Ray says of a failure, for people."""

import re

MOST_WORDS = 400
"""Characters of what is told."""
KNOWN_TO_RAY = ("class_name:", "actor_id:", "namespace:", "name:", "ip:")
FRAME = "  "
"""How lines of a traceback begin, but its first and its last."""
_COLOUR = re.compile(r"\x1b\[[0-9;]*m")
ADVICE_OF_RAY = (" Some common causes include", " Refer to the documentation", " To see ", " Set the RAY_")


def words_of(error: Exception) -> str:
    """What Ray says of a death, in one line: without numbers that only Ray knows, and without its general advice.

    Of a traceback, as where an actor's constructor raises or a node cannot make ready what the job brings, only the
    last line is told, which says what was raised.
    """
    lines = _COLOUR.sub("", str(error)).splitlines()
    told = [line.strip() for line in lines if not line.startswith(FRAME)]
    text = " ".join(line for line in told if line and not line.startswith(KNOWN_TO_RAY))
    for advice in ADVICE_OF_RAY:
        text = text.partition(advice)[0]
    return text[:MOST_WORDS]
