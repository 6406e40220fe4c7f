"""Live devices: attached, refused, crashed at any step, detached; and the guest's accesses on their way to one."""

from __future__ import annotations

from typing import Any

import anyio
import pytest
from anyio.lowlevel import checkpoint
from stories import TINY, Toy, agree, events_of, until

import esrm
from esrm import (
    DuplicateDevice,
    InUse,
    InvalidAccess,
    LegacyIrqConstraint,
    MmioConstraint,
    NotMapped,
    Phase,
    PioConstraint,
    ResourceManager,
    WrongPhase,
    open_store,
)

FIVE = ["DeviceCreated", "ConstraintsDeclared", "ResourcesAllocated", "ResourcesAssigned", "DeviceRegistered"]
BACK = ["DeviceUnregistered", "ResourcesReleased", "DeviceRemoved"]


async def told(store: object, start: int = 1) -> list[str]:
    """The names of what happened from a revision on."""
    return [type(event).__name__ for event in await events_of(store, "web-1")][start:]


async def test_attach_is_the_five_steps_and_detach_the_way_back(url: str):
    """The device is asked, given its resources in the order of its constraints, answers, and is gone again."""
    device = Toy("net0", PioConstraint(8), MmioConstraint(0x1000), LegacyIrqConstraint(), kind="virtio-net")
    async with open_store(url) as store, ResourceManager(store, vm="web-1", platform=TINY) as vm:
        usage = vm.usage()
        resources = await vm.attach(device)
        assert device.assigned == [resources]
        assert [type(r).__name__ for r in resources] == ["PioAddressRange", "MmioAddressRange", "LegacyIrq"]
        found = vm.state.device("net0")
        assert (found.kind, found.phase, found.resources) == ("virtio-net", Phase.REGISTERED, resources)
        await vm.detach("net0")
        assert (vm.usage(), vm.state.devices) == (usage, {})
        assert await told(store) == FIVE + BACK
        await agree(store, vm)


async def test_what_a_device_cannot_have_it_can_ask_for_differently(url: str):
    """A refused attach leaves the device declared; attached with smaller wishes it gets them."""
    async with open_store(url) as store, ResourceManager(store, vm="web-1", platform=TINY) as vm:
        with pytest.raises(esrm.NoSpace):
            await vm.attach(Toy("net0", MmioConstraint(0x40000)))
        assert vm.state.device("net0").phase is Phase.DECLARED
        await vm.attach(Toy("net0", MmioConstraint(0x1000)))
        assert await told(store) == [*FIVE[:2], "AllocationRefused", *FIVE[1:]]


async def test_a_device_that_says_no(url: str):
    """What it was given is released with the reason; both facts stand in the log; a second try goes on from there."""
    async with open_store(url) as store, ResourceManager(store, vm="web-1", platform=TINY) as vm:
        usage, device = vm.usage(), Toy("net0", trouble=OSError(28, "no tap device left"))
        with pytest.raises(OSError, match="no tap device left"):
            await vm.attach(device)
        assert (vm.usage(), vm.state.device("net0").phase, vm.live) == (usage, Phase.DECLARED, {})
        *_, allocated, released = await events_of(store, "web-1")
        assert isinstance(allocated, esrm.ResourcesAllocated)
        reason = "assign failed: OSError(28, 'no tap device left')"
        assert released == esrm.ResourcesReleased("net0", allocated.resources, reason)
        device.trouble = None
        assert (await vm.attach(device)).all_resources() == allocated.resources
        await agree(store, vm)


async def test_a_reason_never_stands_in_the_way(url: str):
    """However long or unprintable what a device raises: it is cut, and the release happens."""
    async with open_store(url) as store, ResourceManager(store, vm="web-1", platform=TINY) as vm:
        with pytest.raises(ValueError, match="x"):
            await vm.attach(Toy("net0", trouble=ValueError("x\0" * 1_000_000)))
        assert vm.state.device("net0").phase is Phase.DECLARED
        await vm.allocate("net0")
        await vm.release("net0", reason="half of \ud83d and a \0 and a \n")
        *_, cut, _, odd = await events_of(store, "web-1")
        assert isinstance(cut, esrm.ResourcesReleased)
        assert isinstance(odd, esrm.ResourcesReleased)
        assert (len(cut.reason), odd.reason) == (1000, "half of ? and a \0 and a \n")


class Speechless(Exception):
    """An error that cannot even be shown."""

    def __repr__(self) -> str:
        raise AttributeError("no words")


