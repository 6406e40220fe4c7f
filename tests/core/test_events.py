"""The wire form: every event comes back as it was, and bytes that are no event are Corrupt, whatever they are."""

from __future__ import annotations

import json
from typing import Any, get_args

import pytest
from hypothesis import given
from hypothesis import strategies as st
from strategies import EVENTS, bounded, events

import esrm
from esrm import Corrupt, Malformed, TooLarge
from esrm.core import events as wire
from esrm.core.events import EVENT_BYTES_MAX, LOG_FORMAT, decode, encode

EXAMPLES: dict[str, str] = {
    "VmCreated": '{"type":"VmCreated","platform":{"name":"p","pools":{"mmio":[[0,18446744073709551615]]},'
    '"reserved":[{"space":"mmio","first":1,"last":2,"owner":"x"}],"shared_irq":null,"policy":"first",'
    '"joined":{}},"format":1}',
    "DeviceCreated": '{"type":"DeviceCreated","device":"net0","kind":"virtio-net","parent":null}',
    "ConstraintsDeclared": '{"type":"ConstraintsDeclared","device":"net0","constraints":[{"kind":"mmio","size":4096,'
    '"range":[0,65535],"align":4096,"policy":null},{"kind":"legacy_irq","irq":null,"shared":true}]}',
    "ResourcesAllocated": '{"type":"ResourcesAllocated","device":"net0","resources":[{"kind":"mmio","base":0,'
    '"size":4096},{"kind":"msi_irq","type":"pci_msix","base":24,"size":4}]}',
    "ResourcesAssigned": '{"type":"ResourcesAssigned","device":"net0"}',
    "ResourcesReleased": '{"type":"ResourcesReleased","device":"net0","resources":[],"reason":"assign failed"}',
    "ResourcesMoved": '{"type":"ResourcesMoved","moves":[{"device":"net0","old":{"kind":"legacy_irq","irq":5},'
    '"new":{"kind":"legacy_irq","irq":6}}]}',
}


# -- there and back --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", EVENTS, ids=lambda kind: kind.__name__)
def test_every_event_comes_back_as_it_was(kind: type) -> None:
    """Encoded and decoded, any event is equal to itself, of the same type, and encodes to the same bytes."""

    @given(EVENTS[kind])
    @bounded(25)
    def check(event: Any) -> None:
        data = encode(event)
        back = decode(data)
        assert back == event
        assert type(back) is kind
        assert encode(back) == data
        assert b"\n" not in data

    check()


def test_every_type_is_there() -> None:
    """The thirteen tags of the design, and a strategy for each."""
    assert {kind.__name__ for kind in EVENTS} == {
        "VmCreated", "DeviceCreated", "ConstraintsDeclared", "ResourcesAllocated", "AllocationRefused",
        "ResourcesAssigned", "DeviceRegistered", "DeviceUnregistered", "ResourcesReleased", "DeviceRemoved",
        "UnplugRequested", "UnplugRefused", "ResourcesMoved",
    }  # fmt: skip
    assert set(EVENTS) == set(get_args(esrm.Event))


@pytest.mark.parametrize("text", EXAMPLES.values(), ids=EXAMPLES)
def test_the_wire_form_is_final(text: str) -> None:
    """Tags, field names and their order, written out: a change here is a change of every log there is."""
    assert encode(decode(text.encode())).decode() == text


@given(events)
@bounded(100)
def test_defaults_are_written_out(event: Any) -> None:
    """Every field stands in the bytes, in the order of declaration, the tag first: a default may change one day."""
    document = json.loads(encode(event))
    assert list(document) == ["type", *event.__struct_fields__]
    assert document["type"] == type(event).__name__


@given(
    events, st.dictionaries(st.text(max_size=8).map("x-{}".format), st.none() | st.integers() | st.text(), min_size=1)
)
@bounded(50)
def test_unknown_fields_are_kept_out_of_the_way(event: Any, extra: dict[str, Any]) -> None:
    """What a newer version added to an event is skipped, wherever it stands in it."""
    document = json.loads(encode(event))
    assert decode(json.dumps({**extra, **document}).encode()) == event
    assert decode(json.dumps({**document, **extra}).encode()) == event


