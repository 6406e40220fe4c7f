"""The logs that are measured on: lives of devices, as ``decide`` would have them, over and over.

Three kinds. *many*: up to 10,000 VMs of 8 devices, interleaved, a hundred events or more each, and all alike, as the
VMs of a fleet are. *strangers*: as many, but each with names of its own, so that no two events have the same bytes.
*one*: a single VM with 64 devices, one of which is always being replaced, so the log grows and the layout does not.
They are written through the store itself, in batches and without waiting for the disk, once a run.
Next: ``bare.py``, the yardsticks that read and write the same rows.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from functools import partial
from itertools import count, islice
from pathlib import Path

import anyio
import msgspec

import esrm
from esrm.core import decide
from esrm.core.events import Event
from esrm.manager import Uuid7

from .measure import Bench

EPOCH_NS = 1_760_000_000_000_000_000
VM = "one"
VMS_MAX = 10_000
WISHES = (esrm.MmioConstraint(0x1000), esrm.PioConstraint(8, align=8), esrm.PciMsixIrqConstraint(4))


def events(live: int) -> Iterator[Event]:
    """A VM's life without end: ``live`` devices arrive, then each in turn leaves and comes back."""
    state = esrm.VmState()

    def happen(decided: list[Event]) -> list[Event]:
        for event in decided:
            esrm.evolve(state, event)
        return decided

    def attach(device: str) -> Iterator[Event]:
        yield from happen(decide.create(state, device, "virtio-net"))
        yield from happen(decide.declare(state, device, WISHES))
        for step in (decide.allocate, decide.assign, decide.register):
            yield from happen(step(state, device))

    def detach(device: str) -> Iterator[Event]:
        for step in (decide.unregister, decide.release, decide.remove):
            yield from happen(step(state, device))

    yield from happen(decide.create_vm(state, esrm.platforms.get("x86_64")))
    names = [f"net{number}" for number in range(live)]
    for name in names:
        yield from attach(name)
    cycle = [event for name in names for event in (*detach(name), *attach(name))]
    while True:
        yield from cycle


class Drafts:
    """Makes drafts of events: ids and times count up, a millisecond an event."""

    def __init__(self) -> None:
        self._ids, self._clock = Uuid7(), count(EPOCH_NS, 1_000_000)

    def __call__(self, events: Iterator[Event], number: int) -> list[esrm.Draft[Event]]:
        """The next ``number`` events as drafts."""
        return [
            esrm.Draft(event=event, id=self._ids(now), time_ns=now, actor="bench")
            for event, now in zip(islice(events, number), self._clock, strict=False)
        ]


def url(path: Path) -> str:
    """What ``open_store`` calls a file."""
    return f"sqlite:{path}"


def one(bench: Bench, size: int) -> Path:
    """A log of one VM with so many events."""
    return _built(bench.folder / f"one-{size}.db", {VM: size}, 64, 1000)


def many(bench: Bench, size: int) -> Path:
    """A log of many VMs with so many events in all; the VMs live alike."""
    return _built(bench.folder / f"many-{size}.db", _fleet(size), 8, 50)


def strangers(bench: Bench, size: int) -> Path:
    """As ``many``, but no two events are alike, except in that VMs have the same platform."""
    return _built(bench.folder / f"strangers-{size}.db", _fleet(size), 8, 50, strange=True)


def _fleet(size: int) -> dict[str, int]:
    vms = max(1, min(VMS_MAX, size // 100))
    return {f"vm-{number:05}": size // vms for number in range(vms)}


def _built(path: Path, sizes: dict[str, int], live: int, chunk: int, *, strange: bool = False) -> Path:
    if not path.exists():
        anyio.run(_build, path, sizes, live, chunk, strange)
    return path


async def _build(path: Path, sizes: dict[str, int], live: int, chunk: int, strange: bool) -> None:
    """In rounds: a chunk of each VM, then the next of each, as a store with many VMs would see them."""
    drafts, story, longest, lives = Drafts(), events(live), max(sizes.values()), Counter[str]()
    async with esrm.open_store(url(path), synchronous="OFF") as store:
        for start in range(0, longest, chunk):
            happened = list(islice(story, min(chunk, longest - start)))  # the same life for every VM
            names = [_life(event, lives) for event in happened]
            for vm in sizes:
                own = map(partial(_renamed, vm), happened, names) if strange else happened
                await store.append(vm, drafts(iter(own), len(happened)), expected=start - 1)


def _life(event: Event, lives: Counter[str]) -> str:
    """The device's name and which of its lives it is; "" for an event that is about none."""
    device: str = getattr(event, "device", "")
    lives[device] += isinstance(event, esrm.DeviceCreated)
    return device and f"{device}-{lives[device]}"


def _renamed(vm: str, event: Event, name: str) -> Event:
    """The same event about a device that no other VM has, nor this one a second time."""
    return msgspec.structs.replace(event, device=f"{vm}-{name}") if name else event
