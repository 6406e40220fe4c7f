"""The commands about layouts: map, tree, diff, blame, bisect, stats."""

from __future__ import annotations

import json
from itertools import pairwise

import pytest
from cli_story import HEAD, Ask

import esrm
from esrm.cli.layout import stretches
from esrm.core import decide
from esrm.core.resources import Space

MMIO = """\
mmio: 0xc0001000-0xeebfffff, 0x4000000000-0x7fffffffff
0x00000000c0002000-0x00000000c0002fff : net0 (virtio-net)
0x00000000c0010000-0x00000000c001ffff : bridge0 (pci-bridge)
  0x00000000c0010000-0x00000000c0013fff : nvme0 (nvme)
0x00000000eec00000-0x00000000febfffff : ECAM (reserved)
0x00000000fec00000-0x00000000fec00fff : IOAPIC (reserved)
0x00000000fee00000-0x00000000fee00fff : LAPIC (reserved)
0x00000000fffbd000-0x00000000fffbffff : TSS (reserved)
"""


def test_map_is_shaped_like_proc_iomem(ask: Ask) -> None:
    """A header with the pools, then full-width bounds and the holder, what lies inside another indented."""
    assert ask("map", "--space", "mmio").out == MMIO


def test_map_writes_each_space_in_its_own_notation(ask: Ask) -> None:
    """Ports have four digits, lines, vectors and slots are decimal, runs of slots are one, MACs are MACs."""
    whole = ask("map").out
    assert MMIO in whole
    assert "\n0x0060-0x0060 : i8042 (reserved)\n" in whole
    assert "\nlegacy_irq: 5-23\n5 : net0 (virtio-net)\n" in whole
    assert "\nmsi_irq: 24-4095\n24-27 : nvme0 (nvme)\n" in whole
    assert "\nkvm_mem_slot: 0-32763\n0-1 : ram0 (memory)\n" in whole
    assert whole.endswith("mac: 02:00:00:00:00:00-02:ff:ff:ff:ff:ff\n02:00:00:00:00:00 : ram0 (memory)\n")


def test_map_at_an_earlier_moment(ask: Ask) -> None:
    """Before the move the card lay where it was first put; a space where nothing is appears only when named."""
    assert "0x00000000c0001000-0x00000000c0001fff : net0" in ask("map", "--at", "@~3").out
    assert "mac" not in ask("map", "--at", "5").out
    assert ask("map", "--at", "5", "--space", "mac").out == "mac: 02:00:00:00:00:00-02:ff:ff:ff:ff:ff\n"


def test_map_of_spaces_that_share_numbers() -> None:
    """The space whose pool it is shows all that is taken of it, and no hole where something is; the other its own."""
    state = esrm.replay(decide.create_vm(esrm.VmState(), esrm.platforms.get("crosvm-x86_64")))
    for step in (
        lambda: decide.create(state, "net0"),
        lambda: decide.declare(state, "net0", [esrm.LegacyIrqConstraint(9), esrm.GenericIrqConstraint(4, base=10)]),
        lambda: decide.allocate(state, "net0"),
    ):
        for event in step():
            esrm.evolve(state, event)
    lines = stretches(state, Space.LEGACY_IRQ, free=True)
    assert [(found.space.value, found.first, found.last) for found in lines if found.owner == "net0"] == [
        ("legacy_irq", 9, 9),
        ("msi_irq", 10, 13),
    ]
    assert [(found.first, found.last) for found in lines if found.state == "free"] == [(14, 1023)]
    assert [(found.first, found.last) for found in stretches(state, Space.MSI_IRQ, free=True)] == [(10, 13)]


def test_map_with_holes_leaves_nothing_out(ask: Ask) -> None:
    """Held, reserved and free stretches of a pool touch one another from its first number to its last."""
    spaces = json.loads(ask("map", "--free", "--json").out)["spaces"]
    assert [entry["space"] for entry in spaces] == [space.value for space in Space]
    for entry in spaces:
        for pool in entry["pools"]:
            inside = [
                (found["first"], found["last"])
                for found in entry["ranges"]
                if found["depth"] == 0 and pool["first"] <= found["first"] <= pool["last"]
            ]
            assert (inside[0][0], inside[-1][1]) == (pool["first"], pool["last"])
            assert all(low[1] + 1 == high[0] for low, high in pairwise(inside))


def test_map_as_json_lines_is_one_range_a_line(ask: Ask) -> None:
    """Each with its space, its bounds in both notations, and how deep it lies."""
    lines = [json.loads(line) for line in ask("map", "--space", "mmio", "--jsonl").out.splitlines()]
    assert lines[2] == {
        "space": "mmio",
        "first": 0xC0010000,
        "first_hex": "0xc0010000",
        "last": 0xC0013FFF,
        "last_hex": "0xc0013fff",
        "state": "held",
        "owner": "nvme0",
        "kind": "nvme",
        "depth": 1,
    }


