"""Write a golden log: one VM's records, and the state that they lead to. It writes new files, and never over old ones.

``python tools/golden.py v1`` makes ``schemas/golden/v1.jsonl`` and ``schemas/golden/v1.state.json``; what stands in
them, and why they are for ever, is in ``schemas/golden/README.md``. The story below has every event, constraint and
resource in it. A release that writes something new adds to the story and writes the next pair; the pairs before it
stay as they are, and ``tests/schemas/test_golden.py`` replays them all.
"""

from __future__ import annotations

import json
import sys
from contextlib import suppress
from itertools import count
from pathlib import Path
from typing import Any

import anyio
import msgspec

import esrm
from esrm import (
    GenericIrqConstraint,
    KvmMemSlotConstraint,
    LegacyIrqConstraint,
    MacAddressConstraint,
    MemConstraint,
    MmioAddressRange,
    MmioConstraint,
    Move,
    PciMsiIrqConstraint,
    PciMsixIrqConstraint,
    Phase,
    PioConstraint,
    ResourceConstraint,
    ResourceManager,
    Space,
    acting,
)

FOLDER = Path(__file__).parent.parent / "schemas" / "golden"
VM = "golden-1"
U64_MAX = 2**64 - 1

PLATFORM = esrm.Platform(
    "golden",
    pools={
        Space.PIO: ((0x100, 0xFFFF),),
        Space.MMIO: ((0xD000_0000, 0xD00F_FFFF), (0x40_0000_0000, U64_MAX)),
        Space.MEM: ((0, 0xBFFF_FFFF), (0x1_0000_0000, U64_MAX)),
        Space.LEGACY_IRQ: ((5, 1023),),
        Space.KVM_MEM_SLOT: ((0, 508),),
        Space.MAC: ((0x02_00_00_00_00_00, 0x02_00_00_00_00_FF),),
    },
    reserved=(
        esrm.Reserved(Space.MMIO, 0xD000_0000, 0xD000_0FFF, "boot timer"),
        esrm.Reserved(Space.PIO, 0xCF8, 0xCFF, "PCI config"),
    ),
    shared_irq=4,
    policy="first",
    joined={Space.MSI_IRQ: Space.LEGACY_IRQ},
)


# -- the story --------------------------------------------------------------------------------------------------------


async def story(vm: ResourceManager, other: ResourceManager) -> None:
    """A life with everything in it; at its end a device stands in each phase. ``other`` only moves the positions."""
    with acting("vmm", "boot"):
        port, line = PioConstraint(8, (0x3F8, 0x3FF), policy="exact"), LegacyIrqConstraint(shared=True)
        await _bring(vm, "serial0", port, line)
        await _bring(vm, "serial1", PioConstraint(8, (0x2F8, 0x2FF), 8), line)
        await _bring(vm, "ram", MemConstraint(0x8000_0000), KvmMemSlotConstraint(2), KvmMemSlotConstraint(1, slot=508))
        window = MmioConstraint(2**32, align=2**32, policy="last")
        await _bring(vm, "top", MemConstraint(0x1000, policy="last"), window)
        await _bring(vm, "bridge", MmioConstraint(0x10_000), PciMsiIrqConstraint(2), kind="pci-bridge")
    await other.create("elsewhere")
    with acting("alice", "ticket-7"):
        card = [
            MmioConstraint(0x1000),
            PciMsixIrqConstraint(33),
            PciMsiIrqConstraint(4, base=64),
            GenericIrqConstraint(3),
            MacAddressConstraint(),
            LegacyIrqConstraint(11),
        ]
        await _bring(vm, "bridge/net0", *card, kind="virtio-net", parent="bridge")
        await _bring(vm, "bridge/net1", MmioConstraint(0x800, align=0x800), phase=Phase.ALLOCATED, parent="bridge")
        low, high = (vm.state.device(f"bridge/net{n}").allocated[0] for n in (0, 1))
        assert isinstance(low, MmioAddressRange)
        assert isinstance(high, MmioAddressRange)
        await vm.move([Move("bridge/net0", low, MmioAddressRange(high.base + 0x1000, 0x1000))])
        await vm.move([Move("bridge/net1", high, MmioAddressRange(low.base, 0x800))])
    with acting("Zo\u00eb \U0001f427"):
        await _refused(vm, "\u00fcber", MmioConstraint(0x10_0000, (0xD000_0000, 0xD00F_FFFF)))
        await _refused(vm, "later", PioConstraint(8, (0xCF8, 0xCFF), policy="exact"))
        await _refused(vm, "beyond", LegacyIrqConstraint(3))
        await _refused(vm, "late", LegacyIrqConstraint(11))
        await vm.declare("late", [LegacyIrqConstraint(500), MacAddressConstraint("52:54:00:AB:cd:ef")])
        await vm.allocate("late")
        await vm.assign("late")
    await other.create("elsewhere too")
    await vm.request_unplug("serial0")
    await vm.refuse_unplug("serial0", reason='in use by "getty"\nand others')
    await vm.request_unplug("serial0")
    await vm.unregister("serial0")
    await vm.release("serial0", reason="assign failed: OSError(5, 'Input/output error')")
    await vm.remove("serial0")
    await _bring(vm, "serial0", PioConstraint(8), phase=Phase.UNPLUGGING, kind="another one")
    await vm.create("unborn")


