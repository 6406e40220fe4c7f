"""Whether the place where a log lies lets it keep its promises: its files, the file system, the disk.

It decides what is well there and what is a danger. Separate from ``log.py`` because nothing here looks into the log,
and separate from ``disk.py`` because that only measures. Next: ``disk.py``.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Callable, Iterator
from mmap import PAGESIZE
from pathlib import Path
from typing import TypeAlias

from esrm.stores.sqlite.doctor import disk
from esrm.stores.sqlite.doctor.findings import Finding, Verdict, about, lasting, sized
from esrm.stores.sqlite.schema import ROOM_BYTES

_MIB = 1 << 20
_ROOM_LOW = 64 * _MIB
_WAL_HIGH = 64 * _MIB
_QUICK_S, _SLOW_S = 20e-6, 10e-3

# -- its files -------------------------------------------------------------------------------------------------------


def files(path: Path, *, whole: bool) -> Iterator[Finding]:
    """Look at the files of a log that is there, without opening one; ``whole``: it could be read."""
    here = path.stat()
    yield from _names(path, here)
    yield _permissions(path, here)
    wal = _bytes(f"{path}-wal")
    if whole or wal:
        yield _wal(wal)
    cache = _bytes(f"{path}-cache")
    if cache is not None:
        yield Finding("ok", "cache", f"{sized(cache)}; may be deleted at any time", "", {"bytes": cache})


def _names(path: Path, here: os.stat_result) -> Iterator[Finding]:
    """SQLite finds the WAL by the log's name: under a second name, it would not find it."""
    if stat.S_ISREG(here.st_mode) and here.st_nlink > 1:  # a folder has a name in each folder in it
        yield Finding(
            "warning", "names", f"the file has {here.st_nlink} names (hard links), and its WAL belongs to one of them",
            "keep one, and copy the log instead of linking it", {"links": here.st_nlink},
        )  # fmt: skip


def _permissions(path: Path, here: os.stat_result) -> Finding:
    folder = path.parent.stat()
    mode, folder_mode = (f"{stat.S_IMODE(found.st_mode):o}" for found in (here, folder))
    writable = _may(path, os.W_OK) and _may(path.parent, os.W_OK | os.X_OK)
    values = {"mode": mode, "folder_mode": folder_mode, "writable": writable}
    what = f"{stat.filemode(here.st_mode)} in {stat.filemode(folder.st_mode)}"
    if here.st_mode & stat.S_IWOTH or (folder.st_mode & stat.S_IWOTH and not folder.st_mode & stat.S_ISVTX):
        advice = "take the write permission for others away from both"
        return Finding("warning", "permissions", f"{what}: anybody may change or replace the log", advice, values)
    if not writable:
        return Finding("note", "permissions", f"{what}: this user may not write there", "", values)
    return Finding("ok", "permissions", f"{what}: this user may write there", "", values)


def _wal(size: int | None) -> Finding:
    values = {"bytes": size}
    if not size:
        return Finding("ok", "WAL", "nothing in it: all is in the file", "", values)
    if size > _WAL_HIGH:
        advice = "look for a program that stays in a read transaction, and end it; then esrm folds it back"
        return Finding("warning", "WAL", f"{sized(size)}: something keeps it from being folded back", advice, values)
    return Finding("ok", "WAL", f"{sized(size)}, part of the log: never move or copy one without the other", "", values)


# -- the place -------------------------------------------------------------------------------------------------------


def disk_below(folder: Path, per_event: int, write: bool) -> Iterator[Finding]:
    """Look at the file system of a folder, and time it if we may write."""
    mount = disk.mount_of(folder)
    yield judge_mount(mount)
    try:
        yield judge_room(disk.room_in(folder), per_event)
    except OSError as error:
        yield Finding("note", "room", f"unknown: {error.strerror}")
    if write:
        try:
            yield judge_sync(disk.sync_s(folder), mount)
        except OSError as error:
            yield Finding("note", "sync", f"cannot be timed: {error.strerror}")


