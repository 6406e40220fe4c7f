"""The logs that are measured on: lives of devices, as ``decide`` would have them, over and over.

Two kinds. *many*: up to 10,000 VMs of 8 devices, interleaved, a hundred events or more each. *one*: a single VM with
64 devices, one of which is always being replaced, so the log grows and the layout does not.
They are written through the store itself, in batches and without waiting for the disk, once a run.
Next: ``bare.py``, the yardsticks that read and write the same rows.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import count, islice
from pathlib import Path

import anyio

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
    """A log of many VMs with so many events in all."""
    vms = max(1, min(VMS_MAX, size // 100))
    return _built(bench.folder / f"many-{size}.db", {f"vm-{i:05}": size // vms for i in range(vms)}, 8, 50)


def _built(path: Path, sizes: dict[str, int], live: int, chunk: int) -> Path:
    if not path.exists():
        anyio.run(_build, path, sizes, live, chunk)
    return path


async def _build(path: Path, sizes: dict[str, int], live: int, chunk: int) -> None:
    """In rounds: a chunk of each VM, then the next of each, as a store with many VMs would see them."""
    drafts, story, longest = Drafts(), events(live), max(sizes.values())
    async with esrm.open_store(url(path), synchronous="OFF") as store:
        for start in range(0, longest, chunk):
            happened = list(islice(story, min(chunk, longest - start)))  # the same life for every VM
            for vm in sizes:
                await store.append(vm, drafts(iter(happened), len(happened)), expected=start - 1)
