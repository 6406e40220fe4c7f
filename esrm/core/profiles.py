"""The platforms esrm ships, as ``esrm.platforms``: two of its own, and eight that lay a VM out as a peer does.

Each number has its source beside it. A profile is only a starting point: it is copied into a VM's first event, and
what is changed here later changes no log. Sources of the peers, by file:

- dragonball: ``dbs_boot/src/x86_64/layout.rs``, ``dbs_boot/src/aarch64/layout.rs``, ``resource_manager.rs``
- cloud-hypervisor: ``arch/src/x86_64/layout.rs``, ``arch/src/aarch64/layout.rs``, ``vm-allocator/src/gsi.rs``
- crosvm: ``x86_64/src/lib.rs``, ``aarch64/src/lib.rs``, ``resources/src/system_allocator.rs``
- firecracker: ``src/vmm/src/arch/x86_64/layout.rs``, ``src/vmm/src/arch/aarch64/layout.rs``
"""

from __future__ import annotations

from collections.abc import Callable

from esrm.core.platform import Platform, Range, Reserved, shown
from esrm.core.resources import U32_MAX, U64_MAX, Space
from esrm.errors import InvalidPlatform
from esrm.names import suggestion

_MIB = 1 << 20
_GIB = 1 << 30
_TIB = 1 << 40

_ALL_PORTS: Range = (0x0, 0xFFFF)
_HIGH_MMIO: Range = (256 * _GIB, 512 * _GIB - 1)
_KVM_SLOTS: Range = (0, 32_763)
"""KVM_USER_MEM_SLOTS is 32,764 (include/linux/kvm_host.h: SHRT_MAX less the three private slots)."""
_MACS: Range = (0x02_00_00_00_00_00, 0x02_FF_FF_FF_FF_FF)
"""Locally administered, unicast: the two low bits of the first octet are 10 (IEEE 802, clause 8)."""

_IOAPIC = Reserved(Space.MMIO, 0xFEC00000, 0xFEC00FFF, "IOAPIC")
_LAPIC = Reserved(Space.MMIO, 0xFEE00000, 0xFEE00FFF, "LAPIC")


def x86_64(phys_bits: int, ram_end: int) -> Platform:
    """Ours: Firecracker's addresses and interrupts, with all I/O ports but those of six devices that a VMM emulates.

    Those are the two PICs, the PIT, the i8042, the RTC and PCI's configuration ports, as listed here. A machine that
    has more (DMA controllers at 0x0-0x1f and 0xc0-0xdf, the PICs' ELCR at 0x4d0-0x4d1) reserves it in a platform of
    its own. MSIs end at 4095, since KVM_MAX_IRQ_ROUTES is 4096 (include/linux/kvm_host.h). ``ram_end`` is not used.
    """
    ports = [
        (0x20, 0x21, "PIC"),
        (0x40, 0x43, "PIT"),
        (0x60, 0x60, "i8042"),
        (0x64, 0x64, "i8042"),
        (0x70, 0x71, "RTC"),
        (0xA0, 0xA1, "PIC"),
        (0xCF8, 0xCFF, "PCI config"),
    ]
    base = firecracker_x86_64(phys_bits, ram_end)
    return Platform(
        name="x86_64",
        pools={**base.pools, Space.PIO: (_ALL_PORTS,)},
        reserved=(
            *(Reserved(Space.PIO, first, last, owner) for first, last, owner in ports),
            *(entry for entry in base.reserved if entry.space is Space.MMIO and entry.owner != "boot timer"),
        ),
    )


def aarch64(phys_bits: int, ram_end: int) -> Platform:
    """Ours: Firecracker's addresses and interrupts, with all I/O ports (behind a PCI I/O window)."""
    base = firecracker_aarch64(phys_bits, ram_end)
    return Platform(name="aarch64", pools={**base.pools, Space.PIO: (_ALL_PORTS,)}, reserved=base.reserved)


def dragonball_x86_64(phys_bits: int, ram_end: int) -> Platform:
    """Line 5 is shared, 6-15 are exclusive. The upper half of the address space is MMIO, the lower is RAM.

    KVM slots are 0-509 as in its code, where 509 is a count. ``ram_end`` is not used.
    """
    middle = 1 << (phys_bits - 1)
    return Platform(
        name="dragonball-x86_64",
        pools={
            Space.PIO: (_ALL_PORTS,),
            Space.MMIO: ((0xC0000000, 0xFFFFFFFF), (middle, 2 * middle - 1)),
            Space.MEM: ((0, 0xBFFFFFFF), (4 * _GIB, middle - 1)),
            Space.LEGACY_IRQ: ((5, 15),),
            Space.MSI_IRQ: ((24, 1023),),
            Space.KVM_MEM_SLOT: ((0, 509),),
            Space.MAC: (_MACS,),
        },
        reserved=(Reserved(Space.MMIO, 0xFC000000, 0xFFFFFFFF, "IOAPIC, LAPIC, HPET, TSS"),),
        shared_irq=5,
    )


