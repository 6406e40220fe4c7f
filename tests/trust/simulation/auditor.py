"""The judge: what stands, and what callers were told. It knows nothing of managers, states, allocators or buses.

It reads each record's own JSON in the moment in which the record stands, keeps what every device is and holds in plain
dictionaries, one a revision, and so knows at once what nobody may say any more. Its rules are those of the documents:
a life goes by ``LIFE``; what is held is held by one, lies in a pool and not in what is reserved, and inside the
parent's if that has any; a step that was answered stands, one that was refused left nothing.

Why a second reader of events instead of ``VmState``: it would agree with itself. Next: ``world.py``.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Collection, Iterable
from functools import cache, lru_cache
from typing import Any, NamedTuple, TypeVar

T = TypeVar("T")

LIFE = {
    ("created", "ConstraintsDeclared"): "declared",
    ("declared", "ConstraintsDeclared"): "declared",
    ("declared", "AllocationRefused"): "declared",
    ("declared", "ResourcesAllocated"): "allocated",
    ("allocated", "ResourcesAssigned"): "assigned",
    ("assigned", "DeviceRegistered"): "registered",
    ("allocated", "ResourcesMoved"): "allocated",
    ("assigned", "ResourcesMoved"): "assigned",
    ("registered", "ResourcesMoved"): "registered",
    ("registered", "UnplugRequested"): "unplugging",
    ("unplugging", "UnplugRefused"): "registered",
    ("unplugging", "DeviceUnregistered"): "assigned",
    ("registered", "DeviceUnregistered"): "assigned",
    ("assigned", "ResourcesReleased"): "declared",
    ("allocated", "ResourcesReleased"): "declared",
    ("declared", "DeviceRemoved"): "",
    ("created", "DeviceRemoved"): "",
}
"""From a phase, by an event, to a phase."""

ANSWERING = ("registered", "unplugging")

NESTS = ("pio", "mmio", "mem")
"""The spaces in which a device may lie inside its parent's range."""

LETTER = {
    "VmCreated": "V",
    "DeviceCreated": "C",
    "ConstraintsDeclared": "D",
    "ResourcesAllocated": "A",
    "AllocationRefused": "N",
    "ResourcesAssigned": "S",
    "DeviceRegistered": "R",
    "UnplugRequested": "Q",
    "UnplugRefused": "K",
    "DeviceUnregistered": "U",
    "ResourcesReleased": "L",
    "ResourcesMoved": "M",
    "DeviceRemoved": "Z",
}

LEAVES = {
    "open": ("V?", "", "V?"),
    "create": ("C", "", "C?"),
    "declare": ("D?", "", "D?"),
    "allocate": ("A", "N?", "[AN]?"),
    "assign": ("S", "", "S?"),
    "register": ("R", "", "R?"),
    "request_unplug": ("Q", "", "Q?"),
    "refuse_unplug": ("K", "", "K?"),
    "unregister": ("U", "", "U?"),
    "release": ("L", "", "L?"),
    "move": ("M?", "", "M?"),
    "remove": ("Z", "", "Z?"),
    # Several steps, each an append: some of them may stand when a later one does not.
    "attach": ("C?D?A?S?R?", "C?D?(N|A?S?R?U?L?)", "C?D?(N|A?S?R?U?L?)"),
    "detach": ("U?L?Z", "", "(U?L?Z)?"),  # several steps in one append: all of them, or none
}
"""What a step of a kind leaves in the log: when it was answered, when it was refused, and when nobody knows."""

STOPPED = {**{kind: left for kind, (_, left, _) in LEAVES.items()}, "allocate": ""}
"""And when the store would not have it, or somebody else came first."""

SINGLE = {
    "declare": "ConstraintsDeclared",
    "assign": "ResourcesAssigned",
    "register": "DeviceRegistered",
    "request_unplug": "UnplugRequested",
    "refuse_unplug": "UnplugRefused",
    "unregister": "DeviceUnregistered",
    "release": "ResourcesReleased",
    "remove": "DeviceRemoved",
}
"""The steps that nothing but the device's phase and what lives inside it can forbid."""

