"""The doctor: one verdict a line, for a log that is well, one that is ill, and whatever is none."""

from __future__ import annotations

import errno
import json
import os
import shutil
import sqlite3
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from cli_story import Answer, Ask

from esrm.stores.sqlite import disk, doctor
from esrm.stores.sqlite.disk import Mount, Room
from esrm.stores.sqlite.doctor import Finding

ROOMY = Mount("254:0", "/", "ext4", frozenset({"rw", "relatime"}))


@pytest.fixture
def log(story: Path, tmp_path: Path) -> Path:
    """A copy of the story, in a folder of its own."""
    for file in story.parent.iterdir():
        shutil.copy(file, tmp_path)
    return tmp_path / story.name


def findings(answer: Answer) -> dict[str, dict[str, Any]]:
    """What was found, by what was looked at."""
    return {finding["about"]: finding for finding in json.loads(answer.out)["findings"]}


def sql(path: Path, *statements: str) -> None:
    """Somebody works on the file."""
    with sqlite3.connect(path) as connection:
        for statement in statements:
            connection.execute(statement)
    connection.close()


# -- the whole -------------------------------------------------------------------------------------------------------


def test_a_log_that_is_well(ask: Ask, log: Path) -> None:
    """Everything is looked at, nothing is bad, and nothing is left behind or changed."""
    before = {path.name: path.read_bytes() for path in log.parent.iterdir()}
    answer = ask("doctor", log)
    assert (answer.code, answer.err) == (0, "")
    assert "ok      log: 25 records of 1 VM in " in answer.out
    assert "ok      settings: journal mode wal, pages of 4096, application id 0x6573726d, log format 1\n" in answer.out
    assert {path.name: path.read_bytes() for path in log.parent.iterdir()} == before


def test_json_has_the_same_in_numbers(ask: Ask, log: Path) -> None:
    """For programs: a verdict, a sentence and values for each, and whether all is well."""
    document = json.loads(ask("doctor", log, "--json").out)
    assert (document["file"], document["ok"]) == (str(log), True)
    found = {finding["about"]: finding for finding in document["findings"]}
    assert list(found) >= ["SQLite", "Python's sqlite3"]
    assert found["log"]["values"] | {"bytes": 0} == {"records": 25, "vms": 1, "bytes": 0, "bytes_per_event": 259}
    assert found["settings"]["values"]["application_id"] == 0x6573726D
    assert found["room"]["values"]["free"] > 0
    assert found["sync"]["values"]["seconds"] > 0


def test_the_store_may_be_named_as_for_other_commands(ask: Ask, log: Path) -> None:
    """By --store, by the environment, or as the argument; a URL or a path."""
    for arguments in (["--store", log, "doctor"], ["doctor", "--store", f"sqlite:{log}"], ["doctor", f"sqlite:{log}"]):
        assert json.loads(ask(*arguments, "--json", "--no-write").out)["file"] == str(log)
    assert ask("doctor", "--no-write").code == 0, "ESRM_STORE"
    answer = ask("doctor", "memory:")
    assert (answer.code, answer.err) == (3, "esrm: 'memory:' is no file to look at; name one, such as vm.db\n")


def empty(path: Path) -> None:
    """As ``touch`` leaves it."""
    path.write_bytes(b"")


def cut(path: Path) -> None:
    """The second half of it is gone."""
    os.truncate(path, path.stat().st_size // 2)


def gutted(path: Path) -> None:
    """Somebody dropped a table."""
    sql(path, "DROP TRIGGER records_are_never_deleted", "DROP TABLE records")


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (os.remove, "does not exist; reading does not create it"),
        (empty, "is empty: nothing was ever recorded in it"),
        (lambda path: path.write_text("hello " * 1000), "this is not an SQLite database, so no esrm log"),
        (lambda path: sql(path, "PRAGMA application_id = 1"), "is another program's SQLite database"),
        (lambda path: sql(path, "PRAGMA user_version = 99"), "was written by a newer esrm (log format 99"),
        (cut, "the file is damaged or cut short"),
        (gutted, "its tables are not those of an esrm log"),
        (lambda path: (path.unlink(), path.mkdir()), "is a directory; a log is one file"),
    ],
    ids=["missing", "empty", "text", "foreign", "newer", "cut", "gutted", "directory"],
)
def test_what_is_no_log_is_bad(ask: Ask, log: Path, make: Callable[[Path], object], words: str) -> None:
    """One clear sentence, exit code 3, and the place is looked at all the same; nothing is made or changed."""
    make(log)
    before = log.read_bytes() if log.is_file() else None
    answer = ask("doctor", log, "--json")
    assert answer.code == 3
    assert json.loads(answer.out)["ok"] is False
    found = findings(answer)
    assert found["log"]["verdict"] == "bad"
    assert words in found["log"]["what"]
    assert found["room"]["verdict"] in ("ok", "warning")
    assert (log.read_bytes() if log.is_file() else None) == before
    assert [path.name for path in log.parent.iterdir() if "doctor" in path.name or path.suffix == ".db-shm"] == []


