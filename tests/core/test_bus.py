"""The bus: the innermost range answers, an access fits one range whole, and no order of coming and going matters."""

from __future__ import annotations

from itertools import permutations
from random import Random
from typing import Any

import pytest
from hypothesis import given
from strategies import bounded, dice

from esrm import AddressConflict, Answer, Bus, InvalidAccess, InvalidConstraint, NotMapped, Space

MMIO, PIO = Space.MMIO, Space.PIO


def bridge() -> Bus:
    """bridge 0x1000-0x1fff with nic 0x1000-0x10ff (fn 0x1000-0x100f inside it) and usb 0x1800-0x18ff; rtc apart."""
    bus = Bus()
    bus.register(MMIO, 0x1000, 0x1000, "bridge")
    bus.register(MMIO, 0x1000, 0x100, "nic", ["bridge"])
    bus.register(MMIO, 0x1000, 0x10, "fn", ["nic", "bridge"])
    bus.register(MMIO, 0x1800, 0x100, "usb", ["bridge"])
    bus.register(MMIO, 0x3000, 0x10, "rtc")
    return bus


@pytest.mark.parametrize(
    ("address", "answer"),
    [
        (0x0FFF, None),
        (0x1000, ("fn", 0x1000, 0x100F, 0)),
        (0x100F, ("fn", 0x1000, 0x100F, 0xF)),
        (0x1010, ("nic", 0x1000, 0x10FF, 0x10)),
        (0x10FF, ("nic", 0x1000, 0x10FF, 0xFF)),
        (0x1100, ("bridge", 0x1000, 0x1FFF, 0x100)),
        (0x17FF, ("bridge", 0x1000, 0x1FFF, 0x7FF)),
        (0x1800, ("usb", 0x1800, 0x18FF, 0)),
        (0x1900, ("bridge", 0x1000, 0x1FFF, 0x900)),
        (0x1FFF, ("bridge", 0x1000, 0x1FFF, 0xFFF)),
        (0x2000, None),
        (0x3000, ("rtc", 0x3000, 0x300F, 0)),
        (0x3010, None),
    ],
)
def test_the_innermost_answers(address: int, answer: tuple[Any, ...] | None) -> None:
    """A device behind others answers where it is, with the offset inside its own range; nobody answers elsewhere."""
    bus = bridge()
    assert bus.lookup(MMIO, address) == (Answer(*answer) if answer else None)
    assert bus.lookup(PIO, address) is None
    if answer:
        assert bus.find(MMIO, address) == answer
    else:
        with pytest.raises(NotMapped, match=f"nobody answers at mmio {address:#x}"):
            bus.find(MMIO, address)


FAMILY = [
    (0x1000, 0x3000, "root", []),
    (0x1000, 0x2000, "bridge", ["root"]),
    (0x1000, 0x100, "nic", ["bridge", "root"]),
    (0x2000, 0x100, "usb", ["bridge", "root"]),
]


@pytest.mark.parametrize("order", list(permutations(range(len(FAMILY)))))
def test_the_order_of_coming_and_going_does_not_matter(order: tuple[int, ...]) -> None:
    """Whoever registers first, each answers where it is; whoever leaves first, the others answer as before."""
    bus = Bus()
    for index in order:
        base, size, device, ancestors = FAMILY[index]
        bus.register(MMIO, base, size, device, ancestors)
    probes = {0x1000: ["nic", "bridge", "root"], 0x1800: ["bridge", "root"], 0x2080: ["usb", "bridge", "root"]}
    probes |= {0x2800: ["bridge", "root"], 0x3800: ["root"]}
    gone: list[str] = []
    for index in order:
        for address, there in probes.items():
            left = [device for device in there if device not in gone]
            found = bus.lookup(MMIO, address)
            assert (found.device if found else None) == (left[0] if left else None)
        base, size, device, _ = FAMILY[index]
        bus.unregister(MMIO, base, size, device)
        gone.append(device)
    assert list(bus.ranges(MMIO)) == []


@pytest.mark.parametrize(
    ("address", "size", "device"),
    [
        (0x1000, 0x10, "fn"),
        (0x1000, 0x11, None),
        (0x100F, 2, None),
        (0x1010, 0xF0, "nic"),
        (0x1010, 0xF1, None),
        (0x1100, 0x700, "bridge"),
        (0x17FF, 2, None),
        (0x17FE, 2, "bridge"),
        (0x1900, 0x701, None),
        (0x1FFF, 1, "bridge"),
        (0x1FFF, 2, None),
        (0x3000, 0, None),
        (0x3000, -1, None),
        (0x3000, 2**64, None),
        (0x300E, 4, None),
    ],
)
def test_an_access_fits_one_range_whole(address: int, size: int, device: str | None) -> None:
    """It neither runs out of a range nor into one that lies inside."""
    bus = bridge()
    if device:
        assert bus.find(MMIO, address, size).device == device
    else:
        with pytest.raises(InvalidAccess, match=f"{size} bytes at mmio {address:#x} do not fit"):
            bus.find(MMIO, address, size)


