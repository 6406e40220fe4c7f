"""The table of lives: closed, mirrored, obeyed. What it forbids is refused by ``decide`` and Corrupt to ``evolve``."""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise
from typing import Any

import pytest

import esrm
from esrm import (
    Corrupt,
    DuplicateDevice,
    InvalidName,
    LegacyIrq,
    LegacyIrqConstraint,
    Move,
    NotAllocated,
    Phase,
    Space,
    UnknownDevice,
    VmState,
    WrongPhase,
    decide,
)
from esrm.core import lifecycle
from esrm.core.lifecycle import ANSWERING, HOLDING, STEPS, TRANSITIONS

PLATFORM = esrm.Platform("p", {Space.LEGACY_IRQ: [(5, 9)]})
MOVE = [Move("net0", LegacyIrq(5), LegacyIrq(7))]

ASK: dict[type, Callable[[VmState], list[esrm.Event]]] = {
    esrm.DeviceCreated: lambda s: decide.create(s, "net0"),
    esrm.ConstraintsDeclared: lambda s: decide.declare(s, "net0", [LegacyIrqConstraint()]),
    esrm.ResourcesAllocated: lambda s: decide.allocate(s, "net0"),
    esrm.ResourcesAssigned: lambda s: decide.assign(s, "net0"),
    esrm.DeviceRegistered: lambda s: decide.register(s, "net0"),
    esrm.ResourcesMoved: lambda s: decide.move(s, MOVE),
    esrm.UnplugRequested: lambda s: decide.request_unplug(s, "net0"),
    esrm.UnplugRefused: lambda s: decide.refuse_unplug(s, "net0", "busy"),
    esrm.DeviceUnregistered: lambda s: decide.unregister(s, "net0"),
    esrm.ResourcesReleased: lambda s: decide.release(s, "net0"),
    esrm.DeviceRemoved: lambda s: decide.remove(s, "net0"),
}
"""How each event is asked for."""

WAY: list[tuple[Phase | None, type | None]] = [
    (None, None),
    (Phase.CREATED, esrm.DeviceCreated),
    (Phase.DECLARED, esrm.ConstraintsDeclared),
    (Phase.ALLOCATED, esrm.ResourcesAllocated),
    (Phase.ASSIGNED, esrm.ResourcesAssigned),
    (Phase.REGISTERED, esrm.DeviceRegistered),
    (Phase.UNPLUGGING, esrm.UnplugRequested),
]
"""Every phase and the event that enters it on the way there: the ancestor's five steps, and the guest being asked."""

PHASES = [phase for phase, _ in WAY]
LIVING = [phase for phase in PHASES if phase is not None]


def at(phase: Phase | None) -> VmState:
    """A VM whose net0 has come as far as this phase (None: it does not live)."""
    state = esrm.replay([esrm.VmCreated(PLATFORM)])
    for reached, event in WAY[1:]:
        if phase is None or PHASES.index(reached) > PHASES.index(phase):
            break
        for fact in ASK[event](state):
            esrm.evolve(state, fact)
    assert (state.devices["net0"].phase if phase else None) is phase
    return state


# -- the table -------------------------------------------------------------------------------------------------------


def test_the_table_is_closed() -> None:
    """Every phase can be reached from nothing and left for nothing, and no step leads out of the table."""
    arrows = {(source, target) for (source, _), target in TRANSITIONS.items()}
    assert {phase for arrow in arrows for phase in arrow} == {None, *Phase}
    assert _reach(arrows) == _reach({(target, source) for source, target in arrows}) == {None, *Phase}


def _reach(arrows: set[tuple[Phase | None, Phase | None]]) -> set[Phase | None]:
    seen: set[Phase | None] = {None}
    for _ in Phase:
        seen |= {target for source, target in arrows if source in seen}
    return seen


def test_the_way_back_mirrors_the_way_there() -> None:
    """Forward it is one phase at a time; back, a device stops answering, holding, living just where it began to."""
    order = {phase: index for index, phase in enumerate(PHASES)}
    for (here, _), (there, event) in pairwise(WAY):
        assert TRANSITIONS[here, event] is there
    for phase in LIVING:
        assert any(source is phase and order[target] < order[phase] for (source, _), target in TRANSITIONS.items())
    for (source, _), target in TRANSITIONS.items():
        if (source in HOLDING) != (target in HOLDING):
            assert Phase.DECLARED in (source, target)
        if (source in ANSWERING) != (target in ANSWERING):
            assert Phase.ASSIGNED in (source, target)
        if (source is None) != (target is None):
            assert {source, target} & {Phase.CREATED, Phase.DECLARED}


