"""What a store keeps: a draft goes in, a record stands, and these are the limits of both.

It decides the shape of a record, of its raw row, and what is refused before anything is written. Separate from the
stores because they all share it. Next: ``chain.py``, what the hash of a record covers.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import ClassVar, Generic, Protocol, TypeAlias, TypeVar

import msgspec
from msgspec.structs import replace

from esrm import names
from esrm.errors import Corrupt, InvalidName, Malformed, TooLarge

E = TypeVar("E")

EVENT_BYTES_MAX = 65_535
BATCH_RECORDS_MAX = 10_000
PAGE = 1000  # rows that are read at once when nobody says otherwise
TIME_NS_MAX = 2**63 - 1  # the year 2262; what a signed 64-bit column holds
REVISION_MAX = 2**63 - 1

Row: TypeAlias = tuple[int, str, int, bytes, int, str, str, bytes, bytes]
"""A record as it is stored, nothing decoded: position, vm, revision, id (16 bytes), time_ns, actor, correlation,
data (the encoded event), hash (32 bytes). The order is that of the table and of the chain."""

_is_uuid7 = re.compile(r"[0-9a-f]{8}-[0-9a-f]{4}-7[0-9a-f]{3}-[89ab][0-9a-f]{3}-[0-9a-f]{12}").fullmatch


class Codec(Protocol[E]):
    """Turns an event into bytes and back: ``decode(encode(event)) == event``.

    The bytes are what is stored, hashed and limited to 65,535. Stores that keep text expect UTF-8.
    ``decode`` raises ``errors.Corrupt`` for bytes that it cannot have written.
    """

    def encode(self, event: E, /) -> bytes:
        """Return the bytes that stand for the event, the same ones every time."""
        ...

    def decode(self, data: bytes, /) -> E:
        """Return the event that the bytes stand for."""
        ...


# Drafts and records hold nothing that leads back to them, so the garbage collector need not visit them (gc=False):
# with a page or a bulk import of them alive, it took up to half of the time.


class Draft(msgspec.Struct, Generic[E], frozen=True, kw_only=True, gc=False):
    """What a caller appends: an event and who, when and why; the store gives it a place.

    Attributes:
        event: anything the store's codec can encode, to at most 65,535 bytes.
        id: a UUIDv7 as 36 characters of lower-case text. The caller promises that it is unique; a retry of an append
            whose outcome is unknown carries the same ids, and is answered as the first time.
        time_ns: Unix time in nanoseconds, 0 to 2**63-1. The store keeps what it is given; the caller sees to it that
            time never runs backward inside one stream.
        actor: who did it, at most 255 printable characters, "" for nobody in particular.
        correlation: what it was part of, at most 255 printable characters, "" for nothing.
    """

    event: E
    id: str
    time_ns: int
    actor: str = ""
    correlation: str = ""


class Record(msgspec.Struct, Generic[E], frozen=True, gc=False):
    """A draft that stands: the event, where it stands, and the hash that seals it.

    Attributes:
        position: its place in the whole store, from 1, without gaps.
        vm: its stream.
        revision: its place in that stream, from 0, without gaps.
        id, time_ns, actor, correlation, event: as drafted.
        hash: SHA-256 over all of it and over the previous record's hash, 64 hex digits (``chain.link``).
    """

    position: int
    vm: str
    revision: int
    id: str
    time_ns: int
    actor: str
    correlation: str
    event: E
    hash: str

    def __str__(self) -> str:
        who = f" by {self.actor}" if self.actor else ""
        return f"{self.vm}@{self.revision} (position {self.position}) {iso(self.time_ns)}{who}: {self.event}"


class Committed(list[Record[E]]):
    """What an append answers: its records, in order. They are on the disk, and the head is anchored behind them.

    Its class says how well they stand; each weaker way, which somebody asked the store for by name, has its own.
    """

    durability: ClassVar[str] = "survives a power cut, and missing at the end of the log it would be noticed"


class CommittedUnanchored(Committed[E]):
    """On the disk; but the head is anchored each second only, so the last second could be cut off unseen."""

    durability: ClassVar[str] = "survives a power cut; cut off within a second, it would not be noticed"


class CommittedNormal(Committed[E]):
    """Survives the end of the process, but the last of these may be lost in a power cut (``synchronous="NORMAL"``)."""

    durability: ClassVar[str] = "survives the end of the process, perhaps not a power cut"


class CommittedOff(Committed[E]):
    """Survives the end of the process; a power cut may damage the log (``synchronous="OFF"``)."""

    durability: ClassVar[str] = "survives the end of the process; a power cut may damage the log"


class CommittedVolatile(Committed[E]):
    """In memory, for as long as the process lives."""

    durability: ClassVar[str] = "in memory only"


class StreamHead(msgspec.Struct, frozen=True):
    """Where a stream ends: the revision, position, time (Unix nanoseconds) and hash (hex) of its last record."""

    vm: str
    revision: int
    position: int
    time_ns: int
    hash: str


class Batch(msgspec.Struct, Generic[E], frozen=True):
    """Drafts that passed every check, with their encoded forms: what a store's ``append`` works on."""

    vm: str
    expected: int
    drafts: Sequence[Draft[E]]
    ids: list[bytes]
    datas: list[bytes]


