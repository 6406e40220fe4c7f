"""Writing a log: one event a commit, many VMs at once, in bulk; the five steps layer by layer; and who follows live.

Next: ``placing.py``.
"""

from __future__ import annotations

import asyncio
import shutil
import time
import tracemalloc
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Coroutine
from contextlib import asynccontextmanager
from functools import partial
from itertools import count, cycle, islice
from pathlib import Path
from typing import Any

import anyio
import msgspec

import esrm
from esrm.core import decide, events
from esrm.core.events import Event
from esrm.manager import Uuid7
from esrm.stores.base import Store
from esrm.stores.chain import GENESIS, seal
from esrm.stores.records import prepare

from . import bare, least, logs
from .measure import Bench, Figure, Growth, Report, Times, batched, paired, percentile, row, speed
from .replaying import asyncio_peers

Await = Coroutine[Any, Any, float]


def running(work: Callable[[], Await]) -> Callable[[], float]:
    """A subject from an async function that says the seconds it took; on asyncio, as the peers are."""
    return lambda: anyio.run(work)


# -- one at a time ---------------------------------------------------------------------------------------------------


@row(
    "append",
    "Durable append, one event a commit, one VM",
    "at least 80% of a bare apsw insert, commit and 512-byte write with fdatasync; a command ahead of eventsourcing's "
    "with the head anchored, 2x without; under 110 us of CPU",
)
def append(bench: Bench) -> Report:
    """Raw appends and a manager's commands, to the same disk as bare inserts of the same rows and the peers.

    With the head anchored at each commit (the default) against a bare insert that writes and syncs 512 bytes, too; and
    with the head anchored each second against a bare insert. *Inline* is with ``inline_ms=2``: on the event loop's own
    thread while the disk is that quick. *The least* is what any append costs (``least.py``).
    """
    report, number = Report(), bench.pick(smoke=20, small=100, full=250)
    cpu: dict[str, list[float]] = {"a command": [], "a command, inline": [], "the least": []}
    subjects: dict[str, Callable[[], float]] = {
        "append": running(partial(_appends, _place(bench, "append"), number)),
        "append, inline": running(partial(_appends, _place(bench, "append"), number, inline_ms=2.0)),
        "append, each second": running(partial(_appends, _place(bench, "append"), number, "second")),
        "command": running(partial(_commands, _place(bench, "command"), number, cpu["a command"])),
        "command, inline": running(
            partial(_commands, _place(bench, "command"), number, cpu["a command, inline"], inline_ms=2.0)
        ),
        "command, each second": running(partial(_commands, _place(bench, "command"), number, [], "second")),
        "bare": partial(_bare_inserts, bench, number, anchored=False),
        "bare, anchored": partial(_bare_inserts, bench, number, anchored=True),
        "the least": partial(_bare_inserts, bench, number, _least_threaded(cpu["the least"]), anchored=True),
        "the least, inline": partial(_bare_inserts, bench, number, least.inline, anchored=True),
        "the least, unanchored": partial(_bare_inserts, bench, number, _least_threaded([]), anchored=False),
        "fdatasync": lambda: number * bare.sync(bench.folder / "sync", number, 4096),
    }
    if eventsourcing := _eventsourcing(report):
        subjects["eventsourcing"] = lambda: eventsourcing(
            _fresh(bench, "eventsourcing"), lambda it: sum(it.command(number))
        )
    for name, run in asyncio_peers(report).items():
        subjects[name] = lambda name=name, run=run: asyncio.run(run(_fresh(bench, name), 1, number))[0]
    times = paired(4 * bench.rounds, subjects)  # many short turns: a disk that others use is fast or slow for seconds
    report.figures = [
        Figure("store.append, of bare apsw, both anchored", speed(times, "append", "bare, anchored"), at_least=0.8),
        Figure("store.append inline, of the same", speed(times, "append, inline", "bare, anchored"), at_least=0.8),
        Figure("store.append, of bare apsw, neither", speed(times, "append, each second", "bare"), at_least=0.8),
        Figure("the least through a thread, of bare apsw, both anchored", speed(times, "the least", "bare, anchored")),
        Figure("the least on the event loop, of the same", speed(times, "the least, inline", "bare, anchored")),
        Figure("the least through a thread, of bare apsw, neither", speed(times, "the least, unanchored", "bare")),
        Figure("store.append, of the least through a thread, both anchored", speed(times, "append", "the least")),
        Figure("a manager's command, of bare apsw, both anchored", speed(times, "command", "bare, anchored")),
        Figure("store.append, of write + fdatasync of 4 KiB", speed(times, "append", "fdatasync")),
    ]
    for name, used in cpu.items():
        goal = None if name == "the least" else 110.0
        report.figures.append(Figure(f"CPU of {name}", 1e6 * percentile(used, 0.5) / number, "us", at_most=goal))
    _over_peers(report, times, "command", {"eventsourcing": 1.0})
    if eventsourcing:
        inline = speed(times, "command, inline", "eventsourcing")
        report.figures.append(Figure("a command, inline, over eventsourcing", inline, at_least=1.0))
        ratio = speed(times, "command, each second", "eventsourcing")
        report.figures.append(Figure("a command anchored each second, over eventsourcing", ratio, at_least=2.0))
        for name, anchored in (("the least", "anchored"), ("the least, unanchored", "unanchored")):
            ratio = speed(times, name, "eventsourcing")
            report.figures.append(Figure(f"the least through a thread, {anchored}, over eventsourcing", ratio))
    report.notes.append(
        f"Medians an event: {_medians(times, number)}. py-event-sourcing commits with synchronous=NORMAL, so it does "
        "not wait for the disk; the others do. No peer anchors the end of its log."
    )
    report.growth = [_append_growth(bench, number)]
    return report


