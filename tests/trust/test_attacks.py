"""Attacks on a log by somebody who may write its files: each is refused, in words that name what is wrong.

What can be told from the files alone comes first, then what only a checkpoint can tell that somebody else has kept,
and last what is done to the files while the store has them open.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import closing
from itertools import count
from pathlib import Path
from typing import Any

import anyio
import apsw
import pytest

from esrm import ResourceManager, cli, open_reader, open_store
from esrm.errors import Corrupt, Rejected, StoreError, Unknown
from esrm.manager import acting
from esrm.stores.chain import GENESIS, cut, extend, link
from esrm.stores.chain import verify as verify_chain
from esrm.stores.sqlite import SqliteReader, SqliteStore
from esrm.stores.sqlite.heads import SLOTS, Slot, head_path
from esrm.testing import BytesCodec, drafts

Verify = Callable[..., tuple[int, str]]

STEPS = 5  # devices of each VM; with their first records, 12 in all
RECORDS = 2 * (STEPS + 1)


# -- the log, and who looks at it -----------------------------------------------------------------------------------


async def grow(path: Path, *devices: str) -> None:
    """Create the devices in two VMs in turn, a record each; who does it, and why, are written down."""
    times = count(1_795_000_000_000_000_000, 10**9)
    async with (
        open_store(f"sqlite:{path}") as store,
        ResourceManager(store, vm="db-1", platform="x86_64", clock=lambda: next(times)) as db,
        ResourceManager(store, vm="web-1", platform="x86_64", clock=lambda: next(times)) as web,
    ):
        with acting("ada", "a reason"):
            for device in devices:
                await web.create(device)
                await db.create(device)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """A log of two VMs, closed."""
    path = tmp_path / "vm.db"
    anyio.run(grow, path, *(f"net{number}" for number in range(STEPS)))
    return path


@pytest.fixture
def verify(path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Iterator[Verify]:
    """``esrm verify`` on that log: its exit code, and what it said. It says that all is well before the attack."""
    for name in [name for name in os.environ if name.startswith("ESRM_")]:
        monkeypatch.delenv(name)

    def run(*arguments: object) -> tuple[int, str]:
        capsys.readouterr()
        code = cli.run(["verify", "--store", f"sqlite:{path}", *map(str, arguments)])
        return code, " ".join("".join(capsys.readouterr()).split())

    assert run()[0] == 0
    return run


async def append(path: Path) -> None:
    """Open the log to write, and go on with it."""
    async with open_store(f"sqlite:{path}") as store, ResourceManager(store, vm="web-1") as vm:
        await vm.create("later")


def refused(path: Path, kind: type[Exception], words: str) -> None:
    """No writer goes on with this log, and the attempt changes nothing in it."""
    before = records(path)
    with pytest.raises(kind, match=words):
        anyio.run(append, path)
    assert records(path) == before


# -- tools of the trade ---------------------------------------------------------------------------------------------


def tamper(path: Path, *statements: str) -> None:
    """Change the tables behind the log's back, and leave no trace of it in the schema."""
    with closing(apsw.Connection(str(path))) as connection:
        guards = connection.execute("SELECT name, sql FROM sqlite_schema WHERE type = 'trigger'").fetchall()
        for name, _ in guards:
            connection.execute(f"DROP TRIGGER {name}")
        for statement in statements:
            connection.execute(statement)
            assert connection.changes(), f"{statement} did nothing"
        for _, sql in guards:
            connection.execute(sql)
        connection.wal_checkpoint(mode=apsw.SQLITE_CHECKPOINT_TRUNCATE)


def records(path: Path) -> list[tuple[Any, ...]]:
    """The rows that are there, by hand."""
    columns = "position, name, revision, records.id, time_ns, actor, correlation, CAST(data AS BLOB), hash"
    with closing(apsw.Connection(str(path))) as connection:
        connection.config(apsw.SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, 1)
        joined = f"SELECT {columns} FROM records LEFT JOIN streams ON streams.id = stream ORDER BY position"
        return connection.execute(joined).fetchall()


