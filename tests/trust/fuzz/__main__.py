"""Try one input again: ``python tests/trust/fuzz TARGET FILE``. An exception shows as it came."""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

from fuzz.targets import CONTROLS, TARGETS

if __name__ == "__main__":
    name, path = sys.argv[1:]
    print("understood" if (TARGETS | CONTROLS)[name].run(Path(path).read_bytes()) else "refused as declared")
