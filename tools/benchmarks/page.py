"""How what was found is told: one page of Markdown, the same on the screen and in ``docs/performance.md``."""

from __future__ import annotations

import os
import platform
import sys
import textwrap
from importlib.metadata import version
from pathlib import Path

from . import bare, peers
from .measure import Figure, Growth, Report, Row

INTRO = """\
# Performance

This page is written by a tool (`make bench SCALE=full WRITE=1`); nothing in it is typed in by hand but these words.

How to read it. A shared machine is twice as fast in one second as in the next, so an absolute time from one run says
little and is never compared with one from another. Each figure with an *x* is a **ratio**: esrm and a yardstick took
turns in the same process, and the median of their ratios stands here. 2.00x is twice as fast as the yardstick, 0.50x
half as fast. Times and sizes stand beside them where a goal names one. Believe those only as far as the busy loop under
each table got a core for itself, and compare them with another page's only where a turn of that loop took as long: it
is the same few instructions everywhere, and tells how quick the core was just then.

The yardsticks: *rows + decode* reads the same rows with apsw and decodes them with msgspec, and does nothing else;
*bare apsw* writes the same rows to the same tables with the same durability, without events, hashes or threads; the
peers are other event sourcing libraries doing the same five-step life of a device in their own way, at their best.
*The least* is bare apsw with what no store can leave out that seals its records and lives beside an event loop: two
hashes a record; in bulk the encoding of its event, elsewhere a task that waits for a thread (or *on the event loop*,
for a turn of that). What a goal asks beyond it is asked of Python, of SQLite or of the machine.

*slope* is the exponent of growth of the cost beside it: 0 is flat, 1 is ten times the cost at ten times the size. A
goal is judged at the largest size measured. The asynchronous rows run on asyncio, since the peers know nothing else.
"""

QUOTED = """\
## Quoted, not measured

Allocators of Rust monitors, one page by first fit, free one and allocate one, on the same kind of machine (2 cores):

| live ranges | vm-allocator 0.1.4 (-O) | dbs-allocator 0.1.1 (-O) |
|---|---|---|
| 1,000 | 5-7 us | 1.3-1.8 us |
| 10,000 | 49-72 us | 10-13 us |
| 100,000 | 530-750 us | 98-102 us |
"""


def page(rows: list[Row], found: dict[str, Report], scale: str, began: str) -> str:
    """The whole page."""
    command = f"make bench SCALE={scale}"
    parts = [INTRO, _machine(command, began), _summary(rows, found)]
    parts += [_section(row, found[row.key]) for row in rows]
    return "\n".join([*parts, QUOTED])


def _machine(command: str, began: str) -> str:
    packages = ", ".join(f"{name} {version(name)}" for name in ("apsw", "msgspec", "anyio", "click"))
    others = ", ".join(f"{name} {found or 'NOT INSTALLED'}" for name, found in peers.versions().items())
    lines = [
        f"- {began} UTC, by `{command}`",
        f"- {_processor()}, {os.cpu_count()} cores, {_memory()}, {platform.system()} {platform.release()}",
        f"- {platform.python_implementation()} {platform.python_version()}, SQLite {bare.sqlite_version()}; {packages}",
        f"- peers: {others}",
        f"- load average when it ended: {os.getloadavg()[0]:.1f}",
    ]
    return "\n".join(textwrap.fill(line, 120, subsequent_indent="  ") for line in lines) + "\n"


def _summary(rows: list[Row], found: dict[str, Report]) -> str:
    lines = ["| row | work | goal | met |", "|---|---|---|---|"]
    for row in rows:
        judged = [figure.met for figure in found[row.key].figures if figure.met is not None]
        verdict = f"{'yes' if all(judged) else '**no**'} ({sum(judged)} of {len(judged)})" if judged else "reported"
        lines.append(f"| [{row.key}](#{row.key}) | {row.title} | {row.goal} | {verdict} |")
    return "\n".join(lines) + "\n"


def _section(row: Row, report: Report) -> str:
    lines = [f"## {row.key}", "", textwrap.fill(f"{row.title}. Goal: {row.goal}.", 120), ""]
    lines += ["| figure | value | goal | met |", "|---|---:|---:|---|", *map(_figure, report.figures), ""]
    if report.growth:
        lines += [*_growth(report.growth), ""]
    lines += [f"{textwrap.fill(note, 120)}\n" for note in report.notes]
    return "\n".join(lines)


def _figure(figure: Figure) -> str:
    met = {True: "yes", False: "**no**", None: ""}[figure.met]
    bounds = [
        f"{sign} {_number(bound)}{_unit(figure)}"
        for sign, bound in (("at least", figure.at_least), ("at most", figure.at_most))
        if bound is not None
    ]
    return f"| {figure.name} | {_number(figure.value)}{_unit(figure)} | {', '.join(bounds)} | {met} |"


def _growth(series: list[Growth]) -> list[str]:
    sizes = sorted({size for growth in series for size in growth.costs})
    lines = [
        "| cost | " + " | ".join(f"{size:,}" for size in sizes) + " | slope |",
        "|---|" + "---:|" * (len(sizes) + 1),
    ]
    for growth in series:
        cells = [_number(growth.costs[size]) if size in growth.costs else "" for size in sizes]
        slope = "" if growth.slope is None else f"{growth.slope:+.2f}"
        lines.append(f"| {growth.name} | {' | '.join(cells)} | {slope} |")
    return lines


def _unit(figure: Figure) -> str:
    return figure.unit if figure.unit in ("x", "%") else f" {figure.unit}" if figure.unit else ""


def _number(value: float) -> str:
    if value >= 1000:
        return f"{value:,.0f}"
    return f"{value:.3g}" if value < 10 else f"{value:.1f}"


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.machine()
    return next((line.partition(": ")[2] for line in lines if line.startswith("model name")), platform.machine())


def _memory() -> str:
    if sys.platform != "linux":
        return "memory unknown"
    return f"{os.sysconf('SC_PAGE_SIZE') * os.sysconf('SC_PHYS_PAGES') / 2**30:.0f} GiB"
