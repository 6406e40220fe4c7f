"""A disk in Python: it records what a store asks of it, fails when told to, and knows what a power cut may leave.

``Disk`` stands between SQLite and the file system as the default VFS, and between the store's own modules and the
system. ``Platter`` is the model of the medium: what was synced is there; of what was written since, anything may be.
Real syncs are left out while recording, since durability is modelled. Next: ``crashes.py``, which judges the images.

What the model grants to a power cut, at any point of a trace and for each file by itself (so that nothing written to
one file is ordered after what was written to another, except by syncs):

- each unsynced write arrived whole, in part (cut at any byte, or any of its 512-byte sectors), or not;
- one of them left garbage in a sector of its own bytes (SQLite counts on the bytes beside it: "powersafe overwrite");
- the file's new length arrived, and its bytes did not (zeros);
- unsynced truncations happened or did not;
- a file made since the folder was last synced is not there; one deleted since then is back;
- what a failed sync was to write is as open as before; or, on a disk that ``forgets``, it is in doubt for good, and no
  later sync writes it: Linux reports a failed write-back once, and takes the pages for written.
"""

from __future__ import annotations

import ctypes
import errno
import fcntl
import os
import random
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, TypeAlias

import apsw
import pytest

from esrm.stores.sqlite import heads, live, reader, schema

SECTOR = 512
FAILED = {
    "open": apsw.SQLITE_CANTOPEN,
    "read": apsw.SQLITE_IOERR_READ,
    "write": apsw.SQLITE_IOERR_WRITE,
    "grow": apsw.SQLITE_IOERR_WRITE,  # a write that makes its file longer
    "truncate": apsw.SQLITE_IOERR_TRUNCATE,
    "sync": apsw.SQLITE_IOERR_FSYNC,
    "delete": apsw.SQLITE_IOERR_DELETE,
    "look": apsw.SQLITE_IOERR_FSTAT,  # what lies at a path, how much room there is
    "lock": apsw.SQLITE_IOERR_LOCK,  # of the head file
    "close": apsw.SQLITE_IOERR_CLOSE,  # of the head file, or its folder; they are closed all the same
    "map": apsw.SQLITE_IOERR_SHMMAP,  # the index of a WAL, which lies in a file of its own that needs no syncs
}
"""The kinds of calls that can fail, and how SQLite calls it when they do."""

Op: TypeAlias = tuple[Any, ...]
"""One entry of a trace: (kind, file's name, ...), or ("note", anything) for what happened beside the disk."""
Image: TypeAlias = dict[str, bytes]
"""What a folder holds: the files' contents by their names."""
Fails: TypeAlias = Callable[[str, str], int]
"""Whether a call of a kind on a file fails: with this code of SQLite's; 0 if it does not."""


_MMAP = ctypes.CFUNCTYPE(
    ctypes.c_void_p, ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int, ctypes.c_int, ctypes.c_int, ctypes.c_long,
    use_errno=True,
)  # fmt: skip
_MAP_FAILED = ctypes.c_void_p(-1).value or 0
_mmap = _MMAP(("mmap", ctypes.CDLL(None, use_errno=True)))


