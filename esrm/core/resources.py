"""What a device may ask for, and what it can be given.

The types of the ancestor, ``resources.rs`` of the Rust crate vm-device 0.1.0, with its names and defaults: constraints
(wishes), resources (outcomes), and ``DeviceResources``, the ordered set of what one device holds. All but the last are
values: frozen, comparable, checked against the ancestor's widths when they are built, whether by hand or from a log.

Why separate: every other module speaks in these words and this one imports none of them.
Next: ``platform.py``, the pools that resources come from.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence
from enum import Enum
from typing import Annotated, Any, ClassVar, Literal, TypeAlias, cast, overload

import msgspec
from msgspec import Meta
from msgspec.structs import force_setattr

from esrm.errors import InvalidConstraint, OutOfRange

U16_MAX = 2**16 - 1
U32_MAX = 2**32 - 1
U64_MAX = 2**64 - 1
MAC_MAX = 2**48 - 1

PCI_MSI_MAX = 32
"""Vectors of one MSI capability: Multiple Message Enable encodes 1, 2, 4 ... 32 (PCI Local Bus 3.0, 6.8.1.3)."""

PCI_MSIX_MAX = 2048
"""Vectors of one MSI-X table: its size field has 11 bits (PCI Local Bus 3.0, 6.8.2.3)."""

U16: TypeAlias = Annotated[int, Meta(ge=0, le=U16_MAX)]
U32: TypeAlias = Annotated[int, Meta(ge=0, le=U32_MAX)]
U64: TypeAlias = Annotated[int, Meta(ge=0, extra_json_schema={"maximum": U64_MAX})]
"""The ancestor's widths. msgspec cannot check a bound above 2**63-1, so ``__post_init__`` does; the schema has it."""

Policy: TypeAlias = Literal["first", "last", "exact"]
"""Where in its window a range goes: lowest place that fits, highest, or the window's first address and no other."""


class Space(Enum):
    """The kinds of numbers a VM hands out. Each is a space of its own: equal numbers in two spaces never collide."""

    PIO = "pio"
    """x86 I/O ports, 0 to 2**16-1."""
    MMIO = "mmio"
    """Guest-physical addresses that trap to a device, 0 to 2**64-1."""
    MEM = "mem"
    """Guest-physical addresses backed by memory, 0 to 2**64-1."""
    LEGACY_IRQ = "legacy_irq"
    """Wired interrupt lines (GSIs), 0 to 2**32-1."""
    MSI_IRQ = "msi_irq"
    """Interrupt numbers for message signalled interrupts, 0 to 2**32-1."""
    KVM_MEM_SLOT = "kvm_mem_slot"
    """Indexes of KVM_SET_USER_MEMORY_REGION, 0 to 2**32-1 (KVM itself stops at 32,763)."""
    MAC = "mac"
    """Ethernet addresses as 48-bit numbers."""

    # Members are singletons; Enum's own hash runs in Python, and every ledger and bus is looked up by its space.
    __hash__ = object.__hash__

    @property
    def last(self) -> int:
        """The highest number of the space, inclusive: 2**64 does not fit, so no end is ever exclusive."""
        return _LAST[self]

    @property
    def nests(self) -> bool:
        """Whether a child device's ranges lie inside its parent's: true of addresses, false of interrupts and ids."""
        return self in _ADDRESSES


_ADDRESSES = frozenset({Space.PIO, Space.MMIO, Space.MEM})
_LAST = {
    Space.PIO: U16_MAX,
    Space.MMIO: U64_MAX,
    Space.MEM: U64_MAX,
    Space.LEGACY_IRQ: U32_MAX,
    Space.MSI_IRQ: U32_MAX,
    Space.KVM_MEM_SLOT: U32_MAX,
    Space.MAC: MAC_MAX,
}


# -- constraints: what a device asks for -----------------------------------------------------------------------------


class _Constraint(msgspec.Struct, frozen=True, gc=False, tag_field="kind"):
    space: ClassVar[Space]

    @property
    def count(self) -> int:
        """How many resources meet this constraint: one, except for a group of KVM slots."""
        return 1


