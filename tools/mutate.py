"""Mutation testing: change one thing in a module, and see whether its tests notice.

``python tools/mutate.py --sample 200`` tries 200 mutants drawn by ``--seed``; without ``--sample`` all of them, which
takes hours. ``mutants.toml`` beside this file says which modules there are, which tests are to notice, and which
mutants are equivalent: nothing that they do differs. It prints each survivor (file, line, before -> after) and the
score, which is the share of the others that were noticed; the exit status is 1 if a group's is below ``--at-least``.

A mutant is tried in a forked child of a process that has imported pytest and all libraries, but nothing of esrm. The
tests run in the order of their durations, to the first failure. Words are left alone (messages, names, annotations),
and so are assertions; within SQL the comparisons are changed. Why not mutmut or cosmic-ray: neither draws a sample
with a seed nor changes what stands outside of functions (mutmut), or each mutant costs a new process that imports
everything, two seconds before the first test (cosmic-ray).
"""

from __future__ import annotations

import argparse
import ast
import importlib.abc
import importlib.machinery
import importlib.util
import json
import os
import random
import resource
import signal
import sys
import time
import tomllib
import traceback
from collections.abc import Iterator, Mapping, Sequence
from copy import copy
from functools import cache
from pathlib import Path
from types import CodeType, ModuleType
from typing import Any, NamedTuple, cast

import pytest

ROOT = Path(__file__).parents[1]
CONFIGURATION = Path(__file__).with_suffix("").with_name("mutants.toml")
CHILD_CPU_S = 20
"""A child may compute three times as long as its tests take, and so much longer; then it is in a loop, and noticed."""
BROKEN = 99
"""The exit status of a child whose failure is ours."""

COMPARISONS: dict[type[ast.cmpop], type[ast.cmpop]] = {
    ast.Lt: ast.LtE, ast.LtE: ast.Lt, ast.Gt: ast.GtE, ast.GtE: ast.Gt, ast.Eq: ast.NotEq, ast.NotEq: ast.Eq,
    ast.Is: ast.IsNot, ast.IsNot: ast.Is, ast.In: ast.NotIn, ast.NotIn: ast.In,
}  # fmt: skip
OPERATORS: dict[type[ast.operator], type[ast.operator]] = {
    ast.Add: ast.Sub, ast.Sub: ast.Add, ast.Mult: ast.FloorDiv, ast.FloorDiv: ast.Mult, ast.Mod: ast.FloorDiv,
    ast.LShift: ast.RShift, ast.RShift: ast.LShift, ast.BitAnd: ast.BitOr, ast.BitOr: ast.BitAnd, ast.BitXor: ast.BitOr,
}  # fmt: skip
SQL = (
    (" > ", " >= "), (" >= ", " > "), (" <= ", " < "), (" = ", " != "), (" AND ", " OR "), (" DESC", ""),
    ("max(", "min("),
)  # fmt: skip


class Mutant(NamedTuple):
    """The ``number``-th change that can be made in a file."""

    file: str
    number: int
    line: int
    change: str

    def __str__(self) -> str:
        return f"{self.file}:{self.line}: {self.change}"


# -- what is changed ---------------------------------------------------------------------------------------------------


class Surgeon:
    """Walks a module, lists every change that can be made, and makes the one whose number is ``wanted``."""

    def __init__(self, wanted: int = -1) -> None:
        self.wanted = wanted
        self.changes: list[tuple[int, str]] = []

    def visit(self, node: ast.AST) -> ast.AST:
        """The node itself, changed somewhere inside perhaps, or what stands in its place."""
        for before, after, changed in _alternatives(node):
            place = node.target if isinstance(node, ast.comprehension) else node
            self.changes.append((getattr(place, "lineno", 0), f"{before} -> {after}"))
            if len(self.changes) - 1 == self.wanted:
                return ast.fix_missing_locations(ast.copy_location(changed, node))
        for field, value in ast.iter_fields(node):
            if _is_words(node, field):
                continue
            if isinstance(value, ast.AST):
                setattr(node, field, self.visit(value))
            elif isinstance(value, list):
                items = cast("list[Any]", value)
                setattr(node, field, [self.visit(item) if isinstance(item, ast.AST) else item for item in items])
        return node


