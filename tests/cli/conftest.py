"""A log that every command is asked about (``cli_story.py``), and a way to ask, in this process."""

from __future__ import annotations

import os
from pathlib import Path

import anyio
import pytest
from cli_story import Answer, Ask, tell

from esrm import cli


@pytest.fixture(scope="session")
def story(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The log of web-1."""
    path = tmp_path_factory.mktemp("story") / "vm.db"
    anyio.run(tell, path)
    return path


@pytest.fixture(autouse=True)
def nothing_set(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever the tester's own shell says about esrm and colours, these tests have not heard of it."""
    for name in [name for name in os.environ if name.startswith("ESRM_") or name == "NO_COLOR"]:
        monkeypatch.delenv(name)


@pytest.fixture
def ask(story: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Ask:
    """Run a command line on the story (or on another store, when the environment or the line says so)."""
    monkeypatch.setenv("ESRM_STORE", str(story))

    def run(*arguments: str) -> Answer:
        capsys.readouterr()
        code = cli.run([str(argument) for argument in arguments])
        return Answer(code, *capsys.readouterr())

    return run
