"""``esrm verify``: is the log what was written, and can it have happened?

Two judges that know nothing of each other. The chain of hashes tells whether bytes were changed; replay tells whether
the events make sense: each must be possible after the one before it, and no two devices may hold the same thing.
"""

from __future__ import annotations

from typing import Any

import click

from esrm.bulk import undisturbed
from esrm.cli.options import Asked, common
from esrm.cli.output import line, paint
from esrm.cli.progress import Progress
from esrm.core.state import VmState
from esrm.errors import Corrupt, Refused
from esrm.history import fold
from esrm.stores.base import verify as verify_chain
from esrm.stores.records import StreamHead

STEP = 5_000
"""Events between two looks at the clock."""


@click.command("verify")
@common()
@click.pass_context
def command(ctx: click.Context, asked: Asked) -> None:
    """Check that the log is what was written.

    Recomputes the chain of hashes over every column of every record, then replays every VM: each event must be
    possible after the one before it, and no two devices may hold the same thing. With --vm only that VM's log.
    Exits with 3 at the first record that cannot be, and names it.

    What the chain cannot show is that records were cut off the very end: compare the last hash that `esrm vms --json`
    prints with one that you keep elsewhere.
    """
    heads = [head for head in asked.reader.streams() if asked.vm_option in (None, head.vm)]
    if not heads:
        asked.past.head()  # names the VMs there are
    total = asked.reader.head() if asked.vm_option is None else heads[0].revision + 1
    with Progress("verifying the chain", total) as tick:
        verdict = verify_chain(asked.reader, asked.vm_option, tick=tick)
    with undisturbed():
        replays = [_replay(asked, head) for head in heads]
    fault = verdict.fault
    ok = verdict.ok and all(replay["ok"] for replay in replays)
    document: dict[str, Any] = {
        "ok": ok,
        "records": verdict.good,
        "fault": None
        if fault is None
        else {"position": fault.position, "vm": fault.vm, "revision": fault.revision, "what": fault.what},
        "vms": replays,
    }

    def text() -> None:
        mark = paint("ok      ", fg="green") if fault is None else paint("CORRUPT ", fg="red", bold=True)
        line(
            mark,
            f"chain: {verdict.good:,} record{'s' * (verdict.good != 1)} as written",
            "" if fault is None else ", then this:",
        )
        if fault is not None:
            line(f"        {fault}")
        for replay in replays:
            _print_replay(replay)

    asked.answer_one(document, text)
    ctx.exit(0 if ok else 3)


def _replay(asked: Asked, head: StreamHead) -> dict[str, Any]:
    """Apply every event; allocator and bus take no two devices at one place, and say so."""
    state = VmState()
    what: str | None = None
    with Progress(f"replaying {head.vm}", head.revision) as tick:
        try:
            fold(asked.reader, head.vm, state, 0)
            _ = state.allocator, state.bus  # from here on every event is entered in these, too
            while state.revision < head.revision:
                before = state.revision
                fold(asked.reader, head.vm, state, min(before + STEP, head.revision))
                if state.revision == before:
                    raise Corrupt(f"{head.vm}: revision {before + 1} is missing")
                tick(state.revision)
        except (Corrupt, Refused) as error:
            what = str(error)
    return {
        "vm": head.vm,
        "ok": what is None,
        "revision": state.revision,
        "devices": len(state.devices),
        "what": what,
    }


def _print_replay(replay: dict[str, Any]) -> None:
    count = replay["devices"]
    good = f"{replay['vm']}: replays to revision {replay['revision']}, {count} device{'s' * (count != 1)}"
    if replay["ok"]:
        line(paint("ok      ", fg="green"), good)
    else:
        line(paint("CORRUPT ", fg="red", bold=True), f"{good}, and no further:")
        line(f"        {replay['what']}")
