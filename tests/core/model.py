"""The judge: a machine's numbers as plain sets, searched one by one, with none of esrm's cleverness.

``Model`` is one space: its pool is a set of integers, its holders a dictionary. ``World`` is a platform of them, and
places whole requests by the rules as people read them: fixed wishes first, the rest in order, lowest (or highest)
place that fits, all or nothing. It shares nothing with ``esrm.core`` but the constraints' fields.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from itertools import combinations
from random import Random
from typing import Any, NamedTuple

from telling import give, vm

import esrm
from esrm import Space

WIDTH = 96
"""A world's spaces are this wide: small, so that everything can be tried."""


class Asked(NamedTuple):
    """A wish in numbers: ``size`` of them, aligned, inside ``low``..``high``, or at one place."""

    size: int
    align: int
    low: int
    high: int
    last: bool
    exact: int | None
    shared: bool
    windowed: bool

    @property
    def fixed(self) -> bool:
        """Whether it names its place, or a window that, were it empty, had at most one place."""
        if self.exact is not None:
            return True
        if not self.windowed or self.high - self.low > 4 * WIDTH:
            return False
        return sum(1 for base in range(self.low, self.high + 1) if self.fits(base)) <= 1

    def fits(self, base: int) -> bool:
        return base % self.align == 0 and self.low <= base and base + self.size - 1 <= self.high


class No(NamedTuple):
    """A wish that has no place, and the model as it was when that was found."""

    index: int
    asked: Asked
    model: Model
    device: str

    @property
    def code(self) -> str:
        return self.model.code(self.asked)


class Reasons(NamedTuple):
    """What a refusal should say."""

    window: tuple[int, int]
    holes: list[int]
    aligned: int
    blockers: list[tuple[str, int, int]]
    releases: int | None


