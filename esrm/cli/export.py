"""``esrm export``: every record as it is stored, for other programs.

The event goes out byte for byte as it was written, since those bytes are what the hash covers: whoever reads the export
can recompute the chain (``stores/chain.py`` says how). So there are no added fields here, unlike in ``log --jsonl``.
"""

from __future__ import annotations

import csv
import json
from collections.abc import Iterable, Iterator
from typing import IO, Any

import click

from esrm.cli.options import Asked, common
from esrm.cli.progress import Progress
from esrm.core import events
from esrm.errors import Corrupt
from esrm.stores.records import Row, id_text

FIELDS = ("position", "vm", "revision", "id", "time_ns", "actor", "correlation", "event", "hash")
TICK = 1000


@click.command("export")
@click.option(
    "--format", "form", type=click.Choice(["jsonl", "csv"]), default="jsonl", show_default=True, help="What to write."
)
@click.option("--after", type=click.IntRange(min=0), metavar="POSITION", help="Only what stands behind this position.")
@click.option(
    "-o",
    "--output",
    type=click.Path(dir_okay=False, allow_dash=True),
    default="-",
    metavar="FILE",
    help="Where to; by default stdout.",
)
@common(formats=False)
def command(asked: Asked, form: str, after: int | None, output: str) -> None:
    """Write all records as JSON lines or CSV.

    Of all VMs, or of one with --vm, in the order of their positions. The event is JSON in both, and exactly the bytes
    that its hash covers.

    \b
    esrm export > log.jsonl
    esrm export --format csv -o log.csv
    """
    rows = _rows(asked, after)
    write = _write_jsonl if form == "jsonl" else _write_csv
    # A lazy file: nothing is created before the log could be read.
    with click.open_file(output, "w", encoding="utf-8", lazy=output != "-") as file:
        write(file, rows)


def _rows(asked: Asked, after: int | None) -> Iterator[Row]:
    """As stored, each looked at: an event that is none ends the export."""
    total = asked.reader.head()
    vm = asked.vm_option
    since = asked.reader.revision_at_position(vm, after) if vm and after else (None if vm else after)
    if vm:
        asked.past.head()  # names the VMs there are
    with Progress("exporting", total) as tick:
        for count, row in enumerate(asked.reader.rows(vm, since)):
            try:
                events.decode(row[7])
            except Corrupt as error:
                raise Corrupt(f"{row[1]}, revision {row[2]} (position {row[0]}): {error}") from error
            if count % TICK == 0:
                tick(row[0])
            yield row


def _values(row: Row) -> tuple[Any, ...]:
    position, vm, revision, id, time_ns, actor, correlation, data, seal = row
    return position, vm, revision, id_text(id), time_ns, actor, correlation, data.decode(), seal.hex()


def _write_jsonl(file: IO[str], rows: Iterable[Row]) -> None:
    for values in map(_values, rows):
        fields = (
            f'"{name}":{value if name == "event" else json.dumps(value)}'
            for name, value in zip(FIELDS, values, strict=True)
        )
        file.write("{" + ",".join(fields) + "}\n")


def _write_csv(file: IO[str], rows: Iterable[Row]) -> None:
    writer = csv.writer(file, lineterminator="\n")
    writer.writerow(FIELDS)
    writer.writerows(map(_values, rows))
