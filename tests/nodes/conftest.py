import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))  # its helpers, for these tests alone


@pytest.fixture(scope="session")
def record() -> Iterator[Callable[[str, float], None]]:
    """Takes down seconds, which are printed at the end (pytest -s)."""
    taken: dict[str, float] = {}
    yield taken.__setitem__
    for what, seconds in taken.items():
        print(f"\n{seconds:8.1f} s  {what}", end="")
