"""Whatever stands beside a log, or happens to it: the answers are the log's."""

from __future__ import annotations

import json
import os
import random
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import apsw
import pytest
from told import VM, cache, on_disk, replayed, right

import esrm
from esrm import Past, open_reader
from esrm.cache import file


def warm(path: Path) -> Path:
    """A log with a cache beside it that has been used."""
    assert right(path)
    assert cache(path).stat().st_size > 4096
    return cache(path)


def damage(path: Path, at: int, data: bytes) -> None:
    """Overwrite part of a file."""
    with path.open("r+b") as stream:
        stream.seek(at)
        stream.write(data)


def other_database(path: Path) -> None:
    """Put another program's there."""
    path.unlink()
    other = apsw.Connection(str(path))
    other.execute("CREATE TABLE cache (fingerprint); INSERT INTO cache VALUES ('mine')")
    other.close()


def altered(statement: str) -> Callable[[Path], object]:
    """Have SQLite change it."""

    def alter(path: Path) -> None:
        connection = apsw.Connection(str(path))
        connection.execute(statement)
        connection.close()

    return alter


def folder(path: Path) -> None:
    """Put a folder there."""
    path.unlink()
    path.mkdir()


def nowhere(path: Path) -> None:
    """Put a link there that leads nowhere."""
    path.unlink()
    path.symlink_to(path.parent / "missing" / "cache")


