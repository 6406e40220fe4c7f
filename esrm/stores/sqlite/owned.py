"""The log as its only writer knows it: that it is whole, where it ends, and the head that is noted outside of it.

It decides who may append: whoever holds the lock on the head file, and finds in the log what that says was
acknowledged. And how a log is mended after SQLite or the disk has failed at any point: it is opened anew, what only
this process still has open is folded back, and what failed is kept from coming back.

Separate from the appends, of which nothing is known here. Next: ``committer.py``, where they become true.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from time import perf_counter
from typing import Any

import apsw
import msgspec

from esrm.errors import Corrupt, EsrmError, Rejected
from esrm.stores.chain import GENESIS, extend, verify
from esrm.stores.records import Committed, CommittedNormal, CommittedOff, CommittedUnanchored
from esrm.stores.sqlite.heads import HeadFile, Slot, empty, head_path, read_head
from esrm.stores.sqlite.live import NO_FILE, LiveLog
from esrm.stores.sqlite.reader import HEAD, LAST_OF, SqliteReader
from esrm.stores.sqlite.schema import close, foreign_triggers, missing, translated

_HASHES = "SELECT position, hash FROM records WHERE position > ? ORDER BY position LIMIT 10000"
_REVISIONS = "SELECT coalesce(sum(1 + (SELECT max(revision) FROM records WHERE stream = streams.id)), 0) FROM streams"
ANCHOR_S = 1.0
_NO_CODEC: Any = None  # of a reader whose events nobody decodes


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


class End(msgspec.Struct):
    """Where a stream ends, or would, with what the transaction under way adds."""

    stream: int
    revision: int
    hash: bytes


class OwnedLog(LiveLog):
    """The log, and what its one writer knows of it; until the first append, only that it can be opened.

    Attributes:
        head: the last acknowledged position we know of; only grows.
    """

    def __init__(self, path: Path, mode: Mode, busy_ms: int, drop_readers: Callable[[], object]) -> None:
        super().__init__(path, mode.synchronous, busy_ms)
        self._mode, self._drop_readers = mode, drop_readers
        self._file = HeadFile(path)
        self._ends: dict[str, End] = {}  # true as of position _sealed; forgotten when somebody else appends
        self._sealed, self._hash, self._log = 0, GENESIS, GENESIS  # the end of the log, once we are its writer
        self._anchored_s = 0.0  # when the head was last anchored
        self.head = 0
        if how := missing(path):
            self._check_vacant(how)
        self._connect(create=True)
        try:
            with translated(path):
                slot = read_head(head_path(path), fresh=not self._fetch(HEAD)[0][0])
                self._check_anchor(slot)
            self.look()
        except BaseException:
            self._disconnect()
            raise

    def _connect(self, *, create: bool) -> None:
        self._version = -1  # SQLite's data version as of _sealed; -1 if what we know may be wrong
        self._ends.clear()
        super()._connect(create=create)

    def look(self) -> None:
        """Learn what other processes have committed. The writer of a log knows without looking."""
        if not self._file.claimed:
            with translated(self._path):
                found = zip(self._identities[:3], self._identify()[:3], strict=True)
                if self._connection is None or any(now not in (NO_FILE, then) for then, now in found):  # restored, say
                    self._disconnect()
                    self._drop_readers()
                    self._connect(create=False)
                self._be_patient(True)
                self.head = max(self.head, self._fetch(HEAD)[0][0])

    @property
    def due(self) -> float | None:
        """In how many seconds the head must be anchored; None if it is, or if that does not go by the clock."""
        slot = self._file.slot
        if self._mode.anchored != "second" or slot is None or slot.position >= self._sealed:
            return None
        return max(0.0, self._anchored_s + ANCHOR_S - perf_counter())

    # -- the one writer -----------------------------------------------------------------------------------------------

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

    def _check_vacant(self, how: str) -> None:
        """Raise if another log was here, or what lies where this one's head must be is no head file."""
        head = head_path(self._path)
        if (slot := read_head(head, fresh=True)) and slot.position:
            raise Corrupt(
                f"{self._path} is {how}, but {slot.position:,} records were "
                f"acknowledged, says {head.name}: put the log back, with its WAL, or move that away to begin a new one"
            )

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

    # -- the end, and the head that is noted outside ------------------------------------------------------------------

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

    def _find(self, vm: str) -> End:
        """Look an end up. A stream gets its row with its first record; until then its number is 0."""
        for _, _, revision, *_, hash in self._fetch(LAST_OF, vm):
            stream = self._fetch("SELECT id FROM streams WHERE name = ?", vm)[0][0]
            return self._ends.setdefault(vm, End(stream, revision, hash))
        return End(0, -1, GENESIS)

    def _go_back(self) -> None:
        """Forget what was not committed: the head file says where the log ends, or from where to look."""
        if self._file.claimed and (slot := self._file.slot) is not None:
            self._sealed, self._hash, self._log = slot.position, slot.hash, slot.log

    def _anchor(self) -> None:
        mode = self._mode
        self._file.write(Slot(self._sealed, self._hash, self._log, mode.synchronous, mode.anchored))
        self._anchored_s = perf_counter()

    def _anchor_if(self, *anchored: str) -> None:
        """Anchor the head if that is what it waited for."""
        slot = self._file.slot
        if slot is not None and self._mode.anchored in anchored and slot.position < self._sealed:
            self._anchor()

    # -- mending ------------------------------------------------------------------------------------------------------

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
        if now[1] not in (NO_FILE, self._identities[1]):  # an older WAL's pages over newer ones would be nobody's log
            os.replace(self._paths[1], f"{self._paths[1]}-stray")

    def _cover(self) -> bool:
        """Make sure that a commit which failed cannot come back, without room for anything: write over it in the WAL.

        The next commit's frames go where the failed one's are, and those behind them no longer follow from them.
        """
        if self._connection is None or not self._file.claimed:
            return False
        try:
            if self._identify()[:2] != self._identities[:2]:
                return False
            self._touch()
        except (apsw.Error, EsrmError):
            with suppress(apsw.Error):
                if self._connection.in_transaction:
                    self._fetch("ROLLBACK")
            return False
        return True
