"""What the commands about proofs share: whom to believe, and texts that are read from one place and written to another.

Separate from ``options.py``, because only those commands need a key. Next: ``checkpoint.py``.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from esrm.cli.output import join, printable

if TYPE_CHECKING:
    from esrm.proofs import Opened, VerifierKey

READ_MAX = 3_000_000
"""Bytes that are read of a file, at most: more than any note, receipt or request may have."""

_is_key = re.compile(r"[^+\s]+\+[0-9a-f]{8}\+[A-Za-z0-9+/=]+").fullmatch


def vkey_option(help: str, *, required: bool = False) -> Callable[[Any], Any]:
    """``--vkey``, any number of times."""
    return click.option("--vkey", "vkeys", multiple=True, required=required, metavar="KEY|FILE", help=help)


def origin_option(help: str) -> Callable[[Any], Any]:
    """``--origin``."""
    return click.option("--origin", metavar="TEXT", help=help)


def output_option() -> Callable[[Any], Any]:
    """``-o``."""
    return click.option(
        "-o", "--output", type=click.Path(dir_okay=False, allow_dash=True), default="-", metavar="FILE",
        help="Where to; by default stdout.",
    )  # fmt: skip


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


def write(path: str, text: str) -> None:
    """Write to a file, or to stdout for ``-``."""
    with click.open_file(path, "w", encoding="utf-8") as file:
        file.write(text)


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
