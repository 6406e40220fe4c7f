"""Keys, signed notes and checkpoints: the formats' own examples, and everything that is nearly one."""

from __future__ import annotations

import random
import stat
from pathlib import Path

import pytest
from scale import pick, repeat, seed

from esrm.errors import Malformed, Refused, Unproven
from esrm.names import NAME_MAX
from esrm.proofs import (
    EMPTY,
    LOG,
    WITNESS,
    Checkpoint,
    Note,
    Signature,
    SigningKey,
    VerifierKey,
    open_checkpoint,
    origin_of,
    sign,
    speaks_for,
    verified,
    vm_of,
)
from esrm.proofs.checkpoint import ORIGIN_MAX
from esrm.proofs.keys import KEY_TEXT_MAX, decode, encode
from esrm.proofs.note import NOTE_BYTES_MAX, SIGNATURES_MAX, parse

# Facts: the examples of C2SP signed-note, tlog-checkpoint and tlog-cosignature, and of the documentation of Go's
# golang.org/x/mod/sumdb/note.
SPEC_KEY = "example.com/foo+530d903a+AekyeRrm56hApGFkyQR4ZCbV54Id2LKaANYcrnKv3U2k"
SPEC_NOTE = """\
This is an example message.

\u2014 example.com/foo Uw2QOkn8srV1yJGh2VYRlL1Tnagv1YEq6TfXppzi2ONncAlTgK7Ztg1ERYNZXsYjOBH3mFXmRKuwHjG1Yu72IneyaQM=
"""
POEM = """\
Ognuno sta solo sul cuor della terra
trafitto da un raggio di sole:

ed \u00e8 subito sera.

\u2014 quasimodo.example/salvatore NnugSzTjtVAewIS+Z/iJhUPeFDkO/5QQ2i5ddnGITLlC+EhfLW9oJKONrMouFSQU0xMcXxj99ihAQwaqP3Ze\
kRwNtIc=
"""
COSIGNED = """\
example.com/behind-the-sofa
20852163
CsUYapGGPo4dkMgIAUqom/Xajj7h2fB2MPA3j2jxq2I=

\u2014 example.com/behind-the-sofa Az3grlgtzPICa5OS8npVmf1Myq/5IZniMp+ZJurmRDeOoRDe4URYN7u5/Zhcyv2q1gGzGku9nTo+zyWE+xe\
McTOAYQ8=
\u2014 witness.example.com/w1 jWbPPwAAAABkGFDLEZMHwSRaJNiIDoe9DYn/zXcrtPHeolMI5OWXEhZCB9dlrDJsX3b2oyin1nPZqhf5nNo0xUe+\
mbIUBkBIfZ+qnA==
"""
GO_PRIVATE = "PRIVATE+KEY+PeterNeumann+c74f20a3+AYEKFALVFGyNhPJEMzD1QIDr+Y7hfZx09iUvxdXHKDFz"
GO_KEY = "PeterNeumann+c74f20a3+ARpc2QcUPDhMQegwxbzhKqiBfsVkmqq/LDE4izWy10TW"
GO_NOTE = """\
If you think cryptography is the answer to your problem,
then you don't know what your problem is.

\u2014 PeterNeumann x08go/ZJkuBS9UG/SffcvIAQxVBtiFupLLr8pAcElZInNIuGUgYN1FFYC2pZSNXgKvqfqdngotpRZb6KE6RyyBwJnAM=
"""
GO_SECOND_KEY = "EnochRoot+af0cfe78+ATtqJ7zOtqQtYqOo0CpvDXNlMhV3HeJDpjrASKGLWdop"
GO_SECOND = (
    "\u2014 EnochRoot rwz+eBzmZa0SO3NbfRGzPCpDckykFXSdeX+MNtCOXm2/5n2tiOHp+vAF1aGrQ5ovTG01oOTGwnWLox33WWd1RvMc+QQ=\n"
)

TEXT = f"example.org/host/web-1\n25\n{encode(bytes(range(32)))}\n"
HOST = SigningKey("example.org/host", LOG, bytes(range(32)))
WITNESSES = [SigningKey(f"example.com/w{n}", WITNESS, bytes([n]) * 32) for n in range(3)]
NOW = 1_795_330_800


