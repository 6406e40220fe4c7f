"""``esrm blame``: who holds an address, and which record gave it."""

from __future__ import annotations

from typing import Any

import click
import msgspec

from esrm.cli import wire
from esrm.cli.options import Asked, common, complete_space
from esrm.cli.output import line, paint, rows
from esrm.cli.wording import headline
from esrm.core.resources import Space, hexadecimal, mac_number
from esrm.history import Blame, space_named


@click.command("blame")
@click.argument("space", shell_complete=complete_space)
@click.argument("address")
@click.option("--at", metavar="REV", default="@", help="The moment; by default now.")
@common()
@click.pass_context
def command(ctx: click.Context, asked: Asked, space: str, address: str, at: str) -> None:
    """Say who holds an address, and since which record.

    SPACE is pio, mmio, mem, legacy_irq, msi_irq, kvm_mem_slot or mac; ADDRESS a number (0xc0001000, 5) or a MAC
    address. A device inside another one comes after it. Exits with 1 if nobody holds the address.

    \b
    esrm blame mmio 0xc0001000
    esrm blame legacy_irq 5 --at @~10
    """
    where = space_named(space)
    number = parse_number(where, address)
    past = asked.past
    revision = past.revision(at)
    found = past.blame(where, number, at=revision)

    def text() -> None:
        moment = f"{where.value} {hexadecimal(where, number)} at {past.vm}@{revision}"
        if not found:
            line(f"{moment}: nobody")
        for blame in found:
            line(f"{moment}: ", paint(str(blame.holding), bold=True))
            _print_record(blame)

    holders = [_document(blame) for blame in found]
    address_of = {"space": where.value, "address": number, "address_hex": hex(number)}
    asked.answer(holders, text, lambda: {"vm": past.vm, "revision": revision, **address_of, "holders": holders})
    ctx.exit(0 if found else 1)


def parse_number(space: Space, text: str) -> int:
    """An address or number in any notation that the tools print: hexadecimal, decimal, or a MAC's.

    Raises:
        click.UsageError: it is none, or beyond the space's end. InvalidConstraint: not quite a MAC address.
    """
    if space is Space.MAC and ":" in text:
        return mac_number(text)
    try:
        number = int(text, 0)
    except ValueError:
        example = "52:54:00:12:34:56" if space is Space.MAC else "0xc0001000 or 5"
        raise click.UsageError(f"{text!r:.60} is no address of {space.value}: write {example}") from None
    if not 0 <= number <= space.last:
        raise click.UsageError(f"{text:.60} is outside {space.value}, which ends at {hexadecimal(space, space.last)}")
    return number


def _print_record(blame: Blame) -> None:
    if blame.record is None:
        line("  reserved by the platform")
        return
    since = f"revision {blame.record.revision}, {wire.exact_time(blame.record.time_ns)}"
    told = {"since": since, "actor": blame.record.actor, "correlation": blame.record.correlation}
    rows((f"  {name}:", text or "-") for name, text in (told | {"event": headline(blame.record.event)}).items())


def _document(blame: Blame) -> dict[str, Any]:
    record = None if blame.record is None else wire.record(blame.record)
    return {"holding": wire.hexed(msgspec.to_builtins(blame.holding)), "record": record}
