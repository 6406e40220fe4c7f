"""Receipts (C2SP tlog-proof): one record, and the proof that it is in a log whose checkpoint is signed.

Whoever holds a receipt and the log's verifier key needs nothing else: they read what was recorded, compute its hash and
its leaf, follow the proof to the root, and find that root in the checkpoint. The proof's ``extra`` line holds the
record: every column as it is stored, and the hash before it, which is what ``chain.link`` asks for.

The ``extra`` data is JSON in one form only, so that a receipt cannot be changed and stay one. Next: ``witness.py``.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from typing import Annotated

import msgspec

from esrm.errors import Malformed, Unproven
from esrm.proofs.checkpoint import Opened, hash_of, number, open_checkpoint, vm_of
from esrm.proofs.keys import VerifierKey, decode, encode
from esrm.proofs.merkle import leaf_hash, verify_inclusion
from esrm.proofs.note import Note, parse, unicode
from esrm.stores.chain import link
from esrm.stores.records import Row, id_bytes, id_text

HEADER = "c2sp.org/tlog-proof@v1"
RECEIPT_BYTES_MAX = 2_000_000
"""A receipt is at most this long."""
PATH_MAX = 63
"""Hashes in a proof, at most."""

_Number = Annotated[int, msgspec.Meta(ge=0, le=2**63 - 1)]


class Columns(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A record as it is stored, and the hash of the one before it.

    Attributes:
        data: the event as it is stored: JSON text, of which every byte counts.
        previous: the hash of the record before it in its VM's log, 64 hex digits; zeros for revision 0.
        position, vm, revision, id, time_ns, actor, correlation: as in ``stores.records.Record``.
    """

    position: _Number
    vm: str
    revision: _Number
    id: str
    time_ns: _Number
    actor: str
    correlation: str
    data: str
    previous: str

    def row(self) -> Row:
        """The record as stores have it, its hash computed from the columns.

        Raises:
            ValueError, struct.error: the columns cannot be hashed.
        """
        columns = (
            self.position, self.vm, self.revision, id_bytes(self.id), self.time_ns, self.actor, self.correlation,
            self.data.encode(),
        )  # fmt: skip
        return *columns, link(bytes.fromhex(self.previous), *columns)


_decode = msgspec.json.Decoder(Columns).decode
_encode = msgspec.json.Encoder().encode


class Receipt(msgspec.Struct, frozen=True):
    """A record, the hashes that lead from it to a root, and the checkpoint that has that root."""

    columns: Columns
    path: tuple[bytes, ...]
    note: Note

    def __str__(self) -> str:
        lines = [HEADER, f"extra {encode(_encode(self.columns))}", f"index {self.columns.revision}"]
        return "".join(f"{line}\n" for line in (*lines, *map(encode, self.path), "")) + str(self.note)

    @classmethod
    def parse(cls, data: bytes) -> Receipt:
        """The receipt that the bytes are; what it says is not checked yet (``open_receipt``).

        Raises:
            Malformed: they are none.
        """
        if len(data) > RECEIPT_BYTES_MAX:
            raise Malformed(f"a receipt has at most {RECEIPT_BYTES_MAX:,} bytes")
        head, _, note = data.partition(b"\n\n")
        lines = unicode(head, "a receipt").split("\n")
        if len(lines) < 3 or lines[0] != HEADER or lines[1][:6] != "extra " or lines[2][:6] != "index ":
            raise Malformed(f"a receipt begins with {HEADER}, and lines of extra data and of the index")
        if len(lines) - 3 > PATH_MAX:
            raise Malformed(f"a proof has at most {PATH_MAX} hashes")
        columns = _columns(lines[1][6:])
        if number(lines[2][6:], "the index") != columns.revision:
            raise Malformed("the receipt's index is not the revision of its record")
        return cls(columns, tuple(hash_of(line, "a hash of the proof") for line in lines[3:]), parse(note))


def open_receipt(receipt: Receipt, keys: Sequence[VerifierKey], origin: str | None = None) -> Opened:
    """The checkpoint of a receipt, once it is shown that the record is in that log.

    Args:
        receipt: whose record it is about.
        keys, origin: as for ``open_checkpoint``.

    Raises:
        Malformed: the note is no checkpoint.
        Unproven: the checkpoint is not to be believed, or the record is not in its tree.
        Refused: the package ``cryptography`` is not installed.
    """
    opened = open_checkpoint(receipt.note, keys, origin)
    checkpoint, columns = opened.checkpoint, receipt.columns
    vms = [vm for key in opened.signed.logs if (vm := vm_of(key.name, checkpoint.origin))]
    if origin is None and vms and columns.vm not in vms:
        raise Unproven(f"the record is of {columns.vm!r:.80}, but the checkpoint is of {vms[0]!r:.80}")
    leaf = leaf_hash(columns.row()[8])
    if not verify_inclusion(leaf, columns.revision, checkpoint.size, receipt.path, checkpoint.root):
        raise Unproven(
            f"the record of revision {columns.revision} is not in the tree of {checkpoint.size} that was signed:"
            " the record, its place or the proof is another one"
        )
    return opened


def columns_of(row: Row, previous: bytes) -> Columns:
    """What a receipt says of a stored row, given the hash of the row before it.

    Raises:
        Malformed: the data is no text.
    """
    position, vm, revision, id, time_ns, actor, correlation, data, _ = row
    try:
        text = data.decode()
    except UnicodeDecodeError:
        raise Malformed(f"{vm}, revision {revision}: data that is no text fits no receipt") from None
    return Columns(position, vm, revision, id_text(id), time_ns, actor, correlation, text, previous.hex())


def _columns(text: str) -> Columns:
    try:
        data = decode(text)
        columns = _decode(data)
        again = columns_of(columns.row(), bytes.fromhex(columns.previous))
    except (msgspec.MsgspecError, ValueError, RecursionError, struct.error) as error:
        raise Malformed(f"the receipt's record: {error!s:.200}") from None
    if again != columns or _encode(columns) != data:  # an id in capitals, a blank in the JSON
        raise Malformed("the receipt's record is not as it is written")
    return columns