Insert = Callable[[bare.Twin, list[Any], Path | None], float]
"""Writes rows one commit each, and a head beside them if it is given; returns the seconds that it took."""


def _one_by_one(twin: bare.Twin, rows: list[Any], head: Path | None) -> float:
    start = time.perf_counter()
    twin.insert_each(rows, head)
    return time.perf_counter() - start


def _least_threaded(cpu: list[float]) -> Insert:
    """As ``least.appends``; the CPU time that it takes is noted, too."""

    def insert(twin: bare.Twin, rows: list[Any], head: Path | None) -> float:
        used = time.process_time()
        seconds = least.appends(twin, [rows], head)
        cpu.append(time.process_time() - used)
        return seconds

    return insert


def _bare_inserts(bench: Bench, number: int, insert: Insert = _one_by_one, *, anchored: bool) -> float:
    """Into a new file each time, as all others do: a WAL that still grows costs more to sync than one written again."""
    place = _fresh(bench, "bare")
    twin = bare.Twin(logs.many(bench, bench.sizes[0]), place, limit=number)
    rows = [
        (position, 1, position, *row[3:])
        for position, row in zip(count(1), islice(cycle(twin.rows), number), strict=False)
    ]
    seconds = insert(twin, rows, place.with_suffix(".head") if anchored else None)
    twin.close()
    place.unlink()
    return seconds


async def _appends(place: Callable[[], Path], number: int, anchor: str = "commit", *, inline_ms: float = 0) -> float:
    async with esrm.open_store(logs.url(place()), anchor=anchor, inline_ms=inline_ms) as store:
        drafts = logs.Drafts()(logs.events(8), number)
        start = time.perf_counter()
        for revision, draft in enumerate(drafts):
            await store.append("bench", [draft], expected=revision - 1)
        return time.perf_counter() - start


async def _commands(
    place: Callable[[], Path], number: int, cpu: list[float], anchor: str = "commit", *, inline_ms: float = 0
) -> float:
    async with (
        esrm.open_store(logs.url(place()), anchor=anchor, inline_ms=inline_ms) as store,
        esrm.ResourceManager(store, vm="bench") as vm,
    ):
        steps = islice(commands(vm), number)
        start, used = time.perf_counter(), time.process_time()
        async for _ in _stepping(steps):
            pass
        cpu.append(time.process_time() - used)
        return time.perf_counter() - start


