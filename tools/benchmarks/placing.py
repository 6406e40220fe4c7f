"""The allocator and the bus alone: no events, no log. Nothing here waits, so the clock is the CPU's.

Next: ``footprint.py``.
"""

from __future__ import annotations

import random
import time
from collections.abc import Callable

import esrm
from esrm.core.allocator import Ledger

from .measure import Bench, Figure, Growth, Report, paired, percentile, row

PAGE = 0x1000
FIRST, LAST = 0x10_0000_0000, 0x1F_FFFF_FFFF
LIVE = (1_000, 10_000, 100_000)
HOLES = 100_000

# -- allocate and free -----------------------------------------------------------------------------------------------


@row(
    "allocate",
    "Free one, allocate one, among many live ranges",
    "at 100,000 at most 2x the time at 1,000; under 10 us a pair",
)
def allocate(bench: Bench) -> Report:
    """On a ledger, which is what both the Rust peers' allocators are; first fit, random victims."""
    report, number = Report(), bench.pick(smoke=200, small=5_000, full=20_000)
    lives = LIVE if bench.scale != "smoke" else LIVE[:1]
    kinds: dict[str, Callable[[int], _Churn]] = {
        "plain": _plain,
        f"behind {HOLES:,} too-small holes": _behind_small,
        f"aligned, behind {HOLES:,} misaligned holes": _behind_misaligned,
    }
    for name, kind in kinds.items():
        churns = {live: kind(live) for live in lives}
        times = paired(
            bench.rounds, {str(live): lambda churn=churn: churn.turn(number) for live, churn in churns.items()}
        )
        costs = {live: 1e6 * percentile(times[str(live)], 0.5) / number for live in lives}
        report.figures.append(Figure(f"{name}, {lives[-1]:,} live, a pair", costs[lives[-1]], "us", at_most=10.0))
        if len(lives) > 1:
            ratios = [large / small for large, small in zip(times[str(lives[-1])], times[str(lives[0])], strict=True)]
            figure = Figure(f"{name}, {lives[-1]:,} over {lives[0]:,} live", percentile(ratios, 0.5), at_most=2.0)
            report.figures.append(figure)
        report.growth.append(Growth(f"{name}, us a pair", costs))
    report.growth.append(_through_decide(bench, lives))
    report.notes.append("CPU time. The sizes are live ranges. The peers' figures are quoted at the end of the page.")
    return report


class _Churn:
    """A ledger with live ranges of one size, of which a random one is freed and another one allocated."""

    def __init__(self, ledger: Ledger, size: int, align: int, live: int) -> None:
        self._ledger, self._size, self._mask, self._dice = ledger, size, align - 1, random.Random(7)
        self._bases = [self._allocate() for _ in range(live)]

    def turn(self, number: int) -> float:
        """The seconds of so many pairs."""
        ledger, size, bases = self._ledger, self._size, self._bases
        victims = [self._dice.randrange(len(bases)) for _ in range(number)]
        start = time.process_time()
        for victim in victims:
            base = bases[victim]
            ledger.give(base, base + size - 1, "bench")
            bases[victim] = self._allocate()
        return time.process_time() - start

    def _allocate(self) -> int:
        base = self._ledger.free.first_fit(self._size, self._mask, FIRST, LAST)
        assert base is not None
        self._ledger.take(base, base + self._size - 1, "bench")
        return base


def _ledger() -> Ledger:
    return Ledger(esrm.Space.MMIO, [(FIRST, LAST)])


def _plain(live: int) -> _Churn:
    return _Churn(_ledger(), PAGE, PAGE, live)


def _behind_small(live: int) -> _Churn:
    """One page free, one page held, a hundred thousand times; then what is allocated takes two."""
    ledger = _ledger()
    for index in range(HOLES):
        base = FIRST + (2 * index + 1) * PAGE
        ledger.take(base, base + PAGE - 1, "wall")
    return _Churn(ledger, 2 * PAGE, PAGE, live)


def _behind_misaligned(live: int) -> _Churn:
    """Holes that are large enough, but of which none has an aligned start with enough behind it."""
    ledger = _ledger()
    for index in range(HOLES):
        base = FIRST + 8 * index * PAGE  # free: pages 1 to 7 of eight; wanted: four, aligned to eight
        ledger.take(base, base + PAGE - 1, "wall")
    return _Churn(ledger, 4 * PAGE, 8 * PAGE, live)


def _through_decide(bench: Bench, lives: tuple[int, ...]) -> Growth:
    """The same through the front door, for one VM with so many devices: decide, evolve, and the way back."""
    costs: dict[int, float] = {}
    number = bench.pick(smoke=20, small=500, full=2_000)
    decide, platform = esrm.decide, esrm.Platform(name="wide", pools={esrm.Space.MMIO: ((FIRST, LAST),)})
    for live in lives:
        state = esrm.replay(decide.create_vm(esrm.VmState(), platform))

        def step(events: list[esrm.Event], state: esrm.VmState = state) -> None:
            for event in events:
                esrm.evolve(state, event)

        for index in range(live):
            step(decide.create(state, f"dev{index}"))
            step(decide.declare(state, f"dev{index}", (esrm.MmioConstraint(PAGE),)))
            step(decide.allocate(state, f"dev{index}"))
        dice = random.Random(7)
        start = time.process_time()
        for _ in range(number):
            name = f"dev{dice.randrange(live)}"
            step(decide.release(state, name))
            step(decide.allocate(state, name))
        costs[live] = 1e6 * (time.process_time() - start) / number
    return Growth("plain, through decide and evolve, us a pair (one run)", costs)


# -- the bus ---------------------------------------------------------------------------------------------------------


@row("bus", "Who answers at this address", "under 1 us with 64 ranges; with 10,000 under 1.5x that")
def bus(bench: Bench) -> Report:
    """Random addresses, each inside a registered range."""
    number = bench.pick(smoke=1_000, small=50_000, full=200_000)

    def lookups(ranges: int) -> Callable[[], float]:
        bus, dice = esrm.Bus(), random.Random(3)
        for index in range(ranges):
            bus.register(esrm.Space.MMIO, FIRST + 2 * index * PAGE, PAGE, f"dev{index}")
        addresses = [FIRST + 2 * dice.randrange(ranges) * PAGE + dice.randrange(PAGE - 4) for _ in range(number)]

        def subject() -> float:
            find, mmio = bus.find, esrm.Space.MMIO
            start = time.process_time()
            for address in addresses:
                find(mmio, address, 4)
            return time.process_time() - start

        return subject

    times = paired(max(3, bench.rounds), {"64": lookups(64), "1000": lookups(1_000), "10000": lookups(10_000)})
    costs = {int(name): 1e6 * percentile(found, 0.5) / number for name, found in times.items()}
    ratio = percentile((large / small for large, small in zip(times["10000"], times["64"], strict=True)), 0.5)
    return Report(
        [
            Figure("a lookup with 64 ranges", costs[64], "us", at_most=1.0),
            Figure("10,000 ranges over 64", ratio, at_most=1.5),
        ],
        [Growth("Bus.find of 4 bytes, us (by ranges)", costs)],
        ["CPU time."],
    )
