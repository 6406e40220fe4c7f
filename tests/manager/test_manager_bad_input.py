"""Logs that somebody changed, and wishes that no event holds: a clear error each, nothing lost, nothing hanging."""

from __future__ import annotations

import re
import time
from collections.abc import Awaitable, Callable
from enum import StrEnum
from functools import partial
from pathlib import Path
from typing import Any

import anyio
import anyio.to_thread
import apsw
import pytest
from stories import TINY, Toy, agree, until

import esrm
from esrm import (
    Corrupt,
    History,
    InvalidConstraint,
    KvmMemSlotConstraint,
    Malformed,
    MmioConstraint,
    Phase,
    Projection,
    ResourceManager,
    StoreError,
    TooLarge,
    open_reader,
    open_store,
)

REVISION, POSITION = 3, 5
"""The record that is spoilt: the VM's third after its first, behind one record of another VM."""


@pytest.fixture
async def path(tmp_path: Path) -> Path:
    """A log of two VMs on disk, closed."""
    async with (
        open_store(f"sqlite:{tmp_path / 'vm.db'}") as store,
        ResourceManager(store, vm="other", platform=TINY),
        ResourceManager(store, vm="web-1", platform=TINY) as vm,
    ):
        await until(vm, "net0", Phase.REGISTERED)
    return tmp_path / "vm.db"


def spoil(path: Path, data: bytes | None, *, column: str = "data") -> list[Any]:
    """Put something else into a row, as one who edits the file would; and what the file then holds."""
    connection = apsw.Connection(str(path))
    try:
        connection.execute("DROP TRIGGER records_are_never_changed")
        cast = "CAST(? AS TEXT)" if column == "data" else "?"
        connection.execute(f"UPDATE records SET {column} = {cast} WHERE position = ?", (data, POSITION))
        assert connection.changes() == 1
    finally:
        connection.close()
    return contents(path)


def contents(path: Path) -> list[Any]:
    """Every row, its data as bytes, whatever they are."""
    connection = apsw.Connection(str(path), flags=apsw.SQLITE_OPEN_READONLY)
    try:
        return list(connection.execute("SELECT *, CAST(data AS BLOB) FROM records ORDER BY position").fetchall())
    except UnicodeDecodeError:
        return list(connection.execute("SELECT position, CAST(data AS BLOB), hash FROM records").fetchall())
    finally:
        connection.close()


SPOILT = {
    "empty": b"",
    "cut short": b'{"type":"ResourcesAllocated","device":"ne',
    "not JSON": b"hello",
    "not an object": b"[1,2]",
    "no type": b'{"device":"net0"}',
    "unknown type": b'{"type":"DeviceTeleported","device":"net0"}',
    "a wrong field": b'{"type":"ResourcesAllocated","device":7,"resources":[]}',
    "a wrong resource": b'{"type":"ResourcesAllocated","device":"net0","resources":[{"kind":"warp","base":1}]}',
    "too wide": b'{"type":"ResourcesAllocated","device":"net0","resources":[{"kind":"pio","base":65536,"size":1}]}',
    "past the end": b'{"type":"ResourcesAllocated","device":"net0","resources":[{"kind":"pio","base":65535,"size":2}]}',
    "deep": b"[" * 100_000,
    "deep in a field": b'{"type":"DeviceCreated","x":' + b"[" * 60_000,
    "not UTF-8": b'{"type":"DeviceCreated","device":"\xff\xfe"}',
    "out of order": b'{"type":"DeviceRegistered","device":"net0"}',
    "of nobody": b'{"type":"ResourcesAssigned","device":"ghost"}',
    "a second beginning": b'{"type":"VmCreated","platform":{"name":"x"}}',
    "what it does not hold": b'{"type":"ResourcesReleased","device":"net0","resources":[]}',
}


