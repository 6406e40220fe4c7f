"""Keys: who signs, and whom a verifier believes.

Both are one line of text. What is handed out is a *verifier key* (C2SP signed-note, "vkey"), with the name it signs by,
a short id, and its type: 1 for a log's own signatures, 4 for a witness's cosignatures with their time. What is kept
secret has the form that Go's note tools read, ``PRIVATE+KEY+NAME+ID+BASE64``. Ed25519 itself is done by the package
``cryptography``, imported on use, since most of esrm does without. Next: ``note.py``, what is signed with them.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import os
import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec

from esrm.errors import Malformed, Refused

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric import ed25519

LOG = 1
"""The type of a key that signs a note's text: Ed25519, as in C2SP signed-note."""
WITNESS = 4
"""The type of a key that cosigns checkpoints, with the time: cosignature/v1, as in C2SP tlog-cosignature."""
KEY_TEXT_MAX = 2_000
"""Characters in the line of a key, at most; a name has no limit of its own."""

_KEY = re.compile(r"([^+]+)\+([0-9a-f]{8})\+([A-Za-z0-9+/=]+)")
_PRIVATE = "PRIVATE+KEY+"
_BYTES = 32  # of an Ed25519 public key, and of the seed that is the private one


class VerifierKey(msgspec.Struct, frozen=True):
    """Whom to believe: a name, and the public key that proves it.

    Attributes:
        name: by which its signatures are found in a note; best a domain name of yours and a path: ``example.org/host``.
        kind: ``LOG`` or ``WITNESS``.
        public: the Ed25519 public key, 32 bytes.
    """

    name: str
    kind: int
    public: bytes

    def __str__(self) -> str:
        """The key in one line: ``NAME+ID+BASE64``, to be handed out."""
        return f"{self.name}+{self.id.hex()}+{encode(bytes([self.kind]) + self.public)}"

    @property
    def id(self) -> bytes:
        """Four bytes by which a signature names its key. No proof of anything: only the signature is."""
        return _id(self.name, self.kind, self.public)

    @classmethod
    def parse(cls, text: str) -> VerifierKey:
        """The key that a line is.

        Raises:
            Malformed: it is none, or its id is not what its name and bytes make.
        """
        if text.startswith(_PRIVATE):
            raise Malformed("this is a private key, to sign with: the verifier key is in the file .pub beside it")
        name, id, kind, public = _parts(text, "verifier key")
        key = cls(name, kind, public)
        if key.id != id:
            raise Malformed(f"verifier key {text!r:.100}: its id should be {key.id.hex()}: it was not copied whole")
        return key

    def verifies(self, message: bytes, signature: bytes) -> bool:
        """Whether the key's owner has signed the message (Ed25519, RFC 8032).

        Raises:
            Refused: the package ``cryptography`` is not installed.
        """
        exceptions, algorithm = _cryptography()
        try:
            algorithm.Ed25519PublicKey.from_public_bytes(self.public).verify(signature, message)
        except exceptions.InvalidSignature:
            return False
        return True