async def test_a_device_that_fails_without_words(url: str):
    """Its error has a repr that fails: what was allocated is released all the same, and the error is the device's."""
    async with open_store(url) as store, ResourceManager(store, vm="web-1", platform=TINY) as vm:
        with pytest.raises(Speechless):
            await vm.attach(Toy("net0", trouble=Speechless()))
        released = (await events_of(store, "web-1"))[-1]
        assert isinstance(released, esrm.ResourcesReleased)
        assert released.reason == "assign failed: Speechless"


@pytest.mark.parametrize("phase", list(Phase), ids=lambda phase: phase.value)
async def test_attach_goes_on_after_a_crash_at_any_step(url: str, phase: Phase):
    """The manager is gone between two steps; a new one attaches the same device, which gets what the log says."""
    wanted = [MmioConstraint(0x1000), PioConstraint(8)]
    async with open_store(url) as store:
        async with ResourceManager(store, vm="web-1", platform=TINY) as vm:
            await vm.attach(Toy("before", MmioConstraint(0x1000)))
            await until(vm, "net0", phase)
            held, head = vm.state.device("net0").allocated, vm.revision
            await vm.detach("before")  # were the device placed anew, it would come to lie here
            head = vm.revision
        async with ResourceManager(store, vm="web-1") as vm:
            device = Toy("net0", *wanted)
            resources = await vm.attach(device)
            assert device.assigned == [resources]
            assert vm.state.device("net0").constraints == tuple(wanted)
            if held:
                assert resources.all_resources() == held
            reached = phase if phase is Phase.UNPLUGGING else Phase.REGISTERED
            assert vm.state.device("net0").phase is reached
            steps = [Phase.CREATED, Phase.DECLARED, Phase.ALLOCATED, Phase.ASSIGNED, Phase.REGISTERED]
            missing = len(steps) - 1 - steps.index(phase) if phase in steps else 0
            assert vm.revision == head + missing
            [(base, _)] = resources.mmio_address_ranges()
            assert await vm.mmio_read(base + 1, 2) == b"\1\2"
            await agree(store, vm)


@pytest.mark.parametrize("steps", range(8))
async def test_detach_goes_on_after_a_crash_at_any_step(url: str, steps: int):
    """A life cut off after so many steps, there or back, can always be brought to its end."""
    async with open_store(url) as store:
        async with ResourceManager(store, vm="web-1", platform=TINY) as vm:
            usage = vm.usage()
            way = [
                lambda: vm.create("net0"),
                lambda: vm.declare("net0", [MmioConstraint(0x1000)]),
                lambda: vm.allocate("net0"),
                lambda: vm.assign("net0"),
                lambda: vm.register("net0"),
                lambda: vm.unregister("net0"),
                lambda: vm.release("net0"),
            ]
            for step in way[: max(1, steps)]:
                await step()
        async with ResourceManager(store, vm="web-1") as vm:
            await vm.detach("net0")
            assert (vm.usage(), vm.state.devices) == (usage, {})
            await agree(store, vm)


@pytest.mark.parametrize("phase", list(Phase), ids=lambda phase: phase.value)
async def test_detach_from_any_phase(url: str, phase: Phase):
    """Also one that is being unplugged, or that never held anything: all of the way back that is left, and no more."""
    async with open_store(url) as store, ResourceManager(store, vm="web-1", platform=TINY) as vm:
        usage = vm.usage()
        await until(vm, "net0", phase)
        await vm.detach("net0")
        assert (vm.usage(), vm.state.devices) == (usage, {})
        holding, answering = vm.revision - 1, {"created": 0, "declared": 0, "allocated": 1, "assigned": 1}
        assert (await told(store))[-1 - answering.get(phase.value, 2) :] == BACK[-1 - answering.get(phase.value, 2) :]
        assert holding == len(await told(store)) - 1
        await agree(store, vm)


async def test_other_constraints_while_it_holds(url: str):
    """A device that holds resources for other wishes must be detached first: nothing is asked of it, nothing moves."""
    async with open_store(url) as store, ResourceManager(store, vm="web-1", platform=TINY) as vm:
        await until(vm, "net0", Phase.ASSIGNED)
        head, other = await store.head(), Toy("net0", MmioConstraint(0x2000))
        with pytest.raises(WrongPhase, match="detach it first"):
            await vm.attach(other)
        assert (await store.head(), other.assigned, vm.live) == (head, [], {})
        await vm.detach("net0")
        await vm.attach(other)


