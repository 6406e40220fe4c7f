"""``esrm vms``: the streams of the store."""

from __future__ import annotations

from typing import Any

import click

from esrm.cli import wire
from esrm.cli.options import Asked, common
from esrm.cli.output import paint, rows
from esrm.history import Past
from esrm.stores.records import StreamHead, iso

_HEADER = ("VM", "REVISION", "POSITION", "TIME", "DEVICES", "PLATFORM")


@click.command("vms")
@common(vm=False)
def command(asked: Asked) -> None:
    """List the VMs in the store.

    With their last revision, its position in the store and its time (UTC), and how many devices live in them.
    """
    found = [_document(asked, head) for head in asked.streams]
    asked.answer(found, lambda: _print(found))


def _document(asked: Asked, head: StreamHead) -> dict[str, Any]:
    state = Past(asked.reader, head.vm).at(head.revision)
    return {
        "vm": head.vm,
        "revision": head.revision,
        "position": head.position,
        "time_ns": head.time_ns,
        "time": wire.exact_time(head.time_ns),
        "devices": len(state.devices),
        "platform": state.platform.name if state.platform else "",
        "hash": head.hash,
    }


def _print(found: list[dict[str, Any]]) -> None:
    header = [paint(title, bold=True) for title in _HEADER]
    lines = [
        (d["vm"], str(d["revision"]), str(d["position"]), iso(d["time_ns"]), str(d["devices"]), d["platform"])
        for d in found
    ]
    rows([header, *lines], right=[1, 2, 4])
