"""CSV files with other separators than commas: whoever reads a list says so."""

from collections.abc import Callable
from pathlib import Path

import pytest

from fxray.data.formats.manifest import _csv_rows
from fxray.data.ratings import read_ratings
from fxray.data.separators import remedy_for_columns
from fxray.detect.manifest import paths_in
from fxray.errors import DataError

READERS: dict[str, Callable[[Path], object]] = {
    "data import": lambda path: list(_csv_rows(path)),
    "data select": lambda path: read_ratings(path, frozenset({"a"}), per_image=1, scale=None),
    "detect": lambda path: list(paths_in(path)),
}


@pytest.mark.parametrize("reader", READERS)
@pytest.mark.parametrize(("separator", "word"), [(";", "semicolons"), ("\t", "tabs"), ("|", "bars")])
def test_every_list_names_its_separator(tmp_path: Path, reader: str, separator: str, word: str) -> None:
    lines = (("image", "sample_id", "rater", "rating"), ("a.png", "a", "r1", "3"))
    path = tmp_path / "list.csv"
    path.write_text("".join(separator.join(line) + "\n" for line in lines))
    with pytest.raises(DataError) as caught:
        READERS[reader](path)
    assert caught.value.remedy == f"separate columns by commas: these seem to be separated by {word}"


def test_one_column_with_another_name_is_no_matter_of_separators() -> None:
    assert remedy_for_columns(["picture"], "name it so") == "name it so"
    assert remedy_for_columns(["a;b", "c"], "name it so") == "name it so"
    assert remedy_for_columns([], "name it so") == "name it so"
