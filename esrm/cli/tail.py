"""``esrm tail``: the end of the log, and what is appended to it.

It follows by looking at the head now and then, since a reader has no event loop and takes no lock: that is one query on
an index. Whoever must not be late by a quarter of a second embeds a ``Subscription``.
"""

from __future__ import annotations

import time
from collections.abc import Iterator

import click

from esrm.cli import wire
from esrm.cli.log import print_records
from esrm.cli.options import Asked, common
from esrm.core.events import Event
from esrm.stores.records import PAGE, Record

INTERVAL_S = 0.25


@click.command("tail")
@click.option("-f", "--follow", is_flag=True, help="Go on with what is appended, until Ctrl-C or a closed pipe.")
@click.option("-n", "--limit", type=click.IntRange(min=0), default=10, show_default=True, metavar="N", help="How many.")
@common()
def command(asked: Asked, follow: bool, limit: int) -> None:
    """Show the last records, and follow new ones with -f.

    Those of all VMs in the store, or of one with --vm, oldest first. A line has the position in the store, the time
    (UTC), the VM and revision, the actor and the event.
    """
    if follow and asked.json:
        raise click.UsageError("what goes on is no JSON document: use --jsonl with -f")
    pages = _pages(asked, limit, follow)
    if follow:  # a page at a time, so that what has come is seen at once
        for page in pages:
            _show(asked, page)
    else:
        _show(asked, [record for page in pages for record in page])


def _show(asked: Asked, page: list[Record[Event]]) -> None:
    asked.answer(map(wire.record, page), lambda: print_records(page, vms=True))


def _pages(asked: Asked, limit: int, follow: bool) -> Iterator[list[Record[Event]]]:
    """The last records, and then those that come."""
    after = max(_end(asked) - limit, _START[asked.vm_option is None])
    while True:
        page = _read(asked, after)
        if page:
            yield page
            after = page[-1].position if asked.vm_option is None else page[-1].revision
        elif not follow:
            return
        else:
            time.sleep(INTERVAL_S)


_START = {True: 0, False: -1}
"""Before the first position, and before the first revision."""


def _end(asked: Asked) -> int:
    """The head: the store's position, or the VM's revision."""
    return asked.reader.head() if asked.vm_option is None else asked.past.head()


def _read(asked: Asked, after: int) -> list[Record[Event]]:
    if asked.vm_option is None:
        return asked.reader.read_all(after, PAGE)
    return asked.reader.read(asked.vm_option, after, PAGE)
