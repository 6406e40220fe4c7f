"""A witness: what it signs, what it refuses and how it says so, and that it never forgets."""

from __future__ import annotations

import json
import os
import random
import threading
from pathlib import Path

import msgspec
import pytest
from scale import pick, repeat, seed

from esrm.errors import Corrupt, Malformed, Refused, Unproven
from esrm.proofs import (
    EMPTY,
    LOG,
    WITNESS,
    Checkpoint,
    Note,
    Request,
    Signature,
    SigningKey,
    Witness,
    consistency_ranges,
    leaf_hash,
    open_checkpoint,
    roots,
)
from esrm.proofs import files as module
from esrm.proofs.keys import decode, encode
from esrm.proofs.note import SIGNATURES_MAX

HOST = SigningKey("example.org/host", LOG, bytes(range(32)))
KEY = SigningKey("example.com/witness", WITNESS, bytes(32))
BOTH = [HOST.public, KEY.public]
ORIGIN = "example.org/host/web-1"
NOW = 1_795_330_800


def leaves(size: int, fork: int = -1) -> list[bytes]:
    """A log's leaves; one with another history is different from record ``fork`` on."""
    return [leaf_hash(b"%d%s" % (n, b"" if fork < 0 or n < fork else b"'")) for n in range(size)]


def request(old: int, new: int, fork: int = -1, key: SigningKey = HOST, origin: str = ORIGIN) -> Request:
    """An honest request by a log, whatever its history is."""
    [root, *path] = roots(leaves(new, fork), [(0, new), *consistency_ranges(old, new)])
    return Request(old, tuple(path), Checkpoint(origin, new, root).signed(key))


@pytest.fixture
def witness(tmp_path: Path) -> Witness:
    """One that has never seen anything."""
    return Witness(KEY, tmp_path / "memory", [HOST.public], new=True)


def test_a_log_that_grows_is_cosigned(witness: Witness, tmp_path: Path) -> None:
    """Step by step, standing still included; each answer is a checkpoint that both have signed, with the time."""
    sizes = [0, 1, 1, 2, 5, 8, 9, 31, 31, 64]
    for step, (old, new) in enumerate(zip([0, *sizes], sizes, strict=False)):
        note = witness.cosign(Request.parse(str(request(old, new)).encode()), now=NOW + step)
        opened = open_checkpoint(str(note).encode(), BOTH)
        assert (opened.checkpoint.size, opened.signed.witnesses) == (new, {KEY.public: NOW + step})
        assert witness.seen(ORIGIN) == opened.checkpoint
        witness = Witness(KEY, tmp_path / "memory", [HOST.public])


def test_a_log_may_begin_with_records(witness: Witness) -> None:
    """The first checkpoint needs no proof, and a checkpoint alone is such a request."""
    alone = Request.parse(str(request(0, 7).note).encode())
    assert alone == request(0, 7)
    assert open_checkpoint(witness.cosign(alone, now=NOW), BOTH).checkpoint.size == 7


def test_a_first_checkpoint_comes_without_a_proof(witness: Witness, tmp_path: Path) -> None:
    """Nothing can be proven from nothing; who sends something else is mistaken about what is known."""
    with pytest.raises(Unproven, match="nothing shows that the 7 records begin with the 0"):
        witness.cosign(Request(0, (EMPTY,), request(0, 7).note), now=NOW)
    with pytest.raises(Unproven, match="goes on from 3 records, but this witness has cosigned 0"):
        witness.cosign(request(3, 7), now=NOW)
    assert witness.seen(ORIGIN) is None


def test_witnesses_sign_one_after_the_other(witness: Witness, tmp_path: Path) -> None:
    """Each adds its signature, or renews it; all others stay as they came, and strangers' are not remembered."""
    other = SigningKey("example.com/other", WITNESS, bytes([7]) * 32)
    second = Witness(other, tmp_path / "second", [HOST.public], new=True)
    asked = request(0, 7)
    stranger = Signature("example.net/stranger", b"none", b"of it is believed")
    note = witness.cosign(Request(0, (), Note(asked.note.text, (*asked.note.signatures, stranger))), now=NOW)
    note = second.cosign(Request(0, (), note), now=NOW + 1)
    assert note.signatures[:2] == (*asked.note.signatures, stranger)
    assert open_checkpoint(note, [*BOTH, other.public]).signed.witnesses == {KEY.public: NOW, other.public: NOW + 1}
    note = witness.cosign(Request(7, (), note), now=NOW + 2)
    assert [signature.name for signature in note.signatures] == [HOST.name, stranger.name, other.name, KEY.name]
    assert open_checkpoint(note, BOTH).signed.witnesses == {KEY.public: NOW + 2}
    assert stranger.name not in (tmp_path / "memory").read_text()


