"""What the committer answers when a commit fails: what stands, what does not, and what nobody can know yet."""

from __future__ import annotations

import errno
import os
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from itertools import count, pairwise
from math import inf
from pathlib import Path
from typing import Any

import anyio
import apsw
import msgspec
import pytest

from esrm.errors import Corrupt, Rejected, StoreError, Unknown
from esrm.stores.base import verify
from esrm.stores.records import prepare
from esrm.stores.sqlite import SqliteReader, SqliteStore, heads, live, owned
from esrm.stores.sqlite import committer as module
from esrm.stores.sqlite.committer import Append, Committer
from esrm.stores.sqlite.heads import HeadFile, Slot, head_path, read_head
from esrm.stores.sqlite.owned import Mode
from esrm.stores.sqlite.schema import FORMAT
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


def fail_behind(patch: pytest.MonkeyPatch, committer: Committer[bytes]) -> None:
    """Let each COMMIT stand, and the disk fail right behind it."""
    real = committer._run

    def run(statement: str) -> None:
        real(statement)
        if statement == "COMMIT":
            raise apsw.IOError("disk I/O error")

    patch.setattr(committer, "_run", run)


def break_mending(patch: pytest.MonkeyPatch, store: SqliteStore[bytes]) -> None:
    """Let the log not be opened anew."""

    def refused() -> None:
        raise StoreError("the disk is still full")

    patch.setattr(store._writer._committer, "_connect_again", refused)


@asynccontextmanager
async def patience() -> AsyncIterator[None]:
    """Who waits for ever fails."""
    with anyio.fail_after(30):
        yield


async def test_a_commit_that_left_nothing_is_rejected(path: Path, monkeypatch: pytest.MonkeyPatch):
    """Having looked, the store knows that it does not stand, says so, and goes on: the retry is a first time."""
    async with SqliteStore(path, CODEC) as store:
        await store.append("web-1", drafts(b"0"), expected=-1)
        batch = drafts(b"1")
        break_commits(monkeypatch, store, 1)
        with pytest.raises(Rejected, match=r"the disk is full; make room.*nothing of this append stands") as caught:
            await store.append("web-1", batch, expected=0)
        assert isinstance(caught.value.__cause__, apsw.FullError)
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


@pytest.mark.parametrize("inline_ms", [0, inf])
async def test_who_cannot_see_the_log_does_not_guess(tmp_path: Path, inline_ms: float):
    """Its folder is renamed, and a file lies there: what was appended then is unknown, until that is mended."""
    folder, aside = tmp_path / "logs", tmp_path / "aside"
    folder.mkdir()
    async with SqliteStore(folder / "vm.db", CODEC, inline_ms=inline_ms) as store, patience():
        await store.append("web-1", drafts(b"0"), expected=-1)
        folder.rename(aside)
        folder.touch()
        batch = drafts(b"1")
        for _ in range(2):
            with pytest.raises(Unknown, match=r"Not a directory.*whether this append stands is unknown: retry it"):
                await store.append("web-1", batch, expected=0)
        folder.unlink()
        aside.rename(folder)
        [record] = await store.append("web-1", batch, expected=0)
        assert (record.position, record.event) == (2, b"1")
        assert verify(store.reader()).good == 2


@pytest.mark.parametrize("inline_ms", [0, inf])
async def test_a_fault_in_looking_what_stands_is_unknown(path: Path, monkeypatch: pytest.MonkeyPatch, inline_ms: float):
    """However finding out ends: nobody hears that nothing stands, or waits for ever, and the thread lives on."""
    async with SqliteStore(path, CODEC, inline_ms=inline_ms) as store, patience():
        await store.append("web-1", drafts(b"0"), expected=-1)
        batch = drafts(b"1")
        with monkeypatch.context() as patch:
            break_commits(patch, store, 1, late=True)
            break_mending(patch, store)
            patch.setattr(store._writer._committer, "_cover", lambda: 1 / 0)
            with pytest.raises(Unknown, match="whether this append stands is unknown: retry it"):
                await store.append("web-1", batch, expected=0)
            with pytest.raises(Unknown, match="the writer failed: ZeroDivisionError"):  # not Rejected: it may stand
                await store.append("web-1", batch, expected=0)
        [record] = await store.append("web-1", batch, expected=0)
        assert (record.position, record.event) == (2, b"1")
        assert verify(store.reader()).good == 2


