"""``esrm export``: every record as it is stored, for other programs.

The event goes out byte for byte as it was written, since those bytes are what the hash covers: whoever reads the export
can recompute the chain (``stores/chain.py`` says how). So there are no added fields here, unlike in ``log --jsonl``.
"""

from __future__ import annotations

import codecs
import csv
from collections.abc import Iterable, Iterator
from typing import IO

import click
import msgspec

from esrm.cli.files import output_option, writing
from esrm.cli.options import Asked, common
from esrm.cli.progress import Progress
from esrm.core import events
from esrm.stores.records import decoded

TICK = 1000


def _is_export(data: bytes) -> bool:
    """Whether a file begins as an export does, in either format."""
    return data.startswith((b'{"position":', b"position,vm,revision,id,"))


@click.command("export")
@click.option(
    "--format", type=click.Choice(["jsonl", "csv"]), default="jsonl", show_default=True, help="What to write."
)
@click.option("--after", type=click.IntRange(min=0), metavar="POSITION", help="Only what stands behind this position.")
@output_option("an esrm export", _is_export)
@common(formats=False)
def command(asked: Asked, format: str, after: int | None, output: str) -> None:
    """Write all records as JSON lines or CSV.

    Of all VMs, or of one with --vm, in the order of their positions. The event is JSON in both, and exactly the bytes
    that its hash covers.

    \b
    esrm export > log.jsonl
    esrm export --format csv -o log.csv
    """
    if asked.vm_option:
        asked.past.head()  # raises if there is no such VM, and names those there are
    total = asked.reader.head()
    write = _write_jsonl if format == "jsonl" else _write_csv
    with writing(output) as file, Progress("exporting", total) as tick:
        write(file, _records(asked, after, tick))


class Exported(msgspec.Struct):
    """A record whose event is still the bytes that were stored."""

    position: int
    vm: str
    revision: int
    id: str
    time_ns: int
    actor: str
    correlation: str
    event: msgspec.Raw
    hash: str


def _records(asked: Asked, after: int | None, tick: Progress) -> Iterator[Exported]:
    """Each is looked at: what cannot have been written ends the export."""
    vm, since = asked.vm_option, after
    if vm is not None and after is not None:
        since = asked.reader.revision_at_position(vm, after)
    for count, row in enumerate(asked.reader.rows(vm, since)):
        record = decoded(events, row)
        if count % TICK == 0:
            tick(record.position)
        yield Exported(
            record.position, record.vm, record.revision, record.id, record.time_ns, record.actor, record.correlation,
            msgspec.Raw(row[7]), record.hash,
        )  # fmt: skip


def _write_jsonl(file: IO[bytes], records: Iterable[Exported]) -> None:
    encode = msgspec.json.Encoder().encode
    file.writelines(encode(record) + b"\n" for record in records)


def _write_csv(file: IO[bytes], records: Iterable[Exported]) -> None:
    writer = csv.writer(codecs.getwriter("utf-8")(file), lineterminator="\n")
    writer.writerow(Exported.__struct_fields__)
    for record in records:
        *before, event, seal = msgspec.structs.astuple(record)
        writer.writerow([*before, bytes(event).decode(), seal])
