"""The rules of placement: where a wish goes, and when it has no place, exactly why. Plans and moves obey the same."""

from __future__ import annotations

import random
from random import Random
from typing import Any

import pytest
from hypothesis import given
from model import SUBJECTS, No, small_world, wish
from strategies import bounded, dice
from telling import calls, declared, do, firsts, give, spans, take_back, tried, vm

import esrm
from esrm import (
    AddressConflict,
    GenericIrqConstraint,
    InUse,
    InvalidConstraint,
    InvalidName,
    KvmMemSlot,
    KvmMemSlotConstraint,
    LegacyIrq,
    LegacyIrqConstraint,
    MacAddressConstraint,
    MmioAddressRange,
    MmioConstraint,
    Move,
    NotAllocated,
    OutOfRange,
    PciMsiIrqConstraint,
    PciMsixIrqConstraint,
    PioAddressRange,
    PioConstraint,
    Refused,
    Space,
    TooLarge,
    UnknownDevice,
    VmState,
    WrongPhase,
    decide,
)
from esrm.core.allocator import BLOCKERS_MAX
from esrm.core.events import encode

# -- the rules of design section 5, one each -------------------------------------------------------------------------


def refusal(state: VmState, device: str, *constraints: Any, parent: str | None = None) -> tuple[str, esrm.Refusal]:
    """The class's name and the reason, of a request that cannot be met; nothing has moved."""
    declared(state, device, *constraints, parent=parent)
    before, usage = state.copy(), state.allocator.usage()
    with pytest.raises(Refused) as refused:
        decide.allocate(state, device)
    assert state == before
    assert state.allocator.usage() == usage
    reason = refused.value.refusal
    assert reason.code == type(refused.value).__name__
    assert reason.message == str(refused.value)
    return reason.code, reason


LINES = {Space.LEGACY_IRQ: [(5, 9)]}
MMIO = {Space.MMIO: [(0, 0xFFFF)]}


def test_first_fit_from_the_bottom() -> None:
    """The lowest address that satisfies size, alignment and window; small holes are filled first."""
    state = vm({Space.MMIO: [(0x100, 0xFFFF)]})
    assert firsts(give(state, "a", MmioConstraint(0x10, align=1))) == [0x100]
    assert firsts(give(state, "b", MmioConstraint(0x10))) == [0x1000]
    assert firsts(give(state, "c", MmioConstraint(0x10, align=1))) == [0x110]
    assert firsts(give(state, "d", MmioConstraint(0x10, (0x8001, 0xFFFF), align=2))) == [0x8002]


def test_last_and_exact_when_asked_for() -> None:
    """``last`` fills from the top, ``exact`` is the window's first address; the platform's policy is the default."""
    state = vm(MMIO)
    assert firsts(give(state, "a", MmioConstraint(0x1000, policy="last"))) == [0xF000]
    assert firsts(give(state, "b", MmioConstraint(0x1000, (0x2000, 0x8FFF), policy="last"))) == [0x8000]
    assert firsts(give(state, "c", MmioConstraint(0x1000, (0x2000, 0x8FFF), policy="exact"))) == [0x2000]
    top_down = vm(MMIO, policy="last")
    assert firsts(give(top_down, "a", MmioConstraint(0x1000))) == [0xF000]
    assert firsts(give(top_down, "b", MmioConstraint(0x1000, policy="first"))) == [0x0000]


def test_the_same_state_gives_the_same_answer() -> None:
    """Asked twice, or of a copy, or of a replayed state, the answer is the same."""
    state = vm(MMIO)
    give(state, "a", MmioConstraint(0x3000))
    declared(state, "b", MmioConstraint(0x1000), MmioConstraint(0x2000, policy="last"))
    assert decide.allocate(state, "b") == decide.allocate(state, "b") == decide.allocate(state.copy(), "b")


@pytest.mark.parametrize(
    ("constraints", "expected"),
    [
        ([LegacyIrqConstraint(), LegacyIrqConstraint(5)], [6, 5]),
        ([LegacyIrqConstraint(), LegacyIrqConstraint(), LegacyIrqConstraint(6)], [5, 7, 6]),
        ([LegacyIrqConstraint(), LegacyIrqConstraint(5, shared=True)], [6, 5]),
        ([KvmMemSlotConstraint(), KvmMemSlotConstraint(2, slot=0)], [2, 0, 1]),
        ([GenericIrqConstraint(4), GenericIrqConstraint(2, base=24)], [26, 24]),
        ([MmioConstraint(0x1000), MmioConstraint(0x1000, (0, 0xFFF))], [0x1000, 0]),
        ([MmioConstraint(0x1000), MmioConstraint(0x1000, (1, 0x1FFF), policy="last")], [0, 0x1000]),
        ([MmioConstraint(0x1000), MmioConstraint(0x1000, (0, 0xFFFF), policy="exact")], [0x1000, 0]),
        ([MacAddressConstraint(), MacAddressConstraint("00:00:00:00:00:02")], [3, 2]),
    ],
)
def test_fixed_wishes_before_automatic_ones(constraints: list[Any], expected: list[int]) -> None:
    """A wish with one place goes first, so that no automatic one takes it; results stay in request order."""
    pools = {
        **LINES,
        **MMIO,
        Space.KVM_MEM_SLOT: [(0, 9)],
        Space.MSI_IRQ: [(24, 99)],
        Space.MAC: [(2, 9)],
    }
    assert firsts(give(vm(pools), "a", *constraints)) == expected


def test_a_request_is_all_or_nothing() -> None:
    """When one of many cannot be met, none is taken, and the refusal says which."""
    state = vm({**LINES, **MMIO})
    code, reason = refusal(state, "a", MmioConstraint(0x1000), LegacyIrqConstraint(), LegacyIrqConstraint(99))
    assert (code, reason.index, reason.constraint) == ("OutOfRange", 2, LegacyIrqConstraint(99))
    assert state.allocator.usage()[Space.MMIO].free == 0x10000


def test_msi_groups() -> None:
    """MSI is aligned to its count; MSI-X and generic groups are contiguous wherever they fit."""
    state = vm({Space.MSI_IRQ: [(25, 200)]})
    assert firsts(give(state, "a", PciMsixIrqConstraint(3))) == [25]
    assert firsts(give(state, "b", PciMsiIrqConstraint(8))) == [32]
    assert firsts(give(state, "c", GenericIrqConstraint(4))) == [28]
    assert firsts(give(state, "d", PciMsiIrqConstraint(32))) == [64]
    assert firsts(give(state, "e", PciMsiIrqConstraint(1))) == [40]
    (group,) = give(state, "f", PciMsixIrqConstraint(12))
    assert (group.base, group.size, group.type) == (41, 12, esrm.MsiIrqType.PCI_MSIX)