class _RangeConstraint(_Constraint, frozen=True, gc=False):
    """A wish for ``size`` addresses, aligned to ``align``, wholly inside the inclusive window ``range``.

    ``policy`` is ``first``, ``last``, ``exact`` (the window's first address and no other) or None for the platform's.
    """

    top: ClassVar[int] = U64_MAX
    size: U64
    range: tuple[U64, U64] | None = None
    align: U64 = 1
    policy: Policy | None = None

    def __post_init__(self) -> None:
        # One look when all is well, and the slow checks only to say what is wrong. So everywhere in this file: replay
        # builds millions of these, and it made declarations and allocations decode in two thirds of the time.
        size, align, top, window = self.size, self.align, self.top, self.range
        if (
            type(size) is type(align) is int
            and 0 < size <= top
            and 0 < align <= top
            and not align & (align - 1)
            and self.policy is None
            and (
                window is None
                or (
                    type(window) is tuple
                    and len(window) == 2
                    and type(window[0]) is type(window[1]) is int
                    and 0 <= window[0] <= window[1] <= top
                )
            )
        ):
            return
        _uint(self, "size", self.size, top, low=1)
        _uint(self, "align", self.align, top, low=1)
        if self.align & (self.align - 1):
            raise InvalidConstraint(f"{_name(self)}.align: {self.align:#x} is not a power of two")
        if self.range is not None:
            low, high = _window(self, self.range)
            _uint(self, "range[0]", low, top)
            _uint(self, "range[1]", high, top)
            if low > high:
                raise InvalidConstraint(f"{_name(self)}.range: min {low:#x} is above max {high:#x}")
            force_setattr(self, "range", (low, high))
        _policy(self)


class PioConstraint(_RangeConstraint, frozen=True, gc=False, tag="pio"):
    """I/O ports: ``size`` (1 to 0xffff) of them, aligned to ``align`` ports (default 1)."""

    space: ClassVar[Space] = Space.PIO
    top: ClassVar[int] = U16_MAX
    size: U16
    range: tuple[U16, U16] | None = None
    align: U16 = 1


class MmioConstraint(_RangeConstraint, frozen=True, gc=False, tag="mmio"):
    """Memory-mapped I/O: ``size`` bytes (1 to 2**64-1), aligned to ``align`` bytes (default 0x1000)."""

    space: ClassVar[Space] = Space.MMIO
    align: U64 = 0x1000


class MemConstraint(_RangeConstraint, frozen=True, gc=False, tag="mem"):
    """Guest memory: ``size`` bytes (1 to 2**64-1), aligned to ``align`` bytes (default 0x1000)."""

    space: ClassVar[Space] = Space.MEM
    align: U64 = 0x1000


class LegacyIrqConstraint(_Constraint, frozen=True, gc=False, tag="legacy_irq"):
    """A wired interrupt line: any, or exactly ``irq`` (u32). ``shared`` lines may have many holders, all sharing."""

    space: ClassVar[Space] = Space.LEGACY_IRQ
    irq: U32 | None = None
    shared: bool = False

    def __post_init__(self) -> None:
        if self.irq is not None:
            _uint(self, "irq", self.irq, U32_MAX)
        if type(self.shared) is not bool:
            raise InvalidConstraint(f"{_name(self)}.shared: expected true or false, got {self.shared!r}")


class _MsiConstraint(_Constraint, frozen=True, gc=False):
    """``size`` consecutive vectors (u32, at least 1), from number ``base`` (u32) on if given.

    As in the ancestor any count can be written down; what no device can have is refused when it is declared.
    """

    space: ClassVar[Space] = Space.MSI_IRQ
    size: U32
    base: U32 | None = None

    def __post_init__(self) -> None:
        if self.base is None and type(self.size) is int and 0 < self.size <= U32_MAX:
            return
        _uint(self, "size", self.size, U32_MAX, low=1)
        if self.base is not None:
            _uint(self, "base", self.base, U32_MAX)


class PciMsiIrqConstraint(_MsiConstraint, frozen=True, gc=False, tag="pci_msi_irq"):
    """A PCI MSI group of ``size`` vectors: a power of two of at most 32, and aligned to it."""


class PciMsixIrqConstraint(_MsiConstraint, frozen=True, gc=False, tag="pci_msix_irq"):
    """``size`` PCI MSI-X vectors (1 to 2048), contiguous."""


class GenericIrqConstraint(_MsiConstraint, frozen=True, gc=False, tag="generic_irq"):
    """``size`` generic message signalled interrupts (u32, at least 1), contiguous."""


class KvmMemSlotConstraint(_Constraint, frozen=True, gc=False, tag="kvm_mem_slot"):
    """``size`` consecutive KVM memory slots (u32, at least 1), from ``slot`` on if given."""

    space: ClassVar[Space] = Space.KVM_MEM_SLOT
    size: U32 = 1
    slot: U32 | None = None

    def __post_init__(self) -> None:
        if self.slot is None and type(self.size) is int and 0 < self.size <= U32_MAX:
            return
        _uint(self, "size", self.size, U32_MAX, low=1)
        if self.slot is not None:
            _uint(self, "slot", self.slot, U32_MAX)

    @property
    def count(self) -> int:
        """One ``KvmMemSlot`` a slot."""
        return self.size


