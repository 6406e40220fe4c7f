"""What is the SQLite store's own: durability, group commit, several handles, damage, and closing."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
import warnings
from collections import deque
from pathlib import Path
from typing import Any

import anyio
import apsw
import pytest
from anyio import to_thread

from esrm.errors import Conflict, Corrupt, Rejected, StoreError
from esrm.stores.base import Draft, Fault, Reader, verify
from esrm.stores.sqlite import SqliteReader, SqliteStore, schema
from esrm.stores.sqlite import reader as reader_module
from esrm.testing import BytesCodec, drafts

CODEC = BytesCodec()


def raw(path: Path) -> apsw.Connection:
    """A connection that knows nothing of us."""
    return apsw.Connection(str(path))


def writing(store: SqliteStore[bytes]) -> apsw.Connection:
    """The store's own writing connection, to look at or to plague while it is idle."""
    return store._writer._committer._connection


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """Where a log may be made."""
    return tmp_path / "vm.db"


@pytest.mark.parametrize(("name", "level"), [("OFF", 0), ("NORMAL", 1), ("FULL", 2), ("EXTRA", 3)])
async def test_durability_is_what_was_asked_for(path: Path, name: str, level: int):
    """WAL and the named level of synchronous are in force on the connection that writes."""
    async with SqliteStore(path, CODEC, synchronous=name) as store:
        assert writing(store).pragma("journal_mode") == "wal"
        assert writing(store).pragma("synchronous") == level


async def test_full_is_the_default_and_nonsense_is_refused(path: Path):
    """Nobody gets less than FULL without saying so."""
    async with SqliteStore(path, CODEC) as store:
        assert writing(store).pragma("synchronous") == 2
    with pytest.raises(StoreError, match="synchronous is one of OFF, NORMAL, FULL, EXTRA, not 'full'"):
        SqliteStore(path, CODEC, synchronous="full")


@pytest.mark.parametrize("inline_ms", ["5", None, True, -1, float("nan")])
def test_a_time_that_is_none_is_refused(path: Path, inline_ms: Any):
    """Before the log is opened."""
    with pytest.raises(StoreError, match="inline_ms is a number of milliseconds, 0 or more, not"):
        SqliteStore(path, CODEC, inline_ms=inline_ms)


@pytest.mark.parametrize("inline_ms", [0, 0.5, 10**400, float("inf")], ids=["never", "half", "huge", "always"])
async def test_any_time_may_be_called_quick(path: Path, inline_ms: float):
    """From never to always."""
    async with SqliteStore(path, CODEC, inline_ms=inline_ms) as store:
        await store.append("web-1", drafts(b"0"), expected=-1)
        assert store._writer._pace.quick == (inline_ms > 1)


async def test_256_tasks_on_64_streams_share_their_commits(path: Path):
    """Under a crowd everything lands, gapless, in far fewer transactions than appends; losers of a race try again."""
    commits = 0

    def count() -> bool:
        nonlocal commits
        commits += 1
        return False

    async def work(vm: str) -> None:
        done = 0
        while done < 4:
            end = await store.stream(vm)
            try:
                await store.append(vm, drafts(b"x"), expected=end.revision if end else -1)
            except Conflict:
                continue
            done += 1

    async with SqliteStore(path, CODEC) as store:
        writing(store).set_commit_hook(count)
        async with anyio.create_task_group() as group:
            for n in range(256):
                group.start_soon(work, f"vm-{n % 64}")
        records = await store.read_all(limit=2000)
        assert [record.position for record in records] == list(range(1, 1025))
        assert [head.revision for head in await store.streams()] == [15] * 64
        assert verify(store.reader()).good == 1024
    assert commits < 512


