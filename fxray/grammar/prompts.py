"""The nine chat templates, and which of them asks about a sample.

System prompt and query vary, the structure of the answer never does, so the parser does not depend on the template.
The paper (appendix A.1) has three templates for real images and six for generated ones, which lets the question leak
the label; by default fxray draws one of all nine whatever the label is.
"""

import hashlib
from dataclasses import dataclass
from typing import Literal

from fxray.schema import Verdict

TemplateSetting = Literal["shared", "by-class", "1+1", "3+2"]
"""`shared`: all nine for both classes. The others are the paper's sets, real + generated: 3+6, and E.3's 1+1, 3+2."""


@dataclass(frozen=True, slots=True)
class Template:
    """What stands before an answer.

    Attributes:
        index: Place among the nine.
        system: System prompt.
        query: User text beside the image.
    """

    index: int
    system: str
    query: str


_TEXTS = (
    (
        "You check images. In think list each flaw and its box, then name tags, then give the verdict.",
        "Is this image real or generated?",
    ),
    (
        "You look for flaws. First think: flaws with boxes. Then the tag block. Then the verdict block.",
        "Look at this image. Is it real?",
    ),
    (
        "Give a think block of flaws and boxes, a tag block, and a verdict block: real or generated.",
        "Check this image.",
    ),
    (
        "You tell real images from generated ones. Think of each flaw with its box, tag them, give a verdict.",
        "Was this image generated?",
    ),
    (
        "Name each flaw in think, with a box. Put tags in tag. Say real or generated in verdict.",
        "Find the flaws of this image.",
    ),
    (
        "Answer in three blocks: think with flaws and boxes, tag with tags, verdict with real or generated.",
        "Tell if this image is real or generated.",
    ),
    (
        "You are an image checker. Think with flaws and boxes first, then tag, then verdict.",
        "Which flaws has this image?",
    ),
    (
        "List flaws and their boxes in the think block, tags in the tag block, and end with the verdict block.",
        "Look for flaws and give a verdict.",
    ),
    (
        "You give a verdict on images: first think of flaws with boxes, then give tags, then real or generated.",
        "What is your verdict on this image?",
    ),
)

TEMPLATES = tuple(Template(index, system, query) for index, (system, query) in enumerate(_TEXTS))

EVALUATION_TEMPLATE = TEMPLATES[0]
"""Every evaluation and detection asks with this one."""

_INDICES: dict[TemplateSetting, dict[Verdict, range]] = {
    "shared": {Verdict.REAL: range(9), Verdict.GENERATED: range(9)},
    "by-class": {Verdict.REAL: range(3), Verdict.GENERATED: range(3, 9)},
    "3+2": {Verdict.REAL: range(3), Verdict.GENERATED: range(3, 5)},
    "1+1": {Verdict.REAL: range(1), Verdict.GENERATED: range(3, 4)},
}


def draw_template(setting: TemplateSetting, verdict: Verdict, key: tuple[int, str, int]) -> Template:
    """Draws the template that asks about a sample in an epoch, uniformly from its set.

    Args:
        setting: Which sets there are; under `shared` the verdict has no influence.
        verdict: The true class of the sample.
        key: Run seed, sample id, epoch. The same key draws the same template on every machine.
    """
    indices = _INDICES[setting][verdict]
    digest = hashlib.sha256(repr(key).encode("utf-8", "backslashreplace")).digest()
    return TEMPLATES[indices[int.from_bytes(digest[:8], "big") % len(indices)]]
