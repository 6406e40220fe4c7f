"""Where a store may be used, and how it ends: in its own loop, and whole, whatever cancels meanwhile."""

from __future__ import annotations

import asyncio
import os
import threading
from collections.abc import Callable
from pathlib import Path

import anyio
import pytest
from anyio.lowlevel import checkpoint

from esrm.errors import StoreError
from esrm.stores.base import Store, outlast
from esrm.stores.memory import MemoryStore
from esrm.stores.sqlite import SqliteStore
from esrm.stores.sqlite import store as module
from esrm.testing import BytesCodec, drafts

CODEC = BytesCodec()


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """Where a log may be made."""
    return tmp_path / "vm.db"


def writers() -> list[str]:
    """The threads that write this log."""
    return [thread.name for thread in threading.enumerate() if "vm.db" in thread.name]


@pytest.mark.parametrize("later", ["asyncio", "trio"])
@pytest.mark.parametrize("first", ["asyncio", "trio"])
@pytest.mark.parametrize("kind", [MemoryStore, SqliteStore])
def test_another_loop_of_the_same_thread_is_another_loop(path: Path, kind: type[Store[bytes]], first: str, later: str):
    """Its answers would go to a loop that is over, and whoever asked would wait for ever."""
    store = MemoryStore(CODEC) if kind is MemoryStore else SqliteStore(path, CODEC)

    async def begin() -> None:
        await store.__aenter__()
        await store.append("web-1", drafts(b"0"), expected=-1)

    async def go_on() -> None:
        with anyio.fail_after(10):
            for attempt in (store.append("web-1", drafts(b"1"), expected=0), store.head(), store.wait_past(9)):
                with pytest.raises(StoreError, match="opened in another process or event loop"):
                    await attempt
            with pytest.raises(StoreError, match="opened in another process or event loop"):
                await store.aclose()

    anyio.run(begin, backend=first)
    anyio.run(go_on, backend=later)
    with pytest.raises(StoreError, match="opened in another process or event loop"):
        store.append("web-1", drafts(b"1"), expected=0).send(None)  # no loop at all
    with store.reader() as reader:
        assert [record.event for record in reader.read_all()] == [b"0"]
    if isinstance(store, SqliteStore):  # nobody can close it any more; its thread ends when told to, answering nobody
        store._writer._stopping = True
        store._writer._queue.put(None)
        store._writer._thread.join(10)
    assert writers() == []


def test_a_store_goes_on_in_its_own_loop(path: Path):
    """A loop that stops in between is still the same one, whatever other one has run meanwhile."""
    store = SqliteStore(path, CODEC)
    with asyncio.Runner() as mine, asyncio.Runner() as other:
        mine.run(store.__aenter__())
        with pytest.raises(StoreError, match="opened in another process or event loop"):
            other.run(store.append("web-1", drafts(b"0"), expected=-1))
        assert len(mine.run(store.append("web-1", drafts(b"0"), expected=-1))) == 1
        mine.run(store.aclose())
        other.run(store.aclose())  # twice does nothing, wherever
    assert writers() == []


@pytest.mark.parametrize("kind", [MemoryStore, SqliteStore])
async def test_a_store_is_opened_once(path: Path, kind: type[Store[bytes]]):
    """Of two tasks that open it at the same moment one is refused, and no thread stays behind."""
    store = MemoryStore(CODEC) if kind is MemoryStore else SqliteStore(path, CODEC)
    told: list[str] = []

    async def enter() -> None:
        try:
            await store.__aenter__()
            told.append("opened")
        except StoreError as error:
            told.append(str(error).partition("> ")[2])

    async with anyio.create_task_group() as group:
        group.start_soon(enter)
        group.start_soon(enter)
    assert sorted(told) == ["opened", "was opened before; make a new one"]
    await store.aclose()
    assert writers() == []


async def test_a_store_that_is_being_opened_is_not_closed(path: Path, monkeypatch: pytest.MonkeyPatch):
    """Neither used: it says so, rather than come to be open after it was closed."""
    store, gate, begin = SqliteStore(path, CODEC), threading.Event(), module.Committer
    monkeypatch.setattr(module, "Committer", lambda *given: begin(*given) if gate.wait(10) else None)
    async with anyio.create_task_group() as group:
        group.start_soon(store.__aenter__)
        await anyio.wait_all_tasks_blocked()
        with pytest.raises(StoreError, match="is being opened by another task"):
            await store.aclose()
        with pytest.raises(StoreError, match="is not open"):
            await store.head()
        gate.set()
    assert await store.head() == 0
    await store.aclose()
    assert writers() == []


async def test_a_store_that_could_not_be_opened_can_be_opened_later(tmp_path: Path):
    """Nothing of the attempt is left in its way."""
    store = SqliteStore(tmp_path / "later" / "vm.db", CODEC)
    with pytest.raises(StoreError, match="there is no directory"):
        await store.__aenter__()
    await store.aclose()
    (tmp_path / "later").mkdir()
    async with store:
        assert await store.head() == 0


@pytest.mark.parametrize("kind", [MemoryStore, SqliteStore])
async def test_what_needs_no_open_store(path: Path, kind: type[Store[bytes]]):
    """A reader lives by itself; before, nothing is at hand; a subscription asks with its first record."""
    store = MemoryStore(CODEC) if kind is MemoryStore else SqliteStore(path, CODEC)
    assert store.recent(0, 10) is None
    with pytest.raises(StoreError, match="is not open"):
        await anext(store.subscribe())
    async with store:
        await store.append("web-1", drafts(b"0"), expected=-1)
        reader = store.reader()
    with reader, store.reader() as later:
        assert reader.head() == later.head() == 1
    with pytest.raises(StoreError, match="is closed"):
        await anext(store.subscribe())


