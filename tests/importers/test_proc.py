"""What the Linux importer reads: text from real kernels (``machines/README.md``), and text that nobody should trust."""

import os
import re
import shutil
import sys
import tempfile
from functools import cache
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from esrm.errors import Refused
from esrm.importers.layout import Node, layout
from esrm.importers.linux import rehearsed
from esrm.importers.proc import (
    Bar,
    Interrupt,
    Machine,
    PciFunction,
    Region,
    parse_function,
    parse_interrupts,
    parse_regions,
    read_machine,
)

MACHINES = Path(__file__).parent / "machines"
NAMES = sorted(folder.name for folder in MACHINES.iterdir() if folder.is_dir())
LINE = re.compile(r" *([0-9a-f]+)-([0-9a-f]+) : (.*)")

every_machine = pytest.mark.parametrize("machine", NAMES)


def nodes_of(machine: str) -> dict[str, Node]:
    """The layout of one of the machines, by name."""
    return {node.name: node for node in layout(read_machine(MACHINES / machine))}


@cache
def texts() -> list[tuple[str, str]]:
    """(kind, text) of every /proc file of every machine."""
    kinds = ("iomem", "ioports", "interrupts")
    return [(path.name, path.read_text()) for path in sorted(MACHINES.rglob("*")) if path.name in kinds]


def claims(machine: str, file: str) -> list[tuple[int, int, str]]:
    """(first, last, label) of each line, read the simplest way there is."""
    path = next((MACHINES / machine).rglob(file))
    matches = (LINE.fullmatch(line) for line in path.read_text().splitlines())
    return [(int(match[1], 16), int(match[2], 16), match[3]) for match in matches if match]


def check_sound(nodes: tuple[Node, ...]) -> None:
    """What every layout promises, whatever it was made from."""
    known: dict[str, Node] = {}
    for node in nodes:
        assert node.name not in known
        if node.parent is not None:
            parent = known[node.parent]  # so it came before
            for space, first, last in node.ranges:
                windows = [(low, high) for where, low, high in parent.ranges if where == space]
                assert not windows or any(low <= first and last <= high for low, high in windows)
        assert all(first <= last for _, first, last in node.ranges)
        assert list(node.irqs) == sorted(set(node.irqs))
        known[node.name] = node
    rehearsed(nodes)  # a VM can be that: nobody holds what somebody else holds, but those around


# -- real machines ----------------------------------------------------------------------------------------------------


@every_machine
def test_every_line_is_in_the_layout(machine: str) -> None:
    """Each line of iomem and ioports is one range of one node with its name, and no range comes from nowhere."""
    nodes = layout(read_machine(MACHINES / machine))
    check_sound(nodes)
    for file, spaces in (("iomem", ("mmio", "mem")), ("ioports", ("pio",))):
        held = [(first, last, node.name) for node in nodes for space, first, last in node.ranges if space in spaces]
        lines = claims(machine, file)
        assert len(held) == len(lines)
        for first, last, label in lines:
            assert any(place[:2] == (first, last) and place[2].split("/")[-1] == label for place in held)


@every_machine
def test_reading_twice_gives_the_same(machine: str) -> None:
    """Names and order are stable, so a second import of an unchanged machine has nothing to record."""
    assert layout(read_machine(MACHINES / machine)) == layout(read_machine(MACHINES / machine))


@every_machine
def test_every_interrupt_has_an_owner(machine: str) -> None:
    """No numbered line of /proc/interrupts is lost."""
    read = read_machine(MACHINES / machine)
    held = {irq for node in layout(read) for irq in (*node.irqs, *(base for _, base, _ in node.msis))}
    assert {interrupt.number for interrupt in read.interrupts} <= held


def test_hot_plug_adds_and_renames_nobody() -> None:
    """One more network card is two more nodes, itself and its driver; everything else is untouched."""
    before, after = nodes_of("q35"), nodes_of("q35-hotplug")
    assert set(after) - set(before) == {"0000:02:00.0", "0000:02:00.0/virtio-pci-modern"}
    assert all(after[name] == node for name, node in before.items())
    assert after["0000:02:00.0"].parent == "PCI Bus 0000:02"


