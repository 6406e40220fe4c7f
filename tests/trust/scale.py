"""How much the trust tests do, and how a failure is repeated.

``ESRM_TRUST`` is ``quick`` (the default, for every ``make test``), ``ci`` (``make trust``: the counts that
docs/durability.md promises) or ``soak`` (``make soak``: for as long as an hour). ``ESRM_TRUST_SEED`` begins elsewhere.
"""

from __future__ import annotations

import os

LEVEL = os.environ.get("ESRM_TRUST", "quick")
assert LEVEL in ("quick", "ci", "soak"), f"ESRM_TRUST is quick, ci or soak, not {LEVEL!r}"


def pick(*, quick: int, ci: int, soak: int) -> int:
    """The count for the level that was asked for."""
    return {"quick": quick, "ci": ci, "soak": soak}[LEVEL]


def seed() -> int:
    """Where the dice begin."""
    return int(os.environ.get("ESRM_TRUST_SEED", "1"))


def repeat(seed: int, test: str) -> str:
    """The command that repeats a failure of ``test`` (``tests/trust/test_x.py::test_y``) at this seed and level."""
    return f"repeat: ESRM_TRUST={LEVEL} ESRM_TRUST_SEED={seed} python -m pytest '{test}'"
