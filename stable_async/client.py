"""The client: opens and closes the connections, and sends requests under the quota."""

from __future__ import annotations

from contextlib import aclosing, asynccontextmanager
from dataclasses import dataclass
from hashlib import sha256
from typing import TYPE_CHECKING, Generic, Literal, Self, TypeVar, Unpack

from stable_async._version import __version__
from stable_async.concurrency import map_as_completed
from stable_async.config import (
    DOCUMENTED_PENALTY,
    Quota,
    RetryPolicy,
    Timeouts,
    resolve_api_key,
    resolve_base_url,
)
from stable_async.errors import ConfigurationError, ContentFilteredError, StabilityError
from stable_async.groups import Groups
from stable_async.media import Media
from stable_async.quota import QuotaLimiter
from stable_async.quota.homes.file import SharedQuota
from stable_async.transport import operation
from stable_async.transport.finishing import Finishing
from stable_async.transport.polling import POLL_INTERVAL, Polling
from stable_async.transport.send_state import SendState
from stable_async.transport.session import Session

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, AsyncIterable, AsyncIterator, Iterable
    from types import TracebackType

    from stable_async.api.base import MediaRequest, Request, ResultRequest
    from stable_async.quota import Priority, QuotaStatistics
    from stable_async.quota.homes.file import FileBooks
    from stable_async.transport.call import CallOptions
    from stable_async.transport.streams import MediaStream
    from stable_async.transport.telemetry import Telemetry

__all__ = ["Outcome", "StabilityClient"]

ResultT = TypeVar("ResultT")
MediaT = TypeVar("MediaT", bound=Media)

# OpenAPI document of api.stability.ai, read 2026-09-22.
MAX_IDENTIFICATION_LENGTH = 256


@dataclass(frozen=True, slots=True)
class Outcome(Generic[ResultT]):
    """The outcome of one request of a `map`: a result or an error, never both.

    Attributes:
        request: The request, the same object that was passed in.
        result: Its result; `None` when it failed.
        error: Why it failed; `None` when it did not.
    """

    request: Request[ResultT]
    result: ResultT | None
    error: StabilityError | None