async def test_a_name_is_taken_by_one_object(url: str):
    """A second object of that name is refused before it can do the first one any harm; the same one may come again."""
    async with open_store(url) as store, ResourceManager(store, vm="web-1", platform=TINY) as vm:
        device = Toy("net0")
        [(base, _)] = (await vm.attach(device)).mmio_address_ranges()
        head = await store.head()
        with pytest.raises(DuplicateDevice, match="net0 is attached already"):
            await vm.attach(Toy("net0", trouble=ValueError("broken")))
        assert await vm.attach(device) == device.assigned[0] == device.assigned[1]
        assert await store.head() == head
        assert await vm.mmio_read(base, 1) == b"\0"


async def test_resources_taken_away_while_it_is_told(url: str):
    """A device that lost its resources during ``assign`` is not attached: WrongPhase, and it does not answer."""
    async with open_store(url) as store, ResourceManager(store, vm="web-1", platform=TINY) as vm:

        class Robbed(Toy):
            async def assign(self, resources: esrm.DeviceResources) -> None:
                await vm.release(self.name, reason="somebody else's idea")

        with pytest.raises(WrongPhase, match="in phase declared"):
            await vm.attach(Robbed("net0"))
        assert vm.live == {}
        await vm.attach(Toy("net0"))
        await agree(store, vm)


async def test_other_resources_than_it_was_told_of(url: str):
    """Given others while it was told, it must be told again before it answers: WrongPhase, and attach it again."""
    async with open_store(url) as store, ResourceManager(store, vm="web-1", platform=TINY) as vm:

        class Moved(Toy):
            async def assign(self, resources: esrm.DeviceResources) -> None:
                await super().assign(resources)
                if len(self.assigned) == 1:
                    await vm.release(self.name)
                    await vm.attach(Toy("thief", MmioConstraint(0x1000)))
                    await vm.allocate(self.name)

        device = Moved("net0", MmioConstraint(0x1000))
        with pytest.raises(WrongPhase, match="other resources while it was told"):
            await vm.attach(device)
        assert "net0" not in vm.live
        assert await vm.attach(device) == device.assigned[1] != device.assigned[0]
        await agree(store, vm)


async def test_detached_though_nobody_heard_so(url: str):
    """When the answer to a detach is lost, the object does not stay in the way of the next one of that name."""
    async with open_store(url) as store, ResourceManager(store, vm="web-1", platform=TINY) as vm:
        append = store.append

        async def unheard(*arguments: Any, **more: Any) -> Any:
            await append(*arguments, **more)
            store.append = append  # type: ignore[method-assign]
            raise esrm.Unknown("the disk does not say")

        await vm.attach(Toy("net0", MmioConstraint(0x1000)))
        store.append = unheard  # type: ignore[method-assign]
        with pytest.raises(esrm.Unknown):
            await vm.detach("net0")
        with pytest.raises(esrm.UnknownDevice):
            await vm.detach("net0")
        assert vm.live == {}
        await vm.attach(Toy("net0", MmioConstraint(0x1000)))
        await agree(store, vm)


async def test_what_is_no_device(url: str):
    """It is told what a device has, and nothing is recorded."""
    async with open_store(url) as store, ResourceManager(store, vm="web-1", platform=TINY) as vm:
        for thing in (None, "net0", object()):
            with pytest.raises(esrm.Malformed, match="a name, a kind"):
                await vm.attach(thing)  # type: ignore[arg-type]
        assert vm.revision == 0
        with pytest.raises(esrm.Malformed, match=r"open_store\('sqlite:vm.db'\)"):
            ResourceManager("sqlite:vm.db", vm="web-1")  # type: ignore[arg-type]


async def test_a_manager_is_entered_once_at_a_time(url: str):
    """A second task that entered it would begin anew beneath the first one; after its end it may be used again."""
    async with open_store(url) as store:
        vm = ResourceManager(store, vm="web-1", platform=TINY)
        async with vm:
            with pytest.raises(InUse, match="is in use"):
                await vm.__aenter__()
            await vm.create("a")
        async with vm:
            await vm.create("b")
            await agree(store, vm)


class Slow(Toy):
    """A device whose ``assign`` returns when told to."""

    def __init__(self, name: str) -> None:
        super().__init__(name)
        self.asked, self.go = anyio.Event(), anyio.Event()

    async def assign(self, resources: esrm.DeviceResources) -> None:
        self.asked.set()
        await self.go.wait()
        await super().assign(resources)


