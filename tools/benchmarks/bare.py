"""The raw yardsticks: the same rows read and written by apsw alone, the same bytes decoded by msgspec, the same disk.

The tables are copied from the log itself (names, columns, indexes, triggers), so that a change of the format changes
the yardstick with it. Next: ``replaying.py``.
"""

# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false, reportUnknownArgumentType=false
# apsw's types name collections.abc.Buffer, which Python 3.11 has not; so its cursors are partly unknown there.

from __future__ import annotations

import os
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import apsw
import msgspec

from esrm.core.events import Event

DECODER: msgspec.json.Decoder[Event] = msgspec.json.Decoder(Event)
_PAYLOADS = "SELECT stream, revision, CAST(data AS BLOB) FROM records ORDER BY position"


def sqlite_version() -> str:
    """The SQLite that apsw brings."""
    return apsw.sqlite_lib_version()


def read_and_decode(path: Path) -> int:
    """Read stream, revision and data of every row, decode the data, do nothing else; return how many there were."""
    connection = apsw.Connection(str(path), flags=apsw.SQLITE_OPEN_READWRITE)
    decode, number = DECODER.decode, 0
    for _, _, data in connection.execute(_PAYLOADS):
        decode(data)
        number += 1
    connection.close()
    return number


def read_all(path: Path) -> None:
    """The same, without decoding."""
    connection = apsw.Connection(str(path), flags=apsw.SQLITE_OPEN_READWRITE)
    for _ in connection.execute(_PAYLOADS):
        pass
    connection.close()


def decode_all(path: Path) -> float:
    """The seconds that decoding alone takes, of bytes that are in memory."""
    connection = apsw.Connection(str(path), flags=apsw.SQLITE_OPEN_READWRITE)
    total = 0.0
    cursor = connection.execute(_PAYLOADS)
    while page := [data for _, _, data in _some(cursor, 10_000)]:
        start = time.perf_counter()
        for data in page:
            DECODER.decode(data)
        total += time.perf_counter() - start
    connection.close()
    return total


def _some(cursor: Iterator[Any], number: int) -> Iterator[Any]:
    for _ in range(number):
        row = next(cursor, None)
        if row is None:
            return
        yield row


class Twin:
    """A file with the tables of a log, to which its rows are written again, as fast as apsw can."""

    def __init__(self, original: Path, place: Path, *, vm: str | None = None, limit: int = -1) -> None:
        source = apsw.Connection(str(original), flags=apsw.SQLITE_OPEN_READWRITE)
        where = "WHERE stream = (SELECT id FROM streams WHERE name = ?)" if vm else ""
        self.rows: list[Any] = source.execute(
            f"SELECT * FROM records {where} ORDER BY position LIMIT {limit}", (vm,) if vm else ()
        ).fetchall()
        schema: Any = source.execute(
            "SELECT sql FROM sqlite_schema WHERE sql IS NOT NULL AND type != 'view'"
        ).fetchall()
        streams = source.execute("SELECT * FROM streams").fetchall()
        columns = len(source.execute("PRAGMA table_info(records)").fetchall())
        source.close()
        self._insert = f"INSERT INTO records VALUES ({', '.join('?' * columns)})"
        self._connection = apsw.Connection(str(place))
        for pragma, expected in (("journal_mode = wal", "wal"), ("synchronous = FULL; PRAGMA synchronous", 2)):
            found: Any = self._connection.execute(f"PRAGMA {pragma}").fetchall()
            assert found == [(expected,)], found  # a yardstick that does not wait for the disk would be a lie
        for (statement,) in schema:
            if not statement.startswith("CREATE TABLE sqlite_"):
                self._connection.execute(statement)
        self._connection.executemany(f"INSERT INTO streams VALUES ({', '.join('?' * len(streams[0]))})", streams)

    def insert_each(self, rows: Sequence[Any], head: Path | None = None) -> None:
        """One commit a row; each with a write of 512 bytes to ``head`` and its fdatasync, if that is given."""
        if head is None:
            for one in rows:
                self._connection.execute(self._insert, one)
            return
        anchor = Head(head)
        for one in rows:
            self._connection.execute(self._insert, one)
            anchor.write()
        anchor.close()

    def insert_together(self, rows: Sequence[Any]) -> None:
        """One commit for all."""
        with self._connection:
            self._connection.executemany(self._insert, rows)

    def close(self) -> None:
        """Close the file."""
        self._connection.close()


class Head:
    """A head file's place on the disk: 512 bytes, in two places in turn, each written and synced."""

    def __init__(self, path: Path) -> None:
        self._path, self._number = path, 0
        self._descriptor = os.open(path, os.O_WRONLY | os.O_CREAT)
        os.pwrite(self._descriptor, bytes(8192), 0)
        os.fsync(self._descriptor)

    def write(self) -> None:
        """Write one of the two, and wait for the disk."""
        os.pwrite(self._descriptor, bytes(512), self._number % 2 * 4096)
        os.fdatasync(self._descriptor)
        self._number += 1

    def close(self) -> None:
        """Close and remove it."""
        os.close(self._descriptor)
        self._path.unlink()


def pages(path: Path) -> dict[str, int]:
    """The bytes that each table and index takes on the disk, by name."""
    connection = apsw.Connection(str(path), flags=apsw.SQLITE_OPEN_READWRITE)
    rows: Any = connection.execute("SELECT name, sum(pgsize) FROM dbstat GROUP BY name").fetchall()
    connection.close()
    return dict(rows)


def columns(path: Path) -> dict[str, int]:
    """The bytes of the events' own JSON (``data``) and of each other variable column, and the number of events."""
    connection = apsw.Connection(str(path), flags=apsw.SQLITE_OPEN_READWRITE)
    names = ("data", "hash", "id", "actor", "correlation")
    sums = ", ".join(f"sum(length(CAST({name} AS BLOB)))" for name in names)
    found: Any = connection.execute(f"SELECT {sums}, count(*) FROM records").fetchall()
    connection.close()
    return dict(zip((*names, "events"), found[0], strict=True))


def sync(place: Path, times: int, size: int) -> float:
    """The seconds that one write of ``size`` bytes and its fdatasync take, on the disk of ``place``."""
    descriptor = os.open(place, os.O_WRONLY | os.O_CREAT)
    os.pwrite(descriptor, bytes(size * 64), 0)
    os.fsync(descriptor)
    start = time.perf_counter()
    for number in range(times):
        os.pwrite(descriptor, bytes(size), number % 64 * size)
        os.fdatasync(descriptor)
    total = time.perf_counter() - start
    os.close(descriptor)
    return total / times
