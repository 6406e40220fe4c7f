"""Both stores keep the promises of ``esrm.stores.base``, as ``esrm.testing`` states them."""

from __future__ import annotations

import re
from contextlib import suppress
from copy import copy
from itertools import count
from pathlib import Path
from unicodedata import normalize

import anyio
import pytest
from anyio.lowlevel import checkpoint
from msgspec.structs import replace

from esrm.errors import Conflict, StoreError
from esrm.stores.base import Store
from esrm.stores.memory import MemoryReader, MemoryStore
from esrm.stores.sqlite import SqliteStore
from esrm.testing import STORE_CHECKS, BytesCodec, Check, check_store, run_check, stores


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


class Impatient(MemoryStore[bytes]):
    """It waits for nothing."""

    async def wait_past(self, position):
        """Answer at once."""
        return await self.head()


class Breaking(MemoryStore[bytes]):
    """It raises what no store should."""

    async def stream(self, vm):
        """Look into a dict that is empty."""
        return {}[vm]


class Plain(MemoryStore[bytes]):
    """It says nothing of durability."""

    async def append(self, vm, drafts, *, expected):
        """Answer a mere list."""
        return [*await super().append(vm, drafts, expected=expected)]


class Normalising(MemoryStore[bytes]):
    """It takes names for the same that are not."""

    async def append(self, vm, drafts, *, expected):
        """Put the accents together with their letters."""
        return await super().append(normalize("NFC", vm), drafts, expected=expected)


class Tidy(MemoryStore[bytes]):
    """It changes who did it."""

    async def append(self, vm, drafts, *, expected):
        """Strip the actors of spaces."""
        return await super().append(vm, [replace(d, actor=d.actor.strip()) for d in drafts], expected=expected)


class ShortSighted(MemoryStore[bytes]):
    """It knows the ids of what came last."""

    async def find(self, id):
        """Look at three records."""
        return next((r for r in await self.read_all(await self.head() - 3) if r.id == id), None)


class Late(MemoryStore[bytes]):
    """An append that was cancelled stands only after an empty one has been told that it does not."""

    late = None

    async def append(self, vm, drafts, *, expected):
        """Do first what was put off, unless there is nothing to append."""
        if drafts and self.late:
            (late_vm, late_drafts, late_expected), self.late = self.late, None
            with suppress(Conflict):
                await super().append(late_vm, late_drafts, expected=late_expected)
        try:
            return await super().append(vm, drafts, expected=expected)
        except anyio.get_cancelled_exc_class():
            self.late = vm, drafts, expected
            raise


class Dropping(MemoryStore[bytes]):
    """It closes over an append that is under way."""

    async def append(self, vm, drafts, *, expected):
        """Take a while before looking whether the store is open."""
        drafts = copy(drafts)
        await checkpoint()
        await checkpoint()
        return await super().append(vm, drafts, expected=expected)


class Unopened(MemoryStore[bytes]):
    """It can be used before it is opened."""

    async def ask(self, question):
        """Look only whether the store is closed."""
        await checkpoint()
        if self._closed:
            raise StoreError("closed")
        return question(self._reader)


class Stray(Unopened):
    """It can be used in any event loop."""

    async def ask(self, question):
        """Look whether the store is open, and not where."""
        if self._loop is None:
            raise StoreError("not open")
        return await super().ask(question)


class Tied(MemoryStore[bytes]):
    """It takes its readers with it."""

    lent = ()

    def reader(self):
        """Note who reads."""
        self.lent += (super().reader(),)
        return self.lent[-1]

    async def _close(self):
        await super()._close()
        for reader in self.lent:
            reader.close()


def wrong_reader(name, **methods):
    """Return a store that is right, but for some methods of its readers."""
    kind = type(name, (MemoryReader,), methods)

    class WrongReader(MemoryStore[bytes]):
        def reader(self):
            return kind(self._codec, self._shelf)

        async def ask(self, question):
            return await super().ask(lambda _: question(self.reader()))

    WrongReader.__name__ = name
    return WrongReader


