"""The head of the log, written down outside of it, before anybody hears that an append stands.

One flipped bit in SQLite's WAL makes it drop committed transactions without an error, and a chain of hashes cannot see
its own end missing. So the last acknowledged position, the hash of the record there, and a running hash over all
records up to it are kept in a small file of their own, ``vm.db-head``. It decides what a log must at least hold when it
is opened again, and who may write to the log: whoever holds the lock on this file.

Two slots of 512 bytes, in sectors of their own, are written in turn and flushed: while one is being written, the other
one stands. A slot is plain text, so that ``head -c 512 vm.db-head`` shows it; its last line is the SHA-256 of the lines
before. Behind the slots stands who writes, which is a hint for messages only: the lock is what counts.

It is a ``flock``, which the kernel drops with the process, however that ends; SQLite's own locks are of another kind
and on other files. Next: ``committer.py``, which writes a slot at each commit.
"""

from __future__ import annotations

import errno
import fcntl
import os
import re
import sys
import time
from contextlib import suppress
from hashlib import sha256
from os import fdatasync, pwrite  # by these names, so that the crash tests can stand between us and the disk
from pathlib import Path
from weakref import WeakSet

import msgspec

from esrm.errors import Corrupt, Rejected, StoreError
from esrm.stores.chain import GENESIS, Anchor
from esrm.stores.records import iso

SLOT_BYTES = 512
SLOTS = 0, 4096  # where they begin: apart by the largest sector that disks have
_WRITER = 8192
_SIZE = _WRITER + SLOT_BYTES
_COUNTER_MAX = 2**62  # far beyond what is ever written, and what follows it has no more digits
_SLOT = re.compile(
    rb"esrm head 1\ncounter (\d{1,19})\nposition (\d{1,19})\nhash ([0-9a-f]{64})\nlog ([0-9a-f]{64})\n"
    rb"synchronous ([A-Z]{1,16})\nanchored ([a-z]{1,16})\nsha256 [0-9a-f]{64}\n *\n"
)


class Slot(msgspec.Struct, frozen=True):
    """What one slot says.

    Attributes:
        position: the last position that is known to stand; 0 for an empty log.
        hash: the hash of the record there; zeros for an empty log.
        log: the running hash over all records up to there; see ``chain.extend``.
        synchronous: what SQLite was told to wait for when these records were committed.
        anchored: how often the head is written: at each ``commit``, each ``second``, or when the WAL is ``folded``.
        counter: how many slots were written before; the higher one of two counts.
    """

    position: int
    hash: bytes
    log: bytes
    synchronous: str
    anchored: str
    counter: int = 0

    @property
    def anchor(self) -> Anchor:
        """What ``verify`` compares a log with."""
        return Anchor(self.position, self.hash, self.log)

    def render(self) -> bytes:
        """Return the 512 bytes that say this."""
        lines = (
            f"esrm head 1\ncounter {self.counter}\nposition {self.position}\nhash {self.hash.hex()}\n"
            f"log {self.log.hex()}\nsynchronous {self.synchronous}\nanchored {self.anchored}\n"
        ).encode()
        return (lines + b"sha256 " + sha256(lines).hexdigest().encode() + b"\n").ljust(SLOT_BYTES - 1) + b"\n"


def parse(data: bytes) -> Slot | None:
    """Return what a slot's bytes say; None if they are not, to the last bit, what ``render`` writes."""
    match = _SLOT.fullmatch(data)
    if match is None:
        return None
    counter, position, hash, log, synchronous, anchored = (group.decode() for group in match.groups())
    slot = Slot(int(position), bytes.fromhex(hash), bytes.fromhex(log), synchronous, anchored, int(counter))
    return slot if slot.counter <= _COUNTER_MAX and slot.render() == data else None


def head_path(log: Path) -> Path:
    """Return where the head of a log is kept."""
    return Path(f"{log}-head")


def read_slots(path: Path) -> tuple[list[Slot], int]:
    """Return the slots of a head file that are whole, the newest first, and how many were written but are damaged.

    Raises:
        StoreError: there is a file and it cannot be read.
    """
    data = _read(path)
    cuts = [data[start : start + SLOT_BYTES] for start in SLOTS]
    whole = [slot for cut in cuts if (slot := parse(cut))]
    return sorted(whole, key=lambda slot: -slot.counter), sum(bool(cut.strip()) for cut in cuts) - len(whole)


def read_head(path: Path, *, fresh: bool = False) -> Slot | None:
    """Return the newest whole slot of a head file; None if there is no file, or nothing was ever written to it.

    Args:
        path: the head file.
        fresh: the log has no records, so the head file may be half made: zeros, torn slots, anything.

    Raises:
        Corrupt: something was written there, and no slot of it is whole. StoreError: it cannot be read, or is no head
            file, which a new log would overwrite.
    """
    whole, damaged = read_slots(path)
    if not whole and damaged and not fresh:
        raise Corrupt(f"{path} is damaged: neither of its slots is as it was written")
    if not whole and not _begun(_read(path)):
        raise StoreError(
            f"{path} is where the head of this log must be, and is no head file: move it away, or rename the log"
        )
    return whole[0] if whole else None