class Model:
    """One space, or (``apart``) the windows of a parent, over whose seams nothing may lie."""

    def __init__(
        self,
        space: Space,
        pools: Sequence[tuple[int, int]],
        reserved: Iterable[tuple[int, int, str]] = (),
        line: int | None = None,
        *,
        apart: bool = False,
    ) -> None:
        self.space, self.line = space, line
        self.seams = {first for first, _ in pools} if apart else set()
        self.pool = {n for first, last in pools for n in range(first, last + 1)} - {line}
        self.walls = sorted(reserved)
        self.reserved = {n for first, last, _ in self.walls for n in range(first, last + 1)}
        self.holders: dict[int, list[str]] = {}
        self.ranges: list[tuple[int, int, str]] = []
        self.shared: set[int] = set()
        self.free = self.pool - self.reserved

    @property
    def window(self) -> tuple[int, int]:
        return (min(self.pool), max(self.pool)) if self.pool else (0, self.space.last)

    def can_have(self, number: int, *, shared: bool) -> bool:
        """Whether a number is to be had by name: of the pool, any Ethernet address, or the shared line by a sharer."""
        if number in self.reserved or number in self.holders:
            return False
        return number in self.pool or self.space is Space.MAC or (shared and number == self.line)

    def search(self, asked: Asked) -> int | None:
        if asked.shared:
            line = self.line if asked.exact is None else asked.exact
            if line is None and self.shared:
                line = min(self.shared)
            if line is None:
                return min(self.free, default=None)
            return line if line in self.shared or self.can_have(line, shared=True) else None
        if asked.exact is not None:
            wanted = range(asked.exact, asked.exact + asked.size)
            whole = self.seams.isdisjoint(wanted[1:])
            return asked.exact if whole and all(self.can_have(n, shared=False) for n in wanted) else None
        free = self.free
        for base in sorted(free, reverse=asked.last):
            wanted = range(base, base + asked.size)
            if asked.fits(base) and all(n in free for n in wanted) and self.seams.isdisjoint(wanted[1:]):
                return base
        return None

    def take(self, base: int, asked: Asked, owner: str) -> None:
        for number in range(base, base + asked.size):
            assert number not in self.holders or (asked.shared and number in self.shared)
            self.holders.setdefault(number, []).append(owner)
            self.free.discard(number)
        each = 1 if self.space is Space.KVM_MEM_SLOT else asked.size
        self.ranges += [(first, first + each - 1, owner) for first in range(base, base + asked.size, each)]
        if asked.shared:
            self.shared.add(base)

    def give(self, owner: str) -> None:
        self.ranges = [entry for entry in self.ranges if entry[2] != owner]
        for number in [n for n, owners in self.holders.items() if owner in owners]:
            self.holders[number] = [other for other in self.holders[number] if other != owner]
            if not self.holders[number]:
                del self.holders[number]
                self.shared.discard(number)
                self.free |= {number} & self.pool

    def without(self, owners: Iterable[str]) -> Model:
        """The same space, had these been released."""
        twin = Model.__new__(Model)
        twin.__dict__ = {
            **self.__dict__,
            "ranges": list(self.ranges),
            "shared": set(self.shared),
            "free": set(self.free),
        }
        twin.holders = {number: list(names) for number, names in self.holders.items()}
        for owner in owners:
            twin.give(owner)
        return twin

    def searched(self, asked: Asked) -> tuple[int, int]:
        if asked.exact is not None:
            return (asked.exact, min(asked.exact + asked.size - 1, self.space.last))
        return (self.line, self.line) if asked.shared and self.line is not None else (asked.low, asked.high)

    def reasons(self, asked: Asked, device: str) -> Reasons:
        """Why there is no place, all of it counted one by one."""
        window = self.searched(asked)
        free = {n for n in self.free if window[0] <= n <= window[1]}
        alone = asked.size == 1 and window[0] == window[1]
        if alone and self.can_have(window[0], shared=asked.shared):
            free.add(window[0])
        holes = runs(free, self.seams)
        aligned = max((hole[-1] - up(hole[0], asked.align) + 1 for hole in holes), default=0)
        by_name = alone and (asked.shared or asked.exact not in (None, self.line))
        touching: dict[tuple[int, int], list[str]] = {}
        for first, last, who in sorted(self.ranges):
            if first <= window[1] and last >= window[0] and (by_name or first in self.pool):
                touching.setdefault((first, last), []).append(who)
        walls = [(first, last, who) for first, last, who in self.walls if first <= window[1] and last >= window[0]]
        blockers = sorted([*joined(touching, self.seams), *walls])
        return Reasons(
            window,
            [len(hole) for hole in holes],
            max(0, aligned),
            [(who, first, last) for first, last, who in blockers],
            self.fewest(asked, device),
        )

    def code(self, asked: Asked) -> str:
        if asked.exact is None:
            return "NoSpace"
        window = self.searched(asked)
        if asked.exact + asked.size - 1 > self.space.last:
            return "OutOfRange"
        wanted = range(window[0], window[1] + 1)
        if any(number in self.reserved for number in wanted):
            return "AddressConflict"
        if window[0] == self.line and not asked.shared:
            return "OutOfRange"
        known = all(n in self.pool or self.space is Space.MAC or (asked.shared and n == self.line) for n in wanted)
        return "AddressConflict" if known and self.seams.isdisjoint(wanted[1:]) else "OutOfRange"

    def fewest(self, asked: Asked, device: str) -> int | None:
        """How few devices would have to be released to make it fit; None when no release helps. All sets are tried."""
        owners = sorted({who for _, _, who in self.ranges} - {device})
        for count in range(1, len(owners) + 1):
            for some in combinations(owners, count):
                if self.without(some).search(asked) is not None:
                    return count
        return None


