"""Write ``schemas/*.json`` from the structs, or with ``--check`` say whether they are what the structs say.

One JSON Schema (2020-12) for the event union, one for the record as it is exported and streamed. They describe the
wire form that ``esrm.core.events`` decodes; the rules by which it may change are in ``schemas/README.md``.
"""

from __future__ import annotations

import json
import sys
from inspect import cleandoc
from pathlib import Path
from typing import Any

import msgspec

from esrm.core.events import LOG_FORMAT, Event
from esrm.stores.records import Record

FOLDER = Path(__file__).parent.parent / "schemas"
DRAFT = "https://json-schema.org/draft/2020-12/schema"


def schema(type: Any, name: str) -> str:
    """The JSON Schema of a type, as the text of a file; ``name`` is what it is called in there."""
    (root,), components = msgspec.json.schema_components([type], ref_template="#/$defs/{name}")
    for component in components.values():
        if "description" in component:  # Python 3.13 takes the indentation out of docstrings, 3.12 leaves it in
            component["description"] = cleandoc(component["description"])
    long = root.get("$ref", "").removeprefix("#/$defs/")
    if long:  # a generic's name spells out its parameters
        components = {**components, name: {**components[long], "title": name}}
        del components[long]
        root = {"$ref": f"#/$defs/{name}"}
    head = {"$schema": DRAFT, "title": name, "description": f"esrm log format {LOG_FORMAT}; generated, do not edit"}
    return json.dumps({**head, **root, "$defs": components}, indent=2) + "\n"


def files() -> dict[str, str]:
    """Every generated file's name and text."""
    return {
        "event.schema.json": schema(Event, "Event"),
        "record.schema.json": schema(Record[Event], "Record"),
    }


def main(arguments: list[str]) -> int:
    """Write, or check; the exit code is 1 when a file differs."""
    stale = [name for name, text in files().items() if _read(FOLDER / name) != text]
    if "--check" in arguments:
        for name in stale:
            print(f"schemas/{name} is not what tools/schemas.py writes: run it", file=sys.stderr)
        return 1 if stale else 0
    for name in stale:
        (FOLDER / name).write_text(files()[name])
        print(f"wrote schemas/{name}")
    return 0


def _read(path: Path) -> str | None:
    return path.read_text() if path.exists() else None


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
