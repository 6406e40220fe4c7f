"""Files that are replaced whole: after a crash or a power cut there is the old one or the new one, never half of one.

Separate, because a witness's memory and what the commands write with ``-o`` both need it. Next: ``witness.py``.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path
from secrets import token_hex
from typing import IO


@contextmanager
def replacing(path: str | os.PathLike[str]) -> Generator[IO[bytes]]:
    """A file to write, which takes the place of the one at ``path``, or of none, when the block is left.

    It is on the disk then, and has the permissions of the one before it; where ``path`` is a symbolic link, that stays.
    A block that is left by an exception changes nothing.

    Raises:
        OSError: on entry if there is no such folder or it may not be written, later if the disk fails.
    """
    target = Path(os.path.realpath(path))
    fresh = target.with_name(f".esrm-{token_hex(8)}")
    try:
        file = fresh.open("xb")
    except OSError as error:
        error.filename = os.fspath(path)  # the name that was asked for
        raise
    with file:
        try:
            if target.exists():
                shutil.copymode(target, fresh)
            yield file
            file.flush()
            os.fsync(file.fileno())
            fresh.replace(target)
        except BaseException:
            fresh.unlink(missing_ok=True)
            raise
    folder = os.open(target.parent, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)
