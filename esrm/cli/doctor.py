"""``esrm doctor``: is this a place where a log keeps its promises, and is it whole?"""

from __future__ import annotations

from pathlib import Path

import click
import msgspec

from esrm.cli.options import Asked, common
from esrm.cli.output import line, paint
from esrm.errors import StoreError
from esrm.stores.sqlite.doctor import Finding, Verdict, examine

_STYLES: dict[Verdict, dict[str, object]] = {
    "ok": {"fg": "green"},
    "note": {"fg": "cyan"},
    "warning": {"fg": "yellow", "bold": True},
    "bad": {"fg": "red", "bold": True},
}


@click.command("doctor")
@click.argument("file", required=False)
@click.option("--no-write", is_flag=True, help="Do not time syncs: leave the folder alone.")
@common(vm=False)
@click.pass_context
def command(ctx: click.Context, asked: Asked, file: str | None, no_write: bool) -> None:
    """Look at a log, and at the place that it is in.

    Which SQLite versions are here, what the log's settings are, who writes, what is left of the disk and whether it
    keeps what it is told to keep: a verdict each (ok, note, warning, bad) and what to do about it. FILE is the store
    if it is named. The log is not changed, and a VMM may be writing it. Syncs are timed, for about 50 ms, with a
    temporary file beside it.

    It reads none of the records: that is for `esrm verify`. Exits with 3 if anything is bad.
    """
    if file is not None:
        asked.store = file
    scheme, _, name = asked.url.partition(":")
    if scheme != "sqlite":
        raise StoreError(f"{asked.url!r:.200} is no file to look at; name one, such as vm.db")
    path = Path(name).absolute()
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
