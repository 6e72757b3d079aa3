"""The answer grammar, both directions: `render` writes what SFT teaches, `parse` reads what the model says."""

from fxray.grammar.answer import Fault, FaultKind, ParsedAnswer
from fxray.grammar.parse import parse
from fxray.grammar.render import render

__all__ = ["Fault", "FaultKind", "ParsedAnswer", "parse", "render"]
