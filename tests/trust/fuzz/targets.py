"""What is fuzzed: for each parser how to call it, the only exceptions it declares, and real inputs to begin with.

A target answers whether the input was understood. Whatever it raises is a finding: an exception that nobody declared,
or an assertion about what was understood (it can be written and read again, or printed).
"""

from __future__ import annotations

import json
import struct
from base64 import b64encode
from collections.abc import Callable, Sequence
from contextlib import suppress
from hashlib import sha256
from pathlib import Path
from typing import Any, NamedTuple

import anyio
import msgspec

from esrm import Draft, Past, Record
from esrm.core import events, profiles
from esrm.core.platform import Platform, decode_platform
from esrm.errors import Corrupt, InvalidPlatform, Malformed, Refused, UnknownMoment
from esrm.importers.proc import parse_interrupts, parse_regions
from esrm.proofs import (
    EMPTY,
    LOG,
    WITNESS,
    Checkpoint,
    Columns,
    Note,
    Receipt,
    Request,
    Signature,
    VerifierKey,
    columns_of,
    vm_of,
)
from esrm.proofs.note import parse as parse_note
from esrm.proofs.receipt import HEADER
from esrm.stores.memory import MemoryStore
from esrm.stores.records import decoded
from esrm.stores.sqlite.heads import SLOT_BYTES, Slot, empty
from esrm.stores.sqlite.heads import parse as parse_slot

ROOT = Path(__file__).parents[3]
GOLDEN = [
    msgspec.json.decode(line, type=Record[events.Event])
    for path in sorted((ROOT / "schemas" / "golden").glob("*.jsonl"))
    for line in path.read_bytes().splitlines()
]
MACHINES = sorted((ROOT / "tests" / "importers" / "machines").glob("*/proc"))


class Target(NamedTuple):
    """One parser under fire: ``run`` answers whether it understood; seeds are real inputs, words what they are of."""

    run: Callable[[bytes], bool]
    seeds: Sequence[bytes]
    words: Sequence[bytes]


def text(data: bytes) -> str:
    """Bytes as the command line gets them: what is no UTF-8 comes in as lone surrogates."""
    return data.decode("utf-8", "surrogateescape")


def words_of(schema: dict[str, Any]) -> list[bytes]:
    """Every name of a field or a choice in a JSON schema."""
    found: set[str] = set()

    def walk(part: Any) -> None:
        if isinstance(part, dict):
            found.update(part.get("properties", ()))
            found.update(choice for choice in part.get("enum", ()) if isinstance(choice, str))
            for inner in part.values():
                walk(inner)
        elif isinstance(part, list):
            for inner in part:
                walk(inner)

    walk(schema)
    return [f'"{word}"'.encode() for word in sorted(found)]


def windows(path: Path, lines: int) -> list[bytes]:
    """A file in pieces of a few lines, since short inputs are tried faster; and the heading again before each piece."""
    whole = path.read_bytes().splitlines(keepends=True)
    heading = whole[:1] if path.name == "interrupts" else []
    body = whole[len(heading) :]
    return [b"".join(heading + body[at : at + lines]) for at in range(0, len(body), lines)]


# -- events and records ----------------------------------------------------------------------------------------------


def event(data: bytes) -> bool:
    """An event's bytes are an event, which survives being written again, or Corrupt."""
    try:
        found = events.decode(data)
    except Corrupt:
        return False
    assert isinstance(found, events._Event)
    assert events.decode(events.encode(found)) == found
    return True


class Codec:
    """The events' codec, as the stores take it."""

    encode = staticmethod(events.encode)
    decode = staticmethod(events.decode)


ROWS = [
    (r.position, r.vm, r.revision, bytes.fromhex(r.id.replace("-", "")), r.time_ns, r.actor, r.correlation,
     events.encode(r.event), bytes.fromhex(r.hash))
    for r in GOLDEN
]  # fmt: skip


def row(data: bytes) -> bool:
    """A row, some of whose columns hold what the bytes say, is a record that can be printed and sent, or Corrupt.

    The bytes: which golden record, then for each column to change its number, a storage class, a length, a value.
    """
    columns: list[Any] = [*ROWS[data[0] % len(ROWS)]] if data else [*ROWS[0]]
    rest = data[1:]
    while len(rest) >= 3:
        value, column = rest[3 : 3 + rest[2]], rest[0] % 9
        columns[column] = _stored(rest[1] % 5, value)
        rest = rest[3 + rest[2] :]
    try:
        found = decoded(Codec, tuple(columns))  # type: ignore[arg-type]
    except Corrupt:
        return False
    assert str(found)
    assert msgspec.json.encode(found)
    return True


