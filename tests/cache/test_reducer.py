"""A reminder: whoever changes what `evolve` does says whether layouts kept by older code are still right."""

from __future__ import annotations

import ast
import hashlib
from pathlib import Path
from typing import Any

import esrm.core.lifecycle
import esrm.core.state
from esrm.core.state import REDUCER_VERSION

KNOWN = {1: "105d9360e2ab1a3e"}
"""For each version the digest of the code that it stood for last."""


def plain(node: Any) -> Any:
    """A syntax tree as nested lists, without what does not matter: texts, places, comments, annotations."""
    if isinstance(node, list):
        return [
            plain(item) for item in node if not (isinstance(item, ast.Expr) and isinstance(item.value, ast.Constant))
        ]
    if isinstance(node, ast.JoinedStr) or (isinstance(node, ast.Constant) and isinstance(node.value, str)):
        return "text"
    if isinstance(node, ast.AST):
        left_out = ("annotation", "returns", "type_comment", "type_params")
        fields = [(name, plain(value)) for name, value in ast.iter_fields(node) if name not in left_out]
        return [type(node).__name__, *(field for field in fields if field[1] not in (None, []))]
    return repr(node)


def reducer() -> list[Any]:
    """`evolve` and all that stands behind it in its file; the shape of a device's state; the table of phases."""
    state = ast.parse(Path(esrm.core.state.__file__).read_text("utf-8")).body
    start = next(i for i, node in enumerate(state) if isinstance(node, ast.FunctionDef) and node.name == "evolve")
    shape = [node for node in state if isinstance(node, ast.ClassDef) and node.name == "DeviceState"]
    table = [
        node
        for node in ast.parse(Path(esrm.core.lifecycle.__file__).read_text("utf-8")).body
        if isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name) and node.target.id == "TRANSITIONS"
    ]
    assert shape
    assert table
    fields = [ast.unparse(node.target) for node in shape[0].body if isinstance(node, ast.AnnAssign)]
    return [fields, plain(table), plain(state[start:])]


def test_a_change_of_the_reducer_is_noticed():
    """The code that folds events is the code that this version of the reducer stands for."""
    digest = hashlib.sha256(repr(reducer()).encode()).hexdigest()[:16]
    assert digest == KNOWN[REDUCER_VERSION], (
        "evolve, the table of phases or DeviceState has changed. If any log now folds into another state, or the state "
        "has another shape, raise REDUCER_VERSION in esrm/core/state.py: caches made by older code are then made anew. "
        f"If not, only the code reads differently. Either way, write {digest!r} for that version into KNOWN here."
    )


def test_words_do_not_matter():
    """Messages, docstrings, comments and annotations may be bettered freely."""
    one = ast.parse('def f(a: int) -> int:\n    "Says so."\n    raise E(f"{a} no")').body
    two = ast.parse("def f(a):  # as said\n    raise E('No.')").body
    other = ast.parse('def f(a):\n    return E("no")').body
    assert plain(one) == plain(two) != plain(other)
