"""A witness: somebody else who has seen the log, and signs that it only ever grew.

It cosigns a checkpoint after a proof that the new tree begins with the one it cosigned last, and remembers the new one,
on the disk, before it answers. So nobody can be shown another history than it was, unless witness and log conspire.
The request, the order of the checks and the answer are those of C2SP tlog-witness, without its HTTP; but a request that
was answered already is answered again, since an answer may be lost on its way.

The memory is a file: JSON, the last note that was cosigned for each origin, and one signature by the witness over all
of them. So a memory that somebody else has edited is noticed, be it one entry fewer; an older one that was put back
whole is not. Next: ``files.py``, how it is replaced.
"""

from __future__ import annotations

import fcntl
import os
from collections.abc import Generator, Sequence
from contextlib import contextmanager
from pathlib import Path

import msgspec

from esrm.errors import Corrupt, Malformed, Refused, Unproven
from esrm.proofs.checkpoint import Checkpoint, hash_of, number, open_checkpoint
from esrm.proofs.files import replacing
from esrm.proofs.keys import LOG, WITNESS, SigningKey, VerifierKey, decode, encode
from esrm.proofs.merkle import verify_consistency
from esrm.proofs.note import NOTE_BYTES_MAX, Note, parse, sign

PATH_MAX = 63
"""Hashes in a consistency proof, at most."""

_DOMAIN = b"esrm witness memory v1\n"  # no note or cosignature begins so: what signs a memory signs nothing else


class _Memory(msgspec.Struct):
    """The file: base64 of a signature over ``_DOMAIN`` and the bytes of ``seen``, which are a JSON object of notes."""

    signature: str
    seen: msgspec.Raw


_memory = msgspec.json.Decoder(_Memory)
_notes = msgspec.json.Decoder(dict[str, str])


class Request(msgspec.Struct, frozen=True):
    """What a log asks of a witness.

    Attributes:
        old: the size of the tree that the witness cosigned last, as far as the log knows; 0 for none.
        path: the hashes that prove that the new tree begins with that one.
        note: the new checkpoint, signed.
    """

    old: int
    path: tuple[bytes, ...]
    note: Note

    def __str__(self) -> str:
        return "".join(f"{line}\n" for line in (f"old {self.old}", *map(encode, self.path), "")) + str(self.note)

    @classmethod
    def parse(cls, data: bytes) -> Request:
        """The request that the bytes are; a checkpoint alone is a first one.

        Raises:
            Malformed: they are none.
        """
        if not data.startswith(b"old "):
            return cls(0, (), parse(data))
        if len(data) > NOTE_BYTES_MAX + 5000:
            raise Malformed("the request is too long")
        head, _, note = data.partition(b"\n\n")
        first, *lines = head.decode("ascii", "replace").split("\n")
        if len(lines) > PATH_MAX:
            raise Malformed(f"a proof has at most {PATH_MAX} hashes")
        path = tuple(hash_of(line, "a hash of the proof") for line in lines)
        return cls(number(first[4:], "the old size"), path, parse(note))


