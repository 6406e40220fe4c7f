"""The head file: what it says, who may write it, and what an append's answer is worth when the disk fails."""

from __future__ import annotations

import errno
import fcntl
import os
import shutil
import threading
import warnings
from collections.abc import Callable
from pathlib import Path

import anyio
import apsw
import pytest
from hypothesis import given
from hypothesis import strategies as st

from esrm.errors import Corrupt, Rejected, StoreError, Unknown
from esrm.stores import records
from esrm.stores.base import verify
from esrm.stores.chain import extend
from esrm.stores.sqlite import SqliteReader, SqliteStore, committer, heads, owned, schema
from esrm.stores.sqlite.doctor.log import writer_of
from esrm.stores.sqlite.heads import SLOT_BYTES, HeadFile, Slot, head_path, parse, read_head, read_slots
from esrm.testing import BytesCodec, drafts

CODEC = BytesCodec()


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """Where a log may be made."""
    return tmp_path / "vm.db"


def position(path: Path) -> int:
    """What the head file says is acknowledged."""
    slot = read_head(head_path(path))
    return 0 if slot is None else slot.position


def copy(path: Path, to: Path) -> Path:
    """All files of a log as they lie on the disk now, as a crash of the process would leave them."""
    to.mkdir()
    for beside in ("", "-wal", "-head"):
        shutil.copy(f"{path}{beside}", to)
    return to / path.name


def fail(monkeypatch: pytest.MonkeyPatch, name: str, times: int, number: int = errno.EIO) -> list[int]:
    """Let so many calls of a function of the head file fail; returns a list whose only item counts down."""
    left, real = [times], getattr(heads, name)

    def call(*arguments: object) -> object:
        if left[0] > 0:
            left[0] -= 1
            raise OSError(number, os.strerror(number))
        return real(*arguments)

    monkeypatch.setattr(heads, name, call)
    return left


# -- the file --------------------------------------------------------------------------------------------------------

slots = st.builds(
    Slot,
    position=st.integers(0, 2**62),
    hash=st.binary(min_size=32, max_size=32),
    log=st.binary(min_size=32, max_size=32),
    synchronous=st.sampled_from(["FULL", "NORMAL", "OFF", "EXTRA"]),
    anchored=st.sampled_from(["commit", "second", "folded"]),
    counter=st.integers(0, 2**62),
)


