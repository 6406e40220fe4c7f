"""``esrm stats``: how full, how many, what was refused."""

from __future__ import annotations

from collections import Counter
from typing import Any

import click
import msgspec

from esrm.cli import wire
from esrm.cli.options import Asked, common
from esrm.cli.output import line, paint, rows
from esrm.core.events import AllocationRefused
from esrm.core.lifecycle import Phase
from esrm.stores.records import iso

_SPACE_COLUMNS = ("total", "free", "held", "reserved", "holes", "hole_max")


@click.command("stats")
@common()
@click.option("--at", "rev", metavar="REV", default="@", help="The moment; by default now.")
def command(asked: Asked, rev: str) -> None:
    """Count: how full, how many, what was refused.

    Per space: how much its pools have, what of it is free, held by devices and reserved by the platform, and the
    number of holes and the largest; addresses and ports in hexadecimal. Then the events by type, the refusals by
    reason, and the devices by phase.
    """
    past = asked.past
    state = past.at(rev)
    events: Counter[str] = Counter()
    refusals: Counter[str] = Counter()
    times: list[int] = []
    for record in past.log(until=state.revision):
        events[type(record.event).__name__] += 1
        if isinstance(record.event, AllocationRefused):
            refusals[record.event.refusal.code] += 1
        times[1:] = [record.time_ns]
    phases = Counter(device.phase for device in state.devices.values())
    document: dict[str, Any] = {
        "vm": past.vm,
        "revision": state.revision,
        "platform": state.platform.name if state.platform else "",
        "first_time": wire.exact_time(times[0]),
        "last_time": wire.exact_time(times[-1]),
        "spaces": [wire.hexed(msgspec.to_builtins(usage)) for usage in state.allocator.usage().values()],
        "events": dict(sorted(events.items())),
        "refusals": dict(sorted(refusals.items())),
        "devices": {phase.value: phases[phase] for phase in Phase if phases[phase]},
    }

    def text() -> None:
        line(paint(f"{past.vm}@{state.revision}", bold=True), f" on {document['platform']}, ")
        line(f"{iso(times[0])} to {iso(times[-1])}")
        line()
        _print_spaces(state.allocator.usage())
        for title in ("events", "refusals", "devices"):
            _print_counts(title, document[title])

    asked.answer_one(document, text)
