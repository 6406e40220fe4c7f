"""``esrm prove``: a receipt for one record, which convinces who has never seen the log."""

from __future__ import annotations

import click

from esrm.cli.files import read, write
from esrm.cli.options import Asked, common
from esrm.cli.progress import Progress
from esrm.cli.trust import chosen_origin, origin_option, output_option, signing_key
from esrm.errors import Corrupt, Unproven
from esrm.proofs import (
    Checkpoint,
    Note,
    Receipt,
    columns_of,
    inclusion_ranges,
    tree_roots,
)
from esrm.proofs.note import parse
from esrm.stores.chain import GENESIS, cut


@click.command("prove")
@click.argument("rev", metavar="REV")
@click.option(
    "--checkpoint", type=click.Path(dir_okay=False, allow_dash=True), metavar="FILE",
    help="The checkpoint to prove it by; with a witness's signature best.",
)  # fmt: skip
@click.option("--key", type=click.Path(dir_okay=False), metavar="FILE", help="Or the key that signs a new one.")
@origin_option("The log that the checkpoint must be of; of a new one by default the key's name, a slash, and the VM's.")
@output_option()
@common(formats=False)
def command(
    asked: Asked, rev: str, checkpoint: str | None, key: str | None, origin: str | None, output: str
) -> None:  # fmt: skip
    """Write a receipt: one record, proven to be in the log.

    The receipt (C2SP tlog-proof) holds the record in full, the hashes that lead from it to the root of a checkpoint,
    and that checkpoint. Who has the log's verifier key can check it without the log: `esrm verify --receipt`.

    \b
    esrm prove 12 --checkpoint monday.checkpoint -o 12.tlog-proof
    esrm prove @ --key host.key
    """
    if (checkpoint is None) == (key is None):
        given = "neither is" if key is None else "both are"
        raise click.UsageError(
            f"a receipt needs one checkpoint: --checkpoint FILE, or --key FILE to sign a new one; {given} given"
        )
    if fault := cut(asked.reader):
        raise Corrupt(f"nothing is proven: {fault}")
    revision = asked.past.revision(rev)
    if checkpoint is not None:
        note = parse(read(checkpoint))
        known = Checkpoint.parse(note.text)
        if origin not in (None, known.origin):
            raise Unproven(f"{checkpoint} is a checkpoint of {known.origin}, not of {origin}")
        root, receipt = _proven(asked, revision, known.size, note)
        if root != known.root:
            raise Unproven(f"the first {known.size} records of {asked.vm} are not those of {known.origin}, as signed")
    else:
        signer, size = signing_key(key or ""), asked.past.head() + 1
        origin = chosen_origin(origin, signer, asked.vm)
        root, receipt = _proven(asked, revision, size, Note(""))
        signed = Checkpoint(origin, size, root).signed(signer)
        receipt = Receipt(receipt.columns, receipt.path, signed)
    write(output, str(receipt))


def _proven(asked: Asked, revision: int, size: int, note: Note) -> tuple[bytes, Receipt]:
    """The root of the first ``size`` records, and the receipt of one of them."""
    if revision >= size:
        raise click.UsageError(f"revision {revision} is younger than the checkpoint, which ends at revision {size - 1}")
    with Progress("hashing", size) as tick:
        root, *path = tree_roots(asked.reader, asked.vm, [(0, size), *inclusion_ranges(revision, size)], tick)
    *before, row = asked.reader.rows(asked.vm, max(revision - 2, -1), 1 + bool(revision))
    return root, Receipt(columns_of(row, before[0][8] if before else GENESIS), tuple(path), note)
