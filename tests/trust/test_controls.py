"""Negative controls: eight things that would lose or forge a log, each done to the real code, each caught.

They prove nothing about esrm, and much about the harness: a checker that has never said no is no checker. Each control
changes the product in the smallest way, records the same kind of run on the same kind of disk, and has the same images
judged in the same way as ``test_crash.py`` does; the wrong that it does must be among those that were found.
"""

from __future__ import annotations

import random
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import apsw
import pytest
from crashes import CODEC, LOST, NAME, TORN, UNSEEN, Auditor, Run, User, again, explore, memory, perform
from disk import Image, Platter, put
from scale import pick, seed

from esrm.stores import chain
from esrm.stores.base import verify
from esrm.stores.sqlite import SqliteReader, schema
from esrm.stores.sqlite.committer import Committer
from esrm.stores.sqlite.writer import Writer

STEPS = 25


def catch(what: str, wrong: str, **options: Any) -> None:
    """Record runs and cut the power in them, until that is found to be wrong."""
    for n in range(pick(quick=5, ci=20, soak=100)):
        dice = random.Random(f"control {what} {seed()} {n}")
        run = perform(dice, STEPS, **options)
        if explore(run, 2000, dice, until=wrong).wrong[wrong]:
            return
    raise AssertionError(f"the harness is broken: it did not find that {wrong}; {again()}")


def test_nothing_is_found_where_nothing_is_wrong():
    """The control of the controls: the same, with nothing done to the code."""
    dice = random.Random(f"control {seed()}")
    assert not explore(perform(dice, STEPS), 500, dice).wrong


def test_synchronous_normal_taken_for_full():
    """Commits that were acknowledged without a sync of the WAL are missed."""
    catch("normal", LOST, synchronous="NORMAL")


def test_a_wal_sync_that_lies():
    """A disk that says that the WAL is safe, and has not written it, loses commits."""
    catch("wal", LOST, lies=lambda name: name == f"{NAME}-wal")


def test_a_database_sync_that_lies():
    """Pages that were folded back, and whose copies in the WAL were then written over, are missed."""
    catch("database", LOST, lies=lambda name: name == NAME)


def test_a_rollback_journal(monkeypatch: pytest.MonkeyPatch):
    """With DELETE and FULL, a journal whose removal is not yet on the disk comes back and takes a commit with it."""

    def set_durability(connection: apsw.Connection, path: object, synchronous: str, busy_ms: int) -> None:
        connection.pragma("journal_mode", "delete")
        connection.pragma("synchronous", synchronous)

    monkeypatch.setattr(schema, "_set_durability", set_durability)
    catch("journal", LOST)


