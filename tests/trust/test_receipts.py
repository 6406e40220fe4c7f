"""Receipts: a record shown to somebody who has never seen the log; and a log that was edited and hashed anew."""

from __future__ import annotations

import json
import random
from collections.abc import Iterator
from itertools import pairwise

import anyio
import pytest
from scale import pick, repeat, seed

from esrm.errors import Corrupt, Malformed, Unproven
from esrm.proofs import (
    LOG,
    WITNESS,
    Checkpoint,
    Columns,
    Note,
    Receipt,
    SigningKey,
    columns_of,
    inclusion_ranges,
    open_receipt,
    origin_of,
    sign,
    tree_roots,
)
from esrm.proofs.keys import decode, encode
from esrm.stores.chain import GENESIS, link
from esrm.stores.memory import MemoryStore
from esrm.stores.records import Row
from esrm.testing import BytesCodec, drafts

HOST = SigningKey("example.org/host", LOG, bytes(range(32)))
WITNESS_KEY = SigningKey("example.com/witness", WITNESS, bytes(32))
KEYS = [HOST.public, WITNESS_KEY.public]
RECORDS = 23


class Rows:
    """A reader of rows that a test may tamper with."""

    def __init__(self, rows: list[Row]) -> None:
        self.all = rows

    def rows(self, vm: str | None = None, after: int | None = None, limit: int | None = None) -> Iterator[Row]:
        return iter([row for row in self.all if vm in (None, row[1])])

    def anchor(self) -> None:
        return None

    def damage(self) -> None:
        return None


async def two_vms() -> list[Row]:
    """A log of two VMs, each record with data of its own, one of them awkward."""
    store = MemoryStore(BytesCodec())
    async with store:
        for n in range(RECORDS):
            data = b'{"text":"\\u0000 \xc3\xbc \xe7\xbd\x91"}' if n == 5 else b'{"n":%d}' % n
            for vm in ("web-1", "b b"):
                await store.append(vm, drafts(data), expected=n - 1)
    return list(store.reader().rows())


@pytest.fixture(scope="module")
def log() -> Rows:
    """The log that all look at and nobody changes."""
    return Rows(anyio.run(two_vms))


def checkpoint(log: Rows, vm: str = "web-1", size: int = RECORDS) -> Note:
    """A VM's checkpoint, signed by log and witness."""
    [root] = tree_roots(log, vm, [(0, size)])
    text = str(Checkpoint(origin_of(HOST.name, vm), size, root))
    return Note(text, (sign(text, HOST), sign(text, WITNESS_KEY, now=1_795_330_800)))


def receipt(log: Rows, revision: int, vm: str = "web-1", size: int = RECORDS) -> Receipt:
    """What ``esrm prove`` makes."""
    rows = list(log.rows(vm))
    previous = rows[revision - 1][8] if revision else GENESIS
    path = tree_roots(log, vm, inclusion_ranges(revision, size))
    return Receipt(columns_of(rows[revision], previous), tuple(path), checkpoint(log, vm, size))


def believed(data: bytes | str) -> Columns:
    """The record in a receipt, if it is to be believed."""
    found = Receipt.parse(data.encode() if isinstance(data, str) else data)
    open_receipt(found, KEYS)
    return found.columns


@pytest.mark.parametrize("vm", ["web-1", "b b"])
def test_every_record_has_a_receipt(log: Rows, vm: str) -> None:
    """For each record and each checkpoint behind it: what is read is the record, column by column."""
    for size in (1, 2, 3, 16, 17, RECORDS):
        for revision, row in enumerate(log.rows(vm)):
            if revision < size:
                text = str(receipt(log, revision, vm, size))
                assert believed(text).row() == row
                assert str(Receipt.parse(text.encode())) == text


def test_the_form_is_the_open_one(log: Rows) -> None:
    """C2SP tlog-proof: header, extra, index, one hash a line, a blank line, and the checkpoint as it was."""
    made = receipt(log, 3)
    head, blank, note = str(made).partition("\n\n")
    header, extra, index, *path = head.split("\n")
    assert (header, extra[:6], index, blank) == ("c2sp.org/tlog-proof@v1", "extra ", "index 3", "\n\n")
    assert path == [encode(hash) for hash in made.path]
    assert note == str(checkpoint(log))


