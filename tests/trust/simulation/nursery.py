"""The same callers on trio: its own deterministic scheduling, and its own way to cancel.

No process dies here, since trio lets no task be forgotten, and nobody is cancelled but by scope. What is left is what
asyncio cannot show: every await is a checkpoint, and a cancelled scope raises at each of them. Next: ``world.py``,
whose callers and auditor these are.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any

import anyio
import trio
from trio.testing import MockClock

from esrm.core import events
from esrm.errors import Conflict, Refused, Rejected, StoreError, Unknown
from esrm.manager import ResourceManager, acting
from esrm.stores.memory import MemoryStore
from esrm.stores.records import Batch, CommittedVolatile, Draft, Row

from .world import Laws, Slot, World


class SlowStore(MemoryStore[events.Event]):
    """A store that takes its time, and fails as ``FaultyStore`` does, but for what hangs."""

    def __init__(self, world: World) -> None:
        super().__init__(events)
        self.world, self.disk = world, world.disk

    async def append(
        self, vm: str, drafts: Sequence[Draft[events.Event]], *, expected: int
    ) -> CommittedVolatile[events.Event]:
        """As ``Store.append``; what is cancelled before it stands has not happened."""
        await anyio.sleep(self.disk.wait_s())
        fate = self.disk.dice.choice(("before", "after")) if self.disk.fails() else ""
        if fate == "before":
            raise Rejected("the disk is full")
        records = await super().append(vm, drafts, expected=expected)
        await anyio.sleep(self.disk.wait_s())
        if fate == "after":
            raise Unknown("no answer from the disk")
        return records

    def _write(self, batch: Batch[events.Event], stream: list[Row]) -> list[Row]:
        rows = super()._write(batch, stream)
        for row in rows:
            self.world.audit.wrote(row)
        return rows

    async def ask(self, question: Any) -> Any:
        """As ``Store.ask``, late, or not at all."""
        await anyio.sleep(self.disk.wait_s())
        if self.disk.fails():
            raise StoreError("the disk cannot be read")
        return await super().ask(question)


async def _calls(world: World, slot: Slot, number: int, manager: ResourceManager) -> None:
    """One caller, cancelled now and then after a while."""
    for _ in range(world.dice.randint(1, 4)):
        await anyio.sleep(world.disk.wait_s())
        device, kind, call = world.choose(slot, number, manager)
        step = world.audited(kind, manager, device)
        error: BaseException | None = None
        with anyio.CancelScope() as scope:
            if world.dice.random() < world.cancelled:
                scope.deadline = anyio.current_time() + world.dice.choice((0.0, 0.00005, 0.0005, 0.005, 0.5))
            try:
                await world.ask(manager, step, call)
            except (Refused, Conflict, StoreError, ValueError) as raised:
                error = raised
        world.answered(step, asyncio.CancelledError() if scope.cancelled_caught else error)


async def _reads(world: World, store: SlowStore, got: list[int]) -> None:
    sub = store.subscribe(batch=world.dice.randint(1, 4))
    while True:
        try:
            async for record in sub:
                got.append(record.position)
        except StoreError:
            continue


def run(seed: int, laws: Laws | None = None) -> World:
    """Run a seed's callers on trio; whoever calls this has told trio to schedule by choice of ``Random(seed)``."""
    world = World(seed, laws or Laws())

    async def main() -> None:
        async with SlowStore(world) as store:
            slot, got = world.slots[0], list[int]()
            slot.managers = [await world.enter(store, vm, "process 0") for vm in slot.vms]
            async with anyio.create_task_group() as group:
                group.start_soon(_reads, world, store, got)
                async with anyio.create_task_group() as callers:
                    for number, manager in enumerate(slot.managers * 2):
                        callers.start_soon(_calls, world, slot, number % len(slot.managers), manager)
                world.disk.heal()
                for manager in slot.managers:
                    step = None
                    while step is None or step.told == "Conflict":
                        step = world.audited("create", manager, f"last word {len(world.audit.steps)}")
                        try:
                            with acting(correlation=step.name):
                                await manager.create(step.device)
                        except Conflict as error:
                            world.answered(step, error)
                        else:
                            world.answered(step, None)
                    world.look(manager)
                await anyio.sleep(10)  # longer than whatever was begun on the bad disk
                assert got == list(range(1, len(world.audit.rows) + 1))
                group.cancel_scope.cancel()

    try:
        trio.run(main, clock=MockClock(autojump_threshold=0))
        world.audit.close(world.audit.rows)
    except BaseException as error:
        story = [f"{time:10.6f} {what}" for time, what in world.story]
        error.add_note("\n".join([f"seed {seed}, on trio; the last of its story:", *story]))
        raise
    finally:
        world.loop.close()
    return world
