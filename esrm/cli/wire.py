"""Records and devices as JSON: the wire's own names in the wire's order, each number of a space in hexadecimal too.

Consumers that read JSON numbers as floating point lose integers above 2**53, so every address and size ``first`` is
followed by a text ``first_hex``, and ``time_ns`` by ``time``. Separate from ``output.py``, which prints what is made
here. Next: ``core/events.py``, whose names these are.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import msgspec

from esrm.core.events import Event
from esrm.core.state import DeviceState
from esrm.stores.records import Record, iso

if TYPE_CHECKING:
    from collections.abc import Mapping

_NUMBERS = frozenset({
    "align", "base", "first", "free", "held", "hole_max", "hole_max_aligned", "last", "range", "reserved",
    "size", "total", "window",
})  # fmt: skip


def exact_time(time_ns: int) -> str:
    """ISO text in UTC, to the nanosecond."""
    return f"{iso(time_ns)[:20]}{time_ns % 1_000_000_000:09}Z"


def record(found: Record[Event]) -> dict[str, Any]:
    """A record, with its event."""
    return {
        "position": found.position,
        "vm": found.vm,
        "revision": found.revision,
        "id": found.id,
        "time_ns": found.time_ns,
        "time": exact_time(found.time_ns),
        "actor": found.actor,
        "correlation": found.correlation,
        "event": hexed(msgspec.to_builtins(found.event)),
        "hash": found.hash,
    }


def device(state: DeviceState) -> dict[str, Any]:
    """A device at some moment."""
    return {
        "device": state.name,
        "kind": state.kind,
        "parent": state.parent,
        "phase": state.phase.value,
        "constraints": hexed(msgspec.to_builtins(state.constraints)),
        "resources": hexed(msgspec.to_builtins(state.allocated)),
    }


def hexed(value: Any) -> Any:
    """The same value, with a ``_hex`` text behind each number of a space, at any depth."""
    if isinstance(value, dict):
        return _hexed_object(value)  # pyright: ignore[reportUnknownArgumentType]
    if isinstance(value, (list, tuple)):
        return [hexed(item) for item in value]  # pyright: ignore[reportUnknownVariableType]
    return value


def _hexed_object(value: Mapping[str, Any]) -> dict[str, Any]:
    result: dict[str, Any] = {}
    for key, item in value.items():
        result[key] = hexed(item)
        if key in _NUMBERS and (text := _hex(item)) is not None:
            result[f"{key}_hex"] = text
        elif key == "pools":
            result["pools_hex"] = {space: _hex(ranges) or [] for space, ranges in item.items()}
    return result


def _hex(value: Any) -> Any:
    """Numbers, and lists of them however deep, as hexadecimal text; None for anything else."""
    if type(value) is int:
        return hex(value)
    if isinstance(value, (list, tuple)):
        texts = [_hex(item) for item in value]  # pyright: ignore[reportUnknownVariableType]
        return texts if texts and None not in texts else None
    return None
