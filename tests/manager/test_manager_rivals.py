"""Two managers on one VM, and many tasks on one manager: Conflict or a turn, never a torn state."""

from __future__ import annotations

import random
from contextlib import AsyncExitStack
from typing import Any

import anyio
import pytest
from anyio.lowlevel import checkpoint
from stories import TINY, Toy, agree, events_of, records_of, turn, until

import esrm
from esrm import Conflict, LegacyIrqConstraint, MmioConstraint, Phase, ResourceManager, Space, open_store


async def stores(stack: AsyncExitStack, url: str, count: int) -> list[Any]:
    """A store so many times: a log has one writer, so managers that share it share a store."""
    return [await stack.enter_async_context(open_store(url, synchronous="OFF"))] * count


async def test_the_second_to_append_gets_conflict(url: str):
    """It appended nothing, has then read what the other wrote, and may ask again."""
    async with AsyncExitStack() as stack:
        here, there = await stores(stack, url, 2)
        first = await stack.enter_async_context(ResourceManager(here, vm="web-1", platform=TINY))
        second = await stack.enter_async_context(ResourceManager(there, vm="web-1"))
        await until(first, "net0", Phase.REGISTERED)
        head = await here.head()
        with pytest.raises(Conflict):
            await second.create("blk0")
        assert await here.head() == head
        assert second.state == first.state
        assert (second.position, second.revision) == (first.position, first.revision)
        await second.create("blk0")
        with pytest.raises(Conflict):
            await first.create("blk0")
        with pytest.raises(esrm.DuplicateDevice):
            await first.create("blk0")
        await agree(here, first)
        await agree(there, second)


async def test_no_refusal_is_of_yesterday(url: str):
    """Before a manager refuses, it looks whether the other one has made it possible."""
    async with AsyncExitStack() as stack:
        here, there = await stores(stack, url, 2)
        first = await stack.enter_async_context(ResourceManager(here, vm="web-1", platform=TINY))
        second = await stack.enter_async_context(ResourceManager(there, vm="web-1"))
        await first.attach(Toy("net0", MmioConstraint(0x1000)))
        assert second.revision == 0
        await second.detach("net0")
        assert second.revision == first.revision + 3
        with pytest.raises(esrm.UnknownDevice):
            await second.detach("net0")
        new = Toy("net0", MmioConstraint(0x2000))
        resources = await first.attach(new)  # the first one's object of that name is detached, which it has not heard
        assert (first.live, new.assigned) == ({"net0": new}, [resources])
        await agree(here, first)


async def test_a_refusal_needs_no_conflict_to_be_right(url: str):
    """A decision on an old state cannot give away what the other gave: Conflict, and the next try is refused."""
    async with AsyncExitStack() as stack:
        here, there = await stores(stack, url, 2)
        first = await stack.enter_async_context(ResourceManager(here, vm="web-1", platform=TINY))
        for name in "ab":
            await first.create(name)
            await first.declare(name, [LegacyIrqConstraint(7)])
        second = await stack.enter_async_context(ResourceManager(there, vm="web-1"))
        assert second.plan(["b"]).fits
        await first.allocate("a")
        assert second.plan(["b"]).fits, "it has not looked yet"
        with pytest.raises(Conflict):
            await second.allocate("b")
        with pytest.raises(esrm.AddressConflict, match=r"held by a \(7\)"):
            await second.allocate("b")
        await agree(there, second)


@pytest.mark.parametrize("seed", [1, 2])
async def test_rivals_that_ask_again_all_get_through(url: str, seed: int):
    """Three managers do random things to one VM at once; each knows the whole truth after its own last word."""
    async with AsyncExitStack() as stack:
        managers = [
            await stack.enter_async_context(ResourceManager(store, vm="web-1", platform=TINY))
            for store in await stores(stack, url, 3)
        ]
        conflicts: list[int] = []

        async def rival(number: int) -> None:
            dice, vm = random.Random(100 * seed + number), managers[number]
            for _ in range(30):
                try:
                    await turn(vm, dice)
                except Conflict:
                    conflicts.append(number)
                await checkpoint()

        async with anyio.create_task_group() as group:
            for number in range(3):
                group.start_soon(rival, number)
        assert conflicts
        store = managers[0]._store
        for vm in managers:
            while vm.revision < len(await events_of(store, "web-1")) - 1:
                with pytest.raises(Conflict):
                    await vm.create(f"look {vm.revision}")
            await agree(store, vm)


