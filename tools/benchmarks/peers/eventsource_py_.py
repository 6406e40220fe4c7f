"""The library ``eventsource-py``: asyncio, pydantic events, its ``SQLiteEventStore`` (WAL, ``synchronous=FULL``).

The VM is its ``DeciderAggregate``, saved and loaded by its ``AggregateRepository``.
"""

# pyright: basic, reportMissingImports=false
# A peer is no dependency of the project, and only partly typed.

from __future__ import annotations

import asyncio
import time
from itertools import islice
from pathlib import Path
from typing import Any
from uuid import UUID, uuid4

from eventsource import (
    AggregateRepository,
    DeciderAggregate,
    DomainCommand,
    DomainEvent,
    SQLiteEventStore,
    register_event,
)
from pydantic import BaseModel

from . import commands

Seconds = tuple[float, list[float], float]


class State(BaseModel):
    """A VM and its devices."""

    id: UUID
    devices: dict[str, dict[str, Any]] = {}


class Do(DomainCommand):
    """One step of one device."""

    name: str
    arguments: dict[str, Any]


class Step(DomainEvent):
    """What all the facts share."""

    aggregate_type: str = "Vm"
    device: str


@register_event
class DeviceCreated(Step):
    """Step 1."""

    kind: str


@register_event
class ConstraintsDeclared(Step):
    """Step 2."""

    constraints: list[dict[str, Any]]


@register_event
class ResourcesAllocated(Step):
    """Step 3."""

    resources: list[dict[str, Any]]


@register_event
class ResourcesAssigned(Step):
    """Step 4."""


@register_event
class DeviceRegistered(Step):
    """Step 5."""


@register_event
class DeviceUnregistered(Step):
    """Undo step 5."""


@register_event
class ResourcesReleased(Step):
    """Undo steps 4 and 3."""

    resources: list[dict[str, Any]]


@register_event
class DeviceRemoved(Step):
    """Undo steps 2 and 1."""


FACTS: dict[str, type[Step]] = {
    "create_device": DeviceCreated, "declare": ConstraintsDeclared, "allocate": ResourcesAllocated,
    "assign": ResourcesAssigned, "register": DeviceRegistered, "unregister": DeviceUnregistered,
    "release": ResourcesReleased, "remove": DeviceRemoved,
}  # fmt: skip
PHASES: dict[Any, str] = {
    ResourcesAssigned: "assigned", DeviceRegistered: "registered", DeviceUnregistered: "assigned",
}  # fmt: skip


class Vm(DeciderAggregate[State]):
    """The aggregate."""

    aggregate_type = "Vm"

    @staticmethod
    def initial_state(aggregate_id: UUID) -> State:
        """An empty VM."""
        return State(id=aggregate_id)

    @staticmethod
    def decide(command: Any, state: State) -> list[DomainEvent]:
        """The fact of the step."""
        return [FACTS[command.name](aggregate_id=state.id, **command.arguments)]

    @staticmethod
    def evolve(state: State, event: Any) -> State:
        """In place, which is kinder to it than copying the dictionary."""
        kind, devices = type(event), state.devices
        if kind is DeviceCreated:
            devices[event.device] = {"kind": event.kind, "phase": "created"}
        elif kind is ConstraintsDeclared:
            devices[event.device].update(phase="declared", constraints=event.constraints)
        elif kind is ResourcesAllocated:
            devices[event.device].update(phase="allocated", resources=event.resources)
        elif kind is ResourcesReleased:
            devices[event.device].update(phase="declared", resources=())
        elif kind is DeviceRemoved:
            del devices[event.device]
        else:
            devices[event.device]["phase"] = PHASES[kind]
        return state


async def run(place: Path, tasks: int, count: int) -> Seconds:
    """``tasks`` tasks save ``count`` commands each on a VM each.

    Returns:
        The seconds of all that, those of each command, and the seconds of loading every VM again.
    """
    store = SQLiteEventStore(str(place))
    repository: Any = AggregateRepository(event_store=store, aggregate_factory=Vm, aggregate_type="Vm")
    ids = [uuid4() for _ in range(tasks)]

    async def work(id: UUID) -> list[float]:
        vm = repository.create_new(id)
        samples: list[float] = []
        for name, arguments in islice(commands(), count):
            start = time.perf_counter()
            vm.execute(Do(name=name, arguments=arguments))
            await repository.save(vm)
            samples.append(time.perf_counter() - start)
        return samples

    try:
        start = time.perf_counter()
        samples = [sample for one in await asyncio.gather(*map(work, ids)) for sample in one]
        seconds, start = time.perf_counter() - start, time.perf_counter()
        for id in ids:
            await repository.load(id)
        return seconds, samples, time.perf_counter() - start
    finally:
        await store.close()