class Disk(apsw.VFS):
    """While entered, the default VFS: everything is recorded in ``trace``, and ``fails`` is asked before each call.

    Args:
        dice: where SQLite's random numbers come from, such as the salt of a WAL.
        lies: whether a sync of the file of this name is to be ignored, while it says that it succeeded.
    """

    def __init__(self, dice: random.Random, *, lies: Callable[[str], bool] = lambda name: False) -> None:
        super().__init__("trust", base="unix", makedefault=True)
        apsw.randomness(0)  # forget the random numbers that are at hand: the next ones are ours
        self._dice = dice
        self.lies = lies
        self.trace: list[Op] = []
        self.fails: Fails = lambda kind, name: 0
        self.calls: list[tuple[str, str]] = []  # all that could have failed

    def __enter__(self) -> Disk:
        # SQLite maps shared memory without asking a VFS that is written in Python; but its own one can be told how.
        self._mmap = _MMAP(self._map)
        self.xSetSystemCall("mmap", ctypes.cast(self._mmap, ctypes.c_void_p).value)
        return self

    def __exit__(self, *_: object) -> None:
        self.xSetSystemCall("mmap", 0)
        apsw.set_default_vfs("unix")
        self.unregister()

    def note(self, *what: Any) -> None:
        """Record what happened beside the disk at this moment."""
        self.trace.append(("note", *what))

    def call(self, kind: str, name: str) -> int:
        """Count a call that is about to be made; the code it is to fail with, or 0."""
        self.calls.append((kind, name))
        return self.fails(kind, name)

    def call_os(self, kind: str, name: str) -> None:
        """The same for a system call: raise what it would."""
        if code := self.call(kind, name):
            number = errno.ENOSPC if code == apsw.SQLITE_FULL else errno.EIO
            raise OSError(number, os.strerror(number))

    def tap(self, patch: pytest.MonkeyPatch) -> None:
        """Stand between the store's own modules and the system, too."""
        system = _Os(self)
        for module in (heads, live, reader, schema):
            patch.setattr(module, "os", system)
        patch.setattr(heads, "fcntl", system)
        real = Path.open

        def opened(path: Path, *given: Any, **named: Any) -> Any:
            if path.name.endswith("-head"):
                self.call_os("open", path.name)
                self.call_os("read", path.name)
            return real(path, *given, **named)

        patch.setattr(Path, "open", opened)
        patch.setattr(heads, "pwrite", system.pwrite)
        patch.setattr(heads, "fdatasync", system.fdatasync)

    def wrote(self, name: str, offset: int, data: bytes) -> None:
        self.trace.append(("write", name, offset, data))

    def synced(self, name: str) -> None:
        if not self.lies(name):
            self.trace.append(("sync", name))

    def xOpen(self, name: Any, flags: list[int]) -> apsw.VFSFile:
        return _File(self, name, flags)

    def xRandomness(self, amount: int) -> bytes:
        return self._dice.randbytes(amount)

    def xDelete(self, path: str, sync_folder: bool) -> None:
        name = os.path.basename(path)
        if code := self.call("delete", name):
            raise apsw.exception_for(code)
        super().xDelete(path, sync_folder)
        self.trace.append(("delete", name))
        if sync_folder:
            self.trace.append(("folder",))

    def _map(self, address: int | None, length: int, protection: int, flags: int, file: int, offset: int) -> int:
        if self.call("map", _name_of(file)):
            ctypes.set_errno(errno.ENOMEM)
            return _MAP_FAILED
        return _mmap(address, length, protection, flags, file, offset)

    def excepthook(self, *_: object) -> None:
        """SQLite ignores some errors, and nobody need hear of those."""


