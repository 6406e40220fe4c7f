"""Each call that a store makes of its disk fails, once or from then on: nothing acknowledged is lost, nobody is misled.

The same work is done over and over, and each time another call fails: the N-th, for every N. What is told about the
appends under way must be honest: committed ones stand, rejected ones never do, not even in what a power cut leaves
then; of unknown ones either is true, and the same until they are known. Reading goes on meanwhile, and once the disk
is mended, so does appending, on the same store.

A sync that failed may be made up for by the next one, or never (``disk.py``): both are tried where it fails once. On a
disk that fails for longer, only the first: the store then loses the connection that knows where the failed commit lies
in the WAL, and a second power cut, in the moment when that is folded back, is more than it can stand.
"""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Callable
from itertools import count
from typing import Any

import anyio
import apsw
import pytest
from crashes import CODEC, NAME, Asked, Run, User, again, explore, memory
from disk import FAILED, Disk, Fails
from scale import pick, seed

from esrm.errors import Conflict, Rejected, StoreError, Unknown
from esrm.stores.base import verify
from esrm.stores.sqlite import SqliteReader, SqliteStore, committer

FAULTS: dict[str, dict[str, int]] = {
    "ioerr": FAILED,
    "full": {"write": apsw.SQLITE_FULL, "grow": apsw.SQLITE_FULL},
    "fsync": {"sync": FAILED["sync"]},
    "look": {kind: FAILED[kind] for kind in ("look", "lock", "close")},
}
"""By name: which kinds of calls fail, and how."""
FEW = {"ioerr": 45, "full": 30, "fsync": 11, "look": 11}
"""Of how many calls one is tried in ``quick``."""
PATIENCE = 3  # appends that are tried on a sick disk before it is mended


class Patient(User):
    """Appends, reads, is told what became of it, mends the disk after a while, and goes on with the same store."""

    def __init__(self, *arguments: Any) -> None:
        super().__init__(*arguments)
        self.told: Counter[str] = Counter()
        self.open: list[tuple[int, int]] = []  # numbers of unknown appends, and what they expected
        self.acked: set[str] = set()  # hashes
        self.sick: Fails | None = None
        self.failed = ""  # the kind of call that failed first

    def infect(self, kinds: dict[str, int], nth: int, *, sticky: bool) -> None:
        """Let the ``nth`` call of these kinds fail; and, if it is sticky, all like it from then on."""
        left = [nth]

        def fails(kind: str, name: str) -> int:
            if self.failed:
                writes = {"write", "grow", "truncate", "sync", "delete"}
                room = kinds.get(kind) if kinds is not FAULTS["full"] or kind == "grow" else 0
                return (room or 0) if sticky and (self.failed not in writes or kind in writes) else 0
            if kind not in kinds:
                return 0
            left[0] -= 1
            if left[0]:
                return 0
            self.failed = kind
            self.disk.note("failed")
            return kinds[kind]

        self.disk.fails = fails

    def mend(self) -> None:
        """From now on nothing fails."""
        self.disk.fails = lambda kind, name: 0

    async def live(self) -> None:
        """Open, append and close, twice."""
        for _ in range(2):
            for _ in range(2):  # the second time on a mended disk
                try:
                    async with SqliteStore(self.path, CODEC) as store:
                        await self._work(store)
                except StoreError as error:
                    self.told[f"opening or closing: {type(error).__name__}"] += 1
                    self.mend()
                else:
                    break
            else:
                raise AssertionError("the disk is mended, and the store cannot be opened and closed")

    async def _work(self, store: SqliteStore[bytes]) -> None:
        tries = 0
        for _ in range(6):
            stands = await self._try(store)
            tries += bool(self.failed)
            if tries > PATIENCE:
                self.mend()
                assert await self._try(store), "the disk is mended, and the store does not resume"
                tries = -1000
            if stands or self.failed != "read":
                await self._read(store)
            await self.folded(store)
        if self.open:
            self.mend()
            await self._try(store)

    async def _read(self, store: SqliteStore[bytes]) -> None:
        """What is acknowledged is there to be read, whatever is wrong with writing."""
        try:
            seen = {record.hash for record in await store.read_all()}
        except StoreError as error:
            if self.failed in ("write", "grow", "truncate", "sync", "delete", "map"):
                raise AssertionError("writing fails, and reading too") from error
        else:
            assert self.acked <= seen

    async def _try(self, store: SqliteStore[bytes]) -> bool:
        """Append once; first of all, what is unknown is asked for again. Whether it stands."""
        if self.open:
            number, expected = self.open.pop()
            vm, drafts = self.run.asked[number]
        else:
            vm, number = self._vm(), len(self.run.asked)
            drafts, expected = self._drafts(), self.ends.get(vm, -1)
            self.run.asked.append(Asked(vm, drafts))
        self.quiet.clear()
        try:
            with anyio.fail_after(60):
                records = await store.append(vm, drafts, expected=expected)
        except (Rejected, Unknown) as error:
            self.told[type(error).__name__] += 1
            assert store._writer._committer.poisoned or not self.disk.fails("write", ""), "it failed, and goes on"
            if isinstance(error, Rejected):
                self.disk.note("refused", number)
            else:
                self.open.append((number, expected))
            return False
        finally:
            self.quiet.set()
        self.told["Committed"] += 1
        self.disk.note("acked", number, records[-1].position, bytes.fromhex(records[-1].hash))
        self.acked |= {record.hash for record in records}
        self.ends[vm] = records[-1].revision
        return True


