"""One call: a request with all its attempts."""

from __future__ import annotations

import asyncio
import logging
from contextlib import aclosing
from dataclasses import replace
from math import inf
from typing import TYPE_CHECKING, Self

import aiohttp

from stable_async.api.answers import Answer, SentSize, read_error
from stable_async.api.parsing import is_json
from stable_async.errors import (
    APIConnectionError,
    APIStatusError,
    ConfigurationError,
    InvalidResponseError,
    QuotaTimeoutError,
    StabilityError,
)
from stable_async.transport.body import read_body
from stable_async.transport.connections import CLOSED
from stable_async.transport.error_mapping import harmless_cause, translate
from stable_async.transport.multipart import MultipartForm, MultipartPayload, body_of
from stable_async.transport.options import ResponseHead
from stable_async.transport.retry import try_again
from stable_async.transport.send_state import AttemptTrace, ExpiredPermitError, SendState
from stable_async.transport.time_limits import TimeLimit, client_timeout
from stable_async.transport.unpacking import unpacked

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Callable
    from types import TracebackType

    from stable_async.api.base import Request
    from stable_async.quota import Permit
    from stable_async.transport.options import Options
    from stable_async.transport.session import Session
    from stable_async.transport.telemetry import CallTelemetry

__all__ = ["Call"]

logger: logging.Logger = logging.getLogger("stable_async")

# Error bodies are small; no more than this is read of a proxy's page.
MAX_ERROR_BODY = 64 * 1024
# Ten v1 images in base64 are a third of it.
MAX_WHOLE = 256 * 1024 * 1024
SUCCESS = range(200, 300)
TOO_MANY_REQUESTS = 429
# How long to wait for the body of a 429, which alone says whether there is a penalty.
PENALTY_BODY_LIMIT = 1.0


