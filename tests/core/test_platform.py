"""Platforms: what contradicts itself is refused, files are loaded, and the shipped profiles keep their numbers."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import msgspec
import pytest
from hypothesis import given
from strategies import bounded, platforms

import esrm
from esrm import (
    AddressConflict,
    GenericIrqConstraint,
    InvalidPlatform,
    LegacyIrqConstraint,
    MmioConstraint,
    PioConstraint,
    Platform,
    Reserved,
    Space,
    decide,
)
from esrm.core.events import decode, encode
from esrm.core.platform import parse_platform

# -- what is refused -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({"pools": {Space.MMIO: [(0, 9), (9, 20)]}}, "pools 0x0-0x9 and 0x9-0x14 overlap"),
        ({"pools": {Space.MMIO: [(5, 6), (0, 9)]}}, "pools 0x0-0x9 and 0x5-0x6 overlap"),
        ({"pools": {Space.LEGACY_IRQ: [(5, 5), (5, 5)]}}, "pools 5 and 5 overlap"),
        ({"pools": {Space.MMIO: [(9, 0)]}}, "range 0x9-0x0 is upside down"),
        ({"pools": {Space.PIO: [(0, 0x10000)]}}, "pio has no number 0x10000; its last is 0xffff"),
        ({"pools": {Space.MMIO: [(0, 2**64)]}}, "mmio has no number 0x10000000000000000"),
        ({"pools": {Space.LEGACY_IRQ: [(0, 2**32)]}}, "legacy_irq has no number"),
        ({"pools": {Space.MAC: [(0, 2**48)]}}, "mac has no number"),
        ({"pools": {Space.MMIO: [(-1, 5)]}}, "mmio has no number -0x1"),
        ({"pools": {Space.MMIO: [(0, 10**5000)]}}, "mmio has no number such int"),
        ({"pools": {Space.MMIO: [(0, True)]}}, "mmio has no number such bool"),
        ({"pools": {Space.MMIO: [(0, 5.0)]}}, "mmio has no number such float"),
        ({"pools": {Space.MMIO: [(0, "5")]}}, "mmio has no number such str"),
        ({"pools": {Space.MMIO: [(0, None)]}}, "mmio has no number such NoneType"),
        ({"pools": {Space.MMIO: [(1, 2, 3)]}}, r"a pool is a list of \(first, last\) pairs"),
        ({"pools": {Space.MMIO: [5]}}, r"a pool is a list of \(first, last\) pairs"),
        ({"pools": {Space.MMIO: 5}}, r"a pool is a list of \(first, last\) pairs"),
        ({"pools": {"ports": [(0, 1)]}}, "'ports' is no space; there are pio, mmio"),
        ({"pools": {5: []}}, "5 is no space"),
        ({"pools": [(0, 1)]}, "pools is a table by space, got list"),
        ({"pools": None}, "pools is a table by space, got NoneType"),
        ({"reserved": [Reserved(Space.MMIO, 5, 4, "x")]}, "upside down"),
        ({"reserved": [(Space.PIO, 0, 0x10000, "x")]}, "pio has no number"),
        ({"reserved": [("ports", 0, 1, "x")]}, "'ports' is no space"),
        ({"reserved": [(Space.PIO, 0, 1)]}, "a reserved range is"),
        ({"reserved": [5]}, "a reserved range is"),
        ({"reserved": 5}, "reserved is a list"),
        ({"reserved": [(Space.PIO, 0, 1, "")]}, "owner: the name is empty"),
        ({"reserved": [(Space.PIO, 0, 1, None)]}, "owner: expected text, got NoneType"),
        ({"reserved": [(Space.PIO, 0, 1, "a\x00b")]}, "holds a character that does not print"),
        ({"shared_irq": -1}, "legacy_irq has no number -0x1"),
        ({"shared_irq": 2**32}, "legacy_irq has no number"),
        ({"shared_irq": "5"}, "legacy_irq has no number such str"),
        ({"shared_irq": True}, "legacy_irq has no number such bool"),
        ({"policy": "best"}, "policy 'best' is neither first nor last"),
        ({"policy": "exact"}, "policy 'exact' is neither"),
        ({"joined": {Space.MSI_IRQ: Space.MSI_IRQ}}, "cannot draw from another"),
        ({"joined": {Space.MSI_IRQ: Space.MMIO}}, "msi_irq is too narrow for the numbers of mmio"),
        ({"joined": {"msi": "irq"}}, "'msi' is no space"),
        ({"joined": 5}, "joined is a table by space"),
        (
            {"pools": {Space.MSI_IRQ: [(0, 9)]}, "joined": {Space.MSI_IRQ: Space.LEGACY_IRQ}},
            "msi_irq has a pool of its own",
        ),
        ({"name": ""}, "platform: the name is empty"),
        ({"name": 5}, "platform: expected text, got int"),
        ({"name": "x" * 10_000_000}, "10,000,000 characters"),
        ({"name": "\ud800"}, "does not print"),
    ],
)
def test_a_platform_that_contradicts_itself_is_refused(fields: dict[str, Any], said: str) -> None:
    """Overlapping, upside-down, too wide, misspelt: each is refused when it is built, in a short sentence."""
    with pytest.raises(InvalidPlatform, match=said) as refused:
        Platform(**{"name": "p", **fields})
    assert len(str(refused.value)) < 250
    assert isinstance(refused.value, ValueError)


def test_pools_may_touch_and_come_in_any_order() -> None:
    """Pools that touch are two pools, kept in address order, and room is found across the seam."""
    platform = Platform("p", {"mmio": [[0x1000, 0x1FFF], [0, 0xFFF]]})
    assert platform.pools == {Space.MMIO: ((0, 0xFFF), (0x1000, 0x1FFF))}
    state = esrm.replay([esrm.VmCreated(platform)])
    assert decide.plan(state, [MmioConstraint(0x2000)]).fits


def test_whole_spaces_are_platforms() -> None:
    """Every space may be given from its first number to its last."""
    platform = Platform("p", {space: [(0, space.last)] for space in Space})
    assert all(usage.free == space.last + 1 for space, usage in _vm(platform).allocator.usage().items())


@given(platforms())
@bounded(100)
def test_a_platform_comes_back_from_the_wire(platform: Platform) -> None:
    """It is written whole into the first event, and read back equal."""
    assert decode(encode(esrm.VmCreated(platform))) == esrm.VmCreated(platform)


# -- files -----------------------------------------------------------------------------------------------------------

TINY = Platform(
    "tiny",
    {Space.MMIO: [(0xD000_0000, 0xDFFF_FFFF)], Space.LEGACY_IRQ: [(5, 15)]},
    [(Space.MMIO, 0xD000_0000, 0xD000_0FFF, "boot timer")],
    shared_irq=5,
    policy="last",
    joined={Space.MSI_IRQ: Space.LEGACY_IRQ},
)
TOML = """
name = "tiny"
shared_irq = 5
policy = "last"
[pools]
mmio = [["0xd0000000", "0xdfffffff"]]
legacy_irq = [[5, 15]]
[[reserved]]
space = "mmio"
first = 0xd0000000
last = "0xd0000fff"
owner = "boot timer"
[joined]
msi_irq = "legacy_irq"
"""


def test_a_platform_from_a_toml_file(tmp_path: Path) -> None:
    """Numbers may be numbers or hexadecimal text."""
    (tmp_path / "tiny.toml").write_text(TOML)
    assert esrm.load_platform(tmp_path / "tiny.toml") == TINY
    assert esrm.load_platform(str(tmp_path / "tiny.toml")) == TINY


def test_a_platform_from_a_json_file(tmp_path: Path) -> None:
    """What a platform encodes to is a file it can be loaded from, and so is the same with hexadecimal text."""
    (tmp_path / "tiny.json").write_bytes(msgspec.json.encode(TINY))
    assert esrm.load_platform(tmp_path / "tiny.json") == TINY
    wide = {"name": "wide", "pools": {"mmio": [["0x0", "0xffffffffffffffff"]]}}
    (tmp_path / "wide.json").write_text(json.dumps(wide))
    assert esrm.load_platform(tmp_path / "wide.json").pools == {Space.MMIO: ((0, 2**64 - 1),)}


@pytest.mark.parametrize("name", esrm.platforms.names())
def test_every_profile_can_be_written_to_a_file_and_loaded(name: str, tmp_path: Path) -> None:
    """A profile is a starting point: as JSON it can be changed and given back."""
    profile = esrm.platforms.get(name)
    (tmp_path / "mine.json").write_bytes(msgspec.json.encode(profile))
    assert esrm.load_platform(tmp_path / "mine.json") == profile


@pytest.mark.parametrize(
    ("suffix", "text", "said"),
    [
        ("toml", "name = ", "mine.toml"),
        ("toml", "pools = {}", "no name; the fields are name, pools"),
        ("toml", "name = 'x'\npoools = {}", "unknown field 'poools'"),
        ("toml", "name = 5", "name"),
        ("toml", "name = 'x'\n[pools]\nmmio = [[0]]", "pools"),
        ("toml", "name = 'x'\n[pools]\nports = [[0, 1]]", "ports"),
        ("toml", "name = 'x'\n[pools]\nmmio = [['0xzz', 1]]", "'0xzz' is not a hexadecimal number"),
        ("toml", "name = 'x'\n[pools]\nmmio = [['ten', 1]]", "pools"),
        ("toml", "name = 'x'\n[pools]\nmmio = [[9, 1]]", "upside down"),
        ("toml", "name = 'x'\n[[reserved]]\nspace = 'mmio'\nfirst = 1\nlast = 2", "owner"),
        ("json", "", "mine.json"),
        ("json", "[]", "expected a table"),
        ("json", "null", "expected a table"),
        ("json", "{}", "no name"),
        ("json", '{"name": "x"', "mine.json"),
        ("json", '{"name": "x", "pools": {"mmio": [[0, 1e400]]}}', "mine.json"),
        ("json", '{"name": "x", "pools": {"mmio": [[0, 18446744073709551616]]}}', "no number"),
        ("json", '{"name": "x", "pools": ' + "[" * 30_000 + "]" * 30_000 + "}", "mine.json|too deep"),
        ("json", '{"name": "x", "pools": ' + "[" * 20 + "]" * 20 + "}", "nested too deeply"),
        ("json", '{"name": "x", "pools": ' + '{"a": ' * 20 + "0" + "}" * 20 + "}", "nested too deeply"),
        ("json", '{"name": "' + "x" * 60_000 + '"}', "60,000 characters"),
        ("json", '{"name": "x"}' + " " * 10_000_000, "more than 65,535 bytes"),
        ("toml", "name = 'x'\n" + "a." * 10_000_000 + "a = 1", "more than 65,535 bytes"),
    ],
)
def test_a_file_that_is_no_platform_is_refused(suffix: str, text: str, said: str, tmp_path: Path) -> None:
    """Whatever stands in the file, the answer is InvalidPlatform with a short reason."""
    path = tmp_path / f"mine.{suffix}"
    path.write_text(text)
    with pytest.raises(InvalidPlatform, match=said) as refused:
        esrm.load_platform(path)
    assert len(str(refused.value)) < 400 + len(str(path))


def test_a_platform_file_is_short(tmp_path: Path) -> None:
    """65,535 bytes are read, one more is refused."""
    path = tmp_path / "long.json"
    path.write_text('{"name": "x"}'.ljust(65_535))
    assert esrm.load_platform(path) == Platform("x")
    path.write_text('{"name": "x"}'.ljust(65_536))
    with pytest.raises(InvalidPlatform, match="more than 65,535 bytes"):
        esrm.load_platform(path)


def test_files_that_cannot_be_read(tmp_path: Path) -> None:
    """A missing file, a folder, and bytes that are no text are refused and named."""
    (tmp_path / "bytes.json").write_bytes(b'{"name": "\xff\xfe"}')
    (tmp_path / "bytes.toml").write_bytes(b"\xff\xfe\x00")
    (tmp_path / "folder.json").mkdir()
    for name in ("missing.toml", "folder.json", "bytes.json", "bytes.toml"):
        with pytest.raises(InvalidPlatform, match=name):
            esrm.load_platform(tmp_path / name)


def test_a_name_may_look_like_a_number() -> None:
    """Only what stands where a number is expected is read as one."""
    document = {"name": "0xbox", "reserved": [{"space": "mmio", "first": "0x0", "last": 1, "owner": "0xabc"}]}
    assert parse_platform(document) == Platform("0xbox", reserved=[(Space.MMIO, 0, 1, "0xabc")])


# -- the shipped profiles --------------------------------------------------------------------------------------------

MIB, GIB, TIB = 1 << 20, 1 << 30, 1 << 40
RAM_END = 256 * GIB  # the default of `get`
BITS = {"x86_64": 46, "aarch64": 40}


def sized(base: int, size: int) -> tuple[int, int]:
    """First and last address of so many."""
    return base, base + size - 1


# Two tables, copied from the project's collected facts (each peer's source files are named there), not from the code.
# "-" means that the table says nothing or that it is for the peer's user to choose.
POOLS: dict[str, dict[Space, Any]] = {
    "dragonball-x86_64": {
        Space.PIO: [(0x0, 0xFFFF)],
        Space.LEGACY_IRQ: [(5, 15)],
        Space.MSI_IRQ: [(24, 1023)],
        Space.MMIO: [(0xC0000000, 0xFFFFFFFF), (1 << 45, (1 << 46) - 1)],
        Space.MEM: [(0, 0xBFFFFFFF), (4 * GIB, (1 << 45) - 1)],
        Space.KVM_MEM_SLOT: [(0, 509)],
    },
    "cloud-hypervisor-x86_64": {
        Space.PIO: [(0x0, 0xFFFF)],
        Space.LEGACY_IRQ: [(5, 23)],
        Space.MSI_IRQ: [(24, 4095)],
        Space.MMIO: [sized(0xC0000000, 640 * MIB), (RAM_END, (1 << 46) - 64 * 1024 - MIB - 1)],
        Space.MEM: [(0, 0xBFFFFFFF), (4 * GIB, RAM_END - 1)],
        Space.KVM_MEM_SLOT: [(0, 2**32 - 1)],
    },
    "crosvm-x86_64": {
        Space.PIO: [(0xC000, 0xFFFF)],
        Space.LEGACY_IRQ: [(9, 1023)],
        Space.MSI_IRQ: Space.LEGACY_IRQ,
        Space.MMIO: [(0xD0000000, 0xF7FFFFFF), (RAM_END + 2 * 64 * MIB, (1 << 46) - 1)],
        Space.MEM: [(0, 0xCFFFFFFF), (4 * GIB, RAM_END - 1)],
    },
    "firecracker-x86_64": {
        Space.PIO: None,
        Space.LEGACY_IRQ: [(5, 23)],
        Space.MSI_IRQ: [(24, 4095)],
        Space.MMIO: [(0xC0001000, 0xEEBFFFFF), sized(256 * GIB, 256 * GIB)],
        Space.MEM: [(0, 3 * GIB - 1), (4 * GIB, 256 * GIB - 1), (512 * GIB, (1 << 46) - 1)],
    },
    "dragonball-aarch64": {
        Space.PIO: [(0x0, 0xFFFF)],
        Space.LEGACY_IRQ: [(32, 159)],
        Space.MSI_IRQ: [(160, 1023)],
        Space.MMIO: [(0x40000000, 0x7FFFFFFF), (0xF800000000, (1 << 40) - 1)],
        Space.MEM: [(0x80000000, 0xF7FFFFFFFF)],
        Space.KVM_MEM_SLOT: [(0, 512)],
    },
    "cloud-hypervisor-aarch64": {
        Space.PIO: [sized(0, 64 * 1024)],
        Space.LEGACY_IRQ: [(32, 4095)],
        Space.MSI_IRQ: [(32, 4095)],
        Space.MMIO: [sized(0x10000000, 512 * MIB), (RAM_END, (1 << 40) - 1)],
        Space.MEM: [(0x40000000, 0xFC000000 - 1), (4 * GIB, RAM_END - 1)],
        Space.KVM_MEM_SLOT: [(0, 2**32 - 1)],
    },
    "crosvm-aarch64": {
        Space.PIO: None,
        Space.LEGACY_IRQ: [(4, 1023)],
        Space.MSI_IRQ: Space.LEGACY_IRQ,
        Space.MMIO: [sized(0x02000000, 32 * MIB), (RAM_END + GIB, (1 << 40) - 1)],
        Space.MEM: [(0x80000000, RAM_END - 1)],
    },
    "firecracker-aarch64": {
        Space.PIO: None,
        Space.LEGACY_IRQ: [(0, 95)],
        Space.MSI_IRQ: [(96, 4095)],
        Space.MMIO: [(0x40003000, 0x6FFFFFFF), sized(256 * GIB, 256 * GIB)],
        Space.MEM: [(0x80000000, 256 * GIB - 1), (512 * GIB, (1 << 40) - 1)],
    },
    "x86_64": {
        Space.PIO: [(0x0, 0xFFFF)],
        Space.LEGACY_IRQ: [(5, 23)],
        Space.MSI_IRQ: [(24, 4095)],
        Space.MMIO: [(0xC0001000, 0xEEBFFFFF), sized(256 * GIB, 256 * GIB)],
        Space.KVM_MEM_SLOT: [(0, 32763)],
    },
    "aarch64": {
        Space.PIO: [(0x0, 0xFFFF)],
        Space.LEGACY_IRQ: [(0, 95)],
        Space.MSI_IRQ: [(96, 4095)],
        Space.MMIO: [(0x40003000, 0x6FFFFFFF), sized(256 * GIB, 256 * GIB)],
        Space.KVM_MEM_SLOT: [(0, 32763)],
    },
}
FIXED: dict[str, list[tuple[Space, int, int]]] = {
    "dragonball-x86_64": [(Space.MMIO, 0xFC000000, 0xFFFFFFFF)],
    "cloud-hypervisor-x86_64": [
        (Space.MMIO, *sized(0xE8000000, 256 * MIB)),
        (Space.MMIO, *sized(0xFEC00000, 0x20)),
        (Space.MMIO, *sized(0xFEE00000, 0x1000)),
        (Space.MMIO, *sized(0xFED40000, 0x1000)),
        (Space.MMIO, *sized(0xF8000000, 12 * 1024)),
    ],
    "crosvm-x86_64": [
        (Space.MMIO, 0xF4000000, 0xF7FFFFFF),
        (Space.MMIO, *sized(4 * GIB - 128 * MIB, 128 * MIB)),
        (Space.LEGACY_IRQ, 5, 5),
        (Space.LEGACY_IRQ, 3, 4),
        (Space.LEGACY_IRQ, 8, 8),
    ],
    "firecracker-x86_64": [
        (Space.PIO, 0x3F8, 0x3FF),
        (Space.PIO, 0xCF8, 0xCFF),
        (Space.MMIO, *sized(0xEEC00000, 256 * MIB)),
        (Space.MMIO, *sized(0xFEC00000, 0x1000)),
        (Space.MMIO, *sized(0xFEE00000, 0x1000)),
        (Space.MMIO, 0xFFFBD000, 0xFFFBD000),
    ],
    "dragonball-aarch64": [],
    "cloud-hypervisor-aarch64": [
        (Space.MMIO, *sized(0x30000000, 256 * MIB)),
        (Space.MMIO, *sized(0x09050000, 64 * 1024)),
    ],
    "crosvm-aarch64": [(Space.MMIO, *sized(0x10000, 16 * MIB))],
    "firecracker-aarch64": [(Space.MMIO, *sized(0x70000000, 256 * MIB))],
    "x86_64": [
        (Space.PIO, 0x20, 0x21),
        (Space.PIO, 0xA0, 0xA1),
        (Space.PIO, 0x40, 0x43),
        (Space.PIO, 0x60, 0x60),
        (Space.PIO, 0x64, 0x64),
        (Space.PIO, 0x70, 0x71),
        (Space.PIO, 0xCF8, 0xCFF),
        (Space.MMIO, *sized(0xFEC00000, 0x1000)),
        (Space.MMIO, *sized(0xFEE00000, 0x1000)),
    ],
    "aarch64": [(Space.MMIO, *sized(0x70000000, 256 * MIB))],
}
SHARED = {"dragonball-x86_64": 5, "dragonball-aarch64": 32}


def test_the_shipped_profiles() -> None:
    """Two of esrm's own, and one for each peer and architecture."""
    peers = ["dragonball", "cloud-hypervisor", "crosvm", "firecracker"]
    expected = {"x86_64", "aarch64", *(f"{peer}-{arch}" for peer in peers for arch in BITS)}
    assert set(esrm.platforms.names()) == expected == set(POOLS) == set(FIXED)
    assert len(esrm.platforms.names()) == 10