def dealt_by_position(reader, *, until=None, share=0, shares=1):
    """Deal out single records, so that no share has a stream whole."""
    for page in MemoryReader.pages(reader, until=until):
        yield [leaf for leaf in page if leaf[0] % shares == share]


WRONG = [
    (Forgetful, "a_wrong_expectation_conflicts", "must be refused with Conflict, but answered"),
    (Impatient, "waiting_ends_with_an_append", "returned before anything was appended"),
    (Breaking, "a_new_store_is_empty", "the store raised KeyError"),
    (Plain, "an_answer_says_how_well_it_stands", "must answer a Committed"),
    (Normalising, "what_is_appended_stands", "record 0"),
    (Tidy, "what_is_appended_stands", "record 0"),
    (ShortSighted, "reading_starts_anywhere", "found by the id of position 1: the store gave None"),
    (Late, "a_cancelled_append_is_whole_or_nothing", "the store raised Conflict"),
    (Dropping, "closing_finishes_what_is_under_way", "what stands of an append under way: the store gave []"),
    (Unopened, "a_store_is_opened_first", "reading a store before it is opened must be refused"),
    (Stray, "a_store_belongs_to_its_loop", "reading a store in another event loop must be refused"),
    (Tied, "a_reader_lives_by_itself", "the store raised StoreError"),
    (
        wrong_reader("Endless", close=lambda _: None),
        "a_reader_lives_by_itself",
        "asking a closed reader must be refused",
    ),
    (
        wrong_reader(
            "Utf16", streams=lambda r: sorted(MemoryReader.streams(r), key=lambda h: h.vm.encode("utf-16-be"))
        ),
        "names_are_checked",
        "the order of the streams",
    ),
    (wrong_reader("Nameless", names=lambda _: {}), "bulk_reading_tells_the_same", "with names()"),
    (
        wrong_reader("Whole", pages=lambda r, **_: MemoryReader.pages(r)),
        "bulk_reading_tells_the_same",
        "all pages(until=40",
    ),
    (wrong_reader("Halved", pages=dealt_by_position), "bulk_reading_tells_the_same", "the streams in two of 2 shares"),
]


@pytest.mark.parametrize(("kind", "check", "said"), WRONG, ids=[kind.__name__ for kind, *_ in WRONG])
async def test_a_wrong_store_is_told_which_promise_it_breaks(kind: type[MemoryStore[bytes]], check: str, said: str):
    """A store author learns it from the message alone, wherever in the check it came up."""
    with pytest.raises(AssertionError, match=f"^{check}: .*{re.escape(said)}"):
        await check_store(lambda: kind(BytesCodec()))


class Silent(MemoryStore[bytes]):
    """Asked in another event loop, it never answers."""

    async def ask(self, question):
        """Wait for a loop that is not this one."""
        try:
            return await super().ask(question)
        except StoreError:
            await anyio.sleep_forever()


async def test_a_store_that_hangs_in_another_loop_is_told(monkeypatch: pytest.MonkeyPatch):
    """The check ends, though nobody can cancel what runs there."""
    monkeypatch.setattr(stores, "PATIENCE_S", 0.01)
    async with Silent(BytesCodec()) as store:
        with pytest.raises(AssertionError, match="a_store_belongs_to_its_loop: the store did not answer within"):
            await run_check(stores.a_store_belongs_to_its_loop, store)


class Amnesiac(MemoryStore[bytes]):
    """Opened again, it knows no retry."""

    async def append(self, vm, drafts, *, expected):
        """Refuse whatever is not for the end."""
        if drafts and expected < (await self.stream(vm)).revision:
            raise Conflict("moved on")
        return await super().append(vm, drafts, expected=expected)


async def test_a_store_that_forgets_ids_when_it_closes_is_told():
    """A retry may come from a process that was started anew."""
    last = []

    def new() -> MemoryStore[bytes]:
        last[:] = [MemoryStore(BytesCodec())]
        return last[0]

    def again() -> MemoryStore[bytes]:
        store = Amnesiac(BytesCodec())
        store._shelf = last[0]._shelf
        store._reader = store.reader()
        return store

    with pytest.raises(AssertionError, match=r"^check_reopens: the store raised Conflict"):
        await check_store(new, reopen=again)
