"""Where a range lies, and where the next one fits.

One class decides both: ``RangeSet``, a sorted set of disjoint inclusive ranges. The allocator keeps a space's free
ranges in one; nothing else in esrm searches for room. It stands alone because everything waits for it, and because it
can: it knows neither spaces nor devices.

It is a B+tree in which a node knows the most room beneath it (Cormen et al., Introduction to Algorithms, "Augmenting
data structures", which builds interval trees this way). What always holds, and ``RangeSet._check`` verifies:

- A leaf has its ranges in two parallel lists, in address order; no two ranges of the set overlap. Leaves are chained.
- An inner node has in ``firsts`` the *exact* first address beneath each child but the leftmost. So the way down to an
  address is ``bisect_right(node.firsts, address)``, and it ends where the last range is that starts at or before it.
- All leaves are equally deep. No node is empty, except the only leaf of an empty set; an inner root has two children or
  more. An emptied node leaves at once; one that is merely underfull does no harm and stays.
- ``node.rooms[mask][i]`` is the largest size that fits into entry i (a range, or all beneath a child) at an address
  with ``address & mask == 0``; zero or less if none does. It is there for the masks of the latest searches, the same
  in all nodes: a set that is never searched pays nothing.
- What the last search proved: no range that starts in ``_known_low``..``_known_first - 1``, and no part from
  ``_known_low`` on of one that starts before, has room for ``_known_size`` at ``_known_mask``. The next starts there.

Next: ``core/allocator.py``, which asks.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterator
from itertools import islice, pairwise
from typing import TypeVar

T = TypeVar("T")

FANOUT = 32  # measured: 16 makes the tree deep, 64 makes the way through a node long; in between it matters little
MASKS_MAX = 32  # each in use makes a change some 2 us slower; the BARs of PCI alone, 16 B to 64 KiB, have 13 alignments


class _Node:
    """A leaf if it has no children; only a leaf has lasts and a next."""

    __slots__ = ("children", "firsts", "lasts", "next", "parent", "rooms")

    def __init__(self, parent: _Node | None = None) -> None:
        self.parent = parent
        self.next: _Node | None = None
        self.children: list[_Node] = []
        self.firsts: list[int] = []
        self.lasts: list[int] = []
        self.rooms: dict[int, list[int]] = {}


class RangeSet:
    """Disjoint inclusive ranges of addresses from 0 on, in address order.

    Each operation on one range and each search for room takes time logarithmic in the number of ranges, however many
    are too small, or too small once aligned; only a search with a mask that is not among the ``MASKS_MAX`` used latest
    visits them all. A mask is an alignment less one, the alignment a power of two. Do not change a set while iterating.

    Attributes:
        total: the number of addresses in all ranges together.
    """

    __slots__ = ("_count", "_fanout", "_finger", "_head", "_known_first", "_known_low", "_known_mask", "_known_size",
                 "_mask", "_masks", "_root", "total")  # fmt: skip

    def __init__(self) -> None:
        self.total = 0
        self._count = 0
        self._fanout = FANOUT
        self._root = _Node()
        self._head = self._root  # the leftmost leaf
        self._finger = self._root  # the leaf where the last search ended, where the caller is likely to carve
        self._masks: dict[int, None] = {}  # the least recently used first
        self._mask = -1  # the last of them
        self._learn(0, 0, 0, -1)  # nothing

    def __len__(self) -> int:
        return self._count

    def __iter__(self) -> Iterator[tuple[int, int]]:
        leaf: _Node | None = self._head
        while leaf is not None:
            yield from zip(leaf.firsts, leaf.lasts, strict=True)
            leaf = leaf.next

    def __repr__(self) -> str:
        some = [f"{first:#x}-{last:#x}" for first, last in islice(self, 3)]
        more = [f"and {self._count - 3} more"] if self._count > 3 else []
        return f"<RangeSet: {self.total:#x} addresses in {', '.join(some + more) or 'no range'}>"

    # Looking up

    def at(self, point: int) -> tuple[int, int] | None:
        """The range that contains ``point``, as (first, last), or None."""
        return next(self.overlapping(point, point), None)

    def overlapping(self, first: int, last: int) -> Iterator[tuple[int, int]]:
        """All ranges with an address in ``first``..``last``, whole and in order, without visiting any others."""
        leaf: _Node | None = self._leaf(first)
        i = bisect_right(leaf.firsts, first)
        if i and leaf.lasts[i - 1] >= first:
            i -= 1
        while leaf is not None:
            for found in zip(leaf.firsts[i:], leaf.lasts[i:], strict=True):
                if found[0] > last:
                    return
                yield found
            leaf, i = leaf.next, 0

    def extent(self, mask: int, low: int, high: int) -> tuple[int, int, int, int]:
        """What lies in ``low``..``high``: (addresses, ranges, the largest range, the largest room at ``mask``).

        Ranges that reach out of the window count with their part inside. Takes time linear in the ranges counted.
        """
        inside = [(max(first, low), min(last, high)) for first, last in self.overlapping(low, high)]
        sizes = [last - first + 1 for first, last in inside]
        rooms = [last - (first - 1 | mask) for first, last in inside]
        return sum(sizes), len(sizes), max(sizes, default=0), max(0, max(rooms, default=0))

    def largest(self, mask: int = 0) -> int:
        """The largest size that fits anywhere at an address with ``address & mask == 0``; 0 if none does."""
        if mask != self._mask:
            self._use(mask)
        return max(0, max(self._root.rooms[mask], default=0))

    # Searching. The first address at or after x that has no bit of a mask is (x - 1 | mask) + 1.

    def first_fit(self, size: int, mask: int, low: int, high: int) -> int | None:
        """The lowest a with a & mask == 0 where a..a+size-1 lies in one range and in ``low``..``high``, or None.

        ``size`` is at least 1.
        """
        if mask != self._mask:
            self._use(mask)
        if not self._count:
            return None
        known = self._known_size <= size and self._known_mask <= mask and self._known_low <= low <= self._known_first
        start = self._known_first if known else low
        node, i = self._root, 0
        if start > self._head.firsts[0]:
            # The range that holds start is looked at alone: the tree knows the room of all of it, not of what is left.
            node = self._finger
            if not node.firsts[0] <= start <= node.lasts[-1]:
                node = self._leaf(start)
            i = bisect_right(node.firsts, start)
            fit = (start - 1 | mask) + 1
            if fit + size - 1 > high:
                return None
            if i and fit + size - 1 <= node.lasts[i - 1]:
                self._finger = node
                if not known:
                    self._learn(size, mask, low, node.firsts[i - 1])
                return fit
        while True:  # up, until there is room to the right of where we came from
            rooms = node.rooms[mask]
            try:
                while rooms[i] < size:
                    i += 1
                break
            except IndexError:
                node = node.parent
                if node is None:
                    return None
                i = bisect_right(node.firsts, start) + 1
        while children := node.children:  # and down, always to the leftmost that has room
            node = children[i]
            rooms = node.rooms[mask]
            i = 0
            while rooms[i] < size:
                i += 1
        self._finger = node
        first = node.firsts[i]
        if not known:
            self._learn(size, mask, low, first)
        elif size == self._known_size and mask == self._known_mask:
            self._known_first = first
        fit = (first - 1 | mask) + 1
        return fit if fit + size - 1 <= high else None  # what fits later lies higher still

    def last_fit(self, size: int, mask: int, low: int, high: int) -> int | None:
        """The highest such address; see ``first_fit``, whose mirror image this is."""
        if mask != self._mask:
            self._use(mask)
        node = self._leaf(high)
        i = bisect_right(node.firsts, high) - 1
        if i < 0:
            return None
        fit = min(node.lasts[i], high) - size + 1 & ~mask
        if fit >= low and fit >= node.firsts[i]:
            self._finger = node
            return fit
        i -= 1
        while True:
            rooms = node.rooms[mask]
            i -= len(rooms)  # counted from the end, so that running out is an IndexError here, too
            try:
                while rooms[i] < size:
                    i -= 1
                break
            except IndexError:
                node = node.parent
                if node is None:
                    return None
                i = bisect_right(node.firsts, high) - 1
        while children := node.children:
            node = children[i]
            rooms = node.rooms[mask]
            i = -1
            while rooms[i] < size:
                i -= 1
        self._finger = node
        fit = node.lasts[i] - size + 1 & ~mask
        return fit if fit >= low else None

    # Changing. Two of these are called so often that they spell out _leaf.

    def insert(self, first: int, last: int) -> None:
        """Add a range, joined with nothing. ValueError, and no change, if it overlaps one."""
        leaf = self._root
        while children := leaf.children:
            leaf = children[bisect_right(leaf.firsts, first)]
        i = bisect_right(leaf.firsts, first)
        after = leaf.firsts[i] if i < len(leaf.firsts) else leaf.next.firsts[0] if leaf.next else last + 1
        if first > last or after <= last or (i and leaf.lasts[i - 1] >= first):
            raise self._clash(first, last)
        self.total += last - first + 1
        self._place(leaf, i, first, last)

    def release(self, first: int, last: int) -> None:
        """Add a range, joined with the neighbours it touches. ValueError, and no change, if it overlaps one."""
        leaf = self._root
        while children := leaf.children:
            leaf = children[bisect_right(leaf.firsts, first)]
        right, i = leaf, bisect_right(leaf.firsts, first)
        j = i
        if i == len(leaf.firsts) and leaf.next:
            right, j = leaf.next, 0
        below = leaf.lasts[i - 1] + 1 if i else -1
        above = right.firsts[j] - 1 if j < len(right.firsts) else last + 1
        if first > last or below > first or above < last:
            raise self._clash(first, last)
        self.total += last - first + 1
        if below == first:
            if above == last:
                last = right.lasts[j]
                self._drop(right, j)
            self._edit(leaf, i - 1, leaf.firsts[i - 1], last)
        elif above == last:
            self._edit(right, j, first, right.lasts[j])
        else:
            self._place(leaf, i, first, last)

    def carve(self, first: int, last: int) -> None:
        """Cut ``first``..``last`` out of the range that holds all of it; what is left on either side stays.

        ValueError, and no change, if no single range does.
        """
        leaf = self._finger
        if not self._count or not leaf.firsts[0] <= first <= leaf.lasts[-1]:
            leaf = self._leaf(first)
        i = bisect_right(leaf.firsts, first) - 1
        if i < 0 or not first <= last <= leaf.lasts[i]:
            raise ValueError(f"no range holds all of {first:#x}-{last:#x}")
        self.total -= last - first + 1
        start, end = leaf.firsts[i], leaf.lasts[i]
        if start < first:
            self._edit(leaf, i, start, first - 1)
            if last < end:
                self._place(leaf, i + 1, last + 1, end)
        elif last < end:
            self._edit(leaf, i, last + 1, end)
        else:
            self._drop(leaf, i)

    def _clash(self, first: int, last: int) -> ValueError:
        if first > last:
            return ValueError(f"{first:#x}-{last:#x} is upside down")
        other = next(self.overlapping(first, last))
        return ValueError(f"{first:#x}-{last:#x} overlaps {other[0]:#x}-{other[1]:#x}")

    def _leaf(self, address: int) -> _Node:
        """The leaf with the last range that starts at or before ``address``; if there is none, the leftmost leaf."""
        node = self._root
        while children := node.children:
            node = children[bisect_right(node.firsts, address)]
        return node

    # One range changes: the lists of its leaf first, then the one separator that names it, then the rooms above

    def _place(self, leaf: _Node, i: int, first: int, last: int) -> None:
        # No separator changes: i is 0 only in the leftmost leaf, which has none.
        leaf.firsts.insert(i, first)
        leaf.lasts.insert(i, last)
        self._count += 1
        if self._masks:
            if first < self._known_first and last >= self._known_low:
                self._known_first = first
            parent = leaf.parent
            j = bisect_right(parent.firsts, first) if parent else 0
            for mask, rooms in leaf.rooms.items():
                room = last - (first - 1 | mask)
                rooms.insert(i, room)
                if parent and room > parent.rooms[mask][j]:
                    self._lift(parent, j, mask, room, first)
        if len(leaf.firsts) > self._fanout:
            self._split(leaf)

    def _edit(self, leaf: _Node, i: int, first: int, last: int) -> None:
        was = leaf.firsts[i]
        leaf.firsts[i] = first
        leaf.lasts[i] = last
        if was == self._known_first or (first < self._known_first and last >= self._known_low):
            self._known_first = first
        parent = leaf.parent
        j = bisect_right(parent.firsts, was) if parent else 0
        if parent and not i and first != was:
            self._rename(parent, j, was, first)
        for mask, rooms in leaf.rooms.items():
            old = rooms[i]
            rooms[i] = room = last - (first - 1 | mask)
            if parent:
                top = parent.rooms[mask][j]
                if room > top or (old == top and (room := max(rooms)) != top):
                    self._lift(parent, j, mask, room, first)

    def _drop(self, leaf: _Node, i: int) -> None:
        firsts = leaf.firsts
        first = firsts[i]
        del firsts[i], leaf.lasts[i]
        self._count -= 1
        if not firsts and leaf.parent:
            self._unlink(leaf, first)
            return
        if first == self._known_first and i < len(firsts):
            self._known_first = firsts[i]
        if not i or self._masks:
            self._shed(leaf, i, first, firsts[0] if firsts else first)

    def _shed(self, node: _Node, i: int, first: int, heir: int) -> None:
        """Entry i of a node, which began at ``first``, is gone; the least address beneath it is ``heir`` if i is 0."""
        parent = node.parent
        if parent is None:
            for rooms in node.rooms.values():
                del rooms[i]
            return
        j = bisect_right(parent.firsts, first)
        if not i:
            self._rename(parent, j, first, heir)
            first = heir
        for mask, rooms in node.rooms.items():
            room = rooms.pop(i)
            if room == parent.rooms[mask][j] and room not in rooms:
                self._lift(parent, j, mask, max(rooms), first)

    def _rename(self, node: _Node, j: int, was: int, first: int) -> None:
        """The least address beneath child j of a node was ``was`` and is ``first``."""
        if not j and first == self._head.firsts[0]:
            return  # the least of the map, which no separator names
        while not j:
            assert node.parent is not None
            node = node.parent
            j = bisect_right(node.firsts, was)
        node.firsts[j - 1] = first

    def _lift(self, node: _Node, i: int, mask: int, room: int, address: int) -> None:
        """Child i of a node, with ``address`` beneath it, has this room now: tell those above, as far as it matters."""
        while True:
            rooms = node.rooms[mask]
            old, rooms[i] = rooms[i], room
            parent = node.parent
            if parent is None:
                return
            i = bisect_right(parent.firsts, address)
            top = parent.rooms[mask][i]
            if room <= top and (old != top or (room := max(rooms)) == top):
                return
            node = parent

    def _split(self, node: _Node) -> None:
        """Move the upper half of a node that is too full into a twin at its right."""
        parent = node.parent
        if parent is None:
            parent = self._root = node.parent = _Node()
            parent.children = [node]
            parent.rooms = {mask: [0] for mask in node.rooms}
        twin = _Node(parent)
        half = (self._fanout + 1) // 2
        twin.firsts = _cut(node.firsts, half)
        if node.children:
            twin.children = _cut(node.children, half)
            for child in twin.children:
                child.parent = twin
            least = node.firsts.pop()
        else:
            twin.lasts = _cut(node.lasts, half)
            twin.next, node.next = node.next, twin
            least = twin.firsts[0]
        j = bisect_right(parent.firsts, least)
        parent.firsts.insert(j, least)
        parent.children.insert(j + 1, twin)
        for mask, rooms in node.rooms.items():
            twin.rooms[mask] = _cut(rooms, half)
            parent.rooms[mask][j : j + 1] = max(rooms), max(twin.rooms[mask])
        if len(parent.children) > self._fanout:
            self._split(parent)

    def _unlink(self, leaf: _Node, first: int) -> None:
        """Take out an emptied leaf, which began at ``first``, and all that is superfluous without it."""
        before = self._leaf(first - 1)
        if leaf is not self._head:
            before.next = leaf.next
        elif leaf.next:
            self._head = leaf.next
        self._finger = self._head
        node = leaf.parent
        while node and len(node.children) == 1:
            node = node.parent
        assert node is not None  # the root has two children or more
        j = bisect_right(node.firsts, first)
        del node.children[j]
        heir = node.firsts.pop(max(j - 1, 0))
        self._shed(node, j, first, heir)
        while len(self._root.children) == 1:
            self._root = self._root.children[0]
            self._root.parent = None

    # Masks, and what the last search proved

    def _use(self, mask: int) -> None:
        if mask not in self._masks:
            oldest = next(iter(self._masks)) if len(self._masks) == MASKS_MAX else mask
            self._masks.pop(oldest, None)
            for node in _nodes(self._root):
                node.rooms.pop(oldest, None)
                node.rooms[mask] = _rooms(node, mask)
        self._masks[mask] = self._masks.pop(mask, None)
        self._mask = mask

    def _learn(self, size: int, mask: int, low: int, first: int) -> None:
        self._known_size, self._known_mask, self._known_low, self._known_first = size, mask, low, first

    def _check(self) -> None:
        """Assert all that the top of this file promises. Visits everything; for tests."""
        ranges = list(self)
        assert all(first <= last for first, last in ranges)
        assert all(one[1] < other[0] for one, other in pairwise(ranges))
        assert (self._count, self.total) == (len(ranges), sum(last - first + 1 for first, last in ranges))
        assert len(self._root.children) != 1
        assert self._root.parent is None
        depths: set[int] = set()
        leaf: _Node | None = self._head
        for node in _nodes(self._root):
            assert node.rooms == {mask: _rooms(node, mask) for mask in self._masks}
            if node.children:
                assert node.firsts == [_least(child) for child in node.children[1:]]
                assert len(node.children) <= self._fanout
                assert all(child.parent is node for child in node.children)
            else:
                assert leaf is node
                assert 0 < len(node.firsts) <= self._fanout or node is self._root
                depths.add(_depth(node))
                leaf = node.next
        assert leaf is None
        assert len(depths) == 1
        assert self._leaf(_least(self._finger) if ranges else 0) is self._finger
        if self._known_low <= self._known_first:
            for first, last in self.overlapping(self._known_low, self._known_first - 1):
                assert last - (max(first, self._known_low) - 1 | self._known_mask) < self._known_size


def _nodes(node: _Node) -> Iterator[_Node]:
    """A node and all beneath it, children before parents."""
    for child in node.children:
        yield from _nodes(child)
    yield node


def _rooms(node: _Node, mask: int) -> list[int]:
    if node.children:
        return [max(child.rooms[mask]) for child in node.children]
    return [last - (first - 1 | mask) for first, last in zip(node.firsts, node.lasts, strict=True)]


def _least(node: _Node) -> int:
    return _least(node.children[0]) if node.children else node.firsts[0]


def _depth(node: _Node) -> int:
    return 1 + _depth(node.parent) if node.parent else 0


def _cut(items: list[T], at: int) -> list[T]:
    tail = items[at:]
    del items[at:]
    return tail