def test_an_empty_bus() -> None:
    """Nobody answers, there is nothing to move or to take away, and every error is NotMapped."""
    bus = Bus()
    assert bus.lookup(MMIO, 0) is None
    assert list(bus.ranges(PIO)) == []
    for access in (
        lambda: bus.find(MMIO, 0),
        lambda: bus.find(MMIO, -1),
        lambda: bus.unregister(MMIO, 0, 1),
        lambda: bus.move(MMIO, 0, 1, 1),
    ):
        with pytest.raises(NotMapped):
            access()


EVERYBODY = "bridge (0x1000-0x1fff), nic (0x1000-0x10ff), fn (0x1000-0x100f), usb (0x1800-0x18ff), rtc (0x3000-0x300f)"


@pytest.mark.parametrize(
    ("base", "size", "device", "ancestors", "named"),
    [
        (0x1000, 0x1000, "bridge", [], "bridge (0x1000-0x1fff)"),
        (0x2000 - 1, 2, "x", [], "bridge (0x1000-0x1fff)"),
        (0x0, 0x10000, "x", [], EVERYBODY),
        (0x1800, 1, "x", ["bridge"], "usb (0x1800-0x18ff)"),
        (0x1F00, 0x200, "x", ["bridge"], "bridge (0x1000-0x1fff)"),
        (0x1080, 0x100, "x", ["nic", "bridge"], "nic (0x1000-0x10ff)"),
        (0x300F, 1, "x", ["bridge"], "rtc (0x3000-0x300f)"),
    ],
)
def test_a_conflict_names_everybody_in_the_way(base: int, size: int, device: str, ancestors: Any, named: str) -> None:
    """Only ancestors may lie around a range, and whole; the rest are named in address order, and nothing changes."""
    bus = bridge()
    before = list(bus.ranges(MMIO))
    with pytest.raises(AddressConflict) as refused:
        bus.register(MMIO, base, size, device, ancestors)
    assert str(refused.value).partition(" runs into ")[2] == named
    assert list(bus.ranges(MMIO)) == before


@pytest.mark.parametrize(
    ("space", "base", "size"),
    [(MMIO, 0, 0), (MMIO, 0, -5), (MMIO, -1, 1), (MMIO, 2**64 - 1, 2), (MMIO, 0, 2**64 + 1), (PIO, 0xFFFF, 2)],
)
def test_a_range_lies_in_its_space(space: Space, base: int, size: int) -> None:
    """Zero-sized, negative and too long ranges are refused by all three."""
    bus = Bus()
    for call in (bus.register, bus.unregister):
        with pytest.raises(InvalidConstraint, match="must be at least 1 and end by"):
            call(space, base, size, "x")
    bus.register(space, 0, 1, "x")
    with pytest.raises((InvalidConstraint, NotMapped)):
        bus.move(space, 0, base, size)


def test_the_ends_of_the_spaces() -> None:
    """Whole spaces and last addresses answer."""
    bus = Bus()
    bus.register(MMIO, 0, 2**64, "all")
    bus.register(PIO, 0xFFFF, 1, "last")
    assert bus.find(MMIO, 2**64 - 8, 8).offset == 2**64 - 8
    assert bus.find(PIO, 0xFFFF).device == "last"
    with pytest.raises(InvalidAccess):
        bus.find(MMIO, 2**64 - 8, 9)


def test_only_what_is_registered_is_taken_away() -> None:
    """Half a range, a longer one, and somebody else's are NotMapped; what was inside stays and is reached."""
    bus = bridge()
    before = list(bus.ranges(MMIO))
    for base, size, device in (
        (0x1000, 0x800, None),
        (0x1000, 0x1001, None),
        (0x1001, 1, None),
        (0x1000, 0x1000, "nic"),
    ):
        with pytest.raises(NotMapped, match="is not registered"):
            bus.unregister(MMIO, base, size, device)
        assert list(bus.ranges(MMIO)) == before
    bus.unregister(MMIO, 0x1000, 0x1000, "bridge")
    assert bus.lookup(MMIO, 0x1000).device == "fn"
    assert bus.lookup(MMIO, 0x1FFF) is None
    bus.unregister(MMIO, 0x1000, 0x10)
    assert bus.lookup(MMIO, 0x1000).device == "nic"


