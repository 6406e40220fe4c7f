"""The state: replay tells what was lived, however late the books are opened; what cannot have been is Corrupt."""

from __future__ import annotations

import random
from random import Random
from typing import Any

import pytest
from hypothesis import given
from strategies import bounded, dice

import esrm
from esrm import (
    AllocationRefused,
    ConstraintsDeclared,
    Corrupt,
    DeviceCreated,
    DeviceRegistered,
    DeviceRemoved,
    DeviceUnregistered,
    GenericIrqConstraint,
    Holding,
    KvmMemSlotConstraint,
    LegacyIrq,
    LegacyIrqConstraint,
    MacAddressConstraint,
    MemConstraint,
    MmioAddressRange,
    MmioConstraint,
    Move,
    PciMsiIrqConstraint,
    Phase,
    PioConstraint,
    Platform,
    Refused,
    ResourcesAllocated,
    ResourcesAssigned,
    ResourcesMoved,
    ResourcesReleased,
    Space,
    UnknownDevice,
    UnplugRefused,
    UnplugRequested,
    VmCreated,
    VmState,
    decide,
)
from esrm.core.events import decode, encode
from esrm.core.resources import span

PLATFORM = Platform(
    "small",
    {
        Space.PIO: [(0, 0x1F), (0x20, 0x3F)],
        Space.MMIO: [(0x1000, 0x4FFF), (0x8000, 0xBFFF)],
        Space.MEM: [(0, 0x7FFF)],
        Space.LEGACY_IRQ: [(5, 12)],
        Space.KVM_MEM_SLOT: [(0, 9)],
        Space.MAC: [(0x020000000000, 0x020000000003)],
    },
    [(Space.PIO, 0x10, 0x13, "PIC"), (Space.MMIO, 0x2000, 0x2FFF, "IOAPIC"), (Space.LEGACY_IRQ, 8, 8, "RTC")],
    shared_irq=9,
    joined={Space.MSI_IRQ: Space.LEGACY_IRQ},
)
NAMES = ["a", "b", "c", "d", "e", "f"]

WISHES: list[Any] = [
    PioConstraint(4),
    PioConstraint(8, align=8),
    PioConstraint(0x20),
    MmioConstraint(0x1000),
    MmioConstraint(0x2000, policy="last"),
    MmioConstraint(0x100, align=0x100),
    MmioConstraint(0x1000, (0x3000, 0x3FFF), policy="exact"),
    MemConstraint(0x1000),
    LegacyIrqConstraint(),
    LegacyIrqConstraint(shared=True),
    LegacyIrqConstraint(6, shared=True),
    LegacyIrqConstraint(9, shared=True),
    LegacyIrqConstraint(7),
    PciMsiIrqConstraint(2),
    GenericIrqConstraint(1),
    KvmMemSlotConstraint(2),
    KvmMemSlotConstraint(1, slot=3),
    MacAddressConstraint(),
    MacAddressConstraint("AA:FC:00:00:00:01"),
]


class Life:
    """One VM lived twice: ``eager`` has its allocator and bus from the start, ``lazy`` builds them at some time."""

    def __init__(self) -> None:
        self.log: list[esrm.Event] = []
        self.eager, self.lazy = VmState(), VmState()
        self.say([VmCreated(PLATFORM)])
        assert self.eager.allocator
        assert list(self.eager.bus.ranges(Space.PIO)) == []

    def say(self, events: list[esrm.Event]) -> None:
        for event in events:
            self.log.append(event)
            esrm.evolve(self.eager, event)
            esrm.evolve(self.lazy, event)

    def step(self, decision: Any, *args: Any) -> bool:
        """Decide on one of the two; a refusal changes neither, and an allocation's is recorded."""
        before = self.eager.copy()
        try:
            events = decision(self.eager, *args)
        except Refused as no:
            assert self.eager == before
            if no.refusal is None:
                return False
            events = [AllocationRefused(args[0], no.refusal)]
        else:
            if decision is decide.allocate:
                assert events == decide.allocate(self.lazy.copy(), *args)
        self.say(events)
        return True