def note_by(*keys: SigningKey, text: str = TEXT) -> Note:
    """The text, signed by each."""
    return Note(text, tuple(sign(text, key, now=None if key.kind == LOG else NOW) for key in keys))


# -- published examples ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("key", "text"), [(SPEC_KEY, SPEC_NOTE), (GO_KEY, GO_NOTE), (GO_KEY, GO_NOTE + GO_SECOND)])
def test_published_notes_are_believed(key: str, text: str) -> None:
    """The examples of the formats hold, a signature by an unknown key beside them or not."""
    note = parse(text.encode())
    assert verified(note, [VerifierKey.parse(key)]).logs == (VerifierKey.parse(key),)
    assert str(note) == text


def test_a_note_signed_twice() -> None:
    """Whoever is asked about is found, and nobody else."""
    note = parse((GO_NOTE + GO_SECOND).encode())
    keys = [VerifierKey.parse(GO_KEY), VerifierKey.parse(GO_SECOND_KEY)]
    assert verified(note, keys).logs == tuple(keys)
    assert verified(note, keys[1:]).logs == tuple(keys[1:])
    assert verified(note, [VerifierKey.parse(SPEC_KEY)]).logs == ()


def test_signing_gives_the_published_note() -> None:
    """Ed25519 has one signature for a text, so a published key must make the published note, byte for byte."""
    key = SigningKey.parse(GO_PRIVATE)
    assert str(key.public) == GO_KEY
    assert key.encoded() == GO_PRIVATE
    text = GO_NOTE.partition("\n\n")[0] + "\n"
    assert str(Note(text, (sign(text, key),))) == GO_NOTE


def test_published_forms_are_read() -> None:
    """A text with a blank line in it; a checkpoint with a witness's signature and its time."""
    assert str(parse(POEM.encode())) == POEM
    assert parse(POEM.encode()).text.endswith("\n\ned \u00e8 subito sera.\n")
    note = parse(COSIGNED.encode())
    checkpoint = Checkpoint.parse(note.text)
    assert (checkpoint.origin, checkpoint.size, str(checkpoint)) == ("example.com/behind-the-sofa", 20852163, note.text)
    assert int.from_bytes(note.signatures[1].value[:8]) == 1679315147
    assert [len(signature.value) for signature in note.signatures] == [64, 72]


def test_a_cosignature_signs_what_its_specification_says() -> None:
    """The header, the time and the text, under an id made with type 4: put together by hand here."""
    witness = WITNESSES[0]
    [signature] = note_by(witness).signatures
    message = b"cosignature/v1\ntime 1795330800\n" + TEXT.encode()
    assert witness.public.verifies(message, signature.value[8:])
    assert signature.value[:8] == (1_795_330_800).to_bytes(8, "big")
    assert decode(str(witness.public).split("+", 2)[2])[0] == 4
    assert verified(note_by(witness), [witness.public]).witnesses == {witness.public: NOW}


# -- keys ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", [LOG, WITNESS])
def test_a_key_is_kept_and_read_again(tmp_path: Path, kind: int) -> None:
    """In one line that only its owner may read; never overwritten, and never shown."""
    key = SigningKey.generate("example.org/host", kind)
    key.save(tmp_path / "key")
    assert SigningKey.load(tmp_path / "key") == key
    assert stat.S_IMODE((tmp_path / "key").stat().st_mode) == 0o600
    assert VerifierKey.parse(str(key.public)) == key.public
    assert encode(key.seed) not in repr(key)
    assert key.seed.hex() not in repr(key)
    with pytest.raises(FileExistsError):
        key.save(tmp_path / "key")
    assert SigningKey.generate("example.org/host", kind) != key


@pytest.mark.parametrize("name", ["", "a b", "a+b", "a\u00a0b", "a\tb", "a\nb", "\x7f", "\u202e"])
def test_names_that_no_key_may_have(name: str) -> None:
    """Blanks and plus signs would be read as something else, and what cannot be seen deceives."""
    with pytest.raises(Malformed):
        SigningKey.generate(name)


