"""The commands about a whole store: vms, verify, export, import; and what they say of one that is damaged."""

from __future__ import annotations

import csv
import json
import os
import shutil
import sqlite3
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import anyio
import pytest
from cli_story import HEAD, SEVEN, Ask

from esrm import cli
from esrm.core import events as e
from esrm.core.platform import Platform
from esrm.core.resources import MmioAddressRange
from esrm.errors import Conflict, Refused
from esrm.manager import ResourceManager, Uuid7
from esrm.opening import open_store
from esrm.stores.chain import GENESIS, link, verify
from esrm.stores.records import Draft, id_bytes

Damage = Callable[[str], Path]


@pytest.fixture
def damage(story: Path, tmp_path: Path) -> Damage:
    """A copy of the story that somebody has edited with SQL, and with enough skill to get past the triggers."""

    def edit(statement: str) -> Path:
        path = tmp_path / "edited.db"
        shutil.copy(story, path)
        with sqlite3.connect(path) as connection:
            for (name,) in connection.execute("SELECT name FROM sqlite_schema WHERE type = 'trigger'").fetchall():
                connection.execute(f"DROP TRIGGER {name}")
            connection.execute(statement)
        connection.close()
        return path

    return edit


def test_vms_lists_the_streams(ask: Ask) -> None:
    """Name, head, time, devices and platform; the hash of the head in JSON, to be kept elsewhere."""
    assert (
        ask("vms").out
        == """\
VM     REVISION  POSITION  TIME                      DEVICES  PLATFORM
web-1        24        25  2026-11-22T07:00:24.000Z        5  x86_64
"""
    )
    [vm] = json.loads(ask("vms", "--json").out)
    assert list(vm) == ["vm", "revision", "position", "time_ns", "time", "devices", "platform", "hash"]
    assert vm["hash"] == json.loads(ask("show", "--json").out)["hash"]


def test_verify_of_a_good_log(ask: Ask) -> None:
    """Both judges say what they found good; exit code 0."""
    answer = ask("verify")
    assert (answer.code, answer.err) == (0, "")
    assert (
        answer.out
        == """\
ok      chain: 25 records as written
ok      web-1: replays to revision 24, 5 devices
"""
    )
    assert json.loads(ask("verify", "--vm", "web-1", "--json").out) == {
        "ok": True,
        "records": 25,
        "anchored": True,
        "fault": None,
        "vms": [{"vm": "web-1", "ok": True, "revision": 24, "devices": 5, "what": None}],
    }


def test_verify_says_when_an_end_would_not_be_missed(ask: Ask, damage: Damage) -> None:
    """A log without its head file verifies, since nothing in it is wrong; but a cut tail would not show: it says so."""
    answer = ask("--store", damage("SELECT 1"), "verify")
    assert answer.code == 0
    assert "note    no head file: records cut off the end of the log would not be missed" in answer.out


@pytest.mark.parametrize(
    "column",
    [
        "actor = 'mallory'",
        "time_ns = time_ns + 1",
        "correlation = 'x'",
        "id = x'00112233445566778899aabbccddeeff'",
        "hash = zeroblob(32)",
        "data = replace(data, 'net0', 'net1')",
    ],
)
def test_verify_names_the_first_edited_record(ask: Ask, damage: Damage, column: str) -> None:
    """Whichever column was changed: the position and revision are named, and the exit code is 3."""
    path = damage(f"UPDATE records SET {column} WHERE revision = 3")
    answer = ask("--store", path, "verify")
    assert answer.code == 3
    assert "CORRUPT chain: 3 records as written, then this:\n        position 4, web-1@3: " in answer.out
    document = json.loads(ask("--store", path, "verify", "--json").out)
    assert (document["ok"], document["records"], document["fault"]["revision"]) == (False, 3, 3)


