"""What may be drawn: constraints, resources, platforms and events, at their edges more often than chance would.

Also ``dice``, through which hypothesis plays the part of ``random.Random``: a story written for one runs with both,
small and shrunk under hypothesis, long and from a seed without it. Next: ``model.py``, which judges the stories.
"""

from __future__ import annotations

import os
from typing import Any

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st

import esrm
from esrm import Space

SPACES = list(Space)
U16, U32, U64 = 2**16 - 1, 2**32 - 1, 2**64 - 1


def scaled(number: int) -> int:
    """So many, or less where ``ESRM_TEST_SCALE`` (0 to 1) says so: CI tries hard on one Python, less on the others."""
    return max(1, round(number * float(os.environ.get("ESRM_TEST_SCALE", "1"))))


def bounded(examples: int) -> settings:
    """How hard a test tries: so many examples, no clock, and a failure that says how to see it again."""
    return settings(
        max_examples=scaled(examples),
        deadline=None,
        print_blob=True,
        database=None,
        suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
    )


def dice() -> st.SearchStrategy[Any]:
    """A ``random.Random`` whose throws hypothesis chooses, and shrinks."""
    return st.randoms(use_true_random=False)


def numbers(low: int, high: int) -> st.SearchStrategy[int]:
    """Integers in low..high, the ends and the powers of two among them more often."""
    edges = {low, high, *(n for bit in range(65) for n in (2**bit - 1, 2**bit) if low <= n <= high)}
    return st.one_of(st.sampled_from(sorted(edges)), st.integers(low, high))


names = st.text(st.characters(codec="utf-8", categories=["L", "M", "N", "P", "S"]), min_size=1, max_size=12)
mac_texts = st.integers(0, 2**48 - 1).map(lambda number: number.to_bytes(6, "big").hex(":"))

RANGE_CONSTRAINTS = [esrm.PioConstraint, esrm.MmioConstraint, esrm.MemConstraint]
RANGES = [esrm.PioAddressRange, esrm.MmioAddressRange, esrm.MemAddressRange]


@st.composite
def range_constraints(draw: st.DrawFn) -> esrm.ResourceConstraint:
    """A wish for addresses: with or without a window, and now and then for an exact place."""
    kind = draw(st.sampled_from(RANGE_CONSTRAINTS))
    top = kind.space.last
    align = 2 ** draw(st.integers(0, top.bit_length() - 1))
    window = draw(st.none() | st.tuples(numbers(0, top), numbers(0, top)).map(lambda ends: tuple(sorted(ends))))
    policy = draw(st.sampled_from([None, "first", "last"]))
    size = draw(numbers(1, top))
    if window is not None and draw(st.booleans()):
        window = (window[0] & -align, window[1])
        size, policy = min(size, window[1] - window[0] + 1), "exact"
    return kind(size, range=window, align=align, policy=policy)


@st.composite
def address_ranges(draw: st.DrawFn) -> esrm.Resource:
    """A range that ends inside its space."""
    kind = draw(st.sampled_from(RANGES))
    base = draw(numbers(0, kind.space.last))
    return kind(base, draw(numbers(1, min(kind.space.last - base + 1, U64))))


@st.composite
def msi_groups(draw: st.DrawFn) -> esrm.MsiIrq:
    """A group of vectors that ends inside its space."""
    base = draw(numbers(0, U32))
    return esrm.MsiIrq(draw(st.sampled_from(esrm.MsiIrqType)), base, draw(numbers(1, min(U32 - base + 1, U32))))