KEYS_THAT_ARE_NONE = [
    "",
    "+",
    "++",
    "PeterNeumann",
    "PeterNeumann+c74f20a3",
    "PeterNeumann+c74f20a3+",
    GO_KEY + "=",
    GO_KEY + "\n",
    " " + GO_KEY,
    GO_KEY[:-1],
    GO_KEY[:-2] + "X",
    GO_KEY.replace("c74f20a3", "c74f20a4"),
    GO_KEY.replace("c74f20a3", "C74F20A3"),
    GO_KEY.replace("PeterNeumann", "Peter Neumann"),
    GO_KEY.replace("PeterNeumann", ""),
    "PeterNeumann+cc469956+ARpc2QcUPDhMQegwxbzhKqiBfsVkmqq/LDE4izWy10TWBADKEY==",  # too long, with an id to match
    "PeterNeumann+173116ae+ZRpc2QcUPDhMQegwxbzhKqiBfsVkmqq/LDE4izWy10TW",  # an unknown type, with an id to match
    "x" * 3000 + GO_KEY,
    "\ud800" + GO_KEY,
]


@pytest.mark.parametrize("text", KEYS_THAT_ARE_NONE)
def test_keys_that_are_none(text: str) -> None:
    """Each is refused, as a key to believe and as one to sign with."""
    with pytest.raises(Malformed):
        VerifierKey.parse(text)
    with pytest.raises(Malformed):
        SigningKey.parse("PRIVATE+KEY+" + text)


def test_a_key_with_a_flipped_bit_is_none() -> None:
    """Its id is over its name and its bytes: what was not copied whole is noticed, nearly always, before it is used.

    The id has 32 bits, so this is no protection against somebody who wants it otherwise.
    """
    for key, kind in ((GO_KEY, VerifierKey), (GO_PRIVATE, SigningKey)):
        data = bytearray(key.encode())
        for place in range(len(data)):
            for bit in range(7):
                data[place] ^= 1 << bit
                with pytest.raises(Malformed):
                    kind.parse(data.decode())
                data[place] ^= 1 << bit


def test_a_private_key_is_never_repeated() -> None:
    """What is wrong with it is said without it."""
    with pytest.raises(Malformed) as caught:
        SigningKey.parse(GO_PRIVATE[:-1])
    assert "AYEKFAL" not in str(caught.value)
    with pytest.raises(Malformed, match="no private key"):
        SigningKey.parse(GO_KEY)


def test_a_file_without_a_key(tmp_path: Path) -> None:
    """Another file is named by mistake: a sentence, whatever is in it."""
    file = tmp_path / "noise"
    for content in (b"", b"\xff" * 100, b"PRIVATE+KEY+", b"\0" * 100_000, b"SQLite format 3\0" * 500):
        file.write_bytes(content)
        with pytest.raises(Malformed):
            SigningKey.load(file)
    with pytest.raises(FileNotFoundError):
        SigningKey.load(tmp_path / "none")


@pytest.mark.parametrize(
    "text", ["AA=A", "AAA", "AA==\n", " AA==", "AB==", "AAB=", "A-A=", "AA=", "\u0660AA=", "AA==AA=="]
)
def test_base64_has_one_form(text: str) -> None:
    """Two texts never stand for the same bytes, so a signature's text cannot be changed and stay good."""
    with pytest.raises(ValueError, match="base64"):
        decode(text)
    assert (decode("AA=="), decode("")) == (b"\0", b"")


# -- notes -----------------------------------------------------------------------------------------------------------

GOOD = "\u2014 a AAAAAAA="  # five bytes: four of an id, and one