@given(slots, st.integers(0, SLOT_BYTES * 8 - 1))
def test_a_slot_says_what_was_written_or_nothing(slot: Slot, bit: int):
    """It fills 512 bytes of text, comes back as it was, and with any bit of it turned it says nothing at all."""
    data = slot.render()
    assert (len(data), data.isascii()) == (SLOT_BYTES, True)
    assert parse(data) == slot
    turned = bytearray(data)
    turned[bit // 8] ^= 1 << bit % 8
    assert parse(bytes(turned)) is None


async def test_the_head_is_the_last_record_and_all_before_it(path: Path):
    """Position, hash and running hash can be computed anew from the log, as another program would."""
    async with SqliteStore(path, CODEC) as store:
        first = await store.append("web-1", drafts(b"0", b"1"), expected=-1)
        last = await store.append("db-1", drafts(b"2"), expected=-1)
        slot = read_head(head_path(path))
        assert slot is not None
        log = bytes(32)
        for record in [*first, *last]:
            log = extend(log, bytes.fromhex(record.hash))
        assert (slot.position, slot.hash.hex(), slot.log) == (3, last[-1].hash, log)
        assert (slot.synchronous, slot.anchored) == ("FULL", "commit")
        assert (await store.ask(lambda reader: reader.anchor())) == slot.anchor


async def test_where_things_are_beside_a_log(path: Path):
    """As the documents say, for other programs: two slots, 4 KiB apart, and a file that may be deleted."""
    async with SqliteStore(path, CODEC) as store:
        for n in range(2):
            await store.append("web-1", drafts(b"x"), expected=n - 1)
        assert store.reader().beside == Path(f"{path}-cache")
    data = head_path(path).read_bytes()
    assert {slot.position for slot in (parse(data[:512]), parse(data[4096:4608])) if slot} == {1, 2}


async def test_while_one_slot_is_written_the_other_one_stands(path: Path):
    """A slot torn by a power cut is noticed, and the one before it counts: that one was acknowledged."""
    async with SqliteStore(path, CODEC) as store:
        for n in range(4):
            await store.append("web-1", drafts(b"%d" % n), expected=n - 1)
    whole, damaged = read_slots(head_path(path))
    assert ([slot.position for slot in whole], damaged) == ([4, 3], 0)
    data = bytearray(head_path(path).read_bytes())
    data[heads.SLOTS[whole[0].counter % 2] + 100] ^= 1
    head_path(path).write_bytes(data)
    assert position(path) == 3
    async with SqliteStore(path, CODEC) as store:
        await store.append("web-1", drafts(b"4"), expected=3)
    whole, damaged = read_slots(head_path(path))
    assert ([slot.position for slot in whole], damaged) == ([5, 3], 0), "the damaged one was written, not the good one"
    with SqliteReader(path, CODEC) as reader:
        assert verify(reader).good == 5


async def test_a_head_file_without_a_whole_slot_is_corrupt(path: Path):
    """Nobody can then say what was acknowledged: opening says so, verify too, and reading goes on."""
    async with SqliteStore(path, CODEC) as store:
        await store.append("web-1", drafts(b"0"), expected=-1)
    head_path(path).write_bytes(b"\xff" * 8704)
    with pytest.raises(Corrupt, match="neither of its slots is as it was written"):
        async with SqliteStore(path, CODEC):
            pass
    with SqliteReader(path, CODEC) as reader:
        assert reader.head() == 1
        verdict = verify(reader)
        assert verdict.fault is not None
        assert "neither of its slots" in verdict.fault.what


async def test_a_log_that_lost_its_head_file_is_read_and_not_written(path: Path):
    """Its end cannot be known, so nobody builds on it unasked; the message says how to accept it."""
    async with SqliteStore(path, CODEC) as store:
        await store.append("web-1", drafts(b"0"), expected=-1)
    head_path(path).unlink()
    async with SqliteStore(path, CODEC) as store:
        assert store.reader().anchor() is None
        assert await store.head() == 1
        with pytest.raises(Rejected, match=r"no vm\.db-head beside it.*esrm doctor --adopt .*vm\.db"):
            await store.append("web-1", drafts(b"1"), expected=0)
    assert not head_path(path).exists()


async def test_an_interrupted_beginning_is_begun_again(path: Path):
    """A head file cut short before the first record stands in nobody's way."""
    async with SqliteStore(path, CODEC) as store:
        assert await store.append("web-1", [], expected=-1) == []
    for left in (b"", b"esrm head 1\ncounter", b"\n" * 4096, bytes(512), b"esrm head\xa0c\x85"):
        head_path(path).write_bytes(left)
        copied = path.with_name(f"{len(left)}.db")
        shutil.copy(path, copied)
        shutil.copy(head_path(path), head_path(copied))
        async with SqliteStore(copied, CODEC) as store:
            await store.append("web-1", drafts(b"0"), expected=-1)
        assert position(copied) == 1


async def test_no_easier_to_read_than_the_log(path: Path):
    """The head file takes its permissions from the log."""
    os.close(os.open(path, os.O_CREAT, 0o600))
    async with SqliteStore(path, CODEC) as store:
        await store.append("web-1", drafts(b"0"), expected=-1)
    assert oct(head_path(path).stat().st_mode & 0o777) == "0o600"


async def test_who_holds_the_lock_can_be_asked(path: Path):
    """By its process, its command and since when; nobody before the first append and after the close."""
    async with SqliteStore(path, CODEC) as store:
        assert writer_of(path) is None
        await store.append("web-1", drafts(b"0"), expected=-1)
        assert str(writer_of(path)).startswith(f"process {os.getpid()} (")
    assert writer_of(path) is None


async def test_a_forked_child_does_not_keep_the_lock(path: Path):
    """The lock goes with the process that took it, though a child of its lives on."""
    (reading, writing), (heard, told) = os.pipe(), os.pipe()
    async with SqliteStore(path, CODEC) as store:
        await store.append("web-1", drafts(b"0"), expected=-1)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)  # forking beside threads is what is tested
            child = os.fork()
        if child == 0:
            os.close(writing)
            os.write(told, b"!")
            os.read(reading, 1)
            os._exit(0)
        os.close(reading)
        os.close(told)
    try:
        assert os.read(heard, 1) == b"!", "the child is up"
        file = HeadFile(path)
        file.claim(fresh=False)
        file.release()
    finally:
        os.close(writing)
        os.close(heard)
        os.waitpid(child, 0)  # noqa: ASYNC222


