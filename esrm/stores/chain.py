r"""The chain: each record's hash covers all its columns and the hash before it in its VM's stream.

It decides what can be changed in a log without anybody noticing: nothing but the tail, for a log cut short at its end
is whole in itself. So a store on disk also notes its head outside of the log: an ``Anchor``, whose running hash
(``extend``) covers every record of every stream up to its position.

The hash, so that another program can compute it: SHA-256 over the bytes below, big-endian, unsigned, in this order::

    16  the ASCII text "esrm record v1" and two zero bytes
    32  the hash of the record before it in the same stream; zeros for revision 0
     8  position
     8  revision
     8  time_ns
    16  id (the UUID's bytes)
     4  length of vm           in bytes of UTF-8
     4  length of actor        in bytes of UTF-8
     4  length of correlation  in bytes of UTF-8
     4  length of data         in bytes
        vm, actor, correlation, data, one after the other

All lengths stand before the first byte of variable length, so two different rows never hash the same bytes.
Next: ``base.py``, where the readers that ``verify`` walks come from.
"""

from __future__ import annotations

import hashlib
import struct
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from typing import Any, Protocol, TypeVar

import msgspec

from esrm.errors import Corrupt, EsrmError
from esrm.stores.records import PAGE, Batch, E, Row

T = TypeVar("T", bound=tuple[Any, ...])

GENESIS = bytes(32)
_pack = struct.Struct(">16s32sQQQ16sIIII").pack
_sha256 = hashlib.sha256
_DOMAIN = b"esrm record v1\0\0"


def link(
    previous: bytes, position: int, vm: str, revision: int, id: bytes, time_ns: int, actor: str, correlation: str,
    data: bytes,
) -> bytes:  # fmt: skip
    """Return the 32-byte hash of a record; the arguments after ``previous`` are its row up to the hash."""
    if len(id) != 16 or len(previous) != 32:  # struct would cut or fill, and two rows would hash alike
        raise ValueError(f"an id has 16 bytes and a hash 32, not {len(id)} and {len(previous)}")
    return _digest(previous, position, vm.encode(), revision, id, time_ns, actor.encode(), correlation.encode(), data)


def seal(batch: Batch[E], position: int, previous: bytes) -> list[Row]:
    """Return the rows that a batch becomes behind ``position`` and a stream whose last hash is ``previous``."""
    rows: list[Row] = []
    vm, revision, name = batch.vm, batch.expected, batch.vm.encode()
    for draft, id, data in zip(batch.drafts, batch.ids, batch.datas, strict=True):
        position, revision = position + 1, revision + 1
        time_ns, actor, correlation = draft.time_ns, draft.actor, draft.correlation
        previous = _digest(previous, position, name, revision, id, time_ns, actor.encode(), correlation.encode(), data)
        rows.append((position, vm, revision, id, time_ns, actor, correlation, data, previous))
    return rows


def _digest(
    previous: bytes, position: int, vm: bytes, revision: int, id: bytes, time_ns: int, actor: bytes, correlation: bytes,
    data: bytes,
) -> bytes:  # fmt: skip
    lengths = len(vm), len(actor), len(correlation), len(data)
    fixed = _pack(_DOMAIN, previous, position, revision, time_ns, id, *lengths)
    return _sha256(fixed + vm + actor + correlation + data).digest()


def extend(log: bytes, hash: bytes) -> bytes:
    """Return the running hash of a log, one record later: SHA-256 over ``log`` (zeros for none yet) and its hash."""
    return _sha256(log + hash).digest()


class Anchor(msgspec.Struct, frozen=True):
    """What is known, from outside of a log, about what it must hold.

    Attributes:
        position: the last position that was acknowledged; 0 for none.
        hash: the 32-byte hash of the record there.
        log: the running hash over all records up to there (``extend``), 32 bytes.
    """

    position: int
    hash: bytes
    log: bytes