def test_a_group_of_slots_is_slots_in_a_row() -> None:
    """One KvmMemSlot a slot, from a fixed start or anywhere; released, all are free."""
    state = vm({Space.KVM_MEM_SLOT: [(0, 9)]})
    assert give(state, "a", KvmMemSlotConstraint(3, slot=2)) == [esrm.KvmMemSlot(n) for n in (2, 3, 4)]
    assert firsts(give(state, "b", KvmMemSlotConstraint(4))) == [5, 6, 7, 8]
    assert firsts(give(state, "c", KvmMemSlotConstraint(2))) == [0, 1]
    do(state, decide.release, "a")
    assert firsts(give(state, "d", KvmMemSlotConstraint(3))) == [2, 3, 4]


def test_a_shared_line_is_counted_by_name() -> None:
    """Any number of sharers, listed by name; exclusive requests step around it; the last to leave frees it."""
    state = vm(LINES)
    for device in ("a", "b", "c"):
        assert firsts(give(state, device, LegacyIrqConstraint(shared=True))) == [5]
    assert [h.owner for h in state.allocator.ledger(Space.LEGACY_IRQ).holdings(5, 5)] == ["a", "b", "c"]
    assert firsts(give(state, "x", LegacyIrqConstraint())) == [6]
    code, reason = refusal(state, "y", LegacyIrqConstraint(5))
    assert code == "AddressConflict"
    assert reason.message == (
        "y: legacy_irq 5 is held by a (5), b (5), c (5); releasing a (5) and b (5) and c (5) would do"
    )
    for device in ("b", "a", "c"):
        with pytest.raises(AddressConflict):
            decide.allocate(state, "y")
        do(state, decide.release, device)
    do(state, decide.allocate, "y")
    assert firsts(list(state.devices["y"].allocated)) == [5]


def test_an_exclusive_line_cannot_be_joined() -> None:
    """Sharing takes two: a line that one holds alone is a conflict for a sharer, and named."""
    state = vm(LINES)
    give(state, "a", LegacyIrqConstraint(5))
    code, reason = refusal(state, "b", LegacyIrqConstraint(5, shared=True))
    assert (code, reason.releases) == ("AddressConflict", ("a",))
    assert firsts(give(state, "c", LegacyIrqConstraint(shared=True))) == [6]
    assert firsts(give(state, "d", LegacyIrqConstraint(shared=True))) == [6]


def test_the_shared_line_is_not_free_for_one_alone() -> None:
    """Asked for exclusively, the platform's shared line is out of range, and no number says that it was free."""
    state = vm(LINES, shared_irq=6)
    code, reason = refusal(state, "a", LegacyIrqConstraint(6))
    assert (code, reason.free, reason.holes, reason.blockers) == ("OutOfRange", 0, 0, ())
    assert reason.message == "a: legacy_irq 6 is the shared line; only LegacyIrqConstraint(shared=True) is given it"
    give(state, "s", LegacyIrqConstraint(shared=True))
    assert refusal(state, "b", LegacyIrqConstraint(6))[1].releases == ()
    assert [h.owner for h in refusal(state, "c", *[LegacyIrqConstraint()] * 5)[1].blockers] == ["c", "c"]


