"""esrm: an event-sourced, async resource manager for virtual machine monitors.

The public names, sorted by where they live; nothing is defined here. Each is imported on first use, so that
``import esrm`` costs next to nothing and the command line starts no event loop to read a file.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from esrm.core import decide as decide
    from esrm.core import profiles as platforms
    from esrm.core.allocator import Allocator, Usage
    from esrm.core.bus import Answer, Bus
    from esrm.core.decide import Placement, Plan
    from esrm.core.events import (
        AllocationRefused,
        ConstraintsDeclared,
        DeviceCreated,
        DeviceRegistered,
        DeviceRemoved,
        DeviceUnregistered,
        Event,
        Holding,
        Move,
        Refusal,
        ResourcesAllocated,
        ResourcesAssigned,
        ResourcesMoved,
        ResourcesReleased,
        UnplugRefused,
        UnplugRequested,
        VmCreated,
    )
    from esrm.core.lifecycle import Phase
    from esrm.core.platform import Platform, Reserved
    from esrm.core.resources import (
        DeviceResources,
        GenericIrqConstraint,
        KvmMemSlot,
        KvmMemSlotConstraint,
        LegacyIrq,
        LegacyIrqConstraint,
        MacAddress,
        MacAddressConstraint,
        MemAddressRange,
        MemConstraint,
        MmioAddressRange,
        MmioConstraint,
        MsiIrq,
        MsiIrqType,
        PciMsiIrqConstraint,
        PciMsixIrqConstraint,
        PioAddressRange,
        PioConstraint,
        Resource,
        ResourceConstraint,
        Space,
        span,
    )
    from esrm.core.state import DeviceState, VmState, evolve, replay
    from esrm.devices import Device, MmioDevice, PioDevice
    from esrm.errors import (
        AddressConflict,
        Conflict,
        Corrupt,
        DuplicateDevice,
        EsrmError,
        InUse,
        InvalidAccess,
        InvalidConstraint,
        InvalidName,
        InvalidPlatform,
        NoSpace,
        NotAllocated,
        NotMapped,
        OutOfRange,
        Refused,
        StoreError,
        TooLarge,
        UnknownDevice,
        UnknownMoment,
        WrongPhase,
    )
    from esrm.history import Blame, Change, Diff, History, Past, devices_of
    from esrm.manager import ResourceManager, acting, load_platform
    from esrm.opening import open_reader, open_store
    from esrm.projection import Projection
    from esrm.stores.records import Draft, Record, StreamHead
    from esrm.subscription import Subscription

_HOMES = {
    "esrm.core.allocator": "Allocator Usage",
    "esrm.core.bus": "Answer Bus",
    "esrm.core.decide": "Placement Plan",
    "esrm.core.events": (
        "AllocationRefused ConstraintsDeclared DeviceCreated DeviceRegistered DeviceRemoved DeviceUnregistered Event "
        "Holding Move Refusal ResourcesAllocated ResourcesAssigned ResourcesMoved ResourcesReleased UnplugRefused "
        "UnplugRequested VmCreated"
    ),
    "esrm.core.lifecycle": "Phase",
    "esrm.core.platform": "Platform Reserved",
    "esrm.core.resources": (
        "DeviceResources GenericIrqConstraint KvmMemSlot KvmMemSlotConstraint LegacyIrq LegacyIrqConstraint MacAddress "
        "MacAddressConstraint MemAddressRange MemConstraint MmioAddressRange MmioConstraint MsiIrq MsiIrqType "
        "PciMsiIrqConstraint PciMsixIrqConstraint PioAddressRange PioConstraint Resource ResourceConstraint Space span"
    ),
    "esrm.core.state": "DeviceState VmState evolve replay",
    "esrm.devices": "Device MmioDevice PioDevice",
    "esrm.errors": (
        "AddressConflict Conflict Corrupt DuplicateDevice EsrmError InUse InvalidAccess InvalidConstraint InvalidName "
        "InvalidPlatform NoSpace NotAllocated NotMapped OutOfRange Refused StoreError TooLarge UnknownDevice "
        "UnknownMoment WrongPhase"
    ),
    "esrm.history": "Blame Change Diff History Past devices_of",
    "esrm.manager": "ResourceManager acting load_platform",
    "esrm.opening": "open_reader open_store",
    "esrm.projection": "Projection",
    "esrm.stores.records": "Draft Record StreamHead",
    "esrm.subscription": "Subscription",
}
_MODULES = {"decide": "esrm.core.decide", "platforms": "esrm.core.profiles"}
_HOME_OF = {name: home for home, names in _HOMES.items() for name in names.split()}

__version__ = "0.1.0"

__all__ = [  # noqa: PLE0604  # pyright: ignore[reportUnsupportedDunderAll]
    *sorted(_HOME_OF),
    "decide",
    "platforms",
]


def __getattr__(name: str) -> Any:
    if name in _MODULES:
        value: Any = import_module(_MODULES[name])
    elif name in _HOME_OF:
        value = getattr(import_module(_HOME_OF[name]), name)
    else:
        raise AttributeError(f"module 'esrm' has no attribute {name!r}")
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return [*__all__, "__version__"]