def test_a_note_without_room_for_one_more_signature(witness: Witness, tmp_path: Path) -> None:
    """What is answered can be read again, so a note that is full is refused, and not remembered."""
    asked = request(0, 7)
    full = asked.note.signatures * SIGNATURES_MAX
    with pytest.raises(Malformed, match="a note has at most 100 signatures"):
        witness.cosign(Request(0, (), Note(asked.note.text, full)), now=NOW)
    assert not (tmp_path / "memory").exists()
    witness.cosign(Request(0, (), Note(asked.note.text, full[1:])), now=NOW)


def test_an_answer_that_was_lost_is_given_again(witness: Witness) -> None:
    """The same request, from where the log was before, is cosigned again; any other history of that size is not."""
    for old, new in ((0, 5), (5, 9)):
        witness.cosign(request(old, new), now=NOW)
        assert open_checkpoint(witness.cosign(request(old, new), now=NOW + 1), BOTH).checkpoint.size == new
    with pytest.raises(Unproven, match="two histories"):
        witness.cosign(request(5, 9, fork=7), now=NOW)
    with pytest.raises(Unproven, match="gone back"):
        witness.cosign(request(0, 5), now=NOW)


REFUSED = {
    "gone back": (request(0, 19), "has gone back: this witness has cosigned 20 records of it, and is shown 19"),
    "gone back to nothing": (request(0, 0), "has gone back"),
    "two histories of one size": (request(20, 20, fork=19), "has two histories: of 20 records this witness"),
    "another history, longer": (request(20, 25, fork=7), "nothing shows that the 25 records begin with the 20"),
    "the first record changed": (request(20, 21, fork=0), "nothing shows that the 21 records begin with the 20"),
    "a proof from elsewhere": (request(16, 25), "goes on from 16 records, but this witness has cosigned 20"),
    "no proof at all": (request(0, 25), "goes on from 0 records, but this witness has cosigned 20"),
    "a proof of a longer log": (
        Request(20, request(20, 26).path, request(20, 25).note), "nothing shows that the 25 records begin with the 20",
    ),
    "an empty proof": (Request(20, (), request(20, 25).note), "nothing shows that the 25 records begin with the 20"),
    "one hash too many": (
        Request(20, (*request(20, 25).path, EMPTY), request(20, 25).note),
        "nothing shows that the 25 records begin with the 20",
    ),
    "a proof where none is needed": (Request(20, (EMPTY,), request(20, 20).note), "nothing shows that the 20 records"),
    "another key under the log's name": (
        request(20, 25, key=SigningKey(HOST.name, LOG, bytes(32))), "none of which is a key to believe here",
    ),
    "a key that is unknown": (
        request(20, 25, key=SigningKey("example.net/x", LOG, bytes(32))), "none of which is a key to believe here",
    ),
    "an origin that is not the key's": (
        request(0, 25, origin="example.net/x/web-1"),
        "example.org/host does not speak for the log 'example.net/x/web-1'",
    ),
    "a signature over something else": (
        Request(20, request(20, 25).path, Note(request(20, 25).note.text, request(0, 1).note.signatures)),
        "the signature by example.org/host does not hold",
    ),
}  # fmt: skip


@pytest.mark.parametrize(("asked", "said"), REFUSED.values(), ids=REFUSED)
def test_what_a_witness_refuses(witness: Witness, tmp_path: Path, asked: Request, said: str) -> None:
    """Each in its own words; nothing of it is remembered, and the honest log goes on afterwards."""
    witness.cosign(request(0, 20), now=NOW)
    before = (tmp_path / "memory").read_bytes()
    with pytest.raises(Unproven, match="^.*" + said.replace("'", ".")):
        witness.cosign(asked, now=NOW)
    assert (tmp_path / "memory").read_bytes() == before
    witness.cosign(request(20, 25), now=NOW)


