"""What the commands about proofs share: whom to believe, by what name to sign, and what a proof is that they replace.

Separate from ``options.py``, because only those commands need a key. Next: ``checkpoint.py``.
"""

from __future__ import annotations

import re
import stat
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from esrm.cli import files
from esrm.cli.output import join, printable
from esrm.errors import Malformed

if TYPE_CHECKING:
    from esrm.proofs import Opened, SigningKey, VerifierKey

_is_key = re.compile(r"PRIVATE\+KEY\+.*|[^+\s]+\+[0-9a-f]{8}\+[A-Za-z0-9+/=]+", re.DOTALL).fullmatch


def vkey_option(help: str, *, required: bool = False) -> Callable[[Any], Any]:
    """``--vkey``, any number of times."""
    return click.option("--vkey", multiple=True, required=required, metavar="KEY|FILE", help=help)


def origin_option(help: str) -> Callable[[Any], Any]:
    """``--origin``."""
    return click.option("--origin", metavar="TEXT", help=help)


def chosen_origin(origin: str | None, key: SigningKey, vm: str) -> str:
    """The origin to sign: what ``--origin`` said, else the key's name with the VM's.

    Raises:
        Malformed: it may not be one.
    """
    from esrm.proofs import origin_of
    from esrm.proofs.checkpoint import check_origin

    return origin_of(key.name, vm) if origin is None else check_origin(origin)


def output_option() -> Callable[[Any], Any]:
    """``-o``, for a proof."""
    return files.output_option("a checkpoint, request or receipt", _is_proof)


def _is_proof(data: bytes) -> bool:
    from esrm.proofs import Receipt, Request

    for form in (Request, Receipt):
        with suppress(Malformed):
            form.parse(data)
            return True
    return False


def verifier_keys(vkey: tuple[str, ...]) -> list[VerifierKey]:
    """The keys that ``--vkey`` said, each as such or as a file with one."""
    from esrm.proofs import VerifierKey
    from esrm.proofs.keys import read_line

    def line(text: str) -> str:
        try:
            return text if _is_key(text) else read_line(text)
        except FileNotFoundError:
            raise click.UsageError(f"--vkey: {text!r:.80} is neither a key (NAME+ID+BASE64) nor a file") from None

    return [VerifierKey.parse(line(text)) for text in vkey]


def signing_key(path: str) -> SigningKey:
    """The private key that ``--key`` named, with a warning on stderr if others may read it, too.

    No refusal, as by ssh: where keys are mounted into a container, their permissions are often not ours to change.
    """
    from esrm.proofs import SigningKey

    key, mode = SigningKey.load(path), Path(path).stat().st_mode
    if stat.S_ISREG(mode) and mode & 0o077:
        others = f"others than its owner may use {path} (its mode is {stat.S_IMODE(mode):04o}): chmod 600 {path}"
        click.echo(f"esrm: warning: {printable(others)}", err=True)
    return key


def signers(opened: Opened) -> str:
    """Who signed a checkpoint, in words."""
    from esrm.stores.records import iso

    names = ", ".join(key.name for key in opened.signed.logs)
    cosigners = [f"{key.name} at {iso(time * 10**9)[:19]}Z" for key, time in opened.signed.witnesses.items()]
    return join(names, f", cosigned by {', '.join(cosigners)}" if cosigners else "")


def checkpoint_document(opened: Opened) -> dict[str, Any]:
    """A checkpoint as JSON."""
    return {
        "origin": opened.checkpoint.origin,
        "size": opened.checkpoint.size,
        "root": opened.checkpoint.root.hex(),
        "signed_by": [printable(key.name) for key in opened.signed.logs],
        "cosigned_by": [{"name": key.name, "time": time} for key, time in opened.signed.witnesses.items()],
    }
