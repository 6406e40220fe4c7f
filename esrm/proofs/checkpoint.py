"""Checkpoints (C2SP tlog-checkpoint): what a VM's log was, in three lines, signed.

The origin (which log), the tree's size, and its root; whoever keeps them can tell for ever whether the log still begins
with those records. Separate from ``note.py``, which signs any text. Next: ``receipt.py``, a record with its proof.

An origin is the name of the log's key, a slash, and the VM's name in percent-encoding. So one key speaks for all VMs of
a store, and no checkpoint of one VM passes for another's.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from urllib.parse import quote, unquote

import msgspec

from esrm.errors import Malformed, Refused, Unproven
from esrm.proofs.keys import LOG, WITNESS, SigningKey, VerifierKey, check_name, decode, encode
from esrm.proofs.merkle import EMPTY, HASH_BYTES
from esrm.proofs.note import Note, Signed, parse, sign, verified

SIZE_MAX = 2**63 - 1
"""Leaves in a tree, at most."""
ORIGIN_MAX = 6_000
"""Characters in an origin that is signed, at most: more than the longest names of a key and of a VM make together."""

_NUMBER = re.compile(r"0|[1-9][0-9]*", re.ASCII)
_OTHERS = {"old ": "a request to a witness", "c2sp.org/tlog-proof@": "a receipt"}  # by how they begin


class Checkpoint(msgspec.Struct, frozen=True):
    """A tree at a size.

    Attributes:
        origin: which log, one line.
        size: its leaves: the VM's last revision plus one.
        root: 32 bytes.
        extensions: further lines, which esrm never writes, signed with the rest and believed by nobody.
    """

    origin: str
    size: int
    root: bytes
    extensions: tuple[str, ...] = ()

    def __str__(self) -> str:
        """The text that is signed."""
        return "".join(f"{line}\n" for line in (self.origin, self.size, encode(self.root), *self.extensions))

    @classmethod
    def parse(cls, text: str) -> Checkpoint:
        """The checkpoint that a note's text is.

        Raises:
            Malformed: it is none.
        """
        lines = text.split("\n")
        if len(lines) < 4 or lines.pop() or "" in lines:
            other = "".join(f"; this is {what}" for start, what in _OTHERS.items() if text.startswith(start))
            raise Malformed(f"a checkpoint is an origin, a size and a root, each in a line of its own{other}")
        size, root = number(lines[1], "the size"), hash_of(lines[2], "the root")
        if not size and root != EMPTY:
            raise Malformed("an empty tree has not this root")
        return cls(lines[0], size, root, tuple(lines[3:]))

    def signed(self, key: SigningKey) -> Note:
        """The note that a log's key makes of it.

        Raises:
            Malformed: its origin is none to sign (``check_origin``).
            Refused: it is a witness's key, or the package ``cryptography`` is not installed.
        """
        check_origin(self.origin)
        if key.kind != LOG:
            raise Refused(f"{key.name} is a witness by its key: a checkpoint is signed with a log's key")
        return Note(str(self), (sign(str(self), key),))


class Opened(msgspec.Struct, frozen=True):
    """A checkpoint that is to be believed: as it was signed, by whom, and the note that shows it."""

    checkpoint: Checkpoint
    signed: Signed
    note: Note


def open_checkpoint(note: Note | bytes, keys: Sequence[VerifierKey], origin: str | None = None) -> Opened:
    """The checkpoint in a note, once everybody has signed it who must have.

    Args:
        note: the note, or its bytes.
        keys: whom to believe: keys of the log, of which one must have signed, and keys of witnesses, all of which must.
        origin: which log it must be of; None: any that a key which signed it speaks for (``speaks_for``).

    Raises:
        Malformed: there is no checkpoint.
        Unproven: a signature is missing or does not hold, or it is another log's.
        Refused: the package ``cryptography`` is not installed.
    """
    note = parse(note) if isinstance(note, bytes) else note
    checkpoint = Checkpoint.parse(note.text)  # first: that another file's signatures do not hold would be a false alarm
    signed = verified(note, keys)
    if not signed.logs:
        names = ", ".join(key.name for key in keys if key.kind != WITNESS) or "nobody: no key of a log was given"
        signers = ", ".join(signature.name for signature in note.signatures)
        raise Unproven(f"the checkpoint is signed by {signers:.200}, none of which is a key to believe here ({names})")
    if origin is None and not any(speaks_for(key.name, checkpoint.origin) for key in signed.logs):
        raise Unproven(f"{signed.logs[0].name} does not speak for the log {checkpoint.origin!r:.200}")
    if origin not in (None, checkpoint.origin):
        raise Unproven(f"the checkpoint is of the log {checkpoint.origin!r:.200}, not of {origin!r:.200}")
    if missing := [key.name for key in keys if key.kind == WITNESS and key not in signed.witnesses]:
        raise Unproven(f"the checkpoint is not cosigned by {', '.join(missing)}")
    return Opened(checkpoint, signed, note)


def origin_of(name: str, vm: str) -> str:
    """The origin of a VM's log whose key has this name: ``example.org/host/web-1``."""
    return f"{name}/{quote(vm, safe='')}"


def check_origin(origin: str) -> str:
    """The origin itself, if esrm signs it: as the name of a key may be, and at most 6,000 characters.

    Other makes may sign what C2SP only advises against, blanks for example; that is read all the same.

    Raises:
        Malformed: it is none, and why.
    """
    if len(origin) > ORIGIN_MAX:
        raise Malformed(
            f"{origin!r:.80} is no origin: it has {len(origin):,} characters; at most {ORIGIN_MAX:,} are allowed"
        )
    return check_name(origin, "origin")


def speaks_for(name: str, origin: str) -> bool:
    """Whether a key of this name may sign for this log by its name alone: it is the log's, or that of a VM in it."""
    return origin == name or vm_of(name, origin) is not None


def vm_of(name: str, origin: str) -> str | None:
    """The VM whose log an origin names, for a key of this name; None if it names none."""
    if not origin.startswith(f"{name}/"):
        return None
    vm = unquote(origin[len(name) + 1 :])
    return vm if vm and origin_of(name, vm) == origin else None


def number(text: str, what: str) -> int:
    """The number that a line is: decimal, without leading zeros, at most 2**63-1.

    Raises:
        Malformed: it is none.
    """
    if not _NUMBER.fullmatch(text):
        raise Malformed(f"{what} is no number as it is written here: {text!r:.40}")
    if len(text) > 19 or int(text) > SIZE_MAX:  # first the length: int() itself refuses very long ones
        raise Malformed(f"{what} is larger than {SIZE_MAX}, the most that a log may have")
    return int(text)


def hash_of(text: str, what: str) -> bytes:
    """The 32 bytes of a hash that a line is in base64.

    Raises:
        Malformed: it is none.
    """
    try:
        data = decode(text)
    except ValueError as error:
        raise Malformed(f"{what}: {error}") from None
    if len(data) != HASH_BYTES:
        raise Malformed(f"{what} has {len(data)} bytes, not {HASH_BYTES}")
    return data
