"""The store on a disk: one SQLite file, one writer thread, readers that never block it.

Read ``schema.py`` (the file), ``heads.py`` (the log's head, beside it), ``reader.py``; then how rows get in:
``live.py`` (the files as they are open), ``owned.py`` (by their only writer), ``committer.py`` (when an append becomes
true), ``writer.py`` (the thread that makes it so), ``store.py`` (the asynchronous face); and ``doctor/``, which looks
at a log from outside.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from esrm.stores.sqlite.reader import SqliteReader

if TYPE_CHECKING:
    from esrm.stores.sqlite.store import SqliteStore

__all__ = ["SqliteReader", "SqliteStore"]


def __getattr__(name: str) -> object:
    """Import the asynchronous store on first use, so that a synchronous reader loads no event loop."""
    if name == "SqliteStore":
        from esrm.stores.sqlite.store import SqliteStore

        return SqliteStore
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
