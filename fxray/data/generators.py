"""Names of generators: one that is spelled with other case, spaces or punctuation is the same."""

from collections.abc import Iterable


def plain_name(name: str) -> str:
    """A name without case, spaces and punctuation; one that has nothing else stays as it is."""
    return "".join(filter(str.isalnum, name.lower())) or name


def one_spelling(names: Iterable[str]) -> dict[str, str]:
    """By name the one spelling for it: the first, in the order of the alphabet, of those that are the same name."""
    known = sorted(set(names))
    first: dict[str, str] = {}
    for name in known:
        first.setdefault(plain_name(name), name)
    return {name: first[plain_name(name)] for name in known}
