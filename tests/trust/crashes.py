"""Power cuts: a store is used for real on a disk that records, and every image that a cut may leave is looked at.

``perform`` uses the store, ``explore`` makes the images, an ``Inspector`` says what stands in one, and ``Moment`` says
what must stand at that point, since it was acknowledged, refused or published. The inspector reads an image many times
faster than ``SqliteStore`` opens it; a test has them agree. Next: ``test_crash.py``.
"""

from __future__ import annotations

import mmap
import os
import random
import shutil
import tempfile
from collections import Counter
from collections.abc import Callable, Iterator, Sequence, Set
from contextlib import closing, contextmanager
from dataclasses import dataclass, field
from itertools import count
from pathlib import Path
from threading import Event
from typing import Any, NamedTuple

import anyio
import apsw
import pytest
from anyio.lowlevel import checkpoint
from disk import FAILED, WAYS, Disk, Image, Op, Platter, put
from scale import repeat, seed

from esrm.errors import Conflict, Corrupt, Rejected, StoreError
from esrm.stores.base import Anchor, Draft, Row, verify
from esrm.stores.records import id_bytes
from esrm.stores.sqlite import SqliteReader, SqliteStore, committer
from esrm.stores.sqlite.heads import read_head
from esrm.testing import BytesCodec

CODEC = BytesCodec()
NAME = "vm.db"
ERRORS = (apsw.Error, Corrupt, UnicodeDecodeError)


@contextmanager
def memory() -> Iterator[Path]:
    """A folder that is gone afterwards; in memory where there is one, for real syncs and seeks prove nothing here."""
    folder = Path(tempfile.mkdtemp(prefix="esrm-trust-", dir="/dev/shm" if os.access("/dev/shm", os.W_OK) else None))
    try:
        yield folder
    finally:
        shutil.rmtree(folder)


def again() -> str:
    """How the test that is running is repeated."""
    return repeat(seed(), os.environ["PYTEST_CURRENT_TEST"].rpartition(" ")[0])


# -- what is asked of a store


class Asked(NamedTuple):
    """A batch that was handed to ``append``."""

    vm: str
    drafts: Sequence[Draft[bytes]]


@dataclass
class Run:
    """What was asked of a store, what it did to its disk, and what it held at the end.

    Attributes:
        start: what its folder held at first.
        asked: all batches, also those of earlier runs; by their numbers here the trace speaks of them.
        trace: what the disk recorded, and notes of what was answered.
        rows: the log at the end.
        before: what had to stand at first.
    """

    start: Image = field(default_factory=dict)
    asked: list[Asked] = field(default_factory=list)
    trace: list[Op] = field(default_factory=list)
    rows: list[Row] = field(default_factory=list)
    before: Moment | None = None


