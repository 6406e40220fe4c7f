"""Who held what, from when to when: a tenancy is one resource of one device between two revisions.

It decides where a tenancy is found again without looking at others. Both its addresses and its revisions are an
interval, and an interval is filed under its *fork*: of all the numbers in it, the one that is divisible by the largest
power of two (0 counts as divisible by all). Whatever interval contains a number ``n`` has for its fork one of the at
most 65 numbers ``forks_above(n)``: ``n`` with its low bits cleared and the next one set, and 0. So "who held this
address at this revision" is a look into those pairs of forks that exist at all. And all that is filed under one pair
overlaps, in space and in time: it held the fork's address at the fork's revision. So a pair has no more entries than
there were devices inside one another, or on one shared line, at one moment, however often a page changed hands.

(This is the relational interval tree of Kriegel, Poetke and Seidl, VLDB 2000, once for each of two dimensions. Passed
over: only addresses filed so, with revisions in order beneath. A bridge that keeps its window, while the cards inside
come and go, is then found behind all of them.)

An entry holds numbers only: its addresses, and which record gave it, as its n-th resource. That record is read from
the log anyway, and says the rest. Each entry has a checksum. What lasts is filed under the moment ``LASTING``, and
moves when it ends.
Next: ``history.py``, whose ``blame`` asks, and judges by replay in the tests.
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Iterator, Sequence
from functools import lru_cache, partial
from typing import TYPE_CHECKING, Any, NamedTuple, cast

import msgspec

from esrm.cache.file import Damaged, Fetch, forget, keep, look, vm_id
from esrm.cache.snapshots import hash_at, packed, unpacked
from esrm.core import events as e
from esrm.core.platform import Platform
from esrm.core.resources import Resource, Space, span
from esrm.core.state import DeviceState, VmState, evolve
from esrm.errors import Corrupt

if TYPE_CHECKING:
    from esrm.stores.base import Reader, Record

INDEXED_MIN = 1000
"""Shorter logs are replayed: that takes 3 ms, and leaves no file behind."""

STRETCH = 100_000
"""Events that are indexed at once, and written in one transaction: about 0.4 s of folding, 20 MB of memory."""

LASTING = -1
_SIZE, _SHIFT = 2**64, 2**63  # SQLite's integers are signed
_SPACES = {space: index for index, space in enumerate(Space)}


class _Gift(NamedTuple):
    """One resource as it is filed: its space and fork, the n-th part of which record gave it, and how far it reaches
    below and above its fork.
    """

    space: int
    place: int
    given: int
    part: int
    below: int
    above: int


def fork(first: int, last: int) -> int:
    """Of the numbers first..last the one that is divisible by the largest power of two; 0 by all of them."""
    if first == 0:
        return 0
    bit = ((first - 1) ^ last).bit_length() - 1  # above it the two agree; here only `last` has a one
    return last >> bit << bit


def forks_above(number: int, top: int) -> list[int]:
    """The forks that intervals within 0..top which contain ``number`` can have."""
    lowest = (number & -number).bit_length() - 1 if number else top.bit_length()
    return [0, *(number >> bit + 1 << bit + 1 | 1 << bit for bit in range(lowest, top.bit_length()))]


# -- asking ----------------------------------------------------------------------------------------------------------


def holders(
    reader: Reader[e.Event], vm: str, space: Space, address: int, until: int
) -> list[tuple[e.Holding, Record[e.Event] | None]] | None:
    """Who held (or reserved) an address at a revision, and the record that gave it, as ``Past.blame`` says them.

    None where there is no index, because the log is short or nothing can be kept beside it. An index that ends before
    the revision is brought up to the end of the log first.
    """
    if reader.beside is None or not 0 <= address <= space.last:
        return None

    def question(fetch: Fetch) -> list[tuple[e.Holding, Record[e.Event] | None]] | None:
        return _holders(fetch, reader, vm, space, address, until)

    found = look(reader.beside, question)
    if found is None and extend(reader, vm):
        found = look(reader.beside, question)
    return found


def _holders(
    fetch: Fetch, reader: Reader[e.Event], vm: str, space: Space, address: int, until: int
) -> list[tuple[e.Holding, Record[e.Event] | None]] | None:
    for number, end, hash in fetch("SELECT id, revision, hash FROM vms WHERE name = ?", vm):
        if end < until or hash != hash_at(reader, vm, end):
            break
        platform = _platform(reader, vm)
        found: list[tuple[tuple[int, ...], e.Holding, Record[e.Event]]] = []
        for where in platform.kin(space):
            for first, last, given, part, born in _filed(fetch, number, where, address, until, end):
                record, device, resource = _gift(reader, vm, given, part)
                if span(resource) != (where, first, last):
                    raise Damaged(f"{vm}, {given}: gave {resource}, not {first:#x}-{last:#x} of {where}")
                found.append((_line(fetch, number, born), e.Holding(device, where, first, last), record))
        # As `VmState.holders` finds them: breadth first, then what is reserved; and sorted with the outer before the
        # inner. The births of a device and its ancestors tell where it stands among the others.
        found.sort(key=lambda entry: (len(entry[0]), entry[0]))
        everyone = [*((holding, record) for _, holding, record in found), *_reserved(platform, space, address)]
        return sorted(everyone, key=lambda entry: (entry[0].first, -entry[0].last))
    return None


def _filed(
    fetch: Fetch, vm: int, space: Space, address: int, until: int, end: int
) -> Iterator[tuple[int, int, int, int, int]]:
    """What held an address at a revision: first, last, given, part, born."""
    places = [place - _SHIFT for place in forks_above(address, space.last)]
    # Most of the places are empty; asking for each of them at each moment would take ten times as long. And by IN, not
    # by joins, which would read the second list anew for each place.
    rows = fetch(
        """SELECT vm, space, place, moment, given, part, taken, born, below, above, seal FROM tenancies
        WHERE vm = ?1 AND space = ?2 AND moment IN (SELECT value FROM json_each(?4)) AND place IN (
            SELECT value FROM json_each(?3)
            WHERE EXISTS (SELECT 1 FROM tenancies WHERE vm = ?1 AND space = ?2 AND place = value))""",
        vm, _SPACES[space], str(places), str([LASTING, *forks_above(until, end)]),
    )  # fmt: skip
    for *row, stored in rows:
        if stored != _seal(row):  # before anything in it decides whether it counts
            raise Damaged(f"an entry that was changed: {row}")
        _, _, place, _, given, part, taken, born, below, above = row
        first, last = place + _SHIFT - below, place + _SHIFT + above % _SIZE
        if first <= address <= last and given <= until and (taken is None or taken > until):
            yield first, last, given, part, born


_ROW = struct.Struct(">10q")


def _seal(row: Sequence[int | None]) -> int:
    return zlib.crc32(_ROW.pack(*(-1 if column is None else column for column in row)))


def _gift(reader: Reader[e.Event], vm: str, given: int, part: int) -> tuple[Record[e.Event], str, Resource]:
    """The record at a revision, and whom it gave what as its n-th resource."""
    records = reader.read(vm, given - 1, 1)
    match [record.event for record in records]:
        case [e.ResourcesAllocated(device=device, resources=resources)] if part < len(resources):
            return records[0], device, resources[part]
        case [e.ResourcesMoved(moves=moves)] if part < len(moves):
            return records[0], moves[part].device, moves[part].new
        case _:
            raise Damaged(f"{vm}, {given}: gave no resource {part}")


def _line(fetch: Fetch, vm: int, born: int) -> tuple[int, ...]:
    """The births of a device's ancestors, outermost first, and its own."""
    line = [born]
    while parents := fetch("SELECT parent FROM nested WHERE vm = ? AND born = ?", vm, line[-1]):
        if parents[0][0] >= line[-1]:
            raise Damaged(f"born at {line[-1]}, inside one that was born at {parents[0][0]}")
        line.append(parents[0][0])
    return tuple(reversed(line))


