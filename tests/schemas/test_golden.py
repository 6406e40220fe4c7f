"""Golden logs are read for ever, and the schemas say what is written.

Each golden log is taken apart here without the stores: its lines are parsed, its chain recomputed from the documented
layout, its events replayed, and all of it written again.
"""

from __future__ import annotations

import hashlib
import json
import runpy
import struct
import subprocess
import sys
from functools import cache
from itertools import pairwise
from pathlib import Path
from typing import Any, get_args

import jsonschema
import msgspec
import pytest
import strategies
from hypothesis import given

import esrm
from esrm import Event, Phase, Record
from esrm.core import events
from esrm.core.resources import Resource, ResourceConstraint

ROOT = Path(__file__).parents[2]
GOLDEN = sorted((ROOT / "schemas" / "golden").glob("*.jsonl"))
each = pytest.mark.parametrize("path", GOLDEN, ids=lambda path: path.stem)


@cache
def lines(path: Path) -> list[bytes]:
    """A log's lines as they stand in the file."""
    return path.read_bytes().splitlines()


@cache
def records(path: Path) -> list[Record[Event]]:
    """A log's records."""
    return [msgspec.json.decode(line, type=Record[Event]) for line in lines(path)]


@cache
def validator(name: str) -> Any:
    """What checks documents against one of the schemas."""
    schema = json.loads((ROOT / "schemas" / f"{name}.schema.json").read_text())
    jsonschema.Draft202012Validator.check_schema(schema)
    return jsonschema.Draft202012Validator(schema)


def test_there_is_one():
    """An empty folder would let every test below pass by having nothing to say."""
    assert [path.stem for path in GOLDEN][:1] == ["v1"]
    for path in GOLDEN:
        assert path.with_suffix(".state.json").exists()


@each
def test_it_replays_to_the_recorded_state(path: Path):
    """What was true on the day it was written is what this version makes of it."""
    state_document = runpy.run_path(str(ROOT / "tools" / "golden.py"))["state_document"]
    state = esrm.replay(record.event for record in records(path))
    assert state_document(state) == json.loads(path.with_suffix(".state.json").read_text("utf-8"))
    assert state.allocator.usage().keys() == state.platform.pools.keys()  # and its projections can be built
    assert all(state.bus.ranges(space) for space in esrm.Space)


@each
def test_its_chain_holds(path: Path):
    """Each hash is SHA-256 over the documented bytes, the event exactly as it stands in the file."""
    previous = bytes(32)
    for line, record in zip(lines(path), records(path), strict=True):
        data = bytes(msgspec.json.decode(line, type=dict[str, msgspec.Raw])["event"])
        texts = [text.encode() for text in (record.vm, record.actor, record.correlation)]
        fixed = struct.pack(
            ">16s32sQQQ16sIIII",
            b"esrm record v1",
            previous,
            record.position,
            record.revision,
            record.time_ns,
            bytes.fromhex(record.id.replace("-", "")),
            *map(len, texts),
            len(data),
        )
        previous = hashlib.sha256(fixed + b"".join(texts) + data).digest()
        assert record.hash == previous.hex(), f"revision {record.revision}"


@each
def test_it_is_written_again_byte_for_byte(path: Path):
    """Field order, defaults and numbers are those of the day: the same bytes, so the same hashes."""
    for line, record in zip(lines(path), records(path), strict=True):
        assert msgspec.json.encode(record) == line
        assert events.decode(events.encode(record.event)) == record.event
        assert events.encode(record.event) in line


@each
def test_it_is_one_vm_s_whole_log(path: Path):
    """Revisions from 0 without gaps, positions and times that never fall, ids in their order."""
    told = records(path)
    assert [record.revision for record in told] == list(range(len(told)))
    assert len({record.vm for record in told}) == 1
    for before, after in pairwise(told):
        assert before.position < after.position
        assert before.time_ns <= after.time_ns
        assert before.id < after.id
    assert any(record.position != record.revision + 1 for record in told), "alone in its store"


@each
def test_it_follows_the_schemas(path: Path):
    """Every line is what ``record.schema.json`` describes, and its event what ``event.schema.json`` does."""
    for line in lines(path):
        document = json.loads(line)
        validator("record").validate(document)
        validator("event").validate(document["event"])


