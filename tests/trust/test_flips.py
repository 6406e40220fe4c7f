"""One flipped bit, anywhere in a log's files: what it changes is seen, and what is not seen changes nothing.

In the database file every byte gets its turn. In the WAL, a flipped bit makes SQLite drop what was committed behind it
without an error, so what is left is a shorter log with a chain that holds: only the head file can tell. The control
takes the head file away and must then miss most of it.
"""

from __future__ import annotations

import os
import random
import shutil
import tempfile
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import anyio
import apsw
import pytest
from scale import LEVEL, pick, repeat, seed

from esrm.errors import Corrupt, StoreError
from esrm.stores.chain import verify
from esrm.stores.sqlite import SqliteReader, SqliteStore
from esrm.testing import BytesCodec, drafts

PARTS = 2
WAL_FLIPS = pick(quick=300, ci=40_000, soak=400_000) // PARTS
HEAD_FLIPS = pick(quick=100, ci=2000, soak=20_000)
AS_WRITER = 100  # every so many-th flip is also opened by a writer, which takes ten times as long
VMS = "vm-0", "vm-1"
CODEC = BytesCodec()

Contents = tuple[Any, ...]


@pytest.fixture
def folder() -> Iterator[Path]:
    """A place in memory if there is one: the files are written anew for each flip."""
    with tempfile.TemporaryDirectory(dir="/dev/shm" if os.access("/dev/shm", os.W_OK) else None) as place:
        yield Path(place)


def begin(path: Path) -> None:
    """Make a blank database with pages of 1 KiB, a quarter of the usual: fewer bytes to flip, and deeper trees."""
    with closing(apsw.Connection(str(path))) as connection:
        for statement in ("page_size = 1024", "user_version = 1", "user_version = 0"):
            connection.execute(f"PRAGMA {statement}")


async def grow(path: Path, turns: int, *, copied_to: Path | None = None) -> list[tuple[Any, ...]]:
    """Append so many batches of one and two records; copy the log's files before it is closed, if asked to."""
    async with SqliteStore(path, CODEC) as store:
        for turn in range(turns):
            vm = VMS[turn % 2]
            end = await store.stream(vm)
            batch = drafts(*[b'{"turn": %d}' % turn] * (1 + turn % 2), actor="me", correlation=f"turn {turn}")
            await store.append(vm, batch, expected=end.revision if end else -1)
        if copied_to is not None:
            for suffix in ("", "-wal", "-head"):
                shutil.copy(f"{path}{suffix}", f"{copied_to}{suffix}")
        return await store.ask(lambda reader: list(reader.rows()))


def contents(reader: SqliteReader[bytes]) -> Contents:
    """Everything in a log, by every way there is to it: by position, by stream and revision, by the streams' ends."""
    return list(reader.rows()), [list(reader.rows(vm)) for vm in VMS], reader.streams()


def look(path: Path) -> tuple[bool, Contents | None]:
    """Whether opening or ``verify`` sees that something is wrong, and what is read if they do not."""
    try:
        with SqliteReader(path, CODEC) as reader:
            if verify(reader).ok:
                return False, contents(reader)
    except (Corrupt, StoreError):
        pass
    return True, None


@pytest.mark.timeout(3600)
@pytest.mark.parametrize("part", range(PARTS))
def test_every_byte_of_a_log(folder: Path, part: int, record_property: Callable[[str, object], None]):
    """One bit of each byte (in a soak each bit) of a closed log: seen, or everything reads as it was written."""
    path = folder / "vm.db"
    begin(path)
    anyio.run(grow, path, 10)
    _, good = look(path)
    assert good is not None
    whole, counts = path.read_bytes(), Counter[str]()
    step = pick(quick=61, ci=1, soak=1)
    file = os.open(path, os.O_RDWR)
    try:
        for offset in range(part * step, len(whole), PARTS * step):
            dice = random.Random(seed() + offset)
            for bit in range(8) if LEVEL == "soak" else [dice.randrange(8)]:
                os.pwrite(file, bytes([whole[offset] ^ 1 << bit]), offset)
                try:
                    seen, found = look(path)
                    assert seen or found == good, f"bit {bit} of byte {offset} changed what is read, and nobody said so"
                except BaseException as error:
                    error.add_note(f"at bit {bit} of byte {offset}, page {offset // 1024 + 1}")
                    error.add_note(repeat(seed(), f"tests/trust/test_flips.py::test_every_byte_of_a_log[{part}]"))
                    raise
                counts["seen" if seen else "harmless"] += 1
                os.pwrite(file, whole[offset : offset + 1], offset)
    finally:
        os.close(file)
    assert path.read_bytes() == whole, "reading changed the file"
    assert min(counts["seen"], counts["harmless"]) > counts.total() // 20, f"this was no test: {counts}"
    record_property(
        "trust", f"flips of the log, part {part}: {counts.total():,}, {counts['seen']:,} seen, the rest harmless"
    )