# -- how well a commit stands ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("synchronous", "anchor", "kind"),
    [
        ("FULL", "commit", "Committed"),
        ("EXTRA", "commit", "Committed"),
        ("FULL", "second", "CommittedUnanchored"),
        ("NORMAL", "commit", "CommittedNormal"),
        ("OFF", "second", "CommittedOff"),
    ],
)
async def test_the_answers_class_says_how_well_it_stands(path: Path, synchronous: str, anchor: str, kind: str):
    """A weaker way that was asked for by name is named in every acknowledgement, the first time and again."""
    async with SqliteStore(path, CODEC, synchronous=synchronous, anchor=anchor) as store:
        batch = drafts(b"0")
        for _ in range(2):
            answer = await store.append("web-1", batch, expected=-1)
            assert type(answer) is getattr(records, kind)
            assert answer.durability
    with pytest.raises(StoreError, match="anchor is one of commit, second, not 'never'"):
        SqliteStore(path, CODEC, anchor="never")


@pytest.mark.parametrize("synchronous", ["NORMAL", "OFF"])
async def test_the_head_is_never_ahead_of_the_disk(
    path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, synchronous: str
):
    """Without a sync at each commit, the head waits until the WAL is folded back, which syncs, or for the close."""
    async with SqliteStore(path, CODEC, synchronous=synchronous) as store:
        for n in range(10):
            await store.append("web-1", drafts(b"x"), expected=n - 1)
        assert position(path) == 0
        left = copy(path, tmp_path / "crash")
        monkeypatch.setattr(committer, "FOLD_PAGES", 1)
        for n in range(10, 12):
            await store.append("web-1", drafts(b"x"), expected=n - 1)
        with anyio.fail_after(10):
            while not position(path):  # noqa: ASYNC110
                await anyio.sleep(0.001)
    assert position(path) == 12
    async with SqliteStore(left, CODEC) as store:  # what the crash left is rolled forward, and anchored
        await store.append("web-1", drafts(b"y"), expected=9)
    assert position(left) == 11


@pytest.mark.parametrize("inline_ms", [0, float("inf")])
async def test_the_head_may_follow_within_a_second(path: Path, inline_ms: float, monkeypatch: pytest.MonkeyPatch):
    """Anchored each second, it is behind for a while, then not, though nothing more is appended; nor after a close."""
    monkeypatch.setattr(owned, "ANCHOR_S", 0.2)
    async with SqliteStore(path, CODEC, anchor="second", inline_ms=inline_ms) as store:
        for n in range(20):
            await store.append("web-1", drafts(b"x"), expected=n - 1)
        with anyio.fail_after(10):
            while position(path) < 20:  # noqa: ASYNC110
                await anyio.sleep(0.01)
        monkeypatch.setattr(owned, "ANCHOR_S", 1000)
        await store.append("web-1", drafts(b"x"), expected=19)
        assert position(path) == 20
    assert position(path) == 21


# -- when the disk fails ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["pwrite", "fdatasync"])
async def test_a_head_that_could_not_be_written_once(path: Path, monkeypatch: pytest.MonkeyPatch, name: str):
    """The commit stood, so after looking it is acknowledged; nothing is appended twice."""
    async with SqliteStore(path, CODEC) as store:
        await store.append("web-1", drafts(b"0"), expected=-1)
        left = fail(monkeypatch, name, 1)
        [record] = await store.append("web-1", drafts(b"1"), expected=0)
        assert (left, record.position, position(path)) == ([0], 2, 2)
        await store.append("web-1", drafts(b"2"), expected=1)
        assert verify(store.reader()).good == 3


async def test_a_head_that_cannot_be_written_at_all(path: Path, monkeypatch: pytest.MonkeyPatch):
    """The append is unknown, later ones are turned away, reading goes on; once mended, a retry is answered."""
    async with SqliteStore(path, CODEC) as store:
        await store.append("web-1", drafts(b"0"), expected=-1)
        batch = drafts(b"1")
        with monkeypatch.context() as patch:
            fail(patch, "fdatasync", 1000)
            with pytest.raises(Unknown, match="Input/output error; whether this append stands is unknown: retry it"):
                await store.append("web-1", batch, expected=0)
            with pytest.raises(Rejected, match="Input/output error"):
                await store.append("db-1", drafts(b"2"), expected=-1)
            assert (await store.read("web-1"))[0].event == b"0"
            assert position(path) in (1, 2)
        [record] = await store.append("web-1", batch, expected=0)
        assert (record.position, record.event) == (2, b"1")
        [record] = await store.append("db-1", drafts(b"3"), expected=-1)
        assert (record.position, position(path)) == (3, 3)
        assert verify(store.reader()).good == 3


