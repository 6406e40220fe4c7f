"""``esrm verify``: is the log what was written, and can it have happened?

Two judges that know nothing of each other. The chain of hashes tells whether bytes were changed; replay tells whether
the events make sense: each must be possible after the one before it, and no two devices may hold the same thing. A
third one comes from outside: a checkpoint (``--since``) tells whether the log is still the one that was signed, and a
receipt needs no log at all.
"""

from __future__ import annotations

from contextlib import suppress
from functools import partial
from itertools import chain, takewhile
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
import msgspec

from esrm.bulk import undisturbed
from esrm.cli import wire
from esrm.cli.files import read
from esrm.cli.options import DEFAULT_STORE, Asked, common
from esrm.cli.output import line, paint
from esrm.cli.progress import Progress
from esrm.cli.trust import checkpoint_document, origin_option, signers, verifier_keys, vkey_option
from esrm.cli.wording import headline
from esrm.core import events
from esrm.core.state import VmState
from esrm.errors import Corrupt, EsrmError, Refused, Unproven
from esrm.history import step
from esrm.stores.chain import Verdict, pages, walk
from esrm.stores.chain import verify as verify_chain
from esrm.stores.records import PAGE, decoded, iso

if TYPE_CHECKING:
    from esrm.proofs import Opened

LISTED = 8
"""Of so many VMs it is said one by one what is still good; of more only where not all is."""


@click.command("verify")
@click.option(
    "--since", multiple=True, type=click.Path(dir_okay=False, allow_dash=True), metavar="CHECKPOINT",
    help="Check against a signed checkpoint that the log still begins as it did then.",
)  # fmt: skip
@click.option(
    "--receipt", multiple=True, type=click.Path(dir_okay=False, allow_dash=True), metavar="FILE",
    help="Check a receipt instead; no log is needed.",
)  # fmt: skip
@vkey_option("Whom to believe: a log's key, or a witness's, who then must have cosigned; or a file with it.")
@origin_option("The log that the checkpoint must be of, if its key's name does not say so.")
@common()
@click.pass_context
def command(
    ctx: click.Context, asked: Asked, since: tuple[str, ...], receipt: tuple[str, ...], vkey: tuple[str, ...],
    origin: str | None,
) -> None:  # fmt: skip
    """Check that the log is what was written.

    Recomputes the chain of hashes over every column of every record, compares its end with the head that is kept
    outside of the log, then replays every VM: each event must be possible after the one before it, and no two devices
    may hold the same thing. With --vm only that VM's log. Exits with 3 at the first record that cannot be, and names
    it, the column if that can be known, and what is still good.

    What none of this can show is that somebody who may write all these files computed all of them anew. A checkpoint
    that was given away before can (--since), and so can a receipt.

    \b
    esrm verify
    esrm verify --since monday.checkpoint --vkey host.key.pub
    esrm verify --receipt 12.tlog-proof --vkey host.key.pub --vkey witness.key.pub
    """
    if len(since + receipt) > 1:
        raise click.UsageError("two of --since and --receipt are two questions: ask them one after the other")
    if since + receipt and not vkey:
        raise click.UsageError("--since and --receipt need a --vkey: whom to believe")
    if (vkey or origin is not None) and not since + receipt:
        raise click.UsageError(
            "--vkey and --origin are for --since and --receipt: without one, no signature is checked"
        )
    if receipt:
        ok = _receipt(asked, receipt[0], vkey, origin)
    elif since:
        ok = _since(asked, since[0], vkey, origin)
    else:
        ok = _whole(asked)
    ctx.exit(0 if ok else 3)


# -- the log by itself -----------------------------------------------------------------------------------------------


def _whole(asked: Asked) -> bool:
    vms = _vms(asked)
    with Progress("verifying the chain", sum(vms.values())) as tick:
        verdict = verify_chain(asked.reader, asked.vm_option, tick=tick)
    if verdict.ok and not vms:
        asked.past.head()  # names the VMs there are
    return _answer(asked, verdict, vms)


def _vms(asked: Asked) -> dict[str, int]:
    """How many records each VM that was asked for has; 0 where damage keeps the log from telling."""
    found: dict[str, int] = {}
    try:
        found = {head.vm: head.revision + 1 for head in asked.reader.streams()}
    except Corrupt:  # which record and column it is, the chain tells
        with suppress(Corrupt):
            found = dict.fromkeys(sorted(asked.reader.names().values()), 0)
    return {vm: records for vm, records in found.items() if vm and asked.vm_option in (None, vm)}