class Fault(msgspec.Struct, frozen=True):
    """The first record that is not as it was written. Position or revision is that which should have stood there.

    Position 0 is one that is not known, "" a VM that is not.
    """

    position: int
    vm: str
    revision: int
    what: str

    def __str__(self) -> str:
        position = f"position {self.position}" if self.position else ""
        place = ", ".join(filter(None, (position, f"{self.vm}@{self.revision}" if self.vm else "")))
        return f"{place}: {self.what}" if place else self.what

    @property
    def beside(self) -> bool:
        """Whether it is about no record, but about the head file, or the file as such."""
        return not (self.position or self.vm)


class Verdict(msgspec.Struct, frozen=True):
    """What ``verify`` found: how many records stand, in order, and the first that does not (None: all do)."""

    good: int
    fault: Fault | None = None

    @property
    def ok(self) -> bool:
        """Whether nothing was found."""
        return self.fault is None


class Rows(Protocol):
    """What ``verify`` asks of a reader (``base.Reader`` has it)."""

    def rows(self, vm: str | None = None, after: int | None = None, limit: int | None = None) -> Iterator[Row]:
        """Yield stored rows in order: of one VM after a revision, or of all after a position."""
        ...

    def head(self) -> int:
        """Return the last position."""
        ...

    def anchor(self) -> Anchor | None:
        """Return what is noted outside of the log about its head; None for nothing."""
        ...

    def damage(self) -> str | None:
        """Return what is wrong with the way to the rows of one stream; None for nothing."""
        ...


def verify(
    reader: Rows, vm: str | None = None, after: int | None = None, *, tick: Callable[[int], object] | None = None
) -> Verdict:
    """Recompute the chain, streaming, and stop at the first record that is not as it was written.

    It finds a changed column, a missing or doubled position or revision, a record where none can be, and a row that
    cannot be read at all. The log is also compared with the head that the store has noted outside of it, if it has: so
    records missing at the end are found, and, with all streams together and from the beginning on, records whose
    hashes were all computed anew.

    Args:
        reader: a synchronous face of the store.
        vm: only this VM's stream (other VMs' records lie between its positions, so gaps in those are no fault).
        after: begin behind this revision (of ``vm``) or position (of the store); what stands before it is trusted.
        tick: called after each page with the number of records that stand so far, for a progress bar.
    """
    anchor = unknown = None
    try:
        anchor = reader.anchor()  # before the rows: more may be appended meanwhile
    except EsrmError as error:  # then the records are looked at all the same
        unknown = Fault(0, "", -1, str(error))
    verdict = walk(reader, vm, after, None if vm is not None else anchor, tick=tick)
    return Verdict(verdict.good, verdict.fault or unknown or _ended(reader, anchor) or _damaged(reader))


def cut(reader: Rows) -> Fault | None:
    """What is wrong with the log's end, by the head that was noted outside of the log; None: nothing, or none was.

    It looks at one record, so it is for who reads only a part of the log, and must not take a log cut short for whole.
    """
    try:
        return _ended(reader, reader.anchor())
    except EsrmError as error:
        return Fault(0, "", -1, str(error))


def walk(
    reader: Rows, vm: str | None = None, after: int | None = None, anchor: Anchor | None = None, *,
    tick: Callable[[int], object] | None = None,
) -> Verdict:  # fmt: skip
    """The records alone, as ``verify`` has it, and on the way (of all streams) the one that the anchor is about."""
    seals: dict[str, tuple[int, bytes]] = {}
    log = None if vm is not None or after else GENESIS  # the running hash, where it can be known
    last, good = (-1 if vm is not None else 0) if after is None else after, 0
    try:
        # From None on, which is below all numbers: a row at -1 is nothing to a chain that begins behind 0.
        for page in pages(partial(reader.rows, vm), after, 0 if vm is None else 2):
            for row in page:
                position, name, revision = row[:3]
                if vm is None and position != last + 1 and position > 0:
                    return Verdict(good, Fault(last + 1, "", -1, f"missing; the next record has position {position}"))
                if name not in seals:
                    seals[name] = _trusted(reader, name, revision) if after is not None else (-1, GENESIS)
                if fault := _fault(row, *seals[name]):
                    return Verdict(good, fault)
                seals[name] = revision, row[8]
                log = log and extend(log, row[8])
                if anchor is not None and position == anchor.position and (fault := _astray(row, log, anchor)):
                    return Verdict(good, fault)
                last, good = (position if vm is None else revision), good + 1
            if tick is not None:
                tick(good)
    except Corrupt as error:
        return Verdict(good, Fault(last + 1, "", -1, str(error)) if vm is None else Fault(0, vm, last + 1, str(error)))
    return Verdict(good)


