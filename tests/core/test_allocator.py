"""The allocator against a plain set of integers: after every operation they agree on every number."""

from __future__ import annotations

import random
from collections.abc import Sequence
from random import Random
from typing import Any

import pytest
from hypothesis import given
from model import SUBJECTS, Model, No, World, runs, small_world, wish
from strategies import bounded, dice, scaled
from telling import calls, declared, do, give, spans, take_back, tried, vm

import esrm
from esrm import (
    AddressConflict,
    LegacyIrqConstraint,
    MemConstraint,
    MmioConstraint,
    NoSpace,
    NotAllocated,
    OutOfRange,
    PioConstraint,
    Space,
    VmState,
    decide,
)
from esrm.core.allocator import Ledger
from esrm.core.resources import span


class Story:
    """A VM and its model: each request is put to both, and both must answer alike."""

    def __init__(self, state: VmState, world: World, parent: str | None = None) -> None:
        self.state, self.world, self.parent = state, world, parent
        self.holding: list[str] = []
        self.born = 0
        declared(state, "nobody", parent=parent)

    def allocate(self, constraints: Sequence[Any]) -> None:
        device = f"d{self.born}"
        self.born += 1
        declared(self.state, device, *constraints, parent=self.parent)
        expected = self.world.place(device, constraints)
        answer = tried(decide.allocate, self.state, device)
        if isinstance(answer, esrm.Refused):
            assert isinstance(expected, No), f"refused, but {expected} was free: {answer}"
            assert (type(answer).__name__, answer.refusal.index) == (expected.code, expected.index), str(answer)
            do(self.state, decide.remove, device)
            return
        esrm.evolve(self.state, *answer)
        assert bases(constraints, self.state.devices[device].allocated) == expected
        self.holding.append(device)

    def release(self, device: str) -> None:
        self.holding.remove(device)
        self.world.give(device)
        take_back(self.state, device)

    def check(self) -> None:
        """Nothing overlaps, what is free is free in both, and free + held + reserved = the pool."""
        for space, model in self.world.models.items():
            if not model.pool:
                continue
            book = self.state.ledger(self.state.devices["nobody"], space)
            holes = runs(model.free, model.seams)
            assert list(book.free) == [(hole[0], hole[-1]) for hole in holes]
            held = [(first, last, list(owners)) for first, last, owners in book.held]
            assert {n: who for first, last, who in held for n in range(first, last + 1)} == {
                number: sorted(owners) for number, owners in model.holders.items()
            }
            usage = book.usage()
            assert usage.total == len(model.pool) == usage.free + usage.held + usage.reserved
            assert usage.free == len(model.free)
            assert usage.reserved == len(model.pool & model.reserved)
            assert usage.held == len(model.pool & model.holders.keys())
            assert (usage.holes, usage.hole_max) == (len(holes), max(map(len, holes), default=0))


def bases(constraints: Sequence[Any], allocated: Sequence[Any]) -> list[int]:
    """Where each constraint was met; a group of slots must be one after the other."""
    found: list[int] = []
    rest = [span(resource)[1:] for resource in allocated]
    for constraint in constraints:
        mine, rest = rest[: constraint.count], rest[constraint.count :]
        first, last = mine[0][0], mine[-1][1]
        assert [n for low, high in mine for n in range(low, high + 1)] == list(range(first, last + 1))
        assert last - first + 1 == getattr(constraint, "size", 1)
        found.append(first)
    assert rest == []
    return found


def tell(dice: Random, subject: Any, steps: int) -> None:
    """A random story of so many operations in a random small world; after each of them everything is compared."""
    spaces, platform, *beginning = small_world(dice, subject)
    story = Story(*beginning)
    for _ in range(steps):
        if story.holding and dice.random() < 0.45:
            story.release(dice.choice(story.holding))
        else:
            count = dice.choice([1, 1, 1, 2, 3])
            story.allocate([wish(dice, dice.choice(spaces), platform) for _ in range(count)])
        story.check()


@pytest.mark.parametrize("subject", SUBJECTS, ids=str)
def test_the_allocator_agrees_with_a_set_of_integers(subject: Any) -> None:
    """Small worlds with several pools, walls, windows, alignment, exact places, sharing, at both ends of a space."""

    @given(dice())
    @bounded(60)
    def check(dice: Random) -> None:
        tell(dice, subject, dice.randint(1, 20))

    check()


