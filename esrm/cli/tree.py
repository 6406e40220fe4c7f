"""``esrm tree``: the device tree at a moment."""

from __future__ import annotations

from collections.abc import Iterator

import click

from esrm.cli import wire
from esrm.cli.options import Asked, common
from esrm.cli.output import line, paint
from esrm.cli.wording import device
from esrm.core.lifecycle import ANSWERING
from esrm.core.state import DeviceState, VmState


@click.command("tree")
@click.option("--at", metavar="REV", default="@", help="The moment; by default now.")
@common()
def command(asked: Asked, at: str) -> None:
    """Draw the device tree, with phases and resources.

    Devices in the order of their creation, those inside another one beneath it.
    """
    past = asked.past
    state = past.at(at)
    platform = state.platform.name if state.platform else ""

    def text() -> None:
        count = len(state.devices)
        line(paint(f"{past.vm}@{state.revision}", bold=True), f" on {platform}: {count} device{'s' * (count != 1)}")
        for stem, found in _lines(state):
            name = paint(found.name, fg="cyan" if found.phase in ANSWERING else "yellow")
            line(stem, name, device(found).removeprefix(found.name))

    devices = [wire.device(found) for _, found in _lines(state)]
    asked.answer(
        devices,
        text,
        lambda: {"vm": past.vm, "revision": state.revision, "platform": platform, "devices": devices},
    )


def _lines(state: VmState) -> Iterator[tuple[str, DeviceState]]:
    """Each device with what stands before its name, as in tree(1)."""
    waiting = _stemmed(state.children(None), "")
    while waiting:
        stem, last, found = waiting.pop()
        yield f"{stem}{'`' if last else '|'}-- ", found
        waiting += _stemmed(state.children(found.name), f"{stem}{' ' if last else '|'}   ")


def _stemmed(siblings: list[DeviceState], stem: str) -> list[tuple[str, bool, DeviceState]]:
    """The next to be shown at the end, as a stack has it; the last of them is marked."""
    return [(stem, found is siblings[-1], found) for found in reversed(siblings)]
