"""Every VM of a store at once: one pass over the whole log.

It decides how events get into states fastest when nobody looks meanwhile: in two fifths of the time that making a
``Record`` of each would take. What each trick bought:

- rows come by position, in pages, with four columns, and the stream's number for its name: a third of what is left of
  the time when plain rows are folded (``Reader.rows``), of which a join and five columns more are the most;
- the same bytes are decoded once, and VMs share the event: VMs of one kind live alike, down to their addresses, and
  then this is half of the time and of the memory; where none is like another, it is a look in vain for each event;
- the garbage collector looks away: a fiftieth, for events and devices are no concern of it (``gc=False``), and the
  tuples in them soon are not; in a program that holds much else, more;
- with ``processes``, VMs are dealt out, since they have nothing to do with each other.

The log streams: a page is all of it that is ever held. Why separate: ``history.py`` asks about one VM, and
``projection.py`` follows live. Next: ``core/state.py``, whose ``evolve`` does the work.
"""

from __future__ import annotations

import gc
from collections.abc import Generator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, TypeAlias, TypeVar

import msgspec

from esrm.core.events import Event, decode
from esrm.core.platform import Platform
from esrm.core.state import DeviceState, VmState, evolve
from esrm.errors import Corrupt
from esrm.opening import open_reader

if TYPE_CHECKING:
    from esrm.stores.base import Reader

T = TypeVar("T")

KNOWN_BYTES_MAX = 1 << 20
"""How many bytes of events are remembered with what they mean; then it begins anew."""


def replay_all(source: Reader[Event] | str, *, until: int | None = None, processes: int = 1) -> dict[str, VmState]:
    """The states of all VMs of a store, by name.

    Args:
        source: a reader, or the URL of a store that exists.
        until: up to this position of the store; None: to its end.
        processes: share the work out over so many, this one among them, each with a reader of its own; then the source
            must be a URL, and the program's main module one that can be imported (``if __name__ == "__main__"``).
            Worth while from about a million events on: the others have to start, and what they find to come back.

    Raises:
        Corrupt: names the VM, revision and position of the first record that cannot be.
        StoreError: there is no such store, or it failed.
    """
    if processes < 1 or (processes > 1 and not isinstance(source, str)):
        raise ValueError(f"replay_all needs a store's URL for {processes} processes, and at least one process")
    if processes > 1:
        return _spread(str(source), until, processes)
    states, fault = _replay(source, until, 0, 1)
    if fault is not None:
        raise Corrupt(fault[1])
    return states


@contextmanager
def undisturbed() -> Generator[None]:
    """The garbage collector looks away inside this block; as it was before, it is again after it."""
    # Not frozen as well: that would only help whoever collects meanwhile, and could not be undone for this alone.
    looking = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if looking:
            gc.enable()


_Fault: TypeAlias = tuple[int, str]
"""Where, and what is wrong there."""


def _replay(
    source: Reader[Event] | str, until: int | None, share: int, shares: int
) -> tuple[dict[str, VmState], _Fault | None]:
    if isinstance(source, str):
        with open_reader(source) as reader:
            return _replay(reader, until, share, shares)
    states: dict[Any, VmState] = {}
    known: dict[bytes, Event] = {}
    position, revision, key, room = 0, 0, None, KNOWN_BYTES_MAX
    fault: _Fault | None = None
    with undisturbed():
        for page in source.pages(until=until, share=share, shares=shares):
            try:
                for position, key, revision, data in page:  # noqa: B007  # the fault says where
                    state = states.get(key)
                    if state is None:
                        state = states[key] = VmState()
                    event = known.get(data)
                    if event is None:
                        event = decode(data)
                        room -= len(data)
                        if room < 0:
                            known.clear()
                            room = KNOWN_BYTES_MAX
                        known[data] = event
                    if evolve(state, event).revision != revision:
                        raise Corrupt("it does not follow on the record before it")
            except Corrupt as error:
                fault = position, str(Corrupt.at(source.names().get(key, ""), revision, position, error))
                break
    names = source.names()
    return {names.get(key, ""): state for key, state in states.items()}, fault


# -- several processes -----------------------------------------------------------------------------------------------


class _Part(msgspec.Struct, array_like=True):
    """What another process found, in a form that crosses over in half the time of a pickle.

    Each platform, and each of the devices that are alike, crosses once; ``vms`` has their numbers.
    """

    fault: _Fault | None
    platforms: list[Platform | None]
    devices: list[DeviceState]
    vms: list[tuple[str, int, int, list[int]]]


def _spread(url: str, until: int | None, processes: int) -> dict[str, VmState]:
    from concurrent.futures import ProcessPoolExecutor
    from multiprocessing import get_context

    decoder = msgspec.msgpack.Decoder(_Part)
    # Spawned: a fork would copy the locks that this process's threads hold just now.
    with ProcessPoolExecutor(processes - 1, get_context("spawn")) as pool, undisturbed():
        others = [pool.submit(_work, url, until, share, processes) for share in range(1, processes)]
        states, fault = _replay(url, until, 0, processes)
        faults = [fault] if fault else []
        for other in others:
            part = decoder.decode(other.result())
            faults += [part.fault] if part.fault else []
            for vm, revision, platform, numbers in part.vms:
                devices = [part.devices[number] for number in numbers]
                states[vm] = VmState.of(part.platforms[platform], devices, revision)
    if faults:
        raise Corrupt(min(faults)[1])
    return states


def _work(url: str, until: int | None, share: int, shares: int) -> bytes:
    """One other process's share."""
    states, fault = _replay(url, until, share, shares)
    part = _Part(fault, [], [], [])
    if fault is not None:
        return msgspec.msgpack.encode(part)
    platforms: dict[int, int] = {}
    devices: dict[tuple[Any, ...], int] = {}
    for vm, state in states.items():
        numbers: list[int] = []
        for device in state.devices.values():
            # Alike are those with the same events behind them: to compare what these say would take as long as replay.
            constraints, allocated = id(device.constraints), id(device.allocated)
            key = device.name, device.kind, device.parent, device.phase, constraints, allocated
            numbers.append(_numbered(devices, key, part.devices, device))
        platform = _numbered(platforms, id(state.platform), part.platforms, state.platform)
        part.vms.append((vm, state.revision, platform, numbers))
    return msgspec.msgpack.encode(part)


def _numbered(numbers: dict[Any, int], key: object, values: list[T], value: T) -> int:
    """The value's number among those that differ by their keys; a new one is added to them."""
    number = numbers.setdefault(key, len(values))
    if number == len(values):
        values.append(value)
    return number
