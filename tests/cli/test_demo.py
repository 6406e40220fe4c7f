"""``esrm demo``, from the first step to the page."""

from __future__ import annotations

import json
import re
from pathlib import Path

import anyio
import pytest
from cli_story import Ask, begin

from esrm.core.lifecycle import Phase
from esrm.history import Past
from esrm.opening import open_reader


@pytest.fixture
def places(tmp_path: Path) -> list[str]:
    """Where the demo shall write."""
    return ["--store", str(tmp_path / "d.db"), "--page", str(tmp_path / "d.html")]


def test_the_whole_demo(ask: Ask, places: list[str], tmp_path: Path) -> None:
    """A refusal with its reason, a crash that is survived, the log's own answers, and a page; and it is all true."""
    answer = ask("demo", *places, "--fast")
    assert (answer.code, answer.err) == (0, "")
    told = answer.out
    assert [*re.findall(r"^== \d+\. (.*) ==$", told, re.MULTILINE)] == [
        "Boot",
        "Hot-plug, until one does not fit",
        "Unplug: the guest has a say",
        "Crash between two steps",
        "Open the log again",
        "What happened?",
        "Now you",
    ]
    assert "serial0 has got b'hello'" in told
    assert "refused: no 0x8000 of mmio aligned to 0x8000" in told
    assert "releasing usb0 (0xc0018000-0xc001bfff) would do" in told
    assert "killed by signal 9" in told
    assert "the log says  rng0 [virtio-rng] allocated: mmio 0xc0003000-0xc0003fff, irq 7" in told
    assert "and now       rng0 [virtio-rng] registered: mmio 0xc0003000-0xc0003fff, irq 7" in told
    assert "11 devices attached, 2 new records" in told
    assert told.count("$ esrm map") == 3
    assert "CORRUPT" not in told
    with open_reader(f"sqlite:{tmp_path / 'd.db'}") as reader:
        past = Past(reader, "demo")
        assert past.at().device("rng0").phase is Phase.REGISTERED
        assert [type(record.event).__name__ for record in past.timeline("rng0")] == [
            "DeviceCreated",
            "ConstraintsDeclared",
            "ResourcesAllocated",
            "ResourcesAssigned",
            "DeviceRegistered",
        ]
    assert "rng0" in (tmp_path / "d.html").read_text(encoding="utf-8")


def test_what_it_suggests_works(ask: Ask, places: list[str], tmp_path: Path) -> None:
    """Every command of the last act does what it says, on the file that it names."""
    told = ask("demo", *places).out
    suggested = [line.split()[1:] for line in told.partition("Now you")[2].splitlines() if line.startswith("  esrm ")]
    assert len(suggested) >= 5
    for arguments in suggested:
        answer = ask("--store", str(tmp_path / "d.db"), *arguments)
        assert (answer.code, answer.err) == (0, ""), arguments
        assert answer.out


def test_an_earlier_demo_is_replaced(ask: Ask, places: list[str]) -> None:
    """A second one starts afresh, with the page, too: one VM, the same revisions."""
    counts: list[int] = []
    for _ in range(2):
        assert ask("demo", *places).code == 0
        [vm] = json.loads(ask("vms", "--json", "--store", places[1]).out)
        counts.append(vm["revision"])
    assert counts[0] == counts[1]


def test_the_groups_store_is_the_demos(ask: Ask, places: list[str], tmp_path: Path) -> None:
    """As with any command: what the line says before its name."""
    answer = ask("--store", str(tmp_path / "mine.db"), "demo", *places[2:], "--fast")
    assert answer.code == 0
    assert ask("--store", str(tmp_path / "mine.db"), "vms").out.splitlines()[1].startswith("demo")


def test_the_log_in_the_environment_is_not_the_demos(
    ask: Ask, places: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """That is where somebody works: the demo makes a log of its own."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("ESRM_STORE", str(tmp_path / "work.db"))
    assert ask("demo", *places[2:], "--fast").code == 0
    assert (tmp_path / "esrm-demo.db").exists()
    assert not (tmp_path / "work.db").exists()


@pytest.mark.parametrize("line", [["demo", "--store", "memory:"], ["--store", "memory:", "demo"]])
def test_the_demo_needs_a_file(ask: Ask, line: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What one process has in its memory does not outlive it; and nothing is made that is called so."""
    monkeypatch.chdir(tmp_path)
    answer = ask(*line)
    assert (answer.code, answer.out) == (2, "")
    assert "'memory:' is no file" in answer.err
    assert not list(tmp_path.iterdir())


def test_a_step_that_fails_ends_the_demo(ask: Ask, places: list[str], tmp_path: Path) -> None:
    """Its own sentence, and whose it was; no advice to open a page that is not there."""
    answer = ask("demo", *places[:2], "--page", str(tmp_path / "no" / "x.html"), "--fast")
    assert answer.code == 2
    assert "No such file or directory" in answer.err
    assert answer.err.endswith("esrm: the demo ends here, since `esrm page` failed\n")
    assert "Now you" not in answer.out


def test_nothing_but_a_demo_is_ever_replaced(ask: Ask, places: list[str], tmp_path: Path) -> None:
    """Another log, or another file, stays as it is; the message says to choose another place."""
    path = tmp_path / "d.db"
    path.write_text("my notes")
    answer = ask("demo", *places)
    assert answer.code == 2
    assert "is no demo's log: choose another file with --store" in answer.err
    assert path.read_text() == "my notes"
    path.unlink()
    anyio.run(begin, path, "mine")
    assert ask("demo", *places).code == 2
    assert ask("--store", str(path), "vms").out.splitlines()[1].startswith("mine")