def random_step(dice: Random, life: Life) -> None:
    """One step that may or may not be legal, of any device."""
    name = dice.choice(NAMES)
    found = life.eager.devices.get(name)
    if found is None or dice.random() < 0.05:
        parent = dice.choice([None, *life.eager.devices])
        life.step(decide.create, name, "kind", parent)
        return
    likely = {
        Phase.CREATED: [decide.declare, decide.declare, decide.remove],
        Phase.DECLARED: [decide.allocate, decide.allocate, decide.declare, decide.remove],
        Phase.ALLOCATED: [decide.assign, decide.assign, decide.release, decide.move],
        Phase.ASSIGNED: [decide.register, decide.register, decide.release, decide.move],
        Phase.REGISTERED: [decide.unregister, decide.request_unplug, decide.move, decide.move],
        Phase.UNPLUGGING: [decide.refuse_unplug, decide.unregister],
    }
    everything = [decision for some in likely.values() for decision in some]
    decision = dice.choice(likely[found.phase] if dice.random() < 0.9 else everything)
    if decision is decide.declare:
        life.step(decision, name, [dice.choice(WISHES) for _ in range(dice.randint(0, 4))])
    elif decision is decide.move:
        life.step(decision, random_moves(dice, life.eager, name))
    elif decision in (decide.release, decide.refuse_unplug):
        life.step(decision, name, dice.choice(["", "because"]))
    else:
        life.step(decision, name)


def random_moves(dice: Random, state: VmState, name: str) -> list[Move]:
    """A swap with another device, or a step aside, of one or two resources."""
    moves: list[Move] = []
    mine = [(name, r) for r in state.devices[name].allocated]
    others = [(d.name, r) for d in state.devices.values() for r in d.allocated]
    for owner, resource in dice.sample(mine, min(len(mine), dice.randint(1, 2))):
        alike = [(o, r) for o, r in others if type(r) is type(resource) and r != resource]
        if alike and dice.random() < 0.5:
            other, twin = dice.choice(alike)
            moves += [Move(owner, resource, twin), Move(other, twin, resource)]
        elif isinstance(resource, MmioAddressRange):
            new = resource.base + dice.choice([-0x1000, 0x1000, 0x5000])
            moves.append(Move(owner, resource, MmioAddressRange(max(0, new), resource.size)))
        elif isinstance(resource, LegacyIrq):
            moves.append(Move(owner, resource, LegacyIrq(dice.randint(4, 13))))
    return moves


def books(state: VmState) -> dict[str, Any]:
    """All that the two projections know: every ledger (each parent's windows, too) and every range on the bus."""
    told: dict[str, Any] = {"bus": [list(state.bus.ranges(space)) for space in (Space.PIO, Space.MMIO)]}
    for space in Space:
        told[space.value] = _ledger(state.allocator.ledger(space))
        for device in state.devices.values():
            if device.parent is not None:
                told[f"{space.value} for {device.name}"] = _ledger(state.ledger(device, space))
    return told


def _ledger(book: Any) -> Any:
    return list(book.free), list(book.beyond), list(book.held), book.shared, book.usage()


def check(life: Life) -> None:
    """Replayed it is the same, through the wire it is the same, and the projections agree with the devices."""
    replayed = esrm.replay(decode(encode(event)) for event in life.log)
    assert life.eager == life.lazy == replayed
    assert books(life.eager) == books(replayed)
    state = life.eager
    for space in (Space.PIO, Space.MMIO):
        for address in range(0, space.last if space is Space.PIO else 0xC000, 1 if space is Space.PIO else 0x80):
            if address > 0x50 and space is Space.PIO:
                break
            there = [
                (last - first, len(state.ancestors(d.name)), d.name)
                for d in state.devices.values()
                if d.phase in (Phase.REGISTERED, Phase.UNPLUGGING)
                for where, first, last in map(span, d.allocated)
                if where is space and first <= address <= last
            ]
            answer = state.bus.lookup(space, address)
            innermost = min(there, key=lambda e: (e[0], -e[1]), default=None)
            assert (answer.device if answer else None) == (innermost[2] if innermost else None)


