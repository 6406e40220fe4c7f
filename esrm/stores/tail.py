"""The last records of a store, at hand for those who follow it: one decoded copy for a hundred subscribers.

It decides how much of the tail is kept: the last 4,096 records, fewer if they are large, so that it stays under 4 MB.
It is a shortcut and never the truth: it holds an unbroken run of positions or begins anew, and a reader whose place is
not in it reads the store. Without it each subscriber pays a thread hop, a query and a decoding for each page.

Separate because every store can use it. Next: ``memory.py``, or ``sqlite/writer.py`` which fills it.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Generic

from esrm.stores.records import E, Record

RECORDS_MAX = 4096  # a power of two: a record's slot is its position's last bits
BYTES_MAX = 4_000_000
_RECORD_BYTES = 500  # what a record takes besides its event: the struct, its id, its hash, its numbers
_EVENT_FACTOR = 4  # what an event takes as objects, at most, for each byte of its encoded form


class Tail(Generic[E]):
    """A bounded run of the latest records, without gaps. Belongs to one thread; keeps nothing until first asked.

    Attributes:
        last: the position of the newest record in it; 0 for none.
    """

    def __init__(self) -> None:
        self.last = 0
        self._first = 1  # positions _first to last are held
        self._slots: list[Record[E] | None] = []
        self._sizes: list[int] = []
        self._bytes = 0

    def extend(self, records: Sequence[Record[E]], datas: Sequence[bytes]) -> None:
        """Add records that were appended, with their encoded events; a gap before them lets go of all older ones."""
        if not self._slots:
            return
        slots, sizes = self._slots, self._sizes
        for record, data in zip(records[-RECORDS_MAX:], datas[-RECORDS_MAX:], strict=True):
            if record.position != self.last + 1:
                self._drop(self.last)
                self._first = record.position
            elif record.position - self._first == RECORDS_MAX:
                self._drop(self._first)
            slot = record.position % RECORDS_MAX
            slots[slot], sizes[slot] = record, _RECORD_BYTES + _EVENT_FACTOR * len(data)
            self._bytes += sizes[slot]
            self.last = record.position
        while self._bytes > BYTES_MAX:
            self._drop(self._first)

    def between(self, position: int, head: int, limit: int, vm: str | None) -> list[Record[E]] | None:
        """Return up to ``limit`` records above ``position``, of one stream or of all; None if it does not hold them.

        They go up to ``head`` or further, unless there are more than ``limit``.
        """
        if not self._slots:  # from now on somebody follows
            self._slots, self._sizes = [None] * RECORDS_MAX, [0] * RECORDS_MAX
        if not self._first <= position + 1 <= self.last or self.last < head:
            return None
        end = self.last if vm is not None else min(self.last, position + limit)
        slots, start, stop = self._slots, (position + 1) % RECORDS_MAX, (end + 1) % RECORDS_MAX
        held: list[Any] = slots[start:stop] if start < stop else slots[start:] + slots[:stop]
        return held if vm is None else [record for record in held if record.vm == vm][:limit]

    def _drop(self, end: int) -> None:
        """Let go of the records up to a position."""
        while self._first <= end:
            slot = self._first % RECORDS_MAX
            self._bytes -= self._sizes[slot]
            self._slots[slot] = None
            self._first += 1
