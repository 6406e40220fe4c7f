"""Commits on the event loop's own thread: when they happen, and that nothing else can tell the difference."""

from __future__ import annotations

import math
import os
import threading
from functools import partial
from pathlib import Path

import anyio
import apsw
import pytest

from esrm.errors import Conflict, StoreError
from esrm.stores.base import verify
from esrm.stores.sqlite import SqliteStore, committer, writer
from esrm.stores.sqlite.writer import INLINE_BYTES_MAX, INLINE_RECORDS_MAX, _Pace
from esrm.testing import BytesCodec, drafts

CODEC = BytesCodec()


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """Where a log may be made."""
    return tmp_path / "vm.db"


def watched(store: SqliteStore[bytes], monkeypatch: pytest.MonkeyPatch) -> list[bool]:
    """For each transaction from now on, whether it was committed on this thread."""
    here, seen, commit = threading.get_ident(), list[bool](), store._writer._committer.commit

    def watch(appends: list, *, patient: bool = True) -> bool:
        done = commit(appends, patient=patient)
        if done:
            seen.append(threading.get_ident() == here)
        return done

    monkeypatch.setattr(store._writer._committer, "commit", watch)
    return seen


@pytest.mark.parametrize(("inline_ms", "here"), [(math.inf, True), (0, False)])
async def test_an_append_alone_is_committed_where_it_was_asked_for(
    path: Path, monkeypatch: pytest.MonkeyPatch, inline_ms: float, here: bool
):
    """While the disk is quick enough, nothing crosses to a thread and back; and it can be turned off."""
    async with SqliteStore(path, CODEC, inline_ms=inline_ms) as store:
        seen = watched(store, monkeypatch)
        for n in range(5):
            [record] = await store.append("web-1", drafts(b"x"), expected=n - 1)
            assert (record.position, record.revision) == (n + 1, n)
        with pytest.raises(Conflict):
            await store.append("web-1", drafts(b"x"), expected=-1)
        assert seen == [False] + [here] * 5  # the first one makes us the log's writer, which may take its time
        assert verify(store.reader()).good == 5


async def test_a_crowd_shares_commits_on_the_loop(path: Path, monkeypatch: pytest.MonkeyPatch):
    """Who leads lets all who are ready come along: 64 tasks make few transactions, on either loop."""

    async def work(vm: str) -> None:
        for n in range(8):
            await store.append(vm, drafts(b"x"), expected=n - 1)

    async with SqliteStore(path, CODEC, inline_ms=math.inf) as store:
        seen = watched(store, monkeypatch)
        async with anyio.create_task_group() as group:
            for n in range(64):
                group.start_soon(work, f"vm-{n}")
        assert [head.revision for head in await store.streams()] == [7] * 64
        assert verify(store.reader()).good == 512
    assert all(seen[1:])
    assert len(seen) < 32