def chain_anew(path: Path) -> None:
    """Compute every hash anew, so that the log is whole in itself."""
    last: dict[str, bytes] = {}
    updates: list[str] = []
    for row in records(path):
        last[row[1]] = link(last.get(row[1], GENESIS), *row[:8])
        updates.append(f"UPDATE records SET hash = x'{last[row[1]].hex()}' WHERE position = {row[0]}")
    tamper(path, *updates)


def head_anew(path: Path) -> None:
    """Write a head file that says what the log says now."""
    log = GENESIS
    for row in records(path):
        log = extend(log, row[8])
    slot = Slot(row[0], row[8], log, "FULL", "commit", counter=1000)
    with head_path(path).open("r+b") as file:
        for start in SLOTS:
            file.seek(start)
            file.write(slot.render())


def edit(path: Path, vm: str) -> None:
    """Change what the first device of a VM was called."""
    where = f"stream = (SELECT id FROM streams WHERE name = '{vm}') AND revision = 1"
    tamper(path, f"UPDATE records SET data = replace(data, 'net0', 'netX') WHERE {where}")


# -- the files are not what they were -------------------------------------------------------------------------------


def test_an_old_copy_put_back(path: Path, verify: Verify):
    """The database of yesterday: the head file says how much there must be."""
    shutil.copy(path, path.with_name("old.db"))
    anyio.run(grow, path, "net8", "net9")
    shutil.move(path.with_name("old.db"), path)
    refused(path, Corrupt, f"ends at position {RECORDS}, but vm.db-head says that {RECORDS + 4} was acknowledged")
    code, said = verify()
    assert code == 3
    assert f"chain: {RECORDS} records as written, then this: position {RECORDS + 1}" in said
    assert f"missing; position {RECORDS + 4} was acknowledged, says the head file: 4 records are gone" in said


def test_the_tail_cut_off(path: Path, verify: Verify):
    """The last records deleted, with the triggers out of the way: the rest is a perfect chain, but too short."""
    tamper(path, f"DELETE FROM records WHERE position > {RECORDS - 2}")
    refused(path, Corrupt, f"ends at position {RECORDS - 2}, but vm.db-head says that {RECORDS} was acknowledged")
    code, said = verify()
    assert code == 3
    assert f"position {RECORDS - 1}: missing; position {RECORDS} was acknowledged" in said


def test_everything_cut_off(path: Path, verify: Verify):
    """All records deleted: no log without records has a head file that says otherwise."""
    tamper(path, "DELETE FROM records", "DELETE FROM streams")
    refused(path, Corrupt, f"ends at position 0, but vm.db-head says that {RECORDS} was acknowledged")
    for whose in ((), ("--vm", "web-1")):
        code, said = verify(*whose)
        assert code == 3
        assert (
            f"position 1: missing; position {RECORDS} was acknowledged, says the head file: {RECORDS} records" in said
        )
        code, said = verify("--json", *whose)
        assert (code, json.loads(said)["vms"], json.loads(said)["anchored"]) == (3, [], True)


@pytest.mark.parametrize("left", ["nothing", "an empty file"])
def test_the_log_itself_removed(path: Path, verify: Verify, left: str, capsys: pytest.CaptureFixture[str]):
    """The head file that is left says that there was a log, and how long it was."""
    path.unlink()
    if left == "an empty file":
        path.touch()
    assert verify()[0] == 3
    with pytest.raises(Corrupt, match=f"is (gone|empty), but {RECORDS} records were acknowledged, says vm.db-head"):
        open_reader(f"sqlite:{path}")
    head_path(path).unlink()
    with pytest.raises(StoreError, match=r"does not exist|is empty: nothing was ever recorded"):
        open_reader(f"sqlite:{path}")


def test_a_part_of_a_log_whose_end_was_cut_off(path: Path, verify: Verify, checkpoint: list[str], tmp_path: Path):
    """Of one VM alone nothing may be missing; but a log that is known to be cut is not whole, and nothing is signed."""
    tamper(path, f"DELETE FROM records WHERE position > {RECORDS - 1}")
    [cut] = {"db-1", "web-1"} - {records(path)[-1][1]}
    for arguments in (["--vm", "web-1"], ["--vm", "db-1"], checkpoint if cut == "db-1" else []):
        code, said = verify(*arguments)
        assert code == 3
        assert f"position {RECORDS}: missing; position {RECORDS} was acknowledged" in said
    log = ["--store", f"sqlite:{path}", "--vm", "web-1", "--key", str(tmp_path / "host.key"), "-o"]
    for command in (["checkpoint"], ["prove", "1"]):
        assert cli.run([*command, *log, str(tmp_path / "signed")]) == 3
        assert not (tmp_path / "signed").exists()


