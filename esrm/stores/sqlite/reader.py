"""The synchronous reading face of a log on disk.

It decides how rows come out of SQLite: in pages, each its own short transaction, so that no reader keeps the log's
WAL from being folded back, and none ever waits for the writer. It runs without any event loop: the command line's way
in. Next: ``live.py``, where rows get in.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import apsw

from esrm.errors import Corrupt, EsrmError, StoreError
from esrm.stores.base import Anchor, Leaf, Payload, Reader
from esrm.stores.records import PAGE, Codec, E, Row, StreamHead, head_of
from esrm.stores.sqlite.schema import close, fetch, located, missing, open_reader, translated

# A cast keeps bytes bytes, whatever they are: no decoding to str and back, and a damaged byte is seen by the chain.
_COLUMNS = "position, coalesce(name, ''), revision, records.id, time_ns, actor, correlation, CAST(data AS BLOB), hash"
_TEXTS = 1, 5, 6
_UNDECODED = """position, CAST(coalesce(name, '') AS BLOB), revision, records.id, time_ns, CAST(actor AS BLOB),
    CAST(correlation AS BLOB), CAST(data AS BLOB), hash"""
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
_BELOW_ALL = float("-inf")  # where None begins: a row at -1, which no store wrote, is there for other programs, too
_POSITION_MAX = 2**63 - 1
HEAD = "SELECT coalesce(max(position), 0) FROM records"
_OPENINGS_MAX = 10  # for one page


class SqliteReader(Reader[E]):
    """The synchronous face of a log in an SQLite file, whoever else reads or writes it.

    It reads what lies at the path. When the log or a file beside it has been replaced by another one, it opens that,
    between one page and the next. What is only gone it still has open, as a writer has, who will put it back.

    Args:
        path: an existing log; reading never creates one.
        codec: what the events were encoded with.

    Raises:
        StoreError: what is there is no log that this version can read; the message says what it is.
        Corrupt: nothing is there, but was: a head file says how much.
    """

    def __init__(self, path: str | os.PathLike[str], codec: Codec[E]) -> None:
        super().__init__(codec)
        self._path = located(path)
        self.beside = Path(f"{self._path}-cache")
        self._pid, self._closed = os.getpid(), False
        self._paths = str(self._path), f"{self._path}-wal", f"{self._path}-shm"
        self._connection: apsw.Connection | None = self._connect()  # None: closed, or to be opened anew

    def __repr__(self) -> str:
        return f"<SqliteReader of {self._path}{', closed' if self._closed else ''}>"

    def close(self) -> None:
        """Close the connection; a second time does nothing."""
        connection, self._connection, self._closed = self._connection, None, True
        if connection is not None and self._pid == os.getpid():
            with translated(self._path):
                close(connection, self._path)

    def rows(self, vm: str | None = None, after: int | None = None, limit: int | None = None) -> Iterator[Row]:
        """Yield stored rows; see ``Reader.rows``."""
        if vm is None:
            return self._paged(_BY_POSITION, (), _BELOW_ALL if after is None else after, limit, 0)
        return self._paged(BY_REVISION, (vm,), _BELOW_ALL if after is None else after, limit, 2)

    def payloads(self, vm: str, after: int = -1, limit: int | None = None) -> Iterator[Payload]:
        """Yield (position, revision, time_ns, data); see ``Reader.payloads``."""
        return self._paged(_PAYLOADS, (vm,), after, limit, 1)

    def pages(self, *, until: int | None = None, share: int = 0, shares: int = 1) -> Iterator[list[Leaf]]:
        """Yield pages of (position, key, revision, data); see ``Reader.pages``. The key is the stream's number."""
        last, end, size = _BELOW_ALL, _POSITION_MAX if until is None else _storable(until), PAGE
        while size == PAGE:
            page = self._fetch(_PAGE, last, end, shares, share, PAGE)
            yield page
            size = len(page)
            last = page[-1][0] if page else last

    def names(self) -> dict[Any, str]:
        """Return the streams' names by their numbers."""
        found = self._fetch("SELECT id, CAST(name AS BLOB) FROM streams")
        return {id: (name or b"").decode(errors="backslashreplace") for id, name in found}

    def anchor(self) -> Anchor | None:
        """Return what the head file says; see ``Reader.anchor``."""
        from esrm.stores.sqlite.heads import head_path, read_head, read_slots  # late: few of the commands ask

        path = head_path(self._path)
        slot = next(iter(read_slots(path)[0]), None)
        if slot is None and self.head():  # asked only now, for a damaged log may have no answer
            slot = read_head(path)  # once more: it may have been begun meanwhile
            if slot is None and missing(path) != "gone":
                raise Corrupt(f"{path} is empty, though the log has records: somebody emptied it, or it is damaged")
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
        return [head_of(row) for row in self._rows(_STREAMS)]

    def stream(self, vm: str) -> StreamHead | None:
        """Return where the stream ends."""
        return next((head_of(row) for row in self._rows(LAST_OF, vm)), None)

    def _check_vacant(self, error: StoreError) -> None:
        """Raise another error if there is no log at all, but was one."""
        how = missing(self._path)
        if how is None:
            return
        from esrm.stores.sqlite.heads import head_path, read_slots

        head = head_path(self._path)
        if (slots := read_slots(head)[0]) and slots[0].position:
            raise Corrupt(
                f"{self._path} is {how}, but {slots[0].position:,} records were "
                f"acknowledged, says {head.name}: put the log back, with its WAL"
            ) from error

    def _find(self, id: bytes) -> Row | None:
        # No index on ids: on this rare path SQLite looks at every row (0.1 us each), and appends are spared its cost.
        return next(iter(self._rows(_BY_ID, id)), None)

    def _paged(
        self, statement: str, key: tuple[str, ...], after: float, limit: int | None, column: int
    ) -> Iterator[Any]:
        """Yield from page after page, going on behind the value of ``column`` in the last row."""
        while limit is None or limit > 0:
            size = PAGE if limit is None else min(PAGE, limit)
            page = self._rows(statement, *key, _storable(after), size)
            yield from page
            if len(page) < size:
                return
            after, limit = page[-1][column], None if limit is None else limit - size

    def _rows(self, statement: str, *bindings: Any) -> list[Any]:
        """As ``_fetch``; but a text that is not UTF-8 comes as bytes, for who judges rows to see which one it is."""
        try:
            return self._fetch(statement, *bindings)
        except Corrupt as error:
            if not isinstance(error.__cause__, UnicodeDecodeError):
                raise
        page = [list(row) for row in self._fetch(statement.replace(_COLUMNS, _UNDECODED), *bindings)]
        for row in page:
            for column in _TEXTS:
                with suppress(UnicodeDecodeError, AttributeError):  # or NULL, which the table forbids
                    row[column] = row[column].decode()
        return [tuple(row) for row in page]

    def _fetch(self, statement: str, *bindings: Any) -> list[Any]:
        if self._closed:
            raise StoreError(f"{self} is closed")
        if self._pid != os.getpid():
            raise StoreError(f"{self} was opened before a fork: open one of your own here")
        for _ in range(_OPENINGS_MAX):
            connection = self._connection = self._connection or self._connect()
            # Compared afterwards, not before: so what is returned, or raised, is of files that were there all the time.
            try:
                with translated(self._path):
                    found = fetch(connection, statement, *bindings)
                if self._in_place():
                    return found
            except UnicodeEncodeError:  # it was asked for a name with half a character, which nothing has
                return []
            except EsrmError:
                if self._in_place():
                    raise
            self._connection = None
            close(connection, self._path)  # before the next is opened: SQLite would share the WAL's old index with it
        raise StoreError(f"{self._path} or a file beside it is replaced again and again; read when that is over")

    def _connect(self) -> apsw.Connection:
        before = self._look()
        try:
            connection = open_reader(self._path)
        except StoreError as error:
            self._check_vacant(error)
            raise
        # A WAL and its index that were not there have been made by now, by us or by a writer.
        self._opened = [old or new for old, new in zip(before, self._look(), strict=True)]
        # The only read-only connections of ours are immutable ones: SQLite looks neither for changes nor for a WAL.
        self._still = bool(connection.open_flags & apsw.SQLITE_OPEN_READONLY)
        return connection

    def _look(self) -> list[os.stat_result | None]:
        """What lies at the paths of the log, its WAL, and the index of that."""
        found: list[os.stat_result | None] = []
        for path in self._paths:
            try:
                found.append(os.lstat(path))
            except (OSError, ValueError):  # of a path that no file can have, too
                found.append(None)
        return found

    def _in_place(self) -> bool:
        """Whether nothing else lies where the files that are open were opened."""
        for old, new in zip(self._opened, self._look(), strict=True):
            if new is None:
                continue
            if old is None or new.st_ino != old.st_ino or new.st_dev != old.st_dev:
                return False
            if self._still and (new.st_size, new.st_mtime_ns) != (old.st_size, old.st_mtime_ns):
                return False
        return True


def _storable(position: float) -> float:
    """The position or, for one beyond SQLite's integers, infinity, which it compares just as well."""
    return position if abs(position) <= _POSITION_MAX else _BELOW_ALL if position < 0 else -_BELOW_ALL