async def test_attach_and_detach_of_one_name_at_once(url: str):
    """While one task has a device in its hands, others are told so; other devices are not held up."""
    async with open_store(url) as store, ResourceManager(store, vm="web-1", platform=TINY) as vm:
        slow = Slow("net0")
        async with anyio.create_task_group() as group:
            group.start_soon(vm.attach, slow)
            await slow.asked.wait()
            head = await store.head()
            with pytest.raises(InUse, match="another task"):
                await vm.attach(Toy("net0"))
            with pytest.raises(InUse, match="another task"):
                await vm.detach("net0")
            assert await store.head() == head
            await vm.attach(Toy("blk0"))
            slow.go.set()
        assert vm.state.device("net0").phase is Phase.REGISTERED
        await vm.detach("net0")
        await agree(store, vm)


async def test_devices_inside_devices(url: str):
    """A child lies inside its parent's window and answers there; the parent waits for it to leave."""
    async with open_store(url) as store, ResourceManager(store, vm="web-1", platform=TINY) as vm:
        bridge = Toy("bridge", MmioConstraint(0x4000))
        child = Toy("child", MmioConstraint(0x1000, policy="last"), LegacyIrqConstraint(), parent="bridge")
        [(window, _)] = (await vm.attach(bridge)).mmio_address_ranges()
        [(base, _)] = (await vm.attach(child)).mmio_address_ranges()
        assert base == window + 0x3000
        await vm.mmio_write(base + 8, b"in")
        await vm.mmio_write(window + 8, b"out")
        assert (child.seen, bridge.seen) == ([("write", base, 8, b"in")], [("write", window, 8, b"out")])
        with pytest.raises(InUse, match="child inside it"):
            await vm.detach("bridge")
        await vm.detach("child")
        assert await vm.mmio_read(base, 1) == b"\0"  # offset 0x3000 into the bridge's own range
        assert bridge.seen[-1] == ("read", window, 0x3000, 1)
        await vm.detach("bridge")
        with pytest.raises(esrm.UnknownDevice):
            await vm.attach(Toy("orphan", parent="bridge"))
        await agree(store, vm)


async def test_a_parent_that_says_no_after_a_restart(url: str):
    """It cannot be released while a child holds resources inside it: its own error comes out, with a note."""
    async with open_store(url) as store:
        async with ResourceManager(store, vm="web-1", platform=TINY) as vm:
            await vm.attach(Toy("bridge", MmioConstraint(0x4000)))
            await vm.attach(Toy("child", MmioConstraint(0x1000), parent="bridge"))
        async with ResourceManager(store, vm="web-1") as vm:
            with pytest.raises(ValueError, match="broken") as caught:
                await vm.attach(Toy("bridge", MmioConstraint(0x4000), trouble=ValueError("broken")))
            assert "child" in caught.value.__notes__[0]
            assert vm.state.device("bridge").phase is Phase.ASSIGNED  # it does not answer
            await vm.attach(Toy("bridge", MmioConstraint(0x4000)))
            await agree(store, vm)


async def test_a_parent_that_says_no_makes_way(url: str):
    """Attached again, it fails: it answers no more, and another object may come in its place, though it still holds."""
    async with open_store(url) as store, ResourceManager(store, vm="web-1", platform=TINY) as vm:
        bridge = Toy("bridge", MmioConstraint(0x4000))
        await vm.attach(bridge)
        await vm.attach(Toy("child", MmioConstraint(0x1000), parent="bridge"))
        bridge.trouble = OSError("broken")
        with pytest.raises(OSError, match="broken"):
            await vm.attach(bridge)
        assert vm.state.device("bridge").phase is Phase.ASSIGNED
        assert list(vm.live) == ["child"]
        await vm.attach(Toy("bridge", MmioConstraint(0x4000)))
        await agree(store, vm)


# -- the guest's accesses ---------------------------------------------------------------------------------------------


async def test_accesses_reach_the_device_with_base_and_offset(url: str):
    """Port and memory, read and write: the device is told its range's base and the offset inside it."""
    async with open_store(url) as store, ResourceManager(store, vm="web-1", platform=TINY) as vm:
        device = Toy("net0", PioConstraint(8), MmioConstraint(0x1000), PioConstraint(4))
        resources = await vm.attach(device)
        [(first, _), (second, _)] = resources.pio_address_ranges()
        [(base, _)] = resources.mmio_address_ranges()
        assert await vm.pio_read(first + 2, 2) == b"\2\3"
        await vm.pio_write(second, b"\xff")
        assert await vm.mmio_read(base + 0xFFC, 4) == b"\xfc\xfd\xfe\xff"
        await vm.mmio_write(base + 0x10, b"abcd")
        assert device.seen == [
            ("read", first, 2, 2),
            ("write", second, 0, b"\xff"),
            ("read", base, 0xFFC, 4),
            ("write", base, 0x10, b"abcd"),
        ]