def test_every_event_of_a_device_has_its_place() -> None:
    """Each event but the VM's own stands in the table, each but the refusal has a step, and each step is asked for."""
    events = {event for _, event in TRANSITIONS}
    assert events == {*esrm.core.state._STEPS, *esrm.core.state._OTHERS} - {esrm.VmCreated}
    assert set(STEPS) == events - {esrm.AllocationRefused} == set(ASK)
    assert all(callable(getattr(decide, step)) for step in STEPS.values())
    assert all(callable(getattr(esrm.ResourceManager, step)) for step in STEPS.values())


def test_who_holds_and_who_answers() -> None:
    """A device holds from allocate to release, and answers from register to unregister, the unplug included."""
    assert {Phase.ALLOCATED, Phase.ASSIGNED, Phase.REGISTERED, Phase.UNPLUGGING} == HOLDING
    assert {Phase.REGISTERED, Phase.UNPLUGGING} == ANSWERING


@pytest.mark.parametrize(
    ("phase", "steps"),
    [
        ("nothing", {"create": "created"}),
        ("created", {"declare": "declared", "remove": "nothing"}),
        ("declared", {"declare": "declared", "allocate": "allocated", "remove": "nothing"}),
        ("allocated", {"assign": "assigned", "move": "allocated", "release": "declared"}),
        ("assigned", {"register": "registered", "move": "assigned", "release": "declared"}),
        ("registered", {"move": "registered", "request_unplug": "unplugging", "unregister": "assigned"}),
        ("unplugging", {"refuse_unplug": "registered", "unregister": "assigned"}),
    ],
)
def test_the_steps_a_phase_allows(phase: str, steps: dict[str, str]) -> None:
    """The table once more, as people would say it: from a phase, by a step, to a phase."""
    source = None if phase == "nothing" else Phase(phase)
    assert lifecycle.allowed(source) == list(steps)
    assert {STEPS[e]: _name(t) for (s, e), t in TRANSITIONS.items() if s is source and e in STEPS} == steps


# -- every pair of a phase and a step --------------------------------------------------------------------------------

PAIRS = [(phase, event) for phase in PHASES for event in ASK]


def _name(value: Any) -> str:
    return getattr(value, "value", None) or getattr(value, "__name__", None) or "nothing"


@pytest.mark.parametrize(("phase", "event"), [p for p in PAIRS if p in TRANSITIONS], ids=_name)
def test_a_legal_step_is_one_event_and_enters_its_phase(phase: Phase | None, event: type) -> None:
    """Allowed, a step is exactly one event, and that event leads where the table says."""
    state = at(phase)
    before = state.copy()
    facts = ASK[event](state)
    assert state == before
    if (phase, event) == (Phase.DECLARED, esrm.ConstraintsDeclared):
        assert facts == []  # it said just that before
        return
    assert [type(fact) for fact in facts] == [event]
    esrm.evolve(state, facts[0])
    target = TRANSITIONS[phase, event]
    assert (state.devices["net0"].phase if "net0" in state.devices else None) is target
    assert state.revision == before.revision + 1


@pytest.mark.parametrize(("phase", "event"), [p for p in PAIRS if p not in TRANSITIONS], ids=_name)
def test_an_illegal_step_is_refused_and_nothing_moves(phase: Phase | None, event: type) -> None:
    """The error names the phase and the steps it allows; the state, its allocator and its bus are as before."""
    state = at(phase)
    assert state.allocator
    assert state.bus is state.bus
    before, usage = state.copy(), state.allocator.usage()
    expected: type[esrm.Refused] = WrongPhase
    if phase is None:
        expected = UnknownDevice
    elif event is esrm.DeviceCreated:
        expected = DuplicateDevice
    elif event is esrm.ResourcesReleased and phase not in HOLDING:
        expected = NotAllocated
    with pytest.raises(expected) as refused:
        ASK[event](state)
    assert type(refused.value) is expected
    assert state == before
    assert state.allocator.usage() == usage
    said = str(refused.value)
    assert "net0" in said
    if phase is not None:
        assert phase.value in said
    if expected in (WrongPhase, NotAllocated):
        assert said.endswith(", ".join(lifecycle.allowed(phase)))


