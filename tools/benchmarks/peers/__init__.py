"""The peers: other event sourcing libraries for Python, made to do the same work, as their documents say it is done.

All keep one aggregate (or stream) a VM, as esrm does, and the same eight facts of a device's life in it. Each has a
module here, imported on use: ``make bench`` installs them, and one that is missing, or stumbles, is named in the page.
Next: ``eventsourcing_.py``.
"""

from __future__ import annotations

from collections.abc import Iterator
from importlib.metadata import PackageNotFoundError, version
from itertools import islice
from typing import Any

NAMES = ("eventsourcing", "eventsource-py", "py-event-sourcing")
CONSTRAINTS: list[dict[str, Any]] = [
    {"kind": "mmio", "size": 0x1000, "range": None, "align": 0x1000},
    {"kind": "pio", "size": 8, "range": None, "align": 8},
    {"kind": "pci_msix", "size": 4},
]
PLACE: list[dict[str, Any]] = [
    {"kind": "mmio", "base": 0xC0000000, "size": 0x1000},
    {"kind": "pio", "base": 0x1000, "size": 8},
    {"kind": "msi_irq", "type": "pci_msix", "base": 24, "size": 4},
]
Command = tuple[str, dict[str, Any]]


def versions() -> dict[str, str | None]:
    """Each peer's version; None where it is not installed."""
    found: dict[str, str | None] = {}
    for name in NAMES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            found[name] = None
    return found


def life(device: str) -> Iterator[Command]:
    """The steps of one device, there and back, as commands."""
    yield "create_device", {"device": device, "kind": "virtio-net"}
    yield "declare", {"device": device, "constraints": CONSTRAINTS}
    yield "allocate", {"device": device, "resources": PLACE}
    yield "assign", {"device": device}
    yield "register", {"device": device}
    yield "unregister", {"device": device}
    yield "release", {"device": device, "resources": PLACE}
    yield "remove", {"device": device}


def commands(live: int = 8) -> Iterator[Command]:
    """``live`` devices arrive; then each in turn leaves and comes back; without end."""
    names = [f"net{number}" for number in range(live)]
    for name in names:
        yield from islice(life(name), 5)
    while True:
        for name in names:
            yield from islice(life(name), 5, None)
            yield from islice(life(name), 5)
