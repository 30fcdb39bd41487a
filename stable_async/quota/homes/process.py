"""A quota in the memory of one process."""

from __future__ import annotations

import os
import threading
from math import inf
from typing import TYPE_CHECKING

from stable_async.quota.homes.local import LocalHome
from stable_async.quota.homes.replica import apply
from stable_async.quota.state import QuotaState

if TYPE_CHECKING:
    from stable_async.config import Quota
    from stable_async.quota.homes.replica import Entry

__all__ = ["ProcessHome"]


class ProcessHome(LocalHome):
    """A quota home in memory, for one event loop or for all of this process."""

    def __init__(self, quota: Quota, *, name: str | None = None) -> None:
        """Prepare an empty quota or, with `name`, the one of that name in this process."""
        super().__init__(_Memory(quota) if name is None else _named(name, quota), quota)


class _Memory:
    """A store in memory."""

    def __init__(self, quota: Quota, state: QuotaState | None = None) -> None:
        self.lock = threading.RLock()
        self.homes: list[LocalHome] = []
        self.state = QuotaState(quota) if state is None else state

    def acquire(self, home: LocalHome) -> None:
        self.homes.append(home)

    def drop(self, home: LocalHome) -> None:
        self.homes.remove(home)

    def catch_up(self, now: float) -> QuotaState:
        self.state.advance(now)
        return self.state

    def view(self, now: float) -> QuotaState:
        return self.catch_up(now)

    def enter(self, entry: Entry, due: float | None = None) -> bool:
        return apply(self.state, entry, due)

    def clock(self) -> float:
        # Whatever stops this process stops all users of the store, so that no time is ever late.
        return -inf


_stores: dict[str, _Memory] = {}
_stores_lock = threading.Lock()


def _named(name: str, quota: Quota) -> _Memory:
    with _stores_lock:
        return _stores.setdefault(name, _Memory(quota))


def _forget_stores() -> None:
    global _stores, _stores_lock
    _stores, _stores_lock = {}, threading.Lock()


# A forked process counts separately, and a lock may be held by a thread that it does not have.
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forget_stores)