def test_one_node_for_one_holder() -> None:
    """Claims of one name in one place are one node: two keyboard ports, three pieces of RAM, a bus in both spaces."""
    nodes = nodes_of("cloud-vm")
    assert nodes["keyboard"].ranges == (("pio", 0x60, 0x60), ("pio", 0x64, 0x64))
    assert len(nodes["System RAM"].ranges) == 3
    assert {space for space, _, _ in nodes["PCI Bus 0000:00"].ranges} == {"mmio", "pio"}
    assert "PCI ECAM 0000 [bus 00-00]/PCI Bus 0000:00" in nodes


def test_ram_and_what_lies_in_it_is_memory() -> None:
    """System RAM and the kernel inside it are ``mem``; the rest of iomem is ``mmio``."""
    for machine in NAMES:
        nodes = nodes_of(machine)
        memory = {name for name, node in nodes.items() if any(space == "mem" for space, _, _ in node.ranges)}
        assert memory == {name for name in nodes if name == "System RAM" or nodes[name].parent == "System RAM"}


def test_a_function_is_one_node_over_both_spaces() -> None:
    """BARs in memory and ports, at different places of the text, are one PCI function with its class as its kind."""
    disk = nodes_of("q35")["0000:00:03.0"]
    assert disk.kind == "pci-010000"
    assert disk.ranges == (("mmio", 0xFE400000, 0xFE403FFF), ("mmio", 0xFEA95000, 0xFEA95FFF), ("pio", 0xC000, 0xC07F))


def test_functions_without_ranges_are_there() -> None:
    """A host bridge holds nothing and is still a node, on its bus where the text names that bus."""
    assert nodes_of("q35")["0000:00:00.0"] == Node("0000:00:00.0", "pci-060000", "PCI Bus 0000:00")
    assert nodes_of("aarch64-virt")["0000:00:00.0"] == Node("0000:00:00.0", "pci-060000")


def test_flattened_indentation_is_nested_again() -> None:
    """Below its fifth level the kernel stops indenting; containment says who is inside whom."""
    nodes = nodes_of("q35-bridges")
    path = ["0000:05:02.0/virtio-pci-modern"]
    while parent := nodes[path[-1]].parent:
        path.append(parent)
    assert path[1:] == ["0000:05:02.0", *(f"PCI Bus 0000:{bus:02x}" for bus in (5, 4, 3, 2, 1, 0))]
    assert nodes["0000:04:01.0"].parent == "PCI Bus 0000:04"


@pytest.mark.parametrize(
    ("machine", "owner", "irqs"),
    [
        ("q35", "rtc0", (8,)),  # exactly that name
        ("q35", "serial", (4,)),  # ttyS0, by its standard port
        ("cloud-vm", "serial", (26,)),
        ("q35", "0000:00:1f.3", (16,)),  # shared: "i801_smbus, uhci_hcd:usb1"
        ("q35", "0000:00:1d.0", (16,)),
        ("q35", "0000:00:1d.1", (17,)),  # the other uhci_hcd, told apart by its line
        ("q35", "i8042", (1, 12)),  # not the keyboard: that would be a guess
        ("microvm", "virtio0", (49,)),
        ("aarch64-virt", "rtc-pl031", (16,)),
        ("aarch64-virt", "arch_timer", (11,)),
    ],
)
def test_wired_lines_go_to_whom_the_action_names(machine: str, owner: str, irqs: tuple[int, ...]) -> None:
    """By an exact or documented rule, else to a node of its own."""
    assert nodes_of(machine)[owner].irqs == irqs


@pytest.mark.parametrize(
    ("machine", "function", "kind", "bases"),
    [
        ("cloud-vm", "0000:00:04.0", "pci_msix", (40, 41, 42, 43)),
        ("q35", "0000:00:1f.2", "pci_msi", (29,)),
        ("q35", "0000:00:02.0", "pci_msix", (33, 34, 35)),  # allocated, not requested: only /sys knows
        ("aarch64-virt", "0000:00:02.0", "pci_msix", (19, 20, 21)),
    ],
)
def test_messages_go_to_the_function_that_sends_them(
    machine: str, function: str, kind: str, bases: tuple[int, ...]
) -> None:
    """With the mode that /sys tells."""
    assert nodes_of(machine)[function].msis == tuple((kind, base, 1) for base in bases)


