"""Constraints and resources: the ancestor's tests, and what a value must be: checked, frozen, equal, printable."""

from __future__ import annotations

import re
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st
from strategies import bounded, constraints, resources

import esrm
from esrm import (
    DeviceResources,
    GenericIrqConstraint,
    InvalidConstraint,
    KvmMemSlot,
    KvmMemSlotConstraint,
    LegacyIrq,
    LegacyIrqConstraint,
    MacAddress,
    MacAddressConstraint,
    MemAddressRange,
    MemConstraint,
    MmioAddressRange,
    MmioConstraint,
    MsiIrq,
    MsiIrqType,
    OutOfRange,
    PciMsiIrqConstraint,
    PciMsixIrqConstraint,
    PioAddressRange,
    PioConstraint,
    Space,
    decide,
)
from esrm.core.resources import bounds, mac_number, mac_text, span

# -- the ancestor's tests --------------------------------------------------------------------------------------------


def device_resources() -> DeviceResources:
    """The ancestor's ``get_device_resource``: one of each kind, with its numbers."""
    entries = DeviceResources()
    entries.append(PioAddressRange(0, 5))
    entries.append(MmioAddressRange(0x1234_5678, 0x8765_4321))
    entries.append(LegacyIrq(0x168))
    entries.append(MsiIrq(MsiIrqType.PCI_MSI, 0x6666, 0x8888))
    entries.append(MsiIrq(MsiIrqType.PCI_MSIX, 0x8888, 0x16666))
    entries.append(MsiIrq(MsiIrqType.GENERIC_MSI, 0x16688, 0x16888))
    entries.append(MacAddress("00:08:63:66:86:88"))
    entries.append(KvmMemSlot(0x100))
    return entries


@pytest.mark.parametrize(
    ("getter", "expected"),
    [
        ("pio_address_ranges", [(0, 5)]),
        ("mmio_address_ranges", [(0x1234_5678, 0x8765_4321)]),
        ("mem_address_ranges", []),
        ("legacy_irq", 0x168),
        ("pci_msi_irqs", (0x6666, 0x8888)),
        ("pci_msix_irqs", (0x8888, 0x16666)),
        ("generic_msi_irqs", (0x16688, 0x16888)),
        ("mac_address", "00:08:63:66:86:88"),
        ("kvm_mem_slots", [0x100]),
    ],
)
def test_each_getter_finds_its_own_kind(getter: str, expected: object) -> None:
    """The ancestor's test of each ``get_*``: it finds what was appended, and nothing of another kind."""
    assert getattr(device_resources(), getter)() == expected


@pytest.mark.parametrize(
    ("getter", "nothing"),
    [
        ("pio_address_ranges", []),
        ("mmio_address_ranges", []),
        ("mem_address_ranges", []),
        ("legacy_irq", None),
        ("pci_msi_irqs", None),
        ("pci_msix_irqs", None),
        ("generic_msi_irqs", None),
        ("mac_address", None),
        ("kvm_mem_slots", []),
        ("all_resources", ()),
    ],
)
def test_each_getter_of_nothing(getter: str, nothing: object) -> None:
    """Where there is nothing, a getter of ranges answers with an empty list and the others with None."""
    assert getattr(DeviceResources(), getter)() == nothing


def test_all_resources() -> None:
    """All eight, in the order in which they were appended (the ancestor counts them)."""
    entries = device_resources()
    assert len(entries.all_resources()) == len(entries) == 8
    assert entries.all_resources() == tuple(entries) == tuple(entries[i] for i in range(8))


def test_ranges_are_all_given_but_only_the_first_interrupt() -> None:
    """The ancestor's getters: every range and slot in order, but only the first IRQ, MSI of a type, and MAC."""
    entries = DeviceResources(
        [
            *device_resources(),
            PioAddressRange(0x10, 1),
            MemAddressRange(0x1000, 0x1000),
            LegacyIrq(7),
            MsiIrq(MsiIrqType.PCI_MSI, 1, 1),
            MacAddress("00:00:00:00:00:01"),
            KvmMemSlot(3),
        ]
    )
    assert entries.pio_address_ranges() == [(0, 5), (0x10, 1)]
    assert entries.mem_address_ranges() == [(0x1000, 0x1000)]
    assert entries.kvm_mem_slots() == [0x100, 3]
    assert entries.legacy_irq() == 0x168
    assert entries.pci_msi_irqs() == (0x6666, 0x8888)
    assert entries.mac_address() == "00:08:63:66:86:88"


