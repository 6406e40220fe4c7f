"""Checks for people who write a store: the promises of ``esrm.stores.base``, as a program.

A store is right when ``check_store`` returns; when it fails, the message says what the store did wrong::

    await check_store(lambda: MyStore(new_place(), BytesCodec()))

Every check is also a function of its own, in ``STORE_CHECKS``, for test runners that like to name them one by one.
Events are plain bytes here, since a store has never heard of others. No test framework is needed, nor imported.
What cannot be tried from here are forks, power cuts and disks that fail.

Why public: a fake that keeps a contract is worth something only if the contract can be run.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Generator
from contextlib import AbstractAsyncContextManager, contextmanager, suppress
from enum import StrEnum
from functools import partial
from heapq import merge
from itertools import chain, count
from typing import Any, TypeAlias, cast

import anyio
from anyio import to_thread
from anyio.lowlevel import checkpoint

from esrm.errors import Conflict, InvalidName, Malformed, StoreError, TooLarge
from esrm.names import NAME_MAX
from esrm.stores.base import Committed, Draft, Record, Store, StreamHead, link, verify
from esrm.stores.records import BATCH_RECORDS_MAX, EVENT_BYTES_MAX, TIME_NS_MAX, id_bytes

__all__ = ["STORE_CHECKS", "BytesCodec", "check_reopens", "check_store", "drafts", "run_check"]

ByteStore: TypeAlias = Store[bytes]
Factory: TypeAlias = Callable[[], AbstractAsyncContextManager[ByteStore]]
Check: TypeAlias = Callable[[ByteStore], Awaitable[None]]

PATIENCE_S = 30
"""How long one check may take. It is for stores that hang; a working one needs a fraction of a second."""

_numbers = count(1)


class BytesCodec:
    """The codec for events that are bytes already."""

    def encode(self, event: bytes, /) -> bytes:
        """Return the event; TypeError if it is none."""
        return bytes(memoryview(event))

    def decode(self, data: bytes, /) -> bytes:
        """Return the data; TypeError if it is none."""
        return bytes(memoryview(data))


def drafts(*events: bytes, actor: str = "", correlation: str = "") -> list[Draft[bytes]]:
    """Return a draft for each event, with ids and times that grow and never repeat in this process."""
    return [
        Draft(
            event=event,
            id=f"01990000-0000-7000-8000-{n:012x}",
            time_ns=10**18 + n,
            actor=actor,
            correlation=correlation,
        )
        for event, n in zip(events, _numbers, strict=False)
    ]


async def check_store(factory: Factory, *, reopen: Factory | None = None) -> None:
    """Run every check, each on a store of its own.

    Args:
        factory: returns a new, empty store whose codec is ``BytesCodec()``; ``async with`` opens and closes it.
        reopen: returns a store on the place that the last ``factory`` store wrote to; None for a store that forgets.

    Raises:
        AssertionError: a promise is broken; the message says which, and what happened instead.
    """
    unopened = factory()
    if isinstance(unopened, Store):  # not so where the factory wraps it
        with _judging("a_store_is_opened_first"):
            await _offers_nothing(cast("ByteStore", unopened), "before it is opened")
    for check in STORE_CHECKS:
        async with factory() as store:
            await run_check(check, store)
    if reopen is not None:
        await check_reopens(factory, reopen)


async def run_check(check: Check, store: ByteStore) -> None:
    """Run one check on an open, empty store. AssertionError if a promise is broken, or the store hangs."""
    with _judging(check.__name__):
        await check(store)


async def a_new_store_is_empty(store: ByteStore) -> None:
    """Nothing stands before the first append, and asking creates nothing."""
    _same("the head of a new store", await store.head(), 0)
    _same("the streams of a new store", await store.streams(), [])
    _same("a stream that never was", await store.stream("web-1"), None)
    _same("what is read of a stream that never was", await store.read("web-1"), [])
    _same("what is read of a new store", await store.read_all(), [])
    _same("the last revision of a stream that never was", await store.revision_at_position("web-1", 10), -1)
    _same("the streams after asking for one", await store.streams(), [])


async def what_is_appended_stands(store: ByteStore) -> None:
    """A record is what was drafted, with its place and its hash; append and all reads return the same."""
    vm = "we\u0301b-1 \u00e9 \U0001f5a5"  # letters with and without accents of their own are not the same text
    given = drafts(b"one", b'{"type": "two"}', b"", actor=" Zoe\u0308", correlation="r\u00e9q \u2166 ")
    records = await store.append(vm, given, expected=-1)
    seal = bytes(32)
    for n, (draft, record) in enumerate(zip(given, records, strict=True)):
        where = (n + 1, vm, n)
        seal = link(seal, *where, id_bytes(draft.id), draft.time_ns, draft.actor, draft.correlation, draft.event)
        whole = Record(*where, draft.id, draft.time_ns, draft.actor, draft.correlation, draft.event, seal.hex())
        _same(f"record {n} of the answer to the first append", record, whole)
    _same("what is read of the stream", await store.read(vm), records)
    _same("what is read of the store", await store.read_all(), records)
    _same("the record found by its id", await store.find(given[1].id), records[1])
    _same("the record found by an id that nothing has", await store.find(drafts(b"")[0].id), None)
    _same("the record found by what is no id", await store.find("web-1"), None)
    last = records[-1]
    head = StreamHead(last.vm, last.revision, last.position, last.time_ns, last.hash)
    _same("where the stream ends", await store.stream(last.vm), head)
    _same("where all streams end", await store.streams(), [head])


async def an_answer_says_how_well_it_stands(store: ByteStore) -> None:
    """Whatever ``append`` answers, a retry and an empty batch too, is a list whose class tells its durability."""
    given = drafts(b"0")
    for batch, expected in ((given, -1), (given, -1), ([], 0)):
        kind = type(await store.append("web-1", batch, expected=expected))
        if Committed not in kind.__mro__:
            raise AssertionError(f"append must answer a Committed or one of its subclasses, not a {kind.__name__}")


async def a_wrong_expectation_conflicts(store: ByteStore) -> None:
    """Only who knows the last revision may append; who does not is told, and changes nothing."""
    await store.append("web-1", drafts(b"0", b"1"), expected=-1)
    for expected in (-1, 0, 2, 10**6):
        for given in (drafts(b"x"), drafts()):
            what = f"appending {len(given)} records with expected={expected} to a stream that ends at revision 1"
            conflict = await _refused(what, Conflict, store.append("web-1", given, expected=expected))
            if "1" not in str(conflict) or "web-1" not in str(conflict):
                raise AssertionError(f"a Conflict must name the stream and where it ends, not say {str(conflict)!r}")
    await _refused("expecting records in an empty stream", Conflict, store.append("db-1", drafts(b"x"), expected=0))
    _same("the events after nothing but conflicts", await _events(store), [b"0", b"1"])
    _same("the streams after nothing but conflicts", [head.vm for head in await store.streams()], ["web-1"])
    await store.append("web-1", drafts(b"2"), expected=1)


async def an_empty_batch_only_checks(store: ByteStore) -> None:
    """Appending nothing, where expected, is nothing."""
    _same("the answer to an empty batch", await store.append("web-1", [], expected=-1), [])
    await store.append("web-1", drafts(b"0"), expected=-1)
    _same("the answer to an empty batch", await store.append("web-1", [], expected=0), [])
    _same("the head after empty batches", await store.head(), 1)


async def a_batch_is_all_or_nothing(store: ByteStore) -> None:
    """One draft that cannot be written keeps the whole batch out, whatever is wrong with it."""
    for bad in _bad_drafts():
        what = f"a batch whose last draft is {str(bad)[:100]}"
        kinds = TooLarge, InvalidName, Malformed, TypeError
        await _refused(what, kinds, store.append("web-1", [*drafts(b"x"), bad], expected=-1))
    too_many = drafts(*[b""] * (BATCH_RECORDS_MAX + 1))
    await _refused("a batch of 10,001 records", TooLarge, store.append("web-1", too_many, expected=-1))
    _same("the events after nothing but refusals", await _events(store), [])
    _same("the streams after nothing but refusals", await store.streams(), [])


async def a_mistake_harms_nobody_else(store: ByteStore) -> None:
    """What is no revision, draft or list of drafts is refused before it gets among the appends of others."""
    others: list[Record[bytes]] = []

    async def other(n: int) -> None:
        others.extend(await store.append(f"db-{n}", drafts(b"x"), expected=-1))

    mistakes: list[tuple[Any, Any]] = [(drafts(b"x"), value) for value in (-2, 2**63, 0.0, True, None, "0")]
    mistakes += [(value, 0) for value in (None, 7, drafts(b"x")[0], [b"x"], "x")]
    mistakes += [([bad], 0) for bad in _bad_drafts()[-4:]]
    await store.append("web-1", drafts(b"0"), expected=-1)
    async with anyio.create_task_group() as group:
        for n, (given, expected) in enumerate(mistakes):
            group.start_soon(other, n)
            what = f"appending {_short(given)} with expected={expected!r}"
            await _refused(what, (InvalidName, Malformed), store.append("web-1", given, expected=expected))
    _same("how many appends stand beside mistakes", len(others), len(mistakes))
    _same("what stands where mistakes were made", await store.read("web-1"), (await store.read_all())[:1])


async def a_batch_is_the_stores_own(store: ByteStore) -> None:
    """What the caller does with its list once it has called changes nothing."""
    given, called = drafts(b"0", b"1"), anyio.Event()

    async def append() -> None:
        called.set()
        await store.append("web-1", given, expected=-1)

    async with anyio.create_task_group() as group:
        group.start_soon(append)
        await called.wait()
        given[:] = drafts(b"2", b"3", b"4")
    _same("the events of a batch whose list was changed meanwhile", await _events(store), [b"0", b"1"])


async def limits_are_reached(store: ByteStore) -> None:
    """What the limits allow, stands: the longest event, names, time, and batch."""
    name = "\u00e9" * NAME_MAX
    longest = Draft(
        event=b"x" * EVENT_BYTES_MAX, id=drafts(b"")[0].id, time_ns=TIME_NS_MAX, actor=name, correlation=name
    )
    records = await store.append(name, [longest], expected=-1)
    _same("the largest record that is allowed", await store.read(name), records)
    await store.append("web-1", drafts(*[b"%d" % n for n in range(BATCH_RECORDS_MAX)]), expected=-1)
    _same("the head after the largest batch", await store.head(), BATCH_RECORDS_MAX + 1)


async def names_are_checked(store: ByteStore) -> None:
    """A stream, actor or correlation is 1 (or 0) to 255 printable characters."""
    for name in ("", "a\nb", "\0", "a\x7f", "\ud800", "x" * (NAME_MAX + 1), "x" * 10_000_000):
        await _refused(f"the stream name {name[:20]!r}", InvalidName, store.append(name, drafts(b""), expected=-1))
    several = "web-1", "Web-1", "web-1 ", "WEB-1", "w'eb;--", 'w"', "w%_", "\U0001f5a5", "\uff5e"
    for name in several:
        await store.append(name, drafts(name.encode()), expected=-1)
    for name in several:
        _same(f"the stream named {name!r}", [r.event for r in await store.read(name)], [name.encode()])
    _same("the order of the streams", [head.vm for head in await store.streams()], sorted(several))
    for name in ("", "a\nb", "\ud800", "x" * (NAME_MAX + 1)):
        _same(f"the stream of a name that none has, {name[:20]!r}", await store.stream(name), None)
        _same(f"what is read of {name[:20]!r}", await store.read(name), [])
        _same(f"the last revision of {name[:20]!r}", await store.revision_at_position(name, 10), -1)


async def names_are_kept_as_text(store: ByteStore) -> None:
    """What is a ``str`` of a class of its own, such as a ``StrEnum``, is plain text at once, and when it is read."""
    given = drafts(b"0", b"1", actor=_Name.ACTOR, correlation=_Name.CORRELATION)
    records = await store.append(_Name.VM, given, expected=-1)
    for record in (*records, *await store.read("web-1"), *await store.read_all()):
        for name, text in ((record.vm, "web-1"), (record.actor, "operator"), (record.correlation, "req 7")):
            _same("the class and text of a name", (type(name), name), (str, text))
    _same("the names of the streams", [type(head.vm) for head in await store.streams()], [str])
    _same("the answer to a retry", await store.append("web-1", given, expected=-1), records)


async def a_retry_is_answered_as_the_first_time(store: ByteStore) -> None:
    """The same ids at the same place are the same append, however late it comes again."""
    first, second = drafts(b"0", b"1"), drafts(b"2")
    answer = await store.append("web-1", first, expected=-1)
    _same("the answer to a retry", await store.append("web-1", first, expected=-1), answer)
    again = await store.append("web-1", second, expected=1)
    _same("the answer to a retry, with others behind it", await store.append("web-1", first, expected=-1), answer)
    _same("the answer to a retry behind others", await store.append("web-1", second, expected=1), again)
    _same("the events after retries", await _events(store), [b"0", b"1", b"2"])


async def half_a_retry_conflicts(store: ByteStore) -> None:
    """Ids that match only in part, in another order, in another place or stream, are no retry."""
    a, b, c = drafts(b"0", b"1", b"2")
    await store.append("web-1", [a, b], expected=-1)
    for batch, expected in (([a], 0), ([b, a], -1), ([a, c], -1), ([c, b], -1), ([a, b, c], -1), ([b, c], 0)):
        shown = ", ".join("abc"[(a, b, c).index(draft)] for draft in batch)
        what = f"appending {shown} behind revision {expected} of a stream that holds a, b"
        await _refused(what, Conflict, store.append("web-1", batch, expected=expected))
    _same("the events after half retries", await _events(store), [b"0", b"1"])
    _same("the answer to a retry of the beginning", len(await store.append("web-1", [a], expected=-1)), 1)
    _same("the same ids in another stream", len(await store.append("web-2", [a, b], expected=-1)), 2)


async def order_is_global_and_gapless(store: ByteStore) -> None:
    """Positions count over all streams, revisions in each, and refusals use up neither."""
    ends: dict[str, int] = {"a": -1, "b": -1, "c": -1}
    for n in range(60):
        vm = "abc"[n * n % 3]
        await store.append(vm, drafts(*[b"%d" % n] * (n % 4)), expected=ends[vm])
        ends[vm] += n % 4
        await _refused("a stale append", Conflict, store.append(vm, drafts(b"no"), expected=ends[vm] + 1))
    records = await store.read_all()
    _same("the positions", [r.position for r in records], list(range(1, len(records) + 1)))
    for vm, end in ends.items():
        mine = [r for r in records if r.vm == vm]
        _same(f"the revisions of {vm}", [r.revision for r in mine], list(range(end + 1)))
        _same(f"what is read of {vm}", await store.read(vm), mine)


async def reading_starts_anywhere(store: ByteStore) -> None:
    """After any position or revision, up to any limit, or with one id."""
    for n in range(10):
        await store.append(f"vm-{n % 2}", drafts(b"%d" % n, b"%d+" % n), expected=n - n % 2 - 1)
    everything = await store.read_all()
    stream = [r for r in everything if r.vm == "vm-1"]
    for after in (-(2**63) - 1, -3, -1, 0, 1, 5, 8, 9, 10, 19, 20, 21, 10**9, 2**63 - 1, 2**63):
        for limit in (0, 1, 2, 7, 1000, 2**63):
            want = [r for r in everything if r.position > after][:limit]
            _same(f"read_all(after={after}, limit={limit})", await store.read_all(after, limit), want)
            want = [r for r in stream if r.revision > after][:limit]
            _same(f"read('vm-1', after={after}, limit={limit})", await store.read("vm-1", after, limit), want)
    for record in everything:
        _same(f"the record found by the id of position {record.position}", await store.find(record.id), record)


async def moments_are_found(store: ByteStore) -> None:
    """The revision at a position or a time is the last one not after it."""
    for n in range(20):
        await store.append(f"vm-{n % 3}", drafts(b"%d" % n), expected=n // 3 - 1)
    mine = await store.read("vm-1")
    for at in (-(2**63) - 1, *range(22), 2**63 - 1, 2**63):
        want = max((r.revision for r in mine if r.position <= at), default=-1)
        _same(f"revision_at_position('vm-1', {at})", await store.revision_at_position("vm-1", at), want)
    for record in await store.read_all():
        for time_ns in (record.time_ns - 1, record.time_ns, record.time_ns + 1):
            want = max((r.revision for r in mine if r.time_ns <= time_ns), default=-1)
            _same(f"revision_at_time('vm-1', {time_ns})", await store.revision_at_time("vm-1", time_ns), want)


async def one_of_many_wins(store: ByteStore) -> None:
    """Of appends that expect the same revision, one stands and the others conflict; all of it under concurrency."""
    wins: list[int] = []

    async def contend(me: int) -> None:
        while (end := await store.stream("web-1")) is None or end.revision < 19:
            revision = -1 if end is None else end.revision
            try:
                [record] = await store.append("web-1", drafts(b"%d" % me), expected=revision)
            except Conflict:
                continue
            wins.append(record.revision)

    async with anyio.create_task_group() as group:
        for me in range(8):
            group.start_soon(contend, me)
    _same("the revisions that 8 contenders won, each once", sorted(wins), list(range(len(wins))))
    _same("the revisions that stand", [r.revision for r in await store.read("web-1")], sorted(wins))


async def waiting_ends_with_an_append(store: ByteStore) -> None:
    """``wait_past`` returns at once when behind, else with the append it waited for, and can be given up."""
    await store.append("web-1", drafts(b"0", b"1"), expected=-1)
    for position in (0, 1):
        _same(f"wait_past({position}) of a store whose head is 2", await store.wait_past(position), 2)
    woken: list[int] = []

    async def wait(position: int) -> None:
        woken.append(await store.wait_past(position))

    async with anyio.create_task_group() as group:
        for position in (2, 2, 3, 4):
            group.start_soon(wait, position)
        with anyio.move_on_after(0.01) as impatient:
            await store.wait_past(2)
        if not impatient.cancelled_caught:
            raise AssertionError("wait_past(2) returned before anything was appended behind position 2")
        await anyio.wait_all_tasks_blocked()
        await store.append("web-1", drafts(b"2"), expected=1)
        await store.append("db-1", drafts(b"3", b"4"), expected=-1)
    if len(woken) != 4 or min(woken) < 3 or max(woken) > 5:
        raise AssertionError(f"4 waiters past 2, 2, 3 and 4 were answered {woken}, while the head went from 2 to 5")


async def a_cancelled_append_is_whole_or_nothing(store: ByteStore) -> None:
    """Of a cancelled append all stands or nothing, and once an empty one behind it is answered, it stays so."""
    for n in range(20):
        end = await store.stream("web-1")
        expected = -1 if end is None else end.revision
        given = drafts(b"a%d" % n, b"b%d" % n)
        async with anyio.create_task_group() as group:
            group.start_soon(partial(store.append, expected=expected), "web-1", given)
            for _ in range(n % 5):
                await checkpoint()
            group.cancel_scope.cancel()
        if n % 2:
            with suppress(Conflict):  # it stands; if not, it never will, and another batch can have its place
                await store.append("web-1", [], expected=expected)
                given = drafts(b"c%d" % n, b"d%d" % n)
        again = await store.append("web-1", given, expected=expected)
        _same("what is answered after a cancelled append", [r.event for r in again], [d.event for d in given])
    _same("what stands after cancelled appends and their retries", len(await store.read_all()), 40)


async def a_subscription_misses_nothing(store: ByteStore) -> None:
    """Catching up and following, from anywhere, with a filter: every record once, in order."""
    seen: dict[tuple[int, str | None], list[int]] = {(after, vm): [] for after in (0, 7, 25) for vm in (None, "vm-1")}

    async def follow(after: int, vm: str | None) -> None:
        async for record in store.subscribe(after, vm=vm, batch=3, until=60):
            seen[after, vm].append(record.position)

    async with anyio.create_task_group() as group:
        for n in range(30):
            await store.append(f"vm-{n % 3}", drafts(b"%d" % n, b"%d+" % n), expected=n // 3 * 2 - 1)
            if n % 10 == 5:
                group.start_soon(follow, *[(0, None), (7, "vm-1"), (25, None)][n // 10])
                group.start_soon(follow, *[(0, "vm-1"), (7, None), (25, "vm-1")][n // 10])
    records = await store.read_all()
    for (after, vm), positions in seen.items():
        want = [r.position for r in records if r.position > after and vm in (None, r.vm)]
        _same(f"the positions that subscribe(after={after}, vm={vm!r}) gave", positions, want)


async def the_chain_holds(store: ByteStore) -> None:
    """The synchronous face, in another thread, shows the same records, and every hash of theirs is right."""
    for n in range(30):
        await store.append(f"vm-{n % 3}", drafts(b"%d" % n, b"%d+" % n, actor="me"), expected=n // 3 * 2 - 1)
    records = await store.read_all()

    def look() -> None:
        with store.reader() as reader:
            _same("what the reader reads", reader.read_all(), records)
            _same("the reader's head", reader.head(), 60)
            for vm in (None, "vm-0", "vm-2"):
                for after in (None, 0, 4):
                    verdict = verify(reader, vm, after)
                    if verdict.fault:
                        raise AssertionError(f"verify(vm={vm!r}, after={after}) found {verdict.fault}")
            _same("the records that verify walked", verify(reader).good, 60)

    await to_thread.run_sync(look)


async def bulk_reading_tells_the_same(store: ByteStore) -> None:
    """``payloads`` and ``pages`` give what ``read_all`` gives; of several shares, each stream is in one, whole."""
    for n in range(30):
        await store.append(f"vm-{n % 6}", drafts(b"%d" % n, b"%d+" % n), expected=n // 6 * 2 - 1)
    records = await store.read_all()

    def look() -> None:
        with store.reader() as reader:
            lean = [(r.position, r.revision, r.time_ns, r.event) for r in records if r.vm == "vm-1"]
            _same("payloads('vm-1')", list(reader.payloads("vm-1")), lean)
            _same("payloads('vm-1', 3, 2)", list(reader.payloads("vm-1", 3, 2)), lean[4:6])
            names = reader.names()
            for shares, until in ((1, None), (2, 40), (3, 60)):
                hands = [list(chain(*reader.pages(until=until, share=n, shares=shares))) for n in range(shares)]
                told = [(at, names.get(key), revision, data) for at, key, revision, data in merge(*hands)]
                want = [(r.position, r.vm, r.revision, r.event) for r in records[:until]]
                _same(f"all pages(until={until}, shares={shares}), with names()", told, want)
                holders = [key for hand in hands for key in {leaf[1] for leaf in hand}]
                _same(f"the streams in two of {shares} shares", len(holders) - len(set(holders)), 0)

    await to_thread.run_sync(look)


async def a_reader_lives_by_itself(store: ByteStore) -> None:
    """A reader asks for no open store, and outlives the one it is from; closed itself, it is a ``StoreError``."""
    records = await store.append("web-1", drafts(b"0"), expected=-1)
    older = store.reader()
    await store.aclose()
    for reader in (older, store.reader()):
        _same("what a reader of a closed store reads", await to_thread.run_sync(reader.read_all), records)
        reader.close()
        reader.close()
        for question in (reader.read_all, reader.head, reader.streams):
            await _refused("asking a closed reader", StoreError, to_thread.run_sync(question))


async def a_store_belongs_to_its_loop(store: ByteStore) -> None:
    """In another event loop, whatever a store offers is a ``StoreError``."""
    await to_thread.run_sync(anyio.run, _offers_nothing, store, "in another event loop")


async def closing_finishes_what_is_under_way(store: ByteStore) -> None:
    """When ``aclose`` returns, an append that was asked for before it stands, and is answered."""
    answer: list[Record[bytes]] = []
    called = anyio.Event()

    async def append() -> None:
        called.set()
        answer.extend(await store.append("web-1", drafts(b"0"), expected=-1))

    async with anyio.create_task_group() as group:
        group.start_soon(append)
        await called.wait()
        await store.aclose()
        with store.reader() as reader:
            _same("what stands of an append under way", [r.event for r in reader.read_all()], [b"0"])
    _same("what an append under way answers", [r.event for r in answer], [b"0"])


async def a_closed_store_says_so(store: ByteStore) -> None:
    """After ``aclose`` everything is a ``StoreError``, for those who wait, too; closing again is nothing."""
    await store.append("web-1", drafts(b"0"), expected=-1)
    subscription = store.subscribe(1)

    async def wait(waiting: Awaitable[Any]) -> None:
        await _refused("waiting for a store that is closed meanwhile", StoreError, waiting)

    async with anyio.create_task_group() as group:
        group.start_soon(wait, store.wait_past(1))
        group.start_soon(wait, anext(subscription))
        await anyio.wait_all_tasks_blocked()
        await store.aclose()
    await store.aclose()
    await _offers_nothing(store, "when it is closed")
    await _refused("opening a closed store again", StoreError, store.__aenter__())


async def check_reopens(factory: Factory, reopen: Factory) -> None:
    """Check that what one store wrote, another one on the same place reads and goes on with."""
    given = drafts(b"0", b"1")
    with _judging("check_reopens"):
        async with factory() as store:
            first = await store.append("web-1", given, expected=-1)
            records = [*first, *await store.append("db-1", drafts(b"2"), expected=-1)]
        async with reopen() as store:
            _same("what stands after reopening", await store.read_all(), records)
            records += await store.append("web-1", drafts(b"3"), expected=1)
            _same("the answer to a retry after reopening", await store.append("web-1", given, expected=-1), first)
        async with reopen() as store:
            _same("what stands after reopening again", await store.read_all(), records)
            _same("the fault that verify finds", (await store.ask(verify)).fault, None)


STORE_CHECKS: tuple[Check, ...] = (
    a_new_store_is_empty,
    what_is_appended_stands,
    an_answer_says_how_well_it_stands,
    a_wrong_expectation_conflicts,
    an_empty_batch_only_checks,
    a_batch_is_all_or_nothing,
    a_mistake_harms_nobody_else,
    a_batch_is_the_stores_own,
    limits_are_reached,
    names_are_checked,
    names_are_kept_as_text,
    a_retry_is_answered_as_the_first_time,
    half_a_retry_conflicts,
    order_is_global_and_gapless,
    reading_starts_anywhere,
    moments_are_found,
    one_of_many_wins,
    waiting_ends_with_an_append,
    a_cancelled_append_is_whole_or_nothing,
    a_subscription_misses_nothing,
    the_chain_holds,
    bulk_reading_tells_the_same,
    a_reader_lives_by_itself,
    a_store_belongs_to_its_loop,
    closing_finishes_what_is_under_way,
    a_closed_store_says_so,
)


class _Name(StrEnum):
    VM = "web-1"
    ACTOR = "operator"
    CORRELATION = "req 7"


@contextmanager
def _judging(what: str) -> Generator[None]:
    """Whatever goes wrong within, in a task group too, is an AssertionError that says what was checked."""
    try:
        with anyio.fail_after(PATIENCE_S):
            yield
    except TimeoutError as error:
        raise AssertionError(f"{what}: the store did not answer within {PATIENCE_S} s") from error
    except Exception as error:
        fault = _first(error)
        said = fault if isinstance(fault, AssertionError) else f"the store raised {fault!r}"
        raise AssertionError(f"{what}: {said}") from error


def _first(error: BaseExceptionGroup[Exception] | Exception) -> Exception:
    return _first(error.exceptions[0]) if isinstance(error, BaseExceptionGroup) else error


async def _offers_nothing(store: ByteStore, when: str) -> None:
    with anyio.fail_after(PATIENCE_S):  # nobody outside can cancel what hangs in another loop
        await _refused(f"reading a store {when}", StoreError, store.read_all())
        await _refused(f"appending to a store {when}", StoreError, store.append("web-1", drafts(b""), expected=-1))
        await _refused(f"waiting on a store {when}", StoreError, store.wait_past(-1))
        await _refused(f"following a store {when}", StoreError, anext(store.subscribe()))


def _bad_drafts() -> list[Draft[Any]]:
    event, id = b"", "01990000-0000-7000-8000-000000000000"
    no_id: Any = 7
    no_time: Any = 1e18  # as time.time() * 1e9 has it
    return [
        Draft(event=b"x" * (EVENT_BYTES_MAX + 1), id=id, time_ns=0),
        Draft(event="no bytes, so the codec fails", id=id, time_ns=0),
        Draft(event=event, id="no id", time_ns=0),
        Draft(event=event, id=id.upper().replace("0", "A"), time_ns=0),
        Draft(event=event, id=id.replace("7000", "4000"), time_ns=0),
        Draft(event=event, id=id, time_ns=-1),
        Draft(event=event, id=id, time_ns=TIME_NS_MAX + 1),
        Draft(event=event, id=id, time_ns=0, actor="line\nbreak"),
        Draft(event=event, id=id, time_ns=0, actor="x" * (NAME_MAX + 1)),
        Draft(event=event, id=id, time_ns=0, correlation="\ud800"),
        Draft(event=event, id=id, time_ns=0, correlation="x" * (NAME_MAX + 1)),
        Draft(event=event, id=no_id, time_ns=0),
        Draft(event=event, id=id, time_ns=no_time),
        Draft(event=event, id=id, time_ns=True),
        Draft(event=event, id=id, time_ns=0, actor=no_id),
    ]


async def _events(store: ByteStore) -> list[bytes]:
    return [record.event for record in await store.read_all()]


def _same(what: str, got: object, want: object) -> None:
    if got != want:
        raise AssertionError(f"{what}: the store gave {_short(got)}, but the promise is {_short(want)}")


async def _refused(
    what: str, kinds: type[Exception] | tuple[type[Exception], ...], attempt: Awaitable[object]
) -> Exception:
    try:
        answer = await attempt
    except kinds as error:
        return error
    except Exception as error:
        raise AssertionError(f"{what} must be refused with {_names(kinds)}, but raised {error!r}") from error
    raise AssertionError(f"{what} must be refused with {_names(kinds)}, but answered {_short(answer)}")


def _names(kinds: type[Exception] | tuple[type[Exception], ...]) -> str:
    return " or ".join(kind.__name__ for kind in (kinds if isinstance(kinds, tuple) else (kinds,)))


def _short(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 500 else f"{text[:500]}... ({len(text):,} characters)"
