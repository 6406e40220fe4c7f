"""Where a device's constraints fit, all of them or none; and if they do not, exactly why.

A request is placed on scratch: the ledgers stay as they are, and what the request itself has taken so far is kept
aside and stepped over. Success is a tuple of resources in request order; failure is a ``Refusal`` with the numbers an
operator needs. So there is no roll-back code, here or anywhere.

The rules: fixed wishes (an exact line, slot or address, a window that leaves one place) go first, so that no automatic
one takes their place; the rest in request order, each at the lowest place that fits unless ``last`` is asked for.
Next: ``allocator.py``, which is searched, and ``decide.py``, which turns the answer into an event.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Literal, NamedTuple

from esrm import errors
from esrm.core.allocator import Ledger
from esrm.core.events import Holding, Refusal
from esrm.core.platform import Platform, Range
from esrm.core.ranges import RangeMap
from esrm.core.resources import (
    U64_MAX,
    GenericIrqConstraint,
    KvmMemSlot,
    KvmMemSlotConstraint,
    LegacyIrq,
    LegacyIrqConstraint,
    MacAddress,
    MacAddressConstraint,
    MemAddressRange,
    MemConstraint,
    MmioAddressRange,
    MmioConstraint,
    MsiIrq,
    MsiIrqType,
    PciMsiIrqConstraint,
    PciMsixIrqConstraint,
    PioAddressRange,
    PioConstraint,
    Resource,
    ResourceConstraint,
    Space,
    bounds,
    mac_number,
    mac_text,
)

BLOCKERS_MAX = 16
"""A refusal names at most this many holders and releases: it is an event, and an event is short."""


# -- wishes: every constraint in one form ----------------------------------------------------------------------------


class Wish(NamedTuple):
    """A constraint as the search sees it: ``size`` numbers, aligned, in a window, or at exactly one place."""

    size: int
    align: int = 1
    window: Range | None = None
    policy: Literal["first", "last"] | None = None
    exact: int | None = None
    shared: bool = False

    @property
    def fixed(self) -> bool:
        """Whether there is at most one place for it."""
        return self.exact is not None or (self.window is not None and _places(self) <= 1)


def wish(constraint: ResourceConstraint) -> Wish:
    """What a constraint asks of the search."""
    match constraint:
        case PioConstraint() | MmioConstraint() | MemConstraint():
            if constraint.policy == "exact" and constraint.range is not None:
                return Wish(constraint.size, constraint.align, exact=constraint.range[0])
            policy = constraint.policy if constraint.policy != "exact" else None
            return Wish(constraint.size, constraint.align, constraint.range, policy)
        case LegacyIrqConstraint():
            return Wish(1, exact=constraint.irq, shared=constraint.shared)
        case PciMsiIrqConstraint():
            return Wish(constraint.size, align=constraint.size, exact=constraint.base)
        case PciMsixIrqConstraint() | GenericIrqConstraint():
            return Wish(constraint.size, exact=constraint.base)
        case KvmMemSlotConstraint():
            return Wish(constraint.size, exact=constraint.slot)
        case MacAddressConstraint():
            return Wish(1, exact=None if constraint.address is None else mac_number(constraint.address))


def _places(asked: Wish) -> int:
    """How many places the window leaves, in an empty space."""
    low, high = asked.window or (0, U64_MAX)
    return max(0, (high - asked.size + 1 - _up(low, asked.align)) // asked.align + 1)


def resources_at(constraint: ResourceConstraint, first: int) -> Iterator[Resource]:
    """The resources that meet a constraint when it is placed at ``first``."""
    match constraint:
        case PioConstraint():
            yield PioAddressRange(first, constraint.size)
        case MmioConstraint():
            yield MmioAddressRange(first, constraint.size)
        case MemConstraint():
            yield MemAddressRange(first, constraint.size)
        case LegacyIrqConstraint():
            yield LegacyIrq(first)
        case PciMsiIrqConstraint():
            yield MsiIrq(MsiIrqType.PCI_MSI, first, constraint.size)
        case PciMsixIrqConstraint():
            yield MsiIrq(MsiIrqType.PCI_MSIX, first, constraint.size)
        case GenericIrqConstraint():
            yield MsiIrq(MsiIrqType.GENERIC_MSI, first, constraint.size)
        case KvmMemSlotConstraint():
            for index in range(first, first + constraint.size):
                yield KvmMemSlot(index)
        case MacAddressConstraint():
            yield MacAddress(constraint.address or mac_text(first))


# -- the placement ---------------------------------------------------------------------------------------------------


class Scratch:
    """Ledgers as they are, and what one or more requests would take of them, kept aside."""

    def __init__(self, platform: Platform) -> None:
        self.platform = platform
        self._taken: dict[int, RangeMap[None]] = {}
        self._shared: set[tuple[int, int]] = set()

    def place(
        self, device: str, constraints: Sequence[ResourceConstraint], ledger: Callable[[Space], Ledger]
    ) -> tuple[Resource, ...]:
        """Resources for all the constraints, in their order.

        Raises:
            NoSpace, AddressConflict, OutOfRange: with the ``Refusal`` of the first constraint that cannot be met.
        """
        wishes = [wish(constraint) for constraint in constraints]
        bases = [0] * len(wishes)
        for index in sorted(range(len(wishes)), key=lambda i: not wishes[i].fixed):
            constraint, asked = constraints[index], wishes[index]
            book = ledger(constraint.space)
            taken = self._taken.setdefault(id(book), RangeMap())
            base = self._search(book, taken, asked)
            if base is None:
                raise refused(device, index, constraint, asked, book, taken)
            bases[index] = base
            self._take(book, taken, base, asked)
        return tuple(r for c, base in zip(constraints, bases, strict=True) for r in resources_at(c, base))

    def _take(self, book: Ledger, taken: RangeMap[None], base: int, asked: Wish) -> None:
        if not asked.shared:
            taken.insert(base, base + asked.size - 1, None)
        elif base not in book.shared and (id(book), base) not in self._shared:
            self._shared.add((id(book), base))
            taken.insert(base, base, None)

    def _search(self, book: Ledger, taken: RangeMap[None], asked: Wish) -> int | None:
        if asked.shared:
            return self._shared_line(book, taken, asked)
        if asked.exact is not None:
            return asked.exact if _is_free(book, taken, asked.exact, asked.size) else None
        low, high = asked.window or book.window
        if (asked.policy or self.platform.policy) == "last":
            return _last_fit(book, taken, asked, low, high)
        return _first_fit(book, taken, asked, low, high)

    def _shared_line(self, book: Ledger, taken: RangeMap[None], asked: Wish) -> int | None:
        """The line asked for, else the platform's, else the lowest that is shared already, else the lowest free one."""
        joined = book.shared | {line for ledger, line in self._shared if ledger == id(book)}
        line = asked.exact if asked.exact is not None else book.shared_line
        if line is None and joined:
            line = min(joined)
        if line is None:
            return _first_fit(book, taken, asked, *book.window)
        free = book.beyond.at(line) if line == book.shared_line else book.free.at(line)
        return line if line in joined or (free and not taken.at(line)) else None