async def test_a_conflict_in_a_shared_commit_costs_only_its_own(path: Path):
    """Appends, retries, conflicts and empty ones in one transaction: each gets the answer it would get alone."""
    async with SqliteStore(path, CODEC) as store:
        twice = drafts(b"twice")
        answers: dict[str, object] = {}

        async def append(name: str, vm: str, batch: list, expected: int) -> None:
            try:
                answers[name] = [record.position for record in await store.append(vm, batch, expected=expected)]
            except Conflict:
                answers[name] = "conflict"

        async with anyio.create_task_group() as group:
            group.start_soon(append, "first", "a", twice, -1)
            group.start_soon(append, "other", "b", drafts(b"x"), 5)
            group.start_soon(append, "again", "a", twice, -1)
            group.start_soon(append, "late", "a", drafts(b"x"), -1)
            group.start_soon(append, "next", "a", drafts(b"y", b"z"), 0)
            group.start_soon(append, "none", "a", [], 2)
        positions = sorted(r.position for r in await store.read_all())
        assert positions == list(range(1, len(positions) + 1))
        assert answers["first"] == answers["again"]
        assert answers["other"] == "conflict"
        assert verify(store.reader()).ok


async def test_a_retry_is_answered_from_the_log(path: Path):
    """Ids say what was asked for before; what stands is what was written then, whatever is handed in now."""
    async with SqliteStore(path, CODEC) as store:
        [draft] = drafts(b"then")
        [record] = await store.append("web-1", [draft], expected=-1)
        again = await store.append("web-1", [Draft(event=b"now", id=draft.id, time_ns=5)], expected=-1)
        assert again == [record]


async def test_a_log_has_one_writer_and_any_number_of_followers(path: Path):
    """Of two stores on one file the first to append is the writer; the other sees its appends and is woken by them."""
    async with SqliteStore(path, CODEC) as one, SqliteStore(path, CODEC) as two:
        await one.append("web-1", drafts(b"0"), expected=-1)
        with pytest.raises(Rejected, match=rf"vm\.db has its writer, process {os.getpid()} \(.*one at a time"):
            await two.append("web-1", drafts(b"1"), expected=0)
        await one.append("web-1", drafts(b"2"), expected=0)
        woken: list[int] = []

        async def wait() -> None:
            woken.append(await two.wait_past(2))

        with anyio.fail_after(10):
            async with anyio.create_task_group() as group:
                group.start_soon(wait)
                group.start_soon(wait)
                await anyio.wait_all_tasks_blocked()
                await one.append("db-1", drafts(b"3"), expected=-1)
        assert woken == [3, 3]
        assert [r.event for r in await two.read_all()] == [b"0", b"2", b"3"]
        await one.aclose()
        [record] = await two.append("web-1", drafts(b"4"), expected=1)
        assert record.position == 4
        assert verify(two.reader()).good == 4


WRITER = """
import sys, anyio
from esrm.stores.sqlite import SqliteStore
from esrm.testing import BytesCodec, drafts

async def main():
    async with SqliteStore(sys.argv[1], BytesCodec(), synchronous="OFF") as store:
        for n in range(100):
            await store.append("web-1", drafts(b"theirs"), expected=n - 1)
        if sys.argv[2:]:
            print("ready", flush=True)
            sys.stdin.readline()

anyio.run(main)
"""


async def test_a_second_writing_process_is_refused_by_name(path: Path):
    """Who asks is told which process writes, sees all that it wrote, and takes over once it is gone."""
    with subprocess.Popen(  # noqa: ASYNC220  its start blocks nobody
        [sys.executable, "-c", WRITER, str(path), "stay"], stdin=-1, stdout=-1, text=True, env=_environment()
    ) as process:
        assert process.stdout is not None
        await to_thread.run_sync(process.stdout.readline)
        async with SqliteStore(path, CODEC) as store:
            with pytest.raises(Rejected, match=rf"process {process.pid} \(-c .*vm\.db stay\)"):
                await store.append("web-1", drafts(b"ours"), expected=99)
            assert [record.position async for record in store.subscribe(until=100)] == list(range(1, 101))
            process.kill()
            process.wait()
            [record] = await store.append("web-1", drafts(b"ours"), expected=99)
            assert record.position == 101
            assert verify(store.reader()).good == 101


