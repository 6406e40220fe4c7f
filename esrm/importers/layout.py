"""One tree of named holders of addresses and interrupts, joined from what a Linux machine says about itself.

It decides who is inside whom, who is called what, and whose an interrupt is. Separate from ``proc.py``, which reads one
text at a time and joins nothing. Next: ``linux.py``, which turns nodes into devices.
"""

from __future__ import annotations

import math
import re
from bisect import bisect_right
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from itertools import chain, count
from typing import Literal, TypeAlias

import msgspec

from esrm import names
from esrm.core.resources import U64_MAX
from esrm.importers.proc import (
    IORESOURCE_DISABLED,
    IORESOURCE_ROM_SHADOW,
    IORESOURCE_UNSET,
    PCI_ADDRESS,
    Bar,
    Interrupt,
    Machine,
    PciFunction,
    Region,
    Space,
)

MsiType: TypeAlias = Literal["pci_msi", "pci_msix", "generic_msi"]


class Node(msgspec.Struct, frozen=True):
    """One holder of resources, as ``layout`` sees it.

    Attributes:
        name: unique in the layout, and the same the next time the same machine is read.
        kind: ``ram``, ``pci-bus``, ``pci`` or ``pci-<class>`` (six hex digits) for a PCI function, ``irq-user`` for one
            known by an interrupt alone, ``region`` for the rest.
        parent: the name of the node it lies in. Each range lies in one of the parent's of that space, if it has any.
        ranges: (space, first, last), inclusive, in the order read.
        irqs: wired lines by Linux's numbers, ascending.
        msis: (type, base, size) by Linux's numbers, ascending; the size is 1.
    """

    name: str
    kind: str
    parent: str | None = None
    ranges: tuple[tuple[Space, int, int], ...] = ()
    irqs: tuple[int, ...] = ()
    msis: tuple[tuple[MsiType, int, int], ...] = ()


_BUS = re.compile(r"PCI Bus ([0-9a-f]{4,8}:[0-9a-f]{2})")
_RAM = re.compile(r"System RAM(?: \(.*\))?")  # "System RAM (kmem)" is memory that a driver brought
_BRACKETED = re.compile(rf"\[({PCI_ADDRESS.pattern})\]")  # libata's "ahci[0000:00:1f.2]"
_SERIAL_PORTS = {"ttyS0": 0x3F8, "ttyS1": 0x2F8, "ttyS2": 0x3E8, "ttyS3": 0x2E8}
"""Where the kernel expects a PC's serial lines: ``SERIAL_PORT_DFNS``, arch/x86/include/asm/serial.h."""


def layout(machine: Machine) -> tuple[Node, ...]:
    """Who holds what, parents before children.

    - Claims of one name in one place are one node: ``keyboard`` at ports 0x60 and 0x64; ``PCI Bus 0000:00``, at the top
      of both iomem and ioports. Of the places where a PCI function has claims, the one on its bus is the function, else
      the first; the others are regions, such as ``Reserved/0000:00:1f.5``. So all lies inside what it lay in.
    - RAM and all within it is ``mem``; all else in iomem is ``mmio``.
    - A BAR that only /sys knows joins its function, unless it lies outside the window around that, or somebody else's
      claim is in the way.
    - A message belongs to the function that sends it; a wired line to whom its actions name, by the rules of
      ``_Draft.owner``, and so does a message whose sender nobody tells, but to one only; what remains, to a node named
      after the action.
    - The nearer to the top, the earlier a node gets its plain name. One that is taken, and any right inside a PCI
      function, stands behind its parent's: ``0000:00:01.0/virtio-pci-modern``. Plugging in a function renames nobody.

    Raises:
        Refused: a name that would be too long.
    """
    draft = _Draft(machine)
    draft.wire()
    draft.name()
    return tuple(
        Node(
            part.name,
            part.kind,
            part.parent.name if part.parent else None,
            tuple(part.ranges),
            tuple(sorted(part.irqs)),
            tuple((kind, base, 1) for base, kind in sorted(part.msis.items())),
        )
        for part in draft.parts
    )


class _Part:
    """A node in the making. Equal only to itself, since its parent and name are found last."""

    def __init__(self, label: str, kind: str, parent: _Part | None) -> None:
        self.label = label
        self.kind = kind
        self.parent = parent
        self.name = ""
        self.ranges: list[tuple[Space, int, int]] = []
        self.irqs: set[int] = set()
        self.msis: dict[int, MsiType] = {}

    def chain(self) -> Iterator[_Part]:
        """This part and those around it, innermost first."""
        part: _Part | None = self
        while part is not None:
            yield part
            part = part.parent

    def admits(self, ranges: Iterable[tuple[Space, int, int]]) -> bool:
        """Each lies in one of ours of its space, or we have none there."""
        return all(
            any(low <= first and last <= high for low, high in windows)
            for space, first, last in ranges
            if (windows := self.windows(space))
        )

    def windows(self, space: Space) -> list[tuple[int, int]]:
        return [(first, last) for where, first, last in self.ranges if where == space]


