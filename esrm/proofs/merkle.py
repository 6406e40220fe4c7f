"""The Merkle tree of RFC 6962: one hash for a whole log, and short proofs that a record is in it or that it only grew.

It decides how hashes become a root, and what a proof must be to hold. The algorithms are those of RFC 9162, section
2.1. Nothing here knows records, keys or files. A proof takes one pass over the leaves, and keeps a few dozen hashes.
Next: ``checkpoint.py``, where a root is signed.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence
from itertools import islice, pairwise
from typing import TypeAlias

HASH_BYTES = 32
EMPTY = hashlib.sha256(b"").digest()
"""The root of a tree without leaves."""

Range: TypeAlias = tuple[int, int]
"""Leaves from the first number up to, not including, the second."""

_sha256 = hashlib.sha256
_CHUNK = 4096


def leaf_hash(data: bytes) -> bytes:
    """The 32-byte hash of a leaf; the zero byte keeps leaves and nodes apart."""
    return _sha256(b"\0" + data).digest()


def node_hash(left: bytes, right: bytes) -> bytes:
    """The 32-byte hash of a node over its two children's."""
    return _sha256(b"\1" + left + right).digest()


class Edge:
    """The right edge of a growing tree: enough to add leaves and to know the root, in memory logarithmic in its size.

    Attributes:
        size: how many leaves it has.
    """

    def __init__(self) -> None:
        self.size = 0
        self._nodes: list[bytes] = []  # roots of the perfect subtrees, one for each bit that is set in the size

    def extend(self, leaves: Iterable[bytes]) -> None:
        """Add leaves, given by their hashes (``leaf_hash``)."""
        nodes, size, sha256 = self._nodes, self.size, _sha256
        for node in leaves:
            rest = size
            while rest & 1:
                node = sha256(b"\1" + nodes.pop() + node).digest()
                rest >>= 1
            nodes.append(node)
            size += 1
        self.size = size

    def root(self) -> bytes:
        """The 32-byte root of all leaves so far."""
        nodes = iter(reversed(self._nodes))
        root = next(nodes, EMPTY)
        for node in nodes:
            root = node_hash(node, root)
        return root


def roots(leaves: Iterable[bytes], ranges: Sequence[Range]) -> list[bytes]:
    """The roots of ranges of leaves, each as of a tree of its own, in one pass.

    Args:
        leaves: their hashes, from the first on; no more of them are taken than the ranges need.
        ranges: which; they may overlap, at the cost of hashing twice.

    Raises:
        ValueError: the leaves end before a range does.
    """
    stream, edges = iter(leaves), [Edge() for _ in ranges]
    cuts = sorted({0, *(cut for range in ranges for cut in range)})
    for start, end in pairwise(cuts):
        active = [edge for edge, (first, last) in zip(edges, ranges, strict=True) if first <= start and end <= last]
        left = end - start
        while left:
            chunk = list(islice(stream, min(left, _CHUNK)))
            if not chunk:
                raise ValueError(f"there are {end - left} leaves, not {cuts[-1]}")
            for edge in active:
                edge.extend(chunk)
            left -= len(chunk)
    return [edge.root() for edge in edges]


def inclusion_ranges(index: int, size: int) -> list[Range]:
    """The ranges whose roots are the inclusion proof of a leaf in a tree of ``size``: from its sibling upward.

    Raises:
        ValueError: there is no such leaf.
    """
    if not 0 <= index < size:
        raise ValueError(f"a tree of {size} has no leaf {index}")
    path: list[Range] = []
    first, last = 0, size
    while last - first > 1:
        middle = _split(first, last)
        if index < middle:
            path.append((middle, last))
            last = middle
        else:
            path.append((first, middle))
            first = middle
    return path[::-1]


def consistency_ranges(old: int, new: int) -> list[Range]:
    """The ranges whose roots prove that the tree of ``new`` begins with the tree of ``old``; none from 0 or to itself.

    Raises:
        ValueError: the old tree is the larger one.
    """
    if not 0 <= old <= new:
        raise ValueError(f"a tree of {new} does not begin with one of {old}")
    if old in (0, new):
        return []
    path: list[Range] = []
    first, last = 0, new
    while last != old:
        middle = _split(first, last)
        if old <= middle:
            path.append((middle, last))
            last = middle
        else:
            path.append((first, middle))
            first = middle
    if first:  # else what is left is the whole old tree, whose root the verifier has
        path.append((first, last))
    return path[::-1]


def root_from_inclusion(leaf: bytes, index: int, size: int, path: Sequence[bytes]) -> bytes | None:
    """The root that a leaf's hash and its inclusion proof lead to; None if the proof has not the shape for such a leaf.

    RFC 9162, section 2.1.3.2.
    """
    if not 0 <= index < size or not _are_hashes([leaf, *path]):
        return None
    place, last, root = index, size - 1, leaf
    for node in path:
        if not last:
            return None
        if place & 1 or place == last:
            root = node_hash(node, root)
            while not place & 1 and place:
                place, last = place >> 1, last >> 1
        else:
            root = node_hash(root, node)
        place, last = place >> 1, last >> 1
    return None if last else root


def verify_inclusion(leaf: bytes, index: int, size: int, path: Sequence[bytes], root: bytes) -> bool:
    """Whether the proof shows that the tree of that size and root has this leaf (its hash) at that index."""
    return root_from_inclusion(leaf, index, size, path) == root


def verify_consistency(old: int, new: int, path: Sequence[bytes], old_root: bytes, new_root: bytes) -> bool:
    """Whether the proof shows that the new tree begins with all leaves of the old one, which has some.

    RFC 9162, section 2.1.4.2. That any tree begins with the empty one needs no proof, so none is accepted.
    """
    if not 1 <= old <= new:
        return False
    if old == new:
        return not path and old_root == new_root
    if not _are_hashes([old_root, new_root, *path]):
        return False
    if old & (old - 1) == 0:  # a perfect tree: its root is the first node, and not sent
        path = [old_root, *path]
    if not path:
        return False
    place, last = old - 1, new - 1
    while place & 1:
        place, last = place >> 1, last >> 1
    first = second = path[0]
    for node in path[1:]:
        if not last:
            return False
        if place & 1 or place == last:
            first, second = node_hash(node, first), node_hash(node, second)
            while not place & 1 and place:
                place, last = place >> 1, last >> 1
        else:
            second = node_hash(second, node)
        place, last = place >> 1, last >> 1
    return not last and first == old_root and second == new_root


def _split(first: int, last: int) -> int:
    """Where a tree of two or more leaves divides: behind the largest power of two that is smaller than its size."""
    return first + (1 << (last - first - 1).bit_length() - 1)


def _are_hashes(hashes: Sequence[bytes]) -> bool:
    return all(len(hash) == HASH_BYTES for hash in hashes)
