"""A remote home of the quota: `CentralState`, or quota.lua, behind a network.

One task talks to it, one exchange after the other. The limiter's calls never wait: granted slots
are in hand, and the limiter is woken when more arrive.
"""

from __future__ import annotations

import asyncio
import logging
import os
import secrets
import socket
from collections import deque
from contextlib import suppress
from math import inf
from typing import TYPE_CHECKING, Protocol

from stable_async.errors import ConfigurationError, StabilityError
from stable_async.quota.homes.central import (
    LEASE,
    PATIENCE,
    Answer,
    Message,
    Refusal,
    Terms,
)
from stable_async.quota.jitter import DelayHistory
from stable_async.quota.state import Slot, Snapshot, bounded_penalty

if TYPE_CHECKING:
    from stable_async.config import Quota
    from stable_async.quota.homes.base import Waiters

__all__ = ["RemoteHome", "Service", "UnreachableError"]

logger: logging.Logger = logging.getLogger("stable_async.quota")

# Seconds of the lease that are not used: timers are late, and requests take time to reach the wire.
GUARD = 0.1

# The state of slots is sent within this time, seconds, for several slots at once.
REPORT_WITHIN = 0.004

# Seconds before a failed exchange is retried: the first time, and at most.
PAUSE = 0.05
LONGEST_PAUSE = 0.5

# By how much the rates of two clocks may differ.
DRIFT = 1e-3

# A slot is granted ahead of its time by the quickest round trip times the first, plus the second,
# seconds, so that the answer arrives in time.
AHEAD_FACTOR, AHEAD_MORE = 1.1, 0.01

# The quickest round trip is forgotten slowly: by this factor with each exchange.
TRIP_GROWTH = 1.02

# No message leaves earlier than this ahead of its time, seconds.
MOST_EARLY = 0.25

# Pause before asking again, seconds: a home that grants a part has others to serve in between.
NEXT_TURN = 0.001

WHY_LOST = {
    "empty": "it was empty",
    "restarted": "its server was restarted, or another one took over",
    "older": "its server has an old copy",
    "terms": "it was kept for another quota that is no longer used",
    "format": "it was kept by another version of stable_async that is no longer used",
}


class UnreachableError(Exception):
    """An exchange failed and may succeed later."""


class Service(Protocol):
    """The service that holds the state.

    Attributes:
        where: Its address, without secrets.
    """

    where: str

    async def connect(self) -> None:
        """Connect, unless it is connected.

        Raises:
            UnreachableError: The service cannot be reached now.
            ConfigurationError: Retrying is useless.
        """

    async def exchange(self, message: Message) -> Answer:
        """Send a message and return the answer.

        Raises:
            UnreachableError: There is no answer; the message may have arrived.
            ConfigurationError: Retrying is useless.
        """

    async def aclose(self) -> None:
        """Disconnect; does nothing when not connected."""