async def test_a_forked_child_takes_no_reader(store: Store[bytes], monkeypatch: pytest.MonkeyPatch):
    """Nor anything else of its parent's store."""
    with monkeypatch.context() as patch:
        patch.setattr(os, "getpid", lambda: -1)
        with pytest.raises(StoreError, match="opened before a fork"):
            store.reader()
        with pytest.raises(StoreError, match="opened in another process"):
            await store.head()
    store.reader().close()


def by_scope(scope: anyio.CancelScope) -> None:
    """Cancel as anyio and trio do: a shield holds it back."""
    scope.cancel()


def natively(_: anyio.CancelScope) -> None:
    """Cancel as asyncio's timeout, wait_for and Ctrl-C do: no shield of a scope holds it back."""
    task = asyncio.current_task()
    assert task is not None
    task.get_loop().call_soon(task.cancel)


CANCELS = [
    pytest.param(by_scope, "asyncio", id="asyncio-scope"),
    pytest.param(by_scope, "trio", id="trio-scope"),
    pytest.param(natively, "asyncio", id="asyncio-native"),
]


@pytest.mark.parametrize(("cancel", "anyio_backend"), CANCELS, indirect=["anyio_backend"])
async def test_a_cancelled_close_is_over_when_it_returns(
    path: Path, monkeypatch: pytest.MonkeyPatch, cancel: Callable[[anyio.CancelScope], None]
):
    """It waits for the appends, then passes the cancellation on; and so does who closes a second time."""
    store = await SqliteStore(path, CODEC).__aenter__()
    gate, commit = threading.Event(), store._writer._committer.commit
    monkeypatch.setattr(store._writer._committer, "commit", lambda appends: gate.wait(10) and commit(appends))
    answers: list[int] = []
    ended: list[str] = []

    async def append(n: int) -> None:
        answers.extend(record.position for record in await store.append(f"vm-{n}", drafts(b"x"), expected=-1))

    async def close() -> None:
        with anyio.CancelScope() as scope:
            cancel(scope)
            try:
                await store.aclose()
                await checkpoint()
            except anyio.get_cancelled_exc_class():
                ended.append(f"cancelled after {len(answers)} answers, {len(writers())} writers are left")
            else:
                ended.append("not cancelled")

    async with anyio.create_task_group() as group:
        for n in range(20):
            group.start_soon(append, n)
        await anyio.wait_all_tasks_blocked()
        group.start_soon(close)
        await anyio.wait_all_tasks_blocked()
        group.start_soon(close)
        await anyio.wait_all_tasks_blocked()
        assert (answers, ended) == ([], [])
        gate.set()
    assert sorted(answers) == list(range(1, 21))
    assert ended == ["cancelled after 20 answers, 0 writers are left"] * 2
    async with SqliteStore(path, CODEC) as other:
        await other.append("web-1", drafts(b"x"), expected=-1)


@pytest.mark.parametrize(("cancel", "anyio_backend"), CANCELS, indirect=["anyio_backend"])
async def test_a_block_that_ends_by_cancellation_closes(path: Path, cancel: Callable[[anyio.CancelScope], None]):
    """Whether the cancellation comes before the close or with it, the thread and the lock are gone afterwards."""
    for at_work in (True, False):
        with anyio.CancelScope() as scope:
            try:
                async with SqliteStore(path, CODEC) as store:
                    with anyio.CancelScope(shield=True):
                        end = await store.stream("web-1")
                        await store.append("web-1", drafts(b"x"), expected=end.revision if end else -1)
                    cancel(scope)
                    if at_work:
                        await store.wait_past(9)
                await checkpoint()
            except asyncio.CancelledError:
                if cancel is by_scope:
                    raise
        assert writers() == []
    async with SqliteStore(path, CODEC) as other:
        assert await other.head() == 2
        await other.append("web-1", drafts(b"x"), expected=1)


@pytest.mark.parametrize("error", [KeyboardInterrupt, None])
async def test_what_is_outlasted_is_raised_afterwards(error: type[BaseException] | None):
    """Ctrl-C comes to a waiting task as a cancellation (asyncio) or as itself (trio)."""

    class Interrupted:
        waits = 0

        def is_set(self) -> bool:
            return self.waits == 2

        async def wait(self) -> None:
            self.waits += 1
            if self.waits == 1 and error:
                raise error

    event = Interrupted()
    if error:
        with pytest.raises(error):
            await outlast(event)  # type: ignore[arg-type]
    else:
        await outlast(event)  # type: ignore[arg-type]
    assert event.waits == 2


async def test_what_the_close_fails_with_is_raised(path: Path, monkeypatch: pytest.MonkeyPatch):
    """By whoever closes first; the thread is gone all the same."""
    store = await SqliteStore(path, CODEC).__aenter__()
    close = store._writer._committer.close

    def fail() -> None:
        close()
        raise StoreError("the disk is gone")

    monkeypatch.setattr(store._writer._committer, "close", fail)
    with pytest.raises(StoreError, match="the disk is gone"):
        await store.aclose()
    await store.aclose()
    assert writers() == []
