"""The client: opens and closes the connections, and sends requests under the quota."""

from __future__ import annotations

from contextlib import AsyncExitStack, aclosing, asynccontextmanager
from dataclasses import dataclass
from functools import partial
from hashlib import sha256
from typing import TYPE_CHECKING, Generic, Literal, Self, TypeVar, Unpack, cast

from stable_async._version import __version__
from stable_async.api.answers import Answer, MediaReader, read_generation_id
from stable_async.api.base import MediaRequest, Request, ResultRequest, WholeRequest
from stable_async.concurrency import map_as_completed
from stable_async.config import (
    DOCUMENTED_PENALTY,
    Quota,
    RetryPolicy,
    Timeouts,
    resolve_api_key,
    resolve_base_url,
)
from stable_async.errors import (
    ConfigurationError,
    ContentFilteredError,
    FieldProblem,
    InvalidRequestError,
    StabilityError,
)
from stable_async.groups import Groups
from stable_async.media import Media
from stable_async.quota import QuotaLimiter
from stable_async.quota.homes.file import SharedQuota
from stable_async.transport.finishing import Finishing
from stable_async.transport.polling import POLL_INTERVAL, Polling, reported_when_cancelled
from stable_async.transport.session import Departure, PermitOptions, Transport
from stable_async.transport.streams import MediaStream, read_body

if TYPE_CHECKING:
    from collections.abc import (
        AsyncGenerator,
        AsyncIterable,
        AsyncIterator,
        Awaitable,
        Callable,
        Iterable,
    )
    from contextlib import AbstractAsyncContextManager
    from types import TracebackType

    from aiohttp import ClientResponse

    from stable_async.groups.base import CallOptions
    from stable_async.quota import Priority, QuotaStatistics
    from stable_async.quota.homes.file import FileBooks
    from stable_async.transport.telemetry import Telemetry

__all__ = ["Outcome", "StabilityClient"]

ResultT = TypeVar("ResultT")
MediaT = TypeVar("MediaT", bound=Media)

# OpenAPI document of api.stability.ai, read 2026-09-22.
MAX_IDENTIFICATION_LENGTH = 256
STILL_RUNNING = 202


@dataclass(frozen=True, slots=True)
class Outcome(Generic[ResultT]):
    """What became of one request of a `map`: a result or an error, never both.

    Attributes:
        request: The request, the same object that was given.
        result: Its result; `None` when it failed.
        error: Why it failed; `None` when it did not.
    """

    request: Request[ResultT]
    result: ResultT | None
    error: StabilityError | None


