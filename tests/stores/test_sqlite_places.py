"""Opening: each wrong place or file gets a message that says what it is and what to do, and is left as it was."""

from __future__ import annotations

import os
import shutil
import sqlite3
import tempfile
import threading
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path

import anyio
import apsw
import pytest
from users import ordinary_user

from esrm.errors import Corrupt, StoreError
from esrm.stores.sqlite import SqliteReader, SqliteStore, schema
from esrm.stores.sqlite.schema import APPLICATION_ID, open_writer
from esrm.testing import BytesCodec, drafts

CODEC = BytesCodec()


def write(path: Path, *events: bytes) -> None:
    """Make a log with these events, and close it."""

    async def main() -> None:
        async with SqliteStore(path, CODEC) as store:
            await store.append("web-1", drafts(*events), expected=-1)

    anyio.run(main)


def foreign(path: Path) -> None:
    """Another program's database."""
    with sqlite3.connect(path) as connection:
        connection.execute("CREATE TABLE urls (url TEXT)")
    connection.close()


def marked(path: Path, application_id: int, version: int) -> None:
    """A database without tables, but with another program's marks."""
    with sqlite3.connect(path) as connection:
        connection.execute(f"PRAGMA application_id = {application_id}")
        connection.execute(f"PRAGMA user_version = {version}")
    connection.close()


def newer(path: Path) -> None:
    """A log of a later version."""
    write(path, b"0")
    with sqlite3.connect(path) as connection:
        connection.execute("PRAGMA user_version = 2")
    connection.close()