def test_the_wal_deleted(path: Path, verify: Verify, tmp_path: Path):
    """The same without touching a table: the last records are in the WAL only, and the WAL is removed."""
    copy = tmp_path / "copy"
    copy.mkdir()

    async def write() -> None:
        async with open_store(f"sqlite:{path}") as store, ResourceManager(store, vm="web-1") as vm:
            await vm.create("late")
            for suffix in ("", "-wal", "-head"):
                shutil.copy(f"{path}{suffix}", copy)

    anyio.run(write)
    for suffix in ("", "-wal", "-head"):
        shutil.move(copy / f"{path.name}{suffix}", f"{path}{suffix}")
    assert verify()[0] == 0
    path.with_name("vm.db-wal").unlink()
    refused(path, Corrupt, f"ends at position {RECORDS}, but vm.db-head says that {RECORDS + 1} was acknowledged")
    code, said = verify()
    assert code == 3
    assert f"position {RECORDS + 1}: missing; position {RECORDS + 1} was acknowledged, says the head file: 1" in said


@pytest.mark.parametrize(
    ("column", "value"),
    [
        ("position", "99"),
        ("stream", "(SELECT max(id) + 1 FROM streams)"),
        ("revision", "99"),
        ("id", "zeroblob(16)"),
        ("time_ns", "time_ns - 1"),
        ("actor", "'eve'"),
        ("correlation", "'another reason'"),
        ("data", "replace(data, 'net', 'NET')"),
        ("hash", "zeroblob(32)"),
    ],
)  # fmt: skip
def test_a_record_edited(path: Path, verify: Verify, column: str, value: str):
    """Any column of any record, here of one in the middle: ``verify`` names the record and how many are still good."""
    tamper(path, f"UPDATE records SET {column} = {value} WHERE position = 7")
    code, said = verify()
    assert code == 3
    assert "chain: 6 records as written, then this: position 7" in said


GHOSTS = {
    "the next revision": "SELECT -1, stream, max(revision) + 1, {rest} FROM records",
    "at 0": "SELECT 0, stream, max(revision) + 1, {rest} FROM records",
    "below everything": "SELECT -9223372036854775808, stream, -9223372036854775808, {rest} FROM records LIMIT 1",
    "another VM": "SELECT position - 100, 99, revision, {rest} FROM records WHERE stream = 1",
}
REST = "id, time_ns, actor, correlation, data, hash"


@pytest.mark.parametrize("ghost", GHOSTS)
def test_a_record_added_where_none_can_be(path: Path, verify: Verify, ghost: str, tmp_path: Path):
    """A plain INSERT below the first position, with triggers and head file intact: whatever others see, verify sees."""
    with closing(apsw.Connection(str(path))) as connection:
        connection.execute("INSERT INTO streams VALUES (99, 'ghost')")
        connection.execute(f"INSERT INTO records {GHOSTS[ghost].format(rest=REST)}")
        seen = connection.execute("SELECT position FROM log ORDER BY 1").fetchall()
    with open_reader(f"sqlite:{path}") as reader:
        assert [(row[0],) for row in reader.rows()] == seen
        assert [(leaf[0],) for page in reader.pages() for leaf in page] == seen
        vm = next(reader.rows())[1]
        assert sorted(row[0] for row in reader.rows(vm)) == [row[0] for row in reader.rows() if row[1] == vm]
    for whose in ((), ("--vm", vm)):
        code, said = verify(*whose)
        assert code == 3
        assert f"{vm}@" in said
        assert f"no store wrote a record at position {seen[0][0]}: they count from 1" in said
        assert "column: position (no store wrote such a number)" in said
    assert cli.run(["doctor", "--adopt", "--yes", str(path)]) == 3
    assert checked_without_esrm(path) == "position 1 is not as it was written"