class RemoteHome:
    """The quota as one event loop sees it; a `Service` holds the state."""

    def __init__(self, quota: Quota, service: Service) -> None:
        """Prepare; `open` connects."""
        self._quota = quota
        self._service = service
        self._process = f"{socket.gethostname()}.{os.getpid()}.{secrets.token_hex(4)}"
        self._terms = Terms(
            requests=quota.requests,
            window=quota.window,
            penalty=quota.penalty,
            jitter=quota.jitter,
            adaptive=quota.adaptive,
            lease=LEASE,
        )
        self._most_wanted = quota.burst or quota.requests
        self._waiters: Waiters | None = None
        self._task: asyncio.Task[None] | None = None
        self._news = asyncio.Event()
        self._error: StabilityError | None = None
        self._failing_since: float | None = None
        self._forget()

    def _forget(self) -> None:
        """Start over as an unknown process."""
        self._seq = 0
        # Slots granted and unused; slots held by callers; slots sent and not reported.
        self._hand: deque[tuple[float, Slot]] = deque()
        self._out: dict[int, Slot] = {}
        self._sent: list[tuple[int, float]] = []
        self._refusals: list[tuple[int, float, float | None, Slot | None]] = []
        self._refused = 0
        self._delays = DelayHistory()
        # When the latest answered message was sent, and when its answer arrived.
        self._confirmed = self._heard_at = -inf
        self._answer: Answer = {}
        self._trip = inf
        self._unmet = (0, 0)
        self._come_at = self._report_at = inf
        self._penalty_ends = -inf

    async def open(self, waiters: Waiters) -> None:
        """Connect and start the exchange.

        If the home cannot be reached, a warning is logged, and requests wait until it can.

        Raises:
            ConfigurationError: The home refuses, and will continue to.
        """
        if self._task is not None:
            return
        self._forget()
        self._waiters, self._error = waiters, None
        try:
            await self._exchange((0, 0))
        except UnreachableError as error:
            self._note_failure(error)
        except BaseException:
            await self._service.aclose()
            raise
        self._task = asyncio.get_running_loop().create_task(self._talk())

    async def aclose(self) -> None:
        """Send the rest, and disconnect; does nothing when closed.

        Slots held by callers count as sent when their lease ends.
        """
        task, self._task = self._task, None
        if task is None:
            return
        task.cancel()
        try:
            await asyncio.wait({task})
            self._hand.clear()
            if self._error is None and self._failing_since is None:
                with suppress(UnreachableError, StabilityError):
                    await self._exchange((0, 0), leaving=True)
        finally:
            self._error = self._error or ConfigurationError("the home of this quota was closed")
            await self._service.aclose()

    def reserve(self, now: float, *, bulk: bool = False) -> Slot | float:
        """Return a slot in hand, the time from which it may be used, or infinity: `wake` will be
        called.
        """
        if self._error is not None:
            raise self._error
        self._drop_expired(now)
        if now < self._penalty_ends:
            self._give_back(now)
            return self._penalty_ends
        if self._hand:
            not_before, slot = self._hand[0]
            if not_before > now:
                return not_before
            self._hand.popleft()
            self._out[slot.number] = slot
            return slot
        wanted = self._wanted()
        if any(want and not unmet for want, unmet in zip(wanted, self._unmet, strict=True)):
            self._come_at = -inf
        self._news.set()
        return inf

    def mark_sent(self, slot: Slot, now: float) -> bool:
        """Count the request of a slot as sent now; return `False` if the slot has expired."""
        if self._out.pop(slot.number, None) is not slot:
            return False
        if now > self._confirmed + LEASE - GUARD:
            return False  # others may already use it
        slot.left = now
        self._sent.append((slot.number, now))
        self._report_by(now + REPORT_WITHIN)
        return True

    def release(self, slot: Slot, now: float) -> None:
        """Return a slot: its request never left."""
        if self._out.pop(slot.number, None) is slot:
            self._report_by(now + REPORT_WITHIN)

    def penalise(self, now: float, retry_after: float | None, slot: Slot | None) -> None:
        """Begin a penalty for all processes, of `retry_after` seconds or the quota's own length."""
        self._refused += 1
        retry_after = None if retry_after is None else bounded_penalty(retry_after)
        self._refusals.append((self._refused, now, retry_after, slot))
        length = self._quota.penalty if retry_after is None else retry_after
        self._penalty_ends = max(self._penalty_ends, now + length)
        self._give_back(now)
        self._report_by(now)

    def observe(self, now: float, delay: float, *, set_up: bool = False) -> None:
        """Add a measured delay, seconds; it is sent with the next message."""
        if self._quota.adaptive:
            self._delays.add(now, delay, set_up=set_up)

    def earliest(self, now: float, ahead: int = 0) -> float:
        """Return the time from which a request with `ahead` others before it might leave."""
        if self._hand and ahead < len(self._hand):
            return max(self._hand[ahead][0], now)
        answer = self._answer
        if not answer:
            return now + ahead // self._quota.requests * self._quota.window
        start = max(self._heard_at + answer["next"], self._penalty_ends, now)
        free = answer["requests"] - answer["in_window"]
        if start == now and ahead < free:
            return now
        return start + ahead * answer["interval"]

    def snapshot(self, now: float) -> Snapshot:
        """Return the figures of all processes, as of the latest answer."""
        answer = self._answer
        return Snapshot(
            open=answer.get("open", 0),
            in_window=answer.get("in_window", 0),
            requests=answer.get("requests", self._quota.requests),
            share=answer.get("share", 1.0),
            jitter=answer.get("jitter", self._quota.jitter),
            penalty_left=max(self._penalty_ends - now, 0.0),
            refusals=answer.get("refusals", 0) + len(self._refusals),
        )

    def _wanted(self) -> tuple[int, int]:
        """Return how many slots are wanted besides those in hand: interactive, bulk."""
        if self._waiters is None:
            return 0, 0
        in_hand = len(self._hand)
        interactive = self._waiters.waiting("interactive")
        bulk = self._waiters.waiting("bulk")
        most = max(self._most_wanted - in_hand, 0)
        first = min(max(interactive - in_hand, 0), most)
        return first, min(max(bulk - max(in_hand - interactive, 0), 0), most - first)

    def _give_back(self, now: float) -> None:
        """Return unused slots: the next message does not report them."""
        if self._hand:
            self._hand.clear()
            self._report_by(now)

    def _report_by(self, time: float) -> None:
        if time < self._report_at:
            self._report_at = time
            self._news.set()

    def _drop_expired(self, now: float) -> None:
        """Forget slots once the home may count them as sent."""
        if now > self._confirmed + LEASE - GUARD:
            self._hand.clear()
            self._out.clear()

    async def _talk(self) -> None:
        try:
            pause = PAUSE
            # A library may swallow the cancellation of an exchange that has just ended.
            while self._task is not None:
                wanted = await self._until_due()
                try:
                    await self._exchange(wanted)
                    pause = PAUSE
                except UnreachableError as error:
                    self._note_failure(error)
                    await asyncio.sleep(pause)
                    pause = min(2 * pause, LONGEST_PAUSE)
                self._wake()
        except StabilityError as error:
            self._error = error
        except asyncio.CancelledError:
            if self._task is not None:  # not by `aclose`
                self._error = ConfigurationError(
                    "the exchange with the shared quota was cancelled, as by a program that "
                    "cancels all tasks; close the client, and open it again"
                )
            raise
        except Exception as error:
            logger.exception("the shared quota at %s failed", self._service.where)
            self._error = ConfigurationError(f"the shared quota failed: {type(error).__name__}")
        finally:
            self._wake()

    def _wake(self) -> None:
        if self._waiters is not None:
            self._waiters.wake()

    async def _until_due(self) -> tuple[int, int]:
        """Wait until there is something to send; return the slots wanted then."""
        loop = asyncio.get_running_loop()
        while True:
            self._news.clear()
            wanted = self._wanted()
            due = min(self._report_at, self._come_at) if any(wanted) else self._report_at
            if self._hand or self._out:
                due = min(due, self._confirmed + LEASE / 3)
            now = loop.time()
            if now < self._penalty_ends:
                # The home may lose the penalty, and must be informed again.
                due = min(due, self._confirmed + LEASE)
            if due <= now:
                return wanted
            with suppress(TimeoutError):
                async with asyncio.timeout(None if due == inf else due - now):
                    await self._news.wait()

    async def _exchange(self, wanted: tuple[int, int], *, leaving: bool = False) -> None:
        loop = asyncio.get_running_loop()
        await self._service.connect()
        began = loop.time()
        self._drop_expired(began)
        self._seq += 1
        self._report_at = inf
        reported, refused = len(self._sent), len(self._refusals)
        message = self._message(began, wanted, leaving=leaving)
        try:
            async with asyncio.timeout(PATIENCE):
                answer = await self._service.exchange(message)
        except BaseException as error:
            self._report_by(began)
            if isinstance(error, TimeoutError):
                raise UnreachableError(f"no answer within {PATIENCE:g} s") from None
            raise
        if "refused" in answer:
            raise self._refused_by(answer)
        if "stale" in answer:
            self._report_by(began)
            return
        del self._sent[:reported]
        del self._refusals[:refused]
        self._take(answer, began, loop.time(), wanted)

    def _message(self, now: float, wanted: tuple[int, int], *, leaving: bool) -> Message:
        answer = self._answer
        silence = (now - self._heard_at) * (1 - DRIFT), (now - self._confirmed) * (1 + DRIFT)
        ahead = self._trip * AHEAD_FACTOR + AHEAD_MORE if self._trip < inf else 0.0
        return Message(
            process=self._process,
            seq=self._seq,
            epoch=answer.get("epoch", ""),
            number=answer.get("number", 0),
            clock=[answer["now"], *silence] if answer else [],
            terms=self._terms,
            open=[*self._out, *(slot.number for _, slot in self._hand)],
            sent=[(number, now - left) for number, left in self._sent],
            refusals=[_refusal(now, *refusal) for refusal in self._refusals],
            # One of many processes has few of them, and is far or near all the time.
            delays=self._delays.summary(enough=1),
            want=wanted,
            ahead=ahead,
            penalty_left=max(self._penalty_ends - now, 0.0),
            share=answer.get("share", 1.0),
            leaving=leaving,
        )

    def _take(self, answer: Answer, began: float, now: float, wanted: tuple[int, int]) -> None:
        """Apply the answer to a message that was sent at `began`."""
        self._note_success(now)
        if answer["epoch"] != self._answer.get("epoch"):
            # A process with a slot of another epoch asks for a new one.
            self._hand.clear()
            self._out.clear()
            self._log_lost(answer)
        self._answer = answer
        self._confirmed, self._heard_at = began, now
        # Lua encodes empty tables as objects, which are also empty.
        for number in answer["gone"] or ():
            self._out.pop(number, None)
        void = set(answer["gone"] or ())
        if void:
            self._hand = deque(entry for entry in self._hand if entry[1].number not in void)
        grants = answer["grants"] or ()
        self._hand.extend((now + wait, Slot(number)) for number, wait in grants)
        self._unmet = _unmet(wanted, len(grants))
        self._trip = min(self._trip * TRIP_GROWTH, now - began)
        self._come_at = now + max(answer["again"] - min(self._trip, MOST_EARLY), NEXT_TURN)
        if answer["penalty_left"]:
            # Counted from when the message left, so that it does not grow when reported again.
            self._penalty_ends = max(self._penalty_ends, began + answer["penalty_left"])

    def _log_lost(self, answer: Answer) -> None:
        if "lost" in answer:
            logger.warning(
                "the shared quota at %s starts over because %s: earlier requests are unknown, "
                "and nothing is sent for %.3g s",
                self._service.where,
                WHY_LOST[answer["lost"]],
                answer["hold"],
            )

    def _refused_by(self, answer: Answer) -> ConfigurationError:
        if answer["refused"] == "terms":
            theirs, ours = dict(answer["terms"]), dict(self._terms)
            differences = ", ".join(
                f"{name} {theirs.get(name)!r} there and {ours[name]!r} here"
                for name in ours
                if theirs.get(name) != ours[name]
            )
            return ConfigurationError(
                f"the shared quota at {self._service.where} is used with other terms: "
                f"{differences}; use the same Quota in all processes, or another name"
            )
        if answer["refused"] == "info":
            return ConfigurationError(
                f"the user of the shared quota at {self._service.where} may not run INFO, without "
                "which a restart of the server cannot be detected; allow it, for example by +info"
            )
        return ConfigurationError(
            f"the shared quota at {self._service.where} is used by processes with another version "
            "of stable_async; stop them, and start this one a minute later"
        )

    def _note_failure(self, error: UnreachableError) -> None:
        if self._failing_since is None:
            self._failing_since = asyncio.get_running_loop().time()
            logger.warning(
                "the shared quota at %s cannot be reached (%s); requests wait until it can",
                self._service.where,
                error,
            )

    def _note_success(self, now: float) -> None:
        if self._failing_since is not None:
            logger.warning(
                "the shared quota at %s is reachable again after %.3g s",
                self._service.where,
                now - self._failing_since,
            )
            self._failing_since = None


def _unmet(wanted: tuple[int, int], granted: int) -> tuple[int, int]:
    """Return what is still wanted; interactive requests are served first."""
    interactive, bulk = wanted
    return max(interactive - granted, 0), max(bulk - max(granted - interactive, 0), 0)


def _refusal(
    now: float, index: int, at: float, retry_after: float | None, slot: Slot | None
) -> Refusal:
    refusal = Refusal(index=index, age=now - at, slot=0)
    if slot is not None:
        refusal["slot"] = slot.number
        if slot.left is not None:
            refusal["sent_age"] = now - slot.left
    if retry_after is not None:
        refusal["retry_after"] = retry_after
    return refusal
