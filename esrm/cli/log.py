"""``esrm log``: what happened, newest first. Its lines are also those of ``timeline`` and ``tail``."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from itertools import islice
from typing import Any, get_args

import click

from esrm.cli import wire
from esrm.cli.options import Asked, common, complete_device
from esrm.cli.output import Painted, join, paint, rows
from esrm.cli.wording import headline
from esrm.core import events as e
from esrm.history import Past
from esrm.stores.records import Record, iso

PAGE = 1000
"""Revisions that are read at once on the way back."""

TYPES = [kind.__name__ for kind in get_args(e.Event)]


@click.command("log")
@click.option("--device", metavar="NAME", shell_complete=complete_device, help="Only records about this device.")
@click.option("--type", type=click.Choice(TYPES), metavar="EVENT", help="Only this event.")
@click.option("--actor", metavar="NAME", help="Only what this actor did.")
@click.option("--correlation", metavar="ID", help="Only what was part of this.")
@click.option("--since", metavar="REV", default="0", help="From this moment on, or from the first record after it.")
@click.option("--until", metavar="REV", default="@", help="Up to this moment.")
@click.option("-n", "--limit", type=click.IntRange(min=0), metavar="N", help="At most N records, the newest.")
@click.option("--reverse", is_flag=True, help="Oldest first.")
@common()
def command(asked: Asked, since: str, until: str, limit: int | None, reverse: bool, **conditions: str | None) -> None:
    """List what happened, newest first.

    A line has the revision, the time (UTC), the actor and the event. Refusals give their reason in full.

    \b
    esrm log -n 20
    esrm log --device net0 --type ResourcesAllocated
    esrm log --since '@{2026-11-22T07:00}' --jsonl
    """
    past = asked.past
    first, last = past.first_since(since), past.last_until(until)
    if first > last:  # such as since a time that is still to come
        found: Iterable[Record[e.Event]] = ()
    elif reverse and limit is None:
        found = past.log(since=first, until=last, **conditions)
    else:
        found = islice(_backward(past, first, last, conditions), limit)
        found = reversed(list(found)) if reverse else found
    if conditions["device"] is not None:
        found = _about(past, conditions["device"], found)
    asked.answer(map(wire.record, found), lambda: print_records(found))


def _about(past: Past, device: str, found: Iterable[Record[e.Event]]) -> Iterator[Record[e.Event]]:
    """The same records; but to find none about a device that never was is an error, not an answer."""
    record = None
    for record in found:
        yield record
    if record is None:
        past.timeline(device)


def print_records(records: Iterable[Record[e.Event]], *, vms: bool = False) -> None:
    """One aligned line a record; with ``vms`` it begins with the position, and names the VM."""
    rows((_columns(record, vms) for record in records), right=[0])


def _columns(record: Record[e.Event], vms: bool) -> Iterator[str]:
    yield paint(str(record.position if vms else record.revision), fg="yellow")
    yield iso(record.time_ns)
    if vms:
        yield f"{record.vm}@{record.revision}"
    yield record.actor or "-"
    yield _coloured(record.event)


def _coloured(event: e.Event) -> Painted:
    name, _, said = headline(event).partition(" ")
    colour = "red" if isinstance(event, (e.AllocationRefused, e.UnplugRefused)) else "cyan"
    return join(paint(name, fg=colour), f" {said}" if said else "")


def _backward(past: Past, first: int, last: int, matching: dict[str, Any]) -> Iterator[Record[e.Event]]:
    """Newest first, a page at a time: a long log is not loaded to show its end."""
    for top in range(last, first - 1, -PAGE):
        yield from reversed(list(past.log(since=max(first, top - PAGE + 1), until=top, **matching)))
