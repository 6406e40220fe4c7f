"""The log as its writer has it open: the connection, the files that it was opened at, and its WAL.

It decides when what is open is still what others find at the paths (an unlinked file takes commits into the void), and
how the WAL is folded back into the file. It knows SQL, but not what a record is.

Separate from ``reader.py``, whose connections never write, never fold, and follow when the files are replaced.
Next: ``owned.py``, what makes one process the log's writer.
"""

from __future__ import annotations

import os
from contextlib import suppress
from pathlib import Path
from typing import Any

import apsw

from esrm.errors import StoreError
from esrm.stores.sqlite.heads import head_path
from esrm.stores.sqlite.schema import close, fetch, open_writer, opening

FOLD_PAGES = 1000  # 4 MB of WAL, as SQLite has it: a sync costs a third when the file need not grow
NO_FILE = 0, 0


class LiveLog:
    """A connection that may write, once ``_connect`` has made it.

    Attributes:
        full: whether the WAL is so long that it is time to fold it back.
        poisoned: what the disk did, if nothing can be appended until it is mended; None if all is well.
    """

    def __init__(self, path: Path, synchronous: str, busy_ms: int) -> None:
        self._path, self._synchronous, self._busy_ms = path, synchronous, busy_ms
        self._paths = str(path), f"{path}-wal", f"{path}-shm", str(head_path(path))
        self._connection: apsw.Connection | None = None
        self.full = False
        self.poisoned: Exception | None = None

    def _connect(self, *, create: bool) -> None:
        connection = open_writer(self._path, self._synchronous, self._busy_ms, create=create)
        self._connection, self._patient = connection, True
        self._folded = 0  # how many pages had been written when the WAL was last folded
        try:
            with opening(self._path):
                self._small_blocks = os.statvfs(self._path.parent).f_bsize < 4096
            self._identities = self._identify()
            _, wal, index, _ = self._identities
            if (wal == NO_FILE) != (index == NO_FILE):  # SQLite has it open, but nobody else will find it
                raise StoreError(
                    f"{self._path}: its WAL or the index of that was removed while a reader of this process had it "
                    "open, or another store: close that one"
                )
        except StoreError:
            self._disconnect()
            raise

    def _disconnect(self) -> None:
        connection, self._connection = self._connection, None
        if connection is not None:
            with suppress(apsw.Error):
                close(connection, self._path)

    def _live(self) -> apsw.Connection:
        if self._connection is None:
            raise StoreError(f"{self._path} is not open: {self.poisoned}")
        return self._connection

    def _run(self, statement: str) -> None:
        self._live().execute(statement)  # pyright: ignore[reportUnknownMemberType]  as in fetch

    def _fetch(self, statement: str, *bindings: Any) -> list[Any]:
        return fetch(self._live(), statement, *bindings)

    def _be_patient(self, patient: bool) -> None:
        if patient != self._patient:
            self._patient = patient
            self._live().set_busy_timeout(self._busy_ms if patient else 0)

    # -- the files ----------------------------------------------------------------------------------------------------

    def _identify(self) -> list[tuple[int, int]]:
        """Which files lie at the paths: (device, inode) of the log, its WAL, the index of that, and its head file.

        Raises:
            StoreError: it cannot be known: the disk has failed, or a folder on the way was replaced.
        """
        found: list[tuple[int, int]] = []
        for path in self._paths:
            try:
                status = os.lstat(path)  # a link in its place leads elsewhere: whoever comes next looks there
                found.append((status.st_dev, status.st_ino))
            except FileNotFoundError:
                found.append(NO_FILE)
            except OSError as error:
                raise StoreError(f"{path}: {error.strerror}; nobody can see if it is still what was opened") from error
        return found

    def _check_in_place(self) -> None:
        if self._identify() != self._identities:
            raise OSError(
                "somebody removed or replaced the log, its WAL or its head file while it was open; put it back"
            )

    # -- the WAL ------------------------------------------------------------------------------------------------------

    def _written(self) -> int:
        return self._live().status(apsw.SQLITE_DBSTATUS_CACHE_WRITE)[0]

    def _fold_back(self, how: int) -> tuple[int, int]:
        """Fold; with ``OFF``, too, SQLite waits for the disk here, so that the head is never ahead of what is there."""
        if self._synchronous == "OFF":
            self._run("PRAGMA synchronous = NORMAL")
        try:
            return self._live().wal_checkpoint(mode=how)
        finally:
            if self._synchronous == "OFF":
                self._run("PRAGMA synchronous = OFF")

    def _fold_all(self, why: str) -> None:
        try:
            self._fold_back(apsw.SQLITE_CHECKPOINT_TRUNCATE)
        except apsw.BusyError as error:
            raise StoreError(
                f"{self._path}: {why}; to mend that, all of it must be folded back, and a long read transaction keeps "
                "it from that: end the program that reads"
            ) from error

    def _touch(self) -> None:
        """Commit something that changes nothing."""
        self._run("BEGIN IMMEDIATE")
        self._run(f"PRAGMA user_version = {self._fetch('PRAGMA user_version')[0][0]}")
        self._run("COMMIT")
