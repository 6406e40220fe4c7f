"""The file: its tables, how to know it from other files, and how to open it.

It decides what an esrm log on disk is (an SQLite database in WAL mode with our application id and format number) and
what is said about every file that is none. Separate from reader and writer because both begin here, and because this
page and ``views.sql`` are all that another program needs to read a log. Next: ``reader.py``.

A rule for this folder: nobody opens the database file except through SQLite. POSIX drops *all* of a process's locks on
a file when *any* descriptor of it is closed, so one innocent ``open(path).read()`` could lose the log.
"""

from __future__ import annotations

import os
import re
from collections.abc import Generator
from contextlib import contextmanager, suppress
from pathlib import Path
from stat import S_ISDIR, S_ISREG
from time import monotonic, sleep
from typing import Any
from weakref import WeakKeyDictionary

import apsw

from esrm.errors import Corrupt, EsrmError, StoreError

APPLICATION_ID = 0x6573726D  # "esrm"; `file` and `PRAGMA application_id` show it
FORMAT = 1  # PRAGMA user_version; a higher one was written by a newer esrm

ROOM_BYTES = 1 << 20  # what must be free where blocks are small; see cramped()
SYNCHRONOUS = ("OFF", "NORMAL", "FULL", "EXTRA")  # in the order of PRAGMA synchronous's numbers

TABLES = f"""
CREATE TABLE streams (
    id   INTEGER PRIMARY KEY,
    name TEXT NOT NULL UNIQUE            -- the VM
) STRICT;
CREATE TABLE records (
    position    INTEGER PRIMARY KEY,     -- 1, 2, 3 ... without gaps
    stream      INTEGER NOT NULL,        -- streams.id
    revision    INTEGER NOT NULL,        -- 0, 1, 2 ... without gaps in its stream
    id          BLOB    NOT NULL,        -- UUIDv7, 16 bytes
    time_ns     INTEGER NOT NULL,        -- Unix time in nanoseconds
    actor       TEXT    NOT NULL,
    correlation TEXT    NOT NULL,
    data        TEXT    NOT NULL,        -- the event, as JSON
    hash        BLOB    NOT NULL,        -- 32 bytes; esrm/stores/chain.py says of what
    UNIQUE (stream, revision)
) STRICT;
CREATE TRIGGER records_are_never_changed BEFORE UPDATE ON records BEGIN SELECT raise(ABORT, 'append-only'); END;
CREATE TRIGGER records_are_never_deleted BEFORE DELETE ON records BEGIN SELECT raise(ABORT, 'append-only'); END;
CREATE TRIGGER streams_are_never_changed BEFORE UPDATE ON streams BEGIN SELECT raise(ABORT, 'append-only'); END;
CREATE TRIGGER streams_are_never_deleted BEFORE DELETE ON streams BEGIN SELECT raise(ABORT, 'append-only'); END;
PRAGMA application_id = {APPLICATION_ID};
PRAGMA user_version = {FORMAT};
"""

_TRIGGERS = frozenset(re.findall("CREATE TRIGGER .*END", TABLES))
BESIDE = ("-wal", "-shm", "-journal", "-head", "-cache")  # what is added to a log's name for the files beside it

# One statement, so one moment: another process may be making the tables just now.
_MARKS = """SELECT application_id, user_version, (SELECT group_concat(name, ', ') FROM
    (SELECT name FROM sqlite_schema WHERE type = 'table' LIMIT 4)) FROM pragma_application_id, pragma_user_version"""

_WHAT_TO_DO: tuple[tuple[type[Exception], str], ...] = (
    (apsw.FullError, "the disk is full; make room and try again"),
    (apsw.BusyError, "another process keeps it locked; wait for that one, or stop it, and try again"),
    (apsw.ReadOnlyError, "this user may not write the file or its folder; change the permissions or the place"),
    (apsw.CantOpenError, "it cannot be opened; check the permissions here, and how many files this process has open"),
    (apsw.NotADBError, "this is not an SQLite database, so no esrm log; choose another file"),
    (apsw.CorruptError, "the file is damaged or cut short; keep it as it is, and restore a copy"),
    (apsw.IOError, "the disk or file system failed"),
    (apsw.SQLError, "its tables are not those of an esrm log"),
)


