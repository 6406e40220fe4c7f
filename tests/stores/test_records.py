"""A stored row is a record or ``Corrupt``: nothing half-understood goes on from here."""

from __future__ import annotations

from enum import Enum
from typing import Any

import pytest
from msgspec.structs import replace

from esrm.errors import Corrupt, InvalidName, Malformed, TooLarge
from esrm.stores.records import (
    BATCH_RECORDS_MAX,
    EVENT_BYTES_MAX,
    Draft,
    Row,
    StreamHead,
    decoded,
    head_of,
    id_bytes,
    iso,
    prepare,
)
from esrm.testing import BytesCodec

ROW: Row = (7, "vm", 3, b"\1" * 16, 5, "me", "boot", b"data", b"\2" * 32)
OTHERS = [None, 1.5, 9, "text", b"bytes", b""]


class Name(str, Enum):  # noqa: UP042  a StrEnum's str() is the name
    """Names as many programs keep them; str() says ``Name.VM``."""

    VM = "vm"
    ACTOR = "me"
    CORRELATION = "boot"


def test_a_name_of_another_class_is_kept_as_text():
    """As it would be read from a disk; and the caller's own drafts stay as they are."""
    own = Draft(event=b"", id="01990000-0000-7000-8000-000000000000", time_ns=5, actor="me", correlation="boot")
    mixed = replace(own, correlation=Name.CORRELATION)
    given = [own, replace(mixed, actor=Name.ACTOR), mixed, own]
    batch = prepare(BytesCodec(), Name.VM, given, -1)
    kept = [(draft.actor, draft.correlation) for draft in batch.drafts]
    assert kept == [("me", "boot")] * 4
    assert {type(name) for names in (kept[0], *kept, (batch.vm,)) for name in names} == {str}
    assert given[1].actor is Name.ACTOR
    assert batch.drafts[0] is own
    with pytest.raises(InvalidName, match="actor: 'a"):
        prepare(BytesCodec(), "vm", [replace(own, actor=type("Text", (str,), {})("a\n"))], -1)


def test_a_row_is_a_record_and_a_head():
    """What a store wrote comes out column by column, the bytes of id and hash as text."""
    record = decoded(BytesCodec(), ROW)
    assert (record.position, record.vm, record.revision, record.time_ns) == (7, "vm", 3, 5)
    assert (record.actor, record.correlation, record.event) == ("me", "boot", b"data")
    assert record.id == "01010101-0101-0101-0101-010101010101"
    assert record.hash == "02" * 32
    assert head_of(ROW) == StreamHead("vm", 3, 7, 5, "02" * 32)
    assert str(record) == "vm@3 (position 7) 1970-01-01T00:00:00.000Z by me: b'data'"
    assert str(decoded(BytesCodec(), (*ROW[:5], "", *ROW[6:]))).endswith(".000Z: b'data'")


@pytest.mark.parametrize("column", range(9))
@pytest.mark.parametrize("value", OTHERS, ids=repr)
def test_a_column_of_another_kind_is_corrupt(column: int, value: Any):
    """A damaged file can hold any of SQLite's types in any column; a float has a ``hex`` too."""
    row: Any = (*ROW[:column], value, *ROW[column + 1 :])
    if type(value) is type(ROW[column]) and column not in (3, 8):  # ids and hashes have a length
        decoded(BytesCodec(), row)
        head_of(row)
        return
    for read in (lambda: decoded(BytesCodec(), row), lambda: head_of(row)):
        with pytest.raises(Corrupt, match=r"the row at position .* has a column that holds what no store wrote: .*"):
            read()


def test_an_event_that_is_none_is_named_by_its_place():
    """What the codec cannot read is said to be Corrupt, and where it stands."""

    class Codec(BytesCodec):
        def decode(self, data: bytes, /) -> bytes:
            raise Corrupt("not an event")

    with pytest.raises(Corrupt, match=r"vm@3 \(position 7\): not an event"):
        decoded(Codec(), ROW)


ID = "018bcfe5-687b-7fff-bfff-ffffffffffff"


def draft(event: bytes = b"", **rest: Any) -> Draft[bytes]:
    """A draft that can be appended, but for what is said."""
    return Draft(**{"event": event, "id": ID, "time_ns": 5, **rest})


@pytest.mark.parametrize(
    "fields",
    [{"time_ns": 0}, {"time_ns": 2**63 - 1}, {"event": b"x" * EVENT_BYTES_MAX}, {"actor": "x" * 255},
     {"correlation": "\u00e9" * 255}, {"actor": "", "correlation": ""}],
    ids=repr,
)  # fmt: skip
def test_what_just_fits(fields: dict[str, Any]):
    """The limits are inclusive, and nothing of a draft is changed."""
    batch = prepare(BytesCodec(), "vm", [draft(**fields)], -1)
    assert (batch.vm, batch.expected, batch.drafts) == ("vm", -1, [draft(**fields)])
    assert (batch.ids, batch.datas) == ([id_bytes(ID)], [fields.get("event", b"")])