async def _bring(
    vm: ResourceManager,
    device: str,
    *constraints: ResourceConstraint,
    phase: Phase = Phase.REGISTERED,
    kind: str = "",
    parent: str | None = None,
) -> None:
    """Through the steps, up to a phase."""
    await vm.create(device, kind=kind, parent=parent)
    await vm.declare(device, constraints)
    for step in (vm.allocate, vm.assign, vm.register, vm.request_unplug):
        if vm.state.device(device).phase is not phase:
            await step(device)


async def _refused(vm: ResourceManager, device: str, *constraints: ResourceConstraint) -> None:
    await vm.create(device)
    await vm.declare(device, constraints)
    with suppress(esrm.Refused):
        await vm.allocate(device)
    assert vm.state.device(device).phase is Phase.DECLARED


# -- the files --------------------------------------------------------------------------------------------------------


def state_document(state: esrm.VmState) -> dict[str, Any]:
    """A state as plain JSON: what is true after the last record. Its form is in ``schemas/golden/README.md``."""
    document = {
        "revision": state.revision,
        "platform": state.platform,
        "devices": [
            {
                "name": device.name,
                "kind": device.kind,
                "parent": device.parent,
                "phase": device.phase.value,
                "constraints": device.constraints,
                "resources": device.allocated,
            }
            for device in state.devices.values()
        ],
    }
    return msgspec.json.decode(msgspec.json.encode(document))


async def tell() -> tuple[str, str]:
    """The story, as the text of the two files."""
    ticks = count(1_795_000_000_000_000_000, 1_234_567_891)
    async with (
        esrm.open_store("memory:") as store,
        ResourceManager(store, vm="another", platform="x86_64") as other,
        ResourceManager(store, vm=VM, platform=PLATFORM, clock=lambda: next(ticks)) as vm,
    ):
        await story(vm, other)
        records = await esrm.History(store, VM).log()
        log = "".join(f"{msgspec.json.encode(record).decode()}\n" for record in records)
        return log, json.dumps(state_document(vm.state), indent=2, ensure_ascii=False) + "\n"


def main(arguments: list[str]) -> int:
    """Write the pair that is named; the exit code is 1, and nothing is written, when a file of that name is there."""
    if len(arguments) != 1:
        print("usage: golden.py NAME, such as v1", file=sys.stderr)
        return 2
    paths = [FOLDER / f"{arguments[0]}{ending}" for ending in (".jsonl", ".state.json")]
    for path in paths:
        if path.exists():
            print(f"{path} is there already, and a golden log is for ever: choose the next name", file=sys.stderr)
            return 1
    FOLDER.mkdir(exist_ok=True)
    for path, text in zip(paths, anyio.run(tell), strict=True):
        path.write_text(text, "utf-8")
        print(f"wrote {path}")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