class Call:
    """One request with all its attempts: `async with Call(...) as call`.

    Entering sends the request, and retries where that is safe. It then has a successful response
    whose body is unread. Leaving closes it, and returns the connection if the body was read whole.

    Attributes:
        head: The response without its body; set when the call is entered.
        chunks: Its body as it arrives, from `read_body` and `unpacked`; set with `head`.

    Raises:
        InvalidRequestError: A file of the request is missing, empty or too large.
        QuotaTimeoutError: No permit before the deadline; nothing was sent.
        APIStatusError: The API refused it, at the last attempt.
        APIConnectionError: No connection, or it broke; `maybe_billed` says what is known.
    """

    def __init__(
        self,
        session: Session,
        request: Request[object],
        options: Options,
        state: SendState,
    ) -> None:
        """Prepare to send `request` over `session`; `state` is kept up to date."""
        self._session = session
        self._pool = session.pool
        self._clock = asyncio.get_running_loop().time
        self._request = request
        self._state = state
        self._options = options
        self._limits = options.timeouts
        self._priority = options.priority or session.priority
        self._expires = None if options.deadline is None else self._clock() + options.deadline
        self._method = request.operation.method
        self._url = session.base_url + request.path
        self._headers = session.headers(request, options)
        self._body: bytes | MultipartForm | None = None
        if self._method == "POST":
            self._body, self._headers["Content-Type"] = body_of(request)
        self._attempts = 0
        self._ends_at: float | None = None
        self._response: aiohttp.ClientResponse | None = None
        self.head: Answer
        self.chunks: AsyncGenerator[bytes, None]
        self._telemetry: CallTelemetry | None = None
        if session.telemetry is not None:
            self._telemetry = session.telemetry.call(request, self._url, self._priority)

    async def __aenter__(self) -> Self:
        """Send the request and wait for the head of its response."""
        try:
            if isinstance(self._body, MultipartForm):
                await self._body.open()
            try:
                await self._attempt()
            except APIStatusError as error:
                await try_again(
                    self._session.retrying, self._attempt, error, self._options.attempts
                )
        except BaseException as error:
            await self.__aexit__(type(error), error, error.__traceback__)
            raise
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """Close the response and the files of the request."""
        if self._response is not None:
            self._response.close()
        if self._telemetry is not None:
            self._telemetry.ended(error)
        if isinstance(self._body, MultipartForm):
            await self._body.close()

    async def read(self, limit: int = MAX_WHOLE) -> Answer:
        """Return the response with its whole body, up to `limit` bytes.

        Raises:
            APIConnectionError, APITimeoutError, InvalidResponseError: As for `chunks`, or the
                body is larger.
        """
        body = bytearray()
        try:
            async with aclosing(self.chunks) as chunks:
                async for chunk in chunks:
                    body += chunk
                    if len(body) > limit:
                        raise self.head.unreadable(f"a body of more than {limit:,} bytes")
        except APIConnectionError:
            if not is_json(body):  # else only the end of the answer is missing
                raise
        return replace(self.head, body=bytes(body))

    async def _attempt(self) -> None:
        """Make one attempt, and notify observer, telemetry and log."""
        self._attempts += 1
        while True:
            began = self._clock()
            permit = await self._permit(began)
            left_at = self._clock()
            try:
                if self._telemetry is not None:
                    self._telemetry.leaving(self._attempts - 1, left_at - began)
                if self._options.observer is not None:
                    await self._options.observer.leaving()
                await self._exchange(permit)
                if self.head.status not in SUCCESS:
                    raise await self._refusal(permit)
            except BaseException as error:
                self._failed(error, began, left_at)
                if not isinstance(error, ExpiredPermitError):
                    raise
                logger.warning("this process was suspended: asking for another permit")
            else:
                if self._telemetry is not None:
                    self._telemetry.answered(self.head.status, self.head.headers)
                if logger.isEnabledFor(logging.DEBUG):
                    self._log(str(self.head.status), began, left_at)
                return
            finally:
                if permit is not None:
                    permit.release()  # returns the slot if the request was not sent

    async def _permit(self, now: float) -> Permit | None:
        """Wait for the quota; return `None` when it is switched off."""
        if self._state.abandoned:
            raise asyncio.CancelledError
        if self._attempts > 1 and self._expires is not None and now >= self._expires:
            message = f"the deadline passed before attempt {self._attempts}"
            raise QuotaTimeoutError(message, retry_after=0.0)
        if self._session.limiter is None:
            return None
        deadline = None if self._expires is None else max(self._expires - now, 0.0)
        try:
            return await self._session.limiter.acquire(
                priority=self._priority, deadline=deadline, tenant=self._options.tenant
            )
        except ConfigurationError:
            self._check_open()  # says what happened to the client, not to its quota
            raise

    def _check_open(self) -> None:
        if self._pool.closed:
            raise ConfigurationError(f"{CLOSED} while this call waited") from None

    async def _exchange(self, permit: Permit | None) -> None:
        """Write the request and read the head of its response."""
        self._check_open()
        limits, proxy, limiter = self._limits, self._session.proxy, self._session.limiter
        if limits.total is not None:
            self._ends_at = self._clock() + limits.total
        trace = AttemptTrace(permit, self._state) if permit is not None else None
        if trace is None:
            self._state.sent = True
        body = (
            MultipartPayload(self._body, limits.between_bytes)
            if isinstance(self._body, MultipartForm)
            else self._body
        )
        try:
            async with self._time_limit(body):
                response = await self._pool.request(
                    self._method,
                    self._url,
                    data=body,
                    headers=self._headers,
                    allow_redirects=False,  # the key goes to no other host
                    timeout=client_timeout(limits),
                    trace_request_ctx=trace,
                    proxy=proxy.url if proxy is not None else None,
                    proxy_headers=proxy.headers if proxy is not None else None,
                    ssl=self._session.tls,
                )
        except (aiohttp.ClientError, TimeoutError, OSError) as error:
            if trace is not None and trace.expired:
                raise ExpiredPermitError from None
            if isinstance(body, MultipartPayload) and body.failure is not None:
                raise body.failure from body.failure.__cause__
            if self._pool.closed and isinstance(error, aiohttp.ServerDisconnectedError):
                error = aiohttp.ClientConnectionError(CLOSED)
            sent = trace is None or trace.sent_at is not None
            broken = translate(error, sent=sent, asked=self._request.asked)
            broken.attempts = self._attempts
            raise broken from harmless_cause(error)
        self._response = response
        self.head = Answer(
            response.status, response.headers, b"", self._request.asked, self._session.key
        )
        self.chunks = read_body(
            response, self.head, stall_limit=limits.between_bytes, ends_at=self._ends_at
        )
        if "Content-Encoding" in response.headers:
            self.chunks = unpacked(self.chunks, self.head)
        if self._options.on_response is not None:
            self._notify(self._options.on_response, response)
        # Refusals of text requests are as quick as polls: nothing was computed or uploaded.
        quick = body is None or (isinstance(body, bytes) and 400 <= response.status < 500)
        if quick and limiter is not None and trace is not None and trace.sent_at is not None:
            limiter.observe(self._clock() - trace.sent_at)

    @staticmethod
    def _notify(
        on_response: Callable[[ResponseHead], object], response: aiohttp.ClientResponse
    ) -> None:
        try:
            on_response(ResponseHead(response.status, response.headers))
        except Exception:  # the response may be paid for: the caller's mistake must not lose it
            logger.exception("on_response raised an error")

    def _time_limit(self, body: bytes | MultipartPayload | None) -> TimeLimit:
        """Limit the time to the response's head, however its bytes arrive, once the body is
        sent.
        """
        limits = self._limits
        if limits.first_byte is None or limits.connect is None:
            return TimeLimit(limits.total)
        seconds = limits.first_byte
        if not isinstance(body, MultipartPayload):
            return TimeLimit(min(limits.connect + seconds, limits.total or inf))
        limit = TimeLimit(limits.total)

        def on_written() -> None:
            left = inf if self._ends_at is None else self._ends_at - self._clock()
            limit.restart(min(seconds, left))

        body.on_written = on_written
        return limit

    async def _refusal(self, permit: Permit | None) -> APIStatusError:
        """Return the error of the response; a body that breaks off or never ends is cut."""
        body = bytearray()
        # Meanwhile others with this key go on sending, which would prolong a penalty.
        patience = PENALTY_BODY_LIMIT if self.head.status == TOO_MANY_REQUESTS else None
        try:
            async with asyncio.timeout(patience):
                async with aclosing(self.chunks) as chunks:
                    async for chunk in chunks:
                        body += chunk
                        if len(body) > MAX_ERROR_BODY:
                            break
        except (APIConnectionError, InvalidResponseError, TimeoutError):
            pass  # the status is known, and is enough
        finally:
            if self._response is not None:
                self._response.close()  # which also ends an upload in progress
        sent = self._body.size if isinstance(self._body, MultipartForm) else len(self._body or b"")
        size = SentSize(sent, self._request.operation.max_bytes) if sent else None
        refusal = read_error(
            replace(self.head, body=bytes(body)),
            attempts=self._attempts,
            address=self._url,
            size=size,
        )
        if refusal.verdict.penalty and self._session.limiter is not None:
            self._session.limiter.penalise(refusal.retry_after, permit)
        if self._options.observer is not None:
            self._options.observer.refused(refusal)
        return refusal

    def _failed(self, error: BaseException, began: float, left_at: float) -> None:
        """Record that an attempt has failed."""
        if isinstance(error, APIStatusError) and not error.maybe_billed:
            self._state.sent = False
        if self._telemetry is not None:
            self._telemetry.failed(error)
        if isinstance(error, StabilityError):
            self._log(type(error).__name__, began, left_at)

    def _log(self, outcome: str, began: float, left_at: float) -> None:
        logger.debug(
            "%s: %s in %.3f s, attempt %d, waited %.3f s for the quota%s",
            self._request.operation.id,
            outcome,
            self._clock() - left_at,
            self._attempts,
            left_at - began,
            f", prompt {getattr(self._request, 'prompt', None)!r}"
            if self._session.log_prompts
            else "",
        )
