"""Where a device's constraints fit, all of them or none; and if they do not, exactly why.

A request is placed on scratch: the ledgers stay as they are, and what the request itself has taken so far is kept
aside and stepped over. Success is a tuple of resources in request order; failure is a ``Refusal`` with the numbers an
operator needs. So there is no roll-back code, here or anywhere.

The rules: fixed wishes (an exact line, slot or address, a window that leaves one place) go first, so that no automatic
one takes their place; the rest in request order, each at the lowest place that fits unless ``last`` is asked for.
Next: ``allocator.py``, which is searched, and ``decide.py``, which turns the answer into an event.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Sequence
from itertools import chain
from typing import Literal, NamedTuple

from esrm import errors
from esrm.core.allocator import BLOCKERS_MAX, Ledger
from esrm.core.events import Holding, Refusal
from esrm.core.platform import Platform, Range
from esrm.core.ranges import RangeSet
from esrm.core.resources import (
    PCI_MSI_MAX,
    PCI_MSIX_MAX,
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
    span,
)

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
    """What a constraint asks of the search.

    Raises:
        InvalidConstraint: a group of interrupts that no PCI function can have.
    """
    match constraint:
        case PioConstraint() | MmioConstraint() | MemConstraint():
            if constraint.policy == "exact" and constraint.range is not None:
                return Wish(constraint.size, constraint.align, exact=constraint.range[0])
            policy = constraint.policy if constraint.policy != "exact" else None
            return Wish(constraint.size, constraint.align, constraint.range, policy)
        case LegacyIrqConstraint():
            return Wish(1, exact=constraint.irq, shared=constraint.shared)
        case PciMsiIrqConstraint(size, base):
            if size > PCI_MSI_MAX or size & (size - 1):
                raise errors.InvalidConstraint(f"a PCI MSI group has 1, 2, 4 ... {PCI_MSI_MAX} vectors, not {size}")
            if base is not None and base & (size - 1):
                raise errors.InvalidConstraint(f"a PCI MSI group of {size} is aligned to it; {base} is not")
            return Wish(size, align=size, exact=base)
        case PciMsixIrqConstraint(size, base):
            if size > PCI_MSIX_MAX:
                raise errors.InvalidConstraint(f"a PCI MSI-X table has at most {PCI_MSIX_MAX} vectors, not {size}")
            return Wish(size, exact=base)
        case GenericIrqConstraint(size, base):
            return Wish(size, exact=base)
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
    """Ledgers as they are, and what one or more requests would take of them, pencilled in."""

    def __init__(self, platform: Platform) -> None:
        self.platform = platform
        self._pages: dict[int, _Page] = {}

    def place(
        self, device: str, constraints: Sequence[ResourceConstraint], ledger: Callable[[Space], Ledger]
    ) -> tuple[Resource, ...]:
        """Resources for all the constraints, in their order; of a refused request nothing stays pencilled in.

        Raises:
            NoSpace, AddressConflict, OutOfRange: with the ``Refusal`` of the first constraint that cannot be met.
        """
        wishes = [wish(constraint) for constraint in constraints]
        found: list[tuple[Resource, ...]] = [()] * len(wishes)
        pages: dict[int, _Page] = {}  # of this request
        for index in sorted(range(len(wishes)), key=lambda i: not wishes[i].fixed):
            constraint, asked = constraints[index], wishes[index]
            book = ledger(constraint.space)
            page = pages.get(id(book))
            if page is None:
                page = pages[id(book)] = self._pages.setdefault(id(book), _Page(book))
                page.begin()
            base = page.search(asked, self.platform.policy)
            if base is None:
                error = refused(device, index, constraint, asked, page)
                for page in pages.values():
                    page.rub_out()
                raise error
            found[index] = tuple(resources_at(constraint, base))
            for _, first, last in map(span, found[index]):
                page.pencil_in(Holding(device, book.space, first, last), shared=asked.shared)
        return tuple(chain.from_iterable(found))


class _Page:
    """One ledger, which stays as it is, and what is pencilled into it."""

    def __init__(self, book: Ledger) -> None:
        self.book = book
        self.holdings: list[Holding] = []
        self.taken = RangeSet()  # the same as runs without gaps, so that a search steps over each once
        self.shared: set[int] = set()
        self._reached: dict[Wish, int] = {}  # the same wish need not look again where it has found nothing

    def begin(self) -> None:
        """What is pencilled in from now on is of one request, and can be rubbed out."""
        self._begun = len(self.holdings)
        self._own: list[Range] = []  # what the request itself has made taken, and not joined in sharing
        self._reached_before = dict(self._reached)

    def pencil_in(self, holding: Holding, *, shared: bool) -> None:
        """Enter what a device would hold."""
        self.holdings.append(holding)
        if shared and self._is_shared(holding.first):
            return
        self.taken.release(holding.first, holding.last)
        self._own.append((holding.first, holding.last))
        if shared:
            self.shared.add(holding.first)

    def rub_out(self) -> None:
        """Forget what the request would have held."""
        del self.holdings[self._begun :]
        for first, last in self._own:
            self.taken.carve(first, last)
            self.shared.discard(first)
        self._reached = self._reached_before

    def search(self, asked: Wish, policy: Literal["first", "last"]) -> int | None:
        """Where there is a place for it: its first number."""
        if asked.shared:
            return self._shared_line(asked)
        if asked.exact is not None:
            return asked.exact if self._is_free(asked.exact, asked.exact + asked.size - 1) else None
        low, high = asked.window or self.book.window
        if (asked.policy or policy) == "last":
            base = self._last_fit(asked, low, self._reached.get(asked, high))
            self._reached[asked] = high if base is None else base + asked.size - 1
        else:
            base = self._first_fit(asked, self._reached.get(asked, low), high)
            self._reached[asked] = low if base is None else base
        return base

    def _shared_line(self, asked: Wish) -> int | None:
        """The line asked for, else the platform's, else the lowest that is shared already, else the lowest free one."""
        line = asked.exact if asked.exact is not None else self.book.shared_line
        if line is None:
            line = min(self.book.shared | self.shared, default=None)
        if line is None:
            return self._first_fit(asked, *self.book.window)
        free = self.book.source(line).at(line) and not self.taken.at(line)
        return line if free or self._is_shared(line) else None

    def _is_shared(self, line: int) -> bool:
        return line in self.book.shared or line in self.shared

    def _is_free(self, first: int, last: int) -> bool:
        if first == self.book.shared_line:
            return False  # for sharers only
        hole = self.book.source(first).at(first)
        return hole is not None and last <= hole[1] and next(self.taken.overlapping(first, last), None) is None

    def _first_fit(self, asked: Wish, low: int, high: int) -> int | None:
        """The lowest place; what is pencilled in is stepped over."""
        while True:
            base = self.book.free.first_fit(asked.size, asked.align - 1, low, high)
            if base is None:
                return None
            run = list(self.taken.overlapping(base, base + asked.size - 1))
            if not run:
                return base
            low = run[-1][1] + 1

    def _last_fit(self, asked: Wish, low: int, high: int) -> int | None:
        """The highest place, likewise."""
        while True:
            base = self.book.free.last_fit(asked.size, asked.align - 1, low, high)
            if base is None:
                return None
            run = next(self.taken.overlapping(base, base + asked.size - 1), None)
            if run is None:
                return base
            if run[0] == 0:
                return None
            high = run[0] - 1

    def segments(self, low: int, high: int, *, beyond: bool) -> list[_Segment]:
        """The window in address order: every free, held and reserved stretch. What lies in no pool is left out, or
        (``beyond``) only what cannot be had by name either."""
        places: dict[tuple[int, int, bool], list[str]] = {}
        pencilled = [holding for holding in self.holdings if holding.first <= high and holding.last >= low]
        for holding in [*self.book.holdings(low, high), *pencilled]:
            if beyond or holding.reserved or self.book.source(holding.first) is self.book.free:
                places.setdefault((holding.first, holding.last, holding.reserved), []).append(holding.owner)
        parts: list[_Segment] = []
        for (first, last, reserved), who in sorted(places.items()):
            part = _Segment(first, last, tuple(sorted(who)), reserved)
            before = parts[-1] if parts else part
            if before.last + 1 == first and before[2:] == part[2:] and first not in self.book.seams:
                part = parts.pop()._replace(last=last)  # people count devices, not the slots of a group
            parts.append(part)
        free = [*self.book.free.overlapping(low, high), *(self.book.beyond.overlapping(low, high) if beyond else ())]
        for first, last in ((max(first, low), min(last, high)) for first, last in free):
            for own, end in self.taken.overlapping(first, last):
                if own > first:
                    parts.append(_Segment(first, own - 1))
                first = end + 1
            if first <= last:
                parts.append(_Segment(first, last))
        return sorted(parts, key=lambda part: (part.first, part.last))


