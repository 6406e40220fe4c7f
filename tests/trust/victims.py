"""Writers that are killed, and the auditor of what they leave behind.

A victim is a process with a real store: several streams, single records and batches, one stream through a
``ResourceManager``. It says each acknowledged record with all its columns, and goes on until it is killed. Python takes
long to start, so victims are forked from one clean process, the nursery, that has imported everything and opened
nothing.

Run as a program this file is the nursery; imported it is the parent's side of it. Next: ``test_kill.py``,
``test_power.py``.
"""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import anyio

import esrm
from esrm import Draft, ResourceManager, open_reader, open_store
from esrm.core import events
from esrm.errors import StoreError
from esrm.stores.base import Record, Store, verify
from esrm.stores.sqlite import committer

Columns = list[Any]
"""A record as a victim says it: position, vm, revision, id, time_ns, actor, correlation, event (JSON), hash (hex)."""

MANAGED = "web-1"
BATCH_MAX = 8


# -- the victim's side ---------------------------------------------------------------------------------------------


def tell(*words: object) -> None:
    """A line at once: a pipe takes up to PIPE_BUF bytes (4,096) whole or not at all, whoever is killed."""
    line = json.dumps(words).encode() + b"\n"
    assert len(line) <= 4096
    os.write(1, line)


async def victim(path: str, seed: int, synchronous: str) -> None:
    """Write until killed, or close after a while. How the store is set is part of the dice."""
    dice = random.Random(seed)
    committer.FOLD_PAGES = dice.choice([12, 1000])  # the WAL is folded often enough to be killed in the middle of it
    anchor, inline_ms = dice.choice(["commit", "commit", "second"]), dice.choice([0, 50])
    async with open_store(f"sqlite:{path}", synchronous=synchronous, anchor=anchor, inline_ms=inline_ms) as store:
        tell("opened")
        said = _saying(store)
        async with anyio.create_task_group() as group:
            for task, turns in enumerate(dice.choices([3, 15, 80], k=3)):
                group.start_soon(_append, store, f"vm-{task}", seed * 4 + task, turns)
            group.start_soon(_manage, store, seed * 4 + 3, dice.choice([3, 15]))
        tell("closing", said[0])
    tell("closed")


def _saying(store: Store[esrm.Event]) -> list[int]:
    """Have every acknowledgement said, as soon as ``append`` has returned; the count of those said."""
    append, said = store.append, [0]

    async def appending(vm: str, drafts: Any, *, expected: int) -> list[Record[esrm.Event]]:
        records = await append(vm, drafts, expected=expected)
        for record in records:
            tell("stands", *columns(record))
        said[0] += len(records)
        return records

    store.append = appending  # type: ignore[method-assign]
    return said


async def _append(store: Store[esrm.Event], vm: str, seed: int, turns: int) -> None:
    """Single records and batches of small and large events; each batch says in its correlation how many it has."""
    dice = random.Random(seed)
    head = await store.stream(vm)
    expected, number = (head.revision if head else -1), 0
    for turn in range(turns):
        size = dice.choice([1, 1, dice.randrange(2, BATCH_MAX + 1)])
        batch: list[Draft[esrm.Event]] = []
        for _ in range(size):
            number += 1
            batch.append(
                Draft(
                    event=esrm.DeviceCreated(f"d{number}", kind="x" * dice.choice([0, 20, 200])),
                    id=f"01990000-0000-7000-8000-{seed << 16 | number:012x}",
                    time_ns=1_795_000_000_000_000_000 + dice.randrange(10**9),
                    actor=dice.choice(["", "me", "käthe"]),
                    correlation=f"{seed}.{turn}/{size}",
                )
            )
        expected = (await store.append(vm, batch, expected=expected))[-1].revision


async def _manage(store: Store[esrm.Event], seed: int, turns: int) -> None:
    """Devices come and go by the manager's own rules."""
    dice = random.Random(seed)
    async with ResourceManager(store, vm=MANAGED, platform="x86_64", actor="manager") as vm:
        for _ in range(turns):
            name = f"net{dice.randrange(5)}"
            if name in vm.state.devices:
                await vm.detach(name)
            else:
                await vm.create(name)
                await vm.declare(name, [esrm.MmioConstraint(0x1000)])
                await vm.allocate(name)


def columns(record: Record[esrm.Event]) -> Columns:
    """What is compared: everything that an append returned."""
    r = record
    data = events.encode(r.event).decode()
    return [r.position, r.vm, r.revision, r.id, r.time_ns, r.actor, r.correlation, data, r.hash]


async def _warm() -> None:
    import esrm.stores.sqlite.store  # noqa: F401

    async with open_store("memory:") as store:
        await _manage(store, 1, 3)


def nursery() -> None:
    """For each line on standard input fork a victim; reap it when told so, and not before: its id stays its own."""
    for backend in ("asyncio", "trio"):  # import everything once, before the forks
        anyio.run(_warm, backend=backend)
    for line in sys.stdin:
        path, seed, synchronous = json.loads(line)
        pid = os.fork()
        if pid == 0:
            tell("born", os.getpid())  # the child itself: what it says next must not come first
            try:
                anyio.run(victim, path, seed, synchronous, backend=("asyncio", "trio")[seed % 2])
            except BaseException as error:
                tell("failed", repr(error)[:3000])
            os._exit(0)
        sys.stdin.readline()
        os.waitpid(pid, 0)
        tell("gone")


