"""What lies below the file: the mount, the device, the room, and how long it takes until something is on the disk.

It decides nothing about logs and opens none: it looks at the folder, through the kernel's own tables, and for the
timing at a file of its own. Linux only, as ``/proc`` is; elsewhere it knows less and says so by ``None``.
Separate from ``log.py`` because these are measurements, and what they mean for a log is said there.
"""

from __future__ import annotations

import os
import re
import tempfile
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from statistics import median
from time import perf_counter

import msgspec

MEMORY = frozenset({"devtmpfs", "hugetlbfs", "ramfs", "tmpfs"})
NETWORK = frozenset({
    "9p", "afs", "beegfs", "ceph", "cifs", "coda", "fuse.ceph-fuse", "fuse.glusterfs", "fuse.juicefs", "fuse.rclone",
    "fuse.s3fs", "fuse.sshfs", "gfs2", "gpfs", "lustre", "ncpfs", "nfs", "nfs4", "ocfs2", "orangefs", "smb3", "smbfs",
    "virtiofs",
})  # fmt: skip
"""Their locks or shared memory reach only as far as one client, if they work at all."""
JOURNALED = frozenset({
    "bcachefs", "btrfs", "ext3", "ext4", "f2fs", "jfs", "nilfs2", "reiserfs", "xfs", "zfs",
})  # fmt: skip
NO_FLUSH = re.compile(r"nobarrier|barrier=(0|none)|fsync_mode=nobarrier|volatile")
"""Mount options (ext4, xfs, f2fs, overlay) with which a sync does not wait for the disk's own cache."""

SAMPLE = b"\0" * 4096
SYNC_S = 0.05  # for how long syncs are timed
SYNCS_MIN, SYNCS_MAX = 5, 500


class Mount(msgspec.Struct, frozen=True):
    """One line of ``mountinfo`` (``man 5 proc``).

    Attributes:
        device: major:minor of the file system, in decimal.
        point: where it is mounted.
        type: its file system, such as ``ext4``.
        options: of this mount and of the file system itself.
    """

    device: str
    point: str
    type: str
    options: frozenset[str]


class Room(msgspec.Struct, frozen=True):
    """What a file system has left, and how it deals it out.

    Attributes:
        block: bytes that are allocated at a time.
        free: bytes for this user.
        files: how many files may still be made; None if it does not count them.
    """

    block: int
    free: int
    files: int | None


def parse_mounts(text: str) -> dict[int, Mount]:
    """Return the mounts in the text of ``mountinfo``, by their ids; lines that are none are skipped."""
    mounts: dict[int, Mount] = {}
    for line in text.splitlines():
        left, found, right = line.partition(" - ")
        here, there = left.split(" "), right.split(" ")
        with suppress(ValueError, IndexError):
            number, point = int(here[0]), re.sub(r"\\([0-7]{3})", lambda octal: chr(int(octal[1], 8)), here[4])
            if found:
                mounts[number] = Mount(here[2], point, there[0], frozenset({*here[5].split(","), *there[2].split(",")}))
    return mounts


def mount_of(folder: Path) -> Mount | None:
    """Return the mount that a folder is in; None where the kernel does not tell."""
    with suppress(OSError, AttributeError):  # other systems have no O_PATH
        descriptor = os.open(folder, os.O_PATH | os.O_DIRECTORY)
        try:
            known = Path(f"/proc/self/fdinfo/{descriptor}").read_text()
            number = re.search(r"^mnt_id:\s*(\d+)$", known, re.MULTILINE)
            text = Path("/proc/self/mountinfo").read_text(errors="surrogateescape")
        finally:
            os.close(descriptor)
        return parse_mounts(text).get(int(number[1])) if number else None
    return None


def parse_locks(text: str) -> dict[tuple[str, int], int]:
    """Return who holds which ``flock``, from the text of ``/proc/locks``: (device in hexadecimal, inode) -> process."""
    # 1: FLOCK  ADVISORY  WRITE 708 fe:00:1234 0 EOF     (an arrow after the number: it waits, and holds nothing)
    held: dict[tuple[str, int], int] = {}
    for line in text.splitlines():
        fields = line.split()
        with suppress(ValueError, IndexError):
            if fields[1] == "FLOCK":
                device, _, inode = fields[5].rpartition(":")
                held[device, int(inode)] = int(fields[4])
    return held


def lock_holder(path: Path) -> int | None:
    """Return the process that holds a ``flock`` on a file; None if nobody does who can be seen from here.

    The kernel's list is asked, and not the lock: whoever tried that, if only for a moment, would be in the way of a
    writer that begins just then. A process in another container may be out of sight.
    """
    try:
        file, held = path.stat(), parse_locks(Path("/proc/locks").read_text())
    except OSError:
        return None
    mount = mount_of(path.parent)
    major, minor = map(int, mount.device.split(":")) if mount else (os.major(file.st_dev), os.minor(file.st_dev))
    return held.get((f"{major:02x}:{minor:02x}", file.st_ino))


def write_cache(mount: Mount) -> str | None:
    """Return what the kernel knows of the device's cache: ``write back`` is volatile, ``write through`` is not.

    None for what is no single block device, such as a btrfs or a memory file system.
    """
    for inside in ("", ".."):  # a partition's queue is that of its disk
        with suppress(OSError):
            return Path("/sys/dev/block", mount.device, inside, "queue", "write_cache").read_text().strip()
    return None


def room_in(folder: Path) -> Room:
    """Return what is left where a folder is."""
    found = os.statvfs(folder)
    return Room(found.f_frsize, found.f_bavail * found.f_frsize, found.f_favail if found.f_files else None)


def sync_s(folder: Path, clock: Callable[[], float] = perf_counter) -> float:
    """Write 4 KiB and wait until they are on the disk, again and again for about 50 ms; return the median in seconds.

    In a temporary file in the folder itself, which is removed again; the first sync, which also makes the file, does
    not count. The file keeps its name until then: some file systems need not sync a file that has none.

    Raises:
        OSError: it cannot be done there.
    """
    descriptor, name = tempfile.mkstemp(prefix=".esrm-doctor-", dir=folder)
    try:
        taken: list[float] = []
        began = last = clock()
        while len(taken) <= SYNCS_MIN or (last - began < SYNC_S and len(taken) <= SYNCS_MAX):
            before = clock()
            os.pwrite(descriptor, SAMPLE, 0)
            os.fdatasync(descriptor)
            last = clock()
            taken.append(last - before)
        return median(taken[1:])
    finally:
        os.close(descriptor)
        os.unlink(name)