def test_without_sys_messages_still_find_their_function() -> None:
    """The chip's name (new kernels) or the hardware number (old ones) holds the sender's address."""
    for machine, function, bases in (("cloud-vm", "0000:00:04.0", 4), ("q35", "0000:00:03.0", 3)):
        read = read_machine(MACHINES / machine)
        bare = Machine(read.iomem, read.ioports, read.interrupts)
        assert len({node.name: node for node in layout(bare)}[function].msis) == bases


def test_only_sys() -> None:
    """With no /proc at all, functions stand at the top with the BARs that /sys tells."""
    functions = read_machine(MACHINES / "q35").pci
    nodes = layout(Machine(pci=functions))
    check_sound(nodes)
    assert [node.name for node in nodes] == [function.address for function in functions]
    whole = nodes_of("q35")
    for node in nodes:
        if node.name != "0000:00:1f.0":  # its ports are the ACPI driver's claim, not a BAR
            assert set(node.ranges) == set(whole[node.name].ranges)


@pytest.mark.skipif(sys.platform != "linux", reason="reads this machine's own /proc")
def test_this_machine() -> None:
    """The live machine gives a sound layout or, to an ordinary user, the reason why not."""
    try:
        check_sound(layout(read_machine(Path("/"))))
    except Refused as error:
        assert "CAP_SYS_ADMIN" in str(error)  # noqa: PT017 - either outcome is right


# -- folders ----------------------------------------------------------------------------------------------------------


def test_a_flat_folder_reads_like_a_tree(tmp_path: Path) -> None:
    """Copies may stand without proc/ and sys/."""
    for name in ("iomem", "ioports", "interrupts"):
        shutil.copy(MACHINES / "q35" / "proc" / name, tmp_path)
    shutil.copytree(MACHINES / "q35/sys/bus/pci/devices", tmp_path / "pci")
    assert read_machine(tmp_path) == read_machine(MACHINES / "q35")


@pytest.mark.parametrize("file", ["iomem", "ioports", "interrupts"])
def test_one_file_is_enough(tmp_path: Path, file: str) -> None:
    """Any part may be missing, and an arm64 machine without PCI has an empty /proc/ioports."""
    (tmp_path / "ioports").touch()
    shutil.copy(MACHINES / "microvm" / file, tmp_path)
    assert layout(read_machine(tmp_path))


@pytest.mark.parametrize("prepare", ["nothing", "empty files", "no folder", "pipe"])
def test_nothing_to_read(tmp_path: Path, prepare: str) -> None:
    """The error says what was looked for, and does not wait on a pipe."""
    root = tmp_path / "absent" if prepare == "no folder" else tmp_path
    if prepare == "empty files":
        (root / "iomem").touch()
    if prepare == "pipe":
        os.mkfifo(root / "iomem")
    with pytest.raises(Refused, match=r"nothing to import.*proc/iomem.*sys/bus/pci/devices"):
        read_machine(root)


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"00-0f : a\n\xff\n", r"iomem:2: byte 0xff is not text"),
        (b"00-0f : a\n10-1f : b\0\n", r"iomem:2: holds a NUL byte"),
        (None, r"iomem: more than 67,108,864 bytes"),
    ],
)
def test_files_that_are_no_text(tmp_path: Path, data: bytes | None, message: str) -> None:
    """Binary and boundless files are refused by name, and where it helps by line."""
    path = tmp_path / "iomem"
    path.write_bytes(data or b"")
    if data is None:
        os.truncate(path, 64 * 2**20 + 1)
    with pytest.raises(Refused, match=message):
        read_machine(tmp_path)


# -- regions ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("file", ["iomem", "ioports"])
def test_zeros_alone_are_refused_with_the_way_out(file: str) -> None:
    """An ordinary user sees zeros: the message says why, and what to do."""
    text = re.sub(r"[0-9a-f]+-[0-9a-f]+ :", "00000000-00000000 :", (MACHINES / "q35/proc" / file).read_text())
    with pytest.raises(Refused, match=r"every address is zero.*CAP_SYS_ADMIN.*as root.*copy"):
        parse_regions(text, f"/proc/{file}")


def test_zeros_among_addresses_are_passed_over() -> None:
    """The kernel left emptied bus windows in the tree for some releases; what stood in them belongs one level up."""
    text = "000a0000-000fffff : Reserved\n  00000000-00000000 : PCI Bus 0000:00\n    000f0000-000fffff : System ROM\n"
    assert parse_regions(text) == (Region(0xA0000, 0xFFFFF, "Reserved", (Region(0xF0000, 0xFFFFF, "System ROM"),)),)


