"""What is measured in a process of its own: ``python -m benchmarks.cold layout FILE REVISION``, or ``replay FILE 0``.

It prints one JSON object. Imports are done before the clock starts; the row that asks says so.
"""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path

import esrm
from esrm.bulk import replay_all
from esrm.history import Past

from .logs import VM, url


def replay(path: Path, processes: int = 1) -> dict[str, esrm.VmState]:
    """The states of all VMs of a log, streamed."""
    return replay_all(url(path), processes=processes)


def layout(path: Path, revision: int) -> esrm.VmState:
    """The one VM's state at a revision."""
    with esrm.open_reader(url(path)) as reader:
        return Past(reader, VM).at(revision)


def peak_bytes() -> int:
    """The most memory this process ever had resident. (``ru_maxrss`` would count the parent's, from before exec.)"""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(1024 * int(line.split()[1]) for line in lines if line.startswith("VmHWM"))


def main(task: str, path: str, revision: str) -> None:
    """Do it and say how long it took and how much memory the process ever had."""
    assert esrm.evolve  # imported on first use, which is now
    before = peak_bytes()
    start, used = time.perf_counter(), time.process_time()
    found = replay(Path(path)) if task == "replay" else layout(Path(path), int(revision))
    seconds, cpu = time.perf_counter() - start, time.process_time() - used
    found_size = len(found) if isinstance(found, dict) else len(found.devices)
    print(json.dumps({"seconds": seconds, "cpu": cpu, "rss_before": before, "rss": peak_bytes(), "found": found_size}))


if __name__ == "__main__":
    main(*sys.argv[1:])
