"""What the peers' own tests say must hold, asked of esrm: 94 cases through the public API, none skipped.

``cases.json`` keeps the facts (who holds what after which step) in one form with one set of error codes; ``adapter.py``
says each operation in esrm's words. Where esrm answers otherwise on purpose, the step and the reason stand here.
"""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import adapter
import pytest

import esrm
from esrm import (
    AddressConflict,
    DuplicateDevice,
    InvalidAccess,
    InvalidConstraint,
    InvalidPlatform,
    NoSpace,
    NotAllocated,
    NotMapped,
    OutOfRange,
    UnknownDevice,
)

CASES = json.loads((Path(__file__).parent / "cases.json").read_text())

ERRORS: dict[str, tuple[type[esrm.Refused], ...]] = {
    "INVALID_SIZE": (InvalidConstraint, InvalidPlatform),
    "INVALID_ALIGNMENT": (InvalidConstraint,),
    "UNALIGNED_ADDRESS": (InvalidConstraint,),
    "INVALID_RANGE": (InvalidConstraint, InvalidPlatform),
    "OVERFLOW": (InvalidPlatform,),
    "NO_SPACE": (NoSpace,),
    "EXHAUSTED": (NoSpace,),
    "CONFLICT": (AddressConflict,),
    "OVERLAP": (AddressConflict, InvalidPlatform),
    "OUT_OF_RANGE": (OutOfRange,),
    "NOT_ALLOCATED": (NotAllocated,),
    "NOT_FOUND": (NotMapped, UnknownDevice),
    "INVALID_ACCESS": (InvalidAccess,),
    "DUPLICATE_OWNER": (DuplicateDevice,),
    "UNKNOWN_OWNER": (UnknownDevice,),  # ours: see P118 below
}
"""The peers' codes and the classes that say the same."""

HELD = "releasing what is not held is NotAllocated, wherever it lies"
OVERRIDES: dict[tuple[str, int], tuple[str, str]] = {
    ("P024", 0): ("NOT_ALLOCATED", HELD + "; upstream says that 3 is below the pool"),
    ("P033", 19): ("INVALID_ACCESS", "d1 answers at 19 but not for ten bytes; upstream has one word for both"),
    ("P056", 4): ("NOT_ALLOCATED", HELD + "; two took the shared line, upstream lets it be freed a third time"),
    ("P057", 0): ("NOT_ALLOCATED", HELD + "; upstream says that 16 is above the pool"),
    ("P059", 0): ("NOT_ALLOCATED", HELD + "; upstream says that 1025 is above the pool"),
    ("P118", 7): ("UNKNOWN_OWNER", "an owner is a device, and no device of that name ever lived"),
}
"""(case, step) -> what esrm refuses with instead, and why."""


@pytest.mark.parametrize("case", CASES, ids=lambda case: case["id"])
def test_esrm_satisfies_the_case(case: dict[str, Any]) -> None:
    """Every step of a peer's case answers, or refuses, as the peer's test says; a refusal names just the holders."""
    subject = adapter.KINDS[case["kind"]](case["setup"])
    for index, step in enumerate(case["steps"]):
        expected = {key: value for key, value in step["expect"].items() if key != "native"}
        if (case["id"], index) in OVERRIDES:
            expected = {"error": OVERRIDES[case["id"], index][0]}
        operation = getattr(subject, step["op"])
        if "error" not in expected:
            answer = operation(**step["args"])
            assert {key: answer.get(key) for key in expected} == expected, step
            continue
        with pytest.raises(ERRORS[expected["error"]]) as refused:
            operation(**step["args"])
        if "holder" in expected:
            assert named(refused.value) == expected["holder"], step


def named(error: esrm.Refused) -> list[Any]:
    """Whom a refusal names: owners for a placement, [base, size] for a bus. The message names the same."""
    if error.refusal is None:
        ends = re.findall(r"\((0x[0-9a-f]+)-(0x[0-9a-f]+)\)", str(error))
        return [[int(first, 16), int(last, 16) - int(first, 16) + 1] for first, last in ends]
    owners = [holding.owner for holding in error.refusal.blockers]
    assert re.findall(r"(\w+) \(", str(error).partition("held by")[2].partition(";")[0]) == owners
    return owners


def test_all_cases_are_there() -> None:
    """The cases are 94, as handed over, and every override points at a step that exists."""
    steps = {(case["id"], index) for case in CASES for index in range(len(case["steps"]))}
    assert len(CASES) == len({case["id"] for case in CASES}) == 94
    assert set(OVERRIDES) <= steps
