"""``esrm page``: the address map over time as one HTML page. ``page.py`` makes the page, ``document.py`` fills it."""

from __future__ import annotations

import click

from esrm.cli.files import output_option, write
from esrm.cli.options import Asked, common
from esrm.cli.output import line
from esrm.cli.page import is_page


@click.command("page")
@output_option("an esrm page", is_page, default="esrm.html")
@common(formats=False)
def command(asked: Asked, output: str) -> None:
    """Write the address map over time as one HTML page.

    It needs no network: open the file in a browser, move the slider through the revisions, and point at a range to see
    the device and the event that gave it.
    """
    from esrm.cli.document import build
    from esrm.cli.page import render

    page = render(build(asked.past))
    write(output, page)
    if output != "-":
        line(f"{output}: {len(page) // 1024} KiB; open it in a browser")