def _is_words(node: ast.AST, field: str) -> bool:
    """Whether a node's part says something to people or type checkers only, or is none of our business."""
    match node:
        case ast.Assert() | ast.JoinedStr():
            return True
        case ast.Expr(value=ast.Constant()):
            return True
        case ast.AnnAssign(annotation=ast.Name("TypeAlias")) | ast.If(test=ast.Name("TYPE_CHECKING")):
            return True
        case ast.ClassDef():
            return field not in ("body",)
        case ast.FunctionDef() | ast.AsyncFunctionDef():
            return field in ("returns", "decorator_list")
        case ast.keyword(arg="strict" | "gc"):  # an assertion of zip's; a hint for the garbage collector
            return True
        case ast.Call(func=ast.Name("cast" | "TypeVar" | "NewType")):
            return True
        case _:
            return field == "annotation"


def _alternatives(node: ast.AST) -> Iterator[tuple[str, str, ast.AST]]:
    """Each change of a node as it looked, as it looks, and the node in its place."""
    whole = "" if isinstance(node, ast.mod) else _shown(node)
    match node:
        case ast.Compare(ops=ops):
            for at, op in enumerate(ops):
                new = [*ops[:at], COMPARISONS[type(op)](), *ops[at + 1 :]]
                yield _changed(whole, ast.Compare(node.left, new, node.comparators))
        case ast.BinOp(op=op) if type(op) in OPERATORS:
            yield _changed(whole, ast.BinOp(node.left, OPERATORS[type(op)](), node.right))
        case ast.AugAssign(op=op):
            if type(op) in OPERATORS:
                yield _changed(whole, ast.AugAssign(node.target, OPERATORS[type(op)](), node.value))
            yield _changed(whole, ast.Pass())
        case ast.BoolOp(op=op):
            yield _changed(whole, ast.BoolOp(ast.Or() if isinstance(op, ast.And) else ast.And(), node.values))
        case ast.UnaryOp(op=ast.Not() | ast.USub() | ast.Invert()):
            yield _changed(whole, node.operand)
        case ast.Constant(value=bool(value)):
            yield _changed(whole, ast.Constant(not value))
        case ast.Constant(value=int(value)):
            yield _changed(whole, ast.Constant(value + 1))
        case ast.Constant(value=str(value)) if "SELECT" in value or "WHERE" in value or "PRAGMA" in value:
            for before, after in SQL:
                if before in value:
                    yield before, after, ast.Constant(value.replace(before, after, 1))
        case ast.If(test=test) | ast.While(test=test) | ast.IfExp(test=test) if (
            not isinstance(test, (ast.Compare, ast.UnaryOp, ast.Constant)) and _shown(test) != "TYPE_CHECKING"
        ):
            changed = copy(node)
            changed.test = ast.UnaryOp(ast.Not(), test)
            yield f"if {_shown(test)}", f"if not ({_shown(test)})", changed
        case ast.comprehension(ifs=[_, *_] as ifs):
            for at, condition in enumerate(ifs):
                rest = [*ifs[:at], *ifs[at + 1 :]]
                changed = ast.comprehension(node.target, node.iter, rest, node.is_async)
                yield f"if {_shown(condition)}", "(no if)", changed
        case ast.Return(value=ast.expr() as value) if not (isinstance(value, ast.Constant) and value.value is None):
            yield _changed(whole, ast.Return(ast.Constant(None)))
        case ast.Expr(value=ast.Call() | ast.Await()) | ast.Raise():
            yield _changed(whole, ast.Pass())
        case ast.Assign(targets=[ast.Attribute() | ast.Subscript()]):
            yield _changed(whole, ast.Pass())
        case ast.Break():
            yield _changed(whole, ast.Continue())
        case ast.Continue():
            yield _changed(whole, ast.Break())
        case _:
            pass


def _changed(before: str, after: ast.AST) -> tuple[str, str, ast.AST]:
    return before, _shown(after), after


def _shown(node: ast.AST) -> str:
    if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef, ast.With, ast.Try, ast.For)):
        return ""
    try:
        return " ".join(ast.unparse(node).split())[:160]
    except (AttributeError, ValueError):  # a part of the grammar that is no code by itself
        return ""


@cache
def _text(file: str) -> str:
    """A module's source, read once: it may be edited while its mutants are tried."""
    return (ROOT / file).read_text("utf-8")


