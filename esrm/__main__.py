"""``esrm``, and ``python -m esrm``: the command line in a process of its own, that is soon over.

Nearly all that a short command allocates are modules, which live as long as it does: a collector that looks at them
again and again, three times more at the end, took a fifth of its time.
"""

from __future__ import annotations

import gc
import sys


def main() -> int:
    """Run ``sys.argv`` and return the exit code."""
    gc.set_threshold(50_000)  # before anything is imported; the usual 700 is for what comes and goes
    from esrm.cli import main as cli

    try:
        return cli()
    finally:
        gc.freeze()  # what is left at the end goes with the process


if __name__ == "__main__":
    sys.exit(main())
