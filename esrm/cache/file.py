"""The cache's file: when it is read, written, believed, thrown away.

It decides that nothing which happens to this file is ever anybody's trouble: whoever reads gets None for an answer, and
whoever writes learns that it was not kept. It is opened for each question and closed after it, so that it can be
deleted, replaced or made by another process in between.

SQLite, with a rollback journal and not WAL: then nothing lies beside the file but during a write, and a reader on
read-only media finds all of it. Writes are synced (``synchronous=NORMAL``), though it is only a cache: what it holds
has checksums, but what it lacks has none, and a power cut must not leave half of a transaction that looks whole. It
costs a sync or two each time that a thousand events were folded.

Passed over: a transaction for the whole of a long log. It would lock others out while seconds of events are folded;
so callers fold first, in stretches, and write each in a moment. Next: ``snapshots.py``.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any, TypeAlias, TypeVar

import apsw

from esrm.core.events import LOG_FORMAT
from esrm.core.state import REDUCER_VERSION

T = TypeVar("T")
Fetch: TypeAlias = Callable[..., list[Any]]
"""Runs one statement with its bindings to its end, and returns the rows."""

APPLICATION_ID = 0x65736D63  # "esmc"
FORMAT = 2
FINGERPRINT = f"cache {FORMAT}, log {LOG_FORMAT}, reducer {REDUCER_VERSION}"
"""What made the cache: another's is thrown away whole."""

BUSY_MS = 500  # for who writes; a reader waits a tenth of it, then looks into the log instead

TABLES = f"""
CREATE TABLE cache (fingerprint TEXT NOT NULL) STRICT;
CREATE TABLE vms (
    id       INTEGER PRIMARY KEY,
    name     TEXT NOT NULL UNIQUE,
    revision INTEGER NOT NULL,           -- up to here the index of tenancies goes; -1: there is none yet
    hash     BLOB NOT NULL,              -- of the log's record at that revision
    tenants  BLOB NOT NULL               -- what is needed to go on from there (tenancies.py)
) STRICT;
CREATE TABLE snapshots (
    vm       INTEGER NOT NULL,
    revision INTEGER NOT NULL,
    hash     BLOB NOT NULL,              -- of the log's record at that revision
    body     BLOB NOT NULL,              -- the layout after it (snapshots.py)
    UNIQUE (vm, revision)
) STRICT;
CREATE TABLE tenancies (                 -- see tenancies.py
    vm     INTEGER NOT NULL,
    space  INTEGER NOT NULL,             -- index in core.resources.Space
    place  INTEGER NOT NULL,             -- fork of its addresses, less 2**63
    moment INTEGER NOT NULL,             -- fork of its revisions; -1 while it lasts
    given  INTEGER NOT NULL,             -- by the record at this revision,
    part   INTEGER NOT NULL,             -- as the n-th resource in it,
    taken  INTEGER,                      -- until the record at this one; NULL while it lasts
    born   INTEGER NOT NULL,             -- the revision that created the device
    below  INTEGER NOT NULL,             -- how far its addresses reach below their fork,
    above  INTEGER NOT NULL,             -- and above it
    seal   INTEGER NOT NULL,             -- CRC of the other columns
    PRIMARY KEY (vm, space, place, moment, given, part)
) STRICT, WITHOUT ROWID;
CREATE TABLE nested (                    -- devices inside others, by the revisions that created them
    vm     INTEGER NOT NULL,
    born   INTEGER NOT NULL,
    parent INTEGER NOT NULL,
    PRIMARY KEY (vm, born)
) STRICT, WITHOUT ROWID;
PRAGMA application_id = {APPLICATION_ID};
"""
_MARKS = "SELECT application_id, (SELECT group_concat(name) FROM sqlite_schema) FROM pragma_application_id"


class Damaged(Exception):
    """What stands in the cache cannot have been written by this code."""


DAMAGE = (Damaged, apsw.CorruptError, apsw.SQLError, apsw.ConstraintError)
"""After these the file is thrown away: a database whose tables are not ours, or contradict each other. What is no
database may be anything, and stays, without a cache."""


