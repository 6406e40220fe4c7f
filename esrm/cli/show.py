"""``esrm show``: one record in full, and what it changed."""

from __future__ import annotations

import json

import click

from esrm.cli import wire
from esrm.cli.diff import change_document, print_changes
from esrm.cli.options import Asked, common
from esrm.cli.output import line, paint, rows


@click.command("show")
@click.argument("rev", metavar="[REV]", default="@")
@common()
def command(asked: Asked, rev: str) -> None:
    """Show one record in full, and what it changed.

    REV is by default the head: the last record.

    \b
    esrm show 12
    esrm show @~3
    """
    past = asked.past
    revision = past.revision(rev)
    record = next(past.log(since=revision, until=revision))
    document = wire.record(record)
    changes = past.diff(revision - 1, revision).changes if revision else ()

    def text() -> None:
        line(paint(f"revision {record.revision} of {record.vm}", fg="yellow", bold=True))
        names = ("position", "id", "time", "actor", "correlation", "hash")
        rows((f"{name}:", str(document[name]) or "-") for name in names)
        line()
        for part in json.dumps(document["event"], indent=2).splitlines():
            line("    ", part)
        line()
        line("changed:" if changes else "It changed no device.")
        print_changes(changes)

    asked.answer_one({**document, "changes": [change_document(change) for change in changes]}, text)
