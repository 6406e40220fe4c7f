"""The doctor: one verdict a line, for a log that is well, one that is ill, and whatever is none."""

from __future__ import annotations

import errno
import fcntl
import io
import json
import os
import shutil
import sqlite3
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import anyio
import apsw
import msgspec
import pytest
from cli_story import Answer, Ask

from esrm.errors import Conflict, EsrmError
from esrm.manager import ResourceManager
from esrm.opening import open_reader, open_store
from esrm.stores.sqlite.doctor import disk, place
from esrm.stores.sqlite.doctor import log as looking
from esrm.stores.sqlite.doctor.adoption import adopt, propose
from esrm.stores.sqlite.doctor.disk import Mount, Room
from esrm.stores.sqlite.doctor.findings import Finding
from esrm.stores.sqlite.heads import HeadFile, Slot, read_slots

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
    assert looking.wal_reset_bug(version) is bug


def test_ones_own_sqlite_is_judged_harder(ask: Ask, log: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An old SQLite elsewhere is worth knowing; below esrm itself it is a danger to the log."""
    monkeypatch.setattr(looking.apsw, "sqlite_lib_version", lambda: "3.51.2")
    monkeypatch.setattr(looking.sqlite3, "sqlite_version", "3.51.2")
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
    assert looking._shell_version() == version


@pytest.mark.parametrize("version", ["3.53.0", None])
def test_a_shell_is_told_if_there_is_one(
    ask: Ask, log: Path, monkeypatch: pytest.MonkeyPatch, version: str | None
) -> None:
    """People will open the log with it."""
    monkeypatch.setattr(looking, "_shell_version", lambda: version)
    assert ("sqlite3 shell" in findings(ask("doctor", log, "--no-write", "--json"))) == bool(version)


# -- the log ---------------------------------------------------------------------------------------------------------


def test_another_journal_mode_is_a_warning(ask: Ask, log: Path) -> None:
    """Somebody has switched WAL off."""
    sql(log, "PRAGMA journal_mode = delete")
    found = findings(ask("doctor", log, "--no-write", "--json"))["settings"]
    assert (found["verdict"], found["values"]["journal_mode"]) == ("warning", "delete")


def test_on_read_only_media(ask: Ask, log: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """All that can be known there is said, and that SQLite cannot see the journal mode is no fault of the log's."""
    connect = apsw.Connection

    def denied(name: str, **options: Any) -> apsw.Connection:
        if "immutable" not in name and name != ":memory:":
            raise apsw.ReadOnlyError("as the kernel says it")
        return connect(name, **options)

    monkeypatch.setattr(apsw, "Connection", denied)
    monkeypatch.setattr(os, "access", lambda _, mode, **__: mode != os.W_OK)
    found = findings(ask("doctor", log, "--no-write", "--json"))
    assert (found["settings"]["verdict"], found["settings"]["values"]["journal_mode"]) == ("ok", None)
    assert found["head file"]["verdict"] == "ok"


def test_for_another_user(ask: Ask, log: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Who may not read the head file cannot be told how much was acknowledged; and is told that."""
    may = os.access

    def access(path: Path, mode: int, **options: Any) -> bool:
        return path not in (head_of(log), log.parent) and may(path, mode)

    def read(path: Path, *_: object, **__: object) -> Any:
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))

    monkeypatch.setattr(place.os, "access", access)
    monkeypatch.setattr(Path, "open", read)
    answer = ask("doctor", log, "--no-write", "--json")
    found = findings(answer)
    assert answer.code == 0
    assert "Permission denied" in found["head file"]["what"]
    assert found["writer"]["values"] == {"writer": None}
    assert found["permissions"]["verdict"] == "note"
    assert "durability" not in found


def test_work_on_the_tables_shows(ask: Ask, log: Path) -> None:
    """A trigger that is gone is named; an index that somebody added is no fault; a view is anybody's."""
    sql(log, "CREATE INDEX mine ON records (id)", "CREATE VIEW v AS SELECT 1", "DROP VIEW changes")
    found = findings(ask("doctor", log, "--no-write", "--json"))["schema"]
    assert (found["verdict"], found["values"]) == ("note", {"changed": [], "added": ["mine"]})
    sql(log, "DROP TRIGGER records_are_never_changed")
    found = findings(ask("doctor", log, "--no-write", "--json"))["schema"]
    assert (found["verdict"], found["values"]["changed"]) == ("warning", ["records_are_never_changed"])


def test_a_trigger_that_somebody_added_is_bad(ask: Ask, log: Path) -> None:
    """It may keep what is appended from being stored; an index may not."""
    sql(log, "CREATE TRIGGER helpful BEFORE INSERT ON records BEGIN SELECT raise(IGNORE); END")
    answer = ask("doctor", log, "--no-write", "--json")
    assert answer.code == 3
    assert findings(answer)["schema"]["what"].startswith("helpful: no trigger of esrm's")


def test_a_second_name_is_a_danger(ask: Ask, log: Path) -> None:
    """Under a hard link SQLite looks for another WAL; of a symbolic link we say what it leads to."""
    os.link(log, log.with_name("other.db"))
    assert findings(ask("doctor", log, "--no-write", "--json"))["names"]["verdict"] == "warning"
    os.unlink(log.with_name("other.db"))
    link = log.with_name("link.db")
    link.symlink_to(log)
    found = findings(ask("doctor", link, "--no-write", "--json"))
    assert (found["link"]["verdict"], found["link"]["values"]) == ("note", {"target": str(log)})
    assert found["head file"]["verdict"] == "ok"


def test_a_folder_has_no_second_name(ask: Ask, tmp_path: Path) -> None:
    """Each folder in it is a link to it; that is no danger to a log."""
    (tmp_path / "inner").mkdir()
    answer = ask("doctor", tmp_path, "--no-write", "--json")
    assert answer.code == 3
    assert "is a directory" in findings(answer)["log"]["what"]
    assert "names" not in findings(answer)


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


# -- the head file ---------------------------------------------------------------------------------------------------


def head_of(log: Path) -> Path:
    """The head file."""
    return Path(f"{log}-head")


def rewrite(path: Path, /, **changes: Any) -> None:
    """Let the head file say something else about the log."""
    [slot, *_], _ = read_slots(head_of(path))
    file = HeadFile(path)
    file.claim(fresh=False)
    file.begin(msgspec.structs.replace(slot, **changes))
    file.release()


def cut_tail(log: Path, records: int = 1) -> None:
    """Take the last records away, with enough skill to leave a whole chain."""
    sql(log, "DROP TRIGGER records_are_never_deleted", f"DELETE FROM records WHERE position > {25 - records}")


def flip(path: Path, *offsets: int) -> None:
    """Turn one bit over in each of these bytes."""
    data = bytearray(path.read_bytes())
    for offset in offsets:
        data[offset] ^= 1
    path.write_bytes(data)


def test_the_head_file_agrees(ask: Ask, log: Path) -> None:
    """What was acknowledged is there, as durably as it says, and nobody writes."""
    found = findings(ask("doctor", log, "--no-write", "--json"))
    assert (found["head file"]["verdict"], found["head file"]["values"]["position"]) == ("ok", 25)
    assert found["durability"]["values"] == {"synchronous": "FULL", "anchored": "commit"}
    assert found["durability"]["verdict"] == "ok"
    assert found["writer"]["values"] == {"writer": None}


@pytest.mark.parametrize("more", [[], ["--vm", "web-1"]], ids=["any VM", "one VM"])
def test_a_log_that_was_emptied_is_not_taken_for_a_new_one(ask: Ask, log: Path, more: list[str]) -> None:
    """Without a record no command says that there is no VM yet: the head file knows better, and is quoted."""
    cut_tail(log, 25)
    for command in ("log", "map", "tree", "stats", "verify", "vms" if not more else "timeline net0"):
        answer = ask("--store", log, *more, *command.split())
        assert (answer.code, "position 25 was acknowledged" in answer.out + answer.err) == (3, True), answer


def damage_one(log: Path) -> None:
    """The older slot has a bit flipped."""
    flip(head_of(log), 4096 * (read_slots(head_of(log))[0][1].counter % 2))


@pytest.mark.parametrize(
    ("make", "verdict", "code", "words"),
    [
        (cut_tail, "bad", 3, "position 25 was acknowledged, and the log ends at 24: 1 record gone"),
        (lambda log: rewrite(log, hash=bytes(32)), "bad", 3, "position 25 is not the one that was acknowledged"),
        (lambda log: flip(head_of(log), 20, 4096 + 20), "bad", 3, "neither of its slots is as it was written"),
        (damage_one, "note", 0, "position 25 was acknowledged and is there; the log ends at 25. One of two slots"),
        (lambda log: head_of(log).unlink(), "warning", 0, "nobody can tell whether the log is all"),
        (lambda log: rewrite(log, position=0), "ok", 0, "the log ends at 25"),
    ],
    ids=["cut", "changed", "damaged", "a damaged slot", "missing", "behind"],
)
def test_what_the_head_file_tells(
    ask: Ask, log: Path, make: Callable[[Path], object], verdict: str, code: int, words: str
) -> None:
    """Acknowledged records that are gone are bad; a head file that is gone is a warning; one that lags is no fault."""
    make(log)
    answer = ask("doctor", log, "--no-write", "--json")
    found = findings(answer)["head file"]
    assert (found["verdict"], answer.code) == (verdict, code)
    assert words in found["what"]


def test_a_slot_that_is_being_written_is_read_again(ask: Ask, log: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Half of a new slot beside a running VMM is no damage."""
    answers = [([], 1), read_slots(head_of(log))]
    monkeypatch.setattr(looking.heads, "read_slots", lambda path: answers.pop(0))
    assert findings(ask("doctor", log, "--no-write", "--json"))["head file"]["verdict"] == "ok"


@pytest.mark.parametrize(
    ("synchronous", "anchored", "when", "verdict", "words"),
    [
        ("FULL", "commit", "at each commit", "ok", "survives a power cut"),
        ("EXTRA", "commit", "at each commit", "ok", "survives a power cut"),
        ("FULL", "second", "each second", "note", "takes nothing, but what is lost of the last second"),
        ("NORMAL", "folded", "when the WAL is folded back", "warning", "since the WAL was last folded back"),
        ("OFF", "folded", "when the WAL is folded back", "warning", "damage the file"),
    ],
)
def test_a_weaker_mode_is_named_as_what_it_means(
    ask: Ask, log: Path, synchronous: str, anchored: str, when: str, verdict: str, words: str
) -> None:
    """As the head file says the log was last written."""
    rewrite(log, synchronous=synchronous, anchored=anchored)
    found = findings(ask("doctor", log, "--no-write", "--json"))["durability"]
    assert (found["verdict"], found["values"]) == (verdict, {"synchronous": synchronous, "anchored": anchored})
    assert found["what"].startswith(f"synchronous={synchronous}, head anchored {when}: ")
    assert words in found["what"]


VMM = """
import sys
import anyio, esrm

async def main():
    async with esrm.open_store(f"sqlite:{sys.argv[1]}") as store:
        async with esrm.ResourceManager(store, vm="web-1") as vm:
            await vm.create("a")
            print("ready", flush=True)
            sys.stdin.readline()
            await vm.create("b")
            print(await store.head())

anyio.run(main)
"""


def test_nobody_is_in_the_way_of_a_writer(ask: Ask, log: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """To find out who writes, the lock is not taken: not even for a moment, in which a VMM may want to begin."""
    monkeypatch.setattr("fcntl.flock", lambda *_: pytest.fail("it took the lock"))
    assert ask("doctor", log).code == 0


def test_locks_are_read_as_the_kernel_writes_them() -> None:
    """Whole-file locks that are held; not the other kinds, not who waits, not what is cut short."""
    text = """\
1: POSIX  ADVISORY  WRITE 101 fe:00:11 0 EOF
2: FLOCK  ADVISORY  WRITE 102 fe:00:12 0 EOF
2: -> FLOCK  ADVISORY  WRITE 103 fe:00:12 0 EOF
3: FLOCK  ADVISORY  READ  104 00:1b:18446744073709551615 0 EOF
4: OFDLCK ADVISORY  WRITE -1 fe:00:13 0 EOF
5: FLOCK  ADVISORY
"""
    assert disk.parse_locks(text) == {("fe:00", 12): 102, ("00:1b", 2**64 - 1): 104}


@pytest.mark.parametrize("told", [True, False], ids=["by its mount", "by its own device"])
def test_who_holds_a_lock_is_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, told: bool) -> None:
    """The kernel's list names a file's device: that of the mount, where the kernel tells, else what stat says."""
    if not told:
        monkeypatch.setattr(disk, "mount_of", lambda folder: None)
    path = tmp_path / "lock"
    with path.open("w") as file:
        assert disk.lock_holder(path) is None
        fcntl.flock(file, fcntl.LOCK_EX)
        assert disk.lock_holder(path) == os.getpid()
    assert disk.lock_holder(path) is None


def test_beside_a_running_vmm(ask: Ask, log: Path) -> None:
    """The writer is named by its process and command; it goes on as if nobody had looked, and nothing of it is lost."""
    vmm = subprocess.Popen(
        [sys.executable, "-c", VMM, str(log)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    with vmm:
        assert vmm.stdout is not None
        assert vmm.stdout.readline() == "ready\n"
        wal = Path(f"{log}-wal").read_bytes()
        answer = ask("doctor", log, "--json")
        found = findings(answer)
        assert (answer.code, found["log"]["values"]["records"]) == (0, 26)
        assert f"process {vmm.pid} (" in found["writer"]["what"]
        assert Path(f"{log}-wal").read_bytes() == wal
        adopting = ask("doctor", "--adopt", log, "--yes")
        assert (adopting.code, adopting.out) == (3, "")
        assert f"has its writer, process {vmm.pid} (" in adopting.err
        assert vmm.communicate("\n")[0] == "27\n"
    assert vmm.returncode == 0
    assert ask("verify", "--store", log).code == 0


@pytest.mark.parametrize(
    "content", [None, b"", bytes(8192), b"esrm head 1\ncou" + bytes(600)], ids=["none", "empty", "zeros", "torn"]
)
def test_no_record_needs_no_head_file(ask: Ask, tmp_path: Path, content: bytes | None) -> None:
    """A log that was opened and never written to has nothing to lose; its head file may have been cut off half made."""
    log = tmp_path / "new.db"

    async def begin() -> None:
        async with open_store(f"sqlite:{log}"):
            pass

    anyio.run(begin)
    if content is not None:
        head_of(log).write_bytes(content)
    answer = ask("doctor", log, "--no-write", "--json")
    assert answer.code == 0
    found = findings(answer)
    assert found["log"]["values"]["records"] == 0
    assert found["head file"]["what"] == "none yet, and no record that it could be about"
    assert ask("doctor", "--adopt", log).out == "new.db and its head file agree: there is nothing to accept\n"
    assert append(log) == 2, "the VM, and a device in it"
    assert findings(ask("doctor", log, "--no-write", "--json"))["head file"]["values"]["position"] == 2


# -- accepting a log as it stands ------------------------------------------------------------------------------------


def append(log: Path) -> int:
    """One more event; where the log then ends."""

    async def main() -> int:
        async with open_store(f"sqlite:{log}") as store, ResourceManager(store, vm="web-1", platform="x86_64") as vm:
            await vm.create("new0")
            return await store.head()

    return anyio.run(main)


def test_a_cut_log_is_accepted_after_asking(ask: Ask, log: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It says what is lost; no means no and changes nothing; yes means that the log can be appended to again."""
    cut_tail(log, 2)
    with pytest.raises(EsrmError):
        append(log)
    before = head_of(log).read_bytes()
    monkeypatch.setattr(sys, "stdin", io.StringIO("n\n"))
    answer = ask("doctor", "--adopt", log)
    assert answer.code == 1
    assert answer.out.splitlines()[:2] == [
        "vm.db: 23 records as written",
        "vm.db-head: 25 were acknowledged; those from position 24 on are lost",
    ]
    assert answer.out.endswith("nothing was changed\n")
    assert head_of(log).read_bytes() == before
    monkeypatch.setattr(sys, "stdin", io.StringIO("y\n"))
    answer = ask("doctor", "--adopt", log)
    assert answer.code == 0
    assert "accepted: vm.db ends at position 23, hash " in answer.out
    assert append(log) == 24
    assert ask("verify", "--store", log).code == 0


def test_a_log_without_a_head_file_is_accepted(ask: Ask, log: Path) -> None:
    """As it is after somebody copied the log alone."""
    head_of(log).unlink()
    with pytest.raises(EsrmError, match="esrm doctor --adopt"):
        append(log)
    answer = ask("doctor", "--adopt", "--yes", log)
    assert answer.code == 0
    assert "vm.db-head does not exist: nobody can tell whether that is all that was acknowledged" in answer.out
    assert append(log) == 26


def test_a_damaged_head_file_is_replaced(ask: Ask, log: Path) -> None:
    """Both slots were unreadable; what they said is not known any more, and they are kept for whoever wants to look."""
    flip(head_of(log), 20, 4096 + 20)
    damaged = head_of(log).read_bytes()
    assert "vm.db-head is damaged: nobody can tell" in ask("doctor", "--adopt", "--yes", log).out
    assert log.with_name("vm.db-head-damaged").read_bytes() == damaged
    assert append(log) == 26


def test_a_log_that_was_rewritten_is_accepted_by_name(ask: Ask, log: Path) -> None:
    """Whole in itself, but not what was acknowledged: it says so."""
    rewrite(log, log=bytes(32))
    document = json.loads(ask("doctor", "--adopt", "--yes", log, "--json").out)
    assert (document["adopted"], document["changed"], document["lost"]) == (True, True, 0)
    assert append(log) == 26


def test_a_broken_chain_is_never_accepted(ask: Ask, log: Path) -> None:
    """Not even with --yes; the first record that is not as it was written is named, and no file is made."""
    sql(log, "DROP TRIGGER records_are_never_changed", "UPDATE records SET actor = 'bob' WHERE position = 9")
    head_of(log).unlink()
    answer = ask("doctor", "--adopt", "--yes", log)
    assert (answer.code, answer.out) == (3, "")
    assert "cannot be accepted, for it was changed. position 9, web-1@8" in answer.err
    assert not head_of(log).exists()


def test_a_log_is_accepted_under_any_of_its_names(ask: Ask, log: Path) -> None:
    """Named by a link, it is the log itself that gets a head file, and nothing appears beside the link."""
    head_of(log).unlink()
    link = log.with_name("link.db")
    link.symlink_to(log.name)
    assert ask("doctor", link, "--adopt", "--yes").code == 0
    assert read_slots(head_of(log))[0][0].position == 25
    assert not head_of(link).exists()
    assert "nothing to accept" in ask("doctor", link, "--adopt").out


def test_nothing_is_done_where_nothing_is_wrong(ask: Ask, log: Path) -> None:
    """The head file agrees, so it stays as it is."""
    before = head_of(log).read_bytes()
    document = json.loads(ask("doctor", "--adopt", "--yes", log, "--json").out)
    assert (document["adopted"], document["acknowledged"], document["position"]) == (False, 25, 25)
    assert head_of(log).read_bytes() == before


def test_a_log_that_grows_meanwhile_is_not_accepted(log: Path) -> None:
    """What was looked at is what is accepted, or nothing is; no file is left behind then."""
    head_of(log).unlink()
    with open_reader(f"sqlite:{log}") as reader:
        proposal = propose(reader, log)
    cut_tail(log)
    with pytest.raises(Conflict, match="was written to meanwhile"):
        adopt(log, proposal)
    assert not head_of(log).exists()


def test_a_damaged_head_file_stays_if_the_log_grows_meanwhile(log: Path) -> None:
    """Whatever hinders it, all files are as they were."""
    flip(head_of(log), 20, 4096 + 20)
    with open_reader(f"sqlite:{log}") as reader:
        proposal = propose(reader, log)
    cut_tail(log)
    before = head_of(log).read_bytes()
    with pytest.raises(Conflict):
        adopt(log, proposal)
    assert head_of(log).read_bytes() == before
    assert not log.with_name("vm.db-head-damaged").exists()


def test_the_log_is_on_the_disk_before_its_head_file_says_so(
    ask: Ask, log: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What lay in the WAL has been folded back, and so synced, when the new head is written."""
    subprocess.run([sys.executable, "-c", WRITER, str(log)], check=False)
    assert Path(f"{log}-wal").stat().st_size > 0
    head_of(log).unlink()
    sizes: list[int] = []
    begin = HeadFile.begin

    def spy(file: HeadFile, slot: Slot) -> None:
        wal = Path(f"{log}-wal")
        sizes.append(wal.stat().st_size if wal.exists() else 0)
        begin(file, slot)

    monkeypatch.setattr(HeadFile, "begin", spy)
    assert ask("doctor", "--adopt", "--yes", log).code == 0
    assert sizes == [0]


def test_a_program_is_not_asked(ask: Ask, log: Path) -> None:
    """With --json there is nobody to ask; and --yes alone means nothing."""
    for arguments in (["--adopt", "--json"], ["--yes"]):
        answer = ask("doctor", log, *arguments)
        assert (answer.code, answer.out) == (2, "")


def test_no_write_and_adopt_are_two_things(ask: Ask, log: Path) -> None:
    """Who says that the folder is to be left alone gets no head file."""
    head_of(log).unlink()
    answer = ask("doctor", log, "--no-write", "--adopt", "--yes")
    assert (answer.code, answer.out) == (2, "")
    assert "only one of them" in answer.err
    assert not head_of(log).exists()


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
    found = place.judge_mount(Mount("1:1", "/", type, frozenset(options.split(","))))
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
        (Room(4096, 100_000, 1000), "warning", "97 KiB free, room for about 1,000 events; blocks of 4096"),
        (Room(1024, 100_000, 1000), "warning", "can be killed while it opens the WAL"),
    ],
)
def test_room(room: Room, verdict: str, words: str) -> None:
    """How much is left, in bytes and in events of 100 bytes; and where too little is more than a nuisance."""
    found = place.judge_room(room, 100)
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
    assert place.judge_sync(seconds, Mount("1:1", "/", type, frozenset())).verdict == verdict


def test_syncs_are_timed_in_the_folder_and_nothing_stays(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """4 KiB written and synced again and again for 50 ms, the median, the first one left out; the file is removed."""
    time, syncs = 0.0, 0
    kinds: list[list[str]] = []

    def sync(descriptor: int) -> None:
        nonlocal time, syncs
        assert os.fstat(descriptor).st_size == 4096
        kinds.append(os.listdir(tmp_path))
        syncs += 1
        time += (1.0, 0.001, 0.002, 0.003, 0.008, 0.009)[syncs - 1]

    monkeypatch.setattr(disk.os, "fdatasync", sync)
    assert disk.sync_s(tmp_path, clock=lambda: time) == pytest.approx(0.003)
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
    assert findings(answer)["sync"]["what"] == "cannot be timed: Input/output error"
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