@pytest.mark.parametrize("name", sorted(POOLS))
def test_a_profile_has_the_numbers_of_the_table(name: str) -> None:
    """Pools, joined pools, the shared line and the name, as the table has them."""
    profile = esrm.platforms.get(name)
    assert profile.name == name
    assert profile.shared_irq == SHARED.get(name)
    for space, expected in POOLS[name].items():
        if isinstance(expected, Space):
            assert profile.joined == {space: expected}
        else:
            assert list(profile.pools.get(space, ())) == (expected or []), space


@pytest.mark.parametrize("name", sorted(FIXED))
def test_what_a_profile_reserves_is_never_handed_out(name: str) -> None:
    """What the table fixes is reserved by somebody's name; asked for exactly it is refused, and the owner is named."""
    profile = esrm.platforms.get(name)
    state = _vm(profile)
    for space, first, last in FIXED[name]:
        assert any(r.space is space and r.first <= first and last <= r.last for r in profile.reserved), (space, first)
    for entry in profile.reserved:
        for number in {entry.first, entry.last}:
            (placement,) = decide.plan(state, [_exactly(entry.space, number)]).placements
            assert placement.refusal is not None
            assert placement.refusal.code == AddressConflict.__name__
            assert entry.owner in placement.refusal.message
            assert [h.owner for h in placement.refusal.blockers if h.reserved]


