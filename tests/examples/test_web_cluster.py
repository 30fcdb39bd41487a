"""The example for several machines: four workers on two addresses share one quota in Redis."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import aiohttp

from stable_async import SharedQuota
from stable_async.quota import Quota, quota_of
from stable_async.quota.shared import RedisQuota
from stable_async.sandbox import SandboxSettings
from stable_async.sandbox.process import start_sandbox
from tests.examples.running import KEY, example
from tests.machines.servers import running
from tests.machines.test_redis import settle

if TYPE_CHECKING:
    from pathlib import Path


async def test_workers_behind_a_balancer_share_one_quota(tmp_path: Path) -> None:
    with running(tmp_path) as redis, start_sandbox(SandboxSettings()) as sandbox:
        quota = quota_of(SharedQuota.redis(redis.url), KEY, sandbox.url)
        assert isinstance(quota, RedisQuota)
        settle(redis, str(quota.name), Quota())
        with example("cluster", sandbox.url, quota_path=redis.url) as url:
            async with aiohttp.ClientSession(headers={"connection": "close"}) as http:

                async def image() -> None:
                    async with http.post(f"{url}/images", json={"prompt": "x"}) as answer:
                        assert answer.status == 200

                with redis.client() as client:
                    asking = 0
                    while asking < 4:  # the system chooses who takes a connection
                        await asyncio.gather(*(image() for _ in range(24)))
                        clients = client.client_list()
                        asking = sum(entry["cmd"] == "evalsha" for entry in clients)
                assert asking == 4
                async with http.get(f"{url}/quota") as answer:
                    assert (await answer.json())["requests"] == 150
