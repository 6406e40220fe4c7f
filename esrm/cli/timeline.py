"""``esrm timeline``: the life of one device, or its lives, in order."""

from __future__ import annotations

import click

from esrm.cli import wire
from esrm.cli.log import print_records
from esrm.cli.options import Asked, common, complete_device


@click.command("timeline")
@click.argument("device", shell_complete=complete_device)
@common()
def command(asked: Asked, device: str) -> None:
    """Tell the life of one device.

    Every record about it, oldest first, also of earlier devices of that name.
    """
    found = asked.past.timeline(device)
    asked.answer(map(wire.record, found), lambda: print_records(found))