def _answer(
    asked: Asked, verdict: Verdict, vms: dict[str, int], opened: Opened | None = None, what: str | None = None
) -> bool:
    """Replay, and tell all that was found; with a checkpoint also ``what`` is wrong with the log by it, if anything."""
    with undisturbed():
        replays = [_replay(asked, vm, records) for vm, records in vms.items()]
    replays = [replay for replay in replays if replay["revision"] >= 0 or not replay["ok"]]  # not a name alone
    ok = verdict.ok and what is None and all(replay["ok"] for replay in replays)
    fault = _fault_document(asked, verdict)
    good = "" if fault is None else _still_good(asked, replays, sum(vms.values()))
    anchored, trouble = _anchored(asked)
    document: dict[str, Any] = {
        "ok": ok, "records": verdict.good, "anchored": anchored, "fault": fault, "vms": replays,
    }  # fmt: skip
    if opened is not None:
        document["checkpoint"] = {"ok": what is None, **checkpoint_document(opened), "what": what}

    def text() -> None:
        if opened is not None:
            _print_checkpoint(opened, what)
        _print_chain(verdict, fault, trouble)
        if good:
            line("        still good: ", good)
        for replay in replays:
            _print_replay(replay)
        if not anchored and not trouble:
            line(paint("note    ", fg="yellow"), "no head file: records cut off the end of the log would not be missed")

    asked.answer_one(document, text)
    return ok


def _anchored(asked: Asked) -> tuple[bool, str | None]:
    """Whether something outside of the log says where it must end; and why it cannot, if it is damaged."""
    try:
        return asked.reader.anchor() is not None, None
    except EsrmError as error:
        return False, str(error)


def _still_good(asked: Asked, replays: list[dict[str, Any]], total: int) -> str:
    """What is still good, VM by VM, for each has a chain of its own: in words, and entered in what its replay said."""
    done, faulty = 0, list[dict[str, Any]]()
    with Progress("looking for what is still good", total) as tick:
        for replay in replays:
            verdict = walk(asked.reader, replay["vm"], -1, tick=lambda good, done=done: tick(done + good))
            replay["records"] = verdict.good
            done += verdict.good
            if not verdict.ok:
                faulty.append(replay)
    listed = replays if len(replays) <= LISTED else faulty[:LISTED]
    parts = [f"{replay['vm']}, {replay['records']:,} records" for replay in listed]
    if others := len(replays) - len(listed):
        rest = done - sum(replay["records"] for replay in listed)
        parts.append(f"{others:,} other VMs, {rest:,} records")
    return "; ".join(parts)


def _fault_document(asked: Asked, verdict: Verdict) -> dict[str, Any] | None:
    if verdict.fault is None:
        return None
    from esrm.stores.suspects import suspect

    suspicion = suspect(asked.reader, verdict.fault, events.decode)
    return {
        **msgspec.to_builtins(verdict.fault),
        "columns": list(suspicion.columns) if suspicion else [],
        "why": suspicion.why if suspicion else "",
    }


def _replay(asked: Asked, vm: str, records: int) -> dict[str, Any]:
    """Apply every event; allocator and bus take no two devices at one place, and say so.

    But none that came after the ``records`` which were there before the chain was walked: those nobody has hashed.
    """
    state = VmState()
    what: str | None = None
    with Progress(f"replaying {vm}", records) as tick:
        try:
            there = chain.from_iterable(pages(partial(asked.reader.payloads, vm), -1, 1))
            for payload in takewhile(lambda payload: not 0 < records <= payload[1], there):
                if payload[1] != state.revision + 1:
                    raise Corrupt(f"{vm}: revision {state.revision + 1} is missing")
                step(state, vm, payload)
                if not state.revision:
                    _ = state.allocator, state.bus  # from here on every event is entered in these, too
                if not state.revision % PAGE:
                    tick(state.revision)
        except (Corrupt, Refused) as error:
            what = str(error)
    return {"vm": vm, "ok": what is None, "revision": state.revision, "devices": len(state.devices), "what": what}


def _print_chain(verdict: Verdict, fault: dict[str, Any] | None, trouble: str | None) -> None:
    """How many records stand, and what is wrong: with the next one, with the head file, or with the file as such."""
    found = verdict.fault
    beside = found.what if found is not None and found.beside else None
    count = f"{verdict.good:,} record{'s' * (verdict.good != 1)} as written"
    if found is None or fault is None or beside:
        line(_mark(True), f"chain: {count}")
    else:
        line(_mark(False), f"chain: {count}, then this:")
        line(f"        {found}")
        if fault["columns"]:
            several = "one of " if len(fault["columns"]) > 1 else ""
            line(f"        column: {several}{', '.join(fault['columns'])} ({fault['why']})")
    for what in dict.fromkeys(filter(None, (beside, trouble))):
        line(_mark(False), what)


def _print_replay(replay: dict[str, Any]) -> None:
    count = replay["devices"]
    good = f"{replay['vm']}: replays to revision {replay['revision']}, {count} device{'s' * (count != 1)}"
    line(_mark(replay["ok"]), good, "" if replay["ok"] else ", and no further:")
    if not replay["ok"]:
        line(f"        {replay['what']}")


