"""The scheduler: dice choose which callback runs next; time is a number; a process dies between two callbacks.

It decides one thing at a time, so that every interleaving of awaits that a machine could show has a seed. Time passes
by a microsecond a callback, and jumps to the next timer when nothing is ready. Separate from the world, which knows no
event loops. Next: ``disk.py``.
"""

from __future__ import annotations

import asyncio
import heapq
import random
from collections.abc import Callable, Coroutine
from contextlib import suppress
from contextvars import Context, ContextVar, copy_context
from typing import Any
from warnings import catch_warnings, simplefilter
from zlib import crc32

from anyio._backends._asyncio import _task_states

CALLBACKS_MAX = 20_000
"""More than any world needs: what goes on for longer is going round in circles."""

_PRIME = 2**61 - 1


class Process:
    """All that dies together: every task and callback that was started inside its context."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.dead = False

    def kill(self) -> None:
        """From now on nothing of it runs: no ``finally``, no ``except``."""
        self.dead = True


OUTSIDE = Process("outside")
PROCESS: ContextVar[Process] = ContextVar("process", default=OUTSIDE)


class _Task(asyncio.Task[Any]):
    """A task that hashes alike in every run: libraries keep tasks in sets, and walk through them."""

    def __init__(self, number: int, coroutine: Any, **options: Any) -> None:
        self.number = number
        super().__init__(coroutine, **options)

    def __hash__(self) -> int:
        return self.number


class Loop(asyncio.BaseEventLoop):
    """An event loop of pure choice. ``dice`` belongs to the world as well; ``trace`` sums up every choice made."""

    def __init__(self, seed: int) -> None:
        super().__init__()
        self._seed, self.dice = seed, random.Random(seed)
        self.callbacks = 0
        self.trace = 0
        self.troubles: list[str] = []
        self._now = 0.0
        self._ready: list[asyncio.Handle] = []  # type: ignore[assignment]  # taken from anywhere, not from the left
        self._later: list[tuple[int, int, Context, Callable[[], object]]] = []
        self._asked = 0
        self._tasks: list[_Task] = []
        self.set_task_factory(self._task)
        self.set_exception_handler(lambda _, context: self.troubles.append(repr(context.get("exception", context))))

    def time(self) -> float:
        """Seconds since the world began."""
        return self._now

    def now_ns(self) -> int:
        """A wall clock for managers: Unix nanoseconds, which at times steps back a little, as clocks do."""
        return 1_795_000_000_000_000_000 + int(self._now * 1e9) - self.callbacks % 7 * 1000

    def after(self, callbacks: int, do: Callable[[], object]) -> None:
        """Do something when so many more callbacks have run: between two of them, inside of no task.

        It belongs to the process that asks, and dies with it.
        """
        self._asked += 1
        heapq.heappush(self._later, (self.callbacks + callbacks, self._asked, copy_context(), do))

    def tell(self, what: str) -> None:
        """Add to the trace what was seen to happen."""
        self.trace = (self.trace * 31 + crc32(what.encode())) % _PRIME

    def run(self, main: Coroutine[Any, Any, None]) -> None:
        """Run to the end."""
        self.run_until_complete(main)

    def _task(self, loop: asyncio.AbstractEventLoop, coroutine: Any, **options: Any) -> _Task:
        task = _Task(self._seed << 20 | len(self._tasks), coroutine, loop=loop, **options)
        self._tasks.append(task)
        return task

    def _run_once(self) -> None:
        self.callbacks += 1
        if self.callbacks > CALLBACKS_MAX:
            raise AssertionError(f"still busy after {CALLBACKS_MAX:,} callbacks")
        while self._later and self._later[0][0] <= self.callbacks:
            *_, context, do = heapq.heappop(self._later)
            if not context.get(PROCESS, OUTSIDE).dead:
                context.run(do)
        ready, timers = self._ready, self._scheduled
        self._now += 1e-6
        if not ready:
            if not timers:
                raise AssertionError("everybody waits, and nothing is to come")
            self._now = max(self._now, timers[0]._when)
        while timers and timers[0]._when <= self._now:
            timer = heapq.heappop(timers)
            timer._scheduled = False
            ready.append(timer)
        place = int(self.dice.random() * len(ready))
        self.trace = (self.trace * 31 + place * 7 + len(ready)) % _PRIME
        handle = ready[place]
        ready[place] = ready[-1]
        ready.pop()
        if not handle._cancelled and not handle._context.get(PROCESS, OUTSIDE).dead:
            handle._run()

    def bury(self) -> None:
        """Close the loop and what was left half-way, whatever its ``finally`` clauses say, when all is judged."""
        self.close()
        with catch_warnings():
            simplefilter("ignore")  # what they still meant to await
            for task in self._tasks:
                _task_states.pop(task, None)  # anyio's note of a task that never ended would keep its world for ever
                if not task.done():
                    task._log_destroy_pending = False
                    coroutine = task.get_coro()
                    for _ in range(100):
                        with suppress(BaseException):
                            coroutine.close()
                            break

    def _write_to_self(self) -> None:
        pass
