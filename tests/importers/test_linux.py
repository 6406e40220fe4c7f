"""Importing a machine: its layout as devices, and only the difference the second time."""

import shutil
from pathlib import Path
from typing import Any

import pytest

import esrm
from esrm.importers.layout import layout
from esrm.importers.linux import import_machine
from esrm.importers.proc import read_machine

MACHINES = Path(__file__).parent / "machines"
NAMES = sorted(folder.name for folder in MACHINES.iterdir() if folder.is_dir())


@pytest.mark.parametrize("machine", NAMES)
async def test_every_machine_is_recorded_whole(machine: str) -> None:
    """Each range, line and message of the layout is held by the device of its name, and bus and ledgers accept it."""
    async with esrm.open_store("memory:") as store:
        imported = await import_machine(store, vm=machine, root=MACHINES / machine)
        state = await esrm.History(store, machine).at()
    nodes = layout(read_machine(MACHINES / machine))
    assert list(imported.added) == [node.name for node in nodes]
    assert state.allocator.usage()
    for node in nodes:
        device = state.device(node.name)
        held = {(space.value, first, last) for space, first, last in map(esrm.span, device.allocated)}
        assert device.phase is esrm.Phase.REGISTERED
        assert device.parent == node.parent
        for space, first, last in node.ranges:
            pieces = sorted((a, b) for where, a, b in held if where == space and first <= a and b <= last)
            assert (pieces[0][0], pieces[-1][1]) == (first, last)
        assert {("legacy_irq", line, line) for line in node.irqs} <= held
        messages = [(first, last) for space, first, last in held if space == "msi_irq"]
        assert all(any(first <= base <= last for first, last in messages) for _, base, _ in node.msis)


@pytest.mark.parametrize("machine", NAMES)
async def test_an_unchanged_machine_records_nothing(machine: str) -> None:
    """Importing twice leaves the log as it was."""
    async with esrm.open_store("memory:") as store:
        first = await import_machine(store, vm=machine, root=MACHINES / machine)
        second = await import_machine(store, vm=machine, root=MACHINES / machine)
    assert not second
    assert second.revision == first.revision


async def test_a_hot_plug_records_only_the_difference(tmp_path: Path) -> None:
    """A card appears and goes again: two devices come, two go, and the rest keep the events that made them."""
    async with esrm.open_store(f"sqlite:{tmp_path / 'machine.db'}") as store:
        before = await import_machine(store, vm="q35", root=MACHINES / "q35")
        plugged = await import_machine(store, vm="q35", root=MACHINES / "q35-hotplug")
        assert set(plugged.added) == {"0000:02:00.0", "0000:02:00.0/virtio-pci-modern"}
        assert (plugged.removed, plugged.changed, plugged.rebuilt) == ((), (), ())
        history = esrm.History(store, "q35")
        records = await history.log(since=before.revision + 1)
        touched = {name for record in records for name in esrm.devices_of(record.event)}
        assert touched == set(plugged.added)
        unplugged = await import_machine(store, vm="q35", root=MACHINES / "q35")
        assert unplugged.removed == plugged.added
        assert not await history.diff(before.revision, "@")


async def test_what_lies_inside_a_changed_range_is_rebuilt_with_it(tmp_path: Path) -> None:
    """A bus whose window shrinks is changed; the cards behind it are released and allocated again, and said to be."""
    shutil.copytree(MACHINES / "cloud-vm", tmp_path / "m")
    iomem = tmp_path / "m" / "proc" / "iomem"
    async with esrm.open_store("memory:") as store:
        await import_machine(store, root=tmp_path / "m")
        iomem.write_text(iomem.read_text().replace("4000000000-7fffffffff", "4000000000-6fffffffff"))
        again = await import_machine(store, root=tmp_path / "m")
    assert again.changed == ("PCI Bus 0000:00",)
    assert "0000:00:01.0" in again.rebuilt
    assert again.removed == again.added == ()


