"""Real power cuts: what was acknowledged is on the disk, not only in the kernel's memory.

A file system in a loop-mounted image is shut down with ``FS_IOC_SHUTDOWN`` after the writer was killed and reaped:
nothing that the kernel had not yet sent to the image gets there any more, as when the power fails. Mounting it again
recovers it by its journal. The control is the same with ``synchronous="NORMAL"``, which must lose something, or this
set-up could not have seen a loss.

What it leaves out: a disk that lies about its own cache, and sectors torn in the middle; those are the crash images'.
"""

from __future__ import annotations

import fcntl
import os
import random
import shutil
import struct
import subprocess
from collections.abc import Iterator
from contextlib import closing, contextmanager
from itertools import count, islice
from pathlib import Path

import pytest
from scale import LEVEL, pick, repeat, seed
from victims import Auditor, Nursery

CUTS = {"ext4": pick(quick=3, ci=100, soak=1000), "xfs": pick(quick=3, ci=25, soak=1000)}
CONTROLS, CONTROLS_MAX = pick(quick=2, ci=30, soak=300), 1000
LIVES = 4
"""Writers that go on with one log, one after the other, before there is a new one; the old ones stay. (Few: the first
moments of a log are the most delicate ones, when its files are not yet in their directory.)"""
FS_IOC_SHUTDOWN = 0x8004587D
NOLOGFLUSH = 2  # not even the file system's own journal is written out first

WHAT = {"FULL": "test_full_loses_nothing", "NORMAL": "test_normal_loses_a_tail_and_no_more"}
MKFS = {"ext4": ["mkfs.ext4", "-q", "-F"], "xfs": ["mkfs.xfs", "-q", "-f"]}


class Disk:
    """A mounted file system whose power can be cut."""

    def __init__(self, image: Path, place: Path) -> None:
        self.image, self.place = image, place

    def mount(self) -> None:
        """Mount it, and recover it if need be."""
        _run("mount", "-o", "loop", str(self.image), str(self.place))

    def cut(self) -> None:
        """Cut the power, and bring the machine up again."""
        folder = os.open(self.place, os.O_RDONLY)
        try:
            fcntl.ioctl(folder, FS_IOC_SHUTDOWN, struct.pack("I", NOLOGFLUSH))
        finally:
            os.close(folder)
        _run("umount", str(self.place))
        self.mount()


@contextmanager
def disk(folder: Path, kind: str) -> Iterator[Disk]:
    """A new file system of this kind; unmounted and detached afterwards, whatever happens."""
    if kind == "xfs" and LEVEL == "quick":
        pytest.skip("power cuts on XFS have their turn in `make trust`")
    if os.geteuid() != 0 or not os.path.exists("/dev/loop-control"):
        pytest.skip("a real power cut needs root and loop devices: file systems are mounted and shut down")
    if shutil.which(MKFS[kind][0], path=f"{os.environ.get('PATH')}:/sbin:/usr/sbin") is None:
        pytest.skip(f"a power cut on {kind} needs {MKFS[kind][0]}, which is not installed")
    image, place = folder / "disk.img", folder / "disk"
    place.mkdir()
    with image.open("wb") as file:
        file.truncate(512 << 20)  # sparse; XFS wants 300 MB
    _run(*MKFS[kind], str(image))
    it = Disk(image, place)
    try:
        it.mount()
    except subprocess.CalledProcessError as error:
        pytest.skip(
            f"a power cut needs a loop mount of {kind}, which is refused here: {error.stderr.decode().splitlines()[0]}"
        )
    try:
        yield it
    finally:
        if os.path.ismount(place):
            _run("umount", "--lazy", str(place))  # its loop device goes with it


def _run(*command: str) -> None:
    environment = {**os.environ, "PATH": f"{os.environ.get('PATH')}:/sbin:/usr/sbin"}
    subprocess.run(command, check=True, capture_output=True, env=environment)


def cut(folder: Path, kind: str, synchronous: str) -> Iterator[tuple[int, int]]:
    """Cut the power in the middle of a writer's life, again and again, and judge what is left.

    After each cut, how many records were acknowledged so far, and how many of those were lost.
    """
    first, acknowledged, auditors = seed(), 0, list[Auditor]()
    with disk(folder, kind) as under, Nursery() as nursery:
        for number in count(first):
            dice = random.Random(number)
            if number == first or dice.randrange(LIVES) == 0:
                began, auditor = number, Auditor(under.place / f"{number}.db", tail_may_go=synchronous == "NORMAL")
                auditors.append(auditor)
            try:
                heard = nursery.live_and_die(auditor.path, number, synchronous)
                acknowledged += len(heard)
                auditor.hear(heard)
                under.cut()
                auditor.look(dice)
            except BaseException as error:
                error.add_note(f"the log began with seed {began} and failed at {number}; the moments are the machine's")
                error.add_note(repeat(began, f"tests/trust/test_power.py::{WHAT[synchronous]}[{kind}]"))
                raise
            yield acknowledged, sum(auditor.lost for auditor in auditors)


@pytest.mark.timeout(3600)
@pytest.mark.parametrize("kind", ["ext4", "xfs"])
def test_full_loses_nothing(tmp_path: Path, kind: str):
    """All acknowledged records are there, batches are whole, the head file raises no false alarm, and the next writer
    goes on, however early in a log's life the power fails.
    """
    with closing(cut(tmp_path, kind, "FULL")) as cuts:
        acknowledged, _ = list(islice(cuts, CUTS[kind]))[-1]
    assert acknowledged > CUTS[kind], "the writers hardly lived"


@pytest.mark.timeout(3600)
@pytest.mark.parametrize("kind", ["ext4", "xfs"])
def test_normal_loses_a_tail_and_no_more(tmp_path: Path, kind: str):
    """The control: in the same conditions NORMAL must lose some of what FULL promises. It keeps its own promise: no
    more than a tail of whole appends is gone, the head file raises no false alarm, and the next writer goes on.
    """
    with closing(cut(tmp_path, kind, "NORMAL")) as cuts:
        for number, (acknowledged, lost) in enumerate(islice(cuts, CONTROLS_MAX), 1):  # noqa: B007
            if lost and number >= CONTROLS:
                return
    pytest.fail(f"this set-up cannot see a loss: of {acknowledged:,} records in {CONTROLS_MAX} cuts NORMAL lost {lost}")
