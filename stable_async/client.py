"""The client: opens and closes the connections, and sends requests under the quota."""

from __future__ import annotations

from collections.abc import AsyncIterable, Iterable
from contextlib import aclosing
from copy import copy
from dataclasses import dataclass
from hashlib import sha256
from typing import TYPE_CHECKING, Generic, Literal, Self, TypeVar, Unpack

from stable_async._version import __version__
from stable_async.api.base import MediaRequest, Request, ResultRequest
from stable_async.arguments import (
    UnfitError,
    at_least,
    checked_arguments,
    checked_setting,
    choice,
    flag,
    or_none,
    printable,
    seconds,
    with_methods,
)
from stable_async.concurrency import map_as_completed
from stable_async.config import (
    Quota,
    RetryPolicy,
    Secret,
    Timeouts,
    resolve_api_key,
    resolve_base_url,
    resolve_poll_interval,
)
from stable_async.errors import (
    ContentFilteredError,
    FieldProblem,
    InvalidRequestError,
    StabilityError,
)
from stable_async.groups import Groups
from stable_async.media import Media
from stable_async.quota import QuotaLimiter, SharedQuota, quota_of
from stable_async.transport import operation
from stable_async.transport.connections import connector_of, resolve_tls
from stable_async.transport.finishing import Finishing, FinishingStream
from stable_async.transport.options import Options, checked_option, read_options
from stable_async.transport.polling import POLL_INTERVAL, RESULT_TIMEOUT, Polling
from stable_async.transport.proxies import resolve_proxy
from stable_async.transport.send_state import SendState
from stable_async.transport.session import Session
from stable_async.transport.telemetry import GuardedTelemetry, Telemetry

if TYPE_CHECKING:
    import os
    from collections.abc import AsyncGenerator, Callable, Coroutine
    from contextlib import AbstractAsyncContextManager
    from ssl import SSLContext

    from aiohttp import ClientSession

    from stable_async.quota import Priority, QuotaStatistics
    from stable_async.transport.options import CallOptions
    from stable_async.transport.streams import MediaStream

__all__ = ["Failure", "Outcome", "StabilityClient", "Success"]

ResultT = TypeVar("ResultT")
MediaT = TypeVar("MediaT", bound=Media)

# OpenAPI document of api.stability.ai, read 2026-09-22.
MAX_IDENTIFICATION_LENGTH = 256


@dataclass(frozen=True, slots=True)
class Success(Generic[ResultT]):
    """A request of a `map` with its result.

    Attributes:
        request: The request, the same object that was passed in.
        result: Its result.
        error: `None`.
    """

    request: Request[ResultT]
    result: ResultT
    error: None = None


@dataclass(frozen=True, slots=True)
class Failure(Generic[ResultT]):
    """A request of a `map` that failed.

    Attributes:
        request: The request, the same object that was passed in.
        error: Why it failed.
        result: `None`.
    """

    request: Request[ResultT]
    error: StabilityError
    result: None = None


# Type checkers narrow it: where `outcome.error is None`, `outcome.result` is a result.
Outcome = Success[ResultT] | Failure[ResultT]
"""The outcome of one request of a `map`: a `Success` or a `Failure`."""


_PRINTABLE = printable(MAX_IDENTIFICATION_LENGTH)


def _hashed(tenant: str) -> str:
    return sha256(tenant.encode()).hexdigest()


def _plain(tenant: str) -> str:
    return checked_option("tenant_ids='plain'", "tenant", tenant, _PRINTABLE)


# By `tenant_ids`, what the API receives as the user's id.
_USER_IDS: dict[str, Callable[[str], str] | None] = {
    "hashed": _hashed,
    "plain": _plain,
    "off": None,
}


_RULES: dict[str, Callable[[object], object]] = {
    "max_in_flight": at_least(1),
    "max_waiting": or_none(at_least(0)),
    "client_id": or_none(_PRINTABLE),
    "client_user_id": or_none(_PRINTABLE),
    "client_version": or_none(_PRINTABLE),
    "organization": or_none(_PRINTABLE),
    "result_timeout": or_none(seconds),
    "accept": or_none(choice("image/*", "application/json")),
    "raise_on_filtered": flag,
    "priority": choice("interactive", "bulk"),
    "tenant_ids": choice(*_USER_IDS),
    "telemetry": or_none(with_methods(Telemetry)),
    "log_prompts": flag,
}