def dragonball_aarch64(phys_bits: int, ram_end: int) -> Platform:
    """Line 32 is shared. ECAM comes from the MMIO pool. ``ram_end`` is not used."""
    return Platform(
        name="dragonball-aarch64",
        pools={
            Space.PIO: (_ALL_PORTS,),
            Space.MMIO: _within(phys_bits, (0x40000000, 0x7FFFFFFF), (0xF8_0000_0000, _TIB - 1)),
            Space.MEM: _within(phys_bits, (0x80000000, 0xF7_FFFF_FFFF)),
            Space.LEGACY_IRQ: ((32, 159),),
            Space.MSI_IRQ: ((160, 1023),),
            Space.KVM_MEM_SLOT: ((0, 512),),
            Space.MAC: (_MACS,),
        },
        shared_irq=32,
    )


def cloud_hypervisor_x86_64(phys_bits: int, ram_end: int) -> Platform:
    """MMIO above RAM ends 64 KiB (platform devices) and 1 MiB below the top. KVM slots are a counter."""
    return Platform(
        name="cloud-hypervisor-x86_64",
        pools={
            Space.PIO: (_ALL_PORTS,),
            Space.MMIO: (_sized(0xC0000000, 640 * _MIB), (ram_end, (1 << phys_bits) - 64 * 1024 - _MIB - 1)),
            Space.MEM: ((0, 0xBFFFFFFF), (4 * _GIB, ram_end - 1)),
            Space.LEGACY_IRQ: ((5, 23),),
            Space.MSI_IRQ: ((24, 4095),),
            Space.KVM_MEM_SLOT: ((0, U32_MAX),),
            Space.MAC: (_MACS,),
        },
        reserved=(
            Reserved(Space.MMIO, *_sized(0xE8000000, 256 * _MIB), "ECAM"),
            Reserved(Space.MMIO, *_sized(0xF8000000, 12 * 1024), "TSS"),
            Reserved(Space.MMIO, *_sized(0xFEC00000, 0x20), "IOAPIC"),
            Reserved(Space.MMIO, *_sized(0xFED40000, 0x1000), "TPM"),
            _LAPIC,
        ),
    )


def cloud_hypervisor_aarch64(phys_bits: int, ram_end: int) -> Platform:
    """Lines and MSIs have a number space each. The I/O ports are a 64 KiB window in MMIO."""
    return Platform(
        name="cloud-hypervisor-aarch64",
        pools={
            Space.PIO: (_ALL_PORTS,),
            Space.MMIO: (_sized(0x10000000, 512 * _MIB), (max(ram_end, 8 * _GIB), (1 << phys_bits) - 1)),
            Space.MEM: ((0x40000000, 0xFBFFFFFF), (4 * _GIB, ram_end - 1)),
            Space.LEGACY_IRQ: ((32, 4095),),
            Space.MSI_IRQ: ((32, 4095),),
            Space.KVM_MEM_SLOT: ((0, U32_MAX),),
            Space.MAC: (_MACS,),
        },
        reserved=(
            Reserved(Space.MMIO, *_sized(0x09050000, 64 * 1024), "PCI I/O window"),
            Reserved(Space.MMIO, *_sized(0x30000000, 256 * _MIB), "ECAM"),
        ),
    )


def crosvm_x86_64(phys_bits: int, ram_end: int) -> Platform:
    """MSIs come out of the lines' pool. MMIO above RAM leaves two ECAMs (64 MiB each) and ends by 2**46 (with so
    much RAM there is none)."""
    return Platform(
        name="crosvm-x86_64",
        pools={
            Space.PIO: ((0xC000, 0xFFFF),),
            Space.MMIO: _within(min(phys_bits, 46), (0xD0000000, 0xF7FFFFFF), (ram_end + 128 * _MIB, U64_MAX)),
            Space.MEM: ((0, 0xCFFFFFFF), (4 * _GIB, ram_end - 1)),
            Space.LEGACY_IRQ: ((9, 1023),),
            Space.KVM_MEM_SLOT: (_KVM_SLOTS,),
            Space.MAC: (_MACS,),
        },
        reserved=(
            Reserved(Space.LEGACY_IRQ, 3, 4, "serial"),
            Reserved(Space.LEGACY_IRQ, 5, 5, "SCI"),
            Reserved(Space.LEGACY_IRQ, 8, 8, "RTC"),
            Reserved(Space.MMIO, 0xF4000000, 0xF7FFFFFF, "ECAM"),
            Reserved(Space.MMIO, 0xF8000000, 0xFFFFFFFF, "platform devices"),
        ),
        joined={Space.MSI_IRQ: Space.LEGACY_IRQ},
    )


def crosvm_aarch64(phys_bits: int, ram_end: int) -> Platform:
    """MSIs come out of the lines' pool. No I/O ports. MMIO above RAM begins 1 GiB after it."""
    return Platform(
        name="crosvm-aarch64",
        pools={
            Space.MMIO: (_sized(0x02000000, 32 * _MIB), (ram_end + _GIB, (1 << phys_bits) - 1)),
            Space.MEM: ((0x80000000, ram_end - 1),),
            Space.LEGACY_IRQ: ((4, 1023),),
            Space.KVM_MEM_SLOT: (_KVM_SLOTS,),
            Space.MAC: (_MACS,),
        },
        reserved=(Reserved(Space.MMIO, *_sized(0x10000, 16 * _MIB), "PCI CAM"),),
        joined={Space.MSI_IRQ: Space.LEGACY_IRQ},
    )