def test_carriage_returns_do_not_matter() -> None:
    """A copy that went through another system is the same text."""
    text = (MACHINES / "q35/proc/iomem").read_text()
    assert parse_regions(text.replace("\n", "\r\n")) == parse_regions(text)


def test_a_child_may_fill_its_parent() -> None:
    """A driver claims its whole BAR and is still inside it; both are told apart by name."""
    nodes = layout(Machine(iomem=parse_regions("00-0f : a\n  00-0f : a\n    00-0f : a\n")))
    assert [(node.name, node.parent) for node in nodes] == [("a", None), ("a/a", "a"), ("a/a/a", "a/a")]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("garbage\n", r"f:1: expected '<first>-<last> : <name>' in hexadecimal, got 'garbage'"),
        ("00-0f : a\n\t10-1f : b\n", r"f:2: expected"),
        ("00-0f : a\n 00-0f : b\n", r"f:2: expected"),
        ("00-10000000000000000 : a\n", r"f:1: expected"),
        ("1f-10 : a\n", r"f:1: a \(0x1f-0x10\) ends before it begins"),
        ("00-0f : a\n    00-0f : b\n", r"f:2: b \(0x0-0xf\) is indented deeper than a child"),
        ("00-0f : a\n  00-10 : b\n", r"f:2: b \(0x0-0x10\) does not lie inside a \(0x0-0xf\)"),
        ("00-0f : a\n0f-1f : b\n", r"f:2: b \(0xf-0x1f\) overlaps its neighbour a \(0x0-0xf\)"),
        ("00-0f : a\n00-0f : a\n", r"f:2: a \(0x0-0xf\) overlaps its neighbour a"),
        ("10-1f : a\n00-0f : b\n", r"f:2: b \(0x0-0xf\) stands after its neighbour a"),
        ("00-0f : a\x1b[31m\n", r"f:1: .*character"),
        ("00-0f : " + "a" * 300, r"f:1: .*at most 255"),
        ("".join(f"{'  ' * depth}0-fff : a\n" for depth in range(1_000)), r"f:33: .*inside more than 32 others"),
        ("".join(f"{'  ' * min(depth, 5)}0-{5000 - depth:x} : a\n" for depth in range(1_000)), r"f:33: .*more than 32"),
    ],
)
def test_what_is_no_region_tree(text: str, message: str) -> None:
    """Each fault is refused with file, line, and both parties where there are two."""
    with pytest.raises(Refused, match=message):
        parse_regions(text, "f")


def test_ten_megabytes() -> None:
    """Size alone is no fault: 200,000 lines are read, and as much garbage is refused at its first line."""
    lines = (f"{base:016x}-{base + 15:016x} : device {base:x}\n" for base in range(16, 16 * 210_000, 16))
    text = "".join(lines)
    assert len(text) > 10_000_000
    assert len(parse_regions(text)) == 209_999
    for parse in (parse_regions, parse_interrupts):
        with pytest.raises(Refused, match=r"f:1: "):
            parse("x" * 10_000_000, "f")
        with pytest.raises(Refused, match=r"f:2: "):
            parse("\nfe dc" * 2_000_000, "f")