def test_every_bit_of_a_receipt_counts(log: Rows) -> None:
    """Whatever is flipped, nobody is shown another record, nor the same one with another proof or signature."""
    data = bytearray(str(receipt(log, 5)).encode())
    believed(bytes(data))
    for place in range(len(data)):
        for bit in range(8) if pick(quick=0, ci=1, soak=1) else [place % 8]:
            data[place] ^= 1 << bit
            with pytest.raises((Malformed, Unproven)):
                believed(bytes(data))
            data[place] ^= 1 << bit


def test_every_line_of_a_receipt_counts(log: Rows) -> None:
    """No line but a signature's can be dropped, doubled or swapped with the next one."""
    lines = str(receipt(log, 5)).splitlines(keepends=True)[:-2]
    rest = str(receipt(log, 5)).splitlines(keepends=True)[-2:]
    for n in range(len(lines)):
        doubled, dropped = [*lines[: n + 1], *lines[n:]], [*lines[:n], *lines[n + 1 :]]
        swapped = [*lines[:n], *reversed(lines[n : n + 2]), *lines[n + 2 :]]
        for changed in (doubled, dropped, swapped):
            if changed != lines:
                with pytest.raises((Malformed, Unproven)):
                    believed("".join(changed + rest))


def test_pieces_of_two_receipts_make_none(log: Rows) -> None:
    """A record with another's proof, another's checkpoint, or in another VM's log is not shown."""
    mine, other, older = receipt(log, 5), receipt(log, 6), receipt(log, 5, size=9)
    elsewhere = receipt(log, 5, "b b")
    for wrong in (
        Receipt(mine.columns, other.path, mine.note),
        Receipt(other.columns, mine.path, mine.note),
        Receipt(mine.columns, mine.path, older.note),
        Receipt(mine.columns, older.path, mine.note),
    ):
        with pytest.raises(Unproven, match="is not in the tree"):
            believed(str(wrong))
    for wrong in (
        Receipt(mine.columns, elsewhere.path, elsewhere.note),
        Receipt(elsewhere.columns, mine.path, mine.note),
    ):
        with pytest.raises(Unproven, match=r"the record is of '.*', but the checkpoint is of '.*'"):
            believed(str(wrong))


def test_a_record_that_never_was_has_no_receipt(log: Rows) -> None:
    """Any column of the record that is another one, in the right form: it is not in the tree."""
    made = receipt(log, 5)
    changes = {
        "position": 12, "id": "0199f300-0000-7000-8000-000000000000", "time_ns": 1, "actor": "mallory",
        "correlation": "x", "data": "{}", "previous": "00" * 32,
    }  # fmt: skip
    for column, value in changes.items():
        fields = {name: getattr(made.columns, name) for name in Columns.__struct_fields__}
        with pytest.raises(Unproven, match="is not in the tree"):
            believed(str(Receipt(Columns(**{**fields, column: value}), made.path, made.note)))


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"position": -1}, "position"),
        ({"position": 2**63}, "position"),
        ({"revision": 6}, "index"),
        ({"time_ns": 1.5}, "time_ns"),
        ({"actor": None}, "actor"),
        ({"id": "0199F300-0000-7000-8000-000000000000"}, "as it is written"),
        ({"id": "0199f30000007000-8000-000000000000"}, "as it is written"),
        ({"id": "none"}, "record"),
        ({"previous": "00"}, "record"),
        ({"previous": "AA" * 32}, "as it is written"),
        ({"more": 1}, "more"),
        ({"vm": "\ud800"}, "record"),
    ],
)
def test_records_that_are_none(log: Rows, change: dict[str, object], said: str) -> None:
    """What is in the extra line is a record in its one form, or the receipt is none."""
    lines = str(receipt(log, 4)).split("\n")
    columns = json.loads(decode(lines[1][6:]))
    lines[1] = f"extra {encode(json.dumps(columns | change, separators=(',', ':')).encode())}"
    with pytest.raises(Malformed, match=said):
        believed("\n".join(lines))


