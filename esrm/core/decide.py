"""May we, and where; and if not, why not.

Each function looks at a state and answers with the events that should happen, or raises a ``Refused``. It changes
nothing, asks no clock, and awaits nothing, so the manager can decide and append without anything slipping between.
No events means that there is nothing left to do. Next: ``events.py``, what was said; ``state.py``, what it means.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any, TypeAlias, cast

import msgspec

from esrm import names
from esrm.core import events as e
from esrm.core import lifecycle
from esrm.core.allocator import Allocator, Ledger
from esrm.core.lifecycle import ANSWERING, HOLDING, Phase
from esrm.core.placement import Scratch, wish
from esrm.core.platform import Platform
from esrm.core.ranges import RangeSet
from esrm.core.resources import (
    DeviceResources,
    LegacyIrq,
    MacAddress,
    Resource,
    ResourceConstraint,
    Space,
    alike,
    span,
)
from esrm.core.state import DeviceState, VmState
from esrm.errors import (
    AddressConflict,
    DuplicateDevice,
    InUse,
    InvalidConstraint,
    NotAllocated,
    OutOfRange,
    Refused,
    TooLarge,
    WrongPhase,
)

REASON_MAX = 1_000
"""A reason is cut to this many characters: it is for people."""

RESOURCES_MAX = 2_000
"""One device's resources, at most: more (of the shortest, KVM slots) would not go into one event."""

RESOURCES_SHORT = 500
"""So many (of the longest, 76 bytes) do go into one event with a name and a reason, and need not be tried."""


# -- the way there ---------------------------------------------------------------------------------------------------


def create_vm(state: VmState, platform: Platform) -> list[e.Event]:
    """Begin a VM on a platform; silence when it began already (its own platform stands in its log)."""
    return [] if state.platform is not None else [e.VmCreated(platform)]


def create(state: VmState, device: str, kind: str = "", parent: str | None = None) -> list[e.Event]:
    """A device begins its life, perhaps inside ``parent``.

    Raises:
        InvalidName, DuplicateDevice, UnknownDevice: of the name, or of the parent.
    """
    if state.platform is None:
        raise Refused("this VM has not begun: use its ResourceManager with `async with`")
    device = names.check("device", device)
    kind = names.check("kind", kind, empty=True)
    if device in state.devices:
        raise DuplicateDevice(f"{device} lives already, in phase {state.devices[device].phase.value}")
    if parent is not None:
        parent = state.device(parent).name
    return [e.DeviceCreated(device, kind, parent)]


def declare(state: VmState, device: str, constraints: Iterable[ResourceConstraint]) -> list[e.Event]:
    """The device says what it needs; silence when it said exactly that before.

    Raises:
        WrongPhase: it holds resources already. InvalidConstraint: not a constraint, or one that nothing could meet.
        TooLarge: more resources than one event can tell of.
    """
    found = state.device(device)
    lifecycle.check(device, found.phase, e.ConstraintsDeclared)
    wanted = _wishes(device, constraints)
    if found.phase is Phase.DECLARED and found.constraints == wanted:
        return []
    return [e.ConstraintsDeclared(device, wanted)]


def _wishes(device: str, constraints: Iterable[ResourceConstraint]) -> tuple[ResourceConstraint, ...]:
    """The constraints, if that is what they are, and few enough resources meet them."""
    wanted = tuple(constraints)
    for constraint in wanted:
        if not isinstance(cast(Any, constraint), ResourceConstraint):
            raise InvalidConstraint(
                f"{device}: expected constraints such as MmioConstraint(0x1000), got {constraint!r:.80}"
            )
        wish(constraint)
    _check_count(device, wanted)
    return wanted


def _check_count(device: str, constraints: Sequence[ResourceConstraint]) -> None:
    """Before anybody looks for room: a group of slots in a log can be as large as its number."""
    if (total := sum(constraint.count for constraint in constraints)) > RESOURCES_MAX:
        raise TooLarge(f"{device} asks for {total:,} resources; a device holds at most {RESOURCES_MAX:,}")


def _check_release(device: str, resources: tuple[Resource, ...]) -> None:
    """What could not be released is not given: the event that gives it back must tell of all of it."""
    if len(resources) > RESOURCES_SHORT:
        e.encode(e.ResourcesReleased(device, resources, "\0" * REASON_MAX))