# -- interrupts -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("line", "interrupt"),
    [
        ("16: 0 IO-APIC 16-fasteoi i801_smbus, uhci_hcd:usb1",
         Interrupt(16, "IO-APIC", "16", "fasteoi", ("i801_smbus", "uhci_hcd:usb1"))),
        ("27: 0 GICv3 23 Level arm-pmu", Interrupt(27, "GICv3", "23", "Level", ("arm-pmu",))),
        ("10: 0 SiFive PLIC 10 Edge ttyS0", Interrupt(10, "SiFive PLIC", "10", "Edge", ("ttyS0",))),
        ("0: 9 XT-PIC timer", Interrupt(0, "XT-PIC", "", None, ("timer",))),
        ("4: 9 IO-APIC-edge serial", Interrupt(4, "IO-APIC", "", "edge", ("serial",))),
        ("5: 1 - 7 gpio button", Interrupt(5, "-", "7", None, ("gpio button",))),
        ("28: 0 IR-PCI-MSIX-0000:00:01.0 0-edge virtio0-config",
         Interrupt(28, "IR-PCI-MSIX-0000:00:01.0", "0", "edge", ("virtio0-config",), "0000:00:01.0", True)),
        ("30: 12 PCI-MSI 524288-edge nvme0q0",
         Interrupt(30, "PCI-MSI", "524288", "edge", ("nvme0q0",), "0000:01:00.0", True)),
        ("22: 0 ITS-MSI 16384 Edge virtio0-config",
         Interrupt(22, "ITS-MSI", "16384", "Edge", ("virtio0-config",), "0000:00:01.0", True)),
        ("24: 0 DMAR-MSI 0-edge dmar0", Interrupt(24, "DMAR-MSI", "0", "edge", ("dmar0",), None, True)),
        ("48: 7 xen-percpu -virq timer0", Interrupt(48, "xen-percpu", "", "virq", ("timer0",))),
        ("90: 7 xen-pirq -msi-x eth0", Interrupt(90, "xen-pirq", "", "msi-x", ("eth0",), None, True)),
        ("3: 0 RISC-V IMSIC 3 Edge ipi", Interrupt(3, "RISC-V IMSIC", "3", "Edge", ("ipi",))),
    ],
)  # fmt: skip
def test_lines_of_many_kernels(line: str, interrupt: Interrupt) -> None:
    """Chip, hardware number, trigger and actions are told apart, though several may be missing or joined."""
    assert parse_interrupts(f"  CPU0\n{line}\n") == (interrupt,)


def test_summaries_have_no_number() -> None:
    """NMI, LOC, ERR, IPI0 count events of a CPU, not of a device."""
    text = "  CPU0 CPU1\nNMI: 0 0 Non-maskable interrupts\nIPI0: 1 2 Rescheduling interrupts\nERR: 0\n\n"
    assert parse_interrupts(text) == ()


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("24: 1 IO-APIC 5-edge x\n", r"f:1: expected a heading of CPUs"),
        ("CPU0 CPU1\n24: 1 IO-APIC 5-edge x\n", r"f:2: interrupt 24: expected 2 counts and a controller"),
        ("CPU0\n24: 1\n", r"f:2: interrupt 24: expected 1 counts"),
        ("CPU0\n\n24 1 IO-APIC\n", r"f:3: expected '<number>:'"),
        ("CPU0\n99999999999: 1 IO-APIC\n", r"f:2: expected '<number>:'"),
        ("CPU0\n4294967296: 1 IO-APIC\n", r"f:2: interrupt 4294967296"),
        ("CPU0\n٣: 1 IO-APIC\n", r"f:2: expected '<number>:'"),
        ("CPU0\n1: 1 IO-APIC 1-edge a\x7f\n", r"f:2: .*character"),
    ],
)
def test_what_is_no_interrupt_table(text: str, message: str) -> None:
    """Each fault is refused with file and line."""
    with pytest.raises(Refused, match=message):
        parse_interrupts(text, "f")


SERIAL = "02f8-02ff : serial\n03f8-03ff : serial\n"


@pytest.mark.parametrize(
    ("ports", "line", "owner"),
    [
        ("00-0f : rtc0\n", "8: 1 IO-APIC 8-edge rtc0", "rtc0"),
        ("00-0f : a\n  00-07 : x\n10-1f : b\n  10-17 : x\n", "8: 1 IO-APIC 8-edge x", "irq-user/x"),  # which x?
        ("00-0f : 0000:00:1f.2\n", "8: 1 IO-APIC 8-edge ahci[0000:00:1f.2]", "0000:00:1f.2"),
        ("00-0f : 0000:00:1f.3\n  00-0f : i801\n", "8: 1 IO-APIC 8-edge i801", "0000:00:1f.3"),
        (SERIAL, "3: 1 IO-APIC 3-edge ttyS1", "serial"),
        (SERIAL, "3: 1 IO-APIC 3-edge ttyS2", "ttyS2"),
        (SERIAL, "3: 1 HPET-MSI 3-edge serial", "serial"),
        (
            "00-0f : a\n",
            "3: 1 PCI-MSI-0000:00:1c.0 0-edge PCIe PME, aerdrv",
            "0000:00:1c.0",
        ),  # nothing else tells of it
        ("00-0f : a\n", "3: 1 HPET-MSI 3-edge x, a", "x"),  # whoever sends it, it is one
    ],
)
def test_who_owns_a_line(ports: str, line: str, owner: str) -> None:
    """Exact or documented rules only; two who could be meant are nobody."""
    machine = Machine(ioports=parse_regions(ports), interrupts=parse_interrupts(f"CPU0\n{line}\n"))
    nodes = layout(machine)
    check_sound(nodes)
    assert [node.name for node in nodes if node.irqs or node.msis] == [owner]