@pytest.mark.parametrize("name", sorted(POOLS))
def test_first_fit_steps_over_what_is_reserved(name: str) -> None:
    """Filled to the brim with lines and large ranges, a profile gives nothing that is reserved."""
    profile = esrm.platforms.get(name)
    wishes: list[Any] = [LegacyIrqConstraint()] * 5 + [GenericIrqConstraint(8)] * 5 + [MmioConstraint(32 * MIB)] * 8
    if profile.pools.get(Space.PIO):
        wishes += [PioConstraint(0x10)] * 16 + [PioConstraint(1)] * 64
    state = _vm(profile)
    (placement,) = decide.plan(state, wishes).placements
    assert placement.refusal is None
    for space, first, last in map(esrm.core.resources.span, placement.resources):
        reserved = [r for r in profile.reserved if profile.home(r.space) is profile.home(space)]
        assert not [r for r in reserved if r.first <= last and first <= r.last]


@pytest.mark.parametrize("name", sorted(POOLS))
@pytest.mark.parametrize(
    ("bits", "ram_end"),
    [(36, 8 * GIB), (36, None), (38, None), (39, 300 * GIB), (46, TIB), (48, 1 << 47), (52, 4 * GIB + 1)],
)
def test_every_profile_builds_at_every_width(name: str, bits: int, ram_end: int | None) -> None:
    """From 36 to 52 address bits, whatever the RAM (a default fits every width), nothing contradicts itself and nothing
    reaches past the width."""
    profile = esrm.platforms.get(name, phys_bits=bits, ram_end=ram_end)
    assert all(last < 1 << bits for s in (Space.MMIO, Space.MEM) for _, last in profile.pools[s])
    for space, pools in profile.pools.items():
        assert all(first <= last for first, last in pools), space


