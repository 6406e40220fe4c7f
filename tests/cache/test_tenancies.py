"""The index answers `blame` as replay does, and looks at little to do so."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import apsw
import pytest
from hypothesis import given
from hypothesis import strategies as st
from strategies import U64, bounded, dice, numbers
from told import VM, addresses, in_memory, life, log_of, replayed

import esrm
from esrm import Past, Space
from esrm.cache import file, tenancies
from esrm.cache.tenancies import fork, forks_above
from esrm.core import events as e


def power(number: int) -> int:
    """The largest power of two that divides a number; of 0, more than any other's."""
    return number & -number or 2**65


@given(st.data())
def test_a_fork_is_among_those_above_all_that_the_interval_contains(data: st.DataObject):
    """Whatever 64-bit interval, and whatever number in it: its fork is looked at, and at most 65 are."""
    first, last = sorted((data.draw(numbers(0, U64)), data.draw(numbers(0, U64))))
    inside = data.draw(st.sampled_from([first, last]) | st.integers(first, last))
    found = fork(first, last)
    assert first <= found <= last
    assert power(found) >= power(inside)
    assert found in forks_above(inside, U64)
    assert found in forks_above(inside, last)
    assert len(forks_above(inside, U64)) <= 65
    assert all(0 <= above <= U64 for above in forks_above(inside, U64))


def test_small_forks_one_by_one():
    """Of every interval below 32 the fork is the number in it with the most low zeros."""
    for last in range(32):
        for first in range(last + 1):
            assert fork(first, last) == max(range(first, last + 1), key=power)


def agrees(reader: Any, every: int = 1) -> int:
    """Every address that mattered, at every revision, by index and by replay; how many were held."""
    past, held = Past(reader, VM), 0
    states = replayed(reader)
    for space, address in sorted(addresses(states), key=str):
        for revision in range(len(states)):
            if (address + revision) % every == 0:
                found = tenancies.holders(reader, VM, space, address, revision)
                assert found is not None
                said = [esrm.Blame(*entry) for entry in found]
                assert said == past._blame(space, address, revision), (space, address, revision)
                assert past.blame(space, address, revision) == said
                held += len(said)
    return held


@pytest.mark.parametrize("seed", [1, 2])
def test_every_revision_of_a_long_story(tmp_path: Path, seed: int):
    """Moves, swaps, shared lines, nesting, names used again, what is reserved: index and replay say the same."""
    assert agrees(in_memory(random.Random(seed), 120, tmp_path / "cache"), every=41) > 20


@given(dice())
@bounded(8)
def test_every_revision_of_any_story(tmp_path_factory: pytest.TempPathFactory, dice: random.Random):
    """The same, and hypothesis seeks the story for which it is not."""
    agrees(in_memory(dice, 12, tmp_path_factory.mktemp("story") / "cache"), every=3)


class Growing:
    """A log as it was when it ended at a revision."""

    def __init__(self, reader: Any) -> None:
        self.reader, self.end, self.beside = reader, -1, reader.beside

    def __getattr__(self, name: str) -> Any:
        return getattr(self.reader, name)

    def stream(self, vm: str) -> Any:
        return esrm.stores.records.head_of(next(self.reader.rows(vm, self.end - 1, 1)))

    def payloads(self, vm: str, after: int = -1, limit: int | None = None) -> Any:
        room = self.end - after
        return self.reader.payloads(vm, after, room if limit is None else min(limit, room))


def test_it_goes_on_where_it_ended(tmp_path: Path):
    """Asked after each event of a growing log, and about moments that long passed."""
    growing = Growing(in_memory(random.Random(4), 80, tmp_path / "cache"))
    states = replayed(growing.reader)
    places, dice = sorted(addresses(states), key=str), random.Random(4)
    for growing.end in range(len(states)):
        past = Past(growing, VM)  # type: ignore[arg-type]
        for moment in {growing.end, dice.randrange(growing.end + 1)}:
            space, address = dice.choice(places)
            assert past.blame(space, address, moment) == past._blame(space, address, moment)
        [ended] = file.look(growing.beside, lambda fetch: fetch("SELECT revision FROM vms"))[0]
        assert ended == growing.end


def death(name: str, *held: esrm.Resource) -> list[e.Event]:
    """How it ends."""
    return [e.ResourcesReleased(name, held), e.DeviceRemoved(name)]


