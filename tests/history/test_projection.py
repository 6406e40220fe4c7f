"""The async reducer: it follows, it can be waited for, and it says what stopped it."""

from __future__ import annotations

import random
from functools import partial
from typing import Any

import anyio
import anyio.to_thread
import pytest
from anyio.lowlevel import checkpoint
from stories import TINY, Toy, audit, turn

import esrm
from esrm import Corrupt, MmioConstraint, Projection, ResourceManager, StoreError, UnknownDevice, open_store
from esrm.core import events
from esrm.stores.memory import MemoryStore


async def test_it_catches_up_and_follows(url: str):
    """What stands is applied first, then what comes, each event once; wait_for returns when it has been seen."""
    async with open_store(url) as store, ResourceManager(store, vm="web-1", platform=TINY) as vm:
        await vm.attach(Toy("before"))
        async with Projection(store, "web-1") as projection:
            await projection.wait_for(vm.position)
            assert projection.state == vm.state
            for number in range(5):
                resources = await vm.attach(Toy(f"dev{number}"))
                await projection.wait_for(vm.position)
                assert projection.resources(f"dev{number}") == resources
                assert projection.state == vm.state
            with pytest.raises(UnknownDevice):
                projection.resources("nobody")
            assert projection.position == vm.position
            await projection.wait_for(0)


async def test_it_begins_before_the_vm_does(url: str):
    """A projection of a VM that is yet to come is empty, and there when it comes."""
    async with open_store(url) as store, Projection(store, "web-1") as projection:
        assert (projection.state.revision, projection.position) == (-1, 0)
        async with anyio.create_task_group() as group:
            group.start_soon(projection.wait_for, 2)
            async with ResourceManager(store, vm="web-1", platform=TINY) as vm:
                await vm.create("net0")
        assert projection.state == vm.state


async def test_other_vms_records_move_its_position(url: str):
    """A filtered projection passes over what is not its own, so nobody waits for ever for a foreign position."""
    async with (
        open_store(url) as store,
        ResourceManager(store, vm="web-1", platform=TINY) as vm,
        ResourceManager(store, vm="other", platform=TINY) as other,
        Projection(store, "web-1") as projection,
    ):
        for _ in range(3):
            await other.attach(Toy("net0"))
            await other.detach("net0")
            with anyio.fail_after(10):
                await projection.wait_for(other.position)
            assert projection.position >= other.position > vm.position
            assert projection.state == vm.state
        await vm.create("mine")
        await projection.wait_for(vm.position)
        assert projection.state == vm.state


@pytest.mark.parametrize("batch", [1, 3, 256])
async def test_all_vms_at_once(url: str, batch: int):
    """With no VM named it folds every stream of the store, whatever the size of its pages."""
    dice = random.Random(batch)
    async with (
        open_store(url, synchronous="OFF") as store,
        ResourceManager(store, vm="a", platform=TINY) as a,
        ResourceManager(store, vm="b", platform=TINY) as b,
        Projection(store, batch=batch) as projection,
        Projection(store, "b", batch=batch) as only_b,
    ):
        for _ in range(40):
            await turn(dice.choice([a, b]), dice)
        for seen in (projection, only_b):
            await seen.wait_for(max(a.position, b.position))
        assert projection.states == {"a": a.state, "b": b.state}
        assert only_b.states == {"b": b.state}
        audit(projection.states["a"])
        with pytest.raises(ValueError, match="states"):
            _ = projection.state


async def test_many_wait_for_many_positions(url: str):
    """Each waiter returns no earlier than its position, and all of them return."""
    async with (
        open_store(url) as store,
        ResourceManager(store, vm="web-1", platform=TINY) as vm,
        Projection(store, "web-1") as projection,
    ):
        returned: list[int] = []

        async def wait(position: int) -> None:
            await projection.wait_for(position)
            assert projection.position >= position
            assert projection.state.revision >= position - 1
            returned.append(position)

        async with anyio.create_task_group() as group:
            for position in (9, 3, 5, 1, 9):
                group.start_soon(wait, position)
            await vm.attach(Toy("a", MmioConstraint(0x1000)))
            await vm.detach("a")
        assert sorted(returned) == [1, 3, 5, 9, 9]


async def test_its_block_can_be_cancelled(url: str):
    """A projection that follows for ever ends with its scope, and what it had applied stays readable."""
    async with open_store(url) as store, ResourceManager(store, vm="web-1", platform=TINY) as vm:
        with anyio.CancelScope() as scope:
            async with Projection(store, "web-1") as projection:
                await projection.wait_for(vm.position)
                scope.cancel()
                await projection.wait_for(100)
        assert projection.state == vm.state


async def test_nobody_waits_for_one_that_ended(url: str):
    """Who waits when the block ends, or asks after it, is told, and does not hang."""
    async with open_store(url) as store, ResourceManager(store, vm="web-1", platform=TINY) as vm:
        told: list[str] = []

        async def wait() -> None:
            with pytest.raises(StoreError, match="its block has ended"):
                await projection.wait_for(100)
            told.append("while")

        with anyio.fail_after(10):
            async with anyio.create_task_group() as group, Projection(store, "web-1") as projection:
                group.start_soon(wait)
                await projection.wait_for(vm.position)
                await checkpoint()
            with pytest.raises(StoreError, match="stopped at position 1"):
                await projection.wait_for(100)
        await projection.wait_for(vm.position)  # that much it has seen
        assert told == ["while"]


