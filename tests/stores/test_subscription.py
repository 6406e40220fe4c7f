"""Subscriptions: catch up, then follow; in order, none missed, none twice."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import anyio
import pytest
from anyio.lowlevel import checkpoint

from esrm.errors import Corrupt, InUse
from esrm.stores.base import Store
from esrm.stores.sqlite import SqliteStore
from esrm.testing import BytesCodec, drafts


async def write(store: Store[bytes], vm: str, count: int, size: int = 1) -> None:
    """Append ``count`` batches to a VM's stream, giving way to others in between."""
    end = await store.stream(vm)
    expected = -1 if end is None else end.revision
    for n in range(count):
        await store.append(vm, drafts(*[b"%d" % n] * size), expected=expected)
        expected += size


async def test_twenty_subscribers_see_everything_in_order_while_writers_write(store: Store[bytes]):
    """Many readers with many page sizes and four writers: each reader sees each record once."""
    seen: list[list[int]] = [[] for _ in range(20)]

    async def follow(me: int) -> None:
        async for record in store.subscribe(me, batch=me + 1, until=120):
            seen[me].append(record.position)

    async with anyio.create_task_group() as group:
        for me in range(20):
            group.start_soon(follow, me)
        for n in range(4):
            group.start_soon(write, store, f"vm-{n}", 10, 3)
    assert seen == [list(range(me + 1, 121)) for me in range(20)]


async def test_a_checkpoint_resumes_where_it_was_taken(store: Store[bytes]):
    """``position`` is what to go on after, even in the middle of a page; iterating again does the same."""
    await write(store, "web-1", 10)
    first = store.subscribe(batch=4)
    assert [(await anext(first)).position for _ in range(3)] == [1, 2, 3]
    assert first.position == 3
    second = store.subscribe(first.position, until=10)
    assert [record.position async for record in second] == [4, 5, 6, 7, 8, 9, 10]
    assert [record.position for record in await anext(first.pages())] == [4]
    assert first.position == 4
    async for record in first:
        assert record.position == 5
        break


async def test_one_task_at_a_time(store: Store[bytes]):
    """Two that wait for one subscription would each miss what the other one is told: the second one is refused."""
    shared = store.subscribe()
    told: list[int] = []

    async def follow() -> None:
        async for record in shared:
            told.append(record.position)

    async with anyio.create_task_group() as group:
        group.start_soon(follow)
        await anyio.wait_all_tasks_blocked()
        with pytest.raises(InUse, match="another task is waiting for this subscription"):
            await anext(shared.pages())
        await write(store, "web-1", 3)
        while len(told) < 3:
            await checkpoint()
        group.cancel_scope.cancel()
    assert told == [1, 2, 3]
    await write(store, "web-1", 1)
    assert (await anext(shared)).position == 4


async def test_pages_are_full_while_there_is_more_and_never_empty(store: Store[bytes]):
    """A page crosses a border at once: at most ``batch`` records, at least one."""
    await write(store, "web-1", 10)
    pages = [[record.position for record in page] async for page in store.subscribe(batch=4, until=10).pages()]
    assert pages == [[1, 2, 3, 4], [5, 6, 7, 8], [9, 10]]


async def test_a_filtered_position_moves_for_what_was_scanned(store: Store[bytes]):
    """A subscriber of a quiet VM does not have to look through the others' records again."""
    await write(store, "quiet", 1)
    await write(store, "busy", 50)
    subscription = store.subscribe(vm="quiet", batch=10)
    assert (await anext(subscription)).position == 1
    assert subscription.position == 51
    await write(store, "busy", 1)
    assert await subscription.scan() == []
    assert subscription.position == 52
    await write(store, "quiet", 1)
    assert [record.position for record in await subscription.scan()] == [53]


