"""Trees and their proofs: judged by the published cases, and by the definition, written out, for every small tree."""

from __future__ import annotations

import hashlib
import json
import random
import tracemalloc
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

import pytest
from scale import pick, repeat, seed

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

SIZE = pick(quick=40, ci=130, soak=260)
"""Every tree up to this size."""
PARTS = 4
VECTORS: dict[str, Any] = json.loads((Path(__file__).parent / "merkle_vectors.json").read_text())
HASHES = [bytes.fromhex(text) for text in VECTORS["hashes"]]

LEAVES = [leaf_hash(n.to_bytes(4, "big")) for n in range(1 + SIZE)]


# -- the definition: RFC 6962, section 2.1, as it is written there ---------------------------------------------------


def below(size: int) -> int:
    """The largest power of two smaller than a size."""
    k = 1
    while 2 * k < size:
        k *= 2
    return k


@cache
def mth(first: int, last: int) -> bytes:
    """MTH(D[first:last])."""
    if first == last:
        return hashlib.sha256(b"").digest()
    if last - first == 1:
        return LEAVES[first]
    k = below(last - first)
    return hashlib.sha256(b"\1" + mth(first, first + k) + mth(first + k, last)).digest()


def path(m: int, first: int, last: int) -> list[bytes]:
    """PATH(m, D[first:last])."""
    if last - first == 1:
        return []
    k = below(last - first)
    if m < k:
        return [*path(m, first, first + k), mth(first + k, last)]
    return [*path(m - k, first + k, last), mth(first, first + k)]


def subproof(m: int, first: int, last: int, whole: bool) -> list[bytes]:
    """SUBPROOF(m, D[first:last], whole)."""
    if m == last - first:
        return [] if whole else [mth(first, last)]
    k = below(last - first)
    if m <= k:
        return [*subproof(m, first, first + k, whole), mth(first + k, last)]
    return [*subproof(m - k, first + k, last, False), mth(first, first + k)]


def turns(m: int, size: int) -> str:
    """On which side the siblings of a leaf stand, upward."""
    if size == 1:
        return ""
    k = below(size)
    return turns(m, k) + "r" if m < k else turns(m - k, size - k) + "l"


def old_turns(m: int, size: int, whole: bool = True) -> str:
    """The same for the nodes that prove a tree of m in one of ``size``; what it begins with comes first."""
    if m == size:
        return "w" if whole else "n"
    k = below(size)
    return old_turns(m, k, whole) + "r" if m <= k else old_turns(m - k, size - k, False) + "l"


# -- published cases -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("case", VECTORS["inclusion"], ids=lambda case: case[0])
def test_published_inclusion_cases(case: list[Any]) -> None:
    """Each is accepted or refused as transparency-dev/merkle publishes it."""
    _, index, size, leaf, root, proof, accepted = case
    assert verify_inclusion(HASHES[leaf], index, size, [HASHES[n] for n in proof], HASHES[root]) is accepted


@pytest.mark.parametrize("case", VECTORS["consistency"], ids=lambda case: case[0])
def test_published_consistency_cases(case: list[Any]) -> None:
    """Each is accepted or refused as transparency-dev/merkle publishes it."""
    _, old, new, old_root, new_root, proof, accepted = case
    path = [HASHES[n] for n in proof]
    assert verify_consistency(old, new, path, HASHES[old_root], HASHES[new_root]) is accepted


def test_all_published_cases_are_there() -> None:
    """98 of each, of which 6 inclusion proofs and 6 consistency proofs are good."""
    for kind in ("inclusion", "consistency"):
        assert (len(VECTORS[kind]), sum(case[-1] for case in VECTORS[kind])) == (98, 6)


def test_published_hashes() -> None:
    """The hashes that certificate transparency has published for its own tests."""
    assert EMPTY.hex() == "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"
    assert leaf_hash(b"").hex() == "6e340b9cffb37a989ca544e6bb780a2c78901d3fb33738768511a30617afa01d"
    assert leaf_hash(b"L123456").hex() == "395aa064aa4c29f7010acfe3f25db9485bbd4b91897b6ad7ad547639252b4d56"
    assert node_hash(b"N123", b"N456").hex() == "aa217fe888e47007fa15edab33c2b492a722cb106c64667fc2b044444de66bbb"
    inputs = ["", "00", "10", "2021", "3031", "40414243", "5051525354555657", "606162636465666768696a6b6c6d6e6f"]
    published = [
        "6e340b9cffb37a989ca544e6bb780a2c78901d3fb33738768511a30617afa01d",
        "fac54203e7cc696cf0dfcb42c92a1d9dbaf70ad9e621f4bd8d98662f00e3c125",
        "aeb6bcfe274b70a14fb067a5e5578264db0fa9b51af5e0ba159158f329e06e77",
        "d37ee418976dd95753c1c73862b9398fa2a2cf9b4ff0fdfe8b30cd95209614b7",
        "4e3bbb1f7b478dcfe71fb631631519a3bca12c9aefca1612bfce4c13a86264d4",
        "76e67dadbcdf1e10e1b74ddc608abd2f98dfb16fbce75277b5232a127f2087ef",
        "ddb89be403809e325750d3d263cd78929c2942b7942a34b77e122c9594a74c8c",
        "5dc9da79a70659a9ad559cb701ded9a2ab9d823aad2f4960cfe370eff4604328",
    ]
    edge = Edge()
    for text, root in zip(inputs, published, strict=True):
        edge.extend([leaf_hash(bytes.fromhex(text))])
        assert edge.root().hex() == root


