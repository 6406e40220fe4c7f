"""A real Linux machine's layout, recorded as a VM of its own: ``esrm import linux``.

Each holder that ``layout.py`` finds becomes a device with exact constraints, taken through the five steps, inside its
parent. Import again after a change and only the difference is recorded: what is gone goes the way back, what is new
goes the way there, what stayed is not mentioned. So ``map``, ``blame`` and ``diff`` work on a real computer.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from os import PathLike
from pathlib import Path
from typing import TYPE_CHECKING, TypeAlias

import msgspec
from anyio import to_thread

from esrm.core.events import Event
from esrm.core.lifecycle import Phase
from esrm.core.platform import Platform
from esrm.core.resources import (
    U16_MAX,
    U32_MAX,
    U64_MAX,
    GenericIrqConstraint,
    LegacyIrqConstraint,
    MemConstraint,
    MmioConstraint,
    PciMsiIrqConstraint,
    PciMsixIrqConstraint,
    PioConstraint,
    ResourceConstraint,
    Space,
)
from esrm.core.state import VmState
from esrm.importers.layout import Node, layout
from esrm.importers.proc import read_machine
from esrm.manager import ResourceManager, acting

if TYPE_CHECKING:
    from esrm.stores.base import Store

PLATFORM = Platform(
    name="linux",
    pools={
        Space.PIO: ((0, U16_MAX),),
        Space.MMIO: ((0, U64_MAX),),
        Space.MEM: ((0, U64_MAX),),
        Space.LEGACY_IRQ: ((0, U32_MAX),),
    },
    joined={Space.MSI_IRQ: Space.LEGACY_IRQ},
)
"""A machine on which every number exists. Linux has one number space for lines and messages."""

_RANGES = {"pio": PioConstraint, "mmio": MmioConstraint, "mem": MemConstraint}
_MESSAGES = {"pci_msi": PciMsiIrqConstraint, "pci_msix": PciMsixIrqConstraint, "generic_msi": GenericIrqConstraint}
_PORTS_AT_ONCE = 0x8000
"""The ancestor's port sizes are u16, so all 0x10000 ports do not fit one range: they are recorded as two that touch."""


class Imported(msgspec.Struct, frozen=True):
    """What an import recorded, by device name, and the VM's revision after it.

    ``changed`` devices live on with other resources; ``rebuilt`` ones did not change but lie inside one that did, so
    they were released and allocated again with it. ``skipped`` is what the ancestor's types cannot hold.
    """

    vm: str
    revision: int
    added: tuple[str, ...] = ()
    removed: tuple[str, ...] = ()
    changed: tuple[str, ...] = ()
    rebuilt: tuple[str, ...] = ()
    skipped: tuple[str, ...] = ()

    def __bool__(self) -> bool:
        return bool(self.added or self.removed or self.changed)


async def import_machine(
    store: Store[Event], *, vm: str = "linux", root: str | PathLike[str] = "/", actor: str = "esrm import linux"
) -> Imported:
    """Record the layout of the machine whose /proc and /sys stand under ``root`` (a folder of copies will do).

    Raises:
        Refused: the files cannot be read as what they should be, or show zeros to an ordinary user; nothing recorded.
        InvalidPlatform: the VM exists and is not an imported machine.
    """
    return await record(store, await to_thread.run_sync(read, root), vm=vm, actor=actor)


def read(root: str | PathLike[str]) -> Found:
    """What there is to record of a machine. Apart from ``record``, so that no store need be made for a refusal.

    Raises:
        Refused: as ``import_machine`` does.
    """
    return _wanted(layout(read_machine(Path(root))))


async def record(store: Store[Event], found: Found, *, vm: str, actor: str = "esrm import linux") -> Imported:
    """Record what ``read`` has found.

    Raises:
        InvalidPlatform: as ``import_machine`` does.
    """
    wanted, skipped = found
    with acting(actor=actor):
        async with ResourceManager(store, vm=vm, platform=PLATFORM) as manager:
            stale = _stale(manager.state, wanted)
            before = manager.state.copy()
            for device in manager.state.walk(reverse=True):
                if device.name in stale:
                    await manager.detach(device.name)
            for name, (node, constraints) in wanted.items():
                if name not in manager.state.devices:
                    await _record(manager, node, constraints)
            changed = {name for name in stale & wanted.keys() if _differs(before, wanted[name])}
            return Imported(
                vm=vm,
                revision=manager.revision,
                added=tuple(name for name in wanted if name not in before.devices),
                removed=tuple(name for name in before.devices if name not in wanted),
                changed=tuple(name for name in wanted if name in changed),
                rebuilt=tuple(name for name in wanted if name in stale - changed),
                skipped=skipped,
            )


_Wanted: TypeAlias = dict[str, tuple[Node, tuple[ResourceConstraint, ...]]]
Found: TypeAlias = tuple[_Wanted, tuple[str, ...]]
"""Every node with its constraints, parents first; and what had to be left out."""


def _wanted(nodes: tuple[Node, ...]) -> Found:
    holders = Counter(line for node in nodes for line in node.irqs)
    shared = {line for line, count in holders.items() if count > 1}
    skipped = tuple(
        f"{node.name}: {space} {first:#x}-{last:#x} is above {U16_MAX:#x}"
        for node in nodes
        for space, first, last in node.ranges
        if space == "pio" and last > U16_MAX
    )
    return {node.name: (node, tuple(_constraints(node, shared))) for node in nodes}, skipped


def _constraints(node: Node, shared: set[int]) -> Iterator[ResourceConstraint]:
    for space, first, last in node.ranges:
        if space == "pio" and last > U16_MAX:
            continue
        for low, high in _pieces(space, first, last):
            yield _RANGES[space](high - low + 1, (low, high), align=1, policy="exact")
    for line in node.irqs:
        yield LegacyIrqConstraint(line, shared=line in shared)
    for kind, base, size in node.msis:
        yield _MESSAGES[kind](size, base=base)


def _pieces(space: str, first: int, last: int) -> Iterator[tuple[int, int]]:
    if space == "pio" and last - first + 1 > U16_MAX:
        yield first, first + _PORTS_AT_ONCE - 1
        first += _PORTS_AT_ONCE
    yield first, last


def _stale(state: VmState, wanted: _Wanted) -> set[str]:
    """What must go: the gone and the different, and all that lies inside them."""
    stale = {name for name in state.devices if name not in wanted or _differs(state, wanted[name])}
    for device in state.walk():
        if device.parent in stale:
            stale.add(device.name)
    return stale


def _differs(state: VmState, wish: tuple[Node, tuple[ResourceConstraint, ...]]) -> bool:
    node, constraints = wish
    found = state.devices[node.name]
    same = (found.kind, found.parent, found.constraints) == (node.kind, node.parent, constraints)
    return not same or found.phase is not Phase.REGISTERED  # an import that was cut short is taken up again


async def _record(manager: ResourceManager, node: Node, constraints: tuple[ResourceConstraint, ...]) -> None:
    await manager.create(node.name, kind=node.kind, parent=node.parent)
    await manager.declare(node.name, constraints)
    await manager.allocate(node.name)
    await manager.assign(node.name)
    await manager.register(node.name)