class _Draft:
    def __init__(self, machine: Machine) -> None:
        self.machine = machine
        self.parts: list[_Part] = []
        self._places: dict[tuple[_Part | None, str], _Part] = {}
        self._claims: dict[tuple[_Part | None, bool], list[tuple[int, int]]] = defaultdict(list)
        self._grow(machine.iomem, "mmio")
        self._grow(machine.ioports, "pio")
        self._buses = self._find_buses()
        self.functions = self._find_functions()
        senders = [PciFunction(interrupt.pci) for interrupt in machine.interrupts if interrupt.is_msi and interrupt.pci]
        for function in sorted([*machine.pci, *senders], key=self._outer_first):
            self._join(function)

    def _part(self, label: str, kind: str, parent: _Part | None = None) -> _Part:
        part = _Part(label, kind, parent)
        self.parts.append(part)
        return part

    def _grow(self, regions: Sequence[Region], space: Space) -> None:
        waiting: list[tuple[Region, _Part | None, Space]] = [(region, None, space) for region in reversed(regions)]
        while waiting:
            region, parent, space = waiting.pop()
            if space == "mmio" and _RAM.fullmatch(region.label):
                space = "mem"
            part = self._place(region.label, parent)
            part.ranges.append((space, region.first, region.last))
            self._claims[parent, space == "pio"].append((region.first, region.last))
            waiting.extend((child, part, space) for child in reversed(region.children))

    def _place(self, label: str, parent: _Part | None) -> _Part:
        if (parent, label) not in self._places:
            kind = "ram" if _RAM.fullmatch(label) else "pci-bus" if _BUS.fullmatch(label) else "region"
            self._places[parent, label] = self._part(label, kind, parent)
        return self._places[parent, label]

    # -- PCI functions

    def _find_buses(self) -> dict[str, list[_Part]]:
        buses: dict[str, list[_Part]] = defaultdict(list)
        for part in sorted(self.parts, key=_depth):
            if match := _BUS.fullmatch(part.label):
                buses[match[1]].append(part)
        return buses

    def _find_functions(self) -> dict[str, _Part]:
        functions: dict[str, _Part] = {}
        places = [part for part in self.parts if PCI_ADDRESS.fullmatch(part.label)]
        for part in sorted(places, key=lambda part: part.parent not in self._buses.get(_bus_of(part.label), [])):
            if part.label not in functions:
                functions[part.label] = part
                part.kind = "pci"
        return functions

    def _outer_first(self, function: PciFunction) -> tuple[float, str]:
        """The BARs of one are windows for those inside it."""
        part = self.functions.get(function.address)
        return (_depth(part) if part else math.inf), function.address

    def _join(self, function: PciFunction) -> None:
        bars: list[tuple[Space, int, int]] = [
            (bar.kind, bar.first, bar.last) for bar in function.bars if not _is_nowhere(bar)
        ]
        part = self.functions.get(function.address)
        if part is None:
            bus = self._bus(_bus_of(function.address), bars)
            part = self.functions[function.address] = self._part(function.address, "pci", bus)
        if function.class_code is not None:
            part.kind = f"pci-{function.class_code:06x}"
        part.ranges += [bar for bar in bars if bar not in part.ranges and self._claim(part, *bar)]

    def _bus(self, number: str, bars: Sequence[tuple[Space, int, int]]) -> _Part | None:
        """The node of that bus whose windows hold the BARs, else the nearest around it that does."""
        buses = self._buses.get(number, [])
        around = buses[0].chain() if buses else ()
        return next((part for part in chain(buses, around) if part.admits(bars)), None)

    def _claim(self, part: _Part, space: Space, first: int, last: int) -> bool:
        """Whether it lies in the window around ``part``, with nobody's claim there; then it is claimed."""
        around = part.parent.chain() if part.parent else ()
        window = next((other for other in around if other.windows(space)), None)
        claims = self._claims[window, space == "pio"]
        index = bisect_right(claims, (last, U64_MAX))
        if (window and not window.admits([(space, first, last)])) or (index and claims[index - 1][1] >= first):
            return False
        claims.insert(index, (first, last))
        return True

    # -- interrupts

    def wire(self) -> None:
        """Every interrupt to its owner."""
        sent = {number for function in self.machine.pci for number, _ in function.msi_irqs}
        for function in self.machine.pci:
            for number, mode in function.msi_irqs:
                self.functions[function.address].msis[number] = "pci_msix" if mode == "msix" else "pci_msi"
        self._index()
        for interrupt in self.machine.interrupts:
            if interrupt.number in sent:
                continue
            sender = self.functions.get(interrupt.pci or "")
            # Many may share a wire, but a message has one sender, however many handlers it has.
            actions = interrupt.actions[:1] if interrupt.is_msi else interrupt.actions
            for part in [sender] if sender else [self.owner(interrupt.number, action) for action in actions]:
                if interrupt.is_msi:
                    part.msis[interrupt.number] = _msi_type(interrupt)
                else:
                    part.irqs.add(interrupt.number)

    def _index(self) -> None:
        lines = {function.address: function.irq for function in self.machine.pci if function.irq}
        self._users: dict[str, _Part] = {}
        self._labels: dict[str, list[_Part]] = defaultdict(list)
        self._drivers: dict[tuple[int, str], list[_Part]] = defaultdict(list)
        for part in self.parts:
            self._labels[part.label].append(part)
            if part.parent and part.parent.label in lines:
                self._drivers[lines[part.parent.label], part.label].append(part)

    def owner(self, number: int, action: str) -> _Part:
        """Whom an action means; never a guess.

        1. The PCI function it names in brackets: ``ahci[0000:00:1f.2]``.
        2. The one function on that line by its ``irq`` file with that driver in it: ``uhci_hcd:usb1``.
        3. The one node of exactly that name, or the one function with such in it: ``rtc0``, ``i801_smbus``.
        4. For ``ttyS0`` to ``ttyS3``, the ``serial`` node that holds that line's standard port.
        5. Else a node of its own.
        """
        named = _BRACKETED.search(action)
        if named and named[1] in self.functions:
            return self.functions[named[1]]
        drivers = self._drivers.get((number, action.partition(":")[0]), [])
        for found in (drivers, self._labels.get(action, []), self._serial(action)):
            owners = {self._whose(part) for part in found}
            if len(owners) == 1:
                return owners.pop()
        if action not in self._users:
            self._users[action] = self._part(action, "irq-user")
        return self._users[action]

    def _whose(self, part: _Part) -> _Part:
        """The function it lies in, wherever that has claims; else itself."""
        return next((self.functions[around.label] for around in part.chain() if around.label in self.functions), part)

    def _serial(self, action: str) -> list[_Part]:
        port = _SERIAL_PORTS.get(action, -1)
        serial = self._labels.get("serial", [])
        return [part for part in serial if any(s == "pio" and a <= port <= b for s, a, b in part.ranges)]

    # -- names

    def name(self) -> None:
        """Plain names from the top down, those of interrupts last; within one depth in the order read."""
        taken: set[str] = set()
        for part in sorted(self.parts, key=lambda part: (part.kind == "irq-user", _depth(part))):
            name = part.label
            is_elsewhere = self.functions.get(name, part) is not part
            if name in taken or is_elsewhere or (part.parent and part.parent.label in self.functions):
                name = f"{part.parent.name if part.parent else part.kind}/{part.label}"
            numbered = chain([name], (f"{name}#{number}" for number in count(2)))
            part.name = names.check("device", next(free for free in numbered if free not in taken))
            taken.add(part.name)


def _depth(part: _Part) -> int:
    return sum(1 for _ in part.chain())


def _is_nowhere(bar: Bar) -> bool:
    """No address yet, switched off, or a ROM's copy in RAM at 0xc0000, which the function does not answer for."""
    return bool(bar.flags & (IORESOURCE_UNSET | IORESOURCE_DISABLED)) or bool(
        bar.rom and bar.flags & IORESOURCE_ROM_SHADOW
    )


def _bus_of(address: str) -> str:
    """``0000:01`` of ``0000:01:00.0``."""
    return address.rpartition(":")[0]


def _msi_type(interrupt: Interrupt) -> MsiType:
    """By what is printed. A shared PCI-MSI chip serves MSI-X too: ``msi_irqs`` in /sys knows, and has been asked."""
    text = f"{interrupt.controller} {interrupt.trigger}".lower()
    if "msix" in text or "msi-x" in text:
        return "pci_msix"
    return "pci_msi" if "pci-msi" in text or text.endswith(" msi") else "generic_msi"
