"""How many there are of something, in words that fit one of it too."""


def counted(num: int, one: str, many: str = "") -> str:
    """A count and what is counted: "1 row", "2 rows", "1 row is", "2 rows are".

    Args:
        num: How many.
        one: Said of one.
        many: Said of any other number; by default the same with an s.
    """
    return f"{num} {one if num == 1 else many or f'{one}s'}"