def _mark(ok: bool) -> str:
    return paint("ok      ", fg="green") if ok else paint("CORRUPT ", fg="red", bold=True)


# -- the log by a checkpoint -----------------------------------------------------------------------------------------


def _since(asked: Asked, since: str, vkey: tuple[str, ...], origin: str | None) -> bool:
    """The records before the checkpoint must be those that were signed, those behind it go on from there.

    Those before are hashed anew, every column: to read them is most of the work, and a column that was changed under
    its old hash would pass otherwise.
    """
    from esrm.proofs import open_checkpoint, tree_roots

    opened = open_checkpoint(read(since), verifier_keys(vkey), origin)
    vm, size = _vm(asked, opened), opened.checkpoint.size
    vms = _vms(asked)
    what: str | None = None
    with Progress("verifying the chain", sum(vms.values())) as tick:
        try:
            [root] = tree_roots(asked.reader, vm, [(0, size)], tick)
        except Corrupt as error:  # whose record the chain names below, unless it is only that there are too few
            verdict = verify_chain(asked.reader, vm)
            what = f"the log ends too early: {error}" if isinstance(error, Unproven) else str(error)
        else:
            rest = verify_chain(asked.reader, vm, size - 1, tick=lambda good: tick(size + good))
            verdict = Verdict(size + rest.good, rest.fault)
            if root != opened.checkpoint.root:
                what = "they are whole in themselves, but others: changed and hashed anew, or from another log"
    if what and not vms:
        what = f"there is no VM {vm}: its log was cut off, or this is another one"
    return _answer(asked, verdict, vms, opened, what)


def _vm(asked: Asked, opened: Opened) -> str:
    """The VM that a checkpoint is of, if it says so; else the one that was asked for."""
    from esrm.proofs import vm_of

    said = [vm for key in opened.signed.logs if (vm := vm_of(key.name, opened.checkpoint.origin)) is not None]
    if not said:
        asked.past.head()  # names the VMs there are
        return asked.vm
    if asked.vm_option not in (None, said[0]):
        raise Unproven(f"the checkpoint is of the VM {said[0]!r:.80}, not of {asked.vm_option!r:.80}")
    asked.vm_option = said[0]
    return said[0]


def _print_checkpoint(opened: Opened, what: str | None) -> None:
    size = opened.checkpoint.size
    records = f"the first {size:,} records" if size != 1 else "the first record"
    are = "are" if size != 1 else "is"
    if what is None:
        line(_mark(True), f"checkpoint: {records} {are} what was signed by ", signers(opened))
    else:
        line(_mark(False), f"checkpoint: {records} {are} not what was signed by ", signers(opened), ":")
        line(f"        {what}")


# -- a receipt -------------------------------------------------------------------------------------------------------


def _receipt(asked: Asked, path: str, vkey: tuple[str, ...], origin: str | None) -> bool:
    """Believe a receipt by its signatures alone; then say whether the log at hand, if there is one, agrees."""
    from esrm.proofs import Receipt, open_receipt

    receipt = Receipt.parse(read(path))
    opened = open_receipt(receipt, verifier_keys(vkey), origin)
    record = decoded(events, receipt.columns.row())
    if asked.vm_option not in (None, record.vm):
        raise Unproven(f"the receipt is of the VM {record.vm!r:.80}, not of {asked.vm_option!r:.80}")
    here = asked.store != DEFAULT_STORE or Path(DEFAULT_STORE.removeprefix("sqlite:")).exists()
    what = _disagreement(asked, record.vm, opened) if here else None
    document = {
        "ok": what is None,
        "checkpoint": checkpoint_document(opened),
        "record": wire.record(record),
        "log": {"ok": what is None, "what": what} if here else None,
    }

    def text() -> None:
        size = opened.checkpoint.size
        place = f"revision {record.revision} of {record.vm} is in the log of {size:,} records signed by "
        line(_mark(True), f"receipt: {place}", signers(opened))
        line(f"        {iso(record.time_ns)} by {record.actor or '-'}: {headline(record.event)}")
        if here:
            line(_mark(what is None), f"log: {asked.url} ", "has it, too" if what is None else f"disagrees: {what}")

    asked.answer_one(document, text)
    return what is None


def _disagreement(asked: Asked, vm: str, opened: Opened) -> str | None:
    """Why the log at hand is not the one that was signed; None if it is."""
    from esrm.proofs import tree_roots

    size = opened.checkpoint.size
    try:
        if asked.reader.stream(vm) is None:
            return f"it has no VM {vm}: its log was cut off, or this is another one"
        with Progress("hashing", size) as tick:
            [root] = tree_roots(asked.reader, vm, [(0, size)], tick)
    except Corrupt as error:
        return str(error)
    return None if root == opened.checkpoint.root else f"its first {size:,} records are others"
