"""Decides whether requests may leave: not once a job stops, and not during an outage."""

from __future__ import annotations

import asyncio
from math import inf
from typing import TYPE_CHECKING

from stable_async.errors import APIConnectionError
from stable_async.jobs.errors import JobError

if TYPE_CHECKING:
    from stable_async.errors import StabilityError
    from stable_async.jobs.progress import Progress

__all__ = ["REFUSALS_OF_A_ROW", "Gate", "StoppedError"]

# This many consecutive refusals by the network are an outage.
REFUSALS = 3
# How many times a single row is refused while others are answered before it is left for later.
REFUSALS_OF_A_ROW = 3
# Maximum seconds between two probes of an outage; each wait is twice the one before.
LONGEST_WAIT = 60.0


class StoppedError(Exception):
    """A request did not leave, because the job is stopping."""


class Gate:
    """Stops a job, and acts as a circuit breaker for the API and the network before it.

    After a few consecutive refusals by the network, or doubtful answers, nothing new leaves. One
    request at a time probes, at growing intervals. Its answer reopens the gate; after
    `outage_limit` the job stops.

    A row that is refused repeatedly while others are answered is not an outage: a firewall may
    block its text. Such rows are `blocked`.

    Attributes:
        error: Why the job cannot continue; `None` while it can.
        stopping: Whether nothing new leaves.
        blocked: Positions of rows that were refused while others were answered.
    """

    def __init__(
        self, progress: Progress, *, address: str, outage_limit: float, first_wait: float
    ) -> None:
        """Start open.

        Args:
            progress: The progress whose phase is updated.
            address: The address that requests go to, for messages.
            outage_limit: Seconds after which an outage ends the job.
            first_wait: Seconds to the first probe.
        """
        self._progress = progress
        self._address = address
        self._outage_limit = outage_limit
        self._first_wait = first_wait
        self._clock = asyncio.get_running_loop().time
        self.error: JobError | None = None
        self.stopping: bool = False
        self._waiting: set[asyncio.Timeout] = set()
        self.blocked: set[int] = set()
        self._gave_way: dict[int, float] = {}
        self._answered = False  # the last answer of the API to any request
        self._answered_left_at = -inf  # when the last request left that the API has answered
        self._refusals = 0
        self._first_refusal = 0.0
        self._outage_began: float | None = None
        self._wait = first_wait
        self._probe: object = None
        self._changed = asyncio.Event()

    def stop(self, error: JobError | None = None) -> None:
        """Let nothing new leave; what has left is finished. Later errors change nothing."""
        self.error = self.error or error
        self.stopping = True
        self._progress.phase = "stopping"
        for scope in self._waiting:
            if not scope.expired():
                scope.reschedule(self._clock())

    def hold(self, scope: asyncio.Timeout) -> None:
        """Let `stop` cancel a scope: nothing of it is in flight."""
        self._waiting.add(scope)
        if self.stopping and not scope.expired():
            scope.reschedule(self._clock())

    def let_go(self, scope: asyncio.Timeout) -> None:
        """Keep `stop` from cancelling a scope."""
        self._waiting.discard(scope)

    async def wait(self, who: object) -> None:
        """Wait until the request of `who` may leave: at once, as a probe, or after an outage."""
        if self._probe is who:  # it has probed, and was refused
            self._probe = None
            self._changed.set()
            await asyncio.sleep(0)  # another row probes next: this one alone may be blocked
        while self._outage_began is not None:
            if self._probe is None:
                self._probe = who
                await asyncio.sleep(min(self._wait, self._left()))
                self._wait = min(2 * self._wait, LONGEST_WAIT)
                return
            self._changed.clear()
            await self._changed.wait()

    def end(self, who: object, scope: asyncio.Timeout) -> None:
        """Forget a request that has ended, and its scope; if it probed, another one may probe."""
        self._waiting.discard(scope)
        if self._probe is who:
            self._probe = None
            self._changed.set()

    def _left(self) -> float:
        """Return the seconds until an outage ends the job."""
        began = self._clock() if self._outage_began is None else self._outage_began
        return max(began + self._outage_limit - self._clock(), 0.0)

    def lets_pass(self, who: object) -> bool:
        """Return whether the request of `who` may leave now."""
        return self._outage_began is None or self._probe is who

    def answered(self, left_at: float | None = None) -> None:
        """Record an answer of the API: there is no outage, or it is over.

        Args:
            left_at: When its request left. An answer to one that left before the first refusal says
                nothing about the network now. `None` means now.
        """
        self._answered = True
        self._answered_left_at = max(
            self._answered_left_at, self._clock() if left_at is None else left_at
        )
        if left_at is not None and left_at < self._first_refusal:
            return
        self._refusals = 0
        if self._outage_began is not None:
            self._outage_began = None
            self._wait = self._first_wait
            self._progress.outage = None
            self._changed.set()

    def answers_since(self, moment: float) -> bool:
        """Return whether the API has answered a request that left after a moment."""
        return self._answered_left_at > moment

    def give_way(self, position: int) -> None:
        """Record that a row makes way for others, which may show that it alone is refused."""
        self._gave_way[position] = self._clock()

    def is_refused_alone(self, position: int, *, is_last: bool) -> bool:
        """Return whether to leave a row that was refused again to a later run.

        Others were answered since it gave way; or it is the last one, the API has answered others
        in this run, and it has been tried for as long as an outage may last.
        """
        gave_way = self._gave_way.get(position)
        if gave_way is not None and self.answers_since(gave_way):
            return True
        return is_last and self._answered and self._outage_began is not None and not self._left()

    def refused(self, error: StabilityError) -> None:
        """Record an error of those that make an outage (`outcomes.is_outage`)."""
        now = self._clock()
        if not self._refusals:
            self._first_refusal = now
        self._refusals += 1
        if self._outage_began is None and self._refusals >= REFUSALS:
            self._outage_began = now
            self._progress.outage = str(error)
        if not self._answered and self._refusals == 1 and _not_there(error):
            self.stop(JobError(str(error)))
        elif self._outage_began is not None and now - self._outage_began >= self._outage_limit:
            self.stop(
                JobError(
                    f"no result from {self._address} for {self._outage_limit:g} s; "
                    f"the last error: {error}"
                )
            )


def _not_there(error: StabilityError) -> bool:
    """Return whether there was no connection at all; at the start this suggests a wrong address."""
    return isinstance(error, APIConnectionError) and not error.maybe_billed
