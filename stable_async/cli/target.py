"""Where `doctor` sends its requests, and how: within the quota, through the same proxy."""

import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

import aiohttp

from stable_async.cli.connection import SANDBOX_KEY, Connection, chosen_quota
from stable_async.config import resolve_api_key, resolve_base_url
from stable_async.quota import QuotaLimiter, quota_of
from stable_async.transport.connections import make_connector, resolve_tls
from stable_async.transport.proxies import Proxy, resolve_proxy

if TYPE_CHECKING:
    from stable_async.sandbox.probing.sender import Sender

__all__ = ["Target", "limited", "open_sender", "open_target"]


@dataclass(frozen=True, slots=True)
class Target:
    """Where requests go."""

    url: str
    key: str
    proxy: Proxy | None
    tls: ssl.SSLContext | None


@asynccontextmanager
async def open_target(connection: Connection) -> AsyncIterator[Target]:
    """Resolve key, address, proxy and certificates, and start the sandbox if one is asked for."""
    if not connection.sandbox:
        url = resolve_base_url(connection.base_url)
        key = resolve_api_key(None)
        yield Target(url, key, resolve_proxy(url, None), resolve_tls(None, environment=True))
        return
    from stable_async.sandbox import SandboxSettings
    from stable_async.sandbox.process import start_sandbox

    async with start_sandbox(SandboxSettings()) as sandbox:
        yield Target(sandbox.url, SANDBOX_KEY, None, None)


@asynccontextmanager
async def limited(
    target: Target, connection: Connection
) -> AsyncIterator[tuple[QuotaLimiter | None, object]]:
    """Return the limiter of a target, if any, and the quota that it keeps."""
    quota = chosen_quota(connection)
    if quota is None:
        yield None, None
        return
    kept = quota_of(quota, target.key, target.url)
    limiter = QuotaLimiter(kept)
    try:
        yield limiter, kept
    finally:
        await limiter.aclose()


@asynccontextmanager
async def open_sender(target: Target, limiter: QuotaLimiter | None) -> AsyncIterator["Sender"]:
    """Open what sends probes: within the quota, through the same proxy, with the same trust."""
    from stable_async.sandbox.probing.sender import Sender

    async def permit() -> None:
        if limiter is not None:
            with await limiter.acquire(priority="bulk") as granted:
                granted.mark_sent()

    async with aiohttp.ClientSession(
        connector=make_connector(), cookie_jar=aiohttp.DummyCookieJar()
    ) as session:
        proxy = target.proxy
        yield Sender(
            session,
            target.url,
            target.key,
            permit,
            proxy=proxy.url if proxy else None,
            proxy_headers=proxy.headers if proxy else None,
            tls=target.tls,
        )
