"""When a transaction begins, where it runs, and the bell that rings when it is over.

It decides three things.

What is committed together: all appends that come while the last transaction runs, or while the tasks that are ready
have their turn. The longer the disk takes, the more wait for the next one, so a slow disk makes turns larger and not
queues longer.

Where: in the writer thread, unless the caller trades that for speed. A thread hop and back costs as much as the sync of
a quick disk, and two threads that compute take the interpreter from one another; so with ``inline_ms`` above 0 a small
turn is committed on the event loop's own thread, as long as the disk is quick: it blocks the loop for one write and one
sync of, in the median, less than ``inline_ms``. Everything that may take longer stays with the thread: a turn while the
disk is slow or has not yet shown that it is quick, a large one, one that finds another process writing, and folding the
WAL back.

Who is told: whoever appended, and whoever waits for the head to move. While somebody waits, the thread also looks,
every 50 ms, whether another process has moved it; when nobody waits, it sleeps.

Separate from ``committer.py``, which knows SQL and no threads. Next: ``store.py``.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Awaitable, Callable
from contextlib import suppress
from queue import Empty, SimpleQueue
from typing import Any, Generic

import anyio
from anyio.lowlevel import current_token

from esrm.errors import EsrmError, StoreError
from esrm.stores.base import outlast
from esrm.stores.records import BATCH_RECORDS_MAX, E, Record, entered
from esrm.stores.sqlite.committer import Append, Committer
from esrm.stores.tail import Tail

TURN_APPENDS_MAX = 512  # and no more records than BATCH_RECORDS_MAX before the last of them
INLINE_RECORDS_MAX = 256  # a larger turn is not committed on the event loop,
INLINE_BYTES_MAX = 1 << 18  # nor one with more bytes of events
LOOK_S = 0.05


class _Turn(Generic[E]):
    """The appends that are written and answered together. They share an event, which is half the cost of an append."""

    __slots__ = ("answered", "appends", "over", "records", "size")

    def __init__(self) -> None:
        self.appends: list[Append[E]] = []
        self.records = self.size = 0  # size: in bytes of events
        self.answered = False
        self.over: anyio.Event | None = None  # made for the first who waits: who appends alone never does

    def add(self, append: Append[E]) -> None:
        self.appends.append(append)
        self.records += len(append.batch.drafts)
        self.size += sum(map(len, append.batch.datas))

    @property
    def full(self) -> bool:
        return len(self.appends) >= TURN_APPENDS_MAX or self.records >= BATCH_RECORDS_MAX

    @property
    def small(self) -> bool:
        """Whether writing it takes little but the sync."""
        return self.records <= INLINE_RECORDS_MAX and self.size <= INLINE_BYTES_MAX

    def wait(self) -> Awaitable[None]:
        """Not a coroutine of its own: each one around another costs its part whenever the innermost goes on."""
        if self.over is None:
            self.over = anyio.Event()
        return self.over.wait()


class _Pace:
    """Whether the disk is quick: a running median of how long a COMMIT takes, told one by one."""

    def __init__(self, quick_s: float) -> None:
        self._quick_s = quick_s
        self._median_s = min(0.002, 2 * quick_s)  # a guess: usually slow, until some fifteen commits were quick

    @property
    def quick(self) -> bool:
        return self._median_s < self._quick_s

    def tell(self, took_s: float) -> None:
        """Step toward what was seen. After a stall the disk is slow at once, so that the loop stalls once."""
        step = 1.05 if took_s > self._median_s else 1 / 1.05
        stalled = took_s > 5 * self._quick_s
        self._median_s = 2 * self._quick_s if stalled else min(self._median_s * step, 2 * self._quick_s)


class Writer(Generic[E]):
    """The committer and the thread that owns it (or shares it with the event loop), until it is stopped.

    Its methods belong on the event loop. The loop hands the thread one turn at a time, so all that happens to turns
    happens on the loop.
    """

    def __init__(self, committer: Committer[E], name: str, inline_ms: float) -> None:
        self._committer = committer
        token = current_token()
        self._soon, self._checkpoint = _soon(token.native_token), token.backend_class.checkpoint
        self._mine = threading.Lock()  # over the committer
        self._pace = _Pace(inline_ms / 1000)
        self._turns: deque[_Turn[E]] = deque()  # not yet under way; the last one may still grow
        self._busy = False  # the thread has a turn
        self._queue: SimpleQueue[_Turn[E] | None] = SimpleQueue()  # None: look around, something else has changed
        self._stopping = False
        self._over, self._unclosed = anyio.Event(), None  # once the thread has ended; and what the close failed with
        self._waiting = 0
        self._watching = False  # the thread looks every 50 ms
        self._bell = anyio.Event()
        self._told = committer.head  # the head as of the last answer
        self._trouble: EsrmError | None = None  # why the thread could not look when it last rang
        self._tail = Tail[E]()
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)
        self._thread.start()

    def append(self, append: Append[E]) -> Awaitable[None]:
        """Hand an append in; to be awaited for its outcome. A cancelled caller's append still takes its turn."""
        turns = self._turns
        if turns and not turns[-1].full:
            turn, leads = turns[-1], False
        else:
            leads = not turns and not self._busy
            turns.append(turn := _Turn())  # not _Turn[E](), which takes five times as long
        turn.add(append)
        return self._lead(turn) if leads else turn.wait()

    async def _lead(self, turn: _Turn[E]) -> None:
        """Let all who are ready come along, then set out."""
        try:
            size = 0
            while size < len(turn.appends) and not turn.answered:
                size = len(turn.appends)  # on asyncio one look is enough; trio lets tasks run in any order
                await self._checkpoint()
        except BaseException:
            with suppress(RuntimeError):  # the loop has ended
                self._soon(self._depart)
            raise
        self._depart()
        if not turn.answered:
            await turn.wait()

    def _depart(self) -> None:
        """Commit the turn that waits longest, here or in the thread, if none is under way."""
        if self._busy or not self._turns:
            return
        turn = self._turns.popleft()
        if not self._commit_here(turn):
            self._busy = True
            self._queue.put(turn)

    def _commit_here(self, turn: _Turn[E]) -> bool:
        if not (self._pace.quick and turn.small and not self._committer.full and self._mine.acquire(blocking=False)):
            return False
        done = True
        try:
            with suppress(Exception):  # as in `_work`
                done = self._committer.commit(turn.appends, patient=False)
        finally:
            self._mine.release()
            if done:
                self._answer(turn)
                if self._committer.due is not None and not self._watching:
                    self._queue.put(None)  # the thread may be asleep: it anchors the head when that is due
        return done

    async def wait_past(self, position: int) -> int:
        """Return the head once it is beyond ``position``."""
        if self._committer.head > position:
            await self._checkpoint()
            return self._committer.head
        self._waiting += 1
        try:
            while self._committer.head <= position:
                if not self._watching:
                    self._queue.put(None)  # the thread may be asleep: have it look, and go on looking
                await self._bell.wait()
                self._check()
        finally:
            self._waiting -= 1
        return self._committer.head

    def recent(self, after: int, limit: int, vm: str | None) -> list[Record[E]] | None:
        """As ``Store.recent``."""
        return self._tail.between(after, self._committer.head, limit, vm)

    async def stop(self) -> None:
        """Finish what was handed in, wake who waits, close the committer; a cancellation waits for all of it."""
        while self._turns:
            self._queue.put(self._turns.popleft())
        self._stopping = True
        self._queue.put(None)  # all is said before the first await: from here on the thread ends by itself
        await outlast(self._over)
        if self._unclosed is not None:
            raise self._unclosed

    def _check(self) -> None:
        if self._stopping:
            raise StoreError("the store was closed while waiting for its head to move")
        if self._trouble is not None:
            raise StoreError(str(self._trouble)) from self._trouble

    def _run(self) -> None:
        try:
            self._work()
        finally:
            try:
                self._committer.close()
            except Exception as error:
                self._unclosed = error
            with suppress(RuntimeError):  # as below
                self._soon(self._end)

    def _end(self) -> None:
        self._thread.join()  # to tell us was the last it had to do
        self._over.set()

    def _work(self) -> None:
        while True:
            turn, trouble = self._next_turn(), None
            with self._mine:
                if turn is None:
                    trouble = self._look()
                else:
                    with suppress(Exception):  # the thread must not die; and an append without an answer is `Unknown`
                        self._committer.commit(turn.appends)
            stopping = self._stopping and self._queue.empty()
            if turn or stopping or trouble or self._committer.head != self._told:
                with suppress(RuntimeError):  # the loop has ended, so nobody is left to answer
                    self._soon(self._ring, turn, trouble)
            if stopping:
                return
            if self._committer.full:
                with self._mine:
                    self._committer.fold()

    def _next_turn(self) -> _Turn[E] | None:
        """What to write next; None when it is time to look around."""
        self._watching = False  # before looking at who waits: who comes in between will have us look
        self._watching = self._waiting > 0
        due = self._committer.due
        try:
            return self._queue.get(timeout=LOOK_S if self._watching else due)
        except Empty:
            return None

    def _look(self) -> EsrmError | None:
        try:
            self._committer.anchor()
            self._committer.look()
        except EsrmError as error:
            return error
        except Exception as error:  # the thread must not die: appends would wait for ever
            return StoreError(f"the writer cannot look at the log: {error!r}")
        return None

    def _ring(self, turn: _Turn[E] | None, trouble: EsrmError | None) -> None:
        """Answer what the thread has done, and see to the next turn; runs on the event loop."""
        if turn is None:
            self._tell(trouble)
        else:
            self._busy = False
            self._answer(turn)

    def _answer(self, turn: _Turn[E]) -> None:
        """Answer all appends of a turn at once."""
        if self._committer.commit_s:
            self._pace.tell(self._committer.commit_s)
        for append in turn.appends:
            if append.rows and not append.retried:
                append.records = entered(append.rows, append.batch.drafts)
                self._tail.extend(append.records, append.batch.datas)
        turn.answered = True
        if turn.over is not None:
            turn.over.set()
        if self._turns:
            self._soon(self._depart)  # not at once: who was answered just now may want to come along
        self._tell(None)

    def _tell(self, trouble: EsrmError | None) -> None:
        """Wake who waits for the head to move, or for a reason why it does not."""
        self._told, self._trouble = self._committer.head, trouble
        if self._waiting:
            self._bell.set()
            self._bell = anyio.Event()


def _soon(native: Any) -> Callable[..., object]:
    """How a function is run on an event loop a little later, by another thread or from the loop itself.

    ``anyio.from_thread.run_sync`` waits, which makes one append alone take half as long again; so this asks the loop
    itself: asyncio's, or trio's token. Both raise RuntimeError once they have ended.
    """
    return getattr(native, "call_soon_threadsafe", None) or native.run_sync_soon