# -- every small tree ------------------------------------------------------------------------------------------------


def sizes(part: int) -> Iterator[int]:
    """The sizes that are one part's."""
    return iter(range(1 + part, SIZE + 1, PARTS))


@pytest.mark.parametrize("part", range(PARTS))
def test_every_inclusion_proof(part: int) -> None:
    """For every leaf of every tree: the proof is the definition's, and it is accepted for that leaf alone."""
    for size in sizes(part):
        root = mth(0, size)
        for index in range(size):
            [whole, *proof] = roots(LEAVES, [(0, size), *inclusion_ranges(index, size)])
            assert (whole, proof) == (root, path(index, 0, size))
            assert verify_inclusion(LEAVES[index], index, size, proof, root)
            assert root_from_inclusion(LEAVES[index], index, size, proof) == root
            for other in {0, index - 1, index + 1, size - 1, index ^ 1, index ^ 2} - {index}:
                assert not verify_inclusion(LEAVES[index], other, size, proof, root), "another place"
                if 0 <= other < size:
                    assert not verify_inclusion(LEAVES[other], index, size, proof, root), "another leaf"


@pytest.mark.parametrize("part", range(PARTS))
def test_every_consistency_proof(part: int) -> None:
    """For every pair of sizes: the proof is the definition's, and it is accepted for those two roots alone."""
    for new in sizes(part):
        for old in range(1, new + 1):
            [old_root, new_root, *proof] = roots(LEAVES, [(0, old), (0, new), *consistency_ranges(old, new)])
            assert (old_root, new_root, proof) == (mth(0, old), mth(0, new), subproof(old, 0, new, True))
            assert verify_consistency(old, new, proof, old_root, new_root)
            if old < new:
                assert not verify_consistency(old, new, proof, new_root, old_root), "the other way round"
                assert not verify_consistency(old, new, proof, mth(0, old - 1), new_root), "another old root"
                assert not verify_consistency(old, new, proof, old_root, mth(0, new - 1)), "another new root"


def test_every_tree_begins_with_none_and_with_itself() -> None:
    """Nothing is needed to prove that."""
    for size in range(SIZE + 1):
        assert consistency_ranges(0, size) == consistency_ranges(size, size) == []


def damaged(proof: list[bytes], dice: random.Random) -> Iterator[list[bytes]]:
    """The proof with a bit of each hash flipped, each dropped, doubled or cut, neighbours swapped, and some added."""
    for n, node in enumerate(proof):
        bit = dice.randrange(256)
        flipped = (int.from_bytes(node) ^ 1 << bit).to_bytes(32)
        yield [*proof[:n], flipped, *proof[n + 1 :]]
        yield [*proof[:n], *proof[n + 1 :]]
        yield [*proof[:n], node, *proof[n:]]
        yield [*proof[:n], node[: dice.randrange(32)], *proof[n + 1 :]]
        if n and proof[n - 1] != node:
            yield [*proof[: n - 1], node, proof[n - 1], *proof[n + 1 :]]
    for added in (b"", EMPTY, dice.randbytes(32)):
        yield [*proof, added]
        yield [added, *proof]


@pytest.mark.parametrize("part", range(PARTS))
def test_every_damaged_proof_is_refused(part: int) -> None:
    """A proof in which anything was flipped, dropped, doubled, added or swapped shows nothing."""
    dice = random.Random(seed())
    again = repeat(seed(), f"tests/trust/test_merkle.py::test_every_damaged_proof_is_refused[{part}]")
    for size in sizes(part):
        for index in range(size):
            for proof in damaged(path(index, 0, size), dice):
                assert not verify_inclusion(LEAVES[index], index, size, proof, mth(0, size)), again
            for proof in damaged(subproof(1 + index, 0, size, True), dice):
                assert not verify_consistency(1 + index, size, proof, mth(0, 1 + index), mth(0, size)), again