def _stored(kind: int, value: bytes) -> Any:
    """A value of one of SQLite's five storage classes; its text is always UTF-8, apsw sees to that."""
    if kind == 0:
        return None
    if kind == 1:
        return int.from_bytes(value[:8], "big", signed=True)
    if kind == 2:
        return struct.unpack(">d", value[:8].ljust(8, b"\0"))[0]
    return value.decode("utf-8", "replace") if kind == 3 else value


def _row_seeds() -> list[bytes]:
    changes = [b""]
    for column in range(9):
        for kind, value in enumerate(
            (b"", b"\0" * 7 + b"\5", b"\x3f\xf8" + b"\0" * 6, "text é".encode(), b"\xff" * 16)
        ):
            changes.append(bytes([column, kind, len(value)]) + value)
    changes += [bytes([7, 4, len(data)]) + data for r in GOLDEN if len(data := events.encode(r.event)) < 256]
    return [bytes([at % len(GOLDEN)]) + change for at, change in enumerate(changes)]


# -- moments ---------------------------------------------------------------------------------------------------------


async def _filled() -> MemoryStore[events.Event]:
    async with MemoryStore(Codec()) as store:
        for at, r in enumerate(r for r in GOLDEN if r.vm == GOLDEN[0].vm):
            draft = Draft(event=r.event, id=r.id, time_ns=r.time_ns, actor=r.actor, correlation=r.correlation)
            await store.append(r.vm, [draft], expected=at - 1)
        return store


PAST = Past(anyio.run(_filled).reader(), GOLDEN[0].vm)
HEAD = PAST.head()


def moment(data: bytes) -> bool:
    """The text of a moment is one of the VM's revisions or UnknownMoment."""
    try:
        found = PAST.revision(text(data))
    except UnknownMoment:
        return False
    assert 0 <= found <= HEAD
    return True


# -- what a machine says of itself -----------------------------------------------------------------------------------


def regions(data: bytes) -> bool:
    """/proc/iomem and /proc/ioports are a tree in which children lie inside their parents, in order, or Refused."""
    try:
        found = parse_regions(text(data))
    except Refused:
        return False
    _well_formed(found, 0, 2**64 - 1)
    return True


def _well_formed(found: Sequence[Any], low: int, high: int) -> None:
    for region in found:
        assert low <= region.first <= region.last <= high
        _well_formed(region.children, region.first, region.last)
        low = region.last + 1


def interrupts(data: bytes) -> bool:
    """/proc/interrupts is numbered lines, or Refused."""
    try:
        found = parse_interrupts(text(data))
    except Refused:
        return False
    assert all(0 <= interrupt.number < 2**32 for interrupt in found)
    return True


# -- notes, receipts, requests, keys, heads --------------------------------------------------------------------------

ORIGIN = "e.org/h"  # all is short here, since short inputs are tried faster
LINE = Signature(ORIGIN, b"\1\2\3\4", b"\5")
SIGNED = Signature("witness", b"\5\6\7\x08", bytes(72))
CHECKPOINTS = [
    Checkpoint(f"{ORIGIN}/vm", 27, sha256(b"root").digest()),
    Checkpoint(f"{ORIGIN}/caf%C3%A9", 2**63 - 1, bytes(32), ("and more", "of that")),
    Checkpoint(ORIGIN, 0, EMPTY),
]
PATH = tuple(sha256(bytes([at])).digest() for at in range(5))


def note(data: bytes) -> bool:
    """A note's bytes are a note, and its text perhaps a checkpoint, byte for byte; or Malformed."""
    try:
        found = parse_note(data)
    except Malformed:
        return False
    assert str(found).encode() == data
    with suppress(Malformed):
        assert str(Checkpoint.parse(found.text)) == found.text
    return True