NOTES_THAT_ARE_NONE = {
    "nothing": b"",
    "no signature": b"text\n",
    "no signature lines": b"text\n\n",
    "no blank line": f"text\n{GOOD}\n".encode(),
    "no newline at the end": f"text\n\n{GOOD}".encode(),
    "a blank line at the end": f"text\n\n{GOOD}\n\n".encode(),
    "a hyphen for the dash": b"text\n\n- a AAAAAAA=\n",
    "no dash": b"text\n\na AAAAAAA=\n",
    "no name": "text\n\n\u2014  AAAAAAA=\n".encode(),
    "no signature behind the name": "text\n\n\u2014 a\n".encode(),
    "four parts": f"text\n\n{GOOD} b\n".encode(),
    "two blanks": "text\n\n\u2014  a AAAAAAA=\n".encode(),
    "a name with a plus": "text\n\n\u2014 a+b AAAAAAA=\n".encode(),
    "a name with a blank that is none": "text\n\n\u2014 a\u2003b AAAAAAA=\n".encode(),
    "no base64": "text\n\n\u2014 a !!!!!!!=\n".encode(),
    "base64 in another form": "text\n\n\u2014 a AAAAAAB=\n".encode(),
    "too short for an id and anything": "text\n\n\u2014 a AAAAAA==\n".encode(),
    "a carriage return": f"text\r\n\n{GOOD}\n".encode(),
    "a tab": f"te\txt\n\n{GOOD}\n".encode(),
    "a zero": f"te\0xt\n\n{GOOD}\n".encode(),
    "half a letter": b"\xe2\x80\n\n" + f"{GOOD}\n".encode(),
    "a surrogate": b"\xed\xa0\x80\n\n" + f"{GOOD}\n".encode(),
    "too many signatures": b"text\n\n" + f"{GOOD}\n".encode() * (SIGNATURES_MAX + 1),
    "too large": b"x" * NOTE_BYTES_MAX + f"\n\n{GOOD}\n".encode(),
}


@pytest.mark.parametrize("data", NOTES_THAT_ARE_NONE.values(), ids=NOTES_THAT_ARE_NONE)
def test_notes_that_are_none(data: bytes) -> None:
    """Each differs from a note by one thing, and is refused for it."""
    with pytest.raises(Malformed):
        parse(data)


def test_as_many_signatures_as_the_format_asks_for() -> None:
    """At least 16; the text may be empty but for its newline, and hold signatures of its own."""
    assert len(parse(b"text\n\n" + f"{GOOD}\n".encode() * SIGNATURES_MAX).signatures) == SIGNATURES_MAX
    inner = f"text\n\n{GOOD}\n\n{GOOD}\n"
    assert parse(inner.encode()).text == f"text\n\n{GOOD}\n"


@pytest.mark.parametrize(
    ("data", "said"),
    [
        (b"\xef\xbb\xbf" + SPEC_NOTE.encode(), "a note with a byte order mark is none"),
        (SPEC_NOTE.replace("\n", "\r\n").encode(), "a note with line ends of Windows"),
        (SPEC_NOTE.encode("utf-16"), "a note is UTF-8, but "),
    ],
    ids=["byte order mark", "line ends", "utf-16"],
)
def test_what_a_program_did_to_a_note_on_the_way(data: bytes, said: str) -> None:
    """It is named as that. "The signature does not hold" would be a false alarm: nobody has forged anything."""
    with pytest.raises(Malformed, match=said):
        open_checkpoint(data, [VerifierKey.parse(SPEC_KEY)])


@pytest.mark.parametrize("text", ["no newline", "", "a\tb\n", "a\0\n", "\r\n", "\ud800\n", "\ufeffa\n"])
def test_texts_that_cannot_be_signed(text: str) -> None:
    """What is signed can always be read again."""
    with pytest.raises(Malformed):
        sign(text, HOST)


@pytest.mark.parametrize("now", [0, -1, 2**63])
def test_times_that_cannot_be_signed(now: int) -> None:
    """A witness's time is after 1970 and fits its eight bytes."""
    with pytest.raises(Malformed):
        sign(TEXT, WITNESSES[0], now=now)


def test_a_time_beyond_all_times() -> None:
    """A time that the format does not allow is not believed, though the witness has signed it."""
    witness = WITNESSES[0]
    for time, fits in ((2**63 - 1, True), (2**63, False), (2**64 - 1, False)):
        value = time.to_bytes(8, "big") + witness.sign(f"cosignature/v1\ntime {time}\n{TEXT}".encode())
        note = Note(TEXT, (Signature(witness.name, witness.public.id, value),))
        if fits:
            assert verified(note, [witness.public]).witnesses == {witness.public: time}
        else:
            with pytest.raises(Unproven):
                verified(note, [witness.public])


