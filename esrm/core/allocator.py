"""What is free and who holds the rest: one ledger a space, and one for each parent's window.

The free ranges (``ranges.py``) answer "where does it fit" in logarithmic time, the held ones (``holders.py``) "who is
in the way". It is a projection of the events like everything else, built from the state on first use and kept current
by ``evolve``. It decides nothing: ``placement.py`` asks it where, ``state.py`` tells it what happened.
Next: ``ranges.py``, where the search for room is.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterable, Iterator, Sequence
from heapq import merge

import msgspec

from esrm.core.events import Holding
from esrm.core.holders import Holders
from esrm.core.platform import Platform, Range, Reserved
from esrm.core.ranges import RangeSet
from esrm.core.resources import Resource, Space, bounds, span
from esrm.errors import AddressConflict, NotAllocated, OutOfRange

BLOCKERS_MAX = 12
"""A refusal names at most this many holders, or pools: it is an event, and an event is short, however long their names.
"""


class Usage(msgspec.Struct, frozen=True):
    """How full a space is, in numbers of that space (bytes, ports, lines): total = free + held + reserved."""

    space: Space
    total: int
    free: int
    held: int
    reserved: int
    holes: int
    hole_max: int

    def __str__(self) -> str:
        share = f"{100 * self.free // self.total}% free" if self.total else "no pool"
        return f"{self.space.value} {share}, {self.holes} holes"


class Ledger:
    """The free and the held numbers of one space, or of one parent's window in it.

    Numbers outside the pools can be taken only when asked for by name, and only where ``beyond`` has them: any
    Ethernet address, and the platform's shared line. Pools that touch are one stretch; but when they are ``apart``, as
    the windows of a bridge are, what is given lies whole in one of them, so that the bus can route it.
    """

    def __init__(
        self,
        space: Space,
        pools: Iterable[Range],
        reserved: Iterable[Reserved] = (),
        shared_line: int | None = None,
        *,
        apart: bool = False,
    ) -> None:
        self.space = space
        lines = [] if shared_line is None else [(shared_line, shared_line)]
        self.pools = tuple(_without(pools, lines))
        self.seams = frozenset(low for low, _ in self.pools[1:]) if apart else frozenset[int]()
        self.reserved = sorted((r.first, r.last, r.owner) for r in reserved)
        self.shared_line = shared_line
        self.shared: set[int] = set()
        self.free = RangeSet()
        self.beyond = RangeSet()
        self.held = Holders()
        walls = [(first, last) for first, last, _ in self.reserved]
        for first, last in _without(self.pools, walls):
            self._set_free(first, last)
        by_name = [(0, space.last)] if space is Space.MAC else lines
        for first, last in _without(by_name, [*walls, *self.pools]):
            self.beyond.release(first, last)

    @property
    def window(self) -> Range:
        """From the first pool's first number to the last pool's last."""
        return (self.pools[0][0], self.pools[-1][1]) if self.pools else (0, self.space.last)

    def take(self, first: int, last: int, owner: str, *, shared: bool = False) -> None:
        """Enter what ``owner`` was given; a ``shared`` line may be entered for many.

        Raises:
            AddressConflict: held by somebody, or reserved. OutOfRange: in no pool. Nothing is changed then.
        """
        if shared and first in self.shared:
            # By name, not by arrival: a ledger rebuilt from the devices must tell the same as one kept current.
            self.held.enter(first, last, tuple(sorted((*self.held[first][1], owner))))
            return
        try:
            self.source(first).carve(first, last)
        except ValueError:
            raise self.denial(first, last) from None
        self.held.enter(first, last, (owner,))
        if shared:
            self.shared.add(first)

    def give(self, first: int, last: int, owner: str) -> None:
        """Take back what ``owner`` held; the last of those who share a line frees it.

        Raises:
            NotAllocated: exactly this range is not held by this owner. Nothing is changed then.
        """
        end, owners = self.held.get(first) or (first, ())
        if end != last or owner not in owners:
            raise NotAllocated(self._not_held(first, last, owner))
        if len(owners) > 1:
            others = list(owners)
            others.remove(owner)
            self.held.enter(first, last, tuple(others))
            return
        self.held.drop(first)
        self.shared.discard(first)
        self._set_free(first, last)

    def holdings(self, first: int, last: int) -> Iterator[Holding]:
        """Everything held or reserved that touches first..last, in address order; sharers one by one."""
        for base, end, owners, is_reserved in merge(self._held(first, last), self._walls(first, last)):
            for owner in owners:
                yield Holding(owner, self.space, base, end, is_reserved)

    def denial(self, first: int, last: int, holdings: Iterable[Holding] | None = None) -> AddressConflict | OutOfRange:
        """Why first..last cannot be had: in no pool, for sharers only, or held (by ``holdings``, if the asker knows
        better); the message says by whom, in address order."""
        where = f"{self.space.value} {bounds(self.space, first, last)}"
        held = list(self.holdings(first, last) if holdings is None else holdings)
        # What runs past the space's end is out of range, whoever is in the way before that.
        if last > self.space.last or not any(holding.reserved for holding in held):
            if first == last == self.shared_line:
                return OutOfRange(f"{where} is the shared line; only LegacyIrqConstraint(shared=True) is given it")
            if not self.covers(first, last):
                return OutOfRange(f"{where} is in no pool; there is {self._pools_text()}")
        return AddressConflict(f"{where} is held by {_listed(held)}")

    def usage(self) -> Usage:
        """How full the pools are; what was taken beyond them by name does not count."""
        total = sum(last - first + 1 for first, last in self.pools)
        free, holes, hole_max, _ = self.free.extent(0, 0, self.space.last)
        walls = _merged((first, last) for first, last, _ in self.reserved)
        reserved = sum(
            min(last, high) - max(first, low) + 1
            for first, last in walls
            for low, high in self.pools
            if first <= high and last >= low
        )
        return Usage(self.space, total, free, total - free - reserved, reserved, holes, hole_max)

    def _set_free(self, first: int, last: int) -> None:
        """Neighbours join, except across the seams between pools that are kept apart."""
        source = self.source(first)
        source.release(first, last)
        if not self.seams:
            return
        [(first, last)] = source.overlapping(first, last)
        begun, ended = (bisect_right(self.pools, (end, self.space.last)) for end in (first, last))
        for seam, _ in self.pools[begun:ended]:
            source.carve(seam, last)
            source.insert(seam, last)

    def source(self, first: int) -> RangeSet:
        """Where a number comes from and returns to: the pools, or beyond them."""
        if first == self.shared_line:
            return self.beyond
        index = bisect_right(self.pools, (first, self.space.last)) - 1
        return self.free if index >= 0 and first <= self.pools[index][1] else self.beyond

    def _held(self, first: int, last: int) -> Iterator[tuple[int, int, tuple[str, ...], bool]]:
        return ((base, end, owners, False) for base, end, owners in self.held.overlapping(first, last))

    def _walls(self, first: int, last: int) -> Iterator[tuple[int, int, tuple[str, ...], bool]]:
        return ((low, high, (owner,), True) for low, high, owner in self.reserved if low <= last and high >= first)

    def covers(self, first: int, last: int) -> bool:
        """Whether first..last lies in the pools (joined where they touch, unless kept apart), free or not."""
        if self.space is Space.MAC:
            return last <= self.space.last
        if self.seams:
            return any(low <= first and last <= high for low, high in self.pools)
        reach = first
        for low, high in self.pools:
            if low <= reach <= high:
                reach = high + 1
        return reach > last

    def _not_held(self, first: int, last: int, owner: str) -> str:
        holders = _listed([*self.holdings(first, last)]) or "nobody"
        return f"{owner} does not hold {self.space.value} {bounds(self.space, first, last)}; held there: {holders}"

    def _pools_text(self) -> str:
        return _listed([bounds(self.space, *pool) for pool in self.pools]) or f"no pool of {self.space.value}"


class Allocator:
    """A ledger for each space of a platform, and one for each window that a parent device holds."""

    def __init__(self, platform: Platform) -> None:
        self.platform = platform
        self._ledgers: dict[Space, Ledger] = {}
        self._windows: dict[str, dict[Space, Ledger | None]] = {}

    def ledger(self, space: Space) -> Ledger:
        """The ledger of the platform's own pools for a space."""
        found = self._ledgers.get(space)
        if found is None:
            found = self._ledgers[space] = self._opened(space)
        return found

    def _opened(self, space: Space) -> Ledger:
        home = self.platform.home(space)
        if home is not space:
            return self.ledger(home)
        reserved = [r for r in self.platform.reserved if self.platform.home(r.space) is home]
        line = self.platform.shared_irq if home is self.platform.home(Space.LEGACY_IRQ) else None
        return Ledger(home, self.platform.pools.get(home, ()), reserved, line)

    def window(self, parent: str, space: Space, held: Iterable[Resource]) -> Ledger | None:
        """The ledger of what ``parent`` holds of a space, for its children to share out; None if it holds none."""
        windows = self._windows.setdefault(parent, {})
        if space not in windows:
            ranges = [(first, last) for where, first, last in map(span, held) if where is space]
            # That there is none is remembered, too: else each child would look through all that its parent holds.
            windows[space] = Ledger(space, sorted(ranges), apart=True) if ranges else None
        return windows[space]

    def close(self, parent: str) -> None:
        """Forget the windows of a device whose ranges change."""
        self._windows.pop(parent, None)

    def usage(self) -> dict[Space, Usage]:
        """How full each space with a pool is."""
        return {space: self.ledger(space).usage() for space in self.platform.pools}


def _listed(items: Sequence[object]) -> str:
    more = f" and {len(items) - BLOCKERS_MAX} more" if len(items) > BLOCKERS_MAX else ""
    return ", ".join(map(str, items[:BLOCKERS_MAX])) + more


def _merged(ranges: Iterable[Range]) -> list[Range]:
    """Sorted, with those that overlap made one."""
    result: list[Range] = []
    for first, last in sorted(ranges):
        if result and first <= result[-1][1]:
            result[-1] = (result[-1][0], max(result[-1][1], last))
        else:
            result.append((first, last))
    return result


def _without(ranges: Iterable[Range], holes: Iterable[Range]) -> list[Range]:
    """The ranges less the holes."""
    result: list[Range] = []
    walls = _merged(holes)
    for first, last in ranges:
        for low, high in walls:
            if high < first or low > last:
                continue
            if low > first:
                result.append((first, low - 1))
            first = high + 1
        if first <= last:
            result.append((first, last))
    return result
