"""The machine a VM pretends to be: which numbers exist, which of them are spoken for, and who is filled first.

A platform is data. It is written whole into a VM's first event, so a log needs nothing from this file's constants to be
replayed. The shipped profiles are in ``profiles.py``. Why separate from the allocator: this says what *may* be given;
``allocator.py`` knows what *is*.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from itertools import pairwise
from typing import Any, Literal, TypeAlias, cast

import msgspec
from msgspec.structs import force_setattr

from esrm import names
from esrm.core.resources import Space, bounds
from esrm.errors import InvalidName, InvalidPlatform

Range: TypeAlias = tuple[int, int]
"""First and last number, both inclusive."""


class Reserved(msgspec.Struct, frozen=True):
    """Numbers that are never handed out, and the name of what owns them (``IOAPIC``)."""

    space: Space
    first: int
    last: int
    owner: str

    def __str__(self) -> str:
        return f"{self.owner} ({bounds(self.space, self.first, self.last)})"


class Platform(msgspec.Struct, frozen=True):
    """The numbers a VM may hand out.

    Attributes:
        name: what people call it.
        pools: for each space the inclusive ranges that may be given; they may touch but not overlap.
        reserved: ranges inside (or outside) the pools that are never given, each with its owner's name; each may also
            be written as (space, first, last, owner).
        shared_irq: the wired line that all who ask for "any shared line" share, or None.
            It may lie outside the pool, so that nobody else can take it (Dragonball's line 5).
        policy: ``first`` fills from the bottom, ``last`` from the top, where a constraint does not say.
        joined: spaces that draw from another space's pool (crosvm: MSIs from the legacy lines' pool).

    Raises:
        InvalidPlatform: a range is upside down or too wide, pools overlap, or the parts contradict each other.
    """

    name: str
    pools: Mapping[Space, Sequence[Range]] = {}
    reserved: Sequence[Reserved] = ()
    shared_irq: int | None = None
    policy: Literal["first", "last"] = "first"
    joined: dict[Space, Space] = {}

    def __post_init__(self) -> None:
        _text("platform", self.name)
        pools = {_space(s): _ranges(self.name, _space(s), r) for s, r in _table(self.name, "pools", self.pools)}
        joined = {_space(s): _space(host) for s, host in _table(self.name, "joined", self.joined)}
        force_setattr(self, "pools", pools)
        force_setattr(self, "joined", joined)
        if not isinstance(cast(Any, self.reserved), (tuple, list)):
            raise InvalidPlatform(f"{self.name}: reserved is a list of (space, first, last, owner)")
        force_setattr(self, "reserved", tuple(_reserved(self.name, r) for r in self.reserved))
        if self.policy not in ("first", "last"):
            raise InvalidPlatform(f"{self.name}: policy {self.policy!r:.40} is neither first nor last")
        if self.shared_irq is not None:
            _check(self.name, Space.LEGACY_IRQ, self.shared_irq, self.shared_irq)
        for space, host in joined.items():
            if host in joined or space in pools:
                raise InvalidPlatform(f"{self.name}: {space.value} has a pool of its own and cannot draw from another")
            if host.last > space.last:
                raise InvalidPlatform(f"{self.name}: {space.value} is too narrow for the numbers of {host.value}")

    def home(self, space: Space) -> Space:
        """The space whose pools serve ``space``: itself, unless the two are joined."""
        return self.joined.get(space, space)

    def kin(self, space: Space) -> list[Space]:
        """The spaces whose numbers come out of the same pools: itself, and those that it is joined with."""
        return [other for other in Space if self.home(other) is self.home(space)]


def _space(value: Any) -> Space:
    if type(value) is Space:  # asked fifty times a platform, and Enum's own look-up takes ten times as long
        return value
    try:
        return Space(value)
    except ValueError:
        raise InvalidPlatform(f"{value!r:.40} is no space; there are {', '.join(s.value for s in Space)}") from None


def _text(what: str, value: Any) -> str:
    try:
        return names.check(what, value)
    except InvalidName as error:
        raise InvalidPlatform(str(error)) from None


def _table(platform: str, field: str, value: Any) -> Iterable[tuple[Any, Any]]:
    if not isinstance(value, Mapping):
        raise InvalidPlatform(f"{platform}: {field} is a table by space, got {type(value).__name__}")
    return cast("Mapping[Any, Any]", value).items()


def _check(platform: str, space: Space, first: Any, last: Any) -> Range:
    for number in (first, last):
        if type(number) is not int or not 0 <= number <= space.last:
            raise InvalidPlatform(
                f"{platform}: {space.value} has no number {shown(number)}; its last is {space.last:#x}"
            )
    if first > last:
        raise InvalidPlatform(f"{platform}: {space.value} range {first:#x}-{last:#x} is upside down")
    return first, last


def shown(number: Any, form: str = "#x") -> str:
    """A number in a message; of what is none, or has too many digits, its type."""
    return format(number, form) if type(number) is int and abs(number) < 1 << 128 else f"such {type(number).__name__}"


def _ranges(platform: str, space: Space, ranges: Iterable[Any]) -> tuple[Range, ...]:
    """Checked, in address order."""
    try:
        checked = sorted(_check(platform, space, first, last) for first, last in ranges)
    except (TypeError, ValueError) as error:
        if isinstance(error, InvalidPlatform):
            raise
        raise InvalidPlatform(f"{platform}: {space.value}: a pool is a list of (first, last) pairs") from None
    for below, above in pairwise(checked):
        if above[0] <= below[1]:
            raise InvalidPlatform(
                f"{platform}: {space.value} pools {bounds(space, *below)} and {bounds(space, *above)} overlap"
            )
    return tuple(checked)


def _reserved(platform: str, entry: Any) -> Reserved:
    """A Reserved, also given as (space, first, last, owner)."""
    if not isinstance(entry, Reserved):
        try:
            space, first, last, owner = entry
        except (TypeError, ValueError):
            raise InvalidPlatform(f"{platform}: a reserved range is (space, first, last, owner)") from None
        entry = Reserved(space, first, last, owner)
    space = _space(entry.space)
    _check(platform, space, entry.first, entry.last)
    _text(f"{platform}: a reserved range's owner", entry.owner)
    return entry if space is entry.space else Reserved(space, entry.first, entry.last, entry.owner)


PLATFORM_BYTES_MAX = 65_535
"""A platform file is at most this long, as is the event it goes into; the shipped profiles take 1 KB at most.

