"""Which column of a bad record was changed, as far as that can be known.

A hash covers all columns at once: it says that something is wrong, not what. But it judges guesses. If a column is put
back as it may have been, and the stored hash is right then, that was the column, and that is what stood there. And the
record behind goes on from this one's hash, and the head file has the last one's: they tell whether the hash itself was
changed. What is left is said as what it is: one of several. Separate from ``chain.py``, which must be quick and decides
alone whether a record is good.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterator
from contextlib import suppress
from typing import Any

import msgspec

from esrm import names
from esrm.errors import Corrupt, EsrmError
from esrm.stores.base import Reader
from esrm.stores.chain import GENESIS, Fault, link
from esrm.stores.records import EVENT_BYTES_MAX, TIME_NS_MAX, Row

COLUMNS = ("position", "vm", "revision", "id", "time_ns", "actor", "correlation", "data", "hash")
NEIGHBOURS = 100
"""Records before and behind whose actors and correlations are tried."""
PLACES = 10_000
"""Positions that are tried between its neighbours in the VM's log."""
EFFORT_BYTES = 64_000_000
"""What may be hashed to find one flipped bit in the data; it suffices for events of 2,500 bytes."""

_TIME, _DATA, _HASH = 4, 7, 8


class Suspicion(msgspec.Struct, frozen=True):
    """What was probably changed.

    Attributes:
        columns: the column; or those of which it is one, when more cannot be known.
        why: the reason, as a sentence.
    """

    columns: tuple[str, ...]
    why: str

    def __str__(self) -> str:
        several = "one of " if len(self.columns) > 1 else ""
        return f"{several}{', '.join(self.columns)}: {self.why}"


def suspect(reader: Reader[Any], fault: Fault, decode: Callable[[bytes], object] | None = None) -> Suspicion | None:
    """What was changed in the record that ``chain.verify`` found.

    Args:
        reader: the one that was verified; all records before the fault are as they were written.
        fault: what was found.
        decode: the codec's, which raises ``Corrupt`` for data that is no event; None: events are not looked into.

    Returns:
        None if there is no record to look at, or none of its columns is wrong (records are missing, or the log is
        whole in itself and another one than it was).
    """
    try:
        after = fault.position - 1 if fault.position > 0 else None  # below the positions there are, it is the first row
        row = next((row for row in reader.rows(None, after, 1) if row[0] == fault.position), None)
        if row is None:
            return _moved(reader, fault.position) if fault.position > 0 else None
        before = next(reader.rows(fault.vm, fault.revision - 2, 1), None) if fault.revision > 0 else None
        return _Record(reader, row, fault.revision, before).suspicion(decode)
    except (Corrupt, AttributeError, TypeError, ValueError, struct.error):  # nor can what stands around it be read
        return None


class _Record:
    """The bad record between its neighbours."""

    def __init__(self, reader: Reader[Any], row: Row, revision: int, before: Row | None) -> None:
        self.reader, self.row, self.revision, self.before = reader, row, revision, before
        self.previous = GENESIS if before is None else before[_HASH]
        self.behind = next(reader.rows(row[1], row[2], 1), None)
        if self.behind is not None and self.behind[2] != row[2] + 1:
            self.behind = None
        self.anchor = None
        with suppress(EsrmError):
            self.anchor = reader.anchor()

    def suspicion(self, decode: Callable[[bytes], object] | None) -> Suspicion | None:
        row = self.row
        for column, (rule, holds) in _RULES.items():
            if not holds(row[COLUMNS.index(column)]):
                return Suspicion((column,), rule)
        computed = link(self.previous, *row[:8])
        if computed == row[_HASH]:
            return None
        if self._goes_on_from(computed):
            return Suspicion(("hash",), "the next record goes on from the hash that the columns make")
        if self._acknowledged(computed):
            return Suspicion(("hash",), "the head file has the hash that the columns make")
        if (int.from_bytes(computed) ^ int.from_bytes(row[_HASH])).bit_count() <= 8:
            return Suspicion(("hash",), "it is a few bits from the hash that the columns make")
        return self._restored() or self._odd(decode) or self._rest()

    def _restored(self) -> Suspicion | None:
        """A column with which, as it may have been, the hash is right."""
        for column, value, previous in self._guesses():
            place = COLUMNS.index(column)
            guess: Any = (*self.row[:place], value, *self.row[place + 1 : 8])
            if link(previous, *guess) == self.row[_HASH]:
                shown = f"with {value!r:.80} there" if not isinstance(value, bytes) else "with one bit the other way"
                return Suspicion((column,), f"{shown}, the hash is as stored")
        return None

    def _guesses(self) -> Iterator[tuple[str, Any, bytes]]:
        """What may have stood in a column, and the hash before the record then."""
        row, previous = self.row, self.previous
        yield "revision", self.revision, previous
        if self.before is not None and self.behind is not None:
            for position in range(self.before[0] + 1, min(self.behind[0], self.before[0] + PLACES)):
                yield "position", position, previous
        vm, revision = row[1], row[2]
        around = list(self.reader.rows(vm, revision - NEIGHBOURS - 1, 2 * NEIGHBOURS))
        for column in ("actor", "correlation"):
            place = COLUMNS.index(column)
            for value in dict.fromkeys(["", *(other[place] for other in around)]):
                yield column, value, previous
        tick = _tick(row[3])
        for time_ns in range(_time_of(tick), _time_of(tick + 1) + 1):  # ids are made from the time
            if time_ns <= TIME_NS_MAX:
                yield "time_ns", time_ns, previous
        for stream in self.reader.streams():
            last = next(self.reader.rows(stream.vm, revision - 2, 1), None) if revision else None
            yield "vm", stream.vm, GENESIS if last is None else last[_HASH]
        for column in COLUMNS[:_HASH]:
            yield from ((column, value, previous) for value in _flipped(row[COLUMNS.index(column)]))

    def _odd(self, decode: Callable[[bytes], object] | None) -> Suspicion | None:
        """A column that cannot be what it is, though it is of the right form."""
        if decode is not None:
            try:
                decode(self.row[_DATA])
            except EsrmError as error:
                return Suspicion(("data",), str(error))
        if self.before is not None and self.row[_TIME] < self.before[_TIME]:
            return Suspicion(("time_ns",), "it is before the time of the record before")
        return None

    def _rest(self) -> Suspicion | None:
        """What nothing speaks for, and nothing against."""
        good_hash = self._goes_on_from(self.row[_HASH]) or self._acknowledged(self.row[_HASH])
        if self.row[2] != self.revision:
            return self._renumbered(good_hash)
        columns = list(COLUMNS)
        columns.remove("revision")
        if self.before is not None:
            columns.remove("vm")
        if self.row[0] == 1 or next(self.reader.rows(None, self.row[0] - 2, 1))[0] == self.row[0] - 1:
            columns.remove("position")
        if good_hash:
            columns.remove("hash")
        around = [row for row in (self.before, self.behind) if row is not None]
        if around and all(map(_agree, around)):
            if not _agree(self.row):
                return Suspicion(("id", "time_ns"), "they do not agree, as they do in the records around")
            columns.remove("time_ns")
        return Suspicion(tuple(columns), "more the hashes do not tell")

    def _renumbered(self, good_hash: bool) -> Suspicion | None:
        """Where another revision stands in a record's place: that record, if it now says a later one."""
        for row in self.reader.rows(self.row[1], self.row[2]):
            if link(self.previous, row[0], row[1], self.revision, *row[3:8]) == row[_HASH]:
                why = f"the record at position {row[0]}, now {row[2]}, has the right hash with {self.revision} there"
                return Suspicion(("revision",), why)
        return None if good_hash else Suspicion(("vm", "revision"), "it does not go on from the record before")

    def _goes_on_from(self, hash: bytes) -> bool:
        return self.behind is not None and link(hash, *self.behind[:8]) == self.behind[_HASH]

    def _acknowledged(self, hash: bytes) -> bool:
        return self.anchor is not None and (self.row[0], hash) == (self.anchor.position, self.anchor.hash)