SEED = 20261122
OPERATIONS = scaled(100_000)
QUARTER = OPERATIONS // 250 // 4


@pytest.mark.parametrize("quarter", range(4))
def test_a_hundred_thousand_operations(quarter: int) -> None:
    """A long run from a seed, over all spaces, in four parts for as many processes: not one answer differs."""
    for seed in range(SEED + quarter * QUARTER, SEED + (quarter + 1) * QUARTER):
        subject = SUBJECTS[seed % len(SUBJECTS)]
        try:
            tell(random.Random(seed), subject, 250)
        except AssertionError as error:
            raise AssertionError(f"seed {seed}, {subject}: {error}") from error


# -- edges -----------------------------------------------------------------------------------------------------------

TOPS = [(Space.PIO, PioConstraint), (Space.MMIO, MmioConstraint), (Space.MEM, MemConstraint)]


@pytest.mark.parametrize(("space", "kind"), TOPS)
def test_the_last_address_of_a_space(space: Space, kind: Any) -> None:
    """A space that ends at 2**16-1 or 2**64-1 can be filled to its last address, emptied, and filled again."""
    top = space.last
    state = vm({space: [(0, top)]})
    for _ in range(2):
        assert spans(give(state, "most", kind(top, align=1))) == [(0, top - 1)]
        assert spans(give(state, "rest", kind(1, align=1))) == [(top, top)]
        with pytest.raises(NoSpace, match=r"nothing is free there; releasing most .* would do"):
            give(state, "more", kind(1, align=1))
        state.devices.pop("more")
        assert state.allocator.usage()[space].free == 0
        take_back(state, "most")
        take_back(state, "rest")
        usage = state.allocator.usage()[space]
        assert (usage.free, usage.holes, usage.hole_max) == (top + 1, 1, top + 1)


@pytest.mark.parametrize(("space", "kind"), TOPS)
def test_from_the_top_down(space: Space, kind: Any) -> None:
    """``last`` ends at the last address, and its alignment is of the base."""
    top = space.last
    state = vm({space: [(0, top)]})
    assert spans(give(state, "a", kind(0x10, align=0x10, policy="last"))) == [(top - 0xF, top)]
    assert spans(give(state, "b", kind(1, align=0x10, policy="last"))) == [(top - 0x1F, top - 0x1F)]
    assert spans(give(state, "c", kind(1, align=1, policy="last"))) == [(top - 0x10, top - 0x10)]
    half = top // 2 + 1
    assert spans(give(state, "d", kind(1, align=half))) == [(0, 0)]
    assert spans(give(state, "e", kind(1, align=half))) == [(half, half)]


@pytest.mark.parametrize(("space", "kind"), TOPS)
def test_exact_places_at_the_ends(space: Space, kind: Any) -> None:
    """The first and the last address by name; joined again with their neighbours they are one hole."""
    top = space.last
    state = vm({space: [(0, top)]})
    assert spans(give(state, "low", kind(1, (0, 0), 1, "exact"))) == [(0, 0)]
    assert spans(give(state, "high", kind(1, (top, top), 1, "exact"))) == [(top, top)]
    with pytest.raises(AddressConflict, match=rf"is held by high \({top:#x}\)"):
        give(state, "more", kind(2, (top - 1, top), 1, "exact"))
    state.devices.pop("more")
    assert state.allocator.usage()[space].hole_max == top - 1
    take_back(state, "low")
    take_back(state, "high")
    assert state.allocator.usage()[space].hole_max == top + 1


def test_one_address_neighbours_join() -> None:
    """Freed in any order, single addresses become one hole again (a peer loses them)."""
    for order in (range(8), reversed(range(8)), [1, 3, 5, 7, 0, 2, 4, 6], [0, 7, 1, 6, 2, 5, 3, 4]):
        state = vm({Space.PIO: [(1, 8)]})
        for number in range(8):
            give(state, f"d{number}", PioConstraint(1))
        for number in order:
            take_back(state, f"d{number}")
        usage = state.allocator.usage()[Space.PIO]
        assert (usage.free, usage.holes) == (8, 1)


