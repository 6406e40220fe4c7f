"""A stored row is a record or ``Corrupt``: nothing half-understood goes on from here."""

from __future__ import annotations

from typing import Any

import pytest

from esrm.errors import Corrupt
from esrm.stores.records import Row, StreamHead, decoded, head_of
from esrm.testing import BytesCodec

ROW: Row = (7, "vm", 3, b"\1" * 16, 5, "me", "boot", b"data", b"\2" * 32)
OTHERS = [None, 1.5, 9, "text", b"bytes", b""]


def test_a_row_is_a_record_and_a_head():
    """What a store wrote comes out column by column, the bytes of id and hash as text."""
    record = decoded(BytesCodec(), ROW)
    assert (record.position, record.vm, record.revision, record.time_ns) == (7, "vm", 3, 5)
    assert (record.actor, record.correlation, record.event) == ("me", "boot", b"data")
    assert record.id == "01010101-0101-0101-0101-010101010101"
    assert record.hash == "02" * 32
    assert head_of(ROW) == StreamHead("vm", 3, 7, 5, "02" * 32)


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
