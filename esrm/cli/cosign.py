"""``esrm cosign``: be a witness, who signs that a log only grew, and never forgets how far it was."""

from __future__ import annotations

import time
from pathlib import Path

import click

from esrm.cli.files import read, writing
from esrm.cli.options import Asked, common
from esrm.cli.trust import output_option, signing_key, verifier_keys, vkey_option
from esrm.proofs import Request, Witness


@click.command("cosign")
@click.argument("request", type=click.Path(dir_okay=False, allow_dash=True), metavar="[REQUEST]", default="-")
@click.option("--key", required=True, type=click.Path(dir_okay=False), metavar="FILE", help="The witness's key.")
@click.option(
    "--memory", required=True, type=click.Path(dir_okay=False), metavar="FILE", help="What it cosigned last.",
)  # fmt: skip
@click.option("--new", is_flag=True, help="Begin with an empty memory, which must not exist yet.")
@vkey_option("The key of a log to cosign for, or a file with it; repeat it for several.", required=True)
@output_option()
@common(vm=False, formats=False, store=False)
def command(
    asked: Asked, request: str, key: str, memory: str, new: bool, vkey: tuple[str, ...], output: str
) -> None:  # fmt: skip
    """Be a witness: sign that a log only grew.

    Reads what `esrm checkpoint --since` wrote (or, for a log's first time, a checkpoint), from a file or stdin. If the
    proof shows that the log begins with what this witness cosigned last, it remembers the new size, and prints the
    checkpoint with its signature and the time added; the signatures of other witnesses stay as they are. A request
    whose answer was lost may be made again. It needs no log, and should run where the log's owner is not root. Refuses
    with exit code 3: a log that went back, or has two histories; a proof that does not hold; any log but those of the
    given keys.

    \b
    esrm cosign request --key witness.key --memory seen.json --vkey host.key.pub
    """
    if Path(output).resolve() == Path(memory).resolve():
        raise click.UsageError("-o and --memory are one file: a witness must not forget what it has signed")
    # All is read before anything is written: a request that is none creates no memory.
    asked_for, signer, logs = Request.parse(read(request)), signing_key(key), verifier_keys(vkey)
    witness = Witness(signer, memory, logs, new=new)
    with writing(output) as file:  # first: what cannot be written shall not be remembered
        file.write(str(witness.cosign(asked_for, now=int(time.time()))).encode())
