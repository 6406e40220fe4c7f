"""A witness: what it signs, what it refuses and how it says so, and that it never forgets."""

from __future__ import annotations

import os
import random
import threading
from pathlib import Path

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
    SigningKey,
    Witness,
    consistency_ranges,
    leaf_hash,
    open_checkpoint,
    roots,
)
from esrm.proofs import witness as module
from esrm.proofs.keys import encode

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


def test_what_it_signs_is_only_what_it_has_checked(witness: Witness) -> None:
    """Signatures by others are not in the answer; a witness vouches for none that it does not know."""
    stranger = SigningKey("example.net/stranger", LOG, bytes(32))
    asked = request(0, 7)
    noisy = Request(
        0, (), type(asked.note)(asked.note.text, asked.note.signatures + request(0, 7, key=stranger).note.signatures)
    )
    assert [signature.name for signature in witness.cosign(noisy, now=NOW).signatures] == [HOST.name, KEY.name]


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


def test_keys_of_the_wrong_sort(tmp_path: Path) -> None:
    """A log cannot be its own witness with the same key, nor a witness be taken for a log."""
    for key, logs in ((HOST, [HOST.public]), (KEY, [KEY.public])):
        with pytest.raises(Refused, match="a witness needs a witness's key"):
            Witness(key, tmp_path / "memory", logs, new=True)
    assert not (tmp_path / "memory").exists()


@pytest.mark.parametrize(
    "edit", ["size", "root", "origin", "truncate", "noise", "list", "unsigned", "other", "surrogate"]
)
def test_a_memory_that_somebody_edited(witness: Witness, tmp_path: Path, edit: str) -> None:
    """What is remembered carries the witness's own signature: no size or root in it can be made smaller."""
    witness.cosign(request(0, 20), now=NOW)
    path = tmp_path / "memory"
    text = path.read_text()
    unsigned = str(request(0, 20).note).replace("\n", "\\n")
    path.write_text({
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
    with pytest.raises(Corrupt) as caught:
        Witness(KEY, path, [HOST.public]).cosign(request(0, 25, origin=origin), now=NOW)
    assert str(caught.value).startswith(str(path)), "it is the memory that is not believed, not the log"


def test_it_remembers_before_it_answers(witness: Witness, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Written, synced, renamed, and the folder synced, in this order and all before the answer."""
    done: list[str] = []
    fsync, replace = os.fsync, Path.replace

    def synced(file: int) -> None:
        done.append(f"fsync {os.readlink(f'/proc/self/fd/{file}').removeprefix(str(tmp_path)) or '/'}")
        fsync(file)

    def replaced(self: Path, target: Path) -> Path:
        done.append(f"rename {self.name} {target.name}")
        return replace(self, target)

    monkeypatch.setattr(module.os, "fsync", synced)
    monkeypatch.setattr(Path, "replace", replaced)
    witness.cosign(request(0, 20), now=NOW)
    assert done == ["fsync /memory-new", "rename memory-new memory", "fsync /"]


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