class World:
    """A platform of models, and who holds what in it."""

    def __init__(self, platform: esrm.Platform) -> None:
        self.platform = platform
        self.models: dict[Space, Model] = {}
        for space in Space:
            if platform.joined.get(space, space) is not space:
                continue
            walls = [
                (r.first, r.last, r.owner) for r in platform.reserved if platform.joined.get(r.space, r.space) is space
            ]
            wired = platform.joined.get(Space.LEGACY_IRQ, Space.LEGACY_IRQ)
            line = platform.shared_irq if space is wired else None
            self.models[space] = Model(space, platform.pools.get(space, ()), walls, line)

    def model(self, space: Space) -> Model:
        return self.models[self.platform.joined.get(space, space)]

    def place(self, device: str, constraints: Sequence[Any]) -> list[int] | No:
        """The bases, in request order, entered; or the first that has none, and nothing is changed."""
        wishes = [self.asked(constraint) for constraint in constraints]
        bases = [0] * len(wishes)
        before = self.models
        self.models = {**before, **{m.space: m.without(()) for m in (self.model(c.space) for c in constraints)}}
        order = [i for i, a in enumerate(wishes) if a.fixed] + [i for i, a in enumerate(wishes) if not a.fixed]
        for index in order:
            model = self.model(constraints[index].space)
            base = model.search(wishes[index])
            if base is None:
                self.models = before
                return No(index, wishes[index], model, device)
            model.take(base, wishes[index], device)
            bases[index] = base
        return bases

    def give(self, device: str) -> None:
        for model in self.models.values():
            model.give(device)

    def asked(self, constraint: Any) -> Asked:
        """A constraint in numbers."""
        c, model = constraint, self.model(constraint.space)
        window = getattr(c, "range", None)
        low, high = window or model.window
        policy = getattr(c, "policy", None) or self.platform.policy
        size = getattr(c, "size", 1)
        exact: int | None = None
        align = 1
        match c:
            case esrm.LegacyIrqConstraint():
                exact = c.irq
            case esrm.KvmMemSlotConstraint():
                exact = c.slot
            case esrm.MacAddressConstraint():
                exact = None if c.address is None else int(c.address.replace(":", ""), 16)
            case esrm.PciMsiIrqConstraint():
                exact, align = c.base, c.size
            case esrm.PciMsixIrqConstraint() | esrm.GenericIrqConstraint():
                exact = c.base
            case _:
                exact, align = (low if policy == "exact" else None), c.align
        return Asked(size, align, low, high, policy == "last", exact, getattr(c, "shared", False), window is not None)


def runs(numbers: Iterable[int], seams: Iterable[int] = ()) -> list[list[int]]:
    """Sorted, cut where numbers are missing and at the seams."""
    found: list[list[int]] = []
    for number in sorted(numbers):
        if found and number == found[-1][-1] + 1 and number not in seams:
            found[-1].append(number)
        else:
            found.append([number])
    return found


def joined(places: dict[tuple[int, int], list[str]], seams: Iterable[int]) -> list[tuple[int, int, str]]:
    """Neighbouring ranges with the same holders as one, for each holder."""
    found: list[tuple[int, int, list[str]]] = []
    for (first, last), owners in sorted(places.items()):
        if found and found[-1][1] + 1 == first and found[-1][2] == owners and first not in seams:
            found[-1] = (found[-1][0], last, owners)
        else:
            found.append((first, last, owners))
    return [(first, last, who) for first, last, owners in found for who in owners]


