"""The store that forgets: every promise of ``base.py`` in lists, for tests, plans and what-ifs.

It keeps encoded bytes and their chain like any other store, so a codec that cannot read what it wrote shows up here
first. Separate because it is also the shortest answer to "how do I write a store?". Next: ``sqlite/store.py``.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Sequence
from itertools import islice

import anyio
from anyio.lowlevel import checkpoint, checkpoint_if_cancelled

from esrm.errors import StoreError
from esrm.stores.base import Reader, Store, T, conflict
from esrm.stores.chain import GENESIS, seal
from esrm.stores.records import (
    Batch,
    Codec,
    CommittedVolatile,
    Draft,
    E,
    Record,
    Row,
    StreamHead,
    decoded,
    entered,
    head_of,
    prepare,
)
from esrm.stores.tail import Tail


class _Shelf:
    """What store and readers share. The lock is held for as long as a list operation takes."""

    def __init__(self) -> None:
        self.lock = threading.Lock()
        self.rows: list[Row] = []
        self.streams: dict[str, list[Row]] = {}


class MemoryReader(Reader[E]):
    """The synchronous face of a ``MemoryStore``; outlives it."""

    def __init__(self, codec: Codec[E], shelf: _Shelf) -> None:
        super().__init__(codec)
        self._shelf: _Shelf | None = shelf

    def close(self) -> None:
        """Let go of the records."""
        self._shelf = None

    def rows(self, vm: str | None = None, after: int | None = None, limit: int | None = None) -> Iterator[Row]:
        """Yield stored rows; see ``Reader.rows``."""
        shelf = self._open()
        with shelf.lock:
            rows = shelf.rows if vm is None else shelf.streams.get(vm, [])
            end = len(rows)
        # Lists only grow, and revision or position is the index (plus one): what stood at the start stays in place.
        start = 0 if after is None else max(0, after + (vm is not None))
        return islice((rows[index] for index in range(start, end)), None if limit is None else min(max(0, limit), end))

    def head(self) -> int:
        """Return the last position."""
        return len(self._open().rows)

    def streams(self) -> list[StreamHead]:
        """Return where each stream ends, by name."""
        shelf = self._open()
        with shelf.lock:
            return [head_of(rows[-1]) for _, rows in sorted(shelf.streams.items())]

    def stream(self, vm: str) -> StreamHead | None:
        """Return where the stream ends."""
        shelf = self._open()
        with shelf.lock:
            rows = shelf.streams.get(vm)
        return head_of(rows[-1]) if rows else None

    def _open(self) -> _Shelf:
        if self._shelf is None:
            raise StoreError("this reader of a memory store is closed")
        return self._shelf


class MemoryStore(Store[E]):
    """A store in memory, gone with the last reference. An append is done before anything else can run."""

    def __init__(self, codec: Codec[E]) -> None:
        super().__init__(codec)
        self._shelf = _Shelf()
        self._reader = MemoryReader(codec, self._shelf)
        self._tail = Tail[E]()

    def __repr__(self) -> str:
        return f"<MemoryStore: {len(self._shelf.rows):,} records in {len(self._shelf.streams):,} streams>"

    async def _open(self) -> None:
        self._moved = anyio.Event()

    async def _close(self) -> None:
        self._moved.set()

    async def append(self, vm: str, drafts: Sequence[Draft[E]], *, expected: int) -> CommittedVolatile[E]:
        """Add drafts to the end of a stream; see ``Store.append``. Who is cancelled already appends nothing."""
        self._check_usable()
        batch = prepare(self._codec, vm, drafts, expected)
        await checkpoint_if_cancelled()
        stream = self._shelf.streams.get(vm, [])
        if expected == len(stream) - 1:
            rows = self._write(batch, stream)
            records = CommittedVolatile(entered(rows, batch.drafts))
            self._tail.extend(records, batch.datas)
        else:
            standing = stream[expected + 1 : expected + 1 + len(batch.ids)]
            if not standing or [row[3] for row in standing] != batch.ids:
                raise conflict(batch, len(stream) - 1)
            records = CommittedVolatile(decoded(self._codec, row) for row in standing)
        await checkpoint()  # only now that it stands, so that a close never comes before
        return records

    def _write(self, batch: Batch[E], stream: list[Row]) -> list[Row]:
        rows = seal(batch, len(self._shelf.rows), stream[-1][8] if stream else GENESIS)
        if rows:
            with self._shelf.lock:
                stream += rows
                self._shelf.rows += rows
                self._shelf.streams[batch.vm] = stream
            self._moved.set()
            self._moved = anyio.Event()
        return rows

    async def wait_past(self, position: int) -> int:
        """Wait until the head is beyond ``position``, and return it."""
        self._check_usable()
        await checkpoint()
        while len(self._shelf.rows) <= position:
            await self._moved.wait()
            self._check_usable()
        return len(self._shelf.rows)

    def recent(self, after: int, limit: int, vm: str | None = None) -> list[Record[E]] | None:
        """Return such records above ``after`` as are at hand; see ``Store.recent``."""
        return self._tail.between(after, len(self._shelf.rows), limit, vm)

    def reader(self) -> MemoryReader[E]:
        """Return a new synchronous face of the same records."""
        self._check_process()
        return MemoryReader(self._codec, self._shelf)

    async def ask(self, question: Callable[[Reader[E]], T]) -> T:
        """Return the answer of a function to which a reader is lent, at once."""
        self._check_usable()
        await checkpoint()
        return question(self._reader)
