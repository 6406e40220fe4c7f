"""The five steps, the way back, every step out of order, and what a manager shows: stories on both stores."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

import pytest
from stories import TINY, Clock, Toy, agree, events_of, until

import esrm
from esrm import (
    DuplicateDevice,
    InUse,
    KvmMemSlotConstraint,
    LegacyIrq,
    LegacyIrqConstraint,
    MmioAddressRange,
    MmioConstraint,
    Move,
    NoSpace,
    NotAllocated,
    Phase,
    PioConstraint,
    ResourceManager,
    Space,
    UnknownDevice,
    WrongPhase,
    open_store,
)


async def test_the_five_steps_and_the_way_back(url: str):
    """Each step is one event, moves the device one phase on, and after the way back the VM is as it was."""
    async with open_store(url) as store, ResourceManager(store, vm="web-1", platform="x86_64") as vm:
        empty, usage = vm.state.copy(), vm.usage()

        await vm.create("net0", kind="virtio-net")
        assert vm.state.device("net0").phase is Phase.CREATED
        await vm.declare("net0", [MmioConstraint(0x1000), LegacyIrqConstraint()])
        assert vm.state.device("net0").phase is Phase.DECLARED
        resources = await vm.allocate("net0")
        assert vm.state.device("net0").phase is Phase.ALLOCATED
        assert resources == vm.state.device("net0").resources
        [(base, size)] = resources.mmio_address_ranges()
        assert (size, resources.legacy_irq()) == (0x1000, 5)
        await vm.assign("net0")
        assert vm.bus.lookup(Space.MMIO, base) is None
        await vm.register("net0")
        assert vm.bus.find(Space.MMIO, base + 4, 4) == ("net0", base, base + 0xFFF, 4)

        await vm.unregister("net0")
        assert vm.bus.lookup(Space.MMIO, base) is None
        await vm.release("net0", reason="no longer wanted")
        assert vm.usage() == usage
        await vm.remove("net0")
        assert (vm.state.devices, vm.revision) == (empty.devices, 8)

        told = [type(event).__name__ for event in await events_of(store, "web-1")]
        await agree(store, vm)
    assert told == [
        *("VmCreated", "DeviceCreated", "ConstraintsDeclared", "ResourcesAllocated", "ResourcesAssigned"),
        *("DeviceRegistered", "DeviceUnregistered", "ResourcesReleased", "DeviceRemoved"),
    ]


async def test_hot_unplug_asks_the_guest_first(url: str):
    """The device answers while the guest is asked, stays when it refuses, and goes when it agrees."""
    async with open_store(url) as store, ResourceManager(store, vm="web-1", platform="x86_64") as vm:
        await until(vm, "net0", Phase.UNPLUGGING)
        [(base, _)] = vm.state.device("net0").resources.mmio_address_ranges()
        assert vm.bus.find(Space.MMIO, base).device == "net0"
        await vm.refuse_unplug("net0", reason="the guest is using it")
        assert vm.state.device("net0").phase is Phase.REGISTERED
        await vm.request_unplug("net0")
        await vm.unregister("net0")
        assert vm.state.device("net0").phase is Phase.ASSIGNED
        assert esrm.UnplugRefused("net0", "the guest is using it") in await events_of(store, "web-1")


async def test_a_refusal_is_recorded_and_changes_nothing_else(url: str):
    """NoSpace comes with its reason, the reason is in the log, and a smaller wish then fits."""
    async with open_store(url) as store, ResourceManager(store, vm="web-1", platform=TINY) as vm:
        await vm.create("big")
        await vm.declare("big", [PioConstraint(8), MmioConstraint(0x40000)])
        usage = vm.usage()
        with pytest.raises(NoSpace) as caught:
            await vm.allocate("big")
        assert (await events_of(store, "web-1"))[-1] == esrm.AllocationRefused("big", caught.value.refusal)
        assert (vm.state.device("big").phase, vm.usage()) == (Phase.DECLARED, usage)
        await vm.declare("big", [PioConstraint(8), MmioConstraint(0x4000)])
        assert (await vm.allocate("big")).mmio_address_ranges() == [(0xD000_0000, 0x4000)]
        await agree(store, vm)


async def test_two_devices_change_places_as_one_fact(url: str):
    """A batch of moves is one event; the bus follows at once, and nobody else could have slipped between."""
    async with open_store(url) as store, ResourceManager(store, vm="web-1", platform="x86_64") as vm:
        for name in "ab":
            await until(vm, name, Phase.REGISTERED)
        (a, b), head = (vm.state.device(name).allocated[0] for name in "ab"), vm.revision
        await vm.move([Move("a", a, b), Move("b", b, a)])
        assert vm.revision == head + 1
        assert (vm.bus.find(Space.MMIO, b.base).device, vm.bus.find(Space.MMIO, a.base).device) == ("a", "b")
        await agree(store, vm)


async def test_what_is_true_already_is_not_said_again(url: str):
    """No moves, or the same declaration twice: silence, not an event."""
    async with open_store(url) as store, ResourceManager(store, vm="web-1", platform="x86_64") as vm:
        await until(vm, "net0", Phase.DECLARED)
        head = await store.head()
        await vm.declare("net0", vm.state.device("net0").constraints)
        await vm.move([])
        assert await store.head() == head


# -- every step out of order ------------------------------------------------------------------------------------------

LEGAL = {
    None: "create",
    Phase.CREATED: "declare remove",
    Phase.DECLARED: "declare allocate remove",
    Phase.ALLOCATED: "assign release move",
    Phase.ASSIGNED: "register release move",
    Phase.REGISTERED: "unregister request_unplug move",
    Phase.UNPLUGGING: "unregister refuse_unplug",
}
"""Written down a second time, from the ancestor's comment and the way back, to judge the table in the code."""