def located(path: str | os.PathLike[str]) -> Path:
    """Return where a log lies, whatever link it was named by: SQLite keeps its WAL there, so we keep its head there."""
    try:
        return Path(os.path.realpath(path))
    except ValueError:  # no file can have such a name: whoever opens it says so
        return Path(os.path.abspath(path))


def fetch(connection: apsw.Connection, statement: str, *bindings: Any) -> list[Any]:
    """Run one statement to its end and return its rows: no read transaction outlives the call."""
    # apsw's types name collections.abc.Buffer, which Python 3.11 has not; so its cursors are partly unknown there.
    return connection.execute(statement, bindings).fetchall()  # pyright: ignore[reportUnknownMemberType, reportUnknownVariableType]


def trouble(path: Path, error: Exception) -> EsrmError:
    """Return what an error of SQLite means to the caller: damaged content is ``Corrupt``, the rest ``StoreError``."""
    if isinstance(error, UnicodeDecodeError):
        return Corrupt(f"{path}: a text in it is not UTF-8, so not what was written ({error})")
    advice = next((words for kind, words in _WHAT_TO_DO if isinstance(error, kind)), "SQLite refused")
    kind = Corrupt if isinstance(error, apsw.CorruptError) else StoreError
    return kind(f"{path}: {advice} ({type(error).__name__}: {error})")


@contextmanager
def translated(path: Path) -> Generator[None]:
    """Raise what SQLite raises in our own words."""
    try:
        yield
    except (apsw.Error, UnicodeDecodeError) as error:
        raise trouble(path, error) from error


@contextmanager
def opening(path: Path) -> Generator[None]:
    """As ``translated``; and a file too damaged to open was never open, which is the place's fault."""
    try:
        with translated(path):
            yield
    except OSError as error:
        raise StoreError(f"{path}: {error.strerror}; check the path and its permissions") from error
    except ValueError as error:
        raise StoreError(f"{str(path)!r:.200} cannot be a file's name here: {error}") from error
    except Corrupt as error:
        raise StoreError(str(error)) from error


def open_writer(path: Path, synchronous: str, busy_ms: int, *, create: bool = True) -> apsw.Connection:
    """Return a connection that may append, to a log that exists from now on.

    It folds the WAL back only when it is told to, even when it is the last one to close.

    Args:
        path: the file.
        synchronous: what a commit waits for.
        busy_ms: how long to wait for another connection's transaction.
        create: whether the file is made if there is none.

    Raises:
        StoreError: the file is not ours, is newer than we are, is damaged, or cannot be written here; or the file
            system cannot do WAL.
    """
    with opening(path):
        status = _check_place(path)
        if status is None:
            if not create:
                raise StoreError(f"{path} is gone: somebody removed or renamed it while it was open; put it back")
            if path.name.endswith(BESIDE):
                raise StoreError(
                    f"{path} has the name of a file beside a log, as all have that end in {', '.join(BESIDE)}: choose "
                    "another one"
                )
        check_not_linked(path)
        if not create and missing(path):
            raise StoreError(f"{path} is empty: somebody replaced it while it was open; put the log back")
        check_not_left(path)
        connection = _opened(path, str(path))
        try:
            connection.set_busy_timeout(busy_ms)
            _leave_folding(connection)
            blank = _is_blank(connection, path)
            if connection.readonly("main"):
                raise apsw.ReadOnlyError("opened read-only")
            _set_durability(connection, path, synchronous, busy_ms)  # only now that we know the file is ours to set
            if blank and not create:
                raise StoreError(f"{path} has nothing in it: somebody replaced it while it was open; put the log back")
            if blank:
                _create(connection, path)
        except BaseException:
            close(connection, path)
            raise
        return connection


def open_reader(path: Path) -> apsw.Connection:
    """Return a connection that only reads an existing log.

    It opens the file for writing where it may, but with ``query_only``: a truly read-only connection leaves empty
    ``-wal`` and ``-shm`` files behind. Where this user may not write, as on read-only media, and no WAL is there, the
    file is read as it stands (``immutable``): SQLite then sees nothing of what others do, so the caller must look
    whether the file has changed, or a WAL has come.

    Raises:
        StoreError: there is no file, or it is not ours, newer than we are, damaged or unreadable.
    """
    with opening(path):
        status = _check_place(path)
        check_not_linked(path)
        check_not_left(path)
        if status is None:
            raise StoreError(f"{path} does not exist; reading does not create it")
        try:
            return _connect(path, str(path), apsw.SQLITE_OPEN_READWRITE)
        except (apsw.ReadOnlyError, apsw.CantOpenError):  # a lack of file descriptors is one of these, too
            if _may_write(path) or missing(Path(f"{path}-wal")) is None:
                raise
            flags = apsw.SQLITE_OPEN_READONLY | apsw.SQLITE_OPEN_URI
            return _connect(path, f"{path.as_uri()}?immutable=1", flags)