class User:
    """Somebody who uses a store, by dice: appends, also side by side, retries, conflicts, follows, reopens."""

    def __init__(self, run: Run, disk: Disk, folder: Path, dice: random.Random, **options: Any) -> None:
        self.run, self.disk, self.dice, self.options = run, disk, dice, options
        self.path = folder / NAME
        self.quiet = Event()  # no answer is under way to us
        self.folding = False
        self.ends: dict[str, int] = {}
        self.done: list[tuple[int, int, list[Any]]] = []  # number, expected, what was answered
        self.seen = 0

    def hold_folds(self, patch: pytest.MonkeyPatch) -> None:
        """Have folds neither overlap with answers nor with what we do next, or no two traces were the same."""
        fold = committer.Committer.fold

        def fold_when_quiet(committer: Any) -> None:
            self.quiet.wait(1)
            self.folding = True
            fold(committer)
            self.folding = False

        patch.setattr(committer.Committer, "fold", fold_when_quiet)

    async def folded(self, store: SqliteStore[bytes]) -> None:
        """Wait until the writer has folded what it wants to."""
        self.quiet.set()
        while store._writer._committer.full or self.folding:
            await checkpoint()

    async def use(self, steps: int) -> None:
        """Do so many things, in several openings of the store."""
        while steps > 0:
            steps -= (turn := min(steps, self.dice.randrange(4, 20)))
            async with SqliteStore(self.path, CODEC, **self.options) as store, anyio.create_task_group() as group:
                self.ends = {stream.vm: stream.revision for stream in await store.streams()}
                self.seen, head = 0, await store.head()
                group.start_soon(self._follow, store)
                while self.seen < head:
                    await checkpoint()
                for _ in range(turn):
                    await self._step(store)
                group.cancel_scope.cancel()

    async def _follow(self, store: SqliteStore[bytes]) -> None:
        async for record in store.subscribe():
            self.disk.note("seen", record.position, bytes.fromhex(record.hash))
            self.seen = record.position

    async def _step(self, store: SqliteStore[bytes]) -> None:
        what = self.dice.choices(("append", "several", "retry", "conflict", "trouble"), (60, 12, 8, 8, 8))[0]
        if what == "retry" and self.done:
            number, expected, answer = self.dice.choice(self.done)
            asked = self.run.asked[number]
            assert await store.append(asked.vm, asked.drafts, expected=expected) == answer
        elif what == "conflict":
            vm = self._vm()
            await self._append(store, vm, self.ends.get(vm, -1) + 1 + self.dice.randrange(3))
        elif what == "trouble":
            await self._in_trouble(store)
        elif what == "several":
            vms = self.dice.sample(("web-1", "db-1", "db-2"), self.dice.choice((2, 3)))
            self.quiet.clear()
            async with anyio.create_task_group() as group:
                for vm in vms:
                    group.start_soon(self._append, store, vm, self.ends.get(vm, -1))
        else:
            vm = self._vm()
            await self._append(store, vm, self.ends.get(vm, -1))
        await self.folded(store)
        while self.done and self.seen < self.done[-1][2][-1].position:
            await checkpoint()

    async def _in_trouble(self, store: SqliteStore[bytes]) -> None:
        """One write or sync fails in an append."""
        which = self.dice.randrange(12)
        codes = self.dice.choice(({"write": apsw.SQLITE_FULL, "grow": apsw.SQLITE_FULL}, {"sync": FAILED["sync"]}))
        number = count()
        self.disk.fails = lambda kind, name: codes[kind] if kind in codes and next(number) == which else 0
        vm = self._vm()
        await self._append(store, vm, self.ends.get(vm, -1))
        self.disk.fails = lambda called, name: 0

    async def _append(self, store: SqliteStore[bytes], vm: str, expected: int) -> None:
        number = len(self.run.asked)
        drafts = self._drafts()
        self.run.asked.append(Asked(vm, drafts))
        self.quiet.clear()
        while True:
            try:
                records = await store.append(vm, drafts, expected=expected)
            except Conflict:
                self.disk.note("refused", number)
                return
            except StoreError as error:
                self.quiet.set()
                self.disk.fails = lambda kind, name: 0  # mended
                if self.dice.random() < 0.5:
                    continue
                if isinstance(error, Rejected):
                    self.disk.note("refused", number)
                end = await store.stream(vm)
                self.ends[vm] = -1 if end is None else end.revision
                return
            break
        self.disk.note("acked", number, records[-1].position, bytes.fromhex(records[-1].hash))
        self.done.append((number, expected, records))
        self.ends[vm] = records[-1].revision

    def _vm(self) -> str:
        return self.dice.choice(("web-1", "web-1", "db-1", "db-2"))

    def _drafts(self) -> list[Draft[bytes]]:
        number = len(self.run.asked) << 16
        return [
            Draft(
                event=self.dice.randbytes(self._size()).hex().encode(),
                id=f"01990000-0000-7000-8000-{number + n:012x}",
                time_ns=10**18 + number + n,
                actor=self.dice.choice(("", "alice", "bob")),
                correlation=self.dice.choice(("", f"order-{number}")),
            )
            for n in range(self.dice.choice((1, 1, 1, 2, 3, 8)))
        ]

    def _size(self) -> int:
        return self.dice.randrange(1500, 4000) if self.dice.random() < 0.04 else self.dice.randrange(150)


