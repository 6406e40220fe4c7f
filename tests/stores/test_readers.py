"""Readers see the log that lies at the path: replaced, restored, or changed where nothing of ours may be written."""

from __future__ import annotations

import os
import resource
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import anyio
import apsw
import pytest
from anyio import to_thread
from users import ordinary_user

import esrm
from esrm.errors import StoreError
from esrm.stores.base import verify
from esrm.stores.sqlite import SqliteReader, SqliteStore
from esrm.stores.sqlite import reader as reader_module
from esrm.testing import BytesCodec, drafts

CODEC = BytesCodec()
FILES = "", "-wal", "-shm", "-head"

WRITER = """
import sys

import anyio

from esrm.stores.sqlite import SqliteStore
from esrm.testing import BytesCodec, drafts


async def main():
    async with SqliteStore(sys.argv[1], BytesCodec()) as store:
        print("open", flush=True)
        while await anyio.to_thread.run_sync(sys.stdin.readline):
            end = await store.stream("web-1")
            [record] = await store.append("web-1", drafts(b"x"), expected=end.revision if end else -1)
            print(record.position, flush=True)


anyio.run(main)
"""


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """Where a log may be made."""
    return tmp_path / "vm.db"


@pytest.fixture
def public() -> Iterator[Path]:
    """A folder that an ordinary user can reach."""
    with tempfile.TemporaryDirectory() as name:
        os.chmod(name, 0o755)
        yield Path(name)


async def write(path: Path, count: int, *, after: int = -1) -> None:
    """Add so many records to a log, and close it."""
    async with SqliteStore(path, CODEC) as store:
        await store.append("web-1", drafts(*[b"x"] * count), expected=after)


async def two_logs(path: Path) -> Path:
    """Make a log of one record, and return another one, elsewhere, that has a second."""
    newer = path.with_name("newer.db")
    await write(path, 1)
    for suffix in ("", "-head"):
        shutil.copy(beside(path, suffix), beside(newer, suffix))
    await write(newer, 1, after=0)
    return newer


def replace(path: Path) -> None:
    """Put a copy of a file in its place."""
    shutil.copy(path, f"{path}-copy")
    os.replace(f"{path}-copy", path)


def remove(path: Path) -> None:
    """Let the file be gone."""
    path.unlink()


def beside(path: Path, suffix: str) -> Path:
    """One of the files of a log."""
    return Path(f"{path}{suffix}")


