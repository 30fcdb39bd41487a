"""One request from permit to answer: the quota, the wire, the retries."""

from __future__ import annotations

import asyncio
import logging
from contextlib import aclosing, asynccontextmanager, suppress
from typing import TYPE_CHECKING, Protocol, Self, TypedDict, Unpack

import aiohttp

from stable_async.api.answers import Answer, read_error, read_retry_after
from stable_async.config import Secret
from stable_async.errors import (
    APIConnectionError,
    APIStatusError,
    ConfigurationError,
    RateLimitError,
    StabilityError,
    WrongEventLoopError,
)
from stable_async.transport.error_mapping import harmless_cause, translate
from stable_async.transport.multipart import MultipartPayload, body_of
from stable_async.transport.retry import make_attempts, make_retrying
from stable_async.transport.streams import read_body

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Mapping
    from types import SimpleNamespace

    from stable_async.api.base import Request
    from stable_async.config import RetryPolicy, Timeouts
    from stable_async.quota import Permit, Priority, QuotaLimiter
    from stable_async.transport.telemetry import CallTelemetry, Telemetry

__all__ = ["AttemptObserver", "Departure", "PermitOptions", "Transport"]

logger = logging.getLogger("stable_async")

# Answers that are no picture are small; an edge's error page is not worth more than this.
MAX_ERROR_BODY = 64 * 1024
READ_BUFFER = 256 * 1024
# 202: an asynchronous operation was accepted, or is still running.
SUCCESS = frozenset({200, 202})
TOO_MANY_REQUESTS = 429


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


class Departure:
    """Whether the request of a call has left, so that it may be billed: not while it waits.

    Attributes:
        left: Its headers are on the wire, and it was not refused since.
        abandoned: Nobody waits for it any more: it is not to be sent again.
    """

    __slots__ = ("abandoned", "left")

    def __init__(self) -> None:
        """Begin with a request that has not left."""
        self.left = False
        self.abandoned = False