class _File(apsw.VFSFile):
    def __init__(self, disk: Disk, name: Any, flags: list[int]) -> None:
        path = name.filename() if isinstance(name, apsw.URIFilename) else name
        self._disk, self._name = disk, os.path.basename(path) if path else ""
        # SQLite's own VFS does so at the first sync through each descriptor of a journal or WAL that it may make.
        makes = flags[0] & apsw.SQLITE_OPEN_CREATE
        self._sync_folder = bool(makes and flags[0] & (apsw.SQLITE_OPEN_WAL | apsw.SQLITE_OPEN_MAIN_JOURNAL))
        if path:
            if code := disk.call("open", self._name):
                raise apsw.exception_for(code)
            if makes and not os.path.exists(path):
                disk.trace.append(("create", self._name))
        super().__init__("unix", name, flags)

    def excepthook(self, *_: object) -> None:
        """As the disk's."""

    def xRead(self, amount: int, offset: int) -> bytes:
        if self._name and (code := self._disk.call("read", self._name)):
            raise apsw.exception_for(code)
        return super().xRead(amount, offset)

    def xWrite(self, data: bytes, offset: int) -> None:
        data = bytes(data)
        grows = offset + len(data) > self.xFileSize()
        code = self._disk.call("grow" if grows else "write", self._name) if self._name else 0
        if code:
            data = data[: len(data) // 2]  # as when the disk is full: as much as there was room for
        if data:
            super().xWrite(data, offset)
            if self._name:
                self._disk.wrote(self._name, offset, data)
        if code:
            raise apsw.exception_for(code)

    def xTruncate(self, size: int) -> None:
        if self._name and (code := self._disk.call("truncate", self._name)):
            raise apsw.exception_for(code)
        super().xTruncate(size)
        if self._name:
            self._disk.trace.append(("truncate", self._name, size))

    def xSync(self, flags: int) -> None:
        if not self._name:
            return
        if code := self._disk.call("sync", self._name):
            self._disk.trace.append(("sync failed", self._name))
            raise apsw.exception_for(code)
        self._disk.synced(self._name)
        if self._sync_folder:
            self._sync_folder = False
            self._disk.trace.append(("folder",))


class _Os:
    """``os`` and ``fcntl`` as the store's modules see them, through a disk; and what they call by name."""

    LOCK_EX, LOCK_NB = fcntl.LOCK_EX, fcntl.LOCK_NB

    def __init__(self, disk: Disk) -> None:
        self._disk = disk

    def __getattr__(self, name: str) -> Any:
        return getattr(os, name)

    def lstat(self, path: Any) -> os.stat_result:
        self._disk.call_os("look", os.path.basename(path))
        return os.lstat(path)

    def stat(self, path: Any) -> os.stat_result:
        self._disk.call_os("look", os.path.basename(path))
        return os.stat(path)

    def fstat(self, file: int) -> os.stat_result:
        self._disk.call_os("look", _name_of(file))
        return os.fstat(file)

    def statvfs(self, path: Any) -> os.statvfs_result:
        self._disk.call_os("look", os.path.basename(path))
        return os.statvfs(path)

    def flock(self, file: int, how: int) -> None:
        self._disk.call_os("lock", _name_of(file))
        fcntl.flock(file, how)

    def close(self, file: int) -> None:
        name = _name_of(file)
        os.close(file)
        self._disk.call_os("close", name)

    def open(self, path: Any, flags: int, *mode: int) -> int:
        name = os.path.basename(path)
        is_file = not flags & os.O_DIRECTORY and not os.path.isdir(path)
        if is_file:
            self._disk.call_os("open", name)
            if flags & os.O_CREAT and not os.path.exists(path):
                self._disk.trace.append(("create", name))
        return os.open(path, flags, *mode)

    def pwrite(self, file: int, data: bytes, offset: int) -> int:
        name = _name_of(file)
        try:
            self._disk.call_os("grow" if offset + len(data) > os.fstat(file).st_size else "write", name)
        except OSError:
            data = data[: len(data) // 2]
            os.pwrite(file, data, offset)
            self._disk.wrote(name, offset, data)
            raise
        self._disk.wrote(name, offset, data)
        return os.pwrite(file, data, offset)

    def fdatasync(self, file: int) -> None:
        name = _name_of(file)
        try:
            self._disk.call_os("sync", name)
        except OSError:
            self._disk.trace.append(("sync failed", name))
            raise
        self._disk.synced(name)

    def fsync(self, file: int) -> None:
        self._disk.call_os("sync", "")
        self._disk.trace.append(("folder",))  # heads.py syncs nothing else in this way


def _name_of(file: int) -> str:
    return os.path.basename(os.readlink(f"/proc/self/fd/{file}"))


class _Content:
    """One file: what is surely there, and what was done to it since; firm ones among those are surely done, too."""

    __slots__ = ("done", "linked", "sure")

    def __init__(self, sure: bytes, *, linked: bool) -> None:
        self.sure, self.linked = sure, linked
        self.done: list[list[Any]] = []  # [op, "open" | "firm" | "doubtful"]

    def sync(self) -> None:
        for entry in self.done:
            if entry[1] == "open":
                entry[1] = "firm"
        if not any(state == "doubtful" for _, state in self.done):
            self.sure, self.done = self.cached, []

    def forget(self) -> None:
        for entry in self.done:
            if entry[1] == "open":
                entry[1] = "doubtful"

    @property
    def cached(self) -> bytes:
        """What a reader sees before the power cut: everything."""
        if not self.done:
            return self.sure
        buffer = bytearray(self.sure)
        for op, _ in self.done:
            _do(buffer, op)
        return bytes(buffer)

    @property
    def firm(self) -> bytes:
        """Only what is surely there."""
        if not self.done:
            return self.sure
        buffer = bytearray(self.sure)
        for op, state in self.done:
            if state == "firm":
                _do(buffer, op)
        return bytes(buffer)

    def after(self, way: str, dice: random.Random) -> bytes:
        """What a power cut may leave, in one of the ways of ``WAYS``."""
        if not self.done:
            return self.sure
        buffer = bytearray(self.sure)
        recent: list[Op] = []
        share = dice.choice((0, 0.5, 1))
        for op, state in self.done:
            if state == "firm":
                _do(buffer, op)
            elif state == "doubtful":
                _sectors(buffer, op, dice, share)
            else:
                recent.append(op)
        if recent:
            _WAYS[way](buffer, recent, dice)
        return bytes(buffer)


def _do(buffer: bytearray, op: Op) -> None:
    if op[0] == "write":
        _, _, offset, data = op
        if len(buffer) < offset:
            buffer.extend(bytes(offset - len(buffer)))
        buffer[offset : offset + len(data)] = data
    else:
        _resize(buffer, op[2])


def _resize(buffer: bytearray, size: int) -> None:
    if size < len(buffer):
        del buffer[size:]
    else:
        buffer.extend(bytes(size - len(buffer)))


def _sectors(buffer: bytearray, op: Op, dice: random.Random, share: float) -> None:
    """Do some sectors of one write; do a truncation or not."""
    if op[0] != "write":
        if dice.random() < share:
            _do(buffer, op)
        return
    _, _, offset, data = op
    begin, end, chance = offset, offset + len(data), dice.random
    while begin < end:
        until = min((begin // SECTOR + 1) * SECTOR, end)
        if chance() < share:
            if len(buffer) < begin:
                buffer.extend(bytes(begin - len(buffer)))
            buffer[begin:until] = data[begin - offset : until - offset]
        begin = until


def _torn(buffer: bytearray, ops: list[Op], dice: random.Random) -> None:
    """In order up to a point, and a part of the one there."""
    cut = dice.randrange(len(ops))
    for op in ops[:cut]:
        _do(buffer, op)
    op = ops[cut]
    _do(buffer, (*op[:3], op[3][: dice.randrange(len(op[3]) + 1)]) if op[0] == "write" else op)


def _subset(buffer: bytearray, ops: list[Op], dice: random.Random) -> None:
    for op in ops:
        if dice.random() < 0.5:
            _do(buffer, op)


def _mixed(buffer: bytearray, ops: list[Op], dice: random.Random) -> None:
    share = dice.choice((0.2, 0.6, 0.95))
    for op in ops:
        _sectors(buffer, op, dice, share)


def _garbage(buffer: bytearray, ops: list[Op], dice: random.Random) -> None:
    """All arrived, but a sector of one is noise."""
    for op in ops:
        _do(buffer, op)
    writes = [op for op in ops if op[0] == "write" and op[2] < len(buffer)]
    if writes:
        _, _, offset, data = dice.choice(writes)
        begin = offset + dice.randrange(len(data))
        end = min(offset + len(data), (begin // SECTOR + 1) * SECTOR, len(buffer))
        buffer[begin:end] = dice.randbytes(max(0, end - begin))


def _zeros(buffer: bytearray, ops: list[Op], dice: random.Random) -> None:
    """The length arrived before the bytes."""
    size = len(buffer)
    for op in ops:
        size = max(size, op[2] + len(op[3])) if op[0] == "write" else op[2]
    _resize(buffer, max(size, len(buffer)))
    for op in ops:
        if op[0] == "write" and dice.random() < 0.5:
            _do(buffer, op)


def _reordered(buffer: bytearray, ops: list[Op], dice: random.Random) -> None:
    """In any order, up to a point."""
    for op in dice.sample(ops, dice.randrange(len(ops) + 1)):
        _do(buffer, op)


_WAYS: dict[str, Callable[[bytearray, list[Op], random.Random], None]] = {
    "torn": _torn,
    "subset": _subset,
    "sectors": _mixed,
    "garbage": _garbage,
    "zeros": _zeros,
    "reordered": _reordered,
}
WAYS = tuple(_WAYS)


class Platter:
    """A folder on the medium, as of some point of a trace.

    Args:
        start: what it surely holds.
        forgets: whether a sync that failed is never made up for.
    """

    def __init__(self, start: Image, *, forgets: bool = False) -> None:
        self._forgets = forgets
        self._files = {name: _Content(data, linked=True) for name, data in start.items()}
        self._gone: dict[str, _Content] = {}  # deleted, but the folder may not know yet

    def step(self, op: Op) -> bool:
        """Go on by one entry of a trace; whether that has changed what may be there."""
        kind = op[0]
        if kind == "note":
            return False
        if kind == "folder":
            self._gone.clear()
            for file in self._files.values():
                file.linked = True
            return True
        name = op[1]
        if kind == "create":
            self._files[name] = _Content(b"", linked=False)
        elif (file := self._files.get(name)) is None:
            return False  # somebody still has a deleted file open
        elif kind == "sync":
            file.sync()
        elif kind == "sync failed":
            if self._forgets:
                file.forget()
        elif kind == "delete":
            del self._files[name]
            if file.linked:
                self._gone[name] = file
        else:
            file.done.append([op, "open"])
        return True

    @property
    def unsynced(self) -> int:
        """How much a power cut may still undo: writes, truncations, files made or deleted; 0: one image is left."""
        return len(self._gone) + sum(len(file.done) + (not file.linked) for file in self._files.values())

    def plain(self) -> Iterator[tuple[str, Image]]:
        """Yield the images that need no dice: all arrived, nothing did, and each of these with deleted files back."""
        everything = {name: file.cached for name, file in self._files.items()}
        least = {name: file.firm for name, file in self._files.items() if file.linked}
        yield "prefix", everything
        yield "least", least
        for name, file in self._gone.items():
            yield "undeleted", {**everything, name: file.cached}
            yield "undeleted", {**least, name: file.firm}

    def cut(self, way: str, dice: random.Random) -> Image:
        """Return an image that a power cut may leave."""
        image: Image = {}
        for name, file in self._files.items():
            if file.linked or dice.random() < 0.6:
                image[name] = file.after(way, dice)
        for name, file in self._gone.items():
            if dice.random() < 0.3:
                image[name] = file.after(way, dice)
        return image


def put(image: Image, folder: Path) -> None:
    """Write an image into a new folder."""
    folder.mkdir()
    for name, data in image.items():
        (folder / name).write_bytes(data)
