"""A layout found on the way is the one that replay comes to."""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from stories import audit
from strategies import bounded, dice
from told import VM, cache, in_memory, life, log_of, on_disk, replayed

import esrm
from esrm import Past, cli, open_reader, open_store
from esrm.cache import file, snapshots
from esrm.core import events as e
from esrm.stores.memory import MemoryReader


def holds_everywhere(reader: Any) -> None:
    """Each revision, asked for in disorder, is what replay says, down to what is built on it."""
    states = replayed(reader)
    order = list(range(len(states)))
    random.Random(len(states)).shuffle(order)
    for revision in order:
        found = Past(reader, VM).at(revision)
        assert found == states[revision]
        assert list(found.devices) == list(states[revision].devices)
        assert found.walk() == states[revision].walk()
        audit(found)
    first, last = states[0], states[-1]
    changed = {*(first.devices.keys() ^ last.devices.keys())}
    assert {change.device for change in Past(reader, VM).diff(0).changes} >= changed


@pytest.mark.parametrize("seed", [1, 2, 3])
def test_every_revision_of_a_long_story(tmp_path: Path, seed: int):
    """With refusals, nesting and moves, every revision from its nearest snapshot is what replay says."""
    holds_everywhere(in_memory(random.Random(seed), 150, tmp_path / "cache"))
    assert (tmp_path / "cache").exists()


@given(dice())
@bounded(15)
def test_every_revision_of_any_story(tmp_path_factory: pytest.TempPathFactory, dice: random.Random):
    """The same, and hypothesis seeks the story for which it is not."""
    holds_everywhere(in_memory(dice, 15, tmp_path_factory.mktemp("story") / "cache"))


