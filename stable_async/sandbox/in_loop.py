"""The sandbox in the running event loop."""

from __future__ import annotations

import asyncio
import signal
from typing import TYPE_CHECKING

from stable_async.sandbox.settings import SandboxSettings

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from types import TracebackType
    from typing import Self, Unpack

    from stable_async.sandbox.account import Account
    from stable_async.sandbox.answers import Drop
    from stable_async.sandbox.billing import Charges
    from stable_async.sandbox.faults import Predicate
    from stable_async.sandbox.request_log import RequestLog, Statistics
    from stable_async.sandbox.server import Server
    from stable_async.sandbox.settings import SandboxOptions

__all__ = ["Sandbox", "serve", "serve_until_signal"]

EXTRA = {"PIL", "python_multipart", "tinytag", "yaml"}


class Sandbox:
    """The API on 127.0.0.1, in the running event loop, as an async context manager.

    Faults, log, bill, clock and statistics may be used from any thread.
    """

    def __init__(
        self, settings: SandboxSettings | None = None, **options: Unpack[SandboxOptions]
    ) -> None:
        """Take a settings object, or single settings as keyword arguments.

        Raises:
            TypeError: Both were given, or an unknown setting.
            ValueError: A setting is invalid.
        """
        if settings is not None and options:
            raise TypeError("pass settings, or single settings as keywords, not both")
        self.settings: SandboxSettings = settings or SandboxSettings(**options)
        self._server: Server | None = None

    async def __aenter__(self) -> Self:
        """Start listening.

        Raises:
            ImportError: The extra `[sandbox]` is not installed.
            OSError: The port is taken, or the facts file cannot be read.
            ValueError: A setting names something that does not exist.
        """
        try:
            from stable_async.sandbox.server import Server
        except ModuleNotFoundError as error:
            if (error.name or "").partition(".")[0] not in EXTRA:
                raise
            raise ImportError(
                f"the sandbox needs {error.name}, which comes with the extra [sandbox]: "
                "pip install -e '.[sandbox]' in a clone"
            ) from error

        server = Server(self.settings)
        await server.start()
        self._server = server
        return self

    async def __aexit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """Close all connections. Log, bill and statistics stay readable."""
        if self._server is not None:
            await self._server.stop()

    @property
    def _started(self) -> Server:
        if self._server is None:
            raise RuntimeError("the sandbox was not started: use `async with Sandbox() as sandbox`")
        return self._server

    @property
    def _account(self) -> Account:
        return self._started.service.account

    @property
    def url(self) -> str:
        """The base URL, without a final slash."""
        return self._started.url

    @property
    def log(self) -> RequestLog:
        """The last requests, oldest first; `log.clear()` removes them."""
        return self._account.log

    @property
    def statistics(self) -> Statistics:
        """Figures since the start or the last reset."""
        return self._account.statistics()

    def charges(
        self, *, key: str | None = None, client_id: str | None = None, user_id: str | None = None
    ) -> Charges:
        """Return the charges, in total or of the callers that match.

        Args:
            key: The API key.
            client_id: The header `stability-client-id`; empty for those without one.
            user_id: The header `stability-client-user-id`; empty for those without one.
        """
        from stable_async.sandbox.service import fingerprint

        known = None if key is None else fingerprint(key)
        return self._account.bill.charges(key=known, client_id=client_id, user_id=user_id)

    def fail_next(
        self,
        status: int,
        times: int = 1,
        *,
        name: str | None = None,
        retry_after: int | None = None,
        operation: str | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> None:
        """Answer the next requests with an error of the API; they are not charged.

        Args:
            status: HTTP status, 400 to 599. A documented one has its documented name and text.
            times: How many requests.
            name: The error's name, if a status has several or none is documented.
            retry_after: Whole seconds for a `Retry-After` header.
            operation: Only requests of the operation with this id, such as `generate_core`.
            headers: Only requests with these headers, such as one caller's.
        """
        self._account.faults.fail_next(
            status,
            times,
            name=name,
            retry_after=retry_after,
            operation=operation,
            headers=headers,
        )

    def edge(
        self,
        kind: str,
        *,
        times: int | None = None,
        seconds: float | None = None,
        rate: float = 1.0,
        operation: str | None = None,
        headers: Mapping[str, str] | None = None,
        charged: bool | None = None,
    ) -> None:
        """Answer requests with an edge fault; see docs/sandbox.md for the kinds.

        Args:
            kind: Such as `firewall`, `cdn_521`, `bad_gateway`, `wrong_label`, `cut_body`.
            times: How many requests; 1 unless `seconds` or `rate` is given.
            seconds: For how long, instead of or besides `times`.
            rate: Share of the requests, above 0 and up to 1.
            operation: Only requests of the operation with this id.
            headers: Only requests with these headers.
            charged: Whether the API did the work before the answer was lost; `None` means the usual
                for the kind.
        """
        self._account.faults.edge(
            kind,
            times=times,
            seconds=seconds,
            rate=rate,
            operation=operation,
            headers=headers,
            charged=charged,
        )

    def unreachable(self, seconds: float) -> None:
        """Refuse all connections for this many seconds; requests being answered are finished."""
        self._started.unreachable(seconds)

    def respond(
        self,
        operation: str | None = None,
        status: int = 200,
        headers: Mapping[str, str] | None = None,
        body: bytes | str | Mapping[str, object] | list[object] = b"",
        times: int | None = 1,
        when: Predicate | None = None,
    ) -> None:
        """Answer with exactly this, even if malformed; nothing is checked or charged.

        Args:
            operation: Only requests of the operation with this id; `None` means all.
            status: HTTP status, 200 to 599.
            headers: Headers of the answer, `content-type` included.
            body: Bytes, text, or a value to send as JSON.
            times: How many requests; `None` means all from now on.
            when: Called with a request's record; returns whether the rule applies to it.
        """
        self._account.faults.respond(operation, status, headers, body, times, when)

    def produce(
        self,
        operation: str | None = None,
        data: bytes | None = None,
        *,
        content_type: str | None = None,
        seed: int | None = None,
        finish_reason: str | None = None,
        times: int | None = 1,
        when: Predicate | None = None,
    ) -> None:
        """Return this as the output of work that is checked and charged like any other.

        Args:
            operation: Only requests of the operation with this id; `None` means all.
            data: The file; `None` renders one.
            content_type: Content type of `data`; `None` means the one that was asked for.
            seed: The seed to report; `None` keeps the request's.
            finish_reason: The finish reason; `None` keeps the usual one.
            times: How many requests; `None` means all from now on.
            when: Called with a request's record; returns whether the rule applies to it.
        """
        self._account.faults.produce(
            operation,
            data,
            content_type=content_type,
            seed=seed,
            finish_reason=finish_reason,
            times=times,
            when=when,
        )

    def keep_running(
        self, looks: int, times: int | None = 1, *, operation: str | None = None
    ) -> None:
        """Answer the first looks at the next asynchronous results with 202.

        Args:
            looks: How many looks at each result.
            times: How many results; `None` means all from now on.
            operation: Only those of the operation with this id.
        """
        self._account.faults.keep_running(looks, times, operation=operation)

    def drop_next(
        self,
        when: Drop = "before_headers",
        times: int = 1,
        *,
        operation: str | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> None:
        """Cut the connection during the next answers to work that was done and charged.

        Args:
            when: `before_headers`, `mid_headers` or `mid_body`.
            times: How many answers.
            operation: Only requests of the operation with this id.
            headers: Only requests with these headers.
        """
        self._account.faults.drop_next(when, times, operation=operation, headers=headers)

    def delay(
        self,
        seconds: float,
        times: int | None = None,
        *,
        operation: str | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> None:
        """Delay answers; replaces a delay that was set before.

        Args:
            seconds: The delay; 0 ends it.
            times: How many answers; `None` means all from now on.
            operation: Only requests of the operation with this id.
            headers: Only requests with these headers.
        """
        self._account.faults.delay(seconds, times, operation=operation, headers=headers)

    def exhaust_credits(self) -> None:
        """Make the balance 0: requests that have a price are answered with 402."""
        self._account.faults.exhaust_credits()

    def penalty(self, seconds: float) -> None:
        """Answer the requests of every key with 429 for this many seconds from now."""
        self._account.penalty(seconds)

    def advance(self, seconds: float) -> None:
        """Move the sandbox's clock forward: work in progress ends, results and penalties expire.

        Raises:
            ValueError: `seconds` is negative or not finite.
        """
        self._started.service.clock.advance(seconds)

    def clear(self) -> None:
        """Remove every fault. The log, the bill, the statistics and the counted quota stay."""
        self._account.clear()

    def reset(self) -> None:
        """Start over: no faults, log, bill, results or counted requests. The clock is kept."""
        self._started.service.reset()


async def serve(
    settings: SandboxSettings, *, on_ready: Callable[[str], None] | None = None
) -> None:
    """Run a sandbox until the task is cancelled.

    Args:
        settings: Its settings.
        on_ready: Called with the URL once it listens.

    Raises:
        OSError: The port is taken.
    """
    async with Sandbox(settings) as sandbox:
        if on_ready is not None:
            on_ready(sandbox.url)
        await asyncio.Event().wait()


async def serve_until_signal(
    settings: SandboxSettings,
    *,
    on_ready: Callable[[str], None],
    or_until: Callable[[Callable[[], object]], None] | None = None,
) -> None:
    """Run a sandbox until SIGINT or SIGTERM.

    Args:
        settings: Its settings.
        on_ready: Called with the URL once it listens.
        or_until: Called with a function that also ends the sandbox.

    Raises:
        OSError: The port is taken.
    """
    task = asyncio.ensure_future(serve(settings, on_ready=on_ready))
    for number in (signal.SIGINT, signal.SIGTERM):
        asyncio.get_running_loop().add_signal_handler(number, task.cancel)
    if or_until is not None:
        or_until(task.cancel)
    await asyncio.wait([task])
    if not task.cancelled():
        task.result()
