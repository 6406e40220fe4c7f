"""The synchronous reading face of a log on disk.

It decides how rows come out of SQLite: in pages, each its own short transaction, so that no reader keeps the log's
WAL from being folded back, and none ever waits for the writer. It runs without any event loop: the command line's way
in. Next: ``committer.py``, how rows get in.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import apsw

from esrm.errors import StoreError
from esrm.stores.base import Anchor, Leaf, Payload, Reader
from esrm.stores.records import PAGE, Codec, E, Row, StreamHead, head_of
from esrm.stores.sqlite.schema import close, fetch, located, open_reader, translated

# A cast keeps bytes bytes, whatever they are: no decoding to str and back, and a damaged byte is seen by the chain.
_COLUMNS = "position, coalesce(name, ''), revision, records.id, time_ns, actor, correlation, CAST(data AS BLOB), hash"
# An outer join, so that a row whose stream is gone still comes out, and is seen by the chain too.
_ROW = f"SELECT {_COLUMNS} FROM records LEFT JOIN streams ON streams.id = stream "
_BY_POSITION = _ROW + "WHERE position > ? ORDER BY position LIMIT ?"
_BY_ID = _ROW + "WHERE records.id = ?"
_STREAMS = f"""SELECT {_COLUMNS} FROM streams CROSS JOIN records ON stream = streams.id
    AND revision = (SELECT max(revision) FROM records WHERE stream = streams.id) ORDER BY name"""
_PAYLOADS = """SELECT position, revision, time_ns, CAST(data AS BLOB)
    FROM streams JOIN records ON stream = streams.id WHERE name = ? AND revision > ? ORDER BY revision LIMIT ?"""
# Without the join that a name takes, which would be half of the time. Streams are dealt out by their numbers.
_PAGE = """SELECT position, stream, revision, CAST(data AS BLOB)
    FROM records WHERE position > ? AND position <= ? AND stream % ? = ? ORDER BY position LIMIT ?"""
BY_REVISION = _ROW + "WHERE name = ? AND revision > ? ORDER BY revision LIMIT ?"
LAST_OF = _ROW + "WHERE name = ? ORDER BY revision DESC LIMIT 1"
_POSITION_MAX = 2**63 - 1
HEAD = "SELECT coalesce(max(position), 0) FROM records"


class SqliteReader(Reader[E]):
    """The synchronous face of a log in an SQLite file, whoever else reads or writes it.

    Args:
        path: an existing log; reading never creates one.
        codec: what the events were encoded with.

    Raises:
        StoreError: what is there is no log that this version can read; the message says what it is.
    """

    def __init__(self, path: str | os.PathLike[str], codec: Codec[E]) -> None:
        super().__init__(codec)
        self._path = located(path)
        self.beside = Path(f"{self._path}-cache")
        self._pid = os.getpid()
        self._connection: apsw.Connection | None = open_reader(self._path)

    def __repr__(self) -> str:
        return f"<SqliteReader of {self._path}{'' if self._connection else ', closed'}>"

    def close(self) -> None:
        """Close the connection; a second time does nothing."""
        connection, self._connection = self._connection, None
        if connection is not None and self._pid == os.getpid():
            with translated(self._path):
                close(connection, self._path)

    def rows(self, vm: str | None = None, after: int | None = None, limit: int | None = None) -> Iterator[Row]:
        """Yield stored rows; see ``Reader.rows``."""
        if vm is None:
            return self._paged(_BY_POSITION, (), 0 if after is None else after, limit, 0)
        return self._paged(BY_REVISION, (vm,), -1 if after is None else after, limit, 2)

    def payloads(self, vm: str, after: int = -1, limit: int | None = None) -> Iterator[Payload]:
        """Yield (position, revision, time_ns, data); see ``Reader.payloads``."""
        return self._paged(_PAYLOADS, (vm,), after, limit, 1)

    def pages(self, *, until: int | None = None, share: int = 0, shares: int = 1) -> Iterator[list[Leaf]]:
        """Yield pages of (position, key, revision, data); see ``Reader.pages``. The key is the stream's number."""
        last, end, size = 0, _POSITION_MAX if until is None else until, PAGE
        while size == PAGE:
            page = self._fetch(_PAGE, last, end, shares, share, PAGE)
            yield page
            size = len(page)
            last = page[-1][0] if page else last

    def names(self) -> dict[Any, str]:
        """Return the streams' names by their numbers."""
        return dict(self._fetch("SELECT id, name FROM streams"))

    def anchor(self) -> Anchor | None:
        """Return what the head file says; see ``Reader.anchor``."""
        from esrm.stores.sqlite.heads import head_path, read_head  # late: of the commands, only verify asks

        slot = read_head(head_path(self._path), fresh=not self.head())
        return None if slot is None else slot.anchor

    def damage(self) -> str | None:
        """Return what SQLite finds wrong with the file itself, its indexes among it; see ``Reader.damage``."""
        [[found]] = self._fetch("PRAGMA integrity_check(1)")
        return None if found == "ok" else f"the database file is damaged: {found}"

    def head(self) -> int:
        """Return the last position."""
        return self._fetch(HEAD)[0][0]

    def streams(self) -> list[StreamHead]:
        """Return where each stream ends, by name."""
        return [head_of(row) for row in self._fetch(_STREAMS)]

    def stream(self, vm: str) -> StreamHead | None:
        """Return where the stream ends."""
        return next((head_of(row) for row in self._fetch(LAST_OF, vm)), None)

    def _find(self, id: bytes) -> Row | None:
        # No index on ids: on this rare path SQLite looks at every row (0.1 us each), and appends are spared its cost.
        return next(iter(self._fetch(_BY_ID, id)), None)

    def _paged(self, statement: str, key: tuple[str, ...], after: int, limit: int | None, column: int) -> Iterator[Any]:
        """Yield from page after page, going on behind the value of ``column`` in the last row."""
        while limit is None or limit > 0:
            size = PAGE if limit is None else min(PAGE, limit)
            page = self._fetch(statement, *key, after, size)
            yield from page
            if len(page) < size:
                return
            after, limit = page[-1][column], None if limit is None else limit - size

    def _fetch(self, statement: str, *bindings: Any) -> list[Any]:
        if self._connection is None:
            raise StoreError(f"{self} is closed")
        if self._pid != os.getpid():
            raise StoreError(f"{self} was opened before a fork: open one of your own here")
        with translated(self._path):
            return fetch(self._connection, statement, *bindings)
