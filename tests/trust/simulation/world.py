"""Who lives in a world: processes with managers, callers, subscribers and a projection, all at the mercy of dice.

A process comes up on the disk, replays, works, and at some callback it is dead; later it is back. Its callers take
random steps on tiny machines, so that much is refused, and are cancelled in the middle of them, by scope or by task.
Everybody reports to the auditor. At the end the disk is healed, and who lives must come to agree with the log.

``run(seed)`` is all there is to call; ``Laws`` is where a test puts a mistake in, to see it caught.
"""

from __future__ import annotations

import asyncio
import json
from collections import Counter, deque
from collections.abc import Awaitable, Callable, Sequence
from contextvars import copy_context
from dataclasses import dataclass
from functools import cache, lru_cache
from typing import Any
from zlib import crc32

import anyio
import msgspec

from esrm.core import decide, events
from esrm.core.lifecycle import HOLDING, Phase
from esrm.core.platform import Platform
from esrm.core.resources import (
    KvmMemSlotConstraint,
    LegacyIrqConstraint,
    MacAddressConstraint,
    MmioAddressRange,
    MmioConstraint,
    PciMsixIrqConstraint,
    PioConstraint,
    ResourceConstraint,
    Space,
)
from esrm.core.state import DeviceState, VmState, evolve, replay
from esrm.errors import Conflict, Refused, StoreError
from esrm.manager import ResourceManager, Uuid7, acting
from esrm.projection import Projection
from esrm.stores.chain import verify
from esrm.stores.records import Batch, Draft, Record, prepare

from .auditor import Auditor, Step, Violation
from .disk import Disk, FaultyStore
from .loop import PROCESS, Loop, Process

TINY = Platform(
    "tiny",
    pools={
        Space.PIO: [(0x100, 0x10F), (0x300, 0x307)],
        Space.MMIO: [(0xD000_0000, 0xD000_7FFF)],
        Space.LEGACY_IRQ: [(5, 6)],
        Space.MSI_IRQ: [(24, 31)],
        Space.KVM_MEM_SLOT: [(0, 3)],
        Space.MAC: [(0x02_00_00_00_00_00, 0x02_00_00_00_00_01)],
    },
    reserved=[(Space.MMIO, 0xD000_2000, 0xD000_2FFF, "timer")],
    shared_irq=4,
)
NAMES = ("net0", "blk0", "gpu0", "port")
WISHES: tuple[tuple[ResourceConstraint, ...], ...] = (
    (MmioConstraint(0x1000),),
    (MmioConstraint(0x3000), LegacyIrqConstraint()),
    (MmioConstraint(0x2000, align=0x2000), LegacyIrqConstraint(shared=True)),
    (MmioConstraint(0x1000, (0xD000_0000, 0xD000_1FFF)), PciMsixIrqConstraint(3)),
    (PioConstraint(8), LegacyIrqConstraint(shared=True)),
    (PioConstraint(8, (0x100, 0x107), policy="exact"), MacAddressConstraint()),
    (KvmMemSlotConstraint(2), MacAddressConstraint()),
    (LegacyIrqConstraint(),),
    (),
)
LIKELY = {
    None: ("create", "attach", "attach"),
    Phase.CREATED: ("declare", "remove", "attach"),
    Phase.DECLARED: ("allocate", "allocate", "remove", "attach"),
    Phase.ALLOCATED: ("assign", "release", "move", "attach"),
    Phase.ASSIGNED: ("register", "release", "detach"),
    Phase.REGISTERED: ("request_unplug", "unregister", "move", "detach", "detach", "attach"),
    Phase.UNPLUGGING: ("refuse_unplug", "unregister", "detach"),
}
ANY = tuple(sorted({step for steps in LIKELY.values() for step in steps}))
SHOWN = 40


def _past(*lives: tuple[str, str | None, int, int]) -> list[events.Event]:
    """A history: each device's name, parent, place in ``WISHES``, and how many steps it has gone."""
    state, found = VmState(), list[events.Event]()
    steps: list[Callable[[str, str | None, int], list[events.Event]]] = [
        lambda name, parent, _: decide.create(state, name, "part", parent),
        lambda name, _, wish: decide.declare(state, name, WISHES[wish]),
        lambda name, *_: decide.allocate(state, name),
        lambda name, *_: decide.assign(state, name),
        lambda name, *_: decide.register(state, name),
        lambda name, *_: decide.request_unplug(state, name),
    ]
    found += decide.create_vm(state, TINY)
    evolve(state, found[0])
    for name, parent, wish, gone in lives:
        for step in steps[:gone]:
            made = step(name, parent, wish)
            found += made
            for event in made:
                evolve(state, event)
    return found


