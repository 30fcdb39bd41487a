"""Homes on this machine: the base of all of them, and the one in the memory of a process.

Several event loops of one process share one `Store`, each through a `LocalHome` of its own. The
state treats each of them as a process: it joins, sends heartbeats, and expires when silent.
"""

from __future__ import annotations

import logging
import os
import secrets
import threading
from functools import cache, partial
from math import inf
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from stable_async.errors import ConfigurationError
from stable_async.quota.homes.replica import WAITED, YIELDED, Entry, apply
from stable_async.quota.state import QuotaState, Slot, dump_terms, terms_of

if TYPE_CHECKING:
    from stable_async.config import Quota
    from stable_async.quota.homes.base import Waiters
    from stable_async.quota.homes.replica import Kind
    from stable_async.quota.state import Snapshot

__all__ = ["LocalHome", "ProcessHome", "Store"]

logger: logging.Logger = logging.getLogger("stable_async.quota")

# How often to check again while another process has an open slot, seconds: it may release it, or
# may have been killed.
LOOK_AGAIN = 0.1

# How often a waiting process sends a heartbeat, seconds.
HEARTBEAT_EVERY = 0.4

# A process that is later than this after the time of its entry, seconds, was stopped in between:
# its request would leave later than the state says.
LATE = 0.1


class Store(Protocol):
    """A state that several event loops of this process use, one at a time.

    Attributes:
        lock: Held while the store is used.
        homes: The open homes.
    """

    lock: threading.RLock
    homes: list[LocalHome]

    @property
    def state(self) -> QuotaState:
        """The state after the last entry."""

    def acquire(self, home: LocalHome) -> None:
        """Open the store if `home` is its first one, and add the home."""

    def drop(self, home: LocalHome) -> None:
        """Remove the home, and close the store if it was the last one."""

    def catch_up(self, now: float) -> QuotaState:
        """Apply the entries of other processes, if there are any; return the state."""

    def view(self, now: float) -> QuotaState:
        """Return the state at `now`, for reading only."""

    def enter(self, entry: Entry, due: float | None = None) -> bool:
        """Apply an entry, for other processes too; return the result of `replica.apply`.

        Args:
            entry: The entry.
            due: `reserve`: when the state of this store says that the request may leave. It is
                asked again if entries of other processes may come before this one.
        """

    def clock(self) -> float:
        """Return the time, seconds, if others continue while this process is stopped."""


