"""``esrm import``: layouts of real machines, recorded as devices with their constraints and resources.

A writing command, so here an event loop runs. The reading of the machine is ``esrm/importers/``.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import click

from esrm.cli.options import Asked, common
from esrm.cli.output import line, paint


@click.group("import")
def command() -> None:
    """Record the layout of a real machine."""


@command.command("linux")
@click.option(
    "--root",
    type=click.Path(exists=True, file_okay=False),
    default="/",
    show_default=True,
    metavar="DIR",
    help="The machine's /, or a folder with copies of its proc/ and sys/.",
)
@common()
def linux(asked: Asked, root: str) -> None:
    """Record the layout of a Linux machine.

    Reads /proc/iomem, /proc/ioports, /proc/interrupts and the PCI resources in /sys. Run it again after a change, and
    only the difference is recorded. The VM is by default called after the machine, or after the folder. Only root sees
    addresses there; other users see zeros, which are not imported.

    \b
    sudo esrm import linux --store sqlite:thishost.db
    esrm --store thishost.db map
    """
    import anyio

    vm = asked.vm_option or (Path(root).resolve().name or os.uname().nodename)
    result: Any = anyio.run(_import, asked.url, vm, root)
    groups = {"added": "+", "removed": "-", "changed": "~"}

    def text() -> None:
        for group, mark in groups.items():
            for name in getattr(result, group):
                line(paint(f"{mark} {name}", fg={"+": "green", "-": "red"}.get(mark, "yellow")))
        counts = ", ".join(f"{len(getattr(result, group))} {group}" for group in groups)
        line(paint(f"{vm}@{result.revision}", bold=True), f": {counts}")

    document = {"vm": vm, "revision": result.revision, **{group: list(getattr(result, group)) for group in groups}}
    asked.answer_one(document, text)


async def _import(url: str, vm: str, root: str) -> Any:
    # Late, as everything that only one command needs.
    from esrm.importers import linux
    from esrm.opening import open_store

    async with open_store(url) as store:
        return await linux.import_machine(store, vm=vm, root=root)
