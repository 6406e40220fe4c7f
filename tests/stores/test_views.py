"""The documented views answer without esrm, of a log of real events, in the oldest SQLite and in the newest we have.

The oldest is the standard library's sqlite3 (3.40 on Debian 12), the newest that which comes with apsw.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any, TypeAlias

import anyio
import apsw
import pytest

from esrm.core import events as e
from esrm.core import resources as r
from esrm.stores.base import Draft
from esrm.stores.sqlite import SqliteStore
from esrm.testing import BytesCodec, drafts

TOP = r.MmioAddressRange(base=0xFFFF_FFFF_FFFF_F000, size=0x1000)
LOW, HIGH = r.MmioAddressRange(0xFE00_3000, 0x1000), r.MmioAddressRange(0xFE00_8000, 0x1000)
ACROSS = r.MmioAddressRange(base=0x7FFF_FFFF_FFFF_F000, size=0x2000)
REFUSAL = e.Refusal(
    "NoSpace", "no 0x4000 of mmio left", 0, r.MmioConstraint(0x4000), r.Space.MMIO, (0, 0xFFFF), 0x3000, 2, 0x2000, 0
)  # fmt: skip

STORY: list[e.Event] = [
    e.DeviceCreated("net0", "virtio-net"),
    e.ResourcesAllocated(
        "net0",
        (
            LOW,
            r.LegacyIrq(5),
            r.PioAddressRange(0x3F8, 8),
            r.MemAddressRange(0x1_0000_0000, 0x4000_0000),
            r.MsiIrq(r.MsiIrqType.PCI_MSI, 24, 4),
            r.MacAddress("52:54:00:00:00:01"),
            r.KvmMemSlot(3),
        ),
    ),
    e.ResourcesAllocated('disk "0"', (TOP, ACROSS, r.LegacyIrq(5), r.LegacyIrq(5))),
    e.AllocationRefused("net1", REFUSAL),
    e.ResourcesMoved((e.Move("net0", LOW, HIGH),)),
    e.ResourcesReleased('disk "0"', (ACROSS, r.LegacyIrq(5))),
    e.ResourcesAllocated('disk "0"', (ACROSS,)),
]


Connect: TypeAlias = type[sqlite3.Connection] | type[apsw.Connection]


@pytest.fixture(params=[sqlite3.Connection, apsw.Connection], ids=["sqlite3", "apsw"])
def connect(request: pytest.FixtureRequest) -> Connect:
    """How another program opens a log, without us."""
    return request.param


@pytest.fixture
def log(tmp_path: Path, connect: Connect) -> Iterator[Any]:
    """The story's log, opened."""

    async def write() -> None:
        async with SqliteStore(tmp_path / "vm.db", e) as store:
            for n, event in enumerate(STORY):
                [like] = drafts(b"")
                draft = Draft(event=event, id=like.id, time_ns=1_700_000_000_000_000_000 + n, actor="me")
                await store.append("web-1", [draft], expected=n - 1)
            for vm, actor in (("db-1", ""), ("db-2", "someone")):
                event = e.ResourcesAllocated("net0", (r.LegacyIrq(5),))
                draft = Draft(event=event, id=drafts(b"")[0].id, time_ns=0, actor=actor, correlation="c")
                await store.append(vm, [draft], expected=-1)

    anyio.run(write)
    with closing(connect(str(tmp_path / "vm.db"))) as connection:
        yield connection


def ask(log: Any, question: str, *bindings: Any) -> list[Any]:
    """All rows of an answer."""
    return log.execute(question, bindings).fetchall()


def test_log_tells_who_said_what_when(log: Any):
    """Every record, with the time as text and the event's type and device beside it."""
    assert ask(log, "SELECT count(*) FROM log") == [(9,)]
    [row] = ask(log, "SELECT * FROM log WHERE position = 6")
    when = "2023-11-14T22:13:20.000000005Z"
    assert row[:-1] == (6, "web-1", 5, when, "me", "", "ResourcesReleased", 'disk "0"')
    assert e.decode(row[-1].encode()) == STORY[5]
    assert ask(log, "SELECT time, correlation FROM log WHERE vm = 'db-1'") == [("1970-01-01T00:00:00.000000000Z", "c")]


