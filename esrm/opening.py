"""From a URL to a store of events: the one place that joins the stores, which know no events, to the events' codec.

A store is asynchronous; a reader is its synchronous face for those who only look, such as the command line.
The codec is the module ``core/events.py`` itself: it has ``encode`` and ``decode``. Next: ``stores/base.py``.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from esrm.core import events
from esrm.errors import StoreError

if TYPE_CHECKING:
    from esrm.stores.base import Reader, Store

SCHEMES = ("memory:", "sqlite:PATH")


def open_store(
    url: str, *, synchronous: str = "FULL", anchor: str = "commit", inline_ms: float = 0
) -> Store[events.Event]:
    """A store to be used with ``async with``.

    Args:
        url: ``memory:`` (gone when closed; each call is a store of its own) or ``sqlite:PATH`` (created if missing).
        synchronous: SQLite's durability of a commit: FULL (survives power loss), EXTRA, NORMAL (a power cut may take
            the last commits), OFF.
        anchor: when the head is written beside an SQLite log: at each ``commit``, or once a ``second``.
        inline_ms: while SQLite's commits take less than so many milliseconds, in the median, small ones may run on the
            event loop's own thread; 0: never. See ``stores/sqlite/writer.py``.

    Raises:
        StoreError: an unknown scheme. What is wrong with the place itself is said on entering.
    """
    scheme, _, path = url.partition(":")
    if scheme == "memory" and not path:
        from esrm.stores.memory import MemoryStore

        return MemoryStore(events)
    if scheme == "sqlite" and path:
        from esrm.stores.sqlite import SqliteStore

        return SqliteStore(path, events, synchronous=synchronous, anchor=anchor, inline_ms=inline_ms)
    raise StoreError(f"{url!r:.200} names no store; a store is one of {', '.join(SCHEMES)}")


def open_reader(url: str) -> Reader[events.Event]:
    """A synchronous reader of a store that exists, to be used with ``with``; it starts no event loop.

    Raises:
        StoreError: an unknown scheme (``memory:`` has nothing that outlives its process), or a file that is missing,
            foreign or unreadable.
    """
    from esrm.stores.sqlite import SqliteReader

    return SqliteReader(lasting(url), events)


def lasting(url: str) -> str:
    """The path of a store that outlives its process.

    Raises:
        StoreError: the URL names none.
    """
    scheme, _, path = url.partition(":")
    if scheme == "sqlite" and path:
        return path
    raise StoreError(f"{url!r:.200} names no store that outlives its process; sqlite:PATH does")
