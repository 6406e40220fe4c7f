"""The bus remembers pages: what it remembers must be what a bus would say that was built just now."""

from __future__ import annotations

from random import Random

import pytest

from esrm import Answer, Bus, Space
from esrm.core import bus as module
from esrm.errors import EsrmError, NotMapped

ROOM = 0x8000


def said(bus: Bus, address: int, size: int) -> Answer | type[EsrmError]:
    """The answer, or the kind of refusal."""
    try:
        return bus.find(Space.MMIO, address, size)
    except EsrmError as error:
        return type(error)


@pytest.mark.parametrize("seed", range(20))
def test_a_bus_that_remembers_answers_as_one_that_was_built_just_now(seed: int) -> None:
    """Ranges of all sizes come, go and nest while every page is asked for again and again."""
    dice, bus, held = Random(seed), Bus(), dict[str, tuple[int, int]]()
    for number in range(60):
        if held and dice.random() < 0.4:
            name = dice.choice(list(held))
            base, size = held.pop(name)
            bus.unregister(Space.MMIO, base, size, name)
        else:
            size = dice.choice([1, 0x10, 0x800, 0x1000, 0x3000])
            base = dice.randrange(0, ROOM - size, min(size, 0x800))
            try:
                bus.register(Space.MMIO, base, size, f"dev{number}", tuple(held))
                held[f"dev{number}"] = base, size
            except EsrmError:
                pass
        fresh = Bus()
        for name, (base, size) in held.items():  # parents came first
            fresh.register(Space.MMIO, base, size, name, tuple(held))
        for _ in range(40):
            address, size = dice.randrange(ROOM), dice.choice([0, 1, 4, 8, 0x1000])
            before = said(bus, address, size)
            assert before == said(bus, address, size) == said(fresh, address, size)


@pytest.mark.parametrize("beyond", ["nobody", "tail"])
def test_a_page_that_is_not_all_one_devices_is_not_remembered(beyond: str) -> None:
    """A range that ends one byte before its page does: the last byte is nobody's, or its neighbour's."""
    bus = Bus()
    bus.register(Space.MMIO, 0x800, 0x17FF, "head")
    if beyond == "tail":
        bus.register(Space.MMIO, 0x1FFF, 1, "tail")
    for _ in range(2):
        assert bus.find(Space.MMIO, 0x1000, 1) == ("head", 0x800, 0x1FFE, 0x800)
        assert said(bus, 0x1FFF, 1) == (NotMapped if beyond == "nobody" else ("tail", 0x1FFF, 0x1FFF, 0))
        assert bus.find(Space.MMIO, 0x800, 1) == ("head", 0x800, 0x1FFE, 0)
        assert said(bus, 0x7FF, 1) is NotMapped


def test_no_page_is_taken_for_another() -> None:
    """What is remembered of a page is told of that page alone, however far the other one lies."""
    bus = Bus()
    places = 0x1000, 0x1000_0000, 0x10_0000_0000
    for number, base in enumerate(places):
        bus.register(Space.MMIO, base, 0x1000, f"dev{number}")
    for _ in range(2):
        for number, base in enumerate(places):
            assert bus.find(Space.MMIO, base, 1) == (f"dev{number}", base, base + 0xFFF, 0)
        for address in (0, 1, 0x10, 0x1000 << 24, 0x1000 << 12, 0x1_0000 << 12):
            if not any(base <= address <= base + 0xFFF for base in places):
                assert said(bus, address, 1) is NotMapped


def test_it_forgets_before_it_grows_without_end(monkeypatch: pytest.MonkeyPatch) -> None:
    """However many pages a guest touches, a bounded number of them is remembered, and all answer right."""
    monkeypatch.setattr(module, "PAGES_MAX", 4)
    bus = Bus()
    bus.register(Space.MMIO, 0, 0x40000, "big")
    for page in range(0x40):
        assert bus.find(Space.MMIO, page << 12, 4) == ("big", 0, 0x3FFFF, page << 12)
        assert len(bus._pages[Space.MMIO]) <= 4
