"""Other processes for the tests: one that wants to write, one that follows, one whose children are killed.

Run as a program by ``start``; each answers on its standard output, one line at a time. Separate from the tests, so
that it imports no pytest and is there in a moment.
"""

from __future__ import annotations

import hashlib
import os
import random
import subprocess
import sys
from pathlib import Path

import anyio

import esrm
from esrm import Draft, ResourceManager, open_store
from esrm.manager import Uuid7

BATCH = 5
"""Records that the victims append at once to the stream "batches": all stand, or none."""


def start(role: str, *arguments: object) -> subprocess.Popen[str]:
    """This file as a process, with pipes."""
    paths = [str(Path(esrm.__file__).parents[1]), os.environ.get("PYTHONPATH", "")]
    return subprocess.Popen(
        [sys.executable, __file__, role, *map(str, arguments)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, paths))},
    )


def digest(state: esrm.VmState) -> str:
    """A short name for a layout, the same in every process."""
    return hashlib.sha256(repr(list(state.devices.values())).encode()).hexdigest()[:16]


def tell(*words: object) -> None:
    """A whole line at once: less than a pipe's PIPE_BUF is never torn, whoever else writes."""
    os.write(1, (" ".join(map(str, words)) + "\n").encode())


async def rival(url: str, name: str, steps: str) -> None:
    """Append so many steps to a VM that another process wants to write, too; says how that went, and stays a while."""
    async with open_store(url) as store:
        tell("ready")
        sys.stdin.readline()
        try:
            async with ResourceManager(store, vm="web-1", platform="x86_64", actor=name) as vm:
                for number in range(int(steps)):
                    await vm.create(f"{name}-{number}")
                tell("wrote", os.getpid())
        except esrm.Rejected as error:
            tell("refused", error)
        sys.stdin.readline()


async def follower(url: str, until: str) -> None:
    """Follow a VM that another process writes, and say the layout's name at each revision up to one."""
    async with open_store(url) as store:
        tell("ready")
        state = esrm.VmState()
        async for record in store.subscribe(vm="web-1"):
            assert record.revision == state.revision + 1, "none missed, none twice"
            tell(record.revision, digest(esrm.evolve(state, record.event)))
            if record.revision == int(until):
                return


async def victim(url: str, seed: int) -> None:
    """Go on with the story until killed, and acknowledge each step once it has returned."""
    from stories import TINY, turn

    dice, ids = random.Random(seed), Uuid7()
    # A kill takes nothing that the kernel has: so most of them need not wait for the disk.
    synchronous = "FULL" if seed % 8 == 0 else "NORMAL"
    async with (
        open_store(url, synchronous=synchronous) as store,
        ResourceManager(store, vm="web-1", platform=TINY) as vm,
    ):
        tell("step", vm.position, vm.revision, digest(vm.state))
        while True:
            await turn(vm, dice)
            tell("step", vm.position, vm.revision, digest(vm.state))
            if dice.random() < 0.3:
                head = await store.stream("batches")
                expected = head.revision if head else -1
                event = esrm.VmCreated(TINY) if head is None else esrm.DeviceCreated(f"batch{expected}")
                now = 1_795_000_000_000_000_000 + expected
                drafts = [Draft(event=event, id=ids(now), time_ns=now) for _ in range(BATCH)]
                records = await store.append("batches", drafts, expected=expected)
                tell("batch", records[-1].position, records[-1].revision, records[-1].hash)


async def begin() -> None:
    """A VM's first moment, in memory: it touches all that a victim needs, and starts no thread."""
    from stories import TINY

    import esrm.stores.sqlite.store  # noqa: F401

    async with open_store("memory:") as store, ResourceManager(store, vm="web-1", platform=TINY):
        pass


def nursery(url: str) -> None:
    """For each seed on standard input, fork a victim, say its number, and say when it is gone."""
    for line in sys.stdin:
        pid = os.fork()
        if pid == 0:
            try:
                anyio.run(victim, url, int(line), backend=("asyncio", "trio")[int(line) % 2])
            except BaseException as error:
                tell("failed", repr(error).replace("\n", " ")[:2000])
            os._exit(0)
        tell("born", pid)
        os.waitpid(pid, 0)
        tell("gone")


if __name__ == "__main__":
    match sys.argv[1]:
        case "nursery":
            for backend in ("asyncio", "trio"):  # import everything once, before the forks
                anyio.run(begin, backend=backend)
            nursery(sys.argv[2])
        case "rival":
            anyio.run(rival, *sys.argv[2:])
        case "follower":
            anyio.run(follower, *sys.argv[2:], backend="trio")
