"""``esrm map``: the address map at a moment, in the shape of /proc/iomem and of QEMU's ``info mtree -f``."""

from __future__ import annotations

from collections.abc import Iterable
from itertools import chain
from typing import Any

import click

from esrm.cli.layout import Stretch, stretches, written
from esrm.cli.options import Asked, common, complete_space
from esrm.cli.output import line, paint
from esrm.core.platform import Platform
from esrm.core.resources import Space, bounds
from esrm.core.state import VmState
from esrm.history import space_named


@click.command("map")
@click.option("--space", metavar="S", multiple=True, shell_complete=complete_space,
              help="Only this space; again for more.")  # fmt: skip
@click.option("--at", metavar="REV", default="@", help="The moment; by default now.")
@click.option("--free", is_flag=True, help="Show the holes, too.")
@common()
def command(asked: Asked, space: tuple[str, ...], at: str, free: bool) -> None:
    """Draw the address map, now or at any moment.

    A space has a header with its pools, then a line a range: bounds (inclusive), who holds it, and of which kind it is.
    A device inside another one is indented. Spaces in which nothing is held or reserved are left out unless named.

    \b
    esrm map --space mmio --at @~3
    esrm map --free | grep net0
    """
    wanted = [space_named(name) for name in space]
    past = asked.past
    state = past.at(at)
    layout = {where: stretches(state, where, free=free) for where in wanted or Space}
    shown = {where: found for where, found in layout.items() if found or wanted}
    asked.answer(
        (stretch.document() for stretch in chain.from_iterable(shown.values())),
        lambda: _print(state, shown),
        lambda: {
            "vm": past.vm,
            "revision": state.revision,
            "spaces": [_document(state, *part) for part in shown.items()],
        },
    )


def _print(state: VmState, layout: dict[Space, list[Stretch]]) -> None:
    for index, (space, found) in enumerate(layout.items()):
        if index:
            line()
        line(paint(f"{space.value}: {_pools_text(state.platform, space)}", bold=True))
        for stretch in found:
            line("  " * stretch.depth, written(space, stretch.first, stretch.last), " : ", _name(stretch))


def _name(stretch: Stretch) -> str:
    if stretch.state == "free":
        return paint("(free)", fg="green")
    if stretch.state == "reserved":
        return paint(f"{stretch.owner} (reserved)", fg="bright_black")
    return f"{stretch.owner} ({stretch.kind})" if stretch.kind else stretch.owner


def _pools_text(platform: Platform | None, space: Space) -> str:
    if platform is None:
        return "no platform yet"
    if platform.home(space) is not space:
        return f"drawn from {platform.home(space).value}"
    return ", ".join(bounds(space, *pool) for pool in platform.pools.get(space, ())) or "no pool"


def _document(state: VmState, space: Space, found: Iterable[Stretch]) -> dict[str, Any]:
    pools = state.platform.pools.get(space, ()) if state.platform else ()
    return {
        "space": space.value,
        "pools": [{"first": a, "first_hex": hex(a), "last": b, "last_hex": hex(b)} for a, b in pools],
        "ranges": [stretch.document() for stretch in found],
    }
