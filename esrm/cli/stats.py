"""``esrm stats``: how full, how many, what was refused."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable

import click
import msgspec

from esrm.cli import wire
from esrm.cli.options import Asked, common
from esrm.cli.output import line, paint, rows
from esrm.core.allocator import Usage
from esrm.core.events import AllocationRefused
from esrm.core.lifecycle import Phase
from esrm.core.resources import Space

_COLUMNS = ("free", "held", "reserved", "total", "holes", "hole_max")


@click.command("stats")
@click.option("--at", metavar="REV", default="@", help="The moment; by default now.")
@common()
def command(asked: Asked, at: str) -> None:
    """Count: how full, how many, what was refused.

    Per space: how much its pools have, what of it is free, held by devices and reserved by the platform, and the
    number of holes and the largest; addresses and ports in hexadecimal. Then the events by type, the refusals by
    reason, and the devices by phase.
    """
    past = asked.past
    state = past.at(at)
    events: Counter[str] = Counter()
    refusals: Counter[str] = Counter()
    for record in past.log(until=state.revision):
        events[type(record.event).__name__] += 1
        if isinstance(record.event, AllocationRefused):
            refusals[record.event.refusal.code] += 1
    phases = Counter(device.phase for device in state.devices.values())
    usage = state.allocator.usage()
    usages = [usage[space] for space in Space if space in usage]
    counts = {
        "events": dict(events.most_common()),
        "refusals": dict(refusals.most_common()),
        "devices": {phase.value: phases[phase] for phase in Phase if phases[phase]},
    }
    document = {
        "vm": past.vm,
        "revision": state.revision,
        "platform": state.allocator.platform.name,
        "spaces": [wire.hexed(msgspec.to_builtins(usage)) for usage in usages],
        **counts,
    }

    def text() -> None:
        line(paint(f"{past.vm}@{state.revision}", bold=True), f" on {state.allocator.platform.name}")
        line()
        _print_spaces(usages)
        for title, counted in counts.items():
            line()
            line(paint(title, bold=True), "" if counted else ": none")
            rows((("", str(number), name) for name, number in counted.items()), right=[1])

    asked.answer_one(document, text)


def _print_spaces(usages: Iterable[Usage]) -> None:
    header = [paint(title, bold=True) for title in ("space", "% free", *_COLUMNS)]
    rows([header, *map(_cells, usages)], right=range(1, len(header)))


def _cells(usage: Usage) -> list[str]:
    percent = f"{100 * usage.free // usage.total}" if usage.total else "-"
    return [usage.space.value, percent, *(_number(usage, column) for column in _COLUMNS)]


def _number(usage: Usage, column: str) -> str:
    number: int = getattr(usage, column)
    return f"{number:#x}" if usage.space.nests and column != "holes" else str(number)