def test_holders_tells_who_holds_what_now(log: Any):
    """After a move, a release and a new grant: what is held, since when; both ends inclusive, to the last address."""
    held = ask(log, "SELECT device, space, first, last, place FROM holders WHERE vm = 'web-1' ORDER BY 2, 3, 4, 1")
    assert held == [
        ("net0", "kvm_mem_slot", 3, 3, "3"),
        ('disk "0"', "legacy_irq", 5, 5, "5"),
        ("net0", "legacy_irq", 5, 5, "5"),
        ("net0", "mac", "52:54:00:00:00:01", "52:54:00:00:00:01", "52:54:00:00:00:01"),
        ("net0", "mem", 0x1_0000_0000, 0x1_3FFF_FFFF, "0x0000000100000000-0x000000013fffffff"),
        ("net0", "mmio", 0xFE00_8000, 0xFE00_8FFF, "0x00000000fe008000-0x00000000fe008fff"),
        ('disk "0"', "mmio", 0x7FFF_FFFF_FFFF_F000, "0x8000000000000fff", "0x7ffffffffffff000-0x8000000000000fff"),
        ('disk "0"', "mmio", "0xfffffffffffff000", "0xffffffffffffffff", "0xfffffffffffff000-0xffffffffffffffff"),
        ("net0", "msi_irq", 24, 27, "24-27"),
        ("net0", "pio", 0x3F8, 0x3FF, "0x03f8-0x03ff"),
    ]
    assert ask(log, "SELECT vm, since_revision FROM holders WHERE first = 5 AND device = 'net0' ORDER BY vm") == [
        ("db-1", 0),
        ("db-2", 0),
        ("web-1", 1),
    ]


@pytest.mark.parametrize(
    ("address", "holder"),
    [
        (0xFE00_2FFF, []),
        (0xFE00_3000, []),
        (0xFE00_8000, ["net0"]),
        (0xFE00_8FFF, ["net0"]),
        (0xFE00_9000, []),
        (0x7FFF_FFFF_FFFF_FFFF, ['disk "0"']),
        ("0x8000000000000000", ['disk "0"']),
        ("0x8000000000001000", []),
        ("0xffffffffffffefff", []),
        ("0xffffffffffffffff", ['disk "0"']),
    ],
)
def test_who_holds_an_address_is_one_between(log: Any, address: int | str, holder: list[str]):
    """Numbers and, above 2^63-1, hexadecimal text compare as addresses do."""
    found = ask(log, "SELECT device FROM holders WHERE space = 'mmio' AND ? BETWEEN first AND last", address)
    assert [device for (device,) in found] == holder


def test_range_history_tells_from_when_to_when(log: Any):
    """A range that came and went twice has two rows, and what is still held has no end."""
    question = (
        "SELECT from_revision, to_revision, to_time FROM range_history WHERE device = ? AND first = ? ORDER BY 1, 2"
    )
    assert ask(log, question, "net0", 0xFE00_3000) == [(1, 4, "2023-11-14T22:13:20.000000004Z")]
    assert ask(log, question, "net0", 0xFE00_8000) == [(4, None, None)]
    across = [(2, 5, "2023-11-14T22:13:20.000000005Z"), (6, None, None)]
    assert ask(log, question, 'disk "0"', 0x7FFF_FFFF_FFFF_F000) == across
    twice = [(2, None, None), (2, 5, "2023-11-14T22:13:20.000000005Z")]
    assert ask(log, question, 'disk "0"', 5) == twice


def test_refusals_tells_what_was_not_given_and_why(log: Any):
    """The code and the sentence beside the device that asked."""
    [row] = ask(log, "SELECT vm, revision, actor, device, code, message FROM refusals")
    assert row == ("web-1", 3, "me", "net1", "NoSpace", "no 0x4000 of mmio left")


def test_every_bound_is_exact_to_the_last_digit(tmp_path: Path, connect: Connect):
    """Where SQLite would make floats of numbers, the views do not: bounds around every power of two to 2^64."""
    bases = sorted({base for bit in range(65) for base in (2**bit - 1, 2**bit, 2**bit + 1) if base < 2**64} - {0})
    ranges = [r.MmioAddressRange(base, min(2**64 - base, 2**62 + 1)) for base in bases]

    async def write() -> None:
        async with SqliteStore(tmp_path / "vm.db", e) as store:
            draft = Draft(event=e.ResourcesAllocated("d", tuple(ranges)), id=drafts(b"")[0].id, time_ns=0)
            await store.append("web-1", [draft], expected=-1)

    def shown(number: int) -> int | str:
        return number if number < 2**63 else f"{number:#018x}"

    anyio.run(write)
    with closing(connect(str(tmp_path / "vm.db"))) as connection:
        rows = ask(connection, "SELECT first, last, place FROM changes")
        by_sql = ask(connection, "SELECT first FROM changes ORDER BY first")
    ends = [(r.base, r.base + r.size - 1) for r in ranges]
    assert rows == [(shown(first), shown(last), f"{first:#018x}-{last:#018x}") for first, last in ends]
    assert [first for (first,) in by_sql] == [shown(base) for base in bases]


def test_records_that_are_no_events_do_not_break_the_log(tmp_path: Path, connect: Connect):
    """A log of something else, or a damaged one, still lists."""

    async def write() -> None:
        async with SqliteStore(tmp_path / "vm.db", BytesCodec()) as store:
            await store.append("web-1", drafts(b"no json", b"[1]", b"7"), expected=-1)

    anyio.run(write)
    with closing(connect(str(tmp_path / "vm.db"))) as connection:
        assert ask(connection, "SELECT position, type, data FROM log") == [
            (1, None, "no json"),
            (2, None, "[1]"),
            (3, None, "7"),
        ]
        for view in ("holders", "range_history", "refusals"):
            assert ask(connection, f"SELECT * FROM {view}") == []
