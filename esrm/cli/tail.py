"""``esrm tail``: the end of the log, and what is appended to it.

It follows by looking at the head now and then, since a reader has no event loop and takes no lock: that is one query on
an index. Whoever must not be late by a quarter of a second embeds a ``Subscription``.
"""

from __future__ import annotations

import select
import signal
from collections.abc import Iterable, Iterator
from itertools import chain

import click

from esrm.cli import wire
from esrm.cli.log import print_records
from esrm.cli.options import Asked, common
from esrm.core.events import Event
from esrm.errors import UnknownMoment
from esrm.stores.records import PAGE, Record
from esrm.subscription import behind

INTERVAL_MS = 250


@click.command("tail")
@click.option("-f", "--follow", is_flag=True, help="Go on with what is appended, until Ctrl-C or a closed pipe.")
@click.option("-n", "--limit", type=click.IntRange(min=0), default=10, show_default=True, metavar="N", help="How many.")
@click.option("--after", type=click.IntRange(min=0), metavar="POSITION",
              help="Not the last ones, but all behind this position of the store.")  # fmt: skip
@common()
def command(asked: Asked, follow: bool, limit: int, after: int | None) -> None:
    """Show the last records, and follow new ones with -f.

    Those of all VMs in the store, or of one with --vm, oldest first. A line has the position in the store, the time
    (UTC), the VM and revision, the actor and the event. With --after: all behind a position, in order, none missed and
    none twice; whoever ships the log elsewhere goes on behind the last position that arrived there. If another log
    takes this one's place meanwhile, such as an older copy, -f exits with 3.

    \b
    esrm tail -f --jsonl --after 0
    """
    if follow and asked.form == "json":
        raise click.UsageError("what goes on is no JSON document: use --jsonl with -f")
    source = click.get_current_context().get_parameter_source("limit")
    if after is not None and source is click.core.ParameterSource.COMMANDLINE:
        raise click.UsageError("-n is about the last records, --after about all behind a position: choose one")
    pages = _pages(asked, _last(asked, limit) if after is None else _behind(asked, after), follow)
    if follow:  # a page at a time, so that what has come is seen at once
        for page in pages:
            _show(asked, page)
    else:
        _show(asked, chain.from_iterable(pages))


def _show(asked: Asked, records: Iterable[Record[Event]]) -> None:
    asked.answer(map(wire.record, records), lambda: print_records(records, vms=True))


def _pages(asked: Asked, after: int, follow: bool) -> Iterator[list[Record[Event]]]:
    """The records behind a position, or a revision of the VM; then those that come.

    A page is read with the record before it, so that another log, which took this one's place meanwhile, is noticed.

    Raises:
        Corrupt: it did.
    """
    before = _read(asked, after - 1, 1) if follow else []
    known = before[0] if before and _place(asked, before[0]) == after else None
    while True:
        page = _read(asked, after, PAGE) if known is None else behind(known, _read(asked, after - 1, PAGE + 1))
        if page:
            yield page
            known, after = page[-1], _place(asked, page[-1])
        elif not follow or _nobody_reads():
            return


def _place(asked: Asked, record: Record[Event]) -> int:
    return record.position if asked.vm_option is None else record.revision


def _nobody_reads() -> bool:
    """Wait for a moment. Whether meanwhile the reader of the pipe on stdout has gone, which no write has told yet."""
    stdout = select.poll()
    stdout.register(1, 0)  # errors are told unasked
    if gone := bool(stdout.poll(INTERVAL_MS)):
        signal.raise_signal(signal.SIGPIPE)  # the end that a write would have met
    return gone


def _last(asked: Asked, count: int) -> int:
    """What the last records stand behind: a position, or a revision of the VM."""
    if asked.vm_option is None:
        return max(asked.reader.head() - count, 0)
    return max(asked.past.head() - count, -1)


def _behind(asked: Asked, position: int) -> int:
    """The position, or the VM's last revision up to it."""
    if position > (head := asked.reader.head()):
        what = "has an older copy taken the log's place?"
        raise UnknownMoment(f"{asked.url} ends at position {head}; there is no {position} yet: {what}")
    if asked.vm_option is None:
        return position
    asked.past.head()  # raises if there is no such VM, and names those there are
    return asked.reader.revision_at_position(asked.vm_option, position)


def _read(asked: Asked, after: int, limit: int) -> list[Record[Event]]:
    if asked.vm_option is None:
        return asked.reader.read_all(after, limit)
    return asked.reader.read(asked.vm_option, after, limit)