def test_message_types_by_name() -> None:
    """Where /sys does not tell the mode, the chip's name does as far as it can."""
    lines = "1: 0 PCI-MSI-edge a\n2: 0 PCI-MSIX 0-edge b\n3: 0 DMAR-MSI 0-edge c\n4: 0 xen-pirq -msi-x d\n"
    nodes = layout(Machine(interrupts=parse_interrupts(f"CPU0\n{lines}")))
    assert [node.msis[0][0] for node in nodes] == ["pci_msi", "pci_msix", "generic_msi", "pci_msix"]
    assert {node.kind for node in nodes} == {"irq-user"}


# -- PCI functions ----------------------------------------------------------------------------------------------------


def test_flags_of_a_bar() -> None:
    """The kernel's bits, read into words: a 64-bit prefetchable BAR, a ROM; windows and empty lines are not BARs."""
    function = parse_function("0000:00:03.0", {
        "resource": "0x1000 0x107f 0x40101\n0x0 0x0 0x0\n0x0 0x0 0x0\n0x0 0x0 0x0\n"
                    "0xfe400000 0xfe403fff 0x14220c\n0x0 0x0 0x0\n0xfea00000 0xfea3ffff 0x46200\n0x1 0x2 0x200\n",
        "class": "0x010000\n", "vendor": "0x1af4\n", "device": "0x1001\n", "irq": "23\n", "msi_irqs/26": "msix\n",
    })  # fmt: skip
    bars = (
        Bar(0, 0x1000, 0x107F, 0x40101, "pio"),
        Bar(4, 0xFE400000, 0xFE403FFF, 0x14220C, "mmio", prefetchable=True, is_64bit=True),
        Bar(6, 0xFEA00000, 0xFEA3FFFF, 0x46200, "mmio", prefetchable=True, rom=True),
    )
    assert function == PciFunction("0000:00:03.0", 0x1AF4, 0x1001, 0x10000, bars, 23, ((26, "msix"),))


@pytest.mark.parametrize(
    ("file", "text", "message"),
    [
        ("resource", "0x0 0x0 0x0\n0x10 0x0f 0x200\n", r"03\.0/resource:2: BAR 1 \(0x10-0xf\) ends before it begins"),
        ("resource", "0x0 0x0\n", r"03\.0/resource:1: expected '<first> <last> <flags>'"),
        ("class", "0x1000000\n", r"03\.0/class:1: expected a number of at most 0xffffff"),
        ("irq", "-1\n", r"03\.0/irq:1: expected a number"),
        ("msi_irqs/x", "msi\n", r"03\.0/msi_irqs/x:1: expected an interrupt number"),
        ("msi_irqs/3", "pin\n", r"03\.0/msi_irqs/3:1: expected .* msi or msix, got 'pin"),
    ],
)
def test_what_is_no_function(file: str, text: str, message: str) -> None:
    """Each fault is refused with function, file and line."""
    with pytest.raises(Refused, match=message):
        parse_function("0000:00:03.0", {file: text})


BUS = """\
1000-1fff : PCI Bus 0000:00
  1000-10ff : PCI Bus 0000:01
2000-2fff : PCI Bus 0000:00
  2f00-2fff : somebody
"""


