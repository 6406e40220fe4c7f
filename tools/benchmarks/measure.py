"""What a row of the benchmark is, and how two things are timed so that a noisy machine cannot lie.

A shared machine is twice as fast in one second as in the next. So nothing is ever compared with a number from another
run: subject and yardstick take turns, each turn gives one ratio, and the median of those is the figure.

A row is a function from a ``Bench`` (sizes, rounds, a folder on the disk that is measured) to a ``Report``.
Next: ``logs.py`` (what is measured on), ``replaying.py`` (the first rows), ``page.py`` (how it is told).
"""

from __future__ import annotations

import gc
import math
import time
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from statistics import median
from typing import Any

import msgspec

SCALES: dict[str, tuple[tuple[int, ...], tuple[int, ...], int]] = {
    # sizes of all rows, sizes of the replay, rounds
    "smoke": ((1_000,), (1_000,), 1),
    "small": ((10_000, 100_000), (10_000, 100_000), 5),
    "large": ((10_000, 100_000, 1_000_000), (10_000, 100_000, 1_000_000), 3),
    "full": ((10_000, 100_000, 1_000_000), (10_000, 100_000, 1_000_000, 10_000_000), 5),
}


class Figure(msgspec.Struct, frozen=True):
    """One measured number, beside what it should be; neither bound means that it is only reported."""

    name: str
    value: float
    unit: str = "x"
    at_least: float | None = None
    at_most: float | None = None

    @property
    def met(self) -> bool | None:
        """Whether the goal is met; None where there is none."""
        if self.at_least is None and self.at_most is None:
            return None
        return (self.at_least is None or self.value >= self.at_least) and (
            self.at_most is None or self.value <= self.at_most
        )


class Growth(msgspec.Struct, frozen=True):
    """The cost of one unit of work at each size; the unit is in the name."""

    name: str
    costs: dict[int, float]

    @property
    def slope(self) -> float | None:
        """The exponent of growth by least squares: 0 is flat, 1 is ten times the cost at ten times the size."""
        points = [(math.log(size), math.log(cost)) for size, cost in self.costs.items() if cost > 0]
        if len(points) < 2:
            return None
        x, y = (sum(axis) / len(points) for axis in zip(*points, strict=True))
        return sum((a - x) * (b - y) for a, b in points) / sum((a - x) ** 2 for a, _ in points)


class Report(msgspec.Struct):
    """What a row found."""

    figures: list[Figure] = []
    growth: list[Growth] = []
    notes: list[str] = []


class Bench(msgspec.Struct, frozen=True):
    """How large, how often and where to measure."""

    scale: str
    sizes: tuple[int, ...]
    replay_sizes: tuple[int, ...]
    rounds: int
    folder: Path

    @classmethod
    def of(cls, scale: str, folder: Path) -> Bench:
        """The bench of a named scale."""
        return cls(scale, *SCALES[scale], folder)

    def pick(self, *, smoke: int, small: int, full: int) -> int:
        """The number for this scale; ``full`` for the large one too, which only leaves 10,000,000 events out."""
        return {"smoke": smoke, "small": small}.get(self.scale, full)


class Row(msgspec.Struct, frozen=True):
    """A row of the table: what is done, the goal in words, and the function that measures it."""

    key: str
    title: str
    goal: str
    run: Callable[[Bench], Report]


ROWS: dict[str, Row] = {}


def row(key: str, title: str, goal: str) -> Callable[[Callable[[Bench], Report]], Callable[[Bench], Report]]:
    """Enter a function in the table of rows, which is run in the order of entry."""

    def enter(run: Callable[[Bench], Report]) -> Callable[[Bench], Report]:
        ROWS[key] = Row(key, title, goal, run)
        return run

    return enter


# -- timing ----------------------------------------------------------------------------------------------------------

Times = dict[str, list[float]]


def paired(rounds: int, subjects: dict[str, Callable[[], float]]) -> Times:
    """Let the subjects take turns, there and back, each saying the seconds (of a fixed amount of work) it took."""
    times: Times = {name: [] for name in subjects}
    for turn in range(rounds):
        for name in list(subjects)[:: 1 if turn % 2 == 0 else -1]:
            gc.collect()
            times[name].append(subjects[name]())
    return times


def timed(work: Callable[[], object]) -> Callable[[], float]:
    """A subject whose whole call is the work."""

    def subject() -> float:
        start = time.perf_counter()
        work()
        return time.perf_counter() - start

    return subject


def speed(times: Times, subject: str, yardstick: str, *, work: float = 1.0) -> float:
    """How many times as fast the subject is as the yardstick: the median over the turns.

    ``work`` is the subject's amount of work when the yardstick's is 1.
    """
    return work * median(theirs / ours for ours, theirs in zip(times[subject], times[yardstick], strict=True))


def percentile(samples: Iterable[float], share: float) -> float:
    """The smallest sample that at least ``share`` of all do not exceed."""
    ordered = sorted(samples)
    return ordered[max(0, math.ceil(share * len(ordered)) - 1)]


class Core(msgspec.Struct, frozen=True):
    """What a core was worth just then: the share of one that a busy loop got, and the CPU time of one turn of it."""

    share: float
    turn_ns: float

    @classmethod
    def now(cls) -> Core:
        """Loop for a tenth of a second: on a machine that others use, neither number stays as it is."""
        start, used, turns = time.perf_counter(), time.process_time(), 0
        while time.perf_counter() - start < 0.1:
            turns += 1
        used = time.process_time() - used
        return cls(used / (time.perf_counter() - start), 1e9 * used / turns)


def sampled(take: Callable[[int], float], count: int, seconds_max: float) -> list[float]:
    """Up to ``count`` samples, fewer (but one at least) when they take too long."""
    samples: list[float] = []
    end = time.perf_counter() + seconds_max
    while len(samples) < count and (not samples or time.perf_counter() < end):
        samples.append(take(len(samples)))
    return samples


def batched(items: Sequence[Any], size: int) -> Iterable[Sequence[Any]]:
    """Slices of at most ``size``."""
    return (items[start : start + size] for start in range(0, len(items), size))
