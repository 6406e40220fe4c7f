"""What is true now: the state of one VM, and how each event changes it.

``evolve`` applies what already happened. It cannot refuse; if it cannot apply, the log is not one that ``decide`` ever
wrote, and that is ``Corrupt``. It is all that replay does, so it touches dictionaries only: the allocator's ledgers and
the bus are projections built from the devices when somebody first asks, and kept current from then on.

Next: ``decide.py``, which looks at this state before anything happens.
"""

# pyright: reportPrivateUsage=false
# The handlers of `evolve` are the other half of VmState, and alone may touch what it keeps to itself.

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import Any

import msgspec

from esrm.core import events as e
from esrm.core.allocator import Allocator, Ledger
from esrm.core.bus import Bus
from esrm.core.lifecycle import ANSWERING, BY_EVENT, TRANSITIONS, Phase
from esrm.core.platform import Platform
from esrm.core.resources import (
    DeviceResources,
    LegacyIrq,
    LegacyIrqConstraint,
    Resource,
    ResourceConstraint,
    Space,
    alike,
    span,
)
from esrm.errors import Corrupt, Refused, UnknownDevice
from esrm.names import suggestion

REDUCER_VERSION = 1
"""What a log means to this code. It changes when some log would fold into another state, or the state's shape changes:
then what was cached of older folding is not believed any more. (A test reminds whoever changes ``evolve``.)"""


class DeviceState(msgspec.Struct, frozen=True, gc=False):
    """One device as the log tells it."""

    name: str
    kind: str
    parent: str | None
    phase: Phase
    constraints: tuple[ResourceConstraint, ...] = ()
    allocated: tuple[Resource, ...] = ()

    @property
    def resources(self) -> DeviceResources:
        """What it holds, in request order (a copy: the log alone changes what is held)."""
        return DeviceResources(self.allocated)

    def __str__(self) -> str:
        return f"{self.name} [{self.kind or 'device'}] {self.phase.value}: {self.resources}"


