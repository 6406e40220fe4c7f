"""A VM's records as the leaves of a tree.

Leaf n is the record of revision n, and its data the 32 bytes of that record's hash in the chain; so a tree's size is
the last revision plus one, and a leaf stands for every column of its record and of all before it. The hashes are
computed from the columns anew: what a root covers is what the records say, not what their hash columns say. Next:
``merkle.py``.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterator, Sequence

from esrm.errors import Corrupt, Unproven
from esrm.proofs.merkle import Range, leaf_hash, roots
from esrm.stores.chain import GENESIS, Rows, link

TICK = 1000


def leaves(reader: Rows, vm: str, tick: Callable[[int], object] | None = None) -> Iterator[bytes]:
    """The leaf hashes of a VM's tree, streaming, each only if its record is as it was written.

    Args:
        reader: a synchronous face of the store.
        vm: whose tree.
        tick: called now and then with the number of leaves so far, for a progress bar.

    Raises:
        Corrupt: names the first record that is not.
    """
    previous, count = GENESIS, 0
    for row in reader.rows(vm):
        try:
            computed = link(previous, *row[:8])
        except (AttributeError, TypeError, ValueError, struct.error) as error:
            raise Corrupt(f"{vm}, revision {count}: a column holds what no store writes; see esrm verify") from error
        if row[2] != count or computed != row[8]:
            raise Corrupt(f"{vm}, revision {count}: the record is not as it was written; esrm verify says more")
        yield leaf_hash(computed)
        previous, count = computed, count + 1
        if tick is not None and not count % TICK:
            tick(count)


def tree_roots(
    reader: Rows, vm: str, ranges: Sequence[Range], tick: Callable[[int], object] | None = None
) -> list[bytes]:
    """The roots of ranges of a VM's leaves, in one pass over its log (``merkle.roots``).

    Raises:
        Unproven: the log ends before a range does.
        Corrupt: a record is not as it was written.
    """
    try:
        return roots(leaves(reader, vm, tick), ranges)
    except ValueError as error:
        raise Unproven(f"{vm}: the log was cut short, or is another one: {error}") from None