def test_groups_that_a_pci_function_can_have() -> None:
    """MSI: a power of two up to 32, at a base that is aligned to it; MSI-X: up to 2,048, anywhere."""
    pools = {Space.MSI_IRQ: [(0, 9999)]}
    for size in (1, 2, 4, 8, 16, 32):
        for base in (0, size, 3 * size):
            assert spans(give(vm(pools), "a", PciMsiIrqConstraint(size, base))) == [(base, base + size - 1)]
        for base in (size + 1, 3 * size + size // 2, 2 * size - 1):
            if base % size:
                with pytest.raises(
                    InvalidConstraint, match=f"a PCI MSI group of {size} is aligned to it; {base} is not"
                ):
                    decide.plan(vm(pools), [PciMsiIrqConstraint(size, base)])
    for size in (3, 31, 33, 64):
        with pytest.raises(InvalidConstraint, match=rf"a PCI MSI group has 1, 2, 4 \.\.\. 32 vectors, not {size}"):
            decide.plan(vm(pools), [PciMsiIrqConstraint(size)])
    assert spans(give(vm(pools), "a", PciMsixIrqConstraint(2048, 7))) == [(7, 2054)]
    with pytest.raises(InvalidConstraint, match="a PCI MSI-X table has at most 2048 vectors, not 2049"):
        decide.plan(vm(pools), [PciMsixIrqConstraint(2049)])


def test_ethernet_addresses_by_name_lie_anywhere() -> None:
    """Automatic addresses come from the pool; by name any is to be had, once."""
    state = vm({Space.MAC: [(0x020000000000, 0x0200000000FF)]})
    assert give(state, "a", MacAddressConstraint()) == [esrm.MacAddress("02:00:00:00:00:00")]
    assert give(state, "b", MacAddressConstraint("AA:FC:00:00:00:01")) == [esrm.MacAddress("AA:FC:00:00:00:01")]
    code, reason = refusal(state, "c", MacAddressConstraint("aa:fc:00:00:00:01"))
    assert (code, [h.owner for h in reason.blockers]) == ("AddressConflict", ["b"])
    do(state, decide.release, "b")
    do(state, decide.allocate, "c")
    for edge in ("00:00:00:00:00:00", "FF:FF:FF:FF:FF:FF"):
        assert give(state, edge, MacAddressConstraint(edge)) == [esrm.MacAddress(edge)]
    poolless = vm({})
    assert give(poolless, "a", MacAddressConstraint("AA:FC:00:00:00:01"))
    code, reason = refusal(poolless, "b", MacAddressConstraint())
    assert (code, reason.message) == ("NoSpace", "b: no 1 of mac: there is no pool of mac; nothing is free there")
    assert reason.window == (0, 2**48 - 1)


def test_reserved_ranges_name_their_owner() -> None:
    """Never handed out; asked for exactly, the owner is named, and nobody's release would help."""
    state = vm(MMIO, reserved=[(Space.MMIO, 0x1000, 0x1FFF, "IOAPIC")])
    assert firsts(give(state, "a", MmioConstraint(0x1000), MmioConstraint(0x1000))) == [0, 0x2000]
    code, reason = refusal(state, "b", MmioConstraint(0x2000, (0, 0xFFFF), policy="exact"))
    assert code == "AddressConflict"
    assert reason.message == "b: mmio 0x0-0x1fff is held by a (0x0-0xfff), IOAPIC (0x1000-0x1fff, reserved)"
    assert [(h.owner, h.reserved) for h in reason.blockers] == [("a", False), ("IOAPIC", True)]
    assert reason.releases == ()


def test_a_reserved_range_is_reserved_in_its_space_alone() -> None:
    """The same numbers of another space are free; walls may overlap, and lie in each other."""
    walls = [
        (Space.MMIO, 0, 0x5FFF, "big"),
        (Space.MMIO, 0x1000, 0x1FFF, "inner"),
        (Space.MMIO, 0x5000, 0x6FFF, "next"),
    ]
    state = vm({Space.PIO: [(0, 0xFFFF)], **MMIO}, reserved=walls)
    assert firsts(give(state, "a", PioConstraint(0x1000), MmioConstraint(0x1000))) == [0, 0x7000]
    code, reason = refusal(state, "b", MmioConstraint(0x1000, (0x6000, 0x6FFF), policy="exact"))
    assert (code, [h.owner for h in reason.blockers]) == ("AddressConflict", ["next"])


def test_a_request_that_asks_twice_for_one_place() -> None:
    """The device itself is in its way: it is told so, and its own wish is not called reserved."""
    state = vm(LINES)
    code, reason = refusal(state, "a", LegacyIrqConstraint(5), LegacyIrqConstraint(5))
    assert (code, reason.index, reason.releases) == ("AddressConflict", 1, ())
    assert reason.message == "a: legacy_irq 5 is asked for twice by this device"
    assert [(h.owner, h.reserved) for h in reason.blockers] == [("a", False)]


def test_many_constraints_at_once() -> None:
    """Two thousand wishes of one device take a moment, not minutes; more are refused before anybody looks for room."""
    state = vm({Space.PIO: [(0, 0xFFFF)], Space.KVM_MEM_SLOT: [(0, 2**32 - 1)]})
    assert firsts(give(state, "a", *[PioConstraint(1, align=32)] * 700)) == [32 * n for n in range(700)]
    assert firsts(give(state, "b", *[PioConstraint(1, align=32, policy="last")] * 700))[-1] == 0x10000 - 32 * 700
    for greedy in ([KvmMemSlotConstraint(2**32 - 1)], [PioConstraint(1)] * (decide.RESOURCES_MAX + 1)):
        declared(state, "c")
        with pytest.raises(TooLarge, match=r"c asks for .* resources; a device holds at most 2,000"):
            decide.declare(state, "c", greedy)
        with pytest.raises(TooLarge):
            decide.plan(state, greedy)
    (event,) = decide.declare(state, "c", [KvmMemSlotConstraint(decide.RESOURCES_MAX)])
    assert isinstance(event, esrm.ConstraintsDeclared)


def test_a_log_may_ask_for_more_than_there_is_room_to_say() -> None:
    """What nobody could declare stands in a log all the same: it is refused before anybody builds a single slot."""
    state = vm({Space.KVM_MEM_SLOT: [(0, 2**32 - 1)], Space.MSI_IRQ: [(0, 99)]})
    for device, asked in (("big", KvmMemSlotConstraint(100_000)), ("odd", PciMsiIrqConstraint(3))):
        esrm.evolve(state, esrm.DeviceCreated(device))
        esrm.evolve(state, esrm.ConstraintsDeclared(device, (asked,)))
    for asking in (decide.allocate, lambda state, device: decide.plan(state, [device])):
        with pytest.raises(TooLarge, match="big asks for 100,000 resources; a device holds at most 2,000"):
            asking(state, "big")
        with pytest.raises(InvalidConstraint, match="vectors, not 3"):
            asking(state, "odd")


@pytest.mark.parametrize("wish", [KvmMemSlotConstraint(5, slot=2**32 - 2), GenericIrqConstraint(5, base=2**32 - 2)])
@pytest.mark.parametrize("walls", [(), (2**32 - 1,)])
def test_a_run_past_the_end_of_its_space(wish: Any, walls: tuple[int, ...]) -> None:
    """It is out of range, whoever is in the way before the end; and no window has numbers that the space has not."""
    whole = {space: [(0, space.last)] for space in (Space.KVM_MEM_SLOT, Space.MSI_IRQ)}
    state = vm(whole, reserved=[(wish.space, at, at, "wall") for at in walls])
    code, reason = refusal(state, "a", wish)
    assert (code, reason.window, reason.releases) == ("OutOfRange", (2**32 - 2, 2**32 - 1), ())
    assert "4294967294-4294967298 is in no pool" in reason.message


# -- why not ---------------------------------------------------------------------------------------------------------


def full_house() -> VmState:
    """Style rule 15's machine: 0x6000 free in 3 holes in a window of 0xd0000000-0xd000ffff, the largest 0x2000."""
    state = vm({Space.MMIO: [(0xD0000000, 0xD000FFFF)]})
    for device, first, last in (("net1", 0x2000, 0x3FFF), ("blk1", 0x4000, 0x7FFF), ("net2", 0xA000, 0xDFFF)):
        at = (0xD0000000 + first, 0xD0000000 + last)
        give(state, device, MmioConstraint(last - first + 1, at, policy="exact"))
    return state


def test_the_message_has_the_shape_of_style_rule_15() -> None:
    """Asked, searched, free, holes, the largest, and whose release would do."""
    code, reason = refusal(full_house(), "net0", MmioConstraint(0x4000, align=0x4000))
    assert code == "NoSpace"
    assert reason.message == (
        "net0: no 0x4000 of mmio aligned to 0x4000 in 0xd0000000-0xd000ffff; 0x6000 free in 3 holes, "
        "the largest 0x2000; releasing net1 (0xd0002000-0xd0003fff) would do"
    )
    assert (reason.window, reason.free, reason.holes) == ((0xD0000000, 0xD000FFFF), 0x6000, 3)
    assert (reason.hole_max, reason.hole_max_aligned) == (0x2000, 0x2000)
    assert [h.owner for h in reason.blockers] == ["net1", "blk1", "net2"]
    assert reason.releases == ("net1",)


@pytest.mark.parametrize(
    ("constraint", "message"),
    [
        (LegacyIrqConstraint(), "x: no 1 of legacy_irq in 5-6; nothing is free there; releasing a (5) would do"),
        (LegacyIrqConstraint(6), "x: legacy_irq 6 is held by b (6); releasing b (6) would do"),
        (LegacyIrqConstraint(7), "x: legacy_irq 7 is in no pool; there is 5-6"),
        (PioConstraint(1), "x: no 0x1 of pio: there is no pool of pio; nothing is free there"),
        (PioConstraint(1, (5, 5), policy="exact"), "x: pio 0x5 is in no pool; there is no pool of pio"),
        (
            MmioConstraint(3, align=4),
            (
                "x: no 0x3 of mmio aligned to 0x4 in 0x1-0x7; 0x5 free in 2 holes, the largest 0x3 (0x0 once aligned); "
                "releasing a (0x4-0x5) would do"
            ),
        ),
        (MmioConstraint(8, align=1), "x: no 0x8 of mmio in 0x1-0x7; 0x5 free in 2 holes, the largest 0x3"),
        (
            MmioConstraint(3, (2, 4), 1),
            "x: no 0x3 of mmio in 0x2-0x4; 0x2 free in 1 hole, the largest 0x2; releasing a (0x4-0x5) would do",
        ),
    ],
)
def test_messages(constraint: Any, message: str) -> None:
    """Each kind of no, word for word: bytes and ports in hexadecimal, all else in decimal."""
    state = vm({Space.LEGACY_IRQ: [(5, 6)], Space.MMIO: [(1, 7)]})
    give(state, "a", LegacyIrqConstraint(), MmioConstraint(2, (4, 7), 1, "exact"))
    give(state, "b", LegacyIrqConstraint())
    _, reason = refusal(state, "x", constraint)
    assert reason.message == message


def test_the_range_named_is_the_one_in_the_way() -> None:
    """A device that holds much is named with what must go, not with what it holds elsewhere."""
    state = vm({Space.MMIO: [(0, 0x5FFF)]}, reserved=[(Space.MMIO, 0x1000, 0x1FFF, "wall")])
    give(state, "a", MmioConstraint(0x1000), MmioConstraint(0x1000, (0x3000, 0x3FFF)))
    give(state, "b", MmioConstraint(0x1000, (0x5000, 0x5FFF)))
    _, reason = refusal(state, "x", MmioConstraint(0x3000))
    assert reason.message.endswith("releasing a (0x3000-0x3fff) would do")
    apart = vm({Space.MMIO: [(0, 0x2FFF)]})
    give(apart, "a", MmioConstraint(0x1000), MmioConstraint(0x1000, (0x2000, 0x2FFF)))
    _, reason = refusal(apart, "x", MmioConstraint(0x3000))
    assert reason.message.endswith("releasing a (0x0-0xfff) would do")


def test_refusals_stay_short() -> None:
    """However many are in the way and however long their names, a refusal is an event: it can be written."""
    state = vm({Space.MMIO: [(0, 0x3FFFF)]})
    for number in range(64):
        give(state, f"{number:02}" + "\U0001f600" * 253, MmioConstraint(0x1000))
    for constraint in (MmioConstraint(0x40000), MmioConstraint(0x40000, (0, 0x3FFFF), policy="exact")):
        _, reason = refusal(state, "x", constraint)
        encode(esrm.AllocationRefused("x" * 255, reason))
    assert len(reason.blockers) == BLOCKERS_MAX
    assert reason.message.endswith(f"and {64 - BLOCKERS_MAX} more")
    assert reason.releases == ()
    near = refusal(state, "y", MmioConstraint(BLOCKERS_MAX * 0x1000, (0, BLOCKERS_MAX * 0x1000 - 1)))[1]
    encode(esrm.AllocationRefused("\U0001f600" * 255, near))
    assert len(near.releases) == BLOCKERS_MAX


def test_a_refusal_names_few_of_many_pools() -> None:
    """A platform of thousands of small pools: that none of them has a port can be written down."""
    state = vm({Space.PIO: [(0x400 + at * 3, 0x401 + at * 3) for at in range(5000)]})
    code, reason = refusal(state, "x", PioConstraint(1, (0, 0), policy="exact"))
    assert code == "OutOfRange"
    assert reason.message.endswith(f"0x421-0x422 and {5000 - BLOCKERS_MAX} more")
    assert len(encode(esrm.AllocationRefused("x" * 255, reason))) < 2000


def judged_refusals(dice: Random, subject: Any, steps: int) -> int:
    """A random story whose every refusal is counted one by one; how many there were."""
    spaces, platform, state, world, parent = small_world(dice, subject)
    judged, holding = 0, []
    for step in range(steps):
        if holding and (dice.random() < 0.25 or len(holding) > 6):
            gone = holding.pop(dice.randrange(len(holding)))
            world.give(gone)
            take_back(state, gone)
            continue
        device = f"d{step}"
        constraints = [wish(dice, dice.choice(spaces), platform) for _ in range(dice.choice([1, 1, 2]))]
        said = world.place(device, constraints)
        if not isinstance(said, No):
            give(state, device, *constraints, parent=parent)
            holding.append(device)
            continue
        judged += 1
        code, reason = refusal(state, device, *constraints, parent=parent)
        judge(said, code, reason)
        confirm(state, device, reason)
        do(state, decide.remove, device)
    return judged


def judge(said: No, code: str, reason: esrm.Refusal) -> None:
    """Every number of a refusal, against counting."""
    expected = said.model.reasons(said.asked, said.device)
    assert (code, reason.index, reason.window) == (said.code, said.index, expected.window)
    assert (reason.free, reason.holes) == (sum(expected.holes), len(expected.holes))
    assert reason.hole_max == max(expected.holes, default=0)
    assert reason.hole_max_aligned == expected.aligned
    assert [(h.owner, h.first, h.last) for h in reason.blockers] == sorted(
        expected.blockers[:BLOCKERS_MAX], key=lambda b: (b[1], b[2], b[0])
    )
    assert len(reason.releases) == (expected.releases or 0)
    if expected.releases:
        assert said.model.without(reason.releases).search(said.asked) is not None


def confirm(state: VmState, device: str, reason: esrm.Refusal) -> None:
    """Releasing those who are named really makes it fit."""
    twin = state.copy()
    for owner in reason.releases:
        do(twin, decide.release, owner)
    # With two wishes, the first may take the room that was made for the second.
    if reason.releases and len(state.devices[device].constraints) == 1:
        assert decide.allocate(twin, device)


@pytest.mark.parametrize("subject", SUBJECTS, ids=str)
def test_the_numbers_of_a_refusal_are_right(subject: Any) -> None:
    """Window, free, holes, the largest, aligned, blockers, and the fewest releases: all counted and tried."""

    @given(dice())
    @bounded(25)
    def check(dice: Random) -> None:
        judged_refusals(dice, subject, dice.randint(2, 14))

    check()


def test_refusals_from_a_seed() -> None:
    """The same in longer stories; enough of them are refusals."""
    judged = 0
    for seed in range(300):
        try:
            judged += judged_refusals(random.Random(seed), SUBJECTS[seed % len(SUBJECTS)], 14)
        except AssertionError as error:
            raise AssertionError(f"seed {seed}: {error}") from error
    assert judged > 500


# -- devices inside devices ------------------------------------------------------------------------------------------


def bridge() -> VmState:
    """A bridge with two windows of 0x2000 and a line, and two devices behind it."""
    state = vm({**MMIO, **LINES, Space.PIO: [(0, 0xFF)]})
    give(state, "other", MmioConstraint(0x1000))
    windows = [MmioConstraint(0x2000, policy="last"), MmioConstraint(0x2000)]
    give(state, "bridge", *windows, LegacyIrqConstraint())
    return state


def test_children_lie_inside_their_parent() -> None:
    """What a parent holds is the pool of those behind it; a space it holds nothing of comes from the platform."""
    state = bridge()
    assert firsts(give(state, "nic", MmioConstraint(0x1000), PioConstraint(4), parent="bridge")) == [0x1000, 0]
    assert firsts(give(state, "nvme", MmioConstraint(0x2000), LegacyIrqConstraint(), parent="bridge")) == [0xE000, 6]
    assert firsts(give(state, "fn", MmioConstraint(0x800, align=0x800), parent="nic")) == [0x1000]
    code, reason = refusal(state, "usb", MmioConstraint(0x2000), parent="bridge")
    assert (code, reason.window, reason.free) == ("NoSpace", (0x1000, 0xFFFF), 0x1000)
    assert reason.releases == ("nic",)
    assert [h.owner for h in reason.blockers] == ["nic", "nvme"]
    code, _ = refusal(state, "usb", MmioConstraint(0x1000, (0x8000, 0x8FFF), policy="exact"), parent="bridge")
    assert code == "OutOfRange"


def test_releases_behind_a_bridge_make_room_in_one_window() -> None:
    """Room that would lie over the seam of two windows is no room, and who holds both sides of it is named twice."""
    state = vm({Space.PIO: [(0, 31)]})
    give(state, "bridge", PioConstraint(16), PioConstraint(16))
    for device, *places in (("c", (0, 3)), ("ab", (12, 15), (16, 19)), ("d", (28, 31))):
        give(state, device, *[PioConstraint(4, place) for place in places], parent="bridge")
    _, reason = refusal(state, "x", PioConstraint(16), parent="bridge")
    assert reason.releases == ("c", "ab")
    assert (reason.free, reason.holes, reason.hole_max) == (16, 2, 8)
    assert [(h.owner, h.first) for h in reason.blockers] == [("c", 0), ("ab", 12), ("ab", 16), ("d", 28)]


def test_a_device_without_addresses_hands_its_children_on() -> None:
    """Behind a parent that holds no addresses of a space, the nearest ancestor that does serves."""
    state = bridge()
    give(state, "slot", LegacyIrqConstraint(), parent="bridge")
    assert firsts(give(state, "nic", MmioConstraint(0x1000), parent="slot")) == [0x1000]


def test_what_holds_others_stays() -> None:
    """A parent cannot release, allocate or move while something inside it holds, nor leave while something lives."""
    state = bridge()
    give(state, "slot", parent="bridge")
    nic = give(state, "nic", MmioConstraint(0x1000), parent="slot")
    before = state.copy()
    move = [Move("bridge", state.devices["bridge"].allocated[0], MmioAddressRange(0x8000, 0x2000))]
    for decision, args in ((decide.release, ("bridge",)), (decide.move, (move,)), (decide.release, ("slot",))):
        with pytest.raises(InUse, match="release what lies inside it first: nic"):
            decision(state, *args)
        assert state == before
    do(state, decide.release, "nic")
    do(state, decide.release, "slot")
    do(state, decide.move, move)
    assert firsts(list(state.devices["bridge"].allocated)) == [0x8000, 0x1000, 5]
    do(state, decide.allocate, "nic")
    assert list(state.devices["nic"].allocated) == nic
    assert firsts(give(state, "nvme", MmioConstraint(0x1000, policy="last"), parent="bridge")) == [0x9000]
    take_back(state, "nvme")
    do(state, decide.release, "nic")
    do(state, decide.release, "bridge")
    with pytest.raises(InUse, match="bridge: slot lives inside it; remove the inner first"):
        decide.remove(state, "bridge")
    for device in ("nic", "slot", "bridge"):
        do(state, decide.remove, device)
    assert list(state.devices) == ["other"]


def test_a_parent_comes_before_its_children() -> None:
    """Once a child holds something, its parent can no longer be given a window around it."""
    state = vm(MMIO)
    do(state, decide.create, "bridge")
    give(state, "nic", MmioConstraint(0x1000), parent="bridge")
    declared(state, "bridge", MmioConstraint(0x2000))
    with pytest.raises(InUse, match="nic"):
        decide.allocate(state, "bridge")
    with pytest.raises(UnknownDevice, match="no device 'brige' in this VM; did you mean bridge"):
        decide.create(state, "x", "", "brige")


# -- moves -----------------------------------------------------------------------------------------------------------


def two() -> VmState:
    """a holds 0x0-0xfff and 0x1000-0x1fff, b 0x2000-0x3fff aligned to 0x2000; 0x8000 on is a wall."""
    state = vm({**MMIO, **LINES}, reserved=[(Space.MMIO, 0x8000, 0xFFFF, "wall")])
    give(state, "a", MmioConstraint(0x1000), MmioConstraint(0x1000), LegacyIrqConstraint())
    give(state, "b", MmioConstraint(0x2000, align=0x2000), LegacyIrqConstraint(9))
    return state


def mmio(first: int, size: int = 0x1000) -> MmioAddressRange:
    """A range, shortly."""
    return MmioAddressRange(first, size)


@pytest.mark.parametrize(
    ("moves", "a", "b"),
    [
        ([("a", 0, 0x5000)], [0x5000, 0x1000], [0x2000]),
        ([("a", 0, 0x1000), ("a", 0x1000, 0)], [0x1000, 0], [0x2000]),
        ([("a", 0x1000, 0), ("a", 0, 0x1000)], [0x1000, 0], [0x2000]),
        ([("a", 0, 0)], [0, 0x1000], [0x2000]),
        ([("a", 0, 0x4000), ("a", 0x1000, 0x5000), ("b", 0x2000, 0)], [0x4000, 0x5000], [0]),
        ([("a", 0, 0x2000), ("a", 0x1000, 0x3000), ("b", 0x2000, 0)], [0x2000, 0x3000], [0]),
        ([("b", 0x2000, 0x4000), ("a", 0, 0x2000)], [0x2000, 0x1000], [0x4000]),
    ],
)
def test_moves_happen_all_at_once(moves: list[Any], a: list[int], b: list[int]) -> None:
    """A swap, a round, a move onto itself or into what another leaves: one event, and nothing was free meanwhile."""
    state = two()
    sizes = {"a": 0x1000, "b": 0x2000}
    batch = [Move(who, mmio(old, sizes[who]), mmio(new, sizes[who])) for who, old, new in moves]
    before = state.copy()
    (event,) = decide.move(state, batch)
    assert state == before
    esrm.evolve(state, event)
    assert firsts(list(state.devices["a"].allocated)) == [*a, 5]
    assert firsts(list(state.devices["b"].allocated)) == [*b, 9]
    assert state.allocator.usage()[Space.MMIO].free == 0x8000 - 0x4000
    holders = sorted((h.owner, h.first) for h in state.holders(Space.MMIO, 0, 0x7FFF))
    assert holders == sorted([("a", n) for n in a] + [("b", n) for n in b])


def test_a_range_may_move_into_itself() -> None:
    """Half a step: the new place overlaps the old one of the same range."""
    state = vm(MMIO)
    give(state, "a", MmioConstraint(0x2000))
    do(state, decide.move, [Move("a", mmio(0, 0x2000), mmio(0x1000, 0x2000))])
    assert state.allocator.ledger(Space.MMIO).usage().holes == 2


@pytest.mark.parametrize(
    ("moves", "error", "said"),
    [
        ([("a", mmio(0), mmio(0x2000))], AddressConflict, r"a: mmio 0x2000-0x2fff is held by b \(0x2000-0x3fff\)"),
        ([("a", mmio(0), mmio(0x8000))], AddressConflict, r"held by wall \(0x8000-0xffff, reserved\)"),
        ([("a", mmio(0), mmio(0x10000))], OutOfRange, "a: mmio 0x10000-0x10fff is in no pool"),
        ([("a", mmio(0), mmio(0x5001))], InvalidConstraint, "is not aligned to 0x1000"),
        ([("b", mmio(0x2000, 0x2000), mmio(0x5000, 0x2000))], InvalidConstraint, "is not aligned to 0x2000"),
        ([("a", mmio(0), mmio(0x5000, 0x2000))], InvalidConstraint, "is not of the kind and size"),
        ([("a", mmio(0), LegacyIrq(6))], InvalidConstraint, "is not of the kind and size"),
        ([("a", mmio(0), PioAddressRange(0x5000, 0x1000))], InvalidConstraint, "is not of the kind and size"),
        ([("a", mmio(0x2000, 0x2000), mmio(0))], NotAllocated, "a does not hold mmio 0x2000-0x3fff"),
        ([("c", mmio(0), mmio(0x5000))], UnknownDevice, "no device 'c'"),
        ([("a", mmio(0), mmio(0x5000)), ("a", mmio(0), mmio(0x6000))], AddressConflict, "is moved twice"),
        ([("a", mmio(0), mmio(0x5000)), ("a", mmio(0x1000), mmio(0x5000))], AddressConflict, "is taken twice"),
        ([("a", mmio(0), mmio(0x1000))], AddressConflict, r"is held by a \(0x1000-0x1fff\)"),
    ],
)
def test_moves_that_are_refused(moves: list[Any], error: type[Refused], said: str) -> None:
    """A conflict, a wall, another size, a stranger's range, one thing twice: the whole batch is refused."""
    state = two()
    before = state.copy()
    usage = state.allocator.usage()
    with pytest.raises(error, match=said):
        decide.move(state, [Move(*move) for move in moves])
    assert state == before
    assert state.allocator.usage() == usage


def test_moves_obey_the_constraints() -> None:
    """A window holds for a move as it did for the allocation; a shared line, an exact place and a slot out of a group
    do not move. A line or an address that was asked for by number does: so the device began, and then it was changed.
    """
    state = vm({**MMIO, **LINES, Space.KVM_MEM_SLOT: [(0, 9)]})
    give(state, "d", KvmMemSlotConstraint(2), KvmMemSlotConstraint())
    give(state, "a", MmioConstraint(0x1000, (0, 0x3FFF)), MmioConstraint(0x1000, (0x8000, 0x9FFF), policy="exact"))
    give(state, "b", LegacyIrqConstraint(5, shared=True))
    give(state, "c", LegacyIrqConstraint(6))
    for move, error, said in (
        (Move("a", mmio(0), mmio(0x4000)), OutOfRange, "outside the window 0x0-0x3fff"),
        (Move("a", mmio(0x8000), mmio(0x9000)), InvalidConstraint, "asked for exactly mmio 0x8000-0x8fff"),
        (Move("b", LegacyIrq(5), LegacyIrq(7)), InvalidConstraint, "a shared line does not move"),
        (Move("c", LegacyIrq(6), LegacyIrq(5)), AddressConflict, r"is held by b \(5\)"),
        (
            Move("d", KvmMemSlot(0), KvmMemSlot(5)),
            InvalidConstraint,
            "slot 0 is one of a group of 2, in a row as asked",
        ),
    ):
        with pytest.raises(error, match=said):
            decide.move(state, [move])
    do(state, decide.move, [Move("a", mmio(0), mmio(0x3000)), Move("c", LegacyIrq(6), LegacyIrq(9))])
    do(state, decide.move, [Move("d", KvmMemSlot(2), KvmMemSlot(9))])
    (mac,) = give(state, "e", MacAddressConstraint("02:00:00:00:00:01"))
    do(state, decide.move, [Move("e", mac, esrm.MacAddress("02:00:00:00:00:02"))])
    assert firsts(list(state.devices["d"].allocated)) == [0, 1, 9]
    assert firsts([*state.devices["a"].allocated, *state.devices["c"].allocated]) == [0x3000, 0x8000, 9]
    assert decide.move(state, []) == []


def test_one_number_moves_inside_its_window() -> None:
    """A range of one has its first number for its last, up to the very edges of the window."""
    state = vm({Space.PIO: [(0, 0xFF)]})
    (port,) = give(state, "a", PioConstraint(1, (0x10, 0x1F)))
    for new in (0x1F, 0x15, 0x10):
        do(state, decide.move, [Move("a", port, PioAddressRange(new, 1))])
        (port,) = state.devices["a"].allocated
        assert port == PioAddressRange(new, 1)
    for new in (0xF, 0x20):
        with pytest.raises(OutOfRange, match="outside the window 0x10-0x1f"):
            decide.move(state, [Move("a", port, PioAddressRange(new, 1))])


def test_a_move_does_not_run_over_the_shared_line() -> None:
    """The shared line is for sharers: a group of vectors out of the same pool goes neither on it nor across it."""
    platform = {"shared_irq": 8, "joined": {Space.MSI_IRQ: Space.LEGACY_IRQ}}
    state = vm({Space.LEGACY_IRQ: [(0, 31)]}, **platform)
    (group,) = give(state, "a", GenericIrqConstraint(4))
    for base in (5, 6, 8):
        new = esrm.MsiIrq(esrm.MsiIrqType.GENERIC_MSI, base, 4)
        with pytest.raises(OutOfRange, match=rf"{base}-{base + 3} is in no pool; there is 0-7, 9-31"):
            decide.move(state, [Move("a", group, new)])
    _, reason = refusal(state, "b", PciMsiIrqConstraint(2, 8))
    assert reason.message == "b: legacy_irq 8-9 is in no pool; there is 0-7, 9-31"  # and no line that it could share
    do(state, decide.move, [Move("a", group, esrm.MsiIrq(esrm.MsiIrqType.GENERIC_MSI, 9, 4))])
    assert state.allocator.ledger(Space.MSI_IRQ).held.get(9) == (12, ("a",))


def test_what_moves_can_still_be_released() -> None:
    """The higher a range lies, the more digits tell of it: moved to where the release would not fit into one event, a
    device would hold it for ever. So the move is refused, and the release is not."""
    state = vm({Space.MEM: [(0, 2**64 - 1)], Space.KVM_MEM_SLOT: [(0, 9999)]})
    held = give(state, "a", KvmMemSlotConstraint(700), *[esrm.MemConstraint(1, align=1)] * 880)[700:]
    up = [Move("a", old, esrm.MemAddressRange(2**64 - 1 - old.base, 1)) for old in held]
    with pytest.raises(TooLarge, match="ResourcesReleased takes"):
        decide.move(state, up)
    do(state, decide.move, up[:100])
    encode(*decide.release(state, "a", "\0" * decide.REASON_MAX))


def test_a_move_does_not_run_over_a_seam() -> None:
    """Behind a bridge a range moves within one of its windows or from one to another, never over both."""
    state = vm(MMIO)
    give(state, "bridge", MmioConstraint(0x2000), MmioConstraint(0x2000))
    give(state, "nic", MmioConstraint(0x2000), parent="bridge")
    with pytest.raises(OutOfRange, match="nic: mmio 0x1000-0x2fff is in no pool; there is 0x0-0x1fff, 0x2000-0x3fff"):
        decide.move(state, [Move("nic", mmio(0, 0x2000), mmio(0x1000, 0x2000))])
    do(state, decide.move, [Move("nic", mmio(0, 0x2000), mmio(0x2000, 0x2000))])


@given(dice())
@bounded(60)
def test_random_moves_keep_the_books(dice: Random) -> None:
    """Batches by dice: what is decided can be applied, and the books afterwards are those of a rebuilt state."""
    state = vm({Space.MMIO: [(0, 31)]})
    for number in range(dice.randint(1, 4)):
        give(state, f"d{number}", *[MmioConstraint(dice.randint(1, 4), align=1) for _ in range(dice.randint(1, 2))])
    for _ in range(dice.randint(1, 4)):
        held = [(d.name, r) for d in state.devices.values() for r in d.allocated]
        chosen = dice.sample(held, dice.randint(1, min(3, len(held))))
        places = [r.base for _, r in chosen] if dice.random() < 0.5 else [dice.randrange(32) for _ in chosen]
        dice.shuffle(places)
        batch = [Move(who, r, mmio(p, r.size)) for (who, r), p in zip(chosen, places, strict=True)]
        could = _could_move(state, batch)
        answer = tried(decide.move, state, batch)
        assert could is not isinstance(answer, Refused)
        if could:
            esrm.evolve(state, *answer)
        assert list(state.allocator.ledger(Space.MMIO).held) == list(state.copy().allocator.ledger(Space.MMIO).held)
        assert list(state.allocator.ledger(Space.MMIO).free) == list(state.copy().allocator.ledger(Space.MMIO).free)


def _could_move(state: VmState, batch: list[Move]) -> bool:
    """Whether afterwards nothing overlaps and all lies in the pool."""
    after = {(d.name, r.base): r for d in state.devices.values() for r in d.allocated}
    for move in batch:
        after[move.device, move.old.base] = move.new
    taken = [n for r in after.values() for n in range(r.base, r.base + r.size)]
    return len(taken) == len(set(taken)) and all(n <= 31 for n in taken)


# -- plans -----------------------------------------------------------------------------------------------------------


def test_a_plan_says_what_would_happen_and_touches_nothing() -> None:
    """One request after the other, each on what those before it would leave; the state is as it was."""
    state = full_house()
    declared(state, "disk", MmioConstraint(0x2000))
    before, usage = state.copy(), state.allocator.usage()
    requests = ["disk", ("nic", [MmioConstraint(0x2000)]), ("nic2", [MmioConstraint(0x4000)]), MmioConstraint(0x1000)]
    plan = decide.plan(state, requests)
    assert state == before
    assert state.allocator.usage() == usage
    assert [(p.device, firsts(list(p.resources))) for p in plan.placements] == [
        ("disk", [0xD0000000]), ("nic", [0xD0008000]), ("nic2", []), ("(new)", [0xD000E000]),
    ]  # fmt: skip
    assert not plan.fits
    assert plan.revision == state.revision
    refused = plan.placements[2].refusal
    assert refused.releases == ("disk", "net1") or len(refused.releases) == 1
    assert str(plan).splitlines()[0] == "disk: mmio 0xd0000000-0xd0001fff"
    assert str(plan).splitlines()[2] == refused.message


def test_a_refused_request_leaves_nothing_in_the_plan() -> None:
    """What stood before the wish that failed is free again for those that follow."""
    state = vm(LINES)
    plan = decide.plan(
        state, [("a", [LegacyIrqConstraint(5), LegacyIrqConstraint(99)]), ("b", [LegacyIrqConstraint(5)])]
    )
    assert [p.refusal is None for p in plan.placements] == [False, True]
    shared = [LegacyIrqConstraint(5, shared=True), LegacyIrqConstraint(99)]
    plan = decide.plan(state, [("a", shared), ("b", shared), ("c", [LegacyIrqConstraint(5)])])
    assert [p.refusal is None for p in plan.placements] == [False, False, True]
    lines = [LegacyIrqConstraint()] * 3
    plan = decide.plan(state, [("a", [*lines, MmioConstraint(1)]), ("b", lines)])
    assert firsts(list(plan.placements[1].resources)) == [5, 6, 7]


def test_refusals_in_a_plan_do_not_wait_for_each_other() -> None:
    """Three times as many requests that are met, and as many refused, take three times as long: nothing that was
    pencilled in for others is looked through again, to forget a request or to place the next one.
    """
    state = vm({Space.MMIO: [(0, 2**40)], **LINES})
    bars = [MmioConstraint(0x1000, align=0x2000)] * 10

    def effort(count: int) -> int:
        met = [(f"met{n}", [*bars, LegacyIrqConstraint(5, shared=True)]) for n in range(count)]
        bad = [(f"bad{n}", [*bars, LegacyIrqConstraint(5, shared=True), PioConstraint(1)]) for n in range(count)]
        plan = decide.plan(state, [*met, *bad, ("last", bars)])
        assert [placement.refusal is None for placement in plan.placements] == [True] * count + [False] * count + [True]
        assert firsts(list(plan.placements[-1].resources))[0] == count * 10 * 0x2000
        return calls(lambda: decide.plan(state, [*met, *bad, ("last", bars)]))

    assert effort(90) < 4 * effort(30)


def test_a_plan_places_children_inside_planned_parents() -> None:
    """A bridge and what is behind it, in one plan, as it will be when they are attached one after the other."""
    state = vm(MMIO)
    declared(state, "bridge", MmioConstraint(0x2000, policy="last"))
    declared(state, "slot", parent="bridge")
    declared(state, "nic", MmioConstraint(0x1000), parent="slot")
    plan = decide.plan(state, ["bridge", "slot", "nic"])
    assert firsts([r for p in plan.placements for r in p.resources]) == [0xE000, 0xE000]
    with pytest.raises(
        InUse, match="bridge stands behind nic, which lives inside it, in the plan; put the outer first"
    ):
        decide.plan(state, ["nic", "bridge"])
    with pytest.raises(WrongPhase, match="nic stands in the plan twice"):
        decide.plan(state, ["bridge", "nic", "nic"])


def test_a_plan_asks_what_declare_and_allocate_would_ask() -> None:
    """Constraints for a device that lives are a declaration, then an allocation: where one of the two is refused for
    its phase, for what lies inside it, or for its length, so is the plan."""
    state = vm({**MMIO, **LINES, Space.KVM_MEM_SLOT: [(0, 9999)]})
    give(state, "held", LegacyIrqConstraint(5))
    do(state, decide.create, "bridge")
    give(state, "nic", LegacyIrqConstraint(), parent="bridge")
    with pytest.raises(WrongPhase, match="held: cannot declare in phase allocated"):
        decide.plan(state, [("held", [LegacyIrqConstraint(5)])])
    with pytest.raises(InUse, match="bridge: release what lies inside it first: nic"):
        decide.plan(state, [("bridge", [MmioConstraint(0x1000)])])
    do(state, decide.release, "nic")
    assert decide.plan(state, [("bridge", [MmioConstraint(0x1000)]), "nic"]).fits
    slots = [KvmMemSlotConstraint(1_700)]
    declared(state, "wide", *slots)
    for asking in (
        lambda: decide.allocate(state, "wide"),
        lambda: decide.plan(state, ["wide"]),
        lambda: decide.plan(state, slots),
    ):
        with pytest.raises(TooLarge, match="ResourcesReleased takes"):
            asking()
    with pytest.raises(TooLarge, match="ConstraintsDeclared takes"):
        decide.plan(state, [("wordy", [MmioConstraint(0x10, (0, 0xFFFF), 0x10)] * 1_000)])


def test_bare_constraints_are_of_no_device_that_there_is() -> None:
    """They are planned for a device without a name; one that is called as such a device is shown is another one."""
    state = vm(LINES)
    give(state, "(new)", LegacyIrqConstraint(5))
    one, two = decide.plan(state, [("((new))", [LegacyIrqConstraint(6)]), LegacyIrqConstraint(5)]).placements
    assert one.refusal is None
    assert two.refusal.message == "(((new))): legacy_irq 5 is held by (new) (5); releasing (new) (5) would do"


@pytest.mark.parametrize(
    ("request_", "error"),
    [
        ("nobody", UnknownDevice),
        ("held", WrongPhase),
        ("parent", WrongPhase),
        (5, InvalidConstraint),
        (None, InvalidConstraint),
        (("x", [5]), InvalidConstraint),
        (("x", [MmioConstraint(1)], 5), InvalidConstraint),
        (("x",), InvalidConstraint),
        ((5, [MmioConstraint(1)]), InvalidName),
        (("", [MmioConstraint(1)]), InvalidName),
        (("x" * 10_000_000, [MmioConstraint(1)]), InvalidName),
    ],
)
def test_a_plan_is_made_of_requests(request_: Any, error: type[Refused]) -> None:
    """What is no request is refused as a whole; a request that has no place is part of the answer."""
    state = vm(MMIO)
    give(state, "held", MmioConstraint(1))
    do(state, decide.create, "parent")
    with pytest.raises(error) as refused:
        decide.plan(state, [MmioConstraint(1), request_])
    assert len(str(refused.value)) < 300


def same_as_what_happens(dice: Random, subject: Any) -> None:
    """A plan of several devices on a lived-in state, then the same for real: word for word the same."""
    spaces, platform, state, _, top = small_world(dice, subject)
    names = [f"d{number}" for number in range(dice.randint(2, 9))]
    for name in names:
        parent = dice.choice([top, top, *[n for n in names if n in state.devices]])
        declared(
            state, name, *[wish(dice, dice.choice(spaces), platform) for _ in range(dice.randint(0, 2))], parent=parent
        )
    half = dice.randrange(len(names))
    for name in names[:half]:
        answer = tried(decide.allocate, state, name)
        if not isinstance(answer, Refused):
            esrm.evolve(state, *answer)
    rest = [
        name
        for name in names
        if state.devices[name].phase is esrm.Phase.DECLARED
        and not any(inner.allocated for inner in state.descendants(name))
    ]
    plan = decide.plan(state, rest)
    for placement in plan.placements:
        answer = tried(decide.allocate, state, placement.device)
        if isinstance(answer, Refused):
            assert placement.refusal == answer.refusal
            continue
        assert placement.refusal is None
        assert answer[0].resources == placement.resources
        esrm.evolve(state, *answer)


@pytest.mark.parametrize("subject", SUBJECTS, ids=str)
def test_a_plan_equals_what_then_happens(subject: Any) -> None:
    """Places and refusals, nested devices and shared lines included."""

    @given(dice())
    @bounded(30)
    def check(dice: Random) -> None:
        same_as_what_happens(dice, subject)

    check()
    for seed in range(40):
        same_as_what_happens(random.Random(seed), subject)
