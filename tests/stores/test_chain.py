"""What the chain covers, and what ``verify`` finds."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from math import inf

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from esrm.errors import Corrupt
from esrm.stores.chain import GENESIS, Anchor, Fault, Verdict, cut, extend, link, seal, verify
from esrm.stores.records import Row, prepare
from esrm.testing import BytesCodec, drafts

texts = st.text(st.characters(codec="utf-8"), max_size=3)
numbers = st.integers(0, 2**63 - 1)
columns = st.tuples(
    numbers, texts, numbers, st.binary(min_size=16, max_size=16), numbers, texts, texts, st.binary(max_size=3)
)


def test_link_is_what_its_page_says():
    """Another program can compute the hash from the module's docstring alone."""
    fixed = b"esrm record v1\0\0" + b"P" * 32
    fixed += (7).to_bytes(8, "big") + (3).to_bytes(8, "big") + (10**18).to_bytes(8, "big") + b"I" * 16
    lengths = b"".join(n.to_bytes(4, "big") for n in (6, 2, 0, 5))
    want = hashlib.sha256(fixed + lengths + "w\u00e9b-1".encode() + b"me" + b"event").digest()
    assert link(b"P" * 32, 7, "w\u00e9b-1", 3, b"I" * 16, 10**18, "me", "", b"event") == want


@given(columns, columns)
@example((1, "ab", 0, bytes(16), 0, "c", "", b""), (1, "a", 0, bytes(16), 0, "bc", "", b""))
@example((1, "a", 0, bytes(16), 0, "b", "", b"c"), (1, "a", 0, bytes(16), 0, "b", "c", b""))
def test_no_two_rows_hash_alike(one: tuple, other: tuple):
    """No text can move from one column into its neighbour unseen."""
    assert (link(bytes(32), *one) == link(bytes(32), *other)) == (one == other)


class Rows:
    """A reader of rows that a test may tamper with; ``broken`` positions cannot be read."""

    def __init__(self) -> None:
        self.all: list[Row] = []
        self.broken: set[int] = set()
        self.noted: Anchor | None = None
        for n in range(10):
            mine = [row for row in self.all if row[1] == f"vm-{n % 2}"]
            batch = prepare(BytesCodec(), f"vm-{n % 2}", drafts(b"0", b"1"), len(mine) - 1)
            self.all += seal(batch, len(self.all), mine[-1][8] if mine else bytes(32))

    def rows(self, vm: str | None = None, after: int | None = None, limit: int | None = None) -> Iterator[Row]:
        column, after = 0 if vm is None else 2, -inf if after is None else after
        found = [row for row in self.all if vm in (None, row[1]) and row[column] > after]
        found = (found if vm is None else sorted(found, key=lambda row: row[2]))[:limit]
        if any(row[0] in self.broken for row in found):
            raise Corrupt("the page cannot be read")
        yield from found

    def head(self) -> int:
        return max(row[0] for row in self.all)

    def anchor(self) -> Anchor | None:
        return self.noted

    def damage(self) -> None:
        return None

    def change(self, position: int, column: int, value: object) -> None:
        row = list(self.all[position - 1])
        row[column] = value
        self.all[position - 1] = tuple(row)


def test_a_whole_log_verifies_from_anywhere():
    """Untouched, every record stands: all of them, one stream, or those behind a point; progress is told."""
    rows = Rows()
    told: list[int] = []
    assert verify(rows, tick=told.append) == Verdict(20)
    assert verify(rows, "vm-1") == Verdict(10)
    assert told[-1] == 20
    for after in range(20):
        assert verify(rows, after=after) == Verdict(20 - after)
    for after in range(-1, 10):
        assert verify(rows, "vm-1", after) == Verdict(9 - after)
    assert verify(rows, "nobody") == Verdict(0)


@pytest.mark.parametrize(
    ("column", "value"),
    list(enumerate((5, "vm-x", 9, b"x" * 16, 1, "x", "x", b"x", b"x" * 32))),
    ids=["position", "vm", "revision", "id", "time_ns", "actor", "correlation", "data", "hash"],
)
def test_a_change_in_any_column_is_found(column: int, value: object):
    """Whatever is edited in the record at position 12, the first eleven stand and that one does not."""
    rows = Rows()
    rows.change(12, column, value)
    verdict = verify(rows)
    assert (verdict.good, verdict.ok) == (11, False)
    assert verdict.fault is not None
    assert verdict.fault.position == 12
    assert verify(rows, after=12).good >= 0  # and what is trusted is not looked at


