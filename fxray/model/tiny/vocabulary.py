"""The texts that the tiny tokenizer's words come from: chat templates, tags, captions, grounding questions."""

from transformers import PreTrainedTokenizerFast

from fxray.data.synth.families import FAMILIES
from fxray.grammar.prompts import TEMPLATES
from fxray.grammar.render import render
from fxray.model.tiny import questions
from fxray.model.tiny.tokenizer import train_tokenizer
from fxray.schema import Annotation, Box, Region, Verdict


def vocabulary_texts() -> list[str]:
    """Every text that a prompt or an answer of the demo can be made of; numbers stand for any number."""
    box = Box(1, 2, 3, 4)
    texts = [text for template in TEMPLATES for text in (template.system, template.query)] * 20
    texts += questions.corpus() * 10
    texts += [render(Annotation(Verdict.REAL))] * 500
    for family in FAMILIES:
        answer = render(Annotation(Verdict.GENERATED, (Region(box, family.caption),) * 2, family.tags))
        texts += [answer] * 50
    return texts


def build_tokenizer() -> PreTrainedTokenizerFast:
    """The tiny model's tokenizer; the same on every machine."""
    return train_tokenizer(vocabulary_texts())
