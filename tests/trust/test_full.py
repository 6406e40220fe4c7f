"""Real disks that are full, read-only or dead: nothing acknowledged is lost, and the message says what to do.

Nothing is injected here: file systems in images are filled, and broken, under a store that is at work.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import anyio
import pytest
from mounts import disk

from esrm.errors import Rejected, StoreError, Unknown
from esrm.stores.base import Record, verify
from esrm.stores.sqlite import SqliteReader, SqliteStore
from esrm.testing import BytesCodec, drafts

CODEC = BytesCodec()


def test_a_disk_fills_up_and_has_room_again(tmp_path: Path):
    """Appends go on until the disk is full, are turned away with the reason, and go on in the same store with room."""

    async def main(path: Path) -> None:
        async with SqliteStore(path, CODEC) as store:
            stands: list[Record[bytes]] = []
            first = drafts(*[b"x" * 4000] * 20)
            stands += await store.append("web-1", first, expected=-1)
            filler = await anyio.to_thread.run_sync(here.fill, 300_000)
            refusals = list[str]()
            while len(refusals) < 5:
                batch = drafts(*[b"y" * 4000] * 20)
                try:
                    stands += await store.append("web-1", batch, expected=len(stands) - 1)
                except (Rejected, Unknown) as error:
                    refusals.append(f"{type(error).__name__}: {error}")
            assert all("the disk is full; make room and try again" in words for words in refusals), refusals
            assert [record.position for record in await store.read_all()] == [r.position for r in stands]
            filler.unlink()
            stands += await store.append("web-1", batch, expected=len(stands) - 1)
            assert len(refusals) == 5
            assert await store.read_all(limit=10_000) == stands
            assert verify(store.reader()).good == len(stands)
        with SqliteReader(path, CODEC) as reader:
            assert verify(reader).good == len(stands)

    with disk(tmp_path, "ext4", "-b", "4096", "-m", "0", megabytes=16) as here:
        anyio.run(main, here.place / "vm.db")


@pytest.mark.parametrize("harm", ["read-only", "dead"])
def test_a_disk_fails_under_a_store(tmp_path: Path, harm: str):
    """The kernel turns it read-only after an error, or it answers nothing but EIO: appends are turned away or unknown,
    and when the file system is mounted again, all that was acknowledged is there, and the rest is as was said.
    """

    async def main(path: Path) -> None:
        async with SqliteStore(path, CODEC) as store:
            for n in range(5):
                await store.append("web-1", drafts(b"%d" % n), expected=n - 1)
            await anyio.to_thread.run_sync(here.turn_read_only if harm == "read-only" else here.shut_down)
            for n in range(3):
                try:
                    await store.append(f"later-{n}", drafts(b"x"), expected=-1)
                except (Rejected, Unknown) as error:
                    answers.append(error)

    answers: list[StoreError] = []
    with disk(tmp_path, "ext4", megabytes=16) as here:
        path = here.place / "vm.db"
        anyio.run(main, path)
        here.unmount()
        here.mount()
        with SqliteReader(path, CODEC) as reader:
            assert verify(reader).good >= 5
            assert [record.event for record in reader.read("web-1")] == [b"%d" % n for n in range(5)]
            for n, answer in enumerate(answers):
                assert isinstance(answer, Unknown) or reader.stream(f"later-{n}") is None
    assert len(answers) == 3
    assert all("vm.db" in str(answer) for answer in answers)


CHILD = """
import os, sys
import anyio
from esrm.stores.sqlite import SqliteStore, schema
from esrm.testing import BytesCodec, drafts

path, look, leave = sys.argv[1:]
if not int(look):
    schema.ROOM_BYTES = 0

async def main():
    async with SqliteStore(path, BytesCodec()) as store:
        print(await store.head(), flush=True)
        if leave == "leave":
            for n in range(400):
                await store.append("web-1", drafts(b"x" * 100), expected=n - 1)
            os.kill(os.getpid(), 9)

anyio.run(main)
"""


def _child(path: Path, *, look: bool, leave: str = "") -> subprocess.CompletedProcess[str]:
    arguments = [sys.executable, "-c", CHILD, str(path), str(int(look)), leave]
    return subprocess.run(arguments, capture_output=True, text=True, check=False)


def test_small_blocks_on_a_full_disk_would_kill(tmp_path: Path):
    """On a full file system with blocks of 1 KiB, SQLite's index of the WAL is killed by SIGBUS: we look before we
    open, say how much room it takes, and with that room nothing is missing. Without looking, this test shows, we die.
    """
    with disk(tmp_path, "ext4", "-b", "1024", "-m", "0", "-O", "^has_journal", megabytes=8) as here:
        path = here.place / "vm.db"
        assert _child(path, look=True, leave="leave").returncode == -signal.SIGKILL
        os.unlink(f"{path}-shm")  # as after a restore: the WAL is there, and its index is made anew
        filler = here.fill(12_288)
        assert _child(path, look=False).returncode == -signal.SIGBUS
        told = _child(path, look=True)
        assert told.returncode == 1
        assert "in blocks of 1,024: SQLite's index of the WAL could then end this process (SIGBUS)" in told.stderr
        with pytest.raises(StoreError, match="Make room, at least 1,048,576 bytes"):
            SqliteReader(path, CODEC)
        filler.unlink()
        assert _child(path, look=True).stdout == "400\n"
        with SqliteReader(path, CODEC) as reader:
            assert verify(reader).good == 400
