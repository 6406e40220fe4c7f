"""The only writer: decide -> append -> evolve -> tell.

A ``ResourceManager`` owns one VM's stream. Every change goes through one private function, ``_commit``: it looks at the
state and decides without awaiting, appends, and applies what was appended, the last two inside one shield, so that a
caller who is cancelled leaves log and state agreeing. Nothing becomes true here that does not stand in the log first.

To follow one event: this file (who asked) -> ``core/decide.py`` (may it, and where) -> ``core/events.py`` (what was
said) -> ``stores/sqlite`` (when it became true) -> ``core/state.py`` (what it means now).
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Generator, Iterable, Sequence
from contextlib import contextmanager, suppress
from contextvars import ContextVar
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Self

import anyio
import msgspec
from anyio.lowlevel import checkpoint

from esrm import names
from esrm.cache.snapshots import STRIDE_MIN, Snapshots
from esrm.core import decide, profiles
from esrm.core.allocator import Usage
from esrm.core.bus import Bus
from esrm.core.events import AllocationRefused, DeviceRemoved, Event, Move, ResourcesReleased
from esrm.core.lifecycle import ANSWERING, HOLDING, Phase
from esrm.core.platform import PLATFORM_BYTES_MAX, Platform, decode_platform
from esrm.core.resources import DeviceResources, ResourceConstraint, Space
from esrm.core.state import VmState, evolve
from esrm.devices import Device, LiveDevices
from esrm.errors import (
    Conflict,
    DuplicateDevice,
    EsrmError,
    InUse,
    InvalidPlatform,
    Malformed,
    Refused,
    StoreError,
    TooLarge,
    WrongPhase,
)
from esrm.history import step
from esrm.stores.records import PAGE, TIME_NS_MAX, Draft

if TYPE_CHECKING:
    from esrm.stores.base import Reader, Record, Store

Decision = Callable[[VmState], list[Event]]


# -- who asks --------------------------------------------------------------------------------------------------------


class _Asker(msgspec.Struct, frozen=True):
    actor: str | None = None
    correlation: str = ""


_asker: ContextVar[_Asker] = ContextVar("esrm_asker", default=_Asker())  # noqa: B039  it is frozen


@contextmanager
def acting(actor: str | None = None, correlation: str | None = None) -> Generator[None]:
    """Who does what follows, and as part of what: both are written into every record made inside the block.

    It nests, and travels into tasks that are started inside it. What is not given stays as it was outside.

    Raises:
        InvalidName: over 255 characters, or unprintable ones.
    """
    before = _asker.get()
    now = _Asker(before.actor if actor is None else actor, before.correlation if correlation is None else correlation)
    names.check("actor", now.actor or "", empty=True)
    names.check("correlation", now.correlation, empty=True)
    token = _asker.set(now)
    try:
        yield
    finally:
        _asker.reset(token)


# -- the manager -----------------------------------------------------------------------------------------------------


class ResourceManager:
    """The resources of one VM: recorded, decided on, handed out and taken back.

    Use it with ``async with``: an existing VM is replayed from its log, a new one begins on ``platform``.
    Any number of tasks may use one manager; their steps take turns. Two managers of one VM are safe: whoever appends
    second gets ``Conflict``, has then read what the other wrote, and may ask again. Before one refuses, it looks
    whether the other has made possible what was asked.

    Args:
        store: an open store.
        vm: the VM's name, its stream in the store.
        platform: a profile's name, a ``Platform``, or the path of a TOML or JSON file that describes one; for a VM
            that exists it may be left out and, if given, must name the platform that the VM was created on.
        actor: who is written into the records when ``acting`` does not say.
        clock: Unix time in nanoseconds; injected by tests. Time never runs backward inside a VM's log.

    Raises (every step):
        Refused: the step is not possible; its subclass and message say why, and nothing has changed.
        Conflict: somebody else appended first. Corrupt, StoreError: the log or the disk.
    """

    def __init__(
        self,
        store: Store[Event],
        *,
        vm: str,
        platform: str | os.PathLike[str] | Platform | None = None,
        actor: str = "",
        clock: Callable[[], int] = time.time_ns,
    ) -> None:
        if isinstance(store, (str, os.PathLike)):
            raise Malformed(f"a manager takes an open store: async with esrm.open_store({str(store)!r:.80}) as store")
        self.name = names.check("vm", vm)
        self.live = LiveDevices()
        self._store = store
        self._platform = None if platform is None else _platform(platform)
        self._actor = names.check("actor", actor, empty=True)
        self._clock = clock
        self._state = VmState()
        self._position = 0
        self._time_ns = 0
        self._ids = Uuid7()
        self._turn = anyio.Lock(fast_acquire=True)  # the append yields, and once is enough
        self._behind = False
        self._kept = -1  # the revision of the last layout that was kept for later
        self._busy: set[str] = set()
        self._entered = False

    async def __aenter__(self) -> Self:
        if self._entered:
            raise InUse(f"this manager of {self.name} is in use: make another one, or leave its block first")
        self._entered = True
        try:
            return await self._enter()
        except BaseException:
            self._entered = False
            raise

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._entered = False
        self.live.clear()
        if error is None:
            with suppress(EsrmError):  # closed before, or broken: who opens next replays more
                await self._remember()

    async def _enter(self) -> Self:
        await self._recall()
        while True:
            await self._catch_up()
            platform = self._state.platform
            if platform is None:
                try:
                    await self._commit(lambda s: decide.create_vm(s, self._platform or profiles.get("x86_64")))
                except Conflict:  # another manager began the same VM a moment ago: then it is that one's platform
                    continue
            elif self._platform is not None and self._platform.name != platform.name:
                raise InvalidPlatform(
                    f"{self.name} lives on platform {platform.name}, not {self._platform.name}: its log says so"
                )
            await self._remember()
            return self

    # -- looking ------------------------------------------------------------------------------------------------------

    @property
    def state(self) -> VmState:
        """The VM as of the last event; it changes under you at the next step (``copy()`` it to keep it)."""
        return self._state

    @property
    def bus(self) -> Bus:
        """Who answers at which port and address."""
        return self._state.bus

    @property
    def position(self) -> int:
        """The position in the store of this VM's last event: what a projection can ``wait_for``."""
        return self._position

    @property
    def revision(self) -> int:
        """The revision of this VM's last event."""
        return self._state.revision

    def usage(self) -> dict[Space, Usage]:
        """How full each space of the platform is."""
        return self._state.allocator.usage()

    def plan(self, requests: Iterable[decide.Request]) -> decide.Plan:
        """What would happen to these requests, one after the other, and why. Nothing is touched.

        A request is a constraint (all such make one nameless device), the name of a declared device, or a pair of a
        name and its constraints.

        Raises:
            UnknownDevice, WrongPhase, InUse, InvalidConstraint, InvalidName, TooLarge: a request that is not one.
        """
        return decide.plan(self._state, requests)

    def __repr__(self) -> str:
        where = f"<ResourceManager {self.name} at {self.revision}: {len(self._state.devices)} devices"
        mmio = self.usage().get(Space.MMIO) if self._state.platform else None
        return f"{where}, mmio {100 * mmio.free // mmio.total}% free>" if mmio and mmio.total else f"{where}>"

    # -- the way there ------------------------------------------------------------------------------------------------

    async def create(self, device: str, *, kind: str = "", parent: str | None = None) -> None:
        """Step 1: a device begins its life, perhaps inside ``parent``, whose addresses its own will lie in.

        Raises:
            DuplicateDevice, UnknownDevice (the parent), InvalidName.
        """
        await self._commit(lambda state: decide.create(state, device, kind, parent))

    async def declare(self, device: str, constraints: Iterable[ResourceConstraint]) -> None:
        """Step 2: it says what it needs. Until it holds something, it may say something else instead.

        Raises:
            UnknownDevice, WrongPhase, InvalidConstraint; TooLarge when they take over 65,535 bytes.
        """
        wanted = tuple(constraints)
        await self._commit(lambda state: decide.declare(state, device, wanted))

    async def allocate(self, device: str) -> DeviceResources:
        """Step 3: resources that meet all of its constraints, in their order, or none.

        Raises:
            NoSpace, AddressConflict, OutOfRange: with the reason in ``refusal``; the refusal is recorded.
            UnknownDevice, WrongPhase, InUse: and nothing is recorded.
        """
        refused: list[Refused] = []

        def decision(state: VmState) -> list[Event]:
            try:
                return decide.allocate(state, device)
            except Refused as no:
                if no.refusal is None:
                    raise
                refused.append(no)
                return [AllocationRefused(device, no.refusal)]

        await self._commit(decision)
        if refused:
            raise refused[0]
        return self._state.device(device).resources

    async def assign(self, device: str) -> None:
        """Step 4: it has been told what it holds."""
        await self._commit(lambda state: decide.assign(state, device))

    async def register(self, device: str) -> None:
        """Step 5: it answers on the buses that its resources call for."""
        await self._commit(lambda state: decide.register(state, device))

    # -- the way back -------------------------------------------------------------------------------------------------

    async def unregister(self, device: str) -> None:
        """Undo step 5: it no longer answers."""
        await self._commit(lambda state: decide.unregister(state, device))

    async def release(self, device: str, *, reason: str = "") -> None:
        """Undo steps 4 and 3: what it held is free again.

        Raises:
            NotAllocated: it holds nothing. InUse: a device inside it holds resources. WrongPhase, UnknownDevice.
        """
        await self._commit(lambda state: decide.release(state, device, reason))

    async def remove(self, device: str) -> None:
        """Undo steps 2 and 1: its life ends, and its name may be used again."""
        await self._commit(lambda state: decide.remove(state, device))

    async def request_unplug(self, device: str) -> None:
        """The guest is asked to let go; the device answers until ``unregister``, or stays after ``refuse_unplug``."""
        await self._commit(lambda state: decide.request_unplug(state, device))

    async def refuse_unplug(self, device: str, *, reason: str = "") -> None:
        """The guest keeps the device."""
        await self._commit(lambda state: decide.refuse_unplug(state, device, reason))

    async def move(self, moves: Iterable[Move]) -> None:
        """Re-place resources of one or more devices, as one event: a BAR that the guest reprogrammed, or a swap.

        Raises:
            NotAllocated, InvalidConstraint, AddressConflict, OutOfRange, WrongPhase, InUse, UnknownDevice.
        """
        batch = tuple(moves)
        await self._commit(lambda state: decide.move(state, batch))

    # -- live devices -------------------------------------------------------------------------------------------------

    async def attach(self, device: Device) -> DeviceResources:
        """Take a live device through all five steps, or through those that its log has not seen yet.

        After a restart, attach the same devices again: each gets what the log says it holds. When the device's own
        ``assign`` fails or is cancelled, what was allocated is released, both facts stand in the log, and the device
        stays declared. (A device that others live inside keeps what it holds; a note on the error says so.)

        Raises:
            whatever ``assign`` raised; what the single steps raise; WrongPhase when the device holds resources for
            other constraints than it has now (detach it first), or others than it was told of (attach it again);
            DuplicateDevice when another object of that name is attached, or a device of another kind or parent lives by
            that name; InUse when another task is attaching or detaching it; Malformed for what is no ``Device``.
        """
        if not isinstance(device, Device):  # pyright: ignore[reportUnnecessaryIsInstance]  not every caller has types
            raise Malformed(
                f"a device has a name, a kind, constraints() and assign(); {device!r:.80} lacks some of them"
            )
        name = device.name
        if name in self._busy:
            raise InUse(f"{name} is being attached or detached by another task")
        self._busy.add(name)
        try:
            return await self._attach(device)
        finally:
            self._busy.discard(name)

    async def detach(self, device: str) -> None:
        """Take a device back through all the steps that it went, and out of its life: all of them, or none.

        Raises:
            UnknownDevice; InUse when devices live inside it, or another task is attaching or detaching it.
        """
        if device in self._busy:
            raise InUse(f"{device} is being attached or detached by another task")
        self._busy.add(device)
        try:
            await self._commit(lambda state: decide.detach(state, device))
        finally:
            self._busy.discard(device)

    async def _attach(self, device: Device) -> DeviceResources:
        name, wanted, parent = device.name, tuple(device.constraints()), getattr(device, "parent", None)

        def look(_: VmState) -> list[Event]:
            if self.live.get(name, device) is not device:
                raise DuplicateDevice(f"{name} is attached already, and is another object; detach that one first")
            return []

        await self._commit(look)  # through here, so that what was not answered, or others did, is seen before
        if name not in self._state.devices:
            await self.create(name, kind=device.kind, parent=parent)
        found = self._state.device(name)
        if found.kind not in ("", device.kind) or found.parent != parent:
            raise DuplicateDevice(
                f"{name} lives already, of kind {found.kind!r} inside {found.parent or 'no other'}; this one is of "
                f"kind {device.kind!r} inside {parent or 'no other'}: detach that one first"
            )
        if found.phase not in HOLDING:
            await self.declare(name, wanted)
            await self.allocate(name)
        elif found.constraints != wanted:
            raise WrongPhase(f"{name} holds resources for other constraints than it has now; detach it first")
        told = self._state.device(name).resources
        try:
            await device.assign(told)
        except BaseException as error:
            with anyio.CancelScope(shield=True):
                try:
                    await self._walk_back(name, f"assign {_ended(error)}")
                except EsrmError as hindrance:
                    error.add_note(f"{name} could not be released after that: {hindrance}")
            raise
        found = self._state.device(name)
        if found.phase in HOLDING and found.resources != told:
            raise WrongPhase(f"{name} was given other resources while it was told of these: attach it again")
        # Unless its log has these steps; if somebody took its resources meanwhile, they say so.
        if found.phase not in (Phase.ASSIGNED, *ANSWERING):
            await self.assign(name)
        if self._state.device(name).phase not in ANSWERING:
            await self.register(name)
        self.live[name] = device
        return self._state.device(name).resources

    async def _walk_back(self, device: str, reason: str) -> None:
        """Until it holds nothing, or as far as what lives inside it allows: it no longer answers in any case."""
        if self._state.device(device).phase in ANSWERING:
            await self.unregister(device)
        self.live.pop(device, None)
        if self._state.device(device).phase in HOLDING:
            await self.release(device, reason=reason)

    async def pio_read(self, port: int, size: int) -> bytes:
        """What the guest reads from ``size`` ports (1, 2 or 4 of them on a real machine) at ``port``.

        Raises:
            NotMapped, InvalidAccess: nobody answers there, the access does not fit one registered range whole, or the
                device answered something else than ``size`` bytes.
        """
        return await self.live.read(self.bus, Space.PIO, port, size)

    async def pio_write(self, port: int, data: bytes) -> None:
        """Take what the guest writes to ports; as ``pio_read``."""
        await self.live.write(self.bus, Space.PIO, port, data)

    async def mmio_read(self, address: int, size: int) -> bytes:
        """What the guest reads from ``size`` bytes of memory-mapped I/O at ``address``; as ``pio_read``."""
        return await self.live.read(self.bus, Space.MMIO, address, size)

    async def mmio_write(self, address: int, data: bytes) -> None:
        """Take what the guest writes to memory-mapped I/O; as ``pio_read``."""
        await self.live.write(self.bus, Space.MMIO, address, data)

    # -- the funnel ---------------------------------------------------------------------------------------------------

    async def _commit(self, decision: Decision) -> None:
        """Everything that changes the VM goes through here, one at a time."""
        self._store.check_home()  # before waiting for a turn, which a task of another event loop would never get
        async with self._turn:
            if self._behind:
                await self._settle()
            events: list[Event] | None = None
            try:
                events = decision(self._state)
            except Refused:  # another manager of this VM may have made it possible
                if not await self._catch_up():
                    raise
            if events is None:
                events = decision(self._state)
            if events:
                with anyio.CancelScope(shield=True):
                    await self._append(events)
            else:
                await checkpoint()  # else it would be over without a turn for anybody else

    async def _append(self, events: Sequence[Event]) -> None:
        try:
            records = await self._store.append(self.name, self._drafts(events), expected=self._state.revision)
        except BaseException as error:
            # Whether it stands is unknown: look before the next decision. After a conflict at once, so that the caller
            # sees what the other one did; and after asyncio's own cancellation, which comes even through a shield.
            self._behind = True
            if isinstance(error, Conflict):
                await self._catch_up()
            elif isinstance(error, anyio.get_cancelled_exc_class()):
                with suppress(EsrmError):  # else the next step looks; it is a cancellation in any case
                    await self._settle()
            raise
        self._apply(records)

    def _apply(self, records: Sequence[Record[Event]]) -> None:
        for record in records:
            evolve(self._state, record.event)
            if isinstance(record.event, (ResourcesReleased, DeviceRemoved)):
                self.live.pop(record.event.device, None)
        self._position, self._time_ns = records[-1].position, records[-1].time_ns

    async def _settle(self) -> None:
        """See what became of an append that was not answered: it may be under way still, so queue behind it first."""
        with suppress(Conflict, StoreError):
            await self._store.append(self.name, [], expected=self.revision)
        await self._catch_up()

    async def _catch_up(self) -> bool:
        """Read what others (or we, without knowing) appended; whether there was something."""
        before, size = self.revision, PAGE
        while size == PAGE:
            # Read elsewhere, applied here in one go: who looks at the state or the bus meanwhile sees what once was.
            page = await self._store.ask(lambda reader: list(reader.payloads(self.name, self.revision, PAGE)))
            for payload in page:
                self._position, self._time_ns = step(self._state, self.name, payload)
            size = len(page)
        self._behind = False
        if self.revision == before:
            return False
        for name in list(self.live):
            device = self._state.devices.get(name)
            if device is None or device.phase not in HOLDING:
                del self.live[name]
        return True

    async def _recall(self) -> None:
        """Begin with the last layout that was kept of a long log, instead of nothing."""

        def nearest(reader: Reader[Event]) -> VmState:
            head = reader.stream(self.name)
            # Before the last event: its position and time are in the log only.
            return VmState() if head is None else Snapshots(reader, self.name).nearest(head.revision - 1)

        self._state = await self._store.ask(nearest)
        self._kept = self.revision

    async def _remember(self) -> None:
        """Keep the layout, if many events came since one was kept: so the next one to open replays few."""
        if self.revision - self._kept < STRIDE_MIN:
            return
        state, last, self._kept = self._state.copy(), self._kept, self.revision

        def keep(reader: Reader[Event]) -> None:
            snapshots = Snapshots(reader, self.name, last)
            snapshots.offer(state)
            snapshots.flush()

        await self._store.ask(keep)

    def _drafts(self, events: Sequence[Event]) -> list[Draft[Event]]:
        asker = _asker.get()
        told = self._clock()
        if type(told) is not int:
            raise Malformed(f"{self.name}: the clock gives whole nanoseconds, as time.time_ns does, not {told!r:.40}")
        now = max(told, self._time_ns)
        if now > TIME_NS_MAX:  # before an id is made of it, behind which all later ones would have to lie
            raise TooLarge(f"{self.name}: the clock says {now}, but a time_ns is at most 2**63-1")
        actor = self._actor if asker.actor is None else asker.actor
        return [
            Draft(event=event, id=self._ids(now), time_ns=now, actor=actor, correlation=asker.correlation)
            for event in events
        ]