def _may_write(path: Path) -> bool:
    """Whether this user may write both the file and its folder."""
    effective = os.access in os.supports_effective_ids
    return all(os.access(place, os.W_OK, effective_ids=effective) for place in (path, path.parent))


def _connect(path: Path, name: str, flags: int) -> apsw.Connection:
    connection = _opened(path, name, flags)
    try:
        connection.set_busy_timeout(5000)  # WAL readers wait only while somebody recovers or closes the log
        _leave_folding(connection)
        fetch(connection, "PRAGMA query_only = 1")
        if _is_blank(connection, path):
            raise StoreError(f"{path} is empty: nothing was ever recorded in it")
    except BaseException:
        close(connection, path)
        raise
    return connection


def _leave_folding(connection: apsw.Connection) -> None:
    """Fold the WAL back neither inside whatever commit it hits nor when closing: one connection does it, when told."""
    connection.wal_autocheckpoint(0)
    connection.config(apsw.SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, 1)


def close(connection: apsw.Connection, path: Path) -> None:
    """Close a connection. A WAL that is empty goes with the last one; one that is not is left to the log's writer.

    And one that is gone, which somebody removed to put a copy of the log back, is not folded into that.
    """
    if missing(Path(f"{path}-wal")) == "empty":
        connection.config(apsw.SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, 0)
    connection.close()


_open: WeakKeyDictionary[apsw.Connection, os.stat_result] = WeakKeyDictionary()  # the files that this process has open
_forked: set[tuple[int, int]] = set()  # (device, inode) of those that its parent had open when it was forked


def _opened(
    path: Path, name: str, flags: int = apsw.SQLITE_OPEN_READWRITE | apsw.SQLITE_OPEN_CREATE
) -> apsw.Connection:
    status = look(path)
    if status is not None and _identity(status) in _forked:
        raise StoreError(
            f"{path} was open when this process was forked, and SQLite would rely on locks that stayed with the "
            "parent: open it in a process that was started anew (multiprocessing: spawn)"
        )
    connection = apsw.Connection(name, flags=flags)
    with suppress(OSError):  # removed a moment ago: whoever looks at it next will say so
        _open[connection] = os.stat(path)
    return connection


def _identity(status: os.stat_result) -> tuple[int, int]:
    return status.st_dev, status.st_ino


def _after_fork() -> None:
    _forked.update(map(_identity, _open.values()))


os.register_at_fork(after_in_child=_after_fork)


def cramped(path: Path, more: int = 0) -> str | None:
    """Return why SQLite must not touch the log now, if it must not; None if it may, and may write ``more`` bytes.

    The index of a WAL is a mapped file of 32 KiB and more. SQLite makes sure of its room by writing one byte in every
    4 KiB; where the file system's blocks are smaller and it is full, the kernel ends the process with SIGBUS when it
    touches the others.
    """
    place = os.statvfs(path.parent)
    room = place.f_bavail * place.f_frsize
    if place.f_bsize >= 4096 or room >= ROOM_BYTES + more:
        return None
    return (
        f"its file system has {room:,} bytes left, in blocks of {place.f_bsize:,}: SQLite's index of the WAL could "
        f"then end this process (SIGBUS). Make room, at least {ROOM_BYTES + more:,} bytes"
    )


def foreign_triggers(connection: apsw.Connection) -> list[str]:
    """Return the names of triggers that esrm did not make: with one, what is appended may not be what is stored."""
    found = fetch(connection, "SELECT name, sql FROM sqlite_schema WHERE type = 'trigger'")
    return [name for name, sql in found if sql not in _TRIGGERS]