def test_every_damaged_proof_is_refused(witness: Witness) -> None:
    """Each bit of each hash; each hash dropped, doubled or swapped."""
    witness.cosign(request(0, 20), now=NOW)
    good = request(20, 39)
    for n, hash in enumerate(good.path):
        flips = [(int.from_bytes(hash) ^ 1 << bit).to_bytes(32) for bit in range(0, 256, pick(quick=32, ci=4, soak=1))]
        wrong = [(*good.path[:n], flipped, *good.path[n + 1 :]) for flipped in flips]
        wrong += [(*good.path[:n], *good.path[n + 1 :]), (*good.path[:n], hash, *good.path[n:])]
        wrong += (
            [(*good.path[:n], *reversed(good.path[n : n + 2]), *good.path[n + 2 :])] if n + 1 < len(good.path) else []
        )
        for path in wrong:
            with pytest.raises(Unproven, match="nothing shows"):
                witness.cosign(Request(20, path, good.note), now=NOW)
    witness.cosign(good, now=NOW)


def test_logs_are_remembered_apart(witness: Witness) -> None:
    """Two VMs of one host are two logs; one may be young while the other is old."""
    other = "example.org/host/db-1"
    witness.cosign(request(0, 20), now=NOW)
    witness.cosign(request(0, 3, origin=other), now=NOW)
    witness.cosign(request(20, 21), now=NOW)
    assert [found.size for name in (ORIGIN, other) if (found := witness.seen(name))] == [21, 3]
    assert witness.seen("example.org/host/none") is None


@pytest.mark.parametrize(
    "data",
    [
        b"", b"old", b"old \n\n", b"old 1", b"old 01\n\n", b"old -1\n\n", b"old 1\nAAAA\n\n", b"old x\n\n",
        b"old 1\n" + f"{encode(bytes(32))}\n".encode() * 64 + b"\n", b"old 1\n" * 1_000_000, b"new 1\n\n", b"\xff",
        b"old 1\n\xff\n\n", b"old 1\n\n",
    ],
    ids=range(14),
)  # fmt: skip
def test_what_is_no_request(data: bytes) -> None:
    """Each is refused as such."""
    with pytest.raises(Malformed):
        Request.parse(data)


# -- memory ----------------------------------------------------------------------------------------------------------


def test_a_witness_does_not_begin_anew_by_accident(tmp_path: Path) -> None:
    """Without its memory it refuses to be; with one, it refuses to begin without."""
    with pytest.raises(Refused, match="does not exist: a witness without its memory would sign anything"):
        Witness(KEY, tmp_path / "memory", [HOST.public])
    Witness(KEY, tmp_path / "memory", [HOST.public], new=True).cosign(request(0, 3), now=NOW)
    with pytest.raises(Refused, match="exists: a witness that begins anew would forget"):
        Witness(KEY, tmp_path / "memory", [HOST.public], new=True)
    assert Witness(KEY, tmp_path / "memory", [HOST.public]).seen(ORIGIN)


def test_a_refused_beginning_leaves_no_memory(witness: Witness, tmp_path: Path) -> None:
    """What was asked wrongly the first time can be asked rightly the second time, in the same words."""
    for asked in (request(0, 7, key=SigningKey("example.net/x", LOG, bytes(32))), request(3, 7)):
        with pytest.raises(Unproven):
            witness.cosign(asked, now=NOW)
        assert not (tmp_path / "memory").exists()
    again = Witness(KEY, tmp_path / "memory", [HOST.public], new=True)
    again.cosign(request(0, 7), now=NOW)
    with pytest.raises(Refused, match="exists: a witness that begins anew would forget"):
        witness.cosign(request(0, 7), now=NOW)


def test_keys_of_the_wrong_sort(tmp_path: Path) -> None:
    """A log cannot be its own witness with the same key, nor a witness be taken for a log."""
    for key, logs in ((HOST, [HOST.public]), (KEY, [KEY.public])):
        with pytest.raises(Refused, match="a witness needs a witness's key"):
            Witness(key, tmp_path / "memory", logs, new=True)
    assert not (tmp_path / "memory").exists()


def like(memory: str, seen: dict[str, str]) -> str:
    """A memory, byte for byte as a witness writes it, with other entries."""
    return memory.partition('"seen":')[0] + f'"seen":{msgspec.json.format(msgspec.json.encode(seen)).decode()}}}\n'