def test_a_reader_in_this_process_of_a_writer_in_another(path: Path):
    """A reader only ever sees whole batches in order, while the writer writes, and needs no event loop."""
    with subprocess.Popen([sys.executable, "-c", WRITER, str(path)], env=_environment()) as process:
        seen = 0
        while process.poll() is None or seen < 100:
            try:
                with SqliteReader(path, CODEC) as reader:
                    records = reader.read("web-1")
            except StoreError:
                continue  # not there, or empty, yet
            assert [record.revision for record in records] == list(range(len(records)))
            assert len(records) >= seen
            seen = len(records)
        assert process.returncode == 0


async def test_readers_do_not_wait_for_a_writer(path: Path):
    """While another process's transaction is open, reading goes on; appending waits, then says why it cannot."""
    async with SqliteStore(path, CODEC, busy_ms=20) as store:
        await store.append("web-1", drafts(b"0"), expected=-1)
        other = raw(path)
        other.execute("BEGIN IMMEDIATE; INSERT INTO streams VALUES (77, 'half')")
        assert [r.event for r in await store.read_all()] == [b"0"]
        assert len(await store.streams()) == 1
        with pytest.raises(StoreError, match=r"vm\.db: another process keeps it locked"):
            await store.append("web-1", drafts(b"1"), expected=0)
        other.execute("ROLLBACK")
        other.close()
        await store.append("web-1", drafts(b"1"), expected=0)


async def test_a_full_disk_rolls_back_and_says_so(path: Path):
    """When the disk is full nothing of the batch stands, every caller hears why, and with room again work goes on."""
    errors: list[str] = []

    async def append(vm: str, size: int) -> None:
        try:
            await store.append(vm, drafts(*[b"x" * 10_000] * size), expected=-1)
        except StoreError as error:
            errors.append(str(error))

    async with SqliteStore(path, CODEC) as store:
        await store.append("web-1", drafts(b"0"), expected=-1)
        pages = writing(store).pragma("page_count")
        writing(store).pragma("max_page_count", pages + 20)
        async with anyio.create_task_group() as group:
            for n in range(3):
                group.start_soon(append, f"vm-{n}", 100)
        assert len(errors) == 3
        assert all("the disk is full; make room" in error for error in errors)
        assert [r.event for r in await store.read_all()] == [b"0"]
        writing(store).pragma("max_page_count", 1_000_000)
        [record] = await store.append("vm-0", drafts(b"1"), expected=-1)
        assert (record.position, record.revision) == (2, 0)
        assert verify(store.reader()).good == 2


async def test_any_bytes_come_back(path: Path):
    """The text column keeps bytes that are no text: zeros, broken UTF-8."""
    events = [b"\0", b"a\0b", b"\xff\xfe", bytes(range(256)), b""]
    async with SqliteStore(path, CODEC) as store:
        await store.append("web-1", drafts(*events), expected=-1)
        assert [record.event for record in await store.read("web-1")] == events
        assert verify(store.reader()).good == 5


async def test_pages_join_without_a_seam(path: Path, monkeypatch: pytest.MonkeyPatch):
    """However few rows are read at once, each comes once and in order, as far as was asked for."""
    async with SqliteStore(path, CODEC) as store:
        for n in range(6):
            await store.append("web-1", drafts(b"w%d" % n), expected=n - 1)
            await store.append("db-1", drafts(b"d%d" % n), expected=n - 1)
    monkeypatch.setattr(reader_module, "PAGE", 2)
    with SqliteReader(path, CODEC) as reader:
        assert [row[0] for row in reader.rows()] == list(range(1, 13))
        assert [row[0] for row in reader.rows(after=3, limit=5)] == [4, 5, 6, 7, 8]
        assert [row[2] for row in reader.rows("db-1")] == list(range(6))
        assert [row[2] for row in reader.rows("db-1", after=0, limit=3)] == [1, 2, 3]
        assert list(reader.rows(limit=0)) == []
        assert [leaf[3] for leaf in reader.payloads("web-1")] == [b"w%d" % n for n in range(6)]
        names = {name: key for key, name in reader.names().items()}
        whole = [[(leaf[0], leaf[1]) for leaf in page] for page in reader.pages()]
        assert [position for page in whole for position, _ in page] == list(range(1, 13))
        assert {key for page in whole for _, key in page} == {names["web-1"], names["db-1"]}
        assert max(map(len, whole)) == 2
        assert [leaf[3] for page in reader.pages(until=3) for leaf in page] == [b"w0", b"d0", b"w1"]
        shares = [[leaf[0] for page in reader.pages(share=n, shares=2) for leaf in page] for n in range(2)]
        assert sorted(shares) == [list(range(1, 12, 2)), list(range(2, 13, 2))]