class SigningKey(msgspec.Struct, frozen=True):
    """A private key. Whoever has it can sign in its name.

    Attributes:
        name: as in ``VerifierKey``.
        kind: ``LOG`` or ``WITNESS``; one key is never both, since a log could then make its own witness's signature.
        seed: the Ed25519 private key, 32 bytes.
    """

    name: str
    kind: int
    seed: bytes

    def __repr__(self) -> str:
        return f"<SigningKey {self.name}>"  # never the seed

    @property
    def public(self) -> VerifierKey:
        """What to hand out."""
        return VerifierKey(self.name, self.kind, self._ed25519().public_key().public_bytes_raw())

    @classmethod
    def generate(cls, name: str, kind: int = LOG) -> SigningKey:
        """A new key from the system's randomness.

        Raises:
            Malformed: the name is none.
        """
        return cls(check_name(name), kind, os.urandom(_BYTES))

    @classmethod
    def parse(cls, text: str) -> SigningKey:
        """The key that a line (``encoded``) is.

        Raises:
            Malformed: it is none; nothing of it is repeated in the message.
            Refused: the package ``cryptography`` is not installed.
        """
        if not text.startswith(_PRIVATE):
            raise Malformed("this is no private key: it does not begin with PRIVATE+KEY+")
        name, id, kind, seed = _parts(text.removeprefix(_PRIVATE), "private key", secret=True)
        key = cls(name, kind, seed)
        if key.public.id != id:
            raise Malformed(f"the private key of {name}: its id should be {key.public.id.hex()}: it is not whole")
        return key

    def encoded(self) -> str:
        """The key in one line, to be kept secret."""
        return f"{_PRIVATE}{self.name}+{self.public.id.hex()}+{encode(bytes([self.kind]) + self.seed)}"

    def sign(self, message: bytes) -> bytes:
        """The 64 bytes of an Ed25519 signature; the same message has the same one every time."""
        return self._ed25519().sign(message)

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write the key to a new file that only its owner may read.

        Raises:
            OSError: it exists already (a key is never overwritten), or cannot be written.
        """
        file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        with open(file, "w", encoding="utf-8") as opened:
            opened.write(f"{self.encoded()}\n")
            opened.flush()
            os.fsync(opened.fileno())

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> SigningKey:
        """The key in a file. Who else may read the file is not asked here; the command line warns of it.

        Raises:
            OSError: the file cannot be read.
            Malformed: there is no key in it.
        """
        return cls.parse(read_line(path))

    def _ed25519(self) -> ed25519.Ed25519PrivateKey:
        return _cryptography()[1].Ed25519PrivateKey.from_private_bytes(self.seed)


def read_line(path: str | os.PathLike[str]) -> str:
    """The first line of a key's file, without its end.

    Raises:
        OSError: the file cannot be read.
        Malformed: it is no text, or too long for a key.
    """
    with Path(path).open("rb") as file:
        data = file.read(4 * KEY_TEXT_MAX)
    try:
        return data.decode().rstrip("\r\n")
    except UnicodeDecodeError:
        raise Malformed(f"{os.fspath(path)} holds no key: it is no text") from None


def check_name(name: str, what: str = "name for a key") -> str:
    """The name itself, if a key may have it: not empty, without blanks, control characters and plus signs.

    Raises:
        Malformed: it may not.
    """
    if not name or "+" in name or not name.isprintable() or any(c.isspace() for c in name):
        raise Malformed(f"{name!r:.80} is no {what}: it must be printable, without blanks and plus signs")
    return name


def encode(data: bytes) -> str:
    """Standard base64 (RFC 4648, section 4)."""
    return base64.b64encode(data).decode()


def decode(text: str) -> bytes:
    """The bytes of standard base64; only the one text that ``encode`` makes of them is taken.

    Raises:
        ValueError: it is another text.
    """
    try:
        data = base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError) as error:
        raise ValueError(f"{text!r:.60} is not base64: {error}") from None
    if encode(data) != text:  # bits that nothing is made of, in which two texts of the same bytes could differ
        raise ValueError(f"{text!r:.60} is not base64 as it is written")
    return data


def _parts(text: str, what: str, *, secret: bool = False) -> tuple[str, bytes, int, bytes]:
    """Name, id, type and 32 bytes of a key's line."""
    shown = what if secret else f"{what} {text!r:.100}"
    found = _KEY.fullmatch(text) if len(text) <= KEY_TEXT_MAX else None
    if found is None:
        raise Malformed(f"{shown}: it is not of the form NAME+ID+BASE64")
    name, id, encoded = found.groups()
    try:
        data = decode(encoded)
    except ValueError:
        raise Malformed(f"{shown}: its last part is not base64") from None
    if len(data) != 1 + _BYTES or data[0] not in (LOG, WITNESS):
        raise Malformed(f"{shown}: only Ed25519 is known here, of type {LOG} (logs) or {WITNESS} (witnesses)")
    return check_name(name), bytes.fromhex(id), data[0], data[1:]


def _id(name: str, kind: int, public: bytes) -> bytes:
    return hashlib.sha256(name.encode() + b"\n" + bytes([kind]) + public).digest()[:4]


def _cryptography() -> tuple[Any, Any]:
    """The two modules that are needed, or a sentence that says how to get them."""
    try:
        from cryptography import exceptions
        from cryptography.hazmat.primitives.asymmetric import ed25519
    except ImportError:
        raise Refused(
            "signatures need the package cryptography (esrm's extra `proofs`): pip install cryptography"
        ) from None
    return exceptions, ed25519