def test_a_record_has_one_spelling(log: Rows) -> None:
    """The same columns in JSON with blanks, in another order, with escapes, or said twice: no receipt."""
    text = str(receipt(log, 4))
    lines = text.split("\n")
    data = decode(lines[1][6:]).decode()
    columns = json.loads(data)
    spellings = [
        json.dumps(columns), f"{data} ", f" {data}", data.replace("web-1", "\\u0077eb-1"),
        json.dumps(dict(reversed(columns.items())), separators=(",", ":")), f'{{"position":9,{data[1:]}',
    ]  # fmt: skip
    for spelling in spellings:
        assert json.loads(spelling) == columns
        lines[1] = f"extra {encode(spelling.encode())}"
        with pytest.raises(Malformed, match="is not as it is written"):
            believed("\n".join(lines))
    believed(text)


def test_a_receipt_has_a_size(log: Rows) -> None:
    """Too long a one is refused before anything of it is read."""
    made = receipt(log, 4)
    fields = {name: getattr(made.columns, name) for name in Columns.__struct_fields__}
    long = Receipt(Columns(**{**fields, "data": "x" * 1_600_000}), made.path, made.note)
    with pytest.raises(Malformed, match="at most 2,000,000 bytes"):
        believed(str(long))


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"\n\n",
        b"c2sp.org/tlog-proof@v1",
        b"c2sp.org/tlog-proof@v2\nextra e30=\nindex 0\n\n",
        b"c2sp.org/tlog-proof@v1\nindex 0\n\n",
        b"c2sp.org/tlog-proof@v1\nextra \nindex 0\n\n",
        b"c2sp.org/tlog-proof@v1\nextra e30=\nindex 0\n\n",
        b"c2sp.org/tlog-proof@v1\nextra !!!!\nindex 0\n\n",
        b"c2sp.org/tlog-proof@v1\nextra " + encode(b"[" * 100_000).encode() + b"\nindex 0\n\n",
        b"c2sp.org/tlog-proof@v1\nextra " + encode(b'{"position":"\xff"}').encode() + b"\nindex 0\n\n",
        b"c2sp.org/tlog-proof@v1\n" + b"A" * 3_000_000,
        b"c2sp.org/tlog-proof@v1\n\xff\n\n",
    ],
    ids=range(12),
)
def test_files_that_are_no_receipts(data: bytes) -> None:
    """Each is refused as such."""
    with pytest.raises(Malformed):
        believed(data)


@pytest.mark.parametrize("index", ["05", "+5", "5 ", "", "-5", "9" * 30, "\u0665"])
def test_an_index_has_one_form(log: Rows, index: str) -> None:
    """Decimal, without a sign, blanks or leading zeros."""
    with pytest.raises(Malformed):
        believed(str(receipt(log, 5)).replace("\nindex 5\n", f"\nindex {index}\n"))


def test_a_proof_has_an_end(log: Rows) -> None:
    """More hashes than any tree is high are refused before anything is computed."""
    text = str(receipt(log, 5)).replace("\nindex 5\n", "\nindex 5\n" + f"{encode(bytes(32))}\n" * 64)
    with pytest.raises(Malformed, match="at most 63"):
        believed(text)


# -- a log that was edited and hashed anew ---------------------------------------------------------------------------


def rechained(rows: list[Row], edited: int, column: int, value: object, vm: str = "web-1") -> list[Row]:
    """The log after somebody has edited a record and computed all hashes behind it anew, as only they may who can."""
    result, previous = [], {"web-1": GENESIS, "b b": GENESIS}
    for row in rows:
        columns = list(row[:8])
        if (row[1], row[2]) == (vm, edited):
            columns[column] = value
        previous[row[1]] = link(previous[row[1]], *columns)  # type: ignore[arg-type]
        result.append((*columns, previous[row[1]]))
    return result