@pytest.mark.parametrize("inline_ms", [0, inf])
async def test_a_commit_that_gives_no_answer_leaves_it_unknown(
    path: Path, monkeypatch: pytest.MonkeyPatch, inline_ms: float
):
    """Whatever the committer fails with, whoever appended hears of it, and the next append is as ever."""
    async with SqliteStore(path, CODEC, inline_ms=inline_ms) as store, patience():
        await store.append("web-1", drafts(b"0"), expected=-1)
        with monkeypatch.context() as patch:
            patch.setattr(store._writer._committer, "commit", lambda *_, **__: 1 / 0)
            with pytest.raises(Unknown, match="gave no answer; whether this append stands is unknown: retry it"):
                await store.append("web-1", drafts(b"1"), expected=0)
        [record] = await store.append("web-1", drafts(b"1"), expected=0)
        assert record.position == 2


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
    assert str(committer.poisoned) == "interrupted: KeyboardInterrupt()"
    again = Append(append.batch)
    assert committer.commit([again])
    assert again.rows is not None
    assert (again.rows[0][0], again.error) == (2, None)
    committer.close()


def test_what_is_unknown_stays_so_until_the_disk_is_mended(path: Path, monkeypatch: pytest.MonkeyPatch):
    """Asked again meanwhile, the same append is in the same doubt; others are rejected, and so is it once all is well.

    That is: when it is turned away for another reason, and it is known that it does not stand.
    """
    committer = opened(path)
    append, real = turn("web-1", b"1", 0), committer._run

    def run(statement: str) -> None:
        real("ROLLBACK" if statement == "COMMIT" else statement)
        if statement == "COMMIT":
            raise apsw.IOError("disk I/O error")

    def refused() -> None:
        raise StoreError("the disk is still broken")

    def answer(append: Append[bytes]) -> type[BaseException]:
        again = Append(append.batch)
        assert committer.commit([again])
        return type(again.error)

    with monkeypatch.context() as patch:
        patch.setattr(committer, "_run", run)
        patch.setattr(committer, "_connect_again", refused)
        assert [answer(append), answer(append)] == [Unknown, Unknown]
        assert answer(turn("db-1", b"0", -1)) is Rejected
        assert answer(append) is Unknown
    assert committer.commit([turn("db-1", b"0", -1)])
    other = apsw.Connection(str(path))
    other.execute("BEGIN IMMEDIATE")
    assert answer(append) is Rejected
    other.execute("ROLLBACK")
    other.close()
    assert answer(append) is type(None)
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
    ticks = count(1000)
    monkeypatch.setattr(module, "perf_counter", lambda: next(ticks))
    committer = opened(path)
    assert 0 < committer.commit_s < 10
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
    assert 0 < committer.commit_s < 10
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


def test_a_head_that_follows_each_second_is_due_until_it_is_anchored(path: Path, monkeypatch: pytest.MonkeyPatch):
    """A second after it was anchored last, by whoever comes first: a commit, or the clock."""
    now = [1000.0]
    monkeypatch.setattr(owned, "perf_counter", lambda: now[0])
    committer: Committer[bytes] = Committer(path, Mode("FULL", "second"), 100)
    assert committer.due is None
    assert committer.commit([turn("web-1", b"0", -1)])
    assert (anchored(path), committer.due) == (1, None)  # never before, so it was due
    now[0] += 0.25
    assert committer.commit([turn("web-1", b"1", 0)])
    committer.anchor()
    assert (anchored(path), committer.due) == (1, 0.75)
    now[0] += 0.75
    assert committer.due == 0
    committer.anchor()
    assert (anchored(path), committer.due) == (2, None)
    assert committer.commit([turn("web-1", b"2", 1)])
    assert (anchored(path), committer.due) == (2, 1)
    now[0] += 5
    assert committer.due == 0
    assert committer.commit([turn("web-1", b"3", 2)])
    assert (anchored(path), committer.due) == (4, None)
    committer.close()


def test_nothing_is_anchored_while_the_disk_has_failed(path: Path, monkeypatch: pytest.MonkeyPatch):
    """The head waits until the log has been looked at again."""
    now = [1000.0]
    monkeypatch.setattr(owned, "perf_counter", lambda: now[0])
    committer: Committer[bytes] = Committer(path, Mode("FULL", "second"), 100)
    for number in range(2):
        assert committer.commit([turn("web-1", b"x", number - 1)])
    now[0] += 5
    committer.poisoned = OSError("the disk failed")
    committer.anchor()
    assert (anchored(path), committer.due) == (1, 0)
    committer.close()
    assert anchored(path) == 1


def anchored(path: Path) -> int:
    """The position that the head file says."""
    slot = read_head(head_path(path))
    assert slot is not None
    return slot.position