@pytest.mark.parametrize(
    ("address", "first", "flags", "parent", "joins"),
    [
        ("0000:00:02.0", 0x1800, 0x200, "PCI Bus 0000:00", True),
        ("0000:00:02.0", 0x2800, 0x200, "PCI Bus 0000:00", True),  # its second window
        ("0000:01:00.0", 0x1000, 0x200, "PCI Bus 0000:01", True),
        ("0000:01:00.0", 0x1800, 0x200, "PCI Bus 0000:00", True),  # not in its own bus: in the one around it
        ("0000:00:02.0", 0x5000, 0x200, None, True),  # in no window at all
        ("0000:00:02.0", 0x2F00, 0x200, "PCI Bus 0000:00", False),  # somebody else's claim
        ("0000:00:02.0", 0x1000, 0x200, "PCI Bus 0000:00", False),  # the window of a bus behind it
        ("0000:00:02.0", 0x1800, 0x20000200, "PCI Bus 0000:00", False),  # no address yet
        ("0000:07:00.0", 0x5000, 0x200, None, True),  # a bus nobody mentions
        ("0000:07:00.0", 0x1800, 0x200, None, False),
    ],
)
def test_bars_that_only_sys_knows(address: str, first: int, flags: int, parent: str | None, joins: bool) -> None:
    """They join their function where nobody else's claim is in the way, as near to its bus as they fit."""
    function = parse_function(address, {"resource": f"{first:#x} {first + 15:#x} {flags:#x}\n"})
    nodes = layout(Machine(iomem=parse_regions(BUS), pci=(function,)))
    check_sound(nodes)
    assert nodes[-1] == Node(address, "pci", parent, (("mmio", first, first + 15),) if joins else ())


def test_what_lies_inside_a_function_lies_in_its_bars() -> None:
    """The outer one's join first, whatever its number; a BAR of the inner one that lies elsewhere is left out."""
    bars = {"0000:00:01.0": "0x200 0x20f 0x200\n0x108 0x10f 0x200\n", "0000:00:02.0": "0x100 0x10f 0x200\n"}
    functions = tuple(parse_function(address, {"resource": resource}) for address, resource in bars.items())
    ioports = parse_regions("00-1f : 0000:00:02.0\n  00-0f : 0000:00:01.0\n")
    outer, inner = layout(Machine(ioports=ioports, pci=functions))
    check_sound((outer, inner))
    assert outer.ranges == (("pio", 0x00, 0x1F), ("mmio", 0x100, 0x10F))
    assert inner.ranges == (("pio", 0x00, 0x0F), ("mmio", 0x108, 0x10F))


def test_two_functions_cannot_hold_one_address() -> None:
    """The lower address keeps a BAR that two claim: /sys tells what a register says, not who answers."""
    functions = tuple(parse_function(f"0000:00:0{n}.0", {"resource": "0x10 0x1f 0x200\n"}) for n in (2, 1))
    first, second = layout(Machine(pci=functions))
    assert (first.name, first.ranges, second.ranges) == ("0000:00:01.0", (("mmio", 0x10, 0x1F),), ())


@pytest.mark.parametrize(
    ("text", "place"),
    [
        ("00-1f : {bus}\n  00-0f : {it}\n  10-1f : Reserved\n    10-1f : {it}\n", "Reserved/{it}"),
        ("00-1f : {bus}\n  00-0f : {it}\n  10-1f : Reserved\n    18-1f : {it}\n", "Reserved/{it}"),
        ("00-0f : Reserved\n  00-0f : {it}\n10-1f : {bus}\n  10-1f : {it}\n", "Reserved/{it}"),
        ("00-1f : {bus}\n  00-0f : {it}\n  10-1f : PCI Bus 0000:01\n    10-1f : {it}\n", "PCI Bus 0000:01/{it}"),
    ],
    ids=["reserved", "reserved with more", "reserved outside the bus", "behind a bridge, too"],
)
def test_a_function_with_claims_in_two_places(text: str, place: str) -> None:
    """It stands on its bus; what it has elsewhere stays there, where whoever is around it needs not let go of it."""
    words = {"bus": "PCI Bus 0000:00", "it": "0000:00:1f.5"}
    nodes = layout(Machine(iomem=parse_regions(text.format(**words))))
    check_sound(nodes)
    places = {node.name: (node.kind, node.parent) for node in nodes if node.name.endswith(words["it"])}
    name = place.format(**words)
    assert places == {words["it"]: ("pci", words["bus"]), name: ("region", name.removesuffix(f"/{words['it']}"))}


def test_names_that_grow_too_long() -> None:
    """A qualified name over 255 characters is refused, not cut: cut names may be equal."""
    label = "x" * 200
    with pytest.raises(Refused, match=r"at most 255"):
        layout(Machine(iomem=parse_regions(f"00-0f : {label}\n  00-0f : {label}\n")))


# -- anything at all --------------------------------------------------------------------------------------------------

PARSERS = {"iomem": parse_regions, "ioports": parse_regions, "interrupts": parse_interrupts}