def test_tree_draws_who_is_inside_whom(ask: Ask) -> None:
    """With phases and resources."""
    assert (
        ask("tree").out
        == """\
web-1@24 on x86_64: 5 devices
|-- net0 [virtio-net] registered: mmio 0xc0002000-0xc0002fff, irq 5
|-- bridge0 [pci-bridge] registered: mmio 0xc0010000-0xc001ffff
|   |-- nvme0 [nvme] registered: mmio 0xc0010000-0xc0013fff, pci_msix 24-27
|   `-- big0 declared
`-- ram0 [memory] allocated: mem 0x0-0xfffff, slots 0-1, mac 02:00:00:00:00:00
"""
    )
    assert ask("tree", "--at", "1").out.endswith("1 device\n`-- net0 [virtio-net] created\n")
    document = json.loads(ask("tree", "--json").out)
    assert list(document) == ["vm", "revision", "platform", "devices"]
    assert [d["device"] for d in document["devices"]] == ["net0", "bridge0", "nvme0", "big0", "ram0"]
    assert [json.loads(line) for line in ask("tree", "--jsonl").out.splitlines()] == document["devices"]


def test_diff_is_shaped_like_a_unified_diff(ask: Ask) -> None:
    """New devices, changed ones with what moved, and exit code 1."""
    answer = ask("diff", "15", "@")
    assert answer.code == 1
    assert (
        answer.out
        == """\
--- web-1@15  2026-11-22T07:00:15.000Z
+++ web-1@24  2026-11-22T07:00:24.000Z
~ net0 [virtio-net] registered
    ~ mmio 0xc0001000-0xc0001fff -> mmio 0xc0002000-0xc0002fff
+ big0 declared
+ ram0 [memory] allocated: mem 0x0-0xfffff, slots 0-1, mac 02:00:00:00:00:00
"""
    )


def test_diff_backward_takes_away(ask: Ask) -> None:
    """The later moment first: what came goes, phases go back, and what was asked for is forgotten."""
    assert ask("diff", "21", "19").out.splitlines()[2:] == [
        "~ ram0 [memory] allocated -> created",
        "    ~ asked for mem 0x100000, 2 slots, a mac -> nothing",
        "    - mem 0x0-0xfffff, slots 0-1, mac 02:00:00:00:00:00",
    ]
    assert ask("diff", "16", "15").out.splitlines()[2:] == ["- big0 created"]


def test_diff_of_equal_layouts_is_silent(ask: Ask) -> None:
    """The unplug that came to nothing changed nothing: no line, exit code 0."""
    answer = ask("diff", "22", "24")
    assert (answer.code, answer.out) == (0, "")


def test_diff_as_json_has_both_sides(ask: Ask) -> None:
    """One document with the two revisions; a line a device with --jsonl; None where a device did not live."""
    answer = ask("diff", "15", "--json")
    document = json.loads(answer.out)
    assert answer.code == 1
    assert (document["vm"], document["a"], document["b"]) == ("web-1", 15, HEAD)
    assert [(c["device"], c["change"]) for c in document["changes"]] == [
        ("net0", "changed"), ("big0", "added"), ("ram0", "added"),
    ]  # fmt: skip
    assert document["changes"][1]["before"] is None
    assert document["changes"][0]["after"]["resources"][0]["base_hex"] == "0xc0002000"
    assert [json.loads(line) for line in ask("diff", "15", "--jsonl").out.splitlines()] == document["changes"]


def test_blame_names_holders_and_the_record_that_gave(ask: Ask) -> None:
    """The outer before the inner, each with since when, by whom, as part of what."""
    answer = ask("blame", "mmio", "0xc0010000")
    assert answer.code == 0
    assert (
        answer.out
        == """\
mmio 0xc0010000 at web-1@24: bridge0 (0xc0010000-0xc001ffff)
  since:        revision 8, 2026-11-22T07:00:08.000000000Z
  actor:        vmm
  correlation:  boot
  event:        ResourcesAllocated bridge0: mmio 0xc0010000-0xc001ffff
mmio 0xc0010000 at web-1@24: nvme0 (0xc0010000-0xc0013fff)
  since:        revision 13, 2026-11-22T07:00:13.000000000Z
  actor:        vmm
  correlation:  boot
  event:        ResourcesAllocated nvme0: mmio 0xc0010000-0xc0013fff, pci_msix 24-27
"""
    )


def test_blame_follows_a_move(ask: Ask) -> None:
    """After the guest moved a BAR it is the guest who is named; before, the boot."""
    now = json.loads(ask("blame", "mmio", "0xc0002fff", "--json").out)
    assert (now["revision"], now["address_hex"]) == (HEAD, "0xc0002fff")
    assert now["holders"][0]["holding"]["owner"] == "net0"
    assert (now["holders"][0]["record"]["revision"], now["holders"][0]["record"]["actor"]) == (22, "guest")
    before = json.loads(ask("blame", "mmio", "0xc0001fff", "--at", "21", "--jsonl").out)
    assert before["record"]["revision"] == 3


