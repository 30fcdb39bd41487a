"""What all calls of one client share: the connections, the quota and the settings."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from typing import TYPE_CHECKING

import aiohttp

from stable_async.config import DOCUMENTED_PENALTY, Secret
from stable_async.errors import ConfigurationError, WrongEventLoopError
from stable_async.transport.connections import CLOSED_SESSION, make_connector
from stable_async.transport.retry import make_retrying
from stable_async.transport.send_state import trace_attempts

if TYPE_CHECKING:
    from collections.abc import Callable
    from ssl import SSLContext

    from tenacity import AsyncRetrying

    from stable_async.api.base import Request
    from stable_async.config import RetryPolicy
    from stable_async.errors import APIStatusError
    from stable_async.quota import Priority, QuotaLimiter
    from stable_async.transport.options import Options
    from stable_async.transport.polling import Polling
    from stable_async.transport.proxies import Proxy
    from stable_async.transport.telemetry import GuardedTelemetry

__all__ = ["Session"]

READ_BUFFER = 256 * 1024
# Large headers (cookies of many hops, a CDN's reports) must not lose a paid image.
MAX_FIELD = 256 * 1024
MAX_FIELDS = 2_000


@dataclass(eq=False, repr=False, kw_only=True)
class Session:
    """Connections of one key to one base URL, with the settings that hold for every call.

    Attributes:
        key: The API key.
        base_url: Address of the API, with any path prefix.
        limiter: The quota that every attempt needs a permit from; `None` when it is switched off.
        retry: How 429 and 500 responses are retried.
        polling: Spaces the looks at running generations.
        fixed_headers: Headers of every request.
        accept: The form of results, where an operation offers it.
        organization: Sent to the operations that take it.
        priority: The priority of calls that name none.
        telemetry: Receives events of every call; `None` when it is off.
        user_id: Returns the id to send for a tenant; `None` sends none.
        log_prompts: Whether prompts are logged with each request.
        proxy: The proxy to the API; `None` if there is none.
        tls: The context for TLS; True is that of the connector.
        connector: That of a caller's session, which is never closed here.
        retrying: The loop of attempts.
    """

    key: Secret
    base_url: str
    limiter: QuotaLimiter | None
    retry: RetryPolicy
    polling: Polling
    fixed_headers: dict[str, str]
    accept: str | None
    organization: str | None
    priority: Priority
    telemetry: GuardedTelemetry | None
    user_id: Callable[[str], str] | None
    log_prompts: bool
    proxy: Proxy | None
    tls: SSLContext | bool
    connector: aiohttp.BaseConnector | None

    def __post_init__(self) -> None:
        """Complete the settings; `open` creates the pool."""
        self.retrying: AsyncRetrying = make_retrying(self.retry, self._wait_after_penalty)
        # With each request and not in the pool: aiohttp would send a pool's headers to the proxy.
        self.fixed_headers |= {
            # Images do not compress, and a decompressed one would not match its Content-Length.
            "Accept-Encoding": "identity",
            "Authorization": Secret(f"Bearer {self.key}"),
        }
        if self.proxy is not None and self.base_url.startswith("http:"):
            self.fixed_headers |= self.proxy.headers  # without TLS no CONNECT carries them
        self._pool: aiohttp.ClientSession | None = None
        self._loop: asyncio.AbstractEventLoop | None = None

    def open(self) -> None:
        """Create the pool of connections, in the running event loop."""
        if self._pool is not None:
            raise ConfigurationError("the client is open already")
        loop = _running_loop()
        theirs = self.connector
        if theirs is not None and theirs.closed:
            raise ConfigurationError(CLOSED_SESSION)
        if getattr(theirs, "_loop", loop) is not loop:
            raise WrongEventLoopError("session belongs to another event loop")
        self._pool = aiohttp.ClientSession(
            connector=theirs or make_connector(),
            connector_owner=theirs is None,
            cookie_jar=aiohttp.DummyCookieJar(),
            trace_configs=[trace_attempts(self.limiter)] if self.limiter else [],
            read_bufsize=READ_BUFFER,
            auto_decompress=False,  # done within bounds when the body is read
            max_line_size=MAX_FIELD,
            max_field_size=MAX_FIELD,
            max_headers=MAX_FIELDS,
        )
        self._loop = loop
        # aiohttp repeats a GET on its own when the connection breaks: without a permit, and
        # unseen by the quota. It has no public switch for that.
        self._pool._retry_connection = False  # noqa: SLF001

    async def aclose(self) -> None:
        """Close the pool; closing it again does nothing."""
        pool, self._pool = self._pool, None
        if pool is not None:
            await pool.close()

    @property
    def pool(self) -> aiohttp.ClientSession:
        """The open pool.

        Raises:
            ConfigurationError: The client is not open, or the caller's session was closed.
            WrongEventLoopError: It was opened in another event loop.
        """
        if self._pool is None:
            raise ConfigurationError("the client is not open: use `async with StabilityClient()`")
        if _running_loop() is not self._loop:
            raise WrongEventLoopError(
                "this client was opened in another event loop; make one for each loop: "
                "clients of one key and address share the quota"
            )
        if self._pool.closed:
            raise ConfigurationError(CLOSED_SESSION)
        return self._pool

    def headers(self, request: Request[object], options: Options) -> dict[str, str]:
        """Return the headers of a request, without those of its body."""
        operation = request.operation
        offered = operation.accept
        accept = self.accept if self.accept in offered else offered[0] if offered else "*/*"
        headers = {**self.fixed_headers, "Accept": accept or "*/*"}
        if self.organization is not None and operation.organization:
            headers["Organization"] = self.organization
        if self.user_id is not None and options.tenant is not None:
            headers["stability-client-user-id"] = self.user_id(options.tenant)
        if options.extra_headers:
            replaced = {name.lower() for name in options.extra_headers}
            headers = {name: text for name, text in headers.items() if name.lower() not in replaced}
            headers |= options.extra_headers
        return headers

    def _wait_after_penalty(self, error: APIStatusError) -> float:
        if self.limiter is not None:
            return 0.0  # the limiter holds back every request, this one included
        return DOCUMENTED_PENALTY if error.retry_after is None else error.retry_after


def _running_loop() -> asyncio.AbstractEventLoop:
    try:
        return asyncio.get_running_loop()
    except RuntimeError:
        raise ConfigurationError(
            "no asyncio event loop is running: the client works with asyncio, uvloop included, "
            "and not with trio"
        ) from None