def _is_free(book: Ledger, taken: RangeMap[None], first: int, size: int) -> bool:
    last = first + size - 1
    if first == book.shared_line:
        return False  # for sharers only
    hole = book.free.at(first) or book.beyond.at(first)
    return hole is not None and last <= hole[1] and next(taken.overlapping(first, last), None) is None


def _first_fit(book: Ledger, taken: RangeMap[None], asked: Wish, low: int, high: int) -> int | None:
    """The lowest place; what this request took before is stepped over, one touching run at a time."""
    while True:
        base = book.free.first_fit(asked.size, asked.align - 1, low, high)
        if base is None:
            return None
        run = list(taken.overlapping(base, base + asked.size - 1))
        if not run:
            return base
        low = run[-1][1] + 1


def _last_fit(book: Ledger, taken: RangeMap[None], asked: Wish, low: int, high: int) -> int | None:
    """The highest place, likewise."""
    while True:
        base = book.free.last_fit(asked.size, asked.align - 1, low, high)
        if base is None:
            return None
        run = next(taken.overlapping(base, base + asked.size - 1), None)
        if run is None:
            return base
        if run[0] == 0:
            return None
        high = run[0] - 1


def _up(number: int, align: int) -> int:
    return (number + align - 1) & -align


# -- and if not, why not ---------------------------------------------------------------------------------------------


class _Segment(NamedTuple):
    """A stretch of the window: free (no owners), held, or a wall that no release can move."""

    first: int
    last: int
    owners: tuple[str, ...] = ()
    wall: bool = False


def refused(
    device: str, index: int, constraint: ResourceConstraint, asked: Wish, book: Ledger, taken: RangeMap[None]
) -> errors.Refused:
    """The error that says why a wish has no place, its ``refusal`` filled in. It costs a walk through the window."""
    window = asked.window or book.window
    if asked.exact is not None:
        window = (asked.exact, asked.exact + asked.size - 1)
    elif asked.shared and book.shared_line is not None:
        window = (book.shared_line, book.shared_line)
    segments = list(_segments(device, book, taken, *window))
    free = [s for s in segments if not s.owners]
    holes = [s.last - s.first + 1 for s in free]
    aligned = [s.last - _up(s.first, asked.align) + 1 for s in free]
    error, text = _verdict(device, asked, book, window, segments, holes, max(aligned, default=0))
    releases = () if error is errors.OutOfRange else _releases(segments, asked, *window)
    if releases:
        text += f"; releasing {_named(book.space, segments, releases)} would do"
    refusal = Refusal(
        code=error.__name__,
        message=text,
        index=index,
        constraint=constraint,
        space=constraint.space,
        window=(window[0], min(window[1], U64_MAX)),
        free=min(sum(holes), U64_MAX),
        holes=len(holes),
        hole_max=min(max(holes, default=0), U64_MAX),
        hole_max_aligned=min(max(0, *aligned, 0), U64_MAX),
        blockers=tuple(
            Holding(owner, book.space, s.first, s.last, s.wall) for s in segments for owner in s.owners
        )[:BLOCKERS_MAX],
        releases=releases[:BLOCKERS_MAX],
    )
    return error(text, refusal=refusal)