def checked_without_esrm(path: Path) -> str:
    """What the program in docs/stores.md says of the log."""
    page = (Path(__file__).parent.parent.parent / "docs" / "stores.md").read_text(encoding="utf-8")
    [program] = re.findall(r"^```python\n(# check.py\n.*?)^```$", page, re.DOTALL | re.MULTILINE)
    return subprocess.run(
        [sys.executable, "-c", program, str(path)], capture_output=True, check=True, text=True
    ).stdout.strip()  # fmt: skip


@pytest.mark.parametrize(
    ("change", "column"),
    [
        ("actor = CAST(x'ff41' AS TEXT)", "actor (no store wrote such a text)"),
        ("correlation = CAST(x'ff41' AS TEXT)", "correlation (no store wrote such a text)"),
        ("data = CAST(x'ff41' AS TEXT)", "data (it is no text"),
        ("id = x'00'", "id (it is no UUIDv7)"),
        ("id = CAST(id || x'00' AS BLOB)", "id (it is no UUIDv7)"),
        ("hash = x'00'", "hash (it has not 32 bytes)"),
        ("hash = zeroblob(32)", "hash (the head file has the hash that the columns make)"),
        ("time_ns = -5", "time_ns (no store wrote such a number)"),
        ("stream = 77", "vm (the stream's number belongs to no VM"),
    ],
)
@pytest.mark.parametrize("position", [7, RECORDS])
def test_a_record_that_cannot_be_read(path: Path, verify: Verify, change: str, column: str, position: int):
    """In the middle or the last one of its VM: it is named, its column, too, and what is good of the other VM."""
    if "hash = zeroblob" in change and position != RECORDS:
        column = "hash (the next record goes on from the hash that the columns make)"
    row = records(path)[position - 1]
    [other] = {"db-1", "web-1"} - {row[1]}
    tamper(path, f"UPDATE records SET {change} WHERE position = {position}")
    code, said = verify()
    assert code == 3
    place = f"position {position}" if "stream" in change else f"position {position}, {row[1]}@{row[2]}"
    assert f"chain: {position - 1} records as written, then this: {place}: " in said
    assert f"column: {column}" in said
    assert f"{other}, {STEPS + 1} records" in said
    assert f"{row[1]}, {row[2]} records" in said
    document = json.loads(verify("--json")[1])
    assert (document["fault"]["position"], document["records"]) == (position, position - 1)
    assert checked_without_esrm(path) == f"position {position} is not as it was written"


@pytest.mark.parametrize("name", ["CAST(x'ff41' AS TEXT)", "''"])
def test_a_vm_whose_name_is_none(path: Path, verify: Verify, name: str):
    """Its records belong to no VM; of the others everything is said that there is to say."""
    tamper(path, f"UPDATE streams SET name = {name} WHERE name = 'web-1'")
    code, said = verify()
    assert code == 3
    assert "the record belongs to no VM column: vm (the stream's number belongs to no VM" in said
    assert f"still good: db-1, {STEPS + 1} records ok db-1: replays to revision {STEPS}" in said
    assert [vm["vm"] for vm in json.loads(verify("--json")[1])["vms"]] == ["db-1"]


def test_pages_zeroed(path: Path, verify: Verify):
    """What is still good of a VM and how far it replays do not contradict each other, wherever a page is lost."""
    whole, found = path.read_bytes(), 0
    for start in range(4096, len(whole), 4096):
        path.write_bytes(whole[:start] + bytes(4096) + whole[start + 4096 :])
        code, said = verify("--json")
        assert code == 3
        if said.startswith("{"):  # not so damaged that it could not be opened
            for vm in json.loads(said)["vms"]:
                assert vm["revision"] + 1 == vm["records"], f"{said} without the page at {start}"
                found += not vm["ok"]
    assert found


def test_a_record_edited_and_chained_anew(path: Path, verify: Verify):
    """A perfect chain over other records: the head file knows the running hash over what was acknowledged."""
    edit(path, records(path)[-1][1])
    chain_anew(path)
    refused(path, Corrupt, f"the record at position {RECORDS} is not the one that vm.db-head says was acknowledged")
    code, said = verify()
    assert code == 3
    assert f"position {RECORDS}, web-1@{STEPS}" in said or f"position {RECORDS}, db-1@{STEPS}" in said
    assert "the record acknowledged here had the hash" in said


