"""The document that the page is made of: what was held, from which revision to which."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from cli_story import HEAD

from esrm.cli.document import build
from esrm.cli.page import render
from esrm.core.resources import Space
from esrm.history import Past
from esrm.opening import open_reader


@pytest.fixture
def document(story: Path) -> Any:
    """The story's."""
    with open_reader(f"sqlite:{story}") as reader:
        return build(Past(reader, "web-1"))


def test_every_event_is_a_moment(document: Any) -> None:
    """With its words; refusals are marked; what is about several devices names the first."""
    moments = document["moments"]
    assert [moment["revision"] for moment in moments] == list(range(HEAD + 1))
    assert [moment["revision"] for moment in moments if moment["refused"]] == [18, 24]
    assert moments[0]["device"] is None
    assert moments[22] == {
        "revision": 22,
        "time": "2026-11-22T07:00:22.000000000Z",
        "type": "ResourcesMoved",
        "device": "net0",
        "actor": "guest",
        "summary": "net0: mmio 0xc0001000-0xc0001fff -> mmio 0xc0002000-0xc0002fff",
        "refused": False,
    }


def test_a_move_ends_one_holding_and_begins_another(document: Any) -> None:
    """The line that did not move is held on; each names the revision that gave it."""
    net0 = [entry for entry in document["holdings"] if entry["device"] == "net0"]
    assert [(entry["space"], entry["first"], entry["from"], entry["to"]) for entry in net0] == [
        ("mmio", "0xc0001000", 3, 22),
        ("legacy_irq", "0x5", 3, None),
        ("mmio", "0xc0002000", 22, None),
    ]
    assert all(entry["allocated_by"] == entry["from"] and entry["kind"] == "virtio-net" for entry in net0)


def test_holdings_agree_with_replay(document: Any, story: Path) -> None:
    """At every revision, what the document says is held is what the state at that revision holds."""
    with open_reader(f"sqlite:{story}") as reader:
        past = Past(reader, "web-1")
        for revision in range(HEAD + 1):
            state = past.at(revision)
            held = {
                (h.space.value, hex(h.first), hex(h.last), h.owner)
                for s in Space
                for h in state.holders(s, 0, s.last)
                if not h.reserved
            }
            drawn = {
                (entry["space"], entry["first"], entry["last"], entry["device"])
                for entry in document["holdings"]
                if entry["from"] <= revision and (entry["to"] is None or revision < entry["to"])
            }
            assert drawn == held, revision


def test_the_page_takes_it(document: Any) -> None:
    """And the same log gives the same page."""
    assert render(document) == render(document)
    assert document["generated"] == document["moments"][-1]["time"]
    assert [space["name"] for space in document["spaces"]] == [space.value for space in Space]
