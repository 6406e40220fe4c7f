"""Importing a machine: its layout as devices, and only the difference the second time."""

import shutil
from pathlib import Path

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
        assert {("msi_irq", base, base) for _, base, _ in node.msis} <= held


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