@pytest.mark.parametrize(
    ("space", "address", "owner"),
    [
        ("legacy_irq", "5", "net0"),
        ("kvm_mem_slot", "1", "ram0"),
        ("mac", "02:00:00:00:00:00", "ram0"),
        ("pio", "0x60", "i8042"),
    ],
)
def test_blame_takes_each_spaces_own_notation(ask: Ask, space: str, address: str, owner: str) -> None:
    """Decimal lines and slots, MAC addresses, ports; what the platform reserves is said to be that."""
    answer = ask("blame", space, address)
    assert answer.code == 0
    assert owner in answer.out.splitlines()[0]
    assert ("reserved by the platform" in answer.out) == (owner == "i8042")


def test_a_mac_address_is_one_of_mac(ask: Ask) -> None:
    """In any other space it is no address, and so nobody's; the answer says how one looks there."""
    answer = ask("blame", "pio", "52:54:00:12:34:56")
    assert (answer.code, answer.out) == (2, "")
    assert "'52:54:00:12:34:56' is no address of pio: write 0xc0001000 or 5" in answer.err


def test_blame_of_nobody_exits_with_1(ask: Ask) -> None:
    """A free address has nobody to name, and a script can tell."""
    answer = ask("blame", "mmio", "0xd0000000")
    assert (answer.code, answer.out) == (1, "mmio 0xd0000000 at web-1@24: nobody\n")
    assert ask("blame", "mmio", "0xd0000000", "--jsonl").out == ""


@pytest.mark.parametrize(
    ("condition", "revision"),
    [
        (["--device", "nvme0"], 11),
        (["--device", "nvme0", "--phase", "unplugging"], 23),
        (["--held", "mmio", "0xc0002000"], 22),
        (["--held", "mmio", "0xc0013fff"], 8),
        (["--free-below", "legacy_irq", "19"], 3),
        (["--free-below", "msi_irq", "0xfe8"], 13),
        (["--device", "ram0", "--held", "mmio", "0xc0002000"], 22),
        (["--refused"], 18),
        (["--refused", "--device", "big0"], 18),
    ],
)
def test_bisect_finds_the_first_record(ask: Ask, condition: list[str], revision: int) -> None:
    """The first revision at which all conditions hold, also when one holds only for a moment."""
    answer = ask("bisect", *condition)
    assert answer.code == 0
    assert int(answer.out.split()[0]) == revision
    assert json.loads(ask("bisect", *condition, "--jsonl").out)["revision"] == revision


@pytest.mark.parametrize(
    "condition",
    [
        ["--device", "gpu0"],
        ["--held", "mmio", "0xfec00000"],
        ["--free-below", "msi_irq", "1"],
        ["--refused", "--device", "net0"],
    ],
)
def test_bisect_of_what_never_was_exits_with_1(ask: Ask, condition: list[str]) -> None:
    """Nothing found is an answer, too. (What the platform reserves, no device ever held.)"""
    answer = ask("bisect", *condition)
    assert (answer.code, answer.out) == (1, "never, in 25 revisions of web-1\n")
    assert ask("bisect", *condition, "--json").out == "[]\n"


def test_stats_counts_the_layout_and_the_log(ask: Ask) -> None:
    """A row a space in its own notation; then events, refusals and phases."""
    lines = ask("stats").out.splitlines()
    assert lines[0] == "web-1@24 on x86_64"
    assert lines[2].split() == ["space", "%", "free", "free", "held", "reserved", "total", "holes", "hole_max"]
    assert lines[3].split() == ["pio", "99", "0xffec", "0x0", "0x14", "0x10000", "8", "0xf300"]
    assert lines[6].split() == ["legacy_irq", "94", "18", "1", "0", "19", "1", "18"]
    assert lines[-7:] == [
        "refusals",
        "  1  NoSpace",
        "",
        "devices",
        "  1  declared",
        "  1  allocated",
        "  3  registered",
    ]
    document = json.loads(ask("stats", "--json").out)
    assert list(document) == ["vm", "revision", "platform", "spaces", "events", "refusals", "devices"]
    assert document["refusals"] == {"NoSpace": 1}
    assert document["devices"] == {"declared": 1, "allocated": 1, "registered": 3}
    assert sum(document["events"].values()) == HEAD + 1
    assert document["spaces"][1]["held_hex"] == "0x11000"
    for usage in document["spaces"]:
        assert usage["free"] + usage["held"] + usage["reserved"] == usage["total"]


def test_stats_at_an_earlier_moment(ask: Ask) -> None:
    """Only what had happened by then."""
    assert ask("stats", "--at", "17").out.count("refusals: none") == 1
