"""A model beside the real store: plain lists of what was appended, and after each step both must say the same.

A life is a log in SQLite and a few hundred random steps: appends of all kinds, crashes, reopenings, and questions of
every kind about any moment of it. What the log should hold is kept in a list, and what that means in the dictionaries
of ``simulation.auditor``, which reads the events' JSON and shares no code with the states that it judges. At the end of
a life, the state after each of its events is asked for in every way there is.

A crash here is that of a process: the files are taken as they lie, and the store goes on from those.
"""

from __future__ import annotations

import shutil
from collections import Counter, deque
from collections.abc import Callable
from functools import partial
from pathlib import Path
from random import Random
from typing import Any

import anyio
import pytest
from scale import pick, repeat, seed
from simulation.auditor import Auditor
from simulation.world import NAMES, TINY, WISHES, picture

import esrm
from esrm import Conflict, History, Past, Projection, TooLarge, UnknownMoment
from esrm.bulk import replay_all
from esrm.cache import snapshots
from esrm.core import decide, events
from esrm.core import state as state_module
from esrm.core.state import VmState, evolve, replay
from esrm.errors import Refused
from esrm.history import fold
from esrm.manager import Uuid7
from esrm.stores.base import Draft, Record, verify
from esrm.stores.sqlite import SqliteStore
from esrm.stores.sqlite.committer import Committer

STEPS = pick(quick=240, ci=20_000, soak=200_000)
PARTS = 4
LIFE = 250
"""Steps in one life, at most."""
VMS = ("web-1", "web-2", "Web-1", "db\u00fc")
START_NS = 1_795_000_000_000_000_000
STRIDE = 7
"""How far apart snapshots lie in these tests: short logs are full of them, too."""