def test_every_bit_of_a_signed_note_counts() -> None:
    """Whatever is flipped in a note that log and witness signed: it is no note, or it is not believed."""
    note = note_by(HOST, WITNESSES[0])
    keys = [HOST.public, WITNESSES[0].public]
    assert open_checkpoint(str(note).encode(), keys).checkpoint.size == 25
    data = bytearray(str(note).encode())
    for place in range(len(data)):
        for bit in range(8) if pick(quick=0, ci=1, soak=1) else [place % 8]:
            data[place] ^= 1 << bit
            with pytest.raises((Malformed, Unproven)):
                open_checkpoint(bytes(data), keys)
            data[place] ^= 1 << bit


def test_lines_that_were_moved() -> None:
    """Of a signed checkpoint no line can be dropped, doubled or swapped, but signatures may change places."""
    note = note_by(HOST, WITNESSES[0])
    keys = [HOST.public, WITNESSES[0].public]
    lines = str(note).splitlines(keepends=True)
    for n in range(len(lines)):
        doubled, dropped = [*lines[: n + 1], *lines[n:]], [*lines[:n], *lines[n + 1 :]]
        swapped = [*lines[:n], *reversed(lines[n : n + 2]), *lines[n + 2 :]]
        for changed in (doubled, dropped, swapped):
            if changed == lines or (sorted(set(changed[4:])) == sorted(lines[4:]) and changed[:4] == lines[:4]):
                open_checkpoint("".join(changed).encode(), keys)
                continue
            with pytest.raises((Malformed, Unproven)):
                open_checkpoint("".join(changed).encode(), keys)


def test_random_bytes_are_no_notes() -> None:
    """Whatever comes in, only declared errors come out."""
    count = pick(quick=2_000, ci=10_000, soak=100_000)
    dice = random.Random(seed())
    pieces = [
        *COSIGNED.splitlines(keepends=True),
        "\n",
        "\n\n",
        "\u2014 ",
        GOOD,
        "old 3\n",
        "index 1\n",
        "\0",
        "+",
        "=",
    ]
    for _ in range(count):
        data = "".join(dice.choices(pieces, k=dice.randrange(8))).encode()
        if dice.random() < 0.5:
            data = bytes(b if dice.random() > 0.02 else dice.randrange(256) for b in data)
        try:
            open_checkpoint(data, [HOST.public])
        except (Malformed, Unproven):
            continue
        pytest.fail(
            f"{data!r} was believed; {repeat(seed(), 'tests/trust/test_notes.py::test_random_bytes_are_no_notes')}"
        )


# -- whom to believe -------------------------------------------------------------------------------------------------


def test_a_signature_that_does_not_hold_spoils_the_note() -> None:
    """If one known key's signature is wrong, the other's being right helps nothing; an unknown key's is ignored."""
    other = SigningKey(HOST.name, LOG, bytes(32))
    good = note_by(HOST)
    bad = note_by(other, text=TEXT.replace("25", "26")).signatures
    assert verified(Note(TEXT, good.signatures + bad), [HOST.public]).logs == (HOST.public,)
    with pytest.raises(Unproven, match="does not hold"):
        verified(Note(TEXT, good.signatures + bad), [HOST.public, other.public])


@pytest.mark.parametrize("key", [HOST, WITNESSES[0]])
@pytest.mark.parametrize("size", [1, 7, 8, 9, 63, 65, 71, 73, 500])
def test_signatures_of_another_length(key: SigningKey, size: int) -> None:
    """Cut short or with something behind them, by a log or a witness: they do not hold."""
    [good] = note_by(key).signatures
    value = (good.value + bytes(500))[: size if size != len(good.value) else 1]
    with pytest.raises(Unproven, match="does not hold"):
        verified(Note(TEXT, (Signature(good.name, good.id, value),)), [key.public])


