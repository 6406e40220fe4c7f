"""Who holds which range: by its first number at once, in order for who asks.

Handing out and giving back change one entry of a dict. The order is needed only to tell who is in the way of a request,
which is rare, so nobody pays for it beforehand: a sorted list is made when somebody asks, and brought up to date when
somebody asks again. Next: ``allocator.py``, which enters what it gives.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Iterator

CHANGES_MAX = 500  # beyond so many since it was last asked for, the order is forgotten: memory stays bounded


class Holders:
    """Disjoint inclusive ranges and who holds each: one owner, or those who share it.

    ``enter``, ``get`` and ``drop`` take constant time. ``overlapping`` finds its first range in logarithmic time when
    nothing has changed since it was last asked; each change since then costs it one insertion into a list, and after
    more than ``CHANGES_MAX`` it sorts anew. That ranges do not overlap is for the caller to see to.
    """

    __slots__ = ("_changed", "_held", "_order")

    def __init__(self) -> None:
        self._held: dict[int, tuple[int, tuple[str, ...]]] = {}  # by first number: the last one, and the owners
        self._order: list[int] | None = None  # the first numbers, sorted, as of before what is in _changed
        self._changed: set[int] = set()

    def __len__(self) -> int:
        return len(self._held)

    def __iter__(self) -> Iterator[tuple[int, int, tuple[str, ...]]]:
        """Everything, in order."""
        for first in self._sorted():
            yield first, *self._held[first]

    def __getitem__(self, first: int) -> tuple[int, tuple[str, ...]]:
        """The last number and the owners of the range that starts at ``first``. KeyError if none does."""
        return self._held[first]

    def get(self, first: int) -> tuple[int, tuple[str, ...]] | None:
        """The same, or None."""
        return self._held.get(first)

    def enter(self, first: int, last: int, owners: tuple[str, ...]) -> None:
        """Let ``owners`` hold ``first``..``last``, instead of whoever held exactly that."""
        self._held[first] = last, owners
        if self._order is not None:
            self._note(first)

    def drop(self, first: int) -> None:
        """Let nobody hold the range that starts at ``first``. KeyError if none does."""
        del self._held[first]
        if self._order is not None:
            self._note(first)

    def overlapping(self, first: int, last: int) -> Iterator[tuple[int, int, tuple[str, ...]]]:
        """All ranges with a number in ``first``..``last``, whole and in order, without visiting any others."""
        order, held = self._sorted(), self._held
        start, stop = bisect_right(order, first), bisect_right(order, last)
        if start and held[order[start - 1]][0] >= first:
            start -= 1
        for index in range(start, stop):
            yield order[index], *held[order[index]]

    def _note(self, first: int) -> None:
        self._changed.add(first)
        if len(self._changed) > CHANGES_MAX:
            self._order = None
            self._changed.clear()

    def _sorted(self) -> list[int]:
        if self._order is None:
            self._order = sorted(self._held)
        order = self._order
        for first in self._changed:
            index = bisect_left(order, first)
            stood = index < len(order) and order[index] == first
            if first not in self._held and stood:
                del order[index]
            elif first in self._held and not stood:
                order.insert(index, first)
        self._changed.clear()
        return order
