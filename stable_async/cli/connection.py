"""How every command reaches the API: the one place where clients are made."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Annotated

from cyclopts import Parameter

from stable_async.cli.exit_status import UsageError
from stable_async.cli.options import Flag, reflowed
from stable_async.client import StabilityClient
from stable_async.config import Quota, resolve_base_url
from stable_async.errors import ConfigurationError
from stable_async.quota.shared import SharedQuota
from stable_async.transport.polling import RESULT_TIMEOUT

__all__ = ["Connection", "open_client"]

SANDBOX_KEY = "sandbox"
# The sandbox may be polled more often than every 10 seconds.
SANDBOX_POLL_INTERVAL = 1.0


@Parameter(name="*")
@reflowed
@dataclass(frozen=True, slots=True, kw_only=True)
class Connection:
    """Where requests go. The key comes from STABILITY_API_KEY.

    Attributes:
        base_url: Address of the API. Default: STABILITY_BASE_URL, else https://api.stability.ai.
        no_quota: Do not limit requests to 150 in 10 s. A breach blocks the key for 60 s.
        shared_quota: Home of the quota: a file or redis:// URL. Default: STABILITY_SHARED_QUOTA.
        sandbox: Use a private sandbox on this machine. Needs no key and costs nothing.
    """

    base_url: Annotated[str | None, Parameter(metavar="URL")] = None
    no_quota: Flag = False
    shared_quota: Annotated[str | None, Parameter(metavar="PATH|URL")] = None
    sandbox: Flag = False

    def __post_init__(self) -> None:
        """Reject wrong addresses before anything begins.

        Raises:
            UsageError: One of them is wrong.
        """
        try:
            if self.base_url is not None:
                option = "--base-url"
                resolve_base_url(self.base_url)
            if self.shared_quota is not None:
                option = "--shared-quota"
                SharedQuota.parse(self.shared_quota)
        except ConfigurationError as error:
            raise UsageError(f"{option}: {error}") from None


def chosen_quota(connection: Connection) -> Quota | SharedQuota | None:
    """Return the quota to observe."""
    if connection.no_quota:
        return None
    if connection.shared_quota is not None:
        return SharedQuota.parse(connection.shared_quota)
    # A private sandbox has no other users.
    return Quota(scope="client" if connection.sandbox else "key")


@asynccontextmanager
async def open_client(
    connection: Connection, *, result_timeout: float = RESULT_TIMEOUT
) -> AsyncIterator[StabilityClient]:
    """Open a client, and a sandbox for it with `--sandbox`."""
    quota = chosen_quota(connection)
    if not connection.sandbox:
        async with StabilityClient(
            base_url=connection.base_url, quota=quota, result_timeout=result_timeout
        ) as client:
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
            result_timeout=result_timeout,
        ) as client,
    ):
        yield client
