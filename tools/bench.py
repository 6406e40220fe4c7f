"""Measure esrm, beside yardsticks and peers in the same run; print the page, or write ``docs/performance.md``.

    python tools/bench.py                                 every row, small scale, printed
    python tools/bench.py --rows append,blame             only these
    python tools/bench.py --scale full --write            what docs/performance.md holds
    python tools/bench.py --check                         exit code 1 when a goal is missed

``make bench`` installs the peers and runs it. Read ``benchmarks/measure.py`` next: what a row is, and how it is timed.
"""

from __future__ import annotations

import argparse
import signal
import sys
import tempfile
import time
from pathlib import Path

from benchmarks import page
from benchmarks.measure import ROWS, SCALES, Bench, Core, Figure, Report, Row

PAGE = Path(__file__).parent.parent / "docs" / "performance.md"


def main(arguments: list[str]) -> int:
    """Run rows; the exit code is 1 with ``--check`` when one misses its goal."""
    asked = _parser().parse_args(arguments)
    signal.signal(signal.SIGTERM, _stop)
    rows = [ROWS[key] for key in asked.rows.split(",")] if asked.rows else list(ROWS.values())
    if asked.write and len(rows) < len(ROWS):
        sys.exit("--write writes the whole page: leave --rows out")
    began, found = time.strftime("%Y-%m-%d %H:%M", time.gmtime()), dict[str, Report]()
    with tempfile.TemporaryDirectory(prefix=".bench-", dir=asked.dir) as folder:
        for row in rows:
            print(f"{row.key} ...", file=sys.stderr, flush=True)
            found[row.key] = _run(row, Bench.of(asked.scale, Path(folder)))
    text = page.page(rows, found, asked.scale, began)
    if asked.write:
        PAGE.write_text(text)
    print(text)
    missed = [row.key for row in rows if any(figure.met is False for figure in found[row.key].figures)]
    if missed:
        print(f"goals missed in: {', '.join(missed)}", file=sys.stderr)
    return 1 if asked.check and missed else 0


def _stop(number: int, frame: object) -> None:
    """Leave as on any error, so that the folder, gigabytes of it, goes away."""
    sys.exit(128 + number)


def _run(row: Row, bench: Bench) -> Report:
    """A row that fails is told, and has not met its goal; the others are still worth measuring."""
    start, before = time.perf_counter(), Core.now()
    try:
        report = row.run(bench)
    except Exception as error:
        if bench.scale == "smoke":
            raise
        report = Report([Figure(f"FAILED: {type(error).__name__}: {error}", 0.0, "", at_least=1.0)])
    seconds, after = time.perf_counter() - start, Core.now()
    report.notes.append(
        f"Measured in {seconds:.0f} s. A busy loop got {before.share:.0%} of a core before it and {after.share:.0%} "
        f"after it; a turn of it took {before.turn_ns:.0f} and {after.turn_ns:.0f} ns."
    )
    return report


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--rows", type=_rows, default="", help=f"some of {','.join(ROWS)}")
    parser.add_argument("--scale", choices=list(SCALES), default="small")
    parser.add_argument("--dir", type=Path, default=Path.cwd(), help="a folder on the disk to measure")
    parser.add_argument("--write", action="store_true", help="write docs/performance.md")
    parser.add_argument("--check", action="store_true", help="exit with 1 when a goal is missed")
    return parser


def _rows(text: str) -> str:
    for key in filter(None, text.split(",")):
        if key not in ROWS:
            raise argparse.ArgumentTypeError(f"no row {key!r}; there are {', '.join(ROWS)}")
    return text


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
