"""What every store promises, and nothing about how.

A store keeps streams, one a VM, inside one global order. ``Reader`` is the synchronous face (command line, worker
threads, auditors), ``Store`` the asynchronous one (the VMM). Both are made of a few questions that a store answers
itself and of many that are answered here, once, in terms of those.

Separate from the stores so that there is one page to read before using or writing one; ``esrm.testing.check_store``
is the same page as a program. Next: ``memory.py``.
"""

from __future__ import annotations

import os
from abc import ABC, abstractmethod
from bisect import bisect_right
from collections.abc import Callable, Iterator, Sequence
from itertools import islice
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, Generic, Self, TypeAlias, TypeVar
from zlib import crc32

from esrm.errors import Conflict, StoreError
from esrm.stores.chain import Anchor, Fault, Verdict, link, verify
from esrm.stores.records import PAGE, Batch, Codec, Committed, Draft, E, Record, Row, StreamHead, decoded, id_bytes
from esrm.subscription import Subscription

if TYPE_CHECKING:
    import anyio

__all__ = [
    "Anchor", "Codec", "Committed", "Draft", "E", "Fault", "Reader", "Record", "Row", "Store", "StreamHead", "Verdict",
    "link", "verify",
]  # fmt: skip

T = TypeVar("T")
Payload: TypeAlias = tuple[int, int, int, bytes]
"""A record without its circumstances, for bulk replay: position, revision, time_ns, data."""
Leaf: TypeAlias = tuple[int, Any, int, bytes]
"""The same of all streams together: position, a key that stands for the stream, revision, data."""


class Reader(ABC, Generic[E]):
    """The synchronous face: a context manager; usable from any thread, by one caller at a time.

    A read sees everything that was appended before it began. What cannot be there, such as a stream by a name that none
    may have or records behind 2**63, is not found, and no error. Reading after ``close`` is a ``StoreError``; a row
    that cannot be what was written is ``Corrupt``.
    """

    beside: Path | None = None
    """Where to keep what is derived from the log: a file, which anybody may delete at any time; None: nowhere."""

    def __init__(self, codec: Codec[E]) -> None:
        self._codec = codec

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    @abstractmethod
    def close(self) -> None:
        """Let go of the store; a second time does nothing."""

    @abstractmethod
    def rows(self, vm: str | None = None, after: int | None = None, limit: int | None = None) -> Iterator[Row]:
        """Yield rows as they are stored, undecoded: the fast way through a whole log, and what ``verify`` walks.

        Args:
            vm: this stream by revision; None for all streams by position.
            after: only above this revision (with ``vm``) or position (without); None for all there are, among them
                those of numbers that no store gives.
            limit: at most so many; None for all that stand when the end is reached.
        """

    @abstractmethod
    def head(self) -> int:
        """Return the last position; 0 for an empty store."""

    @abstractmethod
    def streams(self) -> list[StreamHead]:
        """Return where each stream ends, ordered by name (by Unicode code points)."""

    @abstractmethod
    def stream(self, vm: str) -> StreamHead | None:
        """Return where the stream ends; None if nothing was ever appended to it."""

    def payloads(self, vm: str, after: int = -1, limit: int | None = None) -> Iterator[Payload]:
        """Yield (position, revision, time_ns, data) of one stream: the fastest way to replay it."""
        return ((row[0], row[2], row[4], row[7]) for row in self.rows(vm, after, limit))

    def pages(self, *, until: int | None = None, share: int = 0, shares: int = 1) -> Iterator[list[Leaf]]:
        """Yield (position, key, revision, data) of all streams by position, in pages: the fastest way to replay them.

        The key stands for the stream; ``names`` tells for which one.

        Args:
            until: up to this position; None for all that stand when the end is reached.
            share: only that one, from 0, of ``shares`` into which the streams are dealt, each whole.
        """
        rows = self.rows(limit=until)
        while page := list(islice(rows, PAGE)):
            yield [(row[0], row[1], row[2], row[7]) for row in page if crc32(row[1].encode()) % shares == share]

    def anchor(self) -> Anchor | None:
        """Return what is noted outside of the log about its head, for ``verify``; None for nothing.

        Raises:
            Corrupt, StoreError: what was noted is damaged, or cannot be read.
        """
        return None

    def damage(self) -> str | None:
        """Return what is wrong with how the rows are found, such as an index that lacks some, for ``verify``."""
        return None

    def names(self) -> dict[Any, str]:
        """Return the streams' names by the keys that ``pages`` gives them."""
        return {head.vm: head.vm for head in self.streams()}

    def read(self, vm: str, after: int = -1, limit: int = PAGE) -> list[Record[E]]:
        """Return up to ``limit`` records of a stream with revisions above ``after``, in order; fewer: the end."""
        return [decoded(self._codec, row) for row in self.rows(vm, after, limit)]

    def read_all(self, after: int = 0, limit: int = PAGE) -> list[Record[E]]:
        """Return up to ``limit`` records of all streams with positions above ``after``, in order; fewer: the end."""
        return [decoded(self._codec, row) for row in self.rows(None, after, limit)]

    def find(self, id: str) -> Record[E] | None:
        """Return the record with this full id; None if nothing has it. May look at every record."""
        try:
            row = self._find(id_bytes(id))
        except ValueError:  # no id at all, so nobody's
            return None
        return None if row is None else decoded(self._codec, row)

    def revision_at_position(self, vm: str, position: int) -> int:
        """Return the stream's last revision whose position is at most ``position``; -1 if none is."""
        return self._bisect(vm, 0, position)

    def revision_at_time(self, vm: str, time_ns: int) -> int:
        """Return the stream's last revision written at or before ``time_ns``; -1 if none was.

        By binary search, so it relies on what the manager sees to: time never runs backward inside a stream.
        """
        return self._bisect(vm, 4, time_ns)

    def _find(self, id: bytes) -> Row | None:
        return next((row for row in self.rows() if row[3] == id), None)

    def _bisect(self, vm: str, column: int, value: int) -> int:
        def probe(revision: int) -> int:
            return next(self.rows(vm, revision - 1, 1))[column]  # type: ignore[return-value]

        stream = self.stream(vm)
        return -1 if stream is None else bisect_right(range(stream.revision + 1), value, key=probe) - 1


