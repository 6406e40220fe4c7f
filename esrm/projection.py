"""The async reducer: a subscription folded into state, at a known position.

Use it to look at VMs from a process that does not manage them, or to wait until what was appended can be seen here.
It reads pages and folds each page at once; ``evolve`` itself stays a synchronous function. Next: ``subscription.py``.
"""

from __future__ import annotations

from contextlib import AsyncExitStack
from types import TracebackType
from typing import TYPE_CHECKING, Self

import anyio

from esrm.core.events import Event
from esrm.core.resources import DeviceResources
from esrm.core.state import VmState, evolve
from esrm.errors import Corrupt, EsrmError, InUse, StoreError

if TYPE_CHECKING:
    from esrm.stores.base import Record, Store


class Projection:
    """The state of one VM (or of all VMs of a store), following its log.

    Guarantee: every event is applied once, in order; ``state`` is exactly what replaying the log up to ``position``
    gives, also after a failure. It follows while the ``async with`` block runs. What the store or the log did wrong is
    raised by leaving the block, and by ``wait_for`` of what was not applied before.
    """

    def __init__(self, store: Store[Event], vm: str | None = None, *, batch: int = 256) -> None:
        self.vm = vm
        self.states: dict[str, VmState] = {}
        self._store = store
        self._subscription = store.subscribe(vm=vm, batch=batch)
        self._position = 0
        self._moved = anyio.Event()
        self._failure: EsrmError | None = None
        self._follows: bool | None = None  # None: not yet
        self._stack = AsyncExitStack()

    @property
    def position(self) -> int:
        """The position in the store up to which everything is applied."""
        return self._position

    @property
    def state(self) -> VmState:
        """The VM's state at ``position``; empty (revision -1) before its first event."""
        if self.vm is None:
            raise ValueError("this projection follows every VM: ask `states`")
        return self.states.setdefault(self.vm, VmState())

    def resources(self, device: str) -> DeviceResources:
        """What a device of the VM holds at ``position``.

        Raises:
            UnknownDevice: there is none of that name.
        """
        return self.state.device(device).resources

    async def wait_for(self, position: int) -> None:
        """Return once everything up to ``position`` is applied.

        Raises:
            Corrupt, StoreError: what stopped the projection before that; StoreError also outside of its block, and in
                another event loop than the store's.
        """
        while self.position < position:
            self._check()
            if not self._follows:
                why = "has not begun" if self._follows is None else "has ended"
                raise StoreError(f"this projection stopped at position {self.position}: its block {why}")
            self._store.check_home()
            await self._moved.wait()

    async def __aenter__(self) -> Self:
        if self._follows:
            raise InUse("this projection follows already: make another one, or leave its block first")
        group = await self._stack.enter_async_context(anyio.create_task_group())
        self._follows = True
        group.start_soon(self._follow)
        self._stack.callback(group.cancel_scope.cancel)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            await self._stack.aclose()
        finally:
            self._follows = False
            self._wake()
        if error is None:
            self._check()

    async def _follow(self) -> None:
        try:
            while True:
                for record in await self._subscription.scan():
                    self._apply(record)
                self._position = self._subscription.position  # past what is not its own, too
                self._wake()
        except EsrmError as error:
            self._failure = error
            self._wake()

    def _apply(self, record: Record[Event]) -> None:
        try:
            evolve(self.states.get(record.vm) or self.states.setdefault(record.vm, VmState()), record.event)
        except Corrupt as error:
            raise Corrupt.at(record.vm, record.revision, record.position, error) from error
        self._position = record.position

    def _wake(self) -> None:
        self._moved.set()
        self._moved = anyio.Event()

    def _check(self) -> None:
        if self._failure is not None:
            raise self._failure