def live(dice: Random, steps: int) -> Life:
    """A random story; at some moment of it the lazy one wakes up."""
    life = Life()
    wake_allocator, wake_bus = dice.randrange(steps + 1), dice.randrange(steps + 1)
    for moment in range(steps):
        if moment == wake_allocator:
            assert life.lazy.allocator
        if moment == wake_bus:
            assert life.lazy.bus
        random_step(dice, life)
        assert life.eager == life.lazy
    check(life)
    assert books(life.eager) == books(life.lazy)
    return life


@given(dice())
@bounded(100)
def test_replay_tells_what_was_lived(dice: Random) -> None:
    """Whatever was decided, nested, moved, refused or unplugged: live == replayed, early books == late books."""
    live(dice, dice.randint(1, 40))


def test_long_lives_from_a_seed() -> None:
    """Longer stories; together they see every kind of event and every phase."""
    kinds: set[type] = set()
    for seed in range(60):
        try:
            life = live(random.Random(seed), 150)
        except AssertionError as error:
            raise AssertionError(f"seed {seed}: {error}") from error
        kinds |= {type(event) for event in life.log}
    assert kinds == {
        VmCreated, DeviceCreated, ConstraintsDeclared, ResourcesAllocated, AllocationRefused, ResourcesAssigned,
        DeviceRegistered, UnplugRequested, UnplugRefused, DeviceUnregistered, ResourcesReleased, ResourcesMoved,
        DeviceRemoved,
    }  # fmt: skip


@given(dice())
@bounded(40)
def test_every_prefix_is_a_state_that_was(dice: Random) -> None:
    """Replayed to any revision, a log gives the state as it was then, and goes on from there to the same end."""
    life = live(dice, dice.randint(1, 25))
    cut = dice.randint(1, len(life.log))
    state = esrm.replay(life.log[:cut])
    assert state.revision == cut - 1
    copy = state.copy()
    for event in life.log[cut:]:
        esrm.evolve(state, event)
    assert state == life.eager
    assert copy == esrm.replay(life.log[:cut])  # a copy is a state of its own


# -- looking ---------------------------------------------------------------------------------------------------------


mmio = MmioAddressRange
NIC = mmio(0x1000, 0x100)


def story(*more: esrm.Event) -> list[esrm.Event]:
    """bridge (0x1000-0x1fff) with nic inside (0x1000-0x10ff) registered; rtc at line 9."""
    bridge, nic, line = mmio(0x1000, 0x1000), NIC, LegacyIrq(9)
    return [
        VmCreated(PLATFORM),
        DeviceCreated("bridge"),
        ConstraintsDeclared("bridge", (MmioConstraint(0x1000),)),
        ResourcesAllocated("bridge", (bridge,)),
        DeviceCreated("nic", "virtio-net", "bridge"),
        ConstraintsDeclared("nic", (MmioConstraint(0x100, align=0x100),)),
        ResourcesAllocated("nic", (nic,)),
        ResourcesAssigned("nic"),
        DeviceRegistered("nic"),
        DeviceCreated("rtc"),
        ConstraintsDeclared("rtc", (LegacyIrqConstraint(shared=True),)),
        ResourcesAllocated("rtc", (line,)),
        *more,
    ]


def test_who_holds_a_range() -> None:
    """Devices and reservations, in address order, the outer before the inner."""
    late = (DeviceCreated("late"), ConstraintsDeclared("late"), ResourcesAllocated("late", (MMIO,)))
    low = (DeviceCreated("low"), ConstraintsDeclared("low"), ResourcesAllocated("low", (MmioAddressRange(0, 16),)))
    everybody = esrm.replay(story(*late, *low)).holders(Space.MMIO, 0, 0xFFFF)
    assert [h.owner for h in everybody] == ["low", "bridge", "nic", "IOAPIC", "late"]
    state = esrm.replay(story())
    assert [h.owner for h in state.holders(Space.MMIO, 0x1000)] == ["bridge", "nic"]
    assert [h.owner for h in state.holders(Space.MMIO, 0x1100)] == ["bridge"]
    assert [h.owner for h in state.holders(Space.MMIO, 0, 0xFFFF)] == ["bridge", "nic", "IOAPIC"]
    assert state.holders(Space.MMIO, 0x3000) == []
    assert state.holders(Space.MMIO, 0x2000) == [Holding("IOAPIC", Space.MMIO, 0x2000, 0x2FFF, reserved=True)]
    assert [h.owner for h in state.holders(Space.LEGACY_IRQ, 9)] == ["rtc"]


