"""How the tests tell a story: a VM on a few pools, decisions that are applied at once, refusals as answers."""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import Any

import esrm
from esrm import Platform, Refused, Space, VmState, decide
from esrm.core.resources import span


def vm(pools: dict[Space, Any], **rest: Any) -> VmState:
    """A VM that has just begun on these pools."""
    return esrm.replay([esrm.VmCreated(Platform("p", pools, **rest))])


def do(state: VmState, decision: Callable[..., list[esrm.Event]], *args: Any) -> None:
    """Decide, and let it happen."""
    for event in decision(state, *args):
        esrm.evolve(state, event)


def declared(state: VmState, device: str, *constraints: Any, parent: str | None = None) -> None:
    """A device, new or not, that has said what it needs."""
    if device not in state.devices:
        do(state, decide.create, device, "", parent)
    do(state, decide.declare, device, constraints)


def give(state: VmState, device: str, *constraints: Any, parent: str | None = None) -> list[Any]:
    """What a new device gets; when it is refused it stays declared."""
    declared(state, device, *constraints, parent=parent)
    do(state, decide.allocate, device)
    return list(state.devices[device].allocated)


def take_back(state: VmState, device: str) -> None:
    """The device holds nothing any more, and is gone."""
    do(state, decide.release, device)
    do(state, decide.remove, device)


def firsts(resources: list[Any]) -> list[int]:
    """Where each resource begins."""
    return [span(resource)[1] for resource in resources]


def tried(decision: Callable[..., list[esrm.Event]], *args: Any) -> list[esrm.Event] | Refused:
    """The events, or the refusal as an answer."""
    try:
        return decision(*args)
    except Refused as no:
        return no


def spans(resources: list[Any]) -> list[tuple[int, int]]:
    """The first and the last number of each resource."""
    return [span(resource)[1:] for resource in resources]


def calls(action: Callable[[], object]) -> int:
    """How many functions, in Python and in C, run until an action has ended."""
    count = 0

    def profile(frame: object, event: str, argument: object) -> None:
        nonlocal count
        count += event in ("call", "c_call")

    before = sys.getprofile()
    sys.setprofile(profile)
    try:
        action()
    finally:
        sys.setprofile(before)
    return count