@pytest.mark.parametrize("after", [0, 1, 7, 29, 30])
async def test_a_filter_shows_one_vm_from_anywhere(store: Store[bytes], after: int):
    """Filtered or not, the same records in the same order; the filter may name a VM that is not there yet."""
    for n in range(10):
        await write(store, f"vm-{n % 3}", 1, 3)
    want = [r.position for r in await store.read("vm-1") if r.position > after]
    assert [r.position async for r in store.subscribe(after, vm="vm-1", batch=2, until=30)] == want
    assert [r async for r in store.subscribe(after, vm="vm-9", until=30)] == []


async def test_until_stops_in_the_middle_of_a_page_and_waits_for_what_is_to_come(store: Store[bytes]):
    """``until`` is a promise about positions: all up to it, nothing behind it, however long it takes."""
    await write(store, "web-1", 5)
    subscription = store.subscribe(until=3)
    assert [r.position async for r in subscription] == [1, 2, 3]
    assert subscription.finished
    assert subscription.position == 3
    assert await subscription.scan() == []
    assert [r async for r in store.subscribe(5, until=5)] == []
    seen: list[int] = []

    async def follow() -> None:
        async for record in store.subscribe(4, until=7):
            seen.append(record.position)

    async with anyio.create_task_group() as group:
        group.start_soon(follow)
        await anyio.wait_all_tasks_blocked()
        await write(store, "db-1", 5)
    assert seen == [5, 6, 7]


async def test_a_slow_subscriber_costs_nobody_else(store: Store[bytes]):
    """While one stands still in the middle of a page, writers write and others read; it misses nothing."""
    await write(store, "web-1", 3)
    slow = store.subscribe(batch=2)
    await anext(slow)
    await write(store, "web-1", 50)
    assert len([r async for r in store.subscribe(until=53)]) == 53
    assert [(await anext(slow)).position for _ in range(52)] == list(range(2, 54))


async def test_a_cancelled_wait_loses_nothing(store: Store[bytes]):
    """Giving up and coming back, over and over, shows every record once."""
    subscription = store.subscribe(batch=3)
    seen: list[int] = []

    async def follow() -> None:
        while len(seen) < 40:
            with anyio.move_on_after(0.0005):
                seen.append((await anext(subscription)).position)
            await checkpoint()

    with anyio.fail_after(20):
        async with anyio.create_task_group() as group:
            group.start_soon(follow)
            await write(store, "web-1", 20, 2)
    assert seen == list(range(1, 41))


async def test_a_subscription_shows_itself_and_refuses_nonsense(store: Store[bytes]):
    """Its repr says where it is; a page of nothing or a negative position is refused."""
    assert repr(store.subscribe(7)) == "<Subscription to all VMs at 7>"
    assert repr(store.subscribe(vm="web-1", until=9)) == "<Subscription to web-1 at 0 until 9>"
    for arguments in ({"after": -1}, {"batch": 0}):
        with pytest.raises(ValueError, match="a subscription needs"):
            store.subscribe(**arguments)


@pytest.mark.parametrize("vm", [None, "web-1"])
async def test_a_log_that_was_restored_and_went_on_is_not_told_as_the_same(tmp_path: Path, vm: str | None):
    """An older copy was put back, and grew beyond where a subscriber was: what it was told there stands no more."""
    path, copy = tmp_path / "vm.db", tmp_path / "copy.db"
    for saved in (copy, tmp_path / "later.db"):
        async with SqliteStore(path, BytesCodec()) as writer:
            await write(writer, "web-1", 3)
        shutil.copy(path, saved)
        shutil.copy(f"{path}-head", f"{saved}-head")
    async with SqliteStore(path, BytesCodec()) as store:
        following = store.subscribe(vm=vm)
        assert [(await anext(following)).position for _ in range(6)] == [1, 2, 3, 4, 5, 6]
        for end in ("", "-head"):
            os.replace(f"{copy}{end}", f"{path}{end}")
        async with SqliteStore(path, BytesCodec()) as writer:
            await write(writer, "web-1", 5)
            with anyio.fail_after(10), pytest.raises(Corrupt, match="position 6 is not the record any more"):
                await anext(following)
        assert following.position == 6
