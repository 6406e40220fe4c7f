"""What it takes: memory, disk, and the time until it is imported.

Next: ``page.py``, how all this is told.
"""

from __future__ import annotations

import os
import subprocess
import sys
import time
import tracemalloc
from collections.abc import Callable
from itertools import islice
from pathlib import Path
from typing import TypeVar

import esrm
from esrm.core.events import decode, encode

from . import bare, logs
from .measure import Bench, Figure, Growth, Report, paired, percentile, row, speed
from .replaying import cold_run

T = TypeVar("T")

# -- memory ----------------------------------------------------------------------------------------------------------


@row(
    "memory",
    "Bytes a live device and a cached event; the peak of a streaming replay of many VMs",
    "reported; replaying 10,000,000 events in under 300 MB",
)
def memory(bench: Bench) -> Report:
    """By tracemalloc for the objects, by the operating system's peak (in a new process) for the replay."""
    report, devices = Report(), bench.pick(smoke=100, small=1_000, full=10_000)
    happened = [encode(event) for event in islice(logs.events(100), 1 + 5 * 100)]
    states, bytes_ = _allocated(lambda: [esrm.replay(map(decode, happened)) for _ in range(devices // 100)])
    live = sum(len(state.devices) for state in states)
    report.figures.append(Figure("a live device in a state, 100 a VM", bytes_ / live, "bytes"))
    _, more = _allocated(lambda: [(state.allocator.usage(), state.bus) for state in states])
    report.figures.append(Figure("a live device, its allocator and bus besides", more / live, "bytes"))
    path = logs.many(bench, bench.sizes[0])
    with esrm.open_reader(logs.url(path)) as reader:
        reader.read_all(0, 10)
        records, bytes_ = _allocated(lambda: reader.read_all(0, bench.sizes[0]))
    report.figures.append(Figure("a cached event (a Record, decoded)", bytes_ / len(records), "bytes"))
    peaks, base = dict[int, float](), 0.0
    for size in bench.replay_sizes:
        answer = cold_run("replay", logs.many(bench, size), 0)
        peaks[size] = answer["rss"] / 1e6
        goal = 300.0 if size == bench.replay_sizes[-1] else None
        name = f"peak RSS of replaying {size:,} events of {answer['found']:,.0f} VMs"
        report.figures.append(Figure(name, peaks[size], "MB", at_most=goal))
        base = answer["rss_before"] / 1e6
    report.figures.append(Figure("of which before the replay: Python and imports", base, "MB"))
    report.growth = [Growth("peak RSS, MB", peaks)]
    return report


def _allocated(make: Callable[[], T]) -> tuple[T, int]:
    tracemalloc.start()
    try:
        made = make()
        return made, tracemalloc.get_traced_memory()[0]
    finally:
        tracemalloc.stop()


# -- disk ------------------------------------------------------------------------------------------------------------


@row("log-size", "Bytes an event on the disk, with all indexes", "under 2x the event's own JSON")
def log_size(bench: Bench) -> Report:
    """From SQLite's own count of pages (dbstat), after the WAL is folded back; VMs' names and hashes included."""
    costs = {size: sum(bare.pages(path).values()) / size for size, path in _many(bench)}
    caches = {size: _cache_bytes(logs.one(bench, size)) / size for size in bench.sizes}
    size, path = _many(bench)[-1]
    columns = bare.columns(path)
    each = {name: total / columns["events"] for name, total in columns.items()}
    figures = [
        Figure("the file over the events' JSON", costs[size] / each["data"], at_most=2.0),
        Figure("the event's JSON", each["data"], "bytes"),
    ]
    for name, pages in bare.pages(path).items():
        figures.append(Figure(f"of the file: {name}, {WHAT.get(name, 'a table')}", pages / columns["events"], "bytes"))
    figures += [Figure(f"of a row: {name}", each[name], "bytes") for name in ("hash", "id", "actor")]
    figures.append(Figure("beside the log of one VM: its cache, which may be deleted", caches[size], "bytes"))
    growth = [Growth("bytes an event on disk", costs), Growth("bytes an event in the cache", caches)]
    return Report(figures, growth)


def _many(bench: Bench) -> list[tuple[int, Path]]:
    return [(size, logs.many(bench, size)) for size in bench.sizes]


WHAT = {
    "records": "the rows",
    "sqlite_autoindex_records_1": "the index on (stream, revision): one VM's events without reading the others'",
    "streams": "the VMs' names, once each",
    "sqlite_autoindex_streams_1": "the index on their names",
    "sqlite_schema": "the tables' own description",
}


def _cache_bytes(path: Path) -> int:
    beside = path.with_name(f"{path.name}-cache")
    return beside.stat().st_size if beside.exists() else 0


# -- start-up --------------------------------------------------------------------------------------------------------


@row("import", "import esrm, and esrm log", "under 60 ms and under 150 ms, with compiled bytecode")
def start_up(bench: Bench) -> Report:
    """The wall time of whole processes, python -c pass beside them; bytecode goes to a folder of the run."""
    log = logs.one(bench, bench.sizes[0])
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}
    environment["PYTHONPYCACHEPREFIX"] = str(bench.folder / "bytecode")
    environment["PYTHONPATH"] = str(Path(__file__).parents[2])

    def process(*arguments: str) -> Callable[[], float]:
        def subject() -> float:
            start = time.perf_counter()
            subprocess.run([sys.executable, *arguments], check=True, stdout=subprocess.DEVNULL, env=environment)
            return time.perf_counter() - start

        return subject

    subjects = {
        "pass": process("-c", "pass"),
        "import": process("-c", "import esrm"),
        "import all": process("-c", "import esrm; esrm.ResourceManager; esrm.open_store('memory:')"),
        "log": process("-m", "esrm", "log", "-n", "20", "--store", logs.url(log)),
    }
    for subject in subjects.values():
        subject()  # compiles
    times = paired(bench.pick(smoke=2, small=15, full=40), subjects)
    median = {name: 1e3 * percentile(found, 0.5) for name, found in times.items()}
    return Report(
        [
            Figure("python -c pass", median["pass"], "ms"),
            Figure("import esrm", median["import"], "ms", at_most=60.0),
            Figure("import esrm, over pass", 1 / speed(times, "import", "pass")),
            Figure("import esrm, with the manager and a store", median["import all"], "ms"),
            Figure("esrm log -n 20", median["log"], "ms", at_most=150.0),
            Figure("esrm log, over pass", 1 / speed(times, "log", "pass")),
        ]
    )