def allocate(state: VmState, device: str) -> list[e.Event]:
    """Resources for everything the device declared, all of it or nothing.

    Raises:
        WrongPhase: not in phase declared. InUse: a device inside it holds resources.
        NoSpace, AddressConflict, OutOfRange: with a ``refusal``, which is worth recording.
        TooLarge: the resources would not fit into one event.
    """
    found = _ready(state, device, e.ResourcesAllocated)
    _check_count(device, found.constraints)
    scratch = Scratch(state.allocator.platform)
    resources = scratch.place(device, found.constraints, lambda space: state.ledger(found, space))
    _check_release(device, resources)
    return [e.ResourcesAllocated(device, resources)]


def assign(state: VmState, device: str) -> list[e.Event]:
    """The device has been told what it holds."""
    return [e.ResourcesAssigned(_ready(state, device, e.ResourcesAssigned).name)]


def register(state: VmState, device: str) -> list[e.Event]:
    """The device answers from now on."""
    return [e.DeviceRegistered(_ready(state, device, e.DeviceRegistered).name)]


# -- the way back ----------------------------------------------------------------------------------------------------


def unregister(state: VmState, device: str) -> list[e.Event]:
    """The device no longer answers; it still holds its resources."""
    return [e.DeviceUnregistered(_ready(state, device, e.DeviceUnregistered).name)]


def release(state: VmState, device: str, reason: str = "") -> list[e.Event]:
    """All that the device holds is given back.

    Raises:
        WrongPhase, UnknownDevice. NotAllocated: it holds nothing. InUse: a device inside it holds resources.
    """
    found = state.device(device)
    if found.phase not in HOLDING:
        raise NotAllocated(
            f"{device} holds nothing to release: it is in phase {found.phase.value}, "
            f"which allows {', '.join(lifecycle.allowed(found.phase))}"
        )
    _ready(state, device, e.ResourcesReleased)
    return [e.ResourcesReleased(device, found.allocated, _reason(reason))]


def remove(state: VmState, device: str) -> list[e.Event]:
    """The device's life ends.

    Raises:
        WrongPhase, UnknownDevice. InUse: devices live inside it.
    """
    found = _ready(state, device, e.DeviceRemoved)
    children = [child.name for child in state.children(device)]
    if children:
        raise InUse(
            f"{device}: {', '.join(children[:8])} live{'s' * (len(children) == 1)} inside it; remove the inner first"
        )
    return [e.DeviceRemoved(found.name)]


def detach(state: VmState, device: str) -> list[e.Event]:
    """All the steps back from wherever the device is, and the end of its life: all of them, or none.

    Raises:
        UnknownDevice. InUse: devices live inside it.
    """
    found = state.device(device)
    inside = [child.name for child in state.children(device)]
    if inside:
        raise InUse(f"{device}: {', '.join(inside[:8])} inside it must be detached first")
    quiet: list[e.Event] = [e.DeviceUnregistered(device)] if found.phase in ANSWERING else []
    empty: list[e.Event] = [e.ResourcesReleased(device, found.allocated)] if found.phase in HOLDING else []
    return [*quiet, *empty, e.DeviceRemoved(device)]


def request_unplug(state: VmState, device: str) -> list[e.Event]:
    """The guest is asked to let go of the device, which answers until it is unregistered."""
    return [e.UnplugRequested(_ready(state, device, e.UnplugRequested).name)]


def refuse_unplug(state: VmState, device: str, reason: str = "") -> list[e.Event]:
    """The guest keeps the device, and says why."""
    return [e.UnplugRefused(_ready(state, device, e.UnplugRefused).name, _reason(reason))]


def _reason(text: object) -> str:
    """Cut, and without the halves of characters that no UTF-8 holds: a reason never stands in the way of a step."""
    return str(text)[:REASON_MAX].encode(errors="replace").decode()


def _ready(state: VmState, device: str, event: type) -> DeviceState:
    """The device, when the event is legal in its phase and what lives inside it allows it."""
    found = state.device(device)
    lifecycle.check(device, found.phase, event)
    if event in (e.ResourcesAllocated, e.ResourcesReleased, e.ResourcesMoved):
        _check_inside(state, device)
    return found


def _check_inside(state: VmState, device: str) -> None:
    if inside := state.holding_inside(device):
        raise InUse(f"{device}: release what lies inside it first: {', '.join(inside[:8])}")


# -- moving ----------------------------------------------------------------------------------------------------------


