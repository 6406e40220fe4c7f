"""The facts and their wire form.

Events are past tense and final: each says what *happened*, with the outcome in it, so that replay needs no allocator
and no constant of this code. One codec turns them into compact JSON and back; those bytes are what is stored, hashed,
streamed, and described by ``schemas/``.

Once released, a tag, a field's name and its meaning never change. New fields have defaults; a shape that is given up
keeps its tag in ``UPCASTERS``. Next: ``lifecycle.py`` (which event may follow which) and ``state.py`` (what it means).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeAlias

import msgspec

from esrm.core.platform import Platform
from esrm.core.resources import Resource, ResourceConstraint, Space, bounds
from esrm.errors import Corrupt, Malformed, TooLarge

LOG_FORMAT = 1
"""The format that this version writes; it reads 1 to this."""

EVENT_BYTES_MAX = 65_535
"""An encoded event is at most this long."""


class Holding(msgspec.Struct, frozen=True, gc=False):
    """Who holds what: ``first`` to ``last`` of a space, inclusive. ``reserved`` when the platform itself does."""

    owner: str
    space: Space
    first: int
    last: int
    reserved: bool = False

    def __str__(self) -> str:
        return f"{self.owner} ({bounds(self.space, self.first, self.last)}{', reserved' if self.reserved else ''})"


class Refusal(msgspec.Struct, frozen=True, gc=False):
    """Why a constraint could not be met: all numbers are of the window that was searched, at that moment.

    Attributes:
        code: the name of the error class (``NoSpace``, ``AddressConflict``, ``OutOfRange``).
        message: the reason as a sentence.
        index: which of the device's constraints, from 0.
        constraint: what was asked.
        space: where.
        window: the inclusive range that was searched.
        free: how many numbers were free in it, in ``holes`` separate holes.
        hole_max: the largest hole. hole_max_aligned: the largest that is left of one after aligning its start.
        blockers: who held something in the window, at most ``BLOCKERS_MAX``, in address order.
        releases: the fewest devices (at most ``BLOCKERS_MAX``) whose own resources are in the way; empty if it takes
            more, or none would do. What lies inside them is not looked at, and must be released before them.
    """

    code: str
    message: str
    index: int
    constraint: ResourceConstraint
    space: Space
    window: tuple[int, int]
    free: int
    holes: int
    hole_max: int
    hole_max_aligned: int
    blockers: tuple[Holding, ...] = ()
    releases: tuple[str, ...] = ()


class Move(msgspec.Struct, frozen=True, gc=False):
    """One re-placement: ``device`` gave up ``old`` and holds ``new``, of the same kind and size, in its stead."""

    device: str
    old: Resource
    new: Resource


class _Event(msgspec.Struct, frozen=True, gc=False, tag_field="type", tag=True):
    pass


class VmCreated(_Event, frozen=True, gc=False):
    """A VM began, on this platform. Always the first event of its stream, and only that."""

    platform: Platform
    format: int = LOG_FORMAT


class DeviceCreated(_Event, frozen=True, gc=False):
    """A device began its life, perhaps inside another one (behind a bridge)."""

    device: str
    kind: str = ""
    parent: str | None = None


class ConstraintsDeclared(_Event, frozen=True, gc=False):
    """The device said what it needs; a later declaration replaces an earlier one."""

    device: str
    constraints: tuple[ResourceConstraint, ...] = ()


class ResourcesAllocated(_Event, frozen=True, gc=False):
    """The device was given resources that meet its constraints, in their order, all of them at once."""

    device: str
    resources: tuple[Resource, ...] = ()


class AllocationRefused(_Event, frozen=True, gc=False):
    """The device's constraints could not be met. Nothing was taken."""

    device: str
    refusal: Refusal


class ResourcesAssigned(_Event, frozen=True, gc=False):
    """The device was told what it holds, and accepted."""

    device: str


class DeviceRegistered(_Event, frozen=True, gc=False):
    """The device answers on the buses that its resources call for."""

    device: str


class UnplugRequested(_Event, frozen=True, gc=False):
    """The guest was asked to let go of the device."""

    device: str


class UnplugRefused(_Event, frozen=True, gc=False):
    """The guest kept the device; ``reason`` is what it said."""

    device: str
    reason: str = ""


class DeviceUnregistered(_Event, frozen=True, gc=False):
    """The device no longer answers."""

    device: str


