"""Reading a log: all of it into states, the layout at a moment, who had an address.

Next: ``appending.py``.
"""

from __future__ import annotations

import asyncio
import json
import os
import random
import subprocess
import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import anyio

import esrm

from . import bare, cold, logs
from .measure import Bench, Figure, Growth, Report, paired, percentile, row, sampled, speed, timed

BLAMES_SECONDS_MAX = 30.0  # for the samples of one log, when each takes long


@row(
    "replay",
    "Full replay of a log of many VMs into their states",
    "at least 50% of reading and decoding the rows; 8x eventsourcing's fold, 20x its repository.get",
)
def replay(bench: Bench) -> Report:
    """Ours against the bare reading of the same file; then against the peers on logs of the same length of theirs."""
    report, ours, yardstick = Report(), dict[int, float](), dict[int, float]()
    judged = min(1_000_000, bench.replay_sizes[-1])
    for size in bench.replay_sizes:
        path = logs.many(bench, size)
        times = paired(_rounds(bench, size), _beside(path))
        ours[size] = 1e6 * percentile(times["ours"], 0.5) / size
        yardstick[size] = 1e6 * percentile(times["bare"], 0.5) / size
        goal = 0.5 if size == judged else None
        report.figures.append(Figure(f"of rows + decode, {size:,} events", speed(times, "ours", "bare"), at_least=goal))
        report.figures.append(Figure(f"the same over 2 processes, {size:,} events", speed(times, "spread", "bare")))
    times = paired(_rounds(bench, judged), _beside(logs.strangers(bench, judged)))
    name = f"of rows + decode, {judged:,} events, no two of them alike"
    report.figures.append(Figure(name, speed(times, "ours", "bare"), at_least=0.5))
    report.figures.append(Figure("the same over 2 processes", speed(times, "spread", "bare")))
    report.growth = [Growth("esrm, us an event", ours), Growth("rows + decode, us an event", yardstick)]
    _replay_peers(bench, report, judged)
    return report


def _rounds(bench: Bench, size: int) -> int:
    return bench.rounds if size <= 100_000 else min(3, bench.rounds)


def _beside(path: Path) -> dict[str, Callable[[], float]]:
    return {
        "ours": timed(partial(cold.replay, path)),
        "spread": timed(partial(cold.replay, path, 2)),
        "bare": timed(partial(bare.read_and_decode, path)),
    }


def _replay_peers(bench: Bench, report: Report, ours: int) -> None:
    """The peers are given fewer events, since they take so long; what is compared is the time an event."""
    theirs = bench.pick(smoke=1_000, small=20_000, full=100_000)
    try:
        from .peers import eventsourcing_
    except ImportError as error:
        report.notes.append(f"eventsourcing: not measured ({error})")
        report.figures.append(Figure("against eventsourcing: NOT MEASURED", 0.0, at_least=8.0))
        return
    mine = {
        "one process": timed(partial(cold.replay, logs.many(bench, ours))),
        "two processes": timed(partial(cold.replay, logs.many(bench, ours), 2)),
        "two processes, none alike": timed(partial(cold.replay, logs.strangers(bench, ours), 2)),
    }
    subjects = dict(mine)
    peers: list[eventsourcing_.EventSourcing] = []
    for name in ("default", "tuned"):
        peer = eventsourcing_.EventSourcing(bench.folder / f"replay-{name}.db", tuned=name == "tuned")
        ids = peer.fill(theirs, 100)
        subjects[f"fold, {name}"] = timed(peer.fold)
        subjects[f"repository.get, {name}"] = timed(partial(peer.get_all, ids))
        peers.append(peer)
    times = paired(min(3, bench.rounds), subjects)
    for peer in peers:
        peer.close()
    goals = {"fold, tuned": 8.0, "repository.get, tuned": 20.0}
    for name in list(subjects)[len(mine) :]:
        for own in mine:
            goal = goals.get(name) if own == "two processes" else None
            ratio = speed(times, own, name, work=ours / theirs)
            report.figures.append(Figure(f"{own}, over eventsourcing's {name}", ratio, at_least=goal))
    report.figures += [
        Figure(f"one process, over {name}", ratio)
        for name, ratio in asyncio_loads(bench, theirs, percentile(times["one process"], 0.5) / ours, report).items()
    ]
    report.notes.append(
        f"The peers read a log of {theirs:,} events of the same lives, and esrm one of {ours:,} beside them: the "
        "figures are of the time an event. In the log of many VMs they live alike, as the VMs of a fleet do, so the "
        "same bytes come again and again, and are decoded once; in the one where no two events are alike each VM has "
        "names of its own."
    )


