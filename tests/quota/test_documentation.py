"""The example of docs/quota.md, run unchanged."""

from __future__ import annotations

import asyncio
import re
import sys
from pathlib import Path

from tests.raw_server import Connection, answer, raw_server

PAGE = Path(__file__).parents[2] / "docs" / "quota.md"


async def test_the_example_sends_a_hundred_requests_under_the_quota() -> None:
    (example,) = re.findall(r"```python\n(.*?)```", PAGE.read_text(encoding="utf-8"), re.DOTALL)

    async def handle(connection: Connection) -> None:
        while True:
            await connection.head()
            await connection.send(answer(b"page"))

    async with raw_server(handle) as url:
        process = await asyncio.create_subprocess_exec(
            sys.executable, "-c", example, url, stdout=asyncio.subprocess.PIPE
        )
        output, _ = await process.communicate()
    assert process.returncode == 0
    assert output.startswith(b"100 pages;")
    assert b"in_window=100" in output