def test_a_folder_that_is_not_there(ask: Ask, tmp_path: Path) -> None:
    """The log's sentence says it; there is no place to look at."""
    answer = ask("doctor", tmp_path / "no" / "vm.db", "--json")
    assert answer.code == 3
    assert "there is no directory" in findings(answer)["log"]["what"]
    assert "room" not in findings(answer)


WRITER = """
import os, signal, sys
import apsw
log = apsw.Connection(sys.argv[1])
log.wal_autocheckpoint(0)
log.execute("INSERT INTO streams (name) VALUES ('killed')")
os.kill(os.getpid(), signal.SIGKILL)
"""


def test_a_wal_that_was_left_behind_stays(ask: Ask, log: Path) -> None:
    """After a kill the last commits lie in the WAL. They are seen, and not one byte of either file is moved."""
    killed = subprocess.run([sys.executable, "-c", WRITER, str(log)], check=False)
    assert killed.returncode == -9
    files = [log, Path(f"{log}-wal")]
    before = [file.read_bytes() for file in files]
    found = findings(ask("doctor", log, "--json"))
    assert found["log"]["values"]["vms"] == 2
    assert found["WAL"]["values"]["bytes"] == len(before[1])
    assert [file.read_bytes() for file in files] == before


# -- SQLite ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("version", "bug"),
    [
        ("3.6.23", False), ("3.7.0", True), ("3.40.1", True), ("3.44.5", True), ("3.44.6", False), ("3.45.0", True),
        ("3.50.6", True), ("3.50.7", False), ("3.51.2", True), ("3.51.3", False), ("3.52.0", False), ("3.54.1", False),
        ("3.51", True), ("4.0.0", False),
    ],
)  # fmt: skip
def test_versions_with_the_wal_reset_bug(version: str, bug: bool) -> None:
    """From 3.7.0 up to 3.51.2, save for the two branches into which the fix was taken."""
    assert doctor.wal_reset_bug(version) is bug