def perform(
    dice: random.Random,
    steps: int,
    *,
    start: Run | None = None,
    image: Image | None = None,
    moment: Moment | None = None,
    lies: Callable[[str], bool] = lambda name: False,
    **options: Any,
) -> Run:
    """Use a store on a disk that records; on the image that a power cut left of an earlier run, if one is given."""
    run = Run(image or {}, list(start.asked) if start else [], before=moment)
    with memory() as place, pytest.MonkeyPatch.context() as patch, Disk(dice, lies=lies) as disk:
        folder = place / "log"
        put(run.start, folder)
        user = User(run, disk, folder, dice, **options)
        disk.tap(patch)
        user.hold_folds(patch)
        patch.setattr(committer, "FOLD_PAGES", 16)
        anyio.run(user.use, steps)
        run.trace = list(disk.trace)
        with SqliteReader(folder / NAME, CODEC) as reader:
            run.rows = list(reader.rows())
    return run


# -- what must stand

UNREADABLE = "it cannot be read"
TORN = "a batch is not whole as it was asked for"
REFUSED = "it was refused, but stands"
LOST = "it was acknowledged, but is lost"
UNANCHORED = "it was acknowledged, but the head is not anchored behind it"
UNSEEN = "it was published, but is lost"
NORMAL = frozenset({LOST, UNANCHORED, UNSEEN})
"""What ``synchronous="NORMAL"`` lets a power cut do."""


class Found(NamedTuple):
    """What stands in an image: how many records, up to where the head is anchored, the records' hashes (and perhaps
    more), the batches, and why it is unsound, if it is."""

    count: int
    anchored: int
    hashes: Sequence[bytes]
    ends: dict[int, tuple[int, bytes]]  # by the batch's number in ``Run.asked``: its last position and hash
    fault: str = ""


@dataclass
class Moment:
    """What must stand, and what must not, at some point of a run."""

    acked: dict[int, tuple[int, bytes]] = field(default_factory=dict)
    refused: set[int] = field(default_factory=set)
    seen: tuple[int, bytes] = (0, b"")

    def step(self, op: Op) -> bool:
        """Go on by one entry of a trace; whether more is promised now."""
        match op:
            case "note", "acked", number, *end:
                self.acked[number] = (*end,)
            case "note", "refused", number:
                self.refused.add(number)
            case "note", "seen", *end if end[0] > self.seen[0]:
                self.seen = (*end,)
            case _:
                return False
        return True

    def copy(self) -> Moment:
        """One that stays as it is."""
        return Moment(dict(self.acked), set(self.refused), self.seen)

    def judge(self, found: Found) -> Iterator[str]:
        """Say what is wrong with what was found, worst first; nothing, if nothing is."""
        if found.fault:
            yield found.fault
        if not self.refused.isdisjoint(found.ends):
            yield REFUSED
        if not self.acked.items() <= found.ends.items():
            yield LOST
        elif self.acked and found.anchored < max(self.acked.values())[0]:
            yield UNANCHORED
        position, hash = self.seen
        if position and (position > found.count or found.hashes[position - 1] != hash):
            yield UNSEEN


class Auditor:
    """Knows what was asked, and tells whether an image holds what can have become of it."""

    def __init__(self, run: Run, folder: Path) -> None:
        self._run = run
        self._numbers = {id_bytes(asked.drafts[0].id): number for number, asked in enumerate(run.asked)}
        self._inspector = Inspector(folder)
        self._head = folder / f"{NAME}-head"
        self._anchors: dict[tuple[bytes | None, bool], Anchor | None] = {}
        self._known: dict[tuple[int, Anchor | None], Found] = {}

    def close(self) -> None:
        """Let go of the files."""
        self._inspector.close()

    def find(self, image: Image) -> Found:
        """Say what stands in an image; quickly, if it is how the log at the end of the run began."""
        try:
            rows = self._inspector.rows(image)
            anchor = self._anchor(image.get(f"{NAME}-head"), not rows)
        except ERRORS as error:
            return Found(0, 0, (), {}, f"{UNREADABLE}: {type(error).__name__}: {error}")
        if rows != self._run.rows[: len(rows)]:
            return self._examine(rows, anchor)
        key = len(rows), anchor
        if key not in self._known:
            self._known[key] = self._examine(rows, anchor)
        return self._known[key]

    def _anchor(self, data: bytes | None, fresh: bool) -> Anchor | None:
        key = data, fresh
        if key not in self._anchors:
            if data is None:
                self._head.unlink(missing_ok=True)
            else:
                self._head.write_bytes(data)
            slot = read_head(self._head, fresh=fresh)
            self._anchors[key] = slot and slot.anchor
        return self._anchors[key]

    def _examine(self, rows: list[Row], anchor: Anchor | None) -> Found:
        ends: dict[int, tuple[int, bytes]] = {}
        hashes = [row[8] for row in rows]
        fault = verify(_Rows(rows, None)).fault or verify(_Rows(rows, anchor)).fault
        fault = str(fault or ("there are records, but no head" if rows and anchor is None else ""))
        while rows:
            number = self._numbers.get(rows[0][3])
            if number is None:
                fault = fault or f"position {rows[0][0]}: not the beginning of anything that was asked for"
                break
            vm, drafts = self._run.asked[number]
            batch, rows = rows[: len(drafts)], rows[len(drafts) :]
            asked = [(vm, id_bytes(d.id), d.time_ns, d.actor, d.correlation, d.event) for d in drafts]
            if [(row[1], *row[3:8]) for row in batch] != asked:
                fault = fault or TORN
                break
            ends[number] = batch[-1][0], batch[-1][8]
        return Found(len(hashes), anchor.position if anchor else 0, hashes, ends, fault)