class Witness:
    """Cosigns, and remembers.

    Args:
        key: the witness's own, of type ``WITNESS``.
        memory: the file with what it cosigned last; beside it lies a lock, ``-lock``, so that processes take turns.
        logs: the keys of the logs it will cosign for, each for the origins that its name speaks for.
        new: begin without a memory, which is made when something is cosigned. It must not exist then, and must exist
            otherwise: a witness that has forgotten would sign anything.

    Raises:
        Refused: a key of the wrong type, a memory that is missing, or exists.
    """

    def __init__(
        self, key: SigningKey, memory: str | os.PathLike[str], logs: Sequence[VerifierKey], *, new: bool = False
    ) -> None:
        if key.kind != WITNESS or any(log.kind != LOG for log in logs):
            raise Refused("a witness needs a witness's key of its own, and the keys of logs")
        self._key, self._public, self._logs, self._new = key, key.public, logs, new
        self._path = Path(os.path.realpath(memory))  # the lock lies beside the file itself, not beside a link to it
        self._known()

    def __repr__(self) -> str:
        return f"<Witness {self._key.name} that remembers in {self._path}>"

    def seen(self, origin: str) -> Checkpoint | None:
        """The last checkpoint it cosigned for a log; None if it never did.

        Raises:
            Corrupt: the memory is not what this witness wrote.
        """
        return self._seen(self._recall(), origin)

    def cosign(self, request: Request, *, now: int) -> Note:
        """The checkpoint of the request with this witness's signature added; it is remembered when this returns.

        The signatures that it came with are in the answer as they were, so that witnesses can be asked one after the
        other. Those by keys that this one does not know it has not checked: it vouches for the log alone.

        Args:
            request: see ``Request``. One whose checkpoint was cosigned last, from a smaller size, is answered again.
            now: Unix time in seconds, which is signed too.

        Raises:
            Malformed: there is no checkpoint in the request, or no room for one more signature.
            Unproven: the checkpoint is signed by no known key, or not for that origin; the log has gone back, or has
                two histories; the proof does not hold; or this witness remembers another size, which is named.
            Corrupt: the memory is not what this witness wrote.
            OSError: the memory cannot be written. Nothing was signed then.
        """
        opened = open_checkpoint(request.note, self._logs)
        checkpoint = opened.checkpoint
        known = {(key.name, key.id) for key in opened.signed.logs}
        with self._locked():
            memory = self._recall()
            self._check(self._seen(memory, checkpoint.origin), checkpoint, request)
            text, mine = request.note.text, sign(request.note.text, self._key, now=now)
            others = [s for s in request.note.signatures if (s.name, s.id) != (mine.name, mine.id)]
            answer = parse(str(Note(text, (*others, mine))).encode())  # raises if that is more than a note may have
            # The log's own signatures are evidence if it ever shows another history; strangers' would only take room.
            evidence = Note(text, (*(s for s in others if (s.name, s.id) in known), mine))
            self._remember({**memory, checkpoint.origin: str(evidence)})
        return answer

    def _check(self, seen: Checkpoint | None, new: Checkpoint, request: Request) -> None:
        """Whether a log that was as seen (None: never) may now be as asked; raises if not."""
        size = seen.size if seen else 0
        if new.size < size:
            raise Unproven(
                f"{new.origin} has gone back: this witness has cosigned {size} records of it, and is shown {new.size}"
            )
        if seen and new.size == size and new.root != seen.root:
            raise Unproven(
                f"{new.origin} has two histories: of {size} records this witness has cosigned the root"
                f" {encode(seen.root)}, and is shown {encode(new.root)}. Both are signed: keep them"
            )
        if seen and new.size == size > request.old:
            return  # asked again, with a proof from where the log was before: the answer may not have arrived
        if request.old != size:
            raise Unproven(
                f"{new.origin}: the request goes on from {request.old} records, but this witness has cosigned {size}:"
                f" prove it from there (esrm checkpoint --since {size})"
            )
        if not size:
            proven = not request.path
        else:
            assert seen, "a size that is remembered comes with its root"
            proven = verify_consistency(size, new.size, request.path, seen.root, new.root)
        if not proven:
            raise Unproven(
                f"{new.origin}: nothing shows that the {new.size} records begin with the {size} that this witness has"
                " cosigned: one of those was changed, or the proof is another one"
            )

    def _seen(self, memory: dict[str, str], origin: str) -> Checkpoint | None:
        return Checkpoint.parse(parse(memory[origin].encode()).text) if origin in memory else None

    def _known(self) -> bool:
        """Whether there is a memory; raises if there should be one, or none."""
        exists = self._path.exists()
        if self._new and exists:
            raise Refused(
                f"{self._path} exists: a witness that begins anew would forget what it has signed; leave out --new"
            )
        if not self._new and not exists:
            raise Refused(f"{self._path} does not exist: a witness without its memory would sign anything")
        return exists

    def _recall(self) -> dict[str, str]:
        """What was remembered last; nothing of it is read before the signature over all of it holds."""
        if not self._known():
            return {}
        try:
            memory = _memory.decode(self._path.read_bytes())
            seen = bytes(memory.seen)
            if self._public.verifies(_DOMAIN + seen, decode(memory.signature)):
                return _notes.decode(seen)
            what = f"it is not what {self._key.name} has signed: edited, or another witness's"
        except (msgspec.MsgspecError, ValueError, RecursionError) as error:
            what = f"it is not as a witness writes it ({error!s:.200})"
        raise Corrupt(
            f"{self._path} is not to be believed: {what}. Put back the newest copy that there is. Without one, move it"
            " away, and begin anew with --new: such a witness knows nothing of what it signed before"
        )

    def _remember(self, memory: dict[str, str]) -> None:
        """Replace the memory: after a power cut it is the old one or the new one, and the new one once this returns."""
        seen = msgspec.json.format(msgspec.json.encode(memory))
        signature = encode(self._key.sign(_DOMAIN + seen))
        with replacing(self._path) as file:
            file.write(msgspec.json.encode(_Memory(signature, msgspec.Raw(seen))) + b"\n")
        self._new = False

    @contextmanager
    def _locked(self) -> Generator[None]:
        # A file of its own: the memory is replaced, and a lock on what was replaced keeps nobody out.
        with self._path.with_name(f"{self._path.name}-lock").open("ab") as file:
            fcntl.flock(file, fcntl.LOCK_EX)
            yield