class VmState:
    """One VM after ``revision`` (-1: nothing has happened yet). Two states are equal when the same things are true.

    Attributes:
        platform: from the first event; None before it.
        devices: by name, in the order of their creation.
        revision: of the last event applied.
    """

    __slots__ = ("_allocator", "_bus", "_children", "devices", "platform", "revision")

    def __init__(self) -> None:
        self.platform: Platform | None = None
        self.devices: dict[str, DeviceState] = {}
        self.revision = -1
        self._children: dict[str, dict[str, None]] = {}
        self._allocator: Allocator | None = None
        self._bus: Bus | None = None

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, VmState):
            return NotImplemented
        return (self.revision, self.platform, self.devices) == (other.revision, other.platform, other.devices)

    __hash__ = None  # type: ignore[assignment]  # it changes

    def __repr__(self) -> str:
        name = self.platform.name if self.platform else "no platform"
        return f"<VmState at {self.revision}: {name}, {len(self.devices)} devices>"

    @classmethod
    def of(cls, platform: Platform | None, devices: Iterable[DeviceState], revision: int) -> VmState:
        """The state after ``revision`` that is told by its parts; the devices in the order of their creation."""
        state = cls()
        state.platform, state.revision = platform, revision
        for device in devices:
            state.devices[device.name] = device
            if device.parent is not None:
                state._children.setdefault(device.parent, {})[device.name] = None
        return state

    def copy(self) -> VmState:
        """A state of its own; the devices are values and are shared."""
        twin = VmState()
        twin.platform, twin.revision = self.platform, self.revision
        twin.devices = dict(self.devices)
        twin._children = {parent: dict(names) for parent, names in self._children.items()}
        return twin

    # -- looking ------------------------------------------------------------------------------------------------------

    def device(self, name: str) -> DeviceState:
        """The device of that name.

        Raises:
            UnknownDevice: there is none; the message offers names that come close.
        """
        try:
            return self.devices[name]
        except (KeyError, TypeError):
            hint = suggestion(name, self.devices)
            raise UnknownDevice(f"no device {name!r:.80} in this VM; {hint}") from None

    def children(self, name: str | None) -> list[DeviceState]:
        """The devices directly inside ``name`` (None: those inside nobody), in order of creation."""
        if name is None:
            return [device for device in self.devices.values() if device.parent is None]
        return [self.devices[child] for child in self._children.get(name, ())]

    def descendants(self, name: str) -> Iterator[DeviceState]:
        """Everything inside a device, however deep, parents before their children."""
        waiting = self.children(name)
        while waiting:
            device = waiting.pop(0)
            yield device
            waiting += self.children(device.name)

    def ancestors(self, name: str) -> tuple[str, ...]:
        """The names of the devices around a device, nearest first."""
        found: list[str] = []
        parent = self.devices[name].parent
        while parent is not None:
            found.append(parent)
            parent = self.devices[parent].parent
        return tuple(found)

    def holding_inside(self, name: str) -> list[str]:
        """Who inside a device, however deep, holds something. While anybody does, the device keeps what it holds."""
        return [inner.name for inner in self.descendants(name) if inner.allocated]

    def walk(self, *, reverse: bool = False) -> list[DeviceState]:
        """All devices breadth first, parents before children; reversed it is the safe order of tear-down."""
        order = self.children(None)
        for device in order:
            order += self.children(device.name)
        return order[::-1] if reverse else order

    def holders(self, space: Space, first: int, last: int | None = None) -> list[e.Holding]:
        """Who holds (or reserves) any of first..last, in address order, the outer before the inner.

        Each holding tells its own space, which is another one where the platform joins the two. Linear in what is
        held: it asks the devices themselves, and so can judge the allocator.
        """
        if self.platform is None:
            return []
        last = first if last is None else last
        kin = self.platform.kin(space)
        found = [
            e.Holding(device.name, where, low, high)
            for device in self.walk()
            for where, low, high in map(span, device.allocated)
            if where in kin and low <= last and high >= first
        ]
        for entry in self.platform.reserved:
            if entry.space in kin and entry.first <= last and entry.last >= first:
                found.append(e.Holding(entry.owner, entry.space, entry.first, entry.last, reserved=True))
        return sorted(found, key=lambda holding: (holding.first, -holding.last))

    # -- projections --------------------------------------------------------------------------------------------------

    @property
    def allocator(self) -> Allocator:
        """The free and held ranges, built on first use.

        Raises:
            Corrupt: two devices hold the same thing, which no log of ours can say.
        """
        if self._allocator is None:
            if self.platform is None:
                raise Refused("this VM has no platform yet: nothing has happened in it")
            self._allocator = Allocator(self.platform)
            try:
                for device in self.walk():
                    self._take(device)
            except Corrupt:
                self._allocator = None  # half of one would answer the next time
                raise
        return self._allocator

    @property
    def bus(self) -> Bus:
        """Who answers where, built on first use.

        Raises:
            Corrupt: two devices answer at the same place.
        """
        if self._bus is None:
            bus = Bus()
            for device in self.devices.values():
                if device.phase in ANSWERING:
                    self._connect(bus, device)
            self._bus = bus
        return self._bus

    def ledger(self, device: DeviceState, space: Space) -> Ledger:
        """What serves a device: the window of the nearest ancestor that holds addresses there, else the platform."""
        if space.nests and device.parent is not None:
            for name in self.ancestors(device.name):
                window = self.allocator.window(name, space, self.devices[name].allocated)
                if window is not None:
                    return window
        return self.allocator.ledger(space)

    def _take(self, device: DeviceState) -> None:
        self.allocator.close(device.name)
        shares, common = _shares(device), self.platform and self.platform.shared_irq
        for index, resource in enumerate(device.allocated):
            space, first, last = span(resource)
            shared = index in shares or (space is Space.LEGACY_IRQ and first == common)
            try:
                self.ledger(device, space).take(first, last, device.name, shared=shared)
            except Refused as error:
                raise Corrupt(
                    f"after revision {self.revision}: {device.name} cannot hold {resource}: {error}"
                ) from error

    def _give(self, device: DeviceState) -> None:
        for resource in device.allocated:
            space, first, last = span(resource)
            self.ledger(device, space).give(first, last, device.name)
        self.allocator.close(device.name)

    def _connect(self, bus: Bus, device: DeviceState) -> None:
        ancestors = self.ancestors(device.name)
        for space, first, last in map(span, device.allocated):
            if space not in _ON_BUS:
                continue
            try:
                bus.register(space, first, last - first + 1, device.name, ancestors)
            except Refused as error:
                raise Corrupt(f"after revision {self.revision}: two devices answer at one place: {error}") from error

    def _disconnect(self, bus: Bus, device: DeviceState) -> None:
        for space, first, last in map(span, device.allocated):
            if space in _ON_BUS:
                bus.unregister(space, first, last - first + 1, device.name)


