"""One request from permit to answer: the quota, the wire, the retries."""

from __future__ import annotations

import asyncio
from contextlib import aclosing, asynccontextmanager
from typing import TYPE_CHECKING, Protocol, Self, TypedDict, Unpack

import aiohttp

from stable_async.api.answers import Answer, read_error
from stable_async.errors import (
    APIConnectionError,
    APIStatusError,
    ConfigurationError,
    RateLimitError,
    WrongEventLoopError,
)
from stable_async.transport.downloads import read_body
from stable_async.transport.retry import make_retrying
from stable_async.transport.translate import harmless_cause, translate
from stable_async.transport.uploads import MultipartPayload, body_of

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Mapping
    from types import SimpleNamespace

    from stable_async.api.base import Request
    from stable_async.config import RetryPolicy, Timeouts
    from stable_async.quota import Permit, Priority, QuotaLimiter

__all__ = ["AttemptObserver", "PermitOptions", "Transport"]

# Answers that are no picture are small; an edge's error page is not worth more than this.
MAX_ERROR_BODY = 64 * 1024
READ_BUFFER = 256 * 1024
# 202: an asynchronous operation was accepted, or is still running.
SUCCESS = frozenset({200, 202})


class PermitOptions(TypedDict, total=False):
    """What a request may ask of the quota.

    Attributes:
        priority: `interactive` requests leave before `bulk` ones.
        deadline: Seconds from now within which the request must leave.
        tenant: Requests of the same priority take turns by tenant.
    """

    priority: Priority
    deadline: float | None
    tenant: str | None


class AttemptObserver(Protocol):
    """Is told of each attempt to send one request."""

    async def leaving(self) -> None:
        """Called when an attempt has its permit, before it is sent; an error here stops it."""

    def refused(self, error: APIStatusError) -> None:
        """Called when an attempt was answered with an error, before another one is made."""


class Transport:
    """Sends requests of one key to one base URL over one pool of connections.

    Attributes:
        limiter: The quota every attempt asks for a permit; `None` when it is switched off.
        timeouts: Time limits of one attempt.
        organization: Whose credits v1 operations use; `None` is the account's default.
    """

    def __init__(
        self,
        *,
        api_key: str,
        base_url: str,
        limiter: QuotaLimiter | None,
        penalty: float,
        retry: RetryPolicy,
        timeouts: Timeouts,
        headers: Mapping[str, str],
        accept: str | None,
        organization: str | None,
    ) -> None:
        """Take the settings; `open` makes the pool.

        `penalty` is the wait, seconds, after a 429 while `limiter` is off and the answer does not
        say. `headers` go with every request; `accept` and `organization` wherever an operation
        takes them.
        """
        self.limiter = limiter
        self.timeouts = timeouts
        self.organization = organization
        self._api_key = api_key
        self._base_url = base_url
        self._penalty = penalty
        # Pictures do not shrink, and an unpacked one would not match its Content-Length.
        self._headers = {
            **headers,
            "Accept-Encoding": "identity",
            "Authorization": f"Bearer {api_key}",
        }
        self._accept = accept
        self._retrying = make_retrying(retry, self._wait_after_refusal)
        self._session: aiohttp.ClientSession | None = None
        self._loop: asyncio.AbstractEventLoop | None = None

    async def open(self) -> Self:
        """Make the pool of connections, in the running event loop."""
        if self._session is not None:
            raise ConfigurationError("the client is open already")
        self._loop = asyncio.get_running_loop()
        self._session = aiohttp.ClientSession(
            # The pool does not bound requests in flight: a permit would be held while one waits.
            connector=aiohttp.TCPConnector(limit=0, ttl_dns_cache=300),
            cookie_jar=aiohttp.DummyCookieJar(),
            headers=self._headers,
            timeout=aiohttp.ClientTimeout(
                total=None,
                sock_connect=self.timeouts.connect,
                sock_read=self.timeouts.first_byte,
            ),
            trace_configs=[_trace(self.limiter)] if self.limiter else [],
            read_bufsize=READ_BUFFER,
        )
        # aiohttp sends a GET once more by itself when the connection breaks: without a permit, and
        # unseen by the quota. It has no public switch for that.
        self._session._retry_connection = False  # noqa: SLF001
        return self

    async def close(self) -> None:
        """Close the pool; harmless when it is closed."""
        session, self._session = self._session, None
        if session is not None:
            await session.close()

    @asynccontextmanager
    async def exchange(
        self,
        request: Request[object],
        *,
        observer: AttemptObserver | None = None,
        **options: Unpack[PermitOptions],
    ) -> AsyncIterator[aiohttp.ClientResponse]:
        """Send `request`, again where that is safe, and give the answer with its body unread.

        Raises:
            InvalidRequestError: A file of the request is missing, empty or too large.
            QuotaTimeoutError: No permit before the deadline; nothing was sent.
            APIStatusError: The API refused it, at the last of the attempts.
            APIConnectionError: No connection, or it broke; `maybe_billed` says what is known.
        """
        if self._session is None:
            raise ConfigurationError("the client is not open: use `async with StabilityClient()`")
        if asyncio.get_running_loop() is not self._loop:
            raise WrongEventLoopError(
                "this client was opened in another event loop; make one client for each loop"
            )
        sending = _Sending(self, self._session, request, options, observer)
        try:
            await sending.open()
            response: aiohttp.ClientResponse = await self._retrying(sending.attempt)
            try:
                yield response
            finally:
                # Gives the connection back when the body was read to its end.
                response.close()
        finally:
            await sending.close()

    def url(self, request: Request[object]) -> str:
        """Give the full URL of a request."""
        return self._base_url + request.path

    def accept(self, request: Request[object]) -> str:
        """Give the `accept` header of a request."""
        offered = request.operation.accept
        if self._accept in offered:
            return self._accept or ""
        return offered[0] if offered else "*/*"

    async def read_error(self, response: aiohttp.ClientResponse, attempts: int) -> APIStatusError:
        """Make the error of an answer; a body that breaks off or never ends is cut."""
        body = bytearray()
        try:
            async with aclosing(read_body(response, self.timeouts.between_bytes)) as chunks:
                async for chunk in chunks:
                    body += chunk
                    if len(body) > MAX_ERROR_BODY:
                        break
        except APIConnectionError:
            pass  # the status is known, and says enough
        finally:
            response.close()  # and so ends an upload that is still going on
        answer = Answer(response.status, response.headers, bytes(body))
        return read_error(answer, key=self._api_key, attempts=attempts)

    def _wait_after_refusal(self, error: RateLimitError) -> float:
        if self.limiter is not None:
            return 0.0  # the limiter holds everybody back, this request among them
        return self._penalty if error.retry_after is None else error.retry_after