class LocalHome:
    """A quota home in a store of this machine.

    Attributes:
        waiters: The calls that wait at this home; `None` before it is opened.
    """

    def __init__(self, store: Store, quota: Quota) -> None:
        """Prepare; `quota` is the server's quota according to this home's clients."""
        self._store = store
        self._quota = terms_of(quota)
        self._terms = self._quota
        self.waiters: Waiters | None = None
        self._number = 0
        # What the request at the head has waited for; see `Entry.value`.
        self._waited = 0.0
        self._heartbeat_at = -inf
        # The process that has it open; 0 if it is closed.
        self._pid = 0

    async def open(self, waiters: Waiters | None = None) -> None:
        """Open the store and join its users; does nothing when it is open."""
        self.open_now(waiters)

    def open_now(self, waiters: Waiters | None = None) -> None:
        """Do what `open` does: nothing here needs an event loop."""
        with self._store.lock:
            if not self._pid:
                for other in list(self._store.homes):
                    if other.waiters is not None and other.waiters.gone():
                        other.close_now()
                self.waiters = waiters
                self._store.acquire(self)
                self._rename()
                self._join(self._store.clock())

    async def aclose(self) -> None:
        """Leave the users of the store, and close it after the last one of this process."""
        self.close_now()

    def close_now(self) -> None:
        """Do what `aclose` does."""
        with self._store.lock:
            if self._pid:
                try:
                    if self._store.state.has_joined(self._process, self._quota):
                        self._enter("leave", self._store.clock())
                except ConfigurationError:
                    pass  # the others will notice that this process has ended
                finally:
                    self._pid = 0
                    self._store.drop(self)
                    self._wake_others()

    def reserve(self, now: float, *, bulk: bool = False) -> Slot | float:
        """Return an open slot, or the time at which to ask again."""
        with self._store.lock:
            state = self._read(now)
            if not state.has_joined(self._process, self._quota):
                self._join(now)  # again: it was silent for so long that it was forgotten
            # Another loop or process may have been here since `now` was read.
            now = max(now, state.now)
            while True:
                due = state.due(self._process, now, bulk=bulk)
                if due <= now:
                    if self._enter("reserve", now, value=self._waited, bulk=bulk, due=due):
                        self._waited = 0.0
                        self._heartbeat_at = -inf
                        return Slot(self._number)
                elif not self._expire_others(state, now):
                    return self._wait(state, now, due, bulk=bulk)
                state = self._store.state  # another one, if its file was replaced

    def mark_sent(self, slot: Slot, now: float) -> bool:
        """Count the request of an open slot as departing now, unless that is no longer allowed."""
        with self._store.lock:
            if not self._pid:
                return False
            while self._enter("mark_sent", now, slot=slot.number):
                slot.left = now
                if self._store.clock() - now <= LATE:
                    self._wake_others()
                    return True
                # The entry came late and counts for no request; this one needs another slot.
                now = self._store.clock()
            return False

    def release(self, slot: Slot, now: float) -> None:
        """Take an open slot back: its request never left."""
        with self._store.lock:
            if self._pid:
                self._enter("release", now, slot=slot.number)
                self._wake_others()

    def penalise(self, now: float, retry_after: float | None, slot: Slot | None) -> None:
        """Begin a penalty for everybody, of `retry_after` seconds or the quota's own length."""
        number, left = (0, None) if slot is None else (slot.number, slot.left)
        with self._store.lock:
            self._enter("penalise", now, value=retry_after, slot=number, left=left)
            self._wake_others()

    def observe(self, now: float, delay: float, *, set_up: bool = False) -> None:
        """Add a measured delay, seconds; ignored unless the terms are adaptive."""
        with self._store.lock:
            if self._store.state.terms.adaptive:
                self._enter("set_up" if set_up else "observe", now, value=delay)

    def earliest(self, now: float, ahead: int = 0) -> float:
        """Return the time from which a request with `ahead` others before it might leave."""
        with self._store.lock:
            state = self._read(now)
            return self._store.view(now).earliest(ahead) if ahead else state.earliest()

    def snapshot(self, now: float) -> Snapshot:
        """Return the figures of this moment, for all processes; when closed, as last seen."""
        with self._store.lock:
            if self._pid:
                self._read(now)
            return self._store.view(now).snapshot()

    def _read(self, now: float) -> QuotaState:
        """Return the state with the entries of all processes; the lock is held."""
        if self._pid != os.getpid():
            self._check_open()
        state = self._store.catch_up(now)
        return state if state.terms is self._terms else self._use_terms(state, now)

    def _check_open(self) -> None:
        """Fail if the home is closed; take another name after a fork."""
        if not self._pid:
            raise ConfigurationError("the home of this quota was closed")
        self._rename()

    def _rename(self) -> None:
        self._pid = os.getpid()
        self._process = f"{self._pid}.{_namespace()}.{secrets.token_hex(4)}"

    def _join(self, now: float) -> None:
        self._enter("join", now, terms=dump_terms(self._quota))

    def _use_terms(self, state: QuotaState, now: float) -> QuotaState:
        """Adopt other processes' terms, and remove processes that have ended with stricter ones;
        return the state.
        """
        for process in [name for name in state.stricter(self._process) if _is_dead(name)]:
            self._enter("leave", now, other=process)
        known, self._terms = self._terms, state.terms
        if self._terms not in (known, self._quota):
            logger.warning(
                "another client of this key allows %d requests in %.3g s, this one %d in %.3g s: "
                "the stricter terms hold for both",
                self._terms.requests,
                self._terms.window,
                self._quota.requests,
                self._quota.window,
            )
        return self._store.state

    def _wait(self, state: QuotaState, now: float, due: float, *, bulk: bool) -> float:
        """Note for what a request waits that may leave when `due`; return when to ask again."""
        self._waited = max(self._waited, WAITED if state.earliest() > now else YIELDED)
        when = min(due, now + LOOK_AGAIN) if any(state.others_open(self._process)) else due
        if now - self._heartbeat_at >= HEARTBEAT_EVERY:
            self._heartbeat_at = now
            self._enter("heartbeat", now, bulk=bulk)
        return when

    def _expire_others(self, state: QuotaState, now: float) -> bool:
        """Count the open slots of processes that were killed or stopped for long as departures;
        return whether there were any.
        """
        found = False
        for process in list(state.others_open(self._process)):
            seen = state.seen(process)
            if seen is not None:
                expires = now if _is_dead(process) else seen + state.lease
                if expires <= now:
                    self._enter("expire", expires, value=seen, other=process)
                    found = True
        return found

    def _enter(
        self,
        kind: Kind,
        now: float,
        *,
        slot: int = 0,
        value: float | None = None,
        left: float | None = None,
        bulk: bool = False,
        other: str = "",
        terms: tuple[float, ...] | None = None,
        due: float | None = None,
    ) -> bool:
        if self._pid != os.getpid():
            self._check_open()
        self._number += 1
        return self._store.enter(
            Entry(self._process, self._number, kind, now, slot, value, left, bulk, other, terms),
            due,
        )

    def _wake_others(self) -> None:
        """Wake the other event loops of this process after a change."""
        for home in self._store.homes:
            if home is not self and home.waiters is not None:
                home.waiters.wake()


class ProcessHome(LocalHome):
    """A quota home in memory, for one event loop or for all of this process."""

    def __init__(self, quota: Quota, *, name: str | None = None) -> None:
        """Prepare an empty quota or, with `name`, the one of that name in this process."""
        super().__init__(_Memory(quota) if name is None else _named(name, quota), quota)


class _Memory:
    """A store in memory, where nobody else enters anything."""

    def __init__(self, quota: Quota) -> None:
        self.lock = threading.RLock()
        self.homes: list[LocalHome] = []
        self.state = QuotaState(quota)
        self.catch_up = self.view = self.state.advance
        self.enter = partial(apply, self.state)

    def acquire(self, home: LocalHome) -> None:
        self.homes.append(home)

    def drop(self, home: LocalHome) -> None:
        self.homes.remove(home)

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


@cache
def _namespace() -> int:
    """Return the namespace of our process ids: containers have their own."""
    try:
        return Path("/proc/self/ns/pid").stat().st_ino
    except OSError:
        return 0


def _is_dead(process: str) -> bool:
    """Return whether a process is certain to have ended."""
    pid, namespace, _ = process.split(".")
    if int(namespace) != _namespace():
        return False
    try:
        os.kill(int(pid), 0)
    except ProcessLookupError:
        return True
    except PermissionError:
        pass
    return False
