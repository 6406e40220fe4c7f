"""Other processes on the same file: competing, following, and killed in the middle of a step."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from processes import BATCH, digest, start
from stories import TINY, Toy, agree, turn

import esrm
from esrm import ResourceManager, open_reader, open_store
from esrm.stores.chain import verify

# CI kills as often on one Python, less on the others.
KILLS = round(200 * float(os.environ.get("ESRM_TEST_SCALE", "1")))


@contextmanager
def running(*arguments: object) -> Iterator[subprocess.Popen[str]]:
    """A process of ``processes.py`` that is gone afterwards, one way or the other."""
    process = start(*arguments)
    assert process.stdin is not None
    assert process.stdout is not None
    try:
        yield process
        process.stdin.close()
        assert process.wait(30) == 0
    finally:
        process.kill()
        process.wait()
        process.stdin.close()
        process.stdout.close()


def line(process: subprocess.Popen[str]) -> list[str]:
    """The next thing it says."""
    assert process.stdout is not None
    words = process.stdout.readline().split()
    assert words, f"the process ended: {process.wait(5)}"
    return words


def say(process: subprocess.Popen[str], text: object) -> None:
    """Something it waits for."""
    assert process.stdin is not None
    process.stdin.write(f"{text}\n")
    process.stdin.flush()


def test_two_processes_on_one_vm(tmp_path: Path):
    """Both begin the VM at once: one is its writer; the other is told which process that is, and has torn nothing."""
    url = f"sqlite:{tmp_path / 'vm.db'}"
    with running("rival", url, "left", 60) as left, running("rival", url, "right", 60) as right:
        rivals = {"left": left, "right": right}
        for process in rivals.values():
            assert line(process) == ["ready"]
        for process in rivals.values():
            say(process, "go")
        answers = {name: line(process) for name, process in rivals.items()}
        [(writer, [_, pid])] = [(name, words) for name, words in answers.items() if words[0] == "wrote"]
        [refusal] = [" ".join(words) for words in answers.values() if words[0] == "refused"]
        assert f"vm.db has its writer, process {pid} (" in refusal
        for process in rivals.values():
            say(process, "go home")
    with open_reader(url) as reader:
        records = list(esrm.Past(reader, "web-1").log())
        assert verify(reader).ok
    assert isinstance(records[0].event, esrm.VmCreated)
    assert [(r.actor, r.event.device) for r in records[1:] if isinstance(r.event, esrm.DeviceCreated)] == [
        (writer, f"{writer}-{number}") for number in range(60)
    ]
    assert len(records) == 61


async def test_a_reader_in_another_process_while_the_writer_writes(tmp_path: Path):
    """It follows from the first event to the last, sees every layout that was, and none that was not."""
    url, steps, dice = f"sqlite:{tmp_path / 'vm.db'}", 150, random.Random(5)
    async with open_store(url) as store, ResourceManager(store, vm="web-1", platform=TINY) as vm:
        layouts = {vm.revision: digest(vm.state)}
        with running("follower", url, steps) as follower:
            assert line(follower) == ["ready"]
            async with ResourceManager(store, vm="other", platform=TINY) as other:
                while vm.revision < steps:
                    await turn(other, dice)
                    before = vm.revision
                    await turn(vm, dice)
                    if vm.revision > before + 1:  # attach and detach are several steps
                        for revision in range(before + 1, vm.revision):
                            layouts[revision] = digest(await esrm.History(store, "web-1").at(revision))
                    layouts[vm.revision] = digest(vm.state)
            told = dict(line(follower) for _ in range(steps + 1))
    assert {int(revision): name for revision, name in told.items()} == {r: layouts[r] for r in range(steps + 1)}


class Auditor:
    """What stood after the last look, kept apart from the file, to hold the next look against."""

    def __init__(self, url: str) -> None:
        self.url = url
        self.position = 0
        self.state = esrm.VmState()
        self.layouts: dict[tuple[int, int], str] = {}  # (position, revision) -> digest of the VM, or hash of a batch
        self.batches = 0

    def look(self) -> None:
        """What is new continues the chain; the VM's part replays; of each batch everything is there."""
        with open_reader(self.url) as reader:
            verdict = verify(reader, after=self.position)
            assert verdict.ok, verdict.fault
            for record in reader.read_all(self.position, 10_000):
                self.position = record.position
                if record.vm == "web-1":
                    esrm.evolve(self.state, record.event)
                    self.layouts[record.position, record.revision] = digest(self.state)
                else:
                    self.batches += 1
                    self.layouts[record.position, record.revision] = record.hash
        assert self.batches % BATCH == 0, "half a batch stands"


def test_killed_two_hundred_times(tmp_path: Path):
    """SIGKILL in the middle of a stream of steps: all that was acknowledged is there, and nothing half-done.

    The 200 victims go on with one story in one file, each from where the one before was cut off.
    """
    seed = int(os.environ.get("ESRM_TEST_SEED", time.time_ns() % 1_000_000))
    dice, auditor, acknowledged = random.Random(seed), Auditor(f"sqlite:{tmp_path / 'vm.db'}"), 0
    try:
        with running("nursery", auditor.url) as nursery:
            for kill in range(KILLS):
                say(nursery, seed + kill)
                heard = _one_victim(nursery, dice)
                if auditor.position or heard:
                    auditor.look()
                for _, position, revision, name in heard:
                    assert auditor.layouts[int(position), int(revision)] == name
                acknowledged += len(heard)
        with open_reader(auditor.url) as reader:
            assert verify(reader).good == auditor.position
    except BaseException as error:
        error.add_note(f"run it again with ESRM_TEST_SEED={seed}")
        raise
    assert acknowledged > 2 * KILLS, "the victims hardly lived"


def _one_victim(nursery: subprocess.Popen[str], dice: random.Random) -> list[list[str]]:
    """Let one work until it has acknowledged so many steps, and a moment longer; what it said to the end."""
    heard: list[list[str]] = []
    [_, pid] = line(nursery)
    patience, moment = dice.randrange(10), dice.random() * 0.004
    while len(heard) < patience:
        heard.append(line(nursery))
        assert heard[-1][0] != "failed", " ".join(heard[-1])
    until = time.perf_counter() + (moment if patience else 10 * moment)  # still on its way in, when patience is 0
    while time.perf_counter() < until:
        pass
    os.kill(int(pid), signal.SIGKILL)
    while (words := line(nursery)) != ["gone"]:
        assert words[0] != "failed", " ".join(words)
        heard.append(words)
    return heard


async def test_the_story_goes_on_after_a_kill(tmp_path: Path):
    """A manager opens what a killed one left behind, agrees with it, and works."""
    url = f"sqlite:{tmp_path / 'vm.db'}"
    with running("nursery", url) as nursery:
        say(nursery, 7)
        heard = _one_victim(nursery, random.Random(3))
    async with open_store(url) as store, ResourceManager(store, vm="web-1") as vm:
        if heard:
            assert vm.position >= max(int(position) for kind, position, *_ in heard if kind == "step")
        await agree(store, vm)
        for found in vm.state.walk(reverse=True):
            await vm.detach(found.name)
        await vm.attach(Toy("net0"))
        await agree(store, vm)