u32 = numbers(0, U32)
counts = numbers(1, U32)
constraints: st.SearchStrategy[Any] = st.one_of(
    range_constraints(),
    st.builds(esrm.LegacyIrqConstraint, irq=st.none() | u32, shared=st.booleans()),
    st.builds(esrm.PciMsiIrqConstraint, size=counts, base=st.none() | u32),
    st.builds(esrm.PciMsixIrqConstraint, size=counts, base=st.none() | u32),
    st.builds(esrm.GenericIrqConstraint, size=counts, base=st.none() | u32),
    st.builds(esrm.KvmMemSlotConstraint, size=counts, slot=st.none() | u32),
    st.builds(esrm.MacAddressConstraint, address=st.none() | mac_texts),
)
resources: st.SearchStrategy[Any] = st.one_of(
    address_ranges(),
    st.builds(esrm.LegacyIrq, irq=u32),
    msi_groups(),
    st.builds(esrm.KvmMemSlot, index=u32),
    st.builds(esrm.MacAddress, address=mac_texts),
)


@st.composite
def platforms(draw: st.DrawFn) -> esrm.Platform:
    """Any platform that does not contradict itself."""
    pools: dict[Space, list[tuple[int, int]]] = {}
    for space in draw(st.lists(st.sampled_from(SPACES), unique=True)):
        ends = sorted(draw(st.lists(numbers(0, space.last), unique=True, max_size=6)))
        pools[space] = list(zip(ends[::2], ends[1::2], strict=False))
    reserved: list[esrm.Reserved] = []
    for space in draw(st.lists(st.sampled_from(SPACES), max_size=4)):
        first, last = sorted((draw(numbers(0, space.last)), draw(numbers(0, space.last))))
        reserved.append(esrm.Reserved(space, first, last, draw(names)))
    joined = {Space.MSI_IRQ: Space.LEGACY_IRQ} if Space.MSI_IRQ not in pools and draw(st.booleans()) else {}
    policy = draw(st.sampled_from(["first", "last"]))
    return esrm.Platform(draw(names), pools, reserved, draw(st.none() | u32), policy, joined)


spaces = st.sampled_from(SPACES)
u64 = numbers(0, U64)
parents = st.none() | names
some_resources = st.lists(resources, max_size=4).map(tuple)
holdings = st.builds(esrm.Holding, owner=names, space=spaces, first=u64, last=u64, reserved=st.booleans())
refusals = st.builds(
    esrm.Refusal,
    code=names,
    message=names,
    index=u32,
    constraint=constraints,
    space=spaces,
    window=st.tuples(u64, u64),
    free=u64,
    holes=u32,
    hole_max=u64,
    hole_max_aligned=u64,
    blockers=st.lists(holdings, max_size=3).map(tuple),
    releases=st.lists(names, max_size=3).map(tuple),
)
EVENTS: dict[type, st.SearchStrategy[Any]] = {
    esrm.VmCreated: st.builds(esrm.VmCreated, platform=platforms()),
    esrm.DeviceCreated: st.builds(esrm.DeviceCreated, device=names, kind=names, parent=parents),
    esrm.ConstraintsDeclared: st.builds(
        esrm.ConstraintsDeclared, device=names, constraints=st.lists(constraints, max_size=4).map(tuple)
    ),
    esrm.ResourcesAllocated: st.builds(esrm.ResourcesAllocated, device=names, resources=some_resources),
    esrm.AllocationRefused: st.builds(esrm.AllocationRefused, device=names, refusal=refusals),
    esrm.ResourcesAssigned: st.builds(esrm.ResourcesAssigned, device=names),
    esrm.DeviceRegistered: st.builds(esrm.DeviceRegistered, device=names),
    esrm.UnplugRequested: st.builds(esrm.UnplugRequested, device=names),
    esrm.UnplugRefused: st.builds(esrm.UnplugRefused, device=names, reason=names),
    esrm.DeviceUnregistered: st.builds(esrm.DeviceUnregistered, device=names),
    esrm.ResourcesReleased: st.builds(esrm.ResourcesReleased, device=names, resources=some_resources, reason=names),
    esrm.ResourcesMoved: st.builds(
        esrm.ResourcesMoved,
        moves=st.lists(st.builds(esrm.Move, device=names, old=resources, new=resources), max_size=3).map(tuple),
    ),
    esrm.DeviceRemoved: st.builds(esrm.DeviceRemoved, device=names),
}
"""For every event type, any event of it."""
events = st.one_of(*EVENTS.values())