def test_the_key_of_another_signs_for_nobody_else() -> None:
    """Signed with another key under the log's name, or by the log for another log: refused, and it is said by whom."""
    thief = SigningKey(HOST.name, LOG, bytes(32))
    with pytest.raises(Unproven, match=r"signed by example\.org/host, none of which"):
        open_checkpoint(note_by(thief), [HOST.public])
    elsewhere = SigningKey("example.net/other", LOG, bytes(32))
    with pytest.raises(Unproven, match=r"example\.net/other does not speak for the log 'example\.org/host/web-1'"):
        open_checkpoint(note_by(elsewhere), [elsewhere.public])
    assert open_checkpoint(note_by(elsewhere), [elsewhere.public], "example.org/host/web-1").checkpoint.size == 25
    with pytest.raises(Unproven, match=r"is of the log 'example\.org/host/web-1', not of 'example\.org/host/db-1'"):
        open_checkpoint(note_by(HOST), [HOST.public], "example.org/host/db-1")


def test_every_witness_that_is_asked_for_must_have_signed() -> None:
    """All of the keys of witnesses that are given; without one of the log's they count for nothing."""
    keys = [HOST.public, *(witness.public for witness in WITNESSES)]
    opened = open_checkpoint(note_by(HOST, *WITNESSES), keys)
    assert opened.signed.witnesses == {witness.public: NOW for witness in WITNESSES}
    with pytest.raises(Unproven, match=r"not cosigned by example\.com/w1$"):
        open_checkpoint(note_by(HOST, WITNESSES[0], WITNESSES[2]), keys)
    with pytest.raises(Unproven, match="none of which is a key to believe"):
        open_checkpoint(note_by(*WITNESSES), keys)


def test_a_logs_signature_is_no_cosignature() -> None:
    """One secret under both types makes two keys; what one has signed is not the other's."""
    both = SigningKey(HOST.name, WITNESS, HOST.seed)
    assert both.public.public == HOST.public.public
    assert verified(note_by(HOST), [both.public]).witnesses == {}
    assert verified(note_by(both), [HOST.public]).logs == ()


def test_two_keys_that_cannot_be_told_apart() -> None:
    """One name and one id for two keys happens to nobody by accident."""
    key = HOST.public

    class Forged(VerifierKey, frozen=True):
        """A key whose maker searched until its id was another's."""

        @property
        def id(self) -> bytes:
            return key.id

    with pytest.raises(Malformed, match="two different keys"):
        verified(note_by(HOST), [key, Forged(key.name, LOG, bytes(32))])
    assert verified(note_by(HOST), [key, key]).logs == (key,)


# -- checkpoints -----------------------------------------------------------------------------------------------------

ROOT = encode(bytes(32))


@pytest.mark.parametrize(
    "text",
    [
        "",
        "\n",
        "origin\n",
        "origin\n1\n",
        f"origin\n1\n{ROOT}",
        f"\n1\n{ROOT}\n",
        f"origin\n\n{ROOT}\n",
        f"origin\n1\n{ROOT}\n\n",
        f"origin\n1\n{ROOT}\nmore\n\nmore\n",
        f"origin\n01\n{ROOT}\n",
        f"origin\n-1\n{ROOT}\n",
        f"origin\n+1\n{ROOT}\n",
        f"origin\n 1\n{ROOT}\n",
        f"origin\n1 \n{ROOT}\n",
        f"origin\n1_0\n{ROOT}\n",
        f"origin\n0x1\n{ROOT}\n",
        f"origin\n\u0661\n{ROOT}\n",
        f"origin\n9223372036854775808\n{ROOT}\n",
        f"origin\n{'9' * 5000}\n{ROOT}\n",
        f"origin\n0\n{ROOT}\n",
        "origin\n1\nAAAA\n",
        f"origin\n1\n{ROOT[:-1]}\n",
        f"origin\n1\n{encode(bytes(33))}\n",
        f"origin\n1\n{bytes(32).hex()}\n",
        f"{ROOT}\n1\norigin\n",
    ],
)
def test_texts_that_are_no_checkpoints(text: str) -> None:
    """Each is refused, whoever has signed it."""
    with pytest.raises(Malformed):
        Checkpoint.parse(text)
    if text.endswith("\n") and "\0" not in text:
        with pytest.raises(Malformed):
            open_checkpoint(note_by(HOST, text=text), [HOST.public])


