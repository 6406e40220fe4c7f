"""Where an append becomes true: one transaction for everything that waits.

It decides, for each append of a batch, whether it stands, is a retry of one that stands, or conflicts. All are run
against the heads of their streams as this batch leaves them, before a row is written: a conflict costs its own caller
an answer and nobody else anything. Then the rows go in at once, and one COMMIT (one sync of the disk) makes all of
them true together.

Separate from who calls it and when, because this half is plain SQL that answers at once. Next: ``writer.py``.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import suppress
from math import inf
from pathlib import Path
from time import perf_counter
from typing import Any, Generic

import apsw
import msgspec

from esrm.errors import EsrmError, StoreError
from esrm.stores.base import conflict
from esrm.stores.chain import GENESIS, seal
from esrm.stores.records import Batch, E, Record, Row
from esrm.stores.sqlite.reader import BY_REVISION, HEAD, LAST_OF
from esrm.stores.sqlite.schema import fetch, translated, trouble

_INSERT = "INSERT INTO records VALUES (?, ?, ?, ?, ?, ?, ?, CAST(? AS TEXT), ?)"
FOLD_PAGES = 1000  # 4 MB of WAL, as SQLite has it: a sync costs a third when the file need not grow


class Append(Generic[E]):
    """An append under way, and then its outcome: rows that stand, or an error."""

    __slots__ = ("batch", "error", "records", "retried", "rows")

    def __init__(self, batch: Batch[E]) -> None:
        self.batch = batch
        self.rows: list[Row] | None = None
        self.records: list[Record[E]] = []  # what new rows are to the caller
        self.error: BaseException | None = None
        self.retried = False  # the rows stood before: it is for them to say what the events are


class _Head(msgspec.Struct):
    stream: int
    revision: int
    hash: bytes


class Committer(Generic[E]):
    """The writing side of a log: any thread's, but of one at a time.

    Attributes:
        head: the last committed position we know of; only grows.
        commit_s: how long the last COMMIT took, in seconds: 0 if it had nothing to write, infinite if it failed.
        full: whether the WAL is so long that it is time to fold it back.
    """

    def __init__(self, path: Path, connection: apsw.Connection, busy_ms: int) -> None:
        self._path, self._connection, self._busy_ms, self._patient = path, connection, busy_ms, True
        self._heads: dict[str, _Head] = {}  # true as of position _sealed; forgotten when somebody else appends
        self._sealed = 0
        self._version = -1  # SQLite's data version as of _sealed; -1 if what we know of the heads may be wrong
        self._pending: list[tuple[Any, ...]] = []
        self._folded = 0  # how many pages had been written when the WAL was last folded
        self.head, self.commit_s, self.full = 0, 0.0, False
        self._run: Callable[[str], object] = connection.execute  # pyright: ignore[reportUnknownMemberType]  as in fetch
        connection.wal_autocheckpoint(0)  # it would fold inside whatever commit it hits: that is for fold()
        self.look()

    def look(self) -> None:
        """Learn what other processes have committed."""
        with translated(self._path):
            self._be_patient(True)
            self.head = max(self.head, self._fetch(HEAD)[0][0])

    def commit(self, appends: Sequence[Append[E]], *, patient: bool = True) -> bool:
        """Fill in the outcome of every append. If the disk fails, none of them stands and each gets the error.

        Returns False, and has done nothing, if another process is writing and we are not to wait for it.
        """
        self.commit_s = 0.0
        try:
            self._be_patient(patient)
            try:
                self._run("BEGIN IMMEDIATE")
            except apsw.BusyError:
                if patient:
                    raise
                return False
            self._catch_up()
            for append in appends:
                self._settle(append)
            self._write()
            began = perf_counter()
            self._run("COMMIT")
            self._version = self._connection.data_version()
            self.full = self._written() >= self._folded + FOLD_PAGES
            if self._sealed > self.head:
                self.head, self.commit_s = self._sealed, perf_counter() - began
        except BaseException as error:  # whatever it was: nobody may wait for ever
            self._roll_back()
            self.commit_s = inf
            for append in appends:
                append.rows, append.error = None, _copy(error, self._path)
            if not isinstance(error, Exception):
                raise
        return True

    def fold(self) -> None:
        """Fold the WAL back into the file, as far as no reader needs it: it is then written from its start again."""
        self._folded, self.full = self._written(), False
        with suppress(apsw.Error):  # a reader in the way of the rest is no fault: next time
            self._connection.wal_checkpoint(mode=apsw.SQLITE_CHECKPOINT_PASSIVE)

    def close(self) -> None:
        """Fold the WAL back into the file, if no other process is reading from it just now, and close."""
        with translated(self._path):
            self._connection.set_busy_timeout(0)
            with suppress(apsw.Error):  # then it is for whoever closes last, or opens next
                self._connection.wal_checkpoint(mode=apsw.SQLITE_CHECKPOINT_TRUNCATE)
            self._connection.close()

    def _catch_up(self) -> None:
        """What we know of the heads holds as long as nobody else has moved the last position."""
        version = self._connection.data_version()  # a tenth of the cost of asking for the position
        if version != self._version:
            position = self._fetch(HEAD)[0][0]
            if position != self._sealed or self._version < 0:
                self._heads.clear()
                self._sealed = position

    def _settle(self, append: Append[E]) -> None:
        batch = append.batch
        head = self._heads.get(batch.vm) or self._find(batch.vm)
        if head.revision == batch.expected:
            append.rows = self._enter(batch, head)
        elif standing := self._standing(batch):
            append.rows, append.retried = standing, True
        else:
            append.error = conflict(batch, head.revision)

    def _find(self, vm: str) -> _Head:
        """Look a head up. A stream gets its row with its first record; until then its number is 0."""
        for _, _, revision, *_, hash in self._fetch(LAST_OF, vm):
            stream = self._fetch("SELECT id FROM streams WHERE name = ?", vm)[0][0]
            return self._heads.setdefault(vm, _Head(stream, revision, hash))
        return _Head(0, -1, GENESIS)

    def _enter(self, batch: Batch[E], head: _Head) -> list[Row]:
        rows = seal(batch, self._sealed, head.hash)
        if rows:
            if not head.stream:
                head.stream = self._fetch("INSERT INTO streams (name) VALUES (?) RETURNING id", batch.vm)[0][0]
                self._heads[batch.vm] = head
            self._pending += [(row[0], head.stream, *row[2:]) for row in rows]
            self._sealed, head.revision, head.hash = rows[-1][0], rows[-1][2], rows[-1][8]
        return rows

    def _standing(self, batch: Batch[E]) -> list[Row] | None:
        """The rows behind ``expected`` if they are exactly this batch, seen before; None if they are not."""
        self._write()  # it may have been seen a moment ago, in this very transaction
        rows = self._fetch(BY_REVISION, batch.vm, batch.expected, len(batch.ids))
        return rows if [row[3] for row in rows] == batch.ids else None

    def _write(self) -> None:
        self._connection.executemany(_INSERT, self._pending)  # pyright: ignore[reportUnknownMemberType]  as in fetch
        self._pending.clear()

    def _roll_back(self) -> None:
        self._pending.clear()
        self._version = -1
        with suppress(apsw.Error):  # SQLite has rolled back already, or will when it closes
            if self._connection.in_transaction:
                self._fetch("ROLLBACK")

    def _be_patient(self, patient: bool) -> None:
        if patient != self._patient:
            self._patient = patient
            self._connection.set_busy_timeout(self._busy_ms if patient else 0)

    def _written(self) -> int:
        return self._connection.status(apsw.SQLITE_DBSTATUS_CACHE_WRITE)[0]

    def _fetch(self, statement: str, *bindings: Any) -> list[Any]:
        return fetch(self._connection, statement, *bindings)


def _copy(error: BaseException, path: Path) -> EsrmError:
    """One error for each caller: an exception raised in many tasks would gather all their tracebacks."""
    if isinstance(error, (apsw.Error, UnicodeDecodeError)):
        copy = trouble(path, error)
    else:
        copy = type(error)(str(error)) if isinstance(error, EsrmError) else StoreError(f"the writer failed: {error!r}")
    copy.__cause__ = error.__cause__ or error
    return copy
