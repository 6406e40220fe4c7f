"""To accept a log as it stands as the truth, when its head file says otherwise or is gone.

It decides when that may be done: when every record that is there hashes to what it should, when nobody writes, and when
somebody who has been told what is lost wants it so. It is the one way in which esrm ever takes back what it had
acknowledged, so it is separate from everything that runs by itself. Next: ``heads.py``, what is written here.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import apsw
import msgspec

from esrm.errors import Conflict, Corrupt, Rejected, StoreError
from esrm.stores.chain import GENESIS, extend, verify
from esrm.stores.sqlite.doctor.log import writer_of
from esrm.stores.sqlite.heads import HeadFile, Slot, head_path, read_slots
from esrm.stores.sqlite.reader import SqliteReader
from esrm.stores.sqlite.schema import close, fetch, open_writer, translated

BUSY_MS = 5000
_END = "SELECT position, hash FROM records ORDER BY position DESC LIMIT 1"


class Proposal(msgspec.Struct, frozen=True):
    """What accepting a log would mean.

    Attributes:
        head: the head file that would be written.
        old: what the head file says now; None if there is none, or none that is whole.
        damaged: how many slots of it are not as they were written.
        changed: the record that the head file names, or one before it, is not the one that was acknowledged.
    """

    head: Slot
    old: Slot | None
    damaged: int
    changed: bool

    @property
    def lost(self) -> int:
        """How many acknowledged records are not in the log."""
        return max(0, self.old.position - self.head.position) if self.old else 0

    @property
    def needed(self) -> bool:
        """Whether esrm refuses to write to the log as it is."""
        if self.old is None:
            return self.head.position > 0
        return self.lost > 0 or self.changed


class _Bare:
    """A reader that knows of no head file: the records alone are on trial."""

    def __init__(self, reader: SqliteReader[Any]) -> None:
        self.rows, self.head, self.damage = reader.rows, reader.head, reader.damage

    def anchor(self) -> None:
        """Nothing was noted."""


def propose(reader: SqliteReader[Any], path: Path, *, tick: Callable[[int], object] | None = None) -> Proposal:
    """Recompute the whole chain, and say what accepting the log would mean; nothing is changed.

    Args:
        reader: of the log.
        path: the log's file.
        tick: called now and then with the number of records that stand so far.

    Raises:
        Corrupt: a record is not as it was written; such a log cannot be accepted.
        Rejected: somebody has the log open for writing.
        StoreError: the head file cannot be read.
    """
    if who := writer_of(path):  # else adopt() would find out, after the question
        raise Rejected(f"{path} has its writer, {who}: stop it first")
    slots, damaged = read_slots(head_path(path))
    verdict = verify(_Bare(reader), tick=tick)
    if verdict.fault is not None:
        raise Corrupt(f"{path} cannot be accepted, for it was changed. {verdict.fault}. Restore a copy")
    old = slots[0] if slots else None
    position, hash, log, changed = 0, GENESIS, GENESIS, False
    for position, *_, hash in reader.rows():
        log = extend(log, hash)
        if old is not None and position == old.position:
            changed = (hash, log) != (old.hash, old.log)
    return Proposal(Slot(position, hash, log, "FULL", "commit"), old, damaged, changed)


def adopt(path: Path, proposal: Proposal) -> None:
    """Write the new head file, once what it vouches for is on the disk. One that is damaged is kept as ``-damaged``.

    Raises:
        Conflict: the log is not the one that was looked at.
        Rejected: somebody has the log open for writing.
        StoreError: it, or its head file, cannot be written.
    """
    place = head_path(path)
    aside = Path(f"{place}-damaged") if proposal.old is None and proposal.damaged else None
    made = aside is not None or not place.exists()
    file = HeadFile(path)
    try:
        if aside is not None:
            place.replace(aside)
        file.claim(fresh=True)
        _settle(path, proposal.head)
        file.begin(proposal.head)
    except BaseException as error:
        if made and file.claimed:
            place.unlink(missing_ok=True)
        if aside is not None and aside.exists() and not place.exists():
            aside.replace(place)
        if isinstance(error, OSError):
            raise StoreError(f"{place}: {error.strerror}; nothing was accepted") from error
        raise
    finally:
        file.release()


def _settle(path: Path, head: Slot) -> None:
    """See that the log still ends there, and that all of it is on the disk."""
    connection = open_writer(path, head.synchronous, BUSY_MS, create=False)
    try:
        with translated(path):
            if fetch(connection, _END) != ([(head.position, head.hash)] if head.position else []):
                raise Conflict(f"{path} was written to meanwhile: look again")
            connection.wal_checkpoint(mode=apsw.SQLITE_CHECKPOINT_TRUNCATE)  # which syncs what was in it
    finally:
        close(connection, path)
