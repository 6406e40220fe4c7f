"""Live device objects: what the manager asks of them, and how a guest's access reaches one.

A ``Device`` says what it needs and is told what it got. One that answers guest I/O also has ``pio_read`` and
``pio_write``, or ``mmio_read`` and ``mmio_write``, as rust-vmm's ``DevicePio`` and ``DeviceMmio`` do: it is given the
range's base and the offset of the access inside it, never the bare address.

Separate from the manager, which drives these through a life; here is only who they are and how they are reached.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol, runtime_checkable

from esrm.core.bus import Bus
from esrm.core.resources import DeviceResources, ResourceConstraint, Space
from esrm.errors import InvalidAccess, NotMapped


@runtime_checkable
class Device(Protocol):
    """What ``ResourceManager.attach`` needs of a device. A ``parent`` attribute (a name or None) may be there too."""

    name: str
    kind: str

    def constraints(self) -> Sequence[ResourceConstraint]:
        """What it needs: the same every time, since a restarted VMM asks again and gets what the log says."""
        ...

    async def assign(self, resources: DeviceResources) -> None:
        """Take what was allocated, in the order of the constraints. An exception means no, and gives it all back."""
        ...


class PioDevice(Protocol):
    """A device that answers on I/O ports; ``base`` is its range's first port, ``offset`` counts from it."""

    async def pio_read(self, base: int, offset: int, size: int) -> bytes:
        """The ``size`` bytes that the guest reads."""
        ...

    async def pio_write(self, base: int, offset: int, data: bytes) -> None:
        """Take the bytes that the guest writes."""
        ...


class MmioDevice(Protocol):
    """A device that answers on memory-mapped I/O; as ``PioDevice``, with addresses."""

    async def mmio_read(self, base: int, offset: int, size: int) -> bytes:
        """The ``size`` bytes that the guest reads."""
        ...

    async def mmio_write(self, base: int, offset: int, data: bytes) -> None:
        """Take the bytes that the guest writes."""
        ...


class LiveDevices(dict[str, Device]):
    """The device objects of this process, by name. The log outlives them: after a restart they attach again."""

    async def read(self, bus: Bus, space: Space, address: int, size: int) -> bytes:
        """What the device at ``address`` answers: exactly ``size`` bytes.

        Raises:
            NotMapped, InvalidAccess: as ``Bus.find``; also when no live object stands behind the address, or the
            device does not answer in this space, or answers with too much or too little.
        """
        method, base, offset = self._route(bus, space, address, size, "read")
        data: bytes = await method(base, offset, size)
        if not isinstance(data, bytes | bytearray):  # pyright: ignore[reportUnnecessaryIsInstance]  it may be anybody's
            raise InvalidAccess(f"the device at {space.value} {address:#x} answered no bytes, but {data!r:.80}")
        if len(data) != size:
            raise InvalidAccess(f"the device at {space.value} {address:#x} answered {len(data)} bytes for {size}")
        return data

    async def write(self, bus: Bus, space: Space, address: int, data: bytes) -> None:
        """Hand the bytes to the device at ``address``.

        Raises:
            NotMapped, InvalidAccess: as for ``read``.
        """
        method, base, offset = self._route(bus, space, address, len(data), "write")
        await method(base, offset, data)

    def _route(self, bus: Bus, space: Space, address: int, size: int, access: str) -> tuple[Any, int, int]:
        answer = bus.find(space, address, size)
        device = self.get(answer.device)
        if device is None:
            raise NotMapped(f"{answer.device} is registered at {space.value} {address:#x}, but is not attached here")
        method = getattr(device, f"{space.value}_{access}", None)
        if method is None:
            raise InvalidAccess(f"{answer.device} has no {space.value}_{access}")
        return method, answer.base, answer.offset