def test_pools_that_touch_join_and_come_apart() -> None:
    """A range may lie over the seam of two pools; released, both are whole again."""
    state = vm({Space.PIO: [(0, 9), (10, 19), (30, 39)]})
    assert spans(give(state, "a", PioConstraint(20))) == [(0, 19)]
    with pytest.raises(NoSpace):
        give(state, "b", PioConstraint(11))
    take_back(state, "a")
    assert state.allocator.usage()[Space.PIO].hole_max == 20


def test_windows_that_touch_are_two() -> None:
    """Behind a bridge nothing lies over the seam of two windows, and a hole of one address beside it is not lost."""
    state = vm({Space.PIO: [(0, 31)]})
    give(state, "bridge", PioConstraint(16), PioConstraint(16))
    with pytest.raises(NoSpace, match="0x20 free in 2 holes, the largest 0x10"):
        give(state, "wide", PioConstraint(17), parent="bridge")
    for device, first, last in (("low", 0, 14), ("left", 15, 15), ("right", 16, 16)):
        give(state, device, PioConstraint(last - first + 1, (first, last)), parent="bridge")
    take_back(state, "left")
    take_back(state, "right")
    book = state.ledger(state.devices["low"], Space.PIO)
    assert list(book.free) == [(15, 15), (16, 31)]
    with pytest.raises(NoSpace):
        give(state, "two", PioConstraint(2, (15, 16)), parent="bridge")


def test_a_bridge_with_a_thousand_windows() -> None:
    """Neither opening its windows nor giving back in one of them looks at the others; and all stay apart."""
    windows = [(at * 16, at * 16 + 15) for at in range(1000)]
    halves = [(first + half, first + half + 7) for first, _ in windows for half in (0, 8)]
    book = Ledger(Space.PIO, windows, apart=True)
    for first, last in halves:
        book.take(first, last, "card")
    Random(3).shuffle(halves)
    assert max(calls(lambda half=half: book.give(*half, "card")) for half in halves) < 150
    assert list(book.free) == windows
    book.free._check()
    few, many = (calls(lambda n=n: Ledger(Space.PIO, windows[:n], apart=True)) for n in (100, 1000))
    assert many < 20 * few
    state = vm({Space.PIO: [(0, 0x3FFF)]})
    give(state, "bridge", *[PioConstraint(16)] * 1000)
    give(state, "card", PioConstraint(4), parent="bridge")
    assert calls(lambda: state.ledger(state.devices["card"], Space.PIO)) < 20


def test_the_full_width_with_walls_at_both_ends() -> None:
    """Reserved first and last addresses of 64 bits are stepped over, and what is between is one hole."""
    top = 2**64 - 1
    state = vm({Space.MMIO: [(0, top)]}, reserved=[(Space.MMIO, 0, 0, "null"), (Space.MMIO, top, top, "top")])
    usage = state.allocator.usage()[Space.MMIO]
    assert (usage.total, usage.free, usage.reserved) == (2**64, top - 1, 2)
    assert spans(give(state, "a", MmioConstraint(top - 1, align=1))) == [(1, top - 1)]
    take_back(state, "a")
    assert spans(give(state, "b", MmioConstraint(1, align=2**63))) == [(2**63, 2**63)]


# -- the ledger itself -----------------------------------------------------------------------------------------------


def test_only_the_holder_gives_back_and_only_what_it_holds() -> None:
    """Somebody else's range, half a range, and one that is free are NotAllocated, and nothing changes."""
    book = Ledger(Space.PIO, [(0, 99)])
    book.take(10, 19, "a")
    before = (list(book.free), list(book.held))
    for first, last, owner in (
        (10, 19, "b"),
        (10, 15, "a"),
        (15, 19, "a"),
        (10, 20, "a"),
        (30, 30, "a"),
        (200, 201, "a"),
    ):
        with pytest.raises(NotAllocated, match=f"{owner} does not hold pio"):
            book.give(first, last, owner)
        assert (list(book.free), list(book.held)) == before
    book.give(10, 19, "a")
    with pytest.raises(NotAllocated, match="held there: nobody"):
        book.give(10, 19, "a")
    assert list(book.free) == [(0, 99)]