def _reserved(platform: Platform, space: Space, address: int) -> Iterator[tuple[e.Holding, None]]:
    kin = platform.kin(space)
    for wall in platform.reserved:
        if wall.space in kin and wall.first <= address <= wall.last:
            yield e.Holding(wall.owner, wall.space, wall.first, wall.last, reserved=True), None


def _platform(reader: Reader[e.Event], vm: str) -> Platform:
    for _, _, _, data in reader.payloads(vm, -1, 1):
        return _begun_on(data)
    raise Damaged(f"{vm}: an index of a log that has not begun")


@lru_cache(maxsize=16)  # a platform takes a tenth of the question to decode, and a program asks about few of them
def _begun_on(data: bytes) -> Platform:
    began = e.decode(data)
    if not isinstance(began, e.VmCreated):
        raise Damaged(f"an index of a log that begins with {began}")
    return began.platform


# -- indexing --------------------------------------------------------------------------------------------------------


class _Tenants(msgspec.Struct, array_like=True):
    """Who holds what at the end of the index, with what the state does not say."""

    vm: str
    revision: int
    state: bytes
    births: dict[str, int]
    gifts: dict[str, list[_Gift]]


_decoder = msgspec.msgpack.Decoder(_Tenants)


class _Index:
    """Folds events into tenancies; what is to be written gathers until ``write``."""

    def __init__(self, vm: str) -> None:
        self.vm = vm
        self.stale = False
        self.state = VmState()
        self.births: dict[str, int] = {}
        self.gifts: dict[str, list[_Gift]] = {}  # by device, in the order of its resources
        self._clear()

    def _clear(self) -> None:
        self.start = self.state.revision
        self._begun: dict[_Gift, int] = {}  # what lasts, with the birth of its holder
        self._ended: list[tuple[int, ...]] = []
        self._gone: list[_Gift] = []  # what lasted at the start, and does no longer
        self._nested: list[tuple[int, int]] = []

    @classmethod
    def load(cls, fetch: Fetch, reader: Reader[e.Event], vm: str) -> _Index:
        """The index as it stands, ready to go on from its end."""
        index = cls(vm)
        for revision, hash, packed_tenants in fetch("SELECT revision, hash, tenants FROM vms WHERE name = ?", vm):
            if revision < 0:
                break
            index.stale = hash != hash_at(reader, vm, revision)
            if not index.stale:
                index._resume(revision, packed_tenants)
        return index

    def _resume(self, revision: int, data: bytes) -> None:
        try:
            tenants = _decoder.decode(zlib.decompress(data))
        except Exception as error:  # as for a snapshot
            raise Damaged(str(error)) from error
        if (tenants.vm, tenants.revision) != (self.vm, revision):
            raise Damaged(f"{self.vm}, {revision}: the tenants of {tenants.vm}, {tenants.revision}")
        self.state = unpacked(self.vm, revision, tenants.state)
        self.births, self.gifts = tenants.births, tenants.gifts
        self._clear()

    def apply(self, event: e.Event) -> None:
        """Apply one event; what it gave and took becomes tenancies."""
        # Told apart by type, not by `match`: most events give and take nothing, and replay is half of the time.
        kind, fact, revision = type(event), cast("Any", event), self.state.revision + 1
        if kind is e.ResourcesMoved:
            before = {move.device: self.state.devices.get(move.device) for move in fact.moves}
            evolve(self.state, event)
            self._move(before, fact.moves, revision)
            return
        evolve(self.state, event)
        if kind is e.ResourcesAllocated:
            born = self.births[fact.device]
            gifts = [_filed_as(resource, revision, part) for part, resource in enumerate(fact.resources)]
            self.gifts[fact.device] = gifts
            self._begun.update(dict.fromkeys(gifts, born))
        elif kind is e.ResourcesReleased:
            for gift in self.gifts.pop(fact.device):
                self._end(gift, revision, self.births[fact.device])
        elif kind is e.DeviceCreated:
            self.births[fact.device] = revision
            if fact.parent is not None:
                self._nested.append((revision, self.births[fact.parent]))
        elif kind is e.DeviceRemoved:
            del self.births[fact.device]

    def _move(self, before: dict[str, DeviceState | None], moves: Sequence[e.Move], revision: int) -> None:
        for part, move in enumerate(moves):
            device, born = before[move.device], self.births[move.device]
            assert device is not None, "evolve has taken the move"
            place, gifts = device.allocated.index(move.old), self.gifts[move.device]
            self._end(gifts[place], revision, born)
            gifts[place] = _filed_as(move.new, revision, part)
            self._begun[gifts[place]] = born

    def _end(self, gift: _Gift, taken: int, born: int) -> None:
        if self._begun.pop(gift, None) is None:
            self._gone.append(gift)
        space, place, given, part, below, above = gift
        self._ended.append((space, place, fork(given, taken - 1), given, part, taken, born, below, above))

    def write(self, fetch: Fetch, hash: bytes) -> None:
        """Bring the cache from ``start`` to here; nothing if it is somewhere else (another process was quicker)."""
        if self.stale:
            forget(fetch, self.vm)
        vm = vm_id(fetch, self.vm)
        if fetch("SELECT revision FROM vms WHERE id = ?", vm) != [(self.start,)]:
            return
        for entry in self._gone:
            fetch(
                """DELETE FROM tenancies
                WHERE vm = ? AND space = ? AND place = ? AND moment = -1 AND given = ? AND part = ?""",
                vm, *entry[:4],
            )  # fmt: skip
        lasting = (
            (space, place, LASTING, given, part, None, born, below, above)
            for (space, place, given, part, below, above), born in self._begun.items()
        )
        # In the order of the table: a tree that grows at its end takes a third of the time.
        for row in sorted([*self._ended, *lasting], key=lambda row: row[:5]):
            fetch("INSERT INTO tenancies VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)", vm, *row, _seal((vm, *row)))
        for row in self._nested:
            fetch("INSERT INTO nested VALUES (?, ?, ?)", vm, *row)
        revision = self.state.revision
        tenants = _Tenants(self.vm, revision, packed(self.vm, self.state), self.births, self.gifts)
        body = zlib.compress(msgspec.msgpack.encode(tenants), 1)
        fetch("UPDATE vms SET revision = ?, hash = ?, tenants = ? WHERE id = ?", revision, hash, body, vm)