async def test_many_tasks_on_one_manager_take_turns(url: str):
    """Fifty tasks attach and detach at once: no conflict, no two with the same place, every step in the log."""
    async with open_store(url, synchronous="OFF") as store, ResourceManager(store, vm="web-1") as vm:
        places: list[int] = []

        async def visit(number: int) -> None:
            resources = await vm.attach(Toy(f"dev{number}", MmioConstraint(0x1000)))
            places.append(resources.mmio_address_ranges()[0][0])
            if number % 2:
                await vm.detach(f"dev{number}")

        async with anyio.create_task_group() as group:
            for number in range(50):
                group.start_soon(visit, number)
        held = [device.resources.mmio_address_ranges()[0][0] for device in vm.state.devices.values()]
        assert len(set(held)) == 25
        assert await store.head() == 1 + 50 * 5 + 25 * 3
        await agree(store, vm)


async def test_tasks_see_only_moments_that_were(url: str):
    """While a manager reads up what another wrote, who looks at its state or bus sees one revision whole."""
    async with AsyncExitStack() as stack:
        here, there = await stores(stack, url, 2)
        first = await stack.enter_async_context(ResourceManager(here, vm="web-1", platform="x86_64"))
        second = await stack.enter_async_context(ResourceManager(there, vm="web-1"))
        assert not list(second.bus.ranges(Space.MMIO))
        for number in range(450):
            await until(first, f"dev{number}", Phase.REGISTERED)
        history, done = await events_of(here, "web-1"), anyio.Event()
        assert len(history) > 2000, "more than one page"
        moments = {second.revision: second.state.copy()}

        async def watch() -> None:
            while not done.is_set():
                seen = second.state.copy()
                answering = [d.name for d in seen.devices.values() if d.phase is Phase.REGISTERED]
                assert [answer.device for answer in second.bus.ranges(Space.MMIO)] == answering
                moments[seen.revision] = seen
                await checkpoint()

        async with anyio.create_task_group() as group:
            group.start_soon(watch)
            with pytest.raises(Conflict):
                await second.create("late")
            done.set()
        assert second.state == first.state
        for revision, seen in moments.items():
            assert seen == esrm.replay(history[: revision + 1])


async def test_a_vm_begins_once(url: str):
    """However many managers open a new VM at once: one VmCreated, and all of them see the same."""
    async with AsyncExitStack() as stack:
        managers = [ResourceManager(store, vm="web-1", platform=TINY) for store in await stores(stack, url, 5)]
        async with anyio.create_task_group() as group:
            for vm in managers:
                group.start_soon(vm.__aenter__)
        records = await records_of(managers[0]._store, "web-1")
        assert [record.event for record in records] == [esrm.VmCreated(TINY)]
        assert all(vm.state == managers[0].state and vm.position == records[0].position for vm in managers)


async def test_a_vm_begins_on_one_platform(url: str):
    """Of two managers that begin a VM at once on two platforms, one is told that it came too late."""
    async with AsyncExitStack() as stack:
        opened = await stores(stack, url, 2)
        told: list[str] = []

        async def begin(number: int, platform: str) -> None:
            try:
                async with ResourceManager(opened[number], vm="web-1", platform=platform) as vm:
                    assert vm.state.platform is not None
                    told.append(vm.state.platform.name)
            except esrm.InvalidPlatform:
                told.append("too late")

        async with anyio.create_task_group() as group:
            group.start_soon(begin, 0, "x86_64")
            group.start_soon(begin, 1, "aarch64")
        assert len(await events_of(opened[0], "web-1")) == 1
        assert sorted(told) in (["aarch64", "too late"], ["too late", "x86_64"])