DONE, REFUSED, OPEN, STOP = range(4)
CERTAINTY = {"done": DONE, "Conflict": STOP, "Rejected": STOP, "StoreError": STOP}
CERTAINTY |= {"": OPEN, "Unknown": OPEN, "Cancelled": OPEN}


class Violation(AssertionError):
    """A promise was broken."""


class Holding(NamedTuple):
    space: str
    first: int
    last: int
    shared: bool


class Device(NamedTuple):
    """One device: all of it as it stands in the JSON, and what that means in numbers."""

    kind: str
    parent: str | None
    phase: str
    wanted: list[Any]
    held: list[Any]
    holdings: tuple[Holding, ...]


class Step:
    """One thing that a caller asked for, and what it was told; ``told`` is "" while it waits, or died waiting."""

    def __init__(self, name: str, kind: str, vm: str, device: str, who: object, known: int, length: int) -> None:
        self.name, self.kind, self.vm, self.device, self.who = name, kind, vm, device, who
        self.known, self.length = known, length  # the last revision that `who` knew, and how many records stood, then
        self.told = ""
        self.left = 0  # when its caller went on, with an answer or without, in steps asked for until then
        self.standing: list[dict[str, Any]] = []

    def __str__(self) -> str:
        left = "".join(LETTER[event["type"]] for event in self.standing)
        return f"{self.name} {self.kind} {self.vm}/{self.device}: {self.told or 'no answer'} [{left}]"


class Vm:
    """One VM's log, and its devices after each revision."""

    def __init__(self) -> None:
        self.platform: dict[str, Any] = {}
        self.moments: list[dict[str, Device]] = []
        self.authors: list[Step | None] = []
        self.time_ns = 0