async def test_a_reader_is_lent_again(path: Path):
    """Opening one takes longer than most questions; a closed store leaves none open, not even one that was lent."""
    begun, gate = threading.Event(), threading.Event()

    def slow(reader: Reader[bytes]) -> Reader[bytes]:
        begun.set()
        gate.wait(10)
        return reader

    async with SqliteStore(path, CODEC) as store:
        first = await store.ask(lambda reader: reader)
        assert await store.ask(lambda reader: reader) is first
        lent: list[Reader[bytes]] = []

        async def ask() -> None:
            lent.append(await store.ask(slow))

        async with anyio.create_task_group() as group:
            group.start_soon(ask)
            await to_thread.run_sync(begun.wait, 10)
            await store.aclose()
            gate.set()
        assert lent == [first]
        assert (repr(first), repr(store)) == (f"<SqliteReader of {path}, closed>", f"<SqliteStore {path}, closed>")
        assert store._idle == deque()


async def test_a_cancelled_close_closes(path: Path):
    """Whoever leaves the store because of a timeout leaves no thread and no lock behind."""
    with anyio.CancelScope() as scope:
        async with SqliteStore(path, CODEC) as store:
            await store.append("web-1", drafts(b"0"), expected=-1)
            assert all(thread.daemon for thread in threading.enumerate() if "vm.db" in thread.name)
            scope.cancel()
    assert not [thread for thread in threading.enumerate() if "vm.db" in thread.name]
    async with SqliteStore(path, CODEC) as store:
        await store.append("web-1", drafts(b"1"), expected=0)


async def test_who_waited_leaves_no_trace(path: Path):
    """The thread looks for other processes' appends while somebody waits, and only then; waiting can be cancelled."""
    async with SqliteStore(path, CODEC) as store:
        assert store._writer._waiting == 0
        async with anyio.create_task_group() as group:
            group.start_soon(store.wait_past, 0)
            group.start_soon(store.wait_past, 0)
            await anyio.wait_all_tasks_blocked()
            assert store._writer._waiting == 2
            await store.append("web-1", drafts(b"0"), expected=-1)
        assert store._writer._waiting == 0
        for position in (0, 1):  # one that is there already, and one that is not
            with anyio.CancelScope() as scope:
                scope.cancel()
                await store.wait_past(position)
            assert scope.cancelled_caught
        assert store._writer._waiting == 0


async def test_nothing_is_left_beside_the_file(path: Path):
    """After the last close, whoever closes last, the WAL is folded back and gone."""
    async with SqliteStore(path, CODEC) as store:
        await store.append("web-1", drafts(b"0"), expected=-1)
        await store.read_all()
        assert os.stat(f"{path}-wal").st_size > 0
        late = store.reader()
    assert os.stat(f"{path}-wal").st_size == 0
    assert late.head() == 1
    late.close()
    late.close()
    assert sorted(os.listdir(path.parent)) == ["vm.db", "vm.db-head"]
    with SqliteReader(path, CODEC) as reader:
        assert reader.head() == 1
    assert sorted(os.listdir(path.parent)) == ["vm.db", "vm.db-head"]