class StabilityClient(Groups):
    """An asynchronous client of the Stability AI API for one key.

    Use it as `async with StabilityClient() as client:` and share it between all tasks of the
    event loop: the connections and the books of the quota are its own.
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
        """Take the settings; nothing is opened before `async with`.

        Args:
            api_key: The key; `None` takes it from `STABILITY_API_KEY`.
            base_url: Where the API is, a path prefix included; `None` takes it from
                `STABILITY_BASE_URL`, else https://api.stability.ai.
            quota: What the server allows the key; a `SharedQuota` if other processes use the key
                as well; `None` switches the limiter off.
            retry: How often 429 and 500 answers are tried again.
            timeout: Time limits of one attempt.
            max_in_flight: The most requests of one `map` that are out at a time.
            max_waiting: The most interactive calls that may wait for the quota at a time; a further
                one gets a `QuotaTimeoutError`. `None` means no limit. Bulk calls are not counted.
            client_id: Name of your application, sent to the API; up to 256 characters.
            client_user_id: Who uses it, sent to the API; up to 256 characters.
            client_version: Its version, sent to the API; up to 256 characters.
            organization: Whose credits v1 operations use, such as `org-123456`; `None` is the
                account's default.
            poll_interval: Least seconds between two looks at the result of an asynchronous
                operation. The API asks for 10; a sandbox does not mind less.
            accept: The form of results: `None` and `image/*` ask for bytes, `application/json`
                for base64 in JSON. The results are the same.
            raise_on_filtered: Raise `ContentFilteredError` for a blurred result.
            priority: Of calls that name none; a `map` is `bulk` unless it does.
            tenant_ids: How a call's `tenant` is sent to the API as the user's id, for its abuse
                checks: as its SHA-256 in hexadecimal, as it is, or not at all.
            telemetry: Is told of every call, such as `integrations.opentelemetry.Telemetry`.
            log_prompts: Log prompts beside what is logged of each request at level DEBUG.

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
        self._polling = Polling(poll_interval)
        self._raise_on_filtered = raise_on_filtered
        self._priority = priority
        self._finishing = Finishing()
        limiter, self._books = _limiter(quota, max_waiting)
        self._transport = Transport(
            api_key=resolve_api_key(api_key),
            base_url=resolve_base_url(base_url),
            limiter=limiter,
            penalty=DOCUMENTED_PENALTY,
            retry=retry,
            timeouts=timeout,
            headers={
                "User-Agent": f"stable_async/{__version__}",
                **{name: _header(name, text) for name, text in identification.items() if text},
            },
            accept=accept,
            organization=_header("Organization", organization) if organization else None,
            telemetry=telemetry,
            user_id={"hashed": _hashed, "plain": _plain, "off": None}[tenant_ids],
            log_prompts=log_prompts,
        )

    async def __aenter__(self) -> Self:
        """Open the pool of connections in the running event loop."""
        if self._books is not None:
            self._books.open()
        await self._transport.open()
        if self._transport.telemetry is not None:
            self._transport.telemetry.opened(self.quota_statistics)
        return self

    async def __aexit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """Close the connections."""
        await self.aclose()

    async def aclose(self) -> None:
        """Close the connections, after the calls that finish without their callers.

        Harmless when they are closed. If it is cancelled, those calls are cut.
        """
        try:
            await self._finishing.aclose()
        finally:
            if self._transport.telemetry is not None:
                self._transport.telemetry.closed(self.quota_statistics)
            await self._transport.close()
            if self._books is not None:
                self._books.close()

    def quota_statistics(self) -> QuotaStatistics | None:
        """Give what the quota's books say now; `None` when the limiter is off."""
        limiter = self._transport.limiter
        return limiter.statistics() if limiter is not None else None

    async def send(self, request: Request[ResultT], **options: Unpack[CallOptions]) -> ResultT:
        """Send a request of any kind and give its result, held in memory.

        An asynchronous operation is waited for, with one look every 10 seconds. What is raised
        meanwhile carries `generation_id`, with which the result can still be fetched.

        Raises:
            InvalidRequestError: A file of the request is missing, too large or not what it must be.
            QuotaTimeoutError: It could not leave before `deadline`; it was not sent.
            APIStatusError: The API refused it; 429 and 500 were tried again before.
            APIConnectionError: No connection, or it broke; `maybe_billed` says what is known.
            InvalidResponseError: The answer is not what the operation gives.
            ContentFilteredError: Only with `raise_on_filtered`.
        """
        raise_on_filtered = options.pop("raise_on_filtered", self._raise_on_filtered)
        departure = Departure()
        keep = _keep(options)
        sending = self._result(request, options, departure)
        result = await (
            self._finishing.send(sending, departure, keep) if keep is not None else sending
        )
        if raise_on_filtered and _is_filtered(result):
            raise ContentFilteredError(result)
        return cast("ResultT", result)

    @asynccontextmanager
    async def stream(
        self, request: MediaRequest[MediaT], **options: Unpack[CallOptions]
    ) -> AsyncIterator[MediaStream[MediaT]]:
        """Send a request and give its result as it comes, without holding it in memory.

        Leaving the block early closes the connection; the result may have been billed.

        Raises:
            StabilityError: As for `send`, but that filtered results are never made an error.
        """
        options.pop("raise_on_filtered", None)
        departure = Departure()
        keep = _keep(options)
        opening = self._open(request, options, departure)
        async with (
            self._finishing.stream(opening, departure, keep)
            if keep is not None
            else opening as stream
        ):
            yield stream

    @asynccontextmanager
    async def _open(
        self, request: MediaRequest[MediaT], options: CallOptions, departure: Departure
    ) -> AsyncIterator[MediaStream[MediaT]]:
        async with AsyncExitStack() as stack:
            if request.operation.result is not None:
                request = await self._submit(request, options, departure)
                stack.enter_context(reported_when_cancelled(request.id))
            if isinstance(request, ResultRequest):
                open_if_finished = partial(self._open_if_finished, stack, request, options)
                yield await self._polling.until_found(request.id, open_if_finished)
            else:
                exchange = self._exchange(request, options, departure)
                response = await stack.enter_async_context(exchange)
                yield self._media_stream(request, response)

    async def submit(
        self, request: MediaRequest[MediaT], **options: Unpack[CallOptions]
    ) -> ResultRequest[MediaT]:
        """Start an asynchronous operation and give the request that fetches its result.

        Nothing is waited for. `send` and `stream` take what this gives, in this process or another
        one: it can be pickled, and its `id` alone is enough for `client.results.get`.

        Raises:
            InvalidRequestError: The operation is a synchronous one, or as for `send`.
            StabilityError: As for `send`.
        """
        options.pop("raise_on_filtered", None)
        return await self._submit(request, options, Departure())

    async def _submit(
        self, request: MediaRequest[MediaT], options: CallOptions, departure: Departure
    ) -> ResultRequest[MediaT]:
        result = request.operation.result
        if result is None:
            problem = FieldProblem("", "a synchronous operation", "an asynchronous one, or `send`")
            raise InvalidRequestError(type(request).__name__, [problem])
        async with self._exchange(request, options, departure) as response:
            generation = read_generation_id(await self._whole(response))
        self._polling.rest(generation)
        try:
            return cast("ResultRequest[MediaT]", result(id=generation, paid=request.credits))
        except InvalidRequestError as error:
            error.concerns(generation)
            raise

    async def poll(
        self, request: ResultRequest[MediaT], **options: Unpack[CallOptions]
    ) -> MediaT | None:
        """Look once for the result of a generation; `None` while it is still being made.

        Waits before it looks if this client last did so less than 10 seconds ago.

        Raises:
            StabilityError: As for `send`, but that filtered results are never made an error.
        """
        options.pop("raise_on_filtered", None)
        look = partial(self._read_if_finished, request, options)
        return await self._polling.once(request.id, look)

    async def map(
        self,
        requests: Iterable[Request[ResultT]] | AsyncIterable[Request[ResultT]],
        *,
        max_in_flight: int | None = None,
        **options: Unpack[CallOptions],
    ) -> AsyncGenerator[Outcome[ResultT], None]:
        """Send many requests, `bulk` unless told otherwise, and give outcomes as they finish.

        `requests` is read no further ahead than `max_in_flight` outcomes that were not taken yet,
        so that memory does not grow with their number. Close the generator (`contextlib.aclosing`)
        to cancel what is under way.
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

    async def _result(
        self, request: Request[ResultT], options: CallOptions, departure: Departure
    ) -> object:
        if isinstance(request, MediaRequest):
            return await self._media(request, options, departure)
        if isinstance(request, WholeRequest):
            async with self._exchange(request, options, departure) as response:
                return request.read(await self._whole(response))
        raise TypeError(f"{type(request).__name__} is no request")

    def _permit_options(self, options: CallOptions) -> PermitOptions:
        return {
            "priority": options.get("priority", self._priority),
            "deadline": options.get("deadline"),
            "tenant": options.get("tenant"),
        }

    def _exchange(
        self, request: Request[object], options: CallOptions, departure: Departure
    ) -> AbstractAsyncContextManager[ClientResponse]:
        return self._transport.exchange(
            request,
            observer=options.get("observer"),
            departure=departure,
            **self._permit_options(options),
        )

    def _look(
        self, request: ResultRequest[Media], options: CallOptions
    ) -> AbstractAsyncContextManager[ClientResponse]:
        # What is paid for has left: neither its observer nor its deadline are for the polls.
        permit = self._permit_options(options)
        permit["deadline"] = None
        return self._transport.exchange(request, **permit)

    async def _media(
        self, request: MediaRequest[MediaT], options: CallOptions, departure: Departure
    ) -> MediaT:
        if request.operation.result is not None:
            request = await self._submit(request, options, departure)
            with reported_when_cancelled(request.id):
                return await self._media(request, options, departure)
        if isinstance(request, ResultRequest):
            look = partial(self._read_if_finished, request, options)
            return await self._polling.until_found(request.id, look)
        async with self._exchange(request, options, departure) as response:
            return await self._media_stream(request, response).read()

    async def _read_if_finished(
        self, request: ResultRequest[MediaT], options: CallOptions
    ) -> MediaT | None:
        async with self._look(request, options) as response:
            if response.status == STILL_RUNNING:
                return None
            return await self._media_stream(request, response).read()

    async def _open_if_finished(
        self, stack: AsyncExitStack, request: ResultRequest[MediaT], options: CallOptions
    ) -> MediaStream[MediaT] | None:
        async with AsyncExitStack() as look:
            response = await look.enter_async_context(self._look(request, options))
            if response.status == STILL_RUNNING:
                return None
            stream = self._media_stream(request, response)
            stack.push_async_exit(look.pop_all())
            return stream

    def _media_stream(
        self, request: MediaRequest[MediaT], response: ClientResponse
    ) -> MediaStream[MediaT]:
        reader = MediaReader(
            cast("type[MediaT]", request.media), Answer(response.status, response.headers)
        )
        return MediaStream(
            response,
            reader,
            credits=request.paid if isinstance(request, ResultRequest) else request.credits,
            generation_id=request.id if isinstance(request, ResultRequest) else None,
            stall_limit=self._transport.timeouts.between_bytes,
        )

    async def _whole(self, response: ClientResponse) -> Answer:
        chunks = read_body(response, self._transport.timeouts.between_bytes)
        body = b"".join([chunk async for chunk in chunks])
        return Answer(response.status, response.headers, body)


def _is_filtered(result: object) -> bool:
    if isinstance(result, list):
        return any(map(_is_filtered, result))
    return isinstance(result, Media) and result.filtered


def _limiter(
    quota: Quota | SharedQuota | None, max_waiting: int | None
) -> tuple[QuotaLimiter | None, FileBooks | None]:
    if quota is None:
        return None, None
    if isinstance(quota, SharedQuota):
        books = quota.books()
        return QuotaLimiter(quota.quota, books=books, max_waiting=max_waiting), books
    return QuotaLimiter(quota, max_waiting=max_waiting), None


def _keep(options: CallOptions) -> Callable[[object], Awaitable[None]] | None:
    """Give who gets the result of a call that is cancelled; `None`: it is cut."""
    if options.get("on_disconnect", "cut") == "cut":
        return None
    keep = options.get("on_finished")
    if keep is None:
        raise ConfigurationError('on_disconnect="finish" needs on_finished, to give the result to')
    return keep


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
