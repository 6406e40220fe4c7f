"""Deterministic simulation: thousands of small worlds of crashes, cancellations and faults, each of them a seed.

What such a world is stands in ``simulation/``. Here they are run, shown to be the same each time, and shown to notice:
mistakes put into the manager, the store and the subscription are found within a few hundred seeds.
"""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from random import Random
from typing import Any

import pytest
import trio
from anyio.lowlevel import checkpoint
from scale import pick, repeat, seed
from simulation import nursery
from simulation.disk import Disk, FaultyStore
from simulation.loop import Loop
from simulation.world import TINY, Laws, run

import esrm
from esrm.core import events
from esrm.core.state import VmState
from esrm.errors import Conflict, EsrmError, Rejected, Unknown
from esrm.stores.memory import MemoryStore
from esrm.stores.records import CommittedVolatile
from esrm.subscription import Subscription
from esrm.testing import FakeDevice

SEEDS = pick(quick=320, ci=20_000, soak=200_000)
PARTS = 4
OFTEN = (
    "a crash inside append",
    "a failed read",
    "an append that stands unanswered",
    "told Conflict",
    "told Refused",
    "told StoreError",
    "told Unknown",
    "told done",
    "attach done",
    "detach done",
)
"""What any hundred seeds come to."""
SOMETIMES = (
    "a cancellation inside append",
    "a cancellation of a subscriber",
    "a crash between append and answer",
    "a failed look at the head",
    "a hanging append that came to stand",
    "a projection begun anew",
    "a retry answered as the first time",
    "a retry with the same ids",
    "told Cancelled",
    "told Rejected",
    "told ValueError",
    *(f"{step} done" for step in ("move", "request_unplug", "refuse_unplug", "unregister", "release", "remove")),
)
"""What any thousand seeds come to."""


@pytest.mark.timeout(7200)
@pytest.mark.parametrize("part", range(PARTS))
def test_no_seed_breaks_a_promise(part: int, record_property: Callable[[str, object], None]):
    """Whatever happens to managers and subscribers, the auditor finds nothing; and everything did happen to them."""
    reached: Counter[str] = Counter()
    for number in range(seed() + part, seed() + SEEDS, PARTS):
        try:
            world = run(number)
        except BaseException as error:
            error.add_note(repeat(number, "tests/trust/test_simulation.py::test_no_seed_breaks_a_promise[0]"))
            raise
        reached += world.counts + world.told
    due = OFTEN if SEEDS < 1000 * PARTS else OFTEN + SOMETIMES
    missing = [kind for kind in due if not reached[kind]]
    assert not missing, f"{SEEDS // PARTS} seeds from {seed() + part} on never came to {missing}; {reached}"
    told = ", ".join(f"{reached[kind]:,} times {kind}" for kind in sorted(OFTEN[:-2] + SOMETIMES[:11]))
    record_property("trust", f"simulation, part {part}: {SEEDS // PARTS:,} seeds; {told}")


@pytest.mark.timeout(7200)
def test_no_seed_breaks_a_promise_on_trio(monkeypatch: pytest.MonkeyPatch):
    """The same callers, cancelled at trio's checkpoints and scheduled by its own dice: the auditor finds nothing."""
    told: Counter[str] = Counter()
    monkeypatch.setattr(trio._core._run, "_ALLOW_DETERMINISTIC_SCHEDULING", True)
    for number in range(seed(), seed() + pick(quick=60, ci=600, soak=6_000)):
        monkeypatch.setattr(trio._core._run, "_r", Random(number))
        try:
            told += nursery.run(number).told
        except BaseException as error:
            error.add_note(repeat(number, "tests/trust/test_simulation.py::test_no_seed_breaks_a_promise_on_trio"))
            raise
    assert {"attach done", "attach Cancelled", "attach Unknown", "attach Rejected", "detach done"} <= set(told), told


def story(number: int) -> tuple[int, int, list[tuple[Any, ...]]]:
    """All that happens in a world: every choice of the scheduler, and every record but for its random id."""
    world = run(number)
    return world.loop.trace, world.loop.callbacks, [(row[:3], row[4:8]) for row in world.audit.rows]


def test_the_same_seed_is_the_same_run():
    """Run again, in this process or in one that hashes strings otherwise, a seed tells the same story to the end."""
    here = {number: story(number) for number in range(seed(), seed() + pick(quick=10, ci=100, soak=1000))}
    assert len({trace for trace, *_ in here.values()}) == len(here)
    for number, told in here.items():
        assert story(number) == told, repeat(
            number, "tests/trust/test_simulation.py::test_the_same_seed_is_the_same_run"
        )
    folder = Path(__file__).parent
    code = f"import test_simulation as t; print([t.story(n)[:2] for n in {list(here)}])"
    paths = os.pathsep.join([str(folder), str(folder.parents[1])])
    environment = {**os.environ, "PYTHONHASHSEED": "4711", "PYTHONPATH": paths}
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=False)
    assert done.stdout.strip() == str([told[:2] for told in here.values()]), done.stderr


