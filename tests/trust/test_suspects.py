"""Which column was changed: found where it can be known, and never another one than it was."""

from __future__ import annotations

import random
from collections.abc import Iterator
from math import inf
from typing import Any

import pytest
from scale import pick, repeat, seed

from esrm.errors import Corrupt
from esrm.manager import Uuid7
from esrm.stores.base import Reader
from esrm.stores.chain import Anchor, Fault, Verdict, link, seal, verify
from esrm.stores.records import Draft, Row, StreamHead, head_of, prepare
from esrm.stores.suspects import COLUMNS, Suspicion, suspect
from esrm.testing import BytesCodec

SEVEN = 1_795_330_800_000_000_000


class Log(Reader[bytes]):
    """Two VMs in a log that a test may tamper with, as SQL would."""

    def __init__(self) -> None:
        super().__init__(BytesCodec())
        self.all: list[Row] = []
        ids = Uuid7()
        for n in range(40):
            vm, time_ns = f"vm-{n % 2}", SEVEN + n * 1_000_003_777
            mine = list(self.rows(vm))
            draft = Draft(
                event=b'{"n":%d}' % n, id=ids(time_ns), time_ns=time_ns, actor=("vmm", "guest")[n % 3 == 0],
                correlation=f"c{n // 7}",
            )  # fmt: skip
            batch = prepare(BytesCodec(), vm, [draft], len(mine) - 1)
            self.all += seal(batch, len(self.all), mine[-1][8] if mine else bytes(32))

    def close(self) -> None:
        """Nothing to let go of."""

    def head(self) -> int:
        return len(self.all)

    def rows(self, vm: str | None = None, after: int | None = None, limit: int | None = None) -> Iterator[Row]:
        column = 0 if vm is None else 2
        after = -inf if after is None else after
        found = (row for row in self.all if vm in (None, row[1]) and row[column] > after)
        return iter(sorted(found, key=lambda row: row[column])[:limit])

    def streams(self) -> list[StreamHead]:
        return [head_of(list(self.rows(vm))[-1]) for vm in sorted({row[1] for row in self.all})]

    def stream(self, vm: str) -> StreamHead | None:
        return next((head for head in self.streams() if head.vm == vm), None)

    def change(self, position: int, column: str, value: Any) -> None:
        row = list(self.all[position - 1])
        row[COLUMNS.index(column)] = value
        self.all[position - 1] = tuple(row)  # type: ignore[assignment]

    def suspicion(self, vm: str | None = None, decode: Any = None) -> Suspicion | None:
        fault = verify(self, vm).fault
        assert fault, "something was changed"
        return suspect(self, fault, decode)


AT = 21  # vm-0@10
OTHER_ID = bytes.fromhex("01a2020e14d87000a2ac8d28132e06aa")

FOUND = {
    "actor": ("mallory", "with 'vmm' there, the hash is as stored"),
    "correlation": ("", "with 'c2' there, the hash is as stored"),
    "position": (77, "vm-0@10, now at position 77, has the right hash with 21 there"),
    "revision": (17, "with 10 there"),
    "vm": ("vm-1", "with 'vm-0' there"),
    "id": (OTHER_ID[:6] + b"\x10" + OTHER_ID[7:], "it is no UUIDv7"),
    "time_ns": (SEVEN, f"with {SEVEN + 20 * 1_000_003_777} there"),
    "data": (b'{"n":21}', "with one bit the other way"),
    "hash": (bytes(32), "the next record goes on from the hash that the columns make"),
}


@pytest.mark.parametrize("column", COLUMNS)
def test_the_column_is_found(column: str) -> None:
    """Whichever was changed is named alone, with the reason; where what stood there could be guessed, with that."""
    log = Log()
    value, why = FOUND[column]
    log.change(AT, column, value)
    found = log.suspicion()
    assert found
    assert found.columns == (column,)
    assert why in found.why
    assert str(found) == f"{column}: {found.why}"


@pytest.mark.parametrize(
    ("column", "value"),
    [
        ("position", 0), ("position", -5), ("position", 2**63), ("vm", ""), ("vm", "\x1b"), ("revision", -1),
        ("id", b""), ("id", "text"), ("id", bytes(16)), ("time_ns", -1), ("time_ns", 2**63), ("time_ns", 1.5),
        ("actor", None), ("actor", "\n"), ("actor", b"vmm"), ("actor", "x" * 256), ("correlation", 7),
        ("data", b"\xff"), ("data", "text"), ("data", b"x" * 65_536), ("hash", b"short"), ("hash", None),
    ],
)  # fmt: skip
def test_what_no_store_wrote_is_named(column: str, value: Any) -> None:
    """A value that breaks its column's own rule needs no hash to be found."""
    log = Log()
    log.change(AT, column, value)
    row = log.all[AT - 1]
    faults = verify(log).fault, verify(log, "vm-0").fault
    for fault in faults:
        if fault and fault.position == row[0]:
            found = suspect(log, fault)
            assert found
            assert found.columns == (column,)


def test_the_hash_of_the_last_record() -> None:
    """Nothing goes on from it: but a few bits from the right hash is no accident, and what is far from it is open."""
    log = Log()
    last = log.all[-1]
    log.change(40, "hash", bytes([last[8][0] ^ 1]) + last[8][1:])
    assert log.suspicion() == Suspicion(("hash",), "it is a few bits from the hash that the columns make")
    log.change(40, "hash", bytes(32))
    found = log.suspicion()
    assert found
    assert found.columns == ("id", "actor", "correlation", "data", "hash")


