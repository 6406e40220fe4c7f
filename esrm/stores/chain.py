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
from collections.abc import Callable, Iterator
from typing import Protocol

import msgspec

from esrm.errors import Corrupt
from esrm.stores.records import PAGE, Batch, E, Row

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
    """The first record that is not as it was written. Position or revision is that which should have stood there."""

    position: int
    vm: str
    revision: int
    what: str

    def __str__(self) -> str:
        return f"position {self.position}, {self.vm or '?'}@{self.revision}: {self.what}"


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

    It finds a changed column, a missing or doubled position or revision, and a row that cannot be read at all. All
    streams together are also compared with the head that the store has noted outside of the log, if it has: so records
    missing at the end are found, and, from the beginning on, records whose hashes were all computed anew.

    Args:
        reader: a synchronous face of the store.
        vm: only this VM's stream (other VMs' records lie between its positions, so gaps in those are no fault).
        after: begin behind this revision (of ``vm``) or position (of the store); what stands before it is trusted.
        tick: called after each page with the number of records that stand so far, for a progress bar.
    """
    try:
        anchor = reader.anchor() if vm is None else None  # before the rows: more may be appended meanwhile
    except Corrupt as error:
        return Verdict(0, Fault(0, "", -1, str(error)))
    seals: dict[str, tuple[int, bytes]] = {}
    log = None if vm is not None or after else GENESIS  # the running hash, where it can be known
    last, good, size = (-1 if vm is not None else 0) if after is None else after, 0, PAGE
    while True:
        try:
            page = list(reader.rows(vm, last, size))
        except Corrupt as error:
            if size > 1:  # go on in single steps, to name the very record
                size = 1
                continue
            return Verdict(
                good, Fault(last + 1, "", -1, str(error)) if vm is None else Fault(0, vm, last + 1, str(error))
            )
        if not page:
            if anchor is not None and anchor.position > last:
                gone = f"missing, and all up to position {anchor.position}: they were acknowledged, says the head file"
                return Verdict(good, Fault(last + 1, "", -1, gone))
            # The rows came by position; each VM's come by its index, which no hash covers.
            damage = reader.damage()
            return Verdict(good, None if damage is None else Fault(last, vm or "", -1, damage))
        for row in page:
            position, name, revision = row[:3]
            if vm is None and position != last + 1:
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
    if revision != before + 1:
        return Fault(position, vm, before + 1, f"missing; the record that stands in its place has revision {revision}")
    try:
        digest = link(previous, *row[:8])
        if digest == row[8]:
            return None
        computed, stored = digest.hex(), row[8].hex()
    except (AttributeError, TypeError, ValueError, struct.error) as error:
        return Fault(position, vm, revision, f"a column cannot hold what it holds: {error}")
    return Fault(position, vm, revision, f"its columns and predecessor hash to {computed}, not to {stored} as stored")
