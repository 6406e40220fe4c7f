"""Where an append becomes true: one transaction for everything that waits.

It decides, for each append of a batch, whether it stands, is a retry of one that stands, or conflicts. All are run
against the heads of their streams as this batch leaves them, before a row is written: a conflict costs its own caller
an answer and nobody else anything. Then the rows go in at once, and one COMMIT (one sync of the disk) makes all of
them true together.

It also decides when that may be said. After the COMMIT the files must still be those that were opened (an unlinked file
takes commits into the void), and the head must be anchored outside of the log (``heads.py``). When SQLite or the disk
fails at any point, nothing is guessed: this half is poisoned, opens the log anew, folds the WAL back so that nothing
can come and go any more, and reads from the log what became of each append. Until that works, appends are turned away,
and each one tries first whether it works by now.

Separate from who calls it and when, because this half is plain SQL that answers at once. Next: ``writer.py``.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from contextlib import suppress
from math import inf
from pathlib import Path
from time import perf_counter
from typing import Any, Generic

import apsw
import msgspec

from esrm.errors import Corrupt, EsrmError, Rejected, StoreError, Unknown
from esrm.stores.base import conflict
from esrm.stores.chain import GENESIS, extend, seal, verify
from esrm.stores.records import (
    Batch,
    Committed,
    CommittedNormal,
    CommittedOff,
    CommittedUnanchored,
    E,
    Record,
    Row,
)
from esrm.stores.sqlite.heads import HeadFile, Slot, empty, head_path, read_head
from esrm.stores.sqlite.reader import BY_REVISION, HEAD, LAST_OF, SqliteReader
from esrm.stores.sqlite.schema import close, cramped, fetch, foreign_triggers, open_writer, size, translated, trouble

_INSERT = "INSERT INTO records VALUES (?, ?, ?, ?, ?, ?, ?, CAST(? AS TEXT), ?)"
_HASHES = "SELECT position, hash FROM records WHERE position > ? ORDER BY position LIMIT 10000"
_REVISIONS = "SELECT coalesce(sum(1 + (SELECT max(revision) FROM records WHERE stream = streams.id)), 0) FROM streams"
FOLD_PAGES = 1000  # 4 MB of WAL, as SQLite has it: a sync costs a third when the file need not grow
ANCHOR_S = 1.0
_BESIDE_DATA = 400  # bytes of a row in the table and the index without its event, and more
_NO_FILE = 0, 0
_NO_CODEC: Any = None  # of a reader whose events nobody decodes
_AGAIN = "nothing of this append stands: ask again"
_RETRY = "whether this append stands is unknown: retry it with the same ids"


class Append(Generic[E]):
    """An append under way, and then its outcome: rows that stand, or an error."""

    __slots__ = ("batch", "error", "records", "retried", "rows")

    def __init__(self, batch: Batch[E]) -> None:
        self.batch = batch
        self.rows: list[Row] | None = None
        self.records: list[Record[E]] = []  # what new rows are to the caller
        self.error: BaseException | None = None
        self.retried = False  # the rows stood before: it is for them to say what the events are


class Mode(msgspec.Struct, frozen=True):
    """How well a commit stands before it is acknowledged.

    Attributes:
        synchronous: what SQLite waits for: FULL, EXTRA, NORMAL or OFF.
        anchored: when the head is written: at each ``commit``, each ``second``, or when the WAL is ``folded``. With
            NORMAL and OFF always the last: the head must never be ahead of what is on the disk.
    """

    synchronous: str
    anchored: str

    @property
    def safe(self) -> bool:
        """Whether what is committed is on the disk."""
        return self.synchronous in ("FULL", "EXTRA")

    @property
    def answer(self) -> type[Committed[Any]]:
        """The class of what an append answers."""
        if not self.safe:
            return CommittedNormal if self.synchronous == "NORMAL" else CommittedOff
        return Committed if self.anchored == "commit" else CommittedUnanchored


class _End(msgspec.Struct):
    """Where a stream ends, or would, with what the transaction under way adds."""

    stream: int
    revision: int
    hash: bytes


class Committer(Generic[E]):
    """The writing side of a log: any thread's, but of one at a time.

    Attributes:
        head: the last acknowledged position we know of; only grows.
        commit_s: how long the last COMMIT took, in seconds: 0 if it had nothing to write, infinite if it failed.
        full: whether the WAL is so long that it is time to fold it back.
        poisoned: what the disk did, if nothing can be appended until it is mended; None if all is well.
    """

    def __init__(self, path: Path, mode: Mode, busy_ms: int, drop_readers: Callable[[], object] = lambda: None) -> None:
        self._path, self._mode, self._busy_ms, self._drop_readers = path, mode, busy_ms, drop_readers
        self._paths = str(path), f"{path}-wal", f"{path}-shm", str(head_path(path))
        self._file = HeadFile(path)
        self._ends: dict[str, _End] = {}  # true as of position _sealed; forgotten when somebody else appends
        self._sealed, self._hash, self._log = 0, GENESIS, GENESIS  # the end of the log, once we are its writer
        self._pending: list[tuple[Any, ...]] = []
        self._doubtful: Sequence[Append[E]] = ()  # appends whose COMMIT had begun when it failed
        self._unknown: set[bytes] = set()  # the first ids of appends that were answered so; empty when all is well
        self._anchored_s = 0.0  # when the head was last anchored
        self._inside = False  # a commit is under way, or was interrupted where nothing could be put right
        self.head, self.commit_s, self.full = 0, 0.0, False
        self.poisoned: Exception | None = None
        self._connection: apsw.Connection | None = None
        if not size(path):
            self._check_vacant()
        self._connect(create=True)
        try:
            with translated(path):
                slot = read_head(head_path(path), fresh=not self._fetch(HEAD)[0][0])
                self._check_anchor(slot)
            self.look()
        except BaseException:
            self._disconnect()
            raise

    def _check_vacant(self) -> None:
        """Raise if another log was here, or what lies where this one's head must be is no head file."""
        head = head_path(self._path)
        if size(head) and (slot := read_head(head, fresh=True)) and slot.position:
            raise Corrupt(
                f"{self._path} is {'empty' if self._path.exists() else 'gone'}, but {slot.position:,} records were "
                f"acknowledged, says {head.name}: put the log back, with its WAL, or move that away to begin a new one"
            )

    def look(self) -> None:
        """Learn what other processes have committed. The writer of a log knows without looking."""
        if not self._file.claimed:
            with translated(self._path):
                found = zip(self._identities[:3], self._identify()[:3], strict=True)
                if self._connection is None or any(now not in (_NO_FILE, then) for then, now in found):  # restored, say
                    self._disconnect()
                    self._drop_readers()
                    self._connect(create=False)
                self._be_patient(True)
                self.head = max(self.head, self._fetch(HEAD)[0][0])

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
        except BaseException:
            for append in appends:  # a second interrupt can leave rows that were taken back
                append.rows, append.error = None, append.error or Unknown(f"the writer was interrupted; {_RETRY}")
            raise
        self._inside = False
        return done

    def _attempt(self, appends: Sequence[Append[E]], patient: bool) -> bool:
        begun = False
        try:
            if self._doubtful:
                self._resolve()
                self.commit_s = inf
                return True
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
            self._leave_open()
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
        except (apsw.Error, OSError) as error:
            self._fail(error, (), begun=False)

    def anchor(self) -> None:
        """Write the head down, if that is due by now."""
        if self.due == 0 and not self.poisoned:
            try:
                self._anchor()
            except OSError as error:
                self._fail(error, (), begun=False)

    @property
    def due(self) -> float | None:
        """In how many seconds the head must be anchored; None if it is, or if that does not go by the clock."""
        slot = self._file.slot
        if self._mode.anchored != "second" or slot is None or slot.position >= self._sealed:
            return None
        return max(0.0, self._anchored_s + ANCHOR_S - perf_counter())

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

    def _claim(self, known: Slot | None = None) -> None:
        """Become the log's one writer, if we are not, and see that it holds what was acknowledged.

        A log with records must have a head file, unless we have been its writer and know its head.
        """
        if self._file.claimed:
            return
        before = self._file.slot
        [[position]] = self._fetch(HEAD)
        if not position:
            known = empty(self._mode.synchronous, self._mode.anchored)
        try:
            self._file.claim(fresh=known is not None)
        except FileNotFoundError as error:
            raise self._headless() from error
        try:
            slot = self._file.slot
            if slot is None or not (position or slot.position):  # its beginning may have failed
                if known is None:
                    raise self._headless()
                slot = known
                self._file.begin(slot)
            self._check_anchor(slot)
            self._check_tables(position)
            try:  # a sync of our predecessor may have failed, or it waited for none: build on nothing in its WAL
                self._fold_back(apsw.SQLITE_CHECKPOINT_TRUNCATE)
            except apsw.BusyError:  # somebody reads: then at least a sync of ours stands behind all of it
                self._touch()
            self._sealed, self._hash, self._log = slot.position, slot.hash, slot.log
            if (slot.synchronous, slot.anchored) != (self._mode.synchronous, self._mode.anchored):
                self._anchor()  # so that the doctor tells how it is written now
            self._identities[-1] = self._identify()[-1]
        except BaseException:
            self._file.release()
            self._file.slot = before  # and not what was found there, which may be another log's
            raise

    def _headless(self) -> Rejected:
        return Rejected(
            f"{self._path} has records, but there is no {head_path(self._path).name} beside it to say how many it must "
            f"have. Put that back; or, if the log is all there is, accept it: esrm doctor --adopt {self._path}"
        )

    def _check_anchor(self, slot: Slot | None) -> None:
        """Raise unless the log holds what its head file says was acknowledged."""
        if slot is None or not slot.position:
            return
        name = head_path(self._path).name
        cure = f"restore both files from a copy, or see what is left with: esrm doctor {self._path}"
        [[end]] = self._fetch(HEAD)
        if end < slot.position:
            weak = "" if slot.synchronous in ("FULL", "EXTRA") else f" (with synchronous={slot.synchronous})"
            raise Corrupt(
                f"{self._path} ends at position {end}, but {name} says that {slot.position} was acknowledged{weak}: "
                f"the log was cut, has lost its WAL, or is an older copy; {cure}"
            )
        [[hash]] = self._fetch("SELECT hash FROM records WHERE position = ?", slot.position)
        if hash != slot.hash:
            raise Corrupt(
                f"{self._path}: the record at position {slot.position} is not the one that {name} says was "
                f"acknowledged: it was changed, or the two files are not of one log; {cure}"
            )

    def _check_tables(self, position: int) -> None:
        """Raise unless what is appended is what is stored, and the index, which no hash covers, leads to all of it."""
        if strange := foreign_triggers(self._live()):
            raise Corrupt(
                f"{self._path} has triggers that esrm did not make: {', '.join(strange)}. They can change or leave out "
                "what is appended; drop them"
            )
        [[found]] = self._fetch(_REVISIONS)
        if found != position:
            raise Corrupt(
                f"{self._path}: its index leads to {found:,} records, but {position:,} are there; look with esrm "
                "verify, and restore a copy, or have SQLite make the index anew (REINDEX)"
            )

    def _catch_up(self) -> None:
        """What we know of the end of the log holds as long as nobody else has written to the file."""
        connection = self._live()
        version = connection.data_version()  # a tenth of the cost of asking for the position
        if version == self._version:
            return
        [[position]] = self._fetch(HEAD)
        if position < self._sealed:
            raise Corrupt(f"{self._path} ended at position {self._sealed} and now ends at {position}: records are gone")
        if position != self._sealed or self._version < 0:
            self._ends.clear()
            while self._sealed < position:
                for sealed, hash in self._fetch(_HASHES, self._sealed):
                    self._sealed, self._hash, self._log = sealed, hash, extend(self._log, hash)

    def _settle(self, append: Append[E]) -> None:
        batch = append.batch
        end = self._ends.get(batch.vm) or self._find(batch.vm)
        if end.revision == batch.expected:
            append.rows = self._enter(batch, end)
        elif standing := self._standing(batch):
            append.rows, append.retried = standing, True
        else:
            append.error = conflict(batch, end.revision)

    def _find(self, vm: str) -> _End:
        """Look an end up. A stream gets its row with its first record; until then its number is 0."""
        for _, _, revision, *_, hash in self._fetch(LAST_OF, vm):
            stream = self._fetch("SELECT id FROM streams WHERE name = ?", vm)[0][0]
            return self._ends.setdefault(vm, _End(stream, revision, hash))
        return _End(0, -1, GENESIS)

    def _enter(self, batch: Batch[E], end: _End) -> list[Row]:
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
        if self._identify() != self._identities:
            raise OSError(
                "somebody removed or replaced the log, its WAL or its head file while it was open; put it back"
            )
        self._version = self._live().data_version()
        self.full = self._written() >= self._folded + FOLD_PAGES
        if self.due == 0:
            self._anchor()
        self._anchor_if("commit")
        self.head = max(self.head, self._sealed)

    def _fold_back(self, how: int) -> tuple[int, int]:
        """Fold; with ``OFF``, too, SQLite waits for the disk here, so that the head is never ahead of what is there."""
        if self._mode.synchronous == "OFF":
            self._run("PRAGMA synchronous = NORMAL")
        try:
            return self._live().wal_checkpoint(mode=how)
        finally:
            if self._mode.synchronous == "OFF":
                self._run("PRAGMA synchronous = OFF")

    def _anchor(self) -> None:
        mode = self._mode
        self._file.write(Slot(self._sealed, self._hash, self._log, mode.synchronous, mode.anchored))
        self._anchored_s = perf_counter()

    def _anchor_if(self, *anchored: str) -> None:
        """Anchor the head if that is what it waited for."""
        slot = self._file.slot
        if slot is not None and self._mode.anchored in anchored and slot.position < self._sealed:
            self._anchor()

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
                append.error = Unknown(f"{self._worded(error)}; {_RETRY}")  # as the first time

    def _go_back(self) -> None:
        """Forget what was not committed: the head file says where the log ends, or from where to look."""
        if self._file.claimed and (slot := self._file.slot) is not None:
            self._sealed, self._hash, self._log = slot.position, slot.hash, slot.log

    def _leave_open(self) -> None:
        """Answer the appends in doubt as far as one can without looking."""
        for append in self._doubtful:
            append.rows, append.error = None, Unknown(f"{self._path}: the writer was interrupted; {_RETRY}")
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
        doubtful, self._doubtful = self._doubtful, ()
        why, stands, gone = self.poisoned or OSError("the commit failed"), True, True
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
                kind, outcome = (Rejected, _AGAIN) if rows == [] else (Unknown, _RETRY)
                if kind is Unknown:
                    self._unknown.update(append.batch.ids[:1])
                append.rows, append.error = None, kind(f"{self._worded(why)}; {outcome}")
                append.error.__cause__ = why

    def _mend(self) -> None:
        """Open the log anew and see that what stands in it stays, and what does not stays away. Raises if it cannot."""
        self._rescue()
        self._cover()  # at best, before anybody finds in the WAL what failed, and folds back what may not be there
        self._drop_readers()  # through theirs, a new connection of this process would share the old index of the WAL
        self._connect_again()
        with translated(self._path):
            if (slot := self._file.slot) is not None:
                if not self._file.in_place:  # removed or replaced: what we lock and write there nobody finds
                    self._file.release()
                    self._claim(slot)
                self._check_anchor(self._file.slot)
                self._go_back()
                # A commit that failed may still lie in the WAL, and come back after a power cut. Folded back, what
                # stands is in the file and synced; and what does not is in no WAL any more.
                self._fold_all("a commit failed")
                self._catch_up()
                if self._sealed < self.head:
                    raise Corrupt(f"{self._path} ends at position {self._sealed}, but {self.head} was acknowledged")
                self._anchor()
                self.head = self._sealed
        self.poisoned = None
        self._unknown.clear()

    def _connect_again(self) -> None:
        """A new connection instead of the old one, which is given up last if another file, or none, lies at the path.

        For then it has the only copy of the log that there is; closed, that would be gone for good.
        """
        old, identities = self._connection, self._identities
        if old is None or self._identify()[0] == identities[0]:
            self._disconnect()
            self._connect(create=False)
            return
        self._connection = None
        try:
            self._connect(create=False)
            with translated(self._path):
                self._check_anchor(self._file.slot)
            with SqliteReader[Any](self._path, _NO_CODEC) as reader:
                if (fault := verify(reader).fault) is not None:  # such as an older copy with the WAL of this one
                    raise Corrupt(f"{self._path} was replaced while it was open, and {fault}")
        except EsrmError as error:
            self._disconnect()
            self._connection, self._identities = old, identities
            raise type(error)(
                f"{error} (Put it back, with its WAL; or copy both from where this process has them open still: "
                f"ls -l /proc/{os.getpid()}/fd)"
            ) from error
        with suppress(apsw.Error):
            close(old, self._path)

    def _rescue(self) -> None:
        """Fold back a WAL that others no longer find through the connection that has it open: there is no other copy.

        Raises if that cannot be done now; the connection stays.
        """
        if self._connection is None or not self._file.claimed:
            return
        now = self._identify()
        if now[0] != self._identities[0] or now[1:3] == self._identities[1:3]:
            return
        self._fold_all("its WAL was removed or replaced while it was open, and is whole only here")
        if now[1] not in (_NO_FILE, self._identities[1]):  # an older WAL's pages over newer ones would be nobody's log
            os.replace(self._paths[1], f"{self._paths[1]}-stray")

    def _fold_all(self, why: str) -> None:
        try:
            self._fold_back(apsw.SQLITE_CHECKPOINT_TRUNCATE)
        except apsw.BusyError as error:
            raise StoreError(
                f"{self._path}: {why}; to mend that, all of it must be folded back, and a long read transaction keeps "
                "it from that: end the program that reads"
            ) from error

    def _cover(self) -> bool:
        """Make sure that a commit which failed cannot come back, without room for anything: write over it in the WAL.

        The next commit's frames go where the failed one's are, and those behind them no longer follow from them.
        """
        if self._connection is None or not self._file.claimed or self._identify()[:2] != self._identities[:2]:
            return False
        try:
            self._touch()
        except (apsw.Error, EsrmError):
            with suppress(apsw.Error):
                if self._connection.in_transaction:
                    self._fetch("ROLLBACK")
            return False
        return True

    def _touch(self) -> None:
        """Commit something that changes nothing."""
        self._run("BEGIN IMMEDIATE")
        self._run(f"PRAGMA user_version = {self._fetch('PRAGMA user_version')[0][0]}")
        self._run("COMMIT")

    # -- the connection -----------------------------------------------------------------------------------------------

    def _connect(self, *, create: bool) -> None:
        connection = open_writer(self._path, self._mode.synchronous, self._busy_ms, create=create)
        self._connection, self._patient = connection, True
        self._version = -1  # SQLite's data version as of _sealed; -1 if what we know may be wrong
        self._folded = 0  # how many pages had been written when the WAL was last folded
        self._ends.clear()
        self._pending.clear()
        self._small_blocks = os.statvfs(self._path.parent).f_bsize < 4096
        self._identities = self._identify()
        _, wal, index, _ = self._identities
        if (wal == _NO_FILE) != (index == _NO_FILE):  # SQLite has it open, but nobody else will find it
            self._disconnect()
            raise StoreError(
                f"{self._path}: its WAL or the index of that was removed while a reader of this process had it open, "
                "or another store: close that one"
            )

    def _disconnect(self) -> None:
        connection, self._connection = self._connection, None
        if connection is not None:
            with suppress(apsw.Error):
                close(connection, self._path)

    def _run(self, statement: str) -> None:
        self._live().execute(statement)  # pyright: ignore[reportUnknownMemberType]  as in fetch

    def _live(self) -> apsw.Connection:
        if self._connection is None:
            raise StoreError(f"{self._path} is not open: {self.poisoned}")
        return self._connection

    def _identify(self) -> list[tuple[int, int]]:
        """Which files lie at the paths: (device, inode) of the log, its WAL, the index of that, and its head file."""
        found: list[tuple[int, int]] = []
        for path in self._paths:
            try:
                status = os.lstat(path)  # a link in its place leads elsewhere: whoever comes next looks there
                found.append((status.st_dev, status.st_ino))
            except FileNotFoundError:
                found.append(_NO_FILE)
        return found

    def _be_patient(self, patient: bool) -> None:
        if patient != self._patient:
            self._patient = patient
            self._live().set_busy_timeout(self._busy_ms if patient else 0)

    def _written(self) -> int:
        return self._live().status(apsw.SQLITE_DBSTATUS_CACHE_WRITE)[0]

    def _fetch(self, statement: str, *bindings: Any) -> list[Any]:
        return fetch(self._live(), statement, *bindings)
