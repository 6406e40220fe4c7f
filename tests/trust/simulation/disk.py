"""The store that fails: it keeps every promise of ``stores/base.py``, and breaks whatever that page leaves open.

Appends wait in a queue, are written some time later, alone or with others, and answered some time after that. Each may
be refused before it stands (``Rejected``), stand without an answer, or hang: told as ``Unknown``, unseen by readers,
and decided when the next append comes. Reads are late, and fail. Who waits is woken late. A caller who is cancelled
changes nothing about the append that it handed in. ``Disk`` is what the stores of several processes have in common,
and all that is left when they die.

Next: ``auditor.py``, which is told of every row in the moment in which it stands.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Callable, Sequence
from contextvars import copy_context
from typing import Any

from esrm.core import events
from esrm.errors import EsrmError, Rejected, StoreError, Unknown
from esrm.stores.base import Reader, T, conflict
from esrm.stores.chain import GENESIS, seal
from esrm.stores.memory import MemoryReader, MemoryStore
from esrm.stores.records import Batch, CommittedVolatile, Draft, Record, Row, decoded, entered, prepare

from .loop import Loop

Event = events.Event


class Disk:
    """The records that stand, what hangs, and how often things fail.

    Args:
        loop: whose dice and time these are.
        faults: how likely each append and read is to fail, 0 to 1.
        slow: how likely each wait is to take long.
        wrote: called with each row when it stands.
    """

    def __init__(self, loop: Loop, faults: float, slow: float, wrote: Callable[[Row], object]) -> None:
        self.loop, self.dice = loop, loop.dice
        self.faults, self.slow, self.wrote = faults, slow, wrote
        self.shelf = MemoryStore(events)._shelf
        self.hanging: Batch[Event] | None = None
        self.stores: list[FaultyStore] = []
        self.counts: Counter[str] = Counter()

    def begin(self, past: Batch[Event]) -> None:
        """Let a VM have a past, from before the world began."""
        self.write(past)

    def heal(self) -> None:
        """From now on nothing fails, and everything is quick."""
        self.faults = self.slow = 0.0

    def wait_s(self) -> float:
        """How long the next thing takes."""
        if self.dice.random() >= self.slow:
            return 0.0
        return self.dice.choice((0.0001, 0.001, 0.01, 1.0))

    def fails(self) -> bool:
        """Whether the next thing does."""
        return self.faults > 0 and self.dice.random() < self.faults

    def write(self, batch: Batch[Event], writer: FaultyStore | None = None) -> list[Row] | None:
        """The rows that stand from now on; None if the stream does not end where the batch expects."""
        shelf = self.shelf
        stream = shelf.streams.setdefault(batch.vm, [])
        if batch.expected != len(stream) - 1:
            return None
        rows = seal(batch, len(shelf.rows), stream[-1][8] if stream else GENESIS)
        stream += rows
        shelf.rows += rows
        for row in rows:
            self.wrote(row)
        if writer is not None:
            writer._tail.extend(entered(rows, batch.drafts), batch.datas)
        for store in self.stores:
            store.notice(at_once=store is writer)
        return rows

    def decide(self, writer: FaultyStore) -> None:
        """What hung comes to stand, or never will."""
        batch, self.hanging = self.hanging, None
        if batch is not None and self.dice.random() < 0.5:
            self.counts["a hanging append that came to stand"] += 1
            self.write(batch, writer)


class FaultyStore(MemoryStore[Event]):
    """One process's store on a disk."""

    def __init__(self, disk: Disk) -> None:
        super().__init__(events)
        self.disk = disk
        self._shelf = disk.shelf
        self._reader = MemoryReader(events, disk.shelf)
        self._queue: list[tuple[Batch[Event], asyncio.Future[CommittedVolatile[Event]]]] = []
        self._seen = len(disk.shelf.rows)  # the head as far as this process knows
        self._waiting = 0
        self._rings = 0
        self._context = copy_context()
        self._bell = asyncio.Event()
        self.busy = 0  # appends that wait for their answers
        self.written = 0  # of these, how many stand already
        disk.stores.append(self)

    # -- appending ----------------------------------------------------------------------------------------------------

    async def append(self, vm: str, drafts: Sequence[Draft[Event]], *, expected: int) -> CommittedVolatile[Event]:
        """As ``Store.append``, with all that may go wrong."""
        self._check_usable()
        batch = prepare(self._codec, vm, drafts, expected)
        answer: asyncio.Future[CommittedVolatile[Event]] = self.disk.loop.create_future()
        self._queue.append((batch, answer))
        if len(self._queue) == 1:
            self._soon(self._work)
        self.busy += 1
        try:
            return await answer
        except asyncio.CancelledError:
            self.disk.counts["a cancellation inside append"] += 1
            raise
        finally:
            self.busy -= 1

    def _work(self) -> None:
        """Settle what waits, all of it or one."""
        size = len(self._queue) if self.disk.dice.random() < 0.5 else 1
        for batch, answer in self._queue[:size]:
            try:
                outcome = self._settle(batch)
            except EsrmError as error:
                self._soon(_answer, answer, None, error)
            else:
                self.written += 1
                self._soon(self._tell, answer, outcome)
        del self._queue[:size]
        if self._queue:
            self._soon(self._work)

    def _settle(self, batch: Batch[Event]) -> CommittedVolatile[Event]:
        disk = self.disk
        disk.decide(self)
        fate = disk.dice.choice(("before", "after", "after", "hangs")) if disk.fails() else ""
        if fate == "before":
            raise Rejected("the disk is full")
        if fate == "hangs":
            disk.hanging = batch
            raise Unknown("no answer from the disk, and nothing to be read of it")
        rows = disk.write(batch, self)
        if fate == "after":
            disk.counts["an append that stands unanswered"] += rows is not None
            raise Unknown("no answer from the disk")
        if rows is not None:
            return CommittedVolatile(entered(rows, batch.drafts))
        stream = disk.shelf.streams.get(batch.vm, [])
        standing = stream[batch.expected + 1 : batch.expected + 1 + len(batch.ids)]
        if standing and [row[3] for row in standing] == batch.ids:
            disk.counts["a retry answered as the first time"] += 1
            return CommittedVolatile(decoded(self._codec, row) for row in standing)
        raise conflict(batch, len(stream) - 1)

    def _tell(self, answer: asyncio.Future[Any], outcome: CommittedVolatile[Event]) -> None:
        self.written -= 1
        _answer(answer, outcome, None)

    def _soon(self, do: Callable[..., object], *arguments: Any) -> None:
        # In the store's own context: what it has accepted it sees through, until its process dies.
        if (wait_s := self.disk.wait_s()) > 0:
            self.disk.loop.call_later(wait_s, do, *arguments, context=self._context)
        else:
            self.disk.loop.call_soon(do, *arguments, context=self._context)

    # -- reading ------------------------------------------------------------------------------------------------------

    async def ask(self, question: Callable[[Reader[Event]], T]) -> T:
        """As ``Store.ask``, sometime; or a ``StoreError``."""
        self._check_usable()
        await asyncio.sleep(self.disk.wait_s())
        if self.disk.fails():
            self.disk.counts["a failed read"] += 1
            raise StoreError("the disk cannot be read")
        answer = question(self._reader)
        if (late := self.disk.wait_s()) > 0:
            await asyncio.sleep(late)
        return answer

    def recent(self, after: int, limit: int, vm: str | None = None) -> list[Record[Event]] | None:
        """As ``Store.recent``: what lies behind the head that was seen may be there or not."""
        return self._tail.between(after, self._seen, limit, vm)

    async def wait_past(self, position: int) -> int:
        """As ``Store.wait_past``, as late as it likes."""
        self._check_usable()
        await asyncio.sleep(0)
        self._waiting += 1
        try:
            while self._seen <= position:
                if len(self._shelf.rows) > position:
                    self.notice(at_once=False)
                await self._bell.wait()
        finally:
            self._waiting -= 1
        if self.disk.fails():
            self.disk.counts["a failed look at the head"] += 1
            raise StoreError("the disk cannot be looked at")
        return self._seen

    def notice(self, *, at_once: bool) -> None:
        """Learn that the head has moved: later, unless it was this store that moved it."""
        if at_once:
            self._seen = len(self._shelf.rows)
        if self._waiting and not self._rings:
            self._rings += 1
            self._soon(self._ring)

    def _ring(self) -> None:
        self._rings -= 1
        self._seen = len(self._shelf.rows)
        self._bell.set()
        self._bell = asyncio.Event()


def _answer(answer: asyncio.Future[Any], outcome: Any, error: Exception | None) -> None:
    if answer.done():  # its caller was cancelled
        return
    if error is None:
        answer.set_result(outcome)
    else:
        answer.set_exception(error)