def test_a_head_is_written_once(path: Path, monkeypatch: pytest.MonkeyPatch):
    """Neither an append that adds nothing nor a fold writes and syncs again what stands."""
    for mode in (Mode("FULL", "commit"), Mode("NORMAL", "folded"), Mode("OFF", "folded")):
        log, synced = path.with_name(mode.synchronous), list[int]()
        monkeypatch.setattr(heads, "fdatasync", synced.append)
        committer: Committer[bytes] = Committer(log, mode, 100)
        first = turn("web-1", b"0", -1)
        assert committer.commit([first])
        committer.fold()
        slot, syncs = read_head(head_path(log)), len(synced)
        assert slot is not None
        assert (slot.position, slot.counter, syncs) == (1, 1, 2)  # one to begin
        assert committer.commit([Append(first.batch), turn("web-1", b"", 7)])
        committer.fold()
        committer.close()
        assert (read_head(head_path(log)), len(synced)) == (slot, syncs)


def test_what_needs_patience_is_left_to_the_thread(path: Path, monkeypatch: pytest.MonkeyPatch):
    """A log that is not ours yet, another one's transaction, a disk that failed: False at once, and nothing is lost."""
    committer: Committer[bytes] = Committer(path, Mode("FULL", "commit"), 100)
    one, two, three = (turn("web-1", b"x", number - 1) for number in range(3))
    assert (committer.full, committer.due) == (False, None)
    assert committer.commit([one], patient=False) is False
    assert committer.commit([one]) is True
    other = apsw.Connection(str(path))
    other.execute("BEGIN IMMEDIATE")
    assert committer.commit([two], patient=False) is False
    assert committer._fetch("PRAGMA busy_timeout") == [(0,)]
    other.execute("ROLLBACK")
    other.close()
    assert committer.commit([two], patient=False) is True
    with monkeypatch.context() as patch:
        fail_behind(patch, committer)
        assert committer.commit([three], patient=False) is False
        assert three.error is None
    assert committer.commit([three], patient=False) is False
    assert committer.commit([three]) is True
    assert committer._fetch("PRAGMA busy_timeout") == [(100,)]
    assert [append.rows and append.rows[0][0] for append in (one, two, three)] == [1, 2, 3]
    committer.close()


def test_a_log_that_is_in_its_place_is_not_read_again(path: Path, monkeypatch: pytest.MonkeyPatch):
    """Mending opens it anew; only one that was replaced is read to its end before it is believed."""
    committer = opened(path)
    monkeypatch.setattr(owned, "verify", lambda reader: pytest.fail("read all of it"))
    committer.poisoned = apsw.IOError("disk I/O error")
    append = turn("web-1", b"1", 0)
    assert committer.commit([append])
    assert (append.error, committer.poisoned, committer.head) == (None, None, 2)
    committer.close()


def test_a_removed_wal_is_folded_back_though_somebody_reads(path: Path):
    """SQLite folds it when the last one closes; with a reader nobody is the last one, so it is done before."""
    committer = opened(path)
    with SqliteReader(path, CODEC) as reader:
        assert reader.head() == 1
        os.unlink(f"{path}-wal")
        append = turn("web-1", b"1", 0)
        assert committer.commit([append])
        assert (append.error, committer.head) == (None, 2)
    committer.close()
    with SqliteReader(path, CODEC) as reader:
        assert verify(reader).good == 2


def test_what_failed_is_in_no_wal_any_more(path: Path, monkeypatch: pytest.MonkeyPatch):
    """A failed commit may lie in the WAL and come back after a power cut: once mended, all of it is folded back."""
    committer, real = opened(path), Committer._run
    with monkeypatch.context() as patch:
        patch.setattr(committer, "_run", lambda statement: fail_commit(committer, real, statement))
        append = turn("web-1", b"1", 0)
        assert committer.commit([append])
    assert type(append.error) is Rejected
    assert committer.poisoned is None
    assert os.stat(f"{path}-wal").st_size == 0
    committer.close()


def fail_commit(committer: Committer[bytes], real: Callable[[Committer[bytes], str], None], statement: str) -> None:
    """Run a statement; a COMMIT that writes records fails before anything of it is done, others do not."""
    if statement == "COMMIT" and committer._sealed > committer.head:
        real(committer, "ROLLBACK")
        raise apsw.IOError("disk I/O error")
    real(committer, statement)


def test_a_closed_log_is_not_asked(path: Path):
    """Whoever still has its committer is told so, and by no error of Python's."""
    committer = opened(path)
    committer.close()
    with pytest.raises(StoreError, match=r"vm\.db is not open"):
        committer._fetch("SELECT 1")