@pytest.mark.parametrize(("phase", "event"), [p for p in PAIRS if p not in TRANSITIONS], ids=_name)
def test_an_illegal_event_in_a_log_is_corrupt(phase: Phase | None, event: type) -> None:
    """What ``decide`` would never have said cannot have happened: replay stops there, and names the revision."""
    state = at(phase)
    fact: Any
    if event is esrm.DeviceCreated:
        fact = esrm.DeviceCreated("net0")
    elif event is esrm.ResourcesMoved:
        fact = esrm.ResourcesMoved(tuple(MOVE))
    else:
        fact = event("net0")
    with pytest.raises(Corrupt, match=f"revision {state.revision + 1}: .*{event.__name__}|two"):
        esrm.evolve(state, fact)


@pytest.mark.parametrize("event", [event for event in ASK if event is not esrm.DeviceCreated], ids=_name)
def test_a_device_that_never_lived_is_unknown(event: type) -> None:
    """Every step of an unknown device is UnknownDevice, and offers a name that comes close."""
    state = esrm.replay([esrm.VmCreated(PLATFORM), esrm.DeviceCreated("net1")])
    before = state.copy()
    with pytest.raises(UnknownDevice, match="no device 'net0' in this VM; did you mean net1"):
        ASK[event](state)
    assert state == before


def test_another_declaration_replaces_the_first() -> None:
    """Until it holds something a device may ask for something else instead; asking the same again is silence."""
    state = at(Phase.DECLARED)
    assert decide.declare(state, "net0", [LegacyIrqConstraint()]) == []
    other = [LegacyIrqConstraint(8), LegacyIrqConstraint()]
    (fact,) = decide.declare(state, "net0", other)
    esrm.evolve(state, fact)
    assert state.devices["net0"].constraints == tuple(other)


def test_a_vm_begins_once() -> None:
    """A second VmCreated is not decided, and cannot have happened."""
    state = at(Phase.CREATED)
    assert decide.create_vm(state, PLATFORM) == []
    with pytest.raises(Corrupt, match="always the first event"):
        esrm.evolve(state, esrm.VmCreated(PLATFORM))


def test_a_name_can_be_used_again() -> None:
    """Removed, a device is gone, and another of its name begins from the beginning."""
    state = at(Phase.DECLARED)
    for fact in decide.remove(state, "net0"):
        esrm.evolve(state, fact)
    assert "net0" not in state.devices
    for fact in decide.create(state, "net0", "other"):
        esrm.evolve(state, fact)
    assert state.devices["net0"] == esrm.DeviceState("net0", "other", None, Phase.CREATED)


def test_the_guest_may_keep_a_device() -> None:
    """Asked to let go, the device still answers; refused, it is registered as before, and the reason stands there."""
    state = at(Phase.UNPLUGGING)
    (fact,) = decide.refuse_unplug(state, "net0", "mounted")
    assert fact == esrm.UnplugRefused("net0", "mounted")
    assert esrm.evolve(state, fact).devices["net0"].phase is Phase.REGISTERED


@pytest.mark.parametrize("reason", ["x" * 10_000_000, "\ud800" * 5, "line\nbreak", ""])
def test_a_reason_never_stands_in_the_way(reason: str) -> None:
    """However long or odd, a reason is cut and can be written."""
    for fact in (
        *decide.release(at(Phase.ASSIGNED), "net0", reason),
        *decide.refuse_unplug(at(LIVING[-1]), "net0", reason),
    ):
        assert len(fact.reason) <= decide.REASON_MAX
        assert esrm.core.events.decode(esrm.core.events.encode(fact)) == fact


@pytest.mark.parametrize(("device", "kind"), [("", ""), ("a\n", ""), ("x" * 256, ""), ("a", "k\n"), ("a", "x" * 256)])
def test_names_and_kinds_are_printable_and_short(device: str, kind: str) -> None:
    """A device has a name; its kind may be empty. Neither has control characters or more than 255."""
    state = esrm.replay([esrm.VmCreated(PLATFORM)])
    with pytest.raises(InvalidName):
        decide.create(state, device, kind)
    assert decide.create(state, "a", "") == [esrm.DeviceCreated("a")]
