"""What a Linux machine says about itself, as one tree of named holders of addresses and interrupts.

``read_machine`` is the only function that touches a disk. ``parse_regions``, ``parse_interrupts`` and
``parse_function`` take one text each and believe none of it: whatever they cannot make sense of is ``Refused``, with
file and line. ``layout`` joins the parts and decides who is inside whom, who is called what, and whose an interrupt is.

Why separate: nothing here knows of devices or events, so it is tested on plain text from real machines.
Next: the module beside this one that turns nodes into devices.
"""

from __future__ import annotations

import re
from bisect import bisect_right
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import cached_property
from itertools import chain, count
from pathlib import Path
from typing import Literal, NamedTuple, TypeAlias

import msgspec

from esrm import names
from esrm.errors import Refused

Space: TypeAlias = Literal["pio", "mmio", "mem"]
MsiType: TypeAlias = Literal["pci_msi", "pci_msix", "generic_msi"]

U32_MAX = 2**32 - 1
U64_MAX = 2**64 - 1
BYTES_MAX = 64 * 2**20
"""A file above this is refused. A thousand CPUs with three thousand interrupts print 34 MB of /proc/interrupts."""
LEVELS_MAX = 32
"""Regions inside regions, at most: ten bridges in a row make thirteen levels."""


class Region(msgspec.Struct, frozen=True):
    """One line of /proc/iomem or /proc/ioports: an inclusive range, who claimed it, and the claims inside it."""

    first: int
    last: int
    label: str
    children: tuple[Region, ...] = ()


class Interrupt(msgspec.Struct, frozen=True):
    """One numbered line of /proc/interrupts.

    Attributes:
        number: Linux's own number for it, 0 to 2**32-1.
        controller: the interrupt chip, such as ``IO-APIC``, ``GICv3`` or ``PCI-MSIX-0000:00:01.0``.
        hwirq_text: the chip's number for it, as printed; empty where the chip has none.
        trigger: ``edge``, ``fasteoi``, ``Level`` and so on, as printed.
        actions: the names its handlers gave, in order of registration.
        pci: the address of the PCI function that sends it, where the line tells.
        is_msi: it is a message, not a wire.
    """

    number: int
    controller: str
    hwirq_text: str = ""
    trigger: str | None = None
    actions: tuple[str, ...] = ()
    pci: str | None = None
    is_msi: bool = False


class Bar(msgspec.Struct, frozen=True):
    """A base address register (index 0 to 5) or expansion ROM (6): an inclusive range and the kernel's flags for it."""

    index: int
    first: int
    last: int
    flags: int
    kind: Literal["pio", "mmio"]
    prefetchable: bool = False
    is_64bit: bool = False
    rom: bool = False


class PciFunction(msgspec.Struct, frozen=True):
    """One directory of /sys/bus/pci/devices; what it did not say is None, zero or empty."""

    address: str
    vendor: int | None = None
    device: int | None = None
    class_code: int | None = None
    bars: tuple[Bar, ...] = ()
    irq: int = 0
    msi_irqs: tuple[tuple[int, Literal["msi", "msix"]], ...] = ()


class Machine(msgspec.Struct, frozen=True):
    """Everything read of one machine, unjoined."""

    iomem: tuple[Region, ...] = ()
    ioports: tuple[Region, ...] = ()
    interrupts: tuple[Interrupt, ...] = ()
    pci: tuple[PciFunction, ...] = ()


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


# -- files ------------------------------------------------------------------------------------------------------------


def read_machine(root: Path) -> Machine:
    """The machine whose files stand under ``root``: ``/`` for this one, or a folder with copies.

    A copy keeps the tree (``proc/iomem``, ``sys/bus/pci/devices/...``) or is flat (``iomem``, ``pci/...``). Any part
    may be missing, but not all.

    Raises:
        Refused: nothing to read there, or a file that cannot be read or made sense of; named, with the line.
    """
    machine = Machine(
        parse_regions(*_proc(root, "iomem")),
        parse_regions(*_proc(root, "ioports")),
        parse_interrupts(*_proc(root, "interrupts")),
        tuple(_functions(root)),
    )
    if machine == Machine():
        raise Refused(
            f"{root}: nothing to import; looked there for proc/iomem, proc/ioports, proc/interrupts and "
            "sys/bus/pci/devices, and for flat copies iomem, ioports, interrupts and pci"
        )
    return machine