def test_a_removed_wal_is_kept_open_as_long_as_it_cannot_be_folded_back(path: Path):
    """Who reads in a long transaction keeps it from that; until then nobody else has what was acknowledged."""
    committer, reader = opened(path), apsw.Connection(str(path))
    reader.execute("BEGIN; SELECT * FROM records").fetchall()
    for revision in range(1, 5):
        assert committer.commit([turn("web-1", b"%d" % revision, revision - 1)])
    os.unlink(f"{path}-wal")
    append = turn("web-1", b"5", 4)
    for _ in range(3):
        append = Append(append.batch)
        assert committer.commit([append])
        assert type(append.error) is Unknown
        assert "its WAL was removed or replaced while it was open, and is whole only here; to" in str(append.error)
        assert "end the program that reads" in str(append.error)
    reader.close()
    append = Append(append.batch)
    assert committer.commit([append])
    assert append.retried, "it stood from the beginning"
    committer.close()
    with SqliteReader(path, CODEC) as again:
        assert verify(again).good == 6


@pytest.mark.parametrize("left", [0, 1000, -1], ids=["emptied", "cut", "older"])
def test_a_wal_that_was_replaced_is_put_aside(path: Path, left: int):
    """Its pages over newer ones would be nobody's log; what counts is in the one that this process has open."""
    committer = opened(path)
    stale = Path(f"{path}-wal").read_bytes()[:left]
    assert committer.commit([turn("web-1", b"1", 0)])
    Path(f"{path}-wal").rename(path.with_name("right"))
    Path(f"{path}-wal").write_bytes(stale)
    append = turn("web-1", b"2", 1)
    assert committer.commit([append])
    assert append.error is None
    assert Path(f"{path}-wal-stray").read_bytes() == stale
    committer.close()
    with SqliteReader(path, CODEC) as reader:
        assert verify(reader).good == 3


def test_who_follows_a_log_that_was_restored_goes_on_with_that(path: Path):
    """A copy was put in its place while its writer was away: who only looks sees what the next writer appends."""
    opened(path).close()
    follower: Committer[bytes] = Committer(path, Mode("FULL", "commit"), 100)
    assert follower.head == 1
    path.with_name("copy").write_bytes(path.read_bytes())
    path.with_name("copy").replace(path)
    writer: Committer[bytes] = Committer(path, Mode("FULL", "commit"), 100)
    assert writer.commit([turn("web-1", b"1", 0)])
    follower.look()
    assert follower.head == 2
    follower.close()
    writer.close()


def test_an_index_of_the_wal_that_only_we_have_is_not_built_on(path: Path):
    """Removed while a reader of this process has it open, SQLite goes on with it, and nobody else finds it."""
    committer, reader = opened(path), SqliteReader(path, CODEC)
    assert reader.head() == 1
    os.unlink(f"{path}-shm")
    append = turn("web-1", b"1", 0)
    assert committer.commit([append])
    assert "was removed while a reader of this process had it open, or another store: close" in str(append.error)
    reader.close()
    append = Append(append.batch)
    assert committer.commit([append])
    assert append.error is None
    assert os.path.exists(f"{path}-shm")
    committer.close()


def test_readers_are_let_go_before_the_log_is_opened_anew(path: Path):
    """The store's own, which are idle, stand in nobody's way."""
    dropped: list[int] = []
    committer: Committer[bytes] = Committer(path, Mode("FULL", "commit"), 100, lambda: dropped.append(1))
    assert committer.commit([turn("web-1", b"0", -1)])
    assert dropped == []
    os.unlink(f"{path}-wal")
    assert committer.commit([turn("web-1", b"1", 0)])
    assert dropped == [1]
    committer.close()


def test_a_link_in_place_of_the_log_is_another_file(path: Path):
    """It leads to the same bytes; but whoever comes next looks for the WAL beside what it leads to."""
    committer = opened(path)
    moved = path.rename(path.with_name("moved.db"))
    path.symlink_to(moved)
    append = turn("web-1", b"1", 0)
    assert committer.commit([append])
    assert append.error is not None
    path.unlink()
    moved.rename(path)
    append = Append(append.batch)
    assert committer.commit([append])
    assert append.error is None
    committer.close()


