"""A sandbox in the running event loop, in a thread of its own, or until a signal."""

from __future__ import annotations

import asyncio
import signal
from concurrent.futures import Future
from contextlib import contextmanager
from threading import Thread
from typing import TYPE_CHECKING

from stable_async.extras import install_command
from stable_async.sandbox.faults import FaultControls
from stable_async.sandbox.settings import SandboxSettings

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from typing import Self, Unpack

    from stable_async.sandbox.account import Account
    from stable_async.sandbox.billing import Charges
    from stable_async.sandbox.faults import Faults
    from stable_async.sandbox.request_log import RequestLog, Statistics
    from stable_async.sandbox.server import Server
    from stable_async.sandbox.settings import SandboxOptions

__all__ = ["Sandbox", "run_in_thread", "serve_until_signal"]

EXTRA = {"PIL", "python_multipart", "tinytag", "yaml"}


class Sandbox(FaultControls):
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
                f"{install_command('sandbox')}"
            ) from error

        server = Server(self.settings)
        await server.start()
        self._server = server
        return self

    async def __aexit__(self, *exc_info: object) -> None:
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
    def _faults(self) -> Faults:
        return self._account.faults

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

    def unreachable(self, seconds: float) -> None:
        """Refuse all connections for this many seconds; requests being answered are finished."""
        self._started.unreachable(seconds)

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
    ended = asyncio.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        asyncio.get_running_loop().add_signal_handler(number, ended.set)
    if or_until is not None:
        or_until(ended.set)
    async with Sandbox(settings) as sandbox:
        on_ready(sandbox.url)
        await ended.wait()


@contextmanager
def run_in_thread(settings: SandboxSettings) -> Iterator[Sandbox]:
    """Run a sandbox in a thread with an event loop of its own, for synchronous programs.

    Raises:
        ImportError: The extra `[sandbox]` is not installed.
        OSError: The port is taken, or there is no event loop, as with too many open files.
        ValueError: A setting names something that does not exist.
    """
    started: Future[tuple[Sandbox, asyncio.AbstractEventLoop, asyncio.Event]] = Future()

    async def run() -> None:
        stop = asyncio.Event()
        async with Sandbox(settings) as sandbox:
            started.set_result((sandbox, asyncio.get_running_loop(), stop))
            await stop.wait()

    def run_in_loop() -> None:
        try:
            with asyncio.Runner() as runner:
                runner.run(run())
        except BaseException as error:
            if started.done():
                raise
            started.set_exception(error)

    thread = Thread(target=run_in_loop, name="stability-sandbox", daemon=True)
    thread.start()
    sandbox, loop, stop = started.result()
    try:
        yield sandbox
    finally:
        loop.call_soon_threadsafe(stop.set)
        thread.join()