_ON_BUS = frozenset({Space.PIO, Space.MMIO})


def _shares(device: DeviceState) -> set[int]:
    """The indexes of the lines that a device asked to share: the n-th line answers the n-th wish for one."""
    wishes = [c.shared for c in device.constraints if isinstance(c, LegacyIrqConstraint)]
    if not any(wishes):
        return set()
    lines = [index for index, resource in enumerate(device.allocated) if isinstance(resource, LegacyIrq)]
    return {index for index, shared in zip(lines, wishes, strict=False) if shared}


# -- evolve ----------------------------------------------------------------------------------------------------------


def evolve(state: VmState, event: e.Event) -> VmState:
    """Apply one event that happened; the state is changed in place and returned.

    Raises:
        Corrupt: it cannot have happened to this state. The state is then not to be used any more.
    """
    kind: type = type(event)
    step = _STEPS.get(kind)
    if step is None:
        _OTHERS[kind](state, event)
    else:
        # Here and not in a function of its own: replay does little else, and a call less is a tenth of it.
        change, phases = step
        fact: Any = event
        try:
            device = state.devices[fact.device]
            phase = phases[device.phase]
        except KeyError:
            raise _out_of_order(state, fact.device, kind) from None
        change(state, fact, device, phase)
    state.revision += 1
    return state


def replay(history: Iterable[e.Event]) -> VmState:
    """The state that a history leads to."""
    state = VmState()
    for event in history:
        evolve(state, event)
    return state


def _vm_created(state: VmState, event: e.VmCreated) -> None:
    if state.revision != -1:
        raise Corrupt(f"revision {state.revision + 1}: VmCreated is always the first event, and only that")
    if not 1 <= event.format <= e.LOG_FORMAT:
        raise Corrupt(f"log format {event.format}; this version reads 1 to {e.LOG_FORMAT}: a newer esrm wrote it")
    state.platform = event.platform


def _device_created(state: VmState, event: e.DeviceCreated) -> None:
    name, parent = event.device, event.parent
    if state.platform is None:
        raise Corrupt(f"revision {state.revision + 1}: the first event is not VmCreated")
    if name in state.devices:
        raise Corrupt(f"revision {state.revision + 1}: DeviceCreated for {name!r:.80}, which lives")
    if parent is not None:
        if parent not in state.devices:
            raise Corrupt(
                f"revision {state.revision + 1}: {name!r:.80} is created inside {parent!r:.80}, which is unknown"
            )
        state._children.setdefault(parent, {})[name] = None
    state.devices[name] = DeviceState(name, event.kind, parent, Phase.CREATED)


def _device_removed(state: VmState, event: e.DeviceRemoved) -> None:
    name = event.device
    device = state.devices.get(name)
    if device is None or (device.phase, e.DeviceRemoved) not in TRANSITIONS or state._children.get(name):
        raise _out_of_order(state, name, e.DeviceRemoved)
    del state.devices[name]
    state._children.pop(name, None)
    if device.parent is not None:
        del state._children[device.parent][name]
    if state._allocator is not None:
        state._allocator.close(name)


def _resources_moved(state: VmState, event: e.ResourcesMoved) -> None:
    """All let go before any takes hold, so that two devices can change places."""
    if not event.moves:
        raise Corrupt(f"revision {state.revision + 1}: ResourcesMoved moves nothing")
    if len({(move.device, move.old) for move in event.moves}) < len(event.moves):
        raise Corrupt(f"revision {state.revision + 1}: ResourcesMoved moves one thing to two places")
    before = [_movable(state, name) for name in dict.fromkeys(move.device for move in event.moves)]
    after = {device.name: list(device.allocated) for device in before}
    for move in event.moves:
        if not alike(move.old, move.new):
            raise Corrupt(
                f"revision {state.revision + 1}: {move.device!r:.80} moves {move.old} to {move.new}, "
                "which is of another kind or size"
            )
        try:
            # Looked up in what was: a device may swap two ranges of its own.
            after[move.device][state.devices[move.device].allocated.index(move.old)] = move.new
        except ValueError:
            raise Corrupt(
                f"revision {state.revision + 1}: {move.device!r:.80} moves {move.old}, which it does not hold"
            ) from None
    allocator, bus = state._allocator, state._bus
    for device in before:
        if bus is not None and device.phase in ANSWERING:
            state._disconnect(bus, device)
        if allocator is not None:
            state._give(device)
    for device in before:
        moved = msgspec.structs.replace(device, allocated=tuple(after[device.name]))
        state.devices[device.name] = moved
        if allocator is not None:
            state._take(moved)
        if bus is not None and device.phase in ANSWERING:
            state._connect(bus, moved)