class MacAddressConstraint(_Constraint, frozen=True, gc=False, tag="mac"):
    """An Ethernet address: any of the platform's pool, or exactly ``address`` ("52:54:00:12:34:56")."""

    space: ClassVar[Space] = Space.MAC
    address: str | None = None

    def __post_init__(self) -> None:
        if self.address is not None:
            _check_mac(self.address)


ResourceConstraint: TypeAlias = (
    PioConstraint
    | MmioConstraint
    | MemConstraint
    | LegacyIrqConstraint
    | PciMsiIrqConstraint
    | PciMsixIrqConstraint
    | GenericIrqConstraint
    | KvmMemSlotConstraint
    | MacAddressConstraint
)
"""Any wish; ``kind`` tells them apart on the wire."""


# -- resources: what a device was given ------------------------------------------------------------------------------


class _AddressRange(msgspec.Struct, frozen=True, gc=False, tag_field="kind"):
    """``size`` addresses from ``base`` on: size at least 1, and the last one still inside the space's width."""

    space: ClassVar[Space]
    top: ClassVar[int] = U64_MAX
    base: U64
    size: U64

    def __post_init__(self) -> None:
        base, size = self.base, self.size
        if type(base) is type(size) is int and 0 <= base <= base + size - 1 <= self.top and size <= U64_MAX:
            return
        _uint(self, "base", self.base, self.space.last)
        _uint(self, "size", self.size, min(self.space.last + 1, U64_MAX), low=1)
        raise InvalidConstraint(f"{_name(self)}: {self.base:#x} + {self.size:#x} runs past {self.space.last:#x}")

    @property
    def last(self) -> int:
        """The range's last address, inclusive."""
        return self.base + self.size - 1

    def at(self, offset: int, size: int = 1) -> int:
        """The address of the ``size`` bytes at ``offset`` into this range, as a BAR-relative register is named.

        Raises:
            OutOfRange: the bytes do not lie inside the range whole.
        """
        if offset < 0 or size < 1 or offset + size > self.size:
            raise OutOfRange(f"{size:#x} at offset {offset:#x} is outside {self.base:#x}-{self.last:#x}")
        return self.base + offset

    def __str__(self) -> str:
        return f"{self.space.value} {self.base:#x}-{self.last:#x}"


class PioAddressRange(_AddressRange, frozen=True, gc=False, tag="pio"):
    """``size`` I/O ports from ``base`` on."""

    space: ClassVar[Space] = Space.PIO
    top: ClassVar[int] = U16_MAX


class MmioAddressRange(_AddressRange, frozen=True, gc=False, tag="mmio"):
    """``size`` bytes of memory-mapped I/O from ``base`` on."""

    space: ClassVar[Space] = Space.MMIO


class MemAddressRange(_AddressRange, frozen=True, gc=False, tag="mem"):
    """``size`` bytes of guest memory from ``base`` on."""

    space: ClassVar[Space] = Space.MEM


class LegacyIrq(msgspec.Struct, frozen=True, gc=False, tag_field="kind", tag="legacy_irq"):
    """One wired interrupt line (u32). Whether it is shared stands in the constraint that asked for it."""

    irq: U32

    def __post_init__(self) -> None:
        if type(self.irq) is not int or not 0 <= self.irq <= U32_MAX:
            _uint(self, "irq", self.irq, U32_MAX)

    def __str__(self) -> str:
        return f"irq {self.irq}"


class MsiIrqType(Enum):
    """The three kinds of message signalled interrupts."""

    PCI_MSI = "pci_msi"
    PCI_MSIX = "pci_msix"
    GENERIC_MSI = "generic_msi"


class MsiIrq(msgspec.Struct, frozen=True, gc=False, tag_field="kind", tag="msi_irq"):
    """``size`` consecutive message signalled interrupts of one ``type``, from number ``base`` (u32) on."""

    type: MsiIrqType
    base: U32
    size: U32

    def __post_init__(self) -> None:
        base, size = self.base, self.size
        if (
            type(self.type) is MsiIrqType
            and type(base) is type(size) is int
            and 0 <= base <= base + size - 1 <= U32_MAX
            and size <= U32_MAX
        ):
            return
        if not isinstance(cast(Any, self.type), MsiIrqType):
            raise InvalidConstraint(f"MsiIrq.type: expected a MsiIrqType, got {self.type!r}")
        _uint(self, "base", self.base, U32_MAX)
        _uint(self, "size", self.size, U32_MAX, low=1)
        if self.base + self.size - 1 > U32_MAX:
            raise InvalidConstraint(f"MsiIrq: {self.base} + {self.size} runs past {U32_MAX}")

    def __str__(self) -> str:
        return f"{self.type.value} {self.base}-{self.base + self.size - 1}"


