"""A small log that every command is asked about, and a way to ask: in this process, with its exit code and output.

The VM web-1 has a network card that moved, a bridge with a disk behind it, a device that was refused, memory that never
got further than being allocated, and an unplug that the guest refused with text that would turn a terminal red.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

import pytest

from esrm.core.events import Move
from esrm.core.resources import (
    KvmMemSlotConstraint,
    LegacyIrqConstraint,
    MacAddressConstraint,
    MemConstraint,
    MmioAddressRange,
    MmioConstraint,
    PciMsixIrqConstraint,
)
from esrm.errors import NoSpace
from esrm.manager import ResourceManager, acting
from esrm.opening import open_store

HEAD = 24
SEVEN = 1_795_330_800_000_000_000  # 2026-11-22T07:00:00Z; each step of the story takes a second


class Answer(NamedTuple):
    """What a command said."""

    code: int
    out: str
    err: str

    @property
    def masked(self) -> str:
        """Its output, with what is different every time as <id> and <hash>."""
        text = re.sub(r"[0-9a-f]{8}-[0-9a-f]{4}-7[0-9a-f]{3}-[0-9a-f]{4}-[0-9a-f]{12}", "<id>", self.out)
        return re.sub(r"\b[0-9a-f]{64}\b", "<hash>", text)


Ask = Callable[..., Answer]


def clock() -> Callable[[], int]:
    """Seven in the morning, then a second later, and so on."""
    ticks: Iterator[int] = iter(range(SEVEN, SEVEN + 10**15, 10**9))
    return lambda: next(ticks)


async def tell(path: Path) -> None:
    """Write the story; every revision is named in the tests, so a step more at its end moves only the head."""
    async with (
        open_store(f"sqlite:{path}") as store,
        ResourceManager(store, vm="web-1", platform="x86_64", actor="vmm", clock=clock()) as vm,
    ):
        with acting(correlation="boot"):
            await arrive(vm, "net0", "virtio-net", MmioConstraint(0x1000), LegacyIrqConstraint())  # 1-5
            await arrive(vm, "bridge0", "pci-bridge", MmioConstraint(0x10000, align=0x10000))  # 6-10
            nvme = MmioConstraint(0x4000, align=0x4000), PciMsixIrqConstraint(4)
            await arrive(vm, "nvme0", "nvme", *nvme, parent="bridge0")  # 11-15
        await vm.create("big0", parent="bridge0")  # 16
        await vm.declare("big0", [MmioConstraint(0x10000, align=0x10000)])  # 17
        with pytest.raises(NoSpace):
            await vm.allocate("big0")  # 18
        await vm.create("ram0", kind="memory")  # 19
        await vm.declare("ram0", [MemConstraint(0x100000), KvmMemSlotConstraint(2), MacAddressConstraint()])  # 20
        await vm.allocate("ram0")  # 21
        with acting(actor="guest", correlation="bar"):
            move = Move("net0", MmioAddressRange(0xC0001000, 0x1000), MmioAddressRange(0xC0002000, 0x1000))
            await vm.move([move])  # 22
        await vm.request_unplug("nvme0")  # 23
        await vm.refuse_unplug("nvme0", reason="busy \x1b[31mdisk")  # 24
        assert vm.state.revision == HEAD


async def arrive(vm: ResourceManager, device: str, kind: str, *wishes: object, parent: str | None = None) -> None:
    """All five steps, without a live device."""
    await vm.create(device, kind=kind, parent=parent)
    await vm.declare(device, wishes)  # type: ignore[arg-type]
    await vm.allocate(device)
    await vm.assign(device)
    await vm.register(device)


async def begin(path: Path, vm: str) -> None:
    """A VM with nothing in it."""
    async with open_store(f"sqlite:{path}") as store, ResourceManager(store, vm=vm, platform="aarch64"):
        pass