@pytest.mark.parametrize(("column", "value"), [(4, 7), (5, "mallory"), (6, "x"), (7, b"{}"), (3, bytes(16))])
def test_an_edited_log_is_refused_by_every_checkpoint_before(log: Rows, column: int, value: object) -> None:
    """It is whole in itself; but each checkpoint that was taken when the record stood already is not its own any more.

    Those taken before the record, and those of the other VM, still are.
    """
    for edited in range(RECORDS):
        forged = Rows(rechained(log.all, edited, column, value))
        for size in range(1, RECORDS + 1):
            ours, theirs = tree_roots(log, "web-1", [(0, size)]), tree_roots(forged, "web-1", [(0, size)])
            assert (ours == theirs) == (edited >= size)
        assert tree_roots(forged, "b b", [(0, RECORDS)]) == tree_roots(log, "b b", [(0, RECORDS)])


def test_an_edited_log_cannot_prove_its_records_by_an_old_checkpoint(log: Rows) -> None:
    """Neither the edited record nor any behind it."""
    forged = Rows(rechained(log.all, 5, 5, "mallory"))
    for revision in range(5, RECORDS):
        made = receipt(forged, revision)
        with pytest.raises(Unproven, match="is not in the tree"):
            believed(str(Receipt(made.columns, made.path, checkpoint(log))))


def test_a_log_that_was_cut_cannot_be_what_was_signed(log: Rows) -> None:
    """Too few records are said to be too few."""
    cut = Rows(log.all[:-2])
    with pytest.raises(Unproven, match=f"there are {RECORDS - 1} leaves, not {RECORDS}"):
        tree_roots(cut, "web-1", [(0, RECORDS)])


@pytest.mark.parametrize(
    ("column", "value"),
    [
        (0, 99),
        (1, "b b"),
        (2, 7),
        (3, b"short"),
        (4, None),
        (5, "x"),
        (6, "\ud800"),
        (7, b""),
        (8, bytes(32)),
        (8, None),
    ],
)
def test_nothing_is_signed_of_a_log_that_is_not_as_it_was_written(log: Rows, column: int, value: object) -> None:
    """The leaves are computed from the columns: a record under a hash that is not its own ends it, and is named."""
    rows = [list(row) for row in log.all]
    rows[10][column] = value  # web-1@5
    with pytest.raises(Corrupt, match="web-1, revision 5"):
        tree_roots(Rows([tuple(row) for row in rows]), "web-1", [(0, RECORDS)])  # type: ignore[misc]


def test_a_record_taken_out_and_hashed_anew_is_noticed(log: Rows) -> None:
    """Even before any checkpoint: a leaf's number is its revision, so none can be missing."""
    rows, previous = [], GENESIS
    for row in log.rows("web-1"):
        if row[2] != 5:
            previous = link(previous, *row[:8])
            rows.append((*row[:8], previous))
    with pytest.raises(Corrupt, match="web-1, revision 5"):
        tree_roots(Rows(rows), "web-1", [(0, RECORDS - 1)])


def test_random_receipts_are_refused(log: Rows) -> None:
    """Pieces of receipts in any order, with noise: only declared errors come out."""
    count = pick(quick=1_000, ci=10_000, soak=100_000)
    dice = random.Random(seed())
    texts = [str(receipt(log, n)) for n in (0, 5)]
    lines = [line for text in texts for line in text.splitlines(keepends=True)]
    for _ in range(count):
        data = bytearray(dice.choice(texts).encode())
        if dice.random() < 0.5:
            first, last = sorted(dice.choices(range(len(data)), k=2))
            data[first:last] = "".join(dice.choices(lines, k=dice.randrange(4))).encode()
        for _ in range(dice.randrange(1, 4)):
            data[dice.randrange(len(data))] = dice.randrange(256)
        if bytes(data).decode(errors="replace") in texts:
            continue
        try:
            believed(bytes(data))
        except (Malformed, Unproven):
            continue
        pytest.fail(repeat(seed(), "tests/trust/test_receipts.py::test_random_receipts_are_refused"))


def test_receipts_are_of_their_own_time(log: Rows) -> None:
    """A receipt by an older checkpoint is as good as one by a newer; it says no more than it says."""
    sizes = [6, 11, RECORDS]
    for older, newer in pairwise(sizes):
        assert believed(str(receipt(log, 5, size=older))) == believed(str(receipt(log, 5, size=newer)))
