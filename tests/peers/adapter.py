"""The peers' words in esrm's: what each operation of ``cases.json`` asks for, said through the public API.

It decides nothing: every answer and every refusal comes from esrm. A case's pools become a ``Platform``, its owners
devices, its ids wired lines or another space of single numbers; a step is ``decide`` and ``evolve`` on a ``VmState``.
Next: ``test_peers.py``, which compares the answers with what the peers' own tests expect.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from itertools import count
from typing import Any

import anyio
import msgspec

import esrm
from esrm import Space, decide
from esrm.devices import LiveDevices

Json = dict[str, Any]


class Vm:
    """One VM on a platform; its log is kept, so that the same story can be told again on a larger platform."""

    def __init__(self, platform: esrm.Platform) -> None:
        self.log: list[esrm.Event] = []
        self.state = esrm.VmState()
        self.numbers = count()
        self.step(decide.create_vm, platform)

    def step(self, decision: Callable[..., list[esrm.Event]], *args: Any) -> None:
        for event in decision(self.state, *args):
            esrm.evolve(self.state, event)
            self.log.append(event)

    def take(self, owner: str | None, *constraints: esrm.ResourceConstraint) -> tuple[esrm.Resource, ...]:
        """What a new device is given; one that is refused does not stay."""
        owner = owner or f"#{next(self.numbers)}"
        self.step(decide.create, owner)
        self.step(decide.declare, owner, constraints)
        try:
            self.step(decide.allocate, owner)
        except esrm.Refused:
            self.step(decide.remove, owner)
            raise
        return self.state.device(owner).allocated

    def give(self, owner: str) -> None:
        self.step(decide.release, owner)
        self.step(decide.remove, owner)

    def give_range(self, space: Space, first: int, last: int) -> None:
        """Release the device that holds just these numbers. If there is none, the ledger says so to a stranger."""
        for holding in self.state.holders(space, first, last):
            mine = [] if holding.reserved else [_span(r) for r in self.state.device(holding.owner).allocated]
            if mine and (mine[0][0], mine[-1][1]) == (first, last):
                return self.give(holding.owner)
        return self.state.allocator.ledger(space).give(first, last, "nobody")

    def widen(self, space: Space, first: int, last: int) -> None:
        """The same story on a platform with one more pool."""
        platform = self.state.platform
        pools = {**platform.pools, space: (*platform.pools.get(space, ()), (first, last))}
        self.log[0] = esrm.VmCreated(msgspec.structs.replace(platform, pools=pools))
        self.state = esrm.replay(self.log)


# -- address allocators ----------------------------------------------------------------------------------------------


class Addresses:
    """Ranges of 64-bit addresses with an owner each: the MMIO space."""

    def __init__(self, setup: Json) -> None:
        nodes = setup.get("nodes", [])
        self.min_align = setup.get("min_align", 0)
        self.vm = Vm(_platform({Space.MMIO: setup.get("pools", []) + [node["range"] for node in nodes]}))
        for node in nodes:
            if node["state"] == "allocated":
                self.vm.take(str(node.get("value", "x")), _range(Space.MMIO, node["range"]))

    def create(self, base: int, size: int, min_align: int = 1) -> Json:
        _platform({Space.MMIO: [(base, base + size - 1)]})
        esrm.MmioConstraint(1, align=min_align)
        return {}

    def insert(self, range: list[int]) -> Json:
        self.vm.widen(Space.MMIO, *range)
        return {"ok": True}

    def allocate(self, size: int, align: int, owner: str | None = None, **place: Any) -> Json:
        constraint = _constraint(Space.MMIO, size, max(align, self.min_align), **place)
        return {"range": _span(self.vm.take(owner, constraint)[0])}

    def free(self, range: list[int]) -> Json:
        self.vm.give_range(Space.MMIO, *range)
        return {"ok": True}

    def lookup(self, range: list[int] | None = None, owner: str | None = None) -> Json:
        """The whole stretch that the range lies in: held by one, or free."""
        first, last = range or _span(self.vm.state.device(str(owner)).allocated[0])
        for held in self.vm.state.holders(Space.MMIO, first, last):
            if held.first <= first and last <= held.last:
                value = int(held.owner) if held.owner.isdigit() else None
                node = [held.first, held.last]
                return {"node": node, "state": "allocated", "owner": held.owner, "value": value}
        hole = self.vm.state.allocator.ledger(Space.MMIO).free.at(first)
        if hole and last <= hole[1]:
            return {"node": [hole[0], hole[1]], "state": "free"}
        return {"none": True}

    def offset(self, owner: str, offset: int, size: int) -> Json:
        return {"value": self.vm.state.device(owner).allocated[0].at(offset, size)}


# -- id allocators ---------------------------------------------------------------------------------------------------


class Ids:
    """Single numbers: wired interrupt lines."""

    def __init__(self, setup: Json) -> None:
        self.vm = Vm(
            esrm.Platform(
                "ids",
                {Space.LEGACY_IRQ: [(setup["min"], setup["max"])]},
                [(Space.LEGACY_IRQ, line, line, "reserved") for line in setup.get("reserved", [])],
            )
        )

    def create(self, min: int, max: int) -> Json:
        _platform({Space.LEGACY_IRQ: [(min, max)]})
        return {}

    def allocate(self, id: int | None = None) -> Json:
        return {"id": self.vm.take(None, esrm.LegacyIrqConstraint(id))[0].irq}

    reserve = allocate

    def free(self, id: int) -> Json:
        self.vm.give_range(Space.LEGACY_IRQ, id, id)
        return {"id": id}

    def is_allocated(self, id: int) -> Json:
        return {"value": bool(self.vm.state.holders(Space.LEGACY_IRQ, id))}


# -- buses -----------------------------------------------------------------------------------------------------------


class Buses:
    """An ``esrm.Bus`` of one space, and live devices behind it for reads and writes."""

    def __init__(self, setup: Json) -> None:
        self.space = Space.PIO if setup["address_bits"] == 16 else Space.MMIO
        self.bus = esrm.Bus()
        self.live = LiveDevices()
        for entry in setup.get("registered", []):
            self.register(entry["base"], entry["size"], entry["device"])
            self.live[entry["device"]] = _Echo() if entry["device"] == "offset_echo" else _Cell(entry.get("data", 0))

    def register(self, base: int, size: int, device: str) -> Json:
        self.bus.register(self.space, base, size, device)
        return {"ok": True}

    def unregister(self, base: int, size: int) -> Json:
        self.bus.unregister(self.space, base, size)
        return {"ok": True}

    def move(self, old_base: int, new_base: int, size: int) -> Json:
        self.bus.move(self.space, old_base, new_base, size)
        return {"ok": True}

    def lookup(self, addr: int) -> Json:
        found = self.bus.lookup(self.space, addr)
        return {"device": found.device, "range": [found.base, found.last]} if found else {"none": True}

    def check_access(self, addr: int, len: int) -> Json:
        return {"device": self.bus.find(self.space, addr, len).device}

    def read(self, addr: int, len: int) -> Json:
        return {"data": list(anyio.run(self.live.read, self.bus, self.space, addr, len))}

    def write(self, addr: int, data: list[int]) -> Json:
        anyio.run(self.live.write, self.bus, self.space, addr, bytes(data))
        return {"ok": True}


class _Cell:
    """A device with one number in it."""

    def __init__(self, value: int) -> None:
        self.value = value

    async def mmio_read(self, base: int, offset: int, size: int) -> bytes:
        return self.value.to_bytes(size, "little")

    async def mmio_write(self, base: int, offset: int, data: bytes) -> None:
        self.value = int.from_bytes(data, "little")


class _Echo:
    """A device that answers with the offsets it is asked for."""

    async def mmio_read(self, base: int, offset: int, size: int) -> bytes:
        return bytes(range(offset, offset + size))


# -- resource managers -----------------------------------------------------------------------------------------------

_SPACES = {
    "pio": Space.PIO,
    "mmio": Space.MMIO,
    "mmio_low": Space.MMIO,
    "mmio_high": Space.MMIO,
    "mem": Space.MEM,
    "irq": Space.LEGACY_IRQ,
    "legacy_irq": Space.LEGACY_IRQ,
    "gsi_legacy": Space.LEGACY_IRQ,
    "gsi": Space.MSI_IRQ,
    "gsi_msi": Space.MSI_IRQ,
    "msi_irq": Space.MSI_IRQ,
    "kvm_mem_slot": Space.KVM_MEM_SLOT,
    "gpe": Space.KVM_MEM_SLOT,  # crosvm's general purpose events: any space of single numbers does
}
_ONE: dict[Space, esrm.ResourceConstraint] = {
    Space.LEGACY_IRQ: esrm.LegacyIrqConstraint(),
    Space.MSI_IRQ: esrm.GenericIrqConstraint(1),
    Space.KVM_MEM_SLOT: esrm.KvmMemSlotConstraint(),
}


class Machines:
    """Whole resource managers: one VM, devices with several resources, registration."""

    def __init__(self, setup: Json) -> None:
        everything = {name: [[0, _SPACES[name].last]] for name in ("pio", "mmio", "legacy_irq")}
        self.named = setup.get("pools", everything if setup["profile"] == "io_manager" else {})
        pools: dict[Space, list[tuple[int, int]]] = {}
        for name, ranges in self.named.items():
            space = _SPACES[name]
            # P098 has a pool of I/O ports to 0x10fff; there are 0x10000 ports, and esrm refuses to have more.
            pools.setdefault(space, []).extend((first, min(last, space.last)) for first, last in ranges)
        reserved = [(_SPACES[n], *r, "reserved") for n, ranges in setup.get("reserved", {}).items() for r in ranges]
        self.vm = Vm(esrm.Platform(setup["profile"], pools, reserved, setup.get("shared_irq")))
        for name, parent in setup.get("nodes", []):
            self.vm.step(decide.create, name, "", parent)

    def allocate(self, kind: str, size: int, align: int, owner: str | None = None, **place: Any) -> Json:
        if kind not in ("mmio", "mem", "pio"):  # a pool of its own: a window, for esrm
            place = {"min": self.named[kind][0][0], "max": self.named[kind][0][1], **place}
        return {"base": _span(self.vm.take(owner, _constraint(_SPACES[kind], size, align, **place))[0])[0]}

    def free(self, kind: str, base: int, size: int, owner: str) -> Json:
        self.vm.give(owner)
        return {"ok": True}

    def reserve(self, kind: str, range: list[int]) -> Json:
        self.vm.take("reserved", _range(_SPACES[kind], range))
        return {"ok": True}

    def allocate_irq(self, shared: bool, irq: int | None = None) -> Json:
        return {"irq": self.vm.take(None, esrm.LegacyIrqConstraint(irq, shared))[0].irq}

    def free_irq(self, irq: int) -> Json:
        self.vm.give_range(Space.LEGACY_IRQ, irq, irq)
        return {"ok": True}

    def allocate_msi(self, count: int, aligned: bool) -> Json:
        kind = esrm.PciMsiIrqConstraint if aligned else esrm.PciMsixIrqConstraint
        return {"base": self.vm.take(None, kind(count))[0].base}

    def free_msi(self, base: int, count: int) -> Json:
        self.vm.give_range(Space.MSI_IRQ, base, base + count - 1)
        return {"ok": True}

    def allocate_slot(self, count: int, slot: int | None = None) -> Json:
        return {"slot": self.vm.take(None, esrm.KvmMemSlotConstraint(count, slot))[0].index}

    def free_slot(self, slot: int) -> Json:
        self.vm.give_range(Space.KVM_MEM_SLOT, slot, slot)
        return {"ok": True}

    def allocate_id(self, pool: str) -> Json:
        return {"id": self.allocate_ids(pool, 1)["first"]}

    def allocate_ids(self, pool: str, count: int) -> Json:
        """So many ids at once: a line each, or one group where the space has groups."""
        one = _ONE[_SPACES[pool]]
        wanted = [one] * count if count < 2 or one.space is Space.LEGACY_IRQ else [esrm.GenericIrqConstraint(count)]
        spans = [_span(resource) for resource in self.vm.take(None, *wanted)]
        ids = [number for first, last in spans for number in range(first, last + 1)]
        return {"ids": ids, "count": len(ids), **({"first": ids[0], "last": ids[-1]} if ids else {})}

    def free_id(self, pool: str, id: int) -> Json:
        self.vm.give_range(_SPACES[pool], id, id)
        return {"id": id}

    def allocate_free_cycles(self, pool: str, cycles: int) -> Json:
        for _ in range(cycles):
            last = self.allocate_id(pool)["id"]
            self.free_id(pool, last)
        return {"last_id": last}

    def allocate_device(self, device: str, constraints: list[Json]) -> Json:
        self.vm.take(device, *(_wire(c, esrm.ResourceConstraint) for c in constraints))
        return self.lookup_device(device)

    def free_device(self, device: str) -> Json:
        self.vm.give(device)
        return {"ok": True}

    def register_allocated(self, device: str) -> Json:
        self.vm.step(decide.assign, device)
        self.vm.step(decide.register, device)
        return {"ok": True}

    def lookup_device(self, device: str) -> Json:
        if device not in self.vm.state.devices:
            return {"none": True}
        held = self.vm.state.device(device).allocated
        return {"device": device, "resources": [_as_peer(resource) for resource in held]}

    def register_device(self, device: str, resources: list[Json]) -> Json:
        """Every registration is a device of its own: the peers register one object as often as it is handed in."""
        name = f"{device}#{next(self.vm.numbers)}"
        self.vm.take(name, *map(_exactly, resources))
        return self.register_allocated(name)

    def hotplug(self, device: str, resources: list[Json]) -> Json:
        self.vm.take(device, *map(_exactly, resources))
        return self.register_allocated(device)

    def unplug(self, device: str) -> Json:
        self.vm.step(decide.request_unplug, device)
        self.vm.step(decide.unregister, device)
        self.vm.give(device)
        return {"ok": True}

    def deregister_resources(self, resources: list[Json]) -> Json:
        """Take back whoever answers at just these places; the count is of what no longer answers."""
        before = self._answers()
        places = {(c.space, *_span_of(c)) for c in map(_exactly, resources) if c.space in (Space.PIO, Space.MMIO)}
        for device in {device for device, *place in before if tuple(place) in places}:
            self.vm.step(decide.unregister, device)
            self.vm.give(device)
        return {"count": len(before) - len(self._answers())}

    def _answers(self) -> list[tuple[str, Space, int, int]]:
        bus = self.vm.state.bus
        return [(a.device, s, a.base, a.last) for s in (Space.PIO, Space.MMIO) for a in bus.ranges(s)]

    def traverse(self, order: str) -> Json:
        return {"order": [d.name for d in self.vm.state.walk(reverse=order == "breadth_first_reverse")]}


# -- constraints and resources ---------------------------------------------------------------------------------------


class Values:
    """Constraints as they are built, and a list of resources with its getters."""

    def __init__(self, setup: Json) -> None:
        self.resources = esrm.DeviceResources(_resource(entry) for entry in setup.get("device_resources", []))

    def constraint(self, **fields: Any) -> Json:
        """The fields as they are stored, less esrm's own that the peers do not have."""
        stored = msgspec.json.decode(msgspec.json.encode(_wire(fields, esrm.ResourceConstraint)))
        return {"fields": {key: stored[key] for key in stored if key not in ("policy", "shared", "base")}}

    def get(self, what: str) -> Json:
        if what == "count":
            return {"value": len(self.resources)}
        return {"value": [list(pair) for pair in getattr(self.resources, what)()]}

    def index(self, index: int) -> Json:
        return {"value": _as_peer(self.resources[index])}