def commands(vm: esrm.ResourceManager, live: int = 8) -> Any:
    """The steps of ``live`` devices that come and go, each a coroutine to await, without end."""
    names = [f"net{number}" for number in range(live)]
    for name in names:
        yield from _arrive(vm, name)
    while True:
        for name in names:
            yield vm.unregister(name)
            yield vm.release(name)
            yield vm.remove(name)
            yield from _arrive(vm, name)


def _arrive(vm: esrm.ResourceManager, name: str) -> Any:
    yield vm.create(name, kind="virtio-net")
    yield vm.declare(name, logs.WISHES)
    yield vm.allocate(name)
    yield vm.assign(name)
    yield vm.register(name)


async def _stepping(steps: Any) -> AsyncIterator[float]:
    for step in steps:
        start = time.perf_counter()
        await step
        yield time.perf_counter() - start


def _append_growth(bench: Bench, number: int) -> Growth:
    """To a log that is that long already."""
    costs = dict[int, float]()
    for size in bench.sizes:
        place = _fresh(bench, "grown")
        for beside in ("", "-head"):
            shutil.copyfile(f"{logs.many(bench, size)}{beside}", f"{place}{beside}")
        costs[size] = 1e6 * anyio.run(_appends, lambda place=place: place, number) / number
        place.unlink()
    return Growth("store.append to a log of that length, us (one run each, unpaired)", costs)


# -- many at once ----------------------------------------------------------------------------------------------------