def test_one_vm_edited_and_chained_anew(path: Path, verify: Verify):
    """The last record of all is another VM's, and untouched: only the running hash over all of them tells."""
    last = records(path)[-1][1]
    [victim] = {row[1] for row in records(path)} - {last}
    edit(path, victim)
    chain_anew(path)
    code, said = verify()
    assert code == 3
    assert "whole in themselves, but not what was acknowledged, says the head file" in said
    anyio.run(append, path)  # opening does not read a whole log, so this goes on; but the log is no better for it
    code, said = verify()
    assert code == 3
    assert "whole in themselves, but not what was acknowledged, says the head file" in said


def test_a_record_moved_to_another_vm(path: Path, verify: Verify):
    """The last record of one VM becomes the next one of the other: its hash says whose it was."""
    rows = records(path)
    mine, theirs = rows[-2][1], rows[-1][1]
    tamper(
        path,
        f"""UPDATE records SET stream = (SELECT id FROM streams WHERE name = '{mine}'), revision = {rows[-2][2] + 1}
            WHERE position = {RECORDS}""",
    )
    code, said = verify()
    assert code == 3
    assert f"chain: {RECORDS - 1} records as written, then this: position {RECORDS}, {mine}@{STEPS + 1}" in said
    assert theirs != mine


def test_two_vms_that_swap_their_names(path: Path, verify: Verify):
    """No record is touched, only the table of names: every hash covers the name."""
    tamper(
        path,
        "UPDATE streams SET name = 'x' WHERE name = 'web-1'",
        "UPDATE streams SET name = 'web-1' WHERE name = 'db-1'",
        "UPDATE streams SET name = 'db-1' WHERE name = 'x'",
    )
    code, said = verify()
    assert code == 3
    assert "chain: 0 records as written, then this: position 1" in said


@pytest.mark.parametrize(("devices", "words"), [
    (STEPS, f"the record at position {RECORDS} is not the one .* or the two files are not of one log"),
    (STEPS + 1, f"ends at position {RECORDS}, but vm.db-head says that {RECORDS + 2} was acknowledged"),
    (STEPS - 1, f"the record at position {RECORDS - 2} is not the one .* or the two files are not of one log"),
])  # fmt: skip
def test_the_head_file_of_another_log(path: Path, verify: Verify, tmp_path: Path, devices: int, words: str):
    """As long as ours, longer or shorter: it does not fit."""
    anyio.run(grow, tmp_path / "other.db", *(f"disk{number}" for number in range(devices)))
    shutil.copy(tmp_path / "other.db-head", head_path(path))
    refused(path, Corrupt, words)
    code, said = verify()
    assert code == 3
    assert "says the head file" in said


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"", "vm.db-head is empty, though the log has records"),
        (b"\n" * 8704, "vm.db-head is empty, though the log has records"),
        (bytes(8704), "vm.db-head is damaged: neither of its slots is as it was written"),
        (b"esrm head 1\ncounter", "vm.db-head is damaged: neither of its slots is as it was written"),
        (None, "vm.db-head: Is a directory"),
    ],
)
def test_the_head_file_damaged(path: Path, verify: Verify, content: bytes | None, words: str):
    """It is said of the head file and not of the records, which are looked at all the same, and nothing is signed."""
    head_path(path).unlink()
    if content is None:
        head_path(path).mkdir()
    else:
        head_path(path).write_bytes(content)
    code, said = verify()
    assert code == 3
    assert f"ok chain: {RECORDS} records as written CORRUPT " in said
    assert words in said
    assert "no head file" not in said
    assert json.loads(verify("--json")[1])["anchored"] is False
    with open_reader(f"sqlite:{path}") as reader:
        assert cut(reader) is not None
    tamper(path, "UPDATE records SET actor = 'eve' WHERE position = 7")
    code, said = verify()
    assert code == 3
    assert "CORRUPT chain: 6 records as written, then this: position 7" in said
    assert words in said, "both are told"


def test_the_head_file_deleted(path: Path, verify: Verify):
    """Nothing says any more how much there must be: reading goes on, writing does not, until somebody accepts that."""
    head_path(path).unlink()
    refused(path, Rejected, r"there is no vm.db-head beside it .* esrm doctor --adopt")
    assert not head_path(path).exists()
    with open_reader(f"sqlite:{path}") as reader:
        assert reader.head() == RECORDS


