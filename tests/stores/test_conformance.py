"""Both stores keep the promises of ``esrm.stores.base``, as ``esrm.testing`` states them."""

from __future__ import annotations

from itertools import count
from pathlib import Path

import pytest

from esrm.stores.base import Store
from esrm.stores.memory import MemoryStore
from esrm.stores.sqlite import SqliteStore
from esrm.testing import STORE_CHECKS, BytesCodec, Check, check_store, run_check


@pytest.mark.parametrize("check", STORE_CHECKS, ids=lambda check: check.__name__)
async def test_promise(store: Store[bytes], check: Check):
    """Each promise, by name."""
    await run_check(check, store)


async def test_check_store_runs_them_all(tmp_path: Path):
    """The one call that store authors are told about passes, reopening included."""
    number = count()
    last: list[Path] = []

    def new() -> SqliteStore[bytes]:
        last[:] = [tmp_path / f"{next(number)}.db"]
        return SqliteStore(last[0], BytesCodec(), synchronous="OFF")

    await check_store(new, reopen=lambda: SqliteStore(last[0], BytesCodec()))


class Forgetful(MemoryStore[bytes]):
    """A store with one fault: it ignores what the caller expects."""

    async def append(self, vm, drafts, *, expected):
        """Append anyhow."""
        end = await self.stream(vm)
        return await super().append(vm, drafts, expected=end.revision if end else -1)


async def test_a_failed_check_says_what_the_store_did():
    """A store author learns the broken promise from the message alone."""
    with pytest.raises(AssertionError, match="must be refused with Conflict, but answered"):
        await check_store(lambda: Forgetful(BytesCodec()))