async def test_closing_finishes_what_was_handed_in(path: Path, monkeypatch: pytest.MonkeyPatch):
    """Appends that wait when the store is closed are written and answered first."""
    answers: list[int] = []

    async def append(n: int) -> None:
        [record] = await store.append(f"vm-{n}", drafts(b"x"), expected=-1)
        answers.append(record.position)

    async with SqliteStore(path, CODEC) as store:
        gate, commit = threading.Event(), store._writer._committer.commit
        monkeypatch.setattr(store._writer._committer, "commit", lambda appends: gate.wait(10) and commit(appends))
        async with anyio.create_task_group() as group:
            for n in range(20):
                group.start_soon(append, n)
            await anyio.wait_all_tasks_blocked()
            group.start_soon(store.aclose)
            await anyio.wait_all_tasks_blocked()
            assert answers == []
            gate.set()
    assert sorted(answers) == list(range(1, 21))
    assert not [thread for thread in threading.enumerate() if "vm.db" in thread.name]


async def test_a_store_stays_in_its_loop(path: Path):
    """Another thread's loop is told so at once, instead of waiting for an answer that goes elsewhere."""
    async with SqliteStore(path, CODEC) as store:

        def elsewhere() -> None:
            with pytest.raises(StoreError, match="opened in another process or event loop"):
                anyio.run(store.head)

        await to_thread.run_sync(elsewhere)
    with pytest.raises(StoreError, match="is not open: use it inside `async with`"):
        await SqliteStore(path, CODEC).head()


async def test_a_fork_does_not_inherit_the_store(path: Path):
    """In a forked child neither store nor reader works, nor a new one: SQLite's locks stayed with the parent."""
    async with SqliteStore(path, CODEC) as store:
        await store.append("web-1", drafts(b"0"), expected=-1)
        with store.reader() as reader:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", DeprecationWarning)  # forking beside threads is what is tested
                child = os.fork()
            if child == 0:
                os._exit(_refusals_in_child(store, reader))
            assert _exit_code(child) == 4
            assert reader.head() == 1


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # forking beside threads
def test_what_was_closed_before_a_fork_can_be_opened_in_the_child(path: Path, tmp_path: Path):
    """Also what was only let go, and another log that has come to the same place."""
    for name in ("closed", "dropped", "other"):
        log = schema.located(tmp_path / name)
        schema.open_writer(log, "FULL", 0).close() if name == "dropped" else schema.close(
            schema.open_writer(log, "FULL", 0), log
        )
    held = SqliteReader(tmp_path / "other", CODEC)
    (tmp_path / "other").rename(tmp_path / "moved")
    schema.close(schema.open_writer(tmp_path / "other", "FULL", 0), tmp_path / "other")
    child = os.fork()
    if child == 0:
        opened = 0
        for name in ("closed", "dropped", "other", "moved"):
            try:
                SqliteReader(tmp_path / name, CODEC).close()
                opened += 1
            except StoreError as error:
                opened += 10 * (name == "moved" and "was open when this process was forked" in str(error))
        os._exit(opened)
    assert _exit_code(child) == 13
    held.close()


def _exit_code(child: int) -> int:
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def _refusals_in_child(store: SqliteStore[bytes], reader: SqliteReader[bytes]) -> int:
    refused = 0
    try:
        reader.head()
    except StoreError:
        refused += 1
    try:
        store.append("web-1", [], expected=0).send(None)
    except StoreError:
        refused += 1
    reader.close()
    for begin in (lambda: SqliteReader(store._path, CODEC), lambda: schema.open_writer(store._path, "FULL", 0)):
        try:
            begin()
        except StoreError as error:
            refused += "was open when this process was forked" in str(error)
    return refused


async def test_who_waits_is_told_when_looking_fails(path: Path, monkeypatch: pytest.MonkeyPatch):
    """A disk that fails while somebody waits for other processes' appends does not leave them waiting for ever."""

    def fail() -> None:
        raise StoreError("the disk failed")

    async with SqliteStore(path, CODEC) as store:
        with monkeypatch.context() as patch:
            patch.setattr(store._writer._committer, "look", fail)
            with anyio.fail_after(10), pytest.raises(StoreError, match="the disk failed"):
                await store.wait_past(0)
        await store.append("web-1", drafts(b"0"), expected=-1)
        assert await store.wait_past(0) == 1