class Store(ABC, Generic[E]):
    """The asynchronous face: ``async with`` it, append, read, wait, subscribe.

    Appends are atomic and in one global order: positions count 1, 2, 3 ... without gaps over all streams, revisions
    0, 1, 2 ... in each. What an append returned stands, as durably as the store says.

    A store belongs to the process and the event loop that opened it; elsewhere, open another one on the same place,
    or take ``reader()`` into another thread. Awaited before it is opened, after it is closed, in another loop or after
    a fork, whatever it offers raises ``StoreError``; a subscription does so when it is asked for a record.

    A reader lives by itself: ``reader()`` needs no open store, and what it returns outlives the store. Only after a
    fork it raises ``StoreError``, too.
    """

    def __init__(self, codec: Codec[E]) -> None:
        self._codec = codec
        self._loop: object = None  # the event loop and the process, once open
        self._pid = 0
        self._opening = self._closed = False

    async def __aenter__(self) -> Self:
        if self._opening or self._loop is not None or self._closed:
            raise StoreError(f"{self} was opened before; make a new one")
        import anyio.lowlevel  # late, here and below: who only reads loads no event loop

        self._opening = True
        try:
            await self._open()
        finally:
            self._opening = False
        self._over = anyio.Event()
        token = anyio.lowlevel.current_token()
        self._ask_loop = token.backend_class.current_token  # of asyncio or trio itself: ten times faster than anyio's
        self._loop, self._pid = token.native_token, os.getpid()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.aclose()

    async def aclose(self) -> None:
        """Finish the appends under way and let go; who still waits gets a ``StoreError``. Twice does nothing more.

        Whoever calls it, it returns when that is over. A cancellation meanwhile is passed on only then.

        Raises:
            StoreError: another task is just opening it; or what was appended could not be anchored at the end.
        """
        if self._opening:
            raise StoreError(f"{self} is being opened by another task: cancel that one, or close when it is open")
        if self._loop is None or self._over.is_set():
            return
        self.check_home()
        if self._closed:
            await outlast(self._over)
        else:
            self._closed = True
            try:
                await self._close()
            finally:
                self._over.set()

    def check_home(self) -> None:
        """Raise ``StoreError`` unless this is the event loop, and the process, that opened the store."""
        if self._loop is None:
            raise StoreError(f"{self} is not open: use it inside `async with`")
        try:
            here = self._ask_loop() is self._loop and os.getpid() == self._pid
        except RuntimeError:  # no event loop runs here
            here = False
        if not here:
            raise StoreError(f"{self} was opened in another process or event loop: open one of your own here")

    @abstractmethod
    async def append(self, vm: str, drafts: Sequence[Draft[E]], *, expected: int) -> Committed[E]:
        """Add drafts to the end of a stream, all or none, if it ends where the caller thinks.

        What it returns are the records, in a list whose class says how well they stand (``Committed``).

        Args:
            vm: the stream, 1 to 255 printable characters; it begins with its first record.
            drafts: at most 10,000. None at all returns [] once ``expected`` is checked.
            expected: the last revision the caller has seen, -1 for an empty stream.

        Raises:
            Conflict: the stream ends elsewhere. But if the records that follow ``expected`` have exactly the ids of
                the drafts, this is the retry of an append that succeeded: those records are returned as the first
                time.
            InvalidName, TooLarge, Malformed: before anything is written.
            Rejected: the disk or server failed, or somebody else is the writer; nothing of the batch stands, nor ever
                will. Ask again when that is mended.
            Unknown: the disk or server failed, and whether the batch stands cannot be found out at present. Retry with
                the same ids when that is mended: it is then answered as the first time, or appended.
            Corrupt: the log has lost or changed what was acknowledged; nothing is appended.

        A caller cancelled while waiting knows as little as after ``Unknown``: the batch stands whole or not at all. To
        find out, append to the stream again (no drafts will do): appends are decided in the order in which they were
        asked for, so the first one is through when the second is answered.
        """

    @abstractmethod
    async def wait_past(self, position: int) -> int:
        """Wait until the head is beyond ``position``, and return the head: at once if it already is."""

    @abstractmethod
    def reader(self) -> Reader[E]:
        """Return a new synchronous face of the same data, for any thread, which may ask; the caller closes it."""

    @abstractmethod
    async def ask(self, question: Callable[[Reader[E]], T]) -> T:
        """Return the answer of a function to which a reader is lent: off the event loop if it may block.

        The function runs in a worker thread then, and must neither keep the reader nor touch the event loop.
        """

    @abstractmethod
    async def _open(self) -> None: ...

    @abstractmethod
    async def _close(self) -> None:
        """Is called once, and sees it through whatever cancels meanwhile: ``outlast``."""

    async def read(self, vm: str, after: int = -1, limit: int = PAGE) -> list[Record[E]]:
        """As ``Reader.read``."""
        return await self.ask(lambda reader: reader.read(vm, after, limit))

    async def read_all(self, after: int = 0, limit: int = PAGE) -> list[Record[E]]:
        """As ``Reader.read_all``."""
        return await self.ask(lambda reader: reader.read_all(after, limit))

    def recent(self, after: int, limit: int, vm: str | None = None) -> list[Record[E]] | None:
        """Return records above position ``after`` that are still at hand, without reading; None: read them.

        Up to ``limit``, in order, of one stream or of all; fewer: nothing more of them stands up to the head that
        ``wait_past`` last returned. (What another process has appended behind that head may be missing, so this is
        for those who come from ``wait_past``: many subscribers that follow a store share one copy of its tail.)
        """
        return None

    async def head(self) -> int:
        """As ``Reader.head``."""
        return await self.ask(lambda reader: reader.head())

    async def streams(self) -> list[StreamHead]:
        """As ``Reader.streams``."""
        return await self.ask(lambda reader: reader.streams())

    async def stream(self, vm: str) -> StreamHead | None:
        """As ``Reader.stream``."""
        return await self.ask(lambda reader: reader.stream(vm))

    async def find(self, id: str) -> Record[E] | None:
        """As ``Reader.find``."""
        return await self.ask(lambda reader: reader.find(id))

    async def revision_at_position(self, vm: str, position: int) -> int:
        """As ``Reader.revision_at_position``."""
        return await self.ask(lambda reader: reader.revision_at_position(vm, position))

    async def revision_at_time(self, vm: str, time_ns: int) -> int:
        """As ``Reader.revision_at_time``."""
        return await self.ask(lambda reader: reader.revision_at_time(vm, time_ns))

    def subscribe(
        self, after: int = 0, *, vm: str | None = None, batch: int = 256, until: int | None = None
    ) -> Subscription[Record[E]]:
        """Return every record after a position, in order, none missed, none twice: see ``Subscription``."""
        return Subscription(self, after, vm=vm, batch=batch, until=until)

    def _check_usable(self) -> None:
        if self._closed:
            raise StoreError(f"{self} is closed")
        self.check_home()

    def _check_process(self) -> None:
        if self._loop is not None and self._pid != os.getpid():
            raise StoreError(f"{self} was opened before a fork: open one of your own here")


def conflict(batch: Batch[E], actual: int) -> Conflict:
    """Return the refusal of an append whose stream ends at ``actual``."""
    ends = "is empty" if actual < 0 else f"ends at revision {actual}"
    seen = "an empty stream" if batch.expected < 0 else f"revision {batch.expected} as the last"
    return Conflict(f"{batch.vm}: the append expected {seen}, but the stream {ends}: read it and decide anew")


async def outlast(event: anyio.Event) -> None:
    """Wait for an event, whatever cancels meanwhile; that is passed on afterwards."""
    import anyio

    held: BaseException | None = None
    with anyio.CancelScope(shield=True):
        while not event.is_set():
            try:
                await event.wait()
            except (anyio.get_cancelled_exc_class(), KeyboardInterrupt) as error:  # asyncio's own know no shield
                held = error
    if held is not None:
        raise held