class MacAddress(msgspec.Struct, frozen=True, gc=False, tag_field="kind", tag="mac"):
    """A network interface's Ethernet address, spelled as it was asked for."""

    address: str

    def __post_init__(self) -> None:
        _check_mac(self.address)

    def __str__(self) -> str:
        return f"mac {self.address}"


class KvmMemSlot(msgspec.Struct, frozen=True, gc=False, tag_field="kind", tag="kvm_mem_slot"):
    """One KVM memory slot (u32)."""

    index: U32

    def __post_init__(self) -> None:
        if type(self.index) is not int or not 0 <= self.index <= U32_MAX:
            _uint(self, "index", self.index, U32_MAX)

    def __str__(self) -> str:
        return f"slot {self.index}"


Resource: TypeAlias = (
    PioAddressRange | MmioAddressRange | MemAddressRange | LegacyIrq | MsiIrq | MacAddress | KvmMemSlot
)
"""Anything a device can hold; on the wire ``kind`` is the name of its space."""


def span(resource: Resource) -> tuple[Space, int, int]:
    """Where a resource lies: its space and its first and last number there, inclusive."""
    match resource:
        case PioAddressRange() | MmioAddressRange() | MemAddressRange():
            return resource.space, resource.base, resource.base + resource.size - 1
        case LegacyIrq():
            return Space.LEGACY_IRQ, resource.irq, resource.irq
        case MsiIrq():
            return Space.MSI_IRQ, resource.base, resource.base + resource.size - 1
        case KvmMemSlot():
            return Space.KVM_MEM_SLOT, resource.index, resource.index
        case MacAddress():
            number = mac_number(resource.address)
            return Space.MAC, number, number


def alike(old: Resource, new: Resource) -> bool:
    """Whether one could be held in the other's stead: of the same kind and size, wherever it lies."""
    same_size = getattr(old, "size", 1) == getattr(new, "size", 1)
    return type(old) is type(new) and same_size and getattr(old, "type", None) is getattr(new, "type", None)


def hexadecimal(space: Space, number: int) -> str:
    """A number as people of that space write it: hexadecimal addresses, decimal interrupts and slots, MACs as MACs."""
    if space.nests:
        return f"{number:#x}"
    return mac_text(number) if space is Space.MAC else str(number)


def bounds(space: Space, first: int, last: int) -> str:
    """``first-last`` as people of that space write it, or just the one number."""
    if first == last:
        return hexadecimal(space, first)
    return f"{hexadecimal(space, first)}-{hexadecimal(space, last)}"


# -- DeviceResources: the set of them --------------------------------------------------------------------------------


