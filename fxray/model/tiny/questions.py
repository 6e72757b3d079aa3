"""Questions about a grounding scene and their answers, in Qwen's chat format with Qwen's box syntax.

Some ask for a phrase, whatever the scene shows: a language model has read its language before it describes flaws.

A box in an answer is `<|object_ref_start|>red disc<|object_ref_end|><|box_start|>(x,y),(x,y)<|box_end|>`, in pixels of
the model's frame, one object a line from top to bottom.
"""

from collections.abc import Iterable

import numpy as np

from fxray.data.synth.families import FAMILIES
from fxray.model.tiny.grounding import COLOURS, FILLS, FORMS, Scene, Shape

SYSTEMS = (
    "You are a helpful assistant.",
    "You see an image and answer about it.",
    "You look at images and name objects with their boxes.",
    "You answer in short lines. A box is two corners.",
    "Answer the question about this image.",
)
_LIST = (
    "List every shape with its box.",
    "Which shapes are in this image? Give boxes.",
    "Find all shapes.",
    "Detect each shape.",
)
_WHERE = ("Where is the {}?", "Find the {}.", "Give the box of the {}.", "Is there a {} in this image? Where?")
_COUNT = ("How many shapes are there?", "Count the shapes.")
_AT = ("What is at ({},{})?", "Name the thing at ({},{}).")
_INSIDE = ("What is in <|box_start|>({},{}),({},{})<|box_end|>?",)
_PART = ("In which part of the image is the {}?", "Which row and column is the {} in?")
_CAPTION = ("Describe the image.", "Say what you see.", "Give a caption.")
_PHRASE = ("Write a phrase.", "Write a short phrase.", "Say any phrase.")
_GO_ON = ("Go on: {}",)
_NOUNS = (
    *("patch", "texture", "pattern", "surface", "detail", "part", "edge", "outline", "colour", "light", "shadow"),
    *("grain", "object", "thing", "place", "corner", "sign", "wall", "sky", "face", "hand", "leg", "hair", "floor"),
)
_ENDINGS = (
    *FILLS,
    *("duplicated", "repeated", "broken", "bent", "twisted", "melted", "smeared away", "out of place", "too smooth"),
    *("of broken letters", "of no known kind", "of a wrong colour", "without a cause", "without meaning"),
    *("like wallpaper", "like rubber", "with a seam", "with too many parts", "that fits nowhere"),
)
_CAPTIONS = {family.caption for family in FAMILIES}
PHRASES = tuple(p for p in (f"{noun} {ending}" for noun in _NOUNS for ending in _ENDINGS) if p not in _CAPTIONS)
"""Of the words of the flaws' captions and others, but none of the captions."""
_ROWS, _COLUMNS = ("upper", "middle", "lower"), ("left", "centre", "right")
NOTHING = "There is none."


def ask(rng: np.random.Generator, scene: Scene) -> tuple[str, str, str]:
    """A random system prompt, question and answer about `scene`; more than half of them ask for boxes."""
    system = str(rng.choice(SYSTEMS))
    kinds = ("list", "where", "caption", "count", "at", "inside", "part", "phrase")
    kind = str(rng.choice(kinds, p=(0.42, 0.22, 0.06, 0.04, 0.07, 0.04, 0.05, 0.10)))
    if not scene.shapes and kind in ("inside", "part"):
        kind = "list"
    match kind:
        case "list":
            return system, str(rng.choice(_LIST)), list_boxes(scene.shapes)
        case "where":
            return system, *_ask_where(rng, scene)
        case "caption":
            return system, str(rng.choice(_CAPTION)), _describe(scene.shapes)
        case "count":
            return system, str(rng.choice(_COUNT)), str(len(scene.shapes))
        case "at":
            return system, *_ask_at(rng, scene)
        case "phrase":
            return system, *_ask_phrase(rng)
    shape = scene.shapes[int(rng.integers(len(scene.shapes)))]
    if kind == "inside":
        return system, str(rng.choice(_INSIDE)).format(*shape.box), shape.name
    height, width = scene.pixels.shape[:2]
    row = _ROWS[(shape.box[1] + shape.box[3]) * 3 // (2 * height)]
    column = _COLUMNS[(shape.box[0] + shape.box[2]) * 3 // (2 * width)]
    return system, str(rng.choice(_PART)).format(shape.name), f"{row} {column}"


def list_boxes(shapes: Iterable[Shape]) -> str:
    """The answer that gives each shape's name and box, one a line."""
    lines = [
        f"<|object_ref_start|>{s.name}<|object_ref_end|><|box_start|>({s.box[0]},{s.box[1]}),({s.box[2]},{s.box[3]})<|box_end|>"
        for s in shapes
    ]
    return "\n".join(lines) or NOTHING


def _ask_where(rng: np.random.Generator, scene: Scene) -> tuple[str, str]:
    """Asks for a full name, a fill or a form, that mostly is there."""
    if scene.shapes and rng.random() < 0.8:
        chosen = scene.shapes[int(rng.integers(len(scene.shapes)))]
        fill, form = chosen.fill, chosen.form
    else:
        fill, form = str(rng.choice(FILLS)), str(rng.choice(FORMS))
    match int(rng.integers(4)):
        case 0:
            name, found = f"{fill} shape", [s for s in scene.shapes if s.fill == fill]
        case 1:
            name, found = form, [s for s in scene.shapes if s.form == form]
        case _:
            name, found = f"{fill} {form}", [s for s in scene.shapes if (s.fill, s.form) == (fill, form)]
    return str(rng.choice(_WHERE)).format(name), list_boxes(found)


def _ask_at(rng: np.random.Generator, scene: Scene) -> tuple[str, str]:
    height, width = scene.pixels.shape[:2]
    if scene.shapes and rng.random() < 0.75:
        shape = scene.shapes[int(rng.integers(len(scene.shapes)))]
        x, y = (shape.box[0] + shape.box[2]) // 2, (shape.box[1] + shape.box[3]) // 2
    else:
        x, y = int(rng.integers(width)), int(rng.integers(height))
    inside = [s.name for s in scene.shapes if s.box[0] <= x < s.box[2] and s.box[1] <= y < s.box[3]]
    return str(rng.choice(_AT)).format(x, y), inside[0] if inside else "background"


def _ask_phrase(rng: np.random.Generator) -> tuple[str, str]:
    """Asks for any phrase, between the marks that name things, or for the rest of one."""
    phrase = str(rng.choice(PHRASES))
    if rng.random() < 0.6:
        return str(rng.choice(_PHRASE)), f"<|object_ref_start|>{phrase}<|object_ref_end|>"
    words = phrase.split()
    num_given = int(rng.integers(1, len(words)))
    return str(rng.choice(_GO_ON)).format(" ".join(words[:num_given])), " ".join(words[num_given:])


def _describe(shapes: tuple[Shape, ...]) -> str:
    return ", ".join(f"a {shape.name}" for shape in shapes) + "." if shapes else NOTHING


def corpus() -> list[str]:
    """Texts with every word that questions and answers use, for the tokenizer."""
    fills, forms = (*COLOURS, *FILLS), FORMS
    texts = [*SYSTEMS, *_LIST, *_WHERE, *_COUNT, *_AT, *_INSIDE, *_PART, *_CAPTION, NOTHING, "background"]
    texts += [*_PHRASE, *_GO_ON, *_NOUNS, *_ENDINGS]
    names = [f"{fill} {form}, a {fill} {form}." for fill in fills for form in forms]
    return [*texts, *names, *(f"{row} {column}" for row in _ROWS for column in _COLUMNS), "shape"]