def test_who_holds_a_number_of_joined_spaces() -> None:
    """Asked of lines or of messages it is the same: one pool serves both, and each holding tells which it is."""
    line, group = LegacyIrq(6), esrm.MsiIrq(esrm.MsiIrqType.GENERIC_MSI, 10, 2)
    state = esrm.replay([VmCreated(PLATFORM), DeviceCreated("a"), ConstraintsDeclared("a")])
    esrm.evolve(state, ResourcesAllocated("a", (line, group)))
    for space in (Space.LEGACY_IRQ, Space.MSI_IRQ):
        assert state.holders(space, 0, 99) == [
            Holding("a", Space.LEGACY_IRQ, 6, 6),
            Holding("RTC", Space.LEGACY_IRQ, 8, 8, reserved=True),
            Holding("a", Space.MSI_IRQ, 10, 11),
        ]
    assert state.holders(Space.KVM_MEM_SLOT, 0, 99) == []


def test_the_device_tree() -> None:
    """Children, descendants, ancestors; breadth first, and reversed it is the safe order of tear-down."""
    parents = {"root": None, "p1": "root", "p2": "root", "c1": "p1", "c2": "p2", "c3": "p2"}
    state = esrm.replay([VmCreated(PLATFORM), *(DeviceCreated(name, "", parent) for name, parent in parents.items())])
    assert [d.name for d in state.walk()] == ["root", "p1", "p2", "c1", "c2", "c3"]
    assert [d.name for d in state.walk(reverse=True)] == ["c3", "c2", "c1", "p2", "p1", "root"]
    assert [d.name for d in state.children("p2")] == ["c2", "c3"]
    assert [d.name for d in state.children(None)] == ["root"]
    assert [d.name for d in state.descendants("root")] == ["p1", "p2", "c1", "c2", "c3"]
    assert state.ancestors("c3") == ("p2", "root")
    assert state.children("nobody") == []


def test_a_state_of_its_parts_is_that_state() -> None:
    """Put together from platform, devices and revision it has the same tree, and a copy's tree is its own."""
    lived = esrm.replay(
        [VmCreated(PLATFORM), DeviceCreated("a"), DeviceCreated("b", "", "a"), DeviceCreated("c", "", "a")]
    )
    made = VmState.of(lived.platform, lived.devices.values(), lived.revision)
    assert made == lived
    assert [d.name for d in made.children("a")] == ["b", "c"]
    assert made.ancestors("c") == ("a",)
    twin = made.copy()
    esrm.evolve(twin, DeviceRemoved("c"))
    assert [d.name for d in twin.children("a")] == ["b"]
    assert [d.name for d in made.children("a")] == ["b", "c"]


def test_states_are_equal_when_the_same_is_true() -> None:
    """Whether somebody has looked at the allocator or bus is no difference; one event more is."""
    one, other = esrm.replay(story()), esrm.replay(story())
    assert one.allocator
    assert one.bus
    assert one == other
    assert one != esrm.replay(story()[:-1])
    assert one != "a state"
    assert repr(one) == "<VmState at 11: small, 3 devices>"
    assert repr(VmState()) == "<VmState at -1: no platform, 0 devices>"
    with pytest.raises(TypeError):
        hash(one)


def test_what_a_device_holds_is_a_copy() -> None:
    """Appending to a device's resources does not change the state: only the log does."""
    state = esrm.replay(story())
    state.device("nic").resources.append(LegacyIrq(5))
    assert len(state.device("nic").resources) == 1
    assert str(state.device("nic")) == "nic [virtio-net] registered: mmio 0x1000-0x10ff"