def mutants_of(file: str) -> list[Mutant]:
    """Every mutant of a module, in the order of the source."""
    surgeon = Surgeon()
    surgeon.visit(ast.parse(_text(file)))
    return [Mutant(file, number, line, change) for number, (line, change) in enumerate(surgeon.changes)]


def code_of(mutant: Mutant) -> CodeType:
    """The module with that one change."""
    tree = cast("ast.Module", Surgeon(mutant.number).visit(ast.parse(_text(mutant.file))))
    return compile(tree, str(ROOT / mutant.file), "exec")


# -- trying ------------------------------------------------------------------------------------------------------------


class Finder(importlib.abc.MetaPathFinder):
    """Imports the mutant where the module is asked for."""

    def __init__(self, file: str, code: CodeType) -> None:
        self.name = ".".join(Path(file).with_suffix("").parts).removesuffix(".__init__")
        self.path, self.code = ROOT / file, code

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> importlib.machinery.ModuleSpec | None:
        """The specification of the mutant, by its original's name."""
        if fullname != self.name:
            return None
        loader = Loader(fullname, str(self.path))
        loader.code = self.code
        folder = [str(self.path.parent)] if self.path.name == "__init__.py" else None
        return importlib.util.spec_from_file_location(
            fullname, self.path, loader=loader, submodule_search_locations=folder
        )


class Loader(importlib.machinery.SourceFileLoader):
    """Runs the code that it was given."""

    code: CodeType

    def get_code(self, fullname: str) -> CodeType:
        """The mutant's, whatever stands in the file."""
        return self.code


class Order:
    """A pytest plugin: the quickest tests first, or, without durations, measures them."""

    def __init__(self, durations: dict[str, float]) -> None:
        self.durations = durations
        self.measured: dict[str, float] = {}

    def pytest_collection_modifyitems(self, items: list[pytest.Item]) -> None:
        """Quickest first; stable, so that modules' fixtures are not torn down more than needed."""
        items.sort(key=lambda item: self.durations.get(item.nodeid, 0.0))

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        """Setup, call and teardown together."""
        self.measured[report.nodeid] = self.measured.get(report.nodeid, 0.0) + report.duration


def run(tests: Sequence[str], order: Order, mutant: Mutant | None) -> int:
    """Run the tests here, against a mutant perhaps, and return pytest's exit status."""
    if mutant is not None:
        sys.meta_path.insert(0, Finder(mutant.file, code_of(mutant)))
    from hypothesis import Phase, settings

    # No shrinking: that it failed is all there is to know. The same examples each time, so that the score is the same.
    settings.register_profile("mutate", phases=(Phase.explicit, Phase.generate), database=None, derandomize=True)
    settings.load_profile("mutate")
    options = ["-x", "-q", "--no-header", "--timeout=120", "-p", "no:xdist", "-p", "no:cacheprovider"]
    options += ["-W", "ignore::pytest.PytestAssertRewriteWarning"]  # for the plugins that are imported already
    return int(pytest.main([*options, *tests], plugins=[order]))


def forked(tests: Sequence[str], order: Order, mutant: Mutant | None, cpu_s: int, answer: int, output: int) -> int:
    """Run the tests in a child and return its process id; durations go to the descriptor ``answer``."""
    pid = os.fork()
    if pid:
        return pid
    status = BROKEN
    try:
        os.setsid()
        os.dup2(output, 1)
        os.dup2(output, 2)
        resource.setrlimit(resource.RLIMIT_CPU, (cpu_s, cpu_s + 5))
        signal.alarm(10 * cpu_s)  # for who waits and computes nothing
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
        status = run(tests, order, mutant)
        if mutant is None:
            os.write(answer, json.dumps(order.measured).encode())
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(status)


def measured(tests: Sequence[str]) -> tuple[dict[str, float], int]:
    """The durations of the tests by node id, and the seconds of CPU that they take together; they must pass."""
    reading, writing = os.pipe()
    output = os.memfd_create("output")
    pid = forked(tests, Order({}), None, 3600, writing, output)
    os.close(writing)
    with os.fdopen(reading, "rb") as file:
        data = file.read()
    _, status, usage = os.wait4(pid, 0)
    if status:
        os.lseek(output, 0, os.SEEK_SET)
        sys.exit(f"the tests fail without any mutant: {' '.join(tests)}\n{os.read(output, 1 << 20).decode()[-3000:]}")
    os.close(output)
    return json.loads(data), round(usage.ru_utime + usage.ru_stime)