def test_every_bit_of_a_proof_counts() -> None:
    """Each bit of each hash, of the leaf and of the roots, for all trees up to 9, and one with the longest proofs."""
    for size in (*range(1, 10), SIZE):
        for index in range(size) if size < 10 else [size // 2]:
            everything = [LEAVES[index], mth(0, size), *path(index, 0, size)]
            for leaf, root, *proof in one_bit_off(everything):
                assert not verify_inclusion(leaf, index, size, proof, root)
            old = 1 + index
            everything = [mth(0, old), mth(0, size), *subproof(old, 0, size, True)]
            for old_root, new_root, *proof in one_bit_off(everything):
                assert not verify_consistency(old, size, proof, old_root, new_root)


def one_bit_off(hashes: list[bytes]) -> Iterator[list[bytes]]:
    """The hashes with every bit, one at a time, the other way."""
    for n, hash in enumerate(hashes):
        for bit in range(256):
            yield [*hashes[:n], (int.from_bytes(hash) ^ 1 << bit).to_bytes(32), *hashes[n + 1 :]]


def test_no_byte_moves_from_one_hash_to_the_next() -> None:
    """A node is hashed over two hashes side by side; moving the border between them makes no second proof."""
    for size in range(2, 18):
        for index in range(size):
            for leaf, *proof in moved([LEAVES[index], *path(index, 0, size)]):
                assert not verify_inclusion(leaf, index, size, proof, mth(0, size))
            old, proof = index + 1, subproof(index + 1, 0, size, True)
            for changed in moved(proof):
                assert not verify_consistency(old, size, changed, mth(0, old), mth(0, size))
            for old_root, *changed in moved([mth(0, old), *proof]):
                assert not verify_consistency(old, size, changed, old_root, mth(0, size))


def moved(hashes: list[bytes]) -> Iterator[list[bytes]]:
    """The first two hashes with the border one byte further, whichever of them stands on the left."""
    if len(hashes) > 1:
        first, second, *rest = hashes
        yield [first[1:], second + first[:1], *rest]
        yield [first + second[:1], second[1:], *rest]


def test_a_size_counts_as_far_as_a_root_can_tell() -> None:
    """With another place or size a proof is refused, unless the siblings stand on the same sides there.

    A root does not say how many leaves it is of: so a size is worth nothing unless it is signed with its root, as in a
    checkpoint.
    """
    most = 13
    places = [(index, size) for size in range(most) for index in range(size)]
    pairs = [(old, new) for new in range(1, most) for old in range(1, new + 1)]
    for index, size in places:
        proof, root = path(index, 0, size), mth(0, size)
        for place in places:
            same = turns(*place) == turns(index, size)
            assert verify_inclusion(LEAVES[index], *place, proof, root) is same, (index, size, place)
    for old, new in pairs:
        proof, old_root, new_root = subproof(old, 0, new, True), mth(0, old), mth(0, new)
        for pair in pairs:
            same = old_turns(*pair) == old_turns(old, new)
            assert verify_consistency(*pair, proof, old_root, new_root) is same, (old, new, pair)


@pytest.mark.parametrize(("old", "new"), [(0, 0), (0, 1), (0, 7), (2, 1), (-1, 3), (1, -1), (2**64, 2**64 + 1)])
def test_what_needs_no_proof_is_not_proven(old: int, new: int) -> None:
    """Nothing is shown about an empty old tree, one that shrank, or one of an impossible size."""
    assert not verify_consistency(old, new, [], EMPTY, EMPTY if new == 0 else mth(0, 1))
    assert not verify_inclusion(LEAVES[0], old, old, [], LEAVES[0])


@pytest.mark.parametrize(("index", "size"), [(0, 0), (1, 1), (-1, 1), (5, 4)])
def test_no_proof_is_made_of_what_is_not_there(index: int, size: int) -> None:
    """Asked for a leaf or an older tree that never was, the maker of proofs says so."""
    with pytest.raises(ValueError, match=f"a tree of {size} has no leaf {index}"):
        inclusion_ranges(index, size)
    with pytest.raises(ValueError, match="does not begin with"):
        consistency_ranges(size + 1, size)


def test_leaves_that_end_too_early() -> None:
    """A range beyond the last leaf is an error that says how many there are, never the root of something else."""
    with pytest.raises(ValueError, match="there are 5 leaves, not 6"):
        roots(LEAVES[:5], [(0, 6), (2, 3)])
    assert roots(iter(LEAVES), [(0, 0)]) == [EMPTY]
    assert roots([], []) == []


# -- large ones ------------------------------------------------------------------------------------------------------


def test_a_large_tree_needs_no_memory() -> None:
    """A proof takes one pass over a stream of leaves, of which it keeps a few thousand at a time."""
    size = 30_000  # as a list they would take 2 MB
    tracemalloc.start()
    proof = roots((n.to_bytes(32, "big") for n in range(size)), inclusion_ranges(size // 3, size))
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert len(proof) == 15
    assert peak < 700_000


def test_a_large_tree() -> None:
    """Proofs of a large tree agree with the tree built level by level, which is another way to say the same."""
    size = pick(quick=30_000, ci=150_000, soak=1_500_000)
    index, old = size // 3, size - size // 7
    leaves = [n.to_bytes(32, "big") for n in range(size)]
    ranges = [(0, old), *consistency_ranges(old, size)]
    [old_root, *grown] = roots(leaves, ranges)
    proof = roots(leaves, inclusion_ranges(index, size))
    root = by_level(leaves)
    assert verify_inclusion(leaves[index], index, size, proof, root)
    assert verify_consistency(old, size, grown, old_root, root)
    assert old_root == by_level(leaves[:old])


def by_level(level: list[bytes]) -> bytes:
    """The root, by joining neighbours until one is left; the last one goes up alone where it has none."""
    while len(level) > 1:
        joined = [node_hash(*level[n : n + 2]) for n in range(0, len(level) - 1, 2)]
        level = joined + level[2 * len(joined) :]
    return level[0]
