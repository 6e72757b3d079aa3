"""CSV files whose columns are not separated by commas, as spreadsheets of many countries save them."""

from collections.abc import Sequence

_SEPARATORS = ((";", "semicolons"), ("\t", "tabs"), ("|", "bars"))


def remedy_for_columns(columns: Sequence[str], otherwise: str) -> str:
    """What to do about a CSV file that lacks a column.

    Args:
        columns: The names in its first line, as a reader for commas finds them.
        otherwise: The remedy where commas do separate them.
    """
    for separator, word in _SEPARATORS:
        if len(columns) == 1 and separator in columns[0]:
            return f"separate columns by commas: these seem to be separated by {word}"
    return otherwise