# -- the parent's side ---------------------------------------------------------------------------------------------


class Nursery:
    """The process that victims are forked from, to be used with ``with``."""

    def __enter__(self) -> Self:
        self._victim = 0  # the process that is to be killed yet
        root = str(Path(esrm.__file__).parents[1])
        self._process = subprocess.Popen(
            [sys.executable, __file__],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env={**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, [root, os.environ.get("PYTHONPATH")]))},
        )
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None) -> None:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.close()
        if kind is not None:
            self._process.kill()
            if self._victim:
                os.kill(self._victim, signal.SIGKILL)
        code = self._process.wait(30)
        self._process.stdout.close()
        assert kind or code == 0

    def live_and_die(self, path: Path, seed: int, synchronous: str = "FULL") -> list[Columns]:
        """Let a victim write until a random moment, kill and reap it; what it had acknowledged."""
        dice, heard = random.Random(seed), list[list[Any]]()
        self._say(str(path), seed, synchronous)
        _, self._victim = self._line()
        match dice.choices(["opening", "appending", "closing"], [3, 5, 2])[0]:
            case "opening":
                last, patience, moment = "", 0, dice.random() * 0.03
            case "appending":
                last, patience, moment = "closing", 1 + dice.randrange(dice.choice([2, 20, 200])), dice.random() * 0.004
            case _:
                last, patience, moment = "closing", 10_000, dice.random() * 0.003
        while len(heard) < patience and (not heard or heard[-1][0] != last):
            heard.append(self._line())
        until = time.perf_counter() + moment
        while time.perf_counter() < until:
            pass
        os.kill(self._victim, signal.SIGKILL)
        self._victim = 0
        self._say("reap")
        while (words := self._line()) != ["gone"]:
            heard.append(words)
        return [words[1:] for words in heard if words[0] == "stands"]

    def _say(self, *words: object) -> None:
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps(words) + "\n")
        self._process.stdin.flush()

    def _line(self) -> list[Any]:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        assert line, f"the nursery ended: {self._process.wait(5)}"
        words = json.loads(line)
        assert words[0] != "failed", words[1]
        return words


class Auditor:
    """What a log must hold, kept apart from it: all that was acknowledged, and all that was ever seen in it.

    Args:
        path: the log.
        tail_may_go: records may be missing at its end, but only there; they are counted in ``lost``.
    """

    def __init__(self, path: Path, *, tail_may_go: bool = False) -> None:
        self.path, self.url, self.tail_may_go, self.lost = path, f"sqlite:{path}", tail_may_go, 0
        self.acknowledged: dict[int, Columns] = {}
        self.seen: list[Columns] = []

    def hear(self, acknowledged: list[Columns]) -> None:
        """Take down what a victim said before it died."""
        self.acknowledged |= {words[0]: words for words in acknowledged}

    def look(self, dice: random.Random) -> None:
        """Open the log as a reader would, or as the next writer, and judge what is there."""
        if dice.random() < 0.5:
            self._judge(*anyio.run(self._as_writer, backend=dice.choice(["asyncio", "trio"])))
        else:
            self._judge(*self._as_reader())

    def _as_reader(self) -> tuple[Any, list[Columns]]:
        try:
            with open_reader(self.url) as reader:
                return _examine(reader)
        except StoreError as error:
            # Killed before there was a log: for a reader there is none then. (A writer makes one.)
            if not str(error).startswith((f"{self.path} does not exist", f"{self.path} is empty: nothing was ever")):
                raise
            return None, []

    async def _as_writer(self) -> tuple[Any, list[Columns]]:
        async with open_store(self.url) as store:
            return await store.ask(_examine)

    def _judge(self, verdict: Any, rows: list[Columns]) -> None:
        gone = [position for position in self.acknowledged if position > len(rows)]
        if self.tail_may_go:
            self.lost += len(gone)
            self.acknowledged = {key: words for key, words in self.acknowledged.items() if key <= len(rows)}
            del self.seen[len(rows) :]
        else:
            assert not gone, f"the log ends at {len(rows)}, but these were acknowledged: {sorted(gone)}"
        for position, words in self.acknowledged.items():
            assert rows[position - 1] == words, "a record is not what was acknowledged"
        assert rows[: len(self.seen)] == self.seen, "a record is not what it was"
        assert [row[0] for row in rows] == list(range(1, len(rows) + 1)), "positions have gaps"
        if verdict is not None:
            assert verdict.ok, verdict.fault
            assert verdict.good == len(rows)
        for correlation, count in Counter(row[6] for row in rows if row[6]).items():
            assert correlation.endswith(f"/{count}"), f"of batch {correlation} there are {count} records"
        esrm.replay(events.decode(row[7].encode()) for row in rows if row[1] == MANAGED)
        self.seen = rows


def _examine(reader: Any) -> tuple[Any, list[Columns]]:
    return verify(reader), [columns(record) for record in reader.read_all(limit=10**9)]


if __name__ == "__main__":
    nursery()