def test_missing_fields_take_their_defaults() -> None:
    """What an older version did not write is what was meant when it was not there."""
    assert decode(b'{"type":"DeviceCreated","device":"a"}') == esrm.DeviceCreated("a", "", None)
    assert decode(b'{"type":"ResourcesReleased","device":"a"}') == esrm.ResourcesReleased("a", (), "")
    assert decode(b'{"type":"VmCreated","platform":{"name":"p"}}') == esrm.VmCreated(esrm.Platform("p"), LOG_FORMAT)


# -- bytes that are no event -----------------------------------------------------------------------------------------


def corrupt(data: bytes) -> str:
    """What decode says, which must be Corrupt and short."""
    with pytest.raises(Corrupt) as refused:
        decode(data)
    assert len(str(refused.value)) < 500
    return str(refused.value)


def read(data: bytes) -> Any:
    """The event, or the error as an answer; anything else that is raised fails the test."""
    try:
        return decode(data)
    except Corrupt as error:
        return error


def test_an_unknown_type_is_named() -> None:
    """The message has the type, and the version that may know it."""
    said = corrupt(b'{"type":"DeviceTeleported","device":"net0"}')
    assert "DeviceTeleported" in said
    assert f"log format {LOG_FORMAT}" in said
    assert "newer esrm" in said
    assert "x" * 80 in corrupt(b'{"type":"' + b"x" * 10_000 + b'"}')


@pytest.mark.parametrize("text", EXAMPLES.values(), ids=EXAMPLES)
def test_an_event_cut_short_is_corrupt(text: str) -> None:
    """Cut at any byte, and with anything behind it, it is no event."""
    data = text.encode()
    for length in range(len(data)):
        corrupt(data[:length])
    for tail in (b"{}", b"x", b",", data):
        corrupt(data + tail)


@pytest.mark.parametrize(
    "data",
    [
        b"", b" ", b"null", b"true", b"1", b'"text"', b"[]", b"[{}]", b"{}", b"{{}}", b"\x00", b"SQLite format 3\x00",
        b'{"type":null}', b'{"type":5}', b'{"type":[]}', b'{"type":{}}', b'{"type":""}',
        b'{"specversion":"1.0","type":"com.example.thing","source":"/","id":"1"}',
        b'{"type":"DeviceCreated"}', b'{"type":"DeviceCreated","device":5}', b'{"type":"DeviceCreated","device":null}',
        b'{"type":"ResourcesAllocated","device":"a","resources":{}}',
        b'{"type":"ResourcesAllocated","device":"a","resources":[{"kind":"magic"}]}',
        b'{"type":"ResourcesAllocated","device":"a","resources":[{"kind":"mmio","base":-1,"size":1}]}',
        b'{"type":"ResourcesAllocated","device":"a","resources":[{"kind":"mmio","base":1,"size":0}]}',
        b'{"type":"ResourcesAllocated","device":"a","resources":[{"kind":"pio","base":65535,"size":2}]}',
        b'{"type":"ResourcesAllocated","device":"a","resources":[{"kind":"mmio","base":1.5,"size":1}]}',
        b'{"type":"ResourcesAllocated","device":"a","resources":[{"kind":"mmio","base":true,"size":1}]}',
        b'{"type":"ResourcesAllocated","device":"a","resources":[{"kind":"mem","base":18446744073709551616,"size":1}]}',
        b'{"type":"ResourcesAllocated","device":"a","resources":[{"kind":"mmio","base":1e999,"size":1}]}',
        b'{"type":"ResourcesAllocated","device":"a","resources":[{"kind":"mem","base":' + b"9" * 5000 + b',"size":1}]}',
        b'{"type":"ResourcesAllocated","device":"a","resources":[{"kind":"msi_irq","type":"x","base":1,"size":1}]}',
        b'{"type":"ResourcesAllocated","device":"a","resources":[{"kind":"mac","address":"no"}]}',
        b'{"type":"ConstraintsDeclared","device":"a","constraints":[{"kind":"mmio","size":1,"align":3}]}',
        b'{"type":"ConstraintsDeclared","device":"a","constraints":[{"kind":"mmio","size":1,"range":[2,1]}]}',
        b'{"type":"VmCreated","platform":{"name":"p","pools":{"mmio":[[0,5],[5,9]]}}}',
        b'{"type":"VmCreated","platform":{"name":"p","pools":{"ports":[]}}}',
        b'{"type":"VmCreated","platform":{"name":"p","shared_irq":4294967296}}',
        b'{"type":"VmCreated","platform":null}',
    ],
)  # fmt: skip
def test_malformed_and_foreign_documents_are_corrupt(data: bytes) -> None:
    """Other JSON, other files, and events that no machine could have written."""
    corrupt(data)


