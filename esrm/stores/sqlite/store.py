"""The asynchronous face of a log on disk: a writer, a few readers, nothing that blocks the event loop for long.

Next: ``esrm.testing.check_store``, which it passes, and ``tests/stores/test_sqlite.py`` for what is its own.
"""

from __future__ import annotations

import os
import sys
from collections import deque
from collections.abc import Callable, Sequence

import anyio
from anyio import to_thread

from esrm.errors import StoreError, Unknown
from esrm.stores.base import Reader, Store, T
from esrm.stores.records import Codec, Committed, Draft, E, Record, decoded, prepare
from esrm.stores.sqlite.committer import RETRY, Append, Committer
from esrm.stores.sqlite.owned import Mode
from esrm.stores.sqlite.reader import SqliteReader
from esrm.stores.sqlite.schema import SYNCHRONOUS, check_not_linked, located
from esrm.stores.sqlite.writer import Writer

ANCHORS = ("commit", "second")
READERS_MAX = 4  # at once; more would only take turns at the interpreter's lock


class SqliteStore(Store[E]):
    """A log in one SQLite file, in WAL mode; created if there is none.

    An append has returned when its transaction is committed and the head anchored (``heads.py``). With
    ``synchronous="FULL"``, the default, the commit is then on the disk and survives a power cut; with ``"NORMAL"`` it
    survives a crash of the process, and a power cut takes at most a tail of whole appends; ``"OFF"`` leaves it to the
    kernel, and a power cut may damage the file; ``"EXTRA"`` is ``"FULL"`` here. What an append returns is of a class
    that says which of these it was (``Committed``).

    Any number of stores and processes may open one file, on a local disk, to read, wait and subscribe. The first one
    that appends is the log's writer until it closes; the others' appends are ``Rejected``.

    Args:
        path: the file; its folder must exist.
        codec: turns events into bytes of UTF-8, and back.
        synchronous: what a commit waits for, as above.
        anchor: when the head is written down beside the log: at each ``"commit"``, before that is acknowledged; or at
            most once a ``"second"``, which saves one of two syncs, and then what was acknowledged in the last second
            can be lost to a damaged WAL without being missed. With NORMAL and OFF it is written when the WAL is folded.
        busy_ms: how long to wait for another program's transaction before an append is ``Rejected``.
        inline_ms: while a commit takes less than this, in the median, small ones run on the event loop's own thread,
            which is then blocked for that long; 0 (the default) for never. See ``writer.py``.
    """

    def __init__(
        self,
        path: str | os.PathLike[str],
        codec: Codec[E],
        *,
        synchronous: str = "FULL",
        anchor: str = "commit",
        busy_ms: int = 5000,
        inline_ms: float = 0,
    ) -> None:
        super().__init__(codec)
        if synchronous not in SYNCHRONOUS:
            raise StoreError(f"synchronous is one of {', '.join(SYNCHRONOUS)}, not {synchronous!r:.80}")
        if anchor not in ANCHORS:
            raise StoreError(f"anchor is one of {', '.join(ANCHORS)}, not {anchor!r:.80}")
        if type(inline_ms) not in (int, float) or not inline_ms >= 0:
            raise StoreError(f"inline_ms is a number of milliseconds, 0 or more, not {inline_ms!r:.80}")
        self._path = located(path)
        self._mode = Mode(synchronous, anchor if synchronous in ("FULL", "EXTRA") else "folded")
        self._busy_ms = busy_ms
        self._inline_ms = min(inline_ms, sys.float_info.max)  # an int may be too large to divide
        self._idle: deque[SqliteReader[E]] = deque()

    def __repr__(self) -> str:
        return f"<SqliteStore {self._path}{', closed' if self._closed else ''}>"

    async def _open(self) -> None:
        def begin() -> Committer[E]:
            return Committer(self._path, self._mode, self._busy_ms, self._sweep)

        self._limiter = anyio.CapacityLimiter(READERS_MAX)
        self._writer = Writer(await to_thread.run_sync(begin), f"esrm writer of {self._path.name}", self._inline_ms)

    async def _close(self) -> None:
        self._sweep()
        await self._writer.stop()

    async def append(self, vm: str, drafts: Sequence[Draft[E]], *, expected: int) -> Committed[E]:
        """Add drafts to the end of a stream; see ``Store.append``. A cancelled append may still come to stand."""
        self._check_usable()
        append = Append(prepare(self._codec, vm, drafts, expected))
        await self._writer.append(append)
        if append.rows is None:
            raise append.error or Unknown(f"{self} gave no answer; {RETRY}")
        if append.retried:
            return self._mode.answer(decoded(self._codec, row) for row in append.rows)
        return self._mode.answer(append.records)

    async def wait_past(self, position: int) -> int:
        """Wait until the head is beyond ``position``, and return it; other processes' appends show within 50 ms."""
        self._check_usable()
        return await self._writer.wait_past(position)

    def recent(self, after: int, limit: int, vm: str | None = None) -> list[Record[E]] | None:
        """Return such records above ``after`` as are at hand; see ``Store.recent``."""
        return None if self._loop is None else self._writer.recent(after, limit, vm)

    def reader(self) -> SqliteReader[E]:
        """Return a new synchronous face of the same file."""
        self._check_process()
        check_not_linked(self._path)
        return SqliteReader(self._path, self._codec)

    async def ask(self, question: Callable[[Reader[E]], T]) -> T:
        """Return the answer of a function to which a reader is lent, in a worker thread."""
        self._check_usable()
        return await to_thread.run_sync(self._answer, question, limiter=self._limiter)

    def _answer(self, question: Callable[[Reader[E]], T]) -> T:
        try:
            reader = self._idle.pop()
        except IndexError:
            reader = self.reader()
        try:
            return question(reader)
        finally:
            self._idle.append(reader)
            if self._closed:  # closed meanwhile, and after its sweep: leave no connection behind
                self._sweep()

    def _sweep(self) -> None:
        while True:
            try:
                self._idle.pop().close()
            except IndexError:
                return
