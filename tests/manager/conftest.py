"""Both stores, by URL; the loops come from the conftest above."""

from __future__ import annotations

from pathlib import Path

import pytest


@pytest.fixture(params=["memory", "sqlite"])
def url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """Where a new, empty store can be opened."""
    return "memory:" if request.param == "memory" else f"sqlite:{tmp_path / 'vm.db'}"