@pytest.mark.parametrize("data", SPOILT.values(), ids=SPOILT)
async def test_a_record_that_cannot_be(path: Path, data: bytes):
    """Every way into the log says Corrupt and names VM, revision and position; the file is left as it was."""
    before = spoil(path, data)
    async with open_store(f"sqlite:{path}") as store:
        history = History(store, "web-1")
        ways: list[Callable[[], Awaitable[object]]] = [
            lambda: ResourceManager(store, vm="web-1").__aenter__(),
            lambda: history.at(),
            lambda: history.at(REVISION),
            lambda: history.diff(0, "@"),
            lambda: history.blame("mmio", 0xD000_0000),
            lambda: history.bisect(lambda state: False),
            lambda: _projected(store, "web-1"),
            lambda: _projected(store, None),
        ]
        for way in ways:
            with pytest.raises(Corrupt) as caught:
                with anyio.fail_after(10):
                    await way()
            assert re.search(rf"web-1(@|, revision ){REVISION} \(position {POSITION}\)", str(caught.value))
            assert len(str(caught.value)) < 500
        assert await history.at(REVISION - 1)
        async with ResourceManager(store, vm="other") as other:  # the others are not concerned
            assert other.revision == 0
    assert contents(path) == before


async def test_an_unknown_event_type_names_itself_and_the_way_out(path: Path):
    """A log written by a newer esrm is not called broken: the message names the tag and says to upgrade."""
    spoil(path, SPOILT["unknown type"])
    async with open_store(f"sqlite:{path}") as store:
        with pytest.raises(Corrupt, match=r"unknown event type 'DeviceTeleported'.*newer esrm"):
            async with ResourceManager(store, vm="web-1"):
                pass


async def test_unknown_fields_are_kept_out_of_the_way(path: Path):
    """What a newer version adds to an event is skipped: the log opens and means what it meant."""
    with open_reader(f"sqlite:{path}") as reader:
        before = esrm.Past(reader, "web-1").at()
        row = next(reader.rows("web-1", REVISION - 1, 1))
    spoil(path, row[7][:-1] + b',"colour":{"of":["the",1.5,null]}}')
    async with open_store(f"sqlite:{path}") as store, ResourceManager(store, vm="web-1") as vm:
        assert vm.state == before


async def _projected(store: Any, vm: str | None) -> None:
    """Waiting for the end raises what stopped the projection; so does leaving it without having waited."""
    head = await store.head()
    async with Projection(store, vm) as projection:
        with pytest.raises(Corrupt):
            await projection.wait_for(head)


async def test_a_log_changed_under_a_living_manager(path: Path):
    """Its next catch-up says Corrupt, and it writes nothing on top."""
    async with open_store(f"sqlite:{path}") as store, ResourceManager(store, vm="web-1") as vm:
        async with open_store(f"sqlite:{path}") as there, ResourceManager(there, vm="web-1") as other:
            await other.create("blk0")
            head = await there.head()
        connection = apsw.Connection(str(path))
        connection.execute("DROP TRIGGER records_are_never_changed")
        connection.execute("UPDATE records SET data = 'x' WHERE position = ?", (head,))
        connection.close()
        for _ in range(3):
            with pytest.raises(Corrupt, match=rf"web-1.* 6 \(position {head}\)"):
                await vm.create("late")
        assert await store.head() == head


# -- what no event could hold -----------------------------------------------------------------------------------------


async def test_more_than_an_event_holds(url: str):
    """Too many wishes, or one that thousands of resources would meet: refused at once, and nothing appended."""
    async with open_store(url) as store, ResourceManager(store, vm="web-1") as vm:
        await vm.create("net0")
        before, head = vm.state.copy(), await store.head()
        for wishes in (
            [MmioConstraint(0x1000)] * 1500,
            [KvmMemSlotConstraint(2**32 - 1)],
            [KvmMemSlotConstraint(30_000)],
            [MmioConstraint(0x1000)] * 10_000,
        ):
            with anyio.fail_after(10):
                with pytest.raises(TooLarge, match=r"65,535|at most 2,000"):
                    await vm.declare("net0", wishes)
            with pytest.raises(TooLarge):
                await vm.attach(Toy("net0", *wishes))
            assert (vm.state, await store.head()) == (before, head)
        await agree(store, vm)