def _proc(root: Path, name: str) -> tuple[str, str]:
    for path in (root / "proc" / name, root / name):
        text = _read(path)
        if text is not None:
            return text, str(path)
    return "", name


def _functions(root: Path) -> Iterator[PciFunction]:
    for folder in (root / "sys" / "bus" / "pci" / "devices", root / "pci"):
        for function in _listing(folder):
            if _ADDRESS.fullmatch(function.name):
                paths = [*_listing(function / "msi_irqs"), *(function / name for name in _FUNCTION_FILES)]
                texts = {path.relative_to(function).as_posix(): _read(path) for path in paths}
                yield parse_function(
                    function.name, {name: text for name, text in texts.items() if text is not None}, str(function)
                )


def _listing(folder: Path) -> list[Path]:
    try:
        return sorted(folder.iterdir()) if folder.is_dir() else []
    except FileNotFoundError:  # unplugged as we looked
        return []
    except OSError as error:
        raise Refused(f"{folder}: cannot list: {error.strerror}") from error


def _read(path: Path) -> str | None:
    try:
        if not path.is_file():  # a pipe would keep us waiting
            return None
        with path.open("rb") as file:
            data = file.read(BYTES_MAX + 1)
    except FileNotFoundError:
        return None
    except OSError as error:
        raise Refused(f"{path}: cannot read: {error.strerror}") from error
    if len(data) > BYTES_MAX:
        raise Refused(f"{path}: more than {BYTES_MAX:,} bytes, which no kernel prints there")
    try:
        return data.decode()
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        raise Refused(f"{path}:{line}: byte {data[error.start]:#04x} is not text (UTF-8)") from error


# -- /proc/iomem and /proc/ioports ------------------------------------------------------------------------------------


class _Line(NamedTuple):
    where: str
    depth: int
    first: int
    last: int
    label: str

    def __str__(self) -> str:
        return f"{self.label} ({self.first:#x}-{self.last:#x})"

    def contains(self, other: _Line) -> bool:
        return self.first <= other.first and other.last <= self.last


_REGION = re.compile(r"((?:  )*)([0-9A-Fa-f]{1,16})-([0-9A-Fa-f]{1,16}) : ?(.*)")

_FLAT_FROM = 5
"""The depth from which the kernel may stop to indent: ``MAX_IORES_LEVEL`` in its kernel/resource.c."""


def parse_regions(text: str, name: str = "/proc/iomem") -> tuple[Region, ...]:
    """The tree of claims that /proc/iomem or /proc/ioports prints, two spaces a level (``r_show``, kernel/resource.c).

    Among real addresses, a line of zeros is a claim the kernel has emptied and not removed (the merged host bridge
    windows of 5.16 to 6.4): it is passed over. Zeros alone are what the kernel shows to those it does not trust.

    Raises:
        Refused: with ``name`` and line, for what is no such tree: a range upside down, outside its parent, or
            overlapping its neighbour; or for zeros alone, with the way out.
    """
    lines = [_region_line(line, f"{name}:{number}") for number, line in _lines(text, name)]
    if lines and not any(line.last for line in lines):
        raise Refused(
            f"{name}: every address is zero. The kernel hides addresses from readers without CAP_SYS_ADMIN (containers "
            "included). Run this as root, or copy /proc/iomem and /proc/ioports into a folder as root and import that"
        )
    return _tree(lines)


