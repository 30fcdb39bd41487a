from __future__ import annotations

from typing import TYPE_CHECKING

import aiohttp
import pytest

from stable_async.sandbox import Sandbox
from tests.sandbox.support import Caller

if TYPE_CHECKING:
    from collections.abc import AsyncIterator


@pytest.fixture
async def sandbox() -> AsyncIterator[Sandbox]:
    """A sandbox that refuses nothing for its quota."""
    async with Sandbox(counting="off") as running:
        yield running


@pytest.fixture
async def caller(sandbox: Sandbox) -> AsyncIterator[Caller]:
    async with aiohttp.ClientSession() as session:
        yield Caller(session, sandbox.url)
