"""What a support engineer wants to know about a log before reading one record of it.

It decides what is looked at and how bad each finding is: four verdicts, and a sentence on what to do. It reads the log
only through SQLite (the rule in ``schema.py``), changes nothing, and gets in no writer's way; so it is safe at any
time. ``esrm doctor`` only words what is found here. Next: ``disk.py``, the measurements; ``heads.py``, what the head
file promises.
"""

from __future__ import annotations

import os
import re
import shutil
import sqlite3
import stat
import subprocess
from collections.abc import Callable, Iterator
from mmap import PAGESIZE
from pathlib import Path
from typing import Any, Literal, TypeAlias

import apsw
import msgspec

from esrm.errors import EsrmError, StoreError
from esrm.stores.sqlite import disk, heads
from esrm.stores.sqlite.heads import Slot, head_path
from esrm.stores.sqlite.reader import HEAD
from esrm.stores.sqlite.schema import ROOM_BYTES, TABLES, close, fetch, open_reader, translated

Verdict: TypeAlias = Literal["ok", "note", "warning", "bad"]
"""``note``: worth knowing; ``warning``: a promise of esrm may not hold here; ``bad``: the log is lost or unreadable."""

_SQLITE_FIXED, _SQLITE_BACKPORTS = (3, 51, 3), {(3, 50): 7, (3, 44): 6}  # https://sqlite.org/wal.html#walresetbug
_MIB = 1 << 20
_ROOM_LOW = 64 * _MIB
_WAL_HIGH = 64 * _MIB
_QUICK_S, _SLOW_S = 20e-6, 10e-3
_EVENT_BYTES = (
    "SELECT avg(length(CAST(data AS BLOB))) FROM (SELECT data FROM records ORDER BY position DESC LIMIT 1000)"
)
_BESIDE_EVENT = 100  # bytes of the file: the other columns, the index, and what pages leave empty


class Finding(msgspec.Struct, frozen=True):
    """One thing that was looked at.

    Attributes:
        verdict: how bad it is.
        about: what was looked at, in a word or two.
        what: what is so, in a sentence.
        advice: what to do about it; empty if nothing need be done.
        values: the same in numbers and names, for programs.
    """

    verdict: Verdict
    about: str
    what: str
    advice: str = ""
    values: dict[str, Any] = {}


def examine(path: Path, *, write: bool = True) -> Iterator[Finding]:
    """Look at a log and at the place that it is in; what cannot be looked at is a finding, never an error.

    Args:
        path: the log; it need not be one, nor exist.
        write: whether to time syncs, with a temporary file in the log's folder.
    """
    yield from _software()
    log = list(_log(path))
    yield from log
    if os.path.exists(path):
        yield from _files(path, whole=log[-1].verdict != "bad")
    if os.path.isdir(path.parent):
        yield from _place(path.parent, log[0].values.get("bytes_per_event", 0), write)


# -- SQLite ----------------------------------------------------------------------------------------------------------


def wal_reset_bug(version: str) -> bool:
    """Whether SQLite of this version (``3.40.1``) can corrupt a WAL database to which two connections write.

    From 3.7.0 on; fixed in 3.51.3, and in 3.50.7 and 3.44.6 for those who stay there. A distribution may have mended an
    older one, which its version does not tell. Source: https://sqlite.org/wal.html#walresetbug
    """
    major, minor, patch = (int(number) for number in f"{version}.0.0".split(".")[:3])
    return (3, 7, 0) <= (major, minor, patch) < _SQLITE_FIXED and patch < _SQLITE_BACKPORTS.get((major, minor), 1 << 30)


def _software() -> Iterator[Finding]:
    own = apsw.sqlite_lib_version()
    what, values = f"{own}, which esrm uses (apsw {apsw.apsw_version()})", {"version": own, "bug": wal_reset_bug(own)}
    if wal_reset_bug(own):
        yield Finding(
            "warning", "SQLite", f"{what}; it has the WAL-reset bug, which can corrupt the log", "upgrade apsw", values
        )
    else:
        yield Finding("ok", "SQLite", what, "", values)
    yield _foreign("Python's sqlite3", sqlite3.sqlite_version)
    if shell := _shell_version():
        yield _foreign("sqlite3 shell", shell)