def _region_line(text: str, where: str) -> _Line:
    match = _REGION.fullmatch(text)
    if match is None:
        raise Refused(f"{where}: expected '<first>-<last> : <name>' in hexadecimal, got {text[:80]!r}")
    line = _Line(where, len(match[1]) // 2, int(match[2], 16), int(match[3], 16), match[4].strip() or "unnamed")
    names.check(where, line.label)
    if line.first > line.last:
        raise Refused(f"{where}: {line} ends before it begins")
    return line


def _tree(lines: Iterable[_Line]) -> tuple[Region, ...]:
    top: list[Region] = []
    # The path to the line being read: each line with the children found so far. Not recursion, for the depth is theirs.
    path: list[tuple[_Line, list[Region]]] = []

    def close() -> None:
        line, children = path.pop()
        siblings = path[-1][1] if path else top
        siblings.append(Region(line.first, line.last, line.label, tuple(children)))

    depth = -1
    for line in lines:
        if line.depth > depth + 1:
            raise Refused(f"{line.where}: {line} is indented deeper than a child of the line above")
        depth = line.depth
        if not line.last:
            continue
        # At the last depth that is printed, a child stands beside its parent. Siblings never overlap, so what lies
        # within the line above is its child.
        while path and path[-1][0].depth >= depth and not (depth >= _FLAT_FROM and path[-1][0].contains(line)):
            close()
        _check_place(line, path[-1][0] if path else None, path[-1][1] if path else top)
        path.append((line, []))
        if len(path) > LEVELS_MAX:
            raise Refused(f"{line.where}: {line} lies inside more than {LEVELS_MAX} others")
    while path:
        close()
    return tuple(top)


def _check_place(line: _Line, parent: _Line | None, siblings: Sequence[Region]) -> None:
    if parent is not None and not parent.contains(line):
        raise Refused(f"{line.where}: {line} does not lie inside {parent}, under which it stands")
    if siblings and siblings[-1].last >= line.first:
        last = siblings[-1]
        fault = "overlaps" if last.first <= line.last else "stands after"
        raise Refused(f"{line.where}: {line} {fault} its neighbour {last.label} ({last.first:#x}-{last.last:#x})")


def _lines(text: str, name: str) -> Iterator[tuple[int, str]]:
    if "\0" in text:
        raise Refused(f"{name}:{text.count(chr(10), 0, text.index(chr(0))) + 1}: holds a NUL byte")
    # Not splitlines, which also splits at characters that no kernel ends a line with.
    for number, line in enumerate(text.split("\n"), 1):
        if line.strip():
            yield number, line.removesuffix("\r")


# -- /proc/interrupts -------------------------------------------------------------------------------------------------

_ADDRESS = re.compile(r"[0-9a-f]{4,8}:[0-9a-f]{2}:[01][0-9a-f]\.[0-7]")
_MESSAGE = re.compile(r"\bp?MSIX?\b", re.IGNORECASE)
_SHARED_DOMAIN = re.compile(r"(?:\w+-)*PCI-MSI|ITS-MSI")
_FUSED_TRIGGER = re.compile(r"(.+)-(edge|level|fasteoi)")  # "IO-APIC-edge", as older kernels print it
_CHIP_WORDS_MAX = 3


def parse_interrupts(text: str, name: str = "/proc/interrupts") -> tuple[Interrupt, ...]:
    """The numbered lines, as ``show_interrupts`` prints them (kernel/irq/proc.c); NMI, LOC or IPI0 have no number.

    Raises:
        Refused: with ``name`` and line, for anything else.
    """
    lines = _lines(text, name)
    number, heading = next(lines, (1, ""))
    cpus = heading.split()
    if not all(re.fullmatch(r"CPU[0-9]+", cpu) for cpu in cpus):
        raise Refused(f"{name}:{number}: expected a heading of CPUs, got {heading[:80]!r}")
    found = (_interrupt(line, f"{name}:{number}", len(cpus)) for number, line in lines)
    return tuple(interrupt for interrupt in found if interrupt is not None)


def _interrupt(text: str, where: str, cpus: int) -> Interrupt | None:
    label, colon, rest = text.partition(":")
    label = label.strip()
    if not colon or not re.fullmatch(r"[0-9]{1,10}|[A-Za-z][\w/-]*", label):
        raise Refused(f"{where}: expected '<number>:' and counts, got {text[:80]!r}")
    if not label[0].isdecimal():
        return None
    number = int(label)
    words = rest.split()
    counts, words = words[:cpus], words[cpus:]
    if len(counts) < cpus or not all(word.isdecimal() for word in counts) or not words or number > U32_MAX:
        raise Refused(
            f"{where}: interrupt {number}: expected {cpus} counts and a controller, got {rest.strip()[:80]!r}"
        )
    return _described(number, words, where)


def _described(number: int, words: list[str], where: str) -> Interrupt:
    """What follows the counts: chip, its number, trigger, actions, of which the middle two may be missing or joined."""
    width = _chip_words(words)
    controller, words = " ".join(words[:width]), words[width:]
    hwirq, trigger = "", None
    if words and (match := _hwirq(words[0])):
        hwirq, trigger, words = match[1], match[2], words[1:]
    if words and words[0] in ("Edge", "Level"):
        trigger, words = words[0], words[1:]
    if trigger is None and (match := _FUSED_TRIGGER.fullmatch(controller)):
        controller, trigger = match[1], match[2]
    actions = tuple(action.strip() for action in " ".join(words).split(",") if action.strip())
    for part in (controller, trigger or "", *actions):
        names.check(where, part, empty=True)
    # Xen writes the message into the trigger: "xen-pirq -msi-x".
    is_msi = _MESSAGE.search(controller) is not None or (trigger or "").startswith("msi")
    return Interrupt(number, controller, hwirq, trigger, actions, _sender(controller, hwirq), is_msi)


def _chip_words(words: Sequence[str]) -> int:
    """A chip's name is one word, or up to three ("SiFive PLIC") where a hardware number with a trigger ends it."""
    for width in range(2, min(_CHIP_WORDS_MAX + 1, len(words))):
        match = _hwirq(words[width])
        if match and match[1] and (match[2] or words[width + 1 : width + 2] in (["Edge"], ["Level"])):
            return 1 if _hwirq(words[1]) else width
    return 1


def _hwirq(word: str) -> re.Match[str] | None:
    """``9-fasteoi``, ``524288``, or ``-virq`` of a chip without numbers."""
    return re.fullmatch(r"(?=.)([0-9]{0,20})(?:-(\S+))?", word)


def _sender(controller: str, hwirq: str) -> str | None:
    """The PCI function a message comes from.

    On newer kernels (x86 since 6.2) each function has a chip of its own, with the address in its name. On others all
    share one, in which the hardware number is the address: domain << 27 | bus << 19 | device << 14 | function << 11 |
    index (``pci_msi_domain_calc_hwirq``, drivers/pci/msi/irqdomain.c).
    """
    _, dash, address = controller.rpartition("-")
    if dash and _ADDRESS.fullmatch(address):
        return address
    if not hwirq or not _SHARED_DOMAIN.fullmatch(controller) or int(hwirq) > U64_MAX:
        return None
    code = int(hwirq) >> 11
    return f"{code >> 16:04x}:{code >> 8 & 0xFF:02x}:{code >> 3 & 0x1F:02x}.{code & 7}"


# -- /sys/bus/pci/devices ---------------------------------------------------------------------------------------------

# The kernel's include/linux/ioport.h; its comment there says that user space reads these bits in ``resource``.
IORESOURCE_ROM_SHADOW = 0x00000002
IORESOURCE_TYPE_BITS = 0x00001F00
IORESOURCE_IO = 0x00000100
IORESOURCE_MEM = 0x00000200
IORESOURCE_PREFETCH = 0x00002000
IORESOURCE_MEM_64 = 0x00100000
IORESOURCE_DISABLED = 0x10000000
IORESOURCE_UNSET = 0x20000000

PCI_ROM_RESOURCE = 6
"""Lines 0 to 5 of ``resource`` are BARs and 6 the ROM (include/linux/pci.h). What follows belongs to others: SR-IOV
ranges to the virtual functions, a bridge's windows to the bus behind it."""

_FUNCTION_FILES = ("class", "device", "irq", "resource", "vendor")
_BAR = re.compile(r"0x([0-9a-f]{1,16}) 0x([0-9a-f]{1,16}) 0x([0-9a-f]{1,16})")
_BAR_KINDS: dict[int, Literal["pio", "mmio"]] = {IORESOURCE_IO: "pio", IORESOURCE_MEM: "mmio"}
_MODES: dict[str, Literal["msi", "msix"]] = {"msi": "msi", "msix": "msix"}


def parse_function(address: str, files: Mapping[str, str], name: str = "") -> PciFunction:
    """One PCI function from the texts of its files, by file name: those of its directory and ``msi_irqs/<number>``.

    Raises:
        Refused: with ``name`` (the directory; by default its address), file and line.
    """
    name = name or address
    modes = [(path.removeprefix("msi_irqs/"), text) for path, text in files.items() if path.startswith("msi_irqs/")]
    return PciFunction(
        address,
        _number(files, "vendor", name, 16, 0xFFFF),
        _number(files, "device", name, 16, 0xFFFF),
        _number(files, "class", name, 16, 0xFFFFFF),
        tuple(_bars(files.get("resource", ""), f"{name}/resource")),
        _number(files, "irq", name, 10, U32_MAX) or 0,
        tuple(sorted(_message(number, text, f"{name}/msi_irqs/{number}") for number, text in modes)),
    )


def _number(files: Mapping[str, str], file: str, name: str, base: int, most: int) -> int | None:
    if file not in files:
        return None
    text = files[file].strip()
    digits = re.fullmatch(r"0x([0-9A-Fa-f]{1,8})" if base == 16 else r"([0-9]{1,10})", text)
    if digits is None or int(digits[1], base) > most:
        raise Refused(f"{name}/{file}:1: expected a number of at most {most:#x}, got {text[:80]!r}")
    return int(digits[1], base)


def _message(number: str, text: str, where: str) -> tuple[int, Literal["msi", "msix"]]:
    if not re.fullmatch(r"[0-9]{1,10}", number) or int(number) > U32_MAX or text.strip() not in _MODES:
        raise Refused(f"{where}:1: expected an interrupt number with mode msi or msix, got {text[:80]!r}")
    return int(number), _MODES[text.strip()]


def _bars(text: str, name: str) -> Iterator[Bar]:
    for index, (number, line) in enumerate(_lines(text, name)):
        match = _BAR.fullmatch(line.strip())
        if match is None:
            raise Refused(f"{name}:{number}: expected '<first> <last> <flags>' in hexadecimal, got {line[:80]!r}")
        first, last, flags = (int(part, 16) for part in match.groups())
        kind = _BAR_KINDS.get(flags & IORESOURCE_TYPE_BITS)
        if index > PCI_ROM_RESOURCE or not last or kind is None:
            continue
        if first > last:
            raise Refused(f"{name}:{number}: BAR {index} ({first:#x}-{last:#x}) ends before it begins")
        prefetchable, is_64bit = bool(flags & IORESOURCE_PREFETCH), bool(flags & IORESOURCE_MEM_64)
        yield Bar(index, first, last, flags, kind, prefetchable, is_64bit, index == PCI_ROM_RESOURCE)


# -- the layout -------------------------------------------------------------------------------------------------------

_BUS = re.compile(r"PCI Bus ([0-9a-f]{4,8}:[0-9a-f]{2})")
_RAM = re.compile(r"System RAM(?: \(.*\))?")  # "System RAM (kmem)" is memory that a driver brought
_BRACKETED = re.compile(rf"\[({_ADDRESS.pattern})\]")  # libata's "ahci[0000:00:1f.2]"
_SERIAL_PORTS = {"ttyS0": 0x3F8, "ttyS1": 0x2F8, "ttyS2": 0x3E8, "ttyS3": 0x2E8}
"""Where the kernel expects a PC's serial lines: ``SERIAL_PORT_DFNS``, arch/x86/include/asm/serial.h."""


def layout(machine: Machine) -> tuple[Node, ...]:
    """Who holds what, parents before children.

    - Claims of one name in one place are one node: ``keyboard`` at ports 0x60 and 0x64; ``PCI Bus 0000:00``, at the top
      of both iomem and ioports. A PCI function is one node wherever its claims stand; its parent is what they share.
    - RAM and all within it is ``mem``; all else in iomem is ``mmio``.
    - A BAR that only /sys knows joins its function, unless somebody else's claim is in the way.
    - A message belongs to the function that sends it; a wired line to whom its action names, by the rules of
      ``_Draft.owner``; what remains, to a node named after the action.
    - The nearer to the top, the earlier a node gets its plain name. One that is taken, and any right inside a PCI
      function, stands behind its parent's: ``0000:00:01.0/virtio-pci-modern``. Plugging in a function renames nobody.

    Raises:
        Refused: a name that would be too long.
    """
    draft = _Draft(machine)
    draft.settle()
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
        self.is_function = kind == "pci"
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

    @cached_property
    def windows(self) -> list[tuple[Space, int, int]]:
        return sorted(self.ranges)

    @cached_property
    def spaces(self) -> set[Space]:
        return {space for space, _, _ in self.ranges}

    def admits(self, ranges: Iterable[tuple[Space, int, int]]) -> bool:
        """Each lies in one of ours of its space, or we have none there."""
        return all(self._admits(*wanted) for wanted in ranges)

    def _admits(self, space: Space, first: int, last: int) -> bool:
        index = bisect_right(self.windows, (space, first, U64_MAX))
        inside = index > 0 and self.windows[index - 1][0] == space and self.windows[index - 1][2] >= last
        return inside or space not in self.spaces


class _Draft:
    def __init__(self, machine: Machine) -> None:
        self.machine = machine
        self.parts: list[_Part] = []
        self.functions: dict[str, _Part] = {}
        self._places: dict[tuple[_Part | None, str], _Part] = {}
        self._grow(machine.iomem, "mmio")
        self._grow(machine.ioports, "pio")
        self._buses = self._find_buses()
        self._joined: dict[Space, list[tuple[int, int]]] = defaultdict(list)
        for function in sorted(machine.pci, key=lambda function: function.address):
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
            waiting.extend((child, part, space) for child in reversed(region.children))

    def _place(self, label: str, parent: _Part | None) -> _Part:
        if _ADDRESS.fullmatch(label) and (parent is None or parent.label != label):
            part = self.functions.get(label) or self._part(label, "pci", parent)
            # Claimed in two places, it lies in what both lie in. Moving outwards only, it never comes to lie in itself.
            shared = set(parent.chain()) if parent else set[_Part]()
            part.parent = next((around for around in part.chain() if around in shared and around is not part), None)
            return self.functions.setdefault(label, part)
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

    def _join(self, function: PciFunction) -> None:
        bars: list[tuple[Space, int, int]] = [
            (bar.kind, bar.first, bar.last) for bar in function.bars if not _is_nowhere(bar)
        ]
        part = self.functions.get(function.address)
        if part is None:
            bus = self._bus(function.address.rpartition(":")[0], bars)
            part = self.functions[function.address] = self._part(function.address, "pci", bus)
        if function.class_code is not None:
            part.kind = f"pci-{function.class_code:06x}"
        part.ranges += [bar for bar in bars if bar not in part.ranges and self._is_free(part, *bar)]

    def _bus(self, number: str, bars: Sequence[tuple[Space, int, int]]) -> _Part | None:
        """The node of that bus whose windows hold the BARs, else the one nearest to the top."""
        buses = self._buses.get(number, [])
        return next((bus for bus in buses if bus.admits(bars)), next(iter(buses), None))

    def _is_free(self, part: _Part, space: Space, first: int, last: int) -> bool:
        """Only claims of those around ``part`` are there, and no BAR that joined before: now it has joined."""
        around = {other.label for other in part.parent.chain()} if part.parent else set[str]()
        regions = self.machine.ioports if space == "pio" else self.machine.iomem
        while (region := _last_before(regions, last)) and region.last >= first:
            if not (region.first <= first and last <= region.last and region.label in around):
                return False
            regions = region.children
        joined = self._joined[space]
        index = bisect_right(joined, (last, U64_MAX))
        if index and joined[index - 1][1] >= first:
            return False
        joined.insert(index, (first, last))
        return True

    def settle(self) -> None:
        """A part that reaches out of its parent moves outwards until it fits, at last to the top."""
        for part in self.parts:
            while part.parent is not None and not part.parent.admits(part.ranges):
                part.parent = part.parent.parent

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
            for part in [sender] if sender else [self.owner(interrupt.number, action) for action in interrupt.actions]:
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
            if part.parent and part.parent.is_function and part.parent.label in lines:
                self._drivers[lines[part.parent.label], part.label].append(part.parent)

    def owner(self, number: int, action: str) -> _Part:
        """Whom an action means; never a guess.

        1. The PCI function it names in brackets: ``ahci[0000:00:1f.2]``.
        2. The one function on that line by its ``irq`` file with that driver in it: ``uhci_hcd:usb1``.
        3. The one node of exactly that name, or the function it lies in: ``rtc0``, ``i801_smbus``.
        4. For ``ttyS0`` to ``ttyS3``, the ``serial`` node that holds that line's standard port.
        5. Else a node of its own.
        """
        named = _BRACKETED.search(action)
        if named and named[1] in self.functions:
            return self.functions[named[1]]
        drivers = self._drivers.get((number, action.partition(":")[0]), [])
        for found in (drivers, self._labels.get(action, []), self._serial(action)):
            if len(found) == 1:
                return next((part for part in found[0].chain() if part.is_function), found[0])
        if action not in self._users:
            self._users[action] = self._part(action, "irq-user")
        return self._users[action]

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
            if name in taken or (part.parent and part.parent.is_function):
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


def _last_before(regions: Sequence[Region], address: int) -> Region | None:
    index = bisect_right(regions, address, key=lambda region: region.first)
    return regions[index - 1] if index else None


def _msi_type(interrupt: Interrupt) -> MsiType:
    """By what is printed. A shared PCI-MSI chip serves MSI-X too: ``msi_irqs`` in /sys knows, and has been asked."""
    text = f"{interrupt.controller} {interrupt.trigger}".lower()
    if "msix" in text or "msi-x" in text:
        return "pci_msix"
    return "pci_msi" if "pci-msi" in text or text.endswith(" msi") else "generic_msi"
