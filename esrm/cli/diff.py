"""``esrm diff``: what differs between two layouts, in the shape of a unified diff. ``show`` prints its changes too."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import click

from esrm.cli import wire
from esrm.cli.options import Asked, common
from esrm.cli.output import line, paint
from esrm.cli.wording import device, held, wish
from esrm.core.resources import Resource
from esrm.core.state import DeviceState
from esrm.history import Change, Past
from esrm.stores.records import iso

_COLOURS = {"+": "green", "-": "red", "~": "yellow"}


@click.command("diff")
@click.argument("a", metavar="A")
@click.argument("b", metavar="[B]", default="@")
@common()
@click.pass_context
def command(ctx: click.Context, asked: Asked, a: str, b: str) -> None:
    """Compare the layouts at two moments.

    From A to B, by default the head. A device that came is a line with +, one that went a line with -, one that changed
    a line with ~ and beneath it what changed. Exits with 1 if there is any difference.

    \b
    esrm diff @~10
    esrm diff '@{2026-11-22T07:00}' '@{2026-11-22T08:00}'
    """
    past = asked.past
    found = past.diff(a, b)
    changes = [change_document(change) for change in found.changes]

    def text() -> None:
        if not found:
            return  # silent, as diff(1)
        for mark, revision in (("---", found.a), ("+++", found.b)):
            line(paint(f"{mark} {past.vm}@{revision}  {_time(past, revision)}", bold=True))
        print_changes(found.changes)

    asked.answer(changes, text, lambda: {"vm": past.vm, "a": found.a, "b": found.b, "changes": changes})
    ctx.exit(1 if found else 0)


def print_changes(changes: Sequence[Change]) -> None:
    """A line a device, and beneath one that changed a line a difference."""
    for change in changes:
        for mark, indent, text in _told(change):
            line(indent, paint(f"{mark} {text}", fg=_COLOURS[mark]))


def change_document(change: Change) -> dict[str, Any]:
    """A change as JSON: what it is, and the device before and after."""
    word = "added" if change.before is None else "removed" if change.after is None else "changed"
    before, after = (None if state is None else wire.device(state) for state in (change.before, change.after))
    return {"device": change.device, "change": word, "before": before, "after": after}


def _told(change: Change) -> Iterator[tuple[str, str, str]]:
    before, after = change.before, change.after
    if before is None or after is None:
        mark, state = ("+", after) if before is None else ("-", before)
        assert state, "a change has a before or an after"
        yield mark, "", device(state)
        return
    yield "~", "", f"{after.name}{_kinds(before, after)} {_arrow(before.phase.value, after.phase.value)}"
    if before.parent != after.parent:
        yield "~", "    ", f"inside {before.parent or 'nobody'} -> {after.parent or 'nobody'}"
    if before.constraints != after.constraints:
        wishes = (", ".join(map(wish, state.constraints)) or "nothing" for state in (before, after))
        yield "~", "    ", f"asked for {' -> '.join(wishes)}"
    yield from _moved(before.allocated, after.allocated)


def _moved(before: Sequence[Resource], after: Sequence[Resource]) -> Iterator[tuple[str, str, str]]:
    gone, new = [r for r in before if r not in after], [r for r in after if r not in before]
    if len(before) == len(after) and len(gone) == len(new):
        for old, fresh in zip(gone, new, strict=True):
            yield "~", "    ", f"{old} -> {fresh}"
        return
    for mark, resources in (("-", gone), ("+", new)):
        if resources:
            yield mark, "    ", held(resources)


def _kinds(before: DeviceState, after: DeviceState) -> str:
    kinds = _arrow(before.kind, after.kind)
    return f" [{kinds}]" if kinds else ""


def _arrow(before: str, after: str) -> str:
    return after if before == after else f"{before} -> {after}"


def _time(past: Past, revision: int) -> str:
    return iso(next(past.log(since=revision, until=revision)).time_ns)