async def test_nobody_waits_for_one_that_has_not_begun(url: str):
    """It follows in its block only: before that, to wait would be for ever."""
    async with open_store(url) as store:
        with anyio.fail_after(10), pytest.raises(StoreError, match="its block has not begun"):
            await Projection(store, "web-1").wait_for(1)


async def test_it_follows_once(url: str):
    """Entered a second time while it follows it refuses, and goes on; entered after that, it goes on from there."""
    async with open_store(url) as store, ResourceManager(store, vm="web-1", platform=TINY) as vm:
        projection = Projection(store, "web-1")
        async with projection:
            with pytest.raises(esrm.InUse, match="follows already"):
                await projection.__aenter__()
            await vm.create("net0")
            await projection.wait_for(vm.position)
        await vm.create("net1")
        async with projection:
            await projection.wait_for(vm.position)
        assert list(projection.state.devices) == ["net0", "net1"]


async def test_nobody_waits_in_another_loop(url: str, anyio_backend: str):
    """It would never be woken there: it is refused, and who waits where the store is open is not disturbed."""
    async with (
        open_store(url) as store,
        ResourceManager(store, vm="web-1", platform=TINY) as vm,
        Projection(store, "web-1") as projection,
    ):
        stray = partial(anyio.run, projection.wait_for, 100, backend=anyio_backend)
        with anyio.fail_after(10), pytest.raises(StoreError, match="event loop"):
            await anyio.to_thread.run_sync(stray, abandon_on_cancel=True)
        await vm.create("net0")
        await projection.wait_for(vm.position)


async def test_what_it_had_applied_stays_true(url: str):
    """In one page with what cannot have happened: position, state and ``wait_for`` speak of what stands before that."""
    async with open_store(url) as store, ResourceManager(store, vm="web-1", platform=TINY) as vm:
        await vm.create("net0")
        await _spoilt(store, esrm.DeviceRegistered("ghost"))
        projection = Projection(store, "web-1")
        with pytest.raises(Corrupt, match="ghost"):  # noqa: PT012  it comes from leaving the block
            async with projection:
                with pytest.raises(Corrupt, match="ghost"):
                    await projection.wait_for(3)
                await projection.wait_for(2)
        assert (projection.position, projection.state.revision) == (2, 1)
        assert projection.state == vm.state


async def _spoilt(store: Any, event: esrm.Event) -> None:
    """Append an event that nobody decided, as a faulty program would."""
    from esrm.manager import Uuid7

    head = await store.stream("web-1")
    now = head.time_ns + 1
    await store.append("web-1", [esrm.Draft(event=event, id=Uuid7()(now), time_ns=now)], expected=head.revision)


async def test_what_cannot_have_happened_surfaces(url: str):
    """From wait_for, at once and to all who wait, and on leaving; with VM, revision and position in the message."""
    async with open_store(url) as store, ResourceManager(store, vm="web-1", platform=TINY) as vm:
        told: list[str] = []

        async def wait(projection: Projection, position: int) -> None:
            with anyio.fail_after(10), pytest.raises(Corrupt, match=r"web-1, revision 2 \(position 3\): .*'ghost'"):
                await projection.wait_for(position)
            told.append("waited")

        with pytest.raises(Corrupt, match="ghost"):  # noqa: PT012  it comes from leaving the block
            async with Projection(store, "web-1") as projection, anyio.create_task_group() as group:
                await vm.create("net0")
                await projection.wait_for(2)
                for position in (3, 100):
                    group.start_soon(wait, projection, position)
                await checkpoint()
                await _spoilt(store, esrm.DeviceRegistered("ghost"))
        assert told == ["waited", "waited"]


async def test_the_body_s_own_error_comes_first():
    """An exception inside the block is not replaced by what the projection met at the same time."""
    async with MemoryStore(events) as store, ResourceManager(store, vm="web-1", platform=TINY):
        with pytest.raises(KeyError, match="mine"):  # noqa: PT012  the block is the point
            async with Projection(store, "web-1") as projection:
                await _spoilt(store, esrm.DeviceRegistered("ghost"))
                with pytest.raises(Corrupt):
                    await projection.wait_for(2)
                raise KeyError("mine")


async def test_a_store_that_closes_under_it(url: str):
    """Then wait_for raises what the store said, instead of waiting for records that cannot come."""
    store = open_store(url)
    await store.__aenter__()
    async with ResourceManager(store, vm="web-1", platform=TINY):
        pass
    with pytest.raises(StoreError):  # noqa: PT012  a second time from leaving the block
        async with Projection(store, "web-1") as projection:
            await projection.wait_for(1)
            await store.aclose()
            with anyio.fail_after(10), pytest.raises(StoreError):
                await projection.wait_for(2)
