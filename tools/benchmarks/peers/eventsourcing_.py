"""The library ``eventsourcing`` 9.5, on its SQLite store: WAL, and SQLite's own default of ``synchronous=FULL``.

The VM is its ``Aggregate`` with a method a command, whose body is what the event does. *Tuned* replaces its JSON
transcoder by msgspec's msgpack. A command here is its best case: the caller keeps the aggregate and only saves it.
"""

# pyright: basic, reportMissingImports=false
# A peer is no dependency of the project, and only partly typed.

from __future__ import annotations

import threading
import time
from collections.abc import Iterable
from itertools import islice
from pathlib import Path
from typing import Any
from uuid import UUID

import msgspec
from eventsourcing.application import Application
from eventsourcing.domain import Aggregate, event
from eventsourcing.persistence import Transcoder

from . import commands


class Vm(Aggregate):
    """A VM and its devices."""

    @event("Created")
    def __init__(self) -> None:
        self.devices: dict[str, dict[str, Any]] = {}

    @event("DeviceCreated")
    def create_device(self, device: str, kind: str) -> None:
        """Step 1."""
        self.devices[device] = {"kind": kind, "phase": "created", "constraints": (), "resources": ()}

    @event("ConstraintsDeclared")
    def declare(self, device: str, constraints: list[dict[str, Any]]) -> None:
        """Step 2."""
        self.devices[device].update(phase="declared", constraints=constraints)

    @event("ResourcesAllocated")
    def allocate(self, device: str, resources: list[dict[str, Any]]) -> None:
        """Step 3; where, is for the caller to say."""
        self.devices[device].update(phase="allocated", resources=resources)

    @event("ResourcesAssigned")
    def assign(self, device: str) -> None:
        """Step 4."""
        self.devices[device]["phase"] = "assigned"

    @event("DeviceRegistered")
    def register(self, device: str) -> None:
        """Step 5."""
        self.devices[device]["phase"] = "registered"

    @event("DeviceUnregistered")
    def unregister(self, device: str) -> None:
        """Undo step 5."""
        self.devices[device]["phase"] = "assigned"

    @event("ResourcesReleased")
    def release(self, device: str, resources: list[dict[str, Any]]) -> None:
        """Undo steps 4 and 3."""
        self.devices[device].update(phase="declared", resources=())

    @event("DeviceRemoved")
    def remove(self, device: str) -> None:
        """Undo steps 2 and 1."""
        del self.devices[device]


class Msgpack(Transcoder):
    """The tuned transcoder."""

    def encode(self, obj: Any) -> bytes:
        """Bytes."""
        return _encoder.encode(obj)

    def decode(self, data: bytes) -> Any:
        """And back."""
        return _decoder.decode(data)


_encoder, _decoder = msgspec.msgpack.Encoder(), msgspec.msgpack.Decoder()


class Tuned(Application):
    """An application on msgpack."""

    def construct_transcoder(self) -> Transcoder:
        """Msgpack in place of JSON."""
        return Msgpack()


class EventSourcing:
    """The work that is timed, on a file of its own."""

    def __init__(self, place: Path, *, tuned: bool) -> None:
        env = {"PERSISTENCE_MODULE": "eventsourcing.sqlite", "SQLITE_DBNAME": str(place), "SQLITE_LOCK_TIMEOUT": "60"}
        self.app: Any = (Tuned if tuned else Application)(env=env)

    def fill(self, events: int, events_per_vm: int) -> list[UUID]:
        """Write so many events, up to a hundred VMs a transaction; return the VMs."""
        ids: list[UUID] = []
        while left := events // events_per_vm - len(ids):
            vms: list[Any] = [Vm() for _ in range(min(100, left))]
            for vm in vms:
                for name, arguments in islice(commands(), events_per_vm - 1):
                    getattr(vm, name)(**arguments)
            self.app.save(*vms)
            ids += [vm.id for vm in vms]
        return ids

    def fold(self) -> int:
        """Fold its notification log into all aggregates: its fastest way; return how many events there were."""
        found: dict[Any, Any] = {}
        start, number = 1, 0
        while page := self.app.recorder.select_notifications(start=start, limit=1000):
            for notification in page:
                happened = self.app.mapper.to_domain_event(notification)
                key = happened.originator_id
                found[key] = happened.mutate(found.get(key))
            start, number = page[-1].id + 1, number + len(page)
        return number

    def get_all(self, ids: Iterable[UUID]) -> None:
        """``repository.get`` of every aggregate."""
        for id in ids:
            self.app.repository.get(id)

    def command(self, count: int) -> list[float]:
        """One VM, one command after the other, each saved; the seconds of each."""
        vm = Vm()
        self.app.save(vm)
        samples: list[float] = []
        for name, arguments in islice(commands(), count):
            start = time.perf_counter()
            getattr(vm, name)(**arguments)
            self.app.save(vm)
            samples.append(time.perf_counter() - start)
        return samples

    def threads(self, threads: int, count: int) -> tuple[float, list[float]]:
        """``threads`` threads save ``count`` commands each on a VM each; the seconds of all, and of each command."""
        samples: list[float] = []
        workers = [threading.Thread(target=lambda: samples.extend(self.command(count))) for _ in range(threads)]
        start = time.perf_counter()
        for worker in workers:
            worker.start()
        for worker in workers:
            worker.join()
        seconds = time.perf_counter() - start
        if len(samples) < threads * count:
            raise RuntimeError(f"eventsourcing finished {len(samples)} of {threads * count} commands in threads")
        return seconds, samples

    def close(self) -> None:
        """Close its connections."""
        self.app.close()