def _foreign(about: str, version: str) -> Finding:
    """Another SQLite on this machine: no fault as long as nobody writes with it."""
    values = {"version": version, "bug": wal_reset_bug(version)}
    if not wal_reset_bug(version):
        return Finding("ok", about, version, "", values)
    return Finding(
        "note", about, f"{version}, which has the WAL-reset bug: a second writer or checkpoint can corrupt a log",
        "open logs with it read-only: sqlite3 -readonly vm.db, or file:vm.db?mode=ro", values,
    )  # fmt: skip


def _shell_version() -> str | None:
    """The version of ``sqlite3`` on the PATH; None if there is none that says."""
    program = shutil.which("sqlite3")
    if program is None:
        return None
    try:
        said = subprocess.run([program, "-version"], capture_output=True, text=True, timeout=5, check=False).stdout
    except (OSError, subprocess.SubprocessError, UnicodeDecodeError):
        return None
    found = re.match(r"\d+\.\d+(\.\d+)?", said)
    return found[0] if found else None


# -- the log ---------------------------------------------------------------------------------------------------------


def _log(path: Path) -> Iterator[Finding]:
    head = _read_head(head_path(path))  # before the log: a VMM may be appending to it
    try:
        connection = open_reader(path)
    except EsrmError as error:
        yield Finding("bad", "log", str(error))
        return
    try:
        with translated(path):
            yield _records(connection)
            yield _settings(connection)
            yield _schema(connection)
            yield _head(connection, head)
            if isinstance(head, _Head) and head.slots:
                yield _durability(head.slots[0])
            yield _writer(path)
    except EsrmError as error:
        yield Finding("bad", "log", str(error))
    finally:
        close(connection, path)


def _records(connection: apsw.Connection) -> Finding:
    [[count]] = fetch(connection, HEAD)
    [[vms]] = fetch(connection, "SELECT count(*) FROM streams")
    [[size]] = fetch(connection, "SELECT page_count * page_size FROM pragma_page_count, pragma_page_size")
    [[event]] = fetch(connection, _EVENT_BYTES)
    values = {"records": count, "vms": vms, "bytes": size}
    if count:
        values["bytes_per_event"] = round(event) + _BESIDE_EVENT
    return Finding("ok", "log", f"{_count(count, 'record')} of {_count(vms, 'VM')} in {_size(size)}", "", values)


def _settings(connection: apsw.Connection) -> Finding:
    names = ("journal_mode", "page_size", "encoding", "application_id", "user_version")
    values = {name: fetch(connection, f"PRAGMA {name}")[0][0] for name in names}
    if values["journal_mode"] != "wal" and connection.readonly("main"):
        values["journal_mode"] = None  # read as immutable, SQLite knows of no WAL and says "delete"
    mode = values["journal_mode"] or "unknown where nothing can be written"
    what = (
        f"journal mode {mode}, pages of {values['page_size']}, "
        f"application id {values['application_id']:#x}, log format {values['user_version']}"
    )
    if values["journal_mode"] not in ("wal", None):
        advice = "another program has changed it; esrm sets WAL again when it next opens the log for writing"
        return Finding("warning", "settings", what, advice, values)
    return Finding("ok", "settings", what, "", values)


def _schema(connection: apsw.Connection) -> Finding:
    """Whether tables and triggers are those that esrm makes; views are for people, and theirs to change."""
    query = "SELECT name, sql FROM sqlite_schema WHERE type <> 'view' AND sql IS NOT NULL"
    made = apsw.Connection(":memory:")
    fetch(made, TABLES)
    ours, here = dict(fetch(made, query)), dict(fetch(connection, query))
    made.close()
    changed = sorted(name for name, sql in ours.items() if here.get(name) != sql)
    added = sorted(here.keys() - ours.keys())
    values = {"changed": changed, "added": added}
    if changed:
        what = f"not as esrm made it: {', '.join(changed)} missing or changed, so somebody has worked on the file"
        return Finding("warning", "schema", what, "check what the log says with esrm verify", values)
    if added:
        return Finding("note", "schema", f"as esrm made it, and somebody added {', '.join(added)}", "", values)
    return Finding("ok", "schema", "as esrm made it", "", values)