@pytest.mark.parametrize(
    "data",
    [
        b"[" * 1_000_000,
        b'{"type":' * 100_000,
        b'{"type":"DeviceCreated","device":"a","x":' + b"[" * 60_000,
        b'{"x":' + b"[" * 5_000 + b"]" * 5_000 + b',"type":"Mystery"}',
        b'{"type":"' + b"\xff" * 10 + b'"}',
        b'{"type":"DeviceCreated","device":"\xed\xa0\x80"}',
        b'{"type":"DeviceCreated","device":"\xc3"}',
        b'\xff\xfe{\x00"\x00',
        b"\x00" * 10_000_000,
        b"{" + b" " * 10_000_000,
        b"9" * 10_000_000,
        b'"' + b"x" * 10_000_000,
        b'{"type":"' + b"x" * 10_000_000 + b'"}',
        b'{"type":"DeviceCreated","device":5,"x":"' + b"x" * 10_000_000 + b'"}',
        b'{"type":"DeviceCreated","device":"a","kind":"'
        + b"x" * EVENT_BYTES_MAX
        + b'"}',  # nothing wrong but its length
    ],
    ids=range(15),
)
def test_hostile_bytes_are_corrupt(data: bytes) -> None:
    """Deep, broken or huge: one clear error, soon."""
    corrupt(data)


def test_depth_in_a_field_that_nobody_knows() -> None:
    """It is passed over, or refused where the interpreter cannot reach so deep (before 3.14): never a crash."""
    data = b'{"type":"DeviceCreated","device":"a","x":' + b"[" * 30_000 + b"]" * 30_000 + b"}"
    said = ""
    try:
        assert decode(data) == wire.DeviceCreated("a")
    except Corrupt as refused:
        said = str(refused)
    assert len(said) < 500


@given(st.binary(max_size=200))
@bounded(300)
def test_random_bytes_are_corrupt(data: bytes) -> None:
    """Nothing but Corrupt comes out of bytes that nobody wrote."""
    corrupt(data)


@given(events, st.data())
@bounded(200)
def test_a_flipped_byte_is_another_event_or_corrupt(event: Any, data: st.DataObject) -> None:
    """Damage inside an event is either Corrupt or reads as an event (the records' hashes tell those apart)."""
    encoded = bytearray(encode(event))
    at = data.draw(st.integers(0, len(encoded) - 1))
    encoded[at] ^= 1 << data.draw(st.integers(0, 7))
    assert isinstance(read(bytes(encoded)), (Corrupt, *EVENTS))


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=8,
)


@given(st.sampled_from(sorted(EVENTS, key=str)), st.data())
@bounded(150)
def test_events_of_the_wrong_shape_are_corrupt(kind: type, data: st.DataObject) -> None:
    """A known tag over any other document is an event if it happens to be one, and Corrupt otherwise."""
    document = {name: data.draw(JSON) for name in kind.__struct_fields__}  # type: ignore[attr-defined]
    answer = read(json.dumps({"type": kind.__name__, **document}).encode())
    assert isinstance(answer, kind) or kind.__name__ in str(answer) or "not an event" in str(answer)


