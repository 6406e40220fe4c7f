"""The thread that writes, and the bell that rings when it has written.

It decides when a transaction begins and ends: block for the first append, take all that came meanwhile, commit them
together, answer them together. The longer the disk takes, the more wait for the next turn, so a slow disk makes turns
larger and not queues longer. While somebody waits for the head to move, the thread also looks, every 50 ms,
whether another process has moved it; when nobody waits, it sleeps.

Separate from ``committer.py``, which knows SQL and no threads. Next: ``store.py``.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from contextlib import suppress
from queue import Empty, SimpleQueue
from typing import Any, Generic

import anyio
from anyio.lowlevel import current_token

from esrm.errors import EsrmError, StoreError
from esrm.stores.records import BATCH_RECORDS_MAX, E
from esrm.stores.sqlite.committer import Append, Committer

TURN_APPENDS_MAX = 512  # and no more records than BATCH_RECORDS_MAX before the last of them
LOOK_S = 0.05


class _Turn(Generic[E]):
    """The appends that are written and answered together. They share an event, which is half the cost of an append."""

    def __init__(self) -> None:
        self.appends: list[Append[E]] = []
        self.records = 0
        self.over = anyio.Event()

    def add(self, append: Append[E]) -> bool:
        """Add one; return whether there is room for another."""
        self.appends.append(append)
        self.records += len(append.batch.drafts)
        return len(self.appends) < TURN_APPENDS_MAX and self.records < BATCH_RECORDS_MAX


class Writer(Generic[E]):
    """One thread that owns the committer until it is stopped. Its methods belong on the event loop, but for ``stop``."""

    def __init__(self, committer: Committer[E], name: str) -> None:
        self._committer, self._soon = committer, _soon()
        self._queue: SimpleQueue[_Turn[E] | None] = SimpleQueue()  # None: look around, something else has changed
        self._boarding: _Turn[E] | None = None  # the turn in the queue that may still grow
        self._lock = threading.Lock()  # over _boarding
        self._stopping = False
        self._waiting = 0
        self._bell = anyio.Event()
        self._told = committer.head  # the head as of the last answer
        self._trouble: EsrmError | None = None  # why the thread could not look when it last rang
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)
        self._thread.start()

    async def append(self, append: Append[E]) -> None:
        """Hand an append in and wait for its outcome. A cancelled caller's append still takes its turn."""
        with self._lock:
            turn = self._boarding
            if turn is None:
                turn = _Turn[E]()
                self._queue.put(turn)
            self._boarding = turn if turn.add(append) else None
        await turn.over.wait()

    async def wait_past(self, position: int) -> int:
        """Return the head once it is beyond ``position``."""
        self._waiting += 1
        try:
            while self._committer.head <= position:
                if self._waiting == 1:
                    self._queue.put(None)  # the thread may be asleep: have it look, and go on looking
                await self._bell.wait()
                self._check()
        finally:
            self._waiting -= 1
        return self._committer.head

    def stop(self) -> None:
        """Finish what was handed in, wake who waits, close the committer. Blocks: call it in a worker thread."""
        self._stopping = True
        self._queue.put(None)
        self._thread.join()
        self._committer.close()

    def _check(self) -> None:
        if self._stopping:
            raise StoreError("the store was closed while waiting for its head to move")
        if self._trouble is not None:
            raise StoreError(str(self._trouble)) from self._trouble

    def _run(self) -> None:
        while True:
            turn, trouble = self._next_turn(), None
            if turn is None:
                trouble = self._look()
            else:
                self._committer.commit(turn.appends)
            stopping = self._stopping and self._queue.empty()
            if turn or stopping or trouble or self._committer.head != self._told:
                self._told = self._committer.head
                with suppress(RuntimeError):  # the loop has ended, so nobody is left to answer
                    self._soon(self._ring, turn, trouble)
            if stopping:
                return

    def _next_turn(self) -> _Turn[E] | None:
        """What to write next, closed to newcomers; None when it is time to look around."""
        try:
            turn = self._queue.get(timeout=LOOK_S if self._waiting else None)
        except Empty:
            return None
        with self._lock:
            if turn is self._boarding:
                self._boarding = None
        return turn

    def _look(self) -> EsrmError | None:
        try:
            self._committer.look()
        except EsrmError as error:
            return error
        return None

    def _ring(self, turn: _Turn[E] | None, trouble: EsrmError | None) -> None:
        """Answer all at once; runs on the event loop."""
        if turn is not None:
            turn.over.set()
        self._trouble = trouble
        self._bell.set()
        self._bell = anyio.Event()


def _soon() -> Callable[..., object]:
    """How another thread has a function run on this event loop, without waiting for it.

    ``anyio.from_thread.run_sync`` waits, which makes one append alone take half as long again; so this asks the loop
    itself: asyncio's, or trio's token. Both raise RuntimeError once they have ended.
    """
    native: Any = current_token().native_token
    return getattr(native, "call_soon_threadsafe", None) or native.run_sync_soon