def test_a_retry_is_answered_behind_the_head(path: Path):
    """A writer was killed between commit and head: its successor answers the retry once the head says so, too."""
    committer = opened(path)
    before, append = head_path(path).read_bytes(), turn("web-1", b"1", 0)
    assert committer.commit([append])
    committer.close()
    head_path(path).write_bytes(before)
    successor: Committer[bytes] = Committer(path, Mode("FULL", "commit"), 100)
    again = Append(append.batch)
    assert successor.commit([again])
    assert again.retried
    slot = read_head(head_path(path))
    assert slot is not None
    assert slot.position == 2
    successor.close()


def test_what_a_weaker_predecessor_left_is_synced_though_somebody_reads(path: Path, monkeypatch: pytest.MonkeyPatch):
    """It waited for no disk, and its WAL cannot be folded back: so a commit of our own stands behind all of it."""
    weak: Committer[bytes] = Committer(path, Mode("NORMAL", "folded"), 0)
    assert weak.commit([turn("web-1", b"0", -1)])
    reader = apsw.Connection(str(path))
    reader.execute("BEGIN; SELECT * FROM records").fetchall()
    append = turn("web-1", b"1", 0)
    assert weak.commit([append])
    weak.close()
    committer: Committer[bytes] = Committer(path, Mode("FULL", "commit"), 0)
    ran, real = list[str](), committer._run
    monkeypatch.setattr(committer, "_run", lambda statement: (ran.append(statement), real(statement)))
    again = Append(append.batch)
    assert committer.commit([again])
    assert again.retried
    assert ran[:3] == ["BEGIN IMMEDIATE", f"PRAGMA user_version = {FORMAT}", "COMMIT"]
    reader.close()
    committer.close()


def test_another_logs_head_that_was_put_there_leaves_no_trace(path: Path):
    """Removed again, our own is written anew, from what we know and not from what was found."""
    committer = opened(path)
    own = head_path(path).rename(path.with_name("own"))
    head_path(path).write_bytes(Slot(100, bytes(32), bytes(32), "FULL", "commit").render().ljust(8704, b"\n"))
    append = turn("web-1", b"1", 0)
    for _ in range(3):
        append = Append(append.batch)
        assert committer.commit([append])
        assert append.error is not None
    head_path(path).unlink()
    append = Append(append.batch)
    assert committer.commit([append])
    assert append.error is None
    slot = read_head(head_path(path))
    assert slot is not None
    assert slot.position == committer.head
    own.unlink()
    committer.close()


def test_a_head_says_at_once_how_the_log_is_written(path: Path):
    """From the first append on, and not only when something of it is anchored."""
    opened(path).close()
    weak: Committer[bytes] = Committer(path, Mode("NORMAL", "folded"), 100)
    assert weak.commit([turn("web-1", b"1", 0)])
    slot = read_head(head_path(path))
    assert slot is not None
    assert (slot.position, slot.synchronous, slot.anchored) == (1, "NORMAL", "folded")
    weak.close()


def test_folding_waits_for_the_disk_in_any_mode(path: Path, monkeypatch: pytest.MonkeyPatch):
    """With OFF, too: else the head, which is written behind it, could be on the disk before what it speaks of."""
    committer: Committer[bytes] = Committer(path, Mode("OFF", "folded"), 100)
    assert committer.commit([turn("web-1", b"0", -1)])
    levels, real = list[int](), committer._live

    class Watched:
        """A connection that is asked how it waits, when it folds."""

        def __getattr__(self, name: str) -> Any:
            if name == "wal_checkpoint":
                levels.extend(found for [found] in real().execute("PRAGMA synchronous"))
            return getattr(real(), name)

    monkeypatch.setattr(committer, "_live", Watched)
    committer.fold()
    assert levels == [1]
    assert list(real().execute("PRAGMA synchronous")) == [(0,)]
    committer.close()


def test_a_draft_that_cannot_be_written_harms_nobody_else(path: Path):
    """Whatever slipped past the checks: nothing stands, and the log need not be opened anew."""
    committer = opened(path)
    bad = turn("web-2", b"x", -1)
    bad.batch.drafts[0] = msgspec.structs.replace(bad.batch.drafts[0], time_ns=object())
    assert committer.commit([bad])
    assert type(bad.error) is Rejected
    assert committer.poisoned is None
    good = turn("web-1", b"1", 0)
    assert committer.commit([good])
    assert good.rows is not None
    committer.close()