@pytest.mark.parametrize("value", [None, "text", 1.5, -1, 2**64, bytes(15), bytes(17)])
@pytest.mark.parametrize("column", range(3, 9))
def test_a_column_of_the_wrong_kind_is_a_fault_and_no_crash(column: int, value: object):
    """A damaged file may hold anything anywhere; verify says where."""
    rows = Rows()
    rows.change(12, column, value)
    fault = verify(rows).fault
    assert fault is not None
    assert fault.position == 12


def test_missing_and_doubled_records_are_found():
    """A gap in positions or revisions is named by what should stand there."""
    rows = Rows()
    del rows.all[11]
    fault = verify(rows).fault
    assert fault is not None
    assert (fault.position, fault.what) == (12, "missing; the next record has position 13")
    rows = Rows()
    gone = rows.all.pop(11)
    fault = verify(rows, gone[1]).fault
    assert fault is not None
    assert (fault.vm, fault.revision) == (gone[1], gone[2])
    rows = Rows()
    rows.all.insert(11, rows.all[11])
    assert verify(rows).good == 12


@pytest.mark.parametrize(("position", "revision"), [(0, 10), (-1, 10), (-1, -7), (-(2**63), -(2**63))])
def test_a_row_below_all_numbers_is_found(position: int, revision: int):
    """No store gives such a number, but an INSERT does; replay would read the row, whatever hash it has."""
    rows = Rows()
    rows.all.insert(0, (position, "vm-0", revision, bytes(16), 0, "", "", b"x", bytes(32)))
    if position == 0:  # then it can be computed, and is right
        last = next(row for row in rows.all if row[1:3] == ("vm-0", 9))
        rows.all[0] = *rows.all[0][:8], link(last[8], *rows.all[0][:8])
    what = f"no store wrote a record at position {position}: they count from 1"
    assert verify(rows) == Verdict(0, Fault(position, "vm-0", revision, what))
    assert verify(rows, "vm-0") == Verdict(10 if revision > 0 else 0, Fault(position, "vm-0", revision, what))
    assert verify(rows, "vm-1").ok


def test_a_row_that_belongs_to_no_vm_is_found():
    """Its stream's number is nobody's, or the name no text: it has no revision that could be missing."""
    for name in ("", b"\xff", None):
        rows = Rows()
        rows.change(12, 1, name)
        fault = verify(rows).fault
        assert fault is not None
        assert str(fault) == "position 12: the record belongs to no VM"


def test_a_swapped_pair_is_found():
    """Two records that change places do not go unseen."""
    rows = Rows()
    rows.all[10], rows.all[12] = rows.all[12], rows.all[10]
    assert verify(rows).good == 10


def test_an_unreadable_record_is_named():
    """When a page cannot be read, verify goes on in single steps, up to the record that is the trouble."""
    rows = Rows()
    rows.broken = {12}
    fault = verify(rows).fault
    assert verify(rows).good == 11
    assert fault is not None
    assert fault == Fault(12, "", -1, "the page cannot be read")
    fault = verify(rows, rows.all[11][1]).fault
    assert fault == Fault(0, rows.all[11][1], rows.all[11][2], "the page cannot be read")
    rows.broken = {1}
    assert verify(rows, rows.all[0][1]).fault == Fault(0, rows.all[0][1], 0, "the page cannot be read")


def test_a_shortened_log_is_whole():
    """The chain cannot see records cut off its end, and the page says so."""
    rows = Rows()
    del rows.all[15:]
    assert verify(rows) == Verdict(15)


def noted(rows: Rows, position: int) -> Anchor:
    """What a store would have noted outside of the log when it ended there."""
    log = GENESIS
    for row in rows.all[:position]:
        log = extend(log, row[8])
    return Anchor(position, rows.all[position - 1][8], log)


