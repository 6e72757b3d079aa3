"""The noun rule: what it lets pass, what it catches, and how often it errs on captions labelled by hand."""

import pytest

from fxray.data.check.captions import starts_with_noun
from fxray.data.synth.families import FAMILIES

# Captions of people and of the model, from figure 6 of the paper; a noun, or a noun phrase, leads each.
PAPER = (
    """
The animal has distorted beak|The animal has distorted legs|The upper beak is distorted, too long and looks blurry.
The fur has a wrong texture and material.|Legs twisted and deformed, paws partially blurred with bifurcations
Volcanic crater shape abnormal.|Mountain body partially missing.|Lava flow lacks connection, broken everywhere
Lava flow texture incorrect, layering effect too pronounced.|Lava flow lacks connection.|Text blurry.
Screen lines broken and disconnected.|The text on buttons are not identifiable.|Knob twisted and deformed.
Three knobs of different sizes.|Socks different in size and color, two socks asymmetrical|Font blurry.
Sock has different colors at both ends.|Wrinkles in toe area of sock.|Crack appearing in the floor.
Object twisted and deformed.|Inner circle width inconsistent between top and bottom.|Shape asymmetrical.
""".strip()
    .replace("\n", "|")
    .split("|")
)

# Written for this test, as such captions are written: with and without a leading noun.
LED = (
    """
Left hind leg twisted, merges with the floor|Extra finger on the right hand|Six fingers|Fingers fused together
Reflection missing in the mirror|Unreadable letters on the sign|Shadow falls towards the light|Wheel not round
Teeth irregular and too many|Ear melts into the hair|The dog's tail is doubled|Plastic-looking skin|Eyes of two colours
Hand with seven fingers|Butterfly wing torn and asymmetrical|Table legs of unequal length|Fish without eyes
Family of ducks merged|Jelly texture wrong|Background pattern repeats|Bicycle chain disconnected|Roof tiles warped
Nose bridge crooked|Window frames bent|Strange bright spots|A blurry, distorted face|Oversaturated sky
Doigts fusionnés|手指融合|Пальцы слиты|Finger verschmolzen
""".strip()
    .replace("\n", "|")
    .split("|")
)
NOT_LED = (
    """
is blurry|looks unnatural|very strange|blurry|distorted and unrealistic|There is no shadow|It has six fingers
They merge together|unnaturally smooth|too many|doesn't look real|Not symmetrical|with extra fingers|has no eyes
because it is too smooth|seems fake|Completely wrong|on the left side|This is wrong|unrealistic|What is this
appears to float|bent in a wrong way|twisted|In the background, letters are unreadable|Overly smooth and shiny
lacks detail|incorrect and blurry|warped|Broken|odd|123|...
merges with the floor|melting into the hair|floats above the ground
""".strip()
    .replace("\n", "|")
    .split("|")
)


@pytest.mark.parametrize("caption", PAPER + LED + [family.caption for family in FAMILIES])
def test_a_leading_noun_phrase_passes(caption: str) -> None:
    assert starts_with_noun(caption)


def test_most_captions_without_a_leading_noun_are_caught() -> None:
    missed = [caption for caption in NOT_LED if starts_with_noun(caption)]
    # Verbs outside the list count as nouns: the rule errs towards silence.
    assert missed == ["merges with the floor", "melting into the hair", "floats above the ground"]


def test_blank_text_and_hostile_text_are_read_in_no_time() -> None:
    assert not starts_with_noun("")
    assert not starts_with_noun("the " * 50_000)
    assert starts_with_noun("a" * 100_000)
    assert not starts_with_noun("'-" * 50_000)