def _up(number: int, align: int) -> int:
    return (number + align - 1) & -align


# -- and if not, why not ---------------------------------------------------------------------------------------------


class _Segment(NamedTuple):
    """A stretch of the window: free (no owners), held, or reserved by the platform."""

    first: int
    last: int
    owners: tuple[str, ...] = ()
    reserved: bool = False


def refused(device: str, index: int, constraint: ResourceConstraint, asked: Wish, page: _Page) -> errors.Refused:
    """The error that says why a wish has no place, its ``refusal`` filled in. It costs a walk through the window."""
    book = page.book
    window = asked.window or book.window
    if asked.exact is not None:
        window = (asked.exact, min(asked.exact + asked.size - 1, constraint.space.last))
    elif asked.shared and book.shared_line is not None:
        window = (book.shared_line, book.shared_line)
    beyond = asked.shared or (asked.exact is not None and asked.size == 1 and asked.exact != book.shared_line)
    segments = page.segments(*window, beyond=beyond)
    blockers = [Holding(owner, book.space, s.first, s.last, s.reserved) for s in segments for owner in s.owners]
    holes = [s.last - s.first + 1 for s in segments if not s.owners]
    aligned = max((s.last - _up(s.first, asked.align) + 1 for s in segments if not s.owners), default=0)
    error, text = _verdict(device, asked, book, window, blockers, holes, aligned)
    releases = {} if error is errors.OutOfRange else _releases(device, segments, asked, book.seams, *window)
    if releases:
        named = " and ".join(f"{owner} ({bounds(book.space, *place)})" for owner, place in releases.items())
        text += f"; releasing {named} would do"
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
        hole_max_aligned=min(max(0, aligned), U64_MAX),
        blockers=tuple(blockers[:BLOCKERS_MAX]),
        releases=tuple(releases),
    )
    return error(text, refusal=refusal)


