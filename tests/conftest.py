"""What all tests share: both event loops, and both stores."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from esrm.stores.base import Store
from esrm.stores.memory import MemoryStore
from esrm.stores.sqlite import SqliteStore
from esrm.testing import BytesCodec


@pytest.fixture(params=["asyncio", "trio"])
def anyio_backend(request: pytest.FixtureRequest) -> str:
    """Run every async test on both loops."""
    return request.param


@pytest.fixture(params=["memory", "sqlite"])
async def store(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Store[bytes]]:
    """An open, empty store of plain bytes, in memory and on disk."""
    new = MemoryStore(BytesCodec()) if request.param == "memory" else SqliteStore(tmp_path / "vm.db", BytesCodec())
    async with new as opened:
        yield opened