def _verdict(
    device: str,
    asked: Wish,
    book: Ledger,
    window: Range,
    segments: list[_Segment],
    holes: list[int],
    aligned: int,
) -> tuple[type[errors.Refused], str]:
    space = book.space
    where = bounds(space, *window)
    if asked.exact is not None:
        if any(device in s.owners for s in segments):
            return errors.AddressConflict, f"{device}: {space.value} {where} is asked for twice by this device"
        denial = book.denial(*window)
        return type(denial), f"{device}: {denial}"
    text = f"{device}: no {_count(space, asked.size)} of {space.value}"
    if asked.align > 1:
        text += f" aligned to {_count(space, asked.align)}"
    text += f" in {where}" if book.pools or asked.window else f": there is no pool of {space.value}"
    if not holes:
        return errors.NoSpace, f"{text}; nothing is free there"
    plural = "" if len(holes) == 1 else "s"
    text += f"; {_count(space, sum(holes))} free in {len(holes)} hole{plural}, the largest {_count(space, max(holes))}"
    if max(holes) >= asked.size > aligned:
        text += f" ({_count(space, max(0, aligned))} once aligned)"
    return errors.NoSpace, text


def _count(space: Space, number: int) -> str:
    """How many: bytes and ports in hexadecimal, all else in decimal."""
    return f"{number:#x}" if space.nests else str(number)


def _named(space: Space, segments: list[_Segment], names: tuple[str, ...]) -> str:
    """Each device with the range of it that is in the way."""
    shown: list[str] = []
    for name in names[:BLOCKERS_MAX]:
        first, last = next((s.first, s.last) for s in segments if name in s.owners)
        shown.append(f"{name} ({bounds(space, first, last)})")
    return " and ".join(shown)


def _segments(device: str, book: Ledger, taken: RangeMap[None], low: int, high: int) -> Iterator[_Segment]:
    """The window in address order: every free, held and reserved stretch; what lies in no pool is left out."""
    parts: list[_Segment] = [_Segment(h.first, h.last, (h.owner,), h.reserved) for h in book.holdings(low, high)]
    parts += [_Segment(first, last, (device,), True) for first, last, _ in taken.overlapping(low, high)]
    source = book.beyond if book.beyond.at(low) else book.free
    for first, last, _ in source.overlapping(low, high):
        for own, end, _ in taken.overlapping(first, last):
            if own > first:
                parts.append(_Segment(first, own - 1))
            first = end + 1
        if first <= last:
            parts.append(_Segment(first, last))
    for part in sorted(parts, key=lambda s: s.first):
        if part.first <= high and part.last >= low:
            yield part._replace(first=max(part.first, low), last=min(part.last, high)) if not part.owners else part


def _releases(segments: list[_Segment], asked: Wish, low: int, high: int) -> tuple[str, ...]:
    """The fewest devices whose release makes room, by sliding a frame of the size asked for over the window.

    Only frames that start at the first aligned place of a stretch matter: any other can slide down to one of those
    without touching another holder. Two pointers, so linear in the number of stretches.
    """
    best: tuple[str, ...] = ()
    inside: dict[str, int] = {}
    walls = right = 0
    for left, segment in enumerate(segments):
        base = asked.exact if asked.exact is not None else _up(max(segment.first, low), asked.align)
        end = base + asked.size - 1
        while right < len(segments) and segments[right].first <= end and (right <= left or _touch(segments, right)):
            walls += segments[right].wall
            for owner in segments[right].owners:
                inside[owner] = inside.get(owner, 0) + 1
            right += 1
        covered = segment.first <= base <= segment.last and segments[right - 1].last >= end and end <= high
        if covered and not walls and (not best or len(inside) < len(best)):
            best = tuple(dict.fromkeys(owner for s in segments[left:right] for owner in s.owners))
        walls -= segment.wall
        for owner in segment.owners:
            inside[owner] -= 1
            if not inside[owner]:
                del inside[owner]
    return best


def _touch(segments: list[_Segment], index: int) -> bool:
    """Whether a stretch goes on where the one before it ended."""
    return segments[index].first <= segments[index - 1].last + 1