async def test_an_import_cut_short_is_taken_up_again() -> None:
    """A device that did not get to the end of the five steps counts as different."""
    async with esrm.open_store("memory:") as store:
        await import_machine(store, root=MACHINES / "microvm")
        async with esrm.ResourceManager(store, vm="linux") as manager:
            leaf = next(d.name for d in manager.state.walk(reverse=True))
            await manager.unregister(leaf)
            await manager.release(leaf)
        again = await import_machine(store, root=MACHINES / "microvm")
    assert again.changed == (leaf,)


@pytest.mark.parametrize("records_max", [10_000, 12])
async def test_a_disk_that_fails_leaves_what_the_next_import_takes_up(
    records_max: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A machine is one append, which stands whole or not at all; of more than one, the next import does the rest."""
    monkeypatch.setattr("esrm.importers.linux.BATCH_RECORDS_MAX", records_max)
    async with esrm.open_store("memory:") as store:
        append, answers = store.append, iter([True, records_max == 12])  # the VM begins, and then the machine

        async def failing(vm: str, drafts: Any, *, expected: int) -> Any:
            if not next(answers, False):
                raise esrm.StoreError("the disk is full")
            return await append(vm, drafts, expected=expected)

        with monkeypatch.context() as patch:
            patch.setattr(store, "append", failing)
            with pytest.raises(esrm.StoreError, match="full"):
                await import_machine(store, vm="cut", root=MACHINES / "microvm")
        assert await store.head() == (13 if records_max == 12 else 1)
        await import_machine(store, vm="cut", root=MACHINES / "microvm")
        await import_machine(store, vm="whole", root=MACHINES / "microvm")
        cut, whole = [(await esrm.History(store, vm).at()).devices for vm in ("cut", "whole")]
    assert cut == whole


IMPOSSIBLE = {
    "one message of two": ("", "5: 0 PCI-MSI-0000:00:01.0 0-edge a\n5: 0 PCI-MSI-0000:00:02.0 0-edge a\n"),
    "more than goes into one event": ("".join(f"{n << 48:x}-{(n + 1 << 48) - 1:x} : a\n" for n in range(1, 700)), ""),
}


@pytest.mark.parametrize(("iomem", "interrupts"), IMPOSSIBLE.values(), ids=IMPOSSIBLE)
@pytest.mark.parametrize("before", [None, "microvm"], ids=["a new VM", "one imported before"])
async def test_what_cannot_be_is_refused_and_nothing_is_recorded(
    tmp_path: Path, iomem: str, interrupts: str, before: str | None
) -> None:
    """Nor is the rest of the machine, which could be, nor does a VM begin."""
    (tmp_path / "iomem").write_text(f"00-0f : Reserved\n{iomem}")
    (tmp_path / "interrupts").write_text(f"CPU0\n{interrupts}")
    async with esrm.open_store("memory:") as store:
        if before:
            await import_machine(store, root=MACHINES / before)
        head = await store.head()
        with pytest.raises(esrm.Refused, match=r"5 is held by 0000:00:01\.0|takes .* bytes"):
            await import_machine(store, root=tmp_path)
        assert await store.head() == head


async def test_what_others_did_to_the_vm_may_be_in_the_way(tmp_path: Path) -> None:
    """Somebody moved a line to where the machine now has another: refused, and nothing is recorded."""
    lines = tmp_path / "interrupts"
    async with esrm.open_store("memory:") as store:
        lines.write_text("CPU0\n5: 0 IO-APIC 5-edge a\n")
        await import_machine(store, root=tmp_path)
        async with esrm.ResourceManager(store, vm="linux") as manager:
            await manager.move([esrm.Move("a", esrm.LegacyIrq(5), esrm.LegacyIrq(6))])
        lines.write_text("CPU0\n5: 0 IO-APIC 5-edge a\n6: 0 IO-APIC 6-edge b\n")
        head = await store.head()
        with pytest.raises(esrm.AddressConflict, match="b: legacy_irq 6 is held by a"):
            await import_machine(store, root=tmp_path)
        assert await store.head() == head


async def test_a_window_across_the_middle_of_all_ports(tmp_path: Path) -> None:
    """All 0x10000 ports are recorded as two ranges, and so is whatever would lie in both."""
    (tmp_path / "ioports").write_text(
        "0000-ffff : PCI Bus 0000:00\n  7000-8fff : PCI Bus 0000:01\n    7f00-80ff : 0000:01:00.0\n    8100-81ff : b\n"
    )
    async with esrm.open_store("memory:") as store:
        await import_machine(store, root=tmp_path)
        state = await esrm.History(store, "linux").at()
    assert {device.name: device.resources.pio_address_ranges() for device in state.walk()} == {
        "PCI Bus 0000:00": [(0, 0x8000), (0x8000, 0x8000)],
        "PCI Bus 0000:01": [(0x7000, 0x1000), (0x8000, 0x1000)],
        "0000:01:00.0": [(0x7F00, 0x100), (0x8000, 0x100)],
        "b": [(0x8100, 0x100)],
    }


async def test_a_window_beyond_the_last_port(tmp_path: Path) -> None:
    """What is above 0xffff is left out and told; what is below stays, so that what lies inside has where to lie."""
    (tmp_path / "ioports").write_text(
        "1000-1fff : PCI Bus 0001:00\n8000-17fff : PCI Bus 0001:00\n  9000-9fff : PCI Bus 0001:01\n"
    )
    async with esrm.open_store("memory:") as store:
        done = await import_machine(store, root=tmp_path)
        state = await esrm.History(store, "linux").at()
    assert done.skipped == ("PCI Bus 0001:00: pio 0x10000-0x17fff is above 0xffff",)
    assert {device.name: device.resources.pio_address_ranges() for device in state.walk()} == {
        "PCI Bus 0001:00": [(0x1000, 0x1000), (0x8000, 0x8000)],
        "PCI Bus 0001:01": [(0x9000, 0x1000)],
    }


async def test_a_range_that_no_constraint_holds_is_named(tmp_path: Path) -> None:
    """All 2**64 bytes as one range do not fit the ancestor's sizes: the refusal says whose they are."""
    (tmp_path / "iomem").write_text("0000000000000000-ffffffffffffffff : PCI Bus 0000:00\n")
    async with esrm.open_store("memory:") as store:
        with pytest.raises(esrm.InvalidConstraint, match=r"^PCI Bus 0000:00: MmioConstraint.size: "):
            await import_machine(store, root=tmp_path)


async def test_as_many_messages_as_pci_allows(tmp_path: Path) -> None:
    """2,048 are one group; one more, a gap or another type begins another, and MSI has groups of its own."""
    modes = {**dict.fromkeys([*range(30, 2079), 2080, 2081], "msix"), 2082: "msi", 2083: "msi"}
    messages = tmp_path / "pci" / "0000:00:01.0" / "msi_irqs"
    messages.mkdir(parents=True)
    for number, mode in modes.items():
        (messages / str(number)).write_text(f"{mode}\n")
    async with esrm.open_store("memory:") as store:
        await import_machine(store, root=tmp_path)
        state = await esrm.History(store, "linux").at()
    held = [esrm.span(resource)[1:] for resource in state.device("0000:00:01.0").allocated]
    assert held == [(30, 2077), (2078, 2078), (2080, 2081), (2082, 2082), (2083, 2083)]


async def test_zeros_are_refused_and_nothing_is_recorded(tmp_path: Path) -> None:
    """What an ordinary user sees is not a layout; the message says why, and no VM begins."""
    (tmp_path / "iomem").write_text("00000000-00000000 : System RAM\n00000000-00000000 : PCI Bus 0000:00\n")
    async with esrm.open_store("memory:") as store:
        with pytest.raises(esrm.Refused, match="root"):
            await import_machine(store, root=tmp_path)
        assert await store.head() == 0


async def test_another_vm_is_left_alone() -> None:
    """The import goes into a VM of its own: one that lives on another platform is refused."""
    async with esrm.open_store("memory:") as store:
        async with esrm.ResourceManager(store, vm="web-1", platform="x86_64"):
            pass
        with pytest.raises(esrm.InvalidPlatform, match="x86_64"):
            await import_machine(store, vm="web-1", root=MACHINES / "microvm")
        assert await store.head() == 1
