"""The mutation tester: what it changes, what it leaves alone, and that its lists are of this code."""

from __future__ import annotations

import ast
import subprocess
import sys
import tomllib
from hashlib import sha256
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[2]
sys.path.insert(0, str(ROOT / "tools"))
mutate = import_module("mutate")
CONFIGURATION = tomllib.loads((ROOT / "tools" / "mutants.toml").read_text("utf-8"))


def changes(source: str) -> list[str]:
    """Every change that is made of a piece of code, in order."""
    surgeon = mutate.Surgeon()
    surgeon.visit(ast.parse(source))
    return [change for _, change in surgeon.changes]


@pytest.mark.parametrize(
    ("source", "expected"),
    [
        ("x = a < b", ["a < b -> a <= b"]),
        ("x = a <= b != c", ["a <= b != c -> a < b != c", "a <= b != c -> a <= b == c"]),
        ("x = a + 1", ["a + 1 -> a - 1", "1 -> 2"]),
        ("x = a and not b", ["a and (not b) -> a or not b", "not b -> b"]),
        ("x = True", ["True -> False"]),
        ("x.y = z", ["x.y = z -> pass"]),
        ("x += y", ["x += y -> x -= y", "x += y -> pass"]),
        ("f(x)", ["f(x) -> pass"]),
        ("if f(x):\n    raise e", ["if f(x) -> if not (f(x))", "raise e -> pass"]),
        ("x = [a for a in b if c]", ["if c -> (no if)"]),
        ("def f():\n    return x", ["return x -> return None"]),
        ("for a in b:\n    break", ["break -> continue"]),
        ('x = "SELECT a FROM b WHERE c > ? ORDER BY d DESC"', [" >  ->  >= ", " DESC -> "]),
    ],
)
def test_what_is_changed(source: str, expected: list[str]) -> None:
    """Comparisons, sums, conditions, numbers, truth values, statements that do something, and SQL."""
    assert changes(source) == expected


@pytest.mark.parametrize(
    "source",
    ["assert a < 1", "def f(a: 1 < 2) -> 3: pass", "X: TypeAlias = A | B", '"""2 words, WHERE SELECT."""',
     'x = "words"', 'x = f"{a + 1}"',
     "if TYPE_CHECKING:\n    import a", "class A(B, gc=False): pass", "f = g(strict=True)"],
)  # fmt: skip
def test_what_is_left_alone(source: str) -> None:
    """Assertions, types and words: no test could or should notice."""
    assert changes(source) == []


def test_one_mutant_is_changed_in_one_place() -> None:
    """The n-th mutant is the module with the n-th change, and nothing else."""
    change = "return _sha256(b'\\x00' + data).digest() -> return None"
    [mutant] = [mutant for mutant in mutate.mutants_of("esrm/proofs/merkle.py") if mutant.change == change]
    found: dict[str, Any] = {"__name__": "mutant"}
    exec(mutate.code_of(mutant), found)
    assert found["leaf_hash"](b"") is None
    assert found["node_hash"](b"", b"") == sha256(b"\1").digest()


def test_a_run_tells_its_score() -> None:
    """Two mutants of the table of lives, tried by its tests: nothing of it can be changed unnoticed."""
    command = [sys.executable, ROOT / "tools" / "mutate.py", "core/lifecycle", "--sample", "2", "--jobs", "1"]
    done = subprocess.run(command, capture_output=True, text=True)
    assert "2 mutants tried" in done.stdout, done.stdout + done.stderr
    assert "100.0% of    2  core" in done.stdout
    assert done.returncode == 0


def test_the_lists_are_of_this_code() -> None:
    """Every module and test file is there, and every mutant that is called equivalent can still be made."""
    groups = CONFIGURATION["group"]
    tests = {file: names for modules in groups.values() for file, names in modules.items()}
    for path in [*tests, *(name for names in tests.values() for name in names)]:
        assert (ROOT / path).is_file(), path
    for known in CONFIGURATION["equivalent"]:
        made = [(mutate.source_line(mutant), mutant.change) for mutant in mutate.mutants_of(known["file"])]
        assert (known["line"], known["change"]) in made, known
        assert known["why"]