def move(state: VmState, moves: Iterable[e.Move]) -> list[e.Event]:
    """Re-place resources of one or more devices, as one fact; what one gives up another may take.

    The constraints must still be met, but for the number of a line or an Ethernet address that was asked for by name:
    it says what the device began with, and guests reprogram lines, and operators change addresses.

    Raises:
        WrongPhase, UnknownDevice, InUse. NotAllocated: ``old`` is not held. InvalidConstraint: ``new`` is of another
        kind or size, or is not what the device's constraint asked for. AddressConflict, OutOfRange: of ``new``.
        TooLarge: where it lies afterwards, the device's release would not fit into one event.
    """
    batch = tuple(moves)
    renewed: dict[str, dict[Resource, Resource]] = {}
    landing: dict[int, RangeSet] = {}
    leaving: dict[int, RangeSet] = {}
    for item in batch:
        found = _ready(state, item.device, e.ResourcesMoved)
        _check_move(found, item)
        space, first, last = span(item.old)
        book = state.ledger(found, space)
        if first in book.shared:
            raise InvalidConstraint(f"{item.device}: {item.old} is shared, and a shared line does not move")
        _enter(leaving.setdefault(id(book), RangeSet()), first, last, f"{item.device}: {item.old} is moved twice")
        renewed.setdefault(found.name, {})[item.old] = item.new
    for item in batch:
        found = state.device(item.device)
        space, first, last = span(item.new)
        book = state.ledger(found, space)
        free = book.source(first).overlapping(first, last)
        room = sorted([*free, *leaving[id(book)].overlapping(first, last)])
        reach = first
        for low, high in room:
            reach = high + 1 if low <= reach else reach
        if reach <= last or first == book.shared_line or not book.covers(first, last):
            denial = book.denial(first, last)
            raise type(denial)(f"{item.device}: {denial}")
        _enter(
            landing.setdefault(id(book), RangeSet()),
            first,
            last,
            f"{item.device}: {item.new} is taken twice in this batch",
        )
    for name, moved in renewed.items():
        _check_release(name, tuple(moved.get(held, held) for held in state.devices[name].allocated))
    return [e.ResourcesMoved(batch)] if batch else []


def _enter(ranges: RangeSet, first: int, last: int, otherwise: str) -> None:
    try:
        ranges.insert(first, last)
    except ValueError:
        raise AddressConflict(otherwise) from None


def _check_move(device: DeviceState, item: e.Move) -> None:
    if item.old not in device.allocated:
        raise NotAllocated(f"{device.name} does not hold {item.old}; it holds {device.resources}")
    if not alike(item.old, item.new):
        raise InvalidConstraint(f"{device.name}: {item.new} is not of the kind and size of {item.old}")
    constraint = _constraint_of(device, item.old)
    _, first, last = span(item.new)
    if constraint is None:
        return
    asked = wish(constraint)
    if asked.exact is not None and not isinstance(item.new, (LegacyIrq, MacAddress)):
        raise InvalidConstraint(f"{device.name} asked for exactly {item.old}")
    if constraint.count > 1:
        raise InvalidConstraint(f"{device.name}: {item.old} is one of a group of {constraint.count}, in a row as asked")
    if first & (asked.align - 1):
        raise InvalidConstraint(f"{device.name}: {item.new} is not aligned to {asked.align:#x}")
    if asked.window is not None and not asked.window[0] <= first <= last <= asked.window[1]:
        raise OutOfRange(f"{device.name}: {item.new} is outside the window {asked.window[0]:#x}-{asked.window[1]:#x}")


def _constraint_of(device: DeviceState, resource: Resource) -> ResourceConstraint | None:
    """The constraint that a resource answers: they stand in the same order, a group of slots counting many."""
    index = device.allocated.index(resource)
    for constraint in device.constraints:
        if index < constraint.count:
            return constraint
        index -= constraint.count
    return None


# -- plans -----------------------------------------------------------------------------------------------------------

Request: TypeAlias = ResourceConstraint | str | tuple[str, Sequence[ResourceConstraint]]
"""In a plan: a constraint (all such make one nameless device), a declared device's name, or a name and constraints that
it would declare."""


class Placement(msgspec.Struct, frozen=True):
    """What one device of a plan would get, or why not."""

    device: str
    resources: tuple[Resource, ...] = ()
    refusal: e.Refusal | None = None

    def __str__(self) -> str:
        return self.refusal.message if self.refusal else f"{self.device}: {DeviceResources(self.resources)}"


