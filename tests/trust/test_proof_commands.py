"""keygen, checkpoint, prove, cosign, and verify with their products: what each prints, refuses and exits with."""

from __future__ import annotations

import io
import json
import os
import re
import shutil
import sqlite3
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any, NamedTuple

import anyio
import pytest

from esrm import cli
from esrm.core.resources import MmioConstraint
from esrm.manager import ResourceManager
from esrm.opening import open_store
from esrm.stores.chain import GENESIS, link

ROOT = Path(__file__).parent.parent.parent
SEVEN = 1_795_330_800_000_000_000
HEAD = 9  # web-1's last revision


class Answer(NamedTuple):
    """What a command said."""

    code: int
    out: str
    err: str


Ask = Callable[..., Answer]


@pytest.fixture(autouse=True)
def nothing_set(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever the tester's own shell says about esrm, these tests have not heard of it."""
    for name in [name for name in os.environ if name.startswith("ESRM_")]:
        monkeypatch.delenv(name)


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a log of two VMs and with three keys, which the tests copy."""
    folder = tmp_path_factory.mktemp("made")
    anyio.run(tell, folder / "vm.db")
    for name, file, *more in (
        ("example.org/host", "host.key"), ("example.com/witness", "witness.key", "--witness"),
        ("example.org/host", "thief.key"),
    ):  # fmt: skip
        assert cli.run(["keygen", name, str(folder / file), *more]) == 0
    return folder


@pytest.fixture
def here(made: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder of one's own with the same things in it, which is the working directory."""
    shutil.copytree(made, tmp_path, dirs_exist_ok=True)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("ESRM_STORE", "vm.db")
    monkeypatch.setenv("ESRM_VM", "web-1")
    return tmp_path


@pytest.fixture
def ask(here: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Ask:
    """Run a command line, perhaps with something on stdin."""

    def run(line: str, stdin: str = "") -> Answer:
        capsys.readouterr()
        monkeypatch.setattr(sys, "stdin", SimpleNamespace(buffer=io.BytesIO(stdin.encode())))
        code = cli.run(line.split())
        return Answer(code, *capsys.readouterr())

    return run


async def tell(path: Path) -> None:
    """Two VMs in one file: web-1 with three devices, db-1 with one."""
    ticks: Iterator[int] = iter(range(SEVEN, SEVEN + 10**15, 10**9))
    async with open_store(f"sqlite:{path}") as store:
        for vm, devices in (("web-1", ("net0", "blk0", "gpu0")), ("db-1", ("net0",))):
            async with ResourceManager(
                store, vm=vm, platform="x86_64", actor="vmm", clock=lambda: next(ticks)
            ) as manager:
                for device in devices:
                    await manager.create(device)
                    await manager.declare(device, [MmioConstraint(0x1000)])
                    await manager.allocate(device)


async def grow(path: Path, step: str = "assign") -> None:
    """Three records more for web-1."""
    async with open_store(f"sqlite:{path}") as store, ResourceManager(store, vm="web-1", actor="vmm") as manager:
        for device in ("net0", "blk0", "gpu0"):
            await getattr(manager, step)(device)


def edit(*statements: str, rechain: bool = True) -> None:
    """Edit the log with SQL, with the skill to get past the triggers and to compute every hash anew.

    The head beside the log is deleted: the one who edits may write that file, too.
    """
    columns = "position, name, revision, records.id, time_ns, actor, correlation, CAST(data AS BLOB)"
    with sqlite3.connect("vm.db") as log:
        for (name,) in log.execute("SELECT name FROM sqlite_schema WHERE type = 'trigger'").fetchall():
            log.execute(f"DROP TRIGGER {name}")
        for statement in statements:
            log.execute(statement)
        previous: dict[str, bytes] = {}
        rows = f"SELECT {columns} FROM records JOIN streams ON streams.id = stream ORDER BY name, revision"
        for row in log.execute(rows).fetchall() if rechain else []:
            previous[row[1]] = link(previous.get(row[1], GENESIS), *row)
            log.execute("UPDATE records SET hash = ? WHERE position = ?", (previous[row[1]], row[0]))
    log.close()
    Path("vm.db-head").unlink(missing_ok=True)


BOTH = "--vkey host.key.pub --vkey witness.key.pub"


# -- keys ------------------------------------------------------------------------------------------------------------


def test_keygen_prints_what_to_hand_out(ask: Ask, here: Path) -> None:
    """The verifier key on stdout and in the file beside the private one, which only its owner may read."""
    answer = ask("keygen example.org/other other.key")
    assert (answer.code, answer.err) == (0, "")
    assert re.fullmatch(r"example\.org/other\+[0-9a-f]{8}\+[A-Za-z0-9+/]{43}[A-Za-z0-9+/=]\n", answer.out)
    assert (here / "other.key.pub").read_text() == answer.out
    assert (here / "other.key").stat().st_mode & 0o777 == 0o600
    assert (here / "other.key").read_text().startswith("PRIVATE+KEY+example.org/other+")


@pytest.mark.parametrize("exists", ["host.key", "host.key.pub"])
def test_keygen_overwrites_nothing(ask: Ask, here: Path, exists: str) -> None:
    """A key that is lost cannot be made again."""
    (here / ("host.key.pub" if exists == "host.key" else "host.key")).unlink()
    before = (here / exists).read_bytes()
    answer = ask("keygen example.org/other host.key")
    assert (answer.code, answer.out) == (2, "")
    assert (here / exists).read_bytes() == before


# -- checkpoints -----------------------------------------------------------------------------------------------------


def test_a_checkpoint_is_three_lines_and_a_signature(ask: Ask, here: Path) -> None:
    """To stdout or to a file; the same log gives the same checkpoint, byte for byte."""
    answer = ask("checkpoint --key host.key")
    lines = answer.out.split("\n")
    assert lines[:2] == ["example.org/host/web-1", "10"]
    assert lines[4].startswith("\u2014 example.org/host ")
    assert ask("checkpoint --key host.key -o a.checkpoint").out == ""
    assert (here / "a.checkpoint").read_text(encoding="utf-8") == answer.out
    assert ask("--vm db-1 checkpoint --key host.key").out.startswith("example.org/host/db-1\n4\n")
    assert ask("checkpoint --key host.key --origin else.where").out.startswith("else.where\n10\n")


def test_a_log_is_held_to_its_checkpoint(ask: Ask, here: Path) -> None:
    """It begins with what was signed, and goes on from there; so does the log that has grown since."""
    ask("checkpoint --key host.key -o a.checkpoint")
    answer = ask("verify --since a.checkpoint --vkey host.key.pub")
    assert answer.code == 0
    assert answer.out.splitlines() == [
        "ok      checkpoint: the first 10 records are what was signed by example.org/host",
        "ok      chain: 10 records as written",
        "ok      web-1: replays to revision 9, 3 devices",
    ]
    anyio.run(grow, here / "vm.db")
    document = json.loads(ask(f"verify --since a.checkpoint --vkey {(here / 'host.key.pub').read_text()} --json").out)
    assert (document["ok"], document["records"], document["fault"]) == (True, 13, None)
    assert document["checkpoint"].items() >= {"ok": True, "size": 10, "what": None, "cosigned_by": []}.items()


@pytest.mark.parametrize("revision", [0, 4, 9])
def test_a_log_edited_and_rechained_is_refused_by_every_checkpoint_before(ask: Ask, here: Path, revision: int) -> None:
    """The log is whole in itself and says so; each checkpoint taken when the record stood already knows better."""
    notes: dict[int, str] = {}
    anyio.run(grow, here / "vm.db")
    shutil.copy("vm.db", "full.db")
    for size in (1, 5, 10, 13):
        shutil.copy("full.db", "vm.db")
        edit(f"DELETE FROM records WHERE stream = 1 AND revision >= {size}", rechain=False)
        notes[size] = ask("checkpoint --key host.key").out
    shutil.copy("full.db", "vm.db")
    edit(f"UPDATE records SET actor = 'mallory' WHERE stream = 1 AND revision = {revision}")
    assert ask("verify").code == 0
    for size, note in notes.items():
        answer = ask("verify --since - --vkey host.key.pub", note)
        if size <= revision:
            assert answer.code == 0
        else:
            assert answer.code == 3
            records = f"the first {size} records are" if size > 1 else "the first record is"
            assert answer.out.startswith(f"CORRUPT checkpoint: {records} not what was signed by example.org/host:\n")
            assert "whole in themselves, but others" in answer.out


def test_a_log_that_was_cut_is_refused(ask: Ask) -> None:
    """It says how many records there are, and how many were signed."""
    ask("checkpoint --key host.key -o a.checkpoint")
    edit("DELETE FROM records WHERE stream = 1 AND revision > 6", rechain=False)
    answer = ask("verify --since a.checkpoint --vkey host.key.pub")
    assert answer.code == 3
    assert "the log ends too early: web-1: the log was cut short, or is another one: there are 7 leaves, not 10" in (
        answer.out
    )


@pytest.mark.parametrize(("revision", "side"), [(2, "before"), (11, "behind")])
def test_a_bad_record_is_named_on_either_side(ask: Ask, here: Path, revision: int, side: str) -> None:
    """A record that is not as it was written is named with its column, before the checkpoint as behind it."""
    ask("checkpoint --key host.key -o a.checkpoint")
    anyio.run(grow, here / "vm.db")
    edit(f"UPDATE records SET actor = 'mallory' WHERE stream = 1 AND revision = {revision}", rechain=False)
    answer = ask("verify --since a.checkpoint --vkey host.key.pub")
    assert answer.code == 3
    assert answer.out.startswith("CORRUPT checkpoint: " if side == "before" else "ok      checkpoint: ")
    assert f"CORRUPT chain: {revision} records as written, then this:\n" in answer.out
    assert f"web-1@{revision}: its columns and predecessor hash to" in answer.out
    assert "column: actor (with 'vmm' there, the hash is as stored)\n" in answer.out
    assert f"still good: web-1, {revision} records\n" in answer.out


def test_what_is_still_good_is_said_of_each_vm(ask: Ask, monkeypatch: pytest.MonkeyPatch) -> None:
    """A bad record in one VM's log takes nothing from another's."""
    monkeypatch.delenv("ESRM_VM")
    edit("UPDATE records SET hash = zeroblob(32) WHERE stream = 1 AND revision = 3", rechain=False)
    answer = ask("verify")
    assert answer.code == 3
    assert "still good: db-1, 4 records; web-1, 3 records\n" in answer.out
    document = json.loads(ask("verify --json").out)
    assert document["fault"]["columns"] == ["hash"]
    assert {vm["vm"]: vm["records"] for vm in document["vms"]} == {"db-1": 4, "web-1": 3}


def test_nothing_is_signed_of_a_log_that_is_corrupt(ask: Ask, here: Path) -> None:
    """No checkpoint and no receipt, and no empty file in their place."""
    edit("UPDATE records SET actor = 'mallory' WHERE stream = 1 AND revision = 3", rechain=False)
    for line in ("checkpoint --key host.key -o out", "prove 1 --key host.key -o out"):
        answer = ask(line)
        assert (answer.code, answer.out) == (3, "")
        assert "web-1, revision 3: the record is not as it was written" in answer.err
        assert not (here / "out").exists()


def test_another_vms_checkpoint_says_so(ask: Ask) -> None:
    """The checkpoint names its VM: that one is verified, and no other one under its name."""
    ask("--vm db-1 checkpoint --key host.key -o db.checkpoint")
    answer = ask("verify --since db.checkpoint --vkey host.key.pub")
    assert answer.code == 3
    assert "the checkpoint is of the VM 'db-1', not of 'web-1'" in answer.err
    assert "db-1: replays" in ask("verify --since db.checkpoint --vkey host.key.pub --vm db-1").out


def test_a_record_moved_to_another_vm(ask: Ask) -> None:
    """Moved and re-chained, both VMs' logs are others than were signed."""
    ask("checkpoint --key host.key -o web.checkpoint")
    ask("--vm db-1 checkpoint --key host.key -o db.checkpoint")
    edit("UPDATE records SET stream = 2, revision = 4 WHERE stream = 1 AND revision = 9")
    answer = ask("verify --since web.checkpoint --vkey host.key.pub")
    assert answer.code == 3
    assert "there are 9 leaves, not 10" in answer.out
    answer = ask("--vm db-1 verify --since db.checkpoint --vkey host.key.pub")
    assert "ok      checkpoint: the first 4 records" in answer.out, "what was signed of db-1 is still there"


def test_a_checkpoint_signed_with_another_key(ask: Ask, here: Path) -> None:
    """Under the same name, or with a witness that is not the one: not believed, and it is said who signed."""
    ask("checkpoint --key thief.key -o a.checkpoint")
    answer = ask("verify --since a.checkpoint --vkey host.key.pub")
    assert (answer.code, answer.out) == (3, "")
    assert "the checkpoint is signed by example.org/host, none of which is a key to believe here" in answer.err
    ask("checkpoint --key host.key -o a.checkpoint")
    answer = ask(f"verify --since a.checkpoint {BOTH}")
    assert (answer.code, answer.out) == (3, "")
    assert "the checkpoint is not cosigned by example.com/witness" in answer.err


def test_an_origin_of_ones_own(ask: Ask) -> None:
    """A log may be called as one likes; who verifies must say so, too."""
    ask("checkpoint --key host.key --origin else.where -o a.checkpoint")
    answer = ask("verify --since a.checkpoint --vkey host.key.pub")
    assert answer.code == 3
    assert "example.org/host does not speak for the log 'else.where'" in answer.err
    assert ask("verify --since a.checkpoint --vkey host.key.pub --origin else.where").code == 0
    assert ask("prove 3 --checkpoint a.checkpoint -o r").code == 0
    assert ask("prove 3 --checkpoint a.checkpoint --origin else.where -o r").code == 0
    assert ask("verify --receipt r --vkey host.key.pub --origin else.where").code == 0


def test_a_receipt_of_another_origin(ask: Ask, here: Path) -> None:
    """Who names the log gets no receipt by another one's checkpoint."""
    ask("checkpoint --key host.key -o a.checkpoint")
    answer = ask("prove 3 --checkpoint a.checkpoint --origin else.where -o r")
    assert (answer.code, answer.out) == (3, "")
    assert "a.checkpoint is a checkpoint of example.org/host/web-1, not of else.where" in answer.err
    assert not (here / "r").exists()


@pytest.mark.parametrize("store", ["vm.db", ""], ids=["a log at hand", "none"])
def test_a_receipt_of_another_vm(ask: Ask, monkeypatch: pytest.MonkeyPatch, store: str) -> None:
    """Who names the VM is not told that another one's receipt is well, be a log at hand or not."""
    ask("--vm db-1 prove 1 --key host.key -o r")
    if not store:
        monkeypatch.delenv("ESRM_STORE")
    answer = ask("verify --receipt r --vkey host.key.pub")
    assert (answer.code, answer.out) == (3, "")
    assert "the receipt is of the VM 'db-1', not of 'web-1'" in answer.err
    assert ask("verify --receipt r --vkey host.key.pub --vm db-1").code == 0


# -- receipts --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("rev", "revision"), [("0", 0), ("1", 1), ("@", 9), ("@~3", 6), ("@{2026-11-22T07:00:05}", 5)])
def test_a_receipt_needs_no_log(ask: Ask, here: Path, monkeypatch: pytest.MonkeyPatch, rev: str, revision: int) -> None:
    """Whoever holds it reads the record, in a place where no log is; REV is written as everywhere."""
    made = ask(f"prove {rev} --key host.key")
    assert made.code == 0
    monkeypatch.delenv("ESRM_STORE")
    answer = ask("verify --receipt - --vkey host.key.pub", made.out)
    assert answer.code == 0
    assert answer.out.startswith(
        f"ok      receipt: revision {revision} of web-1 is in the log of 10 records signed by "
    )
    assert "log: " not in answer.out
    document = json.loads(ask("verify --receipt - --vkey host.key.pub --json", made.out).out)
    assert (document["ok"], document["log"]) == (True, None)
    monkeypatch.setenv("ESRM_STORE", "vm.db")
    shown = json.loads(ask(f"show {revision} --json").out)
    del shown["changes"]
    assert document["record"] == shown


def test_a_receipt_by_a_checkpoint_that_a_witness_has_signed(ask: Ask) -> None:
    """Both names are shown, with the witness's time; the checkpoint may be older than the log."""
    ask("checkpoint --key host.key -o a.checkpoint")
    ask("cosign a.checkpoint --key witness.key --memory seen --new --vkey host.key.pub -o b.checkpoint")
    ask("prove 3 --checkpoint b.checkpoint -o r")
    answer = ask(f"verify --receipt r {BOTH}")
    assert answer.code == 0
    first, record, log = answer.out.splitlines()
    assert re.search(
        r"signed by example\.org/host, cosigned by example\.com/witness at 20\d\d-\d\d-\d\dT[\d:]{8}Z$", first
    )
    assert record == "        2026-11-22T07:00:03.000Z by vmm: ResourcesAllocated net0: mmio 0xc0001000-0xc0001fff"
    assert log == "ok      log: sqlite:vm.db has it, too"


def test_the_log_at_hand_may_disagree(ask: Ask, here: Path) -> None:
    """The receipt holds; it is the log that has another history, a shorter one, or none of this VM."""
    ask("prove 3 --key host.key -o r")
    whole = (here / "vm.db").read_bytes()
    edit("UPDATE records SET actor = 'mallory' WHERE stream = 1 AND revision = 7")
    answer = ask("verify --receipt r --vkey host.key.pub")
    assert answer.code == 3
    assert answer.out.startswith("ok      receipt: ")
    assert answer.out.endswith("CORRUPT log: sqlite:vm.db disagrees: its first 10 records are others\n")
    (here / "vm.db").write_bytes(whole)
    edit("DELETE FROM records WHERE stream = 1 AND revision > 6", rechain=False)
    assert "cut short" in ask("verify --receipt r --vkey host.key.pub").out
    (here / "vm.db").write_bytes(whole)
    edit("UPDATE records SET actor = 'mallory' WHERE stream = 1 AND revision = 7", rechain=False)
    assert "web-1, revision 7: the record is not as it was written" in ask("verify --receipt r --vkey host.key.pub").out
    ask("--vm db-1 prove 1 --key host.key -o r")
    edit("DELETE FROM records WHERE stream = 2", "DELETE FROM streams WHERE id = 2", rechain=False)
    document = json.loads(ask("verify --receipt r --vkey host.key.pub --vm db-1 --json").out)
    assert document["log"] == {"ok": False, "what": "it has no VM db-1: its log was cut off, or this is another one"}


def test_no_receipt_of_what_was_not_signed(ask: Ask, here: Path) -> None:
    """A record younger than the checkpoint, and a checkpoint of another log: nothing is written."""
    ask("checkpoint --key host.key -o a.checkpoint")
    anyio.run(grow, here / "vm.db")
    answer = ask("prove 10 --checkpoint a.checkpoint -o r")
    assert answer.code == 2
    assert "revision 10 is younger than the checkpoint, which ends at revision 9" in answer.err
    edit("UPDATE records SET actor = 'mallory' WHERE stream = 1 AND revision = 3")
    answer = ask("prove 5 --checkpoint a.checkpoint -o r")
    assert answer.code == 3
    assert "the first 10 records of web-1 are not those of example.org/host/web-1, as signed" in answer.err
    assert not (here / "r").exists()


def test_a_receipt_that_was_changed(ask: Ask, here: Path) -> None:
    """A record that was never in the log, and a file that is no receipt, each with its exit code."""
    ask("prove 3 --key host.key -o r")
    ask("prove 4 --key host.key -o s")
    third, fourth = ((here / name).read_text(encoding="utf-8").split("\n") for name in "rs")
    mixed = "\n".join([*fourth[:3], *third[3:]])
    answer = ask("verify --receipt - --vkey host.key.pub", mixed)
    assert (answer.code, answer.out) == (3, "")
    assert "the record of revision 4 is not in the tree of 10 that was signed" in answer.err
    answer = ask("verify --receipt vm.db --vkey host.key.pub")
    assert (answer.code, answer.out) == (2, "")
    assert answer.err.startswith("esrm: a receipt ")


# -- witnesses -------------------------------------------------------------------------------------------------------


def test_a_witness_follows_a_log(ask: Ask, here: Path) -> None:
    """From the first checkpoint on, step by step, through a pipe or a file; then it refuses a log that went back."""
    cosign = "cosign --key witness.key --memory seen --vkey host.key.pub"
    first = ask("checkpoint --key host.key").out
    assert ask(cosign, first).err.startswith(f"esrm: {here}/seen does not exist")
    noted = ask(f"{cosign} --new", first)
    assert noted.code == 0
    assert noted.out.startswith(first)
    (here / "a.checkpoint").write_text(noted.out, encoding="utf-8")
    anyio.run(grow, here / "vm.db")
    for since in ("a.checkpoint", "10"):
        request = ask(f"checkpoint --key host.key --since {since}").out
        assert request.startswith("old 10\n")
    (here / "request").write_text(request, encoding="utf-8")
    assert ask(f"{cosign} request -o b.checkpoint").code == 0
    assert ask(f"verify --since b.checkpoint {BOTH}").code == 0
    anyio.run(grow, here / "vm.db", "release")
    answer = ask(cosign, ask("checkpoint --key host.key --since 10").out)
    assert answer.code == 3
    assert "goes on from 10 records, but this witness has cosigned 13: prove it from there" in answer.err
    assert "(esrm checkpoint --since 13)" in answer.err
    answer = ask(cosign, first)
    assert (answer.code, answer.out) == (3, "")
    assert "has gone back: this witness has cosigned 13 records of it, and is shown 10" in answer.err


def test_a_witness_sees_a_log_that_was_edited(ask: Ask, here: Path) -> None:
    """The host's own key signs the edited log; the witness does not, whatever proof is tried."""
    cosign = "cosign --key witness.key --memory seen --vkey host.key.pub"
    ask(f"{cosign} --new", ask("checkpoint --key host.key").out)
    anyio.run(grow, here / "vm.db")
    edit("UPDATE records SET actor = 'mallory' WHERE stream = 1 AND revision = 3")
    answer = ask(cosign, ask("checkpoint --key host.key --since 10").out)
    assert answer.code == 3
    assert "nothing shows that the 13 records begin with the 10 that this witness has cosigned" in answer.err
    edit("DELETE FROM records WHERE stream = 1 AND revision > 9", rechain=False)
    answer = ask(cosign, ask("checkpoint --key host.key --since 10").out)
    assert "has two histories: of 10 records this witness has cosigned the root" in answer.err


def test_a_request_is_made_of_the_same_log_only(ask: Ask, here: Path) -> None:
    """The host notices itself that its older checkpoint is another log's, or of more, or of other records."""
    ask("checkpoint --key host.key -o a.checkpoint")
    answer = ask("--vm db-1 checkpoint --key host.key --since a.checkpoint")
    assert (answer.code, answer.out) == (3, "")
    assert "a.checkpoint is a checkpoint of example.org/host/web-1, not of example.org/host/db-1" in answer.err
    answer = ask("checkpoint --key host.key --since 11")
    assert (answer.code, answer.out) == (3, "")
    assert "web-1 has 10 records, so no request can go on from 11: it was cut short, or another log" in answer.err
    edit("UPDATE records SET actor = 'mallory' WHERE stream = 1 AND revision = 3")
    answer = ask("checkpoint --key host.key --since a.checkpoint")
    assert (answer.code, answer.out) == (3, "")
    assert "the first 10 records of web-1 are not those of a.checkpoint" in answer.err


def test_several_witnesses_sign_one_after_the_other(ask: Ask, here: Path) -> None:
    """The second adds its line to the first one's, in the same file, and so again when the log has grown."""
    ask("keygen example.net/second second.key --witness")
    ask("checkpoint --key host.key -o a.checkpoint")
    for key in ("witness.key", "second.key", "witness.key"):
        new = "" if (here / f"seen-{key}").exists() else "--new"
        line = f"cosign a.checkpoint --key {key} --memory seen-{key} {new} --vkey host.key.pub -o a.checkpoint"
        assert ask(line) == (0, "", "")
    answer = ask(f"verify --since a.checkpoint {BOTH} --vkey second.key.pub")
    assert answer.code == 0
    assert "cosigned by example.net/second at " in answer.out
    anyio.run(grow, here / "vm.db")
    request = ask("checkpoint --key host.key --since a.checkpoint").out
    proof, note = request.partition("\n\n")[0], request.partition("\n\n")[2]
    for key in ("witness.key", "second.key"):  # docs/proofs.md does this with sed
        note = ask(f"cosign --key {key} --memory seen-{key} --vkey host.key.pub", f"{proof}\n\n{note}").out
    answer = ask(f"verify --since - {BOTH} --vkey second.key.pub", note)
    assert answer.code == 0
    assert "the first 13 records are what was signed" in answer.out


# -- files that are written ------------------------------------------------------------------------------------------

WRITERS = {
    "checkpoint": "checkpoint --key host.key -o {}",
    "prove": "prove 3 --key host.key -o {}",
    "cosign": "cosign a.checkpoint --key witness.key --memory seen --new --vkey host.key.pub -o {}",
}


@pytest.mark.parametrize("name", [
    "vm.db", "vm.db-wal", "vm.db-shm", "vm.db-head", "host.key", "host.key.pub", "link", "notes.txt", "cut",
])  # fmt: skip
@pytest.mark.parametrize("line", WRITERS.values(), ids=WRITERS)
def test_nothing_is_overwritten_but_proofs(ask: Ask, here: Path, line: str, name: str) -> None:
    """Not the log, what is beside it (there or not, empty or not), a key, nor what somebody else has written."""
    ask("checkpoint --key host.key -o a.checkpoint")
    (here / "link").symlink_to("vm.db")
    (here / "vm.db-wal").touch()
    (here / "notes.txt").write_text("to do\n")
    (here / "cut").write_bytes((here / "a.checkpoint").read_bytes()[:90])
    before = {path: path.read_bytes() for path in here.iterdir()}
    answer = ask(line.format(name))
    assert (answer.code, answer.out) == (2, "")
    assert "it is not overwritten; choose another name with -o" in answer.err
    assert {path: path.read_bytes() for path in here.iterdir()} == before


@pytest.mark.parametrize("line", WRITERS.values(), ids=WRITERS)
def test_a_proof_takes_the_place_of_another(ask: Ask, here: Path, line: str) -> None:
    """Or of an empty file, with the permissions of that one, and through a link; nothing else is left behind."""
    ask("checkpoint --key host.key -o a.checkpoint")
    out, link = here / "out", here / "link"
    link.symlink_to("out")
    for content in (b"", ask("--vm db-1 checkpoint --key host.key").out.encode()):
        (here / "seen").unlink(missing_ok=True)
        out.write_bytes(content)
        out.chmod(0o640)
        assert ask(line.format("link")).code == 0
        assert out.read_bytes() not in (b"", content)
        assert out.stat().st_mode & 0o777 == 0o640
    assert link.is_symlink()
    assert not list(here.glob(".esrm-*"))
    assert ask(line.format("/dev/stdout").replace(" --new", "")).code == 0, "a device is written as it is"


def test_an_output_that_cannot_be_written(ask: Ask, here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is known before the witness remembers; if the disk fails after that, the same request is answered again."""
    cosign = "cosign a.checkpoint --key witness.key --memory seen --vkey host.key.pub"
    ask("checkpoint --key host.key -o a.checkpoint")
    answer = ask(f"{cosign} --new -o none/out")
    assert answer.code == 2
    assert "No such file or directory" in answer.err
    assert not (here / "seen").exists()
    assert "-o and --memory are one file" in ask(f"{cosign} --new -o ./seen").err

    replace = Path.replace
    with monkeypatch.context() as patch:
        patch.setattr(Path, "replace", lambda self, target: replace(self, target) if target.name == "seen" else fail())
        assert "Input/output error" in ask(f"{cosign} --new -o out").err
    assert (here / "seen").exists()
    assert not (here / "out").exists()
    assert not list(here.glob(".esrm-*"))
    assert ask(f"{cosign} -o out").code == 0
    assert ask(f"verify --since out {BOTH}").code == 0


def fail() -> None:
    """A disk that does."""
    raise OSError(5, "Input/output error")


def test_a_refused_first_request_can_be_made_again(ask: Ask, here: Path) -> None:
    """With the right key this time; the first one has left no empty memory."""
    line = "cosign --key witness.key --memory seen --new --vkey {}"
    first = ask("checkpoint --key host.key").out
    assert ask(line.format("thief.key.pub"), first).code == 3
    assert not (here / "seen").exists()
    assert ask(line.format("host.key.pub"), first).code == 0


def test_a_key_that_others_may_read(ask: Ask, here: Path) -> None:
    """A warning that says what to do; the command goes on, and nobody's output is touched."""
    (here / "host.key").chmod(0o644)
    answer = ask("checkpoint --key host.key")
    assert answer.code == 0
    assert answer.err == (
        "esrm: warning: others than its owner may use host.key (its mode is 0644): chmod 600 host.key\n"
    )
    (here / "host.key").chmod(0o600)
    assert ask("checkpoint --key host.key") == (0, answer.out, "")


@pytest.mark.parametrize("origin", ["", "a\nb", "a b", "\udcff", "x" * 6001], ids=ascii)
def test_origins_that_are_refused(ask: Ask, here: Path, origin: str) -> None:
    """They come from a shell, so anything may be in them; nothing is signed."""
    for line in (["checkpoint"], ["prove", "3"]):
        assert cli.run([*line, "--key", "host.key", "--origin", origin, "-o", "out"]) == 2
    assert not (here / "out").exists()


def test_a_file_that_is_no_checkpoint_is_no_alarm(ask: Ask, here: Path) -> None:
    """A request, a receipt, or what an editor did to a checkpoint: exit code 2, and it is said what it is."""
    ask("checkpoint --key host.key -o a.checkpoint")
    text = (here / "a.checkpoint").read_text(encoding="utf-8")
    for stdin, said in (
        (ask("checkpoint --key host.key --since a.checkpoint").out, "this is a request to a witness"),
        (ask("prove 3 --key host.key").out, "this is a receipt"),
        (f"\ufeff{text}", "a note with a byte order mark is none"),
        (text.replace("\n", "\r\n"), "a note with line ends of Windows is none"),
    ):
        answer = ask("verify --since - --vkey host.key.pub", stdin)
        assert (answer.code, answer.out) == (2, "")
        assert said in answer.err


# -- asked wrongly ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("verify --since a --receipt b --vkey host.key.pub", "two questions"),
        ("verify --since a", "need a --vkey"),
        ("verify --receipt a", "need a --vkey"),
        ("verify --vkey host.key.pub", "no signature is checked"),
        ("verify --origin example.org/host/web-1", "no signature is checked"),
        ("verify --since none --vkey host.key.pub", "No such file or directory: 'none'"),
        ("verify --since vm.db --vkey host.key.pub", "a note is UTF-8"),
        ("verify --since host.key.pub --vkey host.key.pub", "a note is a text, a blank line"),
        ("verify --since host.key.pub --vkey none", "--vkey: 'none' is neither a key (NAME+ID+BASE64) nor a file"),
        ("verify --since host.key.pub --vkey {host.key}", "this is a private key"),
        ("verify --since host.key.pub --vkey host.key", "this is a private key"),
        ("verify --since host.key.pub --vkey a+00000000+AAAA", "only Ed25519 is known here"),
        ("prove 3", "to sign a new one; neither is given"),
        ("prove 3 --key host.key --checkpoint a", "to sign a new one; both are given"),
        ("prove 99 --key host.key", "web-1 has revisions 0-9; there is no 99"),
        ("prove 3 --key vm.db", "holds no key"),
        ("prove 3 --key host.key.pub", "this is no private key"),
        ("checkpoint", "Missing option '--key'"),
        ("checkpoint --key none", "No such file or directory"),
        ("checkpoint --key host.key --since none", "--since: 'none' is neither a number of records nor a file"),
        ("checkpoint --key host.key --since 99999999999999999999999", "--since is larger than 9223372036854775807"),
        ("checkpoint --key host.key --since 09", "--since is no number as it is written here: '09'"),
        ("checkpoint --key host.key --origin a+b", "'a+b' is no origin"),
        ("prove 3 --key host.key --origin \udcff", "'\\udcff' is no origin"),
        ("checkpoint --key host.key --vm nobody", "no VM 'nobody' in this store"),
        ("checkpoint --key witness.key", "a log's key"),
        ("cosign a", "Missing option"),
        ("cosign host.key.pub --key witness.key --memory m --vkey host.key.pub", "a note is a text, a blank line"),
        ("keygen a+b x.key", "is no name for a key"),
        ("keygen", "Missing argument 'NAME'"),
    ],
)
def test_what_was_asked_wrongly_exits_with_2(ask: Ask, here: Path, line: str, said: str) -> None:
    """One line that says what is wrong, nothing on stdout, and nothing created."""
    before = sorted(here.iterdir())
    answer = ask(line.replace("{host.key}", (here / "host.key").read_text().strip()))
    assert (answer.code, answer.out) == (2, "")
    assert said in answer.err
    assert "Traceback" not in answer.err
    for key in ("host.key", "witness.key"):
        *_, secret = (here / key).read_text().strip().split("+", 4)  # base64 has a + of its own now and then
        assert len(secret) == 44
        assert secret not in answer.err, "nothing secret is repeated"
    assert [path for path in sorted(here.iterdir()) if path not in before] == []


def test_a_logs_key_is_no_witnesss(ask: Ask) -> None:
    """One key for both would let a log be its own witness."""
    answer = ask("cosign --key host.key --memory m --new --vkey host.key.pub", ask("checkpoint --key host.key").out)
    assert (answer.code, answer.out) == (2, "")
    assert "a witness needs a witness's key of its own" in answer.err


# -- what is loaded, and what is not there ---------------------------------------------------------------------------

LOADED = """if True:
    import json, sys
    import esrm
    from esrm import cli
    found = [name for name in ("cryptography", "esrm.proofs") if name in sys.modules]
    code = cli.run(json.loads(sys.argv[1]))
    found += [name for name in json.loads(sys.argv[2]) if name in sys.modules]
    print(code, *found, file=sys.stderr)
"""


def loaded(arguments: str, *names: str) -> str:
    """The exit code, and which of the modules a command has imported."""
    command = [sys.executable, "-c", LOADED, json.dumps(arguments.split()), json.dumps(names)]
    done = subprocess.run(
        command, env={**os.environ, "PYTHONPATH": str(ROOT)}, capture_output=True, text=True, check=True
    )
    return done.stderr.strip().splitlines()[-1]


def test_who_needs_no_proofs_loads_none(here: Path) -> None:
    """Importing esrm, reading a log and verifying it load neither this package nor cryptography."""
    for arguments in ("log", "verify"):
        assert loaded(arguments, "cryptography", "esrm.proofs") == "0"


@pytest.mark.parametrize("arguments", ["keygen a b", "checkpoint --key host.key", "prove 3 --key host.key"])
def test_signing_loads_no_event_loop(here: Path, arguments: str) -> None:
    """As with any command that reads."""
    assert loaded(arguments, "asyncio", "anyio", "trio", "cryptography") == "0 cryptography"


@pytest.mark.parametrize(
    "arguments",
    ["keygen a b", "checkpoint --key host.key", "prove 3 --key host.key", "verify --since c --vkey host.key.pub"],
)
def test_without_cryptography_the_extra_is_named(
    ask: Ask, here: Path, monkeypatch: pytest.MonkeyPatch, arguments: str
) -> None:
    """One sentence that says what to install; verifying a log by itself goes on without."""
    ask("checkpoint --key host.key -o c")
    monkeypatch.setitem(sys.modules, "cryptography", None)
    answer = ask(arguments)
    assert (answer.code, answer.out) == (2, "")
    assert answer.err == (
        "esrm: signatures need the package cryptography (esrm's extra `proofs`): pip install cryptography\n"
    )
    assert ask("verify").code == 0


# -- standard tools --------------------------------------------------------------------------------------------------


def openssl_missing() -> str:
    """Why the page's script cannot run here; empty if it can."""
    missing = [tool for tool in ("sh", "sed", "grep", "cut", "base64", "tail", "openssl") if not shutil.which(tool)]
    if missing:
        return f"this machine has no {', '.join(missing)}"
    version = subprocess.run(["openssl", "version"], capture_output=True, text=True, check=True).stdout
    return "" if version.startswith("OpenSSL 3") else f"the page's script needs OpenSSL 3, here is {version.strip()}"


@pytest.mark.skipif(bool(openssl_missing()), reason=openssl_missing())
def test_a_checkpoint_is_checked_with_openssl(ask: Ask, here: Path) -> None:
    """The script in docs/proofs.md, as it stands there, believes what is signed and nothing else."""
    page = (ROOT / "docs" / "proofs.md").read_text(encoding="utf-8")
    [script] = re.findall(r"^```sh\n(# check\.sh .*?)^```", page, re.MULTILINE | re.DOTALL)
    (here / "check.sh").write_text(script, encoding="utf-8")
    ask("checkpoint --key host.key -o a.checkpoint")
    ask("cosign a.checkpoint --key witness.key --memory seen --new --vkey host.key.pub -o b.checkpoint")
    key, other = ((here / f"{name}.key.pub").read_text().strip() for name in ("host", "thief"))

    def check(file: str, key: str) -> Any:
        return subprocess.run(["sh", "check.sh", file, key], capture_output=True, text=True, check=False)

    for file in ("a.checkpoint", "b.checkpoint"):
        assert "Verified Successfully" in check(file, key).stdout
        assert check(file, key).returncode == 0
        assert check(file, other).returncode != 0, "another key"
    text = (here / "a.checkpoint").read_text(encoding="utf-8")
    (here / "a.checkpoint").write_text(text.replace("\n10\n", "\n11\n"), encoding="utf-8")
    assert check("a.checkpoint", key).returncode != 0, "another size"


# -- a log that is known to be cut ------------------------------------------------------------------------------------


def cut(*statements: str) -> None:
    """Edit the log with SQL, and leave the head file as it is."""
    head = Path("vm.db-head").read_bytes()
    edit(*statements, rechain=False)
    Path("vm.db-head").write_bytes(head)


def test_nothing_is_signed_of_a_log_that_is_cut(ask: Ask, here: Path) -> None:
    """The head file says that records are missing, be they another VM's: no checkpoint, no request and no receipt."""
    ask("checkpoint --key host.key -o a.checkpoint")
    cut("DELETE FROM records WHERE position > 12")
    for line in (
        "checkpoint --key host.key -o out", "checkpoint --key host.key --since a.checkpoint -o out",
        "prove 1 --key host.key -o out", "prove 1 --checkpoint a.checkpoint -o out",
    ):  # fmt: skip
        answer = ask(line)
        assert (answer.code, answer.out) == (3, "")
        assert (
            "position 13: missing; position 14 was acknowledged, says the head file: 2 records are gone" in answer.err
        )
        assert not (here / "out").exists()


def test_a_checkpoint_of_another_name_when_all_is_gone(ask: Ask, monkeypatch: pytest.MonkeyPatch) -> None:
    """It does not say whose it is, and no VM is left to be asked; but not because there never was one."""
    ask("checkpoint --key host.key --origin else.where -o a.checkpoint")
    monkeypatch.delenv("ESRM_VM")
    cut("DELETE FROM records", "DELETE FROM streams")
    answer = ask("verify --since a.checkpoint --vkey host.key.pub --origin else.where")
    assert answer.code == 3
    assert "position 1: missing; position 14 was acknowledged, says the head file: 14 records are gone" in answer.err


@pytest.mark.parametrize("line", ["--since a --since b", "--receipt a --receipt b", "--since a --receipt b"])
def test_one_question_at_a_time(ask: Ask, line: str) -> None:
    """Of two checkpoints none is passed over in silence."""
    answer = ask(f"verify {line} --vkey host.key.pub")
    assert (answer.code, answer.out) == (2, "")
    assert "two questions: ask them one after the other" in answer.err