# -- negative controls: mistakes that must be seen -------------------------------------------------------------------


class AppliesFirst(esrm.ResourceManager):
    """Believes what it has decided before it stands."""

    async def _append(self, events: Sequence[esrm.Event]) -> None:
        expected = self._state.revision
        for event in events:
            esrm.evolve(self._state, event)
        records = await self._store.append(self.name, self._drafts(events), expected=expected)
        self._position, self._time_ns = records[-1].position, records[-1].time_ns


class AnswersFirst(esrm.ResourceManager):
    """Tells its caller that a step is done, and appends it later."""

    async def _append(self, events: Sequence[esrm.Event]) -> None:
        drafts, expected = self._drafts(events), self._state.revision
        for event in events:
            esrm.evolve(self._state, event)
        self.later = asyncio.get_running_loop().create_task(self._store.append(self.name, drafts, expected=expected))


class NeverLooksAgain(esrm.ResourceManager):
    """After an append that was not answered it goes on with what it knew."""

    async def _append(self, events: Sequence[esrm.Event]) -> None:
        try:
            await super()._append(events)
        except Conflict:
            raise
        except BaseException:
            self._behind = False
            raise


class AppliesLater(esrm.ResourceManager):
    """A cancellation can come between what stands and what is believed."""

    async def _append(self, events: Sequence[esrm.Event]) -> None:
        try:
            records = await self._store.append(self.name, self._drafts(events), expected=self._state.revision)
        except BaseException as error:
            self._behind = True
            if isinstance(error, Conflict):
                await self._catch_up()
            raise
        await checkpoint()
        self._apply(records)


class KeepsAfterFailure(esrm.ResourceManager):
    """A device that would not have its resources keeps them."""

    async def _walk_back(self, device: str, reason: str = "") -> None:
        if not reason:
            await super()._walk_back(device)


class IgnoresTheOther(FaultyStore):
    """Appends to wherever the stream ends."""

    async def append(self, vm: str, drafts: Any, *, expected: int) -> Any:
        return await super().append(vm, drafts, expected=len(self._shelf.streams.get(vm, ())) - 1)


class RefusesWhatStands(FaultyStore):
    """Says ``Rejected`` when it does not know."""

    def _settle(self, batch: Any) -> CommittedVolatile[esrm.Event]:
        try:
            return super()._settle(batch)
        except Unknown as error:
            raise Rejected(str(error)) from error


class AnswersARetryWithNothing(FaultyStore):
    """Has forgotten what the first answer was."""

    def _settle(self, batch: Any) -> CommittedVolatile[esrm.Event]:
        before = self.disk.counts["a retry answered as the first time"]
        answer = super()._settle(batch)
        return answer if self.disk.counts["a retry answered as the first time"] == before else CommittedVolatile()


class Hasty(Subscription[Any]):
    """Reads a page, then asks where the head is: what came between is never told."""

    async def scan(self) -> list[Any]:
        page = await super().scan()
        head = await self._source.wait_past(0)
        if len(page) < self._batch:
            self._scanned = self._position = max(self._scanned, head)
        return page


class Stammering(Subscription[Any]):
    """A scan that failed half-way is told again from before the page it had."""

    async def scan(self) -> list[Any]:
        page = await super().scan()
        if len(page) > 1:
            self._scanned = self._position = page[-2].position
            self._revision = None
        return page


class HandsOverBadly(FaultyStore):
    subscription: type[Subscription[Any]] = Hasty

    def subscribe(self, after: int = 0, **options: Any) -> Subscription[Any]:
        return self.subscription(self, after, **options)


class HandsOverTwice(HandsOverBadly):
    subscription = Stammering


MISTAKES = {
    "applied before it stands": Laws(manager=AppliesFirst),
    "answered before it stands": Laws(manager=AnswersFirst),
    "not looked at again after an unknown outcome": Laws(manager=NeverLooksAgain),
    "cancelled between append and state": Laws(manager=AppliesLater),
    "kept after a failed assign": Laws(manager=KeepsAfterFailure),
    "appended whatever was expected": Laws(store=IgnoresTheOther),
    "refused though it stands": Laws(store=RefusesWhatStands),
    "another answer for the same ids": Laws(store=AnswersARetryWithNothing),
    "a hand-off that skips": Laws(store=HandsOverBadly),
    "a hand-off that repeats": Laws(store=HandsOverTwice),
}
SEEDS_TO_SEE = 600