def test_an_interrupt_while_a_failure_is_put_right(path: Path, monkeypatch: pytest.MonkeyPatch):
    """A second interrupt, at the worst moment: the next append looks at the log before it believes what it knew."""
    committer = opened(path)
    with monkeypatch.context() as patch:
        patch.setattr(committer, "_write", lambda: (_ for _ in ()).throw(KeyboardInterrupt))
        patch.setattr(committer, "_fail", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
        lost = turn("web-1", b"lost", 0)
        with pytest.raises(KeyboardInterrupt):
            committer.commit([lost])
    assert type(lost.error) is Unknown
    assert lost.rows is None
    assert not committer.commit([turn("web-1", b"1", 0)], patient=False), "mending may take long"
    append = turn("web-1", b"1", 0)
    assert committer.commit([append])
    assert append.rows is not None
    assert append.rows[0][:3] == (2, "web-1", 1)
    committer.close()


def test_an_interrupt_while_a_commit_is_looked_into_leaves_it_unknown(path: Path, monkeypatch: pytest.MonkeyPatch):
    """Nothing has been found out by then, least of all that it does not stand."""
    committer = opened(path)
    append = turn("web-1", b"1", 0)
    with monkeypatch.context() as patch:
        fail_behind(patch, committer)
        assert not committer.commit([append], patient=False)
        patch.setattr(committer, "_mend", lambda: (_ for _ in ()).throw(KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            committer.commit([append])
    assert (type(append.error), append.rows) == (Unknown, None)
    again = Append(append.batch)
    assert committer.commit([again])
    assert (again.rows or [()])[0][:3] == (2, "web-1", 1)
    committer.close()


def test_a_new_connection_that_cannot_be_looked_at_is_given_up(path: Path, monkeypatch: pytest.MonkeyPatch):
    """The old one, which has the only copy of a log that was moved away, is kept until the new one is sound."""
    committer = opened(path)
    old = committer._connection
    path.rename(f"{path}-aside")
    monkeypatch.setattr(live, "open_writer", lambda *_, **__: apsw.Connection(":memory:"))
    with monkeypatch.context() as patch:
        patch.setattr(live.os, "statvfs", lambda _: (_ for _ in ()).throw(OSError(errno.EIO, "Input/output error")))
        with pytest.raises(StoreError, match="Input/output error"):
            committer._connect_again()
    assert committer._connection is old
    committer.close()


def test_folding_that_fails_in_any_way_is_seen_to(path: Path, monkeypatch: pytest.MonkeyPatch):
    """The thread that folds must not die of it: appends would wait for ever."""
    committer = opened(path)
    with monkeypatch.context() as patch:
        patch.setattr(committer, "_fold_back", lambda _: 1 / 0)
        committer.fold()
    append = turn("web-1", b"1", 0)
    assert committer.commit([append])
    assert append.rows is not None
    committer.close()


def test_who_only_looks_folds_nothing(path: Path):
    """The WAL belongs to the log's writer, also when somebody else closes."""
    committer = opened(path)
    size = os.stat(f"{path}-wal").st_size
    looking: Committer[bytes] = Committer(path, Mode("FULL", "commit"), 100)
    assert looking.head == 1
    looking.close()
    assert os.stat(f"{path}-wal").st_size == size > 0
    committer.close()
    assert not os.path.exists(f"{path}-wal")


def test_a_poisoned_store_is_not_folded(path: Path):
    """What is in the WAL is in doubt until it has been looked at."""
    committer = opened(path)
    size = os.stat(path).st_size
    assert committer.commit([turn("web-1", b"x" * 60_000, 0)])
    committer.poisoned = apsw.IOError("disk I/O error")
    committer.fold()
    assert os.stat(path).st_size == size
    committer.poisoned = None
    committer.fold()
    assert os.stat(path).st_size > size + 50_000
    committer.close()


def test_a_close_that_cannot_anchor_says_so_and_lets_go(path: Path, monkeypatch: pytest.MonkeyPatch):
    """The log may go on behind its head; the next one anchors it."""
    now = [1000.0]
    monkeypatch.setattr(owned, "perf_counter", lambda: now[0])
    committer: Committer[bytes] = Committer(path, Mode("FULL", "second"), 100)
    for number in range(2):
        assert committer.commit([turn("web-1", b"x", number - 1)])

    def fail(*_: object) -> int:
        raise OSError(errno.EIO, "Input/output error")

    with monkeypatch.context() as patch:
        patch.setattr(heads, "pwrite", fail)
        with pytest.raises(StoreError, match=r"vm\.db: Input/output error"):
            committer.close()
    again: Committer[bytes] = Committer(path, Mode("FULL", "second"), 100)
    assert (again.head, anchored(path)) == (2, 1)
    append = turn("web-1", b"x", 1)
    assert again.commit([append])
    assert append.rows is not None
    again.close()
    assert anchored(path) == 3


@pytest.mark.parametrize(("synchronous", "words"), [("FULL", "acknowledged: "), ("OFF", r"\(with synchronous=OFF\): ")])
def test_a_log_that_was_cut_is_not_opened(path: Path, synchronous: str, words: str):
    """It says how well the missing records stood, and leaves nothing open."""
    opened(path).close()
    file = HeadFile(path)
    file.claim(fresh=False)
    file.begin(Slot(7, bytes(32), bytes(32), synchronous, "commit"))
    file.release()
    with pytest.raises(Corrupt, match=rf"ends at position 1, but vm\.db-head says that 7 was .*{words}") as caught:
        Committer(path, Mode("FULL", "commit"), 100)
    assert caught.tb  # and with it the committer, which the garbage collector must leave alone
    assert str(path) not in {os.path.realpath(f"/proc/self/fd/{name}") for name in os.listdir("/proc/self/fd")}


def test_a_refusal_inside_a_transaction_ends_it(path: Path):
    """Asked again, a log that lost records answers the same, and not that a transaction is open."""
    committer = opened(path)
    other = apsw.Connection(str(path))
    other.execute("DROP TRIGGER records_are_never_deleted; DELETE FROM records")
    other.close()
    for _ in range(2):
        append = turn("web-1", b"1", 0)
        assert committer.commit([append])
        assert type(append.error) is Corrupt
        assert "ended at position 1 and now ends at 0: records are gone" in str(append.error)
        assert committer.poisoned is None
    committer.close()


def test_who_was_kept_waiting_in_vain_knows_the_end_all_the_same(path: Path):
    """A head that follows each second lags behind: after a refusal the end is read from the log, not from it."""
    committer: Committer[bytes] = Committer(path, Mode("FULL", "second"), 0)
    for revision in range(3):
        assert committer.commit([turn("web-1", b"%d" % revision, revision - 1)])
    other = apsw.Connection(str(path))
    other.execute("BEGIN IMMEDIATE")
    refused = turn("web-1", b"3", 2)
    assert committer.commit([refused])
    assert type(refused.error) is Rejected
    other.execute("ROLLBACK")
    other.close()
    append = turn("web-1", b"3", 2)
    assert committer.commit([append])
    assert append.rows is not None
    assert append.rows[0][:3] == (4, "web-1", 3)
    assert committer.poisoned is None
    committer.close()


def test_a_log_whose_acknowledged_record_was_changed_is_not_mended(path: Path):
    """It is as long as it should be; but what stands at its end is not what was anchored."""
    committer = opened(path)
    other = apsw.Connection(str(path))
    other.execute("DROP TRIGGER records_are_never_changed; UPDATE records SET hash = zeroblob(32)")
    other.close()
    for _ in range(2):
        committer.poisoned = apsw.IOError("disk I/O error")
        append = turn("web-1", b"1", 0)
        assert committer.commit([append])
        assert type(append.error) is Corrupt
        assert "the record at position 1 is not the one" in str(append.error)
    committer.close()


def test_a_stream_that_somebody_else_continued_is_looked_up_again(path: Path):
    """What was known of its end is forgotten when the file has changed."""
    committer = opened(path)
    other = apsw.Connection(str(path))
    other.execute("INSERT INTO records SELECT 2, stream, 1, randomblob(16), time_ns, actor, correlation, data, hash"
                  " FROM records")  # fmt: skip
    other.close()
    append = turn("web-1", b"2", 1)
    assert committer.commit([append])
    assert append.rows is not None
    assert append.rows[0][:3] == (3, "web-1", 2)
    committer.close()


def test_a_log_that_lost_what_was_acknowledged_is_not_mended(path: Path, monkeypatch: pytest.MonkeyPatch):
    """The head may be a second behind; this store knows better than it what it has answered."""
    monkeypatch.setattr(owned, "perf_counter", lambda: 1000.0)
    committer: Committer[bytes] = Committer(path, Mode("FULL", "second"), 100)
    assert committer.commit([turn("web-1", b"0", -1)])
    assert committer.commit([turn("web-1", b"1", 0)])
    other = apsw.Connection(str(path))
    other.execute("DROP TRIGGER records_are_never_deleted; DELETE FROM records WHERE position = 2")
    other.close()
    for _ in range(2):
        committer.poisoned = apsw.IOError("disk I/O error")
        append = turn("web-1", b"2", 0)
        assert committer.commit([append])
        assert type(append.error) is Corrupt
        assert "ends at position 1, but 2 was acknowledged" in str(append.error)
    committer.close()


def test_who_may_not_claim_a_log_does_not_keep_it(path: Path):
    """The lock is let go of, and the next attempt is checked as the first one."""
    opened(path).close()
    other = apsw.Connection(str(path))
    other.execute("INSERT INTO streams (name) VALUES ('db-1'); INSERT INTO records SELECT 9, 2, 5, id, time_ns, actor,"
                  "correlation, data, hash FROM records")  # fmt: skip
    other.close()
    committer: Committer[bytes] = Committer(path, Mode("FULL", "commit"), 100)
    for _ in range(2):
        append = turn("web-1", b"1", 0)
        assert committer.commit([append])
        assert "its index leads to" in str(append.error)
    file = HeadFile(path)
    file.claim(fresh=False)
    file.release()
    committer.close()


def test_only_a_commit_that_wrote_took_time(path: Path):
    """What the disk is judged by: seconds for what was written, nothing for a conflict, for ever for what failed."""
    committer = Committer(path, Mode("FULL", "commit"), 5000)
    committer.commit([Append(prepare(CODEC, "web-1", drafts(b"0"), -1))])
    assert 0 < committer.commit_s < inf
    committer.commit([Append(prepare(CODEC, "web-1", drafts(b"1"), 7))])
    assert committer.commit_s == 0
    committer.close()


def test_a_log_that_is_gone_is_never_made_anew(path: Path):
    """Not even once its connection is given up: a new, empty log in its place would hide what was lost."""
    committer = Committer(path, Mode("FULL", "commit"), 5000)
    committer.commit([Append(prepare(CODEC, "web-1", drafts(b"0"), -1))])
    committer._disconnect()
    committer.poisoned = OSError("it failed")
    path.rename(path.with_suffix(".away"))
    append = Append(prepare(CODEC, "web-1", drafts(b"1"), 0))
    committer.commit([append])
    assert isinstance(append.error, Rejected)
    assert "is gone" in str(append.error)
    assert not path.exists()
    committer.close()


def test_a_replaced_log_is_not_kept_open(path: Path):
    """Looked at and not believed, it is closed again; the one that was open stays so."""
    committer = Committer(path, Mode("FULL", "commit"), 5000)
    committer.commit([Append(prepare(CODEC, "web-1", drafts(b"0"), -1))])
    committer._live().wal_checkpoint(mode=apsw.SQLITE_CHECKPOINT_TRUNCATE)  # else all of it were in the WAL still
    other = Committer(path.with_name("other.db"), Mode("FULL", "commit"), 5000)
    other.close()
    path.with_name("other.db").replace(path)
    append = Append(prepare(CODEC, "web-1", drafts(b"1"), 0))
    committer.commit([append])
    assert isinstance(append.error, (Unknown, Corrupt))
    opened = [os.readlink(fd) for fd in Path("/proc/self/fd").iterdir() if fd.is_symlink()]
    assert (opened.count(str(path)), opened.count(f"{path} (deleted)")) == (0, 1)
    committer.close()


def test_folding_that_fails_is_seen_to_before_the_next_append(path: Path, monkeypatch: pytest.MonkeyPatch):
    """An error of the disk while the WAL is folded back poisons the store like any other; the next append mends it."""

    class Sick:
        def __init__(self, connection: apsw.Connection) -> None:
            self.connection = connection

        def __getattr__(self, name: str) -> Any:
            return getattr(self.connection, name)

        def wal_checkpoint(self, **_: int) -> None:
            raise apsw.IOError("disk I/O error")

    committer = Committer(path, Mode("FULL", "commit"), 5000)
    committer.commit([Append(prepare(CODEC, "web-1", drafts(b"0"), -1))])
    with monkeypatch.context() as patch:
        patch.setattr(committer, "_connection", Sick(committer._live()))
        committer.fold()
        assert isinstance(committer.poisoned, apsw.IOError)
    append = Append(prepare(CODEC, "web-1", drafts(b"1"), 0))
    committer.commit([append])
    assert append.error is None
    assert committer.poisoned is None
    committer.close()


def test_who_becomes_the_writer_late_looks_again(path: Path):
    """Between opening and the first append the head file may have become another log's."""
    for name in (path, path.with_name("other.db")):
        committer = Committer(name, Mode("FULL", "commit"), 5000)
        committer.commit([Append(prepare(CODEC, "web-1", drafts(b"0"), -1))])
        committer.close()
    late = Committer(path, Mode("FULL", "commit"), 5000)
    head_path(path.with_name("other.db")).replace(head_path(path))
    append = Append(prepare(CODEC, "web-1", drafts(b"1"), 0))
    late.commit([append])
    assert isinstance(append.error, Corrupt)
    assert "is not the one that" in str(append.error)
    late.close()
