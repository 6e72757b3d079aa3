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

# Written when the rule was finished, and not looked at while it was made: its error rates are those of these sixty.
FRESH_LED = (
    """
Ear lobe merges into the earring|Dog paws have too many toes|Bus window reflects nothing
Second arm grows from the back|Water surface looks like glass|Bird beak splits in two|Staircase leads nowhere
Letters on the poster are not readable|Wing feathers fade into the sky|Tyre tread irregular|Sheep with three horns
Rear wheel smaller than the front one|Bread crust appears metallic|Pair of glasses without a bridge
Ring on the finger blends with the skin|Lamp post bends halfway|Clock hands duplicated, numerals in wrong order
Broken keyboard keys|Skin pores absent, waxy look|Snow on the roof ends abruptly|Seed heads repeat
Red stain without cause|Chess board has uneven squares|Bed legs vanish|A building whose floors do not line up
Facial hair grows over the lip|Upper teeth fused into one band|Shoelaces go through the leather
Crowded background of half-formed people|Speedboat hull warped
""".strip()
    .replace("\n", "|")
    .split("|")
)
FRESH_NOT_LED = (
    """
Looks like wax|Not aligned|Clearly edited|Blends with the background|Too shiny|Does not follow perspective
Stretched|Badly rendered|Has an extra joint|Slightly transparent|Physically impossible|Out of focus|Cut off
Made of plastic|Glued together|Wrongly attached to the body|Seems to float|Melted and blurred|Unrecognizable
There are two noses|It is unclear what this is|Duplicated|Illogical and surreal|Above the door nothing is readable
Hanging in the air|Growing out of the wall|Smaller than it should be|Almost invisible|Rotated by 90 degrees
Bends the wrong way
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
    assert missed == ["melting into the hair"]


def test_the_error_rates_on_captions_that_the_rule_was_not_made_with() -> None:
    false_alarms = [caption for caption in FRESH_LED if not starts_with_noun(caption)]
    missed = [caption for caption in FRESH_NOT_LED if starts_with_noun(caption)]
    assert (len(FRESH_LED), len(false_alarms)) == (30, 0)
    assert (len(FRESH_NOT_LED), len(missed)) == (30, 5)


def test_blank_text_and_hostile_text_are_read_in_no_time() -> None:
    assert not starts_with_noun("")
    assert not starts_with_noun("the " * 50_000)
    assert starts_with_noun("a" * 100_000)
    assert not starts_with_noun("'-" * 50_000)