@pytest.mark.parametrize("name", ["nobody", "", "x" * 10_000_000, None, 5, [], {}])
def test_an_unknown_device(name: Any) -> None:
    """Whatever the name is, it is UnknownDevice, and shortly."""
    with pytest.raises(UnknownDevice) as refused:
        esrm.replay(story()).device(name)
    assert len(str(refused.value)) < 250


def test_before_anything_happened() -> None:
    """A state without a platform has nothing to give, and says so."""
    with pytest.raises(Refused, match="no platform yet"):
        _ = VmState().allocator
    assert list(VmState().bus.ranges(Space.MMIO)) == []
    assert VmState().holders(Space.MMIO, 0) == []


# -- histories that cannot have been ---------------------------------------------------------------------------------

MMIO = MmioAddressRange(0x3000, 0x1000)
SAME = [
    DeviceCreated("x"),
    ConstraintsDeclared("x"),
    ResourcesAllocated("x", (MMIO,)),
    ResourcesAssigned("x"),
    DeviceRegistered("x"),
    DeviceCreated("y"),
    ConstraintsDeclared("y"),
]


@pytest.mark.parametrize(
    ("history", "said"),
    [
        ([DeviceCreated("x")], "revision 0: the first event is not VmCreated"),
        ([ConstraintsDeclared("x")], "revision 0: ConstraintsDeclared for 'x', which does not live"),
        ([DeviceRemoved("x")], "revision 0: DeviceRemoved for 'x', which does not live"),
        ([ResourcesMoved(())], "revision 0: ResourcesMoved moves nothing"),
        ([VmCreated(PLATFORM), VmCreated(PLATFORM)], "revision 1: VmCreated is always the first event"),
        ([VmCreated(PLATFORM, format=2)], "log format 2; this version reads 1 to 1: a newer esrm wrote it"),
        ([VmCreated(PLATFORM, format=0)], "log format 0"),
        ([VmCreated(PLATFORM), ResourcesMoved(())], "revision 1: ResourcesMoved moves nothing"),
        (story(DeviceCreated("nic")), "revision 12: DeviceCreated for 'nic', which lives"),
        (story(DeviceCreated("x", "", "y")), "revision 12: 'x' is created inside 'y', which is unknown"),
        (story(DeviceCreated("x", "", "x")), "'x' is created inside 'x', which is unknown"),
        (story(DeviceRegistered("bridge")), "revision 12: DeviceRegistered for 'bridge', in phase allocated"),
        (story(DeviceRemoved("bridge")), "revision 12: DeviceRemoved for 'bridge', in phase allocated"),
        (
            story(DeviceUnregistered("nic"), ResourcesReleased("nic")),
            "revision 13: 'nic' releases what it does not hold",
        ),
        (story(ResourcesMoved((Move("nic", MMIO, MMIO),))), "'nic' moves mmio 0x3000-0x3fff, which it does not hold"),
        (
            story(ResourcesMoved((Move("nic", NIC, mmio(0x1400, 0x100)), Move("nic", NIC, mmio(0x1800, 0x100))))),
            "revision 12: ResourcesMoved moves one thing to two places",
        ),
        (
            story(ResourcesMoved((Move("nic", NIC, mmio(0x1400, 0x200)),))),
            "'nic' moves mmio 0x1000-0x10ff to mmio 0x1400-0x15ff, which is of another kind or size",
        ),
        (story(ResourcesMoved((Move("nic", NIC, esrm.MemAddressRange(0x1000, 0x100)),))), "is of another kind or size"),
        (story(ResourcesMoved((Move("zzz", MMIO, MMIO),))), "ResourcesMoved for 'zzz', which does not live"),
        (
            [VmCreated(PLATFORM), DeviceCreated("x"), DeviceCreated("y", "", "x"), DeviceRemoved("x")],
            "revision 3: DeviceRemoved for 'x', in phase created",
        ),
        (story(DeviceCreated("x" * 10_000_000, "", "y" * 10_000_000)), "which is unknown"),
    ],
)
def test_a_history_that_cannot_have_been_is_corrupt(history: list[Any], said: str) -> None:
    """Replay stops at the event, and the message has its revision."""
    with pytest.raises(Corrupt, match=said) as refused:
        esrm.replay(history)
    assert len(str(refused.value)) < 400


