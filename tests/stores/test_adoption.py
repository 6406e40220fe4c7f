"""What accepting a log would mean: how many acknowledged records it lacks, and whether there is anything to accept."""

from __future__ import annotations

import errno
from pathlib import Path

import msgspec
import pytest

from esrm.errors import Conflict, StoreError
from esrm.stores.sqlite import SqliteReader, SqliteStore, heads
from esrm.stores.sqlite.doctor.adoption import Proposal, adopt, propose
from esrm.stores.sqlite.heads import Slot, empty, head_path, read_head
from esrm.testing import BytesCodec, drafts

CODEC = BytesCodec()


def slot(position: int) -> Slot:
    """A head at that position."""
    return Slot(position, bytes(32), bytes(32), "FULL", "commit")


@pytest.mark.parametrize(
    ("there", "said", "changed", "lost", "needed"),
    [
        (5, 5, False, 0, False),
        (5, 3, False, 0, False),  # the log may go on behind its head
        (3, 5, False, 2, True),
        (4, 5, False, 1, True),
        (0, 5, False, 5, True),
        (5, 5, True, 0, True),
        (0, 0, False, 0, False),
        (5, None, False, 0, True),
        (1, None, False, 0, True),
        (0, None, False, 0, False),  # an empty log needs no head file
    ],
)
def test_what_is_lost_and_whether_it_is_needed(there: int, said: int | None, changed: bool, lost: int, needed: bool):
    """Records that were acknowledged and are not there are lost; writing is refused for that, or for another record."""
    proposal = Proposal(slot(there), None if said is None else slot(said), 0, changed)
    assert (proposal.lost, proposal.needed) == (lost, needed)


def files(folder: Path) -> set[str]:
    """What lies there."""
    return {path.name for path in folder.iterdir()}


async def log(path: Path, records: int) -> None:
    """A log of so many records."""
    async with SqliteStore(path, CODEC) as store:
        for number in range(records):
            await store.append("web-1", drafts(b"x"), expected=number - 1)


async def test_a_sound_log_needs_nothing(tmp_path: Path):
    """Its head is proposed as it stands."""
    path = tmp_path / "vm.db"
    await log(path, 3)
    with SqliteReader(path, CODEC) as reader:
        proposal = propose(reader, path)
    assert (proposal.lost, proposal.needed, proposal.damaged, proposal.changed) == (0, False, 0, False)
    assert proposal.old is not None
    assert proposal.head.anchor == proposal.old.anchor


async def test_a_head_of_no_records_contradicts_none(tmp_path: Path):
    """It was anchored before the first append, and the log went on: that needs no acceptance."""
    path = tmp_path / "vm.db"
    await log(path, 2)
    head_path(path).write_bytes(empty("FULL", "commit").render())
    with SqliteReader(path, CODEC) as reader:
        proposal = propose(reader, path)
    assert (proposal.lost, proposal.needed, proposal.changed) == (0, False, False)
    assert proposal.head.position == 2


@pytest.mark.parametrize("found", [None, b"?" * 512])
async def test_a_disk_that_fails_while_accepting_leaves_all_as_it_was(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, found: bytes | None
):
    """A head file that was made for this is gone, one that was put aside is back, and nobody holds the lock."""
    path = tmp_path / "vm.db"
    await log(path, 2)
    head_path(path).unlink()
    if found is not None:
        head_path(path).write_bytes(found)
    before = files(tmp_path)
    with SqliteReader(path, CODEC) as reader:
        proposal = propose(reader, path)

    def fail(_: int) -> None:
        raise OSError(errno.EIO, "Input/output error")

    with monkeypatch.context() as patch:
        patch.setattr(heads, "fdatasync", fail)
        with pytest.raises(StoreError, match=r"vm\.db-head: Input/output error; nothing was accepted"):
            adopt(path, proposal)
    assert files(tmp_path) == before
    assert found is None or head_path(path).read_bytes() == found
    adopt(path, proposal)
    assert files(tmp_path) == before | {"vm.db-head"} | ({"vm.db-head-damaged"} if found else set())
    await log_on(path, 2)


async def test_a_head_that_says_more_is_put_right(tmp_path: Path):
    """What is accepted is what is there: afterwards the log can be written again, from its own end."""
    path = tmp_path / "vm.db"
    await log(path, 3)
    head = head_path(path)
    true = read_head(head)
    assert true is not None
    for old in (msgspec.structs.replace(true, position=5, counter=9), msgspec.structs.replace(true, hash=b"x" * 32)):
        head.write_bytes(old.render())
        with SqliteReader(path, CODEC) as reader:
            proposal = propose(reader, path)
        assert (proposal.lost, proposal.needed, proposal.old) == (max(0, old.position - 3), True, old)
        adopt(path, proposal)
        assert files(tmp_path) == {"vm.db", "vm.db-head"}, "the WAL was folded back, and closed"
        found = read_head(head)
        assert found is not None
        assert found.anchor == true.anchor
    await log_on(path, 3)


async def log_on(path: Path, end: int) -> None:
    """One record more."""
    async with SqliteStore(path, CODEC) as store:
        [record] = await store.append("web-1", drafts(b"y"), expected=end - 1)
        assert record.position == end + 1


async def test_a_log_that_has_grown_is_looked_at_again(tmp_path: Path):
    """Between the question and the answer somebody appended: nothing is accepted, nothing written."""
    path = tmp_path / "vm.db"
    await log(path, 2)
    with SqliteReader(path, CODEC) as reader:
        proposal = propose(reader, path)
    await log_on(path, 2)
    before = head_path(path).read_bytes()
    with pytest.raises(Conflict, match="was written to meanwhile: look again"):
        adopt(path, proposal)
    assert head_path(path).read_bytes()[:4608] == before[:4608]
    head_path(path).unlink()
    with pytest.raises(Conflict, match="was written to meanwhile: look again"):
        adopt(path, msgspec.structs.replace(proposal, old=None))
    assert "vm.db-head" not in files(tmp_path), "a head file that was made for this is gone again"


async def test_a_log_that_is_gone_is_not_made_anew(tmp_path: Path):
    """It was there when it was looked at; nothing stands in its place afterwards, and no head file without a log."""
    path = tmp_path / "vm.db"
    await log(path, 2)
    with SqliteReader(path, CODEC) as reader:
        proposal = propose(reader, path)
    path.rename(tmp_path / "elsewhere")
    head_path(path).unlink()
    with pytest.raises(StoreError):
        adopt(path, msgspec.structs.replace(proposal, old=None))
    assert files(tmp_path) == {"elsewhere"}