def work(fault: str, nth: int, *, sticky: bool) -> tuple[Patient, Run]:
    """Do the work, and let one call fail."""
    dice = random.Random(f"faults {seed()}")
    run = Run()
    with memory() as place, pytest.MonkeyPatch.context() as patch, Disk(dice) as disk:
        disk.tap(patch)
        patch.setattr(committer, "FOLD_PAGES", 8)
        folder = place / "log"
        folder.mkdir()
        patient = Patient(run, disk, folder, dice)
        patient.hold_folds(patch)
        patient.infect(FAULTS[fault], nth, sticky=sticky)
        anyio.run(patient.live)
        run.trace = list(disk.trace)
        patient.mend()
        with SqliteReader(folder / NAME, CODEC) as reader:
            verdict = verify(reader)
            run.rows = list(reader.rows())
        assert verdict.fault is None
        assert patient.acked <= {row[8].hex() for row in run.rows}
    return patient, run


def suffer(fault: str, nth: int, *, sticky: bool) -> Patient:
    """Do the work, let one call fail, and cut the power at each point from then on. Raises if anything is wrong."""
    patient, run = work(fault, nth, sticky=sticky)
    if patient.failed:
        since, dice = run.trace.index(("note", "failed")), random.Random(f"{fault} {nth} {seed()}")
        syncs = patient.failed == "sync"
        for forgets in (False, True)[: 1 + (syncs and not sticky)]:
            explore(run, 0, dice, each=int(syncs), since=since, forgets=forgets).check()
    return patient


@pytest.mark.timeout(3600)
@pytest.mark.parametrize("share", range(pick(quick=1, ci=3, soak=3)))
@pytest.mark.parametrize("sticky", [False, True], ids=["once", "sticky"])
@pytest.mark.parametrize("fault", FAULTS)
def test_whichever_call_fails_nobody_is_misled(
    fault: str, sticky: bool, share: int, record_property: Callable[[str, object], None]
):
    """The N-th call fails, for every N (in ``quick``, for some): see above."""
    shares, told = pick(quick=FEW[fault], ci=3, soak=3), Counter[str]()
    for nth in count(1 + share, shares):
        try:
            patient = suffer(fault, nth, sticky=sticky)
        except BaseException as error:
            error.add_note(f"when call {nth} failed; {again()}")
            raise
        if not patient.failed:
            break
        told += patient.told
    assert told["Committed"]
    how = f"{fault}, {'for good' if sticky else 'once'}, share {share}"
    record_property("trust", f"faults, {how}: every call up to {nth}; answers {dict(told)}")


@pytest.mark.parametrize("guess", [Rejected, None], ids=["rejected", "committed"])
def test_a_guess_is_caught(guess: type[Exception] | None, monkeypatch: pytest.MonkeyPatch):
    """A store that does not look what became of a failed commit, but takes it for one or the other, is caught at it."""
    resolve = committer.Committer._resolve

    def guessed(self: Any) -> None:
        appends = self._doubtful
        rows = [append.rows for append in appends]
        resolve(self)
        for append, meant in zip(appends, rows, strict=True):
            append.rows, append.error = (meant, None) if guess is None else (None, guess("by guess"))

    monkeypatch.setattr(committer.Committer, "_resolve", guessed)
    with pytest.raises((AssertionError, Conflict, ExceptionGroup)):
        fail_every_sync()


def fail_every_sync() -> None:
    """From the first append's on, one at a time."""
    for nth in count(8):
        if not suffer("fsync", nth, sticky=False).failed:
            return
