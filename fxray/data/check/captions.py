"""Does a caption start with a noun? A rule with closed word lists, no language model.

Words that may stand before a noun (articles, numbers, adjectives, participles) are passed over; the first other word
decides: a word of the closed classes (pronoun, preposition, conjunction, auxiliary, adverb) or a plain verb means that
no noun leads, anything else counts as a noun. So an unknown word, in any language, is a noun, and the rule errs towards
silence. `docs/data-quality.md` has its error rates.
"""

import re

_WORD = re.compile(r"[^\W\d_]+(?:['’-][^\W\d_]+)*|\d+")


def _words(text: str) -> frozenset[str]:
    return frozenset(text.split())


_BEFORE_A_NOUN = _words(
    """
    a an the this that these those some any each every all both no one two three four five six seven eight nine ten
    several many few multiple various other another such his her its their our your my
    abnormal additional anatomical ambiguous asymmetric asymmetrical awkward bad bizarre bent black blank blue blurred
    blurry broken brown chaotic cluttered coarse colourful colorful confused cracked crooked curved cut dark deformed
    different dirty disconnected discontinuous disjointed disproportionate distorted double duplicate duplicated empty
    excessive extra faded fake faint false fantastical flat floating foggy fuzzy garbled geometrical ghostly glossy
    gray green grey grainy hazy huge illegible illogical impossible improper inaccurate incoherent incomplete
    incongruous inconsistent incorrect indistinct inner intertwined invisible irregular jagged large larger left long
    low lower malformed meaningless melted merged messy misaligned mismatched misplaced misshapen missing mixed mutated
    narrow natural nonsensical noisy odd off old opaque orange outer overexposed overly overlapping oversaturated
    partial patchy peculiar pink pixelated plastic plastic-looking poor purple random realistic rear red repeated
    repeating repetitive right rough round semi-transparent shallow sharp shiny short simple single slight small smaller
    smeared smooth smudged soft soulless strange stretched surreal thick thin tilted tiny top translucent transparent
    twisted ugly unclear undefined uneven unequal unidentifiable unnatural unreadable unreal unrealistic unrecognisable
    unrecognizable unusual upper vague warped wavy waxy weird white wide wrong yellow
    very too so quite rather
    """
)
_NO_NOUN = _words(
    """
    i you he she it we they him them us me who whom what which there here something nothing everything anything
    in on at of from to into onto by with without within behind below beneath above under over between among around
    across along against near through during before after as like than about for inside outside beside
    and or but nor yet if because although though while when where since that's how why
    is are was were be been being am isn't aren't wasn't weren't has have had hasn't haven't does do did doesn't don't
    can cannot can't could should would will won't may might must shall
    not never also just only even still almost
    looks looked looking seems seemed seeming appears appeared appearing lacks lacked lacking contains contained
    consists makes made makes becomes became becoming feels felt shows showed see seen look seem appear lack contain
    merges melts disappears blends connects resembles fades dissolves vanishes intersects repeats floats goes comes
    unlike somewhat upside facing pointing
    """
)
_ADJECTIVE_ENDINGS = ("ed", "ous", "ful", "less", "ish", "ical", "able", "ible", "ly")
_NOUNS_WITH_SUCH_ENDINGS = _words(
    """
    family belly fly butterfly jelly assembly anomaly lily bully ally supply reply dragonfly table cable vegetable
    syllable fish jellyfish goldfish starfish dish radish rubbish polish finish brush bible crucible handful mouthful
    constable bed seed weed speed breed reed shed sled feed steed need deed hundred hatred
    """
)


def starts_with_noun(caption: str) -> bool:
    """True unless the rule is sure that no noun leads the caption."""
    for word in map(str.lower, _WORD.findall(caption)):
        if word in _NO_NOUN:
            return False
        if word in _BEFORE_A_NOUN or word.isdigit():
            continue
        if word.endswith(_ADJECTIVE_ENDINGS) and word not in _NOUNS_WITH_SUCH_ENDINGS:
            continue
        return True
    return False
