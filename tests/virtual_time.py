"""An event loop whose clock jumps to the next timer instead of waiting for it."""

from __future__ import annotations

import asyncio
import functools
import selectors
from contextlib import suppress
from pathlib import Path
from threading import get_native_id
from time import monotonic, process_time, thread_time
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
# Seconds of CPU: what a thread that is only asked for something does not use.
WORK = 0.00002
TASKS = Path("/proc/self/task")


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
        turn = min(TURN + timeout * TURN_PER_SECOND, LONGEST_TURN)
        end = monotonic() + STUCK
        while True:
            used = process_time() - thread_time()
            if ready := super().select(turn):
                return ready
            worked = process_time() - thread_time() - used > WORK
            if not (worked or _others_run()) or monotonic() > end:
                break
            turn = TURN  # on a busy machine a thread may wait for a processor for longer
        self.now += timeout + BEYOND
        return ready


def _others_run() -> bool:
    """Return whether another thread of this process could run, or waits for the disk (Linux)."""
    own = str(get_native_id())
    for task in TASKS.iterdir() if TASKS.exists() else ():
        if task.name != own:
            with suppress(OSError):  # it has ended
                # proc(5): the state follows the name, which stands in parentheses.
                if (task / "stat").read_bytes().rpartition(b") ")[2][:1] in {b"R", b"D"}:
                    return True
    return False


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
