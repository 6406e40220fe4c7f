"""How answers look: aligned text for people, JSON for programs, and nothing from a log raw on a terminal.

It decides escaping, colours and columns, and that JSON is never coloured. What is said about an event is in
``wording.py``; what JSON it becomes, in ``wire.py``.
"""

from __future__ import annotations

from collections.abc import Iterable
from itertools import islice
from typing import Any

import click

PAGE = 500
"""Rows that are aligned and written at once."""


class Painted(str):
    """Text that is safe to print as it is: escaped, then coloured."""

    __slots__ = ()


def printable(text: str) -> str:
    """The text with everything that could move a cursor, or hide, written out as an escape."""
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)


def paint(text: str, **style: Any) -> Painted:
    """Escaped and styled (as ``click.style``); the style is dropped where there is no terminal."""
    return Painted(click.style(printable(text), **style))


def join(*parts: str) -> Painted:
    """One text of several, of which those that are not painted yet are escaped."""
    return Painted("".join(map(_safe, parts)))


def line(*parts: str) -> None:
    """Print the parts as one line."""
    click.echo(join(*parts))


def rows(lines: Iterable[Iterable[str]], *, right: Iterable[int] = ()) -> None:
    """Print aligned columns, a page at a time: a column grows with its content and never shrinks again.

    ``right`` are the columns that are aligned to the right; no line ends in blanks.
    """
    waiting, widths, to_the_right = iter(lines), [0] * 32, frozenset(right)
    while page := [[(cell, _width(cell)) for cell in map(_safe, cells)] for cells in islice(waiting, PAGE)]:
        for cells in page:
            for column, (_, width) in enumerate(cells):
                widths[column] = max(widths[column], width)
        click.echo("\n".join(_aligned(cells, widths, to_the_right) for cells in page))


def _aligned(cells: list[tuple[str, int]], widths: list[int], right: frozenset[int]) -> str:
    padded: list[str] = []
    for column, (cell, width) in enumerate(cells):
        space = " " * (widths[column] - width)
        padded.append(space + cell if column in right else cell + space)
    return "  ".join(padded).rstrip()


def _safe(text: str) -> str:
    return text if isinstance(text, Painted) else printable(text)


def _width(cell: str) -> int:
    return len(click.unstyle(cell)) if "\033" in cell else len(cell)


# -- JSON ------------------------------------------------------------------------------------------------------------
# The json module, not msgspec: the size of a whole 64-bit space is 2**64, which msgspec's encoder does not take.
# ASCII only, so that no text from a log reaches a terminal raw in this form either. Imported when it is asked for,
# since an answer in text can do without it.


def json_lines(items: Iterable[dict[str, Any]]) -> None:
    """One object a line."""
    waiting = iter(items)
    while page := list(islice(waiting, PAGE)):
        click.echo("\n".join(_compact(item) for item in page), color=False)


def json_array(items: Iterable[dict[str, Any]]) -> None:
    """One array of objects, each on a line of its own, so that a long one can be streamed and grepped."""
    opening = "["
    for item in items:
        click.echo(f"{opening}\n  {_compact(item)}", nl=False, color=False)
        opening = ","
    click.echo("[]" if opening == "[" else "\n]", color=False)


def json_document(document: Any) -> None:
    """One document, indented."""
    import json

    click.echo(json.dumps(document, indent=2), color=False)


def _compact(item: dict[str, Any]) -> str:
    import json

    return json.dumps(item, separators=(",", ":"))
