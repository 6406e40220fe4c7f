"""The benchmark tool runs. How fast anything is, is never asserted here: `make bench CHECK=1` does that."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
ROWS = (
    "replay", "layout", "blame", "append", "many", "bulk", "attach", "fan-out", "allocate", "bus", "memory",
    "log-size", "import",
)  # fmt: skip


def bench(*arguments: str) -> subprocess.CompletedProcess[str]:
    """Run the tool."""
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    command = [sys.executable, str(ROOT / "tools" / "bench.py"), *arguments]
    return subprocess.run(command, capture_output=True, text=True, env=environment, check=False)


def test_every_row_runs_and_is_told(tmp_path: Path) -> None:
    """At the smallest scale each row of the issue's table gives figures, and the page says on what it was measured."""
    done = bench("--scale", "smoke", "--dir", str(tmp_path))
    assert done.returncode == 0, done.stderr
    sections = re.findall(r"^## (\S+)\n", done.stdout, re.MULTILINE)
    assert sections == list(ROWS)
    for section in done.stdout.split("\n## ")[1:-1]:
        assert "| figure | value | goal | met |" in section
        assert "FAILED" not in section
        assert re.search(r"^\| .+ \| [\d.,]+ ?\S* \|", section, re.MULTILINE), section
    assert all(len(line) <= 120 for line in done.stdout.splitlines() if not line.startswith("|"))
    assert "SQLite 3." in done.stdout
    assert "SCALE=smoke" in done.stdout
    assert list(tmp_path.iterdir()) == []  # what it measured on is gone


def test_some_rows_may_be_asked_for(tmp_path: Path) -> None:
    """``--rows`` runs those only; one that is not there is refused with those that are."""
    done = bench("--scale", "smoke", "--dir", str(tmp_path), "--rows", "bus")
    assert "## bus" in done.stdout
    assert "## replay" not in done.stdout
    refused = bench("--rows", "bos")
    assert refused.returncode == 2
    assert "no row 'bos'; there are replay" in refused.stderr


@pytest.mark.parametrize(("value", "met"), [(2.0, True), (1.9, False)])
def test_a_goal_is_judged(value: float, met: bool) -> None:
    """A figure at its bound meets it, one beyond does not, and one without a bound is only reported."""
    sys.path.insert(0, str(ROOT / "tools"))
    try:
        from benchmarks.measure import Figure, Growth
    finally:
        sys.path.pop(0)
    assert Figure("speed", value, at_least=2.0).met is met
    assert Figure("speed", value).met is None
    assert Growth("cost", {10: 1.0, 100: 10.0, 1000: 100.0}).slope == pytest.approx(1.0)
    assert Growth("cost", {10: 5.0, 100: 5.0}).slope == pytest.approx(0.0)
    assert Growth("cost", {10: 5.0}).slope is None
