"""Both stores, by URL, and the stories of the manager's tests."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parents[1] / "manager"))


@pytest.fixture(params=["memory", "sqlite"])
def url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """Where a new, empty store can be opened."""
    return "memory:" if request.param == "memory" else f"sqlite:{tmp_path / 'vm.db'}"