class Life:
    """One log, and what should stand in it."""

    def __init__(self, folder: Path, number: int) -> None:
        self.folder, self.dice = folder, Random(number)
        folder.mkdir()
        self.files = 0
        self.path = self.place()
        self.options: dict[str, Any] = self.dice.choice(
            [
                {"synchronous": "OFF"},
                {"synchronous": "OFF", "inline_ms": 50},
                {"synchronous": "NORMAL"},
                {"synchronous": "FULL", "anchor": "second"},
                {"synchronous": "FULL"},
            ]
        )
        self.audit = Auditor()
        self.records: list[Record[esrm.Event]] = []  # all that was acknowledged, by position
        self.states = {vm: VmState() for vm in VMS}  # to think of events that may come next; judges nothing
        self.batches: list[tuple[str, int, list[Draft[esrm.Event]], list[Record[esrm.Event]]]] = []
        self.ids, self.now = Uuid7(), START_NS
        self.story: deque[str] = deque(maxlen=30)
        self.caches: list[bytes] = []

    def place(self) -> Path:
        """Where the log lies next."""
        self.files += 1
        folder = self.folder / str(self.files)
        folder.mkdir()
        return folder / "vm.db"

    async def open(self) -> None:
        self.store = await SqliteStore(self.path, events, **self.options).__aenter__()
        self.live = self.store.subscribe(len(self.records))

    def stream(self, vm: str) -> list[Record[esrm.Event]]:
        return [record for record in self.records if record.vm == vm]

    # -- appending ----------------------------------------------------------------------------------------------------

    def drafts(self, made: list[esrm.Event]) -> list[Draft[esrm.Event]]:
        self.now += self.dice.choice([0, 1, 10**9])
        actor, why = self.dice.choice(["", "me", "\u00fc" * 255]), self.dice.choice(["", "because"])
        return [
            Draft(event=event, id=self.ids(self.now), time_ns=self.now, actor=actor, correlation=why) for event in made
        ]

    def proposed(self, vm: str, count: int) -> list[esrm.Event]:
        """Events that may come next in a VM's life, about so many."""
        state, dice, found = self.states[vm], self.dice, list[esrm.Event]()
        while len(found) < count:
            name = dice.choice(NAMES)
            step = dice.choice([decide.assign, decide.register, decide.request_unplug, decide.unregister])
            try:
                if state.platform is None:
                    made = decide.create_vm(state, TINY)
                elif name not in state.devices:
                    made = decide.create(state, name, "part", dice.choice([None, *state.devices]))
                else:
                    step = dice.choice([step, step, _declare(dice), _allocate, decide.release, decide.remove])
                    made = step(state, name)
            except Refused:
                continue
            for event in made:
                evolve(state, event)
            found += made
        return found

    async def append(self, vm: str, count: int) -> None:
        expected = len(self.stream(vm)) - 1
        drafts = self.drafts(self.proposed(vm, count))
        answer = await self.store.append(vm, drafts, expected=expected)
        self.stands(vm, expected, drafts, list(answer))

    def stands(self, vm: str, expected: int, drafts: list[Draft[Any]], answer: list[Record[Any]]) -> None:
        """An append was acknowledged: enter it into the model, and compare what was answered."""
        assert [record.revision for record in answer] == list(range(expected + 1, expected + 1 + len(drafts)))
        for draft, record in zip(drafts, answer, strict=True):
            assert record.position == len(self.records) + 1
            assert (record.vm, record.id, record.time_ns, record.event) == (vm, draft.id, draft.time_ns, draft.event)
            assert (record.actor, record.correlation) == (draft.actor, draft.correlation)
            self.records.append(record)
            data, id = events.encode(draft.event), bytes.fromhex(draft.id.replace("-", ""))
            row = (record.position, vm, record.revision, id, draft.time_ns, draft.actor, draft.correlation, data, b"")
            self.audit.wrote(row)
        assert not self.audit.violations, self.audit.violations
        self.batches.append((vm, expected, drafts, answer))

    async def one(self) -> None:
        """One event."""
        await self.append(self.dice.choice(VMS), 1)

    async def some(self) -> None:
        """A batch."""
        await self.append(self.dice.choice(VMS), self.dice.randint(2, 8))

    async def at_once(self) -> None:
        """Several VMs at once: each whole, in whatever order."""
        asked: list[tuple[str, int, list[Draft[Any]], list[Any]]] = []
        async with anyio.create_task_group() as group:
            for vm in self.dice.sample(VMS, 3):
                expected, drafts = len(self.stream(vm)) - 1, self.drafts(self.proposed(vm, self.dice.randint(1, 3)))
                asked.append((vm, expected, drafts, []))
                group.start_soon(self._ask, *asked[-1])
        for ask in sorted(asked, key=lambda ask: ask[3][0].position):
            self.stands(*ask)

    async def _ask(self, vm: str, expected: int, drafts: list[Draft[Any]], answer: list[Any]) -> None:
        answer += await self.store.append(vm, drafts, expected=expected)

    async def elsewhere(self) -> None:
        """Behind a revision that is not the last one: a conflict."""
        vm = self.dice.choice(VMS)
        last = len(self.stream(vm)) - 1
        expected = self.dice.choice([n for n in (-1, last - 1, last + 1, last + 1000) if n != last and n >= -1])
        with pytest.raises(Conflict):
            await self.store.append(vm, self.drafts([events.DeviceCreated("late")]), expected=expected)

    async def again(self) -> None:
        """An append that stands, with the same ids: answered as the first time; a part of it, changed, conflicts."""
        if not self.batches:
            return
        vm, expected, drafts, answer = self.dice.choice(self.batches)
        assert await self.store.append(vm, drafts, expected=expected) == answer
        if len(drafts) > 1:
            with pytest.raises(Conflict):
                await self.store.append(vm, drafts[::-1], expected=expected)

    async def too_large(self) -> None:
        """One event too long, in a batch of good ones: nothing of it."""
        vm = self.dice.choice(VMS)
        made = [events.DeviceCreated("good"), events.DeviceCreated("bad", "x" * 65_536), events.DeviceCreated("good")]
        with pytest.raises(TooLarge):
            await self.store.append(vm, self.drafts(made), expected=len(self.stream(vm)) - 1)

    # -- ends and beginnings ------------------------------------------------------------------------------------------

    async def crash(self) -> None:
        """The process is gone: its files are what they are."""
        old, self.path = self.path, self.place()
        for name in ("vm.db", "vm.db-wal", "vm.db-head", "vm.db-cache"):
            if old.with_name(name).exists():
                shutil.copyfile(old.with_name(name), self.path.with_name(name))
        await self.store.aclose()
        shutil.rmtree(old.parent)
        await self.open()

    async def reopen(self) -> None:
        """A clean end, and a beginning."""
        await self.store.aclose()
        await self.open()

    # -- questions ----------------------------------------------------------------------------------------------------

    async def complete(self) -> None:
        """Nothing is missing at the end: before anybody waits for it."""
        assert await self.store.head() == len(self.records)

    async def heads(self) -> None:
        """Where the log and each stream ends."""
        await self.complete()
        ends = {record.vm: record for record in self.records}
        want = [(r.vm, r.revision, r.position, r.time_ns, r.hash) for _, r in sorted(ends.items())]
        assert [(s.vm, s.revision, s.position, s.time_ns, s.hash) for s in await self.store.streams()] == want

    async def pages(self) -> None:
        """Some records behind some position or revision."""
        after, limit, vm = self.dice.randint(-1, len(self.records)), self.dice.randint(1, 40), self.dice.choice(VMS)
        want = [record for record in self.records if record.position > after][:limit]
        assert await self.store.read_all(after, limit) == want
        want = [record for record in self.stream(vm) if record.revision > after][:limit]
        assert await self.store.read(vm, after, limit) == want

    async def moments(self) -> None:
        """By id, by position, by time."""
        if not self.records:
            return
        record = self.dice.choice(self.records)
        assert await self.store.find(record.id) == record
        vm, position = self.dice.choice(VMS), self.dice.randint(0, len(self.records) + 1)
        want = max((r.revision for r in self.stream(vm) if r.position <= position), default=-1)
        assert await self.store.revision_at_position(vm, position) == want
        time_ns = record.time_ns + self.dice.randint(-1, 1)
        want = max((r.revision for r in self.stream(vm) if r.time_ns <= time_ns), default=-1)
        assert await self.store.revision_at_time(vm, time_ns) == want

    async def subscribed(self) -> None:
        """Everything behind some position, to the head, by records or pages."""
        await self.complete()
        after, vm = self.dice.randint(0, len(self.records)), self.dice.choice([None, *VMS])
        want = [record for record in self.records[after:] if vm in (None, record.vm)]
        sub = self.store.subscribe(after, vm=vm, batch=self.dice.randint(1, 20), until=len(self.records))
        got: list[Record[esrm.Event]] = []
        if self.dice.random() < 0.5:
            async for record in sub:
                got.append(record)
        else:
            async for page in sub.pages():
                got += page
        assert got == want
        assert sub.position == max(after, len(self.records))

    async def followed(self) -> None:
        """What came since the last look, to one who has been there all along."""
        await self.complete()
        while self.live.position < len(self.records):
            at = self.live.position
            assert await anext(self.live) == self.records[at]

    async def verified(self) -> None:
        """The chain, and the head beside it."""
        verdict = await self.store.ask(verify)
        assert (verdict.fault, verdict.good) == (None, len(self.records))
        anchor = await self.store.ask(lambda reader: reader.anchor())
        if anchor is not None and anchor.position:
            assert anchor.hash.hex() == self.records[anchor.position - 1].hash

    async def cached(self) -> None:
        """Something happens to the cache: it is deleted, an older one or another log's is put there, or it is torn."""
        path = self.path.with_name("vm.db-cache")
        if path.exists():
            self.caches.append(path.read_bytes())
        what = self.dice.choice(["deleted", "replaced", "replaced", "torn"])
        if what == "deleted":
            path.unlink(missing_ok=True)
        elif self.caches:
            body = self.dice.choice(self.caches[-5:] + self.caches[:1])
            path.write_bytes(body if what == "replaced" else body[: self.dice.randrange(len(body))])

    # -- the state after N --------------------------------------------------------------------------------------------

    async def replayed(self) -> None:
        """State(N) by one of the ways to it."""
        vm = self.dice.choice(VMS)
        stream = self.stream(vm)
        if not stream:
            with pytest.raises(UnknownMoment):
                await History(self.store, vm).at(0)
            return
        record = self.dice.choice(stream)
        route = self.dice.choice([self._asked, self._past, self._cold, self._all, self._projected])
        await route(vm, record)

    async def _asked(self, vm: str, record: Record[esrm.Event]) -> None:
        self.same(vm, record.revision, await History(self.store, vm).at(record.revision))

    async def _past(self, vm: str, record: Record[esrm.Event]) -> None:
        with self.store.reader() as reader:
            past = Past(reader, vm)
            position = self.dice.randint(record.position, len(self.records))
            revision = max(r.revision for r in self.stream(vm) if r.position <= position)
            self.same(vm, revision, past.at(position=position))
            revision = max(r.revision for r in self.stream(vm) if r.time_ns <= record.time_ns)
            self.same(vm, revision, past.at(time=record.time_ns))
            self.same(vm, record.revision, past.at(record.id))

    async def _cold(self, vm: str, record: Record[esrm.Event]) -> None:
        read = await self.store.read(vm, limit=record.revision + 1)
        self.same(vm, record.revision, replay(r.event for r in read))

    async def _all(self, vm: str, record: Record[esrm.Event]) -> None:
        states = await self.store.ask(partial(replay_all, until=record.position))
        ends = {r.vm: r.revision for r in self.records[: record.position]}
        assert set(states) == set(ends)
        for name, revision in ends.items():
            self.same(name, revision, states[name])

    async def _projected(self, vm: str, record: Record[esrm.Event]) -> None:
        await self.complete()
        async with Projection(self.store, self.dice.choice([vm, None]), batch=self.dice.randint(1, 9)) as projection:
            await projection.wait_for(record.position)
            assert projection.position >= record.position
            seen = [r.revision for r in self.stream(vm) if r.position <= projection.position]
            self.same(vm, seen[-1], projection.states[vm])

    def same(self, vm: str, revision: int, state: VmState) -> None:
        """A state is what the model says is true after a revision."""
        assert state.revision == revision
        assert state.platform == TINY
        self.audit.saw("somebody", vm, revision, state.devices.values(), picture)

    async def every_moment(self) -> int:
        """State(N) at every N of every VM, from the log and by all that shortens the way; how many there were."""
        for vm in VMS:
            stream, state = self.stream(vm), VmState()
            with self.store.reader() as reader:
                for record in stream:
                    fold(reader, vm, state, record.revision)
                    self.same(vm, record.revision, state)
                    if self.dice.random() < 0.4:
                        self.same(vm, record.revision, Past(reader, vm).at(record.revision))
        with self.store.reader() as reader:
            for record in self.records[:: max(1, len(self.records) // 20)]:
                self.same(record.vm, record.revision, replay_all(reader, until=record.position)[record.vm])
        await self.complete()
        async with Projection(self.store, batch=1) as projection:
            await projection.wait_for(len(self.records))
            assert {vm for vm, state in projection.states.items() if state.revision >= 0} == {
                record.vm for record in self.records
            }
            for vm, state in projection.states.items():
                self.same(vm, len(self.stream(vm)) - 1, state)
        return len(self.records)


def _declare(dice: Random) -> Callable[[VmState, str], list[esrm.Event]]:
    wishes = dice.choice(WISHES)
    return lambda state, name: decide.declare(state, name, wishes)


def _allocate(state: VmState, name: str) -> list[esrm.Event]:
    try:
        return decide.allocate(state, name)
    except Refused as no:
        return [events.AllocationRefused(name, no.refusal)] if no.refusal else []


DECK = {
    "one": 30,
    "some": 14,
    "at_once": 4,
    "elsewhere": 5,
    "again": 6,
    "too_large": 2,
    "crash": 3,
    "reopen": 3,
    "heads": 4,
    "pages": 5,
    "moments": 5,
    "subscribed": 6,
    "followed": 8,
    "verified": 2,
    "cached": 3,
    "replayed": 14,
}
"""The kinds of steps, and how often each is taken."""


async def foreign(life: Life) -> bytes:
    """The cache of another log, in which the same VMs have lived otherwise."""
    other = Life(life.folder / "other", life.dice.getrandbits(40))
    await other.open()
    try:
        for vm in VMS:
            await other.append(vm, 3 * STRIDE)
            await History(other.store, vm).at()
    finally:
        await other.store.aclose()
    return other.path.with_name("vm.db-cache").read_bytes()


async def live(life: Life, steps: int, taken: Counter[str]) -> None:
    """A life of so many steps, and a look back at all of it."""
    life.caches.append(await foreign(life))
    await life.open()
    try:
        for _ in range(steps):
            step = life.dice.choices(list(DECK), list(DECK.values()))[0]
            life.story.append(step)
            await getattr(life, step)()
            taken[step] += 1
        taken["moment"] += await life.every_moment()
    finally:
        await life.store.aclose()
    shutil.rmtree(life.folder)


@pytest.fixture(autouse=True)
def _snapshots_are_dense(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(snapshots, "STRIDE_MIN", STRIDE)


@pytest.mark.timeout(7200)
@pytest.mark.parametrize(("anyio_backend", "part"), [("asyncio", 0), ("trio", 1), ("asyncio", 2), ("trio", 3)])
async def test_the_store_says_what_the_model_says(
    tmp_path: Path, part: int, record_property: Callable[[str, object], None]
):
    """After any steps, crashes and reopenings among them, every question has the answer that the plain lists give."""
    taken: Counter[str] = Counter()
    number, left = seed() + part * 1_000_000, STEPS // PARTS
    while left > 0:
        life, steps = Life(tmp_path / str(number), number), min(LIFE, left)
        try:
            await live(life, steps, taken)
        except BaseException as error:
            error.add_note(f"seed {number}; the last steps: {', '.join(life.story)}")
            test = "tests/trust/test_model.py::test_the_store_says_what_the_model_says"
            error.add_note(repeat(number - part * 1_000_000, f"{test}[{('asyncio', 'trio')[part % 2]}-{part}]"))
            raise
        number, left = number + 1, left - steps
    moments = taken.pop("moment")
    assert taken.total() == STEPS // PARTS
    missing = set(DECK) - set(taken)
    assert not missing or STEPS < 1000, f"never taken: {missing}"
    record_property("trust", f"model, part {part}: {taken.total():,} steps, state(N) at {moments:,} N, {dict(taken)}")


# -- negative controls: mistakes that must be seen -------------------------------------------------------------------


one_loop = pytest.mark.parametrize("anyio_backend", ["asyncio"])


async def lives_until_seen(folder: Path, make: type[Life] = Life) -> None:
    """A few lives, one of which must notice that something is wrong."""
    for number in range(20):
        try:
            await live(make(folder / str(number), number), 120, Counter())
        except (AssertionError, esrm.EsrmError):
            return
    raise AssertionError("20 lives did not notice it")


class LosesTheWal(Life):
    async def crash(self) -> None:
        self.path.with_name("vm.db-wal").write_bytes(b"")
        await super().crash()


@one_loop
async def test_a_lost_wal_is_noticed(tmp_path: Path):
    """A crash that takes the WAL with it takes records, and the model misses them."""
    await lives_until_seen(tmp_path, LosesTheWal)


@one_loop
async def test_a_believed_foreign_cache_is_noticed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Were snapshots not compared with the log, another log's would be told for the truth."""
    monkeypatch.setattr(snapshots, "hash_at", lambda *_: b"the same")
    await lives_until_seen(tmp_path)


@one_loop
async def test_a_forgotten_phase_is_noticed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """A reducer that leaves a device in its phase is not what the model says."""
    _, phases = state_module._STEPS[events.UnplugRequested]
    monkeypatch.setitem(state_module._STEPS, events.UnplugRequested, (lambda *_: None, phases))
    await lives_until_seen(tmp_path)


@one_loop
async def test_another_answer_to_a_retry_is_noticed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """A retry that is answered with a conflict, though its records stand, is not what was promised."""
    monkeypatch.setattr(Committer, "_standing", lambda *_: None)
    await lives_until_seen(tmp_path)
