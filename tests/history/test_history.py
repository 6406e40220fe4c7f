"""Any moment, asked of a log of several VMs: at, diff, blame, timeline, bisect, log, and the names of moments."""

from __future__ import annotations

import random
from collections.abc import AsyncIterator
from contextlib import ExitStack, asynccontextmanager
from datetime import UTC, datetime, timedelta, timezone
from typing import Any, NamedTuple

import pytest
from stories import START_NS, TINY, Clock, Toy, records_of, turn

import esrm
from esrm import (
    History,
    LegacyIrqConstraint,
    MmioAddressRange,
    MmioConstraint,
    Move,
    Past,
    Phase,
    ResourceManager,
    Space,
    UnknownDevice,
    UnknownMoment,
    acting,
    open_store,
)

SECOND = 10**9


class Told(NamedTuple):
    """A store of several VMs, and the one whose past is asked for."""

    store: Any
    history: History
    records: list[esrm.Record[esrm.Event]]


@asynccontextmanager
async def story(url: str) -> AsyncIterator[Told]:
    """A bridge with a card inside, a life of net0, another life of net0, and other VMs' events between all of these.

    web-1's revisions: 0 begins, 1-5 bridge, 6-10 card inside it, 11-15 net0, 16-18 net0 goes, 19-23 net0 again,
    24 net0 moves away, 25-26 big is refused (27). One second lies between two steps.
    """
    clock = Clock(START_NS - SECOND)

    async def tick() -> None:
        clock.now += SECOND
        await other.create(f"dev{clock.now}")

    async with (
        open_store(url, synchronous="OFF") as store,
        ResourceManager(store, vm="a", platform=TINY) as other,
        ResourceManager(store, vm="web-1", platform=TINY, clock=clock, actor="vmm") as vm,
    ):
        commit = vm._commit

        async def slowly(decision: Any) -> None:
            await tick()
            await commit(decision)

        vm._commit = slowly
        await vm.attach(Toy("bridge", MmioConstraint(0x4000, policy="last"), kind="pci-bridge"))
        await vm.attach(Toy("card", MmioConstraint(0x1000, policy="first"), parent="bridge"))
        with acting("alice", "plug"):
            await vm.attach(Toy("net0", MmioConstraint(0x1000), LegacyIrqConstraint(7)))
            for step in (vm.unregister, vm.release, vm.remove):  # not detach, whose events share a moment
                await step("net0")
        with acting("bob"):
            await vm.attach(Toy("net0", MmioConstraint(0x1000), LegacyIrqConstraint(7), kind="new"))
            old = vm.state.device("net0").allocated[0]
            await vm.move([Move("net0", old, MmioAddressRange(0xD000_2000, 0x1000))])
        await vm.create("big")
        await vm.declare("big", [MmioConstraint(0x40000)])
        with pytest.raises(esrm.NoSpace):
            await vm.allocate("big")
        async with ResourceManager(store, vm="z", platform="aarch64"):
            pass
        yield Told(store, History(store, "web-1"), await records_of(store, "web-1"))


# -- moments ----------------------------------------------------------------------------------------------------------


async def test_the_state_at_each_revision_position_and_time(url: str):
    """Three ways to name a moment lead to the same state; between two records it is still the earlier one's."""
    async with story(url) as (store, history, records):
        assert len(records) == 28
        for record in records:
            state = esrm.replay(r.event for r in records[: record.revision + 1])
            assert await history.at(record.revision) == state
            assert await history.at(position=record.position) == state
            assert await history.at(position=record.position + 1) == state  # another VM's
            for time in (record.time_ns, record.time_ns + SECOND - 1):
                if record is not records[0]:
                    assert await history.at(time=time) == state
        assert await history.at() == state == await history.at("@") == await history.at(position=await store.head())


async def test_one_moment_at_a_time(url: str):
    """Of two moments one would have to be passed over; and a time is no text, which has a form of its own."""
    async with story(url) as (_, history, records):
        for two in ({"time": records[3].time_ns}, {"position": 4}):
            with pytest.raises(esrm.Malformed, match=r"^one moment at a time: revision=3, "):
                await history.at(3, **two)
        with pytest.raises(esrm.Malformed, match=r"nanoseconds, not '2026-01-01'; text goes into '@\{\.\.\.\}'"):
            await history.at(time="2026-01-01")  # type: ignore[arg-type]