def truncated(path: Path) -> None:
    """A log that lost its second half."""
    write(path, *[b"x" * 3000] * 50)
    os.truncate(path, path.stat().st_size // 2)


def gutted(path: Path) -> None:
    """A log that lost a table."""
    write(path, b"0")
    with sqlite3.connect(path) as connection:
        connection.executescript("DROP TRIGGER records_are_never_deleted; DROP TABLE records; DROP VIEW log")
    connection.close()


WRONG: list[tuple[str, Callable[[Path], object], str]] = [
    ("foreign", foreign, r"is another program's SQLite database \(application id 0x0, tables: urls\)"),
    ("application id", lambda path: marked(path, 0x47504B47, 0), r"application id 0x47504b47, tables: none"),
    ("user version", lambda path: marked(path, 0, 3), r"is another program's SQLite database"),
    ("newer", newer, r"written by a newer esrm \(log format 2; this one knows 1\): upgrade esrm"),
    ("text", lambda path: path.write_text("[net]\nname = web\n" * 100), r"this is not an SQLite database"),
    ("short text", lambda path: path.write_text("x"), r"this is not an SQLite database"),
    ("truncated", truncated, r"the file is damaged or cut short; keep it as it is"),
    ("only a header", lambda path: path.write_bytes(b"SQLite format 3\0"), r"this is not an SQLite database"),
    ("directory", lambda path: path.mkdir(), r"is a directory; a log is one file, such as .*vm\.db/vm\.db"),
    ("pipe", os.mkfifo, r"is not a regular file"),
]


@pytest.mark.parametrize(("make", "words"), [pytest.param(*rest, id=name) for name, *rest in WRONG])
async def test_what_is_no_log_is_refused_and_left_alone(tmp_path: Path, make: Callable[[Path], object], words: str):
    """Writer and reader say the same about it, and not a byte of it changes."""
    path = tmp_path / "vm.db"
    await anyio.to_thread.run_sync(make, path)
    before = path.read_bytes() if path.is_file() else None
    with pytest.raises(StoreError, match=words):
        async with SqliteStore(path, CODEC):
            pass
    with pytest.raises(StoreError, match=words):
        SqliteReader(path, CODEC)
    assert {*os.listdir(tmp_path)} <= {"vm.db", "vm.db-head"}
    assert before is None or path.read_bytes() == before


async def test_a_missing_file_is_made_by_a_writer_and_never_by_a_reader(tmp_path: Path):
    """Looking creates nothing; the message says that it is not there."""
    path = tmp_path / "vm.db"
    with pytest.raises(StoreError, match=r"vm\.db does not exist; reading does not create it"):
        SqliteReader(path, CODEC)
    assert not path.exists()
    async with SqliteStore(path, CODEC) as store:
        assert await store.head() == 0
    with sqlite3.connect(path) as connection:
        assert connection.execute("PRAGMA application_id").fetchone() == (APPLICATION_ID,)
        assert connection.execute("PRAGMA user_version").fetchone() == (1,)
    connection.close()


async def test_an_empty_file_becomes_a_log(tmp_path: Path):
    """As left by ``mktemp`` or a touch: a writer begins it, a reader says it is empty."""
    path = tmp_path / "vm.db"
    path.touch()
    with pytest.raises(StoreError, match="is empty: nothing was ever recorded in it"):
        SqliteReader(path, CODEC)
    async with SqliteStore(path, CODEC) as store:
        await store.append("web-1", drafts(b"0"), expected=-1)
        assert await store.head() == 1


async def test_a_missing_folder_is_named(tmp_path: Path):
    """The folder is for the user to make."""
    with pytest.raises(StoreError, match=r"there is no directory .*/logs; create it first"):
        async with SqliteStore(tmp_path / "logs" / "vm.db", CODEC):
            pass
    with pytest.raises(StoreError, match="use memory:"):
        async with SqliteStore(":memory:", CODEC):
            pass


@pytest.mark.parametrize("name", ["half\udc80.db", "nul\0.db", "x" * 300, "\ud800"])
async def test_a_name_that_no_file_can_have_is_refused(tmp_path: Path, name: str):
    """Bytes that are no UTF-8, a zero, a name that is too long: a StoreError, not a crash."""
    with pytest.raises(StoreError):
        async with SqliteStore(tmp_path / name, CODEC):
            pass
    with pytest.raises(StoreError):
        SqliteReader(tmp_path / name, CODEC)


async def test_a_log_without_its_tables_is_refused_when_used(tmp_path: Path):
    """Marked as ours, but not whole: the message says what SQLite misses."""
    path = tmp_path / "vm.db"
    await anyio.to_thread.run_sync(gutted, path)
    with pytest.raises(StoreError, match=r"its tables are not those of an esrm log \(SQLError: no such table"):
        async with SqliteStore(path, CODEC):
            pass


async def test_a_place_without_wal_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Where SQLite answers the wish for WAL with another journal, as on some network file systems, nothing begins."""
    connect = apsw.Connection
    monkeypatch.setattr(apsw, "Connection", lambda *_, **__: connect(":memory:"))
    with pytest.raises(StoreError, match=r"cannot do WAL \(journal mode stays memory\); use a local disk"):
        async with SqliteStore(tmp_path / "vm.db", CODEC):
            pass


@pytest.fixture
def public() -> Iterator[Path]:
    """A folder that an ordinary user can reach."""
    with tempfile.TemporaryDirectory() as name:
        os.chmod(name, 0o755)
        yield Path(name)
        os.chmod(name, 0o755)


async def test_a_read_only_place_can_be_read_and_not_written(public: Path):
    """On read-only media, or for another user: a closed log reads as it stands, and appending says why not."""
    path = public / "vm.db"
    await anyio.to_thread.run_sync(write, path, b"0", b"1")
    os.chmod(path, 0o444)
    os.chmod(public, 0o555)
    with ordinary_user():
        with SqliteReader(path, CODEC) as reader:
            assert [record.event for record in reader.read_all()] == [b"0", b"1"]
        with pytest.raises(StoreError, match="this user may not write the file or its folder"):
            async with SqliteStore(path, CODEC):
                pass
        with pytest.raises(StoreError, match="cannot be opened; check the permissions"):
            async with SqliteStore(public / "new.db", CODEC):
                pass
    assert sorted(os.listdir(public)) == ["vm.db", "vm.db-head"]


async def test_an_ordinary_user_follows_a_log_that_another_one_writes(public: Path):
    """Who may read but not write sees what the writer appends, while it does."""
    path = public / "vm.db"
    async with SqliteStore(path, CODEC) as store:
        await store.append("web-1", drafts(b"0"), expected=-1)
        os.chmod(public, 0o555)
        with ordinary_user():
            reader = SqliteReader(path, CODEC)
        assert reader.head() == 1
        await store.append("web-1", drafts(b"1"), expected=0)
        assert reader.head() == 2
        reader.close()


async def test_no_permission_to_read_is_named(public: Path):
    """Neither the file nor the folder may be looked into."""
    path = public / "vm.db"
    await anyio.to_thread.run_sync(write, path, b"0")
    os.chmod(path, 0)
    with ordinary_user(), pytest.raises(StoreError, match="cannot be opened; check the permissions"):
        SqliteReader(path, CODEC)
    os.chmod(public, 0)
    with ordinary_user(), pytest.raises(StoreError, match="Permission denied; check the path and its permissions"):
        SqliteReader(path, CODEC)


def test_a_log_that_was_emptied_is_not_begun_anew(tmp_path: Path):
    """Who opens a log that must exist finds a file without a byte: that is no new log, and stays as it is."""
    path = tmp_path / "vm.db"
    path.touch()
    with pytest.raises(StoreError, match="is empty: somebody replaced it while it was open; put the log back"):
        open_writer(path, "FULL", 0, create=False)
    with apsw.Connection(str(path)) as connection:
        assert connection.execute("SELECT count(*) FROM sqlite_schema").fetchall() == [(0,)]


@pytest.mark.parametrize("empty", [True, False], ids=["emptied", "gone"])
async def test_what_is_left_of_a_log_is_not_destroyed(tmp_path: Path, empty: bool):
    """The file was moved away, and its WAL and head were not: nothing begins there, and put back it is all there."""
    path, aside = tmp_path / "vm.db", tmp_path / "aside"
    async with SqliteStore(path, CODEC) as store:
        await store.append("web-1", drafts(b"0", b"1"), expected=-1)
        for name in ("vm.db-wal", "vm.db-head"):
            shutil.copy(tmp_path / name, tmp_path / f"{name}-kept")
        path.rename(aside)
    for name in ("vm.db-wal", "vm.db-head"):
        (tmp_path / f"{name}-kept").replace(tmp_path / name)
    if empty:
        path.touch()
    with pytest.raises(
        Corrupt, match=r"is (gone|empty), but 2 records were acknowledged, says vm\.db-head: put the log"
    ):
        await SqliteStore(path, CODEC).__aenter__()
    (tmp_path / "vm.db-head").rename(tmp_path / "head")
    with pytest.raises(
        StoreError, match=r"is (gone|empty), but the WAL of a log is there, vm\.db-wal: put the log back"
    ):
        await SqliteStore(path, CODEC).__aenter__()
    (tmp_path / "head").rename(tmp_path / "vm.db-head")
    aside.replace(path)
    async with SqliteStore(path, CODEC) as store:
        assert await store.head() == 2


@pytest.mark.parametrize("content", [b"a shopping\nlist\n", b"SQLite format 3\0\xff", b"\n" * 8704 + b"\n"])
async def test_another_file_is_not_taken_for_a_head(tmp_path: Path, content: bytes):
    """Who names a log so that its head file would overwrite another file is told, and the file stays."""
    (tmp_path / "vm.db-head").write_bytes(content)
    with pytest.raises(StoreError, match=r"vm\.db-head is where the head of this log must be, and is no head file"):
        await SqliteStore(tmp_path / "vm.db", CODEC).__aenter__()
    assert os.listdir(tmp_path) == ["vm.db-head"]
    assert (tmp_path / "vm.db-head").read_bytes() == content


async def test_a_log_has_no_name_of_a_file_beside_one(tmp_path: Path):
    """Another log's WAL, or its head, would be called so."""
    for name in ("vm.db-wal", "vm.db-head", "vm.db-cache"):
        with pytest.raises(StoreError, match="the name of a file beside a log"):
            await SqliteStore(tmp_path / name, CODEC).__aenter__()
    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize("name", ["helpful", "records_are_never_changed"], ids=["added", "another's name"])
async def test_nobody_writes_where_a_trigger_may_leave_it_out(tmp_path: Path, name: str):
    """A trigger that esrm did not make can drop a record that was appended; it is refused before the first one."""
    path = tmp_path / "vm.db"
    async with SqliteStore(path, CODEC) as store:
        await store.append("web-1", drafts(b"0"), expected=-1)
    with closing(apsw.Connection(str(path))) as connection:
        connection.execute(f"DROP TRIGGER IF EXISTS {name}")
        connection.execute(f"CREATE TRIGGER {name} BEFORE INSERT ON records BEGIN SELECT raise(IGNORE); END")
    async with SqliteStore(path, CODEC) as store:
        with pytest.raises(Corrupt, match=rf"has triggers that esrm did not make: {name}\. .*drop them"):
            await store.append("web-1", drafts(b"1"), expected=0)
        with closing(apsw.Connection(str(path))) as connection:
            connection.execute(f"DROP TRIGGER {name}")
        [record] = await store.append("web-1", drafts(b"1"), expected=0)
        assert record.position == 2


@pytest.mark.parametrize(("block", "blocks", "fits"), [(1024, 1024, True), (1024, 1023, False), (4096, 1, True)])
def test_how_much_room_is_enough(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, block: int, blocks: int, fits: bool):
    """One MiB where blocks are smaller than a page of memory; where they are not, SQLite's own look is enough."""

    class Place:
        f_bsize = f_frsize = block
        f_bavail = blocks

    monkeypatch.setattr(os, "statvfs", lambda _: Place())
    assert (schema.cramped(tmp_path / "vm.db") is None) == fits
    assert (schema.cramped(tmp_path / "vm.db", 1) is None) == (block >= 4096)


def test_many_begin_one_log_at_once(tmp_path: Path):
    """Whoever comes first makes the tables; nobody fails, nobody makes them twice."""
    failures: list[BaseException] = []

    def begin(path: Path, barrier: threading.Barrier) -> None:
        barrier.wait()
        try:
            open_writer(path, "OFF", 5000).close()
        except BaseException as error:
            failures.append(error)

    for n in range(10):
        barrier = threading.Barrier(8)
        threads = [threading.Thread(target=begin, args=(tmp_path / f"{n}.db", barrier)) for _ in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert failures == []


def test_a_log_that_is_being_made_is_waited_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """SQLite does not wait for the lock that changes the journal mode; so we ask again, as long as we may be busy."""
    real, asked = schema.fetch, list[int]()

    def busy(connection: apsw.Connection, statement: str, *bindings: object) -> list[object]:
        if statement == "PRAGMA journal_mode = wal":
            asked.append(1)
            if len(asked) < patience:
                raise apsw.BusyError("database is locked")
        return real(connection, statement, *bindings)

    monkeypatch.setattr(schema, "fetch", busy)
    patience = 4
    open_writer(tmp_path / "1.db", "OFF", 5000).close()
    assert len(asked) == 4
    patience = 1_000_000
    with pytest.raises(StoreError, match="another process keeps it locked"):
        open_writer(tmp_path / "2.db", "OFF", 20)


async def test_what_is_in_a_wal_is_not_left_out(public: Path):
    """On a read-only place a log is read as it stands only if nothing of it is in a WAL, which cannot be read there."""
    path, left = public / "vm.db", public / "left.db"
    async with SqliteStore(path, CODEC) as store:
        await store.append("web-1", drafts(b"0"), expected=-1)
        for beside in ("", "-wal", "-head"):
            shutil.copy(f"{path}{beside}", f"{left}{beside}")
            os.chmod(f"{left}{beside}", 0o444)
    os.chmod(public, 0o555)
    with ordinary_user(), pytest.raises(StoreError, match="left"):
        SqliteReader(left, CODEC)
