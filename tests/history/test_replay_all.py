"""``replay_all``: every VM at once, exactly as one by one; and it leaves nothing behind but the states."""

from __future__ import annotations

import gc
import tracemalloc
from collections.abc import Iterator
from pathlib import Path

import anyio
import apsw
import pytest

import esrm
from esrm import Corrupt, MmioConstraint, ResourceManager, StoreError, bulk, open_reader, open_store
from esrm.core import events
from esrm.stores.memory import MemoryStore
from esrm.stores.records import PAGE

VMS = ("web-1", "web-2", "db", "idle")


async def fill(store: esrm.stores.base.Store[esrm.Event], rounds: int = 3) -> None:
    """Devices nest, come and go in several VMs, whose records are interleaved."""
    async with anyio.create_task_group() as group:
        for vm in VMS:
            group.start_soon(live, store, vm, rounds)


async def live(store: esrm.stores.base.Store[esrm.Event], name: str, rounds: int) -> None:
    """The life of one VM."""
    async with ResourceManager(store, vm=name, platform="aarch64" if name == "db" else None) as vm:
        for number in range(rounds if name != "idle" else 0):
            for device, parent in ((f"bridge{number}", None), (f"net{number}", f"bridge{number}")):
                await vm.create(device, kind="virtio-net", parent=parent)
                await vm.declare(device, [MmioConstraint(0x10000 if parent is None else 0x1000)])
                await vm.allocate(device)
                await vm.assign(device)
            if number % 2:
                await vm.detach(f"net{number}")
                await vm.detach(f"bridge{number}")


@pytest.fixture
def url(tmp_path: Path) -> str:
    """A log on disk."""

    async def write() -> None:
        async with open_store(f"sqlite:{tmp_path / 'vm.db'}") as store:
            await fill(store)

    anyio.run(write)
    return f"sqlite:{tmp_path / 'vm.db'}"


@pytest.fixture(autouse=True)
def collecting() -> Iterator[None]:
    """However a replay ends, the garbage collector works afterwards as it did before."""
    frozen = gc.get_freeze_count()  # Python 3.12 starts with some
    assert gc.isenabled()
    yield
    assert gc.isenabled()
    assert gc.get_freeze_count() == frozen


def one_by_one(url: str) -> dict[str, esrm.VmState]:
    """The same, asked of each VM's own history."""
    with open_reader(url) as reader:
        return {vm: esrm.Past(reader, vm).at() for vm in VMS}


@pytest.mark.parametrize("processes", [1, 2, 3])
def test_it_gives_the_state_of_every_vm(url: str, processes: int) -> None:
    """As each VM's own history has it, nesting and all, also when several processes share the work."""
    states = esrm.replay_all(url, processes=processes)
    assert states == one_by_one(url)
    assert [d.name for d in states["web-1"].children("bridge2")] == ["net2"]


def test_a_reader_will_do(url: str) -> None:
    """It is read, and stays open."""
    with open_reader(url) as reader:
        assert esrm.replay_all(reader) == one_by_one(url)
        assert reader.head()


async def test_a_store_in_memory_will_do() -> None:
    """What is not overridden by a store is there nevertheless."""
    async with MemoryStore[esrm.Event](events) as store:
        await fill(store)
        with store.reader() as reader:
            states = esrm.replay_all(reader)
            assert states == {vm: esrm.Past(reader, vm).at() for vm in VMS}
            shares = [page for share in (0, 1) for page in reader.pages(share=share, shares=2)]
            assert sorted(leaf for page in shares for leaf in page) == next(reader.pages())


@pytest.mark.parametrize("processes", [1, 2])
def test_until_a_position(url: str, processes: int) -> None:
    """At each position it is what had happened by then; VMs that had not begun are not there."""
    with open_reader(url) as reader:
        for position in range(0, reader.head() + 1, 1 if processes == 1 else 30):
            states = esrm.replay_all(url, until=position, processes=processes)
            for vm in VMS:
                revision = reader.revision_at_position(vm, position)
                assert states.get(vm) == (esrm.Past(reader, vm).at(revision) if revision >= 0 else None)


def test_vms_that_began_alike_share_their_platform(url: str) -> None:
    """Ten thousand VMs of one platform do not keep ten thousand copies of it."""
    states = esrm.replay_all(url)
    assert states["web-1"].platform is states["web-2"].platform is not states["db"].platform


