"""A subscription: catch up, then follow.

It decides in which order a reader is told what happened: every record after a position, in order of position, none
missed and none twice. There is one loop and no hand-off from "history" to "live", because a hand-off is where records
are lost: wait until the head is past us (at once, while we are behind), read the next page, say how far we have
looked, repeat. A notification is only ever a hint that reading is worth while.

No task runs in the background, and at most one page is held. A slow subscriber costs nobody but itself.

Why beneath the stores: a store hands subscriptions out, and a subscription needs only the five questions of
``Source``. Next: ``stores/base.py``.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Generic, Protocol, TypeVar

from esrm.errors import Corrupt, InUse


class Placed(Protocol):
    """What a subscription reads off a record: where it stands, and the hash that tells it from any other one."""

    @property
    def position(self) -> int: ...  # noqa: D102  the class says it
    @property
    def revision(self) -> int: ...  # noqa: D102
    @property
    def hash(self) -> str: ...  # noqa: D102


R = TypeVar("R", bound=Placed)


class Source(Protocol[R]):
    """What a subscription asks of a store. A page shorter than its limit means: nothing more stands there now."""

    async def wait_past(self, position: int) -> int:
        """Return the head once it is beyond ``position``."""
        ...

    def recent(self, after: int, limit: int, vm: str | None) -> list[R] | None:
        """Return such records of one stream or of all above a position as are at hand; None: they must be read."""
        ...

    async def read_all(self, after: int, limit: int) -> list[R]:
        """Return up to ``limit`` records with positions above ``after``, in order."""
        ...

    async def read(self, vm: str, after: int, limit: int) -> list[R]:
        """Return up to ``limit`` records of one stream with revisions above ``after``, in order."""
        ...

    async def revision_at_position(self, vm: str, position: int) -> int:
        """Return the last revision of ``vm`` at or before ``position``, -1 if there is none."""
        ...


def behind(known: R, page: list[R]) -> list[R]:
    """What follows a record that was told, of a page that was read from that record on.

    Its hash stands for all before it: in a log that was restored from a copy and went on, what follows there follows
    from something else than what was told.

    Raises:
        Corrupt: the page does not begin with that record.
    """
    if not page or page[0].hash != known.hash:
        raise Corrupt(
            f"position {known.position} is not the record any more that was read there: the log was replaced by an "
            "older copy that went on, or it was changed; what was told so far is void, so begin anew"
        )
    return page[1:]


class Subscription(Generic[R]):
    """Every record after a position, in order, none missed, none twice: first what stands, then what comes.

    Iterate over records (``async for record in sub``) or over pages (``async for page in sub.pages()``: lists of at
    least one and at most ``batch`` records, the cheap way across a task or thread border). Iterating again goes on
    where the last one stopped. It holds nothing that needs closing. It belongs to one task at a time.

    Raises (when iterated): Corrupt for a log that cannot be what was written, or that is no longer the one that was
        told so far (it was restored from a copy, and went on otherwise): begin anew then. StoreError from the store.
        InUse while another task waits for it.

    Args:
        source: the store.
        after: the last position already known; 0 for everything. A position beyond the head is waited for.
        vm: only this VM's records.
        batch: records a page, at least 1; also the most that is ever held in memory.
        until: stop after this position instead of following for ever; waits for it if it is still to come.
    """

    def __init__(
        self, source: Source[R], after: int = 0, *, vm: str | None = None, batch: int = 256, until: int | None = None
    ) -> None:
        if after < 0 or batch < 1:
            raise ValueError(f"a subscription needs after >= 0 and batch >= 1, not after={after}, batch={batch}")
        self._source, self._vm, self._batch, self._until = source, vm, batch, until
        self._position = after  # what the consumer has been given, or need not see
        self._scanned = after  # how far we have read: ahead of it by what waits in _page
        self._revision: int | None = None  # of the one stream as of `after`; None before the first look
        self._known: R | None = None  # the last record that was read
        self._page: list[R] = []  # last first
        self._in_hand = False

    @property
    def position(self) -> int:
        """The position up to which nothing is left to tell: the checkpoint to resume ``after``.

        For a filtered subscription it moves past other VMs' records too, so resuming does not scan them again.
        """
        return self._position

    def __repr__(self) -> str:
        what = "all VMs" if self._vm is None else self._vm
        return f"<Subscription to {what} at {self._position}{'' if self._until is None else f' until {self._until}'}>"

    def __aiter__(self) -> Subscription[R]:
        return self

    async def __anext__(self) -> R:
        if not self._page:
            self._page.extend(reversed(await self._next_page()))
        record = self._page.pop()
        self._position = record.position if self._page else self._scanned
        return record

    def pages(self) -> AsyncIterator[list[R]]:
        """Iterate over pages instead of records."""
        return _Pages(self._next_page)

    @property
    def finished(self) -> bool:
        """Whether ``until`` is reached, so that nothing more will come."""
        return not self._page and self._until is not None and self._scanned >= self._until

    async def scan(self) -> list[R]:
        """Turn the loop once: wait for the head to move, read a page, return what of it is ours.

        That is nothing at times, if it was all other VMs' (``position`` has moved nevertheless), and nothing at once
        when ``finished``. A scan that is cancelled has not happened.
        """
        if self._in_hand:
            raise InUse("another task is waiting for this subscription: make one for each")
        self._in_hand = True
        try:
            return await self._scan()
        finally:
            self._in_hand = False

    async def _scan(self) -> list[R]:
        page = self._page[::-1]
        if not page and not self.finished:
            head = await self._source.wait_past(self._scanned)
            page = self._source.recent(self._scanned, self._batch, self._vm)  # as all who keep up with the head do
            if page is None:
                page = await self._read()
            # A short page was read after the head was seen: nothing of ours is left up to that head.
            last = page[-1].position if page else 0
            self._scanned = last if len(page) == self._batch else max(head, last)
            self._known = page[-1] if page else self._known
            if self._until is not None and self._scanned > self._until:
                self._scanned = self._until
                page = [record for record in page if record.position <= self._until]
        self._page.clear()
        self._position = self._scanned
        return page

    async def _read(self) -> list[R]:
        known, vm = self._known, self._vm
        if known is None:
            if vm is None:
                return await self._source.read_all(self._scanned, self._batch)
            if self._revision is None:
                self._revision = await self._source.revision_at_position(vm, self._scanned)
            return await self._source.read(vm, self._revision, self._batch)
        # With the last one that was read, again.
        if vm is None:
            page = await self._source.read_all(known.position - 1, self._batch + 1)
        else:
            page = await self._source.read(vm, known.revision - 1, self._batch + 1)
        return behind(known, page)

    async def _next_page(self) -> list[R]:
        while not self.finished:
            if page := await self.scan():
                return page
        raise StopAsyncIteration


class _Pages(Generic[R]):
    """An iterator, not an async generator: one that is left half-way needs no clean-up."""

    def __init__(self, following: Callable[[], Awaitable[list[R]]]) -> None:
        self._following = following

    def __aiter__(self) -> _Pages[R]:
        return self

    async def __anext__(self) -> list[R]:
        return await self._following()