def _moved(reader: Reader[Any], position: int) -> Suspicion | None:
    """Where nothing stands at a position: the record that stood there, if it now says another one."""
    for stream in reader.streams():
        previous = GENESIS
        for row in reader.rows(stream.vm):
            if row[0] != position and link(previous, position, *row[1:8]) == row[_HASH]:
                why = f"{stream.vm}@{row[2]}, now at position {row[0]}, has the right hash with {position} there"
                return Suspicion(("position",), why)
            previous = row[_HASH]
    return None


def _flipped(value: Any) -> Iterator[Any]:
    """Every value that is one bit away, as far as there is a value with those bits."""
    if isinstance(value, int):
        yield from (value ^ 1 << bit for bit in range(63))
        return
    data = bytearray(value.encode() if isinstance(value, str) else value)
    if (len(data) + 200) * len(data) * 8 > EFFORT_BYTES:
        return
    for place in range(len(data)):
        for bit in range(8):
            data[place] ^= 1 << bit
            with suppress(UnicodeDecodeError):
                yield data.decode() if isinstance(value, str) else bytes(data)
            data[place] ^= 1 << bit


def _is_uuid7(value: Any) -> bool:
    return isinstance(value, bytes) and len(value) == 16 and value[6] >> 4 == 7 and value[8] >> 6 == 2


def _is_name(value: Any) -> bool:
    try:
        names.check("", value, empty=True)
    except names.InvalidName:
        return False
    return True


def _is_text(value: Any) -> bool:
    try:
        return isinstance(value, bytes) and len(value) <= EVENT_BYTES_MAX and bool(value.decode() or True)
    except UnicodeDecodeError:
        return False


def _within(value: Any, least: int) -> bool:
    return type(value) is int and least <= value <= TIME_NS_MAX


_RULES: dict[str, tuple[str, Callable[[Any], bool]]] = {
    "position": ("no store wrote such a number", lambda value: _within(value, 1)),
    "vm": ("the stream's number belongs to no VM, or the VM's name is none", lambda value: value and _is_name(value)),
    "revision": ("no store wrote such a number", lambda value: _within(value, 0)),
    "id": ("it is no UUIDv7", _is_uuid7),
    "time_ns": ("no store wrote such a number", lambda value: _within(value, 0)),
    "actor": ("no store wrote such a text", _is_name),
    "correlation": ("no store wrote such a text", _is_name),
    "data": (f"it is no text of at most {EVENT_BYTES_MAX:,} bytes", _is_text),
    "hash": ("it has not 32 bytes", lambda value: isinstance(value, bytes) and len(value) == 32),
}
"""What a column must be in itself, in the order in which the columns are looked at."""


# -- ids made from times: 48 bits of milliseconds and 12 of their fraction (RFC 9562, 6.2, method 3) -------------------


def _tick(id: bytes) -> int:
    number = int.from_bytes(id[:8])
    return number >> 16 << 12 | number & 0xFFF


def _time_of(tick: int) -> int:
    return (tick >> 12) * 1_000_000 + -(-(tick & 0xFFF) * 1_000_000 // 4096)


def _agree(row: Row) -> bool:
    """Whether id and time may be of one moment; ids count on where a clock stands still, so they may be ahead."""
    return 0 <= _tick(row[3]) - ((row[_TIME] // 1_000_000) << 12) <= 1 << 16
