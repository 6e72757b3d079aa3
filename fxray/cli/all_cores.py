"""What lets a large piece of work on all cores, and loads Ray, and what its actors need, only then."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from fxray.data.parts import Work


def on_all_cores(work: Work, parts: Sequence[int]) -> Iterator[tuple[int, bytes]]:
    """Does parts by Ray Data, and gives the number of each that is done with what came of it."""
    from fxray.launch import parts as launched

    return launched.on_all_cores(work, parts)