def test_nothing_is_taken_twice() -> None:
    """A range that runs into another, out of the pool, or into a wall changes nothing, and the message names whom."""
    book = Ledger(Space.MMIO, [(0, 99)], [esrm.Reserved(Space.MMIO, 50, 59, "IOAPIC")])
    book.take(10, 19, "a")
    book.take(20, 29, "b")
    before = (list(book.free), list(book.held))
    for first, last, error, said in (
        (15, 24, AddressConflict, r"mmio 0xf-0x18 is held by a \(0xa-0x13\), b \(0x14-0x1d\)$"),
        (45, 50, AddressConflict, r"is held by IOAPIC \(0x32-0x3b, reserved\)$"),
        (25, 55, AddressConflict, r"is held by b \(0x14-0x1d\), IOAPIC \(0x32-0x3b, reserved\)$"),
        (90, 100, OutOfRange, r"mmio 0x5a-0x64 is in no pool; there is 0x0-0x63$"),
        (200, 200, OutOfRange, r"mmio 0xc8 is in no pool"),
    ):
        with pytest.raises(error, match=said):
            book.take(first, last, "c")
        assert (list(book.free), list(book.held)) == before


def test_sharers_are_counted() -> None:
    """The last to leave frees the line, whoever it is; each holds it as often as it took it."""
    book = Ledger(Space.LEGACY_IRQ, [(5, 9)])
    for owner in ("b", "a", "a"):
        book.take(7, 7, owner, shared=True)
    assert [str(holding) for holding in book.holdings(0, 99)] == ["a (7)", "a (7)", "b (7)"]
    for owner in ("a", "b", "a"):
        assert book.free.at(7) is None
        book.give(7, 7, owner)
    assert book.free.at(7) == (5, 9)
    assert book.shared == set()


def test_the_shared_line_is_for_sharers() -> None:
    """It is not of the pool: automatic requests never get it, and by name only a sharer does."""
    state = vm({Space.LEGACY_IRQ: [(5, 7)]}, shared_irq=6)
    assert spans(give(state, "a", LegacyIrqConstraint(), LegacyIrqConstraint())) == [(5, 5), (7, 7)]
    assert spans(give(state, "s1", LegacyIrqConstraint(shared=True))) == [(6, 6)]
    assert spans(give(state, "s2", LegacyIrqConstraint(6, shared=True))) == [(6, 6)]
    with pytest.raises(OutOfRange, match=r"irq 6 is the shared line; only LegacyIrqConstraint\(shared=True\) is given"):
        give(state, "x", LegacyIrqConstraint(6))
    assert state.allocator.usage()[Space.LEGACY_IRQ].total == 2


def test_spaces_do_not_collide_unless_they_are_joined() -> None:
    """Equal numbers of two spaces are two things; of joined spaces, one."""
    apart = vm({Space.LEGACY_IRQ: [(5, 9)], Space.MSI_IRQ: [(5, 9)]})
    both = [LegacyIrqConstraint(), esrm.GenericIrqConstraint(1)]
    assert spans(give(apart, "a", *both)) == [(5, 5), (5, 5)]
    joined = vm({Space.LEGACY_IRQ: [(5, 9)]}, joined={Space.MSI_IRQ: Space.LEGACY_IRQ})
    assert spans(give(joined, "a", *both)) == [(5, 5), (6, 6)]
    with pytest.raises(AddressConflict, match=r"is held by a \(5\)"):
        give(joined, "b", esrm.GenericIrqConstraint(1, base=5))


@pytest.mark.parametrize("host", [Space.LEGACY_IRQ, Space.MSI_IRQ])
def test_the_shared_line_stays_with_the_lines(host: Space) -> None:
    """Whichever of the two spaces has the pool that both draw from, who does not share never gets the shared line."""
    (guest,) = {Space.LEGACY_IRQ, Space.MSI_IRQ} - {host}
    state = vm({host: [(5, 20)]}, shared_irq=5, joined={guest: host})
    assert spans(give(state, "alone", LegacyIrqConstraint())) == [(6, 6)]
    assert spans(give(state, "group", esrm.GenericIrqConstraint(2))) == [(7, 8)]
    assert spans(give(state, "sharer", LegacyIrqConstraint(shared=True))) == [(5, 5)]


