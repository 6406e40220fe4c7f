"""Where an append becomes true: one transaction for everything that waits.

It decides, for each append of a batch, whether it stands, is a retry of one that stands, or conflicts. All are run
against the heads of their streams as this batch leaves them, before a row is written: a conflict costs its own caller
an answer and nobody else anything. Then the rows go in at once, and one COMMIT (one sync of the disk) makes all of
them true together.

It also decides when that may be said: after the COMMIT the files must still be those that were opened, and the head
must be anchored outside of the log. When SQLite or the disk fails at any point, nothing is guessed: this half is
poisoned until the log is mended (``owned.py``), and reads from it then what became of each append. Until that works,
appends are turned away, and each one tries first whether it works by now.

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

from esrm.errors import Corrupt, EsrmError, Rejected, StoreError, Unknown
from esrm.stores.base import conflict
from esrm.stores.chain import extend, seal
from esrm.stores.records import Batch, E, Record, Row
from esrm.stores.sqlite.live import FOLD_PAGES
from esrm.stores.sqlite.owned import End, Mode, OwnedLog
from esrm.stores.sqlite.reader import BY_REVISION
from esrm.stores.sqlite.schema import cramped, trouble

_INSERT = "INSERT INTO records VALUES (?, ?, ?, ?, ?, ?, ?, CAST(? AS TEXT), ?)"
_BESIDE_DATA = 400  # bytes of a row in the table and the index without its event, and more
_AGAIN = "nothing of this append stands: ask again"
RETRY = "whether this append stands is unknown: retry it with the same ids"


class Append(Generic[E]):
    """An append under way, and then its outcome: rows that stand, or an error."""

    __slots__ = ("batch", "error", "records", "retried", "rows")

    def __init__(self, batch: Batch[E]) -> None:
        self.batch = batch
        self.rows: list[Row] | None = None
        self.records: list[Record[E]] = []  # what new rows are to the caller
        self.error: BaseException | None = None
        self.retried = False  # the rows stood before: it is for them to say what the events are


class Committer(OwnedLog, Generic[E]):
    """The writing side of a log: any thread's, but of one at a time.

    Attributes:
        commit_s: how long the last COMMIT took, in seconds: 0 if it had nothing to write, infinite if it failed.
    """

    def __init__(self, path: Path, mode: Mode, busy_ms: int, drop_readers: Callable[[], object] = lambda: None) -> None:
        self._pending: list[tuple[Any, ...]] = []
        self._doubtful: Sequence[Append[E]] = ()  # appends whose COMMIT had begun when it failed
        self._unknown: set[bytes] = set()  # the first ids of appends that were answered so; empty when all is well
        self._inside = False  # a commit is under way, or was interrupted where nothing could be put right
        self.commit_s = 0.0
        super().__init__(path, mode, busy_ms, drop_readers)

    def commit(self, appends: Sequence[Append[E]], *, patient: bool = True) -> bool:
        """Fill in the outcome of every append.

        Returns False, and leaves the outcomes open, if that needs more patience: another process is writing, the log
        is not ours yet, or the disk has failed.
        """
        self.commit_s = 0.0
        if self._inside:
            self.poisoned = self.poisoned or StoreError("the writer was interrupted")
        if not patient and (self.poisoned or not self._file.claimed):
            return False
        self._inside = True
        try:
            done = self._attempt(appends, patient)
        except BaseException as error:  # a second interrupt can leave rows that were taken back
            self._doubtful = [append for append in appends if append.error is None]
            self._leave_open(error)
            raise
        self._inside = False
        return done

    def _attempt(self, appends: Sequence[Append[E]], patient: bool) -> bool:
        if self._doubtful:
            self._resolve()
            self.commit_s = inf
            return True
        begun = False
        try:
            if self.poisoned:
                self._mend()
            self._be_patient(patient)
            self._claim()
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
            begun = True
            self._run("COMMIT")
            wrote = self._sealed > self.head
            self._stand()
            if wrote:
                self.commit_s = perf_counter() - began
        except Exception as error:
            self._fail(error, appends, begun)
            if self._doubtful:
                if not patient:
                    return False
                self._resolve()
        except BaseException as error:  # whatever it was: nobody may wait for ever
            self._fail(error, appends, begun)
            self._leave_open(error)
            raise
        return True

    def fold(self) -> None:
        """Fold the WAL back into the file, as far as no reader needs it: it is then written from its start again."""
        self.full = False
        if self._connection is None or self.poisoned:
            return
        try:
            self._folded = self._written()
            all_of_it, folded = self._fold_back(apsw.SQLITE_CHECKPOINT_PASSIVE)
            if all_of_it == folded:
                self._anchor_if("folded")
        except apsw.BusyError:  # a reader in the way of the rest is no fault: next time
            pass
        except Exception as error:
            self._fail(error, (), begun=False)

    def anchor(self) -> None:
        """Write the head down, if that is due by now."""
        if self.due == 0 and not self.poisoned:
            try:
                self._anchor()
            except OSError as error:
                self._fail(error, (), begun=False)

    def close(self) -> None:
        """Fold the WAL back into the file, if no other process is reading from it just now, and close."""
        connection = self._connection
        try:
            if connection is not None and self._file.claimed and not self.poisoned:
                self._anchor_if("second")
                connection.set_busy_timeout(0)
                with suppress(apsw.Error):  # then it is for whoever closes last, or opens next
                    self._fold_back(apsw.SQLITE_CHECKPOINT_TRUNCATE)
                    self._anchor_if("folded")
        except OSError as error:
            raise StoreError(self._worded(error)) from error
        finally:
            self._disconnect()
            self._file.release()

    # -- one transaction ----------------------------------------------------------------------------------------------

    def _settle(self, append: Append[E]) -> None:
        batch = append.batch
        end = self._ends.get(batch.vm) or self._find(batch.vm)
        if end.revision == batch.expected:
            append.rows = self._enter(batch, end)
        elif standing := self._standing(batch):
            append.rows, append.retried = standing, True
        else:
            append.error = conflict(batch, end.revision)

    def _enter(self, batch: Batch[E], end: End) -> list[Row]:
        rows = seal(batch, self._sealed, end.hash)
        if rows:
            if not end.stream:
                end.stream = self._fetch("INSERT INTO streams (name) VALUES (?) RETURNING id", batch.vm)[0][0]
                self._ends[batch.vm] = end
            log, pending, stream = self._log, self._pending, end.stream
            for row in rows:
                pending.append((row[0], stream, *row[2:]))
                log = extend(log, row[8])
            self._sealed, self._hash, self._log = rows[-1][0], rows[-1][8], log
            end.revision, end.hash = rows[-1][2], rows[-1][8]
        return rows

    def _standing(self, batch: Batch[E]) -> list[Row] | None:
        """The rows behind ``expected`` if they are exactly this batch, seen before; None if they are not."""
        self._write()  # it may have been seen a moment ago, in this very transaction
        rows = self._fetch(BY_REVISION, batch.vm, batch.expected, len(batch.ids))
        return rows if batch.ids and [row[3] for row in rows] == batch.ids else None

    def _write(self) -> None:
        # Twice: each row is in a page of its table and of its index. It must not run out within a transaction.
        room = 2 * sum(len(row[7]) + _BESIDE_DATA for row in self._pending) if self._small_blocks else 0
        if self._small_blocks and (danger := cramped(self._path, room)):
            raise StoreError(f"{self._path}: {danger}")
        self._live().executemany(_INSERT, self._pending)  # pyright: ignore[reportUnknownMemberType]  as in fetch
        self._pending.clear()

    def _stand(self) -> None:
        """What is committed may be acknowledged once nobody has moved the files, and the head is anchored behind it."""
        self._check_in_place()
        self._version = self._live().data_version()
        self.full = self._written() >= self._folded + FOLD_PAGES
        if self.due == 0:
            self._anchor()
        self._anchor_if("commit")
        self.head = max(self.head, self._sealed)

    # -- when it fails ------------------------------------------------------------------------------------------------

    def _fail(self, error: BaseException, appends: Sequence[Append[E]], begun: bool) -> None:
        """Nothing of these appends stands, or it is in doubt because their COMMIT had begun."""
        self._pending.clear()
        self._ends.clear()
        self._version = -1
        self.commit_s = inf
        with suppress(apsw.Error):  # SQLite has rolled back already, or will when it closes
            if self._connection is not None and self._connection.in_transaction:
                self._fetch("ROLLBACK")
        failed = isinstance(error, (apsw.Error, OSError, MemoryError, StoreError))
        refused = isinstance(error, (Rejected, Corrupt, apsw.BusyError))  # these leave the connection sound
        if begun or (failed and not refused) or not isinstance(error, Exception):
            self.poisoned = error if isinstance(error, Exception) else StoreError(f"interrupted: {error!r}")
        self._go_back()
        if begun:
            self._doubtful = appends
            return
        for append in appends:
            append.rows, append.error = None, self._turned_away(error)
            if isinstance(append.error, Rejected) and not self._unknown.isdisjoint(append.batch.ids[:1]):
                append.error = Unknown(f"{self._worded(error)}; {RETRY}")  # as the first time

    def _leave_open(self, why: BaseException) -> None:
        """Answer the appends in doubt as far as one can without looking."""
        for append in self._doubtful:
            append.rows, append.error = None, Unknown(f"{self._path}: the writer was interrupted; {RETRY}")
            append.error.__cause__ = why
            self._unknown.update(append.batch.ids[:1])
        self._doubtful = ()

    def _turned_away(self, error: BaseException) -> EsrmError:
        """One error for each caller: an exception raised in many tasks would gather all their tracebacks."""
        what = self._worded(error)
        copy = Corrupt(what) if isinstance(error, (Corrupt, UnicodeDecodeError)) else Rejected(what)
        copy.__cause__ = error.__cause__ or error
        return copy

    def _worded(self, error: BaseException) -> str:
        if isinstance(error, (apsw.Error, UnicodeDecodeError)):
            return str(trouble(self._path, error))
        if isinstance(error, OSError):
            return f"{self._path}: {error.strerror or error}"
        return str(error) if isinstance(error, EsrmError) else f"the writer failed: {error!r}"

    def _resolve(self) -> None:
        """Find out what became of the appends in doubt: from the log, or not at all."""
        doubtful, why = self._doubtful, self.poisoned or OSError("the commit failed")
        self._leave_open(why)  # so that they have an answer however looking ends
        stands = gone = True
        try:
            self._mend()
        except Exception as error:
            self.poisoned = why = error
            stands, gone = False, not isinstance(error, Corrupt) and self._cover()
        for append in doubtful:
            rows = None
            with suppress(Exception):
                rows = self._standing(append.batch) or ([] if gone else None)
            if rows and stands:
                append.rows, append.retried, append.error = rows, True, None
            else:
                kind, outcome = (Rejected, _AGAIN) if rows == [] else (Unknown, RETRY)
                if kind is Rejected:
                    self._unknown.difference_update(append.batch.ids[:1])
                else:
                    self._unknown.update(append.batch.ids[:1])
                append.rows, append.error = None, kind(f"{self._worded(why)}; {outcome}")
                append.error.__cause__ = why

    def _mend(self) -> None:
        self._pending.clear()  # an interrupt may have kept `_fail` from it
        super()._mend()
        self._unknown.clear()
