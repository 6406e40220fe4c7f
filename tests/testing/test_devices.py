"""The fake device keeps the contract, and the check tells a device that does not."""

import subprocess
import sys

import pytest

import esrm
from esrm.testing import FakeDevice, check_device

WISHES = [esrm.MmioConstraint(0x1000), esrm.PioConstraint(8), esrm.LegacyIrqConstraint()]


async def test_the_fake_keeps_the_contract() -> None:
    """A fake is worth something only if it does what a device must."""
    await check_device(lambda: FakeDevice("net0", WISHES))


async def test_a_device_inside_another_one_is_checked_there() -> None:
    """Its author need not build what it lives in."""
    await check_device(lambda: FakeDevice("net0", WISHES, parent="br"))


async def test_the_fake_is_reached_by_the_guest() -> None:
    """What the guest writes at an address can be read back there, and stands at the offset inside the range."""
    async with esrm.open_store("memory:") as store, esrm.ResourceManager(store, vm="v", platform="x86_64") as vm:
        device = FakeDevice("net0", WISHES)
        resources = await vm.attach(device)
        (base, _), (port, _) = resources.mmio_address_ranges()[0], resources.pio_address_ranges()[0]
        await vm.mmio_write(base + 0x10, b"\x2a\x2b")
        await vm.pio_write(port + 1, b"\x07")
        assert await vm.mmio_read(base + 0xF, 4) == b"\x00\x2a\x2b\x00"
        assert await vm.pio_read(port, 2) == b"\x00\x07"
        mmio, pio = esrm.Space.MMIO, esrm.Space.PIO
        assert device.registers == {(mmio, base, 0x10): 0x2A, (mmio, base, 0x11): 0x2B, (pio, port, 1): 7}


async def test_the_fakes_ports_are_no_addresses() -> None:
    """What is written to port 0 does not appear at address 0, where both spaces begin there."""
    device = FakeDevice("net0")
    await device.pio_write(0, 0, b"U")
    assert await device.mmio_read(0, 0, 1) == b"\0"
    assert await device.pio_read(0, 0, 1) == b"U"


async def test_the_fake_says_no_once() -> None:
    """A refused assignment gives everything back; the next one is taken."""
    async with esrm.open_store("memory:") as store, esrm.ResourceManager(store, vm="v", platform="x86_64") as vm:
        device = FakeDevice("net0", WISHES)
        device.refusal = RuntimeError("no firmware")
        with pytest.raises(RuntimeError, match="no firmware"):
            await vm.attach(device)
        assert device.resources is None
        assert not vm.state.device("net0").allocated
        assert await vm.attach(device) == device.resources


async def test_a_device_that_changes_its_mind_is_told() -> None:
    """Constraints that differ from one making to the next would lose a device its addresses at a restart."""
    sizes = iter([0x1000, 0x2000, 0x3000, 0x4000])
    with pytest.raises(AssertionError, match="asks for something else"):
        await check_device(lambda: FakeDevice("net0", [esrm.MmioConstraint(next(sizes))]))


async def test_half_a_device_is_told() -> None:
    """A device that reads must also write."""

    class Deaf(FakeDevice):
        mmio_write = None

    with pytest.raises(AssertionError, match="has mmio_read, but no mmio_write"):
        await check_device(lambda: Deaf("net0", WISHES))


NO_DEVICE = "import anyio; from esrm.testing import check_device; anyio.run(check_device, lambda: 7)"


def test_a_check_holds_without_assertions() -> None:
    """``python -O`` leaves out each ``assert``, and not this."""
    told = subprocess.run([sys.executable, "-O", "-c", NO_DEVICE], capture_output=True, text=True, check=False)
    assert "AssertionError: 7 lacks a name, a kind, constraints() or an async assign()" in told.stderr
