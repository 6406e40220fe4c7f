"""Who lies where in a space: held, reserved and free stretches in address order, the inner inside the outer.

What ``map`` prints and ``document.py`` asks of the platform. Pure; separate from the printing so that both forms of the
answer, text and JSON, tell the same.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any, Literal, NamedTuple

from esrm.core.events import Holding
from esrm.core.resources import Space, bounds
from esrm.core.state import VmState


class Stretch(NamedTuple):
    """``first`` to ``last`` of a space, inclusive, and whose it is; ``depth`` counts the stretches around it."""

    space: Space
    first: int
    last: int
    state: Literal["held", "reserved", "free"]
    owner: str = ""
    kind: str = ""
    depth: int = 0

    def document(self) -> dict[str, Any]:
        """As JSON."""
        return {
            "space": self.space.value,
            "first": self.first,
            "first_hex": hex(self.first),
            "last": self.last,
            "last_hex": hex(self.last),
            "state": self.state,
            "owner": self.owner,
            "kind": self.kind,
            "depth": self.depth,
        }


def stretches(state: VmState, space: Space, *, free: bool = False) -> list[Stretch]:
    """All that is held and reserved in a space, and with ``free`` the holes of its pools.

    Of spaces that share pools, the one whose pools they are shows all, with the holes; the others show their own.
    """
    home = space if state.platform is None else state.platform.home(space)
    holders = [holding for holding in state.holders(space, 0, space.last) if space in (home, holding.space)]
    found = [_stretch(state, holding) for holding in _joined(holders)]
    if free and state.platform is not None and home is space:
        holes = state.allocator.ledger(space).free.overlapping(0, space.last)
        found += [Stretch(space, first, last, "free") for first, last in holes]
        found.sort(key=lambda s: (s.first, -s.last))
    return list(_nested(found))


def written(space: Space, first: int, last: int) -> str:
    """The range in the space's own notation, addresses at full width so that they line up and sort as text."""
    if not space.nests:
        return bounds(space, first, last)
    width = len(f"{space.last:x}")
    return f"0x{first:0{width}x}-0x{last:0{width}x}"


def _stretch(state: VmState, holding: Holding) -> Stretch:
    if holding.reserved:
        return Stretch(holding.space, holding.first, holding.last, "reserved", holding.owner)
    kind = state.devices[holding.owner].kind
    return Stretch(holding.space, holding.first, holding.last, "held", holding.owner, kind)


def _joined(holdings: Iterable[Holding]) -> Iterator[Holding]:
    """A device's run of KVM slots, which are one resource each, as one."""
    before: Holding | None = None
    for holding in holdings:
        if before is None:
            before = holding
        elif holding.space is Space.KVM_MEM_SLOT and (holding.owner, holding.first) == (before.owner, before.last + 1):
            before = Holding(before.owner, before.space, before.first, holding.last, before.reserved)
        else:
            yield before
            before = holding
    if before is not None:
        yield before


def _nested(found: Iterable[Stretch]) -> Iterator[Stretch]:
    """With their depths; they come outer before inner. The sharers of a line lie beside one another."""
    around: list[int] = []
    for stretch in found:
        while around and around[-1] < stretch.last:
            around.pop()
        yield stretch._replace(depth=len(around) if stretch.space.nests else 0)
        around.append(stretch.last)
