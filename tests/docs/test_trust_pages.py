"""What the pages about trust say of tests and commands is so: each that they name exists, and none is forgotten."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent.parent
PAGES = ["docs/durability.md", "docs/threat-model.md", "TRACK_RECORD.md"]
FUNCTIONS = (ast.FunctionDef, ast.AsyncFunctionDef)
NAMED = re.compile(r"(tests/[\w/]+\.py)(?:::(\w+))?")


def rows(page: str) -> list[list[str]]:
    """The cells of every row of every table, without the head rows."""
    found: list[list[str]] = []
    for table in re.findall(r"(?:^\|.*\n)+", (ROOT / page).read_text(), re.MULTILINE):
        lines = table.splitlines()
        found += [[cell.strip() for cell in line.strip("|").split("|")] for line in lines[2:]]
    return found


def named(text: str) -> list[tuple[str, str]]:
    """The tests that a text names: a file, and a function in it or nothing."""
    return NAMED.findall(text)


def missing(text: str) -> list[str]:
    """What a text names that is not there."""
    gone: list[str] = []
    for file, function in named(text):
        path = ROOT / file
        source = path.read_text() if path.exists() else ""
        if not source or (function and not re.search(rf"^(?:async )?def {function}\(", source, re.MULTILINE)):
            gone.append(f"{file}::{function}")
    return gone


@pytest.mark.parametrize("page", PAGES)
def test_every_test_that_is_named_exists(page: str) -> None:
    """File and function; whoever renames one renames it here."""
    text = (ROOT / page).read_text()
    assert named(text)
    assert missing(text) == []


def test_a_wrong_name_is_seen() -> None:
    """A file that is not there, and a function that is in another file."""
    here = "tests/docs/test_trust_pages.py"
    assert missing(f"`{here}::test_a_wrong_name_is_seen` and `tests/docs/test_pages.py`") == []
    assert missing(f"`{here}::test_nothing`, `tests/nowhere.py`") == [f"{here}::test_nothing", "tests/nowhere.py::"]


def test_every_promise_has_a_test_and_a_command_that_runs_it() -> None:
    """``make`` knows the target, and its arguments hold the file; "the same" is the row above."""
    targets = re.findall(r"^(\w+):", (ROOT / "Makefile").read_text(), re.MULTILINE)
    promises = [row for row in rows("docs/durability.md") if len(row) == 3 and "tests/" in row[1]]
    assert len(promises) > 20
    command = ""
    for promise, tests, how in promises:
        command = command if how == "the same" else how
        target, arguments = re.fullmatch(r"`make (\w+) ARGS=(.*)`", command).groups()  # type: ignore[union-attr]
        assert target in targets, promise
        for file, _ in named(tests):
            assert any(file.startswith(argument) for argument in arguments.strip("'").split()), promise


def expected_to_fail(file: str, function: str) -> bool:
    """Whether a test, or any one in its file if none is named, is marked as one that fails."""
    tests = [node for node in ast.walk(ast.parse((ROOT / file).read_text())) if isinstance(node, FUNCTIONS)]
    marked = [node.name for node in tests if any(".xfail" in ast.unparse(mark) for mark in node.decorator_list)]
    return function in marked if function else bool(marked)


def test_a_promise_whose_test_fails_is_none() -> None:
    """While a test is expected to fail, its row says **not yet**; and no longer."""
    for promise, tests, _ in [row for row in rows("docs/durability.md") if len(row) == 3 and "tests/" in row[1]]:
        fails = any(expected_to_fail(file, function) for file, function in named(tests))
        assert fails == promise.startswith("**Not yet"), f"{promise}: {'not ' * (not fails)}expected to fail"


def test_an_expected_failure_is_seen(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """By its name, and by its file's."""
    (tmp_path / "test_x.py").write_text("@pytest.mark.xfail(strict=True)\ndef test_a(): ...\ndef test_b(): ...\n")
    monkeypatch.setattr("test_trust_pages.ROOT", tmp_path)
    assert [expected_to_fail("test_x.py", name) for name in ("test_a", "test_b", "")] == [True, False, True]


def test_no_trust_test_is_forgotten() -> None:
    """Every file of them stands behind a promise."""
    page = (ROOT / "docs" / "durability.md").read_text()
    assert [path.name for path in (ROOT / "tests" / "trust").glob("test_*.py") if f"/{path.name}" not in page] == []


def test_every_bug_has_its_test() -> None:
    """A row of the track record says what, and ends with the test that catches it."""
    bugs = rows("TRACK_RECORD.md")
    assert bugs
    for bug in bugs:
        assert all(bug), bug
        assert any(function for _, function in named(bug[-1])), bug
