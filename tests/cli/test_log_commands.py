"""The commands about records: log, show, timeline, tail."""

from __future__ import annotations

import json
import os
import select
import shutil
import signal
import subprocess
import sys
from contextlib import suppress
from pathlib import Path

import anyio
import pytest
from cli_story import HEAD, SEVEN, Ask, begin

from esrm.manager import ResourceManager
from esrm.opening import open_store


def test_log_is_newest_first_one_aligned_line_a_record(ask: Ask) -> None:
    """A line has revision, time, actor and event; columns line up, and what a guest said is escaped."""
    moved, mac = "mmio 0xc0001000-0xc0001fff -> mmio 0xc0002000-0xc0002fff", "02:00:00:00:00:00"
    answer = ask("log", "-n", "4")
    assert answer.code == 0
    assert answer.out.splitlines() == [
        r"24  2026-11-22T07:00:24.000Z  vmm    UnplugRefused nvme0: busy \x1b[31mdisk",
        "23  2026-11-22T07:00:23.000Z  vmm    UnplugRequested nvme0",
        "22  2026-11-22T07:00:22.000Z  guest  ResourcesMoved net0: " + moved,
        "21  2026-11-22T07:00:21.000Z  vmm    ResourcesAllocated ram0: mem 0x0-0xfffff, slots 0-1, mac " + mac,
    ]


def test_log_says_what_each_event_says(ask: Ask) -> None:
    """Every kind of event in the story has its own words; a refusal gives its reason in full."""
    said = [line.split("  ", 3)[3].strip() for line in ask("log", "--until", "20", "--reverse").out.splitlines()]
    assert said[:6] == [
        "VmCreated on platform x86_64",
        "DeviceCreated net0 [virtio-net]",
        "ConstraintsDeclared net0: mmio 0x1000, an irq",
        "ResourcesAllocated net0: mmio 0xc0001000-0xc0001fff, irq 5",
        "ResourcesAssigned net0",
        "DeviceRegistered net0",
    ]
    assert said[11:14] == [
        "DeviceCreated nvme0 [nvme] inside bridge0",
        "ConstraintsDeclared nvme0: mmio 0x4000 aligned to 0x4000, 4 pci_msix",
        "ResourcesAllocated nvme0: mmio 0xc0010000-0xc0013fff, pci_msix 24-27",
    ]
    assert said[18] == (
        "AllocationRefused big0: no 0x10000 of mmio aligned to 0x10000 in 0xc0010000-0xc001ffff; "
        "0xc000 free in 1 hole, the largest 0xc000; releasing nvme0 (0xc0010000-0xc0013fff) would do"
    )
    assert said[20] == "ConstraintsDeclared ram0: mem 0x100000, 2 slots, a mac"


def revisions(ask: Ask, *conditions: str) -> list[int]:
    """The revisions that a log with these conditions shows, in its order."""
    answer = ask("log", "--jsonl", *conditions)
    assert answer.code == 0, answer.err
    return [json.loads(line)["revision"] for line in answer.out.splitlines()]


@pytest.mark.parametrize(
    ("conditions", "expected"),
    [
        (["--device", "net0"], [22, 5, 4, 3, 2, 1]),
        (["--type", "AllocationRefused"], [18]),
        (["--actor", "guest"], [22]),
        (["--correlation", "bar"], [22]),
        (["--device", "nvme0", "--type", "DeviceRegistered"], [15]),
        (["--device", "ram0", "--until", "5"], []),
        (["--since", "@~1"], [24, 23]),
        (["--until", "1"], [1, 0]),
        (["--since", "@{2026-11-22T07:00:22}"], [24, 23, 22]),
        (["--since", "@{2026-11-22T07:00:21.5}"], [24, 23, 22]),
        (["--since", "@{2000-01-01}", "--until", "1"], [1, 0]),
        (["--since", "@{2030-01-01}"], []),
        (["--since", "@{2030-01-01}", "--reverse"], []),
        (["--since", "@{2030-01-01}", "--reverse", "-n", "2"], []),
        (["--since", "5", "--until", "4"], []),
        (["--until", "@{2000-01-01}"], []),
        (["--until", "@{2000-01-01}", "--reverse"], []),
        (["--since", "@{1970-01-01}", "--until", "@{1970-01-02}"], []),
        (["--until", "@{2026-11-22T07:00:01}"], [1, 0]),
        (["-n", "0"], []),
        (["--limit", "2", "--reverse"], [23, 24]),
        (["--until", "2", "--reverse"], [0, 1, 2]),
        (["--device", "net0", "-n", "2"], [22, 5]),
    ],
)
def test_log_shows_what_matches_all_conditions(ask: Ask, conditions: list[str], expected: list[int]) -> None:
    """Conditions narrow the log; a limit takes the newest that match, whichever way they are shown.

    Since a time means: from the first record on that is not before it; there may be none, or all; and so for until.
    """
    assert revisions(ask, *conditions) == expected