def asyncio_loads(bench: Bench, size: int, ours_s: float, report: Report) -> dict[str, float]:
    """How many times as fast an event is replayed here as by the asyncio peers, which are given fewer than ``size``."""
    found: dict[str, float] = {}
    for name, run in asyncio_peers(report).items():
        vms, each = max(1, size // 1000), 100
        *_, theirs = asyncio.run(run(bench.folder / f"replay-{name}.db", vms, each))
        found[f"{name} ({vms * each:,} events)"] = theirs / (vms * each) / ours_s
    return found


def asyncio_peers(report: Report) -> dict[str, Callable[[Path, int, int], Any]]:
    """The asyncio peers that can be imported; of the others a note says why not."""
    found: dict[str, Callable[[Path, int, int], Any]] = {}
    try:
        from .peers import eventsource_py_

        found["eventsource-py"] = eventsource_py_.run
    except ImportError as error:
        report.notes.append(f"eventsource-py: not measured ({error})")
    try:
        from .peers import py_event_sourcing_

        found["py-event-sourcing"] = py_event_sourcing_.run
    except ImportError as error:
        report.notes.append(f"py-event-sourcing: not measured ({error})")
    return found


@row(
    "layout",
    "Layout at any moment of one VM, in a cold process",
    "p99 under 20 ms at 1,000,000 events, and no slower late than early",
)
def layout(bench: Bench) -> Report:
    """A new process a sample; the clock runs from opening the file to having the state, imports excluded."""
    report, late, cpu, whole = Report(), dict[int, float](), dict[int, float](), dict[int, float]()
    for size in bench.sizes:
        path = logs.one(bench, size)
        warm_caches(path)
        moments = {"early": 1_000, "middle": size // 2, "late": size - 1_000}
        if size < 2_000:
            moments = {"late": size - 1}
        answers: dict[str, list[dict[str, float]]] = {name: [] for name in moments}

        def subject(name: str, revision: int, path: Path = path, answers: Any = answers) -> float:
            answers[name].append(cold_run("layout", path, revision))
            return answers[name][-1]["seconds"]

        subjects = {name: partial(subject, name, revision) for name, revision in moments.items()}
        times = paired(bench.pick(smoke=2, small=15, full=50), subjects)
        for name, revision in moments.items():
            p99, goal = 1e3 * percentile(times[name], 0.99), 20.0 if size == bench.sizes[-1] else None
            what = f"{name} (revision {revision:,} of {size:,}), p99 of {len(times[name])}"
            report.figures.append(Figure(what, p99, "ms", None, goal))
        late[size] = 1e3 * percentile(times["late"], 0.99)
        cpu[size] = 1e3 * percentile((answer["cpu"] for answer in answers["late"]), 0.99)
        whole[size] = 1e3 * percentile((answer["process"] for answer in answers["late"]), 0.5)
        if "early" in times and size == bench.sizes[-1]:
            report.figures.append(Figure("late over early", 1 / speed(times, "late", "early"), at_most=1.25))
    report.growth = [
        Growth("late, ms", late),
        Growth("late, p99 of its CPU time, ms", cpu),
        Growth("whole process with imports, median ms", whole),
    ]
    report.notes.append("The file is in the page cache: the process is cold, the disk is not.")
    return report


@row("blame", "Who had an address at a moment, warm", "p99 under 5 ms at 1,000,000 events")
def blame(bench: Bench) -> Report:
    """Random addresses of the 64 devices, at random moments, asked of one reader."""
    report, costs = Report(), dict[int, float]()
    for size in bench.sizes:
        samples = _blames(logs.one(bench, size), size, bench.pick(smoke=5, small=200, full=500))
        costs[size] = 1e3 * percentile(samples, 0.99)
        goal = 5.0 if size == bench.sizes[-1] else None
        report.figures.append(Figure(f"{size:,} events, p99 of {len(samples)}", costs[size], "ms", at_most=goal))
    report.growth = [Growth("p99, ms", costs)]
    return report


def _blames(path: Path, size: int, count: int) -> list[float]:
    """The seconds of each question."""
    warm_caches(path)
    dice = random.Random(1)
    with esrm.open_reader(logs.url(path)) as reader:
        past = esrm.Past(reader, logs.VM)
        (base, _), *_ = past.at(6).devices["net0"].resources.mmio_address_ranges()

        def ask(_: int) -> float:
            address, moment = base + dice.randrange(64) * 0x1000, dice.randrange(600, size)
            start = time.perf_counter()
            past.blame(esrm.Space.MMIO, address, moment)
            return time.perf_counter() - start

        ask(0)
        return sampled(ask, count, BLAMES_SECONDS_MAX)


def warm_caches(path: Path) -> None:
    """Ask once as a user would, so that caches which are made on asking (and may be deleted) are there."""

    async def ask() -> None:
        async with esrm.open_store(logs.url(path)) as store:
            history = esrm.History(store, logs.VM)
            await history.at()
            await history.blame(esrm.Space.MMIO, 0)

    anyio.run(ask)


def cold_run(task: str, path: Path, revision: int) -> dict[str, float]:
    """What a new process says of its task (``cold.py``), and the seconds of the whole process."""
    start = time.perf_counter()
    arguments = [sys.executable, "-m", "benchmarks.cold", task, str(path), str(revision)]
    folders = [str(Path(__file__).parents[1]), str(Path(__file__).parents[2])]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(folders)}
    done = subprocess.run(arguments, check=True, capture_output=True, env=environment)
    return {**json.loads(done.stdout), "process": time.perf_counter() - start}
