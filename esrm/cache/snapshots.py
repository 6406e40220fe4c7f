"""Layouts on the way: what the state was at some revisions, so that no other one is far.

It decides where snapshots lie: as many events apart as there are devices, constraints and resources in one. So the
longer one takes to read, the further they lie apart, and a question costs no more at the end of a log than at its
beginning. And since the log keeps more than 200 bytes an event, a snapshot less than 20 for each of those things, the
snapshots stay below a tenth of the log.

They are a by-product: whoever folds a long stretch offers each state that it comes through. A body is a
``_Snapshot`` in msgpack (a third smaller and a tenth faster than JSON), deflated: states are mostly the same few
words, so it becomes a twentieth for a tenth of the time; and zlib's checksum stands at its end.

Next: ``tenancies.py``.
"""

from __future__ import annotations

import zlib
from typing import TYPE_CHECKING

import msgspec

from esrm.cache.file import Damaged, Fetch, forget, keep, look, vm_id
from esrm.core.events import Event
from esrm.core.platform import Platform
from esrm.core.state import DeviceState, VmState

if TYPE_CHECKING:
    from esrm.stores.base import Reader

STRIDE_MIN = 1000
"""Events between two snapshots, at least: folding them takes about 3 ms, as reading 500 devices does."""

PENDING_BYTES_MAX = 4 << 20


class Snapshot(msgspec.Struct, array_like=True, frozen=True):
    """A state as it is kept, and whose and when it is: the row's own columns must say the same."""

    vm: str
    revision: int
    platform: Platform | None
    devices: tuple[DeviceState, ...]


_decoder = msgspec.msgpack.Decoder(Snapshot)


class Snapshots:
    """The snapshots of one VM: ask for the ``nearest``, fold on from it, ``offer`` each ``stride``, then ``flush``."""

    def __init__(self, reader: Reader[Event], vm: str, last: int = -1) -> None:
        self._reader, self._vm = reader, vm
        self._stale = False
        self._last = last  # the snapshot before
        self._end = last + STRIDE_MIN  # the next is due here
        self._pending: list[tuple[int, bytes]] = []

    def nearest(self, until: int) -> VmState:
        """The last state at or before a revision that a snapshot tells; if none does, the empty one."""
        state = None
        if until >= STRIDE_MIN - 1:
            state = look(self._reader.beside, lambda fetch: self._find(fetch, until))
        if state is None:
            return VmState()
        self._last = state.revision
        return state

    def stride(self, state: VmState) -> int:
        """How many events to fold before the next ``offer``: never few where the weight takes long to tell."""
        stride = max(STRIDE_MIN, _weight(state))
        self._end = state.revision + stride
        return stride

    def offer(self, state: VmState) -> None:
        """Note a state down, if one is due; not yet if it grew so much that these events do not outweigh it."""
        if state.revision < self._end or 2 * (state.revision - self._last) < _weight(state):
            return
        self._last = state.revision
        if self._reader.beside is None:
            return
        self._pending.append((state.revision, packed(self._vm, state)))
        if sum(len(body) for _, body in self._pending) > PENDING_BYTES_MAX:
            self.flush()

    def flush(self) -> None:
        """Keep what was noted down, if that is possible."""
        pending, self._pending = self._pending, []
        if not pending:
            return
        rows = [(revision, hash_at(self._reader, self._vm, revision), body) for revision, body in pending]

        def write(fetch: Fetch) -> None:
            if self._stale:
                forget(fetch, self._vm)
            vm = vm_id(fetch, self._vm)
            for row in rows:
                fetch("INSERT OR REPLACE INTO snapshots VALUES (?, ?, ?, ?)", vm, *row)

        if keep(self._reader.beside, write):
            self._stale = False

    def _find(self, fetch: Fetch, until: int) -> VmState | None:
        found = fetch(
            """SELECT s.revision, s.hash, body FROM vms JOIN snapshots s ON vm = id
            WHERE name = ? AND s.revision <= ? ORDER BY s.revision DESC LIMIT 1""",
            self._vm, until,
        )  # fmt: skip
        for revision, hash, body in found:
            if hash and hash == hash_at(self._reader, self._vm, revision):
                return unpacked(self._vm, revision, body)
            self._stale = True
        return None


def _weight(state: VmState) -> int:
    """How many things a snapshot tells; each takes about as long to read as half an event to fold."""
    return sum(1 + len(device.constraints) + len(device.allocated) for device in state.devices.values())


def hash_at(reader: Reader[Event], vm: str, revision: int) -> bytes:
    """The hash of the log's record at a revision; none if there is no such record."""
    return next((row[8] for row in reader.rows(vm, revision - 1, 1) if row[2] == revision), b"")


def packed(vm: str, state: VmState) -> bytes:
    """A state as it is kept."""
    snapshot = Snapshot(vm, state.revision, state.platform, tuple(state.devices.values()))
    return zlib.compress(msgspec.msgpack.encode(snapshot), 1)


def unpacked(vm: str, revision: int, body: bytes) -> VmState:
    """The state that was kept.

    Raises:
        Damaged: these bytes are not of this VM's state at this revision.
    """
    try:
        snapshot = _decoder.decode(zlib.decompress(body))
    except Exception as error:  # whatever zlib, msgspec or a resource's own checks say of bytes that are not ours
        raise Damaged(str(error)) from error
    if (snapshot.vm, snapshot.revision) != (vm, revision):
        raise Damaged(f"{vm}, {revision}: a snapshot of {snapshot.vm}, {snapshot.revision}")
    return VmState.of(snapshot.platform, snapshot.devices, snapshot.revision)
