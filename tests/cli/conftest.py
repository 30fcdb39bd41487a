"""A shop, and the command in a process of its own."""

from __future__ import annotations

import asyncio
import os
import sys
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

import pytest

from tests.jobs.shop import Shop

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path


@dataclass(frozen=True)
class Ended:
    """A command that has ended."""

    status: int
    output: str
    errors: str


Command = Callable[..., Awaitable[Ended]]


@pytest.fixture
async def shop() -> AsyncIterator[Shop]:
    async with Shop().open() as shop:
        yield shop


@pytest.fixture
def command(tmp_path: Path) -> Command:
    async def command(*arguments: str, stdin: str = "", key: str | None = "sk-test") -> Ended:
        environment = {**os.environ, "COLUMNS": "100"}
        if key is not None:
            environment["STABILITY_API_KEY"] = key
        process = await asyncio.create_subprocess_exec(
            sys.executable,
            "-W",
            "error",
            "-m",
            "stable_async",
            *arguments,
            cwd=tmp_path,
            env=environment,
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
        )
        output, errors = await process.communicate(stdin.encode())
        assert process.returncode is not None
        return Ended(process.returncode, output.decode(), errors.decode())

    return command
