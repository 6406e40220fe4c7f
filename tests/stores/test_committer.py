"""What the committer answers when a commit fails: what stands, what does not, and what nobody can know yet."""

from __future__ import annotations

from itertools import pairwise
from math import inf
from pathlib import Path
from time import perf_counter
from typing import Any

import apsw
import pytest

from esrm.errors import Rejected, StoreError, Unknown
from esrm.stores.base import verify
from esrm.stores.records import prepare
from esrm.stores.sqlite import SqliteStore
from esrm.stores.sqlite import committer as module
from esrm.stores.sqlite.committer import Append, Committer, Mode
from esrm.stores.sqlite.heads import head_path, read_head
from esrm.testing import BytesCodec, drafts

CODEC = BytesCodec()


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """Where a log may be made."""
    return tmp_path / "vm.db"


def break_commits(patch: pytest.MonkeyPatch, store: SqliteStore[bytes], times: int, *, late: bool = False) -> list[str]:
    """Let so many COMMITs fail with a full disk, before anything of them or after all of it; returns what was run."""
    committer, ran = store._writer._committer, list[str]()
    real = committer._run

    def run(statement: str) -> None:
        ran.append(statement)
        if statement == "COMMIT" and ran.count("COMMIT") <= times:
            real("COMMIT" if late else "ROLLBACK")
            raise apsw.FullError("database or disk is full")
        real(statement)

    patch.setattr(committer, "_run", run)
    return ran


def break_mending(patch: pytest.MonkeyPatch, store: SqliteStore[bytes]) -> None:
    """Let the log not be opened anew."""

    def refused() -> None:
        raise StoreError("the disk is still full")

    patch.setattr(store._writer._committer, "_connect_again", refused)


async def test_a_commit_that_left_nothing_is_rejected(path: Path, monkeypatch: pytest.MonkeyPatch):
    """Having looked, the store knows that it does not stand, says so, and goes on: the retry is a first time."""
    async with SqliteStore(path, CODEC) as store:
        await store.append("web-1", drafts(b"0"), expected=-1)
        batch = drafts(b"1")
        break_commits(monkeypatch, store, 1)
        with pytest.raises(Rejected, match=r"the disk is full; make room.*nothing of this append stands"):
            await store.append("web-1", batch, expected=0)
        assert store._writer._committer.poisoned is None
        [record] = await store.append("web-1", batch, expected=0)
        assert (record.position, record.event) == (2, b"1")
        assert verify(store.reader()).good == 2


async def test_a_commit_that_stood_all_the_same_is_acknowledged(path: Path, monkeypatch: pytest.MonkeyPatch):
    """An error after the commit took place is no reason to answer anything but what is true."""
    async with SqliteStore(path, CODEC) as store:
        await store.append("web-1", drafts(b"0"), expected=-1)
        break_commits(monkeypatch, store, 1, late=True)
        [record] = await store.append("web-1", drafts(b"1"), expected=0)
        assert (record.position, record.event) == (2, b"1")
        [record] = await store.append("web-1", drafts(b"2"), expected=1)
        assert verify(store.reader()).good == 3


async def test_what_cannot_come_back_is_rejected_though_nothing_is_mended(path: Path, monkeypatch: pytest.MonkeyPatch):
    """The failed commit's place in the WAL is written over, so it never stands; the store stays poisoned."""
    async with SqliteStore(path, CODEC) as store:
        await store.append("web-1", drafts(b"0"), expected=-1)
        batch = drafts(b"1")
        with monkeypatch.context() as patch:
            ran = break_commits(patch, store, 1)
            break_mending(patch, store)
            with pytest.raises(Rejected, match=r"the disk is still full; nothing of this append stands"):
                await store.append("web-1", batch, expected=0)
            assert ran[-1] == "COMMIT"
            assert any(statement.startswith("PRAGMA user_version = ") for statement in ran)
            assert store._writer._committer.poisoned is not None
        [record] = await store.append("web-1", batch, expected=0)
        assert record.position == 2
        assert verify(store.reader()).good == 2


@pytest.mark.parametrize("late", [False, True])
async def test_what_may_come_back_is_unknown(path: Path, monkeypatch: pytest.MonkeyPatch, late: bool):
    """Neither mended nor written over: whether it stands is asked again, with the same ids, and then it is clear."""
    async with SqliteStore(path, CODEC) as store:
        await store.append("web-1", drafts(b"0"), expected=-1)
        batch = drafts(b"1")
        with monkeypatch.context() as patch:
            break_commits(patch, store, 1 if late else 1000, late=late)
            break_mending(patch, store)
            if late:
                patch.setattr(store._writer._committer, "_cover", lambda: False)
            with pytest.raises(Unknown, match="whether this append stands is unknown: retry it"):
                await store.append("web-1", batch, expected=0)
        [record] = await store.append("web-1", batch, expected=0)
        assert (record.position, record.event) == (2, b"1")
        assert verify(store.reader()).good == 2


