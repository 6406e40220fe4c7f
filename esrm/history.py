"""Any moment: the state that was, what changed, who had what, and when something became true.

All of it is computed from the log by looking, so it can be asked of a file that nobody has open; for long logs
``cache`` knows short cuts. ``Past`` asks a synchronous reader (the command line does); ``History`` asks the same
questions of a store without holding up the event loop. Next: ``core/state.py``, whose ``evolve`` does the work.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from contextlib import suppress
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, TypeAlias, TypeVar

import msgspec

from esrm.cache import tenancies
from esrm.cache.snapshots import Snapshots
from esrm.core import events as e
from esrm.core.resources import Space, span
from esrm.core.state import DeviceState, VmState, evolve
from esrm.errors import Corrupt, InvalidConstraint, Malformed, UnknownDevice, UnknownMoment
from esrm.names import suggestion
from esrm.stores.chain import cut

if TYPE_CHECKING:
    from esrm.stores.base import Payload, Reader, Record, Store

T = TypeVar("T")
Moment: TypeAlias = "int | str | datetime"
"""A revision, the text of one (``Past.revision``), or a time (without a zone: UTC)."""


class Change(msgspec.Struct, frozen=True):
    """What became of one device between two moments: None before, or after, means that it did not live then."""

    device: str
    before: DeviceState | None
    after: DeviceState | None


class Diff(msgspec.Struct, frozen=True):
    """What differs between the layouts at two revisions, by device; false when nothing does."""

    a: int
    b: int
    changes: tuple[Change, ...]

    def __bool__(self) -> bool:
        return bool(self.changes)


class Blame(msgspec.Struct, frozen=True):
    """Who held an address, and the record that gave it to them; None for what the platform reserves."""

    holding: e.Holding
    record: Record[e.Event] | None


def fold(reader: Reader[e.Event], vm: str, state: VmState, until: int | None = None) -> tuple[int, int]:
    """Bring a state up to ``until`` (a revision; None: the end) from the log.

    Returns:
        The position and time (Unix nanoseconds) of the last record applied; (0, 0) if there was none.

    Raises:
        Corrupt: names the VM, revision and position of the record that cannot be.
    """
    position = time_ns = 0
    limit = None if until is None else until - state.revision
    if limit is not None and limit <= 0:
        return position, time_ns
    for payload in reader.payloads(vm, state.revision, limit):
        position, time_ns = step(state, vm, payload)
    return position, time_ns


def step(state: VmState, vm: str, payload: Payload) -> tuple[int, int]:
    """Apply one record as it is stored, to the state at the revision before it.

    Returns:
        The record's position and time (Unix nanoseconds).

    Raises:
        Corrupt: names the VM, revision and position of the record that cannot be.
    """
    position, revision, time_ns, data = payload
    try:
        evolve(state, e.decode(data))
    except Corrupt as error:
        raise Corrupt.at(vm, revision, position, error) from error
    return position, time_ns


class Past:
    """The history of one VM, asked of a synchronous reader.

    Raises (everywhere): UnknownMoment for a VM or a moment that never was; Corrupt for a log that cannot be.
    """

    def __init__(self, reader: Reader[e.Event], vm: str) -> None:
        self._reader = reader
        self.vm = vm

    def head(self) -> int:
        """The last revision."""
        head = self._reader.stream(self.vm)
        if head is None:
            if fault := cut(self._reader):  # then its records may be among those that are gone
                raise Corrupt(str(fault))
            known = [stream.vm for stream in self._reader.streams()]
            raise UnknownMoment(f"no VM {self.vm!r:.80} in this store; {suggestion(self.vm, known)}")
        return head.revision

    def revision(self, moment: Moment = "@") -> int:
        """The revision that a moment means.

        ``7`` revision 7, ``@`` the head, ``@~3`` three before it, ``@{2026-11-22T07:00}`` the last one at or before
        that time (UTC unless it has a zone; a fraction of a second covers all that begins with its digits), or a
        record's id.
        """
        head, shown = self.head(), moment
        if (time := _time_of(moment)) is not None:
            return self._at_time(time[1], str(moment))
        if isinstance(moment, str):
            moment = moment.strip()
            if moment == "@":
                return head
            if moment.startswith("@~"):
                moment = head - _parse_number(moment[2:], moment)
            elif len(moment) == 36:
                return self._by_id(moment)
            else:
                moment = _parse_number(moment, moment)
        if not isinstance(moment, int) or not 0 <= moment <= head:
            raise UnknownMoment(f"{self.vm} has revisions 0-{head}; there is no {shown}")
        return moment

    def first_since(self, moment: Moment) -> int:
        """The revision from which on a log shows what happened since a moment.

        As ``revision``, but a time means the first record at or after it, or the revision behind the head if there is
        none yet.
        """
        if (time := _time_of(moment)) is None:
            return self.revision(moment)
        self.head()
        return self._reader.revision_at_time(self.vm, time[0] - 1) + 1

    def last_until(self, moment: Moment) -> int:
        """The revision up to which a log shows what happened until a moment.

        As ``revision``, but -1 for a time at which the VM had not begun.
        """
        if (time := _time_of(moment)) is None:
            return self.revision(moment)
        self.head()
        return self._reader.revision_at_time(self.vm, time[1])

    def at(
        self, revision: Moment | None = None, *, time: datetime | int | None = None, position: int | None = None
    ) -> VmState:
        """The state after a revision, at a time (datetime, or Unix nanoseconds), or at a position; else at the head.

        Raises:
            UnknownMoment: the log has no such moment. Malformed: more than one is given, or a time that is none.
        """
        return self._at(self._resolve(revision, time, position))

    def diff(self, a: Moment, b: Moment = "@") -> Diff:
        """What differs between the layouts at two moments."""
        first, second = self.revision(a), self.revision(b)
        before, after = self.at(first), self.at(second)
        names = dict.fromkeys([*before.devices, *after.devices])
        pairs = [(name, before.devices.get(name), after.devices.get(name)) for name in names]
        return Diff(first, second, tuple(Change(*pair) for pair in pairs if pair[1] != pair[2]))

    def blame(self, space: Space | str, address: int, at: Moment = "@") -> list[Blame]:
        """Who held (or reserved) an address at a moment, and which record gave it; the outer before the inner."""
        where, until = space_named(space), self.revision(at)
        found = tenancies.holders(self._reader, self.vm, where, address, until)
        return self._blame(where, address, until) if found is None else [Blame(*entry) for entry in found]

    def _blame(self, where: Space, address: int, until: int) -> list[Blame]:
        """The same by replay: where there is no index, and to judge it."""
        holdings = self.at(until).holders(where, address)
        given = self._given({(h.owner, h.space) for h in holdings if not h.reserved}, address, until)
        return [Blame(h, None if h.reserved else given.get(h.owner)) for h in holdings]

    def timeline(self, device: str) -> list[Record[e.Event]]:
        """Every record about one device, of all its lives.

        Raises:
            UnknownDevice: no record ever named it.
        """
        found = list(self.log(device=device))
        if not found:
            known = {name for record in self.log() for name in devices_of(record.event)}
            raise UnknownDevice(f"{self.vm} never had a device {device!r:.80}; {suggestion(device, sorted(known))}")
        return found

    def bisect(self, predicate: Callable[[VmState], bool]) -> Record[e.Event] | None:
        """The record that first made the predicate true; None if it never was.

        The predicate is asked once a revision, in order, so that it need not stay true to be found.
        """
        self.head()
        state = VmState()
        for payload in self._reader.payloads(self.vm):
            step(state, self.vm, payload)
            if predicate(state):
                return self._reader.read(self.vm, state.revision - 1, 1)[0]
        return None

    def log(
        self,
        *,
        device: str | None = None,
        type: str | None = None,
        actor: str | None = None,
        correlation: str | None = None,
        since: Moment = 0,
        until: Moment = "@",
    ) -> Iterator[Record[e.Event]]:
        """The records that match all that is given, from ``since`` to ``until``, both inclusive; streamed.

        A time as ``since`` means the first record at or after it, as ``until`` the last at or before it; there may be
        none.
        """
        if type is not None and type not in e.TYPES:
            raise UnknownMoment(f"no event type {type!r:.80}; {suggestion(type, e.TYPES)}")
        first, last = self.first_since(since), self.last_until(until)
        while first <= last:
            page = self._reader.read(self.vm, first - 1, min(1000, last - first + 1))
            if not page:
                return
            for record in page:
                if device is not None and device not in devices_of(record.event):
                    continue
                if type is not None and record.event.__class__.__name__ != type:
                    continue
                if actor is not None and record.actor != actor:
                    continue
                if correlation is not None and record.correlation != correlation:
                    continue
                yield record
            first = page[-1].revision + 1

    def _at(self, until: int) -> VmState:
        snapshots = Snapshots(self._reader, self.vm)
        state = snapshots.nearest(until)
        while (before := state.revision) < until:
            fold(self._reader, self.vm, state, min(until, before + snapshots.stride(state)))
            if state.revision == before:  # the log lacks a record
                break
            snapshots.offer(state)
        snapshots.flush()
        return state

    def _resolve(self, revision: Moment | None, time: datetime | int | None, position: int | None) -> int:
        if [revision, time, position].count(None) < 2:
            raise Malformed(
                f"one moment at a time: revision={revision!r}, time={time!r}, position={position!r} are more"
            )
        if time is not None:
            if not isinstance(time, (datetime, int)):  # pyright: ignore[reportUnnecessaryIsInstance]  no types there
                raise Malformed(
                    f"time takes a datetime or Unix nanoseconds, not {time!r:.40}; text goes into '@{{...}}'"
                )
            return self._at_time(time, str(time))
        if position is None:
            return self.revision("@" if revision is None else revision)
        self.head()
        found = self._reader.revision_at_position(self.vm, position)
        if found < 0:
            raise UnknownMoment(f"{self.vm} had not begun at position {position}")
        return found

    def _at_time(self, time: datetime | int, shown: str) -> int:
        self.head()
        found = self._reader.revision_at_time(self.vm, time if isinstance(time, int) else _nanoseconds(time))
        if found < 0:
            raise UnknownMoment(f"{self.vm} had not begun at {shown}")
        return found

    def _by_id(self, id: str) -> int:
        record = None
        with suppress(ValueError):
            record = self._reader.find(id)
        if record is None or record.vm != self.vm:
            raise UnknownMoment(f"{self.vm} has no record {id}")
        return record.revision

    def _given(self, held: set[tuple[str, Space]], address: int, until: int) -> dict[str, Record[e.Event]]:
        """For each who holds the address in a space, the last record up to ``until`` that gave it."""
        found: dict[str, Record[e.Event]] = {}
        for record in self.log(until=until) if held else ():
            for device, resource in _gifts(record.event):
                where, first, last = span(resource)
                if (device, where) in held and first <= address <= last:
                    found[device] = record
        return found


class History:
    """The questions of ``Past``, asked of a store from async code: each runs in a worker thread."""

    def __init__(self, store: Store[e.Event], vm: str) -> None:
        self._store = store
        self.vm = vm

    async def revision(self, moment: Moment = "@") -> int:
        """As ``Past.revision``."""
        return await self._ask(lambda past: past.revision(moment))

    async def at(
        self, revision: Moment | None = None, *, time: datetime | int | None = None, position: int | None = None
    ) -> VmState:
        """As ``Past.at``."""
        return await self._ask(lambda past: past.at(revision, time=time, position=position))

    async def diff(self, a: Moment, b: Moment = "@") -> Diff:
        """As ``Past.diff``."""
        return await self._ask(lambda past: past.diff(a, b))

    async def blame(self, space: Space | str, address: int, at: Moment = "@") -> list[Blame]:
        """As ``Past.blame``."""
        return await self._ask(lambda past: past.blame(space, address, at))

    async def timeline(self, device: str) -> list[Record[e.Event]]:
        """As ``Past.timeline``."""
        return await self._ask(lambda past: past.timeline(device))

    async def bisect(self, predicate: Callable[[VmState], bool]) -> Record[e.Event] | None:
        """As ``Past.bisect``; the predicate runs in a worker thread."""
        return await self._ask(lambda past: past.bisect(predicate))

    async def log(self, **conditions: Any) -> list[Record[e.Event]]:
        """As ``Past.log``, all at once."""
        return await self._ask(lambda past: list(past.log(**conditions)))

    async def _ask(self, question: Callable[[Past], T]) -> T:
        return await self._store.ask(lambda reader: question(Past(reader, self.vm)))


def devices_of(event: e.Event) -> tuple[str, ...]:
    """The devices an event is about; none for VmCreated, perhaps several for ResourcesMoved."""
    if isinstance(event, e.ResourcesMoved):
        return tuple(dict.fromkeys(move.device for move in event.moves))
    return () if isinstance(event, e.VmCreated) else (event.device,)


def _gifts(event: e.Event) -> Iterator[tuple[str, Any]]:
    """What an event gave to whom."""
    if isinstance(event, e.ResourcesAllocated):
        for resource in event.resources:
            yield event.device, resource
    elif isinstance(event, e.ResourcesMoved):
        for move in event.moves:
            yield move.device, move.new


def space_named(space: Space | str) -> Space:
    """The space of that name.

    Raises:
        InvalidConstraint: there is none; the message offers those there are.
    """
    try:
        return Space(space)
    except ValueError:
        raise InvalidConstraint(f"no space {space!r:.40}; {suggestion(space, [s.value for s in Space])}") from None


def _parse_number(text: str, shown: str) -> int:
    if not (text.isascii() and text.isdigit() and len(text) <= 18):
        raise UnknownMoment(f"{shown!r:.80} is no revision: write 7, @, @~3, @{{2026-11-22T07:00}} or a record's id")
    return int(text)


_FRACTION = re.compile(r"(?:(?<=:\d\d:\d\d)|(?<=T\d{6}))[.,](\d{1,9})(?!\d)", re.ASCII)  # of a second only


def _time_of(moment: Moment) -> tuple[int, int] | None:
    """The first and last nanosecond that a moment covers, if it is a time; None if it is anything else."""
    if isinstance(moment, datetime):
        return _nanoseconds(moment), _nanoseconds(moment)
    text = moment.strip() if isinstance(moment, str) else ""
    if not (text.startswith("@{") and text.endswith("}")):
        return None
    text = text[2:-1]
    fraction = _FRACTION.search(text)  # apart, since datetime stops at microseconds
    digits = fraction[1] if fraction else ""
    try:
        seconds = _nanoseconds(datetime.fromisoformat(_FRACTION.sub("", text, count=1)))
    except (ValueError, OverflowError):
        raise UnknownMoment(
            f"{text!r:.80} is no time: write it as 2026-11-22T07:00, with +01:00 or Z for a zone"
        ) from None
    first = seconds + int(digits.ljust(9, "0"))
    return first, first + (10 ** (9 - len(digits)) - 1 if digits else 0)


def _nanoseconds(time: datetime) -> int:
    """Exactly, without a float between."""
    aware = time if time.tzinfo else time.replace(tzinfo=UTC)
    delta = aware - datetime(1970, 1, 1, tzinfo=UTC)
    return ((delta.days * 86_400 + delta.seconds) * 1_000_000 + delta.microseconds) * 1000
