"""The nine chat templates (texts in `templates.yaml`), and which of them asks about a sample.

System prompt and query vary, the structure of the answer never does, so the parser does not depend on the template.
The paper (appendix A.1) has three templates for real images and six for generated ones, which lets the question leak
the label; by default fxray draws one of all nine whatever the label is.
"""

import hashlib
from dataclasses import dataclass
from functools import cache
from importlib import resources
from typing import Literal

import yaml

from fxray.grammar.views import ViewName
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


@cache
def templates_of(view: ViewName) -> tuple[Template, ...]:
    """The nine templates in the words of a view; the same index asks the same question."""
    texts = yaml.safe_load(resources.files("fxray.grammar").joinpath("templates.yaml").read_text("utf-8"))
    return tuple(Template(index, **text[view]) for index, text in enumerate(texts))


TEMPLATES = templates_of("full")

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
    digest = hashlib.sha256(repr(key).encode()).digest()
    return TEMPLATES[indices[int.from_bytes(digest[:8], "big") % len(indices)]]


def template_warning(setting: TemplateSetting) -> str | None:
    """What becomes of a detector that is trained with such sets; None where nothing does."""
    if EVALUATION_TEMPLATE.index in _INDICES[setting][Verdict.GENERATED]:
        return None
    return (
        f"data.templates {setting} shows the question that detection and evaluation ask with real images alone: the "
        "detector learns to answer `real` to it; take `shared`, unless this is what you measure"
    )
