"""Tamper evidence by proofs: what somebody who does not hold the log can know about it for certain.

A checkpoint says what a VM's log was, signed; a receipt shows that a record was in it; a witness cosigns that it only
grew. All are text in the open formats of https://c2sp.org, so other programs read them. Signing and checking signatures
needs the package ``cryptography`` (esrm's extra ``proofs``), which is imported when it is first needed.

Read ``merkle.py`` (trees), ``keys.py`` and ``note.py`` (signatures), ``tree.py`` (a VM's log as a tree),
``checkpoint.py``, ``receipt.py``, ``witness.py`` (with ``files.py``). The page for users is ``docs/proofs.md``.
"""

from esrm.proofs.checkpoint import Checkpoint, Opened, open_checkpoint, origin_of, speaks_for, vm_of
from esrm.proofs.keys import LOG, WITNESS, SigningKey, VerifierKey
from esrm.proofs.merkle import (
    EMPTY,
    Edge,
    consistency_ranges,
    inclusion_ranges,
    leaf_hash,
    node_hash,
    root_from_inclusion,
    roots,
    verify_consistency,
    verify_inclusion,
)
from esrm.proofs.note import Note, Signature, Signed, sign, verified
from esrm.proofs.receipt import Columns, Receipt, columns_of, open_receipt
from esrm.proofs.tree import leaves, tree_roots
from esrm.proofs.witness import Request, Witness

__all__ = [
    "EMPTY",
    "LOG",
    "WITNESS",
    "Checkpoint",
    "Columns",
    "Edge",
    "Note",
    "Opened",
    "Receipt",
    "Request",
    "Signature",
    "Signed",
    "SigningKey",
    "VerifierKey",
    "Witness",
    "columns_of",
    "consistency_ranges",
    "inclusion_ranges",
    "leaf_hash",
    "leaves",
    "node_hash",
    "open_checkpoint",
    "open_receipt",
    "origin_of",
    "root_from_inclusion",
    "roots",
    "sign",
    "speaks_for",
    "tree_roots",
    "verified",
    "verify_consistency",
    "verify_inclusion",
    "vm_of",
]