def _movable(state: VmState, name: str) -> DeviceState:
    device = state.devices.get(name)
    if device is None or device.phase not in BY_EVENT[e.ResourcesMoved]:
        raise _out_of_order(state, name, e.ResourcesMoved)
    _alone(state, name)
    return device


def _alone(state: VmState, name: str) -> None:
    """What a device holds changes only while nobody inside it holds anything."""
    if name in state._children and (inside := state.holding_inside(name)):
        raise Corrupt(
            f"revision {state.revision + 1}: {name!r:.80} changes what it holds around {inside[0]!r:.80}, "
            "which lives inside it and holds something"
        )


def _out_of_order(state: VmState, name: str, event: type) -> Corrupt:
    device = state.devices.get(name)
    what = f"in phase {device.phase.value}" if device else "which does not live"
    return Corrupt(f"revision {state.revision + 1}: {event.__name__} for {name!r:.80}, {what}")


# -- the steps of one device: each is told the device as it was, and the phase that it enters -------------------------


def _enter(state: VmState, _: e.Event, device: DeviceState, phase: Phase) -> None:
    """Change nothing but the phase."""
    # The device's own name, not the event's equal one: a million events else keep a million copies of names.
    state.devices[device.name] = DeviceState(
        device.name, device.kind, device.parent, phase, device.constraints, device.allocated
    )


def _constraints_declared(state: VmState, event: e.ConstraintsDeclared, device: DeviceState, phase: Phase) -> None:
    state.devices[device.name] = DeviceState(device.name, device.kind, device.parent, phase, event.constraints)


def _resources_allocated(state: VmState, event: e.ResourcesAllocated, device: DeviceState, phase: Phase) -> None:
    _alone(state, device.name)
    entered = DeviceState(device.name, device.kind, device.parent, phase, device.constraints, event.resources)
    state.devices[device.name] = entered
    if state._allocator is not None:
        state._take(entered)


def _resources_released(state: VmState, event: e.ResourcesReleased, device: DeviceState, phase: Phase) -> None:
    if event.resources != device.allocated:
        raise Corrupt(f"revision {state.revision + 1}: {device.name!r:.80} releases what it does not hold")
    _alone(state, device.name)
    if state._allocator is not None:
        state._give(device)
    state.devices[device.name] = DeviceState(device.name, device.kind, device.parent, phase, device.constraints)


def _allocation_refused(state: VmState, event: e.AllocationRefused, device: DeviceState, phase: Phase) -> None:
    """Nothing was taken."""


def _device_registered(state: VmState, event: e.DeviceRegistered, device: DeviceState, phase: Phase) -> None:
    _enter(state, event, device, phase)
    if state._bus is not None:
        state._connect(state._bus, device)


def _device_unregistered(state: VmState, event: e.DeviceUnregistered, device: DeviceState, phase: Phase) -> None:
    _enter(state, event, device, phase)
    if state._bus is not None:
        state._disconnect(state._bus, device)


_CHANGES: dict[type, Callable[[VmState, Any, DeviceState, Phase], None]] = {
    e.ConstraintsDeclared: _constraints_declared,
    e.ResourcesAllocated: _resources_allocated,
    e.AllocationRefused: _allocation_refused,
    e.ResourcesAssigned: _enter,
    e.DeviceRegistered: _device_registered,
    e.UnplugRequested: _enter,
    e.UnplugRefused: _enter,
    e.DeviceUnregistered: _device_unregistered,
    e.ResourcesReleased: _resources_released,
}
_STEPS = {kind: (change, BY_EVENT[kind]) for kind, change in _CHANGES.items()}  # one look for both
_OTHERS: dict[type, Callable[[VmState, Any], None]] = {
    e.VmCreated: _vm_created,
    e.DeviceCreated: _device_created,
    e.DeviceRemoved: _device_removed,
    e.ResourcesMoved: _resources_moved,
}