def test_what_a_parent_holds_of_another_space_costs_its_children_nothing() -> None:
    """Behind a parent with 1,500 slots a child's 20 ranges take no longer than behind one with a single slot: that it
    has no window is looked up once, by ``allocate`` and by a plan that places the parent, too."""

    def effort(slots: int) -> tuple[int, int]:
        state = vm({Space.MMIO: [(0, 2**40)], Space.KVM_MEM_SLOT: [(0, 9999)]})
        declared(state, "parent", esrm.KvmMemSlotConstraint(slots))
        for child in "ab":
            declared(state, child, *[MmioConstraint(0x1000)] * 20, parent="parent")
        alone, more = (calls(lambda some=some: decide.plan(state, ["parent", *some])) for some in ([], ["a", "b"]))
        do(state, decide.allocate, "parent")
        do(state, decide.allocate, "a")
        return calls(lambda: decide.allocate(state, "b")), more - alone

    (once, planned), (again, planned_again) = effort(1), effort(1500)
    assert again < 2 * once
    assert planned_again < 2 * planned + 3 * 1500


def test_a_parent_without_a_window_may_get_one_later() -> None:
    """That there was none is forgotten when the parent holds something else, or is gone; in a plan as well."""
    state = vm({Space.MMIO: [(0, 0xFFFF)]})
    for _ in range(2):
        do(state, decide.create, "parent")
        assert spans(give(state, "early", MmioConstraint(0x1000), parent="parent")) == [(0, 0xFFF)]
        take_back(state, "early")
        declared(state, "parent", MmioConstraint(0x2000, (0x8000, 0xFFFF)))
        declared(state, "greedy", MmioConstraint(0x100000), parent="parent")
        declared(state, "late", MmioConstraint(0x1000), parent="parent")
        refused, _, placed = decide.plan(state, ["greedy", "parent", "late"]).placements
        assert refused.refusal
        assert spans(list(placed.resources)) == [(0x8000, 0x8FFF)]
        do(state, decide.allocate, "parent")
        do(state, decide.allocate, "late")
        assert spans(list(state.devices["late"].allocated)) == [(0x8000, 0x8FFF)]
        take_back(state, "late")
        do(state, decide.release, "parent")
        assert isinstance(tried(decide.allocate, state, "greedy"), NoSpace)
        do(state, decide.remove, "greedy")
        do(state, decide.remove, "parent")
    assert state.allocator._windows == {}


def test_behind_a_hundred_thousand_ranges() -> None:
    """Behind 100,000 live ranges, and behind 100,000 holes that are too small, a search finds the first that fits."""
    book = Ledger(Space.MMIO, [(0, 2**40)])
    for number in range(100_000):
        book.take(number * 0x2000, number * 0x2000 + 0xFFF, "x")
    model_answer = 100_000 * 0x2000 - 0x1000
    assert book.free.first_fit(0x1001, 0, 0, 2**40) == model_answer
    assert book.free.first_fit(0x2000, 0xFFF, 0, 2**40) == model_answer
    assert book.free.first_fit(0x1000, 0xFFF, 0, 2**40) == 0x1000
    assert book.free.first_fit(0x1000, 0x1FFF, 0, 2**40) == model_answer + 0x1000


def test_the_model_itself() -> None:
    """The judge is judged, too: a few answers that anybody can check."""
    model = Model(Space.PIO, [(0, 9)], [(3, 3, "wall")])
    world = World(esrm.Platform("p", {Space.PIO: [(0, 9)]}))
    model.take(5, world.asked(PioConstraint(2)), "a")
    assert model.free == {0, 1, 2, 4, 7, 8, 9}
    assert runs(model.free) == [[0, 1, 2], [4], [7, 8, 9]]
    assert model.search(world.asked(PioConstraint(2, align=4))) == 0
    assert model.search(world.asked(PioConstraint(2, align=4, policy="last"))) == 8
    assert model.search(world.asked(PioConstraint(4))) is None
    assert model.fewest(world.asked(PioConstraint(4)), "b") == 1
    assert model.fewest(world.asked(PioConstraint(7)), "b") is None
