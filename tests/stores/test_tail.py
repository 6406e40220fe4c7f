"""The tail that subscribers share: it says what the store says, or nothing; and it stays small."""

from __future__ import annotations

import math
import random
import tracemalloc
from pathlib import Path

import anyio
import pytest

from esrm.stores import tail
from esrm.stores.base import Record, Store
from esrm.stores.sqlite import SqliteStore
from esrm.testing import BytesCodec, drafts

CODEC = BytesCodec()


def record(position: int, vm: str = "web-1", event: bytes = b"") -> Record[bytes]:
    """A record that was never in a store."""
    return Record(position, vm, position - 1, f"{position:036}", 10**18 + position, "vmm", "", event, f"{position:064}")


@pytest.mark.parametrize("seed", range(5))
def test_it_says_what_a_plain_list_says_or_nothing(monkeypatch: pytest.MonkeyPatch, seed: int):
    """Batches, gaps and large events at random: an answer is exactly what was appended, up to the head or the limit."""
    monkeypatch.setattr(tail, "RECORDS_MAX", 16)
    monkeypatch.setattr(tail, "BYTES_MAX", 20_000)
    dice, kept, all_, answers = random.Random(seed), tail.Tail[bytes](), dict[int, Record[bytes]](), 0
    assert kept.between(0, 0, 1, None) is None
    head = 0
    for _ in range(1500):
        if dice.random() < 0.05:
            head += dice.randrange(1, 4)  # somebody else's, which we never see
            gap = head
        batch = [record(head + n, dice.choice("ab")) for n in range(1, dice.choice([2, 2, 3, 5, 30]))]
        kept.extend(batch, [bytes(dice.choice([0, 100, 3000]))] * len(batch))
        all_ |= {one.position: one for one in batch}
        head += len(batch)
        after, limit, vm = max(0, head - dice.randrange(20)), dice.randrange(1, 20), dice.choice([None, "a", "b"])
        got = kept.between(after, head, limit, vm)
        if got is not None:
            answers += 1
            want = [all_[at] for at in range(after + 1, head + 1)]
            assert got == [one for one in want if vm in (None, one.vm)][:limit], f"seed {seed}, gap {gap}"
        assert kept.between(after, head + 1, limit, vm) is None
    assert answers > 200


@pytest.mark.parametrize("size", [0, 135, 2000, 60_000])
def test_it_stays_under_4_mb(size: int):
    """Small events or large: the number of records and of bytes are both bounded."""
    kept = tail.Tail[bytes]()
    kept.between(0, 0, 1, None)
    tracemalloc.start()
    try:
        for position in range(1, 9001):
            kept.extend([record(position, event=bytes(size))], [bytes(size)])
        assert tracemalloc.get_traced_memory()[0] < 4_000_000
    finally:
        tracemalloc.stop()
    held = kept.between(9000 - 10, 9000, 10, None)
    assert held is not None
    assert [one.position for one in held] == list(range(8991, 9001))


def test_it_keeps_nothing_before_somebody_follows():
    """A store that nobody follows pays nothing for it."""
    kept = tail.Tail[bytes]()
    kept.extend([record(1)], [b""])
    assert kept.last == 0


@pytest.mark.parametrize("vm", [None, "vm-1"])
async def test_who_keeps_up_does_not_read(store: Store[bytes], monkeypatch: pytest.MonkeyPatch, vm: str | None):
    """Fifty followers of a busy store ask it nothing once they are at its head, filtered or not, and miss nothing."""
    questions = 0
    ask = store.ask

    async def counted(question):
        nonlocal questions
        questions += 1
        return await ask(question)

    async def follow(me: int) -> None:
        async for page in store.subscribe(2, vm=vm, until=202, batch=20 + me).pages():
            seen[me] += [one.position for one in page]

    seen: list[list[int]] = [[] for _ in range(50)]
    monkeypatch.setattr(store, "ask", counted)
    for n in range(2):
        await store.append(f"vm-{n}", drafts(b"x"), expected=-1)
    async with anyio.create_task_group() as group:
        for me in range(50):
            group.start_soon(follow, me)
        await anyio.wait_all_tasks_blocked()
        for n in range(200):
            await store.append(f"vm-{n % 2}", drafts(b"x"), expected=n // 2)
    want = [one.position for one in await ask(lambda reader: reader.read_all(2)) if vm in (None, one.vm)]
    assert seen == [want] * 50
    # The first pages of each, as the tail begins with the first who follows; without it, some thousands.
    assert questions <= 8 * 50


async def test_who_fell_behind_the_tail_reads_the_store(store: Store[bytes], monkeypatch: pytest.MonkeyPatch):
    """A subscriber that stands still while the tail moves on has missed nothing when it goes on."""
    monkeypatch.setattr(tail, "RECORDS_MAX", 8)
    slow, quick = store.subscribe(batch=3), store.subscribe(batch=3)
    for n in range(60):
        await store.append("web-1", drafts(b"%d" % n), expected=n - 1)
        assert (await anext(quick)).event == b"%d" % n
        if n % 20 == 0:
            assert (await anext(slow)).event == b"%d" % (n // 20)
    assert [(await anext(slow)).position for _ in range(57)] == list(range(4, 61))


@pytest.mark.parametrize("inline_ms", [0, math.inf])
async def test_other_processes_appends_are_seen_in_their_place(tmp_path: Path, inline_ms: float):
    """Two handles on one file, one of which writes: followers of each see every record once, in order."""

    async def follow(store: Store[bytes], vm: str | None, batch: int) -> None:
        mine: list[int] = []
        seen.append((vm, mine))
        async for one in store.subscribe(vm=vm, until=120, batch=batch):
            mine.append(one.position)

    async def write(store: Store[bytes], vm: str) -> None:
        for n in range(60):
            await store.append(vm, drafts(b"x"), expected=n - 1)
            if n % 7 == 0:
                await anyio.sleep(0.002)

    seen: list[tuple[str | None, list[int]]] = []
    path = tmp_path / "vm.db"
    async with (
        SqliteStore(path, CODEC, inline_ms=inline_ms) as one,
        SqliteStore(path, CODEC, inline_ms=inline_ms) as two,
    ):
        with anyio.fail_after(30):
            async with anyio.create_task_group() as group:
                for store in (one, two):
                    for batch in (1, 7, 256):
                        group.start_soon(follow, store, None, batch)
                        group.start_soon(follow, store, "vm-1", batch)
                group.start_soon(write, one, "vm-1")
                group.start_soon(write, one, "vm-2")
        own = [record.position for record in await one.read("vm-1")]
    assert [mine for vm, mine in seen if vm is None] == [list(range(1, 121))] * 6
    assert [mine for vm, mine in seen if vm] == [own] * 6
