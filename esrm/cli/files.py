"""Files that commands read, and write with ``-o``: what is written appears whole or not at all, and replaces its like.

It decides what may be overwritten: only what the same command makes, which can be made again. A log cannot, nor can
its head file, a key or somebody's notes. Separate from ``output.py``, which every command needs, for answers on stdout.
Next: ``export.py``, and ``trust.py`` for the proofs.
"""

from __future__ import annotations

import errno
import os
import sys
from collections.abc import Callable, Generator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO, Any

import click

from esrm.errors import Refused

READ_MAX = 3_000_000
"""Bytes that are read of a file, at most: more than any note, receipt or request may have."""


def output_option(what: str, made: Callable[[bytes], bool], default: str = "-") -> Callable[[Any], Any]:
    """``-o``. The arguments are those of ``replacing_only``."""
    where = "by default stdout" if default == "-" else "- is stdout"
    return click.option(
        "-o", "--output", type=click.Path(dir_okay=False, allow_dash=True), default=default,
        show_default=default != "-", metavar="FILE", callback=replacing_only(what, made),
        help=f"Where to; {where}. Of files that exist, only {what} is overwritten.",
    )  # fmt: skip


def replacing_only(what: str, made: Callable[[bytes], bool]) -> Callable[[click.Context, click.Parameter, str], str]:
    """A callback for an option that names a file to write: only its like is overwritten, or an empty file.

    It reads what is there, so it runs before the store is opened: to close a log's file drops SQLite's locks on it.

    Args:
        what: what the command writes, in words, with its article.
        made: whether bytes, the first of a file, are of such a thing.
    """

    def check(ctx: click.Context, parameter: click.Parameter, path: str) -> str:
        from esrm.stores.sqlite.schema import BESIDE

        if path == "-" or _is_stdout(path):
            return "-"
        other = f"it is not overwritten; choose another name with {parameter.opts[0]}"
        real = os.path.realpath(path)
        for suffix in (*BESIDE, "-lock"):  # a log's files, and the lock of a witness's memory
            if real.endswith(suffix) and Path(owner := real.removesuffix(suffix)).is_file():
                raise Refused(f"{path} belongs to {owner}: {other}")
        if Path(path).is_file() and (data := read(path)) and not made(data):
            raise Refused(f"{path} exists, and is not {what}: {other}")
        return path

    return check


def _is_stdout(path: str) -> bool:
    """Whether it is only another name of stdout, such as /dev/stdout: what a shell appends to is not to be replaced."""
    with suppress(OSError):
        return os.path.samestat(Path(path).stat(), os.fstat(1))
    return False


def read(path: str) -> bytes:
    """What is in a file, or on stdin for ``-``."""
    if path == "-":
        return sys.stdin.buffer.read(READ_MAX)
    with Path(path).open("rb") as file:
        return file.read(READ_MAX)


@contextmanager
def writing(path: str) -> Generator[IO[bytes]]:
    """A file that is there once it is written whole, or stdout for ``-``; devices and pipes are written as they are.

    Raises:
        OSError: on entry if it cannot be written at all.
    """
    from esrm.proofs.files import replacing

    if path == "-" and sys.stdout is None:  # pyright: ignore[reportUnnecessaryComparison]  as after a shell's >&-
        raise OSError(errno.EBADF, os.strerror(errno.EBADF), "stdout")
    plain = path != "-" and (Path(path).is_file() or not Path(path).exists())
    with replacing(path) if plain else click.open_file(path, "wb") as file:
        yield file


def write(path: str, text: str) -> None:
    """Write to a file, all or nothing, or to stdout for ``-``."""
    with writing(path) as file:
        file.write(text.encode())
