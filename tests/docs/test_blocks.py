"""Every code block of the README and the documentation runs, or says why it does not."""

from __future__ import annotations

import asyncio
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from stable_async.sandbox import SandboxSettings
from stable_async.sandbox.process import SandboxProcess
from tests.docs.blocks import PAGES, ROOT, Block, blocks_of, run_python

if TYPE_CHECKING:
    from collections.abc import Mapping

WITH_CODE = [page for page in PAGES if blocks_of(page)]


async def run_shell(block: Block, page: Path, environment: Mapping[str, str]) -> None:
    process = await asyncio.create_subprocess_exec(
        *("bash", "-euo", "pipefail", "-c", block.text),
        env=environment,
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
    )
    output, _ = await process.communicate()
    assert process.returncode == 0, f"{page}:{block.line}: {output.decode()}"


@pytest.mark.timeout(180)  # the tutorial makes 200 images under the quota
@pytest.mark.parametrize("page", WITH_CODE, ids=lambda page: str(page.relative_to(ROOT)))
async def test_the_code_of_a_page_runs(
    page: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    async with SandboxProcess(SandboxSettings(latency=0.0)) as sandbox:
        monkeypatch.setenv("STABILITY_API_KEY", "sk-documentation")
        monkeypatch.setenv("STABILITY_BASE_URL", sandbox.url)
        path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
        environment = {**os.environ, "PATH": path, "PYTHONPATH": str(ROOT), "NO_COLOR": "1"}
        names: dict[str, object] = {"__name__": page.stem}
        for block in blocks_of(page):
            if block.language == "python":
                await run_python(block, page, names)
            else:
                await run_shell(block, page, environment)