class _Rows:
    """Rows at hand, for ``verify``."""

    def __init__(self, rows: list[Row], anchor: Anchor | None) -> None:
        self._rows, self._anchor = rows, anchor

    def rows(self, vm: str | None = None, after: int | None = None, limit: int | None = None) -> Iterator[Row]:
        return iter(self._rows[after or 0 : (after or 0) + (limit or len(self._rows))])

    def head(self) -> int:
        return self._rows[-1][0] if self._rows else 0

    def anchor(self) -> Anchor | None:
        return self._anchor

    def damage(self) -> None:
        """Seen to where they were read."""


_ROWS = """SELECT position, coalesce(name, ''), revision, records.id, time_ns, actor, correlation, CAST(data AS BLOB),
    hash FROM records LEFT JOIN streams ON streams.id = stream ORDER BY position"""


class Inspector:
    """Reads images, one after the other, through one connection.

    To open an image takes SQLite little, but to parse the schema of a log takes it ten times as long. So the files are
    overwritten beneath an open connection, and the header of the shared memory with zeros: to SQLite that is a WAL
    which another process left behind, to be recovered by whoever comes next. An image of which that connection can
    make nothing gets one of its own.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        folder.mkdir()
        self._warm: _Warm | None = None

    def close(self) -> None:
        """Let go of the files."""
        if self._warm is not None:
            self._warm.close()
            self._warm = None

    def rows(self, image: Image) -> list[Row]:
        """What stands, if anything does. Raises apsw.Error."""
        data = image.get(NAME, b"")
        if data[18:20] == b"\2\2" and f"{NAME}-journal" not in image:
            try:
                if self._warm is None:
                    self._warm = _Warm(self._folder / "warm")
                return self._warm.rows(data, image.get(f"{NAME}-wal", b""))
            except apsw.SQLError:  # no such table, yet
                pass
            except ERRORS:
                self.close()
        return self._cold(image)

    def _cold(self, image: Image) -> list[Row]:
        folder = self._folder / "cold"
        shutil.rmtree(folder, ignore_errors=True)
        put(image, folder)
        if NAME not in image:
            return []
        connection = apsw.Connection(str(folder / NAME), vfs="unix")
        try:
            if not connection.execute("SELECT 1 FROM sqlite_schema WHERE name = 'records'").fetchall():
                return []
            return _read(connection)
        finally:
            connection.close()


class _Warm:
    def __init__(self, folder: Path) -> None:
        self._folder = folder
        folder.mkdir()
        path = folder / NAME
        self._connection = apsw.Connection(str(path), vfs="unix")
        self._connection.pragma("journal_mode", "wal")
        self._connection.execute("CREATE TABLE t (x)")  # so that WAL and shared memory are there
        self._connection.config(apsw.SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, 1)
        self._connection.wal_autocheckpoint(0)
        self._connection.pragma("query_only", 1)
        self._files = [os.open(f"{path}{end}", os.O_RDWR) for end in ("", "-wal", "-shm")]
        self._shared = mmap.mmap(self._files[2], 32768)
        self._held: list[bytes] = [b"", b""]

    def close(self) -> None:
        self._shared.close()
        self._connection.close()
        for file in self._files:
            os.close(file)
        shutil.rmtree(self._folder)

    def rows(self, *contents: bytes) -> list[Row]:
        for n, data in enumerate(contents):
            if data is not self._held[n]:
                os.pwrite(self._files[n], data, 0)
                os.ftruncate(self._files[n], len(data))
                self._held[n] = data
        self._shared[:96] = bytes(96)  # both copies of the index's header
        return _read(self._connection)


def _read(connection: apsw.Connection) -> list[Row]:
    rows = connection.execute(_ROWS).fetchall()
    [[sound]] = connection.execute("PRAGMA integrity_check(1)").fetchall()
    if sound != "ok":
        raise apsw.CorruptError(sound)
    return rows


# -- the power cuts


@dataclass
class Tally:
    """What an exploration came to."""

    digests: set[Any] = field(default_factory=set[Any])  # of the images: 64 bits for each of their files
    ways: Counter[str] = field(default_factory=Counter[str])
    wrong: Counter[str] = field(default_factory=Counter[str])  # by what is wrong
    first: dict[str, str] = field(default_factory=dict[str, str])  # where each was seen first

    @property
    def images(self) -> int:
        """How many distinct ones were looked at."""
        return len(self.digests)

    def add(self, other: Tally) -> None:
        """Take another one in."""
        self.digests |= other.digests
        self.ways += other.ways
        self.wrong += other.wrong
        self.first = other.first | self.first

    def check(self) -> None:
        """Raise if anything was wrong."""
        assert not self.wrong, f"{dict(self.wrong)} in {self.images} images; first {self.first}; {again()}"


def explore(
    run: Run,
    images: int,
    dice: random.Random,
    *,
    each: int = 6,
    excused: Set[str] = frozenset(),
    until: str = "",
    since: int = 0,
    forgets: bool = False,
    visit: Callable[[Image, Moment, Found], None] | None = None,
) -> Tally:
    """Cut the power at each point of a run, over and over, until so many distinct images were looked at.

    Args:
        run: what was recorded.
        images: how many; at least each point's plain ones and ``each`` more are tried.
        dice: where the rest comes from.
        each: how many at a point in one turn.
        excused: what was not promised.
        until: stop when this is found to be wrong.
        since: the first entry of the trace at which the power may be cut.
        forgets: whether the disk does not make up for a sync that failed.
        visit: called with each image that is new, what must stand in it, and what does.
    """
    tally, known = Tally(), dict[Any, Found]()
    with memory() as place, closing(Auditor(run, place / "images")) as auditor:

        def look(at: int, op: Op, moment: Moment, way: str, image: Image) -> None:
            digest = tuple(sorted((name, len(data), hash(data)) for name, data in image.items()))
            found = known.get(digest)
            is_new = found is None
            if found is None:
                found = known[digest] = auditor.find(image)
                tally.digests.add(digest)
                tally.ways[way] += 1
            for wrong in {*moment.judge(found)} - excused:
                if forgets and not moment.acked and wrong.startswith(UNREADABLE):
                    continue  # the sync of the log's own beginning failed: nobody was promised that there is a log
                tally.wrong[wrong] += 1
                tally.first.setdefault(wrong, f"after entry {at} of the trace, {op[:3]}, {way}")
            if is_new and visit is not None:
                visit(image, moment, found)

        for turn in count():
            before = tally.images
            platter, moment = Platter(run.start, forgets=forgets), run.before.copy() if run.before else Moment()
            for at, op in enumerate(run.trace):
                if not (platter.step(op) | moment.step(op)) or at < since:
                    continue
                if turn == 0:
                    for way, image in platter.plain():
                        look(at, op, moment, way, image)
                if platter.unsynced:
                    for _ in range(min(each, platter.unsynced + 1)):
                        way = dice.choice(WAYS)
                        look(at, op, moment, way, platter.cut(way, dice))
                if (turn and tally.images >= images) or until in tally.wrong:
                    break
            if tally.images >= images or tally.images < before + 10 or until in tally.wrong:
                break
    return tally