class Other:
    """A writer in another process, to be used with ``with``."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def __enter__(self) -> Other:
        root = str(Path(esrm.__file__).parents[1])
        self._process = subprocess.Popen(
            [sys.executable, "-c", WRITER, str(self._path)],
            stdin=-1,
            stdout=-1,
            text=True,
            env={**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, [root, os.environ.get("PYTHONPATH")]))},
        )
        assert self._line() == "open"
        return self

    def __exit__(self, *_: object) -> None:
        with self._process as process:
            assert process.stdin is not None
            process.stdin.close()
        assert process.returncode == 0

    def append(self) -> int:
        """Have it append a record; its position."""
        assert self._process.stdin is not None
        self._process.stdin.write("\n")
        self._process.stdin.flush()
        return int(self._line())

    def _line(self) -> str:
        assert self._process.stdout is not None
        return self._process.stdout.readline().strip()


# -- what is replaced --------------------------------------------------------------------------------------------------


async def go_on(store: SqliteStore[bytes]) -> None:
    """Append three records to two, each more than a page of the file."""
    for revision in range(2, 5):
        await store.append("web-1", drafts(b"x" * 9000), expected=revision - 1)


@pytest.mark.parametrize(
    ("suffix", "harm"),
    [("", replace), ("-wal", remove), ("-shm", remove)],
    ids=["log replaced", "WAL removed", "index removed"],
)
async def test_a_store_that_mended_itself_reads_again(path: Path, suffix: str, harm: Callable[[Path], None]):
    """The readers that lay idle meanwhile have other files open; nobody who reads or follows is told of it."""
    async with SqliteStore(path, CODEC) as store:
        await store.append("web-1", drafts(b"0", b"1"), expected=-1)
        assert len(await store.read_all()) == 2
        await to_thread.run_sync(harm, beside(path, suffix))
        await go_on(store)
        assert len(await store.read_all()) == 5
        assert beside(path, "-shm").exists()
        with anyio.fail_after(10):
            assert [record.position async for record in store.subscribe(until=5)] == [1, 2, 3, 4, 5]


@pytest.mark.parametrize(("suffix", "harm"), [("", replace), ("-wal", remove)], ids=["log replaced", "WAL removed"])
async def test_a_reader_that_is_kept_sees_what_the_mended_store_appends(
    path: Path, suffix: str, harm: Callable[[Path], None]
):
    """It opens the new files by itself."""
    async with SqliteStore(path, CODEC) as store:
        await store.append("web-1", drafts(b"0", b"1"), expected=-1)
        with store.reader() as reader:
            assert len(reader.read_all()) == 2
            await to_thread.run_sync(harm, beside(path, suffix))
            await go_on(store)
            assert len(reader.read_all()) == 5
            assert verify(reader).good == 5


async def test_a_restored_log_is_read(path: Path):
    """All files put back from copies while somebody reads: what is appended to those is seen, the old ones are not."""
    await write(path, 3)
    with SqliteReader(path, CODEC) as reader:
        assert reader.head() == 3
        for suffix in ("", "-head"):
            shutil.copy(beside(path, suffix), beside(path, f"{suffix}.bak"))
        for suffix in FILES:
            beside(path, suffix).unlink(missing_ok=True)
        for suffix in ("", "-head"):
            beside(path, f"{suffix}.bak").rename(beside(path, suffix))
        await write(path, 4, after=2)
        assert reader.head() == 7
        assert verify(reader).good == 7


async def test_an_iteration_goes_on_in_the_log_that_replaced_the_other(path: Path, monkeypatch: pytest.MonkeyPatch):
    """Each page asks for what is behind the last one, whichever file it comes from."""
    monkeypatch.setattr(reader_module, "PAGE", 2)
    await write(path, 3)
    with SqliteReader(path, CODEC) as reader:
        rows = reader.rows()
        seen = [next(rows)[0]]
        await to_thread.run_sync(replace, path)
        await write(path, 2, after=2)
        assert seen + [row[0] for row in rows] == [1, 2, 3, 4, 5]


@pytest.mark.parametrize("refused", [False, True])
async def test_a_page_of_a_file_that_is_replaced_meanwhile_is_not_believed(
    path: Path, monkeypatch: pytest.MonkeyPatch, refused: bool
):
    """While SQLite reads it, another log comes: neither what it found nor what it complained of is of that one."""
    newer = await two_logs(path)
    fetch = reader_module.fetch

    def swap(*arguments: Any) -> list[Any]:
        found = fetch(*arguments)
        if newer.exists():
            newer.replace(path)
            if refused:
                raise apsw.CorruptError("what SQLite says of half of this and half of that")
        return found

    with SqliteReader(path, CODEC) as reader:
        monkeypatch.setattr(reader_module, "fetch", swap)
        assert reader.head() == 2


async def test_a_log_that_is_replaced_while_it_is_opened_is_not_the_one_that_is_read(
    path: Path, monkeypatch: pytest.MonkeyPatch
):
    """What lay at the path before counts, not what is found there afterwards."""
    newer = await two_logs(path)
    opening = reader_module.open_reader

    def swap(path: Path) -> apsw.Connection:
        connection = opening(path)
        if newer.exists():
            newer.replace(path)
        return connection

    monkeypatch.setattr(reader_module, "open_reader", swap)
    with SqliteReader(path, CODEC) as reader:
        assert reader.head() == 2


async def test_a_log_that_is_replaced_for_ever_is_refused(path: Path, monkeypatch: pytest.MonkeyPatch):
    """A reader tries again, and not for ever."""
    await write(path, 1)
    fetch = reader_module.fetch

    def swap(*arguments: Any) -> list[Any]:
        found = fetch(*arguments)
        replace(path)
        return found

    with SqliteReader(path, CODEC) as reader:
        monkeypatch.setattr(reader_module, "fetch", swap)
        with pytest.raises(StoreError, match="replaced again and again; read when that is over"):
            reader.head()
        monkeypatch.undo()
        assert reader.head() == 1


async def test_what_is_gone_is_still_read_and_not_made_anew(path: Path):
    """The log, its WAL and the index are open here: reading goes on, and lays no empty WAL where a writer misses it."""
    async with SqliteStore(path, CODEC) as store:
        await store.append("web-1", drafts(b"0"), expected=-1)
        with SqliteReader(path, CODEC) as reader:
            for suffix in ("-wal", "-shm", ""):
                beside(path, suffix).rename(beside(path, f"{suffix}.away"))
                assert reader.head() == 1
            assert not {"vm.db", "vm.db-wal", "vm.db-shm"} & set(os.listdir(path.parent))
            for suffix in ("-wal", "-shm", ""):
                beside(path, f"{suffix}.away").rename(beside(path, suffix))
            await store.append("web-1", drafts(b"1"), expected=0)
            assert reader.head() == 2


async def test_a_log_that_was_put_back_in_place_gets_nothing_of_the_old_wal(path: Path):
    """Somebody copies a backup over the file and removes the WAL; who has that open still does not fold it in."""
    await write(path, 1)
    backup, left = path.with_name("backup"), path.with_name("left")
    shutil.copy(path, backup)
    async with SqliteStore(path, CODEC) as store:
        await store.append("web-1", drafts(b"1"), expected=0)
        left.mkdir()
        for suffix in ("", "-wal"):
            shutil.copy(beside(path, suffix), left)
    with SqliteReader(left / "vm.db", CODEC) as reader:
        assert reader.head() == 2
        for suffix in ("-wal", "-shm"):
            beside(left / "vm.db", suffix).unlink()
        await anyio.run_process(["cp", str(backup), str(left / "vm.db")])
    assert (left / "vm.db").read_bytes() == backup.read_bytes()


async def test_a_link_in_the_place_of_an_open_log_is_not_followed(path: Path):
    """Where it leads there is no WAL of this log: what is in it would be left out without a word."""
    async with SqliteStore(path, CODEC) as store:
        await store.append("web-1", drafts(b"0"), expected=-1)
        with SqliteReader(path, CODEC) as reader:
            away = path.with_name("away.db")
            await to_thread.run_sync(path.rename, away)
            await to_thread.run_sync(path.symlink_to, away)
            for read in (reader.head, store.reader):
                with pytest.raises(StoreError, match=r"vm\.db was replaced by a symbolic link while it was open; put"):
                    read()
            away.replace(path)
            assert reader.head() == await store.head() == 1
    assert sorted(os.listdir(path.parent)) == ["vm.db", "vm.db-head"]


async def test_a_closed_reader_stays_closed(path: Path):
    """It opens nothing anew."""
    await write(path, 1)
    reader = SqliteReader(path, CODEC)
    reader.close()
    await to_thread.run_sync(replace, path)
    with pytest.raises(StoreError, match="closed"):
        reader.head()


# -- where nothing may be written --------------------------------------------------------------------------------------


@pytest.mark.parametrize("running", [False, True], ids=["before the writer", "while the WAL is empty"])
def test_who_may_only_read_sees_what_another_process_appends(public: Path, running: bool):
    """Read as it stands, the log is looked at after each page: nobody stays with what was there when they came."""
    path = public / "vm.db"
    anyio.run(write, path, 1)
    with ordinary_user():
        early = SqliteReader(path, CODEC)
        assert early.head() == 1
    with Other(path) as other:
        with ordinary_user():
            reader = SqliteReader(path, CODEC) if running else early
            assert reader.head() == 1
        for position in (2, 3):
            assert other.append() == position
            with ordinary_user():
                assert reader.head() == position
                assert len(list(reader.rows())) == position
    with ordinary_user():
        assert reader.head() == early.head() == 3
        early.close()
        reader.close()


def test_who_may_only_read_sees_what_was_appended_between_two_looks(public: Path):
    """A writer came and went: no WAL tells of it, but the log itself has changed."""
    path = public / "vm.db"
    anyio.run(write, path, 1)
    with ordinary_user():
        reader = SqliteReader(path, CODEC)
        assert reader.head() == 1
    with Other(path) as other:
        other.append()
    assert not beside(path, "-wal").exists()
    with ordinary_user(), reader:
        assert reader.head() == 2


def test_who_lacks_descriptors_does_not_read_as_if_nobody_wrote(path: Path):
    """SQLite cannot open a file, for whatever reason: only where nothing may be written is the WAL done without."""
    anyio.run(write, path, 1)
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    with Other(path) as other:
        hoard = [os.open(os.devnull, os.O_RDONLY)]
        resource.setrlimit(resource.RLIMIT_NOFILE, (max(map(int, os.listdir("/proc/self/fd"))) + 8, hard))
        try:
            with suppress(OSError):
                while True:
                    hoard.append(os.open(os.devnull, os.O_RDONLY))
            for _ in range(3):  # with none free, with one for the log, with two for that and its WAL
                with pytest.raises(StoreError, match="cannot be opened"):
                    SqliteReader(path, CODEC)
                os.close(hoard.pop())
            reader = SqliteReader(path, CODEC)
        finally:
            resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
            for descriptor in hoard:
                os.close(descriptor)
        with reader:
            other.append()
            assert reader.head() == 2


# -- what is left of a log ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"", r"is empty, but the WAL of a log is there, vm\.db-wal: put the log back"),
        (b"x", r"this is not an SQLite database, .* and deletes its WAL"),
        (b"xy", "this is not an SQLite database"),
        (b"x" * 511, "this is not an SQLite database"),
    ],
    ids=["nothing", "one byte", "two bytes", "half a sector"],
)
async def test_looking_at_an_empty_file_does_not_delete_the_wal(path: Path, content: bytes, words: str):
    """SQLite takes a WAL beside a file without a page for a stale one. What was acknowledged may be in it."""
    left = path.with_name("left")
    left.mkdir()
    async with SqliteStore(path, CODEC) as store:
        await store.append("web-1", drafts(b"0", b"1"), expected=-1)
        for suffix in ("", "-wal"):
            shutil.copy(beside(path, suffix), left)
    log = (left / "vm.db").rename(left / "log")
    wal = (left / "vm.db-wal").read_bytes()
    (left / "vm.db").write_bytes(content)
    with pytest.raises(StoreError, match=words):
        SqliteReader(left / "vm.db", CODEC)
    assert (left / "vm.db-wal").read_bytes() == wal
    log.replace(left / "vm.db")
    with SqliteReader(left / "vm.db", CODEC) as reader:
        assert reader.head() == 2
