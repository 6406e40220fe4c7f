"""What the pages say about the code and about one another is so."""

from __future__ import annotations

import importlib
import os
import re
import runpy
import subprocess
import sys
import tomllib
from functools import reduce
from pathlib import Path
from typing import Any, get_args

import pytest

import esrm
from esrm.core.events import Event
from esrm.core.lifecycle import TRANSITIONS, Phase

ROOT = Path(__file__).parent.parent.parent
DOCS = ROOT / "docs"
PAGES = [*sorted(ROOT.glob("*.md")), *sorted(DOCS.glob("*.md")), *sorted((ROOT / "schemas").glob("*.md"))]
BLOCK = re.compile(r"^```.*?^```$", re.MULTILINE | re.DOTALL)


def name(page: Path) -> str:
    """The page's path in the repository."""
    return str(page.relative_to(ROOT))


def anchors(page: Path) -> set[str]:
    """What a link into the page may name: its headings, spelled as GitHub does."""
    headings = re.findall(r"^#+ (.*)$", BLOCK.sub("", page.read_text()), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("page", PAGES, ids=name)
def test_links_lead_somewhere(page: Path):
    """Every link to another file of ours leads to one, and to a heading in it."""
    for link in re.findall(r"\]\(([^)\s]+)\)", BLOCK.sub("", page.read_text())):
        if "://" in link:
            continue
        path, _, anchor = link.partition("#")
        target = (page.parent / path).resolve() if path else page
        assert target.exists(), f"{name(page)} links to {link}"
        assert not anchor or anchor in anchors(target), f"{name(page)} links to {link}; there are {anchors(target)}"


@pytest.mark.parametrize("page", PAGES, ids=name)
def test_pages_are_plain(page: Path):
    """No page is wider than the code, nor names the place where it was written."""
    text = page.read_text()
    wide = [line for line in BLOCK.sub("", text).splitlines() if len(line) > 120 and not line.startswith("|")]
    assert not wide
    assert not re.search(r"/work/|/root/|/tmp/", text)


def test_every_page_is_in_the_readme():
    """From the README one finds every page."""
    readme = (ROOT / "README.md").read_text()
    assert [page.name for page in DOCS.glob("*.md") if f"(docs/{page.name})" not in readme] == []


def test_the_readme_names_the_extras():
    """Who installs as it says can do all that it shows; there is no other extra that a user of esrm needs."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    [named] = re.findall(r"pip install '\.\[(.*?)\]'", (ROOT / "README.md").read_text())
    unneeded = {"bench"}  # for `make bench`
    assert set(named.split(",")) == project["optional-dependencies"].keys() - unneeded


def test_a_window_smaller_than_the_size_is_refused_by_allocate_alone():
    """As docs/concepts.md says: the constraint can be built, since logs hold such, and finds no place."""
    assert "a window smaller than the size is `NoSpace` only then" in (DOCS / "concepts.md").read_text()
    state = esrm.replay([esrm.VmCreated(esrm.platforms.get("x86_64"))])
    [placement] = esrm.decide.plan(state, [("net0", [esrm.MmioConstraint(0x1000, (0, 10))])]).placements
    assert "no 0x1000 of mmio aligned to 0x1000 in 0x0-0xa" in str(placement)


def test_the_readmes_refusal_is_real():
    """The refusal that the README shows is what esrm says about such a layout, to the letter."""
    platform = esrm.Platform("pc", pools={esrm.Space.MMIO: [(0xD000_0000, 0xDFFF_FFFF)]})
    held = {
        "blk0": (0xD000_0000, 0x2000), "blk5": (0xD000_2000, 0x2000), "blk1": (0xD000_4000, 0x4000),
        "blk2": (0xD000_A000, 0x2000), "blk3": (0xD000_E000, 0x2000), "blk4": (0xD001_2000, 0xFFE_E000),
    }  # fmt: skip
    history: list[Event] = [esrm.VmCreated(platform)]
    for device, range in held.items():
        history += [esrm.DeviceCreated(device), esrm.ConstraintsDeclared(device)]
        history += [esrm.ResourcesAllocated(device, (esrm.MmioAddressRange(*range),))]
    [placement] = esrm.decide.plan(
        esrm.replay(history), [("blk7", [esrm.MmioConstraint(0x4000, align=0x4000)])]
    ).placements
    assert f"NoSpace: {placement}\n" in (ROOT / "README.md").read_text()


def test_generated_pages_are_current():
    """What is written from the code says what the code says; the check says which page does not."""
    done = subprocess.run(
        [sys.executable, "tools/docs.py", "--check"],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
    )
    assert (done.returncode, done.stderr) == (0, "")


def test_the_check_sees_a_stale_page(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    """A page that somebody edited fails the check, and is mended by a run without it."""
    tool = runpy.run_path(str(ROOT / "tools" / "docs.py"), run_name="docs")
    monkeypatch.setitem(tool["main"].__globals__, "FOLDER", tmp_path)
    (tmp_path / "cli.md").write_text("edited")
    assert tool["main"](["--check"]) == 1
    assert "docs/cli.md is not what tools/docs.py writes" in capsys.readouterr().err
    assert tool["main"]([]) == 0
    assert tool["main"](["--check"]) == 0


def test_the_lifecycle_page_shows_the_whole_table():
    """Nothing of the table is left out of the picture."""
    page = (DOCS / "lifecycle.md").read_text()
    assert page.count(" --> ") == len(TRANSITIONS)
    for event in get_args(Event):
        assert event.__name__ in page or event is esrm.VmCreated
    assert all(f"`{phase.value}`" in page or f" {phase.value}" in page for phase in Phase)


def sections() -> list[str]:
    """The parts of one-event.md, without what stands before the first."""
    return (DOCS / "one-event.md").read_text().split("\n## ")[1:]


@pytest.mark.parametrize("section", sections(), ids=lambda section: section.split("`")[1])
def test_what_one_event_names_exists(section: str):
    """A reader who opens the files beside the page finds every function that it names."""
    modules = [importlib.import_module(path.replace("/", ".")) for path in re.findall(r"`(esrm/[\w/]+)\.py`", section)]
    functions = re.findall(r"`([\w.]+)\(\)`", section)
    assert functions
    for function in functions:
        assert any(found(module, function) for module in modules), f"{function} is in none of {modules}"


def found(module: Any, path: str) -> bool:
    """Whether a module has a function, or a class with a method, of that name."""
    missing = object()
    value = reduce(lambda owner, part: getattr(owner, part, missing), path.split("."), module)
    return callable(value)


def test_the_wire_form_lists_every_event():
    """The table of events in schemas/README.md is the code's, field by field."""
    table = re.findall(r"^\| `(\w+)` \| (.*) \|$", (ROOT / "schemas" / "README.md").read_text(), re.MULTILINE)
    listed = {event: re.findall(r"`(\w+)`", fields) for event, fields in table}
    assert listed == {event.__name__: list(event.__struct_fields__) for event in get_args(Event)}


def test_the_glossary_is_sorted():
    """A word is found where one looks for it, once."""
    words = [word.lower() for word in re.findall(r"^\*\*(.+?)\*\*", (DOCS / "glossary.md").read_text(), re.MULTILINE)]
    assert words == sorted(set(words))
    assert len(words) > 30
