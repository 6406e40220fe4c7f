"""The address map over time as one HTML page: what it is told, and how that is put in safely.

Separate from the commands that gather the document, and from ``page.html``, ``page.css`` and ``page.js``, which draw
it: here is only the border between the two, where a device's name is still somebody else's text. Pure: a document in,
a page out; nothing is read but these three files. Next: ``page.html``.

Three walls, each enough alone against a name such as ``</script><img onerror=...>``:

1. the document is JSON in a script element that no browser runs, without one ``<``, ``>`` or ``&`` in it;
2. the page's script makes text nodes of what it reads, never markup;
3. a content security policy allows our own script and style, by their hashes, and no request at all.
"""

from __future__ import annotations

import html
import json
import re
from base64 import b64encode
from collections.abc import Mapping
from hashlib import sha256
from importlib.resources import files
from typing import NotRequired, TypedDict

_FIRST = b"<!doctype html>\n<!--\n  A VM's address map over time, in a browser"
# What could open or end an element, a comment or an entity, or (to older tools) a line of JavaScript.
_HOSTILE = {ord(character): f"\\u{ord(character):04x}" for character in "<>&\u2028\u2029"}


class Reserved(TypedDict):
    """A stretch that the platform gives to nobody; bounds inclusive, ``0x`` hexadecimal."""

    first: str
    last: str
    owner: str


class SpaceEntry(TypedDict):
    """A space, in the order in which the page shows them; one in which nothing was ever held gets no picture."""

    name: str
    pools: NotRequired[list[list[str]]]
    """Inclusive ``[first, last]`` pairs, hexadecimal."""
    reserved: NotRequired[list[Reserved]]


class Moment(TypedDict):
    """One event. A refusal's reason is its summary."""

    revision: int
    time: str
    """ISO 8601, UTC, such as ``2026-11-22T07:00:00.123456Z``."""
    type: str
    device: str | None
    actor: str | None
    summary: str
    refused: bool


# The functional form, because ``from`` is a keyword.
HoldingEntry = TypedDict(
    "HoldingEntry",
    {
        "space": str,
        "first": str,
        "last": str,
        "device": str,
        "kind": str,
        "from": int,
        "to": int | None,
        "allocated_by": int,
    },
)
"""A range and its holder: inclusive hexadecimal bounds, held from revision ``from`` on and no longer at ``to``
(None: still held at the log's end). ``allocated_by`` is the revision whose event gave it."""


class Document(TypedDict):
    """All that the page shows. Addresses are hexadecimal strings: a browser's numbers are exact to 2^53 only.

    ``moments`` has every event, by revision. Ranges of one space may lie inside one another (a bus and its devices) and
    may coincide (the sharers of an interrupt line); the page draws the inner ones deeper, and sharers side by side.
    """

    title: str
    generated: str
    platform: str
    spaces: list[SpaceEntry]
    moments: list[Moment]
    holdings: list[HoldingEntry]


def render(document: Mapping[str, object]) -> str:
    """The page for a `Document`, complete in itself: no network, opens from a file, deep link ``#rev=12``.

    The same document gives the same page. Write it as UTF-8. Raises `TypeError` or `ValueError` for what JSON
    cannot say, `KeyError` for a document without a title.
    """
    page, style, script = (
        files("esrm.cli").joinpath(f"page.{kind}").read_text("utf-8") for kind in ("html", "css", "js")
    )
    parts = {
        "TITLE": _sound(html.escape(str(document["title"]))),
        "POLICY": f"default-src 'none'; base-uri 'none'; style-src {_digest(style)}; script-src {_digest(script)}",
        "STYLE": style,
        "DOCUMENT": _inert(document),
        "SCRIPT": script,
    }
    # One pass, so that a device called @SCRIPT@ is only a device.
    return re.sub("@([A-Z]+)@", lambda match: parts[match[1]], page)


def is_page(data: bytes) -> bool:
    """Whether a file begins as our pages do."""
    return data.startswith(_FIRST)


def _inert(document: Mapping[str, object]) -> str:
    """The document as JSON that no HTML parser can mistake for anything else."""
    text = json.dumps(dict(document), allow_nan=False, ensure_ascii=False, separators=(",", ":"))
    return _sound(text.translate(_HOSTILE))


def _sound(text: str) -> str:
    """The text with each half of a torn surrogate pair as ``?``: UTF-8 cannot say it, and browsers crash on it."""
    return text.encode("utf-8", "replace").decode()


def _digest(code: str) -> str:
    """What a content security policy calls this inline style or script."""
    return f"'sha256-{b64encode(sha256(code.encode()).digest()).decode()}'"