def test_vms_that_live_alike_share_what_they_say(url: str) -> None:
    """The same bytes are decoded once, so equal wishes of different VMs are one object."""
    states = esrm.replay_all(url)
    wishes = {id(states[vm].device("net2").constraints) for vm in ("web-1", "web-2")}
    assert len(wishes) == 1


@pytest.mark.parametrize("known", [0, 1, 300])
def test_what_is_remembered_is_a_hint(url: str, known: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """With room for nothing, for one event or for a few, every state is the same."""
    monkeypatch.setattr(bulk, "KNOWN_BYTES_MAX", known)
    assert esrm.replay_all(url) == one_by_one(url)


def edit(url: str, statement: str) -> None:
    """Change what must not be changed."""
    connection = apsw.Connection(url.removeprefix("sqlite:"))
    connection.execute("DROP TRIGGER records_are_never_changed; DROP TRIGGER records_are_never_deleted;" + statement)
    connection.close()


DAMAGES = {
    "not JSON": ("UPDATE records SET data = '{' WHERE position = 20", "not an event"),
    "an unknown event": ("""UPDATE records SET data = '{"type":"Later"}' WHERE position = 20""", "Later"),
    "out of order": (
        """UPDATE records SET data = '{"type":"DeviceRemoved","device":"x"}' WHERE position = 20""",
        "'x'",
    ),
    "a record before it is gone": (
        (
            "DELETE FROM records WHERE revision = (SELECT revision - 1 FROM records WHERE position = 20) "
            "AND stream = (SELECT stream FROM records WHERE position = 20)"
        ),
        "revision",
    ),
}


@pytest.mark.parametrize("processes", [1, 2])
@pytest.mark.parametrize("damage", DAMAGES)
def test_a_record_that_cannot_be_is_named(url: str, damage: str, processes: int) -> None:
    """By VM, revision and position, whoever came upon it; and the first one, where there are several."""
    with open_reader(url) as reader:
        _, vm, revision, *_ = next(reader.rows(after=19, limit=1))
    statement, said = DAMAGES[damage]
    edit(url, statement + "; UPDATE records SET data = '[' WHERE position > 50")
    with pytest.raises(Corrupt, match=said) as caught:
        esrm.replay_all(url, processes=processes)
    assert f"{vm}, revision {revision} (position 20): " in str(caught.value)


def test_a_stranger_is_refused(tmp_path: Path, url: str) -> None:
    """A store that is not there, processes that could not open it, and none at all."""
    with pytest.raises(StoreError):
        esrm.replay_all(f"sqlite:{tmp_path / 'none.db'}")
    with open_reader(url) as reader, pytest.raises(ValueError, match="URL"):
        esrm.replay_all(reader, processes=2)
    with pytest.raises(ValueError, match="at least one"):
        esrm.replay_all(url, processes=0)


def test_a_collector_that_was_off_stays_off(url: str) -> None:
    """It is left as it was found."""
    gc.disable()
    try:
        esrm.replay_all(url)
        assert not gc.isenabled()
    finally:
        gc.enable()


def test_a_log_streams(tmp_path: Path) -> None:
    """However long a log is, a few pages of it are held, and of what is remembered so many bytes, though no two events
    are alike."""
    url, pages = f"sqlite:{tmp_path / 'long.db'}", 40

    async def write() -> None:
        begun = [esrm.VmCreated(esrm.Platform("p", {esrm.Space.PIO: [(0, 9)]}))]
        turns = [
            event
            for number in range(pages * PAGE // 2)
            for event in (esrm.DeviceCreated("net0", f"{number:0200}"), esrm.DeviceRemoved("net0"))
        ]
        clock = iter(range(1, 1_000_000))
        async with open_store(url, synchronous="OFF") as store:
            history = [*begun, *turns]
            for start in range(0, len(history), 5000):
                drafts = [
                    esrm.Draft(event=event, id=f"00000000-0000-7000-8000-{next(clock):012x}", time_ns=0)
                    for event in history[start : start + 5000]
                ]
                await store.append("v", drafts, expected=start - 1)

    anyio.run(write)
    with open_reader(url) as reader:
        assert max(map(len, reader.pages())) == PAGE
        esrm.replay_all(reader, until=PAGE)
        tracemalloc.start()
        try:
            esrm.replay_all(reader)
            peak = tracemalloc.get_traced_memory()[1]
        finally:
            tracemalloc.stop()
        assert peak < pages * PAGE * 250 / 2  # half of the log's own bytes
