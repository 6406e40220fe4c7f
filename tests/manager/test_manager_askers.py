"""Who asked, as part of what, and when: what travels from the caller into the records."""

from __future__ import annotations

from contextlib import suppress

import anyio
import pytest
from anyio import to_thread
from stories import START_NS, TINY, Clock, Toy, records_of

import esrm
from esrm import InvalidName, ResourceManager, TooLarge, acting, open_store

NAME_10_MB = "n" * 10_000_000


async def asked(store: object) -> list[tuple[str, str]]:
    """Actor and correlation of every record but the first."""
    return [(record.actor, record.correlation) for record in await records_of(store, "web-1")][1:]


async def test_the_manager_s_actor_and_the_block_s(url: str):
    """A block's actor stands in for the manager's, its correlation joins; outside it all is as before."""
    async with open_store(url) as store, ResourceManager(store, vm="web-1", actor="vmm") as vm:
        await vm.create("a")
        with acting("alice", "ticket-7"):
            await vm.create("b")
        await vm.create("c")
        with acting(correlation="boot"):
            await vm.create("d")
        with acting("", ""):
            await vm.create("e")
        assert await asked(store) == [("vmm", ""), ("alice", "ticket-7"), ("vmm", ""), ("vmm", "boot"), ("", "")]
        assert (await records_of(store, "web-1"))[0].actor == "vmm"


async def test_blocks_nest(url: str):
    """What the inner block does not say stays as the outer one said, and returns when it ends, however it ends."""
    async with open_store(url) as store, ResourceManager(store, vm="web-1", actor="vmm") as vm:
        with acting("alice", "outer"):
            with acting(correlation="inner"):
                await vm.create("a")
            with suppress(KeyError), acting("bob"):
                await vm.create("b")
                raise KeyError
            await vm.create("c")
        assert await asked(store) == [("alice", "inner"), ("bob", "outer"), ("alice", "outer")]


async def test_blocks_travel_into_tasks(url: str):
    """A task started inside a block acts for it; its own blocks, and its siblings', are nobody else's business."""
    async with open_store(url) as store, ResourceManager(store, vm="web-1", platform=TINY) as vm:
        ready = anyio.Event()

        async def work(name: str) -> None:
            with acting(correlation=name):
                await ready.wait()
                await vm.attach(Toy(name))

        with acting("alice"):
            async with anyio.create_task_group() as group:
                group.start_soon(work, "a")
                group.start_soon(work, "b")
                ready.set()
                with acting("bob"):
                    await vm.create("c")
        found = {(r.event.device, r.actor, r.correlation) for r in (await records_of(store, "web-1"))[1:]}
        assert found == {("a", "alice", "a"), ("b", "alice", "b"), ("c", "bob", "")}


async def test_a_block_in_a_worker_thread(url: str):
    """The block is seen where a thread calls back into the loop on the caller's behalf."""
    async with open_store(url) as store, ResourceManager(store, vm="web-1") as vm:
        with acting("alice"):
            await to_thread.run_sync(lambda: anyio.from_thread.run(vm.create, "a"))
        assert await asked(store) == [("alice", "")]


BAD = [NAME_10_MB, "a\nb", "half \ud83d", "\0", 7, b"bytes"]


@pytest.mark.parametrize("bad", BAD, ids=[f"{bad!r:.12}" for bad in BAD])
async def test_names_that_are_none(url: str, bad: str):
    """Whatever is named badly, the error is short and names what, and nothing is appended or changed."""
    async with open_store(url) as store, ResourceManager(store, vm="web-1", platform=TINY) as vm:
        await vm.create("a")
        before, head = vm.state.copy(), await store.head()
        for what, step in {
            "actor": lambda: acting(bad).__enter__(),
            "correlation": lambda: acting(correlation=bad).__enter__(),
            "vm": lambda: ResourceManager(store, vm=bad),
            "actor ": lambda: ResourceManager(store, vm="x", actor=bad),
        }.items():
            with pytest.raises(InvalidName, match=what.strip()) as caught:
                step()
            assert len(str(caught.value)) < 300
        for what, step in {
            "device": lambda: vm.create(bad),
            "kind": lambda: vm.create("b", kind=bad),
            "device ": lambda: vm.attach(Toy(bad)),
        }.items():
            with pytest.raises(InvalidName, match=what.strip()) as caught:
                await step()
            assert len(str(caught.value)) < 300
        for step in (lambda: vm.create("b", parent=bad), lambda: vm.detach(bad), lambda: vm.allocate(bad)):
            with pytest.raises(esrm.UnknownDevice) as caught:
                await step()
            assert len(str(caught.value)) < 300
        assert (vm.state, await store.head()) == (before, head)
        await vm.create("b")
        assert (await asked(store))[-1] == ("", ""), "a block that could not begin left nothing behind"


async def test_a_name_at_its_limit(url: str):
    """255 characters of any script are a name, of a device, an actor and a VM; 256 are not; nor is none."""
    name = "\U0001f5a5" * 255
    async with open_store(url) as store:
        async with ResourceManager(store, vm=name, actor=name) as vm:
            with acting(correlation=name):
                await vm.attach(Toy(name, kind=name))
        [*_, last] = await records_of(store, name)
        assert (last.vm, last.actor, last.correlation) == (name, name, name)
        for bad in (name + "x", ""):
            with pytest.raises(InvalidName):
                ResourceManager(store, vm=bad)


async def test_time_never_runs_backward(url: str):
    """A clock that is set back, by a little or by years, cannot make the log lie about the order of things."""
    clock = Clock()
    async with open_store(url) as store:
        async with ResourceManager(store, vm="web-1", clock=clock) as vm:
            for step in (10, -1, -(10**18), 5):
                clock.now += step
                await vm.create(f"dev{clock.now}")
        async with ResourceManager(store, vm="web-1", clock=clock) as vm:  # nor after a restart
            await vm.create("later")
            clock.now = START_NS + 20
            await vm.create("latest")
        records = await records_of(store, "web-1")
        assert [record.time_ns - START_NS for record in records] == [0, 10, 10, 10, 10, 10, 20]
        assert [r.id for r in records[:5]] == sorted(r.id for r in records[:5])
        assert len({record.id for record in records}) == len(records)


async def test_a_clock_that_no_log_can_hold(url: str):
    """Past 2262: a clear refusal and nothing appended; with a sane clock it goes on."""
    clock = Clock()
    async with open_store(url) as store, ResourceManager(store, vm="web-1", clock=clock) as vm:
        for clock.now in (2**63, 2**70):  # the ids of a later time must not be built on the second
            with pytest.raises(TooLarge, match="time_ns"):
                await vm.create("a")
        clock.now = START_NS
        await vm.create("a")
        assert await store.head() == 2


async def test_ids_carry_the_time(url: str):
    """A record's id is a UUIDv7 whose first 48 bits are the record's milliseconds."""
    clock = Clock()
    async with open_store(url) as store, ResourceManager(store, vm="web-1", clock=clock) as vm:
        for number in range(5):
            clock.now += 1_500_000
            await vm.create(f"dev{number}")
        for record in await records_of(store, "web-1"):
            assert int(record.id.replace("-", "")[:12], 16) == record.time_ns // 1_000_000
            assert record.id[14] == "7"
