"""``esrm keygen``: a key that signs checkpoints, and what to hand out of it."""

from __future__ import annotations

from pathlib import Path

import click

from esrm.cli.options import Asked, common
from esrm.cli.output import line
from esrm.proofs import LOG, WITNESS, SigningKey


@click.command("keygen")
@click.argument("name")
@click.argument("file", type=click.Path(dir_okay=False))
@click.option("--witness", is_flag=True, help="A witness's key, for esrm cosign.")
@common(vm=False, formats=False, store=False)
def command(asked: Asked, name: str, file: str, witness: bool) -> None:
    """Make a key that signs checkpoints.

    NAME is by whom it will be signed: best a domain name of yours and a path. The private key is written to FILE, for
    its owner only to read; the verifier key to FILE.pub, and printed. Hand that one out, by a way that cannot be
    tampered with. Neither file is ever overwritten.

    \b
    esrm keygen example.org/host host.key
    esrm keygen example.com/witness witness.key --witness
    """
    public = Path(f"{file}.pub")
    if public.exists():
        raise FileExistsError(f"{public} exists already: it will not be overwritten")
    key = SigningKey.generate(name, WITNESS if witness else LOG)
    key.save(file)
    public.write_text(f"{key.public}\n", encoding="utf-8")
    line(str(key.public))