class ResourcesReleased(_Event, frozen=True, gc=False):
    """All that the device held was given back; ``reason`` says why when it was not simply asked for."""

    device: str
    resources: tuple[Resource, ...] = ()
    reason: str = ""


class ResourcesMoved(_Event, frozen=True, gc=False):
    """Resources of one or more devices were re-placed, as one fact: none of the old ranges was free meanwhile."""

    moves: tuple[Move, ...] = ()


class DeviceRemoved(_Event, frozen=True, gc=False):
    """The device's life ended; its name may be used again."""

    device: str


Event: TypeAlias = (
    VmCreated
    | DeviceCreated
    | ConstraintsDeclared
    | ResourcesAllocated
    | AllocationRefused
    | ResourcesAssigned
    | DeviceRegistered
    | UnplugRequested
    | UnplugRefused
    | DeviceUnregistered
    | ResourcesReleased
    | ResourcesMoved
    | DeviceRemoved
)
"""Anything that can happen to a VM; ``type`` tells them apart on the wire."""


_KINDS = frozenset(_Event.__subclasses__())
TYPES = tuple(event.__name__ for event in _Event.__subclasses__())
"""The tags of all events, in the order above."""


# -- the codec -------------------------------------------------------------------------------------------------------

_encoder = msgspec.json.Encoder()
_decoder: msgspec.json.Decoder[Event] = msgspec.json.Decoder(Event)

UPCASTERS: dict[str, Callable[[dict[str, Any]], dict[str, Any]]] = {}
"""For each tag or shape given up: from a document with that ``type`` to one of the next version. None yet."""


def encode(event: Event) -> bytes:
    """The event's bytes: compact JSON, fields in declaration order, every default written out.

    Raises:
        TooLarge: more than 65,535 bytes.
        Malformed: no event, or one with a field of another type, or that no JSON holds, such as half a character.
    """
    if type(event) not in _KINDS:
        raise Malformed(f"not an event: {event!r:.80}")
    try:
        data = _encoder.encode(event)
        # Structs take whatever they are given. What could not be read again would stand in the log for ever, in the
        # way of all who read it: so it is read, for 1 us.
        _decoder.decode(data)
    except (msgspec.MsgspecError, TypeError, ValueError, RecursionError) as error:
        raise Malformed(f"{type(event).__name__}: {error!s:.200}") from error
    if len(data) > EVENT_BYTES_MAX:
        raise TooLarge(
            f"{type(event).__name__} takes {len(data):,} bytes; an event has at most {EVENT_BYTES_MAX:,}. "
            "Put less into one: fewer constraints, moves, pools or reserved ranges, or smaller groups of KVM slots"
        )
    return data


def decode(data: bytes) -> Event:
    """The event that ``encode`` made these bytes of, in this or an older version. Unknown fields are skipped.

    Raises:
        Corrupt: not an event's bytes; for an unknown ``type`` the message names it.
    """
    if len(data) > EVENT_BYTES_MAX:  # first, so that nobody's gigabyte is parsed
        raise Corrupt(f"an event of {len(data):,} bytes; none is longer than {EVENT_BYTES_MAX:,}")
    try:
        return _decoder.decode(data)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        # UnicodeDecodeError and RecursionError escape msgspec on hostile bytes; DecodeError covers ValidationError.
        return _decode_anew(data, error)


def upcast(document: dict[str, Any]) -> dict[str, Any]:
    """Lift an older document, version by version, to the shape of today."""
    while (step := UPCASTERS.get(document.get("type", ""))) is not None:
        document = step(document)
    return document


def _decode_anew(data: bytes, error: Exception) -> Event:
    """The slow path: an older shape is lifted; anything else is named and refused."""
    try:
        document = msgspec.json.decode(data, type=dict[str, Any])
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        raise Corrupt(f"not an event: {error}") from error
    tag = document.get("type")
    if not isinstance(tag, str):
        raise Corrupt("not an event: it has no type") from error
    if tag in UPCASTERS:
        try:
            return msgspec.convert(upcast(document), Event)
        except Exception as stumble:  # whatever an upcaster does with what its version never wrote
            raise Corrupt(f"{tag[:80]}, an older shape: {stumble!r:.200}") from stumble
    if tag not in TYPES:
        raise Corrupt(
            f"unknown event type {tag[:80]!r}: this version reads log format {LOG_FORMAT}; "
            "a newer esrm may know it, so upgrade before you read this log"
        ) from error
    raise Corrupt(f"{tag}: {error}") from error