async def test_what_takes_longer_than_a_sync_goes_to_the_thread(path: Path, monkeypatch: pytest.MonkeyPatch):
    """Many records, or many bytes, would hold the loop up; what is small again stays."""
    async with SqliteStore(path, CODEC, inline_ms=math.inf) as store:
        seen = watched(store, monkeypatch)
        many = INLINE_RECORDS_MAX + 1
        await store.append("web-1", drafts(*[b""] * many), expected=-1)
        await store.append("web-1", drafts(*[bytes(60_000)] * (INLINE_BYTES_MAX // 60_000 + 1)), expected=many - 1)
        await store.append("db-1", drafts(b"x"), expected=-1)
        assert seen == [False, False, True]


def test_the_disk_has_to_show_that_it_is_quick():
    """Slow until so many commits were quick; slow again after one stall, or when most of them are slow."""
    pace = _Pace(0.0005)
    commits = 0
    while not pace.quick:
        pace.tell(0.0001)
        commits += 1
    assert 10 < commits < 20
    for _ in range(20):
        pace.tell(0.0001)
    for _ in range(5):
        pace.tell(0.002)
        assert pace.quick
    pace.tell(math.inf)
    assert not pace.quick
    for _ in range(100):
        pace.tell(0.0006)
    assert not pace.quick
    for _ in range(1000):
        pace.tell(0.0006)
    commits = 0
    while not pace.quick:
        pace.tell(0.0001)
        commits += 1
    assert commits < 20  # however long it was slow before
    never = _Pace(0)
    for _ in range(100):
        never.tell(0.0001)
    assert not never.quick


@pytest.mark.parametrize(("events", "here"), [([1] * 4, True), ([1] * 5, False), ([100], True), ([101], False)])
async def test_what_is_small_has_two_limits(path: Path, monkeypatch: pytest.MonkeyPatch, events: list[int], here: bool):
    """So many records and so many bytes, inclusive, stay on the loop; with one more of either it is for the thread."""
    monkeypatch.setattr(writer, "INLINE_RECORDS_MAX", 4)
    monkeypatch.setattr(writer, "INLINE_BYTES_MAX", 100)
    async with SqliteStore(path, CODEC, inline_ms=math.inf) as store:
        await store.append("db-1", drafts(b"x"), expected=-1)
        seen = watched(store, monkeypatch)
        await store.append("web-1", drafts(*map(bytes, events)), expected=-1)
        assert seen == [here]


async def test_nothing_is_committed_on_the_loop_unasked(path: Path, monkeypatch: pytest.MonkeyPatch):
    """However quick the disk is: blocking the loop is for the caller to choose."""
    async with SqliteStore(path, CODEC) as store:
        await store.append("web-1", drafts(b"x"), expected=-1)
        for _ in range(1000):
            store._writer._pace.tell(1e-9)
        seen = watched(store, monkeypatch)
        await store.append("web-1", drafts(b"x"), expected=0)
        assert seen == [False]


async def test_the_loop_does_not_wait_for_the_thread(path: Path, monkeypatch: pytest.MonkeyPatch):
    """While the thread has the committer, an append is handed to it, and the loop turns on."""
    async with SqliteStore(path, CODEC, inline_ms=math.inf) as store:
        await store.append("web-1", drafts(b"x"), expected=-1)
        seen = watched(store, monkeypatch)
        with anyio.fail_after(10):
            async with anyio.create_task_group() as group:
                with store._writer._mine:
                    group.start_soon(partial(store.append, "web-1", drafts(b"x"), expected=0))
                    await anyio.wait_all_tasks_blocked()
                    assert seen == []
        assert seen == [False]


@pytest.mark.parametrize("inline_ms", [math.inf, 0])
@pytest.mark.parametrize(("name", "most", "size"), [("TURN_APPENDS_MAX", 3, 1), ("BATCH_RECORDS_MAX", 6, 2)])
async def test_a_turn_takes_so_many(
    path: Path, monkeypatch: pytest.MonkeyPatch, inline_ms: float, name: str, most: int, size: int
):
    """Ten tasks that are ready together come along in turns of three, and the last one takes the next."""
    monkeypatch.setattr(writer, name, most)
    async with SqliteStore(path, CODEC, inline_ms=inline_ms) as store:
        await store.append("web-1", drafts(b"x"), expected=-1)
        turns, commit = list[int](), store._writer._committer.commit

        def watch(appends: list, *, patient: bool = True) -> bool:
            turns.append(len(appends))
            return commit(appends, patient=patient)

        monkeypatch.setattr(store._writer._committer, "commit", watch)
        async with anyio.create_task_group() as group:
            for n in range(10):
                group.start_soon(partial(store.append, f"vm-{n}", drafts(*[b"x"] * size), expected=-1))
        assert turns == [3, 3, 3, 1]


async def test_a_cancelled_leader_leaves_nobody_behind(path: Path):
    """Whoever leads a turn and is cancelled, its append and all that came along still take their turn."""
    async with SqliteStore(path, CODEC, inline_ms=math.inf) as store:
        scopes = [anyio.CancelScope() for _ in range(10)]
        answers: list[int] = []

        async def append(n: int) -> None:
            with scopes[n]:
                await store.append(f"vm-{n}", drafts(b"x"), expected=-1)
                answers.append(n)

        with anyio.fail_after(10):
            async with anyio.create_task_group() as group:
                for n in range(10):
                    if n % 2 == 0:
                        scopes[n].cancel()
                    group.start_soon(append, n)
            assert set(answers) >= {1, 3, 5, 7, 9}
            assert await store.wait_past(9) == 10
        assert verify(store.reader()).good == 10
        await store.append("vm-0", drafts(b"y"), expected=0)


async def test_an_error_is_an_answer_here_too(path: Path, monkeypatch: pytest.MonkeyPatch):
    """A fault inside a commit on the loop reaches each caller of the turn, and the next turn is as ever."""
    errors: list[str] = []

    async def append(n: int) -> None:
        try:
            await store.append(f"vm-{n}", drafts(b"x"), expected=-1)
        except StoreError as error:
            errors.append(str(error))

    async with SqliteStore(path, CODEC, inline_ms=math.inf) as store:
        with monkeypatch.context() as patch:
            patch.setattr(store._writer._committer, "_settle", lambda _: 1 / 0)
            async with anyio.create_task_group() as group:
                for n in range(5):
                    group.start_soon(append, n)
        assert len(errors) == 5
        assert "ZeroDivisionError" in errors[0]
        assert [r.position for r in await store.append("vm-0", drafts(b"x"), expected=-1)] == [1]


async def test_an_interrupt_inside_a_commit_rolls_it_back(path: Path, monkeypatch: pytest.MonkeyPatch):
    """What is no Exception (Ctrl-C on the loop's thread) goes its way, and leaves no transaction open."""

    class Interrupt(BaseException):
        pass

    def interrupt(_: object) -> None:
        raise Interrupt

    async with SqliteStore(path, CODEC, inline_ms=math.inf) as store:
        await store.append("web-1", drafts(b"0"), expected=-1)
        with monkeypatch.context() as patch:
            patch.setattr(store._writer._committer, "_write", lambda: interrupt(None))
            with pytest.raises(Interrupt):
                await store.append("web-1", drafts(b"1"), expected=0)
        [record] = await store.append("web-1", drafts(b"2"), expected=0)
        assert (record.position, record.revision) == (2, 1)
        assert verify(store.reader()).good == 2


async def test_another_processs_transaction_does_not_hold_the_loop_up(path: Path, monkeypatch: pytest.MonkeyPatch):
    """If somebody else is writing, it is the thread that waits: the loop turns on, and the append lands in the end."""
    answers: list[int] = []

    async def append(n: int) -> None:
        [record] = await store.append(f"vm-{n}", drafts(b"x"), expected=-1)
        answers.append(record.position)

    async with SqliteStore(path, CODEC, inline_ms=math.inf, busy_ms=20_000) as store:
        seen = watched(store, monkeypatch)
        other = apsw.Connection(str(path))
        other.execute("BEGIN IMMEDIATE; INSERT INTO streams VALUES (77, 'half')")
        with anyio.fail_after(10):
            async with anyio.create_task_group() as group:
                for n in range(3):
                    group.start_soon(append, n)
                for _ in range(20):
                    await anyio.sleep(0.001)
                assert answers == []
                other.execute("ROLLBACK")
                other.close()
        assert sorted(answers) == [1, 2, 3]
        await append(4)
        assert (seen[0], seen[-1]) == (False, True)


async def test_closing_while_a_leader_lets_others_come_along(path: Path):
    """A close in that very moment finishes what was handed in, as any other."""
    for _ in range(5):
        answers: list[str] = []
        async with SqliteStore(path, CODEC, inline_ms=math.inf) as store:

            async def append(vm: str, store: SqliteStore[bytes] = store, answers: list[str] = answers) -> None:
                end = await store.stream(vm)
                try:
                    await store.append(vm, drafts(b"x"), expected=end.revision if end else -1)
                    answers.append("stands")
                except StoreError as error:
                    answers.append(str(error))

            with anyio.fail_after(10):
                async with anyio.create_task_group() as group:
                    for n in range(5):
                        group.start_soon(append, f"vm-{n}")
                    await anyio.sleep(0.0005)
                    group.start_soon(store.aclose)
        assert len(answers) == 5
        assert {answer for answer in answers if answer != "stands"} <= {f"{store} is closed"}
    assert not [thread for thread in threading.enumerate() if "vm.db" in thread.name]


async def test_the_thread_folds_the_wal_back(path: Path, monkeypatch: pytest.MonkeyPatch):
    """However many small commits the loop makes, the WAL stays short."""
    monkeypatch.setattr(committer, "FOLD_PAGES", 20)
    async with SqliteStore(path, CODEC, inline_ms=math.inf, synchronous="OFF") as store:
        seen = watched(store, monkeypatch)
        for n in range(300):
            await store.append("web-1", drafts(b"x"), expected=n - 1)
        assert os.stat(f"{path}-wal").st_size < 100 * 4120
        assert True in seen
        assert False in seen