# -- what only somebody else can tell -------------------------------------------------------------------------------


@pytest.fixture
def checkpoint(path: Path, tmp_path: Path) -> list[str]:
    """A checkpoint of web-1, given away before the attack: what to say to ``esrm verify``."""
    pytest.importorskip("cryptography")
    run("keygen", "example.org/host", tmp_path / "host.key")
    run(
        "checkpoint", "--store", f"sqlite:{path}", "--vm", "web-1", "--key", tmp_path / "host.key", "-o",
        tmp_path / "then",
    )  # fmt: skip
    return ["--since", str(tmp_path / "then"), "--vkey", str(tmp_path / "host.key.pub")]


def run(*arguments: object) -> None:
    """A command that succeeds."""
    assert cli.run([*map(str, arguments)]) == 0


def test_a_vm_cut_out(path: Path, verify: Verify, checkpoint: list[str], tmp_path: Path):
    """A VM gone from the log, and the head file computed anew: who holds a checkpoint or a receipt of it can tell."""
    log = ["--store", f"sqlite:{path}", "--vm", "web-1"]
    run("prove", "1", *log, "--key", tmp_path / "host.key", "-o", tmp_path / "receipt")
    where = "stream = (SELECT id FROM streams WHERE name = 'web-1')"
    tamper(path, f"DELETE FROM records WHERE {where}", "DELETE FROM streams WHERE name = 'web-1'")
    places = enumerate([row[0] for row in records(path)], 1)
    tamper(path, *(f"UPDATE records SET position = {new} WHERE position = {old}" for new, old in places))
    chain_anew(path)
    head_anew(path)
    assert verify()[0] == 0
    for question in (checkpoint, ["--receipt", str(tmp_path / "receipt"), *checkpoint[2:]]):
        code, said = verify(*question)
        assert code == 3
        assert "web-1: its log was cut off, or this is another one" in said


def test_everything_computed_anew(path: Path, verify: Verify, checkpoint: list[str]):
    """A record edited, the chain and the head file computed anew: the files agree, the checkpoint does not."""
    assert verify(*checkpoint)[0] == 0
    edit(path, "web-1")
    chain_anew(path)
    head_anew(path)
    assert verify()[0] == 0, "nothing in the files can tell: this is what checkpoints are for"
    code, said = verify(*checkpoint)
    assert code == 3
    assert f"checkpoint: the first {STEPS + 1} records are not what was signed by example.org/host" in said
    assert "whole in themselves, but others: changed and hashed anew" in said


def test_an_old_copy_of_everything(path: Path, verify: Verify, checkpoint: list[str], tmp_path: Path):
    """The log of an earlier day with the head file of that day: a checkpoint taken since then has more records."""
    anyio.run(grow, tmp_path / "old.db", "net0", "net1")
    for suffix in ("", "-head"):
        shutil.move(f"{tmp_path / 'old.db'}{suffix}", f"{path}{suffix}")
    assert verify()[0] == 0
    code, said = verify(*checkpoint)
    assert code == 3
    assert "the log ends too early" in said


def test_a_checkpoint_signed_anew_with_another_key(path: Path, verify: Verify, checkpoint: list[str], tmp_path: Path):
    """Who has changed the log can sign it, too, but not with the key that was handed out, whatever name is used."""
    edit(path, "web-1")
    chain_anew(path)
    head_anew(path)
    run("keygen", "example.org/host", tmp_path / "eve.key")
    run(
        "checkpoint", "--store", f"sqlite:{path}", "--vm", "web-1", "--key", tmp_path / "eve.key", "-o",
        tmp_path / "now",
    )  # fmt: skip
    assert verify("--since", tmp_path / "now", "--vkey", tmp_path / "eve.key.pub")[0] == 0
    code, said = verify("--since", tmp_path / "now", *checkpoint[2:])
    assert code == 3
    assert "the checkpoint is signed by example.org/host, none of which is a key to believe here" in said


# -- while the store has them open ----------------------------------------------------------------------------------


