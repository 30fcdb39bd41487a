"""The budget of a job of several parts, in the Redis server that has their quota."""

from __future__ import annotations

import asyncio
import logging
from contextlib import suppress
from typing import TYPE_CHECKING

from redis.exceptions import RedisError

from stable_async.jobs.errors import JobError
from stable_async.quota.homes.redis import clients_of, shown

if TYPE_CHECKING:
    from redis.asyncio import Redis

    from stable_async.jobs.shard import Shard

__all__ = ["RedisBudget"]

logger: logging.Logger = logging.getLogger("stable_async.jobs")

# Each part stores its total, not an increment, so that a repeated message does no harm.
HOLD = """
local before = redis.call('HGET', KEYS[1], ARGV[1])
local others = 0
for _, value in ipairs(redis.call('HVALS', KEYS[1])) do
  others = others + tonumber(value)
end
others = others - tonumber(before or 0)
local fits = others + tonumber(ARGV[3]) <= tonumber(ARGV[4])
redis.call('HSET', KEYS[1], ARGV[1], fits and ARGV[3] or ARGV[2])
return {fits and 1 or 0, before and 1 or 0}
"""
# For how many seconds an unreachable server is retried before the job stops.
PATIENCE = 60.0
PAUSE = 1.0


class RedisBudget:
    """The amount that one part holds of the budget of the whole job.

    Attributes:
        lost: Whether the server has lost the amount that this part held, and so those of the
            others.
    """

    def __init__(self, url: str, job: str, shard: Shard) -> None:
        """Use the budget of the job with this id; `url` is as for `SharedQuota.redis`."""
        self._url = url
        self._key = f"{{stable_async:{job}}}:budget"
        self._part = str(shard)
        self._held = False
        self._client: Redis | None = None
        self.lost: bool = False

    async def hold(self, total: float, limit: float, otherwise: float) -> bool:
        """Hold credits for this part, and return whether all parts together fit the limit.

        Args:
            total: Credits that this part has spent, has in doubt and has reserved.
            limit: Credits of the whole job.
            otherwise: The amount that this part holds if the total does not fit.

        Raises:
            JobError: The server cannot be reached for a minute.
        """
        loop = asyncio.get_running_loop()
        give_up = loop.time() + PATIENCE
        while True:
            try:
                if self._client is None:
                    self._client = clients_of(self._url)[0]
                fits, known = await self._client.eval(
                    HOLD, 1, self._key, self._part, repr(otherwise), repr(total), repr(limit)
                )
                break
            except (RedisError, OSError, TimeoutError) as error:
                reason = " ".join(str(error).split()) or type(error).__name__
                where = f"the budget at {shown(self._url)} cannot be reached: {reason}"
                await self.aclose()
                if loop.time() > give_up:
                    raise JobError(where) from None
                logger.warning("%s; trying again", where)
                await asyncio.sleep(PAUSE)
        self.lost = self.lost or (self._held and not known)
        self._held = True
        return bool(fits)

    async def aclose(self) -> None:
        client, self._client = self._client, None
        if client is not None:
            with suppress(RedisError, OSError):
                await client.aclose(close_connection_pool=True)
