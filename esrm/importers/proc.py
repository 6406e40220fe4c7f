"""What a Linux machine says about itself: its /proc and /sys files, each parsed by itself.

``read_machine`` is the only function that touches a disk. ``parse_regions``, ``parse_interrupts`` and
``parse_function`` take one text each and believe none of it: whatever they cannot make sense of is ``Refused``, with
file and line.

Why separate: nothing here knows of devices or events, so it is tested on plain text from real machines.
Next: ``layout.py``, which joins the parts.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Literal, NamedTuple, TypeAlias

import msgspec

from esrm import names
from esrm.core.resources import U32_MAX, U64_MAX
from esrm.errors import Refused

Space: TypeAlias = Literal["pio", "mmio", "mem"]

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
            if PCI_ADDRESS.fullmatch(function.name):
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

PCI_ADDRESS = re.compile(r"[0-9a-f]{4,8}:[0-9a-f]{2}:[01][0-9a-f]\.[0-7]")
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
    if dash and PCI_ADDRESS.fullmatch(address):
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
