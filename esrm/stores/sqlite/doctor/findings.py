"""What the doctor says of one thing that it looked at, and how it says numbers.

Separate from ``log.py`` and ``place.py``, which find, because both say it in this form.
"""

from __future__ import annotations

from typing import Any, Literal, TypeAlias

import msgspec

Verdict: TypeAlias = Literal["ok", "note", "warning", "bad"]
"""``note``: worth knowing; ``warning``: a promise of esrm may not hold here; ``bad``: the log is lost or unreadable."""


class Finding(msgspec.Struct, frozen=True):
    """One thing that was looked at.

    Attributes:
        verdict: how bad it is.
        about: what was looked at, in a word or two.
        what: what is so, in a sentence.
        advice: what to do about it; empty if nothing need be done.
        values: the same in numbers and names, for programs.
    """

    verdict: Verdict
    about: str
    what: str
    advice: str = ""
    values: dict[str, Any] = {}


def counted(number: int, noun: str) -> str:
    """``1 record``, ``1,234 records``."""
    return f"{number:,} {noun}{'s' * (number != 1)}"


def about(number: int) -> str:
    """The number in two digits: more would look as if it were known."""
    return f"{float(f'{number:.2g}'):,.0f}"


def sized(number: int) -> str:
    """``12 bytes``, ``4 KiB``: as many whole ones as there are."""
    power = min((max(number, 1).bit_length() - 1) // 10, 4)
    return f"{number >> 10 * power:,} {('bytes', 'KiB', 'MiB', 'GiB', 'TiB')[power]}"


def lasting(seconds: float) -> str:
    """``140 us``, ``2.5 ms``."""
    return f"{seconds * 1e3:.1f} ms" if seconds >= 1e-3 else f"{seconds * 1e6:.0f} us"
