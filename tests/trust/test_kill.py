"""kill -9: a writer that dies at any moment takes nothing with it that it had acknowledged.

This proves nothing about power loss: the kernel outlives the writer, and keeps every byte that was ever written,
synced or not. A store that never synced would pass. ``test_power.py`` and the crash images are about power.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from pathlib import Path

import pytest
from scale import pick, repeat, seed
from victims import Auditor, Nursery

KILLS = pick(quick=10, ci=500, soak=10_000)
LIVES = 20
"""Writers that go on with one log, one after the other, before there is a new one."""


@pytest.mark.timeout(3600)
@pytest.mark.parametrize("part", [0, 1])
def test_what_was_acknowledged_outlives_its_writer(
    tmp_path: Path, part: int, record_property: Callable[[str, object], None]
):
    """Killed while it opens, appends, folds or closes: all acknowledged records are there, batches are whole,
    the chain holds, the head file is not ahead, and the next writer goes on. So it is with every ``synchronous``.
    """
    first, acknowledged = seed() + part * KILLS // 2, 0
    with Nursery() as nursery:
        for number in range(first, first + KILLS // 2):
            dice = random.Random(number)
            if number == first or dice.randrange(LIVES) == 0:
                began, auditor = number, Auditor(tmp_path / f"{number}.db")
            try:
                heard = nursery.live_and_die(auditor.path, number, dice.choice(["FULL", "FULL", "NORMAL", "OFF"]))
                acknowledged += len(heard)
                auditor.hear(heard)
                auditor.look(dice)
            except BaseException as error:
                error.add_note(f"the log began with seed {began} and failed at {number}; the moments are the machine's")
                error.add_note(
                    repeat(began, "tests/trust/test_kill.py::test_what_was_acknowledged_outlives_its_writer[0]")
                )
                raise
    assert acknowledged > KILLS, "the victims hardly lived"
    record_property("trust", f"kills, part {part}: {KILLS // 2:,}, {acknowledged:,} acknowledgements, nothing lost")
