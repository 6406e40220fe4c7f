"""The address map over time as a document: what ``page.py`` turns into a page.

It walks the log once and notes, for every range that was ever held, from which revision to which. Next: ``page.py``,
whose ``Document`` says what each field means.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from esrm.cli.wire import exact_time
from esrm.cli.wording import summary
from esrm.core import events as e
from esrm.core.platform import Platform
from esrm.core.resources import Resource, Space, span
from esrm.core.state import VmState, evolve
from esrm.errors import Corrupt
from esrm.history import Past, devices_of
from esrm.stores.records import Record

if TYPE_CHECKING:
    from esrm.cli.page import Document, HoldingEntry, Moment, SpaceEntry

_REFUSALS = (e.AllocationRefused, e.UnplugRefused)


def build(past: Past) -> Document:
    """The document of a VM's whole history. The same log gives the same document: its time is the last record's.

    Raises:
        Corrupt: names the VM, revision and position of the record that cannot be.
    """
    state = VmState()
    moments: list[Moment] = []
    holdings: list[HoldingEntry] = []
    held: dict[str, list[tuple[Resource, HoldingEntry]]] = {}
    for record in past.log():
        try:
            evolve(state, record.event)
        except Corrupt as error:
            raise Corrupt.at(past.vm, record.revision, record.position, error) from error
        moments.append(_moment(record))
        for device in devices_of(record.event):
            _follow(state, device, record.revision, held, holdings)
    assert state.platform, "the first event of a log that can be replayed creates the VM"
    return {
        "title": past.vm,
        "generated": moments[-1]["time"],
        "platform": state.platform.name,
        "spaces": [_space(state.platform, space) for space in Space],
        "moments": moments,
        "holdings": holdings,
    }


def _follow(
    state: VmState,
    device: str,
    revision: int,
    held: dict[str, list[tuple[Resource, HoldingEntry]]],
    holdings: list[HoldingEntry],
) -> None:
    """Close what the device holds no more, and open what it holds now: the state says so, whatever the event was."""
    found = state.devices.get(device)
    now = list(found.allocated) if found else []
    before = held.get(device, [])
    if [resource for resource, _ in before] == now:
        return
    kept: dict[Resource, HoldingEntry] = {}
    for resource, entry in before:
        if resource in now:
            kept[resource] = entry
        else:
            entry["to"] = revision
    after: list[tuple[Resource, HoldingEntry]] = []
    for resource in now:
        if resource not in kept:
            kept[resource] = _holding(resource, device, found.kind if found else "", revision)
            holdings.append(kept[resource])
        after.append((resource, kept[resource]))
    held[device] = after


def _holding(resource: Resource, device: str, kind: str, revision: int) -> HoldingEntry:
    space, first, last = span(resource)
    return {
        "space": space.value,
        "first": hex(first),
        "last": hex(last),
        "device": device,
        "kind": kind,
        "from": revision,
        "to": None,
        "allocated_by": revision,
    }


def _moment(record: Record[e.Event]) -> Moment:
    return {
        "revision": record.revision,
        "time": exact_time(record.time_ns),
        "type": type(record.event).__name__,
        "device": next(iter(devices_of(record.event)), None),
        "actor": record.actor or None,
        "summary": summary(record.event),
        "refused": isinstance(record.event, _REFUSALS),
    }


def _space(platform: Platform, space: Space) -> SpaceEntry:
    return {
        "name": space.value,
        "pools": [[hex(first), hex(last)] for first, last in platform.pools.get(space, ())],
        "reserved": [
            {"first": hex(entry.first), "last": hex(entry.last), "owner": entry.owner}
            for entry in platform.reserved
            if entry.space is space
        ],
    }