@given(st.text(), st.sampled_from(sorted(PARSERS)))
@settings(max_examples=80, deadline=None)
def test_any_text_is_read_or_refused(text: str, kind: str) -> None:
    """No text brings out anything but a tree, a table, or Refused."""
    try:
        PARSERS[kind](text)
    except Refused as error:
        assert str(error).startswith("/proc/")  # noqa: PT017 - not every text is a fault


SNIPPETS = st.sampled_from([
    "", "0", "f", "ffffffffffffffff", "0000:00:01.0", "PCI Bus 0000:00", "System RAM", "  ", " : ", "-", ":", "/", "\n",
    "\r", "\0", "CPU7", "PCI-MSI", "\u2028", "²", "00000000-00000000 : x\n",
])  # fmt: skip


@st.composite
def mangled(draw: st.DrawFn) -> tuple[str, str]:
    """A real file with some lines moved, doubled or dropped, and some text put over other text."""
    kind, text = draw(st.sampled_from(texts()))
    lines = text.split("\n")
    for _ in range(draw(st.integers(0, 3))):
        index = draw(st.integers(0, len(lines) - 1))
        line = lines.pop(index) if draw(st.booleans()) and len(lines) > 1 else lines[index]
        lines.insert(draw(st.integers(0, len(lines))), line)
    text = "\n".join(lines)
    for _ in range(draw(st.integers(0, 3))):
        at, size = draw(st.integers(0, len(text))), draw(st.integers(0, 12))
        text = text[:at] + draw(SNIPPETS | st.text(max_size=4)) + text[at + size :]
    return kind, text


@given(mangled(), st.sampled_from(NAMES))
@settings(max_examples=100, deadline=None)
def test_mangled_files_are_read_or_refused(file: tuple[str, str], machine: str) -> None:
    """A damaged copy beside sound files, even of another machine, gives a sound layout or Refused."""
    kind, text = file
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        (root / kind).write_bytes(text.encode("utf-8", "surrogatepass"))
        if (MACHINES / machine / "sys").exists():
            (root / "sys").symlink_to(MACHINES / machine / "sys")
        try:
            check_sound(layout(read_machine(root)))
        except Refused as error:
            assert str(error)  # noqa: PT017 - not every change is a fault


LABELS = st.sampled_from(["a", "b", "a/b", "System RAM", "PCI Bus 0000:00", "0000:00:01.0", "0000:00:02.0", "serial"])


@st.composite
def trees(draw: st.DrawFn) -> tuple[Region, ...]:
    """Well-formed trees of few names, so that names meet in every way."""

    def grow(first: int, last: int, depth: int) -> tuple[Region, ...]:
        regions: list[Region] = []
        while depth < 5 and first <= last and len(regions) < 3 and draw(st.booleans()):
            low = draw(st.integers(first, last))
            high = draw(st.integers(low, last))
            regions.append(Region(low, high, draw(LABELS), grow(low, high, depth + 1)))
            first = high + 1
        return tuple(regions)

    return grow(1, 0xFFFF, 0)


BARS = st.tuples(st.integers(1, 0xFFFF), st.integers(0, 0xFFF), st.sampled_from([0x100, 0x200]))


@given(trees(), trees(), st.lists(BARS, max_size=3), st.permutations(["0000:00:01.0", "0000:00:03.0", "0001:00:00.0"]))
@settings(max_examples=100, deadline=None)
def test_any_tree_has_a_sound_layout(
    iomem: tuple[Region, ...], ioports: tuple[Region, ...], bars: list[tuple[int, int, int]], addresses: list[str]
) -> None:
    """However labels repeat and nest: unique names, parents first, ranges inside, nothing lost."""
    resource = "".join(f"{first:#x} {first + size:#x} {flags:#x}\n" for first, size, flags in bars)
    functions = tuple(parse_function(address, {"resource": resource}) for address in addresses)
    interrupts = parse_interrupts("CPU0\n4: 0 IO-APIC 4-edge ttyS0, a, System RAM, 0000:00:01.0\n5: 0 X-MSI 0-edge b\n")
    nodes = layout(Machine(iomem, ioports, interrupts, functions))
    check_sound(nodes)
    waiting, lines = [*iomem, *ioports], 0
    while waiting:
        waiting.extend(waiting.pop().children)
        lines += 1
    assert lines <= sum(len(node.ranges) for node in nodes) <= lines + 3 * len(bars)
    assert nodes == layout(Machine(iomem, ioports, interrupts, tuple(reversed(functions))))