def test_an_event_is_short() -> None:
    """65,535 bytes are an event, one more is TooLarge, and the message says what to do."""
    empty = len(encode(esrm.DeviceCreated("a", kind="")))
    longest = esrm.DeviceCreated("a", kind="k" * (EVENT_BYTES_MAX - empty))
    assert len(encode(longest)) == EVENT_BYTES_MAX == 65_535
    assert decode(encode(longest)) == longest
    with pytest.raises(TooLarge, match=r"DeviceCreated takes 65,536 bytes; an event has at most 65,535\. Put less"):
        encode(esrm.DeviceCreated("a", kind="k" * (EVENT_BYTES_MAX - empty + 1)))
    with pytest.raises(TooLarge, match="10,0"):
        encode(esrm.DeviceCreated("d" * 10_000_000))


CYCLE: list[Any] = []
CYCLE.append(CYCLE)


@pytest.mark.parametrize(
    "event",
    [{"net0": 1}, "nope", b"nope", None, 7, esrm.DeviceCreated, {"type": "DeviceCreated", "device": "net0"},
     esrm.DeviceCreated("\ud800"), esrm.ResourcesReleased("net0", (), "half a \ud83d"),
     esrm.DeviceCreated(object()), esrm.DeviceCreated(5), esrm.DeviceCreated(None),  # type: ignore[arg-type]
     esrm.ResourcesAllocated("net0", ("none",)), esrm.DeviceCreated("net0", parent=CYCLE)],  # type: ignore[arg-type]
    ids=lambda event: ascii(event)[:40],
)  # fmt: skip
def test_what_is_no_event_is_not_encoded(event: Any) -> None:
    """It would stand in a log for ever, and nobody could read that any more."""
    with pytest.raises(Malformed, match=r"^(not an event|\w+): "):
        encode(event)


# -- older shapes ----------------------------------------------------------------------------------------------------


@pytest.fixture
def upcasters(monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """A registry of two steps: DeviceBorn -> DeviceMade -> DeviceCreated, each with its own names."""
    steps = {
        "DeviceBorn": lambda d: {"type": "DeviceMade", "id": d["id"], "sort": d.get("sort", "")},
        "DeviceMade": lambda d: {"type": "DeviceCreated", "device": d["id"], "kind": d["sort"]},
    }
    monkeypatch.setattr(wire, "UPCASTERS", steps)
    return steps


def test_an_older_shape_is_lifted(upcasters: dict[str, Any]) -> None:
    """Version by version, from whichever version it has, and what is not older is left alone."""
    created = esrm.DeviceCreated("net0", "virtio-net")
    assert decode(b'{"type":"DeviceBorn","id":"net0","sort":"virtio-net"}') == created
    assert decode(b'{"type":"DeviceMade","id":"net0","sort":"virtio-net"}') == created
    assert decode(encode(created)) == created
    assert wire.upcast({"type": "DeviceCreated", "device": "x"}) == {"type": "DeviceCreated", "device": "x"}


def test_an_older_shape_that_does_not_fit_is_corrupt(upcasters: dict[str, Any]) -> None:
    """What an upcaster makes is checked as everything else; what it stumbles over was no event of that version."""
    assert "DeviceMade, an older shape" in corrupt(b'{"type":"DeviceMade","id":5,"sort":""}')
    assert "DeviceMade, an older shape: KeyError('id')" in corrupt(b'{"type":"DeviceMade","sort":""}')
    assert "DeviceBorn, an older shape: KeyError('id')" in corrupt(b'{"type":"DeviceBorn"}')


def test_there_are_no_older_shapes_yet() -> None:
    """The first format has nothing to lift; whoever adds an upcaster adds a golden log of what it lifts."""
    assert wire.UPCASTERS == {}
    assert LOG_FORMAT == 1