def test_a_batch_may_change_hands():
    """Each draft has its own actor and correlation, and any may have none."""
    batch = [draft(actor="me", correlation="boot"), draft(), draft(actor="you"), draft(correlation="later")]
    assert prepare(BytesCodec(), "vm", batch, -1).drafts == batch


@pytest.mark.parametrize(
    ("fields", "error", "said"),
    [
        ({"time_ns": -1}, TooLarge, "time_ns -1 is outside 0 to 2"),
        ({"time_ns": 2**63}, TooLarge, "is outside 0 to 2"),
        ({"event": b"x" * (EVENT_BYTES_MAX + 1)}, TooLarge, "takes 65,536 bytes; the limit is 65,535"),
        ({"actor": "x" * 256}, InvalidName, "actor"),
        ({"correlation": "x" * 256}, InvalidName, "correlation"),
        ({"correlation": "a\nb"}, InvalidName, "correlation"),
        ({"id": ID.upper()}, InvalidName, "is not a UUIDv7 in lower-case text"),
        ({"id": ID.replace("-7", "-4")}, InvalidName, "is not a UUIDv7"),
        ({"id": ID + "0"}, InvalidName, "is not a UUIDv7"),
        ({"id": 7}, InvalidName, "record id '7' is not a UUIDv7"),
        ({"id": None}, InvalidName, "record id 'None' is not a UUIDv7"),
        ({"actor": None}, InvalidName, "actor: expected text, got NoneType"),
        ({"time_ns": 1e18}, Malformed, r"time_ns is a whole number of nanoseconds, an int, not 1e\+18"),
        ({"time_ns": True}, Malformed, "an int, not True"),
        ({"time_ns": None}, Malformed, "an int, not None"),
    ],
)
def test_what_is_refused_before_a_store_is_touched(fields: dict[str, Any], error: type[Exception], said: str):
    """A limit that is passed by one, wherever in the batch."""
    for batch in ([draft(**fields)], [draft(), draft(**fields)], [draft(**fields), draft()]):
        with pytest.raises(error, match=said):
            prepare(BytesCodec(), "vm", batch, 0)


@pytest.mark.parametrize("made", [bytearray(b"reused"), memoryview(b"x"), "text", None])
def test_what_a_codec_makes_is_bytes(made: Any):
    """A buffer may change once the append was answered, and what is no bytes at all would fail inside the store."""

    class Codec(BytesCodec):
        def encode(self, event: bytes, /) -> bytes:
            return made

    with pytest.raises(Malformed, match=f"^vm: the store's codec made .* of event {ID}, which is not bytes$"):
        prepare(Codec(), "vm", [draft()], -1)


def test_ten_thousand_records_are_a_batch():
    """And one more is too many; a batch may be empty, but not expected behind nothing."""
    assert len(prepare(BytesCodec(), "vm", [draft()] * BATCH_RECORDS_MAX, 0).datas) == BATCH_RECORDS_MAX == 10_000
    with pytest.raises(TooLarge, match="a batch of 10,001 records; the limit is 10,000"):
        prepare(BytesCodec(), "vm", [draft()] * (BATCH_RECORDS_MAX + 1), 0)
    assert prepare(BytesCodec(), "vm", [], -1).datas == []


@pytest.mark.parametrize("expected", [-2, 2**63, 0.0, True, None, "0"], ids=repr)
def test_what_is_no_revision_is_not_expected(expected: Any):
    """A float that is equal to the last revision would pass for it, and fail when the hash is made."""
    for batch in ([], [draft()]):
        with pytest.raises(Malformed, match=r"vm: expected is the last revision seen, or -1 .*, not "):
            prepare(BytesCodec(), "vm", batch, expected)
    assert prepare(BytesCodec(), "vm", [], 2**63 - 1).expected == 2**63 - 1


@pytest.mark.parametrize(
    "drafts", [None, 7, draft(), iter([draft()]), [b"x"], [draft(), None], "x"], ids=lambda given: type(given).__name__
)
def test_what_is_no_list_of_drafts(drafts: Any):
    """One that was not put into a list, an event that was not put into a draft."""
    with pytest.raises(Malformed, match="vm: an append takes a list of drafts"):
        prepare(BytesCodec(), "vm", drafts, -1)


def test_the_callers_list_is_its_own():
    """Changed after the call, it does not change the batch, which may be waiting for its turn."""
    given = [draft()]
    batch = prepare(BytesCodec(), "vm", given, -1)
    given.clear()
    assert (len(batch.drafts), len(batch.ids)) == (1, 1)


@pytest.mark.parametrize("text", ["", "01", ID[:-2], ID + "00", "x" * 32])
def test_no_id_is_cut_or_filled(text: str):
    """Sixteen bytes, or ValueError."""
    with pytest.raises(ValueError, match=r"16 bytes|non-hexadecimal"):
        id_bytes(text)


def test_times_are_told_to_the_millisecond():
    """In UTC, cut and not rounded."""
    assert iso(0) == "1970-01-01T00:00:00.000Z"
    assert iso(1_795_000_001_999_999_999) == "2026-11-18T11:06:41.999Z"
    assert iso(1_795_000_001_007_000_000) == "2026-11-18T11:06:41.007Z"
