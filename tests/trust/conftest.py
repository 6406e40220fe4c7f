"""What the trust tests did is said at the end of a run: how many of what, and which tools were there to do it."""

from __future__ import annotations

import pytest
from scale import LEVEL


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Each ``record_property("trust", ...)`` is a line; not at ``quick``, where the counts say nothing."""
    reports = [report for kind in ("passed", "failed") for report in terminalreporter.stats.get(kind, [])]
    said = sorted(str(value) for report in reports for name, value in report.user_properties if name == "trust")
    if said and LEVEL != "quick":
        terminalreporter.section(f"trust: {LEVEL}")
        for line in said:
            terminalreporter.write_line(line)
