"""One table: (phase, event) -> phase. The only place that says which step may follow which.

The way there is the ancestor's five steps. The way back is three: ``unregister``, ``release`` (of what was allocated,
assigned or not) and ``remove`` (of what was created, declared or not). ``docs/lifecycle.md`` is drawn from this table.
Next: ``decide.py`` asks it, ``state.py`` obeys.
"""

from __future__ import annotations

from enum import Enum

from esrm.core import events
from esrm.errors import WrongPhase


class Phase(Enum):
    """Where a device is in its life."""

    CREATED = "created"
    """It exists and has asked for nothing."""
    DECLARED = "declared"
    """Its constraints are known."""
    ALLOCATED = "allocated"
    """It holds resources that meet them."""
    ASSIGNED = "assigned"
    """The device has been told what it holds."""
    REGISTERED = "registered"
    """It answers on the bus."""
    UNPLUGGING = "unplugging"
    """It still answers, but the guest has been asked to let go of it."""

    # As for Space: the table below is looked up by phase at every event of a replay.
    __hash__ = object.__hash__


_CREATED, _DECLARED, _ALLOCATED = Phase.CREATED, Phase.DECLARED, Phase.ALLOCATED
_ASSIGNED, _REGISTERED, _UNPLUGGING = Phase.ASSIGNED, Phase.REGISTERED, Phase.UNPLUGGING

TRANSITIONS: dict[tuple[Phase | None, type], Phase | None] = {
    # the way there
    (None, events.DeviceCreated): _CREATED,
    (_CREATED, events.ConstraintsDeclared): _DECLARED,
    (_DECLARED, events.ConstraintsDeclared): _DECLARED,  # refused? ask differently
    (_DECLARED, events.AllocationRefused): _DECLARED,
    (_DECLARED, events.ResourcesAllocated): _ALLOCATED,
    (_ALLOCATED, events.ResourcesAssigned): _ASSIGNED,
    (_ASSIGNED, events.DeviceRegistered): _REGISTERED,
    # moved while it lives
    (_ALLOCATED, events.ResourcesMoved): _ALLOCATED,
    (_ASSIGNED, events.ResourcesMoved): _ASSIGNED,
    (_REGISTERED, events.ResourcesMoved): _REGISTERED,
    # hot-unplug: release has two phases, since the guest must agree
    (_REGISTERED, events.UnplugRequested): _UNPLUGGING,
    (_UNPLUGGING, events.UnplugRefused): _REGISTERED,
    (_UNPLUGGING, events.DeviceUnregistered): _ASSIGNED,
    # the way back
    (_REGISTERED, events.DeviceUnregistered): _ASSIGNED,
    (_ASSIGNED, events.ResourcesReleased): _DECLARED,
    (_ALLOCATED, events.ResourcesReleased): _DECLARED,
    (_DECLARED, events.DeviceRemoved): None,
    (_CREATED, events.DeviceRemoved): None,
}
"""From a phase (None: no such device), by an event, to a phase (None: the device is gone)."""

BY_EVENT: dict[type, dict[Phase, Phase]] = {
    event: {before: after for (before, by), after in TRANSITIONS.items() if by is event and before and after}
    for _, event in TRANSITIONS
}
"""The same table by event, without births and deaths: replay looks at it once an event, and needs no pair for a key."""

STEPS: dict[type, str] = {
    events.DeviceCreated: "create",
    events.ConstraintsDeclared: "declare",
    events.ResourcesAllocated: "allocate",
    events.ResourcesAssigned: "assign",
    events.DeviceRegistered: "register",
    events.ResourcesMoved: "move",
    events.UnplugRequested: "request_unplug",
    events.UnplugRefused: "refuse_unplug",
    events.DeviceUnregistered: "unregister",
    events.ResourcesReleased: "release",
    events.DeviceRemoved: "remove",
}
"""The manager's method that asks for each event."""

HOLDING = frozenset({_ALLOCATED, _ASSIGNED, _REGISTERED, _UNPLUGGING})
"""The phases in which a device holds resources."""

ANSWERING = frozenset({_REGISTERED, _UNPLUGGING})
"""The phases in which a device answers on the bus."""


def allowed(phase: Phase | None) -> list[str]:
    """The steps that are legal in a phase, in the order of the table."""
    return [STEPS[event] for (source, event) in TRANSITIONS if source is phase and event in STEPS]


def check(device: str, phase: Phase, event: type) -> None:
    """Refuse a step out of order.

    Raises:
        WrongPhase: names the phase the device is in and the steps it allows.
    """
    if (phase, event) not in TRANSITIONS:
        raise WrongPhase(
            f"{device}: cannot {STEPS[event]} in phase {phase.value}; it allows {', '.join(allowed(phase))}"
        )
