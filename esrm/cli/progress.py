"""How far a long command has come: a line on stderr that overwrites itself, on a terminal only."""

from __future__ import annotations

import sys
import time
from types import TracebackType
from typing import Self

INTERVAL_S = 0.1


def _watched() -> bool:
    return sys.stderr is not None and sys.stderr.isatty()  # pyright: ignore[reportUnnecessaryComparison]  after 2>&-


class Progress:
    """A counter for people who wait, used with ``with``; silent for programs, and when it is over in a moment."""

    def __init__(self, what: str, total: int) -> None:
        self._what, self._total = what, total
        self._next = time.monotonic() + INTERVAL_S if _watched() else float("inf")
        self._shown = False

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._shown:
            self._write("")

    def __call__(self, done: int) -> None:
        """Say that so many of the total are done."""
        now = time.monotonic()
        if now >= self._next:
            self._next, self._shown = now + INTERVAL_S, True
            self._write(f"{self._what}: {done:,} of {self._total:,}")

    def _write(self, text: str) -> None:
        sys.stderr.write(f"\r\033[K{text}")
        sys.stderr.flush()