@checked_arguments(_RULES)
class StabilityClient(Groups):
    """An asynchronous client of the Stability AI API for one key.

    Use it as `async with StabilityClient() as client:`, or call `open` and `aclose`, and share it
    between all tasks of the event loop. It has its own connections; its quota is shared by all
    clients of its key and address.
    """

    def __init__(
        self,
        api_key: str | None = None,
        *,
        base_url: str | None = None,
        quota: Quota | SharedQuota | None = Quota(),  # noqa: B008 - frozen
        retry: RetryPolicy | int = RetryPolicy(),  # noqa: B008 - frozen
        timeout: Timeouts | float | None = Timeouts(),  # noqa: B008 - frozen
        max_in_flight: int = 256,
        max_waiting: int | None = None,
        client_id: str | None = None,
        client_user_id: str | None = None,
        client_version: str | None = None,
        organization: str | None = None,
        poll_interval: float | None = None,
        result_timeout: float | None = RESULT_TIMEOUT,
        accept: Literal["image/*", "application/json"] | None = None,
        raise_on_filtered: bool = False,
        priority: Priority = "interactive",
        tenant_ids: Literal["hashed", "plain", "off"] = "hashed",
        telemetry: Telemetry | None = None,
        log_prompts: bool = False,
        proxy: str | Literal[False] | None = None,
        ssl: SSLContext | str | os.PathLike[str] | None = None,
        session: ClientSession | None = None,
    ) -> None:
        """Take the settings; nothing is opened before `open` or `async with`.

        Args:
            api_key: The key; `None` reads `STABILITY_API_KEY`.
            base_url: Address of the API, with any path prefix; `None` reads
                `STABILITY_BASE_URL`, else https://api.stability.ai.
            quota: What the server allows the key. All clients of the same key and address on this
                machine share it, unless its scope is `client`; a `SharedQuota` stores it elsewhere;
                `None` switches the limiter off.
            retry: How 429 and 500 responses are retried: a `RetryPolicy`, or the number of retries.
            timeout: Time limits of one attempt: `Timeouts`, or the total in seconds; `None` means
                no limit.
            max_in_flight: Maximum requests of one `map` in flight at a time. Each result is held
                whole, with about 1.5 MB for an image; `stream` holds less.
            max_waiting: Maximum interactive calls that may wait for the quota at a time; a further
                one raises `QuotaTimeoutError`. `None` means no limit. Bulk calls do not count.
            client_id: Name of your application, sent to the API; up to 256 characters.
            client_user_id: Your user, sent to the API; up to 256 characters.
            client_version: Version of your application, sent to the API; up to 256 characters.
            organization: Organization that pays for v1 operations, such as `org-123456`; `None` is
                the account's default.
            poll_interval: Minimum seconds between two polls for the result of an asynchronous
                operation; `None` reads `STABILITY_POLL_INTERVAL`, else 10, which the API asks for.
                A sandbox accepts less.
            result_timeout: For how long to poll for the result of an asynchronous operation,
                seconds, whatever the polls return; `None` means no limit. The `APITimeoutError`
                raised then carries the generation's id.
            accept: The form of results: `None` and `image/*` ask for bytes, `application/json`
                for base64 in JSON. The results are the same.
            raise_on_filtered: Raise `ContentFilteredError` for a blurred result.
            priority: Priority of calls that name none; a `map` is `bulk` unless it names one.
            tenant_ids: How a call's `tenant` is sent to the API as the user's id, for its abuse
                checks: as its SHA-256 in hexadecimal, unchanged, or not at all.
            telemetry: Receives events of every call, such as `integrations.opentelemetry`'s.
            log_prompts: Include prompts in the log line of each request, at level DEBUG.
            proxy: URL of an HTTP proxy, with any user name and password; `None` reads
                `HTTPS_PROXY`, `ALL_PROXY` and `NO_PROXY`, `False` uses none.
            ssl: A context, which can have a client certificate, or the path of a CA bundle that
                replaces the default certificates; `None` reads `SSL_CERT_FILE` and `SSL_CERT_DIR`.
            session: A session of yours whose connections are used; it is never closed, and its
                cookies, headers, proxies and time limits are not used. Its connector should have
                `limit=0`: a request that waits for a connection holds a permit of the quota.

        Raises:
            ConfigurationError: There is no key, or a setting is invalid.
        """
        identification = {
            "stability-client-id": client_id,
            "stability-client-user-id": client_user_id,
            "stability-client-version": client_version,
        }
        self._max_in_flight = max_in_flight
        self._options = Options(
            timeouts=checked_setting("timeout", timeout, Timeouts.of),
            raise_on_filtered=raise_on_filtered,
        )
        self._finishing = Finishing()
        key, url = resolve_api_key(api_key), resolve_base_url(base_url)
        self._limiter: QuotaLimiter | None = None
        self._shared_quota: SharedQuota | None = None
        if quota is not None:
            kept = quota_of(checked_setting("quota", quota, _quota), key, url)
            self._limiter = QuotaLimiter(kept, max_waiting=max_waiting)
            self._shared_quota = kept if isinstance(kept, SharedQuota) else None
        self._session = Session(
            key=Secret(key),
            base_url=url,
            limiter=self._limiter,
            retry=checked_setting("retry", retry, RetryPolicy.of),
            polling=Polling(
                resolve_poll_interval(poll_interval, POLL_INTERVAL), limit=result_timeout
            ),
            fixed_headers={
                "User-Agent": f"stable_async/{__version__}",
                **{name: text for name, text in identification.items() if text},
            },
            accept=accept,
            organization=organization or None,
            priority=priority,
            telemetry=GuardedTelemetry(telemetry) if telemetry is not None else None,
            user_id=_USER_IDS[tenant_ids],
            log_prompts=log_prompts,
            proxy=resolve_proxy(url, proxy),
            tls=resolve_tls(ssl, environment=url.startswith("https:")) or True,
            connector=connector_of(session) if session is not None else None,
        )

    async def open(self) -> Self:
        """Open the pool of connections in the running event loop, and return this client.

        Raises:
            ConfigurationError: The client is open already, or its shared quota cannot be opened.
        """
        self._session.open()
        if self._limiter is not None:
            try:
                await self._limiter.open()
            except BaseException:
                await self._session.aclose()
                raise
        if self._session.telemetry is not None:
            self._session.telemetry.opened(self.quota_statistics)
        return self

    async def aclose(self) -> None:
        """Wait for the calls that finish without their callers, then close the connections.

        Does nothing when the client is closed. If this is cancelled, those calls are cut.
        """
        try:
            await self._finishing.aclose()
        finally:
            if self._session.telemetry is not None:
                self._session.telemetry.closed(self.quota_statistics)
            await self._session.aclose()
            if self._limiter is not None:
                await self._limiter.aclose()

    async def __aenter__(self) -> Self:
        return await self.open()

    async def __aexit__(self, *exc_info: object) -> None:
        await self.aclose()

    @property
    def base_url(self) -> str:
        """Address of the API, with any path prefix."""
        return self._session.base_url

    @property
    def shared_quota(self) -> SharedQuota | None:
        """The shared quota passed to this client; `None` if it uses that of its key, or none."""
        return self._shared_quota

    def quota_statistics(self) -> QuotaStatistics | None:
        """Return the figures of the quota at this moment; `None` when the limiter is off."""
        return self._limiter.statistics() if self._limiter is not None else None

    def with_options(self, **options: Unpack[CallOptions[object]]) -> Self:
        """Return a client with other defaults for the options of its calls.

        It shares the connections and the quota of this client, and is open while this one is.

        Raises:
            InvalidRequestError: An option is unknown or has the wrong type.
        """
        checked = read_options("with_options", options, self._options)
        other = copy(self)
        other._options = checked  # noqa: SLF001 - of this class
        other.forget_groups()
        return other

    async def send(
        self, request: Request[ResultT], **options: Unpack[CallOptions[ResultT]]
    ) -> ResultT:
        """Send a request of any kind and return its result, held in memory.

        Waits for the result of an asynchronous operation, polling every `poll_interval`. An error
        raised meanwhile carries `generation_id`, with which the result can still be fetched.

        Raises:
            InvalidRequestError: An option is unknown or of the wrong type, or a file of the request
                is missing, too large or of the wrong kind.
            QuotaTimeoutError: It could not leave before `deadline`; it was not sent.
            APIStatusError: The API refused it; 429 and 500 were retried before.
            APIConnectionError: No connection, or it broke; `maybe_billed` says what is known.
            InvalidResponseError: The response is not what the operation returns.
            ContentFilteredError: Only with `raise_on_filtered`.
        """
        return await self._sending(request, self._read(request, options))

    def _sending(
        self, request: Request[ResultT], options: Options
    ) -> Coroutine[object, object, ResultT]:
        """Return the coroutine that sends a request, with what its options add to it."""
        state = SendState()
        sending = operation.send(self._session, request, options, state)
        if (keep := options.keep) is not None:
            sending = self._finishing.send(sending, state, keep)
        return _unfiltered(sending) if options.raise_on_filtered else sending

    def stream(
        self, request: MediaRequest[MediaT], **options: Unpack[CallOptions[MediaT]]
    ) -> AbstractAsyncContextManager[MediaStream[MediaT]]:
        """Send a request and return its result as a stream, without holding it in memory.

        Leaving the block early closes the connection; the result may have been billed.

        Raises:
            StabilityError: As for `send`, but that filtered results are never made an error.
        """
        checked = self._read(request, options, MediaRequest)
        state = SendState()
        if (keep := checked.keep) is None:
            return operation.stream(self._session, request, checked, state)
        opening = operation.stream(self._session, request, checked, state, FinishingStream)
        return self._finishing.stream(opening, state, keep)

    async def submit(
        self, request: MediaRequest[MediaT], **options: Unpack[CallOptions[ResultRequest[MediaT]]]
    ) -> ResultRequest[MediaT]:
        """Start an asynchronous operation and return the request that fetches its result.

        Does not wait for the result. Pass what this returns to `send` or `stream`, in this process
        or another one: it can be pickled, and its `id` alone is enough for `client.results.get`.

        Raises:
            InvalidRequestError: The operation is a synchronous one, or as for `send`.
            InvalidResponseError: The response has no id. Its `result` is the result of the
                operation, if that came in place of the id.
            StabilityError: As for `send`.
        """
        checked = self._read(request, options, MediaRequest)
        state = SendState()
        submitting = operation.submit(self._session, request, checked, state)
        if (keep := checked.keep) is not None:
            submitting = self._finishing.send(submitting, state, keep)
        return await submitting

    async def poll(
        self, request: ResultRequest[MediaT], **options: Unpack[CallOptions[MediaT]]
    ) -> MediaT | None:
        """Look once for the result of a generation; return `None` while it is running.

        Waits first if this client polled for it less than `poll_interval` ago.

        Raises:
            StabilityError: As for `send`, but that filtered results are never made an error.
        """
        checked = self._read(request, options, ResultRequest)
        return await operation.look(self._session, request, checked)

    def map(
        self,
        requests: Iterable[Request[ResultT]] | AsyncIterable[Request[ResultT]],
        *,
        max_in_flight: int | None = None,
        **options: Unpack[CallOptions[ResultT]],
    ) -> AsyncGenerator[Outcome[ResultT], None]:
        """Send many requests, `bulk` by default, and yield their outcomes as they finish.

        `requests` is read no further ahead than `max_in_flight` outcomes not yet consumed, so that
        memory does not grow with their number. Close the generator (`contextlib.aclosing`) to
        cancel the calls in flight.

        Raises:
            InvalidRequestError: An option is unknown or invalid; raised at once.
        """
        checked = read_options("map", options, self._options, ("max_in_flight",))
        if isinstance(requests, Request) or not isinstance(requests, Iterable | AsyncIterable):
            given = f"given a value of type {type(requests).__name__}"
            allowed = "an iterable or asynchronous iterable of requests"
            raise InvalidRequestError("map", [FieldProblem("requests", given, allowed)])
        limit = self._max_in_flight
        if max_in_flight is not None:
            limit = checked_option("map", "max_in_flight", max_in_flight, at_least(1))
        return self._map(requests, limit, checked._replace(priority=checked.priority or "bulk"))

    async def _map(
        self,
        requests: Iterable[Request[ResultT]] | AsyncIterable[Request[ResultT]],
        limit: int,
        options: Options,
    ) -> AsyncGenerator[Outcome[ResultT], None]:
        async def outcome(request: Request[ResultT]) -> Outcome[ResultT]:
            try:
                if not isinstance(request, Request):
                    raise _wrong_kind(request, Request)
                return Success(request, await self._sending(request, options))
            except StabilityError as error:
                return Failure(request, error)

        async with aclosing(map_as_completed(outcome, requests, limit)) as outcomes:
            async for one in outcomes:
                yield one

    def _read(
        self,
        request: Request[object],
        given: CallOptions[ResultT],
        kind: type[Request[object]] = Request,
    ) -> Options:
        """Return the options of a call, after checking that its request is a `kind`."""
        if not isinstance(request, kind):
            raise _wrong_kind(request, kind)
        if not given:
            return self._options
        return read_options(
            type(request).__name__, given, self._options, type(request).model_fields
        )


def _wrong_kind(given: object, kind: type[Request[object]]) -> InvalidRequestError:
    problem = FieldProblem("", f"given a value of type {type(given).__name__}", _KINDS[kind])
    return InvalidRequestError(type(given).__name__, [problem])


_KINDS: dict[type[Request[object]], str] = {
    Request: "a request, such as GenerateCore(prompt=...)",
    MediaRequest: "a request for one image, audio or model",
    ResultRequest: "a ResultRequest, as `submit` returns it",
}


async def _unfiltered(sending: Coroutine[object, object, ResultT]) -> ResultT:
    """Return the result of `sending`, unless the content filter blurred it."""
    result = await sending
    if _is_filtered(result):
        raise ContentFilteredError(result)
    return result


def _is_filtered(result: object) -> bool:
    if isinstance(result, list):
        return any(map(_is_filtered, result))
    return isinstance(result, Media) and result.filtered


def _quota(value: object) -> Quota | SharedQuota:
    if isinstance(value, Quota | SharedQuota):
        return value
    raise UnfitError("a Quota, a SharedQuota, or None")
