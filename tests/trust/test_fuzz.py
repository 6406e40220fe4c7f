"""Whatever bytes come, the parsers answer or raise what they declare: ``fuzz/targets.py`` says who and what.

Each target gets its executions from two fuzzers. Where atheris is installed, coverage guides a part of them; the rest,
or all, are blind mutants of real inputs. A finding is kept as a file, and the failure says how to try it again.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path

import pytest
from fuzz import blind
from fuzz.targets import CONTROLS, TARGETS, Target
from scale import LEVEL, pick, repeat, seed

HERE = Path(__file__).parent
ATHERIS = find_spec("atheris") is not None
RUNS = pick(quick=3000, ci=1_000_000, soak=4_000_000)
GUIDED = pick(quick=0, ci=30_000, soak=1_500_000) if ATHERIS else 0
each = pytest.mark.parametrize("name", TARGETS)
ENVIRONMENT = {**os.environ, "PYTHONPATH": os.pathsep.join(path for path in sys.path if path)}

Tell = Callable[[str, object], None]


def found(name: str, path: Path, how: str) -> str:
    """What a failure says: where the input lies, how to try it alone, how to find it again."""
    test = f"tests/trust/test_fuzz.py::{how}[{name}]"
    return f"try it again: python tests/trust/fuzz {name} {path}\n{repeat(seed(), test)}"


def try_blind(name: str, target: Target, runs: int, folder: Path) -> int:
    """How many of so many blind mutants were understood; fails at the first finding."""
    try:
        return blind.attack(target, seed(), runs)
    except blind.Found as finding:
        path = folder / f"{name}.input"
        path.write_bytes(finding.data)
        how = "test_only_declared_exceptions_come_out"
        raise AssertionError(f"{name}: {finding.__cause__!r}\n{found(name, path, how)}") from finding.__cause__


def try_guided(name: str, runs: int, folder: Path) -> dict[str, int]:
    """How many inputs coverage guided, and how many of them were understood; fails at the first finding."""
    done = subprocess.run(
        [sys.executable, HERE / "fuzz" / "guided.py", name, str(runs), str(seed()), folder],
        capture_output=True,
        text=True,
        errors="replace",
        env=ENVIRONMENT,
    )
    inputs = [path for path in folder.glob("*-*") if path.is_file()]  # crash-, oom-, timeout- and a hash
    how = "test_coverage_guides_to_nothing_else"
    assert not inputs, f"{name}: {done.stdout[-3000:]}{found(name, inputs[0], how)}"
    assert done.returncode == 0, f"{done.stdout[-1000:]}{done.stderr[-3000:]}\n{repeat(seed(), how)}"
    return json.loads(done.stdout)


@each
@pytest.mark.timeout(1800)
def test_only_declared_exceptions_come_out(name: str, tmp_path: Path, record_property: Tell) -> None:
    """Mutants of real inputs; enough of them are understood, and enough refused, for both paths to be tried."""
    target, runs = TARGETS[name], RUNS - GUIDED
    understood = try_blind(name, target, runs, tmp_path)
    record_property("trust", f"fuzz {name}: {runs:,} blind executions, {understood / runs:.1%} understood")
    assert understood > len(target.seeds), "the mutants never get past the first check"
    assert runs - understood > runs // 100, "the mutants hardly change anything"


@each
@pytest.mark.timeout(1800)
@pytest.mark.skipif(not ATHERIS, reason="atheris is not installed: all executions are blind")
@pytest.mark.skipif(LEVEL == "quick", reason="make trust runs it; the control below runs in every test")
def test_coverage_guides_to_nothing_else(name: str, tmp_path: Path, record_property: Tell) -> None:
    """The same by coverage: inputs that reach new code are kept and changed further."""
    counts = try_guided(name, GUIDED, tmp_path)
    understood = counts["understood"]
    record_property(
        "trust", f"fuzz {name}: {GUIDED:,} executions guided by atheris, {understood / GUIDED:.1%} understood"
    )
    assert counts["runs"] == GUIDED
    assert understood > len(TARGETS[name].seeds), "it never gets past the first check"
    assert GUIDED - understood > GUIDED // 100, "it hardly changes anything"


def test_a_leak_is_found(tmp_path: Path) -> None:
    """The blind fuzzer finds what escapes msgspec when nobody wraps it, and names the command that tries it again."""
    with pytest.raises(AssertionError, match=r"Error(.|\n)*python tests/trust/fuzz leaky .*leaky\.input") as finding:
        try_blind("leaky", CONTROLS["leaky"], 20_000, tmp_path)
    assert isinstance(finding.value.__cause__, (UnicodeDecodeError, RecursionError))
    again = [sys.executable, HERE / "fuzz", "leaky", tmp_path / "leaky.input"]
    tried = subprocess.run(again, capture_output=True, text=True, env=ENVIRONMENT)
    assert tried.returncode == 1
    assert type(finding.value.__cause__).__name__ in tried.stderr


@pytest.mark.skipif(not ATHERIS, reason="atheris is not installed: all executions are blind")
def test_a_leak_is_found_by_coverage(tmp_path: Path) -> None:
    """The guided fuzzer finds it too, and what it found is the file that the failure names."""
    with pytest.raises(AssertionError, match=r"UnicodeDecodeError|RecursionError") as finding:
        try_guided("leaky", 50_000, tmp_path)
    [path] = tmp_path.glob("crash-*")
    assert f"python tests/trust/fuzz leaky {path}" in str(finding.value)
