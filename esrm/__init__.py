"""esrm: an event-sourced, async resource manager for virtual machine monitors.

The public names, sorted by where they live; nothing is defined here. Each is imported on first use, so that
``import esrm`` costs next to nothing and the command line starts no event loop to read a file.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from esrm.bulk import (
        replay_all as replay_all,
    )
    from esrm.core import decide as decide
    from esrm.core import profiles as platforms  # noqa: F401  # pyright: ignore[reportUnusedImport]
    from esrm.core.allocator import (
        Allocator as Allocator,
    )
    from esrm.core.allocator import (
        Usage as Usage,
    )
    from esrm.core.bus import (
        Answer as Answer,
    )
    from esrm.core.bus import (
        Bus as Bus,
    )
    from esrm.core.decide import (
        Placement as Placement,
    )
    from esrm.core.decide import (
        Plan as Plan,
    )
    from esrm.core.events import (
        AllocationRefused as AllocationRefused,
    )
    from esrm.core.events import (
        ConstraintsDeclared as ConstraintsDeclared,
    )
    from esrm.core.events import (
        DeviceCreated as DeviceCreated,
    )
    from esrm.core.events import (
        DeviceRegistered as DeviceRegistered,
    )
    from esrm.core.events import (
        DeviceRemoved as DeviceRemoved,
    )
    from esrm.core.events import (
        DeviceUnregistered as DeviceUnregistered,
    )
    from esrm.core.events import (
        Event as Event,
    )
    from esrm.core.events import (
        Holding as Holding,
    )
    from esrm.core.events import (
        Move as Move,
    )
    from esrm.core.events import (
        Refusal as Refusal,
    )
    from esrm.core.events import (
        ResourcesAllocated as ResourcesAllocated,
    )
    from esrm.core.events import (
        ResourcesAssigned as ResourcesAssigned,
    )
    from esrm.core.events import (
        ResourcesMoved as ResourcesMoved,
    )
    from esrm.core.events import (
        ResourcesReleased as ResourcesReleased,
    )
    from esrm.core.events import (
        UnplugRefused as UnplugRefused,
    )
    from esrm.core.events import (
        UnplugRequested as UnplugRequested,
    )
    from esrm.core.events import (
        VmCreated as VmCreated,
    )
    from esrm.core.lifecycle import (
        Phase as Phase,
    )
    from esrm.core.platform import (
        Platform as Platform,
    )
    from esrm.core.platform import (
        Reserved as Reserved,
    )
    from esrm.core.resources import (
        DeviceResources as DeviceResources,
    )
    from esrm.core.resources import (
        GenericIrqConstraint as GenericIrqConstraint,
    )
    from esrm.core.resources import (
        KvmMemSlot as KvmMemSlot,
    )
    from esrm.core.resources import (
        KvmMemSlotConstraint as KvmMemSlotConstraint,
    )
    from esrm.core.resources import (
        LegacyIrq as LegacyIrq,
    )
    from esrm.core.resources import (
        LegacyIrqConstraint as LegacyIrqConstraint,
    )
    from esrm.core.resources import (
        MacAddress as MacAddress,
    )
    from esrm.core.resources import (
        MacAddressConstraint as MacAddressConstraint,
    )
    from esrm.core.resources import (
        MemAddressRange as MemAddressRange,
    )
    from esrm.core.resources import (
        MemConstraint as MemConstraint,
    )
    from esrm.core.resources import (
        MmioAddressRange as MmioAddressRange,
    )
    from esrm.core.resources import (
        MmioConstraint as MmioConstraint,
    )
    from esrm.core.resources import (
        MsiIrq as MsiIrq,
    )
    from esrm.core.resources import (
        MsiIrqType as MsiIrqType,
    )
    from esrm.core.resources import (
        PciMsiIrqConstraint as PciMsiIrqConstraint,
    )
    from esrm.core.resources import (
        PciMsixIrqConstraint as PciMsixIrqConstraint,
    )
    from esrm.core.resources import (
        PioAddressRange as PioAddressRange,
    )
    from esrm.core.resources import (
        PioConstraint as PioConstraint,
    )
    from esrm.core.resources import (
        Resource as Resource,
    )
    from esrm.core.resources import (
        ResourceConstraint as ResourceConstraint,
    )
    from esrm.core.resources import (
        Space as Space,
    )
    from esrm.core.resources import (
        span as span,
    )
    from esrm.core.state import (
        DeviceState as DeviceState,
    )
    from esrm.core.state import (
        VmState as VmState,
    )
    from esrm.core.state import (
        evolve as evolve,
    )
    from esrm.core.state import (
        replay as replay,
    )
    from esrm.devices import (
        Device as Device,
    )
    from esrm.devices import (
        MmioDevice as MmioDevice,
    )
    from esrm.devices import (
        PioDevice as PioDevice,
    )
    from esrm.errors import (
        AddressConflict as AddressConflict,
    )
    from esrm.errors import (
        Conflict as Conflict,
    )
    from esrm.errors import (
        Corrupt as Corrupt,
    )
    from esrm.errors import (
        DuplicateDevice as DuplicateDevice,
    )
    from esrm.errors import (
        EsrmError as EsrmError,
    )
    from esrm.errors import (
        InUse as InUse,
    )
    from esrm.errors import (
        InvalidAccess as InvalidAccess,
    )
    from esrm.errors import (
        InvalidConstraint as InvalidConstraint,
    )
    from esrm.errors import (
        InvalidName as InvalidName,
    )
    from esrm.errors import (
        InvalidPlatform as InvalidPlatform,
    )
    from esrm.errors import (
        Malformed as Malformed,
    )
    from esrm.errors import (
        NoSpace as NoSpace,
    )
    from esrm.errors import (
        NotAllocated as NotAllocated,
    )
    from esrm.errors import (
        NotMapped as NotMapped,
    )
    from esrm.errors import (
        OutOfRange as OutOfRange,
    )
    from esrm.errors import (
        Refused as Refused,
    )
    from esrm.errors import (
        Rejected as Rejected,
    )
    from esrm.errors import (
        StoreError as StoreError,
    )
    from esrm.errors import (
        TooLarge as TooLarge,
    )
    from esrm.errors import (
        Unknown as Unknown,
    )
    from esrm.errors import (
        UnknownDevice as UnknownDevice,
    )
    from esrm.errors import (
        UnknownMoment as UnknownMoment,
    )
    from esrm.errors import (
        Unproven as Unproven,
    )
    from esrm.errors import (
        WrongPhase as WrongPhase,
    )
    from esrm.history import (
        Blame as Blame,
    )
    from esrm.history import (
        Change as Change,
    )
    from esrm.history import (
        Diff as Diff,
    )
    from esrm.history import (
        History as History,
    )
    from esrm.history import (
        Past as Past,
    )
    from esrm.history import (
        devices_of as devices_of,
    )
    from esrm.manager import (
        ResourceManager as ResourceManager,
    )
    from esrm.manager import (
        acting as acting,
    )
    from esrm.manager import (
        load_platform as load_platform,
    )
    from esrm.opening import (
        open_reader as open_reader,
    )
    from esrm.opening import (
        open_store as open_store,
    )
    from esrm.projection import (
        Projection as Projection,
    )
    from esrm.stores.base import (
        Reader as Reader,
    )
    from esrm.stores.base import (
        Store as Store,
    )
    from esrm.stores.records import (
        Committed as Committed,
    )
    from esrm.stores.records import (
        Draft as Draft,
    )
    from esrm.stores.records import (
        Record as Record,
    )
    from esrm.stores.records import (
        StreamHead as StreamHead,
    )
    from esrm.subscription import (
        Subscription as Subscription,
    )

_HOMES = {
    "esrm.bulk": "replay_all",
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
        "InvalidPlatform Malformed NoSpace NotAllocated NotMapped OutOfRange Refused Rejected StoreError TooLarge "
        "Unknown UnknownDevice UnknownMoment Unproven WrongPhase"
    ),
    "esrm.history": "Blame Change Diff History Past devices_of",
    "esrm.manager": "ResourceManager acting load_platform",
    "esrm.opening": "open_reader open_store",
    "esrm.projection": "Projection",
    "esrm.stores.base": "Reader Store",
    "esrm.stores.records": "Committed Draft Record StreamHead",
    "esrm.subscription": "Subscription",
}
_MODULES = {"decide": "esrm.core.decide", "platforms": "esrm.core.profiles"}
_HOME_OF = {name: home for home, names in _HOMES.items() for name in names.split()}

__version__ = "0.1.0"

__all__ = [*_HOME_OF, *_MODULES]  # pyright: ignore[reportUnsupportedDunderAll]


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