def test_no_number_of_a_profile_changes_by_accident() -> None:
    """Each profile as it is, on a small machine and on the widest: who means to change a number does it here, too."""
    lines = (Path(__file__).parent / "profiles.jsonl").read_text().splitlines()
    assert {json.loads(line)["name"] for line in lines} == set(esrm.platforms.names())
    for line in lines:
        said = json.loads(line)
        sizes = {key: said[key] for key in ("phys_bits", "ram_end") if said[key] is not None}
        assert json.loads(msgspec.json.encode(esrm.platforms.get(said["name"], **sizes))) == said["platform"]


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ({"name": "x86"}, "no platform profile 'x86'; did you mean x86_64"),
        ({"name": "zzz"}, "no platform profile 'zzz'; there are x86_64, aarch64"),
        ({"name": "z" * 10_000_000}, "no platform profile 'zzz"),
        ({"name": None}, "no platform profile None"),
        ({"name": "x86_64", "phys_bits": 35}, "phys_bits 35 is outside 36-52"),
        ({"name": "x86_64", "phys_bits": 53}, "phys_bits 53 is outside 36-52"),
        ({"name": "x86_64", "phys_bits": 36, "ram_end": 64 * GIB}, "ram_end 0x1000000000 is outside"),
        ({"name": "x86_64", "ram_end": 4 * GIB}, "ram_end 0x100000000 is outside"),
        ({"name": "x86_64", "ram_end": -1}, "ram_end -0x1 is outside"),
        ({"name": "x86_64", "phys_bits": "46"}, "phys_bits such str is outside 36-52"),
        ({"name": "x86_64", "phys_bits": 46.0}, "phys_bits such float is outside 36-52"),
        ({"name": "x86_64", "phys_bits": 10**5000}, "phys_bits such int is outside 36-52"),
        ({"name": "x86_64", "ram_end": 10**5000}, "ram_end such int is outside"),
        ({"name": "x86_64", "ram_end": "256G"}, "ram_end such str is outside"),
    ],
)
def test_a_profile_that_cannot_be_had(arguments: dict[str, Any], said: str) -> None:
    """An unknown name is refused with what comes close; widths and ends outside the range with the range."""
    with pytest.raises(InvalidPlatform, match=said) as refused:
        esrm.platforms.get(**arguments)
    assert len(str(refused.value)) < 400


def _vm(platform: Platform) -> esrm.VmState:
    return esrm.replay([esrm.VmCreated(platform)])


def _exactly(space: Space, number: int) -> Any:
    if space is Space.LEGACY_IRQ:
        return LegacyIrqConstraint(number)
    kind = PioConstraint if space is Space.PIO else MmioConstraint
    return kind(1, range=(number, number), align=1, policy="exact")