def seeds_until_seen(laws: Laws) -> int:
    """How many seeds it takes for a mistake to be noticed."""
    for number in range(1, SEEDS_TO_SEE + 1):
        try:
            run(number, laws)
        except (AssertionError, EsrmError):
            return number
    raise AssertionError(f"{SEEDS_TO_SEE} seeds did not notice it")


@pytest.mark.parametrize("mistake", MISTAKES)
def test_a_mistake_is_noticed(mistake: str):
    """Each of these breaks one promise, and the auditor sees it within a few hundred seeds."""
    seeds_until_seen(MISTAKES[mistake])


@pytest.mark.parametrize("method", ["_disconnect", "_connect"])
def test_a_bus_that_forgets_is_noticed(monkeypatch: pytest.MonkeyPatch, method: str):
    """A range that is still routed after it was unregistered, or not routed at all, is seen."""
    monkeypatch.setattr(VmState, method, lambda *_: None)
    seeds_until_seen(Laws())


def test_an_allocator_that_forgets_is_noticed(monkeypatch: pytest.MonkeyPatch):
    """Addresses that are handed out twice are seen."""
    monkeypatch.setattr(VmState, "_take", lambda *_: None)
    seeds_until_seen(Laws())


# -- two that meet ----------------------------------------------------------------------------------------------------


def meeting(number: int, first: Callable[[Any], Any], second: Callable[[Any], Any]) -> tuple[list[str], Any, Any]:
    """What two callers of one manager are told, and its state before and after; on a disk that is slow, but good."""
    loop = Loop(number)
    disk = Disk(loop, 0.0, 0.4, lambda _: None)
    told: list[str] = []
    states: list[Any] = []

    async def main() -> None:
        async with FaultyStore(disk) as store, esrm.ResourceManager(store, vm="vm-a", platform=TINY) as vm:
            await vm.attach(FakeDevice("port", [esrm.MmioConstraint(0x3000)]))
            states.append(vm.state.copy())
            callers = [loop.create_task(first(vm)), loop.create_task(second(vm))]
            await asyncio.wait(callers)
            told.extend(type(caller.exception()).__name__ if caller.exception() else "done" for caller in callers)
            states.append(vm.state.copy())

    try:
        loop.run(main())
    finally:
        loop.bury()
    return told, *states


def test_a_bridge_leaves_whole_or_stays_whole():
    """Detached while a device is attached inside it, it is gone and the device refused, or untouched and in use."""
    outcomes: Counter[str] = Counter()
    for number in range(200):
        told, before, after = meeting(
            number,
            lambda vm: vm.detach("port"),
            lambda vm: vm.attach(FakeDevice("net0", [esrm.MmioConstraint(0x1000)], parent="port")),
        )
        outcomes[" ".join(told)] += 1
        if told == ["done", "UnknownDevice"]:
            assert not after.devices
        else:
            assert told == ["InUse", "done"]
            assert after.device("port") == before.device("port"), f"seed {number}: refused, and yet it has changed"
            assert after.device("net0").parent == "port"
    assert len(outcomes) == 2, outcomes


class Silent(MemoryStore[esrm.Event]):
    """Its next append stands, and is not answered."""

    silent = False

    async def append(self, vm: str, drafts: Any, *, expected: int) -> CommittedVolatile[esrm.Event]:
        answer = await super().append(vm, drafts, expected=expected)
        if self.silent:
            self.silent = False
            raise Unknown("no answer")
        return answer


@pytest.mark.parametrize("step", ["attach", "detach"])
async def test_after_an_unknown_outcome_a_manager_looks_before_it_says_no(step: str):
    """A device whose creation stands unanswered can be attached, or detached, at once: the manager looks by itself."""
    async with Silent(events) as store, esrm.ResourceManager(store, vm="vm-a", platform=TINY) as vm:
        store.silent = True
        with pytest.raises(Unknown):
            await vm.create("net0", kind="fake")
        await (vm.attach(FakeDevice("net0")) if step == "attach" else vm.detach("net0"))
        assert ("net0" in vm.state.devices) == (step == "attach")


@pytest.mark.parametrize(("kind", "parent"), [("other", None), ("fake", "port")])
async def test_a_device_that_is_another_one_than_its_log_says_is_refused(kind: str, parent: str | None):
    """Attached after a restart as another kind or inside another parent, it is not the device that lived: refused."""
    async with MemoryStore(events) as store:
        async with esrm.ResourceManager(store, vm="vm-a", platform=TINY) as vm:
            await vm.attach(FakeDevice("port"))
            await vm.attach(FakeDevice("net0"))
        async with esrm.ResourceManager(store, vm="vm-a") as vm:
            head = vm.revision
            with pytest.raises(esrm.Refused):
                await vm.attach(FakeDevice("net0", kind=kind, parent=parent))
            assert vm.revision == head