def test_ones_own_sqlite_is_judged_harder(ask: Ask, log: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An old SQLite elsewhere is worth knowing; below esrm itself it is a danger to the log."""
    monkeypatch.setattr(doctor.apsw, "sqlite_lib_version", lambda: "3.51.2")
    monkeypatch.setattr(doctor.sqlite3, "sqlite_version", "3.51.2")
    found = findings(ask("doctor", log, "--no-write", "--json"))
    assert (found["SQLite"]["verdict"], found["SQLite"]["advice"]) == ("warning", "upgrade apsw")
    assert (found["Python's sqlite3"]["verdict"], found["Python's sqlite3"]["values"]["bug"]) == ("note", True)


@pytest.mark.parametrize(
    ("script", "version"),
    [("echo 3.53.0 2026-04-09", "3.53.0"), ("echo usage:; exit 1", None), ("printf '\\377'", None), (None, None)],
)
def test_the_shell_on_the_path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, script: str, version: str) -> None:
    """It is asked for its version; one that says something else, or none at all, is passed over."""
    if script is not None:
        (tmp_path / "sqlite3").write_text(f"#!/bin/sh\n{script}\n")
        (tmp_path / "sqlite3").chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    assert doctor._shell_version() == version


# -- the log ---------------------------------------------------------------------------------------------------------


def test_another_journal_mode_is_a_warning(ask: Ask, log: Path) -> None:
    """Somebody has switched WAL off."""
    sql(log, "PRAGMA journal_mode = delete")
    found = findings(ask("doctor", log, "--no-write", "--json"))["settings"]
    assert (found["verdict"], found["values"]["journal_mode"]) == ("warning", "delete")


def test_work_on_the_tables_shows(ask: Ask, log: Path) -> None:
    """A trigger that is gone is named; an index that somebody added is no fault; a view is anybody's."""
    sql(log, "CREATE INDEX mine ON records (id)", "CREATE VIEW v AS SELECT 1", "DROP VIEW changes")
    found = findings(ask("doctor", log, "--no-write", "--json"))["schema"]
    assert (found["verdict"], found["values"]) == ("note", {"changed": [], "added": ["mine"]})
    sql(log, "DROP TRIGGER records_are_never_changed")
    found = findings(ask("doctor", log, "--no-write", "--json"))["schema"]
    assert (found["verdict"], found["values"]["changed"]) == ("warning", ["records_are_never_changed"])


def test_a_second_name_is_a_danger(ask: Ask, log: Path) -> None:
    """Under a hard link SQLite looks for another WAL; a symbolic link is followed, and named."""
    os.link(log, log.with_name("other.db"))
    assert findings(ask("doctor", log, "--no-write", "--json"))["names"]["verdict"] == "warning"
    os.unlink(log.with_name("other.db"))
    link = log.with_name("link.db")
    link.symlink_to(log)
    assert findings(ask("doctor", link, "--no-write", "--json"))["names"]["values"] == {"target": str(log)}


@pytest.mark.parametrize(("mode", "folder"), [(0o666, 0o755), (0o644, 0o777)])
def test_what_anybody_may_write_is_a_warning(ask: Ask, log: Path, mode: int, folder: int) -> None:
    """The file, or the folder in which it can be replaced; not where the sticky bit keeps others off."""
    log.chmod(mode)
    log.parent.chmod(folder)
    found = findings(ask("doctor", log, "--no-write", "--json"))["permissions"]
    assert (found["verdict"], found["values"]["mode"]) == ("warning", f"{mode:o}")
    log.chmod(0o644)
    log.parent.chmod(0o1777)
    assert findings(ask("doctor", log, "--no-write", "--json"))["permissions"]["verdict"] == "ok"


def test_a_long_wal_is_a_warning(ask: Ask, log: Path) -> None:
    """Something keeps it from being folded back."""
    with open(f"{log}-wal", "wb") as wal:
        wal.truncate(65 << 20)
    assert findings(ask("doctor", log, "--no-write", "--json"))["WAL"]["verdict"] == "warning"


# -- the place -------------------------------------------------------------------------------------------------------


def test_mountinfo_is_read_as_the_kernel_writes_it() -> None:
    """Blanks in a name come as octal numbers, optional fields may lack, and what is no mount is skipped."""
    text = r"""
22 27 0:21 / /proc rw,relatime shared:5 - proc proc rw
36 35 98:0 /mnt1 /mnt\0402\011x rw,noatime master:1 propagate_from:2 - ext4 /dev/root rw,nobarrier
40 35 0:50 / / ro - overlay overlay rw,lowerdir=/a,volatile
nonsense
41 35 0:51 / /cut rw
"""
    assert disk.parse_mounts(text) == {
        22: Mount("0:21", "/proc", "proc", frozenset({"rw", "relatime"})),
        36: Mount("98:0", "/mnt 2\tx", "ext4", frozenset({"rw", "noatime", "nobarrier"})),
        40: Mount("0:50", "/", "overlay", frozenset({"ro", "rw", "lowerdir=/a", "volatile"})),
    }


@pytest.mark.skipif(sys.platform != "linux", reason="/proc is Linux's")
def test_the_mount_is_the_one_that_the_kernel_names() -> None:
    """Judged by the device number that stat gives."""
    found = disk.mount_of(Path("/proc/self"))
    assert found is not None
    assert (found.type, found.point) == ("proc", "/proc")
    assert found.device == f"{os.major(os.stat('/proc').st_dev)}:{os.minor(os.stat('/proc').st_dev)}"
    assert disk.mount_of(Path("/no/such/folder")) is None


@pytest.mark.parametrize(
    ("type", "options", "verdict", "words"),
    [
        ("ext4", "rw,relatime", "ok", "ext4 on /"),
        ("tmpfs", "rw", "warning", "in memory"),
        ("nfs4", "rw", "warning", "over a network"),
        ("fuse.sshfs", "rw", "warning", "over a network"),
        ("ext4", "rw,nobarrier", "warning", "does not wait for the disk"),
        ("ext4", "rw,barrier=0", "warning", "does not wait for the disk"),
        ("ext4", "rw,barrier=1", "ok", "ext4"),
        ("f2fs", "rw,fsync_mode=nobarrier", "warning", "does not wait for the disk"),
        ("overlay", "rw,volatile", "warning", "does not wait for the disk"),
        ("overlay", "rw", "warning", "gone with the container"),
        ("xfs", "ro", "note", "read-only"),
        ("fuse.mine", "rw", "note", "knows nothing"),
    ],
)
def test_file_systems(type: str, options: str, verdict: str, words: str) -> None:
    """What a mount is, and what that means for a log."""
    found = doctor._file_system(Mount("1:1", "/", type, frozenset(options.split(","))))
    assert found.verdict == verdict
    assert words in found.what


@pytest.mark.parametrize(
    ("room", "verdict", "words"),
    [
        (Room(4096, 1 << 40, 1000), "ok", "1 TiB free, room for about 11,000,000,000 events; blocks of 4096"),
        (Room(4096, 1 << 20, 1000), "warning", "1 MiB free, room for about 10,000 events"),
        (Room(4096, 0, 1000), "warning", "0 bytes free, room for about 0 events"),
        (Room(4096, 1 << 40, 0), "warning", "no file can be made"),
        (Room(4096, 1 << 40, None), "ok", ""),
        (Room(1024, 1 << 40, 1000), "ok", "blocks of 1024"),
        (Room(1024, 100_000, 1000), "warning", "can be killed while it opens the WAL"),
    ],
)
def test_room(room: Room, verdict: str, words: str) -> None:
    """How much is left, in bytes and in events of 100 bytes; and where too little is more than a nuisance."""
    found = doctor.judge_room(room, 100)
    assert found.verdict == verdict
    assert words in found.what


@pytest.mark.parametrize(
    ("seconds", "type", "cache", "verdict"),
    [
        (140e-6, "ext4", "write back", "ok"),
        (21e-6, "ext4", "write back", "ok"),
        (19e-6, "ext4", "write back", "warning"),
        (2e-6, "ext4", None, "warning"),
        (2e-6, "ext4", "write through", "ok"),
        (2e-6, "tmpfs", None, "note"),
        (11e-3, "ext4", "write back", "note"),
    ],
)
def test_a_sync_that_is_too_quick_is_no_sync(
    monkeypatch: pytest.MonkeyPatch, seconds: float, type: str, cache: str, verdict: str
) -> None:
    """Under 20 us no disk has waited for its medium, unless it has no cache; in memory it means nothing."""
    monkeypatch.setattr(disk, "write_cache", lambda mount: cache)
    assert doctor.judge_sync(seconds, Mount("1:1", "/", type, frozenset())).verdict == verdict


def test_syncs_are_timed_in_the_folder_and_nothing_stays(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """4 KiB written and synced again and again for 50 ms, the median, the first one left out; the file is removed."""
    time, syncs = 0.0, 0
    kinds: list[list[str]] = []

    def sync(descriptor: int) -> None:
        nonlocal time, syncs
        assert os.fstat(descriptor).st_size == 4096
        kinds.append(os.listdir(tmp_path))
        syncs += 1
        time += 1.0 if syncs == 1 else (0.002, 0.001, 0.009)[syncs % 3]

    monkeypatch.setattr(disk.os, "fdatasync", sync)
    assert disk.sync_s(tmp_path, clock=lambda: time) == pytest.approx(0.002)
    assert syncs == disk.SYNCS_MIN + 1, "the slow first one has used up the time"
    assert all(len(names) == 1 for names in kinds)
    assert os.listdir(tmp_path) == []


def test_a_disk_that_cannot_sync_is_a_finding(ask: Ask, log: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is said, and the temporary file is removed all the same."""

    def fail(descriptor: int) -> None:
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    monkeypatch.setattr(disk.os, "fdatasync", fail)
    answer = ask("doctor", log, "--json")
    assert answer.code == 0
    assert findings(answer)["disk"]["what"] == "cannot be looked at: Input/output error"
    assert [path.name for path in log.parent.iterdir() if "doctor" in path.name] == []


def test_no_write_leaves_the_folder_alone(ask: Ask, log: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Then no sync is timed."""
    monkeypatch.setattr(disk, "sync_s", lambda folder: pytest.fail("it wrote"))
    assert "sync" not in findings(ask("doctor", log, "--no-write", "--json"))


# -- the words -------------------------------------------------------------------------------------------------------


def test_advice_stands_below(ask: Ask, log: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A line for the finding, an arrow for what to do; text from outside is printed so that it moves no cursor."""

    def examine(path: Path, *, write: bool) -> Iterator[Finding]:
        yield Finding("ok", "this", "is well")
        yield Finding("warning", "that", "is \x1b[31mred", "paint it")

    monkeypatch.setattr("esrm.cli.doctor.examine", examine)
    assert ask("doctor", log).out == "ok      this: is well\nwarning that: is \\x1b[31mred\n        -> paint it\n"