def test_much_traffic_beneath_a_bridge_is_not_walked_through(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """A window that stays around a page that changes hands 2,000 times, and a line shared all the while: at every
    moment a handful of entries is looked at, whatever came before and after."""
    monkeypatch.setattr(tenancies, "STRETCH", 100_000)
    window, page = esrm.MmioAddressRange(0xC000_0000, 0x4000), esrm.MmioAddressRange(0xC000_1000, 0x2000)
    line = esrm.LegacyIrq(5)
    events = [e.VmCreated(esrm.platforms.get("x86_64")), *life("bridge", window, line)]
    for n in range(2000):
        events += [*life(f"card{n}", page, line, parent="bridge"), *death(f"card{n}", page, line)]
    reader = log_of(events, tmp_path / "cache")
    past = Past(reader, VM)
    for space, address in ((Space.MMIO, 0xC000_1000), (Space.MMIO, 0xC000_2FFF), (Space.LEGACY_IRQ, 5)):
        for revision in (3, 4, 6, 7, 5000, 5001, 5002, 9999, 10_002, 10_003):
            said = past.blame(space, address, revision)
            assert said == past._blame(space, address, revision)
            assert len(said) == 1 + (revision > 3 and (revision - 3) % 5 == 3)
    crowds = "SELECT max(n) FROM (SELECT count(*) AS n FROM tenancies GROUP BY vm, space, place, moment)"
    assert file.look(reader.beside, lambda fetch: fetch(crowds)) == [(1,)]


def test_at_the_ends_of_the_spaces(tmp_path: Path):
    """Ranges that begin at 0, end at 2**64-1, or are all there is; and addresses that no space has."""
    top = 2**64 - 1
    events = [
        e.VmCreated(esrm.platforms.get("x86_64")),
        *life("all", esrm.MemAddressRange(0, 2**63), esrm.MemAddressRange(2**63, 2**63)),
        *life("low", esrm.MemAddressRange(0, 1), parent="all"),
        *life("high", esrm.MemAddressRange(top, 1), esrm.MmioAddressRange(1, top), parent="all"),
        *life("most", esrm.MmioAddressRange(0, top), parent="all"),  # no signed number says how far
        *life("ports", esrm.PioAddressRange(0, 2**16 - 1), esrm.MacAddress("ff:ff:ff:ff:ff:ff")),
    ]
    reader = log_of(events, tmp_path / "cache")
    past = Past(reader, VM)
    for space in Space:
        for address in (0, 1, 2**15, 2**16 - 2, 2**16 - 1, 2**48 - 1, 2**63 - 1, 2**63, top - 1, top, top + 1, -1):
            for revision in range(len(events)):
                assert past.blame(space, address, revision) == past._blame(space, address, revision)
    assert [blame.holding.owner for blame in past.blame("mem", top)] == ["all", "high"]
    assert [blame.holding.owner for blame in past.blame("mem", 0)] == ["all", "low"]


def test_joined_spaces_are_asked_together(tmp_path: Path):
    """Lines and messages out of one pool: whichever is asked for, who holds the number in either is told, and since
    which record; as is who it is reserved for."""
    group = esrm.MsiIrq(esrm.MsiIrqType.GENERIC_MSI, 10, 4)
    events = [e.VmCreated(esrm.platforms.get("crosvm-x86_64")), *life("a", esrm.LegacyIrq(9), group)]
    reader = log_of(events, tmp_path / "cache")
    for space in (Space.LEGACY_IRQ, Space.MSI_IRQ):
        for number, where, first, last in ((9, Space.LEGACY_IRQ, 9, 9), (11, Space.MSI_IRQ, 10, 13)):
            [(holding, record)] = tenancies.holders(reader, VM, space, number, 3) or []
            assert holding == e.Holding("a", where, first, last)
            assert record is not None
            assert record.revision == 3
        [(wall, record)] = tenancies.holders(reader, VM, space, 5, 3) or []
        assert (wall, record) == (e.Holding("SCI", Space.LEGACY_IRQ, 5, 5, reserved=True), None)
    assert tenancies.holders(reader, VM, Space.KVM_MEM_SLOT, 9, 3) == []


def test_a_log_that_cannot_be_is_judged_by_replay(tmp_path: Path):
    """Before the impossible record there are answers; after it `Corrupt`; and no index pretends to know."""
    page = esrm.MmioAddressRange(0xC000_0000, 0x1000)
    events = [e.VmCreated(esrm.platforms.get("x86_64")), *life("a", page), e.DeviceRemoved("b"), *life("c")]
    reader = log_of(events, tmp_path / "cache")
    past = Past(reader, VM)
    assert [blame.holding.owner for blame in past.blame("mmio", page.base, 3)] == ["a"]
    for _ in range(2):
        with pytest.raises(esrm.Corrupt, match="revision 4"):
            past.blame("mmio", page.base, 5)


DAMAGE = ["given = given + 1", "part = part + 1", "born = born - 1", "taken = coalesce(taken, 30) + 1", "seal = 0"]
DAMAGE += ["below = below + 1", "above = above - 1"]


@pytest.mark.parametrize("damage", DAMAGE)
def test_a_changed_entry_costs_the_cache_and_no_answer(tmp_path: Path, damage: str):
    """Whichever column of the entries was changed, the index is dropped, and made anew by the next question."""
    reader = in_memory(random.Random(9), 60, tmp_path / "cache")
    past = Past(reader, VM)
    places = sorted(addresses(replayed(reader)), key=str)[::9]
    past.blame("pio", 0x100)
    assert file.keep(reader.beside, lambda fetch: fetch(f"UPDATE tenancies SET {damage}") and None)
    for space, address in places:
        for revision in (10, 30, past.head()):
            assert past.blame(space, address, revision) == past._blame(space, address, revision)
    assert file.look(reader.beside, lambda fetch: fetch("SELECT count(*) FROM vms WHERE revision > 30")) == [(1,)]


def test_an_index_that_cannot_be_read_is_given_up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """The cache's file can be written, but where the index stands it cannot be read: replay answers, soon."""
    growing = Growing(in_memory(random.Random(4), 40, tmp_path / "cache"))
    states = replayed(growing.reader)
    growing.end = len(states) // 2
    Past(growing, VM).blame(Space.PIO, 0x100)  # type: ignore[arg-type]
    growing.end = len(states) - 1
    rounds: list[int] = []

    def unreadable(*_: Any) -> Any:
        rounds.append(1)
        assert len(rounds) < 5, "it goes round and round"
        raise apsw.IOError("disk I/O error")

    monkeypatch.setattr(tenancies._Index, "load", unreadable)
    past = Past(growing, VM)  # type: ignore[arg-type]
    for space, address in sorted(addresses(states[-1:]), key=str)[:3]:
        rounds.clear()
        assert past.blame(space, address) == past._blame(space, address, growing.end)
        assert rounds