async def test_who_follows_sees_what_was_unknown(path: Path, monkeypatch: pytest.MonkeyPatch):
    """A subscriber is told of a record once it stands for good, though its append never was acknowledged."""
    seen: list[int] = []

    async def follow() -> None:
        async for record in store.subscribe(until=3):
            seen.append(record.position)

    async with SqliteStore(path, CODEC) as store:
        await store.append("web-1", drafts(b"0"), expected=-1)
        with anyio.fail_after(20):
            async with anyio.create_task_group() as group:
                group.start_soon(follow)
                with monkeypatch.context() as patch:
                    fail(patch, "fdatasync", 1000)
                    with pytest.raises(Unknown):
                        await store.append("web-1", drafts(b"1"), expected=0)
                await store.append("db-1", drafts(b"2"), expected=-1)
    assert seen == [1, 2, 3]


def remove_log(path: Path) -> None:
    """As a clean-up job does."""
    path.rename(path.with_suffix(".gone"))


def replace_log(path: Path) -> None:
    """An older copy is put over it, as a restore does."""
    old = path.with_suffix(".old")
    with apsw.Connection(str(old)) as connection:
        connection.execute("PRAGMA application_id = 1702064749; CREATE TABLE records (position INTEGER PRIMARY KEY)")
    os.replace(old, path)


@pytest.mark.parametrize("harm", [remove_log, replace_log])
async def test_nothing_is_acknowledged_into_the_void(path: Path, harm: Callable[[Path], None]):
    """With another file at a path, or none, SQLite would go on committing to the one that nobody can open any more."""
    async with SqliteStore(path, CODEC) as store:
        await store.append("web-1", drafts(b"0"), expected=-1)
        await anyio.to_thread.run_sync(harm, path)
        with pytest.raises((Unknown, Rejected, Corrupt)):
            await store.append("web-1", drafts(b"1"), expected=0)


async def test_a_log_that_was_away_is_taken_up_again(path: Path):
    """Put back where it was, with its WAL, it has lost nothing."""
    gone = path.with_suffix(".gone")
    async with SqliteStore(path, CODEC) as store:
        await store.append("web-1", drafts(b"0"), expected=-1)
        os.rename(path, gone)
        batch = drafts(b"1")
        with pytest.raises(Unknown, match="is gone: somebody removed or renamed it while it was open; put it back"):
            await store.append("web-1", batch, expected=0)
        os.rename(gone, path)
        [record] = await store.append("web-1", batch, expected=0)
        assert record.position == 2
        assert verify(store.reader()).good == 2


async def test_a_wal_that_was_removed_loses_nothing(path: Path):
    """What is in it can still be had from the connection that has it open."""
    async with SqliteStore(path, CODEC) as store:
        for n in range(5):
            await store.append("web-1", drafts(b"x"), expected=n - 1)
        os.unlink(f"{path}-wal")
        [record] = await store.append("web-1", drafts(b"y"), expected=4)
        assert record.position == 6
        await store.append("web-1", drafts(b"z"), expected=5)
        assert verify(store.reader()).good == 7
    with SqliteReader(path, CODEC) as reader:
        assert verify(reader).good == 7


@pytest.mark.parametrize("again", [True, False])
async def test_a_head_file_that_was_replaced_is_locked_and_written_anew(path: Path, again: bool):
    """Removed, or put back from a copy: the writer knows its head, and anchors it where others find it."""
    async with SqliteStore(path, CODEC) as store:
        await store.append("web-1", drafts(b"0"), expected=-1)
        data = head_path(path).read_bytes()
        head_path(path).unlink()
        if again:
            head_path(path).write_bytes(data)
        await store.append("web-1", drafts(b"1"), expected=0)
        assert position(path) == 2
        assert str(writer_of(path)).startswith(f"process {os.getpid()} (")
        await store.append("web-1", drafts(b"2"), expected=1)
    assert position(path) == 3