def test_an_id_of_another_time() -> None:
    """Ids are made from the time: where they disagree, in a log where they do not, it is one of the two."""
    log = Log()
    log.change(AT, "id", OTHER_ID)
    found = log.suspicion()
    assert found == Suspicion(("id", "time_ns"), "they do not agree, as they do in the records around")


def test_an_event_that_is_none() -> None:
    """With a decoder the data is looked into, when nothing else tells."""

    def decode(data: bytes) -> None:
        if data != b"good":
            raise Corrupt("no such thing")

    log = Log()
    log.change(AT, "data", b"completely different")
    assert log.suspicion(decode=decode) == Suspicion(("data",), "no such thing")
    found = log.suspicion()
    assert found
    assert found.columns == ("id", "actor", "correlation", "data")
    assert str(found) == "one of id, actor, correlation, data: more the hashes do not tell"


def test_missing_records_accuse_no_column() -> None:
    """A record that is gone leaves no column to suspect, in the middle or at the end; nor does one that is whole."""
    for gone in (1, AT, 40):
        log = Log()
        del log.all[gone - 1]
        for vm in (None, log.all[gone - 2][1]):
            fault = verify(log, vm).fault
            assert fault is None or suspect(log, fault) is None
    log = Log()
    fault = verify(log).fault
    assert fault is None
    assert verify(log) == Verdict(40)


def test_the_last_hash_is_known_to_the_head_file() -> None:
    """Behind the last record nothing goes on; but its hash was acknowledged, so it is known which one is wrong."""
    log = Log()
    row = log.all[-1]
    log.anchor = lambda: Anchor(row[0], row[8], bytes(32))  # type: ignore[method-assign]
    log.change(row[0], "hash", bytes(32))
    assert log.suspicion() == Suspicion(("hash",), "the head file has the hash that the columns make")
    log.change(row[0], "hash", row[8])
    log.change(row[0], "id", row[3][:8] + b"\x81" + bytes(7))
    found = log.suspicion()
    assert found is not None
    assert "hash" not in found.columns


def test_a_head_file_that_is_damaged_accuses_nobody() -> None:
    """It is then as if there were none."""
    log = Log()
    row = log.all[-1]

    def damaged() -> None:
        raise Corrupt("neither of its slots is as it was written")

    log.change(row[0], "hash", bytes(32))
    found = suspect(log, Fault(row[0], row[1], row[2], "what"))
    log.anchor = damaged  # type: ignore[method-assign]
    assert suspect(log, Fault(row[0], row[1], row[2], "what")) == found


@pytest.mark.parametrize("position", [0, -1, -(2**63)])
def test_a_row_below_all_numbers(position: int) -> None:
    """Its position is what is wrong."""
    log = Log()
    log.all.insert(0, (position, *log.all[0][1:]))
    assert log.suspicion() == Suspicion(("position",), "no store wrote such a number")


def test_a_log_hashed_anew_accuses_no_column() -> None:
    """What was edited and re-chained is whole in itself: which column it was nobody can tell without a receipt."""
    log = Log()
    log.change(AT, "actor", "mallory")
    previous = {"vm-0": bytes(32), "vm-1": bytes(32)}
    for position, row in enumerate(log.all, 1):
        previous[row[1]] = link(previous[row[1]], *row[:8])
        log.change(position, "hash", previous[row[1]])
    assert verify(log).ok
    assert suspect(log, Fault(AT, "vm-0", 10, "whole in itself, but not what was acknowledged")) is None


def edited(value: Any, dice: random.Random) -> Any:
    """Something else of the same form."""
    if isinstance(value, int):
        return max(0, value + dice.choice([1, -1, 17, 10**9, 10**15]))
    if isinstance(value, str):
        return dice.choice(["mallory", "vm-1", "vm-9", "c", "", value + "x", value[1:]])
    if len(value) in (16, 32) and dice.random() < 0.5:
        data = bytearray(value)
        data[dice.randrange(len(data))] ^= 1 << dice.randrange(8)
        return bytes(data)
    return dice.choice([b'{"n":-1}', b"{}", value + b" "]) if len(value) < 16 else dice.randbytes(len(value))


def test_the_changed_column_is_always_among_those_named() -> None:
    """Any record, any column, any other value: the truth is never left out, in the whole log or in one VM's."""
    dice = random.Random(seed())
    again = repeat(seed(), "tests/trust/test_suspects.py::test_the_changed_column_is_always_among_those_named")
    alone = 0
    count = pick(quick=150, ci=800, soak=8_000)
    whole = Log()
    rows = list(whole.all)
    for _ in range(count):
        whole.all = list(rows)
        position, column = dice.randrange(1, 41), dice.choice(COLUMNS)
        value = edited(rows[position - 1][COLUMNS.index(column)], dice)
        if value == rows[position - 1][COLUMNS.index(column)] or (column == "position" and value <= 40):
            continue  # nothing was changed, or what no database would let stand twice
        whole.change(position, column, value)
        found = whole.suspicion(dice.choice([None, rows[position - 1][1]]) if column != "vm" else None)
        assert found, f"{position} {column} {value!r}; {again}"
        assert column in found.columns, f"{position} {column} {value!r}: {found}; {again}"
        alone += found.columns == (column,)
    assert alone > count // 2