class Plan(msgspec.Struct, frozen=True):
    """What would happen to a batch of requests, one after the other, on the layout of ``revision``."""

    revision: int
    placements: tuple[Placement, ...]

    @property
    def fits(self) -> bool:
        """Whether every request would be met."""
        return all(placement.refusal is None for placement in self.placements)

    def __str__(self) -> str:
        return "\n".join(map(str, self.placements))


def plan(state: VmState, requests: Iterable[Request]) -> Plan:
    """What would happen, and why; each request sees what those before it would have taken. Nothing is touched.

    Raises:
        UnknownDevice, WrongPhase, InUse, InvalidConstraint, InvalidName, TooLarge: a request that is not one.
    """
    scratch = Scratch(state.allocator.platform)
    outlook = _Outlook(state)
    placements: list[Placement] = []
    for device, constraints in _requests(state, requests):
        outlook.check(device)
        try:
            resources = scratch.place(device.name, constraints, lambda space, d=device: outlook.ledger(d, space))
        except Refused as error:
            placements.append(Placement(device.name, refusal=error.refusal))
        else:
            _check_release(device.name, resources)
            outlook.give(device, resources)
            placements.append(Placement(device.name, resources))
    return Plan(state.revision, tuple(placements))


class _Outlook:
    """The layout a plan has come to: the state's, and the windows of parents that were placed on the way."""

    def __init__(self, state: VmState) -> None:
        self.state = state
        self.given: dict[str, tuple[Resource, ...]] = {}
        self._windows = Allocator(state.allocator.platform)  # of the parents that were placed on the way, and no more

    def check(self, device: DeviceState) -> None:
        """As ``allocate`` will see it, when those before it in the plan hold what they would get."""
        inside = [inner.name for inner in self.state.descendants(device.name) if self.given.get(inner.name)]
        if inside:
            raise InUse(
                f"{device.name} stands behind {inside[0]}, which lives inside it, in the plan; put the outer first"
            )
        if device.name in self.given:
            raise WrongPhase(f"{device.name} stands in the plan twice")

    def give(self, device: DeviceState, resources: tuple[Resource, ...]) -> None:
        """What the device would hold from here on."""
        self.given[device.name] = resources
        self._windows.close(device.name)

    def ledger(self, device: DeviceState, space: Space) -> Ledger:
        """What serves a device: ``VmState.ledger``, but for what only the plan knows."""
        ancestors = self.state.ancestors(device.name) if device.parent is not None and space.nests else ()
        for name in ancestors:
            window = self._windows.window(name, space, self.given.get(name, ()))
            if window is not None:
                return window
        return self.state.ledger(device, space)


def _requests(state: VmState, requests: Iterable[Request]) -> list[tuple[DeviceState, Sequence[ResourceConstraint]]]:
    result: list[tuple[DeviceState, Sequence[ResourceConstraint]]] = []
    loose: list[ResourceConstraint] = []
    for request in requests:
        if isinstance(request, str):
            found = _ready(state, request, e.ResourcesAllocated)
            result.append((found, _wishes(request, found.constraints)))
        elif isinstance(request, tuple) and len(request) == 2:
            result.append(_declaring(state, names.check("device", request[0]), request[1]))
        elif isinstance(cast(Any, request), ResourceConstraint):
            loose.append(request)
        else:
            raise InvalidConstraint(
                f"a plan is made of constraints, device names, or (name, constraints); got {request!r:.80}"
            )
    if loose:
        name, known = "(new)", {*state.devices, *(device.name for device, _ in result)}
        while name in known:
            name = f"({name})"
        result.append(_declaring(state, name, loose))
    return result


def _declaring(
    state: VmState, name: str, constraints: Iterable[ResourceConstraint]
) -> tuple[DeviceState, Sequence[ResourceConstraint]]:
    """A device and what it would have declared, if it may: a new one always, a live one as ``declare`` sees it."""
    found = state.devices.get(name)
    if found is None:
        found = DeviceState(name, "", None, Phase.DECLARED)
    lifecycle.check(name, found.phase, e.ConstraintsDeclared)
    _check_inside(state, name)
    wanted = _wishes(name, constraints)
    e.encode(e.ConstraintsDeclared(name, wanted))  # what could not be declared is not planned
    return found, wanted