def prepare(codec: Codec[E], vm: str, drafts: Sequence[Draft[E]], expected: int) -> Batch[E]:
    """Check everything that can be checked before a store is touched, and encode.

    What gets past this and still cannot be written fails all who share the transaction. So it asks for the types, too,
    and takes a copy of the list, which is the caller's.

    Raises:
        InvalidName: a stream name, actor or correlation that is too long or unprintable, an id that is no UUIDv7.
        TooLarge: too many drafts, too many bytes, a time outside 0 to 2**63-1.
        Malformed: what is no draft, no time, no revision; or what the codec says is no event.
    """
    vm = names.check("stream", vm)
    if type(expected) is not int or not -1 <= expected <= REVISION_MAX:
        raise Malformed(f"{vm}: expected is the last revision seen, or -1 for an empty stream, not {expected!r:.40}")
    try:
        size = len(drafts)
    except TypeError as error:
        raise Malformed(f"{vm}: an append takes a list of drafts, not {drafts!r:.80}") from error
    if size > BATCH_RECORDS_MAX:
        raise TooLarge(f"{vm}: a batch of {size:,} records; the limit is {BATCH_RECORDS_MAX:,}")
    drafts = [*drafts]
    ids: list[bytes] = []
    datas: list[bytes] = []
    encode, actor, correlation = codec.encode, "", ""
    for index, draft in enumerate(drafts):
        if not isinstance(draft, Draft):  # pyright: ignore[reportUnnecessaryIsInstance]  not every caller has types
            raise Malformed(f"{vm}: an append takes a list of drafts, and {draft!r:.80} is none")
        if draft.actor is not actor:  # in a batch it is nearly always the same one, checked already
            actor = names.check("actor", draft.actor, empty=True)
            if draft.actor is not actor:  # of a class of its own, such as a StrEnum
                draft = drafts[index] = replace(draft, actor=actor)
        if draft.correlation is not correlation:
            correlation = names.check("correlation", draft.correlation, empty=True)
            if draft.correlation is not correlation:
                draft = drafts[index] = replace(draft, correlation=correlation)
        id, time_ns = draft.id, draft.time_ns
        if type(id) is not str or not _is_uuid7(id):
            raise InvalidName(f"{vm}: record id {str(id)[:64]!r} is not a UUIDv7 in lower-case text")
        if type(time_ns) is not int:
            raise Malformed(f"{vm}: time_ns is a whole number of nanoseconds, an int, not {time_ns!r:.40}")
        if not 0 <= time_ns <= TIME_NS_MAX:
            raise TooLarge(f"{vm}: time_ns {time_ns} is outside 0 to 2**63-1")
        data = encode(draft.event)
        if type(data) is not bytes:  # a bytearray may change under the store, and anything else fails in it
            raise Malformed(f"{vm}: the store's codec made {data!r:.40} of event {id}, which is not bytes")
        if len(data) > EVENT_BYTES_MAX:
            raise TooLarge(f"{vm}: event {id} takes {len(data):,} bytes; the limit is {EVENT_BYTES_MAX:,}")
        ids.append(bytes.fromhex(id.replace("-", "")))
        datas.append(data)
    return Batch(vm, expected, drafts, ids, datas)


def id_bytes(text: str) -> bytes:
    """Return the 16 bytes of an id given as text; ValueError if it is not 32 hex digits and hyphens."""
    data = bytes.fromhex(text.replace("-", ""))
    if len(data) != 16:
        raise ValueError(f"{text!r} is not the text of 16 bytes")
    return data


def id_text(data: bytes) -> str:
    """Return the usual 36 characters for the 16 bytes of an id."""
    digits = data.hex()
    return f"{digits[:8]}-{digits[8:12]}-{digits[12:16]}-{digits[16:20]}-{digits[20:]}"


def entered(rows: Sequence[Row], drafts: Sequence[Draft[E]]) -> list[Record[E]]:
    """Return the records that drafts have become: nothing is decoded, what can be is taken from the draft."""
    return [
        Record(
            row[0], row[1], row[2], draft.id, draft.time_ns, draft.actor, draft.correlation, draft.event, row[8].hex()
        )
        for row, draft in zip(rows, drafts, strict=True)
    ]  # fmt: skip


def record_of(row: Row, event: E) -> Record[E]:
    """Return the record that a row and its decoded event make."""
    position, vm, revision, id, time_ns, actor, correlation, _, hash = row
    return Record(position, vm, revision, id_text(id), time_ns, actor, correlation, event, hash.hex())


def decoded(codec: Codec[E], row: Row) -> Record[E]:
    """Return the record that a stored row says; ``Corrupt`` if no store can have written it."""
    _check_types(row)
    try:
        return record_of(row, codec.decode(row[7]))
    except Corrupt as error:
        raise Corrupt(f"{row[1]}@{row[2]} (position {row[0]}): {error}") from error


def head_of(row: Row) -> StreamHead:
    """Return the head of a stream whose last row this is; ``Corrupt`` if no store can have written it."""
    _check_types(row)
    return StreamHead(row[1], row[2], row[0], row[4], row[8].hex())


def _check_types(row: Row) -> None:
    """Refuse a column of another type or length: in a damaged file SQLite finds any, whatever its table says."""
    position, vm, revision, id, time_ns, actor, correlation, data, hash = row
    # Written out, for it is asked of every record that is read; a loop takes three times as long.
    if not (
        type(position) is type(revision) is type(time_ns) is int
        and type(vm) is type(actor) is type(correlation) is str
        and type(id) is type(data) is type(hash) is bytes
        and len(id) == 16
        and len(hash) == 32
    ):
        shown = ", ".join(f"{value!r:.40}" for value in row)
        raise Corrupt(f"the row at position {position!r:.40} has a column that holds what no store wrote: {shown}")


def iso(time_ns: int) -> str:
    """Return a time as ISO text in UTC, to the millisecond: 2026-11-22T07:00:00.123Z."""
    seconds, rest = divmod(time_ns, 1_000_000_000)
    return f"{datetime.fromtimestamp(seconds, UTC):%Y-%m-%dT%H:%M:%S}.{rest // 1_000_000:03}Z"