@pytest.mark.parametrize(
    "change",
    [
        ResourcesReleased("bridge", (mmio(0x1000, 0x1000),)),
        ResourcesMoved((Move("bridge", mmio(0x1000, 0x1000), mmio(0x8000, 0x1000)),)),
        ResourcesAllocated("late", (mmio(0x3000, 0x1000),)),
    ],
)
def test_what_lies_around_others_stays(change: esrm.Event) -> None:
    """A window that is given, moved or taken back around devices that hold something is Corrupt at that revision, with
    open books as without: what they hold would lie in no window, or in another's."""
    late = [DeviceCreated("late"), DeviceCreated("slot", "", "late"), DeviceCreated("card", "", "slot")]
    held = [
        ConstraintsDeclared("card"),
        ResourcesAllocated("card", (mmio(0x4000, 0x1000),)),
        ConstraintsDeclared("late"),
    ]
    for open_books in (False, True):
        state = esrm.replay(story(*late, *held))
        assert not open_books or state.allocator
        with pytest.raises(Corrupt, match=r"revision 18: '(bridge|late)' changes what it holds around '(nic|card)'"):
            esrm.evolve(state, change)


def test_an_emptied_bridge_may_change() -> None:
    """Devices inside that hold nothing, or are gone, are in nobody's way."""
    inner = [DeviceUnregistered("nic"), ResourcesReleased("nic", (NIC,))]
    window = mmio(0x1000, 0x1000)
    for gone in ([], [DeviceRemoved("nic")]):
        state = esrm.replay(story(*inner, *gone, ResourcesMoved((Move("bridge", window, mmio(0x8000, 0x1000)),))))
        assert state.devices["bridge"].allocated == (mmio(0x8000, 0x1000),)


@pytest.mark.parametrize(
    "resource",
    [
        MMIO,
        MmioAddressRange(0x3800, 0x10),
        MmioAddressRange(0x2000, 0x1000),
        MmioAddressRange(0x6000, 0x1000),
        LegacyIrq(8),
        LegacyIrq(99),
    ],
)
def test_two_who_hold_one_thing_are_corrupt(resource: Any) -> None:
    """Found when the books are kept, or when they are first opened; and again the next time, never half a book."""
    history = [VmCreated(PLATFORM), *SAME, ResourcesAllocated("y", (resource,))]
    late = esrm.replay(history)
    for _ in range(2):
        with pytest.raises(Corrupt, match="after revision 8: y cannot hold"):
            _ = late.allocator
    early = esrm.replay(history[:-1])
    assert early.allocator
    with pytest.raises(Corrupt, match="y cannot hold"):
        esrm.evolve(early, history[-1])


def test_two_who_answer_at_one_place_are_corrupt() -> None:
    """The bus finds it likewise, whether built before or after."""
    history = [VmCreated(PLATFORM), *SAME, ResourcesAllocated("y", (MMIO,)), ResourcesAssigned("y")]
    late = esrm.replay([*history, DeviceRegistered("y")])
    for _ in range(2):
        with pytest.raises(Corrupt, match=r"two devices answer at one place: .*y: mmio 0x3000-0x3fff runs into x"):
            _ = late.bus
    early = esrm.replay(history)
    assert early.bus
    with pytest.raises(Corrupt, match="two devices answer"):
        esrm.evolve(early, DeviceRegistered("y"))


def test_a_move_that_lands_on_somebody_is_corrupt() -> None:
    """What ``decide.move`` refuses, a log cannot hold: seen by the books, kept or opened later."""
    history = [VmCreated(PLATFORM), *SAME, ResourcesAllocated("y", (MmioAddressRange(0x8000, 0x1000),))]
    move = ResourcesMoved((Move("y", MmioAddressRange(0x8000, 0x1000), MMIO),))
    early = esrm.replay(history)
    assert early.allocator
    with pytest.raises(Corrupt, match="y cannot hold"):
        esrm.evolve(early, move)
    with pytest.raises(Corrupt, match="y cannot hold"):
        _ = esrm.replay([*history, move]).allocator
