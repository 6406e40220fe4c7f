"""Everything esrm raises.

::

    EsrmError
    |-- Refused              ask differently: nothing happened, and the message says what would do
    |   |-- InvalidConstraint    a field is out of its width, zero-sized, misaligned or upside down (also a ValueError)
    |   |-- InvalidPlatform      pools overlap, a range is upside down, an unknown profile (also a ValueError)
    |   |-- InvalidName          an empty, too long or unprintable name (also a ValueError)
    |   |-- NoSpace              nothing in the window is large enough
    |   |-- AddressConflict      the exact place asked for is held by somebody, who is named
    |   |-- OutOfRange           the place asked for is in no pool
    |   |-- WrongPhase           the device's life is not at the point where this step is legal
    |   |-- UnknownDevice        no device of that name lives in this VM
    |   |-- DuplicateDevice      a device of that name lives already
    |   |-- NotAllocated         nothing is held there by the one who asks
    |   |-- InUse                children still live inside the device; or another task has it in hand, or the manager,
    |   |                        projection or subscription that was asked
    |   |-- NotMapped            nobody answers at this address
    |   |-- InvalidAccess        an access does not fit one registered range whole
    |   |-- TooLarge             a record exceeds a stated limit
    |   |-- UnknownMoment        no such revision, time, position or record in the log
    |   `-- Malformed            an event, draft, device, key, note or receipt that is none (also a ValueError)
    |-- Conflict             ask again: somebody else appended first
    |-- Corrupt              stop: the log cannot be what was written
    |   `-- Unproven             a signature or proof does not hold: believe nothing that it was to show
    `-- StoreError           what the disk or the server did
        |-- Rejected             nothing of the append stands, nor ever will: mend it and ask again
        `-- Unknown              whether the append stands cannot be known yet: mend it and retry with the same ids

Three families, because there are three things a caller can do. Why separate from the code that raises: a caller
reads this page alone to know what to catch. Next: ``core/decide.py``, where most refusals are born.
"""

from __future__ import annotations

from typing import Any


class EsrmError(Exception):
    """The root of all that esrm raises on purpose."""


class Refused(EsrmError):
    """The request cannot be met as it stands; nothing has changed.

    Attributes:
        refusal: the structured reason when a placement was refused (an ``esrm.Refusal``), else None.
    """

    def __init__(self, message: str, *, refusal: Any = None) -> None:
        super().__init__(message)
        # Any, because errors stand beneath the core that defines Refusal and may not look up.
        self.refusal = refusal


class InvalidConstraint(Refused, ValueError):
    """A constraint or resource with a field that no space has room for, or that contradicts itself; it is named."""


class InvalidPlatform(Refused, ValueError):
    """A platform that contradicts itself, or a profile nobody ships."""


class InvalidName(Refused, ValueError):
    """A VM, device, actor or correlation name that is empty, too long, or holds control characters."""


class NoSpace(Refused):
    """No hole in the searched window is large enough at the alignment asked for."""


class AddressConflict(Refused):
    """The exact place asked for is held; the message names every holder, in address order."""


class OutOfRange(Refused):
    """The exact place asked for lies outside every pool (or outside a range, for offsets)."""


class WrongPhase(Refused):
    """A step out of order; the message names the phase the device is in and the steps it allows."""


class UnknownDevice(Refused):
    """No device of that name lives in this VM."""


class DuplicateDevice(Refused):
    """A device of that name lives already."""


class NotAllocated(Refused):
    """What was to be given back is not held by the one who gives it."""


class InUse(Refused):
    """A device whose children still live or hold resources inside it cannot leave; or another task is busy with it, or
    with the manager, projection or subscription that was asked."""


class NotMapped(Refused):
    """Nobody answers at this port or address."""


class InvalidAccess(Refused):
    """An access of this length does not fit one registered range whole."""


class TooLarge(Refused):
    """A record exceeds a stated limit (an event has at most 65,535 bytes)."""


class UnknownMoment(Refused):
    """No such revision, time, position or record id in this VM's log."""


class Malformed(Refused, ValueError):
    """An event, draft, device, key, note, checkpoint, receipt or request that is not in its form; says where not."""


class Conflict(EsrmError):
    """Somebody else appended first: read what they wrote, decide anew."""


class Corrupt(EsrmError):
    """The log cannot be what was written: stop, keep the file, run ``esrm verify``."""

    @classmethod
    def at(cls, vm: str, revision: int, position: int, why: object) -> Corrupt:
        """The same, told with the record at which a replay found it."""
        return cls(f"{vm}, revision {revision} (position {position}): {why}")


class Unproven(Corrupt):
    """A signature, proof or cosignature that does not hold, or a log that is not the one it was made for."""


class StoreError(EsrmError):
    """What the disk, the file or the server did; the message says what to mend."""


class Rejected(StoreError):
    """An append that does not stand, nor ever will; the message says what to mend before asking again."""


class Unknown(StoreError):
    """An append of which nobody can say at present whether it stands.

    The message says what to mend. Then retry it with the same ids: it is answered as the first time if it stood, and
    appended if it did not. A ``ResourceManager`` looks by itself before its next step.
    """