def pages(read: Callable[[Any, int], Iterable[T]], after: int | None, column: int) -> Iterator[list[T]]:
    """Yield what ``read(after, limit)`` gives, page by page, going on behind the ``column`` of the last row.

    When a page cannot be read it goes on in single steps, and raises ``Corrupt`` at the very row.
    """
    size = PAGE
    while True:
        try:
            page = list(read(after, size))
        except Corrupt:
            if size == 1:
                raise
            size = 1
            continue
        if not page:
            return
        yield page
        after = page[-1][column]


def _ended(reader: Rows, anchor: Anchor | None) -> Fault | None:
    """What is wrong at the end that the anchor is about, or behind what is left of the log, if something is."""
    if anchor is None or not anchor.position:
        return None
    try:
        row = next(reader.rows(None, anchor.position - 1, 1), None)
        if row is not None and row[0] == anchor.position:
            return _astray(row, None, anchor)
        first = min(reader.head() + 1, anchor.position)
    except Corrupt as error:
        return Fault(anchor.position, "", -1, str(error))
    gone = anchor.position - first + 1
    records = f"{gone:,} records are gone" if gone > 1 else "1 record is gone"
    return Fault(first, "", -1, f"missing; position {anchor.position} was acknowledged, says the head file: {records}")


def _damaged(reader: Rows) -> Fault | None:
    """What is wrong with the way to the rows: those of all streams come by position, one VM's by its index, which no
    hash covers.
    """
    try:
        damage = reader.damage()
    except Corrupt as error:
        damage = str(error)
    return None if damage is None else Fault(0, "", -1, damage)


def _astray(row: Row, log: bytes | None, anchor: Anchor) -> Fault | None:
    """What is wrong with the record at the anchor's position, or with all before it, if something is."""
    if row[8] != anchor.hash:
        what = f"whole in itself, but the record acknowledged here had the hash {anchor.hash.hex()}, says the head file"
    elif log is not None and log != anchor.log:
        what = "this and all before it are whole in themselves, but not what was acknowledged, says the head file"
    else:
        return None
    return Fault(row[0], row[1], row[2], what)


def _trusted(reader: Rows, vm: str, revision: int) -> tuple[int, bytes]:
    """The revision and hash of the record before the first one looked at."""
    return next(((row[2], row[8]) for row in reader.rows(vm, revision - 2, 1) if revision > 0), (-1, GENESIS))


def _fault(row: Row, before: int, previous: bytes) -> Fault | None:
    position, vm, revision = row[:3]
    if not vm or not isinstance(vm, str):  # pyright: ignore[reportUnnecessaryIsInstance]  in a damaged file it is any
        return Fault(position, "", revision, "the record belongs to no VM")
    if position < 1:
        return Fault(position, vm, revision, f"no store wrote a record at position {position}: they count from 1")
    if revision != before + 1:
        return Fault(position, vm, before + 1, f"missing; the record that stands in its place has revision {revision}")
    try:
        digest = link(previous, *row[:8])
        if digest == row[8]:
            return None
        computed, stored = digest.hex(), row[8].hex()
    except (AttributeError, TypeError, ValueError, struct.error):
        return Fault(position, vm, revision, "a column holds what no store writes")
    return Fault(position, vm, revision, f"its columns and predecessor hash to {computed}, not to {stored} as stored")
