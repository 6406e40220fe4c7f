"""Who answers at this port or address.

A projection of the registered devices' ranges. Ranges are disjoint, except that a device may lie inside its parent's
range (a function behind a bridge): then the innermost one answers. An access must fit one registered range whole and
may not run into a range that lies inside it. Next: ``esrm/devices.py``, which takes an access to the live device.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Callable, Collection, Iterator
from typing import Any, NamedTuple, cast

from esrm.core.resources import Space
from esrm.errors import AddressConflict, InvalidAccess, InvalidConstraint, NotMapped


class Answer(NamedTuple):
    """The device that answers, its range ``base``-``last`` (inclusive), and the ``offset`` of the access inside it."""

    device: str
    base: int
    last: int
    offset: int


PAGES_MAX = 0x4000  # pages of 0x1000 remembered at once: two megabytes, for 64 of guest addresses

# A NamedTuple's own constructor runs in Python, for a third of a look-up.
_answer: Callable[[type[Answer], tuple[str, int, int, int]], Answer] = cast(Any, tuple).__new__


class _Entry:
    __slots__ = ("ancestors", "base", "device", "last", "up")

    def __init__(self, base: int, last: int, device: str, ancestors: Collection[str], up: _Entry | None) -> None:
        self.base = base
        self.last = last
        self.device = device
        self.ancestors = ancestors
        self.up = up  # the smallest registered range around this one


class Bus:
    """The registered ranges of each space, found in logarithmic time."""

    def __init__(self) -> None:
        # Two parallel lists a space: bisect wants bare integers. Of equal bases the inner range stands last.
        self._bases: dict[Space, list[int]] = {space: [] for space in Space}
        self._entries: dict[Space, list[_Entry]] = {space: [] for space in Space}
        # Pages in which one range answers everywhere, as far as they were asked for since a range came or went. Not its
        # entry, but what is said of it: among 10,000 ranges each object more to look into is one more cache miss.
        self._pages: dict[Space, dict[int, tuple[str, int, int]]] = {space: {} for space in Space}

    def find(self, space: Space, address: int, size: int = 1) -> Answer:
        """Who answers an access of ``size`` bytes at ``address``.

        Raises:
            NotMapped: nobody. InvalidAccess: the access does not fit one registered range whole.
        """
        # Every exit of the guest comes here, mostly for a page that was asked for before: then one look will do, which
        # takes two thirds of a bisection's time among 64 ranges, and half among 10,000.
        known = self._pages[space].get(address >> 12)
        if known is not None and 0 < size <= 0x1000 - (address & 0xFFF):
            device, base, last = known
            return _answer(Answer, (device, base, last, address - base))
        bases = self._bases[space]
        behind = bisect_right(bases, address)
        entry = nearest = self._entries[space][behind - 1] if behind else None
        while entry is not None and entry.last < address:
            entry = entry.up
        if entry is None:
            raise NotMapped(f"nobody answers at {space.value} {address:#x}")
        end, base, last = address + size - 1, entry.base, entry.last
        if size < 1 or end > last or (behind < len(bases) and bases[behind] <= end):
            raise InvalidAccess(
                f"{size} bytes at {space.value} {address:#x} do not fit {entry.device} ({base:#x}-{last:#x})"
            )
        if last - base >= 0xFFF and entry is nearest:
            self._learn(space, address & ~0xFFF, entry, behind)
        return _answer(Answer, (entry.device, base, last, address - base))

    def lookup(self, space: Space, address: int) -> Answer | None:
        """The same for one byte, with None for nobody."""
        entry = self._at(space, address)
        return None if entry is None else Answer(entry.device, entry.base, entry.last, address - entry.base)

    def register(self, space: Space, base: int, size: int, device: str, ancestors: Collection[str] = ()) -> None:
        """Let ``device`` answer at ``size`` addresses from ``base`` on, inside its ancestors' ranges or outside all.

        Raises:
            InvalidConstraint: zero-sized or past the space's end. AddressConflict: somebody else answers there.
        """
        last = _last(space, base, size)
        outer, inner = self._family(space, base, last, device, ancestors)
        around = outer[-1] if outer else None
        entry = _Entry(base, last, device, ancestors, around)
        for child in inner:
            if child.up is around:
                child.up = entry
        bases = self._bases[space]
        index = bisect_left(bases, base) + sum(e.base == base for e in outer)
        bases.insert(index, base)
        self._entries[space].insert(index, entry)
        self._pages[space].clear()

    def unregister(self, space: Space, base: int, size: int, device: str | None = None) -> None:
        """Let nobody (or the range around it) answer there any more.

        Raises:
            InvalidConstraint: zero-sized. NotMapped: exactly this range (of this device) is not registered.
        """
        index = self._index(space, base, size, device)
        entry = self._entries[space].pop(index)
        del self._bases[space][index]
        self._pages[space].clear()
        for child in self._overlapping(space, entry.base, entry.last):
            if child.up is entry:
                child.up = entry.up

    def move(self, space: Space, base: int, new_base: int, size: int) -> None:
        """Let the device that answers at ``base`` answer at ``new_base`` instead; on a refusal nothing changed.

        Raises:
            InvalidConstraint, NotMapped, AddressConflict: as for ``unregister`` and ``register``.
        """
        index = self._index(space, base, size, None)
        entry = self._entries[space][index]
        new_last = _last(space, new_base, size)
        self._family(space, new_base, new_last, entry.device, entry.ancestors, leaving=entry)
        self.unregister(space, base, size, entry.device)
        self.register(space, new_base, size, entry.device, entry.ancestors)

    def ranges(self, space: Space) -> Iterator[Answer]:
        """Everything registered in a space, in address order, outer before inner."""
        return (Answer(e.device, e.base, e.last, 0) for e in self._entries[space])

    def _at(self, space: Space, address: int) -> _Entry | None:
        index = bisect_right(self._bases[space], address) - 1
        entry = self._entries[space][index] if index >= 0 else None
        while entry is not None and entry.last < address:
            entry = entry.up
        return entry

    def _learn(self, space: Space, page: int, entry: _Entry, behind: int) -> None:
        """Remember the page of an access, if nobody else answers in it: no range before ``behind`` does any more."""
        pages, next_base = self._pages[space], self._bases[space][behind : behind + 1]
        if entry.base <= page and page + 0xFFF < min([entry.last + 1, *next_base]):
            if len(pages) >= PAGES_MAX:
                pages.clear()
            pages[page >> 12] = entry.device, entry.base, entry.last

    def _overlapping(self, space: Space, base: int, last: int) -> list[_Entry]:
        """Everything that touches base..last, in address order, outer before inner."""
        bases = self._bases[space]
        found: list[_Entry] = []
        entry = self._at(space, base)
        while entry is not None:
            found.append(entry)
            entry = entry.up
        found.reverse()
        return found + self._entries[space][bisect_right(bases, base) : bisect_right(bases, last)]

    def _family(
        self,
        space: Space,
        base: int,
        last: int,
        device: str,
        ancestors: Collection[str],
        leaving: _Entry | None = None,
    ) -> tuple[list[_Entry], list[_Entry]]:
        """The ancestors' ranges around base..last and the descendants' ranges inside it; anything else conflicts."""
        outer: list[_Entry] = []
        inner: list[_Entry] = []
        strangers: list[_Entry] = []
        for entry in self._overlapping(space, base, last):
            if entry is leaving:
                continue
            if entry.device in ancestors and entry.base <= base and last <= entry.last:
                outer.append(entry)
            elif device in entry.ancestors and base <= entry.base and entry.last <= last:
                inner.append(entry)
            else:
                strangers.append(entry)
        if strangers:
            held = ", ".join(f"{e.device} ({e.base:#x}-{e.last:#x})" for e in strangers)
            raise AddressConflict(f"{device}: {space.value} {base:#x}-{last:#x} runs into {held}")
        return outer, inner

    def _index(self, space: Space, base: int, size: int, device: str | None) -> int:
        last = _last(space, base, size)
        bases = self._bases[space]
        for index in range(bisect_left(bases, base), bisect_right(bases, base)):
            entry = self._entries[space][index]
            if entry.last == last and device in (None, entry.device):
                return index
        raise NotMapped(f"{space.value} {base:#x}-{last:#x} is not registered{f' by {device}' if device else ''}")


def _last(space: Space, base: int, size: int) -> int:
    last = base + size - 1
    if size < 1 or not 0 <= base <= last <= space.last:
        raise InvalidConstraint(
            f"{space.value} range at {base:#x} of size {size:#x}: it must be at least 1 and end by {space.last:#x}"
        )
    return last