def firecracker_x86_64(phys_bits: int, ram_end: int) -> Platform:
    """No I/O ports to give. RAM leaves 3-4 GiB and 256-512 GiB to MMIO. ``ram_end`` is not used."""
    return Platform(
        name="firecracker-x86_64",
        pools={
            Space.MMIO: _within(phys_bits, (0xC0001000, 0xEEBFFFFF), _HIGH_MMIO),
            Space.MEM: _within(phys_bits, (0, 3 * _GIB - 1), (4 * _GIB, 256 * _GIB - 1), (512 * _GIB, U64_MAX)),
            Space.LEGACY_IRQ: ((5, 23),),
            Space.MSI_IRQ: ((24, 4095),),
            Space.KVM_MEM_SLOT: (_KVM_SLOTS,),
            Space.MAC: (_MACS,),
        },
        reserved=(
            Reserved(Space.PIO, 0x3F8, 0x3FF, "serial"),
            Reserved(Space.PIO, 0xCF8, 0xCFF, "PCI config"),
            Reserved(Space.MMIO, 0xC0000000, 0xC0000FFF, "boot timer"),
            Reserved(Space.MMIO, *_sized(0xEEC00000, 256 * _MIB), "ECAM"),
            _IOAPIC,
            _LAPIC,
            Reserved(Space.MMIO, *_sized(0xFFFBD000, 12 * 1024), "TSS"),
        ),
    )


def firecracker_aarch64(phys_bits: int, ram_end: int) -> Platform:
    """Lines 0-95 are the GSIs of SPI 32-127. No I/O ports. ``ram_end`` is not used."""
    return Platform(
        name="firecracker-aarch64",
        pools={
            Space.MMIO: _within(phys_bits, (0x40003000, 0x6FFFFFFF), _HIGH_MMIO),
            Space.MEM: _within(phys_bits, (2 * _GIB, 256 * _GIB - 1), (512 * _GIB, U64_MAX)),
            Space.LEGACY_IRQ: ((0, 95),),
            Space.MSI_IRQ: ((96, 4095),),
            Space.KVM_MEM_SLOT: (_KVM_SLOTS,),
            Space.MAC: (_MACS,),
        },
        reserved=(Reserved(Space.MMIO, *_sized(0x70000000, 256 * _MIB), "ECAM"),),
    )


_PROFILES: dict[str, Callable[[int, int], Platform]] = {
    "x86_64": x86_64,
    "aarch64": aarch64,
    "dragonball-x86_64": dragonball_x86_64,
    "dragonball-aarch64": dragonball_aarch64,
    "cloud-hypervisor-x86_64": cloud_hypervisor_x86_64,
    "cloud-hypervisor-aarch64": cloud_hypervisor_aarch64,
    "crosvm-x86_64": crosvm_x86_64,
    "crosvm-aarch64": crosvm_aarch64,
    "firecracker-x86_64": firecracker_x86_64,
    "firecracker-aarch64": firecracker_aarch64,
}


def names() -> list[str]:
    """The shipped profiles."""
    return list(_PROFILES)


def get(name: str, *, phys_bits: int | None = None, ram_end: int | None = None) -> Platform:
    """A shipped profile.

    Args:
        name: one of ``names()``.
        phys_bits: the guest's physical address width, 36 to 52; by default 46 on x86_64 and 40 on aarch64.
        ram_end: the first address above all guest memory, for the peers that lay MMIO out behind it; more than 4 GiB
            and at least 2 GiB below the end of the address space. By default 256 GiB, or half of a smaller space.

    Raises:
        InvalidPlatform: an unknown name (the message offers the known ones) or a width or end outside these ranges.
    """
    if name not in _PROFILES:
        raise InvalidPlatform(f"no platform profile {name!r:.80}; {suggestion(name, _PROFILES)}")
    bits = phys_bits if phys_bits is not None else (40 if name.endswith("aarch64") else 46)
    if type(bits) is not int or not 36 <= bits <= 52:
        raise InvalidPlatform(f"{name}: phys_bits {shown(bits, 'd')} is outside 36-52")
    end = ram_end if ram_end is not None else min(256 * _GIB, 1 << (bits - 1))
    end_max = (1 << bits) - 2 * _GIB
    if type(end) is not int or not 4 * _GIB < end <= end_max:
        raise InvalidPlatform(f"{name}: ram_end {shown(end)} is outside {4 * _GIB + 1:#x}-{end_max:#x}")
    return _PROFILES[name](bits, end)


def _sized(base: int, size: int) -> Range:
    return base, base + size - 1


def _within(phys_bits: int, *parts: Range) -> tuple[Range, ...]:
    """The parts, as far as addresses of so many bits reach."""
    top = (1 << phys_bits) - 1
    return tuple((first, min(last, top)) for first, last in parts if first <= min(last, top))
