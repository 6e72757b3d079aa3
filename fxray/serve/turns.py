"""Whose work comes next: owners take turns, and each one's work keeps its order."""

from collections import deque
from collections.abc import Iterable
from typing import Generic, TypeVar

T = TypeVar("T")


class Turns(Generic[T]):
    """A queue in which nobody waits for all that another has handed in."""

    def __init__(self) -> None:
        self._left: dict[str, deque[T]] = {}

    def add(self, owner: str, items: Iterable[T]) -> None:
        """Puts items behind the others of their owner."""
        self._left.setdefault(owner, deque()).extend(items)

    def take(self) -> T | None:
        """The next item of the owner whose turn it is; None where nothing is left."""
        for owner in list(self._left):
            items = self._left.pop(owner)
            if items:
                item = items.popleft()
                self._left[owner] = items  # at the end: the others come first
                return item
        return None