def test_a_batch_in_two_transactions(monkeypatch: pytest.MonkeyPatch):
    """Half a batch is seen, wherever the power was cut between the two."""
    write = Committer._write

    def halves(self: Committer[bytes]) -> None:
        rest = self._pending[len(self._pending) // 2 :]
        if len(rest) > 1:
            del self._pending[len(self._pending) // 2 :]
            write(self)
            self._run("COMMIT")
            self._run("BEGIN IMMEDIATE")
            self._pending = rest
        write(self)

    monkeypatch.setattr(Committer, "_write", halves)
    catch("halves", TORN)


@contextmanager
def answering_first(patch: pytest.MonkeyPatch, *, publish: bool) -> Iterator[None]:
    """Let the writer answer a turn before its COMMIT, and wait until it was heard."""
    users: list[User] = []
    commit, init, answer, next_turn = Committer.commit, User.__init__, Writer._answer, Writer._next_turn

    def remember(self: User, *arguments: Any, **options: Any) -> None:
        init(self, *arguments, **options)
        users.append(self)

    def take(self: Writer[bytes]) -> Any:
        turn = next_turn(self)
        self._committer.__dict__.update(writer=self, turn=turn)
        return turn

    def answer_records_once(self: Writer[bytes], turn: Any) -> None:
        if turn.answered:
            turn.appends.clear()
        answer(self, turn)

    def commit_late(self: Any, appends: Any, *, patient: bool = True) -> bool:
        run = self._run

        def late(statement: str) -> object:
            head, user, tail = self.head, users[-1], self.writer._tail
            # A follower that still reads from the file cannot be told of what is not in it.
            if statement == "COMMIT" and self._sealed > head and (not publish or 0 < tail.last == head == user.seen):
                if publish:
                    self.head = self._sealed
                self.writer._soon(self.writer._answer, self.turn)
                deadline = time.monotonic() + 10
                while not (user.seen >= self._sealed if publish else user.quiet.is_set()):
                    assert time.monotonic() < deadline, "nobody heard the answer"
                    time.sleep(0.0002)
                self.head = head
            return run(statement)

        self._run = late
        try:
            return commit(self, appends, patient=patient)
        finally:
            if self._run is late:
                self._run = run

    patch.setattr(User, "__init__", remember)
    patch.setattr(Writer, "_next_turn", take)
    patch.setattr(Writer, "_answer", answer_records_once)
    patch.setattr(Committer, "commit", commit_late)
    yield


def test_acknowledged_before_the_commit(monkeypatch: pytest.MonkeyPatch):
    """An answer that came too early is missed when the power is cut before the commit is through."""
    with answering_first(monkeypatch, publish=False):
        catch("early", LOST)


def test_published_before_the_commit(monkeypatch: pytest.MonkeyPatch):
    """A subscriber that was told too early has seen what never was."""
    with answering_first(monkeypatch, publish=True):
        catch("published", UNSEEN)


COLUMNS = ("id", "time_ns", "actor", "correlation", "data")
"""All but those of which a change is also seen by the order of the records, and the VM's name, which has its table."""


@pytest.mark.parametrize("column", [*COLUMNS, "vm"])
def test_a_column_that_is_not_hashed(column: str, monkeypatch: pytest.MonkeyPatch):
    """``verify`` is blind to a column that the hash leaves out, and sees it with the real one; the auditor sees it."""
    seen = {}
    for hashed in (False, True):
        with monkeypatch.context() as patch:
            if not hashed:
                leave_out(patch, column)
            run = perform(random.Random(f"control unhashed {seed()}"), 8)
            image = edited(last(run), column)
            with memory() as place:
                put(image, place / "log")
                with SqliteReader(place / "log" / NAME, CODEC) as reader:
                    seen[hashed] = verify(reader).fault
                auditor = Auditor(run, place / "images")
                assert auditor.find(image).fault
                auditor.close()
    assert seen[False] is None
    assert "hash to" in str(seen[True])


def leave_out(patch: pytest.MonkeyPatch, column: str) -> None:
    """Hash records without one of their columns."""
    digest = chain._digest
    names = digest.__code__.co_varnames[: digest.__code__.co_argcount]

    def blind(*columns: Any) -> bytes:
        values = dict(zip(names, columns, strict=True))
        values[column] = bytes(16) if column == "id" else type(values[column])()
        return digest(**values)

    patch.setattr(chain, "_digest", blind)


def last(run: Run) -> Image:
    """What a run left."""
    platter = Platter(run.start)
    for op in run.trace:
        platter.step(op)
    return next(platter.plain())[1]


def edited(image: Image, column: str) -> Image:
    """The same with one column of one record changed, by somebody who takes the triggers out of the way."""
    with memory() as place:
        put(image, place / "log")
        path = place / "log" / NAME
        connection = apsw.Connection(str(path))
        for (trigger,) in connection.execute("SELECT name FROM sqlite_schema WHERE type = 'trigger'").fetchall():
            connection.execute(f"DROP TRIGGER {trigger}")
        if column == "vm":
            connection.execute("UPDATE streams SET name = name || '!' WHERE id = 1")
        else:
            value = {"id": "randomblob(16)", "time_ns": "time_ns + 1"}.get(column, f"{column} || '!'")
            connection.execute(f"UPDATE records SET {column} = {value} WHERE position = 3")
        connection.close()
        return {file.name: file.read_bytes() for file in path.parent.iterdir() if not file.name.endswith("-shm")}
