"""Cancelled at every await: log and state agree, and the VM still works.

``Interrupted`` runs a coroutine and counts each time it really suspends, whatever it awaits: the lock, the store, a
worker thread, a device's own ``assign``. At the k-th suspension it cancels, and the tests do so for every k until the
story comes to its end untouched.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine, Generator
from pathlib import Path
from typing import Any

import anyio
import apsw
import pytest
import trio
from anyio.lowlevel import checkpoint, current_token
from stories import TINY, Toy, agree, events_of

import esrm
from esrm import MmioConstraint, Move, Phase, ResourceManager, open_store
from esrm.core import events
from esrm.stores.memory import MemoryStore


class Interrupted:
    """Await it to run a coroutine; ``cancel`` is called when it suspends for the k-th time (counted from 0)."""

    def __init__(self, coroutine: Coroutine[Any, Any, None], k: int, cancel: Callable[[], object]) -> None:
        self._coroutine, self._k, self._cancel = coroutine, k, cancel
        self.suspended = 0

    def __await__(self) -> Generator[Any, Any, None]:
        inner = self._coroutine.__await__()
        resume: Callable[[Any], Any] = inner.send
        value: Any = None
        while True:
            try:
                asked = resume(value)
            except StopIteration:
                return
            if self.suspended == self._k:
                self._cancel()
            self.suspended += 1
            try:
                resume, value = inner.send, (yield asked)
            except BaseException as error:
                resume, value = inner.throw, error


async def life(vm: ResourceManager) -> None:
    """A bit of everything that a manager awaits for."""
    async with vm:
        bridge, inner = Toy("bridge", MmioConstraint(0x4000)), Toy("inner", parent="bridge")
        await vm.attach(bridge)
        await vm.attach(inner)
        await vm.create("net0")
        await vm.declare("net0", [MmioConstraint(0x1000)])
        resources = await vm.allocate("net0")
        await vm.move([Move("net0", resources[0], esrm.MmioAddressRange(0xD000_F000, 0x1000))])
        await vm.attach(Toy("net0", MmioConstraint(0x1000)))
        await vm.create("big")
        await vm.declare("big", [MmioConstraint(0x40000)])
        with pytest.raises(esrm.NoSpace):
            await vm.allocate("big")
        with pytest.raises(ValueError, match="broken"):
            await vm.attach(Toy("bad", trouble=ValueError("broken")))
        await vm.request_unplug("net0")
        await vm.refuse_unplug("net0")
        await vm.detach("inner")
        await vm.detach("bridge")


async def still_works(store: Any, vm: ResourceManager) -> None:
    """It goes on: attach, look, detach, and hand everything back."""
    if not vm._entered:
        await vm.__aenter__()
    await agree(store, vm)
    device = Toy("afterwards", MmioConstraint(0x800, align=0x800))
    resources = await vm.attach(device)
    assert device.assigned == [resources]
    [(base, _)] = resources.mmio_address_ranges()
    assert await vm.mmio_read(base + 3, 1) == b"\x03"
    for found in vm.state.walk(reverse=True):
        await vm.detach(found.name)
    assert all(usage.held == 0 for usage in vm.usage().values())
    await agree(store, vm)


async def test_cancelled_at_every_await(url: str):
    """For every k: cancel the story at its k-th suspension; the log is what the manager believes, and it goes on."""
    async with open_store(url, synchronous="OFF") as store:
        k, done = 0, False
        while not done:
            vm = ResourceManager(store, vm=f"vm{k}", platform=TINY)
            with anyio.CancelScope() as scope:
                await Interrupted(life(vm), k, scope.cancel)
            done = not scope.cancel_called
            assert vm.state == esrm.replay(await events_of(store, vm.name)), f"cancelled at suspension {k}"
            try:
                await still_works(store, vm)
            except BaseException as error:
                error.add_note(f"after a cancellation at suspension {k}")
                raise
            k += 1
    assert k > 30, "the story suspends more often than that"


@pytest.mark.parametrize("anyio_backend", ["asyncio"])
async def test_asyncio_cancels_at_every_await(url: str):
    """asyncio's own ``Task.cancel`` passes through anyio's shields; the log is what the manager believes, as above."""
    async with open_store(url, synchronous="OFF") as store:
        k, done = 0, False
        while not done:
            vm = ResourceManager(store, vm=f"vm{k}", platform=TINY)

            async def run(vm: ResourceManager = vm, k: int = k) -> None:
                task = asyncio.current_task()
                assert task is not None
                await Interrupted(life(vm), k, lambda: asyncio.get_running_loop().call_soon(task.cancel))

            task = asyncio.create_task(run())
            await asyncio.wait([task])
            done = not task.cancelled()
            assert vm.state == esrm.replay(await events_of(store, vm.name)), f"cancelled at suspension {k}"
            assert set(vm.live) <= set(vm.state.devices)
            try:
                await still_works(store, vm)
            except BaseException as error:
                error.add_note(f"after asyncio's cancellation at suspension {k}")
                raise
            k += 1
    assert k > 30, "the story suspends more often than that"


# -- at the places that matter most -----------------------------------------------------------------------------------


class SlowStore(MemoryStore[esrm.Event]):
    """A store of the same promises whose appends, when ``slow``, take until they are let through: twice."""

    def __init__(self) -> None:
        super().__init__(events)
        self.slow = False

    def hold(self) -> None:
        self.slow = True
        self.asked, self.written = anyio.Event(), anyio.Event()
        self.write, self.answer = anyio.Event(), anyio.Event()

    async def append(self, vm: str, drafts: Any, *, expected: int) -> Any:
        if not self.slow:
            return await super().append(vm, drafts, expected=expected)
        self.slow = False
        self.asked.set()
        await self.write.wait()
        records = await super().append(vm, drafts, expected=expected)
        self.written.set()
        await self.answer.wait()
        return records


async def test_a_caller_cancelled_while_its_append_is_under_way():
    """Once asked of the store, a step is seen through: the canceller waits, then log and state both have it."""
    async with SlowStore() as store, ResourceManager(store, vm="web-1", platform=TINY) as vm:
        store.hold()
        async with anyio.create_task_group() as group:
            with anyio.CancelScope() as scope:
                group.start_soon(_cancel_between, store, vm, scope)
                await vm.create("net0")
            assert scope.cancel_called
        assert "net0" in vm.state.devices
        await agree(store, vm)


async def _cancel_between(store: SlowStore, vm: ResourceManager, scope: anyio.CancelScope) -> None:
    await store.asked.wait()
    scope.cancel()
    await _let_others_run()
    assert (vm.revision, await store.head()) == (0, 1)
    store.write.set()
    await store.written.wait()
    await _let_others_run()
    assert (vm.revision, await store.head()) == (0, 2)  # it stands, and is not yet told
    store.answer.set()


async def _let_others_run() -> None:
    for _ in range(5):
        await checkpoint()


async def test_a_caller_cancelled_while_it_waits_for_its_turn():
    """Who has not had a turn has done nothing; who holds the turn is not disturbed, and the next one gets it."""
    async with SlowStore() as store, ResourceManager(store, vm="web-1", platform=TINY) as vm:
        store.hold()
        waiting = anyio.CancelScope()

        async def wait() -> None:
            with waiting:
                await vm.create("waiting")

        async with anyio.create_task_group() as group:
            group.start_soon(vm.create, "first")
            await store.asked.wait()
            group.start_soon(wait)
            group.start_soon(vm.create, "last")
            await _let_others_run()
            waiting.cancel()
            await _let_others_run()
            store.write.set()
            store.answer.set()
        assert list(vm.state.devices) == ["first", "last"]
        await agree(store, vm)


@pytest.mark.parametrize("anyio_backend", ["asyncio"])
async def test_asyncio_cancels_what_waits_for_the_disk(tmp_path: Path):
    """The append stays in the queue: the canceller waits for it, and nobody believes meanwhile that it failed."""
    path = tmp_path / "vm.db"
    async with open_store(f"sqlite:{path}") as store, ResourceManager(store, vm="web-1", platform=TINY) as vm:
        await vm.attach(Toy("net0", MmioConstraint(0x1000)))
        other = apsw.Connection(str(path))
        other.execute("BEGIN IMMEDIATE")  # the writer waits until this one is over
        task = asyncio.create_task(vm.detach("net0"))
        while not vm._turn.locked():
            await checkpoint()
        await _let_others_run()
        task.cancel()
        await _let_others_run()
        assert not task.done()
        other.execute("ROLLBACK")
        other.close()
        await asyncio.wait([task])
        assert task.cancelled()
        assert (vm.state.devices, vm.live) == ({}, {})
        await agree(store, vm)
        await vm.attach(Toy("net0", MmioConstraint(0x1000)))
        await agree(store, vm)


@pytest.mark.parametrize("anyio_backend", ["asyncio"])
async def test_asyncio_cancels_though_the_log_cannot_be_read():
    """The manager does not find out what became of the append: the cancellation is none the less one."""
    async with SlowStore() as store, ResourceManager(store, vm="web-1", platform=TINY) as vm:
        ask = store.ask

        async def failing(question: Any) -> Any:
            store.ask = ask  # type: ignore[method-assign]
            raise esrm.StoreError("the disk is away")

        store.hold()
        task = asyncio.create_task(vm.create("net0"))
        await store.asked.wait()
        store.ask = failing  # type: ignore[method-assign]
        task.cancel()
        await asyncio.wait([task])
        assert task.cancelled()
        await vm.create("net0")
        await agree(store, vm)


class Sleeper(Toy):
    """A device that takes for ever to be assigned."""

    def __init__(self, name: str) -> None:
        super().__init__(name)
        self.asked = anyio.Event()

    async def assign(self, resources: esrm.DeviceResources) -> None:
        self.asked.set()
        await anyio.sleep_forever()


async def test_an_assign_that_is_cancelled_gives_everything_back(url: str):
    """What was allocated is released with the reason, the device stays declared, and it can be attached again."""
    async with open_store(url) as store, ResourceManager(store, vm="web-1", platform=TINY) as vm:
        usage, device = vm.usage(), Sleeper("net0")
        async with anyio.create_task_group() as group:
            group.start_soon(vm.attach, device)
            await device.asked.wait()
            assert vm.state.device("net0").phase is Phase.ALLOCATED
            group.cancel_scope.cancel()
        assert (vm.state.device("net0").phase, vm.usage()) == (Phase.DECLARED, usage)
        released = (await events_of(store, "web-1"))[-1]
        assert isinstance(released, esrm.ResourcesReleased)
        assert released.reason == "assign was cancelled"
        await vm.attach(Toy("net0"))
        await agree(store, vm)


class Brooder(Sleeper):
    """A device that waits in two tasks of its own, in its library's own manner."""

    async def assign(self, resources: esrm.DeviceResources) -> None:
        self.asked.set()
        if current_token().native_token.__class__.__module__.startswith("trio"):
            async with trio.open_nursery() as nursery:
                nursery.start_soon(trio.sleep_forever)
                nursery.start_soon(trio.sleep_forever)
        else:
            async with asyncio.TaskGroup() as group:
                group.create_task(asyncio.sleep(3600))
                group.create_task(asyncio.sleep(3600))