class StabilityClient(Groups):
    """An asynchronous client of the Stability AI API for one key.

    Use it as `async with StabilityClient() as client:`, or `open` and `aclose` it, and share it
    between all tasks of the event loop: the connections and the quota are its own.
    """

    def __init__(
        self,
        api_key: str | None = None,
        *,
        base_url: str | None = None,
        quota: Quota | SharedQuota | None = Quota(),  # noqa: B008 - frozen
        retry: RetryPolicy = RetryPolicy(),  # noqa: B008 - frozen
        timeout: Timeouts = Timeouts(),  # noqa: B008 - frozen
        max_in_flight: int = 256,
        max_waiting: int | None = None,
        client_id: str | None = None,
        client_user_id: str | None = None,
        client_version: str | None = None,
        organization: str | None = None,
        poll_interval: float = POLL_INTERVAL,
        accept: Literal["image/*", "application/json"] | None = None,
        raise_on_filtered: bool = False,
        priority: Priority = "interactive",
        tenant_ids: Literal["hashed", "plain", "off"] = "hashed",
        telemetry: Telemetry | None = None,
        log_prompts: bool = False,
    ) -> None:
        """Take the settings; nothing is opened before `open` or `async with`.

        Args:
            api_key: The key; `None` reads `STABILITY_API_KEY`.
            base_url: Address of the API, with any path prefix; `None` reads
                `STABILITY_BASE_URL`, else https://api.stability.ai.
            quota: What the server allows the key; a `SharedQuota` if other processes use the key
                as well; `None` switches the limiter off.
            retry: How often 429 and 500 responses are retried.
            timeout: Time limits of one attempt.
            max_in_flight: The most requests of one `map` in flight at a time.
            max_waiting: The most interactive calls that may wait for the quota at a time; one more
                raises `QuotaTimeoutError`. `None` means no limit. Bulk calls do not count.
            client_id: Name of your application, sent to the API; up to 256 characters.
            client_user_id: Your user, sent to the API; up to 256 characters.
            client_version: Version of your application, sent to the API; up to 256 characters.
            organization: Organization that pays for v1 operations, such as `org-123456`; `None` is
                the account's default.
            poll_interval: Least seconds between two looks at the result of an asynchronous
                operation. The API asks for 10; a sandbox accepts less.
            accept: The form of results: `None` and `image/*` ask for bytes, `application/json`
                for base64 in JSON. The results are the same.
            raise_on_filtered: Raise `ContentFilteredError` for a blurred result.
            priority: Priority of calls that name none; a `map` is `bulk` unless it names one.
            tenant_ids: How a call's `tenant` is sent to the API as the user's id, for its abuse
                checks: as its SHA-256 in hexadecimal, as it is, or not at all.
            telemetry: Receives events of every call, such as `integrations.opentelemetry`'s.
            log_prompts: Log prompts with what is logged of each request at level DEBUG.

        Raises:
            ConfigurationError: There is no key, or a setting makes no sense.
        """
        if max_in_flight < 1:
            raise ConfigurationError(f"max_in_flight is {max_in_flight}; allowed: 1 or more")
        if not 0 <= poll_interval < float("inf"):
            raise ConfigurationError(f"poll_interval is {poll_interval}; allowed: 0 or more")
        identification = {
            "stability-client-id": client_id,
            "stability-client-user-id": client_user_id,
            "stability-client-version": client_version,
        }
        self._max_in_flight = max_in_flight
        self._raise_on_filtered = raise_on_filtered
        self._finishing = Finishing()
        limiter, self._home = _limiter(quota, max_waiting)
        self._session = Session(
            api_key=resolve_api_key(api_key),
            base_url=resolve_base_url(base_url),
            limiter=limiter,
            penalty=DOCUMENTED_PENALTY,
            retry=retry,
            timeouts=timeout,
            polling=Polling(poll_interval),
            headers={
                "User-Agent": f"stable_async/{__version__}",
                **{name: _header(name, text) for name, text in identification.items() if text},
            },
            accept=accept,
            organization=_header("Organization", organization) if organization else None,
            priority=priority,
            telemetry=telemetry,
            user_id={"hashed": _hashed, "plain": _plain, "off": None}[tenant_ids],
            log_prompts=log_prompts,
        )

    async def open(self) -> Self:
        """Open the pool of connections in the running event loop, and return this client.

        Raises:
            ConfigurationError: The client is open already, or its shared quota cannot be opened.
        """
        if self._home is not None:
            self._home.open()
        self._session.open()
        if self._session.telemetry is not None:
            self._session.telemetry.opened(self.quota_statistics)
        return self

    async def aclose(self) -> None:
        """Close the connections, after the calls that finish without their callers.

        Harmless when they are closed. If it is cancelled, those calls are cut.
        """
        try:
            await self._finishing.aclose()
        finally:
            if self._session.telemetry is not None:
                self._session.telemetry.closed(self.quota_statistics)
            await self._session.aclose()
            if self._home is not None:
                self._home.close()

    async def __aenter__(self) -> Self:
        """Open the client."""
        return await self.open()

    async def __aexit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """Close the client."""
        await self.aclose()

    def quota_statistics(self) -> QuotaStatistics | None:
        """Return the figures of the quota at this moment; `None` when the limiter is off."""
        limiter = self._session.limiter
        return limiter.statistics() if limiter is not None else None

    async def send(self, request: Request[ResultT], **options: Unpack[CallOptions]) -> ResultT:
        """Send a request of any kind and return its result, held in memory.

        An asynchronous operation is waited for, with one look every 10 seconds. An error raised
        meanwhile carries `generation_id`, with which the result can still be fetched.

        Raises:
            InvalidRequestError: A file of the request is missing, too large or not what it must be.
            QuotaTimeoutError: It could not leave before `deadline`; it was not sent.
            APIStatusError: The API refused it; 429 and 500 were retried before.
            APIConnectionError: No connection, or it broke; `maybe_billed` says what is known.
            InvalidResponseError: The response is not what the operation returns.
            ContentFilteredError: Only with `raise_on_filtered`.
        """
        raise_on_filtered = options.pop("raise_on_filtered", self._raise_on_filtered)
        state = SendState()
        sending = operation.send(self._session, request, options, state)
        result = await self._finishing.send(sending, state, options)
        if raise_on_filtered and _is_filtered(result):
            raise ContentFilteredError(result)
        return result

    @asynccontextmanager
    async def stream(
        self, request: MediaRequest[MediaT], **options: Unpack[CallOptions]
    ) -> AsyncIterator[MediaStream[MediaT]]:
        """Send a request and return its result as a stream, without holding it in memory.

        Leaving the block early closes the connection; the result may have been billed.

        Raises:
            StabilityError: As for `send`, but that filtered results are never made an error.
        """
        options.pop("raise_on_filtered", None)
        state = SendState()
        opening = operation.stream(self._session, request, options, state)
        async with self._finishing.stream(opening, state, options) as stream:
            yield stream

    async def submit(
        self, request: MediaRequest[MediaT], **options: Unpack[CallOptions]
    ) -> ResultRequest[MediaT]:
        """Start an asynchronous operation and return the request that fetches its result.

        It does not wait for the result. `send` and `stream` take what this returns, in this process
        or another one: it can be pickled, and its `id` alone is enough for `client.results.get`.

        Raises:
            InvalidRequestError: The operation is a synchronous one, or as for `send`.
            StabilityError: As for `send`.
        """
        options.pop("raise_on_filtered", None)
        return await operation.submit(self._session, request, options, SendState())

    async def poll(
        self, request: ResultRequest[MediaT], **options: Unpack[CallOptions]
    ) -> MediaT | None:
        """Look once for the result of a generation; return `None` while it is running.

        Waits before it looks if this client last did so less than 10 seconds ago.

        Raises:
            StabilityError: As for `send`, but that filtered results are never made an error.
        """
        options.pop("raise_on_filtered", None)
        return await operation.look(self._session, request, options)

    async def map(
        self,
        requests: Iterable[Request[ResultT]] | AsyncIterable[Request[ResultT]],
        *,
        max_in_flight: int | None = None,
        **options: Unpack[CallOptions],
    ) -> AsyncGenerator[Outcome[ResultT], None]:
        """Send many requests, `bulk` by default, and yield their outcomes as they finish.

        `requests` is read no further ahead than `max_in_flight` outcomes that were not taken yet,
        so that memory does not grow with their number. Close the generator (`contextlib.aclosing`)
        to cancel the calls in flight.
        """
        options.setdefault("priority", "bulk")

        async def outcome(request: Request[ResultT]) -> Outcome[ResultT]:
            try:
                return Outcome(request, await self.send(request, **options), None)
            except StabilityError as error:
                return Outcome(request, None, error)

        limit = self._max_in_flight if max_in_flight is None else max_in_flight
        if limit < 1:
            raise ConfigurationError(f"max_in_flight is {limit}; allowed: 1 or more")
        async with aclosing(map_as_completed(outcome, requests, limit)) as outcomes:
            async for one in outcomes:
                yield one


def _is_filtered(result: object) -> bool:
    if isinstance(result, list):
        return any(map(_is_filtered, result))
    return isinstance(result, Media) and result.filtered


def _limiter(
    quota: Quota | SharedQuota | None, max_waiting: int | None
) -> tuple[QuotaLimiter | None, FileBooks | None]:
    """Return the limiter of `quota`, and the home that is opened and closed with the client."""
    if quota is None:
        return None, None
    if isinstance(quota, SharedQuota):
        home = quota.books()
        return QuotaLimiter(quota.quota, books=home, max_waiting=max_waiting), home
    return QuotaLimiter(quota, max_waiting=max_waiting), None


def _hashed(tenant: str) -> str:
    return sha256(tenant.encode()).hexdigest()


def _plain(tenant: str) -> str:
    return _header("tenant", tenant)


def _header(name: str, text: str) -> str:
    if len(text) > MAX_IDENTIFICATION_LENGTH or not text.isprintable() or not text.isascii():
        raise ConfigurationError(
            f"{name} has {len(text)} characters; allowed: up to {MAX_IDENTIFICATION_LENGTH}, "
            "printable ASCII"
        )
    return text