class Auditor:
    """Told of every row and every answer; raises or notes a ``Violation``, and ``close`` raises the first."""

    def __init__(self) -> None:
        self.rows: list[Any] = []
        self.vms: dict[str, Vm] = {}
        self.steps: dict[str, Step] = {}
        self.ids: set[bytes] = set()
        self.violations: list[Violation] = []
        self._agreed: dict[tuple[int, int], object] = {}

    # -- what stands --------------------------------------------------------------------------------------------------

    def wrote(self, row: Any) -> None:
        """A row stands from now on."""
        try:
            self._enter(row)
        except Violation as violation:  # raised inside the store it would look like the store's own trouble
            self.violations.append(violation)

    def _enter(self, row: Any) -> None:
        position, name, revision, id, time_ns, _, correlation, data, _ = row
        vm = self.vms.setdefault(name, Vm())
        self.rows.append(row)
        if position != len(self.rows) or revision != len(vm.moments):
            raise Violation(f"{name}@{revision} (position {position}) stands at {len(vm.moments)} ({len(self.rows)})")
        if id in self.ids or time_ns < vm.time_ns:
            raise Violation(f"{name}@{revision}: its id stands elsewhere, too, or time ran backward")
        self.ids.add(id)
        vm.time_ns = time_ns
        event = _parse(data)
        before = vm.moments[-1] if vm.moments else {}
        devices = dict(before)
        vm.moments.append(devices)
        step = self.steps.get(correlation)
        vm.authors.append(None if step is None or step.left else step)  # None: too late to be looked for
        if step is not None:
            step.standing.append(event)
        try:
            self._apply(vm, devices, event)
        except Violation as violation:
            raise Violation(f"{name}@{revision} {event['type']}: {violation}") from None

    def _apply(self, vm: Vm, devices: dict[str, Device], event: dict[str, Any]) -> None:
        kind, name = event["type"], event.get("device", "")
        if kind == "VmCreated":
            _check(len(vm.moments) == 1, "not the first event")
            vm.platform = event["platform"]
        elif kind == "DeviceCreated":
            _check(name not in devices, f"{name} lives already")
            _check(event["parent"] is None or event["parent"] in devices, "its parent does not live")
            devices[name] = Device(event["kind"], event["parent"], "created", [], [], ())
        elif kind == "ResourcesMoved":
            self._move(vm, devices, event["moves"])
        else:
            device = devices.get(name)
            after = LIFE.get((device.phase, kind)) if device else None
            if device is None or after is None:
                raise Violation(f"{name} is {device.phase if device else 'not alive'}")
            if kind == "ConstraintsDeclared":
                devices[name] = device._replace(phase=after, wanted=event["constraints"])
            elif kind == "ResourcesAllocated":
                held = event["resources"]
                _meets(device.wanted, held)
                devices[name] = device._replace(phase=after, held=held, holdings=_holdings(device.wanted, held))
                self._check_places(vm, devices, name)
            elif kind == "ResourcesReleased":
                _check(event["resources"] == device.held, "it releases what it does not hold")
                self._check_empty(devices, name)
                devices[name] = device._replace(phase=after, held=[], holdings=())
            elif kind == "DeviceRemoved":
                _check(all(other.parent != name for other in devices.values()), "others live inside it")
                del devices[name]
            else:
                devices[name] = device._replace(phase=after)

    def _move(self, vm: Vm, devices: dict[str, Device], moves: list[dict[str, Any]]) -> None:
        before = dict(devices)
        for move in moves:
            name = move["device"]
            _check(name in before and (before[name].phase, "ResourcesMoved") in LIFE, f"{name} cannot be moved")
            _check(move["old"] in before[name].held, f"{name} does not hold what is moved")
            self._check_empty(devices, name)
            held = list(devices[name].held)
            held[before[name].held.index(move["old"])] = move["new"]
            devices[name] = devices[name]._replace(held=held, holdings=_holdings(devices[name].wanted, held))
        for name in {move["device"]: None for move in moves}:
            _meets(devices[name].wanted, devices[name].held)
            self._check_places(vm, devices, name)

    def _check_empty(self, devices: dict[str, Device], name: str) -> None:
        """What lies inside a device goes before the device does."""
        inside = [other for other, device in devices.items() if device.held and name in _around(devices, other)]
        _check(not inside, f"{inside} inside {name} still hold something")

    def _check_places(self, vm: Vm, devices: dict[str, Device], name: str) -> None:
        """What a device now holds is nobody else's, not reserved, and lies where it may lie."""
        around = _around(devices, name)
        for holding in devices[name].holdings:
            space, first, last, shared = holding
            for other, device in devices.items():
                kin = other in around or name in _around(devices, other)
                for theirs in device.holdings:
                    if theirs.space != space or theirs.last < first or theirs.first > last or theirs is holding:
                        continue
                    nested = kin and space in NESTS
                    both = shared and theirs.shared and other != name
                    _check(nested or both, f"{name} and {other} both hold {space} {first:#x}-{last:#x}")
            for wall in vm.platform["reserved"]:
                apart = wall["space"] != space or wall["last"] < first or wall["first"] > last
                _check(apart, f"{name} holds {space} {first:#x}-{last:#x}, which is {wall['owner']}'s")
            outer = around if space in NESTS else ()
            windows = next((found for found in (_ranges(devices[who], space) for who in outer) if found), None)
            pools = vm.platform["pools"].get(space, ()) if windows is None else windows
            line = shared and first == vm.platform["shared_irq"]
            inside = line or any(low <= first and last <= high for low, high in pools)
            _check(inside, f"{name} holds {space} {first:#x}-{last:#x}, outside of {pools}")

    # -- what callers are told ----------------------------------------------------------------------------------------

    def asked(self, kind: str, vm: str, device: str, who: object, known: int) -> Step:
        """Somebody, who knows a VM up to a revision, is asked for a step; its name is to be the correlation of every
        record that it makes."""
        step = Step(f"step{len(self.steps)}", kind, vm, device, who, known, self.length(vm))
        self.steps[step.name] = step
        return step

    def answered(self, step: Step, told: str) -> None:
        """What the caller was told: "done", or the name of what was raised."""
        step.told = told
        self._settle(step)
        if told == "Conflict":
            # What it appended itself, unanswered, it has to look for before it asks again; if it stood by then.
            news = list(enumerate(self.vms[step.vm].authors))[step.known + 1 :]
            late = step.length + len(step.standing)
            others = [at for at, other in news if other is None or other.who is not step.who or at >= late]
            _check(others, f"{step}: nobody else appended anything")

    def refused(self, step: Step, revision: int) -> None:
        """A caller was refused by somebody who knew a VM up to a revision: the step was not possible then."""
        for other in self.vms[step.vm].authors[revision + 1 : step.length]:
            unseen = other is not None and other.who is step.who and 0 < other.left < int(step.name[4:])
            _check(not unseen, f"{step} was refused by somebody who had not looked what became of {other}")
        devices = self.moment(step.vm, revision)
        device, event = devices.get(step.device), SINGLE.get(step.kind, "")
        inside = [other for other in devices if step.device in _around(devices, other)]
        possible = device is not None and (device.phase, event) in LIFE and not inside
        _check(not possible, f"{step} was refused at revision {revision}, where it was possible")

    def stands(self, step: Step) -> None:
        """A caller has its answer: what it was told of stands now, and not only in the end."""
        told, step.told = step.told, "done"
        self._settle(step)
        step.told = told

    def _settle(self, step: Step) -> None:
        left = "".join(LETTER[event["type"]] for event in step.standing)
        certainty = CERTAINTY.get(step.told, REFUSED)
        if not _may_leave(step.kind, certainty, left):
            raise Violation(f"{step}: not what such an answer leaves")
        if any(event.get("device", step.device) != step.device for event in step.standing):
            raise Violation(f"{step}: it is about somebody else")

    def length(self, vm: str) -> int:
        """How many records of a VM stand."""
        return len(self.vms[vm].moments) if vm in self.vms else 0

    def moment(self, vm: str, revision: int) -> dict[str, Device]:
        """A VM's devices after a revision."""
        if revision >= self.length(vm):
            raise Violation(f"{vm}: somebody knows revision {revision} of {self.length(vm)} records")
        return self.vms[vm].moments[revision] if revision >= 0 else {}

    def saw(
        self, who: str, vm: str, revision: int, devices: Collection[T], picture: Callable[[T], tuple[Any, ...]]
    ) -> None:
        """Somebody's devices of a VM, in order, and how to read one: as name, kind, parent, phase, constraints and
        resources (the last two in JSON)."""
        moment = self.moment(vm, revision)
        if len(devices) != len(moment):
            raise Violation(f"{who} sees {len(devices)} devices in {vm}@{revision}, not {list(moment)}")
        for device, (name, wanted) in zip(devices, moment.items(), strict=True):
            pair = id(device), id(wanted)
            if pair not in self._agreed:  # both are values, and mostly the same ones as at the last look
                seen = picture(device)
                if seen != (name, *wanted[:5]):
                    raise Violation(f"{who} sees {seen} in {vm}@{revision}, not {name}, {wanted}")
                self._agreed[pair] = device, wanted

    def routed(self, who: str, vm: str, revision: int, space: str, ranges: Iterable[tuple[int, int, str]]) -> None:
        """Somebody's bus: every range that answers in a space, with the device behind it."""
        wanted = self.answering(vm, revision, space)
        found = sorted(ranges)
        if found != wanted:
            raise Violation(f"{who} routes {space} to {found} in {vm}@{revision}, not to {wanted}")

    def answering(self, vm: str, revision: int, space: str) -> list[tuple[int, int, str]]:
        """Every range (first, last, device) that answers in a space, in order."""
        return sorted(
            (held.first, held.last, name)
            for name, device in self.moment(vm, revision).items()
            if device.phase in ANSWERING
            for held in device.holdings
            if held.space == space
        )

    def answers(self, vm: str, revision: int, space: str, address: int) -> str | None:
        """Who answers at an address: of the ranges around it the innermost one."""
        devices = self.moment(vm, revision)
        around = [
            (high - low, -len(_around(devices, name)), name)
            for low, high, name in self.answering(vm, revision, space)
            if low <= address <= high
        ]
        return min(around)[2] if around else None

    def delivered(self, who: str, vm: str | None, last: int, record: tuple[Any, ...]) -> int:
        """A subscriber that was given everything up to position ``last`` gets one record more; its position."""
        due = next((row for row in self.rows[last:] if vm in (None, row[1])), None)
        given = record[0] if record else "nothing"
        if due is None or record != due:
            raise Violation(f"{who} was given position {given}, and {due[0] if due else 'nothing'} was due")
        position: int = due[0]
        return position

    def close(self, rows: list[Any]) -> None:
        """The world has ended: judge the log as it stands, and once more every answer that was given."""
        if self.violations:
            raise self.violations[0]
        _check(rows == self.rows, "a record that stood is changed or gone")
        for step in self.steps.values():
            self._settle(step)