class _LapsedPermitError(Exception):
    """A permit was held for too long: its process was stopped, and the others went on."""


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
        telemetry: Is told of every call; `None` when nobody wants to know.
        user_id: Gives the id that is sent for a tenant; `None` sends none.
        log_prompts: Log prompts beside what else is logged of a request.
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
        telemetry: Telemetry | None = None,
        user_id: Callable[[str], str] | None = None,
        log_prompts: bool = False,
    ) -> None:
        """Take the settings; `open` makes the pool.

        `penalty` is the wait, seconds, after a 429 while `limiter` is off and the answer does not
        say. `headers` go with every request; `accept` and `organization` wherever an operation
        takes them. `user_id` gives what is sent as a tenant's id.
        """
        self.limiter = limiter
        self.telemetry = telemetry
        self.user_id = user_id
        self.log_prompts = log_prompts
        self.timeouts = timeouts
        self.organization = organization
        self._api_key = Secret(api_key)
        self._base_url = base_url
        self._penalty = penalty
        # Pictures do not shrink, and an unpacked one would not match its Content-Length.
        self._headers = {
            **headers,
            "Accept-Encoding": "identity",
            "Authorization": Secret(f"Bearer {api_key}"),
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
                # The pool has no queue, so that this is the look-up of the name, TCP and TLS.
                connect=self.timeouts.connect,
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
        departure: Departure | None = None,
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
        sending = _Sending(self, self._session, request, options, observer, departure)
        failure: BaseException | None = None
        try:
            await sending.open()
            response = await make_attempts(self._retrying, sending.attempt)
            try:
                yield response
            finally:
                # Gives the connection back when the body was read to its end.
                response.close()
        except BaseException as error:
            failure = error
            raise
        finally:
            await sending.close(failure)

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
        departure: Departure | None,
    ) -> None:
        self._request = request
        self._departure = departure or Departure()
        self._transport = transport
        self._observer = observer
        self._session = session
        self._clock = asyncio.get_running_loop().time
        self._options = options
        deadline = options.get("deadline")
        self._expires = None if deadline is None else self._clock() + deadline
        self._method = request.operation.method
        self._url = transport.url(request)
        self._headers = {"Accept": transport.accept(request)}
        if transport.organization is not None and request.operation.organization:
            self._headers["Organization"] = transport.organization
        if transport.user_id is not None and (tenant := options.get("tenant")) is not None:
            self._headers["stability-client-user-id"] = transport.user_id(tenant)
        self._form = body_of(request)
        if self._form is not None:
            self._headers["Content-Type"] = self._form.content_type
        self._attempts = 0
        self._telemetry: CallTelemetry | None = None
        if transport.telemetry is not None:
            priority = options.get("priority", "interactive")
            self._telemetry = transport.telemetry.call(request, self._url, priority)

    async def open(self) -> None:
        if self._form is not None:
            await self._form.open()

    async def close(self, failure: BaseException | None) -> None:
        if self._telemetry is not None:
            self._telemetry.ended(failure)
        if self._form is not None:
            await self._form.close()

    async def attempt(self) -> aiohttp.ClientResponse:
        self._attempts += 1
        while True:
            try:
                return await self._attempt()
            except _LapsedPermitError:
                logger.warning("this process was stopped: asking for another permit")

    async def _attempt(self) -> aiohttp.ClientResponse:
        if self._departure.abandoned:
            raise asyncio.CancelledError
        limiter = self._transport.limiter
        began = self._clock()
        if limiter is None:
            self._departure.left = True
            return await self._observed(None, 0.0)
        permit = await limiter.acquire(**self._remaining())
        if self._session.closed:
            permit.release()
            raise ConfigurationError("the client was closed while this call waited")
        wire = _Wire(permit, self._departure)
        try:
            response = await self._observed(wire, self._clock() - began)
        finally:
            permit.release()  # gives the slot back if the request never came to the wire
        return response

    def _patience(self, body: bytes | MultipartPayload | None) -> asyncio.Timeout:
        """Limit the time to an answer's head, however its bytes come, once the body is sent."""
        limits = self._transport.timeouts
        if limits.first_byte is None or limits.connect is None:
            return asyncio.timeout(None)
        if not isinstance(body, MultipartPayload):
            return asyncio.timeout(limits.connect + limits.first_byte)
        patience, seconds = asyncio.timeout(None), limits.first_byte

        def on_written() -> None:
            with suppress(RuntimeError):  # the answer came first
                patience.reschedule(self._clock() + seconds)

        body.on_written = on_written
        return patience

    def _report(self, limiter: QuotaLimiter, response: aiohttp.ClientResponse, wire: _Wire) -> None:
        """Tell the limiter what the head of an answer says."""
        if response.status == TOO_MANY_REQUESTS:
            limiter.penalise(read_retry_after(response.headers), wire.permit)
        # Refusals of texts are as quick as looks at results: nothing was computed or uploaded.
        refused = 400 <= response.status < 500 and not any(self._request.files())
        if refused or self._method == "GET":
            limiter.observe(wire.since_sent())

    def _remaining(self) -> PermitOptions:
        """Give the options with what is left of the deadline."""
        if self._expires is None:
            return self._options
        return {**self._options, "deadline": max(self._expires - self._clock(), 0.0)}

    async def _observed(self, wire: _Wire | None, waited: float) -> aiohttp.ClientResponse:
        """Send, and tell of it whoever wants to know."""
        if self._telemetry is not None:
            self._telemetry.leaving(self._attempts - 1, waited)
        sent_at = self._clock()
        try:
            response = await self._send(wire)
        except BaseException as error:
            if isinstance(error, APIStatusError) and not error.maybe_billed:
                self._departure.left = False
            if self._telemetry is not None:
                self._telemetry.failed(error)
            if isinstance(error, StabilityError):
                self._log(type(error).__name__, waited, self._clock() - sent_at)
            raise
        if self._telemetry is not None:
            self._telemetry.answered(response.status, response.headers)
        self._log(str(response.status), waited, self._clock() - sent_at)
        return response

    def _log(self, outcome: str, waited: float, seconds: float) -> None:
        if not logger.isEnabledFor(logging.DEBUG):
            return
        logger.debug(
            "%s: %s in %.3f s, attempt %d, waited %.3f s for the quota%s",
            self._request.operation.id,
            outcome,
            seconds,
            self._attempts,
            waited,
            f", prompt {getattr(self._request, 'prompt', None)!r}"
            if self._transport.log_prompts
            else "",
        )

    async def _send(self, wire: _Wire | None) -> aiohttp.ClientResponse:
        if self._observer is not None:
            await self._observer.leaving()
        body = self._form.payload(self._transport.timeouts.between_bytes) if self._form else None
        try:
            async with self._patience(body):
                response = await self._session.request(
                    self._method,
                    self._url,
                    data=body,
                    headers=self._headers,
                    allow_redirects=False,  # the key goes to no other host
                    trace_request_ctx=wire,
                )
        except (aiohttp.ClientError, TimeoutError, OSError) as error:
            if wire is not None and wire.lapsed:
                raise _LapsedPermitError from None
            if isinstance(body, MultipartPayload) and body.failure is not None:
                raise body.failure from None
            broken = translate(error, maybe_billed=wire is None or wire.sent)
            broken.attempts = self._attempts
            raise broken from harmless_cause(error)
        if wire is not None and self._transport.limiter is not None:
            self._report(self._transport.limiter, response, wire)
        if response.status in SUCCESS:
            return response
        refusal = await self._transport.read_error(response, self._attempts)
        if self._observer is not None:
            self._observer.refused(refusal)
        raise refusal


class _Wire:
    """One sending, as aiohttp's trace signals report it."""

    __slots__ = ("_clock", "_connecting", "_departure", "_sent_at", "lapsed", "permit")

    def __init__(self, permit: Permit, departure: Departure) -> None:
        self._departure = departure
        self._clock = asyncio.get_running_loop().time
        self.permit = permit
        self.lapsed = False
        self._connecting = 0.0
        self._sent_at: float | None = None

    @property
    def sent(self) -> bool:
        """Whether the request's headers were handed to the connection."""
        return self._sent_at is not None

    def since_sent(self) -> float:
        """Seconds since then; 0 if they were not."""
        return 0.0 if self._sent_at is None else self._clock() - self._sent_at

    def leaving(self) -> None:
        """Stamp the permit, right before the first bytes go to the connection."""
        # aiohttp writes in a task of its own, which may run once more after its call was cancelled:
        # what nobody waits for must not leave then.
        if self._departure.abandoned or not self.permit.stamp():
            self.lapsed = True
            raise _LapsedPermitError
        self._departure.left = True
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
        if params.method == "GET":
            wire.leaving()

    async def on_chunk_sent(
        session: aiohttp.ClientSession,
        context: SimpleNamespace,
        params: aiohttp.TraceRequestChunkSentParams,
    ) -> None:
        # With a body the headers are kept back until its first piece, which may be a turn of the
        # event loop later.
        wire: _Wire = context.trace_request_ctx
        if not wire.sent:
            wire.leaving()

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
        limiter.observe(wire.connected(), set_up=True)

    trace = aiohttp.TraceConfig()
    trace.on_request_headers_sent.append(on_headers_sent)
    trace.on_request_chunk_sent.append(on_chunk_sent)
    trace.on_connection_create_start.append(on_create_start)
    trace.on_connection_create_end.append(on_create_end)
    return trace
