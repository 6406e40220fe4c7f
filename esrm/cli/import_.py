"""``esrm import``: layouts of real machines, recorded as devices with their constraints and resources.

A writing command, so here an event loop runs. The reading of the machine is ``esrm/importers/``.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

import click
from msgspec import to_builtins

from esrm.cli.options import Asked, common
from esrm.cli.output import line, paint
from esrm.names import check

if TYPE_CHECKING:
    from esrm.importers.linux import Found, Imported


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
    addresses there; other users see zeros, and are told so.

    \b
    sudo esrm import linux --store sqlite:thishost.db
    esrm --store thishost.db map
    """
    # Late, so that the help of this command is as quick as any other's.
    import anyio

    from esrm.importers.linux import read
    from esrm.opening import lasting

    vm = check("the VM's name (--vm)", asked.vm_option or Path(root).resolve().name or os.uname().nodename)
    lasting(asked.url)
    result = anyio.run(_import, asked.url, vm, read(root))  # read before a store is made, which a refusal would leave

    def text() -> None:
        for mark, (names, colour) in _marked(result).items():
            for name in names:
                line(paint(f"{mark} {name}", fg=colour))
        for what in result.skipped:
            line(paint(f"! left out {what}", fg="red"))
        counts = f"{len(result.added)} added, {len(result.removed)} removed, {len(result.changed)} changed"
        line(paint(f"{vm}@{result.revision}", bold=True), f": {counts}")

    asked.answer_one(to_builtins(result), text)


def _marked(result: Imported) -> dict[str, tuple[tuple[str, ...], str]]:
    return {"+": (result.added, "green"), "-": (result.removed, "red"), "~": (result.changed, "yellow")}


async def _import(url: str, vm: str, found: Found) -> Imported:
    from esrm.importers.linux import record
    from esrm.opening import open_store

    async with open_store(url) as store:
        return await record(store, found, vm=vm)