# -- the committer by itself -----------------------------------------------------------------------------------------


def turn(vm: str, event: bytes, expected: int) -> Append[bytes]:
    """One append that is to be settled."""
    return Append(prepare(CODEC, vm, drafts(event), expected))


def opened(path: Path) -> Committer[bytes]:
    """A committer that has written one record."""
    committer: Committer[bytes] = Committer(path, Mode("FULL", "commit"), 100)
    first = turn("web-1", b"0", -1)
    assert committer.commit([first])
    assert first.rows is not None
    assert committer.head == 1
    return committer


@pytest.mark.parametrize("late", [False, True])
def test_whoever_is_interrupted_answers_all_the_same(path: Path, monkeypatch: pytest.MonkeyPatch, late: bool):
    """An interrupt is no Exception: it goes on, and those who wait are told what is known until then."""
    committer = opened(path)
    real = committer._run

    def run(statement: str) -> None:
        if statement == ("COMMIT" if late else "BEGIN IMMEDIATE"):
            raise KeyboardInterrupt
        real(statement)

    append = turn("web-1", b"1", 0)
    with monkeypatch.context() as patch:
        patch.setattr(committer, "_run", run)
        with pytest.raises(KeyboardInterrupt):
            committer.commit([append])
    assert type(append.error) is (Unknown if late else Rejected)
    assert append.rows is None
    assert late or isinstance(append.error.__cause__, KeyboardInterrupt)
    again = Append(append.batch)
    assert committer.commit([again])
    assert again.rows is not None
    assert (again.rows[0][0], again.error) == (2, None)
    committer.close()


def test_a_fold_that_fails_poisons_the_store_until_it_is_mended(path: Path):
    """Nobody waits for a fold, so the next append sees to it that the log is opened anew before it goes on."""
    committer = opened(path)

    class Broken:
        """A connection that cannot fold."""

        def __init__(self, real: Any) -> None:
            self._real = real

        def __getattr__(self, name: str) -> Any:
            if name == "wal_checkpoint":
                raise apsw.IOError("disk I/O error")
            return getattr(self._real, name)

    committer._connection = Broken(committer._connection)  # type: ignore[assignment]
    committer.fold()
    assert isinstance(committer.poisoned, apsw.IOError)
    assert not committer.commit([turn("web-1", b"1", 0)], patient=False)
    append = turn("web-1", b"1", 0)
    assert committer.commit([append])
    assert append.rows is not None
    assert (append.rows[0][0], committer.poisoned, committer.head) == (2, None, 2)
    assert not isinstance(committer._connection, Broken)
    committer.close()


def test_how_long_a_commit_took_is_known(path: Path, monkeypatch: pytest.MonkeyPatch):
    """Finite when it took place, infinite when it failed: the next one goes to a thread."""
    committer = opened(path)
    assert 0 < committer.commit_s < inf
    real = committer._run

    def run(statement: str) -> None:
        real("ROLLBACK" if statement == "COMMIT" else statement)
        if statement == "COMMIT":
            raise apsw.FullError("database or disk is full")

    with monkeypatch.context() as patch:
        patch.setattr(committer, "_run", run)
        failed = turn("web-1", b"1", 0)
        assert committer.commit([failed])
    assert (type(failed.error), committer.commit_s) == (Rejected, inf)
    assert committer.commit([turn("web-1", b"1", 0)])
    assert 0 < committer.commit_s < inf
    committer.close()


def test_it_is_time_to_fold_after_so_many_pages_since_the_last_time(path: Path, monkeypatch: pytest.MonkeyPatch):
    """Not at every commit from then on: the count begins again with each fold."""
    monkeypatch.setattr(module, "FOLD_PAGES", 20)
    committer = opened(path)
    assert not committer.full
    told: list[bool] = []
    for number in range(30):
        assert committer.commit([turn("web-1", b"x" * 5000, number)])
        told.append(committer.full)
        if committer.full:
            committer.fold()
            assert not committer.full
    assert 2 <= told.count(True) <= 10
    assert all(not (one and other) for one, other in pairwise(told))
    committer.close()


def test_a_head_that_follows_each_second_is_due_until_it_is_anchored(path: Path):
    """Behind a commit it is due within a second, and not any more once it is written."""
    committer: Committer[bytes] = Committer(path, Mode("FULL", "second"), 100)
    assert committer.due is None
    assert committer.commit([turn("web-1", b"0", -1)])
    committer._anchored_s = perf_counter()
    assert committer.commit([turn("web-1", b"1", 0)])
    assert committer.due is not None
    assert 0 <= committer.due <= 1
    committer._anchored_s = 0.0
    assert committer.due == 0
    committer.anchor()
    assert committer.due is None
    slot = read_head(head_path(path))
    assert slot is not None
    assert slot.position == 2
    committer.close()
