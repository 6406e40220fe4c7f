"""The library ``py-event-sourcing``: asyncio, streams of bytes and no aggregates, so esrm's codec and reducer are lent.

It sets ``synchronous=NORMAL``: its commit does not wait for the disk, ours does.
"""

# pyright: basic, reportMissingImports=false
# A peer is no dependency of the project, and only partly typed.

from __future__ import annotations

import asyncio
import time
from itertools import islice
from pathlib import Path

from py_event_sourcing import CandidateEvent, sqlite_stream_factory

import esrm
from esrm.core.events import decode, encode

from ..logs import events

Seconds = tuple[float, list[float], float]


async def run(place: Path, tasks: int, count: int) -> Seconds:
    """``tasks`` tasks write ``count`` events each, one by one, to a stream each.

    Returns:
        The seconds of all that, those of each write, and the seconds of folding them all again from ``@all``.
    """
    async with sqlite_stream_factory(str(place)) as open_stream:

        async def work(name: str) -> list[float]:
            samples: list[float] = []
            async with open_stream(name) as stream:
                for number, happened in enumerate(islice(events(8), count)):
                    start = time.perf_counter()
                    candidate = CandidateEvent(type=type(happened).__name__, data=encode(happened))
                    await stream.write([candidate], expected_version=number)
                    samples.append(time.perf_counter() - start)
            return samples

        start = time.perf_counter()
        each = await asyncio.gather(*(work(f"vm-{task}") for task in range(tasks)))
        seconds, start = time.perf_counter() - start, time.perf_counter()
        found: dict[str, esrm.VmState] = {}
        async with open_stream("@all") as stream:
            async for event in stream.read():
                esrm.evolve(found.setdefault(event.stream_id, esrm.VmState()), decode(event.data))
        return seconds, [sample for one in each for sample in one], time.perf_counter() - start