STEPS: dict[str, Callable[[ResourceManager], Awaitable[object]]] = {
    "create": lambda vm: vm.create("net0"),
    "declare": lambda vm: vm.declare("net0", [MmioConstraint(0x2000)]),
    "allocate": lambda vm: vm.allocate("net0"),
    "assign": lambda vm: vm.assign("net0"),
    "register": lambda vm: vm.register("net0"),
    "unregister": lambda vm: vm.unregister("net0"),
    "release": lambda vm: vm.release("net0"),
    "remove": lambda vm: vm.remove("net0"),
    "request_unplug": lambda vm: vm.request_unplug("net0"),
    "refuse_unplug": lambda vm: vm.refuse_unplug("net0"),
    "move": lambda vm: vm.move([Move("net0", _mmio(vm), MmioAddressRange(0xD000_0000, 0x1000))]),
}


def _mmio(vm: ResourceManager) -> esrm.Resource:
    """What it holds; before it holds anything, something that it might."""
    device = vm.state.devices.get("net0")
    return device.allocated[0] if device and device.allocated else MmioAddressRange(0xC000_1000, 0x1000)


def _refusal(phase: Phase | None, step: str) -> type[esrm.Refused]:
    if phase is None:
        return UnknownDevice
    if step == "create":
        return DuplicateDevice
    return NotAllocated if step == "release" and phase in (Phase.CREATED, Phase.DECLARED) else WrongPhase


@pytest.mark.parametrize("phase", LEGAL, ids=lambda phase: phase.value if phase else "unborn")
async def test_every_step_out_of_order(url: str, phase: Phase | None):
    """In each phase each step either is legal or is refused, naming phase and legal steps, and moves nothing."""
    legal = LEGAL[phase].split()
    async with open_store(url) as store, ResourceManager(store, vm="web-1", platform="x86_64") as vm:
        if phase is not None:
            await until(vm, "net0", phase)
        before, head = vm.state.copy(), await store.head()
        for step in STEPS.keys() - set(legal):
            with pytest.raises(_refusal(phase, step)) as caught:
                await STEPS[step](vm)
            assert (vm.state, await store.head(), vm.position) == (before, head, head)
            if caught.type in (WrongPhase, NotAllocated):
                assert phase is not None
                assert f"in phase {phase.value}" in str(caught.value)
                assert all(name in str(caught.value) for name in legal)
        await agree(store, vm)
        for number, step in enumerate(legal):
            async with ResourceManager(store, vm=f"vm{number}", platform="x86_64") as other:
                if phase is not None:
                    await until(other, "net0", phase)
                head = await store.head()
                await STEPS[step](other)
                assert await store.head() == head + 1


async def test_a_parent_cannot_leave_before_its_children(url: str):
    """What lives or holds resources inside a device keeps it in place: InUse names the children, nothing moves."""
    async with open_store(url) as store, ResourceManager(store, vm="web-1", platform="x86_64") as vm:
        await until(vm, "bridge", Phase.ASSIGNED)
        await vm.create("child", parent="bridge")
        await vm.declare("child", [MmioConstraint(0x100, align=0x100)])
        inside = await vm.allocate("child")
        window = vm.state.device("bridge").allocated[0]
        before, head = vm.state.copy(), await store.head()
        for step in (
            lambda: vm.release("bridge"),
            lambda: vm.move([Move("bridge", window, MmioAddressRange(0xD000_0000, 0x1000))]),
            lambda: vm.detach("bridge"),
        ):
            with pytest.raises(InUse, match="child"):
                await step()
            assert (vm.state, await store.head()) == (before, head)
        await vm.release("child")
        await vm.release("bridge")
        with pytest.raises(InUse, match="child"):
            await vm.remove("bridge")
        await vm.allocate("child")  # outside any window now
        with pytest.raises(InUse, match="child"):
            await vm.allocate("bridge")
        assert window.base <= inside.mmio_address_ranges()[0][0] <= window.last
        await agree(store, vm)