async def test_a_fault_while_looking_is_told(path: Path, monkeypatch: pytest.MonkeyPatch):
    """Whatever it is: the thread lives on, and appends go on."""
    async with SqliteStore(path, CODEC) as store:
        with monkeypatch.context() as patch:
            patch.setattr(store._writer._committer, "look", lambda: 1 / 0)
            with anyio.fail_after(10), pytest.raises(StoreError, match="cannot look at the log: ZeroDivisionError"):
                await store.wait_past(0)
        await store.append("web-1", drafts(b"0"), expected=-1)


async def test_an_error_in_the_writer_reaches_the_caller(path: Path, monkeypatch: pytest.MonkeyPatch):
    """Whatever goes wrong in the writing thread is an answer, and the thread lives on."""
    async with SqliteStore(path, CODEC) as store:
        with monkeypatch.context() as patch:
            patch.setattr(store._writer._committer, "_settle", lambda _: 1 / 0)
            with pytest.raises(StoreError, match="the writer failed: ZeroDivisionError"):
                await store.append("web-1", drafts(b"0"), expected=-1)
        assert [r.position for r in await store.append("web-1", drafts(b"0"), expected=-1)] == [1]


@pytest.mark.parametrize(
    ("edit", "position", "words"),
    [
        ("UPDATE records SET data = '7' WHERE position = 4", 4, "hash to"),
        ("UPDATE records SET actor = 'mallory' WHERE position = 4", 4, "hash to"),
        ("UPDATE records SET time_ns = time_ns + 1 WHERE position = 4", 4, "hash to"),
        ("UPDATE records SET id = zeroblob(16) WHERE position = 4", 4, "hash to"),
        ("UPDATE records SET hash = zeroblob(32) WHERE position = 4", 4, "hash to"),
        ("UPDATE records SET hash = x'00' WHERE position = 4", 4, "hash to"),
        ("UPDATE records SET actor = CAST(x'ff' AS TEXT) WHERE position = 4", 4, "a column holds what no store writes"),
        ("UPDATE records SET revision = 9 WHERE position = 4", 4, "has revision 9"),
        ("UPDATE records SET position = 99 WHERE position = 4", 4, "missing; the next record has position 5"),
        ("DELETE FROM records WHERE position = 4", 4, "missing; the next record has position 5"),
        ("UPDATE streams SET name = 'db-2' WHERE name = 'db-1'", 2, "hash to"),
        ("DELETE FROM streams WHERE name = 'db-1'", 2, "the record belongs to no VM"),
    ],
)
async def test_verify_finds_an_edited_row(path: Path, edit: str, position: int, words: str):
    """Somebody with SQLite and the will to take the triggers out changes a row: verify names it."""
    async with SqliteStore(path, CODEC) as store:
        for n in range(4):
            await store.append("web-1", drafts(b"%d" % n), expected=n - 1)
            await store.append("db-1", drafts(b"%d" % n), expected=n - 1)
    other = raw(path)
    with pytest.raises(apsw.ConstraintError, match="append-only"):
        other.execute(edit)
    for (trigger,) in other.execute("SELECT name FROM sqlite_schema WHERE type = 'trigger'").fetchall():
        other.execute(f"DROP TRIGGER {trigger}")
    other.execute(edit)
    other.close()
    with SqliteReader(path, CODEC) as reader:
        verdict = verify(reader)
    assert isinstance(verdict.fault, Fault)
    assert verdict.fault.position == position
    assert verdict.good == position - 1
    assert words in verdict.fault.what


async def test_damage_found_while_reading_is_corrupt(path: Path):
    """A page overwritten by something else is ``Corrupt`` when it is read, and verify says how far the log is good."""
    async with SqliteStore(path, CODEC) as store:
        await store.append("web-1", drafts(*[b"x" * 3000] * 50), expected=-1)
    with path.open("r+b") as file:  # closed everywhere, so opening it ourselves harms no lock
        file.seek(30 * 4096)
        file.write(b"\xff" * 4096)
    with SqliteReader(path, CODEC) as reader:
        with pytest.raises(Corrupt, match="the file is damaged or cut short"):
            list(reader.rows())
        verdict = verify(reader)
    assert 10 < verdict.good < 50
    assert "damaged" in str(verdict.fault)