PASTS = (
    _past(("port", None, 1, 5), ("net0", "port", 0, 3)),
    _past(("net0", None, 2, 5), ("gpu0", None, 1, 6), ("port", None, 5, 1)),
    _past(("blk0", None, 4, 5)),
)
"""What a world may begin with: machines in the middle of their lives, one of them nearly full."""


@cache
def _batch(vm: str, past: int) -> Batch[events.Event]:
    """A past, ready to be written."""
    return prepare(
        events,
        vm,
        [
            Draft(event=event, id=f"01990000-0000-7000-8000-{crc32(vm.encode()):08x}{number:04x}", time_ns=0)
            for number, event in enumerate(PASTS[past])
        ],
        -1,
    )


@dataclass
class Laws:
    """What a world is made of. A test of the simulation itself breaks one of these."""

    manager: type[ResourceManager] = ResourceManager
    store: type[FaultyStore] = FaultyStore


class Part:
    """A live device: it takes its time, and now and then will not have what it is given."""

    def __init__(self, world: World, name: str, kind: str, parent: str | None, wanted: Sequence[Any]) -> None:
        self.world, self.name, self.kind, self.parent, self.wanted = world, name, kind, parent, tuple(wanted)

    def constraints(self) -> Sequence[Any]:
        return self.wanted

    async def assign(self, resources: Any) -> None:
        await anyio.sleep(self.world.disk.wait_s())
        if self.world.dice.random() < 0.08:
            raise ValueError("will not")

    async def pio_read(self, base: int, offset: int, size: int) -> bytes:
        return self.name[:1].encode() * size

    mmio_read = pio_read


class Reader:
    """A subscriber of the log: what it was given last outlives its process, as a checkpoint in its own files does."""

    def __init__(self, name: str, vm: str | None, after: int, batch: int) -> None:
        self.name, self.vm, self.batch = name, vm, batch
        self.given = self.checkpoint = after


class Slot:
    """A place for a process: who runs in it, one after the other, and what is theirs in each life."""

    def __init__(self, number: int, vms: list[str]) -> None:
        self.number, self.vms = number, vms
        self.readers: list[Reader] = []
        self.follows: list[str | None] = []
        self.process = Process("none yet")
        self.process.dead = True
        self.coming = False
        self.store: FaultyStore | None = None
        self.managers: list[ResourceManager] = []
        self.projections: list[Projection] = []
        self.parts: dict[tuple[int, str], Part] = {}
        self.callers: list[asyncio.Task[Any]] = []
        self.followers: list[asyncio.Task[Any]] = []