def _filed_as(resource: Resource, given: int, part: int) -> _Gift:
    space, first, last = span(resource)
    place = fork(first, last)
    above = last - place
    # A whole space reaches 2**64-1 above its fork, 0: that is kept as the signed number of the same 64 bits.
    return _Gift(_SPACES[space], place - _SHIFT, given, part, place - first, above - _SIZE * (above >= _SHIFT))


def extend(reader: Reader[e.Event], vm: str) -> bool:
    """Bring the index of a VM up to the end of its log; False if the log is short, or cannot be, or nothing is kept.

    Several processes may do so at once: each stretch is written by whoever is first, and the others go on from there.
    """
    head, before = reader.stream(vm), -2
    if head is None or head.revision < INDEXED_MIN:
        return False
    while True:
        index = look(reader.beside, lambda fetch: _Index.load(fetch, reader, vm)) or _Index(vm)
        if index.start >= head.revision:
            return True
        if index.start <= before:  # the last round gained nothing: what is written there cannot be read again
            return False
        before = index.start
        try:
            for _, _, _, data in reader.payloads(vm, index.start, STRETCH):
                index.apply(e.decode(data))
        except (Corrupt, LookupError):  # replay will say which record, if it is the log's fault
            return False
        if index.state.revision == index.start:
            return False
        hash = hash_at(reader, vm, index.state.revision)
        if not keep(reader.beside, partial(index.write, hash=hash)):
            return False