class Uuid7:
    """Record ids: UUIDs of version 7 (RFC 9562, 5.7), in the order in which they were made.

    The 12 bits behind the milliseconds hold their fraction (method 3 of 6.2, 244 ns a step), counted on where the
    clock stands still.
    """

    def __init__(self) -> None:
        self._tick = 0

    def __call__(self, time_ns: int) -> str:
        """The next id, for this time."""
        milliseconds, rest = divmod(time_ns, 1_000_000)
        self._tick = max(self._tick + 1, milliseconds << 12 | rest * 4096 // 1_000_000)
        high = (self._tick >> 12) << 16 | 0x7000 | self._tick & 0xFFF
        low = 1 << 63 | int.from_bytes(os.urandom(8), "big") >> 2
        digits = f"{high:016x}{low:016x}"
        return f"{digits[:8]}-{digits[8:12]}-{digits[12:16]}-{digits[16:20]}-{digits[20:]}"


def _ended(error: BaseException) -> str:
    """How a device's own code ended, in words."""
    _, failed = BaseExceptionGroup("", [error]).split(anyio.get_cancelled_exc_class())  # a nursery cancels in a group
    try:
        return "was cancelled" if failed is None else f"failed: {error!r}"
    except Exception:  # the device's errors may be of any class, and that of any quality
        return f"failed: {type(error).__name__}"


def _platform(platform: str | os.PathLike[str] | Platform) -> Platform:
    """A profile by name, a file by path, or the thing itself."""
    if isinstance(platform, Platform):
        return platform
    path = Path(platform)
    if path.suffix in (".toml", ".json"):
        return load_platform(path)
    return profiles.get(str(platform))


def load_platform(path: str | os.PathLike[str]) -> Platform:
    """A platform from a TOML or JSON file; its form is in ``core.platform.parse_platform``.

    Raises:
        InvalidPlatform: the file cannot be read, is not TOML or JSON, or does not describe a platform.
    """
    try:
        with Path(path).open("rb") as file:
            data = file.read(PLATFORM_BYTES_MAX + 1)  # what is longer is refused for that
    except (OSError, ValueError) as error:
        raise InvalidPlatform(f"{path}: {error}") from error
    return decode_platform(data, str(path))