def test_the_newest_has_everything_in_it():
    """Every event, constraint, resource, kind of group and refusal, both ends of u64, and at its end every phase."""
    told = [record.event for record in records(GOLDEN[-1])]
    assert {type(event) for event in told} == set(get_args(Event))
    constraints = [c for event in told if isinstance(event, esrm.ConstraintsDeclared) for c in event.constraints]
    assert {type(constraint) for constraint in constraints} == set(get_args(ResourceConstraint))
    resources = [r for event in told if isinstance(event, esrm.ResourcesAllocated) for r in event.resources]
    assert {type(resource) for resource in resources} == set(get_args(Resource))
    assert {r.type for r in resources if isinstance(r, esrm.MsiIrq)} == set(esrm.MsiIrqType)
    refusals = [event.refusal for event in told if isinstance(event, esrm.AllocationRefused)]
    assert {refusal.code for refusal in refusals} == {"NoSpace", "AddressConflict", "OutOfRange"}
    assert any(refusal.releases for refusal in refusals)
    assert {h.reserved for refusal in refusals for h in refusal.blockers} == {True, False}
    ranges = [r for r in resources if isinstance(r, esrm.MemAddressRange)]
    assert {0, 2**64 - 1} <= {number for r in ranges for number in (r.base, r.last)}
    state = esrm.replay(told)
    assert {device.phase for device in state.devices.values()} == set(Phase)
    assert any(device.parent for device in state.devices.values())
    assert not all(record.actor.isascii() for record in records(GOLDEN[-1]))


def test_every_optional_field_is_used_and_left_out():
    """In the newest log each field that may be null is null once, and is something once."""
    seen: dict[tuple[str, str], set[bool]] = {}

    def walk(value: Any) -> None:
        if isinstance(value, msgspec.Struct):
            for field in msgspec.structs.fields(value):
                inner = getattr(value, field.name)
                if field.default is None:
                    seen.setdefault((type(value).__name__, field.name), set()).add(inner is None)
                walk(inner)
        elif isinstance(value, tuple | list):
            for inner in value:
                walk(inner)

    walk([record.event for record in records(GOLDEN[-1])])
    narrow = {("Platform", "shared_irq")}  # there is one platform in a log
    groups = {(name, "base") for name in ("PciMsixIrqConstraint", "GenericIrqConstraint")}  # as PciMsiIrqConstraint
    windows = {(name, "range") for name in ("MemConstraint",)}  # as PioConstraint
    assert {field for field, both in seen.items() if len(both) < 2} <= narrow | groups | windows


@pytest.mark.parametrize("kind", strategies.EVENTS, ids=lambda kind: kind.__name__)
def test_any_event_follows_the_schema(kind: type):
    """What can be built can be written, and what is written is what the schema describes."""

    @strategies.bounded(40)
    @given(strategies.EVENTS[kind])
    def follows(event: Any) -> None:
        document = json.loads(events.encode(event))
        validator("event").validate(document)
        record = Record(1, "web-1", 0, "0199f3c0-0000-7000-8000-000000000000", 0, "", "", event, "00" * 32)
        validator("record").validate(json.loads(msgspec.json.encode(record)))

    follows()


WRONG = {
    "no type": {"device": "net0"},
    "unknown type": {"type": "DeviceTeleported", "device": "net0"},
    "a field is missing": {"type": "DeviceCreated"},
    "text for a number": {
        "type": "ResourcesAllocated",
        "device": "d",
        "resources": [{"kind": "legacy_irq", "irq": "5"}],
    },
    "u64 and one more": {
        "type": "ResourcesAllocated",
        "device": "d",
        "resources": [{"kind": "mmio", "base": 2**64, "size": 1}],
    },
    "below zero": {"type": "ResourcesAllocated", "device": "d", "resources": [{"kind": "kvm_mem_slot", "index": -1}]},
    "an unknown kind": {"type": "ConstraintsDeclared", "device": "d", "constraints": [{"kind": "warp", "size": 1}]},
}


@pytest.mark.parametrize("document", WRONG.values(), ids=WRONG)
def test_what_the_schema_forbids_the_decoder_refuses(document: dict[str, Any]):
    """The two never disagree about what is no event."""
    assert not validator("event").is_valid(document)
    with pytest.raises(esrm.Corrupt):
        events.decode(json.dumps(document).encode())


def test_the_schemas_are_current():
    """They are what the structs say: ``tools/schemas.py --check`` is content."""
    command = [sys.executable, str(ROOT / "tools" / "schemas.py"), "--check"]
    done = subprocess.run(command, capture_output=True, text=True, env={"PYTHONPATH": str(ROOT)}, check=False)
    assert (done.returncode, done.stderr) == (0, "")


def test_a_golden_log_is_never_overwritten(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """The script writes a new pair once; asked again, or where either file stands, it touches nothing."""
    tool = runpy.run_path(str(ROOT / "tools" / "golden.py"))
    monkeypatch.setitem(tool["main"].__globals__, "FOLDER", tmp_path)
    assert tool["main"](["v9"]) == 0
    before = {path: path.read_bytes() for path in tmp_path.iterdir()}
    assert sorted(path.name for path in before) == ["v9.jsonl", "v9.state.json"]
    assert tool["main"](["v9"]) == 1
    assert {path: path.read_bytes() for path in tmp_path.iterdir()} == before
    (tmp_path / "v9.jsonl").unlink()
    assert tool["main"](["v9"]) == 1
    assert not (tmp_path / "v9.jsonl").exists()
