"""Mutants of real inputs, as many a second as can be: no feedback, any Python, the same ones for the same seed."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
from random import Random

from fuzz.targets import Target

INPUT_BYTES_MAX = 100_000
"""No mutant is longer: beyond every limit on length in the parsers."""


class Found(Exception):
    """A target let something out; ``data`` is what made it."""

    def __init__(self, data: bytes) -> None:
        super().__init__(f"{len(data):,} bytes")
        self.data = data


def attack(target: Target, seed: int, runs: int) -> int:
    """Try so many mutants, after each seed as it is, and return how many were understood; ``Found`` from the first."""
    run, understood = target.run, 0
    for data in inputs(target.seeds, target.words, seed, runs):
        try:
            understood += run(data)
        except Exception as error:
            raise Found(data) from error
    return understood


def inputs(seeds: Sequence[bytes], words: Sequence[bytes], seed: int, count: int) -> Iterator[bytes]:
    """Yield so many inputs: the seeds, then mutants; half of them changed once, a quarter twice, and so on."""
    yield from seeds[:count]
    bits = Random(seed).getrandbits
    for _ in range(count - len(seeds)):
        draw = bits(64)
        data = seeds[draw % len(seeds)]
        draw >>= 16
        while True:
            data = _CHANGES[draw & 15](data, draw >> 5, seeds, words)
            if draw & 16:
                break
            draw = bits(48)
        yield data[:INPUT_BYTES_MAX]


# Each takes the input and 43 random bits: 24 for the place, the others for what to do there.
Change = Callable[[bytes, int, Sequence[bytes], Sequence[bytes]], bytes]


_is_digit = re.compile(rb"[0-9]").search


def _flip(data: bytes, draw: int, seeds: Sequence[bytes], words: Sequence[bytes]) -> bytes:
    at = (draw & 0xFFFFFF) % (len(data) or 1)
    return data[:at] + bytes((data[at] ^ 1 << (draw >> 24 & 7),)) + data[at + 1 :] if data else data


def _overwrite(data: bytes, draw: int, seeds: Sequence[bytes], words: Sequence[bytes]) -> bytes:
    at = (draw & 0xFFFFFF) % (len(data) + 1)
    return data[:at] + bytes((draw >> 24 & 255,)) + data[at + 1 :]


def _insert(data: bytes, draw: int, seeds: Sequence[bytes], words: Sequence[bytes]) -> bytes:
    at = (draw & 0xFFFFFF) % (len(data) + 1)
    return data[:at] + bytes((draw >> 24 & 255,)) + data[at:]


def _drop(data: bytes, draw: int, seeds: Sequence[bytes], words: Sequence[bytes]) -> bytes:
    at = (draw & 0xFFFFFF) % (len(data) + 1)
    return data[:at] + data[at + 1 + (draw >> 24 & (255 >> (draw >> 32 & 7))) :]


def _insert_word(data: bytes, draw: int, seeds: Sequence[bytes], words: Sequence[bytes]) -> bytes:
    """One time in 64 a single letter comes thousands of times: brackets make depth."""
    at, word = (draw & 0xFFFFFF) % (len(data) + 1), words[(draw >> 30) % len(words)]
    return data[:at] + (word if draw >> 24 & 63 or len(word) > 1 else word * 3000) + data[at:]


def _put_word(data: bytes, draw: int, seeds: Sequence[bytes], words: Sequence[bytes]) -> bytes:
    at, word = (draw & 0xFFFFFF) % (len(data) + 1), words[(draw >> 24) % len(words)]
    return data[:at] + word + data[at + len(word) :]


def _digit(data: bytes, draw: int, seeds: Sequence[bytes], words: Sequence[bytes]) -> bytes:
    """Another digit in place of the next one: numbers stay numbers, and their relations break."""
    found = _is_digit(data, (draw & 0xFFFFFF) % (len(data) + 1))
    return data[: found.start()] + b"%d" % (draw % 10) + data[found.end() :] if found else data


def _again(data: bytes, draw: int, seeds: Sequence[bytes], words: Sequence[bytes]) -> bytes:
    """A part repeated; one time in 256 thousands of times, for length."""
    at, length = (draw & 0xFFFFFF) % (len(data) + 1), 1 + (draw >> 24 & 31)
    times = 2 + (draw >> 29 & 3) if draw >> 32 & 255 else 3000
    return data[:at] + data[at : at + length] * times + data[at + length :]


def _splice(data: bytes, draw: int, seeds: Sequence[bytes], words: Sequence[bytes]) -> bytes:
    """The beginning of this and the end of another."""
    other = seeds[(draw >> 24) % len(seeds)]
    return data[: (draw & 0xFFF) % (len(data) + 1)] + other[(draw >> 12 & 0xFFF) % (len(other) + 1) :]


_CHANGES: tuple[Change, ...] = (
    _flip, _flip, _overwrite, _overwrite, _insert, _drop, _drop, _insert_word,
    _insert_word, _put_word, _put_word, _digit, _digit, _digit, _again, _splice,
)  # fmt: skip
