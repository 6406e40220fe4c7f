"""Events, wishes and devices in words: one line each, for the log, the tree and the page.

Separate from ``output.py`` because these are plain sentences that know no terminal. Next: ``core/events.py``, the facts
that are told here.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import groupby
from typing import Any, TypeAlias

from esrm.core import events as e
from esrm.core.resources import (
    GenericIrqConstraint,
    KvmMemSlot,
    KvmMemSlotConstraint,
    LegacyIrqConstraint,
    MacAddressConstraint,
    PciMsiIrqConstraint,
    PciMsixIrqConstraint,
    Resource,
    ResourceConstraint,
)
from esrm.core.state import DeviceState

_DEFAULT_ALIGN = {"pio": 1, "mmio": 0x1000, "mem": 0x1000}


def headline(event: e.Event) -> str:
    """The event's type and what it says: ``ResourcesAllocated net0: mmio 0xc0001000-0xc0001fff, irq 5``."""
    said = summary(event)
    return f"{type(event).__name__} {said}" if said else type(event).__name__


def summary(event: e.Event) -> str:
    """What an event says beyond its type."""
    return _SUMMARIES[type(event)](event)


def held(resources: Sequence[Resource]) -> str:
    """What is held, in request order; a run of KVM slots as one."""
    parts: list[str] = []
    for _, run in groupby(enumerate(resources), _run):
        first, *rest = [resource for _, resource in run]
        if rest and isinstance(first, KvmMemSlot):
            parts.append(f"slots {first.index}-{first.index + len(rest)}")
        else:
            parts.append(str(first))
    return ", ".join(parts) or "nothing"


def _run(numbered: tuple[int, Resource]) -> object:
    """Equal for slots that count up with their places; anything else is a run of its own."""
    place, resource = numbered
    return resource.index - place if isinstance(resource, KvmMemSlot) else numbered


def wish(constraint: ResourceConstraint) -> str:
    """What is asked for: ``mmio 0x1000``, ``pio 0x8 at 0x3f8``, ``irq 4``, ``2 slots``."""
    match constraint:
        case LegacyIrqConstraint(irq=irq, shared=shared):
            return (
                ("a shared irq" if shared else "an irq") if irq is None else f"irq {irq}{' shared' if shared else ''}"
            )
        case PciMsiIrqConstraint():
            return _vectors("pci_msi", constraint.size, constraint.base)
        case PciMsixIrqConstraint():
            return _vectors("pci_msix", constraint.size, constraint.base)
        case GenericIrqConstraint():
            return _vectors("generic_msi", constraint.size, constraint.base)
        case KvmMemSlotConstraint(size=size, slot=slot):
            return f"{size} slot{'s' * (size > 1)}{'' if slot is None else f' from {slot}'}"
        case MacAddressConstraint(address=address):
            return f"mac {address}" if address else "a mac"
        case _:
            return _range_wish(constraint)


def device(state: DeviceState) -> str:
    """A device as the tree shows it: ``net0 [virtio-net] registered: mmio 0xc0001000-0xc0001fff, irq 5``."""
    kind = f" [{state.kind}]" if state.kind else ""
    holds = f": {held(state.allocated)}" if state.allocated else ""
    return f"{state.name}{kind} {state.phase.value}{holds}"


def _vectors(kind: str, size: int, base: int | None) -> str:
    return f"{size} {kind}{'' if base is None else f' from {base}'}"


def _range_wish(constraint: Any) -> str:
    space = constraint.space.value
    text = f"{space} {constraint.size:#x}"
    if constraint.policy == "exact":
        return f"{text} at {constraint.range[0]:#x}"
    if constraint.range is not None:
        text += f" in {constraint.range[0]:#x}-{constraint.range[1]:#x}"
    if constraint.align != _DEFAULT_ALIGN[space]:
        text += f" aligned to {constraint.align:#x}"
    return text + (" from the top" if constraint.policy == "last" else "")


def _created(event: e.DeviceCreated) -> str:
    kind = f" [{event.kind}]" if event.kind else ""
    return f"{event.device}{kind}{'' if event.parent is None else f' inside {event.parent}'}"


def _released(event: e.ResourcesReleased) -> str:
    return f"{event.device}: {held(event.resources)}{_because(event.reason)}"


def _moved(event: e.ResourcesMoved) -> str:
    return "; ".join(f"{move.device}: {move.old} -> {move.new}" for move in event.moves)


def _because(reason: str) -> str:
    return f" ({reason})" if reason else ""


Summary: TypeAlias = Callable[[Any], str]

_SUMMARIES: dict[type, Summary] = {
    e.VmCreated: lambda event: f"on platform {event.platform.name}",
    e.DeviceCreated: _created,
    e.ConstraintsDeclared: lambda event: f"{event.device}: {', '.join(map(wish, event.constraints)) or 'nothing'}",
    e.ResourcesAllocated: lambda event: f"{event.device}: {held(event.resources)}",
    # The reason begins with the device's name, as every refusal does.
    e.AllocationRefused: lambda event: event.refusal.message,
    e.ResourcesAssigned: lambda event: event.device,
    e.DeviceRegistered: lambda event: event.device,
    e.UnplugRequested: lambda event: event.device,
    e.UnplugRefused: lambda event: event.device + (f": {event.reason}" if event.reason else ""),
    e.DeviceUnregistered: lambda event: event.device,
    e.ResourcesReleased: _released,
    e.ResourcesMoved: _moved,
    e.DeviceRemoved: lambda event: event.device,
}