class World:
    """One seed's world, and what is told of it."""

    def __init__(self, seed: int, laws: Laws) -> None:
        self.seed, self.laws = seed, laws
        self.loop = Loop(seed)
        self.dice = dice = self.loop.dice
        self.audit = Auditor()
        self.disk = Disk(self.loop, dice.choice((0, 0.04, 0.12)), dice.choice((0.1, 0.3, 0.6)), self.audit.wrote)
        self.counts = self.disk.counts
        self.story: deque[tuple[float, str | Step]] = deque(maxlen=SHOWN)
        self.told: Counter[str] = Counter()
        self.steps = dice.randint(2, 5)
        self.crashes = dice.choice((0, 0, 1, 1, 2))
        self.cancelled = dice.choice((0.0, 0.15, 0.3))
        self.ids = Uuid7()
        self.raw: list[tuple[list[Draft[Any]], int, list[Any] | None]] = []
        self.slots = self._slots()
        self.raw_owner = self.slots[0] if dice.random() < 0.1 else None

    def _slots(self) -> list[Slot]:
        dice, rivals = self.dice, self.dice.random() < 0.3
        slots = [Slot(0, dice.choice((["vm-a"], ["vm-a"], ["vm-a"], ["vm-a", "vm-a"], ["vm-a", "vm-b"])))]
        if rivals:
            slots.append(Slot(1, dice.choice((["vm-a"], ["vm-b"]))))
        for number in range(dice.choice((0, 1, 1))):
            reader = Reader(
                f"reader {number}",
                dice.choice((None, None, "vm-a", "vm-b")),
                dice.choice((0, 0, 3, 9)),
                dice.randint(1, 5),
            )
            dice.choice(slots).readers.append(reader)
        if dice.random() < 0.2:
            dice.choice(slots).follows.append(dice.choice((None, "vm-a")))
        return slots

    def tell(self, what: str | Step) -> None:
        """One line of the story."""
        self.story.append((self.loop.time(), what))

    # -- processes ----------------------------------------------------------------------------------------------------

    async def main(self) -> None:
        """All of it, from the first process to the last word."""
        for vm in {vm: None for slot in self.slots for vm in slot.vms}:
            number = self.dice.randint(0, len(PASTS))
            if number < len(PASTS):
                self.disk.begin(_batch(vm, number))
        for slot in self.slots:
            self.start(slot)
        for _ in range(self.crashes):
            slot = self.dice.choice(self.slots)
            self.loop.after(self.dice.randint(20, 160), lambda slot=slot: self.crash(slot))
        while self.steps > 0 or self.busy():
            await asyncio.sleep(1)
            if self.loop.time() > 300:
                raise Violation("callers wait for ever")
        self.disk.heal()
        for slot in self.slots:
            await self._in(slot.process, self.settle(slot))
        for slot in self.slots:
            slot.process.kill()
        if self.dice.random() < 0.2:  # what others see of the log, they see all along
            await self._in(Process("afterwards"), self.afterwards())

    def busy(self) -> bool:
        """Whether a process is on its way up, or a caller at work; what broke anybody is raised here."""
        over = [_over(caller) for slot in self.slots for caller in slot.callers]
        for slot in self.slots:
            any(map(_over, slot.followers))
        return not all(over) or any(slot.coming for slot in self.slots)

    def _in(self, process: Process, doing: Any) -> asyncio.Task[Any]:
        context = copy_context()
        context.run(PROCESS.set, process)
        return self.loop.create_task(doing, context=context)

    def start(self, slot: Slot) -> None:
        """A process comes up."""
        slot.process = Process(f"process {slot.number}")
        slot.coming = True
        slot.managers, slot.projections, slot.parts, slot.callers, slot.followers = [], [], {}, [], []
        self._in(slot.process, self.life(slot))

    def crash(self, slot: Slot) -> None:
        """A process dies, here and now."""
        if slot.process.dead or not self.disk.slow:  # or at rest already
            return
        slot.process.kill()
        if slot.store is not None:
            self.counts["a crash inside append"] += slot.store.busy > 0
            self.counts["a crash between append and answer"] += slot.store.written > 0
            self.disk.stores.remove(slot.store)
        self.counts["a crash"] += 1
        self.tell(f"{slot.process.name} dies")
        slot.coming, slot.callers, slot.store = True, [], None
        self.loop.call_later(self.disk.wait_s(), self.start, slot)

    async def life(self, slot: Slot) -> None:
        slot.store = self.laws.store(self.disk)
        store = await slot.store.__aenter__()
        for vm in slot.vms:
            slot.managers.append(await self.enter(store, vm, slot.process.name))
        for number, manager in enumerate(slot.managers):
            for _ in range(self.dice.choice((1, 2))):
                slot.callers.append(self.loop.create_task(self.calls(slot, number, manager)))
        for reader in slot.readers:
            slot.followers.append(self.loop.create_task(self.reads(store, reader)))
        for vm in slot.follows:
            slot.followers.append(self.loop.create_task(self.follows(slot, store, vm)))
        if self.raw_owner is slot:
            slot.callers.append(self.loop.create_task(self.insists(store)))
        slot.coming = False
        self.tell(f"{slot.process.name} is up")

    async def enter(self, store: FaultyStore, vm: str, who: str) -> ResourceManager:
        """A manager on its way in, for as often as the disk will not have it."""
        while True:
            manager = self.laws.manager(store, vm=vm, platform=TINY, actor=who, clock=self.loop.now_ns)
            step = self.audit.asked("open", vm, "", manager, -1)
            try:
                with acting(correlation=step.name):
                    await manager.__aenter__()
            except (Conflict, StoreError) as error:
                self.answered(step, error)
                continue
            self.answered(step, None)
            if manager.revision < step.length - 1:
                raise Violation(f"{who} opened {vm} at {manager.revision}, when {step.length} records stood before")
            self.look(manager)
            return manager

    # -- callers ------------------------------------------------------------------------------------------------------

    async def calls(self, slot: Slot, number: int, manager: ResourceManager) -> None:
        """One caller of a manager, step by step."""
        while self.steps > 0:
            self.steps -= 1
            await asyncio.sleep(self.disk.wait_s())
            device, kind, call = self.choose(slot, number, manager)
            step = self.audited(kind, manager, device)
            error: BaseException | None = None
            try:
                if self.dice.random() >= self.cancelled:
                    await self.ask(manager, step, call)
                elif self.dice.random() < 0.5:
                    with anyio.CancelScope() as scope:
                        self.loop.after(self.dice.randint(1, 40), scope.cancel)
                        await self.ask(manager, step, call)
                    if scope.cancelled_caught:
                        error = asyncio.CancelledError()
                else:
                    task = self.loop.create_task(self.ask(manager, step, call))
                    self.loop.after(self.dice.randint(1, 40), task.cancel)
                    await asyncio.wait([task])
                    error = asyncio.CancelledError() if task.cancelled() else task.exception()
            except Exception as raised:
                error = raised
            self.answered(step, error)
            if isinstance(error, Exception) and not isinstance(error, (Refused, Conflict, StoreError, ValueError)):
                raise error

    async def ask(self, manager: ResourceManager, step: Step, call: Callable[[], Awaitable[Any]]) -> None:
        """One step; and with its answer in hand, before anything else can run, a look at everything."""
        try:
            with acting(correlation=step.name):
                resources = await call()
        except BaseException as error:
            step.left = len(self.audit.steps)
            self.look(manager)
            if isinstance(error, Refused) and "another task" not in str(error):  # which is not about the log
                self.audit.refused(step, manager.revision)
            if step.kind == "attach" and isinstance(error, ValueError) and not isinstance(error, Refused):
                found = manager.state.devices.get(step.device)
                if not getattr(error, "__notes__", ()) and found is not None and found.phase in HOLDING:
                    raise Violation(f"{step}: its assign failed, and it holds {found.resources}") from error
            raise
        self.look(manager)
        self.audit.stands(step)
        if step.kind in ("attach", "allocate"):
            found = self.audit.moment(manager.name, manager.revision)[step.device]
            if msgspec.to_builtins(list(resources)) != found.held:
                raise Violation(f"{step}: it was told {resources}")
            if step.kind == "attach" and found.phase not in ("registered", "unplugging"):
                raise Violation(f"{step}: it is {found.phase}")

    def audited(self, kind: str, manager: ResourceManager, device: str) -> Step:
        return self.audit.asked(kind, manager.name, device, manager, manager.revision)

    def answered(self, step: Step, error: BaseException | None) -> None:
        if self.loop.is_closed():  # what died is being buried
            return
        told = "done" if error is None else "Cancelled" if isinstance(error, asyncio.CancelledError) else ""
        self.audit.answered(step, told or type(error).__name__)
        group = "Refused" if isinstance(error, Refused) else step.told
        self.told[f"{step.kind} {group}"] += 1
        self.counts[f"told {group}"] += 1
        self.tell(step)
        self.loop.tell(step.told)

    def choose(self, slot: Slot, number: int, manager: ResourceManager) -> tuple[str, str, Callable[[], Any]]:
        """A device, a step that mostly makes sense, and the call that asks for it."""
        dice, state = self.dice, manager.state
        device = dice.choice(NAMES)
        found = state.devices.get(device)
        kind = dice.choice(LIKELY[found.phase if found else None] if dice.random() < 0.9 else ANY)
        match kind:
            case "create":
                parent = dice.choice((None, None, *state.devices))
                return device, kind, lambda: manager.create(device, kind="part", parent=parent)
            case "declare":
                wanted = dice.choice(WISHES)
                return device, kind, lambda: manager.declare(device, wanted)
            case "move":
                moves = self.moves(state, device)
                return device, kind, lambda: manager.move(moves)
            case "attach":
                part = self.part(slot, number, manager, device)
                return device, kind, lambda: manager.attach(part)
            case _:
                return device, kind, lambda: getattr(manager, kind)(device)

    def moves(self, state: VmState, device: str) -> list[events.Move]:
        """Its first memory range to some place."""
        held = state.devices[device].allocated if device in state.devices else ()
        ranges = [resource for resource in held if isinstance(resource, MmioAddressRange)]
        base = 0xD000_0000 + 0x1000 * self.dice.randrange(8)
        return [events.Move(device, old, MmioAddressRange(base, old.size)) for old in ranges[:1]]

    def part(self, slot: Slot, number: int, manager: ResourceManager, device: str) -> Part:
        """The live device of a name: made anew in each life of the process, mostly as the log has it."""
        dice, found = self.dice, manager.state.devices.get(device)
        if device in manager.live:
            return slot.parts[number, device]
        if found is None:
            part = Part(self, device, "part", dice.choice((None, None, *manager.state.devices)), dice.choice(WISHES))
        else:
            known = found.constraints if dice.random() < 0.8 else dice.choice(WISHES)
            part = Part(self, device, found.kind, found.parent, known)
        slot.parts[number, device] = part
        return part

    def look(self, manager: ResourceManager) -> None:
        """What a manager believes at this moment, told to the auditor."""
        audit, vm, revision = self.audit, manager.name, manager.revision
        who = "a manager"
        audit.saw(who, vm, revision, manager.state.devices.values(), picture)
        if manager.state.platform is None or self.dice.random() < 0.5:
            return
        for space in (Space.PIO, Space.MMIO):
            found = [(answer.base, answer.last, answer.device) for answer in manager.bus.ranges(space)]
            audit.routed(who, vm, revision, space.value, found)
            for first, last, _ in found:
                for address in (first, last, last + 1):
                    answer = manager.bus.lookup(space, address)
                    wanted = audit.answers(vm, revision, space.value, address)
                    if (answer.device if answer else None) != wanted:
                        raise Violation(f"{who} routes {space.value} {address:#x} to {answer}, not to {wanted}")

    # -- readers ------------------------------------------------------------------------------------------------------

    async def reads(self, store: FaultyStore, reader: Reader) -> None:
        """A subscriber: record by record or page by page, with failures and cancellations on the way."""
        sub = store.subscribe(reader.checkpoint, vm=reader.vm, batch=reader.batch)
        pages = sub.pages() if self.dice.random() < 0.4 else None
        while True:
            got: list[Record[Any]] = []
            try:
                if self.disk.slow and self.dice.random() < self.cancelled:
                    with anyio.CancelScope() as scope:
                        self.loop.after(self.dice.randint(1, 30), scope.cancel)
                        got = await anext(pages) if pages is not None else [await anext(sub)]
                    self.counts["a cancellation of a subscriber"] += scope.cancelled_caught
                else:
                    got = await anext(pages) if pages is not None else [await anext(sub)]
            except StoreError:
                continue
            for record in got:
                event = events.encode(record.event)
                id, hash = bytes.fromhex(record.id.replace("-", "")), bytes.fromhex(record.hash)
                row = (record.position, record.vm, record.revision, id, record.time_ns, record.actor,
                       record.correlation, event, hash)  # fmt: skip
                reader.given = self.audit.delivered(reader.name, reader.vm, reader.given, row)
            reader.checkpoint = sub.position

    async def follows(self, slot: Slot, store: FaultyStore, vm: str | None) -> None:
        """A projection, begun anew when the disk has failed it."""
        while True:
            projection = Projection(store, vm, batch=self.dice.randint(1, 6))
            slot.projections.append(projection)
            try:
                async with projection:
                    while True:
                        await projection.wait_for(projection.position + 1)
                        self.compare(projection)
            except StoreError:
                self.counts["a projection begun anew"] += 1
                slot.projections.remove(projection)

    def compare(self, projection: Projection) -> None:
        """What a projection shows is what stood up to its position."""
        for vm, state in projection.states.items():
            stood = sum(row[1] == vm for row in self.audit.rows[: projection.position])
            if state.revision != stood - 1:
                raise Violation(f"a projection has {vm} at {state.revision}, when {stood} records of it stood")
            self.audit.saw("a projection", vm, state.revision, state.devices.values(), picture)

    async def insists(self, store: FaultyStore) -> None:
        """Asks a store with the same ids until it has an answer, in this life or the next; then once more."""
        if not self.raw:
            for number in range(3):
                made: list[Any] = [events.DeviceCreated(f"dev{number}"), events.DeviceCreated(f"more{number}")]
                if not number:
                    made.insert(0, events.VmCreated(TINY))
                drafts = [Draft(event=event, id=self.ids(self.loop.now_ns()), time_ns=number) for event in made]
                self.raw.append((drafts, self.raw[-1][1] + len(self.raw[-1][0]) if self.raw else -1, None))
        for number, (drafts, expected, first) in enumerate(self.raw):
            answer: list[Any] | None = None
            while answer is None:
                try:
                    with anyio.CancelScope() as scope:
                        if self.disk.slow and self.dice.random() < self.cancelled:
                            self.loop.after(self.dice.randint(1, 20), scope.cancel)
                        answer = list(await store.append("vm-raw", drafts, expected=expected))
                except StoreError:
                    self.counts["a retry with the same ids"] += 1
            if first is not None and answer != first:
                raise Violation(f"the same ids were answered {answer}, and before {first}")
            self.raw[number] = drafts, expected, answer
            if [record.id for record in answer] != [draft.id for draft in drafts]:
                raise Violation(f"other records were answered than {drafts}")

    # -- the last word ------------------------------------------------------------------------------------------------

    async def settle(self, slot: Slot) -> None:
        """On a good disk everybody comes to know everything."""
        for manager in slot.managers:
            while True:
                step = self.audited("create", manager, f"last word {len(self.audit.steps)}")
                try:
                    with acting(correlation=step.name):
                        await manager.create(step.device)
                except Conflict as error:
                    self.answered(step, error)
                    continue
                self.answered(step, None)
                break
            if manager.revision != self.audit.length(manager.name) - 1:
                raise Violation(f"{manager!r} had its word, and {self.audit.length(manager.name)} records stand")
            self.look(manager)
        head = len(self.audit.rows)
        for _ in range(200):
            any(map(_over, slot.followers))
            if all(self.at_end(reader) for reader in slot.readers) and all(
                p.position >= head for p in slot.projections
            ):
                break
            await asyncio.sleep(0.01)
        else:
            raise Violation(f"a subscriber or projection in {slot.process.name} never came to position {head}")
        for projection in slot.projections:
            self.compare(projection)

    def at_end(self, reader: Reader) -> bool:
        """Whether a subscriber has been given everything."""
        return not any(reader.vm in (None, row[1]) for row in self.audit.rows[reader.given :])

    async def afterwards(self) -> None:
        """A new process finds what stood, and nothing else."""
        async with self.laws.store(self.disk) as store:
            for vm in self.audit.vms:
                manager = await self.enter(store, vm, "afterwards")
                past = [record.event for record in await store.read(vm)]
                if not (manager.revision == len(past) - 1 and replay(past) == manager.state):
                    raise Violation(f"{manager!r} is not what replay makes of {len(past)} records")
            verdict = await store.ask(verify)
            if not verdict.ok:
                raise Violation(f"the chain is broken: {verdict.fault}")


def picture(device: DeviceState) -> tuple[Any, ...]:
    """A device as the auditor reads it."""
    return (
        device.name,
        device.kind,
        device.parent,
        device.phase.value,
        _plain(device.constraints),
        _plain(device.allocated),
    )


@lru_cache(1000)
def _plain(values: tuple[Any, ...]) -> list[Any]:
    """Constraints or resources as JSON has them; not to be changed."""
    found: list[Any] = json.loads(msgspec.json.encode(values))
    return found


def _over(task: asyncio.Task[Any]) -> bool:
    if task.done():
        task.result()
    return task.done()


def run(seed: int, laws: Laws | None = None) -> World:
    """Run a seed's world to its end.

    Raises:
        Violation, or whatever broke it; its notes tell the seed and the last lines of the story.
    """
    world = World(seed, laws or Laws())
    try:
        world.loop.run(world.main())
        world.audit.close(world.disk.shelf.rows)
        if world.loop.troubles:
            raise Violation(f"a task ended with {world.loop.troubles[0]}")
    except Exception as error:
        story = [f"{time:10.6f} {what}" for time, what in world.story]
        error.add_note("\n".join([f"seed {seed}; the last of its story:", *story]))
        raise
    finally:
        world.loop.bury()
    return world
