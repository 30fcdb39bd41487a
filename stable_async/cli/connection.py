"""How every command reaches the API: the one place where clients are made."""

import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path

from cyclopts import Parameter

from stable_async.cli.options import Flag
from stable_async.client import StabilityClient
from stable_async.config import Quota, resolve_api_key, resolve_base_url
from stable_async.quota.homes.file import SharedQuota

__all__ = ["Connection", "open_client"]

SANDBOX_KEY = "sandbox"
# The sandbox does not mind being asked for results more often than every 10 seconds.
SANDBOX_POLL_INTERVAL = 1.0


@Parameter(name="*")
@dataclass(frozen=True, slots=True, kw_only=True)
class Connection:
    """Where requests go. The key comes from STABILITY_API_KEY.

    Attributes:
        base_url: The API's address; else STABILITY_BASE_URL, else https://api.stability.ai.
        no_quota: Do not keep to 150 requests in 10 seconds; a breach shuts the key out for 60 s.
        shared_quota: Share the quota with other processes of this machine, by this file; they name
            it as well. By default all commands with the same key and address share one.
        sandbox: Use a sandbox of its own on this machine, which needs no key and costs nothing.
    """

    base_url: str | None = None
    no_quota: Flag = False
    shared_quota: Path | None = None
    sandbox: Flag = False


def quota_of(connection: Connection) -> Quota | SharedQuota | None:
    """Give the quota to keep to.

    What a command sent that has just ended still counts for the server, so that the next command
    has to know of it: they share a file, named by a hash of key and address.
    """
    if connection.no_quota:
        return None
    if connection.shared_quota is not None:
        return SharedQuota.file(connection.shared_quota)
    if connection.sandbox or os.name != "posix":
        return Quota()
    whose = f"{resolve_api_key(None)}\n{resolve_base_url(connection.base_url)}"
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    folder = cache / "stable_async"
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        if not os.access(folder, os.W_OK):
            return Quota()
    except OSError:
        return Quota()  # a machine without a home keeps the quota within each command
    return SharedQuota.file(folder / f"quota-{sha256(whose.encode()).hexdigest()[:16]}")


@asynccontextmanager
async def open_client(
    connection: Connection, *, max_in_flight: int | None = None
) -> AsyncIterator[StabilityClient]:
    """Open a client, and the sandbox it is to use if one is asked for."""
    quota = quota_of(connection)
    if not connection.sandbox:
        async with StabilityClient(base_url=connection.base_url, quota=quota) as client:
            yield client
        return
    from stable_async.sandbox import SandboxSettings
    from stable_async.sandbox.process import start_sandbox

    async with (
        start_sandbox(SandboxSettings()) as sandbox,
        StabilityClient(
            SANDBOX_KEY,
            base_url=sandbox.url,
            quota=quota,
            poll_interval=SANDBOX_POLL_INTERVAL,
        ) as client,
    ):
        yield client
