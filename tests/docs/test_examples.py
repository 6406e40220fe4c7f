"""Every example in README.md and docs/ runs, and prints what the page says.

A page is read from top to bottom, in a folder of its own that is empty at first:

- ``python`` runs here, and each block sees the names of those before it; one whose first line is a comment with a
  file's name (``# boot.py``) is saved under that name instead, and so is ``toml``;
- ``console``: what stands behind ``$`` runs in a shell if it begins with ``esrm``, ``python`` or ``export``; what
  stands below a command is what it prints, but a session that shows no output at all may print what it likes;
- ``sql`` is asked of the page's ``vm.db`` through the standard library's ``sqlite3``;
- ``text`` right behind ``python`` or ``sql`` is what that prints. Whatever prints must have one.

In all that is printed ``...`` stands for anything: times, ids, hashes.
"""

from __future__ import annotations

import contextlib
import io
import os
import re
import sqlite3
import subprocess
import sys
from doctest import ELLIPSIS, OutputChecker
from pathlib import Path

import pytest
from sybil import Example, Sybil
from sybil.parsers.markdown import CodeBlockParser

ROOT = Path(__file__).parent.parent.parent
GENERATED = {"cli.md", "lifecycle.md"}
PAGES = [ROOT / "README.md", ROOT / "schemas" / "README.md"]
PAGES += [page for page in sorted((ROOT / "docs").glob("*.md")) if page.name not in GENERATED]
RUNS = ("esrm ", "python ", "export ")


class Reading:
    """One page, as far as it has been read: what the last block printed, and the shell's environment."""

    def __init__(self, folder: Path) -> None:
        self.printed: str | None = None
        self.environment = {**os.environ, "PATH": f"{_commands(folder)}:{os.environ['PATH']}", "COLUMNS": "100"}
        self.environment |= {"PYTHONPATH": str(ROOT), "NO_COLOR": "1", "PYTHONDONTWRITEBYTECODE": ""}

    def parsers(self) -> list[CodeBlockParser]:
        """What to do with a block, by its language."""
        blocks = {"python": self.python, "toml": self.save, "console": self.console, "sql": self.sql, "text": self.text}
        return [CodeBlockParser(language, evaluator) for language, evaluator in blocks.items()]

    def python(self, example: Example) -> str | None:
        """Run a block, or save it."""
        if re.match(r"# \S+\.py\n", example.parsed):
            return self.save(example)
        self.finish()
        code = compile("\n" * example.line + example.parsed, example.path, "exec")
        with contextlib.redirect_stdout(io.StringIO()) as out:
            exec(code, example.namespace)
        self.printed = out.getvalue()
        return None

    def save(self, example: Example) -> None:
        """Save a block under the name in its first line."""
        self.finish()
        Path(example.parsed.split()[1]).write_text(example.parsed)

    def sql(self, example: Example) -> None:
        """Ask the page's log, without esrm."""
        self.finish()
        with contextlib.closing(sqlite3.connect("file:vm.db?mode=ro", uri=True)) as connection:
            rows = connection.execute(example.parsed).fetchall()
        self.printed = "".join("|".join("" if cell is None else str(cell) for cell in row) + "\n" for row in rows)

    def text(self, example: Example) -> str | None:
        """Compare with what the block before printed; a text that stands alone is only a text."""
        printed, self.printed = self.printed, None
        return None if printed is None else _difference(example.parsed, printed)

    def console(self, example: Example) -> str | None:
        """Run a session."""
        self.finish()
        session = re.findall(r"^\$ (.*)\n((?:(?!\$ ).*\n)*)", example.parsed, re.MULTILINE)
        shown = any(output for _, output in session)
        for command, output in session:
            if command.startswith("export "):
                name, _, value = command.removeprefix("export ").partition("=")
                self.environment[name] = value
            elif command.startswith(RUNS):
                done = subprocess.run(
                    ["sh", "-c", command], env=self.environment, text=True, timeout=60,
                    stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
                )  # fmt: skip
                different = _difference(output, done.stdout) if shown else None
                if different or (not shown and (done.returncode > 1 or "Traceback" in done.stdout)):
                    return f"$ {command}\n{different or done.stdout}"
        return None

    def finish(self) -> None:
        """Nothing may be printed that the page does not show."""
        printed, self.printed = self.printed, None
        assert not printed, f"the page does not show that this is printed:\n{printed}"


def _commands(folder: Path) -> Path:
    """A folder with ``esrm`` and ``python`` as they are here."""
    folder.mkdir()
    for name, run in {"esrm": "-m esrm", "python": ""}.items():
        (folder / name).write_text(f'#!/bin/sh\nexec "{sys.executable}" {run} "$@"\n')
        (folder / name).chmod(0o755)
    return folder


def _difference(want: str, got: str) -> str | None:
    want, got = (re.sub(r"[ \t]+$", "", text, flags=re.MULTILINE) for text in (want, got))
    if OutputChecker().check_output(want, got, ELLIPSIS):
        return None
    return f"--- the page says\n{want}--- it prints\n{got}"


def read(page: Path, bin: Path) -> None:
    """From the first block to the last."""
    reading = Reading(bin)
    for example in Sybil(reading.parsers()).parse(page).examples():
        example.evaluate()
    reading.finish()


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_examples(page: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """A reader who follows the page from top to bottom sees what it says."""
    here = tmp_path / "here"
    here.mkdir()
    monkeypatch.chdir(here)
    read(page, tmp_path / "bin")


@pytest.mark.parametrize(
    "wrong",
    [
        "```python\nprint(1)\n```\n```text\n2\n```\n",
        "```python\nprint(1)\n```\n",
        "```console\n$ python -c 'print(1)'\n2\n```\n",
        "```console\n$ esrm --store nowhere.db log\n```\n",
    ],
    ids=["another print", "a print that is not shown", "another output", "a command that fails"],
)
def test_a_wrong_page_is_seen(wrong: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """The reader is not blind: a page that says something else fails."""
    monkeypatch.chdir(tmp_path)
    page = tmp_path / "page.md"
    page.write_text(wrong)
    with pytest.raises(AssertionError, match=r"the page|does not exist"):
        read(page, tmp_path / "bin")