async def test_what_was_given_can_always_be_given_back(url: str):
    """At the very limit of an event: whatever could be allocated can be released, with the longest reason."""
    slots = esrm.Platform("slots", pools={esrm.Space.KVM_MEM_SLOT: [(10_000, 20_000)]})
    async with open_store(url) as store, ResourceManager(store, vm="web-1", platform=slots) as vm:
        given = 0
        for count in range(1520, 1760, 20):
            device = f"dev{count}"
            await vm.create(device)
            await vm.declare(device, [KvmMemSlotConstraint(count)])
            head = await store.head()
            try:
                await vm.allocate(device)
            except TooLarge:
                assert await store.head() == head
                continue
            given += 1
            await vm.release(device, reason="\1" * 10_000)
        assert 0 < given < 12, "the limit lies in between"
        await agree(store, vm)


async def test_what_is_no_constraint(url: str):
    """Something else in the list is InvalidConstraint, and says what was expected."""
    async with open_store(url) as store, ResourceManager(store, vm="web-1") as vm:
        await vm.create("net0")
        for wrong in ("mmio", 7, None, esrm.LegacyIrq(5), MmioConstraint, "x" * 10_000_000):
            with pytest.raises(InvalidConstraint, match="expected constraints such as") as caught:
                await vm.declare("net0", [wrong])
            assert len(str(caught.value)) < 300
        assert await store.head() == 2


class Names(StrEnum):
    """Names as programs like to keep them."""

    DEVICE, KIND, BRIDGE = "net0", "virtio-net", "bridge0"


async def test_names_from_an_enumeration_are_kept_as_text(url: str):
    """What the state, the log and its readers have is plain text, so that it is the same for all of them."""
    async with open_store(url) as store, ResourceManager(store, vm=Names.BRIDGE, actor=Names.KIND) as vm:
        await vm.create(Names.BRIDGE)
        await vm.create(Names.DEVICE, kind=Names.KIND, parent=Names.BRIDGE)
        found = vm.state.devices["net0"]
        assert {type(text) for text in (*vm.state.devices, found.name, found.kind, found.parent)} == {str}
        await agree(store, vm)


async def test_a_store_that_is_not_open(tmp_path: Path):
    """A manager on a store that was never entered, or has been left, says so, and has done nothing."""
    for url in ("memory:", f"sqlite:{tmp_path / 'vm.db'}"):
        with pytest.raises(StoreError):
            async with ResourceManager(open_store(url), vm="web-1"):
                pass
        async with open_store(url) as store, ResourceManager(store, vm="web-1") as vm:
            await vm.create("net0")
        with pytest.raises(StoreError):
            await vm.create("late")
        assert "late" not in vm.state.devices


async def test_another_event_loop(url: str, anyio_backend: str):
    """While a step is under way, one from another loop is refused at once, and does not keep the next from its turn."""
    async with open_store(url) as store, ResourceManager(store, vm="web-1") as vm:
        stray = partial(anyio.run, vm.create, "stray", backend=anyio_backend)
        async with vm._turn:
            with anyio.fail_after(10), pytest.raises(StoreError, match="event loop"):
                await anyio.to_thread.run_sync(stray, abandon_on_cancel=True)
        with anyio.fail_after(10):
            await vm.create("net0")
        assert list(vm.state.devices) == ["net0"]


async def test_a_clock_that_tells_no_nanoseconds(url: str):
    """Seconds, as ``time.time`` tells them, are refused by name, in a new VM and an old one; nothing is recorded."""
    async with open_store(url) as store:
        for head in (0, 1):
            with pytest.raises(
                Malformed, match=r"the clock gives whole nanoseconds, as time.time_ns does, not 17\d+\."
            ):
                async with ResourceManager(store, vm="web-1", clock=time.time) as vm:  # type: ignore[arg-type]
                    await vm.create("net0")
            assert await store.head() == head
            async with ResourceManager(store, vm="web-1"):
                pass