def survivors(chosen: Sequence[Mutant], tests: Mapping[str, Sequence[str]], jobs: int) -> Iterator[tuple[Mutant, bool]]:
    """Each mutant, and whether it survived the tests of its module; as they end, so many at once."""
    nothing = os.open(os.devnull, os.O_WRONLY)
    orders: dict[str, tuple[Order, int]] = {}
    running: dict[int, Mutant] = {}
    waiting = list(chosen)[::-1]
    while waiting or running:
        while waiting and len(running) < jobs:
            mutant = waiting.pop()
            if mutant.file not in orders:
                durations, cpu_s = measured(tests[mutant.file])
                orders[mutant.file] = Order(durations), 3 * cpu_s + CHILD_CPU_S
            order, cpu_s = orders[mutant.file]
            running[forked(tests[mutant.file], order, mutant, cpu_s, nothing, nothing)] = mutant
        pid, status = os.wait()
        mutant = running.pop(pid)
        if os.waitstatus_to_exitcode(status) in (BROKEN, pytest.ExitCode.NO_TESTS_COLLECTED):
            sys.exit(f"pytest could not run the tests of {mutant}")
        yield mutant, not status


# -- the command -------------------------------------------------------------------------------------------------------


def main() -> None:
    """Try mutants, and print the survivors and the score."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("modules", nargs="*", help="only these, by a part of their path")
    parser.add_argument("--sample", type=int, metavar="N", help="so many mutants, drawn by the seed; all by default")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--jobs", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--at-least", type=float, default=90, metavar="PERCENT")
    arguments = parser.parse_args()

    configuration: dict[str, Any] = tomllib.loads(CONFIGURATION.read_text("utf-8"))
    groups: dict[str, dict[str, list[str]]] = configuration["group"]
    tests = {file: files for modules in groups.values() for file, files in modules.items()}
    equivalent = {(known["file"], known["line"], known["change"]) for known in configuration.get("equivalent", [])}
    chosen = [
        mutant
        for file in tests
        if not arguments.modules or any(part in file for part in arguments.modules)
        for mutant in mutants_of(file)
        if (file, source_line(mutant), mutant.change) not in equivalent
    ]
    print(f"{len(chosen):,} mutants of {len({mutant.file for mutant in chosen})} modules", flush=True)
    if arguments.sample is not None and arguments.sample < len(chosen):
        chosen = sorted(random.Random(arguments.seed).sample(chosen, arguments.sample))

    os.chdir(ROOT)
    sys.path.insert(0, str(ROOT))
    os.environ.setdefault("ESRM_TEST_SCALE", "0.1")
    _warm()
    began = time.monotonic()
    tried: dict[str, list[bool]] = {}
    for mutant, survived in survivors(chosen, tests, arguments.jobs):
        tried.setdefault(mutant.file, []).append(survived)
        if survived:
            print(f"survived {mutant}\n         {source_line(mutant)}", flush=True)
    print(f"\n{len(chosen):,} mutants tried in {time.monotonic() - began:,.0f} s, seed {arguments.seed}")
    below = False
    for group, modules in groups.items():
        results = {file: tried[file] for file in modules if file in tried}
        for file, outcomes in results.items():
            print(f"  {_score(outcomes)}  {file}")
        if together := [survived for outcomes in results.values() for survived in outcomes]:
            print(f"{_score(together)}  {group}")
            below |= 100 * together.count(False) < arguments.at_least * len(together)
    sys.exit(below)


def _score(outcomes: Sequence[bool]) -> str:
    return f"{outcomes.count(False) / len(outcomes):6.1%} of {len(outcomes):4}"


def source_line(mutant: Mutant) -> str:
    """The line that is changed, as it stands in the file."""
    return _text(mutant.file).splitlines()[mutant.line - 1].strip()


def _warm() -> None:
    """Import what every child needs, except esrm itself."""
    for name in (
        "anyio",
        "anyio.pytest_plugin",
        "apsw",
        "click",
        "hypothesis",
        "msgspec",
        "trio",
        "hypothesis.strategies",
    ):
        importlib.import_module(name)


if __name__ == "__main__":
    main()