def _read(path: Path) -> bytes:
    """A byte more than a head file has, at most; nothing if there is none."""
    try:
        with path.open("rb") as file:
            return file.read(_SIZE + 1)
    except (FileNotFoundError, NotADirectoryError):
        return b""
    except OSError as error:
        raise StoreError(f"{path}: {error.strerror}; check its permissions") from error


def _begun(data: bytes) -> bool:
    """Whether this may be a head file that was only half made when the power failed.

    Then it is blanks, pieces of slots, and perhaps the garbage that a disk leaves in a sector that it was writing. What
    is longer, is a database, or reads as somebody's text, is another file.
    """
    if len(data) > _SIZE or data.startswith(b"SQLite format 3\0"):
        return False
    if all(data[start : start + 12].strip(b"\0\n") in b"esrm head 1\n" for start in SLOTS):
        return True
    try:
        return not data.decode().replace("\n", "").isprintable()
    except UnicodeDecodeError:
        return True


class HeadFile:
    """The head file of a log whose only writer we are, once ``claim`` has returned.

    Attributes:
        slot: what was last written and flushed; None for nothing.
    """

    def __init__(self, log: Path) -> None:
        self._log, self._path = log, head_path(log)
        self._descriptor = -1
        self.slot: Slot | None = None

    @property
    def claimed(self) -> bool:
        """Whether the lock is ours."""
        return self._descriptor >= 0

    def claim(self, *, fresh: bool) -> None:
        """Take the lock, and read what stands.

        Args:
            fresh: the log has no records: the file is made if there is none, and may be half made.

        Raises:
            Rejected: another process, or another store of this one, holds the lock.
            FileNotFoundError, Corrupt, StoreError: it is missing, damaged, or cannot be locked or written here.
        """
        flags = os.O_RDWR | os.O_CLOEXEC | (os.O_CREAT if fresh else 0)
        try:
            self._descriptor = os.open(self._path, flags, os.stat(self._log).st_mode & 0o666)  # no easier to read
            fcntl.flock(self._descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            _OPEN.add(self)
            self.slot = read_head(self._path, fresh=fresh)
            who = f"process {os.getpid()} ({' '.join(sys.argv)[:200]}) since {iso(time.time_ns())}"
            os.pwrite(self._descriptor, _printable(who).encode()[: SLOT_BYTES - 1].ljust(SLOT_BYTES), _WRITER)
        except BlockingIOError as error:
            who = _named(self._descriptor)
            self.release()
            raise Rejected(
                f"{self._log.name} has its writer, {who}: a log has one at a time. "
                "Append there, stop it, or only read here"
            ) from error
        except FileNotFoundError:
            raise
        except OSError as error:
            self.release()
            raise StoreError(
                f"{self._path}: {error.strerror}; the log's writer must be able to write and lock it"
            ) from error
        except BaseException:
            self.release()
            raise

    @property
    def in_place(self) -> bool:
        """Whether the file that is locked is still the one that others find."""
        try:
            return os.path.samestat(os.fstat(self._descriptor), os.lstat(self._path))
        except OSError:
            return False

    def begin(self, slot: Slot) -> None:
        """Write both slots and flush them and the directory: from now on a log without this file is suspicious.

        Raises:
            OSError: from the disk.
        """
        first = msgspec.structs.replace(slot, counter=0 if self.slot is None else self.slot.counter + 1)
        pwrite(self._descriptor, b"\n" * _WRITER, 0)  # all of it, so that no later write needs room on the disk
        self._put(first)
        directory = os.open(self._path.parent, os.O_RDONLY | os.O_CLOEXEC)
        try:
            os.fsync(directory)
        finally:
            os.close(directory)

    def write(self, slot: Slot) -> None:
        """Write the slot that does not hold the newest words, and wait for the disk.

        Raises:
            OSError: from the disk. The other slot stands, and the same one is written next time.
        """
        self._put(msgspec.structs.replace(slot, counter=self.slot.counter + 1 if self.slot else 0))

    def release(self) -> None:
        """Let go of the lock; a second time does nothing."""
        descriptor, self._descriptor = self._descriptor, -1
        _OPEN.discard(self)
        if descriptor >= 0:
            with suppress(OSError):  # it is closed all the same
                os.close(descriptor)

    def _put(self, slot: Slot) -> None:
        if pwrite(self._descriptor, slot.render(), SLOTS[slot.counter % 2]) != SLOT_BYTES:
            raise OSError(errno.ENOSPC, "no room for the head of the log")
        fdatasync(self._descriptor)
        self.slot = slot


_OPEN: WeakSet[HeadFile] = WeakSet()


def _after_fork() -> None:
    """A child must not keep its parent's lock alive. (Closing a copy of the descriptor leaves the lock itself.)"""
    for file in list(_OPEN):
        file.release()


os.register_at_fork(after_in_child=_after_fork)


def empty(synchronous: str, anchored: str) -> Slot:
    """Return the head of a log without records."""
    return Slot(0, GENESIS, GENESIS, synchronous, anchored)


def _named(descriptor: int) -> str:
    """Who holds the lock. It says so a moment after it has the lock: worth waiting for, at most a fifth of a second."""
    for _ in range(40):
        with suppress(OSError):
            if name := os.pread(descriptor, SLOT_BYTES, _WRITER).decode(errors="replace").strip("\0\n "):
                return _printable(name)
        time.sleep(0.005)
    return "a process"


def _printable(text: str) -> str:
    return "".join(c if c.isprintable() else "?" for c in text)