HARM: dict[str, Callable[[Path], object]] = {
    "deleted": Path.unlink,
    "empty": lambda path: path.write_bytes(b""),
    "one byte": lambda path: path.write_bytes(b"\0"),
    "truncated": lambda path: os.truncate(path, path.stat().st_size // 2),
    "cut in its header": lambda path: os.truncate(path, 50),
    "garbage": lambda path: path.write_bytes(random.Random(0).randbytes(20_000)),
    "garbage behind the header": lambda path: damage(path, 100, random.Random(1).randbytes(10_000)),
    "garbage in the middle": lambda path: damage(path, path.stat().st_size // 2, random.Random(2).randbytes(2_000)),
    "zeros at the end": lambda path: damage(path, path.stat().st_size - 8_192, bytes(8_192)),
    "without tables": altered("DROP TABLE cache; DROP TABLE snapshots"),
    "without a table": altered("DROP TABLE nested"),
    "without heads": altered("DELETE FROM vms"),
    "without entries of the line": altered("DELETE FROM nested; UPDATE vms SET revision = 3"),
    "another database": other_database,
    "a folder": folder,
    "a link to nowhere": nowhere,
    "unreadable": lambda path: path.chmod(0),
}


@pytest.mark.parametrize("harm", HARM)
def test_harm_is_nobodys_trouble(tmp_path: Path, harm: str):
    """A cache that is gone, cut, overwritten, or something else altogether: right answers, twice, and no error."""
    path = on_disk(tmp_path / "vm.db")
    HARM[harm](warm(path))
    assert right(path)
    assert right(path)


@pytest.mark.parametrize("other", [other_database, lambda path: path.write_bytes(b"a shopping list")])
def test_what_is_not_ours_stays(tmp_path: Path, other: Callable[[Path], object]):
    """Another program's database of that name, or what is no database at all, is left as it is."""
    path = on_disk(tmp_path / "vm.db")
    other(warm(path))
    before = cache(path).read_bytes()
    assert right(path)
    assert cache(path).read_bytes() == before


def test_another_log_of_the_same_names(tmp_path: Path):
    """The cache of a log that was replaced, by one that begins alike or not: nothing of it is believed."""
    path, other = on_disk(tmp_path / "vm.db", seed=1, turns=80), on_disk(tmp_path / "other.db", seed=2, turns=40)
    warm(path)
    shutil.copy(cache(path), cache(other))
    assert right(other)
    earlier = tmp_path / "earlier.db"  # a copy from the past, and then another future
    with open_reader(f"sqlite:{path}") as reader:
        kept = replayed(reader)[20].revision
        events = [record.event for record in reader.read(VM, -1, kept + 1)]
    write(earlier, events)
    shutil.copy(cache(path), cache(earlier))
    assert right(earlier)


def write(path: Path, events: list[esrm.Event]) -> None:
    """A log of these events."""
    import anyio

    async def main() -> None:
        async with esrm.open_store(f"sqlite:{path}", synchronous="OFF") as store:
            ids = esrm.manager.Uuid7()
            await store.append(VM, [esrm.Draft(event=event, id=ids(1), time_ns=1) for event in events], expected=-1)

    anyio.run(main)


def test_another_versions_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """An older fingerprint, with whatever its tables look like, is replaced whole."""
    path = on_disk(tmp_path / "vm.db")
    warm(path)
    connection = apsw.Connection(str(cache(path)))
    connection.execute("UPDATE cache SET fingerprint = 'cache 0'; DROP TABLE snapshots; CREATE TABLE old (x)")
    connection.close()
    assert right(path)
    assert file.look(cache(path), lambda fetch: fetch("SELECT fingerprint FROM cache")) == [(file.FINGERPRINT,)]


def test_media_that_cannot_be_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Without a cache there is none; with one, it is read."""
    path = on_disk(tmp_path / "vm.db")

    def read_only(path: Path) -> None:
        raise PermissionError(13, "Read-only file system")

    monkeypatch.setattr(file, "_create", read_only)
    assert right(path)
    assert not cache(path).exists()
    monkeypatch.undo()
    monkeypatch.setattr("esrm.cache.snapshots.STRIDE_MIN", 5)
    monkeypatch.setattr("esrm.cache.tenancies.INDEXED_MIN", 0)
    before = warm(path).read_bytes()
    os.chmod(cache(path), 0o444)
    os.chmod(tmp_path, 0o555)
    try:
        assert right(path)
        assert cache(path).read_bytes() == before
    finally:
        os.chmod(tmp_path, 0o755)


def test_no_easier_to_read_than_the_log(tmp_path: Path):
    """Who may not read the log may not read its layouts either; and the log itself is never written."""
    path = on_disk(tmp_path / "vm.db")
    path.chmod(0o600)
    before = path.read_bytes()
    assert oct(warm(path).stat().st_mode & 0o777) == "0o600"
    assert path.read_bytes() == before
    assert {entry.name for entry in tmp_path.iterdir()} == {"vm.db", "vm.db-cache", "vm.db-head"}


def test_while_another_one_writes(tmp_path: Path):
    """A cache that is locked is done without."""
    path = on_disk(tmp_path / "vm.db")
    other = apsw.Connection(str(warm(path)))
    for lock in ("BEGIN IMMEDIATE", "BEGIN EXCLUSIVE"):
        other.execute(lock)
        assert right_at_the_ends(path)
        other.execute("ROLLBACK")
    other.close()


def right_at_the_ends(path: Path) -> bool:
    """As `right`, with a few questions only: each waits for the lock."""
    with open_reader(f"sqlite:{path}") as reader:
        past, states = Past(reader, VM), replayed(reader)
        assert past.at(6) == states[6]
        assert past.at() == states[-1]
        assert past.blame("pio", 0x100) == past._blame(esrm.Space.PIO, 0x100, past.head())
    return True


ASKER = """if True:
    import sys
    from pathlib import Path
    sys.path[:0] = sys.argv[2:]
    from esrm.cache import snapshots, tenancies
    snapshots.STRIDE_MIN, tenancies.INDEXED_MIN, tenancies.STRETCH = 5, 0, 7
    from told import right
    for _ in range(3):
        assert right(Path(sys.argv[1]))
        Path(sys.argv[1] + "-cache").unlink(missing_ok=True)
"""


def test_several_processes_at_once(tmp_path: Path):
    """Three processes that ask, write and delete as they like: each gets right answers only."""
    path = on_disk(tmp_path / "vm.db", turns=30)
    here = Path(__file__).parent
    folders = [str(folder) for folder in (here, here.parent / "manager", Path(esrm.__file__).parents[1])]
    asking = [subprocess.Popen([sys.executable, "-c", ASKER, str(path), *folders]) for _ in range(3)]
    assert [asker.wait(120) for asker in asking] == [0, 0, 0]
    assert right(path)


# -- the command line ------------------------------------------------------------------------------------------------

COMMANDS = [["tree"], ["map"], ["stats"], ["diff", "0", "@"], ["blame", "pio", "0x100"], ["vms"], ["verify"]]


def test_commands_that_use_it_start_no_event_loop(tmp_path: Path):
    """Neither asking the cache nor making it imports asyncio, trio or anyio."""
    path = on_disk(tmp_path / "vm.db")
    script = """if True:
        import json, sys
        from esrm.cache import snapshots, tenancies
        snapshots.STRIDE_MIN, tenancies.INDEXED_MIN = 5, 0
        from esrm import cli
        for arguments in json.loads(sys.argv[1]) * 2:
            cli.run(arguments)
        print([name for name in ("asyncio", "trio", "anyio") if name in sys.modules], file=sys.stderr)
    """
    done = subprocess.run(
        [sys.executable, "-c", script, json.dumps(COMMANDS)],
        capture_output=True, text=True, check=True, env={**os.environ, "ESRM_STORE": str(path)},
    )  # fmt: skip
    assert done.stderr.strip() == "[]"
    assert cache(path).exists()


def test_verify_does_not_ask_it(tmp_path: Path):
    """A cache that lies convincingly changes nothing of what `verify` says."""
    from esrm import cli
    from esrm.cache.snapshots import packed

    path = on_disk(tmp_path / "vm.db")
    warm(path)
    lie = esrm.VmState()
    lie.revision = 5
    assert file.keep(
        cache(path),
        lambda fetch: fetch("UPDATE snapshots SET revision = 5, body = ? WHERE revision = 5", packed(VM, lie)) and None,
    )
    cache(path).chmod(0o400)
    before = cache(path).read_bytes()
    assert cli.run(["verify", "--store", str(path)]) == 0
    assert cache(path).read_bytes() == before
