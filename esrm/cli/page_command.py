"""``esrm page``: the address map over time as one HTML page. ``page.py`` makes the page, ``document.py`` fills it."""

from __future__ import annotations

import click

from esrm.cli.options import Asked, common
from esrm.cli.output import line


@click.command("page")
@click.option(
    "-o",
    "--output",
    type=click.Path(dir_okay=False, allow_dash=True),
    default="esrm.html",
    show_default=True,
    metavar="FILE",
    help="Where to; - is stdout.",
)
@common(formats=False)
def command(asked: Asked, output: str) -> None:
    """Write the address map over time as one HTML page.

    It needs no network: open the file in a browser, move the slider through the revisions, and point at a range to see
    the device and the event that gave it.
    """
    from esrm.cli.document import build
    from esrm.cli.page import render

    page = render(build(asked.past))
    with click.open_file(output, "w", encoding="utf-8") as file:
        file.write(page)
    if output != "-":
        line(f"{output}: {len(page) // 1024} KiB; open it in a browser")