def _check(ok: Any, what: str) -> None:
    if not ok:
        raise Violation(what)


@lru_cache(1000)
def _parse(data: bytes) -> dict[str, Any]:
    """An event's JSON; not to be changed."""
    event: dict[str, Any] = json.loads(data)
    return event


@cache
def _may_leave(kind: str, certainty: int, left: str) -> bool:
    pattern = STOPPED[kind] if certainty == STOP else LEAVES[kind][certainty]
    return re.fullmatch(pattern, left) is not None


def _around(devices: dict[str, Device], name: str) -> list[str]:
    """The devices around a device, nearest first."""
    found: list[str] = []
    parent = devices[name].parent
    while parent is not None:
        found.append(parent)
        parent = devices[parent].parent
    return found


def _ranges(device: Device, space: str) -> list[tuple[int, int]]:
    return [(held.first, held.last) for held in device.holdings if held.space == space]


def _holdings(wanted: list[Any], held: list[Any]) -> tuple[Holding, ...]:
    """Resources as numbers. The n-th line answers the n-th wish for one, which says whether it is shared."""
    lines = iter([wish["shared"] for wish in wanted if wish["kind"] == "legacy_irq"])
    found: list[Holding] = []
    for resource in held:
        space = resource["kind"]
        if space == "legacy_irq":
            found.append(Holding(space, resource["irq"], resource["irq"], next(lines, False)))
        elif space == "kvm_mem_slot":
            found.append(Holding(space, resource["index"], resource["index"], False))
        elif space == "mac":
            number = int(resource["address"].replace(":", ""), 16)
            found.append(Holding(space, number, number, False))
        else:
            found.append(Holding(space, resource["base"], resource["base"] + resource["size"] - 1, False))
    return tuple(found)


def _meets(wanted: list[Any], held: list[Any]) -> None:
    """The resources are what was asked for, in that order."""
    rest = list(held)
    for wish in wanted:
        mine = [rest.pop(0) for _ in range(min(len(rest), wish["size"] if wish["kind"] == "kvm_mem_slot" else 1))]
        got = mine[0] if mine else {}
        match wish["kind"]:
            case "mmio" | "pio" | "mem" as space:
                ok = got.get("kind") == space and got["size"] == wish["size"] and got["base"] % wish["align"] == 0
                if ok and wish["range"]:
                    low, high = wish["range"]
                    ok = low <= got["base"] and got["base"] + got["size"] - 1 <= high
            case "legacy_irq":
                ok = got.get("kind") == "legacy_irq" and wish["irq"] in (None, got["irq"])
            case "kvm_mem_slot":
                first = got.get("index", -1)
                ok = [slot.get("index") for slot in mine] == list(range(first, first + wish["size"]))
            case "mac":
                ok = got.get("kind") == "mac" and wish["address"] in (None, got["address"])
            case _:
                ok = got.get("kind") == "msi_irq" and got["size"] == wish["size"]
        _check(ok, f"{mine} is not what {wish} asks for")
    _check(not rest, f"{rest} was not asked for")
