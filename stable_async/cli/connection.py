"""How every command reaches the API: the one place where clients are made."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

from cyclopts import Parameter

from stable_async.cli.options import Flag
from stable_async.client import StabilityClient
from stable_async.config import Quota
from stable_async.quota.file import SharedQuota

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
            it as well.
        sandbox: Use a sandbox of its own on this machine, which needs no key and costs nothing.
    """

    base_url: str | None = None
    no_quota: Flag = False
    shared_quota: Path | None = None
    sandbox: Flag = False


@asynccontextmanager
async def open_client(
    connection: Connection, *, max_in_flight: int | None = None
) -> AsyncIterator[StabilityClient]:
    """Open a client, and the sandbox it is to use if one is asked for."""
    quota: Quota | SharedQuota | None = None if connection.no_quota else Quota()
    if quota is not None and connection.shared_quota is not None:
        quota = SharedQuota.file(connection.shared_quota)
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