Python's own TOML parser takes a minute for as many dots, and four for twice as many.
"""


def decode_platform(data: bytes, name: str) -> Platform:
    """A platform from a file's bytes: JSON if the file's name ends in .json, else TOML (``parse_platform``: its form).

    Raises:
        InvalidPlatform: longer than 65,535 bytes, not TOML or JSON, or does not describe a platform.
    """
    if len(data) > PLATFORM_BYTES_MAX:
        raise InvalidPlatform(f"{name}: more than {PLATFORM_BYTES_MAX:,} bytes, so no platform file")
    try:
        document: Any = (msgspec.json if name.endswith(".json") else msgspec.toml).decode(data)
    except (msgspec.DecodeError, RecursionError, ValueError) as error:
        # RecursionError and UnicodeDecodeError (a ValueError) escape msgspec on hostile bytes.
        raise InvalidPlatform(f"{name}: {error}") from error
    if not isinstance(document, dict):
        raise InvalidPlatform(f"{name}: expected a table with a name and pools")
    return parse_platform(cast("dict[str, Any]", document))


def parse_platform(document: Mapping[str, Any]) -> Platform:
    """A platform from a parsed TOML or JSON file, in which numbers may also be written as text ("0xfec00000").

    ::

        name = "tiny"
        shared_irq = 5
        [pools]
        mmio = [["0xd0000000", "0xdfffffff"]]
        legacy_irq = [[5, 15]]
        [[reserved]]
        space = "mmio"
        first = 0xd0000000
        last = 0xd0000fff
        owner = "boot timer"

    Raises:
        InvalidPlatform: something is missing, misspelt or contradicts itself; the message names the place.
    """
    known = set(Platform.__struct_fields__)
    unknown = sorted(set(document) - known)
    if unknown or "name" not in document:
        what = f"unknown field {unknown[0]!r:.60}" if unknown else "no name"
        raise InvalidPlatform(f"platform: {what}; the fields are {', '.join(Platform.__struct_fields__)}")
    try:
        return msgspec.convert(_numbers(document), Platform)
    except msgspec.ValidationError as error:
        raise InvalidPlatform(f"platform: {error}") from None


_TEXTS = frozenset({"name", "owner"})


def _numbers(value: Any, depth: int = 0) -> Any:
    """Text that is a hexadecimal number becomes one, wherever a name cannot stand."""
    if depth > 8:
        raise InvalidPlatform("platform: nested too deeply")
    if isinstance(value, Mapping):
        items = cast("Mapping[str, Any]", value).items()
        return {key: item if key in _TEXTS else _numbers(item, depth + 1) for key, item in items}
    if isinstance(value, list):
        return [_numbers(item, depth + 1) for item in cast("list[Any]", value)]
    if isinstance(value, str) and value.startswith("0x"):
        try:
            return int(value, 16)
        except ValueError:
            raise InvalidPlatform(f"platform: {value!r:.40} is not a hexadecimal number") from None
    return value
