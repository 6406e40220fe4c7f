"""What may be a name: of a VM, a device, an actor, a correlation.

Separate and at the very bottom, because the core (devices) and the stores (streams, actors) must agree on it and
neither may import the other.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, cast

from esrm.errors import InvalidName

NAME_MAX = 255
"""Characters in a name, at most."""


def check(what: str, name: str, *, empty: bool = False) -> str:
    """The name itself, if it is one: 1 to 255 printable characters (none allowed when ``empty``).

    What is a ``str`` of a class of its own, such as a ``StrEnum``, is returned as plain text: so it is kept and read.

    Raises:
        InvalidName: says which rule it breaks.
    """
    if type(name) is str and 0 < len(name) <= NAME_MAX and name.isprintable():
        return name  # one look when all is well: each append asks this twice or three times
    if not isinstance(cast(Any, name), str):
        raise InvalidName(f"{what}: expected text, got {type(name).__name__}")
    name = str.__str__(name)  # the text itself, whatever str() says of its class
    if len(name) > NAME_MAX:
        raise InvalidName(f"{what}: {name[:24]!r}... has {len(name):,} characters; at most {NAME_MAX} are allowed")
    if not name and not empty:
        raise InvalidName(f"{what}: the name is empty")
    if not name.isprintable():
        raise InvalidName(f"{what}: {name!r:.80} holds a character that does not print")
    return name


def suggestion(name: object, known: Iterable[str]) -> str:
    """A hint for somebody who named what does not exist: what comes close, else some of what there is."""
    from difflib import get_close_matches  # only on this path, and slow to import

    some, text = list(known)[:10_000], str(name)[:NAME_MAX]
    within = [other for other in some if text in other] if len(text) > 2 else []
    close = list(dict.fromkeys([*get_close_matches(text, some, n=3), *within]))[:3]
    if close:
        return f"did you mean {' or '.join(close)}?"
    shown = ", ".join(some[:12]) + (", ..." if len(some) > 12 else "")
    return f"there {'are' if len(some) > 1 else 'is'} {shown or 'none'}"
