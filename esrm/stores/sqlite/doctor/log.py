"""What a support engineer wants to know about a log before reading one record of it.

It decides what is looked at, and how bad each finding is: a verdict, and a sentence on what to do. It reads the log
only through SQLite (the rule in ``schema.py``), changes nothing, and gets in no writer's way; so it is safe at any
time. ``esrm doctor`` only words what is found here. Next: ``place.py``, the same for the place where the log lies;
``heads.py``, what the head file promises.
"""

from __future__ import annotations

import os
import re
import shutil
import sqlite3
import subprocess
from collections.abc import Iterator
from pathlib import Path

import apsw
import msgspec

from esrm.errors import EsrmError, StoreError
from esrm.stores.sqlite import heads
from esrm.stores.sqlite.doctor import disk, place
from esrm.stores.sqlite.doctor.findings import Finding, counted, sized
from esrm.stores.sqlite.heads import Slot, head_path
from esrm.stores.sqlite.reader import HEAD
from esrm.stores.sqlite.schema import TABLES, close, fetch, foreign_triggers, located, open_reader, translated

_SQLITE_FIXED, _SQLITE_BACKPORTS = (3, 51, 3), {(3, 50): 7, (3, 44): 6}  # https://sqlite.org/wal.html#walresetbug
_EVENT_BYTES = (
    "SELECT avg(length(CAST(data AS BLOB))) FROM (SELECT data FROM records ORDER BY position DESC LIMIT 1000)"
)
_BESIDE_EVENT = 100  # bytes of the file: the other columns, the index, and what pages leave empty


def examine(path: Path, *, write: bool = True) -> Iterator[Finding]:
    """Look at a log and at the place that it is in; what cannot be looked at is a finding, never an error.

    Args:
        path: the log; it need not be one, nor exist.
        write: whether to time syncs, with a temporary file in the log's folder.
    """
    yield from _software()
    link, path = path, located(path)
    log = list(_log(path))
    yield from log
    if link.is_symlink():
        what = f"{link} is a symbolic link to {path}, beside which the other files of the log are"
        yield Finding("note", "link", what, "", {"target": str(path)})
    if os.path.exists(path):
        yield from place.files(path, whole=log[-1].verdict != "bad")
    if os.path.isdir(path.parent):
        yield from place.disk_below(path.parent, log[0].values.get("bytes_per_event", 0), write)


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
    return Finding("ok", "log", f"{counted(count, 'record')} of {counted(vms, 'VM')} in {sized(size)}", "", values)


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
    if strange := foreign_triggers(connection):
        what = f"{', '.join(strange)}: no trigger of esrm's, and what is appended may not be what is stored"
        return Finding("bad", "schema", what, "drop it, and check what the log says with esrm verify", values)
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
            f"{counted(lost, 'record')} gone", _RESTORE, values,
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
