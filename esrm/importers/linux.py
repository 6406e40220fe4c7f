"""A real Linux machine's layout, recorded as a VM of its own: ``esrm import linux``.

Each holder that ``layout.py`` finds becomes a device with exact constraints, taken through the five steps, inside its
parent. Import again after a change and only the difference is recorded: what is gone goes the way back, what is new
goes the way there, what stayed is not mentioned. So ``map``, ``blame`` and ``diff`` work on a real computer.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator
from itertools import pairwise
from os import PathLike
from pathlib import Path
from typing import TYPE_CHECKING, TypeAlias

import msgspec
from anyio import to_thread

from esrm.core import decide
from esrm.core.events import Event, encode
from esrm.core.lifecycle import Phase
from esrm.core.platform import Platform
from esrm.core.resources import (
    PCI_MSIX_MAX,
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
from esrm.core.state import VmState, evolve
from esrm.errors import InvalidConstraint
from esrm.importers.layout import MsiType, Node, layout
from esrm.importers.proc import read_machine
from esrm.manager import ResourceManager, acting
from esrm.stores.records import BATCH_RECORDS_MAX

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
_UPPER_PORTS = 0x8000
"""The ancestor's port sizes are u16, so all 0x10000 ports do not fit one range: they are recorded as two that touch.
A range lies in one of its parent's, so whatever is inside and would lie in both is recorded as two, as well."""


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
        Refused: as ``read`` and ``record`` do; nothing recorded.
        Conflict, Corrupt, StoreError: as ``record`` does.
    """
    return await record(store, await to_thread.run_sync(read, root), vm=vm, actor=actor)


def read(root: str | PathLike[str]) -> Found:
    """What there is to record of a machine, and can be. Apart from ``record``, so that no store is made for a refusal.

    Raises:
        Refused: the files cannot be read as what they should be, or show zeros to an ordinary user; or they tell what
            cannot be, such as one message that two functions send.
    """
    return rehearsed(layout(read_machine(Path(root))))


def rehearsed(nodes: tuple[Node, ...]) -> Found:
    """The nodes with their constraints, if a VM can be all that.

    Raises:
        Refused: they claim what cannot be, such as one message for two.
    """
    wanted = _wanted(nodes)
    _difference(VmState.of(PLATFORM, (), 0), set(), wanted)
    skipped = tuple(
        f"{node.name}: {space} {max(first, U16_MAX + 1):#x}-{last:#x} is above {U16_MAX:#x}"
        for node in nodes
        for space, first, last in node.ranges
        if space == "pio" and last > U16_MAX
    )
    return wanted, skipped


async def record(store: Store[Event], found: Found, *, vm: str, actor: str = "esrm import linux") -> Imported:
    """Record what ``read`` has found.

    All is decided before any of it is appended, and up to 10,000 events (2,000 new devices) are one append, which
    stands whole or not at all. A larger import that is cut short between two is taken up again by the next one.

    Raises:
        InvalidPlatform: the VM exists and is not an imported machine; nothing recorded.
        Refused: something in the VM is in the way, which only another writer can have put there; nothing recorded.
        Conflict: another writer appended at the same time. Corrupt, StoreError: the log or the disk.
    """
    wanted, skipped = found
    with acting(actor=actor):
        async with ResourceManager(store, vm=vm, platform=PLATFORM) as manager:
            before = manager.state.copy()
            stale = _stale(before, wanted)
            events = _difference(before, stale, wanted)
            for start in range(0, len(events), BATCH_RECORDS_MAX):
                batch = events[start : start + BATCH_RECORDS_MAX]
                # The steps one by one would be an append each, and the last one could be refused when the rest stands.
                await manager._commit(lambda _, batch=batch: batch)  # pyright: ignore[reportPrivateUsage]
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


_Message: TypeAlias = tuple[MsiType, int, int]
_Wanted: TypeAlias = dict[str, tuple[Node, tuple[ResourceConstraint, ...]]]
Found: TypeAlias = tuple[_Wanted, tuple[str, ...]]
"""Every node with its constraints, parents first; and what had to be left out."""


def _wanted(nodes: tuple[Node, ...]) -> _Wanted:
    holders = Counter(line for node in nodes for line in node.irqs)
    shared = {line for line, count in holders.items() if count > 1}
    halved: set[str] = set()
    for node in nodes:
        if node.parent in halved or any(s == "pio" and not first and last >= U16_MAX for s, first, last in node.ranges):
            halved.add(node.name)
    wanted: _Wanted = {}
    for node in nodes:
        try:
            wanted[node.name] = node, tuple(_constraints(node, shared, node.name in halved))
        except InvalidConstraint as error:
            raise InvalidConstraint(f"{node.name}: {error}") from error
    return wanted


def _constraints(node: Node, shared: set[int], is_halved: bool) -> Iterator[ResourceConstraint]:
    for space, first, last in node.ranges:
        if space == "pio":
            last = min(last, U16_MAX)
        cuts = [_UPPER_PORTS] if space == "pio" and is_halved and first < _UPPER_PORTS <= last else []
        for low, end in pairwise([first, *cuts, last + 1]) if first <= last else ():
            yield _RANGES[space](end - low, (low, end - 1), align=1, policy="exact")
    for line in node.irqs:
        yield LegacyIrqConstraint(line, shared=line in shared)
    for kind, base, size in _groups(node.msis):
        yield _MESSAGES[kind](size, base=base)


def _groups(messages: Iterable[_Message]) -> list[_Message]:
    """Consecutive messages of one type as one: a function may send 2,048. A group of MSI has rules of its own."""
    groups: list[_Message] = []
    for kind, number, size in messages:
        last, base, so_far = groups[-1] if groups else (None, 0, 0)
        if kind == last != "pci_msi" and number == base + so_far and so_far + size <= PCI_MSIX_MAX:
            groups[-1] = kind, base, so_far + size
        else:
            groups.append((kind, number, size))
    return groups


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


def _difference(state: VmState, stale: set[str], wanted: _Wanted) -> list[Event]:
    """All that has to happen: decided step by step on a copy, on which each step has happened when the next is decided.

    Raises:
        Refused: as a step is.
    """
    state, events = state.copy(), list[Event]()

    def happen(decided: list[Event]) -> None:
        for event in decided:
            encode(event)  # what is too large for a record is refused here, too
            evolve(state, event)
            events.append(event)

    for device in state.walk(reverse=True):
        if device.name in stale:
            happen(decide.detach(state, device.name))
    for name, (node, constraints) in wanted.items():
        if name not in state.devices:
            happen(decide.create(state, name, node.kind, node.parent))
            happen(decide.declare(state, name, constraints))
            happen(decide.allocate(state, name))
            happen(decide.assign(state, name))
            happen(decide.register(state, name))
    return events
