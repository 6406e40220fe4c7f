"""RangeSet against plain sets and dicts of integers, at the edges of the address space, and at size.

The model tests run in a universe of 256 addresses, once with the shipped fanout and once with a tiny one, where the
same few ranges make a deep tree. That no operation walks the ranges is tested by counting the lines Python executes,
which is exact, and not by a clock.
"""

from __future__ import annotations

import itertools
import math
import random
import sys
from collections.abc import Callable, Iterator

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule, run_state_machine_as_test

from esrm.core import ranges
from esrm.core.ranges import RangeSet

UNIVERSE = 256
BASES = (0, 2**16 - UNIVERSE, 2**64 - UNIVERSE)
EDGES = (0, 2**16 - 1, 2**64 - 1)
MASKS = (0, 0, 1, 3, 7, 63)

offsets = st.integers(0, UNIVERSE - 1)
lengths = st.sampled_from((1, 1, 1, 2, 3, 5, 8, 20, 100))


@pytest.fixture(params=[3, ranges.FANOUT])
def fanout(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> int:
    """How many entries a node may have, for one test."""
    monkeypatch.setattr(ranges, "FANOUT", request.param)
    return request.param


def runs(addresses: set[int]) -> list[tuple[int, int]]:
    """The maximal ranges of a set of addresses."""
    firsts = sorted(address for address in addresses if address - 1 not in addresses)
    lasts = sorted(address for address in addresses if address + 1 not in addresses)
    return list(zip(firsts, lasts, strict=True))


def fits(addresses: set[int], size: int, mask: int, low: int, high: int) -> list[int]:
    """Every address where an aligned block of that size lies in the window and in the set."""
    return [
        address
        for first, last in runs(addresses)
        for address in range(max(first, low), min(last, high) - size + 2)
        if address & mask == 0
    ]


class FreeRanges(RuleBasedStateMachine):
    """The free list: what is released joins, what is carved is gone, and every search agrees with a walk of the set."""

    def __init__(self) -> None:
        super().__init__()
        self.map = RangeSet()
        self.free: set[int] = set()
        self.base = 0

    @initialize(base=st.sampled_from(BASES))
    def start(self, base: int) -> None:
        self.base = base

    def span(self, offset: int, length: int) -> tuple[int, int]:
        return self.base + offset, self.base + min(offset + length, UNIVERSE) - 1

    @rule(offset=offsets, length=lengths)
    def release(self, offset: int, length: int) -> None:
        first, last = self.span(offset, length)
        if self.free.isdisjoint(range(first, last + 1)):
            self.map.release(first, last)
            self.free.update(range(first, last + 1))
        else:
            with pytest.raises(ValueError, match="overlaps"):
                self.map.release(first, last)

    @rule(offset=offsets, length=lengths)
    def carve(self, offset: int, length: int) -> None:
        first, last = self.span(offset, length)
        if self.free.issuperset(range(first, last + 1)):
            self.map.carve(first, last)
            self.free.difference_update(range(first, last + 1))
        else:
            with pytest.raises(ValueError, match="no range holds all"):
                self.map.carve(first, last)

    @rule(
        size=lengths,
        mask=st.sampled_from(MASKS),
        window=st.tuples(offsets, offsets),
        whole=st.booleans(),
        up=st.booleans(),
    )
    def search(self, size: int, mask: int, window: tuple[int, int], whole: bool, up: bool) -> None:
        """Search, and take what was found, as an allocator does."""
        low, high = (0, 2**64 - 1) if whole else (self.base + min(window), self.base + max(window))
        expected = fits(self.free, size, mask, low, high)
        assert self.map.first_fit(size, mask, low, high) == min(expected, default=None)
        self.map._check()
        assert self.map.last_fit(size, mask, low, high) == max(expected, default=None)
        if expected:
            first = expected[0 if up else -1]
            self.map.carve(first, first + size - 1)
            self.free.difference_update(range(first, first + size))

    @rule(mask=st.sampled_from(MASKS), window=st.tuples(offsets, offsets))
    def look(self, mask: int, window: tuple[int, int]) -> None:
        low, high = self.base + min(window), self.base + max(window)
        inside = runs({address for address in self.free if low <= address <= high})
        sizes = [last - first + 1 for first, last in inside]
        rooms = [last + 1 - (first + mask & ~mask) for first, last in inside]
        assert self.map.extent(mask, low, high) == (sum(sizes), len(sizes), max([0, *sizes]), max([0, *rooms]))
        rooms = [last + 1 - (first + mask & ~mask) for first, last in runs(self.free)]
        assert self.map.largest(mask) == max([0, *rooms])

    @invariant()
    def agrees(self) -> None:
        self.map._check()
        assert list(self.map) == runs(self.free)
        assert self.map.total == len(self.free)


class ApartRanges(RuleBasedStateMachine):
    """Ranges that are inserted stay apart from their neighbours, and every look-up agrees with a dict."""

    def __init__(self) -> None:
        super().__init__()
        self.map = RangeSet()
        self.lasts: dict[int, int] = {}
        self.base = 0

    @initialize(base=st.sampled_from(BASES), searched=st.booleans())
    def start(self, base: int, searched: bool) -> None:
        self.base = base
        if searched:
            self.map.largest(3)

    def inside(self, first: int, last: int) -> list[tuple[int, int]]:
        return [(low, high) for low, high in sorted(self.lasts.items()) if low <= last and high >= first]

    @rule(offset=offsets, length=lengths)
    def insert(self, offset: int, length: int) -> None:
        first, last = self.base + offset, self.base + min(offset + length, UNIVERSE) - 1
        if self.inside(first, last):
            with pytest.raises(ValueError, match="overlaps"):
                self.map.insert(first, last)
        else:
            self.map.insert(first, last)
            self.lasts[first] = last

    @rule(data=st.data())
    def carve(self, data: st.DataObject) -> None:
        if self.lasts:
            first = data.draw(st.sampled_from(sorted(self.lasts)))
            self.map.carve(first, self.lasts.pop(first))

    @rule(offset=offsets, length=lengths)
    def look(self, offset: int, length: int) -> None:
        first, last = self.base + offset, self.base + offset + length - 1
        assert list(self.map.overlapping(first, last)) == self.inside(first, last)
        assert self.map.at(first) == next(iter(self.inside(first, first)), None)

    @invariant()
    def agrees(self) -> None:
        self.map._check()
        assert list(self.map) == sorted(self.lasts.items())
        assert len(self.map) == len(self.lasts)


@pytest.mark.parametrize("machine", [FreeRanges, ApartRanges])
def test_agrees_with_a_plain_model(machine: type[RuleBasedStateMachine], fanout: int) -> None:
    """Whatever is done in whatever order, map and model give the same answers, and the tree stays whole."""
    run_state_machine_as_test(
        machine, settings=settings(max_examples=25, stateful_step_count=50, deadline=None, database=None)
    )


@pytest.mark.parametrize("seed", range(2))
def test_a_long_life_of_allocations(seed: int, fanout: int) -> None:
    """Thousands of allocations and frees in one small space: every answer is the set's, and the tree stays whole."""
    dice = random.Random(seed)
    free = RangeSet()
    free.release(0, UNIVERSE - 1)
    left = set(range(UNIVERSE))
    held: list[tuple[int, int]] = []
    for _ in range(600):
        size, mask = dice.choice((1, 1, 2, 3, 6)), dice.choice(MASKS)
        low = dice.choice((0, 0, 0, 100, dice.randrange(UNIVERSE)))
        high = dice.choice((UNIVERSE - 1, UNIVERSE - 1, low + dice.randrange(12)))
        expected = fits(left, size, mask, low, high)
        assert free.last_fit(size, mask, low, high) == max(expected, default=None)
        first = free.first_fit(size, mask, low, high)
        assert first == min(expected, default=None)
        if first is not None:
            free.carve(first, first + size - 1)
            left.difference_update(range(first, first + size))
            held.append((first, first + size - 1))
        if held and (first is None or dice.random() < 0.45):
            for _ in range(dice.choice((1, 1, 1, len(held) // 2 + 1))):
                first, last = held.pop(dice.randrange(len(held)))
                free.release(first, last)
                left.update(range(first, last + 1))
        free._check()
        assert list(free) == runs(left)


@pytest.mark.parametrize("edge", EDGES)
def test_the_edge_address_is_an_address(edge: int) -> None:
    """One address at either end of a space can be found, taken, given back and kept apart."""
    free = RangeSet()
    free.release(edge, edge)
    assert free.first_fit(1, 0, 0, edge) == free.last_fit(1, 0, 0, edge) == edge
    assert free.first_fit(2, 0, 0, 2**64) is None
    assert free.at(edge) == (edge, edge)
    free.carve(edge, edge)
    assert (len(free), free.total, free.first_fit(1, 0, 0, edge)) == (0, 0, None)
    free.insert(edge, edge)
    free._check()
    free.carve(edge, edge)
    free._check()


@pytest.mark.parametrize("last", EDGES[1:])
def test_a_whole_space_is_one_range(last: int) -> None:
    """All of 0..last, 2**64 addresses included, is one request, and its two halves join again."""
    free = RangeSet()
    free.release(0, last)
    assert free.total == free.largest() == last + 1
    assert free.first_fit(last + 1, 0, 0, last) == free.last_fit(last + 1, last, 0, last) == 0
    assert free.first_fit(last + 2, 0, 0, last) is None
    middle = last // 2
    assert free.last_fit(middle + 1, middle, 0, last) == middle + 1
    free.carve(0, last)
    free.release(middle + 1, last)
    free.release(0, middle)
    assert list(free) == [(0, last)]
    free._check()


@pytest.mark.parametrize("base", [0, 2**16 - 256, 2**64 - 256])
@pytest.mark.parametrize("order", list(itertools.permutations(range(4))))
def test_one_address_neighbours_join(base: int, order: tuple[int, ...]) -> None:
    """Four single addresses given back in any order are one range, at the very ends of a space as elsewhere."""
    for start in (base, base + 252):
        free = RangeSet()
        for offset in order:
            free.release(start + offset, start + offset)
            free._check()
        assert list(free) == [(start, start + 3)]


def test_neighbours_join_across_leaves(fanout: int) -> None:
    """Filling the gaps between many ranges leaves one, wherever the borders of the leaves are."""
    gaps = list(range(1, 400, 2))
    random.Random(1).shuffle(gaps)
    free = RangeSet()
    for address in range(0, 400, 2):
        free.release(address, address)
    assert free.largest(1) == 1
    for address in gaps:
        free.release(address, address)
        free._check()
    assert list(free) == [(0, 399)]


def test_what_a_search_proved_is_unlearned() -> None:
    """A range given back below the last answer is found by the next search, for that window and for others."""
    free = RangeSet()
    for address in range(0, 1000, 10):
        free.release(address, address + 4)
    free.release(1000, 1999)
    assert free.first_fit(8, 0, 0, 1999) == 1000
    assert free.first_fit(8, 0, 500, 1999) == 1000
    free.release(305, 309)
    free._check()
    assert free.first_fit(8, 0, 500, 1999) == 1000
    assert free.first_fit(8, 0, 0, 1999) == 300
    free.carve(300, 304)
    assert free.first_fit(8, 0, 0, 1999) == 305  # 305..314, with the neighbour above
    assert free.first_fit(8, 7, 0, 1999) == 1000
    assert free.first_fit(4, 0, 0, 1999) == 0  # a smaller wish knows nothing of this
    assert free.first_fit(8, 0, 308, 1999) == 1000  # the window cuts what would have fitted
    assert free.first_fit(7, 0, 308, 1999) == 308
    free.carve(308, 314)
    assert free.first_fit(1, 0, 315, 319) is None
    assert free.first_fit(1, 0, 315, 1999) == 320
    free.release(308, 315)  # reaches into the window with its last address alone
    assert free.first_fit(1, 0, 315, 1999) == 315
    free._check()


def test_holes_that_only_look_large_enough() -> None:
    """A page-aligned page is not put into a hole of a page and a half that holds none; sizes decide after alignment."""
    free = RangeSet()
    for index in range(300):
        free.release(index * 0x4000 + 0x800, index * 0x4000 + 0x1FFE)  # 0x17ff long, 0xfff of them aligned
    assert free.first_fit(0x1000, 0xFFF, 0, 2**64 - 1) is None
    assert free.last_fit(0x1000, 0xFFF, 0, 2**64 - 1) is None
    assert (free.largest(0), free.largest(0xFFF)) == (0x17FF, 0xFFF)
    assert free.extent(0xFFF, 0x4000, 0xBFFF) == (2 * 0x17FF, 2, 0x17FF, 0xFFF)
    free.release(200 * 0x4000 + 0x1FFF, 200 * 0x4000 + 0x1FFF)
    for search in (free.first_fit, free.last_fit):
        assert search(0x1000, 0xFFF, 0, 2**64 - 1) == 200 * 0x4000 + 0x1000
        assert search(0x1000, 0xFFF, 0, 200 * 0x4000 + 0x1FFE) is None
        assert search(0x1000, 0xFFF, 200 * 0x4000 + 0x1001, 2**64 - 1) is None
    free._check()


def test_an_overlap_is_refused_by_name_and_changes_nothing() -> None:
    """The error names the range asked for and the one in its way."""
    free = RangeSet()
    free.insert(0x1000, 0x1FFF)
    free.insert(0x2000, 0x2FFF)
    for first, last in [(0x1FFF, 0x1FFF), (0x0, 0x1000), (0x0, 0xFFFF), (0x1100, 0x1200)]:
        for change in (free.release, free.insert):
            with pytest.raises(ValueError, match=f"^{first:#x}-{last:#x} overlaps 0x1000-0x1fff$"):
                change(first, last)
    for change in (free.release, free.insert):
        with pytest.raises(ValueError, match=r"^0x5-0x4 is upside down$"):
            change(5, 4)
    for first, last in [(0x1F00, 0x2000), (0xFFF, 0x1000), (0x2FFF, 0x3000), (0x0, 0x0), (0x1001, 0x1000)]:
        with pytest.raises(ValueError, match=f"^no range holds all of {first:#x}-{last:#x}$"):
            free.carve(first, last)
    assert list(free) == [(0x1000, 0x1FFF), (0x2000, 0x2FFF)]
    free._check()


def test_a_map_says_what_it_holds() -> None:
    """The repr has the sum and the first few ranges in hexadecimal."""
    free = RangeSet()
    assert repr(free) == "<RangeSet: 0x0 addresses in no range>"
    for address in range(0x1000, 0x6000, 0x1000):
        free.insert(address, address + 0xFF)
    assert repr(free) == "<RangeSet: 0x500 addresses in 0x1000-0x10ff, 0x2000-0x20ff, 0x3000-0x30ff, and 2 more>"


def test_only_the_latest_masks_are_kept_up() -> None:
    """Searching with ever new alignments stays right and bounded, and a map that is never searched keeps none."""
    free = RangeSet()
    for index in range(500):
        free.release(index * 0x100 + index % 7, index * 0x100 + 0x80)
    assert not free._masks
    for mask in [2**bits - 1 for bits in range(40)] * 2:
        expected = min(a for i in range(500) if (a := i * 0x100 + i % 7 + mask & ~mask) <= i * 0x100 + 0x79)
        assert free.first_fit(8, mask, 0, 2**64 - 1) == expected
        assert 0 in free._masks  # the oldest, but never the least recently used
        assert free.first_fit(8, 0, 0, 2**64 - 1) == 0
        free._check()
    assert len(free._masks) == ranges.MASKS_MAX


@pytest.mark.parametrize("seed", range(10))
def test_the_highest_fit_lies_behind_all_others(fanout: int, seed: int) -> None:
    """In a deep tree of holes of all sizes, the search from above finds the last one, and that from below the first."""
    dice = random.Random(seed)
    free = RangeSet()
    holes = {(at * 100, at * 100 + dice.randrange(60)) for at in range(120)}
    for first, last in holes:
        free.release(first, last)
    addresses = {address for first, last in holes for address in range(first, last + 1)}
    for _ in range(150):
        size, mask = dice.randrange(1, 62), dice.choice((0, 0, 1, 7))
        low, high = sorted((dice.randrange(12_000), dice.randrange(12_000)))
        expected = fits(addresses, size, mask, low, high)
        assert free.last_fit(size, mask, low, high) == max(expected, default=None)
        assert free.first_fit(size, mask, low, high) == min(expected, default=None)
    free._check()


@pytest.mark.parametrize("seed", range(20))
def test_neighbours_of_one_address_each(fanout: int, seed: int) -> None:
    """Ranges of one address without a gap between them: leaves of one range, which ends where the next leaf begins."""
    dice = random.Random(seed)
    apart = RangeSet()
    left = list(range(100))
    for first in left:
        apart.insert(first, first)
    while left:
        first = left.pop(dice.randrange(len(left)))
        apart.carve(first, first)
        apart._check()
        assert list(apart) == list(apart.overlapping(0, 99)) == [(first, first) for first in left]


@pytest.mark.parametrize("order", ["down", "shuffled"])
def test_growth_and_decline(order: str) -> None:
    """50,000 ranges come and go in any order; the tree is shallow at its height and one empty leaf at the end."""
    count = 50_000
    firsts = list(range(0, count * 0x1000, 0x1000))
    if order == "down":
        firsts.reverse()
    elif order == "shuffled":
        random.Random(7).shuffle(firsts)
    apart = RangeSet()
    apart.largest(0xFFF)
    for first in firsts:
        apart.insert(first, first + 0xFFF)
    apart._check()
    assert len(apart) == count
    assert depth(apart) <= depth_max(count)
    for first in reversed(firsts[10:]) if order == "shuffled" else firsts[10:]:
        apart.carve(first, first + 0xFFF)
    apart._check()
    assert len(apart) == 10
    for first in firsts[:10]:
        apart.carve(first, first + 0xFFF)
    apart._check()
    assert (len(apart), apart.total, depth(apart)) == (0, 0, 1)


# Nothing walks the ranges


def depth(found: RangeSet) -> int:
    """The levels of a tree, 1 for a leaf alone."""
    levels, node = 1, found._root
    while node.children:
        levels, node = levels + 1, node.children[0]
    return levels


def depth_max(count: int) -> int:
    """A split leaves both halves with half the fanout, so this is what a tree that only grew cannot exceed."""
    return 1 + math.ceil(math.log(count, ranges.FANOUT // 2))


def lines(call: Callable[[], object]) -> int:
    """How many lines of ranges.py one call executes. What they call in C is bounded by the size of a node."""
    count = 0

    def trace(frame: object, event: str, argument: object) -> object:
        nonlocal count
        if frame.f_code.co_filename != ranges.__file__:  # type: ignore[attr-defined]
            return None
        count += event == "line"
        return trace

    before = sys.gettrace()
    sys.settrace(trace)  # type: ignore[arg-type]
    try:
        call()
    finally:
        sys.settrace(before)
    return count


def crowded(count: int, first: int, size: int) -> RangeSet:
    """A free list with ``count`` holes of ``size``, one a 0x4000, between two large holes."""
    free = RangeSet()
    free.release(0, 0x1FFF)
    for index in range(1, count + 1):
        free.insert(index * 0x4000 + first, index * 0x4000 + first + size - 1)
    free.release((count + 1) * 0x4000, (count + 1) * 0x4000 + 0x1FFF)
    return free


@pytest.fixture(scope="module", params=[(0, 0x800, 0), (0x800, 0x17FF, 0xFFF)], ids=["too small", "misaligned"])
def crowd(request: pytest.FixtureRequest) -> Iterator[tuple[RangeSet, int, int]]:
    """100,000 holes, none of which has a page (at its alignment)."""
    first, size, mask = request.param
    count = 100_000
    free = crowded(count, first, size)
    free.first_fit(1, mask, 0, 1)  # the one search that visits everything
    assert depth(free) <= depth_max(count)
    yield free, count, mask
    free._check()


def test_searching_behind_useless_holes_is_logarithmic(crowd: tuple[RangeSet, int, int]) -> None:
    """However the window lies, a search executes lines for a few nodes, not for 100,000 holes."""
    free, count, mask = crowd
    top, end = (count + 1) * 0x4000, 2**64 - 1
    # Up and down again through the whole height, two lines an entry, and the rest of the function.
    bound = 2 * depth(free) * (2 * ranges.FANOUT + 8) + 40
    assert bound < 1000
    for low in [0x1001, 0x1801, 0x4000, count // 2 * 0x4000 + 1, count * 0x4000 + 0x801]:
        free._learn(0, 0, 0, -1)
        assert lines(lambda low=low: free.first_fit(0x1000, mask, low, end)) <= bound
        assert free.first_fit(0x1000, mask, low, end) == top
        assert lines(lambda low=low: free.first_fit(0x1000, mask, low, end)) <= 30  # from where the last one ended
    for high in [top + 0xFFE, count * 0x4000 + 0x3FFF, count // 2 * 0x4000, 0x5000]:
        assert free.last_fit(0x1000, mask, 0, high) == 0x1000
        assert lines(lambda high=high: free.last_fit(0x1000, mask, 0, high)) <= bound
        assert free.first_fit(0x1000, mask, 0x1001, high) is None
        assert free.last_fit(0x1000, mask, 0x1001, high) is None
        assert lines(lambda high=high: free.first_fit(0x1000, mask, 0x1001, high)) <= bound
        assert lines(lambda high=high: free.last_fit(0x1000, mask, 0x1001, high)) <= bound
    assert free.first_fit(0x3000, mask, 0, end) is None
    assert lines(lambda: free.first_fit(0x3000, mask, 0, end)) <= bound


def test_all_alignments_of_a_machine_in_turn(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever asks with 32 alignments, again and again, waits for each once."""
    free, searched = crowded(2000, 0x800, 0x7FF), list[int]()
    masks = [2**bits - 1 for bits in range(32)]
    rooms = ranges._rooms
    monkeypatch.setattr(ranges, "_rooms", lambda node, mask: searched.append(mask) or rooms(node, mask))
    for mask in masks * 3:
        free.first_fit(0x1000, mask, 0x800, 2**64 - 1)
    nodes = sum(1 for _ in ranges._nodes(free._root))
    assert searched == [mask for mask in masks for _ in range(nodes)]


def test_changing_a_crowded_map_is_logarithmic(crowd: tuple[RangeSet, int, int]) -> None:
    """Taking and giving back, at the ends and in the middle, touches one way up the tree, splits included."""
    free, count, _ = crowd
    before = list(free)
    bound = depth(free) * 80 + 60
    for first in (0, 0x4000 + 0x800, count // 2 * 0x4000 + 0x800, (count + 1) * 0x4000):
        first, last = next(free.overlapping(first, 2**64))
        middle = (first + last) // 2
        for low, high in [(first, last), (first, middle), (middle, last), (middle, middle)]:
            assert lines(lambda low=low, high=high: free.carve(low, high)) <= bound
            assert lines(lambda low=low, high=high: free.release(low, high)) <= bound
        assert lines(lambda first=first, last=last: free.carve(first, last)) <= bound
        assert lines(lambda first=first, last=last: free.insert(first, last)) <= bound
    assert list(free) == before


def test_looking_at_a_window_visits_the_window_alone(crowd: tuple[RangeSet, int, int]) -> None:
    """What overlaps a few addresses is found without the 100,000 others."""
    free, count, mask = crowd
    low = count // 2 * 0x4000
    assert free.extent(mask, low, low + 3 * 0x4000 - 1)[1] == 3
    assert lines(lambda: free.extent(mask, low, low + 3 * 0x4000 - 1)) <= 60
    assert lines(lambda: list(free.overlapping(low, low + 3 * 0x4000 - 1))) <= 40
    assert lines(lambda: free.at(low + 0x900)) <= 30
    assert lines(lambda: free.largest(mask)) <= 3
