"""Who may do what: root may do anything, so the tests of permissions stop being root for a while."""

from __future__ import annotations

import os
from collections.abc import Generator
from contextlib import contextmanager


@contextmanager
def ordinary_user() -> Generator[None]:
    """Root may write anything: be nobody for a while."""
    if os.geteuid():
        yield
        return
    os.seteuid(65534)
    try:
        yield
    finally:
        os.seteuid(0)