async def test_small_blocks_on_a_full_disk_are_refused_before_they_kill(path: Path, monkeypatch: pytest.MonkeyPatch):
    """Where SQLite's mapped index could end the process, nothing is opened nor appended; with room it goes on."""
    place = [1024, 1 << 30]

    class Place:
        def __init__(self) -> None:
            self.f_bsize = self.f_frsize = place[0]
            self.f_bavail = place[1] // place[0]

    monkeypatch.setattr(os, "statvfs", lambda _: Place())
    async with SqliteStore(path, CODEC) as store:
        await store.append("web-1", drafts(b"0"), expected=-1)
        place[1] = 100_000
        with pytest.raises(Rejected, match=r"99,328 bytes left, in blocks of 1,024.*SIGBUS.*at least 1,049,378"):
            await store.append("web-1", drafts(b"1"), expected=0)
        with pytest.raises(StoreError, match="Make room"):
            SqliteReader(path, CODEC)
        place[1] = 1 << 30
        await store.append("web-1", drafts(b"1"), expected=0)
        assert verify(store.reader()).good == 2


async def test_a_full_disk_in_the_middle_of_a_commit(path: Path, monkeypatch: pytest.MonkeyPatch):
    """Nothing of it stands, the caller knows, and with room again the same store goes on."""

    def full(*_: object) -> None:
        raise apsw.FullError("database or disk is full")

    async with SqliteStore(path, CODEC) as store:
        await store.append("web-1", drafts(b"0"), expected=-1)
        with monkeypatch.context() as patch:
            patch.setattr(store._writer._committer, "_write", full)
            with pytest.raises(Rejected, match="the disk is full; make room"):
                await store.append("web-1", drafts(b"1"), expected=0)
        await store.append("web-1", drafts(b"1"), expected=0)
        assert verify(store.reader()).good == 2


async def test_a_foreign_write_is_noticed(path: Path):
    """Another program that appends, against the rules, is caught up with; one that takes records away is not."""
    async with SqliteStore(path, CODEC) as store:
        await store.append("web-1", drafts(b"0", b"1"), expected=-1)
        other = apsw.Connection(str(path))
        other.execute("VACUUM")
        await store.append("web-1", drafts(b"2"), expected=1)
        other.execute("DROP TRIGGER records_are_never_deleted")
        other.execute("DELETE FROM records WHERE position = 3")
        other.close()
        with pytest.raises(Corrupt, match="ended at position 3 and now ends at 2: records are gone"):
            await store.append("web-1", drafts(b"3"), expected=2)
    with pytest.raises(Corrupt, match=r"ends at position 2, but vm\.db-head says that 3 was acknowledged"):
        async with SqliteStore(path, CODEC):
            pass
    assert not [thread for thread in threading.enumerate() if "vm.db" in thread.name]


async def test_a_log_has_one_writer_by_whatever_name(path: Path):
    """Named by a symbolic link, it has its other files where the log is: one lock, one head, one WAL."""
    link = path.with_name("link.db")
    os.symlink(path, link)
    async with SqliteStore(link, CODEC) as store, SqliteStore(path, CODEC) as other:
        await store.append("web-1", drafts(b"0"), expected=-1)
        with pytest.raises(Rejected, match="one at a time"):
            await other.append("web-1", drafts(b"1"), expected=0)
        os.unlink(f"{path}-wal")
        await store.append("web-1", drafts(b"1"), expected=0)
        assert verify(other.reader()).good == 2
    assert sorted(os.listdir(path.parent)) == ["link.db", "vm.db", "vm.db-head"]


# -- one connection writes and folds ---------------------------------------------------------------------------------


async def test_a_reader_cannot_write_and_never_folds(path: Path, tmp_path: Path):
    """Its connection is query-only, checkpoints by itself neither while it reads nor as the last one that closes."""
    async with SqliteStore(path, CODEC) as store:
        for n in range(20):
            await store.append("web-1", drafts(b"x" * 4000), expected=n - 1)
        left = copy(path, tmp_path / "crash")
    before = os.stat(f"{left}-wal").st_size
    with SqliteReader(left, CODEC) as reader:
        assert reader._connection is not None
        assert reader._connection.pragma("query_only") == 1
        assert reader._connection.pragma("wal_autocheckpoint") == 0
        assert reader.head() == 20
        with pytest.raises(apsw.ReadOnlyError):
            reader._connection.execute("PRAGMA user_version = 7")
    assert os.stat(f"{left}-wal").st_size == before > 0


async def test_a_setting_that_sqlite_does_not_take_refuses_to_start(path: Path, monkeypatch: pytest.MonkeyPatch):
    """WAL and synchronous are read back: what is not in force is not promised."""
    real = schema.fetch

    def forgetful(connection: apsw.Connection, statement: str, *bindings: object) -> list[object]:
        return [(1,)] if statement == "PRAGMA synchronous" else real(connection, statement, *bindings)

    monkeypatch.setattr(schema, "fetch", forgetful)
    with pytest.raises(StoreError, match="SQLite did not take synchronous=FULL"):
        async with SqliteStore(path, CODEC):
            pass


