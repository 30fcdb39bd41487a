"""The Stability AI API on your own machine, to develop and test applications against.

    async with Sandbox(latency=0.2) as sandbox:
        ...  # point the application at sandbox.url
        assert sandbox.log[-1].fields["prompt"] == "a lighthouse"

It needs the extra `[sandbox]`, which is loaded when a sandbox starts, not before. It shares no
code with the client of this package: what one of them gets wrong, the other can notice. See
docs/sandbox.md for what it imitates and what it does not.
"""

from __future__ import annotations

import asyncio
import signal
from typing import TYPE_CHECKING

from stable_async.sandbox.settings import SandboxOptions, SandboxSettings

if TYPE_CHECKING:
    from collections.abc import Callable
    from types import TracebackType
    from typing import Self, Unpack

    from stable_async.sandbox.faults import Drop
    from stable_async.sandbox.request_log import RequestLog, Statistics
    from stable_async.sandbox.server import Server
    from stable_async.sandbox.service import Service

__all__ = ["Sandbox", "SandboxOptions", "SandboxSettings", "serve", "serve_until_signal"]


class Sandbox:
    """The API on 127.0.0.1, in the running event loop, as an async context manager.

    The switches, the log and the statistics may be used from any thread.
    """

    def __init__(
        self, settings: SandboxSettings | None = None, **options: Unpack[SandboxOptions]
    ) -> None:
        """Take settings, or single ones as keyword arguments.

        Raises:
            TypeError: Both were given, or a setting that does not exist.
            ValueError: A setting that could not work.
        """
        if settings is not None and options:
            raise TypeError("give settings, or single settings as keywords, not both")
        self.settings = settings or SandboxSettings(**options)
        self._server: Server | None = None

    async def __aenter__(self) -> Self:
        """Start to listen.

        Raises:
            OSError: The port is taken.
        """
        from stable_async.sandbox.server import Server

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
        """Close all connections. The log and the statistics stay readable."""
        if self._server is not None:
            await self._server.stop()

    @property
    def _service(self) -> Service:
        if self._server is None:
            raise RuntimeError("the sandbox was not started: use `async with Sandbox() as sandbox`")
        return self._server.service

    @property
    def url(self) -> str:
        """The base URL, without a final slash."""
        self._service  # noqa: B018 - raises when there is none
        return self._server.url if self._server else ""

    @property
    def log(self) -> RequestLog:
        """The last requests, oldest first; `log.clear()` forgets them."""
        return self._service.log

    @property
    def statistics(self) -> Statistics:
        """Figures since the start."""
        return self._service.statistics()

    def fail_next(
        self,
        status: int,
        times: int = 1,
        *,
        name: str | None = None,
        retry_after: float | None = None,
        operation: str | None = None,
    ) -> None:
        """Answer the next requests with an error; they are counted, and not charged.

        Args:
            status: HTTP status, 400 to 599. A documented one has its documented name and text.
            times: How many requests.
            name: The error's name, where a status has several, or none documented.
            retry_after: Seconds for a `Retry-After` header.
            operation: Only requests of the operation with this id, such as `generate_core`.
        """
        self._service.faults.fail_next(
            status, times, name=name, retry_after=retry_after, operation=operation
        )

    def drop_next(self, when: Drop = "before_headers", times: int = 1) -> None:
        """Cut the connection of the next answers to work that was done and charged.

        Args:
            when: `before_headers`, `mid_headers` or `mid_body`.
            times: How many answers.
        """
        self._service.faults.drop_next(when, times)

    def delay(self, seconds: float, times: int | None = None) -> None:
        """Begin the answers later.

        Args:
            seconds: By how much; 0 ends it.
            times: How many answers; `None` means all from now on.
        """
        self._service.faults.delay(seconds, times)

    def exhaust_credits(self) -> None:
        """Make the balance 0: whatever has a price is answered with 402."""
        self._service.faults.exhaust_credits()

    def penalty(self, seconds: float) -> None:
        """Shut every key out for so many seconds from now: all is answered with 429."""
        self._service.penalty(seconds)

    def clear(self) -> None:
        """Take back every switch. The log, the statistics and the counted requests stay."""
        self._service.clear()


async def serve(
    settings: SandboxSettings, *, on_ready: Callable[[str], None] | None = None
) -> None:
    """Run a sandbox until the task is cancelled.

    Args:
        settings: How it behaves.
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
        settings: How it behaves.
        on_ready: Called with the URL once it listens.
        or_until: Is given what ends the sandbox as well.

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
