"""``esrm checkpoint``: what a VM's log is now, in three signed lines.

Its other form, with ``--since``, is a request to a witness: the same checkpoint, behind the proof that it goes on from
an older one.
"""

from __future__ import annotations

import click

from esrm.cli.files import read, write
from esrm.cli.options import Asked, common
from esrm.cli.progress import Progress
from esrm.cli.trust import chosen_origin, origin_option, output_option, signing_key
from esrm.errors import Corrupt, Unproven
from esrm.proofs import Checkpoint, Request, consistency_ranges, tree_roots
from esrm.proofs.checkpoint import number
from esrm.proofs.note import parse
from esrm.stores.chain import cut


@click.command("checkpoint")
@click.option("--key", required=True, type=click.Path(dir_okay=False), metavar="FILE", help="The key that signs.")
@click.option(
    "--since", metavar="FILE|SIZE",
    help="Write a request to a witness: the checkpoint, and the proof that the log goes on from this older one.",
)  # fmt: skip
@origin_option("The log's name in the checkpoint; by default the key's name, a slash, and the VM's.")
@output_option()
@common(formats=False)
def command(asked: Asked, key: str, since: str | None, origin: str | None, output: str) -> None:
    """Sign what a VM's log is now.

    Prints a checkpoint (C2SP tlog-checkpoint): the log's name, how many records it has, and the root of the Merkle tree
    over them. Give it to somebody who keeps it: whatever is changed in those records later, `esrm verify --since`
    notices. Every record is checked before anything is signed, and that none is missing at the log's end.

    \b
    esrm checkpoint --key host.key -o monday.checkpoint
    esrm checkpoint --key host.key --since monday.checkpoint | esrm cosign --key ...
    """
    signer = signing_key(key)
    if fault := cut(asked.reader):
        raise Corrupt(f"nothing is signed: {fault}")
    size = asked.past.head() + 1
    origin = chosen_origin(origin, signer, asked.vm)
    old = None if since is None or since.isdecimal() else _read(since)
    old_size = old.size if old is not None else number(since or "0", "--since")
    if old is not None and old.origin != origin:
        raise Unproven(f"{since} is a checkpoint of {old.origin}, not of {origin}")
    if old_size > size:
        raise Unproven(
            f"{asked.vm} has {size} records, and had {old_size} in {since}: it was cut short"
            if old is not None
            else f"{asked.vm} has {size} records, so no request can go on from {old_size}: it was cut short, or another"
            " log has so many"
        )
    with Progress("hashing", size) as tick:
        ranges = [(0, size), (0, old_size), *consistency_ranges(old_size, size)]
        root, old_root, *path = tree_roots(asked.reader, asked.vm, ranges, tick)
    if old is not None and old_root != old.root:
        raise Unproven(f"the first {old_size} records of {asked.vm} are not those of {since}: one of them was changed")
    note = Checkpoint(origin, size, root).signed(signer)
    write(output, str(note if since is None else Request(old_size, tuple(path), note)))


def _read(path: str) -> Checkpoint:
    """A checkpoint of one's own, which nobody needs to be convinced of."""
    try:
        return Checkpoint.parse(parse(read(path)).text)
    except FileNotFoundError:
        raise click.UsageError(f"--since: {path!r:.80} is neither a number of records nor a file") from None
