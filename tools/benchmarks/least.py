"""The least that an append costs: the bare rows, sealed and synced, and nothing else of a store.

A task waits for a future; one thread seals what waits (the two SHA-256 of a record), writes it in one commit, anchors,
and has the event loop answer. Nothing is checked, encoded, decided or kept. Any store that seals its records and keeps
the disk off the event loop does all of this and more, so beside each goal it tells how much of the missing is ours.
``inline`` is the same without the thread, for a store that blocks the loop, but gives others a turn.
Next: ``appending.py``, which asks it.
"""

from __future__ import annotations

import asyncio
import threading
import time
from hashlib import sha256
from pathlib import Path
from queue import SimpleQueue
from typing import Any

from . import bare

_BESIDE_EVENT = bytes(120)
"""As many bytes as the hash of a record covers besides its event, about."""

_Turn = list[tuple[Any, "asyncio.Future[None]"]]


def seal(row: Any) -> None:
    """Hash what a record's two hashes cover: itself with its predecessor, and then the running hash of the log."""
    sha256(sha256(_BESIDE_EVENT + row[7].encode()).digest() * 2).digest()


class _Thread:
    """One turn is under way at a time; who comes meanwhile shares the next one."""

    def __init__(self, twin: bare.Twin, head: Path | None) -> None:
        self._twin, self._loop = twin, asyncio.get_running_loop()
        self._head = None if head is None else bare.Head(head)
        self._waiting: _Turn = []
        self._busy = False
        self._queue: SimpleQueue[_Turn | None] = SimpleQueue()
        self._thread = threading.Thread(target=self._run)
        self._thread.start()

    def append(self, row: Any) -> asyncio.Future[None]:
        """Hand a row in; to be awaited."""
        if not self._waiting and not self._busy:
            self._loop.call_soon(self._depart)
        future = self._loop.create_future()
        self._waiting.append((row, future))
        return future

    def stop(self) -> None:
        """End the thread."""
        self._queue.put(None)
        self._thread.join()
        if self._head is not None:
            self._head.close()

    def _depart(self) -> None:
        if self._waiting and not self._busy:
            turn, self._waiting, self._busy = self._waiting, [], True
            self._queue.put(turn)

    def _run(self) -> None:
        while (turn := self._queue.get()) is not None:
            rows = [row for row, _ in turn]
            for row in rows:
                seal(row)
            self._twin.insert_together(rows)
            if self._head is not None:
                self._head.write()
            self._loop.call_soon_threadsafe(self._answer, turn)

    def _answer(self, turn: _Turn) -> None:
        self._busy = False
        for _, future in turn:
            future.set_result(None)
        self._loop.call_soon(self._depart)


def appends(twin: bare.Twin, streams: list[list[Any]], head: Path | None) -> float:
    """The seconds that it takes to append each stream's rows one after the other, all streams at once."""

    async def one(thread: _Thread, rows: list[Any]) -> None:
        for row in rows:
            await thread.append(row)

    async def run() -> float:
        thread = _Thread(twin, head)
        start = time.perf_counter()
        async with asyncio.TaskGroup() as group:
            for rows in streams:
                group.create_task(one(thread, rows))
        seconds = time.perf_counter() - start
        thread.stop()
        return seconds

    return asyncio.run(run())


def inline(twin: bare.Twin, rows: list[Any], head: Path | None) -> float:
    """The seconds that it takes to append the rows one after the other on the event loop's own thread."""

    async def run() -> float:
        anchor = None if head is None else bare.Head(head)
        start = time.perf_counter()
        for row in rows:
            await asyncio.sleep(0)
            seal(row)
            twin.insert_together([row])
            if anchor is not None:
                anchor.write()
        seconds = time.perf_counter() - start
        if anchor is not None:
            anchor.close()
        return seconds

    return asyncio.run(run())
