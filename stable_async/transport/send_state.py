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


@dataclass(eq=False, slots=True)
class AttemptTrace:
    """One attempt with a permit, as aiohttp's trace signals report it.

    Attributes:
        permit: The permit of this attempt.
        state: That of its call, which is kept up to date.
        expired: The permit was no longer valid when the request was about to leave.
        sent_at: When the request's headers were handed to the connection, seconds of the event
            loop's clock; `None` before.
        connecting_at: When a connection for it began to be set up.
    """

    permit: Permit
    state: SendState
    expired: bool = False
    sent_at: float | None = None
    connecting_at: float = 0.0

    def mark_sent(self) -> None:
        """Mark the permit as sent, right before the first bytes go to the connection.

        Raises:
            ExpiredPermitError: The request must not leave.
        """
        # aiohttp writes in a task of its own, which may run once more after its call was cancelled:
        # an abandoned request must not be sent then.
        if self.state.abandoned or not self.permit.mark_sent():
            self.expired = True
            raise ExpiredPermitError
        self.state.sent = True
        self.sent_at = asyncio.get_running_loop().time()

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
        trace.connecting_at = asyncio.get_running_loop().time()

    async def on_create_end(
        session: aiohttp.ClientSession,
        context: SimpleNamespace,
        params: aiohttp.TraceConnectionCreateEndParams,
    ) -> None:
        trace: AttemptTrace = context.trace_request_ctx
        now = asyncio.get_running_loop().time()
        limiter.observe(now - trace.connecting_at, set_up=True)

    config = aiohttp.TraceConfig()
    config.on_request_headers_sent.append(on_headers_sent)
    config.on_request_chunk_sent.append(on_chunk_sent)
    config.on_connection_create_start.append(on_create_start)
    config.on_connection_create_end.append(on_create_end)
    return config
