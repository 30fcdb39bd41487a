"""Whether a request was sent: for a call as a whole, and for each attempt on the wire."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from typing import TYPE_CHECKING

import aiohttp

if TYPE_CHECKING:
    from types import SimpleNamespace

    from stable_async.quota import Permit, QuotaLimiter

__all__ = ["AttemptTrace", "ExpiredPermitError", "SendState", "trace_attempts"]


@dataclass(eq=False, slots=True)
class SendState:
    """Whether the request of a call was sent, so that it may be billed.

    Attributes:
        sent: Its headers are on the wire, and it has not been refused since.
        abandoned: Nobody waits for the call any more, so that it must not be sent (again).
    """

    sent: bool = False
    abandoned: bool = False


class ExpiredPermitError(Exception):
    """A permit expired: its process was stopped for too long, and others reused its slot."""


class AttemptTrace:
    """One attempt with a permit, as aiohttp's trace signals report it.

    Attributes:
        permit: The permit of this attempt.
        expired: The permit was no longer valid when the request was about to leave.
        sent_at: When the request's headers were handed to the connection, seconds of the event
            loop's clock; `None` before.
    """

    __slots__ = ("_clock", "_connecting", "_state", "expired", "permit", "sent_at")

    def __init__(self, permit: Permit, state: SendState) -> None:
        """Trace the attempt of `permit`; `state` is that of its call."""
        self._state = state
        self._clock = asyncio.get_running_loop().time
        self.permit: Permit = permit
        self.expired: bool = False
        self.sent_at: float | None = None
        self._connecting = 0.0

    def since_sent(self) -> float:
        """Return the seconds since the headers were sent; 0 if they were not."""
        return 0.0 if self.sent_at is None else self._clock() - self.sent_at

    def mark_sent(self) -> None:
        """Mark the permit as sent, right before the first bytes go to the connection.

        Raises:
            ExpiredPermitError: The request must not leave.
        """
        # aiohttp writes in a task of its own, which may run once more after its call was cancelled:
        # an abandoned request must not be sent then.
        if self._state.abandoned or not self.permit.mark_sent():
            self.expired = True
            raise ExpiredPermitError
        self._state.sent = True
        self.sent_at = self._clock()

    def connecting(self) -> None:
        """Note that a connection is being set up."""
        self._connecting = self._clock()

    def connected(self) -> float:
        """Return the seconds that the connection took."""
        return self._clock() - self._connecting

    def __deepcopy__(self, memo: object) -> AttemptTrace:
        """Return itself: aioresponses, in users' tests, copies the arguments of each call."""
        return self


def trace_attempts(limiter: QuotaLimiter) -> aiohttp.TraceConfig:
    """Return a trace that marks permits as sent, and measures how long connections take."""

    async def on_headers_sent(
        session: aiohttp.ClientSession,
        context: SimpleNamespace,
        params: aiohttp.TraceRequestHeadersSentParams,
    ) -> None:
        trace: AttemptTrace = context.trace_request_ctx
        if params.method == "GET":
            trace.mark_sent()

    async def on_chunk_sent(
        session: aiohttp.ClientSession,
        context: SimpleNamespace,
        params: aiohttp.TraceRequestChunkSentParams,
    ) -> None:
        # With a body the headers are held back until its first piece, which may be one iteration of
        # the event loop later.
        trace: AttemptTrace = context.trace_request_ctx
        if trace.sent_at is None:
            trace.mark_sent()

    async def on_create_start(
        session: aiohttp.ClientSession,
        context: SimpleNamespace,
        params: aiohttp.TraceConnectionCreateStartParams,
    ) -> None:
        trace: AttemptTrace = context.trace_request_ctx
        trace.connecting()

    async def on_create_end(
        session: aiohttp.ClientSession,
        context: SimpleNamespace,
        params: aiohttp.TraceConnectionCreateEndParams,
    ) -> None:
        trace: AttemptTrace = context.trace_request_ctx
        limiter.observe(trace.connected(), set_up=True)

    config = aiohttp.TraceConfig()
    config.on_request_headers_sent.append(on_headers_sent)
    config.on_request_chunk_sent.append(on_chunk_sent)
    config.on_connection_create_start.append(on_create_start)
    config.on_connection_create_end.append(on_create_end)
    return config