async def test_a_manager_must_be_entered(url: str):
    """A step before ``async with`` would make a log that begins with the wrong event: refused, nothing written."""
    async with open_store(url) as store:
        vm = ResourceManager(store, vm="web-1")
        with pytest.raises(esrm.Refused, match="async with"):
            await vm.create("net0")
        for step in ("declare", "allocate"):
            with pytest.raises(UnknownDevice):
                await STEPS[step](vm)
        assert await store.head() == 0
        async with vm:
            await vm.create("net0")


async def test_the_platform_is_in_the_log(url: str):
    """Reopened without a platform, a VM has the one it began on; another one's name is refused."""
    async with open_store(url) as store:
        async with ResourceManager(store, vm="web-1", platform=TINY):
            pass
        async with ResourceManager(store, vm="web-1") as vm:
            assert vm.state.platform == TINY
        with pytest.raises(esrm.InvalidPlatform, match="web-1 lives on platform tiny, not aarch64"):
            async with ResourceManager(store, vm="web-1", platform="aarch64"):
                pass
        assert await store.head() == 1


# -- looking ----------------------------------------------------------------------------------------------------------


async def test_a_plan_is_what_then_happens(url: str):
    """Planned placements, refusals included, are those of the real steps afterwards; planning itself moves nothing."""
    wanted = {
        "a": [MmioConstraint(0x3000), LegacyIrqConstraint()],
        "b": [MmioConstraint(0x2000, policy="last"), LegacyIrqConstraint(7), LegacyIrqConstraint()],
        "c": [MmioConstraint(0x1E000)],
        "d": [KvmMemSlotConstraint(3), KvmMemSlotConstraint(1, slot=0), LegacyIrqConstraint(shared=True)],
        "e": [LegacyIrqConstraint(shared=True), PioConstraint(8, (0x170, 0x1FF), policy="exact")],
    }
    async with open_store(url) as store, ResourceManager(store, vm="web-1", platform=TINY) as vm:
        for name, constraints in wanted.items():
            await vm.create(name)
            await vm.declare(name, constraints)
        before, usage, head = vm.state.copy(), vm.usage(), await store.head()
        plan = vm.plan(list(wanted))
        assert plan == vm.plan(wanted.items())
        assert (vm.state, vm.usage(), await store.head(), plan.fits) == (before, usage, head, False)
        for placement in plan.placements:
            try:
                assert (await vm.allocate(placement.device)).all_resources() == placement.resources
                assert placement.refusal is None
            except esrm.Refused as error:
                told, planned = error.refusal, placement.refusal
                assert placement.resources == ()
                assert (told.code, told.index, told.window) == (planned.code, planned.index, planned.window)
                assert (told.free, told.holes, told.hole_max) == (planned.free, planned.holes, planned.hole_max)
        assert [p.device for p in plan.placements if p.refusal] == ["c", "e"]
        assert "no 0x1e000 of mmio" in str(plan)


async def test_loose_constraints_are_one_nameless_device(url: str):
    """A plan of bare constraints says where they would go together, and why not when they would not."""
    async with open_store(url) as store, ResourceManager(store, vm="web-1", platform=TINY) as vm:
        [fits] = vm.plan([MmioConstraint(0x1000), LegacyIrqConstraint()]).placements
        assert fits.resources == (MmioAddressRange(0xD000_0000, 0x1000), LegacyIrq(5))
        assert not vm.plan([LegacyIrqConstraint(5), LegacyIrqConstraint(5)]).fits
        with pytest.raises(UnknownDevice):
            vm.plan(["nobody"])
        assert await store.head() == 1


async def test_usage_and_repr(url: str):
    """Total is free and held and reserved; the repr is fit for a log at night."""
    async with open_store(url) as store:
        vm = ResourceManager(store, vm="web-1", platform=TINY, clock=Clock())
        assert repr(vm) == "<ResourceManager web-1 at -1: 0 devices>"
        async with vm:
            before = vm.usage()[Space.MMIO]
            assert (before.total, before.held, before.reserved, before.holes) == (0x20000, 0, 0x1000, 2)
            assert before.hole_max == 0x1B000
            await vm.attach(Toy("net0", MmioConstraint(0x8000)))
            now = vm.usage()[Space.MMIO]
            assert (now.free, now.held) == (before.free - 0x8000, 0x8000)
            assert all(usage.total == usage.free + usage.held + usage.reserved for usage in vm.usage().values())
            assert repr(vm) == "<ResourceManager web-1 at 5: 1 devices, mmio 71% free>"
            assert str(now) == "mmio 71% free, 2 holes"
