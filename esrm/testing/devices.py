"""A device that keeps the contract, for tests of a VMM; and the contract as a check, for devices of one's own.

The fake answers guest I/O from a few bytes of registers, and says no when it is told to. Separate from ``stores.py``,
which knows no devices. Next: ``esrm/devices.py``, the contract in words.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence

from esrm.core.platform import Platform
from esrm.core.resources import DeviceResources, ResourceConstraint, Space, span
from esrm.devices import Device
from esrm.manager import ResourceManager
from esrm.opening import open_store


class FakeDevice:
    """A device of any kind with any constraints. It remembers what it was given and what the guest wrote.

    Attributes:
        resources: what it was last assigned; None before that.
        registers: what the guest wrote, by (space, base of the range, offset); what it did not write reads as zero.
        refusal: raised by the next ``assign``, if set, which also clears it.
    """

    def __init__(
        self,
        name: str,
        constraints: Iterable[ResourceConstraint] = (),
        *,
        kind: str = "fake",
        parent: str | None = None,
    ) -> None:
        self.name = name
        self.kind = kind
        self.parent = parent
        self.resources: DeviceResources | None = None
        self.registers: dict[tuple[Space, int, int], int] = {}
        self.refusal: Exception | None = None
        self._constraints = tuple(constraints)

    def __repr__(self) -> str:
        return f"<FakeDevice {self.name}: {self.resources or 'nothing assigned'}>"

    def constraints(self) -> Sequence[ResourceConstraint]:
        """What it was made with."""
        return self._constraints

    async def assign(self, resources: DeviceResources) -> None:
        """Take the resources, or raise ``refusal``."""
        if self.refusal is not None:
            refusal, self.refusal = self.refusal, None
            raise refusal
        self.resources = resources

    async def pio_read(self, base: int, offset: int, size: int) -> bytes:
        """The registers, zero where nothing was written."""
        return self._read(Space.PIO, base, offset, size)

    async def pio_write(self, base: int, offset: int, data: bytes) -> None:
        """Keep the bytes."""
        self._write(Space.PIO, base, offset, data)

    async def mmio_read(self, base: int, offset: int, size: int) -> bytes:
        """The registers, zero where nothing was written."""
        return self._read(Space.MMIO, base, offset, size)

    async def mmio_write(self, base: int, offset: int, data: bytes) -> None:
        """Keep the bytes."""
        self._write(Space.MMIO, base, offset, data)

    def _read(self, space: Space, base: int, offset: int, size: int) -> bytes:
        return bytes(self.registers.get((space, base, offset + index), 0) for index in range(size))

    def _write(self, space: Space, base: int, offset: int, data: bytes) -> None:
        for index, byte in enumerate(data):
            self.registers[space, base, offset + index] = byte


async def check_device(make: Callable[[], Device], *, platform: str | Platform = "x86_64") -> None:
    """Check that a device can live with a manager: attach, answer, detach, and the same again after a restart.

    If it has a ``parent``, a ``FakeDevice`` of that name is attached before it.

    Args:
        make: gives a new device object, the same device each time, as a restarted VMM would.
        platform: where its constraints can be met.

    Raises:
        AssertionError: says what the device did wrong. What the device or the manager raises comes through.
    """
    device = make()
    kept = isinstance(device, Device)  # pyright: ignore[reportUnnecessaryIsInstance]  not every caller has types
    _expect(kept, f"{device!r} lacks a name, a kind, constraints() or an async assign()")
    wishes = tuple(device.constraints())
    _expect(wishes == tuple(make().constraints()), f"{device.name} asks for something else when it is made anew")
    _expect(wishes == tuple(device.constraints()), f"{device.name} asks for something else the second time")
    async with open_store("memory:") as store:
        async with ResourceManager(store, vm="check", platform=platform) as vm:
            if parent := getattr(device, "parent", None):
                await vm.attach(FakeDevice(parent))
            first = await vm.attach(device)
            for space, base, _ in map(span, first):
                await _check_answer(vm, device, space, base)
        async with ResourceManager(store, vm="check") as vm:
            again = await vm.attach(make())
            _expect(again == first, f"{device.name} held {first} before a restart and {again} after it")
            await vm.detach(device.name)
            _expect(await vm.attach(make()) == first, f"{device.name} did not give back what it held")


async def _check_answer(vm: ResourceManager, device: Device, space: Space, base: int) -> None:
    for access in ("read", "write"):
        if space in (Space.PIO, Space.MMIO) and hasattr(device, f"{space.value}_read"):
            method = getattr(device, f"{space.value}_{access}", None)
            _expect(bool(method), f"{device.name} has {space.value}_read, but no {space.value}_{access}")
    if space is Space.PIO and hasattr(device, "pio_read"):
        await vm.pio_read(base, 1)
    if space is Space.MMIO and hasattr(device, "mmio_read"):
        await vm.mmio_read(base, 1)


def _expect(kept: bool, what: str) -> None:
    """Not ``assert``, which ``python -O`` leaves out."""
    if not kept:
        raise AssertionError(what)
