"""What the manager's tests share: a small machine, toy devices, a clock to step, random steps, and two judges.

The judges are plain: ``audit`` compares what the state's projections say with what its devices say, ``agree`` compares
everything that can rebuild a state. Nothing here knows how the manager works.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from itertools import pairwise
from typing import Any

import anyio

import esrm
from esrm import (
    GenericIrqConstraint,
    KvmMemSlotConstraint,
    LegacyIrqConstraint,
    MacAddressConstraint,
    MemConstraint,
    MmioConstraint,
    Move,
    PciMsiIrqConstraint,
    PciMsixIrqConstraint,
    PioConstraint,
    Space,
    VmState,
)
from esrm.core.lifecycle import ANSWERING, HOLDING, Phase
from esrm.core.resources import span

TINY = esrm.Platform(
    "tiny",
    pools={
        Space.PIO: [(0x100, 0x1FF), (0x300, 0x33F)],
        Space.MMIO: [(0xD000_0000, 0xD001_FFFF)],
        Space.MEM: [(0x0, 0xF_FFFF)],
        Space.LEGACY_IRQ: [(5, 9)],
        Space.MSI_IRQ: [(24, 63)],
        Space.KVM_MEM_SLOT: [(0, 9)],
        Space.MAC: [(0x02_00_00_00_00_00, 0x02_00_00_00_00_05)],
    },
    reserved=[(Space.PIO, 0x170, 0x177, "IDE"), (Space.MMIO, 0xD000_4000, 0xD000_4FFF, "timer")],
    shared_irq=4,
)
"""Small enough to be full after a few devices, so that refusals are part of every story."""

START_NS = 1_795_000_000_000_000_000


class Clock:
    """Time that goes on when told to."""

    def __init__(self, now: int = START_NS) -> None:
        self.now = now

    def __call__(self) -> int:
        return self.now


class Toy:
    """A live device with a byte for each register. ``trouble`` is raised when it is assigned, as often as it is set."""

    def __init__(
        self,
        name: str,
        *constraints: esrm.ResourceConstraint,
        kind: str = "toy",
        parent: str | None = None,
        trouble: BaseException | None = None,
    ) -> None:
        self.name, self.kind, self.parent, self.trouble = name, kind, parent, trouble
        self.wanted = constraints or (MmioConstraint(0x1000), LegacyIrqConstraint(shared=True))
        self.assigned: list[esrm.DeviceResources] = []
        self.seen: list[tuple[Any, ...]] = []

    def constraints(self) -> Sequence[esrm.ResourceConstraint]:
        return list(self.wanted)

    async def assign(self, resources: esrm.DeviceResources) -> None:
        await anyio.lowlevel.checkpoint()
        if self.trouble is not None:
            raise self.trouble
        self.assigned.append(resources)

    async def mmio_read(self, base: int, offset: int, size: int) -> bytes:
        self.seen.append(("read", base, offset, size))
        return bytes((offset + i) % 256 for i in range(size))

    async def mmio_write(self, base: int, offset: int, data: bytes) -> None:
        self.seen.append(("write", base, offset, data))

    pio_read, pio_write = mmio_read, mmio_write


async def events_of(store: Any, vm: str) -> list[esrm.Event]:
    """Everything that stands in a VM's log."""
    return [record.event for record in await records_of(store, vm)]


async def records_of(store: Any, vm: str) -> list[esrm.Record[esrm.Event]]:
    """Every record of a VM's log, page by page."""
    found: list[esrm.Record[esrm.Event]] = []
    while page := await store.read(vm, len(found) - 1, 500):
        found += page
    return found


async def until(vm: esrm.ResourceManager, device: str, phase: Phase) -> None:
    """Take a device through single steps, the shortest way, until it is in a phase."""
    await vm.create(device, kind="toy")
    if phase is Phase.CREATED:
        return
    await vm.declare(device, [MmioConstraint(0x1000), PioConstraint(8)])
    for reached, step in (
        (Phase.ALLOCATED, vm.allocate),
        (Phase.ASSIGNED, vm.assign),
        (Phase.REGISTERED, vm.register),
        (Phase.UNPLUGGING, vm.request_unplug),
    ):
        if vm.state.device(device).phase is phase:
            return
        await step(device)
        assert vm.state.device(device).phase is reached