def look(path: Path | None, question: Callable[[Fetch], T]) -> T | None:
    """The answer of a function to the cache as it stands; None if there is none, or none to believe."""
    if path is None or not os.path.exists(path):  # cheaper than to have SQLite find out
        return None
    try:
        connection = apsw.Connection(str(path), flags=apsw.SQLITE_OPEN_READONLY)
        try:
            connection.set_busy_timeout(BUSY_MS // 10)
            fetch = _fetch_of(connection)
            fetch("BEGIN")  # so that all is of one moment, whoever writes meanwhile
            return question(fetch) if _is_current(fetch) else None
        finally:
            connection.close()
    except DAMAGE:
        throw_away(path)
    except (apsw.Error, ValueError, TypeError, OverflowError):  # locked, gone a moment ago, a text that is none ...
        pass
    return None


def keep(path: Path | None, write: Callable[[Fetch], None]) -> bool:
    """Have a function write into the cache, in one transaction; False if it could not be kept."""
    if path is None:
        return False
    try:
        _create(path)
        connection = apsw.Connection(str(path), flags=apsw.SQLITE_OPEN_READWRITE)
        try:
            connection.set_busy_timeout(BUSY_MS)
            fetch = _fetch_of(connection)
            fetch("PRAGMA synchronous = NORMAL")
            fetch("BEGIN IMMEDIATE")
            if not _is_current(fetch):
                _begin_anew(fetch)
            write(fetch)
            fetch("COMMIT")
        finally:
            connection.close()  # what was not committed is rolled back
    except DAMAGE:
        throw_away(path)
        return False
    except (apsw.Error, OSError, ValueError):
        return False
    return True


def throw_away(path: Path) -> None:
    """Delete a cache that cannot be read."""
    with suppress(OSError):
        path.unlink()


def vm_id(fetch: Fetch, vm: str) -> int:
    """The number that the cache knows a VM by; it gets one if it has none. Inside ``keep`` only."""
    fetch("INSERT OR IGNORE INTO vms (name, revision, hash, tenants) VALUES (?, -1, x'', x'')", vm)
    return fetch("SELECT id FROM vms WHERE name = ?", vm)[0][0]


def forget(fetch: Fetch, vm: str) -> None:
    """Everything about a VM: its log is not the one that it was made from. Inside ``keep`` only."""
    number = vm_id(fetch, vm)
    for table in ("snapshots", "tenancies", "nested"):
        fetch(f"DELETE FROM {table} WHERE vm = ?", number)
    fetch("UPDATE vms SET revision = -1 WHERE id = ?", number)


def _fetch_of(connection: apsw.Connection) -> Fetch:
    def fetch(statement: str, *bindings: Any) -> list[Any]:
        return connection.execute(statement, bindings).fetchall()  # pyright: ignore

    return fetch


def _is_current(fetch: Fetch) -> bool:
    """Whether this code made the cache.

    Raises:
        apsw.AuthError: it is another program's database, which we leave alone.
    """
    [[marker, tables]] = fetch(_MARKS)
    if marker == APPLICATION_ID:
        return fetch("SELECT fingerprint FROM cache") == [(FINGERPRINT,)]
    if marker or tables:
        raise apsw.AuthError("another program's database")
    return False


def _begin_anew(fetch: Fetch) -> None:
    for [table] in fetch("SELECT name FROM sqlite_schema WHERE type = 'table'"):
        fetch(f'DROP TABLE "{table}"')
    fetch(TABLES)
    fetch("INSERT INTO cache VALUES (?)", FINGERPRINT)


def _create(path: Path) -> None:
    """An empty file which is no easier to read than the log itself."""
    if not path.exists():
        log = Path(str(path).removesuffix("-cache"))
        mode = log.stat().st_mode & 0o666 if log.exists() else 0o600
        with suppress(FileExistsError):
            os.mknod(path, mode)  # and no open(): closing it would drop the locks of another thread's connection