def checkpoint(data: bytes) -> bool:
    """A note's text is a checkpoint, letter for letter, or Malformed."""
    whole = data.decode(errors="replace")  # as it comes out of a note, which is UTF-8
    try:
        found = Checkpoint.parse(whole)
    except Malformed:
        return False
    assert str(found) == whole
    vm_of(ORIGIN, found.origin)
    return True


def receipt(data: bytes) -> bool:
    """A receipt's bytes are a receipt, byte for byte, or Malformed.

    What is a JSON object is put inside a whole receipt first, as its record: few mutants of base64 are base64.
    """
    if data[:1] == b"{":
        data = b"%b\nextra %b\nindex 3\n\n%b" % (HEADER.encode(), b64encode(data), _NOTE)
    try:
        found = Receipt.parse(data)
    except Malformed:
        return False
    assert str(found).encode() == data
    return True


def request(data: bytes) -> bool:
    """A request to a witness: the bytes are one, byte for byte, or Malformed."""
    try:
        found = Request.parse(data)
    except Malformed:
        return False
    assert str(found if data.startswith(b"old ") else found.note).encode() == data
    return True


def key(data: bytes) -> bool:
    """The line of a verifier key is a key, which is written the same way, or Malformed."""
    try:
        found = VerifierKey.parse(text(data))
    except Malformed:
        return False
    assert str(found) == text(data)
    return True


def head(data: bytes) -> bool:
    """512 bytes are a slot of the head file, bit for bit, or None. What is shorter gets its checksum put right."""
    if len(data) < SLOT_BYTES:
        data = (data + b"sha256 " + sha256(data).hexdigest().encode() + b"\n").ljust(SLOT_BYTES - 1) + b"\n"
    found = parse_slot(data)
    assert found is None or found.render() == data
    return found is not None


_NOTE = str(Note(str(CHECKPOINTS[0]), (LINE,))).encode()


def _receipts() -> list[bytes]:
    made = [
        Receipt(columns_of(ROWS[at + 1], ROWS[at][8]), PATH[:at], Note(str(CHECKPOINTS[0]), (LINE,))) for at in range(5)
    ]
    inside = [msgspec.json.encode(msgspec.structs.replace(r.columns, revision=3)) for r in made]
    return [*(str(r).encode() for r in made), *inside]


def _slots() -> list[bytes]:
    slots = [empty("FULL", "commit"), Slot(2**63 - 1, ROWS[0][8], ROWS[1][8], "NORMAL", "folded", 7)]
    whole = [slot.render() for slot in slots]
    return [*whole, *(data[: data.index(b"sha256 ")] for data in whole)]


# -- platform files --------------------------------------------------------------------------------------------------

TINY = b"""name = "tiny"
shared_irq = 5
[pools]
mmio = [["0xd0000000", "0xdfffffff"]]
legacy_irq = [[5, 15]]
[[reserved]]
space = "mmio"
first = 0xd0000000
last = 0xd0000fff
owner = "boot timer"
"""


def platform(data: bytes) -> bool:
    """A platform file is a platform, which survives being written and read again, or InvalidPlatform.

    JSON where it begins like it; TOML, whose parser is twenty times slower, gets what else there is.
    """
    try:
        found = decode_platform(data, "p.json" if data[:1] in b"{[" else "p.toml")
    except InvalidPlatform:
        return False
    assert msgspec.json.decode(msgspec.json.encode(found), type=Platform) == found
    return True


def _platform_seeds() -> list[bytes]:
    shipped = [msgspec.json.encode(profiles.get(name)) for name in ("firecracker-aarch64", "crosvm-aarch64")]
    tiny = [
        {"name": "t", "pools": {"mmio": [["0x10", "0xff"]]}, "reserved": [], "shared_irq": 5},
        {"name": "t", "pools": {"legacy_irq": [[5, 15]]}, "joined": {"msi_irq": "legacy_irq"}, "policy": "last"},
        {"name": "t", "reserved": [{"space": "pio", "first": "0xcf8", "last": 3327, "owner": "PCI config"}]},
    ]
    quick = [*shipped, *(json.dumps(document).encode() for document in tiny)]
    return [*quick, *quick, *quick, TINY, b'name="t"\npools.mmio=[[1,2]]\n']


# -- all of them -----------------------------------------------------------------------------------------------------