class Copies:
    """The files of a log that was not closed, its last records still in the WAL, to flip bits in."""

    def __init__(self, folder: Path) -> None:
        self.path = folder / "copy.db"
        begin(folder / "vm.db")
        anyio.run(grow, folder / "vm.db", 4)
        self.rows = anyio.run(lambda: grow(folder / "vm.db", 6, copied_to=self.path))
        self.files = {suffix: self.at(suffix).read_bytes() for suffix in ("", "-wal", "-head")}

    def at(self, suffix: str) -> Path:
        """One of the log's files."""
        return Path(f"{self.path}{suffix}")

    def put_back(self) -> None:
        """Write all of them anew."""
        self.at("-shm").unlink(missing_ok=True)
        for suffix, data in self.files.items():
            self.at(suffix).write_bytes(data)

    def unchanged(self) -> bool:
        """Whether they are still, or again, what they were."""
        return all(self.at(suffix).read_bytes() == data for suffix, data in self.files.items())

    @contextmanager
    def flipped(self, suffix: str, dice: random.Random) -> Iterator[str]:
        """One of them with any one bit flipped, for a moment; where that is."""
        data, bit = self.files[suffix], dice.randrange(8)
        offset = dice.randrange(len(data))
        file = os.open(self.at(suffix), os.O_RDWR)
        try:
            os.pwrite(file, bytes([data[offset] ^ 1 << bit]), offset)
            yield f"bit {bit} of byte {offset} of vm.db{suffix}"
        finally:
            os.pwrite(file, data[offset : offset + 1], offset)
            os.close(file)

    def intact(self) -> Contents:
        """What is read when nothing is flipped."""
        seen, found = look(self.path)
        assert not seen
        assert found is not None
        assert found[0] == self.rows, "the copy lacks what was acknowledged"
        return found


async def write(path: Path) -> list[tuple[Any, ...]]:
    """Open the log to write, and append once: the rows before that, as the writer found them."""
    async with SqliteStore(path, CODEC) as store:
        rows = await store.ask(lambda reader: list(reader.rows()))
        end = await store.stream("vm-0")
        await store.append("vm-0", drafts(b"{}"), expected=end.revision if end else -1)
        return rows


def flip_and_look(copies: Copies, suffix: str, dice: random.Random, count: int, test: str) -> Counter[str]:
    """Flip so many bits of one file, one at a time: what is not seen may have lost nothing."""
    counts, good = Counter[str](), copies.intact()
    for number in range(count):
        with copies.flipped(suffix, dice) as where:
            try:
                seen, found = look(copies.path)
                assert seen or found == good, "records that were acknowledged are gone or changed, and nobody said so"
                counts["seen" if seen else "harmless"] += 1
                if number % AS_WRITER == 0:
                    try:
                        assert anyio.run(write, copies.path) == copies.rows, "a writer went on from less"
                    except (Corrupt, StoreError):
                        assert seen, "a writer refuses what a reader finds whole"
            except BaseException as error:
                error.add_note(f"at {where}")
                error.add_note(repeat(seed(), f"tests/trust/test_flips.py::{test}"))
                raise
        if number % AS_WRITER == 0:
            copies.put_back()
    assert copies.unchanged(), "reading changed a file"
    return counts


@pytest.mark.timeout(3600)
@pytest.mark.parametrize("part", range(PARTS))
def test_the_wal(folder: Path, part: int, record_property: Callable[[str, object], None]):
    """Any bit of the WAL: every flip that loses or changes an acknowledged record is seen, by readers and writers."""
    counts = flip_and_look(Copies(folder), "-wal", random.Random(2 * seed() + part), WAL_FLIPS, f"test_the_wal[{part}]")
    assert counts["seen"] > counts.total() // 2, f"this was no test: {counts}"
    record_property(
        "trust", f"flips of the WAL, part {part}: {counts.total():,}, {counts['seen']:,} seen, the rest harmless"
    )


def test_the_head_file(folder: Path):
    """Any bit of the head file: one slot is then damaged, the other one stands, and no record is in danger."""
    counts = flip_and_look(Copies(folder), "-head", random.Random(seed()), HEAD_FLIPS, "test_the_head_file")
    assert counts["seen"] == 0, f"a log that is whole is refused for a slot of its head file: {counts}"


def test_the_chain_alone_would_not_see_it(folder: Path):
    """The control: without the head file most flips of the WAL make a shorter log, and nothing says so."""
    copies, dice, unseen = Copies(folder), random.Random(seed()), 0
    copies.at("-head").unlink()
    for _ in range(100):
        with copies.flipped("-wal", dice):
            seen, found = look(copies.path)
            unseen += not seen and found is not None and len(found[0]) < len(copies.rows)
    assert unseen > 50, "this set-up cannot see what the head file is for"