async def test_accesses_that_reach_nobody(url: str):
    """NotMapped where nobody answers, InvalidAccess where an access does not fit; no device hears of either."""
    async with open_store(url) as store, ResourceManager(store, vm="web-1", platform=TINY) as vm:
        device = Toy("net0", MmioConstraint(0x1000))
        [(base, _)] = (await vm.attach(device)).mmio_address_ranges()
        for address in (base - 1, base + 0x1000, 0, 2**64 - 1):
            with pytest.raises(NotMapped, match="nobody answers at mmio"):
                await vm.mmio_read(address, 1)
        with pytest.raises(NotMapped):
            await vm.pio_write(0x3F8, b"x")
        for address, size in ((base + 0xFFD, 4), (base, 0x1001), (base, 0)):
            with pytest.raises(InvalidAccess, match=r"do not fit net0 \(0x"):
                await vm.mmio_read(address, size)
        with pytest.raises(InvalidAccess):
            await vm.mmio_write(base, b"")
        assert device.seen == []


async def test_registered_but_not_here(url: str):
    """After a restart a device answers on the bus, but nobody stands behind it before it is attached again."""
    async with open_store(url) as store:
        async with ResourceManager(store, vm="web-1", platform=TINY) as vm:
            [(base, _)] = (await vm.attach(Toy("net0"))).mmio_address_ranges()
        async with ResourceManager(store, vm="web-1") as vm:
            with pytest.raises(NotMapped, match="not attached here"):
                await vm.mmio_read(base, 4)
            await vm.attach(Toy("net0"))
            assert await vm.mmio_read(base, 1) == b"\0"


async def test_a_device_that_answers_wrongly(url: str):
    """Too much, too little, or no method for this space at all: InvalidAccess, not a guess."""

    class Short(Toy):
        pio_read = None

        async def mmio_read(self, base: int, offset: int, size: int) -> bytes:
            return b"x"

    class Mute(Short):
        async def mmio_read(self, base: int, offset: int, size: int) -> bytes:
            return None  # type: ignore[return-value]

    async with open_store(url) as store, ResourceManager(store, vm="web-1", platform=TINY) as vm:
        resources = await vm.attach(Short("net0", MmioConstraint(0x1000), PioConstraint(4)))
        with pytest.raises(InvalidAccess, match="answered 1 bytes for 4"):
            await vm.mmio_read(resources.mmio_address_ranges()[0][0], 4)
        vm.live["net0"] = Mute("net0")
        with pytest.raises(InvalidAccess, match="answered no bytes, but None"):
            await vm.mmio_read(resources.mmio_address_ranges()[0][0], 4)
        with pytest.raises(InvalidAccess, match="net0 has no pio_read"):
            await vm.pio_read(resources.pio_address_ranges()[0][0], 1)


@pytest.mark.parametrize("way", ["detach", "steps", "unregister"])
async def test_a_device_that_left_no_longer_answers(url: str, way: str):
    """However it left: its address reaches nobody, and a newcomer of the same name and place is reached instead."""
    async with open_store(url) as store, ResourceManager(store, vm="web-1", platform=TINY) as vm:
        old, new = Toy("net0"), Toy("net0")
        [(base, _)] = (await vm.attach(old)).mmio_address_ranges()
        if way == "detach":
            await vm.detach("net0")
        else:
            await vm.unregister("net0")
            if way == "steps":
                await vm.release("net0")
                await vm.remove("net0")
        with pytest.raises(NotMapped):
            await vm.mmio_read(base, 1)
        if way == "unregister":
            await vm.register("net0")
            assert await vm.mmio_read(base, 1) == b"\0"
            return
        assert (await vm.attach(new)).mmio_address_ranges()[0][0] == base
        await vm.mmio_read(base, 1)
        assert (len(old.seen), len(new.seen)) == (0, 1)


async def test_devices_answer_while_others_are_attached(url: str):
    """The turn is for steps: a guest's access does not wait for it."""
    async with open_store(url) as store, ResourceManager(store, vm="web-1", platform=TINY) as vm:
        [(base, _)] = (await vm.attach(Toy("net0"))).mmio_address_ranges()
        slow, answers = Slow("blk0"), 0
        async with anyio.create_task_group() as group:
            group.start_soon(vm.attach, slow)
            await slow.asked.wait()
            for _ in range(10):
                answers += len(await vm.mmio_read(base, 4))
                await checkpoint()
            slow.go.set()
        assert answers == 40