@pytest.mark.parametrize(
    "origin", ["", "a\nb", "a b", "a+b", "\udcff", "\x7f", "\u2028", "\ufeffa", "x" * (ORIGIN_MAX + 1)], ids=ascii
)
def test_origins_that_are_not_signed(origin: str) -> None:
    """What is signed is a checkpoint for everybody who reads it; what others sign, blanks and all, is read."""
    with pytest.raises(Malformed, match="is no origin: it "):
        Checkpoint(origin, 0, EMPTY).signed(HOST)
    theirs = note_by(HOST, text=f"go.sum database tree\n0\n{encode(EMPTY)}\n")
    assert open_checkpoint(theirs, [HOST.public], "go.sum database tree").checkpoint.size == 0


def test_the_longest_names_make_an_origin() -> None:
    """A key's name and a VM's name that are allowed are never too long together."""
    name = "x" * (KEY_TEXT_MAX - len("+00000000+") - 44)
    key = SigningKey(name, LOG, HOST.seed)
    assert VerifierKey.parse(str(key.public)) == key.public
    vm = "\U0001f600" * NAME_MAX
    note = Checkpoint(origin_of(name, vm), 0, EMPTY).signed(key)
    assert vm_of(name, open_checkpoint(note, [key.public]).checkpoint.origin) == vm


@pytest.mark.parametrize(
    ("start", "what"), [("old 3\n\n", "a request to a witness"), ("c2sp.org/tlog-proof@v1\nx\n\n", "a receipt")]
)
def test_another_file_than_a_checkpoint_is_named(start: str, what: str) -> None:
    """A request or a receipt ends in a signed checkpoint, whose signature does not hold for the whole of it."""
    with pytest.raises(Malformed, match=f"this is {what}"):
        open_checkpoint(start.encode() + str(note_by(HOST)).encode(), [HOST.public])


def test_extension_lines_are_kept_and_signed() -> None:
    """What another log adds to its checkpoints does not disturb, and cannot be changed."""
    checkpoint = Checkpoint("example.org/host", 0, EMPTY, ("one", "two"))
    assert Checkpoint.parse(str(checkpoint)) == checkpoint
    note = checkpoint.signed(HOST)
    assert open_checkpoint(note, [HOST.public]).checkpoint == checkpoint
    with pytest.raises(Unproven):
        open_checkpoint(str(note).replace("two", "too").encode(), [HOST.public])


@pytest.mark.parametrize("vm", ["web-1", "a b", "a/b", "a+b", "\u7f51\u5361", "..", "%41", "a%2Fb", "x" * 255])
def test_an_origin_names_one_vm(vm: str) -> None:
    """Whatever the VM is called, its origin is one word, and leads back to it."""
    origin = origin_of("example.org/host", vm)
    assert origin.isascii()
    assert " " not in origin
    assert "+" not in origin
    assert vm_of("example.org/host", origin) == vm
    assert speaks_for("example.org/host", origin)
    assert not speaks_for("example.org/hos", origin)
    assert not speaks_for("example.org", origin), "the slash in between is written as %2F where it is the VM's"


@pytest.mark.parametrize("rest", ["", "/", "/a/b", "/a b", "/%61", "/%2f", "/%ff", "/a+b", "x/a"])
def test_origins_that_name_no_vm(rest: str) -> None:
    """Only the one spelling counts: two origins never stand for one VM."""
    assert vm_of("example.org/host", f"example.org/host{rest}") is None


def test_what_cannot_be_done_without_the_package(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without ``cryptography`` the error says which extra to install; reading a note needs none."""
    monkeypatch.setitem(__import__("sys").modules, "cryptography", None)
    for ask in (lambda: sign(TEXT, HOST), lambda: HOST.public, lambda: SigningKey.parse(GO_PRIVATE)):
        with pytest.raises(Refused, match=r"extra `proofs`\): pip install cryptography"):
            ask()
    with pytest.raises(Refused, match="cryptography"):
        verified(parse(SPEC_NOTE.encode()), [VerifierKey.parse(SPEC_KEY)])
    assert Checkpoint.parse(parse(COSIGNED.encode()).text).size == 20852163