@pytest.mark.parametrize(
    ("constraint", "fields"),
    [
        (PioConstraint(2), {"range": None, "align": 1, "size": 2}),
        (PioConstraint(2, (15, 16), 2), {"range": (15, 16), "align": 2, "size": 2}),
        (MmioConstraint(0x2000), {"range": None, "align": 0x1000, "size": 0x2000}),
        (MmioConstraint(0x2000, (0, 0x2000), 0x2000), {"range": (0, 0x2000), "align": 0x2000, "size": 0x2000}),
        (MemConstraint(0x2000), {"range": None, "align": 0x1000, "size": 0x2000}),
        (LegacyIrqConstraint(0x123), {"irq": 0x123, "shared": False}),
        (LegacyIrqConstraint(), {"irq": None, "shared": False}),
        (KvmMemSlotConstraint(0x1000, 0x2000), {"slot": 0x2000, "size": 0x1000}),
        (KvmMemSlotConstraint(), {"slot": None, "size": 1}),
        (PciMsiIrqConstraint(4), {"size": 4}),
        (PciMsixIrqConstraint(4), {"size": 4}),
        (GenericIrqConstraint(4), {"size": 4}),
        (MacAddressConstraint(), {"address": None}),
    ],
)
def test_resource_constraint(constraint: Any, fields: dict[str, object]) -> None:
    """The ancestor's defaults, and its order of arguments."""
    assert {name: getattr(constraint, name) for name in fields} == fields


# -- what is refused when it is built --------------------------------------------------------------------------------