class _Sending:
    """All attempts of one request."""

    def __init__(
        self,
        transport: Transport,
        session: aiohttp.ClientSession,
        request: Request[object],
        options: PermitOptions,
        observer: AttemptObserver | None,
    ) -> None:
        self._transport = transport
        self._observer = observer
        self._session = session
        self._options = options
        self._method = request.operation.method
        self._url = transport.url(request)
        self._headers = {"Accept": transport.accept(request)}
        if transport.organization is not None and request.operation.organization:
            self._headers["Organization"] = transport.organization
        self._form = body_of(request)
        if self._form is not None:
            self._headers["Content-Type"] = self._form.content_type
        self._attempts = 0

    async def open(self) -> None:
        if self._form is not None:
            await self._form.open()

    async def close(self) -> None:
        if self._form is not None:
            await self._form.close()

    async def attempt(self) -> aiohttp.ClientResponse:
        self._attempts += 1
        limiter = self._transport.limiter
        if limiter is None:
            return await self._send(None)
        permit = await limiter.acquire(**self._options)
        wire = _Wire(permit)
        try:
            response = await self._send(wire)
        except APIStatusError as error:
            limiter.observe(wire.since_sent())  # refusals are quick: nothing was computed
            if isinstance(error, RateLimitError):
                limiter.penalise(error.retry_after, permit)
            raise
        finally:
            permit.release()  # gives the slot back if the request never came to the wire
        if self._method == "GET":
            limiter.observe(wire.since_sent())
        return response

    async def _send(self, wire: _Wire | None) -> aiohttp.ClientResponse:
        if self._observer is not None:
            await self._observer.leaving()
        body = self._form.payload(self._transport.timeouts.between_bytes) if self._form else None
        try:
            response = await self._session.request(
                self._method,
                self._url,
                data=body,
                headers=self._headers,
                allow_redirects=False,  # the key goes to no other host
                trace_request_ctx=wire,
            )
        except (aiohttp.ClientError, TimeoutError, OSError) as error:
            if isinstance(body, MultipartPayload) and body.failure is not None:
                raise body.failure from None
            broken = translate(error, maybe_billed=wire is None or wire.sent)
            broken.attempts = self._attempts
            raise broken from harmless_cause(error)
        if response.status in SUCCESS:
            return response
        refusal = await self._transport.read_error(response, self._attempts)
        if self._observer is not None:
            self._observer.refused(refusal)
        raise refusal


class _Wire:
    """One sending, as aiohttp's trace signals report it."""

    __slots__ = ("_clock", "_connecting", "_permit", "_sent_at")

    def __init__(self, permit: Permit) -> None:
        self._clock = asyncio.get_running_loop().time
        self._permit = permit
        self._connecting = 0.0
        self._sent_at: float | None = None

    @property
    def sent(self) -> bool:
        """Whether the request's headers were handed to the connection."""
        return self._sent_at is not None

    def since_sent(self) -> float:
        """Seconds since then; 0 if they were not."""
        return 0.0 if self._sent_at is None else self._clock() - self._sent_at

    def headers_sent(self) -> None:
        self._permit.stamp()
        self._sent_at = self._clock()

    def connecting(self) -> None:
        self._connecting = self._clock()

    def connected(self) -> float:
        return self._clock() - self._connecting

    def __deepcopy__(self, memo: object) -> _Wire:
        """Stay one: aioresponses, in users' tests, copies the arguments of each call."""
        return self


def _trace(limiter: QuotaLimiter) -> aiohttp.TraceConfig:
    """Stamp each permit when its request's headers leave; measure what connections take."""

    async def on_headers_sent(
        session: aiohttp.ClientSession,
        context: SimpleNamespace,
        params: aiohttp.TraceRequestHeadersSentParams,
    ) -> None:
        wire: _Wire = context.trace_request_ctx
        wire.headers_sent()

    async def on_create_start(
        session: aiohttp.ClientSession,
        context: SimpleNamespace,
        params: aiohttp.TraceConnectionCreateStartParams,
    ) -> None:
        wire: _Wire = context.trace_request_ctx
        wire.connecting()

    async def on_create_end(
        session: aiohttp.ClientSession,
        context: SimpleNamespace,
        params: aiohttp.TraceConnectionCreateEndParams,
    ) -> None:
        wire: _Wire = context.trace_request_ctx
        limiter.observe(wire.connected())

    trace = aiohttp.TraceConfig()
    trace.on_request_headers_sent.append(on_headers_sent)
    trace.on_connection_create_start.append(on_create_start)
    trace.on_connection_create_end.append(on_create_end)
    return trace