def unlink(file: Path) -> None:
    """Remove it, as a clean-up job does."""
    file.unlink()


def empty(file: Path) -> None:
    """Put an empty file in its place."""
    file.with_suffix(".new").touch()
    file.with_suffix(".new").rename(file)


def copy(file: Path) -> None:
    """Put an exact copy in its place, as an editor or a restore does."""
    shutil.copy(file, file.with_suffix(".new"))
    file.with_suffix(".new").rename(file)


def as_found(path: Path, copied_to: Path) -> list[bytes]:
    """The events that are there for whoever comes by the log's path just now, as after a crash."""
    for suffix in ("", "-wal", "-head"):
        if (file := Path(f"{path}{suffix}")).exists():  # copied by a process: closing it here would drop SQLite's locks
            subprocess.run(["cp", str(file), f"{copied_to}{suffix}"], check=True)
    with SqliteReader(copied_to, BytesCodec()) as reader:
        verdict = verify_chain(reader)
        assert verdict.ok, verdict.fault
        anchor = reader.anchor()
        assert anchor is not None
        assert anchor.position == reader.head()
        return [record.event for record in reader.read_all()]


@pytest.mark.parametrize("suffix", ["", "-wal", "-head"])
@pytest.mark.parametrize("attack", [unlink, empty, copy])
async def test_a_file_that_is_moved_from_under_the_store(tmp_path: Path, attack: Callable[[Path], None], suffix: str):
    """Nothing is acknowledged into a file that nobody will find again: what an append says of itself then holds of the
    log that is found at the path; and what cannot be mended is refused in words that say what happened.
    """
    path, gone = tmp_path / "vm.db", not suffix and attack is not copy
    stands: list[bytes] = []
    refusals: list[StoreError] = []

    async def append(event: bytes) -> None:
        try:
            stands.extend(record.event for record in await store.append("vm", drafts(event), expected=len(stands) - 1))
        except StoreError as error:
            refusals.append(error)
        if not gone:
            assert as_found(path, tmp_path / f"{event.decode()}.db") == stands, "it is not where others look for it"

    async with SqliteStore(path, BytesCodec()) as store:
        await append(b"folded")
    async with SqliteStore(path, BytesCodec()) as store:
        await append(b"in the WAL")
        attack(Path(f"{path}{suffix}"))
        for event in (b"1", b"2", b"3"):
            await append(event)
    for error in refusals:
        assert re.search(
            r"is gone: somebody removed|is empty: somebody replaced|somebody removed or replaced", str(error)
        )
    if gone:
        assert [type(error) for error in refusals] == [Unknown, Rejected, Rejected]
        assert stands == [b"folded", b"in the WAL"], "an append was acknowledged into the void"
        with pytest.raises(Corrupt, match=r"(is gone|is empty|ends at position 0), but .*2 (was|rec)"):
            await SqliteStore(path, BytesCodec()).__aenter__()
    else:
        assert [type(error) for error in refusals] in ([], [Rejected]), "the store did not resume"
        async with SqliteStore(path, BytesCodec()) as store:
            assert [record.event for record in await store.read_all()] == stands


async def test_an_old_copy_put_under_a_running_store(tmp_path: Path):
    """The same attack as the first one, while the store is open: nothing is acknowledged on top of the old copy.

    (There are so many records that the WAL has not the pages of all of them; else nothing would be missing.)
    """
    path = tmp_path / "vm.db"

    async def append(number: int) -> None:
        await store.append("vm", drafts(b"%0300d" % number), expected=number - 1)

    async with SqliteStore(path, BytesCodec()) as store:
        await append(0)
    shutil.copy(path, path.with_name("old.db"))
    async with SqliteStore(path, BytesCodec()) as store:
        for number in range(1, 35):
            await append(number)
    async with SqliteStore(path, BytesCodec()) as store:
        await append(35)
        shutil.move(path.with_name("old.db"), path)
        for kind in (Unknown, Corrupt, Corrupt):
            with pytest.raises(kind, match=r"ends at position 1, but vm.db-head says that 36 was acknowledged"):
                await append(36)
    with SqliteReader(path, BytesCodec()) as reader:
        assert reader.head() == 1
        assert "position 36 was acknowledged, says the head file" in str(verify_chain(reader).fault)