# -- random steps -----------------------------------------------------------------------------------------------------

NAMES = [f"dev{n}" for n in range(8)]


def wishes(dice: random.Random) -> list[esrm.ResourceConstraint]:
    """A random request; on the tiny machine one in a few of these cannot be met."""
    some = [
        lambda: MmioConstraint(dice.choice([0x800, 0x1000, 0x3000]), policy=dice.choice([None, "first", "last"])),
        lambda: MmioConstraint(0x1000, (0xD000_0000, 0xD000_3FFF), align=0x2000),
        lambda: PioConstraint(dice.choice([1, 8, 32])),
        lambda: PioConstraint(8, (dice.choice([0x100, 0x108, 0x170]), 0x1FF), policy="exact"),
        lambda: MemConstraint(dice.choice([0x1000, 0x10000, 0x40000])),
        lambda: LegacyIrqConstraint(),
        lambda: LegacyIrqConstraint(shared=True),
        lambda: LegacyIrqConstraint(dice.randrange(4, 10), shared=dice.random() < 0.5),
        lambda: PciMsiIrqConstraint(dice.choice([1, 4, 8])),
        lambda: PciMsixIrqConstraint(dice.randrange(1, 9)),
        lambda: GenericIrqConstraint(dice.randrange(1, 5)),
        lambda: KvmMemSlotConstraint(dice.randrange(1, 4), slot=dice.choice([None, None, 3])),
        lambda: MacAddressConstraint(dice.choice([None, None, "52:54:00:12:34:56"])),
    ]
    return [dice.choice(some)() for _ in range(dice.randrange(5))]


def moves(state: VmState, dice: random.Random) -> list[Move]:
    """One device's resource to some free place, or two devices' resources changing places."""
    holding = [device for device in state.devices.values() if device.allocated]
    if not holding:
        return []
    device = dice.choice(holding)
    old = dice.choice(device.allocated)
    for other in holding:
        for new in other.allocated:
            if other is not device and type(new) is type(old) and dice.random() < 0.5:
                return [Move(device.name, old, new), Move(other.name, new, old)]
    space, first, last = span(old)
    free = list(state.ledger(device, space).free)
    if not free or not hasattr(old, "base"):
        return []
    low, _, _ = dice.choice(free)
    fields = {name: getattr(old, name) for name in old.__struct_fields__}
    return [Move(device.name, old, type(old)(**{**fields, "base": low + dice.choice([0, last - first + 1])}))]


LIKELY = {
    Phase.CREATED: ["declare", "declare", "remove"],
    Phase.DECLARED: ["allocate", "allocate", "allocate", "declare", "remove"],
    Phase.ALLOCATED: ["assign", "assign", "release", "move"],
    Phase.ASSIGNED: ["register", "register", "release", "move"],
    Phase.REGISTERED: ["unregister", "request_unplug", "move", "attach"],
    Phase.UNPLUGGING: ["refuse_unplug", "unregister"],
}
ANY = sorted({step for steps in LIKELY.values() for step in steps} | {"create", "detach"})


async def turn(vm: esrm.ResourceManager, dice: random.Random) -> str:
    """One random step, mostly a sensible one; what it was, for the message of a failure. ``Conflict`` comes out."""
    device = dice.choice(NAMES)
    found = vm.state.devices.get(device)
    likely = ["create", "create", "attach"] if found is None else LIKELY[found.phase]
    step = dice.choice(likely if dice.random() < 0.85 else ANY)
    try:
        match step:
            case "create":
                parent = dice.choice([None, None, *vm.state.devices])
                await vm.create(device, kind=f"kind{dice.randrange(3)}", parent=parent)
            case "declare":
                await vm.declare(device, wishes(dice))
            case "release" | "refuse_unplug":
                await getattr(vm, step)(device, reason=dice.choice(["", "because"]))
            case "move":
                await vm.move(moves(vm.state, dice))
            case "attach":
                trouble = ValueError("it does not like it") if dice.random() < 0.2 else None
                await vm.attach(Toy(device, *wishes(dice), trouble=trouble))
            case _:
                await getattr(vm, step)(device)
    except (esrm.Refused, ValueError) as error:
        return f"{step} {device}: {type(error).__name__}"
    return f"{step} {device}"


