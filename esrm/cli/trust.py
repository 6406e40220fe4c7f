"""What the commands about proofs share: whom to believe, and texts that are read from one place and written to another.

Separate from ``options.py``, because only those commands need a key. Next: ``checkpoint.py``.
"""

from __future__ import annotations

import os
import re
import stat
import sys
from collections.abc import Callable, Generator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

import click

from esrm.cli.output import join, printable
from esrm.errors import Malformed, Refused

if TYPE_CHECKING:
    from esrm.proofs import Opened, SigningKey, VerifierKey

READ_MAX = 3_000_000
"""Bytes that are read of a file, at most: more than any note, receipt or request may have."""

_is_key = re.compile(r"[^+\s]+\+[0-9a-f]{8}\+[A-Za-z0-9+/=]+").fullmatch


def vkey_option(help: str, *, required: bool = False) -> Callable[[Any], Any]:
    """``--vkey``, any number of times."""
    return click.option("--vkey", "vkeys", multiple=True, required=required, metavar="KEY|FILE", help=help)


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
    """``-o``. What is there already is looked at first of all, before a log is opened or a key is asked to sign."""
    return click.option(
        "-o", "--output", type=click.Path(dir_okay=False, allow_dash=True), default="-", metavar="FILE",
        callback=_replaceable,
        help="Where to; by default stdout. Of files that exist, only proofs like these are overwritten.",
    )  # fmt: skip


def _replaceable(ctx: click.Context, parameter: click.Parameter, path: str) -> str:
    """The path itself, if writing there destroys no log, no key, nor anything else that cannot be made again.

    It reads what is there, so it must run before the store is opened: to close a log's file drops SQLite's locks on it.
    """
    from esrm.proofs import Receipt, Request
    from esrm.stores.sqlite.schema import BESIDE

    real = os.path.realpath(path)
    for suffix in (*BESIDE, "-lock"):  # a log's files, and the lock of a witness's memory
        if real.endswith(suffix) and Path(owner := real.removesuffix(suffix)).is_file():
            raise Refused(f"{path} belongs to {owner}: it is not overwritten; choose another name with -o")
    if path == "-" or not Path(path).is_file() or not (data := read(path)):
        return path
    for form in (Request, Receipt):
        with suppress(Malformed):
            form.parse(data)
            return path
    raise Refused(
        f"{path} exists, and is no checkpoint, request or receipt: it is not overwritten; choose another name with -o"
    )


def verifier_keys(vkeys: tuple[str, ...]) -> list[VerifierKey]:
    """The keys that ``--vkey`` said, each as such or as a file with one."""
    from esrm.proofs import VerifierKey
    from esrm.proofs.keys import read_line

    return [VerifierKey.parse(text if _is_key(text) else read_line(text)) for text in vkeys]


def read(path: str) -> bytes:
    """What is in a file, or on stdin for ``-``."""
    if path == "-":
        return sys.stdin.buffer.read(READ_MAX)
    with Path(path).open("rb") as file:
        return file.read(READ_MAX)


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


@contextmanager
def writing(path: str) -> Generator[IO[bytes]]:
    """A file that is there once it is written whole, or stdout for ``-``; devices and pipes are written as they are.

    Raises:
        OSError: on entry if it cannot be written at all.
    """
    from esrm.proofs.files import replacing

    plain = path != "-" and (Path(path).is_file() or not Path(path).exists())
    with replacing(path) if plain else click.open_file(path, "wb") as file:
        yield file


def write(path: str, text: str) -> None:
    """Write to a file, all or nothing, or to stdout for ``-``."""
    with writing(path) as file:
        file.write(text.encode())


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
