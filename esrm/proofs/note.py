"""Signed notes (C2SP signed-note): a text that ends in a newline, a blank line, and lines of signatures.

It decides what a note is, byte for byte, and which signatures hold: one by a known key that does not spoils the note.
What the text says is for others to read. Next: ``checkpoint.py``, the texts that are signed here.

A log's signature is over the text itself. A witness's (C2SP tlog-cosignature, "cosignature/v1") is over
``cosignature/v1``, a line with the time, and the text; it is written as 8 bytes of time and 64 of signature.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

import msgspec

from esrm.errors import Malformed, Unproven
from esrm.proofs.keys import LOG, WITNESS, SigningKey, VerifierKey, decode, encode

NOTE_BYTES_MAX = 1_000_000
"""A note is at most this long."""
SIGNATURES_MAX = 100
"""Signatures in a note, at most. (The format asks for at least 16.)"""
TIME_MAX = 2**63 - 1
"""Unix time in seconds that a cosignature may have, at most."""

_DASH = "\N{EM DASH}"
_UNFIT = re.compile(r"[\x00-\x09\x0b-\x1f\ud800-\udfff]|\A\ufeff")  # controls, what is no UTF-8, a byte order mark


class Signature(msgspec.Struct, frozen=True):
    """A line of a note, verified by nobody yet: the key's name and id, and what the key made, as bytes."""

    name: str
    id: bytes
    value: bytes

    def __str__(self) -> str:
        return f"{_DASH} {self.name} {encode(self.id + self.value)}\n"


class Note(msgspec.Struct, frozen=True):
    """A text and its signatures. Believe nothing in it before ``verified`` has said who signed it."""

    text: str
    signatures: tuple[Signature, ...] = ()

    def __str__(self) -> str:
        return f"{self.text}\n{''.join(map(str, self.signatures))}"


class Signed(msgspec.Struct, frozen=True):
    """Who signed a note, of those that were asked about.

    Attributes:
        logs: the keys that signed the text.
        witnesses: the keys that cosigned it, and when each did by its own clock: Unix time in seconds.
    """

    logs: tuple[VerifierKey, ...]
    witnesses: dict[VerifierKey, int]


def parse(data: bytes) -> Note:
    """The note that the bytes are.

    Raises:
        Malformed: they are none, and why.
    """
    if len(data) > NOTE_BYTES_MAX:
        raise Malformed(f"a note has at most {NOTE_BYTES_MAX:,} bytes")
    whole = unicode(data, "a note")
    if _UNFIT.search(whole):
        raise Malformed("a note has no control characters but newlines")
    head, blank, tail = whole.rpartition("\n\n")
    if not blank or not tail.endswith("\n"):
        raise Malformed("a note is a text, a blank line, and lines of signatures")
    lines = tail[:-1].split("\n")
    if len(lines) > SIGNATURES_MAX:
        raise Malformed(f"a note has at most {SIGNATURES_MAX} signatures")
    return Note(f"{head}\n", tuple(map(_signature, lines)))


def unicode(data: bytes, what: str) -> str:
    """The text that the bytes are, if it came as it was written: an editor or a mail program may have changed it.

    Raises:
        Malformed: it is no UTF-8, or has a byte order mark or the line ends of Windows.
    """
    try:
        text = data.decode()
    except UnicodeDecodeError as error:
        raise Malformed(f"{what} is UTF-8, but {error}") from None
    for added, there in (("a byte order mark", text.startswith("\ufeff")), ("line ends of Windows", "\r\n" in text)):
        if there:
            raise Malformed(f"{what} with {added} is none: a program has added that; get the file again as it was")
    return text


def sign(text: str, key: SigningKey, *, now: int | None = None) -> Signature:
    """A signature of a text that ends in a newline.

    Args:
        text: what is signed.
        key: by whom. A witness's key signs the time as well.
        now: Unix time in seconds; for a witness's key only, and needed there.

    Raises:
        Malformed: the text cannot be a note's.
        Refused: the package ``cryptography`` is not installed.
    """
    if not text.endswith("\n") or _UNFIT.search(text):
        raise Malformed("a note's text is UTF-8, ends in a newline, and has no other control characters")
    public = key.public
    if key.kind == LOG:
        assert now is None, "only witnesses sign the time"
        return Signature(key.name, public.id, key.sign(text.encode()))
    assert now is not None, "witnesses sign the time"
    if not 0 < now <= TIME_MAX:
        raise Malformed(f"{now} is no time that a witness can sign")
    return Signature(key.name, public.id, now.to_bytes(8, "big") + key.sign(_timed(text, now)))


def verified(note: Note, keys: Sequence[VerifierKey]) -> Signed:
    """Who signed the note, of those whose keys are given. Signatures by others are ignored.

    Raises:
        Unproven: a signature by one of the keys does not hold.
        Malformed: two of the keys cannot be told apart by name and id. (Somebody has made them so.)
        Refused: the package ``cryptography`` is not installed.
    """
    known = {(key.name, key.id): key for key in keys}
    if len(known) < len(set(keys)):
        raise Malformed("two different keys have one name and one id: trust neither before you know why")
    logs: dict[VerifierKey, None] = {}
    witnesses: dict[VerifierKey, int] = {}
    for signature in note.signatures:
        key = known.get((signature.name, signature.id))
        if key is None:
            continue
        value = signature.value
        if key.kind == WITNESS:
            time, value = int.from_bytes(value[:8], "big"), value[8:]
            message = _timed(note.text, time)
        else:
            time, message = 0, note.text.encode()
        if time > TIME_MAX or not key.verifies(message, value):
            raise Unproven(f"the signature by {key.name} does not hold: the text is not the one that was signed")
        if key.kind == WITNESS:
            witnesses[key] = max(time, witnesses.get(key, 0))
        else:
            logs[key] = None
    return Signed(tuple(logs), witnesses)


def _timed(text: str, time: int) -> bytes:
    return f"cosignature/v1\ntime {time}\n{text}".encode()


def _signature(line: str) -> Signature:
    parts = line.split(" ")
    if len(parts) != 3 or parts[0] != _DASH:
        raise Malformed(f"{line!r:.80} is no line of a signature")
    try:
        data = decode(parts[2])
    except ValueError as error:
        raise Malformed(f"the signature by {parts[1]!r:.80}: {error}") from None
    if len(data) < 5:
        raise Malformed(f"the signature by {parts[1]!r:.80} is too short")
    if not parts[1] or "+" in parts[1] or any(c.isspace() for c in parts[1]):
        raise Malformed(f"{parts[1]!r:.80} signs nothing: a key's name has no blanks and plus signs")
    return Signature(parts[1], data[:4], data[4:])