class DeviceResources(Sequence[Resource]):
    """What one device holds, in the order it was asked for: a sequence with the ancestor's getters.

    The getters return all ranges in order, but only the *first* interrupt, MSI group of a type, or MAC address, and
    None where there is none, as the ancestor's do.
    """

    __slots__ = ("_entries",)

    def __init__(self, entries: Iterable[Resource] = ()) -> None:
        self._entries: list[Resource] = list(entries)

    def append(self, entry: Resource) -> None:
        """Add a resource at the end."""
        if not isinstance(cast(Any, entry), Resource):
            raise InvalidConstraint(f"DeviceResources.append: expected a Resource, got {entry!r}")
        self._entries.append(entry)

    def pio_address_ranges(self) -> list[tuple[int, int]]:
        """All I/O port ranges, as (base, size)."""
        return [(e.base, e.size) for e in self._entries if isinstance(e, PioAddressRange)]

    def mmio_address_ranges(self) -> list[tuple[int, int]]:
        """All memory-mapped I/O ranges, as (base, size in bytes)."""
        return [(e.base, e.size) for e in self._entries if isinstance(e, MmioAddressRange)]

    def mem_address_ranges(self) -> list[tuple[int, int]]:
        """All guest memory ranges, as (base, size in bytes)."""
        return [(e.base, e.size) for e in self._entries if isinstance(e, MemAddressRange)]

    def legacy_irq(self) -> int | None:
        """The first wired interrupt line."""
        return next((e.irq for e in self._entries if isinstance(e, LegacyIrq)), None)

    def pci_msi_irqs(self) -> tuple[int, int] | None:
        """The first PCI MSI group, as (base, size)."""
        return self._msi_irqs(MsiIrqType.PCI_MSI)

    def pci_msix_irqs(self) -> tuple[int, int] | None:
        """The first PCI MSI-X group, as (base, size)."""
        return self._msi_irqs(MsiIrqType.PCI_MSIX)

    def generic_msi_irqs(self) -> tuple[int, int] | None:
        """The first generic MSI group, as (base, size)."""
        return self._msi_irqs(MsiIrqType.GENERIC_MSI)

    def kvm_mem_slots(self) -> list[int]:
        """All KVM memory slots."""
        return [e.index for e in self._entries if isinstance(e, KvmMemSlot)]

    def mac_address(self) -> str | None:
        """The first Ethernet address."""
        return next((e.address for e in self._entries if isinstance(e, MacAddress)), None)

    def all_resources(self) -> tuple[Resource, ...]:
        """Every resource, in request order."""
        return tuple(self._entries)

    def _msi_irqs(self, wanted: MsiIrqType) -> tuple[int, int] | None:
        return next(((e.base, e.size) for e in self._entries if isinstance(e, MsiIrq) and e.type is wanted), None)

    def __len__(self) -> int:
        return len(self._entries)

    def __iter__(self) -> Iterator[Resource]:
        return iter(self._entries)

    @overload
    def __getitem__(self, index: int) -> Resource: ...
    @overload
    def __getitem__(self, index: slice) -> DeviceResources: ...
    def __getitem__(self, index: int | slice) -> Resource | DeviceResources:
        return DeviceResources(self._entries[index]) if isinstance(index, slice) else self._entries[index]

    def __eq__(self, other: object) -> bool:
        return self._entries == other._entries if isinstance(other, DeviceResources) else NotImplemented

    __hash__ = None  # type: ignore[assignment]  # it can grow

    def __repr__(self) -> str:
        return f"DeviceResources({self._entries!r})"

    def __str__(self) -> str:
        return ", ".join(map(str, self._entries)) or "nothing"


# -- Ethernet addresses and checks -----------------------------------------------------------------------------------

# Spelt out, since a pattern that counts its repeats takes half as long again.
_is_mac = re.compile(":".join(["[0-9A-Fa-f][0-9A-Fa-f]"] * 6)).fullmatch


def mac_number(text: str) -> int:
    """The 48-bit number of an Ethernet address in colon notation, either case.

    Raises:
        InvalidConstraint: it is not six colon-separated octets.
    """
    _check_mac(text)
    return int(text.replace(":", ""), 16)


def _check_mac(text: Any) -> None:
    if not isinstance(text, str) or not _is_mac(text):
        shown = repr(text) if len(repr(text)) < 60 else repr(text)[:57] + "..."
        raise InvalidConstraint(f"address: {shown} is not an Ethernet address such as 52:54:00:12:34:56")


def mac_text(number: int) -> str:
    """The colon notation of a 48-bit number, in lower case."""
    return number.to_bytes(6, "big").hex(":")


def _name(value: object) -> str:
    return type(value).__name__


def _uint(owner: object, field: str, value: Any, high: int, low: int = 0) -> None:
    """Check an unsigned integer field; a bool is not one."""
    if type(value) is not int:
        raise InvalidConstraint(f"{_name(owner)}.{field}: expected an integer, got {type(value).__name__}")
    if not low <= value <= high:
        shown = f"{value:#x}" if abs(value) < 1 << 128 else "a number of over 128 bits"
        raise InvalidConstraint(f"{_name(owner)}.{field}: {shown} is outside {low:#x}-{high:#x}")


def _window(owner: _RangeConstraint, value: Any) -> tuple[int, int]:
    if not isinstance(value, (tuple, list)) or len(cast("Sequence[Any]", value)) != 2:
        raise InvalidConstraint(f"{_name(owner)}.range: expected (min, max), both inclusive")
    low, high = cast("Sequence[Any]", value)
    return low, high


def _policy(owner: _RangeConstraint) -> None:
    if owner.policy not in (None, "first", "last", "exact"):
        raise InvalidConstraint(f"{_name(owner)}.policy: {owner.policy!r} is none of first, last, exact")
    if owner.policy != "exact":
        return
    if owner.range is None:
        raise InvalidConstraint(f"{_name(owner)}.policy: exact needs a range, whose first address is the place")
    if owner.range[0] & (owner.align - 1):
        raise InvalidConstraint(f"{_name(owner)}.range[0]: {owner.range[0]:#x} is not aligned to {owner.align:#x}")
    if owner.range[0] + owner.size - 1 > owner.range[1]:
        raise InvalidConstraint(f"{_name(owner)}.range[1]: {owner.range[1]:#x} leaves no room for {owner.size:#x}")
