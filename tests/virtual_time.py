"""An event loop whose clock jumps to the next timer instead of waiting for it."""

from __future__ import annotations

import asyncio
import functools
import selectors
from typing import TYPE_CHECKING, ParamSpec, TypeVarTuple, Unpack
from weakref import WeakSet

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine
    from contextvars import Context

__all__ = ["VirtualNetworkLoop", "VirtualTimeLoop", "virtual_network_time", "virtual_time"]

P = ParamSpec("P")
Ts = TypeVarTuple("Ts")

# Landing exactly on a timer, aiolimiter's rounded level can stay below what is needed for ever.
BEYOND = 1e-6


class _JumpingSelector(selectors.SelectSelector):
    """Never waits: what would have been the wait is added to the clock."""

    def __init__(self) -> None:
        super().__init__()
        self.now = 1000.0

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        ready = super().select(0)
        if not ready:
            if timeout is None:
                raise RuntimeError("everybody waits, and no timer is set")
            if timeout > 0:
                self.now += timeout + BEYOND
        return ready


class VirtualTimeLoop(asyncio.SelectorEventLoop):
    """Runs tasks and timers in order, at once. It is no loop for sockets or threads."""

    def __init__(self) -> None:
        """Start at 1000 seconds."""
        self._jumping = _JumpingSelector()
        self._handles: WeakSet[asyncio.TimerHandle] = WeakSet()
        super().__init__(self._jumping)

    def time(self) -> float:
        """Return the virtual time, seconds."""
        return self._jumping.now

    def stand_still(self, seconds: float) -> None:
        """Let the time pass as a callback does that keeps the loop busy for so long."""
        self._jumping.now += seconds

    def call_at(
        self,
        when: float,
        callback: Callable[[Unpack[Ts]], object],
        *args: *Ts,
        context: Context | None = None,
    ) -> asyncio.TimerHandle:
        """Set a timer, and remember it for `timers`."""
        handle = super().call_at(when, callback, *args, context=context)
        self._handles.add(handle)
        return handle

    def timers(self) -> int:
        """Count the timers that are still to fire."""
        return sum(
            not handle.cancelled() and handle.when() > self.time() for handle in self._handles
        )


def virtual_time(test: Callable[P, Coroutine[object, object, None]]) -> Callable[P, None]:
    """Make a coroutine test run on a `VirtualTimeLoop`."""

    @functools.wraps(test)
    def run(*args: P.args, **kwargs: P.kwargs) -> None:
        with asyncio.Runner(loop_factory=VirtualTimeLoop) as runner:
            runner.run(test(*args, **kwargs))

    return run


# How long sockets and threads are given before the clock jumps, seconds: to the other end of a
# connection of this process a byte takes far less. Before a jump as long as a time limit, threads
# have time to finish what they do.
TURN = 0.0003
TURN_PER_SECOND = 0.01
LONGEST_TURN = 0.2
STUCK = 30.0


class _PatientSelector(selectors.DefaultSelector):
    """Lets sockets and threads have their turn; only then is the wait added to the clock."""

    def __init__(self) -> None:
        super().__init__()
        self.now = 1000.0

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        if timeout is None:
            ready = super().select(STUCK)
            if not ready:
                raise RuntimeError("everybody waits, and no timer is set")
            return ready
        ready = super().select(0)
        if ready or timeout <= 0:
            return ready
        ready = super().select(min(TURN + timeout * TURN_PER_SECOND, LONGEST_TURN))
        if not ready:
            self.now += timeout + BEYOND
        return ready


class VirtualNetworkLoop(asyncio.SelectorEventLoop):
    """Virtual time with real sockets of this process, and real threads.

    A thread's work takes as long as the timers that fire meanwhile say; nothing is waited for.
    """

    def __init__(self) -> None:
        """Start at 1000 seconds."""
        self._patient = _PatientSelector()
        super().__init__(self._patient)

    def time(self) -> float:
        """Return the virtual time, seconds."""
        return self._patient.now


def virtual_network_time(
    test: Callable[P, Coroutine[object, object, None]],
) -> Callable[P, None]:
    """Make a coroutine test run on a `VirtualNetworkLoop`."""

    @functools.wraps(test)
    def run(*args: P.args, **kwargs: P.kwargs) -> None:
        with asyncio.Runner(loop_factory=VirtualNetworkLoop) as runner:
            runner.run(test(*args, **kwargs))

    return run