# -- judges -----------------------------------------------------------------------------------------------------------


def audit(state: VmState) -> None:
    """Allocator and bus say what the devices say: nothing more, nothing less, nothing twice."""
    if state.platform is None:
        return
    fresh = state.copy()
    for space in Space:
        _audit_ledgers(state, fresh, space)
        _audit_bus(state, space)


def _audit_ledgers(state: VmState, fresh: VmState, space: Space) -> None:
    books = {id(state.allocator.ledger(space)): (state.allocator.ledger(space), fresh.allocator.ledger(space))}
    spans: dict[int, list[tuple[int, int, str]]] = {key: [] for key in books}
    for device in state.devices.values():
        book = state.ledger(device, space)
        books[id(book)] = (book, fresh.ledger(device, space))
        for where, first, last in map(span, device.allocated):
            if where is space:
                spans.setdefault(id(book), []).append((first, last, device.name))
    for key, (live, rebuilt) in books.items():
        held = [(first, last, tuple(sorted(owners))) for first, last, owners in live.held]
        assert held == [(first, last, tuple(sorted(owners))) for first, last, owners in rebuilt.held]
        assert (list(live.free), live.shared) == (list(rebuilt.free), rebuilt.shared)
        assert sorted(spans.get(key, [])) == sorted((a, b, owner) for a, b, owners in held for owner in owners)
        for first, last, owners in held:
            assert len(owners) == 1 or first in live.shared, f"{owners} both hold {space} {first:#x}-{last:#x}"
        # Free, held and reserved are the pool, whole and without overlap.
        parts = [*live.free, *((a, b) for a, b, _ in held), *_walls(live)]
        inside = sorted((a, b) for a, b in parts if any(low <= a <= high for low, high in live.pools))
        assert sum(b - a + 1 for a, b in inside) == sum(b - a + 1 for a, b in live.pools)
        assert all(left[1] < right[0] for left, right in pairwise(inside))


def _walls(book: Any) -> list[tuple[int, int]]:
    return [(first, last) for first, last, _ in book.reserved]


def _audit_bus(state: VmState, space: Space) -> None:
    """Of the ranges around an address, the innermost answers: the smallest, and of two equal ones the descendant's."""
    answering = [
        (first, last, device.name)
        for device in state.devices.values()
        if device.phase in ANSWERING
        for where, first, last in map(span, device.allocated)
        if where is space and space in (Space.PIO, Space.MMIO)
    ]
    assert sorted((a.base, a.last, a.device) for a in state.bus.ranges(space)) == sorted(answering)
    for address in {edge for first, last, _ in answering for edge in (first - 1, first, last, last + 1)}:
        around = [(b - a, -len(state.ancestors(name)), a, name) for a, b, name in answering if a <= address <= b]
        answer = state.bus.lookup(space, address)
        assert (answer is None) == (not around)
        if answer is not None:
            assert (answer.base, answer.device) == min(around)[2:]
    for holding in state.holders(space, 0, space.last):
        assert holding.reserved or state.devices[holding.owner].phase in HOLDING


async def agree(store: Any, vm: esrm.ResourceManager) -> None:
    """What is live is what the log says, to the last record."""
    records = await records_of(store, vm.name)
    assert vm.state == esrm.replay(record.event for record in records)
    if records:
        assert (vm.revision, vm.position) == (records[-1].revision, records[-1].position)
    audit(vm.state)
