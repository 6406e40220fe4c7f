"""Logs for the cache's tests: random stories of a small machine, in memory or in a file; and the judge by replay."""

from __future__ import annotations

import random
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import anyio
from stories import TINY, Clock, turn

import esrm
from esrm import Past, ResourceManager, Space, open_reader, open_store
from esrm.core import events as e
from esrm.core.resources import span

VM = "web-1"


def tell(url: str, dice: random.Random, turns: int) -> Any:
    """Some random turns of a VM, recorded; a reader of the log."""

    async def main() -> Any:
        async with open_store(url, synchronous="OFF") as store:
            async with ResourceManager(store, vm=VM, platform=TINY, clock=Clock()) as vm:
                for _ in range(turns):
                    await turn(vm, dice)
            return store.reader()

    return anyio.run(main)


def in_memory(dice: random.Random, turns: int, beside: Path | None) -> Any:
    """The same in memory, with a place beside."""
    reader = tell("memory:", dice, turns)
    reader.beside = beside
    return reader


def on_disk(path: Path, seed: int = 1, turns: int = 60) -> Path:
    """A log in a file which nothing is kept beside yet."""
    tell(f"sqlite:{path}", random.Random(seed), turns).close()
    cache(path).unlink(missing_ok=True)
    return path


def log_of(events: list[e.Event], beside: Path, url: str = "memory:") -> Any:
    """A log of these events."""

    async def main() -> Any:
        async with open_store(url) as store:
            ids, last = esrm.manager.Uuid7(), -1
            for start in range(0, len(events), 10_000):
                page = [esrm.Draft(event=event, id=ids(1), time_ns=1) for event in events[start : start + 10_000]]
                await store.append(VM, page, expected=last)
                last += len(page)
            reader = store.reader()
            reader.beside = beside
            return reader

    return anyio.run(main)


def life(name: str, *held: esrm.Resource, parent: str | None = None) -> list[e.Event]:
    """How a device comes to hold something."""
    return [e.DeviceCreated(name, "", parent), e.ConstraintsDeclared(name), e.ResourcesAllocated(name, held)]


def cache(path: Path) -> Path:
    """Where the cache of a log lies."""
    return Path(f"{path}-cache")


def replayed(reader: Any) -> list[esrm.VmState]:
    """The state at each revision, as plain replay tells it."""
    state, states = esrm.VmState(), list[esrm.VmState]()
    for record in reader.read(VM, -1, 100_000):
        esrm.evolve(state, record.event)
        states.append(state.copy())
    return states


def addresses(states: list[esrm.VmState]) -> set[tuple[Space, int]]:
    """The ends of everything that was ever held or reserved, and their neighbours."""

    def spans() -> Iterator[tuple[Space, int, int]]:
        for state in states:
            for device in state.devices.values():
                yield from map(span, device.allocated)
        for wall in TINY.reserved:
            yield wall.space, wall.first, wall.last

    ends = {(space, end + step) for space, *both in set(spans()) for end in both for step in (-1, 0, 1)}
    return {(space, number) for space, number in ends if 0 <= number <= space.last}


def right(path: Path) -> bool:
    """Whether a log's layouts and blames are, with whatever lies beside it, what replay says."""
    with open_reader(f"sqlite:{path}") as reader:
        past, states = Past(reader, VM), replayed(reader)
        for revision in range(0, len(states), 3):
            assert past.at(revision) == states[revision]
        assert past.at() == states[-1]
        for space, address in sorted(addresses(states[-1:]), key=str):
            for revision in (len(states) // 2, len(states) - 1):
                assert past.blame(space, address, revision) == past._blame(space, address, revision)
    return True
