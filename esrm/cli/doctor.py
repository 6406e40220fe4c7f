"""``esrm doctor``: is this a place where a log keeps its promises, and is it whole?"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import click
import msgspec

from esrm.cli.options import Asked, common
from esrm.cli.output import line, paint
from esrm.cli.progress import Progress
from esrm.errors import StoreError
from esrm.stores.sqlite.doctor.findings import Finding, Verdict
from esrm.stores.sqlite.doctor.log import examine
from esrm.stores.sqlite.schema import located

if TYPE_CHECKING:
    from esrm.stores.sqlite import SqliteReader
    from esrm.stores.sqlite.doctor.adoption import Proposal

_STYLES: dict[Verdict, dict[str, object]] = {
    "ok": {"fg": "green"},
    "note": {"fg": "cyan"},
    "warning": {"fg": "yellow", "bold": True},
    "bad": {"fg": "red", "bold": True},
}


@click.command("doctor")
@click.argument("file", required=False)
@click.option("--no-write", is_flag=True, help="Do not time syncs: leave the folder alone.")
@click.option("--adopt", is_flag=True, help="Accept the log as it stands, in place of what its head file says.")
@click.option("--yes", is_flag=True, help="With --adopt: do not ask.")
@common(vm=False)
@click.pass_context
def command(ctx: click.Context, asked: Asked, file: str | None, no_write: bool, adopt: bool, yes: bool) -> None:
    """Look at a log, and at the place that it is in.

    Which SQLite versions are here, what the log's settings are, who writes, what is left of the disk and whether it
    keeps what it is told to keep: a verdict each (ok, note, warning, bad) and what to do about it. FILE is the store
    if it is named. The log is not changed, and a VMM may be writing it. Syncs are timed, for about 50 ms, with a
    temporary file beside it.

    It reads none of the records: that is for `esrm verify`. Exits with 3 if anything is bad.

    With --adopt: when the log's head file is gone, or says that more was acknowledged than the log holds, esrm does not
    append. This recomputes the whole chain of hashes, says what is lost, and writes a new head file if you say so.
    """
    if file is not None:
        asked.store = file
    scheme, _, name = asked.url.partition(":")
    if scheme != "sqlite":
        raise StoreError(f"{asked.url!r:.200} is no file to look at; name one, such as vm.db")
    path = Path(name).absolute()
    if adopt and no_write:
        raise click.UsageError("--adopt writes a head file, --no-write nothing: only one of them can be")
    if adopt:
        ctx.exit(_adopt(asked, located(path), yes))
    if yes:
        raise click.UsageError("--yes goes with --adopt")
    findings = list(examine(path, write=not no_write))
    well = all(finding.verdict != "bad" for finding in findings)

    def text() -> None:
        for finding in findings:
            _print(finding)

    asked.answer_one({"file": str(path), "ok": well, "findings": msgspec.to_builtins(findings)}, text)
    ctx.exit(0 if well else 3)


def _print(finding: Finding) -> None:
    line(paint(f"{finding.verdict:<8}", **_STYLES[finding.verdict]), f"{finding.about}: {finding.what}")
    if finding.advice:
        line(f"        -> {finding.advice}")


def _adopt(asked: Asked, path: Path, yes: bool) -> int:
    """Accept the log as it stands; the exit code is 1 if it was not wanted."""
    from esrm.stores.sqlite.doctor.adoption import adopt, propose

    if not yes and asked.form:
        raise click.UsageError("a program cannot be asked: add --yes")
    reader = cast("SqliteReader[Any]", asked.reader)
    with Progress("verifying the chain", reader.head()) as tick:
        proposal = propose(reader, path, tick=tick)
    asked.close()
    if proposal.needed and not yes:
        _tell(path, proposal)
        if not click.confirm("Accept the log as it stands?"):
            line("nothing was changed")
            return 1
    if proposal.needed:
        adopt(path, proposal)
    document = {
        "file": str(path),
        "adopted": proposal.needed,
        "position": proposal.head.position,
        "hash": proposal.head.hash.hex(),
        "acknowledged": None if proposal.old is None else proposal.old.position,
        "lost": proposal.lost,
        "changed": proposal.changed,
    }

    def text() -> None:
        if not proposal.needed:
            line(f"{path.name} and its head file agree: there is nothing to accept")
        elif yes:
            _tell(path, proposal)
        if proposal.needed:
            line(f"accepted: {path.name} ends at position {proposal.head.position}, hash {proposal.head.hash.hex()}")

    asked.answer_one(document, text)
    return 0


def _tell(path: Path, proposal: Proposal) -> None:
    """Say what is there, and what is lost by accepting it."""
    end, old = proposal.head.position, proposal.old
    line(f"{path.name}: {end:,} record{'s' * (end != 1)} as written")
    if old is None:
        what = "is damaged" if proposal.damaged else "does not exist"
        line(f"{path.name}-head {what}: nobody can tell whether that is all that was acknowledged")
    elif proposal.lost:
        line(f"{path.name}-head: {old.position:,} were acknowledged; those from position {end + 1} on are lost")
    if proposal.changed:
        line(f"{path.name}-head: a record up to position {min(end, old.position if old else 0)} is another one")