def judge_mount(mount: disk.Mount | None) -> Finding:
    """Say what a mount means for a log."""
    if mount is None:
        return Finding("note", "file system", "unknown: this system does not tell")
    values = {"type": mount.type, "mounted": mount.point, "options": sorted(mount.options)}
    what = f"{mount.type} on {mount.point}"
    return next(
        (
            Finding(verdict, "file system", f"{what}: {words}", advice, values)
            for applies, verdict, words, advice in _PLACES
            if applies(mount)
        ),
        Finding("ok", "file system", what, "", values),
    )


_Rule: TypeAlias = tuple[Callable[[disk.Mount], object], Verdict, str, str]
_PLACES: tuple[_Rule, ...] = (
    (
        lambda mount: mount.type in disk.MEMORY,
        "warning", "in memory, so gone when the machine stops", "move the log to a disk",
    ),
    (
        lambda mount: mount.type in disk.NETWORK,
        "warning", "shared over a network: its locks and shared memory cannot be relied on",
        "move the log to a local disk",
    ),
    (
        lambda mount: any(map(disk.NO_FLUSH.fullmatch, mount.options)),
        "warning", "mounted so that a sync does not wait for the disk: a power cut may take acknowledged records",
        "mount it with write barriers",
    ),
    (
        lambda mount: mount.type == "overlay",
        "warning", "a container's own layer, gone with the container", "keep the log on a volume",
    ),
    (
        lambda mount: "ro" in mount.options,
        "note", "read-only: the log can be read, and nothing appended", "",
    ),
    (
        lambda mount: mount.type not in disk.JOURNALED,
        "note", "esrm knows nothing about what its sync promises", "prefer ext4 or XFS",
    ),
)  # fmt: skip
"""What a mount may be, worst first."""


def judge_room(room: disk.Room, per_event: int) -> Finding:
    """Say whether there is room to go on; ``per_event`` is how many bytes of the file an event takes, 0 if unknown."""
    values = {"block": room.block, "free": room.free, "files": room.files}
    events = f", room for about {about(room.free // per_event)} events" if per_event else ""
    what = f"{sized(room.free)} free{events}; blocks of {room.block}"
    if room.block < PAGESIZE and room.free < ROOM_BYTES:  # see schema.cramped
        words = f"{what}: so little, in blocks so small, that a process can be killed while it opens the WAL"
        return Finding("warning", "room", words, "make room before anything opens the log", values)
    if room.files == 0:
        return Finding(
            "warning", "room", f"{what}; no file can be made", "delete files: there are no inodes left", values
        )
    if room.free < _ROOM_LOW:
        return Finding("warning", "room", what, "make room: when it is full, appends are refused", values)
    return Finding("ok", "room", what, "", values)


def judge_sync(seconds: float, mount: disk.Mount | None) -> Finding:
    """Say what the time of a sync tells. That a disk is slow enough proves nothing; that it is too quick does."""
    values = {"seconds": seconds}
    if mount is not None and mount.type in disk.MEMORY:
        return Finding("note", "sync", "meaningless here: this is memory", "", values)
    cache = disk.write_cache(mount) if mount else None
    what = f"4 KiB are on the disk in {lasting(seconds)} (median)"
    if seconds < _QUICK_S and cache != "write through":
        return Finding(
            "warning", "sync", f"{what}: no disk is so quick, so it, or the hypervisor below it, may only pretend",
            "find out who says so: without a battery, a power cut takes acknowledged records", values,
        )  # fmt: skip
    if seconds > _SLOW_S:
        return Finding("note", "sync", f"{what}: slow; appends that wait together share one sync", "", values)
    return Finding("ok", "sync", what, "", values)


def _may(path: Path, mode: int) -> bool:
    return os.access(path, mode, effective_ids=os.access in os.supports_effective_ids)


def _bytes(path: str) -> int | None:
    """A file's size, without opening it; None if there is none."""
    try:
        return os.stat(path).st_size
    except OSError:
        return None