# -- the head file ---------------------------------------------------------------------------------------------------


class _Head(msgspec.Struct, frozen=True):
    """What the head file says: its slots that are whole, the newest first, and how many are not."""

    slots: list[Slot]
    damaged: int


def _read_head(path: Path) -> _Head | StoreError | None:
    """Read the head file; None if there is none, the error if it cannot be read."""
    try:
        slots, damaged = heads.read_slots(path)
        if damaged:  # it may have been written just now
            slots, damaged = heads.read_slots(path)
    except StoreError as error:
        return error
    return _Head(slots, damaged) if path.exists() else None


def _head(connection: apsw.Connection, head: _Head | StoreError | None) -> Finding:
    """Whether what was acknowledged is there."""
    [[end]] = fetch(connection, HEAD)
    if isinstance(head, StoreError):
        return Finding("note", "head file", str(head))
    if not end and (head is None or not head.slots):  # anything in it is a beginning then; see heads.read_head
        return Finding("ok", "head file", "none yet, and no record that it could be about")
    if head is None or not (head.slots or head.damaged):
        return Finding(
            "warning", "head file", "none: nobody can tell whether the log is all that was acknowledged",
            "copy it from where the log came from; to append to what there is: esrm doctor --adopt FILE",
        )  # fmt: skip
    if not head.slots:
        advice = "keep the file; to accept the log as it stands: esrm doctor --adopt FILE"
        return Finding("bad", "head file", "damaged: neither of its slots is as it was written", advice)
    slot = head.slots[0]
    values = {"position": slot.position, "end": end, "damaged": head.damaged}
    if (lost := slot.position - end) > 0:
        return Finding(
            "bad", "head file", f"position {slot.position} was acknowledged, and the log ends at {end}: "
            f"{_count(lost, 'record')} gone", _RESTORE, values,
        )  # fmt: skip
    if slot.position:
        [[hash]] = fetch(connection, "SELECT hash FROM records WHERE position = ?", slot.position) or [[None]]
        if hash != slot.hash:
            what = f"the record at position {slot.position} is not the one that was acknowledged"
            return Finding("bad", "head file", what, _RESTORE, values)
    what = f"position {slot.position} was acknowledged and is there; the log ends at {end}"
    if head.damaged:
        return Finding("note", "head file", f"{what}. One of two slots is damaged, as after a crash", "", values)
    return Finding("ok", "head file", what, "", values)


_RESTORE = "keep all files as they are, and restore a copy; if there is none, accept the loss: esrm doctor --adopt FILE"


def _durability(slot: Slot) -> Finding:
    """What an acknowledgement meant, when the log was last written."""
    what = f"synchronous={slot.synchronous}, head anchored "
    what += {"commit": "at each commit", "second": "each second"}.get(slot.anchored, "when the WAL is folded back")
    values = {"synchronous": slot.synchronous, "anchored": slot.anchored}
    if slot.synchronous == "OFF":
        words = "a power cut may take acknowledged records, and damage the file"
        return Finding("warning", "durability", f"{what}: {words}", _STRONGER, values)
    if slot.synchronous == "NORMAL":
        words = "a power cut may take the records acknowledged since the WAL was last folded back"
        return Finding("warning", "durability", f"{what}: {words}", _STRONGER, values)
    if slot.anchored != "commit":
        words = "a power cut takes nothing, but what is lost of the last second by other means goes unseen"
        return Finding("note", "durability", f"{what}: {words}", "", values)
    return Finding("ok", "durability", f"{what}: what was acknowledged survives a power cut", "", values)


_STRONGER = "open the store without naming a weaker mode: FULL is the default"


def writer_of(log: Path) -> str | None:
    """Return which process has a log open for writing, in words; None if none does that can be seen from here."""
    process = disk.lock_holder(head_path(log))
    if process is None:
        return None
    try:
        command = Path(f"/proc/{process}/cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace").strip()
    except OSError:
        command = ""
    return f"process {process}" + (f" ({command[:200]})" if command else "")