async def test_blame_asks_all_spaces_that_share_their_numbers(url: str):
    """On crosvm lines and messages come out of one pool: whoever holds the number is told by either name, and why."""
    async with open_store(url) as store, ResourceManager(store, vm="web-1", platform="crosvm-x86_64") as vm:
        await vm.create("net0")
        await vm.declare("net0", [esrm.LegacyIrqConstraint(9), esrm.GenericIrqConstraint(4, base=10)])
        await vm.allocate("net0")
        for asked, number, told in ((Space.MSI_IRQ, 9, Space.LEGACY_IRQ), (Space.LEGACY_IRQ, 11, Space.MSI_IRQ)):
            [found] = await History(store, "web-1").blame(asked, number)
            assert (found.holding.owner, found.holding.space) == ("net0", told)
            assert isinstance(found.record.event, esrm.ResourcesAllocated)


async def test_times_with_and_without_a_zone(url: str):
    """A datetime without a zone is UTC; with one it is that instant; nanoseconds are exact on both sides."""
    async with story(url) as (_, history, records):
        record = records[12]
        naive = datetime(1970, 1, 1) + timedelta(microseconds=record.time_ns // 1000)
        aware = naive.replace(tzinfo=UTC).astimezone(timezone(timedelta(hours=-7, minutes=-30)))
        for time in (naive, aware, record.time_ns):
            assert (await history.at(time=time)).revision == 12
        for text in (naive.isoformat(), aware.isoformat(), f"{naive.isoformat()}Z", naive.isoformat(" ")):
            assert await history.revision(f"@{{{text}}}") == 12
        assert await history.revision(naive) == await history.revision(aware) == 12
        assert await history.revision(naive - timedelta(microseconds=1)) == 11
        assert (await history.at(time=record.time_ns - 1)).revision == 11


async def test_a_fraction_of_a_second_covers_what_begins_with_it(url: str):
    """``.12`` names all nanoseconds from .120000000 to .129999999: what a screen shows can be typed back."""
    clock = Clock()
    async with open_store(url) as store, ResourceManager(store, vm="web-1", platform=TINY, clock=clock) as vm:
        for nanoseconds in (120_000_000, 129_999_999, 130_000_000, 999_999_999, SECOND):
            clock.now = START_NS + nanoseconds
            await vm.create(f"dev{vm.revision}")
        history = History(store, "web-1")
        second = f"{datetime.fromtimestamp(START_NS // SECOND, UTC):%Y-%m-%dT%H:%M:%S}"
        shown = {"": 0, ".1": 3, ".12": 2, ".120000000": 1, ".120000001": 1, ",13": 3, ".9": 4, ".000000000": 0}
        for fraction, revision in shown.items():
            assert await history.revision(f"@{{{second}{fraction}}}") == revision, fraction
            assert await history.revision(f"@{{{second}{fraction}+00:00}}") == revision, fraction
        compact = second.replace("-", "").replace(":", "")
        assert await history.revision(f"@{{{compact}.12Z}}") == 2
        for wrong in (f"{second}.", f"{second}.5x", f"{second[:4]}.5{second[4:]}", f"{second[:-1]}.5"):
            with pytest.raises(UnknownMoment, match="is no time"):
                await history.revision(f"@{{{wrong}}}")


async def test_before_the_beginning(url: str):
    """A moment at which the VM had not begun is UnknownMoment, and says so; so is a VM that never was."""
    async with story(url) as (store, history, records):
        first = records[0]
        for moment in (
            {"time": first.time_ns - 1},
            {"time": 0},
            {"time": datetime(1, 1, 1, tzinfo=UTC)},
            {"position": first.position - 1},
            {"position": 0},
        ):
            with pytest.raises(UnknownMoment, match="web-1 had not begun"):
                await history.at(**moment)
        with pytest.raises(UnknownMoment, match=r"had not begun at @\{2001-01-01\}"):
            await history.revision("@{2001-01-01}")
        for question in (lambda h: h.at(), lambda h: h.log(), lambda h: h.diff(0, 1), lambda h: h.timeline("net0")):
            with pytest.raises(UnknownMoment, match=r"no VM 'web-2'.*did you mean web-1"):
                await question(History(store, "web-2"))
            with pytest.raises(UnknownMoment, match="no VM 'web-2'"):
                await History(store, "web-2").bisect(lambda state: True)
        assert (await history.at(time=datetime.max)).revision == 27


async def test_the_names_of_moments(url: str):
    """7, @, @~3, @{time} and a record's id, with spaces around."""
    async with story(url) as (_, history, records):
        head = len(records) - 1
        named = {7: 7, "7": 7, "@": head, "@~0": head, "@~3": head - 3, f"@~{head}": 0, " @~3 ": head - 3, "007": 7}
        named |= {records[5].id: 5, records[5].id.upper(): 5, f"  {records[0].id}\n": 0}
        for moment, revision in named.items():
            assert await history.revision(moment) == revision, moment
        assert await history.revision() == head


GARBAGE = [
    "", " ", "x", "@@", "@~", "@~-1", "@~x", "@{", "@{}", "@{yesterday}", "@{2026-13-01}", "@{25:00}", "-1", "+1",
    "1.0", "1e3", "0x10", "1_0", "\u0663", "\u00b2", "28", 28, -1, "@~28", "9" * 30, "9" * 5_000, "@~" + "9" * 5_000,
    "@{" + "9" * 500 + "}", "0" * 36, "-" * 36, "z" * 36, "0197 " * 7 + "0",
    "00000000-0000-7000-8000-000000000000", "n" * 10_000_000, "\0", "@{\ud83d}",
]  # fmt: skip


async def test_names_of_no_moment(url: str):
    """Anything else is UnknownMoment with a short message that shows what was asked and what can be."""
    async with story(url) as (_, history, _):
        for garbage in GARBAGE:
            with pytest.raises(UnknownMoment) as caught:
                await history.revision(garbage)
            assert 10 < len(str(caught.value)) < 300, garbage
        with pytest.raises(UnknownMoment, match="has revisions 0-27; there is no 28"):
            await history.diff(0, 28)


async def test_a_record_of_another_vm_is_no_moment_of_this_one(url: str):
    """Ids are unique in the store, but a moment belongs to a VM."""
    async with story(url) as (store, history, _):
        [*_, foreign] = await records_of(store, "a")
        with pytest.raises(UnknownMoment, match=f"web-1 has no record {foreign.id}"):
            await history.at(foreign.id)
        assert await History(store, "a").revision(foreign.id) == foreign.revision


# -- what changed, who had it, when -----------------------------------------------------------------------------------


async def test_diff_names_what_came_went_and_changed(url: str):
    """By device, with the states on both sides; nothing for equal layouts; and backwards it is the mirror image."""
    async with story(url) as (_, history, _):
        diff = await history.diff(10, 24)
        assert (diff.a, diff.b, [change.device for change in diff.changes]) == (10, 24, ["net0"])
        [net0] = diff.changes
        assert net0.before is None
        assert (net0.after.kind, net0.after.allocated[0].base) == ("new", 0xD000_2000)
        [moved] = (await history.diff(23, 24)).changes
        assert [device.allocated[0].base for device in (moved.before, moved.after)] == [0xD000_0000, 0xD000_2000]
        back = await history.diff(24, 10)
        assert [(c.before, c.after) for c in back.changes] == [(net0.after, None)]
        assert not await history.diff(10, 18)  # a whole life between, and nothing left of it
        assert not await history.diff("@")
        assert bool(diff)


async def test_blame_names_holders_from_the_outside_in(url: str):
    """The bridge and the card inside it, each with the record that gave it to them; and the platform's reservation."""
    async with story(url) as (_, history, records):
        window = records[3].event.resources[0]
        outer, inner = await history.blame(Space.MMIO, window.base + 8)
        assert (outer.holding.owner, outer.record) == ("bridge", records[3])
        assert (inner.holding.owner, inner.record) == ("card", records[8])
        [alone] = await history.blame("mmio", window.base + 0x2000)
        assert alone.holding == esrm.Holding("bridge", Space.MMIO, window.base, window.last)
        [timer] = await history.blame("mmio", 0xD000_4800)
        assert (timer.holding.owner, timer.holding.reserved, timer.record) == ("timer", True, None)
        for nobody in ((Space.MMIO, 0), (Space.PIO, 0x100), (Space.MMIO, 2**64)):
            assert await history.blame(*nobody) == []
        with pytest.raises(esrm.InvalidConstraint, match=r"no space 'mmoi'.*did you mean mmio"):
            await history.blame("mmoi", 0)


async def test_blame_at_a_moment(url: str):
    """Who had it then: the first life, nobody, the second life, and where it moved to."""
    async with story(url) as (_, history, records):
        [irq] = await history.blame("legacy_irq", 7)
        assert (irq.holding.owner, irq.record) == ("net0", records[21])
        for at, giver in {13: 13, 16: 13, 17: None, 20: None, 21: 21, "@~4": 21, 24: None, "@": None}.items():
            blames = await history.blame("mmio", 0xD000_0FFF, at=at)
            assert [blame.record for blame in blames] == ([] if giver is None else [records[giver]]), at
        [moved] = await history.blame("mmio", 0xD000_2000)
        assert (moved.holding.owner, moved.record, moved.record.actor) == ("net0", records[24], "bob")
        assert await history.blame("mmio", 0xD000_2000, at=23) == []


async def test_timeline_tells_every_life_of_a_name(url: str):
    """All records about a device, moves and refusals included, over as many lives as it had."""
    async with story(url) as (_, history, records):
        assert await history.timeline("net0") == records[11:25]
        assert [type(record.event) for record in await history.timeline("big")][-1] is esrm.AllocationRefused
        with pytest.raises(UnknownDevice, match="web-1 never had a device 'net1'; did you mean net0"):
            await history.timeline("net1")


async def test_bisect_finds_when_it_first_became_true(url: str):
    """The first record after which it holds, though it does not hold for ever; None if it never did."""
    async with story(url) as (_, history, records):
        found = await history.bisect(lambda state: "net0" in state.devices)
        assert found == records[11]
        found = await history.bisect(lambda s: "net0" in s.devices and s.device("net0").kind == "new")
        assert found == records[19]
        asked: list[int] = []
        assert await history.bisect(lambda state: asked.append(state.revision) or False) is None
        assert asked == list(range(28))
        assert await history.bisect(lambda state: state.platform is not None) == records[0]
        with pytest.raises(ZeroDivisionError):  # the predicate's own trouble is its own
            await history.bisect(lambda state: 1 // (state.revision - 5) > 9)
        registered = lambda s: any(d.phase is Phase.REGISTERED for d in s.devices.values())  # noqa: E731
        assert await history.bisect(registered) == records[5]


async def test_log_filters(url: str):
    """By device, type, actor, correlation and a stretch of moments, each alone and together, both ends included."""
    async with story(url) as (_, history, records):
        assert await history.log() == records
        assert await history.log(device="card") == records[6:11]
        assert await history.log(type="ResourcesMoved") == [records[24]]
        assert await history.log(actor="alice") == await history.log(correlation="plug") == records[11:19]
        assert await history.log(actor="bob", type="ResourcesAllocated") == [records[21]]
        assert await history.log(since=5, until="@~20") == records[5:8]
        assert await history.log(since=5, until=5) == [records[5]]
        assert await history.log(since=6, until=5) == []
        assert await history.log(actor="nobody") == await history.log(device="card", correlation="plug") == []
        stretch = f"@{{{datetime.fromtimestamp(records[20].time_ns / SECOND, UTC).isoformat()}}}"
        assert await history.log(since=stretch) == records[20:]
        later = datetime.fromtimestamp(records[20].time_ns // SECOND, UTC) + timedelta(microseconds=1)
        assert await history.log(since=later) == records[21:], "from a time on: what came after it"
        assert await history.log(since="@{2001-01-01}") == records
        assert await history.log(since="@{2200-01-01}") == []


async def test_history_and_past_answer_alike(url: str):
    """The same questions to the synchronous twin, on the store's own reader: the same answers."""
    async with story(url) as (store, history, records):
        with ExitStack() as stack:
            past = Past(stack.enter_context(store.reader()), "web-1")
            assert past.head() == 27
            for moment in (0, 7, "@", "@~3", records[9].id):
                assert past.at(moment) == await history.at(moment)
            assert past.diff(3, 20) == await history.diff(3, 20)
            assert past.blame("mmio", 0xD001_C000) == await history.blame("mmio", 0xD001_C000)
            assert past.timeline("net0") == await history.timeline("net0")
            assert past.bisect(lambda s: len(s.devices) == 3) == await history.bisect(lambda s: len(s.devices) == 3)
            assert list(past.log(actor="bob")) == await history.log(actor="bob")


async def test_a_log_of_many_pages(url: str):
    """Streams longer than one page of a reader: nothing is lost or doubled at the seams."""
    dice = random.Random(8)
    async with open_store(url, synchronous="OFF") as store:
        async with (
            ResourceManager(store, vm="web-1", platform=TINY) as vm,
            ResourceManager(store, vm="a", platform=TINY) as other,
        ):
            while vm.revision < 2100:
                await turn(vm, dice)
                if vm.revision % 50 == 0:
                    await turn(other, dice)
        history = History(store, "web-1")
        records = await history.log()
        assert [record.revision for record in records] == list(range(vm.revision + 1))
        assert await history.log(since=999, until=1001) == records[999:1002]
        assert await history.at() == vm.state == esrm.replay(record.event for record in records)
        seen = await history.bisect(lambda state: state.revision == 1500)
        assert seen == records[1500]
