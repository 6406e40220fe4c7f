"""Small strides, so that short stories have long logs; and logs to keep something beside."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from esrm.cache import snapshots, tenancies

for folder in ("manager", "core"):
    sys.path.insert(0, str(Path(__file__).parents[1] / folder))


@pytest.fixture(autouse=True)
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    """A snapshot every 5 events, an index of every log, in stretches of 7 events."""
    monkeypatch.setattr(snapshots, "STRIDE_MIN", 5)
    monkeypatch.setattr(tenancies, "INDEXED_MIN", 0)
    monkeypatch.setattr(tenancies, "STRETCH", 7)