def _descriptors(path: Path) -> list[Path]:
    """Where this process still has a removed file open."""
    return [fd for fd in Path("/proc/self/fd").iterdir() if fd.is_symlink() and os.readlink(fd) == f"{path} (deleted)"]


async def test_an_unlinked_log_can_be_copied_back(path: Path):
    """What is open is the last copy: it is kept, the message says where, and put back the store goes on with it."""
    async with SqliteStore(path, CODEC) as store:
        for n in range(3):
            await store.append("web-1", drafts(b"%d" % n), expected=n - 1)
        await anyio.to_thread.run_sync(os.unlink, path)
        batch = drafts(b"3")
        for _ in range(2):
            with pytest.raises((Unknown, Rejected), match=rf"is gone.*ls -l /proc/{os.getpid()}/fd"):
                await store.append("web-1", batch, expected=2)
        await anyio.to_thread.run_sync(shutil.copyfile, _descriptors(path)[0], path)
        [record] = await store.append("web-1", batch, expected=2)
        assert record.position == 4
        assert verify(store.reader()).good == 4


async def test_a_copy_put_under_a_running_store_is_checked_whole(path: Path, tmp_path: Path):
    """A copy with a record edited, and the WAL of the log itself: end and head fit, but it is not written on."""
    copied = tmp_path / "copy.db"
    async with SqliteStore(path, CODEC) as store:
        for n in range(200):
            await store.append("web-1", drafts(b"event %03d, and a lot about it " % n * 30), expected=n - 1)
        store._writer._committer._live().wal_checkpoint(mode=apsw.SQLITE_CHECKPOINT_TRUNCATE)
        await anyio.to_thread.run_sync(shutil.copy, path, copied)  # in a test: it drops our locks, and nobody else's
        data = copied.read_bytes()
        assert data.count(b"event 007") == 30
        copied.write_bytes(data.replace(b"event 007", b"Event 007"))
        await store.append("web-1", drafts(b"x"), expected=199)
        await anyio.to_thread.run_sync(os.replace, copied, path)
        for _ in range(2):
            with pytest.raises((Unknown, Rejected, Corrupt), match="was replaced while it was open, and position 8"):
                await store.append("web-1", drafts(b"y"), expected=200)


async def test_a_damaged_index_gives_no_revision_twice(path: Path):
    """No hash covers the index by which a stream's end is found; so a writer checks that it leads to every record."""
    async with SqliteStore(path, CODEC) as store:
        for n in range(5):
            await store.append("web-1", drafts(b"x"), expected=n - 1)
    await anyio.to_thread.run_sync(_shorten_the_index, path)
    async with SqliteStore(path, CODEC) as store:
        with pytest.raises(Corrupt, match="its index leads to 4 records, but 5 are there"):
            await store.append("web-1", drafts(b"y"), expected=3)
        assert "the database file is damaged" in str(verify(store.reader()).fault)


def _shorten_the_index(path: Path) -> None:
    other = apsw.Connection(str(path))
    [(root,)] = other.execute("SELECT rootpage FROM sqlite_schema WHERE name = 'sqlite_autoindex_records_1'").fetchall()
    [(size,)] = other.execute("PRAGMA page_size").fetchall()
    other.close()
    data = bytearray(path.read_bytes())
    start = (root - 1) * size
    data[start + 4] -= 1  # one cell fewer in the header of the index's only page
    assert data[start + 3 : start + 5] == b"\0\4"
    path.write_bytes(data)


def test_a_writer_that_has_not_said_its_name_yet_is_waited_for(tmp_path: Path):
    """Between its lock and its name lies a moment; who is refused in it is told the name all the same."""
    path = head_path(tmp_path / "vm.db")
    path.write_bytes(b"")
    (tmp_path / "vm.db").write_bytes(b"")
    holder = os.open(path, os.O_RDWR)
    fcntl.flock(holder, fcntl.LOCK_EX)
    late = threading.Timer(0.03, os.pwrite, (holder, b"process 4711 (vmm)\n", 8192))
    late.start()
    try:
        with pytest.raises(Rejected, match=r"has its writer, process 4711 \(vmm\)"):
            HeadFile(tmp_path / "vm.db").claim(fresh=True)
    finally:
        late.join()
        os.close(holder)