def _verdict(
    device: str,
    asked: Wish,
    book: Ledger,
    window: Range,
    blockers: list[Holding],
    holes: list[int],
    aligned: int,
) -> tuple[type[errors.Refused], str]:
    space = book.space
    where = bounds(space, *window)
    if asked.exact is not None:
        denial = book.denial(asked.exact, asked.exact + asked.size - 1, blockers)
        own = any(blocker.owner == device and not blocker.reserved for blocker in blockers)
        if own and isinstance(denial, errors.AddressConflict):
            return errors.AddressConflict, f"{device}: {space.value} {where} is asked for twice by this device"
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


def _releases(
    device: str, segments: list[_Segment], asked: Wish, seams: Collection[int], low: int, high: int
) -> dict[str, Range]:
    """The fewest devices whose release makes room, each with the first range of it that is in the way; none when that
    takes more than ``BLOCKERS_MAX``. Found by sliding a frame of the size asked for over the window.

    Only frames that start at the first aligned place of a stretch matter: any other can slide down to one of those
    without touching another holder. Two pointers, so linear in the number of stretches.
    """
    best: list[_Segment] = []
    fewest = BLOCKERS_MAX + 1
    inside: dict[str, int] = {}
    walls = right = 0
    for left, segment in enumerate(segments):
        base = asked.exact if asked.exact is not None else _up(max(segment.first, low), asked.align)
        end = base + asked.size - 1
        while (
            right < len(segments) and segments[right].first <= end and (right <= left or _touch(segments, right, seams))
        ):
            walls += _is_wall(device, segments[right])
            for owner in segments[right].owners:
                inside[owner] = inside.get(owner, 0) + 1
            right += 1
        covered = segment.first <= base <= segment.last and segments[right - 1].last >= end and end <= high
        if covered and not walls and len(inside) < fewest:
            best, fewest = segments[left:right], len(inside)
        walls -= _is_wall(device, segment)
        for owner in segment.owners:
            inside[owner] -= 1
            if not inside[owner]:
                del inside[owner]
    found: dict[str, Range] = {}
    for segment in best:
        for owner in segment.owners:
            found.setdefault(owner, (segment.first, segment.last))
    return found


def _is_wall(device: str, segment: _Segment) -> bool:
    """Whether no release of another device can move it: it is reserved, or what the asker itself has taken."""
    return segment.reserved or device in segment.owners


def _touch(segments: list[_Segment], index: int, seams: Collection[int]) -> bool:
    """Whether a stretch goes on where the one before it ended, and not across a seam."""
    first = segments[index].first
    return first <= segments[index - 1].last + 1 and first not in seams
