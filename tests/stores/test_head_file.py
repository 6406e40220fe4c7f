"""The head file by itself: how far its slots count, who has its lock, and that nothing of it stays open."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import msgspec
import pytest

from esrm.errors import Corrupt, Rejected, StoreError
from esrm.stores.sqlite import heads
from esrm.stores.sqlite.heads import SLOT_BYTES, SLOTS, HeadFile, Slot, empty, head_path, parse, read_head, read_slots

SLOT = Slot(5, b"h" * 32, b"l" * 32, "FULL", "commit")


@pytest.fixture
def log(tmp_path: Path) -> Path:
    """A file that may have a head: what is in it does not count here."""
    path = tmp_path / "vm.db"
    path.touch()
    return path


def descriptors(path: Path) -> int:
    """How many descriptors this process has open on a file or folder."""
    return sum(os.path.realpath(f"/proc/self/fd/{name}") == str(path) for name in os.listdir("/proc/self/fd"))


@pytest.mark.parametrize(("counter", "counts"), [(0, True), (2**62, True), (2**62 + 1, False), (10**19 - 1, False)])
def test_a_counter_that_leaves_no_room_to_count_on_is_damage(log: Path, counter: int, counts: bool):
    """Behind nineteen nines come twenty digits, which no slot has: so the next head would be lost on every reader."""
    slot = msgspec.structs.replace(SLOT, counter=counter)
    head_path(log).write_bytes(slot.render())
    assert parse(slot.render()) == (slot if counts else None)
    assert read_slots(head_path(log)) == (([slot], 0) if counts else ([], 1))


def test_slots_are_counted_from_nought_and_written_in_turn(log: Path):
    """Each write goes where the newest words are not; a beginning counts on from what it found."""
    file = HeadFile(log)
    file.claim(fresh=True)
    file.begin(empty("FULL", "commit"))
    for counter in (1, 2, 3):
        file.write(SLOT)
        whole, damaged = read_slots(head_path(log))
        assert ([slot.counter for slot in whole], damaged) == ([counter, counter - 1], 0)
        data = head_path(log).read_bytes()
        cuts = [parse(data[start : start + SLOT_BYTES]) for start in SLOTS]
        assert cuts[counter % 2] == whole[0] == file.slot == msgspec.structs.replace(SLOT, counter=counter)
    file.begin(SLOT)
    file.release()
    assert read_slots(head_path(log)) == ([msgspec.structs.replace(SLOT, counter=4)], 0)


def test_a_claim_that_fails_says_so_and_lets_go(log: Path):
    """A damaged head file is no head file, and whoever found it so does not keep the lock."""
    head_path(log).write_bytes(b"?" * SLOT_BYTES)
    file = HeadFile(log)
    with pytest.raises(Corrupt, match="neither of its slots"):
        file.claim(fresh=False)
    assert not file.claimed
    assert descriptors(head_path(log)) == 0
    with pytest.raises(FileNotFoundError):
        HeadFile(log.with_name("other.db")).claim(fresh=False)
    head_path(log).write_bytes(b"\n" * SLOT_BYTES + b"esrm he")
    file.claim(fresh=True)
    assert file.claimed
    file.release()
    file.release()
    assert not file.claimed


def test_a_head_file_is_in_place_until_it_is_moved(log: Path):
    """What is locked is what others find; a copy under its name is another file."""
    file = HeadFile(log)
    file.claim(fresh=True)
    assert file.in_place is True
    aside = head_path(log).rename(log.with_name("aside"))
    assert file.in_place is False
    head_path(log).write_bytes(aside.read_bytes())
    assert file.in_place is False
    aside.replace(head_path(log))
    assert file.in_place is True
    file.release()


def test_a_lock_that_is_held_is_refused_and_not_kept(log: Path):
    """The second one is told who has it, and gets it once the first has let go."""
    first, second = HeadFile(log), HeadFile(log)
    first.claim(fresh=True)
    with pytest.raises(Rejected, match=rf"vm\.db has its writer, process {os.getpid()} "):
        second.claim(fresh=True)
    assert not second.claimed
    assert descriptors(head_path(log)) == 1
    first.release()
    second.claim(fresh=True)
    second.release()
    assert descriptors(head_path(log)) == 0


def test_a_file_that_cannot_be_locked_is_named(log: Path, monkeypatch: pytest.MonkeyPatch):
    """A folder at its place, a file system without locks: said by its path, and nothing stays open."""
    head_path(log).mkdir()
    file = HeadFile(log)
    with pytest.raises(StoreError, match=r"vm\.db-head: Is a directory; the log's writer must be able to write"):
        file.claim(fresh=False)
    head_path(log).rmdir()

    def refused(*_: object) -> None:
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(heads.fcntl, "flock", refused)
    with pytest.raises(StoreError, match=r"vm\.db-head: No locks available; the log's writer must be able to write"):
        file.claim(fresh=True)
    assert not file.claimed
    assert descriptors(head_path(log)) == 0


def test_beginning_leaves_no_folder_open(log: Path):
    """It syncs the directory, and closes it again."""
    file = HeadFile(log)
    file.claim(fresh=True)
    before = descriptors(log.parent)
    file.begin(empty("FULL", "commit"))
    assert descriptors(log.parent) == before
    file.release()


def test_half_a_slot_is_no_slot(log: Path, monkeypatch: pytest.MonkeyPatch):
    """A disk without room writes less than it was asked to: an error, and the words before it stand."""
    file = HeadFile(log)
    file.claim(fresh=True)
    file.begin(empty("FULL", "commit"))
    monkeypatch.setattr(heads, "pwrite", lambda descriptor, data, start: os.pwrite(descriptor, data[:100], start))
    with pytest.raises(OSError, match="no room for the head of the log"):
        file.write(SLOT)
    file.release()
    assert read_head(head_path(log)) == file.slot == empty("FULL", "commit")
    assert read_slots(head_path(log))[1] == 1