@row(
    "many",
    "Durable append, 64 and 256 VMs at once on one store",
    "25x (64) and 35x (256) eventsourcing with 8 threads; p99 under 5 ms at 64",
)
def many(bench: Bench) -> Report:
    """As many tasks, each appending to a VM of its own, or commanding it through a manager of its own.

    The head is anchored at each commit. eventsourcing has threads, since it knows no tasks.
    """
    report, each = Report(), bench.pick(smoke=3, small=40, full=100)
    waits: dict[str, list[float]] = {}
    totals = dict[str, int]()
    subjects: dict[str, Callable[[], float]] = {}
    for tasks in (64, 256):
        for what, work in (("appends", _append_each), ("commands", _command_each)):
            name = f"{tasks} VMs, {what}"
            totals[name], waits[name] = tasks * each, []
            place = _place(bench, f"many-{tasks}-{what}")
            subjects[name] = running(partial(_at_once, place, tasks, partial(work, each=each, samples=waits[name])))
    ours = list(totals)
    for tasks in (64, 256):
        totals[name := f"{tasks} VMs, the least"] = tasks * each
        subjects[name] = partial(_least_at_once, bench, tasks, each)
    yardsticks = len(totals)
    if eventsourcing := _eventsourcing(report):
        a_thread = max(5, each // 2)
        totals["eventsourcing, 8 threads"] = 8 * a_thread
        subjects["eventsourcing, 8 threads"] = lambda: eventsourcing(
            _fresh(bench, "eventsourcing"), lambda it: it.threads(8, a_thread)[0]
        )
    for name, run in asyncio_peers(report).items():
        totals[f"{name}, 64 tasks"] = 64 * 5
        subjects[f"{name}, 64 tasks"] = lambda name=name, run=run: asyncio.run(run(_fresh(bench, name), 64, 5))[0]
    times = paired(bench.rounds, subjects)
    goals = {"64 VMs, appends": 25.0, "256 VMs, appends": 35.0}
    for name in ours:
        for theirs in list(totals)[yardsticks:]:
            ratio = speed(times, name, theirs, work=totals[name] / totals[theirs])
            wanted = goals.get(name) if theirs.startswith("eventsourcing,") else None
            report.figures.append(Figure(f"{name}/s over {theirs}", ratio, at_least=wanted))
        p99 = 1e3 * percentile(waits[name], 0.99)
        report.figures.append(Figure(f"{name}, p99", p99, "ms", None, 5.0 if name == "64 VMs, appends" else None))
    for tasks in (64, 256):
        name, least_of_it = f"{tasks} VMs, appends", f"{tasks} VMs, the least"
        report.figures.append(Figure(f"{name}/s, of the least through a thread", speed(times, name, least_of_it)))
        if eventsourcing:
            theirs = "eventsourcing, 8 threads"
            ratio = speed(times, least_of_it, theirs, work=totals[least_of_it] / totals[theirs])
            report.figures.append(Figure(f"{least_of_it} through a thread, over {theirs}", ratio))
    rates = (f"{name} {totals[name] / percentile(found, 0.5):,.0f}/s" for name, found in times.items())
    report.notes.append(f"Median rates of this run: {', '.join(rates)}.")
    return report


def _least_at_once(bench: Bench, tasks: int, each: int) -> float:
    place = _fresh(bench, "least")
    twin = bare.Twin(logs.many(bench, bench.sizes[0]), place, limit=1)
    columns = twin.rows[0][3:]
    streams = [[(number * tasks + vm + 1, vm, number, *columns) for number in range(each)] for vm in range(tasks)]
    seconds = least.appends(twin, streams, place.with_suffix(".head"))
    twin.close()
    place.unlink()
    return seconds


async def _append_each(
    store: Store[Event], name: str, ready: Callable[[], Awaitable[None]], each: int, samples: list[float]
) -> None:
    drafts = logs.Drafts()(logs.events(8), each)
    await ready()
    async for sample in _stepping(store.append(name, [draft], expected=n - 1) for n, draft in enumerate(drafts)):
        samples.append(sample)


async def _command_each(
    store: Store[Event], name: str, ready: Callable[[], Awaitable[None]], each: int, samples: list[float]
) -> None:
    async with esrm.ResourceManager(store, vm=name) as vm:
        await ready()
        async for sample in _stepping(islice(commands(vm), each)):
            samples.append(sample)


async def _at_once(place: Callable[[], Path], tasks: int, work: Callable[..., Awaitable[None]]) -> float:
    async def one(store: Store[Event], number: int) -> None:
        async def all_are_ready() -> None:
            ready.append(number)
            if len(ready) == tasks:
                begin.set()
            await begin.wait()

        await work(store, f"vm-{number}", all_are_ready)

    ready, begin, start = list[int](), anyio.Event(), 0.0
    async with esrm.open_store(logs.url(place())) as store:
        async with anyio.create_task_group() as group:
            for number in range(tasks):
                group.start_soon(one, store, number)
            await begin.wait()
            start = time.perf_counter()
        return time.perf_counter() - start


# -- in bulk ---------------------------------------------------------------------------------------------------------


@row("bulk", "Bulk import of one stream", "at least 60% of bare executemany with the same columns")
def bulk(bench: Bench) -> Report:
    """Batches of 1,000, a commit each, from drafts; bare is given the rows ready made and sealed.

    *The least* is the same executemany of rows that have to be made: each event encoded, and the two SHA-256 of a
    record.
    """
    report, costs = Report(), dict[int, float]()
    story, encode = [*islice(logs.events(64), 1000)], msgspec.json.encode
    for size in bench.sizes:
        twins = count()
        path = logs.one(bench, size)
        template = bare.Twin(path, bench.folder / f"bulk-template-{size}.db", limit=size)
        rows = template.rows
        template.close()

        def insert(
            made: bool, path: Path = path, rows: list[Any] = rows, size: int = size, twins: Any = twins
        ) -> float:
            place = bench.folder / f"bulk-bare-{size}-{next(twins)}.db"
            twin = bare.Twin(path, place, limit=0)
            start = time.perf_counter()
            for batch in batched(rows, 1000):
                for event, columns in zip(story, batch, strict=False) if made else ():
                    encode(event)
                    least.seal(columns)
                twin.insert_together(batch)
            seconds = time.perf_counter() - start
            twin.close()
            place.unlink()
            return seconds

        rounds = bench.rounds if size <= 100_000 else 1
        ours = running(partial(_import, _place(bench, f"bulk-{size}"), size))
        times = paired(rounds, {"ours": ours, "bare": partial(insert, False), "the least": partial(insert, True)})
        costs[size] = 1e6 * percentile(times["ours"], 0.5) / size
        goal = 0.6 if size == bench.sizes[-1] else None
        report.figures.append(Figure(f"of executemany, {size:,} events", speed(times, "ours", "bare"), at_least=goal))
        report.figures.append(Figure("the least, of executemany", speed(times, "the least", "bare")))
        report.figures.append(Figure("of the least", speed(times, "ours", "the least")))
    report.growth = [Growth("store.append of 1,000, us an event", costs)]
    return report


async def _import(place: Callable[[], Path], size: int) -> float:
    path, make, story, total = place(), logs.Drafts(), logs.events(64), 0.0
    async with esrm.open_store(logs.url(path)) as store:
        for start in range(0, size, 50_000):  # in stretches: a million drafts would measure the memory
            stretch = make(story, min(50_000, size - start))
            began = time.perf_counter()
            for index, batch in enumerate(batched(stretch, 1000)):
                await store.append("import", batch, expected=start + index * 1000 - 1)
            total += time.perf_counter() - began
    path.unlink()
    return total


# -- the five steps, layer by layer ----------------------------------------------------------------------------------


class _Card:
    """A live device that takes what it is given."""

    kind = "virtio-net"

    def __init__(self, name: str) -> None:
        self.name = name

    def constraints(self) -> tuple[esrm.ResourceConstraint, ...]:
        return logs.WISHES

    async def assign(self, resources: esrm.DeviceResources) -> None:
        pass


LAYERS = ("decide", "draft and encode", "seal", "evolve", "bare commits")


@row(
    "attach",
    "The five-step attach of a device, end to end, on the memory store and on SQLite",
    "reported; on SQLite none of our own steps above 30%",
)
def attach(bench: Bench) -> Report:
    """The whole, and each layer's work on the same devices alone; what is left is hand-over: loop, locks, threads."""
    report, number = Report(), bench.pick(smoke=5, small=100, full=300)
    layers: Times = {name: [] for name in LAYERS}

    def peel() -> float:
        found = _layers(number)
        found["bare commits"] = _bare_inserts(bench, 5 * number, anchored=True)
        for name in LAYERS:
            layers[name].append(found[name] / number)
        return sum(found.values())

    subjects = {
        "memory": running(partial(_attaches, lambda: "memory:", number)),
        "SQLite": running(partial(_attaches, _urls(bench, "attach"), number)),
        "layers": peel,
    }
    times = paired(bench.rounds, subjects)
    for where in ("memory", "SQLite"):
        total = percentile(times[where], 0.5) / number
        report.figures.append(Figure(f"{where}: one attach, median", 1e6 * total, "us"))
        left = 100.0
        for name in LAYERS if where == "SQLite" else LAYERS[:-1]:
            share = 100 * percentile(layers[name], 0.5) / total
            left -= share
            goal = 30.0 if where == "SQLite" and name != "bare commits" else None
            report.figures.append(Figure(f"{where}: {name}", share, "%", at_most=goal))
        report.figures.append(Figure(f"{where}: the rest (manager, store, event loop, threads)", left, "%"))
    report.notes.append(
        "Shares are of work done alone, beside the whole in the same run; *bare commits* are five inserts by apsw."
    )
    return report


async def _attaches(place: Callable[[], str], number: int) -> float:
    async with esrm.open_store(place()) as store, esrm.ResourceManager(store, vm="bench") as vm:
        total = 0.0
        for index in range(number):
            card = _Card(f"net{index % 8}")
            start = time.perf_counter()
            await vm.attach(card)
            total += time.perf_counter() - start
            await vm.detach(card.name)
        return total


def _layers(number: int) -> dict[str, float]:
    """The seconds of each layer for so many attaches, without store, loop or thread."""
    found: dict[str, float] = dict.fromkeys(LAYERS, 0.0)
    state, ids, position, last = esrm.VmState(), Uuid7(), 0, GENESIS
    clock = time.perf_counter

    def step(decision: Callable[[esrm.VmState], list[Event]], *, counted: bool = True) -> None:
        nonlocal position, last
        t0 = clock()
        decided = decision(state)
        t1 = clock()
        now = time.time_ns()
        drafts = [esrm.Draft(event=event, id=ids(now), time_ns=now) for event in decided]
        batch = prepare(events, "bench", drafts, state.revision)
        t2 = clock()
        rows = seal(batch, position, last)
        t3 = clock()
        for event in decided:
            esrm.evolve(state, event)
        t4 = clock()
        position, last = rows[-1][0], rows[-1][8]
        for name, seconds in zip(LAYERS, (t1 - t0, t2 - t1, t3 - t2, t4 - t3), strict=False):
            found[name] += seconds if counted else 0.0

    step(lambda s: decide.create_vm(s, esrm.platforms.get("x86_64")), counted=False)
    for index in range(number):
        name = f"net{index % 8}"
        step(lambda s, name=name: decide.create(s, name, "virtio-net"))
        step(lambda s, name=name: decide.declare(s, name, logs.WISHES))
        for there in (decide.allocate, decide.assign, decide.register):
            step(lambda s, name=name, there=there: there(s, name))
        for back in (decide.unregister, decide.release, decide.remove):
            step(lambda s, name=name, back=back: back(s, name), counted=False)
    return found


# -- who follows -----------------------------------------------------------------------------------------------------

RATE = 10_000
EVERY = 50  # events an append: 200 commits a second


@row(
    "fan-out",
    "Live fan-out: one writer, 100 subscribers in the process, 10,000 events a second",
    "all get all; p99 from commit to handler under 20 ms; a stalled one costs the others nothing, and under 5 MB",
)
def fan_out(bench: Bench) -> Report:
    """A page's delay is that of its oldest record, from the append's return to the handler's first line."""
    report = Report()
    seconds = bench.pick(smoke=1, small=3, full=10)
    subscribers = bench.pick(smoke=5, small=100, full=100)
    delays: dict[bool, list[float]] = {False: [], True: []}
    spans: dict[bool, list[float]] = {False: [], True: []}
    complete: list[bool] = []

    def follow(stalled: bool) -> float:
        took, found, all_there = anyio.run(_follow, _place(bench, "fan")(), subscribers, seconds * RATE, RATE, stalled)
        delays[stalled].append(percentile(found, 0.99))
        spans[stalled].append(took)
        complete.append(all_there)
        return percentile(found, 0.99)

    times = paired(min(3, bench.rounds), {"alone": partial(follow, False), "stalled": partial(follow, True)})
    rate = seconds * RATE / percentile(spans[False], 0.5)
    report.figures = [
        Figure("runs in which every subscriber got every event", 100.0 * sum(complete) / len(complete), "%", 100.0),
        Figure("events a second reached", rate, "/s", at_least=0.95 * RATE),
        Figure("commit to handler, p99", 1e3 * percentile(delays[False], 0.5), "ms", at_most=20.0),
        Figure("p99 beside a stalled one, over without", 1 / speed(times, "stalled", "alone"), at_most=1.5),
        Figure("memory that a stalled one holds", _stalled_bytes(bench) / 1e6, "MB", at_most=5.0),
    ]
    report.notes.append(f"{subscribers} subscribers, appends of {EVERY}; pages of at most 256; asyncio.")
    report.growth = [_fan_growth(bench, seconds)]
    return report


def _fan_growth(bench: Bench, seconds: int) -> Growth:
    costs: dict[int, float] = {}
    for subscribers in (1, 10, 100)[: bench.pick(smoke=1, small=3, full=3)]:
        _, found, _ = anyio.run(_follow, _place(bench, "fan")(), subscribers, seconds * RATE // 2, RATE, False)
        costs[subscribers] = 1e3 * percentile(found, 0.99)
    return Growth("p99 by number of subscribers, ms (one run each)", costs)


async def _follow(path: Path, number: int, total: int, rate: int, stalled: bool) -> tuple[float, list[float], bool]:
    """The seconds it took, the delays of all pages, and whether all were told everything."""
    committed: dict[int, float] = {}
    took, delays = 0.0, list[float]()
    seen: list[int] = []

    async def subscriber(store: Store[Event]) -> None:
        got = 0
        async for page in store.subscribe(until=total).pages():
            now = time.perf_counter()
            delays.append(now - committed.get((page[0].position - 1) // EVERY, now))
            got += len(page)
        seen.append(got)

    async with _following(path, stalled) as store, anyio.create_task_group() as group:
        for _ in range(number):
            group.start_soon(subscriber, store)
        drafts = logs.Drafts()(logs.events(8), total)
        start = time.perf_counter()
        for index, batch in enumerate(batched(drafts, EVERY)):
            await anyio.sleep(max(0.0, start + index * EVERY / rate - time.perf_counter()))
            await store.append("bench", batch, expected=index * EVERY - 1)
            committed[index] = time.perf_counter()
        took = time.perf_counter() - start
    return took, delays, seen == [total] * number


@asynccontextmanager
async def _following(path: Path, stalled: bool) -> AsyncGenerator[Store[Event]]:
    """A store; with a subscriber, if wanted, who takes one page and is never heard of again."""

    async def stall(store: Store[Event]) -> None:
        async for _ in store.subscribe().pages():
            await anyio.sleep_forever()

    async with esrm.open_store(logs.url(path)) as store, anyio.create_task_group() as group:
        if stalled:
            group.start_soon(stall, store)
        yield store
        group.cancel_scope.cancel()


def _stalled_bytes(bench: Bench) -> int:
    """What is allocated at the end beside a stalled subscriber, less what is allocated without one."""

    async def attentive(store: Store[Event]) -> None:
        async for _ in store.subscribe().pages():
            pass

    async def held(stalled: bool) -> int:
        before = now = 0
        async with _following(_fresh(bench, "stalled"), stalled) as store, anyio.create_task_group() as group:
            group.start_soon(attentive, store)
            drafts = logs.Drafts()(logs.events(8), 20_000)
            before = tracemalloc.get_traced_memory()[0]
            for index, batch in enumerate(batched(drafts, EVERY)):
                await store.append("bench", batch, expected=index * EVERY - 1)
            now = tracemalloc.get_traced_memory()[0]
            group.cancel_scope.cancel()
        return now - before

    tracemalloc.start()
    try:
        return anyio.run(held, True) - anyio.run(held, False)
    finally:
        tracemalloc.stop()


# -- places and peers ------------------------------------------------------------------------------------------------

_numbers = count()


def _fresh(bench: Bench, name: str) -> Path:
    return bench.folder / f"{name}-{next(_numbers)}.db"


def _place(bench: Bench, name: str) -> Callable[[], Path]:
    """A new file at each call."""
    return lambda: _fresh(bench, name)


def _urls(bench: Bench, name: str) -> Callable[[], str]:
    return lambda: logs.url(_fresh(bench, name))


def _eventsourcing(report: Report) -> Callable[[Path, Callable[[Any], float]], float] | None:
    """What runs some work on the tuned ``eventsourcing`` in a new file; None, and a note, if it is not installed."""
    try:
        from .peers import eventsourcing_
    except ImportError as error:
        report.notes.append(f"eventsourcing: not measured ({error})")
        return None

    def run(place: Path, work: Callable[[Any], float]) -> float:
        peer = eventsourcing_.EventSourcing(place, tuned=True)
        try:
            return work(peer)
        finally:
            peer.close()

    return run


def _over_peers(report: Report, times: Times, ours: str, goals: dict[str, float]) -> None:
    for name in ("eventsourcing", "eventsource-py", "py-event-sourcing"):
        if name in times:
            report.figures.append(Figure(f"a command, over {name}", speed(times, ours, name), at_least=goals.get(name)))
        elif name in goals:
            report.figures.append(Figure(f"over {name}: NOT MEASURED", 0.0, at_least=goals[name]))


def _medians(times: Times, number: int) -> str:
    return ", ".join(f"{name} {1e6 * percentile(found, 0.5) / number:.0f} us" for name, found in times.items())