def test_moves() -> None:
    """Onto itself, into itself, away; a refused move changes nothing; ancestors are as they were."""
    bus = bridge()
    bus.move(MMIO, 0x3000, 0x3000, 0x10)
    bus.move(MMIO, 0x3000, 0x3008, 0x10)
    assert bus.lookup(MMIO, 0x3017).device == "rtc"
    assert bus.lookup(MMIO, 0x3007) is None
    before = list(bus.ranges(MMIO))
    for new in (0x1000, 0xFF8, 0x1FF8, 0x18F8):
        with pytest.raises(AddressConflict, match="rtc: mmio"):
            bus.move(MMIO, 0x3008, new, 0x10)
        assert list(bus.ranges(MMIO)) == before
    with pytest.raises(NotMapped):
        bus.move(MMIO, 0x3000, 0x4000, 0x10)
    bus.move(MMIO, 0x1800, 0x1F00, 0x100)
    assert bus.lookup(MMIO, 0x1F80) == Answer("usb", 0x1F00, 0x1FFF, 0x80)
    assert bus.lookup(MMIO, 0x1880).device == "bridge"


# -- against a list --------------------------------------------------------------------------------------------------

WIDTH = 64
PARENTS = {"a": (), "b": ("a",), "c": ("b", "a"), "d": ("a",), "e": (), "f": ("e",)}


class Model:
    """A bus without an index: a list of ranges, looked through one by one."""

    def __init__(self) -> None:
        self.ranges: list[tuple[int, int, str]] = []

    def may(self, base: int, last: int, device: str) -> bool:
        for first, end, other in self.ranges:
            apart = end < base or last < first
            around = other in PARENTS[device] and first <= base and last <= end
            inside = device in PARENTS[other] and base <= first and end <= last
            if not (apart or around or inside):
                return False
        return True

    def answer(self, address: int) -> tuple[int, int, str] | None:
        """The smallest range there; of equal ones, the device that lies deepest."""
        there = [entry for entry in self.ranges if entry[0] <= address <= entry[1]]
        return min(there, key=lambda entry: (entry[1] - entry[0], -len(PARENTS[entry[2]])), default=None)


def compare(bus: Bus, model: Model, dice: Random, unit: int) -> None:
    """The first or last address of every unit alone, and some access from there."""
    dice = Random(
        dice.getrandbits(32)
    )  # one throw for them all: hypothesis is slow to throw, and has nothing to shrink
    for edge in range(0, (WIDTH + 2) * unit, unit):
        address = edge + dice.choice([0, unit - 1])
        found, expected = bus.lookup(MMIO, address), model.answer(address)
        assert (found and (found.base, found.last, found.device)) == expected
        size = dice.choice([1, 2, 8, unit, dice.randint(1, 9 * unit)])
        touched = {address, address + size - 1, *range(edge + unit, address + size, unit)}
        fits = expected is not None and all(model.answer(number) == expected for number in touched)
        try:
            assert bus.find(MMIO, address, size).offset == address - expected[0]
            assert fits
        except NotMapped:
            assert expected is None
        except InvalidAccess:
            assert expected is not None
            assert not fits
    order = [(a.base, a.last, a.device) for a in bus.ranges(MMIO)]
    assert sorted(order, key=lambda e: (e[0], -e[1], len(PARENTS[e[2]]))) == order
    assert sorted(order) == sorted(model.ranges)


@given(dice())
@bounded(100)
def test_the_bus_agrees_with_a_list(dice: Random) -> None:
    """Nested devices register, unregister and move in any order: every address and access is as in a plain list.

    In units of one address, of a quarter of a page, and of a page: what a look-up remembers must not outlive a change.
    """
    bus, model, unit = Bus(), Model(), dice.choice([1, 0x400, 0x1000])
    for _ in range(dice.randint(1, 25)):
        if dice.random() < 0.3:
            compare(bus, model, dice, unit)
        what = dice.random()
        base = dice.randrange(WIDTH) * unit
        last = min(base + dice.choice([1, 2, 4, 8, 16, 32, 64]) * unit, (WIDTH + 1) * unit) - 1
        if what < 0.6 or not model.ranges:
            device = dice.choice(list(PARENTS))
            try:
                bus.register(MMIO, base, last - base + 1, device, PARENTS[device])
            except AddressConflict:
                assert not model.may(base, last, device)
            else:
                assert model.may(base, last, device)
                model.ranges.append((base, last, device))
            continue
        entry = dice.choice(model.ranges)
        first, end, device = entry
        model.ranges.remove(entry)
        if what < 0.8:
            bus.unregister(MMIO, first, end - first + 1, device)
        elif sum(other[:2] == entry[:2] for other in model.ranges):
            model.ranges.append(entry)  # two with the same place: a move cannot say which it means
        else:
            moved = (base, base + end - first, device)
            try:
                bus.move(MMIO, first, base, end - first + 1)
            except AddressConflict:
                assert not model.may(*moved)
                model.ranges.append(entry)
            else:
                assert model.may(*moved)
                model.ranges.append(moved)
    compare(bus, model, dice, unit)