_JSON = [
    *(bytes([c]) for c in b'{}[]:,"'), b"null", b"true", b"1e999", b"-1", b"0.5", b"18446744073709551616",
    b"\\u0000", b"\\ud800", b"\xff", b"\xed\xa0\x80",
]  # fmt: skip
_NOTES = [
    b"\n",
    b"\r",
    b"\0",
    b"=",
    b"+",
    b" ",
    b"%2F",
    b"-1",
    b"18446744073709551616",
    b"\xd9\xa3",
    b"\xff",
    b"\xc2\x85",
]
_LINES = [
    b"\n", b"  ", b" : ", b"-", b"\r", b"\0", b"\xc2\x85", b"\xd9\xa3", b"\xff", b"f" * 16, b"0" * 16,
]  # fmt: skip

TARGETS: dict[str, Target] = {
    "event": Target(
        event,
        [events.encode(record.event) for record in GOLDEN],
        [*_JSON, *words_of(msgspec.json.schema(events.Event))],
    ),
    "row": Target(row, _row_seeds(), [bytes([column, kind, 8]) for column in range(9) for kind in range(5)]),
    "moment": Target(
        moment,
        [b"7", b"@", b"@~3", b"@{2026-11-22T07:00}", b"@{2026-11-18}", b"@{2026-11-18T11:06:40.123456789+01:00}",
         b"@{20261118T110640.5Z}", b"@{2026-W47-3}", *(record.id.encode() for record in GOLDEN[:3])],
        [b"@", b"~", b"{", b"}", b"T", b"Z", b"+23:59", b"-", b":", b".", b"9999", b"0001", b"W53", b" ", b"\xd9\xa3"],
    ),
    "regions": Target(
        regions,
        [piece for path in MACHINES for name in ("iomem", "ioports") for piece in windows(path / name, 3)],
        _LINES,
    ),
    "interrupts": Target(
        interrupts,
        [piece for path in MACHINES for piece in windows(path / "interrupts", 2)],
        [*_LINES, b"CPU0", b"0:", b"NMI:", b"4294967296", b"PCI-MSI", b"PCI-MSIX-0000:00:01.0", b"ITS-MSI", b"Level",
         b"-fasteoi", b"Edge", b"4294967295-edge", b"IO-APIC", b", "],
    ),
    "platform": Target(
        platform,
        _platform_seeds(),
        [*_JSON, *words_of(msgspec.json.schema(Platform)), b"0x", b"=", b"[[", b"]]", b"2026-11-22"],
    ),
    "note": Target(
        note,
        [_NOTE, *(str(Note(str(c), (LINE, SIGNED))).encode() for c in CHECKPOINTS)],
        [*_NOTES, b"\n\n", b"\xe2\x80\x94 ", str(LINE).encode()],
    ),
    "checkpoint": Target(checkpoint, [str(c).encode() for c in CHECKPOINTS], [*_NOTES, b"0"]),
    "receipt": Target(
        receipt,
        _receipts(),
        [*_NOTES, *_JSON, *words_of(msgspec.json.schema(Columns)), b"extra ", b"index "],
    ),
    "request": Target(
        request,
        [str(Request(at * 5, PATH[:at], Note(str(c), (LINE,)))).encode() for at, c in enumerate(CHECKPOINTS)] + [_NOTE],
        [*_NOTES, b"old ", b"\n\n", b"\xe2\x80\x94 "],
    ),
    "key": Target(
        key,
        [str(VerifierKey(name, kind, PATH[0])).encode() for name in (ORIGIN, "caf\u00e9") for kind in (LOG, WITNESS)],
        [b"+", b"=", b" ", b"\xe2\x80\xa8", b"PRIVATE+KEY+", b"\xff", b"a" * 2000],
    ),
    "head": Target(head, _slots(), [b"\n", b"counter ", b"position ", b"hash ", b"log ", b"9" * 19, b"\xd9\xa3", b" "]),
}  # fmt: skip
"""Each parser that reads what others wrote, by name."""


def leaky(data: bytes) -> bool:
    """The control, which leaks: what msgspec raises beside its own errors comes out."""
    try:
        events._decoder.decode(data)
    except msgspec.DecodeError:
        return False
    return True


CONTROLS = {"leaky": Target(leaky, TARGETS["event"].seeds, TARGETS["event"].words)}
"""What the fuzzers must find something in, else they are broken."""