def up(number: int, align: int) -> int:
    """The next aligned number."""
    return -(-number // align) * align


# -- worlds and wishes, by dice --------------------------------------------------------------------------------------


def origin(dice: Random, space: Space) -> int:
    """Where a small world begins: at the bottom, somewhere, or so that it ends where the space does."""
    return dice.choice([0, 0, 64, 4096, space.last - WIDTH + 1, space.last - WIDTH + 1])


def small_platform(dice: Random, space: Space, joined: bool = False) -> esrm.Platform:
    """A few pools of one space (touching or not), some reserved ranges (overlapping or not), perhaps a shared line."""
    start = origin(dice, Space.LEGACY_IRQ if joined else space)
    cuts = sorted(dice.sample(range(WIDTH + 1), 2 * dice.randint(1, 3)))
    pools = [(start + a, start + b - 1) for a, b in zip(cuts[::2], cuts[1::2], strict=True)]
    if dice.random() < 0.4:
        pools = [(start, start + dice.randint(0, WIDTH // 2)), (start + WIDTH // 2 + 1, start + WIDTH - 1)]
    reserved = []
    for number in range(dice.choice([0, 0, 1, 2, 3])):
        first = start + dice.randrange(WIDTH)
        reserved.append((space, first, min(first + dice.randrange(8), start + WIDTH - 1), f"wall{number}"))
    wired = joined or space is Space.LEGACY_IRQ
    line = dice.choice([None, None, start + dice.randrange(WIDTH)]) if wired else None
    policy = dice.choice(["first", "first", "last"])
    if joined:
        host, guest = dice.sample([Space.LEGACY_IRQ, Space.MSI_IRQ], 2)
        return esrm.Platform("small", {host: pools}, reserved, line, policy, {guest: host})
    return esrm.Platform("small", {space: pools}, reserved, line, policy)


def wish(dice: Random, space: Space, platform: esrm.Platform) -> Any:
    """One constraint that a small world may or may not meet."""
    pools = platform.pools[platform.joined.get(space, space)]
    near = max(0, min(pools[0][0], space.last) - 2)

    def number() -> int:
        return min(near + dice.randrange(WIDTH + 4), space.last)

    match space:
        case Space.PIO | Space.MMIO | Space.MEM:
            return _range(dice, space, number)
        case Space.LEGACY_IRQ:
            return esrm.LegacyIrqConstraint(dice.choice([None, None, number()]), dice.random() < 0.3)
        case Space.MSI_IRQ:
            if dice.random() < 0.3:
                return esrm.PciMsiIrqConstraint(2 ** dice.randrange(5))
            base = dice.choice([None, None, None, number()])
            return dice.choice([esrm.PciMsixIrqConstraint, esrm.GenericIrqConstraint])(dice.randint(1, 12), base)
        case Space.KVM_MEM_SLOT:
            return esrm.KvmMemSlotConstraint(dice.randint(1, 8), dice.choice([None, None, number()]))
        case Space.MAC:
            address = dice.choice([None, None, number(), dice.randrange(2**48)])
            return esrm.MacAddressConstraint(None if address is None else address.to_bytes(6, "big").hex(":"))


BEHIND = {Space.PIO: esrm.PioConstraint, Space.MMIO: esrm.MmioConstraint}


def behind_a_bridge(space: Space, platform: esrm.Platform) -> tuple[esrm.VmState, World]:
    """The same pools as windows of a bridge on a wide platform: what is behind lies whole in one of them."""
    state, pools = vm({space: [(0, space.last)]}, policy=platform.policy), platform.pools[space]
    give(state, "bridge", *[BEHIND[space](last - first + 1, (first, last), 1, "exact") for first, last in pools])
    world = World(platform)
    world.models[space] = Model(space, pools, apart=True)
    return state, world


SUBJECTS = [*Space, "joined", "behind"]
"""Every space alone, lines and messages out of one pool, and the windows of a bridge."""


def small_world(dice: Random, subject: Any) -> tuple[list[Space], esrm.Platform, esrm.VmState, World, str | None]:
    """Which spaces to ask of, the pools to ask near, a new VM and its model, and whom to live inside."""
    spaces = [Space.LEGACY_IRQ, Space.MSI_IRQ] if subject == "joined" else [subject]
    if subject == "behind":
        spaces = [dice.choice(list(BEHIND))]
        platform = small_platform(dice, spaces[0])
        return (spaces, platform, *behind_a_bridge(spaces[0], platform), "bridge")
    platform = small_platform(dice, spaces[0], subject == "joined")
    return spaces, platform, esrm.replay([esrm.VmCreated(platform)]), World(platform), None


def _range(dice: Random, space: Space, number: Any) -> Any:
    kind = {Space.PIO: esrm.PioConstraint, Space.MMIO: esrm.MmioConstraint, Space.MEM: esrm.MemConstraint}[space]
    size, align = dice.choice([1, 1, 2, 3, 4, 7, 8, 16, 24]), dice.choice([1, 1, 1, 2, 4, 8, 16, 32])
    what = dice.random()
    if what < 0.5:
        return kind(size, align=align, policy=dice.choice([None, None, "first", "last"]))
    low, high = sorted((number(), number()))
    if what < 0.8:
        return kind(size, (low, high), align, dice.choice([None, "first", "last"]))
    low &= -align
    return kind(min(size, space.last - low + 1), (low, space.last), align, "exact")
