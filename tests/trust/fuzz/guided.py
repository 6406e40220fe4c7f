"""Coverage-guided fuzzing of one target by atheris (libFuzzer): inputs that reach new code are kept and changed again.

``python tests/trust/fuzz/guided.py TARGET RUNS SEED FOLDER``: a process of its own, for libFuzzer takes over the
process it runs in and ends it. On standard output it says how many inputs it tried and how many of those were
understood; a finding lies in FOLDER as a file, and the exit status is 77.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from random import Random

import atheris

sys.path.insert(0, str(Path(__file__).parents[1]))

with atheris.instrument_imports(include=["esrm"]):
    from fuzz.targets import CONTROLS, TARGETS

INPUT_BYTES_MAX = 512
"""Longer ones are ``blind.py``'s, which needs no short inputs to be quick."""


def main(name: str, runs: int, seed: int, folder: Path) -> None:
    """Does not return."""
    target = (TARGETS | CONTROLS)[name]
    corpus, words = folder / "corpus", folder / "words"
    corpus.mkdir(parents=True)
    # The whole collection would be tried before anything is changed, so a small run gets some of it.
    chosen = list(target.seeds)
    Random(seed).shuffle(chosen)
    for at, data in enumerate(chosen[: max(8, runs // 10)]):
        (corpus / f"{at}").write_bytes(data)
    words.write_text("".join('"' + "".join(f"\\x{byte:02x}" for byte in word) + '"\n' for word in target.words))
    counts = {"runs": 0, "understood": 0}

    def once(data: bytes) -> None:
        counts["runs"] += 1
        counts["understood"] += target.run(data)
        if counts["runs"] == runs:  # libFuzzer ends the process its own way, without atexit
            print(json.dumps(counts), flush=True)

    options = [f"-runs={runs}", f"-seed={seed}", f"-max_len={INPUT_BYTES_MAX}", f"-dict={words}"]
    atheris.Setup([__file__, *options, f"-artifact_prefix={folder}/", str(corpus)], once)
    atheris.Fuzz()


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]), int(sys.argv[3]), Path(sys.argv[4]))
