"""Our time limits in terms of aiohttp."""

from __future__ import annotations

from functools import lru_cache
from typing import TYPE_CHECKING

from aiohttp import ClientTimeout

if TYPE_CHECKING:
    from stable_async.config import Timeouts

__all__ = ["client_timeout"]


@lru_cache(maxsize=64)
def client_timeout(limits: Timeouts) -> ClientTimeout:
    """Return the limits that aiohttp keeps; `between_bytes` is kept by those who read and write."""
    return ClientTimeout(
        total=limits.total,
        # Our pool has no queue, so that this is name resolution, proxy, TCP and TLS.
        connect=limits.connect,
        sock_read=limits.first_byte,
    )
