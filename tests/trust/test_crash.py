"""Power cuts: whatever an image of the disk may be, what was acknowledged is in it, whole, chained and anchored."""

from __future__ import annotations

import random
from collections.abc import Callable
from itertools import count
from pathlib import Path
from typing import Any

import anyio
import pytest
from crashes import CODEC, NAME, NORMAL, UNANCHORED, Found, Moment, Run, Tally, again, explore, memory, perform
from disk import WAYS, Image, put
from scale import pick, seed

from esrm.stores.base import verify
from esrm.stores.sqlite import SqliteReader, SqliteStore

STEPS = 25
PER_RUN = 2500  # images of one run: beyond that, another run shows more


def runs(what: str, images: int, **options: Any) -> Tally:
    """Record run after run and look at their images, until so many were distinct within their runs."""
    tally = Tally()
    for n in count():
        dice = random.Random(f"{what} {seed()} {n}")
        run = perform(dice, STEPS, **options.get("store", {}))
        more = explore(run, min(PER_RUN, images - tally.images), dice, excused=options.get("excused", frozenset()))
        tally.add(more)
        if tally.images >= images or tally.wrong:
            return tally
    raise AssertionError


@pytest.mark.timeout(3600)
@pytest.mark.parametrize("part", range(pick(quick=1, ci=10, soak=40)))
def test_nothing_acknowledged_is_lost_in_a_power_cut(part: int, record_property: Callable[[str, object], None]):
    """At any point, of any image: acknowledged and published records stand, refused ones do not, the head is right."""
    images = pick(quick=2000, ci=20_000, soak=50_000)
    tally = runs(f"power cut {part}", images)
    tally.check()
    assert tally.images >= images
    assert set(WAYS) < set(tally.ways)
    record_property("trust", f"crash images, part {part}: {tally.images:,} distinct ones, nothing wrong")


@pytest.mark.timeout(3600)
@pytest.mark.parametrize(
    ("options", "excused"),
    [({"anchor": "second"}, {UNANCHORED}), ({"synchronous": "NORMAL"}, NORMAL)],
    ids=["second", "normal"],
)
def test_a_power_cut_is_no_tampering(options: dict[str, str], excused: set[str]):
    """The weaker modes lose no more than they say, and no head is ever ahead of its log, a false alarm."""
    tally = runs(f"weaker {options}", pick(quick=1000, ci=10_000, soak=50_000), store=options, excused=excused)
    tally.check()


def some(run: Run, dice: random.Random, share: float) -> list[tuple[Image, Moment, Found]]:
    """Some of the images of a run, with what must stand in each and what does."""
    chosen: list[tuple[Image, Moment, Found]] = []

    def visit(image: Image, moment: Moment, found: Found) -> None:
        if dice.random() < share:
            chosen.append((image, moment.copy(), found))

    explore(run, 500, dice, each=2, visit=visit)
    return chosen


@pytest.mark.timeout(3600)
@pytest.mark.parametrize("part", range(pick(quick=1, ci=4, soak=16)))
def test_a_power_cut_while_the_last_one_is_mended(part: int, record_property: Callable[[str, object], None]):
    """The store is opened on what a power cut left, and used; the power is cut again at any point of that."""
    tally, images = Tally(), pick(quick=200, ci=1000, soak=10_000)
    for n in count():
        dice = random.Random(f"recovery {part} {seed()} {n}")
        first = perform(dice, STEPS)
        for image, moment, found in some(first, dice, 0.01):
            second = perform(dice, 2, start=first, image=image, moment=moment)
            assert [row[8] for row in second.rows[: found.count]] == found.hashes[: found.count]
            tally.add(explore(second, 60, dice, each=2))
        if tally.images >= images or tally.wrong:
            break
    tally.check()
    record_property("trust", f"crash images of a recovery, part {part}: {tally.images:,} distinct ones, nothing wrong")


def test_the_quick_way_to_read_an_image_is_right():
    """What the inspector finds is what ``SqliteReader`` and ``verify`` find, and what ``SqliteStore`` opens."""
    dice = random.Random(f"inspector {seed()}")
    run = perform(dice, STEPS)
    with memory() as place:
        for n, (image, _, found) in enumerate(some(run, dice, pick(quick=0.05, ci=1, soak=1))):
            assert not found.fault, again()
            put(image, folder := place / str(n))
            if found.count:
                with SqliteReader(folder / NAME, CODEC) as reader:
                    verdict = verify(reader)
                    anchor = reader.anchor()
                assert (verdict.fault, verdict.good) == (None, found.count), again()
                assert anchor is not None
                assert anchor.position == found.anchored, again()
            assert anyio.run(opened, folder / NAME) == list(found.hashes[: found.count]), again()


async def opened(path: Path) -> list[bytes]:
    """The hashes of all records, after the store was opened for writing."""
    async with SqliteStore(path, CODEC) as store:
        return [bytes.fromhex(record.hash) for record in await store.read_all()]