def test_a_log_must_hold_what_was_noted_outside_of_it():
    """It may go on behind the noted head, but not end before; and the record there, and all before, are those noted."""
    rows = Rows()
    for position in (1, 7, 20):
        rows.noted = noted(rows, position)
        assert verify(rows) == Verdict(20)
    del rows.all[15:]
    gone = "missing; position 20 was acknowledged, says the head file: 5 records are gone"
    assert verify(rows) == Verdict(15, Fault(16, "", -1, gone))
    assert verify(rows, after=10) == Verdict(5, Fault(16, "", -1, gone))
    assert verify(rows, "vm-1") == Verdict(8 - 1, Fault(16, "", -1, gone)), "nor is a part of it whole then"
    assert cut(rows) == Fault(16, "", -1, gone)
    rows.noted = noted(rows, 15)
    assert verify(rows) == Verdict(15)


def test_a_rewritten_log_is_not_the_one_that_was_noted():
    """Records may be whole in themselves and other ones: their last hash, or the running hash of all, tells."""
    rows = Rows()
    true = noted(rows, 7)
    vm, revision = rows.all[6][1:3]
    rows.noted = Anchor(7, b"x" * 32, true.log)
    hash = f"whole in itself, but the record acknowledged here had the hash {'78' * 32}, says the head file"
    assert verify(rows) == Verdict(6, Fault(7, vm, revision, hash))
    assert verify(rows, after=5) == Verdict(1, Fault(7, vm, revision, hash))
    rows.noted = Anchor(7, true.hash, b"x" * 32)
    log = "this and all before it are whole in themselves, but not what was acknowledged, says the head file"
    assert verify(rows) == Verdict(6, Fault(7, vm, revision, log))
    assert verify(rows, after=5) == Verdict(15), "what stands before is trusted, so the running hash is not known"
    assert verify(rows, "vm-0") == Verdict(10), "and one stream alone says nothing of the log's head"


def test_a_part_of_a_log_is_held_to_its_end():
    """Who reads one stream looks at the record that was acknowledged last, too: it is there, and it is that one."""
    rows = Rows()
    rows.noted = noted(rows, 15)
    assert (cut(rows), verify(rows, "vm-0")) == (None, Verdict(10))
    rows.noted = Anchor(15, b"x" * 32, GENESIS)
    assert "the record acknowledged here had the hash" in str(cut(rows))
    assert verify(rows, "vm-0") == Verdict(10, cut(rows))
    del rows.all[14]
    missing = Fault(15, "", -1, "missing; position 15 was acknowledged, says the head file: 1 record is gone")
    assert cut(rows) == missing
    rows.broken = {16}
    assert cut(rows) == Fault(15, "", -1, "the page cannot be read")
    for nothing in (None, Anchor(0, GENESIS, GENESIS)):
        rows.noted = nothing
        assert cut(rows) is None


def test_the_way_to_the_rows_may_be_unreadable():
    """What cannot even be looked at is damaged."""
    rows = Rows()

    def unreadable() -> None:
        raise Corrupt("the index cannot be read")

    rows.damage = unreadable
    assert verify(rows) == Verdict(20, Fault(0, "", -1, "the index cannot be read"))


def test_what_was_noted_may_be_unreadable():
    """A damaged head file is a fault, but none of the records: they are looked at all the same, and come first."""
    rows = Rows()

    def unreadable() -> Anchor:
        raise Corrupt("both slots are damaged")

    rows.anchor = unreadable  # type: ignore[method-assign]
    fault = Fault(0, "", -1, "both slots are damaged")
    assert verify(rows) == Verdict(20, fault)
    assert verify(rows, "vm-0") == Verdict(10, fault)
    assert cut(rows) == fault
    assert (fault.beside, str(fault)) == (True, "both slots are damaged")
    del rows.all[11]
    assert verify(rows) == Verdict(11, Fault(12, "", -1, "missing; the next record has position 13"))


@pytest.mark.parametrize("id", [bytes(15), bytes(17)])
def test_an_id_is_neither_cut_nor_filled(id: bytes):
    """A lengthened or shortened id would otherwise hash as the one it was made from."""
    with pytest.raises(ValueError, match="an id has 16 bytes"):
        link(bytes(32), 1, "web-1", 0, id, 0, "", "", b"")
