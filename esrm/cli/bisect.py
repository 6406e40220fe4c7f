"""``esrm bisect``: the record that first made something true.

The conditions are few and about what people look for: a device, an address, a refusal, a space running out. Anything
else is a Python function for ``History.bisect``.
"""

from __future__ import annotations

from collections.abc import Callable

import click

from esrm.cli import wire
from esrm.cli.blame import parse_number
from esrm.cli.log import print_records
from esrm.cli.options import Asked, common, complete_device
from esrm.cli.output import line
from esrm.core.lifecycle import Phase
from esrm.core.resources import hexadecimal
from esrm.core.state import VmState
from esrm.history import space_named

PHASES = [phase.value for phase in Phase]


@click.command("bisect")
@click.option("--device", metavar="NAME", shell_complete=complete_device, help="This device lives.")
@click.option("--phase", type=click.Choice(PHASES), help="... and is in this phase.")
@click.option("--held", nargs=2, metavar="SPACE ADDRESS", help="A device holds this address.")
@click.option("--free-below", nargs=2, metavar="SPACE N", help="Fewer than N numbers of the space are free.")
@click.option("--refused", is_flag=True, help="An allocation was refused (to --device, if it is given).")
@common()
@click.pass_context
def command(
    ctx: click.Context,
    asked: Asked,
    device: str | None,
    phase: str | None,
    held: tuple[str, str] | None,
    free_below: tuple[str, str] | None,
    refused: bool,
) -> None:
    """Find the record that first made something true.

    Every revision is asked, from the first on, so a condition that was true only for a while is found. Of several
    conditions all must be true at once. Exits with 1 if it never was so.

    \b
    esrm bisect --device net0 --phase unplugging
    esrm bisect --held mmio 0xc0001000
    esrm bisect --free-below legacy_irq 4
    esrm bisect --refused
    """
    conditions = [
        *([_lives(device, phase)] if device and not refused else []),
        *([_held(*held)] if held else []),
        *([_free_below(*free_below)] if free_below else []),
    ]
    if refused and (conditions or phase):
        raise click.UsageError("--refused goes with --device only")
    if phase and not device:
        raise click.UsageError("--phase needs a --device")
    if not refused and not conditions:
        raise click.UsageError("nothing to look for: give --device, --held, --free-below or --refused")
    past = asked.past
    if refused:
        found = next(past.log(type="AllocationRefused", device=device), None)
    else:
        found = past.bisect(lambda state: all(holds(state) for holds in conditions))

    def text() -> None:
        if found is None:
            line(f"never, in {past.head() + 1} revisions of {past.vm}")
        else:
            print_records([found])

    asked.answer([] if found is None else [wire.record(found)], text)
    ctx.exit(0 if found else 1)


def _lives(device: str, phase: str | None) -> Callable[[VmState], bool]:
    def holds(state: VmState) -> bool:
        found = state.devices.get(device)
        return found is not None and phase in (None, found.phase.value)

    return holds


def _held(space: str, address: str) -> Callable[[VmState], bool]:
    where = space_named(space)
    number = parse_number(where, address)

    def holds(state: VmState) -> bool:
        # The ledger knows at once that nobody holds it; whom it names may only share the pool (see `Platform.joined`).
        if next(state.allocator.ledger(where).holdings(number, number), None) is None:
            return False
        return any(not holding.reserved for holding in state.holders(where, number))

    return holds


def _free_below(space: str, limit: str) -> Callable[[VmState], bool]:
    where = space_named(space)
    try:
        number = int(limit, 0)
    except ValueError:
        raise click.UsageError(f"--free-below: {limit!r:.60} is no number") from None
    if number < 1:
        raise click.UsageError(f"--free-below: nothing of {where.value} can be below {hexadecimal(where, 0)}")
    return lambda state: state.allocator.ledger(where).usage().free < number