async def test_an_assign_that_is_cancelled_in_many_tasks(url: str):
    """A nursery says so with a group of cancellations, which is a cancellation all the same."""
    async with open_store(url) as store, ResourceManager(store, vm="web-1", platform=TINY) as vm:
        device = Brooder("net0")
        async with anyio.create_task_group() as group:
            group.start_soon(vm.attach, device)
            await device.asked.wait()
            await checkpoint()
            group.cancel_scope.cancel()
        released = (await events_of(store, "web-1"))[-1]
        assert isinstance(released, esrm.ResourcesReleased)
        assert released.reason == "assign was cancelled"


async def test_cancelled_on_entering(url: str):
    """A manager that is cancelled on its way in leaves a VM that began, or none; entering again goes on from there."""
    async with open_store(url) as store:
        vm = ResourceManager(store, vm="web-1", platform=TINY)
        with anyio.CancelScope() as scope:
            scope.cancel()
            async with vm:
                await checkpoint()
        assert await store.head() == vm.revision + 1
        async with vm:
            await vm.attach(Toy("net0"))
        await agree(store, vm)


async def test_a_hundred_tasks_and_half_of_them_give_up(url: str):
    """Cancelled from outside at odd moments, tasks leave whole lives or pieces that the log tells of, never less."""

    async def visit(number: int) -> None:
        with anyio.CancelScope() as scope:
            await Interrupted(_come_and_go(vm, number), number % 23, scope.cancel if number % 2 else _nothing)

    async with open_store(url, synchronous="OFF") as store, ResourceManager(store, vm="web-1", platform=TINY) as vm:
        async with anyio.create_task_group() as group:
            for number in range(60):
                group.start_soon(visit, number)
        await agree(store, vm)
        for found in vm.state.walk(reverse=True):
            await vm.detach(found.name)
        assert all(usage.held == 0 for usage in vm.usage().values())


def _nothing() -> None:
    pass


async def _come_and_go(vm: ResourceManager, number: int) -> None:
    device = Toy(f"dev{number}", MmioConstraint(0x400, align=0x400))
    await vm.attach(device)
    await vm.detach(device.name)


@pytest.mark.parametrize(
    "moves", [[], [Move("net0", esrm.PioAddressRange(0x1000, 8), esrm.PioAddressRange(0x1008, 8))]]
)
async def test_every_command_gives_others_a_turn(moves: list[Move]):
    """Also one that changes nothing: who calls it in a loop starves nobody."""
    async with open_store("memory:") as store, ResourceManager(store, vm="vm") as vm:
        await vm.create("net0")
        await vm.declare("net0", [esrm.PioConstraint(8, range=(0x1000, 0x100F))])
        await vm.allocate("net0")
        counted = Interrupted(vm.move(moves), -1, lambda: None)
        await counted
        assert counted.suspended