U16, U32, U64 = 2**16 - 1, 2**32 - 1, 2**64 - 1
HUGE = "9" * 10_000_000
NOT_NUMBERS = [True, False, 1.0, float("nan"), "1", HUGE, b"1", [], {}, ...]
FIELDS = [
    # (how to build it with a value in the field, the field, lowest, highest, whether None is allowed)
    *[
        entry
        for kind, top in ((PioConstraint, U16), (MmioConstraint, U64), (MemConstraint, U64))
        for entry in (
            (lambda v, k=kind: k(v), "size", 1, top, False),
            (lambda v, k=kind: k(1, align=v), "align", 1, top // 2 + 1, False),
            (lambda v, k=kind, t=top: k(1, range=(v, t)), "range[0]", 0, top, False),
            (lambda v, k=kind: k(1, range=(0, v)), "range[1]", 0, top, False),
        )
    ],
    (lambda v: LegacyIrqConstraint(v), "irq", 0, U32, True),
    (lambda v: KvmMemSlotConstraint(v), "size", 1, U32, False),
    (lambda v: KvmMemSlotConstraint(1, v), "slot", 0, U32, True),
    *[
        entry
        for kind in (PciMsiIrqConstraint, PciMsixIrqConstraint, GenericIrqConstraint)
        for entry in (
            (lambda v, k=kind: k(v), "size", 1, U32, False),
            (lambda v, k=kind: k(1, v), "base", 0, U32, True),
        )
    ],
    (lambda v: PioAddressRange(v, 1), "base", 0, U16, False),
    (lambda v: PioAddressRange(0, v), "size", 1, U16 + 1, False),
    (lambda v: MmioAddressRange(v, 1), "base", 0, U64, False),
    (lambda v: MmioAddressRange(0, v), "size", 1, U64, False),
    (lambda v: MemAddressRange(v, 1), "base", 0, U64, False),
    (lambda v: MemAddressRange(0, v), "size", 1, U64, False),
    (lambda v: LegacyIrq(v), "irq", 0, U32, False),
    (lambda v: KvmMemSlot(v), "index", 0, U32, False),
    (lambda v: MsiIrq(MsiIrqType.PCI_MSI, v, 1), "base", 0, U32, False),
    (lambda v: MsiIrq(MsiIrqType.PCI_MSI, 0, v), "size", 1, U32, False),
]


@pytest.mark.parametrize(("build", "field", "low", "high", "optional"), FIELDS)
def test_a_number_is_checked_when_it_is_built(build: Any, field: str, low: int, high: int, optional: bool) -> None:
    """Both ends of a field's width pass; one beyond, a negative, a bool, a float, text and None are refused by name."""
    build(low)
    build(high)
    if optional:
        build(None)
    beyond = [low - 1, high + 1, high * 2, high * 2 + 1, -1, -high, 10**5000, *([] if optional else [None])]
    for value in [*beyond, *NOT_NUMBERS]:
        with pytest.raises(InvalidConstraint, match=r"^\w+\.") as refused:
            build(value)
        assert f".{field}:" in str(refused.value)
        assert len(str(refused.value)) < 200
        assert isinstance(refused.value, ValueError)


@pytest.mark.parametrize(
    ("build", "said"),
    [
        (lambda: PioConstraint(1, align=3), "align: 0x3 is not a power of two"),
        (lambda: MmioConstraint(1, align=0x1001), "align: 0x1001 is not a power of two"),
        (lambda: MmioConstraint(1, range=(2, 1)), "range: min 0x2 is above max 0x1"),
        (lambda: MmioConstraint(1, range=(1, 2, 3)), r"range: expected \(min, max\)"),
        (lambda: MmioConstraint(1, range=5), r"range: expected \(min, max\)"),
        (lambda: MmioConstraint(1, range="12"), r"range: expected \(min, max\)"),
        (lambda: MmioConstraint(1, policy="best"), "policy: 'best' is none of first, last, exact"),
        (lambda: MmioConstraint(1, policy="exact"), "policy: exact needs a range"),
        (lambda: MmioConstraint(1, (3, 9), 4, "exact"), r"range\[0\]: 0x3 is not aligned to 0x4"),
        (lambda: MmioConstraint(0x2000, (0x1000, 0x1FFF), policy="exact"), r"range\[1\]: 0x1fff leaves no room"),
        (lambda: PioConstraint(2, (U16, U16), policy="exact"), r"range\[1\]: 0xffff leaves no room for 0x2"),
        (lambda: LegacyIrqConstraint(5, 1), "shared: expected true or false, got 1"),
        (lambda: PioAddressRange(0xFFFF, 2), "runs past 0xffff"),
        (lambda: MmioAddressRange(U64, 2), "runs past 0xffffffffffffffff"),
        (lambda: MsiIrq(MsiIrqType.PCI_MSI, U32, 2), "runs past"),
        (lambda: MsiIrq("pci_msi", 0, 1), "type: expected a MsiIrqType"),
    ],
)
def test_parts_that_contradict_each_other_are_refused(build: Any, said: str) -> None:
    """What is upside down, misaligned or too long is refused when it is built, and the message names the field."""
    with pytest.raises(InvalidConstraint, match=said):
        build()


@pytest.mark.parametrize(
    "text",
    ["", "52:54:00:12:34", "52:54:00:12:34:56:78", "52-54-00-12-34-56", "5254:00:12:34:56", "g2:54:00:12:34:56", 5,
     None, b"52:54:00:12:34:56", " 52:54:00:12:34:56", "52:54:00:12:34:56\n", "\u06652:54:00:12:34:56", HUGE],
)  # fmt: skip
def test_an_ethernet_address_is_six_octets(text: Any) -> None:
    """Anything but six colon-separated octets is refused, shortly."""
    with pytest.raises(InvalidConstraint, match="is not an Ethernet address") as refused:
        MacAddress(text)
    assert len(str(refused.value)) < 200
    if text is not None:
        with pytest.raises(InvalidConstraint):
            MacAddressConstraint(text)


def test_a_resource_list_takes_resources_only() -> None:
    """A constraint, or anything else, cannot be appended by mistake."""
    entries = DeviceResources()
    for wrong in (MmioConstraint(1), None, 5):
        with pytest.raises(InvalidConstraint, match="expected a Resource"):
            entries.append(wrong)
    assert len(entries) == 0


@pytest.mark.parametrize(
    "constraint",
    [PciMsiIrqConstraint(3), PciMsiIrqConstraint(64), PciMsiIrqConstraint(4, base=2), PciMsixIrqConstraint(2049)],
)
def test_a_group_that_no_pci_function_can_have_is_refused_when_declared(constraint: Any) -> None:
    """The ancestor lets any count be written down; a device that asks for it is told what a group may be."""
    state = esrm.replay([esrm.VmCreated(esrm.Platform("p")), esrm.DeviceCreated("net0")])
    with pytest.raises(InvalidConstraint, match="a PCI MSI"):
        decide.declare(state, "net0", [constraint])
    with pytest.raises(InvalidConstraint, match="a PCI MSI"):
        decide.plan(state, [constraint])


# -- values ----------------------------------------------------------------------------------------------------------

ANYTHING = st.one_of(constraints, resources)


@given(ANYTHING)
@bounded(150)
def test_a_value_is_frozen(value: Any) -> None:
    """No field of a constraint or resource can be set, deleted or added."""
    for name in (*value.__struct_fields__, "extra"):
        with pytest.raises(AttributeError):
            setattr(value, name, 1)
        with pytest.raises(AttributeError):
            delattr(value, name)


@given(ANYTHING, ANYTHING)
@bounded(200)
def test_values_are_equal_when_their_fields_are(one: Any, other: Any) -> None:
    """Equality and hash go by type and fields, and by nothing else."""
    twin = msgspec.structs.replace(one)
    assert one == twin
    assert hash(one) == hash(twin)
    assert (one == other) == (
        type(one) is type(other) and msgspec.structs.astuple(one) == msgspec.structs.astuple(other)
    )


@given(ANYTHING)
@bounded(200)
def test_a_value_prints_as_what_builds_it_again(value: Any) -> None:
    """The repr names the type and every field; evaluated, it is the value."""
    text = re.sub(r"<(MsiIrqType\.\w+): '\w+'>", r"\1", repr(value))
    assert eval(text, dict(vars(esrm), **globals())) == value
    assert str(value)


@given(constraints)
@bounded(200)
def test_a_constraint_comes_back_from_the_wire(value: Any) -> None:
    """Encoded and decoded it is the same value, and of the same type."""
    back = msgspec.json.decode(msgspec.json.encode(value), type=esrm.ResourceConstraint)
    assert back == value
    assert type(back) is type(value)


@given(resources)
@bounded(200)
def test_a_resource_comes_back_from_the_wire(value: Any) -> None:
    """Encoded and decoded it is the same value; ``kind`` is the name of its space."""
    data = msgspec.json.encode(value)
    assert msgspec.json.decode(data, type=esrm.Resource) == value
    assert msgspec.json.decode(data)["kind"] == span(value)[0].value


@given(resources)
@bounded(200)
def test_a_resource_lies_inside_its_space(value: Any) -> None:
    """Its first number is at most its last, which is at most the space's."""
    space, first, last = span(value)
    assert 0 <= first <= last <= space.last


def test_where_each_resource_lies() -> None:
    """Space, first number, last number: of each kind, one that is longer than one where there are such."""
    msi = esrm.MsiIrqType.GENERIC_MSI
    for resource, space, first, last in (
        (esrm.PioAddressRange(0x10, 4), Space.PIO, 0x10, 0x13),
        (esrm.MmioAddressRange(0x1000, 0x1000), Space.MMIO, 0x1000, 0x1FFF),
        (esrm.MemAddressRange(0, 1 << 20), Space.MEM, 0, (1 << 20) - 1),
        (esrm.LegacyIrq(5), Space.LEGACY_IRQ, 5, 5),
        (esrm.MsiIrq(msi, 24, 4), Space.MSI_IRQ, 24, 27),
        (esrm.KvmMemSlot(3), Space.KVM_MEM_SLOT, 3, 3),
        (MacAddress("02:00:00:00:00:09"), Space.MAC, 0x020000000009, 0x020000000009),
    ):
        assert span(resource) == (space, first, last)


def test_how_ranges_are_written() -> None:
    """Hexadecimal where there are addresses, decimal where there are numbers, one number where there is one."""
    assert bounds(Space.MMIO, 0x1000, 0x1FFF) == "0x1000-0x1fff"
    assert bounds(Space.PIO, 0x70, 0x70) == "0x70"
    assert bounds(Space.LEGACY_IRQ, 5, 15) == "5-15"
    assert bounds(Space.MSI_IRQ, 24, 24) == "24"
    assert bounds(Space.MAC, 0x020000000000, 0x0200000000FF) == "02:00:00:00:00:00-02:00:00:00:00:ff"


def test_what_is_not_said_of_a_constraint() -> None:
    """No window, no policy of its own, pages for memory, one slot, any line, for itself alone."""
    for kind, align in ((PioConstraint, 1), (MmioConstraint, 0x1000), (MemConstraint, 0x1000)):
        assert (kind(1).range, kind(1).align, kind(1).policy) == (None, align, None)
    assert (esrm.LegacyIrqConstraint().irq, esrm.LegacyIrqConstraint().shared) == (None, False)
    assert (esrm.KvmMemSlotConstraint().size, esrm.KvmMemSlotConstraint().slot) == (1, None)
    assert esrm.MacAddressConstraint().address is None
    for kind in (esrm.PciMsiIrqConstraint, esrm.PciMsixIrqConstraint, esrm.GenericIrqConstraint):
        assert (kind(1).size, kind(1).base) == (1, None)


def test_a_window_may_be_a_list() -> None:
    """A window given as a list is kept as a tuple: the value stays hashable, and equal to its twin from the wire."""
    constraint = MmioConstraint(1, range=[0, 9])
    assert constraint.range == (0, 9)
    assert hash(constraint) == hash(MmioConstraint(1, range=(0, 9)))


@pytest.mark.parametrize("window", [(0.5, 1.5), (False, True), ("0", "9"), (0, 9.0), (None, None), (0, 9, 9), (0,), 5])
def test_a_window_is_two_whole_numbers(window: Any) -> None:
    """Neither fractions nor truth values nor text, though some of them could be compared."""
    for kind in (PioConstraint, MmioConstraint, MemConstraint):
        with pytest.raises(InvalidConstraint, match="range"):
            kind(1, range=window)


@pytest.mark.parametrize(
    "text", ["", "02:00:00:00:00", "02:00:00:00:00:0g", "020000000001", "2:0:0:0:0:1", "02-00-00-00-00-01"]
)
def test_a_number_is_made_of_a_whole_address_only(text: str) -> None:
    """Six octets of two digits with colons between them."""
    with pytest.raises(InvalidConstraint):
        mac_number(text)


def test_ethernet_addresses_keep_their_spelling() -> None:
    """An address is told as it was asked for; as a number it has no case."""
    assert MacAddress("AA:fc:00:00:00:01").address == "AA:fc:00:00:00:01"
    assert mac_number("AA:fc:00:00:00:01") == mac_number("aa:FC:00:00:00:01") == 0xAAFC00000001
    assert mac_text(0xAAFC00000001) == "aa:fc:00:00:00:01"


def test_an_address_inside_a_range() -> None:
    """``at`` finds the address of an offset, and refuses bytes that do not lie in the range whole."""
    bar = MmioAddressRange(0x1000, 0x100)
    assert bar.last == 0x10FF
    assert (bar.at(0), bar.at(0xFF), bar.at(0xF0, 0x10)) == (0x1000, 0x10FF, 0x10F0)
    for offset, size in ((0x100, 1), (0xF1, 0x10), (-1, 1), (0, 0), (0, 0x101)):
        with pytest.raises(OutOfRange, match="is outside 0x1000-0x10ff"):
            bar.at(offset, size)


@pytest.mark.parametrize(
    ("resource", "text"),
    [
        (PioAddressRange(0x3F8, 8), "pio 0x3f8-0x3ff"),
        (MmioAddressRange(0, U64), "mmio 0x0-0xfffffffffffffffe"),
        (MemAddressRange(0x1000, 1), "mem 0x1000-0x1000"),
        (LegacyIrq(5), "irq 5"),
        (MsiIrq(MsiIrqType.PCI_MSIX, 24, 4), "pci_msix 24-27"),
        (KvmMemSlot(9), "slot 9"),
        (MacAddress("AA:FC:00:00:00:01"), "mac AA:FC:00:00:00:01"),
    ],
)
def test_a_resource_reads_well(resource: Any, text: str) -> None:
    """Addresses in hexadecimal with inclusive ends, all else in decimal."""
    assert str(resource) == text
    assert str(DeviceResources([resource, resource])) == f"{text}, {text}"


def test_device_resources_are_a_sequence() -> None:
    """Indexing, slicing, membership, equality and printing as of a list; a list of the same is not equal to it."""
    entries = device_resources()
    assert entries[-1] == KvmMemSlot(0x100)
    assert entries[:2] == DeviceResources([PioAddressRange(0, 5), MmioAddressRange(0x1234_5678, 0x8765_4321)])
    assert LegacyIrq(0x168) in entries
    assert entries.index(LegacyIrq(0x168)) == 2
    assert next(reversed(entries)) == KvmMemSlot(0x100)
    assert entries == device_resources()
    assert entries != DeviceResources()
    assert entries != list(entries)
    assert repr(entries[2:3]) == "DeviceResources([LegacyIrq(irq=360)])"
    assert str(DeviceResources()) == "nothing"
    with pytest.raises(TypeError):
        hash(entries)
    with pytest.raises(IndexError):
        entries[8]


def test_a_space_has_an_inclusive_last_number() -> None:
    """The widths of the ancestor: u16 ports, u64 addresses, u32 interrupts and slots, and 48 bits of MAC."""
    lasts = {space: space.last for space in Space}
    assert lasts == {
        Space.PIO: U16,
        Space.MMIO: U64,
        Space.MEM: U64,
        Space.LEGACY_IRQ: U32,
        Space.MSI_IRQ: U32,
        Space.KVM_MEM_SLOT: U32,
        Space.MAC: 2**48 - 1,
    }
    assert {space for space in Space if space.nests} == {Space.PIO, Space.MMIO, Space.MEM}