def test_a_question_folds_a_stride_at_most(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Once a log was walked through, no moment in it is further than a stride from a snapshot."""
    reader = in_memory(random.Random(5), 200, tmp_path / "cache")
    past = Past(reader, VM)
    past.at()
    folded: list[int] = []
    payloads = MemoryReader.payloads

    def counted(self: Any, *args: Any) -> Any:
        for payload in payloads(self, *args):
            folded[-1] += 1
            yield payload

    monkeypatch.setattr(MemoryReader, "payloads", counted)
    heaviest = snapshots.STRIDE_MIN
    for revision in range(past.head() + 1):
        folded.append(0)
        heaviest = max(heaviest, snapshots._weight(past.at(revision)))
        assert folded[-1] <= heaviest + 5
    assert sum(folded) > past.head()  # something was counted


def test_without_a_place_it_is_plain_replay(monkeypatch: pytest.MonkeyPatch):
    """A log that nothing can be kept beside is read in pages all the same, not event by event."""
    reader = in_memory(random.Random(5), 100, None)
    states, pages = replayed(reader), list[int]()
    payloads = MemoryReader.payloads
    monkeypatch.setattr(MemoryReader, "payloads", lambda self, *args: pages.append(1) or payloads(self, *args))
    assert Past(reader, VM).at() == states[-1]
    assert len(pages) <= len(states) / 5 + 1


def test_many_devices_lie_further_apart(tmp_path: Path):
    """A state that takes long to read is kept less often: as many events apart as there are things in it."""
    reader = in_memory(random.Random(6), 0, tmp_path / "cache")
    few, many = esrm.VmState(), esrm.VmState()
    held = (esrm.MmioConstraint(1), esrm.PioConstraint(1)), (esrm.MmioAddressRange(0, 1), esrm.PioAddressRange(0, 1))
    many.devices = {str(n): esrm.core.state.DeviceState(str(n), "", None, esrm.Phase.CREATED, *held) for n in range(50)}
    few.revision = many.revision = 3
    assert snapshots.Snapshots(reader, VM, 3).stride(few) == 5
    assert snapshots.Snapshots(reader, VM, 3).stride(many) == 250


@pytest.mark.parametrize("held", [1, 40])
def test_snapshots_stay_below_a_tenth_of_the_log(tmp_path: Path, held: int, monkeypatch: pytest.MonkeyPatch):
    """Whether devices hold little or much: of a log in which nothing but their phase changes, no more is kept."""
    monkeypatch.setattr(snapshots, "STRIDE_MIN", 200)
    names = [f"dev{n}" for n in range(20)]
    events: list[e.Event] = [e.VmCreated(esrm.platforms.get("x86_64"))]
    dice = random.Random(held)
    for n, name in enumerate(names):
        bars = [
            esrm.MmioAddressRange(n << 58 | i << 50 | dice.getrandbits(49), dice.getrandbits(20) + 1)
            for i in range(held)
        ]
        events += [*life(name, *bars), e.ResourcesAssigned(name)]
    for _ in range(max(40, 4 * held)):
        events += [phase(name) for name in names for phase in (e.DeviceRegistered, e.DeviceUnregistered)]
    log_of(events, tmp_path / "cache", f"sqlite:{tmp_path / 'vm.db'}").close()
    with open_reader(f"sqlite:{tmp_path / 'vm.db'}") as reader:
        assert Past(reader, VM).at() == esrm.replay(events)
        [(kept, size)] = (
            file.look(reader.beside, lambda fetch: fetch("SELECT count(*), sum(length(body)) FROM snapshots")) or []
        )
    assert kept > 2
    assert size < (tmp_path / "vm.db").stat().st_size / 10


def test_a_short_log_leaves_nothing_behind(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Where replay is as quick, no file is made."""
    monkeypatch.undo()
    path = on_disk(tmp_path / "vm.db")
    with open_reader(f"sqlite:{path}") as reader:
        Past(reader, VM).at()
        Past(reader, VM).blame("pio", 0x100)
    assert not cache(path).exists()


async def test_a_manager_begins_near_the_end(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """It leaves a layout behind when it closes; the next one reads what came after it, and is where the log is."""
    monkeypatch.setattr("esrm.manager.STRIDE_MIN", 5)
    url = f"sqlite:{tmp_path / 'vm.db'}"
    async with open_store(url) as store:
        async with esrm.ResourceManager(store, vm=VM) as vm:
            for n in range(20):
                await vm.create(f"dev{n}")
        with store.reader() as reader:
            assert snapshots.Snapshots(reader, VM).nearest(20).revision == 20
            assert snapshots.Snapshots(reader, VM).nearest(19).revision == -1
        await store.append(VM, [esrm.Draft(event=esrm.DeviceRemoved("dev3"), id=ID, time_ns=2**62)], expected=20)
        async with esrm.ResourceManager(store, vm=VM) as again:
            assert again.state == esrm.replay(r.event for r in await store.read(VM))
            assert (again.revision, again.position) == (21, 22)
            await again.create("dev3")
            assert (await store.read(VM, 21))[0].time_ns == 2**62
        cache(tmp_path / "vm.db").write_bytes(b"\0" * 100)
        async with esrm.ResourceManager(store, vm=VM) as third:
            assert third.state == again.state


ID = "0197f2e0-0000-7000-8000-000000000000"


def test_another_reducer_is_not_believed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """What another version's `evolve` came to is dropped whole, and made anew."""
    reader = in_memory(random.Random(7), 60, tmp_path / "cache")
    states = replayed(reader)
    monkeypatch.setattr(file, "FINGERPRINT", "an older one")
    Past(reader, VM).at()
    assert snapshots.Snapshots(reader, VM).nearest(30).revision > 0
    monkeypatch.undo()
    assert snapshots.Snapshots(reader, VM).nearest(10_000).revision == -1
    monkeypatch.setattr(snapshots, "STRIDE_MIN", 5)
    assert [Past(reader, VM).at(n) for n in range(len(states))] == states
    assert snapshots.Snapshots(reader, VM).nearest(30).revision > 0


def test_verify_replays_without_the_cache(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    """Somebody who may write the file puts a layout there that never was: `esrm verify` says of the log what is true;
    and when the file is deleted, so do all others.
    """
    path = on_disk(tmp_path / "vm.db")
    with open_reader(f"sqlite:{path}") as reader:
        past, end = Past(reader, VM), Past(reader, VM).head()
        true = past.at()

        def forge(fetch: file.Fetch) -> None:
            for vm, revision, body in fetch("SELECT vm, revision, body FROM snapshots"):
                state = snapshots.unpacked(VM, revision, body)
                state.devices["forged"] = esrm.core.state.DeviceState("forged", "", None, esrm.Phase.CREATED)
                body = snapshots.packed(VM, state)
                fetch("UPDATE snapshots SET body = ? WHERE vm = ? AND revision = ?", body, vm, revision)

        assert file.keep(reader.beside, forge)
        assert "forged" in past.at().devices
        assert cli.run(["verify", "--store", str(path), "--json"]) == 0
        [told] = json.loads(capsys.readouterr().out)["vms"]
        assert (told["revision"], told["devices"]) == (end, len(true.devices))
        cache(path).unlink()
        assert past.at() == true


def test_damage_in_a_body_is_seen(tmp_path: Path):
    """One wrong byte in a snapshot, or one filed under another revision, costs the cache and no answer."""
    reader = in_memory(random.Random(8), 60, tmp_path / "cache")
    states = replayed(reader)
    for damage in (
        "UPDATE snapshots SET body = CAST(substr(body, 1, 40) || x'00' || substr(body, 42) AS BLOB)",
        "UPDATE snapshots SET body = substr(body, 1, length(body) - 1)",
        "UPDATE snapshots SET body = (SELECT s.body FROM snapshots s ORDER BY revision LIMIT 1) WHERE revision > 10",
        "UPDATE snapshots SET body = x''",
    ):
        Past(reader, VM).at()
        assert file.keep(reader.beside, lambda fetch, damage=damage: fetch(damage) and None)
        assert Past(reader, VM).at(40) == states[40]
        assert [Past(reader, VM).at(n) for n in range(len(states))] == states