KINDS: dict[str, Callable[[Json], Any]] = {
    "address_allocator": Addresses,
    "id_allocator": Ids,
    "bus": Buses,
    "resource_manager": Machines,
    "resources": Values,
}


# -- spelling --------------------------------------------------------------------------------------------------------


def _platform(pools: dict[Space, Iterable[Any]]) -> esrm.Platform:
    return esrm.Platform("peer", pools)


def _constraint(
    space: Space,
    size: int,
    align: int,
    policy: Any = None,
    address: int | None = None,
    min: int | None = None,
    max: int | None = None,
) -> esrm.ResourceConstraint:
    kind = {Space.PIO: esrm.PioConstraint, Space.MMIO: esrm.MmioConstraint, Space.MEM: esrm.MemConstraint}[space]
    if address is not None:
        return kind(size, range=(address, space.last), align=align, policy=policy)
    window = None if min is None and max is None else (min or 0, space.last if max is None else max)
    return kind(size, range=window, align=align, policy=policy)


def _range(space: Space, ends: list[int]) -> esrm.ResourceConstraint:
    return _constraint(space, ends[1] - ends[0] + 1, 1, "exact", ends[0])


def _wire(document: Json, kind: Any) -> Any:
    return msgspec.convert(document, kind)


def _exactly(resource: Json) -> esrm.ResourceConstraint:
    """The wish for just this resource."""
    ((kind, value),) = resource.items()
    if kind == "mac":
        return esrm.MacAddressConstraint(value)
    if kind == "legacy_irq":
        return esrm.LegacyIrqConstraint(value)
    return _range(_SPACES[kind], [value["base"], value["base"] + value["size"] - 1])


def _resource(entry: Json) -> esrm.Resource:
    ((kind, value),) = entry.items()
    fields = {"legacy_irq": "irq", "mac": "address", "kvm_mem_slot": "index"}
    tag = "msi_irq" if kind == "msi" else kind
    return _wire({"kind": tag, **(value if isinstance(value, dict) else {fields[kind]: value})}, esrm.Resource)


def _as_peer(resource: esrm.Resource) -> Json:
    match resource:
        case esrm.LegacyIrq(irq):
            return {"legacy_irq": irq}
        case esrm.KvmMemSlot(index):
            return {"kvm_mem_slot": index}
        case _:
            return {resource.space.value: {"base": resource.base, "size": resource.size}}


def _span(resource: esrm.Resource) -> list[int]:
    match resource:
        case esrm.LegacyIrq(number) | esrm.KvmMemSlot(number):
            return [number, number]
        case _:
            return [resource.base, resource.base + resource.size - 1]


def _span_of(constraint: Any) -> tuple[int, int]:
    return constraint.range[0], constraint.range[0] + constraint.size - 1