@pytest.mark.parametrize(
    "edit",
    [
        "size", "root", "origin", "truncate", "noise", "list", "unsigned", "other", "surrogate", "nothing", "empty",
        "forgotten", "dropped", "pasted", "another's",
    ],
)  # fmt: skip
def test_a_memory_that_somebody_edited(witness: Witness, tmp_path: Path, edit: str) -> None:
    """One signature is over all that is remembered: no entry can be changed, dropped, or put back to an older one."""
    old = witness.cosign(request(0, 3), now=NOW)
    witness.cosign(request(0, 3, origin=f"{ORIGIN}2"), now=NOW)
    witness.cosign(request(3, 20), now=NOW)
    path = tmp_path / "memory"
    text = path.read_text()
    unsigned = str(request(0, 20).note).replace("\n", "\\n")
    seen = json.loads(text)["seen"]
    assert like(text, seen) == text
    thief = SigningKey(KEY.name, WITNESS, bytes([7]) * 32)
    Witness(thief, tmp_path / "other", [HOST.public], new=True).cosign(request(0, 3), now=NOW)
    path.write_text({
        "nothing": "",
        "empty": "{}",
        "forgotten": like(text, {}),
        "dropped": like(text, {name: seen[name] for name in seen if name != ORIGIN}),
        "pasted": like(text, {**seen, ORIGIN: str(old)}),
        "another's": (tmp_path / "other").read_text(),
        "size": text.replace("\\n20\\n", "\\n2\\n"),
        "root": text.replace("\\n20\\n", "\\n20\\n").replace(text.split("\\n")[2], encode(bytes(32))),
        "origin": text.replace('"example.org/host/web-1":', '"example.org/host/web-2":'),
        "truncate": text[:50],
        "noise": "\x00\x01",
        "list": "[]",
        "unsigned": f'{{"{ORIGIN}": "{unsigned}"}}',
        "other": f'{{"{ORIGIN}": "none"}}',
        "surrogate": f'{{"{ORIGIN}": "\\ud800"}}',
    }[edit])  # fmt: skip
    origin = "example.org/host/web-2" if edit == "origin" else ORIGIN
    for asked in (request(0, 25, origin=origin), request(3, 25, fork=4), request(20, 25)):
        with pytest.raises(Corrupt) as caught:
            Witness(KEY, path, [HOST.public]).cosign(asked, now=NOW)
        assert str(caught.value).startswith(f"{path} is not to be believed"), "the memory is, not the log"
        assert "Put back the newest copy" in str(caught.value)


def test_what_signs_a_memory_signs_nothing_else(witness: Witness, tmp_path: Path) -> None:
    """The signature over a memory has a beginning of its own: it is no note's and no cosignature's."""
    witness.cosign(request(0, 20), now=NOW)
    document = json.loads((tmp_path / "memory").read_text())
    seen = (tmp_path / "memory").read_bytes().partition(b'"seen":')[2].strip()[:-1]
    signature = decode(document["signature"])
    assert KEY.public.verifies(b"esrm witness memory v1\n" + seen, signature)
    assert not KEY.public.verifies(seen, signature)


def test_an_old_memory_put_back_is_not_noticed(witness: Witness, tmp_path: Path) -> None:
    """This is what the pages say does not hold: the whole file as it once was is the witness's own word."""
    witness.cosign(request(0, 3), now=NOW)
    old = (tmp_path / "memory").read_bytes()
    witness.cosign(request(3, 20), now=NOW)
    (tmp_path / "memory").write_bytes(old)
    witness.cosign(request(3, 25, fork=4), now=NOW)


