"""Holders against a plain dict: who comes and goes between two questions, and what a question costs."""

from __future__ import annotations

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule, run_state_machine_as_test

from esrm.core import holders
from esrm.core.holders import Holders

numbers = st.integers(0, 60)


class Ledger(RuleBasedStateMachine):
    """Ranges come and go in any order, with questions in between; every answer is the dict's."""

    def __init__(self) -> None:
        super().__init__()
        self.holders = Holders()
        self.model: dict[int, tuple[int, tuple[str, ...]]] = {}

    def inside(self, first: int, last: int) -> list[tuple[int, int, tuple[str, ...]]]:
        return [(low, *rest) for low, rest in sorted(self.model.items()) if low <= last and rest[0] >= first]

    @rule(first=numbers, length=st.sampled_from((1, 1, 2, 5, 20)), owner=st.sampled_from(("net0", "blk0")))
    def enter(self, first: int, length: int, owner: str) -> None:
        last = first + length - 1
        if all(found[:2] == (first, last) for found in self.inside(first, last)):  # a range's owners may change
            self.holders.enter(first, last, (owner,))
            self.model[first] = last, (owner,)

    @rule(first=numbers)
    def drop(self, first: int) -> None:
        if first in self.model:
            self.holders.drop(first)
            del self.model[first]
        else:
            with pytest.raises(KeyError):
                self.holders.drop(first)

    @rule(first=numbers, length=st.integers(1, 70))
    def ask(self, first: int, length: int) -> None:
        assert list(self.holders.overlapping(first, first + length - 1)) == self.inside(first, first + length - 1)

    @rule()
    def walk(self) -> None:
        assert list(self.holders) == self.inside(0, 100)

    @invariant()
    def agrees(self) -> None:
        assert len(self.holders) == len(self.model)
        assert all(self.holders.get(first) == self.model.get(first) for first in range(70))


@pytest.mark.parametrize("changes_max", [3, holders.CHANGES_MAX])
def test_agrees_with_a_plain_dict(changes_max: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever is entered and dropped between two questions, few changes or too many to remember."""
    monkeypatch.setattr(holders, "CHANGES_MAX", changes_max)
    run_state_machine_as_test(
        Ledger, settings=settings(max_examples=60, stateful_step_count=50, deadline=None, database=None)
    )


def test_a_question_after_few_changes_sorts_nothing() -> None:
    """The order that one question made is kept for the next, up to 500 changes later; then it is let go."""
    held = Holders()
    for first in range(0, 10_000, 10):
        held.enter(first, first + 4, ("net0",))
    assert [found[0] for found in held.overlapping(95, 124)] == [100, 110, 120]
    order = held._order
    for first in range(0, 2 * holders.CHANGES_MAX, 10):
        held.drop(first)
        held.enter(first, first + 4, ("blk0",))
    assert list(held.overlapping(104, 110)) == [(100, 104, ("blk0",)), (110, 114, ("blk0",))]
    assert held._order is order
    for first in range(holders.CHANGES_MAX + 1):
        held.enter(20_000 + first, 20_000 + first, ("net1",))
    assert (held._order, held._changed) == (None, set())
    assert len(list(held.overlapping(20_000, 30_000))) == holders.CHANGES_MAX + 1


def test_nobody_asks_nobody_pays() -> None:
    """Ever new numbers that come and go leave nothing behind, whether somebody once asked for the order or not."""
    held = Holders()
    for asked in (False, True):
        if asked:
            assert not list(held)
        for first in range(10 * holders.CHANGES_MAX):
            held.enter(first, first, ("net0",))
            held.drop(first)
            assert len(held._changed) <= holders.CHANGES_MAX
    assert not len(held)