async def test_a_text_that_is_none_comes_as_bytes(path: Path):
    """A row with bytes that are not UTF-8 can be looked at, and the rows around it; but it is no record."""
    async with SqliteStore(path, CODEC) as store:
        await store.append("web-1", drafts(b"0", b"1", b"2", actor="\u00e4"), expected=-1)
        other = raw(path)
        other.execute("DROP TRIGGER records_are_never_changed")
        other.execute("UPDATE records SET actor = CAST(x'ff' AS TEXT) WHERE position = 2")
        other.execute("INSERT INTO streams VALUES (7, CAST(x'ff' AS TEXT))")
        other.close()
        with store.reader() as reader:
            assert [row[5] for row in reader.rows()] == ["\u00e4", b"\xff", "\u00e4"]
            assert [row[5] for row in reader.rows("web-1")] == ["\u00e4", b"\xff", "\u00e4"]
            assert [payload[3] for payload in reader.payloads("web-1")] == [b"0", b"1", b"2"]
            assert reader.names() == {1: "web-1", 7: "\\xff"}
        assert len(await store.read("web-1", limit=1)) == 1
        with pytest.raises(Corrupt, match="position 2 has a column that holds what no store wrote"):
            await store.read("web-1")


async def test_a_row_that_no_store_wrote_is_corrupt(path: Path):
    """What the codec cannot read is named by its place."""

    class Codec(BytesCodec):
        def decode(self, data: bytes, /) -> bytes:
            if data == b"1":
                raise Corrupt("not an event")
            return data

    async with SqliteStore(path, Codec()) as store:
        await store.append("web-1", drafts(b"0", b"1"), expected=-1)
        assert len(await store.read("web-1", limit=1)) == 1
        with pytest.raises(Corrupt, match=r"web-1@1 \(position 2\): not an event"):
            await store.read("web-1")


def test_reading_loads_no_event_loop():
    """The command line's way in stays light."""
    code = """
import sys
from esrm.stores.sqlite import SqliteReader
loaded = {"anyio", "asyncio", "trio"} & set(sys.modules)
sys.exit(f"loaded {loaded}" if loaded else 0)
"""
    subprocess.run([sys.executable, "-c", code], env=_environment(), check=True)


def _environment() -> dict[str, str]:
    """This one, with our package where the child finds it."""
    import esrm

    return {**os.environ, "PYTHONPATH": str(Path(esrm.__file__).parent.parent)}


async def test_closing_finishes_a_turn_that_waits_for_another(path: Path, monkeypatch: pytest.MonkeyPatch):
    """What came while a transaction was running is written and answered too."""
    answers: dict[str, int] = {}

    async def append(vm: str) -> None:
        [record] = await store.append(vm, drafts(b"x"), expected=-1)
        answers[vm] = record.position

    async with SqliteStore(path, CODEC) as store:
        gate, commit = threading.Event(), store._writer._committer.commit
        monkeypatch.setattr(store._writer._committer, "commit", lambda appends: gate.wait(10) and commit(appends))
        with anyio.fail_after(20):
            async with anyio.create_task_group() as group:
                group.start_soon(append, "first")
                await anyio.wait_all_tasks_blocked()
                group.start_soon(append, "second")
                await anyio.wait_all_tasks_blocked()
                group.start_soon(store.aclose)
                await anyio.wait_all_tasks_blocked()
                gate.set()
    assert answers == {"first": 1, "second": 2}


async def test_a_closed_reader_says_so(path: Path):
    """Whatever is asked of it."""
    async with SqliteStore(path, CODEC) as store:
        await store.append("web-1", drafts(b"0"), expected=-1)
    reader = SqliteReader(path, CODEC)
    reader.close()
    with pytest.raises(StoreError, match=r"SqliteReader of .*vm\.db, closed> is closed"):
        reader.head()