def check_not_left(path: Path) -> None:
    """Raise if a file is gone or without a byte and its WAL is still there: SQLite would delete that.

    Raises:
        StoreError: what was acknowledged may be in the WAL.
    """
    how, wal = missing(path), look(Path(f"{path}-wal"))
    if how and wal is not None and wal.st_size:
        raise StoreError(
            f"{path} is {how}, but the WAL of a log is there, {path.name}-wal: "
            "put the log back, or move its WAL away to begin a new one"
        )


def check_not_linked(path: Path) -> None:
    """Raise if a path that was resolved leads elsewhere by now: SQLite would look for another WAL, there."""
    if os.path.islink(path):
        raise StoreError(f"{path} was replaced by a symbolic link while it was open; put the log itself back")


def _check_place(path: Path) -> os.stat_result | None:
    """What lies there, if a log can be there."""
    if path.name == ":memory:":
        raise StoreError("a log on disk needs a file name; for a store in memory use memory:")
    status, folder = look(path), look(path.parent)
    if status is not None and S_ISDIR(status.st_mode):
        raise StoreError(f"{path} is a directory; a log is one file, such as {path / 'vm.db'}")
    if folder is None or not S_ISDIR(folder.st_mode):
        raise StoreError(f"{path}: there is no directory {path.parent}; create it first")
    if status is not None and not S_ISREG(status.st_mode):
        raise StoreError(f"{path} is not a regular file; a log needs one")
    if status is not None and status.st_size == 1:
        raise apsw.NotADBError("a file of one byte, which SQLite takes for an empty one, and deletes its WAL")
    if danger := cramped(path):
        raise StoreError(f"{path}: {danger}")
    return status


def _is_blank(connection: apsw.Connection, path: Path) -> bool:
    """Whether nothing was ever written here; raise unless it is that, or ours."""
    [[marker, version, tables]] = fetch(connection, _MARKS)
    if marker == APPLICATION_ID:
        if version > FORMAT:
            raise StoreError(
                f"{path} was written by a newer esrm (log format {version}; this one knows {FORMAT}): upgrade esrm"
            )
        return False
    if marker or version or tables:
        raise StoreError(
            f"{path} is another program's SQLite database (application id {marker & 0xFFFFFFFF:#x}, "
            f"tables: {tables or 'none'}); choose another file"
        )
    return True


def _create(connection: apsw.Connection, path: Path) -> None:
    fetch(connection, "BEGIN IMMEDIATE")
    if _is_blank(connection, path):  # else another process was quicker
        # Late: it takes a tenth of a whole reading command, and only the first opening of a log needs it.
        from importlib.resources import files

        fetch(connection, TABLES + files("esrm.stores.sqlite").joinpath("views.sql").read_text("utf-8"))
    fetch(connection, "COMMIT")
    with suppress(apsw.BusyError):  # another process looks at it already
        connection.wal_checkpoint(mode=apsw.SQLITE_CHECKPOINT_TRUNCATE)


def _set_durability(connection: apsw.Connection, path: Path, synchronous: str, busy_ms: int) -> None:
    """Set WAL and ``synchronous``, and believe neither before it is read back."""
    until = monotonic() + busy_ms / 1000
    while True:
        try:
            [[mode]] = fetch(connection, "PRAGMA journal_mode = wal")
            break
        except apsw.BusyError:  # another process makes the same log at this moment; here SQLite itself does not wait
            if monotonic() >= until:
                raise
            sleep(0.001)
    if mode != "wal":
        raise StoreError(f"{path}: this file system cannot do WAL (journal mode stays {mode}); use a local disk")
    fetch(connection, f"PRAGMA synchronous = {synchronous}")
    [[level]] = fetch(connection, "PRAGMA synchronous")
    if SYNCHRONOUS[level] != synchronous:
        raise StoreError(f"{path}: SQLite did not take synchronous={synchronous}")


def look(path: Path) -> os.stat_result | None:
    """Return what lies at a path, without opening it; None if nothing does.

    ``Path.exists`` says so, too, since Python 3.14, of what this user may not see, or a disk that fails.

    Raises:
        OSError, ValueError: whether something does cannot be known; no file can have this name.
    """
    try:
        return os.stat(path)
    except (FileNotFoundError, NotADirectoryError):
        return None


def missing(path: Path) -> str | None:
    """Return how a file that should hold something does not: ``empty`` or ``gone``; None if it does, or may."""
    try:
        status = look(path)
    except (OSError, ValueError):
        return None
    return "gone" if status is None else None if status.st_size else "empty"