def test_no_log_is_forgotten_when_many_ask_at_once(tmp_path: Path) -> None:
    """Each asks a witness of its own that shares the memory with all others, as processes do: all are remembered."""
    origins = [f"{ORIGIN}{n}" for n in range(12)]
    Witness(KEY, tmp_path / "memory", [HOST.public], new=True).cosign(request(0, 1), now=NOW)
    threads = [
        threading.Thread(
            target=Witness(KEY, tmp_path / "memory", [HOST.public]).cosign,
            args=(request(0, 3, origin=origin),),
            kwargs={"now": NOW},
        )
        for origin in origins
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(json.loads((tmp_path / "memory").read_text())["seen"]) == sorted([ORIGIN, *origins])


def test_it_remembers_before_it_answers(witness: Witness, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Written, synced, renamed, and the folder synced, in this order and all before the answer."""
    done: list[str] = []
    fsync, replace = os.fsync, Path.replace

    def synced(file: int) -> None:
        done.append(f"fsync {fresh(Path(os.readlink(f'/proc/self/fd/{file}')))}")
        fsync(file)

    def replaced(self: Path, target: Path) -> Path:
        done.append(f"rename {fresh(self)} {fresh(target)}")
        return replace(self, target)

    def fresh(path: Path) -> str:
        return "new" if path.name.startswith(".esrm-") else path.name

    monkeypatch.setattr(module.os, "fsync", synced)
    monkeypatch.setattr(Path, "replace", replaced)
    witness.cosign(request(0, 20), now=NOW)
    assert done == ["fsync new", "rename new memory", f"fsync {tmp_path.name}"]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["memory", "memory-lock"]


@pytest.mark.parametrize("call", [1, 2])
def test_what_could_not_be_remembered_is_not_signed(
    witness: Witness, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, call: int
) -> None:
    """When the disk fails there is no answer, and afterwards the witness is at the old size or at the new one."""
    witness.cosign(request(0, 20), now=NOW)
    calls = iter(range(1, 9))
    fsync = os.fsync

    def failing(file: int) -> None:
        if next(calls) == call:
            raise OSError(5, "Input/output error")
        fsync(file)

    monkeypatch.setattr(module.os, "fsync", failing)
    with pytest.raises(OSError, match="Input/output error"):
        witness.cosign(request(20, 25), now=NOW)
    monkeypatch.undo()
    again = Witness(KEY, tmp_path / "memory", [HOST.public])
    seen = again.seen(ORIGIN)
    assert seen
    assert seen.size == {1: 20, 2: 25}[call]
    with pytest.raises(Unproven, match=r"two histories|nothing shows"):
        again.cosign(request(seen.size, 25, fork=19), now=NOW)
    again.cosign(request(seen.size, 25), now=NOW)


def test_only_one_of_many_histories_is_signed(tmp_path: Path) -> None:
    """Many ask at once, each with another future of the same log: one is cosigned, whoever comes first."""
    count = 6
    log = leaves(1)
    Witness(KEY, tmp_path / "memory", [HOST.public], new=True).cosign(request(0, 1), now=NOW)
    for turn in range(pick(quick=4, ci=30, soak=300)):
        futures = [[*log, leaf_hash(b"%d of %d" % (n, turn))] for n in range(count)]
        old, new = len(log), len(log) + 1
        signed: list[int] = []

        def ask(n: int, old: int = old, new: int = new, futures: list = futures, signed: list = signed) -> None:
            [root, *path] = roots(futures[n], [(0, new), *consistency_ranges(old, new)])
            asked = Request(old, tuple(path), Checkpoint(ORIGIN, new, root).signed(HOST))
            try:
                Witness(KEY, tmp_path / "memory", [HOST.public]).cosign(asked, now=NOW)
            except Unproven:
                return
            signed.append(n)

        threads = [threading.Thread(target=ask, args=(n,)) for n in range(count)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert len(signed) == 1
        log = futures[signed[0]]


@pytest.mark.parametrize("part", range(2))
def test_nobody_can_make_a_witness_sign_two_histories(tmp_path: Path, part: int) -> None:
    """A log that lies as it likes: all that is ever cosigned is one history, and it only grows.

    It asks with any of several histories, from any size, with honest proofs or pieces of others, and the witness is
    started anew now and then.
    """
    dice = random.Random(seed() * 1000 + part)
    again = repeat(seed(), f"tests/trust/test_witness.py::test_nobody_can_make_a_witness_sign_two_histories[{part}]")
    path = tmp_path / "memory"
    witness = Witness(KEY, path, [HOST.public], new=True)
    size, forks = 0, [dice.randrange(40) for _ in range(3)] + [-1]
    true: list[bytes] = []
    cosigned = 0
    for _ in range(pick(quick=100, ci=700, soak=7_000)):
        fork = dice.choice(forks)
        new = min(60, max(0, size + dice.choice([-1, 0, 0, 1, 1, 2, 5]) if dice.random() < 0.9 else dice.randrange(60)))
        old = size if dice.random() < 0.8 else dice.randrange(60)
        asked = request(min(old, new), new, fork)
        if dice.random() < 0.1:
            asked = Request(old, request(min(old, new), new, dice.choice(forks)).path, asked.note)
        elif old != asked.old:
            asked = Request(old, asked.path, asked.note)
        try:
            witness.cosign(asked, now=NOW)
        except Unproven:
            continue
        now = leaves(new, fork)
        assert now[: len(true)] == true, again
        true, size, cosigned = now, new, cosigned + 1
        if dice.random() < 0.2:
            witness = Witness(KEY, path, [HOST.public])
    assert cosigned > 5
    seen = witness.seen(ORIGIN)
    assert seen
    assert seen.size == size