def _writer(log: Path) -> Finding:
    who = writer_of(log)
    return Finding("ok", "writer", who or "nobody who can be seen from here", "", {"writer": who})


# -- its files -------------------------------------------------------------------------------------------------------


def _files(path: Path, *, whole: bool) -> Iterator[Finding]:
    here = path.stat()
    yield from _names(path, here)
    yield _permissions(path, here)
    wal = _bytes(f"{path}-wal")
    if whole or wal:
        yield _wal(wal)
    cache = _bytes(f"{path}-cache")
    if cache is not None:
        yield Finding("ok", "cache", f"{_size(cache)}; may be deleted at any time", "", {"bytes": cache})


def _names(path: Path, here: os.stat_result) -> Iterator[Finding]:
    """SQLite finds the WAL by the log's name: under a second name, it would not find it."""
    if here.st_nlink > 1:
        yield Finding(
            "warning", "names", f"the file has {here.st_nlink} names (hard links), and its WAL belongs to one of them",
            "keep one, and copy the log instead of linking it", {"links": here.st_nlink},
        )  # fmt: skip
    if path.is_symlink():
        target = os.path.realpath(path)
        yield Finding("note", "names", f"a symbolic link to {target}", "use that name everywhere", {"target": target})


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
        return Finding("warning", "WAL", f"{_size(size)}: something keeps it from being folded back", advice, values)
    return Finding("ok", "WAL", f"{_size(size)}, part of the log: never move or copy one without the other", "", values)


# -- the place -------------------------------------------------------------------------------------------------------


def _place(folder: Path, per_event: int, write: bool) -> Iterator[Finding]:
    mount = disk.mount_of(folder)
    yield _file_system(mount)
    try:
        yield judge_room(disk.room_in(folder), per_event)
    except OSError as error:
        yield Finding("note", "room", f"unknown: {error.strerror}")
    if write:
        try:
            yield judge_sync(disk.sync_s(folder), mount)
        except OSError as error:
            yield Finding("note", "sync", f"cannot be timed: {error.strerror}")


def _file_system(mount: disk.Mount | None) -> Finding:
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


_PLACES: tuple[tuple[Callable[[disk.Mount], object], Verdict, str, str], ...] = (
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
    events = f", room for about {_about(room.free // per_event)} events" if per_event else ""
    what = f"{_size(room.free)} free{events}; blocks of {room.block}"
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
    what = f"4 KiB are on the disk in {_duration(seconds)} (median)"
    if seconds < _QUICK_S and cache != "write through":
        return Finding(
            "warning", "sync", f"{what}: no disk is so quick, so it, or the hypervisor below it, may only pretend",
            "find out who says so: without a battery, a power cut takes acknowledged records", values,
        )  # fmt: skip
    if seconds > _SLOW_S:
        return Finding("note", "sync", f"{what}: slow; appends that wait together share one sync", "", values)
    return Finding("ok", "sync", what, "", values)


# -- words -----------------------------------------------------------------------------------------------------------


def _may(path: Path, mode: int) -> bool:
    return os.access(path, mode, effective_ids=os.access in os.supports_effective_ids)


def _bytes(path: str) -> int | None:
    """A file's size, without opening it; None if there is none."""
    try:
        return os.stat(path).st_size
    except OSError:
        return None


def _count(number: int, noun: str) -> str:
    return f"{number:,} {noun}{'s' * (number != 1)}"


def _about(number: int) -> str:
    """The number in two digits: more would look as if it were known."""
    return f"{float(f'{number:.2g}'):,.0f}"


def _size(number: int) -> str:
    power = min((max(number, 1).bit_length() - 1) // 10, 4)
    return f"{number >> 10 * power:,} {('bytes', 'KiB', 'MiB', 'GiB', 'TiB')[power]}"


def _duration(seconds: float) -> str:
    return f"{seconds * 1e3:.1f} ms" if seconds >= 1e-3 else f"{seconds * 1e6:.0f} us"
