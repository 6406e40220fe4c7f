"""The live devices of ``esrm demo``, and the machine they are in: as small as a device can be.

Read it as an example of what a VMM author writes; ``demo.py`` tells the story.
"""

from __future__ import annotations

from collections.abc import Sequence

from msgspec import structs

from esrm.core import profiles
from esrm.core.platform import Platform
from esrm.core.resources import (
    DeviceResources,
    KvmMemSlotConstraint,
    LegacyIrqConstraint,
    MacAddressConstraint,
    MemConstraint,
    MmioConstraint,
    PciMsiIrqConstraint,
    PciMsixIrqConstraint,
    PioConstraint,
    ResourceConstraint,
    Space,
)


class DemoDevice:
    """A device that asks for what it was made with, and takes what it is given."""

    def __init__(self, name: str, kind: str, *constraints: ResourceConstraint, parent: str | None = None) -> None:
        self.name, self.kind, self.parent = name, kind, parent
        self.resources = DeviceResources()
        self._constraints = constraints

    def constraints(self) -> Sequence[ResourceConstraint]:
        """What it needs."""
        return self._constraints

    async def assign(self, resources: DeviceResources) -> None:
        """Take what was allocated."""
        self.resources = resources


class Serial(DemoDevice):
    """A 16550 of which only the transmit register works: what the guest writes to it is kept."""

    said = b""

    async def pio_read(self, base: int, offset: int, size: int) -> bytes:
        """The line status register (5) says that there is always room (0x60); all else is zero."""
        return (b"\x60" if offset == 5 else b"\0") * size

    async def pio_write(self, base: int, offset: int, data: bytes) -> None:
        """The transmit register is the first one."""
        if offset == 0:
            self.said += data


def platform() -> Platform:
    """The shipped x86_64, but RTC and i8042 are devices here, so their ports and lines are there to be asked for."""
    base = profiles.get("x86_64")
    return structs.replace(
        base,
        name="demo-microvm",
        pools={**base.pools, Space.LEGACY_IRQ: ((1, 1), (4, 23))},
        reserved=tuple(entry for entry in base.reserved if entry.owner not in ("RTC", "i8042")),
    )


def boot_devices() -> list[DemoDevice]:
    """What the machine has when it starts."""
    return [
        DemoDevice("ram0", "memory", MemConstraint(0x1000_0000), KvmMemSlotConstraint()),
        Serial("serial0", "serial", _ports(0x3F8, 8), LegacyIrqConstraint(4)),
        DemoDevice("rtc0", "rtc", _ports(0x70, 2), LegacyIrqConstraint(8)),
        DemoDevice("kbd0", "i8042", _ports(0x60, 1), _ports(0x64, 1), LegacyIrqConstraint(1)),
        DemoDevice("net0", "virtio-net", MmioConstraint(0x1000), LegacyIrqConstraint(), MacAddressConstraint()),
        DemoDevice("blk0", "virtio-blk", MmioConstraint(0x1000), LegacyIrqConstraint()),
    ]


def hotplug_devices() -> list[DemoDevice]:
    """A PCI bridge with a window of 64 KiB, and more behind it than fits: the last one is refused."""
    return [
        DemoDevice("pci0", "pci-bridge", MmioConstraint(0x10000, align=0x10000)),
        DemoDevice("nic1", "pci-net", _bar(0x4000), PciMsixIrqConstraint(4), MacAddressConstraint(), parent="pci0"),
        DemoDevice("nvme0", "nvme", _bar(0x4000), PciMsixIrqConstraint(8), parent="pci0"),
        DemoDevice("usb0", "xhci", _bar(0x4000), PciMsiIrqConstraint(4), parent="pci0"),
        DemoDevice("nvme1", "nvme", _bar(0x8000), PciMsixIrqConstraint(16), parent="pci0"),
    ]


def late_device() -> DemoDevice:
    """The one during whose arrival the process dies."""
    return DemoDevice("rng0", "virtio-rng", MmioConstraint(0x1000), LegacyIrqConstraint())


def _ports(first: int, size: int) -> PioConstraint:
    """Exactly these ports."""
    return PioConstraint(size, range=(first, first + size - 1), policy="exact")


def _bar(size: int) -> MmioConstraint:
    """A PCI memory BAR: a power of two, aligned to itself."""
    return MmioConstraint(size, align=size)