def test_log_goes_back_page_by_page(ask: Ask, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where a page ends is not to be seen in the order."""
    monkeypatch.setattr("esrm.cli.log.PAGE", 7)
    assert revisions(ask) == list(range(HEAD, -1, -1))


def test_records_as_json_have_the_wires_names_in_order(ask: Ask) -> None:
    """--json is one array, --jsonl the same objects; ``time`` and ``*_hex`` stand behind what a browser loses."""
    objects = [json.loads(line) for line in ask("log", "--jsonl").out.splitlines()]
    assert json.loads(ask("log", "--json").out) == objects
    first = objects[HEAD - 3]
    assert list(first) == [
        "position", "vm", "revision", "id", "time_ns", "time", "actor", "correlation", "event", "hash",
    ]  # fmt: skip
    assert (first["time_ns"], first["time"]) == (SEVEN + 3 * 10**9, "2026-11-22T07:00:03.000000000Z")
    assert first["event"] == {
        "type": "ResourcesAllocated",
        "device": "net0",
        "resources": [
            {"kind": "mmio", "base": 0xC0001000, "base_hex": "0xc0001000", "size": 0x1000, "size_hex": "0x1000"},
            {"kind": "legacy_irq", "irq": 5},
        ],
    }


def test_an_empty_answer_is_json_too(ask: Ask) -> None:
    """Nothing found: an empty array, and no line at all."""
    nothing = "log", "--device", "ram0", "--actor", "guest"
    assert ask(*nothing, "--json").out == "[]\n"
    assert ask(*nothing, "--jsonl").out == ""
    assert ask(*nothing).out == ""


@pytest.mark.parametrize("more", [[], ["--reverse"], ["--json"], ["--reverse", "-n", "3"], ["--since", "@~1"]])
def test_a_device_that_never_was_is_no_empty_answer(ask: Ask, more: list[str]) -> None:
    """A typing error is told from a quiet device, by log as by timeline: with the names that there are."""
    answer = ask("log", "--device", "net", *more)
    assert (answer.code, answer.out) == (2, "")
    assert answer.err == ask("timeline", "net").err
    assert "never had a device 'net'; did you mean net0" in answer.err


def test_show_tells_one_record_in_full_and_what_it_changed(ask: Ask) -> None:
    """All fields, the event as JSON, and the device before and after."""
    assert (
        ask("show", "22").masked
        == """\
revision 22 of web-1
position:     23
id:           <id>
time:         2026-11-22T07:00:22.000000000Z
actor:        guest
correlation:  bar
hash:         <hash>

    {
      "type": "ResourcesMoved",
      "moves": [
        {
          "device": "net0",
          "old": {
            "kind": "mmio",
            "base": 3221229568,
            "base_hex": "0xc0001000",
            "size": 4096,
            "size_hex": "0x1000"
          },
          "new": {
            "kind": "mmio",
            "base": 3221233664,
            "base_hex": "0xc0002000",
            "size": 4096,
            "size_hex": "0x1000"
          }
        }
      ]
    }

changed:
~ net0 [virtio-net] registered
    ~ mmio 0xc0001000-0xc0001fff -> mmio 0xc0002000-0xc0002fff
"""
    )


def test_show_is_found_by_revision_head_time_and_id(ask: Ask) -> None:
    """Whatever a revision can be called leads to the same record; by default it is the head."""
    record = json.loads(ask("show", "18", "--json").out)
    assert record["event"]["type"] == "AllocationRefused"
    assert record["changes"] == []
    for name in ("@~6", "@{2026-11-22T07:00:18}", "@{2026-11-22T08:00:18.5+01:00}", record["id"]):
        assert json.loads(ask("show", name, "--jsonl").out) == record
    assert json.loads(ask("show", "--json").out)["revision"] == HEAD
    assert ask("show", "0").out.endswith("It changed no device.\n")


def test_timeline_is_one_devices_life_in_order(ask: Ask) -> None:
    """Oldest first, and only what is about the device."""
    lines = ask("timeline", "nvme0").out.splitlines()
    assert [int(line.split()[0]) for line in lines] == [11, 12, 13, 14, 15, 23, 24]
    assert [json.loads(line)["revision"] for line in ask("timeline", "nvme0", "--jsonl").out.splitlines()][-1] == 24


def test_tail_ends_with_the_last_record(ask: Ask) -> None:
    """The last ones, oldest first, with position, VM and revision."""
    assert ask("tail", "-n", "2").out.splitlines() == [
        "24  2026-11-22T07:00:23.000Z  web-1@23  vmm  UnplugRequested nvme0",
        r"25  2026-11-22T07:00:24.000Z  web-1@24  vmm  UnplugRefused nvme0: busy \x1b[31mdisk",
    ]
    assert len(ask("tail").out.splitlines()) == 10
    assert len(json.loads(ask("tail", "-n", "1000", "--vm", "web-1", "--json").out)) == HEAD + 1
    assert ask("tail", "-n", "0").out == ""


@pytest.mark.parametrize("whose", [[], ["--vm", "b"]])
def test_tail_f_goes_on_until_it_is_interrupted(tmp_path: Path, whose: list[str]) -> None:
    """What is appended later by another process appears; Ctrl-C ends it without a word."""
    path = tmp_path / "vm.db"
    anyio.run(begin, path, "b")
    command = [sys.executable, "-m", "esrm", "--store", str(path), "tail", "-f", "-n", "1", "--jsonl", *whose]
    with suppress(ValueError):  # a shell's background job ignores the interrupt, and so would its children
        signal.signal(signal.SIGINT, signal.default_int_handler)
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        assert process.stdout
        assert process.stderr
        try:
            assert next_event(process) == "VmCreated"
            anyio.run(create, path, "b", "net0")
            assert next_event(process) == "DeviceCreated"
            process.send_signal(signal.SIGINT)
            assert process.wait(20) == 130
            assert process.stderr.read().strip() == ""
        finally:
            process.kill()


@pytest.mark.parametrize("whose", [[], ["--vm", "b"]])
@pytest.mark.parametrize("after", [0, 3])
@pytest.mark.parametrize("grown", [0, 3])
def test_tail_f_does_not_go_on_in_another_log(
    ask: Ask, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, whose: list[str], after: int, grown: int
) -> None:
    """An older copy takes the log's place, and perhaps grows: the record behind which it would go on is no more."""
    path, old = tmp_path / "vm.db", tmp_path / "old.db"
    anyio.run(begin, path, "b")
    for suffix in ("", "-head"):
        shutil.copy(f"{path}{suffix}", f"{old}{suffix}")
    for name in ("net0", "net1"):
        anyio.run(create, path, "b", name)
    for number in range(grown):
        anyio.run(create, old, "b", f"disk{number}")

    def replaced() -> bool:
        """In the moment in which the command waits; the second time it has gone on, and is ended."""
        if not old.exists():
            return True
        for suffix in ("-head", ""):
            Path(f"{old}{suffix}").replace(f"{path}{suffix}")
        return False

    monkeypatch.setattr("esrm.cli.tail._nobody_reads", replaced)
    answer = ask("--store", path, "tail", "-f", "--jsonl", "--after", str(after), *whose)
    assert (answer.code, positions(answer.out)) == (3, list(range(after + 1, 4)))
    assert "position 3 is not the record any more that was read there" in answer.err


def next_event(process: subprocess.Popen[str]) -> str:
    """The type of the next record on a process's output, which must come soon."""
    assert process.stdout
    assert select.select([process.stdout], [], [], 20)[0], "nothing came"
    return json.loads(process.stdout.readline())["event"]["type"]


@pytest.mark.parametrize("vm", ["a", "b"])
def test_tail_goes_on_behind_a_position(ask: Ask, tmp_path: Path, vm: str) -> None:
    """Wherever it was left, what it gives and what came before are the log: none missed, none twice; so of one VM."""
    path = tmp_path / "vm.db"
    for owner in ("a", "b"):
        anyio.run(begin, path, owner)
    for name in ("net0", "net1", "net2"):
        for owner in ("a", "b"):
            anyio.run(create, path, owner, name)
    for whose in ([], ["--vm", vm]):
        whole = positions(ask("--store", str(path), "tail", "--jsonl", "-n", "100", *whose).out)
        assert whole
        for after in range(9):
            behind = ask("--store", str(path), "tail", "--jsonl", "--after", str(after), *whose)
            assert (behind.code, positions(behind.out)) == (0, [position for position in whole if position > after])


def positions(lines: str) -> list[int]:
    """Where in the store these records stand."""
    return [json.loads(line)["position"] for line in lines.splitlines()]


def test_tail_after_shows_all_not_the_last_ten(ask: Ask, monkeypatch: pytest.MonkeyPatch) -> None:
    """How many they are is the position's affair: -n beside it is refused, and only a default in the environment."""
    monkeypatch.setenv("ESRM_TAIL_LIMIT", "5")
    assert positions(ask("tail", "--after", "0", "--jsonl").out) == list(range(1, HEAD + 2))
    answer = ask("tail", "--after", "0", "-n", "10")
    assert (answer.code, answer.out) == (2, "")
    assert "choose one" in answer.err


@pytest.mark.parametrize("whose", [[], ["--vm", "web-1"]])
def test_tail_after_a_position_that_never_was(ask: Ask, whose: list[str]) -> None:
    """Who had more records than there are has another log before them: waiting would pass over what is written now."""
    answer = ask("tail", "--after", "26", *whose)
    assert (answer.code, answer.out) == (2, "")
    assert "ends at position 25; there is no 26 yet: has an older copy taken the log's place?" in answer.err
    assert ask("tail", "--after", "25", *whose) == (0, "", "")


def test_tail_of_a_vm_that_is_not_there(ask: Ask) -> None:
    """It is said, with the names there are, rather than followed for ever."""
    for how in (["--after", "3"], ["-n", "3"]):
        assert "no VM 'web-2' in this store" in ask("tail", "--vm", "web-2", *how).err


def test_tail_f_is_no_document(ask: Ask) -> None:
    """What has no end is no JSON array; the message says what to use."""
    answer = ask("tail", "-f", "--json")
    assert (answer.code, answer.out) == (2, "")
    assert "--jsonl" in answer.err


async def create(path: Path, vm: str, device: str) -> None:
    """One record more."""
    async with open_store(f"sqlite:{path}") as store, ResourceManager(store, vm=vm) as manager:
        await manager.create(device)


def test_following_does_not_wait_when_nobody_reads(tmp_path: Path) -> None:
    """A record that nobody wants any more is the last, and nothing is said."""
    path = tmp_path / "vm.db"
    anyio.run(begin, path, "b")
    reading, writing = os.pipe()
    os.close(reading)
    with os.fdopen(writing, "w") as nobody:
        done = subprocess.run(
            [sys.executable, "-m", "esrm", "--store", str(path), "tail", "-f"],
            stdout=nobody, stderr=subprocess.PIPE, timeout=20, check=False,
        )  # fmt: skip
    assert (done.returncode, done.stderr) == (-signal.SIGPIPE, b"")


def test_following_ends_when_the_reader_has_gone(tmp_path: Path) -> None:
    """``tail -f | head -1`` ends also if nothing is ever written again."""
    path = tmp_path / "vm.db"
    anyio.run(begin, path, "b")
    command = [sys.executable, "-m", "esrm", "--store", str(path), "tail", "-f", "--after", "0", "--jsonl"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        try:
            assert next_event(process) == "VmCreated"
            assert process.stdout
            assert process.stderr
            process.stdout.close()
            assert process.wait(20) == -signal.SIGPIPE
            assert process.stderr.read() == ""
        finally:
            process.kill()