def test_verify_replays_what_it_has_hashed(
    ask: Ask, story: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Beside a VMM that goes on, what came after the chain was walked is not called good unseen."""
    for file in story.parent.iterdir():
        shutil.copy(file, tmp_path)
    path = tmp_path / story.name
    before = json.loads(ask("--store", path, "verify", "--json").out)

    def walked(*arguments: Any, **options: Any) -> Any:
        verdict = verify(*arguments, **options)
        anyio.run(more)
        return verdict

    async def more() -> None:
        async with open_store(f"sqlite:{path}") as store, ResourceManager(store, vm="web-1") as vm:
            await vm.create("later")

    monkeypatch.setattr("esrm.cli.verify.verify_chain", walked)
    assert json.loads(ask("--store", path, "verify", "--json").out) == before


def test_verify_of_many_vms_says_it_short(ask: Ask, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """One bad record among many VMs: the file is looked at no more often than of one VM, and the rest is a number."""
    path = tmp_path / "many.db"
    anyio.run(begin, path, 30)
    with sqlite3.connect(path) as connection:
        connection.execute("DROP TRIGGER records_are_never_changed")
        connection.execute("UPDATE records SET actor = 'eve' WHERE position = 7")
    connection.close()
    looks: list[None] = []
    monkeypatch.setattr("esrm.stores.sqlite.SqliteReader.damage", lambda _: looks.append(None))
    answer = ask("--store", path, "verify")
    assert answer.code == 3
    assert "still good: vm-06, 0 records; 29 other VMs, 29 records\n" in answer.out
    assert len(looks) <= 1
    document = json.loads(ask("--store", path, "verify", "--json").out)
    assert {vm["vm"]: vm["records"] for vm in document["vms"]} == {f"vm-{n:02}": n != 6 for n in range(30)}


async def begin(path: Path, count: int) -> None:
    """So many VMs, of which nothing is recorded but that they are."""
    ids = Uuid7()
    async with open_store(f"sqlite:{path}") as store:
        for n in range(count):
            event = e.VmCreated(Platform("tiny", {"mmio": [(0, 0xFFFF)]}))  # type: ignore[arg-type,dict-item]
            await store.append(f"vm-{n:02}", [Draft(event=event, id=ids(SEVEN), time_ns=SEVEN)], expected=-1)


@pytest.mark.parametrize("head", [False, True])
def test_verify_of_an_empty_log(ask: Ask, tmp_path: Path, head: bool) -> None:
    """Nothing was ever recorded, with a head file that says so or without one: that is no fault, but no VM either."""
    path = tmp_path / "empty.db"
    anyio.run(begin, path, 0)
    if head:
        anyio.run(append_nothing, path)
    assert Path(f"{path}-head").exists() == head
    for more in ([], ["--json"]):
        answer = ask("--store", path, "verify", *more)
        assert (answer.code, answer.out) == (2, "")
        assert "has no VM yet" in answer.err
    assert "no VM 'web-1' in this store" in ask("--store", path, "--vm", "web-1", "verify").err


async def append_nothing(path: Path) -> None:
    """Become the log's writer, no more."""
    async with open_store(f"sqlite:{path}") as store:
        assert await store.append("vm", [], expected=-1) == []


@pytest.mark.parametrize("name", ["\udcff", "", "x" * 256, "a\nb"])
@pytest.mark.parametrize("command", [["verify"], ["log"], ["checkpoint", "--key", "host.key"]])
def test_a_vm_name_that_is_none(ask: Ask, name: str, command: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    """Such as bytes that are no UTF-8: asked wrongly, before or behind the command's name or in the environment."""
    lines = [["--vm", name, *command], [*command, "--vm", name]]
    if name:
        monkeypatch.setenv("ESRM_VM", name)
        lines.append(command)
    for line in lines:
        answer = ask(*line)
        assert (answer.code, answer.out) == (2, "")
        assert answer.err.startswith("esrm: --vm: ")


def test_verify_finds_what_the_chain_cannot_see(ask: Ask, tmp_path: Path) -> None:
    """A log whose hashes are right, but in which two devices hold one address, was not written by a manager."""
    path = tmp_path / "twice.db"
    anyio.run(give_twice, path)
    answer = ask("verify", "--store", path)
    assert answer.code == 3
    assert answer.out.startswith("ok      chain: 7 records as written\nCORRUPT x: replays to revision 5, ")
    assert "x, revision 6 (position 7)" in answer.out
    assert ask("map", "--store", path).code == 0, "looking at what it says is still possible"


async def give_twice(path: Path) -> None:
    """Write the events that no decision makes."""
    window = MmioAddressRange(0x1000, 0x1000)
    history: list[e.Event] = [e.VmCreated(Platform("tiny", {"mmio": [(0, 0xFFFF)]}))]  # type: ignore[arg-type,dict-item]
    for device in ("a", "b"):
        history += [e.DeviceCreated(device), e.ConstraintsDeclared(device), e.ResourcesAllocated(device, (window,))]
    ids = Uuid7()
    async with open_store(f"sqlite:{path}") as store:
        drafts = [Draft(event=event, id=ids(SEVEN), time_ns=SEVEN) for event in history]
        await store.append("x", drafts, expected=-1)


@pytest.mark.parametrize(
    "command", [["log"], ["map"], ["vms"], ["export"], ["stats"], ["timeline", "net0"], ["diff", "0"], ["show", "3"]]
)
def test_reading_what_cannot_be_exits_with_3(ask: Ask, damage: Damage, command: list[str]) -> None:
    """An event that is none stops every command with a sentence that names it."""
    answer = ask("--store", damage('UPDATE records SET data = \'{"type":"Nonsense"}\' WHERE revision = 3'), *command)
    assert answer.code == 3
    assert answer.err.startswith("esrm: ")
    assert "Nonsense" in answer.err


def test_export_names_a_record_that_is_none(ask: Ask, damage: Damage) -> None:
    """Once, and ends there: what cannot have been written is no record to hand on."""
    bad = damage('UPDATE records SET data = \'{"type":"Nope"}\' WHERE revision = 24')
    answer = ask("--store", bad, "export")
    assert answer.code == 3
    assert answer.err.startswith("esrm: web-1@24 (position 25): unknown event type 'Nope'")
    assert answer.err.count("position") == 1


@pytest.mark.parametrize("command", ["tree", "map", "stats", "page"])
def test_an_event_that_cannot_have_happened_is_named(ask: Ask, damage: Damage, command: str) -> None:
    """By every command that replays, in the same words: of which VM it is, and where it stands."""
    bad = damage('UPDATE records SET data = \'{"type":"DeviceRemoved","device":"net9"}\' WHERE revision = 24')
    answer = ask("--store", bad, command)
    assert (answer.code, answer.out) == (3, "")
    assert answer.err.startswith("esrm: web-1, revision 24 (position 25): ")
    assert "'net9'" in answer.err


def test_export_lets_another_program_recompute_the_chain(ask: Ask) -> None:
    """The event is byte for byte what the hash covers, and no field is missing or added."""
    previous = GENESIS
    lines = ask("export").out.splitlines()
    assert len(lines) == HEAD + 1
    for line in lines:
        record = json.loads(line)
        assert list(record) == ["position", "vm", "revision", "id", "time_ns", "actor", "correlation", "event", "hash"]
        data = line[line.index('"event":') + 8 : line.rindex(',"hash"')].encode()
        previous = link(
            previous, record["position"], record["vm"], record["revision"], id_bytes(record["id"]),
            record["time_ns"], record["actor"], record["correlation"], data,
        )  # fmt: skip
        assert previous.hex() == record["hash"]


def test_export_as_csv_says_the_same(ask: Ask, tmp_path: Path) -> None:
    """The same fields, the event as JSON text; to a file when one is named."""
    file = tmp_path / "log.csv"
    answer = ask("export", "--format", "csv", "-o", file)
    assert (answer.code, answer.out) == (0, "")
    with file.open(newline="") as lines:
        rows = list(csv.DictReader(lines))
    records = [json.loads(line) for line in ask("export").out.splitlines()]
    assert [{**row, "event": json.loads(row["event"])} for row in rows] == [
        {key: value if key == "event" else str(value) for key, value in record.items()} for record in records
    ]


def test_export_goes_on_behind_a_position(ask: Ask) -> None:
    """What is exported twice a day need not be exported whole; of one VM as of all."""
    for whose in ([], ["--vm", "web-1"]):
        positions = [json.loads(line)["position"] for line in ask("export", "--after", "20", *whose).out.splitlines()]
        assert positions == [21, 22, 23, 24, 25]
    assert ask("export", "--after", "25").out == ""


def test_export_leaves_no_file_when_there_is_no_log(ask: Ask, tmp_path: Path) -> None:
    """Nothing is created before the log could be read, and a place that cannot be written is a usage error."""
    file = tmp_path / "log.jsonl"
    assert ask("export", "--store", tmp_path / "none.db", "-o", file).code == 3
    assert not file.exists()
    nowhere = tmp_path / "no" / "such" / "folder"
    for command in ("export", "page"):
        assert ask(command, "-o", nowhere) == (2, "", f"esrm: [Errno 2] No such file or directory: '{nowhere}'\n")


def test_export_is_whole_or_not_at_all(ask: Ask, damage: Damage, tmp_path: Path) -> None:
    """A log with a bad record is a 3, and the good export of yesterday is still there; nothing is left beside it."""
    file = tmp_path / "log.jsonl"
    ask("export", "-o", file)
    good = file.read_bytes()
    assert len(good.splitlines()) == HEAD + 1
    bad = damage('UPDATE records SET data = \'{"type":"Nonsense"}\' WHERE position = 20')
    assert ask("export", "--store", bad, "-o", file).code == 3
    assert file.read_bytes() == good
    assert not list(tmp_path.glob(".esrm-*"))


@pytest.fixture
def precious(story: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with a log in use and with other things that no command could make again; the working directory."""
    for file in story.parent.iterdir():
        shutil.copy(file, tmp_path)
    (tmp_path / "link").symlink_to("vm.db")
    (tmp_path / "hard").hardlink_to(tmp_path / "vm.db-head")
    shutil.copy(story, tmp_path / "other.db")
    (tmp_path / "vm.db-wal").touch()
    (tmp_path / "notes.txt").write_text("to do\n")
    (tmp_path / "index.html").write_text("<!doctype html>\n<title>mine</title>\n")
    assert cli.run(["keygen", "example.org/host", str(tmp_path / "host.key")]) == 0
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("ESRM_STORE", "vm.db")
    monkeypatch.setenv("PYTHONPATH", str(Path(cli.__file__).parents[2]))
    return tmp_path


PRECIOUS = [
    "vm.db", "vm.db-wal", "vm.db-shm", "vm.db-head", "vm.db-cache", "other.db", "link", "hard", "host.key",
    "host.key.pub", "notes.txt", "index.html",
]  # fmt: skip


@pytest.mark.parametrize("name", PRECIOUS)
@pytest.mark.parametrize("line", ["export -o {}", "export --format csv -o {}", "page -o {}", "demo --page {}"])
def test_only_its_like_is_overwritten(ask: Ask, precious: Path, line: str, name: str) -> None:
    """Not the log, what is beside it (there or not, empty or not), another log, a key, nor what somebody wrote."""
    before = {path: path.read_bytes() for path in precious.iterdir()}
    answer = ask(*line.format(name).split())
    assert (answer.code, answer.out) == (2, "")
    option = "--page" if "--page" in line else "-o"
    assert f"it is not overwritten; choose another name with {option}" in answer.err
    assert {path: path.read_bytes() for path in precious.iterdir()} == before


@pytest.mark.parametrize("line", ["export", "export --format csv", "page"])
def test_an_export_takes_the_place_of_another(ask: Ask, precious: Path, line: str) -> None:
    """So does a page of a page, or of an empty file: with the permissions of that one, and through a link."""
    out, link = precious / "out", precious / "to-out"
    expected = ask(*line.split(), "-o", "-").out.encode()
    link.symlink_to("out")
    for content in (b"", expected + b"older"):
        out.write_bytes(content)
        out.chmod(0o640)
        assert ask(*line.split(), "-o", "to-out").code == 0
        assert out.read_bytes() == expected
        assert out.stat().st_mode & 0o777 == 0o640
    assert link.is_symlink()
    assert not list(precious.glob(".esrm-*"))


@pytest.mark.parametrize("line", ["export", "page", "checkpoint --key host.key"])
@pytest.mark.parametrize("output", ["-", "/dev/stdout", "/dev/fd/1"])
def test_stdout_is_written_as_it_is(precious: Path, line: str, output: str) -> None:
    """By whatever name: what a shell has there, or appends to, stays; a pipe is no file to be replaced."""
    command = [sys.executable, "-m", "esrm", *line.split(), "-o", output]
    piped = subprocess.run(command, check=True, capture_output=True).stdout
    assert len(piped) > 100
    out = precious / "out"
    out.write_text("before\n")
    with out.open("a") as file:
        subprocess.run(command, check=True, stdout=file)
    assert out.read_bytes() == b"before\n" + piped


@pytest.mark.parametrize("line", ["export", "page", "checkpoint --key host.key"])
@pytest.mark.parametrize("output", ["-", "/dev/stdout", "/dev/full"])
def test_an_output_without_room(precious: Path, line: str, output: str) -> None:
    """It is the command's own error, in a line, and no half-said success."""
    command = [sys.executable, "-m", "esrm", *line.split(), "-o", output]
    with Path("/dev/full").open("w") as full:
        done = subprocess.run(command, check=False, stdout=full, stderr=subprocess.PIPE, text=True)
    assert (done.returncode, done.stderr) == (2, "esrm: [Errno 28] No space left on device\n")


def test_export_into_a_named_pipe(ask: Ask, tmp_path: Path) -> None:
    """Who waits at its other end gets every line, and the pipe is still a pipe."""
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    with subprocess.Popen(["cat", str(pipe)], stdout=subprocess.PIPE, text=True) as reader:
        assert ask("export", "-o", pipe).code == 0
        assert reader.communicate()[0] == ask("export").out
    assert pipe.is_fifo()


def test_page_is_written_or_printed(ask: Ask, tmp_path: Path) -> None:
    """A file by default named in the answer, or the page itself on stdout."""
    file = tmp_path / "map.html"
    answer = ask("page", "--output", file)
    assert answer.code == 0
    assert answer.out.startswith(f"{file}: ")
    page = file.read_text(encoding="utf-8")
    assert "nvme0" in page
    assert ask("page", "-o", "-").out == page


def test_import_prints_what_was_recorded(ask: Ask, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A name a line with its mark, then the count; the VM is called after the folder unless it is named."""
    calls: list[tuple[str, str]] = []

    async def record(store: Any, found: Any, *, vm: str) -> Any:
        calls.append((vm, found))
        return imported(vm)

    monkeypatch.setattr("esrm.importers.linux.read", lambda root: root)
    monkeypatch.setattr("esrm.importers.linux.record", record)
    root = tmp_path / "box"
    root.mkdir()
    store = tmp_path / "host.db"
    answer = ask("--store", store, "import", "linux", "--root", root)
    assert (answer.code, answer.err) == (0, "")
    assert answer.out.splitlines() == ["+ a", "+ b", "- c", "! left out d", "box@7: 2 added, 1 removed, 0 changed"]
    assert json.loads(ask("--store", store, "import", "linux", "--vm", "me", "--json").out)["added"] == ["a", "b"]
    assert calls == [("box", str(root)), ("me", "/")]


def imported(vm: str) -> Any:
    """What the importer would say."""
    from esrm.importers.linux import Imported

    return Imported(vm=vm, revision=7, added=("a", "b"), removed=("c",), skipped=("d",))


@pytest.mark.parametrize(("error", "code"), [(Conflict, 4), (Refused, 2)])
def test_import_that_cannot_be(
    ask: Ask, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: type[Exception], code: int
) -> None:
    """Somebody else wrote first: 4. The machine shows nothing to this user: 2."""

    async def record(store: Any, found: Any, *, vm: str) -> Any:
        raise error("no")

    monkeypatch.setattr("esrm.importers.linux.read", lambda root: root)
    monkeypatch.setattr("esrm.importers.linux.record", record)
    answer = ask("import", "linux", "--store", tmp_path / "host.db", "--root", tmp_path)
    assert (answer.code, answer.out, answer.err) == (code, "", "esrm: no\n")


NO_MACHINES = {
    "nothing": "",
    "zeros": "00000000-00000000 : System RAM\n",
    "all": "0000000000000000-ffffffffffffffff : too large for one range\n",
}


@pytest.mark.parametrize("iomem", NO_MACHINES.values(), ids=NO_MACHINES)
@pytest.mark.parametrize("there", [False, True], ids=["a new store", "one that is there"])
def test_a_refused_import_leaves_all_as_it_was(ask: Ask, tmp_path: Path, iomem: str, there: bool) -> None:
    """A machine that cannot be read is no reason to make a log, nor to touch one."""
    (tmp_path / "box").mkdir()
    (tmp_path / "box" / "iomem").write_text(iomem)
    store = tmp_path / "host.db"
    if there:
        anyio.run(begin, store, 1)
    before = {path: path.read_bytes() for path in tmp_path.iterdir() if path.is_file()}
    answer = ask("import", "linux", "--root", tmp_path / "box", "--store", store)
    assert (answer.code, answer.out) == (2, "")
    assert {path: path.read_bytes() for path in tmp_path.iterdir() if path.is_file()} == before


def test_a_folder_whose_name_no_vm_may_have(ask: Ask, tmp_path: Path) -> None:
    """It is refused before a log is made, and the message says what to do."""
    (tmp_path / "a\nb").mkdir()
    (tmp_path / "a\nb" / "iomem").write_text("00000000-00000fff : System RAM\n")
    answer = ask("import", "linux", "--root", tmp_path / "a\nb", "--store", tmp_path / "host.db")
    assert (answer.code, answer.out) == (2, "")
    assert "the VM's name (--vm): 'a\\nb' holds a character that does not print" in answer.err
    assert not (tmp_path / "host.db").exists()


def test_an_import_into_memory_is_refused(ask: Ask, tmp_path: Path) -> None:
    """What it records would be gone when it ends; it is no store to read, either."""
    (tmp_path / "iomem").write_text("00000000-00000fff : System RAM\n")
    answer = ask("import", "linux", "--root", tmp_path, "--store", "memory:")
    assert answer == ask("log", "--store", "memory:")
    assert answer == (3, "", "esrm: 'memory:' names no store that outlives its process; sqlite:PATH does\n")


def test_progress_is_for_terminals(story: Path) -> None:
    """Into a pipe not a byte of it goes."""
    done = subprocess.run(
        [sys.executable, "-m", "esrm", "--store", str(story), "verify"], capture_output=True, check=True
    )
    assert done.stderr == b""
    assert b"\r" not in done.stdout


def test_progress_overwrites_itself(monkeypatch: pytest.MonkeyPatch) -> None:
    """On a terminal: one line, rewritten now and then, and gone at the end."""
    from esrm.cli import progress

    written: list[str] = []
    now = iter(range(100))
    stderr = SimpleNamespace(isatty=lambda: True, write=written.append, flush=lambda: None)
    monkeypatch.setattr(progress, "sys", SimpleNamespace(stderr=stderr))
    monkeypatch.setattr(progress.time, "monotonic", lambda: next(now))
    with progress.Progress("counting", 1234) as tick:
        tick(1000)
    assert written == ["\r\033[Kcounting: 1,000 of 1,234", "\r\033[K"]
